"""Volatility estimators: published and derived vectors, and what they say of paths whose variance is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats

from tributary_opt.market_data import volatility as v

# mathematics.md §5, worked out there to 16 digits from the papers' formulas, on logarithms.
OPEN = np.log([0.5, 0.52, 0.49, 0.51, 0.53])
HIGH = np.log([0.54, 0.53, 0.52, 0.55, 0.56])
LOW = np.log([0.49, 0.48, 0.47, 0.5, 0.51])
CLOSE = np.log([0.52, 0.5, 0.51, 0.54, 0.52])


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (v.parkinson(HIGH, LOW).mean(), 0.003412794647021344),
        (v.garman_klass(OPEN, HIGH, LOW, CLOSE).mean(), 0.004098085636616737),
        (v.garman_klass_short(OPEN, HIGH, LOW, CLOSE).mean(), 0.004089358297868465),
        (v.rogers_satchell(OPEN, HIGH, LOW, CLOSE).mean(), 0.004155388323149092),
        (v.yang_zhang(OPEN, HIGH, LOW, CLOSE), 0.0040639780438620435),
        (v.yang_zhang_weight(4), 0.1130820399113082),
        (v.yang_zhang_weight(2), 0.0783410138248848),
        (v.close_to_close([1.0, 3.0, 0.0]), 6.5),
        (v.close_to_close([np.nan, 1.0, 3.0, np.nan, np.nan, 0.0, np.nan]), 13.0 / 4),
        (v.realised_variance([1.0, 3.0, np.nan, 0.0]), 13.0),
        (v.bipower_variance([1.0, 3.0, np.nan, 0.0, 1.0]), math.pi / 2 * (6 + 3)),
    ],
)
def test_published_and_worked_out_values(found: float, expected: float) -> None:
    assert found == pytest.approx(expected, rel=1e-12)


def brownian_bars(n_steps: int, n_bars: int, seed: int = 5, drift: float = 0.0) -> list[np.ndarray]:
    """Open, high, low, close of bars of variance 1, without gaps between them."""
    rng = np.random.default_rng(seed)
    moves = rng.standard_normal((n_bars, n_steps)) / math.sqrt(n_steps) + drift / n_steps
    start = np.concatenate([[0.0], np.cumsum(moves.sum(axis=1))[:-1]])[:, None]
    path = np.concatenate([start, start + np.cumsum(moves, axis=1)], axis=1)
    return [path[:, 0], path.max(axis=1), path.min(axis=1), path[:, -1]]


def test_range_estimators_are_as_efficient_as_the_books_say() -> None:
    """4.9, 7.3 and 5.8 by mathematics.md's own check of the published 5.2, 7.4 and 6; finite looks leave them low."""
    o, h, low, c = brownian_bars(1_000, 12_000)
    of_close = 2.0  # the variance of (c - o)², unit variance
    for terms, efficiency in (
        (v.parkinson(h, low), 4.9),
        (v.garman_klass(o, h, low, c), 7.3),
        (v.rogers_satchell(o, h, low, c), 5.8),
    ):
        assert 0.9 < terms.mean() < 1.0
        assert of_close / terms.var() * terms.mean() ** 2 == pytest.approx(efficiency, rel=0.1)
    batch = [a.reshape(-1, 20) for a in (o, h, low, c)]
    assert v.yang_zhang(*batch).mean() == pytest.approx(1.0, abs=0.06)
    assert 2 / 19 / v.yang_zhang(*batch).var() > 6


def test_rogers_satchell_does_not_mind_a_drift_and_parkinson_does() -> None:
    o, h, low, c = brownian_bars(1_000, 5_000, drift=2.0)
    assert v.rogers_satchell(o, h, low, c).mean() == pytest.approx(0.95, abs=0.04)
    assert v.parkinson(h, low).mean() > 1.8


