"""The ticks: the only SQL on the source tables.

Everything is aggregated in the server. One query gives one statistic for all markets of a session, or for a slice
of them, as 5-minute buckets; no tick ever comes here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa

from tributary_opt import schema
from tributary_opt.settings import SourceTables
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.sql import quote, timestamp_literal

BUCKET_MINUTES = 5
"""Length of the buckets. [minutes]"""

_TWO, _CROSSED, _BID, _ASK = 4, 3, 2, 1
"""Which sides a look at the book has: both and a spread, both and none, one of them."""

_FRESH, _AWAY = 0.2, 0.5
"""A mid that is to judge a side: how far it may have moved by the trade, and how far off that is. [half-spread]"""

_LONGEST_IN_LIST = 8_000  # characters; an /exp query is a URL, and 30,000 close the connection


class SourceError(Exception):
    """The source tables cannot be read as they are; the message says what to change."""


@dataclass(frozen=True)
class Fingerprint:
    """What a UTC date's rows add up to: enough to notice that they changed."""

    n_trades: int
    first_trade: datetime | None
    last_trade: datetime | None
    size: int
    notional: int
    n_snapshots: int
    first_snapshot: datetime | None
    last_snapshot: datetime | None
    bids: int
    asks: int

    def text(self) -> str:
        """Canonical text."""
        stamps = (self.first_trade, self.last_trade, self.first_snapshot, self.last_snapshot)
        sums = (self.n_trades, self.n_snapshots, self.size, self.notional, self.bids, self.asks)
        return "|".join([*("-" if s is None else s.isoformat() for s in stamps), *(str(n) for n in sums)])


@dataclass(frozen=True)
class MarketSlice:
    """Which markets a query is about: all, or these (where their list is too long, those between them as well)."""

    markets: tuple[str, ...] | None = None


ALL_MARKETS = MarketSlice()

NO_WALKS = pa.table(
    {
        "bucket": pa.array([], pa.timestamp("us")),
        "market_id": pa.array([], pa.string()),
        "token_id": pa.array([], pa.string()),
        **{name: pa.array([], pa.int64()) for name in ("n_depth", "n_walked")},
        **{name: pa.array([], pa.float64()) for name in ("walk_size", "walk_cost", "walk_half_spread")},
    }
)


