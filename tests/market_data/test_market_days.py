"""Market days against plain pandas over the raw ticks, and what makes a day be read, or read again."""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from raw_days import raw_market_day
from tick_tables import (
    Spy,
    assert_same_rows,
    book,
    create,
    frame,
    load,
    market_days,
    observe,
    send,
    stored,
    trade,
)

from tributary_opt import schema
from tributary_opt.market_data import market_days as module
from tributary_opt.market_data.calendars import trading_calendar
from tributary_opt.market_data.market_days import newest_complete_day, window_digest
from tributary_opt.market_data.markets import ReferenceData
from tributary_opt.market_data.source import Source
from tributary_opt.sample_data import generate, reference_data, sample_markets
from tributary_opt.settings import Settings, SourceTables, StatisticsRules
from tributary_opt.storage import embedded
from tributary_opt.storage.questdb import QuestDB

pytestmark = pytest.mark.questdb

BOOKKEEPING = (
    "day",
    "market_id",
    "token_id",
    "kind",
    "folded_with",
    "calendar",
    "statistics_version",
    "settings_digest",
    "source_digest",
)
MONDAY = date(2024, 3, 4)
TUESDAY = date(2024, 3, 5)


def at(day: date, clock: str) -> str:
    return f"{day}T{clock}Z"


def two_days(market: str = "M", price: float = 100.0) -> tuple[list, list]:
    """A few trades and looks on Monday and Tuesday."""
    trades, books = [], []
    for i, day in enumerate((MONDAY, TUESDAY)):
        for minute in range(10):
            p = price + i + minute / 100
            trades.append(
                trade(at(day, f"15:{minute * 3:02d}:00"), market, p, 1.0 + minute, "buy" if minute % 3 else "sell")
            )
            books.append(book(at(day, f"15:{minute * 3:02d}:30"), market, p - 0.01, p + 0.01))
    return trades, books


def clear_market_days(db: QuestDB) -> None:
    db.execute("TRUNCATE TABLE ac_market_days")
    db.wait("ac_market_days")


# --- the columns --------------------------------------------------------------------------------------------


def assert_rows_equal_raw(
    rows: pd.DataFrame,
    trades: pd.DataFrame,
    books: pd.DataFrame,
    *,
    day: date,
    rules: StatisticsRules = StatisticsRules(),
) -> None:
    """Every column of every row within 1e-9 relative of pandas over the raw ticks; none forgotten."""
    of_trades = dict(tuple(trades.groupby(["market_id", "token_id"])))
    of_books = dict(tuple(books.groupby(["market_id", "token_id"])))
    for row in rows.to_dict("records"):
        key = (row["market_id"], row["token_id"])
        calendar = trading_calendar(row["calendar"])
        session = calendar.session(day)
        assert session is not None
        trim = row["calendar"] != "24/7"
        start = pd.Timestamp(session.start) + pd.Timedelta(minutes=rules.skip_open_minutes * trim)
        end = pd.Timestamp(session.end) - pd.Timedelta(minutes=rules.skip_close_minutes * trim)
        raw = raw_market_day(
            of_trades.get(key, trades.iloc[:0]),
            of_books.get(key, books.iloc[:0]),
            start,
            end,
            zone="UTC" if not trim else calendar.timezone,
            probability=row["kind"] == "probability",
            quote_cap_s=rules.quote_cap_seconds,
            flow_cap=row["flow_cap"],
        )
        assert {*raw, *BOOKKEEPING} == set(schema.MARKET_DAYS.names)
        assert row["day"] == pd.Timestamp(day, tz="UTC")
        for name, expected in raw.items():
            found = row[name]
            if isinstance(expected, np.ndarray):
                scale = np.abs(expected).max() if name.endswith("by_hour") else 0.0
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * scale, err_msg=f"{key} {name}")
            elif isinstance(expected, pd.Timestamp) or expected is None or expected is pd.NaT:
                assert found == expected or (pd.isna(found) and pd.isna(expected)), (key, name, found, expected)
            else:
                rtol = 1e-6 if name == "edge_squared_bars" else 1e-9
                np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-15, err_msg=f"{key} {name}")


def of_server(db: QuestDB, table: str) -> pd.DataFrame:
    """The raw ticks as the server holds them: where stamps are equal, its order is the order."""
    columns = "timestamp, market_id, token_id, " + ("side, price, size" if table == "trades" else "best_bid, best_ask")
    return db.query(f"SELECT {columns} FROM {table}").to_pandas()


