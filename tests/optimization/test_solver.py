"""The solvers against 50 digits, against solvers that know nothing of the model, and over the whole range."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from exact_objectives import KINDS, least_objectives, problems_of
from kkt_oracle import CASES, PUBLISHED, objective, optimality_gap, random_problems, solve_exactly
from scipy.optimize import minimize

from tributary_opt.optimization import SolveStatus
from tributary_opt.optimization.problem import Problem, convexity_limit, market_problem, schedule_cost
from tributary_opt.optimization.risk import risk_figures
from tributary_opt.optimization.solver import Method, Solution, kkt_residual, replan, solve


def caps_bind_in_about_half(problems: Problem, solution: Solution) -> bool:
    return bool(0.4 <= (solution.slices >= problems.cap).any(axis=1).mean() <= 0.6)


@pytest.mark.parametrize("kind", KINDS)
def test_objective_is_that_of_fifty_digits(kind: str) -> None:
    problems = problems_of(kind)
    solution = solve(problems)
    assert (solution.status == SolveStatus.OK).all()
    if KINDS[kind]["capped"]:
        assert caps_bind_in_about_half(problems, solution)
    exact = least_objectives(kind, problems)
    assert len(exact) == len(solution.slices) == 200
    for i in range(200):
        one = problems.take(i)
        if i % 20 == 7:
            assert abs(solve_exactly(one).objective / exact[i] - 1) < 1e-28
        assert abs(objective(one, solution.slices[i]) / exact[i] - 1) < 1e-12
    assert (kkt_residual(problems, solution.slices) <= 1e-10).all()


def test_power_law_with_unpaid_permanent_impact_is_that_of_fifty_digits() -> None:
    problems = random_problems(np.random.default_rng(12), 200, 4, power=True, capped=True, varying=True, paper=True)
    solution = solve(problems)
    assert (solution.status == SolveStatus.OK).all()
    assert caps_bind_in_about_half(problems, solution)
    assert (kkt_residual(problems, solution.slices) <= 1e-10).all()
    for i in range(200):
        assert optimality_gap(problems.take(i), solution.slices[i]) <= 1e-12
    for i in range(0, 200, 10):
        one = problems.take(i)
        assert abs(objective(one, solution.slices[i]) / solve_exactly(one).objective - 1) < 1e-12


def test_close_to_the_convexity_limit_nothing_is_lost() -> None:
    """There a unit of rounding in the price of a slice is its root in the slice: the price cannot be what is sought."""
    rng, n = np.random.default_rng(5), 5
    k = rng.uniform(0.3, 0.95, 400)
    impact = np.exp(0.3 * rng.normal(size=(400, n)) * (rng.random((400, 1)) < 0.5))
    limit = k * (k + 1) * impact.min(axis=1)
    away, lam = 10.0 ** rng.uniform(-14, -2, 400), 10.0 ** rng.uniform(-1, 16, 400)
    problems = Problem.of(1.0, impact, 1.0, lam, exponent=k, gamma=limit * (1 - away), permanent="paper")
    solution = solve(problems)
    assert (solution.status == SolveStatus.OK).all()
    assert (kkt_residual(problems, solution.slices) <= 1e-12).all()
    for i in range(0, 400, 8):
        one = problems.take(i)
        assert abs(objective(one, solution.slices[i]) / solve_exactly(one).objective - 1) < 1e-12
    one = Problem.of(1.0, [1.0, 1.0], 1.0, 1e8, exponent=0.5, gamma=0.75 * (1 - 1e-8), permanent="paper")
    np.testing.assert_allclose(solve(one).slices, [float(v) for v in solve_exactly(one).slices], rtol=1e-12)


@pytest.mark.parametrize("other", ["no permanent impact", "the linear law"])
def test_unpaid_permanent_impact_of_some_is_nothing_to_the_others(other: str) -> None:
    """Half of the problems have a bend in their costs: the bits of the others are those they have by themselves."""
    problems = random_problems(np.random.default_rng(14), 400, 9, power=True, capped=True, varying=True, paper=True)
    straight = np.arange(400) % 2 == 0
    gamma = np.where(straight & (other == "no permanent impact"), 0.0, problems.gamma)
    gamma[straight & (other == "the linear law")] *= 1e-9  # a_j has γ/2 taken off already
    k = np.where(straight & (other == "the linear law"), 1.0, problems.exponent)
    mixed = replace(problems, gamma=gamma, exponent=k)
    together, apart = solve(mixed), solve(mixed.take(straight))
    np.testing.assert_array_equal(together.slices[straight], apart.slices)
    np.testing.assert_array_equal(together.sweeps[straight], apart.sweeps)


def _projected(slices: np.ndarray[Any, Any], size: float, cap: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The nearest point within the caps that adds up, so that an independent answer can be compared at all."""
    low, high = -size, size
    for _ in range(200):
        shift = 0.5 * (low + high)
        total = np.clip(slices + shift, 0.0, cap).sum()
        low, high = (shift, high) if total < size else (low, shift)
    n = np.clip(slices + high, 0.0, cap)
    free = (n > 0) & (n < cap)
    n[free.argmax()] += size - math.fsum(n)
    return n


