"""One market's schedules from the published Parquet, against opening the file and reading one row group by hand.

    python benchmarks/lookup.py [--markets 5000] [--lookups 200]

Writes a generated release of the default grid, then looks up random markets both ways, alternately, caches warm.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from tributary_opt import schema
from tributary_opt.precompute import precompute
from tributary_opt.settings import Grid
from tributary_opt.storage import parquet
from tributary_opt.storage.frames import canonical

AS_OF, RUN_ID = date(2026, 3, 2), "0" * 16


def release(root: Path, n_markets: int) -> list[str]:
    """A release of markets with made-up parameters; returns their ids."""
    rng = np.random.default_rng(1)
    ids = [f"market-{i:06d}" for i in range(n_markets)]
    price = rng.uniform(1, 100, n_markets)
    adv = rng.uniform(1e3, 1e6, n_markets)
    parameters = pd.DataFrame({"market_id": ids, "token_id": ids, "status": "ok", "kind": "price", "calendar": "24/7"})
    parameters = parameters.assign(day_hours=24.0, contract_multiplier=1.0, price=price, adv=adv, epsilon=0.001 * price)
    parameters = parameters.assign(eta=0.2 * price / adv, gamma=0.02 * price / adv, sigma=0.02 * price)
    parameters["resolution_time"] = pd.Series(pd.NaT, index=parameters.index, dtype="datetime64[us, UTC]")
    rows = precompute(parameters, Grid(), AS_OF).assign(as_of=pd.Timestamp(AS_OF, tz="UTC"), run_id=RUN_ID)
    table = canonical(schema.TRAJECTORIES, rows).cast(schema.TRAJECTORIES.arrow_schema())
    path = parquet.write_release_file(root, schema.TRAJECTORIES, table, AS_OF, RUN_ID)
    parquet.write_manifest(root, {"run_id": RUN_ID, "tables": {schema.TRAJECTORIES.name: {"path": str(path)}}})
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markets", type=int, default=5_000)
    parser.add_argument("--lookups", type=int, default=200)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ids = release(root, chosen.markets)
        path = root / parquet.release_file(schema.TRAJECTORIES, AS_OF, RUN_ID)
        groups = pq.ParquetFile(path).num_row_groups
        per_group = len(ids) / groups
        picks = random.Random(1).choices(range(len(ids)), k=chosen.lookups)

        def by_hand(i: int) -> None:
            with pq.ParquetFile(path) as file:
                file.read_row_group(min(int(i / per_group), groups - 1))

        def ours(i: int) -> None:
            assert parquet.read_market(root, schema.TRAJECTORIES, ids[i]).num_rows == 42

        took: dict[str, list[float]] = {"by hand": [], "ours": []}
        ways: list[tuple[str, Callable[[int], None]]] = [("by hand", by_hand), ("ours", ours)]
        for i in picks:
            for name, look in ways:
                start = time.perf_counter()
                look(i)
                took[name].append(time.perf_counter() - start)
        shown = Table(
            "",
            "median ms",
            "p95 ms",
            title=f"{len(ids):,} markets, {path.stat().st_size / 1e6:.0f} MB, {groups} row groups",
        )
        for name, times in took.items():
            shown.add_row(name, f"{statistics.median(times) * 1e3:.2f}", f"{np.quantile(times, 0.95) * 1e3:.2f}")
        ratio = statistics.median(took["ours"]) / statistics.median(took["by hand"])
        shown.add_row(
            "ratio", f"{ratio:.2f}", f"{np.quantile(took['ours'], 0.95) / np.quantile(took['by hand'], 0.95):.2f}"
        )
        Console().print(shown)


if __name__ == "__main__":
    main()
