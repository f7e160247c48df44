"""The demo: an embedded QuestDB filled with sample markets, and one whole night on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pandas as pd

from tributary_opt import schema
from tributary_opt.night import NightError, open_night
from tributary_opt.sample_data import SampleMarket, generate, reference_data, sample_markets, truth
from tributary_opt.settings import Settings
from tributary_opt.storage import embedded
from tributary_opt.storage.frames import typed_source
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.releases import Pointer

SEED = 1

Progress = Callable[[str, int, int], None]


def run_demo(
    settings: Settings, progress: Progress, *, n_tokens: int = 40, n_days: int = 30
) -> tuple[Pointer, pd.DataFrame, pd.DataFrame]:
    """Start the server, fill the source tables where they are empty, run the nightly flow, stop the server.

    Returns the current release: its pointer, parameters and trajectories, as read from QuestDB.
    """
    progress("start QuestDB", 0, 1)
    with embedded.running(settings) as server:
        progress("start QuestDB", 1, 1)
        with QuestDB(server) as db:
            fill_if_empty(db, settings, progress, n_tokens, n_days)
        progress("nightly flow", 0, 1)
        # Prefect takes a second to import, and only the flows know it.
        from flows.local import own_server
        from flows.nightly import nightly

        with own_server():
            nightly()
        progress("nightly flow", 1, 1)
        with open_night(settings) as night:
            pointer = night.releases.current()
            if pointer is None:
                raise NightError("the demo's night published nothing: look at the log above")
            tables = (
                night.releases.read(t, pointer.as_of, pointer.run_id) for t in (schema.PARAMETERS, schema.TRAJECTORIES)
            )
            parameters, trajectories = (table.to_pandas() for table in tables)
    return pointer, parameters, trajectories


def fill_if_empty(db: QuestDB, settings: Settings, progress: Progress, n_tokens: int, n_days: int) -> bool:
    """Create the source tables and fill them with generated markets; False where there were trades already.

    A fill that was interrupted is done again, with its own days and markets: rows that are there keep their keys.
    """
    for table in schema.SOURCE_TABLES.values():
        db.execute(table.ddl())
    unfinished = settings.home / "sample" / "unfinished.json"
    if unfinished.exists():
        plan = json.loads(unfinished.read_text())
        first_day, n_tokens, n_days = date.fromisoformat(plan["first_day"]), plan["n_tokens"], plan["n_days"]
    elif db.rows("SELECT count() FROM trades")[0][0]:
        return False
    else:
        first_day = datetime.now(UTC).date() - timedelta(days=n_days)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps({"first_day": str(first_day), "n_tokens": n_tokens, "n_days": n_days}))
    markets = sample_markets(n_tokens, SEED, first_day=first_day, n_days=n_days)
    _keep_truth(settings, markets)
    reference = reference_data(markets).assign(updated_at=pd.Timestamp(first_day, tz="UTC").as_unit("us"))
    _send(db, schema.MARKETS, reference)
    for i, day in enumerate(generate(markets, first_day, n_days, SEED)):
        progress("generate sample markets", i, n_days)
        _send(db, schema.TRADES, day.trades)
        _send(db, schema.ORDERBOOK_SNAPSHOTS, day.orderbook_snapshots)
    progress("generate sample markets", n_days, n_days)
    unfinished.unlink()
    return True


def _send(db: QuestDB, table: schema.SourceTable, rows: pd.DataFrame) -> None:
    if len(rows):
        db.send(table.name, typed_source(table, rows))
        db.wait(table.name)


def _keep_truth(settings: Settings, markets: list[SampleMarket]) -> None:
    truth(markets).to_parquet(settings.home / "sample" / "truth.parquet", index=False)
