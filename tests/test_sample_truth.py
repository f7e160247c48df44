"""Sample markets must be what their truth says: every estimate below is held against the parameter it was drawn from.

Tolerances are four standard errors of the estimate, stated where they are used.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest
from made_markets import (
    FIRST_DAY,
    coin,
    event,
    five_minute_moves,
    pair,
    stock,
    ticks_of,
)

from tributary_opt.sample_data import (
    SampleMarket,
    truth,
)

# Prices


@pytest.mark.parametrize(
    "market",
    [
        coin(gamma=0.0),
        coin(),
        coin(gamma=0.0, tick_size=0.2, spread=0.25),  # a tick of 1.7 five-minute σ: mids show more than σ
        stock(),
        event(),
        event(tick_size=0.01, spread=0.02, sigma=0.03, gamma=0.0),
    ],
    ids=["diffusion", "flow", "large tick", "stock", "event", "large tick event"],
)
def test_realised_variance_of_mids_is_the_truth(market: SampleMarket) -> None:
    _, books = ticks_of(market, 120)
    moves = five_minute_moves(books)
    n = round(market.session_seconds / 300)
    days = len(moves) / (n - 1)
    realised = float((moves**2).sum()) / len(moves) * n
    expected = truth([market])["sigma_mid_5m"][0] ** 2

    # sqrt(2/n) for Gaussian moves; those of flow have the kurtosis of lognormal sizes, e^(4s²) a trade on its share.
    share = (market.gamma * market.flow_sd / market.sigma) ** 2
    jumps = share**2 * np.exp(4 * market.size_log_sd**2) / market.trades_per_day / days
    error = np.sqrt(2 / len(moves) + jumps)
    assert abs(realised / expected - 1) < 4 * error
    assert expected >= market.sigma**2


def test_daily_moves_have_the_same_variance_and_join_up() -> None:
    """No jump at midnight, and days add up to the same σ as minutes: what each day draws for its end is no patch."""
    market = coin(floor=1.0, cap=1e4, price=1000.0)
    _, books = ticks_of(market, 250)
    first = books.groupby(books["timestamp"].dt.date)["mid_price"].first()
    last = books.groupby(books["timestamp"].dt.date)["mid_price"].last()
    daily = np.diff(first.to_numpy())
    assert abs(np.mean(daily**2) / market.sigma**2 - 1) < 4 * np.sqrt(2 / len(daily))
    assert abs(np.corrcoef(daily[1:], daily[:-1])[0, 1]) < 4 / np.sqrt(len(daily))

    joints = first.to_numpy()[1:] - last.to_numpy()[:-1]
    expected = market.sigma**2 * 60 / 86_400 + market.tick_size**2 / 6
    assert abs(np.mean(joints**2) / expected - 1) < 4 * np.sqrt(6 / len(joints))


@pytest.mark.parametrize("trades_per_day", [0.5, 3.0, 10.0])
def test_days_join_up_when_too_few_trades_carry_the_flow(trades_per_day: float) -> None:
    market = coin(price=1000.0, trades_per_day=trades_per_day, adv=100 * trades_per_day, gamma=0.0)
    market = replace(market, gamma=0.6 * market.sigma / market.flow_sd)
    _, books = ticks_of(market, 60)
    first = books.groupby(books["timestamp"].dt.date)["mid_price"].first().to_numpy()
    last = books.groupby(books["timestamp"].dt.date)["mid_price"].last().to_numpy()
    # A minute of diffusion, five standard deviations of it, and a tick; a jump would have the size of a trade's move.
    assert np.abs(first[1:] - last[:-1]).max() < 5 * market.sigma / np.sqrt(1440) + market.tick_size
    assert abs(np.mean(np.diff(first) ** 2) / market.sigma**2 - 1) < 4 * np.sqrt(2 / 59)


def test_overnight_moves_have_their_own_sd() -> None:
    market = stock(overnight_sd=3.0, price=1000.0)
    _, books = ticks_of(market, 300)
    by_day = books.groupby(books["timestamp"].dt.date)["mid_price"]
    moves = by_day.first().to_numpy()[1:] - by_day.last().to_numpy()[:-1]
    expected = 3.0**2 + market.sigma**2 * 30 / 23_400
    assert abs(np.mean(moves**2) / expected - 1) < 4 * np.sqrt(2 / len(moves))


def test_prices_of_a_probability_stay_inside_and_on_the_tick_even_when_wild() -> None:
    for market in (event(sigma=0.5, gamma=0.0), event(price=0.01, sigma=0.05, gamma=0.0), pair(sigma=0.3)):
        trades, books = ticks_of(market, 5)
        for values in (trades["price"], books["best_bid"], books["best_ask"]):
            steps = values.to_numpy() / market.tick_size
            assert np.abs(steps - np.round(steps)).max() < 1e-9
            assert (values == values.round(3)).all()  # the very doubles that "0.407" gives
            assert values.min() >= market.tick_size * (1 - 1e-12)
            assert values.max() <= 1 - market.tick_size * (1 - 1e-12)
        assert (books["best_ask"] > books["best_bid"]).all()


def test_prices_stay_positive() -> None:
    _, books = ticks_of(coin(sigma=60.0, gamma=0.0), 10)
    assert books["best_bid"].min() > 49
    assert books["best_ask"].max() < 201


# Spread, trades, volume


@pytest.mark.parametrize("spread", [0.01, 0.025, 0.0371])
def test_time_weighted_spread_is_the_truth(spread: float) -> None:
    market = coin(spread=spread)
    _, books = ticks_of(market, 10)
    # The book's state is drawn each minute, and there is a snapshot a minute.
    error = 2 * market.tick_size * np.sqrt(market.wide_spread_probability / len(books))
    assert abs(books["spread"].mean() - spread) <= 4 * error + 1e-12
    assert books["spread"].to_numpy() == pytest.approx((books["best_ask"] - books["best_bid"]).to_numpy(), abs=1e-9)
    assert (books["mid_price"] == 0.5 * (books["best_bid"] + books["best_ask"])).all()
    assert books["spread_bps"].to_numpy() == pytest.approx((books["spread"] / books["mid_price"] * 1e4).to_numpy())


def test_trades_hit_the_book_on_their_side() -> None:
    trades, books = ticks_of(coin(sigma=0.0, gamma=0.0), 2)  # a still mid: the book changes with the minute only
    book = books.assign(minute=books["timestamp"].dt.floor("1min")).set_index("minute")
    at = trades["timestamp"].dt.floor("1min")
    expected = np.where(trades["side"] == "buy", book["best_ask"].reindex(at), book["best_bid"].reindex(at))
    assert (trades["price"].to_numpy() == expected).all()
    assert len(trades) > 500


def test_sides_are_even_and_agree_with_the_mid_before() -> None:
    trades, books = ticks_of(coin(sigma=0.3, gamma=1e-5), 10)
    joined = pd.merge_asof(trades, books[["timestamp", "mid_price"]], on="timestamp")
    above = joined["price"] > joined["mid_price"]
    assert (above == (joined["side"] == "buy"))[joined["mid_price"].notna()].mean() > 0.9
    assert abs((trades["side"] == "buy").mean() - 0.5) < 2 / np.sqrt(len(trades))


@pytest.mark.parametrize("market", [coin(), coin(gamma=0.0), stock(), event(), coin(adv=900.0, gamma=0.0)])
def test_counts_and_volume_are_the_truth(market: SampleMarket) -> None:
    days = 60
    trades, books = ticks_of(market, days)
    sessions = days if market.calendar == "24/7" else books["timestamp"].dt.date.nunique()
    assert len(books) == sessions * truth([market])["snapshots_per_day"][0]
    expected = market.trades_per_day * sessions
    assert abs(len(trades) - expected) < 4 * np.sqrt(expected)
    # A compound Poisson sum: its variance is that of the signed flow.
    error = market.flow_sd / np.sqrt(sessions)
    assert abs(trades["size"].sum() / sessions - market.adv) < 4 * error
    lots = trades["size"] / market.lot_size
    assert np.abs(lots - lots.round()).max() < 1e-6
    assert lots.min() > 0.999


@pytest.mark.parametrize(
    ("market", "first_day"),
    [
        (coin(), FIRST_DAY),
        (stock(), FIRST_DAY),
        (stock(), date(2026, 3, 9)),
        (coin(profile=(1.0, 0.0, 3.0)), FIRST_DAY),
    ],
    ids=["day wave", "winter session", "summer session", "silence in the middle"],
)
def test_trades_follow_the_profile_by_hour(market: SampleMarket, first_day: date) -> None:
    trades, _ = ticks_of(market, 5, first_day)
    counts = np.bincount(trades["timestamp"].dt.hour, minlength=24)
    share = market.volume_by_hour(first_day)
    assert share.sum() == pytest.approx(1.0)
    assert (counts[share == 0] == 0).all()
    expected = share[share > 0] * len(trades)
    chi2 = float(((counts[share > 0] - expected) ** 2 / expected).sum())
    freedom = len(expected) - 1
    assert chi2 < freedom + 4 * np.sqrt(2 * freedom)
    assert expected.max() > 1.3 * expected.mean()  # a profile, not a plateau


# Response to flow


def _flow_and_moves(trades: pd.DataFrame, books: pd.DataFrame, every: int) -> tuple[np.ndarray, np.ndarray]:
    """Signed flow between each `every`-th book of a day, and the change of the mid over it."""
    flows, moves = [], []
    signed = np.where(trades["side"] == "buy", trades["size"], -trades["size"])
    stamps = trades["timestamp"].astype("int64").to_numpy()
    running = np.concatenate([[0.0], np.cumsum(signed)])
    for _, day in books.groupby(books["timestamp"].dt.date):
        some = day.iloc[::every]
        upto = running[np.searchsorted(stamps, some["timestamp"].astype("int64").to_numpy(), side="right")]
        flows.append(np.diff(upto))
        moves.append(np.diff(some["mid_price"].to_numpy()))
    return np.concatenate(flows), np.concatenate(moves)


@pytest.mark.parametrize("every", [1, 5, 60])
@pytest.mark.parametrize("market", [coin(), stock(), event()], ids=["coin", "stock", "event"])
def test_response_to_flow_is_recovered_at_every_bucket(market: SampleMarket, every: int) -> None:
    trades, books = ticks_of(market, 60)
    x, y = _flow_and_moves(trades, books, every)
    slope = (x @ y) / (x @ x)
    error = np.sqrt(np.mean((y - slope * x) ** 2) / (x @ x))
    assert abs(slope - market.gamma) < 4 * error
    assert error < 0.2 * market.gamma  # the test would see a wrong one


def test_response_of_each_token_of_a_pair_is_the_same() -> None:
    trades, books = ticks_of(pair(), 60)
    for token in ("event:yes", "event:no"):
        x, y = _flow_and_moves(trades[trades["token_id"] == token], books[books["token_id"] == token], 5)
        slope = (x @ y) / (x @ x)
        error = np.sqrt(np.mean((y - slope * x) ** 2) / (x @ x))
        assert abs(slope - 4e-6) < 4 * error
        assert error < 0.1 * 4e-6


def test_daily_flow_has_the_stated_sd_and_explains_its_share_of_the_daily_move() -> None:
    market = coin(price=1000.0, floor=1.0, cap=1e4)
    trades, books = ticks_of(market, 200)
    signed = trades["size"].where(trades["side"] == "buy", -trades["size"])
    flow = signed.groupby(trades["timestamp"].dt.date).sum().to_numpy()
    assert abs(flow.var() / market.flow_sd**2 - 1) < 4 * np.sqrt(2 / len(flow))
    first = books.groupby(books["timestamp"].dt.date)["mid_price"].first().to_numpy()
    rest = np.diff(first) - market.gamma * flow[:-1]
    assert abs(rest.var() / market.sigma_diffusion**2 - 1) < 4 * np.sqrt(2 / len(rest)) + 0.01
    assert market.sigma**2 == pytest.approx(market.sigma_diffusion**2 + (market.gamma * market.flow_sd) ** 2)