def test_every_column_of_a_sample_day_is_what_pandas_makes_of_the_raw_ticks(db: QuestDB) -> None:
    markets = sample_markets(40, seed=3, first_day=MONDAY, n_days=2, trades_per_day=500, snapshots_per_day=1_000)
    reference = reference_data(markets).assign(complement_token_id=None)  # folding: test_complements.py
    create(db)
    for sample in generate(markets, MONDAY, 2, seed=3, depth=False):
        send(db, "trades", sample.trades)
        send(db, "orderbook_snapshots", sample.orderbook_snapshots)
    rules = StatisticsRules(skip_open_minutes=7, skip_close_minutes=3, quote_cap_seconds=45.0)
    for chosen in (StatisticsRules(), rules):
        days = market_days(db, reference, chosen)
        rows = days.read(TUESDAY)
        assert len(rows) >= 35
        assert set(rows["kind"]) == {"price", "probability"}
        assert set(rows["calendar"]) == {"24/7", "XNYS"}
        assert_rows_equal_raw(
            rows, of_server(db, "trades"), of_server(db, "orderbook_snapshots"), day=TUESDAY, rules=chosen
        )
        days.store(rows)
        assert_same_rows(stored(days, TUESDAY, 1), rows.sort_values(["market_id", "token_id"], ignore_index=True))


@pytest.mark.recorded
def test_every_column_of_a_recorded_day_is_what_pandas_makes_of_the_raw_ticks(db: QuestDB, recorded_data: Path) -> None:
    create(db)
    day = date(2013, 10, 9)
    for table in ("trades", "orderbook_snapshots"):
        ticks = pq.read_table(recorded_data / "us_equity_2013" / f"{table}.parquet").to_pandas()
        send(db, table, ticks[ticks["timestamp"].dt.date == day])
    markets = [{"market_id": m, "token_id": None, "kind": "price", "calendar": "XNYS"} for m in ("AIG", "BAC")]
    rows = market_days(db, markets).read(day)
    assert rows["n_trades"].min() > 40_000
    assert_rows_equal_raw(rows, of_server(db, "trades"), of_server(db, "orderbook_snapshots"), day=day)


def test_day_of_known_ticks_gives_the_numbers_worked_out_by_hand(db: QuestDB) -> None:
    load(
        db,
        [
            trade(at(MONDAY, "00:00:00"), "M", 10.0, 2.0, "buy"),
            trade(at(MONDAY, "00:04:59.999999"), "M", 11.0, 3.0, "sell"),
            trade(at(MONDAY, "12:00:00"), "M", 9.0, 5.0, None),
        ],
        [
            book(at(MONDAY, "00:00:00"), "M", 9.0, 11.0),  # stands 60 s
            book(at(MONDAY, "00:01:00"), "M", 0.0, 11.0),  # one-sided for 600 s
            book(at(MONDAY, "00:11:00"), "M", 10.0, 11.0),  # stands for its cap of 600 s
            book(at(MONDAY, "23:59:00"), "M", 10.0, 10.0),  # locked
            book(at(MONDAY, "23:59:50"), "M", 12.0, 13.0),  # until midnight: 10 s
        ],
    )
    (row,) = market_days(db).read(MONDAY).to_dict("records")
    assert (row["n_trades"], row["volume"], row["notional"], row["size_squared"]) == (3, 10.0, 98.0, 38.0)
    # The trade at noon names no aggressor: 9 is below the last mid before it, 10.5, so it was sold.
    assert (row["buy_volume"], row["sell_volume"], row["n_signed"]) == (2.0, 3.0 + 5.0, 3)
    assert (row["buy_notional"], row["sell_notional"]) == (20.0, 33.0 + 45.0)
    assert (row["n_quote_rule"], row["n_tick_rule"]) == (1, 0)
    # Nothing stood before the first trade; before the others 10, 10 at 00:04:59 and 10.5 at noon.
    assert row["effective_volume"] == 3.0 + 5.0
    assert row["effective_spread_volume"] == 2 * (10.0 - 11.0) * 3.0 + 2 * (10.5 - 9.0) * 5.0
    assert (row["open_price"], row["high_price"], row["low_price"], row["close_price"]) == (10.0, 11.0, 9.0, 9.0)
    assert (row["active_hours"], row["n_trade_bars"]) == (2, 2)
    assert row["volume_by_hour"].tolist() == [5.0, *[0.0] * 11, 5.0, *[0.0] * 11]
    # Bars of two trades and of one: their ranges say nothing, nor do two prices tell noise from variance.
    assert (row["n_range_bars"], row["parkinson_variance"], row["garman_klass_variance"]) == (0, 0.0, 0.0)
    assert (row["trade_variance"], row["n_trade_products"], row["n_two_scale"], row["n_edge_bars"]) == (4.0, 0, 0, 0)
    assert (row["n_snapshots"], row["n_two_sided"], row["n_one_sided"], row["n_crossed"], row["n_empty"]) == (
        5,
        3,
        1,
        1,
        0,
    )
    assert row["quoted_seconds"] == 60 + 600 + 10
    assert row["spread_seconds"] == 2 * 60 + 1 * 600 + 1 * 10
    assert (row["spread_sum"], row["mid_sum"]) == (4.0, 33.0)
    assert (row["first_mid"], row["last_mid"], row["last_mid_at"]) == (10.0, 12.5, pd.Timestamp(at(MONDAY, "23:59:50")))
    assert (row["n_buckets"], row["n_mid_buckets"]) == (288, 3)
    assert row["realised_variance"] == 0.5**2 + 2.0**2
    assert row["realised_quarticity"] == 0.5**4 + 2.0**4
    assert row["bipower_variance"] == pytest.approx(np.pi / 2 * 0.5 * 2.0, rel=1e-15)
    # Adjacent 5-minute buckets both with a mid: none. At 15 minutes 00:00 holds the mids of 00:00 and 00:10.
    assert row["impact_5m"].tolist() == [0.0] * len(schema.IMPACT_MOMENTS)
    assert (row["day"], row["session_end"]) == (pd.Timestamp(MONDAY, tz="UTC"), pd.Timestamp(TUESDAY, tz="UTC"))


