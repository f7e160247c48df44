"""Publishing: what becomes current and when, what a reader sees, one publisher at a time."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nights import (
    MONDAY,
    N_STEPS,
    TUESDAY,
    VIEWS,
    WEDNESDAY,
    Killed,
    a_run,
    current_run,
    few_columns_of_parameters,
    files,
    killed_after,
    made,
    pointers,
    publish,
    seen,
    whole,
)

from tributary_opt import schema
from tributary_opt.settings import QuestDBServer, Retention
from tributary_opt.storage import parquet, release_rows
from tributary_opt.storage import releases as module
from tributary_opt.storage.frames import canonical
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.releases import STEPS, ReleaseError, Releases

pytestmark = pytest.mark.questdb


# --- the pointer rule ----------------------------------------------------------------------------------------


def test_rows_sent_in_many_requests_are_one_release(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows whether they are sent at once or four at a time, schedules as arrays or as Arrow lists."""
    parameters, trajectories = made("x")
    trajectories.loc[1, "remaining"] = None
    lists = pa.array(trajectories["remaining"], pa.list_(pa.float64()))
    monkeypatch.setattr(release_rows, "ROWS_AT_ONCE", 4)
    in_lists = trajectories.assign(remaining=pd.arrays.ArrowExtensionArray(lists))
    outcome = releases.publish(a_run(MONDAY, "x"), parameters, in_lists)
    assert outcome.current
    stored = releases.read(schema.TRAJECTORIES, MONDAY, outcome.run_id)
    assert stored["remaining"].to_pylist() == lists.to_pylist()
    monkeypatch.undo()
    assert releases.publish(a_run(TUESDAY, "x"), parameters, trajectories).digests.keys() == outcome.digests.keys()
    again = releases.read(schema.TRAJECTORIES, TUESDAY, a_run(TUESDAY, "x").run_id)
    key = ["as_of", "run_id"]
    assert again.drop_columns(key).equals(stored.drop_columns(key))


def test_first_night_is_current_everywhere(releases: Releases, db: QuestDB) -> None:
    outcome = publish(releases, MONDAY)
    pointer = releases.current()
    assert pointer is not None
    assert (outcome.current, outcome.reason) == (True, "current")
    assert (pointer.run_id, pointer.as_of, pointer.reason) == (outcome.run_id, MONDAY, "night")
    assert seen(db) == whole(outcome.run_id)
    assert current_run(releases.root) == outcome.run_id
    assert releases.lag() is None


def test_before_the_first_night_there_is_nothing_current(releases: Releases) -> None:
    assert releases.current() is None
    assert releases.lag() is None
    assert not releases.repair()
    assert releases.runs().empty
    assert releases.maintain(Retention(), datetime.now(UTC)).empty
    with pytest.raises(ReleaseError, match="'0123' is unknown"):
        releases.rollback("0123")


def test_later_night_replaces_an_earlier_one(releases: Releases, db: QuestDB) -> None:
    publish(releases, MONDAY)
    outcome = publish(releases, TUESDAY)
    assert seen(db) == whole(outcome.run_id)
    assert current_run(releases.root) == outcome.run_id


def test_older_night_is_stored_and_leaves_tonight_current(releases: Releases, db: QuestDB) -> None:
    tonight = publish(releases, WEDNESDAY)
    before = pointers(db)
    backfill = publish(releases, MONDAY)
    assert (backfill.current, backfill.reason) == (False, f"complete, not current: {WEDNESDAY} is current already")
    assert pointers(db) == before
    assert seen(db) == whole(tonight.run_id)
    assert current_run(releases.root) == tonight.run_id
    row = releases.run(backfill.run_id)
    assert row is not None
    assert row["state"] == "complete"
    assert releases.read(schema.TRAJECTORIES, MONDAY, backfill.run_id).num_rows == 6
    for table in schema.RELEASE_TABLES:
        assert (releases.root / parquet.release_file(table, MONDAY, backfill.run_id)).is_file()


