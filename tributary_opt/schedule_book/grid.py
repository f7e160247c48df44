"""A release's schedules as columns: read some markets at a time, looked up with a few comparisons of arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from tributary_opt import schema

Key = tuple[str, str]
"""market_id, token_id"""

_UNSOLVED = ("infeasible", "not_converged")

_KEYS = ("run_id", "market_id", "token_id")
TEXTS = ("strategy", "status", "permanent", "impact_law", "cost_profile")
_WHOLE = ("risk_ix", "horizon_ix", "n_steps")
_DOUBLES = (
    *("order_size", "risk_aversion", "urgency", "horizon", "horizon_asked", "kappa", "decay_time", "half_life"),
    *("eta_tilde", "alpha", "max_participation", "max_slice"),
    *("expected_cost", "cost_variance", "expected_cost_bps", "cost_sd_bps"),
)
COLUMNS = (*_KEYS, *TEXTS, *_WHOLE, *_DOUBLES, "remaining")
"""What is read of a schedule: what a lookup needs, and no more."""

_NO_HORIZON = 2**30


ANEW = "`tributary-opt runs` writes it anew, unless it has its full length: then delete it first"
"""What to do about a file that is damaged or gone."""


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
        self.number = {name: _values(_whole(rows[name]), math.nan) for name in (*_WHOLE, *_DOUBLES)}
        self.text: dict[str, np.ndarray] = {}
        self.words: dict[str, list[str]] = {}
        for name in ("market_id", "token_id", *TEXTS):
            self.text[name], self.words[name] = _coded(rows[name])
        lists = _whole(rows["remaining"])
        self.offsets, self.values = _values(lists.offsets, -1), _values(lists.values, math.nan)
        market, token = self.text["market_id"], self.text["token_id"]
        new = np.ones(self.n_rows, dtype=bool)
        new[1:] = (market[1:] != market[:-1]) | (token[1:] != token[:-1])
        self.first = np.flatnonzero(new)
        self.end = np.append(self.first[1:], self.n_rows)
        ids, tokens = self.words["market_id"], self.words["token_id"]
        self.places = {(ids[market[i]], tokens[token[i]]): place for place, i in enumerate(self.first.tolist())}
        # Beyond n* a baseline has its schedule and its numbers all the same, the optimum has none.
        none = self.has("status", "beyond_convexity") & (self.offsets[1:] == self.offsets[:-1])
        self.feasible = ~np.logical_or.reduce([none, *(self.has("status", status) for status in _UNSOLVED)])
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


def unreadable(what: str, error: Exception) -> BookError:
    """What to say of a file that is damaged, in one line."""
    return BookError(f"{what} cannot be read ({' '.join(str(error).split())}): {ANEW}")


def of_run(rows: pa.Table, run_id: str, name: str) -> None:
    """Two releases never mix."""
    others = set(rows["run_id"].unique().to_pylist()) - {run_id}
    if others:
        raise of_other_runs(name, run_id, others)


def of_other_runs(name: str, run_id: str, others: set[Any]) -> BookError:
    """What to say of a table with rows of other runs."""
    return BookError(f"{name} of run {run_id} holds rows of run {', '.join(map(str, others))}")


def with_all(rows: pa.Table) -> pa.Table:
    """The columns that are read, null where the file is too old to have one."""
    types = {column.name: schema.ARROW_TYPES[column.type] for column in schema.TRAJECTORIES.columns}
    have = set(rows.column_names)
    return pa.table({name: rows[name] if name in have else pa.nulls(rows.num_rows, types[name]) for name in COLUMNS})


# --- inside --------------------------------------------------------------------------------------------------


def _coded(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    codes = _whole(column)
    return _values(codes.indices, -1), codes.dictionary.to_pylist()


def _values(array: pa.Array, missing: float) -> np.ndarray:
    """Numbers, with `missing` where there is none. Arrow's own `to_numpy` does this by loading pandas."""
    if not array.null_count:
        return np.from_dlpack(array)
    _, data = array.buffers()
    numbers = np.frombuffer(data, dtype=array.type.to_pandas_dtype())[array.offset : array.offset + len(array)]
    known = np.from_dlpack(array.is_valid().cast(pa.uint8()))
    return np.where(known, numbers, missing)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """One array, without a copy where it is one."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
