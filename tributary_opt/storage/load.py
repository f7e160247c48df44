"""Bring recorded market data from Parquet or CSV into the source tables.

A file is read twice, in batches: first to check every row of it, then to send them. A file that is refused has left
nothing behind; a load that was interrupted is finished by running it again, because the tables' dedup keys make a row
that is sent twice one row.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tributary_opt import schema
from tributary_opt.settings import SourceTables
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.shapes import TableShape, check_frame
from tributary_opt.storage.sql import identifier

log = logging.getLogger(__name__)

TableName = Literal["trades", "orderbook_snapshots", "markets"]
Progress = Callable[[int, int | None], None]
"""Told the rows done and the rows in all, each row once for its check and once for its sending; None: not known yet."""

_BATCH_ROWS: Final = 200_000
_CSV_BLOCK: Final = 4 << 20  # bytes; several are read ahead
_BAR_COLUMNS: Final = {"open", "high", "low", "close"}
_EXPECTED: Final = {
    "time": "a timestamp (in CSV: ISO 8601, UTC where it names no zone)",
    "text": "text",
    "number": "a number",
    "flag": "true or false",
    "levels": "a JSON array as text, or a list of numbers",
}


class LoadRefused(ValueError):
    """A file or its target table is not fit to be loaded; the message names every reason and the way out."""


@dataclass(frozen=True)
class LoadReport:
    """What loading a file came to. Rows are counted as rows of the file."""

    path: Path
    table: str
    """The table's name on the server."""
    created: bool
    """The table was missing and has been created."""
    rows_in_file: int
    rows_new: int
    """How many more rows the table has than before."""
    rows_known: int
    """The others: their keys were in the table already, or earlier in the file."""
    rows_future: int
    """Stamped after the time of loading; loaded, and ignored by the night."""
    ids_made: int
    """Trade ids made from the file's digest and the row's number."""
    infinities: int
    """Infinite numbers; stored as null."""
    flags_unknown: int
    """Null flags; stored as false, for the type has no null."""
    ignored: tuple[str, ...]
    """Columns of the file that have no place in the table."""


def load_file(
    db: QuestDB,
    path: Path,
    table: TableName,
    *,
    make_ids: bool = False,
    source_tables: SourceTables = SourceTables(),
    progress: Progress | None = None,
) -> LoadReport:
    """Load one Parquet or CSV file into `trades`, `orderbook_snapshots` or `markets`.

    Columns may bear our names or the configured ones. A missing table is created with its dedup keys, so the same file
    twice, or a file loaded in two halves, leaves the same rows; equal rows with different trade ids stay. Reference
    data without `updated_at` are stamped with the time of loading where they differ from what is stored.

    Parameters
    ----------
    make_ids : bool
        Give trades without an id one, made from the file's SHA-256 and the row's number; without it they are refused.
    progress : callable, optional
        Called after every batch.

    Raises
    ------
    LoadRefused
        For a file of bars; for missing and mistyped columns, all of them named; for a null timestamp, market, token or
        trade id; for a target table with other types or dedup keys, with the statement that repairs it. Nothing has
        been sent then.
    """
    source = schema.SOURCE_TABLES[table]
    names = getattr(source_tables, table)
    file = _open(path)
    _refuse_bars(path, file)
    target_name = names.table or source.name
    rename = {c.name: names.columns.get(c.name, c.name) for c in source.columns}
    created = target_name not in db.tables()
    if created:
        shape = _shape_to_be(source, target_name, rename)
    else:
        shape = db.describe(target_name)
        _check_target(source, shape, rename)
    load = _Load(path, file, source, shape, _plan(path, file, source, shape, rename, make_ids), make_ids)

    rows = 0
    for frame in load.frames():
        try:
            check_frame(shape, frame)
        except ValueError as error:
            raise LoadRefused(f"{path.name}, rows {rows} to {rows + len(frame)}: {error}") from error
        rows += len(frame)
        if progress is not None:
            progress(rows, None if file.rows is None else 2 * file.rows)

    if created:
        db.execute(source.ddl(target_name, rename))
    before = _count(db, shape)
    known_reference = _reference(db, load) if load.stamps_itself else {}
    load.tally = _Tally()
    sent = 0
    for frame in load.frames():
        db.send(shape, load.changed(frame, known_reference) if load.stamps_itself else frame)
        sent += len(frame)
        if progress is not None:
            progress(rows + sent, 2 * rows)
    db.wait(target_name, timeout_s=600)
    new = _count(db, shape) - before
    report = LoadReport(
        path=path,
        table=target_name,
        created=created,
        rows_in_file=rows,
        rows_new=new,
        rows_known=rows - new,
        rows_future=load.tally.future,
        ids_made=load.tally.ids,
        infinities=load.tally.infinities,
        flags_unknown=load.tally.flags,
        ignored=tuple(name for name in file.types if name not in {c.in_file for c in load.columns}),
    )
    log.info("%s: %d rows, %d of them new in %s", path.name, rows, new, target_name)
    return report


