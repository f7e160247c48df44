"""Strategies side by side: one order, one cost model, or a refusal."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tributary_opt import (
    AlmgrenChrissParams,
    ExecutionTrajectory,
    StrategyComparison,
    calibrate_ac_params,
    generate_ac_trajectory,
    generate_market_order_trajectory,
    generate_pov_trajectory,
    generate_twap_trajectory,
    generate_vwap_trajectory,
)

COLUMNS = [
    "strategy", "risk_aversion", "expected_cost_bps", "cost_std_bps", "num_slices", "max_slice_pct", "front_loaded",
    "difference_to_baseline_bps",
    "residual_pct",
]  # fmt: skip


@pytest.fixture(scope="module")
def params() -> AlmgrenChrissParams:
    return calibrate_ac_params(50_000, 0.02, 0.05, 0.50)


@pytest.fixture
def strategies(params: AlmgrenChrissParams) -> list[ExecutionTrajectory]:
    return [
        generate_ac_trajectory(5000, 10, params, 0.5),
        generate_twap_trajectory(5000, 10, params),
        generate_market_order_trajectory(5000, params),
        generate_twap_trajectory(5000, 10, None),
    ]


def test_summary_table(strategies: list[ExecutionTrajectory]) -> None:
    table = StrategyComparison(strategies[:3], "twap").summary_table()
    assert list(table.columns) == COLUMNS
    assert list(table["strategy"]) == ["almgren_chriss", "twap", "market_order"]
    np.testing.assert_array_equal(table["risk_aversion"], [0.5, 0, math.inf])
    np.testing.assert_array_equal(table["num_slices"], [10, 10, 1])
    np.testing.assert_array_equal(table["front_loaded"], [True, False, True])
    np.testing.assert_allclose(table["max_slice_pct"].iloc[1:], [10, 100])
    np.testing.assert_allclose(table["expected_cost_bps"].iloc[1:], [780, 4200])
    np.testing.assert_allclose(table["difference_to_baseline_bps"].iloc[1:], [0, 3420])
    # √V of TWAP in bps of 5000 · 0.50, by equation 11.
    sd = 0.025 * 5000 * math.sqrt(10 / 3 * 0.9 * 0.95)
    np.testing.assert_allclose(table["cost_std_bps"].iloc[1:], [sd / 2500 * 1e4, 0], rtol=1e-13)


def test_market_order_costs_more_than_twap_and_twap_is_not_free(strategies: list[ExecutionTrajectory]) -> None:
    cost = StrategyComparison(strategies[:3]).summary_table().set_index("strategy")["expected_cost_bps"]
    assert cost["market_order"] > cost["almgren_chriss"] > cost["twap"] > 0


def test_front_loading_shows_down_to_rounding(params: AlmgrenChrissParams) -> None:
    for n in (2, 3, 7, 30, 48, 77, 1000):
        p = dataclasses.replace(params, tau=10 / n)
        twap = generate_twap_trajectory(5000, n, p)
        for lam, loaded in ((0.0, False), (1e-4, True), (1e-7, True), (1e-10, True)):
            table = StrategyComparison([twap, generate_ac_trajectory(5000, n, p, lam)]).summary_table()
            np.testing.assert_array_equal(table["front_loaded"], [False, loaded])


def test_unknown_costs_stay_unknown(strategies: list[ExecutionTrajectory]) -> None:
    table = StrategyComparison([strategies[0], strategies[3]], "almgren_chriss").summary_table()
    assert table["expected_cost_bps"].isna().tolist() == [False, True]
    assert math.isnan(table["difference_to_baseline_bps"].iloc[1])
    assert table["num_slices"].tolist() == [10, 10]


def test_refused_trajectories_show_as_nan(params: AlmgrenChrissParams) -> None:
    bad = generate_ac_trajectory(5000, 10, params, -1)
    table = StrategyComparison([bad, generate_twap_trajectory(5000, 10, params)]).summary_table()
    assert math.isnan(table["max_slice_pct"].iloc[0])
    assert table["num_slices"].iloc[0] == 0


def test_baseline_may_be_the_trajectory_itself(params: AlmgrenChrissParams) -> None:
    patient, urgent = (generate_ac_trajectory(5000, 10, params, lam) for lam in (1e-3, 1.0))
    with pytest.raises(ValueError, match="give the trajectory itself"):
        StrategyComparison([patient, urgent], "almgren_chriss")
    table = StrategyComparison([patient, urgent], patient).summary_table()
    assert table["difference_to_baseline_bps"].iloc[0] == 0
    assert table["difference_to_baseline_bps"].iloc[1] > 0


def test_volume_in_another_unit_is_the_same_profile(params: AlmgrenChrissParams) -> None:
    for seed in range(24):
        volume = np.random.default_rng(seed).uniform(0, 1e4, 10)
        vwap = generate_vwap_trajectory(5000, volume, params)
        for same in (volume * 3, volume / volume.sum(), volume * 1e-3):
            StrategyComparison([vwap, generate_twap_trajectory(5000, 10, params, volume_profile=same)])
        with pytest.raises(ValueError, match="must share volume_profile: vwap and twap are costed on different ones"):
            StrategyComparison([vwap, generate_twap_trajectory(5000, 10, params, volume_profile=volume[::-1])])
        with pytest.raises(ValueError, match="share volume_profile"):
            StrategyComparison([vwap, generate_market_order_trajectory(5000, params)], "vwap")
    flat = generate_vwap_trajectory(5000, np.full(10, 7.0), params)
    StrategyComparison(
        [flat, generate_twap_trajectory(5000, 10, params), generate_market_order_trajectory(5000, params)]
    )


def test_order_that_is_not_done_is_never_the_cheaper_one(params: AlmgrenChrissParams) -> None:
    """A tenth of the volume, done in half of the order: its cost is half an order's."""
    volume = np.full(10, 2500.0)
    pov = generate_pov_trajectory(5000, volume, 0.1, params)
    twap = generate_twap_trajectory(5000, 10, params)
    table = StrategyComparison([pov, twap]).summary_table()
    assert table["residual_pct"].tolist() == [50.0, 0.0]
    assert table["expected_cost_bps"].iloc[0] < table["expected_cost_bps"].iloc[1]
    assert math.isnan(table["difference_to_baseline_bps"].iloc[0])
    same = StrategyComparison([pov, generate_pov_trajectory(5000, volume, 0.1, params)], pov).summary_table()
    assert same["difference_to_baseline_bps"].tolist() == [0.0, 0.0]


