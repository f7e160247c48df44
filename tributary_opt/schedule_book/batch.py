"""Many orders at once: looked up and solved as arrays, with the bits and the refusals of the single ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from tributary_opt.optimization.closed_form import effective_eta, risk_aversion_from_urgency
from tributary_opt.optimization.linear_grid import solve_linear_grid
from tributary_opt.schedule_book.grid import Block, Key, near
from tributary_opt.schedule_book.hull import (
    BY_CLOCK,
    CAPPED,
    FIXED,
    MARKET_ORDER,
    MOST_URGENCY,
    RISK_KINDS,
    SMALLEST,
    TOO_FAR,
    key_of,
    one_risk,
    place_of,
    unfit,
)
from tributary_opt.schedule_book.snapshot import JUDGED, ScheduleRefused, Snapshot
from tributary_opt.schedule_book.solving import adds_up, broken

_NO_KIND = -1
_AT_ONCE = 4_096
"""Orders solved together: their holdings stay in the cache."""

Single = Callable[[Key, float, float | None, str | None, Any], Any]
"""Key, size, horizon, kind of risk and its value → the trajectory, or ScheduleRefused."""


def schedules(
    book: Snapshot,
    orders: pd.DataFrame,
    strategy: str,
    *,
    min_grade: str,
    max_age: float,
    now: datetime,
    single: Single,
) -> pd.DataFrame:
    """A row an order; see `ScheduleBook.schedules`. `single` solves what no batch does."""
    batch = _Batch(orders, strategy)
    batch.find_keys(book, min_grade, max_age, now)
    for blocks in book.blocks(list(dict.fromkeys(market_id for market_id, _ in batch.keys))):
        of_block: dict[int, tuple[Block, list[int]]] = {}
        for k, key in enumerate(batch.keys):
            block = blocks.get(key[0])
            if block is not None:
                book.within(block, key)
                of_block.setdefault(id(block), (block, []))[1].append(k)
        batch.look_up(book, list(of_block.values()))
    batch.look_for_gaps(book)
    batch.solve(book)
    batch.solve_singly(single)
    return batch.frame(orders, book.run_id)


class _Batch:
    """Orders as arrays, and what has been found for each: `source` "" means nothing yet."""

    def __init__(self, orders: pd.DataFrame, strategy: str):
        n = len(orders)
        self.n, self.strategy = n, strategy
        self.market_id = orders["market_id"].to_numpy(dtype=object)
        self.token_id = orders["token_id"].to_numpy(dtype=object) if "token_id" in orders else None
        self.size = orders["order_size"].to_numpy(dtype=float, na_value=math.nan)
        self.horizon = _numbers(orders, "horizon", n)
        self.kind, self.value = np.full(n, _NO_KIND), np.full(n, math.nan)
        self.given: dict[str, np.ndarray] = {}
        count = np.zeros(n, dtype=int)
        for ix, name in enumerate(RISK_KINDS):
            if name in orders:
                self.given[name] = orders[name].to_numpy(dtype=object)
                has = orders[name].notna().to_numpy()
                count += has
                self.kind[has] = ix
                if name != "done_by":
                    self.value[has] = orders[name].to_numpy(dtype=float, na_value=math.nan)[has]
        self.source = np.full(n, "", dtype=object)
        self.refused = np.full(n, None, dtype=object)
        self.remaining = np.full(n, None, dtype=object)
        self.number = {name: np.full(n, math.nan) for name in ("risk_aversion", "horizon", "expected_cost_bps")}
        self.n_steps = np.zeros(n, dtype=np.int64)
        one_risk(dict.fromkeys(RISK_KINDS) if strategy in FIXED else {"urgency": 0.0}, strategy)
        for i in np.flatnonzero(count != (0 if strategy in FIXED else 1)).tolist():
            try:
                one_risk(self._risks(i), strategy)
            except ValueError as error:
                self.refuse(i, str(error))

    @property
    def open(self) -> np.ndarray:
        """The orders that nothing has been found for."""
        return np.flatnonzero(self.source == "")

    def refuse(self, i: int, said: str) -> None:
        self.source[i], self.refused[i] = "refused", said

    def _risks(self, i: int) -> dict[str, Any]:
        return {name: None if _missing(values[i]) else values[i] for name, values in self.given.items()}

    def find_keys(self, book: Snapshot, min_grade: str, max_age: float, now: datetime) -> None:
        """Which market each order is in, and whether it may be used; a market is looked at once."""
        codes, ids = pd.factorize(self.market_id, use_na_sentinel=False)
        tokens: np.ndarray = np.zeros(self.n, dtype=np.int64)
        names: Any = [None]
        if self.token_id is not None:
            tokens, names = pd.factorize(self.token_id, use_na_sentinel=False)
        pairs, which = np.unique(codes * len(names) + tokens, return_inverse=True)
        self.keys: list[Key] = []
        place_of_key: dict[Key, int] = {}
        place, said = np.full(len(pairs), -1), [""] * len(pairs)
        for j, pair in enumerate(pairs.tolist()):
            token = names[pair % len(names)]
            try:
                key = key_of(book, ids[pair // len(names)], None if _missing(token) else token)
            except ScheduleRefused as error:
                said[j] = str(error)
                continue
            row = {name: book.column(name)[book.places[key]] for name in JUDGED}
            why = unfit(book, key, row, min_grade, max_age, now)
            if why is not None:
                said[j] = why
                continue
            if key not in place_of_key:
                place_of_key[key] = len(self.keys)
                self.keys.append(key)
            place[j] = place_of_key[key]
        self.key = place[which]
        for i in np.flatnonzero((self.key < 0) & (self.source == "")).tolist():
            self.refuse(i, said[which[i]])
        # Of each market: what decides about its hull, filled in when its block is read.
        m = len(self.keys)
        self.largest, self.most_urgency = np.zeros(m), np.zeros(m)
        self.near = {name: np.full(m, math.nan) for name in ("horizon", "horizon_asked", "n_steps", "linear", "paper")}
        self.seen, self.capped = np.zeros(m, dtype=bool), np.zeros(m, dtype=bool)

    def look_up(self, book: Snapshot, blocks: list[tuple[Block, list[int]]]) -> None:
        """Points of the grid, block by block: every order against the rows of its market."""
        by_key = np.argsort(self.key, kind="stable")
        starts = np.searchsorted(self.key[by_key], np.arange(len(self.keys) + 1))
        for block, keys in blocks:
            place = np.array([block.places[self.keys[k]] for k in keys])
            first, end, near_row = block.first[place], block.end[place], block.nearest[place]
            self.seen[keys], self.capped[keys] = True, block.capped[place]
            self.largest[keys], self.most_urgency[keys] = block.largest[place], block.most_urgency[place]
            some, there = np.array(keys)[near_row >= 0], near_row[near_row >= 0]
            for name in ("horizon", "horizon_asked", "n_steps"):
                self.near[name][some] = block.number[name][there]
            # A law of which nothing is said is the linear one: releases of before there was another.
            self.near["linear"][some] = ~block.has("impact_law", "power")[there]
            self.near["paper"][some] = block.has("permanent", "paper")[there]
            mine = [by_key[starts[k] : starts[k + 1]] for k in keys]
            counts = [len(i) for i in mine]
            i = np.concatenate(mine) if mine else np.zeros(0, dtype=np.int64)
            of = np.repeat(np.arange(len(keys)), counts)
            fresh = self.source[i] == ""
            i, of = i[fresh], of[fresh]
            wanted = block.feasible & block.has("strategy", self.strategy)
            self._match(book, block, i, first[of], end[of], wanted)

    def _match(
        self, book: Snapshot, block: Block, i: np.ndarray, first: np.ndarray, end: np.ndarray, wanted: np.ndarray
    ) -> None:
        if self.strategy == CAPPED:
            return  # whose caps are the orders' own: one by one
        rows = np.flatnonzero(wanted)
        low, high = np.searchsorted(rows, first), np.searchsorted(rows, end)
        length = high - low
        order = np.repeat(np.arange(len(i)), length)
        at = rows[np.arange(len(order)) - np.repeat(np.cumsum(length) - length, length) + np.repeat(low, length)]
        asked = self.horizon[i]
        asked = np.where(np.isnan(asked), self.near["horizon"][self.key[i]], asked)[order]
        hit = block.number["order_size"][at] == self.size[i][order]
        hit &= (block.number["horizon"][at] == asked) | (block.number["horizon_asked"][at] == asked)
        if self.strategy not in FIXED:
            kind, value = self.kind[i][order], self.value[i][order]
            for name in ("risk_aversion", "urgency"):
                is_so = kind == RISK_KINDS.index(name)
                hit &= ~is_so | near(block.number[name][at], value)
            hit &= np.isin(kind, [RISK_KINDS.index("risk_aversion"), RISK_KINDS.index("urgency")])
        order, at = order[hit], at[hit]
        order, firsts = np.unique(order, return_index=True)
        at, i = at[firsts], i[order]
        steps = block.number["n_steps"][at].astype(np.int64)
        for n in np.unique(steps).tolist():
            these = np.flatnonzero(steps == n)
            whole = (block.offsets[at[these] + 1] - block.offsets[at[these]]) == n + 1
            if whole.all():
                held = block.values[block.offsets[at[these]][:, np.newaxis] + np.arange(n + 1)]
                whole = adds_up(held, self.size[i[these]])
            if not whole.all():
                raise broken(book.run_id, self.market_id[i[these[np.argmin(whole)]]])
            self.remaining[i[these]] = _rows(held)
        for name, column in self.number.items():
            column[i] = block.number[name][at]
        if self.strategy == MARKET_ORDER:
            self.number["risk_aversion"][i] = math.inf
        self.n_steps[i] = steps
        self.source[i] = "published"

    def look_for_gaps(self, book: Snapshot) -> None:
        """A market with parameters whose schedules are not there makes the release one that is not whole."""
        for k in np.flatnonzero(~self.seen).tolist():
            book.within(None, self.keys[k])

    def solve(self, book: Snapshot) -> None:
        """Almgren-Chriss by the clock under the linear law, λ or urgency given, as arrays."""
        if self.strategy != BY_CLOCK:
            return
        i = self.open
        k = self.key[i]
        plain = np.isin(self.kind[i], [RISK_KINDS.index("risk_aversion"), RISK_KINDS.index("urgency")])
        plain &= (
            (self.size[i] >= SMALLEST) & (self.size[i] <= self.largest[k] * (1 + TOO_FAR)) & np.isfinite(self.value[i])
        )
        plain &= (self.value[i] >= 0) & (self.near["linear"][k] == 1) & ~self.capped[k]
        i, k = i[plain], k[plain]
        asked, horizon, steps = self.horizon[i], self.near["horizon"][k].copy(), self.near["n_steps"][k].copy()
        tau = horizon / steps
        others = ~(np.isnan(asked) | (asked == horizon) | (asked == self.near["horizon_asked"][k]))
        for j in np.flatnonzero(others).tolist():
            key = self.keys[k[j]]
            try:
                place = place_of(book, key, book.market(key), float(self.size[i[j]]), float(asked[j]))
            except ScheduleRefused as error:
                self.refuse(i[j], str(error))
            else:
                horizon[j], steps[j], tau[j] = place.horizon, place.n_steps, place.tau
        fine = self.source[i] == ""
        for n in np.unique(steps[fine]).tolist():
            for paper in (False, True):
                these = np.flatnonzero(fine & (steps == n) & (self.near["paper"][k] == paper))
                for start in range(0, len(these), _AT_ONCE):
                    at = these[start : start + _AT_ONCE]
                    self._solve(book, i[at], horizon[at], tau[at], int(n), "paper" if paper else "midprice")

    def _solve(
        self, book: Snapshot, i: np.ndarray, horizon: np.ndarray, tau: np.ndarray, n: int, permanent: Any
    ) -> None:
        at = np.array([book.places[key] for key in self.keys])[self.key[i]]
        multiplier = book.column("contract_multiplier")[at].astype(float)
        multiplier = np.where(np.isnan(multiplier) | (multiplier == 0), 1.0, multiplier)
        names = ("eta", "gamma", "sigma", "epsilon", "price")
        eta, gamma, sigma, epsilon, price = (book.column(name)[at] * multiplier for name in names)
        urgent, value = self.kind[i] == RISK_KINDS.index("urgency"), self.value[i]
        most = MOST_URGENCY * self.most_urgency[self.key[i]]
        eta_tilde = effective_eta(eta, gamma, tau, permanent)
        fine = (eta_tilde > 0) & (sigma > 0) & (~urgent | (value <= most))
        lam = np.where(fine, value, 0.0)
        some = fine & urgent & (value > 0)
        if some.any():
            try:
                lam[some] = risk_aversion_from_urgency(value[some], eta_tilde[some], sigma[some], tau[some], n)
            except ValueError:  # of one of them: which, the single path says
                fine &= ~some
        g = solve_linear_grid(
            **{"eta": eta, "gamma": gamma, "sigma": sigma, "epsilon": epsilon},
            order_sizes=self.size[i][:, np.newaxis],
            horizon=horizon,
            n_steps=n,
            risk_aversion=np.where(fine, lam, 0.0)[:, np.newaxis],
            permanent=permanent,
        )
        assert g.holdings is not None
        fine &= (g.status[:, 0, 0] == 0) & (g.urgency[:, 0] <= most * (1 + TOO_FAR))
        done = i[fine]
        self.remaining[done] = _rows(g.holdings[fine, 0, 0])
        self.number["risk_aversion"][done], self.number["horizon"][done] = lam[fine], horizon[fine]
        cost = g.expected_cost[:, 0, 0] / self.size[i] / price * 1e4
        self.number["expected_cost_bps"][done], self.n_steps[done] = cost[fine], n
        self.source[done] = "solved"

    def solve_singly(self, single: Single) -> None:
        """What no batch takes: other strategies, laws and ways to choose risk, and whatever is refused in words."""
        for i in self.open.tolist():
            horizon = None if math.isnan(self.horizon[i]) else float(self.horizon[i])
            try:
                kind, value = one_risk(self._risks(i), self.strategy)
                t = single(self.keys[self.key[i]], float(self.size[i]), horizon, kind, value)
            except ValueError as error:
                self.refuse(i, str(error))
                continue
            self.remaining[i], self.n_steps[i] = t.holdings, t.params["n_steps"]
            self.number["risk_aversion"][i], self.number["horizon"][i] = t.risk_aversion, t.params["horizon"]
            self.number["expected_cost_bps"][i], self.source[i] = t.total_cost_estimate, t.params["source"]

    def frame(self, orders: pd.DataFrame, run_id: str) -> pd.DataFrame:
        asked = orders.reset_index(drop=True)[[n for n in ("market_id", "token_id", "order_size") if n in orders]]
        return asked.assign(
            risk_aversion=self.number["risk_aversion"],
            horizon=self.number["horizon"],
            n_steps=self.n_steps,
            expected_cost_bps=self.number["expected_cost_bps"],
            remaining=pd.Series(self.remaining, dtype=object),
            source=self.source,
            refused=pd.Series(self.refused, dtype=object),
            run_id=run_id,
        )


def _numbers(orders: pd.DataFrame, name: str, n: int) -> np.ndarray:
    if name not in orders:
        return np.full(n, math.nan)
    return orders[name].to_numpy(dtype=float, na_value=math.nan)


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _rows(block: np.ndarray) -> np.ndarray:
    """The rows of a block as objects."""
    found = np.empty(len(block), dtype=object)
    for i, row in enumerate(block):
        found[i] = row
    return found
