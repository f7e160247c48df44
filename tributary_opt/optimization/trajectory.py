"""One order: its parameters, its schedule, and the checks and the costing that every strategy shares."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tributary_opt.optimization.arguments import (
    FloatArray,
    Permanent,
    Side,
    _check_permanent,
    _check_side,
    _floats,
    _number,
    _whole,
)
from tributary_opt.optimization.closed_form import (
    _SHORTEST_STEP,
    SolveStatus,
    _half_steps,
    _Market,
    _scaled_cost,
    _step_decay,
    _Sums,
    _Workspace,
    effective_eta,
)
from tributary_opt.optimization.problem import (
    EXPONENT_RANGE,
    ImpactLaw,
    Problem,
    ScheduleCost,
    convexity_limit,
    market_problem,
    schedule_cost,
)
from tributary_opt.optimization.solver import Solution

__all__ = ["AlmgrenChrissParams", "ExecutionTrajectory", "beyond_convexity", "implied_average_price"]

# The model itself has no limit; this one keeps a mistyped duration from filling the memory.
_MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class AlmgrenChrissParams:
    """What trading one market costs: the coefficients of the Almgren-Chriss model.

    `calibrate_ac_params` fills it by rule; any other estimate may be put in its place.
    """

    eta: float  #: temporary impact. [currency·day/contract²]
    gamma: float  #: permanent impact. [currency/contract²]
    sigma: float  #: volatility of the price. [currency/contract/√day]
    alpha: float  #: exponent of the power law; a linear schedule does not use it. [-]
    tau: float  #: length of one step. [day]
    source_calibration: Any = None  #: what the numbers came from, kept as given
    warnings: tuple[str, ...] = ()  #: why a number is NaN, and what else to know
    epsilon: float = 0.0  #: half-spread and fees paid by every contract. [currency/contract]
    price: float = math.nan  #: arrival price, for costs in bps. [currency/contract]
    reference_rate: float = math.nan  #: rate at which linear and power law meet. [contracts/day]


@dataclass(frozen=True, eq=False)
class ExecutionTrajectory:
    """A schedule of one order, with what it is expected to cost.

    Where an argument was bad, every array is NaN and ``params["warnings"]`` says why; there is no NaN without a
    warning.
    """

    timestamps: FloatArray  #: jτ from the start, shape (N + 1,). [day]
    holdings: FloatArray  #: held at each of them, from the order size down to 0, shape (N + 1,). [contracts]
    trade_sizes: FloatArray  #: traded between them, >= 0, shape (N,). [contracts]
    strategy_name: str
    total_cost_estimate: float  #: expected cost in bps of arrival notional; NaN without a price. [bps]
    risk_aversion: float  #: λ; inf for a market order. [1/currency]
    #: ``kappa`` [1/day], ``eta_tilde``, ``expected_cost`` [currency], ``cost_variance`` [currency²], ``urgency`` [-],
    #: ``decay_time`` 1/κ [day], ``half_life`` [day], ``implied_price``, ``permanent``, ``impact_law``, ``side``,
    #: ``status``, ``warnings``, ``volume_profile``, the parts of the cost, and the inputs ``n_steps, horizon, eta,
    #: gamma, sigma, epsilon, tau, price``.
    params: dict[str, Any] = field(default_factory=dict)


def implied_average_price(
    price: ArrayLike, expected_cost: ArrayLike, order_size: ArrayLike, side: Side = "sell"
) -> FloatArray:
    """Average price at which an order is expected to fill: arrival price less (sell) or plus (buy) cost per contract.

    Parameters
    ----------
    price, expected_cost, order_size : array_like, broadcastable
        Arrival price, E, X > 0. [currency/contract], [currency], [contracts]
    side : "sell" | "buy"

    Returns
    -------
    ndarray
        May lie outside the market's range (below 0, or above 1 for a probability): then the linear law does not hold
        that far, and the caller must say so. NaN where an input is. [currency/contract]
    """
    _check_side(side)
    cost = _floats("expected_cost", expected_cost) / _floats("order_size", order_size)
    return np.asarray(_floats("price", price) + (cost if side == "buy" else -cost))


def beyond_convexity(problem: Problem, slices: FloatArray) -> str:
    """What to say of one schedule with a slice beyond `convexity_limit`; nothing where none is."""
    limit = convexity_limit(problem)
    if not (slices > limit).any():
        return ""
    return (
        f"a slice of {slices.max():g} contracts is beyond n* = {limit.min():g}, up to which the power law is convex "
        'under permanent="paper": larger slices look cheaper than they are; take permanent="midprice"'
    )


# ---------------------------------------------------------------------------------------------------------------------
# Shapes
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shape:
    """A schedule as fractions of its order."""

    remaining: FloatArray  # (N + 1,)
    slices: FloatArray  # (N,)
    sums: _Sums | None = None  # of the closed form, which knows Σ n_j² without adding up

    @classmethod
    def optimal(cls, step_decay: float, n_steps: int) -> _Shape:
        """The closed form at κτ: the same kernel, hence the same bits, as in any batch."""
        remaining, slices = np.empty((1, n_steps + 1)), np.empty((1, n_steps))
        trade_trade, held_held, _ = _Workspace(1, n_steps).fill(np.array([step_decay]), remaining, slices)
        sums = _Sums(trade_trade[0], 0.5 * (1.0 - trade_trade[0]), held_held[0])
        return cls(remaining[0], slices[0], sums)


# ---------------------------------------------------------------------------------------------------------------------
# From a shape to a trajectory
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Order:
    """The arguments every strategy takes, checked: types raise here, bad values are listed in `faults`."""

    strategy: str
    size: float
    n_steps: int
    params: AlmgrenChrissParams | None
    permanent: Permanent
    side: Side
    impact_law: ImpactLaw
    eta_tilde: float  # NaN without parameters, or with bad ones
    faults: tuple[str, ...]

    @classmethod
    def checked(
        cls,
        strategy: str,
        order_size: Any,
        duration_periods: Any,
        params: AlmgrenChrissParams | None,
        permanent: Permanent | None,
        side: Side,
        impact_law: ImpactLaw = "linear",
    ) -> _Order:
        faults: list[str] = []
        size = _number("order_size", order_size)
        if not (math.isfinite(size) and size > 0):
            faults.append(
                f'order_size must be finite and > 0, got {size:g}: give the contracts to trade, and side="buy" '
                "for a purchase"
            )
        n_steps = _whole("duration_periods", duration_periods)
        if n_steps is None or not 1 <= n_steps <= _MOST_STEPS:
            faults.append(
                f"duration_periods must be a whole number from 1 to {_MOST_STEPS}, got {duration_periods}: it counts "
                "steps of params.tau days"
            )
            n_steps = 1
        if params is not None:
            if not isinstance(params, AlmgrenChrissParams):
                raise TypeError(f"params must be AlmgrenChrissParams, got {type(params).__name__}")
            faults += _faults_of(params, n_steps, impact_law)
        if impact_law not in ("linear", "power"):
            raise ValueError(f"impact_law must be one of linear, power, got {impact_law!r}")
        permanent = ("paper" if impact_law == "linear" else "midprice") if permanent is None else permanent
        _check_permanent(permanent)
        _check_side(side)
        eta_tilde = math.nan
        if params is not None and not faults:
            eta_tilde = float(effective_eta(params.eta, params.gamma, params.tau, permanent))
        return cls(strategy, size, n_steps, params, permanent, side, impact_law, eta_tilde, tuple(faults))

    def problem(
        self, risk_aversion: float, volume_profile: FloatArray | None = None, cap: ArrayLike = np.inf
    ) -> Problem:
        """What the order's schedule is costed on; λ = inf and NaN are taken as 0, which only prices the risk."""
        assert self.params is not None
        p = self.params
        return market_problem(
            self.size,
            risk_aversion if math.isfinite(risk_aversion) else 0.0,
            eta=p.eta,
            gamma=p.gamma,
            sigma=p.sigma,
            epsilon=p.epsilon,
            tau=p.tau,
            n_steps=self.n_steps,
            impact_law=self.impact_law,
            alpha=float(p.alpha) if self.impact_law == "power" else 1.0,
            reference_rate=p.reference_rate,
            permanent=self.permanent,
            volume_profile=volume_profile,
            cap=cap,
        )

    def step_decay(self, risk_aversion: float) -> float:
        """κτ of the linear law with constant coefficients, where it has one; τ/T* of the power law."""
        assert self.params is not None
        p = self.params
        if not math.isfinite(risk_aversion):
            return math.inf
        if self.impact_law == "power" and p.alpha != 1.0:
            return self._power_decay(risk_aversion)
        if self.eta_tilde <= 0:
            return 0.0
        market = (np.array([a], dtype=float) for a in (self.eta_tilde, p.sigma, p.tau))
        return float(_step_decay(np.array([risk_aversion]), *market)[0])

    def _power_decay(self, risk_aversion: float) -> float:
        """τ / T* with T* = (k η X^(k-1) / (λσ²))^(1/(k+1)) (Almgren 2003), in logarithms."""
        assert self.params is not None
        p, k = self.params, float(self.params.alpha)
        if risk_aversion == 0 or p.sigma == 0 or p.eta == 0:
            return 0.0
        log_eta = math.log(p.eta) + (1 - k) * math.log(p.reference_rate)
        log_time = (math.log(k) + log_eta + (k - 1) * math.log(self.size)) - math.log(risk_aversion)
        log_time = (log_time - 2 * math.log(p.sigma)) / (k + 1)
        return math.exp(min(max(math.log(p.tau) - log_time, -700.0), 700.0))

    def solved(self, problem: Problem, solution: Solution, *, risk_aversion: float, **more: Any) -> ExecutionTrajectory:
        """The trajectory of a solution of one problem, or its refusal in words."""
        status = SolveStatus(int(solution.status))
        if status == SolveStatus.BEYOND_CONVEXITY:
            limit = float(convexity_limit(problem).min())
            fault = (
                f'permanent="paper" with the power law is convex up to a slice of n* = {limit:g} contracts, and this '
                f'order of {self.size:g} has room for more: take permanent="midprice", or cap the slices'
            )
            return self.refused(risk_aversion, [fault], status)
        if status == SolveStatus.NOT_CONVERGED:
            fault = (
                f"{int(solution.sweeps)} sweeps found no schedule that meets the optimality conditions: the order has "
                "none that can be trusted"
            )
            return self.refused(risk_aversion, [fault], status)
        warnings = list(more.pop("warnings", ()))
        if status == SolveStatus.TWAP_ETA_TILDE:
            assert self.params is not None
            warnings.append(_eta_tilde_warning(self.params.eta, self.eta_tilde, self.params.tau))
        return self.scheduled(
            None,
            risk_aversion=risk_aversion,
            status=status,
            problem=problem,
            trade_sizes=solution.slices,
            holdings=solution.holdings,
            step_decay=0.0 if status == SolveStatus.TWAP_ETA_TILDE else self.step_decay(risk_aversion),
            warnings=warnings,
            **more,
        )

    @property
    def tau(self) -> float:
        """Without parameters a step is taken as one day; the warning about the missing cost says so."""
        return 1.0 if self.params is None else float(self.params.tau)

    def refused(
        self, risk_aversion: float, faults: Iterable[str] = (), status: SolveStatus = SolveStatus.BAD_INPUT
    ) -> ExecutionTrajectory:
        """NaN throughout, and why."""
        numbers = dict.fromkeys(
            (
                "kappa",
                "eta_tilde",
                "expected_cost",
                "cost_variance",
                "urgency",
                "decay_time",
                "half_life",
                "implied_price",
            ),
            math.nan,
        )
        return ExecutionTrajectory(
            timestamps=np.full(self.n_steps + 1, np.nan),
            holdings=np.full(self.n_steps + 1, np.nan),
            trade_sizes=np.full(self.n_steps, np.nan),
            strategy_name=self.strategy,
            total_cost_estimate=math.nan,
            risk_aversion=risk_aversion,
            params={**numbers, **self._inputs(status, self._warnings([*self.faults, *faults]))},
        )

    def scheduled(
        self,
        shape: _Shape | None,
        *,
        risk_aversion: float,
        step_decay: float = math.nan,
        status: SolveStatus = SolveStatus.OK,
        warnings: Iterable[str] = (),
        trade_sizes: FloatArray | None = None,
        holdings: FloatArray | None = None,
        problem: Problem | None = None,
        volume_profile: FloatArray | None = None,
        more: dict[str, Any] | None = None,
    ) -> ExecutionTrajectory:
        """The shape scaled to the order, or contracts where scaling would round them, costed on the order's problem."""
        said = list(warnings)
        if shape is not None:
            holdings = self.size * shape.remaining if holdings is None else holdings
            trade_sizes = self.size * shape.slices if trade_sizes is None else trade_sizes
        assert holdings is not None
        assert trade_sizes is not None
        parts = dict.fromkeys(("spread_cost", "temporary_cost", "permanent_cost"), math.nan)
        expected_cost = cost_variance = bps = implied = math.nan
        price = math.nan
        if self.params is None:
            said.append("no params given: the cost is unknown (NaN), and one step is taken as one day")
        else:
            problem = self.problem(risk_aversion, volume_profile) if problem is None else problem
            cost = schedule_cost(problem, trade_sizes, holdings)
            if beyond := beyond_convexity(problem, trade_sizes):
                said.append(beyond)
                status = SolveStatus.BEYOND_CONVEXITY if status == SolveStatus.OK else status
            expected_cost, cost_variance = self._in_range(cost)
            if shape is not None and shape.sums is not None and self.impact_law == "linear" and volume_profile is None:
                expected_cost, cost_variance = self._closed_cost(shape.sums)
            if math.isfinite(expected_cost):
                parts = {
                    "spread_cost": float(cost.spread),
                    "temporary_cost": float(cost.temporary),
                    "permanent_cost": float(cost.permanent),
                }
            price = float(self.params.price)
            if math.isnan(expected_cost):
                status = SolveStatus.COST_OUT_OF_RANGE
                said.append(
                    "the expected cost or its variance is beyond the double range: use a larger unit of currency or "
                    "contract"
                )
            if math.isfinite(price) and price > 0:
                with np.errstate(over="ignore"):
                    bps = float(np.float64(expected_cost) / self.size / price * 1e4)
                implied = float(implied_average_price(price, expected_cost, self.size, self.side))
                if implied < 0:
                    said.append(
                        f"the implied average price of the sale is {implied:g}, below 0: the impact law does not hold "
                        "for an order of this size; trade less or longer"
                    )
            else:
                said.append(f"price must be finite and > 0 for a cost in bps, got {price:g}: set params.price")
        tau = self.tau
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            kappa = np.float64(step_decay) / tau
            decay_time = np.float64(tau) / step_decay
            numbers = {
                "kappa": float(kappa),
                "eta_tilde": self.eta_tilde,
                "expected_cost": expected_cost,
                "cost_variance": cost_variance,
                "urgency": float(np.float64(step_decay) * self.n_steps),
                "decay_time": float(decay_time),
                "half_life": _half_time(holdings, tau),
                "implied_price": implied,
                **parts,
            }
        return ExecutionTrajectory(
            timestamps=np.arange(self.n_steps + 1, dtype=np.float64) * tau,
            holdings=holdings,
            trade_sizes=trade_sizes,
            strategy_name=self.strategy,
            total_cost_estimate=bps,
            risk_aversion=risk_aversion,
            params={
                **numbers,
                **self._inputs(status, self._warnings(said)),
                "volume_profile": None if volume_profile is None else tuple(float(w) for w in volume_profile),
                **(more or {}),
            },
        )

    def _closed_cost(self, sums: _Sums) -> tuple[float, float]:
        """The same E and V to the bits of `solve_linear_grid`, which adds up the closed form's own sums."""
        assert self.params is not None
        p = self.params
        market = _Market(*(np.float64(a) for a in (p.eta, p.gamma, p.sigma, p.epsilon, p.tau)))  # type: ignore[arg-type]
        expected, variance = _scaled_cost(sums, np.asarray(self.size), 1.0, market, self.permanent)
        finite = np.isfinite(expected) and np.isfinite(variance)
        return (float(expected), float(variance)) if finite else (math.nan, math.nan)

    @staticmethod
    def _in_range(cost: ScheduleCost) -> tuple[float, float]:
        expected, variance = float(cost.expected_cost), float(cost.cost_variance)
        return (expected, variance) if math.isfinite(expected) and math.isfinite(variance) else (math.nan, math.nan)

    def _warnings(self, more: list[str]) -> tuple[str, ...]:
        return (*(() if self.params is None else self.params.warnings), *more)

    def _inputs(self, status: SolveStatus, warnings: tuple[str, ...]) -> dict[str, Any]:
        p = self.params
        market = {name: math.nan if p is None else float(getattr(p, name)) for name in _COEFFICIENTS}
        return {
            "permanent": self.permanent,
            "impact_law": self.impact_law,
            "alpha": math.nan if p is None or self.impact_law == "linear" else float(p.alpha),
            "reference_rate": math.nan if p is None or self.impact_law == "linear" else float(p.reference_rate),
            "side": self.side,
            "status": status.name.lower(),
            "n_steps": self.n_steps,
            "horizon": self.n_steps * market["tau"],
            **market,
            "warnings": warnings,
        }


