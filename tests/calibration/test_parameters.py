"""From evidence to parameters: the cost table of a recorded tape, units, degenerate tapes, drift."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from evidence_made import evidence
from impact_tape import draw, frame, market_day
from scipy import stats
from test_rule import END, SOUND

from tributary_opt.calibration.drift import with_drift
from tributary_opt.calibration.impact_evidence import impact_evidence
from tributary_opt.calibration.parameters import Measured, calibrate, together
from tributary_opt.market_data.calendars import trading_calendar
from tributary_opt.market_data.markets import ReferenceData
from tributary_opt.settings import CalibrationRules

LAW = CalibrationRules()


def measured(changes: list[dict[str, Any]], **of_tape: Any) -> Measured:
    """Rows of sound statistics, changed; no fresh mid contradicts an aggressor."""
    frame = pd.DataFrame([{**SOUND, "market_id": f"M{i:03d}", **change} for i, change in enumerate(changes)])
    of_tape.setdefault("flow_rms", np.full(len(frame), 1e6))
    reference = ReferenceData(pd.DataFrame({"market_id": frame["market_id"], "token_id": "t", "kind": "price"}))
    end = pd.Series([END] * len(frame))
    return Measured(frame, reference.of(frame), end, evidence(len(frame), **of_tape))


# tape_evidence.md: S, V, spread, sigma; cost of the rule, half-spread + 0.142 σ 0.01^0.6, square root.
TAPE = {
    "AIG": ((48.7672, 7.47973e6, 0.0101044, 0.526004), (3.2115, 2.0024, 8.2267)),
    "BAC": ((13.964, 7.47202e7, 0.01, 0.129151), (11.0999, 4.4093, 9.7465)),
}


@pytest.mark.parametrize("stock", TAPE)
def test_reference_order_costs_what_the_tape_evidence_says_under_each_law(stock: str) -> None:
    (price, adv, spread, sigma), (rule, temporary, root) = TAPE[stock]
    market = {"price": price, "adv": adv, "spread": spread, "sigma": sigma}
    slope = 4.55 * sigma / adv
    row = calibrate(measured([market], slope=[slope], slope_se=[slope / 10], n=[1000], n_clusters=[30]), LAW).iloc[0]
    assert row["cost_rule_bps"] == pytest.approx(rule, rel=2e-4)
    assert row["cost_square_root_bps"] == pytest.approx(root, rel=2e-4)
    permanent = 0.5 * 0.314 * 0.01 * sigma / price * 1e4
    assert row["cost_law_bps"] - permanent == pytest.approx(temporary, rel=2e-4)
    assert row["gamma_tape"] == pytest.approx(slope, rel=1e-9)
    assert row["eta"] * row["reference_rate"] == pytest.approx(0.142 * sigma * 0.01**0.6, rel=1e-12)
    assert row["strength"] == "own_tape"
    assert np.isnan(row["cost_tape_bps"])  # no direct cost: not a number that looks good
    costs = row[["cost_law_bps", "cost_rule_bps", "cost_square_root_bps"]].astype(float)
    assert row["model_risk"] == pytest.approx(costs.max() / costs.min(), rel=1e-12)


def panel(n: int = 60, price: float = 1.0, size: float = 1.0, days: float = 1.0) -> Measured:
    """Markets alike in other units of price, of contracts, and of time."""
    rng = np.random.default_rng(2)
    adv, p, s = 10 ** rng.uniform(3, 7, n), 10 ** rng.uniform(0, 3, n), 10 ** rng.uniform(-2.5, -1.5, n)
    spread, g = p * 10 ** rng.uniform(-4, -3, n), np.exp(1.5 + 0.5 * rng.normal(size=n))
    se = rng.uniform(0.05, 2.0, n)
    slope, eta = (g + se * rng.normal(size=n)) * s * p / adv, 0.3 * g * s * p / adv
    rows = [
        {"price": p[i] * price, "adv": adv[i] * size / days, "adv_se": 0.05 * adv[i] * size / days}
        | {"spread": spread[i] * price, "spread_se": 0.1 * spread[i] * price}
        | {"compared_size": 1e4 * 288 / (adv[i] * size / days)}
        | {"sigma": s[i] * p[i] * price / days**0.5, "sigma_se": 0.05 * s[i] * p[i] * price / days**0.5}
        for i in range(n)
    ]
    unit = price / size
    tape = {"slope": slope * unit, "slope_se": se * s * p / adv * unit, "n": np.full(n, 800.0)}
    tape |= {"direct_eta": eta * unit * days, "direct_eta_se": 0.2 * eta * unit * days, "n_clusters": np.full(n, 30.0)}
    return measured(rows, **tape)


@pytest.mark.parametrize(("price", "size", "days"), [(100.0, 1.0, 1.0), (1.0, 1e-3, 1.0), (1.0, 1.0, 24.0)])
def test_estimates_do_not_depend_on_the_units_of_price_size_and_time(price: float, size: float, days: float) -> None:
    # The value traded a day is a covariate: in another unit of time or price all markets' moves together.
    base, other = calibrate(panel(), LAW), calibrate(panel(price=price, size=size, days=days), LAW)
    for name, factor in (
        ("epsilon", price),
        ("sigma", price / days**0.5),
        ("gamma_tape", price / size),
        ("eta_tape", price / size * days),
        ("gamma_rule", price / size * days),
        ("eta_rule", price / size * days),
    ):
        np.testing.assert_allclose(other[name], base[name] * factor, rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(other["response_relative"], base["response_relative"], rtol=1e-9)


def test_rows_are_the_same_however_the_markets_were_cut_into_chunks() -> None:
    whole = panel()
    cuts = [0, 7, 30, 60]
    parts = []
    for a, b in pairwise(cuts):
        impact = whole.impact
        arrays = {k: v[a:b] if isinstance(v, np.ndarray) else v for k, v in vars(impact).items()}
        frames = (f.iloc[a:b].reset_index(drop=True) for f in (whole.statistics, whole.reference, whole.session_end))
        parts.append(Measured(*frames, type(impact)(**arrays)))
    pd.testing.assert_frame_equal(calibrate(together(parts), LAW), calibrate(whole, LAW), check_exact=True)


def test_thin_market_leans_on_the_pool_and_keeps_its_prior_width() -> None:
    rows = calibrate(panel(), LAW)
    assert set(rows["strength"]) == {"own_tape", "pool"}
    thin = rows.loc[rows["response_own"].idxmin()]
    thick = rows.loc[rows["response_own"].idxmax()]
    assert thin["response_log_sd"] > 3 * thick["response_log_sd"]
    # However thick its tape, the level of b is the literature's: nobody's interval is narrower than the prior.
    assert (np.log(rows["eta_high"] / rows["eta_low"]) >= 2 * 1.95 * np.sqrt(0.5**2 + (0.04 * np.log(100)) ** 2)).all()


DEGENERATE: dict[str, tuple[dict[str, Any], str]] = {
    "no signed flow": ({"signed_share": 0.0}, "share of the volume signed 0"),
    "one day of tape": ({"spread_se": np.nan, "n_days_quoted": 1}, "response known to a factor exp unknown"),
    "error of sigma unknown": ({"sigma_se": np.nan}, "relative error of sigma unknown"),
    "old data": ({"days_since_newest": 2}, "response known to a factor exp unknown"),
}


def test_infinite_error_of_volatility_is_unknown_and_not_none() -> None:
    rows = calibrate(measured([{"sigma_se": np.inf}, {"sigma_se": np.inf, "n_trades": 1}, {}]), LAW)
    assert rows["status"].tolist() == ["ok", "refused", "ok"]
    assert rows["sigma_se"].isna().tolist() == [True, True, False]
    assert rows.loc[0, "grade"] == "D"
    assert "relative error of sigma unknown" in rows.loc[0, "grade_reason"]


@pytest.mark.parametrize("tape", DEGENERATE)
def test_market_alone_without_a_response_is_graded_d_with_the_reason(tape: str) -> None:
    change, reason = DEGENERATE[tape]
    row = calibrate(measured([change]), LAW).iloc[0]
    assert (row["status"], row["grade"], row["strength"]) == ("ok", "D", "prior")
    assert reason in row["grade_reason"]
    assert row["response_relative"] == 1.0
    assert np.isnan(row["gamma_tape"])


def test_slope_that_its_own_tape_cannot_tell_from_zero_is_no_number() -> None:
    row = calibrate(measured([{}], slope=[1e-9], slope_se=[1e-9], n=[500], n_clusters=[30]), LAW).iloc[0]
    assert np.isnan(row["gamma_tape"])
    assert row["response"] == pytest.approx(1e-9)  # what was measured stands beside
    assert row["grade"] == "D"


@pytest.mark.parametrize(("n", "strength"), [(30, "prior"), (300, "pool")])
def test_all_markets_thin_lean_on_each_other_as_far_as_they_tell_a_middle_and_are_graded_low(
    n: int, strength: str
) -> None:
    """A slope of 3 with an error of 20 each: together 3 ± 3.7 of 30, which may be nothing, and 3 ± 1.2 of 300."""
    rng = np.random.default_rng(0)
    unit = 1.0 / 1e5
    tape = {"slope": unit * (3 + 20 * rng.normal(size=n)), "slope_se": np.full(n, 20 * unit)}
    rows = calibrate(measured([{}] * n, **tape, n=np.full(n, 40.0), n_clusters=np.full(n, 12.0)), LAW)
    assert set(rows["strength"]) == {strength}
    assert set(rows["grade"]) == {"D"}
    assert np.isfinite(rows[["eta", "gamma"]].to_numpy(dtype=float)).all()
    assert (np.isfinite(rows["gamma_tape"]) == (strength == "pool")).all()


def test_mid_that_never_moved_has_its_peers_volatility_and_is_graded_d() -> None:
    whole = panel()
    whole.statistics.loc[0, ["sigma", "sigma_se"]] = 0.0
    row = calibrate(whole, LAW).iloc[0]
    assert (row["status"], row["sigma_source"], row["grade"]) == ("ok", "pool", "D")
    assert row["sigma"] > 0
    assert row["sigma_low"] < row["sigma"] / 1.5


def test_eta_and_gamma_of_the_rule_and_the_tape_are_published_where_asked_for() -> None:
    law = calibrate(panel(), LAW)
    for method in ("tape", "rule"):
        rows = calibrate(panel(), CalibrationRules(method=method))
        assert set(rows["method"]) == {method}
        for name in ("eta", "gamma"):
            np.testing.assert_array_equal(rows[name], law[f"{name}_{method}"])


def every_day(code: str, day: date, n: int) -> list[date]:
    """The last n days of a calendar of 24 hours a day."""
    return [day - timedelta(days=i) for i in reversed(range(n))]


def test_market_whose_tape_is_silent_is_priced_by_the_law_and_says_so() -> None:
    """No pool, and a slope that cannot be told from 0: a row `ok` with neither η nor γ had its schedules refused."""
    flat = {"slope": [1e-9, 1e-4], "slope_se": [1e-9, 1e-6], "n": [500, 500], "n_clusters": [30, 30]}
    flat |= {"direct_eta": [np.nan, 3e-4], "direct_eta_se": [np.nan, 1e-5]}
    of = measured([{}, {}], **flat)
    law, tape = calibrate(of, LAW), calibrate(of, CalibrationRules(method="tape"))
    assert tape["status"].tolist() == ["ok", "ok"]
    assert tape["method"].tolist() == ["law", "tape"]
    assert tape["strength"].tolist() == ["prior", "own_tape"]
    assert np.isnan(tape.loc[0, "eta_tape"])
    assert tape.loc[0, "detail"] == "the tape tells no eta and gamma above 0: they are the law's"
    assert pd.isna(tape.loc[1, "detail"])
    of_law = [c for c in law.columns if c not in ("detail", "method")]
    pd.testing.assert_series_equal(tape.loc[0, of_law], law.loc[0, of_law])
    assert tape.loc[1, "eta"] == tape.loc[1, "eta_tape"]
    assert np.isfinite(tape.loc[1, ["eta_se", "gamma_low", "gamma_high", "log_kappa_sd"]].astype(float)).all()


@pytest.mark.parametrize("clusters", [3, 9])
def test_without_peers_the_tapes_interval_is_students(clusters: int) -> None:
    """Nine markets, 20 times, whose estimates err by t: nineteen in twenty intervals hold the truth."""
    hit, t = [], stats.t.ppf(0.975, clusters - 1)
    for seed in range(20):
        error = 0.12 * np.random.default_rng(seed).standard_t(clusters - 1, 9)
        tape = {"slope": (1 + error) * 1e-6, "slope_se": np.full(9, 0.12e-6), "n": np.full(9, 8000.0)}
        tape |= {"n_clusters": np.full(9, float(clusters))}
        tape |= {"direct_eta": tape["slope"], "direct_eta_se": tape["slope_se"]}
        of = measured([{"adv": 1e6, "sigma": 1.0, "price": 100.0} for _ in range(9)], **tape)
        rows = calibrate(of, CalibrationRules(method="tape"))
        rows = rows[rows["method"] == "tape"]
        hit += list((rows["gamma_low"] <= 1e-6) & (rows["gamma_high"] >= 1e-6))
        for name in ("eta", "gamma"):
            half = np.log(rows[f"{name}_high"] / rows[name])
            np.testing.assert_allclose(half, t * 0.12e-6 / rows["response"], rtol=2e-3)
        np.testing.assert_allclose(rows["response_log_sd"], half / 1.959964, rtol=1e-6)
    assert 0.92 <= np.mean(hit) <= 0.98


def test_with_peers_the_tapes_interval_is_the_posteriors_own() -> None:
    """Of a thin market it is lopsided in the logarithm: a normal one around the median has ends of its own."""
    rows = calibrate(panel(), CalibrationRules(method="tape"))
    up, down = np.log(rows["gamma_high"] / rows["gamma"]), np.log(rows["gamma"] / rows["gamma_low"])
    assert (np.abs(up / down - 1) > 0.02).any()
    sd = (up + down) / (2 * 1.959964)
    np.testing.assert_allclose(sd, rows["response_log_sd"], rtol=0.1)


def test_drift_is_measured_in_errors_of_a_window_that_shares_its_days() -> None:
    before = calibrate(panel(), LAW)
    now = before.assign(window_end=before["window_end"] + pd.Timedelta(days=1))
    now["sigma"], now["adv"] = before["sigma"] * 1.1, before["adv"] / 1.1
    z = with_drift(now, before, every_day)["sigma_drift_z"]
    expected = np.log(1.1) / (before["sigma_se"] / before["sigma"] * np.sqrt(2 / 30))  # the larger of both
    np.testing.assert_allclose(z, expected, rtol=1e-12)
    of_adv = -np.log(1.1) / (now["adv_se"] / now["adv"] * np.sqrt(2 / 30))
    np.testing.assert_allclose(with_drift(now, before, every_day)["adv_drift_z"], of_adv, rtol=1e-12)
    assert (with_drift(now, before, every_day)["eta_drift_z"] == 0).all()
    other = with_drift(now, before.assign(method="rule"), every_day)
    assert other[["sigma_drift_z", "eta_drift_z"]].isna().all().all()


@pytest.mark.parametrize(("half_life", "days"), [(10.0, 1), (3.0, 2), (1e6, 4), (5.0, 30)])
def test_drift_is_measured_in_errors_of_weighted_means(half_life: float, days: int) -> None:
    """Against the two windows' weights, written out day by day."""
    before = calibrate(panel(), LAW)
    now = before.assign(window_end=before["window_end"] + pd.Timedelta(days=days), sigma=before["sigma"] * 1.1)
    weights = np.zeros((2, 30 + days))
    for row, oldest in enumerate((days, 0)):
        weights[row, oldest : oldest + 30] = 0.5 ** (np.arange(29, -1, -1) / half_life)
    ratio = np.sum((weights[0] - weights[1]) ** 2) / np.sum(weights[0] ** 2)
    z = with_drift(now, before, every_day, half_life)["sigma_drift_z"]
    np.testing.assert_allclose(z, np.log(1.1) / (now["sigma_se"] / before["sigma"] * np.sqrt(ratio)), rtol=1e-9)


