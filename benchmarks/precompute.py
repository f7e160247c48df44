"""Speed of the batched closed form, against copying its own output.

Run by hand: ``python benchmarks/precompute.py``. Every figure is the median of five runs of 100,000 problems (20,000
markets x 5 risk levels), warm output arrays reused, in processor time, so that a busy machine does not count. The
baseline is one: what the call returns of schedules, E and V, copied into warm arrays, run by run beside it. One core:
numpy runs these functions on one thread, and nothing here uses BLAS.
Target: what the night asks for, holdings of six sizes with E and V from a shape for every market and risk level, at
most 15 times its own copy at N = 48. Shapes with E and V alone write a sixth of that; `strategies.py` holds them to
the same. By urgencies that all markets share, a shape is solved once and copied.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import numpy as np

from tributary_opt import calibrate_ac_params, generate_ac_trajectory
from tributary_opt.optimization import linear_shapes, solve_linear_grid

MARKETS, LEVELS, RUNS = 20_000, 5, 5
TARGET = 15.0


def seconds(job: Callable[[], object]) -> float:
    started = time.process_time()
    job()
    return time.process_time() - started


def measure(name: str, job: Callable[[], Sequence[np.ndarray]], problems: int) -> float:
    """Print one line; returns the ratio to copying the output."""
    outputs = job()
    copies = [np.zeros_like(a) for a in outputs]

    def copy() -> None:
        for target, source in zip(copies, outputs, strict=True):
            np.copyto(target, source)

    copy()
    pairs = [(seconds(job), seconds(copy)) for _ in range(RUNS)]
    took, copied = median(p[0] for p in pairs), median(p[1] for p in pairs)
    ratio = median(p[0] / p[1] for p in pairs)
    points = sum(a.size for a in outputs)
    print(
        f"{name:<62} {took * 1e3:8.1f} {copied * 1e3:8.1f} {ratio:6.1f} {took / problems * 1e6:8.2f} "
        f"{points / took / 1e6:7.0f}"
    )
    return ratio


def schedules(*market: object, **how: object) -> Sequence[np.ndarray]:
    """Holdings, or shapes where no holdings are asked for, E and V."""
    grid = solve_linear_grid(*market, **how)  # type: ignore[arg-type]
    return grid.remaining if grid.holdings is None else grid.holdings, grid.expected_cost, grid.cost_variance


def main() -> None:
    rng = np.random.default_rng(0)
    eta, sigma = 10 ** rng.uniform(-7, -3, MARKETS), 10 ** rng.uniform(-3, 0, MARKETS)
    gamma, adv = eta / 10, 10 ** rng.uniform(4, 7, MARKETS)
    levels = {
        "risk_aversion": 10 ** rng.uniform(-8, 0, (MARKETS, LEVELS)),
        "shared urgency": np.array([0, 0.5, 1.0, 3.0, 10.0]),
    }
    print(f"{'20,000 markets x 5 risk levels':<62} {'ms':>8} {'copy ms':>8} {'ratio':>6} {'us/shape':>8} {'Mpt/s':>7}")
    rows = MARKETS * LEVELS
    worst = 0.0
    for n in (48, 96):
        remaining, slices = np.zeros((MARKETS, LEVELS, n + 1)), np.zeros((MARKETS, LEVELS, n))
        held = np.zeros((MARKETS, LEVELS, 6, n + 1))
        own = levels["shared urgency"] * rng.uniform(0.9, 1.1, (MARKETS, 1))
        shapes = partial(linear_shapes, own, n, out=(remaining, slices))
        measure(f"N={n:<3} shapes and slices alone", shapes, rows)
        for by, level in levels.items():
            for sizes, scaled in ((1, False), (6, False), (6, True)):
                orders = adv[:, np.newaxis] * np.geomspace(1e-3, 0.1, sizes)
                job = partial(
                    schedules, eta, gamma, sigma, 0.01, orders, horizon=1.0, n_steps=n, remaining=remaining,
                    holdings=held if scaled else False, **{by.split()[-1]: level},
                )  # fmt: skip
                what = f"{'holdings' if scaled else 'shapes'}, E and V of {sizes} size{'s' * (sizes > 1)}, by {by}"
                ratio = measure(f"N={n:<3} {what}", job, rows)
                worst = max(worst, ratio if n == 48 and scaled else 0.0)
    params = calibrate_ac_params(50_000, 0.02, 0.05, 0.50, tau=1 / 48)
    one = median(seconds(lambda: generate_ac_trajectory(5000, 48, params, 0.1)) for _ in range(200))
    print(f"\none order by generate_ac_trajectory, N=48: {one * 1e6:.0f} us")
    verdict = "met" if worst <= TARGET else "MISSED"
    print(f"target, holdings, E and V at N=48: <= {TARGET:.0f} x their own copy: {verdict} ({worst:.1f})")


if __name__ == "__main__":
    main()
