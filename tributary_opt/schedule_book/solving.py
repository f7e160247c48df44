"""One order's schedule: the published row as it stands, or the exact solution from the published parameters.

Impact and risk are reckoned as the night reckons them: by the clock for Almgren-Chriss, TWAP and the market order; with
the market's hours of the day for VWAP, volume time and capped schedules, where a profile was published.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from tributary_opt.market_data.profile import slice_weights, with_weekdays
from tributary_opt.optimization.almgren_chriss import generate_ac_trajectory
from tributary_opt.optimization.arguments import Side
from tributary_opt.optimization.closed_form import (
    SolveStatus,
    decay_rate,
    effective_eta,
    half_life,
    linear_shapes,
    risk_aversion_from_urgency,
)
from tributary_opt.optimization.linear_grid import solve_linear_grid
from tributary_opt.optimization.night import breaks_cap, fixed_grid, slice_caps
from tributary_opt.optimization.problem import Problem, market_problem, schedule_cost
from tributary_opt.optimization.risk import (
    risk_aversion_from_cost,
    risk_aversion_from_decay_time,
    risk_aversion_from_half_life,
    risk_aversion_from_share_done,
)
from tributary_opt.optimization.scheduler import InfeasibleSchedule, LimitedSchedule, schedule_problem
from tributary_opt.optimization.slice_prices import ON_TICK, ceiling_of, leaves_range, slice_costs, slower_of
from tributary_opt.optimization.trajectory import ExecutionTrajectory, beyond_convexity, implied_average_price
from tributary_opt.schedule_book.clock import first_session
from tributary_opt.schedule_book.grid import BookError
from tributary_opt.schedule_book.hull import (
    BY_CLOCK,
    CAPPED,
    FIXED,
    MARKET_ORDER,
    TOO_FAR,
    TWAP,
    VOLUME_TIME,
    VWAP,
    Place,
    number,
    refuse_urgency,
)
from tributary_opt.schedule_book.snapshot import ScheduleRefused

WITH_HOURS = (VOLUME_TIME, VWAP, CAPPED)
"""Strategies that the hours' volume and variance decide about."""

PRICED = ("ok", "twap_eta_tilde")
"""Statuses of a release by which every price of a schedule stays in its range."""

_HOURS_KEPT = 16
"""Weights of the slices kept for each market: one for each horizon, and for starts within a session."""


