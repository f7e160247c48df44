"""How much of a variance is noise: a fast estimate is precise and reads high, a slow one sees through noise and is not.

    fast = V + N + e        fast - slow = D ~ N(N, v)        N = 0, or even on (0, fast)

V is the variance looked for, N what noise adds to the fast estimate, v the error of the slow one. A test that chooses
one of the two would have the error of neither: here the posterior mean of N is taken off, and what N's posterior leaves
open goes into the error. Far from 0 that is the slow estimate with its error, without any sign of noise the fast one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NOISY = {"price": 0.5, "probability": 0.8}
"""How likely noise is before anything was seen. Recorded mids of stocks and coins have hardly any (the variance of
30-minute moves is 0.8 to 1.0 of that of 5-minute ones), those of most prediction markets a lot (0.57). [-]"""

MIN_DAYS = 8
"""Fewer days say too little about how days scatter. [day]"""

_NODES = (np.arange(200) + 0.5) / 200.0


class Paths(NamedTuple):
    """Variances of paths by market day, and the variance of each. [price²], [price⁴]"""

    variance: Floats
    error: Floats


class LessNoise(NamedTuple):
    """The fast estimate with what seems to be noise taken off."""

    paths: Paths
    """By market day; positive when added up, as far as the fast one is."""
    taken: Floats
    """By market, which part of their difference was taken off: 0 leaves the fast, 1 the slow one. [-]"""
    noise: Floats
    """By market, what was taken off over the fast estimate. [-]"""
    noisy: Floats
    """By market, how likely noise is after all. [-]"""
    undecided: Floats
    """By market, what is open beside the errors of the days, over the variance: a variance of its logarithm. [-]"""


def less_noise(
    fast: Paths, slow: Paths, there: NDArray[np.bool_], weights: Floats, noisy: Floats, group: NDArray[np.int64]
) -> LessNoise:
    """The two estimates as one.

    Parameters
    ----------
    fast, slow : Paths, shape (rows,)
        Where a day has no slow estimate, the fast one twice.
    there, weights : ndarray, shape (rows,)
        Whether a day has a slow estimate, and what it counts for. [-]
    noisy : ndarray, shape (markets,)
        How likely noise is a priori. [-]
    group : ndarray of int, shape (rows,)
        The market of each row.
    """

    def total(values: Floats) -> Floats:
        return np.bincount(group, weights=values, minlength=len(noisy)).astype(float, copy=False)

    apart = fast.variance - slow.variance
    high, d = total(weights * fast.variance), total(weights * apart)
    with np.errstate(divide="ignore", invalid="ignore"):
        v = total(np.where(there, weights**2 * slow.error, 0.0))
        n, days = total(there.astype(float)), total(np.where(there, weights, 0.0))
        scatter = total(np.where(there, weights * (apart - np.nan_to_num(d / days)[group]), 0.0) ** 2) * n / (n - 1.0)
        v = np.where(n >= MIN_DAYS, np.fmax(v, scatter), v)

        # The posterior of N, its density over that of no noise; up to eight errors from d, within (0, fast).
        low, up = (np.clip(d + side * 8.0 * np.sqrt(v), 0.0, high) for side in (-1.0, 1.0))
        nodes = low + (up - low) * _NODES[:, np.newaxis]
        exponent = np.where(v > 0, (2.0 * d - nodes) * nodes / (2.0 * v), -np.inf)
        most = np.maximum(np.nan_to_num(exponent, nan=-np.inf).max(axis=0), 0.0)
        mass = noisy / (1.0 - noisy) * np.exp(exponent - most) * (up - low) / high / len(_NODES)
        # In order: a sum over one market's nodes must be that over many markets'.
        mass, first, second = (np.cumsum(mass * nodes**power, axis=0)[-1] for power in (0, 1, 2))
        everything = mass + np.exp(-most)
        after = np.nan_to_num(mass / everything)
        mean = np.nan_to_num(first / everything)
        open_ = np.maximum(np.nan_to_num(second / everything) - mean**2, 0.0)
        taken = np.where(d > 0, np.clip(mean / d, 0.0, 1.0), 0.0)
        left = open_ + (mean - taken * d) ** 2 - taken**2 * v
        undecided = np.where(left > 0, left / (high - taken * d) ** 2, 0.0)
        noise = np.where(high > 0, taken * d / high, 0.0)
    share = taken[group]
    error = (1.0 - share**2) * fast.error + share**2 * slow.error
    return LessNoise(Paths(fast.variance - share * apart, error), taken, noise, after, undecided)
