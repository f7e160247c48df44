"""Impact from sums of market days against statsmodels on the raw buckets, and what cannot be identified."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from impact_tape import Buckets, draw, frame, market_day

from tributary_opt import schema
from tributary_opt.calibration.impact_evidence import ImpactEvidence, impact_evidence
from tributary_opt.calibration.least_squares import t_quantile

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
    of_impact = [c for c in schema.MARKET_DAYS.columns if c.name.startswith("impact_") and c.type == "DOUBLE[]"]
    assert len(of_impact) == len(schema.IMPACT_BUCKETS)
    assert len(set(schema.IMPACT_SUMS)) == len(schema.IMPACT_SUMS) == 37
    # And the flow without its cap, and the squared sizes of the trades in it; the cap is given, and measured by nobody.
    assert len(schema.IMPACT_SUMS) * len(of_impact) + 2 <= 150


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


def persistent(seed: int, n_days: int, n: int = 288) -> list[Buckets]:
    """Days whose flow and moves hang together within their blocks."""
    rng, days = np.random.default_rng(seed), []
    for _ in range(n_days):
        day = draw(rng, n)
        q = np.convolve(day.q, 0.7 ** np.arange(12))[:n]
        common = np.repeat(rng.standard_normal(12), n // 12)
        days.append(Buckets(q, 2e-5 * q + 0.03 * common + 0.05 * rng.standard_t(4, n), day.y, day.block))
    return days


def by_block(days: list[Buckets]) -> tuple[float, float]:
    """Errors of the response from statsmodels: clustered by block, and HC0."""
    raw, label = pooled(days)
    fit = sm.OLS(raw.r, sm.add_constant(raw.q)).fit()
    clustered = fit.get_robustcov_results("cluster", groups=label * 100 + raw.block)
    return clustered.bse[1], fit.HC0_se[1]


@pytest.mark.parametrize("n_days", [1, 3, 7])
def test_errors_by_block_are_those_of_statsmodels_where_flow_and_moves_have_no_mean(n_days: int) -> None:
    """Each bucket once more in the mirror: the intercept is 0, and what is left out is nothing."""
    days = persistent(6, n_days)
    both = [
        Buckets(*(np.concatenate(pair) for pair in ((b.q, -b.q), (b.r, -b.r), (b.y, b.y), (b.block, b.block))))
        for b in days
    ]
    found, (clustered, robust) = evidence(both), by_block(both)
    assert (found.cluster[0, FIVE], found.n_clusters[0, FIVE]) == ("block", 12 * n_days)
    np.testing.assert_allclose(found.slope_se[0, FIVE], clustered, rtol=1e-8)
    assert clustered > 1.2 * robust


def test_errors_by_block_are_within_some_percent_of_statsmodels_whatever_the_means() -> None:
    off = []
    for seed in range(20):
        days = persistent(100 + seed, 5)
        off.append(evidence(days).slope_se[0, FIVE] / by_block(days)[0])
    assert np.abs(np.log(off)).max() < 0.10
    assert abs(np.log(off).mean()) < 0.02


def test_few_blocks_never_make_an_error_smaller_than_the_robust_one() -> None:
    for seed in range(20):
        (day,) = market(300 + seed, 1)
        few = Buckets(day.q, day.r, day.y, day.block // 3)
        found, (clustered, robust) = evidence([few]), by_block([few])
        assert found.n_clusters[0, FIVE] == 4
        assert found.slope_se[0, FIVE] >= robust * (1 - 1e-12)
        if clustered > 1.5 * robust:
            assert found.slope_se[0, FIVE] > robust


def without_flow(day: Buckets, which: np.ndarray) -> Buckets:
    """The same day, nobody having traded in some of its buckets."""
    q = np.where(which, 0.0, day.q)
    return Buckets(q, np.where(which, day.r - 2e-5 * day.q, day.r), np.where(which, 0.0, day.y), day.block)


def scaled(day: Buckets, factor: float) -> Buckets:
    """The same day with so many times the flow."""
    q = factor * day.q
    return Buckets(q, day.r + 2e-5 * (q - day.q), day.y + 3e-6 * (np.abs(q) - np.abs(day.q)), day.block)


def busy_days(rng: np.random.Generator, busy: int) -> list[Buckets]:
    return [without_flow(draw(rng, 96), np.full(96, i >= busy)) for i in range(20)]


def uneven_days(rng: np.random.Generator) -> list[Buckets]:
    return [scaled(draw(rng, 96), np.exp(2.0 * rng.normal())) for _ in range(20)]


def costs_shared_by_blocks(rng: np.random.Generator) -> list[Buckets]:
    days = []
    for _ in range(5):
        day, level, pace = draw(rng, 96), *(np.repeat(rng.standard_normal(12), 8) for _ in range(2))
        busy = scaled(day, np.exp(0.5 * pace))
        days.append(Buckets(busy.q, busy.r, busy.y + 0.03 * level, busy.block))
    return days


@pytest.mark.parametrize(
    "made",
    [partial(busy_days, busy=1), partial(busy_days, busy=3), uneven_days, costs_shared_by_blocks],
    ids=["flow on one day of twenty", "on three", "on some more than on all others", "costs of a block alike"],
)
def test_intervals_hold_where_flow_is_not_the_same_every_day(
    made: Callable[[np.random.Generator], list[Buckets]],
) -> None:
    """Clusters without flow, or with next to none, would make an error of nothing: it was covered in 1 % to 70 %."""
    rows = [
        market_day(i, day, f"M{seed:03d}", lengths=(5,))
        for seed in range(200)
        for i, day in enumerate(made(np.random.default_rng(seed)))
    ]
    found = impact_evidence(frame(rows))
    for value, error, effective, true in (
        (found.slope, found.slope_se, found.n_effective, 2e-5),
        (found.direct_eta, found.direct_eta_se, found.n_direct_effective, 3e-6 * 5 / 1440),
    ):
        half = t_quantile(np.maximum(effective - 1, 1)) * error
        covered = (np.abs(value - true) <= half)[:, FIVE].mean()
        assert 0.91 <= covered <= 0.995


@pytest.mark.parametrize("half", [0, 9, 19])
def test_rate_of_the_direct_cost_is_per_mean_day_wherever_the_half_day_stands(half: int) -> None:
    """Nineteen sessions of 6.5 hours and one of 3.5: as the newest one it made eta 1.86 times as large."""
    days, hours = market(3, 20), np.where(np.arange(20) == half, 3.5, 6.5)
    rows = [market_day(i, day, hours=h) for i, (day, h) in enumerate(zip(days, hours, strict=True))]
    raw, _ = pooled(days)
    slope = np.polyfit(np.abs(raw.q)[raw.q != 0], raw.y[raw.q != 0], 1)[0]
    found = impact_evidence(frame(rows)).direct_eta[0, FIVE]
    assert found == pytest.approx(slope * 5 / 60 / hours.mean(), rel=1e-9)
    weights = 0.5 ** (np.arange(20)[::-1] / 5.0)
    faded, alike = (impact_evidence(frame(of), weights).direct_eta[0, FIVE]
                    for of in (rows, [market_day(i, day, hours=6.5) for i, day in enumerate(days)]))  # fmt: skip
    assert faded / alike == pytest.approx(6.5 * weights.sum() / (weights @ hours), rel=1e-9)


def test_slopes_are_of_the_whole_flow_whatever_the_cap_left_of_it() -> None:
    """Flow within the cap is an instrument for the flow itself: without it a cap of one sd made slopes 1.7 times as
    large, and outliers without one ruled them."""
    for cap in (500.0, 1_000.0, 3_000.0, 1e9):
        response, direct, alone = [], [], []
        for seed in range(60):
            rng, rows = np.random.default_rng(seed), []
            for i in range(20):
                day = draw(rng, 96)
                within = Buckets(np.clip(day.q, -cap, cap), day.r, day.y, day.block, day.q)
                rows.append(market_day(i, within, lengths=(5,)) | {"flow_cap": cap})
            found = impact_evidence(frame(rows))
            alone.append(found.slope[0, FIVE] / 2e-5)
            response.append(found.slope[0, FIVE] / found.uncapped[0, FIVE] / 2e-5)
            direct.append(found.direct_eta[0, FIVE] / found.direct_uncapped[0, FIVE] / (3e-6 * 5 / 1440))
        for of in (response, direct):
            assert abs(np.mean(of) - 1) < 3 * np.std(of) / np.sqrt(len(of))
        assert np.std(response) / np.sqrt(60) < 0.01
        if cap <= 1_000.0:
            assert np.mean(alone) > 1.25
        if cap == 1e9:
            assert found.uncapped[0, FIVE] == found.direct_uncapped[0, FIVE] == 1.0


@pytest.mark.parametrize("buys", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("minutes", [5, 30])
def test_one_sided_flow_beyond_the_cap_leaves_the_response_what_it_is(buys: float, minutes: int) -> None:
    """Without the means of both flows nine tenths of buys made it a tenth too large, and more at longer lengths."""
    found = []
    for seed in range(40):
        rng, rows = np.random.default_rng(seed), []
        for i in range(20):
            flow = np.where(rng.random(96) < buys, 1, -1) * rng.lognormal(0.0, 1.2, 96)
            q = np.clip(flow, -4.0, 4.0)
            move, block = flow + 2.0 * rng.standard_normal(96), np.arange(96) // 8
            day = market_day(i, Buckets(q, move, np.abs(q), block, flow), lengths=(minutes,))
            rows.append(day | {"flow_cap": 4.0 / np.sqrt(minutes / 5)})
        evidence = impact_evidence(frame(rows))
        k = schema.IMPACT_BUCKETS.index(minutes)
        found.append(evidence.slope[0, k] / evidence.uncapped[0, k])
    assert abs(np.mean(found) - 1) < 0.02


def test_flow_within_one_block_has_no_error_and_says_so() -> None:
    day = market(21, 1)[0]
    found = evidence([without_flow(day, day.block != 3), *(without_flow(b, b.q != 0) for b in market(22, 10))])
    assert (found.reason[0, FIVE], found.direct_reason[0, FIVE]) == ("too_few_clusters", "too_few_clusters")
    assert np.isnan([found.slope[0, FIVE], found.slope_se[0, FIVE], found.direct_eta[0, FIVE]]).all()
    assert found.n_clusters[0, FIVE] == 1


def test_exponents_of_the_grid_and_between_are_found() -> None:
    """Power laws with hardly any noise; between the grid's tenths the sums are interpolated."""
    assert schema.IMPACT_EXPONENTS == (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    for exponent in (0.35, 0.5, 0.65, 0.85, 0.9, 0.95):
        days = market(7, 9, exponent=exponent, slope=1e-3, noise=1e-3)
        found = evidence(days)
        assert found.exponent[0, FIVE] == pytest.approx(exponent, abs=4 * found.exponent_se[0, FIVE] + 1e-4), exponent
        assert found.exponent_se[0, FIVE] < 0.02


# --- what cannot be identified ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason", "direct_reason"),
    [
        (lambda b: b, "", ""),
        (lambda b: Buckets(b.q[:2], b.r[:2], b.y[:2], b.block[:2]), "too_few_buckets", "too_few_buckets"),
        (lambda b: Buckets(0 * b.q, b.r, 0 * b.y, b.block), "no_signed_flow", "no_signed_flow"),
        (lambda b: Buckets(0 * b.q + 5, b.r, b.y, b.block), "constant_flow", "constant_flow"),
        (lambda b: Buckets(5 * np.sign(b.q), b.r, b.y, b.block), "", "constant_flow"),
        (lambda b: Buckets(np.abs(b.q), b.r, b.y, b.block), "one_sided_flow", ""),
        (lambda b: Buckets(b.q, 0 * b.r, 0 * b.y, b.block), "no_move", "no_move"),
        (lambda b: Buckets(b.q, 3 * b.q, 2 + np.abs(b.q), b.block), "exact_fit", "exact_fit"),
    ],
    ids=["sound", "two buckets", "no flow", "constant flow", "constant size", "all buys", "one price", "no error"],
)
@pytest.mark.parametrize("n_days", [1, 9])
def test_what_cannot_be_identified_is_no_number_and_has_a_reason(
    change: Callable[[Buckets], Buckets], reason: str, direct_reason: str, n_days: int
) -> None:
    days = [change(b) for b in market(8, n_days)]
    if len(days[0].q) == 2:
        days = days[:1]  # two buckets on each of nine days would do
    found = evidence(days)
    assert (found.reason[0, FIVE], found.direct_reason[0, FIVE]) == (reason, direct_reason)
    for name in ("slope", "slope_se", "slope_se_hc0", "slope_se_classical", "r2", "intercept"):
        assert np.isnan(getattr(found, name)[0, FIVE]) == bool(reason), name
    for name in ("direct_eta", "direct_eta_se", "direct_epsilon", "direct_epsilon_se"):
        assert np.isnan(getattr(found, name)[0, FIVE]) == bool(direct_reason), name
    if reason:
        assert found.power_reason[0, FIVE] == reason
        assert np.isnan([found.exponent[0, FIVE], found.prefactor[0, FIVE], found.exponent_se[0, FIVE]]).all()


def test_market_without_any_row_of_sums_or_with_those_of_an_older_layout_has_no_evidence() -> None:
    rows = frame(market_day(i, None) for i in range(3))
    old = rows.assign(impact_5m=[np.ones(36)] * 3, impact_5m_pairs=[100] * 3)
    for days in (rows, old):
        found = impact_evidence(days)
        assert found.reason[0].tolist() == ["no_signed_flow"] * 4
        assert found.n[0].tolist() == [0.0] * 4
    assert len(impact_evidence(rows.iloc[:0]).market_id) == 0


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
