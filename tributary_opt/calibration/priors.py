"""What an order of one's own costs: the literature's law, moved by a market's response, updated by own executions.

    J = ½ g σ (X/V) + b σ |X/(V T)|^β        I = g σ (X/V)

J is the realised cost per contract of an order of X contracts over T days, half-spread taken off, I the move it
leaves behind; V is the daily volume, σ the volatility per √day. φ = (log b, β, log g) has a prior. A public tape does
not identify it: flow that everybody sees is informed, and its level is not an own order's. What a tape can say is how
strongly one market answers compared with its peers, and that moves b and g without making them any surer.

Where orders are few, the likelihood of log g (and of log b) is far from normal: its mode and curvature would put g too
high with too small an error. So every market's posterior has its exact moments, by quadrature over φ, and markets hear
of each other through the normal likelihood that gives those moments (expectation propagation; with one market nothing
is approximated but the form of the interval).

Minka (2001), "Expectation propagation for approximate Bayesian inference", UAI 17.
Almgren, Thum, Hauptmann & Li (2005), "Direct estimation of equity market impact", Risk 18(7): b = 0.142, β = 0.600 ±
0.038, g = 0.314 times (shares outstanding / V)^(1/4), which is 3 to 4 for their stocks and unknown elsewhere: left out,
and the spread of g is wide enough for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tributary_opt.calibration.own_executions import Orders
from tributary_opt.settings import LawPrior

FloatArray = NDArray[np.float64]

_ROUNDS, _TOLERANCE = 50, 1e-6
_NODES = np.linspace(-5.25, 5.25, 15)
"""Where each element of φ is looked at, in standard deviations about its mean. [-]

Sums over nodes 0.75 apart give a normal's moments to exp(-2π²/0.75²), 1e-15."""
_AT_ONCE = 16
"""Markets whose nodes are looked at together: 3,375 of each, which stay in the processor's cache. [-]"""
_NEAR = 0.02
"""Nodes laid by moments within this of the posterior's own, in standard deviations, give it to many digits. [-]"""
_LONGEST_STEP = 1.0
"""A step towards the mode moves no element of φ further: b over orders of one size is nearly log b + β log v. [-]"""


@dataclass(frozen=True)
class Law:
    """φ = (log b, β, log g) of every market."""

    mean: FloatArray  #: shape (M, 3). [-]
    covariance: FloatArray  #: shape (M, 3, 3). [-]
    own_orders: NDArray[np.int64]  #: executions of the user in this market, shape (M,). [-]
    noise: float  #: variance of the executions' costs over what σ²T/3 says; 1 without any. [-]
    any_orders: bool  #: whether any execution moved the law. [-]

    def at(self, place: NDArray[np.int64]) -> Law:
        """The law with each market's φ taken from a place among the markets."""
        return replace(
            self, mean=self.mean[place], covariance=self.covariance[place], own_orders=self.own_orders[place]
        )

    def temporary(self, rate: float) -> tuple[FloatArray, FloatArray]:
        """b·rate^β, in units of σ, and the standard deviation of its logarithm; rate in V per day. Each shape (M,)."""
        a = np.array([1.0, np.log(rate), 0.0])
        log = self.mean[:, 0] + self.mean[:, 1] * a[1]
        return np.exp(log), np.sqrt(np.einsum("i,mij,j->m", a, self.covariance, a))

    def permanent(self) -> tuple[FloatArray, FloatArray]:
        """g, in units of σ/V, and the standard deviation of its logarithm. Each shape (M,). [-]"""
        return np.exp(self.mean[:, 2]), np.sqrt(self.covariance[:, 2, 2])


