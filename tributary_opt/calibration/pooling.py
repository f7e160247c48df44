"""What a market's peers say: empirical-Bayes shrinkage of a positive quantity on its logarithm.

    log θ_m ~ N(x_m·c, τ²)        estimate_m | θ_m ~ θ_m + se_m · Student t(dof_m)

A slope stays on its own scale: a thin market whose slope came out negative has said something, and throwing it away
would bend the pool upwards. A volatility, whose error is proportional to itself, errs on the logarithm (`log_error`).
c and τ are fitted by EM on the marginal likelihood, every integral over θ by quadrature. A market with much tape keeps
its own number; one with little takes its peers' with their honest width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tributary_opt.calibration.least_squares import t_quantile

FloatArray = NDArray[np.float64]

MAX_FITTED = 2_000
"""Markets that fit the pool; of more, so many evenly spaced ones. All are then judged by it. [-]"""

_BETWEEN_PRIOR, _BETWEEN_PRIOR_WEIGHT = 0.5, 2.0
"""A few markets cannot measure how much markets differ: two more with this log-sd stand beside them. [-], [markets]"""
_MARKETS_PER_COVARIATE = 10
_Z = np.linspace(-6.5, 6.5, 41)
_ROUNDS, _TOLERANCE = 200, 1e-6


@dataclass(frozen=True)
class Pool:
    """The fitted distribution of log θ over markets."""

    coefficients: FloatArray  #: c, intercept first, on covariates of mean 0 and variance 1. [-]
    covariance: FloatArray  #: of c. [-]
    between: float  #: τ, how much markets differ beyond the covariates. [-]
    mean: FloatArray  #: of the covariates among the fitted markets. [-]
    scale: FloatArray  #: their standard deviation; 0 for one that says nothing and is left out. [-]
    n_markets: int  #: that were fitted. [-]

    @property
    def center(self) -> float:
        """Mean of log θ over the fitted markets. [-]"""
        return float(self.coefficients[0])

    def expect(self, covariates: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of log θ of markets nothing else is known of, each shape (M,). [-]"""
        x = _design(covariates, self.mean, self.scale)
        variance = np.einsum("mi,ij,mj->m", x, self.covariance, x)
        return _dot(x, self.coefficients), np.sqrt(self.between**2 + np.maximum(variance, 0.0))


@dataclass(frozen=True)
class Posterior:
    """What is known of θ after a market's own tape and its peers; arrays of shape (M,), NaN where nothing is."""

    log_mean: FloatArray  #: mean of log θ. [-]
    log_sd: FloatArray  #: its standard deviation. [-]
    value: FloatArray  #: median of θ. [unit of θ]
    low: FloatArray  #: 2.5 % quantile. [unit of θ]
    high: FloatArray  #: 97.5 % quantile. [unit of θ]
    own: FloatArray  #: share of the precision that is the market's own, 0 to 1. [-]


