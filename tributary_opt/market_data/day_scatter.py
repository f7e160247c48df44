"""How far the volatility of some days lies from that of the days to come: days differ, and few tell by how much.

    log(variance of a day) ~ N(m, 4 s²) + what its moves leave open        s ~ half-normal

s is the standard deviation of log σ from day to day; the scale of its prior is what recorded days say. A month tells s
nearly alone, one day nothing of it, and in between both count: the error of σ is the mean over what s may be, by
quadrature, and no less than what the plain scatter of the days says. A sum of lognormal variances is taken for
lognormal itself (Fenton), which it is for one day.

References
----------
Röver et al. (2021), "On weakly informative prior distributions for the heterogeneity parameter in Bayesian
random-effects meta-analysis", Research Synthesis Methods 12, 448-474; Fenton (1960), IRE Trans. Comm. Systems 8, 57-67.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY_LOG_SD = {"price": 0.35, "probability": 0.7}
"""Scale of the half-normal prior of s. Recorded days say, by marginal likelihood, 0.33 (windows of 30 days of eight US
stocks, daily Garman-Klass, 2003 to 2021), 0.27 (windows of 5), 0.33 (Bitcoin and Litecoin), 0.21 (five days of AIG and
BAC), and 0.67 for 187 prediction markets over a week. [-]"""

LEAST_OF_MEAN = 0.1
"""A day counts as having at least this share of the mean variance: how still a still day was says nothing of how far
others go, and its logarithm would. [-]"""

_Z = np.geomspace(0.01, 4.0, 40)
"""s over its prior's scale."""


def log_sigma_sd(
    variance: Floats, error: Floats, covered: Floats, weights: Floats, prior: Floats, group: NDArray[np.int64]
) -> Floats:
    """Root mean squared error of log √(Σ w·variance / Σ w·covered), as an estimate of the days' mean variance.

    Parameters
    ----------
    variance, error : ndarray, shape (rows,)
        Of each day's path, and the variance of that, from its moves. [price²], [price⁴]
    covered, weights : ndarray, shape (rows,)
        Share of its session that the path spans, and what the day counts for; rows of 0 are no days. [-]
    prior : ndarray, shape (markets,)
        Scale of the half-normal prior of s, above 0. [-]
    group : ndarray of int, shape (rows,), never falling
        The market of each row.

    Returns
    -------
    ndarray, shape (markets,)
        NaN where the mean variance is not above 0. Of many days alike, √(Σ w²·error) / (2 Σ w·variance). [-]
    """

    def total(values: Floats) -> Floats:
        return np.bincount(of, weights=values, minlength=len(prior)).astype(float, copy=False)

    of = group
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total(weights * variance) / total(weights * covered)
        days = (covered > 0) & (weights > 0) & (mean > 0)[group]
        of, variance, error, covered, weights = group[days], variance[days], error[days], covered[days], weights[days]
        of_moves = total(weights**2 * error) / total(weights * variance) ** 2
        alike = total((weights * covered) ** 2) / total(weights * covered) ** 2  # 1 / how many days alike these are
        n, apart = total(np.ones(len(of))), weights * (variance - mean[of] * covered)
        scatter = total(apart**2) * n / (n - 1) / total(weights * variance) ** 2  # NaN for a single day

    relative = variance / (mean[of] * covered)
    open_ = error / (mean[of] * covered) ** 2
    # A day is at least what its moves leave open: noise may have left it a variance below 0.
    relative = np.maximum(relative, np.maximum(np.sqrt(open_), LEAST_OF_MEAN))
    y = np.log(relative)
    # (2/3) Σ r⁴ of k normal moves is 2/(k + 2) of their variance squared, and the logarithm's variance is ψ'(k/2).
    open_ = np.minimum(open_ / relative**2, 2.0 / 3.0)
    open_ /= 1.0 - open_  # 2/k
    open_ += open_**2 / 2.0 + open_**3 / 6.0

    log_density, squared = np.empty((len(_Z), len(prior))), np.empty((len(_Z), len(prior)))
    with np.errstate(divide="ignore", invalid="ignore"):
        for i, z in enumerate(_Z):
            s = z * prior
            precision = 1.0 / (4.0 * s[of] ** 2 + open_)
            all_days, of_y = total(precision), total(precision * y)
            misfit = total(precision * y**2) - of_y**2 / all_days
            # m is integrated out: n - 1 days tell how they scatter. Nodes are even in log s.
            log_density[i] = (total(np.log(precision)) - np.log(all_days) - misfit - z**2) / 2.0 + np.log(z)
            squared[i] = _of_log_sigma(of_moves + np.expm1(4.0 * s**2) * alike)
        mass = np.exp(log_density - log_density.max(axis=0))
        # Added up in order, which a sum does not do for one market as for many.
        mean_squared = np.cumsum(mass * squared, axis=0)[-1] / np.cumsum(mass, axis=0)[-1]
    # What is neither in the moves' error nor lognormal, as of a few bouncing trades, is in the plain scatter of days.
    return np.asarray(np.sqrt(np.fmax(mean_squared, _of_log_sigma(scatter))))


def _of_log_sigma(relative: Floats) -> Floats:
    """Mean squared error of log σ, variance and bias²; `relative` is the variance of the mean variance, which is
    lognormal, over its square."""
    quarter = np.log1p(relative) / 4.0
    return quarter + quarter**2