def test_yang_zhang_takes_gaps_in_and_the_others_leave_them_out() -> None:
    rng = np.random.default_rng(1)
    o, h, low, c = brownian_bars(300, 20_000)
    gaps = np.cumsum(rng.normal(0, 0.5, len(o)))
    jumped = [a + gaps for a in (o, h, low, c)]
    assert v.yang_zhang(*jumped) - v.yang_zhang(o, h, low, c) == pytest.approx(0.25, rel=0.05)
    np.testing.assert_allclose(v.parkinson(jumped[1], jumped[2]), v.parkinson(h, low), rtol=1e-9)


@pytest.mark.parametrize("n_trades", [5, 8, 25, 80])
def test_range_of_few_trades_is_corrected_by_their_number(n_trades: int) -> None:
    rng = np.random.default_rng(n_trades)
    times = np.sort(rng.uniform(size=(60_000, n_trades)), axis=1)
    path = np.cumsum(rng.standard_normal(times.shape) * np.sqrt(np.diff(times, axis=1, prepend=0.0)), axis=1)
    o, h, low, c = path[:, 0], path.max(axis=1), path.min(axis=1), path[:, -1]
    of_parkinson, of_garman_klass, of_rogers_satchell = v.range_share(n_trades)
    assert v.parkinson(h, low).mean() / of_parkinson == pytest.approx(1.0, abs=0.02)
    assert v.garman_klass(o, h, low, c).mean() / of_garman_klass == pytest.approx(1.0, abs=0.02)
    assert v.rogers_satchell(o, h, low, c).mean() / of_rogers_satchell == pytest.approx(1.0, abs=0.025)


def test_range_of_very_few_trades_is_refused_and_of_endless_many_left_as_it_is() -> None:
    shares = np.array(v.range_share([1, 4, 5, 100, 1e6, 1e12]))
    assert np.isnan(shares[:, :2]).all()
    assert (np.diff(shares[:, 2:], axis=1) > 0).all()
    np.testing.assert_allclose(shares[:, -1], 1.0, rtol=1e-4)


def test_a_bar_that_no_path_gives_is_named_bad() -> None:
    o, h, low, c = brownian_bars(5, 2_000)
    assert not v.bad_bars(o, h, low, c).any()
    assert not v.bad_bars([1.0], [1.0], [1.0], [1.0]).any()
    # A close beyond the high; a high below the open; a bar of another day's close.
    assert v.bad_bars([1.0, 1.0, 1.0], [2.0, 0.9, 1.1], [0.9, 0.8, 0.9], [3.0, 0.85, 9.0]).all()
    assert v.garman_klass(1.0, 1.1, 0.9, 9.0) < 0


def test_bounce_alone_is_no_volatility_to_the_two_scales() -> None:
    """peers.md [28]: trades at 0.49 and 0.51 around a still mid; the truth is 0."""
    rng = np.random.default_rng(28)
    prices = 0.5 + 0.01 * rng.choice([-1, 1], size=(400, 289))
    found = v.two_scale_variance(prices)
    assert np.sqrt(v.realised_variance(prices).mean()) == pytest.approx(0.0141 * math.sqrt(288), rel=0.01)
    standard_error = found.variance.std() / math.sqrt(len(prices))
    assert abs(found.variance.mean()) < 3 * standard_error
    assert standard_error < 0.01 * v.realised_variance(prices).mean()
    np.testing.assert_allclose(found.noise.mean(), 0.01**2, rtol=0.01)


@pytest.mark.parametrize(("n", "noise"), [(288, 0.0), (288, 0.1), (78, 0.05), (40, 0.02)])
def test_two_scales_find_the_variance_behind_noise_and_say_how_surely(n: int, noise: float) -> None:
    rng = np.random.default_rng(n)
    path = np.cumsum(rng.standard_normal((4_000, n + 1)), axis=1) / math.sqrt(n)
    seen = path + noise * rng.standard_normal(path.shape)
    seen[rng.random(seen.shape) < 0.1] = np.nan  # bars without a trade
    found = v.two_scale_variance(seen)
    standard_error = found.variance.std() / math.sqrt(len(seen))
    # The path before the first and after the last price that is there is not seen: 0.1/0.9 of a step at either end.
    assert found.variance.mean() == pytest.approx(1 - 2 * 0.1 / 0.9 / n, abs=3.5 * standard_error)
    assert np.sqrt(found.error.mean()) == pytest.approx(found.variance.std(), rel=0.2)
    assert (found.n <= n).all()


