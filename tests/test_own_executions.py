"""A desk's own parent orders in a table beside the ticks: a night reads them, and what is wrong with a row is told."""

from __future__ import annotations

import json
import logging
import math
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tick_tables import Row, book, load, send, trade

from tributary_opt import schema
from tributary_opt.market_data.source import SourceError
from tributary_opt.night import Choices, NightReport, run_night
from tributary_opt.settings import Grid, RiskLevel, Settings
from tributary_opt.storage.check import check
from tributary_opt.storage.questdb import QuestDB

pytestmark = pytest.mark.questdb

MONDAY, AS_OF = datetime(2024, 3, 4, tzinfo=UTC), date(2024, 3, 5)
SMALL = Choices(grid=Grid(order_sizes_pct_adv=(1.0,), risk_levels=(RiskLevel(value=1.0),), n_steps=4))


def ticks() -> tuple[list[Row], list[Row]]:
    trades, books = [], []
    for i in range(96):
        at, price = (MONDAY + timedelta(minutes=30 * i)).isoformat(), 100.0 + math.sin(i)
        trades.append(trade(at, "M", price, 2.0, "buy" if i % 2 else "sell"))
        books.append(book(at, "M", price - 0.01, price + 0.01))
    return trades, books


def orders(n: int, b: float, **more: object) -> pd.DataFrame:
    """Orders of 0.2 to 20 % of a volume of 96 over a day with σ = 1: half-spread, ½ 0.3 X/V, b (X/V)^0.6, and noise."""
    rng = np.random.default_rng(1)
    x = 10 ** rng.uniform(-2.7, -0.7, n)
    cost = 0.01 + 0.5 * 0.3 * x + b * x**0.6 + rng.normal(0.0, 0.1, n)
    frame = pd.DataFrame(
        {
            "decided_at": pd.to_datetime(MONDAY) + pd.to_timedelta(np.arange(n), "s"),
            "order_id": [f"o{i:05d}" for i in range(n)],
            "market_id": "M",
            "token_id": "M",
            "side": "buy",
            "size": 96.0 * x,
            "arrival_price": 100.0,
            "average_price": 100.0 + cost,
            "duration": 1.0,
            "post_price": 100.0 + 0.3 * x + rng.normal(0.0, 0.15, n),
            "post_duration": 1.5,
            **{"adv": 96.0, "sigma": 1.0, "epsilon": 0.01, **more},
        }
    )
    frame["decided_at"] = frame["decided_at"].dt.as_unit("us")
    return frame


def night(db: QuestDB, home: Path, **settings: object) -> tuple[NightReport, pd.Series, dict]:
    """A published night, its market's row and its own row."""
    report = run_night(Settings(home=home, questdb=db.server, _env_file=None, **settings), SMALL, as_of=AS_OF)
    run = db.query(f"SELECT * FROM ac_runs WHERE run_id = '{report.run.run_id}'").to_pylist()[0]
    return report, report.parameters.iloc[0], run


