"""A release in QuestDB: the one that the pointer names, its schedules asked for market by market."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tributary_opt import schema
from tributary_opt.schedule_book.grid import Block, BookError, Key, Market, with_all
from tributary_opt.schedule_book.snapshot import REPAIR, Portion, Snapshot, buffer_of
from tributary_opt.storage.frames import canonical
from tributary_opt.storage.questdb import QuestDB, QuestDBQueryError
from tributary_opt.storage.releases import Releases
from tributary_opt.storage.sql import quote, timestamp_literal

_MARKETS_KEPT = 2_000
"""Markets whose schedules are kept in memory."""


def of_questdb(db: QuestDB) -> Snapshot:
    """The release that the pointer names."""
    releases = Releases(db, Path())
    missing = {t.name for t in schema.TABLES.values()} - {schema.MARKET_DAYS.name} - set(db.tables())
    if missing:
        raise BookError(f"the database lacks {', '.join(sorted(missing))}: publish a night into it first")
    try:
        pointer = releases.current()
        if pointer is None:
            raise BookError("the database holds no published release: publish a night first")
        run = releases.run(pointer.run_id)
        parameters = releases.read(schema.PARAMETERS, pointer.as_of, pointer.run_id)
    except QuestDBQueryError as error:
        raise BookError(f"the release cannot be read: {error}") from None
    rows = _Schedules(db, pointer.as_of, pointer.run_id)
    told = {} if run is None else {"ac_parameters": run["n_markets"], "ac_trajectories": run["n_trajectories"]}
    for name, found in (("ac_parameters", parameters.num_rows), ("ac_trajectories", rows.count())):
        if told.get(name) != found:
            raise BookError(
                f"run {pointer.run_id} is current, but {name} has {found} of its {told.get(name)} rows: {REPAIR}"
            )

    def before_this(key: Key) -> tuple[dict[str, Any], Market | None]:
        earlier = releases.previous(pointer)
        if earlier is None:
            return {}, None
        row = Portion(releases.read(schema.PARAMETERS, earlier.as_of, earlier.run_id), earlier.run_id).row(key)
        block = _Schedules(db, earlier.as_of, earlier.run_id).of_market(key[0])
        return row, None if block is None else block.market(key)

    found = _Parameters(parameters, pointer.run_id)
    buffer = buffer_of(json.loads((run or {}).get("settings") or "{}"))
    return Snapshot(pointer.run_id, pointer.as_of, pointer.published_at, buffer, found, rows, before_this)


class _Parameters:
    """`ac_parameters` of a release, read whole."""

    def __init__(self, rows: pa.Table, run_id: str):
        self._rows, self._portion = rows, Portion(rows, run_id)

    def read(self, names: Sequence[str] | None) -> pa.Table:
        return self._rows if names is None else self._rows.select(list(names))

    def portion(self, market_id: str) -> Portion:
        return self._portion

    def whole_row(self, key: Key) -> dict[str, Any]:
        return self._portion.row(key)


class _Schedules:
    """A release's rows in QuestDB, asked for market by market, or many at once."""

    _AT_ONCE = 250

    def __init__(self, db: QuestDB, as_of: date, run_id: str):
        self._db, self._run_id = db, run_id
        stamp = timestamp_literal(np.datetime64(as_of, "us"))
        self._where = f"FROM ac_trajectories WHERE as_of = {stamp} AND run_id = {quote(run_id)}"
        self._read: dict[str, Block] = {}
        self._lock = threading.Lock()

    def count(self) -> int:
        """How many schedules the release has."""
        return int(self._db.rows(f"SELECT count() {self._where}")[0][0])

    def of_market(self, market_id: str) -> Block | None:
        return next(self.of_markets([market_id])).get(market_id)

    def of_markets(self, market_ids: Sequence[str]) -> Iterator[dict[str, Block]]:
        for start in range(0, len(market_ids), self._AT_ONCE):
            portion = market_ids[start : start + self._AT_ONCE]
            with self._lock:
                found = {name: self._read[name] for name in portion if name in self._read}
                if unread := [name for name in portion if name not in found]:
                    block = self._block(unread)
                    for name in {market_id for market_id, _ in block.places}:
                        while len(self._read) >= _MARKETS_KEPT:
                            self._read.pop(next(iter(self._read)))
                        self._read[name] = found[name] = block
            yield found

    def _block(self, market_ids: Sequence[str]) -> Block:
        names = ", ".join(schema.TRAJECTORIES.names)
        wanted = ", ".join(map(quote, market_ids))
        try:
            rows = self._db.query(f"SELECT {names} {self._where} AND market_id IN ({wanted})")
        except QuestDBQueryError as error:
            raise BookError(f"schedules of {market_ids[0]!r} cannot be read: {error}") from None
        return Block(with_all(canonical(schema.TRAJECTORIES, rows)), self._run_id)