@pytest.mark.parametrize("gap", [1, 2, 5])
def test_drift_over_a_weekend_is_that_of_the_trading_days_between(gap: int) -> None:
    """Friday to Monday is one trading day of an exchange, as Monday to Tuesday is."""
    monday = date(2024, 3, 4)
    sessions = trading_calendar("XNYS").last_days(monday + timedelta(days=30), 40)
    found = []
    for end in (monday, monday + timedelta(days=1)):
        earlier = sessions[sessions.index(end) - gap]
        before = calibrate(panel(n=12), LAW).assign(calendar="XNYS", window_end=pd.Timestamp(earlier, tz="UTC"))
        now = before.assign(window_end=pd.Timestamp(end, tz="UTC"), sigma=before["sigma"] * 1.1)
        z = with_drift(now, before, lambda code, day, n: trading_calendar(code).last_days(day, n))["sigma_drift_z"]
        expected = np.log(1.1) / (now["sigma_se"] / before["sigma"] * np.sqrt(2 * gap / 30))
        np.testing.assert_allclose(z, expected, rtol=1e-12)
        found.append(z)
    np.testing.assert_allclose(*found, rtol=1e-12)


def test_drift_of_windows_of_different_length_is_in_the_errors_of_their_means() -> None:
    """A market seen for 10 days, then for 11: a mean of 11 against that of 10 of them."""
    before = calibrate(panel(n=12), LAW).assign(n_days=10)
    now = before.assign(n_days=11, window_end=before["window_end"] + pd.Timedelta(days=1))
    now[["sigma", "sigma_se"]] *= 1.1
    share = (1 / 11**2 + 10 * (1 / 10 - 1 / 11) ** 2) / (1 / 11)
    z = with_drift(now, before, every_day)["sigma_drift_z"]
    np.testing.assert_allclose(z, np.log(1.1) / (now["sigma_se"] / now["sigma"] * np.sqrt(share)), rtol=1e-12)


