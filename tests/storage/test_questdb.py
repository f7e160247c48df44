"""Writing to and reading from a real QuestDB."""

from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from any_rows import arrays, rows_of_every_type, stamps
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from tributary_opt import schema
from tributary_opt.settings import QuestDBServer, Settings
from tributary_opt.storage import embedded
from tributary_opt.storage.migration import migrate
from tributary_opt.storage.questdb import AccessRefused, QuestDB, QuestDBQueryError, ServerUnavailable, TableSuspended
from tributary_opt.storage.shapes import SchemaMismatch
from tributary_opt.storage.sql import identifier, quote, timestamp_literal

pytestmark = pytest.mark.questdb

AWKWARD = [
    "plain",
    "it's",
    "'",
    "''",
    "a;b",
    "back\\slash",
    '"double"',
    "new\nline",
    "tab\t",
    "%s %d %",
    "$1",
    "-- no comment",
    "/* nor this */",
    "žluťoučký 🦆 ‮",
    "a=b,c d",
    "",
    "x" * 5_000,
    "'; DROP TABLE ids; --",
]


def _stored(table: schema.Table, frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, schema=table.arrow_schema(), preserve_index=False)


@pytest.fixture
def ids(db: QuestDB) -> QuestDB:
    columns = "ts TIMESTAMP, s SYMBOL, v VARCHAR"
    db.execute(f"CREATE TABLE ids ({columns}) TIMESTAMP(ts) PARTITION BY DAY WAL DEDUP UPSERT KEYS(ts, s)")
    return db


# --- what is written is what is read ------------------------------------------------------------------------


@pytest.mark.parametrize("name", schema.TABLES)
def test_rows_of_every_table_come_back_bit_for_bit(db: QuestDB, name: str) -> None:
    table = schema.TABLES[name]
    frame = rows_of_every_type(table, 200)
    db.create(table)
    assert db.send(table, frame) == 200
    db.wait(name)

    read = db.query(f"SELECT * FROM {name}")

    assert [(f.name, f.type) for f in read.schema] == [(f.name, f.type) for f in table.arrow_schema()]
    assert read.cast(table.arrow_schema()).sort_by(table.timestamp).equals(_stored(table, frame))


def test_same_frame_again_leaves_the_same_rows(db: QuestDB) -> None:
    db.create(schema.TRAJECTORIES)
    for _ in range(3):
        db.send(schema.TRAJECTORIES, rows_of_every_type(schema.TRAJECTORIES, 50))
    db.wait("ac_trajectories")
    assert db.rows("SELECT count() FROM ac_trajectories") == [(50,)]


def test_query_too_long_for_a_url_gives_the_same_table(db: QuestDB) -> None:
    db.create(schema.TRAJECTORIES)
    db.send(schema.TRAJECTORIES, rows_of_every_type(schema.TRAJECTORIES, 50))
    db.wait("ac_trajectories")
    short = "SELECT * FROM ac_trajectories WHERE run_id != 'x' ORDER BY as_of"
    for padding in (20_000, 40_000):  # one just below the limit, one above
        long = short.replace("'x'", quote("x" * padding))
        assert (
            db.query(long)
            .cast(schema.TRAJECTORIES.arrow_schema())
            .equals(db.query(short).cast(schema.TRAJECTORIES.arrow_schema()))
        )
    nothing = short.replace("ORDER BY", f"AND run_id = {quote('y' * 40_000)} ORDER BY")
    assert db.query(nothing).cast(schema.TRAJECTORIES.arrow_schema()).num_rows == 0


def test_export_keeps_texts_without_nulls_over_days_and_the_order(db: QuestDB) -> None:
    # 9.3.4 by itself gives nulls for such a column of one day, an unreadable file for several, and loses DESC.
    for days in (1, 3):
        db.execute("DROP TABLE IF EXISTS t")
        db.execute("CREATE TABLE t (ts TIMESTAMP, v VARCHAR) TIMESTAMP(ts) PARTITION BY DAY WAL DEDUP UPSERT KEYS(ts)")
        frame = pd.DataFrame({"ts": stamps(24 * days)})
        frame["v"] = [f"text {i % 5}" for i in range(len(frame))]
        db.send("t", frame)
        db.wait("t")
        assert db.query("SELECT v FROM t")["v"].to_pylist() == list(frame["v"])
        assert db.query("SELECT * FROM t ORDER BY ts DESC;")["v"].to_pylist() == list(frame["v"])[::-1]
        assert db.query("SELECT v FROM t LIMIT -2 -- the last")["v"].to_pylist() == list(frame["v"])[-2:]


