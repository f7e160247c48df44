"""Strategies: what they have in common, and the baselines that Almgren-Chriss is measured against.

Every baseline is costed by the same function as the optimum, never free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tributary_opt.optimization.almgren_chriss import generate_ac_trajectory
from tributary_opt.optimization.closed_form import Permanent
from tributary_opt.optimization.trajectory import (
    AlmgrenChrissParams,
    ExecutionTrajectory,
    Side,
    _number,
    _Order,
    _Shape,
)

__all__ = [
    "AlmgrenChrissStrategy",
    "ExecutionStrategy",
    "MarketOrderStrategy",
    "TWAPStrategy",
    "generate_market_order_trajectory",
    "generate_twap_trajectory",
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
    permanent: Permanent | None = None,
    side: Side = "sell",
) -> ExecutionTrajectory:
    """Equal slices over the whole horizon: the cheapest schedule, and the riskiest.

    E = γX²/2 + εX + η̃X²/T (eq. 10), V = σ²X²T/3 (1 - 1/N)(1 - 1/(2N)) (eq. 11).

    Parameters
    ----------
    order_size, duration_periods, permanent, side
        As in `generate_ac_trajectory`.
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
    order = _Order.checked("twap", order_size, duration_periods, params, permanent, side)
    if not isinstance(randomize, (bool, np.bool_)):
        raise TypeError(f"randomize must be True or False, got {type(randomize).__name__}")
    spread = _number("random_pct", random_pct)
    faults = []
    if not 0 <= spread <= 1:
        faults.append(f"random_pct must be from 0 to 1, got {spread:g}: more would sell back what was bought")
    if faults or order.faults:
        return order.refused(0.0, faults)
    if not randomize:
        return order.scheduled(_Shape.optimal(0.0, order.n_steps), risk_aversion=0.0, step_decay=0.0)

    slices = _random_slices(order.size, order.n_steps, spread, seed)
    holdings = np.zeros(order.n_steps + 1)
    holdings[:-1] = np.minimum(np.cumsum(slices[::-1])[::-1], order.size)
    holdings[0] = order.size
    shape = _Shape.of(holdings / order.size, slices / order.size)
    return order.scheduled(shape, risk_aversion=0.0, step_decay=0.0, trade_sizes=slices, holdings=holdings)


def _random_slices(order_size: float, n_steps: int, spread: float, seed: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Slices within (1 ± spread) of their mean before scaling, >= 0, whose exact sum rounds to `order_size`."""
    weights = 1.0 + spread * np.random.default_rng(seed).uniform(-1.0, 1.0, n_steps)
    largest = int(weights.argmax())
    slices = order_size * (weights / math.fsum(weights))
    # Only the largest slice takes up the rounding: a few units of its last place, so it stays positive.
    for _ in range(4):
        missing = math.fsum([order_size, *(-slices)])
        if missing == 0.0 or math.fsum(slices) == order_size:
            break
        slices[largest] += missing
    return slices


def generate_market_order_trajectory(
    order_size: float,
    params: AlmgrenChrissParams | None = None,
    duration_periods: int = 1,
    *,
    permanent: Permanent | None = None,
    side: Side = "sell",
) -> ExecutionTrajectory:
    """The whole order in the first slice: no risk, the highest cost. Costed as one slice of `params.tau` days.

    E = εX + ηX²/τ (eq. 13; plus γX²/2 under ``midprice``), V = 0.

    Parameters
    ----------
    order_size, permanent, side
        As in `generate_ac_trajectory`.
    params : AlmgrenChrissParams, optional
        Without them the cost is NaN, with a warning.
    duration_periods : int
        Steps of the schedule; nothing is traded after the first. [-]

    Returns
    -------
    ExecutionTrajectory
        ``risk_aversion``, ``kappa`` and ``urgency`` are inf, ``decay_time`` is 0.
    """
    order = _Order.checked("market_order", order_size, duration_periods, params, permanent, side)
    if order.faults:
        return order.refused(math.inf)
    remaining, slices = np.zeros(order.n_steps + 1), np.zeros(order.n_steps)
    remaining[0] = slices[0] = 1.0
    return order.scheduled(_Shape.of(remaining, slices), risk_aversion=math.inf, step_decay=math.inf)


@dataclass(frozen=True)
class AlmgrenChrissStrategy:
    """Almgren-Chriss at one risk aversion; see `generate_ac_trajectory`."""

    params: AlmgrenChrissParams
    risk_aversion: float = 1e-6
    impact_law: str = "linear"
    permanent: Permanent | None = None

    def generate_trajectory(self, order_size: float, duration_periods: int, side: Side = "sell") -> ExecutionTrajectory:
        return generate_ac_trajectory(
            order_size,
            duration_periods,
            self.params,
            self.risk_aversion,
            impact_law=self.impact_law,
            permanent=self.permanent,
            side=side,
        )


@dataclass(frozen=True)
class TWAPStrategy:
    """Equal, or randomised, slices; see `generate_twap_trajectory`."""

    params: AlmgrenChrissParams | None = None
    randomize: bool = False
    random_pct: float = 0.1
    seed: int | None = None
    permanent: Permanent | None = None

    def generate_trajectory(self, order_size: float, duration_periods: int, side: Side = "sell") -> ExecutionTrajectory:
        return generate_twap_trajectory(
            order_size,
            duration_periods,
            self.params,
            self.randomize,
            self.random_pct,
            self.seed,
            permanent=self.permanent,
            side=side,
        )


@dataclass(frozen=True)
class MarketOrderStrategy:
    """Everything at once; see `generate_market_order_trajectory`."""

    params: AlmgrenChrissParams | None = None
    permanent: Permanent | None = None

    def generate_trajectory(self, order_size: float, duration_periods: int, side: Side = "sell") -> ExecutionTrajectory:
        return generate_market_order_trajectory(
            order_size, self.params, duration_periods, permanent=self.permanent, side=side
        )
