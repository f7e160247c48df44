"""Look at servers, tables and permissions before a night does: what was seen, and what to do about it."""

from __future__ import annotations

import itertools
import secrets
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import pandas as pd

from tributary_opt import schema
from tributary_opt.settings import QuestDBServer, Settings
from tributary_opt.storage import embedded
from tributary_opt.storage.migration import migrate
from tributary_opt.storage.questdb import AccessRefused, QuestDB, QuestDBQueryError, ServerUnavailable, TableSuspended
from tributary_opt.storage.releases import Releases
from tributary_opt.storage.shapes import SchemaMismatch, TableShape
from tributary_opt.storage.sql import identifier

TESTED: Final = (9, 3, 4)
"""The server's version everything is tested on; an older one is refused, a newer one probed."""

_STALE: Final = timedelta(days=2)
_TROUBLE: Final = (ServerUnavailable, QuestDBQueryError, SchemaMismatch, TableSuspended, ValueError)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Literal["ok", "warning", "failed"]
    seen: str
    remedy: str = ""
    """What to do; empty where nothing is to be done."""


def check(settings: Settings) -> list[Finding]:
    """Everything a night needs, looked at in the order in which one thing rests on another.

    Starts the embedded server where it is the one to publish to and does not run. Leaves nothing behind: a probe table
    is made and dropped.
    """
    findings = [_folder(settings)]
    try:
        with embedded.connection(settings) as (sink, source):
            for finding in _servers(settings, sink, source):
                findings.append(finding)  # one by one: what was found stays, whatever the next look runs into
    except _TROUBLE as error:
        findings.append(_failed("what follows", str(error), "mend what the server says, and check again"))
    except embedded.EmbeddedServerError as error:
        findings.append(_failed("server", str(error), "install, set or stop what is named, or configure a server"))
    return findings


def _servers(settings: Settings, sink: QuestDBServer, source: QuestDBServer) -> Iterator[Finding]:
    with QuestDB(sink) as db:
        reachable = yield from _server(db, "server", "TRIBUTARY_QUESTDB__…")
        if reachable:
            yield from _features(db)
            yield from _suspended(db, "server")
            yield _our_tables(db)
            yield _release(db, settings)
        if source == sink:
            if reachable:
                yield from _source(db, settings)
            return
    with QuestDB(source) as db:
        if (yield from _server(db, "source server", "TRIBUTARY_SOURCE__…")):
            yield from _suspended(db, "source server")
            yield from _source(db, settings)


# --- servers ------------------------------------------------------------------------------------------------


def _folder(settings: Settings) -> Finding:
    root = settings.parquet_root
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        remedy = "make it writable, or set TRIBUTARY_PARQUET (or TRIBUTARY_HOME) to a folder that is"
        return _failed("Parquet folder", f"{root}: {error.strerror}", remedy)
    return _ok("Parquet folder", f"{root} can be written")


def _server(db: QuestDB, name: str, setting: str) -> Generator[Finding, None, bool]:
    """Reachable over both doors, and of a version that will do; returns whether to look further."""
    server = db.server
    doors: dict[str, tuple[int, str, Callable[[], object]]] = {
        "HTTP": (server.http_port, "HTTP_PORT", lambda: db.query("SELECT x FROM long_sequence(1)")),
        "PostgreSQL's wire": (server.pg_port, "PG_PORT", lambda: db.rows("SELECT 1")),
    }
    for door, (port, key, call) in doors.items():
        try:
            call()
        except AccessRefused as error:
            yield _failed(f"{name}: {door}", str(error), f"set user and password in {setting}")
            return False
        except (ServerUnavailable, QuestDBQueryError) as error:
            remedy = f"start the server, or set HOST and {key} in {setting}"
            yield _failed(f"{name}: {door}", str(error), remedy)
            return False
        yield _ok(f"{name}: {door}", f"{server.host}:{port} answers")
    version = db.version()
    seen, tested = (".".join(map(str, v)) for v in (version, TESTED))
    if version < TESTED:
        yield _failed(f"{name}: version", seen, f"upgrade QuestDB to {tested}; older ones lack what is needed")
        return False
    if version > TESTED:
        yield Finding(
            f"{name}: version", "warning", f"{seen}, untested", f"features are probed below; tested is {tested}"
        )
    else:
        yield _ok(f"{name}: version", seen)
    return True


