"""Every column of `ac_market_days` once more, from raw ticks, one instrument at a time, in plain pandas.

Written from `schema.py` and mathematics.md §5, not from the code under test: no bucket of the server is used.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import bidask
import numpy as np
import pandas as pd
from impact_tape import Buckets, columns

from tributary_opt.market_data.volatility import range_share

IMPACT_MINUTES = (5, 15, 30, 60)


def raw_market_day(
    trades: pd.DataFrame,
    books: pd.DataFrame,
    start: pd.Timestamp,
    end: pd.Timestamp,
    *,
    zone: str = "UTC",
    probability: bool = False,
    quote_cap_s: float = 600.0,
    tick_rule: bool = True,
    flow_cap: float = np.nan,
    walk_pct_volume: float = 0.02,
) -> dict[str, Any]:
    """One instrument's row, bookkeeping aside, from its ticks of any time in the order of the source."""
    trades = trades[(trades["timestamp"] >= start) & (trades["timestamp"] < end)]
    books = books[(books["timestamp"] >= start) & (books["timestamp"] < end)]
    p, s = trades["price"], trades["size"]
    good = trades[(p > 0) & (s > 0) & np.isfinite(p) & np.isfinite(s)].sort_values("timestamp", kind="stable")
    n_buckets = int(np.ceil((end - start.floor("5min")) / pd.Timedelta(minutes=5)))
    row: dict[str, Any] = {
        "session_start": start,
        "session_end": end,
        "n_bad_trades": len(trades) - len(good),
        "n_buckets": n_buckets,
    }
    row |= _books(books.sort_values("timestamp", kind="stable"), end, zone, probability, quote_cap_s)
    mids = row.pop("mids")
    given = good
    good, methods, effective = _with_sides(good, mids, tick_rule)
    row |= _trades(good, zone)
    row |= judged_sides(given, row["quoted"])
    row |= walks(row.pop("quoted"), walk_pct_volume / 100 * good["size"].sum())
    row |= _noisy(good, start, end, with_book=row["n_two_sided"] > 0)
    row |= {"n_quote_rule": methods.count("quote"), "n_tick_rule": methods.count("tick")}
    row |= dict(zip(("effective_volume", "effective_spread_volume"), effective, strict=True))
    row |= {"flow_cap": flow_cap, **_impact(good, mids, start, end, flow_cap)}
    return row


def judged_sides(trades: pd.DataFrame, quoted: pd.DataFrame) -> dict[str, Any]:
    """Given sides against the mid before, trade by trade, where that mid cannot have moved far."""
    out = dict.fromkeys(("compared_volume", "compared_size_squared", "contradicted_volume"), 0.0)
    out |= {"n_sides_compared": 0, "n_sides_contradicted": 0, "n_quote_rule_fresh": 0}
    stamps = quoted["timestamp"].dt.tz_localize(None).to_numpy()
    mids = ((quoted["best_bid"] + quoted["best_ask"]) / 2).to_numpy()
    halves = ((quoted["best_ask"] - quoted["best_bid"]) / 2).to_numpy()
    moves = seconds = 0.0
    for _, inside in pd.Series(range(len(stamps))).groupby(quoted["timestamp"].dt.floor("5min").to_numpy()):
        first, last = inside.iloc[0], inside.iloc[-1]
        moves += (mids[last] - mids[first]) ** 2
        seconds += (stamps[last] - stamps[first]) / np.timedelta64(1, "s")
    for trade in trades.to_dict("records") if seconds > 0 else []:
        at = trade["timestamp"].tz_localize(None).to_datetime64()
        look = np.searchsorted(stamps, at, side="left") - 1
        if look < 0:
            continue
        age = (at - stamps[look]) / np.timedelta64(1, "s")
        off = (trade["price"] - mids[look]) / halves[look]
        if abs(off) >= 0.5 - 1e-9 and np.sqrt(moves / seconds * age) <= 0.2 * halves[look]:
            if trade["side"] not in ("buy", "sell"):
                out["n_quote_rule_fresh"] += 1
                continue
            out["n_sides_compared"] += 1
            out["compared_volume"] += trade["size"]
            out["compared_size_squared"] += trade["size"] ** 2
            if (off > 0) != (trade["side"] == "buy"):
                out["n_sides_contradicted"] += 1
                out["contradicted_volume"] += trade["size"]
    return out


