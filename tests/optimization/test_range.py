"""Properties of `solve` over the whole range of its arguments: sound, optimal, the same alone and in any batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kkt_oracle import optimality_gap
from numpy.typing import NDArray

from tributary_opt import AlmgrenChrissParams, generate_pov_trajectory, generate_vwap_trajectory
from tributary_opt.optimization import SolveStatus
from tributary_opt.optimization.arguments import FloatArray
from tributary_opt.optimization.night import solve_grid
from tributary_opt.optimization.problem import ImpactLaw, Problem
from tributary_opt.optimization.scheduler import schedule_order
from tributary_opt.optimization.solver import Method, Solution, kkt_residual, solve
from tributary_opt.optimization.strategies import (
    generate_ac_volume_time_trajectory,
    generate_vwap_tracking_trajectory,
)


def any_problems(
    rng: np.random.Generator,
    count: int,
    n: int,
    *,
    risk: tuple[float, float] = (-300, 300),
    spread: tuple[float, float] = (-6, 3),
    paper: bool = False,
) -> tuple[Problem, FloatArray]:
    """Problems with log10 of the dimensionless risk m and of the spread in units of a X^k drawn from these ranges.

    Every feature is there or not: power law, caps, spreads that vary, volume and risk that vary, slices without volume,
    without risk, σ = 0, ε = 0, λ = 0. With `paper` a trade does not pay for its own permanent impact, which is up to
    0.9 of where the power law's cost would no longer be convex. Returns the problems and m.
    """

    def some(share: float, per_slice: bool = False) -> NDArray[np.bool_]:
        return rng.random((count, n) if per_slice else (count, 1)) < share

    k = np.where(some(0.4)[:, 0], 1.0, rng.uniform(0.3, 1.0, count))
    size, unit, lam = (10.0 ** rng.uniform(-a, a, count) for a in (20, 10, 100))
    m = np.where(some(0.05)[:, 0], 0.0, 10.0 ** rng.uniform(*risk, count))
    sd = 10.0 ** (0.5 * (np.log10(np.where(m > 0, m, 1.0)) + np.log10(unit / size) - np.log10(lam)))
    ease = np.where(some(0.7), rng.gamma(2.0, 0.5, (count, n)) + 0.02, 1.0)
    impact = unit[:, None] / size[:, None] ** k[:, None] / ease ** k[:, None]
    slice_sd = sd[:, None] * np.where(some(0.7), np.sqrt(rng.gamma(3.0, 1 / 3, (count, n))) + 1e-3, 1.0)
    slice_sd = np.where(some(0.2) & some(0.2, True), 0.0, slice_sd) * ~some(0.03)
    room = ease * rng.uniform(0.2, 1.0, (count, n))
    cap = size[:, None] * room / room.sum(axis=1, keepdims=True) * 10.0 ** rng.uniform(0.01, 1.5, (count, 1))
    cap = np.where(some(0.5), np.inf, cap)
    dry = some(0.2) & some(0.3, True) & np.isinf(cap)
    dry[:, rng.integers(n)] = False
    cap = np.where(dry, 0.0, cap)
    level = rng.choice([0.0, 0.1, 0.2, 0.5, 1.0], (count, n)) * rng.choice([1.0, rng.uniform()], (count, n))
    dearness = unit[:, None] * 10.0 ** rng.uniform(*spread, (count, 1)) * np.where(some(0.5), level, 0.3)
    lam = np.where(m > 0, lam, 0.0)
    gamma = np.zeros(count)
    if paper:
        most = np.where(cap > 0, np.minimum(cap, size[:, None]), np.nan)
        limit = k * (k + 1) * np.nanmin(impact * most ** (k[:, None] - 1), axis=1)
        gamma = limit * rng.uniform(0.0, 0.9, count) * ~some(0.1)[:, 0]
    return Problem.of(size, impact, slice_sd, lam, exponent=k, spread=dearness * ~some(0.2), cap=cap, gamma=gamma,
                      permanent="paper" if paper else "midprice"), m  # fmt: skip


def assert_sound(problems: Problem, solution: Solution) -> None:
    assert (solution.status == SolveStatus.OK).all()
    np.testing.assert_array_equal(solution.holdings[:, 0], problems.order_size)
    assert (solution.holdings[:, -1] == 0).all()
    assert (np.diff(solution.holdings) <= 0).all()
    assert ((solution.slices >= 0) & (solution.slices <= problems.cap)).all()
    for row, size in zip(solution.slices, problems.order_size, strict=True):
        assert abs(math.fsum(row) - size) <= 4 * np.finfo(float).eps * size


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.one_of(st.integers(1, 40), st.sampled_from([1, 2, 100])),
    centre=st.floats(-300, 300),
    paper=st.booleans(),
)
def test_any_problem_is_solved_soundly_and_to_the_optimum(seed: int, n: int, centre: float, paper: bool) -> None:
    """m from 1e-300 to 1e300. The gap is a bound on the distance to the optimum that no solver had a hand in.

    Above 1e240 holdings may be cut at 1e-290 of the order, which a gradient does not see: there, the schedule must be
    that of no patience at all, every slice full from the first on.
    """
    rng = np.random.default_rng(seed)
    problems, m = any_problems(rng, 6, n, risk=(max(-300, centre - 20), min(300, centre + 20)), paper=paper)
    solution = solve(problems)
    assert_sound(problems, solution)
    seen = m < 1e240
    assert (kkt_residual(problems, solution.slices)[seen] <= 1e-10).all()
    for i in range(6):
        one = problems.take(i)
        if seen[i]:
            assert optimality_gap(one, solution.slices[i]) <= 1e-12
        elif (one.slice_sd > 0).all():
            rest, greedy = float(one.order_size), []
            for cap in one.cap:
                greedy.append(min(float(cap), rest))
                rest -= greedy[-1]
            np.testing.assert_allclose(solution.slices[i], greedy, rtol=1e-12, atol=1e-12 * one.order_size)
    alone = solve(problems.take(0))
    np.testing.assert_array_equal(alone.slices, solution.slices[0])
    np.testing.assert_array_equal(alone.holdings, solution.holdings[0])


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize(("n", "count"), [(2_000, 16)])
def test_longest_schedules_of_shooting_are_optimal_too(n: int, count: int, paper: bool) -> None:
    problems, _ = any_problems(np.random.default_rng(n), count, n, risk=(-300, 240), paper=paper)
    solution = solve(problems)
    assert {Method.SHOOTING, Method.WATER_FILLING} & set(solution.method.tolist())
    assert_sound(problems, solution)
    assert (kkt_residual(problems, solution.slices) <= 1e-10).all()
    for i in range(0, count, 3):
        assert optimality_gap(problems.take(i), solution.slices[i]) <= 1e-12


@pytest.mark.parametrize("varying", [False, True], ids=["closed form", "riccati"])
def test_ten_thousand_steps_are_optimal_too(varying: bool) -> None:
    rng = np.random.default_rng(10)
    n, m = 10_000, 10.0 ** np.array([-300, -60, -12, -8, -4, 0, 3, 60, 240])
    ease = rng.gamma(2.0, 0.5, (len(m), n)) + 0.02 if varying else np.ones((len(m), n))
    sd = np.sqrt(m)[:, None] * (np.sqrt(rng.gamma(3.0, 1 / 3, (len(m), n))) + 1e-3 if varying else np.ones((1, n)))
    problems = Problem.of(1e4, 1.0 / ease, sd, 1.0, permanent="midprice")
    solution = solve(problems)
    assert (solution.method == (Method.RICCATI if varying else Method.CLOSED_FORM)).all()
    assert_sound(problems, solution)
    assert (kkt_residual(problems, solution.slices) <= 1e-10).all()
    for i in range(len(m)):
        assert optimality_gap(problems.take(i), solution.slices[i]) <= 1e-12


@pytest.mark.parametrize("n", [2, 3, 8, 24])
def test_spreads_that_vary_at_any_risk_are_solved_to_the_optimum(n: int) -> None:
    """Where a costate comes to within rounding of a spread, no double p_N decides how much is traded there.

    Others (and this solver once) then return something feasible; a spread of a thousand times the impact and a risk of
    1e200 are solved to the same 1e-12 as any other.
    """
    rng = np.random.default_rng(n)
    problems, _ = any_problems(rng, 200, n, risk=(2, 240), spread=(-6, 6))
    solution = solve(problems)
    assert_sound(problems, solution)
    assert (kkt_residual(problems, solution.slices) <= 1e-10).all()
    for i in range(200):
        assert optimality_gap(problems.take(i), solution.slices[i]) <= 1e-12


def test_ten_thousand_markets_have_the_same_bits_in_any_order_and_any_split() -> None:
    rng = np.random.default_rng(8)
    count = 10_000
    problems, _ = any_problems(rng, count, 12, risk=(-6, 6))
    whole = solve(problems)
    order = rng.permutation(count)
    shuffled = solve(problems.take(order))
    np.testing.assert_array_equal(shuffled.slices, whole.slices[order])
    np.testing.assert_array_equal(shuffled.holdings, whole.holdings[order])
    for cuts in (np.array([1, 17, 4_096, 9_999]), np.sort(rng.choice(count, 40, replace=False))):
        pieces = [solve(problems.take(slice(a, b))) for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
        np.testing.assert_array_equal(np.concatenate([p.slices for p in pieces]), whole.slices)
        np.testing.assert_array_equal(np.concatenate([p.holdings for p in pieces]), whole.holdings)
        for part in ("expected_cost", "cost_variance"):
            found = np.concatenate([getattr(p.cost, part) for p in pieces])
            np.testing.assert_array_max_ulp(found, getattr(whole.cost, part), maxulp=4)
    for i in rng.choice(count, 40, replace=False):
        np.testing.assert_array_equal(solve(problems.take(i)).slices, whole.slices[i])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.sampled_from(["linear", "power"]), st.floats(-9, 1))
def test_slices_without_volume_leave_what_is_held_alone(seed: int, n: int, law: ImpactLaw, log_lam: float) -> None:
    """Not a bit of a trade there, in any strategy, nor in what is held before the first one."""
    rng = np.random.default_rng(seed)
    volume = 1e5 * rng.gamma(1.0, 1.0, n) * (rng.random(n) < 0.5)
    volume[rng.integers(n)] = 1e5
    none, size, lam = volume == 0, 10.0 ** rng.uniform(-2, 6), 10.0**log_lam
    market = AlmgrenChrissParams(2.5e-6, 2.5e-7, 0.95, 0.5, 1.0, epsilon=0.0625, price=50.0, reference_rate=5e4)
    found = [
        generate_vwap_trajectory(size, volume, market),
        generate_pov_trajectory(size, volume, 0.1, market),
        generate_ac_volume_time_trajectory(size, volume, market, lam, impact_law=law),
        generate_vwap_tracking_trajectory(size, volume, market, lam, 3.0 * lam),
        schedule_order(size, n, market, lam, volume_profile=volume, impact_law=law),
        schedule_order(size, n, market, lam, volume_profile=volume, impact_law=law, lot_size=size / 57.5),
        schedule_order(size, n, market, lam, volume_profile=volume, impact_law=law, min_slice=size / 100),
    ]
    for t in found:
        assert (t.trade_sizes[none] == 0).all()
        assert (np.diff(t.holdings)[none] == 0).all()
    grid = solve_grid(2.5e-6, 2.5e-8, 0.95, 0.06, [size, 2 * size], horizon=1.0, n_steps=n, impact_law=law, alpha=0.6,
                      reference_rate=5e4, volume_profile=volume, urgency=[0.0, 0.5, 3.0, 10.0, 100.0])  # fmt: skip
    assert (np.diff(grid.holdings, axis=-1)[..., none] == 0).all()
