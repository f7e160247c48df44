"""How long a night takes, against its floor: the work that no program could leave out, done once by hand.

    python benchmarks/night.py                   5,000 markets, one new day of 2 M trades and 3 M snapshots
    python benchmarks/night.py --history 30      what a night takes with 1 to 30 days behind it (500 markets)

Floor of a night: its aggregation queries asked by hand, one Sender request with its rows, one read-back over /exp, the
same Parquet written once and fsynced. The flow is timed with a Prefect server up, less an empty flow with as many
tasks. Each repeat is a new run (its settings differ in a figure that changes no row): nothing is known beforehand.

One repeat on two idle cores with AVX-512: flow 65.3 s, empty flow 1.1 s, floor 47.5 s (queries 40.1, requests 5.2, read
back 1.5, Parquet 0.7), ratio 1.35; peak memory of the flow's process 1.34 GiB. With 2,000 markets 23.2 s, 1.42; 18.4 s,
1.43 before flow was held from look to look and pairs were folded in the server. With 30 days behind it a night read one
day, in 1.09 of the time of the first, and took 1.15 of the first night (measured before that).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import questdb
import requests
from rich.console import Console
from rich.table import Table

FIRST_DAY = date(2026, 3, 2)
HTTP = requests.Session()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markets", type=int, help="default 5,000; 500 with --history")
    parser.add_argument("--trades", type=int, help="a day; default 400 a market, 200 with --history")
    parser.add_argument("--snapshots", type=int, help="a day; default 600 a market, 300 with --history")
    parser.add_argument("--history", type=int, default=0, help="days in the source; runs a night after each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--part", choices=["fill", "floor", "history"], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.markets = chosen.markets or (500 if chosen.history else 5_000)
    chosen.trades = chosen.trades or (200 if chosen.history else 400) * chosen.markets
    chosen.snapshots = chosen.snapshots or (300 if chosen.history else 600) * chosen.markets
    parts = {"fill": fill, "floor": against_floor, "history": over_history}
    if chosen.part:
        parts[chosen.part](chosen)
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ |= {"TRIBUTARY_HOME": folder, "TRIBUTARY_EMBEDDED_MEMORY_MB": "2048", "TRIBUTARY_WORKERS": "2"}
        os.environ |= {"PREFECT_HOME": str(home / "prefect"), "PREFECT_LOGGING_LEVEL": "ERROR"}
        from tributary_opt.settings import Settings
        from tributary_opt.storage import embedded

        with embedded.running(Settings()), contextlib.ExitStack() as stack:
            # In processes of their own, so that the memory of the measured one is the night's.
            subprocess.run([sys.executable, *sys.argv, "--part", "fill"], check=True)
            if not chosen.history:
                stack.enter_context(prefect_server())
            part = "history" if chosen.history else "floor"
            subprocess.run([sys.executable, *sys.argv, "--part", part], check=True)


@contextlib.contextmanager
def prefect_server() -> Iterator[None]:
    """A Prefect server on a free port, up; PREFECT_API_URL points at it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    prefect = Path(sys.executable).with_name("prefect")
    server = subprocess.Popen(
        [prefect, "server", "start", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        subprocess.run(
            [prefect, "server", "status", "--wait", "--timeout", "90"], check=True, stdout=subprocess.DEVNULL
        )
        subprocess.run(
            [prefect, "gcl", "create", "tributary-writer", "--limit", "1"], check=True, stdout=subprocess.DEVNULL
        )
        yield
    finally:
        server.terminate()
        server.wait(30)


def fill(chosen: argparse.Namespace) -> None:
    """Generated markets into the source tables."""
    from tributary_opt import schema
    from tributary_opt.night import open_night
    from tributary_opt.sample_data import generate, reference_data, sample_markets
    from tributary_opt.settings import Settings
    from tributary_opt.storage.frames import typed_source

    n_days = max(chosen.history, 1)
    totals = {"trades_per_day": chosen.trades, "snapshots_per_day": chosen.snapshots}
    markets = sample_markets(chosen.markets, 1, first_day=FIRST_DAY, n_days=n_days, sound_only=True, **totals)
    with open_night(Settings()) as night:
        db = night.source_db
        for table in schema.SOURCE_TABLES.values():
            db.execute(table.ddl())
        db.send("markets", typed_source(schema.MARKETS, reference_data(markets).assign(updated_at=FIRST_DAY)))
        for day in generate(markets, FIRST_DAY, n_days, 1, depth=False):
            for source, rows in ((schema.TRADES, day.trades), (schema.ORDERBOOK_SNAPSHOTS, day.orderbook_snapshots)):
                db.send(source.name, typed_source(source, rows))
                db.wait(source.name, timeout_s=600)
            print(f"{day.day}: {len(day.trades):,} trades, {len(day.orderbook_snapshots):,} snapshots", flush=True)
            del day


def choices(i: int) -> Any:
    """Settings of one repeat: a cap on a quote's age that no quote reaches. The rows stay the same, the run is new."""
    from tributary_opt.night import Choices
    from tributary_opt.settings import CalibrationRules, StatisticsRules

    return Choices(
        statistics=StatisticsRules(quote_cap_seconds=80_000.0 + i),
        calibration=CalibrationRules(lookback_days=30, min_trades=1, min_active_hours=1),
    )


def against_floor(chosen: argparse.Namespace) -> None:
    """Flow and floor in turn, then the table."""
    from prefect import flow, task
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    from flows.nightly import nightly
    from tributary_opt.night import open_night
    from tributary_opt.settings import Settings
    from tributary_opt.storage.questdb import QuestDB

    settings = Settings()
    asked: list[str] = []
    ask = QuestDB.query

    def spied(db: QuestDB, sql: str) -> pa.Table:
        asked.append(sql)
        return ask(db, sql)

    def once(i: int) -> tuple[str, int]:
        """One night: its run id, and how many task runs it took."""
        c = choices(i)
        state = nightly(
            as_of=FIRST_DAY, statistics=c.statistics, calibration=c.calibration, grid=c.grid, return_state=True
        )
        flow_run = state.state_details.flow_run_id
        with get_client(sync_client=True) as client:
            found = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])))
        return state.result(), len(found)

    once(0)  # imports, pages, JIT of the server
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # before the floor adds its own
    print(f"peak memory of one whole flow: {memory:.2f} GiB", flush=True)
    QuestDB.query = spied  # type: ignore[method-assign]
    with open_night(settings) as night:
        night.observe(choices(0), (FIRST_DAY,), store=False)
    QuestDB.query = ask  # type: ignore[method-assign]
    queries = [sql for sql in asked if "ac_market_days" not in sql and " markets" not in sql]

    @task
    def nothing() -> None:
        """A task run's cost."""

    @flow
    def empty(n: int) -> None:
        for _ in range(n):
            nothing()

    took: dict[str, list[float]] = {}
    for i in range(1, chosen.repeats + 1):
        with timed(took, "flow"):
            run_id, n_tasks = once(i)
        with timed(took, "empty flow, as many tasks"):
            empty(n_tasks)
        floor(settings, run_id, queries, took)
    print(f"{n_tasks} task runs a flow")
    _print_floor(took, memory, chosen)


