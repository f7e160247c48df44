"""One release as a reader sees it: its parameters whole, its schedules market by market.

A snapshot never changes: it holds the run id it was opened with, and a row of any other run is an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tributary_opt import schema
from tributary_opt.schedule_book.grid import (
    Block,
    BookError,
    Key,
    Market,
    ParquetRows,
    QuestDBRows,
    Rows,
    of_run,
    unreadable,
)
from tributary_opt.storage import parquet
from tributary_opt.storage.questdb import QuestDB, QuestDBQueryError
from tributary_opt.storage.releases import Releases

_REPAIR = "`tributary-opt check` says what to repair"

_OF_AN_ORDER = (
    *("run_id", "market_id", "token_id", "status", "reason", "detail", "grade", "calendar", "resolution_time"),
    *("adv", "price", "sigma", "eta", "gamma", "epsilon", "reference_rate", "contract_multiplier", "tick_size"),
    *("volume_profile", "variance_profile"),
)
"""Columns of `ac_parameters` that orders need: read when a release is opened, the others when they are asked for."""


class ScheduleRefused(ValueError):
    """There is no schedule for what was asked; the message says why and how far off it is."""


class Snapshot:
    """One release.

    Parameters
    ----------
    run_id, as_of, published_at
    read : callable
        Columns of `ac_parameters`, of all its rows; all columns for None.
    rows : Rows
    before : callable
        The rows of `ac_parameters` of the release that was current before this one; None where there was none.
    """

    def __init__(
        self,
        run_id: str,
        as_of: date,
        published_at: datetime | None,
        read: Callable[[Sequence[str] | None], pa.Table],
        rows: Rows,
        before: Callable[[], pa.Table | None],
    ):
        self.run_id, self.as_of, self.published_at, self.read = run_id, as_of, published_at, read
        self._few = read(_OF_AN_ORDER)
        of_run(self._few, run_id, schema.PARAMETERS.name)
        keys = zip(self._few["market_id"].to_pylist(), self._few["token_id"].to_pylist(), strict=True)
        self.places = {key: place for place, key in enumerate(keys)}
        self.tokens: dict[str, list[str]] = {}
        for market_id, token_id in self.places:
            self.tokens.setdefault(market_id, []).append(token_id)
        self._parameters: dict[Key, dict[str, Any]] = {}
        self._columns: dict[str, np.ndarray] = {}
        self._rows, self._before = rows, before

    def parameters(self, key: Key) -> dict[str, Any]:
        """What an order needs of the row of `ac_parameters`; made into values where asked for."""
        found = self._parameters.get(key)
        if found is None:
            found = self._parameters[key] = self._few.slice(self.places[key], 1).to_pylist()[0]
        return found

    def evidence(self, key: Key) -> dict[str, Any]:
        """The whole row of `ac_parameters`."""
        return dict(self.read(None).slice(self.places[key], 1).to_pylist()[0])

    def column(self, name: str) -> np.ndarray:
        """A column that orders need, in the order of `places`: doubles with NaN, words with None."""
        found = self._columns.get(name)
        if found is None:
            found = self._columns[name] = self._few[name].to_numpy()
        return found

    def market(self, key: Key) -> Market:
        """The schedules of a market; BookError where a market with parameters has none."""
        block = self._rows.of_market(key[0])
        return self.within(block, key)

    def within(self, block: Block | None, key: Key) -> Market:
        """The market's rows in the block where they must be."""
        found = None if block is None else block.market(key)
        if found is None:
            raise BookError(
                f"run {self.run_id} has parameters but no schedules for {key[0]!r}, {key[1]!r}: the release is not "
                f"whole; {_REPAIR}"
            )
        return found

    def blocks(self, market_ids: Sequence[str]) -> Iterator[dict[str, Block]]:
        """The schedules of many markets, in portions, each row group read once."""
        return self._rows.of_markets(market_ids)

    def parameters_before(self, key: Key) -> dict[str, Any]:
        """The market's row in the release that was current before; empty where there is none."""
        rows = self._before()
        if rows is None:
            return {}
        keys = list(zip(rows["market_id"].to_pylist(), rows["token_id"].to_pylist(), strict=True))
        return dict(rows.slice(keys.index(key), 1).to_pylist()[0]) if key in keys else {}


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
        before = manifest.get("before")
        earlier = None if before is None else (date.fromisoformat(before["as_of"]), str(before["run_id"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BookError(f"{root / parquet.MANIFEST} lacks {error}: `tributary-opt check` repairs it") from None
    try:
        parameters = _ParquetColumns(root / parquet.release_file(schema.PARAMETERS, as_of, run_id))
        rows = ParquetRows(path, run_id)
    except FileNotFoundError:
        files = (root / parquet.release_file(schema.PARAMETERS, as_of, run_id), path)
        gone = ", ".join(str(file) for file in files if not file.exists())
        raise BookError(
            f"{parquet.MANIFEST} names run {run_id}, but {gone} is not there: `tributary-opt check` repairs it"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise unreadable(f"a file of run {run_id}", error) from None
    for name, found in ((schema.PARAMETERS.name, parameters.count), (schema.TRAJECTORIES.name, rows.count)):
        if rows_told[name] not in (None, found):
            raise BookError(f"{name} of run {run_id} has {found} rows, {parquet.MANIFEST} says {rows_told[name]}")

    def rows_before() -> pa.Table | None:
        if earlier is None:
            return None
        try:
            return parquet.read_release_file(root, schema.PARAMETERS, *earlier)
        except FileNotFoundError:  # a copy of the newest release alone
            return None
        except (pa.ArrowException, OSError) as error:
            raise unreadable(f"the run before, {earlier[1]} as of {earlier[0]},", error) from None

    stamp = datetime.fromisoformat(published) if published else None
    return Snapshot(run_id, as_of, stamp, parameters.read, rows, rows_before)


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
    rows = QuestDBRows(db, pointer.as_of, pointer.run_id)
    told = {} if run is None else {"ac_parameters": run["n_markets"], "ac_trajectories": run["n_trajectories"]}
    for name, found in (("ac_parameters", parameters.num_rows), ("ac_trajectories", rows.count())):
        if told.get(name) != found:
            raise BookError(
                f"run {pointer.run_id} is current, but {name} has {found} of its {told.get(name)} rows: {_REPAIR}"
            )

    def rows_before() -> pa.Table | None:
        earlier = releases.previous(pointer)
        return None if earlier is None else releases.read(schema.PARAMETERS, earlier.as_of, earlier.run_id)

    def read(names: Sequence[str] | None) -> pa.Table:
        return parameters if names is None else parameters.select(names)

    return Snapshot(pointer.run_id, pointer.as_of, pointer.published_at, read, rows, rows_before)


class _ParquetColumns:
    """The parameters' file held open; a column is read when it is asked for."""

    def __init__(self, path: Path):
        self._path, self._lock = path, threading.Lock()
        self._file = pq.ParquetFile(path, page_checksum_verification=True)
        self.count = self._file.metadata.num_rows

    def read(self, names: Sequence[str] | None) -> pa.Table:
        """Columns in today's schema: what the file is too old to have is null."""
        types = {column.name: schema.ARROW_TYPES[column.type] for column in schema.PARAMETERS.columns}
        wanted = list(types) if names is None else list(names)
        have = set(self._file.schema_arrow.names)
        try:
            with self._lock:
                rows = self._file.read(columns=[n for n in wanted if n in have])
            columns = [rows[n].cast(types[n]) if n in have else pa.nulls(self.count, types[n]) for n in wanted]
        except (pa.ArrowException, OSError) as error:
            raise unreadable(str(self._path), error) from None
        return pa.table(columns, names=wanted)
