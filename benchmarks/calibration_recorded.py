"""Does the response predict other days and other bucket lengths? The recorded equity tape, at several caps on flow.

    python benchmarks/calibration_recorded.py FOLDER     the recorded data; us_equity_2013 is read

pandas makes the buckets from the Parquet files, as reference/tape_evidence.md defines them, flow from look to look; no
database. For each cap
(percent of the volume of a day, from the days before; 0 is none): one day left out, the mean squared error of
5-minute moves over that of a zero model, for every market and day and pooled in units of each market; and the response
of 5 minutes against those of 30 and 60. The rule's permanent impact stands beside both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from tributary_opt import schema
from tributary_opt.calibration.impact_evidence import ImpactEvidence, impact_evidence, moments
from tributary_opt.calibration.least_squares import lines
from tributary_opt.market_data.impact_sums import impact_columns

BUCKETS = 76  # of 5 minutes, 09:35 to 15:55
SHARE = 0.10  # of the volume of a day, whose trading costs a spread under the rule


def buckets(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Of each market, arrays of shape (days, buckets): last mid, volume and notional of either side; and its spread."""
    out = {}
    tables = [
        pd.read_parquet(folder / "us_equity_2013" / f"{name}.parquet") for name in ("trades", "orderbook_snapshots")
    ]
    trades, books = (_in_session(table) for table in tables)
    books = books[(books["best_ask"] > books["best_bid"]) & (books["best_bid"] > 0)]
    books["mid"] = (books["best_bid"] + books["best_ask"]) / 2
    for market, mine in trades.groupby("market_id"):
        book = books[books["market_id"] == market]
        quoted = pd.merge_asof(
            mine,
            book[["timestamp", "mid", "day"]].rename(columns={"day": "of"}),
            on="timestamp",
            allow_exact_matches=False,
        )
        sign = np.sign(quoted["price"] - quoted["mid"].where(quoted["of"] == quoted["day"])).fillna(0.0).to_numpy()
        n_days = int(trades["day"].max()) + 1
        cell = (quoted["day"] * BUCKETS + quoted["bucket"]).to_numpy()

        def total(values: np.ndarray, cell: np.ndarray = cell, n: int = n_days) -> np.ndarray:
            return np.bincount(cell, weights=values, minlength=n * BUCKETS).reshape(n, BUCKETS)

        size, price = quoted["size"].to_numpy(), quoted["price"].to_numpy()
        mid = np.full(n_days * BUCKETS, np.nan)
        mid[book["day"] * BUCKETS + book["bucket"]] = book["mid"]  # the last of each bucket stays
        # The last look of each bucket too: what came after it counts for the next move.
        looks = pd.Series(book["timestamp"].to_numpy(), index=(book["day"] * BUCKETS + book["bucket"]).to_numpy())
        end = looks.groupby(level=0).last().reindex(cell).to_numpy()
        late = ~(quoted["timestamp"].to_numpy() <= end)
        of_side = {
            f"{when}{name}": np.where((sign == s) & counts, size, 0.0)
            for when, counts in (("", True), ("late_", late))
            for name, s in (("buys", 1), ("sells", -1))
        }
        out[str(market)] = {
            "mid": mid.reshape(n_days, BUCKETS),
            "volume": total(size).sum(axis=1),
            "spread": np.array((book["best_ask"] - book["best_bid"]).mean()),
        }
        for name, weight in of_side.items():
            out[str(market)] |= {name: total(weight), f"{name}_notional": total(weight * price)}
    return out


