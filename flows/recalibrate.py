"""The recalibrate flow: new parameters to look at, without schedules."""

from __future__ import annotations

from datetime import date

from prefect import flow

from flows import tasks
from flows.tasks import Chunks, timed
from tributary_opt.night import Choices
from tributary_opt.settings import CalibrationRules, StatisticsRules


@flow(name="recalibrate", flow_run_name=tasks.run_name)
def recalibrate(
    as_of: date | None = None,
    markets: list[str] = [],  # noqa: B006
    statistics: StatisticsRules = StatisticsRules(),
    calibration: CalibrationRules = CalibrationRules(),
    dry_run: bool = False,
) -> str:
    """Calibrate every market as of one trading day, and report what changed against the current release.

    Returns the run id. The parameters are stored and never become current; the precompute flow makes schedules of them.

    Args:
        as_of: Last trading day to use; empty means the newest complete one with trades.
        markets: Only these market ids; empty means all.
        statistics: What counts in a market day. A change reads every day of the window again.
        calibration: The look-back window, and the thresholds for refusing a market.
        dry_run: Compute and report everything, write nothing.
    """
    choices, timings = Choices(statistics, calibration, markets=tuple(markets)), dict[str, float]()

    with timed(timings, "plan"):
        plan = tasks.plan(choices, as_of)
    with Chunks() as chunks:
        with timed(timings, "observe"):
            fresh = tasks.observed(chunks, choices, [plan], store=not dry_run)
        with timed(timings, "calibrate"):
            calibrated = tasks.flat(tasks.calibrated_chunks(chunks, choices, plan, fresh))

    with timed(timings, "publish"):
        none = tasks.no_schedules(calibrated, plan.as_of)
        night = tasks.publish(choices, plan, calibrated, none, timings, "parameters", dry_run)
    tasks.report(night)
    return night.run.run_id


if __name__ == "__main__":
    recalibrate()
