"""The public doors: an exponent from signed raw responses, its honest interval, and what bad input gives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from datetime import date

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

import tributary_opt
from tributary_opt import AlmgrenChrissParams, generate_twap_trajectory
from tributary_opt.calibration.impact import CalibrationResult, calibrate_impact_parameters, estimate_market_impact
from tributary_opt.calibration.least_squares import t_quantile

V, SIGMA, D = 1e6, 0.5, 1 / 288


def tape(
    seed: int, alpha: float = 0.5, *, n: int = 2_000, n_days: int = 20, noise: float = 1.0, wrong: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flow, moves and days of one market: symmetric t(4) noise as large as σ√D itself, some signs wrong."""
    rng = np.random.default_rng(seed)
    q = V * D * rng.standard_normal(n) * rng.lognormal(0, 0.7, n)
    move = SIGMA * math.sqrt(D) * (0.8 * np.sign(q) * (np.abs(q) / (V * D)) ** alpha + noise * rng.standard_t(4, n))
    return np.where(rng.random(n) < wrong, -q, q), move, np.arange(n) * n_days // n


def fit(q: np.ndarray, r: np.ndarray, days: np.ndarray | None = None) -> CalibrationResult:
    return calibrate_impact_parameters(q, r, V, SIGMA, duration=D, days=days)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.8])
def test_exponent_is_recovered_through_symmetric_noise(alpha: float) -> None:
    """Logs of positive moves only gave 0.026 to 0.37 for 0.5 elsewhere; the mean of 30 tapes is within 0.02 here."""
    fits = [fit(*tape(seed, alpha, n=4_000)) for seed in range(30)]
    assert np.mean([f.alpha for f in fits]) == pytest.approx(alpha, abs=0.02)
    assert np.mean([f.prefactor for f in fits]) == pytest.approx(0.8, rel=0.02)


def test_fit_is_that_of_a_general_least_squares_solver() -> None:
    q, r, days = tape(1)
    x, z = np.abs(q) / (V * D), np.sign(q) * r / (SIGMA * math.sqrt(D))
    solved = optimize.least_squares(lambda p: p[0] * x ** p[1] - z, (1.0, 0.7), xtol=1e-15, ftol=1e-15, gtol=1e-15)
    found = fit(q, r, days)
    np.testing.assert_allclose([found.prefactor, found.alpha], solved.x, rtol=1e-7)
    bread = np.linalg.inv(solved.jac.T @ solved.jac)
    scores = np.stack([(solved.jac * solved.fun[:, None])[days == d].sum(axis=0) for d in range(20)])
    covariance = bread @ (scores.T @ scores) @ bread * (20 / 19) * (1_999 / 1_998)
    np.testing.assert_allclose([found.prefactor_se, found.alpha_se], np.sqrt(np.diag(covariance)), rtol=1e-6)
    assert found.alpha_prefactor_covariance == pytest.approx(covariance[0, 1], rel=1e-6)
    assert found.r2 == pytest.approx(1 - (solved.fun**2).sum() / (z**2).sum())


@pytest.mark.parametrize("alpha", [0.4, 0.5, 0.75, 0.95])
def test_model_prices_an_order_as_the_book_it_was_fitted_on(alpha: float) -> None:
    """peers.md [16]: there calibrator and model had exponents that differ by one, and prefactors of different units."""
    rng = np.random.default_rng(3)

    def paid(size: np.ndarray | float) -> np.ndarray:  # per contract, by an order worked evenly over one day
        return np.asarray(0.37 * (np.asarray(size) / V) ** alpha)

    sent = V * 10.0 ** rng.uniform(-4, -1, 500) * rng.choice([-1.0, 1.0], 500)
    moved = np.sign(sent) * paid(np.abs(sent)) * (1 + 1e-6 * rng.standard_normal(500))  # exact ones say no error
    found = calibrate_impact_parameters(sent, moved, V, SIGMA)
    assert found.alpha == pytest.approx(alpha, rel=1e-6)
    rate = 0.01 * V  # where the linear law meets this one
    eta = float(found.prefactor * SIGMA * (rate / V) ** found.alpha / rate)
    for size, n in ((0.002 * V, 1), (0.01 * V, 7), (0.08 * V, 48)):
        params = AlmgrenChrissParams(eta, 0.0, SIGMA, found.alpha, 1.0 / n, price=50.0, reference_rate=rate)
        priced = generate_twap_trajectory(size, n, params, impact_law="power")
        assert priced.params["expected_cost"] == pytest.approx(size * float(paid(size)), rel=2e-6)
        linear = generate_twap_trajectory(size, n, params, permanent="midprice")
        meets = size * float(paid(rate)) * size / rate
        assert linear.params["expected_cost"] == pytest.approx(meets, rel=2e-6)


