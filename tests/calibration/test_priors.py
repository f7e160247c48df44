"""The law's posterior: the prior where nothing else is known, and own executions that recover the truth."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike

from tributary_opt.calibration.own_executions import Orders, checked, orders_of
from tributary_opt.calibration.priors import law
from tributary_opt.settings import LawPrior

PRIOR = LawPrior()
PRICE = 500.0  # so high that no price falls to 0 where costs are 30 times as noisy as volatility says


def executions(
    rng: np.random.Generator, n: int, b: ArrayLike, beta: ArrayLike, g: ArrayLike, noise: float = 1.0
) -> pd.DataFrame:
    """Orders in a market with V = 1e6, σ = 0.5 and ε = 0.01, `noise` times the noise of ATHL, drawn step by step."""
    size, duration = 1e6 * 10 ** rng.uniform(-3, -1, n), rng.uniform(0.1, 1.0, n)
    rate = size / 1e6 / duration
    # A Brownian path over [0, T] and on to T + 0.5: its mean over the order, and its end.
    end = noise * rng.normal(size=n) * np.sqrt(duration)
    mean = end / 2 + noise * rng.normal(size=n) * np.sqrt(duration / 12)
    after = end + noise * rng.normal(size=n) * np.sqrt(0.5)
    side = rng.choice([-1.0, 1.0], n)
    permanent = g * size / 1e6
    cost = 0.5 * (permanent / 2 + b * rate**beta) + 0.01 + side * 0.5 * mean
    return pd.DataFrame(
        {
            "market_id": "M",
            "side": np.where(side > 0, "buy", "sell"),
            "size": size,
            "arrival_price": PRICE,
            "average_price": PRICE + side * cost,
            "duration": duration,
            "post_price": PRICE + side * 0.5 * permanent + 0.5 * after,
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
    prior_sd = np.sqrt(0.75**2 + 0.3**2 + (0.04 * np.log(100)) ** 2)
    np.testing.assert_allclose(eta_sd, [prior_sd, np.hypot(prior_sd, 0.15)], rtol=1e-12)
    np.testing.assert_allclose(permanent_sd, [1.0, np.hypot(1.0, 0.3)], rtol=1e-12)


def test_the_prior_reaches_as_far_as_square_root_laws_do() -> None:
    """Two literatures price the same order four times apart: an interval that leaves one of them out is too narrow."""
    found = law(PRIOR, np.zeros(1), np.zeros(1))
    temporary, sd = found.temporary(0.01)
    permanent = 0.5 * found.permanent()[0] * 0.01
    square_root = 2 / 3 * 0.7 * np.sqrt(0.01)  # mean of the path, Y = 0.7; a day's 1 % of ADV, in units of σ
    assert temporary + permanent < 0.25 * square_root
    assert temporary * np.exp(1.96 * sd) + permanent >= square_root


def drawn_laws(rng: np.random.Generator, n_draws: int, n_orders: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truths from the prior, each with orders of its own: φ, the means found and their standard deviations."""
    sd = np.hypot([PRIOR.b_level_sd, PRIOR.beta_sd, PRIOR.permanent_level_sd],
                  [PRIOR.b_market_sd, 0.0, PRIOR.permanent_market_sd])  # fmt: skip
    truth = np.array([np.log(0.142), 0.6, np.log(0.314)]) + rng.normal(size=(n_draws, 3)) * sd
    b, beta, g = np.repeat(truth, n_orders, axis=0).T
    names, one = pd.Series([f"M{i}" for i in range(n_draws)]), np.ones(n_draws)
    table = executions(rng, n_draws * n_orders, np.exp(b), beta, np.exp(g))
    table["market_id"] = np.repeat(names.to_numpy(), n_orders)
    every = orders_of(table, names, names, 1e6 * one, 0.5 * one, 0.01 * one)
    assert every is not None
    found = []
    for i in range(n_draws):
        mine = every.market == i
        parts = {f.name: getattr(every, f.name)[mine] for f in fields(Orders) if f.name != "market"}
        found.append(law(PRIOR, np.zeros(1), np.zeros(1), Orders(np.zeros(mine.sum(), dtype=np.int64), **parts)))
    mean = np.stack([f.mean[0] for f in found])
    return truth, mean, np.stack([np.sqrt(np.diagonal(f.covariance[0])) for f in found])


def test_own_executions_recover_b_beta_and_the_permanent_part_with_the_coverage_they_state() -> None:
    """300 truths drawn from the prior: of each one's 95 % intervals as many hold it, within two binomial errors, 2.5 %.

    No bias either: the mean of z is within 3/√300 of 0. `benchmarks/own_executions.py` draws 4,000.
    """
    truth, mean, sd = drawn_laws(np.random.default_rng(11), 300, 400)
    z = (mean - truth) / sd
    coverage = (np.abs(z) < 1.959964).mean(axis=0)
    assert (np.abs(coverage - 0.95) < 2 * np.sqrt(0.95 * 0.05 / 300)).all(), coverage
    assert (np.abs(z.mean(axis=0)) < 3 / np.sqrt(300)).all(), z.mean(axis=0)
    # Orders did say something: b and the permanent part are narrower than their priors.
    of_prior = np.hypot([0.75, 0.8], [0.3, 0.6])
    assert (np.median(sd[:, [0, 2]], axis=0) < [0.6, 0.95] * of_prior).all(), np.median(sd, axis=0)