def law(prior: LawPrior, relative_response: FloatArray, relative_sd: FloatArray, orders: Orders | None = None) -> Law:
    """The law's posterior in every market.

    Parameters
    ----------
    prior : LawPrior
    relative_response : ndarray, shape (M,)
        log of the market's response over its peers', 0 where nothing is known. [-]
    relative_sd : ndarray, shape (M,)
        Its standard deviation. [-]
    orders : Orders, optional
        Own executions. They move the level for all markets and, more, their own market.

    Returns
    -------
    Law
        Without orders as wide as the prior, and wider by what is not known of the response.
    """
    m = len(relative_response)
    follows = np.array([prior.temporary_follows, 0.0, prior.permanent_follows])
    offset = relative_response[:, None] * follows
    level = np.array([np.log(prior.b), prior.beta, np.log(prior.permanent)])
    level_variance = np.diag(np.array([prior.b_level_sd, prior.beta_sd, prior.permanent_level_sd]) ** 2)
    market_variance = np.diag(np.array([prior.b_market_sd, 0.0, prior.permanent_market_sd]) ** 2)
    of_response = (relative_sd**2)[:, None, None] * np.outer(follows, follows)
    between = market_variance + of_response
    if orders is None or not len(orders.market):
        covariance = level_variance + between
        return Law(level + offset, covariance, np.zeros(m, dtype=np.int64), 1.0, False)

    at, index = np.unique(orders.market, return_inverse=True)
    place = np.argsort(index, kind="stable")
    seen = _Costs(orders, place, index[place])
    precision, t, eye = np.linalg.inv(level_variance), between[at], np.eye(3)
    information, vector, noise = np.zeros((len(at), 3, 3)), np.zeros((len(at), 3)), 1.0
    phi = level + offset[at]
    for _ in range(_ROUNDS):
        # The market's own deviation integrated out leaves (I + HT)^-1 H for the level.
        shrink = np.linalg.inv(eye + information @ t)
        of_level, vector_of_level = shrink @ information, np.einsum("kij,kj->ki", shrink, vector)
        whole, pull = precision + of_level.sum(axis=0), precision @ level + vector_of_level.sum(axis=0)
        # A market with orders: the level that the others leave, then its own.
        rest = whole - of_level
        others = np.linalg.inv(rest) + t
        expected = np.linalg.solve(rest, (pull - vector_of_level)[..., None])[..., 0] + offset[at]
        own_mean, own = seen.posterior(expected, others, noise)
        step = np.abs(own_mean - phi).max()
        phi = own_mean
        before, noise = noise, seen.noise(phi)
        if step < _TOLERANCE and abs(noise / before - 1.0) < _TOLERANCE:
            break
        information, vector = _site(own_mean - offset[at], own, expected - offset[at], others)
    mean, covariance = np.linalg.solve(whole, pull) + offset, np.linalg.inv(whole) + between
    mean[at], covariance[at] = phi, own
    counts = np.zeros(m, dtype=np.int64)
    counts[at] = np.bincount(index)
    return Law(mean, covariance, counts, float(noise), True)