class Source:
    """The source tables of one server, under the names that the settings give them."""

    def __init__(self, db: QuestDB, tables: SourceTables):
        self._db = db
        self._table: dict[str, str] = {}
        self._column: dict[str, dict[str, str]] = {}
        self._type: dict[str, dict[str, str]] = {}
        for name, table in schema.READ_TABLES.items():
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
        table, theirs = schema.READ_TABLES[name], self._table[name]
        found = self._types(name)
        if not found:
            setting = f"TRIBUTARY_SOURCE_TABLES__{name.upper()}__TABLE"
            return [f"table {theirs} is missing: create it, or name yours in {setting}"]
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
        c = self._names("trades")
        t = c["timestamp"]
        sql = f"SELECT {t} FROM {c['']} WHERE {t} < %s ORDER BY {t} DESC LIMIT 1"
        rows = self._db.rows(sql, (before,))
        return _utc(rows[0][0]) if rows else None

    def oldest_row(self) -> datetime | None:
        """Stamp of the oldest row of either tick table."""
        stamps: list[tuple[datetime]] = []
        for name in ("trades", "orderbook_snapshots"):
            c = self._names(name)
            t = c["timestamp"]
            # Not min(t): an empty table answers that with no row at all.
            stamps += self._db.rows(f"SELECT {t} FROM {c['']} ORDER BY {t} LIMIT 1")
        return min((stamp for (first,) in stamps if (stamp := _utc(first)) is not None), default=None)

    def rows_from(self, instant: datetime) -> int:
        """Rows of both tick tables stamped at or after an instant."""
        n = 0
        for name in ("trades", "orderbook_snapshots"):
            c = self._names(name)
            n += self._db.rows(f"SELECT count() FROM {c['']} WHERE {c['timestamp']} >= %s", (instant,))[0][0]
        return n

    def fingerprints(self, first: date, last: date) -> dict[date, Fingerprint]:
        """The fingerprint of every UTC date that has rows, in two queries for all of them."""
        start, end = _midnight(first), _midnight(last) + timedelta(days=1)
        n, by_day = self._number, dict[date, list[object]]()
        queries = (
            ("trades", (n("trades", "size"), f"{n('trades', 'price')} * {n('trades', 'size')}")),
            ("orderbook_snapshots", (n("orderbook_snapshots", "best_bid"), n("orderbook_snapshots", "best_ask"))),
        )
        for place, (name, values) in enumerate(queries):
            c = self._names(name)
            t = c["timestamp"]
            sql = (
                f"SELECT {t}, count(), min({t}), max({t}), {', '.join(_exact_sum(v) for v in values)} FROM {c['']} "
                f"WHERE {t} >= %s AND {t} < %s SAMPLE BY 1d ALIGN TO CALENDAR"
            )
            for stamp, count, low, high, a, b in self._db.rows(sql, (start, end)):
                row = by_day.setdefault(stamp.date(), [0, None, None, 0, 0] * 2)
                row[5 * place : 5 * place + 5] = [count, _utc(low), _utc(high), a or 0, b or 0]
        return {day: Fingerprint(*row) for day, row in by_day.items()}  # type: ignore[arg-type]

    # --- one session -----------------------------------------------------------------------------------------

    def trade_counts(self, start: datetime, end: datetime) -> pa.Table:
        """Trades by instrument: market_id, token_id, n, n_bad (no usable price or size), n_no_side (no aggressor)."""
        c, p, s = self._names("trades"), self._number("trades", "price"), self._number("trades", "size")
        return self._db.query(
            f"SELECT {c['market_id']} AS market_id, {c['token_id']} AS token_id, count() AS n, "
            f"sum(CASE WHEN {_usable(p)} AND {_usable(s)} THEN 0 ELSE 1 END) AS n_bad, "
            f"sum(CASE WHEN {_given(c['side'])} THEN 0 ELSE 1 END) AS n_no_side "
            f"FROM {c['']} WHERE {_within(c['timestamp'], start, end)}"
        )

    def volumes(self, start: datetime, end: datetime) -> pa.Table:
        """Usable trades by instrument: market_id, token_id, volume, n_trades, open_price, close_price."""
        c, p, s = self._names("trades"), self._number("trades", "price"), self._number("trades", "size")
        return self._db.query(
            f"SELECT {c['market_id']} AS market_id, {c['token_id']} AS token_id, sum({s}) AS volume, "
            f"count() AS n_trades, first({p}) AS open_price, last({p}) AS close_price "
            f"FROM {c['']} WHERE {_within(c['timestamp'], start, end)} AND {_usable(p)} AND {_usable(s)}"
        )

    def book_counts(self, start: datetime, end: datetime) -> pa.Table:
        """Snapshots by instrument: market_id, token_id, n."""
        c = self._names("orderbook_snapshots")
        return self._db.query(
            f"SELECT {c['market_id']} AS market_id, {c['token_id']} AS token_id, count() AS n "
            f"FROM {c['']} WHERE {_within(c['timestamp'], start, end)}"
        )

    def trade_buckets(self, start: datetime, end: datetime, markets: MarketSlice = ALL_MARKETS) -> pa.Table:
        """Usable trades by instrument and 5-minute bucket: counts, volumes and prices; sides as given.

        `signed_size_squared` is of trades with a side, as `buy_volume` and `sell_volume` are.
        """
        c = self._names("trades")
        p, s, side = self._number("trades", "price"), self._number("trades", "size"), c["side"]
        buys, sells = _is(side, "buy"), _is(side, "sell")
        t = _microseconds(c["timestamp"], self._type_of("trades", "timestamp"))
        return self._db.query(
            f"SELECT timestamp_floor('{BUCKET_MINUTES}m', {t}) AS bucket, "
            f"{c['market_id']} AS market_id, {c['token_id']} AS token_id, count() AS n, sum({s}) AS volume, "
            f"sum({p} * {s}) AS notional, sum({s} * {s}) AS size_squared, first({p}) AS open, max({p}) AS high, "
            f"min({p}) AS low, last({p}) AS close, sum(CASE WHEN {buys} THEN {s} ELSE 0.0 END) AS buy_volume, "
            f"sum(CASE WHEN {sells} THEN {s} ELSE 0.0 END) AS sell_volume, "
            f"sum(CASE WHEN {buys} THEN {p} * {s} ELSE 0.0 END) AS buy_notional, "
            f"sum(CASE WHEN {sells} THEN {p} * {s} ELSE 0.0 END) AS sell_notional, "
            f"sum(CASE WHEN {_given(side)} THEN 1 ELSE 0 END) AS n_signed, "
            f"sum(CASE WHEN {_given(side)} THEN {s} * {s} ELSE 0.0 END) AS signed_size_squared, "
            f"min({t}) AS first_at, max({t}) AS last_at "
            f"FROM {c['']} WHERE {_within(c['timestamp'], start, end)} AND {_usable(p)} AND {_usable(s)}"
            f"{self._only('trades', markets)}"
        )

    def quoted_trades(
        self,
        start: datetime,
        end: datetime,
        *,
        probability: bool,
        infer: bool,
        fold: bool = False,
        tick_rule: bool = True,
        markets: MarketSlice = ALL_MARKETS,
    ) -> pa.Table:
        """Usable trades against the last two-sided mid strictly before them, by instrument and 5-minute bucket.

        `buy_volume` … `sell_notional`, `signed_size_squared`, `n_quote_rule` and `n_tick_rule` are of trades whose
        aggressor is *not* given, and 0 unless `infer`: a price above that mid was bought, below it sold (the quote
        rule). At the mid, or before the first one, the sign of the last change of price of the instrument's trades
        decides (the tick rule), unless `tick_rule` is off.
        `effective_*` are of all signed trades that have a mid before: Σ size, and Σ size·2·sign·(price - mid).
        `n_sides_*`, `compared_*` and `contradicted_volume` are of trades whose aggressor *is* given, half of a
        half-spread or more away from a fresh mid: all of them, and those on the other side of it than given. Fresh is
        a mid that moves by less than a fifth of its half-spread until the trade, at the pace of the mids within
        buckets. `n_quote_rule_fresh` counts the trades of `n_quote_rule` that stand as far from such a mid.
        `late_*` are of all signed trades after the last two-sided look of their bucket, or in a bucket without one:
        volume and notional of buys and sells, and squared sizes. The move of the mid that they belong to is the next
        bucket's.

        `fold` makes one series of each market first, that of its smallest token_id: prices p of any other are 1 - p,
        its buys are sells and its mids in the mirror. It is for markets whose ticks are all of one or two tokens.

        Two prices are the same when they agree to 1e-9 relative. Folded ones to 1e-9, which is as much on either axis:
        1 - p has the rounding errors of 1, however small it is.
        """
        t, b = self._names("trades"), self._names("orderbook_snapshots")
        price, size = self._number("trades", "price"), self._number("trades", "size")
        bid, ask = self._number("orderbook_snapshots", "best_bid"), self._number("orderbook_snapshots", "best_ask")
        fills = (
            f"SELECT {t['timestamp']} AS at, {t['market_id']} AS market_id, {t['token_id']} AS token_id, "
            f"{t['side']} AS side, {price} AS price, {size} AS size FROM {t['']} "
            f"WHERE {_within(t['timestamp'], start, end)} AND {_usable(price)} AND {_usable(size)}"
            f"{self._only('trades', markets)}"
        )
        looks = (
            f"SELECT {b['timestamp']} AS at, {b['market_id']} AS market_id, {b['token_id']} AS token_id, "
            f"({bid} + {ask}) / 2 AS mid, ({ask} - {bid}) / 2 AS half FROM {b['']} "
            f"WHERE {_within(b['timestamp'], start, end)} "
            f"AND {_two_sided(bid, ask, probability)}{self._only('orderbook_snapshots', markets)}"
        )
        # TIMESTAMP(at): of a subquery the server often no longer knows by which column it is in order.
        apart = f"fills AS (({fills}) TIMESTAMP(at)), looks AS (({looks}) TIMESTAMP(at))"
        series = _folded(fills, looks) if fold else apart

        def above(price: str, other: str) -> str:
            return f"{price} - {other}" if fold else f"{price} / {other} - 1"

        names = "at, market_id, token_id, side, price, size"
        of_trade = _microseconds("at", self._type_of("trades", "timestamp"))
        timed = f"{names}, timestamp_floor('{BUCKET_MINUTES}m', {of_trade}) AS bucket"
        if infer and tick_rule:
            # Each window function in a level of its own (see `book_buckets`).
            own, change = "OVER (PARTITION BY market_id, token_id ORDER BY at)", above("price", "before")
            trades = (
                f"raw AS (SELECT {names}, lag(price) {own} AS before FROM fills), "
                f"steps AS (SELECT {names}, CASE WHEN {_above_zero(change)} THEN 1 "
                f"WHEN {_below_zero(change)} THEN -1 END AS step FROM raw), "
                f"ticks AS (SELECT {names}, last_value(step) IGNORE NULLS {own} AS tick FROM steps), "
                f"t AS ((SELECT {timed}, tick FROM ticks) TIMESTAMP(at))"
            )
        else:
            trades = f"t AS ((SELECT {timed}, NULL::int AS tick FROM fills) TIMESTAMP(at))"
        at = _microseconds("t.at", self._type_of("trades", "timestamp"))
        look_at, stamp = (
            _microseconds(c, self._type_of("orderbook_snapshots", "timestamp")) for c in ("looks.at", "at")
        )
        paces = (
            f"paths AS (SELECT timestamp_floor('{BUCKET_MINUTES}m', {stamp}) AS bucket, market_id, token_id, "
            f"last(mid) - first(mid) AS move, max({stamp}) AS last_look, "
            f"datediff('u', min({stamp}), max({stamp})) AS took FROM looks), "
            f"paces AS (SELECT market_id, token_id, sum(move * move) / sum(took) AS pace FROM paths)"
        )
        late = f"CASE WHEN paths.last_look >= {at} THEN 0 ELSE 1 END"
        moved = f"paces.pace * datediff('u', {look_at}, {at}) / (looks.half * looks.half)"
        beside = (
            f"CASE WHEN {moved} <= {_FRESH**2!r} AND abs(t.price - looks.mid) / looks.half >= {_AWAY - 1e-9!r} "
            f"THEN sign(t.price - looks.mid) ELSE 0.0 END"
        )
        quoted = above("t.price", "looks.mid")
        inferred = (
            f"WHEN {_above_zero(quoted)} THEN 2 WHEN {_below_zero(quoted)} THEN -2 WHEN t.tick > 0 THEN 1 "
            f"WHEN t.tick < 0 THEN -1 "
        )
        given = f"WHEN {_is('t.side', 'buy')} THEN 3 WHEN {_is('t.side', 'sell')} THEN -3"
        rule = f"CASE {given} {inferred if infer else ''}ELSE 0 END"

        def total(value: str, *rules: int) -> str:
            return f"sum(CASE WHEN rule IN ({', '.join(map(str, rules))}) THEN {value} ELSE 0.0 END)"

        # The rule is a key of the first sums: the server works it out once a trade, not once in every sum.
        return self._db.query(
            f"WITH {series}, {trades}, {paces}, sums AS ("
            f"SELECT t.bucket AS bucket, t.market_id AS market_id, t.token_id AS token_id, {rule} AS rule, "
            f"{beside} AS beside, {late} AS late, count() AS n, sum(t.size) AS volume, "
            f"sum(t.size * t.size) AS size_squared, "
            f"sum(t.price * t.size) AS notional, "
            f"sum(CASE WHEN looks.mid IS NOT NULL THEN t.size ELSE 0.0 END) AS quoted, "
            f"sum((t.price - looks.mid) * t.size) AS above "
            f"FROM t LT JOIN looks ON t.market_id = looks.market_id AND t.token_id = looks.token_id "
            f"LEFT JOIN paces ON t.market_id = paces.market_id AND t.token_id = paces.token_id "
            f"LEFT JOIN paths ON t.market_id = paths.market_id AND t.token_id = paths.token_id "
            f"AND t.bucket = paths.bucket) "
            f"SELECT bucket, market_id, token_id, "
            f"{total('volume', 1, 2)} AS buy_volume, {total('volume', -1, -2)} AS sell_volume, "
            f"{total('notional', 1, 2)} AS buy_notional, {total('notional', -1, -2)} AS sell_notional, "
            f"{total('size_squared', 1, 2, -1, -2)} AS signed_size_squared, "
            f"{total('late * size_squared', 1, 2, 3, -1, -2, -3)} AS late_size_squared, "
            f"{total('late * volume', 1, 2, 3)} AS late_buy_volume, "
            f"{total('late * volume', -1, -2, -3)} AS late_sell_volume, "
            f"{total('late * notional', 1, 2, 3)} AS late_buy_notional, "
            f"{total('late * notional', -1, -2, -3)} AS late_sell_notional, "
            f"sum(CASE WHEN abs(rule) = 2 THEN n ELSE 0L END) AS n_quote_rule, "
            f"sum(CASE WHEN abs(rule) = 1 THEN n ELSE 0L END) AS n_tick_rule, "
            f"sum(CASE WHEN rule <> 0 THEN quoted ELSE 0.0 END) AS effective_volume, "
            f"sum(CASE WHEN rule <> 0 THEN 2 * sign(rule) * coalesce(above, 0.0) ELSE 0.0 END) "
            f"AS effective_spread_volume, "
            f"sum(CASE WHEN abs(rule) = 2 AND beside <> 0 THEN n ELSE 0L END) AS n_quote_rule_fresh, "
            f"sum(CASE WHEN abs(rule) = 3 AND beside <> 0 THEN n ELSE 0L END) AS n_sides_compared, "
            f"sum(CASE WHEN beside * rule < -2 THEN n ELSE 0L END) AS n_sides_contradicted, "
            f"sum(CASE WHEN abs(rule) = 3 AND beside <> 0 THEN volume ELSE 0.0 END) AS compared_volume, "
            f"sum(CASE WHEN abs(rule) = 3 AND beside <> 0 THEN size_squared ELSE 0.0 END) AS compared_size_squared, "
            f"sum(CASE WHEN beside * rule < -2 THEN volume ELSE 0.0 END) AS contradicted_volume "
            f"FROM sums"
        )

    def book_buckets(
        self,
        start: datetime,
        end: datetime,
        *,
        probability: bool,
        quote_cap_s: float,
        markets: MarketSlice = ALL_MARKETS,
    ) -> pa.Table:
        """Looks at the book by instrument and 5-minute bucket: how many had both sides, their spreads and mids.

        first_mid and last_mid are those of the bucket's first and last look with both sides, with the times of these.

        A side is there when its price is a number from 1e-60 to 1e60; an ask of 1 of a probability means that there is
        none. A look stands until the instrument's next one, the session's end or `quote_cap_s`, whichever is first.
        """
        c = self._names("orderbook_snapshots")
        kind = self._type_of("orderbook_snapshots", "timestamp")
        t, t_next = _microseconds(c["timestamp"], kind), _microseconds("next_look", kind)
        has_bid, has_ask = _usable("bid"), _has_ask("ask", probability)
        sides = (
            f"CASE WHEN {has_bid} THEN (CASE WHEN {has_ask} THEN "
            f"(CASE WHEN {_above('bid', 'ask')} > 0 THEN {_TWO} ELSE {_CROSSED} END) ELSE {_BID} END) "
            f"WHEN {has_ask} THEN {_ASK} ELSE 0 END"
        )
        cap = int(quote_cap_s * 1e6)

        def total(value: str, *states: int) -> str:
            zero = "0L" if value in ("n", "stood") else "0.0"
            return f"sum(CASE WHEN sides IN ({', '.join(map(str, states))}) THEN {value} ELSE {zero} END)"

        # Which sides there are is a key of the first sums: the server works it out once a look, not once in every sum.
        return self._db.query(
            # The window function stands alone in its level: inside an expression, or beside a renamed timestamp, the
            # server no longer finds its columns.
            f"WITH raw AS (SELECT {c['timestamp']}, {c['market_id']}, {c['token_id']}, {c['best_bid']}, "
            f"{c['best_ask']}, lead({c['timestamp']}) OVER "
            f"(PARTITION BY {c['market_id']}, {c['token_id']} ORDER BY {c['timestamp']}) AS next_look "
            f"FROM {c['']} WHERE {_within(c['timestamp'], start, end)}{self._only('orderbook_snapshots', markets)}), "
            f"looks AS (SELECT {t} AS at, {c['market_id']} AS market_id, {c['token_id']} AS token_id, "
            f"{self._number('orderbook_snapshots', 'best_bid')} AS bid, "
            f"{self._number('orderbook_snapshots', 'best_ask')} AS ask, "
            f"least(datediff('u', {t}, coalesce({t_next}, {timestamp_literal(end)}::timestamp)), {cap}L) AS gap "
            f"FROM raw), "
            f"sums AS (SELECT timestamp_floor('{BUCKET_MINUTES}m', at) AS bucket, market_id, token_id, "
            f"{sides} AS sides, count() AS n, sum(gap) AS stood, sum((ask - bid) * gap) AS spread_stood, "
            f"sum(ask - bid) AS spread, sum((bid + ask) / 2) AS mid, first((bid + ask) / 2) AS first_mid, "
            f"last((bid + ask) / 2) AS last_mid, min(at) AS first_at, max(at) AS last_at FROM looks) "
            f"SELECT bucket, market_id, token_id, sum(n) AS n, {total('n', _TWO)} AS n_two_sided, "
            f"{total('n', _CROSSED)} AS n_crossed, {total('n', _TWO, _CROSSED, _BID)} AS n_bid, "
            f"{total('n', _TWO, _CROSSED, _ASK)} AS n_ask, {total('stood', _TWO)} AS quoted_us, "
            f"{total('spread_stood', _TWO)} AS spread_us, {total('spread', _TWO)} AS spread_sum, "
            f"{total('mid', _TWO)} AS mid_sum, "
            f"last_not_null(CASE WHEN sides = {_TWO} THEN first_mid END) AS first_mid, "
            f"min(CASE WHEN sides = {_TWO} THEN first_at END) AS first_mid_at, "
            f"last_not_null(CASE WHEN sides = {_TWO} THEN last_mid END) AS last_mid, "
            f"max(CASE WHEN sides = {_TWO} THEN last_at END) AS last_mid_at, "
            f"min(first_at) AS first_at, max(last_at) AS last_at FROM sums"
        )

    def walks(
        self,
        start: datetime,
        end: datetime,
        *,
        probability: bool,
        pct_volume: float,
        markets: MarketSlice = ALL_MARKETS,
    ) -> pa.Table:
        """Marketable orders through every look with depth, added up by instrument: none without trades or sizes.

        The order is `pct_volume` % of the instrument's volume from `start` to `end`. A look counts in `n_depth` when it
        is two-sided and both sides have levels of sizes >= 0, or else a size at the best price: one level. In
        `n_walked`, and in the sums after it, count those that hold the order on both sides: `walk_size`, its size;
        `walk_cost`, half of its average price as a buy less that as a sale; `walk_half_spread`. `bucket` is the first.
        """
        found = self._types("orderbook_snapshots")
        b = self._names("orderbook_snapshots")
        theirs = self._column["orderbook_snapshots"]
        of_levels, of_best = (
            all(theirs[name] in found for name in names)
            for names in (("bid_prices", "bid_sizes", "ask_prices", "ask_sizes"), ("bid_size", "ask_size"))
        )
        if not (of_levels or of_best):
            return NO_WALKS
        bid, ask = self._number("orderbook_snapshots", "best_bid"), self._number("orderbook_snapshots", "best_ask")
        columns = {"bid": bid, "ask": ask}
        if of_levels:
            columns |= {
                f"{side}_{what}": f"{b[f'{side}_{what}']}::double[]"
                for side in ("bid", "ask")
                for what in ("prices", "sizes")
            }
        if of_best:
            columns |= {f"{side}_best": self._number("orderbook_snapshots", f"{side}_size") for side in ("bid", "ask")}
        t = self._names("trades")
        p, s = self._number("trades", "price"), self._number("trades", "size")
        at = _microseconds(b["timestamp"], self._type_of("orderbook_snapshots", "timestamp"))

        def branches(side: str, value: Callable[[str, str], str]) -> str:
            """CASE branches over where the sizes of a side stand: `value` of (sizes, prices)."""
            cases = []
            if of_levels:
                sizes, prices = f"{side}_sizes", f"{side}_prices"
                # The server fails the query, not the row, over lengths that differ, and over the length of a null.
                there = f"array_count({sizes}) > 0 AND array_count({prices}) = array_count({sizes})"
                same = f"dim_length({sizes}, 1) = dim_length({prices}, 1) AND array_min({sizes}) >= 0"
                cases.append(f"WHEN {there} AND {same} THEN {value(sizes, prices)}")
            if of_best:
                cases.append(f"WHEN {_usable(f'{side}_best')} THEN {value(f'{side}_best', side)}")
            return f"CASE {' '.join(cases)} END"

        filled = ", ".join(
            f"{branches(side, value)} AS {name}"
            for side, there, price in (("bid", "bids", "sold"), ("ask", "asks", "bought"))
            for name, value in (
                (there, lambda sizes, prices: "1"),
                (price, lambda sizes, prices: f"l2price(q, {sizes}, {prices})"),
            )
        )
        walked = "sold IS NOT NULL AND bought IS NOT NULL"
        return self._db.query(
            f"WITH orders AS (SELECT {t['market_id']} AS market_id, {t['token_id']} AS token_id, "
            f"{pct_volume / 100.0!r} * sum({s}) AS q FROM {t['']} WHERE {_within(t['timestamp'], start, end)} "
            f"AND {_usable(p)} AND {_usable(s)}{self._only('trades', markets)}), "
            f"looks AS (SELECT {at} AS at, {b['market_id']} AS market_id, {b['token_id']} AS token_id, "
            f"{', '.join(f'{value} AS {name}' for name, value in columns.items())} "
            f"FROM {b['']} WHERE {_within(b['timestamp'], start, end)} "
            f"AND {_two_sided(bid, ask, probability)}{self._only('orderbook_snapshots', markets)}), "
            f"both AS (SELECT looks.*, orders.q AS q FROM looks JOIN orders "
            f"ON looks.market_id = orders.market_id AND looks.token_id = orders.token_id), "
            f"filled AS (SELECT at, market_id, token_id, q, bid, ask, {filled} FROM both) "
            f"SELECT timestamp_floor('{BUCKET_MINUTES}m', min(at)) AS bucket, market_id, token_id, "
            f"sum(CASE WHEN bids = 1 AND asks = 1 THEN 1 ELSE 0 END) AS n_depth, "
            f"sum(CASE WHEN {walked} THEN 1 ELSE 0 END) AS n_walked, "
            f"sum(CASE WHEN {walked} THEN q ELSE 0.0 END) AS walk_size, "
            f"sum(CASE WHEN {walked} THEN (bought - sold) / 2 ELSE 0.0 END) AS walk_cost, "
            f"sum(CASE WHEN {walked} THEN (ask - bid) / 2 ELSE 0.0 END) AS walk_half_spread FROM filled"
        )

    # --- reference data --------------------------------------------------------------------------------------

    def reference(self) -> pa.Table | None:
        """The `markets` table, newest row of each instrument; None where there is no such table."""
        return self._whole("markets")

    def own_executions(self, before: datetime) -> pa.Table | None:
        """The user's parent orders that were decided before an instant; None where there is no such table."""
        decided = self._names("own_executions")["decided_at"]
        return self._whole("own_executions", f" WHERE {decided} < {timestamp_literal(before)}")

    # --- inside ----------------------------------------------------------------------------------------------

    def _whole(self, name: str, where: str = "") -> pa.Table | None:
        """A table's rows under our names, the columns that it has; None where there is no such table."""
        found = self._types(name)
        if not found:
            return None
        problems = self.problems(name)
        if problems:
            raise SourceError("; ".join(problems))
        names, theirs = self._names(name), self._column[name]
        chosen = [
            f"{names[c.name]}{'::timestamp' if 'TIMESTAMP' in c.types else ''} AS {c.name}"
            for c in schema.READ_TABLES[name].columns
            if theirs[c.name] in found
        ]
        return self._db.query(f"SELECT {', '.join(chosen)} FROM {names['']}{where}")

    def _types(self, name: str) -> dict[str, str]:
        """Type by column of a source table; empty where there is no such table or view."""
        if name not in self._type:
            # The server refuses to list the columns of a table that is not there.
            there = self._db.rows("SELECT 1 FROM tables() WHERE table_name = %s", (self._table[name],))
            self._type[name] = self._db.columns(self._table[name]) if there else {}
        return self._type[name]

    def _type_of(self, name: str, column: str) -> str:
        return self._types(name)[self._column[name][column]]

    def _names(self, name: str) -> dict[str, str]:
        """Columns as they stand in SQL, and under the empty name the table itself."""
        return {ours: _identifier(theirs) for ours, theirs in {**self._column[name], "": self._table[name]}.items()}

    def _number(self, name: str, column: str) -> str:
        # INT times INT overflows, half of an INT is an INT, and a FLOAT sums as one.
        return self._names(name)[column] + ("" if self._type_of(name, column) == "DOUBLE" else "::double")

    def _only(self, name: str, markets: MarketSlice) -> str:
        if markets.markets is None:
            return ""
        column, ids = self._names(name)["market_id"], [quote(m) for m in markets.markets]
        if sum(len(i) + 2 for i in ids) <= _LONGEST_IN_LIST:
            return f" AND {column} IN ({', '.join(ids)})"
        # By code points, as Python does, is how the server compares with a literal; it orders SYMBOLs by UTF-16.
        return f" AND {column} >= {quote(min(markets.markets))} AND {column} <= {quote(max(markets.markets))}"


