"""Own executions: parent orders as they were filled, made comparable across markets.

A parent order is one decision to trade, however many fills it had. What identifies the law is its average price against
the price when it was decided; a price some time after the end, where there is one, tells the permanent part from the
temporary.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

REQUIRED = ("market_id", "side", "size", "arrival_price", "average_price", "duration")
OPTIONAL = ("token_id", "post_price", "post_duration", "adv", "sigma", "epsilon")

OUTLIER = 10.0
"""Largest cost or move over what an order of its size and length can have, σ√T + σ√(X/V) + half-spread. [-]

The first is what chance does, the second an order's own impact by the square-root law with a prefactor of 1."""

_TYPICAL_FROM = 30
"""Orders from which their own median cost counts as well: as many numbers as the scale of their noise is made from."""

UNKNOWN = "its market and token must be in the window"
REFUSED = "its market is refused tonight: adv, sigma and epsilon must all be given"
FAR_OUT = f"cost and move must be below {OUTLIER:g} times volatility, impact and half-spread"
"""Why a sound row cannot be used."""


@dataclass(frozen=True)
class Orders:
    """Executions in units of their market: sizes in V, costs in σ. Arrays of shape (n,)."""

    market: NDArray[np.int64]  #: place among the markets. [-]
    size: FloatArray  #: X/V. [day]
    duration: FloatArray  #: T. [day]
    cost: FloatArray  #: J, the half-spread taken off; fills do not contain the fee. [√day]
    move: FloatArray  #: I, NaN where the price afterwards is not known. [√day]
    watched: FloatArray  #: T_post, from the arrival to the price afterwards; NaN likewise. [day]