@pytest.mark.parametrize(("seed", "n", "b", "g"), [(1, 200, 0.142, 0.314), (2, 200, 0.3, 0.02), (3, 200, 0.142, 4.0)])
def test_posterior_is_that_of_draws_from_the_prior_weighed_by_their_likelihood(
    seed: int, n: int, b: float, g: float
) -> None:
    """An oracle without quadrature: 20,000 draws of φ, and every order's bivariate normal density at each of them."""
    orders = executions(np.random.default_rng(seed), n, b, 0.6, g)
    found = found_law(orders)
    sd = np.hypot([0.75, 0.04, 0.8], [0.3, 0.0, 0.6])
    phi = np.array([np.log(0.142), 0.6, np.log(0.314)]) + np.random.default_rng(0).normal(size=(20_000, 3)) * sd
    side = np.where(orders["side"] == "buy", 1.0, -1.0)
    cost = (side * (orders["average_price"] - PRICE) - 0.01).to_numpy() / 0.5
    move = side * (orders["post_price"] - PRICE).to_numpy() / 0.5
    log = np.zeros(len(phi))
    for x, t, until, j, i in zip(
        orders["size"] / 1e6, orders["duration"], orders["post_duration"], cost, move, strict=True
    ):
        permanent = np.exp(phi[:, 2]) * x
        error = np.stack([j - permanent / 2 - np.exp(phi[:, 0]) * (x / t) ** phi[:, 1], i - permanent])
        white = np.linalg.solve(np.linalg.cholesky(found.noise * np.array([[t / 3, t / 2], [t / 2, until]])), error)
        log -= 0.5 * (white**2).sum(axis=0)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    mean = weight @ phi
    covariance = (phi - mean).T @ (weight[:, None] * (phi - mean))
    worth = 1 / (weight**2).sum()  # draws that the weights leave
    assert worth > 1_000
    sd = np.sqrt(np.diagonal(covariance))
    assert (np.abs(found.mean[0] - mean) < 4 * sd / np.sqrt(worth)).all()
    np.testing.assert_allclose(np.sqrt(np.diagonal(found.covariance[0])), sd, rtol=4 / np.sqrt(2 * worth))


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


@pytest.mark.parametrize("noise", [0.1, 0.02, 0.001, 1e-6, 30.0])
@pytest.mark.parametrize("n_orders", [40, 4_000])
def test_costs_much_quieter_or_noisier_than_volatility_says_are_taken_as_they_are(noise: float, n_orders: int) -> None:
    found = found_law(executions(np.random.default_rng(4), n_orders, 0.4, 0.52, 1.0, noise))
    assert found.noise == pytest.approx(noise**2, rel=5 / np.sqrt(2 * n_orders))
    z = (found.mean[0] - [np.log(0.4), 0.52, 0.0]) / np.sqrt(np.diagonal(found.covariance[0]))
    assert np.abs(z).max() < 4.0


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
    with pytest.raises(ValueError, match="post_duration must be finite and >= duration"):
        checked(bad)
    bad = good.copy()
    bad.loc[1, "post_price"] = 0.0
    with pytest.raises(ValueError, match="post_price must be finite and > 0, or empty; row 2 of 3"):
        checked(bad)


@pytest.mark.parametrize("column", ["arrival_price", "average_price", "post_price"])
@pytest.mark.parametrize("n", [20, 400])
def test_one_typing_error_moves_no_law(column: str, n: int) -> None:
    """One price with its point two digits off, of a few orders and of many: the law is that of the others."""
    one = pd.Series(["M"])
    market = np.array([1e6]), np.array([0.5]), np.array([0.01])
    orders = executions(np.random.default_rng(6), n, 0.142, 0.6, 0.314)
    wrong = orders.copy()
    wrong.loc[7, column] *= 100.0
    expected, found = orders_of(orders.drop(index=7), one, one, *market), orders_of(wrong, one, one, *market)
    assert expected is not None
    assert found is not None
    for field in fields(Orders):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))


def test_no_order_of_a_large_and_dear_desk_is_called_a_typing_error() -> None:
    """b and g three standard deviations above the literature's, orders of up to a day's volume in a fifth of a day."""
    rng, one = np.random.default_rng(7), pd.Series(["M"])
    orders = executions(rng, 5_000, 0.142 * np.exp(1.5), 0.6, 0.314 * np.exp(3.0))
    orders["size"] *= 10.0
    part = 0.5 * (0.314 * np.exp(3.0) / 2 * 0.9 + 0.142 * np.exp(1.5) * (10**0.6 - 1)) * orders["size"] / 1e6
    orders["average_price"] += np.where(orders["side"] == "buy", 1.0, -1.0) * part
    known = orders_of(orders, one, one, np.array([1e6]), np.array([0.5]), np.array([0.01]))
    assert known is not None
    assert len(known.market) == 5_000


def test_markets_with_the_same_orders_have_the_same_posterior_however_many_there_are() -> None:
    """More of them than are worked out at a time; together they are surer of the level than one."""
    orders, n = executions(np.random.default_rng(8), 50, 0.3, 0.6, 0.5), 37
    names = pd.Series([f"M{i}" for i in range(n)])
    table = pd.concat([orders.assign(market_id=name) for name in names], ignore_index=True)
    known = orders_of(table, names, names, np.full(n, 1e6), np.full(n, 0.5), np.full(n, 0.01))
    found = law(PRIOR, np.zeros(n), np.zeros(n), known)
    np.testing.assert_allclose(found.mean, np.broadcast_to(found.mean[0], (n, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.broadcast_to(found.covariance[0], (n, 3, 3)), rtol=1e-9, atol=1e-15)
    assert (np.diagonal(found.covariance[0]) < np.diagonal(found_law(orders).covariance[0])).all()
