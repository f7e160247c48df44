"""When a market trades and moves: shares by hour, used only where they predict a day that they have not seen.

A profile of three days is mostly chance. Every day is predicted from the others, once by the hours' shares, once by
the flat profile of its session; the smaller squared error over the days decides. Weekdays have profiles of their own
where these predict better still: a schedule begins with one session, and that one's weekday is the profile to go by.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tributary_opt.market_data.calendars import trading_calendar
from tributary_opt.market_data.cells import rows_where

Floats = NDArray[np.float64]

MIN_DAYS = 3
"""Fewer days with anything to share out: nothing can be tested, and the flat profile is used. [day]"""


@dataclass(frozen=True)
class Profiles:
    """One row a market."""

    used: NDArray[np.object_]
    """hour_of_week | hour_of_day | flat; None without a day to go by."""
    by_hour: NDArray[np.object_]
    """Shares of hours 0-23 of the calendar's own clock, adding up to 1, whatever the weekday; where the flat profile
    predicts better, that of the longest session."""
    by_week_hour: NDArray[np.object_]
    """Shares of each weekday's hours, Monday's first, 168 in all and each day's adding up to 1; None where not used."""
    error_ratio: Floats
    """Squared error of the day left out under the profile used over that under the flat one, and under the hours of the
    day where that is the one used; NaN below `MIN_DAYS`. [-]"""


def profiles(
    hours: Floats, rows: pd.DataFrame, group: NDArray[np.int64], n: int, noise: Floats | None = None
) -> Profiles:
    """The profile of each market, and how much better than a flat one it is.

    Parameters
    ----------
    hours : ndarray, shape (rows, 24)
        What is shared out: volume or squared moves by hour of the calendar's own clock.
    rows : DataFrame
        Rows of `ac_market_days`, the days: calendar, day, session_start, session_end.
    group : ndarray, shape (rows,)
        Market of each row, from 0 to n - 1.
    noise : ndarray, shape (n,), optional
        Share of a market's `hours` that is noise, the same at every hour of a session, and taken off. [-]
    """
    total = hours.sum(axis=1)
    some = total > 0
    flat = _flat(rows)
    if noise is not None and noise.any():
        off = noise[group] * total
        hours, total = hours - off[:, np.newaxis] * flat, total - off
    share = hours / np.where(some, total, 1.0)[:, np.newaxis]

    def error_of(predicted: Floats, tested: NDArray[np.bool_]) -> Floats:
        squared = np.where(tested, ((share - predicted) ** 2).sum(axis=1), 0.0)
        return np.bincount(group, weights=squared, minlength=n).astype(float)

    days = np.bincount(group, weights=some, minlength=n)
    by_day, sums = _without(hours, group, n)
    tested = some & (days[group] >= MIN_DAYS)
    of_hours, of_flat = error_of(by_day, tested), error_of(flat, tested)

    weekday = group * 7 + rows["day"].dt.day_of_week.to_numpy()
    weekdays = np.bincount(weekday, weights=some, minlength=7 * n)
    by_weekday, week_sums = _without(hours, weekday, 7 * n)
    # Every day that traded must have had others of its weekday, or the two errors are of different days.
    whole = np.bincount(group, weights=some & (weekdays[weekday] < MIN_DAYS), minlength=n) == 0
    of_week = error_of(by_weekday, tested)
    weekly = whole & (days >= MIN_DAYS) & (of_week < np.minimum(of_hours, of_flat))

    used = np.where(weekly, "hour_of_week", np.where(of_hours < of_flat, "hour_of_day", "flat")).astype(object)
    used[days == 0] = None
    # Of the longest session: of a half-day's, the hours that it lacks would have nothing on the days to come.
    longest = np.zeros((n, 24))
    length = (rows["session_end"] - rows["session_start"]).dt.total_seconds().fillna(0.0).to_numpy()
    by_length = length.argsort(kind="stable")
    longest[group[by_length]] = flat[by_length]  # the last one stays: of the longest the newest
    by_hour = np.where((of_hours < of_flat)[:, np.newaxis], _shares(sums), longest)
    by_week = _shares(week_sums).reshape(n, 168)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((days >= MIN_DAYS) & (of_flat > 0), np.where(weekly, of_week, of_hours) / of_flat, np.nan)
    return Profiles(
        used=used,
        by_hour=rows_where(days > 0, by_hour),
        by_week_hour=rows_where(weekly, by_week),
        error_ratio=ratio,
    )


def of_next_session(statistics: pd.DataFrame, as_of: date) -> pd.DataFrame:
    """`statistics` with the profiles that schedules from the first session after `as_of` go by.

    `volume_profile` and `variance_profile` of a market whose weekdays have profiles of their own become those of that
    session's weekday; the others stay, and so do those whose window has nothing on that weekday.
    """
    coming = {code: trading_calendar(code).sessions_after(as_of, 1) for code in set(statistics["calendar"])}
    weekday = {code: sessions[0].day.weekday() for code, sessions in coming.items() if sessions}
    day = statistics["calendar"].map(weekday).to_numpy(dtype=float)
    out = statistics.copy()
    for what in ("volume", "variance"):
        week = statistics[f"{what}_profile_week"]
        has = np.flatnonzero(week.notna().to_numpy() & np.isfinite(day))
        if len(has):
            shares = np.stack(week.iloc[has].tolist()).reshape(-1, 7, 24)[np.arange(len(has)), day[has].astype(int)]
            some = shares.sum(axis=1) > 0
            hours = statistics[f"{what}_profile"].to_numpy(dtype=object, copy=True)
            hours[has[some]] = list(shares[some])
            out[f"{what}_profile"] = hours
    return out


def _without(hours: Floats, group: NDArray[np.int64], n: int) -> tuple[Floats, Floats]:
    """Shares by hour of each row's group without the row itself, and the sums of the groups."""
    sums = np.stack([np.bincount(group, weights=hours[:, h], minlength=n) for h in range(24)], axis=1)
    return _shares(np.maximum(sums[group] - hours, 0.0)), np.maximum(sums, 0.0)


def _shares(sums: Floats) -> Floats:
    total = sums.sum(axis=-1, keepdims=True)
    return np.asarray(sums / np.where(total > 0, total, 1.0))


def _flat(rows: pd.DataFrame) -> Floats:
    """What each hour of the clock has of a row's session; the whole clock where there was no session."""
    out = np.full((len(rows), 24), 1.0 / 24.0)
    for _, part in rows.groupby(["calendar", "session_start", "session_end"], sort=False):
        start, end = (pd.Timestamp(part[name].iloc[0]).tz_localize(None) for name in ("session_start", "session_end"))
        minutes = pd.date_range(start, end, freq="min", inclusive="left").to_numpy()
        hour = trading_calendar(str(part["calendar"].iloc[0])).hour_of_day(minutes)
        of_hour = np.bincount(hour, minlength=24)
        out[rows.index.get_indexer(part.index)] = of_hour / of_hour.sum()
    return out
