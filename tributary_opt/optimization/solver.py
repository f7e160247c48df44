"""Exact optimal schedules of any batch of problems: the method is the problem's to choose, not the caller's.

=================  ===================================================================================================
closed form        constant a_j, s_j, ε_j, k = 1, no caps: A-C's sinh (eqs. 17, 18), by `closed_form`
Riccati            k = 1, no caps, one ε: backward recursion, A-C in volume time
water-filling      λ = 0 or no risk: n_j = min(c_j, ((p - ε_j)/((k+1) a_j))^(1/k)) at one level p; TWAP, VWAP
costate shooting   power law, caps, spreads that vary, together: from a last costate p_N backward through

                       n_j = min(c_j, ((p_j - ε_j)/((k+1) a_j))^(1/k)),  x_{j-1} = x_j + n_j,
                       p_{j-1} = p_j + 2λ s_{j-1} x_{j-1};

                   x_0 rises with p_N, and p_N is where x_0 = X; where a p_j comes to within rounding of its ε_j, so
                   that no p_N decides, p_j - ε_j is the next unknown
=================  ===================================================================================================

The last two are the optimality conditions of a convex problem, so their solution is the optimum.

Everything is solved in fractions of the order, costs in units of the cheapest slice's a X^k. Only the risk

    r_j = λ s_j X^(1-k) / a

and the shape of a_j are left. r_j is formed from mantissas and exponents apart, and its limits (TWAP below 1e-300,
everything at once above 1e300) are met without a branch.

A schedule has the same bits alone and in any batch: steps are the first axis, so that a problem's numbers meet those of
others only in elementwise operations on contiguous rows; sums over steps have a fixed order; a converged problem keeps
its level, and so its path to the bit: it is swept along until a quarter of a set is done, and then taken out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tributary_opt.optimization.arguments import FloatArray, _floats, _in_range
from tributary_opt.optimization.closed_form import _SMALLEST_STEP_DECAY, SolveStatus, _fill_shapes
from tributary_opt.optimization.problem import Problem, ScheduleCost, convexity_limit, cost_of_steps, schedule_cost
from tributary_opt.optimization.riccati import (
    CHUNK_ELEMENTS,
    Buffers,
    RiccatiChunk,
    in_parts,
    nothing_yet,
    riccati,
    scaled_risk,
    steps_first,
    turn,
)
from tributary_opt.optimization.shooting import CLOSE, NEGLIGIBLE, NOTHING, Search, Shot, closed_sum, finish

__all__ = ["Method", "Solution", "kkt_residual", "replan", "solve", "solve_tracking"]

IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]

# Problems x slices worked on at once: 4,200 of 48 slices (measured: half of it is 1.3x slower, twice is no faster).
_CHUNK_ELEMENTS = 4200 * 48
# Arrays of a chunk's size that one chunk works with.
_ARRAYS = 14
# |x_0/X - 1| that a price one unit of rounding off may leave near the convexity limit, where it goes as the root of it.
_STEEP = 1e-5
# Residual of the optimality conditions above which a schedule near that limit is none.
_MOST_RESIDUAL = 1e-10
# Share of a set up to which those still searched for go on alone; more, and the others are swept along.
_MOST_KEPT = 0.75


class Method(IntEnum):
    """How a problem was solved."""

    REFUSED = 0
    CLOSED_FORM = 1
    RICCATI = 2
    WATER_FILLING = 3
    SHOOTING = 4


@dataclass(frozen=True, eq=False)
class Solution:
    """Optimal schedules of a batch; NaN where `status` refuses."""

    slices: FloatArray  #: n_j, shape (..., N): 0 <= n_j <= c_j. [contracts]
    holdings: FloatArray  #: x_j, shape (..., N + 1): X down to 0, never rising. [contracts]
    cost: ScheduleCost  #: what they cost and risk, as `schedule_cost` has it.
    method: NDArray[np.int8]  #: `Method`, shape (...). [-]
    sweeps: NDArray[np.int16]  #: backward sweeps that shooting or water-filling took, shape (...). [-]
    status: NDArray[np.int8]  #: `SolveStatus`, shape (...). [-]


def solve(problem: Problem, *, most_sweeps: int = 200) -> Solution:
    """Optimal schedule of every problem of a batch.

    Parameters
    ----------
    problem : Problem
    most_sweeps : int
        Backward sweeps after which one search is given up; the longest of 12,000 hard ones takes under 120. [-]

    Returns
    -------
    Solution
        ``holdings`` begins with X and ends with 0 exactly; slices are >= 0, at most their cap, and add up to X within
        4 units of rounding (within N of them where the caps themselves add up to no more). Status
        ``INFEASIBLE``: Σ c_j < X(1 - N eps). ``BEYOND_CONVEXITY``: power law under ``paper`` with room for a slice
        beyond `convexity_limit`. ``TWAP_ETA_TILDE``: an a_j <= 0 leaves no minimum; the schedule is that of λ = 0.
        ``BAD_INPUT``: a number out of range. ``NOT_CONVERGED``: stopped by ``most_sweeps``, or, near `convexity_limit`,
        a residual of the optimality conditions above 1e-10. What is refused is NaN and costs the others nothing.

    Raises
    ------
    ValueError
        For ``most_sweeps`` < 1.
    """
    if most_sweeps < 1:
        raise ValueError(f"most_sweeps must be >= 1, got {most_sweeps}")
    shape, n = problem.shape, problem.n_steps
    count = int(np.prod(shape))
    slices, holdings = np.empty((count, n)), np.empty((count, n + 1))
    cost = tuple(np.empty(count) for _ in range(6))
    method, sweeps = np.full(count, Method.RICCATI, dtype=np.int8), np.zeros(count, dtype=np.int16)
    status = np.zeros(count, dtype=np.int8)
    # One pass over the steps wants to stay in the cache, many passes want long rows: what is left is put together.
    left = np.ones(count, dtype=bool)
    if (problem.exponent == 1.0).any():
        chunks = in_parts(count, max(1, CHUNK_ELEMENTS // (n + 1)))
        linear = RiccatiChunk(max((len(range(count)[part]) for part in chunks), default=1), n)
        for part in chunks:
            costs = tuple(array[part] for array in cost)
            left[part] = ~linear.solve(_flat(problem, part), slices[part], holdings[part], costs)
    others = np.flatnonzero(left)
    chunks = in_parts(len(others), max(1, _CHUNK_ELEMENTS // n))
    memory = Buffers(_ARRAYS * (n + 1) * (len(range(count)[chunks[0]]) + 8) if chunks else 0)
    for part in chunks:
        whole = part if len(others) == count else others[part]
        memory.reuse()
        chunk = _Chunk(_flat(problem, whole), most_sweeps, memory)
        traded, held, sweeps[whole] = chunk.solve()
        method[whole], status[whole] = chunk.method, chunk.status
        if isinstance(whole, slice):
            turn(traded, slices[whole])
            turn(held, holdings[whole])
        else:
            slices[whole], holdings[whole] = traded.T, held.T
        spent = chunk.cost(traded, held)
        for array, name in zip(cost, ScheduleCost.__dataclass_fields__, strict=True):
            array[whole] = getattr(spent, name)
    return Solution(
        slices.reshape(*shape, n),
        holdings.reshape(*shape, n + 1),
        ScheduleCost(*(array.reshape(shape) for array in cost)),
        method.reshape(shape),
        sweeps.reshape(shape),
        status.reshape(shape),
    )


def replan(problem: Problem, first_slice: int, held: ArrayLike) -> Solution:
    """Optimal rest of orders already under way, from what is held and the slices that are left.

    Without caps it is the tail of the original schedule where `held` is what that schedule has left (the optimum is
    consistent in time); with caps, or after another course of events, it is the optimum of the rest.

    Parameters
    ----------
    problem : Problem
        As it was at the start.
    first_slice : int
        Slices already over, 0 <= first_slice < N. [-]
    held : array_like, broadcastable to (...)
        What is left to trade, >= 0; nothing where it is 0. [contracts]

    Returns
    -------
    Solution
        Over the N - `first_slice` slices left, with what these are expected to cost and their variance.
    """
    if not 0 <= first_slice < problem.n_steps:
        raise ValueError(f"first_slice must be from 0 to {problem.n_steps - 1}, got {first_slice}: the order is over")
    left = np.broadcast_to(_floats("held", held), problem.shape)
    if not _in_range(left).all():
        raise ValueError(f"held must be finite and >= 0, got {left[~_in_range(left)].flat[0]:g}")
    rest = problem.tail(first_slice, np.where(left > 0, left, problem.order_size))
    idle = left == 0
    if idle.any():  # solved without caps, so that it is feasible, and then emptied
        rest = replace(rest, cap=np.where(idle[..., np.newaxis], np.inf, rest.cap))
    solution = solve(rest)
    for array in (solution.slices, solution.holdings):
        array[idle] = 0.0
    for name in ScheduleCost.__dataclass_fields__:
        getattr(solution.cost, name)[idle] = 0.0
    return solution


def _flat(problem: Problem, rows: slice | IntArray) -> Problem:
    """Some problems of a batch, along one leading axis."""
    if len(problem.shape) == 1:
        return problem.take(rows)
    if not problem.shape:
        return problem.take(np.newaxis)
    places = np.arange(*rows.indices(problem.order_size.size)) if isinstance(rows, slice) else rows
    return problem.take(np.unravel_index(places, problem.shape))


def kkt_residual(problem: Problem, slices: FloatArray) -> FloatArray:
    """How far a schedule is from the optimality conditions, relative to its largest costate.

    With m_j the marginal cost of slice j and R_j = 2λ Σ_{i=j}^{N-1} s_i x_i, every slice that trades has m_j - R_j <= p
    and every slice below its cap has m_j - R_j >= p, for one p. Returned is the gap from the largest of the first to
    the smallest of the second over max |m_j| (smallest spread taken off), 0 where there is none. Slices below 1e-290 of
    the order are left out.

    Returns
    -------
    ndarray, shape (...)
        [-]
    """
    count, n = int(np.prod(problem.shape)), problem.n_steps
    chunk = _Chunk(_flat(problem, slice(0, count)))
    part = np.ascontiguousarray(np.asarray(slices, dtype=float).reshape(count, n).T) / chunk.size
    return chunk.residual(part).reshape(problem.shape)


def solve_tracking(problem: Problem, target: FloatArray, tracking_aversion: ArrayLike) -> Solution:
    """Least E + λV + λ_v Σ s_j (x_j - X y_j)², for k = 1 without caps: Almgren-Chriss pulled towards a path y.

    With S and c as in Riccati's recursion and the pull of the path, w = (λ + λ_v) s_j + 1/S_{j+1}:
    c_j = (λ_v s_j y_j + c_{j+1}/S_{j+1}) / w, S_j = 1/a_j + 1/w, and n_j = (x_{j-1} - c_j) / (a_j S_j). A y that never
    rises from 1 keeps every slice >= 0.

    Parameters
    ----------
    problem : Problem
        k = 1, no caps other than 0.
    target : ndarray, broadcastable to (..., N)
        y_j, the share of the order to be held after slice j, from at most 1 down to 0. [-]
    tracking_aversion : array_like, broadcastable to (...)
        λ_v >= 0. [1/currency]
    """
    shape, n = problem.shape, problem.n_steps
    count = int(np.prod(shape))
    chunk = _Chunk(_flat(problem, slice(0, count)))
    if not ((chunk.k == 1) & (np.isinf(chunk.fraction) | (chunk.cheapness == 0)).all(axis=0)).all():
        raise ValueError("tracking needs the linear law (k = 1) and no caps")
    path = np.broadcast_to(target, (*shape, n)).reshape(count, n).T
    pull_lambda = np.broadcast_to(np.asarray(tracking_aversion, dtype=float), shape).reshape(count)
    pull = np.where(chunk.status == SolveStatus.TWAP_ETA_TILDE, 0.0, chunk.risk_of(pull_lambda))
    later, centre = np.zeros(count), np.zeros(count)
    share, aim = np.empty((n, count)), np.empty((n, count))
    with np.errstate(over="ignore", invalid="ignore"):
        for j in range(n - 1, -1, -1):
            less = 1.0 + (chunk.risk[j] + pull[j]) * later
            weight = np.where(np.isfinite(less), pull[j] * later / less, pull[j] / (chunk.risk[j] + pull[j]))
            aim[j] = weight * path[j] + centre / less
            rest = later / less
            later = chunk.cheapness[j] + rest
            np.divide(chunk.cheapness[j], np.where(later > 0, later, 1.0), out=share[j])
            centre = aim[j].copy()
    held = np.ones(count)
    for j in range(n):
        share[j] *= np.maximum(held - aim[j], 0.0)
        held = held - share[j]
    parts = closed_sum(share, share)
    left = np.zeros((n + 1, count))
    for j in range(n - 1, -1, -1):
        np.add(left[j + 1], parts[j], out=left[j])
    left = np.minimum(left, 1.0)
    left[0] = 1.0
    nothing_yet(parts, left)
    refused = chunk.method == Method.REFUSED
    slices = np.where(refused[:, np.newaxis], np.nan, chunk.size[:, np.newaxis] * parts.T)
    holdings = np.where(refused[:, np.newaxis], np.nan, chunk.size[:, np.newaxis] * left.T)
    method = np.where(refused, Method.REFUSED, Method.RICCATI).astype(np.int8).reshape(shape)
    slices, holdings = slices.reshape(*shape, n), holdings.reshape(*shape, n + 1)
    cost, none = schedule_cost(problem, slices, holdings), np.zeros(shape, dtype=np.int16)
    return Solution(slices, holdings, cost, method, none, chunk.status.reshape(shape))


class _Chunk:
    """Some problems of a batch, steps first, scaled to fractions of the order."""

    def __init__(self, own: Problem, most_sweeps: int = 1, memory: Buffers | None = None) -> None:
        self.most_sweeps = most_sweeps
        memory = Buffers() if memory is None else memory
        wide = own.n_steps, len(own.order_size)
        self.memory = memory
        good = own.valid
        self.own, self.n_steps = own, own.n_steps
        self.size = np.where(good, own.order_size, 1.0)
        self.k = np.where(good, own.exponent, 1.0)
        lam, gamma = np.where(good, own.risk_aversion, 0.0), np.where(good, own.gamma, 0.0)
        impact, sd, self.cap = (steps_first(a, memory.array(*wide)) for a in (own.impact, own.slice_sd, own.cap))
        self.one_spread = own.spread.strides[-1] == 0
        spread = (
            np.broadcast_to(own.spread[:, 0], impact.shape)
            if self.one_spread
            else steps_first(own.spread, memory.array(*wide))
        )
        # What costing needs, as given; what the solver works on is a copy where it differs.
        self._costs = impact, spread, sd
        if not good.all():
            impact, sd, spread = (np.where(good, a, 0.0) for a in (impact, sd, spread))
            self.cap = np.where(good, self.cap, np.inf)
        limit = np.broadcast_to(np.inf, self.cap.shape)
        if own.permanent == "paper" and (self.k < 1).any():
            limit = np.where(good, steps_first(convexity_limit(own), memory.array(*wide)), np.inf)

        tightest = self.cap.min(axis=0)
        tradable: BoolArray | bool = True if tightest.min(initial=np.inf) > 0 else self.cap > 0
        cheapest = np.where(tradable, impact, np.inf).min(axis=0) if tradable is not True else impact.min(axis=0)
        no_minimum = ~(cheapest > 0)
        if tradable is not True:
            no_minimum &= np.asarray(tradable).any(axis=0)
        one_sign = no_minimum
        if no_minimum.any():
            # Without a minimum: the λ = 0 schedule of the same shape (a_j all of one sign), else equal slices.
            one_sign = no_minimum & (np.where(tradable, impact, -1.0) < 0).all(axis=0)
            impact = np.where(one_sign, -impact, np.where(no_minimum, 1.0, impact))
            lam, gamma = np.where(no_minimum, 0.0, lam), np.where(no_minimum, 0.0, gamma)
        self.paper = (gamma > 0) & (self.k < 1) & (own.permanent == "paper")
        beyond = self.paper
        if self.paper.any():
            beyond = self.paper & (np.where(tradable, np.minimum(self.size, self.cap), 0.0) > limit).any(axis=0)
        if tradable is not True:
            impact = np.where(tradable, impact, np.inf)
        reference = cheapest if tradable is True and not no_minimum.any() else impact.min(axis=0)
        reference = np.where(np.isfinite(reference) & (reference > 0), reference, 1.0)

        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            self.cheapness = np.divide(reference, impact, out=memory.array(*wide))  # a_ref / a_j, 0 if nothing trades
            if (tightest == np.inf).all():
                self.fraction = np.broadcast_to(np.inf, self.cap.shape)
                room = np.full(self.size.shape, float(self.n_steps))
            else:
                self.fraction = np.divide(self.cap, self.size, out=memory.array(*wide))
                room = np.zeros(self.size.shape)
                share = np.empty(self.size.shape)
                for row in self.fraction:
                    np.add(room, np.minimum(row, 1.0, out=share), out=room)
                np.putmask(self.fraction, self.fraction >= 1, np.inf)
            unit = reference * np.power(self.size, self.k)
            self.dearer = np.broadcast_to(0.0, self.cap.shape)
            if not self.one_spread:
                dearer = spread - np.where(tradable, spread, np.inf).min(axis=0)
                self.dearer = np.where(tradable & (dearer > 0), dearer / unit, 0.0)
            self.bend = np.where(self.paper, gamma * np.power(self.size, 1.0 - self.k) / reference, 0.0)
            self.turn = limit / self.size if self.paper.any() else limit
        self._sd, self._reference = sd, reference
        self.risk = self.risk_of(lam)

        infeasible = ~(room >= 1.0 - self.n_steps * np.finfo(float).eps)
        self.room = room  # how often the order fits into its slices
        self.full = room <= 1.0 + 4.0 * np.finfo(float).eps  # no more room than order: the caps are the schedule
        self.status = np.select(
            [~good, infeasible, beyond, no_minimum],
            [SolveStatus.BAD_INPUT, SolveStatus.INFEASIBLE, SolveStatus.BEYOND_CONVEXITY, SolveStatus.TWAP_ETA_TILDE],
            SolveStatus.OK,
        ).astype(np.int8)
        self.method = self._methods(~good | infeasible | beyond)

    def risk_of(self, lam: FloatArray) -> FloatArray:
        """λ s_j X^(1-k) / a of any λ."""
        out = self.memory.array(*self._sd.shape)
        return scaled_risk(self._sd, lam, np.power(self.size, 1.0 - self.k), self._reference, out=out)

    def _methods(self, refused: BoolArray) -> NDArray[np.int8]:
        linear, constant = self.k == 1, np.zeros(len(self.k), dtype=bool)
        if linear.any():
            linear &= (np.isinf(self.fraction) | (self.cheapness == 0)).all(axis=0)
            linear &= self.one_spread or (self.dearer == 0).all(axis=0)
            constant = linear & (self.cheapness == 1).all(axis=0) & (self.risk == self.risk[0]).all(axis=0)
        riskless = self.risk[:-1].max(axis=0, initial=0.0) == 0
        return np.select(
            [refused, constant, riskless | self.full, linear],
            [Method.REFUSED, Method.CLOSED_FORM, Method.WATER_FILLING, Method.RICCATI],
            Method.SHOOTING,
        ).astype(np.int8)

    def solve(self) -> tuple[FloatArray, FloatArray, NDArray[np.int16]]:
        """Slices (N, B), holdings (N + 1, B) and sweeps."""
        count, n = len(self.size), self.n_steps
        slices, holdings = np.empty((n, count)), np.empty((n + 1, count))  # unless one method does all
        sweeps = np.zeros(count, dtype=np.int16)
        for how in Method:
            rows = np.flatnonzero(self.method == how)
            if not len(rows):
                continue
            if how == Method.REFUSED:
                slices[:, rows] = holdings[:, rows] = np.nan
                continue
            if how == Method.CLOSED_FORM:
                remaining, traded = np.empty((len(rows), n + 1)), np.empty((len(rows), n))
                root = np.sqrt(self.risk[0, rows])
                decay = np.where(root > 0, 2.0 * np.arcsinh(0.5 * root), _SMALLEST_STEP_DECAY)
                _fill_shapes(decay, remaining, traded)
                slices[:, rows], holdings[:, rows] = self.size[rows] * traded.T, self.size[rows] * remaining.T
                continue
            whole = slice(None) if len(rows) == count else rows
            size, held = self.size[whole], self.memory.array(n + 1, len(rows))
            held[n] = 0.0
            if how == Method.RICCATI:  # slices without volume among them: `RiccatiChunk` has done the others
                shares = np.empty((n, len(rows)))
                exponent = np.frexp(size)[1] - 1
                unit = np.ldexp(size, -exponent)
                riccati(self.cheapness[:, rows], self.risk[:, rows], unit, shares, held, dry=True)
                slices[:, rows], holdings[:, rows] = (np.ldexp(a, exponent) for a in (shares, held))
                continue
            shares, sweeps[whole] = self._shoot(rows, how == Method.WATER_FILLING)
            if self.bend[whole].any():
                every = np.zeros((n, count))
                every[:, whole] = shares
                wrong = (self.bend > 0) & (self.residual(every) > _MOST_RESIDUAL)
                shares[:, wrong[whole]] = np.nan
            for j in range(n - 1, -1, -1):
                np.add(held[j + 1], shares[j], out=held[j])
            np.minimum(held, 1.0, out=held)
            held[0] = 1.0
            cap, fraction = self.cap[:, whole], self.fraction[:, whole]
            capped = shares >= fraction
            np.multiply(size, shares, out=shares)
            np.copyto(shares, cap, where=capped)
            np.minimum(shares, cap, out=shares)
            np.multiply(size, held, out=held)
            nothing_yet(shares, held)
            if len(rows) == count:
                slices, holdings = shares, held
            else:
                slices[:, rows], holdings[:, rows] = shares, held
            lost = rows[np.isnan(shares[0])]
            if len(lost):
                slices[:, lost] = holdings[:, lost] = np.nan
                self.status[lost], self.method[lost] = SolveStatus.NOT_CONVERGED, Method.REFUSED
        return slices, holdings, sweeps

    def cost(self, slices: FloatArray, holdings: FloatArray) -> ScheduleCost:
        """`schedule_cost` of schedules as `solve` gives them, once: they and the chunk are of no use afterwards."""
        impact, spread, sd = self._costs
        return cost_of_steps(self.own, slices, holdings, impact, spread[0] if self.one_spread else spread, sd)

    def residual(self, part: FloatArray) -> FloatArray:
        """`kkt_residual` of schedules in shares of the order, shape (N, B)."""
        held, later = np.zeros_like(part), np.zeros_like(part)
        np.cumsum(part[:0:-1], axis=0, out=held[-2::-1])
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            np.cumsum((2.0 * self.risk * held)[::-1], axis=0, out=later[::-1])
            marginal = self.dearer - self.bend * part
            marginal += (1.0 + self.k) * np.power(part, np.broadcast_to(self.k, part.shape)) / self.cheapness
            value = marginal - later
            tradable = self.cheapness > 0
            full = part >= np.minimum(self.fraction, 1.0) * (1.0 - 4e-16)
            least = np.where((part > NEGLIGIBLE) & tradable, value, -np.inf).max(axis=0)
            most = np.where(tradable & ~full, value, np.inf).min(axis=0)
            size = np.where(tradable, np.abs(marginal), 0.0).max(axis=0)
            gap = np.where(np.isfinite(least) & np.isfinite(most), least - most, 0.0)
            residual = np.maximum(gap, 0.0) / np.where(size > 0, size, 1.0)
        return np.where(np.isnan(part).any(axis=0), np.nan, residual)

    # -----------------------------------------------------------------------------------------------------------------
    # Everything else
    # -----------------------------------------------------------------------------------------------------------------

    def _shoot(self, rows: IntArray, riskless: bool) -> tuple[FloatArray, NDArray[np.int16]]:
        """Slices as shares of the order, and sweeps, of problems with differing costates."""
        full = self.full[rows]
        if not full.any():
            return self._search(rows, riskless)
        # Slices without a cap of their own (c_j >= X) can only be the whole order: then nothing else has room.
        parts, sweeps = np.minimum(self.fraction[:, rows], 1.0), np.zeros(len(rows), dtype=np.int16)
        left = np.flatnonzero(~full)
        if len(left):
            parts[:, left], sweeps[left] = self._search(rows[left], riskless)
        return parts, sweeps

    def _search(self, rows: IntArray, riskless: bool) -> tuple[FloatArray, NDArray[np.int16]]:
        """Solve x_0(θ) = 1 for θ, the logarithm of the last costate less the smallest spread."""
        n, count = self.n_steps, len(rows)
        shot = Shot(self, rows, riskless)
        level = shot.first_guess()
        if not riskless:
            shot.cut_tail()
        search = Search(shot.floor(), np.log(shot.most[0]), shot.pole)
        sweeps = np.full(count, self.most_sweeps, dtype=np.int16)
        place, done = np.arange(count), np.zeros(count, dtype=bool)  # of the problems that are swept
        wholes: list[tuple[Shot, IntArray]] = []  # sets of which only these are swept any more
        coarse: list[tuple[IntArray, FloatArray, FloatArray]] = []
        for sweep in range(1, self.most_sweeps + 1):
            total, slope, clipped = shot.sweep(level)
            error = total - 1.0
            following, stuck = search.next(level, total, slope, clipped)
            steep = stuck & ~done & (shot.bend > 0) & (total > 1.0)
            if steep.any():
                # Near n* the neighbouring price already fills a slice up to it: from the last price below, what is
                # missing goes where the path is steepest.
                level = np.where(steep, search.low, level)
                total, slope, clipped = shot.sweep(level)
                error = total - 1.0
            met = ~done & ((np.abs(error) <= 2e-16 * n) | stuck | (shot.straight(error) & ~clipped))
            unmet = met & ~(np.abs(error) <= np.where(stuck & (shot.bend > 0), _STEEP, CLOSE))
            sweeps[place[met]] = sweep
            coarse.append((place[unmet], search.low[unmet], search.high[unmet]))
            done |= met
            going = np.flatnonzero(~done)
            if not len(going):
                break
            # A path that was found stays as it is: another sweep from its level gives the same bits.
            level = np.where(done, level, following)
            if len(going) <= _MOST_KEPT * len(done):
                wholes.append((shot, going))
                shot, search = shot.some(going), search.some(going)
                place, level, done = place[going], level[going], done[going]
        lost = place[~done]
        for whole, part in reversed(wholes):
            whole.put_back(shot, part)
            shot = whole
        parts = finish(shot.path, shot.slopes, shot.slope, shot.cap)
        parts[:, lost] = np.nan
        again, low, high = (np.concatenate(a) for a in zip(*coarse, strict=True))
        if len(again):
            parts[:, again], more = self._shoot_in_parts(rows[again], riskless, low, high)
            sweeps[again] += more
        return parts, sweeps

    def _shoot_in_parts(
        self, rows: IntArray, riskless: bool, low: FloatArray, high: FloatArray
    ) -> tuple[FloatArray, NDArray[np.int16]]:
        """Finish what no double p_N decides: where a p_j comes to within rounding of ε_j, its excess is a new unknown.

        With spreads that vary and much risk, x_0 jumps past X between two neighbouring p_N. Their paths agree to
        rounding from the end up to one slice J, where p_J - ε_J has no digits left. What is held after J is known then;
        log(p_J - ε_J) is what to shoot for next, and so on towards the first slice.
        """
        n, count = self.n_steps, len(rows)
        parts, sweeps = np.empty((n, count)), np.zeros(count, dtype=np.int16)
        shot = Shot(self, rows, riskless)
        if not riskless:
            shot.cut_tail()
        place = np.arange(count)
        shot.sweep(low)
        below = shot.whole_path()
        shot.sweep(high)
        above = shot.whole_path()
        for _ in range(n):
            floor = shot.floor()
            asked = np.ones(len(place), dtype=bool)
            for _ in range(n):  # a slice at which even no excess is too much does not trade: the next one decides
                level = shot.restart(below, above, asked)
                over = asked & (shot.sweep(floor)[0] >= 1.0)
                if not over.any():
                    break
                nothing = shot.whole_path()
                above = np.where(over & (nothing > NOTHING), nothing, np.where(over, below, above))
                asked = over
            search = Search(floor, np.log(shot.most[0]), shot.pole)
            lows, highs = np.full(len(place), np.nan), np.full(len(place), np.nan)
            going = np.ones(len(place), dtype=bool)
            done = np.zeros(len(place), dtype=bool)
            level = np.minimum(np.maximum(level, floor), search.ceiling)
            for _ in range(self.most_sweeps):
                total, slope, clipped = shot.sweep(level)
                error = total - 1.0
                following, stuck = search.next(level, total, slope, clipped)
                met = going & ((np.abs(error) <= 2e-16 * n) | (shot.straight(error) & ~clipped))
                sweeps[place[going]] += 1
                if met.any():
                    path, slopes = shot.whole_path()[:, met], shot.slopes[:, met]
                    parts[:, place[met]] = finish(path, slopes, slope[met], shot.cap[:, met])
                    done |= met
                halted = going & stuck & ~met
                lows[halted], highs[halted] = search.low[halted], search.high[halted]
                going &= ~(met | halted)
                if not going.any():
                    break
                level = np.where(going, following, level)
            parts[:, place[going]] = np.nan  # stopped by the limit
            keep = np.flatnonzero(~(done | going))
            if not len(keep):
                return parts, sweeps
            shot = shot.some(keep)
            place = place[keep]
            shot.sweep(lows[keep])
            below = shot.whole_path()
            shot.sweep(highs[keep])
            above = shot.whole_path()
        parts[:, place] = np.nan
        return parts, sweeps