def test_response_sums_follow_their_definition(db: QuestDB) -> None:
    # Mids 10, 11, 13 in three adjacent buckets; flows +2, -1 before the second and third mid.
    load(
        db,
        [
            trade(at(MONDAY, "10:01:00"), "M", 10.0, 7.0, "buy"),  # flow of the first bucket: no move to pair it with
            trade(at(MONDAY, "10:06:00"), "M", 10.0, 2.0, "buy"),
            trade(at(MONDAY, "10:11:00"), "M", 10.0, 3.0, "sell"),
            trade(at(MONDAY, "10:11:00"), "M", 10.0, 2.0, "buy", trade_id="other"),
        ],
        [book(at(MONDAY, f"10:{m:02d}:00"), "M", mid - 1, mid + 1) for m, mid in ((2, 10), (7, 11), (12, 13))],
    )
    (row,) = market_days(db).read(MONDAY).to_dict("records")
    sums = dict(zip(schema.IMPACT_MOMENTS, row["impact_5m"].tolist(), strict=True))
    q, r = np.array([2.0, -1.0]), np.array([1.0, 2.0])
    y = np.array([10.0 - 10.0, 11.0 - 10.0])  # bought at 10 after a mid of 10, sold at 10 after a mid of 11
    assert {name: sums[name] for name in schema.IMPACT_RESPONSE} == {
        "n": 2.0, "q": 1.0, "r": 3.0, "qq": 5.0, "qr": 0.0, "rr": 5.0, "qqrr": (q * q * r * r).sum(),
        "qqqr": (q**3 * r).sum(), "qqqq": 17.0, "qqq": 7.0, "qqr": (q * q * r).sum(), "qrr": (q * r * r).sum(),
    }  # fmt: skip
    assert {name: sums[name] for name in ("m", "x", "y", "xy", "yy", "xxx", "xxy", "xyy", "xxxy", "xxyy")} == {
        "m": 2.0, "x": 3.0, "y": y.sum(), "xy": 1.0, "yy": 1.0, "xxx": 9.0, "xxy": 1.0, "xyy": 1.0, "xxxy": 1.0,
        "xxyy": 1.0,
    }  # fmt: skip
    assert sums["rq5"] == pytest.approx(np.sqrt(2.0) - 2.0)
    assert sums["x8"] == pytest.approx(2**0.8 + 1)
    assert [sums[name] for name in schema.IMPACT_BLOCK] == [1.0, 0.0, 0.0, 25.0]
    assert row["impact_15m"][0] == 0  # one 15-minute bucket alone has nothing beside it


def test_ask_of_one_is_missing_for_a_probability_and_a_price_otherwise(db: QuestDB) -> None:
    looks = [
        book(at(MONDAY, "00:00:00"), "X", 0.4, 1.0),
        book(at(MONDAY, "00:01:00"), "X", 0.4, 1.5),
        book(at(MONDAY, "00:02:00"), "X", 0.0, 0.5),
        book(at(MONDAY, "00:03:00"), "X", None, None),
        book(at(MONDAY, "00:04:00"), "X", 0.6, 0.5),
    ]
    load(db, [], [*looks, *({**b, "market_id": "P", "token_id": "P"} for b in looks)])
    rows = (
        market_days(db, [{"market_id": "P", "token_id": None, "kind": "probability"}])
        .read(MONDAY)
        .set_index("market_id")
    )
    counts = rows[["n_two_sided", "n_one_sided", "n_crossed", "n_empty"]]
    assert counts.loc["P"].tolist() == [0, 3, 1, 1]
    assert counts.loc["X"].tolist() == [2, 1, 1, 1]


# --- how the source is laid out -----------------------------------------------------------------------------


@pytest.mark.parametrize("varchar", [False, True], ids=["SYMBOL", "VARCHAR"])
@pytest.mark.parametrize("ns", [False, True], ids=["TIMESTAMP", "TIMESTAMP_NS"])
def test_types_and_names_of_the_source_tables_do_not_matter(db: QuestDB, varchar: bool, ns: bool) -> None:
    trades, books = two_days()
    load(db, trades, books)
    expected = market_days(db).read(TUESDAY)
    # Names that mean something in SQL, and those under which the queries select.
    tables = SourceTables.model_validate(
        {
            "trades": {
                "table": "my trades",
                "columns": {
                    "timestamp": "time",
                    "market_id": "order",
                    "price": "close",
                    "size": "volume",
                    "side": "select",
                },
            },
            "orderbook_snapshots": {
                "table": "book-tops",
                "columns": {
                    "timestamp": "at",
                    "market_id": "n",
                    "token_id": "gap",
                    "best_bid": "ask",
                    "best_ask": "bid",
                },
            },
        }
    )
    create(db, tables, varchar=varchar, ns=ns)
    send(db, "my trades", frame(trades).rename(columns=tables.trades.columns))
    send(db, "book-tops", frame(books).rename(columns=tables.orderbook_snapshots.columns))
    found = market_days(db, source=Source(db, tables)).read(TUESDAY)
    assert_same_rows(found, expected)


