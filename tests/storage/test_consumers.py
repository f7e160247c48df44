"""docs/consumers.md as it stands: every snippet runs and sees the release that was published."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from book_release import NOW, publish, rows, run_row

from tributary_opt.schedule_book import BookError, ScheduleBook
from tributary_opt.settings import QuestDBServer
from tributary_opt.storage.migration import migrate
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.releases import Releases

PAGE = Path(__file__).parents[2] / "docs" / "consumers.md"
N_POINTS = 6 * 5 * 2


def result_of(name: str, **given: Any) -> Any:
    (code,) = re.findall(rf"```python {name}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    exec(compile(code, f"{PAGE.name}: {name}", "exec"), given)
    return given["result"]


@pytest.mark.parametrize("name", ["pandas", "polars", "duckdb"])
def test_files_are_read_as_the_page_says(tmp_path: Path, name: str) -> None:
    made = publish(tmp_path)
    made = made[(made["market_id"] == "ALPHA") & (made["strategy"] == "almgren_chriss") & (made["status"] == "ok")]
    found = result_of(name, root=tmp_path)
    if name != "pandas":
        found = found.to_pandas()
    assert len(found) == N_POINTS == len(made)
    assert sorted(found["expected_cost"]) == sorted(made["expected_cost"])


@pytest.fixture
def run_id(db: QuestDB, tmp_path: Path) -> str:
    """A release in the run's QuestDB and beside it as Parquet."""
    migrate(db)
    run = run_row()
    assert Releases(db, tmp_path / "parquet").publish(run, *rows()).current
    return run.run_id


@pytest.mark.questdb
def test_sql_over_the_wire_and_the_book_on_questdb_see_the_same_release(
    db: QuestDB, questdb_server: QuestDBServer, run_id: str, tmp_path: Path
) -> None:
    where = f"host={questdb_server.host} port={questdb_server.pg_port} user=admin password=quest dbname=qdb"
    with psycopg.connect(where, autocommit=True) as connection:
        found = result_of("sql", connection=connection)
    assert len(found) == N_POINTS
    with (
        ScheduleBook.open(db, clock=lambda: NOW) as live,
        ScheduleBook.open(tmp_path / "parquet", clock=lambda: NOW) as files,
    ):
        assert live.run_id == files.run_id == run_id
        for name in ("ALPHA", "'; DROP TABLE ac_runs; --"):
            for size in (found[0][0], 321.0):
                one, two = (book.schedule(name, size, urgency=3.0) for book in (live, files))
                assert one.holdings.tobytes() == two.holdings.tobytes()
                assert one.total_cost_estimate == two.total_cost_estimate
    db.execute("TRUNCATE TABLE ac_trajectories")
    db.wait("ac_trajectories")
    with pytest.raises(BookError, match="ac_trajectories has 0 of its"):
        ScheduleBook.open(db)


@pytest.mark.questdb
def test_database_without_our_tables_or_without_a_release_says_so(db: QuestDB, questdb_server: QuestDBServer) -> None:
    with pytest.raises(BookError, match="lacks ac_parameters"):
        ScheduleBook.open(questdb_server)
    migrate(db)
    with pytest.raises(BookError, match="no published release"):
        ScheduleBook.open(questdb_server)
