"""Speed and error of the solvers, against copying their own output and against what a user would otherwise pick.

Run by hand, with the rows wanted or for all: ``python benchmarks/strategies.py [closed riccati … slsqp]``.
``package`` makes a virtual environment of its own for the published `almgren-chriss` (GPL: a subject of measurement,
never a dependency).

N = 48, one thread, medians of 5 in one run, in processor time, so that a busy machine does not count. What a solver
writes is copied as it writes it: into warm arrays where it is given them (closed form), into new ones where it makes
them (Riccati). Errors are the
largest over some of the same problems, in holdings and of X, against the optimality conditions solved in 50 digits.
Targets: closed form and Riccati at most 15 times copying their own output; capped power law at most 8 mean sweeps and
at least 4 times faster than 60 sweeps of bisection; at least 30 times faster than the notebook loop, 12 times than the
package, 2,000 times than SLSQP.
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

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "optimization"))
from kkt_oracle import solve_exactly

from tributary_opt.optimization import effective_eta, market_problem, solve_linear_grid
from tributary_opt.optimization.problem import Problem, schedule_cost
from tributary_opt.optimization.solver import solve

N, RUNS, CHECKED = 48, 5, 8
ROWS = ("closed", "riccati", "notebook", "package", "capped", "bisection", "slsqp")
_WIDEST = 2.8  # caps add up to at most this many orders


def seconds(job: Callable[[], object], runs: int = RUNS) -> float:
    job()
    took = []
    for _ in range(runs):
        started = time.process_time()
        job()
        took.append(time.process_time() - started)
    return median(took)


def exact(problem: Problem) -> np.ndarray:
    """Holdings of the first problems in 50 digits, as shares of X."""
    found = []
    for i in range(CHECKED):
        one = problem.take(i)
        n = [float(v) for v in solve_exactly(one).slices]
        found.append([*np.cumsum(n[::-1])[::-1] / float(one.order_size), 0.0])
    return np.array(found)


def error(shares: np.ndarray, reference: np.ndarray) -> str:
    return f"error {np.abs(np.asarray(shares)[:CHECKED] - reference).max():.0e}"


def problems(count: int, *, power: bool, capped: bool, seed: int = 0) -> Problem:
    """Orders of 0.1 to 20 time scales over volume profiles; where capped, caps bind in half (0.48 to 0.52 of 8,192)."""
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
        cap = size[:, None] * volume / volume.sum(axis=1, keepdims=True) * rng.uniform(1.05, _WIDEST, (count, 1))
    return Problem.of(size, impact, sd, lam, exponent=k, cap=cap, permanent="midprice")


def line(name: str, per: float, note: str) -> None:
    print(f"{name:<58} {per * 1e6:12.2f}  {note}", flush=True)


def main() -> None:
    wanted = set(sys.argv[1:]) or set(ROWS)
    if not wanted <= set(ROWS):
        raise SystemExit(f"rows are {', '.join(ROWS)}; got {', '.join(sorted(wanted - set(ROWS)))}")
    print(f"{'N = 48':<58} {'us/schedule':>12}")
    if wanted & {"closed", "notebook", "package"}:
        constant(wanted)
    if "riccati" in wanted:
        riccati()
    if wanted & {"capped", "bisection", "slsqp"}:
        shooting(wanted)


def constant(wanted: set[str]) -> None:
    """Constant coefficients: the closed form, and what others have for it."""
    rng = np.random.default_rng(1)
    eta, gamma, sigma = (10 ** rng.uniform(a, b, 20_000) for a, b in ((-7, -3), (-10, -7), (-3, 0)))
    out, warm = np.zeros((2, 20_000, 5, N + 1))
    markets = {"horizon": 1.0, "n_steps": N, "holdings": False, "remaining": out}
    grid = solve_linear_grid(eta, gamma, sigma, 0.01, [1000.0], urgency=[0, 0.5, 1, 3, 10], **markets)  # type: ignore[arg-type]
    markets["risk_aversion"] = grid.risk_aversion  # by λ, so that every market has shapes of its own
    few = market_problem(
        1000.0, grid.risk_aversion[:CHECKED, 3], eta=eta[:CHECKED], gamma=gamma[:CHECKED], sigma=sigma[:CHECKED],
        epsilon=0.01, horizon=1.0, n_steps=N,
    )  # fmt: skip
    reference = exact(few)

    took = seconds(lambda: solve_linear_grid(eta, gamma, sigma, 0.01, [1000.0], **markets))  # type: ignore[arg-type]
    copied = seconds(lambda: np.copyto(warm, out))
    ours = took / 1e5
    note = f"{took / copied:.1f} x copying its output; {error(out[:, 3], reference)}"
    line("closed form, 100,000 at once, E and V", ours, note)

    def notebook(count: int = 500) -> list[list[float]]:
        paths = []
        for i in range(count):
            k, e = float(grid.kappa[i, 3]), float(effective_eta(eta[i], gamma[i], 1 / N))
            x = [1000.0 * np.sinh(k * (1 - j / N)) / np.sinh(k) for j in range(N + 1)]
            n = [x[j] - x[j + 1] for j in range(N)]
            0.5 * gamma[i] * 1e6 + 10.0 + e * N * sum(v * v for v in n), sigma[i] ** 2 / N * sum(v * v for v in x[1:])
            paths.append([v / 1000.0 for v in x])
        return paths

    if "notebook" in wanted:
        took = seconds(notebook) / 500
        note = f"{took / ours:.0f} x the closed form; {error(notebook(CHECKED), reference)}; overflows at κT 710"
        line("notebook: np.sinh in a list comprehension, E and V", took, note)
    if "package" in wanted:
        lam = grid.risk_aversion[:200, 3]
        package(ours, np.column_stack([lam, eta[:200], gamma[:200], sigma[:200]]), reference)


def riccati() -> None:
    linear = problems(100_000, power=False, capped=False)
    found = solve(linear)
    took = seconds(lambda: solve(linear))
    copied = seconds(lambda: (found.slices.copy(), found.holdings.copy()))
    shares = found.holdings[:CHECKED] / linear.order_size[:CHECKED, np.newaxis]
    note = f"{took / copied:.1f} x copying its output; {error(shares, exact(linear))}"
    line("Riccati, 100,000 at once, E and V", took / 1e5, note)


def shooting(wanted: set[str]) -> None:
    """The power law under caps: costate shooting, bisection on the same sweep, and a general solver."""
    capped = problems(8192, power=True, capped=True)
    solution = solve(capped)
    binding = (solution.slices >= capped.cap).any(axis=1).mean()
    reference = exact(capped)
    shares = solution.holdings[:CHECKED] / capped.order_size[:CHECKED, np.newaxis]
    shot = seconds(lambda: solve(capped)) / 8192
    note = f"{solution.sweeps.mean():.1f} sweeps mean, caps bind in {binding:.0%}; {error(shares, reference)}"
    line("capped power law, 8,192 at once, E and V", shot, note)

    if "bisection" in wanted:
        path = bisection(capped)
        slow = seconds(lambda: bisection(capped)) / 8192
        line("the same by 60 sweeps of bisection", slow, f"{slow / shot:.1f} x ours; {error(path, reference)}")
    if "slsqp" in wanted:
        shares = []
        took = seconds(lambda: shares.append(slsqp(capped, solution.slices)), RUNS) / CHECKED
        note = f"{took / shot:.0f} x ours; {error(shares[-1], reference)}"
        line("the same by scipy SLSQP with gradient", took, note)


def bisection(capped: Problem) -> np.ndarray:
    """Holdings as shares, and E and V, by halving the logarithm of the last costate 60 times, without derivatives."""
    size, k = capped.order_size, capped.exponent
    unit = capped.impact.min(axis=1) * size**k
    ease = np.ascontiguousarray((unit[:, None] / (capped.impact * size[:, None] ** k[:, None] * (1 + k[:, None]))).T)
    risk = np.ascontiguousarray(2 * capped.risk_aversion * size / unit * np.square(capped.slice_sd).T)
    cap, inverse = np.ascontiguousarray((capped.cap / size[:, None]).T), 1 / k
    low, high = k * np.log(1e-290), np.log((1 + k) * 1e20)
    path, price, work, total = (np.empty(shape) for shape in (ease.shape, *[size.shape] * 3))
    for _ in range(60):
        level = 0.5 * (low + high)
        np.exp(level, out=price)
        total[:] = 0.0
        for j in range(N - 1, -1, -1):
            np.multiply(risk[j], total, out=work)
            np.add(price, work, out=price)
            np.minimum(price, 1e40, out=price)
            np.multiply(price, ease[j], out=work)
            np.power(work, inverse, out=work)
            np.minimum(work, cap[j], out=path[j])
            np.add(total, path[j], out=total)
        under = total < 1.0
        low, high = np.where(under, level, low), np.where(under, high, level)
    schedule_cost(capped, size[:, None] * path.T)
    return np.hstack([np.cumsum(path[::-1], axis=0)[::-1].T, np.zeros((len(size), 1))])


def slsqp(problems: Problem, best: np.ndarray) -> np.ndarray:
    """Holdings of the first problems, as shares; the objective is scaled to 1 at the optimum, which helps it."""
    from scipy.optimize import minimize

    found = []
    for i in range(CHECKED):
        one = problems.take(i)
        size, k = float(one.order_size), float(one.exponent)
        scale = float(schedule_cost(one, best[i]).objective)
        a, risk = one.impact * size ** (k + 1) / scale, float(one.risk_aversion) * one.risk * size**2 / scale

        def cost(y: np.ndarray, a: np.ndarray = a, risk: np.ndarray = risk, k: float = k) -> tuple[float, np.ndarray]:
            y = np.maximum(y, 0.0)
            held = np.append(np.cumsum(y[:0:-1])[::-1], 0.0)
            push = 2 * risk * held
            later = np.concatenate([[0.0], np.cumsum(push)[:-1]])
            return float((a * y ** (k + 1)).sum() + (risk * held**2).sum()), (k + 1) * a * y**k + later

        y = minimize(
            cost, np.full(N, 1 / N), jac=True, method="SLSQP", bounds=[(0, min(c / size, 1.0)) for c in one.cap],
            constraints={"type": "eq", "fun": lambda y: y.sum() - 1, "jac": lambda y: np.ones(N)},
            options={"maxiter": 500, "ftol": 1e-12},
        ).x  # fmt: skip
        found.append([*np.cumsum(y[::-1])[::-1], 0.0])
    return np.array(found)


_MEASURE = """
import sys, time
import numpy as np
from almgren_chriss import cost_expectation, cost_variance, trade_trajectory
from statistics import median
markets = np.load(sys.argv[1])
def one(lam, eta, gamma, sigma):
    market = dict(lambda_=lam, tau=1 / 48, sigma=sigma, gamma=gamma, eta=eta, X=1000.0, T=1.0)
    x = trade_trajectory(**market)
    cost_expectation(epsilon=0.01, **market), cost_variance(**market)
    return x
paths = np.array([one(*row) for row in markets.tolist()])
took = []
for _ in range(5):
    started = time.process_time()
    for row in markets.tolist():
        one(*row)
    took.append((time.process_time() - started) / len(markets))
np.save(sys.argv[1], paths)
print(median(took))
"""


def package(ours: float, markets: np.ndarray, reference: np.ndarray) -> None:
    """The published package on the same markets, in an environment of its own."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python, data = Path(folder) / "bin" / "python", Path(folder) / "markets.npy"
        np.save(data, markets)
        subprocess.run([python, "-m", "pip", "install", "-q", "almgren-chriss", "scipy"], check=True)
        shown = subprocess.run([python, "-c", _MEASURE, data], capture_output=True, text=True, check=False)
        if shown.returncode:
            print(f"almgren-chriss: {shown.stderr.strip().splitlines()[-1]}")
            return
        took, paths = float(shown.stdout), np.load(data) / 1000.0
    note = f"{took / ours:.0f} x the closed form; {error(paths, reference)}"
    line("almgren-chriss (the package): trajectory, E and V", took, note)


if __name__ == "__main__":
    main()
