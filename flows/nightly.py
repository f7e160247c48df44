"""The nightly flow: from ticks to published schedules."""

from __future__ import annotations

from datetime import date

from prefect import flow

from flows import tasks
from flows.tasks import Chunks, timed
from tributary_opt.night import Choices
from tributary_opt.settings import CalibrationRules, Grid, StatisticsRules


@flow(name="nightly", flow_run_name=tasks.run_name)
def nightly(
    as_of: date | None = None,
    markets: list[str] = [],  # noqa: B006
    statistics: StatisticsRules = StatisticsRules(),
    calibration: CalibrationRules = CalibrationRules(),
    grid: Grid = Grid(),
    dry_run: bool = False,
) -> str:
    """Recalibrate every market as of one trading day and publish its schedules.

    Returns the run id. The same night again is the same run, with the same rows.

    Args:
        as_of: Last trading day to use; empty means the newest complete one with trades.
        markets: Only these market ids; empty means all. A run of some markets is stored, never current.
        statistics: What counts in a market day. A change reads every day of the window again.
        calibration: The look-back window, and the thresholds for refusing a market.
        grid: Order sizes, risk levels and horizons for which schedules are computed.
        dry_run: Compute and report everything, write nothing.
    """
    choices, timings = Choices(statistics, calibration, grid, tuple(markets)), dict[str, float]()

    with timed(timings, "plan"):
        plan = tasks.plan(choices, as_of)
    with Chunks() as chunks:
        with timed(timings, "observe"):
            fresh = tasks.observed(chunks, choices, [plan], store=not dry_run)
        with timed(timings, "calibrate"):
            calibrated = tasks.calibrated_chunks(chunks, choices, plan, fresh)
        with timed(timings, "precompute"):
            solved = chunks.map(tasks.precompute, {"calibrated": calibrated}, grid=grid, as_of=plan.as_of)

    with timed(timings, "publish"):
        night = tasks.publish(choices, plan, tasks.flat(calibrated), solved, timings, None, dry_run)
    tasks.announce(night)
    tasks.report(night)
    return night.run.run_id


if __name__ == "__main__":
    nightly()
