"""Statistics of a window: market days added up to one row a market.

Average daily volume counts every trading day of the window, those without a trade included. Volatility is within
sessions, per √trading day; the move between sessions stands beside it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from tributary_opt.market_data.calendars import ALWAYS_OPEN
from tributary_opt.market_data.market_days import Window


def window_statistics(rows: pd.DataFrame, window: Window) -> pd.DataFrame:
    """One row for every market with a row in the window.

    Parameters
    ----------
    rows : DataFrame
        Rows of `ac_market_days`, sorted by market, token and day, as `MarketDays.load` gives them.
    window : Window

    Returns
    -------
    DataFrame
        market_id, token_id and the statistics that `ac_parameters` names (units there), and `days_since_newest`:
        trading days between the newest source row and `as_of`. What cannot be measured is NaN. It does not depend on
        which other markets there are.
    """
    first = _starts(rows)
    group = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(rows))))
    last = np.append(first[1:], len(rows)) - 1 if len(rows) else first

    def total(name: str) -> np.ndarray:
        return _sums(group, rows[name].to_numpy(dtype=float), len(first))

    def count(name: str) -> np.ndarray:
        return total(name).astype(np.int64)

    def newest(name: str) -> np.ndarray:
        return _newest(_plain(rows[name]), group, len(first))

    calendar = rows["calendar"].to_numpy()[last]
    n_days = np.array([len(window.days.get(code, ())) for code in calendar], dtype=np.int64)
    volume = rows["volume"].to_numpy(dtype=float)
    adv = total("volume") / np.maximum(n_days, 1)
    # Days without a row are days without a trade: they count in the variance as in the mean.
    spread_of_days = _sums(group, (volume - adv[group]) ** 2, len(first))
    n_rows = np.bincount(group, minlength=len(first))
    spread_of_days += np.maximum(n_days - n_rows, 0) * adv**2
    n_snapshots, n_two_sided = total("n_snapshots"), total("n_two_sided")
    variance, n_quoted, quarticity, overnight = _mid_moves(rows, group, len(first), window)
    n_trades, n_bars, n_traded_days = (
        total("n_trades"),
        total("n_trade_bars"),
        _days_with(rows, "n_trades", group, len(first)),
    )

    last_trade, last_snapshot = newest("last_trade_at"), newest("last_snapshot_at")
    seen = ((rows["n_trades"] > 0) | (rows["n_bad_trades"] > 0) | (rows["n_snapshots"] > 0)).to_numpy()
    newest_day = _newest(_plain(rows["day"].where(seen)), group, len(first))
    with np.errstate(divide="ignore", invalid="ignore"):
        return pd.DataFrame(
            {
                "market_id": rows["market_id"].to_numpy()[last],
                "token_id": rows["token_id"].to_numpy()[last],
                "calendar": calendar,
                "day_hours": (rows["session_end"] - rows["session_start"]).dt.total_seconds().to_numpy()[last] / 3600.0,
                "window_start": _utc([_first_day(window, code) for code in calendar]),
                "window_end": _utc([_last_day(window, code) for code in calendar]),
                "n_days": n_days.astype(np.int32),
                "n_days_traded": n_traded_days.astype(np.int32),
                "n_days_quoted": n_quoted.astype(np.int32),
                "days_since_newest": _days_since(newest_day, calendar, window),
                "n_trades": count("n_trades"),
                "n_bad_trades": count("n_bad_trades"),
                "n_snapshots": count("n_snapshots"),
                "two_sided_share": n_two_sided / n_snapshots,
                "one_sided_share": total("n_one_sided") / n_snapshots,
                "crossed_share": total("n_crossed") / n_snapshots,
                "empty_share": total("n_empty") / n_snapshots,
                "signed_share": (total("buy_volume") + total("sell_volume")) / total("volume"),
                "side_method": _side_method(total("n_signed"), total("n_quote_rule"), total("n_tick_rule")),
                "inferred_share": (total("n_quote_rule") + total("n_tick_rule")) / n_trades,
                "coverage": total("n_mid_buckets") / _session_buckets(rows, group, len(first), n_days),
                "active_hours": count("active_hours").astype(np.int32),
                "last_trade_at": _utc(last_trade),
                "last_snapshot_at": _utc(last_snapshot),
                "adv": adv,
                "adv_se": np.where(n_days > 1, np.sqrt(spread_of_days / np.maximum(n_days - 1, 1) / n_days), np.nan),
                "price": newest("last_mid"),
                "last_trade_price": newest("close_price"),
                "spread": total("spread_seconds") / total("quoted_seconds"),
                "mean_spread": total("spread_sum") / n_two_sided,
                "mean_mid": total("mid_sum") / n_two_sided,
                "sigma": np.sqrt(variance / n_quoted),
                # Var(RV) ≈ (2/3) Σ r⁴ (Barndorff-Nielsen & Shephard 2002); the square root by the delta method.
                "sigma_se": np.sqrt(2.0 / 3.0 * quarticity) / (2.0 * np.sqrt(variance * n_quoted)),
                "sigma_parkinson": np.sqrt(total("parkinson_variance") / n_traded_days),
                "sigma_garman_klass": np.sqrt(np.maximum(total("garman_klass_variance"), 0.0) / n_traded_days),
                "trades_per_bar": n_trades / n_bars,
                "overnight_sd": overnight,
                "volume_profile": _profile(rows["volume_by_hour"], group, len(first)),
                "variance_profile": _profile(rows["variance_by_hour"], group, len(first)),
            }
        )


def _side_method(n_signed: np.ndarray, n_quote_rule: np.ndarray, n_tick_rule: np.ndarray) -> np.ndarray:
    """How each market's aggressors are known; None where none is."""
    n_given = n_signed - n_quote_rule - n_tick_rule
    inferred = np.where(n_quote_rule > 0, "quote_rule", "tick_rule").astype(object)
    method = np.where(n_given == n_signed, "given", np.where(n_given > 0, "mixed", inferred)).astype(object)
    method[n_signed == 0] = None
    return method


