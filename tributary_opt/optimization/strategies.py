"""Strategies: what they have in common, and the baselines that Almgren-Chriss is measured against.

Every baseline is costed by the same function as the optimum, never free.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from tributary_opt.optimization.almgren_chriss import generate_ac_trajectory
from tributary_opt.optimization.arguments import FloatArray, Permanent, Side, _aversion, _floats, _number, _shares
from tributary_opt.optimization.problem import ImpactLaw, Problem
from tributary_opt.optimization.solver import solve, solve_tracking
from tributary_opt.optimization.trajectory import AlmgrenChrissParams, ExecutionTrajectory, _Order, _Shape

__all__ = [
    "AlmgrenChrissStrategy",
    "AlmgrenChrissVolumeTimeStrategy",
    "ExecutionStrategy",
    "MarketOrderStrategy",
    "POVStrategy",
    "TWAPStrategy",
    "VWAPStrategy",
    "VWAPTrackingStrategy",
    "generate_ac_volume_time_trajectory",
    "generate_market_order_trajectory",
    "generate_pov_trajectory",
    "generate_twap_trajectory",
    "generate_vwap_tracking_trajectory",
    "generate_vwap_trajectory",
]


@runtime_checkable
class ExecutionStrategy(Protocol):
    """A way to trade an order, with everything but the order already chosen."""

    def generate_trajectory(self, order_size: float, duration_periods: int, side: Side = "sell") -> ExecutionTrajectory:
        """Schedule of an order over so many steps."""
        ...


def generate_twap_trajectory(
    order_size: float,
    duration_periods: int,
    params: AlmgrenChrissParams | None = None,
    randomize: bool = False,
    random_pct: float = 0.1,
    seed: int | None = None,
    *,
    impact_law: ImpactLaw = "linear",
    permanent: Permanent | None = None,
    volume_profile: ArrayLike | None = None,
    side: Side = "sell",
) -> ExecutionTrajectory:
    """Equal slices over the whole horizon: the cheapest schedule, and the riskiest.

    E = γX²/2 + εX + η̃X²/T (eq. 10), V = σ²X²T/3 (1 - 1/N)(1 - 1/(2N)) (eq. 11).

    Parameters
    ----------
    order_size, duration_periods, impact_law, permanent, side
        As in `generate_ac_trajectory`.
    volume_profile : array_like, shape (N,), optional
        Where given, the schedule is costed in volume time, to stand beside VWAP in one comparison.
    params : AlmgrenChrissParams, optional
        Without them the cost is NaN, with a warning, and a step is taken as one day.
    randomize : bool
        Whether to vary the slices, so that they are harder to recognise.
    random_pct : float
        How far a slice may lie from the mean, as a share of it: 0 <= random_pct <= 1. [-]
    seed : int, optional
        The same seed gives the same slices; None gives new ones each time.

    Returns
    -------
    ExecutionTrajectory
        Randomised slices are >= 0 for every seed and add up to the order size exactly (``math.fsum``). They are costed
        as they are.
    """
    order = _Order.checked("twap", order_size, duration_periods, params, permanent, side, impact_law)
    if not isinstance(randomize, (bool, np.bool_)):
        raise TypeError(f"randomize must be True or False, got {type(randomize).__name__}")
    spread = _number("random_pct", random_pct)
    faults = []
    if not 0 <= spread <= 1:
        faults.append(f"random_pct must be from 0 to 1, got {spread:g}: more would sell back what was bought")
    profile, said = _profile_to_cost_on(volume_profile, order.n_steps)
    faults += said if profile is None else []
    if faults or order.faults:
        return order.refused(0.0, faults)
    costed: dict[str, Any] = {"risk_aversion": 0.0, "step_decay": 0.0, "volume_profile": profile, "warnings": said}
    if not randomize:
        return order.scheduled(_Shape.optimal(0.0, order.n_steps), **costed)

    slices = _random_slices(order.size, order.n_steps, spread, seed)
    holdings = np.zeros(order.n_steps + 1)
    holdings[:-1] = np.minimum(np.cumsum(slices[::-1])[::-1], order.size)
    holdings[0] = order.size
    return order.scheduled(None, trade_sizes=slices, holdings=holdings, **costed)


def _profile_to_cost_on(volume_profile: ArrayLike | None, n_steps: int) -> tuple[FloatArray | None, list[str]]:
    """Volume shares, None where none are given or they cannot be used; and what is to say about them."""
    if volume_profile is None:
        return None, []
    profile, said = _shares(volume_profile, n_steps)
    return None if any("must" in w for w in said) else profile, said


def _random_slices(order_size: float, n_steps: int, spread: float, seed: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Slices within (1 ± spread) of their mean before scaling, >= 0, whose exact sum is `order_size`."""
    weights = 1.0 + spread * np.random.default_rng(seed).uniform(-1.0, 1.0, n_steps)
    largest = int(weights.argmax())
    slices = order_size * (weights / math.fsum(weights))
    # On one grid, on which the order size lies too, the largest slice can take up whatever is missing, to the last bit.
    grid: float = min(np.spacing(order_size), 2.0 * np.spacing(slices[largest]))
    slices = grid * np.round(slices / grid)
    slices[largest] += math.fsum([order_size, *(-slices)])
    return slices