# --- the file -----------------------------------------------------------------------------------------------


class _ParquetFile:
    def __init__(self, path: Path):
        with pq.ParquetFile(path) as file:
            self.types: dict[str, pa.DataType | None] = {f.name: f.type for f in file.schema_arrow}
            self.rows: int | None = file.metadata.num_rows
            distinct = len(self.types) == len(file.schema_arrow.names)
        if not distinct:
            raise LoadRefused(f"{path.name} has two columns of one name")
        self._path = path

    def batches(self, columns: list[_Column]) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self._path) as file:
            yield from file.iter_batches(_BATCH_ROWS, columns=[c.in_file for c in columns if c.in_file is not None])


class _CsvFile:
    _READ_AS: Final = {
        "time": pa.string(),
        "text": pa.string(),
        "number": pa.float64(),
        "flag": pa.bool_(),
        "levels": pa.string(),
    }

    def __init__(self, path: Path):
        self.rows: int | None = None
        self._path = path
        with self._reader({}, None) as reader:
            names = reader.schema.names
        if len(set(names)) != len(names):
            raise LoadRefused(f"{path.name} has two columns of one name")
        self.types: dict[str, pa.DataType | None] = dict.fromkeys(names)

    def _reader(self, types: dict[str, pa.DataType], names: list[str] | None) -> Any:
        try:
            return pacsv.open_csv(
                self._path,
                read_options=pacsv.ReadOptions(block_size=_CSV_BLOCK),
                # Only nothing is null: NA and null are tickers.
                convert_options=pacsv.ConvertOptions(
                    column_types=types,
                    include_columns=names,
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            raise LoadRefused(f"{self._path.name} is no CSV with a head line: {self._named(error)}") from error

    def batches(self, columns: list[_Column]) -> Iterator[pa.RecordBatch]:
        types = {c.in_file: self._READ_AS[c.kind] for c in columns if c.in_file is not None}
        try:
            with self._reader(types, list(types)) as reader:
                yield from reader
        except pa.ArrowInvalid as error:
            raise LoadRefused(f"{self._path.name}: {self._named(error)}") from error

    def _named(self, error: pa.ArrowInvalid) -> str:
        message = str(error)
        for number, name in reversed(list(enumerate(getattr(self, "types", {})))):
            message = message.replace(f"CSV column #{number}:", f"CSV column {name}:")
        return message


def _open(path: Path) -> _ParquetFile | _CsvFile:
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise LoadRefused(f"{path} cannot be read: {error.strerror}") from error
    try:
        if head == b"PAR1":
            return _ParquetFile(path)
    except pa.ArrowException as error:
        raise LoadRefused(f"{path.name} is broken Parquet: {error}") from error
    if ".csv" not in path.suffixes:
        raise LoadRefused(f"{path.name} must be Parquet or CSV (.csv, .csv.gz)")
    return _CsvFile(path)


def _refuse_bars(path: Path, file: _ParquetFile | _CsvFile) -> None:
    bars = {name for name in file.types if name.lower() in _BAR_COLUMNS}
    if len(bars) >= 3:
        raise LoadRefused(
            f"{path.name} holds bars ({', '.join(sorted(bars))}), not single trades: volume, spread and volatility are "
            "measured from trades and books, and cannot be from bars. Load the trades the bars were made of"
        )


# --- the table ----------------------------------------------------------------------------------------------


def _shape_to_be(source: schema.SourceTable, name: str, rename: dict[str, str]) -> TableShape:
    return TableShape(
        name=name,
        columns={rename[c.name]: c.create_as for c in source.columns},
        timestamp=rename[source.keys[0]],
        keys=frozenset(rename[key] for key in source.keys),
        partition_by=source.partition_by,
    )


def _check_target(source: schema.SourceTable, shape: TableShape, rename: dict[str, str]) -> None:
    wrong = []
    for column in source.columns:
        kind = shape.columns.get(rename[column.name])
        if kind is None and (column.required or column.name in source.keys):
            wrong.append(f"column {rename[column.name]} is missing, expected {' or '.join(column.types)}")
        elif kind is not None and kind not in column.types:
            wrong.append(f"column {rename[column.name]} is {kind}, expected {' or '.join(column.types)}")
    keys = [rename[key] for key in source.keys]
    if shape.timestamp != keys[0]:
        wrong.append(f"the designated timestamp is {shape.timestamp}, expected {keys[0]}")
    if not shape.wal:
        wrong.append(f"it has no WAL: run ALTER TABLE {shape.name} SET TYPE WAL and restart the server")
    elif shape.keys != frozenset(keys):
        # With fewer keys equal ids of two markets would be one row, without any a second load would double all.
        wrong.append(
            f"its dedup keys are ({', '.join(sorted(shape.keys)) or 'none'}), expected ({', '.join(keys)}): "
            f"run ALTER TABLE {shape.name} DEDUP ENABLE UPSERT KEYS({', '.join(keys)})"
        )
    if wrong:
        raise LoadRefused(f"table {shape.name} cannot be loaded into: {'; '.join(wrong)}")


# --- from the one to the other ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    name: str
    """Our name."""
    kind: str
    in_file: str | None
    """Its name in the file; None where it is made here."""
    in_table: str
    type: str
    """Its type on the server."""
    key: bool


def _kind(column: schema.SourceColumn) -> str:
    if "DOUBLE[]" in column.types:
        return "levels"
    if "DOUBLE" in column.types:
        return "number"
    if "TIMESTAMP" in column.types:
        return "time"
    return "flag" if "BOOLEAN" in column.types else "text"


def _fits(kind: str, column: str, type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    text = pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)
    if pa.types.is_null(type_):
        return True
    if kind == "time":
        return bool(pa.types.is_timestamp(type_))
    if kind == "text":
        return bool(text or (column == "trade_id" and pa.types.is_integer(type_)))
    if kind == "number":
        return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))
    if kind == "flag":
        return bool(pa.types.is_boolean(type_))
    is_list = pa.types.is_list(type_) or pa.types.is_large_list(type_)
    return bool(text or (is_list and pa.types.is_floating(type_.value_type)))