def floor(settings: Any, run_id: str, queries: list[str], took: dict[str, list[float]]) -> None:
    """The least that a night can do, by hand, in plain calls of the libraries."""
    from tributary_opt import schema
    from tributary_opt.night import open_night
    from tributary_opt.storage.frames import typed

    with open_night(settings) as night:
        server = night.sink.server
        exp = f"http://{server.host}:{server.http_port}/exp"
        rows = {t: night.releases.read(t, FIRST_DAY, run_id) for t in schema.RELEASE_TABLES}
        frames = {}
        for table, stored in rows.items():
            frame = stored.to_pandas()
            frames[table] = typed(table, frame)
            night.sink.execute(table.ddl().replace(f"EXISTS {table.name} ", f"EXISTS floor_{table.name} "))
        with timed(took, "floor: queries"):
            for sql in queries:
                by_hand(exp, sql)
        with timed(took, "floor: one Sender request a table"):
            for table, frame in frames.items():
                conf = f"http::addr={server.host}:{server.http_port};auto_flush=off;"
                conf += "max_buf_size=2147483648;request_timeout=600000;"
                with questdb.Sender.from_conf(conf) as sender:
                    sent = frame.dropna(axis=1, how="all")
                    sender.dataframe(sent, table_name=f"floor_{table.name}", at=table.timestamp)
                night.sink.wait(f"floor_{table.name}", timeout_s=600)
        del frames
        with timed(took, "floor: read back"):
            for table in rows:
                by_hand(exp, f"SELECT * FROM floor_{table.name}")
        with timed(took, "floor: Parquet, fsynced"):
            for table, stored in rows.items():
                text = [c.name for c in table.columns if c.type in ("SYMBOL", "VARCHAR")]
                path = settings.home / f"floor_{table.name}.parquet"
                pq.write_table(stored, path, compression="zstd", compression_level=1, use_dictionary=text)
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        for table in rows:
            night.sink.execute(f"DROP TABLE floor_{table.name}")


