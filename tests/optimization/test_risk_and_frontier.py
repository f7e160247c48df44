"""λ from what people know, and back; and the frontier it runs along."""

from __future__ import annotations

import math

import numpy as np
import pytest
from kkt_oracle import CASES, PUBLISHED

from tributary_opt.optimization.frontier import efficient_frontier, plot_frontier
from tributary_opt.optimization.problem import Problem, market_problem, schedule_cost
from tributary_opt.optimization.risk import (
    risk_aversion_from_cost,
    risk_aversion_from_decay_time,
    risk_aversion_from_half_life,
    risk_aversion_from_lvar,
    risk_aversion_from_share_done,
    risk_figures,
)
from tributary_opt.optimization.solver import solve


def paper(n_steps: int = 5, risk_aversion: float = 1e-6, **more: float) -> Problem:
    given = {"eta": 2.5e-6, "gamma": 2.5e-7, "sigma": 0.95, "epsilon": 0.0625, "horizon": 5.0} | more
    return market_problem(1e6, risk_aversion, n_steps=n_steps, **given)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("problem", [paper(), paper(50), square_root()], ids=["paper", "fifty", "square root"])
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
    with pytest.raises(ValueError, match="after_slice"):
        risk_aversion_from_share_done(paper(), 0.5, 9)


@pytest.mark.parametrize("problem", [paper(), paper(50), square_root()], ids=["paper", "fifty", "square root"])
def test_frontier_is_monotone_and_its_slope_is_lambda(problem: Problem) -> None:
    f = efficient_frontier(problem, 40)
    assert f.risk_aversion[0] == 0
    np.testing.assert_allclose(np.diff(f.holdings[0]), np.diff(f.holdings[0])[0], rtol=1e-12)
    ulp = 4 * np.spacing(f.expected_cost[1:])
    inside = f.holdings[1:, 1] / f.holdings[1:, 0] >= 1e-6
    assert (np.diff(f.expected_cost) >= -ulp).all()
    assert (np.diff(f.expected_cost)[inside] > 0).all()
    assert (np.diff(f.cost_sd)[inside] < 0).all()
    slope = -np.diff(f.expected_cost) / np.diff(f.cost_variance)
    steep = inside & (np.abs(np.diff(f.expected_cost)) > 1e-9 * f.expected_cost[1:])
    assert (slope[steep] >= f.risk_aversion[:-1][steep] * (1 - 1e-6)).all()
    assert (slope[steep] <= f.risk_aversion[1:][steep] * (1 + 1e-6)).all()
    assert 0 < f.knee < len(f.risk_aversion) - 1
    assert list(f.frame().columns) == ["risk_aversion", "expected_cost", "cost_sd", "lvar", "first_slice_pct", "knee"]


def test_first_and_last_point_are_twap_and_immediate() -> None:
    f = efficient_frontier(paper(), 60)
    assert f.expected_cost[0] == pytest.approx(662_500, rel=1e-12)
    assert f.cost_variance[0] == pytest.approx(1.083e12, rel=1e-12)
    assert f.expected_cost[-1] == pytest.approx(2_562_500, rel=1e-5)
    assert f.holdings[-1, 1] / 1e6 <= 1.1e-6


def test_derivative_of_cost_by_risk_is_minus_lambda() -> None:
    """dE/dλ = -λ dV/dλ, with both derivatives in closed form from dx/dλ of the tridiagonal system."""
    for lam in (1e-8, 1e-6, 1e-4):
        problem = paper(5, lam)
        a, s, n = problem.impact[0], problem.risk[0], 5
        x = solve(problem).holdings
        matrix = 2 * np.diag(np.full(n - 1, 2 * a + lam * s)) - 2 * a * (np.eye(n - 1, k=1) + np.eye(n - 1, k=-1))
        dx = np.linalg.solve(matrix, -2 * s * x[1:-1])
        dn = -np.diff(np.r_[0.0, dx, 0.0])
        d_cost = float((2 * a * -np.diff(x) * dn).sum())
        d_variance = float((2 * s * x[1:-1] * dx).sum())
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
