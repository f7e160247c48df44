"""The precompute flow: other sizes, risk levels or horizons from parameters that are there."""

from __future__ import annotations

from prefect import flow

from flows import tasks
from flows.tasks import Chunks, timed
from tributary_opt.settings import Grid


@flow(name="precompute", flow_run_name=tasks.run_name)
def precompute(
    run_id: str = "",
    markets: list[str] = [],  # noqa: B006
    grid: Grid = Grid(),
    dry_run: bool = False,
) -> str:
    """Compute schedules from the parameters of a finished run, without reading a tick, and publish them.

    Returns the new run's id. It is current unless a later night is.

    Args:
        run_id: The run whose parameters are used; empty means the current release.
        markets: Only these market ids; empty means all. A run of some markets is stored, never current.
        grid: Order sizes, risk levels and horizons for which schedules are computed.
        dry_run: Compute and report everything, write nothing.
    """
    timings = dict[str, float]()

    with timed(timings, "plan"):
        choices, plan, calibrated = tasks.stored_parameters(run_id, grid, tuple(markets))
    with Chunks() as chunks, timed(timings, "precompute"):
        parts = tasks.cut(calibrated)
        solved = chunks.map(tasks.precompute, {"calibrated": parts}, grid=grid, as_of=plan.as_of)

    with timed(timings, "publish"):
        night = tasks.publish(choices, plan, [calibrated], solved, timings, None, dry_run)
    tasks.announce(night)
    tasks.report(night)
    return night.run.run_id


if __name__ == "__main__":
    precompute()
