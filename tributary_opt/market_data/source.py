"""The ticks: the only SQL on the source tables.

Everything is aggregated in the server. One query gives one statistic for all markets of a session, or for a slice
of them, as 5-minute buckets; no tick ever comes here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa

from tributary_opt import schema
from tributary_opt.settings import SourceTables
from tributary_opt.storage.questdb import QuestDB, quote, timestamp_literal

BUCKET_MINUTES = 5
"""Length of the buckets. [minutes]"""

_LONGEST_IN_LIST = 8_000  # characters; an /exp query is a URL, and 30,000 close the connection
_LARGEST_DOUBLE = "1.7976931348623157e308"


class SourceError(Exception):
    """The source tables cannot be read as they are; the message says what to change."""


@dataclass(frozen=True)
class Fingerprint:
    """What a UTC date's rows add up to: enough to notice that they changed."""

    n_trades: int
    first_trade: datetime | None
    last_trade: datetime | None
    size: float
    notional: float
    n_snapshots: int
    first_snapshot: datetime | None
    last_snapshot: datetime | None
    bids: float
    asks: float

    def text(self) -> str:
        """Canonical text. Sums keep 9 digits: a server adds in parallel, and the last bits of a sum vary."""
        stamps = (self.first_trade, self.last_trade, self.first_snapshot, self.last_snapshot)
        sums = (self.size, self.notional, self.bids, self.asks)
        parts = [str(self.n_trades), str(self.n_snapshots)]
        parts += ["-" if s is None else s.isoformat() for s in stamps]
        return "|".join(parts + [f"{s:.9g}" for s in sums])


@dataclass(frozen=True)
class MarketSlice:
    """Which markets a query is about: all of them, a list, or a range of ids in the server's order."""

    listed: tuple[str, ...] | None = None
    first: str | None = None
    last: str | None = None

    @staticmethod
    def of(markets: list[str]) -> MarketSlice:
        """A slice of exactly these where the list fits a query, else the range that spans them (in the given order)."""
        if sum(len(quote(m)) + 1 for m in markets) <= _LONGEST_IN_LIST:
            return MarketSlice(listed=tuple(markets))
        return MarketSlice(first=markets[0], last=markets[-1])


ALL_MARKETS = MarketSlice()


