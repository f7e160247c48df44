"""Ticks of sample markets, all markets of a day at once: arrays over (market, event), no loop over markets.

Every draw comes from a key of (seed, market, day, purpose) and the running number of the event in its market, and
sums over events are sums of integers; so a market's rows on a day are the same bit for bit whatever other markets or
days are generated with it (up to the last place of exp, log and cos, which may differ between processors).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from . import _draws
from ._draws import Floats, Ints, UInts
from ._plan import TIME_BITS, Plan, Purpose
from ._rows import ORDERBOOK_SNAPSHOTS, TRADES, book_table, trade_table
from .market import SampleMarket, reference_data, truth

_SPREAD_BLOCK_US = 60_000_000  # the book's state (spread, missing side) is drawn anew each minute
_EVENTS_A_CHUNK = 400_000  # bounds the working memory beside the result to some 150 MB
_FIXED_POINT = 2.0**44  # Brownian increments are summed as integers
_SIZE_POINT = 2.0**16


class SampleDay(NamedTuple):
    """One day's rows of the two source tables, sorted by market (in the order given) and time."""

    day: date
    trades: pd.DataFrame
    orderbook_snapshots: pd.DataFrame


def generate(
    markets: Sequence[SampleMarket], first_day: date, n_days: int, seed: int, *, depth: bool = True
) -> Iterator[SampleDay]:
    """Days of trades and order book snapshots, one after the other.

    Parameters
    ----------
    markets : sequence of SampleMarket
    first_day : date
        Not before any market's `anchor_day`.
    n_days : int
        Calendar days; a day on which nothing trades gives empty frames. [day]
    seed : int
    depth : bool
        False leaves the four JSON columns null, as benchmarks want it; every other column stays the same.

    Yields
    ------
    SampleDay
        Columns and types of the source tables. A market's rows depend on (seed, market, day) alone.

    Raises
    ------
    ValueError
        For a repeated market and token, or a day before a market's walk begins.
    """
    for day, chunks in _days(markets, first_day, n_days, seed, depth):
        parts = list(chunks)
        trades = pa.concat_tables([t for t, _ in parts] or [TRADES.empty_table()])
        books = pa.concat_tables([b for _, b in parts] or [ORDERBOOK_SNAPSHOTS.empty_table()])
        del parts
        # split_blocks and self_destruct: each Arrow column goes as its pandas twin comes.
        yield SampleDay(
            day,
            trades.to_pandas(split_blocks=True, self_destruct=True),
            books.to_pandas(split_blocks=True, self_destruct=True),
        )
        del trades, books


def write_sample(
    directory: Path | str,
    markets: Sequence[SampleMarket],
    first_day: date,
    n_days: int,
    seed: int,
    *,
    depth: bool = True,
) -> list[Path]:
    """Write a sample as Parquet, the truth beside the data.

    `trades/<day>.parquet` and `orderbook_snapshots/<day>.parquet` (none for a day without rows), `markets.parquet`,
    and `truth.parquet`, which also carries seed and first day in its metadata. Writing again replaces.

    Parameters
    ----------
    directory : path
        Made if absent.
    markets, first_day, n_days, seed, depth
        As in `generate`.

    Returns
    -------
    list of Path
        The files written, truth and reference data first.
    """
    root = Path(directory)
    for table in ("trades", "orderbook_snapshots"):
        (root / table).mkdir(parents=True, exist_ok=True)
    note = {"seed": str(seed), "first_day": first_day.isoformat(), "n_days": str(n_days)}
    written = [root / "markets.parquet", root / "truth.parquet"]
    for path, frame in zip(written, (reference_data(markets), truth(markets)), strict=True):
        table = pa.Table.from_pandas(frame, preserve_index=False)
        pq.write_table(table.replace_schema_metadata(note), path)

    for day, chunks in _days(markets, first_day, n_days, seed, depth):
        paths = [root / table / f"{day.isoformat()}.parquet" for table in ("trades", "orderbook_snapshots")]
        parts = [path.with_suffix(".part") for path in paths]
        rows = [0, 0]
        with pq.ParquetWriter(parts[0], TRADES) as trades, pq.ParquetWriter(parts[1], ORDERBOOK_SNAPSHOTS) as books:
            for chunk in chunks:
                for i, (writer, table) in enumerate(zip((trades, books), chunk, strict=True)):
                    writer.write_table(table)
                    rows[i] += table.num_rows
        for path, part, n in zip(paths, parts, rows, strict=True):
            if n:
                part.replace(path)
                written.append(path)
            else:
                part.unlink()
                path.unlink(missing_ok=True)
    return written


