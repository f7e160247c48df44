"""The spread without a book, from bars of trades, vectorised over arrays of shape (…, bar).

What is measured on a market, in this order: the time-weighted quoted spread, the effective spread of signed trades,
EDGE, Roll. The first needs two-sided books, the second a mid before some trades; these are the other two.

Both give the *square* of the spread with its sign: below 0 by chance where there is little to measure. Add up days
first, and only then take the root of what is positive: the mean of floored estimates reads high.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def edge_squared(open_: ArrayLike, high: ArrayLike, low: ArrayLike, close: ArrayLike) -> Floats:
    """Squared spread from open, high, low and close, by the efficient estimator EDGE.

    Parameters
    ----------
    open_, high, low, close : array_like, shape (…, bar)
        Bars of trades on a regular grid, NaN where nothing traded. Prices give the spread in price; their logarithms
        give it as a share of the price, as in the paper. [price] or [-]

    Returns
    -------
    ndarray, shape (…)
        s² with its sign; NaN below three bars, where fewer than two bars moved, and where every open or every close is
        at an end of its bar's range or none is. [price²] or [-]

    References
    ----------
    Ardia, Guidotti & Kroencke (2024), "Efficient estimation of bid-ask spreads from open, high, low, and close prices",
    J. Fin. Economics 161.
    """
    o, h, low_, c = (np.asarray(a, dtype=float) for a in (open_, high, low, close))
    if o.shape[-1] < 3:
        return np.full(o.shape[:-1], np.nan)
    m = (h + low_) / 2.0
    h1, l1, c1, m1 = (a[..., :-1] for a in (h, low_, c, m))
    o, h, low_, m = (a[..., 1:] for a in (o, h, low_, m))
    r1, r2, r3, r4, r5 = m - o, o - m1, m - c1, c1 - m1, o - c1

    # Did the bar move at all, against the close before; and then, were its open and that close away from the extremes?
    moved = _where_known((h != low_) | (low_ != c1), h, low_, c1)
    po = _mean(moved * _where_known(o != h, o, h)) + _mean(moved * _where_known(o != low_, o, low_))
    pc = _mean(moved * _where_known(c1 != h1, c1, h1)) + _mean(moved * _where_known(c1 != l1, c1, l1))
    usable = (np.nansum(moved, axis=-1) >= 2) & (po > 0) & (pc > 0)
    pt, po, pc = (np.where(usable, share, np.nan)[..., np.newaxis] for share in (_mean(moved), po, pc))

    d1, d3, d5 = (r - _mean(r)[..., np.newaxis] / pt * moved for r in (r1, r3, r5))
    x1 = -4.0 / po * d1 * r2 - 4.0 / pc * d3 * r4
    x2 = -4.0 / po * d1 * r5 - 4.0 / pc * d5 * r4
    e1, e2 = _mean(x1), _mean(x2)
    v1, v2 = _mean(x1**2) - e1**2, _mean(x2**2) - e2**2
    total = v1 + v2
    weighed = (v2 * e1 + v1 * e2) / np.where(total > 0, total, 1.0)
    return np.where(total > 0, weighed, (e1 + e2) / 2.0)


def roll_squared(prices: ArrayLike) -> Floats:
    """Squared spread from the bounce of prices: -4 Σ r_i r_(i-1) / n over the last axis; missing prices are left out.

    With trade signs that follow each other with correlation φ it gives (1 - φ)² of it: low on tapes of split orders.
    NaN below two moves.

    References
    ----------
    Roll (1984), "A simple implicit measure of the effective bid-ask spread in an efficient market", J. Finance 39.
    """
    p = np.asarray(prices, dtype=float)
    order = np.argsort(~np.isfinite(p), axis=-1, kind="stable")
    moves = np.diff(np.take_along_axis(p, order, axis=-1), axis=-1)
    return -4.0 * _mean(moves[..., 1:] * moves[..., :-1])


def root(squared: ArrayLike) -> Floats:
    """The spread of a squared one: NaN where that is not above 0."""
    s2 = np.asarray(squared, dtype=float)
    return np.sqrt(np.where(s2 > 0, s2, np.nan))


def _where_known(holds: NDArray[np.bool_], *of: Floats) -> Floats:
    known = np.logical_and.reduce([~np.isnan(a) for a in of])
    return np.where(known, holds.astype(float), np.nan)


def _mean(values: Floats) -> Floats:
    """Mean over the last axis of what is there; NaN where nothing is."""
    there = np.isfinite(values)
    n = np.sum(there, axis=-1)
    return np.where(n > 0, np.sum(np.where(there, values, 0.0), axis=-1) / np.maximum(n, 1), np.nan)