def test_what_cannot_be_compared_is_refused(params: AlmgrenChrissParams, strategies: list[ExecutionTrajectory]) -> None:
    twap = strategies[1]

    def with_params(**changes: float) -> ExecutionTrajectory:
        return generate_ac_trajectory(5000, 10, dataclasses.replace(params, **changes), 0.5)

    for message, other in [
        ("share order_size", generate_ac_trajectory(4000, 10, params, 0.5)),
        ("share horizon", generate_ac_trajectory(5000, 12, params, 0.5)),
        ("share permanent", generate_ac_trajectory(5000, 10, params, 0.5, permanent="midprice")),
        ("share side", generate_ac_trajectory(5000, 10, params, 0.5, side="buy")),
        ("share tau", with_params(tau=0.5)),
        ("share eta", with_params(eta=1e-3)),
        ("share sigma", with_params(sigma=1e-3)),
        ("share price", with_params(price=0.6)),
    ]:
        with pytest.raises(ValueError, match=message):
            StrategyComparison([twap, other])
    rates = [dataclasses.replace(params, reference_rate=rate) for rate in (1e4, 1e5)]
    by_power = [generate_ac_trajectory(5000, 10, p, 0.5, impact_law="power") for p in rates]
    assert by_power[0].total_cost_estimate != by_power[1].total_cost_estimate
    with pytest.raises(ValueError, match="share reference_rate"):
        StrategyComparison(by_power, by_power[0])
    with pytest.raises(ValueError, match="baseline_strategy must name exactly one of: almgren_chriss, twap"):
        StrategyComparison(strategies[:2], "vwap")
    with pytest.raises(ValueError, match="exactly one"):
        StrategyComparison([twap, twap])
    with pytest.raises(ValueError, match="exactly one of: none"):
        StrategyComparison([])
    with pytest.raises(TypeError, match="must be ExecutionTrajectory, got str"):
        StrategyComparison(["twap"])  # type: ignore[list-item]
