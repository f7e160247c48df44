"""Profiles by hour as weights of a schedule's slices.

A profile holds shares of a day's volume (or variance) by hour 0-23 of the calendar's own clock, or 24 such shares for
each weekday, Monday's first. A schedule begins with
the first session after `as_of`; where a session cuts an hour (09:30), the hour's share belongs to the part inside, and
hours outside the session count for nothing. Within an hour the rate is constant.
"""

from __future__ import annotations

from datetime import date

import numpy as np

from tributary_opt.market_data.calendars import Session, trading_calendar

_QUARTER_US = 15 * 60 * 1_000_000  # the clocks of the world differ by quarters of an hour


def slice_weights(
    calendar: str, as_of: date, hours: np.ndarray, horizons: np.ndarray, n_steps: int, *, begin: float = 0.0
) -> np.ndarray:
    """Share of a trading day's volume, or variance, in each slice of schedules that begin after `as_of`.

    The integral of the profile over each slice: exact to rounding, exactly 0 where the profile is 0 throughout.

    Parameters
    ----------
    calendar : str
        24/7 or an exchange's code.
    as_of : date
        The schedules begin with the first session after it.
    hours : ndarray, shape (M, 24) or (M, 168)
        Shares >= 0 by hour of the calendar's own clock, the same every day or each weekday's own. [-]
    horizons : ndarray, shape (M,)
        T > 0. [trading day]
    n_steps : int
        Slices of equal length. [-]
    begin : float
        How much of the first session is over when the schedules begin, 0 <= begin < 1. [trading day]

    Returns
    -------
    ndarray, shape (M, n_steps)
        In trading days' worth: a horizon of one day adds up to 1, of two to 2. NaN for a market whose profile is 0 in
        all hours of a session. A row does not depend on the others, to the last bit. [-]
    """
    code = trading_calendar(calendar)
    sessions = code.sessions_after(as_of, max(1, int(np.ceil(begin + horizons.max(initial=0.0)))))
    knots, rates = [], []
    for i, session in enumerate(sessions):
        at, hour = session_hours(calendar, session)
        length = np.diff(at)
        weekday = 0 if hours.shape[1] == 24 else session.day.weekday()
        share = hours[:, 24 * weekday + hour] * (length / np.bincount(hour, weights=length, minlength=24)[hour])
        total = np.zeros(len(hours))
        for column in share.T:  # one after the other, in an order of its own for no market
            total = total + column
        with np.errstate(divide="ignore", invalid="ignore"):
            rates.append(share / (total[:, np.newaxis] * (length / at[-1])))
        # As one quotient of integers, so that a knot and the edge of a slice at the same instant are the same double.
        knots.append((i * at[-1] + at[:-1]) / at[-1])
    start = np.concatenate(knots)
    end = np.append(start[1:], float(len(sessions)))
    rate = np.concatenate(rates, axis=1)
    whole = rate * (end - start)
    before = np.zeros((len(hours), len(start) + 1))
    np.cumsum(whole, axis=1, out=before[:, 1:])

    edges = begin + horizons[:, np.newaxis] * np.arange(n_steps + 1) / n_steps
    left, right = edges[:, :-1], edges[:, 1:]
    first = np.clip(np.searchsorted(start, left, side="right") - 1, 0, len(start) - 1)
    last = np.clip(np.searchsorted(start, right, side="left") - 1, first, len(start) - 1)

    def of(values: np.ndarray, piece: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, piece, axis=1)

    # Added up from its parts: a difference of cumulated shares would leave rounding where nothing trades.
    inside = of(rate, first) * (np.minimum(right, end[first]) - left)
    later = of(rate, last) * (right - np.maximum(left, start[last]))
    between = np.maximum(of(before, last) - of(before, np.minimum(first + 1, last)), 0.0)
    return np.asarray(np.where(first == last, inside, inside + between + later))


def with_weekdays(hours: np.ndarray, week: np.ndarray) -> np.ndarray:
    """Shares of each weekday's hours, shape (M, 168): those of `week`, and of `hours` on weekdays that it has none of.

    Parameters
    ----------
    hours : ndarray, shape (M, 24)
    week : ndarray, shape (M, 168)
    """
    by_day = week.reshape(-1, 7, 24)
    filled = np.where(by_day.sum(axis=2, keepdims=True) > 0, by_day, hours[:, np.newaxis, :])
    return filled.reshape(-1, 168)


def session_hours(calendar: str, session: Session) -> tuple[np.ndarray, np.ndarray]:
    """Where each hour of the calendar's clock begins and ends in a session, from its start [µs], and which it is."""
    ends = np.array([session.start.replace(tzinfo=None), session.end.replace(tzinfo=None)], dtype="datetime64[us]")
    first, last = ends.astype(np.int64)
    quarters = np.arange(-(-first // _QUARTER_US) * _QUARTER_US, last, _QUARTER_US)
    at = np.unique(np.append(first, quarters))
    hour = trading_calendar(calendar).hour_of_day(at.astype("datetime64[us]"))
    changes = np.flatnonzero(np.diff(hour, prepend=-1))
    return np.append(at[changes], last) - first, hour[changes]
