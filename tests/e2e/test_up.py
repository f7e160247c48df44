"""`tributary-opt up` as a person runs it: real processes on free ports, with a home of their own."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pandas as pd
import psutil
import pytest
import requests
from filelock import FileLock
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Running, Scheduled

from flows.alerts import CRASHED, FAILED, STALE, ZOMBIE
from tributary_opt import schema
from tributary_opt.sample_data import generate, reference_data, sample_markets
from tributary_opt.settings import QuestDBServer, Settings
from tributary_opt.storage import embedded
from tributary_opt.storage.frames import typed_source
from tributary_opt.storage.parquet import read_manifest
from tributary_opt.storage.questdb import QuestDB

pytestmark = [pytest.mark.prefect, pytest.mark.questdb]

ROOT = Path(__file__).parents[2]
FIRST_DAY, NEWEST = date(2026, 3, 2), date(2026, 3, 3)
GRID = {"order_sizes_pct_adv": [1.0], "n_steps": 4}
PATIENCE_S = 240.0
T = TypeVar("T")


class Stack:
    """A home, and the `up` that runs on it."""

    def __init__(self, home: Path):
        self.home = home
        self.settings = Settings(home=home, embedded_memory_mb=512, _env_file=None)  # type: ignore[call-arg]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.client = SyncPrefectClient(api=self.api)
        self.process: subprocess.Popen[bytes] | None = None
        self.lives = 0
        self.alerts: list[dict[str, Any]] = []
        self.receiver = _receiver(self.alerts)
        self.silent: UUID | None = None

    @property
    def said(self) -> str:
        return (self.home / f"up-{self.lives}.txt").read_text()

    def up(self, **more: str) -> None:
        self.lives += 1
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        with (self.home / f"up-{self.lives}.txt").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from tributary_opt.cli import app; app()", "up"],
                cwd=ROOT,
                env={
                    **inherited,
                    "PYTHONPATH": str(ROOT),
                    "TRIBUTARY_HOME": str(self.home),
                    "TRIBUTARY_EMBEDDED_MEMORY_MB": "512",
                    "PREFECT_API_URL": self.api,
                    "PREFECT_WORKER_QUERY_SECONDS": "1",
                    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
                    "TRIBUTARY_ALERTS_WEBHOOK": f"http://127.0.0.1:{self.receiver.server_port}/secret-path",
                    "TRIBUTARY_ALERTS_STALE_HOURS": "0.005",
                    **more,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait(lambda: "Ctrl-C stops everything" in self.said)

    def wait(self, ready: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
        deadline = time.monotonic() + patience_s
        while not (found := ready()):
            assert self.process is not None
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.news()
            time.sleep(0.25)
        return found

    def news(self) -> str:
        """What the stack said, and how its flow runs and its server stand: for whoever waited in vain."""
        if "is up" not in self.said:
            return self.said
        runs = [f"{r.name}: {r.state_name}, {r.state and r.state.message}" for r in self.client.read_flow_runs()]
        log = (self.home / "logs" / "server.log").read_text()
        alarming = [line for line in log.splitlines() if re.search("ERROR|WARNING|Exception", line)]
        return "\n".join([self.said, "flow runs:", *runs, "from the server's log:", *alarming[-40:]])

    def end(self, how: signal.Signals) -> int:
        """As a terminal would: to the whole group."""
        assert self.process is not None
        os.killpg(self.process.pid, how)
        return self.process.wait(PATIENCE_S)

    def submit(self, deployment: str, name: str | None = None, **parameters: Any) -> UUID:
        found = self.client.read_deployment_by_name(deployment)
        return self.client.create_flow_run_from_deployment(found.id, parameters=parameters, name=name).id

    def finished(self, run_id: UUID) -> FlowRun:
        def over() -> FlowRun | None:
            run = self.client.read_flow_run(run_id)
            return run if run.state is not None and run.state.is_final() else None

        run = self.wait(over)
        assert run is not None
        return run

    def slots(self) -> dict[str, int]:
        return {limit.name: limit.active_slots for limit in self.client.read_global_concurrency_limits(limit=100)}

    def held_in_publish(self) -> tuple[UUID, FileLock]:
        """A run in progress that holds both slots, and the lock that keeps it there."""
        lock = FileLock(self.settings.parquet_root / ".publish.lock", thread_local=False)
        lock.acquire(timeout=60)
        run_id = self.submit("nightly/nightly-on-demand", grid=GRID)
        deployment = self.client.read_deployment_by_name("nightly/nightly-on-demand")
        self.wait(lambda: self.slots()["tributary-writer"] == 1)
        assert self.slots()[f"deployment:{deployment.id}"] == 1
        return run_id, lock

    def server(self) -> QuestDBServer:
        found = embedded.locate(self.settings)
        assert found is not None
        return found

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        with QuestDB(self.server()) as db:
            return db.rows(sql)

    def prefect_rows(self, sql: str) -> list[tuple[Any, ...]]:
        """From Prefect's database, while its server is down."""
        connection = sqlite3.connect(self.home / "prefect" / "prefect.db")
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def assert_nothing_left(self, questdb: QuestDBServer) -> None:
        for port in (self.port, questdb.http_port, questdb.pg_port):
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", port)) != 0, f"port {port} is open"
        assert not self.processes()
        active = "('RUNNING', 'PENDING', 'CANCELLING')"
        assert self.prefect_rows(f"SELECT name, state_type FROM flow_run WHERE state_type IN {active}") == []
        assert self.prefect_rows("SELECT name FROM concurrency_limit_v2 WHERE active_slots > 0") == []
        assert not list((self.home / "prefect" / "concurrency_leases").glob("*-*.json"))

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TRIBUTARY_UP") == str(self.home):
                    found.append(process)
            except psutil.Error:
                continue
        return found