def test_wrong_signs_scale_the_law_and_leave_the_exponent() -> None:
    """10 % wrong signs: 1 - 2·0.1 = 0.8 of the prefactor."""
    fits = [fit(*tape(seed, wrong=0.1, n=4_000)) for seed in range(30)]
    assert np.mean([f.prefactor for f in fits]) == pytest.approx(0.8 * 0.8, rel=0.03)
    assert np.mean([f.alpha for f in fits]) == pytest.approx(0.5, abs=0.02)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """400 tapes: 92 to 97.5 % of the 95 % intervals of alpha; within two errors of that of the prefactor."""
    fits = [fit(*tape(seed, n=1_000)) for seed in range(400)]
    held = np.mean([f.alpha_interval[0] <= 0.5 <= f.alpha_interval[1] for f in fits])
    reach = float(t_quantile(np.array(19.0)))
    level = np.mean([abs(f.prefactor - 0.8) <= reach * f.prefactor_se for f in fits])
    assert 0.92 <= held <= 0.975
    assert 0.92 <= level <= 0.975


def test_days_count_for_what_they_are_worth() -> None:
    """Ten days whose flow differs by a log-sd of 2 and whose response by 0.5: alpha was held 75 times in 100."""
    held = []
    for seed in range(200):
        rng, day = np.random.default_rng(seed), np.arange(1_000) // 100
        x = 0.1 * rng.lognormal(0, 1, 1_000) * np.exp(2 * rng.standard_normal(10))[day]
        move = (1 + 0.5 * rng.standard_normal(10)[day]) * x**0.6 + 0.15 * rng.standard_t(4, 1_000)
        sign = rng.choice([-1.0, 1.0], 1_000)
        found = fit(V * D * x * sign, SIGMA * math.sqrt(D) * move * sign, day)
        held.append(found.alpha_interval[0] <= 0.6 <= found.alpha_interval[1])
        assert found.dof <= 9.0
    assert np.mean(held) >= 0.92


def test_one_day_that_outweighs_all_others_is_no_ten_of_them() -> None:
    q, r, days = tape(4)
    even, uneven = fit(q, r, days), fit(q * np.where(days == 0, 100.0, 1.0), r, days)
    assert 10.0 < even.dof < 19.0
    assert uneven.dof < 2.0
    assert uneven.method == "profile_least_squares, heteroskedasticity_robust"
    assert any("few days outweigh the others" in w for w in uneven.warnings)


def test_one_flow_that_dwarfs_all_others_is_named() -> None:
    """The matrix of such a fit is singular to the last bit, and was inverted."""
    q, r, _ = tape(6, n=200)
    for size in (1e6, 1e9, 1e12):
        for move in (5.0, -5.0):
            found = fit(np.append(q, size * V * D), np.append(r, move))
            assert any("outweigh" in w for w in found.warnings)
            assert math.isnan(found.alpha) or found.dof < 2.0
    assert math.isnan(found.alpha)


