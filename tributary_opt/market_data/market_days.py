"""Market days: one row of sums per market and trading day, read once and kept in `ac_market_days`.

A window of thirty days costs thirty small rows a market, so a night costs what its one new day costs. A day is read
again when its source changed, when the settings that shape the row did, or when asked.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa

from tributary_opt import schema
from tributary_opt.market_data.calendars import ALWAYS_OPEN, Session, TradingCalendar, trading_calendar
from tributary_opt.market_data.markets import ReferenceData
from tributary_opt.market_data.source import ALL_MARKETS, BUCKET_MINUTES, Fingerprint, MarketSlice, Source
from tributary_opt.settings import StatisticsRules
from tributary_opt.storage.frames import canonical, table_digest, typed
from tributary_opt.storage.questdb import QuestDB, quote, timestamp_literal

STATISTICS_VERSION = 1
"""Raised when the code below shapes a row differently; every day of the window is then read again."""

_BUCKET = np.timedelta64(BUCKET_MINUTES, "m")
_HOURS = 24
_BOOKKEEPING = ("statistics_version", "settings_digest", "source_digest")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Window:
    """The trading days that a night uses, by calendar."""

    as_of: date
    lookback_days: int
    days: dict[str, list[date]]

    @staticmethod
    def of(as_of: date, lookback_days: int, calendars: list[str], earliest: date | None = None) -> Window:
        """The newest `lookback_days` trading days up to `as_of` of each calendar, none before `earliest`.

        Days before anything was recorded are unknown, not days without a trade: they must not dilute a daily average.
        """
        days = {c: trading_calendar(c).last_days(as_of, lookback_days) for c in calendars}
        if earliest is not None:
            days = {c: [d for d in of_calendar if d >= earliest] for c, of_calendar in days.items()}
        return Window(as_of, lookback_days, days)

    @property
    def first(self) -> date:
        """The earliest day of any calendar."""
        return min((days[0] for days in self.days.values() if days), default=self.as_of)


def newest_complete_day(source: Source, reference: ReferenceData, now: datetime) -> date | None:
    """The newest trading day before today on which a market traded in its session; None where there is none.

    Rows stamped later than the last midnight UTC do not count: their day is not over, or they are wrong.
    """
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    newest = source.newest_trade(midnight)
    if newest is None:
        return None
    day = newest.date()
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    traded = reference.of(_instruments(source.trade_counts(start, start + timedelta(days=1))))
    sessions = [trading_calendar(code).last_days(day, 1) for code in sorted(set(traded["calendar"]))]
    return max((days[-1] for days in sessions if days), default=None)


class MarketDays:
    """Reads trading days from the source and keeps them in `ac_market_days` of the sink."""

    def __init__(
        self,
        sink: QuestDB,
        source: Source,
        reference: ReferenceData,
        rules: StatisticsRules,
        *,
        markets_per_slice: int = 5_000,
    ):
        self._sink = sink
        self._source = source
        self._reference = reference
        self._rules = rules
        self._markets_per_slice = markets_per_slice
        self._settings_digest = _digest(json.dumps(rules.model_dump(mode="json"), sort_keys=True))

    def window(self, as_of: date, lookback_days: int) -> Window:
        """The trading days that a night as of `as_of` uses: none before the first day that was ever recorded."""
        stored = self._sink.rows("SELECT day FROM ac_market_days ORDER BY day LIMIT 1")
        stamps = [row[0] for row in stored] + [self._source.oldest_row()]
        known = [stamp.date() for stamp in stamps if stamp is not None]
        return Window.of(as_of, lookback_days, self._reference.calendars(), min(known, default=None))

    def outdated(self, window: Window, *, reread: bool = False) -> list[date]:
        """The days that must be read from ticks before the window can be used, oldest first.

        A day is up to date when every row of it was shaped by this version and these settings, from a source that
        still adds up to the same. A source that no longer has any row of a known day has retired its ticks: the day's
        rows are kept (`reread` reads even these again).
        """
        wanted = sorted({day for days in window.days.values() for day in days})
        margin = timedelta(days=1)  # an exchange's session may begin on the date before its own
        fingerprints = self._source.fingerprints(window.first - margin, window.as_of + margin)
        known = self._known(window)
        outdated = []
        for day in wanted:
            sessions = {code: session for code in window.days if (session := self._session(code, day)) is not None}
            digests = {code: _source_digest(session, fingerprints) for code, session in sessions.items()}
            rows = known.get(day)
            if rows is None:
                if reread or any(digests.values()):
                    outdated.append(day)
            elif reread or not self._up_to_date(rows, sessions, digests):
                outdated.append(day)
        return outdated

    def read(self, day: date) -> pd.DataFrame:
        """The rows of a day, read from the source: one for each instrument with ticks in its session.

        An instrument that the day had a row of, and that has gone, gets a row of zeros. So do instruments with ticks
        out of every session where there is nothing else: the day is then known, and not read every night.
        """
        margin = timedelta(days=1)
        fingerprints = self._source.fingerprints(day - margin, day + margin)
        parts: list[pd.DataFrame] = []
        for code in self._reference.calendars():
            session = self._session(code, day)
            if session is not None:
                parts.extend(self._read_session(session, _source_digest(session, fingerprints)))
        found = pd.concat(parts, ignore_index=True) if parts else _empty()
        gone = self._gone(day, found)
        if not len(found) and not len(gone):
            gone = self._seen(trading_calendar(ALWAYS_OPEN).session(day))[["market_id", "token_id"]]
        elif len(gone):
            _LOG.info("%s: %d markets have gone from the source; their rows become zeros", day, len(gone))
        zeros = self._zero_rows(day, gone, fingerprints)
        return pd.concat([found, zeros], ignore_index=True) if len(zeros) else found

    def store(self, rows: pd.DataFrame) -> None:
        """Write rows of market days; the same rows again change nothing."""
        if len(rows):
            self._sink.send(schema.MARKET_DAYS, typed(schema.MARKET_DAYS, rows))
            self._sink.wait(schema.MARKET_DAYS.name)

    def chunks(self, window: Window, n_markets: int) -> list[tuple[str, str]]:
        """Ranges of market ids of about `n_markets` each, both ends included, that cover every stored market."""
        rows = self._sink.rows(
            "SELECT DISTINCT market_id FROM ac_market_days WHERE day >= %s AND day <= %s",
            (_midnight(window.first), _midnight(window.as_of)),
        )
        ids = sorted(row[0] for row in rows)  # by code points: as the server compares, not as it orders SYMBOLs
        return [(ids[i], ids[min(i + n_markets, len(ids)) - 1]) for i in range(0, len(ids), n_markets)]

    def load(
        self, window: Window, chunk: tuple[str, str] | None = None, fresh: pd.DataFrame | None = None
    ) -> pd.DataFrame:
        """The stored rows of the window, sorted by market, token and day.

        `chunk` limits them to a range of market ids; `fresh` rows, of days not stored, replace those of their days.
        """
        first, last = _literal(window.first), _literal(window.as_of)
        within = f" AND market_id >= {quote(chunk[0])} AND market_id <= {quote(chunk[1])}" if chunk else ""
        table = self._sink.query(f"SELECT * FROM ac_market_days WHERE day >= {first} AND day <= {last}{within}")
        rows = _to_frame(table)
        if fresh is not None:
            rows = pd.concat([rows[~rows["day"].isin(fresh["day"])], fresh], ignore_index=True)
        return in_order(rows, window)

    # --- inside ----------------------------------------------------------------------------------------------

    def _session(self, code: str, day: date) -> Session | None:
        session = trading_calendar(code).session(day)
        if session is None or code == ALWAYS_OPEN:
            return session
        start = session.start + timedelta(minutes=self._rules.skip_open_minutes)
        end = session.end - timedelta(minutes=self._rules.skip_close_minutes)
        return Session(code, day, start, end) if start < end else None

    def _known(self, window: Window) -> dict[date, pd.DataFrame]:
        columns = "day, market_id, token_id, calendar, kind, session_start, session_end, " + ", ".join(_BOOKKEEPING)
        first, last = _literal(window.first), _literal(window.as_of)
        rows = self._sink.query(
            f"SELECT {columns} FROM ac_market_days WHERE day >= {first} AND day <= {last}"
        ).to_pandas()
        texts = ["market_id", "token_id", "source_digest"]
        rows[texts] = rows[texts].fillna("")
        now = self._reference.of(rows[["market_id", "token_id"]].drop_duplicates())
        now = now[["market_id", "token_id", "calendar", "kind"]]
        rows = rows.merge(now, on=["market_id", "token_id"], how="left", suffixes=("", "_now"))
        moved = rows["calendar"] != rows["calendar_now"]
        if moved.any():
            # Its old days were cut by another calendar, and there may be days it had no row of at all.
            _LOG.info("%d market days of markets with a new calendar: the whole window is read again", moved.sum())
            rows["statistics_version"] = -1
        rows.loc[rows["kind"] != rows["kind_now"], "statistics_version"] = -1
        return {stamp.date(): part for stamp, part in rows.groupby("day")}

    def _up_to_date(self, rows: pd.DataFrame, sessions: dict[str, Session], digests: dict[str, str]) -> bool:
        if not (rows["statistics_version"] == STATISTICS_VERSION).all():
            return False
        if not (rows["settings_digest"] == self._settings_digest).all():
            return False
        for code, part in rows.groupby("calendar"):
            session = sessions.get(str(code))
            digest = digests[str(code) if session is not None else ALWAYS_OPEN]
            if digest and not (part["source_digest"] == digest).all():
                return False
            if session is None:
                continue  # rows of zeros, on a day that is none of their calendar
            if not ((part["session_start"] == session.start) & (part["session_end"] == session.end)).all():
                return False
        return True

    def _seen(self, session: Session | None) -> pd.DataFrame:
        """Instruments with ticks in a session: how many, and their kind and calendar."""
        assert session is not None
        trades = _counts(self._source.trade_counts(session.start, session.end), ["n", "n_bad"])
        books = _counts(self._source.book_counts(session.start, session.end), ["n"])
        seen = trades.merge(books, on=["market_id", "token_id"], how="outer", suffixes=("", "_books"))
        nul = seen["market_id"].str.contains("\0", regex=False) | seen["token_id"].str.contains("\0", regex=False)
        for unusable, what in ((seen["market_id"] == "", "without a market_id"), (nul, "with NUL in an id")):
            if unusable.any():
                n = int(seen.loc[unusable, ["n", "n_books"]].sum().sum())
                _LOG.warning("%s, %s: %d rows %s are left out", session.day, session.calendar, n, what)
        seen = seen[~nul & (seen["market_id"] != "")].reset_index(drop=True)
        reference = self._reference.of(seen)
        return seen.assign(kind=reference["kind"], calendar=reference["calendar"])

    def _read_session(self, session: Session, source_digest: str) -> Iterator[pd.DataFrame]:
        seen = self._seen(session)
        ours = seen[seen["calendar"] == session.calendar]
        for kind, group in ours.groupby("kind"):
            for part, markets in self._slices(group, everything=len(group) == len(seen)):
                trade_buckets = self._source.trade_buckets(session.start, session.end, markets)
                book_buckets = self._source.book_buckets(
                    session.start,
                    session.end,
                    probability=kind == "probability",
                    quote_cap_s=self._rules.quote_cap_seconds,
                    markets=markets,
                )
                rows = summarise(session, part, trade_buckets, book_buckets)
                yield rows.assign(
                    kind=kind,
                    statistics_version=STATISTICS_VERSION,
                    settings_digest=self._settings_digest,
                    source_digest=source_digest,
                )[schema.MARKET_DAYS.names]

    def _slices(self, group: pd.DataFrame, *, everything: bool) -> Iterator[tuple[pd.DataFrame, MarketSlice]]:
        if everything and group["market_id"].nunique() <= self._markets_per_slice:
            yield group, ALL_MARKETS
            return
        ids = sorted(pd.unique(group["market_id"]))
        for i in range(0, len(ids), self._markets_per_slice):
            chosen = ids[i : i + self._markets_per_slice]
            yield group[group["market_id"].isin(set(chosen))], MarketSlice(tuple(chosen))

    def _gone(self, day: date, found: pd.DataFrame) -> pd.DataFrame:
        """Instruments that the day has a stored row of, and none among those found."""
        table = self._sink.query(f"SELECT market_id, token_id FROM ac_market_days WHERE day = {_literal(day)}")
        stored: pd.DataFrame = table.to_pandas().fillna("").astype(str)
        have = pd.MultiIndex.from_frame(found[["market_id", "token_id"]])
        return stored[~pd.MultiIndex.from_frame(stored).isin(have)]

    def _zero_rows(self, day: date, instruments: pd.DataFrame, fingerprints: dict[date, Fingerprint]) -> pd.DataFrame:
        rows = _zeros(day, instruments)
        reference = self._reference.of(rows)
        rows["kind"], rows["calendar"] = reference["kind"], reference["calendar"]
        rows["statistics_version"], rows["settings_digest"] = STATISTICS_VERSION, self._settings_digest
        for code in set(rows["calendar"]):
            session = self._session(code, day)
            of_code = rows["calendar"] == code
            rows.loc[of_code, "source_digest"] = _source_digest(
                session or trading_calendar(ALWAYS_OPEN).session(day), fingerprints
            )
            if session is not None:
                rows.loc[of_code, "session_start"] = pd.Timestamp(session.start).as_unit("us")
                rows.loc[of_code, "session_end"] = pd.Timestamp(session.end).as_unit("us")
        return rows


def in_order(rows: pd.DataFrame, window: Window) -> pd.DataFrame:
    """The rows of the window's own days (by each row's calendar), sorted by market, token and day."""
    keep = np.zeros(len(rows), dtype=bool)
    for code, days in window.days.items():
        if days:
            of_code = (rows["calendar"] == code).to_numpy()
            keep |= of_code & rows["day"].isin([pd.Timestamp(day, tz="UTC") for day in days]).to_numpy()
    return rows[keep].sort_values(["market_id", "token_id", "day"], kind="stable").reset_index(drop=True)


def window_digest(rows: pd.DataFrame) -> str:
    """SHA-256 of a window's rows, as stored; what was only kept to know when to read again is left out."""
    columns = tuple(c for c in schema.MARKET_DAYS.columns if c.name not in _BOOKKEEPING)
    return table_digest(columns, canonical(schema.MARKET_DAYS, rows))


