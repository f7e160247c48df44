"""Where an order lies: its market, the published horizon nearest to its own, and what is too far from the grid."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NoReturn

from tributary_opt.optimization.trajectory import AlmgrenChrissParams
from tributary_opt.schedule_book.clock import trading_hours
from tributary_opt.schedule_book.grid import Key, Market
from tributary_opt.schedule_book.snapshot import ScheduleRefused, Snapshot

GRADES = ("A", "B", "C", "D")
RISK_KINDS = ("risk_aversion", "urgency", "decay_time", "half_life", "done_by", "cost_budget_bps")

BY_CLOCK, VOLUME_TIME, CAPPED = "almgren_chriss", "almgren_chriss_volume_time", "almgren_chriss_capped"
TWAP, VWAP, MARKET_ORDER = "twap", "vwap", "market_order"
OPTIMAL = (BY_CLOCK, VOLUME_TIME, CAPPED)
FIXED = (TWAP, VWAP, MARKET_ORDER)
"""Strategies that no risk level decides about."""

MOST_URGENCY, SHORTEST, LONGEST = 2.0, 0.25, 2.0
"""The hull: κT up to this many times the largest of the grid, horizons from and to these multiples of the nearest."""

SMALLEST = 1e-200
"""Below it slices leave the range of the doubles. [contracts]"""

TOO_FAR = 1e-9


@dataclass(frozen=True, eq=False)
class Place:
    """Where in the hull an order lies: its market's parameters and the published horizon nearest to its own."""

    key: Key
    row: dict[str, Any]
    market: Market
    near: dict[str, Any]
    size: float
    n_steps: int
    tau: float
    most_urgency: float
    said: str = ""
    """What is not as it was asked for."""

    @property
    def horizon(self) -> float:
        """T. [day]"""
        return float(self.near["horizon"]) if self.on_grid else self.n_steps * self.tau

    @property
    def multiplier(self) -> float:
        return float(self.row["contract_multiplier"] or 1.0)

    @property
    def on_grid(self) -> bool:
        """Whether the horizon is one of the grid's."""
        return bool(self.n_steps == self.near["n_steps"])

    @cached_property
    def params(self) -> AlmgrenChrissParams:
        """The published parameters, in currency: a price of 1 is worth the contract's multiplier."""
        m, row, alpha = self.multiplier, self.row, self.near["alpha"]
        scaled: dict[str, Any] = {n: float(row[n]) * m for n in ("eta", "gamma", "sigma", "epsilon", "price")}
        rate = row["reference_rate"]
        return AlmgrenChrissParams(
            **scaled,
            alpha=1.0 if math.isnan(alpha) else alpha,
            tau=self.tau,
            reference_rate=0.01 * row["adv"] if rate is None else rate,
        )

    @cached_property
    def law(self) -> dict[str, Any]:
        """Impact law and permanent convention that the release was solved under."""
        return {"permanent": self.near["permanent"], "impact_law": self.near["impact_law"] or "linear"}


def number(name: str, value: Any) -> float:
    """A number as a double; ScheduleRefused for what is none."""
    try:
        if not isinstance(value, str):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ScheduleRefused(f"{name} must be a number, got {value!r}")


def one_risk(given: Mapping[str, Any], strategy: str) -> tuple[str | None, Any]:
    """The one way in which risk was chosen; none for a strategy without a risk level."""
    if strategy not in (*OPTIMAL, *FIXED):
        raise ValueError(f"strategy must be one of {', '.join((*OPTIMAL, *FIXED))}, got {strategy!r}")
    unknown = set(given) - set(RISK_KINDS)
    if unknown:
        raise TypeError(f"unknown {', '.join(sorted(unknown))}: give one of {', '.join(RISK_KINDS)}")
    named = [(name, value) for name, value in given.items() if value is not None]
    got = ", ".join(name for name, _ in named) or "none"
    if strategy in FIXED:
        if named:
            raise ValueError(f"{strategy} has no risk level: leave out {got}")
        return None, None
    if len(named) != 1:
        raise ValueError(f"give exactly one of {', '.join(RISK_KINDS)}, got {got}")
    ((name, value),) = named
    if name != "done_by":
        return name, number(name, value)
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 2:
        raise ScheduleRefused(f"done_by must be two numbers, the share and the time at which it is done, got {value!r}")
    return name, (number("done_by's share", value[0]), number("done_by's time", value[1]))


def key_of(book: Snapshot, market_id: str, token_id: str | None) -> Key:
    """The market and token that are meant, or a refusal that names those there are."""
    for name, value in (("market_id", market_id), ("token_id", token_id or "")):
        if not isinstance(value, str):
            raise ScheduleRefused(f"{name} must be text, got {value!r}")
    tokens = book.tokens(market_id)
    if not tokens:
        there = book.market_ids
        alike: dict[str, list[str]] = {}
        for name in there:
            alike.setdefault(name.casefold(), []).append(name)
        close = difflib.get_close_matches(market_id.casefold(), alike, n=3, cutoff=0.4)
        near = [name for folded in close for name in alike[folded]][:3]
        hint = f"; nearest: {', '.join(map(repr, near))}" if near else f"; the release has {len(there)} markets"
        raise ScheduleRefused(f"no market {market_id!r} in run {book.run_id}{hint}")
    if token_id is None:
        if len(tokens) > 1:
            raise ScheduleRefused(f"market {market_id!r} has several tokens, give token_id: {', '.join(tokens)}")
        return market_id, tokens[0]
    if token_id not in tokens:
        raise ScheduleRefused(f"market {market_id!r} has no token {token_id!r}; it has {', '.join(tokens)}")
    return market_id, token_id


