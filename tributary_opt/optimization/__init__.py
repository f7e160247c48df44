"""How to trade: optimal schedules, their expected cost and their risk."""

from typing import TYPE_CHECKING, Any

from tributary_opt.optimization.almgren_chriss import (
    AlmgrenChrissParams,
    ExecutionTrajectory,
    calibrate_ac_params,
    generate_ac_trajectory,
    implied_average_price,
)
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
from tributary_opt.optimization.rule import RuleParameters, rule_parameters
from tributary_opt.optimization.strategies import (
    AlmgrenChrissStrategy,
    ExecutionStrategy,
    MarketOrderStrategy,
    TWAPStrategy,
    generate_market_order_trajectory,
    generate_twap_trajectory,
)

if TYPE_CHECKING:
    from tributary_opt.optimization.comparison import StrategyComparison

__all__ = [
    "AlmgrenChrissParams",
    "AlmgrenChrissStrategy",
    "ExecutionStrategy",
    "ExecutionTrajectory",
    "LinearGrid",
    "MarketOrderStrategy",
    "RuleParameters",
    "SolveStatus",
    "StrategyComparison",
    "TWAPStrategy",
    "calibrate_ac_params",
    "cost_and_variance",
    "decay_rate",
    "effective_eta",
    "generate_ac_trajectory",
    "generate_market_order_trajectory",
    "generate_twap_trajectory",
    "half_life",
    "implied_average_price",
    "linear_shapes",
    "risk_aversion_from_urgency",
    "rule_parameters",
    "solve_linear_grid",
]


def __getattr__(name: str) -> Any:
    """`StrategyComparison` on demand: it alone needs pandas."""
    if name == "StrategyComparison":
        from tributary_opt.optimization.comparison import StrategyComparison

        return StrategyComparison
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
