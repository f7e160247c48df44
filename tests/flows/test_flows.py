"""Whole flows on a small sample: the embedded QuestDB, a Prefect server of the tests' own."""

from __future__ import annotations

import json
import socket
import time
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.settings import PREFECT_EVENTS_RETENTION_PERIOD, temporary_settings

from flows import tasks
from flows.backfill import backfill
from flows.maintenance import maintenance
from flows.nightly import nightly
from flows.precompute import precompute
from flows.recalibrate import recalibrate
from tributary_opt import schema
from tributary_opt.night import Night, open_night, run_night
from tributary_opt.settings import Grid, Retention, Settings
from tributary_opt.storage.parquet import read_manifest, release_file
from tributary_opt.storage.questdb import ServerUnavailable
from tributary_opt.storage.releases import Releases

pytestmark = [pytest.mark.prefect, pytest.mark.questdb]

NEWEST = date(2026, 3, 4)
SMALL = Grid(order_sizes_pct_adv=(1.0, 5.0), n_steps=4)


def rows(night: Night, run_id: str, as_of: date = NEWEST) -> dict[str, pa.Table]:
    return {table.name: night.releases.read(table, as_of, run_id) for table in schema.RELEASE_TABLES}


def count(night: Night, table: str) -> int:
    return int(night.sink.rows(f"SELECT count() FROM {table}")[0][0])


def artifact(key: str) -> Any:
    found = Artifact.get(key)
    assert found is not None
    return found.data


def test_the_same_night_twice_is_one_run_with_the_same_rows(untouched: Settings) -> None:
    settings = untouched
    first = nightly(grid=SMALL)
    with open_night(settings) as night:
        before = rows(night, first)
        assert night.releases.current().run_id == first  # type: ignore[union-attr]
    assert nightly(grid=SMALL) == first
    with open_night(settings) as night:
        after = rows(night, first)
        assert after == before
        assert count(night, "ac_parameters") == before["ac_parameters"].num_rows > 0
        assert count(night, "ac_trajectories") == before["ac_trajectories"].num_rows > 0
        assert count(night, "ac_published") == 1
    manifest = read_manifest(settings.parquet_root)
    assert manifest is not None
    assert (manifest["run_id"], manifest["as_of"]) == (first, "2026-03-04")


def events(run_id: str) -> list[Any]:
    """What the server has of our events about a run."""
    wanted = EventFilter(event=EventNameFilter(name=[tasks.PUBLISHED]))
    with get_client(sync_client=True) as client:
        return [e for e in client.read_events(wanted, limit=50).events if e.payload["run_id"] == run_id]


def wait_for_event(run_id: str) -> None:
    deadline = time.monotonic() + 60.0
    while not events(run_id):
        assert time.monotonic() < deadline, "the event does not arrive"
        time.sleep(0.2)


@pytest.mark.parametrize("cut_off", ["before the manifest", "before the event"])
def test_a_night_that_was_cut_off_after_the_pointer_is_announced_once_by_the_next(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, cut_off: str
) -> None:
    sent: list[Any] = []
    emit = tasks.emit_event
    monkeypatch.setattr(tasks, "emit_event", lambda *args, **more: sent.append(emit(*args, **more)))
    grid = SMALL.model_copy(update={"n_steps": 5 + len(cut_off) % 2})  # a run of its own, which no other has announced

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if cut_off == "before the manifest":
            patched.setattr(Releases, "_write_manifest", killed)
        else:
            patched.setattr(tasks, "announce", killed)
        with pytest.raises(KeyboardInterrupt):
            nightly(grid=grid)
    with open_night(settings) as night:
        pointer = night.releases.current()
    assert pointer is not None
    assert not sent
    assert nightly(grid=grid) == pointer.run_id
    wait_for_event(pointer.run_id)
    assert nightly(grid=grid) == pointer.run_id  # finds it current, and announced
    assert [e.id for e in events(pointer.run_id)] == [e.id for e in sent]
    assert len(sent) == 1


