"""What a night leaves behind when it cannot end, and that a dry run leaves nothing."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tick_tables import book, load, trade

from tributary_opt import schema
from tributary_opt.demo import fill_if_empty
from tributary_opt.night import Choices, run_night
from tributary_opt.settings import CalibrationRules, Grid, QuestDBServer, RiskLevel, Settings
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


def test_second_night_measures_its_drift_against_the_first(settings: Settings, db: QuestDB) -> None:
    last = run_night(settings, dry_run=True).plan.as_of
    first = run_night(settings, as_of=last - timedelta(days=1))
    second = run_night(settings, as_of=last)
    drifts = [f"{name}_drift_z" for name in schema.PARAMETER_DRIFTS]
    assert first.parameters[drifts].isna().all().all()
    ok = (first.parameters["status"] == "ok") & (second.parameters["status"] == "ok")
    assert ok.any()
    assert np.isfinite(second.parameters.loc[ok, drifts]).all().all()


def test_half_life_is_a_setting_that_reaches_volume_volatility_and_drift(settings: Settings, db: QuestDB) -> None:
    last = run_night(settings, dry_run=True).plan.as_of
    decayed = Choices(calibration=CalibrationRules(half_life_days=2.0))
    run_night(settings, decayed, as_of=last - timedelta(days=1))
    night, even = run_night(settings, decayed, as_of=last), run_night(settings, as_of=last, dry_run=True)
    assert night.run.run_id != even.run.run_id
    days = db.query("SELECT day, market_id, token_id, volume FROM ac_market_days").to_pandas()
    days["weight"] = 0.5 ** ((pd.Timestamp(last, tz="UTC") - days["day"]) / pd.Timedelta(days=2))
    p, flat = (of.parameters.set_index(["market_id", "token_id"]) for of in (night, even))
    p, both = p[p["n_days"] == 2], 1.0 + 0.5**0.5
    assert (p["sigma"] != flat.loc[p.index, "sigma"]).all()
    for key, row in p.iterrows():
        mine = days[(days["market_id"] == key[0]) & (days["token_id"] == key[1])]
        assert row["adv"] == pytest.approx((mine["volume"] * mine["weight"]).sum() / both, rel=1e-12)
    # Shares of the newer and the older day in the mean of both, and in that of the night before.
    a, b = np.array([1.0, 0.5**0.5]) / both, np.array([0.0, 1.0])
    before = db.query(f"SELECT * FROM ac_parameters WHERE as_of = '{last - timedelta(days=1)}'").to_pandas()
    before = before.set_index(["market_id", "token_id"])
    ok = p.index[(p["status"] == "ok") & (before.loc[p.index, "status"] == "ok")]
    changed = ((a - b) ** 2).sum()
    for key in ok:
        now, then = p.loc[key], before.loc[key]
        error = now["adv_se"] / now["adv"] / (a**2).sum() ** 0.5
        if np.isfinite(then["adv_se"]):  # of one day there is none
            error = max(error, then["adv_se"] / then["adv"] / (b**2).sum() ** 0.5)
        expected = np.log(now["adv"] / then["adv"]) / (error * changed**0.5)
        assert now["adv_drift_z"] == pytest.approx(expected, rel=1e-9)
    assert len(ok)


def test_schedules_go_by_the_weekday_on_which_they_begin(
    db: QuestDB, questdb_server: QuestDBServer, tmp_path: Path
) -> None:
    """Weekdays that trade in the afternoon, weekends in the morning: after a Friday VWAP is a Saturday's."""
    first, n = date(2024, 3, 2), 21
    trades, books = [], []
    for day in (first + timedelta(days=i) for i in range(n)):
        for i in range(4):
            at = f"{day}T{2 + i if day.weekday() >= 5 else 14 + i:02d}"
            trades.append(trade(f"{at}:10:00Z", "M", 100.0 + i % 2, 10.0 + i, "buy" if i % 2 else "sell"))
            books += [book(f"{at}:{m}:00Z", "M", mid - 0.01, mid + 0.01) for m, mid in ((5, 100.0), (15, 100.5))]
    load(db, trades, books)
    settings = Settings(home=tmp_path, questdb=questdb_server, _env_file=None)
    grid = Grid(order_sizes_pct_adv=(1.0,), risk_levels=(RiskLevel(value=1.0),), n_steps=24)
    report = run_night(settings, Choices(grid=grid), as_of=first + timedelta(days=n - 1), dry_run=True)
    (row,) = report.parameters.to_dict("records")
    assert (row["status"], row["volume_profile_used"]) == ("ok", "hour_of_week")
    saturday = np.concatenate([np.zeros(2), np.array([10.0, 11.0, 12.0, 13.0]) / 46.0, np.zeros(18)])
    np.testing.assert_allclose(row["volume_profile"], saturday, rtol=1e-12)
    vwap = report.trajectories[report.trajectories["strategy"] == "vwap"].iloc[0]
    np.testing.assert_allclose(-np.diff(vwap["remaining"]) / vwap["order_size"], saturday, atol=1e-12)
