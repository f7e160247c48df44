"""Trade scheduling: the optimal schedule an order desk can send, with every limit kept.

The continuous optimum under caps is `solver`'s. A smallest slice and a lot size make the problem one of integers; there
the schedule starts from the continuous optimum under the same bounds, is rounded in several ways, and is improved by
moving single lots between slices as long as that lowers E + λV.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tributary_opt.optimization.arguments import FloatArray, Permanent, Side, _aversion, _floats, _number, _shares
from tributary_opt.optimization.closed_form import SolveStatus
from tributary_opt.optimization.problem import ImpactLaw, Problem, schedule_cost
from tributary_opt.optimization.riccati import nothing_yet
from tributary_opt.optimization.solver import Solution, _Chunk, solve
from tributary_opt.optimization.strategies import _OfFunction
from tributary_opt.optimization.trajectory import AlmgrenChrissParams, ExecutionTrajectory, _Order

__all__ = [
    "AlmgrenChrissCappedStrategy",
    "InfeasibleSchedule",
    "LimitedSchedule",
    "schedule_order",
    "schedule_problem",
]

_EPS = 2.0**-52
_LONGEST = 1_000_000
_MOST_LOTS = 2.0**53


class InfeasibleSchedule(ValueError):
    """No schedule keeps the limits; `shortest_duration` is the first one that could, None where none can."""

    def __init__(self, message: str, shortest_duration: int | None) -> None:
        super().__init__(message)
        self.shortest_duration = shortest_duration


@dataclass(frozen=True)
class _Limits:
    """Bounds of a slice, in units: lots where there is a lot size, contracts otherwise."""

    unit: float
    whole: bool
    total: float  # the order, without the remainder that fits no lot
    least: float  # smallest slice that is not 0
    cap: FloatArray  # (N,)


def schedule_order(
    order_size: float,
    duration_periods: int,
    params: AlmgrenChrissParams,
    risk_aversion: float,
    *,
    volume_profile: ArrayLike | None = None,
    max_participation: float | None = None,
    max_slice: float | None = None,
    min_slice: float | None = None,
    lot_size: float | None = None,
    impact_law: ImpactLaw = "linear",
    permanent: Permanent | None = None,
    side: Side = "sell",
) -> ExecutionTrajectory:
    """Schedule of least E + λV that keeps every limit given.

    Parameters
    ----------
    order_size, duration_periods, params, risk_aversion, impact_law, permanent, side
        As in `generate_ac_trajectory`.
    volume_profile : array_like, shape (N,), optional
        Volume expected in each slice: impact falls with it, and `max_participation` is a share of it. [contracts]
    max_participation : float, optional
        Largest share of a slice's volume, 0 < . <= 1. Without a profile the volume is params.reference_rate / 0.01 · τ,
        the ADV of the rule. [-]
    max_slice, min_slice : float, optional
        Largest slice; smallest one that is not 0. [contracts]
    lot_size : float, optional
        Slices are whole multiples of it. [contracts]

    Returns
    -------
    ExecutionTrajectory
        ``strategy_name`` is "almgren_chriss_capped". ``params`` has ``remainder``, what fits no lot and is not traded:
        ``holdings`` then ends there [contracts]; ``lots``, the slices as integers (None without lots);
        ``optimum_cost``, E + λV of the best schedule under the caps alone, for the contracts that are traded
        [currency]; ``rounding_cost``, what lots and the smallest slice add to it [currency];
        ``greedy_rounding_cost``, what rounding slice by slice (each to the nearest lot, the fraction carried on) would
        have added, never less than ``rounding_cost`` [currency]; None where there is no such schedule, and
        ``greedy_refused`` then says why: it breaks a limit, or nothing is rounded.

    Raises
    ------
    InfeasibleSchedule
        Where no schedule keeps the limits, with the reason and the shortest duration that would do.
    ValueError, TypeError
        For an argument out of range; with the power law under ``paper`` also for an order with room for a slice beyond
        n*, `convexity_limit`.
    """
    order = _Order.checked("almgren_chriss_capped", order_size, duration_periods, params, permanent, side, impact_law)
    lam, faults = _aversion("risk_aversion", risk_aversion)
    volume: FloatArray | None = None
    profile: FloatArray | None = None
    said: list[str] = []
    if volume_profile is not None:
        volume = _floats("volume_profile", volume_profile)
        profile, said = _shares(volume, order.n_steps)
        faults += [w for w in said if "must" in w]
    given = {"max_participation": max_participation, "max_slice": max_slice}
    given |= {"min_slice": min_slice, "lot_size": lot_size}
    limits = {name: None if value is None else _number(name, value) for name, value in given.items()}
    for name, value in limits.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            faults.append(f"{name} must be finite and > 0, got {value:g}: leave it out for no limit")
    share = limits["max_participation"]
    if share is not None and share > 1:
        faults.append(f"max_participation must be <= 1, got {share:g}: 0.1 is 10 % of the volume")
    if order.faults or faults:
        raise ValueError("; ".join([*order.faults, *faults]))

    caps = _caps(order, volume, share, limits["max_slice"])
    problem = order.problem(lam, profile, np.where(np.isfinite(caps), caps, np.inf))
    found = _within(problem, caps, limits)
    if found.best.status in (SolveStatus.BEYOND_CONVEXITY, SolveStatus.NOT_CONVERGED):
        raise ValueError(order.solved(found.problem, found.best, risk_aversion=lam).params["warnings"][-1])
    return order.solved(
        found.problem,
        replace(found.best, slices=found.slices, holdings=found.holdings),
        risk_aversion=lam,
        warnings=[*said, *found.warnings],
        volume_profile=profile,
        more={
            "remainder": found.remainder,
            "lots": found.lots,
            "optimum_cost": found.optimum,
            "rounding_cost": found.rounding_cost,
            "greedy_rounding_cost": found.greedy_cost,
            "greedy_refused": found.greedy_refused,
            "limits": {name: value for name, value in limits.items() if value is not None},
        },
    )


def schedule_problem(problem: Problem, *, lot_size: float | None = None) -> LimitedSchedule:
    """Schedule of least E + λV of one problem under its caps, in whole lots where a lot size is given.

    Raises
    ------
    InfeasibleSchedule
        Where no schedule keeps the caps, with the reason and the shortest duration that would do.
    """
    if lot_size is not None and not (math.isfinite(lot_size) and lot_size > 0):
        raise ValueError(f"lot_size must be finite and > 0, got {lot_size:g}: leave it out for no limit")
    return _within(problem, problem.cap, {"min_slice": None, "lot_size": lot_size})


@dataclass(frozen=True, eq=False)
class LimitedSchedule:
    """The best schedule found within limits."""

    problem: Problem  #: of what is traded: the order less what fits no lot.
    best: Solution  #: under the caps alone.
    slices: FloatArray  #: n_j, shape (N,). [contracts]
    holdings: FloatArray  #: x_j, shape (N + 1,), down to the remainder. [contracts]
    lots: tuple[int, ...] | None  #: the slices in lots; None without a lot size.
    remainder: float  #: what fits no lot and is not traded. [contracts]
    optimum: float  #: E + λV under the caps alone. [currency]
    rounding_cost: float  #: what lots and the smallest slice add to it. [currency]
    greedy_cost: (
        float | None
    )  #: what rounding slice by slice would have added; None where it breaks a limit. [currency]
    greedy_refused: str | None  #: which limit, or that nothing is rounded.
    warnings: tuple[str, ...]


def _within(problem: Problem, caps: FloatArray, limits: dict[str, float | None]) -> LimitedSchedule:
    size, n_steps = float(problem.order_size), problem.n_steps
    bound = _limits(size, caps, limits["min_slice"], limits["lot_size"])
    if not _feasible(bound, n_steps):
        raise _refusal(size, n_steps, caps, bound, limits)
    traded = bound.total * bound.unit
    problem = problem.tail(0, traded)
    if bound.whole:  # a cap of whole lots is one to its rounding
        problem = replace(problem, cap=np.maximum(problem.cap, bound.cap * bound.unit))
    best = solve(problem)
    if best.status in (SolveStatus.BEYOND_CONVEXITY, SolveStatus.NOT_CONVERGED):
        unknown, no_optimum = math.nan, "there is no optimum to round"
        return LimitedSchedule(
            problem, best, best.slices, best.holdings, None, 0.0, unknown, unknown, None, no_optimum, ()
        )
    optimum = float(schedule_cost(problem, best.slices, best.holdings).objective)
    slices, lots, greedy = best.slices, None, None
    why_not: str | None = "nothing is rounded: no lot_size"
    # Without a minimum the schedule is that of λ = 0, and what is rounded is to stay near it.
    rounded = _without_risk(problem) if best.status == SolveStatus.TWAP_ETA_TILDE else problem
    if bound.whole or bound.least > 0:
        slices, lots = _with_lots(rounded, best.slices, bound)
    if bound.whole:
        carried = _greedy(best.slices / bound.unit, bound.total)
        why_not = _breaks(carried, bound)
        if rounded is not problem:
            why_not = "there is no optimum: eta - gamma*tau/2 is not > 0"
        greedy = None if why_not else _objective(problem, carried * bound.unit) - optimum
    remainder = size - traded if bound.whole else 0.0
    if abs(remainder) <= _rounding(size):
        remainder = 0.0
    holdings = best.holdings
    if slices is not best.slices:
        holdings = np.full(n_steps + 1, remainder)
        holdings[:-1] += np.cumsum(slices[::-1])[::-1]
        holdings = np.minimum(holdings, size)
        holdings[0] = size
        nothing_yet(slices[:, np.newaxis], holdings[:, np.newaxis])
    said = () if remainder == 0 else (f"{remainder:g} contracts fit no lot of {bound.unit:g} and are not traded",)
    added = 0.0 if slices is best.slices else float(schedule_cost(problem, slices).objective) - optimum
    return LimitedSchedule(problem, best, slices, holdings, lots, remainder, optimum, added, greedy, why_not, said)


def _without_risk(problem: Problem) -> Problem:
    """λ = 0, and costs of the same shape that have a minimum: what `solve` gives where η̃ <= 0."""
    impact = np.abs(problem.impact) if (problem.impact < 0).all() else np.ones(problem.n_steps)
    none = np.zeros(())
    return replace(problem, impact=impact, risk_aversion=none, gamma=none)


def _caps(order: _Order, volume: FloatArray | None, share: float | None, max_slice: float | None) -> FloatArray:
    """c_j in contracts."""
    caps = np.full(order.n_steps, np.inf if max_slice is None else max_slice)
    if share is not None:
        assert order.params is not None
        if volume is None:
            volume = np.full(order.n_steps, float(order.params.reference_rate) / 0.01 * order.tau)
            if not np.isfinite(volume).all():
                raise ValueError("max_participation needs a volume_profile, or params.reference_rate (1 % of ADV)")
        caps = np.minimum(caps, share * volume)
    elif volume is not None and volume.any():
        caps = np.where(volume > 0, caps, 0.0)
    return caps


def _limits(size: float, caps: FloatArray, min_slice: float | None, lot_size: float | None) -> _Limits:
    least = 0.0 if min_slice is None else min_slice
    if lot_size is None:
        return _Limits(1.0, False, size, least, np.minimum(caps, size))
    if not size / lot_size < _MOST_LOTS:
        raise ValueError(
            f"lot_size must be > order_size / 2^53, got {lot_size:g} for an order of {size:g}: so many lots are no "
            "whole numbers any more; leave lot_size out"
        )
    cap = np.array([_lots_in(min(c, size), lot_size) for c in caps])
    fewest = _lots_in(least, lot_size)
    if fewest * lot_size < least - _rounding(least):
        fewest += 1.0
    # One lot is no limit: every slice that is not 0 has it.
    return _Limits(lot_size, True, _lots_in(size, lot_size), fewest if fewest > 1 else 0.0, cap)


def _rounding(size: float) -> float:
    """What a size may differ by and still be meant: 3 lots of 0.1 are 0.3, 87 of 0.05 are 4.35."""
    return 2.0 * float(np.spacing(size))


def _lots_in(size: float, lot_size: float) -> float:
    """The most lots that a size has room for, to its rounding."""
    lots = float(size) / lot_size
    if not math.isfinite(lots):
        raise ValueError(
            f"lot_size {lot_size:g} is too small for {size:g} contracts: their number is beyond the doubles"
        )
    near = float(round(lots))
    return near if near * lot_size <= size + _rounding(size) else near - 1.0


def _feasible(bound: _Limits, n_steps: int) -> bool:
    """Whether some number of slices, each from the least to its cap, adds up to the order."""
    if bound.whole and bound.total < 1:
        return False
    if not bound.whole:  # as the solver decides it, to the last bit
        roomy = bool(np.cumsum(bound.cap / bound.total)[-1] >= 1.0 - n_steps * _EPS)
        if not roomy or bound.least == 0:
            return roomy
    usable = np.sort(bound.cap[bound.cap >= max(bound.least, 5e-324)])[::-1]
    room, slack = 0.0, bound.total * n_steps * _EPS
    for count, cap in enumerate(usable, 1):
        room += cap
        if room >= bound.total - slack and count * bound.least <= bound.total + slack:
            return True
        if count * bound.least > bound.total + slack:
            return False
    return False


def _refusal(
    size: float, n_steps: int, caps: FloatArray, bound: _Limits, limits: dict[str, float | None]
) -> InfeasibleSchedule:
    """Why not, and how long it would have to take: the caps go on as they began."""
    said = ", ".join(f"{name}={value:g}" for name, value in limits.items() if value is not None)
    under = f" under {said}" if said else ""
    shortest = None
    usable = bound.cap >= max(bound.least, 5e-324)
    room = float((bound.cap * bound.unit)[usable].sum())
    if room > 0:
        n = n_steps
        while n < _LONGEST and shortest is None:
            n = min(_LONGEST, 2 * n)
            if _feasible(_limits(size, np.resize(caps, n), limits["min_slice"], limits["lot_size"]), n):
                low, high = n_steps, n
                while high - low > 1:
                    middle = (low + high) // 2
                    trial = _limits(size, np.resize(caps, middle), limits["min_slice"], limits["lot_size"])
                    low, high = (low, middle) if _feasible(trial, middle) else (middle, high)
                shortest = high
            elif bound.total < max(bound.least, float(bound.whole)) or n * room > 100.0 * size * n_steps:
                break  # room enough a hundred times over: it is the lots or the smallest slice that do not fit
    if bound.whole and bound.total < 1:
        why = f"order_size {size:g} is less than one lot of {bound.unit:g}"
    elif bound.total < bound.least:
        why = f"order_size {size:g} is less than min_slice"
    else:
        fits, wanted = float(bound.cap.sum()) * bound.unit, bound.total * bound.unit
        if fits < wanted:
            digits = "g" if f"{fits:g}" != f"{wanted:g}" else ".17g"
            why = f"the slices have room for {fits:{digits}} of {wanted:{digits}} contracts{under}"
        else:
            why = f"no slices from the smallest to their caps add up to {wanted:g} contracts{under}"
    way_out = (
        f"the shortest feasible duration is {shortest} periods"
        if shortest
        else "no duration is long enough: relax a limit"
    )
    return InfeasibleSchedule(f"no schedule of {n_steps} periods keeps the limits: {why}; {way_out}", shortest)


# ---------------------------------------------------------------------------------------------------------------------
# Smallest slices and lots
# ---------------------------------------------------------------------------------------------------------------------


def _with_lots(problem: Problem, optimum: FloatArray, bound: _Limits) -> tuple[FloatArray, tuple[int, ...] | None]:
    """Best schedule found within the bounds, and its lots."""
    wanted = optimum / bound.unit
    candidates: list[FloatArray] = []
    for active in _active_sets(wanted, bound):
        low, high = np.where(active, bound.least, 0.0), np.where(active, bound.cap, 0.0)
        bounded = _bounded(problem, low * bound.unit, high * bound.unit) / bound.unit
        candidates += [_largest_remainder(bounded, low, high, bound.total)] if bound.whole else [bounded]
    if bound.whole and _breaks(carried := _greedy(wanted, bound.total), bound) is None:
        candidates.append(carried)
    costs = [_objective(problem, c * bound.unit) for c in candidates]
    best = candidates[int(np.argmin(costs))]
    if bound.whole:
        best = _exchange(problem, best, bound, min(costs))
        # The product may round up past a cap that is no multiple of the lot: lots are what is sent.
        return best * bound.unit, tuple(int(n) for n in best)
    return best, None


def _greedy(wanted: FloatArray, total: float) -> FloatArray:
    """Slice by slice to the nearest lot, the fraction carried to the next one."""
    lots: FloatArray = np.diff(np.rint(np.cumsum(wanted)), prepend=0.0).astype(np.float64)
    lots[-1] = total - lots[:-1].sum()
    return lots


def _breaks(lots: FloatArray, bound: _Limits) -> str | None:
    """Which limit whole lots break, in words; None where they keep all."""
    for j, (n, cap) in enumerate(zip(lots.tolist(), bound.cap.tolist(), strict=True), 1):
        if n < 0 or n > cap:
            return f"it trades {n:g} lots in slice {j}, whose limit is {cap:g}"
        if 0 < n < bound.least:
            return f"it trades {n:g} lots in slice {j}, less than the {bound.least:g} of min_slice"
    return None


def _objective(problem: Problem, slices: FloatArray) -> float:
    return float(schedule_cost(problem, slices).objective)


def _active_sets(wanted: FloatArray, bound: _Limits) -> list[Any]:
    """Which slices may trade: the largest of the optimum, in every number that could be right."""
    usable = bound.cap >= max(bound.least, 5e-324)
    if bound.least == 0:
        return [usable]
    order = np.lexsort((np.arange(len(wanted)), -np.where(usable, wanted, -1.0)))
    order = order[usable[order]]
    slack = bound.total * len(wanted) * _EPS
    natural = max(1, int((wanted >= bound.least).sum()))
    sets = []
    for count in range(1, len(order) + 1):
        chosen = np.zeros(len(wanted), dtype=bool)
        chosen[order[:count]] = True
        room = float(bound.cap[chosen].sum())
        if room >= bound.total - slack and count * bound.least <= bound.total + slack:
            sets.append((abs(count - natural), count, chosen))
    if not sets:  # the largest of the optimum have too little room: take those with the largest caps
        for count in range(1, len(order) + 1):
            chosen = np.zeros(len(wanted), dtype=bool)
            chosen[np.argsort(-np.where(usable, bound.cap, -1.0), kind="stable")[:count]] = True
            room = float(bound.cap[chosen].sum())
            if room >= bound.total - slack and count * bound.least <= bound.total + slack:
                sets.append((abs(count - natural), count, chosen))
    return [chosen for _, _, chosen in sorted(sets, key=lambda s: s[:2])[:5]]


def _bounded(problem: Problem, low: FloatArray, high: FloatArray) -> FloatArray:
    """Optimum with low_j <= n_j <= high_j, by halving the last costate: one problem, a few milliseconds.

    In fractions of the order, as `solve` has them, and over the doubles in their order: the costate has a sign where
    slices are held above what they would like to trade, and any magnitude.
    """
    size, n_steps = float(problem.order_size), problem.n_steps
    if math.fsum(low) >= size:
        return np.asarray(low)
    chunk = _Chunk(problem.take(np.newaxis))
    k, bend = float(chunk.k[0]), float(chunk.bend[0])
    dearer, twice_risk = chunk.dearer[:, 0].tolist(), (2.0 * chunk.risk[:, 0]).tolist()
    impact = [1.0 / c if c > 0 else math.inf for c in chunk.cheapness[:, 0].tolist()]  # a_j over the cheapest
    floor, cap = (low / size).tolist(), np.minimum(high / size, 1.0).tolist()
    with np.errstate(over="ignore"):
        filled = [e + (k + 1.0) * a * c**k - bend * c for e, a, c in zip(dearer, impact, cap, strict=True)]

    def path(last: float) -> list[float]:
        price, held, slices = last, 0.0, []
        for j in range(n_steps - 1, -1, -1):
            above = price - dearer[j]
            if above <= 0 or cap[j] == 0:
                n = 0.0
            elif price >= filled[j]:
                n = cap[j]
            else:
                n = (above / ((k + 1.0) * impact[j])) ** (1.0 / k)
                for _ in range(40 if bend and n < cap[j] else 0):  # what a trade does not pay makes it larger
                    n = min((above + bend * n) / ((k + 1.0) * impact[j]), 1.0) ** (1.0 / k)
            n = min(max(n, floor[j]), cap[j])
            slices.append(n)
            held += n
            if j:
                price += twice_risk[j - 1] * held
        return slices[::-1]

    bottom, top = _rank(-math.fsum(twice_risk) - 1.0), _rank(max(v for v in filled if math.isfinite(v)))
    while top - bottom > 1:
        middle = (bottom + top) // 2
        if math.fsum(path(_of_rank(middle))) < 1.0:
            bottom = middle
        else:
            top = middle
    under, over = (size * np.array(path(_of_rank(rank))) for rank in (bottom, top))
    short, excess = size - math.fsum(under), math.fsum(over) - size
    weight = short / (short + excess) if short + excess > 0 else 0.0
    most = np.minimum(high, size)
    found = np.clip(under + min(max(weight, 0.0), 1.0) * (over - under), low, most)
    for j in np.argsort(-np.minimum(found - low, most - found), kind="stable"):  # where there is most room first
        missing = size - math.fsum(found)
        found[j] = min(max(found[j] + missing, low[j]), most[j])
    return np.asarray(found)


def _rank(value: float) -> int:
    """Place of a double among all of them, 0 for 0."""
    place = int(np.float64(abs(value)).view(np.int64))
    return place if value >= 0 else -place


def _of_rank(rank: int) -> float:
    value = float(np.int64(abs(rank)).view(np.float64))
    return value if rank >= 0 else -value


def _largest_remainder(wanted: FloatArray, low: FloatArray, high: FloatArray, total: float) -> FloatArray:
    """Whole numbers within the bounds that add up, each next to what was wanted where there is room for it."""
    lots = np.clip(np.floor(wanted + 1e-9), low, high)
    missing = int(total - lots.sum())
    while missing:
        step = 1.0 if missing > 0 else -1.0
        open_ = lots < high if missing > 0 else lots > low
        order = np.argsort(np.where(open_, -step * (wanted - lots), np.inf), kind="stable")
        chosen = order[: min(abs(missing), int(open_.sum()))]
        if not len(chosen):
            raise AssertionError("bounds without room passed for feasible")
        lots[chosen] += step
        missing -= int(step) * len(chosen)
    return lots


def _exchange(problem: Problem, lots: FloatArray, bound: _Limits, cost: float) -> FloatArray:
    """Move a lot from one slice to another while that lowers the objective; every move keeps the bounds."""
    n = len(lots)
    if n < 2 or n > 400:
        return lots
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j and (n <= 60 or abs(i - j) == 1)]
    source, sink = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    lane = np.arange(len(pairs))
    for _ in range(4 * n):
        trial = np.repeat(lots[np.newaxis], len(pairs), axis=0)
        trial[lane, source] -= 1.0
        trial[lane, sink] += 1.0
        good = (trial >= 0).all(axis=1) & (trial <= bound.cap).all(axis=1)
        good &= ((trial == 0) | (trial >= bound.least)).all(axis=1)
        if not good.any():
            break
        trial = trial[good]
        found = schedule_cost(problem, trial * bound.unit).objective
        best = int(found.argmin())
        if not found[best] < cost * (1 - 4 * _EPS):
            break
        lots, cost = trial[best], float(found[best])
    return lots


@dataclass(frozen=True)
class AlmgrenChrissCappedStrategy(_OfFunction):
    """Almgren-Chriss within limits; see `schedule_order`."""

    params: AlmgrenChrissParams
    risk_aversion: float = 1e-6
    volume_profile: ArrayLike | None = None
    max_participation: float | None = None
    max_slice: float | None = None
    min_slice: float | None = None
    lot_size: float | None = None
    impact_law: ImpactLaw = "linear"
    permanent: Permanent | None = None
    _generate = staticmethod(schedule_order)
