"""What is kept of old nights, and what is swept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nights import (
    MONDAY,
    TUESDAY,
    WEDNESDAY,
    Killed,
    a_run,
    current_run,
    files,
    killed_after,
    publish,
    seen,
    whole,
)

from tributary_opt import schema
from tributary_opt.report.page import parameter_history
from tributary_opt.settings import Retention
from tributary_opt.storage import parquet
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.releases import ReleaseError, Releases

pytestmark = pytest.mark.questdb


LATER = timedelta(days=2)


def partitions(db: QuestDB) -> list[str]:
    db.wait("ac_trajectories")
    return [name for (name,) in db.rows("SELECT name FROM table_partitions('ac_trajectories') ORDER BY name")]


def state_of_everything(db: QuestDB, root: Path) -> object:
    tables = [db.query(f"SELECT * FROM {name}").to_pylist() for name in sorted(schema.TABLES)]
    return repr(tables), files(root)


def test_thirty_nights_is_what_is_kept_by_default() -> None:
    assert Retention().trajectory_nights == 30


def test_trajectories_of_old_nights_go_and_parameters_stay(releases: Releases, db: QuestDB) -> None:
    days = [MONDAY + timedelta(days=i) for i in range(5)]
    runs = [publish(releases, day) for day in days]
    parameters = db.query("SELECT * FROM ac_parameters")
    now = datetime.now(UTC) + LATER

    before = state_of_everything(db, releases.root)
    planned = releases.maintain(Retention(trajectory_nights=3), now, dry_run=True)
    assert state_of_everything(db, releases.root) == before
    done = releases.maintain(Retention(trajectory_nights=3), now)
    assert done.equals(planned)
    assert set(done["why"]) == {"older than the nights kept"}
    assert list(done["action"]) == ["drop partition"] * 2 + ["delete files"] * 2

    assert partitions(db) == [str(day) for day in days[2:]]
    assert db.query("SELECT * FROM ac_parameters") == parameters
    assert sorted(p.name for p in (releases.root / "ac_trajectories").iterdir()) == [f"as_of={d}" for d in days[2:]]
    assert len(list((releases.root / "ac_parameters").glob("*/*/*.parquet"))) == 5
    assert seen(db) == whole(runs[-1].run_id)
    assert releases.maintain(Retention(trajectory_nights=3), now).empty

    with pytest.raises(ReleaseError, match=r"ac_trajectories no longer holds run \w+ as it was published \(0 rows\)"):
        releases.rollback(runs[0].run_id)
    assert releases.rollback(runs[2].run_id).as_of == days[2]
    # A night that was swept can be computed again.
    assert publish(releases, days[0]).reason.startswith("complete, not current")
    assert len(releases.read(schema.TRAJECTORIES, days[0], runs[0].run_id)) == 6


def test_reports_go_with_the_trajectories_of_their_night(releases: Releases) -> None:
    days = [MONDAY + timedelta(days=i) for i in range(4)]
    pages = [parquet.write_page(releases.root, "x", day, publish(releases, day).run_id) for day in days]
    with pytest.raises(Killed):
        publish(releases, days[3], "killed", on_step=killed_after("rows"))
    orphan = parquet.write_page(releases.root, "x", days[3], a_run(days[3], "killed").run_id)
    done = releases.maintain(Retention(trajectory_nights=3), datetime.now(UTC) + LATER)
    assert {name for name in done["name"] if name.startswith("reports/")} == {
        page.parent.relative_to(releases.root).as_posix() for page in (pages[0], orphan)
    }
    assert [page.exists() for page in (*pages, orphan)] == [False, True, True, True, False]


def test_the_reports_history_says_which_nights_it_could_not_read(
    releases: Releases, caplog: pytest.LogCaptureFixture
) -> None:
    days = [MONDAY, TUESDAY, WEDNESDAY]
    runs = [publish(releases, day).run_id for day in days]
    gone, torn, _ = (
        releases.root / parquet.release_file(schema.PARAMETERS, day, run) for day, run in zip(days, runs, strict=True)
    )
    gone.unlink()
    torn.write_bytes(torn.read_bytes()[:-100])
    history = parameter_history(releases, WEDNESDAY)
    assert set(history.rows["as_of"]) == {str(WEDNESDAY)}
    assert history.left_out == (
        f"{TUESDAY} (run {runs[1]}): its file cannot be read",
        f"{MONDAY} (run {runs[0]}): its file is gone",
    )
    assert all(any(said in line for line in caplog.messages) for said in history.left_out)


def test_current_run_and_all_that_is_younger_are_kept_however_old(releases: Releases, db: QuestDB) -> None:
    days = [MONDAY + timedelta(days=i) for i in range(5)]
    runs = [publish(releases, day) for day in days]
    releases.rollback(runs[1].run_id)
    releases.maintain(Retention(trajectory_nights=1), datetime.now(UTC) + LATER)
    assert partitions(db) == [str(day) for day in days[1:]]
    assert seen(db) == whole(runs[1].run_id)
    assert current_run(releases.root) == runs[1].run_id
    releases.rollback(runs[3].run_id)


def test_night_of_some_markets_does_not_push_a_whole_one_out(releases: Releases, db: QuestDB) -> None:
    runs = [publish(releases, day) for day in (MONDAY, TUESDAY)]
    for i in range(3):
        publish(releases, WEDNESDAY + timedelta(days=i), scope="partial")
    releases.maintain(Retention(trajectory_nights=2), datetime.now(UTC) + LATER)
    assert releases.rollback(runs[0].run_id).as_of == MONDAY


@pytest.mark.parametrize("step", ["rows", "parquet"])
def test_what_a_killed_run_left_is_swept(releases: Releases, db: QuestDB, step: str) -> None:
    good = publish(releases, MONDAY)
    with pytest.raises(Killed):
        publish(releases, MONDAY, "killed", on_step=killed_after(step))
    with pytest.raises(Killed):
        publish(releases, TUESDAY, on_step=killed_after(step))
    staged = releases.root / parquet.STAGING / "99999-dead.parquet"
    staged.parent.mkdir(exist_ok=True)
    staged.write_bytes(b"half")
    young = datetime.now(UTC)
    assert releases.maintain(Retention(), young).empty  # may be at work still
    now = young + LATER
    before = state_of_everything(db, releases.root)
    planned = releases.maintain(Retention(), now, dry_run=True)
    assert state_of_everything(db, releases.root) == before
    assert releases.maintain(Retention(), now).equals(planned)

    assert partitions(db) == [str(MONDAY)]  # nobody reads the killed run's rows beside the good ones
    assert not staged.exists()
    assert sorted(p.parent.name for p in releases.root.rglob("*.parquet")) == [f"run_id={good.run_id}"] * 2
    assert not list(releases.root.glob(f"*/as_of={TUESDAY}"))
    runs = releases.runs()
    assert dict(zip(runs["run_id"], runs["state"], strict=True)) == {
        good.run_id: "complete",
        a_run(MONDAY, "killed").run_id: "failed",
        a_run(TUESDAY, "").run_id: "failed",
    }
    assert seen(db) == whole(good.run_id)
    assert releases.maintain(Retention(), now).empty
    # Both can be run again.
    assert publish(releases, MONDAY, "killed").current
    assert publish(releases, TUESDAY).current


def test_rows_of_a_young_run_are_kept_beside_an_orphan(releases: Releases, db: QuestDB) -> None:
    with pytest.raises(Killed):
        publish(releases, MONDAY, "old", on_step=killed_after("rows"))
    db.execute("UPDATE ac_runs SET started_at = '2020-01-01'")
    with pytest.raises(Killed):
        publish(releases, MONDAY, "young", on_step=killed_after("rows"))
    done = releases.maintain(Retention(), datetime.now(UTC))
    assert list(done["action"]) == ["mark failed"]
    assert len(releases.read(schema.TRAJECTORIES, MONDAY, a_run(MONDAY, "young").run_id)) == 6


def test_files_of_a_run_the_database_does_not_know_are_left_alone(releases: Releases) -> None:
    publish(releases, MONDAY)
    strange = releases.root / "ac_parameters" / "as_of=2030-01-01" / "run_id=ffff" / "part-0.parquet"
    strange.parent.mkdir(parents=True)
    strange.write_bytes(b"another database's")
    assert releases.maintain(Retention(orphan_hours=0), datetime.now(UTC) + LATER).empty
    assert strange.exists()
