"""Baselines: costed like the optimum, and a randomised TWAP that never sells back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tributary_opt import (
    AlmgrenChrissParams,
    AlmgrenChrissStrategy,
    ExecutionStrategy,
    ExecutionTrajectory,
    MarketOrderStrategy,
    StrategyComparison,
    TWAPStrategy,
    calibrate_ac_params,
    generate_ac_trajectory,
    generate_market_order_trajectory,
    generate_twap_trajectory,
)
from tributary_opt.optimization import (
    AlmgrenChrissCappedStrategy,
    AlmgrenChrissVolumeTimeStrategy,
    POVStrategy,
    VWAPStrategy,
    VWAPTrackingStrategy,
    cost_and_variance,
    generate_ac_volume_time_trajectory,
    generate_pov_trajectory,
    generate_vwap_tracking_trajectory,
    generate_vwap_trajectory,
    schedule_order,
)
from tributary_opt.optimization.problem import Problem
from tributary_opt.optimization.solver import solve_tracking

EPS = np.finfo(float).eps


@pytest.fixture(scope="module")
def params() -> AlmgrenChrissParams:
    return calibrate_ac_params(50_000, 0.02, 0.05, 0.50, tau=0.1)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 48, 500, 10_000])
def test_twap_cost_and_variance_are_the_papers_equations_10_and_11(params: AlmgrenChrissParams, n: int) -> None:
    p = dataclasses.replace(params, tau=1 / n)
    t = generate_twap_trajectory(5000, n, p)
    np.testing.assert_array_equal(t.trade_sizes, np.full(n, 5000 * (1 / n)))
    eta_tilde = p.eta - p.gamma * p.tau / 2
    cost = p.gamma * 5000**2 / 2 + p.epsilon * 5000 + eta_tilde * 5000**2
    variance = p.sigma**2 * 5000**2 / 3 * (1 - 1 / n) * (1 - 1 / (2 * n))
    assert t.params["expected_cost"] == pytest.approx(cost, rel=1e-13)
    assert t.params["cost_variance"] == pytest.approx(variance, rel=1e-13)
    assert t.params["half_life"] == pytest.approx(0.5, rel=1e-14)
    assert t.risk_aversion == 0
    assert t.strategy_name == "twap"


def test_market_order_cost_is_the_papers_equation_13(params: AlmgrenChrissParams) -> None:
    for n in (1, 7):
        t = generate_market_order_trajectory(5000, params, n)
        assert t.trade_sizes[0] == 5000
        assert (t.trade_sizes[1:] == 0).all()
        assert t.params["cost_variance"] == 0
        assert t.params["expected_cost"] == pytest.approx(0.01 * 5000 + params.eta * 5000**2 / params.tau, rel=1e-14)
        assert t.risk_aversion == t.params["kappa"] == t.params["urgency"] == math.inf
        assert t.params["decay_time"] == 0
        assert t.params["half_life"] == params.tau / 2
    midprice = generate_market_order_trajectory(5000, params, permanent="midprice")
    extra = params.gamma * 5000**2 / 2
    assert midprice.params["expected_cost"] == pytest.approx(t.params["expected_cost"] + extra, rel=1e-14)


@pytest.mark.parametrize("permanent", ["paper", "midprice"])
@pytest.mark.parametrize("lam", [0.0, 1e-6, 1e-2, 0.5, 30.0])
def test_no_strategy_beats_the_optimum(params: AlmgrenChrissParams, lam: float, permanent: str) -> None:
    def value(t: object) -> float:
        return t.params["expected_cost"] + lam * t.params["cost_variance"]  # type: ignore[attr-defined, no-any-return]

    best = value(generate_ac_trajectory(5000, 10, params, lam, permanent=permanent))  # type: ignore[arg-type]
    others = [
        generate_twap_trajectory(5000, 10, params, permanent=permanent),  # type: ignore[arg-type]
        generate_market_order_trajectory(5000, params, 10, permanent=permanent),  # type: ignore[arg-type]
        *(generate_twap_trajectory(5000, 10, params, True, 1.0, s, permanent=permanent) for s in range(20)),  # type: ignore[arg-type]
        *(generate_ac_trajectory(5000, 10, params, x, permanent=permanent) for x in (1e-4, 0.1, 5.0)),  # type: ignore[arg-type]
    ]
    assert all(best <= value(other) * (1 + 1e-14) for other in others)


# --- randomised TWAP -------------------------------------------------------------------------------------------------


@given(
    size=st.floats(1e-250, 1e250),
    n=st.integers(1, 400),
    pct=st.one_of(st.just(1.0), st.just(0.0), st.floats(0, 1)),
    seed=st.integers(0, 2**63),
)
@settings(max_examples=250, deadline=None)
@example(size=0.99999, n=2, pct=1.0, seed=0)  # the smaller slice fell between two places of the larger one's last digit
def test_randomised_slices_are_never_negative_and_add_up_exactly(size: float, n: int, pct: float, seed: int) -> None:
    t = generate_twap_trajectory(size, n, None, True, pct, seed)
    assert (t.trade_sizes >= 0).all()
    assert math.fsum(t.trade_sizes) == size
    assert t.holdings[0] == size
    assert t.holdings[-1] == 0
    assert (np.diff(t.holdings) <= 0).all()
    mean = size / n
    assert (np.abs(t.trade_sizes - mean) <= 2 * max(pct, n * EPS) * mean / max(1 - pct, 1 / n)).all()


def test_randomised_twap_repeats_under_its_seed(params: AlmgrenChrissParams) -> None:
    first, again, other = (generate_twap_trajectory(1000, 50, params, True, 0.1, s) for s in (7, 7, 8))
    np.testing.assert_array_equal(first.trade_sizes, again.trade_sizes)
    assert first.params["expected_cost"] == again.params["expected_cost"]
    assert (first.trade_sizes != other.trade_sizes).any()
    unseeded = [generate_twap_trajectory(1000, 50, params, randomize=True).trade_sizes for _ in range(2)]
    assert (unseeded[0] != unseeded[1]).any()


def test_randomised_twap_is_costed_as_it_is(params: AlmgrenChrissParams) -> None:
    t = generate_twap_trajectory(1000, 50, params, True, 0.5, 1)
    e, v = cost_and_variance(
        t.trade_sizes, eta=params.eta, gamma=params.gamma, sigma=params.sigma, tau=params.tau, epsilon=params.epsilon
    )
    assert t.params["expected_cost"] == pytest.approx(float(e), rel=1e-13)
    assert t.params["cost_variance"] == pytest.approx(float(v), rel=1e-13)
    assert t.params["expected_cost"] > generate_twap_trajectory(1000, 50, params).params["expected_cost"]
    assert 0.4 < t.trade_sizes.min() / 20 < 0.9
    assert 1.1 < t.trade_sizes.max() / 20 < 1.6


@pytest.mark.parametrize("pct", [-0.1, 1.5, math.nan, math.inf])
def test_randomising_by_more_than_the_slice_is_refused(params: AlmgrenChrissParams, pct: float) -> None:
    t = generate_twap_trajectory(1000, 10, params, True, pct)
    assert np.isnan(t.trade_sizes).all()
    assert f"random_pct must be from 0 to 1, got {pct:g}" in t.params["warnings"][0]


def test_wrong_types_raise(params: AlmgrenChrissParams) -> None:
    with pytest.raises(TypeError, match="randomize must be True or False"):
        generate_twap_trajectory(1000, 10, params, "yes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="random_pct must be a real number"):
        generate_twap_trajectory(1000, 10, params, True, "0.1")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        generate_twap_trajectory(1000, 10, params, True, 0.1, "seed")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="params must be AlmgrenChrissParams"):
        generate_market_order_trajectory(1000, 10)  # type: ignore[arg-type]


# --- without parameters, and with bad values -------------------------------------------------------------------------


def test_schedule_without_parameters_has_unknown_cost_and_says_so() -> None:
    for t in (generate_twap_trajectory(1000, 10), generate_market_order_trajectory(1000)):
        assert math.isnan(t.total_cost_estimate)
        assert math.isnan(t.params["expected_cost"])
        assert math.isnan(t.params["cost_variance"])
        assert "no params given: the cost is unknown" in t.params["warnings"][0]
        assert t.holdings[0] == 1000
        assert math.fsum(t.trade_sizes) == 1000


@pytest.mark.parametrize("size", [0, -5, math.nan])
def test_bad_values_give_nan_and_say_so(params: AlmgrenChrissParams, size: float) -> None:
    for t in (
        generate_twap_trajectory(size, 10, params),
        generate_market_order_trajectory(size, params),
        generate_twap_trajectory(1000, 0, params),
        generate_twap_trajectory(1000, 10, dataclasses.replace(params, eta=math.nan)),
    ):
        assert np.isnan(t.holdings).all()
        assert np.isnan(t.trade_sizes).all()
        assert math.isnan(t.total_cost_estimate)
        assert t.params["warnings"]


# --- classes ---------------------------------------------------------------------------------------------------------


def test_strategy_classes_follow_the_protocol_and_their_functions(params: AlmgrenChrissParams) -> None:
    pairs = [
        (AlmgrenChrissStrategy(params, 0.1), generate_ac_trajectory(1000, 10, params, 0.1, side="buy")),
        (TWAPStrategy(params), generate_twap_trajectory(1000, 10, params, side="buy")),
        (TWAPStrategy(params, True, 0.3, 5), generate_twap_trajectory(1000, 10, params, True, 0.3, 5, side="buy")),
        (MarketOrderStrategy(params), generate_market_order_trajectory(1000, params, 10, side="buy")),
    ]
    for strategy, expected in pairs:
        assert isinstance(strategy, ExecutionStrategy)
        t = strategy.generate_trajectory(1000, 10, "buy")  # type: ignore[attr-defined]
        assert t.strategy_name == expected.strategy_name
        np.testing.assert_array_equal(t.trade_sizes, expected.trade_sizes)
        assert t.params == expected.params


# ---------------------------------------------------------------------------------------------------------------------
# Volume: VWAP, participation, volume time, tracking; power law
# ---------------------------------------------------------------------------------------------------------------------

DAY = AlmgrenChrissParams(4e-5, 4e-6, 0.025, 0.5, 0.25, epsilon=0.01, price=0.5, reference_rate=500.0)
VOLUME = np.array([4e4, 1e4, 0.0, 5e4])


def test_vwap_follows_the_volume_and_is_the_risk_neutral_point() -> None:
    t = generate_vwap_trajectory(1000, VOLUME, DAY)
    np.testing.assert_allclose(t.trade_sizes, [400, 100, 0, 500], rtol=1e-14)
    neutral = generate_ac_volume_time_trajectory(1000, VOLUME, DAY, 0.0)
    np.testing.assert_allclose(neutral.trade_sizes, t.trade_sizes, rtol=1e-14)
    assert neutral.params["expected_cost"] == pytest.approx(t.params["expected_cost"], rel=1e-14)


def test_vwap_without_volume_is_twap_with_a_warning() -> None:
    t = generate_vwap_trajectory(1000, np.zeros(4), DAY)
    np.testing.assert_array_equal(t.trade_sizes, np.full(4, 250.0))
    assert any("all zero" in w for w in t.params["warnings"])
    assert np.isnan(generate_vwap_trajectory(1000, [1.0, -1.0], DAY).holdings).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda v: generate_twap_trajectory(1000, 4, DAY, volume_profile=v),
        lambda v: generate_twap_trajectory(1000, 4, DAY, True, 0.1, 1, volume_profile=v),
        lambda v: generate_market_order_trajectory(1000, DAY, 4, volume_profile=v),
        lambda v: generate_ac_volume_time_trajectory(1000, v, DAY, 1.0),
        lambda v: generate_vwap_tracking_trajectory(1000, v, DAY, 1.0, 1.0),
        lambda v: schedule_order(1000, 4, DAY, 1.0, volume_profile=v),
    ],
)
def test_profile_without_volume_is_flat_and_said_to_be(make: Callable[[Any], ExecutionTrajectory]) -> None:
    none, flat = make(np.zeros(4)), make(np.ones(4))
    (said,) = (w for w in none.params["warnings"] if "volume_profile" in w)
    assert said.startswith("volume_profile is all zero: taken as flat")
    assert none.params["expected_cost"] == pytest.approx(flat.params["expected_cost"], rel=1e-13)
    if len(flat.trade_sizes) > 1 and flat.strategy_name != "twap":
        np.testing.assert_allclose(none.holdings, flat.holdings, rtol=1e-13)


@pytest.mark.parametrize(
    "make", [lambda v: generate_twap_trajectory(1000, 2, DAY, volume_profile=v),
             lambda v: generate_market_order_trajectory(1000, DAY, 2, volume_profile=v)],
)  # fmt: skip
@pytest.mark.parametrize("bad", [[1.0, -1.0], [1.0, np.nan], [np.inf, 1.0]])
def test_profile_that_is_none_is_refused_where_costs_are_reckoned_on_it(make: Any, bad: list[float]) -> None:
    t = make(bad)
    assert np.isnan(t.holdings).all()
    assert np.isnan(t.total_cost_estimate)
    assert any("volume_profile must be finite and >= 0" in w for w in t.params["warnings"])


def test_participation_in_no_volume_trades_nothing_and_says_so() -> None:
    t = generate_pov_trajectory(1000, np.zeros(4), 0.1, DAY)
    np.testing.assert_array_equal(t.trade_sizes, np.zeros(4))
    assert t.params["residual"] == 1000
    assert np.isnan(t.params["finish_time"])
    assert any("nothing is traded" in w for w in t.params["warnings"])
    assert not any("TWAP" in w for w in t.params["warnings"])


def test_volume_time_with_a_flat_profile_is_almgren_chriss() -> None:
    for lam in (0.0, 1e-3, 1e2):
        flat = generate_ac_volume_time_trajectory(1000, np.full(4, 7.0), DAY, lam)
        plain = generate_ac_trajectory(1000, 4, DAY, lam)
        np.testing.assert_allclose(flat.trade_sizes, plain.trade_sizes, rtol=1e-13)
        assert flat.params["expected_cost"] == pytest.approx(plain.params["expected_cost"], rel=1e-13)


@pytest.mark.parametrize(("lam", "tracking"), [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (30.0, 1e3)])
def test_tracking_is_consistent_in_time(lam: float, tracking: float) -> None:
    """Who starts again from what is left, towards the same path in contracts, does nothing else."""
    rng = np.random.default_rng(4)
    size, n = 1000.0, 12
    impact, sd = rng.uniform(0.5, 2.0, n) * 1e-3, rng.uniform(0.5, 2.0, n) * 1e-2
    path = np.append(np.sort(rng.random(n - 1))[::-1], 0.0)
    whole = Problem.of(size, impact, sd, lam, permanent="midprice")
    first = solve_tracking(whole, path, tracking)
    for cut in (1, 5, 11):
        held = float(first.holdings[cut])
        rest = solve_tracking(whole.tail(cut, held), path[cut:] * size / held, tracking)
        np.testing.assert_allclose(rest.slices, first.slices[cut:], rtol=1e-11, atol=1e-13 * held)


def test_participation_reports_when_it_finishes_and_what_is_left() -> None:
    t = generate_pov_trajectory(4500, VOLUME, 0.1, DAY)
    np.testing.assert_array_equal(t.trade_sizes, [4000, 500, 0, 0])
    assert t.params["finish_time"] == 0.5
    assert t.params["residual"] == 0
    short = generate_pov_trajectory(20_000, VOLUME, 0.1, DAY)
    assert short.params["residual"] == 10_000
    assert short.holdings[-1] == 10_000
    assert math.isnan(short.params["finish_time"])
    assert any("10000 of 20000 contracts are left" in w for w in short.params["warnings"])
    ten = generate_pov_trajectory(1.0, np.ones(10), 0.1, DAY)
    assert ten.params["residual"] == 0
    assert ten.params["finish_time"] == 2.5


@pytest.mark.parametrize("n", [10, 364, 9_999])
def test_participation_adds_up_however_many_slices_it_takes(n: int) -> None:
    """What rounding loses of what is left, slice by slice, is traded with the last one, or left with the rest."""
    rng = np.random.default_rng(n)
    for volume, size in ((np.ones(n), 0.05 * n), (rng.random(n), 0.02 * n), (rng.random(n), 0.03 * n)):
        t = generate_pov_trajectory(size, volume, 0.05, DAY)
        traded = sum(map(Fraction, t.trade_sizes)) + Fraction(t.params["residual"])
        assert abs(traded - Fraction(size)) <= 2 * Fraction(float(np.spacing(size)))
        assert (t.trade_sizes <= 0.05 * volume + n * 2.0**-52 * size).all()
        assert (np.diff(t.holdings) <= 0).all()


def test_slices_beyond_the_convexity_limit_are_named() -> None:
    """There a trade pays less than it moves: one huge slice looks cheaper than TWAP, and no optimum exists."""
    market = AlmgrenChrissParams(2.5e-6, 2.5e-7, 0.95, 0.5, 1.0, epsilon=0.0625, price=50.0, reference_rate=5e4)
    law: Any = {"impact_law": "power", "permanent": "paper"}
    for t in (
        generate_twap_trajectory(1e8, 5, market, **law),
        generate_vwap_trajectory(1e8, np.ones(5), market, **law),
        generate_market_order_trajectory(1e8, market, 5, **law),
    ):
        assert t.params["status"] == "beyond_convexity"
        assert "n* = 2.8125e+06" in t.params["warnings"][-1]
        assert math.isfinite(t.total_cost_estimate)
    assert generate_twap_trajectory(1e6, 5, market, **law).params["status"] == "ok"
    best, twap, market_order = (
        generate_ac_trajectory(1e6, 5, market, 1e-6, **law),
        generate_twap_trajectory(1e6, 5, market, **law),
        generate_market_order_trajectory(1e6, market, 5, **law),
    )
    assert market_order.total_cost_estimate > best.total_cost_estimate > twap.total_cost_estimate > 0


def test_tracking_lies_between_almgren_chriss_and_vwap() -> None:
    volume = np.array([1.0, 3.0, 0.0, 2.0, 4.0])
    vwap = generate_vwap_trajectory(1000, volume, DAY)
    for lam in (1e-2, 10.0):
        pure = generate_ac_volume_time_trajectory(1000, volume, DAY, lam)
        near = generate_vwap_tracking_trajectory(1000, volume, DAY, lam, 0.0)
        np.testing.assert_allclose(near.holdings, pure.holdings, rtol=1e-12, atol=1e-9)
        far = generate_vwap_tracking_trajectory(1000, volume, DAY, lam, 1e12)
        np.testing.assert_allclose(far.holdings, vwap.holdings, rtol=1e-8, atol=1e-8)
        half = generate_vwap_tracking_trajectory(1000, volume, DAY, lam, 30.0)
        assert (half.trade_sizes >= 0).all()
        assert (half.holdings <= vwap.holdings + 1e-9).all()
        assert (half.holdings >= pure.holdings - 1e-9).all()


def test_tracking_solves_its_optimality_conditions() -> None:
    volume, lam, pull = np.array([1.0, 3.0, 2.0, 4.0, 1.0, 2.0]), 3.0, 8.0
    t = generate_vwap_tracking_trajectory(1000, volume, DAY, lam, pull)
    weights = volume / volume.sum()
    a = (4e-5 - 4e-6 * 0.125) / 0.25 / (6 * weights)
    s, y = 0.025**2 * 0.25, 1000 * (1 - np.cumsum(weights))[:-1]
    matrix = np.diag(a[:-1] + a[1:] + (lam + pull) * s) - np.diag(a[1:-1], 1) - np.diag(a[1:-1], -1)
    right = pull * s * y
    right[0] += a[0] * 1000
    np.testing.assert_allclose(t.holdings[1:-1], np.linalg.solve(matrix, right), rtol=1e-11)


def test_power_law_differs_and_has_its_own_time_scale() -> None:
    power = generate_ac_trajectory(1000, 10, DAY, 1.0, impact_law="power")
    linear = generate_ac_trajectory(1000, 10, DAY, 1.0)
    assert power.params["permanent"] == "midprice"
    assert abs(power.trade_sizes[0] / linear.trade_sizes[0] - 1) > 0.01
    time = (0.5 * 4e-5 * 500**0.5 * 1000**-0.5 / (1.0 * 0.025**2)) ** (1 / 1.5)
    assert power.params["decay_time"] == pytest.approx(time, rel=1e-12)
    assert power.params["urgency"] == pytest.approx(2.5 / time, rel=1e-12)
    one = dataclasses.replace(DAY, alpha=1.0)
    for permanent in ("paper", "midprice"):
        a = generate_ac_trajectory(1000, 10, one, 1.0, impact_law="power", permanent=permanent)
        b = generate_ac_trajectory(1000, 10, one, 1.0, permanent=permanent)
        np.testing.assert_array_equal(a.holdings, b.holdings)
        assert a.params["expected_cost"] == pytest.approx(b.params["expected_cost"], rel=1e-15)


def test_power_law_beyond_its_convexity_is_refused_with_the_limit() -> None:
    t = generate_ac_trajectory(1e9, 10, DAY, 1.0, impact_law="power", permanent="paper")
    assert np.isnan(t.holdings).all()
    assert any("n* = " in w for w in t.params["warnings"])
    bad = generate_ac_trajectory(1000, 10, dataclasses.replace(DAY, alpha=1.5), 1.0, impact_law="power")
    assert any("params.alpha must be from 0.3 to 1" in w for w in bad.params["warnings"])


def test_no_strategy_beats_the_optimum_of_its_problem() -> None:
    n, rng = 6, np.random.default_rng(0)
    for law in ("linear", "power"):
        for lam in (0.0, 1e-2, 1.0, 1e3):
            volume = rng.uniform(0.2, 2.0, n) * 1e4
            best = generate_ac_volume_time_trajectory(1000, volume, DAY, lam, impact_law=law)
            others = [
                generate_vwap_trajectory(1000, volume, DAY, impact_law=law),
                generate_twap_trajectory(1000, n, DAY, impact_law=law, volume_profile=volume),
                generate_twap_trajectory(1000, n, DAY, True, 0.3, 1, impact_law=law, volume_profile=volume),
                generate_market_order_trajectory(1000, DAY, n, impact_law=law, volume_profile=volume),
                generate_pov_trajectory(1000, volume, 0.08, DAY, impact_law=law),
            ]
            least = best.params["expected_cost"] + lam * best.params["cost_variance"]
            table = StrategyComparison([best, *others], best).summary_table()
            assert len(table) == 6
            for t in others:
                assert t.params["expected_cost"] + lam * t.params["cost_variance"] >= least * (1 - 1e-12)


def test_buys_mirror_sells_in_every_strategy() -> None:
    def pair(make: Any) -> tuple[ExecutionTrajectory, ExecutionTrajectory]:
        return make(side="sell"), make(side="buy")

    for sell, buy in (
        pair(lambda side: generate_vwap_trajectory(1000, VOLUME, DAY, side=side)),
        pair(lambda side: generate_pov_trajectory(1000, VOLUME, 0.1, DAY, side=side)),
        pair(lambda side: generate_ac_volume_time_trajectory(1000, VOLUME, DAY, 1.0, side=side)),
        pair(lambda side: generate_vwap_tracking_trajectory(1000, VOLUME, DAY, 1.0, 1.0, side=side)),
        pair(lambda side: generate_ac_trajectory(1000, 4, DAY, 1.0, impact_law="power", side=side)),
        pair(lambda side: generate_twap_trajectory(1000, 4, DAY, side=side)),
        pair(lambda side: generate_twap_trajectory(1000, 4, DAY, True, seed=1, side=side)),
        pair(lambda side: generate_market_order_trajectory(1000, DAY, 4, side=side)),
        pair(lambda side: schedule_order(1000, 4, DAY, 1.0, max_slice=400, lot_size=7, side=side)),
    ):
        np.testing.assert_array_equal(sell.holdings, buy.holdings)
        assert sell.params["expected_cost"] == buy.params["expected_cost"] > 0
        assert sell.params["implied_price"] + buy.params["implied_price"] == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("market", [{"impact_law": "power"}, {"volume_profile": VOLUME}])
def test_baselines_stand_beside_any_strategy_through_the_protocol(market: dict[str, Any]) -> None:
    shared = {"permanent": "midprice", **market}
    best: ExecutionStrategy = AlmgrenChrissCappedStrategy(DAY, 1.0, **shared)
    others = [TWAPStrategy(DAY, **shared), MarketOrderStrategy(DAY, **shared)]
    table = StrategyComparison([s.generate_trajectory(1000, 4) for s in (best, *others)], "twap").summary_table()
    assert table["strategy"].tolist() == ["almgren_chriss_capped", "twap", "market_order"]
    assert (table["expected_cost_bps"] > 0).all()


def test_every_class_is_a_strategy() -> None:
    for strategy in (
        TWAPStrategy(DAY),
        MarketOrderStrategy(DAY),
        AlmgrenChrissCappedStrategy(DAY, 1.0),
        VWAPStrategy(VOLUME, DAY),
        POVStrategy(VOLUME, 0.5, DAY),
        AlmgrenChrissVolumeTimeStrategy(VOLUME, DAY, 1.0),
        VWAPTrackingStrategy(VOLUME, DAY, 1.0, 1.0),
        AlmgrenChrissStrategy(DAY, 1.0, "power"),
    ):
        assert isinstance(strategy, ExecutionStrategy)
        assert strategy.generate_trajectory(1000, 4).holdings[0] == 1000
    with pytest.raises(ValueError, match="volume_profile must have 5 entries"):
        VWAPStrategy(VOLUME, DAY).generate_trajectory(1000, 5)


def test_costs_on_different_profiles_do_not_share_a_table() -> None:
    with pytest.raises(ValueError, match="volume_profile"):
        StrategyComparison(
            [generate_vwap_trajectory(1000, VOLUME, DAY), generate_twap_trajectory(1000, 4, DAY)], "twap"
        )
