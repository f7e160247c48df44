"""What `check` sees, and that each failure names a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from pydantic import SecretStr

from tributary_opt import schema
from tributary_opt.settings import QuestDBServer, Settings, SourceTableName, SourceTables
from tributary_opt.storage import embedded
from tributary_opt.storage.check import Finding, check
from tributary_opt.storage.migration import migrate
from tributary_opt.storage.questdb import QuestDB, QuestDBQueryError

pytestmark = pytest.mark.questdb


@pytest.fixture
def settings(tmp_path: Path, questdb_server: QuestDBServer) -> Settings:
    return Settings(home=tmp_path, questdb=questdb_server, _env_file=None)


def _fill(db: QuestDB, stamps: pd.DatetimeIndex) -> None:
    ids = {"market_id": pd.Categorical(["m"] * len(stamps)), "token_id": pd.Categorical(["t"] * len(stamps))}
    stamped = pd.DataFrame({"timestamp": stamps.as_unit("us"), **ids})
    for table in (schema.TRADES, schema.ORDERBOOK_SNAPSHOTS):
        db.execute(table.ddl())
        frame = stamped.assign(trade_id=[str(i) for i in range(len(stamps))]) if table is schema.TRADES else stamped
        db.send(table.name, frame.assign(**{"price" if table is schema.TRADES else "best_bid": 0.5}))
        db.wait(table.name)


def _now(n: int = 3) -> pd.DatetimeIndex:
    return pd.date_range(end=pd.Timestamp.now("UTC").floor("s"), periods=n, freq="min")


def _not_ok(findings: list[Finding]) -> list[Finding]:
    found = [finding for finding in findings if finding.status != "ok"]
    assert all(finding.remedy for finding in found)
    return found


def test_everything_in_order_is_ok_and_nothing_is_left_behind(db: QuestDB, settings: Settings) -> None:
    _fill(db, _now())
    findings = check(settings)
    assert _not_ok(findings) == []
    assert {f.name: f.seen for f in findings}["our tables"].startswith(
        "the next night will create table ac_market_days"
    )
    assert db.tables() == ["orderbook_snapshots", "trades"]
    assert db.rows("SELECT count() FROM views()") == [(0,)]
    migrate(db)
    assert {f.name: f.seen for f in check(settings)}["our tables"] == f"fit schema version {schema.SCHEMA_VERSION}"


def _one(findings: list[Finding], name: str) -> Finding:
    (found,) = [finding for finding in _not_ok(findings) if finding.name == name]
    return found


def test_missing_source_tables_are_named(db: QuestDB, settings: Settings) -> None:
    tables = SourceTables(trades=SourceTableName(table="tape"))
    findings = check(settings.model_copy(update={"source_tables": tables}))
    assert [f.name for f in _not_ok(findings)] == ["table tape", "table orderbook_snapshots"]
    remedy = _one(findings, "table tape").remedy
    assert "tributary-opt load FILE --table trades" in remedy
    assert "TRIBUTARY_SOURCE_TABLES__TRADES__TABLE" in remedy


def test_wrong_columns_types_and_timestamp_are_all_named(db: QuestDB, settings: Settings) -> None:
    _fill(db, _now())
    db.execute("DROP TABLE trades")
    db.execute(
        "CREATE TABLE trades (timestamp TIMESTAMP, received TIMESTAMP, market_id LONG, side SYMBOL, trade_id SYMBOL, "
        "price DOUBLE, size DOUBLE) TIMESTAMP(received) PARTITION BY DAY WAL"
    )
    found = _one(check(settings), "table trades")
    assert found.status == "failed"
    assert found.seen == "market_id is LONG; no column token_id; the designated timestamp is received"
    for part in (
        "make market_id SYMBOL",
        "add token_id",
        "TIMESTAMP(timestamp)",
        "TRIBUTARY_SOURCE_TABLES__TRADES__COLUMNS",
    ):
        assert part in found.remedy


def test_table_without_dedup_keys_is_a_warning_whose_remedy_works(db: QuestDB, settings: Settings) -> None:
    _fill(db, _now())
    db.execute("ALTER TABLE trades DEDUP DISABLE")
    db.wait("trades")
    found = _one(check(settings), "table trades: dedup keys")
    assert found.status == "warning"
    db.execute(found.remedy.removeprefix("run "))
    db.wait("trades")
    assert _not_ok(check(settings)) == []


@pytest.mark.parametrize(
    ("stamps", "table", "status", "seen"),
    [
        (pd.DatetimeIndex([], tz="UTC"), "trades", "failed", "empty"),
        (pd.DatetimeIndex([], tz="UTC"), "orderbook_snapshots", "warning", "empty"),
        (pd.DatetimeIndex(["2024-01-01"], tz="UTC"), "trades", "warning", "2024-01-01 00:00:00 UTC, days ago"),
    ],
    ids=["no-trades", "no-books", "old"],
)
def test_empty_and_stale_tables_are_told(
    db: QuestDB, settings: Settings, stamps: pd.DatetimeIndex, table: str, status: str, seen: str
) -> None:
    _fill(db, stamps)
    found = _one(check(settings), f"table {table}: newest row")
    assert found.status == status
    assert seen in found.seen


def test_rows_of_the_future_are_counted_and_not_the_newest(db: QuestDB, settings: Settings) -> None:
    _fill(db, _now().append(pd.DatetimeIndex(["2099-01-01"], tz="UTC")))
    findings = check(settings)
    assert _one(findings, "table trades: rows of the future").seen == "1 rows are stamped after now"
    assert "2099" not in {f.name: f.seen for f in findings}["table trades: newest row"]


def test_words_that_name_no_aggressor_are_told(db: QuestDB, settings: Settings) -> None:
    _fill(db, _now())
    assert {f.name: f.status for f in check(settings)}["table trades: sides"] == "ok"
    db.execute(
        "INSERT INTO trades (timestamp, market_id, token_id, side, trade_id, price, size) "
        "VALUES (now(), 'M', 'M', 'ASK', 'x', 1.0, 1.0)"
    )
    db.wait("trades")
    found = _one(check(settings), "table trades: sides")
    assert (found.status, found.seen) == ("warning", "'ASK' (1 trades) in the newest day")


def test_suspended_table_is_named_with_its_remedy(db: QuestDB, settings: Settings) -> None:
    _fill(db, _now())
    db.execute("ALTER TABLE trades SUSPEND WAL")
    try:
        found = _one(check(settings), "server: suspended table")
        assert (found.status, found.seen) == ("failed", "trades")
    finally:
        db.execute(found.remedy.rpartition("run ")[2])


def test_our_table_of_another_shape_is_refused_with_its_remedy(db: QuestDB, settings: Settings) -> None:
    _fill(db, _now())
    db.execute(schema.RUNS.ddl().partition(" DEDUP")[0])
    found = _one(check(settings), "our tables")
    assert "ALTER TABLE ac_runs DEDUP ENABLE UPSERT KEYS(as_of, run_id)" in found.seen


@pytest.mark.parametrize(("key", "door"), [("http_port", "HTTP"), ("pg_port", "PostgreSQL's wire")])
def test_server_that_is_down_is_named_by_door_and_setting(settings: Settings, key: str, door: str) -> None:
    assert settings.questdb is not None
    dead = settings.questdb.model_copy(update={key: 1})
    (found,) = _not_ok(check(settings.model_copy(update={"questdb": dead})))
    assert found.name == f"server: {door}"
    assert f"set HOST and {key.upper()} in TRIBUTARY_QUESTDB__" in found.remedy


def test_source_elsewhere_is_looked_at_by_itself(db: QuestDB, settings: Settings) -> None:
    assert settings.questdb is not None
    dead = settings.questdb.model_copy(update={"http_port": 1})
    findings = check(settings.model_copy(update={"source": dead}))
    (found,) = _not_ok(findings)
    assert found.name == "source server: HTTP"
    assert "TRIBUTARY_SOURCE__" in found.remedy
    assert any(f.name == "our tables" for f in findings)


@pytest.mark.parametrize(("version", "status"), [((9, 3, 3), "failed"), ((8, 9, 9), "failed"), ((10, 0, 0), "warning")])
def test_older_version_is_refused_and_newer_is_untested(
    db: QuestDB, settings: Settings, monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], status: str
) -> None:
    _fill(db, _now())
    monkeypatch.setattr(QuestDB, "version", lambda self: version)
    findings = check(settings)
    assert [f.status for f in _not_ok(findings)] == [status]
    assert any(f.name == "server: dedup keys" for f in findings) == (status == "warning")


def test_parquet_folder_that_cannot_be_written_is_told(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = _one(check(settings.model_copy(update={"parquet": tmp_path / "file" / "parquet"})), "Parquet folder")
    assert "TRIBUTARY_PARQUET" in found.remedy


def test_missing_markets_file_is_told(db: QuestDB, settings: Settings, tmp_path: Path) -> None:
    _fill(db, _now())
    found = _one(check(settings.model_copy(update={"markets_file": tmp_path / "nothere.csv"})), "reference data")
    assert "TRIBUTARY_MARKETS_FILE" in found.remedy


def test_embedded_server_that_cannot_start_is_a_finding(tmp_path: Path) -> None:
    (found,) = _not_ok(check(Settings(home=tmp_path, questdb_jar=tmp_path / "nothere.jar", _env_file=None)))
    assert "TRIBUTARY_QUESTDB_JAR names" in found.seen


# --- permissions --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuestDBServer]:
    settings = Settings(home=tmp_path_factory.mktemp("guarded"), embedded_memory_mb=256, _env_file=None)
    reader = {"ENABLED": "true", "": "reader", "PASSWORD": "readonly"}
    extra = {f"QDB_PG_READONLY_USER_{key}".rstrip("_"): value for key, value in reader.items() if key != "PASSWORD"}
    running = embedded.start(settings, {**extra, "QDB_PG_READONLY_PASSWORD": reader["PASSWORD"]})
    try:
        yield running.server
    finally:
        running.stop()


def test_user_who_may_only_read_cannot_publish(guarded: QuestDBServer, tmp_path: Path) -> None:
    reader = guarded.model_copy(update={"pg_user": "reader", "pg_password": SecretStr("readonly")})
    findings = check(Settings(home=tmp_path, questdb=reader, _env_file=None))
    found = _one(findings, "server: create a table")
    assert found.status == "failed"
    assert "permission denied" in found.seen.lower()
    with QuestDB(guarded) as db:
        assert db.tables() == []


def test_wrong_password_is_told_without_showing_it(guarded: QuestDBServer, tmp_path: Path) -> None:
    wrong = guarded.model_copy(update={"pg_password": SecretStr("s3cret")})
    (found,) = _not_ok(check(Settings(home=tmp_path, questdb=wrong, _env_file=None)))
    assert found.remedy == "set user and password in TRIBUTARY_QUESTDB__…"
    assert "s3cret" not in f"{found}"


def test_views_will_do_as_source_tables(db: QuestDB, settings: Settings) -> None:
    _fill(db, _now())
    for name in ("trades", "orderbook_snapshots"):
        db.execute(f"CREATE VIEW my_{name} AS (SELECT * FROM {name})")
    names = {name: {"table": f"my_{name}"} for name in ("trades", "orderbook_snapshots")}
    of_views = settings.model_copy(update={"source_tables": SourceTables.model_validate(names)})
    findings = check(of_views)
    assert _not_ok(findings) == []
    assert {"table my_trades", "table my_trades: newest row"} <= {f.name for f in findings}
    narrow = {"trades": {"table": "narrow"}}
    db.execute("CREATE VIEW narrow AS (SELECT timestamp, market_id, token_id, trade_id, side, size FROM trades)")
    found = check(settings.model_copy(update={"source_tables": SourceTables.model_validate(narrow)}))
    assert _one(found, "table narrow").seen == "no column price"


def test_what_was_found_stays_when_a_later_look_fails(
    db: QuestDB, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Finding:
        raise QuestDBQueryError("no such column: reason")

    _fill(db, _now())
    monkeypatch.setattr("tributary_opt.storage.check._release", broken)
    findings = check(settings)
    assert len(findings) > 5
    (last,) = _not_ok(findings)
    assert (last.name, last.status, last.seen) == ("what follows", "failed", "no such column: reason")
