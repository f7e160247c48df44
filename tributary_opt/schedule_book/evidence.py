"""Why this number: from the source's rows to a market's cost, each line with its unit and its meaning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from tributary_opt import schema
from tributary_opt.schedule_book.book import ScheduleBook, resolve
from tributary_opt.schedule_book.grid import BookError, Market
from tributary_opt.schedule_book.hull import OPTIMAL

_CHAIN = (
    ("source", ("run_id", "as_of")),
    ("source", ("window_start", "window_end", "n_days", "n_days_traded", "n_trades", "n_bad_trades", "n_snapshots")),
    ("source", ("two_sided_share", "signed_share", "coverage", "last_trade_at", "last_snapshot_at", "source_jump")),
    ("statistics", ("adv", "price", "spread", "sigma", "effective_spread", "overnight_sd")),
    ("parameters", ("epsilon", "eta", "gamma", "alpha", "reference_rate")),
)
_VERDICT = ("status", "reason", "detail", "grade", "grade_reason", "method", "strength")
_DRIFT = tuple(c.name for c in schema.PARAMETERS.columns if c.name.endswith("_drift_z"))
_COSTS = (
    *("cost_law_bps", "cost_tape_bps", "cost_rule_bps", "cost_square_root_bps", "model_risk"),
    *("walk_size", "walk_share", "walk_cost", "walk_half_spreads", "cost_walk_bps", "walk_reason"),
)
_SOURCES = {
    **{"price": "price_source", "spread": "spread_source", "sigma": "sigma_source"},
    **{"epsilon": "spread_source", "eta": "method", "gamma": "method"},
}
"""The column that says how a figure was got."""
_SCHEDULE = ("order_size", "urgency", "kappa", "decay_time", "half_life", "expected_cost_bps", "cost_sd_bps")


def explain(book: ScheduleBook, market_id: str, token_id: str | None = None) -> pd.DataFrame:
    """The chain of evidence of one market: source → statistics → parameters → schedule → cost by every law.

    Returns
    -------
    DataFrame
        A row a quantity: stage, name, value, low, high (± 1.96 standard errors, or the row's own interval), how it was
        got, unit, meaning as `schema` has them, `before`, its value in the release that was current before, and
        `change_pct`, by how much it has changed since [%].
    """
    snapshot, key = resolve(book, market_id, token_id)
    row = snapshot.evidence(key)
    before: dict[str, Any] = {}
    schedules_before = None
    try:
        before, schedules_before = snapshot.before(key)
    except BookError as error:  # what is current is sound, and what it was before is not worth losing it
        before = {"run_id": str(error)}
    of_market, of_schedule = ({c.name: c for c in t.columns} for t in (schema.PARAMETERS, schema.TRAJECTORIES))
    found: list[dict[str, Any]] = []

    def add(stage: str, name: str, values: dict[str, Any], earlier: dict[str, Any]) -> None:
        if name not in values:
            return
        value, column = values[name], (of_schedule if stage == "schedule" else of_market)[name]
        low, high = _interval(values, name)
        how = values.get(_SOURCES.get(name, ""))
        line = {"stage": stage, "name": name, "value": value, "low": low, "high": high, "unit": column.unit}
        was = earlier.get(name)
        change = (value / was - 1) * 100 if isinstance(value, float) and isinstance(was, float) and was else math.nan
        found.append({**line, "how": how, "before": was, "change_pct": change, "meaning": column.meaning})

    for stage, names in _CHAIN:
        for name in names:
            add(stage, name, row, before)
    for name in _VERDICT:
        add("verdict", name, row, before)
    for name in _DRIFT:
        add("drift", name, row, {})
    if row["status"] == "ok":
        middle = _middle(snapshot.market(key))
        was = {} if schedules_before is None else _middle(schedules_before)
        same = all(middle.get(name) == was.get(name) for name in ("strategy", "urgency", "horizon", "n_steps"))
        for name in _SCHEDULE if middle else ():
            add("schedule", name, middle, was if same else {})
        for name in _COSTS:
            add("cost", name, row, before)
    frame = pd.DataFrame(found).astype({"value": object, "before": object})
    return frame.where(frame.notna(), None)


def _interval(row: dict[str, Any], name: str) -> tuple[float, float]:
    """The row's own interval, or 1.96 standard errors to either side; NaN where neither is known."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is not None and high is not None:
        return low, high
    value, error = row[name], row.get(f"{name}_se")
    if value is None or error is None:
        return math.nan, math.nan
    return value - 1.96 * error, value + 1.96 * error


def _middle(market: Market) -> dict[str, Any]:
    """The middle of the grid: one optimal schedule to show κ, decay time and cost by."""
    block, mine = market.block, slice(market.first, market.end)
    shown = block.optimal[mine] & (block.number["risk_ix"][mine] >= 0) & (block.number["urgency"][mine] > 0)
    for strategy in OPTIMAL:
        rows = np.flatnonzero(shown & block.has("strategy", strategy)[mine])
        if len(rows):
            return block.row(market.first + int(rows[len(rows) // 2]))
    return {}
