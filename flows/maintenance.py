"""The maintenance flow: what nobody can need any more."""

from __future__ import annotations

from prefect import flow

from flows import tasks
from tributary_opt.settings import Retention


@flow(name="maintenance", flow_run_name=tasks.run_name)
def maintenance(retention: Retention = Retention(), dry_run: bool = True) -> int:
    """Remove old trajectories and reports, and what runs left that never finished. Parameters stay for ever.

    Returns the number of actions. Never touched: the current release and the nights kept.

    Args:
        retention: What is kept.
        dry_run: Only say what would be removed.
    """
    actions = tasks.sweep(retention, dry_run)
    tasks.report_sweep(actions, dry_run)
    return len(actions)


if __name__ == "__main__":
    maintenance()
