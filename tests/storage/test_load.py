"""Loading files into the source tables of a real QuestDB."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tributary_opt import schema
from tributary_opt.settings import SourceTableName, SourceTables
from tributary_opt.storage import load
from tributary_opt.storage.load import LoadRefused, load_file
from tributary_opt.storage.questdb import QuestDB

pytestmark = pytest.mark.questdb


def _trades(n: int = 100, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "timestamp": pd.date_range("2024-01-01", periods=n, freq="min", tz="UTC").as_unit("us"),
            "market_id": rng.choice(["m;1", "it's", "null"], n),
            "token_id": "yes",
            "side": rng.choice(["buy", "sell"], n),
            "trade_id": [f"t{i}" for i in range(n)],
            "price": rng.random(n),
            "size": rng.random(n) * 100,
            "value": rng.random(n),
            "is_buyer_maker": rng.random(n) < 0.5,
        }
    )


def _markets() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "market_id": ["a", "b", "b"],
            "token_id": [None, "yes", "no"],
            "kind": ["price", "probability", "probability"],
            "resolution_time": pd.to_datetime([None, "2024-06-01", "2024-06-01"], utc=True),
            "tick_size": [0.01, np.nan, 0.001],
            "inverse": [False, False, False],
        }
    )


@pytest.fixture
def file(tmp_path: Path) -> Callable[[pd.DataFrame], Path]:
    """Write a frame as Parquet."""

    def write(frame: pd.DataFrame, name: str = "file.parquet") -> Path:
        path = tmp_path / name
        if name.endswith(".parquet"):
            frame.to_parquet(path, index=False)
        elif name.endswith(".gz"):
            path.write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
        else:
            frame.to_csv(path, index=False)
        return path

    return write


def _read(db: QuestDB, table: str = "trades") -> pd.DataFrame:
    columns = ", ".join(schema.SOURCE_TABLES[table].names)
    return db.query(f"SELECT {columns} FROM {table} ORDER BY timestamp, trade_id").to_pandas()


# --- what arrives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["f.parquet", "f.csv", "f.csv.gz"])
def test_file_arrives_whole_and_a_second_time_changes_nothing(db: QuestDB, file: Any, name: str) -> None:
    frame = _trades()
    path = file(frame, name)

    first = load_file(db, path, "trades")
    second = load_file(db, path, "trades")

    assert (first.created, first.rows_in_file, first.rows_new, first.rows_known) == (True, 100, 100, 0)
    assert (second.created, second.rows_in_file, second.rows_new, second.rows_known) == (False, 100, 0, 100)
    pd.testing.assert_frame_equal(
        _read(db), frame.sort_values(["timestamp", "trade_id"], ignore_index=True), check_dtype=False
    )
    assert db.describe("trades").keys == {"timestamp", "market_id", "token_id", "trade_id"}


def test_batches_bound_memory_and_progress_is_told(db: QuestDB, file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_BATCH_ROWS", 30)
    told: list[tuple[int, int | None]] = []
    report = load_file(db, file(_trades()), "trades", progress=lambda *step: told.append(step))
    assert told == [(n, 200) for n in (30, 60, 90, 100, 130, 160, 190, 200)]
    assert report.rows_new == 100
    pd.testing.assert_frame_equal(_read(db)[["trade_id", "price"]], _trades()[["trade_id", "price"]], check_dtype=False)


def test_equal_rows_with_different_ids_stay_and_equal_ids_of_two_markets_too(db: QuestDB, file: Any) -> None:
    row = _trades(1)
    rows = pd.concat([row, row.assign(trade_id="other"), row.assign(market_id="other"), row], ignore_index=True)
    report = load_file(db, file(rows), "trades")
    assert (report.rows_in_file, report.rows_new, report.rows_known) == (4, 3, 1)


def test_optional_columns_may_be_missing_and_others_are_ignored_by_name(db: QuestDB, file: Any) -> None:
    frame = _trades().drop(columns=["value", "is_buyer_maker"]).assign(venue="x")
    assert load_file(db, file(frame), "trades").ignored == ("venue",)
    assert _read(db)["value"].isna().all()


def test_nulls_infinities_and_unknown_flags_are_counted(db: QuestDB, file: Any) -> None:
    frame = _trades(4)
    frame["price"] = [np.inf, -np.inf, np.nan, 0.0]
    frame["side"] = [None, "buy", None, "sell"]
    frame["is_buyer_maker"] = pd.array([True, None, None, False], dtype="boolean")
    report = load_file(db, file(frame), "trades")
    assert (report.infinities, report.flags_unknown) == (2, 2)
    read = _read(db)
    assert read["price"].isna().tolist() == [True, True, True, False]
    assert read["side"].isna().tolist() == [True, False, True, False]
    assert read["is_buyer_maker"].tolist() == [True, False, False, False]


def test_rows_of_the_future_are_loaded_and_counted(db: QuestDB, file: Any) -> None:
    frame = _trades(3)
    frame["timestamp"] = pd.to_datetime(["2024-01-01", "2099-01-01", "2024-01-02"], utc=True)
    report = load_file(db, file(frame), "trades")
    assert (report.rows_new, report.rows_future) == (3, 1)


def test_times_of_every_kind_become_utc(db: QuestDB, file: Any) -> None:
    stamps = pd.date_range("2024-01-01", periods=4, freq="h", tz="UTC")
    for n, column in enumerate(
        [
            stamps.as_unit("ns"),
            stamps.as_unit("s"),
            stamps.tz_convert("America/New_York"),
            stamps.tz_localize(None),  # means UTC
            stamps.astype("datetime64[us, UTC]"),
        ]
    ):
        load_file(db, file(_trades(4).assign(timestamp=column, trade_id=f"kind {n}")), "trades")
    for n, form in enumerate(["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f+00:00"]):
        path = file(_trades(4).assign(timestamp=stamps.strftime(form), trade_id=f"form {n}"), "f.csv")
        load_file(db, path, "trades")
    times = _read(db).groupby("trade_id")["timestamp"].agg(list)
    assert len(times) == 8
    assert all(found == list(stamps) for found in times)


def test_order_books_keep_their_levels_as_text(db: QuestDB, file: Any) -> None:
    books = pd.DataFrame(
        {
            "timestamp": pd.date_range("2024-01-01", periods=3, freq="s", tz="UTC"),
            "market_id": "m",
            "token_id": "t",
            "best_bid": [0.1, 0.0, None],
            "best_ask": [0.2, 1.0, 0.4],
            "bid_prices": ["[0.1, 0.09]", None, "[]"],
            "ask_sizes": [[1.0, 2.0], None, []],
        }
    )
    assert load_file(db, file(books), "orderbook_snapshots").rows_new == 3
    read = db.query("SELECT * FROM orderbook_snapshots").to_pandas()
    assert read["bid_prices"].fillna("-").tolist() == ["[0.1, 0.09]", "-", "[]"]
    assert read["ask_sizes"].fillna("-").tolist() == ["[1.0, 2.0]", "-", "[]"]
    assert read["best_bid"].isna().tolist() == [False, False, True]


# --- ids ----------------------------------------------------------------------------------------------------


def test_null_ids_are_refused_or_made_from_digest_and_row(
    db: QuestDB, file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_BATCH_ROWS", 3)
    frame = _trades(10)
    frame.loc[[4, 7], "trade_id"] = None
    path = file(frame)
    with pytest.raises(LoadRefused, match=r"null trade_id in row 4: use --make-ids"):
        load_file(db, path, "trades")
    assert db.tables() == []

    for new in (10, 0):
        report = load_file(db, path, "trades", make_ids=True)
        assert (report.rows_new, report.ids_made) == (new, 2)
    ids = _read(db)["trade_id"].tolist()
    assert [i for n, i in enumerate(ids) if n not in (4, 7)] == [f"t{n}" for n in range(10) if n not in (4, 7)]
    assert ids[4].endswith("-4")
    assert ids[7].endswith("-7")
    assert ids[4][:-2] == ids[7][:-2]


def test_file_without_ids_keeps_equal_rows_apart(db: QuestDB, file: Any) -> None:
    frame = pd.concat([_trades(1)] * 3).drop(columns="trade_id")
    for name in ("f.parquet", "f.csv"):
        path = file(frame, name)
        with pytest.raises(LoadRefused, match="column trade_id is missing, expected text, or --make-ids"):
            load_file(db, path, "trades")
        assert load_file(db, path, "trades", make_ids=True).rows_new == 3
        assert load_file(db, path, "trades", make_ids=True).rows_new == 0


# --- refusals -----------------------------------------------------------------------------------------------


def test_every_missing_and_mistyped_column_is_named(db: QuestDB, file: Any) -> None:
    frame = _trades().drop(columns=["token_id", "size"]).assign(price="1.0", timestamp=1, is_buyer_maker="yes")
    with pytest.raises(LoadRefused) as caught:
        load_file(db, file(frame), "trades")
    for part in (
        "column timestamp is int64, expected a timestamp",
        "column token_id is missing, expected text",
        "column price is string, expected a number",
        "column size is missing, expected a number",
        "column is_buyer_maker is string, expected true or false",
    ):
        assert part in str(caught.value).replace("large_string", "string")
    assert db.tables() == []


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("price", "cheap", r"CSV column price: .*invalid value 'cheap'"),
        ("timestamp", "yesterday", r"column timestamp, expected a timestamp .*yesterday"),
        ("timestamp", "", r"null timestamp in row 99"),
        ("market_id", "", r"null market_id in row 99"),
        ("is_buyer_maker", "perhaps", r"CSV column is_buyer_maker: .*perhaps"),
    ],
)
def test_bad_cell_in_the_last_row_of_a_csv_is_named_and_nothing_is_loaded(
    db: QuestDB, file: Any, column: str, value: str, message: str
) -> None:
    frame = _trades().astype(object)
    frame.loc[99, column] = value
    with pytest.raises(LoadRefused, match=message):
        load_file(db, file(frame, "f.csv"), "trades")
    assert db.tables() == []


def test_symbol_that_no_symbol_can_hold_and_time_before_1970_are_refused(db: QuestDB, file: Any) -> None:
    with pytest.raises(LoadRefused, match=r"rows 0 to 5: column market_id \(SYMBOL\).*no NUL"):
        load_file(db, file(_trades(5).assign(market_id="a\0b")), "trades")
    with pytest.raises(LoadRefused, match=r"column timestamp .*not lie before 1970"):
        load_file(db, file(_trades(5).assign(timestamp=pd.Timestamp("1969-12-31", tz="UTC"))), "trades")
    assert db.tables() == []


def test_bars_are_refused_by_name(db: QuestDB, file: Any) -> None:
    bars = pd.DataFrame(
        {"timestamp": [], "market_id": [], "Open": [], "High": [], "Low": [], "Close": [], "volume": []}
    )
    for table in ("trades", "orderbook_snapshots", "markets"):
        with pytest.raises(LoadRefused, match=r"holds bars \(Close, High, Low, Open\), not single trades"):
            load_file(db, file(bars), table)


def test_what_is_no_file_of_ours_is_refused(db: QuestDB, tmp_path: Path) -> None:
    with pytest.raises(LoadRefused, match="cannot be read: No such file"):
        load_file(db, tmp_path / "nothere.parquet", "trades")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(LoadRefused, match=r"x\.parquet is broken Parquet"):
        load_file(db, tmp_path / "x.parquet", "trades")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(LoadRefused, match=r"x\.json must be Parquet or CSV"):
        load_file(db, tmp_path / "x.json", "trades")
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(LoadRefused, match=r"x\.csv is no CSV with a head line"):
        load_file(db, tmp_path / "x.csv", "trades")
    (tmp_path / "y.csv").write_text("timestamp,price\n2024-01-01,1,2\n")
    with pytest.raises(LoadRefused, match=r"y\.csv"):
        load_file(db, tmp_path / "y.csv", "trades")
    (tmp_path / "z.csv").write_text("price,price\n1,2\n")
    with pytest.raises(LoadRefused, match="two columns of one name"):
        load_file(db, tmp_path / "z.csv", "trades")


@pytest.mark.parametrize(
    ("keys", "said"), [("", "none"), (" DEDUP UPSERT KEYS(timestamp, trade_id)", "timestamp, trade_id")]
)
def test_table_with_other_keys_is_refused_and_its_remedy_works(db: QuestDB, file: Any, keys: str, said: str) -> None:
    db.execute(schema.TRADES.ddl().partition(" DEDUP")[0] + keys)
    path = file(_trades())
    with pytest.raises(LoadRefused, match=rf"its dedup keys are \({said}\), expected \(timestamp, market_id") as caught:
        load_file(db, path, "trades")
    assert db.rows("SELECT count() FROM trades") == [(0,)]
    db.execute(str(caught.value).rpartition("run ")[2])
    db.wait("trades")
    assert load_file(db, path, "trades").rows_new == 100


def test_table_of_other_types_is_refused_with_every_difference(db: QuestDB, file: Any) -> None:
    db.execute(
        "CREATE TABLE trades (timestamp TIMESTAMP, market_id LONG, token_id SYMBOL, trade_id SYMBOL, price DOUBLE) "
        "TIMESTAMP(timestamp) PARTITION BY DAY WAL DEDUP UPSERT KEYS(timestamp, market_id, token_id, trade_id)"
    )
    with pytest.raises(LoadRefused) as caught:
        load_file(db, file(_trades()), "trades")
    for part in ("market_id is LONG, expected SYMBOL or", "side is missing", "size is missing"):
        assert part in str(caught.value)


# --- tables as others made them -----------------------------------------------------------------------------


def test_table_of_other_names_and_types_takes_the_same_file(db: QuestDB, file: Any) -> None:
    db.execute(
        "CREATE TABLE tape (ts TIMESTAMP_NS, mkt VARCHAR, tok SYMBOL, side VARCHAR, id LONG, price DOUBLE, qty LONG) "
        "TIMESTAMP(ts) PARTITION BY HOUR WAL DEDUP UPSERT KEYS(ts, mkt, tok, id)"
    )
    names = {"timestamp": "ts", "market_id": "mkt", "token_id": "tok", "trade_id": "id", "size": "qty"}
    tables = SourceTables(trades=SourceTableName(table="tape", columns=names))
    frame = _trades(5)
    frame["timestamp"] = frame["timestamp"].dt.as_unit("ns") + pd.to_timedelta(range(5), unit="ns")
    frame["trade_id"] = np.arange(5) + 2**60
    frame["size"] = [1.0, 2.0, 3.0, 4.0, np.nan]
    for renamed, new in ((frame, 5), (frame.rename(columns=names), 0)):
        report = load_file(db, file(renamed), "trades", source_tables=tables)
        assert (report.table, report.rows_new) == ("tape", new)
    assert report.ignored == ("value", "is_buyer_maker")
    read = db.query("SELECT * FROM tape ORDER BY ts").to_pandas()
    assert read["ts"].tolist() == frame["timestamp"].tolist()
    assert db.rows("SELECT id, qty FROM tape ORDER BY ts") == [(2**60 + i, i + 1 if i < 4 else None) for i in range(5)]
    with pytest.raises(LoadRefused, match=r"column trade_id, expected text for LONG.*'t4'"):
        load_file(db, file(_trades(5)), "trades", source_tables=tables)


def test_missing_table_is_created_under_its_configured_names(db: QuestDB, file: Any) -> None:
    tables = SourceTables(trades=SourceTableName(table="tape", columns={"timestamp": "ts", "trade_id": "id"}))
    assert load_file(db, file(_trades()), "trades", source_tables=tables).created
    assert db.describe("tape").keys == {"ts", "market_id", "token_id", "id"}


def test_levels_become_arrays_where_the_table_has_arrays(db: QuestDB, file: Any) -> None:
    db.execute(schema.ORDERBOOK_SNAPSHOTS.ddl().replace("bid_prices VARCHAR", "bid_prices DOUBLE[]"))
    book = pd.DataFrame({"timestamp": pd.date_range("2024", periods=2, tz="UTC"), "market_id": "m", "token_id": "t"})
    load_file(db, file(book.assign(best_bid=1.0, best_ask=2.0, bid_prices=["[1, 0.5]", None])), "orderbook_snapshots")
    assert db.rows("SELECT bid_prices FROM orderbook_snapshots") == [([1.0, 0.5],), (None,)]


# --- reference data -----------------------------------------------------------------------------------------


def test_reference_data_are_stamped_only_where_they_changed(db: QuestDB, file: Any) -> None:
    assert load_file(db, file(_markets()), "markets").rows_new == 3
    assert load_file(db, file(_markets(), "f.csv"), "markets").rows_new == 0

    changed = _markets()
    changed.loc[1, "tick_size"] = 0.02
    report = load_file(db, file(changed), "markets")
    assert (report.rows_in_file, report.rows_new, report.rows_known) == (3, 1, 2)
    newest = db.rows(
        "SELECT market_id, token_id, tick_size FROM markets LATEST ON updated_at PARTITION BY market_id, token_id"
    )
    assert sorted(newest, key=str) == [("a", None, 0.01), ("b", "no", 0.001), ("b", "yes", 0.02)]

    assert load_file(db, file(_markets()), "markets").rows_new == 1  # and back again
    assert load_file(db, file(_markets()), "markets").rows_new == 0


def test_reference_data_with_their_own_stamps_keep_them(db: QuestDB, file: Any) -> None:
    frame = _markets().assign(updated_at=pd.to_datetime(["2024-01-01"] * 2 + ["2099-01-01"], utc=True))
    for new in (3, 0):
        report = load_file(db, file(frame), "markets")
        assert (report.rows_new, report.rows_future) == (new, 1)


def test_of_two_lines_on_one_market_the_last_counts(db: QuestDB, file: Any) -> None:
    frame = pd.concat([_markets()[1:2], _markets()[1:2].assign(kind="price")])
    assert load_file(db, file(frame), "markets").rows_new == 1
    assert db.rows("SELECT kind FROM markets") == [("price",)]


# --- the recorded sets --------------------------------------------------------------------------------------

RECORDED = {
    ("binance_l2_2024", "trades"): 25_139,
    ("binance_l2_2024", "orderbook_snapshots"): 1_299,
    ("coinbase_1m_2018", "orderbook_snapshots"): 11_504,
    ("polymarket_fed_2026", "trades"): 4_000,
    ("polymarket_us_quotes_2026", "orderbook_snapshots"): 782_040,
    ("us_equity_2013", "trades"): 779_957,
    ("us_equity_2013", "orderbook_snapshots"): 199_194,
}


@pytest.mark.recorded
@pytest.mark.parametrize(("name", "table"), RECORDED, ids=["-".join(key) for key in RECORDED])
def test_recorded_set_loads_whole_and_once(db: QuestDB, recorded_data: Path, name: str, table: Any) -> None:
    path = recorded_data / name / f"{table}.parquet"
    rows = RECORDED[name, table]
    first = load_file(db, path, table)
    assert (first.rows_in_file, first.rows_new, first.rows_future, first.ignored) == (rows, rows, 0, ())
    assert load_file(db, path, table).rows_new == 0

    columns = schema.SOURCE_TABLES[table].names
    read = db.query(f"SELECT {', '.join(columns)} FROM {table}")
    recorded = pq.read_table(path).select(columns)
    if "is_buyer_maker" in columns:  # QuestDB has no null flag
        i = columns.index("is_buyer_maker")
        recorded = recorded.set_column(i, "is_buyer_maker", recorded["is_buyer_maker"].fill_null(False))
    recorded = recorded.set_column(0, "timestamp", recorded["timestamp"].cast(pa.timestamp("us", "UTC")))
    order = [("timestamp", "ascending"), ("market_id", "ascending"), ("token_id", "ascending")]
    order += [("trade_id", "ascending")] if table == "trades" else []
    read = read.cast(pa.schema([(f.name, f.type) for f in recorded.schema]))
    nan_free = [_without_nan(part.sort_by(order)) for part in (read, recorded)]
    assert nan_free[0].equals(nan_free[1])


def _without_nan(table: pa.Table) -> pa.Table:
    """NaN as null: the server has one of the two."""
    frame = {name: table[name].to_pandas() for name in table.column_names}
    return pa.Table.from_pandas(pd.DataFrame(frame), preserve_index=False)


@pytest.mark.recorded
@pytest.mark.parametrize("bars", ["coinbase_1m_2018/bars_1m.parquet", "us_equity_daily/daily_bars.parquet"])
def test_recorded_bars_are_refused_by_name(db: QuestDB, recorded_data: Path, bars: str) -> None:
    with pytest.raises(LoadRefused, match=r"holds bars \(close, high, low, open\)"):
        load_file(db, recorded_data / bars, "trades")
