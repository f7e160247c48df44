"""The schedule book while releases come, go and lie about in pieces: on QuestDB, and on the Parquet beside it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from book_release import AS_OF, NOW, market, rows, run_row

from tributary_opt.schedule_book import BookError, ScheduleBook
from tributary_opt.schedule_book.evidence import explain
from tributary_opt.settings import Grid
from tributary_opt.storage.migration import migrate
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.releases import Releases

pytestmark = pytest.mark.questdb

MONDAY, TUESDAY = date(2026, 3, 2), AS_OF
ONE, TWO, PART = "1" * 16, "2" * 16, "9" * 16
SMALL = Grid(order_sizes_pct_adv=(1.0,))


class Killed(BaseException):
    """Stands for a process that dies."""


@pytest.fixture
def releases(db: QuestDB, tmp_path: Path) -> Releases:
    migrate(db)
    return Releases(db, tmp_path / "parquet")


def publish(releases: Releases, run_id: str, as_of: date, sigma: float, scope: str = "whole", die: str = "") -> None:
    def on_step(step: str) -> None:
        if step == die:
            raise Killed

    made = rows((market("ALPHA", sigma=sigma),), SMALL)
    releases.publish(run_row(run_id, as_of, scope), *made, on_step=on_step)


def books(db: QuestDB, releases: Releases) -> list[ScheduleBook]:
    return [ScheduleBook.open(source, clock=lambda: NOW) for source in (db, releases.root)]


def test_the_run_before_is_the_one_that_was_current_before(db: QuestDB, releases: Releases) -> None:
    def before(book: ScheduleBook) -> tuple[str | None, float | None, float]:
        found = explain(book, "ALPHA").set_index("name")
        return found["before"]["run_id"], found["before"]["sigma"], found["change_pct"]["sigma"]

    publish(releases, ONE, MONDAY, 0.8)
    for book in books(db, releases):
        assert before(book)[:2] == (None, None)
    publish(releases, PART, MONDAY, 0.5, scope="partial")  # newer on the disk, never current
    publish(releases, TWO, TUESDAY, 1.0)
    for book in books(db, releases):
        assert before(book) == (ONE, 0.8, pytest.approx(25.0))
    releases.rollback(ONE)
    for book in books(db, releases):
        assert before(book) == (TWO, 1.0, pytest.approx(-20.0))


def test_a_manifest_that_lags_is_an_older_release_until_it_is_repaired(db: QuestDB, releases: Releases) -> None:
    publish(releases, ONE, MONDAY, 0.8)
    files = ScheduleBook.open(releases.root, clock=lambda: NOW)
    with pytest.raises(Killed):
        publish(releases, TWO, TUESDAY, 1.0, die="pointer")
    assert not files.refresh()
    late = files.schedule("ALPHA", 100.0, urgency=1.0)
    assert (late.params["run_id"], late.params["as_of"], late.params["sigma"]) == (ONE, MONDAY, 0.8)
    assert ScheduleBook.open(db, clock=lambda: NOW).run_id == TWO
    assert releases.repair()
    assert files.refresh()
    assert files.schedule("ALPHA", 100.0, urgency=1.0).params["sigma"] == 1.0
    # What was planned on the old release stays one of it.
    assert files.replan(late, 50.0, 0.5).params["run_id"] == ONE


def test_a_release_published_while_the_book_reads_is_not_mixed_in(db: QuestDB, releases: Releases) -> None:
    publish(releases, ONE, TUESDAY, 0.8)
    opened = books(db, releases)
    publish(releases, TWO, TUESDAY, 1.0)
    for book in opened:  # the schedules are read only now
        old = book.schedule("ALPHA", 1_000.0, urgency=1.0)
        assert (old.params["run_id"], old.params["sigma"], old.params["source"]) == (ONE, 0.8, "published")
        assert book.refresh()
        new = book.schedule("ALPHA", 1_000.0, urgency=1.0)
        assert (new.params["run_id"], new.params["sigma"], new.params["source"]) == (TWO, 1.0, "published")
        assert new.risk_aversion != old.risk_aversion
        # What changed since the release before: λ of the same urgency, so that κ is the same and the risk is not.
        found = explain(book, "ALPHA").set_index("name")
        assert found["before"]["kappa"] == found["value"]["kappa"]
        assert found["change_pct"]["cost_sd_bps"] == pytest.approx(25.0)


def test_schedules_swept_away_under_the_book_are_said_to_be_missing(db: QuestDB, releases: Releases) -> None:
    publish(releases, ONE, TUESDAY, 0.8)
    book = ScheduleBook.open(db, clock=lambda: NOW)
    db.execute("TRUNCATE TABLE ac_trajectories")
    db.wait("ac_trajectories")
    with pytest.raises(BookError, match="parameters but no schedules for 'ALPHA'"):
        book.schedule("ALPHA", 1_000.0, urgency=1.0)


@pytest.mark.parametrize("table", ["ac_parameters", "ac_trajectories", "ac_runs"])
def test_a_release_with_one_table_empty_is_refused(db: QuestDB, releases: Releases, table: str) -> None:
    publish(releases, ONE, TUESDAY, 0.8)
    db.execute(f"TRUNCATE TABLE {table}")
    db.wait(table)
    said = "of its None rows" if table == "ac_runs" else f"{table} has 0 of its"
    with pytest.raises(BookError, match=said):
        ScheduleBook.open(db)


@pytest.mark.parametrize("table", ["ac_parameters", "ac_trajectories", "ac_published", "ac_runs"])
def test_a_database_with_a_table_missing_says_which(db: QuestDB, releases: Releases, table: str) -> None:
    publish(releases, ONE, TUESDAY, 0.8)
    for view in db.rows("SELECT view_name FROM views()"):
        db.execute(f'DROP VIEW "{view[0]}"')
    db.execute(f"DROP TABLE {table}")
    with pytest.raises(BookError, match=f"the database lacks {table}: publish a night"):
        ScheduleBook.open(db)


def test_a_pointer_to_a_run_without_rows_is_refused(db: QuestDB, releases: Releases) -> None:
    publish(releases, ONE, TUESDAY, 0.8)
    db.execute(
        "INSERT INTO ac_published (published_at, dataset, run_id, as_of, schema_version, reason) "
        "VALUES (%s, 'ac', 'nobody', %s, 1, 'night')",
        (datetime.now(UTC), datetime(2026, 3, 3, tzinfo=UTC)),
    )
    db.wait("ac_published")
    with pytest.raises(BookError, match="run nobody is current, but ac_parameters has 0 of its None rows"):
        ScheduleBook.open(db)