def _identifier(name: str) -> str:
    if not name or '"' in name:
        raise SourceError(f"names of source tables and columns must hold no double quote, got {name!r}")
    return f'"{name}"'


def _folded(fills: str, looks: str) -> str:
    """`fills` and `looks` with each market as one series: that of its first token, the other's rows in the mirror.

    Which is the first is found among the rows themselves, and as text: the two tables may differ in their types.
    """
    tokens = " UNION ALL ".join(
        f"SELECT market_id::varchar AS market_id, token_id::varchar AS token_id "
        f"FROM (SELECT DISTINCT market_id, token_id FROM {own})"
        for own in ("own_fills", "own_looks")
    )

    def mirrored(own: str, columns: str) -> str:
        return (
            f"((SELECT at, o.market_id AS market_id, first AS token_id, {columns} "
            f"FROM {own} o JOIN pairs ON o.market_id = pairs.market_id) TIMESTAMP(at))"
        )

    side = (
        f"CASE WHEN token_id = first THEN side WHEN {_is('side', 'buy')} THEN 'sell' "
        f"WHEN {_is('side', 'sell')} THEN 'buy' END"
    )
    price, mid = (f"CASE WHEN token_id = first THEN {p} ELSE 1 - {p} END" for p in ("price", "mid"))
    return (
        f"own_fills AS ({fills}), own_looks AS ({looks}), "
        f"pairs AS (SELECT market_id, min(token_id) AS first FROM ({tokens})), "
        f"fills AS {mirrored('own_fills', f'{side} AS side, {price} AS price, size')}, "
        f"looks AS {mirrored('own_looks', f'{mid} AS mid, half')}"
    )


