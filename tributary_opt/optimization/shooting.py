"""Backward costate shooting: the recursion of a set of problems, and the search for the last costate that fits.

`solver` says what is solved and which problems come here. From a last costate p_N = e^θ (less the smallest spread) the
optimality conditions give every slice backward, x_0 rises with θ, and `Search` finds where x_0 is the order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tributary_opt.optimization.arguments import FloatArray
from tributary_opt.optimization.riccati import Buffers, left_of_one

if TYPE_CHECKING:
    from tributary_opt.optimization.solver import _Chunk

__all__ = ["CLOSE", "NEGLIGIBLE", "NOTHING", "Search", "Shot", "closed_sum", "finish"]

IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]

# Holdings below this share of the order may be 0: the backward recursion starts at the last slice above it.
NEGLIGIBLE = 1e-290
# Overshooting is cut off here, in fractions of the order; its slope is of no use then.
_OVERSHOOT = 1e60
_STEEPEST = 1e290
# |x_0/X - 1| at which one linear step of every slice finishes the problem: what it leaves is the square of this.
CLOSE = 1e-7
# A slice that this step would change by more than this share of itself takes another sweep first.
_LINEAR = 3e-7
# Neighbouring doubles of log p change a slice by less than this share of it: more, and its price is not resolved.
_RESOLVED = 1e-12
# A slice at the floor's price, 1e-290 of the order or so, is one that does not trade.
NOTHING = 1e-285


class Search:
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

    def some(self, rows: IntArray) -> Search:
        """The search of these only."""
        part = Search.__new__(Search)
        part.__dict__.update({name: array[rows] for name, array in self.__dict__.items()})
        return part

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


class Shot:
    """The backward recursion of a set of problems, and the last path it found."""

    def __init__(self, chunk: _Chunk, rows: IntArray, riskless: bool) -> None:
        # A view where all problems of the chunk are shot at: gathering columns costs as much as a sweep.
        all_rows: slice | IntArray = slice(None) if len(rows) == len(chunk.k) else rows
        self.k = chunk.k[rows]
        self.inverse_k = 1.0 / self.k
        self.pole = (1.0 - self.k) / (1.0 + self.k)
        wide = len(chunk.cheapness), len(rows)
        cheapness = chunk.cheapness[:, all_rows]
        self.ease, self.twice_risk = (chunk.memory.array(*wide) for _ in range(2))
        np.divide(cheapness, 1.0 + self.k, out=self.ease)  # 1 / ((k+1) a_j)
        np.multiply(chunk.risk[:, all_rows], 0.0 if riskless else 2.0, out=self.twice_risk)
        dearest, self.cap = cheapness.min(axis=0), chunk.fraction[:, all_rows]
        if not dearest.all():  # slices without room or volume
            dearest = np.where(cheapness > 0, cheapness, np.inf).min(axis=0)
            self.cap = np.where(cheapness > 0, self.cap, 0.0)
        self.dearer = chunk.dearer[:, all_rows]
        self.one_spread = chunk.one_spread or not self.dearer.any()
        self.bend, self.turn = chunk.bend[rows], chunk.turn[:, all_rows]
        self.riskless, self.room = riskless, chunk.room[rows]
        self.capped = bool(self.cap.min() < np.inf)
        self.first = np.full(len(rows), len(self.ease))  # slices from the first up to this one trade
        self.late = self.anew = False
        # Where a shot starts anew at slice J: ε_J, from which prices are then counted, and what is traded after J.
        self.base, self.tail = np.zeros(len(rows)), np.zeros(0)
        self.held = np.zeros(len(rows))
        # Costates beyond this fill any slice to more than the overshoot; the bound keeps the recursion finite.
        most = (1.0 + self.k) * np.power(_OVERSHOOT, self.k) / dearest
        if not self.one_spread:
            most += 2.0 * np.minimum(self.dearer.max(axis=0), _STEEPEST)
        self.most = np.stack([most, np.full(len(rows), _STEEPEST)])
        self._allocate(chunk.memory)

    def _allocate(self, memory: Buffers) -> None:
        # A slice and its derivative, and what is left to trade and its own, are worked on in one call.
        self.both, self.work = memory.array(len(self.ease), 2, len(self.k)), memory.array(*self.ease.shape)
        self.sums = np.empty((2, len(self.k)))

    @property
    def path(self) -> FloatArray:
        """n_j/X of the last sweep, without those known before it, shape (N, B). [-]"""
        return self.both[:, 0]

    @property
    def slopes(self) -> FloatArray:
        """Its derivatives by θ, shape (N, B). [-]"""
        return self.both[:, 1]

    @property
    def slope(self) -> FloatArray:
        """Their sum, 1 where it is of no use, shape (B,). [-]"""
        return np.asarray(self.sums[1])

    def some(self, rows: IntArray) -> Shot:
        """The recursion of these only."""
        part = Shot.__new__(Shot)
        part.__dict__.update(self.__dict__)
        for name in ("k", "inverse_k", "pole", "bend", "first", "most", "base", "held"):
            setattr(part, name, getattr(self, name)[..., rows])
        wide = ["ease", "twice_risk", "cap"]
        wide += [] if self.one_spread else ["dearer"]
        wide += ["turn"] if self.bend.any() else []
        wide += ["tail"] if self.tail.size else []
        for name in wide:
            setattr(part, name, np.take(getattr(self, name), rows, axis=1))
        part._allocate(Buffers())
        return part

    def put_back(self, part: Shot, rows: IntArray) -> None:
        """Take over the last sweep of `some` of the problems."""
        for whole, new in zip(self.both.reshape(-1, len(self.k)), part.both.reshape(-1, len(rows)), strict=True):
            whole[rows] = new
        self.sums[:, rows] = part.sums

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
        """A level near which x_0 is the order; without risk, caps and differing spreads the one at which it is."""
        means = np.zeros(len(self.k), dtype=bool) if self.riskless else ~self.dearer.any(axis=0)
        guess = np.maximum(self._guess_of_means(), self.floor()) if means.any() else self.floor()
        if not means.all():
            each = np.power(self.ease, np.ascontiguousarray(np.broadcast_to(self.inverse_k, self.ease.shape)))
            guess = np.where(means, guess, -self.k * np.log(_sum(each)))
        return guess

    def _guess_of_means(self) -> FloatArray:
        """The level of the mean coefficients in continuous time.

        At the end of the horizon the rate, over that of TWAP, is u / sinh_k(u) with u = T/T* and nearly

            sinh_k(u) = (e(u) - e(-u)) / 2,  e(u) = (1 + βu)^((1 + β)/β),  β = (1 - k)/(1 + k),

        which is sinh for k = 1. A cap of R times TWAP's rate binds until x_0 (R/u)^((1+k)/2) is left or so, from where
        the rest of the order is done in the rest of the time.
        """
        k, n, beta = self.k, len(self.ease), np.maximum(self.pole, 1e-9)
        ease = _sum(self.ease) / n
        pace = ease * (_sum(self.twice_risk) / n) * (1.0 + k) / (2.0 * k)  # (τ/T*)^(1+k)
        urgency = n * np.power(np.maximum(pace, NEGLIGIBLE), 1.0 / (1.0 + k))
        rest = np.minimum(np.power(self.room / urgency, 0.5 * (1.0 + k)), 1.0)
        time = 1.0 - (1.0 - rest) / self.room
        urgency = urgency * time * np.power(rest, self.pole)
        growth = (1.0 + beta) / beta
        rise = growth * np.log1p(beta * urgency)
        fall = growth * np.log1p(-np.minimum(beta * urgency, 1.0 - 1e-15))
        rate = np.log(2.0 * urgency) - rise - np.log(-np.expm1(fall - rise))
        return np.asarray(k * (rate + np.log(rest / time) - np.log(n)) - np.log(ease))

    def floor(self) -> FloatArray:
        """The level at which no slice is above 1e-290 of the order."""
        return np.asarray(self.k * np.log(NEGLIGIBLE))

    def cut_tail(self) -> None:
        """Find the last slice that trades more than 1e-290 of the order; those after it are left at 0."""
        least = self.floor()
        # A step backward multiplies max(x, p^(1/k)) by at most 1 + (1 + 2r)^(1/k): most problems need no look.
        growth = np.log(2.0) + np.log1p(self.twice_risk.max(axis=0)) * self.inverse_k
        urgent = np.flatnonzero(growth * len(self.ease) > -np.log(NEGLIGIBLE))
        if not len(urgent):
            return
        urgent = urgent[self.some(urgent).sweep(least[urgent])[0] >= 1.0]
        if not len(urgent):
            return
        part = self.some(urgent)
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
        costate, sums = np.empty((2, count)), self.sums  # p_j and x_j with their derivatives
        np.exp(level, out=costate[0])
        costate[1] = costate[0]
        sums[:] = 0.0
        price, change, (total, slope) = *costate, sums
        work, more, below = np.empty(count), np.empty(count), np.empty(count, dtype=bool)
        rise, bent = np.empty((2, count)), np.flatnonzero(self.bend > 0)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            last = int(self.first.max()) if self.late else len(self.ease)
            self.both[last:] = 0.0
            for j in range(last - 1, -1, -1):
                if not self.riskless:
                    np.multiply(self.twice_risk[j], sums, out=rise)
                    np.add(costate, rise, out=costate)
                    np.minimum(costate, self.most, out=costate)
                above = price if self.one_spread else np.maximum(price - (self.dearer[j] - self.base), 0.0)
                both, cap = self.both[j], self.cap[j]
                traded = both[0]
                np.multiply(above, self.ease[j], out=work)
                np.power(work, self.inverse_k, out=traded)
                if self.late:
                    cap = np.where(j < self.first, cap, 0.0)
                np.multiply(traded, self.inverse_k, out=more)
                np.divide(more, above, out=more)
                if not self.one_spread:
                    more[above == 0] = 0.0
                if len(bent):  # the others' digits stay their own
                    traded[bent], more[bent] = self._bent(j, bent, above[bent], traded[bent])
                if capped:
                    # The mask before the steep factor: 0 times an infinity would be no slope at all.
                    np.multiply(more, np.less(traded, cap, out=below), out=more)
                    np.minimum(traded, cap, out=traded)
                np.multiply(more, change, out=both[1])
                np.add(sums, both, out=sums)
                if self.anew:
                    np.add(total, np.where(self.first == j + 1, self.held, 0.0), out=total)
        bad = ~np.isfinite(slope)
        slope[bad] = 1.0
        return total, slope, bad | (total > 0.5 * _OVERSHOOT)

    def _bent(self, j: int, rows: IntArray, above: FloatArray, root: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The y of (k+1) a y^k - γ y = q, and dy/dq. Concave, so Newton comes from the left, from γ = 0 on."""
        k, ease, bend = self.k[rows], self.ease[j, rows], self.bend[rows]
        turn = np.minimum(self.turn[j, rows], _OVERSHOOT)
        trades = ease > 0
        ease = np.where(trades, ease, 1.0)
        summit = np.power(turn, k) / ease - bend * turn
        root = np.where(above >= summit, turn, np.minimum(root, turn))
        open_ = (above < summit) & (root > 0) & trades
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
        rising = (root > 0) & (rate > 0) & trades & (root < turn)
        return np.where(trades, root, 0.0), np.where(rising, 1.0 / np.where(rate > 0, rate, 1.0), 0.0)

    def straight(self, error: FloatArray) -> BoolArray:
        """Where one linear step of every slice finishes the path: none meets its cap or bends, shape (B,)."""
        near = np.abs(error) <= CLOSE
        rows = np.flatnonzero(near)
        both, tail, cap, slope = self.both, self.tail, self.cap, self.slope
        if 2 * len(rows) < len(near):
            both, cap = np.take(both, rows, axis=2), np.take(cap, rows, axis=1)
            tail = np.take(tail, rows, axis=1) if tail.size else tail
            error, slope = error[rows], slope[rows]
        elif len(rows):
            rows = np.arange(len(near))
        if not len(rows):
            return near
        path = both[:, 0] + tail if tail.size else both[:, 0]
        with np.errstate(over="ignore", invalid="ignore"):
            step = self.work[:, : len(rows)]
            np.multiply(both[:, 1], np.abs(error) / np.where(slope > 0, slope, 1.0) / _LINEAR, out=step)
            bent = (step > path).any(axis=0)
            if self.capped:
                np.multiply(step, _LINEAR, out=step)
                bent |= (np.add(step, path, out=step) > cap).any(axis=0) & (error < 0)
        near[rows] &= ~bent
        return near