def test_moves_that_do_not_go_with_flow_at_all_are_no_response() -> None:
    found = fit(np.array([1.0, -1.0, 2.0, -2.0]), np.ones(4))
    assert "there is no response" in found.warnings[-1]
    assert math.isnan(found.alpha)


@pytest.mark.parametrize("none", [None, math.nan, np.datetime64("NaT"), pd.NaT, pd.NA])
@pytest.mark.parametrize(
    "label", [float, str, lambda d: date(2024, 3, 1 + int(d)), lambda d: np.datetime64(int(d), "D")]
)
def test_observations_without_a_day_are_left_out_with_a_warning(none: object, label: Callable[[int], object]) -> None:
    """NaN and NaT were one day together, None a TypeError."""
    q, r, days = tape(7, n=400)
    gone = np.arange(400) % 4 == 0
    found = fit(q, r, [none if g else label(d) for g, d in zip(gone, days, strict=True)])
    without = fit(q[~gone], r[~gone], days[~gone])
    assert found.warnings == ("days must have a label: 100 observations without one are left out", *without.warnings)
    assert dataclasses.replace(found, warnings=()) == dataclasses.replace(without, warnings=())


def test_days_may_be_a_column_of_a_table() -> None:
    q, r, days = tape(7, n=400)
    stamps = pd.Series(pd.Timestamp("2024-03-01", tz="UTC") + pd.to_timedelta(days, unit="D"))
    for column in (
        stamps,
        stamps.dt.tz_localize(None),
        stamps.dt.date,
        stamps.astype("string"),
        stamps.astype("category"),
    ):
        missing = column.where(np.arange(400) >= 40)
        assert fit(q, r, column) == fit(q, r, days)
        assert fit(q, r, missing).alpha == fit(q[40:], r[40:], days[40:]).alpha


def test_result_does_not_depend_on_units() -> None:
    """Price ×100, size ×1e-6, time in hours: every number the same to 1e-9 (t of 110.9 became 39 elsewhere)."""
    q, r, days = tape(2)
    base = fit(q, r, days)
    scaled = calibrate_impact_parameters(
        q * 1e-6, r * 100, V * 1e-6 / 24, SIGMA * 100 / math.sqrt(24), duration=24 * D, days=days
    )
    for field in dataclasses.fields(CalibrationResult):
        if field.name not in ("method", "warnings"):
            np.testing.assert_allclose(getattr(scaled, field.name), getattr(base, field.name), rtol=1e-9)
    assert scaled.method == base.method == "profile_least_squares, day_clustered"
    assert base.warnings == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"signed_flow": [5.0]}, "need at least 3"),
        ({"signed_flow": [1.0, 2.0, 3.0, 4.0]}, "all flow has one sign"),
        ({"signed_flow": [2.0, -2.0, 2.0, -2.0]}, "all flow has one size"),
        ({"response": [0.0, 0.0, 0.0, 0.0]}, "the price never moved"),
        ({"daily_volume": 0.0}, "daily_volume must be finite and > 0, got 0"),
        ({"daily_volatility": math.nan}, "daily_volatility must be finite and > 0, got nan"),
        ({"response": [2.0, -4.0, 6.0, -8.0]}, "fits without any error"),
    ],
)
def test_what_cannot_be_identified_is_nan_with_a_warning(change: dict, words: str) -> None:
    given = {"signed_flow": [1.0, -2.0, 3.0, -4.0], "response": [0.1, -0.3, 0.2, 0.1]}
    given |= {"daily_volume": 10.0, "daily_volatility": 1.0, **change}
    given["response"] = given["response"][: len(given["signed_flow"])]
    found = calibrate_impact_parameters(**given)
    assert any(words in w for w in found.warnings), found.warnings
    for value in (found.alpha, found.alpha_se, found.prefactor, found.prefactor_se, found.r2, *found.alpha_interval):
        assert math.isnan(value)


def test_noise_alone_is_said_to_say_little() -> None:
    rng = np.random.default_rng(5)
    found = fit(rng.standard_normal(200), rng.standard_normal(200))
    assert any("no significant response" in w for w in found.warnings)
    assert any("errors are not clustered" in w for w in found.warnings)


