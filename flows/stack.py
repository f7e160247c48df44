"""Everything on one machine: QuestDB, Prefect's server, the deployments of `prefect.yaml` and a worker.

`up` starts them in this order and waits; a signal stops them in the other. Prefect's database lies in `prefect` below
the settings' home, so that two homes share nothing; an explicit `PREFECT_HOME` goes before it.

The children run in sessions of their own: Ctrl-C in a terminal reaches this process alone, and the order of the end is
ours. What a life that was killed left behind (SIGKILL, power) is ended by the next one: processes by the state file
(pid and time of start) and by a mark in their environment, flow runs by their state, slots by setting them free.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]
import requests
from dotenv import dotenv_values
from filelock import FileLock, Timeout
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate, WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Cancelling, Crashed
from prefect.workers.process import ProcessWorker
from rich.console import Console
from rich.table import Table

from flows.alerts import ensure_alerts
from flows.tasks import WRITER, ensure_writer_limit
from tributary_opt.settings import Settings
from tributary_opt.storage import embedded
from tributary_opt.storage.questdb import QuestDB

POOL: Final = "tributary"
"""The work pool of `prefect.yaml`."""

_ROOT: Final = Path(__file__).parents[1]
_MARK: Final = "TRIBUTARY_UP"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_START_S: Final = 120.0
_CANCEL_S: Final = 20.0  # how long a flow run may take to end in good order
_STOP_S: Final = 15.0
_ACTIVE: Final = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_DEFAULTS: Final = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # In memory they would be lost with a restart of the server, and the run that holds one crashed.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tributary_opt",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",
    "PREFECT_WORKER_QUERY_SECONDS": "5",
}

_out = Console()


class StackError(ValueError):
    """The stack cannot start, or a part of it died; the message says what to do."""


def up(settings: Settings) -> None:
    """Start everything, print where it is, and hold it until SIGINT or SIGTERM; then stop it in order.

    Raises
    ------
    StackError
        Where an address is taken or not ours to serve, another `up` runs on the same home, `prefect.yaml` is missing,
        or a part does not start or dies. Everything that was started has been stopped then.
    """
    address = _address()
    with _alone(settings.home), _Signals() as signals, contextlib.ExitStack() as stack:
        life = _Life(settings, address, _environment(settings, address), signals)
        with contextlib.suppress(_Stopped):
            life.start(stack)
            _show(settings, life)
            life.hold()
        _say("stopping: flow runs, worker, Prefect server, QuestDB …")
    _say("stopped")
    if life.failure:
        raise StackError(life.failure)


def alerts(settings: Settings) -> list[str]:
    """Make the alerts on the Prefect server in use, whoever runs it. Returns their names."""
    prefect = get_current_settings()
    if not prefect.api.url:
        raise StackError("PREFECT_API_URL is empty: set it to the address of your Prefect server's API")
    with SyncPrefectClient(api=prefect.api.url) as client:
        return ensure_alerts(client, settings, float(prefect.flows.heartbeat_frequency or 180))


# --- the parts ------------------------------------------------------------------------------------------------


@dataclass
class _Address:
    """Where Prefect's server is to listen."""

    host: str
    port: int

    @property
    def api(self) -> str:
        return f"http://{self.host}:{self.port}/api"


@dataclass
class _Child:
    """A process of ours and where it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that does not help in time; its own children are gone afterwards too."""
        family = []
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(self.process.pid).children(recursive=True)
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        _end(family)


