"""One release as a reader sees it: its parameters and schedules, market by market or whole.

A snapshot never changes: it holds the run id it was opened with, and a row of any other run is an error. It reads what
is asked for, when it is asked for.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from tributary_opt import schema
from tributary_opt.schedule_book.grid import Block, BookError, Key, Market, Rows, of_run

REPAIR = "`tributary-opt check` says what to repair"

JUDGED = ("status", "reason", "detail", "grade", "calendar")
"""What decides whether a market may be used at all."""

OF_AN_ORDER = (
    *("run_id", "market_id", "token_id", *JUDGED, "kind", "resolution_time"),
    *("adv", "price", "sigma", "eta", "gamma", "epsilon", "reference_rate", "contract_multiplier", "tick_size"),
    *("volume_profile", "variance_profile", "volume_profile_week", "variance_profile_week"),
)
"""Columns of `ac_parameters` that orders need."""


class ScheduleRefused(ValueError):
    """There is no schedule for what was asked; the message says why and how far off it is."""


def buffer_of(settings: Mapping[str, Any] | None) -> timedelta:
    """How long before a resolution schedules end, by a release's settings; nothing in one too old to say."""
    return timedelta(minutes=float(((settings or {}).get("grid") or {}).get("resolution_buffer_minutes", 0.0)))


class Portion:
    """Rows of `ac_parameters`, sorted by market, of whole markets."""

    def __init__(self, rows: pa.Table, run_id: str):
        of_run(rows, run_id, schema.PARAMETERS.name)
        self._rows = rows
        self._ids: list[str] = rows["market_id"].to_pylist()
        self._tokens: list[str] = rows["token_id"].to_pylist()

    def tokens(self, market_id: str) -> list[str]:
        """The tokens of a market; none where it is not here."""
        return self._tokens[bisect.bisect_left(self._ids, market_id) : bisect.bisect_right(self._ids, market_id)]

    def row(self, key: Key) -> dict[str, Any]:
        """The row of a market as values; empty where it is not here."""
        tokens = self.tokens(key[0])
        if key[1] not in tokens:
            return {}
        at = bisect.bisect_left(self._ids, key[0]) + tokens.index(key[1])
        return dict(self._rows.slice(at, 1).to_pylist()[0])


class Parameters(Protocol):
    """Where a release's parameters are read from."""

    def read(self, names: Sequence[str] | None) -> pa.Table:
        """Columns of all rows, every column for None."""

    def portion(self, market_id: str) -> Portion | None:
        """Rows among which a market's are, if it has any: what an order needs of them."""

    def whole_row(self, key: Key) -> dict[str, Any]:
        """Every column of a market's row; empty where it has none."""


class Snapshot:
    """One release.

    Parameters
    ----------
    run_id, as_of, published_at
    parameters : Parameters
    rows : Rows
    buffer : timedelta
        How long before a market's resolution the release's schedules end.
    before : callable
        A market's row of `ac_parameters` in the release that was current before this one, empty where it had none, and
        its schedules, None where there are none any more.
    """

    def __init__(
        self,
        run_id: str,
        as_of: date,
        published_at: datetime | None,
        buffer: timedelta,
        parameters: Parameters,
        rows: Rows,
        before: Callable[[Key], tuple[dict[str, Any], Market | None]],
    ):
        self.run_id, self.as_of, self.published_at, self.buffer = run_id, as_of, published_at, buffer
        self.read, self.evidence, self.before = parameters.read, parameters.whole_row, before
        self._parameters, self._rows = parameters, rows
        self._known: dict[Key, dict[str, Any]] = {}
        self._columns: dict[str, np.ndarray] = {}

    # A market at a time:

    def tokens(self, market_id: str) -> list[str]:
        """The tokens of a market; none where the release does not have it."""
        portion = self._parameters.portion(market_id)
        return [] if portion is None else portion.tokens(market_id)

    def parameters(self, key: Key) -> dict[str, Any]:
        """What an order needs of the row of `ac_parameters`."""
        found = self._known.get(key)
        if found is None:
            portion = self._parameters.portion(key[0])
            found = self._known[key] = {} if portion is None else portion.row(key)
        return found

    def market(self, key: Key) -> Market:
        """The schedules of a market; BookError where a market with parameters has none."""
        block = self._rows.of_market(key[0])
        return self.within(block, key)

    def within(self, block: Block | None, key: Key) -> Market:
        """The market's rows in the block where they must be."""
        found = None if block is None else block.market(key)
        if found is None:
            raise BookError(
                f"run {self.run_id} has parameters but no schedules for {key[0]!r}, {key[1]!r}: the release is not "
                f"whole; {REPAIR}"
            )
        return found

    # All at once:

    @cached_property
    def places(self) -> dict[Key, int]:
        """The place of each market and token in the columns."""
        rows = self.read(("run_id", "market_id", "token_id"))
        of_run(rows, self.run_id, schema.PARAMETERS.name)
        keys = zip(rows["market_id"].to_pylist(), rows["token_id"].to_pylist(), strict=True)
        return {key: place for place, key in enumerate(keys)}

    @property
    def market_ids(self) -> list[str]:
        """Every market of the release."""
        return list(dict.fromkeys(market_id for market_id, _ in self.places))

    def column(self, name: str) -> np.ndarray:
        """A column of `ac_parameters`, in the order of `places`: doubles with NaN, words with None."""
        found = self._columns.get(name)
        return self.columns([name])[name] if found is None else found

    def columns(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Some columns, those that nobody has asked for yet read together."""
        unread = [name for name in names if name not in self._columns]
        if unread:
            rows = self.read(unread)
            self._columns |= {name: rows[name].to_numpy() for name in unread}
        return {name: self._columns[name] for name in names}

    def blocks(self, market_ids: Sequence[str]) -> Iterator[dict[str, Block]]:
        """The schedules of many markets, in portions, each row group read once."""
        return self._rows.of_markets(market_ids)
