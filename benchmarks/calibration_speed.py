"""Impact of a night's markets from their market days, against a loop of statsmodels fits over the same buckets.

    python benchmarks/calibration_speed.py              5,000 markets, 30 market days each
    python benchmarks/calibration_speed.py --loop 40    markets given to the loop; its time is scaled up

Both do the same work at all four bucket lengths: slopes, intercepts, HC0 and day-clustered errors of response and
direct cost, and the power law's exponent and prefactor from a fit at each exponent of the grid, by the best one. The
loop starts from arrays of buckets in memory, which costs it nothing; ours from the sums of market days.
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
    slopes = np.array([[fitted(*of_length) for of_length in buckets[i]] for i in range(chosen.loop)])
    lines = (time.perf_counter() - started) / chosen.loop * chosen.markets
    started = time.perf_counter()
    for i in range(chosen.loop):
        for of_length in buckets[i]:
            power_law(*of_length)
    power = (time.perf_counter() - started) / chosen.loop * chosen.markets
    found = impact_evidence(rows).slope[: chosen.loop]
    print(f"{chosen.markets} markets x {chosen.days} market days, {len(schema.IMPACT_BUCKETS)} bucket lengths")
    print(f"impact_evidence                                  {ours:8.2f} s")
    print(f"loop of statsmodels (from {chosen.loop} markets)")
    print(f"  response and direct cost, HC0 and clusters     {lines:8.1f} s   {lines / ours:6.0f} x")
    print(f"  and the power law over the grid of exponents   {lines + power:8.1f} s   {(lines + power) / ours:6.0f} x")
    print(f"greatest relative difference of the slopes       {float(np.max(np.abs(found / slopes - 1))):8.1e}")


def timed(step: object) -> float:
    started = time.perf_counter()
    step()  # type: ignore[operator]
    return time.perf_counter() - started


def market_days(
    rng: np.random.Generator, n_markets: int, n_days: int, n_kept: int
) -> tuple[pd.DataFrame, list[list[tuple[np.ndarray, ...]]]]:
    """Rows of `ac_market_days` as far as impact is concerned, and the buckets of the first markets, by length.

    At most 200 markets are drawn; the others repeat them.
    """
    wanted, n_markets = n_markets, min(n_markets, 200)
    starts = np.arange(288) * 5
    kept: list[tuple[np.ndarray, ...]] = []
    columns: dict[str, list[object]] = {}
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
            columns.setdefault(name, []).append(arrays)
        kept.append((mid[:n_kept], q[:n_kept], (price * np.abs(q))[:n_kept]))
    order = [(i % n_markets, d) for i in range(wanted) for d in range(n_days)]
    rows = pd.DataFrame({name: [days[d][i] for i, d in order] for name, days in columns.items()})
    rows["market_id"] = np.repeat([f"M{i:05d}" for i in range(wanted)], n_days)
    rows["token_id"] = ""
    rows["session_start"] = pd.Timestamp("2026-03-02", tz="UTC")
    rows["session_end"] = rows["session_start"] + pd.Timedelta(days=1)
    return rows, [[_pairs(kept, i, minutes // 5) for minutes in schema.IMPACT_BUCKETS] for i in range(n_kept)]


def _pairs(days: list[tuple[np.ndarray, ...]], market: int, width: int) -> tuple[np.ndarray, ...]:
    """Flow, moves, direct costs and days of one market's buckets of so many 5-minute ones."""
    columns: list[tuple[np.ndarray, ...]] = []
    for label, (mid, q, notional) in enumerate(days):
        last = mid[market, width - 1 :: width]
        flow = q[market].reshape(-1, width)
        total = flow.sum(axis=1)
        side = np.sign(total)
        mine = np.sign(flow) == side[:, np.newaxis]
        size = (np.abs(flow) * mine).sum(axis=1)
        average = (notional[market].reshape(-1, width) * mine).sum(axis=1) / size
        cost = side[1:] * (average[1:] - last[:-1])
        columns.append((total[1:], np.diff(last), cost, np.full(len(total) - 1, label)))
    return tuple(np.concatenate(parts) for parts in zip(*columns, strict=True))


def fitted(q: np.ndarray, r: np.ndarray, y: np.ndarray, label: np.ndarray) -> float:
    """What statsmodels is asked for one market: two fits, each with HC0 and clustered errors."""
    slope = 0.0
    for target, regressor in ((y, np.abs(q)), (r, q)):
        fit = sm.OLS(target, sm.add_constant(regressor)).fit()
        _ = fit.HC0_se, fit.get_robustcov_results("cluster", groups=label).bse
        slope = float(fit.params[1])
    return slope


def power_law(q: np.ndarray, r: np.ndarray, y: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Exponent and prefactor of r = P sign(q) |q|^d, the best fit of the grid."""
    fits = {d: sm.OLS(r, np.sign(q) * np.abs(q) ** d).fit() for d in schema.IMPACT_EXPONENTS}
    best = min(fits, key=lambda d: float(fits[d].ssr))
    _ = fits[best].get_robustcov_results("cluster", groups=label).bse
    return best, float(fits[best].params[0])


if __name__ == "__main__":
    main()
