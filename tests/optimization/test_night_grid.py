"""The batch the night calls: every row the same as its problem alone, whatever its neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tributary_opt import AlmgrenChrissParams, generate_ac_trajectory
from tributary_opt.optimization import SolveStatus, solve_linear_grid
from tributary_opt.optimization.night import fixed_grid, solve_grid
from tributary_opt.optimization.problem import market_problem
from tributary_opt.optimization.strategies import generate_ac_volume_time_trajectory, generate_vwap_trajectory

M, N = 7, 12
RNG = np.random.default_rng(0)
ETA, SIGMA = 10.0 ** RNG.uniform(-6, -3, M), 10.0 ** RNG.uniform(-3, -1, M)
MARKET: dict[str, Any] = {"eta": ETA, "gamma": ETA / 10, "sigma": SIGMA, "epsilon": 0.01}
SIZES = 10.0 ** RNG.uniform(1, 4, (M, 3))
PROFILE = RNG.uniform(0.1, 2.0, (M, N))


def test_flat_linear_grid_is_the_closed_form() -> None:
    common: dict[str, Any] = {"horizon": 1.0, "n_steps": N, "urgency": [0.0, 0.5, 3.0]}
    a, b = solve_grid(**MARKET, order_sizes=SIZES, **common), solve_linear_grid(**MARKET, order_sizes=SIZES, **common)
    np.testing.assert_allclose(a.holdings, b.holdings, rtol=1e-13)
    np.testing.assert_allclose(a.expected_cost, b.expected_cost, rtol=1e-13)
    np.testing.assert_allclose(a.risk_aversion[..., 0], b.risk_aversion, rtol=1e-13)
    np.testing.assert_allclose(a.half_life[..., 0], b.half_life, rtol=1e-12)


def test_volume_time_rows_are_those_of_single_orders() -> None:
    g = solve_grid(
        **MARKET, order_sizes=SIZES, horizon=1.0, n_steps=N, risk_aversion=[0.0, 1e-2], volume_profile=PROFILE
    )
    for m in range(M):
        p = AlmgrenChrissParams(ETA[m], ETA[m] / 10, SIGMA[m], 0.5, 1 / N, epsilon=0.01)
        t = generate_ac_volume_time_trajectory(SIZES[m, 1], PROFILE[m], p, 1e-2)
        np.testing.assert_allclose(g.holdings[m, 1, 1], t.holdings, rtol=1e-12)
        assert g.expected_cost[m, 1, 1] == pytest.approx(t.params["expected_cost"], rel=1e-13)
        vwap = generate_vwap_trajectory(SIZES[m, 0], PROFILE[m], p)
        np.testing.assert_allclose(g.slices[m, 0, 0], vwap.trade_sizes, rtol=1e-12)


@pytest.mark.parametrize("law", ["linear", "power"])
def test_rows_do_not_depend_on_their_neighbours(law: Any) -> None:
    alpha, rate = RNG.uniform(0.4, 0.9, M), np.full(M, 300.0)

    def grid(rows: Any) -> Any:
        return solve_grid(
            ETA[rows], ETA[rows] / 10, SIGMA[rows], 0.01, SIZES[rows], horizon=1.0, n_steps=N, urgency=[0.0, 1.0, 10.0],
            impact_law=law, alpha=alpha[rows], reference_rate=rate[rows], volume_profile=PROFILE[rows],
            volume=SIZES[rows, 0] * 30, max_participation=0.2,
        )  # fmt: skip

    whole = grid(slice(None))
    assert set(np.unique(whole.status)) <= {SolveStatus.OK, SolveStatus.INFEASIBLE}
    for m in range(M):
        alone = grid(slice(m, m + 1))
        for name in ("holdings", "slices", "expected_cost", "cost_variance", "risk_aversion", "half_life", "status"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(whole, name)[m])


def test_power_law_rows_are_those_of_single_orders() -> None:
    g = solve_grid(
        **MARKET, order_sizes=SIZES, horizon=1.0, n_steps=N, urgency=[0.5, 5.0], impact_law="power", alpha=0.6,
        reference_rate=300.0,
    )  # fmt: skip
    np.testing.assert_allclose(g.urgency, np.broadcast_to(np.array([0.5, 5.0])[:, None], g.urgency.shape), rtol=1e-13)
    for m in range(M):
        p = AlmgrenChrissParams(ETA[m], ETA[m] / 10, SIGMA[m], 0.6, 1 / N, epsilon=0.01, reference_rate=300.0)
        t = generate_ac_trajectory(SIZES[m, 2], N, p, float(g.risk_aversion[m, 1, 2]), impact_law="power")
        np.testing.assert_allclose(g.holdings[m, 1, 2], t.holdings, rtol=1e-12)
        assert t.params["urgency"] == pytest.approx(5.0, rel=1e-12)
        assert g.decay_time[m, 1, 2] == pytest.approx(t.params["decay_time"], rel=1e-12)


def test_bad_market_costs_the_others_nothing() -> None:
    eta = ETA.copy()
    eta[2] = np.nan
    profile = PROFILE.copy()
    profile[4, 0] = -1.0
    g = solve_grid(
        eta, ETA / 10, SIGMA, 0.01, SIZES, horizon=1.0, n_steps=N, urgency=[0.0, 1.0], volume_profile=profile
    )
    bad = np.array([2, 4])
    assert (g.status[bad] == SolveStatus.BAD_INPUT).all()
    assert np.isnan(g.holdings[bad]).all()
    rest = np.setdiff1d(np.arange(M), bad)
    assert (g.status[rest] == SolveStatus.OK).all()
    assert np.isfinite(g.expected_cost[rest]).all()


def test_baselines_cost_more_than_the_optimum() -> None:
    problem = market_problem(
        SIZES, 0.0, **{k: np.reshape(v, (-1, 1)) for k, v in MARKET.items()}, horizon=1.0, n_steps=N,
        volume_profile=PROFILE[:, None],
    )  # fmt: skip
    best = solve_grid(**MARKET, order_sizes=SIZES, horizon=1.0, n_steps=N, urgency=[0.0], volume_profile=PROFILE)
    _, twap, _, half = fixed_grid(problem, np.full(N, 1 / N))
    holdings, market, variance, at_once = fixed_grid(problem, np.eye(N)[0])
    assert half == pytest.approx(0.5, rel=1e-14)
    assert at_once == pytest.approx(0.5 / N, rel=1e-14)
    assert (holdings[..., 1:] == 0).all()
    assert (best.expected_cost[:, 0] <= twap * (1 + 1e-12)).all()
    assert (twap < market).all()
    assert (variance == 0).all()