_PROBES: Final = {
    "create a table": "give the user the right to create tables, or choose another in TRIBUTARY_QUESTDB__PG_USER",
    "write rows": "allow writing over HTTP (http.security.readonly=false), or choose a user who may",
    "wait_wal_table": "a server with wait_wal_table is needed: 9.3.4 has it",
    "dedup keys": "a server that keeps DEDUP UPSERT KEYS is needed: 9.3.4 does",
    "arrays and export to Parquet": "a server with DOUBLE[] and /exp?fmt=parquet is needed: 9.3.4 has them",
    "CREATE OR REPLACE VIEW": "a server with CREATE OR REPLACE VIEW is needed: 9.3.4 has it",
}


def _features(db: QuestDB) -> Iterator[Finding]:
    """Do in small, on a table of its own, what a night does in large."""
    table = f"ac_probe_{secrets.token_hex(4)}"
    columns = {"ts": "TIMESTAMP", "name": "SYMBOL", "text": "VARCHAR", "path": "DOUBLE[]"}
    shape = TableShape(table, columns, timestamp="ts", keys=frozenset({"ts", "name"}))
    rows = pd.DataFrame(
        {
            "ts": pd.Series([datetime(2024, 1, 1, tzinfo=UTC)] * 2, dtype="datetime64[us, UTC]"),
            "name": pd.Categorical(["a", "a"]),
            "text": ["x", "x"],
            "path": [pd.Series([0.5, 1.5]).to_numpy()] * 2,
        }
    )

    def create() -> None:
        listed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        db.execute(f"CREATE TABLE {table} ({listed}) TIMESTAMP(ts) PARTITION BY DAY WAL DEDUP UPSERT KEYS(ts, name)")

    def once() -> None:
        count = db.rows(f"SELECT count() FROM {table}")
        if count != [(1,)]:
            raise ValueError(f"equal keys gave {count[0][0]} rows, not 1")

    def read_back() -> None:
        read = db.query(f"SELECT text, path FROM {table}").to_pylist()
        if read != [{"text": "x", "path": [0.5, 1.5]}]:
            raise ValueError(f"came back as {read}")

    def view() -> None:
        for _ in range(2):
            db.execute(f"CREATE OR REPLACE VIEW {table}_view AS (SELECT * FROM {table})")
        db.query(f"SELECT * FROM {table}_view")

    # Typed: of functions and lambdas together mypy may infer no common callable, depending on its cache.
    steps: tuple[Callable[[], object], ...] = (
        create,
        lambda: db.send(shape, rows),
        lambda: db.wait(table),
        once,
        read_back,
        view,
    )
    try:
        for (name, remedy), step in zip(_PROBES.items(), steps, strict=True):
            try:
                step()
            except _TROUBLE as error:
                yield _failed(f"server: {name}", str(error), remedy)
                return
            yield _ok(f"server: {name}", "works")
    finally:
        for what in (f"VIEW IF EXISTS {table}_view", f"TABLE IF EXISTS {table}"):
            with suppress(*_TROUBLE):
                db.execute(f"DROP {what}")


def _suspended(db: QuestDB, name: str) -> Iterator[Finding]:
    found = db.rows("SELECT name, errorMessage FROM wal_tables() WHERE suspended")
    for table, message in found:
        remedy = f"look into the server's log (a full disk?), then run ALTER TABLE {table} RESUME WAL"
        yield _failed(f"{name}: suspended table", f"{table} {message or ''}".strip(), remedy)
    if not found:
        yield _ok(f"{name}: suspended tables", "none")


