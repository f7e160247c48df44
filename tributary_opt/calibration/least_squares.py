"""Straight lines from sums: slope, intercept and three kinds of standard error, for many markets at once.

Everything is made of twelve sums over observations of powers of x and y, kept by row (a market's day) and added up by
market; no observation is needed again, and no market waits for another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_DAY_CLUSTERS = 8
"""Days from which errors are clustered by day; fewer clusters say too little about themselves. [-]"""

LEAST_EFFECTIVE = 4.0
"""Days alike that days must be worth to be clusters. Measured on days whose flow differs by a log-sd of 1 to 3:
intervals of 95 % cover 95 to 96 % then, and 91 to 98 % without it. [-]"""

_X_POWERS = np.array((0, 1, 0, 2, 1, 0, 3, 2, 1, 4, 3, 2))
_Y_POWERS = np.array((0, 0, 1, 0, 1, 2, 0, 1, 2, 0, 1, 2))
_N, _X, _Y, _XX, _XY, _YY, _XXX, _XXY, _XYY, _XXXX, _XXXY, _XXYY = range(12)

TOO_FEW, CONSTANT_X, CONSTANT_Y, EXACT = "too_few_buckets", "constant_flow", "no_move", "exact_fit"


@dataclass(frozen=True)
class Lines:
    """Least squares of y on x with an intercept, one for each market; NaN and a reason where there is none."""

    n: Floats
    slope: Floats
    intercept: Floats
    rss: Floats
    r2: Floats
    slope_se_classical: Floats
    slope_se_hc0: Floats
    intercept_se_hc0: Floats
    slope_se_clustered: Floats
    """Clustered by row, with the usual factor for few clusters, G/(G-1)·(n-1)/(n-2)."""
    intercept_se_clustered: Floats
    n_clusters: Floats
    """Rows with an observation whose x is not 0: the others say nothing about the slope."""
    n_effective: Floats
    """(Σ h)²/Σ h² over rows, h = w² Σ x²: how many rows alike these are worth. One that outweighs all others is 1."""
    reason: NDArray[np.object_]
    x_scale: Floats
    """Root mean square of x."""
    y_scale: Floats


def lines(rows: Floats, group: NDArray[np.int64], n_groups: int, weights: Floats | None = None) -> Lines:
    """Fit a line to each group of rows.

    Parameters
    ----------
    rows : ndarray, shape (rows, 12)
        Sums over a row's observations of 1, x, y, x², xy, y², x³, x²y, xy², x⁴, x³y, x²y².
    group : ndarray of int, shape (rows,), never falling
        The market that each row belongs to.
    weights : ndarray, shape (rows,), optional
        Weight of a row's observations; only ratios matter.

    References
    ----------
    White (1980), Econometrica 48(4), 817-838 (HC0); Liang & Zeger (1986), Biometrika 73(1), 13-22 (clusters); Carter,
    Schnepel & Steigerwald (2017), Review of Economics and Statistics 99(4), 698-709 (their effective number).
    """
    w = np.ones(len(rows)) if weights is None else weights
    n = sums(group, rows[:, _N] * (w > 0), n_groups)
    x_scale, y_scale = (_scale(rows, column, group, n_groups) for column in (_XX, _YY))
    # In units of the market's own typical x and y no power of a size leaves the numbers.
    unit = rows / (x_scale[group, np.newaxis] ** _X_POWERS * y_scale[group, np.newaxis] ** _Y_POWERS)
    t = sums(group, unit * w[:, np.newaxis], n_groups)
    t2 = t if weights is None else sums(group, unit * (w * w)[:, np.newaxis], n_groups)

    with np.errstate(divide="ignore", invalid="ignore"):
        mean_x, mean_y = t[:, _X] / t[:, _N], t[:, _Y] / t[:, _N]
        xx = t[:, _XX] - mean_x * t[:, _X]
        xy = t[:, _XY] - mean_x * t[:, _Y]
        yy = t[:, _YY] - mean_y * t[:, _Y]
        slope = xy / xx
        intercept = mean_y - slope * mean_x
        rss = np.maximum(yy - slope * xy, 0.0)

    reason = np.full(n_groups, "", dtype=object)
    for name, holds in (
        (TOO_FEW, n < 3),
        (CONSTANT_X, ~(xx > 1e-12 * t[:, _XX])),
        (CONSTANT_Y, ~(yy > 1e-20 * t[:, _YY])),
        (EXACT, ~(rss > 1e-13 * yy)),
    ):
        reason[holds & (reason == "")] = name
    ok = reason == ""
    slope, intercept, rss, mean_x = (np.where(ok, v, np.nan) for v in (slope, intercept, rss, mean_x))

    with np.errstate(divide="ignore", invalid="ignore"):
        # Weights count as many observations as they are worth on average: with none, n.
        classical = np.sqrt(rss / t[:, _N] * n / (n - 2) / xx * t2[:, _XX] / t[:, _XX])
        e2 = [_squared_errors(t2, slope, intercept, power) for power in range(3)]  # Σ w² x^p e², p = 0, 1, 2
        psi2 = e2[2] - 2 * mean_x * e2[1] + mean_x**2 * e2[0]
        cross = e2[1] - mean_x * e2[0]
        hc0 = np.sqrt(np.maximum(psi2, 0.0)) / xx
        lever = mean_x / xx
        hc0_a = np.sqrt(np.maximum(e2[0] / t[:, _N] ** 2 - 2 * lever * cross / t[:, _N] + lever**2 * psi2, 0.0))

        a, b, m, s = (v[group] for v in (intercept, slope, mean_x, xx))
        u0 = w * (unit[:, _Y] - a * unit[:, _N] - b * unit[:, _X])
        psi = w * (unit[:, _XY] - a * unit[:, _X] - b * unit[:, _XX]) - m * u0
        clusters = sums(group, (unit[:, _XX] > 0) & (w > 0), n_groups)
        leverage = w * w * unit[:, _XX]
        effective = sums(group, leverage, n_groups) ** 2 / sums(group, leverage**2, n_groups)
        few = clusters / (clusters - 1) * (n - 1) / (n - 2)
        clustered = np.sqrt(few * sums(group, psi**2, n_groups)) / xx
        clustered_a = np.sqrt(few * sums(group, (u0 / t[group, _N] - m / s * psi) ** 2, n_groups))
        per = y_scale / x_scale
        return Lines(
            n=n,
            slope=slope * per,
            intercept=intercept * y_scale,
            rss=rss * y_scale**2,
            r2=np.where(ok, 1.0 - rss / yy, np.nan),
            slope_se_classical=classical * per,
            slope_se_hc0=hc0 * per,
            intercept_se_hc0=hc0_a * y_scale,
            slope_se_clustered=np.where(clusters > 1, clustered * per, np.nan),
            intercept_se_clustered=np.where(clusters > 1, clustered_a * y_scale, np.nan),
            n_clusters=clusters,
            n_effective=np.where(clusters > 0, effective, 0.0),
            reason=reason,
            x_scale=x_scale,
            y_scale=y_scale,
        )


def sums(group: NDArray[np.int64], values: NDArray[np.generic], n_groups: int) -> Floats:
    """Sum by group, in the order of rows; 0 for a group without any. The group never falls."""
    out = np.zeros((n_groups, *values.shape[1:]))
    if len(group):
        first = np.flatnonzero(np.diff(group, prepend=-1))
        out[group[first]] = np.add.reduceat(values.astype(float, copy=False), first, axis=0)
    return out


def t_quantile(dof: Floats) -> Floats:
    """The 97.5 % point of Student's t, within 0.1 % from 3 degrees of freedom on; NaN below 1. [-]

    Exact for 1 and 2; else Cornish & Fisher's expansion, Abramowitz & Stegun 26.7.5.
    """
    z = 1.959963984540054
    with np.errstate(divide="ignore", invalid="ignore"):
        v = np.where(dof >= 1, dof, np.nan)
        out = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        out += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        out += (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    return np.asarray(np.where(v < 2, 12.706204736174698, np.where(v < 3, 4.302652729749462, out)) + 0 * v)


def _scale(rows: Floats, column: int, group: NDArray[np.int64], n_groups: int) -> Floats:
    total, n = sums(group, rows[:, column], n_groups), sums(group, rows[:, _N], n_groups)
    return np.sqrt(np.where(total > 0, total, 1.0) / np.where(total > 0, n, 1.0))


def _squared_errors(t: Floats, slope: Floats, intercept: Floats, power: int) -> Floats:
    """Σ x^power (y - intercept - slope·x)² from the sums."""
    a, b = intercept, slope
    x = (_N, _X, _XX, _XXX, _XXXX)
    xy = (_Y, _XY, _XXY, _XXXY)
    xyy = (_YY, _XYY, _XXYY)
    return (
        t[:, xyy[power]]
        - 2 * a * t[:, xy[power]]
        - 2 * b * t[:, xy[power + 1]]
        + a * a * t[:, x[power]]
        + 2 * a * b * t[:, x[power + 1]]
        + b * b * t[:, x[power + 2]]
    )
