"""How price answered to signed flow on one day: the sums that impact is estimated from, for all markets at once.

Sums add up over days, so that a window of thirty days is estimated from thirty short arrays a market; `schema` says
what stands where in them. Flow stays in contracts: a power of another unit is one factor, put in when the sums are
used, while sums in units of each day's own volume could not be added.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tributary_opt import schema
from tributary_opt.market_data.cells import rows_where

_Floats = NDArray[np.float64]
_Side = tuple[_Floats, _Floats]  # volume and notional of each bucket


def impact_columns(
    groups: Callable[[int], NDArray[np.int64]],
    mid: _Floats,
    buys: _Side,
    sells: _Side,
    cap: _Floats,
    signed: NDArray[np.bool_],
    late: tuple[_Side, _Side] | None = None,
    *,
    squares: tuple[_Floats, _Floats] | None = None,
) -> dict[str, NDArray[np.object_] | NDArray[np.int32] | _Floats]:
    """The `impact_*` columns of one session, arrays and counts, `flow_squared` and, of `squares`, `flow_size_squared`.

    Parameters
    ----------
    groups : callable
        First 5-minute bucket of each clock interval of so many minutes.
    mid : ndarray, shape (markets, buckets)
        Last two-sided mid of each 5-minute bucket; NaN without one. [price]
    buys, sells : volume and notional of the trades of that side, same shape each [contracts], [contracts price]
    cap : ndarray, shape (markets,)
        Bound on a 5-minute bucket's absolute signed flow, which that of longer ones follows as the root of their
        length; NaN where there is none. [contracts]
    signed : ndarray, shape (markets,)
        Whether any trade has a side: without one the array is None and the counts are 0.
    late : (buys, sells) likewise, optional
        What of `buys` and `sells` came after the mid of its bucket: it moves the next mid, and counts there, as does
        what came in buckets without one. None: every trade counts in its own bucket.
    squares : two ndarrays, shape (markets, buckets), optional
        Squared sizes of all signed trades, and of the late ones. [contracts^2]
    """
    bound = np.where(np.isnan(cap), np.inf, cap)[:, np.newaxis]
    blocks = groups(schema.IMPACT_BLOCK_MINUTES)
    columns: dict[str, NDArray[np.object_] | NDArray[np.int32] | _Floats] = {}
    for minutes in schema.IMPACT_BUCKETS:
        first = groups(minutes)
        newest = np.maximum.reduceat(np.where(np.isfinite(mid), np.arange(mid.shape[1]), -1), first, axis=1)
        last = np.where(newest >= 0, np.take_along_axis(mid, np.maximum(newest, 0), axis=1), np.nan)
        bought, sold = (
            _between_mids(side, after, first, newest)
            for side, after in zip((buys, sells), late or (None, None), strict=True)
        )
        flow = bought[0] - sold[0]
        # The server adds doubles in an order of its own: what is left of balanced flow is no flow, and has no sign.
        flow[np.abs(flow) <= 1e-12 * (bought[0] + sold[0])] = 0.0
        longest = bound * math.sqrt(minutes / schema.IMPACT_BUCKETS[0])
        q = np.clip(flow, -longest, longest)
        buy, sell = _average(*bought), _average(*sold)

        r = np.diff(last, axis=1)
        used = np.isfinite(r)
        q, flow, r = (np.where(used, values, 0.0) for values in (q[:, 1:], flow[:, 1:], r))
        y = np.where(q > 0, buy[:, 1:] - last[:, :-1], np.where(q < 0, last[:, :-1] - sell[:, 1:], 0.0))
        # Where each block begins among the pairs; a pair belongs to the block of its second bucket.
        block_of = np.searchsorted(blocks, first[1:], side="right")
        starts = np.flatnonzero(np.diff(block_of, prepend=-1))
        if minutes == schema.IMPACT_BUCKETS[0]:
            columns["flow_squared"] = np.where(signed, (flow * flow).sum(axis=1), 0.0)
            if squares is not None:
                every, after = squares
                own, _ = _between_mids((every, every), None if late is None else (after, after), first, newest)
                columns["flow_size_squared"] = np.where(signed, np.where(used, own[:, 1:], 0.0).sum(axis=1), 0.0)
        sums = _sums(used, q, r, y, starts) | {schema.IMPACT_UNCAPPED: (q * flow).sum(axis=1)}
        for name, called in schema.IMPACT_COUNTS.items():
            columns[f"impact_{minutes}m_{called}"] = np.where(signed, sums[name], 0).astype(np.int32)
        arrays = np.stack([sums[name] for name in schema.IMPACT_SUMS], axis=1)
        columns[f"impact_{minutes}m"] = rows_where(signed, arrays)
    return columns


def _between_mids(side: _Side, late: _Side | None, first: NDArray[np.int64], newest: NDArray[np.int64]) -> _Side:
    """Volume and notional by interval, from the mid before it to its own; by the clock where `late` is None."""
    volume, notional = side
    if late is None:
        return np.add.reduceat(volume, first, axis=1), np.add.reduceat(notional, first, axis=1)
    place = np.arange(volume.shape[1])
    end = np.repeat(newest, np.diff(first, append=len(place)), axis=1)  # bucket of the interval's mid, -1 without one
    # Sums of the same trades in another order may differ: what is left of a bucket that is late as a whole is nothing.
    whole = (place > end) | ((place == end) & (late[0] >= (1 - 1e-12) * volume))
    part = (place == end) & ~whole

    def between(of: _Floats, of_late: _Floats) -> _Floats:
        after = np.where(whole, of, np.where(part, of_late, 0.0))
        out = np.add.reduceat(of - after, first, axis=1)
        out[:, 1:] += np.add.reduceat(after, first, axis=1)[:, :-1]
        return np.asarray(out)

    return between(volume, late[0]), between(notional, late[1])


def _average(volume: _Floats, notional: _Floats) -> _Floats:
    return np.asarray(np.divide(notional, volume, out=np.zeros_like(volume), where=volume > 0))


def _sums(used: NDArray[np.bool_], q: _Floats, r: _Floats, y: _Floats, starts: NDArray[np.int64]) -> dict[str, _Floats]:
    """Each of `IMPACT_MOMENTS` but the last, one number a market."""
    x, qq, qr, rr, yy, xy = np.abs(q), q * q, q * r, r * r, y * y, np.abs(q) * y
    side_r = np.sign(q) * r
    of: dict[str, NDArray[np.generic]] = {
        "n": used, "q": q, "r": r, "qq": qq, "qr": qr, "rr": rr, "qqq": qq * q, "qqr": qq * r, "qrr": qr * r,
        "qqqq": qq * qq, "qqqr": qq * qr, "qqrr": qq * rr,
        "m": q != 0, "x": x, "y": y, "xy": xy, "yy": yy, "xxx": qq * x, "xxy": x * xy, "xyy": xy * y,
        "xxxy": qq * xy, "xxyy": qq * yy,
    }  # fmt: skip
    for exponent, (with_move, squared) in zip(schema.IMPACT_EXPONENTS, schema.IMPACT_POWER, strict=True):
        if with_move not in of:
            power = x**exponent
            of[with_move] = side_r * power
            of.setdefault(squared, power * power)
    sums = {name: values.sum(axis=1, dtype=float) for name, values in of.items()}
    sums |= dict.fromkeys(("blocks", *schema.IMPACT_BLOCK), np.zeros(len(q)))
    if len(starts):
        block_qr, block_qq = (np.add.reduceat(values, starts, axis=1) for values in (qr, qq))
        sums["blocks"] = (block_qq > 0).sum(axis=1, dtype=float)
        sums["block_qr_qr"] = (block_qr * block_qr).sum(axis=1)
        sums["block_qr_qq"] = (block_qr * block_qq).sum(axis=1)
        sums["block_qq_qq"] = (block_qq * block_qq).sum(axis=1)
    return sums