def grade_index(grade: str) -> int:
    """0 for the best."""
    if grade not in GRADES:
        raise ValueError(f"a grade is one of {', '.join(GRADES)}, got {grade!r}")
    return GRADES.index(grade)


def unfit(
    book: Snapshot, key: Key, row: Mapping[str, Any], min_grade: str, max_age: float | timedelta, now: datetime
) -> str | None:
    """Why a market's parameters are not to be used, by what is `JUDGED` of its row, or None.

    A grade that is not known is the worst.
    """
    worst = grade_index(min_grade)
    oldest = max_age / timedelta(hours=1) if isinstance(max_age, timedelta) else number("max_age", max_age)
    name, grade = f"market {key[0]!r}, token {key[1]!r}", row["grade"]
    if row["status"] != "ok":
        return f"{name} was refused: {row['reason']}" + (f" ({row['detail']})" if row["detail"] else "")
    if grade not in GRADES and worst < len(GRADES) - 1:
        return f"{name} has no grade, as in releases of older versions; min_grade='D' would take it"
    if grade in GRADES and GRADES.index(grade) > worst:
        return f"{name} has grade {grade}, below min_grade {min_grade}; min_grade={grade!r} would take it"
    age = trading_hours(row["calendar"], book.as_of, now)
    if not age <= oldest:
        return (
            f"run {book.run_id} as of {book.as_of} is {age:.1f} h of trading old, more than max_age {oldest:g} h: "
            "run the night, or pass a larger max_age"
        )
    return None


def place_of(book: Snapshot, key: Key, market: Market, order_size: float, horizon: float | None) -> Place:
    """Where an order lies; ScheduleRefused outside the hull, with how far outside."""
    horizons, largest, order_size = market.horizons, market.largest, number("order_size", order_size)
    if not horizons:
        raise ScheduleRefused(f"market {key[0]!r} has no feasible schedule in the grid")
    if not (math.isfinite(order_size) and order_size > 0):
        raise ScheduleRefused(f"order_size must be finite and > 0, got {order_size:g}")
    if order_size < SMALLEST:
        raise ScheduleRefused(f"order_size {order_size:g} is below {SMALLEST:g} contracts: its slices would round to 0")
    if order_size > largest * (1 + TOO_FAR):  # 10 % of the ADV, one way of rounding or the other
        raise ScheduleRefused(
            f"order_size {order_size:g} is {order_size / largest:.3g} times the grid's largest, {largest:g} contracts"
        )
    near = horizons[0]
    n_steps = int(near["n_steps"])
    if horizon is not None:
        horizon = number("horizon", horizon)
        if not (math.isfinite(horizon) and horizon > 0):
            raise ScheduleRefused(f"horizon must be finite and > 0, got {horizon:g}")
        asked = [row for row in horizons if horizon in (row["horizon"], row["horizon_asked"])]
        near = asked[0] if asked else min(horizons, key=lambda row: abs(math.log(horizon / row["horizon"])))
        n_steps = near["n_steps"] if asked else _steps_of(horizon, near)
    return Place(
        key=key,
        row=book.parameters(key),
        market=market,
        near=near,
        size=float(order_size),
        n_steps=n_steps,
        tau=near["horizon"] / near["n_steps"],
        most_urgency=MOST_URGENCY * market.most_urgency,
        said=shortened(near["horizon"], near["horizon_asked"]) if horizon in (None, near["horizon_asked"]) else "",
    )


def shortened(horizon: float, asked: float) -> str:
    """What to say of a grid's horizon that a resolution has cut short; nothing where none has."""
    return f"the market resolves: the horizon is {horizon!r} days, not {asked:g}" if horizon < asked else ""


def refuse_urgency(place: Place, asked: str, urgency: float) -> NoReturn:
    """Say how far outside the hull a risk lies."""
    if place.most_urgency == 0:
        raise ScheduleRefused(
            f"{asked} means an urgency of {urgency:.4g}, and the grid's only level is 0, TWAP: publish a grid with more"
        )
    raise ScheduleRefused(
        f"{asked} means an urgency of {urgency:.4g}, {urgency / place.most_urgency * MOST_URGENCY:.3g} "
        f"times the largest of the grid; {MOST_URGENCY:g} times, {place.most_urgency:g}, is the limit"
    )


def _steps_of(horizon: float, near: dict[str, Any]) -> int:
    """How many of the published steps a horizon takes."""
    if not math.isnan(near["horizon_asked"]) and near["horizon"] < min(horizon, near["horizon_asked"]):
        raise ScheduleRefused(
            f"the market resolves: the longest horizon that fits is {near['horizon']!r} days, not {horizon:g}"
        )
    ratio = horizon / near["horizon"]
    if not SHORTEST <= ratio <= LONGEST:
        raise ScheduleRefused(
            f"horizon {horizon:g} days is {ratio:.3g} times the nearest of the grid, {near['horizon']:g}; "
            f"{SHORTEST:g} to {LONGEST:g} times will do"
        )
    tau = near["horizon"] / near["n_steps"]
    n_steps: int = round(horizon / tau)
    if n_steps < 1 or abs(horizon - n_steps * tau) > TOO_FAR * horizon:
        low = max(math.floor(horizon / tau), 1)
        raise ScheduleRefused(
            f"horizon {horizon:g} days is no whole number of the published steps of {tau:g} days: "
            f"{low * tau:.10g} and {(low + 1) * tau:.10g} are the nearest"
        )
    return n_steps