def fill(sizes: list[float], prices: list[float], order: float) -> float:
    """Average price of an order that takes one level after the other; NaN where they do not hold it."""
    left, paid = order, 0.0
    for size, price in zip(sizes, prices, strict=True):
        paid += min(left, size) * price
        left -= min(left, size)
    return paid / order if left <= 1e-12 * order else np.nan


def walks(looks: pd.DataFrame, order: float) -> dict[str, Any]:
    """Two-sided looks walked one by one, by levels where there are any, else by the size at the best price."""
    out = {"n_depth": 0, "n_walked": 0, "walk_size": 0.0, "walk_cost": 0.0, "walk_half_spread": 0.0}
    for look in looks.to_dict("records") if order > 0 else []:
        filled = []
        for side in ("bid", "ask"):
            sizes, prices = (_levels(look.get(f"{side}_{what}")) for what in ("sizes", "prices"))
            if not sizes or len(sizes) != len(prices) or min(sizes) < 0:
                best = look.get(f"{side}_size", np.nan)
                sizes, prices = [best] if best is not None and best > 0 else [], [look[f"best_{side}"]]
            if sizes:
                filled.append(fill(sizes, prices, order))
        if len(filled) == 2:
            out["n_depth"] += 1
            if np.isfinite(filled).all():
                out["n_walked"] += 1
                out["walk_size"] += order
                out["walk_cost"] += (filled[1] - filled[0]) / 2
                out["walk_half_spread"] += (look["best_ask"] - look["best_bid"]) / 2
    return out


def _levels(column: Any) -> list[float]:
    """A side's sizes or prices, as JSON or as an array; empty where there is nothing to read."""
    if isinstance(column, str):
        try:
            return [float(v) for v in json.loads(column)]
        except (ValueError, TypeError):
            return []
    return [] if column is None or np.ndim(column) == 0 else [float(v) for v in column]


def _with_sides(
    t: pd.DataFrame, mids: pd.Series, tick_rule: bool
) -> tuple[pd.DataFrame, list[str], tuple[float, float]]:
    """The trades with every side filled in that can be, one trade after another."""
    sides, methods = [], []
    volume = spread = 0.0
    last, tick = np.nan, 0
    stamps, values = pd.DatetimeIndex(mids.index).tz_localize(None).to_numpy(), mids.to_numpy()
    for stamp, side, price, size in zip(
        t["timestamp"].dt.tz_localize(None).to_numpy(), t["side"], t["price"], t["size"], strict=True
    ):
        before = np.searchsorted(stamps, stamp, side="left") - 1
        mid = values[before] if before >= 0 else np.nan
        if abs(price - last) > 1e-9 * last:
            tick = 1 if price > last else -1
        last, method = price, "given"
        if side not in ("buy", "sell"):
            if abs(price - mid) > 1e-9 * mid:
                side, method = "buy" if price > mid else "sell", "quote"
            elif tick and tick_rule:
                side, method = "buy" if tick > 0 else "sell", "tick"
            else:
                side, method = None, "unknown"
        if side is not None and np.isfinite(mid):
            volume += size
            spread += 2 * (price - mid) * size * (1 if side == "buy" else -1)
        sides.append(side)
        methods.append(method)
    return t.assign(side=pd.Series(sides, index=t.index, dtype=object)), methods, (volume, spread)


def _by_hour(values: pd.Series, stamps: pd.Series, zone: str) -> np.ndarray:
    out = np.zeros(24)
    for hour, value in zip(stamps.dt.tz_convert(zone).dt.hour, values, strict=True):
        out[hour] += value
    return out


