"""Market days against plain pandas over the raw ticks, however the source is laid out."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from raw_days import raw_market_day
from tick_tables import (
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
from two_days import MONDAY, TUESDAY, at, two_days

from tributary_opt import schema
from tributary_opt.calibration.impact_evidence import impact_evidence
from tributary_opt.market_data.calendars import trading_calendar
from tributary_opt.market_data.market_days import window_digest
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
            walk_pct_volume=rules.walk_pct_volume,
        )
        assert {*raw, *BOOKKEEPING} == set(schema.MARKET_DAYS.names)
        assert row["day"] == pd.Timestamp(day, tz="UTC")
        for name, expected in raw.items():
            found = row[name]
            if isinstance(expected, np.ndarray):
                scale = np.abs(expected).max() if name.endswith("by_hour") else 0.0
                if name.startswith("impact_"):  # moves that cancel leave the rounding of what cancelled
                    scale = 1e-3 * of_terms(dict(zip(schema.IMPACT_SUMS, expected.tolist(), strict=True)))
                assert np.shape(found) == expected.shape, (key, name)
                off = np.abs(found - expected) - 1e-9 * np.abs(expected) - 1e-12 * scale
                assert ((off <= 0) | (np.isnan(found) & np.isnan(expected))).all(), (key, name, found, expected)
            elif isinstance(expected, pd.Timestamp) or expected is None or expected is pd.NaT:
                assert found == expected or (pd.isna(found) and pd.isna(expected)), (key, name, found, expected)
            else:
                rtol = 1e-6 if name == "edge_squared_bars" else 1e-9
                np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-15, err_msg=f"{key} {name}")


_BOOK = "best_bid, best_ask, bid_size, ask_size, bid_prices, bid_sizes, ask_prices, ask_sizes"


def of_server(db: QuestDB, table: str) -> pd.DataFrame:
    """The raw ticks as the server holds them: where stamps are equal, its order is the order."""
    columns = "timestamp, market_id, token_id, " + ("side, price, size" if table == "trades" else _BOOK)
    return db.query(f"SELECT {columns} FROM {table}").to_pandas()


def of_terms(sums: dict[str, float]) -> np.ndarray:
    """What the terms of sums of powers of flow and move can add up to (Hölder); 0 for the others."""
    flow, move = sums["qqqq"] ** 0.25, sums["rr"] ** 0.5
    powers = {name: (name.count("q"), name.count("r")) for name in schema.IMPACT_RESPONSE}
    return np.array([flow ** powers[k][0] * move ** powers[k][1] if k in powers else 0.0 for k in sums])


def test_every_column_of_a_sample_day_is_what_pandas_makes_of_the_raw_ticks(db: QuestDB) -> None:
    markets = sample_markets(40, seed=3, first_day=MONDAY, n_days=2, trades_per_day=500, snapshots_per_day=1_000)
    reference = reference_data(markets).assign(complement_token_id=None)  # folding: test_complements.py
    create(db)
    for sample in generate(markets, MONDAY, 2, seed=3, depth=True):
        send(db, "trades", sample.trades)
        send(db, "orderbook_snapshots", sample.orderbook_snapshots)
    rules = StatisticsRules(skip_open_minutes=7, skip_close_minutes=3, quote_cap_seconds=45.0, walk_pct_volume=0.5)
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
    assert row["flow_size_squared"] == 0.0  # no two buckets with a mid are neighbours
    # The trade at noon names no aggressor: 9 is below the last mid before it, 10.5, so it was sold.
    assert (row["buy_volume"], row["sell_volume"], row["n_signed"]) == (2.0, 3.0 + 5.0, 3)
    assert (row["buy_notional"], row["sell_notional"]) == (20.0, 33.0 + 45.0)
    assert (row["n_quote_rule"], row["n_tick_rule"]) == (1, 0)
    # No size stands in any look.
    assert (row["n_depth"], row["n_walked"], row["walk_cost"]) == (0, 0, 0.0)
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
    assert row["impact_5m"].tolist() == [0.0] * len(schema.IMPACT_SUMS)
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
    sums = dict(zip(schema.IMPACT_SUMS, row["impact_5m"].tolist(), strict=True))
    sums |= {name: row[f"impact_5m_{called}"] for name, called in schema.IMPACT_COUNTS.items()}
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
    assert [sums[name] for name in ("blocks", *schema.IMPACT_BLOCK)] == [1, 0.0, 0.0, 25.0]
    assert row["impact_15m_pairs"] == 0  # one 15-minute bucket alone has nothing beside it


@pytest.mark.parametrize("between", [True, False])
def test_flow_of_a_move_is_that_between_its_two_looks(db: QuestDB, between: bool) -> None:
    load(
        db,
        [
            trade(at(MONDAY, "10:01:00"), "M", 10.0, 1.0, "buy"),
            trade(at(MONDAY, "10:03:00"), "M", 10.5, 2.0, "buy"),  # after the bucket's last look
            trade(at(MONDAY, "10:06:00"), "M", 11.0, 4.0, "buy"),
            trade(at(MONDAY, "10:08:00"), "M", 9.0, 8.0, "sell"),  # likewise
            trade(at(MONDAY, "10:11:00"), "M", 12.0, 16.0, "buy"),
            trade(at(MONDAY, "10:14:00"), "M", 12.0, 32.0, "buy"),
            trade(at(MONDAY, "10:17:00"), "M", 12.0, 64.0, "buy"),  # in a bucket without a look
            trade(at(MONDAY, "10:21:00"), "M", 13.0, 128.0, "buy"),
        ],
        [book(at(MONDAY, f"10:{m:02d}:00"), "M", p - 1, p + 1) for m, p in ((2, 10), (7, 11), (12, 13), (22, 17))],
    )
    rules = StatisticsRules(flow_between_mids=between)
    (row,) = market_days(db, rules=rules).read(MONDAY).to_dict("records")

    def sums(minutes: int) -> list[float]:
        of = dict(zip(schema.IMPACT_SUMS, row[f"impact_{minutes}m"], strict=True))
        return [of[name] for name in ("q", "r", "qr", "y", "xy")]

    if between:
        # Bought 6 for (2 * 10.5 + 4 * 11) / 6 after a mid of 10, bought 8 net after 11.
        pairs = [(6.0, 1.0, (2 * 10.5 + 4 * 11.0) / 6 - 10.0), (8.0, 2.0, 12.0 - 11.0)]
        quarters = (32.0 + 64.0 + 128.0, 4.0, (96 * 12.0 + 128 * 13.0) / 224 - 13.0)
    else:
        pairs = [(-4.0, 1.0, 10.0 - 9.0), (48.0, 2.0, 12.0 - 11.0)]
        quarters = (64.0 + 128.0, 4.0, (64 * 12.0 + 128 * 13.0) / 192 - 13.0)
    for minutes, of in ((5, pairs), (15, [quarters])):
        q, r, y = (np.array(v) for v in zip(*of, strict=True))
        expected = [q.sum(), r.sum(), (q * r).sum(), y.sum(), (np.abs(q) * y).sum()]
        np.testing.assert_allclose(sums(minutes), expected, rtol=1e-13)


@pytest.mark.parametrize("minutes_apart", [2.0, 4.5])
def test_response_is_what_moves_the_mid_however_far_apart_the_looks_are(db: QuestDB, minutes_apart: float) -> None:
    """By the clock's intervals a part of the flow is missing, and the slope with it."""
    rng = np.random.default_rng(5)
    seconds = np.sort(rng.uniform(0, 86_400, 3_000)).round(3)
    signed = rng.choice([-1.0, 1.0], 3_000) * rng.lognormal(0.0, 0.5, 3_000)
    looked = np.arange(30.0, 86_400, 60 * minutes_apart)
    flow = np.append(0.0, np.cumsum(signed))[np.searchsorted(seconds, looked)]
    mid = 100 + 0.01 * flow + 0.002 * rng.standard_normal(len(looked))
    start = pd.Timestamp(MONDAY, tz="UTC")
    trades = [
        trade((start + pd.Timedelta(seconds=s)).isoformat(), "M", 100.0, abs(q), "buy" if q > 0 else "sell")
        for s, q in zip(seconds, signed, strict=True)
    ]
    looks = [
        book((start + pd.Timedelta(seconds=s)).isoformat(), "M", m - 0.1, m + 0.1)
        for s, m in zip(looked, mid, strict=True)
    ]
    load(db, trades, looks)
    between, clock = (
        impact_evidence(market_days(db, rules=StatisticsRules(flow_between_mids=chosen)).read(MONDAY)).slope[0, :2]
        for chosen in (True, False)
    )
    np.testing.assert_allclose(between, 0.01, rtol=0.01)
    assert clock[0] < (0.9 if minutes_apart == 2.0 else 0.75) * 0.01


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


