"""The night's grid: schedules, E and V of markets x risk levels x order sizes under the linear law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tributary_opt.optimization.closed_form import (
    _CHUNK_ELEMENTS,
    _SHORTEST_STEP,
    FloatArray,
    Permanent,
    SolveStatus,
    _check_permanent,
    _check_steps,
    _floats,
    _in_range,
    _Market,
    _output,
    _risk_aversion,
    _scaled_cost,
    _step_decay,
    _Sums,
    _Workspace,
    effective_eta,
)

__all__ = ["LinearGrid", "solve_linear_grid"]

# Fields of `LinearGrid` with a first axis of markets and a second of risk levels.
_GRID_BY_LEVEL = ("remaining", "slices", "holdings", "expected_cost", "cost_variance", "risk_aversion", "kappa",
                  "urgency", "decay_time", "half_life")  # fmt: skip


@dataclass(frozen=True)
class LinearGrid:
    """Schedules of M markets x L risk levels x S order sizes over one horizon of N steps.

    ``remaining`` and ``slices`` are the size-free shapes; ``holdings`` is None where it was not asked for.
    """

    remaining: FloatArray  #: x_j / X, shape (M, L, N + 1): 1 down to 0, never rising. [-]
    slices: FloatArray | None  #: n_j / X, shape (M, L, N), >= 0. [-]
    holdings: FloatArray | None  #: x_j, shape (M, L, S, N + 1). [contracts]
    expected_cost: FloatArray  #: E, shape (M, L, S). [currency]
    cost_variance: FloatArray  #: V, shape (M, L, S). [currency²]
    risk_aversion: FloatArray  #: λ, shape (M, L); NaN where no double holds it. [1/currency]
    kappa: FloatArray  #: κ, shape (M, L). [1/day]
    urgency: FloatArray  #: κT of the schedule, shape (M, L); 0 where η̃ <= 0 made it TWAP. [-]
    decay_time: FloatArray  #: 1/κ, shape (M, L); inf where κ = 0, to be stored as NULL. [day]
    half_life: FloatArray  #: time at which half of the order is done, shape (M, L). [day]
    eta_tilde: FloatArray  #: η̃ (``paper``) or η (``midprice``), shape (M,). [currency·day/contract²]
    tau: FloatArray  #: step length, shape (M,). [day]
    status: NDArray[np.int8]  #: ``SolveStatus``, shape (M, L, S). [-]

    def part(self, markets: slice) -> LinearGrid:
        """Some of the markets, as views."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        views: dict[str, Any] = {name: None if a is None else a[markets] for name, a in arrays.items()}
        return LinearGrid(**views)


