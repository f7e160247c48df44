"""Releases: a night's rows are written under a run id nobody reads yet, and made current by one row.

    1 rows      parameters and trajectories to QuestDB, in requests of bounded size
    2 verified  waited for, read back, compared by count and digest
    3 parquet   the same rows as files, by rename
    4 pointer   one row of `ac_published`: the commit point
    5 manifest  `current.json`, by rename

What fails before 4 leaves yesterday current and untouched; what fails after it is repaired by the next command, because
the pointer decides.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from tributary_opt import schema
from tributary_opt.settings import Retention
from tributary_opt.storage import parquet, release_rows
from tributary_opt.storage.frames import canonical, same_rows, table_digest, typed
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.release_rows import midnight
from tributary_opt.storage.sql import quote

DATASET = "ac"
STEPS = ("rows", "verified", "parquet", "pointer", "manifest")
"""The publishing protocol, in order."""

_LOG = logging.getLogger(__name__)


class ReleaseError(Exception):
    """A release cannot be published, found or made current; the message says why and what to do."""


class _Busy(ReleaseError):
    """Another process holds the right to publish."""


@dataclass(frozen=True)
class Pointer:
    """The row that says which run is current."""

    published_at: datetime
    run_id: str
    as_of: date
    reason: str


@dataclass(frozen=True)
class Run:
    """A row of `ac_runs`."""

    as_of: date
    run_id: str
    scope: str
    window_start: date
    started_at: datetime
    settings: dict[str, Any]
    input_digest: str
    reference_digest: str
    package_version: str
    source_digest: str
    numpy_version: str
    server_version: str
    source_trades: int = 0
    source_snapshots: int = 0
    future_rows: int = 0
    own_orders: int = 0
    own_orders_refused: int = 0
    own_orders_reasons: str | None = None
    days_read: int = 0
    state: str = "running"
    finished_at: datetime | None = None
    n_markets: int = 0
    n_ok: int = 0
    n_trajectories: int = 0
    parameters_digest: str = ""
    trajectories_digest: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    def row(self) -> pd.DataFrame:
        """As a row of `ac_runs`."""
        values: dict[str, object] = {
            **asdict(self),
            "as_of": _stamp(self.as_of),
            "window_start": _stamp(self.window_start),
            "window_end": _stamp(self.as_of),
            "started_at": _stamp(self.started_at),
            "finished_at": _stamp(self.finished_at),
            "n_refused": self.n_markets - self.n_ok,
            "settings": json.dumps(self.settings, sort_keys=True),
            "timings": json.dumps(self.timings),
            "parquet_path": str(parquet.release_file(schema.PARAMETERS, self.as_of, self.run_id).parent),
        }
        return typed(schema.RUNS, pd.DataFrame({name: [values[name]] for name in schema.RUNS.names}))


@dataclass(frozen=True)
class Outcome:
    """What publishing a run came to."""

    run_id: str
    as_of: date
    current: bool
    reason: str
    """Why it is current, or why not."""
    digests: dict[str, str]
    published_at: datetime | None = None
    """When it became current; None where it is not."""


class Releases:
    """The releases of one database and one Parquet root."""

    def __init__(self, db: QuestDB, root: Path):
        self._db = db
        self.root = root

    # --- reading ---------------------------------------------------------------------------------------------

    def current(self) -> Pointer | None:
        """The newest pointer row, or None before the first release."""
        rows = self._db.rows(
            "SELECT published_at, run_id, as_of, reason FROM ac_published WHERE dataset = %s "
            "LATEST ON published_at PARTITION BY dataset",
            (DATASET,),
        )
        return Pointer(_aware(rows[0][0]), rows[0][1], rows[0][2].date(), rows[0][3]) if rows else None

    def before(self, as_of: date) -> Pointer | None:
        """The release of the newest day before `as_of`, or None: the same whenever that night is run again."""
        rows = self._db.rows(
            "SELECT published_at, run_id, as_of, reason FROM ac_published WHERE dataset = %s AND as_of < %s "
            "ORDER BY as_of DESC, published_at DESC LIMIT 1",
            (DATASET, midnight(as_of)),
        )
        return Pointer(_aware(rows[0][0]), rows[0][1], rows[0][2].date(), rows[0][3]) if rows else None

    def previous(self, pointer: Pointer) -> Pointer | None:
        """The release that was current before this one, by the order in which they were published; None: none was."""
        rows = self._db.rows(
            "SELECT published_at, run_id, as_of, reason FROM ac_published WHERE dataset = %s AND published_at < %s "
            "AND run_id <> %s ORDER BY published_at DESC LIMIT 1",
            (DATASET, pointer.published_at, pointer.run_id),
        )
        return Pointer(_aware(rows[0][0]), rows[0][1], rows[0][2].date(), rows[0][3]) if rows else None

    def runs(self, limit: int = 30) -> pd.DataFrame:
        """The newest runs, newest first, with `current` and the time each was last made current."""
        names = schema.RUNS.names
        rows = self._db.rows(
            f"SELECT {', '.join(names)} FROM ac_runs ORDER BY as_of DESC, started_at DESC LIMIT {int(limit)}"
        )
        frame = pd.DataFrame(rows, columns=names)
        published = dict(
            self._db.rows(
                "SELECT run_id, max(published_at) FROM ac_published WHERE dataset = %s GROUP BY run_id", (DATASET,)
            )
        )
        pointer = self.current()
        frame["published_at"] = [published.get(r) for r in frame["run_id"]]
        frame["current"] = frame["run_id"] == (pointer.run_id if pointer else None)
        return frame

    def run(self, run_id: str) -> dict[str, Any] | None:
        """One row of `ac_runs`."""
        names = schema.RUNS.names
        rows = self._db.rows(f"SELECT {', '.join(names)} FROM ac_runs WHERE run_id = %s", (run_id,))
        return dict(zip(names, rows[0], strict=True)) if rows else None

    def read(self, table: schema.Table, as_of: date, run_id: str) -> pa.Table:
        """A run's rows of a table as stored in QuestDB, sorted by key."""
        return release_rows.read(self._db, table, as_of, run_id)

    # --- publishing ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self, timeout_s: float = 3_600.0) -> Iterator[None]:
        """Hold the right to publish: one at a time on this host. ReleaseError when it does not come free in time."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / ".publish.lock"
        lock = FileLock(path, thread_local=False)  # the system's own: a process that dies lets go of it
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if timeout_s > 0:
                _LOG.info("another run is publishing; waiting for it, %g s at most", timeout_s)
            try:
                lock.acquire(timeout=timeout_s)
            except Timeout:
                raise _Busy(
                    f"another run held {path} for {timeout_s:g} s: see which process it is, then try again"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def publish(
        self,
        run: Run,
        parameters: pd.DataFrame,
        trajectories: pd.DataFrame,
        *,
        on_step: Callable[[str], None] = lambda step: None,
    ) -> Outcome:
        """Write, verify and, where the pointer rule allows it, make current.

        Parameters
        ----------
        run : Run
        parameters, trajectories : DataFrame
            Rows of the release tables less as_of and run_id, sorted by key.
        on_step : callable
            Called with the name of each of `STEPS` once it is done.

        Returns
        -------
        Outcome
            A run of scope `whole` is current unless a later night is; any other is stored only.

        Raises
        ------
        ReleaseError
            When what was read back is not what was written. Nothing has become current then.
        """
        with self.lock():
            self._repair()
            rows = {schema.PARAMETERS.name: parameters, schema.TRAJECTORIES.name: trajectories}
            tables = {
                table.name: canonical(table, release_rows.with_key(table, rows[table.name], run.as_of, run.run_id))
                for table in schema.RELEASE_TABLES
            }
            digests = {name: table_digest(schema.TABLES[name].columns, table) for name, table in tables.items()}
            run = replace(
                run,
                n_markets=len(parameters),
                n_ok=int((parameters["status"] == "ok").sum()),
                n_trajectories=len(trajectories),
                parameters_digest=digests[schema.PARAMETERS.name],
                trajectories_digest=digests[schema.TRAJECTORIES.name],
            )
            stored = self._is_complete(run.run_id) and not any(
                self._difference(table, run, tables[table.name]) for table in schema.RELEASE_TABLES
            )
            if not stored:
                self.record(run)
                for table in schema.RELEASE_TABLES:
                    release_rows.write(self._db, table, rows[table.name], run.as_of, run.run_id)
            on_step("rows")
            if not stored:
                for table in schema.RELEASE_TABLES:
                    difference = self._difference(table, run, tables[table.name])
                    if difference:
                        raise ReleaseError(
                            f"{difference}: run {run.run_id} is not published; see `tributary-opt check`, then run the "
                            "night again"
                        )
            on_step("verified")
            row = {"package_version": run.package_version, "numpy_version": run.numpy_version}
            files = {
                table.name: self._file(table, run.as_of, run.run_id, row, tables[table.name])
                for table in schema.RELEASE_TABLES
            }
            on_step("parquet")
            self.record(replace(run, state="complete", finished_at=datetime.now(UTC)))
            pointer, reason = self._point(run)
            on_step("pointer")
            if pointer is not None:
                self._write_manifest(pointer, files)
            on_step("manifest")
        since = None if pointer is None else pointer.published_at
        return Outcome(run.run_id, run.as_of, pointer is not None, reason, digests, since)

    def record(self, run: Run) -> None:
        """Write a run's row of `ac_runs`, replacing what it said before.

        A complete run stays complete, whatever becomes of a repetition: its row holds the digests by which it can be
        made current again.
        """
        if run.state != "complete" and self._is_complete(run.run_id):
            _LOG.info("run %s was complete before; its row stays as it is", run.run_id)
            return
        self._db.send(schema.RUNS, run.row())
        self._db.wait(schema.RUNS.name)

    def lag(self) -> str | None:
        """In what the manifest, or a file it names, differs from the pointer; None where they agree."""
        pointer = self._settled()
        if pointer is None:
            return None
        manifest = parquet.read_manifest(self.root)
        if manifest is None:
            return f"{parquet.MANIFEST} is missing or cannot be read"
        if (manifest.get("run_id"), manifest.get("published_at")) != (
            pointer.run_id,
            pointer.published_at.isoformat(),
        ):
            return (
                f"{parquet.MANIFEST} names run {manifest.get('run_id')} of {manifest.get('published_at')}, "
                f"the pointer run {pointer.run_id} of {pointer.published_at.isoformat()}"
            )
        for table in schema.RELEASE_TABLES:
            path = parquet.release_file(table, pointer.as_of, pointer.run_id)
            try:
                named = manifest["tables"][table.name]
                size = (self.root / path).stat().st_size
                if (named["path"], named["bytes"]) != (path.as_posix(), size):
                    return f"{parquet.MANIFEST} names {named['path']} with {named['bytes']} bytes; {path} has {size}"
            except (KeyError, TypeError):
                return f"{parquet.MANIFEST} does not say where {table.name} lies"
            except FileNotFoundError:
                return f"{path} is missing"
        return None

    def repair(self) -> bool:
        """Make the manifest say what the pointer says; True where it did not.

        Nights, runs, rollback and maintenance begin with it. Nothing is done while another process publishes: that one
        repairs it, and writes its own.
        """
        if self.lag() is None:
            return False
        try:
            with self.lock(timeout_s=0):
                return self._repair()
        except _Busy:
            return False

    def rollback(self, run_id: str) -> Pointer:
        """Make an earlier complete run current again, by a new pointer row.

        Raises ReleaseError for a run that is unknown, incomplete, not whole, already current, or whose rows are no
        longer there as they were.
        """
        with self.lock():
            self._repair()
            row = self.run(run_id)
            if row is None:
                raise ReleaseError(f"run_id {run_id!r} is unknown; `tributary-opt runs` lists them")
            if row["state"] != "complete" or row["scope"] != "whole":
                raise ReleaseError(
                    f"run {run_id} is {row['state']}, scope {row['scope']}: only a complete, whole run can be current"
                )
            pointer = self._settled()
            if pointer is not None and pointer.run_id == run_id:
                raise ReleaseError(f"run {run_id} is current already")
            as_of = row["as_of"].date()
            files = self._export(as_of, run_id)
            new = self._insert_pointer(run_id, as_of, "rollback")
            self._write_manifest(new, files)
            return new

    # --- keeping house ---------------------------------------------------------------------------------------

    def maintain(self, retention: Retention, now: datetime, *, dry_run: bool = False) -> pd.DataFrame:
        """Sweep what nobody can need: old trajectories and reports, files and rows of runs that never finished.

        Kept: all parameters; the trajectories and reports of the newest `trajectory_nights` nights with a complete run
        of all markets, those of the current run, and everything younger than the oldest of these. Returns one row an
        action: what, name, why.
        """
        with self.lock():
            self._repair()
            actions = self._to_sweep(retention, now)
            if not dry_run:
                for action, name in zip(actions["action"], actions["name"], strict=True):
                    self._do(action, name)
        return actions

    def _to_sweep(self, retention: Retention, now: datetime) -> pd.DataFrame:
        actions: list[tuple[str, str, str]] = []
        before = now - timedelta(hours=retention.orphan_hours)
        runs = self.runs(limit=1_000_000)
        runs["day"] = [stamp.date() for stamp in runs["as_of"]]
        finished = (runs["state"] == "complete") | runs["published_at"].notna()
        # Nobody publishes while we hold the lock: an unfinished run's process is dead, or waits and will write again.
        orphaned = ~finished & (pd.to_datetime(runs["started_at"], utc=True) < before)
        nights = sorted(set(runs.loc[finished & (runs["scope"] == "whole"), "day"]), reverse=True)
        pointer = self.current()
        kept = [*nights[: retention.trajectory_nights], *([pointer.as_of] if pointer else [])]
        oldest = min(kept, default=date.min)

        too_old = "older than the nights kept"
        needed = set(runs.loc[~orphaned & (runs["scope"] != "parameters"), "day"])
        of_orphans = set(runs.loc[orphaned, "day"])
        for day in self._partitions(schema.TRAJECTORIES):
            if day < oldest:
                actions.append(("drop partition", f"{schema.TRAJECTORIES.name} {day}", too_old))
            elif day in of_orphans - needed:
                actions.append(("drop partition", f"{schema.TRAJECTORIES.name} {day}", "no run of that day finished"))
        for run_id in runs.loc[orphaned & (runs["state"] == "running"), "run_id"]:
            actions.append(("mark failed", run_id, "began long ago and never finished; nobody reads its rows"))
        orphans = set(runs.loc[orphaned, "run_id"])
        for kind in (*(table.name for table in schema.RELEASE_TABLES), parquet.REPORTS):
            for folder in sorted(self.root.glob(f"{kind}/as_of=*/run_id=*")):
                # A run that the database does not know may be another database's: left alone.
                name = folder.relative_to(self.root).as_posix()
                if folder.name.removeprefix("run_id=") in orphans:
                    actions.append(("delete files", name, "its run never finished"))
                elif kind != schema.PARAMETERS.name and folder.parent.name < f"as_of={oldest:%Y-%m-%d}":
                    actions.append(("delete files", name, too_old))
        for staged in sorted((self.root / parquet.STAGING).glob("*")):
            if datetime.fromtimestamp(staged.stat().st_mtime, UTC) < before:
                name = staged.relative_to(self.root).as_posix()
                actions.append(("delete files", name, "left by a run that was killed"))
        return pd.DataFrame(actions, columns=["action", "name", "why"])

    def _do(self, action: str, name: str) -> None:
        if action == "drop partition":
            table, day = name.split(" ")
            self._db.execute(f"ALTER TABLE {table} DROP PARTITION LIST {quote(day)}")
            self._db.wait(table)
        elif action == "delete files":
            path = self.root / name
            if path.is_dir():
                shutil.rmtree(path)
                with contextlib.suppress(OSError):  # other runs of that day lie there still
                    path.parent.rmdir()
            else:
                path.unlink()
        elif action == "mark failed":
            self._db.execute("UPDATE ac_runs SET state = 'failed', error = 'never finished' WHERE run_id = %s", (name,))
            self._db.wait(schema.RUNS.name)
        _LOG.info("maintenance: %s %s", action, name)

    def _partitions(self, table: schema.Table) -> list[date]:
        # A partition written out of order may be split: one day, several names.
        rows = self._db.rows(f"SELECT name FROM table_partitions({quote(table.name)})")
        return sorted({date.fromisoformat(str(name)[:10]) for (name,) in rows})

    # --- the steps -------------------------------------------------------------------------------------------

    def _settled(self) -> Pointer | None:
        """The pointer with all that was ever written to it: a killed process's row may be accepted, not yet visible."""
        self._db.wait(schema.PUBLISHED.name)
        return self.current()

    def _is_complete(self, run_id: str) -> bool:
        self._db.wait(schema.RUNS.name)
        known = self.run(run_id)
        return known is not None and known["state"] == "complete"

    def _difference(self, table: schema.Table, run: Run, written: pa.Table) -> str | None:
        return release_rows.difference(self._db, table, run.as_of, run.run_id, written)

    def _point(self, run: Run) -> tuple[Pointer | None, str]:
        """Move the pointer where the rule allows it: the pointer if the run is current now, and why it is or is not."""
        if run.scope != "whole":
            return None, f"stored, not current: scope {run.scope}"
        pointer = self._settled()  # read again just before the row is written
        if pointer is not None and pointer.as_of > run.as_of:
            return None, f"complete, not current: {pointer.as_of} is current already"
        if pointer is not None and pointer.run_id == run.run_id:
            return pointer, "already current"
        return self._insert_pointer(run.run_id, run.as_of, "night"), "current"

    def _insert_pointer(self, run_id: str, as_of: date, reason: str) -> Pointer:
        pointer = self._settled()
        now = datetime.now(UTC)
        if pointer is not None:
            now = max(now, pointer.published_at + timedelta(microseconds=1))
        new = Pointer(now, run_id, as_of, reason)
        self._db.execute(
            "INSERT INTO ac_published (published_at, dataset, run_id, as_of, schema_version, reason) "
            "VALUES (%s, %s, %s, %s, %s, %s)",
            (now, DATASET, run_id, midnight(as_of), schema.SCHEMA_VERSION, reason),
        )
        seen = self._settled()
        if seen != new:
            raise ReleaseError(
                f"run {run_id} was published, but the pointer names {seen.run_id if seen else 'nothing'}: something "
                "else publishes to this database; let one host do it, then run the night again"
            )
        return new

    def _repair(self) -> bool:
        """`repair`, by the one who holds the lock."""
        lag = self.lag()
        pointer = self.current()
        if lag is None or pointer is None:
            return False
        try:
            files = self._export(pointer.as_of, pointer.run_id)
        except ReleaseError as error:
            # Not raised: a damaged release must not keep the next night, or a rollback, from replacing it.
            _LOG.error("%s, which cannot be repaired: %s", lag, error)
            return False
        self._write_manifest(pointer, files)
        _LOG.warning("repaired: %s", lag)
        return True

    def _write_manifest(self, pointer: Pointer, files: dict[str, Path]) -> None:
        run = self.run(pointer.run_id) or {}
        before = self.previous(pointer)
        parquet.write_manifest(
            self.root,
            {
                "run_id": pointer.run_id,
                "as_of": pointer.as_of.isoformat(),
                "published_at": pointer.published_at.isoformat(),
                "schema_version": schema.SCHEMA_VERSION,
                "package_version": run.get("package_version"),
                "settings": json.loads(run.get("settings") or "{}"),
                "before": None if before is None else {"run_id": before.run_id, "as_of": before.as_of.isoformat()},
                "tables": {
                    name: {
                        "path": path.as_posix(),
                        "rows": pq.read_metadata(self.root / path).num_rows,
                        "bytes": (self.root / path).stat().st_size,
                        "sha256": parquet.file_digest(self.root / path),
                    }
                    for name, path in files.items()
                },
            },
        )

    def _export(self, as_of: date, run_id: str) -> dict[str, Path]:
        """The run's files, written from QuestDB where they are missing or damaged; its rows are verified either way."""
        row = self.run(run_id)
        if row is None:
            raise ReleaseError(f"run {run_id} has no row in ac_runs: it cannot be made current")
        files = {}
        for table, digest in zip(
            schema.RELEASE_TABLES, (row["parameters_digest"], row["trajectories_digest"]), strict=True
        ):
            stored = self.read(table, as_of, run_id)
            if table_digest(table.columns, stored) != digest:
                raise ReleaseError(
                    f"{table.name} no longer holds run {run_id} as it was published ({stored.num_rows} rows): "
                    "it may be older than the nights kept; choose another of `tributary-opt runs`"
                )
            files[table.name] = self._file(table, as_of, run_id, row, stored)
        return files

    def _file(self, table: schema.Table, as_of: date, run_id: str, row: dict[str, Any], rows: pa.Table) -> Path:
        """The file of a run's rows, written unless it is there and sound: what a reader has found stays as it is."""
        with contextlib.suppress(FileNotFoundError, pa.ArrowException, OSError):
            if same_rows(table.columns, parquet.release_file_parts(self.root, table, as_of, run_id), rows):
                return parquet.release_file(table, as_of, run_id)
        described = rows.cast(table.arrow_schema(_parquet_metadata(run_id, as_of, row)))
        return parquet.write_release_file(self.root, table, described, as_of, run_id)


def _parquet_metadata(run_id: str, as_of: date, row: dict[str, Any]) -> dict[str, str]:
    return {
        "run_id": run_id,
        "as_of": as_of.isoformat(),
        "schema_version": str(schema.SCHEMA_VERSION),
        "package_version": str(row["package_version"]),
        "numpy_version": str(row["numpy_version"]),
        "units": "of each column: field metadata `unit`; price is quote currency per contract",
    }


def _stamp(value: date | datetime | None) -> pd.Timestamp:
    if value is None:
        return pd.NaT  # type: ignore[return-value]
    return pd.Timestamp(value if isinstance(value, datetime) else midnight(value)).as_unit("us")


def _aware(stamp: datetime) -> datetime:
    return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp
