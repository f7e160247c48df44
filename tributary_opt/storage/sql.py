"""What is written into SQL: `/exp` takes no binds, so texts, instants and names go through these three."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
import pandas as pd


def quote(text: str) -> str:
    """A text as an SQL literal; the one place where texts enter SQL.

    Quotes are doubled; QuestDB takes everything else as it stands: backslash, semicolon, comment signs, line ends and,
    over HTTP but not over PostgreSQL's wire, NUL.

    Raises
    ------
    TypeError
        For anything but a `str`.
    ValueError
        For half of a surrogate pair, which has no UTF-8.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text must be valid unicode, got {text!r}") from error
    return "'" + text.replace("'", "''") + "'"


def timestamp_literal(instant: datetime | np.datetime64) -> str:
    """An instant as an SQL literal in UTC, good for TIMESTAMP and TIMESTAMP_NS.

    Raises
    ------
    ValueError
        For NaT, and for a `datetime` without a zone (`np.datetime64` has none and means UTC).
    """
    if isinstance(instant, datetime):
        if instant.tzinfo is None:  # NaT is a datetime as well, and has none
            raise ValueError(f"instant must have a zone, got {instant!r}: use UTC")
        stamp = pd.Timestamp(instant).tz_convert("UTC").tz_localize(None)
    else:
        stamp = pd.Timestamp(instant)
        if pd.isna(stamp):
            raise ValueError("instant must be a time, got NaT")
    return f"'{stamp.isoformat(timespec='nanoseconds' if stamp.nanosecond else 'microseconds')}Z'"


def identifier(name: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """A table's or column's name as it stands in SQL, checked against the names the server knows.

    Raises
    ------
    ValueError
        For a name not among them, and for one with a quote in it.
    """
    if name not in known or '"' in name:
        raise ValueError(f"no column or table {name!r}; there are {', '.join(sorted(known))}")
    return f'"{name}"'
