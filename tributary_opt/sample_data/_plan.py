"""Sample markets as arrays, one entry a market: what the ticks are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import IntEnum

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from . import _draws
from ._draws import Floats, Ints, UInts
from .market import SampleMarket, stamp_us, trading_session

TIME_BITS = np.uint64(40)
_BEST_SIZE_TRADES = 4.0  # mean best size in mean trades


class Purpose(IntEnum):
    """What a draw is for; each purpose has a stream of its own."""

    MOVE = 1
    OVERNIGHT = 2
    FLOW = 3
    COUNT = 4
    TIME = 5
    SIDE = 6
    SIZE = 7
    LOT = 8
    TOKEN = 9
    STAMP = 10
    PATH = 11
    SPREAD = 12
    MISSING = 13
    BID_SIZE = 14
    ASK_SIZE = 15
    LAST_STEP = 16


@dataclass(frozen=True)
class Plan:
    """The markets as arrays, one entry a market, and what of them the ticks need."""

    key: UInts
    calendars: list[str]
    calendar: Ints
    price: Floats
    floor: Floats
    cap: Floats
    sigma: Floats
    sigma_diffusion: Floats
    gamma: Floats
    flow_sd: Floats
    overnight_sd: Floats
    inverse_tick: Floats  # exact whole number of ticks in 1, or 0 when there is none
    tick: Floats
    inverse_lot: Floats
    lot: Floats
    narrow: Floats
    wide_probability: Floats
    trades: Floats
    excess: Floats  # mean size in lots beyond the first lot
    log_sd: Floats
    best_lots: Floats
    interval_us: Ints
    probability: NDArray[np.bool_]
    paired: NDArray[np.bool_]
    complement_share: Floats
    one_sided_share: Floats
    anchor: Ints  # ordinals
    last: Ints
    resolution_us: Ints
    edges: UInts  # all markets' cumulative profiles, one after the other, in units of 2^-40
    first_edge: Ints
    n_bins: Ints
    market_ids: pa.Array
    tokens: pa.Array  # first and second token of market i at 2i and 2i + 1

    @classmethod
    def of(cls, markets: Sequence[SampleMarket], seed: int) -> Plan:
        """The plan of a list of markets; ValueError for two of the same market_id and token_id."""
        names = [(m.market_id, token) for m in markets for token, _ in m.tokens()]
        if len(set(names)) < len(names):
            raise ValueError("market_id and token_id must be unique in the list of sample markets")
        calendars = sorted({m.calendar for m in markets})

        def floats(values: list[float]) -> Floats:
            return np.array(values, dtype=np.float64)

        def whole_inverse(step: float) -> float:
            inverse = round(1 / step)
            return float(inverse) if inverse >= 1 and abs(inverse * step - 1) < 1e-9 else 0.0

        never = date.max.toordinal()
        edges = [
            np.round(np.concatenate([[0.0], np.cumsum(m.profile)]) / np.sum(m.profile) * 2.0 ** int(TIME_BITS))
            for m in markets
        ]
        n_bins = np.array([len(m.profile) for m in markets], dtype=np.int64)
        mean_lots = floats([m.mean_size / m.lot_size for m in markets])
        keys = [_draws.text_key(f"{seed}\x1f{m.market_id}\x1f{m.token_id}") for m in markets]
        return cls(
            key=np.array(keys, dtype=np.uint64),
            calendars=calendars,
            calendar=np.array([calendars.index(m.calendar) for m in markets], dtype=np.int64),
            price=floats([m.price for m in markets]),
            floor=floats([m.floor_price for m in markets]),
            cap=floats([m.cap_price for m in markets]),
            sigma=floats([m.sigma for m in markets]),
            sigma_diffusion=floats([m.sigma_diffusion for m in markets]),
            gamma=floats([m.gamma for m in markets]),
            flow_sd=floats([m.flow_sd for m in markets]),
            overnight_sd=floats([m.overnight_sd for m in markets]),
            inverse_tick=floats([whole_inverse(m.tick_size) for m in markets]),
            tick=floats([m.tick_size for m in markets]),
            inverse_lot=floats([whole_inverse(m.lot_size) for m in markets]),
            lot=floats([m.lot_size for m in markets]),
            narrow=floats([m.narrow_spread_ticks for m in markets]),
            wide_probability=floats([m.wide_spread_probability for m in markets]),
            trades=floats([m.trades_per_day for m in markets]),
            excess=np.maximum(mean_lots - 1.0, 0.0),
            log_sd=floats([m.size_log_sd for m in markets]),
            best_lots=_BEST_SIZE_TRADES * np.where(mean_lots > 0, mean_lots, 25.0),
            interval_us=np.array([round(m.snapshot_interval * 1e6) for m in markets], dtype=np.int64),
            probability=np.array([m.kind == "probability" for m in markets]),
            paired=np.array([m.complement_token_id is not None for m in markets]),
            complement_share=floats([m.complement_share for m in markets]),
            one_sided_share=floats([m.one_sided_share for m in markets]),
            anchor=np.array([m.anchor_day.toordinal() for m in markets], dtype=np.int64),
            last=np.array([never if m.last_day is None else m.last_day.toordinal() for m in markets], dtype=np.int64),
            resolution_us=np.array([_resolution_us(m) for m in markets], dtype=np.int64),
            edges=np.concatenate(edges).astype(np.uint64),
            first_edge=np.concatenate([[0], np.cumsum(n_bins + 1)[:-1]]).astype(np.int64),
            n_bins=n_bins,
            market_ids=pa.array([m.market_id for m in markets], pa.string()),
            tokens=pa.array([t for m in markets for t in (m.token_id, m.complement_token_id or "")], pa.string()),
        )

    def sessions(self, day: date) -> tuple[Ints, Ints]:
        """Start and length of the trading day of each market, length 0 when it is closed. [µs]"""
        sessions = [trading_session(c, day) or (0, 0) for c in self.calendars]
        start, end = np.array(sessions, dtype=np.int64).T
        return start[self.calendar], (end - start)[self.calendar]

    def draw(self, day: date, purpose: Purpose) -> Floats:
        """One standard normal a market."""
        return _draws.normal(_draws.stream_key(self.key, day.toordinal(), purpose), np.zeros(self.key.shape, np.int64))


def _resolution_us(market: SampleMarket) -> int:
    if market.resolution_time is None:
        return int(np.iinfo(np.int64).max)
    stamp = pd.Timestamp(market.resolution_time)
    stamp = stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")
    return stamp_us(stamp)
