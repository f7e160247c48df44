"""Batched closed form of linear Almgren-Chriss: shapes, cost and risk for whole arrays of problems.

Everything here works on fractions of the order (x_j / X and n_j / X), because in the uncapped linear model the
shape does not depend on the size: one shape serves every order size of a market.

With k = κτ and q = e^(-k), the paper's hyperbolic forms (17) and (18) are evaluated as

    x_j / X = q^j (1 - q^(2(N-j))) / (1 - q^(2N))                          j = 0..N
    n_j / X = q^(j-1) (1 - q) (1 + q^(2(N-j)+1)) / (1 - q^(2N))            j = 1..N

with every 1 - q^i from ``expm1``. No term cancels and none overflows, so slices keep their relative accuracy down to
the last one, and no branch is needed near κT = 0: with k at 2^-80 each ``expm1`` returns its argument and the ratios
are the straight line (N - j)/N and 1/N to the last bit.

Two habits keep a problem's bits the same alone and in any batch. Transcendental functions only ever see contiguous
memory (for reversed arrays numpy falls back to another implementation of ``exp`` with other last bits), and a sum over
steps is a tree of elementwise additions whose order depends on N alone. Inside a chunk the steps are the first axis: a
problem's own numbers (κτ, q, 1 - q^(2N)) then meet whole contiguous rows, which is 1.5 times faster than the other way.

References
----------
Almgren & Chriss (2001), "Optimal execution of portfolio transactions", J. Risk 3(2); equation numbers are those of the
December 2000 version.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tributary_opt.optimization.arguments import (
    FloatArray,
    Permanent,
    _check_permanent,
    _check_steps,
    _floats,
    _non_negative,
    _output,
    _positive,
    _representable,
)

__all__ = [
    "SolveStatus",
    "cost_and_variance",
    "decay_rate",
    "effective_eta",
    "half_life",
    "linear_shapes",
    "risk_aversion_from_urgency",
]

IntArray = NDArray[np.intp]

# κτ outside these changes no bit of any shape. Below, the shape differs from the straight line by (κT)²/6, under 2^-120
# for a million steps, and a power of two makes that line exact. Above, all is in slice 1, and κτ·j stays finite.
_SMALLEST_STEP_DECAY = 2.0**-80
_LARGEST_STEP_DECAY = 2.0**11
# sqrt(λσ²τ²/η̃) as an exponent of two; beyond it the exact limit is reached long since.
_ROOT_EXPONENT_LIMIT = 1000
# log(2) in two parts, so that i·log(2) is exact to twice the precision for |i| < 2^20.
_LOG2_HIGH = 6.93147180369123816490e-01
_LOG2_LOW = 1.90821492927058770002e-10
# Elements per scratch array: three of them and the output share a few MiB of cache (measured: a third of it is 1.5x
# slower, two thirds 1.06x, more is no faster).
_CHUNK_ELEMENTS = 98_304
# A step shorter than this could put κ beyond the double range.
_SHORTEST_STEP = 1e-300


class SolveStatus(IntEnum):
    """What became of one problem of a batch."""

    OK = 0
    #: η - γτ/2 <= 0: the problem has no minimum, the schedule is TWAP, costed with the true η and γ.
    TWAP_ETA_TILDE = 1
    #: An argument out of range: every number of the row is NaN.
    BAD_INPUT = 2
    #: No double holds the λ of the urgency asked for (or σ = 0, where none exists): λ is NaN, the schedule stands.
    RISK_AVERSION_OUT_OF_RANGE = 3
    #: The expected cost or its variance is beyond the double range: both are NaN, the schedule stands.
    COST_OUT_OF_RANGE = 4
    #: The caps together are smaller than the order: every number of the row is NaN.
    INFEASIBLE = 5
    #: Power law under ``paper`` with room for a slice whose cost is no longer convex: every number of the row is NaN.
    BEYOND_CONVEXITY = 6
    #: The search for the last costate was stopped by its sweep limit, or what it found near n* misses the optimality
    #: conditions: every number of the row is NaN.
    NOT_CONVERGED = 7


# ---------------------------------------------------------------------------------------------------------------------
# Coefficients
# ---------------------------------------------------------------------------------------------------------------------


def effective_eta(eta: ArrayLike, gamma: ArrayLike, tau: ArrayLike, permanent: Permanent = "paper") -> FloatArray:
    """Temporary impact left once the permanent cost γX²/2 is taken out: η̃ = η - γτ/2 (eq. 8).

    The product γτ/2 keeps its rounding error, so the difference is right to the last bit even where almost all of η
    cancels. Under ``midprice`` a trade pays half of its own permanent move and η̃ = η.

    Parameters
    ----------
    eta, gamma, tau : array_like, broadcastable
        Finite. [currency·day/contract²], [currency/contract²], [day]
    permanent : "paper" | "midprice"

    Returns
    -------
    ndarray
        η̃; zero or negative where the problem has no minimum. [currency·day/contract²]
    """
    _check_permanent(permanent)
    eta, gamma, tau = np.broadcast_arrays(_floats("eta", eta), _floats("gamma", gamma), _floats("tau", tau))
    if permanent == "midprice":
        return eta.copy()
    eta_m, eta_e = np.frexp(eta)
    gamma_m, gamma_e = np.frexp(gamma)
    tau_m, tau_e = np.frexp(tau)
    high, low = _two_product(gamma_m, tau_m)
    product_e = gamma_e + tau_e - 1
    shift = eta_e - product_e
    difference = (np.ldexp(eta_m, _clip(shift, -1100, 200)) - high) - low
    near = np.ldexp(difference, _clip(product_e, -2200, 1022))
    return np.where((shift > 200) | (gamma == 0) | (tau == 0), eta, near)


def decay_rate(risk_aversion: ArrayLike, eta_tilde: ArrayLike, sigma: ArrayLike, tau: ArrayLike) -> FloatArray:
    """Rate κ at which the optimal holdings decay.

    κ = (2/τ) asinh(κ̃τ/2) with κ̃² = λσ²/η̃: the paper's (2/τ²)(cosh κτ - 1) = κ̃² without its cancellation.

    Parameters
    ----------
    risk_aversion : array_like
        λ >= 0. [1/currency]
    eta_tilde : array_like
        η̃ > 0, from `effective_eta`. [currency·day/contract²]
    sigma : array_like
        σ >= 0. [currency/contract/√day]
    tau : array_like
        τ > 0. [day]

    Returns
    -------
    ndarray, the broadcast shape
        κ >= 0, zero only for λ = 0 or σ = 0 (or below the double range). [1/day]

    Raises
    ------
    ValueError
        For an argument out of range.
    """
    risk_aversion = _non_negative("risk_aversion", risk_aversion)
    eta_tilde, tau = _positive("eta_tilde", eta_tilde), _positive("tau", tau)
    sigma = _non_negative("sigma", sigma)
    with np.errstate(over="ignore"):  # κ itself may be beyond the range for τ < 1e-305
        kappa = _step_decay(risk_aversion, eta_tilde, sigma, tau) / tau
    return _representable("kappa", kappa)


def risk_aversion_from_urgency(
    urgency: ArrayLike, eta_tilde: ArrayLike, sigma: ArrayLike, tau: ArrayLike, n_steps: int
) -> FloatArray:
    """Risk aversion λ whose optimal schedule has a given urgency κT: the exact inverse of `decay_rate`.

    λ = κ̃² η̃ / σ² with κ̃ = (2/τ) sinh(κτ/2), formed with the exponent apart, so that nothing overflows on the way.

    Parameters
    ----------
    urgency : array_like
        κT >= 0. [-]
    eta_tilde, sigma, tau : array_like
        As in `decay_rate`; σ > 0 unless the urgency is zero.
    n_steps : int
        N >= 1. [-]

    Returns
    -------
    ndarray, the broadcast shape
        λ, finite; zero for urgency 0, and where it is below the smallest double. [1/currency]

    Raises
    ------
    ValueError
        For an argument out of range, and where no λ gives the urgency: σ = 0, or a λ above the largest double
        (κτ beyond about 700). `solve_linear_grid` gives such rows a status instead.
    """
    urgency = _non_negative("urgency", urgency)
    eta_tilde, tau = _positive("eta_tilde", eta_tilde), _positive("tau", tau)
    sigma = _non_negative("sigma", sigma)
    step_decay = urgency / _check_steps(n_steps)
    risk_aversion, reachable = _risk_aversion(step_decay, eta_tilde, sigma, tau)
    if not reachable.all():
        where = int(np.argmin(reachable.ravel()))
        u, s, t, e = (a.ravel()[where] for a in np.broadcast_arrays(urgency, sigma, tau, eta_tilde))
        raise ValueError(
            f"no finite risk_aversion gives urgency {u:g} at sigma={s:g}, tau={t:g}, eta_tilde={e:g}: "
            "ask for a lower urgency or more steps (sigma = 0 admits urgency 0 only)"
        )
    return risk_aversion


# ---------------------------------------------------------------------------------------------------------------------
# Shapes
# ---------------------------------------------------------------------------------------------------------------------


def linear_shapes(
    urgency: ArrayLike, n_steps: int, out: tuple[FloatArray | None, FloatArray | None] | None = None
) -> tuple[FloatArray, FloatArray]:
    """Optimal schedules as fractions of the order: share still held, and share traded in each step.

    Parameters
    ----------
    urgency : array_like, shape (...)
        κT >= 0; zero gives the straight line, TWAP. [-]
    n_steps : int
        N >= 1. [-]
    out : (remaining, slices), optional
        Where to write: C-contiguous float64 arrays of the shapes below; None allocates.

    Returns
    -------
    remaining : ndarray, shape (..., N + 1)
        x_j / X (eq. 17), from exactly 1 down to exactly 0, never rising. [-]
    slices : ndarray, shape (..., N)
        n_j / X (eq. 18), >= 0, each to a few units of its own last place. [-]

    Raises
    ------
    ValueError
        For an urgency that is negative or not finite, for n_steps < 1, or for an `out` of another shape.
    """
    urgency = _non_negative("urgency", urgency)
    n = _check_steps(n_steps)
    remaining, slices = out if out is not None else (None, None)
    remaining = _output("remaining", remaining, (*urgency.shape, n + 1))
    slices = _output("slices", slices, (*urgency.shape, n))
    _fill_shapes(np.ascontiguousarray(urgency).ravel() / n, remaining.reshape(-1, n + 1), slices.reshape(-1, n))
    return remaining, slices


def half_life(remaining: ArrayLike, tau: ArrayLike) -> FloatArray:
    """Time at which half of the order is done, on the actual path (straight within a step).

    Not A-C's "half-life" 1/κ, which is the e-folding time and knows nothing of the horizon.

    Parameters
    ----------
    remaining : array_like, shape (..., N + 1)
        Share still held (or holdings; the first entry is taken as the whole), never rising to 0. [-]
    tau : array_like, shape (...)
        Step length. [day]

    Returns
    -------
    ndarray, shape (...)
        TWAP: T/2. All in slice 1: τ/2. [day]
    """
    remaining = _floats("remaining", remaining)
    if remaining.ndim < 1 or remaining.shape[-1] < 2:
        raise ValueError(f"remaining must have a last axis of n_steps + 1 >= 2, got shape {remaining.shape}")
    if not (remaining[..., 1:] <= remaining[..., :-1]).all():
        raise ValueError("remaining must never rise along its last axis")
    steps_first = np.ascontiguousarray(np.moveaxis(remaining, -1, 0))
    return np.asarray(_floats("tau", tau) * _half_steps(steps_first))


def _half_steps(held: FloatArray) -> FloatArray:
    """Number of steps, with its fraction, after which half of each path (N + 1, ...) is gone."""
    half = 0.5 * held[0]
    still = (held > half).view(np.uint8)  # as bytes: to add booleans costs numpy a conversion each
    first = np.asarray(np.add.reduce(still, axis=0, dtype=np.min_scalar_type(len(held)))).astype(np.intp)
    lane = np.arange(half.size).reshape(half.shape)
    after = held.reshape(-1)[np.minimum(first, len(held) - 1) * half.size + lane]
    before = held.reshape(-1)[np.maximum(first - 1, 0) * half.size + lane]
    return np.asarray(first - (half - after) / np.where(before > after, before - after, 1.0))


# ---------------------------------------------------------------------------------------------------------------------
# Cost
# ---------------------------------------------------------------------------------------------------------------------


def cost_and_variance(
    trade_sizes: ArrayLike,
    *,
    eta: ArrayLike,
    gamma: ArrayLike,
    sigma: ArrayLike,
    tau: ArrayLike,
    epsilon: ArrayLike = 0.0,
    permanent: Permanent = "paper",
    holdings: ArrayLike | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Expected cost and its variance of any schedule of same-signed slices under the linear law.

    E = ε Σ n_j + (η/τ) Σ n_j² + γ Σ n_j x_j   (``paper``, eq. 4)
    E = ε Σ n_j + (η/τ) Σ n_j² + γ X²/2        (``midprice``)
    V = σ² τ Σ_{j>=1} x_j²                      (eq. 5)

    with x_j held after slice j. The first is the same as γX²/2 + εX + (η̃/τ) Σ n_j² (eq. 8), written without its
    cancellation: it stays exact for η̃ <= 0.

    Parameters
    ----------
    trade_sizes : array_like, shape (..., N)
        Slices >= 0, in order. [contracts]
    eta, gamma, sigma, tau, epsilon : array_like, broadcastable to (...)
        [currency·day/contract²], [currency/contract²], [currency/contract/√day], [day], [currency/contract]
    permanent : "paper" | "midprice"
    holdings : array_like, shape (..., N + 1), optional
        What is held before the first and after each slice; by default added up from the slices. [contracts]

    Returns
    -------
    expected_cost, cost_variance : ndarray, shape (...)
        [currency], [currency²]

    Raises
    ------
    ValueError
        For an argument out of range, or a cost beyond the double range.
    """
    _check_permanent(permanent)
    trade_sizes = _non_negative("trade_sizes", trade_sizes)
    if trade_sizes.ndim < 1 or trade_sizes.shape[-1] < 1:
        raise ValueError(f"trade_sizes must have a last axis of n_steps >= 1, got shape {trade_sizes.shape}")
    eta, gamma, sigma = _non_negative("eta", eta), _non_negative("gamma", gamma), _non_negative("sigma", sigma)
    tau, epsilon = _positive("tau", tau), _non_negative("epsilon", epsilon)
    # Fractions of a power of two: squares stay in range whatever the order's size, and no bit is lost.
    traded = np.ascontiguousarray(np.moveaxis(trade_sizes, -1, 0))
    exponent = np.frexp(traded.max(axis=0))[1] - 1
    traded = np.ldexp(traded, -exponent)
    if holdings is None:
        total, held = _held_after(traded)
    else:
        holdings = _non_negative("holdings", holdings)
        if holdings.shape != (*trade_sizes.shape[:-1], trade_sizes.shape[-1] + 1):
            raise ValueError(f"holdings must be one longer than trade_sizes, got {holdings.shape}, {trade_sizes.shape}")
        steps_first = np.ldexp(np.ascontiguousarray(np.moveaxis(holdings, -1, 0)), -exponent)
        total, held = steps_first[0], steps_first[1:]
    sums = _Sums(_sum_steps(traded * traded), _sum_steps(traded * held), _sum_steps(held * held))
    scale = np.ldexp(1.0, exponent)
    market = _Market(eta, gamma, sigma, epsilon, tau)
    expected_cost, variance = _scaled_cost(sums, scale, total, market, permanent)
    return _representable("expected_cost", expected_cost), _representable("cost_variance", variance)


