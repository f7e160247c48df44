"""`schedule_cost`, part by part, against sums in 60 digits: of any schedule, optimal or not."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf

from tributary_opt.optimization import effective_eta, market_problem
from tributary_opt.optimization.problem import Problem, schedule_cost

N = 9
PARTS = ("spread", "temporary", "permanent", "risk", "expected_cost", "cost_variance", "objective")


def by_hand(problem: Problem, slices: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The price moves by γ n_j after slice j; a trade pays half of its own move (midprice) or none of it (paper)."""
    with mp.workdps(60):
        k, gamma, lam = (mpf(float(v)) for v in (problem.exponent, problem.gamma, problem.risk_aversion))
        n = [mpf(float(v)) for v in slices]
        x = [sum(n[j + 1 :], mpf(0)) for j in range(len(n))]
        a, eps, sd = ([mpf(float(v)) for v in row] for row in (problem.impact, problem.spread, problem.slice_sd))
        own = mpf(0) if problem.permanent == "paper" else gamma / 2
        # The coefficient of the linear law under `paper` is η̃/τ, what is paid η/τ = η̃/τ + γ/2.
        pressure = gamma / 2 if problem.permanent == "paper" and k == 1 else mpf(0)
        parts = {
            "spread": sum(e * v for e, v in zip(eps, n, strict=True)),
            "temporary": sum(b * v ** (1 + k) + pressure * v**2 for b, v in zip(a, n, strict=True)),
            "permanent": sum(gamma * v * left + own * v**2 for v, left in zip(n, x, strict=True)),
        }
        variance = sum((s * left) ** 2 for s, left in zip(sd, x, strict=True))
        expected = sum(parts.values())
        return parts | {
            "risk": lam * variance,
            "expected_cost": expected,
            "cost_variance": variance,
            "objective": expected + lam * variance,
        }


def schedules(rng: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    """Any there are: rising, falling, with slices of nothing, with one slice for all."""
    n = rng.gamma(0.5, 1.0, (count, N)) * (rng.random((count, N)) < 0.8)
    n[:, 0] += 1e-3
    n[0, 1:] = 0.0
    return n


@pytest.mark.parametrize("scale", [0, 300, -300])
@pytest.mark.parametrize(("power", "permanent"), list(itertools.product([False, True], ["paper", "midprice"])))
def test_every_part_is_the_sum_that_it_is_called(power: bool, permanent: str, scale: int) -> None:
    rng = np.random.default_rng(8)
    count, unit = 40, 2.0**scale
    k = rng.uniform(0.3, 0.99, count) if power else np.ones(count)
    n = schedules(rng, count) * unit
    impact, sd = rng.uniform(0.5, 2.0, (count, N)) * unit ** -k[:, None], rng.uniform(0.1, 1.0, (count, N)) / unit
    problem = Problem.of(
        n.sum(axis=1), impact, sd,
        10.0 ** rng.uniform(-3, 3, count), exponent=k, spread=rng.uniform(0, 1, (count, N)),
        gamma=rng.uniform(0.0, 0.3, count) / unit, permanent=permanent,
    )  # fmt: skip
    cost = schedule_cost(problem, n)
    for i in range(count):
        exact = by_hand(problem.take(i), n[i])
        for part in PARTS:
            assert abs(mpf(float(getattr(cost, part)[i])) - exact[part]) <= 4e-15 * exact[part], part


@pytest.mark.parametrize("permanent", ["paper", "midprice"])
def test_parts_of_a_market_are_those_of_its_parameters(permanent: str) -> None:
    """From η, γ, σ, ε and τ: each unit appears once, and a wrong one shows."""
    eta, gamma, sigma, epsilon, horizon, n_steps = 2.5e-6, 2.5e-7, 0.95, 0.0625, 5.0, 5
    problem = market_problem(1e6, 2e-6, eta=eta, gamma=gamma, sigma=sigma, epsilon=epsilon, horizon=horizon,
                             n_steps=n_steps, permanent=permanent)  # type: ignore[arg-type]  # fmt: skip
    n = np.array([4e5, 3e5, 0.0, 2e5, 1e5])
    x = np.array([6e5, 3e5, 3e5, 1e5, 0.0])
    cost = schedule_cost(problem, n)
    assert float(cost.spread) == pytest.approx(0.0625 * 1e6, rel=1e-15)
    assert float(cost.temporary) == pytest.approx((n * (eta * n / (horizon / n_steps))).sum(), rel=1e-14)
    # What is traded before has moved the price for what is traded after; its own move a trade pays to one half or not.
    moved = gamma * (np.cumsum(n) - n) + (gamma * n / 2 if permanent == "midprice" else 0.0)
    paid = (n * moved).sum()
    assert float(cost.permanent) == pytest.approx(paid, rel=1e-14)
    assert float(cost.cost_variance) == pytest.approx(sigma**2 * 1.0 * (x * x).sum(), rel=1e-14)
    assert float(cost.risk) == pytest.approx(2e-6 * float(cost.cost_variance), rel=1e-15)
    if permanent == "paper":
        tilde = float(effective_eta(eta, gamma, 1.0))
        assert float(cost.expected_cost) == pytest.approx(
            0.5 * gamma * 1e12 + 62_500 + tilde * (n * n).sum(), rel=1e-14
        )
