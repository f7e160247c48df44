"""The SQL on the source tables: what each query counts, how the server compares, what a fingerprint notices."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tick_tables import Row, book, create, frame, load, send, trade

from tributary_opt import schema
from tributary_opt.market_data.source import Fingerprint, MarketSlice, Source, SourceError
from tributary_opt.settings import SourceTables
from tributary_opt.storage.questdb import QuestDB

pytestmark = pytest.mark.questdb

DAY = date(2024, 3, 4)
START, END = datetime(2024, 3, 4, tzinfo=UTC), datetime(2024, 3, 5, tzinfo=UTC)


def at(clock: str) -> str:
    return f"2024-03-04T{clock}Z"


@pytest.fixture
def source(db: QuestDB) -> Source:
    return Source(db, SourceTables())


def by_bucket(table: pa.Table) -> list[dict]:
    return table.to_pandas().sort_values(["market_id", "bucket"]).to_dict("records")


def books(source: Source, *, probability: bool = False, cap: float = 600.0, **more: object) -> list[dict]:
    return by_bucket(source.book_buckets(START, END, probability=probability, quote_cap_s=cap, **more))


# --- buckets ------------------------------------------------------------------------------------------------


def test_trades_fall_into_half_open_buckets_and_sessions(db: QuestDB, source: Source) -> None:
    clocks = ("00:00:00", "00:04:59.999999", "00:05:00", "23:59:59.999999")
    outside = (trade("2024-03-03T23:59:59.999999Z", "M", 1.0, 1.0), trade("2024-03-05T00:00:00Z", "M", 1.0, 1.0))
    load(db, [*(trade(at(c), "M", 1.0, 1.0) for c in clocks), *outside])
    found = by_bucket(source.trade_buckets(START, END))
    assert [(r["bucket"].strftime("%H:%M"), r["n"]) for r in found] == [("00:00", 2), ("00:05", 1), ("23:55", 1)]
    (counts,) = source.trade_counts(START, END).to_pylist()
    assert counts == {"market_id": "M", "token_id": "M", "n": 4, "n_bad": 0, "n_no_side": 4}


def test_bucket_of_trades_says_what_is_in_it(db: QuestDB, source: Source) -> None:
    load(
        db,
        [
            trade(at("10:00:01"), "M", 10.0, 2.0, "buy"),
            trade(at("10:00:02"), "M", 12.0, 3.0, "sell"),
            trade(at("10:00:03"), "M", 9.0, 1.0, None),
            trade(at("10:00:04"), "M", 11.0, 4.0, "buy"),
            trade(at("10:00:05"), "M", 0.0, 4.0, "buy"),
        ],
    )
    (row,) = by_bucket(source.trade_buckets(START, END))
    values = {k: row[k] for k in ("n", "volume", "notional", "open", "high", "low", "close")}
    assert values == {
        "n": 4, "volume": 10.0, "notional": 20.0 + 36.0 + 9.0 + 44.0,
        "open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0,
    }  # fmt: skip
    assert (row["size_squared"], row["signed_size_squared"]) == (30.0, 4.0 + 9.0 + 16.0)
    assert (row["buy_volume"], row["sell_volume"], row["n_signed"]) == (6.0, 3.0, 3)
    assert (row["first_at"], row["last_at"]) == (pd.Timestamp(at("10:00:01")), pd.Timestamp(at("10:00:04")))


def test_look_stands_until_the_next_the_cap_or_the_end_whichever_is_first(db: QuestDB, source: Source) -> None:
    looks = [("10:00:00", 9.0, 10.0), ("10:00:30", 8.0, 10.0), ("10:30:00", 9.0, 10.0), ("23:59:59", 7.0, 10.0)]
    load(db, [], [book(at(c), "M", b, a) for c, b, a in looks])
    send(db, "orderbook_snapshots", [book("2024-03-05T00:00:01Z", "M", 1.0, 2.0)])  # tomorrow's ends nothing
    rows = {r["bucket"].strftime("%H:%M"): r for r in books(source, cap=100.0)}
    assert rows["10:00"]["quoted_us"] == (30 + 100) * 1e6
    assert rows["10:00"]["spread_us"] == (1 * 30 + 2 * 100) * 1e6
    assert rows["10:30"]["quoted_us"] == 100e6
    assert rows["23:55"]["quoted_us"] == 1e6
    assert rows["23:55"]["spread_us"] == 3e6


def test_one_instruments_look_does_not_end_anothers(db: QuestDB, source: Source) -> None:
    other_token = {**book(at("10:00:20"), "M", 9.0, 10.0), "token_id": "other"}
    load(db, [], [book(at("10:00:00"), "M", 9.0, 10.0), other_token, book(at("10:00:10"), "N", 9.0, 10.0)])
    assert {r["token_id"]: r["quoted_us"] for r in books(source)} == {"M": 600e6, "N": 600e6, "other": 600e6}


def test_first_and_last_mid_are_those_of_the_first_and_last_look_with_both_sides(db: QuestDB, source: Source) -> None:
    looks = [("10:00:00", 5.0, None), ("10:00:10", 9.0, 11.0), ("10:00:30", 1.0, 2.0), ("10:01:00", 10.0, 14.0)]
    looks += [("10:02:00", None, 20.0), ("10:03:00", 9.0, 8.0)]
    load(db, [], [book(at(c), "M", b, a) for c, b, a in looks])
    (row,) = books(source)
    assert (row["first_mid"], row["first_mid_at"]) == (10.0, pd.Timestamp(at("10:00:10")))
    assert (row["last_mid"], row["last_mid_at"]) == (12.0, pd.Timestamp(at("10:01:00")))
    assert (row["n"], row["n_two_sided"], row["n_crossed"], row["n_bid"], row["n_ask"]) == (6, 3, 1, 5, 5)


# --- aggressors ---------------------------------------------------------------------------------------------

NS, US = "TIMESTAMP_NS", "TIMESTAMP"


@pytest.mark.parametrize(("of_trades", "of_books"), [(US, US), (US, NS), (NS, US), (NS, NS)])
def test_trade_without_a_side_is_signed_by_the_last_mid_strictly_before_it_else_by_the_last_change_of_price(
    db: QuestDB, source: Source, of_trades: str, of_books: str
) -> None:
    for table, kind in (("trades", of_trades), ("orderbook_snapshots", of_books)):
        db.execute(schema.SOURCE_TABLES[table].ddl().replace(" TIMESTAMP,", f" {kind},"))
    looks = [
        ("10:00:00", 9.0, 11.0),  # mid 10
        ("10:01:00", 11.0, 13.0),  # 12
        ("10:02:00", 0.0, 30.0),  # one-sided: 12 still stands
        ("10:03:00", 13.0, 12.0),  # crossed: so it does
    ]
    send(db, "orderbook_snapshots", [book(at(c), "M", b, a) for c, b, a in looks])
    trades = [
        ("09:59:00", 10.0, 1.0, None),  # no mid and no price before: unknown
        ("09:59:30", 11.0, 2.0, None),  # no mid; the price rose: bought, by the tick rule
        ("10:00:00", 11.0, 4.0, None),  # the mid of the same stamp is not before; the last change was up: tick rule
        ("10:00:30", 9.5, 8.0, None),  # below 10: sold
        ("10:00:40", 10.0, 16.0, None),  # at 10, after a rise from 9.5: bought, by the tick rule
        ("10:01:00", 10.5, 32.0, None),  # 12 has the same stamp; above 10: bought
        ("10:03:30", 12.5, 64.0, "sell"),  # given: what the book says does not matter
        ("10:03:40", 11.0, 128.0, ""),  # below 12: sold
    ]
    send(db, "trades", [trade(at(c), "M", p, s, side) for c, p, s, side in trades])
    counts = ("n_quote_rule", "n_tick_rule", "buy_volume", "sell_volume", "buy_notional", "sell_notional")

    rows = by_bucket(source.quoted_trades(START, END, probability=False, infer=True))
    total = {name: sum(row[name] for row in rows) for name in counts}
    bought, sold = {2.0: 11.0, 4.0: 11.0, 16.0: 10.0, 32.0: 10.5}, {8.0: 9.5, 128.0: 11.0}
    notional = [sum(size * price for size, price in of.items()) for of in (bought, sold)]
    assert list(total.values()) == [3, 3, sum(bought), sum(sold), *notional]
    assert sum(row["effective_volume"] for row in rows) == 8 + 16 + 32 + 64 + 128
    assert sum(row["effective_spread_volume"] for row in rows) == 2 * (0.5 * 8 + 0 + 0.5 * 32 - 0.5 * 64 + 1 * 128)

    rows = by_bucket(source.quoted_trades(START, END, probability=False, infer=True, tick_rule=False))
    assert [sum(row[name] for row in rows) for name in counts] == [3, 0, 32.0, 136.0, 336.0, 8 * 9.5 + 128 * 11.0]
    rows = by_bucket(source.quoted_trades(START, END, probability=False, infer=False))
    assert [sum(row[name] for row in rows) for name in counts] == [0] * 6
    assert [sum(row[f"effective_{v}"] for row in rows) for v in ("volume", "spread_volume")] == [64.0, -64.0]


@pytest.mark.parametrize(("of_trades", "of_books"), [(US, US), (US, NS), (NS, US)])
@pytest.mark.parametrize("scale", [1e-11, 1.0, 1e9])
def test_given_sides_are_held_against_mids_that_cannot_have_moved_far(
    db: QuestDB, source: Source, of_trades: str, of_books: str, scale: float
) -> None:
    """The mid moves by 0.1 in 100 seconds within a bucket, so by 0.02, a fifth of the half-spread, in four."""
    for table, kind in (("trades", of_trades), ("orderbook_snapshots", of_books)):
        db.execute(schema.SOURCE_TABLES[table].ddl().replace(" TIMESTAMP,", f" {kind},"))
    looks = [("10:00:00", 9.9), ("10:01:40", 10.0), ("10:30:00", 10.0)]  # the last alone in its bucket: no path
    send(db, "orderbook_snapshots", [book(at(c), "M", bid * scale, (bid + 0.2) * scale) for c, bid in looks])
    trades = [
        ("10:01:43.9", 10.2, 1.0, "buy"),
        ("10:01:43.9", 10.2, 2.0, "sell"),  # above the mid: contradicted
        ("10:01:43.9", 10.151, 4.0, "buy"),  # half of the half-spread off
        ("10:01:43.9", 10.149, 8.0, "buy"),  # less
        ("10:01:44.1", 10.2, 16.0, "sell"),  # 4.1 s after the look
        ("10:30:03", 10.0, 32.0, "buy"),  # below the mid: contradicted
        ("10:30:03", 10.0, 64.0, None),  # inferred, by a fresh mid
        ("10:30:03", 10.06, 128.0, None),  # inferred, too near to it
        ("10:30:05", 10.0, 256.0, None),  # inferred, by an old one
    ]
    send(db, "trades", [trade(at(c), "M", p * scale, s, side) for c, p, s, side in trades])
    names = ("n_sides_compared", "n_sides_contradicted", "compared_volume", "compared_size_squared")
    names += ("contradicted_volume", "n_quote_rule_fresh", "n_quote_rule")
    rows = by_bucket(source.quoted_trades(START, END, probability=False, infer=True))
    assert [sum(row[n] for row in rows) for n in names] == [4, 2, 39.0, 1 + 4 + 16 + 32.0**2, 34.0, 1, 3]
    rows = by_bucket(source.quoted_trades(START, END, probability=False, infer=False))
    assert [sum(row[n] for row in rows) for n in names] == [4, 2, 39.0, 1 + 4 + 16 + 32.0**2, 34.0, 0, 0]


def test_aggressors_are_read_in_every_common_spelling_and_other_words_are_none(db: QuestDB, source: Source) -> None:
    sides = {"buy": 1.0, "BUY": 2.0, "Buy": 4.0, "B": 8.0, "sell": 16.0, "SELL": 32.0, "S": 64.0, "bid": 128.0}
    trades = [trade(at(f"10:01:{i:02d}"), "M", 11.0, size, side) for i, (side, size) in enumerate(sides.items())]
    load(db, trades, [book(at("10:00:00"), "M", 9.0, 11.0)])
    (row,) = by_bucket(source.trade_buckets(START, END))
    assert (row["buy_volume"], row["sell_volume"], row["n_signed"]) == (15.0, 112.0, 7)
    (counts,) = source.trade_counts(START, END).to_pylist()
    assert counts["n_no_side"] == 1
    (row,) = by_bucket(source.quoted_trades(START, END, probability=False, infer=True))
    assert (row["n_quote_rule"], row["buy_volume"], row["effective_volume"]) == (1, 128.0, 255.0)


@pytest.mark.parametrize(("of_trades", "of_books"), [(US, US), (US, NS), (NS, US)])
def test_late_trades_are_those_after_the_last_two_sided_look_of_their_bucket(
    db: QuestDB, source: Source, of_trades: str, of_books: str
) -> None:
    for table, kind in (("trades", of_trades), ("orderbook_snapshots", of_books)):
        db.execute(schema.SOURCE_TABLES[table].ddl().replace(" TIMESTAMP,", f" {kind},"))
    looks = [("10:01:00", 9.0), ("10:03:00", 9.0), ("10:04:00", None)]
    send(db, "orderbook_snapshots", [book(at(c), "M", bid, 11.0) for c, bid in looks])
    trades = [
        ("10:00:30", 11.0, 1.0, "buy"),  # before any look: the first one is still to come
        ("10:03:00", 11.0, 2.0, "buy"),  # of the look's own stamp, which is not before it
        ("10:03:00.000001", 11.0, 4.0, "buy"),
        ("10:03:30", 9.0, 8.0, None),  # inferred
        ("10:04:30", 10.0, 16.0, "sell"),  # one-sided looks have no mid
        ("10:06:00", 11.0, 32.0, "buy"),  # no look in this bucket
    ]
    send(db, "trades", [trade(at(c), "M", p, s, side) for c, p, s, side in trades])
    names = ("late_buy_volume", "late_sell_volume", "late_buy_notional", "late_sell_notional")
    first, second = by_bucket(source.quoted_trades(START, END, probability=False, infer=True))
    assert [first[name] for name in names] == [4.0, 24.0, 44.0, 8 * 9.0 + 16 * 10.0]
    assert [second[name] for name in names] == [32.0, 0.0, 352.0, 0.0]
    assert [(row["signed_size_squared"], row["late_size_squared"]) for row in (first, second)] == [
        (8.0**2, 4.0**2 + 8.0**2 + 16.0**2),
        (0.0, 32.0**2),
    ]
    first, _ = by_bucket(source.quoted_trades(START, END, probability=False, infer=False))
    assert first["late_sell_volume"] == 16.0
    assert (first["signed_size_squared"], first["late_size_squared"]) == (0.0, 4.0**2 + 16.0**2)


def test_without_two_looks_in_a_bucket_no_mid_is_known_to_be_fresh(db: QuestDB, source: Source) -> None:
    load(db, [trade(at("10:00:01"), "M", 11.0, 1.0, "sell")], [book(at("10:00:00"), "M", 9.0, 11.0)])
    (row,) = by_bucket(source.quoted_trades(START, END, probability=False, infer=True))
    assert (row["n_sides_compared"], row["effective_volume"]) == (0, 1.0)


def test_ask_of_one_makes_no_mid_for_a_probability(db: QuestDB, source: Source) -> None:
    load(db, [trade(at("10:01:00"), "M", 0.6, 1.0)], [book(at("10:00:00"), "M", 0.4, 1.0)])
    (row,) = by_bucket(source.quoted_trades(START, END, probability=True, infer=True))
    assert (row["n_quote_rule"], row["n_tick_rule"], row["effective_volume"]) == (0, 0, 0.0)
    (row,) = by_bucket(source.quoted_trades(START, END, probability=False, infer=True))
    assert (row["n_quote_rule"], row["sell_volume"]) == (1, 1.0)


def test_books_and_prices_of_one_instrument_say_nothing_about_anothers_trades(db: QuestDB, source: Source) -> None:
    def of_token(row: Row, token: str | None) -> Row:
        return {**row, "token_id": token}

    trades = [trade(at("10:01:00"), "M", 5.0, 1.0), trade(at("10:02:00"), "M", 6.0, 1.0)]
    load(
        db,
        [
            of_token(trades[0], "a"),
            of_token(trades[1], "b"),
            of_token(trades[1], None),
            trade(at("10:03:00"), "N", 5, 1),
        ],
        [of_token(book(at("10:00:00"), "M", 1.0, 2.0), None)],
    )
    rows = source.quoted_trades(START, END, probability=False, infer=True).to_pylist()
    assert {r["token_id"]: r["n_quote_rule"] + r["n_tick_rule"] for r in rows} == {"a": 0, "b": 0, None: 1, "N": 0}
    only = source.quoted_trades(START, END, probability=False, infer=True, markets=MarketSlice(("N",)))
    assert only["market_id"].to_pylist() == ["N"]


@pytest.mark.parametrize("scale", [1e-11, 1.0, 1e9])
def test_sides_of_prices_of_any_size_are_told_apart_and_rounding_is_no_side(
    db: QuestDB, source: Source, scale: float
) -> None:
    (bid, ask) = (48.76 * scale, 48.77 * scale)
    load(
        db,
        [trade(at("10:01:00"), "M", 48.765 * scale, 1.0), trade(at("10:02:00"), "M", 48.77 * scale, 2.0)],
        [book(at("10:00:00"), "M", bid, ask)],
    )
    (row,) = by_bucket(source.quoted_trades(START, END, probability=False, infer=True))
    assert (row["n_quote_rule"], row["n_tick_rule"], row["buy_volume"], row["sell_volume"]) == (1, 0, 2.0, 0.0)


TYPES = [(US, US, "SYMBOL", "SYMBOL"), (NS, NS, "VARCHAR", "VARCHAR"), (US, NS, "SYMBOL", "VARCHAR")]
TYPES += [(NS, US, "STRING", "SYMBOL"), (US, US, "VARCHAR", "STRING")]


@pytest.mark.parametrize(("of_trades", "of_books", "trade_texts", "book_texts"), TYPES)
def test_folded_trades_are_held_against_the_last_mid_and_price_of_either_token(
    db: QuestDB, of_trades: str, of_books: str, trade_texts: str, book_texts: str
) -> None:
    names = {"timestamp": "t", "market_id": "m", "token_id": "first", "price": "p", "side": "aggressor", "size": "s"}
    tables = SourceTables(
        trades={"table": "fills", "columns": names},
        orderbook_snapshots={"table": "looks", "columns": {"token_id": "price", "best_bid": "mid", "best_ask": "half"}},
    )
    for name, kind, texts in (("trades", of_trades, trade_texts), ("orderbook_snapshots", of_books, book_texts)):
        chosen = getattr(tables, name)
        ddl = schema.SOURCE_TABLES[name].ddl(chosen.table, {k: f'"{v}"' for k, v in chosen.columns.items()})
        db.execute(ddl.replace(" TIMESTAMP,", f" {kind},").replace(" SYMBOL", f" {texts}"))
    looks = [
        ("10:00:00", "yes", 0.68, 0.70),  # mid 0.69
        ("10:01:00", "no", 0.25, 0.27),  # 0.74
        ("10:02:00", "no", 0.20, 1.0),  # no ask: 0.74 still stands
        ("10:03:00", "no", 0.0, 0.30),  # nor a bid
    ]
    books = [book(at(c), "M", b, a, token_id=token) for c, token, b, a in looks]
    trades = [
        ("09:58:00", "yes", 0.60, 1.0, None),  # no mid and no price before: unknown
        ("09:59:00", "no", 0.38, 2.0, None),  # the price rose from 0.60 to 0.62: bought, by the tick rule
        ("10:00:30", "no", 0.32, 4.0, None),  # 0.68 is below 0.69: sold
        ("10:00:40", "no", 0.31, 8.0, None),  # at 0.69, after a rise: bought, by the tick rule
        ("10:00:50", "no", 0.30, 16.0, "buy"),  # sold, at 0.70
        ("10:02:30", "yes", 0.75, 32.0, None),  # above 0.74: bought
        ("10:03:30", "yes", 0.73, 64.0, "buy"),
        ("10:03:40", "no", 0.26, 128.0, None),  # at 0.74, after a rise from 0.73: bought, by the tick rule
    ]
    ticks = [trade(at(c), "M", p, size, side, token_id=token) for c, token, p, size, side in trades]
    for name, rows in (("trades", ticks), ("orderbook_snapshots", books)):
        chosen = getattr(tables, name)
        send(db, chosen.table, frame(rows).rename(columns=chosen.columns))
    source = Source(db, tables)
    price_of_yes = {s: p if token == "yes" else 1 - p for _, token, p, s, _ in trades}
    for first, mirror in (("no", True), ("yes", False)):
        if first == "yes":  # p -> 1 - p: what is called yes is the smaller name now
            for table, column in (("fills", "first"), ("looks", "price")):
                db.execute(f"UPDATE {table} SET {column} = 'zno' WHERE {column} = 'no'")
                db.wait(table)
        rows = source.quoted_trades(START, END, probability=True, infer=True, fold=True).to_pylist()
        assert {row["token_id"] for row in rows} == {first}

        def total(name: str, rows: list[dict] = rows) -> float:
            return sum(row[name] for row in rows)

        assert (total("n_quote_rule"), total("n_tick_rule")) == (2, 3)
        bought, sold = [2.0, 8.0, 32.0, 128.0], [4.0]
        for sizes, name in ((bought, "sell" if mirror else "buy"), (sold, "buy" if mirror else "sell")):
            prices = [1 - price_of_yes[s] if mirror else price_of_yes[s] for s in sizes]
            assert total(f"{name}_volume") == sum(sizes)
            assert total(f"{name}_notional") == pytest.approx(np.dot(sizes, prices), rel=1e-12)
        assert total("effective_volume") == sum([4, 8, 16, 32, 64, 128])
        paid = 4 * 0.01 + 8 * 0 - 16 * 0.01 + 32 * 0.01 - 64 * 0.01 + 128 * 0
        assert total("effective_spread_volume") == pytest.approx(2 * paid, abs=1e-12)


@pytest.mark.parametrize("cheap", ["a", "b"])
def test_rounding_of_prices_in_the_mirror_is_no_side(db: QuestDB, source: Source, cheap: str) -> None:
    """1 - 0.999999989 is 11e-9 but for 2e-9 of itself; and one of two tokens is always dear."""
    dear = "b" if cheap == "a" else "a"
    looks = [book(at("10:00:00"), "M", 0.999999988, 0.99999999, token_id=dear)]
    trades = [trade(at(f"10:0{i}:00"), "M", p, 1.0, token_id=cheap) for i, p in ((1, 2e-8), (2, 1.1e-8))]
    load(db, trades, looks)
    (row,) = by_bucket(source.quoted_trades(START, END, probability=True, infer=True, fold=True))
    assert abs((1 - 0.999999989) / 1.1e-8 - 1) > 1e-9
    assert (row["n_quote_rule"], row["n_tick_rule"]) == (1, 1)


# --- how the server compares --------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-11, 1e-9, 1e-5, 1.0, 1e9])
def test_prices_and_spreads_of_any_size_are_told_from_zero_and_from_each_other(
    db: QuestDB, source: Source, scale: float
) -> None:
    """The server takes doubles less than 1e-10 apart for equal: a coin at 3e-11 would have neither price nor spread."""
    load(
        db,
        [trade(at("10:00:00"), "M", 3 * scale, 2 * scale)],
        [book(at("10:00:00"), "M", 2 * scale, 3 * scale), book(at("10:01:00"), "M", 3 * scale, 2 * scale)],
    )
    (count,) = source.trade_counts(START, END).to_pylist()
    assert (count["n"], count["n_bad"]) == (1, 0)
    (bucket,) = by_bucket(source.trade_buckets(START, END))
    assert (bucket["close"], bucket["volume"]) == (3 * scale, 2 * scale)
    (row,) = books(source)
    assert (row["n_two_sided"], row["n_crossed"], row["n_bid"], row["n_ask"]) == (1, 1, 2, 2)
    assert row["spread_sum"] == 3 * scale - 2 * scale


@pytest.mark.parametrize("bad", [0.0, -1.0, -1e-11, 1e-61, 1e61, 1e308, 5e-324, None])
def test_counts_and_buckets_agree_on_what_is_bad(db: QuestDB, source: Source, bad: float | None) -> None:
    good = trade(at("10:00:00"), "M", 1.0, 1.0)
    load(db, [good, trade(at("10:00:01"), "M", bad, 1.0), trade(at("10:00:02"), "M", 1.0, bad)])
    (count,) = source.trade_counts(START, END).to_pylist()
    assert (count["n"], count["n_bad"]) == (3, 2)
    assert [r["n"] for r in by_bucket(source.trade_buckets(START, END))] == [1]
    send(db, "orderbook_snapshots", [book(at("10:00:00"), "M", bad, 1.0), book(at("10:00:01"), "M", 1.0, bad)])
    (row,) = books(source)
    assert (row["n_two_sided"], row["n_bid"], row["n_ask"]) == (0, 1, 1)


@pytest.mark.parametrize("varchar", [False, True], ids=["SYMBOL", "VARCHAR"])
@pytest.mark.parametrize("limit", [0, 10_000], ids=["range", "list"])
def test_slice_gives_its_markets_whole_listed_or_as_a_range(
    db: QuestDB, source: Source, monkeypatch: pytest.MonkeyPatch, varchar: bool, limit: int
) -> None:
    monkeypatch.setattr("tributary_opt.market_data.source._LONGEST_IN_LIST", limit)
    ids = ["a", "a'", "b", "é", "\ud7ff", "\ue000", "\uffee", "𝒳", "😀"]
    create(db, varchar=varchar)
    send(db, "trades", [trade(at("10:00:00"), m, 1.0, 1.0) for m in ids])
    send(db, "orderbook_snapshots", [book(at("10:00:00"), m, 1.0, 2.0) for m in ids])
    for wanted in (ids[3:7], ids[-2:], [ids[6]], ids[:2], ["\uffee", "😀"]):
        chosen = MarketSlice(tuple(wanted))
        for found in (source.trade_buckets(START, END, chosen).to_pylist(), books(source, markets=chosen)):
            seen = {r["market_id"] for r in found}
            assert seen >= set(wanted)
            if limit:
                assert seen == set(wanted)


# --- fingerprints -------------------------------------------------------------------------------------------


def fingerprint(source: Source) -> Fingerprint | None:
    return source.fingerprints(DAY, DAY).get(DAY)


def some_ticks() -> tuple[list[Row], list[Row]]:
    rng = np.random.default_rng(1)
    prices, sizes = rng.lognormal(0, 5, 50), rng.lognormal(0, 8, 50)
    trades = [trade(at(f"10:{i:02d}:00"), "M", p, s) for i, (p, s) in enumerate(zip(prices, sizes, strict=True))]
    return trades, [book(at(f"11:{i:02d}:00"), "M", p, 1.01 * p) for i, p in enumerate(prices)]


def test_fingerprint_counts_and_dates_a_days_rows_in_two_queries(
    db: QuestDB, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(db, *some_ticks())
    send(db, "trades", [trade("2024-03-06T01:00:00Z", "M", 2.0, 3.0)])
    source.check()
    asked = []
    rows = QuestDB.rows
    monkeypatch.setattr(QuestDB, "rows", lambda self, sql, params=(): asked.append(sql) or rows(self, sql, params))
    found = source.fingerprints(date(2024, 2, 1), date(2024, 3, 31))
    assert len(asked) == 2
    assert sorted(found) == [DAY, date(2024, 3, 6)]
    first = found[DAY]
    assert (first.n_trades, first.n_snapshots) == (50, 50)
    assert first.first_trade == datetime(2024, 3, 4, 10, tzinfo=UTC)
    assert first.last_snapshot == datetime(2024, 3, 4, 11, 49, tzinfo=UTC)
    later = found[date(2024, 3, 6)]
    assert (later.n_trades, later.size, later.notional) == (1, 3 * 10**18, 6 * 10**18)
    assert (later.n_snapshots, later.first_snapshot) == (0, None)


def test_fingerprint_does_not_depend_on_the_order_of_the_rows(db: QuestDB, source: Source) -> None:
    trades, looks = some_ticks()
    load(db, trades, looks)
    before = fingerprint(source)
    assert before is not None
    for table in ("trades", "orderbook_snapshots"):
        db.execute(f"DROP TABLE {table}")
    create(db)
    for i in np.random.default_rng(2).permutation(5):
        send(db, "trades", trades[i::5])
        send(db, "orderbook_snapshots", looks[i::5])
    assert fingerprint(source) == before


@pytest.mark.parametrize("row", range(0, 50, 10))
def test_any_row_changed_by_a_millionth_changes_the_fingerprint(db: QuestDB, source: Source, row: int) -> None:
    trades, looks = some_ticks()
    load(db, trades, looks)
    seen = {fingerprint(source).text()}
    for change in ("size", "price"):
        send(db, "trades", [{**trades[row], change: trades[row][change] * (1 + 1e-6)}])
        seen.add(fingerprint(source).text())
    for change in ("best_bid", "best_ask"):
        send(db, "orderbook_snapshots", [{**looks[row], change: looks[row][change] * (1 + 1e-6)}])
        seen.add(fingerprint(source).text())
    assert len(seen) == 5


# --- stamps and what is there -------------------------------------------------------------------------------


@pytest.mark.parametrize("ns", [False, True], ids=["TIMESTAMP", "TIMESTAMP_NS"])
def test_oldest_newest_and_future_rows_of_empty_and_full_tables(db: QuestDB, source: Source, ns: bool) -> None:
    create(db, ns=ns)
    assert (source.oldest_row(), source.newest_trade(END), source.rows_from(START)) == (None, None, 0)
    assert source.fingerprints(DAY, DAY) == {}
    assert source.trade_counts(START, END).num_rows == source.book_counts(START, END).num_rows == 0
    assert source.trade_buckets(START, END).num_rows == 0
    assert books(source) == []
    send(db, "orderbook_snapshots", [book(at("09:00:00"), "M", 1.0, 2.0)])
    assert source.oldest_row() == datetime(2024, 3, 4, 9, tzinfo=UTC)
    assert source.newest_trade(END) is None
    send(db, "trades", [trade(at("10:00:00"), "M", 1.0, 1.0), trade("2099-01-01T00:00:00Z", "M", 1.0, 1.0)])
    assert source.newest_trade(END) == datetime(2024, 3, 4, 10, tzinfo=UTC)
    assert source.newest_trade(datetime(2024, 3, 4, 10, tzinfo=UTC)) is None
    assert source.rows_from(END) == 1
    assert source.rows_from(START) == 3


def test_problems_name_the_table_the_column_and_the_setting(db: QuestDB) -> None:
    assert Source(db, SourceTables()).problems("trades") == [
        "table trades is missing: create it, or name yours in TRIBUTARY_SOURCE_TABLES__TRADES__TABLE"
    ]
    create(db)
    renamed = SourceTables.model_validate({"trades": {"columns": {"price": "px"}}})
    assert Source(db, renamed).problems("trades") == [
        "table trades has no column px: add it, or name yours in TRIBUTARY_SOURCE_TABLES__TRADES__COLUMNS"
    ]
    db.execute("DROP TABLE trades")
    db.execute(schema.TRADES.ddl().replace("  size DOUBLE", "  size BOOLEAN"))
    (problem,) = Source(db, SourceTables()).problems("trades")
    assert problem == "column size of table trades is BOOLEAN, must be one of DOUBLE, FLOAT, INT, LONG, SHORT"


def test_view_will_do_as_a_source_table(db: QuestDB) -> None:
    load(db, *some_ticks())
    db.execute("CREATE VIEW dear AS (SELECT * FROM trades WHERE price > 1)")
    dear = Source(db, SourceTables.model_validate({"trades": {"table": "dear"}}))
    dear.check()
    n = sum(t["price"] > 1 for t in some_ticks()[0])
    assert dear.trade_counts(START, END)["n"].to_pylist() == [n]
    assert dear.fingerprints(DAY, DAY)[DAY].n_trades == n


@pytest.mark.parametrize("name", ['a"b', 'x" FROM y; --'])
def test_name_that_could_leave_its_quotes_is_refused(db: QuestDB, name: str) -> None:
    create(db)
    source = Source(db, SourceTables.model_validate({"trades": {"columns": {"value": name}}}))
    with pytest.raises(SourceError, match="must hold no double quote"):
        source.trade_counts(START, END)


# --- reference data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SYMBOL", "VARCHAR"])
def test_reference_data_come_whole_whatever_the_type_of_their_texts(db: QuestDB, source: Source, kind: str) -> None:
    """Short texts in a VARCHAR column without nulls are what a plain export of 9.3.4 gives as nulls."""
    assert source.reference() is None
    fresh = Source(db, SourceTables())
    db.execute(
        schema.MARKETS.ddl()
        .replace(" SYMBOL", f" {kind}")
        .replace("  resolution_time TIMESTAMP", "  resolution_time TIMESTAMP_NS")
    )
    common = {
        "updated_at": "2024-01-01",
        "kind": "price",
        "calendar": "24/7",
        "resolution_time": "2026-03-18T18:00:00Z",
    }
    rows = [{**common, "market_id": m, "token_id": m} for m in ("A", "B", "a much longer market id", "ü")]
    send(db, "markets", frame(rows))
    found = fresh.reference()
    assert found is not None
    table = found.to_pandas().sort_values("market_id")
    assert table["market_id"].tolist() == ["A", "B", "a much longer market id", "ü"]
    assert table["token_id"].tolist() == table["market_id"].tolist()
    assert table["kind"].tolist() == ["price"] * 4
    assert table["calendar"].tolist() == ["24/7"] * 4
    assert (table["resolution_time"] == pd.Timestamp("2026-03-18T18:00Z")).all()


def test_reference_table_of_the_required_columns_alone_is_enough(db: QuestDB, source: Source) -> None:
    db.execute("CREATE TABLE markets (market_id SYMBOL, token_id SYMBOL, kind SYMBOL)")
    db.execute("INSERT INTO markets VALUES ('M', NULL, 'probability')")
    found = source.reference()
    assert found is not None
    assert found.to_pylist() == [{"market_id": "M", "token_id": None, "kind": "probability"}]


def test_reference_table_without_a_required_column_is_refused(db: QuestDB, source: Source) -> None:
    db.execute("CREATE TABLE markets (market_id SYMBOL, kind SYMBOL)")
    with pytest.raises(SourceError, match="table markets has no column token_id"):
        source.reference()
