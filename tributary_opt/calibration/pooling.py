"""What a market's peers say: hierarchical shrinkage of a positive quantity on its logarithm.

    log θ_m ~ N(x_m·c, τ²)        estimate_m | θ_m ~ θ_m + se_m · Student t(dof_m)

A slope stays on its own scale: a thin market whose slope came out negative has said something, and throwing it away
would bend the pool upwards. A volatility, whose error is proportional to itself, errs on the logarithm (`log_error`).
c and τ are where the marginal likelihood is highest (Newton's method), and what a few markets leave open of them is in
everyone's width: τ is integrated over, and c given τ. A market with much tape keeps its own number; one with little
takes its peers' with their honest width.

Louis (1982), J. R. Stat. Soc. B 44(2), 226-233 (derivatives of a marginal likelihood from moments of the posterior);
Rue, Martino & Chopin (2009), J. R. Stat. Soc. B 71(2), 319-392 (τ on a grid, c by Laplace); Veach & Guibas (1995),
SIGGRAPH, 419-428 (weights of nodes laid twice: the power heuristic).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tributary_opt.calibration.least_squares import t_quantile

FloatArray = NDArray[np.float64]

MAX_FITTED = 2_000
"""Markets that fit the pool; of more, so many evenly spaced ones. All are then judged by it. [-]"""
WIDEST_MIDDLE = 1.0
"""Peers that know their own middle no better than to so much of a logarithm are no pool. [-]"""

_BETWEEN_PRIOR, _BETWEEN_PRIOR_WEIGHT = 0.5, 2.0
"""A few markets cannot measure how much markets differ: two more with this log-sd stand beside them. [-], [markets]"""
_LEAST_LOG_BETWEEN, _MOST_LOG_BETWEEN = np.log(0.01), np.log(10.0)
_MARKETS_PER_COVARIATE, _MARKETS_PER_KIND = 10, 5
_OFF = np.arange(-4.0, 5.0)
"""Where τ is looked at, in standard deviations of its logarithm about the most likely one. [-]"""
_STEP, _FINE_STEP = 0.2, 0.1
_POOL_REACH, _OWN_REACH = 3.6, 6.0
"""Nodes are sinh of even steps this far: dense in the middle, out to 18 sd of the pool and 202 of the estimate. [-]"""
_ROUNDS, _TOLERANCE = 40, 1e-5
_DAMPING = (0.0, 0.03, 0.3, 1.0, 3.0, 30.0)


@dataclass(frozen=True)
class Pool:
    """The fitted distribution of log θ over markets, for each of some values of τ."""

    weight: FloatArray  #: how likely that τ is, adding up to 1; shape (T,). [-]
    between: FloatArray  #: τ, how much markets differ beyond the covariates, shape (T,). [-]
    coefficients: FloatArray  #: c, intercept first, on covariates of mean 0 and variance 1; shape (T, C). [-]
    covariance: FloatArray  #: of c, shape (T, C, C). [-]
    mean: FloatArray  #: of the covariates among the fitted markets. [-]
    scale: FloatArray  #: their standard deviation; 0 for one that says nothing and is left out. [-]
    n_markets: int  #: that were fitted. [-]

    @property
    def center(self) -> float:
        """Mean of log θ over the fitted markets. [-]"""
        return float(self.weight @ self.coefficients[:, 0])

    def expect(self, covariates: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of log θ of markets nothing else is known of, for each τ: shape (T, M). [-]"""
        x = _design(covariates, self.mean, self.scale)
        variance = np.stack([_dot(x[:, :, None] * x[:, None, :], v, (1, 2)) for v in self.covariance])
        sd = np.sqrt(self.between[:, None] ** 2 + np.maximum(variance, 0.0))
        return np.stack([_dot(x, c) for c in self.coefficients]), sd


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
    """The distribution of log θ over markets, or None where too few have an estimate, or all together tell no middle.

    Parameters
    ----------
    estimate, se : ndarray, shape (M,)
        θ̂ of each market and its standard error > 0; a market with either missing does not fit. [unit of θ]
    dof : ndarray, shape (M,)
        Degrees of freedom behind the standard error; 1e6 is a normal error. [-]
    covariates : ndarray, shape (M, K)
        Missing ones count as average. With fewer than 10 markets a covariate none is fitted but those of two values,
        a kind, which need 5 markets of each.
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
    few = (len(at) < _MARKETS_PER_COVARIATE * covariates.shape[1]) & ~_two_kinds(covariates, known)
    scale[(scale < 1e-9 * np.maximum(np.abs(mean), 1.0)) | few] = 0
    x = _design(covariates, mean, scale)
    # Covariates that others make up say nothing of their own: no direction without any spread is fitted.
    spread, axes = np.linalg.eigh(x.T @ x)
    axes = axes[:, spread > 1e-8 * spread.max()]
    likelihood = _Likelihood(estimate, se, dof, x @ axes, log_error)

    # Start in the middle of the positive estimates: all that is needed is the right scale.
    start = np.zeros(x.shape[1])
    start[0] = np.median(np.log(estimate[positive]))
    best = likelihood.highest(axes.T @ start, np.log(2 * _BETWEEN_PRIOR))
    if best is None or not best.middle_sd(axes) < WIDEST_MIDDLE:
        return None
    # How much markets differ, and for each such τ where c is then, and how sure.
    n_c = axes.shape[1]
    along = np.linalg.solve(best.information[:n_c, :n_c], best.information[:n_c, n_c])
    left = best.information[n_c, n_c] - best.information[:n_c, n_c] @ along
    step = min(1.0 / float(np.sqrt(left)), 0.5) if left > 0 else 0.5
    found = []
    for off in step * _OFF:
        if _LEAST_LOG_BETWEEN <= best.log_between + off <= _MOST_LOG_BETWEEN:
            there = likelihood.highest(best.coefficients - along * off, best.log_between + off, move_between=False)
            if there is not None:
                found.append(there)
    if not found:
        return None
    log_weight = np.array([f.value + 0.5 * np.linalg.slogdet(f.covariance)[1] for f in found])
    weight = np.exp(log_weight - log_weight.max())
    return Pool(
        weight / weight.sum(),
        np.exp([f.log_between for f in found]),
        np.stack([axes @ f.coefficients for f in found]),
        np.stack([axes @ f.covariance @ axes.T for f in found]),
        mean,
        scale,
        len(at),
    )


@dataclass(frozen=True)
class _Highest:
    """Where the marginal likelihood is highest."""

    coefficients: FloatArray
    log_between: float
    value: float
    information: FloatArray  # of (c, log τ): the second derivatives, with their sign turned

    @property
    def covariance(self) -> FloatArray:
        """Of c, given τ."""
        n = len(self.coefficients)
        return np.asarray(np.linalg.inv(self.information[:n, :n]))

    def middle_sd(self, axes: FloatArray) -> float:
        return float(np.sqrt(axes[0] @ self.covariance @ axes[0]))


class _Likelihood:
    """Marginal likelihood of (c, log τ), with its derivatives from each market's moments of z = (log θ - μ)/τ."""

    def __init__(self, estimate: FloatArray, se: FloatArray, dof: FloatArray, x: FloatArray, log_error: bool):
        self._of, self._x, self._log_error = (estimate, se, dof), x, log_error
        self._gram = x.T @ x

    def at(self, c: FloatArray, log_between: float) -> tuple[float, FloatArray, FloatArray]:
        """Logarithm of the likelihood, its gradient, and its second derivatives with their sign turned."""
        estimate, se, dof = self._of
        tau, x, n_c = np.exp(log_between), self._x, len(c)
        mu, sd = _dot(x, c), np.full(len(x), tau)
        nodes, log_mass = _laid(estimate, se, mu, sd, self._log_error, _STEP)
        z = (nodes - mu[:, None]) / tau
        log_mass += _log_likelihood(nodes, estimate, se, dof, self._log_error) - 0.5 * z * z - log_between
        mass, log_total = _normalised(log_mass)
        z1 = (mass * z).sum(axis=1)
        square = z * z
        z2 = (mass * square).sum(axis=1)
        away, beyond = z - z1[:, None], square - z2[:, None]
        v1, v12, v2 = ((mass * product).sum(axis=1) for product in (away * away, away * beyond, beyond * beyond))

        prior = _BETWEEN_PRIOR_WEIGHT * (_BETWEEN_PRIOR / tau) ** 2
        value = float(log_total.sum()) - _BETWEEN_PRIOR_WEIGHT * log_between - 0.5 * prior
        gradient = np.append(x.T @ z1 / tau, (z2 - 1.0).sum() - _BETWEEN_PRIOR_WEIGHT + prior)
        information = np.empty((n_c + 1, n_c + 1))
        information[:n_c, :n_c] = (x * (1.0 - v1)[:, None]).T @ x / tau**2
        information[:n_c, n_c] = information[n_c, :n_c] = x.T @ (2.0 * z1 - v12) / tau
        information[n_c, n_c] = (2.0 * z2 - v2).sum() + 2.0 * prior
        return value, gradient, information

    def highest(self, c: FloatArray, log_between: float, *, move_between: bool = True) -> _Highest | None:
        """Newton's method, damped towards EM's own step, which always climbs; None where there is no top."""
        p, n_c = np.append(c, log_between), len(c)
        free = n_c + move_between
        value, gradient, information = self.at(p[:n_c], p[n_c])
        for _ in range(_ROUNDS):
            # What EM divides by: the information if every log θ were seen.
            complete = np.diag(np.full(n_c + 1, 2.0 * len(self._x)))
            complete[:n_c, :n_c] = self._gram / np.exp(2.0 * p[n_c])

            def slope(of: FloatArray, metric: FloatArray = complete[:free, :free]) -> float:
                return float(of[:free] @ np.linalg.solve(metric, of[:free]))

            for damping in _DAMPING:
                matrix = (information + damping * complete)[:free, :free]
                if np.linalg.eigvalsh(matrix / np.sqrt(np.outer(*[complete.diagonal()[:free]] * 2))).min() < 1e-6:
                    continue
                step = np.zeros(n_c + 1)
                step[:free] = np.linalg.solve(matrix, gradient[:free])
                new = p + step / max(1.0, abs(step[n_c]), float(np.abs(_dot(self._x, step[:n_c])).max()) / 3.0)
                new[n_c] = np.clip(new[n_c], _LEAST_LOG_BETWEEN, _MOST_LOG_BETWEEN)
                after = self.at(new[:n_c], new[n_c])
                if after[0] >= value or slope(after[1]) < 0.5 * slope(gradient):
                    break
            else:
                return None
            moved = max(abs(new[n_c] - p[n_c]), float(np.abs(_dot(self._x, new[:n_c] - p[:n_c])).max()))
            p, (value, gradient, information) = new, after
            if moved < _TOLERANCE:
                top = np.linalg.eigvalsh(information[:n_c, :n_c]).min() > 0
                return _Highest(p[:n_c], float(p[n_c]), value, information) if top else None
        return None


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
    if pool is None:
        safe, error = np.where(has, estimate, 1.0), np.where(has, se, 1.0)
        clear = has & (safe > 2.0 * error)
        log_mean = np.where(clear, np.log(np.where(clear, safe, 1.0)), np.nan)
        half = np.where(clear, np.minimum(t_quantile(dof) * error / np.where(clear, safe, 1.0), 300.0), np.nan)
        log_sd = half / 1.959964  # a t error of few degrees of freedom has no sd of its own
        value = np.exp(log_mean)
        own = np.where(clear, 1.0, np.nan)
        return Posterior(log_mean, log_sd, value, value * np.exp(-half), value * np.exp(half), own)
    means, sds = pool.expect(covariates)
    weight = pool.weight[:, None]
    mu = (weight * means).sum(axis=0)
    variance = (weight * (sds**2 + (means - mu) ** 2)).sum(axis=0)
    sd = np.sqrt(variance)
    safe, error = np.where(has, estimate, np.exp(mu)), np.where(has, se, np.exp(mu))
    nodes, log_width = _laid(safe, error, mu, sd, log_error, _FINE_STEP)
    likelihood = np.where(has[:, None], _log_likelihood(nodes, safe, error, dof, log_error), 0.0)
    density = np.zeros_like(nodes)
    for share, m, s in zip(pool.weight, means, sds, strict=True):
        log_density = likelihood - 0.5 * ((nodes - m[:, None]) / s[:, None]) ** 2
        log_total = _normalised(log_width + log_density)[1]
        density += share * np.exp(np.maximum(log_density - log_total[:, None], -700.0))
    mass = density * np.exp(log_width)
    m = (mass * nodes).sum(axis=1)
    v = (mass * (nodes - m[:, None]) ** 2).sum(axis=1)
    order = np.argsort(nodes, axis=1)
    nodes, density = (np.take_along_axis(values, order, axis=1) for values in (nodes, density))
    low, middle, high = (_quantile(nodes, density, q) for q in (0.025, 0.5, 0.975))
    own = np.where(has, np.clip(1.0 - v / variance, 0.0, 1.0), 0.0)
    return Posterior(m, np.sqrt(v), np.exp(middle), np.exp(low), np.exp(high), own)