def fit_pool(
    estimate: FloatArray,
    se: FloatArray,
    dof: FloatArray,
    covariates: FloatArray,
    *,
    min_markets: int = 10,
    log_error: bool = False,
) -> Pool | None:
    """The distribution of log θ over markets, or None where too few have an estimate.

    Parameters
    ----------
    estimate, se : ndarray, shape (M,)
        θ̂ of each market and its standard error > 0; a market with either missing does not fit. [unit of θ]
    dof : ndarray, shape (M,)
        Degrees of freedom behind the standard error; 1e6 is a normal error. [-]
    covariates : ndarray, shape (M, K)
        Missing ones count as average. With fewer than 10 markets a covariate only the mean is fitted.
    min_markets : int
        Fewer markets are no pool.
    log_error : bool
        log θ̂ errs by se/θ̂, rather than θ̂ by se.

    Returns
    -------
    Pool or None
        The same whatever unit θ is in, but for the intercept.
    """
    at = np.flatnonzero(_has(estimate, se) & ((estimate > 0) | (not log_error)))
    if len(at) < max(min_markets, 2):
        return None
    if len(at) > MAX_FITTED:
        at = at[np.arange(MAX_FITTED) * len(at) // MAX_FITTED]
    estimate, se, dof, covariates = estimate[at], se[at], dof[at], covariates[at]
    positive = estimate > 0
    if not positive.any():
        return None
    known = np.isfinite(covariates)
    n_known = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, covariates, 0.0).sum(axis=0) / n_known
    scale = np.sqrt((np.where(known, covariates - mean, 0.0) ** 2).sum(axis=0) / n_known)
    scale[(scale < 1e-9 * np.maximum(np.abs(mean), 1.0)) | (len(at) < _MARKETS_PER_COVARIATE * covariates.shape[1])] = 0
    x = _design(covariates, mean, scale)
    gram = x.T @ x
    inverse = np.linalg.pinv(gram, rcond=1e-8, hermitian=True)

    # Start in the middle of the positive estimates: all that EM needs is to start on the right scale.
    coefficients = np.zeros(x.shape[1])
    coefficients[0] = np.median(np.log(estimate[positive]))
    between = 2 * _BETWEEN_PRIOR
    rank = int((scale > 0).sum()) + 1
    for _ in range(_ROUNDS):
        mu = _dot(x, coefficients)
        m, v = _moments(estimate, se, dof, mu, np.full(len(at), between), log_error)
        new = inverse @ (x.T @ m)
        squares = float((v + (m - _dot(x, new)) ** 2).sum()) + _BETWEEN_PRIOR_WEIGHT * _BETWEEN_PRIOR**2
        tau = float(np.sqrt(squares / (max(len(at) - rank, 1) + _BETWEEN_PRIOR_WEIGHT)))
        moved = max(abs(tau / between - 1.0), float(np.abs(_dot(x, new - coefficients)).max()))
        coefficients, between = new, tau
        if moved < _TOLERANCE:
            break
    _, v = _moments(estimate, se, dof, _dot(x, coefficients), np.full(len(at), between), log_error)
    # 1/(τ² + se²) of each market on the log scale, from how far its tape has narrowed it.
    weight = np.maximum(between**2 - v, 0.0) / between**4
    covariance = np.linalg.pinv((x * weight[:, None]).T @ x, rcond=1e-8, hermitian=True)
    return Pool(coefficients, np.asarray(covariance, dtype=float), between, mean, scale, len(at))


def posterior(
    estimate: FloatArray,
    se: FloatArray,
    dof: FloatArray,
    covariates: FloatArray,
    pool: Pool | None,
    *,
    log_error: bool = False,
) -> Posterior:
    """θ of every market from its own estimate and the pool.

    A market without an estimate has the pool's distribution, `own` 0. Without a pool a market has its own estimate
    where that is more than two standard errors above zero, else nothing: what it cannot tell from zero is no number.
    """
    has = _has(estimate, se) & ((estimate > 0) | (not log_error))
    safe, error = np.where(has, estimate, 1.0), np.where(has, se, 1.0)
    if pool is None:
        clear = has & (safe > 2.0 * error)
        log_mean = np.where(clear, np.log(np.where(clear, safe, 1.0)), np.nan)
        log_sd = np.where(clear, error / np.where(clear, safe, 1.0), np.nan)
        half = np.minimum(t_quantile(dof) * log_sd, 300.0)
        value = np.exp(log_mean)
        own = np.where(clear, 1.0, np.nan)
        return Posterior(log_mean, log_sd, value, value * np.exp(-half), value * np.exp(half), own)
    mu, sd = pool.expect(covariates)
    nodes, mass = _quadrature(safe, error, dof, mu, sd, log_error)
    m, v = _mean_variance(nodes, mass)
    low, middle, high = (_quantile(nodes, mass, q) for q in (0.025, 0.5, 0.975))
    m, s = np.where(has, m, mu), np.where(has, np.sqrt(v), sd)
    return Posterior(
        m,
        s,
        np.exp(np.where(has, middle, mu)),
        np.exp(np.where(has, low, mu - 1.959964 * sd)),
        np.exp(np.where(has, high, mu + 1.959964 * sd)),
        np.where(has, np.clip(1.0 - v / sd**2, 0.0, 1.0), 0.0),
    )