def generate_market_order_trajectory(
    order_size: float,
    params: AlmgrenChrissParams | None = None,
    duration_periods: int = 1,
    *,
    impact_law: ImpactLaw = "linear",
    permanent: Permanent | None = None,
    volume_profile: ArrayLike | None = None,
    side: Side = "sell",
) -> ExecutionTrajectory:
    """The whole order in the first slice: no risk, the highest cost. Costed as one slice of `params.tau` days.

    E = εX + ηX²/τ (eq. 13; plus γX²/2 under ``midprice``), V = 0.

    Parameters
    ----------
    order_size, impact_law, permanent, side
        As in `generate_ac_trajectory`.
    volume_profile : array_like, shape (N,), optional
        As in `generate_twap_trajectory`.
    params : AlmgrenChrissParams, optional
        Without them the cost is NaN, with a warning.
    duration_periods : int
        Steps of the schedule; nothing is traded after the first. [-]

    Returns
    -------
    ExecutionTrajectory
        ``risk_aversion``, ``kappa`` and ``urgency`` are inf, ``decay_time`` is 0.
    """
    order = _Order.checked("market_order", order_size, duration_periods, params, permanent, side, impact_law)
    profile, said = _profile_to_cost_on(volume_profile, order.n_steps)
    if order.faults or (profile is None and said):
        return order.refused(math.inf, said)
    remaining, slices = np.zeros(order.n_steps + 1), np.zeros(order.n_steps)
    remaining[0] = slices[0] = 1.0
    return order.scheduled(
        _Shape(remaining, slices), risk_aversion=math.inf, step_decay=math.inf, volume_profile=profile, warnings=said
    )


def generate_vwap_trajectory(
    order_size: float,
    volume_profile: ArrayLike,
    params: AlmgrenChrissParams | None = None,
    *,
    impact_law: ImpactLaw = "linear",
    permanent: Permanent | None = None,
    side: Side = "sell",
) -> ExecutionTrajectory:
    """Slices in proportion to the volume expected in each: a schedule made beforehand, not the benchmark of the past.

    It is the λ = 0 point of Almgren-Chriss in volume time (a_j ∝ 1/V_j), on which it is costed.

    Parameters
    ----------
    order_size, impact_law, permanent, side
        As in `generate_ac_trajectory`.
    volume_profile : array_like, shape (N,)
        Volume expected in each slice, or any multiple of it, >= 0. All zero: TWAP, with a warning. [contracts]
    params : AlmgrenChrissParams, optional
        Without them the cost is NaN, with a warning.
    """
    order, profile, warnings = _in_volume_time("vwap", order_size, volume_profile, params, permanent, side, impact_law)
    if profile is None:
        return order.refused(0.0, warnings)
    total = Problem.of(order.size, np.where(profile > 0, 1.0 / np.where(profile > 0, profile, 1.0), 1.0), 0.0, 0.0,
                       cap=np.where(profile > 0, np.inf, 0.0))  # fmt: skip
    found = solve(total)
    return order.scheduled(
        None, risk_aversion=0.0, step_decay=0.0, trade_sizes=found.slices, holdings=found.holdings,
        volume_profile=profile, warnings=warnings,
    )  # fmt: skip