def _sums(group: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Sum by group, always as doubles: bincount of nothing gives integers, whatever its weights."""
    return np.bincount(group, weights=values, minlength=n).astype(float, copy=False)


def _starts(rows: pd.DataFrame) -> np.ndarray:
    """Place of each market's first row."""
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    market, token = rows["market_id"].to_numpy(), rows["token_id"].to_numpy()
    return np.flatnonzero(np.append(True, (market[1:] != market[:-1]) | (token[1:] != token[:-1])))


def _mid_moves(
    rows: pd.DataFrame, group: np.ndarray, n: int, window: Window
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Σ of squared moves within sessions, days that have one, Σ of fourth powers, and the rms move between sessions."""
    rv = rows["realised_variance"].to_numpy(dtype=float)
    rq = rows["realised_quarticity"].to_numpy(dtype=float)
    quoted = rows["n_mid_buckets"].to_numpy() > 1
    variance = _sums(group, np.where(quoted, rv, 0.0), n)
    quarticity = _sums(group, np.where(quoted, rq, 0.0), n)
    n_quoted = _sums(group, quoted, n)

    # From the last mid of a trading day to the first of the next, where neither day is missing in between.
    gap = rows["first_mid"].to_numpy(dtype=float)[1:] - rows["last_mid"].to_numpy(dtype=float)[:-1]
    place = _place_in_window(rows, window)
    neighbours = (group[1:] == group[:-1]) & (np.diff(place) == 1) & np.isfinite(gap)
    squared = np.where(neighbours, gap, 0.0) ** 2
    between = _sums(group[1:], squared, n)
    n_gaps = _sums(group[1:], neighbours, n)

    # Around the clock there is no night: the move into a day's first bucket is one more 5-minute move of the session.
    always = (rows["calendar"].to_numpy() == ALWAYS_OPEN)[1:] & quoted[1:]
    variance += _sums(group[1:], np.where(always, squared, 0.0), n)
    quarticity += _sums(group[1:], np.where(always, squared**2, 0.0), n)
    with np.errstate(divide="ignore", invalid="ignore"):
        return variance, n_quoted, quarticity, np.sqrt(between / n_gaps)


def _place_in_window(rows: pd.DataFrame, window: Window) -> np.ndarray:
    """Which trading day of its calendar each row is."""
    days = _plain(rows["day"]).astype("datetime64[D]")
    place = np.zeros(len(rows), dtype=np.int64)
    for code, of_calendar in window.days.items():
        mine = (rows["calendar"] == code).to_numpy()
        place[mine] = np.searchsorted(np.array(of_calendar, dtype="datetime64[D]"), days[mine])
    return place


def _days_since(newest: np.ndarray, calendar: np.ndarray, window: Window) -> np.ndarray:
    """Trading days from the newest row to the window's end; the window's length where there is no row."""
    days = newest.astype("datetime64[D]")
    since = np.zeros(len(days), dtype=np.int64)
    for code, of_calendar in window.days.items():
        mine = calendar == code
        place = np.searchsorted(np.array(of_calendar, dtype="datetime64[D]"), days[mine])
        since[mine] = len(of_calendar) - 1 - place
        since[mine & np.isnat(days)] = len(of_calendar)
    return since


def _session_buckets(rows: pd.DataFrame, group: np.ndarray, n: int, n_days: np.ndarray) -> np.ndarray:
    """5-minute buckets in the window: a day without a row is as long as the market's other days."""
    buckets = _sums(group, rows["n_buckets"].to_numpy(dtype=float), n)
    return np.asarray(buckets / np.maximum(np.bincount(group, minlength=n), 1) * n_days)


def _days_with(rows: pd.DataFrame, name: str, group: np.ndarray, n: int) -> np.ndarray:
    return _sums(group, rows[name].to_numpy() > 0, n)


def _plain(values: pd.Series) -> np.ndarray:
    """Numbers as floats, times as datetime64[us] in UTC."""
    return np.asarray(values.to_numpy(dtype="datetime64[us]" if values.dtype.kind == "M" else float))


def _newest(values: np.ndarray, group: np.ndarray, n: int) -> np.ndarray:
    """The last value of each market that is not missing."""
    missing = np.isnat(values) if values.dtype.kind == "M" else np.isnan(values)
    out = np.full(n, np.datetime64("NaT") if values.dtype.kind == "M" else np.nan, dtype=values.dtype)
    out[group[~missing]] = values[~missing]  # rows are in the order of days: the last assignment stays
    return out


def _profile(arrays: pd.Series, group: np.ndarray, n: int) -> list[np.ndarray | None]:
    """Hourly sums over the window as shares of their total; None where the total is 0."""
    if not len(arrays):
        return []
    hours = np.stack([np.zeros(24) if a is None else a for a in arrays])
    sums = np.stack([_sums(group, hours[:, h], n) for h in range(24)], axis=1)
    totals = sums.sum(axis=1, keepdims=True)
    shares = sums / np.where(totals > 0, totals, 1.0)
    return [share if has else None for share, has in zip(shares, totals[:, 0] > 0, strict=True)]


def _first_day(window: Window, code: str) -> np.datetime64:
    return np.datetime64(window.days[code][0], "us")


def _last_day(window: Window, code: str) -> np.datetime64:
    return np.datetime64(window.days[code][-1], "us")


def _utc(values: object) -> pd.DatetimeIndex:
    stamps = pd.DatetimeIndex(np.asarray(values, dtype="datetime64[us]"))
    return stamps.tz_localize("UTC")