def of_volumes(volume: np.ndarray) -> pd.DataFrame:
    """Rows of markets with these daily volumes, shape (markets, days)."""
    n = volume.shape[1]
    adv, se = volume.mean(axis=1), volume.std(axis=1, ddof=1) / np.sqrt(n)
    of = measured([{"adv": a, "adv_se": s, "n_days": n} for a, s in zip(adv, se, strict=True)])
    return calibrate(of, LAW)


@pytest.mark.parametrize("factor", [1.0, 5.0, 20.0])
def test_day_unlike_all_others_moves_drift_as_far_when_it_leaves_as_when_it_came(factor: float) -> None:
    """And without one the z of volume is a standard normal number."""
    volume = 1e6 * np.random.default_rng(3).gamma(25.0, 1 / 25.0, (400, 31))
    z = {}
    for name, day in (("came", 30), ("left", 0)):
        tape = volume.copy()
        tape[:, day] *= factor
        before, now = of_volumes(tape[:, :30]), of_volumes(tape[:, 1:])
        now["window_end"] = before["window_end"] + pd.Timedelta(days=1)
        z[name] = with_drift(now, before, every_day)["adv_drift_z"]
    if factor == 1.0:
        assert z["left"].std() == pytest.approx(1.0, abs=0.1)
        assert abs(z["left"].mean()) < 0.15
    else:
        assert 3.0 < z["came"].median() < 5.5
        assert z["left"].median() == pytest.approx(-z["came"].median(), rel=0.05)
        assert z["left"].abs().max() < 6.0