def _trades(t: pd.DataFrame, zone: str) -> dict[str, Any]:
    p, s = t["price"], t["size"]
    bars = t.groupby(t["timestamp"].dt.floor("5min"))["price"].agg(["first", "max", "min", "last", "size"])
    moves = np.diff(bars["last"].to_numpy())
    thick = bars[bars["size"] >= 5]
    shares = range_share(thick["size"])  # simulated again in test_volatility.py
    o, h, low, c = (thick[name].to_numpy() for name in ("first", "max", "min", "last"))
    u, d, q = h - o, low - o, c - o
    stamps = t["timestamp"]
    return {
        "n_trades": len(t),
        "volume": s.sum(),
        "notional": (p * s).sum(),
        "buy_volume": s[t["side"] == "buy"].sum(),
        "sell_volume": s[t["side"] == "sell"].sum(),
        "buy_notional": (p * s)[t["side"] == "buy"].sum(),
        "sell_notional": (p * s)[t["side"] == "sell"].sum(),
        "n_signed": int(t["side"].isin(["buy", "sell"]).sum()),
        "size_squared": (s**2).sum(),
        "first_trade_at": stamps.min(),
        "last_trade_at": stamps.max(),
        "open_price": p.iloc[0] if len(t) else np.nan,
        "high_price": p.max(),
        "low_price": p.min(),
        "close_price": p.iloc[-1] if len(t) else np.nan,
        **_largest_step(t),
        "active_hours": stamps.dt.tz_convert(zone).dt.hour.nunique(),
        "volume_by_hour": _by_hour(s, stamps, zone),
        "n_trade_bars": len(bars),
        "n_range_bars": len(thick),
        "parkinson_variance": ((h - low) ** 2 / shares[0]).sum() / (4 * np.log(2)),
        "garman_klass_variance": (
            (0.511 * (u - d) ** 2 - 0.019 * (q * (u + d) - 2 * u * d) - 0.383 * q**2) / shares[1]
        ).sum(),
        "rogers_satchell_variance": ((u * (u - q) + d * (d - q)) / shares[2]).sum(),
        "trade_variance": (moves**2).sum(),
        "trade_products": (moves[1:] * moves[:-1]).sum(),
        "n_trade_products": max(len(moves) - 1, 0),
    }


def _largest_step(t: pd.DataFrame) -> dict[str, Any]:
    """The change of price from bar to bar that is farthest from none."""
    bar = t["timestamp"].dt.floor("5min")
    last = t["price"].groupby(bar).last()
    out: dict[str, Any] = {"price_step": np.nan, "size_step": np.nan, "step_at": pd.NaT}
    for before, after in itertools.pairwise(last.index):
        ratio = last[after] / last[before]
        if not abs(np.log(ratio)) <= abs(np.log(out["price_step"])):
            sizes = [t.loc[part, "size"].mean() for part in (bar >= after, bar < after)]
            at = t.loc[bar == after, "timestamp"].min()
            out = {"price_step": ratio, "size_step": sizes[0] / sizes[1], "step_at": at}
    return out


