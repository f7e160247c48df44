"""What moved since the release before, and whether by more than chance."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import pandas as pd

from tributary_opt import schema


def with_drift(
    now: pd.DataFrame,
    before: pd.DataFrame,
    last_days: Callable[[str, date, int], list[date]],
    half_life_days: float | None = None,
) -> pd.DataFrame:
    """`now` with `*_drift_z` of each market that both releases calibrated by the same method; NaN elsewhere.

    z = log(now / before) / s, with s the standard error of the change that the tape leaves (the prior's width is common
    to both and cancels). Both are weighted means over trading days: s² = Σ(a - b)² · max(s_now² / Σa², s_before² / Σb²)
    with their weights a and b, each adding up to 1, and the standard errors of their logarithms. Without a half-life
    two windows of n days that share all but k have Σ(a - b)² / Σa² = 2k/n. The larger of the two: a day unlike all
    others is in one window only, and its leaving must not be judged by the days that are left.

    The z of epsilon is that of the half-spread: the taker fee in it is reference data, and goes with the price.

    Parameters
    ----------
    now : DataFrame
        Rows of `ac_parameters` less as_of and run_id.
    before : DataFrame
        Rows of `ac_parameters` of the release before.
    last_days : callable
        The newest n trading days up to a date by a calendar's code, as `TradingCalendar.last_days` gives them.
    half_life_days : float, optional
        Age at which a day counted for half in both. None: all days counted the same. [day]
    """
    key = ["market_id", "token_id"]
    columns = {name: "spread" if name == "epsilon" else name for name in schema.PARAMETER_DRIFTS}
    measured = [*columns.values(), *(f"{column}_se" for column in columns.values())]
    # An older release may lack a column, a re-read one the empty token's name.
    then = before.assign(token_id=before["token_id"].fillna("")).drop_duplicates(key)
    then = then[[*key, *measured, "status", "method", "window_end", "n_days"]]
    old = now[key].assign(token_id=now["token_id"].fillna("")).merge(then, on=key, how="left")
    both = ((now["status"] == "ok").to_numpy() & (old["status"] == "ok").to_numpy()) & (
        now["method"].to_numpy() == old["method"].to_numpy()
    )
    of_newer, of_older = _shares_changed(now, old, both, last_days, half_life_days)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = now.copy()
        for name, column in columns.items():
            new, past = now[column].to_numpy(dtype=float), old[column].to_numpy(dtype=float)
            new_se, past_se = (of[f"{column}_se"].to_numpy(dtype=float) for of in (now, old))
            known = both & (new > 0) & (past > 0)
            change = np.log(np.where(known, new, 1.0)) - np.log(np.where(known, past, 1.0))
            s, s_past = new_se / new * np.sqrt(of_newer), past_se / past * np.sqrt(of_older)
            s = np.where(s_past > s, s_past, s)  # an older release may not have known its error
            out[f"{name}_drift_z"] = np.where(known & (s > 0), change / s, np.nan)
    return out


def _shares_changed(
    now: pd.DataFrame,
    old: pd.DataFrame,
    both: np.ndarray,
    last_days: Callable[[str, date, int], list[date]],
    half_life_days: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Variance of the change of a mean over that of the newer and of the older one; NaN for markets of one release."""
    windows = pd.DataFrame(
        {
            "calendar": now["calendar"].to_numpy(dtype=object),
            "end": pd.to_datetime(now["window_end"], utc=True).dt.date.to_numpy(),
            "end_before": pd.to_datetime(old["window_end"], utc=True).dt.date.to_numpy(),
            "n": now["n_days"].to_numpy(dtype=float),
            "n_before": old["n_days"].fillna(now["n_days"].reset_index(drop=True)).to_numpy(dtype=float),
        }
    )
    of_newer, of_older = np.full(len(now), np.nan), np.full(len(now), np.nan)
    # As many windows as there are calendars and days of a first trade or a jump.
    for _, part in windows[both].groupby(list(windows), sort=False):
        code, end, end_before, n, n_before = part.iloc[0]
        newer, older = _days(last_days(code, end, int(n))), _days(last_days(code, end_before, int(n_before)))
        every = np.union1d(newer, older)
        a, b = (_weights(days, every, half_life_days) for days in (newer, older))
        changed = ((a - b) ** 2).sum()
        of_newer[part.index], of_older[part.index] = changed / (a**2).sum(), changed / (b**2).sum()
    return of_newer, of_older


def _weights(days: np.ndarray, every: np.ndarray, half_life_days: float | None) -> np.ndarray:
    """Weights of some days in their mean, at their places among `every` day."""
    age = (days[-1] - days).astype(float)
    weight = np.ones(len(days)) if half_life_days is None else 0.5 ** (age / half_life_days)
    out = np.zeros(len(every))
    out[np.searchsorted(every, days)] = weight / weight.sum()
    return out


def _days(days: list[date]) -> np.ndarray:
    return np.array(days, dtype="datetime64[D]")
