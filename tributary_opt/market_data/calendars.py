"""Trading days: 24 hours from 00:00 UTC for `24/7`, one session for an exchange's code."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

# A second of imports that markets of 24 hours a day need nothing of: imported where an exchange is asked for.
if TYPE_CHECKING:
    import exchange_calendars

ALWAYS_OPEN = "24/7"
_EARLIEST = date(1990, 1, 1)
_MAKING = threading.Lock()
"""Held while a calendar is made: it takes half a second, and threads that ask at once should share one."""


@dataclass(frozen=True)
class Session:
    """One trading day: its date and the half-open interval of time that belongs to it."""

    calendar: str
    day: date
    start: datetime
    end: datetime

    @property
    def hours(self) -> float:
        """Length of the day. [h]"""
        return (self.end - self.start).total_seconds() / 3600.0

    @property
    def utc_dates(self) -> list[date]:
        """The UTC dates that the interval touches."""
        first, last = self.start.date(), (self.end - timedelta(microseconds=1)).date()
        return [first + timedelta(days=i) for i in range((last - first).days + 1)]


class TradingCalendar:
    """The trading days of one calendar, `24/7` or any code that `exchange_calendars` knows."""

    def __init__(self, code: str):
        self.code = code
        self._exchange = None if code == ALWAYS_OPEN else _exchange(code)
        self.timezone = "UTC" if self._exchange is None else str(self._exchange.tz)

    def session(self, day: date) -> Session | None:
        """The session of a date, or None where the exchange is closed all day."""
        if self._exchange is None:
            start = datetime(day.year, day.month, day.day, tzinfo=UTC)
            return Session(self.code, day, start, start + timedelta(days=1))
        label = day.isoformat()
        if not self._exchange.is_session(label):
            return None
        start, end = self._exchange.session_open(label), self._exchange.session_close(label)
        return Session(self.code, day, start.to_pydatetime(), end.to_pydatetime())

    def breaks(self, first: date, last: date) -> list[tuple[datetime, datetime]]:
        """The exchange's breaks (lunch in Tokyo, Hong Kong) in the sessions of these days, in which nothing trades.

        A session's length counts them: its hours without volume are what schedules by volume know of them.
        """
        if self._exchange is None:
            return []
        labels = self._exchange.sessions_in_range(first.isoformat(), last.isoformat())
        found = [(self._exchange.session_break_start(x), self._exchange.session_break_end(x)) for x in labels]
        return [(start.to_pydatetime(), end.to_pydatetime()) for start, end in found if start == start]

    def days(self, first: date, last: date) -> list[date]:
        """The trading days from `first` to `last`, both included."""
        if self._exchange is None:
            return [first + timedelta(days=i) for i in range((last - first).days + 1)]
        sessions = self._exchange.sessions_in_range(first.isoformat(), last.isoformat())
        return [stamp.date() for stamp in sessions]

    def last_days(self, as_of: date, n: int) -> list[date]:
        """The newest `n` trading days up to and including `as_of`, oldest first."""
        if self._exchange is None:
            return self.days(as_of - timedelta(days=n - 1), as_of)
        span = timedelta(days=2 * n + 14)
        days = self.days(max(as_of - span, _EARLIEST), as_of)
        return days[-n:]

    def sessions_after(self, day: date, n: int) -> list[Session]:
        """The first `n` sessions after `day`; fewer where the calendar's own range ends."""
        if self._exchange is None:
            days = self.days(day + timedelta(days=1), day + timedelta(days=n))
        else:
            days = self.days(day + timedelta(days=1), day + timedelta(days=2 * n + 21))[:n]
        return [session for session in map(self.session, days) if session is not None]

    def instant_after(self, day: date, horizon: float) -> datetime:
        """The instant at which `horizon` trading days are over that begin with the first session after `day`."""
        whole = int(np.ceil(horizon)) - 1
        session = self.sessions_after(day, whole + 1)[-1]
        return session.start + (horizon - whole) * (session.end - session.start)

    def horizon_until(self, day: date, instants: np.ndarray, longest: float) -> np.ndarray:
        """Trading days from the start of the first session after `day` until each instant (datetime64, UTC).

        A fraction counts within its session, the time between sessions not at all. 0 for instants before the start,
        at most `longest` rounded up; NaN for NaT.
        """
        sessions = self.sessions_after(day, int(np.ceil(longest)))
        starts, ends = (_plain([getattr(s, side) for s in sessions]) for side in ("start", "end"))
        at = np.asarray(instants).astype("datetime64[us]")
        begun = np.searchsorted(starts, at, side="right")  # NaT sorts last
        last = np.maximum(begun - 1, 0)
        within = np.clip((at - starts[last]) / (ends[last] - starts[last]), 0.0, 1.0)
        return np.where(np.isnat(at), np.nan, np.where(begun == 0, 0.0, last + within))

    def hour_of_day(self, stamps: np.ndarray) -> np.ndarray:
        """Hour 0-23 of datetime64 stamps (UTC) on the calendar's own clock."""
        if self._exchange is None:
            return np.asarray(stamps).astype("datetime64[h]").astype(np.int64) % 24
        import pandas as pd

        local = pd.DatetimeIndex(stamps).tz_localize("UTC").tz_convert(self.timezone)
        return np.asarray(local.hour, dtype=np.int64)


def _plain(instants: list[datetime]) -> np.ndarray:
    return np.array([i.astimezone(UTC).replace(tzinfo=None) for i in instants], dtype="datetime64[us]")


@lru_cache(maxsize=64)
def trading_calendar(code: str) -> TradingCalendar:
    """The calendar of a code. ValueError for a code nobody knows, or whose calendar the library cannot make."""
    return TradingCalendar(code)


@lru_cache(maxsize=1024)
def calendar_problem(code: str) -> str:
    """Why there is no calendar of this code; empty where there is one."""
    try:
        trading_calendar(code)
    except ValueError as error:
        return str(error)
    return ""


def _exchange(code: str) -> exchange_calendars.ExchangeCalendar:
    import exchange_calendars
    from exchange_calendars.errors import InvalidCalendarName

    with _MAKING:
        try:
            try:
                # Its default range begins 20 years ago; a backfill may want more. Not every calendar reaches 1990.
                return exchange_calendars.get_calendar(code, start=str(_EARLIEST))
            except ValueError:
                return exchange_calendars.get_calendar(code)
        except InvalidCalendarName:
            raise ValueError(
                f"calendar must be '{ALWAYS_OPEN}' or a code of exchange_calendars such as XNYS, got {code!r}"
            ) from None
        except Exception as error:  # 4.13.2 with pandas 3: NotImplementedError for ASEX, XBEL, XBSE, XCYS
            raise ValueError(
                f"calendar {code}: exchange_calendars {exchange_calendars.__version__} cannot make it "
                f"({type(error).__name__})"
            ) from error
