"""Own executions: parent orders as they were filled, made comparable across markets.

A parent order is one decision to trade, however many fills it had. What identifies the law is its average price against
the price when it was decided; a price some time after the end, where there is one, tells the permanent part from the
temporary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

REQUIRED = ("market_id", "side", "size", "arrival_price", "average_price", "duration")
OPTIONAL = ("token_id", "post_price", "post_duration", "adv", "sigma", "epsilon")


@dataclass(frozen=True)
class Orders:
    """Executions in units of their market: sizes in V, costs in σ. Arrays of shape (n,)."""

    market: NDArray[np.int64]  #: place among the markets. [-]
    size: FloatArray  #: X/V. [day]
    duration: FloatArray  #: T. [day]
    cost: FloatArray  #: J, half-spread and fee taken off. [√day]
    move: FloatArray  #: I, NaN where the price afterwards is not known. [√day]
    watched: FloatArray  #: T_post, from the arrival to the price afterwards; NaN likewise. [day]


def checked(executions: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns' types, or ValueError naming the column, the rule and the first row that breaks it.

    Columns: market_id, side (buy | sell), size > 0 [contracts], arrival_price and average_price > 0 [price], duration
    > 0 [trading day]. Optional: token_id (empty: the market's first), post_price [price] with post_duration ≥ duration
    [trading day] from the arrival, and adv, sigma, epsilon as they were at the time (empty: tonight's).
    """
    out = _typed(executions)
    for rule, holds in _rules(out).items():
        if not holds.all():
            row = int(np.flatnonzero(~holds.to_numpy())[0])
            raise ValueError(f"own executions: {rule}; row {row + 1} of {len(out)} is {out.loc[row].to_dict()}")
    return out


def split(executions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that keep every rule of `checked`, and the others with the first rule they break as `reason`.

    In an order of their own values: a table's rows come in any. ValueError for missing columns.
    """
    out = _typed(executions)
    out = out.sort_values(list(out.columns), key=lambda c: c.astype(str) if c.dtype == object else c, kind="stable")
    out = out.reset_index(drop=True)
    reason = np.full(len(out), "", dtype=object)
    for rule, holds in _rules(out).items():
        reason[~holds.to_numpy() & (reason == "")] = rule
    sound = reason == ""
    return out[sound].reset_index(drop=True), out[~sound].assign(reason=reason[~sound]).reset_index(drop=True)


def _typed(executions: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in REQUIRED if name not in executions.columns]
    if missing:
        raise ValueError(f"own executions lack the columns {missing}; needed are {list(REQUIRED)}")
    out = executions.reset_index(drop=True)
    for name in OPTIONAL:
        if name not in out.columns:
            out = out.assign(**{name: None if name == "token_id" else np.nan})
    for name in ("size", "arrival_price", "average_price", "duration", *OPTIONAL[1:]):
        out[name] = pd.to_numeric(out[name]).astype(float)
    return out


def _rules(out: pd.DataFrame) -> dict[str, pd.Series]:
    """Which rows keep each rule."""
    return {
        "market_id must not be empty": out["market_id"].notna() & (out["market_id"] != ""),
        "side must be buy or sell": out["side"].isin(["buy", "sell"]),
        "size must be finite and > 0": _positive(out["size"]),
        "arrival_price must be finite and > 0": _positive(out["arrival_price"]),
        "average_price must be finite and > 0": _positive(out["average_price"]),
        "duration must be finite and > 0 trading days": _positive(out["duration"]),
        "post_duration must be >= duration where there is a post_price": out["post_price"].isna()
        | (out["post_duration"] >= out["duration"]),
        "adv, sigma and epsilon must be finite and >= 0, adv and sigma > 0, or empty": _positive_or_none(out["adv"])
        & _positive_or_none(out["sigma"])
        & (out["epsilon"].isna() | (np.isfinite(out["epsilon"]) & (out["epsilon"] >= 0))),
    }


def orders_of(
    executions: pd.DataFrame | None,
    market_id: pd.Series,
    token_id: pd.Series,
    adv: FloatArray,
    sigma: FloatArray,
    epsilon: FloatArray,
) -> Orders | None:
    """The executions in markets that have volume and volatility, in units of those; None where there is none.

    An order without a token belongs to the market's first one. Rows of unknown markets are left out.
    """
    if executions is None or not len(executions):
        return None
    table = checked(executions)
    tokens = table["token_id"].where(table["token_id"].notna(), "")
    instruments = pd.MultiIndex.from_arrays([market_id, token_id])
    at = instruments.get_indexer(pd.MultiIndex.from_arrays([table["market_id"], tokens]))
    first = np.flatnonzero(~market_id.duplicated())
    of_market = pd.Index(market_id.iloc[first]).get_indexer(table["market_id"])
    at = np.where((at < 0) & (tokens == "").to_numpy() & (of_market >= 0), first[of_market], at)
    table, at = table[at >= 0], at[at >= 0]

    def then(name: str, tonight: FloatArray) -> FloatArray:
        given = table[name].to_numpy(dtype=float)
        return np.where(np.isfinite(given), given, tonight[at])

    volume, sd, fixed = then("adv", adv), then("sigma", sigma), then("epsilon", epsilon)
    usable = np.isfinite(volume) & (volume > 0) & np.isfinite(sd) & (sd > 0) & np.isfinite(fixed)
    if not usable.any():
        return None
    table, at, volume, sd, fixed = table[usable], at[usable], volume[usable], sd[usable], fixed[usable]
    side = np.where(table["side"] == "buy", 1.0, -1.0)
    arrival = table["arrival_price"].to_numpy()
    cost = (side * (table["average_price"].to_numpy() - arrival) - fixed) / sd
    move = side * (table["post_price"].to_numpy() - arrival) / sd
    watched = np.where(np.isfinite(move), table["post_duration"].to_numpy(), np.nan)
    return Orders(at, table["size"].to_numpy() / volume, table["duration"].to_numpy(), cost, move, watched)


def _positive_or_none(values: pd.Series) -> pd.Series:
    return values.isna() | _positive(values)


def _positive(values: pd.Series) -> pd.Series:
    return pd.Series(np.isfinite(values) & values.gt(0), index=values.index)