def _half_time(holdings: FloatArray, tau: float) -> float:
    """Time at which half of the order is done; NaN where it never is."""
    share = holdings / holdings[0]
    return math.nan if share[-1] > 0.5 else float(_half_steps(share[:, np.newaxis])[0]) * tau


_COEFFICIENTS = ("eta", "gamma", "sigma", "epsilon", "tau", "price")


def _faults_of(params: AlmgrenChrissParams, n_steps: int, impact_law: ImpactLaw) -> list[str]:
    faults = []
    if impact_law == "power":
        alpha, rate = _number("params.alpha", params.alpha), _number("params.reference_rate", params.reference_rate)
        low, high = EXPONENT_RANGE
        if not low <= alpha <= high:
            faults.append(f"params.alpha must be from {low:g} to {high:g}, got {alpha:g}: 0.5 is the square-root law")
        if not (alpha == 1.0 or (math.isfinite(rate) and rate > 0)):
            faults.append(
                f"params.reference_rate must be finite and > 0 for the power law, got {rate:g}: give the rate at which "
                "it meets the linear law, 1 % of ADV per day"
            )
    for name in ("eta", "gamma", "sigma", "epsilon"):
        value = _number(f"params.{name}", getattr(params, name))
        if not (math.isfinite(value) and value >= 0):
            faults.append(f"params.{name} must be finite and >= 0, got {value:g}: calibrate the market again")
    tau = _number("params.tau", params.tau)
    if not (tau >= _SHORTEST_STEP and math.isfinite(n_steps * tau)):
        faults.append(f"params.tau must be finite and > 0, got {tau:g}: give the length of one step in days")
    _number("params.price", params.price)
    return faults


def _eta_tilde_warning(eta: float, eta_tilde: float, tau: float) -> str:
    way_out = 'take more, shorter steps, or permanent="midprice"' if eta > 0 else "eta itself must be > 0"
    return (
        f"eta - gamma*tau/2 must be > 0, got {eta_tilde:g} at tau={tau:g} day: the schedule is TWAP, costed with the "
        f"true eta and gamma; {way_out}"
    )