def _noisy(t: pd.DataFrame, start: pd.Timestamp, end: pd.Timestamp, *, with_book: bool) -> dict[str, Any]:
    """Two scales by their sub-grids, one after another; EDGE by its authors' package."""
    bars = t.groupby(t["timestamp"].dt.floor("5min"))["price"].agg(["first", "max", "min", "last", "size"])
    price = np.concatenate([bars["first"].to_numpy()[:1][bars["size"].to_numpy()[:1] > 1], bars["last"].to_numpy()])
    n = len(price) - 1
    out = dict.fromkeys(("two_scale_variance", "two_scale_error", "noise_variance", "edge_squared_bars"), 0.0)
    out |= {"n_two_scale": 0, "n_edge_bars": 0, "slow_scale_variance": 0.0, "slow_scale_error": 0.0}
    if n >= 8:
        k = max(round(n ** (2 / 3) / 3), 2)
        fast = (np.diff(price) ** 2).sum()
        variance, error = two_scales(price, k, 1)
        out["slow_scale_variance"], out["slow_scale_error"] = two_scales(price, 2 * k, 2 * max(round(k / 3), 1))
        out |= {"two_scale_variance": variance, "two_scale_error": error, "noise_variance": fast / 2 / n}
        out["n_two_scale"] = n
    if not with_book and len(bars) >= 3 and len(t) >= 2 * len(bars):
        grid = bars.reindex(pd.date_range(start.floor("5min"), end - pd.Timedelta(1, "us"), freq="5min"))
        scale = bars["last"].mean()  # the package takes logarithms
        edge = bidask.edge(*(np.exp(grid[name] / scale) for name in ("first", "max", "min", "last")), sign=True)
        if np.isfinite(edge):
            out |= {"edge_squared_bars": np.sign(edge) * (edge * scale) ** 2 * len(bars), "n_edge_bars": len(bars)}
    return out


def two_scales(price: np.ndarray, k: int, j: int) -> tuple[float, float]:
    """Variance and its error: grids of every k-th price less those of every j-th, over the ends and all."""
    n, fast = len(price) - 1, (np.diff(price) ** 2).sum()

    def of_grids(k: int) -> float:
        longer = np.concatenate([np.repeat(price[0], k - 1), price, np.repeat(price[-1], k - 1)])
        return sum((np.diff(longer[offset::k]) ** 2).sum() for offset in range(k)) / k

    c = j * (n + k - 1) / k / (n + j - 1)
    variance = (of_grids(k) - c * of_grids(j)) / (1 - c)
    v = max(variance, 0.0)
    noise = max(fast - v, 0.0) / 2 / n
    of_noise = (8 * noise * v / k + 8 * noise**2 * n / k**2) / (1 - c) ** 2
    return variance, 4 / 3 * (1 + 2 * j / k) * k / n * v**2 + of_noise


def two_scales_of_mids(mid: pd.Series, mids: pd.Series) -> dict[str, Any]:
    """Of the first mid, where its bucket has another one, and the last ones."""
    first_bucket = mids.index[0] if len(mids) else None
    stamps = pd.DatetimeIndex(mid.index)  # of equal stamps none is apart
    looks = 0 if first_bucket is None else stamps[stamps.floor("5min") == first_bucket].nunique()
    price = np.concatenate([mid.to_numpy()[:1][: int(looks > 1)], mids.to_numpy()])
    n = len(price) - 1
    names = [f"{scale}_scale_mid_{what}" for scale in ("two", "slow") for what in ("variance", "error")]
    out: dict[str, Any] = dict.fromkeys(names, 0.0) | {"n_two_scale_mid": 0}
    if n >= 8:
        k = max(round(n ** (2 / 3) / 3), 2)
        numbers = (*two_scales(price, k, 1), *two_scales(price, 2 * k, 2 * max(round(k / 3), 1)))
        out = dict(zip(names, numbers, strict=True)) | {"n_two_scale_mid": n}
    return out