def generate_ac_volume_time_trajectory(
    order_size: float,
    volume_profile: ArrayLike,
    params: AlmgrenChrissParams,
    risk_aversion: float = 1e-6,
    *,
    impact_law: ImpactLaw = "linear",
    permanent: Permanent | None = None,
    side: Side = "sell",
) -> ExecutionTrajectory:
    """Almgren-Chriss where impact falls with the volume of the slice: a_j ∝ 1/V_j, risk by the clock.

    λ = 0 is VWAP, a flat profile is Almgren-Chriss. ``kappa``, ``urgency`` and ``decay_time`` are those of the flat
    profile.

    Parameters
    ----------
    order_size, params, risk_aversion, impact_law, permanent, side
        As in `generate_ac_trajectory`.
    volume_profile : array_like, shape (N,)
        As in `generate_vwap_trajectory`.
    """
    name = "almgren_chriss_volume_time"
    order, profile, warnings = _in_volume_time(name, order_size, volume_profile, params, permanent, side, impact_law)
    lam, faults = _aversion("risk_aversion", risk_aversion)
    if profile is None or faults:
        return order.refused(lam, [*warnings, *faults])
    problem = order.problem(lam, profile)
    return order.solved(problem, solve(problem), risk_aversion=lam, volume_profile=profile, warnings=warnings)


def generate_vwap_tracking_trajectory(
    order_size: float,
    volume_profile: ArrayLike,
    params: AlmgrenChrissParams,
    risk_aversion: float = 1e-6,
    tracking_aversion: float = 1e-6,
    *,
    permanent: Permanent | None = None,
    side: Side = "sell",
) -> ExecutionTrajectory:
    """Between Almgren-Chriss and VWAP: least E + λV + λ_v Σ s_j (x_j - y_j)², with y the VWAP path.

    λ_v → 0 gives Almgren-Chriss in volume time, λ_v → ∞ gives VWAP. Linear law only. E and V are those of every other
    strategy: the tracking term is in neither.

    Parameters
    ----------
    order_size, params, risk_aversion, permanent, side
        As in `generate_ac_trajectory`.
    volume_profile : array_like, shape (N,)
        As in `generate_vwap_trajectory`.
    tracking_aversion : float
        λ_v >= 0. [1/currency]
    """
    order, profile, warnings = _in_volume_time(
        "vwap_tracking", order_size, volume_profile, params, permanent, side, "linear"
    )
    lam, faults = _aversion("risk_aversion", risk_aversion)
    tracking, more = _aversion("tracking_aversion", tracking_aversion)
    if profile is None or faults or more:
        return order.refused(lam, [*warnings, *faults, *more])
    problem = order.problem(lam, profile)
    after = np.zeros(order.n_steps)
    after[:-1] = np.cumsum(profile[:0:-1])[::-1]
    solution = solve_tracking(problem, np.minimum(after, 1.0), tracking)
    return order.solved(
        problem, solution, risk_aversion=lam, volume_profile=profile, warnings=warnings,
        more={"tracking_aversion": tracking},
    )  # fmt: skip