def test_drift_of_epsilon_is_of_the_half_spread_and_not_of_the_price_that_the_fee_goes_by() -> None:
    before = calibrate(panel(n=12), LAW)
    now = before.assign(window_end=before["window_end"] + pd.Timedelta(days=1), epsilon=before["epsilon"] * 3.0)
    assert (with_drift(now, before, every_day)["epsilon_drift_z"] == 0).all()
    now[["spread", "spread_se"]] *= 1.1
    expected = np.log(1.1) / (now["spread_se"] / now["spread"] * np.sqrt(2 / 30))
    np.testing.assert_allclose(with_drift(now, before, every_day)["epsilon_drift_z"], expected, rtol=1e-12)


@pytest.mark.parametrize("persistence", [0.0, 0.7])
def test_response_is_corrected_for_aggressors_that_are_wrong(persistence: float) -> None:
    """Trades of a bucket whose signs persist, a tenth of them published wrong: the true slope comes back."""
    rng = np.random.default_rng(8)
    n, trades, slope = 60_000, 12, 2e-6
    flips = np.where(rng.random((n, trades)) < (1 + persistence) / 2, 1, -1)
    flips[:, 0] = rng.choice([-1, 1], n)
    sign, size = np.cumprod(flips, axis=1), rng.lognormal(5, 0.5, (n, trades))
    flow = (sign * size).sum(axis=1)
    seen = (sign * np.where(rng.random((n, trades)) < 0.9, 1, -1) * size).sum(axis=1)
    move = slope * flow + 1e-3 * rng.normal(size=n)
    published = (seen @ move) / (seen @ seen)
    tape = {"slope": [published], "slope_se": [published / 50], "n": [n], "n_clusters": [30.0]}
    of = measured([{"bucket_size_squared": (size**2).sum(axis=1).mean()}], **tape, flow_rms=[np.sqrt((seen**2).mean())])
    found = calibrate(of, CalibrationRules(sign_accuracy=0.9)).iloc[0]["response"]
    assert found == pytest.approx(slope, rel=0.01)
    assert abs(published / slope - 1) > 0.02