@pytest.mark.parametrize("kind", ["INT", "LONG", "FLOAT", "SHORT"])
def test_numbers_of_any_type_are_summed_as_doubles(db: QuestDB, kind: str) -> None:
    """INT times INT would overflow, half of an INT would be whole, a FLOAT would sum as one."""
    trades = [trade(at(MONDAY, f"10:{i:02d}:00"), "M", 20_001.0 + i, 30_001.0, "buy") for i in range(20)]
    books = [book(at(MONDAY, f"10:{i:02d}:00"), "M", 20_000.0 + i, 20_001.0 + i) for i in range(20)]
    load(db, trades, books)
    expected = market_days(db).read(MONDAY)
    for table in ("trades", "orderbook_snapshots"):
        db.execute(f"DROP TABLE {table}")
        ddl = schema.SOURCE_TABLES[table].ddl()
        for column in ("price", "size", "best_bid", "best_ask"):
            ddl = ddl.replace(f"  {column} DOUBLE", f"  {column} {kind}")
        db.execute(ddl)
    db.execute(
        "INSERT INTO trades (timestamp, market_id, token_id, side, trade_id, price, size) VALUES "
        + ", ".join(
            f"('{t['timestamp']}', 'M', 'M', 'buy', '{t['trade_id']}', {t['price']:.0f}, {t['size']:.0f})"
            for t in trades
        )
    )
    db.execute(
        "INSERT INTO orderbook_snapshots (timestamp, market_id, token_id, best_bid, best_ask) VALUES "
        + ", ".join(f"('{b['timestamp']}', 'M', 'M', {b['best_bid']:.0f}, {b['best_ask']:.0f})" for b in books)
    )
    db.wait("trades")
    db.wait("orderbook_snapshots")
    assert_same_rows(market_days(db).read(MONDAY), expected, but=["source_digest"])


def test_source_and_sink_may_be_different_servers(db: QuestDB, tmp_path: Path) -> None:
    trades, books = two_days()
    load(db, trades, books)
    settings = Settings(home=tmp_path, embedded_memory_mb=256, _env_file=None)
    with embedded.running(settings) as server, QuestDB(server) as sink:
        days = market_days(db, sink=sink)
        assert observe(days, TUESDAY) == [MONDAY, TUESDAY]
        assert observe(days, TUESDAY) == []
        assert len(stored(days, TUESDAY)) == 2
        assert sink.tables() == ["ac_market_days"]
    assert "ac_market_days" not in db.tables()


STRANGE = ["𝒳", "\uffee", "é", "a'b", "a;b", "a\\b", 'a"b', "a b", "😀" * 20, "%", "--", "x" * 300, "y" * 9_000]


def load_crowd(db: QuestDB) -> None:
    markets = sample_markets(40, seed=5, first_day=MONDAY, n_days=1, trades_per_day=200, snapshots_per_day=400)
    (sample,) = generate(markets, MONDAY, 1, seed=5, depth=False)
    trades = [trade(at(MONDAY, f"10:0{i}:00"), m, 50.0 + i, 2.0, "buy") for m in STRANGE for i in range(3)]
    books = [book(at(MONDAY, f"10:0{i}:00"), m, 49.0 + i, 51.0 + i) for m in STRANGE for i in range(3)]
    load(db, sample.trades, sample.orderbook_snapshots, reference_data(markets))
    send(db, "trades", trades)
    send(db, "orderbook_snapshots", books)


@pytest.mark.parametrize("markets_per_slice", [1, 3, 20])
def test_slices_give_the_same_rows_to_the_last_bit(db: QuestDB, markets_per_slice: int) -> None:
    load_crowd(db)
    reference = Source(db, SourceTables()).reference()
    assert reference is not None
    whole = market_days(db, reference.to_pandas()).read(MONDAY)
    sliced = market_days(db, reference.to_pandas(), markets_per_slice=markets_per_slice).read(MONDAY)
    assert len(whole) >= 40
    order = ["market_id", "token_id"]
    assert_same_rows(sliced.sort_values(order, ignore_index=True), whole.sort_values(order, ignore_index=True))


