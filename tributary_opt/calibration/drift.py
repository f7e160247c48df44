"""What moved since the release before, and whether by more than chance."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tributary_opt import schema


def with_drift(now: pd.DataFrame, before: pd.DataFrame, half_life_days: float | None = None) -> pd.DataFrame:
    """`now` with `*_drift_z` of each market that both releases calibrated by the same method; NaN elsewhere.

    z = log(now / before) / (s √(2f)), with s the standard error of the logarithm that the tape leaves (the prior's
    width is common to both and cancels) and f the share of it that is new: two means over n days that share all but k
    differ by 2k/n² of a day's variance, f = k/n. With a half-life the days that they share weigh less in the newer one,
    which adds to f.

    Parameters
    ----------
    now : DataFrame
        Rows of `ac_parameters` less as_of and run_id.
    before : DataFrame
        Rows of `ac_parameters` of the release before.
    half_life_days : float, optional
        Age at which a day counted for half in both. None: all days counted the same. [day]
    """
    key = ["market_id", "token_id"]
    names = [*schema.PARAMETER_DRIFTS, "status", "method", "window_end"]
    # An older release may lack a column, a re-read one the empty token's name.
    then = before.assign(token_id=before["token_id"].fillna(""))[key + names].drop_duplicates(key)
    old = now[key].assign(token_id=now["token_id"].fillna("")).merge(then, on=key, how="left")
    both = ((now["status"] == "ok").to_numpy() & (old["status"] == "ok").to_numpy()) & (
        now["method"].to_numpy() == old["method"].to_numpy()
    )
    gap = pd.to_datetime(now["window_end"], utc=True).array - pd.to_datetime(old["window_end"], utc=True).array
    days = pd.Series(gap).dt.total_seconds().to_numpy() / 86_400.0
    with np.errstate(divide="ignore", invalid="ignore"):
        fresh = _share_new(now["n_days"].to_numpy(dtype=float), days, half_life_days)
        out = now.copy()
        for name in schema.PARAMETER_DRIFTS:
            new, past = now[name].to_numpy(dtype=float), old[name].to_numpy(dtype=float)
            known = both & (new > 0) & (past > 0)
            change = np.log(np.where(known, new, 1.0)) - np.log(np.where(known, past, 1.0))
            s = now[f"{name}_se"].to_numpy(dtype=float) / new * np.sqrt(2.0 * fresh)
            out[f"{name}_drift_z"] = np.where(known & (s > 0), change / s, np.nan)
    return out


def _share_new(n: np.ndarray, k: np.ndarray, half_life_days: float | None) -> np.ndarray:
    """Variance of the difference of two weighted means k days apart over twice that of either; n days each, r^age."""
    k = np.clip(k, 0.0, n)
    if half_life_days is None:
        return np.asarray(k / n)
    r = 0.5 ** (1.0 / half_life_days)

    def squares(m: np.ndarray) -> np.ndarray:  # Σ r^(2j) over the first m days, times 1 - r²
        return np.asarray(-np.expm1(2.0 * m * np.log(r)))

    new, shared, gone = squares(k), (1.0 - r**k) ** 2 * squares(n - k), r ** (2.0 * (n - k)) * squares(k)
    return np.asarray((new + shared + gone) / (2.0 * squares(n)))