def test_columns_that_are_null_throughout_and_empty_frames_pass(db: QuestDB) -> None:
    db.create(schema.RUNS)
    frame = rows_of_every_type(schema.RUNS, 3)
    for column in schema.RUNS.columns:
        if column.name not in schema.RUNS.keys:
            frame[column.name] = frame[column.name].where(np.zeros(3, bool))
    frame["state"] = pd.Categorical([None] * 3)  # whose categories are no texts
    assert db.send(schema.RUNS, frame) == 3
    assert db.send(schema.RUNS, frame[:0]) == 0
    db.wait("ac_runs")
    assert db.rows("SELECT state, n_markets, error FROM ac_runs") == [(None, None, None)] * 3


def test_times_read_over_postgres_are_aware_and_binds_are_instants(db: QuestDB) -> None:
    db.execute("CREATE TABLE t (ts TIMESTAMP, ns TIMESTAMP_NS) TIMESTAMP(ts) PARTITION BY DAY WAL")
    noon = datetime(2024, 6, 1, 12, 0, 0, 1, tzinfo=UTC)
    db.execute("INSERT INTO t VALUES (%s, %s)", (noon, noon))
    db.wait("t")
    elsewhere = noon.astimezone(timezone(timedelta(hours=9)))
    assert db.rows("SELECT ts, ns FROM t WHERE ts = %s AND ns = %s", (elsewhere, elsewhere)) == [(noon, noon)]
    assert db.rows(f"SELECT ts FROM t WHERE ts = {timestamp_literal(elsewhere)}") == [(noon,)]
    assert db.query(f"SELECT ns FROM t WHERE ns = {timestamp_literal(elsewhere)}")["ns"].type == pa.timestamp(
        "ns", "UTC"
    )


def test_nanoseconds_survive_writing_and_comparison(db: QuestDB) -> None:
    db.execute("CREATE TABLE t (ts TIMESTAMP_NS, x LONG) TIMESTAMP(ts) PARTITION BY DAY WAL DEDUP UPSERT KEYS(ts)")
    stamps = pd.DatetimeIndex(["2024-01-01T00:00:00.000000001", "2024-01-01T00:00:00.000000002"], tz="UTC")
    db.send("t", pd.DataFrame({"ts": stamps, "x": [1, 2]}))
    db.wait("t")
    assert db.query("SELECT ts FROM t")["ts"].to_pandas().tolist() == list(stamps)
    assert db.rows(f"SELECT x FROM t WHERE ts > {timestamp_literal(stamps[0])}") == [(2,)]
    assert db.rows(f"SELECT x FROM t WHERE ts = {timestamp_literal(stamps[0].to_datetime64())}") == [(1,)]


# --- texts --------------------------------------------------------------------------------------------------


def test_awkward_ids_pass_every_door(ids: QuestDB) -> None:
    frame = pd.DataFrame({"ts": [stamps(1)[0]] * len(AWKWARD), "s": pd.Categorical(AWKWARD), "v": AWKWARD})
    ids.send("ids", frame)
    ids.wait("ids")
    assert sorted(ids.query("SELECT s FROM ids")["s"].to_pylist()) == sorted(AWKWARD)
    for text in AWKWARD:
        assert ids.rows("SELECT s, v FROM ids WHERE s = %s AND v = %s", (text, text)) == [(text, text)]
        assert ids.rows(f"SELECT s FROM ids WHERE s = {quote(text)}") == [(text,)]
        over_http = ids.query(f"SELECT s, v FROM ids WHERE s = {quote(text)} AND v = {quote(text)}")
        assert over_http.to_pylist() == [{"s": text, "v": text}]
    assert ids.tables() == ["ids"]


