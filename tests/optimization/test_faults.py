"""One test for each fault that others were found to have, as a black box, with independent reference values.

Numbers are those of the project's review of other implementations, which showed each fault running.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from ac_oracle import solve, worst

from tributary_opt import (
    AlmgrenChrissParams,
    ExecutionTrajectory,
    StrategyComparison,
    calibrate_ac_params,
    generate_ac_trajectory,
    generate_market_order_trajectory,
    generate_twap_trajectory,
)
from tributary_opt.optimization import SolveStatus, decay_rate, linear_shapes, solve_linear_grid
from tributary_opt.optimization.scheduler import InfeasibleSchedule, schedule_order

SMOKE = calibrate_ac_params(50_000, 0.02, 0.05, 0.50)  # S: the smoke-test market, tau = 1 day


def paper(n_steps: int, horizon: float) -> AlmgrenChrissParams:
    return AlmgrenChrissParams(2.5e-6, 2.5e-7, 0.95, 0.5, horizon / n_steps, epsilon=0.0625, price=50.0)


def smoke(n_steps: int, horizon: float = 1.0, epsilon: float = 0.01) -> AlmgrenChrissParams:
    return AlmgrenChrissParams(4e-5, 4e-6, 0.025, 0.5, horizon / n_steps, epsilon=epsilon, price=0.50)


def sound(t: ExecutionTrajectory) -> bool:
    return bool(
        np.isfinite(t.holdings).all()
        and (np.diff(t.holdings) <= 0).all()
        and t.holdings[-1] == 0
        and math.isfinite(t.params["expected_cost"])
        and math.isfinite(t.params["cost_variance"])
    )


def test_fault_01_step_length_missing_from_the_holdings() -> None:
    """Ten half-days hold 652,282.6 after slice 1, not 425,697; a day of 78 bars starts with 1.57 %, not 57.3 %."""
    t = generate_ac_trajectory(1e6, 10, paper(10, 5.0), 2e-6)
    assert t.holdings[1] == pytest.approx(652282.60269396874, rel=1e-12)
    bars = generate_ac_trajectory(1e6, 78, paper(78, 1.0), 2e-6)
    assert bars.trade_sizes[0] / 1e6 == pytest.approx(0.0157, abs=5e-5)
    exact = solve(
        eta=2.5e-6, gamma=2.5e-7, sigma=0.95, epsilon=0.0625, risk_aversion=2e-6, tau=1 / 78, n_steps=78, order_size=1e6
    )
    assert worst(bars.params["expected_cost"], exact.expected_cost) < 1e-12


def test_fault_01_hours_and_days_give_one_path() -> None:
    hours = AlmgrenChrissParams(6e-5, 2.5e-7, 0.95 / math.sqrt(24), 0.5, 12.0, epsilon=0.0625)
    in_hours = generate_ac_trajectory(1e6, 10, hours, 2e-6)
    in_days = generate_ac_trajectory(1e6, 10, paper(10, 5.0), 2e-6)
    np.testing.assert_allclose(in_hours.holdings, in_days.holdings, rtol=1e-13)


@pytest.mark.parametrize(("lam", "n"), [(1.0, 500), (524_094.0, 1_000), (1e8, 10_000), (1e10, 1_000), (1e40, 10)])
def test_fault_02_overflow_of_the_hyperbolic_sine(lam: float, n: int) -> None:
    assert sound(generate_ac_trajectory(5000, n, SMOKE, lam))
    assert sound(generate_ac_trajectory(1000, n, AlmgrenChrissParams(1, 0, 1, 0.5, 1 / n), lam))


def test_fault_03_cost_with_eta_where_eta_tilde_belongs() -> None:
    """580 bps of impact and 200 of half-spread on both sides of where others switch formulas, and at λ = 0."""
    costs = [generate_ac_trajectory(5000, 10, SMOKE, lam).total_cost_estimate for lam in (0, 9.9e-11, 1.01e-10, 1e-9)]
    np.testing.assert_allclose(costs, 780.0, rtol=1e-9)
    assert (np.diff(costs) >= -1e-12).all()
    without_spread = generate_ac_trajectory(5000, 10, smoke(10, 10.0, epsilon=0.0), 0)
    assert without_spread.total_cost_estimate == pytest.approx(580.0, rel=1e-13)


def test_fault_04_risk_aversion_cut_off_at_an_absolute_value() -> None:
    """λ = 9e-11 is urgent for a market with tiny impact: 91 % in the first day, not TWAP."""
    t = generate_ac_trajectory(1e7, 20, AlmgrenChrissParams(1e-15, 0, 0.01, 0.5, 1.0), 9e-11)
    assert t.trade_sizes[0] / 1e7 == pytest.approx(0.908, abs=5e-4)
    assert t.params["urgency"] == pytest.approx(47.8, abs=0.05)


def test_fault_04_scaling_the_currency_scales_nothing_but_the_cost() -> None:
    base = generate_ac_trajectory(1e6, 10, paper(10, 5.0), 2e-6)
    for scale in (1e-12, 1e-6, 100.0, 1e9):
        p = AlmgrenChrissParams(2.5e-6 * scale, 2.5e-7 * scale, 0.95 * scale, 0.5, 0.5, epsilon=0.0625 * scale)
        t = generate_ac_trajectory(1e6, 10, p, 2e-6 / scale)
        np.testing.assert_allclose(t.holdings, base.holdings, rtol=1e-13)
        assert t.params["expected_cost"] == pytest.approx(scale * base.params["expected_cost"], rel=1e-13)


def test_fault_05_daily_calibration_used_per_period() -> None:
    """Refining one day at λ = 0.1 converges: 4000, 4356.4, 4364.2, 4364.8 bps without the spread."""
    bps = {}
    for n in (1, 24, 288, 1440):
        t = generate_ac_trajectory(5000, n, smoke(n, epsilon=0.0), 0.1)
        bps[n] = t.total_cost_estimate
        if n == 24:
            assert t.trade_sizes[:6].sum() / 5000 == pytest.approx(0.325, abs=5e-4)
    assert [round(v, 1) for v in bps.values()] == [4000.0, 4356.4, 4364.2, 4364.8]


def test_fault_06_baselines_for_free() -> None:
    twap, market = generate_twap_trajectory(5000, 10, SMOKE), generate_market_order_trajectory(5000, SMOKE, 10)
    assert market.total_cost_estimate > twap.total_cost_estimate > 0
    for lam in (0.0, 1e-5, 1e-3, 0.1, 10.0):
        optimum = generate_ac_trajectory(5000, 10, SMOKE, lam)
        values = [t.params["expected_cost"] + lam * t.params["cost_variance"] for t in (optimum, twap, market)]
        assert values[0] <= min(values) * (1 + 1e-14)
    table = StrategyComparison([optimum, twap, market]).summary_table()
    assert (table["expected_cost_bps"] > 0).all()
    assert np.isnan(generate_twap_trajectory(5000, 10).total_cost_estimate)  # unknown, not zero


@pytest.mark.parametrize("n", [100, 300, 1000])
@pytest.mark.parametrize("pct", [0.1, 1.0])
def test_fault_07_randomised_twap_sells_back(n: int, pct: float) -> None:
    for seed in range(200):
        t = generate_twap_trajectory(1000, n, None, randomize=True, random_pct=pct, seed=seed)
        assert (t.trade_sizes >= 0).all()
        assert math.fsum(t.trade_sizes) == 1000
        # No slice takes up the noise of all the others.
        assert t.trade_sizes.max() <= 1000 / n * (1 + pct) / (1 - pct / 3)


@pytest.mark.parametrize("n", range(1, 60))
def test_fault_08_a_number_of_steps_that_is_not_the_number_asked_for(n: int) -> None:
    """Caps come with the scheduler. Here the count is given, never derived from a quotient of floats, and kept."""
    for size in (0.3, 29.0, 0.7, 4.35, 100.0):
        for t in (generate_ac_trajectory(size, n, SMOKE, 1e-5), generate_twap_trajectory(size, n, SMOKE)):
            assert len(t.trade_sizes) == n
            assert (t.trade_sizes > 0).all()
            assert t.timestamps[-1] == n * SMOKE.tau
    assert np.isnan(generate_ac_trajectory(1.0, n + 0.5, SMOKE, 1e-5).holdings).all()  # type: ignore[arg-type]


def test_fault_13_zero_and_tiny_risk_aversion() -> None:
    for lam in (0.0, 1e-22, 1e-300):
        t = generate_ac_trajectory(1e6, 5, paper(5, 5.0), lam)
        assert sound(t)
        np.testing.assert_allclose(t.trade_sizes, 2e5, rtol=1e-12)
        assert t.params["expected_cost"] == pytest.approx(662_500, rel=1e-12)
        assert t.params["cost_variance"] == pytest.approx(1.083e12, rel=1e-12)


def test_fault_13_cost_overflows_before_the_path_does() -> None:
    for lam, n in ((2e-5, 500), (1e-5, 500), (2e-6, 600), (2e-6, 5_000)):
        assert sound(generate_ac_trajectory(1e6, n, paper(1, 1.0), lam))


def test_fault_13_decay_rate_by_inverse_hyperbolic_cosine() -> None:
    """acosh(1 + tiny) is 2.6 % off at κT = 3e-7; asinh is not."""
    for rate in (3e-7, 1.7e-7, 1e-9, 1e-100, 1e-150):
        assert decay_rate(rate**2, 1.0, 1.0, 1.0) == pytest.approx(rate, rel=1e-15)


def test_fault_13_an_end_that_is_not_zero() -> None:
    """T is N·τ by construction, so no remainder of T/τ can oversell."""
    for tau in (0.3, 0.7, 1 / 3):
        t = generate_ac_trajectory(1e6, 9, AlmgrenChrissParams(2.5e-6, 2.5e-7, 0.95, 0.5, tau), 2e-6)
        assert t.holdings[-1] == 0
        assert (t.holdings >= 0).all()
        assert len(t.holdings) == 10


def test_fault_13_refusals_instead_of_a_domain_error() -> None:
    """γτ > 2η has no optimum: TWAP with a warning here, a status in the batch."""
    t = generate_ac_trajectory(1e6, 5, AlmgrenChrissParams(1e-6, 1e-5, 0.95, 0.5, 1.0), 2e-6)
    assert "eta - gamma*tau/2 must be > 0" in t.params["warnings"][0]
    assert sound(t)
    grid = solve_linear_grid(1e-6, 1e-5, 0.95, 0, [1e6], horizon=5.0, n_steps=5, risk_aversion=[2e-6])
    assert grid.status.item() == SolveStatus.TWAP_ETA_TILDE


def test_fault_13_scalars_only() -> None:
    remaining, slices = linear_shapes(np.linspace(0, 10, 21).reshape(3, 7), 48)
    assert remaining.shape == (3, 7, 49)
    assert slices.shape == (3, 7, 48)


def test_fault_08_cap_is_kept_or_refused() -> None:
    """Others report a broken cap (3,505.6 for 500) in a warning; float ceilings add an interval for exact multiples."""
    kept = schedule_order(5000, 10, smoke(10), 0.1, max_slice=500)
    assert kept.trade_sizes.max() <= 500
    with pytest.raises(InfeasibleSchedule, match="shortest feasible duration is 11"):
        schedule_order(5001, 10, smoke(10), 0.1, max_slice=500)
    assert len(schedule_order(100.0, 4, smoke(4), 0.0, max_slice=0.29 * 100).trade_sizes) == 4


def test_fault_10_exponent_reaches_the_schedule() -> None:
    params = dataclasses.replace(SMOKE, tau=0.1)
    first = [
        generate_ac_trajectory(5000, 10, dataclasses.replace(params, alpha=a), 10.0, impact_law="power").trade_sizes[0]
        for a in (0.3, 0.5, 0.7, 1.0)
    ]
    assert len(set(first)) == 4


def test_fault_21_infeasible_cap_is_no_schedule() -> None:
    """Others answer a cap of 10 with [10 10 10 10 60], in silence."""
    with pytest.raises(InfeasibleSchedule) as refused:
        schedule_order(100, 5, smoke(5), 1e-3, max_slice=10)
    assert refused.value.shortest_duration == 10


def test_fault_24_quotients_of_floats() -> None:
    for size, lot, lots in ((0.3, 0.1, 3), (0.6, 0.2, 3), (0.7, 0.1, 7), (4.35, 0.05, 87)):
        t = schedule_order(size, 5, smoke(5), 0.0, lot_size=lot)
        assert (sum(t.params["lots"]), t.params["remainder"], len(t.trade_sizes)) == (lots, 0, 5)