def test_each_bucket_lengths_response_stands_in_the_row_with_its_error() -> None:
    of = panel(n=12)
    slopes = of.impact.slope * np.array([1.0, 1.2, 1.4, 1.6])
    of = dataclasses.replace(of, impact=dataclasses.replace(of.impact, slope=slopes))
    for at, minutes in enumerate((5, 15, 30, 60)):
        rows = calibrate(of, CalibrationRules(response_minutes=minutes))
        np.testing.assert_allclose(rows[f"response_{minutes}m"], slopes[:, at], rtol=1e-12)
        np.testing.assert_array_equal(rows["response"], rows[f"response_{minutes}m"])
        np.testing.assert_array_equal(rows["response_se"], rows[f"response_{minutes}m_se"])


def test_power_law_of_the_response_stands_in_the_row_or_the_reason_why_there_is_none() -> None:
    rng = np.random.default_rng(3)
    made = {"bent": draw(rng, 2_000, exponent=0.6, slope=1e-3, noise=1e-3)}
    made |= {"silent": dataclasses.replace(made["bent"], q=np.zeros(2_000)), "steep": draw(rng, 2_000, exponent=1.3)}
    impact = impact_evidence(frame([market_day(0, made[name], name) for name in sorted(made)]))
    of = panel(n=3)
    rows = calibrate(dataclasses.replace(of, impact=impact), CalibrationRules(response_minutes=15)).set_index(
        pd.Index(sorted(made))
    )
    bent = rows.loc["bent"]
    assert bent["response_exponent"] == pytest.approx(0.6, abs=4 * bent["response_exponent_se"])
    assert bent["response_prefactor"] == pytest.approx(1e-3, abs=4 * bent["response_prefactor_se"])
    assert 0 < bent["response_exponent_se"] < 0.02
    assert (rows["response_exponent_reason"].fillna("") == ["", "no_signed_flow", "exponent_at_bound"]).all()
    assert pd.isna(rows.loc["silent", "response_exponent"])
    assert (rows.loc["steep", "response_exponent"], pd.isna(rows.loc["steep", "response_exponent_se"])) == (1.0, True)


