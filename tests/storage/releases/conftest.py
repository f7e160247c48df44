"""Our tables in the run's QuestDB, empty, and releases over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nights import few_columns_of_parameters

from tributary_opt import schema
from tributary_opt.settings import QuestDBServer
from tributary_opt.storage import release_rows
from tributary_opt.storage.migration import migrate
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.releases import Releases


@pytest.fixture(scope="module")
def few_columns() -> Iterator[None]:
    """`ac_parameters` as `nights.few_columns` has it."""
    with few_columns_of_parameters():
        yield


@pytest.fixture(scope="module")
def migrated(questdb_server: QuestDBServer, few_columns: None) -> Iterator[QuestDB]:
    """The run's QuestDB with our tables and views and nothing else."""
    with QuestDB(questdb_server) as db:
        for (view,) in db.rows("SELECT view_name FROM views()"):
            db.execute(f'DROP VIEW "{view}"')
        for table in db.tables():
            db.execute(f'DROP TABLE "{table}"')
        migrate(db)
        yield db


@pytest.fixture
def db(migrated: QuestDB, monkeypatch: pytest.MonkeyPatch) -> QuestDB:
    """Our tables, empty: truncated, which takes a twentieth of the time of making them anew. Rows go two at a time."""
    monkeypatch.setattr(release_rows, "ROWS_AT_ONCE", 2)
    for table in schema.TABLES:
        migrated.execute(f"TRUNCATE TABLE {table}")
    for table in schema.TABLES:
        migrated.wait(table)
    return migrated


@pytest.fixture
def releases(db: QuestDB, tmp_path: Path) -> Releases:
    """Nothing published yet."""
    return Releases(db, tmp_path / "parquet")