def test_new_run_of_the_same_day_moves_the_pointer(releases: Releases, db: QuestDB) -> None:
    publish(releases, MONDAY, "first")
    second = publish(releases, MONDAY, "second", n_markets=4)
    assert second.current
    assert seen(db) == whole(second.run_id, 4)
    assert current_run(releases.root) == second.run_id


@pytest.mark.parametrize("scope", ["partial", "parameters"])
def test_run_of_less_than_everything_is_never_current(releases: Releases, db: QuestDB, scope: str) -> None:
    tonight = publish(releases, MONDAY)
    outcome = publish(releases, TUESDAY, scope=scope)
    assert (outcome.current, outcome.reason) == (False, f"stored, not current: scope {scope}")
    assert seen(db) == whole(tonight.run_id)
    with pytest.raises(ReleaseError, match=f"is complete, scope {scope}: only a complete, whole run can be current"):
        releases.rollback(outcome.run_id)


def test_rollback_and_then_the_same_night_again(releases: Releases, db: QuestDB) -> None:
    monday, tuesday = publish(releases, MONDAY), publish(releases, TUESDAY)
    pointer = releases.rollback(monday.run_id)
    assert (pointer.run_id, pointer.as_of, pointer.reason) == (monday.run_id, MONDAY, "rollback")
    assert pointer == releases.current()
    assert seen(db) == whole(monday.run_id)
    assert current_run(releases.root) == monday.run_id

    again = publish(releases, TUESDAY)
    assert (again.run_id, again.current) == (tuesday.run_id, True)
    assert [(run_id, reason) for _, run_id, reason in pointers(db)] == [
        (monday.run_id, "night"),
        (tuesday.run_id, "night"),
        (monday.run_id, "rollback"),
        (tuesday.run_id, "night"),
    ]
    assert seen(db) == whole(tuesday.run_id)
    assert current_run(releases.root) == tuesday.run_id


def test_rollback_refuses_what_cannot_be_current(releases: Releases, db: QuestDB) -> None:
    with pytest.raises(Killed):
        publish(releases, MONDAY, on_step=killed_after("rows"))
    tonight = publish(releases, TUESDAY)
    before = pointers(db)
    with pytest.raises(ReleaseError, match="is running, scope whole"):
        releases.rollback(a_run(MONDAY, "").run_id)
    with pytest.raises(ReleaseError, match="is current already"):
        releases.rollback(tonight.run_id)
    with pytest.raises(ReleaseError, match="is unknown; `tributary-opt runs` lists them"):
        releases.rollback("'; DROP TABLE ac_published; --")
    assert pointers(db) == before