def _objective(problem: Problem, slices: np.ndarray[Any, Any]) -> float:
    """What the schedule decides about: γX²/2 is paid by every schedule."""
    return float(schedule_cost(problem, slices).objective - 0.5 * problem.gamma * problem.order_size**2)


LINEAR = ("closed form", "riccati", "linear, capped", "linear, spreads")


@pytest.mark.parametrize("kind", LINEAR)
def test_never_above_an_interior_point_or_splitting_solver(kind: str) -> None:
    """k = 1: the same quadratic programme in the slices by OSQP and Clarabel, which share nothing with ours."""
    import clarabel
    import osqp

    n, count, compared = 6, 240, 0
    problems = random_problems(np.random.default_rng(3), count, n, **KINDS[kind])
    ours = solve(problems)
    held = np.tril(np.ones((n, n)), -1).T  # x_j = what the later slices trade
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    cone = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(2 * n)]
    stacked = sp.csc_matrix(np.vstack([np.ones(n), np.eye(n), -np.eye(n)]))
    rows = sp.csc_matrix(np.vstack([np.ones(n), np.eye(n)]))
    for i in range(count):
        one = problems.take(i)
        size, unit = float(one.order_size), float(one.impact.min() * one.order_size)
        risk = float(one.risk_aversion) * np.square(one.slice_sd) * size / unit
        hessian = 2.0 * (np.diag(one.impact * size / unit) + held.T @ np.diag(risk) @ held)
        gradient, cap = one.spread / unit, np.minimum(one.cap / size, 1.0)
        upper_half = sp.csc_matrix(np.triu(hessian))
        best, found = _objective(one, ours.slices[i]), []
        if np.linalg.cond(hessian) < 1e8:  # beyond, it never comes near
            first = osqp.OSQP()
            first.setup(upper_half, gradient, rows, np.r_[1.0, np.zeros(n)], np.r_[1.0, cap],
                        eps_abs=1e-8, eps_rel=1e-8, max_iter=5_000, verbose=False)  # fmt: skip
            found.append(first.solve(raise_error=False).x)
        right = np.r_[1.0, cap, np.zeros(n)]
        found.append(clarabel.DefaultSolver(upper_half, gradient, stacked, right, cone, settings).solve().x)
        for other in (np.asarray(x, dtype=float) for x in found if x is not None):
            if np.isfinite(other).all():
                theirs = _projected(other * size, size, np.minimum(one.cap, size))
                assert best <= _objective(one, theirs) * (1 + 1e-12)
                compared += 1
    assert compared >= 200


UNPAID: dict[str, bool] = {"power": True, "capped": True, "varying": True, "paper": True}