@dataclass(frozen=True, eq=False)
class Order:
    """What is asked of the solver: an order in its place, a strategy and its limits."""

    place: Place
    strategy: str
    side: Side = "sell"
    max_participation: float | None = None
    max_slice: float | None = None
    lot_size: float | None = None
    after: date = date.min
    """The schedule begins with the first session after it."""
    begin: float = 0.0
    """How much of that session is over then. [trading day]"""
    hours: dict[str, np.ndarray] | None = None
    """Weights of the slices by volume and by variance; None: the same in every slice."""
    cap: np.ndarray | float = math.inf
    """What an optimal schedule keeps to, and what one that is given is measured by. [contracts]"""
    done: int = 0
    """Slices that are over: what is asked for is the rest."""

    @classmethod
    def of(cls, place: Place, strategy: str, after: date, begin: float, **limits: Any) -> Order:
        """The order with its hours and caps worked out.

        An optimal schedule of a release that kept caps keeps them too, unless the caller gives a participation of its
        own; TWAP, VWAP and the market order do not, and say so.
        """
        for name in ("max_participation", "lot_size"):
            if limits.get(name) is not None:
                limits[name] = number(name, limits[name])
        share, capped = limits.pop("max_participation", None), place.market.capped
        released = (
            (None, None) if capped is None else (_known(capped["max_participation"]), _known(capped["max_slice"]))
        )
        if share is not None and not 0 < share <= 1:
            raise ScheduleRefused(f"max_participation must be > 0 and <= 1, got {share:g}: 0.1 is 10 % of the volume")
        largest = None
        if strategy in FIXED:
            if share is not None or limits.get("lot_size") is not None:
                raise ScheduleRefused(f"{strategy} has no limits: leave out max_participation and lot_size")
        elif share is not None:
            strategy = CAPPED
        elif capped is not None and (strategy == CAPPED or not place.market.strategies & {strategy}):
            strategy, (share, largest) = CAPPED, released
        elif strategy == CAPPED:
            raise ScheduleRefused("the release has no capped schedules: give max_participation")
        found = cls(place, strategy, after=after, begin=begin, max_participation=share, max_slice=largest, **limits)
        if strategy not in WITH_HOURS and capped is None:
            return found
        return replace(found, **found._worked_out(*(released if strategy in FIXED else (share, largest))))

    @property
    def n_steps(self) -> int:
        """Slices of the whole schedule."""
        return self.place.n_steps

    @property
    def cost_profile(self) -> str:
        """As in the release: "volume" where the hours' profile is known and used."""
        return "clock" if self.hours is None else "volume"

    @cached_property
    def eta_tilde(self) -> float:
        """What the clock's trade-off is measured by; where it is not above 0, every risk has one schedule, TWAP."""
        p, law = self.place.params, self.place.law
        linear = law["impact_law"] == "linear"
        return float(effective_eta(p.eta, p.gamma, p.tau, law["permanent"])) if linear else math.inf

    @property
    def limited(self) -> bool:
        return self.max_participation is not None or self.max_slice is not None or self.lot_size is not None

    def _worked_out(self, max_participation: float | None, max_slice: float | None) -> dict[str, Any]:
        place, n = self.place, self.n_steps
        hours = market_hours(place, self.after, self.begin)
        weights = np.full(n, 1.0 / n) if hours is None else hours["volume_profile"]
        cap = slice_caps(
            place.size,
            n,
            volume=place.row["adv"] * (place.horizon if hours is None else weights.sum()),
            volume_profile=weights,
            max_participation=max_participation,
            max_slice=max_slice,
        )
        return {"hours": hours if self.strategy in WITH_HOURS else None, "cap": cap}

    def problem(self, risk_aversion: float, *, by_clock: bool = False) -> Problem:
        """The problem of the whole schedule, in currency; `by_clock` leaves hours and caps out."""
        p = self.place.params
        market = {n: getattr(p, n) for n in ("eta", "gamma", "sigma", "epsilon", "tau", "alpha", "reference_rate")}
        special: dict[str, Any] = {} if by_clock else {**(self.hours or {}), "cap": self.cap}
        return market_problem(
            self.place.size, risk_aversion, n_steps=self.n_steps, **market, **self.place.law, **special
        )

    def rest(self, risk_aversion: float) -> Problem:
        """The problem of what is still to be done."""
        whole = self.problem(risk_aversion)
        return whole.tail(self.done, self.place.size) if self.done else whole

    def published_at(self, as_of: date, kind: str | None, value: Any) -> int | None:
        """The row of the release that is this order's schedule, or None where it has to be solved."""
        place = self.place
        if self.lot_size is not None or not place.on_grid:
            return None
        if kind is not None and self.eta_tilde <= 0:
            kind, value = "urgency", 0.0
        at, capped = (
            place.market.point(self.strategy, place.size, place.near["horizon"], kind, value),
            place.market.capped,
        )
        if at is None or (self.strategy not in WITH_HOURS and capped is None):
            return at
        row, calendar = place.market.block.row(at), place.row["calendar"]
        if (self.max_participation, self.max_slice) != (_known(row["max_participation"]), _known(row["max_slice"])):
            return None
        begins_so = self.begin == 0 and first_session(calendar, self.after) == first_session(calendar, as_of)
        # Caps by the hours' volume decide about the status of a schedule by the clock too.
        by_hours = "volume" in (row["cost_profile"], (capped or row)["cost_profile"])
        return at if begins_so or not by_hours else None

    def limits(self) -> dict[str, float]:
        """The limits that are kept, by name."""
        named = {name: getattr(self, name) for name in ("max_participation", "max_slice", "lot_size")}
        return {name: value for name, value in named.items() if value is not None}


