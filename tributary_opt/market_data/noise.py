"""How much of a variance is noise: a fast estimate is precise and reads high, a slow one sees through noise and is not.

    fast = V + N + e        fast - slow = D ~ N(N, v)        N = 0, or even on (0, fast), or even on (-less, 0)

V is the variance looked for, N what noise adds to the fast estimate, v the error of the slow one. A test that chooses
one of the two would have the error of neither: here the posterior mean of N is taken off, and what N's posterior leaves
open goes into the error. Far from 0 that is the slow estimate with its error, without any sign of noise the fast one.
N is below 0 where the fast estimate has had noise taken off, and too much of it, as two scales do where prices
alternate.
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

BEYOND = 3.0
"""A slow estimate that is so many errors below 0 stays there: noise of another kind than either knows of. [-]"""

ALTERNATING = 0.3
"""Where the fast estimate has had too much taken off, the slow one is known to that part of the difference: what
alternates does not leave it unharmed either. Simulated with a side that flips, it is off by 0 to 0.3 of it, by 0.6 at
most where the difference is small. [-]"""

_NODES = (np.arange(200) + 0.5) / 200.0


class Paths(NamedTuple):
    """Variances of paths by market day, and the variance of each. [price²], [price⁴]"""

    variance: Floats
    error: Floats


class LessNoise(NamedTuple):
    """The fast estimate with what seems to be noise taken off."""

    paths: Paths
    """By market day; positive when added up, as far as the fast one is and the slow one is not plainly negative."""
    taken: Floats
    """By market, which part of their difference was taken off: 0 leaves the fast, 1 the slow one. [-]"""
    noisy: Floats
    """By market, how likely noise is after all. [-]"""
    undecided: Floats
    """By market, what is open of the weighted sum of variances beside the errors of the days. [price⁴]"""


def less_noise(
    fast: Paths,
    slow: Paths,
    there: NDArray[np.bool_],
    weights: Floats,
    noisy: Floats,
    group: NDArray[np.int64],
    less: Floats | float = 0.0,
    *,
    last: bool = True,
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
    less : ndarray, shape (markets,)
        How far the weighted sum of the fast estimates may be below V, too much having been taken off it. [price²]
    last : bool
        Whether no slower estimate follows, which could say more where this one is negative.
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

        # The posterior of N, its density over that of no noise.
        nodes, density = _even(d, v, [(np.minimum(-less, high), np.minimum(high, 0.0)), (0.0 * high, high)])
        exponent = np.where((v > 0) & (density > 0), (2.0 * d - nodes) * nodes / (2.0 * v), -np.inf)
        # A fast estimate below 0 cannot be the variance: the mean replaces it, though it need not lie between the two.
        none = np.where(high >= 0, 0.0, -np.inf)
        most = np.maximum(np.nan_to_num(exponent, nan=-np.inf).max(axis=0), none)
        mass = noisy / (1.0 - noisy) * np.exp(exponent - most) * density
        # In order: a sum over one market's nodes must be that over many markets'.
        mass, first, second = (np.cumsum(mass * nodes**power, axis=0)[-1] for power in (0, 1, 2))
        everything = mass + np.exp(none - most)
        after = np.nan_to_num(mass / everything)
        mean = np.nan_to_num(first / everything)
        open_ = np.maximum(np.nan_to_num(second / everything) - mean**2, 0.0)
        beyond = d > high + (BEYOND * np.sqrt(v) if last else 0.0)
        mean, open_ = np.where(beyond, d, mean), np.where(beyond, 0.0, open_)
        taken = np.where(d != 0, np.clip(mean / d, 0.0, 1.0), 0.0)
        lift = np.where(high < 0, taken * d - mean, 0.0)
        left = open_ + (mean + lift - taken * d) ** 2 - taken**2 * v
        undecided = np.maximum(left, 0.0) + (ALTERNATING * taken * np.minimum(d, 0.0)) ** 2
        lift = np.where(there, np.nan_to_num(lift / days)[group], 0.0)
    share = taken[group]
    error = (1.0 - share**2) * fast.error + share**2 * slow.error
    return LessNoise(Paths(fast.variance - share * apart + lift, error), taken, after, undecided)


def _even(d: Floats, v: Floats, sides: list[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Nodes by market within either side, up to eight errors from d, and how much of an even density each has; sides
    that are there have as much of it."""
    there = [least < most for least, most in sides]
    nodes, density = [], []
    for (least, most), is_there in zip(sides, there, strict=True):
        middle = np.clip(d, least, most)
        low, up = (np.clip(middle + side * 8.0 * np.sqrt(v), least, most) for side in (-1.0, 1.0))
        share = np.where(is_there, (up - low) / (most - least) / np.sum(there, axis=0), 0.0) / len(_NODES)
        nodes.append(low + (up - low) * _NODES[:, np.newaxis])
        density.append(np.broadcast_to(share, nodes[-1].shape))
    return np.concatenate(nodes), np.concatenate(density)
