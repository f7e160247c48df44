"""A QuestDB server behind its three doors: ILP over HTTP to write, `/exp` to read much, PostgreSQL's wire for the rest.

Every table written here has dedup keys, so that a request whose answer was lost can be sent again: the rows are the
same rows.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote_plus

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import questdb
import requests
import tenacity
from psycopg.types.datetime import TimestampBinaryLoader, TimestampLoader

from tributary_opt import schema
from tributary_opt.settings import QuestDBServer
from tributary_opt.storage.shapes import SchemaMismatch, TableShape, as_arrays, check_frame, shape_of
from tributary_opt.storage.sql import quote

log = logging.getLogger(__name__)

_T = TypeVar("_T")

# The server ties a kept connection to the table as it was at the first write: after DROP and CREATE it takes rows into
# the dropped one and acknowledges them, after ADD COLUMN it refuses the column. So every request has its own sender,
# which is what the client warns of.
questdb.WARN_HIGH_RECONNECTS = False  # type: ignore[attr-defined]

# A request line of 32 kB makes 9.3.4 close the connection without a word (measured 32,166 good, 32,167 not).
_URL_LIMIT: Final = 24_000
_BUFFER_LIMIT: Final = 2**31
_ATTEMPTS: Final = 3
_BUSY_S: Final = 120.0  # how long an export waits for one of the server's few places
_IDLE_S: Final = 5.0  # a PostgreSQL connection idle for longer is tried before it is used

# 9.3.4 writes a bad Parquet file where it copies a table's own pages: a VARCHAR column without nulls comes out as
# nulls, or the file cannot be read, and ORDER BY … DESC is lost. Behind a LIMIT it goes row by row, and right.
_EXPORT_HEAD: Final = "SELECT * FROM (\n"
_EXPORT_TAIL: Final = "\n) LIMIT 9223372036854775807"

_ARROW_BY_OID: Final[dict[int, pa.DataType]] = {
    16: pa.bool_(),
    20: pa.int64(),
    21: pa.int16(),
    23: pa.int32(),
    700: pa.float32(),
    701: pa.float64(),
    1022: pa.list_(pa.float64()),
    1043: pa.string(),
    1114: pa.timestamp("us", tz="UTC"),
}


class ServerUnavailable(ConnectionError):
    """The server did not answer, or broke off. Transient: the same call may succeed later."""


class QuestDBQueryError(RuntimeError):
    """The server refused a statement; its words, the place in the SQL and the SQL's start."""

    def __init__(self, message: str, sql: str = "", position: int | None = None):
        self.sql = sql
        self.position = position
        where = "" if position is None else f" at {position}"
        super().__init__(f"{message}{where}" + (f" in: {_start_of(sql)}" if sql else ""))


class AccessRefused(QuestDBQueryError):
    """The server does not take our credentials, or they do not allow what was asked."""


class TableSuspended(RuntimeError):
    """A table takes rows but shows none of the new ones until a person resumes it."""

    def __init__(self, table: str, reason: str = ""):
        self.table = table
        super().__init__(
            f"table {table} is suspended{f' ({reason})' if reason else ''}: rows are kept but not visible. See the "
            f"server's log (a full disk?), then run: ALTER TABLE {table} RESUME WAL"
        )


class _Pool:
    """Connections at rest, newest on top. Taken, used by one thread, and put back only where nothing went wrong."""

    def __init__(self, open_one: Callable[[], psycopg.Connection[Any]]):
        self.open_one = open_one
        self.resting: list[tuple[psycopg.Connection[Any], float]] = []
        self.lock = threading.Lock()

    def take(self) -> psycopg.Connection[Any]:
        while True:
            with self.lock:
                if not self.resting:
                    break
                connection, since = self.resting.pop()
            try:
                if time.monotonic() - since > _IDLE_S:
                    connection.execute("SELECT 1")
                if not connection.closed:
                    return connection
            except psycopg.Error:
                connection.close()
        return self.open_one()

    def put(self, connection: psycopg.Connection[Any]) -> None:
        with self.lock:
            self.resting.append((connection, time.monotonic()))

    def empty(self) -> None:
        with self.lock:
            resting, self.resting = self.resting, []
        for connection, _ in resting:
            connection.close()


