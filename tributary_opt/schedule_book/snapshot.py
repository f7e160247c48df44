"""One release as a reader sees it: its parameters whole, its schedules market by market.

A snapshot never changes: it holds the run id it was opened with, and a row of any other run is an error.
"""

from __future__ import annotations

import bisect
import threading
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tributary_opt import schema
from tributary_opt.storage import parquet
from tributary_opt.storage.frames import canonical
from tributary_opt.storage.questdb import QuestDB, QuestDBQueryError, quote, timestamp_literal
from tributary_opt.storage.releases import Releases

Key = tuple[str, str]
"""market_id, token_id"""


class BookError(RuntimeError):
    """The release cannot be read, or is not whole; the message names the remedy."""


class ScheduleRefused(ValueError):
    """There is no schedule for what was asked; the message says why and how far off it is."""


class Rows(Protocol):
    """Where a release's schedules are read from."""

    def of_market(self, market_id: str) -> pa.Table:
        """The market's rows, perhaps among those of other markets."""


@dataclass(frozen=True, eq=False)
class Market:
    """A market's schedules: the rows as plain values, and where each point of the grid is."""

    rows: list[dict[str, Any]]
    points: dict[tuple[Any, ...], int]
    """(kind of risk, order size, its value, horizon) of the Almgren-Chriss schedules → place in `rows`."""
    horizons: list[dict[str, Any]]
    """One row for each horizon of the grid that has an optimal schedule, in the grid's order."""
    largest: float
    """Largest order of the grid. [contracts]"""
    most_urgency: float


class Snapshot:
    """One release."""

    def __init__(self, run_id: str, as_of: date, published_at: datetime | None, parameters: pa.Table, rows: Rows):
        self.run_id, self.as_of, self.published_at = run_id, as_of, published_at
        self.table = parameters
        self.root: Path | None = None
        """The Parquet root it was read from."""
        _of_run(parameters, run_id, schema.PARAMETERS.name)
        keys = zip(parameters["market_id"].to_pylist(), parameters["token_id"].to_pylist(), strict=True)
        self._places = {key: place for place, key in enumerate(keys)}
        self.tokens: dict[str, list[str]] = {}
        for market_id, token_id in self._places:
            self.tokens.setdefault(market_id, []).append(token_id)
        self._parameters: dict[Key, dict[str, Any]] = {}
        self._rows = rows
        self._markets: dict[Key, Market] = {}
        self._lock = threading.Lock()

    def parameters(self, key: Key) -> dict[str, Any]:
        """The row of `ac_parameters`; made into values where asked for, which for all would take a while."""
        found = self._parameters.get(key)
        if found is None:
            found = self._parameters[key] = self.table.slice(self._places[key], 1).to_pylist()[0]
        return found

    def market(self, key: Key) -> Market:
        """The schedules of a market; BookError where a market with parameters has none."""
        found = self._markets.get(key)
        if found is None:
            with self._lock:  # of those who ask at once for the same row group, one reads it
                found = self._markets.get(key) or self._read(key)
        return found

    def _read(self, key: Key) -> Market:
        table = self._rows.of_market(key[0])
        _of_run(table, self.run_id, schema.TRAJECTORIES.name)
        keys = list(zip(table["market_id"].to_pylist(), table["token_id"].to_pylist(), strict=True))
        firsts = [i for i, here in enumerate(keys) if i == 0 or here != keys[i - 1]]
        for first, end in zip(firsts, [*firsts[1:], table.num_rows], strict=True):
            self._markets[keys[first]] = _market(table.slice(first, end - first))
        if key not in self._markets:
            raise BookError(
                f"run {self.run_id} has parameters but no schedules for {key[0]!r}, {key[1]!r}: the release is not "
                "whole; `tributary-opt check` names what to repair"
            )
        return self._markets[key]


