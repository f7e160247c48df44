"""The error of sigma, against an integral and by simulation: what intervals cover where days differ, few and many."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats

from tributary_opt.calibration.least_squares import t_quantile
from tributary_opt.calibration.parameters import SIGMA_DOF
from tributary_opt.market_data.day_scatter import DAY_LOG_SD, log_sigma_sd

Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
HALF = float(t_quantile(np.array([SIGMA_DOF]))[0])


def t4(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_t(4, shape) / np.sqrt(2.0)


def days(
    n: int,
    n_moves: int,
    log_sd: float,
    *,
    markets: int,
    noise: Noise = np.random.Generator.standard_normal,
    seed: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Realised variances of days and their errors, shape (markets, n); the mean variance of the days to come is 1."""
    rng = np.random.default_rng(seed)
    of_day = np.exp(log_sd * rng.standard_normal((markets, n, 1)) - log_sd**2)
    moves = of_day * noise(rng, (markets, n, n_moves)) / np.sqrt(n_moves)
    return (moves**2).sum(axis=2), 2.0 / 3.0 * (moves**4).sum(axis=2)


def errors(
    variance: np.ndarray, error: np.ndarray, *, weights: np.ndarray | None = None, prior: float = DAY_LOG_SD["price"]
) -> np.ndarray:
    markets, n = variance.shape
    w = np.tile(np.ones(n) if weights is None else weights, markets)
    group = np.repeat(np.arange(markets), n)
    ones = np.ones(variance.size)
    return log_sigma_sd(variance.ravel(), error.ravel(), ones, w, np.full(markets, prior), group)


@pytest.mark.parametrize("noise", [np.random.Generator.standard_normal, t4])
@pytest.mark.parametrize("n_moves", [288, 20])
@pytest.mark.parametrize(
    ("n", "widest"),
    [(1, 0.45), (2, 0.33), (3, 0.27), (5, 0.21), (6, 0.19), (7, 0.18), (8, 0.17), (12, 0.14), (30, 0.09)],
)
def test_intervals_hold_the_days_to_come_where_days_differ(n: int, widest: float, n_moves: int, noise: Noise) -> None:
    """By the moves alone 24 % were covered at 6 days of a log-sd of 0.35, and 17 % at 0.5."""
    markets = 600
    two_errors = 2 * np.sqrt(0.95 * 0.05 / markets)
    fat = noise is t4 and n_moves == 20  # twenty such moves do not know their own error
    for log_sd, least, most in ((0.0, 0.91, 1.0), (0.25, 0.92, 1.0), (0.35, 0.92, 0.985), (0.5, 0.86, 0.97)):
        variance, error = days(n, n_moves, log_sd, markets=markets, noise=noise, seed=n)
        sd = errors(variance, error)
        covered = (np.abs(np.log(variance.mean(axis=1))) / 2 < HALF * sd).mean()
        assert least - two_errors - 0.03 * fat <= covered <= most + two_errors, log_sd
        if log_sd <= 0.25:
            assert np.median(sd) < widest


@pytest.mark.parametrize("n", [1, 2, 4, 30])
@pytest.mark.parametrize("log_sd", [0.05, 0.4])
def test_quadrature_is_the_integral_over_how_much_days_differ(n: int, log_sd: float) -> None:
    variance, error = days(n, 288, log_sd, markets=1)
    weights, prior = 0.9 ** np.arange(n)[::-1], 0.35
    x, e = variance[0], error[0]
    mean = (weights * x).sum() / weights.sum()
    y, open_ = np.log(x), scipy.special.polygamma(1, x**2 / e - 1)
    contrasts = scipy.linalg.null_space(np.ones((1, n)))  # in which the days' level is not

    def density(s: float) -> float:
        before = np.exp(-0.5 * (s / prior) ** 2)
        if n == 1:
            return before
        covariance = contrasts.T @ np.diag(4 * s**2 + open_) @ contrasts
        return scipy.stats.multivariate_normal(cov=covariance).pdf(contrasts.T @ y) * before

    def squared(s: float) -> float:
        relative = (weights**2 * e).sum() / (weights * x).sum() ** 2
        relative += (np.exp(4 * s**2) - 1) * (weights**2).sum() / weights.sum() ** 2
        return np.log1p(relative) / 4 + (np.log1p(relative) / 4) ** 2

    nodes = np.linspace(1e-4, 1.4, 2_001)
    p = np.array([density(s) for s in nodes])
    expected = np.trapezoid(p * [squared(s) for s in nodes], nodes) / np.trapezoid(p, nodes)
    if n > 1:
        scatter = ((weights * (x - mean)) ** 2).sum() * n / (n - 1) / (weights * x).sum() ** 2
        expected = max(expected, np.log1p(scatter) / 4 + (np.log1p(scatter) / 4) ** 2)
    found = errors(variance, error, weights=weights, prior=prior)[0]
    assert found == pytest.approx(np.sqrt(expected), rel=0.02)


def test_one_day_alone_is_known_as_far_as_recorded_days_differ() -> None:
    variance, error = days(1, 288, 0.0, markets=1)
    of_prices, of_probabilities = (errors(variance, error, prior=DAY_LOG_SD[k])[0] for k in ("price", "probability"))
    assert 0.35 < of_prices < 0.45
    assert 0.7 < of_probabilities < 1.6


def test_error_of_a_month_of_days_alike_is_that_of_its_moves() -> None:
    variance, error = days(30, 288, 0.0, markets=400)
    by_moves = np.sqrt(error.sum(axis=1)) / (2 * variance.sum(axis=1))
    assert np.median(errors(variance, error) / by_moves) < 1.2
    assert (errors(variance, error) >= by_moves).all()


def test_still_days_and_days_that_noise_left_below_zero_make_no_error_without_end() -> None:
    variance, error = days(30, 288, 0.0, markets=1)
    some = np.arange(30) % 2 == 0
    still = errors(np.where(some, 0.0, variance), np.where(some, 0.0, error))[0]
    assert np.sqrt(1 / 30) / 2 < still < 0.35  # as many days without a move as days with: variances scatter by 1
    noisy = errors(np.where(some, -0.1, variance), np.where(some, 0.3, error))[0]
    assert np.isfinite(noisy)
    assert np.isnan(errors(-variance, error)[0])
    assert np.isnan(errors(0.0 * variance, error)[0])


def test_error_has_no_unit_and_days_of_no_weight_are_none() -> None:
    variance, error = days(5, 20, 0.3, markets=3)
    of = errors(variance, error)
    np.testing.assert_allclose(errors(1e8 * variance, 1e16 * error), of, rtol=1e-12)
    weights = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(errors(variance, error, weights=weights), errors(variance[:, 2:], error[:, 2:]))