def generate_pov_trajectory(
    order_size: float,
    volume_profile: ArrayLike,
    participation: float,
    params: AlmgrenChrissParams | None = None,
    *,
    impact_law: ImpactLaw = "linear",
    permanent: Permanent | None = None,
    side: Side = "sell",
) -> ExecutionTrajectory:
    """A fixed share of the volume of each slice until the order is done: n_j = min(ρ V_j, what is left).

    Parameters
    ----------
    order_size, impact_law, permanent, side
        As in `generate_ac_trajectory`.
    volume_profile : array_like, shape (N,)
        Volume expected in each slice, >= 0: here contracts count. [contracts]
    participation : float
        ρ, 0 < ρ <= 1. [-]
    params : AlmgrenChrissParams, optional
        Without them the cost is NaN, with a warning.

    Returns
    -------
    ExecutionTrajectory
        ``params["finish_time"]`` is the end of the slice that completes the order [day], NaN where it is not completed;
        ``params["residual"]`` is what is left then [contracts]: ``holdings`` ends there and not at 0, the risk of
        holding it is in the variance up to the horizon, and a warning says so.
    """
    order, profile, warnings = _in_volume_time("pov", order_size, volume_profile, params, permanent, side, impact_law)
    share = _number("participation", participation)
    faults = [] if 0 < share <= 1 else [f"participation must be > 0 and <= 1, got {share:g}: 0.1 is 10 % of the volume"]
    if profile is None or faults:
        return order.refused(0.0, [*warnings, *faults])
    volume = _floats("volume_profile", volume_profile)
    if warnings:  # nobody trades: there is no volume to have a share of, whatever the costs are reckoned on
        warnings = ["volume_profile is all zero: nothing is traded; use a window with trades in it"]
    slices, holdings = np.zeros(order.n_steps), np.full(order.n_steps + 1, order.size)
    rest, lost = order.size, 0.0  # what is left, and what its rounding has lost
    for j, each in enumerate(share * volume):
        before = rest
        # A rest of rounding is no rest: 0.1 of ten slices of 1 is 1.
        if before - each > order.n_steps * 2.0**-52 * order.size:
            slices[j], rest = each, before - each
            lost += (before - rest) - each
        else:
            slices[j], rest, lost = before + lost, 0.0, 0.0
        holdings[j + 1] = rest + lost
    rest += lost
    finished = rest == 0.0
    finish = float(order.tau * (np.flatnonzero(slices)[-1] + 1)) if finished else math.nan
    if not finished:
        warnings = [
            *warnings,
            f"{rest:g} of {order.size:g} contracts are left at the horizon: at participation {share:g} the volume of "
            f"{math.fsum(volume):g} is too small; participate more or trade longer",
        ]
    return order.scheduled(
        None, risk_aversion=0.0, trade_sizes=slices, holdings=holdings, volume_profile=profile, warnings=warnings,
        more={"finish_time": finish, "residual": float(rest), "participation": share},
    )  # fmt: skip


def _in_volume_time(
    strategy: str,
    order_size: Any,
    volume_profile: ArrayLike,
    params: AlmgrenChrissParams | None,
    permanent: Permanent | None,
    side: Side,
    impact_law: ImpactLaw,
) -> tuple[_Order, FloatArray | None, list[str]]:
    """The order, its volume shares (None where something is refused), and warnings."""
    volume = _floats("volume_profile", volume_profile)
    if volume.ndim != 1 or not len(volume):
        raise ValueError(f"volume_profile must have one entry per slice, got shape {volume.shape}")
    if params is None and strategy not in ("vwap", "pov"):
        raise TypeError("params must be AlmgrenChrissParams, got None")
    order = _Order.checked(strategy, order_size, len(volume), params, permanent, side, impact_law)
    profile, said = _profile_to_cost_on(volume, len(volume))
    return order, None if order.faults else profile, said