@pytest.mark.parametrize("kind", [*(kind for kind in KINDS if kind not in LINEAR), "permanent impact unpaid"])
def test_never_above_slsqp_for_the_power_law(kind: str) -> None:
    n, count = 5, 200
    problems = random_problems(np.random.default_rng(4), count, n, **KINDS.get(kind, UNPAID))
    ours = solve(problems)
    for i in range(count):
        one = problems.take(i)
        size, k = float(one.order_size), float(one.exponent)
        best = _objective(one, ours.slices[i])
        cap = np.minimum(one.cap / size, 1.0)
        a, spread = one.impact * size ** (1 + k) / best, one.spread * size / best
        risk = float(one.risk_aversion) * np.square(one.slice_sd) * size**2 / best
        bend = float(one.gamma) * size**2 / best if one.permanent == "paper" and k < 1 else 0.0

        def cost(
            part: np.ndarray[Any, Any],
            a: Any = a,
            k: float = k,
            spread: Any = spread,
            risk: Any = risk,
            bend: float = bend,
        ) -> tuple[float, np.ndarray[Any, Any]]:
            part = np.maximum(part, 0.0)
            held = np.append(np.cumsum(part[:0:-1])[::-1], 0.0)
            later = np.append(0.0, np.cumsum(2 * risk * held)[:-1])
            value = (spread * part + a * part ** (1 + k) - bend / 2 * part**2 + risk * held**2).sum()
            return float(value), spread + (1 + k) * a * part**k - bend * part + later

        with np.errstate(all="ignore"):
            found = minimize(
                cost, cap / cap.sum(), jac=True, method="SLSQP", bounds=[(0, c) for c in cap],
                constraints={"type": "eq", "fun": lambda part: part.sum() - 1.0, "jac": np.ones_like},
                options={"maxiter": 60, "ftol": 1e-12},
            )  # fmt: skip
        theirs = _projected(np.clip(found.x, 0, None) * size, size, np.minimum(one.cap, size))
        assert best <= _objective(one, theirs) * (1 + 1e-12)


@pytest.mark.parametrize("case", CASES["power"], ids=lambda c: c["id"])
def test_power_law_cases(case: dict[str, Any]) -> None:
    g = {key: float(case[key]) for key in ("X", "T", "sigma", "eta", "gamma", "eps", "lam", "beta")}
    problem = market_problem(
        g["X"],
        g["lam"],
        eta=g["eta"],
        gamma=g["gamma"],
        sigma=g["sigma"],
        epsilon=g["eps"],
        horizon=g["T"],
        n_steps=case["N"],
        impact_law="power",
        alpha=g["beta"],
        reference_rate=1.0,
        permanent="paper",
    )
    solution = solve(problem)
    cost = schedule_cost(problem, solution.slices, solution.holdings)
    expect = case["expect"]
    np.testing.assert_allclose(solution.holdings, [float(x) for x in expect["x"]], rtol=1e-12)
    assert float(cost.expected_cost) == pytest.approx(float(expect["E"]), rel=1e-12)
    assert float(cost.cost_variance) == pytest.approx(float(expect["V"]), rel=1e-12)
    if expect["slice_limit"] != "inf":
        assert convexity_limit(problem) == pytest.approx(float(expect["slice_limit"]), rel=1e-12)


@pytest.mark.parametrize("case", CASES["profile"], ids=lambda c: c["id"])
def test_volume_profile_cases(case: dict[str, Any]) -> None:
    weights = np.array([float(w) for w in case["weights"]])
    problem = market_problem(
        1000.0,
        float(case["lam"]),
        eta=1.0,
        gamma=0.0,
        sigma=1.0,
        epsilon=0.0,
        horizon=1.0,
        n_steps=4,
        volume_profile=weights,
    )
    solution = solve(problem)
    cost = schedule_cost(problem, solution.slices, solution.holdings)
    np.testing.assert_allclose(solution.slices, [float(n) for n in case["expect"]["n"]], rtol=1e-12)
    assert float(cost.expected_cost) == pytest.approx(float(case["expect"]["E"]), rel=1e-12)
    assert float(cost.cost_variance) == pytest.approx(float(case["expect"]["V"]), rel=1e-12)