@dataclass
class _Life:
    """One life of the stack."""

    settings: Settings
    address: _Address
    environment: dict[str, str]
    signals: _Signals
    children: list[_Child] = field(default_factory=list)
    questdb: Any = None
    console: str = ""
    failure: str = ""

    @property
    def logs(self) -> Path:
        return self.settings.home / "logs"

    def start(self, stack: contextlib.ExitStack) -> None:
        """Start the parts; each is pushed on the stack to be stopped in the other order."""
        self.logs.mkdir(parents=True, exist_ok=True)
        _end_leftovers(self.settings.home)
        _assert_free(self.address)
        self._start_questdb(stack)
        self._start_server(stack)
        with SyncPrefectClient(api=self.address.api) as client:
            _settle(client, Crashed(message="left by an earlier life of tributary-opt up"))
            stack.callback(self._settle_at_the_end)
            _ensure_pool(client)
            ensure_writer_limit(client)
            self._deploy()
            ensure_alerts(client, self.settings, float(self.environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]))
            self._start_worker(stack, client)

    def hold(self) -> None:
        """Wait for a signal. A part that dies ends the rest."""
        while True:
            self.signals.pause(0.5)
            for child in self.children:
                if child.process.poll() is not None:
                    self._fail(f"the {child.name} ended with code {child.process.returncode}", child.log)
            if self.questdb is not None and not psutil.pid_exists(self.questdb.pid):
                self._fail("the embedded QuestDB ended", self.questdb.root / "tributary-server.log")

    def _start_questdb(self, stack: contextlib.ExitStack) -> None:
        if self.settings.questdb is not None:
            server = self.settings.questdb
            with QuestDB(server) as db:
                db.version()
            scheme = "https" if server.tls else "http"
        else:
            _say("starting QuestDB")
            self.questdb = embedded.start(self.settings)
            stack.callback(self.questdb.stop)
            server, scheme = self.questdb.server, "http"
        self.console = f"{scheme}://{server.host}:{server.http_port}"
        self.signals.pause(0)

    def _start_server(self, stack: contextlib.ExitStack) -> None:
        _say("starting Prefect's server (its first start takes some ten seconds longer)")
        home = Path(self.environment["PREFECT_HOME"])
        _drop_leases(home)
        stack.callback(_drop_leases, home)
        where = ["--host", self.address.host, "--port", str(self.address.port)]
        child = self._spawn("Prefect server", "server", ["server", "start", *where], module="flows.prefect_server")
        stack.callback(child.stop)
        self._wait_for(child, self._server_answers)

    def _deploy(self) -> None:
        _say("deploying prefect.yaml")
        child = self._spawn("deployment", "deploy", ["deploy", "--all", "--no-prompt"], watch=False)
        try:
            deadline = time.monotonic() + _START_S
            while child.process.poll() is None and time.monotonic() < deadline:
                self.signals.pause(0.1)
        finally:
            child.stop()
        if child.process.returncode != 0:
            self._fail(f"`prefect deploy` ended with code {child.process.returncode}", child.log)

    def _start_worker(self, stack: contextlib.ExitStack, client: SyncPrefectClient) -> None:
        _say("starting a worker")
        name = f"up-{os.getpid()}"
        child = self._spawn(
            "worker", "worker", ["worker", "start", "--pool", POOL, "--type", "process", "--name", name]
        )
        stack.callback(self._stop_worker, child)
        stack.callback(self._cancel_runs)
        self._wait_for(child, lambda: any(w.name == name for w in client.read_workers_for_work_pool(POOL)))

    def _spawn(self, name: str, short: str, words: list[str], *, watch: bool = True, module: str = "prefect") -> _Child:
        log = self.logs / f"{short}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                cwd=_ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        child = _Child(name, process, log)
        if watch:
            self.children.append(child)
        _remember(self.settings.home, process.pid)
        return child

    def _wait_for(self, child: _Child, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_S
        while not ready():
            if child.process.poll() is not None:
                self._fail(f"the {child.name} ended with code {child.process.returncode}", child.log)
            if time.monotonic() > deadline:
                self._fail(f"the {child.name} was not ready after {_START_S:g} s", child.log)
            self.signals.pause(0.2)

    def _server_answers(self) -> bool:
        try:
            return _http().get(f"{self.address.api}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def _fail(self, what: str, log: Path) -> None:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""
        self.failure = f"{what}; the end of {log}:\n{tail}"
        raise _Stopped

    def _cancel_runs(self) -> None:
        """Ask every run in progress to end; the worker ends their processes. A second signal cuts this short."""
        if any(child.process.poll() is not None for child in self.children):
            return  # nobody left to ask, or to do it
        with SyncPrefectClient(api=self.address.api) as client, contextlib.suppress(Exception):
            deadline = time.monotonic() + _CANCEL_S
            while (runs := _active_runs(client)) and time.monotonic() < deadline and not self.signals.insisted:
                for run in runs:
                    if run.state_type != StateType.CANCELLING:
                        _say(f"cancelling {run.name}")
                        client.set_flow_run_state(run.id, Cancelling(message="tributary-opt up is stopping"))
                time.sleep(0.5)

    def _stop_worker(self, worker: _Child) -> None:
        """The worker, and every flow run's process, also those that lost their worker."""
        worker.stop()
        others = {child.process.pid for child in self.children if child is not worker}
        _end([process for process in _marked(self.settings.home) if process.pid not in others])

    def _settle_at_the_end(self) -> None:
        with SyncPrefectClient(api=self.address.api) as client, contextlib.suppress(Exception):
            _settle(client, Cancelled(message="ended by the stop of tributary-opt up"))


# --- in Prefect's database ------------------------------------------------------------------------------------


def _active_runs(client: SyncPrefectClient) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_ACTIVE))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])),
    )


def _settle(client: SyncPrefectClient, state: Any) -> None:
    """No worker of ours lives: no run of its pool is in progress, no slot is taken."""
    deadline = time.monotonic() + _STOP_S
    while (runs := _active_runs(client)) and time.monotonic() < deadline:
        for run in runs:
            _say(f"{run.name} was {str(run.state_name).lower()}; now {state.name.lower()}")
            client.set_flow_run_state(run.id, state, force=True)
    start = 0
    while limits := client.read_global_concurrency_limits(limit=200, offset=start):
        start += len(limits)
        for limit in limits:
            if limit.active_slots and (limit.name == WRITER or limit.name.startswith("deployment:")):
                client.update_global_concurrency_limit(limit.name, GlobalConcurrencyLimitUpdate(active_slots=0))


def _ensure_pool(client: SyncPrefectClient) -> None:
    template = ProcessWorker.get_default_base_job_template()
    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))