def market_hours(place: Place, after: date, begin: float) -> dict[str, np.ndarray] | None:
    """The slices' weights by volume and variance from the published profiles; None where none is known."""
    n, flat = place.n_steps, np.full(place.n_steps, 1.0 / place.n_steps)
    known, asked = place.market.hours, (place.horizon, n, after, begin)
    with contextlib.suppress(KeyError):  # another thread may clear what this one has just seen
        return known[asked]
    if len(known) >= _HOURS_KEPT:
        known.clear()

    def shares(name: str, width: int) -> np.ndarray | None:
        profile = np.array([place.row.get(name) or [math.nan]], dtype=float)
        return profile if profile.shape == (1, width) and (np.isfinite(profile) & (profile >= 0)).all() else None

    def weights(name: str) -> np.ndarray | None:
        hours, week = shares(name, 24), shares(f"{name}_week", 168)
        if hours is None:
            return None
        if week is not None:
            hours = with_weekdays(hours, week)
        horizons = np.array([place.horizon])
        found: np.ndarray = slice_weights(place.row["calendar"], after, hours, horizons, n, begin=begin)[0]
        return found if np.isfinite(found[0]) and found.sum() > 0 else None

    volume, found = weights("volume_profile"), None
    if volume is not None:
        variance = weights("variance_profile")
        found = {"volume_profile": volume, "variance_profile": flat if variance is None else variance}
    known[asked] = found
    return found


# --- from what a person chose to λ ---------------------------------------------------------------------------------


def risk_aversion_of(order: Order, kind: str, value: Any) -> float:
    """λ of what was asked, within the hull."""
    place, horizon, clock = order.place, order.place.horizon, None
    if kind in ("risk_aversion", "urgency") and not (math.isfinite(value) and value >= 0):
        raise ScheduleRefused(f"{kind} must be finite and >= 0, got {value:g}")
    if order.eta_tilde <= 0:  # whatever was asked for, if it is something
        target = value[0] if kind == "done_by" else value
        if not (math.isfinite(target) and target >= 0):
            raise ScheduleRefused(f"{kind} must be finite and >= 0, got {target:g}")
        if kind == "done_by":
            _slices_by(order, value[1])
        return 0.0
    try:
        if kind == "risk_aversion":
            lam = float(value)
        elif kind == "urgency" and value == 0:
            return 0.0
        elif kind == "urgency" and place.law["impact_law"] == "linear":
            p = place.params
            eta = effective_eta(p.eta, p.gamma, p.tau, place.law["permanent"])
            lam = float(risk_aversion_from_urgency(value, eta, p.sigma, p.tau, place.n_steps))
        elif kind in ("urgency", "decay_time"):
            clock = order.problem(0.0, by_clock=True)
            lam = risk_aversion_from_decay_time(clock, horizon / value if kind == "urgency" else value).risk_aversion
        else:
            lam = _by_schedule(order, kind, value)
    except ScheduleRefused:
        raise
    except ValueError as error:
        raise ScheduleRefused(f"{kind}={value}: {error}") from None
    urgency = float(value) if kind == "urgency" else urgency_of(place, lam)
    if urgency > place.most_urgency * (1 + TOO_FAR):
        refuse_urgency(place, f"{kind}={value}", urgency)
    return lam


def _by_schedule(order: Order, kind: str, value: Any) -> float:
    """λ of a time, a share or a budget that the schedule itself meets."""
    place = order.place
    problem = order.problem(0.0)
    within_limits(order, problem)  # says in words where nothing is feasible
    if kind == "half_life":
        return risk_aversion_from_half_life(problem, value).risk_aversion
    if kind == "done_by":
        return risk_aversion_from_share_done(problem, value[0], _slices_by(order, value[1])).risk_aversion
    # In bps of the notional, in which the budget is given and a refusal should speak: E/u + (λu) V/u².
    unit = 1e-4 * place.size * place.params.price
    money = {name: getattr(problem, name) / unit for name in ("impact", "spread", "slice_sd", "gamma")}
    return risk_aversion_from_cost(replace(problem, **money), value).risk_aversion / unit


def _slices_by(order: Order, time: float) -> int:
    """Slices that are over by a time of `done_by`."""
    place = order.place
    within = place.tau * (1 - TOO_FAR) <= time <= place.horizon * (1 + TOO_FAR)
    after = math.floor(time / place.tau + TOO_FAR) if within else 0
    if not 1 <= after <= place.n_steps:
        raise ScheduleRefused(f"done_by's time must be from {place.tau:g} to {place.horizon:g} days, got {time:g}")
    return after