def test_riccati_and_capped_cases_of_the_literature() -> None:
    case = PUBLISHED["timevarying_riccati"]
    given = case["inputs"]
    problem = Problem.of(given["X"], given["a"], np.sqrt(given["s"]), given["lam"])
    solution = solve(problem)
    assert solution.method == Method.RICCATI
    np.testing.assert_allclose(solution.slices, case["expected"]["trades"], rtol=1e-10)
    given = PUBLISHED["capped_ac_300k"]["inputs"]
    capped = market_problem(
        given["X"],
        given["lam"],
        eta=given["eta"],
        gamma=given["gamma"],
        sigma=given["sigma"],
        epsilon=0.0,
        horizon=given["T"],
        n_steps=given["N"],
        cap=given["cap"],
    )
    found = solve(capped).slices
    np.testing.assert_allclose(found, PUBLISHED["capped_ac_300k"]["expected"]["trades"], rtol=1e-9)
    np.testing.assert_allclose(found, [300000, 300000, 233172.1, 106383.0, 60444.9], atol=0.051)


#: T* [day] / E [k$] / standard deviation [k$] as printed, by 1/λ [k$] (rows) and k (columns).
_ALMGREN_2003 = {
    1: ((0.02, 221, 11), (0.07, 354, 19), (0.22, 462, 30)),
    10: ((0.09, 103, 23), (0.22, 112, 33), (0.46, 99, 45)),
    100: ((0.40, 48, 49), (0.71, 35, 59), (1.00, 21, 65)),
    1000: ((1.84, 22, 105), (2.24, 11, 106), (2.15, 5, 96)),
    10000: ((8.55, 10, 226), (7.07, 4, 188), (4.64, 1, 141)),
}


def without_deadline(size: float, eta: float, k: float, lam: float, horizon: float, n: int) -> tuple[float, float]:
    """E and √V of the solver's schedule over a horizon as good as none, in slices fine where the order is large.

    Both err by what a slice is long: of 2n slices by half as much as of n, and that is taken off.
    """
    found = []
    for steps in (n, 2 * n):
        tau = np.diff(horizon * np.linspace(0, 1, steps + 1) ** 2)
        problem = Problem.of(size, eta / tau**k, np.sqrt(tau), lam, tau=tau, exponent=k, permanent="midprice")
        cost = solve(problem).cost
        found.append((float(cost.expected_cost), math.sqrt(float(cost.cost_variance))))
    (e, sd), (e_finer, sd_finer) = found
    return 2 * e_finer - e, 2 * sd_finer - sd


@pytest.mark.parametrize("scale", _ALMGREN_2003)
@pytest.mark.parametrize("column", range(3))
def test_almgren_2003_table(scale: int, column: int) -> None:
    """All 45 printed numbers: for k <= 1 from the package's time scale and schedules, for k = 2 from the formulas."""
    k, lam, size = (0.5, 1.0, 2.0)[column], 1e-3 / scale, 1e5
    eta = 0.5 / 1e5**k  # trading 10 % of ADV a day moves the price by 0.50
    if k > 1:
        with pytest.raises(ValueError, match=r"more than 1 is not solved"):
            Problem.of(size, eta, 1.0, lam, exponent=k)
        time = (k * eta * size ** (k - 1) / lam) ** (1 / (k + 1))
        share = (k + 1) / (3 * k + 1)
        cost, sd = share * eta * size * (size / time) ** k, math.sqrt(share * size**2 * time)
    else:
        market = {"eta": eta, "gamma": 0.0, "sigma": 1.0, "epsilon": 0.0, "tau": 1e-4, "n_steps": 3}
        law = {"impact_law": "power", "alpha": k, "reference_rate": 1.0, "permanent": "midprice"}
        time = risk_figures(market_problem(size, lam, **market, **law)).decay_time  # type: ignore[arg-type]
        cost, sd = without_deadline(size, eta, k, lam, time * (12 if k == 1 else 120), 750)
    printed = _ALMGREN_2003[scale][column]
    assert abs(time - printed[0]) <= 0.0051
    assert abs(cost / 1e3 - printed[1]) <= 0.51
    assert abs(sd / 1e3 - printed[2]) <= 0.51


