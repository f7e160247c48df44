"""One desk's orders of the day, from the schedules of a release: an example of what starts on our event."""

from __future__ import annotations

import logging
import os
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from tributary_opt import schema
from tributary_opt.precompute import ALMGREN_CHRISS, CAPPED
from tributary_opt.settings import Desk
from tributary_opt.storage.parquet import read_release_file

_TOLERANCE = 1e-9
"""How far a size or an urgency of the grid may lie from the desk's to be the same one. [-]"""

_LOG = logging.getLogger(__name__)


def desk_orders(root: Path, as_of: date, run_id: str, desk: Desk) -> pd.DataFrame:
    """The desk's slices of the day: one row a market and slice, from the published Almgren-Chriss schedules.

    Of a release made under caps those that keep them. Only schedules whose status is `ok`: which of the desk's own
    markets have none is logged. Whether a market is fit to trade (grade, spread) is for the desk to say.

    Returns
    -------
    DataFrame
        market_id, token_id, side, slice (from 1), starts_after (trading days from the session's start), contracts,
        expected_cost_bps of the whole order, run_id, as_of. A market's contracts add up to its order.

    Raises
    ------
    ValueError
        Where the release's grid has no such size or urgency; it says which there are.
    FileNotFoundError
        Where the release has no Parquet.
    """
    rows = read_release_file(root, schema.TRAJECTORIES, as_of, run_id).to_pandas()
    optimal = CAPPED if (rows["strategy"] == CAPPED).any() else ALMGREN_CHRISS
    rows = rows[(rows["strategy"] == optimal) & (rows["horizon_ix"] == 0)]
    for column, unit, wanted in (
        ("adv_fraction", "of ADV", desk.order_size_pct_adv / 100.0),
        ("urgency", "(kappa T)", desk.urgency),
    ):
        near = np.isclose(rows[column].to_numpy(dtype=float), wanted, rtol=_TOLERANCE, atol=0.0)
        if len(rows) and not near.any():
            there = ", ".join(f"{v:g}" for v in sorted({float(f"{v:.6g}") for v in rows[column].dropna()})[:20])
            raise ValueError(f"{column} {wanted:g} {unit} is not in the grid of run {run_id}: take one of {there}")
        rows = rows[near]
    rows = rows[rows["status"] == "ok"]
    if desk.markets:
        rows = rows[rows["market_id"].isin(desk.markets)]
        if without := sorted(set(desk.markets) - set(rows["market_id"])):
            _LOG.warning("no order of %s in %s: run %s has no schedule for it", desk.name, ", ".join(without), run_id)
    parts = []
    for row in rows.itertuples():
        held = np.asarray(row.remaining, dtype=float)
        slices = held[:-1] - held[1:]
        parts.append(
            pd.DataFrame(
                {
                    "market_id": row.market_id,
                    "token_id": row.token_id,
                    "side": desk.side,
                    "slice": np.arange(1, len(slices) + 1),
                    "starts_after": np.arange(len(slices)) * (row.horizon / len(slices)),
                    "contracts": slices,
                    "expected_cost_bps": row.expected_cost_bps,
                    "run_id": run_id,
                    "as_of": f"{as_of}",
                }
            )
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_COLUMNS)


def write_desk_orders(folder: Path, orders: pd.DataFrame, as_of: date, run_id: str) -> Path:
    """Write the orders as CSV, whole or not at all. Returns where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"orders-{as_of}-{run_id}.csv"
    staging = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        orders.to_csv(staging, index=False)
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)
    return path


_COLUMNS = [
    "market_id",
    "token_id",
    "side",
    "slice",
    "starts_after",
    "contracts",
    "expected_cost_bps",
    "run_id",
    "as_of",
]