def urgency_of(place: Place, risk_aversion: float) -> float:
    """κT by the clock; T over the law's own time under the power law."""
    p, law = place.params, place.law
    if law["impact_law"] != "linear":
        found = generate_ac_trajectory(place.size, place.n_steps, p, risk_aversion, **law)
        return float(found.params["urgency"])
    eta = effective_eta(p.eta, p.gamma, p.tau, law["permanent"])
    return float(decay_rate(risk_aversion, eta, p.sigma, p.tau)) * place.horizon if eta > 0 else 0.0


# --- schedules -----------------------------------------------------------------------------------------------------


def published(run_id: str, order: Order, at: int) -> ExecutionTrajectory:
    """A row of the grid as a trajectory: its holdings and numbers to the bit."""
    place, block = order.place, order.place.market.block
    row, holdings = block.row(at), block.remaining(at).copy()
    if len(holdings) != row["n_steps"] + 1 or not adds_up(holdings, row["order_size"]):
        raise broken(run_id, place.key[0])
    n, size = row["n_steps"], row["order_size"]
    trades = -np.diff(holdings)
    if row["strategy"] in (BY_CLOCK, TWAP) and row["impact_law"] in (None, "linear"):
        # The slices' own closed form, exact where differences of holdings are not: theirs, if the holdings are.
        held, slices = _shapes(row["urgency"], n)
        if np.array_equal(held * size, holdings):
            trades = slices * size
    numbers = {name: row[name] for name in _NUMBERS}
    lam = row["risk_aversion"]
    if row["strategy"] == MARKET_ORDER:
        lam = numbers["urgency"] = numbers["kappa"] = math.inf
        numbers["decay_time"] = 0.0
    elif row["urgency"] == 0:
        numbers["decay_time"] = math.inf
    said = () if row["status"] == "ok" else (f"published with status {row['status']}",)
    if row["strategy"] not in FIXED and order.eta_tilde <= 0:
        lam, said = 0.0 if math.isnan(lam) else lam, (*said, _no_trade_off(order))
    more = {"status": row["status"], "cost_profile": row["cost_profile"] or "clock", "source": "published"}
    found = _trajectory(order, row["strategy"], lam, holdings, trades, numbers, said, more)
    found = replace(found, total_cost_estimate=row["expected_cost_bps"])
    return _flagged(order, found, told=row["status"] in PRICED)


def solved(order: Order, risk_aversion: float) -> ExecutionTrajectory:
    """The schedule of an order, or of its rest, from the published parameters."""
    if order.strategy in FIXED:
        found = _fixed(order)
    elif order.strategy == BY_CLOCK and not order.limited:
        found = _closed_form(order, risk_aversion) or _by_clock(order, risk_aversion)
    else:
        found = _optimal(order, risk_aversion)
    if not np.isfinite(found.holdings).all():
        raise ScheduleRefused("; ".join(found.params["warnings"]))
    size, left = order.place.size, found.params.get("remainder", 0.0)
    missing = abs(math.fsum([*found.trade_sizes, left, -size]))
    if not (missing <= _ROUNDING * size and adds_up(found.holdings, size, left)):
        raise ScheduleRefused(f"no schedule of {size:g} contracts adds up: {missing:g} would be missing")
    found = replace(found, params={**found.params, "source": "solved"})
    paid = found.params["expected_cost"] / order.place.multiplier / size
    row = order.place.row
    out = bool(leaves_range(row["price"], paid, ceiling_of(row["kind"])))  # as the night flags its rows, on any side
    if out:
        found = _out_of_range(found, average_out_of_range(row["price"], paid))
    return _flagged(order, found, told=out)


def kept(order: Order, found: ExecutionTrajectory, kind: str | None, value: Any) -> ExecutionTrajectory:
    """The schedule if it does what was asked of it, lots and all: a cost budget is kept, of a time it is said."""
    lots = "" if order.lot_size is None else f" in lots of {order.lot_size:g}"
    said = ""
    if kind == "cost_budget_bps":
        found = _within_budget(order, found, value, lots)
    if kind == "half_life" and not abs(found.params["half_life"] - value) <= _MET * value:
        said = f"half of the order is done after {found.params['half_life']:.10g} days{lots}, not {value:g}"
    if kind == "done_by":
        share, time = value
        done = 1.0 - found.holdings[_slices_by(order, time)] / order.place.size
        if not abs(done - share) <= _MET * share:
            said = f"the share done by {time:g} days is {done:.10g}{lots}, not {share:g}"
    return _said(found, said) if said else found