def test_table_of_own_orders_moves_the_law_and_its_bad_rows_are_left_out_with_a_reason(
    db: QuestDB, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(db, *ticks())
    without, prior, run = night(db, tmp_path)
    assert (prior["own_orders"], prior["strength"] == "own_executions", run["own_orders"]) == (0, False, 0)

    db.execute(schema.OWN_EXECUTIONS.ddl())
    _, empty, _ = night(db, tmp_path)
    assert empty["eta"] == prior["eta"]

    send(db, "own_executions", orders(1_000, b=0.5))
    bad = orders(7, b=0.5, adv=np.nan, sigma=np.nan, epsilon=np.nan).assign(order_id=[f"bad {i}" for i in range(7)])
    bad.loc[0, "side"] = "short"
    bad.loc[1, "size"] = -1.0
    bad.loc[2, "average_price"] = np.nan
    bad.loc[3, "size"] = 0.0
    bad.loc[4, "market_id"] = None
    bad.loc[5, ["market_id", "token_id"]] = "elsewhere"
    bad.loc[6, "arrival_price"] = 10_000.0
    late = orders(1_000, b=50.0).assign(decided_at=pd.Timestamp(AS_OF, tz="UTC") + pd.Timedelta(days=1))
    late["decided_at"] = late["decided_at"].dt.as_unit("us")
    send(db, "own_executions", bad)
    send(db, "own_executions", late)
    with caplog.at_level(logging.WARNING):
        report, row, run = night(db, tmp_path)
    assert (row["own_orders"], row["strength"]) == (1_000, "own_executions")
    # From the literature's 0.142 to what the desk paid.
    assert row["law_b"] == pytest.approx(0.5, rel=0.15)
    assert row["law_b_sd"] < 0.5 * prior["law_b_sd"]
    assert row["eta"] > 2 * prior["eta"]
    assert report.run.run_id != without.run.run_id
    assert (run["own_orders"], run["own_orders_refused"]) == (1_007, 7)
    assert json.loads(run["own_orders_reasons"]) == {
        "average_price must be finite and > 0": 1,
        "cost and move must be below 10 times volatility, impact and half-spread": 1,
        "its market and token must be in the window": 1,
        "market_id must not be empty": 1,
        "side must be buy or sell": 1,
        "size must be finite and > 0": 2,
    }
    assert "own executions: 2 rows left out, size must be finite and > 0; the first is order bad" in caplog.text

    again, same, _ = night(db, tmp_path)
    assert (again.run.run_id, same["eta"]) == (report.run.run_id, row["eta"])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_file_with_the_time_of_decision_keeps_later_orders_out_of_an_earlier_night(
    db: QuestDB, tmp_path: Path, suffix: str
) -> None:
    load(db, *ticks())
    rows, file = orders(100, b=0.5), tmp_path / f"orders.{suffix}"
    rows.loc[60:, "decided_at"] = pd.Timestamp("2024-03-06T09:00:00Z")

    def used(table: pd.DataFrame) -> tuple[int, int]:
        table.to_csv(file, index=False) if suffix == "csv" else table.to_parquet(file)
        _, row, run = night(db, tmp_path, executions_file=file)
        return int(row["own_orders"]), int(run["own_orders"])

    assert used(rows) == (60, 60)
    assert used(rows.drop(columns="decided_at")) == (100, 100)


def test_table_under_another_name_and_with_other_columns_is_read(db: QuestDB, tmp_path: Path) -> None:
    load(db, *ticks())
    names = {"table": "desk orders", "columns": {"size": "qty", "average_price": "avg"}}
    db.execute(
        "CREATE TABLE 'desk orders' (decided_at TIMESTAMP, order_id LONG, market_id SYMBOL, side SYMBOL, qty INT, "
        "arrival_price DOUBLE, avg DOUBLE, duration DOUBLE) TIMESTAMP(decided_at) PARTITION BY YEAR"
    )
    db.execute("INSERT INTO 'desk orders' VALUES ('2024-03-04T10:00:00Z', 1, 'M', 'sell', 5, 100.0, 99.5, 0.25)")
    _, row, run = night(db, tmp_path, source_tables={"own_executions": names})
    assert (row["own_orders"], run["own_orders"], run["own_orders_refused"]) == (1, 1, 0)
    settings = Settings(home=tmp_path, questdb=db.server, _env_file=None, source_tables={"own_executions": names})
    assert {f.name: f.status for f in check(settings)}["table desk orders"] == "ok"


def test_table_without_a_needed_column_is_refused_by_name(db: QuestDB, tmp_path: Path) -> None:
    load(db, *ticks())
    db.execute(schema.OWN_EXECUTIONS.ddl().replace("  duration DOUBLE,\n", ""))
    with pytest.raises(SourceError, match="table own_executions has no column duration: add it, or name yours in"):
        night(db, tmp_path)


def test_page_shows_the_statement_that_makes_the_table() -> None:
    page = (Path(__file__).parents[1] / "docs" / "calibration.md").read_text()
    assert schema.OWN_EXECUTIONS.ddl() in page