def test_cost_and_risk_without_a_deadline_are_those_of_the_closed_form() -> None:
    """E + λV of Almgren 2003 for T = ∞ in one formula, which no schedule enters."""
    case = PUBLISHED["block_cost_k0.6"]
    given = case["inputs"]
    k, lam = given["k"], given["lam"]
    time = (k * given["eta"] * given["X"] ** (k - 1) / lam) ** (1 / (k + 1))
    e, sd = without_deadline(given["X"], given["eta"], k, lam, 200 * time, 900)
    assert e + lam * sd**2 == pytest.approx(case["expected"]["U"], rel=2e-4)


def test_exponent_one_is_the_linear_law() -> None:
    given: dict[str, Any] = {"eta": 2.5e-6, "gamma": 2.5e-7, "sigma": 0.95, "epsilon": 0.0625, "horizon": 5.0}
    for permanent in ("paper", "midprice"):
        linear = market_problem(1e6, 2e-6, n_steps=5, permanent=permanent, **given)
        power = market_problem(1e6, 2e-6, n_steps=5, permanent=permanent, impact_law="power", alpha=1.0, **given)
        a, b = solve(linear), solve(power)
        np.testing.assert_array_equal(a.slices, b.slices)
        assert schedule_cost(linear, a.slices).expected_cost == schedule_cost(power, b.slices).expected_cost


def test_beyond_convexity_and_without_room_are_statuses() -> None:
    law: dict[str, Any] = {"eta": 1.0, "sigma": 1.0, "epsilon": 0.05, "horizon": 1.0, "n_steps": 10}
    law |= {"impact_law": "power", "alpha": 0.5, "reference_rate": 1.0, "permanent": "paper"}
    assert solve(market_problem(1000.0, 0.01, gamma=0.01, **law)).status == SolveStatus.OK
    far = solve(market_problem(60_000.0, 0.01, gamma=0.01, **law))
    assert far.status == SolveStatus.BEYOND_CONVEXITY
    assert np.isnan(far.slices).all()
    assert solve(market_problem(60_000.0, 0.01, gamma=0.01, cap=50_000.0, **law)).status == SolveStatus.OK
    assert solve(market_problem(60_000.0, 0.01, gamma=0.01, cap=5_000.0, **law)).status == SolveStatus.INFEASIBLE


@pytest.mark.parametrize(("kind", "most"), [("power law", 5), ("power law, capped", 6), ("linear, capped", 7)])
def test_search_begins_near_its_end(kind: str, most: float) -> None:
    """Sweeps are what a schedule costs; 8 is the most that they may be on average."""
    problems = random_problems(np.random.default_rng(11), 500, 48, **KINDS[kind])
    sweeps = solve(problems).sweeps
    assert sweeps[sweeps > 0].mean() <= most