def _within_budget(order: Order, found: ExecutionTrajectory, budget: float, lots: str) -> ExecutionTrajectory:
    """The schedule, or one of less λ: λ was chosen without lots, and whole lots cost something."""
    asked = budget
    for _ in range(_TRIES):
        over = found.total_cost_estimate - budget
        if over <= TOO_FAR * budget:
            return found
        asked -= over
        try:
            found = solved(order, risk_aversion_of(order, "cost_budget_bps", asked))
        except ScheduleRefused:  # no schedule without lots is as cheap
            break
    least = solved(order, 0.0)
    if least.total_cost_estimate <= budget * (1 + TOO_FAR):
        return least
    raise ScheduleRefused(
        f"cost_budget_bps={budget:g}: the least expected cost{lots} is {least.total_cost_estimate:.10g} bps"
    )


def average_out_of_range(price: float, paid: float) -> str:
    """What to say where the average price would leave the market's range."""
    return f"its expected average price, {price:g} less or more {paid:g}, leaves its range: the law is stretched"


def slice_out_of_range(price: float, worst: float) -> str:
    """What to say where the price of a slice would leave the market's range."""
    return f"its dearest slice, {price:g} less or more {worst:g}, leaves the price's range: the law is stretched"


def within_limits(order: Order, problem: Problem) -> None:
    """Refuse in words an order that has no schedule under its caps, whatever the risk."""
    if order.max_participation is not None or order.max_slice is not None:
        _scheduled(order, problem)


def adds_up(held: np.ndarray, size: Any, left: float = 0.0) -> np.ndarray:
    """Whether holdings, one schedule or one a row, fall from their order's size to what is left and never rise."""
    falls = (held[..., 1:] <= held[..., :-1]).all(axis=-1)
    return np.asarray((held[..., 0] == size) & (held[..., -1] == left) & falls)


def broken(run_id: str, market_id: str) -> BookError:
    """What to say of a published schedule that does not add up."""
    return BookError(f"run {run_id}: a schedule of {market_id!r} does not add up; run `tributary-opt check`")


def _slice_prices(order: Order, cost: np.ndarray) -> np.ndarray:
    """What each slice is expected to trade at; on the tick, rounded against the order where the tick is known."""
    place = order.place
    price, tick, buy = place.params.price / place.multiplier, place.row["tick_size"], order.side == "buy"
    prices = price + cost if buy else price - cost
    if tick:
        steps = prices / tick
        near = np.rint(steps)
        on = np.abs(steps - near) < ON_TICK
        # The multiple of the tick as it is written: 4998 * 0.01 is 49.980000000000004.
        decimals = max(-int(Decimal(repr(float(tick))).as_tuple().exponent), 0)
        prices = np.round(np.where(on, near, np.ceil(steps) if buy else np.floor(steps)) * tick, decimals)
    return np.asarray(prices)


# --- inside --------------------------------------------------------------------------------------------------------

_ROUNDING = 1e-12
"""What slices may miss of their order, as a share of it; whole lots of a size like 0.1 round most."""

_MET = 1e-6
"""How far a schedule may be from the time or the share it was chosen by, as a share of it. [-]"""

_TRIES = 8
"""How often λ is chosen anew so that whole lots keep a budget. [-]"""

_NUMBERS = ("kappa", "eta_tilde", "expected_cost", "cost_variance", "urgency", "decay_time", "half_life", "alpha")


# The grid's levels are few, and the same in every market.
_shapes = lru_cache(maxsize=256)(linear_shapes)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _costs_of_slices(order: Order, found: ExecutionTrajectory) -> np.ndarray:
    """What a contract of each slice costs. [price]"""
    p, law = order.place.params, order.place.law
    by_hours = order.hours is not None and found.params["cost_profile"] == "volume"
    cost = slice_costs(
        found.trade_sizes,
        **{name: getattr(p, name) for name in ("tau", "eta", "gamma", "epsilon", "reference_rate")},
        midprice=law["permanent"] == "midprice",
        slower=slower_of(order.hours["volume_profile"])[order.done :] if order.hours and by_hours else 1.0,
        alpha=p.alpha if law["impact_law"] == "power" else math.nan,
    )
    return cost / order.place.multiplier