def _our_tables(db: QuestDB) -> Finding:
    try:
        outstanding = migrate(db, dry_run=True)
    except SchemaMismatch as error:
        return _failed("our tables", str(error), "run what is named there; no night changes these by itself")
    if not outstanding:
        return _ok("our tables", f"fit schema version {schema.SCHEMA_VERSION}")
    return _ok("our tables", f"the next night will {', '.join(outstanding)}")


def _release(db: QuestDB, settings: Settings) -> Finding:
    if schema.PUBLISHED.name not in db.tables():
        return _ok("current release", "none yet")
    releases = Releases(db, settings.parquet_root)
    pointer, lag = releases.current(), releases.lag()
    if lag is not None:
        return Finding(
            "current release", "warning", lag, "run `tributary-opt runs`, which repairs it, as every night does"
        )
    if pointer is None:
        return _ok("current release", "none yet")
    return _ok("current release", f"run {pointer.run_id} as of {pointer.as_of}; pointer and manifest agree")


_SMALL = (schema.MARKETS, schema.OWN_EXECUTIONS)
"""Tables of few rows, read whole."""


# --- source -------------------------------------------------------------------------------------------------


def _source(db: QuestDB, settings: Settings) -> Iterator[Finding]:
    there, views = db.tables(), {name for (name,) in db.rows("SELECT view_name FROM views()")}
    for name, table in schema.READ_TABLES.items():
        chosen = getattr(settings.source_tables, name)
        target = chosen.table or name
        setting = f"TRIBUTARY_SOURCE_TABLES__{name.upper()}"
        if name == "markets" and settings.markets_file is not None:
            yield _markets_file(settings)
        elif target in there or target in views:
            rename = {column.name: chosen.columns.get(column.name, column.name) for column in table.columns}
            shape = db.describe(target) if target in there else _of_view(db, target, [rename[k] for k in table.keys])
            sound = yield from _source_columns(table, shape, rename, setting)
            if sound and name in (schema.TRADES.name, schema.ORDERBOOK_SNAPSHOTS.name):
                yield from _source_rows(db, table, shape)
                if table is schema.TRADES:
                    yield _sides(db, shape, rename["side"])
        elif name == schema.OWN_EXECUTIONS.name:
            yield _ok(f"table {target}", "absent: the impact law rests on literature and tape alone")
        elif name == "markets":
            yield _ok(
                f"table {target}", "absent: every market is a price of calendar 24/7 unless a market rule says more"
            )
        else:
            remedy = (
                f"create it, load a file (tributary-opt load FILE --table {name}), or name yours in {setting}__TABLE"
            )
            yield _failed(f"table {target}", "missing", remedy)


def _of_view(db: QuestDB, name: str, keys: list[str]) -> TableShape:
    """A view's columns as those of a table: stamp and keys are its table's, of which it says nothing."""
    return TableShape(name, db.columns(name), timestamp=keys[0], keys=frozenset(keys), wal=False, partition_by="NONE")


def _markets_file(settings: Settings) -> Finding:
    path = settings.markets_file
    if path is not None and path.is_file():
        return _ok("reference data", f"from {path}")
    return _failed("reference data", f"{path} is not a file", "set TRIBUTARY_MARKETS_FILE to one, or take it out")