def test_nul_passes_in_texts_over_http_and_is_refused_elsewhere(ids: QuestDB) -> None:
    nul = "x\0y"
    frame = pd.DataFrame({"ts": stamps(1), "s": pd.Categorical(["s"]), "v": [nul]})
    ids.send("ids", frame)
    ids.wait("ids")
    assert ids.query(f"SELECT v FROM ids WHERE v = {quote(nul)}")["v"].to_pylist() == [nul]
    assert ids.query("SELECT v FROM ids")["v"].to_pylist() == [nul]
    assert ids.rows("SELECT v FROM ids") == [(nul,)]
    with pytest.raises(ValueError, match=r"value 1 of SELECT .* holds NUL"):
        ids.rows("SELECT v FROM ids WHERE v = %s", (nul,))
    with pytest.raises(ValueError, match="NUL does not pass PostgreSQL's wire"):
        ids.rows(f"SELECT v FROM ids WHERE v = {quote(nul)}")
    with pytest.raises(ValueError, match=r"column s \(SYMBOL\) .* must hold no NUL"):
        ids.send("ids", frame.assign(s=pd.Categorical([nul])))


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_quoted_text_is_the_text(questdb_server: QuestDBServer, text: str) -> None:
    with QuestDB(questdb_server) as db:
        assert db.query(f"SELECT {quote(text)}::STRING AS v FROM long_sequence(1)").to_pylist() == [{"v": text}]


def test_quote_and_literals_refuse_what_they_cannot_write() -> None:
    with pytest.raises(TypeError, match="must be a str, got int"):
        quote(1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="valid unicode"):
        quote("\ud800")
    with pytest.raises(ValueError, match="must have a zone"):
        timestamp_literal(datetime(2024, 1, 1))
    for nat in (pd.NaT, np.datetime64("NaT")):
        with pytest.raises(ValueError, match=r"NaT|zone"):
            timestamp_literal(nat)  # type: ignore[arg-type]
    assert timestamp_literal(datetime(2024, 1, 1, tzinfo=UTC)) == "'2024-01-01T00:00:00.000000Z'"
    assert timestamp_literal(np.datetime64("2024-01-01T00:00:00.000000001")) == "'2024-01-01T00:00:00.000000001Z'"
    assert identifier("price", ["price", "size"]) == '"price"'
    for name in ("Price", 'p"', "price; DROP TABLE x"):
        with pytest.raises(ValueError, match="no column or table"):
            identifier(name, ["price", "size"])


# --- bad frames ---------------------------------------------------------------------------------------------


def _surrogates() -> pd.Categorical:
    return pd.Categorical.from_codes([0, 0, 0], categories=pd.Index(["\ud800"], dtype=object))


