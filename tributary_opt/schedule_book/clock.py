"""Trading time and the clock on the wall: closures are skipped, a day is a session however long it is."""

from __future__ import annotations

import bisect
import itertools
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

import numpy as np

from tributary_opt.market_data.calendars import Session, trading_calendar

_NEAR = 1e-9
"""A step this close to the end of a session is there. [day]"""
_DAYS_AT_ONCE = 64
"""Days whose sessions are looked up, and kept, together."""


def stamps(calendar: str, start: datetime, offsets: np.ndarray) -> np.ndarray:
    """The instants (datetime64[us], UTC) at which `offsets` trading days have passed since `start`, offsets rising.

    A start in a closure is the next open. A step that ends a session begins the next one; the last step ends it.
    """
    days = int(np.ceil(offsets[-1])) + 2
    sessions = _sessions_from(calendar, start, days)
    first = sessions[0]
    begun = max((start - first.start) / (first.end - first.start), 0.0)
    at = begun + offsets
    whole = np.floor(at + _NEAR).astype(int)
    if at[-1] - whole[-1] < _NEAR and whole[-1] > 0:
        whole[-1] -= 1
    opens = np.array([_plain(s.start) for s in sessions], dtype="datetime64[us]")
    lengths = np.array([(s.end - s.start) / timedelta(microseconds=1) for s in sessions])
    if whole[-1] >= len(sessions):
        raise ValueError(f"the calendar {calendar} ends before the schedule that starts at {start} does")
    within = np.rint(np.clip(at - whole, 0.0, 1.0) * lengths[whole]).astype("timedelta64[us]")
    return np.asarray(opens[whole] + within)


def in_breaks(calendar: str, times: np.ndarray) -> np.ndarray:
    """Which of the instants (datetime64, UTC, rising) lie in a break of the exchange's."""
    first, last = (times[i].astype("datetime64[D]").item() for i in (0, -1))
    found = np.zeros(times.shape, dtype=bool)
    for start, end in trading_calendar(calendar).breaks(first - timedelta(days=1), last + timedelta(days=1)):
        found |= (times >= np.datetime64(_plain(start))) & (times < np.datetime64(_plain(end)))
    return found


def trading_hours(calendar: str, as_of: date, until: datetime) -> float:
    """Hours of trading between the end of `as_of`'s session and `until`. [h]"""
    days = (until.date() - as_of).days + 1
    if days < 1:
        return 0.0
    try:
        starts, ends, before = _bounds(calendar, as_of, -(-days // _DAYS_AT_ONCE) * _DAYS_AT_ONCE)
    except (ValueError, OverflowError):  # in the words of who made the calendar
        raise _beyond(calendar, until) from None
    now = until.timestamp()
    begun = bisect.bisect_left(starts, now)
    return (before[begun - 1] + min(ends[begun - 1], now) - starts[begun - 1]) / 3600.0 if begun else 0.0


def session_of(calendar: str, start: datetime) -> tuple[date, float]:
    """The day before the session in which `start` lies or that opens next, and the share of it that is over by then."""
    session = _sessions_from(calendar, start, 1)[0]
    begun = (start - session.start) / (session.end - session.start)
    return session.day - timedelta(days=1), max(begun, 0.0)


@lru_cache(maxsize=1_024)
def first_session(calendar: str, after: date) -> date:
    """The first trading day after a day."""
    return trading_calendar(calendar).sessions_after(after, 1)[0].day


@lru_cache(maxsize=256)
def _bounds(calendar: str, as_of: date, days: int) -> tuple[list[float], list[float], list[float]]:
    """Starts and ends of the sessions of so many days after `as_of`, since the epoch, and what was open before. [s]"""
    clock = trading_calendar(calendar)
    found = [clock.session(day) for day in clock.days(as_of + timedelta(days=1), as_of + timedelta(days=days))]
    sessions = [(s.start.timestamp(), s.end.timestamp()) for s in found if s is not None]
    open_ = itertools.accumulate((end - start for start, end in sessions), initial=0.0)
    return [start for start, _ in sessions], [end for _, end in sessions], list(open_)


def _sessions_from(calendar: str, start: datetime, n: int) -> list[Session]:
    try:
        sessions = trading_calendar(calendar).sessions_after(start.date() - timedelta(days=2), n + 3)
        found = [session for session in sessions if session.end > start]
    except (ValueError, OverflowError):
        raise _beyond(calendar, start) from None
    if not found:
        raise _beyond(calendar, start)
    return found


def _beyond(calendar: str, when: datetime) -> ValueError:
    return ValueError(f"the calendar {calendar} does not reach {when:%Y-%m-%d}: give a start that it knows")


def _plain(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(tzinfo=None)