def _receiver(alerts: list[dict[str, Any]]) -> http.server.ThreadingHTTPServer:
    """A webhook on loopback that notes what it is told."""

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            alerts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A home with two days of eight sample markets."""
    stack = Stack(tmp_path_factory.mktemp("up"))
    markets = sample_markets(8, first_day=FIRST_DAY, n_days=2)
    with embedded.running(stack.settings) as server, QuestDB(server) as db:
        for table in schema.SOURCE_TABLES.values():
            db.execute(table.ddl())
        stamp = pd.Timestamp(FIRST_DAY, tz="UTC").as_unit("us")
        db.send("markets", typed_source(schema.MARKETS, reference_data(markets).assign(updated_at=stamp)))
        for day in generate(markets, FIRST_DAY, 2, 1, depth=False):
            db.send("trades", typed_source(schema.TRADES, day.trades))
            db.send("orderbook_snapshots", typed_source(schema.ORDERBOOK_SNAPSHOTS, day.orderbook_snapshots))
        for name in schema.SOURCE_TABLES:
            db.wait(name)
    yield stack
    if stack.process is not None and stack.process.poll() is None:
        stack.end(signal.SIGTERM)
    for process in stack.processes():
        process.kill()
    stack.receiver.shutdown()


def test_deployments_run_and_the_schedule_fires(stack: Stack) -> None:
    stack.up()
    addresses = dict(re.findall(r"(Prefect UI|QuestDB console)\W+(http://127\.0\.0\.1:\d+)", stack.said))
    assert addresses["Prefect UI"] == f"http://127.0.0.1:{stack.port}"
    # The console's "/" sends a browser on to this page, in an answer whose end it never marks: requests would wait.
    pages = [addresses["Prefect UI"], addresses["QuestDB console"] + "/index.html"]
    assert all(requests.get(page, timeout=30, proxies={"http": ""}).ok for page in pages)
    started = datetime.now(UTC) - timedelta(minutes=5)
    stack.silent = run_that_falls_silent(stack)
    wrong = stack.submit("nightly/nightly-on-demand", as_of=(datetime.now(UTC).date() + timedelta(days=2)).isoformat())
    assert stack.finished(wrong).state_name == "Failed"

    night = stack.finished(stack.submit("nightly/nightly-on-demand", name="Month end", grid=GRID))
    assert (night.state_name, night.name) == ("Completed", "Month end")
    ((current, as_of),) = stack.ask("SELECT run_id, as_of FROM ac_published")
    assert as_of.date() == NEWEST
    for table in ("ac_parameters_current", "ac_trajectories_current"):
        assert stack.ask(f"SELECT DISTINCT run_id FROM {table}") == [(current,)]
    manifest = read_manifest(stack.settings.parquet_root)
    assert manifest is not None
    assert manifest["run_id"] == current
    assert all((stack.settings.parquet_root / t["path"]).is_file() for t in manifest["tables"].values())

    artifacts = stack.wait(lambda: a if len(a := {a.key: a for a in artifacts_of(stack, night.id)}) > 2 else None)
    assert artifacts is not None
    assert set(artifacts) == {"run-report", "refusals", "movers"}
    assert current in str(artifacts["run-report"].data)
    assert "](data:image/svg+xml;base64," in str(artifacts["run-report"].data)
    (page,) = (stack.settings.parquet_root / "reports").rglob("report.html")
    assert page.as_uri() in str(artifacts["run-report"].data)
    # Lines arrive in batches, after the run: the one that names the release is among the last.
    lines = stack.wait(lambda: [line for line in logs_of(stack, night.id) if current in line.message])
    assert {line.level for line in lines if line.name.startswith("tributary_opt.")} == {20}

    names = ["recalibrate/recalibrate", "precompute/precompute", "backfill/backfill", "maintenance/maintenance"]
    chosen: list[dict[str, Any]] = [
        {},
        {"grid": {**GRID, "n_steps": 5}},
        {"start": "2026-03-02", "end": "2026-03-02"},
        {},
    ]
    # All at once, beside a desk's run: what `flows/prefect_server.py` is there for.
    runs = [stack.submit(name, **parameters) for name, parameters in zip(names, chosen, strict=True)]
    assert [stack.finished(run).state_name for run in runs] == ["Completed"] * 4
    scopes = stack.ask("SELECT scope, count() FROM ac_runs WHERE state = 'complete' ORDER BY scope")
    assert scopes == [("parameters", 2), ("whole", 2)]

    newest = stack.ask("SELECT run_id FROM ac_published ORDER BY published_at DESC LIMIT 1")[0][0]
    found = stack.wait(lambda: e if len(e := events(stack, started)) == 2 else None)
    assert found is not None
    payloads = {event["payload"]["run_id"]: event["payload"] for event in found}
    assert set(payloads) == {current, newest}
    assert payloads[current]["as_of"] == NEWEST.isoformat()
    assert payloads[current]["rows"] == manifest["tables"]["ac_trajectories"]["rows"]
    assert Path(payloads[current]["path"]).is_dir()

    # The desk's deployment was started by each of the two events, and knows its run from the payload.
    orders = stack.settings.home / "desks" / "desk"
    expected = {orders / f"orders-{p['as_of']}-{run_id}.csv" for run_id, p in payloads.items()}
    stack.wait(lambda: expected <= set(orders.glob("*.csv")) and not desk_runs(stack))
    for path in expected:
        written = pd.read_csv(path, dtype={"run_id": str})
        assert len(written) > 0
        assert {f"orders-{r.as_of}-{r.run_id}.csv" for r in written.itertuples()} == {path.name}

    with pytest.raises(Exception, match=r"(?i)additional properties|validation"):
        stack.submit("nightly/nightly-on-demand", grid={"typo": 1})

    scheduled = stack.wait(lambda: scheduled_runs(stack))
    assert all(run.auto_scheduled and run.expected_start_time.strftime("%H:%M") == "02:30" for run in scheduled)
    assert errors_of((stack.home / "logs" / "server.log").read_text()) == []


def test_alerts_reach_the_webhook(stack: Stack) -> None:
    if stack.process is None or stack.silent is None:
        pytest.skip("needs the test before")
    stack.wait(lambda: {FAILED, STALE, CRASHED} <= {alert["alert"] for alert in stack.alerts})
    by_name = {alert["alert"]: alert for alert in stack.alerts}
    assert by_name[FAILED]["state"] == "Failed"
    assert "as_of must be a day that is over" in by_name[FAILED]["message"]
    assert by_name[FAILED]["url"].startswith("http")
    silent = by_name[CRASHED]
    assert (silent["flow_run"], silent["message"]) == ("falls silent", "its process said nothing any more")
    assert "no night was published" in by_name[STALE]["text"]
    assert stack.client.read_flow_run(stack.silent).state_name == "Crashed"
    assert "secret-path" not in requests.post(f"{stack.api}/block_documents/filter", json={}, timeout=30).text


def test_ctrl_c_with_a_run_in_progress_leaves_nothing_behind(stack: Stack) -> None:
    if stack.process is None:
        pytest.skip("needs the test before")
    questdb = stack.server()
    held, lock = stack.held_in_publish()
    with lock:
        published = stack.ask("SELECT count() FROM ac_published")
        nightly = stack.client.read_deployment_by_name("nightly/nightly")
        soon = datetime.now(UTC) + timedelta(seconds=35)  # two schedules that nobody will be there to run
        missed = [
            stack.client.create_flow_run_from_deployment(
                nightly.id, parameters={"grid": GRID}, state=Scheduled(scheduled_time=soon + timedelta(seconds=s))
            ).id
            for s in (1, 0)
        ]
        assert stack.end(signal.SIGINT) == 0, stack.said
        lock.release(force=True)
    stack.assert_nothing_left(questdb)
    ((state,),) = stack.prefect_rows(f"SELECT state_type FROM flow_run WHERE id = '{held}'")
    assert state == "CANCELLED"

    time.sleep(max((soon - datetime.now(UTC)).total_seconds() + 2, 0))
    stack.up()
    assert [len(stack.client.read_automations_by_name(name)) for name in (FAILED, CRASHED, STALE, ZOMBIE)] == [1] * 4
    # The worker finds both in one look and starts them together: which of them gets the slot is a race.
    ended = {run.state_name: str(run.state and run.state.message) for run in map(stack.finished, missed)}
    assert set(ended) == {"Completed", "Cancelled"}
    assert "concurrency limit" in ended["Cancelled"]
    assert stack.ask("SELECT as_of FROM ac_published ORDER BY published_at DESC LIMIT 1")[0][0].date() == NEWEST
    assert stack.ask("SELECT count() FROM ac_published") != published  # the grid differs from precompute's


def test_after_a_kill_the_next_up_tidies_and_works(stack: Stack) -> None:
    if stack.process is None:
        pytest.skip("needs the tests before")
    held, lock = stack.held_in_publish()
    stack.end(signal.SIGKILL)
    assert stack.processes(), "the children outlive it"

    stack.up()
    lock.release(force=True)
    assert stack.client.read_flow_run(held).state_name == "Crashed"
    stack.wait(lambda: set(stack.slots().values()) == {0}, 120.0)  # a desk's run may hold its own; leases last 300 s
    second = subprocess.run(
        [sys.executable, "-m", "flows.stack"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRIBUTARY_HOME": str(stack.home), "PREFECT_API_URL": stack.api},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert second.returncode == 1
    assert "already" in second.stderr
    assert stack.finished(stack.submit("maintenance/maintenance")).state_name == "Completed"
    questdb = stack.server()
    assert stack.end(signal.SIGTERM) == 0, stack.said
    stack.assert_nothing_left(questdb)


def test_up_uses_the_configured_server_and_leaves_it_running(
    questdb_server: QuestDBServer, db: QuestDB, tmp_path: Path
) -> None:
    """Without the packages of the embedded server, which are then not asked for."""
    stack = Stack(tmp_path)
    ports = {"HTTP_PORT": str(questdb_server.http_port), "PG_PORT": str(questdb_server.pg_port)}
    try:
        stack.up(**{f"TRIBUTARY_QUESTDB__{name}": port for name, port in ports.items()})
        assert f"http://127.0.0.1:{questdb_server.http_port}" in stack.said
        assert not (tmp_path / "questdb").exists()
        failed = stack.finished(stack.submit("nightly/nightly-on-demand"))
        assert "table trades is missing" in str(failed.state and failed.state.message)
        assert stack.end(signal.SIGINT) == 0, stack.said
        assert not stack.processes()
        assert db.rows("SELECT 1") == [(1,)]
    finally:
        if stack.process is not None and stack.process.poll() is None:
            stack.end(signal.SIGKILL)
        for process in stack.processes():
            process.kill()
        stack.receiver.shutdown()


def run_that_falls_silent(stack: Stack) -> UUID:
    """A run of no worker's that is Running, said once that it lives, and will not say it again."""
    run_id = stack.client.create_flow_run(
        flow(lambda: None, name="somebody else's"), name="falls silent", state=Running()
    ).id
    beat = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run_id}"},
    }
    # The server may be busy with its database: 503.
    stack.wait(lambda: requests.post(f"{stack.api}/events", json=[beat], timeout=30, proxies={"http": ""}).ok)
    return run_id