@pytest.mark.parametrize("source", ["effective", "edge", "roll"])
def test_fixed_cost_has_an_interval_by_the_days_behind_its_spread_without_a_book(source: str) -> None:
    no_book = {"n_days_quoted": 0, "n_snapshots": 0, "spread_source": source, "spread": 0.02, "spread_se": 0.002}
    days = np.array([1, 2, 10, 30])
    rows = calibrate(measured([{**no_book, "n_days_spread": n} for n in days]), LAW)
    off = stats.t.ppf(0.975, np.maximum(days, 2.0) - 1) * 0.1
    # Of one day, as far as the days of recorded markets lie apart, known as well as by eight of them.
    off[0] = stats.t.ppf(0.975, 7) * 0.4
    if source == "effective":
        low, high = 0.01 * np.exp(-off), 0.01 * np.exp(off)
    else:  # roots of squares, whose error is twice as large
        low, high = 0.01 * np.sqrt(np.maximum(1 - 2 * off, 0.0)), 0.01 * np.sqrt(1 + 2 * off)
    np.testing.assert_allclose(rows["epsilon_low"], low, rtol=3e-3)
    np.testing.assert_allclose(rows["epsilon_high"], high, rtol=3e-3)


@pytest.mark.parametrize("source", ["edge", "roll"])
def test_spread_within_its_error_of_nothing_leaves_the_fee(source: str) -> None:
    """From 30 days: s² = 4e-4 with an error of 0.2, 0.45 and 0.6 of itself is that far from 0, or not."""
    changes = [{"spread_source": source, "spread": 0.02, "spread_se": 0.02 * e / 2} for e in (0.2, 0.45, 0.6)]
    of = measured(changes)
    of.reference["taker_fee"] = 0.001
    rows = calibrate(of, LAW)
    fee = 0.001 * rows["price"]
    low, high = rows["epsilon_low"] - fee, rows["epsilon_high"] - fee
    np.testing.assert_allclose(low[:2], 0.01 * np.sqrt(1 - 2.0452 * np.array([0.2, 0.45])), rtol=1e-2)
    assert low[2] == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(high, 0.01 * np.sqrt(1 + 2.0452 * np.array([0.2, 0.45, 0.6])), rtol=1e-3)


