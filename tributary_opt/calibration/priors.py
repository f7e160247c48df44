"""What an order of one's own costs: the literature's law, moved by a market's response, updated by own executions.

    J = ½ g σ (X/V) + b σ |X/(V T)|^β        I = g σ (X/V)

J is the realised cost per contract of an order of X contracts over T days, half-spread and fee taken off, I the move it
leaves behind; V is the daily volume, σ the volatility per √day. φ = (log b, β, log g) has a prior. A public tape does
not identify it: flow that everybody sees is informed, and its level is not an own order's. What a tape can say is how
strongly one market answers compared with its peers, and that moves b and g without making them any surer.

Almgren, Thum, Hauptmann & Li (2005), "Direct estimation of equity market impact", Risk 18(7): b = 0.142, β = 0.600 ±
0.038, g = 0.314 times (shares outstanding / V)^(1/4), which is 3 to 4 for their stocks and unknown elsewhere: left out,
and the spread of g is wide enough for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tributary_opt.calibration.own_executions import Orders
from tributary_opt.settings import LawPrior

FloatArray = NDArray[np.float64]

_ROUNDS, _TOLERANCE = 50, 1e-8
_LONGEST_STEP = 1.0
"""A Gauss-Newton step moves no element of φ further: b over orders of one size is nearly log b + β log v. [-]"""


@dataclass(frozen=True)
class Law:
    """φ = (log b, β, log g) of every market."""

    mean: FloatArray  #: shape (M, 3). [-]
    covariance: FloatArray  #: shape (M, 3, 3). [-]
    own_orders: NDArray[np.int64]  #: executions of the user in this market, shape (M,). [-]
    noise: float  #: variance of the executions' costs over what σ²T/3 says; 1 without any. [-]
    any_orders: bool  #: whether any execution moved the law. [-]

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

    precision = np.linalg.inv(level_variance)
    at, index = np.unique(orders.market, return_inverse=True)
    t, eye = between[at], np.eye(3)
    phi, noise = level + offset, 1.0
    for _ in range(_ROUNDS):
        information, vector, chi2, n = _information(orders, index, len(at), phi[at])
        if n >= 30:
            noise = max(chi2 / n, np.finfo(float).tiny)
        information, vector = information / noise, vector / noise
        vector = vector - np.einsum("kij,kj->ki", information, offset[at])
        # The market's own deviation integrated out leaves (I + HT)^-1 H for the level.
        shrink = np.linalg.inv(eye + information @ t)
        of_level, vector_of_level = shrink @ information, np.einsum("kij,kj->ki", shrink, vector)
        whole = precision + of_level.sum(axis=0)
        pull = precision @ level + vector_of_level.sum(axis=0)
        found = np.linalg.solve(whole, pull)
        covariance = np.linalg.inv(whole) + between
        new = found + offset
        # A market with orders: the level that the others leave, then its own.
        others = np.linalg.inv(whole - of_level) + t
        expected = np.linalg.solve(whole - of_level, (pull - vector_of_level)[..., None])[..., 0]
        inverse = np.linalg.inv(others)
        own = np.linalg.inv(inverse + information)
        new[at] = np.einsum("kij,kj->ki", own, np.einsum("kij,kj->ki", inverse, expected) + vector) + offset[at]
        covariance[at] = own
        step = np.clip(new - phi, -_LONGEST_STEP, _LONGEST_STEP)
        phi = phi + step
        if np.abs(step).max() < _TOLERANCE:
            break
    counts = np.zeros(m, dtype=np.int64)
    counts[at] = np.bincount(index)
    return Law(phi, covariance, counts, float(noise), True)


def _information(
    orders: Orders, index: NDArray[np.int64], n_markets: int, phi: FloatArray
) -> tuple[FloatArray, FloatArray, float, int]:
    """H and H·φ̂ of each market at φ, by generalised least squares with ATHL's weights; χ² and how many numbers.

    For an even execution over T, watched until T_post: Var I = σ² T_post, Cov(I, J) = σ² T/2, Var J = σ² T/3.
    """
    at = phi[index]
    b, beta, g = np.exp(at[:, 0]), at[:, 1], np.exp(at[:, 2])
    rate = orders.size / orders.duration
    temporary, permanent = b * rate**beta, g * orders.size
    jacobian = np.zeros((len(index), 2, 3))
    jacobian[:, 0, 0], jacobian[:, 0, 1], jacobian[:, 0, 2] = temporary, temporary * np.log(rate), 0.5 * permanent
    jacobian[:, 1, 2] = permanent
    residual = np.stack([orders.cost - 0.5 * permanent - temporary, orders.move - permanent], axis=1)
    seen = np.isfinite(orders.move)
    residual[~seen, 1] = 0.0
    weight = np.zeros((len(index), 2, 2))
    var_j, cov, var_i = orders.duration / 3, orders.duration / 2, np.where(seen, orders.watched, 1.0)
    determinant = var_j * var_i - np.where(seen, cov, 0.0) ** 2
    weight[:, 0, 0] = np.where(seen, var_i / determinant, 1.0 / var_j)
    weight[:, 1, 1] = np.where(seen, var_j / determinant, 0.0)
    weight[:, 0, 1] = weight[:, 1, 0] = np.where(seen, -cov / determinant, 0.0)
    weighted = np.einsum("nai,nab->nib", jacobian, weight)
    target = residual + np.einsum("naj,nj->na", jacobian, at)
    information, vector = np.zeros((n_markets, 3, 3)), np.zeros((n_markets, 3))
    np.add.at(information, index, weighted @ jacobian)
    np.add.at(vector, index, np.einsum("nib,nb->ni", weighted, target))
    chi2 = float(np.einsum("na,nab,nb->", residual, weight, residual))
    return information, vector, chi2, len(index) + int(seen.sum())
