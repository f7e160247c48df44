"""Optimal execution schedules for every market of a QuestDB, calibrated and published once a night.

The names below are the numerical API; they need numpy alone (`StrategyComparison` loads pandas when it is asked for).
The rest of the package is imported by its rooms: ``tributary_opt.market_data``, ``calibration``, ``storage``, ….
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tributary_opt.calibration.impact import (
        CalibrationResult,
        ImpactEstimate,
        calibrate_impact_parameters,
        estimate_market_impact,
    )
    from tributary_opt.optimization import (
        AlmgrenChrissCappedStrategy,
        AlmgrenChrissParams,
        AlmgrenChrissStrategy,
        AlmgrenChrissVolumeTimeStrategy,
        ExecutionStrategy,
        ExecutionTrajectory,
        InfeasibleSchedule,
        MarketOrderStrategy,
        POVStrategy,
        StrategyComparison,
        TWAPStrategy,
        VWAPStrategy,
        VWAPTrackingStrategy,
        calibrate_ac_params,
        generate_ac_trajectory,
        generate_ac_volume_time_trajectory,
        generate_market_order_trajectory,
        generate_pov_trajectory,
        generate_twap_trajectory,
        generate_vwap_tracking_trajectory,
        generate_vwap_trajectory,
        implied_average_price,
        schedule_order,
    )

try:
    __version__ = version("tributary-opt")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "AlmgrenChrissCappedStrategy",
    "AlmgrenChrissParams",
    "AlmgrenChrissStrategy",
    "AlmgrenChrissVolumeTimeStrategy",
    "CalibrationResult",
    "ExecutionStrategy",
    "ExecutionTrajectory",
    "ImpactEstimate",
    "InfeasibleSchedule",
    "MarketOrderStrategy",
    "POVStrategy",
    "StrategyComparison",
    "TWAPStrategy",
    "VWAPStrategy",
    "VWAPTrackingStrategy",
    "__version__",
    "calibrate_ac_params",
    "calibrate_impact_parameters",
    "estimate_market_impact",
    "generate_ac_trajectory",
    "generate_ac_volume_time_trajectory",
    "generate_market_order_trajectory",
    "generate_pov_trajectory",
    "generate_twap_trajectory",
    "generate_vwap_tracking_trajectory",
    "generate_vwap_trajectory",
    "implied_average_price",
    "schedule_order",
]


def __getattr__(name: str) -> Any:
    """The names on demand: half a second of numpy and solvers that `tributary-opt --help` has no use for."""
    if name in __all__:
        from tributary_opt import optimization
        from tributary_opt.calibration import impact

        return getattr(optimization if hasattr(optimization, name) else impact, name)
    if name in ("optimization", "calibration"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