def _days(
    markets: Sequence[SampleMarket], first_day: date, n_days: int, seed: int, depth: bool
) -> Iterator[tuple[date, Iterator[tuple[pa.Table, pa.Table]]]]:
    if not markets or n_days < 1:
        raise ValueError(f"need at least one market and n_days >= 1, got {len(markets)} and {n_days=}")
    plan = Plan.of(markets, seed)
    if first_day.toordinal() < plan.anchor.max():
        raise ValueError(f"first_day must not be before anchor_day {date.fromordinal(int(plan.anchor.max()))}")

    # Daily moves have their own draws, so the level of a day costs a few numbers for each day since the anchor.
    level, begun = plan.price.copy(), np.zeros(plan.key.shape, dtype=bool)
    first, last = first_day.toordinal(), first_day.toordinal() + n_days
    for ordinal in range(int(plan.anchor.min()), last):
        day = date.fromordinal(ordinal)
        start_us, length_us = plan.sessions(day)
        opens = (length_us > 0) & (ordinal >= plan.anchor)
        overnight = plan.overnight_sd * plan.draw(day, Purpose.OVERNIGHT)
        level = _folded(level + np.where(opens & begun, overnight, 0.0), plan.floor, plan.cap)
        begun |= opens
        if ordinal >= first:
            live = opens & (ordinal <= plan.last) & (start_us < plan.resolution_us)
            yield day, _chunks(plan, day, level, start_us, length_us, np.flatnonzero(live), depth)
        move = plan.sigma_diffusion * plan.draw(day, Purpose.MOVE)
        move += plan.gamma * plan.flow_sd * plan.draw(day, Purpose.FLOW)
        level = _folded(level + np.where(opens, move, 0.0), plan.floor, plan.cap)


def _folded(x: Floats, floor: Floats, cap: Floats) -> Floats:
    """x reflected at floor and cap as often as it takes: slope ±1, so that quadratic variation is kept."""
    width = cap - floor
    return floor + (width - np.abs(width - np.mod(x - floor, 2.0 * width)))


def _chunks(
    plan: Plan, day: date, level: Floats, start_us: Ints, length_us: Ints, live: Ints, depth: bool
) -> Iterator[tuple[pa.Table, pa.Table]]:
    if live.size == 0:
        return
    n_books = length_us[live] // plan.interval_us[live]
    events = np.cumsum(plan.trades[live] + n_books * (1 + plan.paired[live]))
    cuts = np.flatnonzero(np.diff(np.floor(events / _EVENTS_A_CHUNK))) + 1
    for m in np.split(live, cuts):
        yield _ticks(plan, day, m, level[m], start_us[m], length_us[m], depth)