@pytest.mark.parametrize("slower", [1, 2])
def test_two_scales_count_the_whole_day_however_its_variance_is_spread(slower: int) -> None:
    """Half of the variance in the first and last quarter hour: σ read 9 % low while windows had to fit in the day."""
    rng = np.random.default_rng(4)
    shape = np.ones(78)
    shape[:3] = shape[-3:] = 12.0
    path = np.zeros((6_000, 79))
    path[:, 1:] = np.cumsum(rng.standard_normal((6_000, 78)) * np.sqrt(shape / shape.sum()), axis=1)
    found = v.two_scale_variance(path + 0.05 * rng.standard_normal(path.shape), slower)
    assert found.variance.mean() == pytest.approx(1.0, abs=3.5 * found.variance.std() / math.sqrt(6_000))


def test_slower_scales_see_through_noise_that_persists() -> None:
    """Noise that turns around at a quarter of the prices and adds four times the variance: 1.3 and 1.0."""
    rng = np.random.default_rng(5)
    path = np.cumsum(rng.standard_normal((3_000, 289)), axis=1) / math.sqrt(288)
    sign = np.cumprod(np.where(rng.random(path.shape) < 0.75, 1, -1), axis=1)
    prices = path + 0.12 * sign
    plain, slow = (v.two_scale_variance(prices, slower) for slower in (1, 2))
    assert plain.variance.mean() > 1.25
    assert slow.variance.mean() == pytest.approx(1.0, abs=0.05)
    assert np.sqrt(slow.error.mean()) == pytest.approx(slow.variance.std(), rel=0.25)


@pytest.mark.parametrize("slower", [1, 2])
def test_two_scales_of_a_path_are_the_same_to_the_last_bit_whichever_paths_stand_beside_it(slower: int) -> None:
    rng = np.random.default_rng(8)
    paths = np.cumsum(rng.standard_normal((40, 289)), axis=1)
    paths[rng.random(paths.shape) < rng.random((40, 1))] = np.nan
    together = v.two_scale_variance(paths, slower)
    for i, path in enumerate(paths):
        alone = v.two_scale_variance(path[np.newaxis], slower)
        assert (alone.variance[0], alone.error[0]) == (together.variance[i], together.error[i])


def test_too_few_prices_measure_nothing() -> None:
    found = v.two_scale_variance([[1.0, 2.0, 1.0, np.nan, *[np.nan] * 10], [*range(14)]])
    assert (found.n[0], found.variance[0], found.error[0], found.noise[0]) == (0, 0.0, 0.0, 0.0)
    assert found.n[1] == 13
    assert found.variance[1] > 0


@pytest.mark.parametrize(
    ("estimator", "enough"), [(v.realised_variance, 2), (v.bipower_variance, 3), (v.close_to_close, 2)]
)
def test_variance_of_too_few_prices_is_no_number(estimator: Callable[[list[float]], np.ndarray], enough: int) -> None:
    for n in range(5):
        assert np.isnan(estimator([1.0] * n)) == (n < enough)
        assert np.isnan(estimator([np.nan, *[1.0] * n, np.nan])) == (n < enough)


def test_bar_with_a_missing_number_is_bad() -> None:
    for place in range(4):
        bar = [1.0, 2.0, 0.5, 1.5]
        assert not v.bad_bars(*bar)
        bar[place] = np.nan
        assert v.bad_bars(*bar)