def test_slice_too_long_for_a_list_is_a_range_that_misses_nobody(db: QuestDB, monkeypatch: pytest.MonkeyPatch) -> None:
    """SYMBOLs compare by UTF-16, VARCHARs by UTF-8: the same ids have another order, and another first and last."""
    trades = [trade(at(MONDAY, f"10:0{i}:00"), m, 50.0 + i, 2.0, "buy") for m in STRANGE for i in range(3)]
    books = [book(at(MONDAY, f"10:0{i}:00"), m, 49.0 + i, 51.0 + i) for m in STRANGE for i in range(3)]
    db.execute(schema.TRADES.ddl())
    db.execute(schema.ORDERBOOK_SNAPSHOTS.ddl().replace(" SYMBOL", " VARCHAR"))
    send(db, "trades", trades)
    send(db, "orderbook_snapshots", books)
    whole = market_days(db).read(MONDAY)
    assert len(whole) == len(STRANGE)
    assert (whole["n_two_sided"] == 3).all()
    monkeypatch.setattr("tributary_opt.market_data.source._LONGEST_IN_LIST", 0)
    for n in (2, 3, 5, 12):
        sliced = market_days(db, markets_per_slice=n).read(MONDAY)
        assert_same_rows(
            sliced.sort_values("market_id", ignore_index=True), whole.sort_values("market_id", ignore_index=True)
        )


def test_chunks_of_the_window_cover_every_market_once(db: QuestDB) -> None:
    load_crowd(db)
    days = market_days(db)
    observe(days, MONDAY)
    window = days.window(MONDAY, 5)
    whole = days.load(window)
    for n in (1, 3, 100):
        parts = [days.load(window, chunk) for chunk in days.chunks(window, n)]
        together = pd.concat(parts, ignore_index=True).sort_values(["market_id", "token_id"], ignore_index=True)
        assert_same_rows(together, whole)
        assert window_digest(together) == window_digest(whole)


def test_order_in_which_rows_arrived_does_not_matter(db: QuestDB) -> None:
    trades, books = two_days()
    load(db, trades, books)
    expected = market_days(db).read(TUESDAY)
    for table in ("trades", "orderbook_snapshots"):
        db.execute(f"DROP TABLE {table}")
    create(db)
    rng = np.random.default_rng(1)
    for i in rng.permutation(len(trades)):  # a transaction each, late ones and early ones
        send(db, "trades", [trades[i]])
    send(db, "orderbook_snapshots", [books[i] for i in rng.permutation(len(books))])
    assert_same_rows(market_days(db).read(TUESDAY), expected)


def test_order_of_the_servers_answer_does_not_matter(db: QuestDB, monkeypatch: pytest.MonkeyPatch) -> None:
    load_crowd(db)
    expected = market_days(db).read(MONDAY)

    class Shuffled(Source):
        def trade_buckets(self, *args, **kwargs):
            return self._shuffle(super().trade_buckets(*args, **kwargs))

        def book_buckets(self, *args, **kwargs):
            return self._shuffle(super().book_buckets(*args, **kwargs))

        def _shuffle(self, table):
            return table.take(np.random.default_rng(7).permutation(table.num_rows))

    assert_same_rows(market_days(db, source=Shuffled(db, SourceTables())).read(MONDAY), expected)


# --- when a day is read -------------------------------------------------------------------------------------


def test_night_reads_a_day_once_and_the_next_night_reads_the_new_day_only(db: QuestDB) -> None:
    first, last = date(2024, 2, 1), date(2024, 3, 1)
    span = pd.date_range(first, last, freq="D")
    load(
        db,
        [trade(f"{d.date()}T12:{m:02d}:00Z", "M", 10.0 + m / 100, 1.0, "buy") for d in span for m in range(30)],
        [book(f"{d.date()}T12:{m:02d}:00Z", "M", 9.0, 11.0) for d in span for m in range(30)],
    )
    spy = Spy(db)
    days = market_days(db, source=spy)
    assert observe(days, last, 30) == [d.date() for d in span]
    spy.asked.clear()
    assert observe(days, last, 30) == []
    assert spy.asked == []  # a night that knows its window asks for no tick

    # What a night with 30 days behind it reads is what one with a single day behind it does: the new day.
    new = date(2024, 3, 2)
    send(db, "trades", [trade(at(new, "12:00:00"), "M", 10.0, 1.0)])
    assert observe(days, new, 30) == [new]
    assert [(query, day) for query, day in spy.asked if day != new] == []
    behind_thirty = len(spy.asked)
    clear_market_days(db)
    observe(days, date(2024, 3, 1), 1)
    spy.asked.clear()
    assert observe(days, new, 2) == [new]
    assert behind_thirty == len(spy.asked)


@pytest.fixture
def known(db: QuestDB) -> QuestDB:
    """Two markets on two days, all known, and a big one that hides small changes in sums of doubles."""
    for market in ("M", "N"):
        load(db, *two_days(market))
    send(db, "trades", [trade(at(day, "01:00:00"), "BIG", 3e6, 4e8) for day in (MONDAY, TUESDAY)])
    assert observe(market_days(db), TUESDAY) == [MONDAY, TUESDAY]
    assert observe(market_days(db), TUESDAY) == []
    return db