def _flagged(order: Order, found: ExecutionTrajectory, *, told: bool) -> ExecutionTrajectory:
    """With the slices' prices, and a word where one would leave its range or the horizon is not the one asked for.

    `told` where it is known of the prices whether they do: by the night of what is published, or by the average.
    """
    place, row, cost = order.place, order.place.row, _costs_of_slices(order, found)
    found = replace(found, params={**found.params, "slice_prices": _slice_prices(order, cost)})
    if not told:
        worst = float(cost[found.trade_sizes > 0].max())
        if leaves_range(row["price"], worst, ceiling_of(row["kind"]), row["tick_size"] or math.nan):
            found = _out_of_range(found, slice_out_of_range(row["price"], worst))
    return _said(found, place.said) if place.said else found


def _out_of_range(found: ExecutionTrajectory, said: str) -> ExecutionTrajectory:
    """With a word, and the status that the night would give; what is published has been given its own."""
    kept = found.params["source"] == "published" or found.params["status"] == "beyond_convexity"
    status = found.params["status"] if kept else "price_out_of_range"
    return _said(replace(found, params={**found.params, "status": status}), said)


def _said(found: ExecutionTrajectory, said: str) -> ExecutionTrajectory:
    return replace(found, params={**found.params, "warnings": (*found.params["warnings"], said)})


def _no_trade_off(order: Order) -> str:
    return (
        f"eta - gamma*tau/2 must be > 0, got {order.eta_tilde:g} at tau={order.place.tau:g} day: the schedule is the "
        'one of risk_aversion 0, whatever the risk; publish a grid with more steps, or with permanent="midprice"'
    )


def _closed_form(order: Order, risk_aversion: float) -> ExecutionTrajectory | None:
    """As many orders at once are solved, to the bit; None where the law or a number is not one for the closed form."""
    place, p, law = order.place, order.place.params, order.place.law
    if law["impact_law"] != "linear":
        return None
    n = order.n_steps - order.done
    g = solve_linear_grid(
        *(p.eta, p.gamma, p.sigma, p.epsilon, place.size),
        horizon=n * p.tau if order.done else place.horizon,
        n_steps=n,
        risk_aversion=risk_aversion,
        permanent=law["permanent"],
        slices=True,
    )
    if g.status[0, 0, 0] != SolveStatus.OK:
        return None
    assert g.holdings is not None
    assert g.slices is not None
    of_level = ("kappa", "urgency", "decay_time", "half_life")
    numbers = {name: float(getattr(g, name)[0, 0]) for name in of_level} | {"eta_tilde": float(g.eta_tilde[0])}
    numbers |= {name: float(getattr(g, name)[0, 0, 0]) for name in ("expected_cost", "cost_variance")}
    held, slices = g.holdings[0, 0, 0], place.size * g.slices[0, 0]
    return _trajectory(order, order.strategy, risk_aversion, held, slices, numbers, (), {"status": "ok"})


def _by_clock(order: Order, risk_aversion: float) -> ExecutionTrajectory:
    """Whatever the law and the numbers, with a warning where they make it another schedule than was asked for."""
    place, n = order.place, order.n_steps - order.done
    found = generate_ac_trajectory(place.size, n, place.params, risk_aversion, side=order.side, **place.law)
    implied = found.params["implied_price"] / place.multiplier
    return replace(found, params={**found.params, "implied_price": implied, "cost_profile": "clock"})


def _fixed(order: Order) -> ExecutionTrajectory:
    """TWAP, VWAP or everything at once: the whole, or what is left of it."""
    problem, left = order.rest(0.0), order.n_steps - order.done
    shares, held = np.full(left, 1.0 / left), None
    if order.strategy == TWAP:
        held = np.arange(left, -1, -1) / left
    elif order.strategy == MARKET_ORDER:
        shares = np.zeros(left)
        shares[0] = 1.0
    elif order.hours is not None:
        w = order.hours["volume_profile"][order.done :]
        if not w.sum() > 0:
            raise ScheduleRefused("no volume is expected in what is left of the horizon")
        shares = w / w.sum()
    holdings, cost, variance, half = fixed_grid(problem, shares, held)
    at_once = order.strategy == MARKET_ORDER
    level = math.inf if at_once else 0.0
    numbers = {"expected_cost": float(cost), "cost_variance": float(variance), "half_life": float(half)}
    numbers |= {"kappa": level, "urgency": level, "decay_time": 0.0 if at_once else math.inf}
    lam, slices = level, order.place.size * shares
    said = {"beyond_convexity": beyond_convexity(problem, slices), "over_cap": _over_cap(order, slices, problem.cap)}
    said = {status: words for status, words in said.items() if words}
    more = {"status": next(iter(said), "ok")}
    return _trajectory(order, order.strategy, lam, holdings, slices, numbers, tuple(said.values()), more)


