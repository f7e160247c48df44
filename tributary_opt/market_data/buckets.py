"""From 5-minute buckets of one session to market-day rows, for all markets at once."""

from __future__ import annotations

from datetime import UTC, date

import numpy as np
import pandas as pd
import pyarrow as pa

from tributary_opt import schema
from tributary_opt.market_data import volatility
from tributary_opt.market_data.calendars import Session, TradingCalendar, trading_calendar
from tributary_opt.market_data.impact_sums import impact_columns
from tributary_opt.market_data.source import BUCKET_MINUTES, NO_WALKS
from tributary_opt.market_data.spread import edge_squared

_BUCKET = np.timedelta64(BUCKET_MINUTES, "m")
_HOURS = 24

SLOWER = 2
"""How many times as slow the scales are that see through noise which persists. [-]"""


def summarise(
    session: Session,
    seen: pd.DataFrame,
    trades: pa.Table,
    books: pa.Table,
    quoted: pa.Table | None = None,
    walks: pa.Table | None = None,
    *,
    flow_between_mids: bool = True,
) -> pd.DataFrame:
    """Market-day rows of one session from its 5-minute buckets.

    Parameters
    ----------
    session : Session
    seen : DataFrame with market_id, token_id, n_bad, flow_cap, one row an instrument
        Others in the buckets are left out.
    trades, books : Table as `Source.trade_buckets` and `Source.book_buckets` give them, in any order
    quoted : Table as `Source.quoted_trades` gives it: what the aggressors that were not given seem to have been. Its
        volumes and counts by side come on top of those of `trades`. None: sides as given only.
    walks : Table as `Source.walks` gives it. None: no order was walked through the books
    flow_between_mids : bool
        Whether the flow of a move of the mid is that from look to look, or that of the clock's interval. The first
        takes `quoted`

    Returns
    -------
    DataFrame with the columns of `ac_market_days` less the bookkeeping and `kind`, one row for each of `seen`. It does
    not depend on the order of the buckets, nor on which other instruments there are.
    """
    first = np.datetime64(session.start.astimezone(UTC).replace(tzinfo=None), "us").astype("datetime64[m]")
    origin = first - (first.astype(np.int64) % BUCKET_MINUTES).astype("timedelta64[m]")
    end = np.datetime64(session.end.astimezone(UTC).replace(tzinfo=None), "us")
    n_buckets = int(np.ceil((end - origin) / _BUCKET))
    grid = _Grid(origin + np.arange(n_buckets) * _BUCKET, trading_calendar(session.calendar))

    places = pd.MultiIndex.from_frame(seen[["market_id", "token_id"]])
    trade = _Buckets(trades, places, grid)
    if quoted is not None:
        trade.add(_Buckets(quoted, places, grid))
    book = _Buckets(books, places, grid)
    columns: dict[str, object] = {
        "day": pd.Timestamp(session.day, tz="UTC").as_unit("us"),
        "market_id": seen["market_id"].to_numpy(),
        "token_id": seen["token_id"].to_numpy(),
        "calendar": session.calendar,
        "session_start": pd.Timestamp(session.start).as_unit("us"),
        "session_end": pd.Timestamp(session.end).as_unit("us"),
        "n_bad_trades": seen["n_bad"].fillna(0).to_numpy(dtype=np.int64),
        "n_buckets": np.int32(n_buckets),
        **_trade_columns(trade),
        **_noisy_columns(trade, book),
        **_book_columns(book),
        **_walk_columns(_Buckets(NO_WALKS if walks is None else walks, places, grid)),
    }
    late = flow_between_mids and quoted is not None
    columns |= _impact_columns(trade, book, seen["flow_cap"].to_numpy(dtype=float), late=late)
    return pd.DataFrame(columns)


class _Grid:
    """The session's 5-minute buckets and where they lie on the clock."""

    def __init__(self, starts: np.ndarray, calendar: TradingCalendar):
        self.starts = starts
        self.hour = calendar.hour_of_day(starts.astype("datetime64[us]"))

    def __len__(self) -> int:
        return len(self.starts)

    def groups(self, minutes: int) -> np.ndarray:
        """First bucket of each clock interval of that length."""
        interval = self.starts.astype("datetime64[m]").astype(np.int64) // minutes
        return np.flatnonzero(np.diff(interval, prepend=interval[0] - 1))