@pytest.mark.parametrize("method", ["law", "rule"])
def test_one_day_says_nothing_of_how_days_scatter_and_two_that_agree_are_no_proof(method: str) -> None:
    days = [1, 2, 3, 7, 8, 30]
    agree = [
        {"n_days": n, "n_days_spread": n} | dict.fromkeys(("adv_se", "spread_se"), np.nan if n == 1 else 0.0)
        for n in days
    ]
    rows = calibrate(measured(agree), CalibrationRules(method=method))
    lent = {"law": 1, "rule": 2}[method]  # volume; volume and spread
    at_one = np.sqrt(lent * np.log(1 + 0.4**2))
    of_sigma = rows["sigma_se"] / rows["sigma"] if method == "law" else 0.0
    error = np.sqrt(np.maximum((rows["eta_se"] / rows["eta"]) ** 2 - of_sigma**2, 0.0))
    assert error[0] == pytest.approx(at_one, rel=1e-2)
    assert (np.diff(error[:5]) < -0.01).all()  # every day that agrees is worth something
    assert error[1] > 0.5 * at_one
    np.testing.assert_allclose(error[4:], 0.0, atol=1e-7)
    assert (np.diff(rows["implied_regret"][:5]) < 0).all()
    assert (np.diff(np.log(rows["epsilon_high"] / rows["epsilon_low"])[:5]) < 0).all()