def _over_cap(order: Order, slices: np.ndarray, cap: np.ndarray) -> str:
    """What to say of a schedule that breaks the caps of its release; nothing where it keeps them."""
    capped = order.place.market.capped
    if capped is None or not breaks_cap(slices, cap):
        return ""
    most = int((slices - cap).argmax())
    limits = (f"{name}={capped[name]:g}" for name in ("max_participation", "max_slice") if capped[name] > 0)
    return (
        f"a slice of {slices[most]:g} contracts is above the {cap[most]:g} that {', '.join(limits)} of the release "
        "leaves it: a schedule to compare with, not to trade"
    )


def _optimal(order: Order, risk_aversion: float) -> ExecutionTrajectory:
    """The optimum with hours, caps or lots."""
    found = _scheduled(order, order.rest(risk_aversion))
    status = SolveStatus(int(found.best.status))
    if status not in (SolveStatus.OK, SolveStatus.TWAP_ETA_TILDE):
        raise ScheduleRefused(f"the order has no optimal schedule under its limits ({status.name.lower()})")
    said = found.warnings
    if status == SolveStatus.TWAP_ETA_TILDE:
        said = (*said, _no_trade_off(order))
    cost = schedule_cost(found.problem, found.slices, found.holdings)
    kappa_t = urgency_of(order.place, risk_aversion)
    kappa = kappa_t / order.place.horizon
    path = found.holdings - found.remainder
    numbers = {
        "kappa": kappa,
        "urgency": kappa * (order.n_steps - order.done) * order.place.tau if order.done else kappa_t,
        "decay_time": 1.0 / kappa if kappa > 0 else math.inf,
        "half_life": float(half_life(path / path[0], order.place.tau)),
        "expected_cost": float(cost.expected_cost),
        "cost_variance": float(cost.cost_variance),
    }
    more = {"status": status.name.lower(), "lots": found.lots, "remainder": found.remainder}
    more |= {"rounding_cost": found.rounding_cost}
    name = order.strategy
    return _trajectory(order, name, risk_aversion, found.holdings, found.slices, numbers, said, more)


def _scheduled(order: Order, problem: Problem) -> LimitedSchedule:
    try:
        return schedule_problem(problem, lot_size=order.lot_size)
    except InfeasibleSchedule as error:
        limits = ", ".join(f"{name}={value:g}" for name, value in order.limits().items())
        raise ScheduleRefused(f"{limits}: {error}, of {order.place.tau:g} days each") from None
    except ValueError as error:
        raise ScheduleRefused(str(error)) from None


def _trajectory(
    order: Order,
    strategy: str,
    risk_aversion: float,
    holdings: np.ndarray,
    trades: np.ndarray,
    numbers: dict[str, float],
    warnings: tuple[str, ...],
    more: dict[str, Any],
) -> ExecutionTrajectory:
    place = order.place
    p, law, m, size = place.params, place.law, place.multiplier, place.size
    cost = numbers["expected_cost"]
    n = len(trades)
    given = {"alpha": place.near["alpha"], "eta_tilde": place.near["eta_tilde"]}
    return ExecutionTrajectory(
        timestamps=np.arange(n + 1, dtype=np.float64) * place.tau,
        holdings=holdings,
        trade_sizes=trades,
        strategy_name=strategy,
        total_cost_estimate=cost / size / p.price * 1e4,
        risk_aversion=risk_aversion,
        params={
            **given,
            **numbers,
            "implied_price": float(implied_average_price(p.price / m, cost / m, size, order.side)),
            **law,
            "side": order.side,
            "n_steps": n,
            "horizon": n * place.tau if order.done else place.horizon,
            **{name: getattr(p, name) for name in ("eta", "gamma", "sigma", "epsilon", "tau", "price")},
            "cost_profile": order.cost_profile,
            "volume_profile": None,
            "limits": order.limits(),
            "warnings": warnings,
            **more,
        },
    )
