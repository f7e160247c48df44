"""The efficient frontier: what less risk costs, from TWAP to everything at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from tributary_opt.optimization.arguments import FloatArray, _floats, _in_range
from tributary_opt.optimization.problem import Problem, schedule_cost
from tributary_opt.optimization.risk import _has_schedule, _means, _one
from tributary_opt.optimization.solver import solve

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EfficientFrontier", "efficient_frontier", "plot_frontier"]


@dataclass(frozen=True, eq=False)
class EfficientFrontier:
    """Optimal schedules of one order along λ; every array has one entry a point, TWAP (λ = 0) first."""

    risk_aversion: FloatArray  #: λ, rising. [1/currency]
    expected_cost: FloatArray  #: E, never falling; λV is no part of it. [currency]
    cost_variance: FloatArray  #: V, never rising. [currency²]
    cost_sd: FloatArray  #: √V. [currency]
    lvar: FloatArray  #: E + `level` · √V. [currency]
    holdings: FloatArray  #: x_j, shape (points, N + 1). [contracts]
    level: float  #: λ_v of the L-VaR. [-]
    knee: int  #: index of the point farthest below the chord of the curve, √V and E each scaled to [0, 1].

    def frame(self) -> pd.DataFrame:
        """The points as a table: risk_aversion, expected_cost, cost_sd, lvar, first_slice_pct, knee."""
        import pandas as pd

        return pd.DataFrame(
            {
                "risk_aversion": self.risk_aversion,
                "expected_cost": self.expected_cost,
                "cost_sd": self.cost_sd,
                "lvar": self.lvar,
                "first_slice_pct": (1.0 - self.holdings[:, 1] / self.holdings[:, 0]) * 100.0,
                "knee": np.arange(len(self.risk_aversion)) == self.knee,
            }
        )


def efficient_frontier(
    problem: Problem, n_points: int = 60, *, risk_aversion: ArrayLike | None = None, level: float = 1.645
) -> EfficientFrontier:
    """Least expected cost for every risk, of one problem; its own λ does not matter.

    Parameters
    ----------
    problem : Problem
        One, not a batch.
    n_points : int
        Points beside TWAP, spaced evenly in log λ from κT = 0.05 to where all but a millionth is done in the first
        slice that trades (as far as its cap allows). [-]
    risk_aversion : array_like, shape (L,), optional
        The λ's to take instead, rising. [1/currency]
    level : float
        λ_v of the L-VaR: 1.645 for 95 %. [-]

    Returns
    -------
    EfficientFrontier
        dE/dV = -λ along it (A-C section 2.3): the slope of every chord lies between the -λ of its ends. E and V are
        strictly monotone from κT = 0.05 to x_1/X = 1e-6, and constant where they differ by rounding alone.
    """
    _one(problem)
    if risk_aversion is None:
        if n_points < 2:
            raise ValueError(f"n_points must be >= 2, got {n_points}")
        a, mean_sd, _, k = _means(problem)
        if not mean_sd > 0:
            raise ValueError("the frontier is one point where sigma is 0")
        # The risk m of κT = 0.05, and of x_1/X = 1e-6: there the marginal cost of the whole order in one slice,
        # (k+1) a_1, is 2λ s_1 x_1, a and s being those of the first slice that trades and the first risk after it.
        first = int(np.argmax(problem.cap > 0))
        risky = float(problem.slice_sd[first + int(np.argmax(problem.slice_sd[first:] > 0))])
        slow = max(float(problem.impact[first]) / a * (mean_sd / risky if risky > 0 else 1.0) ** 2, 1e-6)
        grid = np.geomspace((0.05 / problem.n_steps) ** (1.0 + k), 1e6 * (1.0 + k) / 2.0 * slow, n_points)
        lam = np.concatenate([[0.0], a * float(problem.order_size) ** (k - 1.0) / mean_sd / mean_sd * grid])
    else:
        lam = _floats("risk_aversion", risk_aversion)
        if lam.ndim != 1 or not _in_range(lam).all() or (np.diff(lam) <= 0).any():
            raise ValueError("risk_aversion must be one rising list of finite numbers >= 0")
    per_slice = {
        name: np.broadcast_to(getattr(problem, name), (*lam.shape, problem.n_steps))
        for name in ("tau", "impact", "spread", "slice_sd", "cap")
    }
    per_order = {
        name: np.broadcast_to(getattr(problem, name), lam.shape) for name in ("order_size", "exponent", "gamma")
    }
    many = Problem(risk_aversion=lam, permanent=problem.permanent, **per_order, **per_slice)
    solution = solve(many)
    _has_schedule(problem, solution)
    cost = schedule_cost(many, solution.slices, solution.holdings)
    # Where schedules differ by less than rounding, so do E and V, in either direction: there they stay as they were.
    expected = np.maximum.accumulate(cost.expected_cost)
    variance = np.minimum.accumulate(cost.cost_variance)
    sd = np.sqrt(variance)
    return EfficientFrontier(
        risk_aversion=lam,
        expected_cost=expected,
        cost_variance=variance,
        cost_sd=sd,
        lvar=expected + level * sd,
        holdings=solution.holdings,
        level=level,
        knee=_knee(sd, expected),
    )


def _knee(sd: FloatArray, expected: FloatArray) -> int:
    with np.errstate(invalid="ignore"):  # a variance beyond the range of doubles
        wide, tall = float(np.ptp(sd)), float(np.ptp(expected))
    if not (0 < wide < np.inf and 0 < tall < np.inf):
        return 0
    return int(np.argmin((sd - sd.min()) / wide + (expected - expected.min()) / tall))


def plot_frontier(frontier: EfficientFrontier, axes: Any = None) -> Any:
    """Draw E against √V with the knee and the least L-VaR marked; returns matplotlib's axes.

    Needs the extra ``plot`` (matplotlib).
    """
    if axes is None:
        try:
            from matplotlib.figure import Figure
        except ImportError as missing:
            raise ImportError("a plot needs matplotlib: install tributary-opt[plot]") from missing
        axes = Figure(figsize=(6.4, 4.2), layout="constrained").subplots()
    axes.plot(frontier.cost_sd, frontier.expected_cost, marker=".", markersize=3, label="efficient frontier")
    least = int(frontier.lvar.argmin())
    for index, label in ((0, "TWAP"), (frontier.knee, "knee"), (least, f"least L-VaR ({frontier.level:g} sd)")):
        axes.plot(frontier.cost_sd[index], frontier.expected_cost[index], "o", label=label)
    axes.set_xlabel("standard deviation of the cost [currency]")
    axes.set_ylabel("expected cost [currency]")
    axes.legend()
    return axes
