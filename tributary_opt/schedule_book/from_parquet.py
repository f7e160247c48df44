"""A release as files: those that one manifest names, held open, of which a lookup reads one row group each."""

from __future__ import annotations

import bisect
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tributary_opt import schema
from tributary_opt.schedule_book.grid import (
    COLUMNS,
    TEXTS,
    Block,
    BookError,
    Key,
    Market,
    of_other_runs,
    unreadable,
    with_all,
)
from tributary_opt.schedule_book.snapshot import OF_AN_ORDER, Portion, Snapshot, buffer_of
from tributary_opt.storage import parquet

_GROUPS_KEPT = 64
"""Row groups of schedules kept in memory, a few megabytes each."""
_READERS = min(4, os.cpu_count() or 1)


def of_parquet(root: Path) -> Snapshot:
    """The release that `current.json` names."""
    if not root.is_dir():
        raise BookError(f"no folder {root}: give the Parquet root that `tributary-opt night` writes")
    manifest = parquet.read_manifest(root)
    if manifest is None:
        raise BookError(
            f"no release below {root}: {parquet.MANIFEST} is missing or cannot be read; publish a night, or, "
            "where one is published, `tributary-opt runs` writes it anew"
        )
    try:
        run_id, as_of = str(manifest["run_id"]), date.fromisoformat(manifest["as_of"])
        published = manifest.get("published_at")
        rows_told = {t.name: manifest["tables"][t.name].get("rows") for t in schema.RELEASE_TABLES}
        path = root / manifest["tables"][schema.TRAJECTORIES.name]["path"]
        buffer, before = buffer_of(manifest.get("settings")), manifest.get("before")
        earlier = None if before is None else (date.fromisoformat(before["as_of"]), str(before["run_id"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BookError(f"{root / parquet.MANIFEST} lacks {error}: `tributary-opt runs` repairs it") from None
    try:
        parameters = _Parameters(root / parquet.release_file(schema.PARAMETERS, as_of, run_id), run_id)
        rows = _Schedules(path, run_id)
    except FileNotFoundError:
        files = (root / parquet.release_file(schema.PARAMETERS, as_of, run_id), path)
        gone = ", ".join(str(file) for file in files if not file.exists())
        raise BookError(
            f"{parquet.MANIFEST} names run {run_id}, but {gone} is not there: `tributary-opt runs` writes it anew"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise unreadable(f"a file of run {run_id}", error) from None
    for name, found in ((schema.PARAMETERS.name, parameters.count), (schema.TRAJECTORIES.name, rows.count)):
        if rows_told[name] not in (None, found):
            raise BookError(f"{name} of run {run_id} has {found} rows, {parquet.MANIFEST} says {rows_told[name]}")

    def before_this(key: Key) -> tuple[dict[str, Any], Market | None]:
        if earlier is None:
            return {}, None
        row: dict[str, Any] = {}
        try:
            row = _Parameters(root / parquet.release_file(schema.PARAMETERS, *earlier), earlier[1]).whole_row(key)
            block = _Schedules(root / parquet.release_file(schema.TRAJECTORIES, *earlier), earlier[1]).of_market(key[0])
        except FileNotFoundError:  # a copy of the newest release alone, or schedules that maintenance has swept
            return row, None
        except (pa.ArrowException, OSError) as error:
            raise unreadable(f"the run before, {earlier[1]} as of {earlier[0]},", error) from None
        return row, None if block is None else block.market(key)

    stamp = datetime.fromisoformat(published) if published else None
    return Snapshot(run_id, as_of, stamp, buffer, parameters, rows, before_this)


class _File:
    """One table of a release, held open: its name may go, what was opened stays readable.

    Its footer says which market's rows lie where, and that all of them are of the run.
    """

    def __init__(self, path: Path, table: schema.Table, run_id: str, **how: Any):
        self.path, self.run_id = path, run_id
        self._how: dict[str, Any] = {"page_checksum_verification": True, **how}
        self.reader = pq.ParquetFile(pa.OSFile(str(path)), **self._how)
        self.metadata = self.reader.metadata
        self.count = self.metadata.num_rows
        self.have = set(self.reader.schema_arrow.names)
        self.lock = threading.Lock()
        """Held by who reads: a reader serves one at a time."""
        self._last = [high for _, high in self._bounds("market_id")]
        others = {run for bounds in self._bounds("run_id") for run in bounds} - {run_id}
        if others:
            raise of_other_runs(table.name, run_id, others)

    def _bounds(self, name: str) -> list[tuple[Any, Any]]:
        """Least and largest value of a column in each row group."""
        place = [self.metadata.schema.column(i).path for i in range(self.metadata.num_columns)].index(name)
        found = [self.metadata.row_group(i).column(place).statistics for i in range(self.metadata.num_row_groups)]
        if any(b is None or not b.has_min_max for b in found):
            raise BookError(f"{self.path} has no bounds of its row groups: it was not written by tributary-opt")
        return [(b.min, b.max) for b in found]

    def group_of(self, market_id: str) -> int | None:
        """The row group in which a market's rows are, if there are any."""
        group = bisect.bisect_left(self._last, market_id)
        return None if group == len(self._last) else group

    def reader_of(self, handle: pa.OSFile) -> pq.ParquetFile:
        """Another reader of the same file."""
        return pq.ParquetFile(handle, metadata=self.metadata, **self._how)


class _Parameters:
    """`ac_parameters` of a release: for one order the row group of its market, a column whole where all are asked."""

    def __init__(self, path: Path, run_id: str):
        self._file = _File(path, schema.PARAMETERS, run_id)
        self.count = self._file.count
        self._portions: dict[int, Portion] = {}

    def read(self, names: Sequence[str] | None) -> pa.Table:
        with self._file.lock:
            return self._read(None, names)

    def portion(self, market_id: str) -> Portion | None:
        group = self._file.group_of(market_id)
        if group is None:
            return None
        found = self._portions.get(group)
        if found is None:
            with self._file.lock:  # of those who ask at once for the same row group, one reads it
                found = self._portions.get(group) or Portion(self._read(group, OF_AN_ORDER), self._file.run_id)
                self._portions[group] = found
        return found

    def whole_row(self, key: Key) -> dict[str, Any]:
        group = self._file.group_of(key[0])
        if group is None:
            return {}
        with self._file.lock:
            return Portion(self._read(group, None), self._file.run_id).row(key)

    def _read(self, group: int | None, names: Sequence[str] | None) -> pa.Table:
        """Columns of a row group, or of all, in today's schema: what the file is too old to have is null."""
        types = {column.name: schema.ARROW_TYPES[column.type] for column in schema.PARAMETERS.columns}
        wanted, file = list(types) if names is None else list(names), self._file
        columns = [name for name in wanted if name in file.have]
        try:
            if group is None:
                rows = file.reader.read(columns=columns)
            else:
                rows = file.reader.read_row_group(group, columns=columns, use_threads=False)
            found = [rows[n].cast(types[n]) if n in file.have else pa.nulls(rows.num_rows, types[n]) for n in wanted]
        except (pa.ArrowException, OSError) as error:
            raise unreadable(str(file.path), error) from None
        return pa.table(found, names=wanted)


class _Schedules:
    """`ac_trajectories` of a release: a row group where one market is asked for, many at once by several readers."""

    def __init__(self, path: Path, run_id: str):
        texts = ["run_id", "market_id", "token_id", *TEXTS]
        self._file = _File(path, schema.TRAJECTORIES, run_id, read_dictionary=texts)
        # Opened now, whatever the name may stand for by the time they are needed; made into readers only then.
        self._handles = [pa.OSFile(str(path)) for _ in range(_READERS - 1)]
        self.count = self._file.count
        self._read: dict[int, Block] = {}

    @cached_property
    def _readers(self) -> list[pq.ParquetFile]:
        return [self._file.reader, *map(self._file.reader_of, self._handles)]

    def of_market(self, market_id: str) -> Block | None:
        group = self._file.group_of(market_id)
        if group is None:
            return None
        found = self._read.get(group)
        if found is None:
            with self._file.lock:  # of those who ask at once for the same row group, one reads it
                found = self._read.get(group) or self._keep(group, self._block(self._file.reader, group))
        return found

    def of_markets(self, market_ids: Sequence[str]) -> Iterator[dict[str, Block]]:
        groups: dict[int, list[str]] = {}
        for market_id in market_ids:
            group = self._file.group_of(market_id)
            if group is not None:
                groups.setdefault(group, []).append(market_id)
        ordered = sorted(groups)
        for start in range(0, len(ordered), _GROUPS_KEPT):
            portion = ordered[start : start + _GROUPS_KEPT]
            with self._file.lock:
                blocks = {g: self._read[g] for g in portion if g in self._read}
                if unread := [g for g in portion if g not in blocks]:
                    shares = [unread[i::_READERS] for i in range(_READERS)]
                    with ThreadPoolExecutor(_READERS) as pool:
                        for found in pool.map(self._blocks, self._readers, shares):
                            blocks |= found
                for group in unread:
                    self._keep(group, blocks[group])
            yield {market_id: blocks[group] for group in portion for market_id in groups[group]}

    def _keep(self, group: int, block: Block) -> Block:
        while len(self._read) >= _GROUPS_KEPT:
            self._read.pop(next(iter(self._read)))
        self._read[group] = block
        return block

    def _blocks(self, reader: pq.ParquetFile, groups: list[int]) -> dict[int, Block]:
        return {group: self._block(reader, group) for group in groups}

    def _block(self, reader: pq.ParquetFile, group: int) -> Block:
        columns = [name for name in COLUMNS if name in self._file.have]
        try:
            rows = reader.read_row_group(group, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise unreadable(f"row group {group} of {self._file.path}", error) from None
        return Block(with_all(rows), self._file.run_id)