# --- one session ---------------------------------------------------------------------------------------------


def summarise(session: Session, seen: pd.DataFrame, trades: pa.Table, books: pa.Table) -> pd.DataFrame:
    """Market-day rows of one session from its 5-minute buckets.

    Parameters
    ----------
    session : Session
    seen : DataFrame with market_id, token_id, n_bad, one row an instrument; others in the buckets are left out
    trades, books : Table as `Source.trade_buckets` and `Source.book_buckets` give them, in any order

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

    places = {key: i for i, key in enumerate(zip(seen["market_id"], seen["token_id"], strict=True))}
    trade = _Buckets(trades, places, grid)
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
        **_book_columns(book),
        **_response_columns(trade, book),
    }
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

    def __init__(self, table: pa.Table, places: dict[tuple[str, str], int], grid: _Grid):
        self.n_markets = len(places)
        self.grid = grid
        market = _instrument_codes(table, places)
        stamps = table["bucket"].to_numpy().astype("datetime64[m]")
        bucket = ((stamps - grid.starts[0]) // _BUCKET).astype(np.int64) if len(stamps) else np.zeros(0, np.int64)
        keep = np.flatnonzero(market >= 0)
        order = keep[np.argsort(market[keep] * len(grid) + bucket[keep], kind="stable")]
        self._table, self._order = table, order
        self.market, self.bucket = market[order], bucket[order]
        self._first = np.flatnonzero(np.diff(self.market, prepend=-1))
        self.present = self.market[self._first]
        """The instruments that have a bucket at all."""

    def __getitem__(self, name: str) -> np.ndarray:
        column = self._table[name]
        if pa.types.is_timestamp(column.type):
            return np.asarray(column.to_numpy().astype("datetime64[us]")[self._order])
        return np.asarray(column.to_numpy()[self._order].astype(float))

    def where(self, keep: np.ndarray) -> _Buckets:
        """Only some of the rows."""
        out = object.__new__(_Buckets)
        out.n_markets, out.grid, out._table, out._order = self.n_markets, self.grid, self._table, self._order[keep]
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
    up, down, body = h - o, low - o, c - o
    steps = trade.steps()
    moves = np.zeros(len(c))
    moves[steps] = c[steps] - c[steps - 1]
    by_hour = trade.sum_by_hour(volume)
    return {
        "n_trades": trade.count(n),
        "volume": trade.sum(volume),
        "notional": trade.sum(trade["notional"]),
        "buy_volume": trade.sum(trade["buy_volume"]),
        "sell_volume": trade.sum(trade["sell_volume"]),
        "n_signed": trade.count(trade["n_signed"]),
        "size_squared": trade.sum(trade["size_squared"]),
        "first_trade_at": _stamps(trade.first(trade["first_at"])),
        "last_trade_at": _stamps(trade.last(trade["last_at"])),
        "open_price": trade.first(o),
        "high_price": trade.reduce(np.maximum, h),
        "low_price": trade.reduce(np.minimum, low),
        "close_price": trade.last(c),
        "active_hours": (trade.sum_by_hour(n) > 0).sum(axis=1).astype(np.int32),
        "volume_by_hour": list(by_hour),
        "n_trade_bars": trade.count(np.ones(len(n))).astype(np.int32),
        # Parkinson (1980); Garman & Klass (1980), their best quadratic estimator; Rogers & Satchell (1991). Plain
        # prices, not logarithms: Almgren-Chriss moves are arithmetic.
        "parkinson_variance": trade.sum((h - low) ** 2 / (4 * np.log(2))),
        "garman_klass_variance": trade.sum(
            0.511 * (up - down) ** 2 - 0.019 * (body * (up + down) - 2 * up * down) - 0.383 * body**2
        ),
        "rogers_satchell_variance": trade.sum(up * (up - body) + down * (down - body)),
        "trade_variance": trade.sum(moves**2),
    }


def _book_columns(book: _Buckets) -> dict[str, object]:
    n, n_two_sided, n_crossed = book["n"], book["n_two_sided"], book["n_crossed"]
    n_sides = book["n_bid"] + book["n_ask"]
    n_one_sided = n_sides - 2 * (n_two_sided + n_crossed)
    quoted = book.where(n_two_sided > 0)
    mid = quoted["last_mid"]
    steps = quoted.steps()
    moves = np.zeros(len(mid))
    moves[steps] = mid[steps] - mid[steps - 1]
    pairs = steps[np.isin(steps - 1, steps, assume_unique=True)]
    products = np.zeros(len(mid))
    products[pairs] = np.abs(moves[pairs]) * np.abs(moves[pairs - 1])
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
        "first_mid": quoted.first(mid),
        "last_mid": quoted.last(mid),
        "last_mid_at": _stamps(quoted.last(quoted["last_mid_at"])),
        "n_mid_buckets": quoted.count(np.ones(len(mid))).astype(np.int32),
        "realised_variance": quoted.sum(moves**2),
        "bipower_variance": quoted.sum(products) * np.pi / 2,
        "realised_quarticity": quoted.sum(moves**4),
        "variance_by_hour": list(quoted.sum_by_hour(moves**2)),
    }


def _response_columns(trade: _Buckets, book: _Buckets) -> dict[str, object]:
    flow = trade.dense(trade["buy_volume"] - trade["sell_volume"], 0.0)
    signed = trade.sum(trade["n_signed"]) > 0
    quoted = book.where(book["n_two_sided"] > 0)
    mids = quoted.dense(quoted["last_mid"], np.nan)
    columns: dict[str, object] = {}
    for minutes in schema.IMPACT_BUCKETS:
        groups = trade.grid.groups(minutes)
        q = np.add.reduceat(flow, groups, axis=1)
        newest = np.maximum.reduceat(np.where(np.isfinite(mids), np.arange(mids.shape[1]), -1), groups, axis=1)
        mid = np.where(newest >= 0, np.take_along_axis(mids, np.maximum(newest, 0), axis=1), np.nan)
        r = np.diff(mid, axis=1)
        used = np.isfinite(r)
        r, q = np.where(used, r, 0.0), np.where(used, q[:, 1:], 0.0)
        qq, qr, rr = q * q, q * r, r * r
        moments = (used, q, r, qq, qr, rr, qq * rr, qq * qr, qq * qq, qq * q, qq * r, qr * r)
        sums = np.stack([m.sum(axis=1, dtype=float) for m in moments], axis=1)
        columns[f"impact_{minutes}m"] = [row if has else None for row, has in zip(sums, signed, strict=True)]
    return columns


def _instrument_codes(table: pa.Table, places: dict[tuple[str, str], int]) -> np.ndarray:
    """Place of each row's instrument, -1 where it is none of ours."""
    if not table.num_rows:
        return np.zeros(0, dtype=np.int64)
    market, token = (_encoded(table[name]) for name in ("market_id", "token_id"))
    tokens = token.dictionary.to_pylist()
    markets = market.dictionary.to_pylist()
    combined = market.indices.to_numpy().astype(np.int64) * len(tokens) + token.indices.to_numpy()
    unique, inverse = np.unique(combined, return_inverse=True)
    codes = [places.get((markets[u // len(tokens)], tokens[u % len(tokens)]), -1) for u in unique.tolist()]
    return np.array(codes, dtype=np.int64)[inverse]


def _encoded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    return column.cast(pa.string()).fill_null("").combine_chunks().dictionary_encode()


def _sums(group: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Sum by group, always as doubles: bincount of nothing gives integers, whatever its weights."""
    return np.bincount(group, weights=values, minlength=n).astype(float, copy=False)


def _stamps(values: np.ndarray) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(values.astype("datetime64[us]")).tz_localize("UTC")


# --- small things --------------------------------------------------------------------------------------------


def _counts(table: pa.Table, names: list[str]) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    # As objects: pandas cannot merge two empty columns of Arrow texts.
    frame[["market_id", "token_id"]] = frame[["market_id", "token_id"]].fillna("").astype(object)
    return frame.groupby(["market_id", "token_id"], as_index=False, sort=True)[names].sum()


def _instruments(table: pa.Table) -> pd.DataFrame:
    return _counts(table, ["n"])[["market_id", "token_id"]]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _source_digest(session: Session | None, fingerprints: dict[date, Fingerprint]) -> str:
    """Digest of the source on the UTC dates of a session; empty where it has no rows there."""
    assert session is not None
    present = [fingerprints[day].text() for day in session.utc_dates if day in fingerprints]
    return _digest("\n".join(present)) if present else ""


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _literal(day: date) -> str:
    return timestamp_literal(_midnight(day))


def _empty() -> pd.DataFrame:
    table = schema.MARKET_DAYS.arrow_schema().empty_table()
    return _to_frame(table)


def _to_frame(table: pa.Table) -> pd.DataFrame:
    """Market-day rows as a frame: arrays as numpy arrays, missing ids as empty text."""
    frame: pd.DataFrame = table.select(schema.MARKET_DAYS.names).to_pandas()
    for name in ("market_id", "token_id"):
        frame[name] = frame[name].fillna("").astype(str)
    return frame


def _zeros(day: date, instruments: pd.DataFrame) -> pd.DataFrame:
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
            missing = column.name.endswith(("_price", "_mid"))
            columns[column.name] = np.full(n, np.nan if missing else 0.0)
        else:
            columns[column.name] = np.zeros(n, dtype=np.int32 if column.type == "INT" else np.int64)
    return pd.DataFrame(columns)