def _plan(
    path: Path,
    file: _ParquetFile | _CsvFile,
    source: schema.SourceTable,
    shape: TableShape,
    rename: dict[str, str],
    make_ids: bool,
) -> list[_Column]:
    """Which column of the file goes where; refuses the file with every missing and mistyped column named."""
    columns, wrong = [], []
    for column in source.columns:
        theirs, kind = rename[column.name], _kind(column)
        in_file = next((name for name in (theirs, column.name) if name in file.types), None)
        made = column.name == "updated_at" or (column.name == "trade_id" and make_ids)
        if in_file is None and not made:
            if column.required:
                hint = ", or --make-ids" if column.name == "trade_id" else ""
                wrong.append(f"column {column.name} is missing, expected {_EXPECTED[kind]}{hint}")
            continue
        found = file.types[in_file] if in_file is not None else None
        if found is not None and not _fits(kind, column.name, found):
            wrong.append(f"column {in_file} is {found}, expected {_EXPECTED[kind]}")
        if theirs in shape.columns:
            columns.append(
                _Column(column.name, kind, in_file, theirs, shape.columns[theirs], key=column.name in source.keys)
            )
    if wrong:
        raise LoadRefused(f"{path.name} is not fit for {source.name}: {'; '.join(wrong)}")
    return columns


