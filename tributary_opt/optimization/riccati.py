"""Linear problems without caps: the backward recursion over whole batches, a cache-sized chunk at a time.

With S_N = 1/a_N, S_j = 1/a_j + S_{j+1}/(1 + λ s_j S_{j+1}) backward, and n_j = x_{j-1} / (a_j S_j) forward.

S is the inverse of the usual a_j ρ_j: with it a slice that cannot trade (1/a_j = 0) needs no exception, nothing
cancels, and what is kept, 1 - ρ_j, is a quotient of its own rather than a difference.

Steps are the first axis of a chunk, every buffer is used again by the next one, and E and V are added up while the
chunk is still in the cache: what is left to pay for is little more than reading coefficients and writing the answer.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tributary_opt.optimization.arguments import FloatArray
from tributary_opt.optimization.closed_form import _aligned, _clip
from tributary_opt.optimization.problem import Problem, _cost_of_steps

__all__ = [
    "CHUNK_ELEMENTS",
    "Buffers",
    "RiccatiChunk",
    "in_parts",
    "left_of_one",
    "nothing_yet",
    "riccati",
    "scaled_risk",
    "steps_first",
    "turn",
]

BoolArray = NDArray[np.bool_]

# Elements per buffer (measured: a quarter of it is 1.3x slower, short rows being all overhead; twice is no faster).
CHUNK_ELEMENTS = 200_000
_SMALLEST_ROOT, _LARGEST_ROOT = 1e-150, 1e150
# Orders of 2^±this need no unit of their own: their squares are far from both ends of the range.
_ORDINARY = 100
# Problems transposed at once (measured: 32 are 1.5x slower, 4,096 too).
_TURNED = 256


def scaled_risk(
    sd: FloatArray,
    lam: FloatArray,
    size: FloatArray,
    reference: FloatArray,
    bounds: tuple[FloatArray, FloatArray] | None = None,
    out: FloatArray | None = None,
) -> FloatArray:
    """λ s_j X^(1-k) / a over steps (N, B); 0 below 1e-300, at most 1e300.

    As the square of sd_j times one root per problem, whose exponents are added apart: only the result may be out of
    range. ``size`` is X^(1-k), ``bounds`` the smallest and the largest sd_j where they are known.
    """
    least, largest = (sd.min(axis=0), sd.max(axis=0)) if bounds is None else bounds
    first, rest, root = _risk_factors(lam, size, reference, largest)
    root = rest * root
    # Where the whole batch is far from either end, one product does, to the same bits: `first` is a power of two.
    smallest, most = least * first * root, largest * first * root
    with np.errstate(over="ignore"):
        factor = first * root
    if min(smallest.min(), factor.min()) >= _SMALLEST_ROOT and max(most.max(), factor.max()) <= _LARGEST_ROOT:
        out = np.multiply(sd, factor, out=out)
    else:
        out = np.multiply(sd, first, out=out)
        np.multiply(out, root, out=out)
        np.minimum(out, _LARGEST_ROOT, out=out)
        out[out < _SMALLEST_ROOT] = 0.0
    return np.multiply(out, out, out=out)


def _risk_factors(
    lam: FloatArray, size: FloatArray, reference: FloatArray, largest: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Powers of two that bring the largest sd below 1, in two steps, and √(λ X^(1-k) / a) less these powers."""
    lam_m, lam_e = np.frexp(lam)
    size_m, size_e = np.frexp(size)
    ref_m, ref_e = np.frexp(reference)
    sd_e = np.frexp(largest)[1]
    exponent = lam_e + size_e - ref_e
    odd = exponent & 1
    root = np.sqrt(np.ldexp(lam_m * size_m / ref_m, odd))
    root = np.ldexp(root, _clip((exponent - odd) // 2 + sd_e, -1000, 510))
    most = _clip(-sd_e, -1000, 1000)
    return np.ldexp(1.0, most), np.ldexp(1.0, -sd_e - most), np.minimum(root, 1e152)


def riccati(
    ease: FloatArray,
    risk: FloatArray,
    size: FloatArray,
    slices: FloatArray,
    holdings: FloatArray,
    *,
    dry: bool,
) -> None:
    """Fill slices (N, B) and holdings (N + 1, B) of orders `size` from 1/a_j and λ s_j; `risk` is overwritten.

    ``dry`` says whether some 1/a_j is 0.

    The slices of a share of 1 add up to it but for rounding, which is summed exactly and spread over all in proportion.
    """
    n, count = ease.shape
    later, rest, work = np.zeros(count), np.empty(count), np.empty(count)
    each = list(zip(ease, risk, slices, strict=True))  # a row once looked up is a call saved
    for ease_j, risk_j, share_j in reversed(each):
        np.multiply(risk_j, later, out=work)
        np.add(work, 1.0, out=work)
        np.divide(later, work, out=rest)
        np.add(ease_j, rest, out=later)
        divisor = np.maximum(later, 5e-324) if dry else later
        np.divide(ease_j, divisor, out=share_j)
        np.divide(rest, divisor, out=risk_j)  # 1 - ρ_j: what is kept
    held = np.ones(count)
    for _, kept_j, share_j in each:
        np.multiply(share_j, held, out=share_j)
        np.multiply(held, kept_j, out=held)
    np.multiply(slices, size * (1.0 + left_of_one(slices)), out=slices)
    holdings[n] = 0.0
    for j in range(n - 1, 0, -1):
        np.add(holdings[j + 1], slices[j], out=holdings[j])
    if n > 1 and (holdings[1] > size).any():  # by rounding; later ones are smaller
        np.minimum(holdings[1:n], size, out=holdings[1:n])
    holdings[0] = size
    if dry:
        nothing_yet(slices, holdings)


def left_of_one(shares: FloatArray) -> FloatArray:
    """1 - Σ_j y_j over the first axis, with the rounding errors of its sum.

    They are exact (Dekker) as long as no share is larger than what is left, which holds but for what is beyond 1.
    """
    left, error = np.ones(shares.shape[1]), np.zeros(shares.shape[1])
    work = np.empty_like(left)
    for share in shares:
        np.subtract(left, share, out=work)
        np.subtract(work, left, out=left)
        np.add(left, share, out=left)
        np.subtract(error, left, out=error)
        left, work = work, left
    return np.asarray(left + error)


def turn(source: FloatArray, target: FloatArray) -> None:
    """Copy an array onto another one with its axes the other way round, in pieces that the cache holds."""
    rows = max(source.shape[0], target.shape[0])
    for start in range(0, rows, _TURNED):
        part = slice(start, start + _TURNED)
        if source.shape[0] == rows:
            np.copyto(target[:, part], source[part].T)
        else:
            np.copyto(target[part], source[:, part].T)


def steps_first(array: FloatArray, out: FloatArray) -> FloatArray:
    """A copy of an array (B, N) with its steps first."""
    turn(array, out)
    return out


class Buffers:
    """Memory for the arrays of one chunk after the other.

    Memory that is new to the process costs more to touch than a sweep does: this is touched once, and comes in pages as
    large as the system has.
    """

    def __init__(self, elements: int = 0) -> None:
        self._whole, self._used = _aligned(elements), 0

    def reuse(self) -> None:
        """Give all of it out again: the arrays given out before are of no use any more."""
        self._used = 0

    def array(self, *shape: int) -> FloatArray:
        """Uninitialised doubles; memory of their own once the buffer is full."""
        start, count = self._used, math.prod(shape)
        if start + count > len(self._whole):
            return np.empty(shape)
        self._used += -(-count // 8) * 8
        return self._whole[start : start + count].reshape(shape)


def in_parts(count: int, most: int) -> list[slice]:
    """A batch in parts of about the same size, none longer than `most` or so.

    No part of many is a multiple of 128: then all steps of a problem would fall onto the same few lines of the cache.
    """
    pieces = max(1, -(-count // most))
    rows = -(-count // pieces)
    if rows > 1024 and rows % 128 == 0:
        rows = -(-count // max(2, pieces))
        rows += 8 * (rows % 128 == 0)
    return [slice(start, min(start + rows, count)) for start in range(0, count, max(rows, 1))]


def nothing_yet(slices: FloatArray, holdings: FloatArray) -> None:
    """Hold the whole order, to the last bit, as long as nothing was traded: added up it may be off by rounding."""
    idle = slices[0] == 0
    for held, traded in zip(holdings[1:-1], slices[1:], strict=True):
        if not idle.any():
            return
        np.copyto(held, holdings[0], where=idle)
        idle &= traded == 0


class RiccatiChunk:
    """Buffers for chunks of up to `rows` problems of N steps."""

    def __init__(self, rows: int, n_steps: int) -> None:
        self.n_steps = n_steps
        self._memory = Buffers(6 * (n_steps + 1) * (rows + 8))

    def solve(
        self, problem: Problem, slices: FloatArray, holdings: FloatArray, cost: tuple[FloatArray, ...]
    ) -> BoolArray:
        """Schedules and cost of those problems of a chunk (one leading axis) that this recursion is for: which, (B,).

        Valid, k = 1, no caps, one spread, all a_j > 0, not all a_j and s_j the same (the closed form), some risk. The
        rows of others are left for `solver` to fill.
        """
        n, count = self.n_steps, len(problem.order_size)
        self._memory.reuse()
        held = self._memory.array(n + 1, count)
        impact, sd, risk, ease, traded = (self._memory.array(n, count) for _ in range(5))
        mine: BoolArray = problem.valid_otherwise & (problem.exponent == 1.0) & (n > 1)
        if problem.cap.min() != np.inf:
            mine &= (problem.cap == np.inf).all(axis=1)
        if problem.spread.strides[-1] != 0:
            mine &= (problem.spread == problem.spread[:, :1]).all(axis=1)
        if not mine.any():
            return mine
        turn(problem.impact, impact)
        turn(problem.slice_sd, sd)
        lowest, highest = impact.min(axis=0), impact.max(axis=0)
        calmest, wildest = sd.min(axis=0), sd.max(axis=0)
        mine &= (lowest > 0) & (highest < np.inf) & (calmest >= 0) & (wildest < np.inf)
        mine &= ~((lowest == highest) & (calmest == wildest))
        if not mine.all():
            return self._some(mine, problem, slices, holdings, cost)
        lam, size = problem.risk_aversion, problem.order_size
        scaled_risk(sd, lam, np.ones(count), lowest, (calmest, wildest), out=risk)
        if not risk[0].all():
            mine = np.asarray(risk[: n - 1].max(axis=0) > 0)
            if not mine.all():
                return self._some(mine, problem, slices, holdings, cost)
        np.divide(lowest, impact, out=ease)
        # In units of a power of two, so that squares stay in range; 1 where they do anyway.
        exponent = np.frexp(size)[1] - 1
        exponent[np.abs(exponent) <= _ORDINARY] = 0
        ordinary = not exponent.any()
        unit = np.ldexp(1.0, exponent)
        riccati(ease, risk, np.ldexp(size, -exponent), traded, held, dry=not (lowest / highest).all())
        turn(traded if ordinary else np.multiply(traded, unit, out=ease), slices)
        spread = problem.spread[:, 0]
        found = _cost_of_steps(
            traded, held[1:], held[0], unit, impact, spread, sd, None, problem.gamma, lam, problem.permanent, ease
        )
        turn(held if ordinary else np.multiply(held, unit, out=held), holdings)
        for whole, part in zip(cost, found, strict=True):
            whole[:] = part
        return mine

    def _some(
        self, which: BoolArray, problem: Problem, slices: FloatArray, holdings: FloatArray, cost: tuple[FloatArray, ...]
    ) -> BoolArray:
        """`solve` for some of the problems of a chunk."""
        rows = np.flatnonzero(which)
        if len(rows):
            whole = (slices, holdings, *cost)
            part = [np.empty((len(rows), *array.shape[1:])) for array in whole]
            which[rows] = self.solve(problem.take(rows), part[0], part[1], tuple(part[2:]))
            for array, found in zip(whole, part, strict=True):
                array[rows] = found
        return which
