"""One embedded QuestDB a test run, and where the recorded market data are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture(scope="session")
def questdb_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings whose home is the test run's own."""
    return Settings(home=tmp_path_factory.mktemp("home"), embedded_memory_mb=512, _env_file=None)


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