@dataclass
class _Tally:
    future: int = 0
    ids: int = 0
    infinities: int = 0
    flags: int = 0


@dataclass
class _Load:
    """A file's way into its table, batch by batch."""

    path: Path
    file: _ParquetFile | _CsvFile
    source: schema.SourceTable
    shape: TableShape
    columns: list[_Column]
    make_ids: bool
    tally: _Tally = field(default_factory=_Tally)
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    digest: str | None = None

    @property
    def stamps_itself(self) -> bool:
        """Whether the designated timestamp is made here."""
        return any(c.in_table == self.shape.timestamp and c.in_file is None for c in self.columns)

    def frames(self) -> Iterator[pd.DataFrame]:
        """The file's rows as the table takes them."""
        row = 0
        for batch in self.file.batches(self.columns):
            frame = pd.DataFrame({c.in_table: self._values(c, batch, row) for c in self.columns})
            stamps = frame[self.shape.timestamp]
            if not self.stamps_itself:
                self.tally.future += int((stamps > self.now).sum())
            row += batch.num_rows
            yield frame

    def _values(self, column: _Column, batch: pa.RecordBatch, row: int) -> pd.Series:
        if column.in_file is None:
            if column.kind == "time":
                return pd.Series([self.now] * batch.num_rows, dtype="datetime64[us, UTC]")
            values = pa.nulls(batch.num_rows, pa.string())
        else:
            values = batch.column(column.in_file)
        if column.name == "trade_id" and self.make_ids and values.null_count:
            values = self._with_ids(_text(values), row)
        # Reference data may speak of a market as a whole; a trade or a book is of one instrument.
        if column.key and values.null_count and not (self.source is schema.MARKETS and column.name == "token_id"):
            first = row + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            hint = (
                ": use --make-ids to have ids made from the file's digest and the row"
                if column.name == "trade_id"
                else ""
            )
            raise LoadRefused(f"{self.path.name} has a null {column.in_file} in row {first}{hint}")
        try:
            return self._converted(column, values)
        except (pa.ArrowException, ValueError) as error:
            raise LoadRefused(
                f"{self.path.name}: column {column.in_file}, expected {_EXPECTED[column.kind]} for {column.type}, "
                f"rows {row} to {row + batch.num_rows}: {error}"
            ) from error

    def _converted(self, column: _Column, values: pa.Array) -> pd.Series:
        if column.kind == "time":
            return _time(values, "ns" if column.type == "TIMESTAMP_NS" else "us")
        if column.kind == "number":
            return self._number(values, column.type)
        if column.kind == "flag":
            self.tally.flags += values.null_count
            return _series(values.cast(pa.bool_()).fill_null(False))
        if column.kind == "levels":
            return _levels(values, column.type)
        text = _text(values)
        if column.type == "LONG":
            return _integers(text.cast(pa.int64()))
        return _series(text.dictionary_encode() if column.type == "SYMBOL" else text)

    def _number(self, values: pa.Array, type_: str) -> pd.Series:
        if type_ in ("INT", "LONG", "SHORT") and pa.types.is_integer(values.type):
            return _integers(values.cast(pa.int64()))
        numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        infinite = np.isinf(numbers)
        if infinite.any():
            self.tally.infinities += int(infinite.sum())
            numbers = np.where(infinite, np.nan, numbers)
        series = pd.Series(numbers)
        return series.astype("Int64") if type_ in ("INT", "LONG", "SHORT") else series

    def _with_ids(self, ids: pa.Array, row: int) -> pa.Array:
        if self.digest is None:
            with self.path.open("rb") as file:
                self.digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        missing = ids.is_null()
        self.tally.ids += ids.null_count
        made = pa.array([f"{self.digest}-{row + i}" for i in range(len(ids))], pa.string())
        return pc.if_else(missing, made, ids)

    def changed(self, frame: pd.DataFrame, known: dict[Any, Any]) -> pd.DataFrame:
        """The rows that say something else than the newest stored of the same market and token."""
        stamp = self.shape.timestamp
        said = [name for name in frame.columns if name != stamp]
        keys = [name for name in said if name in self.shape.keys]
        keep = []
        for values in _plain(frame[said]):
            row = dict(zip(said, values, strict=True))
            key = tuple(row[name] for name in keys)
            keep.append(known.get(key) != row)
            known[key] = row
        # One row a market: where the file says two things of it, the last, as it would be if they came one by one.
        changed = frame[keep]
        return changed[~changed.duplicated(keys, keep="last")]