def finish(path: FloatArray, slopes: FloatArray, slope: FloatArray, cap: FloatArray) -> FloatArray:
    """Move paths onto Σ = 1 along their derivatives, in place; the derivatives are of no use afterwards."""
    with np.errstate(over="ignore", invalid="ignore"):  # paths that were given up are among them
        step = np.where(slope > 0, left_of_one(path) / np.where(slope > 0, slope, 1.0), 0.0)
        np.add(path, np.multiply(slopes, step, out=slopes), out=path)
        np.minimum(np.maximum(path, 0.0, out=path), cap, out=path)
        return closed_sum(path, np.multiply(path, path < cap, out=slopes), 1)


def _sum(rows: FloatArray) -> FloatArray:
    """Sum over the first axis in a fixed order."""
    total = np.zeros(rows.shape[1])
    for row in rows:
        np.add(total, row, out=total)
    return total


def closed_sum(parts: FloatArray, free: FloatArray, times: int = 2) -> FloatArray:
    """Put what is missing to 1, a few units of rounding, on each problem's largest free slice."""
    largest = free.argmax(axis=0)
    lane = np.arange(parts.shape[1])
    for _ in range(times):
        moved = np.maximum(parts[largest, lane] + left_of_one(parts), 0.0)
        parts[largest, lane] = np.where(free[largest, lane] > 0, moved, parts[largest, lane])
    return parts
