"""How to trade: optimal schedules, their expected cost and their risk."""

from tributary_opt.optimization.closed_form import (
    LinearGrid,
    SolveStatus,
    cost_and_variance,
    decay_rate,
    effective_eta,
    half_life,
    linear_shapes,
    risk_aversion_from_urgency,
    solve_linear_grid,
)

__all__ = [
    "LinearGrid",
    "SolveStatus",
    "cost_and_variance",
    "decay_rate",
    "effective_eta",
    "half_life",
    "linear_shapes",
    "risk_aversion_from_urgency",
    "solve_linear_grid",
]