@dataclass(frozen=True)
class _Market:
    """The coefficients of the linear law, arrays that broadcast against the sums over steps."""

    eta: FloatArray
    gamma: FloatArray
    sigma: FloatArray
    epsilon: FloatArray
    tau: FloatArray


@dataclass(frozen=True)
class _Sums:
    """The three sums over steps that the linear law needs, of fractions of the order."""

    trade_trade: FloatArray  # Σ n_j²
    trade_held: FloatArray  # Σ n_j x_j
    held_held: FloatArray  # Σ_{j>=1} x_j²


def _scaled_cost(
    sums: _Sums, size: FloatArray, total: FloatArray | float, market: _Market, permanent: Permanent
) -> tuple[FloatArray, FloatArray]:
    """E and V of an order `size` times the fractions of `sums`, which add up to `total`.

    The order of the products matters: X(ε + cX) and (σ√τ√P X)² leave the range only where the result does.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # beyond the range becomes inf or NaN: for the caller to refuse
        permanent_sum = sums.trade_held if permanent == "paper" else 0.5 * np.square(total)
        impact = market.eta / market.tau * sums.trade_trade + market.gamma * permanent_sum
        expected_cost = size * (market.epsilon * total + size * impact)
        variance = np.square(market.sigma * np.sqrt(market.tau) * np.sqrt(sums.held_held) * size)
    return np.asarray(expected_cost), np.asarray(variance)


def _held_after(traded: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Total of the slices (N, ...), and what is held after each of them, added up from the end."""
    held = np.zeros(traded.shape)
    if len(traded) > 1:
        np.cumsum(traded[:0:-1], axis=0, out=held[-2::-1])
    return held[0] + traded[0], held