def _drop_leases(prefect_home: Path) -> None:
    """Leases of runs that are gone; one that expires later would free the slot of a run that is not."""
    for lease in (prefect_home / "concurrency_leases").glob("*.json"):
        lease.unlink(missing_ok=True)


# --- where it runs ----------------------------------------------------------------------------------------------


def _address() -> _Address:
    settings = get_current_settings()
    url = settings.api.url or f"http://{settings.server.api.host}:{settings.server.api.port}/api"
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in _LOOPBACK or parts.path.rstrip("/") != "/api":
        raise StackError(
            f"PREFECT_API_URL is {url}: `up` serves this machine only, at http://127.0.0.1:PORT/api. With a Prefect "
            "server of your own run `prefect deploy --all` and `prefect worker start --pool tributary` (README.md)"
        )
    return _Address(parts.hostname or "127.0.0.1", parts.port or 80)


def _environment(settings: Settings, address: _Address) -> dict[str, str]:
    """What the children see: ours, `.env` of this folder, the absolute paths of the settings, Prefect's own."""
    if not (_ROOT / "prefect.yaml").is_file():
        raise StackError(f"{_ROOT} holds no prefect.yaml: `up` needs a checkout of the project (pip install -e .)")
    dotenv = {k: v for k, v in dotenv_values(".env").items() if v is not None and k.upper().startswith("TRIBUTARY_")}
    paths = {name: getattr(settings, name) for name in ("home", "parquet", "markets_file", "questdb_jar")}
    search = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    return {
        **_DEFAULTS,
        "PREFECT_HOME": str(settings.home / "prefect"),
        **dotenv,
        **os.environ,
        **{f"TRIBUTARY_{name.upper()}": str(path) for name, path in paths.items() if path is not None},
        "PREFECT_API_URL": address.api,
        "PYTHONPATH": search,
        _MARK: str(settings.home),
    }


def _assert_free(address: _Address) -> None:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError:
            raise StackError(
                f"port {address.port} of {address.host} is in use, not by us: stop what runs there, or set "
                f"PREFECT_API_URL=http://127.0.0.1:{address.port + 1}/api (or any other free port)"
            ) from None


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One `up` a home. The lock goes with the process, however it ends."""
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / "up.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StackError(f"`tributary-opt up` runs on {home} already: stop it first, or set TRIBUTARY_HOME") from None
    try:
        yield
    finally:
        lock.release()


def _remember(home: Path, pid: int) -> None:
    state = home / "up.json"
    known = _remembered(home)
    with contextlib.suppress(psutil.Error):
        known.append((pid, psutil.Process(pid).create_time()))
    draft = state.with_suffix(".tmp")
    draft.write_text(json.dumps(known))
    os.replace(draft, state)


def _remembered(home: Path) -> list[tuple[int, float]]:
    try:
        return [(int(pid), float(started)) for pid, started in json.loads((home / "up.json").read_text())]
    except (OSError, ValueError, TypeError):
        return []


def _end_leftovers(home: Path) -> None:
    """Processes of an earlier life on this home: server and worker by pid and start, flow runs by their mark."""
    left = []
    for pid, started in _remembered(home):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if abs(process.create_time() - started) < 5:
                left += [process, *process.children(recursive=True)]
    others = {process.pid: process for process in [*left, *_marked(home)] if process.pid != os.getpid()}
    if others:
        _say(f"ending {len(others)} processes of an earlier life")
    _end(list(others.values()))
    (home / "up.json").unlink(missing_ok=True)


def _marked(home: Path) -> list[psutil.Process]:
    """Processes that were started by an `up` on this home. A QuestDB among them has its own way to end."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(_MARK) == str(home) and process.name() != "java":
                found.append(process)
    return found


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=5)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def _http() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxy between us and loopback
    return session


# --- signals and words ----------------------------------------------------------------------------------------


class _Stopped(Exception):
    """Time to stop."""


class _Signals:
    """SIGINT, SIGTERM and SIGHUP, noted and acted on where it is safe."""

    _KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for kind in self._KINDS:
            self._before[kind] = signal.signal(kind, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._count += 1

    @property
    def insisted(self) -> bool:
        """Whether a second signal came."""
        return self._count > 1

    def pause(self, seconds: float) -> None:
        """Wait so long. Raises _Stopped once a signal came."""
        deadline = time.monotonic() + seconds
        while True:
            if self._count:
                raise _Stopped
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.1))


def _say(text: str) -> None:
    _out.print(text, highlight=False, markup=False)


def _show(settings: Settings, life: _Life) -> None:
    table = Table(show_header=False, title="tributary-opt is up", title_justify="left")
    table.add_row("Prefect UI", life.address.api.removesuffix("/api"))
    table.add_row("QuestDB console", life.console)
    table.add_row("Parquet", str(settings.parquet_root))
    table.add_row("Logs", str(life.logs))
    table.add_row("Other prefect commands", f"PREFECT_API_URL={life.address.api}")
    _out.print(table)
    _say("Ctrl-C stops everything; a run in progress is cancelled.")


if __name__ == "__main__":
    try:
        up(Settings())
    except StackError as refusal:
        sys.exit(str(refusal))