BAD: list[tuple[str, Callable[[pd.DataFrame], pd.DataFrame], str]] = [
    ("missing", lambda f: f.drop(columns="horizon"), r"missing=\['horizon'\]"),
    ("unknown", lambda f: f.assign(extra=1.0), r"unknown=\['extra'\]"),
    ("twice", lambda f: pd.concat([f, f[["kappa"]]], axis=1), "must be distinct"),
    ("plus-inf", lambda f: f.assign(kappa=[1.0, np.inf, 1.0]), r"kappa \(DOUBLE\).*hold no infinity, does in row 1"),
    ("minus-inf", lambda f: f.assign(kappa=[-np.inf, 1.0, 1.0]), r"kappa .*no infinity, does in row 0"),
    ("text-in-double", lambda f: f.assign(kappa=["1", "2", "3"]), r"kappa \(DOUBLE\).*be float64, is str"),
    ("int-in-double", lambda f: f.assign(kappa=[1, 2, 3]), r"kappa .*be float64, is int64"),
    ("float-in-int", lambda f: f.assign(n_steps=[1.0, 2.0, np.nan]), r"n_steps \(INT\).*integer type.*is float64"),
    ("too-large", lambda f: f.assign(n_steps=[1, 2, 2**31]), r"n_steps .*within ±2147483647"),
    ("null-of-int", lambda f: f.assign(n_steps=[1, 2, -(2**31)]), r"n_steps .*within ±2147483647"),
    ("text-as-symbol", lambda f: f.assign(strategy=["a", "b", "c"]), r"strategy \(SYMBOL\).*Categorical, is str"),
    ("number-as-symbol", lambda f: f.assign(strategy=pd.Categorical([1, 2, 3])), r"strategy .*hold texts, holds 1"),
    ("surrogate", lambda f: f.assign(strategy=_surrogates()), r"strategy .*valid unicode"),
    ("nat", lambda f: f.assign(as_of=f["as_of"].where([True, False, True])), r"as_of .*no NaT.*row 1"),
    ("naive", lambda f: f.assign(as_of=f["as_of"].dt.tz_localize(None)), r"as_of \(TIMESTAMP\).*datetime64\[us, UTC\]"),
    ("zone", lambda f: f.assign(as_of=f["as_of"].dt.tz_convert("Asia/Tokyo")), r"as_of .*Asia/Tokyo"),
    ("seconds", lambda f: f.assign(as_of=f["as_of"].dt.as_unit("s")), r"as_of .*datetime64\[s, UTC\]"),
    ("before-1970", lambda f: f.assign(as_of=f["as_of"] - pd.Timedelta(days=40_000)), r"as_of .*not lie before 1970"),
    ("inf-in-array", lambda f: f.assign(remaining=arrays(np.ones(2), np.array([1, -np.inf]), None)), r"array .*row 1"),
    ("list", lambda f: f.assign(remaining=arrays([1.0], None, None)), r"remaining .*row 0: list"),
    ("float32", lambda f: f.assign(remaining=arrays(None, np.ones(2, "f4"), None)), r"row 1: 1-d float32"),
    ("2-d", lambda f: f.assign(remaining=arrays(None, None, np.ones((2, 2)))), r"row 2: 2-d float64"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_frame_is_refused_before_it_is_sent(
    db: QuestDB, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    db.create(schema.TRAJECTORIES)
    with pytest.raises(ValueError, match=message):
        db.send(schema.TRAJECTORIES, change(rows_of_every_type(schema.TRAJECTORIES, 3)))
    db.wait("ac_trajectories")
    assert db.rows("SELECT count() FROM ac_trajectories") == [(0,)]


def test_table_on_the_server_takes_a_part_of_its_columns_but_never_without_keys(db: QuestDB) -> None:
    db.execute(schema.TRADES.ddl())
    trade = pd.DataFrame({"timestamp": stamps(1), "price": [1.0], "is_buyer_maker": [True]})
    for key in ("market_id", "token_id"):
        trade[key] = pd.Categorical(["m"])
    with pytest.raises(ValueError, match=r"missing=\['trade_id'\]"):
        db.send("trades", trade)
    db.send("trades", trade.assign(trade_id="1"))
    two = pd.concat([trade, trade]).assign(trade_id="1", is_buyer_maker=pd.array([True, None], dtype="boolean"))
    with pytest.raises(ValueError, match=r"BOOLEAN.*no null"):
        db.send("trades", two)
    db.wait("trades")
    assert db.rows("SELECT price, size, is_buyer_maker FROM trades") == [(1.0, None, True)]
    with pytest.raises(SchemaMismatch, match="no table nothere"):
        db.send("nothere", trade)


def test_rows_that_the_server_refuses_are_an_error_with_its_words(db: QuestDB) -> None:
    db.execute("CREATE TABLE ac_runs (as_of TIMESTAMP, run_id SYMBOL) TIMESTAMP(as_of) PARTITION BY YEAR WAL")
    with pytest.raises(QuestDBQueryError, match=r"refused rows for ac_runs.*does not exist, creating new columns"):
        db.send(schema.RUNS, rows_of_every_type(schema.RUNS, 1))


# --- errors -------------------------------------------------------------------------------------------------


def test_refused_statement_shows_words_place_and_sql(db: QuestDB) -> None:
    for ask in (db.query, db.rows):
        with pytest.raises(
            QuestDBQueryError, match=r"table does not exist \[table=nothere\] at 16 in: SELECT"
        ) as caught:
            ask("SELECT *\nFROM  nothere")
        assert caught.value.position == 16
    with pytest.raises(QuestDBQueryError, match=r"in: SELECT 1 FROM .{180,} …$"):
        db.rows(f"SELECT 1 FROM {'x' * 10_000}")
    with pytest.raises(QuestDBQueryError):
        db.query("SELECT 1 FROM long_sequence(1); DROP TABLE x")
    with pytest.raises(QuestDBQueryError, match="cannot adapt type 'ndarray'"):
        db.rows("SELECT %s", (np.arange(2),))
    assert db.rows("SELECT %s + %s, %s", (1, np.int64(2), None)) == [(3, None)]
    assert db.rows("SELECT '100 %'") == [("100 %",)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_server_that_is_down_is_unavailable_at_once() -> None:
    with QuestDB(QuestDBServer(http_port=_free_port(), pg_port=_free_port())) as db:
        for call in (
            lambda: db.query("SELECT 1"),
            lambda: db.rows("SELECT 1"),
            lambda: db.execute("SELECT 1"),
            lambda: db.send(schema.RUNS, rows_of_every_type(schema.RUNS, 1)),
            lambda: db.version(),
        ):
            begin = time.monotonic()
            with pytest.raises(ServerUnavailable):
                call()
            assert time.monotonic() - begin < 3


def test_server_that_says_nothing_is_unavailable_after_the_time_out() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        port = mute.getsockname()[1]
        with QuestDB(QuestDBServer(http_port=port, pg_port=port, connect_timeout_s=1, query_timeout_s=1)) as db:
            for call in (lambda: db.query("SELECT 1"), lambda: db.rows("SELECT 1")):
                begin = time.monotonic()
                with pytest.raises(ServerUnavailable):
                    call()
                assert time.monotonic() - begin < 20


def test_slow_query_is_aborted_after_its_time(questdb_server: QuestDBServer) -> None:
    slow = "SELECT count() FROM long_sequence(1000000) a CROSS JOIN long_sequence(1000000) b WHERE a.x = b.x + 3"
    with QuestDB(questdb_server.model_copy(update={"query_timeout_s": 1.0})) as db:
        for ask in (db.query, db.rows):
            with pytest.raises(QuestDBQueryError, match="timeout"):
                ask(slow)


def test_more_exports_than_the_server_has_places_wait_their_turn(db: QuestDB) -> None:
    sql = "SELECT x, rnd_double() d, rnd_str(5, 9, 0) s FROM long_sequence(200000)"
    with ThreadPoolExecutor(16) as pool:
        assert {t.num_rows for t in pool.map(lambda _: db.query(sql), range(32))} == {200_000}


def test_threads_share_one_object(db: QuestDB) -> None:
    db.create(schema.RUNS)

    def work(i: int) -> None:
        frame = rows_of_every_type(schema.RUNS, 5).assign(run_id=pd.Categorical([f"run {i}"] * 5))
        db.send(schema.RUNS, frame)
        db.wait("ac_runs")
        assert db.rows("SELECT count() FROM ac_runs WHERE run_id = %s", (f"run {i}",)) == [(5,)]
        assert db.query(f"SELECT * FROM ac_runs WHERE run_id = {quote(f'run {i}')}").num_rows == 5

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))


def test_connection_that_broke_at_rest_is_replaced(db: QuestDB) -> None:
    db.rows("SELECT 1")
    db._pg.resting[0][0].pgconn.finish()
    assert db.rows("SELECT 1") == [(1,)]


# --- lost answers -------------------------------------------------------------------------------------------


@contextmanager
def _proxy(target: int, swallow: int) -> Iterator[tuple[int, list[int]]]:
    """A loopback proxy that swallows the answers to the first `swallow` writes, and closes instead."""
    writes: list[int] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with closing(client), closing(socket.create_connection(("127.0.0.1", target))) as server:
            swallowing = threading.Event()

            def answers() -> None:
                while data := server.recv(65536):
                    if swallowing.is_set():
                        client.shutdown(socket.SHUT_RDWR)
                        return
                    client.sendall(data)

            back = threading.Thread(target=answers, daemon=True)
            back.start()
            while data := client.recv(65536):
                if b"POST /write" in data:
                    writes.append(len(writes))
                    if len(writes) <= swallow:
                        swallowing.set()
                server.sendall(data)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield listener.getsockname()[1], writes


def test_lost_answers_do_not_double_rows(db: QuestDB) -> None:
    db.create(schema.RUNS)
    with (
        _proxy(db.server.http_port, swallow=2) as (port, writes),
        QuestDB(db.server.model_copy(update={"http_port": port})) as behind,
    ):
        behind.send(schema.RUNS, rows_of_every_type(schema.RUNS, 100))
        assert len(writes) == 3
    db.wait("ac_runs")
    assert db.rows("SELECT count() FROM ac_runs") == [(100,)]


def test_lost_answer_is_not_repeated_where_it_could_double(db: QuestDB) -> None:
    db.execute("CREATE TABLE t (ts TIMESTAMP, x LONG) TIMESTAMP(ts) PARTITION BY DAY WAL")
    with (
        _proxy(db.server.http_port, swallow=1) as (port, writes),
        QuestDB(db.server.model_copy(update={"http_port": port})) as behind,
    ):
        with pytest.raises(ServerUnavailable):
            behind.send("t", pd.DataFrame({"ts": stamps(10), "x": range(10)}))
        assert len(writes) == 1
    db.wait("t")
    assert db.rows("SELECT count() FROM t") == [(10,)]  # they had arrived


# --- suspended tables ---------------------------------------------------------------------------------------


def test_rows_go_into_the_table_of_the_moment_when_one_was_dropped_and_made_again(db: QuestDB) -> None:
    # A kept connection would write them into the dropped one, and the server would acknowledge that.
    for _ in range(3):
        db.create(schema.RUNS)
        db.send(schema.RUNS, rows_of_every_type(schema.RUNS, 10))
        db.wait("ac_runs")
        assert db.rows("SELECT count() FROM ac_runs") == [(10,)]
        assert db.query("SELECT * FROM ac_runs").num_rows == 10
        db.execute("DROP TABLE ac_runs")


def test_suspended_table_is_named_with_its_remedy_and_the_remedy_works(db: QuestDB) -> None:
    db.create(schema.RUNS)
    db.execute("ALTER TABLE ac_runs SUSPEND WAL")
    db.send(schema.RUNS, rows_of_every_type(schema.RUNS, 5))
    with pytest.raises(TableSuspended, match="ac_runs is suspended") as caught:
        db.wait("ac_runs")
    db.execute(str(caught.value).rpartition("run: ")[2])
    db.wait("ac_runs")
    assert db.rows("SELECT count() FROM ac_runs") == [(5,)]


def test_waiting_for_a_table_that_is_not_there_says_so(db: QuestDB) -> None:
    with pytest.raises(SchemaMismatch, match="no table nothere"):
        db.wait("nothere")


# --- credentials --------------------------------------------------------------------------------------------

PASSWORD = "s;e=c'r\"e t;;"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuestDBServer]:
    settings = Settings(home=tmp_path_factory.mktemp("locked"), embedded_memory_mb=256, _env_file=None)
    secrets = {
        "QDB_HTTP_USER": "us;er",
        "QDB_HTTP_PASSWORD": PASSWORD,
        "QDB_PG_USER": "us;er",
        "QDB_PG_PASSWORD": PASSWORD,
    }
    running = embedded.start(settings, secrets)
    try:
        yield running.server
    finally:
        running.stop()


def test_user_and_password_open_every_door(locked: QuestDBServer) -> None:
    for server in (
        locked,
        QuestDBServer(http_port=locked.http_port, pg_port=locked.pg_port, user="us;er", password=SecretStr(PASSWORD)),
    ):
        with QuestDB(server) as db:
            migrate(db)
            db.send(schema.RUNS, rows_of_every_type(schema.RUNS, 3))
            db.wait("ac_runs")
            assert db.query("SELECT * FROM ac_runs").num_rows == 3


def test_wrong_credentials_are_refused_and_never_shown(
    locked: QuestDBServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    wrong = "wr;ong-s3cret"
    server = locked.model_copy(update={"password": SecretStr(wrong), "pg_password": SecretStr(wrong)})
    token = locked.model_copy(update={"token": SecretStr(wrong)})
    said = [repr(QuestDB(server)), repr(server), caplog.text]
    with QuestDB(server) as db, QuestDB(token) as bearer:
        for call in (
            lambda: db.query("SELECT 1"),
            lambda: db.rows("SELECT 1"),
            lambda: db.send(schema.RUNS, rows_of_every_type(schema.RUNS, 1)),
            lambda: bearer.query("SELECT 1"),
            lambda: bearer.send(schema.RUNS, rows_of_every_type(schema.RUNS, 1)),
        ):
            with pytest.raises(AccessRefused, match="refused the credentials") as caught:
                call()
            said.append("".join(traceback.format_exception(caught.value)))
    said.append(caplog.text)
    assert not any(wrong in text or PASSWORD in text for text in said)
