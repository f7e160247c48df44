"""Grades: each criterion at its limits, the worst one decides, and what the figures behind them are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from impact_tape import draw, frame, market_day
from test_parameters import panel

from tributary_opt.calibration.grades import grade
from tributary_opt.calibration.impact_evidence import impact_evidence
from tributary_opt.calibration.parameters import calibrate
from tributary_opt.settings import CalibrationRules, GradeLimits, LawPrior

LIMITS = GradeLimits()
BEST = {
    **{
        "method": "law",
        "response_log_sd": 0.1,
        "sigma": 1.0,
        "sigma_se": 0.01,
        "response_n_signed": 5_000,
        "data_age": 0,
    },
    **{"mid_age": np.nan, "epsilon": 1.0, "epsilon_se": 0.01},
    **{"signed_share": 1.0, "model_risk": 1.5, "implied_regret": 0.01},
}
CRITERIA = {
    # limit: the column that it is held against, and whether more is better
    "response_log_sd": ("response_log_sd", False),
    "sigma_log_sd": ("sigma_se", False),
    "epsilon_error": ("epsilon_se", False),
    "buckets": ("response_n_signed", True),
    "signed_share": ("signed_share", True),
    "data_age": ("data_age", False),
    "model_risk": ("model_risk", False),
    "regret": ("implied_regret", False),
}


def graded(**changes: object) -> tuple[str, str]:
    letters, why = grade(pd.DataFrame([BEST | changes]), LIMITS)
    return str(letters[0]), str(why[0])


def test_every_criterion_is_tested() -> None:
    assert set(CRITERIA) == set(GradeLimits.model_fields)
    assert graded() == ("A", "every limit of A is kept")


@pytest.mark.parametrize("limit", CRITERIA)
def test_limit_itself_still_has_the_grade_and_what_is_beyond_the_next(limit: str) -> None:
    column, more = CRITERIA[limit]
    for letter, below, bound in zip("ABC", "BCD", getattr(LIMITS, limit), strict=True):
        assert graded(**{column: bound})[0] == letter
        beyond = bound * (1 - 1e-9) if more else bound * (1 + 1e-9) + 1e-12
        got, why = graded(**{column: beyond})
        assert got == below
        assert why.endswith(f" {beyond:.3g}")
    assert graded(**{column: np.nan})[0] == "D"


def test_worst_criterion_decides_and_all_that_are_as_bad_are_named() -> None:
    letter, why = graded(model_risk=8.0, data_age=1, signed_share=0.3)
    assert letter == "C"
    assert why == "share of the volume signed 0.3; laws apart by a factor 8"
    assert graded(method="rule")[0] == "C"


def test_book_that_is_no_longer_recorded_is_old_data_however_fresh_the_trades_are() -> None:
    assert graded(mid_age=0.0)[0] == "A"
    assert graded(mid_age=2.0) == ("C", "trading days old 2")
    assert graded(mid_age=3.0) == ("D", "trading days old 3")
    assert graded(mid_age=1.0, data_age=2) == ("C", "trading days old 2")


def test_laws_far_apart_lower_the_grade_of_a_market_that_is_else_the_same() -> None:
    """At a thousandth of the spread the rule is nearly free, and the other laws are not."""
    of = panel()
    of.impact.slope_se[:] = 0.02 * of.impact.slope
    of.statistics["signed_share"] = 1.0
    limits = GradeLimits(regret=(9.0, 9.0, 9.0), sigma_log_sd=(1.0, 1.0, 1.0), buckets=(1, 1, 1))
    rules = CalibrationRules(grades=limits)
    near = calibrate(of, rules)
    of.statistics[["spread", "spread_se"]] /= 1_000.0
    far = calibrate(of, rules)
    worse = far["model_risk"] > 12.0
    assert worse.any()
    assert (near.loc[worse, "model_risk"] < far.loc[worse, "model_risk"]).all()
    assert set(far.loc[worse, "grade"]) == {"D"}
    assert far.loc[worse, "grade_reason"].str.startswith("laws apart by a factor").all()
    assert (near.loc[worse, "grade"] < "D").all()


def test_grade_counts_the_buckets_with_flow_and_not_every_pair_of_mids() -> None:
    """Two thousand buckets with a mid, and trades in 52 of them."""
    rng = np.random.default_rng(3)
    busy = draw(rng, 2_000, slope=1e-3, noise=1e-5)
    idle = dataclasses.replace(busy, q=np.where(np.arange(2_000) % 40 < 1, busy.q, 0.0))
    idle.q[1], idle.q[2] = busy.q[1], busy.q[2]
    impact = impact_evidence(frame([market_day(0, of, name) for name, of in (("busy", busy), ("idle", idle))]))
    rules = CalibrationRules(grades=GradeLimits(model_risk=(9e2, 9e2, 9e2), regret=(9.0, 9.0, 9.0)))
    of = dataclasses.replace(panel(n=2), impact=impact)
    of.statistics["signed_share"] = 1.0
    rows = calibrate(of, rules)
    assert rows["response_n"].tolist() == [2_000, 2_000]
    assert rows["response_n_signed"].tolist() == [2_000, 52]
    assert rows["grade_reason"].tolist() == ["every limit of A is kept", "buckets with flow and mids 52"]
    assert rows["grade"].tolist() == ["A", "C"]


@pytest.mark.parametrize("method", ["law", "tape", "rule"])
def test_regret_is_that_of_a_kappa_off_by_one_standard_deviation(method: str) -> None:
    """κ = √(λσ²/η) with σ drawn about its estimate, and η as each method makes it of that σ."""
    of = panel()
    of.impact.direct_eta_se[::2] = 40.0 * of.impact.direct_eta[::2]  # these have their peers' η alone
    of.statistics["sigma_se"] *= 8.0
    prior = LawPrior(b_level_sd=0.1, b_market_sd=0.1, beta_sd=0.01)
    rows = calibrate(of, CalibrationRules(method=method, law=prior))
    z_sigma, z_adv, z = np.random.default_rng(0).normal(size=(3, 200_000))
    for i, row in rows.iloc[::7].iterrows():
        log_sigma = row["sigma_se"] / row["sigma"] * z_sigma
        log_adv = np.sqrt(2.0 * np.log(np.hypot(1.0, row["adv_se"] / row["adv"]))) * z_adv
        width = np.log(row["eta_high"] / row["eta_low"]) / (2 * 1.959964)
        if method == "law":  # η = b·σ/V: what is open beyond σ and V is b's
            of_b = np.sqrt(width**2 - np.var(log_sigma) - np.var(log_adv))
            log_eta = log_sigma - log_adv + of_b * z
        elif method == "tape":  # a number of the peers' is in units of σ/V, the market's own slope is not
            log_eta = (log_sigma - log_adv) * (1 - int(i) % 2) + row["eta_se"] / row["eta"] * z
        else:
            log_eta = width * z
        assert row["log_kappa_sd"] == pytest.approx(np.std(log_sigma - 0.5 * log_eta), rel=0.1)
        c = np.exp(row["log_kappa_sd"])
        assert row["implied_regret"] == pytest.approx((c + 1 / c) / 2 - 1, rel=1e-9)