def _usable(column: str) -> str:
    # From 1e-60 to 1e60: fourth powers and their sums stay numbers. Scaled, because the server takes doubles less than
    # 1e-10 apart for equal; and never NOT(...), because it calls neither `NULL > 0` nor its negation true.
    return f"{column} * 1e70 >= 1e10 AND {column} <= 1e60"


def _has_ask(ask: str, probability: bool) -> str:
    return _usable(ask) + (f" AND {ask} < 1.0" if probability else "")


def _above(bid: str, ask: str) -> str:
    return f"sign({ask} - {bid})"  # `ask > bid` would take a spread below 1e-10 for none


def _two_sided(bid: str, ask: str, probability: bool) -> str:
    return f"{_usable(bid)} AND {_has_ask(ask, probability)} AND {_above(bid, ask)} > 0"


def _is(side: str, which: str) -> str:
    return f"{side} IN ({', '.join(quote(word) for word in schema.SIDES[which])})"


def _given(side: str) -> str:
    return f"({_is(side, 'buy')} OR {_is(side, 'sell')})"


def _above_zero(ratio: str) -> str:
    return f"{ratio} > 1e-9"  # not 0: two prices may differ by rounding, and below 1e-10 the server sees no difference


def _below_zero(ratio: str) -> str:
    return f"{ratio} < -1e-9"


def _exact_sum(value: str) -> str:
    # As whole numbers, scaled by size and wrapping around: a server adds doubles in an order of its own, and in a day's
    # sum of doubles the change of one small row is lost.
    return (
        f"sum(CASE WHEN abs({value}) < 9 THEN ({value} * 1e18)::long "
        f"WHEN abs({value}) < 9e9 THEN ({value} * 1e9)::long ELSE ({value})::long END)"
    )


def _within(column: str, start: datetime, end: datetime) -> str:
    return f"{column} >= {timestamp_literal(start)} AND {column} < {timestamp_literal(end)}"


def _microseconds(column: str, kind: str) -> str:
    # A TIMESTAMP_NS in a coalesce with a microsecond literal, and its floor, would come back in two units.
    return f"{column}::timestamp" if kind == "TIMESTAMP_NS" else column


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _utc(stamp: datetime | None) -> datetime | None:
    return None if stamp is None else stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp
