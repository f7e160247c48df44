"""Frames in a table's own types, and Arrow tables in its canonical order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tributary_opt import schema

_INTEGERS: dict[str, pd.Int32Dtype | pd.Int64Dtype] = {"INT": pd.Int32Dtype(), "LONG": pd.Int64Dtype()}

_LISTS_AT_ONCE = 10_000  # bounds the copy


def typed(table: schema.Table, frame: pd.DataFrame) -> pd.DataFrame:
    """A frame with exactly the table's columns, in its order and types, to be sent. KeyError for a missing one."""
    return pd.DataFrame({c.name: _typed(frame[c.name], c.type) for c in table.columns}, index=frame.index)


def typed_source(table: schema.SourceTable, frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of a source table in the types with which we create it; columns the frame lacks are left out."""
    known = [c for c in table.columns if c.name in frame.columns]
    return pd.DataFrame({c.name: _typed(frame[c.name], c.create_as) for c in known}, index=frame.index)


def canonical(table: schema.Table, rows: pd.DataFrame | pa.Table) -> pa.Table:
    """Rows in the table's Arrow schema, sorted by its keys, NaN as null: the same rows give the same table."""
    types = {c.name: schema.ARROW_TYPES[c.type] for c in table.columns}
    if isinstance(rows, pd.DataFrame):
        rows = pa.table({c.name: _arrow(rows[c.name], c.type) for c in table.columns})
    columns = []
    for c in table.columns:
        column = rows[c.name].cast(types[c.name])
        columns.append(column.fill_null("") if c.name in table.keys and pa.types.is_string(column.type) else column)
    rows = pa.table(columns, names=table.names)
    order = pc.sort_indices(rows.select(table.keys), sort_keys=[(k, "ascending") for k in table.keys]).to_numpy()
    return rows if np.array_equal(order, np.arange(rows.num_rows)) else rows.take(order)


def table_digest(columns: tuple[schema.Column, ...], rows: pa.Table) -> str:
    """SHA-256 of the given columns of rows in canonical order: every value bit for bit, missing ones as such.

    A column without any value adds nothing, so that a run keeps its digest when a newer schema adds columns.
    """
    digest = hashlib.sha256(f"{rows.num_rows} rows".encode())
    for column in columns:
        array = rows[column.name]
        if array.null_count == len(array):
            continue
        if column.type != "DOUBLE[]":  # those are too big to be copied into one
            array = array.combine_chunks()
        digest.update(f"{column.name}:{len(array)}".encode())
        digest.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
        if column.type in ("SYMBOL", "VARCHAR"):
            encoded = array.dictionary_encode()
            names = np.array(
                [hashlib.sha256(t.encode()).hexdigest() for t in encoded.dictionary.to_pylist()], dtype="S64"
            )
            indices = encoded.indices.fill_null(-1).to_numpy()
            digest.update(names[indices[indices >= 0]].tobytes() if len(names) else b"")
        elif column.type == "DOUBLE[]":
            lengths = pc.list_value_length(array).fill_null(0).to_numpy()
            digest.update(lengths.astype(np.int64).tobytes())
            for chunk in array.chunks:
                for start in range(0, len(chunk), _LISTS_AT_ONCE):
                    flat = chunk.slice(start, _LISTS_AT_ONCE).flatten().fill_null(np.nan)
                    digest.update(np.ascontiguousarray(flat.to_numpy(zero_copy_only=False)).data)
        else:
            plain = array.cast(pa.int64()) if pa.types.is_timestamp(array.type) else array
            digest.update(np.ascontiguousarray(plain.drop_null().to_numpy(zero_copy_only=False)).tobytes())
    return digest.hexdigest()


def same_rows(columns: tuple[schema.Column, ...], parts: Iterable[pa.Table], rows: pa.Table) -> bool:
    """Whether the parts, one after the other, are rows in canonical order: the same digest at the same place."""
    start = 0
    for part in parts:
        if table_digest(columns, part) != table_digest(columns, rows.slice(start, part.num_rows)):
            return False
        start += part.num_rows
    return bool(start == rows.num_rows)


def _typed(values: pd.Series, kind: str) -> pd.Series:
    if isinstance(values.dtype, pd.ArrowDtype):
        return values
    if kind == "SYMBOL":
        return values.astype("category") if not isinstance(values.dtype, pd.CategoricalDtype) else values
    if kind == "TIMESTAMP":
        return pd.to_datetime(values, utc=True).astype("datetime64[us, UTC]")
    if kind == "DOUBLE":
        return values.astype(np.float64)
    if kind in _INTEGERS:
        return values.astype(_INTEGERS[kind])
    if kind == "BOOLEAN":
        return values.astype("boolean")
    return values.astype(object).where(values.notna(), None)


def _arrow(values: pd.Series, kind: str) -> pa.Array | pa.ChunkedArray:
    if kind != "DOUBLE[]":
        return pa.Array.from_pandas(values, type=schema.ARROW_TYPES[kind])
    if isinstance(values.dtype, pd.ArrowDtype):
        return values.array.__arrow_array__()  # type: ignore[attr-defined]
    missing = values.isna().to_numpy()
    present = list(values[~missing])
    lengths = np.zeros(len(values), dtype=np.int64)
    lengths[~missing] = [len(v) for v in present]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    flat = pa.array(np.concatenate(present) if present else np.zeros(0), from_pandas=True)
    return pa.ListArray.from_arrays(offsets, flat, mask=pa.array(missing) if missing.any() else None)
