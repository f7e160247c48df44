"""Processes and servers that die: real ones, by SIGKILL, while a reader watches.

What is asked each time: the reader saw one whole run after the other and nothing else; the next night completes; the
counts are exact; the manifest says what the pointer says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tributary_opt import schema
from tributary_opt.night import Choices, NightReport, run_night
from tributary_opt.sample_data import generate, reference_data, sample_markets
from tributary_opt.settings import Grid, QuestDBServer, Retention, RiskLevel, Settings
from tributary_opt.storage import embedded, parquet
from tributary_opt.storage.embedded import EmbeddedServer
from tributary_opt.storage.frames import typed_source
from tributary_opt.storage.questdb import QuestDB, ServerUnavailable
from tributary_opt.storage.releases import STEPS, Pointer, Releases

pytestmark = pytest.mark.questdb

FIRST_DAY, N_DAYS, AS_OF = date(2026, 1, 5), 3, date(2026, 1, 7)
VIEWS = ("ac_parameters_current", "ac_trajectories_current", "ac_steps_current")
COMMITTED = STEPS[STEPS.index("pointer") :]
N_RANDOM = 20

# A child is forked from a process that has imported everything, so that it is at work within a moment.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["pytest", "tributary_opt.night", "tributary_opt.sample_data", "psutil"])


# --- the house -----------------------------------------------------------------------------------------------


@dataclass
class House:
    """A server of our own on fixed ports, with sample ticks and one published night."""

    settings: Settings
    server: EmbeddedServer
    nights: int = 0

    @property
    def address(self) -> QuestDBServer:
        return self.server.server

    @property
    def root(self) -> Path:
        return self.settings.parquet_root

    def remote(self, http_port: int | None = None) -> Settings:
        """Settings of one who connects to the server as to any other, starting none; perhaps through a proxy."""
        address = self.address.model_copy(update={"http_port": http_port or self.address.http_port})
        return self.settings.model_copy(update={"questdb": address})

    def new_choices(self, n_steps: int | None = None) -> Choices:
        """Choices that no night had before, so that there is something to publish; the counts differ too."""
        self.nights += 1
        k = self.nights
        sizes = tuple(0.1 + 0.01 * k + i for i in range(1 + k % 3))
        levels = (RiskLevel(value=1.0),)
        return Choices(grid=Grid(n_steps=n_steps or 10 + k % 7, order_sizes_pct_adv=sizes, risk_levels=levels))

    def night(self, choices: Choices, on_step: Callable[[str], None] = lambda step: None) -> NightReport:
        return run_night(self.remote(), choices, as_of=AS_OF, on_step=on_step)

    def restart(self) -> None:
        self.server.kill()  # nothing, where it is dead
        self.server = embedded.start(self.settings)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    settings = Settings(
        home=tmp_path_factory.mktemp("faults"),
        embedded_memory_mb=512,
        embedded_http_port=_free_port(),
        embedded_pg_port=_free_port(),
        _env_file=None,
    )
    house = House(settings, embedded.start(settings))
    try:
        markets = sample_markets(
            8, first_day=FIRST_DAY, n_days=N_DAYS, trades_per_day=2_000, snapshots_per_day=4_000, sound_only=True
        )
        with QuestDB(house.address) as db:
            for table in schema.SOURCE_TABLES.values():
                db.execute(table.ddl())
            for day in generate(markets, FIRST_DAY, N_DAYS, 1, depth=False):
                db.send("trades", typed_source(schema.TRADES, day.trades))
                db.send("orderbook_snapshots", typed_source(schema.ORDERBOOK_SNAPSHOTS, day.orderbook_snapshots))
            reference = reference_data(markets).assign(updated_at=datetime(2026, 1, 1, tzinfo=UTC))
            db.send("markets", typed_source(schema.MARKETS, reference))
            for name in schema.SOURCE_TABLES:
                db.wait(name)
        house.night(house.new_choices())  # market days are stored from now on, and there is a release to read
        yield house
    finally:
        house.server.kill()


# --- the child that dies -------------------------------------------------------------------------------------


def _child(settings: Settings, choices: Choices, die_after: str, parent: Connection) -> None:
    def on_step(step: str) -> None:
        parent.send((step, time.time()))
        if step == die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    parent.send(("began", time.time()))
    report = run_night(settings, choices, as_of=AS_OF, on_step=on_step)
    parent.send((report.run.run_id, time.time()))


@dataclass
class Child:
    """A night in a process of its own."""

    process: BaseProcess
    pipe: Connection
    said: list[tuple[str, float]] = field(default_factory=list)

    def listen(self, timeout_s: float = 60.0) -> str:
        """The next thing it says."""
        assert self.pipe.poll(timeout_s), "the child says nothing"
        self.said.append(self.pipe.recv())
        return self.said[-1][0]

    @property
    def lasted(self) -> float:
        """From its first word to the last it said so far. [s]"""
        return self.said[-1][1] - self.said[0][1]

    def end(self) -> int:
        """Its exit code, once it has ended."""
        self.process.join(60)
        code = self.process.exitcode
        assert code is not None, "the child does not end"
        with contextlib.suppress(EOFError):
            while self.pipe.poll():
                self.said.append(self.pipe.recv())
        return code


@contextlib.contextmanager
def child(settings: Settings, choices: Choices, die_after: str = "") -> Iterator[Child]:
    pipe, theirs = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_child, args=(settings, choices, die_after, theirs))
    process.start()
    theirs.close()
    try:
        yield Child(process, pipe)
    finally:
        process.kill()
        process.join()
        pipe.close()


# --- the reader who watches ----------------------------------------------------------------------------------


@dataclass
class Watched:
    """What a reader saw: (view or file, run, rows), and what it could not make sense of."""

    polls: int = 0
    outages: int = 0
    sights: set[tuple[str, str, int]] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def _watch(server: QuestDBServer, root: Path, ready: Event, stop: Event, answer: Connection) -> None:
    seen = Watched()
    with QuestDB(server) as db:
        while not stop.is_set():
            try:
                for view in VIEWS:
                    rows = db.rows(f"SELECT run_id, count() FROM {view} GROUP BY run_id")
                    seen.sights |= {(view, run_id, n) for run_id, n in rows}
                    if len(rows) != 1:
                        seen.problems.append(f"{view} shows {rows}")
            except ServerUnavailable:
                seen.outages += 1
            except Exception as error:
                seen.problems.append(repr(error))
            try:
                manifest = json.loads((root / parquet.MANIFEST).read_bytes())
                for name, entry in manifest["tables"].items():
                    content = (root / entry["path"]).read_bytes()
                    runs = set(pq.read_table(pa.BufferReader(content))["run_id"].to_pylist())
                    if runs != {manifest["run_id"]} or hashlib.sha256(content).hexdigest() != entry["sha256"]:
                        seen.problems.append(f"{entry['path']} of run {manifest['run_id']} holds {runs}")
                    seen.sights.add((name, manifest["run_id"], entry["rows"]))
            except Exception as error:
                seen.problems.append(repr(error))
            seen.polls += 1
            ready.set()
            stop.wait(0.1)
    answer.send(seen)


@contextlib.contextmanager
def watched(house: House) -> Iterator[Watched]:
    """A reader polls for the length of the block; then what it saw is held against what was written."""
    ready, stop = _processes.Event(), _processes.Event()
    pipe, theirs = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_watch, args=(house.address, house.root, ready, stop, theirs))
    process.start()
    seen = Watched()
    try:
        assert ready.wait(60)
        yield seen
        stop.set()
        assert pipe.poll(60)
        found: Watched = pipe.recv()
    finally:
        process.kill()
        process.join()
    seen.__dict__.update(found.__dict__)
    assert seen.problems == []
    written = counts(house)
    assert seen.sights - written == set()
    assert {what for what, _, _ in seen.sights} == {*VIEWS, *(t.name for t in schema.RELEASE_TABLES)}


def counts(house: House) -> set[tuple[str, str, int]]:
    """What there is to see of every run: view or file, run, rows."""
    found = set()
    with QuestDB(house.address) as db:
        for name, sql in {
            "ac_parameters": "SELECT run_id, count() FROM ac_parameters GROUP BY run_id",
            "ac_trajectories": "SELECT run_id, count() FROM ac_trajectories GROUP BY run_id",
            "ac_steps": "SELECT run_id, sum(n_steps + 1) FROM ac_trajectories GROUP BY run_id",
        }.items():
            for run_id, n in db.rows(sql):
                found |= {(name, run_id, n), (f"{name}_current", run_id, n)}
    return found


# --- what must hold afterwards -------------------------------------------------------------------------------


def pointer_of(house: House) -> Pointer:
    with QuestDB(house.address) as db:
        pointer = Releases(db, house.root).current()
    assert pointer is not None
    return pointer


def published(house: House) -> list[str]:
    with QuestDB(house.address) as db:
        return [run_id for (run_id,) in db.rows("SELECT run_id FROM ac_published ORDER BY published_at")]


def assert_whole(house: House, report: NightReport) -> None:
    """The run is current, everywhere, and all that it made is there once."""
    assert report.outcome is not None
    assert report.outcome.current
    run_id, p, t = report.run.run_id, report.parameters, report.trajectories
    n_steps = int((t["n_steps"] + 1).sum())
    with QuestDB(house.address) as db:
        releases = Releases(db, house.root)
        pointer = releases.current()
        assert pointer is not None
        assert pointer.run_id == run_id
        assert releases.lag() is None
        shown = {(v, *row) for v in VIEWS for row in db.rows(f"SELECT run_id, count() FROM {v} GROUP BY run_id")}
        assert shown == set(zip(VIEWS, [run_id] * 3, (len(p), len(t), n_steps), strict=True))
        row = releases.run(run_id)
        assert row is not None
        assert (row["state"], row["n_markets"], row["n_trajectories"]) == ("complete", len(p), len(t))
        for table, digest in zip(schema.RELEASE_TABLES, ("parameters_digest", "trajectories_digest"), strict=True):
            stored = releases.read(table, AS_OF, run_id)
            assert len(stored.select(table.keys).to_pandas().drop_duplicates()) == stored.num_rows
            assert row[digest] == report.outcome.digests[table.name]
            assert parquet.read_release_file(house.root, table, AS_OF, run_id) == stored
        ((n_runs, n_ids),) = db.rows("SELECT count(), count_distinct(run_id) FROM ac_runs")
        assert n_runs == n_ids
        market_days = db.rows("SELECT count() FROM ac_market_days")
    assert market_days == [(len(p) * N_DAYS,)]
    manifest = json.loads((house.root / parquet.MANIFEST).read_text())
    assert (manifest["run_id"], manifest["published_at"]) == (run_id, pointer.published_at.isoformat())


# --- a dying client ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_night_killed_after_a_step(house: House, step: str) -> None:
    before = published(house)
    choices = house.new_choices()
    with watched(house):
        with child(house.remote(), choices, die_after=step) as dying:
            assert dying.end() == -signal.SIGKILL
        assert [name for name, _ in dying.said] == ["began", *STEPS[: STEPS.index(step) + 1]]
        after = published(house)
        assert len(after) == len(before) + (step in COMMITTED)
        manifest = parquet.read_manifest(house.root)
        assert manifest is not None
        assert manifest["run_id"] == (after[-1] if step == "manifest" else before[-1])
        report = house.night(choices)  # the same night again: it is finished, not repeated
    assert len(published(house)) == len(before) + 1
    assert_whole(house, report)
    with QuestDB(house.address) as db:
        assert db.rows("SELECT count() FROM ac_runs WHERE state != 'complete'") == [(0,)]


def test_night_killed_at_random_times(house: House) -> None:
    rng = np.random.default_rng(20260107)
    with child(house.remote(), house.new_choices()) as unharmed:
        assert unharmed.end() == 0
    length = unharmed.lasted
    killed = 0
    with watched(house) as seen:
        for i in range(4 * N_RANDOM):
            if killed == N_RANDOM:
                break
            choices = house.new_choices()
            before = published(house)
            with child(house.remote(), choices) as dying:
                assert dying.listen() == "began"
                time.sleep(length * (i % N_RANDOM + rng.random()) / N_RANDOM)
                dying.process.kill()
                if dying.end() == -signal.SIGKILL:
                    killed += 1
                else:  # it was quicker than the first, which had the modules to load: so are those that follow
                    length = min(length, dying.lasted)
            after = published(house)
            assert len(after) - len(before) in (0, 1)
            assert len(after) > len(before) or not {"pointer", "manifest"} & {name for name, _ in dying.said}
            # The next night: the same one again, or another.
            report = house.night(choices if i % 2 else house.new_choices())
            assert_whole(house, report)
    assert killed == N_RANDOM
    assert seen.polls > N_RANDOM

    # What they left behind is swept, and nothing else.
    with QuestDB(house.address) as db:
        releases = Releases(db, house.root)
        releases.maintain(Retention(orphan_hours=0), datetime.now(UTC))
        assert db.rows("SELECT count() FROM ac_runs WHERE state = 'running'") == [(0,)]
        complete = {run_id for (run_id,) in db.rows("SELECT run_id FROM ac_runs WHERE state = 'complete'")}
        assert releases.maintain(Retention(orphan_hours=0), datetime.now(UTC)).empty
    assert {p.parent.name.removeprefix("run_id=") for p in house.root.rglob("*.parquet")} == complete
    assert_whole(house, report)


class Proxy:
    """Stands between a client and the server's HTTP; strikes in the middle of a request that writes trajectories.

    That request is passed on up to a share of its body (1: all of it, but the answer is kept back); then `strike` is
    called, and nothing passes any more.
    """

    def __init__(self, port: int, share: float, strike: Callable[[], object]):
        self._port, self._share, self._strike = port, share, strike
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.struck = threading.Event()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._open):
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._port))
                except OSError:
                    client.close()  # as the dead server would
                    continue
                self._open += [client, server]
                for way in (self._pass_on, self._bring_back):
                    threading.Thread(target=way, args=(client, server), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                while data.startswith(b"POST") and len(data.partition(b"\r\n\r\n")[2]) < 64:
                    data += client.recv(65_536)
                head, _, body = data.partition(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                if length and b"ac_trajectories" in body[:64] and not self.struck.is_set():
                    self.struck.set()
                    left = len(head) + 4 + int(int(length[1]) * self._share)
                    while data and left:
                        server.sendall(data[:left])
                        left -= min(left, len(data))
                        data = client.recv(65_536) if left else b""
                    time.sleep(0.2)  # the server has what there is, and has answered where it was all
                    self._strike()
                    break
                server.sendall(data)
        self._hang_up(client, server)

    def _bring_back(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (data := server.recv(65_536)) and not self.struck.is_set():
                client.sendall(data)
        self._hang_up(client, server)

    def _hang_up(self, *sockets: socket.socket) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["at its start", "in its middle", "before its answer"])
def test_night_killed_in_a_request(house: House, share: float) -> None:
    before = published(house)
    n_steps = 500 + house.nights
    choices = house.new_choices(n_steps)
    victim: list[BaseProcess] = []
    with watched(house):
        with (
            Proxy(house.address.http_port, share, lambda: victim[0].kill()) as proxy,
            child(house.remote(proxy.port), choices) as dying,
        ):
            victim.append(dying.process)
            assert dying.end() == -signal.SIGKILL
            assert proxy.struck.is_set()
        assert [name for name, _ in dying.said] == ["began"]
        assert published(house) == before
        # A request is one transaction: all of it arrived, or nothing.
        with QuestDB(house.address) as db:
            db.wait("ac_trajectories")
            ((rows,),) = db.rows("SELECT count() FROM ac_trajectories WHERE n_steps = %s", (n_steps,))
        report = house.night(choices)
    assert rows == (len(report.trajectories) if share == 1.0 else 0)
    assert len(published(house)) == len(before) + 1
    assert_whole(house, report)


# --- a dying server ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.5, 1.0], ids=["in a request", "before its answer"])
def test_server_killed_while_it_is_written_to(house: House, share: float) -> None:
    before = published(house)
    choices = house.new_choices(n_steps=500)
    with watched(house) as seen:
        with (
            Proxy(house.address.http_port, share, house.server.kill) as proxy,
            child(house.remote(proxy.port), choices) as failing,
        ):
            assert failing.end() == 1  # an error of its own, not a hang
            assert proxy.struck.is_set()
        house.restart()
        assert published(house) == before
        report = house.night(choices)
    assert len(published(house)) == len(before) + 1
    assert_whole(house, report)
    assert seen.outages > 0


@pytest.mark.parametrize("step", ["verified", "pointer"])
def test_server_killed_after_a_step(house: House, step: str) -> None:
    before = published(house)
    choices = house.new_choices()

    def on_step(done: str) -> None:
        if done == step:
            house.server.kill()

    with watched(house):
        with pytest.raises(ServerUnavailable, match=r"cannot be reached|broke off"):
            house.night(choices, on_step)
        house.restart()
        assert len(published(house)) == len(before) + (step in COMMITTED)  # what was acknowledged is kept
        report = house.night(choices)
    assert len(published(house)) == len(before) + 1
    assert_whole(house, report)


def test_server_down_at_the_start_is_said_in_a_line_and_changes_nothing(house: House) -> None:
    def everything() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in house.root.rglob("*") if p.is_file()}

    before, pointer = everything(), pointer_of(house)
    program = [sys.executable, "-c", "from tributary_opt.cli import app; app()", "night", "--as-of", str(AS_OF)]
    variables = {
        "TRIBUTARY_HOME": str(house.settings.home),
        "TRIBUTARY_QUESTDB__HTTP_PORT": str(_free_port()),
        "TRIBUTARY_QUESTDB__PG_PORT": str(_free_port()),
    }
    begin = time.monotonic()
    ended = subprocess.run(program, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "cannot be reached" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert time.monotonic() - begin < 30
    assert everything() == before
    assert pointer_of(house) == pointer


# --- twice, and two at once ----------------------------------------------------------------------------------


def test_same_night_twice_is_the_same_run_with_identical_rows(house: House) -> None:
    choices = house.new_choices()
    first = house.night(choices)
    before = published(house)
    with QuestDB(house.address) as db:
        tables = [db.query(f"SELECT * FROM {t.name} ORDER BY {', '.join(t.keys)}") for t in schema.RELEASE_TABLES]
    with child(house.remote(), choices) as again:  # another process
        assert again.end() == 0
    assert again.said[-1][0] == first.run.run_id
    second = house.night(choices)
    assert second.run.run_id == first.run.run_id
    assert second.parameters.equals(first.parameters)
    with QuestDB(house.address) as db:
        repeated = [db.query(f"SELECT * FROM {t.name} ORDER BY {', '.join(t.keys)}") for t in schema.RELEASE_TABLES]
    assert repeated == tables
    assert published(house) == before
    assert_whole(house, second)


@pytest.mark.parametrize("same", [True, False], ids=["the same", "different"])
def test_of_two_nights_at_once_one_waits_and_both_succeed(house: House, same: bool) -> None:
    before = published(house)
    choices = house.new_choices()
    others = choices if same else house.new_choices()
    with (
        watched(house),
        child(house.remote(), choices) as one,
        child(house.remote(), others) as other,
    ):
        assert (one.end(), other.end()) == (0, 0)
    first, second = sorted((dict(c.said) for c in (one, other)), key=lambda said: said["rows"])
    assert first["manifest"] <= second["rows"]
    runs = {one.said[-1][0], other.said[-1][0]}
    assert len(runs) == (1 if same else 2)
    assert set(published(house)[len(before) :]) == runs
    assert len(published(house)) == len(before) + len(runs)
    assert pointer_of(house).run_id == (max(one, other, key=lambda c: c.said[-1][1])).said[-1][0]
    last = choices if one.said[-1][0] == pointer_of(house).run_id else others
    assert_whole(house, house.night(last))
