"""The single-order API: parameters by rule, one schedule, and what it says about bad values."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from ac_oracle import case, number
from hypothesis import given, settings
from hypothesis import strategies as st

from tributary_opt import (
    AlmgrenChrissParams,
    ExecutionTrajectory,
    calibrate_ac_params,
    generate_ac_trajectory,
    generate_twap_trajectory,
    implied_average_price,
)
from tributary_opt.optimization import cost_and_variance, rule_parameters

EPS = np.finfo(float).eps
KEYS = {
    "kappa", "eta_tilde", "expected_cost", "cost_variance", "urgency", "decay_time", "half_life", "permanent",
    "impact_law", "side", "warnings",
}  # fmt: skip


@pytest.fixture(scope="module")
def params() -> AlmgrenChrissParams:
    return calibrate_ac_params(daily_volume=50_000, daily_spread=0.02, daily_volatility=0.05, price=0.50)


def everything_nan(t: ExecutionTrajectory) -> bool:
    numbers = [t.params[k] for k in ("kappa", "expected_cost", "cost_variance", "half_life", "urgency")]
    arrays = [t.timestamps, t.holdings, t.trade_sizes, np.array([*numbers, t.total_cost_estimate])]
    return all(len(a) > 0 and bool(np.isnan(a).all()) for a in arrays)


# --- parameters ------------------------------------------------------------------------------------------------------


def test_params_creation_with_defaults() -> None:
    p = AlmgrenChrissParams(eta=0.04, gamma=0.004, sigma=0.025, alpha=0.5, tau=1.0)
    assert (p.eta, p.gamma, p.sigma, p.alpha, p.tau) == (0.04, 0.004, 0.025, 0.5, 1.0)
    assert p.source_calibration is None
    assert p.warnings == ()
    assert p.epsilon == 0
    assert math.isnan(p.price)
    assert math.isnan(p.reference_rate)


def test_params_creation_with_source_calibration() -> None:
    source = object()
    assert AlmgrenChrissParams(0.04, 0.004, 0.025, 0.5, 1.0, source).source_calibration is source
    assert calibrate_ac_params(50_000, 0.02, 0.05, 0.5, source_calibration=source).source_calibration is source


def test_params_are_frozen(params: AlmgrenChrissParams) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.eta = 0.05  # type: ignore[misc]


def test_trajectory_is_frozen(params: AlmgrenChrissParams) -> None:
    t = generate_ac_trajectory(1000, 10, params)
    with pytest.raises(dataclasses.FrozenInstanceError):
        t.strategy_name = "other"  # type: ignore[misc]


def test_trajectory_creation() -> None:
    t = ExecutionTrajectory(np.arange(3.0), np.array([2.0, 1.0, 0.0]), np.ones(2), "mine", 1.5, 1e-5)
    assert t.params == {}
    assert t.total_cost_estimate == 1.5


# --- calibration -----------------------------------------------------------------------------------------------------


def test_calibrate_basic(params: AlmgrenChrissParams) -> None:
    assert params.eta == pytest.approx(4e-5, rel=1e-15)
    assert params.gamma == pytest.approx(4e-6, rel=1e-15)
    assert params.sigma == pytest.approx(0.025, rel=1e-15)
    assert params.epsilon == 0.01
    assert params.price == 0.50
    assert params.alpha == 0.5
    assert params.tau == 1.0
    assert params.reference_rate == 500
    assert params.warnings == ()


def test_calibrate_eta_is_a_spread_per_one_percent_of_volume() -> None:
    assert calibrate_ac_params(3e6, 0.07, 0.02, 12.0).eta == 0.07 / (0.01 * 3e6)


def test_calibrate_gamma_is_a_spread_per_ten_percent_of_volume() -> None:
    assert calibrate_ac_params(3e6, 0.07, 0.02, 12.0).gamma == 0.07 / (0.10 * 3e6)


def test_calibrate_sigma_is_in_price_units() -> None:
    assert calibrate_ac_params(3e6, 0.07, 0.02, 12.0).sigma == 0.02 * 12.0


@pytest.mark.parametrize("volume", [0, -1000, math.nan, math.inf])
def test_calibrate_invalid_volume(volume: float) -> None:
    p = calibrate_ac_params(volume, 0.02, 0.05, 0.50)
    assert all(math.isnan(v) for v in (p.eta, p.gamma, p.sigma, p.epsilon, p.reference_rate))
    assert len(p.warnings) == 1
    assert p.warnings[0].startswith(f"daily_volume must be finite and > 0, got {volume}")


@pytest.mark.parametrize(
    ("argument", "value", "rule"),
    [
        ("daily_spread", -0.01, "finite and >= 0"),
        ("daily_spread", math.nan, "finite and >= 0"),
        ("daily_volatility", -0.1, "finite and >= 0"),
        ("daily_volatility", math.inf, "finite and >= 0"),
        ("price", 0.0, "finite and > 0"),
        ("price", math.nan, "finite and > 0"),
    ],
)
def test_calibrate_invalid_market_data(argument: str, value: float, rule: str) -> None:
    good = {"daily_volume": 50_000.0, "daily_spread": 0.02, "daily_volatility": 0.05, "price": 0.50}
    p = calibrate_ac_params(**{**good, argument: value})
    assert math.isnan(p.eta)
    assert math.isnan(p.sigma)
    (warning,) = p.warnings
    assert f"{argument} must be {rule}, got {value:g}: " in warning
    assert warning.split(": ")[1]  # the way out


def test_calibrate_invalid_tau_and_alpha() -> None:
    p = calibrate_ac_params(50_000, 0.02, 0.05, 0.50, alpha=1.5, tau=0)
    assert math.isnan(p.tau)
    assert math.isnan(p.alpha)
    assert any("alpha must be > 0 and <= 1, got 1.5" in w for w in p.warnings)
    assert any("tau must be finite and > 0, got 0" in w for w in p.warnings)
    assert everything_nan(generate_ac_trajectory(1000, 10, p))


def test_calibrate_eta_tilde_warning() -> None:
    """By the rule η̃ = η(1 - τ/20): steps of 20 days and more leave nothing to optimise."""
    assert calibrate_ac_params(50_000, 0.02, 0.05, 0.50, tau=19.9).warnings == ()
    (warning,) = calibrate_ac_params(50_000, 0.02, 0.05, 0.50, tau=25.0).warnings
    assert "eta - gamma*tau/2 must be > 0, got -1e-05 at tau=25 day" in warning
    assert "shorter steps" in warning


def test_calibrate_zero_spread() -> None:
    p = calibrate_ac_params(50_000, 0, 0.05, 0.50)
    assert (p.eta, p.gamma, p.epsilon, p.sigma) == (0, 0, 0, 0.025)
    assert "daily_spread is 0" in p.warnings[0]
    t = generate_ac_trajectory(1000, 10, p, 1e-5)
    np.testing.assert_array_equal(t.trade_sizes, np.full(10, 100.0))
    assert t.params["status"] == "twap_eta_tilde"
    assert p.warnings[0] in t.params["warnings"]


def test_calibrate_beyond_the_double_range() -> None:
    p = calibrate_ac_params(1e-305, 1e10, 0.05, 0.5)
    assert math.isnan(p.eta)
    assert "double range" in p.warnings[0]


@pytest.mark.parametrize("wrong", ["50000", None, True, [1.0], np.array([1.0, 2.0]), 1j])
def test_calibrate_wrong_types_raise(wrong: Any) -> None:
    with pytest.raises(TypeError, match="daily_volume must be a real number"):
        calibrate_ac_params(wrong, 0.02, 0.05, 0.50)


good_or_bad = st.one_of(st.floats(1e-6, 1e9), st.sampled_from([0.0, -1.0, math.nan, math.inf]))


@given(st.lists(st.tuples(*(good_or_bad for _ in range(4))), min_size=1, max_size=9))
@settings(max_examples=150, deadline=None)
def test_calibrate_equals_one_row_of_the_vectorised_rule(rows: list[tuple[float, float, float, float]]) -> None:
    rule = rule_parameters(*(np.array(column) for column in zip(*rows, strict=True)))
    for i, row in enumerate(rows):
        p = calibrate_ac_params(*row)
        for name in ("eta", "gamma", "sigma", "epsilon", "reference_rate"):
            np.testing.assert_array_equal(getattr(p, name), getattr(rule, name)[i])
        assert rule.valid[i] == math.isfinite(p.eta)
        assert rule.valid[i] or p.warnings


# --- one trajectory --------------------------------------------------------------------------------------------------


def test_trajectory_equals_twap_when_risk_neutral(params: AlmgrenChrissParams) -> None:
    t, twap = generate_ac_trajectory(1000, 10, params, 0), generate_twap_trajectory(1000, 10, params)
    np.testing.assert_array_equal(t.trade_sizes, np.full(10, 100.0))
    np.testing.assert_array_equal(t.holdings, np.arange(1000, -1, -100))
    np.testing.assert_array_equal(t.holdings, twap.holdings)
    assert t.params["expected_cost"] == twap.params["expected_cost"]
    assert t.params["cost_variance"] == twap.params["cost_variance"]
    assert t.params["decay_time"] == math.inf


@pytest.mark.parametrize("lam", [0.0, 1e-9, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("n", [1, 2, 10, 500])
def test_trajectory_sums_to_the_order(params: AlmgrenChrissParams, lam: float, n: int) -> None:
    t = generate_ac_trajectory(1000 / 3, n, params, lam)
    assert abs(math.fsum(t.trade_sizes) - 1000 / 3) <= 4 * EPS * 1000 / 3


@pytest.mark.parametrize("lam", [0.0, 1e-9, 1e-3, 1.0])
def test_trajectory_is_positive(params: AlmgrenChrissParams, lam: float) -> None:
    t = generate_ac_trajectory(1000, 10, params, lam)
    assert (t.trade_sizes > 0).all()
    assert (t.holdings[:-1] > 0).all()


def test_front_loading_rises_with_risk_aversion(params: AlmgrenChrissParams) -> None:
    lam = [0, 1e-9, 1e-7, 1e-5, 1e-3, 1e-1, 10.0, 1e6]
    first = [generate_ac_trajectory(1000, 10, params, x).trade_sizes[0] for x in lam]
    assert (np.diff(first) > 0).all()
    t = generate_ac_trajectory(1000, 10, params, 1e-3)
    assert (np.diff(t.trade_sizes) < 0).all()


@given(
    size=st.floats(1e-300, 1e300),
    n=st.integers(1, 200),
    lam=st.one_of(st.just(0.0), st.floats(1e-300, 1e300)),
    market=st.tuples(*(st.floats(1e-12, 1e12) for _ in range(3)), st.floats(1e-6, 1e3)),
)
@settings(max_examples=300, deadline=None)
def test_trajectory_starts_at_the_order_ends_at_zero_and_never_rises(
    size: float, n: int, lam: float, market: tuple[float, float, float, float]
) -> None:
    eta, gamma, sigma, tau = market
    t = generate_ac_trajectory(size, n, AlmgrenChrissParams(eta, gamma, sigma, 0.5, tau), lam)
    assert t.holdings[0] == size
    assert t.holdings[-1] == 0
    assert not np.signbit(t.holdings[-1])
    assert (np.diff(t.holdings) <= 0).all()
    assert (t.trade_sizes >= 0).all()
    assert abs(math.fsum([size, *(-t.trade_sizes)])) <= 4 * EPS * size + n * 5e-324
    assert len(t.timestamps) == len(t.holdings) == len(t.trade_sizes) + 1 == n + 1


def test_trajectory_carries_what_a_reader_needs(params: AlmgrenChrissParams) -> None:
    t = generate_ac_trajectory(5000, 10, dataclasses.replace(params, tau=0.1), 0.1, side="buy", permanent="midprice")
    assert set(t.params) >= KEYS
    assert t.strategy_name == "almgren_chriss"
    assert t.risk_aversion == 0.1
    np.testing.assert_allclose(t.timestamps, np.arange(11) / 10, rtol=1e-15)
    p = t.params
    assert p["side"] == "buy"
    assert p["permanent"] == "midprice"
    assert p["impact_law"] == "linear"
    assert p["eta_tilde"] == params.eta
    assert p["urgency"] == pytest.approx(p["kappa"] * 1.0, rel=1e-15)
    assert p["decay_time"] == pytest.approx(1 / p["kappa"], rel=1e-15)
    assert np.interp(-2500, -t.holdings, t.timestamps) == pytest.approx(p["half_life"], rel=1e-12)
    assert t.total_cost_estimate == pytest.approx(p["expected_cost"] / (5000 * 0.5) * 1e4, rel=1e-15)
    assert p["implied_price"] == pytest.approx(0.5 + p["expected_cost"] / 5000)
    assert p["warnings"] == ()
    assert p["status"] == "ok"


def test_trajectory_cost_is_the_cost_of_its_own_slices(params: AlmgrenChrissParams) -> None:
    for permanent in ("paper", "midprice"):
        t = generate_ac_trajectory(5000, 24, params, 0.3, permanent=permanent)  # type: ignore[arg-type]
        e, v = cost_and_variance(
            t.trade_sizes, eta=params.eta, gamma=params.gamma, sigma=params.sigma, tau=params.tau,
            epsilon=params.epsilon, permanent=permanent,  # type: ignore[arg-type]
        )  # fmt: skip
        assert t.params["expected_cost"] == pytest.approx(float(e), rel=1e-14)
        assert t.params["cost_variance"] == pytest.approx(float(v), rel=1e-14)


def test_permanent_conventions_differ_by_half_a_move_per_slice(params: AlmgrenChrissParams) -> None:
    """At λ = 0 the schedules agree, and the midprice order pays (γ/2) Σ n² more."""
    paper = generate_ac_trajectory(5000, 10, params, 0)
    midprice = generate_ac_trajectory(5000, 10, params, 0, permanent="midprice")
    assert paper.params["permanent"] == "paper"
    difference = midprice.params["expected_cost"] - paper.params["expected_cost"]
    assert difference == pytest.approx(params.gamma / 2 * 10 * 500**2, rel=1e-12)


@pytest.mark.parametrize("order_size", [0, -1000, math.nan, math.inf])
def test_invalid_order_size_gives_nan_and_says_so(params: AlmgrenChrissParams, order_size: float) -> None:
    t = generate_ac_trajectory(order_size, 10, params, 1e-5)
    assert everything_nan(t)
    assert len(t.holdings) == 11
    (warning,) = t.params["warnings"]
    assert warning.startswith(f"order_size must be finite and > 0, got {order_size}: ")
    assert set(t.params) >= KEYS


@pytest.mark.parametrize("duration", [0, -3, 2.5, math.nan, math.inf, 10**9])
def test_invalid_duration_gives_nan_and_says_so(params: AlmgrenChrissParams, duration: float) -> None:
    t = generate_ac_trajectory(1000, duration, params, 1e-5)  # type: ignore[arg-type]
    assert everything_nan(t)
    assert any(f"duration_periods must be a whole number from 1 to 1000000, got {duration}" in w
               for w in t.params["warnings"])  # fmt: skip


@pytest.mark.parametrize("lam", [-1e-6, math.nan, math.inf])
def test_invalid_risk_aversion_gives_nan_and_says_so(params: AlmgrenChrissParams, lam: float) -> None:
    t = generate_ac_trajectory(1000, 10, params, lam)
    assert everything_nan(t)
    assert "risk_aversion must be finite and >= 0" in t.params["warnings"][0]


@pytest.mark.parametrize(
    ("field", "value"),
    [("eta", -1.0), ("eta", math.nan), ("gamma", -1.0), ("gamma", math.inf), ("sigma", -0.1), ("sigma", math.nan),
     ("epsilon", -0.1), ("tau", 0.0), ("tau", -1.0), ("tau", math.nan), ("tau", math.inf)],
)  # fmt: skip
def test_inadmissible_market_data_give_nan_and_say_so(params: AlmgrenChrissParams, field: str, value: float) -> None:
    t = generate_ac_trajectory(1000, 10, dataclasses.replace(params, **{field: value}), 1e-5)
    assert everything_nan(t)
    assert f"params.{field} must be finite" in t.params["warnings"][0]


def test_calibrate_then_generate() -> None:
    p = calibrate_ac_params(50_000, 0.02, 0.05, 0.50)
    t = generate_ac_trajectory(5000, 10, p, 1e-5)
    assert t.holdings[0] == 5000
    assert t.holdings[-1] == 0
    assert t.total_cost_estimate == pytest.approx(780.00224872156853, rel=1e-12)


def test_failed_calibration_explains_itself_in_the_trajectory() -> None:
    p = calibrate_ac_params(0, 0.02, 0.05, 0.50)
    t = generate_ac_trajectory(5000, 10, p, 1e-5)
    assert everything_nan(t)
    assert t.params["warnings"][0] == p.warnings[0]


def test_twap_fallback_when_eta_tilde_is_not_positive() -> None:
    p = AlmgrenChrissParams(eta=0.001, gamma=0.1, sigma=0.025, alpha=0.5, tau=1.0, price=500.0)
    t = generate_ac_trajectory(1000, 10, p, 1e-5)
    np.testing.assert_array_equal(t.trade_sizes, np.full(10, 100.0))
    (warning,) = t.params["warnings"]
    assert "eta - gamma*tau/2 must be > 0, got -0.049 at tau=1 day" in warning
    assert "TWAP" in warning
    # The true η, γ: γ Σ n x + (η/τ) Σ n², with Σ n x = 100² · 45.
    assert t.params["expected_cost"] == pytest.approx(0.1 * 450_000 + 0.001 * 100_000, rel=1e-14)
    assert t.params["kappa"] == 0
    midprice = generate_ac_trajectory(1000, 10, p, 1e-5, permanent="midprice")
    assert midprice.params["status"] == "ok"
    assert midprice.trade_sizes[0] > midprice.trade_sizes[-1]


def test_missing_price_leaves_bps_unknown_and_says_so(params: AlmgrenChrissParams) -> None:
    t = generate_ac_trajectory(1000, 10, dataclasses.replace(params, price=math.nan), 1e-5)
    assert math.isnan(t.total_cost_estimate)
    assert math.isfinite(t.params["expected_cost"])
    assert "price must be finite and > 0 for a cost in bps, got nan" in t.params["warnings"][0]


def test_cost_beyond_the_double_range_is_unknown_and_says_so(params: AlmgrenChrissParams) -> None:
    t = generate_ac_trajectory(1e200, 4, params, 1e-5)
    assert math.isnan(t.params["expected_cost"])
    assert t.holdings[0] == 1e200
    assert "double range" in t.params["warnings"][0]


def test_implied_prices_mirror(params: AlmgrenChrissParams) -> None:
    sell, buy = (generate_ac_trajectory(5000, 10, params, 1e-5, side=s) for s in ("sell", "buy"))  # type: ignore[arg-type]
    assert sell.params["expected_cost"] == buy.params["expected_cost"] > 0
    assert sell.params["implied_price"] + buy.params["implied_price"] == pytest.approx(1.0)
    assert sell.params["implied_price"] == pytest.approx(0.5 - 195.00056218039213 / 5000)
    huge = generate_ac_trajectory(500_000, 1, params, 0)
    assert huge.params["implied_price"] < 0
    assert "below 0" in huge.params["warnings"][0]
    prices = implied_average_price([[0.5], [0.9]], [10.0, 20.0], [100.0, 100.0], "buy")
    np.testing.assert_allclose(prices, [[0.6, 0.7], [1.0, 1.1]])
    with pytest.raises(ValueError, match="side must be"):
        implied_average_price(1.0, 1.0, 1.0, "long")  # type: ignore[arg-type]


def test_wrong_types_and_unknown_names_raise(params: AlmgrenChrissParams) -> None:
    with pytest.raises(TypeError, match="order_size must be a real number, got str"):
        generate_ac_trajectory("1000", 10, params)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="order_size must be a real number, got ndarray"):
        generate_ac_trajectory(np.array([1.0, 2.0]), 10, params)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="duration_periods must be a real number, got bool"):
        generate_ac_trajectory(1000, True, params)
    with pytest.raises(TypeError, match="risk_aversion must be a real number, got NoneType"):
        generate_ac_trajectory(1000, 10, params, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="params must be AlmgrenChrissParams, got dict"):
        generate_ac_trajectory(1000, 10, {"eta": 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="params must be AlmgrenChrissParams, got None"):
        generate_ac_trajectory(1000, 10, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"params\.sigma must be a real number"):
        generate_ac_trajectory(1000, 10, dataclasses.replace(params, sigma="0.1"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="impact_law must be one of linear, power, got 'cubic'"):
        generate_ac_trajectory(1000, 10, params, impact_law="cubic")
    with pytest.raises(ValueError, match="permanent must be"):
        generate_ac_trajectory(1000, 10, params, permanent="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="side must be"):
        generate_ac_trajectory(1000, 10, params, side="long")  # type: ignore[arg-type]


def test_numpy_scalars_and_whole_floats_are_numbers(params: AlmgrenChrissParams) -> None:
    plain = generate_ac_trajectory(1000, 10, params, 1e-3)
    for n in (np.int64(10), 10.0, np.float32(10), np.array(10)):
        t = generate_ac_trajectory(np.float64(1000), n, params, np.float64(1e-3))  # type: ignore[arg-type]
        np.testing.assert_array_equal(t.holdings, plain.holdings)


# --- one horizon in other units gives the same schedule --------------------------------------------------------------


def test_schedule_does_not_depend_on_units() -> None:
    """P4 in days, in hours (P6), in lots of 1000 shares (P7) and in cents (P8)."""

    def solved(name: str) -> ExecutionTrajectory:
        c = case(name)
        p = AlmgrenChrissParams(
            number(c["eta"]), number(c["gamma"]), number(c["sigma"]), 0.5, number(c["T"]) / c["N"],
            epsilon=number(c["eps"]), price=50.0,
        )  # fmt: skip
        return generate_ac_trajectory(number(c["X"]), c["N"], p, number(c["lam"]))

    days, hours, lots, cents = (solved(name) for name in ("P4", "P6", "P7", "P8"))
    for other, size, cost, rate in ((hours, 1, 1, 1 / 24), (lots, 1e-3, 1, 1), (cents, 1, 100, 1)):
        np.testing.assert_allclose(other.holdings, size * days.holdings, rtol=1e-13)
        np.testing.assert_allclose(other.trade_sizes, size * days.trade_sizes, rtol=1e-13)
        assert other.params["expected_cost"] == pytest.approx(cost * days.params["expected_cost"], rel=1e-14)
        assert other.params["cost_variance"] == pytest.approx(cost**2 * days.params["cost_variance"], rel=1e-14)
        assert other.params["kappa"] == pytest.approx(rate * days.params["kappa"], rel=1e-14)
        assert other.params["urgency"] == pytest.approx(days.params["urgency"], rel=1e-14)


@given(st.integers(-60, 60), st.integers(-30, 30), st.integers(-30, 30), st.floats(1e-6, 1e3))
@settings(max_examples=100, deadline=None)
def test_schedule_keeps_its_bits_under_powers_of_two(contract: int, currency: int, day: int, lam: float) -> None:
    """Units of contract, currency and day scaled by powers of four change no bit of the shape."""
    c, m, d = 4.0**contract, 4.0**currency, 4.0**day
    base = generate_ac_trajectory(1000.0, 20, AlmgrenChrissParams(3e-4, 2e-4, 0.3, 0.5, 0.1, epsilon=0.01), lam)
    p = AlmgrenChrissParams(
        3e-4 * m * d / c**2, 2e-4 * m / c**2, 0.3 * m / c / math.sqrt(d), 0.5, 0.1 * d, epsilon=0.01 * m / c
    )
    t = generate_ac_trajectory(1000.0 * c, 20, p, lam / m)
    np.testing.assert_array_equal(t.holdings, base.holdings * c)
    assert t.params["expected_cost"] == base.params["expected_cost"] * m
    assert t.params["urgency"] == base.params["urgency"]