@pytest.mark.parametrize("kind", ["power law, capped", "everything", "no risk"])
def test_search_stopped_by_its_limit_refuses_that_problem_alone(kind: str) -> None:
    problems = random_problems(np.random.default_rng(11), 200, 6, **KINDS[kind])
    whole = solve(problems)
    limit = int(np.median(whole.sweeps))
    stopped = solve(problems, most_sweeps=limit)
    lost = stopped.status == SolveStatus.NOT_CONVERGED
    assert lost.any()
    np.testing.assert_array_equal(lost[whole.sweeps <= limit], False)
    assert (stopped.method[lost] == Method.REFUSED).all()
    for array in (stopped.slices, stopped.holdings):
        assert np.isnan(array[lost]).all()
    assert np.isnan(stopped.cost.expected_cost[lost]).all()
    assert np.isnan(stopped.cost.cost_variance[lost]).all()
    np.testing.assert_array_equal(stopped.slices[~lost], whole.slices[~lost])
    np.testing.assert_array_equal(stopped.cost.expected_cost[~lost], whole.cost.expected_cost[~lost])
    with pytest.raises(ValueError, match="most_sweeps must be >= 1"):
        solve(problems, most_sweeps=0)


@pytest.mark.parametrize("n", [1, 2, 7, 48, 500])
def test_whole_range(n: int) -> None:
    """m over 600 orders of magnitude, any units, caps, no risk: sound, and the same alone as in a batch."""
    rng = np.random.default_rng(n)
    count = max(12, min(400, 10_000 // n))
    k = np.where(rng.random(count) < 0.3, 1.0, rng.uniform(0.3, 1.0, count))
    m = np.where(rng.random(count) < 0.1, 0.0, 10.0 ** rng.uniform(-300, 300, count))
    size, a, sd = (
        10.0 ** rng.uniform(-60, 60, count),
        10.0 ** rng.uniform(-60, 60, count),
        10.0 ** rng.uniform(-40, 40, count),
    )
    exponent = np.log10(np.where(m > 0, m, 1.0)) + np.log10(a) - 2 * np.log10(sd) - (1 - k) * np.log10(size)
    lam = np.where(m > 0, 10.0 ** np.clip(exponent, -300, 300), 0.0)
    vary = rng.random((count, 1)) < 0.6
    impact = a[:, None] * np.where(vary, 10.0 ** rng.uniform(-2, 2, (count, n)), 1.0)
    slice_sd = sd[:, None] * np.where(
        vary, 10.0 ** rng.uniform(-1, 1, (count, n)) * (rng.random((count, n)) < 0.9), 1.0
    )
    room = rng.random((count, n)) * (rng.random((count, n)) < 0.8) + 1e-9
    cap = size[:, None] * room / room.sum(axis=1, keepdims=True) * 10.0 ** rng.uniform(0.01, 1.5, (count, 1))
    cap = np.where(rng.random((count, 1)) < 0.5, cap, np.inf)
    problems = Problem.of(size, impact, slice_sd, lam, exponent=k, cap=cap, permanent="midprice")
    s = solve(problems)
    assert (s.status == SolveStatus.OK).all()
    np.testing.assert_array_equal(s.holdings[:, 0], size)
    assert (s.holdings[:, -1] == 0).all()
    assert (np.diff(s.holdings) <= 0).all()
    assert ((s.slices >= 0) & (s.slices <= cap)).all()
    for row, x in zip(s.slices, size, strict=True):
        assert abs(math.fsum(row) - x) <= 4 * np.finfo(float).eps * x
    assert (kkt_residual(problems, s.slices)[m < 1e240] <= 1e-10).all()
    order = rng.permutation(count)
    again = solve(problems.take(order))
    np.testing.assert_array_equal(again.slices, s.slices[order])
    for i in range(0, count, max(1, count // 12)):
        alone = solve(problems.take(i))
        np.testing.assert_array_equal(alone.slices, s.slices[i])
        np.testing.assert_array_equal(alone.holdings, s.holdings[i])


@pytest.mark.parametrize(
    "kind", ["closed form", "riccati", "power law", "no caps, spreads", "no risk, no caps", "power law, unpaid"]
)
def test_the_rest_of_an_order_is_the_tail_of_its_schedule(kind: str) -> None:
    """Time consistency: without caps nobody who starts again from what is left does anything else."""
    more: dict[str, dict[str, bool]] = {
        "no caps, spreads": {"power": True, "capped": False, "varying": True, "spreads": True},
        "no risk, no caps": {"power": True, "capped": False, "varying": True, "riskless": True},
        "power law, unpaid": {"power": True, "capped": False, "varying": True, "paper": True},
    }
    problems = random_problems(np.random.default_rng(5), 40, 10, **{**KINDS, **more}[kind])
    whole = solve(problems)
    for cut in (1, 4, 9):
        rest = replan(problems, cut, whole.holdings[:, cut])
        tail, held = whole.slices[:, cut:], whole.holdings[:, cut, np.newaxis]
        assert (np.abs(rest.slices - tail) <= 1e-12 * held).all()
        # A slice that a spread keeps near 0 is a difference of larger numbers: there what is held is the measure.
        small = (tail < 1e-6 * held) if "spreads" in kind else np.zeros(tail.shape, dtype=bool)
        sure = (held > 1e-200 * problems.order_size[:, np.newaxis]) & ~small
        assert (np.abs(rest.slices - tail)[sure] <= 1e-11 * tail[sure]).all()


def test_the_rest_of_a_finished_order_is_nothing() -> None:
    problems = random_problems(np.random.default_rng(5), 3, 6, **KINDS["power law, capped"])
    rest = replan(problems, 2, [0.0, *problems.order_size[1:] * 0.1])
    assert (rest.slices[0] == 0).all()
    assert (rest.holdings[0] == 0).all()
    assert rest.cost.expected_cost[0] == rest.cost.cost_variance[0] == 0
    with pytest.raises(ValueError, match="first_slice"):
        replan(problems, 6, 1.0)
    with pytest.raises(ValueError, match="held"):
        replan(problems, 1, -1.0)


def test_the_rest_of_a_capped_order_is_the_optimum_of_the_rest() -> None:
    problems = random_problems(np.random.default_rng(6), 40, 8, **KINDS["power law, capped"])
    whole = solve(problems)
    held = np.maximum(whole.holdings[:, 3], 1e-200 * problems.order_size)
    left, rest = problems.tail(3, held), replan(problems, 3, held)
    assert (rest.status == SolveStatus.OK).all()
    assert (kkt_residual(left, rest.slices) <= 1e-10).all()
    for i in range(40):
        assert optimality_gap(left.take(i), rest.slices[i]) <= 1e-12


def test_slice_without_volume_or_without_room_trades_nothing() -> None:
    problem = market_problem(
        100.0,
        1.0,
        eta=1.0,
        gamma=0.0,
        sigma=1.0,
        epsilon=0.0,
        horizon=1.0,
        n_steps=4,
        volume_profile=[[0, 1, 0, 3], [1, 1, 1, 0], [0, 0, 0, 0]],
    )
    s = solve(problem)
    assert (s.slices[0, [0, 2]] == 0).all()
    assert s.slices[1, 3] == 0
    np.testing.assert_array_equal(
        s.slices[2],
        solve(market_problem(100.0, 1.0, eta=1.0, gamma=0.0, sigma=1.0, epsilon=0.0, horizon=1.0, n_steps=4)).slices,
    )


def test_bad_row_costs_the_others_nothing() -> None:
    good = market_problem([10.0, np.nan, 10.0], [1.0, 1.0, -1.0], eta=1.0, gamma=0.0, sigma=1.0, epsilon=0.0,
                          horizon=1.0, n_steps=3, check=False)  # fmt: skip
    s = solve(good)
    assert s.status.tolist() == [SolveStatus.OK, SolveStatus.BAD_INPUT, SolveStatus.BAD_INPUT]
    assert np.isnan(s.slices[1:]).all()
    for bad in ({"exponent": 1.5}, {"exponent": 0.2}, {"tau": 0.0}, {"cap": -1.0}, {"spread": np.nan}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Problem.of(10.0, [1.0, 1.0], 1.0, 1.0, **bad)