def test_slice_of_one_calendar_among_others_reads_no_more_markets_than_a_slice_has(
    db: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long list is asked for as a range, in which strangers lie: as many as a slice holds, not all there are."""
    names = [f"M{i:02d}" for i in range(24)]
    trades = [trade(at(MONDAY, f"15:0{i}:00"), m, 50.0 + i, 2.0, "buy") for m in names for i in range(3)]
    books = [book(at(MONDAY, f"15:0{i}:00"), m, 49.0 + i, 51.0 + i) for m in names for i in range(3)]
    reference = pd.DataFrame({"market_id": names[::4], "token_id": "", "calendar": "XNYS"})
    load(db, trades, books)
    whole = market_days(db, reference).read(MONDAY)
    monkeypatch.setattr("tributary_opt.market_data.source._LONGEST_IN_LIST", 0)
    seen = []
    for name in ("trade_buckets", "book_buckets", "quoted_trades", "walks"):
        asked = getattr(Source, name)

        def counted(self: Source, *given: Any, _asked: Any = asked, **more: Any) -> Any:
            rows = _asked(self, *given, **more)
            seen.append(len(set(rows["market_id"].to_pylist())))
            return rows

        monkeypatch.setattr(Source, name, counted)
    sliced = market_days(db, reference, markets_per_slice=6).read(MONDAY)
    assert_same_rows(
        sliced.sort_values("market_id", ignore_index=True), whole.sort_values("market_id", ignore_index=True)
    )
    assert len(seen) > 8
    assert max(seen) <= 6


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
