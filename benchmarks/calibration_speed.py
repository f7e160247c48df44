"""Impact of a night's markets from their market days, against a loop of statsmodels fits over the same buckets.

    python benchmarks/calibration_speed.py              5,000 markets, 30 market days each
    python benchmarks/calibration_speed.py --loop 40    markets given to the loop; its time is scaled up

Both give slopes, intercepts, HC0 and day-clustered errors of response and direct cost at one bucket length; ours gives
the power law beside it, at all four lengths. The loop starts from arrays of buckets in memory, which costs it nothing.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
import statsmodels.api as sm

from tributary_opt import schema
from tributary_opt.calibration.impact_evidence import impact_evidence
from tributary_opt.market_data.impact_sums import impact_columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markets", type=int, default=5_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--loop", type=int, default=20, help="markets that the loop fits")
    chosen = parser.parse_args()
    rng = np.random.default_rng(1)
    rows, buckets = market_days(rng, chosen.markets, chosen.days, chosen.loop)

    ours = min(timed(lambda: impact_evidence(rows)) for _ in range(3))
    started = time.perf_counter()
    slopes = [fitted(*buckets[i]) for i in range(chosen.loop)]
    one_length = (time.perf_counter() - started) / chosen.loop * chosen.markets
    found = impact_evidence(rows).slope[: chosen.loop, 0]
    agreement = float(np.max(np.abs(found / np.array(slopes) - 1)))
    print(f"{chosen.markets} markets x {chosen.days} market days")
    print(f"impact_evidence, 4 lengths, power law included   {ours:8.2f} s")
    print(
        f"loop of statsmodels, 1 length (from {chosen.loop} markets)   {one_length:8.1f} s   {one_length / ours:6.0f} x"
    )
    print(f"greatest relative difference of the slopes       {agreement:8.1e}")


def timed(step: object) -> float:
    started = time.perf_counter()
    step()  # type: ignore[operator]
    return time.perf_counter() - started


def market_days(
    rng: np.random.Generator, n_markets: int, n_days: int, n_kept: int
) -> tuple[pd.DataFrame, list[tuple[np.ndarray, ...]]]:
    """Rows of `ac_market_days` as far as impact is concerned, and the 5-minute buckets of the first markets.

    At most 200 markets are drawn; the others repeat them.
    """
    wanted, n_markets = n_markets, min(n_markets, 200)
    starts = np.arange(288) * 5
    kept: list[list[np.ndarray]] = []
    columns: dict[str, list[object]] = {f"impact_{m}m": [] for m in schema.IMPACT_BUCKETS}
    for _ in range(n_days):
        q = 1_000 * rng.standard_t(4, (n_markets, 288))
        r = 2e-5 * q + 0.05 * rng.standard_t(4, q.shape)
        mid = 100 + np.cumsum(r, axis=1)
        before = np.concatenate([mid[:, :1], mid[:, :-1]], axis=1)
        price = before + np.sign(q) * (0.01 + 3e-6 * np.abs(q))
        buys, sells = np.maximum(q, 0), np.maximum(-q, 0)
        day = impact_columns(
            lambda minutes: np.flatnonzero(starts % minutes == 0),
            mid,
            (buys, buys * price),
            (sells, sells * price),
            np.full(n_markets, np.nan),
            np.ones(n_markets, dtype=bool),
        )
        for name, arrays in day.items():
            columns[name].append(arrays)
        kept.append(
            [v[:n_kept, 1:] for v in (q, np.diff(mid, axis=1, prepend=mid[:, :1]), np.sign(q) * (price - before))]
        )
    order = [(i % n_markets, d) for i in range(wanted) for d in range(n_days)]
    rows = pd.DataFrame({name: [days[d][i] for i, d in order] for name, days in columns.items()})
    rows["market_id"] = np.repeat([f"M{i:05d}" for i in range(wanted)], n_days)
    rows["token_id"] = ""
    rows["session_start"] = pd.Timestamp("2026-03-02", tz="UTC")
    rows["session_end"] = rows["session_start"] + pd.Timedelta(days=1)
    label = np.repeat(np.arange(n_days), 287)
    buckets = [(*(np.concatenate([day[k][i] for day in kept]) for k in range(3)), label) for i in range(n_kept)]
    return rows, buckets


def fitted(q: np.ndarray, r: np.ndarray, y: np.ndarray, label: np.ndarray) -> float:
    """What statsmodels is asked for one market: two fits, each with HC0 and clustered errors."""
    slope = 0.0
    for target, regressor in ((y, np.abs(q)), (r, q)):
        fit = sm.OLS(target, sm.add_constant(regressor)).fit()
        _ = fit.HC0_se, fit.get_robustcov_results("cluster", groups=label).bse
        slope = float(fit.params[1])
    return slope


if __name__ == "__main__":
    main()
