"""Does calibration find the truth? Synthetic markets with known parameters, through rows of market days.

    python benchmarks/calibration.py [--markets 1000] [--days 30] [--seeds 5]

Prints, as mean ± standard error over seeds: coverage of the 95 % intervals, bias, and the error of thin and thick
markets against their own least squares. The generator knows nothing of `calibration`. Trades arrive as a Poisson
process at 0.03 to 6 in five minutes, signs persist from trade to trade, a tenth of the published signs is wrong, moves
and averages have t(4) noise. Markets differ by a log-sd of 0.5 or more after their covariates. From a day's buckets on
everything is the night's own: its rows, its cap on flow from earlier days, its statistics with their errors.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from tributary_opt.calibration.impact_evidence import impact_evidence
from tributary_opt.calibration.parameters import Measured, calibrate
from tributary_opt.market_data.buckets import zero_rows
from tributary_opt.market_data.calendars import ALWAYS_OPEN
from tributary_opt.market_data.impact_sums import impact_columns
from tributary_opt.market_data.market_days import CAP_DAYS, Window, in_order
from tributary_opt.market_data.markets import ReferenceData
from tributary_opt.market_data.statistics import window_statistics
from tributary_opt.market_data.volatility import with_prior
from tributary_opt.settings import CalibrationRules, StatisticsRules

BUCKETS = 288
PERSISTENCE = 0.4  # correlation of one trade's sign with the next's
RIGHT = 0.9


def t4(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Student t(4) noise of variance 1."""
    return rng.standard_t(4, size) / np.sqrt(2.0)