def _source_columns(
    table: schema.SourceTable, shape: TableShape, rename: dict[str, str], setting: str
) -> Generator[Finding, None, bool]:
    """Columns, types, designated timestamp and dedup keys; returns whether the rows can be looked at."""
    wrong, remedies = [], []
    for column in table.columns:
        theirs = rename[column.name]
        kind = shape.columns.get(theirs)
        if kind is None and column.required:
            wrong.append(f"no column {theirs}")
            remedies.append(f"add {theirs} ({' or '.join(column.types)}), or name yours in {setting}__COLUMNS")
        elif kind is not None and kind not in column.types:
            wrong.append(f"{theirs} is {kind}")
            remedies.append(f"make {theirs} {' or '.join(column.types)}")
    stamp = rename[table.keys[0]]
    # Ticks are read by days, which only the designated timestamp makes cheap.
    if table not in _SMALL and shape.timestamp != stamp:
        wrong.append(f"the designated timestamp is {shape.timestamp or 'none'}")
        remedies.append(f"create the table with TIMESTAMP({stamp}), or name yours in {setting}__COLUMNS")
    if wrong:
        yield _failed(f"table {shape.name}", "; ".join(wrong), "; ".join(remedies))
        return False
    yield _ok(f"table {shape.name}", f"{len(shape.columns)} columns, all that are read are there")
    keys = [rename[key] for key in table.keys]
    if table not in _SMALL and shape.keys != frozenset(keys):
        listed = ", ".join(keys)
        yield Finding(
            f"table {shape.name}: dedup keys",
            "warning",
            f"({', '.join(sorted(shape.keys)) or 'none'}): rows written twice count twice, and load refuses the table",
            f"run ALTER TABLE {shape.name} DEDUP ENABLE UPSERT KEYS({listed})",
        )
    return True


def _source_rows(db: QuestDB, table: schema.SourceTable, shape: TableShape) -> Iterator[Finding]:
    name = f"table {shape.name}: newest row"
    stamp, target = identifier(shape.timestamp or "", shape.columns), f'"{shape.name}"'
    now = datetime.now(UTC)
    newest = db.rows(f"SELECT {stamp} FROM {target} WHERE {stamp} <= %s ORDER BY {stamp} DESC LIMIT 1", (now,))
    if not newest:
        remedy = f"let the recorder run, or load a file: tributary-opt load FILE --table {table.name}"
        # Without a look at the book a market is refused by itself; without a trade there is no night.
        yield Finding(name, "failed" if table is schema.TRADES else "warning", "the table is empty", remedy)
    elif now - newest[0][0] > _STALE:
        remedy = "is the recorder running? A night of an earlier day: tributary-opt night --as-of DATE"
        yield Finding(name, "warning", f"{newest[0][0]:%Y-%m-%d %H:%M:%S} UTC, days ago", remedy)
    else:
        yield _ok(name, f"{newest[0][0]:%Y-%m-%d %H:%M:%S} UTC")
    ((future,),) = db.rows(f"SELECT count() FROM {target} WHERE {stamp} > %s", (now,))
    if future:
        remedy = "look at the recorder's clock; the night counts and ignores them"
        yield Finding(
            f"table {shape.name}: rows of the future", "warning", f"{future} rows are stamped after now", remedy
        )
    else:
        yield _ok(f"table {shape.name}: rows of the future", "none")


def _sides(db: QuestDB, shape: TableShape, column: str) -> Finding:
    """Words in the last day's aggressors that name none."""
    name, side = f"table {shape.name}: sides", identifier(column, shape.columns)
    stamp, known = identifier(shape.timestamp or "", shape.columns), {"", *itertools.chain(*schema.SIDES.values())}
    newest = db.rows(f'SELECT {stamp} FROM "{shape.name}" ORDER BY {stamp} DESC LIMIT 1')
    since = newest[0][0] - timedelta(days=1) if newest else datetime.now(UTC)
    seen = db.rows(f'SELECT {side}, count() FROM "{shape.name}" WHERE {side} IS NOT NULL AND {stamp} > %s', (since,))
    strange = {word: n for word, n in seen if word not in known}
    if not strange:
        return _ok(name, "all that are given are known")
    words = ", ".join(f"{word!r} ({n} trades)" for word, n in sorted(strange.items())[:5])
    remedy = (
        "write buy and sell, or B and S: any other word is read as no aggressor, and one is inferred from the quotes"
    )
    return Finding(name, "warning", f"{words} in the newest day", remedy)


def _ok(name: str, seen: str) -> Finding:
    return Finding(name, "ok", seen)


def _failed(name: str, seen: str, remedy: str) -> Finding:
    return Finding(name, "failed", seen, remedy)
