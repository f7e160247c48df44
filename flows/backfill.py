"""The backfill flow: nights of the past."""

from __future__ import annotations

from datetime import date

from prefect import flow

from flows import tasks
from flows.tasks import Chunks
from tributary_opt.night import Choices
from tributary_opt.settings import CalibrationRules, Grid, StatisticsRules


@flow(name="backfill", flow_run_name=tasks.run_name)
def backfill(
    start: date,
    end: date,
    trajectories: bool = False,
    reread: bool = False,
    markets: list[str] = [],  # noqa: B006
    statistics: StatisticsRules = StatisticsRules(),
    calibration: CalibrationRules = CalibrationRules(),
    grid: Grid = Grid(),
    dry_run: bool = False,
) -> list[str]:
    """Observe and calibrate every trading day from start to end, oldest first; whole nights if asked.

    Returns the run ids. Tonight stays current: the pointer never moves to an earlier day.

    Args:
        start: First trading day.
        end: Last trading day, before today (UTC).
        trajectories: Compute and publish schedules as well; otherwise market days and parameters only.
        reread: Read every day from ticks again, also those whose source has not changed.
        markets: Only these market ids; empty means all.
        statistics: What counts in a market day. A change reads every day of the window again.
        calibration: The look-back window, and the thresholds for refusing a market.
        grid: Order sizes, risk levels and horizons of the schedules, where these are asked for.
        dry_run: Only say which days would be read and run.
    """
    choices = Choices(statistics, calibration, grid, tuple(markets))

    plans = tasks.plan_days(choices, start, end, reread)
    if dry_run:
        tasks.report_plans(plans)
        return []
    with Chunks() as chunks:
        tasks.observed(chunks, choices, plans, store=True)

    days = tasks.days_run(plans, choices, trajectories)
    tasks.report_days(days)
    return [day.run_id for day in days]
