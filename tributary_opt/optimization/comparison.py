"""Strategies side by side, on one order and one cost model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tributary_opt.optimization.trajectory import ExecutionTrajectory

__all__ = ["StrategyComparison"]

# Shares of the same volumes in another unit differ by this at most.
_ROUNDING = 1e-12
# What must agree before two costs may stand in one table.
_ONE_MODEL = (
    "tau",
    "permanent",
    "impact_law",
    "alpha",
    "reference_rate",
    "side",
    "eta",
    "gamma",
    "sigma",
    "epsilon",
    "price",
)


@dataclass(frozen=True)
class StrategyComparison:
    """Schedules of one order by several strategies, and how they differ from one of them.

    Parameters
    ----------
    strategies : sequence of ExecutionTrajectory
        At least one, all of the same order, horizon, market and conventions.
    baseline_strategy : str or ExecutionTrajectory
        The one the others are compared with: its ``strategy_name``, or itself where several have that name.

    Raises
    ------
    TypeError
        For something that is no trajectory.
    ValueError
        Where order sizes, horizons, step lengths, parameters, conventions or the costs' volume profiles differ
        (a market order, done in its first
        slice, may be of any horizon), or where the baseline is not one of them or its name is that of several.
    """

    strategies: Sequence[ExecutionTrajectory]
    baseline_strategy: str | ExecutionTrajectory = "twap"

    def __post_init__(self) -> None:
        object.__setattr__(self, "strategies", tuple(self.strategies))
        for trajectory in self.strategies:
            if not isinstance(trajectory, ExecutionTrajectory):
                raise TypeError(f"strategies must be ExecutionTrajectory, got {type(trajectory).__name__}")
        self._baseline()
        self._must_agree("order_size", [float(t.holdings[0]) for t in self.strategies])
        longer = [t for t in self.strategies if t.strategy_name != "market_order"]
        self._must_agree("horizon (steps)", [len(t.trade_sizes) for t in longer])
        for key in _ONE_MODEL:
            self._must_agree(key, [t.params.get(key) for t in self.strategies])
        self._must_cost_on_one_profile()

    def _baseline(self) -> ExecutionTrajectory:
        wanted = self.baseline_strategy
        found = [t for t in self.strategies if t is wanted or t.strategy_name == wanted]
        if len(found) != 1:
            have = ", ".join(t.strategy_name for t in self.strategies) or "none"
            raise ValueError(
                f"baseline_strategy must name exactly one of: {have}; got {getattr(wanted, 'strategy_name', wanted)!r} "
                "(where a name is shared, give the trajectory itself)"
            )
        return found[0]

    def _must_cost_on_one_profile(self) -> None:
        """Shares of volume to their rounding: the same volumes in another unit are the same profile."""
        costed = [t for t in self.strategies if "volume_profile" in t.params]  # what is refused has no cost
        profiles = [np.array(t.params["volume_profile"] or [1.0]) for t in costed]
        for i, shares in enumerate(profiles):
            if np.allclose(shares * len(shares), 1.0, rtol=_ROUNDING, atol=0.0):
                profiles[i] = np.ones(1)  # flat, which is what costs without a profile are
        for t, shares in zip(costed, profiles, strict=True):
            first = profiles[0]
            if shares.shape != first.shape or not np.allclose(shares, first, rtol=_ROUNDING, atol=0.0):
                raise ValueError(
                    f"all strategies of a comparison must share volume_profile: {costed[0].strategy_name} and "
                    f"{t.strategy_name} are costed on different ones; give the same to all"
                )

    @staticmethod
    def _must_agree(key: str, values: Sequence[object]) -> None:
        known = {v for v in values if not (v is None or (isinstance(v, float) and math.isnan(v)))}
        if len(known) > 1:
            raise ValueError(f"all strategies of a comparison must share {key}, got {sorted(map(str, known))}")

    def summary_table(self) -> pd.DataFrame:
        """One row a strategy, in the order given.

        Returns
        -------
        DataFrame
            ``strategy``; ``risk_aversion`` [1/currency]; ``expected_cost_bps`` and ``cost_std_bps``, √V, of arrival
            notional [bps]; ``num_slices``, those that trade [-]; ``max_slice_pct``, the largest in % of the order;
            ``front_loaded``, whether half of the order is done before half of the horizon;
            ``difference_to_baseline_bps``, in expected cost [bps]; ``residual_pct``, what is left at the end in % of
            the order: its cost is that of the part traded, so that its difference is NaN where the baseline leaves
            another part. NaN where a cost is unknown.
        """
        n_steps = max(len(t.trade_sizes) for t in self.strategies)
        table = pd.DataFrame([_row(t, n_steps) for t in self.strategies])
        baseline = self._baseline()
        difference = table["expected_cost_bps"] - baseline.total_cost_estimate
        alike = np.abs(table["residual_pct"] - _residual_pct(baseline)) <= 100.0 * _ROUNDING
        table.insert(len(table.columns) - 1, "difference_to_baseline_bps", difference.where(alike))
        return table


def _residual_pct(trajectory: ExecutionTrajectory) -> float:
    return float(trajectory.holdings[-1] / trajectory.holdings[0] * 100)


def _row(trajectory: ExecutionTrajectory, n_steps: int) -> dict[str, object]:
    p, size = trajectory.params, float(trajectory.holdings[0])
    horizon = n_steps * float(trajectory.timestamps[1])
    price = p.get("price", math.nan)
    return {
        "strategy": trajectory.strategy_name,
        "risk_aversion": trajectory.risk_aversion,
        "expected_cost_bps": trajectory.total_cost_estimate,
        "cost_std_bps": math.sqrt(p.get("cost_variance", math.nan)) / size / price * 1e4,
        "num_slices": int(np.count_nonzero(trajectory.trade_sizes > 0)),
        "max_slice_pct": float(trajectory.trade_sizes.max() / size * 100),
        # Rounding of the half-life must not make TWAP look front-loaded.
        "front_loaded": bool(p.get("half_life", math.nan) < 0.5 * horizon * (1 - 1e-14)),
        "residual_pct": _residual_pct(trajectory),
    }
