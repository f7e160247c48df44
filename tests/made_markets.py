"""Sample markets of each kind, and their ticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import pandas as pd

from tributary_opt.sample_data import (
    SampleMarket,
    generate,
)
from tributary_opt.sample_data.market import DAY_WAVE, U_SHAPE

FIRST_DAY = date(2026, 3, 2)  # a Monday
GOOD_FRIDAY = date(2026, 4, 3)
BLACK_FRIDAY = date(2026, 11, 27)  # closes at 13:00 New York
SEED = 11


def coin(**changes: Any) -> SampleMarket:
    market = SampleMarket(
        market_id="COIN",
        token_id="COIN",
        kind="price",
        calendar="24/7",
        price=100.0,
        sigma=2.0,
        spread=0.025,
        tick_size=0.01,
        lot_size=1.0,
        adv=50_000.0,
        trades_per_day=500.0,
        snapshot_interval=60.0,
        profile=DAY_WAVE,
        gamma=4e-4,
    )
    return replace(market, **changes)


def stock(**changes: Any) -> SampleMarket:
    usual = {
        "market_id": "STOCK",
        "token_id": "STOCK",
        "calendar": "XNYS",
        "snapshot_interval": 30.0,
        "profile": U_SHAPE,
        "overnight_sd": 1.0,
    }
    return coin(**(usual | changes))


def event(**changes: Any) -> SampleMarket:
    usual = {
        "market_id": "event",
        "token_id": "event:yes",
        "kind": "probability",
        "price": 0.4,
        "sigma": 0.02,
        "spread": 0.005,
        "tick_size": 0.001,
        "lot_size": 0.01,
        "gamma": 4e-6,
    }
    return coin(**(usual | changes))


def pair(**changes: Any) -> SampleMarket:
    return event(**({"complement_token_id": "event:no", "complement_share": 0.3} | changes))


def ticks_of(
    markets: SampleMarket | Sequence[SampleMarket], n_days: int, first_day: date = FIRST_DAY, *, depth: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    if isinstance(markets, SampleMarket):
        markets = [markets]
    days = list(generate(markets, first_day, n_days, SEED, depth=depth))
    trades = pd.concat([d.trades for d in days], ignore_index=True)
    return trades, pd.concat([d.orderbook_snapshots for d in days], ignore_index=True)


def five_minute_moves(books: pd.DataFrame) -> pd.Series:
    """Differences of the last mid of adjacent 5-minute buckets of one UTC day."""
    mids = books.groupby(books["timestamp"].dt.floor("5min"))["mid_price"].last()
    return mids.groupby(pd.DatetimeIndex(mids.index).date).diff().dropna()
