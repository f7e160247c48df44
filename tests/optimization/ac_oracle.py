"""What the tests of this room hold the closed form against: the optimality conditions, solved in 60 digits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

CASES: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "almgren_chriss_cases.json").read_text())
LINEAR: list[dict[str, Any]] = CASES["linear"]
PUBLISHED: dict[str, dict[str, Any]] = {case["name"]: case for case in CASES["published"]}
NEGLIGIBLE = 1e-290

_DIGITS = Context(prec=60, Emin=-(10**9), Emax=10**9)


def number(text: str | float) -> float:
    """A decimal, or a binary fraction written as ``mantissa*2^exponent``."""
    mantissa, _, exponent = str(text).partition("*2^")
    return float(mantissa) * 2.0 ** int(exponent or 0)


def case(name: str) -> dict[str, Any]:
    return next(c for c in LINEAR if c["id"] == name)


@dataclass(frozen=True)
class Exact:
    """Schedule of an order of one contract, and E and V of one of X contracts, correct to about 50 digits."""

    remaining: list[Decimal]
    slices: list[Decimal]
    expected_cost: Decimal
    cost_variance: Decimal


def solve(
    *,
    eta: float,
    gamma: float,
    sigma: float,
    epsilon: float,
    risk_aversion: float,
    tau: float,
    n_steps: int,
    order_size: float = 1.0,
    permanent: str = "paper",
) -> Exact:
    """Solve -a x[j-1] + (2a + λs) x[j] - a x[j+1] = 0 with x[0] = 1, x[N] = 0 by elimination from the end.

    a = η/τ - γ/2 (η/τ under ``midprice``) and s = σ²τ, from the doubles given, without rounding. No sinh anywhere.
    """
    with localcontext(_DIGITS):
        eta_, gamma_, sigma_, epsilon_, lam, tau_, size = map(
            Decimal, (eta, gamma, sigma, epsilon, risk_aversion, tau, order_size)
        )
        a = eta_ / tau_ - (gamma_ / 2 if permanent == "paper" else 0)
        assert a > 0
        diagonal = 2 + lam * sigma_**2 * tau_ / a
        ratios = [Decimal(0)]  # x[j] / x[j-1], from j = N down
        for _ in range(n_steps - 1):
            ratios.append(1 / (diagonal - ratios[-1]))
        remaining = [Decimal(1)]
        for ratio in reversed(ratios):
            remaining.append(remaining[-1] * ratio)
        slices = [before - after for before, after in pairwise(remaining)]
        cost = gamma_ * size**2 / 2 + epsilon_ * size + a * size**2 * sum(n * n for n in slices)
        variance = sigma_**2 * tau_ * size**2 * sum(x * x for x in remaining[1:])
        return Exact(remaining, slices, cost, variance)


def worst(got: Any, exact: list[Decimal] | Decimal) -> float:
    """Largest relative error; below 1e-290 anything from 0 to 1e-290 passes."""
    got = np.atleast_1d(np.asarray(got, dtype=float))
    exact = exact if isinstance(exact, list) else [exact]
    assert len(got) == len(exact)
    error = 0.0
    with localcontext(_DIGITS):
        for mine, true in zip(got, exact, strict=True):
            if true < Decimal(NEGLIGIBLE):
                assert 0 <= mine <= NEGLIGIBLE
            else:
                error = max(error, float(abs(Decimal(float(mine)) - true) / true))
    return error
