"""The law's posterior: the prior where nothing else is known, and own executions that recover the truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tributary_opt.calibration.own_executions import checked, orders_of
from tributary_opt.calibration.priors import law
from tributary_opt.settings import LawPrior

PRIOR = LawPrior()


def executions(rng: np.random.Generator, n: int, b: float, beta: float, g: float) -> pd.DataFrame:
    """Orders in a market with V = 1e6, σ = 0.5 and ε = 0.01, their noise as ATHL have it, drawn step by step."""
    size, duration = 1e6 * 10 ** rng.uniform(-3, -1, n), rng.uniform(0.1, 1.0, n)
    rate = size / 1e6 / duration
    # A Brownian path over [0, T] and on to T + 0.5: its mean over the order, and its end.
    end = rng.normal(size=n) * np.sqrt(duration)
    mean = end / 2 + rng.normal(size=n) * np.sqrt(duration / 12)
    after = end + rng.normal(size=n) * np.sqrt(0.5)
    side = rng.choice([-1.0, 1.0], n)
    permanent = g * size / 1e6
    cost = 0.5 * (permanent / 2 + b * rate**beta) + 0.01 + side * 0.5 * mean
    return pd.DataFrame(
        {
            "market_id": "M",
            "side": np.where(side > 0, "buy", "sell"),
            "size": size,
            "arrival_price": 50.0,
            "average_price": 50.0 + side * cost,
            "duration": duration,
            "post_price": 50.0 + side * 0.5 * permanent + 0.5 * after,
            "post_duration": duration + 0.5,
        }
    )


def found_law(orders: pd.DataFrame):
    one = pd.Series(["M"])
    known = orders_of(orders, one, one, np.array([1e6]), np.array([0.5]), np.array([0.01]))
    return law(PRIOR, np.zeros(1), np.zeros(1), known)


def test_without_own_orders_the_law_is_as_wide_as_the_prior_and_moves_with_the_response() -> None:
    relative = np.log(np.array([1.0, 4.0]))
    found = law(PRIOR, relative, np.array([0.0, 0.3]))
    eta, eta_sd = found.temporary(0.01)
    permanent, permanent_sd = found.permanent()
    np.testing.assert_allclose(eta, 0.142 * 0.01**0.6 * np.array([1.0, 2.0]), rtol=1e-12)
    np.testing.assert_allclose(permanent, 0.314 * np.array([1.0, 4.0]), rtol=1e-12)
    prior_sd = np.sqrt(0.5**2 + (0.04 * np.log(100)) ** 2)
    np.testing.assert_allclose(eta_sd, [prior_sd, np.hypot(prior_sd, 0.15)], rtol=1e-12)
    np.testing.assert_allclose(permanent_sd, [1.0, np.hypot(1.0, 0.3)], rtol=1e-12)


def test_own_executions_recover_b_beta_and_the_permanent_part_within_their_intervals() -> None:
    """Truths drawn from the prior: the 95 % intervals of the three hold 92 to 97 % of them, and none far fewer."""
    rng, inside = np.random.default_rng(11), []
    for _ in range(100):
        truth = np.array([np.log(0.142) + 0.5 * rng.normal(), 0.6 + 0.04 * rng.normal(), np.log(0.314) + rng.normal()])
        found = found_law(executions(rng, 1_500, np.exp(truth[0]), truth[1], np.exp(truth[2])))
        sd = np.sqrt(np.diagonal(found.covariance[0]))
        inside.append(np.abs(found.mean[0] - truth) < 1.96 * sd)
    coverage = np.mean(inside, axis=0)
    assert 0.92 <= coverage.mean() <= 0.97
    assert coverage.min() > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 100)


def test_many_own_executions_leave_little_of_the_prior() -> None:
    found = found_law(executions(np.random.default_rng(3), 60_000, 0.4, 0.52, 1.0))
    b, beta, g = np.exp(found.mean[0, 0]), found.mean[0, 1], np.exp(found.mean[0, 2])
    sd = np.sqrt(np.diagonal(found.covariance[0]))
    assert abs(beta - 0.52) < 3 * sd[1]
    assert sd[1] < 0.04
    assert abs(np.log(g)) < 3 * sd[2]
    assert abs(np.log(b / 0.4)) < 3 * sd[0]
    assert found.noise == pytest.approx(1.0, abs=0.03)
    assert found.own_orders[0] == 60_000


def test_orders_of_one_market_move_the_level_of_the_others_less_than_their_own() -> None:
    orders = executions(np.random.default_rng(5), 20_000, 0.5, 0.6, 0.314)
    ids = pd.Series(["M", "N"])
    both = np.array([1e6, 1e6]), np.array([0.5, 0.5]), np.array([0.01, 0.01])
    found = law(PRIOR, np.zeros(2), np.zeros(2), orders_of(orders, ids, ids, *both))
    own, other = np.exp(found.mean[:, 0])
    assert 0.142 < other < own
    assert found.covariance[0, 0, 0] < found.covariance[1, 0, 0] < 0.5**2


def test_table_of_executions_that_breaks_a_rule_is_refused_with_column_rule_and_row() -> None:
    good = executions(np.random.default_rng(0), 3, 0.1, 0.6, 0.3)
    checked(good)
    with pytest.raises(ValueError, match="lack the columns \\['duration'\\]"):
        checked(good.drop(columns="duration"))
    bad = good.copy()
    bad.loc[1, "size"] = -1.0
    with pytest.raises(ValueError, match="size must be finite and > 0; row 2 of 3"):
        checked(bad)
    bad = good.copy()
    bad.loc[2, "post_duration"] = 0.0
    with pytest.raises(ValueError, match="post_duration must be >= duration"):
        checked(bad)
