"""What a night leaves behind when it cannot end, and that a dry run leaves nothing."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from tributary_opt.demo import fill_if_empty
from tributary_opt.night import run_night
from tributary_opt.settings import QuestDBServer, Settings
from tributary_opt.storage import parquet
from tributary_opt.storage.questdb import QuestDB

pytestmark = pytest.mark.questdb


@pytest.fixture
def settings(db: QuestDB, questdb_server: QuestDBServer, tmp_path: Path) -> Settings:
    """A server with a few sample markets."""
    settings = Settings(home=tmp_path, questdb=questdb_server, _env_file=None)
    fill_if_empty(db, settings, lambda step, done, total: None, n_tokens=6, n_days=2)
    return settings


def test_full_disk_marks_the_run_failed_and_the_next_night_mends_it(
    settings: Settings, db: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(parquet, "write_release_file", full)
        with pytest.raises(OSError, match="No space left"):
            run_night(settings)
    ((state, error),) = db.rows("SELECT state, error FROM ac_runs")
    assert state == "failed"
    assert "No space left" in error
    assert db.rows("SELECT count() FROM ac_published")[0][0] == 0

    report = run_night(settings)
    assert report.outcome is not None
    assert report.outcome.current
    assert db.rows("SELECT state, error FROM ac_runs") == [("complete", None)]


def test_dry_run_stands_for_the_night_and_writes_no_row(settings: Settings, db: QuestDB) -> None:
    dry = run_night(settings, dry_run=True)
    for table in ("ac_market_days", "ac_parameters", "ac_trajectories", "ac_runs", "ac_published"):
        assert db.rows(f"SELECT count() FROM {table}")[0][0] == 0
    assert not settings.parquet_root.exists() or not any(settings.parquet_root.glob("ac_*"))
    wet = run_night(settings)
    assert dry.run.run_id == wet.run.run_id
    assert dry.trajectories["expected_cost"].equals(wet.trajectories["expected_cost"])


def test_as_of_is_the_newest_complete_day_whatever_the_clock_says(settings: Settings, db: QuestDB) -> None:
    newest = db.rows("SELECT timestamp FROM trades ORDER BY timestamp DESC LIMIT 1")[0][0]
    much_later = datetime(newest.year + 1, 1, 1, 12, tzinfo=UTC)
    report = run_night(settings, dry_run=True, now=much_later)
    assert report.plan.as_of == newest.date()
    early = datetime.combine(newest.date(), datetime.min.time(), UTC)
    assert run_night(settings, dry_run=True, now=early).plan.as_of < newest.date()
    assert isinstance(report.plan.as_of, date)
