"""λ from what people know, and back; and the frontier it runs along."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kkt_oracle import CASES, PUBLISHED

from tributary_opt.optimization.frontier import efficient_frontier, plot_frontier
from tributary_opt.optimization.problem import Problem, market_problem, schedule_cost
from tributary_opt.optimization.risk import (
    risk_aversion_from_cost,
    risk_aversion_from_cost_bps,
    risk_aversion_from_decay_time,
    risk_aversion_from_half_life,
    risk_aversion_from_lvar,
    risk_aversion_from_share_done,
    risk_figures,
)
from tributary_opt.optimization.solver import solve


def paper(n_steps: int = 5, risk_aversion: float = 1e-6, **more: Any) -> Problem:
    given: dict[str, Any] = {"eta": 2.5e-6, "gamma": 2.5e-7, "sigma": 0.95, "epsilon": 0.0625, "horizon": 5.0} | more
    return market_problem(1e6, risk_aversion, n_steps=n_steps, **given)


def by_the_hour(**more: Any) -> Problem:
    rng = np.random.default_rng(3)
    volume, variance = rng.gamma(3.0, 1.0, (2, 24))
    return paper(24, volume_profile=volume, variance_profile=variance, **more)


def square_root(risk_aversion: float = 1e-6) -> Problem:
    return market_problem(
        1e5, risk_aversion, eta=2.5e-6, gamma=2.5e-7, sigma=0.95, epsilon=0.06, horizon=1.0, n_steps=24,
        impact_law="power", alpha=0.5, reference_rate=5e4,
    )  # fmt: skip


def test_completion_targets() -> None:
    smoke = market_problem(5000, 0, eta=4e-5, gamma=4e-6, sigma=0.025, epsilon=0.01, horizon=1.0, n_steps=24)
    for name, problem, share, after in (("L1", paper(5), 0.5, 1), ("L2", paper(10), 0.5, 2), ("L3", smoke, 0.75, 6)):
        found = risk_aversion_from_share_done(problem, share, after)
        assert found.risk_aversion == pytest.approx(float(CASES["lam"][name]), rel=1e-9)
        assert found.achieved == pytest.approx(share, rel=1e-9)
        assert 1 < found.condition < 10


def test_lvar_of_the_paper() -> None:
    expected = PUBLISHED["ac2000_lvar_95"]["expected"]
    found = risk_aversion_from_lvar(paper(), 1.645)
    assert found.risk_aversion == pytest.approx(expected["lambda_u"], rel=1e-9)
    figures = risk_figures(paper(risk_aversion=found.risk_aversion))
    assert figures.lvar == pytest.approx(expected["lvar"], rel=1e-12)
    assert figures.tangency == pytest.approx(1.645, rel=1e-9)


@pytest.mark.parametrize(
    "problem",
    [paper(), paper(50), square_root(), by_the_hour(), by_the_hour(cap=3e5)],
    ids=["paper", "fifty", "square root", "by the hour", "capped"],
)
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_every_figure_leads_back_to_its_lambda(problem: Problem, scale: float) -> None:
    lam = 1e-6 * scale
    figures = risk_figures(Problem(**{**problem.__dict__, "risk_aversion": np.asarray(lam)}))
    fixed = (
        float(problem.order_size) * float(problem.spread[0])
        + 0.5 * float(problem.gamma) * float(problem.order_size) ** 2
    )
    for found, target in (
        (risk_aversion_from_decay_time(problem, figures.decay_time), figures.decay_time),
        (risk_aversion_from_half_life(problem, figures.half_life), figures.half_life),
        (risk_aversion_from_share_done(problem, figures.share_done[1], 2), figures.share_done[1]),
        (risk_aversion_from_lvar(problem, figures.tangency), figures.tangency),
        (risk_aversion_from_cost(problem, figures.expected_cost), figures.expected_cost),
    ):
        off = fixed if target == figures.expected_cost else 0.0
        assert found.achieved - off == pytest.approx(target - off, rel=1e-9)
        assert found.risk_aversion == pytest.approx(lam, rel=1e-9 * max(1.0, found.condition * 10))


def test_target_at_an_end_of_its_range_may_be_off_by_rounding() -> None:
    """0.1 + 0.2 for 0.3 is no reason to refuse; 1e-9 is, for it would not be met."""
    for share in (0.2, 0.2 * (1 - 2e-16), 0.2 * (1 + 2e-16)):
        assert risk_aversion_from_share_done(paper(), share, 1).achieved == pytest.approx(share, rel=1e-15)
    capped = paper(cap=3e5)
    full = risk_aversion_from_share_done(capped, 0.1 + 0.2, 1)
    assert full.achieved == pytest.approx(0.3, rel=1e-15)
    most = risk_figures(replace(capped, risk_aversion=np.asarray(full.risk_aversion))).share_done[0]
    assert most == pytest.approx(0.3, rel=1e-15)
    for share in (0.2 * (1 - 1e-9), 0.3 * (1 + 1e-9)):
        with pytest.raises(ValueError, match=r"it can be from 0\.2 to 0\.3 for"):
            risk_aversion_from_share_done(capped, share, 1)


def test_unreachable_targets_are_refused_with_the_range() -> None:
    with pytest.raises(ValueError, match=r"expected_cost = 100000: it can be from 662500 to 2562500"):
        risk_aversion_from_cost(paper(), 1e5)
    with pytest.raises(ValueError, match=r"half_life = 3: it can be from 0\.5 to 2\.5"):
        risk_aversion_from_half_life(paper(), 3.0)
    with pytest.raises(ValueError, match=r"share_done = 0\.1: it can be from 0\.2 to 1"):
        risk_aversion_from_share_done(paper(), 0.1, 1)
    with pytest.raises(ValueError, match="whatever the risk_aversion: sigma is 0"):
        risk_aversion_from_half_life(paper(sigma=0.0), 1.0)
    with pytest.raises(ValueError, match="decay_time must be finite and > 0"):
        risk_aversion_from_decay_time(paper(), 0.0)
    with pytest.raises(ValueError, match=r"decay_time must be at least 0\.000714286 days for steps of 1, got 1e-05"):
        risk_aversion_from_decay_time(paper(), 1e-5)
    for level in (-1.0, 1e80, math.nan):
        with pytest.raises(ValueError, match=r"level = .*: it can be from 0 to "):
            risk_aversion_from_lvar(paper(), level)
    with pytest.raises(ValueError, match="after_slice"):
        risk_aversion_from_share_done(paper(), 0.5, 9)


@pytest.mark.parametrize(
    "name", ["a thousandth of the volume", "a millionth of it", "a quiet one", "a thousand times it"]
)
def test_frontier_ends_with_everything_at_once_whatever_the_first_slice_is(name: str) -> None:
    volume, variance = np.ones(24), np.ones(24)
    if name == "a quiet one":
        variance[0] = 1e-4
    else:
        volume[0] = {"a thousandth of the volume": 1e-3, "a millionth of it": 1e-6}.get(name, 1e3)
    profile = {"volume_profile": volume, "variance_profile": variance}
    problem = market_problem(
        1000.0, 1.0, eta=1e-5, gamma=1e-6, sigma=0.5, epsilon=0.01, horizon=1.0, n_steps=24, **profile
    )
    f = efficient_frontier(problem)
    assert f.holdings[-1, 1] / f.holdings[-1, 0] == pytest.approx(1e-6, rel=0.01)
    at_once = np.append(1000.0, np.zeros(23))
    assert f.expected_cost[-1] == pytest.approx(float(schedule_cost(problem, at_once).expected_cost), rel=1e-5)


def test_share_by_a_time_and_budget_in_bps_go_there_and_back() -> None:
    for problem in (paper(12), by_the_hour(), square_root()):
        horizon = float(problem.tau.sum())
        for lam in (1e-7, 1e-6, 3e-5):
            figures = risk_figures(replace(problem, risk_aversion=np.asarray(lam)), price=50.0)
            for by in (0.03 * horizon, 0.25 * horizon, 0.333 * horizon, horizon / 2):
                share = figures.share_done_by(by)
                found = risk_aversion_from_share_done(problem, share, by=by)
                assert found.achieved == pytest.approx(share, rel=1e-9)
                assert found.risk_aversion == pytest.approx(lam, rel=1e-8 * max(found.condition, 1.0))
            bps = figures.expected_cost / float(problem.order_size) / 50.0 * 1e4
            assert figures.expected_cost_bps == pytest.approx(bps, rel=1e-15)
            budget = risk_aversion_from_cost_bps(problem, bps, 50.0)
            assert budget.achieved == pytest.approx(bps, rel=1e-12)
            assert budget.risk_aversion == pytest.approx(lam, rel=1e-8 * max(budget.condition, 1.0))
        after = risk_aversion_from_share_done(problem, figures.share_done[2], 3)
        until = risk_aversion_from_share_done(problem, figures.share_done[2], by=figures.time[2])
        assert until.risk_aversion == pytest.approx(after.risk_aversion, rel=1e-9)
    assert math.isnan(risk_figures(paper()).expected_cost_bps)
    for wrong in ({}, {"after_slice": 1, "by": 1.0}):
        with pytest.raises(ValueError, match="exactly one of after_slice and by"):
            risk_aversion_from_share_done(paper(), 0.5, **wrong)  # type: ignore[arg-type]
    for by in (0.0, 5.1, math.nan):
        with pytest.raises(ValueError, match="by must be > 0 and within the horizon of 5 days"):
            risk_aversion_from_share_done(paper(), 0.5, by=by)
    with pytest.raises(TypeError):
        risk_aversion_from_share_done(paper(), 0.5, 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="price must be finite and > 0"):
        risk_aversion_from_cost_bps(paper(), 5.0, 0.0)


def test_where_no_choice_is_left_every_risk_aversion_does_it() -> None:
    one = paper(1)
    for found in (
        risk_aversion_from_half_life(one, float(one.tau[0]) / 2),
        risk_aversion_from_cost(one, risk_figures(one).expected_cost),
        risk_aversion_from_share_done(one, 1.0, 1),
    ):
        assert (found.risk_aversion, found.condition) == (0.0, math.inf)


def test_volatility_near_the_ends_of_the_range_has_the_same_figures() -> None:
    """Its square leaves the range of doubles, which no figure needs."""
    ordinary = market_problem(1.0, 1.0, eta=1.0, gamma=0, sigma=1.0, epsilon=0, horizon=5.0, n_steps=5)
    loud = market_problem(1.0, 1e-300, eta=1e20, gamma=0, sigma=1e160, epsilon=0, horizon=5.0, n_steps=5)
    figures, same = risk_figures(ordinary), risk_figures(loud)
    assert same.decay_time == pytest.approx(figures.decay_time, rel=1e-12)
    assert same.half_life == pytest.approx(figures.half_life, rel=1e-12)
    assert risk_aversion_from_half_life(loud, same.half_life).risk_aversion == pytest.approx(1e-300, rel=1e-9)
    assert risk_aversion_from_decay_time(loud, same.decay_time).risk_aversion == pytest.approx(1e-300, rel=1e-12)
    quiet = market_problem(1.0, 1e300, eta=1e-40, gamma=0, sigma=1e-170, epsilon=0, horizon=5.0, n_steps=5)
    assert risk_figures(quiet).decay_time == pytest.approx(figures.decay_time, rel=1e-12)


def test_problems_without_an_optimum_say_why() -> None:
    short = replace(paper(), cap=np.full(5, 100.0))
    curved = market_problem(
        1e8, 1e-6, eta=2.5e-6, gamma=2.5e-7, sigma=0.95, epsilon=0.0, horizon=5.0, n_steps=5, impact_law="power",
        alpha=0.5, reference_rate=5e4, permanent="paper",
    )  # fmt: skip
    for problem, why in ((short, r"the caps have room for 500 of 1e\+06 contracts"), (curved, r"n\* = 2\.8125e\+06")):
        for ask in (risk_figures, efficient_frontier, lambda p: risk_aversion_from_half_life(p, 1.0)):
            with pytest.raises(ValueError, match=f"no optimal schedule: .*{why}"):
                ask(problem)


FRONTIERS = {
    "paper": paper(),
    "fifty": paper(50),
    "five hundred": paper(500),
    "two": paper(2),
    "midprice": paper(24, permanent="midprice"),
    "by the hour": by_the_hour(),
    "square root": square_root(),
}


@pytest.mark.parametrize("points", [12, 60, 400])
@pytest.mark.parametrize("problem", FRONTIERS.values(), ids=FRONTIERS.keys())
def test_frontier_is_monotone_and_every_chord_lies_between_its_lambdas(problem: Problem, points: int) -> None:
    """From κT = 0.05 to x_1/X = 1e-6, and from TWAP to the first of them: strictly, with no slack for rounding."""
    f = efficient_frontier(problem, points)
    assert f.risk_aversion[0] == 0
    assert f.holdings[-1, 1] / f.holdings[-1, 0] == pytest.approx(1e-6, rel=0.01)
    assert (np.diff(f.expected_cost) > 0).all()
    assert (np.diff(f.cost_variance) < 0).all()
    assert (np.diff(f.cost_sd) < 0).all()
    first, last = np.triu_indices(points + 1, 1)
    slope = (f.expected_cost[last] - f.expected_cost[first]) / (f.cost_variance[first] - f.cost_variance[last])
    assert (slope > f.risk_aversion[first]).all()
    assert (slope < f.risk_aversion[last]).all()
    assert 0 < f.knee < points
    assert list(f.frame().columns) == ["risk_aversion", "expected_cost", "cost_sd", "lvar", "first_slice_pct", "knee"]


@pytest.mark.parametrize("problem", FRONTIERS.values(), ids=FRONTIERS.keys())
def test_frontier_beyond_its_ends_never_turns_back(problem: Problem) -> None:
    """Below κT = 0.05 and above x_1/X = 1e-6 E and V are those of the schedules to rounding, and monotone still."""
    inside = efficient_frontier(problem, 2).risk_aversion[1:]
    low = np.geomspace(1e-30 * inside[0], inside[0], 300)
    high = np.geomspace(inside[1], 1e30 * inside[1], 300)
    f = efficient_frontier(problem, risk_aversion=[0.0, *low, *high])
    assert (np.diff(f.expected_cost) >= 0).all()
    assert (np.diff(f.cost_variance) <= 0).all()
    assert (np.diff(f.cost_sd) <= 0).all()
    for i in range(0, 601, 7):
        cost = solve(replace(problem, risk_aversion=f.risk_aversion[i])).cost
        np.testing.assert_array_max_ulp(f.expected_cost[i], cost.expected_cost, maxulp=12)
        np.testing.assert_array_max_ulp(f.cost_variance[i], cost.cost_variance, maxulp=12)


@pytest.mark.parametrize("problem", FRONTIERS.values(), ids=FRONTIERS.keys())
def test_knee_is_farthest_from_the_chord_and_lvar_least_where_its_lambda_is(problem: Problem) -> None:
    f = efficient_frontier(problem, 200, level=1.0)
    ends = np.array([[f.cost_sd[0], f.expected_cost[0]], [f.cost_sd[-1], f.expected_cost[-1]]])
    scale = np.abs(ends[1] - ends[0])
    points = np.column_stack([f.cost_sd, f.expected_cost]) / scale
    (a, b), (c, d) = ends / scale
    away = (c - a) * (points[:, 1] - b) - (d - b) * (points[:, 0] - a)  # twice the triangle with the chord
    assert f.knee == np.abs(away).argmax()
    assert f.frame()["knee"].to_numpy().nonzero()[0].tolist() == [f.knee]
    np.testing.assert_allclose(f.lvar, f.expected_cost + np.sqrt(f.cost_variance), rtol=1e-15)
    best = risk_aversion_from_lvar(problem, 1.0).risk_aversion
    least = int(f.lvar.argmin())
    assert f.risk_aversion[max(least - 1, 0)] < best < f.risk_aversion[min(least + 1, 200)]


def test_chords_of_a_capped_frontier_lie_between_their_lambdas_to_rounding() -> None:
    """Caps bind one after the other until nothing is left to choose: E and V then differ by rounding alone."""
    f = efficient_frontier(by_the_hour(cap=2e5), 400)
    first, last = np.triu_indices(401, 1)
    dearer = f.expected_cost[last] - f.expected_cost[first]
    calmer = f.cost_variance[first] - f.cost_variance[last]
    ulps = [4 * (np.spacing(a[first]) + np.spacing(a[last])) for a in (f.expected_cost, f.cost_variance)]
    for lam, sign in ((f.risk_aversion[first], 1.0), (f.risk_aversion[last], -1.0)):
        assert (sign * (dearer - lam * calmer) >= -(ulps[0] + lam * ulps[1])).all()


def test_first_and_last_point_are_twap_and_immediate() -> None:
    f = efficient_frontier(paper(), 60)
    assert f.expected_cost[0] == pytest.approx(662_500, rel=1e-12)
    assert f.cost_variance[0] == pytest.approx(1.083e12, rel=1e-12)
    assert f.expected_cost[-1] == pytest.approx(2_562_500, rel=1e-5)
    assert f.holdings[-1, 1] / 1e6 <= 1.1e-6


@pytest.mark.parametrize("problem", FRONTIERS.values(), ids=FRONTIERS.keys())
def test_derivative_of_cost_by_risk_is_minus_lambda(problem: Problem) -> None:
    """dE/dλ = -λ dV/dλ, both in closed form: dx/dλ solves (∇²E + λ∇²V) dx = -∇V at the schedule found.

    By slices n = X - Σ, the unknowns are x_1 .. x_{N-1}, and every E is Σ ε n + a n^(1+k) and what does not change.
    """
    lams = efficient_frontier(problem, 9).risk_aversion[1:]
    a, s, k = problem.impact, problem.risk[:-1], float(problem.exponent)
    for lam in lams:
        found = solve(replace(problem, risk_aversion=np.asarray(lam)))
        n, x = found.slices, found.holdings[1:-1]
        marginal, curvature = (1 + k) * a * n**k, k * (1 + k) * a * n ** (k - 1)
        hessian = np.diag(curvature[:-1] + curvature[1:] + 2 * lam * s)
        hessian -= np.diag(curvature[1:-1], 1) + np.diag(curvature[1:-1], -1)
        dx = np.linalg.solve(hessian, -2 * s * x)
        d_cost, d_variance = np.diff(marginal) @ dx, 2 * (s * x) @ dx
        assert d_variance < 0 < d_cost
        assert d_cost / d_variance == pytest.approx(-lam, rel=1e-9)


def test_cost_of_the_frontier_holds_no_price_of_risk() -> None:
    f = efficient_frontier(paper(), risk_aversion=[0.0, 2e-6, 1e-5])
    again = schedule_cost(paper(risk_aversion=0.0), -np.diff(f.holdings))
    np.testing.assert_allclose(f.expected_cost, again.expected_cost, rtol=1e-14)
    assert f.expected_cost[1] == pytest.approx(1140715.1670497853, rel=1e-12)
    with pytest.raises(ValueError, match="rising"):
        efficient_frontier(paper(), risk_aversion=[1e-6, 1e-7])


def test_plot_marks_the_knee() -> None:
    axes = plot_frontier(efficient_frontier(paper(), 10))
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["efficient frontier", "TWAP", "knee", "least L-VaR (1.645 sd)"]
    assert math.isfinite(axes.dataLim.x1)
