"""Sample markets: their draws, the form of their rows, the conditions and calendars they have, what is refused.

Tolerances are four standard errors of the estimate.
"""

from __future__ import annotations

import ast
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import exchange_calendars as xcals
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from made_markets import (
    BLACK_FRIDAY,
    FIRST_DAY,
    GOOD_FRIDAY,
    SEED,
    coin,
    event,
    pair,
    stock,
    ticks_of,
)
from pandas.testing import assert_frame_equal

import tributary_opt.sample_data as sample_data
from tributary_opt.sample_data import (
    _draws,
    generate,
    reference_data,
    sample_markets,
    ticks,
    truth,
    write_sample,
)
from tributary_opt.sample_data.market import Condition

TRADE_TYPES = {
    "timestamp": "datetime64[us, UTC]",
    "market_id": "str",
    "token_id": "str",
    "side": "str",
    "trade_id": "str",
    "price": "float64",
    "size": "float64",
    "value": "float64",
    "is_buyer_maker": "bool",
}
BOOK_TYPES = {
    "timestamp": "datetime64[us, UTC]",
    "market_id": "str",
    "token_id": "str",
    "best_bid": "float64",
    "best_ask": "float64",
    "bid_size": "float64",
    "ask_size": "float64",
    "mid_price": "float64",
    "spread": "float64",
    "spread_bps": "float64",
    "bid_prices": "str",
    "bid_sizes": "str",
    "ask_prices": "str",
    "ask_sizes": "str",
    "total_bid_volume": "float64",
    "total_ask_volume": "float64",
}


# Draws


@pytest.mark.parametrize("mean", [0.0, 0.3, 8.0, 63.0, 65.0, 2_000.0])
def test_poisson_has_its_mean_and_variance(mean: float) -> None:
    n = 200_000
    keys = _draws.stream_key(np.arange(n, dtype=np.uint64), 1, 1)
    counts = _draws.poisson(keys, np.full(n, mean))
    assert abs(counts.mean() - mean) <= 4 * np.sqrt(mean / n)
    # Var of the sample variance: (μ₄ - σ⁴)/n with μ₄ = m + 3m².
    assert abs(counts.var() - mean) <= 4 * np.sqrt((mean + 2 * mean**2) / n) + 1e-9


def test_draws_are_standard_normal_and_uniform_across_keys_and_indices() -> None:
    n = 300_000
    zeros = np.zeros(n, dtype=np.int64)
    for keys, index in (
        (_draws.stream_key(np.zeros(n, dtype=np.uint64), 3, 2), np.arange(n)),
        (_draws.stream_key(np.arange(n, dtype=np.uint64), 3, 2), zeros),
    ):
        z, u = _draws.normal(keys, index), _draws.uniform(keys, index)
        assert abs(z.mean()) < 4 / np.sqrt(n)
        assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
        assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / n)
        assert abs(np.mean(z[1:] * z[:-1])) < 4 / np.sqrt(n)
        assert u.min() > 0
        assert u.max() < 1
        assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / n)


# Form


def test_columns_and_types_are_those_of_the_source_tables() -> None:
    for depth in (True, False):
        day = next(generate(sample_markets(40, SEED), FIRST_DAY, 1, SEED, depth=depth))
        assert {c: str(t) for c, t in day.trades.dtypes.items()} == TRADE_TYPES
        assert {c: str(t) for c, t in day.orderbook_snapshots.dtypes.items()} == BOOK_TYPES


def test_a_day_without_rows_keeps_columns_and_types() -> None:
    for day in (FIRST_DAY + timedelta(days=5), GOOD_FRIDAY):
        trades, books = ticks_of(stock(), 1, day)
        assert len(trades) == len(books) == 0
        assert {c: str(t) for c, t in trades.dtypes.items()} == TRADE_TYPES
        assert {c: str(t) for c, t in books.dtypes.items()} == BOOK_TYPES


def test_rows_are_sorted_within_a_market_and_trade_ids_are_unique() -> None:
    markets = sample_markets(40, SEED)
    trades, books = ticks_of(markets, 3)
    assert trades["trade_id"].is_unique
    for frame, by in ((trades, "market_id"), (books, "token_id")):
        assert frame.groupby(by)["timestamp"].apply(lambda s: s.is_monotonic_increasing).all()
    assert not books.duplicated(["token_id", "timestamp"]).any()
    for name in ("price", "size", "value"):
        assert (trades[name] > 0).all()
    assert (trades["value"] == trades["price"] * trades["size"]).all()
    assert (trades["is_buyer_maker"] == (trades["side"] == "sell")).all()