def _has(estimate: FloatArray, se: FloatArray) -> NDArray[np.bool_]:
    return np.isfinite(estimate) & np.isfinite(se) & (se > 0)


def _design(covariates: FloatArray, mean: FloatArray, scale: FloatArray) -> FloatArray:
    z = (covariates - mean) / np.where(scale > 0, scale, 1.0)
    z = np.where(np.isfinite(z) & (scale > 0), z, 0.0)
    return np.concatenate([np.ones((len(z), 1)), z], axis=1)


def _two_kinds(covariates: FloatArray, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Covariates with two values, each known of enough markets to tell one kind from the other."""
    low, high = np.where(known, covariates, np.inf).min(axis=0), np.where(known, covariates, -np.inf).max(axis=0)
    at_low, at_high = ((known & (covariates == end)).sum(axis=0) for end in (low, high))
    enough = np.minimum(at_low, at_high) >= _MARKETS_PER_KIND
    return np.asarray((low < high) & (at_low + at_high == known.sum(axis=0)) & enough)


def _dot(x: FloatArray, coefficients: FloatArray, axis: int | tuple[int, int] = 1) -> FloatArray:
    # No BLAS: a market's sum must not depend on how many rows stand beside it.
    return np.asarray((x * coefficients).sum(axis=axis))


def _laid(
    estimate: FloatArray, se: FloatArray, mu: FloatArray, sd: FloatArray, log_error: bool, step: float
) -> tuple[FloatArray, FloatArray]:
    """Nodes of log θ, some by the pool and some by the market's own error, and the logarithm of their widths.

    Each kind is even in a variable of its own, and counts where it is the denser. Smoothly so: then a sum over nodes
    is as good as the trapezoid rule of a smooth function, whichever of pool and error is the narrower.
    """
    z, own_z = (np.sinh(np.arange(-round(to / step), round(to / step) + 1) * step) for to in (_POOL_REACH, _OWN_REACH))
    by_pool = mu[:, None] + sd[:, None] * z
    if log_error:
        by_own = np.log(estimate)[:, None] + (se / estimate)[:, None] * own_z
    else:
        level = estimate[:, None] + se[:, None] * own_z
        positive = level > 0
        by_own = np.where(positive, np.log(np.where(positive, level, 1.0)), mu[:, None])
    at = np.concatenate([by_pool, by_own], axis=1)
    t, log_slope = _standardised(at, estimate, se, log_error)
    of_pool, of_own = -np.log(np.hypot(sd[:, None], at - mu[:, None])), log_slope - np.log(np.hypot(1.0, t))
    denser = of_own - of_pool
    denser[:, len(z) :] *= -1.0  # the other kind's density over that of the node's own
    density = np.concatenate([of_pool[:, : len(z)], of_own[:, len(z) :]], axis=1)
    log_width = np.log(step) - density - np.logaddexp(0.0, 4.0 * denser)
    if not log_error:
        log_width[:, len(z) :][~positive] = -np.inf  # no logarithm: no node
    return at, log_width


def _standardised(
    nodes: FloatArray, estimate: FloatArray, se: FloatArray, log_error: bool
) -> tuple[FloatArray, FloatArray]:
    """Error of the estimate if log θ is at the nodes, in standard errors; and the logarithm of its slope."""
    if log_error:
        relative = (se / estimate)[:, None]
        return (nodes - np.log(estimate)[:, None]) / relative, -np.log(relative)
    log_slope = np.minimum(nodes - np.log(se)[:, None], 300.0)
    return np.exp(log_slope) - (estimate / se)[:, None], log_slope


def _log_likelihood(
    nodes: FloatArray, estimate: FloatArray, se: FloatArray, dof: FloatArray, log_error: bool
) -> FloatArray:
    t, _ = _standardised(nodes, estimate, se, log_error)
    n = np.minimum(np.maximum(dof, 1.0), 1e6)[:, None]
    return np.asarray(-0.5 * (n + 1.0) * np.log1p(t * t / n))


def _normalised(log_mass: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Masses that add up to 1 in each row, and the logarithm of what they added up to."""
    most = log_mass.max(axis=1)
    mass = np.exp(np.maximum(log_mass - most[:, None], -700.0))
    total = mass.sum(axis=1)
    return mass / total[:, None], most + np.log(total)


def _quantile(nodes: FloatArray, density: FloatArray, q: float) -> FloatArray:
    """Quantile of each row, from densities at its nodes; linear within an interval."""
    mass = 0.5 * (density[:, 1:] + density[:, :-1]) * np.diff(nodes, axis=1)
    cumulative = np.concatenate([np.zeros((len(mass), 1)), np.cumsum(mass, axis=1)], axis=1)
    cumulative /= cumulative[:, -1:]
    after = np.clip((cumulative < q).sum(axis=1), 1, mass.shape[1])
    row = np.arange(len(mass))
    before = cumulative[row, after - 1]
    width = np.maximum(cumulative[row, after] - before, np.finfo(float).tiny)
    share = np.clip((q - before) / width, 0.0, 1.0)
    left = nodes[row, after - 1]
    return np.asarray(left + share * (nodes[row, after] - left))