def test_jump_shows_in_realised_and_not_in_bipower_variance() -> None:
    rng = np.random.default_rng(2)
    path = np.cumsum(rng.standard_normal((2_000, 289)), axis=1) / math.sqrt(288)
    jumped = path + 2.0 * (np.arange(289) >= 100)
    assert v.realised_variance(jumped).mean() == pytest.approx(5.0, rel=0.02)
    assert v.bipower_variance(path).mean() == pytest.approx(1.0, rel=0.02)
    # The jump stands in two products, each with an ordinary move of mean size sqrt(2/π/288).
    left = math.pi / 2 * 2 * 2.0 * math.sqrt(2 / math.pi / 288)
    assert v.bipower_variance(jumped).mean() == pytest.approx(1.0 + left, rel=0.02)


def test_units_of_price_only_scale() -> None:
    o, h, low, c = brownian_bars(50, 60)
    for factor in (1e-4, 1e6):
        for function in (v.yang_zhang, v.garman_klass, v.rogers_satchell):
            np.testing.assert_allclose(
                function(*(factor * a for a in (o, h, low, c))), factor**2 * function(o, h, low, c), rtol=1e-9
            )
        scaled, plain = v.two_scale_variance(factor * c), v.two_scale_variance(c)
        np.testing.assert_allclose(scaled.variance, factor**2 * plain.variance, rtol=1e-9)
        np.testing.assert_allclose(scaled.error, factor**4 * plain.error, rtol=1e-9)


# --- probabilities ------------------------------------------------------------------------------------------


def test_prior_of_a_probability_is_the_published_one_and_below_the_ceiling() -> None:
    # mathematics.md §7.3: p = 0.5 and 0.05 with a day left; the uniform budget at 30 days.
    np.testing.assert_allclose(v.probability_prior([0.5, 0.05], 30.0), [0.0728, 0.0188], rtol=3e-3)
    assert v.probability_ceiling(0.5, 30.0) == pytest.approx(0.0913, rel=1e-3)
    p = np.linspace(1e-4, 1 - 1e-4, 4_001)
    prior, ceiling = v.probability_prior(p, 7.0), v.probability_ceiling(p, 7.0)
    assert (prior < ceiling).all()
    np.testing.assert_allclose(prior, scipy.stats.norm.pdf(scipy.stats.norm.ppf(p)) / math.sqrt(7), rtol=1e-10)
    np.testing.assert_allclose(prior, prior[::-1], rtol=1e-9)
    assert np.isnan(v.probability_prior([0.0, 1.0, 0.5], [1.0, 1.0, 0.0])).all()
    assert np.isnan(v.probability_ceiling([0.0, 1.0, 0.5], [1.0, 1.0, -1.0])).all()


def test_probability_next_to_its_bound_has_a_prior_or_none_and_never_fails() -> None:
    """At 1e-15 there is one, to the four digits that 1 - p leaves; where 1 - p is 1 there is none, as at 0."""
    near, nearer = np.array([1e-15, 1.0 - 1e-15, 5e-15]), np.array([1e-17, 1e-300, 0.0, 1.0])
    np.testing.assert_allclose(v.probability_ceiling(near, 5.0), np.sqrt(np.array([1.0, 1.0, 5.0]) * 2e-16), rtol=1e-3)
    assert (v.probability_prior(near, 5.0) < v.probability_ceiling(near, 5.0)).all()
    assert np.isnan(v.probability_prior(nearer, 5.0)).all()
    assert np.isnan(v.probability_ceiling(nearer, 5.0)).all()


def test_both_tokens_of_any_price_have_one_prior_and_ceiling_to_the_last_bit() -> None:
    p = np.append(np.random.default_rng(4).uniform(size=2_000), 10.0 ** np.arange(-15, 0))
    for of in (v.probability_prior, v.probability_ceiling):
        np.testing.assert_array_equal(of(p, 7.0), of(1.0 - p, 7.0))
    np.testing.assert_allclose(v.probability_ceiling(p, 1.0) ** 2, p * (1.0 - p), atol=1.2e-16, rtol=1e-14)
