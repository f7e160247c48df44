"""Do own executions find the law? Orders with known b, β and permanent prefactor, and the intervals that they leave.

    python benchmarks/own_executions.py [--draws 2000]

Truths are drawn from the prior: a level for all markets and each market's own deviation from it. Orders are even
executions along a Brownian path, watched until half a day after their end. Prints, for one market with 1,500 orders and
for ten with 300 each beside one without any, the share of 95 % intervals that hold the truth, the mean of
z = (estimate - truth) / sd and its standard deviation. The error of a share is √(0.95·0.05/intervals).
"""

from __future__ import annotations

import argparse

import numpy as np

from tributary_opt.calibration.own_executions import Orders
from tributary_opt.calibration.priors import law
from tributary_opt.settings import LawPrior

PRIOR = LawPrior()
NAMES = ("log b", "beta", "log permanent")


def truths(rng: np.random.Generator, n_markets: int) -> np.ndarray:
    """φ of each market, shape (n_markets, 3)."""
    level = np.array([np.log(PRIOR.b), PRIOR.beta, np.log(PRIOR.permanent)])
    level = level + rng.normal(size=3) * [PRIOR.b_level_sd, PRIOR.beta_sd, PRIOR.permanent_level_sd]
    return level + rng.normal(size=(n_markets, 3)) * [PRIOR.b_market_sd, 0.0, PRIOR.permanent_market_sd]


def orders(rng: np.random.Generator, phi: np.ndarray, n: int) -> Orders:
    """n orders of 0.1 to 10 % of the daily volume in each of the markets, over 0.1 to 1 day, in units of the market."""
    market = np.repeat(np.arange(len(phi)), n)
    b, beta, g = np.exp(phi[market, 0]), phi[market, 1], np.exp(phi[market, 2])
    size, duration = 10 ** rng.uniform(-3, -1, len(market)), rng.uniform(0.1, 1.0, len(market))
    # The path's end, its mean over the order given the end, and where it is half a day later.
    end = rng.normal(size=len(market)) * np.sqrt(duration)
    mean = end / 2 + rng.normal(size=len(market)) * np.sqrt(duration / 12)
    after = end + rng.normal(size=len(market)) * np.sqrt(0.5)
    cost = 0.5 * g * size + b * (size / duration) ** beta + mean
    return Orders(market, size, duration, cost, g * size + after, duration + 0.5)


def scores(rng: np.random.Generator, n_markets: int, n_orders: int) -> tuple[np.ndarray, np.ndarray]:
    """z of the markets with orders, shape (n_markets, 3), and of one without, shape (3,)."""
    phi = truths(rng, n_markets + 1)
    nothing = np.zeros(n_markets + 1)
    found = law(PRIOR, nothing, nothing, orders(rng, phi[:-1], n_orders))
    z = (found.mean - phi) / np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    return z[:-1], z[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2_000)
    draws = parser.parse_args().draws
    for n_markets, n_orders in ((1, 1_500), (10, 300)):
        rng = np.random.default_rng(n_markets)
        made = [scores(rng, n_markets, n_orders) for _ in range(draws if n_markets == 1 else draws // 5)]
        for title, z in (
            ("with orders", np.concatenate([own for own, _ in made])),
            ("without any", np.stack([none for _, none in made])),
        ):
            print(f"\n{n_markets} x {n_orders} orders, {len(made)} draws: markets {title}, {len(z)} intervals")
            for i, name in enumerate(NAMES):
                held = np.mean(np.abs(z[:, i]) < 1.959964)
                print(f"  {name:14s} covered {100 * held:5.1f} %   z {z[:, i].mean():+.3f} ± {z[:, i].std():.3f}")


if __name__ == "__main__":
    main()
