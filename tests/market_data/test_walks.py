"""Orders walked through recorded books in the server, against a walk by hand, and what the night makes of them."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from raw_days import walks
from tick_tables import Row, book, create, load, market_days, observe, send, stored, trade, window

from tributary_opt import schema
from tributary_opt.calibration.impact_evidence import impact_evidence
from tributary_opt.calibration.parameters import Measured, calibrate
from tributary_opt.market_data.markets import ReferenceData
from tributary_opt.market_data.source import Source
from tributary_opt.market_data.statistics import window_statistics
from tributary_opt.settings import CalibrationRules, SourceTables, StatisticsRules
from tributary_opt.storage.questdb import QuestDB

pytestmark = pytest.mark.questdb

DAY = date(2024, 3, 4)
START, END = datetime(2024, 3, 4, tzinfo=UTC), datetime(2024, 3, 5, tzinfo=UTC)
TWO_LEVELS = {
    "bid_prices": [99.0, 98.0],
    "bid_sizes": [3.0, 7.0],
    "ask_prices": [101.0, 104.0],
    "ask_sizes": [4.0, 6.0],
}


def at(clock: str) -> str:
    return f"2024-03-04T{clock}Z"


def look(clock: str, market: str = "M", bid: float = 99.0, ask: float = 101.0, **columns: Any) -> Row:
    """A look whose levels are JSON text."""
    texts = {k: json.dumps(v) if isinstance(v, list) else v for k, v in columns.items()}
    return book(at(clock), market, bid, ask, **texts)


def walked(db: QuestDB, pct: float = 5.0, tables: SourceTables = SourceTables(), **more: Any) -> dict[str, Any]:
    (row,) = Source(db, tables).walks(START, END, **{"probability": False, "pct_volume": pct, **more}).to_pylist()
    return {name: row[name] for name in ("n_depth", "n_walked", "walk_size", "walk_cost", "walk_half_spread")}


def test_order_takes_the_levels_from_the_best_one_on(db: QuestDB) -> None:
    # 5 of a day's volume of 100: sells 3 at 99 and 2 at 98, buys 4 at 101 and 1 at 104.
    load(db, [trade(at("10:00:00"), "M", 100.0, 100.0)], [look("09:00:00", **TWO_LEVELS)])
    sold, bought = (3 * 99.0 + 2 * 98.0) / 5, (4 * 101.0 + 1 * 104.0) / 5
    assert walked(db) == {
        "n_depth": 1, "n_walked": 1, "walk_size": 5.0, "walk_cost": pytest.approx((bought - sold) / 2, rel=1e-14),
        "walk_half_spread": 1.0,
    }  # fmt: skip
    assert walked(db, 3.0)["walk_cost"] == 1.0  # the best level holds it: the half-spread
    assert walked(db, 10.0)["n_walked"] == 1  # all there is
    assert walked(db, 10.1) == {
        "n_depth": 1, "n_walked": 0, "walk_size": 0.0, "walk_cost": 0.0, "walk_half_spread": 0.0,
    }  # fmt: skip


def test_look_that_cannot_be_walked_is_left_out_and_spoils_no_other(db: QuestDB) -> None:
    """The server fails a whole query over two arrays of unlike lengths."""
    bad = (
        {"bid_prices": [99.0]},
        {"bid_sizes": [-3.0, 17.0]},
        {"ask_sizes": "[4, 6"},
        {"ask_sizes": "[[4, 6]]"},
        {"ask_prices": "null"},
        {"bid_sizes": []},
        {"bid_sizes": None},
    )
    looks = [look(f"09:{i:02d}:00", **{**TWO_LEVELS, **change}) for i, change in enumerate(bad)]
    one_sided = [look("10:00:00", bid=0.0, **TWO_LEVELS), look("10:01:00", ask=99.0, **TWO_LEVELS)]
    load(db, [trade(at("10:00:00"), "M", 100.0, 100.0)], [*looks, *one_sided, look("11:00:00", **TWO_LEVELS)])
    assert (walked(db)["n_depth"], walked(db)["n_walked"]) == (1, 1)
    # With sizes at the best price such a look is one level deep.
    send(db, "orderbook_snapshots", [{**row, "bid_size": 5.0, "ask_size": 5.0} for row in looks])
    assert (walked(db)["n_depth"], walked(db)["n_walked"]) == (8, 8)


def test_sizes_at_the_best_price_alone_are_one_level(db: QuestDB) -> None:
    looks = [look("09:00:00", bid_size=5.0, ask_size=5.0), look("09:01:00", bid_size=4.9, ask_size=50.0)]
    load(db, [trade(at("10:00:00"), "M", 100.0, 100.0)], [*looks, look("09:02:00", bid_size=5.0, ask_size=0.0)])
    expected = {"n_depth": 2, "n_walked": 1, "walk_size": 5.0, "walk_cost": 1.0, "walk_half_spread": 1.0}
    assert walked(db) == expected
    for name in TWO_LEVELS:
        db.execute(f"ALTER TABLE orderbook_snapshots DROP COLUMN {name}")
        db.wait("orderbook_snapshots")
    assert walked(db) == expected
    db.execute("ALTER TABLE orderbook_snapshots DROP COLUMN ask_size")
    db.wait("orderbook_snapshots")
    assert Source(db, SourceTables()).walks(START, END, probability=False, pct_volume=5.0).num_rows == 0


@pytest.mark.parametrize("ns", [False, True], ids=["TIMESTAMP", "TIMESTAMP_NS"])
def test_arrays_and_names_of_the_source_do_not_matter(db: QuestDB, ns: bool) -> None:
    create(db, ns=ns)
    send(db, "trades", [trade(at("10:00:00"), "M", 100.0, 100.0)])
    db.execute("DROP TABLE orderbook_snapshots")
    ddl = schema.ORDERBOOK_SNAPSHOTS.ddl("looks", {"bid_prices": "order", "bid_size": "q", "ask_size": "sold"})
    for name in ("order", "bid_sizes", "ask_prices", "ask_sizes"):
        ddl = ddl.replace(f"  {name} VARCHAR", f'  "{name}" DOUBLE[]')
    db.execute(ddl.replace(" TIMESTAMP,", " TIMESTAMP_NS,") if ns else ddl)
    arrays = {("order" if k == "bid_prices" else k): np.array(v) for k, v in TWO_LEVELS.items()}
    send(db, "looks", [book(at("09:00:00"), "M", 99.0, 101.0, **arrays)])
    names = {"table": "looks", "columns": {"bid_prices": "order", "bid_size": "q", "ask_size": "sold"}}
    found = walked(db, tables=SourceTables.model_validate({"orderbook_snapshots": names}))
    assert (found["n_walked"], found["walk_cost"]) == (1, pytest.approx((101.6 - 98.6) / 2, rel=1e-14))


@pytest.mark.recorded
def test_ten_levels_of_a_recorded_exchange_are_walked_as_by_hand(db: QuestDB, recorded_data: Path) -> None:
    day, end = pd.Timestamp("2024-08-09", tz="UTC"), pd.Timestamp("2024-08-10", tz="UTC")
    ticks = {}
    for table in ("trades", "orderbook_snapshots"):
        frame = pq.read_table(recorded_data / "binance_l2_2024" / f"{table}.parquet").to_pandas()
        ticks[table] = frame[(frame["market_id"] == "BTCUSDT") & (frame["timestamp"] >= day)]
    load(db, ticks["trades"], ticks["orderbook_snapshots"])
    shares = []
    for pct in (0.02, 0.2, 1.0):
        found = Source(db, SourceTables()).walks(day, end, probability=False, pct_volume=pct).to_pylist()[0]
        expected = walks(ticks["orderbook_snapshots"], pct / 100 * ticks["trades"]["size"].sum())
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-9), name
        shares.append(found["n_walked"] / found["n_depth"])
    assert shares[0] > 0.9 > shares[2] > 0  # the last is more than ten levels mostly hold


# --- to the row ---------------------------------------------------------------------------------------------


def parameters(db: QuestDB, rules: StatisticsRules, reference: list[dict] | None = None) -> pd.DataFrame:
    days = market_days(db, reference, rules)
    observe(days, DAY)
    rows, of_days = stored(days, DAY), window("24/7", [DAY])
    statistics = window_statistics(rows, of_days)
    of_markets = ReferenceData(None if reference is None else pd.DataFrame(reference)).of(statistics)
    statistics = statistics.assign(sigma_prior=np.nan, sigma_prior_weight=0.0, sigma_ceiling=np.nan)
    end = pd.Series([pd.Timestamp(END)] * len(statistics))
    chosen = CalibrationRules(min_trades=1, min_active_hours=1, max_spread_share=1.0)
    found = calibrate(Measured(statistics, of_markets, end, impact_evidence(rows)), chosen)
    return found.set_index(["market_id", "token_id"])


def test_row_says_what_the_walked_order_costs_or_why_there_is_none(db: QuestDB) -> None:
    depths = {
        "levels": [TWO_LEVELS] * 10,
        "nine_of_ten": [*[TWO_LEVELS] * 9, {**TWO_LEVELS, "ask_sizes": [1.0, 1.0]}],
        "eight_of_ten": [*[TWO_LEVELS] * 8, *[{**TWO_LEVELS, "ask_sizes": [1.0, 1.0]}] * 2],
        "no_sizes": [{}] * 10,
    }
    trades = [trade(at(f"10:{i:02d}:00"), m, 100.0 + i % 2, 10.0, "buy") for m in depths for i in range(10)]
    books = [
        look(f"10:{i:02d}:30", m, 99.0 + i % 3, 101.0 + i % 3, **of_look)
        for m, looks in depths.items()
        for i, of_look in enumerate(looks)
    ]
    load(db, trades, books)
    fee = [{"market_id": "levels", "token_id": None, "kind": "price", "taker_fee": 0.001}]
    found = parameters(db, StatisticsRules(walk_pct_volume=5.0), fee).droplevel(1)
    assert (found["status"] == "ok").all()
    row = found.loc["levels"]
    assert pd.isna(row["walk_reason"])
    assert (row["walk_size"], row["walk_share"], row["walk_half_spreads"]) == (5.0, 1.0, pytest.approx(1.5))
    assert row["walk_cost"] == pytest.approx(1.5)
    assert row["cost_walk_bps"] == pytest.approx((1.5 + 0.001 * row["price"]) / row["price"] * 1e4)
    assert found.loc["nine_of_ten", ["walk_share", "walk_cost"]].tolist() == [0.9, pytest.approx(1.5)]
    thin, none = found.loc["eight_of_ten"], found.loc["no_sizes"]
    assert (thin["walk_reason"], thin["walk_share"], thin["walk_size"]) == ("too_thin", 0.8, 5.0)
    assert none["walk_reason"] == "no_depth"
    assert pd.isna(found.loc[["eight_of_ten", "no_sizes"], ["walk_cost", "walk_half_spreads", "cost_walk_bps"]]).all(
        axis=None
    )
    off = parameters(db, StatisticsRules(walk_pct_volume=0.0))
    assert (off["walk_reason"] == "no_depth").all()


def test_both_tokens_of_a_pair_carry_the_same_walk(db: QuestDB) -> None:
    deep = {"bid_prices": [0.3, 0.2], "bid_sizes": [1, 9], "ask_prices": [0.4, 0.5], "ask_sizes": [2, 9]}
    trades = [
        {**trade(at(f"10:0{i}:00"), "P", p, 40.0, "buy"), "token_id": t}
        for i, (t, p) in enumerate([("yes", 0.35), ("no", 0.65)])
    ]
    looks = [{**look(f"10:0{i}:30", "P", 0.3, 0.4, **deep), "token_id": "yes"} for i in range(4)]
    load(db, trades, looks)
    reference = [{"market_id": "P", "token_id": "yes", "kind": "probability", "complement_token_id": "no"}]
    found = parameters(db, StatisticsRules(walk_pct_volume=10.0), reference)
    # The order is a share of what traded in the token whose book it is: 4 of 40.
    sold, bought = (0.3 + 3 * 0.2) / 4, (2 * 0.4 + 2 * 0.5) / 4
    for token in ("yes", "no"):
        row = found.loc[("P", token)]
        assert (row["walk_size"], row["walk_cost"]) == (4.0, pytest.approx((bought - sold) / 2))