def _in_session(table: pd.DataFrame) -> pd.DataFrame:
    at = table["timestamp"].dt.tz_convert("America/New_York")
    minute = at.dt.hour * 60 + at.dt.minute
    inside = (minute >= 9 * 60 + 35) & (minute < 15 * 60 + 55)
    table = table.assign(bucket=(minute - 9 * 60 - 35) // 5, day=at.dt.date)[inside]
    table["day"] = np.unique(table["day"], return_inverse=True)[1]
    return table.sort_values("timestamp", kind="stable")


def market_days(of: dict[str, dict[str, np.ndarray]], cap_pct: float) -> pd.DataFrame:
    """Rows as `ac_market_days` has them, flow within the cap."""
    rows = []
    start = pd.Timestamp("2013-10-07 13:35", tz="UTC")
    for market, b in of.items():
        before = pd.Series(b["volume"]).expanding().mean().shift().to_numpy()
        cap = before * cap_pct / 100 if cap_pct else np.full(len(before), np.nan)
        buys, sells, *late = ((b[name], b[f"{name}_notional"]) for name in ("buys", "sells", "late_buys", "late_sells"))
        columns = impact_columns(
            lambda minutes: np.flatnonzero(np.diff((9 * 60 + 35 + 5 * np.arange(BUCKETS)) // minutes, prepend=-1)),
            b["mid"], buys, sells, cap, np.full(len(cap), True), (late[0], late[1]),
        )  # fmt: skip
        frame = pd.DataFrame(columns).assign(market_id=market, token_id=market, session_start=start)
        rows.append(frame.assign(day=np.arange(len(frame)), session_end=start + pd.Timedelta(minutes=380)))
    return pd.concat(rows, ignore_index=True)


def errors(rows: pd.DataFrame, intercept: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Σ (r - intercept - slope·q)² of each row's 5-minute buckets."""
    s = dict(zip(schema.IMPACT_MOMENTS, moments(rows, 5).T, strict=True))
    a, b = intercept, slope
    return np.asarray(
        s["rr"] - 2 * a * s["r"] - 2 * b * s["qr"] + a * a * s["n"] + 2 * a * b * s["q"] + b * b * s["qq"]
    )


def days_left_out(rows: pd.DataFrame, gamma: np.ndarray) -> tuple[float, float, float]:
    """Squared error over that of no impact: response and rule with each market in its own units, response in price.

    Printed by market and day.
    """
    names = sorted(set(rows["market_id"]))
    intercept, slope, zero = (np.zeros(len(rows)) for _ in range(3))
    for day in sorted(set(rows["day"])):
        out = (rows["day"] == day).to_numpy()
        without = impact_evidence(rows, np.where(out, 0.0, 1.0))
        for i, market in enumerate(names):
            mine = out & (rows["market_id"] == market).to_numpy()
            intercept[mine], slope[mine] = without.intercept[i, 0], without.slope[i, 0]
    nothing, ours, theirs = (errors(rows, *of) for of in ((zero, zero), (intercept, slope), (zero, gamma)))
    for i, row in enumerate(rows.itertuples()):
        print(f"  {row.market_id} day {row.day + 1}   {ours[i] / nothing[i]:6.3f} {theirs[i] / nothing[i]:6.3f}")
    scale = rows["market_id"].map(pd.Series(nothing).groupby(rows["market_id"].to_numpy()).sum()).to_numpy()
    by_market = (float((e / scale).sum() / len(names)) for e in (ours, theirs))
    return (*by_market, float(ours.sum() / nothing.sum()))


def lengths(found: ImpactEvidence, rows: pd.DataFrame) -> tuple[float, float]:
    """Median |log(predicted/measured)| at 30 and 60 minutes where t by day is 3 or more: of flow, and of a rate."""
    group = np.unique(rows["market_id"], return_inverse=True)[1]
    places = [schema.IMPACT_MOMENTS.index(name) for name in schema.IMPACT_RESPONSE]
    of_flow, of_rate = [], []
    for k, minutes in ((2, 30), (3, 60)):
        by_day = lines(moments(rows, minutes)[:, places], group, len(found.slope))
        sure = by_day.slope / by_day.slope_se_clustered >= 3
        for law, by in ((of_flow, 1.0), (of_rate, 5 / minutes)):
            law.extend(np.abs(np.log(found.slope[sure, 0] * by / found.slope[sure, k])))
    return float(np.median(of_flow)), float(np.median(of_rate))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    of = buckets(parser.parse_args().folder)
    found = {}
    for cap in (0.0, 0.25, 0.5, 1.0, 2.0):
        rows = market_days(of, cap)
        rule = {m: float(b["spread"] / (SHARE * b["volume"].mean())) for m, b in of.items()}
        print(f"cap {cap} % of a day's volume: squared error over no impact's, response and rule")
        pooled = days_left_out(rows, rows["market_id"].map(rule).to_numpy())
        found[cap] = (*pooled, *lengths(impact_evidence(rows), rows))
    print("cap [%]   days left out: response, rule, response in price   lengths, |log|: flow, rate")
    for cap, (ours, theirs, in_price, flow, rate) in found.items():
        print(f"{cap:7}   {ours:23.3f} {theirs:5.3f} {in_price:18.3f}   {flow:20.3f} {rate:5.3f}")


if __name__ == "__main__":
    main()
