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

    z = log(now / before) / (s √f), with s the standard error of the logarithm that the tape leaves (the prior's
    width is common to both and cancels) and f the variance of the change over that of the newer number: of two
    weighted means over trading days, f = Σ(a - b)² / Σa² with their weights a and b, each adding up to 1. Without a
    half-life two windows of n days that share all but k have f = 2k/n.

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
    names = [*schema.PARAMETER_DRIFTS, "status", "method", "window_end", "n_days"]
    # An older release may lack a column, a re-read one the empty token's name.
    then = before.assign(token_id=before["token_id"].fillna(""))[key + names].drop_duplicates(key)
    old = now[key].assign(token_id=now["token_id"].fillna("")).merge(then, on=key, how="left")
    both = ((now["status"] == "ok").to_numpy() & (old["status"] == "ok").to_numpy()) & (
        now["method"].to_numpy() == old["method"].to_numpy()
    )
    fresh = _share_new(now, old, both, last_days, half_life_days)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = now.copy()
        for name in schema.PARAMETER_DRIFTS:
            new, past = now[name].to_numpy(dtype=float), old[name].to_numpy(dtype=float)
            known = both & (new > 0) & (past > 0)
            change = np.log(np.where(known, new, 1.0)) - np.log(np.where(known, past, 1.0))
            s = now[f"{name}_se"].to_numpy(dtype=float) / new * np.sqrt(fresh)
            out[f"{name}_drift_z"] = np.where(known & (s > 0), change / s, np.nan)
    return out


def _share_new(
    now: pd.DataFrame,
    old: pd.DataFrame,
    both: np.ndarray,
    last_days: Callable[[str, date, int], list[date]],
    half_life_days: float | None,
) -> np.ndarray:
    """Variance of the change of a mean over that of the newer one; NaN for markets of one release only."""
    windows = pd.DataFrame(
        {
            "calendar": now["calendar"].to_numpy(dtype=object),
            "end": pd.to_datetime(now["window_end"], utc=True).dt.date.to_numpy(),
            "end_before": pd.to_datetime(old["window_end"], utc=True).dt.date.to_numpy(),
            "n": now["n_days"].to_numpy(dtype=float),
            "n_before": old["n_days"].fillna(now["n_days"].reset_index(drop=True)).to_numpy(dtype=float),
        }
    )
    out = np.full(len(now), np.nan)
    # As many windows as there are calendars and days of a first trade or a jump.
    for _, part in windows[both].groupby(list(windows), sort=False):
        code, end, end_before, n, n_before = part.iloc[0]
        newer, older = _days(last_days(code, end, int(n))), _days(last_days(code, end_before, int(n_before)))
        every = np.union1d(newer, older)
        a, b = (_weights(days, every, half_life_days) for days in (newer, older))
        out[part.index] = ((a - b) ** 2).sum() / (a**2).sum()
    return out


def _weights(days: np.ndarray, every: np.ndarray, half_life_days: float | None) -> np.ndarray:
    """Weights of some days in their mean, at their places among `every` day."""
    age = (days[-1] - days).astype(float)
    weight = np.ones(len(days)) if half_life_days is None else 0.5 ** (age / half_life_days)
    out = np.zeros(len(every))
    out[np.searchsorted(every, days)] = weight / weight.sum()
    return out


def _days(days: list[date]) -> np.ndarray:
    return np.array(days, dtype="datetime64[D]")