@pytest.mark.parametrize("n_days", [8, 30])
def test_errors_of_eight_days_and_more_are_their_own(n_days: int) -> None:
    rows = calibrate(measured([{"n_days": n_days, "n_days_spread": n_days}]), CalibrationRules(method="rule"))
    row = rows.iloc[0]
    assert row["epsilon_se"] == pytest.approx(row["spread_se"] / 2, rel=1e-12)
    of_days = np.log(
        1 + (row[["adv_se", "spread_se"]].to_numpy() / row[["adv", "spread"]].to_numpy()).astype(float) ** 2
    )
    assert row["eta_se"] / row["eta"] == pytest.approx(np.sqrt(of_days.sum()), rel=1e-9)


def test_market_of_one_day_is_graded_c_where_it_is_b_with_thirty() -> None:
    of = panel()
    of.impact.slope_se[:] = 0.02 * of.impact.slope
    of.statistics["sigma_se"] = 0.02 * of.statistics["sigma"]
    thirty = calibrate(of, LAW)
    of.statistics[["n_days", "n_days_spread"]] = 1
    of.statistics[["adv_se", "spread_se"]] = np.nan
    one = calibrate(of, LAW)
    b = thirty["grade"] == "B"
    assert b.any()
    assert set(one.loc[b, "grade"]) == {"C"}
    assert one.loc[b, "grade_reason"].str.contains("implied regret").all()


def pairs(n: int = 15) -> Measured:
    """Two tokens of each of `n` markets, one seen in the mirror, with the same tape but their prices."""
    rng = np.random.default_rng(3)
    price, sigma, spread, adv = (
        rng.uniform(*ends, n) for ends in ((0.03, 0.97), (0.002, 0.02), (1e-3, 5e-3), (1e4, 1e6))
    )
    changes = [
        {"market_id": f"P{i:02d}", "token_id": token, "folded_with": other, "price": p, "sigma": sigma[i]}
        | {"sigma_se": 0.1 * sigma[i], "spread": spread[i], "spread_se": 0.05 * spread[i], "adv": adv[i]}
        for i in range(n)
        for token, other, p in (("a:no", "b:yes", price[i]), ("b:yes", "a:no", 1.0 - price[i]))
    ]
    slope = np.repeat(np.exp(rng.normal(1.5, 0.5, n)) * sigma / adv, 2)
    tape = {"slope": slope, "slope_se": 0.3 * slope, "direct_eta": 0.3 * slope, "direct_eta_se": 0.1 * slope}
    whole = measured(changes, n=np.full(2 * n, 800.0), n_clusters=np.full(2 * n, 30.0), **tape)
    keys = whole.statistics[["market_id", "token_id"]]
    markets = ReferenceData(keys.assign(kind="probability", taker_fee=0.02, fee_kind="probability", tick_size=1e-4))
    return dataclasses.replace(whole, reference=markets.of(whole.statistics))


@pytest.mark.parametrize("method", ["law", "tape", "rule"])
def test_both_tokens_have_the_same_parameters_to_the_last_bit_with_a_pool(method: str) -> None:
    rows = calibrate(pairs(), CalibrationRules(method=method))
    assert (rows["status"] == "ok").all()
    assert rows["response_own"].between(0.01, 0.999).all()  # the pool speaks
    one, other = (rows.iloc[start::2].reset_index(drop=True) for start in (0, 1))
    own = ("token_id", "folded_with", "price", "last_trade_price", "mean_mid", "complement_token_id")
    same = [c for c in rows.columns if c not in own and not c.endswith("_bps")]
    pd.testing.assert_frame_equal(one[same], other[same], check_exact=True)
    np.testing.assert_allclose(one["price"] * one["cost_law_bps"], other["price"] * other["cost_law_bps"], rtol=1e-12)
