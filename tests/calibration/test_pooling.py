"""Shrinkage across markets: coverage, what thin and thick markets gain, and that units do not matter."""

from __future__ import annotations

import numpy as np
import pytest

from tributary_opt.calibration import pooling
from tributary_opt.calibration.pooling import fit_pool, posterior


def markets(seed: int, n: int = 600) -> tuple[np.ndarray, ...]:
    """log of the truth, an estimate with t(29) error, its s.e. (thin to thick, not knowing the truth), covariates."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    truth = 1.5 + x @ [0.3, -0.2] + 0.5 * rng.normal(size=n)
    se = np.exp(1.5) * 10 ** rng.uniform(-1.7, 0.7, n)
    estimate = np.exp(truth) + se * rng.standard_t(29, n)
    return truth, estimate, se, x


def test_intervals_cover_and_the_pool_finds_what_markets_have_in_common() -> None:
    covered, bias, between = [], [], []
    for seed in range(5):
        truth, estimate, se, x = markets(seed)
        dof = np.full(len(se), 29.0)
        pool = fit_pool(estimate, se, dof, x)
        assert pool is not None
        found = posterior(estimate, se, dof, x, pool)
        covered.append(((np.log(found.low) < truth) & (truth < np.log(found.high))).mean())
        bias.append((found.log_mean - truth).mean())
        between.append(pool.weight @ pool.between)
    assert 0.92 <= np.mean(covered) <= 0.97
    assert abs(np.mean(bias)) < 0.02
    assert np.mean(between) == pytest.approx(0.5, abs=0.04)


def alike(seed: int, n: int, precision: float, dof: float = 29.0) -> tuple[np.ndarray, ...]:
    """log of the truth around 0, an estimate with t error, its s.e., degrees of freedom, and no covariate."""
    rng = np.random.default_rng(seed)
    truth, se = 0.5 * rng.normal(size=n), np.full(n, 1.0 / precision)
    return truth, np.exp(truth) + se * rng.standard_t(dof, n), se, np.full(n, dof), np.zeros((n, 0))


@pytest.mark.parametrize(("n", "precision"), [(1_000, 0.1), (1_000, 1.0), (200, 0.5), (20, 3.0), (20, 10.0)])
def test_middle_and_scatter_are_those_of_the_marginal_likelihood_added_up_on_a_grid(n: int, precision: float) -> None:
    """Also where every market is thin: 1,000 with a tenth of a standard error each."""
    _, estimate, se, dof, x = alike(1, n, precision)
    pool = fit_pool(estimate, se, dof, x)
    assert pool is not None
    theta = np.linspace(-14, 8, 801)
    mu, log_tau = (a.ravel() for a in np.meshgrid(np.linspace(-4, 2, 61), np.linspace(-3, 1.2, 64)))
    likelihood = (1 + ((np.exp(theta) - estimate[:, None]) / se[:, None]) ** 2 / dof[:, None]) ** -15.0
    z = (theta[:, None] - mu) * np.exp(-log_tau)
    log = np.log(likelihood @ np.exp(-0.5 * z * z)).sum(axis=0) - n * log_tau
    log -= 2.0 * (log_tau + 0.125 * np.exp(-2.0 * log_tau))  # two more markets that differ by 0.5
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    middle, scatter = weight @ mu, weight @ log_tau
    sd = np.sqrt(weight @ (mu - middle) ** 2), np.sqrt(weight @ (log_tau - scatter) ** 2)
    assert pool.center == pytest.approx(middle, abs=0.4 * sd[0])
    assert pool.weight @ np.log(pool.between) == pytest.approx(scatter, abs=0.4 * sd[1])
    mean, width = pool.expect(np.zeros((1, 0)))
    variance = pool.weight @ (width[:, 0] ** 2 + (mean[:, 0] - pool.center) ** 2)
    assert np.sqrt(variance) == pytest.approx(np.sqrt(sd[0] ** 2 + weight @ np.exp(2 * log_tau)), rel=0.1)


@pytest.mark.parametrize("precision", [0.1, 1.0])
def test_fit_is_at_an_end_and_not_at_the_last_round_allowed(precision: float, monkeypatch: pytest.MonkeyPatch) -> None:
    _, *of, x = alike(1, 300 if precision == 1.0 else 1_000, precision)
    base = fit_pool(*of, x)
    monkeypatch.setattr(pooling, "_ROUNDS", 10 * pooling._ROUNDS)
    more = fit_pool(*of, x)
    assert base is not None
    assert more is not None
    np.testing.assert_allclose(more.weight @ more.between, base.weight @ base.between, rtol=1e-3)
    assert more.center == pytest.approx(base.center, abs=1e-3)


@pytest.mark.parametrize("n", [10, 20, 50])
@pytest.mark.parametrize("precision", [1.0, 20.0])
def test_few_markets_intervals_hold_what_is_open_of_the_pool_itself(n: int, precision: float) -> None:
    covered = []
    for seed in range(25):
        truth, *of, x = alike(seed, n, precision, dof=9.0)
        pool = fit_pool(*of, x)
        if pool is None:
            continue  # ten thin markets may tell no middle
        found = posterior(*of, x, pool)
        covered.append(((np.log(found.low) < truth) & (truth < np.log(found.high))).mean())
    assert len(covered) >= 22
    assert 0.92 <= np.mean(covered) <= 0.985


@pytest.mark.parametrize("n", [10, 20])
def test_two_kinds_of_which_five_markets_each_are_seen_are_not_one(n: int) -> None:
    """Kinds 7.4 times apart; taken for one they differ by 1.1 in the logarithm instead of 0.5, each way off its own."""
    covered, between = [], []
    kind = np.arange(n) % 2
    for seed in range(25):
        truth, estimate, se, dof, _ = alike(seed, n, 1.0, dof=29.0)
        of = estimate * np.exp(2.0 * kind), se * np.exp(2.0 * kind), dof
        x = np.column_stack([kind, np.random.default_rng(seed).normal(size=(n, 3))])
        pool = fit_pool(*of, x)
        if pool is None:
            continue
        found = posterior(*of, x, pool)
        assert (pool.scale[1:] == 0).all()  # twenty markets do not tell what three more covariates do
        covered.append((np.abs(np.log(found.value) - 2.0 * kind - truth) < 1.959964 * found.log_sd).mean())
        between.append(pool.weight @ pool.between)
    assert len(covered) >= 15
    assert np.mean(covered) >= 0.92
    assert np.mean(between) < 0.8


@pytest.mark.parametrize("others", [0, 4, 5])
def test_kind_is_fitted_from_five_markets_of_each(others: int) -> None:
    _, *of, _ = alike(1, 20, 3.0)
    pool = fit_pool(*of, np.column_stack([np.arange(20) < others, np.full(20, np.nan), np.arange(20.0)]).astype(float))
    assert pool is not None
    assert (pool.scale > 0).tolist() == [others >= 5, False, False]


def test_peers_that_tell_no_middle_of_their_own_are_no_pool() -> None:
    _, estimate, se, dof, x = alike(1, 30, 0.2)
    assert fit_pool(estimate, se, dof, x) is not None
    assert fit_pool(estimate - estimate.mean() - 1.0, se, dof, x) is None


def test_thin_markets_gain_by_half_and_thick_ones_lose_nothing_against_their_own_least_squares() -> None:
    thin_gain, thick_loss = [], []
    for seed in range(5):
        truth, estimate, se, x = markets(seed)
        dof = np.full(len(se), 29.0)
        found = posterior(estimate, se, dof, x, fit_pool(estimate, se, dof, x))
        with np.errstate(invalid="ignore"):
            alone = np.where(estimate > 0, np.abs(np.log(np.abs(estimate)) - truth), np.inf)
        pooled = np.abs(np.log(found.value) - truth)
        order = np.argsort(se)
        thick, thin = order[: len(se) // 10], order[-len(se) // 10 :]
        thin_gain.append(np.median(alone[thin]) / np.median(pooled[thin]))
        thick_loss.append(np.median(pooled[thick]) / np.median(alone[thick]))
    assert min(thin_gain) > 2
    assert np.mean(thick_loss) < 1.05


def test_unit_of_the_quantity_does_not_matter() -> None:
    _, estimate, se, x = markets(1)
    dof = np.full(len(se), 29.0)
    base = posterior(estimate, se, dof, x, fit_pool(estimate, se, dof, x))
    for unit in (1e-7, 3e5):
        scaled = posterior(estimate * unit, se * unit, dof, x, fit_pool(estimate * unit, se * unit, dof, x))
        np.testing.assert_allclose(scaled.value, base.value * unit, rtol=1e-9)
        np.testing.assert_allclose(scaled.log_sd, base.log_sd, rtol=1e-9)


def test_market_without_an_estimate_has_the_pools_width_and_no_weight_of_its_own() -> None:
    _, estimate, se, x = markets(2)
    dof = np.full(len(se), 29.0)
    estimate[0] = np.nan
    pool = fit_pool(estimate, se, dof, x)
    assert pool is not None
    found = posterior(estimate, se, dof, x, pool)
    assert found.own[0] == 0
    assert found.log_sd[0] > pool.weight @ pool.between
    assert np.isfinite(found.value).all()


@pytest.mark.parametrize("n", [1, 9])
def test_too_few_markets_are_no_pool_and_only_clear_estimates_stand(n: int) -> None:
    estimate, se, dof, x = np.full(n, 3.0), np.full(n, 1.0), np.full(n, 9.0), np.zeros((n, 2))
    assert fit_pool(estimate, se, dof, x) is None
    estimate[0] = 1.5  # within two standard errors of nothing
    found = posterior(estimate, se, dof, x, None)
    assert np.isnan(found.value[0])
    np.testing.assert_allclose(found.value[1:], 3.0, rtol=1e-12)


def test_covariate_that_never_varies_or_is_missing_says_nothing() -> None:
    _, estimate, se, x = markets(3)
    dof = np.full(len(se), 29.0)
    base = posterior(estimate, se, dof, x, fit_pool(estimate, se, dof, x))
    more = np.column_stack([x, np.full(len(se), 7.0), np.full(len(se), np.nan)])
    found = posterior(estimate, se, dof, more, fit_pool(estimate, se, dof, more))
    np.testing.assert_allclose(found.value, base.value, rtol=1e-9)
