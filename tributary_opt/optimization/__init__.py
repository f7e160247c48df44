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
    SolveStatus,
    cost_and_variance,
    decay_rate,
    effective_eta,
    half_life,
    linear_shapes,
    risk_aversion_from_urgency,
)
from tributary_opt.optimization.frontier import EfficientFrontier, efficient_frontier, plot_frontier
from tributary_opt.optimization.linear_grid import LinearGrid, solve_linear_grid
from tributary_opt.optimization.night import ScheduleGrid, fixed_grid, solve_grid
from tributary_opt.optimization.problem import (
    Problem,
    ScheduleCost,
    convexity_limit,
    market_problem,
    schedule_cost,
)
from tributary_opt.optimization.risk import (
    RiskChoice,
    RiskFigures,
    risk_aversion_from_cost,
    risk_aversion_from_cost_bps,
    risk_aversion_from_decay_time,
    risk_aversion_from_half_life,
    risk_aversion_from_lvar,
    risk_aversion_from_share_done,
    risk_figures,
)
from tributary_opt.optimization.rule import RuleParameters, rule_parameters
from tributary_opt.optimization.scheduler import (
    AlmgrenChrissCappedStrategy,
    InfeasibleSchedule,
    schedule_order,
)
from tributary_opt.optimization.solver import Method, Solution, kkt_residual, replan, solve
from tributary_opt.optimization.strategies import (
    AlmgrenChrissStrategy,
    AlmgrenChrissVolumeTimeStrategy,
    ExecutionStrategy,
    MarketOrderStrategy,
    POVStrategy,
    TWAPStrategy,
    VWAPStrategy,
    VWAPTrackingStrategy,
    generate_ac_volume_time_trajectory,
    generate_market_order_trajectory,
    generate_pov_trajectory,
    generate_twap_trajectory,
    generate_vwap_tracking_trajectory,
    generate_vwap_trajectory,
)

if TYPE_CHECKING:
    from tributary_opt.optimization.comparison import StrategyComparison

__all__ = [
    "AlmgrenChrissCappedStrategy",
    "AlmgrenChrissParams",
    "AlmgrenChrissStrategy",
    "AlmgrenChrissVolumeTimeStrategy",
    "EfficientFrontier",
    "ExecutionStrategy",
    "ExecutionTrajectory",
    "InfeasibleSchedule",
    "LinearGrid",
    "MarketOrderStrategy",
    "Method",
    "POVStrategy",
    "Problem",
    "RiskChoice",
    "RiskFigures",
    "RuleParameters",
    "ScheduleCost",
    "ScheduleGrid",
    "Solution",
    "SolveStatus",
    "StrategyComparison",
    "TWAPStrategy",
    "VWAPStrategy",
    "VWAPTrackingStrategy",
    "calibrate_ac_params",
    "convexity_limit",
    "cost_and_variance",
    "decay_rate",
    "effective_eta",
    "efficient_frontier",
    "fixed_grid",
    "generate_ac_trajectory",
    "generate_ac_volume_time_trajectory",
    "generate_market_order_trajectory",
    "generate_pov_trajectory",
    "generate_twap_trajectory",
    "generate_vwap_tracking_trajectory",
    "generate_vwap_trajectory",
    "half_life",
    "implied_average_price",
    "kkt_residual",
    "linear_shapes",
    "market_problem",
    "plot_frontier",
    "replan",
    "risk_aversion_from_cost",
    "risk_aversion_from_cost_bps",
    "risk_aversion_from_decay_time",
    "risk_aversion_from_half_life",
    "risk_aversion_from_lvar",
    "risk_aversion_from_share_done",
    "risk_aversion_from_urgency",
    "risk_figures",
    "rule_parameters",
    "schedule_cost",
    "schedule_order",
    "solve",
    "solve_grid",
    "solve_linear_grid",
]


def __getattr__(name: str) -> Any:
    """`StrategyComparison` on demand: it alone needs pandas."""
    if name == "StrategyComparison":
        from tributary_opt.optimization.comparison import StrategyComparison

        return StrategyComparison
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
