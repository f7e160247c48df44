"""A run's rows in QuestDB: sent in requests of bounded size, read back and compared a range of markets at a time.

Neither holds a night's rows a second time: what is written stays the only whole copy in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa

from tributary_opt import schema
from tributary_opt.storage.frames import canonical, same_rows, typed
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.sql import quote, timestamp_literal

ROWS_AT_ONCE = 50_000
"""Rows of a request or of a part read back, at about a kilobyte each. [-]"""


def with_key(table: schema.Table, rows: pd.DataFrame, as_of: date, run_id: str) -> pd.DataFrame:
    """Rows of a run less as_of and run_id as rows of the table."""
    return typed(table, rows.assign(as_of=pd.Timestamp(midnight(as_of)).as_unit("us"), run_id=run_id))


def write(db: QuestDB, table: schema.Table, rows: pd.DataFrame, as_of: date, run_id: str) -> None:
    """Send a run's rows less as_of and run_id. The run id is read by nobody yet, so no reader can see a part."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        db.send(table, with_key(table, rows.iloc[start : start + ROWS_AT_ONCE], as_of, run_id))


def read(db: QuestDB, table: schema.Table, as_of: date, run_id: str, where: str = "") -> pa.Table:
    """A run's rows as stored, sorted by key; `where` is a further condition."""
    rows = db.query(f"SELECT {', '.join(table.names)} FROM {table.name} WHERE {_of_run(as_of, run_id)}{where}")
    return canonical(table, rows)


def difference(db: QuestDB, table: schema.Table, as_of: date, run_id: str, written: pa.Table) -> str | None:
    """In what the rows of a run that readers see differ from those written; None where they are the same bit for bit.

    `written` is in canonical order. Every stored row of the run is in one of the parts, whatever its market.
    """
    db.wait(table.name)
    ((n_stored,),) = db.rows(f"SELECT count() FROM {table.name} WHERE {_of_run(as_of, run_id)}")
    if n_stored != written.num_rows:
        return f"{table.name} holds {n_stored} rows of run {run_id}, which has {written.num_rows}"
    parts = (read(db, table, as_of, run_id, where) for where in _ranges(written))
    if not same_rows(table.columns, parts, written):
        return f"{table.name} holds other values than run {run_id} has"
    return None


def midnight(day: date) -> datetime:
    """The instant that stands for a day in the tables."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _of_run(as_of: date, run_id: str) -> str:
    return f"as_of = {timestamp_literal(midnight(as_of))} AND run_id = {quote(run_id)}"


def _ranges(rows: pa.Table) -> Iterator[str]:
    """Conditions on market ids that cut rows in canonical order into parts, each row of any market in one of them.

    The order is that of the server's comparison: by code points, as UTF-8 sorts.
    """
    market = rows["market_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    firsts = np.flatnonzero(np.diff(market, prepend=-1))
    wanted = np.arange(ROWS_AT_ONCE, rows.num_rows, ROWS_AT_ONCE)
    cuts = np.unique(firsts[np.searchsorted(firsts, wanted, side="right") - 1])
    ids = [rows["market_id"][int(cut)].as_py() for cut in cuts if cut > 0]
    if not ids:
        yield ""
        return
    yield f" AND NOT market_id >= {quote(ids[0])}"  # those without an id as well
    for first, end in pairwise(ids):
        yield f" AND market_id >= {quote(first)} AND market_id < {quote(end)}"
    yield f" AND market_id >= {quote(ids[-1])}"
