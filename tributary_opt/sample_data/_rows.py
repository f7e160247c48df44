"""Drawn events as rows of the two source tables."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ._draws import Floats, Ints
from ._plan import Plan

DEPTH_LEVELS = 5
_LEVEL_SHAPE = np.array([1.0, 1.6, 2.1, 2.4, 2.6])  # books of prediction markets are layered, not top-heavy

_TEXT, _NUMBER, _STAMP = pa.string(), pa.float64(), pa.timestamp("us", tz="UTC")
TRADES = pa.schema(
    [
        ("timestamp", _STAMP),
        ("market_id", _TEXT),
        ("token_id", _TEXT),
        ("side", _TEXT),
        ("trade_id", _TEXT),
        ("price", _NUMBER),
        ("size", _NUMBER),
        ("value", _NUMBER),
        ("is_buyer_maker", pa.bool_()),
    ]
)
ORDERBOOK_SNAPSHOTS = pa.schema(
    [
        ("timestamp", _STAMP),
        ("market_id", _TEXT),
        ("token_id", _TEXT),
        ("best_bid", _NUMBER),
        ("best_ask", _NUMBER),
        ("bid_size", _NUMBER),
        ("ask_size", _NUMBER),
        ("mid_price", _NUMBER),
        ("spread", _NUMBER),
        ("spread_bps", _NUMBER),
        ("bid_prices", _TEXT),
        ("bid_sizes", _TEXT),
        ("ask_prices", _TEXT),
        ("ask_sizes", _TEXT),
        ("total_bid_volume", _NUMBER),
        ("total_ask_volume", _NUMBER),
    ]
)


def _steps(count: Floats, step: Floats, inverse: Floats) -> Floats:
    """count * step, as the nearest double of the decimal number where 1/step is whole (3 * 0.1 is not 0.3)."""
    return np.where(inverse > 0, count / np.where(inverse > 0, inverse, 1.0), count * step)


def _stamps(time_us: Ints) -> pa.Array:
    return pa.array(time_us, pa.int64()).cast(_STAMP)


def _numbers(values: Floats) -> pa.Array:
    return pa.array(values, _NUMBER, from_pandas=True)  # NaN becomes null


def trade_table(
    plan: Plan,
    day: date,
    m: Ints,
    of: Ints,
    rank: Ints,
    stamp: Ints,
    ticks: Floats,
    sign: Ints,
    lots: Ints,
    second: NDArray[np.bool_],
) -> pa.Table:
    """Trades at a price in ticks and a size in lots; `second` says which are of the complement token."""
    market = m[of]
    ticks = np.where(second, plan.inverse_tick[market] - ticks, ticks)
    sells = np.where(second, sign > 0, sign < 0)
    price = _steps(ticks, plan.tick[market], plan.inverse_tick[market])
    size = _steps(lots.astype(np.float64), plan.lot[market], plan.inverse_lot[market])
    token = plan.tokens.take(pa.array(2 * market + second))
    market_id = plan.market_ids.take(pa.array(market))
    trade_id = pc.binary_join_element_wise(token, f"{day:%Y%m%d}", pa.array(rank).cast(_TEXT), "-")
    side = pa.array(["buy", "sell"], _TEXT).take(pa.array(sells.astype(np.int8)))
    columns = [_stamps(stamp), market_id, token, side, trade_id, *map(_numbers, (price, size, price * size))]
    table = pa.table([*columns, pa.array(sells)], schema=TRADES)
    return _before_resolution(plan, table, market, stamp)


def book_table(
    plan: Plan,
    m: Ints,
    of: Ints,
    stamp: Ints,
    bid: Floats,
    ask: Floats,
    missing: Ints,
    bid_lots: Floats,
    ask_lots: Floats,
    depth: bool,
) -> pa.Table:
    """Looks at the book, those of a pair once for each token; `missing` is -1 without a bid, 1 without an ask."""
    market = m[of]
    second = np.zeros(market.shape, dtype=bool)
    if plan.paired[m].any():
        twice = np.repeat(np.arange(of.size), 1 + plan.paired[market])
        second = np.concatenate([[False], twice[1:] == twice[:-1]])
        market, stamp, bid, ask, missing = market[twice], stamp[twice], bid[twice], ask[twice], missing[twice]
        bid_lots, ask_lots = bid_lots[twice], ask_lots[twice]
        whole = plan.inverse_tick[market]
        bid, ask = np.where(second, whole - ask, bid), np.where(second, whole - bid, ask)
        bid_lots, ask_lots = np.where(second, ask_lots, bid_lots), np.where(second, bid_lots, ask_lots)
        missing = np.where(second, -missing, missing)

    tick, inverse = plan.tick[market], plan.inverse_tick[market]
    best_bid, best_ask = _steps(bid, tick, inverse), _steps(ask, tick, inverse)
    mid, spread = 0.5 * (best_bid + best_ask), _steps(ask - bid, tick, inverse)
    spread_bps = spread / mid * 1e4

    sides = []
    for sign, best, lots in ((-1, bid, bid_lots), (1, ask, ask_lots)):
        levels = [np.rint(lots * shape) for shape in _LEVEL_SHAPE]
        for i in range(DEPTH_LEVELS):
            at = best + sign * i
            inside = (at >= 1) & ~(plan.probability[market] & (at > inverse - 1))
            levels[i] = np.where(inside & (missing != sign), levels[i], 0.0)
        sides.append(levels)
    lot, inverse_lot = plan.lot[market], plan.inverse_lot[market]
    bid_size, ask_size = (_steps(levels[0], lot, inverse_lot) for levels in sides)
    bid_total, ask_total = (_steps(np.sum(levels, axis=0), lot, inverse_lot) for levels in sides)

    gone = missing != 0
    if gone.any():
        bounded = plan.probability[market]
        no_bid, no_ask, no_price = missing < 0, missing > 0, gone & ~bounded
        best_bid[no_bid], best_ask[no_ask] = 0.0, 1.0
        mid[gone], spread[gone] = 0.5 * (best_bid + best_ask)[gone], (best_ask - best_bid)[gone]
        spread_bps[gone] = np.nan
        mid[no_price] = spread[no_price] = np.nan
        for values in (best_bid, bid_size, bid_total):
            values[no_price & no_bid] = np.nan
        for values in (best_ask, ask_size, ask_total):
            values[no_price & no_ask] = np.nan

    texts: list[pa.Array] = [pa.nulls(market.size, _TEXT)] * 4
    if depth:
        texts = []
        for sign, best, levels in ((-1, bid, sides[0]), (1, ask, sides[1])):
            prices = [_steps(best + sign * i, tick, inverse) for i in range(DEPTH_LEVELS)]
            present = [level > 0 for level in levels]
            texts.append(_json_lists(prices, present))
            texts.append(_json_lists([_steps(level, lot, inverse_lot) for level in levels], present))

    columns = [_stamps(stamp), plan.market_ids.take(pa.array(market)), plan.tokens.take(pa.array(2 * market + second))]
    columns += [_numbers(v) for v in (best_bid, best_ask, bid_size, ask_size, mid, spread, spread_bps)]
    table = pa.table([*columns, *texts, _numbers(bid_total), _numbers(ask_total)], schema=ORDERBOOK_SNAPSHOTS)
    return _before_resolution(plan, table, market, stamp)


def _json_lists(levels: list[Floats], present: list[NDArray[np.bool_]]) -> pa.Array:
    """One JSON array a row, of the levels that are present; those come first."""
    # Not null_handling="skip": pyarrow 26.0.1 drops a row in which everything is skipped.
    parts = []
    for i, (values, here) in enumerate(zip(levels, present, strict=True)):
        text = pa.array(values, _NUMBER).cast(_TEXT)
        if i > 0:
            text = pc.binary_join_element_wise(", ", text, "")
        parts.append(pc.if_else(pa.array(here), text, ""))
    return pc.binary_join_element_wise("[", *parts, "]", "")


def _before_resolution(plan: Plan, table: pa.Table, market: Ints, stamp: Ints) -> pa.Table:
    keep = stamp < plan.resolution_us[market]
    return table if keep.all() else table.filter(pa.array(keep))