def test_depth_lists_agree_with_the_other_columns_which_do_not_need_them() -> None:
    markets = sample_markets(40, SEED)
    _, books = ticks_of(markets, 1, depth=True)
    _, plain = ticks_of(markets, 1)
    lists = ["bid_prices", "bid_sizes", "ask_prices", "ask_sizes"]
    assert plain[lists].isna().all(axis=None)
    assert_frame_equal(books.drop(columns=lists), plain.drop(columns=lists), check_exact=True)

    row: Any
    for row in books.groupby("token_id").head(20).itertuples():
        for prices, sizes, best, size, total, falling in (
            (row.bid_prices, row.bid_sizes, row.best_bid, row.bid_size, row.total_bid_volume, True),
            (row.ask_prices, row.ask_sizes, row.best_ask, row.ask_size, row.total_ask_volume, False),
        ):
            levels, amounts = json.loads(prices), json.loads(sizes)
            assert len(levels) == len(amounts)
            if levels:
                assert (levels[0], amounts[0]) == (best, size)
                assert levels == sorted(levels, reverse=falling)
                assert total == pytest.approx(sum(amounts), rel=1e-12)
            else:
                assert best in (0.0, 1.0) or np.isnan(best)


# The same again


def test_a_market_day_is_the_same_alone_and_in_company() -> None:
    markets = sample_markets(40, SEED)
    trades, books = ticks_of(markets, 6, depth=True)
    target = FIRST_DAY + timedelta(days=4)
    for chosen in (markets[:1], markets[1:2], markets[4:9][::-1], markets[17:19]):
        alone, alone_books = ticks_of(chosen, 1, target, depth=True)
        for frame, part in ((trades, alone), (books, alone_books)):
            assert len(part) > 0
            for market in chosen:
                mine = frame["market_id"] == market.market_id
                same_day = frame["timestamp"].dt.date == target
                assert_frame_equal(
                    frame[mine & same_day].reset_index(drop=True),
                    part[part["market_id"] == market.market_id].reset_index(drop=True),
                    check_exact=True,
                )


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    markets = sample_markets(40, SEED)
    whole = ticks_of(markets, 1)
    monkeypatch.setattr(ticks, "_EVENTS_A_CHUNK", 3_000)
    for one, other in zip(whole, ticks_of(markets, 1), strict=True):
        assert_frame_equal(one, other, check_exact=True)


def test_another_seed_gives_another_market() -> None:
    one = next(generate([coin()], FIRST_DAY, 1, 1)).trades
    other = next(generate([coin()], FIRST_DAY, 1, 2)).trades
    assert not one["price"].head(50).equals(other["price"].head(50))


def test_no_floating_point_warning_is_raised() -> None:
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        trades, books = ticks_of(sample_markets(80, SEED), 7, depth=True)
    assert len(trades) > 0
    assert len(books) > 0


# Calendars, pairs, conditions


@pytest.mark.parametrize("first_day", [FIRST_DAY, date(2026, 3, 30), date(2026, 11, 23)])
def test_stocks_trade_within_sessions_only(first_day: date) -> None:
    trades, books = ticks_of(stock(), 7, first_day)
    sessions = xcals.get_calendar("XNYS", start="2026-01-01", end="2026-12-31")
    for frame in (trades, books):
        for day, rows in frame.groupby(frame["timestamp"].dt.date):
            assert sessions.is_session(pd.Timestamp(day))
            assert rows["timestamp"].min() >= sessions.session_open(pd.Timestamp(day))
            assert rows["timestamp"].max() < sessions.session_close(pd.Timestamp(day))
    expected = sessions.sessions_in_range(pd.Timestamp(first_day), pd.Timestamp(first_day + timedelta(days=6)))
    assert sorted(books["timestamp"].dt.date.unique()) == [day.date() for day in expected]


def test_a_short_session_holds_the_whole_profile() -> None:
    trades, books = ticks_of(stock(), 1, BLACK_FRIDAY)
    assert len(books) == 3.5 * 120
    assert abs(len(trades) - 500) < 4 * np.sqrt(500)
    assert stock().volume_by_hour(BLACK_FRIDAY).sum() == pytest.approx(1.0)


