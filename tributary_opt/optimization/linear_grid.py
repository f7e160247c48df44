"""The night's grid: schedules, E and V of markets x risk levels x order sizes under the linear law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tributary_opt.optimization.arguments import (
    FloatArray,
    Permanent,
    _check_permanent,
    _check_steps,
    _floats,
    _in_range,
    _output,
)
from tributary_opt.optimization.closed_form import (
    _CHUNK_ELEMENTS,
    _SHORTEST_STEP,
    SolveStatus,
    _Market,
    _risk_aversion,
    _scaled_cost,
    _step_decay,
    _Sums,
    _Workspace,
    effective_eta,
)

__all__ = ["LinearGrid", "solve_linear_grid"]

# Chunks of shapes in a block of markets, so that what is done once per market is not all overhead (measured: one chunk
# is 1.3x slower, sixteen no faster).
_CHUNKS_OF_BLOCK = 8
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
    # A block at a time from its arguments to its status: arrays of all markets would be fresh pages, each time.
    markets = max(1, _CHUNKS_OF_BLOCK * _CHUNK_ELEMENTS // ((n + 1) * max(1, l_count)))
    # By urgency a shape depends on nothing else: where markets share their levels, it is solved once for all of them.
    shared = urgency is not None and level.strides[0] == 0 and m_count > l_count
    shapes = _SharedShapes(level[0], n) if shared else _OwnShapes(min(markets, m_count) * l_count, n)
    for start in range(0, m_count, markets):
        part = slice(start, min(start + markets, m_count))
        given = (a[part] for a in (eta_, gamma_, sigma_, epsilon_, horizon_, sizes, level))
        _fill_grid(grid.part(part), shapes, *given, urgent=urgency is not None, permanent=permanent)
    return grid


class _OwnShapes:
    """A shape for every market and risk level."""

    def __init__(self, rows: int, n_steps: int) -> None:
        self._rows = max(1, min(rows, _CHUNK_ELEMENTS // (n_steps + 1)))
        self._work = _Workspace(self._rows, n_steps)

    def fill(
        self, step_decay: FloatArray, remaining: FloatArray, slices: FloatArray | None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """`_Workspace.fill` of κτ (M, L), a cache-sized chunk at a time."""
        rows, n = step_decay.size, remaining.shape[-1] - 1
        decay, held = step_decay.ravel(), remaining.reshape(rows, n + 1)
        traded = None if slices is None else slices.reshape(rows, n)
        trade_trade, held_held, half_steps = sums = np.empty((3, *step_decay.shape))
        for start in range(0, rows, self._rows):
            part = slice(start, start + self._rows)
            found = self._work.fill(decay[part], held[part], None if traded is None else traded[part])
            sums.reshape(3, rows)[:, part] = found
        return trade_trade, held_held, half_steps


class _SharedShapes:
    """A shape for every risk level (and TWAP, where κτ is 0), the same for all markets."""

    def __init__(self, urgency: FloatArray, n_steps: int) -> None:
        step_decay = np.append(np.where(_in_range(urgency), urgency, 0.0) / n_steps, 0.0)
        rows = len(step_decay)
        self._remaining, self._slices = np.empty((rows, n_steps + 1)), np.empty((rows, n_steps))
        self._sums = _Workspace(rows, n_steps).fill(step_decay, self._remaining, self._slices)

    def fill(
        self, step_decay: FloatArray, remaining: FloatArray, slices: FloatArray | None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Copies of them for κτ (M, L), which is that of the level or 0."""
        levels = step_decay.shape[1]
        which = np.where(step_decay > 0, np.arange(levels), levels)
        np.take(self._remaining, which, axis=0, out=remaining, mode="clip")
        if slices is not None:
            np.take(self._slices, which, axis=0, out=slices, mode="clip")
        trade_trade, held_held, half_steps = (a[which] for a in self._sums)
        return trade_trade, held_held, half_steps


def _fill_grid(
    grid: LinearGrid,
    shapes: _OwnShapes | _SharedShapes,
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
    shared = level.strides[0] == 0
    bad_level = bad_market[:, np.newaxis] | ~_in_range(level)
    level = np.where(~_in_range(level) if shared else bad_level, 0.0, level)
    bad_size = ~(_in_range(sizes) & (sizes > 0))
    sizes = np.where(bad_size, 1.0, sizes)

    tau = horizon / n
    eta_tilde = effective_eta(eta, gamma, tau, permanent)
    no_minimum = eta_tilde <= 0
    safe_eta = np.where(no_minimum, 1.0, eta_tilde)[:, np.newaxis]
    if urgent:
        step_decay = level / n
        each = step_decay[:1] if shared else step_decay
        lam, reachable = _risk_aversion(each, safe_eta, sigma[:, np.newaxis], tau[:, np.newaxis])
        lam[no_minimum] = np.nan
    else:
        step_decay = _step_decay(level, safe_eta, sigma[:, np.newaxis], tau[:, np.newaxis])
        lam, reachable = level, np.ones(level.shape, dtype=bool)
    step_decay = np.where(no_minimum[:, np.newaxis], 0.0, step_decay)

    trade_trade, held_held, half_steps = shapes.fill(step_decay, grid.remaining, grid.slices)
    trade_trade, held_held = trade_trade[..., np.newaxis], held_held[..., np.newaxis]
    # 2 Σ n_j x_j = 1 - Σ n_j². What cancels near 1 is below the rounding of (η/τ) Σ n_j², as γ/2 < η/τ there.
    sums = _Sums(trade_trade, 0.5 * (1.0 - trade_trade), held_held)
    market = _Market(*(a[:, np.newaxis, np.newaxis] for a in (eta, gamma, sigma, epsilon, tau)))
    size = sizes[:, np.newaxis, :]
    grid.expected_cost[...], grid.cost_variance[...] = _scaled_cost(sums, size, 1.0, market, permanent)
    if grid.holdings is not None:
        np.multiply(grid.remaining[:, :, np.newaxis, :], size[..., np.newaxis], out=grid.holdings)
    np.multiply(half_steps, tau[:, np.newaxis], out=grid.half_life)
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
