"""Why this number: from the source's rows to a market's cost, each line with its unit and its meaning."""

from __future__ import annotations

import contextlib
import math
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from tributary_opt import schema
from tributary_opt.schedule_book.book import ScheduleBook, resolve
from tributary_opt.storage import parquet

_CHAIN = (
    ("source", ("window_start", "window_end", "n_days", "n_days_traded", "n_trades", "n_bad_trades", "n_snapshots")),
    ("source", ("two_sided_share", "signed_share", "coverage", "last_trade_at", "last_snapshot_at")),
    ("statistics", ("adv", "price", "spread", "sigma", "effective_spread", "overnight_sd")),
    ("parameters", ("epsilon", "eta", "gamma", "alpha", "reference_rate")),
)
_VERDICT = ("status", "reason", "detail", "grade", "method")
_SOURCES = {"price": "price_source", "spread": "spread_source", "sigma": "sigma_source"}
_SCHEDULE = ("order_size", "urgency", "kappa", "decay_time", "half_life", "expected_cost_bps", "cost_sd_bps")


def explain(book: ScheduleBook, market_id: str, token_id: str | None = None) -> pd.DataFrame:
    """The chain of evidence of one market: source → statistics → parameters → schedule → cost.

    Returns
    -------
    DataFrame
        A row a quantity: stage, name, value, low, high (± 1.96 standard errors, or the row's own interval), how it was
        got, unit, meaning as `schema` has them, and `before`, its value in the run before, where that is at hand.
    """
    snapshot, key = resolve(book, market_id, token_id)
    row = snapshot.parameters(key)
    before = _row_before(snapshot.root, snapshot.as_of, key)
    meanings = {c.name: c for c in (*schema.TRAJECTORIES.columns, *schema.PARAMETERS.columns)}
    found: list[dict[str, Any]] = []

    def add(stage: str, name: str, values: dict[str, Any], earlier: dict[str, Any]) -> None:
        if name not in values:
            return
        value, column = values[name], meanings[name]
        low, high = _interval(values, name)
        how = values.get(_SOURCES.get(name, "")) or (values.get("method") if stage == "parameters" else None)
        line = {"stage": stage, "name": name, "value": value, "low": low, "high": high, "unit": column.unit}
        found.append({**line, "how": how, "before": earlier.get(name), "meaning": column.meaning})

    for stage, names in _CHAIN:
        for name in names:
            add(stage, name, row, before)
    for name in _VERDICT:
        add("verdict", name, row, before)
    if row["status"] == "ok":
        middle = _middle(snapshot.market(key).rows)
        for name in _SCHEDULE if middle else ():
            add("schedule", name, middle, {})
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


def _middle(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The middle of the grid: one Almgren-Chriss schedule to show κ, decay time and cost by."""
    optimal = [r for r in rows if r["risk_ix"] >= 0 and r["status"] != "infeasible" and r["urgency"]]
    return optimal[len(optimal) // 2] if optimal else {}


def _row_before(root: Path | None, as_of: date, key: tuple[str, str]) -> dict[str, Any]:
    """The market's row in the newest earlier day below the Parquet root; empty where there is none."""
    if root is None:
        return {}
    folder = root / schema.PARAMETERS.name
    for day in sorted((p for p in folder.glob("as_of=*") if p.name < f"as_of={as_of:%Y-%m-%d}"), reverse=True):
        for run in sorted(day.glob("run_id=*"), key=lambda p: p.stat().st_mtime, reverse=True):
            with contextlib.suppress(FileNotFoundError, pa.ArrowException, OSError):
                earlier = date.fromisoformat(day.name.removeprefix("as_of="))
                rows = parquet.read_release_file(root, schema.PARAMETERS, earlier, run.name.removeprefix("run_id="))
                keys = list(zip(rows["market_id"].to_pylist(), rows["token_id"].to_pylist(), strict=True))
                if key in keys:
                    return dict(rows.slice(keys.index(key), 1).to_pylist()[0])
    return {}
