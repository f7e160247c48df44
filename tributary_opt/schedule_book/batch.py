"""Many orders at once: looked up and solved as arrays, with the bits and the refusals of the single ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from tributary_opt.optimization.closed_form import effective_eta, risk_aversion_from_urgency
from tributary_opt.optimization.linear_grid import solve_linear_grid
from tributary_opt.optimization.slice_prices import ceiling_of, leaves_range, slice_costs, slower_of
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
    number,
    one_risk,
    place_of,
    shortened,
    unfit,
)
from tributary_opt.schedule_book.snapshot import JUDGED, ScheduleRefused, Snapshot
from tributary_opt.schedule_book.solving import (
    PRICED,
    WITH_HOURS,
    adds_up,
    average_out_of_range,
    broken,
    market_hours,
    slice_out_of_range,
)

_NEEDED = ("market_id", "order_size")
_SERVED = (*_NEEDED, "token_id", "horizon", *RISK_KINDS)
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
    max_age: float | timedelta,
    now: datetime,
    single: Single,
) -> pd.DataFrame:
    """A row an order; see `ScheduleBook.schedules`. `single` solves what no batch does."""
    if missing := [name for name in _NEEDED if name not in orders]:
        raise ValueError(f"orders need the columns {', '.join(_NEEDED)}: {', '.join(missing)} is not there")
    if more := [str(name) for name in orders if name not in _SERVED]:
        raise ValueError(
            f"orders have columns that would have no effect: {', '.join(more)}; those that have one are "
            f"{', '.join(_SERVED)}, all else is for `schedule`, an order at a time, or for the call itself"
        )
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
        self.source = np.full(n, "", dtype=object)
        self.refused, self.status = np.full(n, None, dtype=object), np.full(n, None, dtype=object)
        self.warnings = np.empty(n, dtype=object)
        self.warnings.fill(())
        self.market_id = self._words(orders, "market_id", required=True)
        self.token_id = self._words(orders, "token_id") if "token_id" in orders else None
        self.size, self.horizon = self._numbers(orders, "order_size"), self._numbers(orders, "horizon")
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
                    self.value[has] = self._numbers(orders, name)[has]
        self.remaining = np.full(n, None, dtype=object)
        self.number = {name: np.full(n, math.nan) for name in ("risk_aversion", "horizon", "expected_cost_bps")}
        self.n_steps = np.zeros(n, dtype=np.int64)
        one_risk(dict.fromkeys(RISK_KINDS) if strategy in FIXED else {"urgency": 0.0}, strategy)
        for i in np.flatnonzero((count != (0 if strategy in FIXED else 1)) & (self.source == "")).tolist():
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

    def _numbers(self, orders: pd.DataFrame, name: str) -> np.ndarray:
        """A column as doubles, NaN where there is none; an order with something else in it is refused."""
        if name not in orders:
            return np.full(self.n, math.nan)
        if orders[name].dtype.kind in "iuf":
            return orders[name].to_numpy(dtype=float, na_value=math.nan)
        found = np.full(self.n, math.nan)
        for i, value in enumerate(orders[name].tolist()):
            if not _missing(value):
                try:
                    found[i] = number(name, value)
                except ScheduleRefused as error:
                    self.refuse(i, str(error))
        return found

    def _words(self, orders: pd.DataFrame, name: str, *, required: bool = False) -> np.ndarray:
        """A column of names; an order with something else in it is refused."""
        found = orders[name].to_numpy(dtype=object, copy=True)
        for i, value in enumerate(found.tolist()):
            if not (isinstance(value, str) or (_missing(value) and not required)):
                self.refuse(i, f"{name} must be text, got {value!r}")
                found[i] = None
        return found

    def _risks(self, i: int) -> dict[str, Any]:
        return {name: None if _missing(values[i]) else values[i] for name, values in self.given.items()}

    def find_keys(self, book: Snapshot, min_grade: str, max_age: float | timedelta, now: datetime) -> None:
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
            if _missing(ids[pair // len(names)]):
                continue  # refused before
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
        self.row = np.array([book.places[key] for key in self.keys], dtype=np.int64)
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
            hit &= ~(block.number["eta_tilde"][at] <= 0)  # whose risks are all one: one by one
        order, at = order[hit], at[hit]
        order, firsts = np.unique(order, return_index=True)
        at, i = at[firsts], i[order]
        steps = block.number["n_steps"][at].astype(np.int64)
        self.source[i] = "published"
        for n in np.unique(steps).tolist():
            these = np.flatnonzero(steps == n)
            whole = (block.offsets[at[these] + 1] - block.offsets[at[these]]) == n + 1
            if whole.all():
                held = block.values[block.offsets[at[these]][:, np.newaxis] + np.arange(n + 1)]
                whole = adds_up(held, self.size[i[these]])
            if not whole.all():
                raise broken(book.run_id, self.market_id[i[these[np.argmin(whole)]]])
            self.remaining[i[these]] = _rows(held)
            self._look_at_prices(book, block, i[these], at[these], held)
        for name, column in self.number.items():
            column[i] = block.number[name][at]
        if self.strategy == MARKET_ORDER:
            self.number["risk_aversion"][i] = math.inf
        self.n_steps[i] = steps
        got, whole, mine = block.number["horizon"][at], block.number["horizon_asked"][at], self.horizon[i]
        said = np.full(len(i), "", dtype=object)
        for j in np.flatnonzero((got < whole) & (np.isnan(mine) | (mine == whole))).tolist():
            said[j] = shortened(float(got[j]), float(whole[j]))
        self._say(i, said)

    def _look_at_prices(self, book: Snapshot, block: Block, i: np.ndarray, at: np.ndarray, held: np.ndarray) -> None:
        """The status of published rows, and what is dearest where that may be out of range."""
        words, codes = block.words["status"], block.text["status"][at]
        self.status[i] = np.array([*words, None], dtype=object)[codes]
        for j in np.flatnonzero(self.status[i] != "ok").tolist():
            self.warnings[i[j]] = (f"published with status {self.status[i[j]]}",)
        asked = ~np.isin(self.status[i], PRICED)
        i, at, held = i[asked], at[asked], held[asked]
        if not len(i):
            return
        horizon, steps = block.number["horizon"][at], held.shape[1] - 1
        slower: Any = 1.0
        if self.strategy in WITH_HOURS:
            slower = np.ones((len(i), steps))
            by_hours = block.has("cost_profile", "volume")[at]
            kinds, which = np.unique(np.stack([self.key[i], horizon], axis=1), axis=0, return_inverse=True)
            for k, (key, days) in enumerate(kinds.tolist()):
                mine = (which.ravel() == k) & by_hours
                if mine.any():
                    name = self.keys[int(key)]
                    market = book.market(name)
                    hours = market_hours(place_of(book, name, market, market.largest, days), book.as_of, 0.0)
                    slower[mine] = 1.0 if hours is None else slower_of(hours["volume_profile"])
        power, alpha = block.has("impact_law", "power")[at], block.number["alpha"][at]
        more: dict[str, Any] = {"midprice": block.has("permanent", "midprice")[at][:, np.newaxis], "slower": slower}
        more["alpha"] = np.where(power, np.where(np.isnan(alpha), 1.0, alpha), math.nan)[:, np.newaxis]
        self._look_at_slices(book, i, held, horizon / steps, more)

    def _look_at_slices(
        self, book: Snapshot, i: np.ndarray, held: np.ndarray, tau: np.ndarray, law: dict[str, Any]
    ) -> None:
        """A word where the dearest slice leaves the price's range."""
        names = ("eta", "gamma", "epsilon", "reference_rate", "adv", "price", "tick_size", "kind")
        row = self.row[self.key[i]]
        p = {name: column[row] for name, column in book.columns(names).items()}
        rate = np.where(np.isnan(p["reference_rate"]), 0.01 * p["adv"], p["reference_rate"])
        columns = {name: p[name][:, np.newaxis] for name in ("eta", "gamma", "epsilon")}
        n = -np.diff(held, axis=1)
        cost = slice_costs(n, tau=tau[:, np.newaxis], **columns, **law, reference_rate=rate[:, np.newaxis])
        worst = np.where(n > 0, cost, -math.inf).max(axis=1)
        out = leaves_range(p["price"], worst, self._ceiling(book, i), p["tick_size"])
        # Of what is solved here the average may have been told already.
        asked = (self.source[i] == "published") | (self.status[i] != "price_out_of_range")
        for j in np.flatnonzero(out & asked).tolist():
            self._out_of_range(i[j], slice_out_of_range(p["price"][j], worst[j]))

    def _ceiling(self, book: Snapshot, i: np.ndarray) -> np.ndarray:
        kinds = book.column("kind")[self.row[self.key[i]]]
        return np.where(kinds == "probability", ceiling_of("probability"), ceiling_of(None))

    def _out_of_range(self, i: int, said: str) -> None:
        if self.source[i] != "published":  # to which the night has given its own
            self.status[i] = "price_out_of_range"
        self.warnings[i] = (*self.warnings[i], said)

    def _say(self, i: np.ndarray, said: np.ndarray) -> None:
        for j in np.flatnonzero(said != "").tolist():
            self.warnings[i[j]] = (*self.warnings[i[j]], said[j])

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
        said = np.full(len(i), "", dtype=object)
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
                horizon[j], steps[j], tau[j], said[j] = place.horizon, place.n_steps, place.tau, place.said
        short = ~others & (horizon < self.near["horizon_asked"][k]) & ~(asked == horizon)
        for j in np.flatnonzero(short).tolist():
            said[j] = shortened(float(horizon[j]), float(self.near["horizon_asked"][k[j]]))
        fine = self.source[i] == ""
        for n in np.unique(steps[fine]).tolist():
            for paper in (False, True):
                these = np.flatnonzero(fine & (steps == n) & (self.near["paper"][k] == paper))
                for start in range(0, len(these), _AT_ONCE):
                    at = these[start : start + _AT_ONCE]
                    self._solve(book, i[at], horizon[at], tau[at], int(n), "paper" if paper else "midprice", said[at])

    def _solve(
        self,
        book: Snapshot,
        i: np.ndarray,
        horizon: np.ndarray,
        tau: np.ndarray,
        n: int,
        permanent: Any,
        said: np.ndarray,
    ) -> None:
        at = self.row[self.key[i]]
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
        self.source[done], self.status[done] = "solved", "ok"
        paid, price = g.expected_cost[fine, 0, 0] / multiplier[fine] / self.size[done], book.column("price")[at[fine]]
        for j in np.flatnonzero(leaves_range(price, paid, self._ceiling(book, done))).tolist():
            self._out_of_range(done[j], average_out_of_range(price[j], paid[j]))
        law = {"midprice": permanent == "midprice"}
        self._look_at_slices(book, done, g.holdings[fine, 0, 0], tau[fine], law)
        self._say(done, said[fine])

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
            self.status[i], self.warnings[i] = t.params["status"], t.params["warnings"]

    def frame(self, orders: pd.DataFrame, run_id: str) -> pd.DataFrame:
        asked = orders.reset_index(drop=True)[[n for n in ("market_id", "token_id", "order_size") if n in orders]]
        return asked.assign(
            risk_aversion=self.number["risk_aversion"],
            horizon=self.number["horizon"],
            n_steps=self.n_steps,
            expected_cost_bps=self.number["expected_cost_bps"],
            remaining=pd.Series(self.remaining, dtype=object),
            source=self.source,
            status=pd.Series(self.status, dtype=object),
            warnings=pd.Series(self.warnings, dtype=object),
            refused=pd.Series(self.refused, dtype=object),
            run_id=run_id,
        )


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _rows(block: np.ndarray) -> np.ndarray:
    """The rows of a block as objects."""
    found = np.empty(len(block), dtype=object)
    for i, row in enumerate(block):
        found[i] = row
    return found