def test_both_tokens_show_one_book() -> None:
    market = pair()
    trades, books = ticks_of(market, 20, depth=True)
    yes = books[books["token_id"] == "event:yes"].reset_index(drop=True)
    no = books[books["token_id"] == "event:no"].reset_index(drop=True)
    assert (yes["timestamp"] == no["timestamp"]).all()
    assert (no["best_bid"] == (1 - yes["best_ask"]).round(3)).all()
    assert (no["best_ask"] == (1 - yes["best_bid"]).round(3)).all()
    assert (no["bid_size"] == yes["ask_size"]).all()
    assert (no["ask_sizes"] == yes["bid_sizes"]).all()

    share = (trades["token_id"] == "event:no").mean()
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(trades))
    table = truth([market]).set_index("token_id")
    assert table.loc["event:no", "adv"] == pytest.approx(0.3 * market.adv)
    assert table.loc["event:no", "price"] == pytest.approx(1 - market.price)
    for token, rows in trades.groupby("token_id"):
        book = books[books["token_id"] == token]
        joined = pd.merge_asof(rows, book[["timestamp", "mid_price"]], on="timestamp").dropna(subset="mid_price")
        assert ((joined["price"] > joined["mid_price"]) == (joined["side"] == "buy")).mean() > 0.9


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_one_sided_books_are_stored_as_venues_store_them(share: float) -> None:
    changes: dict[str, Any] = {"condition": "one_sided", "one_sided_share": share, "gamma": 0.0}
    _, books = ticks_of(event(**changes), 10)
    no_bid, no_ask = books["best_bid"] == 0, books["best_ask"] == 1
    missing = no_bid | no_ask
    assert not (no_bid & no_ask).any()
    assert abs(missing.mean() - share) <= 4 * np.sqrt(share * (1 - share) / len(books))
    assert abs(no_bid[missing].mean() - 0.5) < 4 * 0.5 / np.sqrt(missing.sum())
    assert books["spread_bps"].isna().equals(missing)
    assert (books["bid_size"][no_bid] == 0).all()
    assert (books["ask_size"][no_ask] == 0).all()
    two_sided = books["spread"][~missing]
    if share < 1:
        assert two_sided.mean() == pytest.approx(0.005, abs=1e-12)

    trades, books = ticks_of(coin(**changes), 10)
    no_bid, no_ask = books["best_bid"].isna(), books["best_ask"].isna()
    assert abs((no_bid | no_ask).mean() - share) <= 4 * np.sqrt(share * (1 - share) / len(books))
    for name in ("mid_price", "spread", "spread_bps"):
        assert books[name].isna().equals(no_bid | no_ask)
    book = books.assign(minute=books["timestamp"].dt.floor("1min")).set_index("minute")
    at = trades["timestamp"].dt.floor("1min")
    assert (trades["side"][book["best_ask"].reindex(at).isna().to_numpy()] == "sell").all()
    assert (trades["side"][book["best_bid"].reindex(at).isna().to_numpy()] == "buy").all()


def test_dead_resolved_and_quotes_only_markets_fall_silent_as_named() -> None:
    last = FIRST_DAY + timedelta(days=2)
    trades, books = ticks_of(coin(condition="dead", last_day=last), 6)
    assert trades["timestamp"].dt.date.max() == books["timestamp"].dt.date.max() == last

    at = datetime(2026, 3, 4, 17, tzinfo=UTC)
    market = pair(condition="resolved", resolution_time=at)
    trades, books = ticks_of(market, 6)
    for frame in (trades, books):
        assert at - timedelta(minutes=30) < frame["timestamp"].max() < at
    whole, _ = ticks_of(pair(), 6)  # what came before is untouched by the end
    assert_frame_equal(trades, whole[whole["timestamp"] < at].reset_index(drop=True))

    trades, books = ticks_of(event(condition="quotes_only", trades_per_day=0.0, adv=0.0, gamma=0.0), 3)
    assert len(trades) == 0
    assert len(books) == 3 * 1440


# The catalogue


def test_the_default_list_holds_every_condition_and_calendar() -> None:
    markets = sample_markets()
    table = truth(markets)
    assert len(table) == len(reference_data(markets)) == 40
    assert set(table["condition"]) == set(get_args(Condition))
    assert (table["condition"] == "normal").sum() >= 24
    assert table.groupby("kind")["calendar"].unique().map(set).to_dict() == {
        "probability": {"24/7"},
        "price": {"24/7", "XNYS"},
    }
    refs = reference_data(markets).set_index("token_id")
    assert refs["inverse"].sum() == 1
    pairs = refs[refs["complement_token_id"].notna()]
    assert len(pairs) >= 6
    assert (refs.loc[pairs["complement_token_id"], "complement_token_id"].to_numpy() == pairs.index).all()

    last = FIRST_DAY + timedelta(days=29)
    trades, books = ticks_of(markets, 30)
    ids = table.groupby("condition")["token_id"].apply(list)
    quoted = books.groupby("token_id")["timestamp"].max().dt.date
    counts = trades.groupby("token_id").size()
    assert (quoted[ids["dead"]] <= last - timedelta(days=4)).all()
    assert (counts.reindex(ids["thin"]).fillna(0) < 30).all()
    assert (counts[ids["normal"]] > 1000).all()
    resolved = table.set_index("token_id").loc[ids["resolved"], "resolution_time"].dt.date
    assert ((resolved >= FIRST_DAY) & (resolved <= last)).all()
    bound = books[books["token_id"].isin(ids["at_bound"])]
    assert bound["mid_price"].max() < 0.003
    wide = books[books["token_id"].isin(ids["wide_spread"])]
    assert (wide["spread"] / np.minimum(wide["mid_price"], 1 - wide["mid_price"])).median() > 0.2