def test_wrong_shapes_raise() -> None:
    with pytest.raises(ValueError, match="two arrays of one length"):
        calibrate_impact_parameters([1.0, 2.0], [1.0], 1.0, 1.0)
    with pytest.raises(ValueError, match="daily_volume must be a number or one for each of 2"):
        calibrate_impact_parameters([1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0], 1.0)
    with pytest.raises(ValueError, match="days must be a label"):
        calibrate_impact_parameters([1.0, 2.0], [1.0, 2.0], 1.0, 1.0, days=[1])


def test_square_root_law_prices_the_reference_orders_of_the_recorded_tape() -> None:
    """1 % of V over a session, Y = 1, half-spread included: 8.2267 and 9.7465 bps (tape_evidence.md)."""
    for price, v, spread, sigma, bps in (
        (48.7672, 7.47973e6, 0.0101044, 0.526004, 8.2267),
        (13.964, 7.47202e7, 0.01, 0.129151, 9.7465),
    ):
        found = estimate_market_impact(0.01 * v, v, sigma, spread=spread, price=price)
        assert found.cost_bps == pytest.approx(bps, abs=6e-5)
        assert found.participation == pytest.approx(0.01)


def test_estimate_carries_the_uncertainty_of_its_calibration() -> None:
    """The interval is that of log Y + α log x, drawn from the fit's own normal distribution."""
    c = fit(*tape(3))
    found = estimate_market_impact(0.02 * V, V, SIGMA, c)
    assert found.impact == pytest.approx(c.prefactor * SIGMA * 0.02**c.alpha)
    rng = np.random.default_rng(0)
    both = [[c.prefactor_se**2, c.alpha_prefactor_covariance], [c.alpha_prefactor_covariance, c.alpha_se**2]]
    draws = rng.multivariate_normal([c.prefactor, c.alpha], both, 200_000)
    sd = np.std(draws[:, 0] / c.prefactor + draws[:, 1] * math.log(0.02))
    low, high = found.impact_interval
    assert math.log(high / low) == pytest.approx(2 * stats.t.ppf(0.975, c.dof) * sd, rel=0.02)
    assert estimate_market_impact(0.0, V, SIGMA, c).impact == 0


def test_estimate_says_what_its_calibration_said() -> None:
    """A law of noise alone gave 0.03 [0.017, 0.054] without a word."""
    rng = np.random.default_rng(5)
    c = fit(rng.standard_normal(200), rng.standard_normal(200))
    assert len(c.warnings) >= 2
    assert estimate_market_impact(0.01 * V, V, SIGMA, c).warnings[-len(c.warnings) :] == c.warnings
    nothing = fit(np.ones(5), np.ones(5))
    assert estimate_market_impact(0.01 * V, V, SIGMA, nothing).warnings[-1] == nothing.warnings[-1]
    assert estimate_market_impact(0.01 * V, V, SIGMA).warnings == ()


def test_bad_orders_are_nan_with_a_warning() -> None:
    for order, words in (((-1.0, V, SIGMA), "order_size must be finite and >= 0"), ((1.0, 0.0, SIGMA), "daily_volume")):
        found = estimate_market_impact(*order)
        assert math.isnan(found.impact)
        assert words in found.warnings[0]


def test_quantiles_of_t_are_those_of_scipy() -> None:
    dof = np.array([1, 2, 3, 4, 5, 7, 8, 12, 29, 100, 1e6])
    np.testing.assert_allclose(t_quantile(dof), stats.t.ppf(0.975, dof), rtol=2e-3)


def test_doors_are_exported() -> None:
    assert tributary_opt.calibrate_impact_parameters is calibrate_impact_parameters
    assert tributary_opt.estimate_market_impact is estimate_market_impact
    assert tributary_opt.CalibrationResult is CalibrationResult
