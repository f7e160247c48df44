"""Schedules of many markets at once under any law, convention and constraint: what the night's precompute calls.

`solve_linear_grid` is the fast path for constant coefficients; here stand the cases it does not cover, over markets x
risk levels x order sizes: volume time, the power law and caps (`solve_grid`), and the strategies whose schedule is
given (`fixed_grid`), all on `problem`'s one cost; and the caps that the one keeps and the other may break.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tributary_opt.optimization.arguments import FloatArray, Permanent, _check_steps, _floats, _in_range
from tributary_opt.optimization.closed_form import SolveStatus, _half_steps, _risk_aversion, _step_decay
from tributary_opt.optimization.problem import EXPONENT_RANGE, ImpactLaw, Problem, market_problem, schedule_cost
from tributary_opt.optimization.riccati import nothing_yet
from tributary_opt.optimization.solver import solve

__all__ = ["ScheduleGrid", "breaks_cap", "fixed_grid", "slice_caps", "solve_grid"]


@dataclass(frozen=True, eq=False)
class ScheduleGrid:
    """Schedules of M markets x L risk levels x S order sizes over one horizon of N steps; refused rows are NaN."""

    holdings: FloatArray  #: x_j, shape (M, L, S, N + 1). [contracts]
    slices: FloatArray  #: n_j, shape (M, L, S, N). [contracts]
    expected_cost: FloatArray  #: E, shape (M, L, S). [currency]
    cost_variance: FloatArray  #: V, shape (M, L, S). [currency²]
    risk_aversion: FloatArray  #: λ, shape (M, L, S): by urgency it depends on the size under a power law. [1/currency]
    urgency: FloatArray  #: T over the law's time scale with mean coefficients: κT, or T/T*; shape (M, L, S). [-]
    decay_time: FloatArray  #: 1/κ or T*, shape (M, L, S); inf at λ = 0. [day]
    half_life: FloatArray  #: when half of the order is done, shape (M, L, S). [day]
    status: NDArray[np.int8]  #: `SolveStatus`, shape (M, L, S). [-]


def solve_grid(
    eta: ArrayLike,
    gamma: ArrayLike,
    sigma: ArrayLike,
    epsilon: ArrayLike,
    order_sizes: ArrayLike,
    *,
    horizon: ArrayLike,
    n_steps: int,
    risk_aversion: ArrayLike | None = None,
    urgency: ArrayLike | None = None,
    impact_law: ImpactLaw = "linear",
    alpha: ArrayLike = 1.0,
    reference_rate: ArrayLike = np.nan,
    permanent: Permanent | None = None,
    volume_profile: ArrayLike | None = None,
    variance_profile: ArrayLike | None = None,
    volume: ArrayLike | None = None,
    max_participation: float | None = None,
    max_slice: float | None = None,
) -> ScheduleGrid:
    """Optimal schedules under any law, convention and constraint, with their cost and risk.

    A market with bad numbers costs the others nothing: its rows are NaN and `status` says so. Every row has the bits it
    would have alone.

    Parameters
    ----------
    eta, gamma, sigma, epsilon, horizon, alpha, reference_rate : array_like, broadcastable to (M,)
        As in `market_problem`.
    order_sizes : array_like, shape (M, S), or (S,) for all markets
        X > 0. [contracts]
    n_steps : int
        N >= 1. [-]
    risk_aversion, urgency : array_like, shape (L,) or (M, L)
        Exactly one of them. Urgency 0 is VWAP in volume time, TWAP by the clock.
    impact_law, permanent
        As in `market_problem`.
    volume_profile, variance_profile : array_like, shape (M, N) or (N,), optional
        Weights of the slices by volume and by variance, as from an hour-of-day profile: impact falls with the first,
        risk follows the second.
    volume : array_like, broadcastable to (M,), optional
        Expected over the horizon, for `max_participation`. [contracts]
    max_participation : float, optional
        Largest share of a slice's volume, volume · w_j. [-]
    max_slice : float, optional
        Largest share of the order in a slice. [-]

    Returns
    -------
    ScheduleGrid
    """
    n = _check_steps(n_steps)
    if (risk_aversion is None) == (urgency is None):
        raise ValueError("give exactly one of risk_aversion and urgency")
    if (max_participation is None) != (volume is None):
        raise ValueError("max_participation and volume belong together")
    sizes = np.atleast_2d(_floats("order_sizes", order_sizes))[:, np.newaxis, :]
    level = np.atleast_2d(_floats("risk_aversion", risk_aversion) if urgency is None else _floats("urgency", urgency))
    level = level[:, :, np.newaxis]
    named = {"eta": eta, "gamma": gamma, "sigma": sigma, "epsilon": epsilon, "horizon": horizon}
    named |= {"alpha": alpha, "reference_rate": reference_rate}
    market: dict[str, Any] = {name: _floats(name, value).reshape(-1, 1, 1) for name, value in named.items()}
    shape = np.broadcast_shapes(sizes.shape, level.shape, *(a.shape for a in market.values()))
    # A market whose parameters are no numbers, or whose profile is none, is solved as another and then refused.
    profiles: dict[str, Any] = {}
    bad = np.zeros((shape[0], 1, 1), dtype=bool)
    for name, weights in (("volume_profile", volume_profile), ("variance_profile", variance_profile)):
        if weights is not None:
            w = np.atleast_2d(_floats(name, weights))
            good = np.asarray(_in_range(w).all(axis=-1))
            bad |= ~good[:, np.newaxis, np.newaxis]
            profiles[name] = np.where(good[:, np.newaxis], w, 1.0)[:, np.newaxis, np.newaxis, :]
    cap = slice_caps(
        sizes,
        n,
        volume=np.nan if volume is None else _floats("volume", volume).reshape(-1, 1, 1),
        volume_profile=profiles.get("volume_profile"),
        max_participation=max_participation,
        max_slice=max_slice,
    )
    if not (cap >= 0).all():
        bad = bad | ~(cap >= 0).all(axis=-1)
        cap = np.where(cap >= 0, cap, np.inf)
    common: dict[str, Any] = {
        "impact_law": impact_law,
        "permanent": permanent,
        "n_steps": n,
        "cap": cap,
        "check": False,
    }

    def problem_of(lam: FloatArray) -> Problem:
        return market_problem(
            np.broadcast_to(sizes, shape),
            lam,
            **market,
            **profiles,
            **common,
        )

    one = problem_of(np.zeros(shape))
    flat = market_problem(
        np.broadcast_to(sizes, shape), np.zeros(shape), **market,
        **common,
    )  # fmt: skip
    tau, a, sd = flat.tau[..., 0], flat.impact[..., 0], flat.slice_sd[..., 0]
    low, high = EXPONENT_RANGE
    k = flat.exponent
    usable = np.isfinite(a) & (a > 0) & _in_range(sd) & _in_range(tau) & (tau > 0) & (k >= low) & (k <= high)
    usable &= np.broadcast_to(sizes, shape) > 0
    a, sd, tau_ = np.where(usable, a, 1.0), np.where(usable, sd, 1.0), np.where(usable, tau, 1.0)
    k = np.where(usable, k, 1.0)
    status = np.zeros(shape, dtype=np.int8)
    if urgency is None:
        lam = np.broadcast_to(level, shape).copy()
        decay = _decay_of(np.where(_in_range(lam), lam, 0.0), a, sd, k, np.where(usable, sizes, 1.0))
    else:
        good = _in_range(np.broadcast_to(level, shape))
        decay = np.where(good, np.broadcast_to(level, shape), 0.0) / n
        linear, reachable = _risk_aversion(decay, a, sd, np.ones(shape))
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            law = np.power(decay, k + 1.0) * k * a * np.power(np.where(usable, sizes, 1.0), k - 1.0) / np.square(sd)
        reachable = np.where(k == 1.0, reachable, np.isfinite(law))
        lam = np.where(k == 1.0, linear, np.where(decay == 0, 0.0, law))
        bad = bad | ~good
        status[~reachable & usable] = SolveStatus.RISK_AVERSION_OUT_OF_RANGE
        lam = np.where(reachable, lam, np.where(sd == 0, 0.0, np.finfo(float).max))
    problem = Problem(**{**one.__dict__, "risk_aversion": lam})
    solution = solve(problem)
    cost = schedule_cost(problem, solution.slices, solution.holdings)
    status = np.where(solution.status != 0, solution.status, status).astype(np.int8)
    refused = np.broadcast_to(bad, shape) | np.isnan(solution.slices[..., 0])
    status[np.broadcast_to(bad, shape)] = SolveStatus.BAD_INPUT
    expected, variance = cost.expected_cost.copy(), cost.cost_variance.copy()
    beyond = ~refused & ~(np.isfinite(expected) & np.isfinite(variance))
    status[beyond] = SolveStatus.COST_OUT_OF_RANGE
    expected[beyond | refused] = variance[beyond | refused] = np.nan
    twap = status == SolveStatus.TWAP_ETA_TILDE
    decay, lam = np.where(twap, 0.0, decay), lam.copy()
    lam[status == SolveStatus.RISK_AVERSION_OUT_OF_RANGE] = np.nan
    with np.errstate(divide="ignore", over="ignore"):
        decay_time = tau_ / decay
    share = solution.holdings / np.broadcast_to(np.where(usable, sizes, 1.0), shape)[..., np.newaxis]
    share[refused] = 0.0
    half = _half_steps(np.ascontiguousarray(np.moveaxis(share, -1, 0))) * tau_
    for array in (solution.slices, solution.holdings, lam, decay, decay_time, half):
        array[refused] = np.nan
    return ScheduleGrid(
        holdings=solution.holdings,
        slices=solution.slices,
        expected_cost=expected,
        cost_variance=variance,
        risk_aversion=lam,
        urgency=decay * n,
        decay_time=decay_time,
        half_life=half,
        status=status,
    )


def slice_caps(
    order_sizes: ArrayLike,
    n_steps: int,
    *,
    volume: ArrayLike = np.nan,
    volume_profile: ArrayLike | None = None,
    max_participation: float | None = None,
    max_slice: float | None = None,
) -> FloatArray:
    """What limits leave each slice of orders: of its volume the one share, of the order the other.

    Parameters
    ----------
    order_sizes, volume : array_like, shape (...)
        X, and what is expected to trade over the horizon. [contracts]
    volume_profile : array_like, shape (..., N), optional
        Weights of the slices by volume; without them, or where they are all 0, the slices share alike.
    max_participation, max_slice : float, optional
        As in `solve_grid`. [-]

    Returns
    -------
    ndarray, broadcastable to (..., N)
        inf where nothing limits. [contracts]
    """
    caps: FloatArray = np.broadcast_to(np.inf, n_steps)
    if max_participation is not None:
        if not 0 < max_participation <= 1:
            raise ValueError(f"max_participation must be > 0 and <= 1, got {max_participation:g}")
        shares = np.full(n_steps, 1.0) if volume_profile is None else _floats("volume_profile", volume_profile)
        total = shares.sum(axis=-1, keepdims=True)
        shares = np.where(total > 0, shares / np.where(total > 0, total, 1.0), 1.0 / n_steps)
        caps = max_participation * _floats("volume", volume)[..., np.newaxis] * shares
    if max_slice is not None:
        if not 0 < max_slice <= 1:
            raise ValueError(f"max_slice must be > 0 and <= 1, got {max_slice:g}")
        caps = np.minimum(caps, max_slice * _floats("order_sizes", order_sizes)[..., np.newaxis])
    return caps


def breaks_cap(slices: ArrayLike, caps: ArrayLike) -> NDArray[np.bool_]:
    """Whether a slice of a given schedule is above its cap by more than rounding, shape (...)."""
    allowed = _floats("caps", caps) * (1.0 + 4.0 * np.finfo(float).eps)
    return np.asarray((_floats("slices", slices) > allowed).any(axis=-1))


def _decay_of(lam: FloatArray, a: FloatArray, sd: FloatArray, k: FloatArray, size: FloatArray) -> FloatArray:
    """κτ of the linear law, τ/T* of the power law, of mean coefficients."""
    one = np.ones(lam.shape)
    linear = _step_decay(lam, a * one, sd * one, one)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        law = np.power(lam * np.square(sd) * np.power(size, 1.0 - k) / (k * a), 1.0 / (k + 1.0))
    return np.where(k == 1.0, linear, np.minimum(law, np.finfo(float).max))


def fixed_grid(
    problem: Problem, shares: ArrayLike, shares_held: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Holdings, E, V and half-life of given schedules on a batch of problems: TWAP, VWAP, everything at once.

    Parameters
    ----------
    problem : Problem
    shares : array_like, broadcastable to (..., N)
        Share of the order in each slice, >= 0, adding up to 1. [-]
    shares_held : array_like, broadcastable to (..., N + 1), optional
        Share held before the first and after each slice, from 1 to 0; by default added up from the end. [-]

    Returns
    -------
    holdings, expected_cost, cost_variance, half_life : ndarray, shapes (..., N + 1), (...), (...), (...)
        NaN where the problem is not `valid`, or a cost is beyond the double range. [contracts], [currency],
        [currency²], [day]
    """
    n = problem.n_steps
    parts = np.ascontiguousarray(np.moveaxis(_floats("shares", shares), -1, 0))
    if shares_held is None:
        held = np.zeros((n + 1, *parts.shape[1:]))
        for j in range(n - 1, -1, -1):
            held[j] = held[j + 1] + parts[j]
        np.minimum(held, 1.0, out=held)
        held[0] = 1.0
        nothing_yet(parts, held)
    else:
        held = np.ascontiguousarray(np.moveaxis(_floats("shares_held", shares_held), -1, 0))
    size = problem.order_size[..., np.newaxis]
    good = problem.valid & np.isfinite(problem.order_size)
    size = np.where(good[..., np.newaxis], size, 1.0)
    holdings = size * np.moveaxis(held, 0, -1)
    cost = schedule_cost(problem, size * np.moveaxis(parts, 0, -1), holdings)
    good &= np.isfinite(cost.expected_cost) & np.isfinite(cost.cost_variance)
    expected, variance = np.where(good, cost.expected_cost, np.nan), np.where(good, cost.cost_variance, np.nan)
    return holdings, expected, variance, _half_steps(held) * problem.tau[..., 0]
