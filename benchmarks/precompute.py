"""Speed of the batched closed form, against copying its own output.

Run by hand: ``python benchmarks/precompute.py``. Every figure is the median of five runs of 100,000 problems (20,000
markets x 5 risk levels), warm output arrays reused; the ratio is to copying that output within the same run, so that it
holds on a busy machine too. One core: numpy runs these functions on one thread, and nothing here uses BLAS.
Target: closed form with E and V at most 15 times its own copy at N = 48.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np

from tributary_opt import calibrate_ac_params, generate_ac_trajectory
from tributary_opt.optimization import linear_shapes, solve_linear_grid

MARKETS, LEVELS, RUNS = 20_000, 5, 5
TARGET = 15.0


def seconds(job: Callable[[], object]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def measure(name: str, job: Callable[[], object], outputs: list[np.ndarray], problems: int) -> float:
    """Print one line; returns the ratio to copying the outputs."""
    copies = [np.zeros_like(a) for a in outputs]

    def copy() -> None:
        for target, source in zip(copies, outputs, strict=True):
            np.copyto(target, source)

    job(), copy()
    pairs = [(seconds(job), seconds(copy)) for _ in range(RUNS)]
    took, copied = median(p[0] for p in pairs), median(p[1] for p in pairs)
    ratio = median(p[0] / p[1] for p in pairs)
    points = sum(a.size for a in outputs)
    print(
        f"{name:<58} {took * 1e3:8.1f} {copied * 1e3:8.1f} {ratio:6.1f} {took / problems * 1e6:8.2f} "
        f"{points / took / 1e6:7.0f}"
    )
    return ratio


def main() -> None:
    rng = np.random.default_rng(0)
    eta, sigma = 10 ** rng.uniform(-7, -3, MARKETS), 10 ** rng.uniform(-3, 0, MARKETS)
    gamma, adv = eta / 10, 10 ** rng.uniform(4, 7, MARKETS)
    levels = {
        "urgency": np.array([0, 0.5, 1.0, 3.0, 10.0]),
        "risk_aversion": 10 ** rng.uniform(-8, 0, (MARKETS, LEVELS)),
    }
    print(f"{'20,000 markets x 5 risk levels':<58} {'ms':>8} {'copy ms':>8} {'ratio':>6} {'us/shape':>8} {'Mpt/s':>7}")
    gate = []
    for n in (48, 96):
        remaining, slices = np.zeros((MARKETS, LEVELS, n + 1)), np.zeros((MARKETS, LEVELS, n))
        urgency = np.broadcast_to(levels["urgency"], (MARKETS, LEVELS)) * rng.uniform(0.9, 1.1, (MARKETS, 1))
        measure(
            f"N={n:<3} shapes and slices alone",
            lambda n=n, o=(remaining, slices), u=urgency: linear_shapes(u, n, out=o),  # type: ignore[misc]
            [remaining, slices],
            MARKETS * LEVELS,
        )
        for sizes in (1, 6):
            orders = adv[:, np.newaxis] * np.geomspace(1e-3, 0.1, sizes)
            for by, level in levels.items():
                ratio = measure(
                    f"N={n:<3} shapes, E and V of {sizes} size{'s' if sizes > 1 else ' '}, by {by}",
                    lambda n=n, o=orders, b=by, x=level, r=remaining: solve_linear_grid(  # type: ignore[misc]
                        eta, gamma, sigma, 0.01, o, horizon=1.0, n_steps=n, holdings=False, remaining=r, **{b: x}
                    ),
                    [remaining],
                    MARKETS * LEVELS,
                )
                if n == 48 and sizes == 1:
                    gate.append(ratio)
        orders = adv[:, np.newaxis] * np.geomspace(1e-3, 0.1, 6)
        held = np.zeros((MARKETS, LEVELS, 6, n + 1))
        measure(
            f"N={n:<3} shapes, E, V and holdings of 6 sizes, by urgency",
            lambda n=n, o=orders, h=held, r=remaining: solve_linear_grid(  # type: ignore[misc]
                eta, gamma, sigma, 0.01, o, horizon=1.0, n_steps=n, urgency=levels["urgency"], holdings=h, remaining=r
            ),
            [held],
            MARKETS * LEVELS,
        )
    params = calibrate_ac_params(50_000, 0.02, 0.05, 0.50, tau=1 / 48)
    one = median(seconds(lambda: generate_ac_trajectory(5000, 48, params, 0.1)) for _ in range(200))
    print(f"\none order by generate_ac_trajectory, N=48: {one * 1e6:.0f} us")
    verdict = "met" if max(gate) <= TARGET else "MISSED"
    print(f"target, closed form with E and V at N=48: <= {TARGET:.0f} x its own copy: {verdict} ({max(gate):.1f})")


if __name__ == "__main__":
    main()
