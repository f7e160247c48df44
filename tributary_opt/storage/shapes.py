"""What a table on a server looks like: in what it differs from ours, and which frames it can take.

A frame is checked before it is sent, because the server keeps some bad values silently (an infinity poisons sums, a
missing designated timestamp becomes the server's clock).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from tributary_opt import schema

_TEXT: Final = ("SYMBOL", "VARCHAR", "STRING", "UUID", "CHAR")
_INTEGERS: Final = {"BYTE": 8, "SHORT": 16, "INT": 32, "LONG": 64}


class SchemaMismatch(RuntimeError):
    """A table on the server differs from the schema in a way that is not ours to change."""


@dataclass(frozen=True)
class TableShape:
    """What a table on the server looks like."""

    name: str
    columns: Mapping[str, str]
    """Type by column, in the table's order."""
    timestamp: str | None
    """The designated timestamp."""
    keys: frozenset[str]
    """The dedup keys; empty where the table keeps rows sent twice."""
    wal: bool = True
    partition_by: str = ""


def shape_of(table: schema.Table) -> TableShape:
    return TableShape(
        name=table.name,
        columns={column.name: column.type for column in table.columns},
        timestamp=table.timestamp,
        keys=frozenset(table.keys),
        partition_by=table.partition_by,
    )


def differences(table: schema.Table, found: TableShape) -> list[str]:
    """What keeps a table on the server from being ours, missing columns aside, each with the way out."""
    anew = f"RENAME TABLE {table.name} TO {table.name}_old and let it be created anew"
    wrong = []
    if not found.wal:
        wrong.append(f"{table.name} has no WAL: run ALTER TABLE {table.name} SET TYPE WAL and restart the server")
    if found.timestamp != table.timestamp:
        wrong.append(f"{table.name} has the designated timestamp {found.timestamp}, must be {table.timestamp}: {anew}")
    types = {column.name: column.type for column in table.columns}
    for name, kind in found.columns.items():
        if name not in types:
            wrong.append(
                f"{table.name}.{name} is not in the schema: a newer tributary-opt wrote it (upgrade), or run "
                f"ALTER TABLE {table.name} DROP COLUMN {name}"
            )
        elif kind != types[name]:
            wrong.append(f"{table.name}.{name} is {kind}, must be {types[name]}: {anew}")
    if found.keys != frozenset(table.keys):
        keys = ", ".join(table.keys)
        missing = [key for key in table.keys if key not in found.columns]
        remedy = anew if missing else f"run ALTER TABLE {table.name} DEDUP ENABLE UPSERT KEYS({keys})"
        wrong.append(
            f"{table.name} has the dedup keys ({', '.join(sorted(found.keys)) or 'none'}), must have ({keys}): {remedy}"
        )
    return wrong


def check_frame(shape: TableShape, frame: pd.DataFrame, exact: bool = False) -> None:
    """Refuse a frame that the server would refuse, or keep wrongly.

    With `exact` it must have every column of the table, otherwise the timestamp and the keys.

    Raises
    ------
    ValueError
        Naming the column, the rule and the value.
    """
    names = list(frame.columns)
    if len(set(names)) != len(names):
        raise ValueError(f"columns of a frame for {shape.name} must be distinct, got {names}")
    unknown = sorted(set(names) - set(shape.columns))
    needed = set(shape.columns) if exact else {*shape.keys, *([shape.timestamp] if shape.timestamp else [])}
    missing = [name for name in shape.columns if name in needed and name not in names]
    if unknown or missing:
        raise ValueError(f"columns of a frame for {shape.name} must be the table's: {missing=}, {unknown=}")
    if shape.timestamp is None:
        raise ValueError(f"table {shape.name} must have a designated timestamp, has none")
    for name in names:
        kind = shape.columns[name]
        if name != shape.timestamp and not frame[name].notna().any():
            continue  # null throughout, and then left out of the request, whatever its type
        wrong = _wrong_with(kind, frame[name], designated=name == shape.timestamp)
        if wrong is not None:
            raise ValueError(f"column {name} ({kind}) of a frame for {shape.name} must {wrong}")


