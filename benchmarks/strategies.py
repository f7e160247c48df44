"""Speed of the solvers, against copying their own output and against what a user would otherwise pick.

Run by hand: ``python benchmarks/strategies.py``; ``--package`` also measures the published `almgren-chriss` package, in
a virtual environment of its own that the script makes (GPL: a subject of measurement, never a dependency). Figures are
medians in one run, N = 48, one thread. Targets: Riccati at most 15 times copying its own output; capped power law at
most 8 mean sweeps and at least 4 times faster than 60 sweeps of bisection; at least 30 times faster than the notebook
loop, 12 times than the package, 2,000 times than SLSQP.
"""
# ruff: noqa: E402

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from tributary_opt.optimization import solve_linear_grid
from tributary_opt.optimization.problem import Problem, schedule_cost
from tributary_opt.optimization.solver import _Chunk, _Shot, solve

N, RUNS = 48, 5


def seconds(job: Callable[[], object], runs: int = RUNS) -> float:
    job()
    took = []
    for _ in range(runs):
        started = time.perf_counter()
        job()
        took.append(time.perf_counter() - started)
    return median(took)


def problems(count: int, *, power: bool, capped: bool, seed: int = 0) -> Problem:
    """Orders of 0.1 to 20 time scales over volume profiles; where capped, caps bind in about half."""
    rng = np.random.default_rng(seed)
    k = rng.uniform(0.4, 0.9, count) if power else np.ones(count)
    size, unit = 10.0 ** rng.uniform(2, 6, count), 10.0 ** rng.uniform(-6, 0, count)
    volume = rng.gamma(3.0, 1 / 3, (count, N)) + 0.05
    impact = unit[:, None] / size[:, None] ** k[:, None] / volume ** k[:, None]
    urgency = 10.0 ** rng.uniform(-1, 1.3, count)
    sd = 10.0 ** rng.uniform(-4, 0, (count, 1)) * np.ones(N)
    lam = k * (urgency / N) ** (k + 1) * unit / (size * np.square(sd[:, 0]))
    cap = np.full((count, N), np.inf)
    if capped:
        cap = size[:, None] * volume / volume.sum(axis=1, keepdims=True) * rng.uniform(1.05, 6.0, (count, 1))
    return Problem.of(size, impact, sd, lam, exponent=k, cap=cap, permanent="midprice")


def line(name: str, per: float, note: str) -> None:
    print(f"{name:<64} {per * 1e6:12.2f}  {note}")


