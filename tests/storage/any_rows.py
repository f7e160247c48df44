"""Rows of any table, every column filled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tributary_opt import schema


def stamps(n: int, start: str = "2024-01-01", freq: str = "h") -> pd.DatetimeIndex:
    return pd.date_range(start, periods=n, freq=freq, tz="UTC").as_unit("us")


def rows_of_every_type(table: schema.Table, n: int, seed: int = 0) -> pd.DataFrame:
    """Rows of every column of a table, nulls among them where no key."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for c in table.columns:
        null = np.zeros(n, bool) if c.name in table.keys else rng.random(n) < 0.2
        if c.type == "TIMESTAMP":
            values = pd.Series(stamps(n, freq="7h"))
            columns[c.name] = values.where(~null)
        elif c.type == "SYMBOL":
            columns[c.name] = pd.Series(
                [None if m else f"{c.name}-{i % 7}" for i, m in enumerate(null)], dtype="category"
            )
        elif c.type == "VARCHAR":
            columns[c.name] = pd.Series([None if m else f"{c.name} {i}" for i, m in enumerate(null)], dtype=object)
        elif c.type == "DOUBLE":
            columns[c.name] = np.where(null, np.nan, rng.standard_normal(n) * 10.0 ** rng.integers(-300, 300, n))
        elif c.type in ("INT", "LONG"):
            dtype = "Int32" if c.type == "INT" else "Int64"
            columns[c.name] = pd.Series(rng.integers(-5, 2**31 - 1, n), dtype=dtype).mask(null)
        elif c.type == "DOUBLE[]":
            arrays = [None if m else rng.standard_normal(int(rng.integers(0, 60))) for m in null]
            columns[c.name] = pd.Series(arrays, dtype=object)
        else:
            raise AssertionError(c.type)
    return pd.DataFrame(columns)


def arrays(*values: Any) -> pd.Series:
    """Values as they are, arrays among them, in a column of objects."""
    series = pd.Series([None] * len(values), dtype=object)
    for i, value in enumerate(values):
        series.iat[i] = value
    return series