def _site(
    mean: FloatArray, covariance: FloatArray, expected: FloatArray, others: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The normal likelihood (H, H·φ̂) that takes a market from what the others say to its posterior.

    A skewed likelihood may leave a direction less sure than it was: H is then negative there, but by so little that
    all markets together cannot take the prior away.
    """
    root = np.linalg.cholesky(others)
    inverse = np.linalg.inv(root)
    turned = inverse @ covariance @ np.swapaxes(inverse, 1, 2)
    value, axes = np.linalg.eigh(turned)
    gain = np.maximum(1.0 / value - 1.0, -0.5 / len(value))
    back = np.swapaxes(inverse, 1, 2) @ axes
    information = (back * gain[:, None, :]) @ np.swapaxes(back, 1, 2)
    shift = np.linalg.solve(covariance, (mean - expected)[..., None])[..., 0]
    return information, np.einsum("kij,kj->ki", information, expected) + shift


class _Costs:
    """Likelihood of φ from the orders of each market, with ATHL's weights.

    For an even execution over T, watched until T_post: Var I = σ² T_post, Cov(I, J) = σ² T/2, Var J = σ² T/3. Given β
    the costs are linear in b and g, so that six sums over a market's orders are its likelihood at every b and g.
    """

    def __init__(self, orders: Orders, place: NDArray[np.int64], index: NDArray[np.int64]):
        size, duration, self._cost, move, watched = (
            np.asarray(getattr(orders, name))[place] for name in ("size", "duration", "cost", "move", "watched")
        )
        self._log_rate, self._index = np.log(size / duration), index
        self._first = np.flatnonzero(np.diff(index, prepend=-1))
        seen = np.isfinite(move)
        var_j, cov, var_i = duration / 3, np.where(seen, duration / 2, 0.0), np.where(seen, watched, 1.0)
        determinant = var_j * var_i - cov**2
        self._jj, self._ij = var_i / determinant, -cov / determinant
        self._ii = np.where(seen, var_j / determinant, 0.0)
        self._move, self._size = np.where(seen, move, 0.0), size
        self._count = len(index) + int(seen.sum())
        # Of g: cost - g·size/2 and move - g·size, both without the temporary part.
        half = 0.5 * size
        self._for_b = self._jj * self._cost + self._ij * self._move
        self._cross = self._jj * half + self._ij * size
        self._gg = self._added(half * self._cross + size * (self._ij * half + self._ii * size))
        self._g = self._added(half * self._for_b + size * (self._ij * self._cost + self._ii * self._move))
        self._near: tuple[FloatArray, FloatArray] | None = None  # the last posterior: where to look for the next
        self._near_noise = 1.0

    def _added(self, values: FloatArray) -> FloatArray:
        return np.asarray(np.add.reduceat(values, self._first, axis=0))

    def sums(self, beta: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Of b², of b·g and of b in the likelihood, at each market's exponents; shapes (K, J) as `beta`."""
        power = np.exp(beta[self._index] * self._log_rate[:, None])
        return (
            self._added(self._jj[:, None] * power**2),
            self._added(self._cross[:, None] * power),
            self._added(self._for_b[:, None] * power),
        )

    def noise(self, phi: FloatArray) -> float:
        """χ² per number at φ; 1 with fewer than 30."""
        if self._count < 30:
            return 1.0
        b, beta, g = np.exp(phi[:, 0]), phi[:, 1], np.exp(phi[:, 2])
        temporary = b[self._index] * np.exp(beta[self._index] * self._log_rate)
        permanent = g[self._index] * self._size
        j, i = self._cost - 0.5 * permanent - temporary, self._move - permanent
        chi2 = float((self._jj * j**2 + 2 * self._ij * j * i + self._ii * i**2).sum())
        return max(chi2 / self._count, np.finfo(float).tiny)

    def posterior(self, expected: FloatArray, prior: FloatArray, noise: float) -> tuple[FloatArray, FloatArray]:
        """Mean and covariance of φ in each market under a normal prior, by quadrature about the mode and again."""
        precision = np.asarray(np.linalg.inv(prior), dtype=float)
        # Costs far noisier or quieter than thought a round ago: nodes laid by that round would all miss the posterior.
        if self._near is None or not 0.5 < noise / self._near_noise < 2.0:
            self._near, self._near_noise = self._mode(expected, precision, noise), noise
        for _ in range(_ROUNDS):
            mean, covariance = self._near
            self._near = new, spread = self._moments(mean, covariance, expected, precision, noise)
            sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
            scatter = np.abs(spread - covariance) / (sd[:, :, None] * sd[:, None, :])
            if max(float(np.abs((new - mean) / sd).max()), float(scatter.max())) < _NEAR:
                break
        return self._near

    def _mode(self, expected: FloatArray, precision: FloatArray, noise: float) -> tuple[FloatArray, FloatArray]:
        """Where to begin: Gauss-Newton's mode, and its covariance."""
        phi = expected
        for _ in range(_ROUNDS):
            b, g = np.exp(phi[:, 0]), np.exp(phi[:, 2])
            t = b[self._index] * np.exp(phi[self._index, 1] * self._log_rate)
            of_b, of_beta = (np.stack([t * self._jj * t, t * self._cross, t * self._for_b], axis=1) * f[:, None]
                             for f in (np.ones_like(t), self._log_rate))  # fmt: skip
            tt, tc, ty = self._added(of_b).T
            tt_l, tc_l, ty_l = self._added(of_beta).T
            tt_ll = self._added(self._jj * (t * self._log_rate) ** 2)
            gradient = np.stack([ty - tt - g * tc, ty_l - tt_l - g * tc_l, g * (self._g - g * self._gg - tc)], axis=1)
            hessian = np.stack(
                [tt, tt_l, g * tc, tt_l, tt_ll, g * tc_l, g * tc, g * tc_l, g**2 * self._gg], axis=1
            ).reshape(-1, 3, 3)
            whole = precision + hessian / noise
            pull = gradient / noise - np.einsum("kij,kj->ki", precision, phi - expected)
            step = np.clip(np.linalg.solve(whole, pull[..., None])[..., 0], -_LONGEST_STEP, _LONGEST_STEP)
            phi = phi + step
            if np.abs(step).max() < 1e-3:
                break
        return phi, np.asarray(np.linalg.inv(whole), dtype=float)

    def _moments(
        self, mean: FloatArray, covariance: FloatArray, expected: FloatArray, precision: FloatArray, noise: float
    ) -> tuple[FloatArray, FloatArray]:
        """Moments of the posterior from nodes laid by a mean and a covariance near its own.

        Nodes are mean + R z with R lower triangular in the order β, log b, log g: β differs from node to node along the
        first axis alone, b along the first two. Mass is summed over z, and z turned into φ at the end.
        """
        turn = np.array([1, 0, 2])
        root = np.asarray(np.linalg.cholesky(covariance[:, turn[:, None], turn]), dtype=float)
        sums, off = self.sums(mean[:, 1:2] + root[:, 0, :1] * _NODES), mean - expected
        new, spread = np.empty_like(mean), np.empty_like(covariance)
        z0, z1, z2 = (_NODES.reshape(shape) for shape in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)))

        def of(values: FloatArray) -> FloatArray:  # a number of each market, the same at all its nodes
            return values[:, None, None, None]

        for start in range(0, len(mean), _AT_ONCE):
            k = slice(start, start + _AT_ONCE)
            r, p = root[k], precision[k][:, turn[:, None], turn]
            linear = np.einsum("kji,kjl,kl->ki", r, p, off[k][:, turn])
            square = np.swapaxes(r, 1, 2) @ p @ r
            bb, bg, of_b = (total[k][:, :, None, None] for total in sums)
            b = np.exp(np.minimum(of(mean[k, 0]) + of(r[:, 1, 0]) * z0 + of(r[:, 1, 1]) * z1, 300.0))
            away = of(r[:, 2, 0]) * z0 + of(r[:, 2, 1]) * z1 + of(r[:, 2, 2]) * z2
            g = np.exp(np.minimum(of(mean[k, 2]) + away, 300.0))
            chi2 = b * (b * bb - 2 * of_b) + g * (2 * (b * bg - of(self._g[k])) + g * of(self._gg[k]))
            prior = z0 * (2 * of(linear[:, 0]) + of(square[:, 0, 0]) * z0)
            prior = prior + z1 * (2 * of(linear[:, 1]) + of(square[:, 1, 1]) * z1 + 2 * of(square[:, 0, 1]) * z0)
            of_z2 = 2 * (of(linear[:, 2]) + of(square[:, 0, 2]) * z0 + of(square[:, 1, 2]) * z1)
            log = -0.5 * (chi2 / noise + prior + z2 * (of_z2 + of(square[:, 2, 2]) * z2))
            mass = np.exp(log - log.max(axis=(1, 2, 3), keepdims=True))
            mass /= mass.sum(axis=(1, 2, 3), keepdims=True)
            center, within = _moments_of_nodes(mass)
            new[k] = mean[k] + np.einsum("kij,kj->ki", r, center)[:, turn]
            spread[k] = (r @ within @ np.swapaxes(r, 1, 2))[:, turn[:, None], turn]
        return new, spread


def _moments_of_nodes(mass: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and covariance of z under masses at its nodes, shape (K, J, J, J) adding up to 1 in each market."""
    pairs = {(0, 1): mass.sum(axis=3), (0, 2): mass.sum(axis=2), (1, 2): mass.sum(axis=1)}
    alone = [pairs[0, 1].sum(axis=2), pairs[0, 1].sum(axis=1), pairs[0, 2].sum(axis=1)]
    mean = np.stack([of @ _NODES for of in alone], axis=1)
    off = _NODES - mean[:, :, np.newaxis]
    covariance = np.empty((len(mass), 3, 3))
    for i, of in enumerate(alone):
        covariance[:, i, i] = (of * off[:, i] ** 2).sum(axis=1)
    for (i, j), of_both in pairs.items():
        covariance[:, i, j] = covariance[:, j, i] = np.einsum("kab,ka,kb->k", of_both, off[:, i], off[:, j])
    return mean, covariance
