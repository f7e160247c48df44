"""Risk aversion a person can choose: λ from a time, a share, a budget or a level of risk, and back.

λ has a unit and says nothing to anybody. What people do know: how fast the position should decay, when half of it
should be done, how much the order may cost, how much they fear. Each has one λ, because the schedule's pace, its cost
and its variance are monotone in λ; it is found on log λ by safeguarded regula falsi until the *target* is met.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tributary_opt.optimization.arguments import FloatArray
from tributary_opt.optimization.closed_form import SolveStatus, _half_steps
from tributary_opt.optimization.problem import Problem, convexity_limit, schedule_cost
from tributary_opt.optimization.solver import Solution, solve

__all__ = [
    "RiskChoice",
    "RiskFigures",
    "risk_aversion_from_cost",
    "risk_aversion_from_cost_bps",
    "risk_aversion_from_decay_time",
    "risk_aversion_from_half_life",
    "risk_aversion_from_lvar",
    "risk_aversion_from_share_done",
    "risk_figures",
]

_ROUNDING = 1e-12


@dataclass(frozen=True)
class RiskFigures:
    """What one λ means for one problem."""

    risk_aversion: float  #: λ. [1/currency]
    decay_time: float  #: 1/κ of the problem's mean coefficients; T* of the power law; inf at λ = 0. [day]
    half_life: float  #: when half of the order is done. [day]
    expected_cost: float  #: E. [currency]
    cost_sd: float  #: √V. [currency]
    tangency: float  #: λ_v = 2λ√V: the L-VaR level for which this schedule is the best (A-C eq. 22). [-]
    lvar: float  #: E + λ_v √V. [currency]
    time: FloatArray  #: end of each slice, shape (N,). [day]
    share_done: FloatArray  #: share of the order done by then, shape (N,). [-]
    expected_cost_bps: float  #: E in bps of arrival notional; NaN without a price. [bps]

    def share_done_by(self, time: float) -> float:
        """Share of the order done by a time, straight within a slice. [-]"""
        return float(np.interp(time, np.append(0.0, self.time), np.append(0.0, self.share_done)))


@dataclass(frozen=True)
class RiskChoice:
    """λ that meets a target."""

    risk_aversion: float  #: λ. [1/currency]
    achieved: float  #: the target as the schedule of this λ has it, in the target's unit.
    condition: float  #: |d log λ / d log target| of its schedule-dependent part: digits of λ lost to the target's. [-]


def risk_figures(problem: Problem, price: float = math.nan) -> RiskFigures:
    """Decay time, half-life, cost, risk and L-VaR level of one problem's optimal schedule at its own λ.

    With the arrival price of a contract the cost is in bps too.
    """
    _one(problem)
    solution = solve(problem)
    _has_schedule(problem, solution)
    cost = schedule_cost(problem, solution.slices, solution.holdings)
    sd, lam = math.sqrt(float(cost.cost_variance)), float(problem.risk_aversion)
    expected = float(cost.expected_cost)
    level = 2.0 * lam * sd
    return RiskFigures(
        risk_aversion=lam,
        decay_time=_decay_time(problem),
        half_life=_half_life(problem, solution.holdings),
        expected_cost=expected,
        cost_sd=sd,
        tangency=level,
        lvar=expected + level * sd,
        time=np.cumsum(problem.tau),
        share_done=1.0 - solution.holdings[1:] / float(problem.order_size),
        expected_cost_bps=expected / (float(problem.order_size) * price) * 1e4,
    )


def risk_aversion_from_decay_time(problem: Problem, decay_time: float) -> RiskChoice:
    """λ with 1/κ = `decay_time` (T* for the power law): needs no schedule.

    κ = (2/τ) asinh(κ̃τ/2) inverted, with the mean a_j, s_j and τ where they vary.
    """
    _one(problem)
    if not (math.isfinite(decay_time) and decay_time > 0):
        raise ValueError(f"decay_time must be finite and > 0, got {decay_time:g}: inf is TWAP, risk_aversion 0")
    a, sd, tau, k = _means(problem)
    if not sd > 0:
        raise ValueError("no risk_aversion gives a decay time where sigma is 0: every schedule is that of lambda = 0")
    ratio = tau / decay_time
    if k == 1.0:
        if ratio > 1400.0:
            raise ValueError(
                f"decay_time must be at least {tau / 1400.0:g} days for steps of {tau:g}, got {decay_time:g}"
            )
        root = 2.0 * math.sinh(0.5 * ratio) * math.sqrt(a) / sd
        lam = root * root
    else:
        lam = ratio ** (k + 1.0) * k * a * float(problem.order_size) ** (k - 1.0) / sd / sd
    if not math.isfinite(lam):
        raise ValueError(f"the risk_aversion of decay_time {decay_time:g} is beyond the double range")
    condition = (ratio / math.tanh(0.5 * ratio)) if k == 1.0 else k + 1.0
    return RiskChoice(lam, _decay_time(replace(problem, risk_aversion=np.asarray(lam))), condition)


def risk_aversion_from_half_life(problem: Problem, half_life: float) -> RiskChoice:
    """λ whose schedule has half of the order done at `half_life` days."""
    return _find(problem, half_life, lambda p, h, _: _half_life(p, h), "half_life", 0.0)


def risk_aversion_from_share_done(
    problem: Problem, share: float, after_slice: int | None = None, *, by: float | None = None
) -> RiskChoice:
    """λ whose schedule has the share `share` of the order done after so many slices, or by a time. [-], [day]

    Within a slice the order is done evenly.
    """
    if (after_slice is None) == (by is None):
        raise ValueError("give exactly one of after_slice and by")
    _one(problem)
    if by is None:
        assert after_slice is not None
        whole, part = operator.index(after_slice), 0.0
        if not 1 <= whole <= problem.n_steps:
            raise ValueError(f"after_slice must be from 1 to n_steps = {problem.n_steps}, got {after_slice}")
    else:
        ends = np.cumsum(problem.tau)
        if not 0 < by <= ends[-1] * (1.0 + _ROUNDING):
            raise ValueError(f"by must be > 0 and within the horizon of {ends[-1]:g} days, got {by:g}")
        whole = min(int(np.searchsorted(ends, by)), problem.n_steps - 1)
        part = min(1.0 - float((ends[whole] - by) / problem.tau[whole]), 1.0)

    def done(p: Problem, holdings: FloatArray, slices: FloatArray) -> float:
        size, left = float(p.order_size), float(holdings[whole])
        if part:
            left = (1.0 - part) * left + part * float(holdings[whole + 1])
        if left < 0.5 * size:
            return 1.0 - left / size
        return math.fsum([*slices[:whole], part * slices[whole] if part else 0.0]) / size

    return _find(problem, share, done, "share_done", 0.0)


def risk_aversion_from_cost(problem: Problem, expected_cost: float) -> RiskChoice:
    """λ whose schedule is expected to cost `expected_cost`: the least risk that the budget buys. [currency]

    What every schedule pays, spread and γX²/2, is taken off before comparing: the part that the schedule decides about
    is met to 1e-9. `risk_aversion_from_cost_bps` has the budget in bps.
    """
    _one(problem)
    fixed = _fixed_cost(problem)
    bare = replace(problem, spread=problem.spread - problem.spread.min(), gamma=np.zeros_like(problem.gamma))
    paper = problem.permanent == "paper" and float(problem.exponent) < 1

    def cost(p: Problem, holdings: FloatArray, slices: FloatArray) -> float:
        if paper:
            return float(schedule_cost(problem, slices, holdings).expected_cost) - fixed
        return float(schedule_cost(bare, slices, holdings).expected_cost)

    found = _find(problem, expected_cost - fixed, cost, "expected_cost", fixed)
    return replace(found, achieved=found.achieved + fixed)


def risk_aversion_from_cost_bps(problem: Problem, cost_bps: float, price: float) -> RiskChoice:
    """λ whose schedule is expected to cost so many bps of the order at its arrival price. [bps], [currency/contract]"""
    _one(problem)
    if not (math.isfinite(price) and price > 0):
        raise ValueError(f"price must be finite and > 0, got {price:g}: the arrival price of a contract")
    bps = 1e-4 * float(problem.order_size) * price
    found = risk_aversion_from_cost(problem, cost_bps * bps)
    return replace(found, achieved=found.achieved / bps)


def risk_aversion_from_lvar(problem: Problem, level: float) -> RiskChoice:
    """λ of the schedule with the least L-VaR = E + λ_v √V: the tangency λ_v = 2λ√V (A-C section 3.2).

    `level` is λ_v, the number of standard deviations: 1.645 for 95 %. [-]
    """

    def tangency(p: Problem, holdings: FloatArray, slices: FloatArray) -> float:
        cost = schedule_cost(p, slices, holdings)
        return 2.0 * float(p.risk_aversion) * math.sqrt(float(cost.cost_variance))

    return _find(problem, level, tangency, "level", 0.0)


# ---------------------------------------------------------------------------------------------------------------------
# Inside
# ---------------------------------------------------------------------------------------------------------------------


def _one(problem: Problem) -> None:
    if problem.shape != ():
        raise ValueError(f"one problem is needed, got a batch of shape {problem.shape}: take one with problem.take(i)")


def _has_schedule(problem: Problem, solution: Solution) -> None:
    """Refuse problems without an optimum, saying why."""
    status = SolveStatus(int(np.max(solution.status)))
    if status == SolveStatus.OK:
        return
    room, size = float(np.minimum(problem.cap, problem.order_size).sum()), float(problem.order_size)
    limit = float(convexity_limit(problem).min())
    why = {
        SolveStatus.INFEASIBLE: f"the caps have room for {room:g} of {size:g} contracts: trade longer or less",
        SolveStatus.BEYOND_CONVEXITY: f"a slice may be larger than n* = {limit:g}, up to which the power law is convex "
        'under permanent="paper": take permanent="midprice", or cap the slices',
        SolveStatus.TWAP_ETA_TILDE: "an a_j (eta - gamma*tau/2 over tau) is not > 0: take more, shorter steps, or "
        'permanent="midprice"',
        SolveStatus.NOT_CONVERGED: "none was found that can be trusted",
    }.get(status, "a number of it is out of range: `Problem.of` says which")
    raise ValueError(f"the problem has no optimal schedule: {why}")


def _means(problem: Problem) -> tuple[float, float, float, float]:
    """Mean a (as the inverse of the mean ease), root of the mean s, mean τ, and k."""
    k, usable = float(problem.exponent), problem.cap > 0
    a = problem.impact[usable]
    if not (a > 0).all():
        raise ValueError("the problem has no minimum (an a_j <= 0), so no risk_aversion chooses among its schedules")
    mean = float(np.mean(usable * 1.0 * np.where(usable, problem.impact, 1.0) ** (-1.0 / k))) ** -k
    largest = float(problem.slice_sd.max())
    unit = largest if largest > 0 else 1.0  # squares of the sd itself may leave the range
    sd = unit * math.sqrt(float(np.square(problem.slice_sd / unit).mean()))
    return mean, sd, float(problem.tau.mean()), k


def _decay_time(problem: Problem) -> float:
    a, sd, tau, k = _means(problem)
    lam = float(problem.risk_aversion)
    if lam == 0 or sd == 0:
        return math.inf
    root = math.sqrt(lam) / math.sqrt(a) * sd
    if k == 1.0:
        return tau / (2.0 * math.asinh(0.5 * root))
    return float(tau * (k * float(problem.order_size) ** (k - 1.0) / root / root) ** (1.0 / (k + 1.0)))


def _half_life(problem: Problem, holdings: FloatArray) -> float:
    steps = float(_half_steps((holdings / float(problem.order_size))[:, np.newaxis])[0])
    whole = min(int(steps), problem.n_steps - 1)
    return float(problem.tau[:whole].sum() + (steps - whole) * problem.tau[whole])


def _fixed_cost(problem: Problem) -> float:
    size = float(problem.order_size)
    return size * (float(problem.spread.min()) + 0.5 * float(problem.gamma) * size)


def _find(
    problem: Problem,
    target: float,
    measure: Callable[[Problem, FloatArray, FloatArray], float],
    name: str,
    shown: float,
) -> RiskChoice:
    """Solve measure(λ) = target on log λ: the measure is monotone in λ."""
    _one(problem)
    a, sd, _, k = _means(problem)
    size = float(problem.order_size)
    # `at` is the log of a λ that makes the dimensionless risk e^at.
    if sd > 0:
        unit = math.log(a) + (k - 1.0) * math.log(size) - 2.0 * math.log(sd)

    def at(log_risk: float | None) -> tuple[float, float]:
        lam = 0.0 if log_risk is None else math.exp(min(max(log_risk + unit, -700.0), 700.0))
        p = replace(problem, risk_aversion=np.asarray(lam))
        solution = solve(p)
        _has_schedule(problem, solution)
        return measure(p, solution.holdings, solution.slices), lam

    neutral, _ = at(None)
    if not sd > 0:
        raise ValueError(f"{name} is {neutral + shown:g} whatever the risk_aversion: sigma is 0")
    low, high = -60.0, 120.0 + 4.0 * math.log(problem.n_steps)
    if name == "level":
        low, high = -150.0, 150.0
    first, _ = at(low)
    last, _ = at(high)
    rising = last > first
    least, most = min(neutral, last), max(neutral, last)
    # A target at an end of the range, but for the rounding of whoever computed it, is that end.
    inside = min(max(target, min(first, last)), max(first, last)) if math.isfinite(target) else math.nan
    # So is every λ where the schedule leaves no choice.
    outside = not min(first, last) <= target <= max(first, last)
    if abs(target - neutral) <= _ROUNDING * abs(neutral) and (outside or first == last):
        return RiskChoice(0.0, neutral, math.inf)
    if not abs(target - inside) <= _ROUNDING * abs(inside):
        raise ValueError(
            f"no risk_aversion gives {name} = {target + shown:.10g}: it can be from {least + shown:.10g} to "
            f"{most + shown:.10g} for this order, horizon and market"
        )
    target = inside
    below, above = (first - target, last - target) if rising else (target - first, target - last)
    sign = 1.0 if rising else -1.0
    best, lam = first, at(low)[1]
    side = 0
    for i in range(200):
        falsi = (low * above - high * below) / (above - below) if above > below else 0.5 * (low + high)
        middle = 0.5 * (low + high) if i % 3 == 0 or not low < falsi < high else falsi
        value, trial = at(middle)
        error = sign * (value - target)
        if abs(value - target) <= abs(best - target):
            best, lam = value, trial
        if error > 0:
            above, below = error, below / 2 if side == 1 else below
            high, side = middle, 1
        else:
            below, above = error, above / 2 if side == -1 else above
            low, side = middle, -1
        if error == 0 or high - low <= 1e-15 * max(1.0, abs(high)) or abs(error) <= 1e-14 * abs(target):
            break
    width = 1e-4
    centre = math.log(lam) - unit if lam > 0 else low
    change = (at(centre + width)[0] - at(centre - width)[0]) / (2.0 * width)
    condition = math.inf if change == 0 else abs(target / change)
    return RiskChoice(lam, best, condition)
