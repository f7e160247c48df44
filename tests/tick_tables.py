"""Small source tables for tests: ticks written as rows, sent to a real server, and read back by the code under test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd

from tributary_opt import schema
from tributary_opt.market_data.market_days import MarketDays, Window
from tributary_opt.market_data.markets import ReferenceData
from tributary_opt.market_data.source import Source
from tributary_opt.settings import SourceTables, StatisticsRules
from tributary_opt.storage.market_day_rows import MarketDayRows
from tributary_opt.storage.questdb import QuestDB

Row = Mapping[str, Any]


def trade(
    at: str, market: str | None, price: float | None, size: float | None, side: str | None = None, **more: Any
) -> Row:
    """One trade; its id is made of everything else unless given."""
    row = {"timestamp": at, "market_id": market, "token_id": market, "side": side, "price": price, "size": size}
    return {**row, "trade_id": f"{at}|{market}|{price}|{size}|{side}", **more}


def book(at: str, market: str | None, bid: float | None, ask: float | None, **more: Any) -> Row:
    """One look at the book."""
    return {"timestamp": at, "market_id": market, "token_id": market, "best_bid": bid, "best_ask": ask, **more}


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a frame in the types that are sent."""
    out = pd.DataFrame(list(rows))
    for name in out.columns:
        if name in ("timestamp", "updated_at", "resolution_time"):
            out[name] = pd.to_datetime(out[name], utc=True, format="ISO8601").dt.as_unit("us")
        elif name in (
            "price",
            "size",
            "best_bid",
            "best_ask",
            "tick_size",
            "lot_size",
            "taker_fee",
            "contract_multiplier",
        ):
            out[name] = out[name].astype(float)
    return out


def empty(db: QuestDB) -> None:
    """Drop every view and table."""
    for (view,) in db.rows("SELECT view_name FROM views()"):
        db.execute(f'DROP VIEW "{view}"')
    for table in db.tables():
        db.execute(f'DROP TABLE "{table}"')


def create(db: QuestDB, tables: SourceTables = SourceTables(), *, varchar: bool = False, ns: bool = False) -> None:
    """The two tick tables, under the names that the settings give them."""
    for name in ("trades", "orderbook_snapshots"):
        chosen = getattr(tables, name)
        renamed = {ours: f'"{theirs}"' for ours, theirs in chosen.columns.items()}
        ddl = schema.SOURCE_TABLES[name].ddl(f'"{chosen.table or name}"', renamed)
        if varchar:
            ddl = ddl.replace(" SYMBOL", " VARCHAR")
        if ns:
            ddl = ddl.replace(" TIMESTAMP,", " TIMESTAMP_NS,")
        db.execute(ddl)


def send(db: QuestDB, table: str, rows: Iterable[Row] | pd.DataFrame) -> None:
    """Rows into a table of the server, in its types, visible on return."""
    values = rows if isinstance(rows, pd.DataFrame) else frame(rows)
    if not len(values):
        return
    values = values.copy()
    types = db.columns(table)
    for name in values.columns:
        if types[name] == "SYMBOL":
            values[name] = values[name].astype("category")
        elif types[name] == "VARCHAR":
            values[name] = values[name].astype(object).where(values[name].notna(), None)
        elif types[name] == "BOOLEAN":
            values[name] = values[name].astype("boolean")
    db.send(table, values)
    db.wait(table)


def load(
    db: QuestDB,
    trades: Iterable[Row] | pd.DataFrame = (),
    books: Iterable[Row] | pd.DataFrame = (),
    markets: Iterable[Row] | pd.DataFrame | None = None,
) -> None:
    """Source tables with these rows, created where they are missing."""
    create(db)
    send(db, "trades", trades)
    send(db, "orderbook_snapshots", books)
    if markets is not None:
        db.execute(schema.MARKETS.ddl())
        rows = frame(markets) if not isinstance(markets, pd.DataFrame) else markets.copy()
        if "updated_at" not in rows:
            rows["updated_at"] = pd.Timestamp("2020-01-01", tz="UTC").as_unit("us")
        send(db, "markets", rows)


class Spy(Source):
    """A source that remembers what it was asked about sessions: (query, first day)."""

    def __init__(self, db: QuestDB, tables: SourceTables = SourceTables()):
        super().__init__(db, tables)
        self.asked: list[tuple[str, date]] = []

    def trade_counts(self, start: datetime, end: datetime) -> Any:
        self.asked.append(("trade_counts", start.date()))
        return super().trade_counts(start, end)

    def book_counts(self, start: datetime, end: datetime) -> Any:
        self.asked.append(("book_counts", start.date()))
        return super().book_counts(start, end)

    def trade_buckets(self, start: datetime, end: datetime, *args: Any, **kwargs: Any) -> Any:
        self.asked.append(("trade_buckets", start.date()))
        return super().trade_buckets(start, end, *args, **kwargs)

    def book_buckets(self, start: datetime, end: datetime, **kwargs: Any) -> Any:
        self.asked.append(("book_buckets", start.date()))
        return super().book_buckets(start, end, **kwargs)


def market_days(
    db: QuestDB,
    markets: Iterable[Row] | pd.DataFrame | None = None,
    rules: StatisticsRules = StatisticsRules(),
    *,
    source: Source | None = None,
    sink: QuestDB | None = None,
    markets_per_slice: int = 5_000,
) -> MarketDays:
    """Market days over a server whose own tables exist."""
    sink = sink or db
    sink.create(schema.MARKET_DAYS)
    rows = None if markets is None else markets if isinstance(markets, pd.DataFrame) else frame(markets)
    reference = ReferenceData(rows)
    rows, source = MarketDayRows(sink), source or Source(db, SourceTables())
    return MarketDays(rows, source, reference, rules, markets_per_slice=markets_per_slice)


def observe(days: MarketDays, as_of: date, lookback: int = 5, *, reread: bool = False) -> list[date]:
    """Bring the market days up to date as a night does; the days that were read."""
    outdated = days.outdated(days.window(as_of, lookback), reread=reread)
    read = [days.read(day, outdated) for day in outdated]
    if read:
        days.store(pd.concat(read, ignore_index=True))
    return outdated


def stored(days: MarketDays, as_of: date, lookback: int = 5) -> pd.DataFrame:
    """The stored rows of a window."""
    return days.load(days.window(as_of, lookback))


def window(calendar: str, days: Sequence[date], lookback: int | None = None) -> Window:
    """A window of given days."""
    return Window(days[-1], lookback or len(days), {calendar: list(days)})


def assert_same_rows(left: pd.DataFrame, right: pd.DataFrame, *, but: Sequence[str] = ()) -> None:
    """Equal to the last bit, missing values and arrays included."""
    assert list(left.columns) == list(right.columns)
    assert len(left) == len(right)
    for name in left.columns:
        if name in but:
            continue
        if isinstance(left[name].dtype, pd.ArrowDtype):
            assert left[name].array.__arrow_array__().equals(right[name].array.__arrow_array__()), name
            continue
        a, b = left[name].to_list(), right[name].to_list()
        for row, (x, y) in enumerate(zip(a, b, strict=True)):
            if isinstance(x, np.ndarray) or isinstance(y, np.ndarray):
                same = x is not None and y is not None and np.array_equal(x, y, equal_nan=True)
            else:
                same = bool(x == y) or (pd.isna(x) and pd.isna(y))
            assert same, (name, row, x, y)
