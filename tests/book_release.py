"""A small generated release on disk, without a server, for those who read releases."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from tributary_opt import schema
from tributary_opt.precompute import precompute
from tributary_opt.settings import Grid
from tributary_opt.storage import parquet
from tributary_opt.storage.frames import canonical
from tributary_opt.storage.releases import Run

AS_OF = date(2026, 3, 3)
NOW = datetime(2026, 3, 4, 2, 30, tzinfo=UTC)
GRID = Grid(horizons=(1.0, 0.25))


def market(name: str, token: str = "t", **changes: Any) -> dict[str, Any]:
    adv, spread = 1e5, 0.02
    row = {name: None for name in schema.PARAMETERS.names if name not in ("as_of", "run_id")}
    row |= {"market_id": name, "token_id": token, "status": "ok", "calendar": "24/7", "day_hours": 24.0}
    row |= {"kind": "price", "adv": adv, "price": 50.0, "sigma": 1.0, "eta": spread / (0.01 * adv)}
    row |= {"gamma": spread / (0.10 * adv), "epsilon": spread / 2, "contract_multiplier": 1.0, "tick_size": 0.01}
    row |= {
        "reference_rate": 0.01 * adv,
        "spread": spread,
        "method": "rule",
        "grade": "B",
        "sigma_se": 0.1,
        "n_days": 30,
    }
    return row | changes


MARKETS = (
    market("ALPHA"),
    market("BETA", calendar="XNYS", day_hours=6.5),
    market("MULTI", contract_multiplier=50.0),
    market("PAIR", "no"),
    market("PAIR", "yes"),
    market("GONE", status="refused", reason="too_few_trades", detail="3 trades", eta=None),
    market("'; DROP TABLE ac_runs; --"),
    market("<script>alert(1)</script>"),
)


@cache
def _night() -> tuple[pd.DataFrame, pd.DataFrame]:
    return rows()


def rows(markets: tuple[dict[str, Any], ...] = MARKETS, grid: Grid = GRID) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Parameters and trajectories, less as_of and run_id."""
    p = pd.DataFrame(list(markets))
    for column in schema.PARAMETERS.columns:
        if column.name in p.columns and column.type == "DOUBLE":
            p[column.name] = p[column.name].astype(float)
        elif column.type == "TIMESTAMP" and column.name in p.columns:
            p[column.name] = pd.to_datetime(p[column.name], utc=True).astype("datetime64[us, UTC]")
        elif column.type in ("INT", "LONG") and column.name in p.columns:
            p[column.name] = p[column.name].astype("Int64")
    return p, precompute(p, grid, AS_OF)


def publish(root: Path, run_id: str = "a" * 16, as_of: date = AS_OF, **made: Any) -> pd.DataFrame:
    """A release as files; returns its trajectories."""
    settings = {"grid": made.get("grid", GRID).model_dump(mode="json")}
    frames = rows(**made) if made else _night()
    told = {}
    for table, frame in zip(schema.RELEASE_TABLES, frames, strict=True):
        keyed = frame.assign(as_of=pd.Timestamp(as_of, tz="UTC"), run_id=run_id)
        arrow = canonical(table, keyed).cast(table.arrow_schema())
        path = parquet.write_release_file(root, table, arrow, as_of, run_id)
        told[table.name] = {"path": path.as_posix(), "rows": arrow.num_rows}
    last = parquet.read_manifest(root)
    of_run = {"run_id": run_id, "as_of": as_of.isoformat()}
    before = last and {name: last[name] for name in ("run_id", "as_of")}
    parquet.write_manifest(root, {**of_run, "before": before, "settings": settings, "tables": told})
    return frames[1]


def run_row(run_id: str = "c" * 16, as_of: date = AS_OF, scope: str = "whole") -> Run:
    """The row of `ac_runs` with which a release is published to QuestDB."""
    names = ("input_digest", "reference_digest", "package_version", "source_digest", "numpy_version")
    facts = dict.fromkeys(names, "x")
    return Run(
        as_of=as_of,
        run_id=run_id,
        scope=scope,
        window_start=as_of - timedelta(days=29),
        started_at=datetime.now(UTC),
        settings={},
        server_version="9.3.4",
        **facts,
    )
