"""The rows of `ac_market_days`: stored, and read back by day and by range of markets."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pandas as pd
import pyarrow as pa

from tributary_opt import schema
from tributary_opt.storage.frames import typed
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.sql import quote, timestamp_literal

BOOKKEEPING = ("statistics_version", "settings_digest", "source_digest")
"""Columns kept only to know when a day must be read again."""

_KNOWN_BY = (
    *("day", "market_id", "token_id", "calendar", "kind", "folded_with", "session_start", "session_end"),
    *BOOKKEEPING,
)


class MarketDayRows:
    """`ac_market_days` on one server."""

    def __init__(self, db: QuestDB):
        self._db = db

    def store(self, rows: pd.DataFrame) -> None:
        """Write rows; the same rows again change nothing."""
        if len(rows):
            self._db.send(schema.MARKET_DAYS, typed(schema.MARKET_DAYS, rows))
            self._db.wait(schema.MARKET_DAYS.name)

    def first_day(self) -> date | None:
        """The earliest day there is a row of."""
        rows = self._db.rows("SELECT day FROM ac_market_days ORDER BY day LIMIT 1")
        return rows[0][0].date() if rows else None

    def market_ids(self, first: date, last: date) -> list[str]:
        """The markets with a row from `first` to `last`, in the order in which the server compares them."""
        days = (_midnight(first), _midnight(last))
        rows = self._db.rows("SELECT DISTINCT market_id FROM ac_market_days WHERE day >= %s AND day <= %s", days)
        return sorted(row[0] for row in rows)  # by code points: as the server compares, not as it orders SYMBOLs

    def known(self, first: date, last: date) -> pd.DataFrame:
        """What tells whether the rows from `first` to `last` are up to date: keys, session and bookkeeping."""
        rows = self._read(f"SELECT {', '.join(_KNOWN_BY)} FROM ac_market_days WHERE {_within(first, last)}")
        frame: pd.DataFrame = rows.to_pandas()
        return frame

    def volumes(self, first: date, last: date) -> pd.DataFrame:
        """What was traded from `first` to `last` by instrument: day, volume, n_trades, open_price, close_price."""
        frame: pd.DataFrame = self._read(
            "SELECT day, market_id, token_id, volume, n_trades, open_price, close_price FROM ac_market_days "
            f"WHERE {_within(first, last)}"
        ).to_pandas()
        return frame

    def load(self, first: date, last: date, markets: tuple[str, str] | None = None) -> pd.DataFrame:
        """Whole rows from `first` to `last`, of all markets or of a range of ids, both ends included, in any order."""
        where = _within(first, last)
        if markets is not None:
            where += f" AND market_id >= {quote(markets[0])} AND market_id <= {quote(markets[1])}"
        return to_frame(self._read(f"SELECT * FROM ac_market_days WHERE {where}"))

    def _read(self, sql: str) -> pa.Table:
        rows = self._db.query(sql)
        for name in rows.column_names:
            if name in ("market_id", "token_id", "folded_with", "source_digest"):
                rows = rows.set_column(rows.column_names.index(name), name, rows[name].fill_null(""))
        return rows


def to_frame(rows: pa.Table) -> pd.DataFrame:
    """Rows of the table as a frame in its order of columns: ids as texts, arrays as numpy arrays."""
    rows = rows.select(schema.MARKET_DAYS.names)
    for i, column in enumerate(schema.MARKET_DAYS.columns):
        # Of days whose ticks have retired, what a newer version measures is unknown: it adds nothing to a sum.
        if column.type in ("INT", "LONG") or (column.type == "DOUBLE" and not column.name.endswith(schema.LEVELS)):
            rows = rows.set_column(i, column.name, rows[column.name].fill_null(0))
    frame: pd.DataFrame = rows.to_pandas()
    for name in ("market_id", "token_id"):
        frame[name] = frame[name].astype(str)
    return frame


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _within(first: date, last: date) -> str:
    return f"day >= {timestamp_literal(_midnight(first))} AND day <= {timestamp_literal(_midnight(last))}"