@pytest.mark.parametrize("n", [1, 2, 7, 40, 41, 333])
def test_the_list_has_as_many_tokens_as_asked(n: int) -> None:
    markets = sample_markets(n, 5)
    assert len(truth(markets)) == n
    assert markets == sample_markets(n, 5)
    assert n < 3 or markets != sample_markets(n, 6)


@pytest.mark.parametrize("n_days", [1, 3, 30])
def test_the_list_suits_short_spans_too(n_days: int) -> None:
    markets = sample_markets(40, SEED, first_day=date(2026, 7, 4), n_days=n_days)  # begins on a closed Saturday
    days = list(generate(markets, date(2026, 7, 4), n_days, SEED, depth=False))
    assert len(days) == n_days
    assert all(len(d.orderbook_snapshots) > 0 for d in days)


def test_totals_of_a_large_list_are_as_asked() -> None:
    markets = sample_markets(500, 5, trades_per_day=50_000, snapshots_per_day=60_000, sound_only=True)
    assert {m.condition for m in markets} == {"normal"}
    assert sum(m.trades_per_day for m in markets) == pytest.approx(50_000)
    trades, books = ticks_of(markets, 1)
    assert abs(len(trades) - 50_000) < 4 * np.sqrt(50_000)
    assert len(books) == 60_000


def test_reference_data_tell_nothing_of_the_truth() -> None:
    assert list(reference_data(sample_markets())) == [
        *("market_id", "token_id", "kind", "complement_token_id", "resolution_time", "calendar", "tick_size"),
        *("lot_size", "taker_fee", "contract_multiplier", "inverse"),
    ]


def test_a_written_sample_reads_back_with_its_truth(tmp_path: Path) -> None:
    markets = sample_markets(12, 5)
    written = write_sample(tmp_path, markets, FIRST_DAY, 2, SEED)
    assert write_sample(tmp_path, markets, FIRST_DAY, 2, SEED) == written
    assert sorted(written) == sorted(tmp_path.rglob("*.parquet"))
    assert not list(tmp_path.rglob("*.part"))
    trades, books = ticks_of(markets, 2, depth=True)
    for name, frame in (("trades", trades), ("orderbook_snapshots", books)):
        parts = [pd.read_parquet(path) for path in sorted((tmp_path / name).iterdir())]
        assert_frame_equal(pd.concat(parts, ignore_index=True), frame, check_exact=True)
    assert_frame_equal(pd.read_parquet(tmp_path / "truth.parquet"), truth(markets))
    assert_frame_equal(pd.read_parquet(tmp_path / "markets.parquet"), reference_data(markets))
    assert pq.read_schema(tmp_path / "truth.parquet").metadata[b"seed"] == b"11"

    assert not [
        p for p in write_sample(tmp_path / "closed", [stock()], GOOD_FRIDAY, 1, SEED) if p.parent.name == "trades"
    ]


# Refusals


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"gamma": 1.0}, "lower gamma"),
        ({"spread": 0.001}, "at least a tick"),
        ({"sigma": float("nan")}, "sigma"),
        ({"adv": 10.0}, "at least a lot"),
        ({"price": 300.0, "cap": 200.0}, "floor and cap"),
        ({"condition": "dead"}, "last_day"),
        ({"condition": "resolved"}, "resolution_time"),
        ({"condition": "one_sided"}, "one_sided_share"),
        ({"one_sided_share": 0.5}, "gamma must be 0"),
        ({"condition": "quotes_only"}, "trades_per_day = 0"),
        ({"overnight_sd": 1.0}, "overnight"),
        ({"complement_token_id": "x"}, "complement"),
        ({"profile": ()}, "profile"),
        ({"snapshot_interval": 0.0}, "snapshot_interval"),
    ],
)
def test_contradictory_parameters_are_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        coin(**changes)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="anchor_day"):
        list(generate([coin()], FIRST_DAY - timedelta(days=1), 1, 1))
    with pytest.raises(ValueError, match="unique"):
        list(generate([coin(), coin()], FIRST_DAY, 1, 1))
    with pytest.raises(ValueError, match="n_days"):
        list(generate([coin()], FIRST_DAY, 0, 1))
    with pytest.raises(ValueError, match="n >= 1"):
        sample_markets(0)


def test_the_generator_knows_no_other_room() -> None:
    for path in Path(sample_data.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{path.name} line {node.lineno}"
                assert node.level == 1 or not (node.module or "").startswith("tributary_opt")
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("tributary_opt") for alias in node.names)