def test_an_event_of_an_older_version_about_the_current_release_is_not_repeated(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id was drawn at random: only what it says tells which release it is about."""
    emit = tasks.emit_event
    grid = SMALL.model_copy(update={"n_steps": 7})
    with monkeypatch.context() as patched:
        patched.setattr(tasks, "emit_event", lambda *args, id, **more: emit(*args, **more))
        run_id = nightly(grid=grid)
    wait_for_event(run_id)
    monkeypatch.setattr(tasks, "emit_event", lambda *args, **more: pytest.fail("announced again"))
    assert nightly(grid=grid) == run_id
    assert len(events(run_id)) == 1


def test_events_that_cannot_be_read_cost_no_night_and_no_report(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = nightly(grid=SMALL)
    reports, sent = [], []

    def away(*args: object) -> bool:
        raise RuntimeError("503 Service Unavailable")

    monkeypatch.setattr(tasks, "_is_known", away)
    monkeypatch.setattr(tasks, "emit_event", lambda *args, **more: sent.append(args))
    monkeypatch.setattr(tasks, "report", reports.append)
    assert nightly(grid=SMALL) == run_id
    assert len(reports) == 1
    assert not sent
    assert f"whether run {run_id} has been announced is not known (RuntimeError: 503" in caplog.text


def test_an_old_night_run_again_is_not_announced_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(tasks, "emit_event", lambda *args, **more: sent.append(args))
    nightly(grid=SMALL)
    # The server has thrown its event away by now, or would have.
    with temporary_settings({PREFECT_EVENTS_RETENTION_PERIOD: timedelta(microseconds=1)}):
        nightly(grid=SMALL)
    assert len(sent) == 1


def test_a_night_leaves_a_report_and_a_table_of_refusals(settings: Settings) -> None:
    run_id = nightly(grid=SMALL)
    report = artifact("run-report")
    assert run_id in report
    assert "2026-03-04" in report
    for step in ("plan", "observe", "calibrate", "precompute", "publish"):
        assert f"| {step} |" in report
    refused = json.loads(artifact("refusals"))
    with open_night(settings) as night:
        parameters = rows(night, run_id)["ac_parameters"].to_pandas()
    expected = parameters.loc[parameters["status"] == "refused", ["market_id", "token_id", "reason"]]
    assert len(expected) > 0
    assert [(r["market_id"], r["token_id"], r["reason"]) for r in refused] == [*expected.itertuples(index=False)]


def test_the_report_carries_its_picture_and_leads_to_the_page(settings: Settings) -> None:
    run_id = nightly(grid=SMALL)
    (page,) = settings.parquet_root.glob(f"reports/as_of=2026-03-04/run_id={run_id}/report.html")
    report = artifact("run-report")
    assert f"]({page.as_uri()})" in report
    assert "](data:image/svg+xml;base64," in report
    assert json.loads(artifact("movers")) == []
    assert run_id in page.read_text()


def test_a_page_that_cannot_be_written_costs_no_release(settings: Settings) -> None:
    settings.parquet_root.mkdir(parents=True)
    (settings.parquet_root / "reports").write_text("a file where the folder should be")
    run_id = nightly(grid=SMALL)
    with open_night(settings) as night:
        pointer = night.releases.current()
    assert pointer is not None
    assert pointer.run_id == run_id
    assert "**The HTML report was not written**" in artifact("run-report")


@pytest.mark.parametrize("runner", ["thread", "process", "dask"])
def test_every_runner_makes_the_run_that_the_core_makes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, runner: str
) -> None:
    if runner == "dask":
        pytest.importorskip("prefect_dask")
    monkeypatch.setenv("TRIBUTARY_RUNNER", runner)
    assert nightly(grid=SMALL) == run_night(settings, tasks.Choices(grid=SMALL)).run.run_id


def test_a_dry_run_writes_nothing(untouched: Settings) -> None:
    settings = untouched
    dry = nightly(grid=SMALL, dry_run=True)
    assert "dry run, nothing written" in artifact("run-report")
    with open_night(settings) as night:
        assert {name: count(night, name) for name in schema.TABLES} == dict.fromkeys(schema.TABLES, 0)
    assert not list(settings.parquet_root.glob("**/*.parquet"))
    assert nightly(grid=SMALL) == dry


def test_recalibrate_stores_parameters_that_are_never_current(settings: Settings) -> None:
    tonight = nightly(grid=SMALL)
    run_id = recalibrate(markets=["STOCK002"])
    with open_night(settings) as night:
        assert night.releases.current().run_id == tonight  # type: ignore[union-attr]
        assert night.releases.run(run_id)["scope"] == "parameters"  # type: ignore[index]
        stored = rows(night, run_id)
        assert stored["ac_parameters"]["market_id"].to_pylist() == ["STOCK002"]
        assert stored["ac_trajectories"].num_rows == 0
    assert "**Gone**" in artifact("run-report")


def test_precompute_publishes_another_grid_from_stored_parameters(settings: Settings) -> None:
    tonight = nightly(grid=SMALL)
    finer = precompute(grid=SMALL.model_copy(update={"n_steps": 8}))
    some = precompute(run_id=tonight, grid=SMALL, markets=["STOCK002"])
    with open_night(settings) as night:
        old, new = rows(night, tonight), rows(night, finer)
        assert night.releases.current().run_id == finer  # type: ignore[union-attr]
        row = night.releases.run(finer)
        assert row is not None
        assert (row["days_read"], json.loads(row["settings"])["parameters_of"]) == (0, tonight)
        key = ["run_id"]
        assert new["ac_parameters"].drop_columns(key) == old["ac_parameters"].drop_columns(key)
        assert set(new["ac_trajectories"]["n_steps"].to_pylist()) == {8}
        assert night.releases.run(some)["scope"] == "partial"  # type: ignore[index]


def test_backfill_stores_the_past_and_tonight_stays_current(settings: Settings) -> None:
    tonight = nightly(grid=SMALL)
    days = [date(2026, 3, 2), date(2026, 3, 3)]
    parameters = backfill(start=days[0], end=days[1], grid=SMALL, reread=True)
    nights = backfill(start=days[0], end=days[1], grid=SMALL, trajectories=True)
    with open_night(settings) as night:
        assert night.releases.current().run_id == tonight  # type: ignore[union-attr]
        for run_ids, scope in ((parameters, "parameters"), (nights, "whole")):
            found = [night.releases.run(run_id) for run_id in run_ids]
            assert [(r["as_of"].date(), r["scope"], r["state"]) for r in found if r] == [
                (day, scope, "complete") for day in days
            ]
        assert rows(night, parameters[0], days[0])["ac_trajectories"].num_rows == 0
        assert rows(night, nights[0], days[0])["ac_trajectories"].num_rows > 0
        assert night.releases.read(schema.PARAMETERS, days[1], nights[1]).num_rows > 0
    assert f"{days[0]} to {days[1]}" in artifact("run-report")


def test_backfill_of_days_without_a_row_runs_nothing(settings: Settings) -> None:
    assert backfill(start=date(2025, 1, 1), end=date(2025, 1, 3)) == []


def test_maintenance_says_first_and_then_removes_old_trajectories(settings: Settings) -> None:
    nightly(as_of=date(2026, 3, 3), grid=SMALL)
    tonight = nightly(grid=SMALL)
    keep_one = Retention(trajectory_nights=1)
    with open_night(settings) as night:
        before = count(night, "ac_trajectories")
    n = maintenance(keep_one)
    assert n > 0
    with open_night(settings) as night:
        assert count(night, "ac_trajectories") == before
    assert maintenance(keep_one, dry_run=False) == n
    assert len(json.loads(artifact("maintenance"))) == n
    with open_night(settings) as night:
        left = rows(night, tonight)["ac_trajectories"].num_rows
        assert 0 < left == count(night, "ac_trajectories") < before
    assert (settings.parquet_root / release_file(schema.TRAJECTORIES, NEWEST, tonight)).is_file()


def test_a_chunk_that_fails_fails_the_night_and_nothing_is_published(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(tasks, "solve", broken)
    with pytest.raises(ZeroDivisionError):
        nightly(grid=SMALL)
    with open_night(settings) as night:
        assert night.releases.current() is None
        assert count(night, "ac_parameters") == count(night, "ac_trajectories") == 0


def test_without_questdb_a_night_fails_clearly_after_a_few_tries(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = str(probe.getsockname()[1])
    for name in ("HTTP_PORT", "PG_PORT"):
        monkeypatch.setenv(f"TRIBUTARY_QUESTDB__{name}", closed)
    tried: list[int] = []

    def away(*args: Any) -> bool:
        tried.append(1)
        return tasks._server_was_away(*args)

    monkeypatch.setattr(tasks.plan, "retry_condition_fn", away)
    monkeypatch.setattr(tasks.plan, "retry_delay_seconds", [0.1, 0.1, 0.1])
    with pytest.raises(ServerUnavailable, match="cannot be reached"):
        nightly(grid=SMALL)
    assert len(tried) == tasks.plan.retries == 3
    assert not settings.parquet_root.exists()