def truths(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Markets: σ, V, spread, response and rate of direct cost, each scattered by 0.5 in the logarithm."""
    price, rate = 10 ** rng.uniform(0, 2, n), 10 ** rng.uniform(np.log10(0.03), np.log10(6.0), n)
    size = 500.0 / price * np.exp(0.3 * rng.normal(size=n))  # trades of all markets are worth about the same
    volume = rate * BUCKETS * size
    liquid = np.log(volume * price) - np.log(volume * price).mean()
    diffusion = price * 0.02 * np.exp(-0.05 * liquid + 0.5 * rng.normal(size=n))
    spread = price * 1e-3 * np.exp(-0.1 * liquid + 0.5 * rng.normal(size=n))
    # Flow explains 2.5e-5 of the variance of the thinnest market (t = 0.5 in 30 days) and 0.1 of the thickest's.
    flow_sd = size * np.sqrt(1.9 * rate * BUCKETS)
    response = 0.005 * (rate / 0.03) ** 0.8 * diffusion / flow_sd * np.exp(0.5 * rng.normal(size=n))
    direct = 0.3 * response / BUCKETS * np.exp(0.5 * rng.normal(size=n))
    return pd.DataFrame(
        {"price": price, "rate": rate, "size": size, "volume": volume, "diffusion": diffusion, "spread": spread}
        | {"response": response, "direct": direct}
    )


def day(rng: np.random.Generator, markets: pd.DataFrame, right: float) -> dict[str, np.ndarray]:
    """One day of five-minute buckets: true and published flow, mids, averages by published side, spreads."""
    m, n = len(markets), rng.poisson(np.repeat(markets["rate"].to_numpy()[:, None], BUCKETS, axis=1))
    cell = np.repeat(np.arange(m * BUCKETS), n.ravel())
    flips = np.where(rng.random(len(cell)) < (1 + PERSISTENCE) / 2, 1, -1)
    sign = np.cumprod(flips) * rng.choice([-1, 1])
    seen = sign * np.where(rng.random(len(cell)) < right, 1, -1)
    size = markets["size"].to_numpy()[cell // BUCKETS] * rng.lognormal(-0.32, 0.8, len(cell))

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(cell, weights=values, minlength=m * BUCKETS).reshape(m, BUCKETS)

    flow = total(sign * size)
    of = {name: markets[name].to_numpy()[:, None] for name in ("price", "diffusion", "spread", "response", "direct")}
    sd = of["diffusion"] / np.sqrt(BUCKETS)
    moves = of["response"] * flow + sd * t4(rng, flow.shape)
    mid = of["price"] + np.cumsum(moves, axis=1)
    before = np.concatenate([of["price"], mid[:, :-1]], axis=1)
    # A trade is done half a spread from the mid before, shifted by the bucket's rate, with noise of its bucket.
    shift = before + of["direct"] * flow * BUCKETS + 0.3 * sd * t4(rng, flow.shape)
    half = of["spread"] / 2
    buys, sells = total(np.where(seen > 0, size, 0.0)), total(np.where(seen < 0, size, 0.0))
    paid_buys = shift * buys + half * total(np.where(seen > 0, sign * size, 0.0))
    paid_sells = shift * sells + half * total(np.where(seen < 0, sign * size, 0.0))
    shape = (m, 1)
    quoted = (
        of["spread"] * np.exp(0.1 * rng.normal(size=shape) - 0.005) * np.exp(0.2 * rng.normal(size=flow.shape) - 0.02)
    )
    return {
        "mid": mid, "first_move": moves[:, 0], "buys": buys, "sells": sells, "paid_buys": paid_buys,
        "paid_sells": paid_sells, "flow_squared": (flow**2).sum(axis=1), "size_squared": total(size**2),
        "spread": quoted.mean(axis=1), "trades": n.sum(axis=1),
        # Three in ten trades come soon after a look at the book; their distance from its mid scatters.
        **{name: total(values).sum(axis=1) for name, values in _held_against_mids(rng, sign, seen, size).items()},
    }  # fmt: skip


def _held_against_mids(
    rng: np.random.Generator, sign: np.ndarray, seen: np.ndarray, size: np.ndarray
) -> dict[str, np.ndarray]:
    """Each trade's part of the sums that hold published sides against fresh mids."""
    distance = sign + 0.3 * rng.normal(size=len(sign))
    compared = (rng.random(len(sign)) < 0.3) & (np.abs(distance) >= 0.5)
    against = compared & (distance * seen < 0)
    return {
        "compared": compared * size,
        "compared_squared": compared * size**2,
        "contradicted": against * size,
        "n_compared": compared.astype(float),
    }


def tape(
    seed: int, n: int, n_days: int, right: float, price_unit: float = 1.0, size_unit: float = 1.0
) -> tuple[pd.DataFrame, Measured, pd.DataFrame]:
    """Markets with their truth, what a window of their tape shows, and its market days as far as impact is concerned.

    Prices and sizes are in units that make numbers larger by `price_unit` and `size_unit`.
    """
    rng = np.random.default_rng(seed)
    markets = truths(rng, n)
    markets[["price", "diffusion", "spread", "response", "direct"]] *= price_unit
    markets[["size", "volume"]] *= size_unit
    markets[["response", "direct"]] /= size_unit
    names = [f"M{i:05d}" for i in range(n)]
    instruments = pd.DataFrame({"market_id": names, "token_id": "t"})
    start = pd.Timestamp("2026-01-01", tz="UTC")
    frames, volumes, trades, flow_squared, rules = [], [], [], np.zeros(n), StatisticsRules()
    for k in range(n_days):
        d = day(rng, markets, right)
        begin = start + pd.Timedelta(days=k)
        end = begin + pd.Timedelta(days=1)
        cap = np.full(n, np.nan)
        if volumes:
            of_trades = rules.flow_cap_trades / np.mean(trades[-CAP_DAYS:], axis=0)
            cap = np.maximum(rules.flow_cap_pct_adv / 100.0, of_trades) * np.mean(volumes[-CAP_DAYS:], axis=0)
        columns = impact_columns(
            lambda minutes: np.arange(0, BUCKETS, minutes // 5),
            d["mid"], (d["buys"], d["paid_buys"]), (d["sells"], d["paid_sells"]), cap, np.full(n, True),
            squares=(d["size_squared"], np.zeros_like(d["size_squared"])),
        )  # fmt: skip
        moves = np.diff(d["mid"], axis=1)
        volumes.append(d["buys"].sum(axis=1) + d["sells"].sum(axis=1))
        trades.append(d["trades"])
        flow_squared += d["flow_squared"]
        at = dict.fromkeys(("session_end", "last_mid_at", "last_trade_at", "last_snapshot_at"), end)
        at |= {"session_start": begin, "first_mid_at": begin + pd.Timedelta(minutes=5)}
        rows = zero_rows(begin.date(), instruments)
        frames.append(
            rows.assign(**{name: pd.Series([stamp] * n).astype(rows[name].dtype) for name, stamp in at.items()}).assign(
                **{"kind": "price", "calendar": ALWAYS_OPEN, "n_buckets": BUCKETS, "n_mid_buckets": BUCKETS},
                **{"volume": volumes[-1], "n_trades": d["trades"], "n_signed": d["trades"], "active_hours": 24},
                **{"buy_volume": d["buys"].sum(axis=1), "sell_volume": d["sells"].sum(axis=1)},
                **{"n_sides_compared": d["n_compared"].astype(int)},
                **{"compared_volume": d["compared"], "compared_size_squared": d["compared_squared"]},
                **{"contradicted_volume": d["contradicted"], "flow_cap": cap},
                **{"n_snapshots": 20_000, "n_two_sided": 20_000, "quoted_seconds": 86_400.0},
                **{"spread_seconds": d["spread"] * 86_400.0, "open_price": markets["price"].to_numpy()},
                # Every day begins anew at the price: the first move is the one from the day before.
                **{"first_mid": markets["price"].to_numpy() + d["first_move"], "last_mid": markets["price"].to_numpy()},
                **{"close_price": markets["price"].to_numpy(), "realised_variance": (moves**2).sum(axis=1)},
                **{"realised_quarticity": (moves**4).sum(axis=1)},
                **columns,
            )
        )
    window = Window.of(begin.date(), n_days, [ALWAYS_OPEN])
    rows = in_order(pd.concat(frames, ignore_index=True), window)
    statistics = window_statistics(rows, window)
    session_end = pd.Series([end] * n)
    reference = ReferenceData(instruments.assign(kind="price")).of(statistics)
    statistics = with_prior(statistics, reference, session_end, CalibrationRules().sigma_prior_log_sd)
    measured = Measured(statistics, reference, session_end, impact_evidence(rows))
    markets["sigma"] = np.sqrt(markets["diffusion"] ** 2 + markets["response"] ** 2 * flow_squared / n_days)
    return markets, measured, rows


def judged(truth: pd.DataFrame, measured: Measured, found: pd.DataFrame) -> dict[str, float]:
    """Coverage, bias (mean log error) and what thin and thick tenths gain over least squares of each market alone."""
    out = {"sign_accuracy": float(found["sign_accuracy"].mean())}
    pairs = {
        "epsilon": truth["spread"] / 2,
        "sigma": truth["sigma"],
        "gamma": truth["response"],
        "eta": truth["direct"],
    }
    impact = measured.impact
    alone = {
        "gamma": impact.slope[:, 0] / impact.uncapped[:, 0],
        "eta": impact.direct_eta[:, 0] / impact.direct_uncapped[:, 0],
    }
    order = np.argsort(truth["rate"].to_numpy())
    thin, thick = order[: len(order) // 10], order[-len(order) // 10 :]
    for name, true in pairs.items():
        error = np.log(found[name] / true).to_numpy()
        out[f"{name} covered"] = float(((found[f"{name}_low"] <= true) & (true <= found[f"{name}_high"])).mean())
        out[f"{name} bias"] = float(error.mean())
        if name in alone:
            own = alone[name]
            with np.errstate(divide="ignore", invalid="ignore"):
                own = np.where(own > 0, np.abs(np.log(np.abs(own) / true)), np.inf)
            out[f"{name} thin tenth, alone / pooled"] = float(np.median(own[thin]) / np.median(np.abs(error[thin])))
            out[f"{name} thick tenth, pooled / alone"] = float(np.median(np.abs(error[thick])) / np.median(own[thick]))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("markets", 1_000), ("days", 30), ("seeds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {}
    for seed in range(asked.seeds):
        for right, stated in ((1.0, ("measured", 1.0)), (RIGHT, ("measured", RIGHT, 1.0)), (0.8, ("measured",))):
            truth, measured, _ = tape(seed, asked.markets, asked.days, right)
            for accuracy in stated:
                rules = CalibrationRules(method="tape", sign_accuracy=accuracy)
                found = calibrate(measured, rules, slice_days=5 / 1440)
                said = f"{100 * (1 - right):.0f} % of the signs wrong, sign_accuracy {accuracy}"
                results.setdefault(said, []).append(judged(truth, measured, found))
    for said, of_seeds in results.items():
        table = pd.DataFrame(of_seeds)
        print(f"\n{asked.markets} markets x {asked.days} days, {asked.seeds} seeds: {said}")
        for name in table:
            error = table[name].std(ddof=1) / np.sqrt(len(table)) if len(table) > 1 else np.nan
            low, mean, high = table[name].min(), table[name].mean(), table[name].max()
            print(f"  {name:40s} {mean:8.4f} ± {error:.4f}   {low:8.4f} to {high:.4f}")


if __name__ == "__main__":
    main()