def main() -> None:
    print(f"{'N = 48':<64} {'us/schedule':>12}")
    rng = np.random.default_rng(1)
    market = [10 ** rng.uniform(a, b, 20_000) for a, b in ((-7, -3), (-8, -4), (-3, 0))]
    out = np.empty((20_000, 5, N + 1))

    def closed() -> None:
        solve_linear_grid(
            *market, 0.01, [1000.0], horizon=1.0, n_steps=N, urgency=[0, 0.5, 1, 3, 10], holdings=False, remaining=out
        )

    took, copied = seconds(closed), seconds(lambda: out.copy())
    line("closed form, 100,000 at once, E and V", took / 1e5, f"{took / copied:.1f} x copying its output")
    ours = took / 1e5

    linear = problems(20_000, power=False, capped=False)
    solution = solve(linear)

    def riccati() -> None:
        s = solve(linear)
        schedule_cost(linear, s.slices, s.holdings)

    took = seconds(riccati, 3)
    copied = seconds(lambda: (solution.slices.copy(), solution.holdings.copy()))
    line("Riccati, 20,000 at once, E and V", took / 20_000, f"{took / copied:.1f} x copying its output")

    capped = problems(8192, power=True, capped=True)
    solution = solve(capped)
    binding = (solution.slices >= capped.cap).any(axis=1).mean()

    def shooting() -> None:
        s = solve(capped)
        schedule_cost(capped, s.slices, s.holdings)

    shot = seconds(shooting, 3) / 8192
    sweeps = solution.sweeps.mean()
    line("capped power law, 8,192 at once, E and V", shot, f"{sweeps:.1f} sweeps mean, {binding:.0%} binding")
    chunk = _Chunk(capped, slice(0, 8192))

    def bisection() -> None:
        sweep = _Shot(chunk, np.arange(8192), False)
        level = sweep.first_guess()
        for _ in range(60):
            sweep.sweep(level)

    slow = seconds(bisection, 1) / 8192
    line("the same by 60 sweeps of bisection", slow, f"{slow / shot:.1f} x ours")

    kappa = rng.uniform(0.1, 5.0, 2000)

    def notebook() -> None:
        for k in kappa:
            x = [1000.0 * np.sinh(k * (1 - j / N)) / np.sinh(k) for j in range(N + 1)]
            n = [x[j] - x[j + 1] for j in range(N)]
            sum(v * v for v in n), sum(v * v for v in x[1:])

    took = seconds(notebook, 1) / 2000
    line("notebook: np.sinh in a list comprehension, E and V", took, f"{took / ours:.0f} x ours; overflows at κT 710")

    from scipy.optimize import minimize

    few = problems(4, power=True, capped=True, seed=2)
    best = solve(few)
    started, worst = time.perf_counter(), 0.0
    for i in range(4):
        one = few.take(i)
        size, k = float(one.order_size), float(one.exponent)
        scale = float(schedule_cost(one, best.slices[i]).objective)
        a, risk = one.impact * size ** (k + 1) / scale, float(one.risk_aversion) * one.risk * size**2 / scale

        def cost(y: np.ndarray, a: np.ndarray = a, risk: np.ndarray = risk, k: float = k) -> tuple[float, np.ndarray]:
            y = np.maximum(y, 0.0)
            held = np.append(np.cumsum(y[:0:-1])[::-1], 0.0)
            push = 2 * risk * held
            later = np.concatenate([[0.0], np.cumsum(push)[:-1]])
            return float((a * y ** (k + 1)).sum() + (risk * held**2).sum()), (k + 1) * a * y**k + later

        found = minimize(
            cost, np.full(N, 1 / N), jac=True, method="SLSQP", bounds=[(0, min(c / size, 1.0)) for c in one.cap],
            constraints={"type": "eq", "fun": lambda y: y.sum() - 1, "jac": lambda y: np.ones(N)},
            options={"maxiter": 500, "ftol": 1e-12},
        )  # fmt: skip
        worst = max(worst, float(np.abs(found.x - best.slices[i] / size).max()))
    took = (time.perf_counter() - started) / 4
    line("capped power law by scipy SLSQP with gradient", took, f"{took / shot:.0f} x ours; off by {worst:.0e} of X")
    if "--package" in sys.argv:
        package(ours)


_MEASURE = """
import time
from almgren_chriss import cost_expectation, cost_variance, trade_trajectory
from statistics import median
market = dict(lambda_=1e-6, tau=5 / 48, sigma=0.95, gamma=2.5e-7, eta=2.5e-6, X=1e6, T=5.0)
def one():
    trade_trajectory(**market), cost_expectation(epsilon=0.0625, **market), cost_variance(**market)
took = []
for _ in range(5):
    started = time.perf_counter()
    for _ in range(2000):
        one()
    took.append((time.perf_counter() - started) / 2000)
print(median(took))
"""


def package(ours: float) -> None:
    """The published package, in an environment of its own."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", "almgren-chriss", "scipy"], check=True)
        shown = subprocess.run([python, "-c", _MEASURE], capture_output=True, text=True, check=False)
        if shown.returncode:
            print(f"almgren-chriss: {shown.stderr.strip().splitlines()[-1]}")
            return
        took = float(shown.stdout)
        line("almgren-chriss: trajectory, E and V", took, f"{took / ours:.0f} x ours")


if __name__ == "__main__":
    main()
