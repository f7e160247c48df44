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
others only in elementwise operations on contiguous rows; sums over steps have a fixed order; a converged problem is
taken out and never touched again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tributary_opt.optimization.closed_form import (
    _SMALLEST_STEP_DECAY,
    FloatArray,
    SolveStatus,
    _fill_shapes,
    _floats,
    _in_range,
)
from tributary_opt.optimization.problem import Problem, ScheduleCost, convexity_limit, cost_of_steps, schedule_cost
from tributary_opt.optimization.riccati import (
    CHUNK_ELEMENTS,
    RiccatiChunk,
    in_parts,
    nothing_yet,
    riccati,
    scaled_risk,
    steps_first,
    turn,
)

__all__ = ["Method", "Solution", "kkt_residual", "replan", "solve", "solve_tracking"]

IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]

# Problems x slices worked on at once: 8,192 of 48 slices (measured; an eighth of it is 1.8x slower).
_CHUNK_ELEMENTS = 8192 * 48
# Holdings below this share of the order may be 0: the backward recursion starts at the last slice above it.
_NEGLIGIBLE = 1e-290
# Overshooting is cut off here, in fractions of the order; its slope is of no use then.
_OVERSHOOT = 1e60
_STEEPEST = 1e290
# |x_0/X - 1| at which one linear step of every slice finishes the problem: what it leaves is the square of this.
_CLOSE = 1e-9
# Neighbouring doubles of log p change a slice by less than this share of it: more, and its price is not resolved.
_RESOLVED = 1e-12
# A slice at the floor's price, 1e-290 of the order or so, is one that does not trade.
_NOTHING = 1e-285


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
        Backward sweeps after which one search is given up; the longest known takes a quarter of 200. [-]

    Returns
    -------
    Solution
        ``holdings`` begins with X and ends with 0 exactly; slices are >= 0, at most their cap, and add up to X within
        4 units of rounding (within N of them where the caps themselves add up to no more). Status
        ``INFEASIBLE``: Σ c_j < X(1 - N eps). ``BEYOND_CONVEXITY``: power law under ``paper`` with room for a slice
        beyond `convexity_limit`. ``TWAP_ETA_TILDE``: an a_j <= 0 leaves no minimum; the schedule is that of λ = 0.
        ``BAD_INPUT``: a number out of range. ``NOT_CONVERGED``: stopped by ``most_sweeps``. What is refused is NaN and
        costs the others nothing.

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
    rows = max(1, _CHUNK_ELEMENTS // n)
    for part in (slice(start, start + rows) for start in range(0, len(others), rows)):
        whole = part if len(others) == count else others[part]
        own = _flat(problem, whole)
        chunk = _Chunk(own, most_sweeps)
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
    held, later = np.zeros_like(part), np.zeros_like(part)
    np.cumsum(part[:0:-1], axis=0, out=held[-2::-1])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        np.cumsum((2.0 * chunk.risk * held)[::-1], axis=0, out=later[::-1])
        marginal = chunk.dearer - chunk.bend * part
        marginal += (1.0 + chunk.k) * np.power(part, np.broadcast_to(chunk.k, part.shape)) / chunk.cheapness
        value = marginal - later
        tradable = chunk.cheapness > 0
        full = part >= np.minimum(chunk.fraction, 1.0) * (1.0 - 4e-16)
        least = np.where((part > _NEGLIGIBLE) & tradable, value, -np.inf).max(axis=0)
        most = np.where(tradable & ~full, value, np.inf).min(axis=0)
        size = np.where(tradable, np.abs(marginal), 0.0).max(axis=0)
        gap = np.where(np.isfinite(least) & np.isfinite(most), least - most, 0.0)
        residual = np.maximum(gap, 0.0) / np.where(size > 0, size, 1.0)
    return np.asarray(np.where(np.isnan(part).any(axis=0), np.nan, residual).reshape(problem.shape))


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
    parts = _closed_sum(share, share)
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

    def __init__(self, own: Problem, most_sweeps: int = 1) -> None:
        self.most_sweeps = most_sweeps
        good = own.valid
        self.own, self.n_steps = own, own.n_steps
        self.size = np.where(good, own.order_size, 1.0)
        self.k = np.where(good, own.exponent, 1.0)
        lam, gamma = np.where(good, own.risk_aversion, 0.0), np.where(good, own.gamma, 0.0)
        impact, sd, spread, self.cap = (steps_first(a) for a in (own.impact, own.slice_sd, own.spread, own.cap))
        # What costing needs, as given; what the solver works on is a copy where it differs.
        self._costs = impact, spread, sd
        if not good.all():
            impact, sd, spread = (np.where(good, a, 0.0) for a in (impact, sd, spread))
            self.cap = np.where(good, self.cap, np.inf)
        limit = np.broadcast_to(np.inf, self.cap.shape)
        if own.permanent == "paper" and (self.k < 1).any():
            limit = np.where(good, steps_first(convexity_limit(own)), np.inf)

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
            self.cheapness = reference / impact  # a_ref / a_j, 0 where nothing trades
            if (tightest == np.inf).all():
                self.fraction = np.broadcast_to(np.inf, self.cap.shape)
                room = np.full(self.size.shape, float(self.n_steps))
            else:
                self.fraction = self.cap / self.size
                room = np.zeros(self.size.shape)
                share = np.empty(self.size.shape)
                for row in self.fraction:
                    np.add(room, np.minimum(row, 1.0, out=share), out=room)
                self.fraction[self.fraction >= 1] = np.inf
            unit = reference * np.power(self.size, self.k)
            self.one_spread = own.spread.strides[-1] == 0
            self.dearer = np.broadcast_to(0.0, self.cap.shape)
            if not self.one_spread:
                dearer = spread - np.where(tradable, spread, np.inf).min(axis=0)
                self.dearer = np.where(tradable & (dearer > 0), dearer / unit, 0.0)
            self.bend = np.where(self.paper, gamma * np.power(self.size, 1.0 - self.k) / reference, 0.0)
            self.turn = limit / self.size if self.paper.any() else limit
        self._sd, self._reference = sd, reference
        self.risk = self.risk_of(lam)

        infeasible = ~(room >= 1.0 - self.n_steps * np.finfo(float).eps)
        self.full = room <= 1.0 + 4.0 * np.finfo(float).eps  # no more room than order: the caps are the schedule
        self.status = np.select(
            [~good, infeasible, beyond, no_minimum],
            [SolveStatus.BAD_INPUT, SolveStatus.INFEASIBLE, SolveStatus.BEYOND_CONVEXITY, SolveStatus.TWAP_ETA_TILDE],
            SolveStatus.OK,
        ).astype(np.int8)
        self.method = self._methods(~good | infeasible | beyond)

    def risk_of(self, lam: FloatArray) -> FloatArray:
        """λ s_j X^(1-k) / a of any λ."""
        return scaled_risk(self._sd, lam, np.power(self.size, 1.0 - self.k), self._reference)

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
        slices, holdings = np.empty((n, count)), np.empty((n + 1, count))
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
            size, held = self.size[whole], np.zeros((n + 1, len(rows)))
            if how == Method.RICCATI:  # slices without volume among them: `RiccatiChunk` has done the others
                shares = np.empty((n, len(rows)))
                exponent = np.frexp(size)[1] - 1
                unit = np.ldexp(size, -exponent)
                riccati(self.cheapness[:, rows], self.risk[:, rows], unit, shares, held, dry=True)
                slices[:, rows], holdings[:, rows] = (np.ldexp(a, exponent) for a in (shares, held))
                continue
            shares, sweeps[whole] = self._shoot(rows, how == Method.WATER_FILLING)
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

    # -----------------------------------------------------------------------------------------------------------------
    # Everything else
    # -----------------------------------------------------------------------------------------------------------------

    def _shoot(self, rows: IntArray, riskless: bool) -> tuple[FloatArray, NDArray[np.int16]]:
        """Solve x_0(θ) = 1 for θ, the logarithm of the last costate less the smallest spread."""
        n = self.n_steps
        parts = np.empty((n, len(rows)))
        sweeps = np.zeros(len(rows), dtype=np.int16)
        full = self.full[rows]
        if full.any():
            parts[:, full] = np.minimum(self.fraction[:, rows[full]], 1.0)
            # Slices without a cap of their own (c_j >= X) can only be the whole order: then nothing else has room.
            rows_left = np.flatnonzero(~full)
        else:
            rows_left = np.arange(len(rows))
        if not len(rows_left):
            return parts, sweeps
        shot = _Shot(self, rows[rows_left], riskless)
        level = shot.first_guess()
        if not riskless:
            shot.cut_tail()
        search = _Search(shot.floor(), np.log(shot.most), shot.pole)
        coarse: list[tuple[IntArray, FloatArray, FloatArray]] = []
        place = np.arange(len(rows_left))  # where in rows_left each problem still being solved belongs
        for sweep in range(1, self.most_sweeps + 1):
            total, slope, clipped = shot.sweep(level)
            error = total - 1.0
            following, stuck = search.next(level, total, slope, clipped)
            close = np.abs(error) <= _CLOSE
            ends = shot.ends(np.flatnonzero(close), error, slope)
            near = close & ~clipped
            near[ends.rows[ends.crossing]] = False
            done = near | (np.abs(error) <= 2e-16 * n) | stuck
            if done.any():
                sweeps[rows_left[place[done]]] = sweep
                unmet = np.flatnonzero(done & ~close)
                met = done[ends.rows]
                parts[:, rows_left[place[ends.rows[met]]]] = ends.finish(met)
                coarse.append((rows_left[place[unmet]], search.low[unmet], search.high[unmet]))
                keep = np.flatnonzero(~done)
                if not len(keep):
                    break
                shot.keep(keep)
                search.keep(keep)
                place, following = place[keep], following[keep]
            level = following
        else:
            sweeps[rows_left[place]] = self.most_sweeps
            parts[:, rows_left[place]] = np.nan
        if any(len(c[0]) for c in coarse):
            again, low, high = (np.concatenate(a) for a in zip(*coarse, strict=True))
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
        shot = _Shot(self, rows, riskless)
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
                above = np.where(over & (nothing > _NOTHING), nothing, np.where(over, below, above))
                asked = over
            search = _Search(floor, np.log(shot.most), shot.pole)
            lows, highs = np.full(len(place), np.nan), np.full(len(place), np.nan)
            going = np.ones(len(place), dtype=bool)
            done = np.zeros(len(place), dtype=bool)
            level = np.minimum(np.maximum(level, floor), search.ceiling)
            for _ in range(self.most_sweeps):
                total, slope, clipped = shot.sweep(level)
                error = total - 1.0
                following, stuck = search.next(level, total, slope, clipped)
                close = np.abs(error) <= _CLOSE
                ends = shot.ends(np.flatnonzero(close), error, slope)
                near = close & ~clipped
                near[ends.rows[ends.crossing]] = False
                met = going & (near | (np.abs(error) <= 2e-16 * n))
                sweeps[place[going]] += 1
                if met.any():
                    parts[:, place[met]] = ends.finish(met[ends.rows])
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
            shot.keep(keep)
            place = place[keep]
            shot.sweep(lows[keep])
            below = shot.whole_path()
            shot.sweep(highs[keep])
            above = shot.whole_path()
        parts[:, place] = np.nan
        return parts, sweeps


class _Search:
    """Safeguarded Newton for x_0(θ) = 1.

    Below the root log x_0 is nearly straight in θ. Above it x_0 explodes like (θ_c - θ)^(-1/s), s = (1 - k)/(1 + k),
    and x_0^-s is. Newton's step is taken for g = log x_0 below and (1 - x_0^-s)/s above: at 1 they meet with one slope.
    Where it leaves the bracket, or the bracket has not halved in two sweeps, the next point is between its ends: by
    regula falsi in g and by halving, in turns.
    """

    def __init__(self, floor: FloatArray, ceiling: FloatArray, pole: FloatArray) -> None:
        count = len(floor)
        self.pole, self.ceiling = pole, ceiling
        self.low, self.high = floor.copy(), np.full(count, np.inf)
        self.at_low, self.at_high = np.full(count, -np.inf), np.full(count, np.inf)  # g there
        self.before = np.full(count, np.inf)  # width of the bracket a sweep ago
        self.earlier = np.full(count, np.inf)  # and two sweeps ago
        self.stride = np.ones(count)
        self.seen_low = np.zeros(count, dtype=bool)
        self.turn = np.zeros(count, dtype=bool)

    def keep(self, rows: IntArray) -> None:
        for name, array in list(self.__dict__.items()):
            setattr(self, name, array[rows])

    def next(
        self, level: FloatArray, total: FloatArray, slope: FloatArray, clipped: BoolArray
    ) -> tuple[FloatArray, BoolArray]:
        """Where to look next, and where there is nothing left to look at."""
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            below = total < 1.0
            s = np.where(self.pole > 1e-3, self.pole, 1.0)
            log = np.log(total)
            shrunk = np.power(np.minimum(total, _OVERSHOOT), -s)
            straight = below | (self.pole <= 1e-3)
            value = np.where(straight, log, (1.0 - shrunk) / s)
            newton = level - value / np.where(straight, slope / total, shrunk * slope / total)
            self.low, self.at_low = np.where(below, level, self.low), np.where(below, value, self.at_low)
            self.high, self.at_high = np.where(below, self.high, level), np.where(below, self.at_high, value)
            width = self.high - self.low
            slow = width > 0.5 * self.earlier
            inside = (newton > self.low) & (newton < np.minimum(self.high, self.ceiling)) & ~clipped & ~slow
            falsi = (self.low * self.at_high - self.high * self.at_low) / (self.at_high - self.at_low)
            use_falsi = (falsi > self.low) & (falsi < self.high) & ~self.turn
            between = np.where(use_falsi, falsi, 0.5 * (self.low + self.high))
            open_ = np.where(
                below, np.minimum(level + self.stride, self.ceiling), np.maximum(level - self.stride, self.low)
            )
            self.seen_low |= below
            bracketed = np.isfinite(self.high) & self.seen_low
            following = np.where(inside, newton, np.where(bracketed, between, open_))
            self.turn = np.where(inside | ~bracketed, self.turn, ~self.turn)
            self.stride = np.where(inside | bracketed, self.stride, 2.0 * self.stride)
            self.earlier = np.where(bracketed, self.before, np.inf)
            self.before = np.where(bracketed, width, np.inf)
            stuck = (following == level) | (width <= 4e-16 * np.abs(level))
        return following, stuck


class _Shot:
    """The backward recursion of a set of problems, and the last path it found."""

    def __init__(self, chunk: _Chunk, rows: IntArray, riskless: bool) -> None:
        # A view where all problems of the chunk are shot at: gathering columns costs as much as a sweep.
        all_rows: slice | IntArray = slice(None) if len(rows) == len(chunk.k) else rows
        self.k = chunk.k[rows]
        self.inverse_k = 1.0 / self.k
        self.pole = (1.0 - self.k) / (1.0 + self.k)
        self.ease = chunk.cheapness[:, all_rows] / (1.0 + self.k)  # 1 / ((k+1) a_j)
        self.twice_risk = np.zeros_like(self.ease) if riskless else 2.0 * chunk.risk[:, all_rows]
        cheapness = chunk.cheapness[:, all_rows]
        dearest, self.cap = cheapness.min(axis=0), chunk.fraction[:, all_rows]
        if not dearest.all():  # slices without room or volume
            dearest = np.where(cheapness > 0, cheapness, np.inf).min(axis=0)
            self.cap = np.where(cheapness > 0, self.cap, 0.0)
        self.dearer = chunk.dearer[:, all_rows]
        self.one_spread = chunk.one_spread or not self.dearer.any()
        self.bend, self.turn = chunk.bend[rows], chunk.turn[:, all_rows]
        self.bent = bool(chunk.paper[rows].any())
        self.riskless = riskless
        self.capped = bool(self.cap.min() < np.inf)
        self.first = np.full(len(rows), len(self.ease))  # slices from the first up to this one trade
        self.late = self.anew = False
        # Where a shot starts anew at slice J: ε_J, from which prices are then counted, and what is traded after J.
        self.base, self.tail = np.zeros(len(rows)), np.zeros(0)
        self.held = np.zeros(len(rows))
        # Costates beyond this fill any slice to more than the overshoot; the bound keeps the recursion finite.
        self.most = (1.0 + self.k) * np.power(_OVERSHOOT, self.k) / dearest
        if not self.one_spread:
            self.most += 2.0 * np.minimum(self.dearer.max(axis=0), _STEEPEST)
        self._allocate()

    def _allocate(self) -> None:
        self.path, self.slopes = np.empty_like(self.ease), np.empty_like(self.ease)

    def keep(self, rows: IntArray) -> None:
        """Go on with these only."""
        for name in ("k", "inverse_k", "pole", "bend", "first", "most", "base", "held"):
            setattr(self, name, getattr(self, name)[rows])
        wide = ["ease", "twice_risk", "cap"]
        wide += [] if self.one_spread else ["dearer"]
        wide += ["turn"] if self.bent else []
        for name in wide:
            setattr(self, name, np.take(getattr(self, name), rows, axis=1))
        if self.tail.size:
            self.tail = np.take(self.tail, rows, axis=1)
        self._allocate()

    def whole_path(self) -> FloatArray:
        """The slices of the last sweep, with those known before it."""
        return self.path + self.tail if self.tail.size else self.path.copy()

    def restart(self, below: FloatArray, above: FloatArray, which: BoolArray) -> FloatArray:
        """Start at the last slice in which two neighbouring paths differ; returns a level to begin with."""
        n, lane = len(self.ease), np.arange(below.shape[1])
        apart = below < (1.0 - _RESOLVED) * above
        start = np.where(apart.any(axis=0), n - 1 - apart[::-1].argmax(axis=0), 0)
        if not self.tail.size:
            self.tail = np.zeros_like(self.ease)
        known = np.where(np.arange(n)[:, np.newaxis] > start, below, 0.0)
        held = np.zeros(below.shape[1])
        for row in known[::-1]:
            held = held + row
        self.first = np.where(which, start + 1, self.first)
        self.tail = np.where(which, known, self.tail)
        self.held = np.where(which, held, self.held)
        self.base = np.where(which, self.dearer[start, lane], self.base)
        self.late, self.anew = True, True
        middle = 0.5 * (below[start, lane] + above[start, lane])
        ease = self.ease[start, lane]
        with np.errstate(divide="ignore"):
            return self.k * np.log(middle) - np.log(ease)

    def first_guess(self) -> FloatArray:
        """The level at which the slices add up to the order without risk, caps and differing spreads."""
        each = np.power(self.ease, np.ascontiguousarray(np.broadcast_to(self.inverse_k, self.ease.shape)))
        total = np.zeros(len(self.k))
        for row in each:
            total = total + row
        return -self.k * np.log(total)

    def floor(self) -> FloatArray:
        """The level at which no slice is above 1e-290 of the order."""
        return np.asarray(self.k * np.log(_NEGLIGIBLE))

    def cut_tail(self) -> None:
        """Find the last slice that trades more than 1e-290 of the order; those after it are left at 0."""
        least = self.floor()
        # A step backward multiplies max(x, p^(1/k)) by at most 1 + (1 + 2r)^(1/k): most problems need no look.
        growth = np.log(2.0) + np.log1p(self.twice_risk.max(axis=0)) * self.inverse_k
        urgent = np.flatnonzero(growth * len(self.ease) > -np.log(_NEGLIGIBLE))
        if not len(urgent):
            return
        part = _Shot.__new__(_Shot)
        part.__dict__.update(self.__dict__)
        part.keep(urgent)
        urgent = urgent[part.sweep(least[urgent])[0] >= 1.0]
        if not len(urgent):
            return
        part.__dict__.update(self.__dict__)
        part.keep(urgent)
        low, high = np.zeros(len(urgent), dtype=np.intp), part.first.copy()  # x_0 < 1 when starting at low, not at high
        part.late = True
        while (high - low > 1).any():
            part.first = (low + high) // 2
            under = part.sweep(least[urgent])[0] < 1.0
            low, high = np.where(under, part.first, low), np.where(under, high, part.first)
        self.first[urgent] = np.maximum(low, 1)
        self.late = True

    def sweep(self, level: FloatArray) -> tuple[FloatArray, FloatArray, BoolArray]:
        """x_0 and dx_0/dθ at last costates e^θ, and where the overshoot made the slope useless."""
        count, capped = len(level), self.capped or self.late
        price = np.exp(level)
        change = price.copy()
        total, slope = np.zeros(count), np.zeros(count)
        work, more, below = np.empty(count), np.empty(count), np.empty(count, dtype=bool)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            last = int(self.first.max()) if self.late else len(self.ease)
            self.path[last:] = self.slopes[last:] = 0.0
            for j in range(last - 1, -1, -1):
                if not self.riskless:
                    np.multiply(self.twice_risk[j], total, out=work)
                    np.add(price, work, out=price)
                    np.multiply(self.twice_risk[j], slope, out=work)
                    np.add(change, work, out=change)
                    np.minimum(price, self.most, out=price)
                    np.minimum(change, _STEEPEST, out=change)
                above = price if self.one_spread else np.maximum(price - (self.dearer[j] - self.base), 0.0)
                traded = self.path[j]
                np.multiply(above, self.ease[j], out=work)
                np.power(work, self.inverse_k, out=traded)
                cap = self.cap[j] if not self.late else np.where(j < self.first, self.cap[j], 0.0)
                if self.bent:
                    more = self._bent(j, above, traded)
                else:
                    np.multiply(traded, self.inverse_k, out=more)
                    np.divide(more, above, out=more)
                    if not self.one_spread:
                        more[above == 0] = 0.0
                if capped:
                    np.less(traded, cap, out=below)
                    # The mask before the steep factor: 0 times an infinity would be no slope at all.
                    np.multiply(more, below, out=more)
                np.multiply(more, change, out=self.slopes[j])
                if capped:
                    np.minimum(traded, cap, out=traded)
                np.add(total, traded, out=total)
                np.add(slope, self.slopes[j], out=slope)
                if self.anew:
                    np.add(total, np.where(self.first == j + 1, self.held, 0.0), out=total)
        bad = ~np.isfinite(slope)
        slope[bad] = 1.0
        return total, slope, bad | (total > 0.5 * _OVERSHOOT)

    def _bent(self, j: int, above: FloatArray, traded: FloatArray) -> FloatArray:
        """Solve (k+1) a y^k - γ y = q for y, in place; returns dy/dq. Concave, so Newton comes from the left."""
        k, ease, bend = self.k, self.ease[j], self.bend
        turn = np.minimum(self.turn[j], _OVERSHOOT)
        ease = np.where(ease > 0, ease, 1.0)
        summit = np.power(turn, k) / ease - bend * turn
        root = np.where((bend > 0) & (above >= summit), turn, np.minimum(traded, turn))
        open_ = (bend > 0) & (above < summit) & (root > 0) & (self.ease[j] > 0)
        rate = np.ones_like(root)
        for _ in range(200):
            raised = np.power(root, k) / ease
            rate = k * raised / np.where(root > 0, root, 1.0) - bend
            step = np.where(open_ & (rate > 0), (above - (raised - bend * root)) / np.where(rate > 0, rate, 1.0), 0.0)
            moved = np.minimum(root + step, turn)
            open_ &= moved > root
            if not open_.any():
                break
            root = np.where(open_, moved, root)
        traded[:] = np.where(self.ease[j] > 0, root, 0.0)
        return np.where(
            (root > 0) & (rate > 0) & (self.ease[j] > 0) & (root < turn), 1.0 / np.where(rate > 0, rate, 1.0), 0.0
        )

    def ends(self, rows: IntArray, error: FloatArray, slope: FloatArray) -> _Ends:
        """The paths of some, near the end of the search."""
        if len(rows) == len(self.k):
            path, slopes, cap = self.whole_path(), self.slopes, self.cap
        else:
            path, slopes, cap = (np.take(a, rows, axis=1) for a in (self.path, self.slopes, self.cap))
            if self.tail.size:
                path += np.take(self.tail, rows, axis=1)
        return _Ends(rows, path, slopes, cap, error[rows], slope[rows])


class _Ends:
    """Paths that nearly add up to the order, with their derivatives."""

    def __init__(
        self,
        rows: IntArray,
        path: FloatArray,
        slopes: FloatArray,
        cap: FloatArray,
        error: FloatArray,
        slope: FloatArray,
    ) -> None:
        self.rows, self.path, self.slopes, self.cap, self.slope = rows, path, slopes, cap, slope
        after = slopes * (error / np.where(slope > 0, slope, 1.0))
        np.subtract(path, after, out=after)
        #: Where the finishing step would carry a slice across its cap or below 0.
        self.crossing = (after > cap).any(axis=0) | (after.min(axis=0) < 0)

    def finish(self, which: BoolArray) -> FloatArray:
        """The paths of some, moved onto Σ = 1 along their own derivatives."""
        path, slopes, cap, slope = self.path, self.slopes, self.cap, self.slope
        if not which.all():
            path, slopes, cap = (np.compress(which, a, axis=1) for a in (path, slopes, cap))
            slope = slope[which]
        path = path + slopes * _missing(path, slope)
        np.minimum(np.maximum(path, 0.0, out=path), cap, out=path)
        return _closed_sum(path, np.where(path < cap, path, 0.0), 1)


def _missing(path: FloatArray, slope: FloatArray) -> FloatArray:
    high, low = _exact_sum(path)
    return np.where(slope > 0, ((1.0 - high) - low) / np.where(slope > 0, slope, 1.0), 0.0)


def _closed_sum(parts: FloatArray, free: FloatArray, times: int = 2) -> FloatArray:
    """Put what is missing to 1, a few units of rounding, on each problem's largest free slice."""
    largest = free.argmax(axis=0)
    lane = np.arange(parts.shape[1])
    for _ in range(times):
        high, low = _exact_sum(parts)
        missing = (1.0 - high) - low
        moved = np.maximum(parts[largest, lane] + missing, 0.0)
        parts[largest, lane] = np.where(free[largest, lane] > 0, moved, parts[largest, lane])
    return parts


def _exact_sum(parts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sum over the first axis to twice the precision (Knuth's two-sum), as a double and its error."""
    high, low = parts[-1].copy(), np.zeros(parts.shape[1])
    for row in parts[-2::-1]:
        total = high + row
        back = total - high
        low += (high - (total - back)) + (row - back)
        high = total
    return high, low