def solve_linear_grid(
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
    permanent: Permanent = "paper",
    holdings: bool | FloatArray = True,
    slices: bool | FloatArray = False,
    remaining: FloatArray | None = None,
) -> LinearGrid:
    """Schedules, expected costs and variances of many markets at once, one shape per (market, risk level).

    A market with bad numbers costs the others nothing: its rows are NaN and `status` says so.

    Parameters
    ----------
    eta, gamma, sigma, epsilon : array_like, broadcastable to (M,)
        All >= 0; η - γτ/2 <= 0 gives TWAP with a status.
        [currency·day/contract²], [currency/contract²], [currency/contract/√day], [currency/contract]
    order_sizes : array_like, shape (M, S), or (S,) for all markets
        X > 0. [contracts]
    horizon : array_like, broadcastable to (M,)
        T > 0; the step is τ = T / N. [day]
    n_steps : int
        N >= 1. [-]
    risk_aversion : array_like, shape (L,) or (M, L)
        λ >= 0. Give either this or `urgency`. [1/currency]
    urgency : array_like, shape (L,) or (M, L)
        κT >= 0; the λ it stands for is returned. [-]
    permanent : "paper" | "midprice"
    holdings : bool or ndarray, shape (M, L, S, N + 1)
        Whether to scale the shapes over the sizes, or where to.
    slices : bool or ndarray, shape (M, L, N)
        Whether to return slices, or where to write them.
    remaining : ndarray, shape (M, L, N + 1), optional
        Where to write the shapes; reuse it from night to night, fresh pages cost more than the arithmetic.

    Returns
    -------
    LinearGrid
        Row by row bit-identical to the same problem alone, whatever its neighbours.

    Raises
    ------
    TypeError, ValueError
        For wrong types or shapes only.
    """
    _check_permanent(permanent)
    n = _check_steps(n_steps)
    if (risk_aversion is None) == (urgency is None):
        raise ValueError("give exactly one of risk_aversion and urgency")
    sizes = np.atleast_2d(_floats("order_sizes", order_sizes))
    level = np.atleast_2d(_floats("risk_aversion", risk_aversion) if urgency is None else _floats("urgency", urgency))
    named = {"eta": eta, "gamma": gamma, "sigma": sigma, "epsilon": epsilon, "horizon": horizon}
    market = [np.atleast_1d(_floats(name, value)) for name, value in named.items()]
    if sizes.ndim != 2 or level.ndim != 2 or any(a.ndim != 1 for a in market):
        raise ValueError("need market arrays of shape (M,), order_sizes (M, S) or (S,), risk levels (M, L) or (L,)")
    (m_count,) = np.broadcast_shapes(sizes.shape[:1], level.shape[:1], *(a.shape for a in market))
    sizes = np.broadcast_to(sizes, (m_count, sizes.shape[1]))
    level = np.broadcast_to(level, (m_count, level.shape[1]))
    eta_, gamma_, sigma_, epsilon_, horizon_ = (np.broadcast_to(a, (m_count,)) for a in market)
    s_count, l_count = sizes.shape[1], level.shape[1]

    by_level, by_size = (m_count, l_count), (m_count, l_count, s_count)
    grid = LinearGrid(
        remaining=_output("remaining", remaining, (*by_level, n + 1)),
        slices=_optional_output("slices", slices, (*by_level, n)),
        holdings=_optional_output("holdings", holdings, (*by_size, n + 1)),
        expected_cost=np.empty(by_size),
        cost_variance=np.empty(by_size),
        risk_aversion=np.empty(by_level),
        kappa=np.empty(by_level),
        urgency=np.empty(by_level),
        decay_time=np.empty(by_level),
        half_life=np.empty(by_level),
        eta_tilde=np.empty(m_count),
        tau=np.empty(m_count),
        status=np.empty(by_size, dtype=np.int8),
    )
    # A chunk at a time from its arguments to its status: arrays of all markets would be fresh pages, each time.
    markets = max(1, _CHUNK_ELEMENTS // ((n + 1) * max(1, l_count)))
    work = _Workspace(min(markets, m_count) * l_count, n)
    for start in range(0, m_count, markets):
        part = slice(start, min(start + markets, m_count))
        given = (a[part] for a in (eta_, gamma_, sigma_, epsilon_, horizon_, sizes, level))
        _fill_grid(grid.part(part), work, *given, urgent=urgency is not None, permanent=permanent)
    return grid


def _fill_grid(
    grid: LinearGrid,
    work: _Workspace,
    eta: FloatArray,
    gamma: FloatArray,
    sigma: FloatArray,
    epsilon: FloatArray,
    horizon: FloatArray,
    sizes: FloatArray,
    level: FloatArray,
    *,
    urgent: bool,
    permanent: Permanent,
) -> None:
    """Fill a chunk of markets; ``level`` (M, L) is their urgency where ``urgent``, else their risk aversion."""
    n = grid.remaining.shape[-1] - 1
    # Refused rows are solved with harmless numbers and overwritten at the end.
    bad_market = ~(_in_range(eta) & _in_range(gamma) & _in_range(sigma) & _in_range(epsilon) & _in_range(horizon))
    bad_market |= ~(horizon >= _SHORTEST_STEP * n)
    eta, horizon = np.where(bad_market, 1.0, eta), np.where(bad_market, 1.0, horizon)
    gamma, sigma, epsilon = (np.where(bad_market, 0.0, a) for a in (gamma, sigma, epsilon))
    bad_level = bad_market[:, np.newaxis] | ~_in_range(level)
    level = np.where(bad_level, 0.0, level)
    bad_size = ~(_in_range(sizes) & (sizes > 0))
    sizes = np.where(bad_size, 1.0, sizes)

    tau = horizon / n
    eta_tilde = effective_eta(eta, gamma, tau, permanent)
    no_minimum = eta_tilde <= 0
    safe_eta = np.where(no_minimum, 1.0, eta_tilde)[:, np.newaxis]
    if urgent:
        step_decay = level / n
        lam, reachable = _risk_aversion(step_decay, safe_eta, sigma[:, np.newaxis], tau[:, np.newaxis])
        lam[no_minimum] = np.nan
    else:
        step_decay = _step_decay(level, safe_eta, sigma[:, np.newaxis], tau[:, np.newaxis])
        lam, reachable = level, np.ones(level.shape, dtype=bool)
    step_decay = np.where(no_minimum[:, np.newaxis], 0.0, step_decay)

    shape = grid.remaining.reshape(step_decay.size, n + 1)
    traded = None if grid.slices is None else grid.slices.reshape(step_decay.size, n)
    found = work.fill(step_decay.ravel(), shape, traded)
    trade_trade, held_held, half_steps = (a.reshape(*step_decay.shape, 1) for a in found)
    # 2 Σ n_j x_j = 1 - Σ n_j². What cancels near 1 is below the rounding of (η/τ) Σ n_j², as γ/2 < η/τ there.
    sums = _Sums(trade_trade, 0.5 * (1.0 - trade_trade), held_held)
    market = _Market(*(a[:, np.newaxis, np.newaxis] for a in (eta, gamma, sigma, epsilon, tau)))
    size = sizes[:, np.newaxis, :]
    grid.expected_cost[...], grid.cost_variance[...] = _scaled_cost(sums, size, 1.0, market, permanent)
    if grid.holdings is not None:
        np.multiply(grid.remaining[:, :, np.newaxis, :], size[..., np.newaxis], out=grid.holdings)
    np.multiply(half_steps[..., 0], tau[:, np.newaxis], out=grid.half_life)
    with np.errstate(over="ignore", divide="ignore"):
        np.divide(step_decay, tau[:, np.newaxis], out=grid.kappa)  # infinite only for an urgency that no λ gives
        np.divide(tau[:, np.newaxis], step_decay, out=grid.decay_time)
    grid.kappa[np.isinf(grid.kappa)] = np.nan
    grid.urgency[...] = np.where(no_minimum[:, np.newaxis], 0.0, level) if urgent else step_decay * n
    grid.risk_aversion[...], grid.eta_tilde[...], grid.tau[...] = lam, eta_tilde, tau

    status = grid.status
    status[...] = SolveStatus.OK
    status[~reachable] = SolveStatus.RISK_AVERSION_OUT_OF_RANGE
    too_large = ~(np.isfinite(grid.expected_cost) & np.isfinite(grid.cost_variance))
    if too_large.any():
        status[too_large] = SolveStatus.COST_OUT_OF_RANGE
        grid.expected_cost[too_large] = grid.cost_variance[too_large] = np.nan
    status[no_minimum] = SolveStatus.TWAP_ETA_TILDE
    if bad_level.any():
        status[bad_level] = SolveStatus.BAD_INPUT
        for name in _GRID_BY_LEVEL:
            if (array := getattr(grid, name)) is not None:
                array[bad_level] = np.nan
        grid.eta_tilde[bad_market] = grid.tau[bad_market] = np.nan
    if bad_size.any():
        status.transpose(0, 2, 1)[bad_size] = SolveStatus.BAD_INPUT
        for costs in (grid.holdings, grid.expected_cost, grid.cost_variance):
            if costs is not None:
                np.moveaxis(costs, 2, 1)[bad_size] = np.nan


def _optional_output(name: str, wanted: bool | FloatArray, shape: tuple[int, ...]) -> FloatArray | None:
    if wanted is False:
        return None
    return _output(name, None if wanted is True else wanted, shape)
