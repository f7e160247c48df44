"""The example of a consumer: one desk's orders of the day, started by the event of a new release."""

from __future__ import annotations

from datetime import date

from prefect import flow

from flows import tasks
from tributary_opt.settings import Desk


@flow(name="desk-orders", flow_run_name=tasks.run_name)
def desk_orders(run_id: str, as_of: date, desk: Desk = Desk()) -> str:
    """Write one desk's orders of the day to CSV, from the schedules of a release.

    Returns the file's path. The event `tributary.trajectories.published` starts it and gives run_id and as_of.

    Args:
        run_id: The release whose schedules are used.
        as_of: Its last trading day.
        desk: Whose orders: markets, side, size and urgency.
    """
    return tasks.write_desk_orders(run_id, as_of, desk)