class _Buckets:
    """Bucket rows as sorted arrays: by instrument, then by time, so that sums do not depend on the server's order."""

    def __init__(self, table: pa.Table, places: pd.MultiIndex, grid: _Grid):
        self.n_markets = len(places)
        self.grid = grid
        market = _instrument_codes(table, places)
        stamps = table["bucket"].to_numpy().astype("datetime64[m]")
        bucket = ((stamps - grid.starts[0]) // _BUCKET).astype(np.int64) if len(stamps) else np.zeros(0, np.int64)
        keep = np.flatnonzero(market >= 0)
        order = keep[np.argsort(market[keep] * len(grid) + bucket[keep], kind="stable")]
        self._table, self._order = table, order
        self._added: dict[str, np.ndarray] = {}
        self.market, self.bucket = market[order], bucket[order]
        self._first = np.flatnonzero(np.diff(self.market, prepend=-1))
        self.present = self.market[self._first]
        """The instruments that have a bucket at all."""

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._table.column_names:
            return self._added.get(name, np.zeros(len(self.market)))
        column = self._table[name]
        if pa.types.is_timestamp(column.type):
            return np.asarray(column.to_numpy().astype("datetime64[us]")[self._order])
        values = column.to_numpy()[self._order].astype(float)
        return np.asarray(values + self._added[name] if name in self._added else values)

    def add(self, other: _Buckets) -> None:
        """Let the numbers of other rows, bucket by bucket, come on top of ours; a bucket that we lack is left out."""
        ours, theirs = self._keys(), other._keys()
        place = np.searchsorted(ours, theirs)
        have = np.flatnonzero(place < len(ours))
        have = have[ours[place[have]] == theirs[have]]
        for name in other._table.column_names:
            if name not in ("bucket", "market_id", "token_id"):
                values = np.zeros(len(ours))
                values[place[have]] = other[name][have]
                self._added[name] = values

    def _keys(self) -> np.ndarray:
        return np.asarray(self.market * len(self.grid) + self.bucket)

    def where(self, keep: np.ndarray) -> _Buckets:
        """Only some of the rows."""
        out = object.__new__(_Buckets)
        out.n_markets, out.grid, out._table, out._order = self.n_markets, self.grid, self._table, self._order[keep]
        out._added = {name: values[keep] for name, values in self._added.items()}
        out.market, out.bucket = self.market[keep], self.bucket[keep]
        out._first = np.flatnonzero(np.diff(out.market, prepend=-1))
        out.present = out.market[out._first]
        return out

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum by instrument, in the order of time; 0 without a row."""
        return _sums(self.market, values, self.n_markets)

    def count(self, values: np.ndarray) -> np.ndarray:
        """Sum of whole numbers by instrument."""
        return self.sum(values).astype(np.int64)

    def sum_by_hour(self, values: np.ndarray) -> np.ndarray:
        """Sum by instrument and hour of the calendar's clock, shape (markets, 24)."""
        cell = self.market * _HOURS + self.grid.hour[self.bucket]
        return _sums(cell, values, self.n_markets * _HOURS).reshape(-1, _HOURS)

    def first(self, values: np.ndarray) -> np.ndarray:
        """Value of each instrument's first row; NaN or NaT without one."""
        return self._spread(values[self._first])

    def last(self, values: np.ndarray) -> np.ndarray:
        """Value of each instrument's last row; NaN or NaT without one."""
        return self._spread(values[np.append(self._first[1:], len(values)) - 1] if len(values) else values)

    def reduce(self, function: np.ufunc, values: np.ndarray) -> np.ndarray:
        """`function` over each instrument's rows; NaN or NaT without one."""
        return self._spread(function.reduceat(values, self._first) if len(values) else values)

    @property
    def starts(self) -> np.ndarray:
        """Place of each instrument's first row."""
        return self._first

    def steps(self) -> np.ndarray:
        """Places whose row before belongs to the same instrument."""
        return np.flatnonzero(np.diff(self.market, prepend=-1) == 0)

    def dense(self, values: np.ndarray, empty: float) -> np.ndarray:
        """As a matrix, shape (markets, buckets)."""
        out = np.full((self.n_markets, len(self.grid)), empty)
        out[self.market, self.bucket] = values
        return out

    def _spread(self, values: np.ndarray) -> np.ndarray:
        empty = np.datetime64("NaT") if values.dtype.kind == "M" else np.nan
        out = np.full(self.n_markets, empty, dtype=values.dtype)
        out[self.present] = values
        return out


def _trade_columns(trade: _Buckets) -> dict[str, object]:
    n, volume = trade["n"], trade["volume"]
    o, h, low, c = trade["open"], trade["high"], trade["low"], trade["close"]
    paired, moves, products = _moves(trade, c)
    # The range of few trades is not the range of the price: corrected by their number, left out below the least.
    of_parkinson, of_garman_klass, of_rogers_satchell = volatility.range_share(n)
    thick = np.isfinite(of_parkinson)
    by_hour = trade.sum_by_hour(volume)
    return {
        "n_trades": trade.count(n),
        "volume": trade.sum(volume),
        "notional": trade.sum(trade["notional"]),
        "buy_volume": trade.sum(trade["buy_volume"]),
        "sell_volume": trade.sum(trade["sell_volume"]),
        "buy_notional": trade.sum(trade["buy_notional"]),
        "sell_notional": trade.sum(trade["sell_notional"]),
        "n_signed": trade.count(trade["n_signed"] + trade["n_quote_rule"] + trade["n_tick_rule"]),
        "n_quote_rule": trade.count(trade["n_quote_rule"]),
        "n_tick_rule": trade.count(trade["n_tick_rule"]),
        "effective_volume": trade.sum(trade["effective_volume"]),
        "effective_spread_volume": trade.sum(trade["effective_spread_volume"]),
        "n_quote_rule_fresh": trade.count(trade["n_quote_rule_fresh"]),
        "n_sides_compared": trade.count(trade["n_sides_compared"]),
        "n_sides_contradicted": trade.count(trade["n_sides_contradicted"]),
        "compared_volume": trade.sum(trade["compared_volume"]),
        "compared_size_squared": trade.sum(trade["compared_size_squared"]),
        "contradicted_volume": trade.sum(trade["contradicted_volume"]),
        "size_squared": trade.sum(trade["size_squared"]),
        "first_trade_at": _stamps(trade.first(trade["first_at"])),
        "last_trade_at": _stamps(trade.last(trade["last_at"])),
        "open_price": trade.first(o),
        "high_price": trade.reduce(np.maximum, h),
        "low_price": trade.reduce(np.minimum, low),
        "close_price": trade.last(c),
        **_step_columns(trade),
        "active_hours": (trade.sum_by_hour(n) > 0).sum(axis=1).astype(np.int32),
        "volume_by_hour": list(by_hour),
        "n_trade_bars": trade.count(np.ones(len(n))).astype(np.int32),
        "n_range_bars": trade.count(thick).astype(np.int32),
        # Plain prices, not logarithms: Almgren-Chriss moves are arithmetic.
        "parkinson_variance": trade.sum(np.where(thick, volatility.parkinson(h, low) / of_parkinson, 0.0)),
        "garman_klass_variance": trade.sum(
            np.where(thick, volatility.garman_klass(o, h, low, c) / of_garman_klass, 0.0)
        ),
        "rogers_satchell_variance": trade.sum(
            np.where(thick, volatility.rogers_satchell(o, h, low, c) / of_rogers_satchell, 0.0)
        ),
        "trade_variance": trade.sum(moves**2),
        "n_trade_products": trade.count(paired).astype(np.int32),
        "trade_products": trade.sum(products),
    }


def _step_columns(trade: _Buckets) -> dict[str, object]:
    """Where the price changed most from bar to bar, and how sizes did there."""
    price, volume, n = trade["close"], trade["volume"], trade["n"]
    steps = trade.steps()
    log = np.log(price[steps] / price[steps - 1])
    largest = steps[np.lexsort((-np.abs(log), trade.market[steps]))]
    largest = largest[np.flatnonzero(np.diff(trade.market[largest], prepend=-1))]  # one a market, the first of equals
    at = np.full(trade.n_markets, len(price))
    at[trade.market[largest]] = largest
    later = np.arange(len(price)) >= at[trade.market]
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = [trade.sum(np.where(part, volume, 0.0)) / trade.sum(np.where(part, n, 0.0)) for part in (later, ~later)]
        grown = sizes[0] / sizes[1]
    out = np.full(trade.n_markets, np.nan)
    out[trade.market[largest]] = price[largest] / price[largest - 1]
    stamps = np.full(trade.n_markets, np.datetime64("NaT"), dtype="datetime64[us]")
    stamps[trade.market[largest]] = trade["first_at"][largest]
    stepped = np.isfinite(out)
    return {"price_step": out, "size_step": np.where(stepped, grown, np.nan), "step_at": _stamps(stamps)}


def _noisy_columns(trade: _Buckets, book: _Buckets) -> dict[str, object]:
    """Variance behind the bounce of trades, and their spread on a day without a book."""
    # A bar of one trade has no other price than its last one.
    opens = trade.first(np.where(trade["n"] > 1, trade["open"], np.nan))
    path = np.column_stack([opens, trade.dense(trade["close"], np.nan)])
    two_scale, slow_scale = volatility.two_scale_variance(path), volatility.two_scale_variance(path, SLOWER)
    bars = np.bincount(trade.market, minlength=trade.n_markets)
    # EDGE wants two trades a bar, and costs as much as everything else here: only where it may be needed.
    wanted = (book.sum(book["n_two_sided"]) == 0) & (trade.sum(trade["n"]) >= 2 * bars) & (bars >= 3)
    squared = np.full(trade.n_markets, np.nan)
    if wanted.any():
        ohlc = (trade.dense(trade[name], np.nan)[wanted] for name in ("open", "high", "low", "close"))
        squared[wanted] = edge_squared(*ohlc)
    measured = np.isfinite(squared)
    return {
        "n_two_scale": two_scale.n.astype(np.int32),
        "two_scale_variance": two_scale.variance,
        "two_scale_error": two_scale.error,
        "slow_scale_variance": slow_scale.variance,
        "slow_scale_error": slow_scale.error,
        "noise_variance": two_scale.noise,
        "n_edge_bars": np.where(measured, bars, 0).astype(np.int32),
        "edge_squared_bars": np.where(measured, squared * bars, 0.0),
    }


def _moves(of: _Buckets, price: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows end two moves, moves from the row before, products of adjacent moves; 0 where there is none."""
    steps = of.steps()
    moves = np.zeros(len(price))
    moves[steps] = price[steps] - price[steps - 1]
    pairs = steps[np.isin(steps - 1, steps, assume_unique=True)]
    products = np.zeros(len(price))
    products[pairs] = moves[pairs] * moves[pairs - 1]
    paired = np.zeros(len(price), dtype=bool)
    paired[pairs] = True
    return paired, moves, products


def _path_moves(of: _Buckets, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moves of a path that begins with the first price of its first row, and products of adjacent moves.

    A session's first bucket holds more of its variance than any other: the path does not begin at the bucket's end.
    """
    _, moves, _ = _moves(of, last)
    moves[of.starts] = last[of.starts] - first[of.starts]
    products = np.zeros(len(last))
    products[of.steps()] = moves[of.steps()] * moves[of.steps() - 1]
    return moves, products


def _two_scales_of_mids(quoted: _Buckets) -> tuple[volatility.TwoScale, volatility.TwoScale]:
    """Of the path of `_path_moves`; a first bucket with one look has one price."""
    apart = quoted["first_mid_at"] < quoted["last_mid_at"]
    begin = quoted.first(np.where(apart, quoted["first_mid"], np.nan))
    path = np.column_stack([begin, quoted.dense(quoted["last_mid"], np.nan)])
    return volatility.two_scale_variance(path), volatility.two_scale_variance(path, SLOWER)


def _book_columns(book: _Buckets) -> dict[str, object]:
    n, n_two_sided, n_crossed = book["n"], book["n_two_sided"], book["n_crossed"]
    n_sides = book["n_bid"] + book["n_ask"]
    n_one_sided = n_sides - 2 * (n_two_sided + n_crossed)
    quoted = book.where(n_two_sided > 0)
    mid = quoted["last_mid"]
    moves, products = _path_moves(quoted, quoted["first_mid"], mid)
    two_scale, slow_scale = _two_scales_of_mids(quoted)
    return {
        "n_snapshots": book.count(n),
        "n_two_sided": book.count(n_two_sided),
        "n_one_sided": book.count(n_one_sided),
        "n_crossed": book.count(n_crossed),
        "n_empty": book.count(n - n_two_sided - n_crossed - n_one_sided),
        "first_snapshot_at": _stamps(book.first(book["first_at"])),
        "last_snapshot_at": _stamps(book.last(book["last_at"])),
        "quoted_seconds": book.sum(book["quoted_us"]) / 1e6,
        "spread_seconds": book.sum(book["spread_us"]) / 1e6,
        "spread_sum": book.sum(book["spread_sum"]),
        "mid_sum": book.sum(book["mid_sum"]),
        "first_mid": quoted.first(quoted["first_mid"]),
        "first_mid_at": _stamps(quoted.first(quoted["first_mid_at"])),
        "last_mid": quoted.last(mid),
        "last_mid_at": _stamps(quoted.last(quoted["last_mid_at"])),
        "n_mid_buckets": quoted.count(np.ones(len(mid))).astype(np.int32),
        "realised_variance": quoted.sum(moves**2),
        "two_scale_mid_variance": two_scale.variance,
        "two_scale_mid_error": two_scale.error,
        "slow_scale_mid_variance": slow_scale.variance,
        "slow_scale_mid_error": slow_scale.error,
        "n_two_scale_mid": two_scale.n.astype(np.int32),
        "bipower_variance": quoted.sum(np.abs(products)) * np.pi / 2,
        "realised_quarticity": quoted.sum(moves**4),
        "variance_by_hour": list(quoted.sum_by_hour(moves**2)),
    }


def _walk_columns(walk: _Buckets) -> dict[str, object]:
    counts = {name: walk.count(walk[name]) for name in ("n_depth", "n_walked")}
    return counts | {name: walk.sum(walk[name]) for name in ("walk_size", "walk_cost", "walk_half_spread")}


def _impact_columns(trade: _Buckets, book: _Buckets, cap: np.ndarray, *, late: bool) -> dict[str, object]:
    quoted = book.where(book["n_two_sided"] > 0)
    buys, sells, late_buys, late_sells = (
        (trade.dense(trade[f"{side}_volume"], 0.0), trade.dense(trade[f"{side}_notional"], 0.0))
        for side in ("buy", "sell", "late_buy", "late_sell")
    )
    signed = trade.sum(trade["n_signed"] + trade["n_quote_rule"] + trade["n_tick_rule"]) > 0
    mid = quoted.dense(quoted["last_mid"], np.nan)
    after = (late_buys, late_sells) if late else None
    squares = trade.dense(trade["signed_size_squared"], 0.0), trade.dense(trade["late_size_squared"], 0.0)
    impact = impact_columns(trade.grid.groups, mid, buys, sells, cap, signed, after, squares=squares)
    return {"flow_cap": cap, **impact}


def _instrument_codes(table: pa.Table, places: pd.MultiIndex) -> np.ndarray:
    """Place of each row's instrument, -1 where it is none of ours."""
    if not table.num_rows:
        return np.zeros(0, dtype=np.int64)
    market, token = (_encoded(table[name]) for name in ("market_id", "token_id"))
    markets, tokens = (np.array(of.dictionary.to_pylist(), dtype=object) for of in (market, token))
    combined = market.indices.to_numpy().astype(np.int64) * len(tokens) + token.indices.to_numpy()
    unique, inverse = np.unique(combined, return_inverse=True)
    found = pd.MultiIndex.from_arrays([markets[unique // len(tokens)], tokens[unique % len(tokens)]])
    return np.asarray(places.get_indexer(found), dtype=np.int64)[inverse]


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    return column.cast(pa.string()).fill_null("").combine_chunks().dictionary_encode()


def _sums(group: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Sum by group, always as doubles: bincount of nothing gives integers, whatever its weights."""
    return np.bincount(group, weights=values, minlength=n).astype(float, copy=False)


def _stamps(values: np.ndarray) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(values.astype("datetime64[us]")).tz_localize("UTC")


def zero_rows(day: date, instruments: pd.DataFrame) -> pd.DataFrame:
    """Rows of a day on which instruments had nothing; what would be a price or a time is missing."""
    n = len(instruments)
    columns: dict[str, object] = {}
    for column in schema.MARKET_DAYS.columns:
        if column.name in ("market_id", "token_id"):
            columns[column.name] = instruments[column.name].to_numpy()
        elif column.name == "day":
            columns[column.name] = pd.Series(pd.Timestamp(day, tz="UTC").as_unit("us"), index=range(n))
        elif column.type == "TIMESTAMP":
            columns[column.name] = pd.Series(pd.NaT, index=range(n), dtype="datetime64[us, UTC]")
        elif column.name in ("volume_by_hour", "variance_by_hour"):
            columns[column.name] = pd.Series([np.zeros(_HOURS) for _ in range(n)], dtype=object)
        elif column.type == "DOUBLE[]":
            columns[column.name] = pd.Series([None] * n, dtype=object)
        elif column.type == "SYMBOL":
            columns[column.name] = pd.Series([""] * n, dtype=object)
        elif column.type == "DOUBLE":
            columns[column.name] = np.full(n, np.nan if column.name.endswith(schema.LEVELS) else 0.0)
        else:
            columns[column.name] = np.zeros(n, dtype=np.int32 if column.type == "INT" else np.int64)
    return pd.DataFrame(columns)