class QuestDB:
    """One QuestDB server. Safe to share between threads, not between processes; close it, or use it as a context.

    Every method raises `ServerUnavailable` where the server cannot be reached, `AccessRefused` for its credentials and
    `QuestDBQueryError` where it refuses a statement.
    """

    def __init__(self, server: QuestDBServer):
        self.server = server
        self._pg = _Pool(self._open_pg)

    def __repr__(self) -> str:
        return f"<QuestDB {self.server.host} http {self.server.http_port} pg {self.server.pg_port}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection at rest."""
        self._pg.empty()

    # --- read -----------------------------------------------------------------------------------------------

    def query(self, sql: str) -> pa.Table:
        """The rows of a SELECT as an Arrow table, exactly as the server holds them, in the query's order.

        TIMESTAMP is `timestamp[us, UTC]`, TIMESTAMP_NS in ns, SYMBOL and VARCHAR are strings, `DOUBLE[]` a list. There
        are no binds: write texts with `quote`, instants with `timestamp_literal`, names with `identifier`. SQL too
        long for a URL goes over PostgreSQL's wire, where TIMESTAMP_NS loses its nanoseconds and NUL may not occur.
        """
        wrapped = f"{_EXPORT_HEAD}{sql.rstrip().rstrip(';')}{_EXPORT_TAIL}"
        if len(quote_plus(wrapped)) > _URL_LIMIT:
            return self._query_pg(sql)
        return insistent(
            lambda: _patient(lambda: self._export(wrapped, sql)),
            _Busy,
            timeout_s=_BUSY_S,
            what=f"{self!r}: every place for an export is taken (raise the server's http.export.connection.limit)",
        )

    def _export(self, wrapped: str, sql: str) -> pa.Table:
        timeout = self.server.query_timeout_s
        # To a file, not to memory: a whole night's rows would be there twice while they are decoded.
        content = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            with (
                self._http() as http,
                http.get(
                    f"{'https' if self.server.tls else 'http'}://{self.server.host}:{self.server.http_port}/exp",
                    params={"query": wrapped, "fmt": "parquet", "timeout": str(int(np.ceil(timeout)))},
                    timeout=(self.server.connect_timeout_s, timeout + 5),
                    stream=True,
                ) as answer,
            ):
                if answer.status_code == 200:
                    for block in answer.iter_content(1 << 20):
                        content.write(block)
                else:
                    answer.content  # noqa: B018 - what it says is read while the connection is there
        except requests.Timeout as error:
            raise _Hung(f"{self!r} did not answer in time ({type(error).__name__}): {_start_of(sql)}") from error
        except requests.RequestException as error:
            raise ServerUnavailable(f"{self!r} cannot be reached ({type(error).__name__}): is it running?") from error
        if answer.status_code == 429:
            raise _Busy
        if answer.status_code in (401, 403):
            raise AccessRefused(f"{self!r} refused the credentials over HTTP: {_CREDENTIALS}")
        if answer.status_code >= 500:
            raise ServerUnavailable(f"{self!r} answered {answer.status_code}: {answer.text[:200]}")
        if answer.status_code != 200:
            raise _refused(answer.text, sql)
        content.seek(0)
        try:
            with content:
                table = pq.read_table(content, pre_buffer=False)  # column by column
        except (pa.ArrowException, OSError) as error:
            raise QuestDBQueryError(f"{self!r} sent Parquet that cannot be read ({error})", sql) from error
        return table.replace_schema_metadata(None)

    def _query_pg(self, sql: str) -> pa.Table:
        with self._cursor(sql) as cursor:
            self._run(cursor, sql, ())
            description = cursor.description or []
            rows = cursor.fetchall()
        columns = list(zip(*rows, strict=True)) or [()] * len(description)
        arrays = [
            pa.array(values, type=_ARROW_BY_OID.get(column.type_code))
            for column, values in zip(description, columns, strict=True)
        ]
        return pa.Table.from_arrays(arrays, names=[column.name for column in description])

    def rows(self, sql: str, params: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query, values bound at each `%s`; times are aware, in UTC."""
        with self._cursor(sql) as cursor:
            self._run(cursor, sql, params)
            return cursor.fetchall()

    def execute(self, sql: str, params: Sequence[object] = ()) -> None:
        """Run a statement that answers no rows, values bound at each `%s`."""
        with self._cursor(sql) as cursor:
            self._run(cursor, sql, params)

    # --- write ----------------------------------------------------------------------------------------------

    def send(self, table: schema.Table | TableShape | str, frame: pd.DataFrame) -> int:
        """Write a frame as one request, which is one transaction: readers see all of it or nothing.

        `table` is one of ours, whose columns the frame must have exactly; or a table on the server (its name, or its
        shape where many frames go to it), whose columns the frame may lack, its timestamp and keys excepted. The
        request is repeated after a lost answer where the table has dedup keys. Rows are visible after `wait`.

        Returns
        -------
        int
            The rows sent. [-]

        Raises
        ------
        ValueError
            For a frame the server would refuse or keep wrongly: another set of columns, another type, no timestamp,
            an infinity, NUL in a symbol. Nothing has been sent then.
        """
        shape = shape_of(table) if isinstance(table, schema.Table) else table
        if isinstance(shape, str):
            shape = self.describe(shape)
        check_frame(shape, frame, exact=isinstance(table, schema.Table))
        if frame.empty:
            return 0
        # The client cannot tell the type of a column that is null throughout; absent means null as well.
        sent = frame[[name for name in frame.columns if frame[name].notna().any()]]
        lists = {name: as_arrays(sent[name]) for name in sent.columns if isinstance(sent[name].dtype, pd.ArrowDtype)}
        sent = sent.assign(**lists)
        attempts = _ATTEMPTS if shape.keys else 1
        _patient(lambda: self._flush(shape, sent), attempts)
        log.debug("%s: %d rows sent", shape.name, len(frame))
        return len(frame)

    def _flush(self, shape: TableShape, frame: pd.DataFrame) -> None:
        assert shape.timestamp is not None  # the frame was checked
        try:
            with self._sender() as sender:
                sender.dataframe(frame, table_name=shape.name, at=shape.timestamp)
                sender.flush(transactional=True)
        except questdb.QuestDBError as error:
            raise self._ilp_error(error, shape) from error

    def _ilp_error(self, error: questdb.QuestDBError, shape: TableShape) -> Exception:
        code = questdb.QuestDBErrorCode
        if error.code in (code.SocketError, code.ProtocolVersionError, code.CouldNotResolveAddr):
            return ServerUnavailable(f"{self!r} broke off, or cannot be reached, writing {shape.name} ({error})")
        if error.code == code.AuthError:
            return AccessRefused(f"{self!r} refused the credentials over HTTP: {_CREDENTIALS}")
        if error.code == code.ServerFlushError:
            return QuestDBQueryError(f"{self!r} refused rows for {shape.name}: {error}")
        if "max_buf_size" in str(error):
            return ValueError(f"frame for {shape.name} is over {_BUFFER_LIMIT >> 30} GiB: send it in parts ({error})")
        return ValueError(f"frame for {shape.name} cannot be sent: {error}")

    def wait(self, table: str, timeout_s: float = 60.0) -> None:
        """Return once every row sent to a table so far is visible to readers.

        Raises
        ------
        TableSuspended
            With the statement that repairs it.
        ServerUnavailable
            Where the rows are not visible in time: the server is behind.
        """
        deadline = time.monotonic() + timeout_s
        target: int | None = None
        pause = 0.001
        while True:
            found = self.rows(
                "SELECT suspended, writerTxn, sequencerTxn, errorMessage FROM wal_tables() WHERE name = %s", (table,)
            )
            if not found:
                self.describe(table)  # says so where there is no such table; one without WAL shows its rows at once
                return
            suspended, written, sequenced, message = found[0]
            target = sequenced if target is None else target
            if suspended:
                raise TableSuspended(table, message or "")
            if written >= target:
                break
            if time.monotonic() > deadline:
                raise ServerUnavailable(
                    f"{self!r}: rows of {table} are not visible after {timeout_s:g} s "
                    f"(transaction {written} of {target})"
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        try:
            self.rows(f"SELECT wait_wal_table({quote(table)})")
        except QuestDBQueryError as error:
            if "suspended" in str(error):
                raise TableSuspended(table) from error
            raise

    # --- tables ---------------------------------------------------------------------------------------------

    def version(self) -> tuple[int, int, int]:
        """The server's version, such as (9, 3, 4)."""
        ((build,),) = self.rows("SELECT build()")
        match = re.search(r"QuestDB\D* (\d+)\.(\d+)\.(\d+)", build)
        if match is None:
            raise QuestDBQueryError(f"{self!r} gives no version but {build!r}")
        major, minor, patch = (int(part) for part in match.groups())
        return major, minor, patch

    def tables(self) -> list[str]:
        """The names of the tables, views left out."""
        return sorted(name for (name,) in self.rows("SELECT table_name FROM tables() WHERE table_type = 'T'"))

    def columns(self, table: str) -> dict[str, str]:
        """Type by column of a table or view."""
        return {name: kind for name, kind, _, _ in self._table_columns(table)}

    def describe(self, table: str) -> TableShape:
        """The shape of a table.

        Raises
        ------
        SchemaMismatch
            Where there is no such table, or the name is a view's.
        """
        about = self.rows(
            "SELECT walEnabled, partitionBy, table_type FROM tables() WHERE table_name = %s",
            (table,),
        )
        if not about or about[0][2] != "T":
            raise SchemaMismatch(f"{self!r} has no table {table}" + (", only a view of that name" if about else ""))
        columns = self._table_columns(table)
        return TableShape(
            name=table,
            columns={name: kind for name, kind, _, _ in columns},
            timestamp=next((name for name, _, designated, _ in columns if designated), None),
            keys=frozenset(name for name, _, _, key in columns if key),
            wal=about[0][0],
            partition_by=about[0][1],
        )

    def _table_columns(self, table: str) -> list[tuple[str, str, bool, bool]]:
        found = self.rows(f'SELECT "column", type, designated, upsertKey FROM table_columns({quote(table)})')
        return [(name, kind, designated, key) for name, kind, designated, key in found]

    def create(self, table: schema.Table) -> None:
        """Create one of our tables where it is missing."""
        self.execute(table.ddl())

    # --- connections ----------------------------------------------------------------------------------------

    def _open_pg(self) -> psycopg.Connection[Any]:
        server = self.server
        password = server.pg_password or server.password
        try:
            connection = psycopg.connect(
                host=server.host,
                port=server.pg_port,
                user=server.pg_user or server.user or "admin",
                password="quest" if password is None else password.get_secret_value(),
                dbname="qdb",
                autocommit=True,
                prepare_threshold=None,  # a prepared SELECT * may show a table as it was
                connect_timeout=max(1, int(np.ceil(server.connect_timeout_s))),
                options=f"-c statement_timeout={int(server.query_timeout_s * 1000)}",
                sslmode=("verify-full" if server.tls_verify else "require") if server.tls else "disable",
                sslrootcert="system" if server.tls and server.tls_verify else None,
                gssencmode="disable",
                keepalives_idle=30,
            )
        except psycopg.OperationalError as error:
            if "password" in str(error) or "authentication" in str(error):
                raise AccessRefused(
                    f"{self!r} refused the credentials over PostgreSQL's wire: {_CREDENTIALS}"
                ) from error
            raise ServerUnavailable(f"{self!r} cannot be reached over PostgreSQL's wire ({error})") from error
        connection.adapters.register_loader("timestamp", _UtcBinaryLoader)
        connection.adapters.register_loader("timestamp", _UtcLoader)
        return connection

    def _http(self) -> requests.Session:
        """A session for one export: a connection that exported once holds one of the server's few places to its end."""
        server = self.server
        http = requests.Session()
        http.trust_env = False  # no proxy between us and the database, no credentials out of ~/.netrc
        http.verify = server.tls_verify
        if server.token is not None:
            http.headers["Authorization"] = f"Bearer {server.token.get_secret_value()}"
        elif server.user is not None and server.password is not None:
            # As bytes: a text would go as Latin-1.
            password = server.password.get_secret_value()
            http.auth = requests.auth.HTTPBasicAuth(server.user.encode(), password.encode())
        return http

    def _sender(self) -> questdb.Sender:
        server = self.server
        conf = (
            f"{'https' if server.tls else 'http'}::addr={server.host}:{server.http_port};auto_flush=off;"
            # The client's own repetition would double rows of a table without keys; ours looks at them first.
            f"retry_timeout=0;max_buf_size={_BUFFER_LIMIT};request_timeout={int(server.query_timeout_s * 1000)};"
        )
        if server.tls and not server.tls_verify:
            conf += "tls_verify=unsafe_off;"
        basic = server.token is None and server.user is not None and server.password is not None
        return questdb.Sender.from_conf(
            conf,
            token=server.token.get_secret_value() if server.token else None,
            username=server.user if basic else None,
            password=server.password.get_secret_value() if basic and server.password else None,
        )

    @contextmanager
    def _cursor(self, sql: str) -> Iterator[psycopg.Cursor[tuple[Any, ...]]]:
        connection = _patient(self._pg.take)
        sound = False
        try:
            with connection.cursor(binary=True) as cursor:
                yield cursor
            sound = True
        except QuestDBQueryError:
            sound = not connection.closed
            raise
        except psycopg.OperationalError as error:
            raise ServerUnavailable(f"{self!r} broke off over PostgreSQL's wire ({error})") from error
        except psycopg.Error as error:
            raise QuestDBQueryError(
                f"{self!r} values or answer do not pass PostgreSQL's wire ({error})", sql
            ) from error
        finally:
            if sound:
                self._pg.put(connection)
            else:
                connection.close()

    def _run(self, cursor: psycopg.Cursor[tuple[Any, ...]], sql: str, params: Sequence[object]) -> None:
        for place, value in enumerate(params, start=1):
            if isinstance(value, str) and "\0" in value:
                raise ValueError(
                    f"value {place} of {_start_of(sql)} holds NUL, which PostgreSQL's wire does not carry: "
                    "use query() with quote()"
                )
        if "\0" in sql:
            raise ValueError(f"NUL does not pass PostgreSQL's wire, in: {_start_of(sql)}")
        try:
            # Without values psycopg takes % as it stands.
            cursor.execute(sql.encode(), params or None)
        except psycopg.DatabaseError as error:
            # The server gives every error of its own the state 00000; a broken connection has none.
            if error.sqlstate is None:
                raise
            message = error.diag.message_primary or str(error)
            position = error.diag.statement_position
            kind = AccessRefused if "permission denied" in message.lower() else QuestDBQueryError
            raise kind(message, sql, int(position) if position else None) from error


# --- helpers ------------------------------------------------------------------------------------------------

_CREDENTIALS: Final = (
    "check user and password, or the token, in the TRIBUTARY_QUESTDB__… or TRIBUTARY_SOURCE__… settings"
)


class _UtcBinaryLoader(TimestampBinaryLoader):
    def load(self, data: Any) -> datetime:
        return super().load(data).replace(tzinfo=UTC)


class _UtcLoader(TimestampLoader):
    def load(self, data: Any) -> datetime:
        return super().load(data).replace(tzinfo=UTC)


class _Busy(Exception):
    """The server's export places are taken."""


class _Hung(ServerUnavailable):
    """The server holds the connection and says nothing: asking again at once would only wait again."""


def _patient(call: Callable[[], _T], attempts: int = _ATTEMPTS) -> _T:
    """Repeat a call over a short outage."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda e: isinstance(e, ServerUnavailable) and not isinstance(e, _Hung)),
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_exponential(multiplier=0.1, max=1.0) + tenacity.wait_random(0, 0.1),
        reraise=True,
    )
    return retrying(call)


def insistent(call: Callable[[], _T], error: type[Exception], timeout_s: float, what: str) -> _T:
    """Repeat a call for as long as it meets one error; in the end that is the server's fault."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(error),
        stop=tenacity.stop_after_delay(timeout_s),
        wait=tenacity.wait_exponential(multiplier=0.05, max=2.0) + tenacity.wait_random(0, 0.05),
        reraise=True,
    )
    try:
        return retrying(call)
    except error as last:
        raise ServerUnavailable(f"{what}, after {timeout_s:g} s") from last


def _start_of(sql: str) -> str:
    line = " ".join(sql.split())
    return line if len(line) <= 200 else f"{line[:200]} …"


def _refused(body: str, sql: str) -> QuestDBQueryError:
    try:
        said = json.loads(body)
        message, position = said["error"], int(said["position"])
    except (ValueError, KeyError, TypeError):
        return QuestDBQueryError(body[:500], sql)
    place = position - len(_EXPORT_HEAD) + 1  # as over PostgreSQL's wire: from 1, in the caller's own SQL
    return QuestDBQueryError(message, sql, place if 1 <= place <= len(sql) else None)