def of_parquet(root: Path) -> Snapshot:
    """The release that `current.json` names."""
    if not root.is_dir():
        raise BookError(f"no folder {root}: give the Parquet root that `tributary-opt night` writes")
    manifest = parquet.read_manifest(root)
    if manifest is None:
        raise BookError(
            f"no release below {root}: {parquet.MANIFEST} is missing or cannot be read; publish a night, or let any "
            "tributary-opt command repair it"
        )
    try:
        run_id, as_of = str(manifest["run_id"]), date.fromisoformat(manifest["as_of"])
        published = manifest.get("published_at")
        rows_told = {t.name: manifest["tables"][t.name].get("rows") for t in schema.RELEASE_TABLES}
        path = root / manifest["tables"][schema.TRAJECTORIES.name]["path"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BookError(f"{root / parquet.MANIFEST} lacks {error}: `tributary-opt check` repairs it") from None
    try:
        parameters = parquet.read_release_file(root, schema.PARAMETERS, as_of, run_id)
        rows = _ParquetRows(path)
    except FileNotFoundError as error:
        raise BookError(f"{parquet.MANIFEST} names run {run_id}, but {error.filename} is not there") from None
    except (pa.ArrowException, OSError) as error:
        raise BookError(f"a file of run {run_id} cannot be read ({error}): `tributary-opt check` repairs it") from None
    for name, found in ((schema.PARAMETERS.name, parameters.num_rows), (schema.TRAJECTORIES.name, rows.count)):
        if rows_told[name] not in (None, found):
            raise BookError(f"{name} of run {run_id} has {found} rows, {parquet.MANIFEST} says {rows_told[name]}")
    found = Snapshot(run_id, as_of, datetime.fromisoformat(published) if published else None, parameters, rows)
    found.root = root
    return found


def of_questdb(db: QuestDB) -> Snapshot:
    """The release that the pointer names."""
    releases = Releases(db, Path())
    missing = {t.name for t in schema.TABLES.values()} - {schema.MARKET_DAYS.name} - set(db.tables())
    if missing:
        raise BookError(f"the database lacks {', '.join(sorted(missing))}: publish a night into it first")
    try:
        pointer = releases.current()
        if pointer is None:
            raise BookError("the database holds no published release: publish a night first")
        run = releases.run(pointer.run_id)
        parameters = releases.read(schema.PARAMETERS, pointer.as_of, pointer.run_id)
    except QuestDBQueryError as error:
        raise BookError(f"the release cannot be read: {error}") from None
    rows = _QuestDBRows(db, pointer.as_of, pointer.run_id)
    told = {} if run is None else {"ac_parameters": run["n_markets"], "ac_trajectories": run["n_trajectories"]}
    for name, found in (("ac_parameters", parameters.num_rows), ("ac_trajectories", rows.count())):
        if told.get(name) != found:
            raise BookError(
                f"run {pointer.run_id} is current, but {name} has {found} of its {told.get(name)} rows: "
                "`tributary-opt check` says what to repair"
            )
    return Snapshot(pointer.run_id, pointer.as_of, pointer.published_at, parameters, rows)


# --- inside --------------------------------------------------------------------------------------------------


_GROUPS_KEPT = 64
"""Row groups kept in memory, a few megabytes each."""


class _ParquetRows:
    """A release file held open: its name may go, what was opened stays readable."""

    def __init__(self, path: Path):
        self._path = path
        self._file = pq.ParquetFile(path)
        meta = self._file.metadata
        self.count = meta.num_rows
        self._have = set(self._file.schema_arrow.names)
        place = self._file.schema_arrow.get_field_index("market_id")
        bounds = [meta.row_group(i).column(place).statistics for i in range(meta.num_row_groups)]
        if any(b is None or not b.has_min_max for b in bounds):
            raise BookError(f"{path} has no bounds of its row groups: it was not written by tributary-opt")
        self._last = [b.max for b in bounds]
        self._read: dict[int, tuple[pa.Table, np.ndarray]] = {}

    def of_market(self, market_id: str) -> pa.Table:
        group = bisect.bisect_left(self._last, market_id)
        if group == len(self._last):
            return schema.TRAJECTORIES.arrow_schema().empty_table()
        if group not in self._read:
            while len(self._read) >= _GROUPS_KEPT:
                self._read.pop(next(iter(self._read)))
            rows = self._group(group)
            self._read[group] = rows, rows["market_id"].combine_chunks().to_numpy(zero_copy_only=False)
        rows, ids = self._read[group]
        first, end = (int(np.searchsorted(ids, market_id, side)) for side in ("left", "right"))  # type: ignore[call-overload]
        return rows.slice(first, end - first)

    def _group(self, group: int) -> pa.Table:
        wanted = schema.TRAJECTORIES.arrow_schema()
        try:
            rows = self._file.read_row_group(group, columns=[n for n in wanted.names if n in self._have])
        except (pa.ArrowException, OSError) as error:
            raise BookError(f"row group {group} of {self._path} cannot be read ({error}): damaged") from None
        columns = [rows[f.name] if f.name in self._have else pa.nulls(rows.num_rows, f.type) for f in wanted]
        return pa.table(columns, names=wanted.names)


class _QuestDBRows:
    def __init__(self, db: QuestDB, as_of: date, run_id: str):
        self._db = db
        stamp = timestamp_literal(np.datetime64(as_of, "us"))
        self._where = f"FROM ac_trajectories WHERE as_of = {stamp} AND run_id = {quote(run_id)}"

    def count(self) -> int:
        return int(self._db.rows(f"SELECT count() {self._where}")[0][0])

    def of_market(self, market_id: str) -> pa.Table:
        names = ", ".join(schema.TRAJECTORIES.names)
        try:
            rows = self._db.query(f"SELECT {names} {self._where} AND market_id = {quote(market_id)}")
        except QuestDBQueryError as error:
            raise BookError(f"the schedules of {market_id!r} cannot be read: {error}") from None
        return canonical(schema.TRAJECTORIES, rows)


def _of_run(rows: pa.Table, run_id: str, name: str) -> None:
    """Two releases never mix."""
    others = set(rows["run_id"].unique().to_pylist()) - {run_id}
    if others:
        raise BookError(f"{name} of run {run_id} holds rows of run {', '.join(map(str, others))}")


def _market(table: pa.Table) -> Market:
    remaining = table["remaining"].combine_chunks()
    offsets, values = remaining.offsets.to_numpy(), remaining.values.to_numpy(zero_copy_only=False)
    rows = table.drop_columns(["remaining"]).to_pylist()
    points: dict[tuple[Any, ...], int] = {}
    for i, row in enumerate(rows):
        row["remaining"] = values[offsets[i] : offsets[i + 1]]
        if row["strategy"] == "almgren_chriss" and row["status"] != "infeasible":
            for kind in ("risk_aversion", "urgency"):
                for horizon in {row["horizon"], row["horizon_asked"] or row["horizon"]}:
                    points.setdefault((kind, row["order_size"], row[kind], horizon), i)
    optimal = [row for row in rows if row["status"] != "infeasible" and row["urgency"] is not None]
    by_horizon: dict[int, dict[str, Any]] = {}
    for row in optimal:
        by_horizon.setdefault(row["horizon_ix"], row)
    horizons = [by_horizon[ix] for ix in sorted(by_horizon)]
    largest = max((row["order_size"] for row in rows), default=0.0)
    return Market(rows, points, horizons, largest, max((row["urgency"] for row in optimal), default=0.0))
