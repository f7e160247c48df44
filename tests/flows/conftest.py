"""A small sample in the test run's QuestDB, and a Prefect server of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from prefect.settings import PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from tributary_opt import schema
from tributary_opt.sample_data import generate, reference_data, sample_markets
from tributary_opt.settings import QuestDBServer, Settings
from tributary_opt.storage.frames import typed_source
from tributary_opt.storage.questdb import QuestDB

FIRST_DAY, N_DAYS = date(2026, 3, 2), 3


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    quiet = {PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}
    with temporary_settings(quiet), prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="module")
def source(questdb_server: QuestDBServer) -> QuestDBServer:
    """Three days of twelve sample markets, some of them ailing, in place of whatever was there."""
    markets = sample_markets(12, first_day=FIRST_DAY, n_days=N_DAYS)
    with QuestDB(questdb_server) as db:
        for (view,) in db.rows("SELECT view_name FROM views()"):
            db.execute(f'DROP VIEW "{view}"')
        for name in db.tables():
            db.execute(f'DROP TABLE "{name}"')
        for table in schema.SOURCE_TABLES.values():
            db.execute(table.ddl())
        stamp = pd.Timestamp(FIRST_DAY, tz="UTC").as_unit("us")
        db.send("markets", typed_source(schema.MARKETS, reference_data(markets).assign(updated_at=stamp)))
        for day in generate(markets, FIRST_DAY, N_DAYS, 1, depth=False):
            db.send("trades", typed_source(schema.TRADES, day.trades))
            db.send("orderbook_snapshots", typed_source(schema.ORDERBOOK_SNAPSHOTS, day.orderbook_snapshots))
        for name in schema.SOURCE_TABLES:
            db.wait(name)
    return questdb_server


@pytest.fixture
def settings(source: QuestDBServer, prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings as the flows will read them: the sample's server, no release yet, a Parquet folder of its own."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "HOME": tmp_path,
        "QUESTDB__HOST": source.host,
        "QUESTDB__HTTP_PORT": source.http_port,
        "QUESTDB__PG_PORT": source.pg_port,
    }.items():
        monkeypatch.setenv(f"TRIBUTARY_{name}", str(value))
    _drop(source, *(set(schema.TABLES) - {schema.MARKET_DAYS.name}))
    return Settings()


@pytest.fixture
def untouched(settings: Settings, source: QuestDBServer) -> Settings:
    """The same without any market day."""
    _drop(source, schema.MARKET_DAYS.name)
    return settings


def _drop(server: QuestDBServer, *names: str) -> None:
    with QuestDB(server) as db:
        for (view,) in db.rows("SELECT view_name FROM views()"):
            db.execute(f'DROP VIEW "{view}"')
        for name in names:
            db.execute(f"DROP TABLE IF EXISTS {name}")
