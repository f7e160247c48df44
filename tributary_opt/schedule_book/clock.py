"""Trading time and the clock on the wall: closures are skipped, a day is a session however long it is."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np

from tributary_opt.market_data.calendars import Session, trading_calendar

_NEAR = 1e-9
"""A step this close to the end of a session is there. [day]"""


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


def trading_hours(calendar: str, as_of: date, until: datetime) -> float:
    """Hours of trading between the end of `as_of`'s session and `until`. [h]"""
    total = 0.0
    days = (until.date() - as_of).days + 1
    if days < 0:
        return 0.0
    clock = trading_calendar(calendar)
    for day in clock.days(as_of + timedelta(days=1), as_of + timedelta(days=days)):
        session = clock.session(day)
        if session is not None and session.start < until:
            total += (min(session.end, until) - session.start).total_seconds() / 3600.0
    return total


def _sessions_from(calendar: str, start: datetime, n: int) -> list[Session]:
    sessions = trading_calendar(calendar).sessions_after(start.date() - timedelta(days=2), n + 3)
    return [session for session in sessions if session.end > start]


def _plain(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(tzinfo=None)