def errors_of(log: str) -> list[str]:
    """Errors in the server's log, less those of a write that SQLite refused while another was on: it is repeated."""
    records = re.split(r"^(?=\d\d:\d\d:\d\d\.\d+ \||[A-Z]+: {2,})", log, flags=re.MULTILINE)
    return [record for record in records if re.match(r"\S+ \| ERROR|ERROR:", record) and "is locked" not in record]


def scheduled_runs(stack: Stack) -> list[FlowRun]:
    return stack.client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        ),
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=["nightly"])),
    )


def desk_runs(stack: Stack) -> list[FlowRun]:
    """Of the example deployment: runs that are not over."""
    runs = stack.client.read_flow_runs(
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=["desk-orders"]))
    )
    return [run for run in runs if run.state is None or not run.state.is_final()]


def artifacts_of(stack: Stack, run_id: UUID) -> list[Any]:
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    return list(stack.client.read_artifacts(artifact_filter=wanted))


def logs_of(stack: Stack, run_id: UUID) -> list[Any]:
    return list(stack.client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))))


def events(stack: Stack, since: datetime) -> list[dict[str, Any]]:
    wanted = {"occurred": {"since": since.isoformat()}, "event": {"name": ["tributary.trajectories.published"]}}
    answer = requests.post(f"{stack.api}/events/filter", json={"filter": wanted}, timeout=30, proxies={"http": ""})
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()["events"]
    return found