def _ticks(
    plan: Plan, day: date, m: Ints, level: Floats, start_us: Ints, length_us: Ints, depth: bool
) -> tuple[pa.Table, pa.Table]:
    """Trades and books of the markets m on one day; every array below has an entry a market or an event."""

    def keys(purpose: Purpose) -> UInts:
        return _draws.stream_key(plan.key[m], day.toordinal(), purpose)

    # Trades: how many, when, which side, how large.
    n_trades = _draws.poisson(keys(Purpose.COUNT), plan.trades[m])
    n_trades[plan.trades[m] == 0] = 0
    of, rank = _ragged(n_trades)
    trade_us = _arrival_times(plan, m, of, rank, keys(Purpose.TIME), length_us)
    missing = _missing_side(plan.one_sided_share[m], keys(Purpose.MISSING), of, trade_us)
    buys = (_draws.bits(keys(Purpose.SIDE)[of], rank) >> np.uint64(63)).astype(bool)
    sign = np.where(missing != 0, -missing, np.where(buys, 1, -1)).astype(np.int64)  # no ask: only sells
    target = plan.flow_sd[m] / plan.lot[m] * plan.draw(day, Purpose.FLOW)[m]
    lots = _sizes(plan, m, of, rank, sign, n_trades, target, keys(Purpose.SIZE), keys(Purpose.LOT))

    # Books: one near the end of each interval.
    n_books = length_us // plan.interval_us[m]
    book_of, book_rank = _ragged(n_books)
    interval = plan.interval_us[m]
    jitter = _draws.uniform(keys(Purpose.STAMP)[book_of], book_rank) * np.minimum(1_000_000, interval // 10)[book_of]
    book_us = (book_rank + 1) * interval[book_of] - 1 - jitter.astype(np.int64)

    # All events in time order by one sort of integers (market, time, trade before book).
    events = np.concatenate(
        [
            (of.astype(np.uint64) << TIME_BITS | trade_us.astype(np.uint64)) << np.uint64(1),
            (book_of.astype(np.uint64) << TIME_BITS | book_us.astype(np.uint64)) << np.uint64(1) | np.uint64(1),
        ]
    )
    events.sort()
    is_trade = (events & np.uint64(1)) == 0
    event_of = (events >> (TIME_BITS + np.uint64(1))).astype(np.int64)
    event_us = ((events >> np.uint64(1)) & np.uint64((1 << int(TIME_BITS)) - 1)).astype(np.int64)
    del events, book_rank, jitter

    signed = np.zeros(event_us.shape, dtype=np.int64)
    signed[is_trade] = sign * lots
    mid = _efficient_mid(plan, day, m, level, length_us, n_trades + n_books, event_of, event_us, signed, target, keys)
    del signed, event_of, event_us
    trade_mid, book_mid = mid[is_trade], mid[~is_trade]
    del mid, is_trade

    spread_keys = keys(Purpose.SPREAD)
    bid, ask = _quotes(plan, m, of, trade_us, trade_mid, spread_keys)
    stamp = start_us[of] + trade_us
    second = plan.paired[m][of] & (_draws.uniform(keys(Purpose.TOKEN)[of], rank) < plan.complement_share[m][of])
    trades = trade_table(plan, day, m, of, rank, stamp, np.where(sign > 0, ask, bid), sign, lots, second)
    del bid, ask, stamp, second, of, rank, sign, lots, trade_us, trade_mid, missing, buys

    bid, ask = _quotes(plan, m, book_of, book_us, book_mid, spread_keys)
    missing = _missing_side(plan.one_sided_share[m], keys(Purpose.MISSING), book_of, book_us)
    nth, best = book_us // interval[book_of], plan.best_lots[m][book_of]
    bid_lots = _best_sizes(best, keys(Purpose.BID_SIZE)[book_of], nth)
    ask_lots = _best_sizes(best, keys(Purpose.ASK_SIZE)[book_of], nth)
    books = book_table(plan, m, book_of, start_us[book_of] + book_us, bid, ask, missing, bid_lots, ask_lots, depth)
    return trades, books


def _ragged(counts: Ints) -> tuple[Ints, Ints]:
    """For counts (2, 3): owners (0, 0, 1, 1, 1) and running numbers (0, 1, 0, 1, 2)."""
    owner = np.repeat(np.arange(counts.size), counts)
    return owner, np.arange(owner.size) - np.repeat(np.cumsum(counts) - counts, counts)


def _totals(values: Ints, counts: Ints) -> Ints:
    """Sum of each market's values; integers, so that the order of markets cannot matter."""
    running = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(values)])
    ends = np.cumsum(counts)
    totals: Ints = running[ends] - running[ends - counts]
    return totals


def _arrival_times(plan: Plan, m: Ints, of: Ints, rank: Ints, keys: UInts, length_us: Ints) -> Ints:
    """Sorted trade times since the start, independent with the density of the profile. [µs]"""
    drawn = of.astype(np.uint64) << TIME_BITS | _draws.bits(keys[of], rank) >> (np.uint64(64) - TIME_BITS)
    drawn.sort()
    counts = plan.n_bins[m] + 1
    owner, nth = _ragged(counts)
    edges = (owner.astype(np.uint64) << TIME_BITS) + plan.edges[plan.first_edge[m][owner] + nth]
    # A market's last edge equals the next one's first; "right" finds the latter.
    left = np.searchsorted(edges, drawn, side="right") - 1
    within = (drawn - edges[left]) / (edges[left + 1] - edges[left])
    share = (nth[left] + within) / plan.n_bins[m][of]
    time_us: Ints = np.minimum((share * length_us[of]).astype(np.int64), length_us[of] - 1)
    return time_us


def _missing_side(share: Floats, keys: UInts, of: Ints, time_us: Ints) -> Ints:
    """-1 where the bid is missing, 1 where the ask is, 0 for a two-sided book; one draw a minute."""
    missing = np.zeros(of.shape, dtype=np.int64)
    some = share[of] > 0
    if some.any():
        block = time_us[some] // _SPREAD_BLOCK_US
        u = _draws.uniform(keys[of[some]], block) / share[of[some]]
        missing[some] = np.where(u < 0.5, -1, np.where(u < 1.0, 1, 0))
    return missing