class _OfFunction:
    """What the strategies share: the function of each takes the order and, by name, every field of the class."""

    _generate: ClassVar[Callable[..., ExecutionTrajectory]]

    def generate_trajectory(self, order_size: float, duration_periods: int, side: Side = "sell") -> ExecutionTrajectory:
        chosen = dict(vars(self), order_size=order_size, side=side)
        return type(self)._generate(**self._with_duration(chosen, duration_periods))

    def _with_duration(self, chosen: dict[str, Any], duration_periods: int) -> dict[str, Any]:
        return chosen | {"duration_periods": duration_periods}


class _OfProfile(_OfFunction):
    """A strategy whose profile says how many slices there are: the duration must be that."""

    def _with_duration(self, chosen: dict[str, Any], duration_periods: int) -> dict[str, Any]:
        volume = _floats("volume_profile", chosen["volume_profile"])
        if volume.shape != (duration_periods,):
            raise ValueError(
                f"volume_profile must have {duration_periods} entries, one a slice, got shape {volume.shape}"
            )
        return chosen | {"volume_profile": volume}


@dataclass(frozen=True)
class AlmgrenChrissStrategy(_OfFunction):
    """Almgren-Chriss at one risk aversion; see `generate_ac_trajectory`."""

    params: AlmgrenChrissParams
    risk_aversion: float = 1e-6
    impact_law: ImpactLaw = "linear"
    permanent: Permanent | None = None
    _generate = staticmethod(generate_ac_trajectory)


@dataclass(frozen=True)
class TWAPStrategy(_OfFunction):
    """Equal, or randomised, slices; see `generate_twap_trajectory`."""

    params: AlmgrenChrissParams | None = None
    randomize: bool = False
    random_pct: float = 0.1
    seed: int | None = None
    permanent: Permanent | None = None
    impact_law: ImpactLaw = "linear"
    volume_profile: ArrayLike | None = None  #: to be costed in volume time, beside VWAP.
    _generate = staticmethod(generate_twap_trajectory)


@dataclass(frozen=True)
class MarketOrderStrategy(_OfFunction):
    """Everything at once; see `generate_market_order_trajectory`."""

    params: AlmgrenChrissParams | None = None
    permanent: Permanent | None = None
    impact_law: ImpactLaw = "linear"
    volume_profile: ArrayLike | None = None  #: to be costed in volume time, beside VWAP.
    _generate = staticmethod(generate_market_order_trajectory)


@dataclass(frozen=True)
class VWAPStrategy(_OfProfile):
    """In proportion to volume; see `generate_vwap_trajectory`. The profile says how many slices there are."""

    volume_profile: ArrayLike
    params: AlmgrenChrissParams | None = None
    impact_law: ImpactLaw = "linear"
    permanent: Permanent | None = None
    _generate = staticmethod(generate_vwap_trajectory)


@dataclass(frozen=True)
class POVStrategy(_OfProfile):
    """A share of the volume; see `generate_pov_trajectory`."""

    volume_profile: ArrayLike
    participation: float
    params: AlmgrenChrissParams | None = None
    impact_law: ImpactLaw = "linear"
    permanent: Permanent | None = None
    _generate = staticmethod(generate_pov_trajectory)


@dataclass(frozen=True)
class AlmgrenChrissVolumeTimeStrategy(_OfProfile):
    """Almgren-Chriss in volume time; see `generate_ac_volume_time_trajectory`."""

    volume_profile: ArrayLike
    params: AlmgrenChrissParams
    risk_aversion: float = 1e-6
    impact_law: ImpactLaw = "linear"
    permanent: Permanent | None = None
    _generate = staticmethod(generate_ac_volume_time_trajectory)


@dataclass(frozen=True)
class VWAPTrackingStrategy(_OfProfile):
    """Between Almgren-Chriss and VWAP; see `generate_vwap_tracking_trajectory`."""

    volume_profile: ArrayLike
    params: AlmgrenChrissParams
    risk_aversion: float = 1e-6
    tracking_aversion: float = 1e-6
    permanent: Permanent | None = None
    _generate = staticmethod(generate_vwap_tracking_trajectory)