def _sum_steps(terms: NDArray[Any]) -> NDArray[Any]:
    """Sum over the first axis, which it overwrites: a tree of elementwise additions, the same for any batch."""
    n = len(terms)
    while n > 1:
        half = (n + 1) // 2
        np.add(terms[: n - half], terms[half:n], out=terms[: n - half])
        n = half
    return np.array(terms[0])


# ---------------------------------------------------------------------------------------------------------------------
# Kernels
# ---------------------------------------------------------------------------------------------------------------------


class _Workspace:
    """Scratch for a chunk of up to `rows` shapes of N steps; what it computes for a row depends on that row alone.

    Where the processor has no wide exponential (before AVX-512), one costs as much as twenty products. So they are
    taken at a few steps only: with i = a + bs, q^i = q^(bs) q^a, and 1 - q^i = (1 - q^(bs)) q^a + (1 - q^a), where
    nothing cancels. Twice the square root of N powers make all N, or three times the cube root.
    """

    def __init__(self, rows: int, n_steps: int) -> None:
        self._n, points = n_steps, n_steps + 1
        counts = min((_counts(points, depth) for depth in (2, 3)), key=_cost)
        strides = [math.prod(counts[:level]) for level in range(len(counts))]
        self._levels = [
            stride * np.arange(count, dtype=float)[:, np.newaxis] for stride, count in zip(strides, counts, strict=True)
        ]
        self._arrays = tuple(_aligned(math.prod(counts) * rows) for _ in range(3))
        self._small = tuple(_aligned(strides[-1] * rows) for _ in range(2))

    def _powers(self, k: FloatArray) -> tuple[FloatArray, FloatArray]:
        """q^i and -(1 - q^(2i)) for i = 0..N (or some more), each (N + 1, B)."""
        rows = len(k)
        power: FloatArray = np.ones((1, rows))
        lost: FloatArray = np.zeros((1, rows))
        for level, steps in enumerate(self._levels):
            each = steps * -k
            further: FloatArray = np.ones(each.shape)
            np.exp(each[1:], out=further[1:])
            missing = np.zeros(each.shape)
            if len(steps) > 1:
                np.expm1(2.0 * each[1], out=missing[1])
                twice = np.square(further[1])
                for i in range(2, len(steps)):
                    np.add(np.multiply(missing[i - 1], twice, out=missing[i]), missing[1], out=missing[i])
            shape = (len(steps), len(power), rows)
            if level == 0:
                power, lost = further, missing
                continue
            out = self._small if level < len(self._levels) - 1 else self._arrays
            wider, lost_wider = (a[: math.prod(shape)].reshape(shape) for a in out[:2])
            np.multiply(further[:, np.newaxis], power, out=wider)
            squared = np.square(power, out=self._arrays[2][: power.size].reshape(power.shape))
            np.multiply(missing[:, np.newaxis], squared, out=lost_wider)
            np.add(lost_wider, lost, out=lost_wider)
            power, lost = wider.reshape(-1, rows), lost_wider.reshape(-1, rows)
        return power, lost

    def fill(
        self, step_decay: FloatArray, remaining: FloatArray, slices: FloatArray | None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Shapes of κτ (B,) into `remaining` (B, N + 1) and `slices` (B, N).

        Returns Σ n_j², Σ_{j>=1} x_j² and the half-life in steps, each (B,).
        """
        n, rows = self._n, len(step_decay)
        k = np.minimum(np.maximum(step_decay, _SMALLEST_STEP_DECAY), _LARGEST_STEP_DECAY)
        powers, lost = self._powers(k)
        spare = self._arrays[2][: (n + 1) * rows].reshape(n + 1, rows)
        decayed, mirrored = powers[: n + 1], lost[n::-1]  # q^j, -(1 - q^(2(N-j)))
        # -(1 - q^(2N)) divides every slice: its error is that of their sum. The holdings' is cancelled by lost[n]'s.
        whole = np.expm1(n * (-2.0 * k))
        q = np.array(decayed[1])
        common = lost[1] / (1.0 + q) / whole  # C = (1 - q) / (1 - q^(2N))
        tail = 2.0 * n * (1.0 + q) * common * (decayed[n] * decayed[n - 1])
        if slices is not None:
            # q^(j-1) C (1 + q^(2(N-j)+1)), the bracket as (1 + q) - q (1 - q^(2(N-j))).
            traded = np.multiply(mirrored[1:], common * q, out=spare[:-1])
            np.add(traded, common * (1.0 + q), out=traded)
            np.multiply(traded, decayed[:-1], out=traded)
            np.copyto(slices, traded.T if n > 1 else 1.0)
        # Σ n_j² = tanh(k/2) (coth kN + N sinh k / sinh² kN), from eq. 20's companion for E, in the same exponentials.
        trade_trade = common / (1.0 + q) * ((2.0 + whole) + tail) if n > 1 else np.ones(rows)

        held = np.multiply(decayed, mirrored, out=decayed)
        np.divide(held, lost[n], out=held)
        held[0], held[-1] = 1.0, 0.0
        np.copyto(remaining, held.T)
        held_held = _sum_steps(np.multiply(held[1:], held[1:], out=spare[:-1]))
        return trade_trade, held_held, _half_steps(held)


def _counts(points: int, depth: int) -> tuple[int, ...]:
    """Numbers of powers whose products, `depth` of them at a time, are at least `points`."""
    radix = math.ceil(points ** (1.0 / depth))
    return (*[radix] * (depth - 1), -(points // -(radix ** (depth - 1))))


def _cost(counts: tuple[int, ...]) -> int:
    """Rows of products that powers by these counts cost, an exponential counted as fifteen (measured). [-]"""
    return 15 * sum(counts) + 3 * sum(math.prod(counts[: level + 1]) for level in range(1, len(counts)))


def _aligned(count: int) -> FloatArray:
    """Uninitialised doubles on a 64-byte boundary, where wide vector loads and stores do not straddle two lines."""
    raw = np.empty(count + 8)
    start = (-raw.ctypes.data // 8) % 8
    return raw[start : start + count]


def _fill_shapes(step_decay: FloatArray, remaining: FloatArray, slices: FloatArray) -> None:
    """`_Workspace.fill` over any number of rows, a cache-sized chunk at a time."""
    n = slices.shape[-1]
    rows = max(1, _CHUNK_ELEMENTS // (n + 1))
    work = _Workspace(min(rows, len(step_decay)), n)
    for start in range(0, len(step_decay), rows):
        part = slice(start, start + rows)
        work.fill(step_decay[part], remaining[part], slices[part])


def _step_decay(risk_aversion: FloatArray, eta_tilde: FloatArray, sigma: FloatArray, tau: FloatArray) -> FloatArray:
    """κτ = 2 asinh(√m / 2) with m = λσ²τ²/η̃, from mantissas and exponents apart: m itself may be out of range."""
    # Where nothing is near either end of the range, to the same bits without: what is taken apart are powers of two.
    with np.errstate(over="ignore"):
        ratio, move = risk_aversion / eta_tilde, sigma * tau
    if _ordinary(ratio) and _ordinary(move):
        return np.asarray(2.0 * np.arcsinh(np.asarray(0.5 * (np.sqrt(ratio) * move), order="C")))
    risk_m, risk_e = np.frexp(risk_aversion)
    eta_m, eta_e = np.frexp(eta_tilde)
    sigma_m, sigma_e = np.frexp(sigma)
    tau_m, tau_e = np.frexp(tau)
    exponent = risk_e - eta_e
    odd = exponent & 1
    root = np.sqrt(np.ldexp(risk_m / eta_m, odd)) * (sigma_m * tau_m)
    exponent = (exponent - odd) // 2 + sigma_e + tau_e
    # Clipped, the result is still the limit: κτ above 1,380 trades everything in slice 1.
    root = np.ldexp(root, _clip(exponent, -2 * _ROOT_EXPONENT_LIMIT, _ROOT_EXPONENT_LIMIT) - 1)
    return np.asarray(2.0 * np.arcsinh(np.asarray(root, order="C")))


def _ordinary(values: FloatArray) -> bool:
    """Whether products of two and quotients are far from both ends of the range: no zero among them."""
    return bool(values.size and values.min() > 1e-140 and values.max() < 1e140)


def _risk_aversion(
    step_decay: FloatArray, eta_tilde: FloatArray, sigma: FloatArray, tau: FloatArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """λ = (2 sinh(κτ/2))² η̃ / (στ)², and where a double holds it; NaN elsewhere."""
    k = np.asarray(step_decay, order="C")
    capped = np.minimum(k, 2.0**14)  # e^16384 · η̃/(στ)² is beyond the range for any doubles
    doublings = np.rint(capped * (1.0 / np.log(2.0)))
    # e^k = 2^doublings · e^rest; 2 sinh(k/2) = e^(k/2) (1 - e^-k).
    rest = (capped - doublings * _LOG2_HIGH) - doublings * _LOG2_LOW
    one_minus_m, one_minus_e = np.frexp(-np.expm1(-capped))
    eta_m, eta_e = np.frexp(eta_tilde)
    sigma_m, sigma_e = np.frexp(sigma)
    tau_m, tau_e = np.frexp(tau)
    divisor = np.square(np.where(sigma_m > 0, sigma_m, 1.0) * tau_m)
    mantissa = np.exp(rest) * np.square(one_minus_m) * eta_m / divisor
    exponent = doublings.astype(np.int64) + 2 * one_minus_e.astype(np.int64) + eta_e
    exponent = exponent - 2 * (sigma_e.astype(np.int64) + tau_e)
    mantissa, extra = np.frexp(mantissa)
    exponent = exponent + extra
    none = np.asarray((k == 0) | (mantissa == 0))
    reachable = np.asarray(none | ((sigma > 0) & (exponent <= 1024)))
    value = np.ldexp(mantissa, _clip(exponent, -1200, 1023).astype(np.intc))
    value = np.where(exponent == 1024, value * np.where(exponent == 1024, 2.0, 1.0), value)
    return np.where(reachable, np.where(none, 0.0, value), np.nan), reachable


def _clip(exponent: NDArray[Any], low: int, high: int) -> NDArray[Any]:
    """`np.clip` without its overhead, which a single order would feel."""
    return np.asarray(np.minimum(np.maximum(exponent, low), high))


def _two_product(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """a·b as a rounded product and its exact error (Dekker), for |a|, |b| <= 1."""
    product = a * b
    a_scaled, b_scaled = 134217729.0 * a, 134217729.0 * b
    a_high = a_scaled - (a_scaled - a)
    b_high = b_scaled - (b_scaled - b)
    a_low, b_low = a - a_high, b - b_high
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
