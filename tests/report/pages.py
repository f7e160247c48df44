"""Nights made up for the tests and the benchmark of the report: any number of markets, solved for real."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd

from tributary_opt import schema
from tributary_opt.night import NightReport, Plan
from tributary_opt.precompute import precompute
from tributary_opt.report.page import History
from tributary_opt.settings import Grid
from tributary_opt.storage.releases import Outcome, Run

DAY = date(2026, 3, 4)
NASTY = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'; DROP TABLE x; --"
)


def made_night(n_markets: int = 60, grid: Grid = Grid(), *, solved: bool = True) -> NightReport:
    """Every tenth market is refused; the first one's name is an attack."""
    rng = np.random.default_rng(6)
    names = [NASTY, *(f"KX-MADE-{i:05d}" for i in range(1, n_markets))]
    refused = np.arange(n_markets) % 10 == 9
    columns: dict[str, object] = {}
    for c in schema.PARAMETERS.columns:
        if c.type == "DOUBLE":
            columns[c.name] = rng.uniform(0.1, 0.9, n_markets)
        elif c.type in ("INT", "LONG"):
            columns[c.name] = rng.integers(1, 500, n_markets)
        elif c.type == "DOUBLE[]":
            columns[c.name] = list(rng.dirichlet(np.full(24, 3.0), n_markets))
        elif c.type == "TIMESTAMP":
            columns[c.name] = pd.Timestamp(DAY, tz="UTC")
        else:
            columns[c.name] = "word"
    rng = np.random.default_rng(4)  # anew: a new column moves no number of a market
    adv, price = rng.lognormal(9.0, 1.5, n_markets), rng.uniform(0.1, 0.9, n_markets)
    spread = 0.01 * rng.uniform(1, 3, n_markets)
    profiles = list(rng.dirichlet(np.full(24, 3.0), n_markets))
    profiles[3::20] = [None] * len(profiles[3::20])
    sessions = np.arange(n_markets) % 5 == 1
    resolution = pd.Series(pd.NaT, index=range(n_markets), dtype="datetime64[us, UTC]")
    resolution[np.arange(n_markets) % 7 == 6] = pd.Timestamp(DAY, tz="UTC") + pd.Timedelta(hours=36)
    columns |= {
        "market_id": names, "token_id": names, "status": np.where(refused, "refused", "ok"),
        "reason": np.where(refused, "too_few_trades", None), "detail": np.where(refused, "4 trades, need 30", None),
        "grade": np.where(refused, None, rng.choice([*"ABCD"], n_markets)), "grade_reason": "made up",
        "kind": "price", "calendar": np.where(sessions, "XNYS", "24/7"), "day_hours": np.where(sessions, 6.5, 24.0),
        "contract_multiplier": rng.choice([1.0, 50.0], n_markets),
        "resolution_time": resolution,
        "adv": adv, "price": price, "spread": spread, "sigma": price * rng.uniform(0.02, 0.2, n_markets),
        "epsilon": spread / 2, "eta": spread / (0.01 * adv), "gamma": spread / (0.10 * adv),
        "reference_rate": 0.01 * adv,
        "alpha": np.where(np.arange(n_markets) % 3, rng.uniform(0.4, 0.9, n_markets), np.nan),
        "volume_profile_week": [None] * n_markets, "volume_profile": profiles,
        "variance_profile": list(rng.dirichlet(np.full(24, 3.0), n_markets)),
    }  # fmt: skip
    for minutes in schema.IMPACT_BUCKETS:
        columns[f"response_{minutes}m"] = columns["gamma"] * rng.uniform(0.5, 2, n_markets)
        columns[f"response_{minutes}m_se"] = 0.2 * columns["gamma"] * np.sqrt(minutes / 5)
    for name in ("eta", "sigma", "gamma", "epsilon"):
        known = np.asarray(columns[name], dtype=float)
        columns |= {
            f"{name}_{end}": known * by for end, by in (("low", 0.7), ("high", 1.4)) if f"{name}_{end}" in columns
        }
        if f"{name}_se" in columns:
            columns[f"{name}_se"] = 0.15 * known
    columns["source_jump"] = np.full(n_markets, None, dtype=object)
    columns["source_jump"][:3] = [f"split on 2026-02-{day}: price x0.1, trade size x10" for day in (12, 20, 15)]
    columns["eta_drift_z"] = np.where(np.arange(n_markets) == 4, -5.0, 0.5)
    parameters = pd.DataFrame(columns).drop(columns=["as_of", "run_id"])
    numbers = [c.name for c in schema.PARAMETERS.columns if c.type == "DOUBLE" and c.name in parameters]
    parameters.loc[refused, [n for n in numbers if n not in ("day_hours", "contract_multiplier")]] = np.nan
    plan = Plan(DAY, datetime(2026, 3, 5, tzinfo=UTC), date(2026, 2, 3), (DAY,), 7)
    chosen = {"grid": grid.model_dump(mode="json")}
    run = Run(DAY, "0123456789abcdef", "whole", plan.window_start, plan.started_at, chosen, "", "", "0.1.0", "", "", "")
    run = replace(run, n_markets=n_markets, n_ok=int((~refused).sum()), source_trades=123_456, days_read=1)
    trajectories = precompute(parameters, grid, DAY) if solved else pd.DataFrame()
    before = parameters.assign(
        eta=parameters["eta"] * rng.uniform(0.8, 1.2, n_markets), sigma=parameters["sigma"] * 1.01
    )
    timings = {"plan": 0.4, "observe": 12.5, "calibrate": 6.1, "precompute": 4.2, "publish": 9.9}
    return NightReport(
        plan, Outcome(run.run_id, DAY, True, "current", {}), run, parameters, trajectories, before, timings
    )


def made_history(night: NightReport, n: int = 9) -> History:
    """The same markets over the nights before, wandering; one night's file is gone."""
    rng, parts = np.random.default_rng(7), []
    for i in range(n, 0, -1):
        rows = night.parameters[["market_id", "token_id"]].copy()
        for name in ("sigma", "epsilon", "eta", "gamma"):
            rows[name] = night.parameters[name] * rng.uniform(0.8, 1.2, len(rows))
            rows[f"{name}_low"], rows[f"{name}_high"] = 0.8 * rows[name], 1.3 * rows[name]
        parts.append(rows.assign(as_of=f"{date.fromordinal(DAY.toordinal() - i)}", run_id="f" * 16))
    return History(pd.concat(parts, ignore_index=True), ("2026-02-01 (run 00): its file is gone",))