def test_late_trade_has_its_day_read_again(known: QuestDB) -> None:
    send(known, "trades", [trade(at(MONDAY, "09:00:00"), "M", 100.0, 1.0)])
    assert observe(market_days(known), TUESDAY) == [MONDAY]
    assert observe(market_days(known), TUESDAY) == []
    assert stored(market_days(known), TUESDAY).query("market_id == 'M'")["n_trades"].tolist() == [11, 10]


def test_late_look_at_the_book_has_its_day_read_again(known: QuestDB) -> None:
    send(known, "orderbook_snapshots", [book(at(TUESDAY, "15:59:00"), "M", 100.0, 100.5)])
    assert observe(market_days(known), TUESDAY) == [TUESDAY]


@pytest.mark.parametrize("change", ["size", "price"])
def test_changed_trade_has_its_day_read_again_however_small_beside_the_days_sum(known: QuestDB, change: str) -> None:
    """1e-6 of a contract beside 4e8, 1e-6 of a currency beside 1.2e15: no digit of a sum of doubles would show it."""
    row = dict(two_days("M")[0][0])
    send(known, "trades", [{**row, change: row[change] + 1e-6}])
    assert observe(market_days(known), TUESDAY) == [MONDAY]


@pytest.mark.parametrize("change", ["best_bid", "best_ask"])
def test_changed_book_has_its_day_read_again(known: QuestDB, change: str) -> None:
    row = dict(two_days("M")[1][0])
    send(known, "orderbook_snapshots", [{**row, change: row[change] + 1e-9}])
    assert observe(market_days(known), TUESDAY) == [MONDAY]


def test_same_rows_sent_again_have_nothing_read_again(known: QuestDB) -> None:
    load(known, *two_days("M"))
    assert observe(market_days(known), TUESDAY) == []


def test_reread_reads_every_day_and_changes_nothing(known: QuestDB) -> None:
    before = stored(market_days(known), TUESDAY)
    assert observe(market_days(known), TUESDAY, reread=True) == [MONDAY, TUESDAY]
    assert_same_rows(stored(market_days(known), TUESDAY), before)


@pytest.mark.parametrize("rules", [{"quote_cap_seconds": 60.0}, {"skip_open_minutes": 5}])
def test_other_rules_read_every_day_again(known: QuestDB, rules: dict) -> None:
    days = market_days(known, rules=StatisticsRules(**rules))
    assert observe(days, TUESDAY) == [MONDAY, TUESDAY]
    assert observe(days, TUESDAY) == []