class Source:
    """The source tables of one server, under the names that the settings give them."""

    def __init__(self, db: QuestDB, tables: SourceTables):
        self._db = db
        self._table: dict[str, str] = {}
        self._column: dict[str, dict[str, str]] = {}
        self._type: dict[str, dict[str, str]] = {}
        for name, table in schema.SOURCE_TABLES.items():
            chosen = getattr(tables, name)
            self._table[name] = chosen.table or name
            self._column[name] = {c: chosen.columns.get(c, c) for c in table.names}

    # --- what is there ---------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise SourceError unless both tick tables are there with the columns and types that are read."""
        for name in ("trades", "orderbook_snapshots"):
            problems = self.problems(name)
            if problems:
                raise SourceError("; ".join(problems))

    def problems(self, name: str) -> list[str]:
        """What keeps a source table from being read, one sentence each; empty: nothing."""
        table, theirs = schema.SOURCE_TABLES[name], self._table[name]
        found = self._types(name)
        if not found:
            return [f"table {theirs} is missing: create it, or name yours in TRIBUTARY_SOURCE_TABLES__{name.upper()}__TABLE"]
        problems = []
        for column in table.columns:
            actual = self._column[name][column.name]
            if actual not in found:
                if column.required:
                    problems.append(
                        f"table {theirs} has no column {actual}: add it, or name yours in "
                        f"TRIBUTARY_SOURCE_TABLES__{name.upper()}__COLUMNS"
                    )
            elif found[actual] not in column.types:
                problems.append(
                    f"column {actual} of table {theirs} is {found[actual]}, must be one of {', '.join(column.types)}"
                )
        return problems

    def newest_trade(self, before: datetime) -> datetime | None:
        """Stamp of the newest trade before an instant."""
        t = self._column["trades"]["timestamp"]
        sql = f"SELECT {t} FROM {self._table['trades']} WHERE {t} < %s ORDER BY {t} DESC LIMIT 1"
        rows = self._db.rows(sql, (before,))
        return _utc(rows[0][0]) if rows else None

    def oldest_row(self) -> datetime | None:
        """Stamp of the oldest row of either tick table."""
        stamps: list[tuple[datetime]] = []
        for name in ("trades", "orderbook_snapshots"):
            t = self._column[name]["timestamp"]
            # Not min(t): an empty table answers that with no row at all.
            stamps += self._db.rows(f"SELECT {t} FROM {self._table[name]} ORDER BY {t} LIMIT 1")
        return min((stamp for (first,) in stamps if (stamp := _utc(first)) is not None), default=None)

    def rows_from(self, instant: datetime) -> int:
        """Rows of both tick tables stamped at or after an instant."""
        n = 0
        for name in ("trades", "orderbook_snapshots"):
            t = self._column[name]["timestamp"]
            n += self._db.rows(f"SELECT count() FROM {self._table[name]} WHERE {t} >= %s", (instant,))[0][0]
        return n

    def fingerprints(self, first: date, last: date) -> dict[date, Fingerprint]:
        """The fingerprint of every UTC date that has rows, in two queries for all of them."""
        trades, books = self._names("trades"), self._names("orderbook_snapshots")
        start, end = _midnight(first), _midnight(last) + timedelta(days=1)
        by_day: dict[date, list[object]] = {}
        queries = (
            (trades, f"sum({trades['size']}), sum({trades['price']} * {trades['size']})"),
            (books, f"sum({books['best_bid']}), sum({books['best_ask']})"),
        )
        for place, (names, sums) in enumerate(queries):
            t = names["timestamp"]
            sql = (
                f"SELECT {t}, count(), min({t}), max({t}), {sums} FROM {names['']} "
                f"WHERE {t} >= %s AND {t} < %s SAMPLE BY 1d ALIGN TO CALENDAR"
            )
            for stamp, *values in self._db.rows(sql, (start, end)):
                row = by_day.setdefault(stamp.date(), [0, None, None, 0.0, 0.0] * 2)
                n, low, high, a, b = values
                row[5 * place : 5 * place + 5] = [n, _utc(low), _utc(high), a or 0.0, b or 0.0]
        return {day: Fingerprint(*row) for day, row in by_day.items()}  # type: ignore[arg-type]

    # --- one session -----------------------------------------------------------------------------------------

    def trade_counts(self, start: datetime, end: datetime) -> pa.Table:
        """Trades by instrument: market_id, token_id, n, n_bad (price or size null, NaN, infinite, zero or negative)."""
        c = self._names("trades")
        return self._db.query(
            f"SELECT {c['market_id']} AS market_id, {c['token_id']} AS token_id, count() AS n, "
            f"sum(CASE WHEN {_usable(c['price'])} AND {_usable(c['size'])} THEN 0 ELSE 1 END) AS n_bad "
            f"FROM {c['']} WHERE {_within(c['timestamp'], start, end)}"
        )

    def book_counts(self, start: datetime, end: datetime) -> pa.Table:
        """Snapshots by instrument: market_id, token_id, n."""
        c = self._names("orderbook_snapshots")
        return self._db.query(
            f"SELECT {c['market_id']} AS market_id, {c['token_id']} AS token_id, count() AS n "
            f"FROM {c['']} WHERE {_within(c['timestamp'], start, end)}"
        )

    def trade_buckets(self, start: datetime, end: datetime, markets: MarketSlice = ALL_MARKETS) -> pa.Table:
        """Usable trades by instrument and 5-minute bucket: counts, volumes and prices."""
        c = self._names("trades")
        p, s, side = c["price"], c["size"], c["side"]
        t = _microseconds(c["timestamp"], self._type_of("trades", "timestamp"))
        return self._db.query(
            f"SELECT timestamp_floor('{BUCKET_MINUTES}m', {t}) AS bucket, "
            f"{c['market_id']} AS market_id, {c['token_id']} AS token_id, count() AS n, sum({s}) AS volume, "
            f"sum({p} * {s}) AS notional, sum({s} * {s}) AS size_squared, first({p}) AS open, max({p}) AS high, "
            f"min({p}) AS low, last({p}) AS close, sum(CASE WHEN {side} = 'buy' THEN {s} ELSE 0.0 END) AS buy_volume, "
            f"sum(CASE WHEN {side} = 'sell' THEN {s} ELSE 0.0 END) AS sell_volume, "
            f"sum(CASE WHEN {side} = 'buy' OR {side} = 'sell' THEN 1 ELSE 0 END) AS n_signed, "
            f"min({t}) AS first_at, max({t}) AS last_at "
            f"FROM {c['']} WHERE {_within(c['timestamp'], start, end)} AND {_usable(p)} AND {_usable(s)}"
            f"{self._only('trades', markets)}"
        )

    def book_buckets(
        self, start: datetime, end: datetime, *, probability: bool, quote_cap_s: float, markets: MarketSlice = ALL_MARKETS
    ) -> pa.Table:
        """Looks at the book by instrument and 5-minute bucket: how many had both sides, their spreads and mids.

        A side is there when its price is a positive number; an ask of 1 of a probability means that there is none.
        A look stands until the instrument's next one, the session's end or `quote_cap_s`, whichever is first.
        """
        c = self._names("orderbook_snapshots")
        kind = self._type_of("orderbook_snapshots", "timestamp")
        t, t_next = _microseconds(c["timestamp"], kind), _microseconds("next", kind)
        has_ask = _usable("ask") + (" AND ask < 1.0" if probability else "")
        has_bid = _usable("bid")
        both = f"{has_bid} AND {has_ask}"
        two = f"{both} AND ask > bid"
        mid = "(bid + ask) / 2"
        cap = int(quote_cap_s * 1e6)
        return self._db.query(
            # The window function stands alone in its level: inside an expression, or beside a renamed timestamp, the
            # server no longer finds its columns.
            f"WITH raw AS (SELECT {c['timestamp']}, {c['market_id']}, {c['token_id']}, {c['best_bid']}, {c['best_ask']}, "
            f"lead({c['timestamp']}) OVER (PARTITION BY {c['market_id']}, {c['token_id']} ORDER BY {c['timestamp']}) AS next "
            f"FROM {c['']} WHERE {_within(c['timestamp'], start, end)}{self._only('orderbook_snapshots', markets)}), "
            f"looks AS (SELECT {t} AS at, {c['market_id']} AS market_id, {c['token_id']} AS token_id, "
            f"{c['best_bid']} AS bid, {c['best_ask']} AS ask, "
            f"datediff('u', {t}, coalesce({t_next}, {timestamp_literal(end)}::timestamp)) AS gap FROM raw) "
            f"SELECT timestamp_floor('{BUCKET_MINUTES}m', at) AS bucket, market_id, token_id, count() AS n, "
            f"sum(CASE WHEN {two} THEN 1 ELSE 0 END) AS n_two_sided, "
            f"sum(CASE WHEN {both} AND ask <= bid THEN 1 ELSE 0 END) AS n_crossed, "
            f"sum(CASE WHEN {has_bid} THEN 1 ELSE 0 END) AS n_bid, sum(CASE WHEN {has_ask} THEN 1 ELSE 0 END) AS n_ask, "
            f"sum(CASE WHEN {two} THEN least(gap, {cap}L) ELSE 0L END) AS quoted_us, "
            f"sum(CASE WHEN {two} THEN (ask - bid) * least(gap, {cap}L) ELSE 0.0 END) AS spread_us, "
            f"sum(CASE WHEN {two} THEN ask - bid ELSE 0.0 END) AS spread_sum, "
            f"sum(CASE WHEN {two} THEN {mid} ELSE 0.0 END) AS mid_sum, "
            f"last_not_null(CASE WHEN {two} THEN {mid} END) AS last_mid, "
            f"max(CASE WHEN {two} THEN at END) AS last_mid_at, min(at) AS first_at, max(at) AS last_at "
            f"FROM looks"
        )

    def in_server_order(self, markets: list[str], name: str = "trades") -> list[str]:
        """Market ids in the order in which the server compares them (UTF-16 for SYMBOL, UTF-8 for VARCHAR)."""
        kind = self._type_of(name, "market_id")
        return sorted(markets, key=lambda m: m.encode("utf-8" if kind == "VARCHAR" else "utf-16-be", "surrogatepass"))

    # --- reference data --------------------------------------------------------------------------------------

    def reference(self) -> pa.Table | None:
        """The `markets` table, newest row of each instrument; None where there is no such table."""
        found = self._types("markets")
        if not found:
            return None
        problems = self.problems("markets")
        if problems:
            raise SourceError("; ".join(problems))
        names = self._column["markets"]
        chosen = [
            f"{names[c.name]}::timestamp AS {c.name}" if c.types == ("TIMESTAMP", "TIMESTAMP_NS") else f"{names[c.name]} AS {c.name}"
            for c in schema.MARKETS.columns
            if names[c.name] in found
        ]
        return self._db.query(f"SELECT {', '.join(chosen)} FROM {self._table['markets']}")

    # --- inside ----------------------------------------------------------------------------------------------

    def _types(self, name: str) -> dict[str, str]:
        if name not in self._type:
            self._type[name] = self._db.columns(self._table[name])
        return self._type[name]

    def _type_of(self, name: str, column: str) -> str:
        return self._types(name)[self._column[name][column]]

    def _names(self, name: str) -> dict[str, str]:
        self._types(name)
        return {**self._column[name], "": self._table[name]}

    def _only(self, name: str, markets: MarketSlice) -> str:
        column = self._column[name]["market_id"]
        if markets.listed is not None:
            return f" AND {column} IN ({', '.join(quote(m) for m in markets.listed)})"
        if markets.first is not None and markets.last is not None:
            return f" AND {column} >= {quote(markets.first)} AND {column} <= {quote(markets.last)}"
        return ""


def _usable(column: str) -> str:
    # Not NOT(...): the server calls neither `NULL > 0` nor its negation true. The upper bound keeps infinities out.
    return f"{column} > 0 AND {column} <= {_LARGEST_DOUBLE}"


def _within(column: str, start: datetime, end: datetime) -> str:
    return f"{column} >= {timestamp_literal(start)} AND {column} < {timestamp_literal(end)}"


def _microseconds(column: str, kind: str) -> str:
    # A TIMESTAMP_NS in a coalesce with a microsecond literal, and its floor, would come back in two units.
    return f"{column}::timestamp" if kind == "TIMESTAMP_NS" else column


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _utc(stamp: datetime | None) -> datetime | None:
    return None if stamp is None else stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp
