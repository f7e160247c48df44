"""A release's schedules as columns: read a row group at a time, looked up with a few comparisons of arrays."""

from __future__ import annotations

import bisect
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tributary_opt import schema
from tributary_opt.storage.frames import canonical
from tributary_opt.storage.questdb import QuestDB, QuestDBQueryError
from tributary_opt.storage.sql import quote, timestamp_literal

Key = tuple[str, str]
"""market_id, token_id"""

INFEASIBLE = "infeasible"

_KEYS = ("run_id", "market_id", "token_id")
_TEXTS = ("strategy", "status", "permanent", "impact_law", "cost_profile")
_WHOLE = ("risk_ix", "horizon_ix", "n_steps")
_DOUBLES = (
    *("order_size", "risk_aversion", "urgency", "horizon", "horizon_asked", "kappa", "decay_time", "half_life"),
    *("eta_tilde", "alpha", "max_participation", "max_slice"),
    *("expected_cost", "cost_variance", "expected_cost_bps", "cost_sd_bps"),
)
COLUMNS = (*_KEYS, *_TEXTS, *_WHOLE, *_DOUBLES, "remaining")
"""What is read of a schedule: what a lookup needs, and no more."""

_GROUPS_KEPT = 64
"""Row groups kept in memory, a few megabytes each."""
_MARKETS_KEPT = 2_000
"""Markets kept in memory of those read one by one from QuestDB."""
_NO_HORIZON = 2**30
_READERS = min(4, os.cpu_count() or 1)


class BookError(RuntimeError):
    """The release cannot be read, or is not whole; the message names the remedy."""


class Block:
    """Schedules of some markets, column by column, a market's rows together.

    `number` holds the doubles and counts, NaN where there is none; `text` the words as codes into `words`, -1 where
    there is none.
    """

    def __init__(self, rows: pa.Table, run_id: str):
        of_run(rows, run_id, schema.TRAJECTORIES.name)
        self.run_id, self.n_rows = run_id, rows.num_rows
        self.number = {name: rows[name].to_numpy() for name in (*_WHOLE, *_DOUBLES)}
        self.text: dict[str, np.ndarray] = {}
        self.words: dict[str, list[str]] = {}
        for name in ("market_id", "token_id", *_TEXTS):
            self.text[name], self.words[name] = _coded(rows[name])
        lists = _whole(rows["remaining"])
        self.offsets, self.values = lists.offsets.to_numpy(), lists.values.to_numpy(zero_copy_only=False)
        market, token = self.text["market_id"], self.text["token_id"]
        new = np.ones(self.n_rows, dtype=bool)
        new[1:] = (market[1:] != market[:-1]) | (token[1:] != token[:-1])
        self.first = np.flatnonzero(new)
        self.end = np.append(self.first[1:], self.n_rows)
        ids, tokens = self.words["market_id"], self.words["token_id"]
        self.places = {(ids[market[i]], tokens[token[i]]): place for place, i in enumerate(self.first.tolist())}
        self.feasible = ~self.has("status", INFEASIBLE)
        self.optimal = self.feasible & ~np.isnan(self.number["urgency"])
        self._markets: dict[int, Market] = {}

    def has(self, name: str, word: str) -> np.ndarray:
        """Which rows have this word."""
        words = self.words[name]
        return np.asarray(self.text[name] == (words.index(word) if word in words else -2))

    # Of each market, in the order of `places`:

    @cached_property
    def largest(self) -> np.ndarray:
        """Largest order of the grid. [contracts]"""
        return self._of_each(np.maximum, self.number["order_size"])

    @cached_property
    def most_urgency(self) -> np.ndarray:
        """Largest urgency of the grid. [-]"""
        return self._of_each(np.maximum, np.where(self.optimal, self.number["urgency"], 0.0))

    @cached_property
    def capped(self) -> np.ndarray:
        """Whether its schedules keep caps."""
        return self._of_each(np.logical_or, self.has("strategy", "almgren_chriss_capped"))

    @cached_property
    def nearest(self) -> np.ndarray:
        """The first row of the grid's first horizon with an optimal schedule; -1 where there is none."""
        horizon = np.where(self.optimal, self.number["horizon_ix"], _NO_HORIZON)
        least = np.repeat(self._of_each(np.minimum, horizon), self.end - self.first)
        rows = np.flatnonzero(self.optimal & (horizon == least))
        at = np.searchsorted(rows, self.first)
        found = np.append(rows, self.n_rows)[at]
        return np.where(found < self.end, found, -1)

    def _of_each(self, ufunc: np.ufunc, values: np.ndarray) -> np.ndarray:
        return np.asarray(ufunc.reduceat(values, self.first)) if self.n_rows else values

    def row(self, i: int) -> dict[str, Any]:
        """One row as values: NaN and None where there is none."""
        found: dict[str, Any] = {name: column[i].item() for name, column in self.number.items()}
        for name, codes in self.text.items():
            code = codes[i]
            found[name] = self.words[name][code] if code >= 0 else None
        return found

    def remaining(self, i: int) -> np.ndarray:
        """What is held along one schedule; of no length where nothing is feasible."""
        return np.asarray(self.values[self.offsets[i] : self.offsets[i + 1]])

    def market(self, key: Key) -> Market | None:
        """The rows of one market; None where there are none."""
        place = self.places.get(key)
        if place is None:
            return None
        found = self._markets.get(place)
        if found is None:
            found = self._markets[place] = Market(self, place)
        return found


class Market:
    """One market's rows within a block."""

    def __init__(self, block: Block, place: int):
        self.block, self.place = block, place
        self.first, self.end = int(block.first[place]), int(block.end[place])
        self.largest = float(block.largest[place])
        """Largest order of the grid. [contracts]"""
        self.most_urgency = float(block.most_urgency[place])
        self.hours: dict[tuple[Any, ...], dict[str, np.ndarray] | None] = {}
        """Weights of slices that were worked out, for the next who asks."""

    @cached_property
    def strategies(self) -> set[str]:
        """The strategies that were published, whether feasible or not."""
        words = self.block.words["strategy"]
        return {words[code] for code in set(self.block.text["strategy"][self.first : self.end].tolist())}

    @cached_property
    def horizons(self) -> list[dict[str, Any]]:
        """One row for each horizon of the grid that has an optimal schedule, in the grid's order."""
        mine = self.first + np.flatnonzero(self.block.optimal[self.first : self.end])
        ix, firsts = np.unique(self.block.number["horizon_ix"][mine], return_index=True)
        return [self.block.row(mine[first]) for first in firsts[: len(ix)]]

    @cached_property
    def capped(self) -> dict[str, Any] | None:
        """A row of the schedules that keep the night's caps, where it had any."""
        if not self.block.capped[self.place]:
            return None
        mine = self.block.has("strategy", "almgren_chriss_capped")[self.first : self.end]
        return self.block.row(self.first + int(mine.argmax()))

    def point(self, strategy: str, size: float, horizon: float, kind: str | None, value: Any) -> int | None:
        """The row of a point of the grid, or None; `kind` None for a strategy without a risk level."""
        block, mine = self.block, slice(self.first, self.end)
        hit = block.number["order_size"][mine] == size
        hit &= block.feasible[mine] & (block.number["horizon"][mine] == horizon)
        if kind is not None:
            if kind not in ("risk_aversion", "urgency"):
                return None
            hit &= near(block.number[kind][mine], value)
        words = block.words["strategy"]
        hit &= block.text["strategy"][mine] == (words.index(strategy) if strategy in words else -2)
        place = int(hit.argmax())
        return self.first + place if hit[place] else None


def near(published: np.ndarray, asked: Any) -> np.ndarray:
    """Where a published risk level is the one asked for: a level divided by the steps and multiplied may lose a bit."""
    return np.asarray(np.abs(published - asked) <= 4 * 2.0**-52 * np.abs(published))


class Rows(Protocol):
    """Where a release's schedules are read from."""

    def of_market(self, market_id: str) -> Block | None:
        """The block with a market's rows; None where it has none."""

    def of_markets(self, market_ids: Sequence[str]) -> Iterator[dict[str, Block]]:
        """The blocks of many markets, in portions that fit the memory, each read once."""


