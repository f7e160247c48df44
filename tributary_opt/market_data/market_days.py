"""Market days: one row of sums per market and trading day, read once and kept in `ac_market_days`.

A window of thirty days costs thirty small rows a market, so a night costs what its one new day costs. A day is read
again when its source changed, when the settings that shape the row did, or when asked.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tributary_opt import schema
from tributary_opt.market_data import complements
from tributary_opt.market_data.buckets import summarise, zero_rows
from tributary_opt.market_data.calendars import ALWAYS_OPEN, Session, trading_calendar
from tributary_opt.market_data.jumps import volume_in_newest_units
from tributary_opt.market_data.markets import ReferenceData
from tributary_opt.market_data.source import ALL_MARKETS, Fingerprint, MarketSlice, Source
from tributary_opt.settings import StatisticsRules
from tributary_opt.storage.frames import canonical, table_digest
from tributary_opt.storage.market_day_rows import BOOKKEEPING, MarketDayRows, to_frame

STATISTICS_VERSION = 8
"""Raised when the code below shapes a row differently; every day of the window is then read again."""

CAP_DAYS = 7
"""Trading days before a day whose volume bounds its flow. [day]"""

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
    """Reads trading days from the source and keeps their rows."""

    def __init__(
        self,
        rows: MarketDayRows,
        source: Source,
        reference: ReferenceData,
        rules: StatisticsRules,
        *,
        markets_per_slice: int = 5_000,
    ):
        self._rows = rows
        self._source = source
        self._reference = reference
        self._rules = rules
        self._markets_per_slice = markets_per_slice
        self._settings_digest = _digest(json.dumps(rules.model_dump(mode="json"), sort_keys=True))

    def window(self, as_of: date, lookback_days: int) -> Window:
        """The trading days that a night as of `as_of` uses: none before the first day that was ever recorded."""
        oldest, stored = self._source.oldest_row(), self._rows.first_day()
        recorded = [day for day in (stored, oldest.date() if oldest else None) if day is not None]
        return Window.of(as_of, lookback_days, self._reference.calendars(), min(recorded, default=None))

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

    def read(self, day: date, unread: Collection[date] = ()) -> pd.DataFrame:
        """The rows of a day, read from the source: one for each instrument with ticks in its session.

        `unread` are days whose stored rows are missing or outdated: where flow is bounded by the volume of days before,
        theirs comes from the source. So a row is the same whichever day is read first.

        An instrument that the day had a row of, and that has gone, gets a row of zeros. So do instruments with ticks
        out of every session where there is nothing else: the day is then known, and not read every night.
        """
        margin = timedelta(days=1)
        fingerprints = self._source.fingerprints(day - margin, day + margin)
        parts: list[pd.DataFrame] = []
        for code in self._reference.calendars():
            session = self._session(code, day)
            if session is not None:
                parts.extend(self._read_session(session, _source_digest(session, fingerprints), unread))
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
        self._rows.store(rows)

    def chunks(self, window: Window, n_markets: int, fresh: pd.DataFrame | None = None) -> list[tuple[str, str]]:
        """Ranges of market ids of about `n_markets` each, both ends included, covering all stored and fresh ones."""
        stored = self._rows.market_ids(window.first, window.as_of)
        ids = stored if fresh is None else sorted({*stored, *fresh["market_id"]})
        return [(ids[i], ids[min(i + n_markets, len(ids)) - 1]) for i in range(0, len(ids), n_markets)]

    def load(
        self, window: Window, chunk: tuple[str, str] | None = None, fresh: pd.DataFrame | None = None
    ) -> pd.DataFrame:
        """The stored rows of the window, sorted by market, token and day.

        `chunk` limits them to a range of market ids; `fresh` rows, of days not stored, replace those of their days.
        """
        rows = self._rows.load(window.first, window.as_of, chunk)
        if fresh is not None:
            ours = fresh if chunk is None else fresh[fresh["market_id"].between(*chunk)]
            rows = pd.concat([rows[~rows["day"].isin(fresh["day"])], ours], ignore_index=True)
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
        rows = self._rows.known(window.first, window.as_of)
        now = self._reference.of(rows[["market_id", "token_id"]].drop_duplicates())
        now = now[["market_id", "token_id", "calendar", "kind", "folded_with"]]
        rows = rows.merge(now, on=["market_id", "token_id"], how="left", suffixes=("", "_now"))
        moved = rows["calendar"] != rows["calendar_now"]
        if moved.any():
            # Its old days were cut by another calendar, and there may be days it had no row of at all.
            _LOG.info("%d market days of markets with a new calendar: the whole window is read again", moved.sum())
            rows["statistics_version"] = -1
        changed = (rows["kind"] != rows["kind_now"]) | (rows["folded_with"] != rows["folded_with_now"])
        rows.loc[changed, "statistics_version"] = -1
        return {pd.Timestamp(str(stamp)).date(): part for stamp, part in rows.groupby("day")}

    def _up_to_date(self, rows: pd.DataFrame, sessions: dict[str, Session], digests: dict[str, str]) -> bool:
        if not any(digests.values()):
            return True  # their ticks have retired: read again, the rows would be zeros
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
        """Instruments with ticks in a session: how many, and their kind and calendar.

        `folds` where the market's ticks are all of the two tokens of one pair.
        """
        assert session is not None
        trades = _counts(self._source.trade_counts(session.start, session.end), ["n", "n_bad", "n_no_side"])
        books = _counts(self._source.book_counts(session.start, session.end), ["n"])
        seen = trades.merge(books, on=["market_id", "token_id"], how="outer", suffixes=("", "_books"))
        nul = seen["market_id"].str.contains("\0", regex=False) | seen["token_id"].str.contains("\0", regex=False)
        for unusable, what in ((seen["market_id"] == "", "without a market_id"), (nul, "with NUL in an id")):
            if unusable.any():
                n = int(seen.loc[unusable, ["n", "n_books"]].sum().sum())
                _LOG.warning("%s, %s: %d rows %s are left out", session.day, session.calendar, n, what)
        seen["tokens"] = seen.groupby("market_id")["token_id"].transform("size")  # with those that are left out
        seen = seen[~nul & (seen["market_id"] != "")].reset_index(drop=True)
        reference = self._reference.of(seen)
        seen = seen.assign(**{name: reference[name] for name in ("kind", "calendar", "folded_with")})
        other = pd.MultiIndex.from_frame(seen[["market_id", "folded_with"]])
        of_pair = 1 + other.isin(pd.MultiIndex.from_frame(seen[["market_id", "token_id"]]))
        folds = (seen["folded_with"] != "") & (seen["tokens"] == of_pair)
        return seen.drop(columns="tokens").assign(folds=folds)

    def _volumes_before(self, session: Session, unread: Collection[date]) -> pd.DataFrame:
        """What was traded by instrument in the session, and on each of the days before whose volume bounds its flow.

        Of these it is stored, else the source's. `apart` says that a pair of tokens has not been made one series yet,
        as it is in stored rows.
        """
        days = trading_calendar(session.calendar).last_days(session.day - timedelta(days=1), CAP_DAYS)
        stored = self._rows.volumes(days[0], days[-1])
        day_of = stored["day"].dt.date
        parts = [stored.assign(day=day_of, apart=False)[day_of.isin(set(days) - set(unread))]]
        for day in days:
            before = self._session(session.calendar, day) if day in unread or day not in set(day_of) else None
            if before is not None:
                parts.append(_traded(self._source.volumes(before.start, before.end)).assign(day=day, apart=True))
        today = _traded(self._source.volumes(session.start, session.end))
        parts.append(today.assign(day=session.day, apart=True))
        together: pd.DataFrame = pd.concat(parts, ignore_index=True)
        return together

    def _flow_cap(self, instruments: pd.DataFrame, volumes: pd.DataFrame, day: date) -> np.ndarray:
        """Bound on each instrument's flow in a bucket: a share of its mean volume on the days before that had any, and
        at least some of its mean trades.

        A split on the way, or on the day itself, is reckoned with: all is in contracts of that day. Ten digits of it:
        sums of the server and of stored rows differ in their last one, and fewer would be those of the contracts'
        unit. It stays as it is when an earlier day is corrected later.
        """
        keys = ["market_id", "token_id"]
        pairs = instruments.loc[instruments["folded_with"] != "", [*keys, "folded_with"]]
        pairs = pairs.rename(columns={"token_id": "first", "folded_with": "token_id"})
        v = volumes[volumes["volume"] > 0].merge(pairs, on=keys, how="left")
        v["token_id"] = v["token_id"].where(v["first"].isna() | ~v["apart"].astype(bool), v["first"])
        how = {"volume": "sum", "n_trades": "sum", "open_price": "first", "close_price": "last"}
        by_day = v.groupby([*keys, "day"], as_index=False).agg(how)
        priced = instruments.loc[instruments["kind"] != "probability", keys]
        splits = pd.MultiIndex.from_frame(by_day[keys]).isin(pd.MultiIndex.from_frame(priced))
        by_day.loc[splits, "volume"] = volume_in_newest_units(by_day[splits])
        known = (by_day["day"] < day) & by_day["volume"].notna()
        mean = by_day[known].groupby(keys, as_index=False)[["volume", "n_trades"]].mean()
        ours = instruments[["market_id", "token_id"]].merge(mean, on=["market_id", "token_id"], how="left")
        volume = ours["volume"].to_numpy(dtype=float)
        trades = self._rules.flow_cap_trades / ours["n_trades"].to_numpy(dtype=float)
        cap = volume * np.maximum(self._rules.flow_cap_pct_adv / 100.0, trades)
        return np.array([float(f"{of_one:.10g}") for of_one in cap])

    def _read_session(self, session: Session, source_digest: str, unread: Collection[date]) -> Iterator[pd.DataFrame]:
        seen = self._seen(session)
        ours = seen[seen["calendar"] == session.calendar]
        volumes = self._volumes_before(session, unread) if self._rules.flow_cap_pct_adv > 0 else None
        for kind, group in ours.groupby("kind"):
            for part, markets in self._slices(group, seen):
                part = complements.one_series(part)
                part = part.assign(flow_cap=np.nan if volumes is None else self._flow_cap(part, volumes, session.day))
                trade_buckets = self._source.trade_buckets(session.start, session.end, markets)
                book_buckets = self._source.book_buckets(
                    session.start,
                    session.end,
                    probability=kind == "probability",
                    quote_cap_s=self._rules.quote_cap_seconds,
                    markets=markets,
                )
                probability = kind == "probability"
                quoted = self._against_mids(session, part, markets, probability=probability)
                walks = self._walks(session, part, markets, probability=probability)
                tables = (
                    None if t is None else complements.onto_first(t, part)
                    for t in (trade_buckets, book_buckets, quoted, walks)
                )
                rows = summarise(session, part, *tables, flow_between_mids=self._rules.flow_between_mids)
                rows = complements.both_tokens(rows, part)
                yield rows.assign(
                    kind=kind,
                    statistics_version=STATISTICS_VERSION,
                    settings_digest=self._settings_digest,
                    source_digest=source_digest,
                )[schema.MARKET_DAYS.names]

    def _against_mids(
        self, session: Session, part: pd.DataFrame, markets: MarketSlice, *, probability: bool
    ) -> pa.Table | None:
        """Trades against the mid before them, aggressors inferred where none is given; None where there is nothing.

        A join with the book is dear, and the tick rule's windows more so: markets whose trades all name their aggressor
        are asked about apart, and those among them without a book not at all. Apart again are markets that fold: the
        server makes one series of all their ticks first. It is not told which tokens make a pair, which would be a long
        list; so a market with ticks of a third token, or without one, is asked about token by token.
        """
        ids = part["market_id"]
        unsigned = set(ids[part["n_no_side"] > 0])
        signed = set(ids[(part["n"] > 0) & (part["n_books"] > 0)]) - unsigned
        folding = set(ids[part["folds"]])
        groups = (
            (True, True, unsigned & folding),
            (True, False, unsigned - folding),
            (False, True, signed & folding),
            (False, False, signed - folding),
        )
        found = []
        for infer, fold, wanted in groups:
            if wanted:
                whole = wanted == set(ids)
                table = self._source.quoted_trades(
                    session.start,
                    session.end,
                    probability=probability,
                    infer=infer,
                    fold=fold,
                    tick_rule=self._rules.tick_rule,
                    markets=markets if whole else MarketSlice(tuple(sorted(wanted))),
                )
                if not whole:  # a long list of markets is asked for as a range
                    mine = pc.is_in(table["market_id"].cast(pa.string()), pa.array(sorted(wanted), pa.string()))
                    table = table.filter(mine)
                found.append(table)
        return pa.concat_tables(found) if found else None

    def _walks(
        self, session: Session, part: pd.DataFrame, markets: MarketSlice, *, probability: bool
    ) -> pa.Table | None:
        """Orders walked through the books; None where there is no book to walk, or no volume to take a share of."""
        pct = self._rules.walk_pct_volume
        if not (pct > 0 and ((part["n"] > 0) & (part["n_books"] > 0)).any()):
            return None
        return self._source.walks(session.start, session.end, probability=probability, pct_volume=pct, markets=markets)

    def _slices(self, group: pd.DataFrame, seen: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, MarketSlice]]:
        """The group cut where all markets seen are: a long list is asked for as a range, and strangers come with it."""
        ids = sorted(pd.unique(seen["market_id"]))
        if len(group) == len(seen) and len(ids) <= self._markets_per_slice:
            yield group, ALL_MARKETS
            return
        for i in range(0, len(ids), self._markets_per_slice):
            part = group[group["market_id"].isin(set(ids[i : i + self._markets_per_slice]))]
            if len(part):
                yield part, MarketSlice(tuple(sorted(pd.unique(part["market_id"]))))

    def _gone(self, day: date, found: pd.DataFrame) -> pd.DataFrame:
        """Instruments that the day has a stored row of, and none among those found."""
        stored = self._rows.known(day, day)[["market_id", "token_id"]]
        have = pd.MultiIndex.from_frame(found[["market_id", "token_id"]])
        return stored[~pd.MultiIndex.from_frame(stored).isin(have)]

    def _zero_rows(self, day: date, instruments: pd.DataFrame, fingerprints: dict[date, Fingerprint]) -> pd.DataFrame:
        rows = zero_rows(day, instruments)
        reference = self._reference.of(rows)
        for name in ("kind", "calendar", "folded_with"):
            rows[name] = reference[name]
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
    columns = tuple(c for c in schema.MARKET_DAYS.columns if c.name not in BOOKKEEPING)
    return table_digest(columns, canonical(schema.MARKET_DAYS, rows))


# --- small things --------------------------------------------------------------------------------------------


def _counts(table: pa.Table, names: list[str]) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    # As objects: pandas cannot merge two empty columns of Arrow texts.
    frame[["market_id", "token_id"]] = frame[["market_id", "token_id"]].fillna("").astype(object)
    return frame.groupby(["market_id", "token_id"], as_index=False, sort=True)[names].sum()


def _traded(table: pa.Table) -> pd.DataFrame:
    """`Source.volumes` by instrument, a missing id as an empty one."""
    frame: pd.DataFrame = table.to_pandas()
    keys = ["market_id", "token_id"]
    frame[keys] = frame[keys].fillna("").astype(object)
    return frame.groupby(keys, as_index=False, sort=True).agg(
        {"volume": "sum", "n_trades": "sum", "open_price": "first", "close_price": "last"}
    )


def _instruments(table: pa.Table) -> pd.DataFrame:
    return _counts(table, ["n"])[["market_id", "token_id"]]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _source_digest(session: Session | None, fingerprints: dict[date, Fingerprint]) -> str:
    """Digest of the source on the UTC dates of a session; empty where it has no rows there."""
    assert session is not None
    present = [fingerprints[day].text() for day in session.utc_dates if day in fingerprints]
    return _digest("\n".join(present)) if present else ""


def _empty() -> pd.DataFrame:
    table = schema.MARKET_DAYS.arrow_schema().empty_table()
    return to_frame(table)
