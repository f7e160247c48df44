"""One embedded QuestDB a test run, and where the recorded market data are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tick_tables import empty

from tributary_opt.settings import QuestDBServer, Settings
from tributary_opt.storage import embedded
from tributary_opt.storage.questdb import QuestDB

_KEPT = {"TRIBUTARY_QUESTDB_JAR", "TRIBUTARY_RECORDED_DATA"}


# A test asks a query a few times at most, which the optimising compiler never pays back: a sixth of all processor time.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")


_LONGEST = ("test_up.py", "test_crashes.py", "test_cli.py", "test_flows.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes come first, the longest before all: no worker is left with one at the end."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer() -> None:
    for name in [name for name in os.environ if name.startswith("TRIBUTARY_") and name not in _KEPT]:
        del os.environ[name]


# What QuestDB takes in files for each column at least, in bytes: in memory it is not free as it is on a disk.
_SMALL = (
    "QDB_CAIRO_WRITER_DATA_APPEND_PAGE_SIZE",
    "QDB_CAIRO_WRITER_DATA_INDEX_KEY_APPEND_PAGE_SIZE",
    "QDB_CAIRO_WRITER_DATA_INDEX_VALUE_APPEND_PAGE_SIZE",
    "QDB_CAIRO_WAL_WRITER_DATA_APPEND_PAGE_SIZE",
    "QDB_CAIRO_O3_COLUMN_MEMORY_SIZE",
    "QDB_CAIRO_SYSTEM_WRITER_DATA_APPEND_PAGE_SIZE",
)
_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def questdb_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings whose home is the test run's own: in memory where there are 4 GB for it, else on the disk.

    A table made and dropped is a thousand files, which is most of what a disk has to do in a test run.
    """
    if not (_MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4e9):
        yield Settings(home=tmp_path_factory.mktemp("home"), embedded_memory_mb=512, _env_file=None)
        return
    for left in _MEMORY.glob("tributary-tests-*"):  # by a test run that was killed
        if not psutil.pid_exists(int(left.name.rpartition("-")[2])):
            shutil.rmtree(left, ignore_errors=True)
    home = _MEMORY / f"tributary-tests-{os.getpid()}"
    home.mkdir()
    yield Settings(home=home, embedded_memory_mb=512, _env_file=None)
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def questdb_server(questdb_settings: Settings) -> Iterator[QuestDBServer]:
    """The run's own QuestDB, started once; dev mode allows tests to suspend a table.

    It does not sync to disk, which nobody needs who does not kill it: the servers of `test_crashes.py` do. It keeps no
    query plans: between tests their tables are dropped, and every stale plan is an error in its log.
    """
    extra = {
        "QDB_DEV_MODE_ENABLED": "true",
        "QDB_CAIRO_COMMIT_MODE": "nosync",
        "QDB_HTTP_QUERY_CACHE_ENABLED": "false",
        "QDB_PG_SELECT_CACHE_ENABLED": "false",
        **dict.fromkeys(_SMALL, "65536"),
    }
    running = embedded.start(questdb_settings, extra)
    try:
        yield running.server
    finally:
        running.stop()


@pytest.fixture
def db(questdb_server: QuestDBServer) -> Iterator[QuestDB]:
    """The run's QuestDB, emptied of every table and view."""
    with QuestDB(questdb_server) as db:
        empty(db)
        yield db


@pytest.fixture(scope="session")
def recorded_data() -> Path:
    """The folder of the recorded sets; without them the test is skipped."""
    named = os.environ.get("TRIBUTARY_RECORDED_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no recorded data: set TRIBUTARY_RECORDED_DATA to their folder")
    return folder