class ParquetRows:
    """A release file held open: its name may go, what was opened stays readable."""

    def __init__(self, path: Path, run_id: str):
        self._path, self._run_id = path, run_id
        texts = [*_KEYS, *_TEXTS]
        with ExitStack() as stack:
            sound: dict[str, Any] = {"read_dictionary": texts, "page_checksum_verification": True}
            first = stack.enter_context(pq.ParquetFile(path, **sound))
            more = [
                stack.enter_context(pq.ParquetFile(path, metadata=first.metadata, **sound)) for _ in range(_READERS - 1)
            ]
            self._files = [first, *more]
            stack.pop_all()
        meta = first.metadata
        self.count = meta.num_rows
        self._have = set(first.schema_arrow.names)
        place = first.schema_arrow.get_field_index("market_id")
        bounds = [meta.row_group(i).column(place).statistics for i in range(meta.num_row_groups)]
        if any(b is None or not b.has_min_max for b in bounds):
            raise BookError(f"{path} has no bounds of its row groups: it was not written by tributary-opt")
        self._last = [b.max for b in bounds]
        self._read: dict[int, Block] = {}
        self._lock = threading.Lock()

    def of_market(self, market_id: str) -> Block | None:
        group = bisect.bisect_left(self._last, market_id)
        if group == len(self._last):
            return None
        found = self._read.get(group)
        if found is None:
            with self._lock:  # of those who ask at once for the same row group, one reads it
                found = self._read.get(group) or self._keep(group, self._block(self._files[0], group))
        return found

    def of_markets(self, market_ids: Sequence[str]) -> Iterator[dict[str, Block]]:
        groups: dict[int, list[str]] = {}
        for market_id in market_ids:
            groups.setdefault(bisect.bisect_left(self._last, market_id), []).append(market_id)
        groups.pop(len(self._last), None)
        ordered = sorted(groups)
        for start in range(0, len(ordered), _GROUPS_KEPT):
            portion = ordered[start : start + _GROUPS_KEPT]
            with self._lock:
                blocks = {g: self._read[g] for g in portion if g in self._read}
                unread = [g for g in portion if g not in blocks]
                shares = [unread[i::_READERS] for i in range(_READERS)]
                with ThreadPoolExecutor(_READERS) as pool:  # each with a file handle of its own
                    for found in pool.map(self._blocks, self._files, shares):
                        blocks |= found
                for group in unread:
                    self._keep(group, blocks[group])
            yield {market_id: blocks[group] for group in portion for market_id in groups[group]}

    def _keep(self, group: int, block: Block) -> Block:
        while len(self._read) >= _GROUPS_KEPT:
            self._read.pop(next(iter(self._read)))
        self._read[group] = block
        return block

    def _blocks(self, file: pq.ParquetFile, groups: list[int]) -> dict[int, Block]:
        return {group: self._block(file, group) for group in groups}

    def _block(self, file: pq.ParquetFile, group: int) -> Block:
        try:
            rows = file.read_row_group(group, columns=[n for n in COLUMNS if n in self._have], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise unreadable(f"row group {group} of {self._path}", error) from None
        return Block(_with_all(rows), self._run_id)


class QuestDBRows:
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
        return Block(_with_all(canonical(schema.TRAJECTORIES, rows)), self._run_id)


def unreadable(what: str, error: Exception) -> BookError:
    """What to say of a file that is damaged, in one line."""
    return BookError(f"{what} cannot be read ({' '.join(str(error).split())}): `tributary-opt check` repairs it")


def of_run(rows: pa.Table, run_id: str, name: str) -> None:
    """Two releases never mix."""
    others = set(rows["run_id"].unique().to_pylist()) - {run_id}
    if others:
        raise BookError(f"{name} of run {run_id} holds rows of run {', '.join(map(str, others))}")


# --- inside --------------------------------------------------------------------------------------------------


def _with_all(rows: pa.Table) -> pa.Table:
    """The columns that are read, null where the file is too old to have one."""
    types = {column.name: schema.ARROW_TYPES[column.type] for column in schema.TRAJECTORIES.columns}
    have = set(rows.column_names)
    return pa.table({name: rows[name] if name in have else pa.nulls(rows.num_rows, types[name]) for name in COLUMNS})


def _coded(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    codes = _whole(column)
    return codes.indices.fill_null(-1).to_numpy(zero_copy_only=False), codes.dictionary.to_pylist()


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """One array, without a copy where it is one."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