def _has(estimate: FloatArray, se: FloatArray) -> NDArray[np.bool_]:
    return np.isfinite(estimate) & np.isfinite(se) & (se > 0)


def _design(covariates: FloatArray, mean: FloatArray, scale: FloatArray) -> FloatArray:
    z = (covariates - mean) / np.where(scale > 0, scale, 1.0)
    z = np.where(np.isfinite(z) & (scale > 0), z, 0.0)
    return np.concatenate([np.ones((len(z), 1)), z], axis=1)


def _dot(x: FloatArray, coefficients: FloatArray) -> FloatArray:
    # No BLAS: a market's sum must not depend on how many rows stand beside it.
    return np.asarray((x * coefficients).sum(axis=1))


def _quadrature(
    estimate: FloatArray, se: FloatArray, dof: FloatArray, mu: FloatArray, sd: FloatArray, log_error: bool
) -> tuple[FloatArray, FloatArray]:
    """Nodes of log θ and the posterior mass of the interval after each, shapes (M, J) and (M, J - 1).

    Half of the nodes follow the pool, half the market's own likelihood: whichever is the narrower is resolved.
    """
    pool_nodes = mu[:, None] + sd[:, None] * _Z
    level = estimate[:, None] + se[:, None] * _Z
    own_nodes = np.where(level > 0, np.log(np.where(level > 0, level, 1.0)), mu[:, None])
    if log_error:
        log_estimate, se = np.log(estimate), se / estimate
        own_nodes = log_estimate[:, None] + se[:, None] * _Z
    # An own node far out on the pool's tail carries no mass, but its logarithm may: keep within 12 sd.
    own_nodes = np.clip(own_nodes, (mu - 12 * sd)[:, None], (mu + 12 * sd)[:, None])
    nodes = np.sort(np.concatenate([pool_nodes, own_nodes], axis=1), axis=1)
    z = (nodes - mu[:, None]) / sd[:, None]
    with np.errstate(over="ignore"):
        error = nodes - log_estimate[:, None] if log_error else np.exp(nodes) - estimate[:, None]
        t = error / se[:, None]
        n = np.minimum(np.maximum(dof, 1.0), 1e6)[:, None]
        log_density = -0.5 * z**2 - 0.5 * (n + 1.0) * np.log1p(t**2 / n)
    density = np.exp(np.maximum(log_density - log_density.max(axis=1, keepdims=True), -700.0))
    mass = 0.5 * (density[:, 1:] + density[:, :-1]) * np.diff(nodes, axis=1)
    return nodes, mass / mass.sum(axis=1, keepdims=True)


def _mean_variance(nodes: FloatArray, mass: FloatArray) -> tuple[FloatArray, FloatArray]:
    middle, width = 0.5 * (nodes[:, 1:] + nodes[:, :-1]), np.diff(nodes, axis=1)
    mean = (mass * middle).sum(axis=1)
    variance = (mass * ((middle - mean[:, None]) ** 2 + width**2 / 12.0)).sum(axis=1)
    return mean, variance


def _moments(
    estimate: FloatArray, se: FloatArray, dof: FloatArray, mu: FloatArray, sd: FloatArray, log_error: bool
) -> tuple[FloatArray, FloatArray]:
    return _mean_variance(*_quadrature(estimate, se, dof, mu, sd, log_error))


def _quantile(nodes: FloatArray, mass: FloatArray, q: float) -> FloatArray:
    """Quantile of each row, linear within an interval."""
    cumulative = np.concatenate([np.zeros((len(mass), 1)), np.cumsum(mass, axis=1)], axis=1)
    after = np.clip((cumulative < q).sum(axis=1), 1, mass.shape[1])
    row = np.arange(len(mass))
    before = cumulative[row, after - 1]
    step = np.maximum(cumulative[row, after] - before, np.finfo(float).tiny)
    share = np.clip((q - before) / step, 0.0, 1.0)
    left = nodes[row, after - 1]
    return np.asarray(left + share * (nodes[row, after] - left))
