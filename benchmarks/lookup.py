"""One market's schedules from the published Parquet, against opening the file and reading one row group by hand.

    python benchmarks/lookup.py [--markets 5000] [--lookups 200] [--folder FOLDER]

Writes a generated release of the default grid, no two markets alike, then looks up random points in several ways,
alternately, the system's caches warm: by hand, `read_market`, a book opened for it, a book that has read nothing of the
market yet, and the same book again, another point each time. Then 10,000 orders in one call: when nothing has been read
(beside it, what reading those row groups by hand takes), again, and none of them a point of the grid. Last, processes
that do one lookup and end, imports included, of a market that never closes and of an exchange's, whose calendar is made
first. `--folder` keeps the release for the next time.

5,000 markets on two idle cores with AVX-512: by hand p95 9 to 11 ms; the book opened for it 1.9 to 2.0 of that, cold
0.8 to 1.0, warm 0.14 to 0.21 ms in the median and 0.29 at p95, an order that is not published 0.84 and 0.95 ms. 10,000
orders the first time 0.29 s, again 0.04 s, none of them published 0.05 s; reading market_id and remaining of the same
row groups by hand took 0.8 to 1.1 s. A process for one lookup: by hand 0.18 s, 24/7 0.32 s, XNYS 0.80 s. On slower
cores all of it takes about twice as long, in the same ratios.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
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
URGENCIES = (0.0, 0.5, 1.0, 3.0, 10.0)
RUN_ID = "a" * 16


def varied(n: int) -> Iterator[dict[str, Any]]:
    """Markets of all sizes and prices, two calendars, nine in ten with hours of the day."""
    rng = np.random.default_rng(7)
    adv, price = rng.lognormal(9.0, 1.5, n), rng.lognormal(3.0, 1.0, n)
    spread, sigma = price * rng.uniform(2e-4, 4e-3, n), price * rng.uniform(0.005, 0.08, n)
    volume, variance = rng.dirichlet(np.full(24, 3.0), n), rng.dirichlet(np.full(24, 6.0), n)
    for i in range(n):
        v, s = float(adv[i]), float(spread[i])
        yield market(
            f"market-{i:06d}",
            f"token-{i:06d}",
            calendar="24/7" if i % 3 else "XNYS",
            **{"adv": v, "price": float(price[i]), "spread": s, "sigma": float(sigma[i]), "reference_rate": 0.01 * v},
            **{"eta": s / (0.01 * v), "gamma": s / (0.10 * v), "epsilon": s / 2},
            volume_profile=volume[i] if i % 10 else None,
            variance_profile=variance[i] if i % 10 else None,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markets", type=int, default=5_000)
    parser.add_argument("--lookups", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = chosen.folder or Path(folder)
        if not (root / parquet.MANIFEST).exists():
            publish(root, RUN_ID, markets=tuple(varied(chosen.markets)), grid=Grid())
        measure(root, chosen.lookups)


def measure(root: Path, lookups: int) -> None:
    path = root / parquet.release_file(schema.TRAJECTORIES, AS_OF, RUN_ID)
    with pq.ParquetFile(path) as file:
        groups = file.num_row_groups
        grid = file.read(columns=["market_id", "strategy", "size_ix", "order_size"])
    points = grid.filter(pc.equal(grid["strategy"], "twap")).to_pandas()
    ids, n_sizes = points["market_id"].unique().tolist(), points["size_ix"].max() + 1
    sizes, per_market = points["order_size"].to_numpy().reshape(len(ids), n_sizes), grid.num_rows // len(ids)
    rng = random.Random(1)
    now = datetime(2026, 3, 4, 2, 30, tzinfo=UTC)

    def point(i: int) -> tuple[str, float, float]:
        return ids[i], float(rng.choice(sizes[i])), rng.choice(URGENCIES)

    def by_hand(i: int) -> None:
        with pq.ParquetFile(path) as file:
            file.read_row_group(min(int(i * groups / len(ids)), groups - 1))

    def read_market(i: int) -> None:
        assert parquet.read_market(root, schema.TRAJECTORIES, ids[i]).num_rows == per_market

    cold = ScheduleBook.open(root, clock=lambda: now)

    def look(i: int) -> None:
        name, size, urgency = point(i)
        assert cold.schedule(name, size, urgency=urgency).params["source"] == "published"

    def between(i: int) -> None:
        name, size, urgency = point(i)
        assert cold.schedule(name, size * 0.9, urgency=urgency).params["source"] == "solved"

    def opened(i: int) -> None:
        name, size, urgency = point(i)
        ScheduleBook.open(root, clock=lambda: now).schedule(name, size, urgency=urgency)

    took: dict[str, list[float]] = {}
    ways: list[tuple[str, Callable[[int], None]]] = [("by hand", by_hand), ("read_market", read_market)]
    ways += [("book, opened for it", opened), ("book, cold", look), ("book, warm", look)]
    ways += [("book, warm, between", between)]
    for i in rng.choices(range(len(ids)), k=lookups):
        cold._snapshot._rows._read.clear()  # type: ignore[attr-defined]
        cold._snapshot._parameters._portions.clear()  # type: ignore[attr-defined]
        cold._snapshot._known.clear()
        for name, way in ways:
            start = time.perf_counter()
            way(i)
            took.setdefault(name, []).append(time.perf_counter() - start)

    floor = np.quantile(took["by hand"], 0.95)
    title = f"{len(ids):,} markets, {path.stat().st_size / 1e6:.0f} MB, {groups} row groups"
    shown = Table("", "median ms", "p95 ms", "p95 / by hand", title=title)
    for name, times in took.items():
        p95 = np.quantile(times, 0.95)
        shown.add_row(name, f"{statistics.median(times) * 1e3:.2f}", f"{p95 * 1e3:.2f}", f"{p95 / floor:.2f}")
    Console().print(shown)

    some = rng.sample(range(len(ids)), min(500, len(ids) // 2))
    asked = [point(rng.choice(some)) for _ in range(MANY)]
    orders = pd.DataFrame(asked, columns=["market_id", "order_size", "urgency"])
    off = orders.assign(order_size=orders["order_size"] * 0.9)
    book, needed = ScheduleBook.open(root, clock=lambda: now), sorted({int(i * groups / len(ids)) for i in some})
    start = time.perf_counter()
    with pq.ParquetFile(path) as file:
        file.read_row_groups(needed, columns=["market_id", "remaining"])
    Console().print(f"{len(needed)} row groups, market_id and remaining by hand: {time.perf_counter() - start:.2f} s")
    again = {"first time": orders, "again": orders, "none of them published": off}
    for name, these in again.items():
        times = []
        for _ in range(1 if name == "first time" else 5):
            start = time.perf_counter()
            found = book.schedules(these)
            times.append(time.perf_counter() - start)
        assert found["refused"].isna().all()
        assert set(found["source"]) == {"solved" if these is off else "published"}
        Console().print(f"{MANY:,} orders in {len(some)} markets, {name}: {statistics.median(times):.3f} s")
    measure_processes(root, path, ids)


def measure_processes(root: Path, path: Path, ids: list[str]) -> None:
    by_hand = f"import pyarrow.parquet as pq; pq.ParquetFile({str(path)!r}).read_row_group(0)"
    book = f"""
from tributary_opt.schedule_book import ScheduleBook
ScheduleBook.open({str(root)!r}).schedule(%r, 1e-3, urgency=1.0, max_age=1e9)"""
    ways = {"by hand": by_hand, "24/7": book % ids[1], "XNYS": book % ids[0]}
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(7):
        for name, code in ways.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            took[name].append(time.perf_counter() - start)
    for name, times in took.items():
        Console().print(f"a process for one lookup, {name}: {statistics.median(times):.2f} s")


if __name__ == "__main__":
    main()