def _sizes(
    plan: Plan,
    m: Ints,
    of: Ints,
    rank: Ints,
    sign: Ints,
    n_trades: Ints,
    target: Floats,
    size_keys: UInts,
    lot_keys: UInts,
) -> Ints:
    """Sizes in lots: 1 + a lognormal, rounded up or down at random so that the mean is kept.

    Where prices answer to flow, buys and sells are scaled by a factor near 1 each, the day's volume kept, so that the
    flow adds up to `target`: the level of the next day then needs no ticks of this one. Flow scaled so is, to
    1/√trades, a random walk given its end, and its end was drawn with the walk's variance.
    """
    mean, log_sd = plan.excess[m][of], plan.log_sd[m][of]
    extra = mean * np.exp(log_sd * _draws.normal(size_keys[of], rank) - 0.5 * log_sd**2)

    fixed = np.rint(np.minimum(extra, 1e9) * _SIZE_POINT).astype(np.int64)
    buying = sign > 0
    n_buys = _totals(buying.astype(np.int64), n_trades)
    bought = _totals(np.where(buying, fixed, 0), n_trades) / _SIZE_POINT
    sold = _totals(fixed, n_trades) / _SIZE_POINT - bought
    volume = n_trades + bought + sold
    answers = (plan.gamma[m] != 0) & (bought > 0) & (sold > 0)
    factors = np.ones((2, m.size))
    for row, (side, done, count) in enumerate(((1.0, bought, n_buys), (-1.0, sold, n_trades - n_buys))):
        wanted = 0.5 * (volume + side * target) - count
        np.divide(wanted, done, out=factors[row], where=answers)
    # A day of a few trades cannot meet any target; the rest of it is left to the path's drift.
    np.clip(factors, 0.25, 4.0, out=factors)

    up = _draws.uniform(lot_keys[of], rank)
    lots: Ints = 1 + np.floor(extra * np.where(buying, factors[0][of], factors[1][of]) + up).astype(np.int64)
    return lots


def _efficient_mid(
    plan: Plan,
    day: date,
    m: Ints,
    level: Floats,
    length_us: Ints,
    counts: Ints,
    of: Ints,
    time_us: Ints,
    signed: Ints,
    target: Floats,
    keys: Callable[[Purpose], UInts],
) -> Floats:
    """Efficient mid just before each event: a Brownian bridge to the day's own draw, plus gamma times flow."""
    t = time_us / length_us[of]
    first = np.zeros(of.shape, dtype=bool)
    starts = np.cumsum(counts) - counts
    first[starts[counts > 0]] = True
    before = np.concatenate([[0.0], t[:-1]])
    before[first] = 0.0
    rank = np.arange(of.size) - starts[of]
    step = np.sqrt(t - before) * _draws.normal(keys(Purpose.PATH)[of], rank)
    running = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.rint(step * _FIXED_POINT).astype(np.int64))])
    del before, first, rank, step
    base, end = running[starts], running[starts + counts]
    path = (running[1:] - base[of]) / _FIXED_POINT
    del running

    t_last = np.zeros(m.size)
    t_last[counts > 0] = t[(starts + counts - 1)[counts > 0]]
    zero = np.zeros(m.size, dtype=np.int64)
    path_end = (end - base) / _FIXED_POINT + np.sqrt(1.0 - t_last) * _draws.normal(keys(Purpose.LAST_STEP), zero)
    day_move = plan.draw(day, Purpose.MOVE)[m]

    flow = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(signed)])
    flow_base, flow_end = flow[starts], flow[starts + counts] - flow[starts]
    answer = plan.gamma[m] * plan.lot[m]
    drift = plan.sigma_diffusion[m] * (day_move - path_end) + answer * (target - flow_end)
    x = level[of] + plan.sigma_diffusion[m][of] * path + answer[of] * (flow[:-1] - flow_base[of]) + drift[of] * t
    return _folded(x, plan.floor[m][of], plan.cap[m][of])


def _best_sizes(mean_lots: Floats, keys: UInts, nth: Ints) -> Floats:
    """Lognormal sizes at the best price, whole and at least 1. [lot]"""
    return np.maximum(np.rint(mean_lots * np.exp(0.5 * _draws.normal(keys, nth) - 0.125)), 1.0)


def _quotes(plan: Plan, m: Ints, of: Ints, time_us: Ints, mid: Floats, keys: UInts) -> tuple[Floats, Floats]:
    """Bid and ask around the mid. [tick]"""
    wide = _draws.uniform(keys[of], time_us // _SPREAD_BLOCK_US) < plan.wide_probability[m][of]
    ticks = plan.narrow[m][of] + 2.0 * wide  # two more, never one: the grid of the mids stays the same
    bid = np.floor(mid / plan.tick[m][of] - 0.5 * ticks + 0.5)
    return bid, bid + ticks