def _books(b: pd.DataFrame, end: pd.Timestamp, zone: str, probability: bool, cap_s: float) -> dict[str, Any]:
    bid, ask = b["best_bid"], b["best_ask"]
    has_bid = (bid > 0) & np.isfinite(bid)
    has_ask = (ask > 0) & np.isfinite(ask)
    if probability:
        has_ask &= ask < 1
    both = has_bid & has_ask
    two = both & (ask > bid)
    stands = (b["timestamp"].shift(-1).fillna(end) - b["timestamp"]).dt.total_seconds().clip(upper=cap_s)
    quoted = b[two]
    mid = (quoted["best_bid"] + quoted["best_ask"]) / 2
    mids = mid.groupby(quoted["timestamp"].dt.floor("5min")).last()
    moves = np.diff(mids.to_numpy(), prepend=mid.iloc[:1])  # the first one within its bucket
    return {
        "n_snapshots": len(b),
        "n_two_sided": int(two.sum()),
        "n_one_sided": int((has_bid ^ has_ask).sum()),
        "n_crossed": int((both & (ask <= bid)).sum()),
        "n_empty": int((~has_bid & ~has_ask).sum()),
        "first_snapshot_at": b["timestamp"].min(),
        "last_snapshot_at": b["timestamp"].max(),
        "quoted_seconds": stands[two].sum(),
        "spread_seconds": ((ask - bid)[two] * stands[two]).sum(),
        "spread_sum": (ask - bid)[two].sum(),
        "mid_sum": mid.sum(),
        "first_mid": mid.iloc[0] if len(mid) else np.nan,
        "first_mid_at": quoted["timestamp"].min(),
        "last_mid": mid.iloc[-1] if len(mid) else np.nan,
        "last_mid_at": quoted["timestamp"].max(),
        "n_mid_buckets": len(mids),
        "realised_variance": (moves**2).sum(),
        **two_scales_of_mids(mid.set_axis(quoted["timestamp"]), mids),
        "bipower_variance": np.pi / 2 * (np.abs(moves[1:]) * np.abs(moves[:-1])).sum(),
        "realised_quarticity": (moves**4).sum(),
        "variance_by_hour": _by_hour(pd.Series(moves**2), pd.Series(mids.index), zone),
        "mids": mid.set_axis(quoted["timestamp"]),
        "quoted": quoted,
    }


def _impact(t: pd.DataFrame, mids: pd.Series, start: pd.Timestamp, end: pd.Timestamp, cap: float) -> dict[str, Any]:
    if not t["side"].isin(["buy", "sell"]).any():
        return {"flow_squared": 0.0, "flow_size_squared": 0.0} | {
            k: v for minutes in IMPACT_MINUTES for k, v in columns(None, minutes).items()
        }
    signed = t["size"].where(t["side"] == "buy", -t["size"].where(t["side"] == "sell", 0.0))
    out: dict[str, Any] = {}
    for minutes in IMPACT_MINUTES:
        length = f"{minutes}min"
        grid = pd.date_range(start.floor(length), end - pd.Timedelta(1, "us"), freq=length)
        # Each trade belongs to the first interval whose last look is not before it.
        stamps = pd.DatetimeIndex(mids.index)
        looks = pd.Series(stamps, stamps.floor(length)).groupby(level=0).last() if len(mids) else pd.Series(stamps)
        of = pd.DatetimeIndex([*looks.index, pd.NaT])[pd.Index(looks).searchsorted(t["timestamp"])]
        flow = signed.groupby(of).sum().reindex(grid, fill_value=0.0)
        flow[flow.abs() <= 1e-12 * t["size"].groupby(of).sum().reindex(grid, fill_value=0.0)] = 0.0
        most = cap * (minutes / 5) ** 0.5
        q = flow if np.isnan(cap) else flow.clip(-most, most)
        last = mids.groupby(mids.index.floor(length)).last().reindex(grid) if len(mids) else pd.Series(np.nan, grid)
        before, y = last.shift(), pd.Series(0.0, grid)
        for side, sign in (("buy", 1), ("sell", -1)):
            ours, by = t[t["side"] == side], of[(t["side"] == side).to_numpy()]
            price = (ours["price"] * ours["size"]).groupby(by).sum() / ours["size"].groupby(by).sum()
            y = y.where(np.sign(q) != sign, sign * (price.reindex(grid) - before))
        used = (last - before).notna()
        block = grid.floor("2h")[used].astype("int64").to_numpy()
        q, r, y, flow = (values[used].to_numpy() for values in (q, last - before, y, flow))
        pairs = Buckets(q, r, y, block, flow)
        if minutes == 5:
            out["flow_squared"] = (flow**2).sum()
            out["flow_size_squared"] = (signed**2).groupby(of).sum().reindex(grid, fill_value=0.0)[used].sum()
        out |= columns(pairs, minutes)
    return out
