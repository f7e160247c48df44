"""Impact from sums of market days against statsmodels on the raw buckets, and what cannot be identified."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from impact_tape import Buckets, draw, frame, market_day

from tributary_opt import schema
from tributary_opt.calibration.impact_evidence import ImpactEvidence, impact_evidence

FIVE = 0  # place of the 5-minute length


def market(seed: int, n_days: int, name: str = "M", **how: float) -> list[Buckets]:
    rng = np.random.default_rng(seed)
    return [draw(rng, **how) for _ in range(n_days)]


def evidence(days: list[Buckets], weights: np.ndarray | None = None, hours: float = 24.0) -> ImpactEvidence:
    return impact_evidence(frame(market_day(i, b, hours=hours) for i, b in enumerate(days)), weights)


def pooled(days: list[Buckets]) -> tuple[Buckets, np.ndarray]:
    together = Buckets(*(np.concatenate([getattr(b, name) for b in days]) for name in ("q", "r", "y", "block")))
    return together, np.repeat(np.arange(len(days)), [len(b.q) for b in days])


def test_arrays_hold_no_more_than_150_doubles_a_market_day() -> None:
    assert len(set(schema.IMPACT_MOMENTS)) == len(schema.IMPACT_MOMENTS) == 37
    assert len(schema.IMPACT_MOMENTS) * len(schema.IMPACT_BUCKETS) + 1 <= 150


@pytest.mark.parametrize(("seed", "scale_q", "scale_r"), [(1, 1.0, 1.0), (2, 1e55, 1e-55), (3, 1e-50, 1e50)])
def test_lines_and_their_three_kinds_of_error_are_those_of_statsmodels(
    seed: int, scale_q: float, scale_r: float
) -> None:
    """Response and direct cost of ten unlike days: OLS, HC0 and errors clustered by day, to 1e-8."""
    days = market(seed, 10, slope=2e-5)
    days = [Buckets(b.q + 300, b.r * (1 + i), b.y, b.block) for i, b in enumerate(days)]
    raw, label = pooled(days)
    found = evidence([Buckets(b.q * scale_q, b.r * scale_r, b.y * scale_r, b.block) for b in days])
    unit = scale_r / scale_q

    fit = sm.OLS(raw.r, sm.add_constant(raw.q)).fit()
    by_day = fit.get_robustcov_results("cluster", groups=label)
    of_slope = [
        fit.params[1] * unit,
        fit.bse[1] * unit,
        fit.HC0_se[1] * unit,
        by_day.bse[1] * unit,
        fit.params[0] * scale_r,
        fit.ssr * scale_r**2,
        fit.rsquared,
    ]
    names = ("slope", "slope_se_classical", "slope_se_hc0", "slope_se", "intercept", "rss", "r2")
    np.testing.assert_allclose([getattr(found, name)[0, FIVE] for name in names], of_slope, rtol=1e-8)

    days_per_bucket = 5 / 1440
    fit = sm.OLS(raw.y, sm.add_constant(np.abs(raw.q) / days_per_bucket)).fit()
    by_day = fit.get_robustcov_results("cluster", groups=label)
    direct = [
        fit.params[1] * unit,
        fit.HC0_se[1] * unit,
        by_day.bse[1] * unit,
        fit.params[0] * scale_r,
        by_day.bse[0] * scale_r,
    ]
    names = ("direct_eta", "direct_eta_se_hc0", "direct_eta_se", "direct_epsilon", "direct_epsilon_se")
    np.testing.assert_allclose([getattr(found, name)[0, FIVE] for name in names], direct, rtol=1e-8)
    assert (found.cluster[0, FIVE], found.n_clusters[0, FIVE], found.n[0, FIVE]) == ("day", 10, len(raw.q))


def test_weights_of_days_are_those_of_weighted_least_squares() -> None:
    days, weights = market(4, 9), 0.9 ** np.arange(9)[::-1]
    raw, label = pooled(days)
    fit = sm.WLS(raw.r, sm.add_constant(raw.q), weights=weights[label]).fit()
    by_day = fit.get_robustcov_results("cluster", groups=label)
    for factor in (1.0, 1e-3):
        found = evidence(days, factor * weights)
        got = [found.slope[0, 0], found.slope_se_hc0[0, 0], found.slope_se[0, 0]]
        np.testing.assert_allclose(got, [fit.params[1], fit.HC0_se[1], by_day.bse[1]], rtol=1e-8)


def test_days_add_up_to_what_the_raw_buckets_say_together() -> None:
    """Ten days as ten rows, and their buckets as one row of one long day: the same estimates."""
    days = market(5, 10)
    raw, label = pooled(days)
    raw.block = label * 12 + raw.block
    apart, together = evidence(days), evidence([raw])
    for name in ("slope", "intercept", "rss", "r2", "slope_se_hc0", "direct_eta", "direct_epsilon"):
        np.testing.assert_allclose(getattr(apart, name), getattr(together, name), rtol=1e-10)
    np.testing.assert_allclose(apart.exponent, together.exponent, rtol=1e-9)
    np.testing.assert_allclose(apart.prefactor, together.prefactor, rtol=1e-8)
    assert (apart.cluster[0, 0], together.cluster[0, 0], together.n_clusters[0, 0]) == ("day", "block", 120)


def test_a_market_does_not_depend_on_the_others() -> None:
    rows, alone = [], []
    for k in range(7):
        own = frame(market_day(i, b, f"M{k}") for i, b in enumerate(market(10 + k, 3 + 2 * k)))
        rows.append(own)
        alone.append(impact_evidence(own))
    all_of_them = impact_evidence(pd.concat(rows, ignore_index=True))
    assert all_of_them.market_id.tolist() == [f"M{k}" for k in range(7)]
    for name in ("slope", "slope_se", "direct_eta_se", "exponent", "exponent_se", "prefactor_se"):
        np.testing.assert_array_equal(getattr(all_of_them, name), np.concatenate([getattr(a, name) for a in alone]))