def test_published_at_rises_when_the_clock_goes_back(
    releases: Releases, db: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        at = datetime(2026, 3, 1, tzinfo=UTC)

        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return cls.at

    monkeypatch.setattr(module, "datetime", Clock)
    publish(releases, MONDAY)
    Clock.at -= timedelta(hours=1)
    last = publish(releases, TUESDAY)
    assert releases.current() is not None
    releases.rollback(publish_id := a_run(MONDAY, "").run_id)
    stamps = [stamp for stamp, *_ in pointers(db)]
    first = datetime(2026, 3, 1, tzinfo=UTC)
    assert stamps == [first, first + timedelta(microseconds=1), first + timedelta(microseconds=2)]
    assert (current_run(releases.root), last.current) == (publish_id, True)


# --- the same run again --------------------------------------------------------------------------------------


def test_same_run_twice_is_one_release_with_the_same_rows(releases: Releases, db: QuestDB) -> None:
    def stored() -> list[pa.Table]:
        return [db.query(f"SELECT * FROM {t.name} ORDER BY {', '.join(t.keys)}") for t in schema.RELEASE_TABLES]

    first = publish(releases, MONDAY)
    rows, published, on_disk = stored(), pointers(db), files(releases.root)
    second = publish(releases, MONDAY)
    assert (second.run_id, second.current, second.reason) == (first.run_id, True, "already current")
    assert second.digests == first.digests
    assert stored() == rows
    assert pointers(db) == published
    assert files(releases.root) == on_disk
    assert db.rows("SELECT count() FROM ac_runs") == [(1,)]


@pytest.mark.parametrize("step", STEPS)
def test_run_killed_after_a_step_is_finished_by_the_next(releases: Releases, db: QuestDB, step: str) -> None:
    yesterday = publish(releases, MONDAY)
    with pytest.raises(Killed):
        publish(releases, TUESDAY, n_markets=4, on_step=killed_after(step))
    run_id = a_run(TUESDAY, "").run_id
    committed = STEPS.index(step) >= STEPS.index("pointer")
    row = releases.run(run_id)
    assert row is not None
    assert row["state"] == ("complete" if committed else "running")
    assert (row["finished_at"] is not None) == committed
    assert seen(db) == (whole(run_id, 4) if committed else whole(yesterday.run_id))
    assert current_run(releases.root) == (run_id if step == "manifest" else yesterday.run_id)

    assert releases.repair() == (step == "pointer")
    assert current_run(releases.root) == (run_id if committed else yesterday.run_id)
    again = publish(releases, TUESDAY, n_markets=4)
    assert (again.run_id, again.reason) == (run_id, "already current" if committed else "current")
    assert seen(db) == whole(run_id, 4)
    assert current_run(releases.root) == run_id
    assert len(pointers(db)) == 2
    assert db.rows("SELECT run_id, count() FROM ac_trajectories GROUP BY run_id ORDER BY count()") == [
        (yesterday.run_id, 6),
        (run_id, 8),
    ]


def test_row_of_a_run_says_what_it_made_and_forgets_the_failure_before(releases: Releases) -> None:
    run = a_run(MONDAY, "")
    releases.record(dataclasses.replace(run, state="failed", finished_at=datetime.now(UTC), error="no space"))
    publish(releases, MONDAY)
    row = releases.run(run.run_id)
    assert row is not None
    assert (row["state"], row["error"]) == ("complete", None)
    assert (row["n_markets"], row["n_ok"], row["n_refused"], row["n_trajectories"]) == (3, 3, 0, 6)
    assert (row["window_start"].date(), row["window_end"].date()) == (MONDAY - timedelta(days=29), MONDAY)
    assert json.loads(row["settings"]) == {"tag": ""}


def test_complete_run_stays_complete_whatever_a_repetition_says(releases: Releases) -> None:
    publish(releases, MONDAY)
    run = a_run(MONDAY, "")
    before = releases.run(run.run_id)
    releases.record(dataclasses.replace(run, state="failed", error="the repetition failed"))
    assert releases.run(run.run_id) == before


def test_night_in_which_every_market_is_refused_is_published(releases: Releases, db: QuestDB) -> None:
    parameters, trajectories = made("x")
    outcome = releases.publish(a_run(MONDAY, "x"), parameters.assign(status="refused"), trajectories.iloc[:0])
    assert outcome.current
    assert seen(db) == {("ac_parameters_current", outcome.run_id, 3)}
    assert current_run_counts(releases.root) == {"ac_parameters": 3, "ac_trajectories": 0}
    shutil.rmtree(releases.root)
    assert releases.repair()
    assert current_run_counts(releases.root) == {"ac_parameters": 3, "ac_trajectories": 0}


def current_run_counts(root: Path) -> dict[str, int]:
    manifest = json.loads((root / "current.json").read_text())
    return {name: pq.read_table(root / e["path"]).num_rows for name, e in manifest["tables"].items()}


# --- views ---------------------------------------------------------------------------------------------------


def test_views_show_one_night_whole(releases: Releases, db: QuestDB) -> None:
    publish(releases, MONDAY)
    publish(releases, TUESDAY, "other")
    tonight = publish(releases, TUESDAY)
    publish(releases, MONDAY, "backfill")
    publish(releases, WEDNESDAY, scope="partial")
    with pytest.raises(Killed):
        publish(releases, WEDNESDAY, on_step=killed_after("parquet"))
    for table, view in zip(schema.RELEASE_TABLES, VIEWS[:2], strict=True):
        shown = db.query(f"SELECT * FROM {view}")
        assert shown.column_names == table.names
        assert canonical(table, shown) == releases.read(table, TUESDAY, tonight.run_id)

    steps = db.query("SELECT * FROM ac_steps_current").to_pandas().sort_values(["market_id", "strategy", "step"])
    _, trajectories = made(f"{TUESDAY}")
    trajectories = trajectories.sort_values(["market_id", "strategy"])
    assert steps["step"].tolist() == list(range(N_STEPS + 1)) * 6
    assert steps["time_days"].tolist() == [j / N_STEPS for j in range(N_STEPS + 1)] * 6
    assert steps["remaining"].tolist() == np.concatenate(list(trajectories["remaining"])).tolist()


def test_history_gives_what_was_current_at_any_time(releases: Releases, db: QuestDB) -> None:
    monday = publish(releases, MONDAY)
    tuesday = publish(releases, TUESDAY, n_markets=4)
    publish(releases, MONDAY, "backfill")
    releases.rollback(monday.run_id)
    shown = db.rows(
        "SELECT published_at, run_id, count() FROM ac_parameters_history GROUP BY published_at, run_id "
        "ORDER BY published_at"
    )
    assert [row[0] for row in shown] == [row[0] for row in pointers(db)]
    assert [row[1:] for row in shown] == [(monday.run_id, 3), (tuesday.run_id, 4), (monday.run_id, 3)]


# --- one at a time -------------------------------------------------------------------------------------------


def _publish_elsewhere(server: QuestDBServer, root: Path, tag: str, began: Event, go_on: Event) -> None:
    def on_step(step: str) -> None:
        if step == "rows":
            began.set()
            assert go_on.wait(60)

    with few_columns_of_parameters(), QuestDB(server) as db:
        publish(Releases(db, root), MONDAY, tag, on_step=on_step)


def test_of_two_publishing_processes_one_waits(releases: Releases, db: QuestDB) -> None:
    context = multiprocessing.get_context("spawn")
    go_on = context.Event()
    processes, began = {}, {}
    for tag in ("first", "second"):
        began[tag] = context.Event()
        args = (db.server, releases.root, tag, began[tag], go_on)
        processes[tag] = context.Process(target=_publish_elsewhere, args=args)
        processes[tag].start()
        if tag == "first":
            assert began["first"].wait(60)
    with pytest.raises(ReleaseError, match="another run held"), releases.lock(timeout_s=0):
        pass
    assert not began["second"].wait(2)
    assert pointers(db) == []
    go_on.set()
    for process in processes.values():
        process.join(60)
    assert [process.exitcode for process in processes.values()] == [0, 0]
    assert [run_id for _, run_id, _ in pointers(db)] == [a_run(MONDAY, tag).run_id for tag in ("first", "second")]
    assert seen(db) == whole(a_run(MONDAY, "second").run_id)
    assert current_run(releases.root) == a_run(MONDAY, "second").run_id


def test_lock_of_a_dead_process_is_free(releases: Releases, db: QuestDB) -> None:
    context = multiprocessing.get_context("spawn")
    began, never = context.Event(), context.Event()
    process = context.Process(target=_publish_elsewhere, args=(db.server, releases.root, "dead", began, never))
    process.start()
    assert began.wait(60)
    os.kill(process.pid or 0, 9)
    process.join(60)
    with releases.lock(timeout_s=0):
        pass
    assert publish(releases, MONDAY).current


def test_second_host_that_publishes_is_noticed(
    releases: Releases, db: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = db.execute

    def outrun(sql: str, params: tuple[object, ...] = ()) -> None:
        execute(sql, params)
        if sql.startswith("INSERT INTO ac_published"):
            execute(sql, (params[0] + timedelta(seconds=1), params[1], "another", *params[3:]))  # type: ignore[operator]

    monkeypatch.setattr(db, "execute", outrun)
    with pytest.raises(ReleaseError, match="the pointer names another: something else publishes to this database"):
        publish(releases, MONDAY)