def checked(executions: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns' types, or ValueError naming the column, the rule and the first row that breaks it.

    Columns: market_id, side (buy | sell), size > 0 [contracts], arrival_price and average_price > 0 [price], duration
    > 0 [trading day]. Optional: token_id (empty: the market's first), post_price > 0 [price] with post_duration ≥
    duration [trading day] from the arrival, and adv, sigma and epsilon, the half-spread, as they were at the time
    (empty: tonight's).
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
        "post_price must be finite and > 0, or empty": _positive_or_none(out["post_price"]),
        "post_duration must be finite and >= duration where there is a post_price": out["post_price"].isna()
        | (np.isfinite(out["post_duration"]) & (out["post_duration"] >= out["duration"])),
        "adv, sigma and epsilon must be finite and >= 0, adv and sigma > 0, or empty": _positive_or_none(out["adv"])
        & _positive_or_none(out["sigma"])
        & (out["epsilon"].isna() | (np.isfinite(out["epsilon"]) & (out["epsilon"] >= 0))),
    }


def decided_before(executions: pd.DataFrame, instant: datetime) -> pd.DataFrame:
    """The executions decided before an instant; all of them where there is no column `decided_at`.

    Times are ISO 8601, UTC where they name no zone. ValueError for a row without one.
    """
    if "decided_at" not in executions.columns:
        return executions
    decided = pd.to_datetime(executions["decided_at"], utc=True, format="ISO8601", errors="coerce")
    if decided.isna().any():
        row = int(np.flatnonzero(decided.isna())[0])
        said = executions["decided_at"].iloc[row]
        raise ValueError(f"own executions: decided_at must be a time; row {row + 1} of {len(executions)} has {said!r}")
    before: pd.DataFrame = executions[(decided < pd.Timestamp(instant)).to_numpy()].reset_index(drop=True)
    return before


def orders_of(
    executions: pd.DataFrame | None,
    market_id: pd.Series,
    token_id: pd.Series,
    adv: FloatArray,
    sigma: FloatArray,
    half_spread: FloatArray,
    place: NDArray[np.int64] | None = None,
) -> Orders | None:
    """The executions that can be used, in units of their markets; None where there is none.

    An order without a token belongs to the market's first one. What is NaN of a market must stand in the order itself.

    Parameters
    ----------
    executions : DataFrame, optional
        As `checked` wants them.
    market_id, token_id : Series, shape (M,)
    adv, sigma, half_spread : ndarray, shape (M,)
        Tonight's. [contracts/day], [price/√day], [price]
    place : ndarray, shape (M,), optional
        Where the orders of each market are booked: two tokens that are one series share theirs. None: each its own.
    """
    if executions is None or not len(executions):
        return None
    judged = _judged(executions, market_id, token_id, adv, sigma, half_spread)
    usable = judged.reason == ""
    if not usable.any():
        return None
    at = judged.at[usable]
    return Orders(
        at if place is None else place[at],
        judged.size[usable],
        judged.table["duration"].to_numpy()[usable],
        judged.cost[usable],
        judged.move[usable],
        np.where(np.isfinite(judged.move), judged.table["post_duration"].to_numpy(), np.nan)[usable],
    )


def left_out(executions: pd.DataFrame, parameters: pd.DataFrame) -> pd.DataFrame:
    """The executions that moved no law, with the `reason`; `parameters` are what `calibrate` made of them."""
    ok = (parameters["status"] == "ok").to_numpy()
    adv, sigma, spread = (
        np.where(ok, parameters[name].to_numpy(dtype=float), np.nan) for name in ("adv", "sigma", "spread")
    )
    judged = _judged(executions, parameters["market_id"], parameters["token_id"], adv, sigma, 0.5 * spread)
    unused = judged.reason != ""
    rows: pd.DataFrame = judged.table[unused].assign(reason=judged.reason[unused]).reset_index(drop=True)
    return rows


@dataclass(frozen=True)
class _Judged:
    """Executions in units of their market, and why one cannot be used; arrays of shape (n,)."""

    table: pd.DataFrame
    at: NDArray[np.int64]
    size: FloatArray
    cost: FloatArray
    move: FloatArray
    reason: NDArray[np.object_]


def _judged(
    executions: pd.DataFrame,
    market_id: pd.Series,
    token_id: pd.Series,
    adv: FloatArray,
    sigma: FloatArray,
    half_spread: FloatArray,
) -> _Judged:
    table = checked(executions)
    tokens = table["token_id"].where(table["token_id"].notna(), "")
    instruments = pd.MultiIndex.from_arrays([market_id, token_id])
    at = instruments.get_indexer(pd.MultiIndex.from_arrays([table["market_id"], tokens]))
    first = np.flatnonzero(~market_id.duplicated())
    of_market = pd.Index(market_id.iloc[first]).get_indexer(table["market_id"])
    at = np.where((at < 0) & (tokens == "").to_numpy() & (of_market >= 0), first[of_market], at)

    def then(name: str, tonight: FloatArray) -> FloatArray:
        given = table[name].to_numpy(dtype=float)
        return np.where(np.isfinite(given), given, np.where(at >= 0, tonight[at], np.nan))

    volume, sd, half = then("adv", adv), then("sigma", sigma), then("epsilon", half_spread)
    usable = (at >= 0) & np.isfinite(volume) & (volume > 0) & np.isfinite(sd) & (sd > 0) & np.isfinite(half)
    volume, sd, half = (np.where(usable, array, np.nan) for array in (volume, sd, half))
    side, arrival = np.where(table["side"] == "buy", 1.0, -1.0), table["arrival_price"].to_numpy()
    size = table["size"].to_numpy() / volume
    cost = (side * (table["average_price"].to_numpy() - arrival) - half) / sd
    move = side * (table["post_price"].to_numpy() - arrival) / sd
    reason = np.full(len(table), "", dtype=object)
    reason[usable & _far_out(table, size, half / sd, cost, move)] = FAR_OUT
    reason[~usable] = REFUSED
    reason[at < 0] = UNKNOWN
    return _Judged(table, at, size, cost, move, reason)


def _far_out(
    table: pd.DataFrame, size: FloatArray, half: FloatArray, cost: FloatArray, move: FloatArray
) -> NDArray[np.bool_]:
    """Costs and moves that hardly a market gives: a typing error would else be all that the law hears of.

    Where volatility is not what these orders met, their noise is estimated: the bound then grows with their median.
    """
    out = np.zeros(len(table), dtype=bool)
    for value, length in ((cost, "duration"), (move, "post_duration")):
        ratio = np.abs(value) / (np.sqrt(table[length].to_numpy()) + np.sqrt(size) + half)
        known = np.isfinite(ratio)
        typical = np.median(ratio[known]) if known.sum() >= _TYPICAL_FROM else 1.0
        out |= known & (ratio > OUTLIER * max(typical, 1.0))
    return out


def _positive_or_none(values: pd.Series) -> pd.Series:
    return values.isna() | _positive(values)


def _positive(values: pd.Series) -> pd.Series:
    return pd.Series(np.isfinite(values) & values.gt(0), index=values.index)
