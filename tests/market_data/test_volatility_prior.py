"""σ of a probability drawn towards what its price and the time left say: a table of cases, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tributary_opt.market_data.volatility import with_prior

END = pd.Timestamp("2026-03-10", tz="UTC")
SD = 0.5

CASES = {
    # name: kind, price, days left, sigma, its error
    "share": ("price", 50.0, 10.0, 0.8, 0.01),
    "no resolution": ("probability", 0.4, np.nan, 0.03, 0.002),
    "resolved": ("probability", 0.4, -1.0, 0.03, 0.002),
    "well measured": ("probability", 0.4, 25.0, 0.05, 0.0025),
    "badly measured": ("probability", 0.4, 25.0, 0.05, 0.05),
    "never measured": ("probability", 0.4, 25.0, np.nan, np.nan),
    "never moved": ("probability", 0.4, 25.0, 0.0, 0.0),
    "no error": ("probability", 0.4, 25.0, 0.05, np.nan),
    "above the ceiling": ("probability", 0.1, 25.0, 0.5, 0.001),
}


def found(cases: dict[str, tuple[str, float, float, float, float]], day_hours: float = 24.0) -> pd.DataFrame:
    kind, price, days, sigma, se = (list(column) for column in zip(*cases.values(), strict=True))
    left = pd.to_timedelta(np.array(days) * day_hours, unit="h")
    statistics = pd.DataFrame({"price": price, "day_hours": day_hours, "sigma": sigma, "sigma_se": se})
    statistics["sigma_source"] = "realised_mid"
    reference = pd.DataFrame({"kind": kind, "resolution_time": END + left})
    out = with_prior(statistics, reference, pd.Series([END] * len(cases)), SD)
    out.index = pd.Index(cases)
    return out


def prior_of(price: float, days: float) -> float:
    """φ(Φ⁻¹(p)) / √days: a Brownian view with a threshold."""
    return float(stats.norm.pdf(stats.norm.ppf(price)) / np.sqrt(days))


def test_what_is_no_open_probability_keeps_its_own() -> None:
    rows = found(CASES)
    for name in ("share", "no resolution", "resolved"):
        row, (_, _, _, sigma, se) = rows.loc[name], CASES[name]
        assert (row["sigma"], row["sigma_se"], row["sigma_source"]) == (sigma, se, "realised_mid")
        assert row["sigma_prior_weight"] == 0
        assert np.isnan(row["sigma_prior"])
        assert np.isnan(row["sigma_ceiling"])


@pytest.mark.parametrize("name", ["well measured", "badly measured"])
def test_measure_and_prior_are_weighed_by_their_precision_on_the_logarithm(name: str) -> None:
    """The normal posterior of log σ: precisions (σ/se)² and 1/0.5² add up."""
    _, price, days, sigma, se = CASES[name]
    own, of_prior = (sigma / se) ** 2, 1 / SD**2
    mean = (own * np.log(sigma) + of_prior * np.log(prior_of(price, days))) / (own + of_prior)
    row = found(CASES).loc[name]
    assert row["sigma"] == pytest.approx(np.exp(mean), rel=1e-9)
    assert row["sigma_se"] == pytest.approx(np.exp(mean) / np.sqrt(own + of_prior), rel=1e-9)
    assert row["sigma_prior_weight"] == pytest.approx(of_prior / (own + of_prior), rel=1e-12)
    assert row["sigma_source"] == "realised_mid"


@pytest.mark.parametrize("name", ["never measured", "never moved", "no error"])
def test_what_was_not_measured_is_the_prior_alone_with_its_width(name: str) -> None:
    row, prior = found(CASES).loc[name], prior_of(0.4, 25.0)
    assert row["sigma"] == pytest.approx(prior, rel=1e-9)
    assert row["sigma_se"] == pytest.approx(prior * SD, rel=1e-9)
    assert (row["sigma_source"], row["sigma_prior_weight"]) == ("martingale_prior", 1.0)


def test_budget_of_the_martingale_is_respected() -> None:
    """E[∫σ²] to the resolution is p(1 - p): σ² times the days left is never more."""
    row = found(CASES).loc["above the ceiling"]
    assert row["sigma"] == pytest.approx(np.sqrt(0.1 * 0.9 / 25.0), rel=1e-12)
    assert row["sigma"] == row["sigma_ceiling"]


def test_both_tokens_of_a_pair_have_one_volatility_and_days_are_those_of_the_market() -> None:
    mirrored = {
        name: (kind, 1.0 - price if kind == "probability" else price, *rest)
        for name, (kind, price, *rest) in CASES.items()
    }
    columns = ["sigma", "sigma_se", "sigma_prior", "sigma_prior_weight", "sigma_ceiling"]
    pd.testing.assert_frame_equal(found(CASES)[columns], found(mirrored)[columns], rtol=1e-12)
    # Sessions of 8 hours: as many trading days left, the same volatility per trading day.
    pd.testing.assert_frame_equal(found(CASES)[columns], found(CASES, day_hours=8.0)[columns], rtol=1e-12)


@pytest.mark.parametrize("price", [1e-15, 1e-17, 1.0 - 1e-16, 0.0, 1.0])
def test_probability_at_its_bound_keeps_a_row_and_the_others_theirs(price: float) -> None:
    rows = found({**CASES, "at its bound": ("probability", price, 25.0, 0.05, 0.0025)})
    pd.testing.assert_frame_equal(rows.iloc[:-1], found(CASES))
    assert rows["sigma"].iloc[-1] <= 0.05