def by_hand(exp: str, sql: str) -> pa.Table:
    """One query over /exp as a pyarrow table."""
    answer = HTTP.get(exp, params={"query": sql, "fmt": "parquet"})
    answer.raise_for_status()
    return pq.read_table(io.BytesIO(answer.content))


def over_history(chosen: argparse.Namespace) -> None:
    """A night after each day: what it takes and reads with ever more days behind it."""
    from tributary_opt.night import run_night
    from tributary_opt.settings import Settings

    nights = []
    for i in range(chosen.history):
        report = run_night(Settings(), choices(0), as_of=FIRST_DAY + timedelta(days=i))
        reading = report.timings["plan"] + report.timings["observe"]
        nights.append((i, len(report.plan.outdated), reading, sum(report.timings.values())))
    shown = Table("days behind", "days read", "plan + observe s", "night s", title="Each night reads its one new day")
    for i, n_read, reading, whole in nights:
        shown.add_row(str(i), str(n_read), f"{reading:.2f}", f"{whole:.2f}")
    k = max(chosen.history // 6, 1)
    for name, place in (("plan + observe", 2), ("night", 3)):
        early, late = (statistics.median(n[place] for n in part) for part in (nights[1 : k + 1], nights[-k:]))
        shown.add_row(name, "", "last / first", f"{late / early:.2f}")
    Console().print(shown)


@contextlib.contextmanager
def timed(took: dict[str, list[float]], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    took.setdefault(name, []).append(time.perf_counter() - start)


def _print_floor(took: dict[str, list[float]], memory: float, chosen: argparse.Namespace) -> None:
    title = f"{chosen.markets:,} markets, {chosen.trades:,} trades, {chosen.snapshots:,} snapshots on the new day"
    shown = Table("", "median s", "min s", "max s", title=title)
    for name, times in took.items():
        shown.add_row(name, *(f"{f(times):.2f}" for f in (statistics.median, min, max)))
    night = [f - e for f, e in zip(took["flow"], took["empty flow, as many tasks"], strict=True)]
    floors = [sum(parts) for parts in zip(*(t for name, t in took.items() if name.startswith("floor")), strict=True)]
    shown.add_row("floor, whole", *(f"{f(floors):.2f}" for f in (statistics.median, min, max)))
    ratio = [n / f for n, f in zip(night, floors, strict=True)]
    shown.add_row("(flow - empty flow) / floor", *(f"{f(ratio):.2f}" for f in (statistics.median, min, max)))
    shown.add_row("peak memory of the flow's process, GiB", f"{memory:.2f}", "", "")
    Console().print(shown)


if __name__ == "__main__":
    main()