def _reference(db: QuestDB, load: _Load) -> dict[Any, Any]:
    """The newest stored row by market and token; later loads are stamped after all of them."""
    shape = load.shape
    said = [c.in_table for c in load.columns if c.in_table != shape.timestamp]
    keys = [name for name in said if name in shape.keys]
    stamp = identifier(shape.timestamp or "", shape.columns)
    listed, partition = (", ".join(identifier(name, shape.columns) for name in names) for names in (said, keys))
    found = db.rows(f'SELECT {listed}, {stamp} FROM "{shape.name}" LATEST ON {stamp} PARTITION BY {partition}')
    if found:
        load.now = max(load.now, max(row[-1] for row in found) + timedelta(microseconds=1))
    frame = pd.DataFrame([row[:-1] for row in found], columns=said)
    rows = [dict(zip(said, values, strict=True)) for values in _plain(frame)]
    return {tuple(row[name] for name in keys): row for row in rows}


def _plain(frame: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Rows as Python values that compare: no value is None, times are instants."""
    plain = [
        [None if pd.isna(v) else v.isoformat() if isinstance(v, datetime) else v for v in frame[name].astype(object)]
        for name in frame.columns
    ]
    return zip(*plain, strict=True)


def _text(values: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values.cast(pa.string())


def _time(values: pa.Array, unit: Literal["us", "ns"]) -> pd.Series:
    type_ = values.type
    if pa.types.is_string(type_):
        return pd.to_datetime(_series(values), format="ISO8601", utc=True).dt.as_unit(unit)
    if pa.types.is_null(type_):
        return _series(values.cast(pa.timestamp(unit, "UTC")))
    if type_.tz is None:
        values = pc.assume_timezone(values, "UTC")
    return _series(values.cast(pa.timestamp(unit, "UTC"), safe=False))


def _levels(values: pa.Array, type_: str) -> pd.Series:
    is_list = pa.types.is_list(values.type) or pa.types.is_large_list(values.type)
    if type_ != "DOUBLE[]":
        if is_list:
            values = pa.array(
                [None if value is None else json.dumps(value) for value in values.to_pylist()], pa.string()
            )
        text = _text(values)
        return _series(text.dictionary_encode() if type_ == "SYMBOL" else text)
    lists = values.to_pylist() if is_list else [None if v is None else json.loads(v) for v in _text(values).to_pylist()]
    arrays = np.empty(len(lists), dtype=object)
    for i, levels in enumerate(lists):
        arrays[i] = None if levels is None else np.asarray(levels, dtype=np.float64)
    return pd.Series(arrays)


def _integers(values: pa.Array) -> pd.Series:
    series: pd.Series = values.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)  # by way of floats otherwise
    return series


def _series(values: pa.Array) -> pd.Series:
    series: pd.Series = values.to_pandas()
    return series


def _count(db: QuestDB, shape: TableShape) -> int:
    ((count,),) = db.rows(f'SELECT count() FROM "{shape.name}"')
    return int(count)
