"""One market's schedules from the published Parquet, against opening the file and reading one row group by hand.

    python benchmarks/lookup.py [--markets 5000] [--lookups 200]

Writes a generated release of the default grid, then looks up random markets in three ways, alternately, the system's
caches warm: by hand, `read_market`, and a schedule book that has read nothing of the market yet. Then the same book
warm, and 10,000 orders in one call.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from tributary_opt import schema
from tributary_opt.schedule_book import ScheduleBook
from tributary_opt.settings import Grid
from tributary_opt.storage import parquet

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from book_release import AS_OF, market, publish

MANY = 10_000
RUN_ID = "a" * 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markets", type=int, default=5_000)
    parser.add_argument("--lookups", type=int, default=200)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ids = [f"market-{i:06d}" for i in range(chosen.markets)]
        made = publish(root, RUN_ID, markets=tuple(market(name) for name in ids), grid=Grid())
        per_market, sizes = len(made) // len(ids), sorted(set(made["order_size"]))
        path = root / parquet.release_file(schema.TRAJECTORIES, AS_OF, RUN_ID)
        groups = pq.ParquetFile(path).num_row_groups
        per_group = len(ids) / groups
        rng = random.Random(1)
        picks = rng.choices(range(len(ids)), k=chosen.lookups)
        now = datetime(2026, 3, 4, 2, 30, tzinfo=UTC)

        def by_hand(i: int) -> None:
            with pq.ParquetFile(path) as file:
                file.read_row_group(min(int(i / per_group), groups - 1))

        def read_market(i: int) -> None:
            assert parquet.read_market(root, schema.TRAJECTORIES, ids[i]).num_rows == per_market

        cold = ScheduleBook.open(root, clock=lambda: now)

        def book_cold(i: int) -> None:
            assert cold.schedule(ids[i], sizes[2], urgency=3.0).params["source"] == "published"

        def forget() -> None:
            snapshot = cold._snapshot
            snapshot._markets.clear()
            snapshot._rows._read.clear()  # type: ignore[attr-defined]

        took: dict[str, list[float]] = {}
        ways: list[tuple[str, Callable[[int], None]]] = [("by hand", by_hand), ("read_market", read_market)]
        ways += [("book, cold", book_cold), ("book, warm", book_cold)]
        for i in picks:
            forget()
            for name, look in ways:
                start = time.perf_counter()
                look(i)
                took.setdefault(name, []).append(time.perf_counter() - start)

        floor = np.quantile(took["by hand"], 0.95)
        title = f"{len(ids):,} markets, {path.stat().st_size / 1e6:.0f} MB, {groups} row groups"
        shown = Table("", "median ms", "p95 ms", "p95 / by hand", title=title)
        for name, times in took.items():
            p95 = np.quantile(times, 0.95)
            shown.add_row(name, f"{statistics.median(times) * 1e3:.2f}", f"{p95 * 1e3:.2f}", f"{p95 / floor:.2f}")
        Console().print(shown)

        book = ScheduleBook.open(root, clock=lambda: now)
        some = rng.sample(ids, 500)
        orders = pd.DataFrame({"market_id": rng.choices(some, k=MANY), "order_size": rng.choices(sizes, k=MANY)})
        orders["urgency"] = rng.choices([0.0, 0.5, 1.0, 3.0, 10.0], k=MANY)
        between = orders.assign(order_size=orders["order_size"] * 0.9)
        for name, asked in (("first time", orders), ("again", orders), ("none of them published", between)):
            start = time.perf_counter()
            found = book.schedules(asked)
            seconds = time.perf_counter() - start
            assert found["refused"].isna().all()
            Console().print(f"{MANY:,} orders in {len(some)} markets, {name}: {seconds:.2f} s")


if __name__ == "__main__":
    main()
