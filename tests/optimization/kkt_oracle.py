"""What the tests hold the solvers against: the optimality conditions, solved in 50 digits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mpmath import mp, mpf

from tributary_opt.optimization.problem import Problem

mp.dps = 50

CASES: dict[str, Any] = json.loads((Path(__file__).parent / "strategy_cases.json").read_text())
PUBLISHED: dict[str, dict[str, Any]] = {case["name"]: case for case in CASES["published"]}


@dataclass(frozen=True)
class Exact:
    """The optimum of one problem, correct to about 40 digits."""

    slices: list[Any]
    objective: Any  # Σ ε n + a n^(1+k) - (γ/2 n² where it is not absorbed) + λ Σ s x²


def objective(problem: Problem, slices: Any) -> Any:
    """What the schedule decides about, in 50 digits, of one problem and the slices as they are."""
    k, lam, bend = mpf(float(problem.exponent)), mpf(float(problem.risk_aversion)), _bend(problem)
    n = [mpf(v) for v in slices]
    held, total = mpf(0), mpf(0)
    for j in range(len(n) - 1, -1, -1):
        a, e, sd = (mpf(float(f[j])) for f in (problem.impact, problem.spread, problem.slice_sd))
        total += e * n[j] + a * n[j] ** (1 + k) - bend / 2 * n[j] ** 2 + lam * sd**2 * held**2
        held += n[j]
    return total


def _bend(problem: Problem) -> Any:
    return mpf(float(problem.gamma)) if problem.permanent == "paper" and problem.exponent < 1 else mpf(0)


def solve_exactly(problem: Problem) -> Exact:
    """Bisection with Illinois steps on the last costate p_N, which decides the whole path backward; p_N above min ε."""
    k, size, lam = float(problem.exponent), mpf(float(problem.order_size)), mpf(float(problem.risk_aversion))
    a = [mpf(float(v)) for v in problem.impact]
    eps = [mpf(float(v)) for v in problem.spread]
    s = [mpf(float(v)) ** 2 for v in problem.slice_sd]
    cap = [mp.inf if np.isinf(v) else mpf(float(v)) for v in problem.cap]
    bend, k_ = _bend(problem), mpf(k)
    least = min(e for e, c in zip(eps, cap, strict=True) if c > 0)

    def respond(j: int, q: Any) -> Any:
        if q <= 0 or cap[j] == 0:
            return mpf(0)
        base = q / ((1 + k_) * a[j])
        n = base if k == 1.0 else base ** (1 / k_)
        if bend:
            turn = (k_ * (k_ + 1) * a[j] / bend) ** (1 / (1 - k_))
            if q >= (1 + k_) * a[j] * turn**k_ - bend * turn:
                return min(turn, cap[j])
            for _ in range(200):
                step = (q - (1 + k_) * a[j] * n**k_ + bend * n) / (k_ * (1 + k_) * a[j] * n ** (k_ - 1) - bend)
                n += step
                if abs(step) <= n * mpf(10) ** -48:
                    break
        return min(n, cap[j])

    def path(theta: Any) -> list[Any]:
        p, held, slices = least + mp.exp(theta), mpf(0), []
        for j in range(len(a) - 1, -1, -1):
            n = respond(j, p - eps[j])
            slices.append(n)
            held += n
            if held > 1000 * size:  # far beyond: only the sign matters
                return [held]
            if j:
                p += 2 * lam * s[j - 1] * held
        return slices[::-1]

    def miss(theta: Any) -> Any:
        total = sum(path(theta))
        return mp.log(total / size) if total > 0 else mpf(-1000)

    if sum(min(c, size) for c in cap) <= size * (1 + mpf(10) ** -14):
        slices = [min(c, size) for c in cap]
        return Exact(slices, objective(problem, slices))
    high = mp.log(max((1 + k_) * a_ * size**k_ + e for a_, e in zip(a, eps, strict=True)))
    while miss(high) < 0:
        high += 5
    low = high - 1
    while miss(low) > 0:
        low, high = low - 2 * (high - low), low
    f_low, f_high, side = miss(low), miss(high), 0
    for i in range(400):
        middle = (low + high) / 2 if i % 3 == 2 else (low * f_high - high * f_low) / (f_high - f_low)
        value = miss(middle)
        if value > 0:
            high, f_high, f_low, side = middle, value, f_low / 2 if side == 1 else f_low, 1
        else:
            low, f_low, f_high, side = middle, value, f_high / 2 if side == -1 else f_high, -1
        if high - low < mpf(10) ** -45 * max(1, abs(high)) or abs(value) < mpf(10) ** -44:
            break
    slices = path(middle)
    return Exact(slices, objective(problem, slices))


def optimality_gap(problem: Problem, slices: Any) -> float:
    """A proof of how near a schedule is to the optimum, relative to its objective, that solves nothing.

    The objective f is convex, so f(n) - f(y) <= g·(n - y) for every schedule y, with g its gradient at n. The largest
    right side over all y within the caps that trade as much fills the slices of least g first. In 50 digits.
    """
    bend = _bend(problem)
    k, lam = mpf(float(problem.exponent)), mpf(float(problem.risk_aversion))
    n = [mpf(float(v)) for v in slices]
    s = [mpf(float(v)) ** 2 for v in problem.slice_sd]
    held = [mpf(0)] * len(n)
    for j in range(len(n) - 2, -1, -1):
        held[j] = held[j + 1] + n[j + 1]
    gradient, value, pushed = [], mpf(0), mpf(0)
    for j, traded in enumerate(n):
        a, e = mpf(float(problem.impact[j])), mpf(float(problem.spread[j]))
        gradient.append(e + (1 + k) * a * traded**k - bend * traded + pushed)
        value += e * traded + a * traded ** (1 + k) - bend / 2 * traded**2 + lam * s[j] * held[j] ** 2
        pushed += 2 * lam * s[j] * held[j]
    rest, least = sum(n), mpf(0)
    for j in sorted(range(len(n)), key=lambda j: gradient[j]):
        room = rest if np.isinf(problem.cap[j]) else min(mpf(float(problem.cap[j])), rest)
        least += gradient[j] * room
        rest -= room
    return float((sum(g * t for g, t in zip(gradient, n, strict=True)) - least) / value)


def random_problems(
    rng: np.random.Generator,
    count: int,
    n_steps: int,
    *,
    power: bool,
    capped: bool,
    varying: bool,
    spreads: bool = False,
    paper: bool = False,
    riskless: bool = False,
) -> Problem:
    """Problems over many magnitudes; where `capped`, half of them have caps that bind."""
    shape = (count, n_steps)
    k = rng.uniform(0.3, 1.0, count) if power else np.ones(count)
    size = 10.0 ** rng.uniform(-2, 8, count)
    unit = 10.0 ** rng.uniform(-8, 2, count)  # marginal cost of the whole order in one slice
    ease = rng.gamma(2.0, 0.5, shape) + 0.02 if varying else np.ones(shape)
    impact = unit[:, None] / size[:, None] ** k[:, None] / ease ** k[:, None]
    urgency = 10.0 ** rng.uniform(-3, 4, count)
    sd = 10.0 ** rng.uniform(-4, 0, (count, 1)) * (np.sqrt(rng.gamma(3.0, 1 / 3, shape)) if varying else np.ones(shape))
    lam = (0.0 if riskless else 1.0) * urgency * unit / (size * np.square(sd).mean(axis=1)) / n_steps
    cap = np.full(shape, np.inf)
    if capped:
        room = ease * rng.uniform(0.3, 1.0, shape)
        cap = (
            size[:, None]
            * room
            / room.sum(axis=1, keepdims=True)
            * rng.uniform(1.02, 2.1 if riskless else 4.6, (count, 1))
        )
        cap[rng.random(count) < 0.1] = np.inf
    spread = unit[:, None] * rng.uniform(0, 0.4, shape if spreads else (count, 1))
    gamma = np.zeros(count)
    if paper:  # up to half of what keeps the largest slice convex
        room = np.minimum(cap, size[:, None])
        gamma = (k * (k + 1) * (impact * room ** (k[:, None] - 1)).min(axis=1)) * rng.uniform(0.0, 0.9, count)
    permanent = "paper" if paper else "midprice"
    return Problem.of(
        size, impact, sd, lam, exponent=k, spread=spread, cap=cap, gamma=gamma, permanent=permanent, tau=1.0
    )