def test_newer_statistics_read_every_day_again(known: QuestDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STATISTICS_VERSION", module.STATISTICS_VERSION + 1)
    assert observe(market_days(known), TUESDAY) == [MONDAY, TUESDAY]
    assert observe(market_days(known), TUESDAY) == []


def test_other_kind_reads_the_days_of_that_market_again(known: QuestDB) -> None:
    markets = [{"market_id": "M", "token_id": None, "kind": "probability"}]
    assert observe(market_days(known, markets), TUESDAY) == [MONDAY, TUESDAY]
    assert observe(market_days(known, markets), TUESDAY) == []
    kinds = stored(market_days(known, markets), TUESDAY).set_index("market_id")["kind"]
    assert set(kinds["M"]) == {"probability"}
    assert set(kinds["N"]) == {"price"}


def test_other_calendar_reads_the_window_again_once(db: QuestDB) -> None:
    """Saturday's row of a market that turns out to be a stock becomes zeros, and is not read for ever after."""
    friday, saturday, monday = date(2024, 3, 1), date(2024, 3, 2), date(2024, 3, 4)
    for day in (friday, saturday, monday):
        load(
            db,
            [trade(at(day, "15:00:00"), "M", 100.0, 1.0), trade(at(day, "15:00:00"), "N", 5.0, 1.0)],
            [book(at(day, f"15:{m:02d}:00"), "M", 99.0, 101.0) for m in (0, 10)],
        )
    assert observe(market_days(db), monday) == [friday, saturday, monday]
    markets = [{"market_id": "M", "token_id": None, "kind": "price", "calendar": "XNYS"}]
    days = market_days(db, markets)
    assert observe(days, monday) == [friday, saturday, monday]
    assert observe(days, monday) == []
    rows = stored(days, monday)
    assert rows[rows["market_id"] == "M"]["day"].dt.date.tolist() == [friday, monday]  # Saturday is none of its days
    assert rows[rows["market_id"] == "N"]["day"].dt.date.tolist() == [friday, saturday, monday]
    on_saturday = days.read(saturday).set_index("market_id")
    assert on_saturday.loc["M", ["n_trades", "volume", "calendar"]].tolist() == [0, 0.0, "XNYS"]
    assert pd.isna(on_saturday.loc["M", "session_start"])
    # And back again.
    assert observe(market_days(db), monday) == [friday, saturday, monday]
    assert observe(market_days(db), monday) == []
    assert len(stored(market_days(db), monday)) == 6


def test_market_gone_from_a_day_that_is_read_again_gets_a_row_of_zeros(
    db: QuestDB, caplog: pytest.LogCaptureFixture
) -> None:
    load(db, *two_days("M"))
    load(db, *two_days("N"))
    observe(market_days(db), TUESDAY)
    for table in ("trades", "orderbook_snapshots"):
        db.execute(f"DROP TABLE {table}")
    load(db, *two_days("N"))  # M was a mistake
    days = market_days(db)
    with caplog.at_level(logging.INFO):
        assert observe(days, TUESDAY) == [MONDAY, TUESDAY]
    assert "1 markets have gone from the source" in caplog.text
    assert observe(days, TUESDAY) == []
    rows = stored(days, TUESDAY)
    assert rows["market_id"].tolist() == ["M", "M", "N", "N"]
    gone = rows[rows["market_id"] == "M"]
    kept = {"day", "market_id", "token_id", "kind", "calendar", "folded_with", "session_start", "session_end"}
    for column in schema.MARKET_DAYS.columns:
        if column.name in kept or column.name in ("statistics_version", "settings_digest", "source_digest"):
            continue
        for value in gone[column.name]:
            assert (
                value is None or pd.isna(value)
                if not isinstance(value, np.ndarray | float | int)
                else (not np.any(value) or np.isnan(value).all())
            ), column.name
    assert gone["session_end"].tolist() == [pd.Timestamp(TUESDAY, tz="UTC"), pd.Timestamp("2024-03-06", tz="UTC")]
    assert set(schema.MARKET_DAYS.names) == set(rows.columns)


def test_days_whose_ticks_the_source_has_retired_are_kept(known: QuestDB) -> None:
    before = stored(market_days(known), TUESDAY)
    for table in ("trades", "orderbook_snapshots"):
        known.execute(f"ALTER TABLE {table} DROP PARTITION LIST '{MONDAY}'")
        known.wait(table)
    assert observe(market_days(known), TUESDAY) == []
    assert_same_rows(stored(market_days(known), TUESDAY), before)
    assert observe(market_days(known), TUESDAY, reread=True) == [MONDAY, TUESDAY]
    assert stored(market_days(known), TUESDAY)["n_trades"].to_list()[::2] == [0, 0, 0]


def test_instrument_without_a_token_is_one_instrument(db: QuestDB) -> None:
    trades, books = two_days("M")
    nameless = [{**row, "token_id": None} for row in (*trades, *books)]
    load(db, nameless[: len(trades)], nameless[len(trades) :])
    days = market_days(db)
    observe(days, TUESDAY)
    observe(days, TUESDAY, reread=True)
    rows = stored(days, TUESDAY)
    assert rows["token_id"].tolist() == ["", ""]
    assert rows["n_trades"].tolist() == [10, 10]
    assert (rows["n_two_sided"] == 10).all()


# --- calendars together -------------------------------------------------------------------------------------


def sessions_of(days: list[date], clocks: tuple[str, ...], market: str) -> tuple[list, list]:
    return (
        [trade(at(d, c), market, 100.0, 1.0) for d in days for c in clocks],
        [book(at(d, c), market, 99.0, 101.0) for d in days for c in clocks],
    )


def test_coin_and_stock_each_have_the_days_of_their_own_calendar(db: QuestDB) -> None:
    """Thanksgiving 2024 closes XNYS on 28 November and ends the session of the 29th at 13:00 in New York."""
    span = [d.date() for d in pd.date_range("2024-11-25", "2024-12-02")]
    clocks = ("14:29:59.999999", "14:30:00", "17:59:59.999999", "18:00:00", "20:59:59.999999", "21:00:00")
    load(db, *sessions_of(span, clocks, "COIN"))
    load(db, *sessions_of(span, clocks, "STOCK"))
    markets = [{"market_id": "STOCK", "token_id": None, "kind": "price", "calendar": "XNYS"}]
    days = market_days(db, markets)
    as_of = span[-1]
    assert observe(days, as_of, 8) == span
    assert observe(days, as_of, 8) == []
    rows = stored(days, as_of, 8).set_index(["market_id", rows_day(stored(days, as_of, 8))])["n_trades"]
    assert rows["COIN"].to_dict() == dict.fromkeys(span, 6)
    half, closed = date(2024, 11, 29), {date(2024, 11, 28), date(2024, 11, 30), date(2024, 12, 1)}
    assert rows["STOCK"].to_dict() == {d: 2 if d == half else 4 for d in span if d not in closed}

    trimmed = market_days(db, markets, StatisticsRules(skip_open_minutes=1, skip_close_minutes=180))
    observe(trimmed, as_of, 8)
    rows = stored(trimmed, as_of, 8)
    # Of a full day 14:31 to 18:00 is left, of the half day 14:31 to 15:00.
    assert rows[rows["market_id"] == "STOCK"]["n_trades"].tolist() == [1, 1, 1, 0, 1]
    assert rows[rows["market_id"] == "COIN"]["n_trades"].tolist() == [6] * 8
    assert observe(trimmed, as_of, 8) == []


def rows_day(rows: pd.DataFrame) -> pd.Series:
    return rows["day"].dt.date.rename("date")


def test_trims_that_leave_nothing_of_a_half_day_are_read_once(db: QuestDB) -> None:
    span = [date(2024, 11, 27), date(2024, 11, 29)]
    load(db, *sessions_of(span, ("16:00:00",), "STOCK"))
    markets = [{"market_id": "STOCK", "token_id": None, "kind": "price", "calendar": "XNYS"}]
    observe(market_days(db, markets), span[-1])
    days = market_days(db, markets, StatisticsRules(skip_open_minutes=60, skip_close_minutes=150))
    assert observe(days, span[-1]) == span
    assert observe(days, span[-1]) == []
    rows = stored(days, span[-1])
    assert rows["n_trades"].tolist() == [1, 0]


def test_ticks_out_of_every_session_are_read_once(db: QuestDB) -> None:
    """Of stocks alone: a Saturday with prints, and a day with nothing but prints before the open."""
    friday, saturday, monday = date(2024, 3, 1), date(2024, 3, 2), date(2024, 3, 4)
    load(db, *sessions_of([friday], ("15:00:00",), "STOCK"))
    load(db, *sessions_of([saturday], ("15:00:00",), "STOCK"))
    load(db, *sessions_of([monday], ("09:00:00",), "STOCK"))
    markets = [{"market_id": "STOCK", "token_id": None, "kind": "price", "calendar": "XNYS"}]
    spy = Spy(db)
    days = market_days(db, markets, source=spy)
    assert observe(days, monday) == [friday, saturday, monday]
    spy.asked.clear()
    assert observe(days, monday) == []
    assert spy.asked == []
    rows = stored(days, monday)
    assert rows["day"].dt.date.tolist() == [friday, monday]
    assert rows["n_trades"].tolist() == [1, 0]
    # A coin that turns up on that Saturday is seen.
    load(db, *sessions_of([saturday], ("16:00:00",), "COIN"))
    assert observe(days, monday) == [saturday]
    assert observe(days, monday) == []
    assert stored(days, monday)["market_id"].tolist() == ["COIN", "STOCK", "STOCK"]


def test_session_that_begins_the_evening_before_is_read_whole(db: QuestDB) -> None:
    """CMES: Tuesday's session begins on Monday at 17:00 in Chicago."""
    load(db, *sessions_of([MONDAY], ("22:59:59", "23:00:00", "23:30:00"), "FUT"))
    load(db, *sessions_of([TUESDAY], ("10:00:00", "23:30:00"), "FUT"))
    markets = [{"market_id": "FUT", "token_id": None, "kind": "price", "calendar": "CMES"}]
    days = market_days(db, markets)
    row = days.read(TUESDAY).set_index("market_id").loc["FUT"]
    assert row["n_trades"] == 3
    assert row["session_start"] == pd.Timestamp("2024-03-04T23:00Z")
    observe(days, TUESDAY)
    send(db, "trades", [trade(at(MONDAY, "23:45:00"), "FUT", 100.0, 1.0)])  # a late row of Tuesday's session
    assert observe(days, TUESDAY) == [MONDAY, TUESDAY]


# --- which day ----------------------------------------------------------------------------------------------


def test_newest_complete_day_is_the_last_over_with_trades_in_its_calendar(db: QuestDB) -> None:
    def newest(markets: list | None = None, now: str = "2024-03-06T12:00") -> date | None:
        reference = ReferenceData(None if markets is None else pd.DataFrame(markets))
        return newest_complete_day(
            Source(db, SourceTables()), reference, datetime.fromisoformat(now).replace(tzinfo=UTC)
        )

    create(db)
    assert newest() is None
    load(db, *two_days())
    assert newest() == TUESDAY
    assert newest(now="2024-03-05T23:59:59") == MONDAY  # Tuesday is not over
    send(db, "trades", [trade("2024-03-06T01:00:00Z", "M", 1.0, 1.0), trade("2099-01-01T00:00:00Z", "M", 1.0, 1.0)])
    assert newest() == TUESDAY
    stock = [{"market_id": "M", "token_id": None, "kind": "price", "calendar": "XNYS"}]
    send(
        db, "trades", [trade("2024-03-09T01:00:00Z", "M", 1.0, 1.0)]
    )  # after Friday's close in New York, Saturday in UTC
    assert newest(stock, now="2024-03-10T00:00") == date(2024, 3, 8)
    assert newest(now="2024-03-10T00:00") == date(2024, 3, 9)


def test_window_begins_with_the_first_recorded_day(db: QuestDB) -> None:
    load(db, *two_days())
    days = market_days(db)
    assert days.window(TUESDAY, 30).days["24/7"] == [MONDAY, TUESDAY]
    observe(days, TUESDAY)
    for table in ("trades", "orderbook_snapshots"):
        db.execute(f"ALTER TABLE {table} DROP PARTITION LIST '{MONDAY}'")
        db.wait(table)
    assert days.window(TUESDAY, 30).days["24/7"] == [MONDAY, TUESDAY]  # what was recorded once counts
    assert days.window(TUESDAY, 1).days["24/7"] == [TUESDAY]