def _wrong_with(kind: str, values: pd.Series, designated: bool) -> str | None:
    """The rule a column breaks and the value that breaks it; None where it is fit to send."""
    dtype = values.dtype
    if kind in ("TIMESTAMP", "TIMESTAMP_NS"):
        units = ("us",) if kind == "TIMESTAMP" else ("us", "ns")
        if not (isinstance(dtype, pd.DatetimeTZDtype) and dtype.unit in units and str(dtype.tz) == "UTC"):
            return f"be datetime64[us, UTC], is {dtype}: use .dt.tz_convert('UTC').dt.as_unit('us')"
        if designated and values.isna().any():
            return f"hold no NaT (the server would put its clock), does in row {_first(values.isna())}"
        if designated and len(values) and values.min() < pd.Timestamp(0, tz="UTC"):
            return f"not lie before 1970, does with {values.min()}"
        return None
    if kind == "SYMBOL":
        if not isinstance(dtype, pd.CategoricalDtype):
            return f"be a Categorical, is {dtype}: use .astype('category')"
        used = dtype.categories[np.unique(values.cat.codes[values.notna()])]
        return _wrong_text(pd.Series(used, dtype=object), symbol=True)
    if kind in _TEXT:
        if isinstance(dtype, pd.CategoricalDtype):
            values = pd.Series(dtype.categories)
        # A column of pandas' own string type holds texts and nothing else; to look at each costs more than to send it.
        return None if isinstance(values.dtype, pd.StringDtype) else _wrong_text(values, symbol=False)
    if kind in ("DOUBLE", "FLOAT"):
        if dtype != np.float64 and not (kind == "FLOAT" and dtype == np.float32):
            return f"be float64, is {dtype}"
        infinite = np.isinf(values.to_numpy())
        return f"hold no infinity, does in row {_first(infinite)}: null and a status say it" if infinite.any() else None
    if kind in _INTEGERS:
        if not pd.api.types.is_integer_dtype(dtype):
            return f"be an integer type, Int32 or Int64 where it has nulls, is {dtype}"
        # The smallest number is the server's null.
        bound = 2 ** (_INTEGERS[kind] - 1) - 1
        lowest, highest = (values.min(), values.max()) if values.notna().any() else (0, 0)
        return None if -bound <= lowest and highest <= bound else f"lie within ±{bound}, holds {lowest} to {highest}"
    if kind == "BOOLEAN":
        if dtype not in (np.dtype(bool), pd.BooleanDtype()):
            return f"be bool, is {dtype}"
        return "hold no null (the type has none)" if values.isna().any() and values.notna().any() else None
    if kind == "DOUBLE[]":
        return _wrong_arrays(values)
    return f"be left out: tributary-opt does not write {kind}"


def _wrong_text(values: pd.Series, symbol: bool) -> str | None:
    if pd.api.types.infer_dtype(values, skipna=True) not in ("string", "empty"):
        return f"hold texts, holds {next(v for v in values.dropna() if not isinstance(v, str))!r}"
    present = values[values.notna()].tolist()
    try:
        "".join(present).encode()
    except UnicodeEncodeError as error:
        return f"hold valid unicode, does not with {error.object[error.start : error.end]!r}"
    nul = next((value for value in present if "\0" in value), None) if symbol else None
    return f"hold no NUL (no symbol can), does with {nul!r}" if nul is not None else None


def _wrong_arrays(values: pd.Series) -> str | None:
    if isinstance(values.dtype, pd.ArrowDtype):
        if values.dtype.pyarrow_dtype != pa.list_(pa.float64()):
            return f"be lists of doubles, is {values.dtype}"
        infinite = any(np.isinf(chunk.flatten().to_numpy(zero_copy_only=False)).any() for chunk in _chunks(values))
        return "hold no infinity in an array (no client could read it back), does" if infinite else None
    if values.dtype != object:
        return f"be an object column of float64 arrays, is {values.dtype}"
    arrays = values.to_numpy()
    for row, array in enumerate(arrays):
        if array is None or array is pd.NA or (isinstance(array, float) and np.isnan(array)):
            continue
        if not (isinstance(array, np.ndarray) and array.dtype == np.float64 and array.ndim == 1):
            got = f"{array.ndim}-d {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
            return f"hold float64 arrays of one dimension, does not in row {row}: {got}"
    step = 10_000  # bounds the copy
    for start in range(0, len(arrays), step):
        chunk = [array for array in arrays[start : start + step] if isinstance(array, np.ndarray)]
        if chunk and np.isinf(np.concatenate(chunk)).any():
            row = next(i for i, a in enumerate(arrays) if isinstance(a, np.ndarray) and np.isinf(a).any())
            return f"hold no infinity in an array (no client could read it back), does in row {row}"
    return None


def _chunks(lists: pd.Series) -> list[pa.ListArray]:
    return lists.array.__arrow_array__().chunks  # type: ignore[attr-defined, no-any-return]


def as_arrays(lists: pd.Series) -> pd.Series:
    """A column of Arrow lists as arrays over the same memory, which is what the client takes."""
    out: list[np.ndarray[Any, Any] | None] = []
    for chunk in _chunks(lists):
        flat, ends = chunk.values.to_numpy(zero_copy_only=False), chunk.offsets.to_numpy()
        out += np.split(flat[ends[0] : ends[-1]], ends[1:-1] - ends[0])
    return pd.Series(out, index=lists.index, dtype=object).where(lists.notna(), None)


def _first(mask: pd.Series | np.ndarray[Any, Any]) -> int:
    return int(np.flatnonzero(np.asarray(mask))[0])
