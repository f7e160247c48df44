"""What each slice of a schedule trades at, and whether that leaves the range of the market's prices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["ON_TICK", "ceiling_of", "leaves_range", "slice_costs", "slower_of"]

ON_TICK = 1e-6
"""How near to the tick a price is on it. [ticks]"""


def slice_costs(
    n: np.ndarray,
    *,
    tau: Any,
    eta: Any,
    gamma: Any,
    epsilon: Any,
    midprice: Any,
    slower: Any = 1.0,
    alpha: Any = math.nan,
    reference_rate: Any = 1.0,
) -> np.ndarray:
    """What a contract of each slice costs: spread, temporary impact, and what was traded before. [as epsilon]

    Slices along the last axis, the rest broadcast; `alpha` NaN is the linear law, `slower` what an hour's little volume
    makes of a rate.
    """
    before = np.zeros(n.shape)
    np.cumsum(n[..., :-1], axis=-1, out=before[..., 1:])
    moved = before + np.where(midprice, 0.5, 0.0) * n
    own = np.where(midprice, 0.0, 0.5 * gamma)  # what the paper's trade does not pay of its own move
    temporary = ((eta / tau - own) * slower + own) * n
    power = ~np.isnan(alpha)
    if power.any():
        bent = eta * reference_rate * (slower * n / tau / reference_rate) ** np.where(power, alpha, 1.0)
        temporary = np.where(power, bent, temporary)
    return np.asarray(gamma * moved + epsilon + temporary)


def slower_of(volume: np.ndarray) -> np.ndarray:
    """By what a rate counts for more in each slice, from the slices' volume along the last axis."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = volume.sum(axis=-1, keepdims=True) / volume.shape[-1]
        return np.where(volume > 0, mean / volume, 1.0)


def leaves_range(price: Any, cost: Any, ceiling: Any, tick: Any = math.nan) -> np.ndarray:
    """Whether selling at so much less than the price, or buying at so much more, leaves the market's range.

    Of a price that will be rounded to the tick, against the order: whether it does then.
    """
    low, high, ticked = price - cost, price + cost, np.asarray(tick) > 0
    step = np.where(ticked, tick, 1.0)
    inside = (low > 0) & (high < ceiling)  # false for NaN too
    on_tick = (low / step > 1 - ON_TICK) & ((ceiling - high) / step > 1 - ON_TICK)
    return np.asarray(~(inside & (~ticked | on_tick)))


def ceiling_of(kind: str | None) -> float:
    """What a market's price must stay below."""
    return 1.0 if kind == "probability" else math.inf
