"""The bound on flow comes from the days before, and from nothing that depends on when a day is read."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from tick_tables import assert_same_rows, book, empty, load, market_days, observe, stored, trade

from tributary_opt import schema
from tributary_opt.settings import StatisticsRules
from tributary_opt.storage.questdb import QuestDB

pytestmark = pytest.mark.questdb

DAYS = [date(2024, 3, day) for day in (4, 5, 6, 7)]
SIZES = (1_000.0, 3_000.0, 2_000.0, 50_000.0)


def ticks() -> tuple[list, list]:
    """Market M buys one size a day after a quiet mid; N trades on the last day only."""
    trades, books = [], []
    for day, size in zip(DAYS, SIZES, strict=True):
        trades += [trade(f"{day}T10:06:00Z", "M", 10.0, size, "buy")]
        books += [book(f"{day}T10:{m:02d}:00Z", "M", mid - 1, mid + 1) for m, mid in ((2, 10), (7, 11))]
    trades += [trade(f"{DAYS[-1]}T10:06:00Z", "N", 10.0, 5.0, "sell")]
    return trades, books


def test_cap_is_a_share_of_the_mean_volume_of_the_days_before(db: QuestDB) -> None:
    load(db, *ticks())
    days = market_days(db, rules=StatisticsRules(flow_cap_pct_adv=2.0, flow_cap_trades=0))
    observe(days, DAYS[-1], 4)
    rows = stored(days, DAYS[-1], 4)
    of_m = rows[rows["market_id"] == "M"]
    np.testing.assert_allclose(of_m["flow_cap"], [np.nan, 20.0, 40.0, 40.0], rtol=1e-12)
    assert rows[rows["market_id"] == "N"]["flow_cap"].isna().all()
    # Its size is the flow; from the second day on the bound is, and the mid's move of 1 keeps its own.
    q, r = (of_m["impact_5m"].map(lambda a, k=name: a[schema.IMPACT_SUMS.index(k)]) for name in ("q", "r"))
    np.testing.assert_allclose(q, [1_000.0, 20.0, 40.0, 40.0], rtol=1e-12)
    assert r.tolist() == [1.0] * 4

    off = market_days(db, rules=StatisticsRules(flow_cap_pct_adv=0.0)).read(DAYS[1])
    assert off["flow_cap"].isna().all()


def test_cap_of_a_thin_market_is_no_less_than_twenty_mean_trades(db: QuestDB) -> None:
    """Half a percent of the volume of three trades would be a sixtieth of one: every trade would count alike."""
    trades, books = ticks()
    trades += [trade(f"{day}T11:{m:02d}:00Z", "M", 10.0, 100.0, "buy") for day in DAYS for m in (6, 36)]
    load(db, trades, books)
    days = market_days(db)
    observe(days, DAYS[-1], 4)
    rows = stored(days, DAYS[-1], 4)
    of_m = rows[rows["market_id"] == "M"]
    # 1,200, then 3,200 and 2,200 contracts a day in three trades.
    np.testing.assert_allclose(of_m["flow_cap"], [np.nan, 8_000.0, 44_000 / 3, 44_000 / 3], rtol=1e-9)
    q = of_m["impact_5m"].map(lambda a: a[schema.IMPACT_SUMS.index("q")])
    np.testing.assert_allclose(q, [1_000.0, 3_000.0, 2_000.0, 44_000 / 3], rtol=1e-9)


@pytest.mark.parametrize("unit", [3.0, 0.0283, 1e-9])
def test_cap_is_the_same_share_in_any_unit_of_size(db: QuestDB, unit: float) -> None:
    """In barrels, gallons or cubic metres: a cap of three digits differed by up to half a percent."""
    caps = []
    for times in (1.0, unit):
        trades, books = ticks()
        trades += [trade(f"{day}T11:06:00Z", "M", 10.0, 37.0, "sell") for day in DAYS]
        empty(db)
        load(db, [row | {"size": row["size"] * times} for row in trades], books)
        days = market_days(db, rules=StatisticsRules(flow_cap_trades=2.7))
        observe(days, DAYS[-1], 4)
        rows = stored(days, DAYS[-1], 4)
        of_m = rows[rows["market_id"] == "M"]
        q = of_m["impact_5m"].map(lambda a: a[schema.IMPACT_SUMS.index("q")])
        caps.append(np.stack([of_m["flow_cap"].to_numpy(), q.to_numpy(dtype=float)]) / times)
    np.testing.assert_allclose(caps[1], caps[0], rtol=1e-9)


def split_ticks(kind: str = "split") -> tuple[list, list]:
    """Market M trades 1,000 to 1,300 a day in three trades; from the third of five days on each contract is ten.

    A unit change is one of prices alone, a size_unit_change of sizes alone.
    """
    trades, books = [], []
    for i in range(5):
        price = 10.0 / (10.0 if i >= 2 and kind != "size_unit_change" else 1.0)
        times = 10.0 if i >= 2 and kind != "unit_change" else 1.0
        times *= 10.0 if i >= 2 and kind == "size_unit_change" else 1.0
        for minute in (6, 36, 56):
            at = f"2024-03-{4 + i:02d}T10:{minute:02d}:00Z"
            trades.append(trade(at, "M", price, (1_000.0 + 100.0 * (i % 4)) * times / 3, "buy"))
        books += [book(f"2024-03-{4 + i:02d}T10:{m:02d}:00Z", "M", 0.9 * price, 1.1 * price) for m in (2, 7)]
    return trades, books


@pytest.mark.parametrize(
    ("kind", "caps"),
    [
        ("split", [np.nan, 10.0, 105.0, 110.0, 115.0]),
        ("unit_change", [np.nan, 10.0, 10.5, 11.0, 11.5]),
        ("size_unit_change", [np.nan, 10.0, 10.5, 1_200.0, 1_250.0]),  # it takes two days to tell
    ],
)
def test_cap_after_a_split_is_in_the_new_contracts_from_its_first_day_on(
    db: QuestDB, kind: str, caps: list[float]
) -> None:
    load(db, *split_ticks(kind))
    days, last = market_days(db, rules=StatisticsRules(flow_cap_pct_adv=1.0, flow_cap_trades=0)), date(2024, 3, 8)
    first_night = {day: days.read(day, [date(2024, 3, d) for d in range(4, 9)]) for day in (last, date(2024, 3, 6))}
    observe(days, last, 5)
    rows = stored(days, last, 5)
    np.testing.assert_allclose(rows["flow_cap"], caps, rtol=1e-12)
    for day, read in first_night.items():  # from ticks alone, as from stored rows
        assert read["flow_cap"].tolist() == [caps[day.day - 4]]


def test_trades_of_days_in_another_unit_of_size_are_not_the_newest_days(db: QuestDB) -> None:
    """A thousand trades a day before the unit changed say nothing of the size of the ten after it."""
    trades, books = split_ticks("size_unit_change")
    busy = [
        trade(f"2024-03-{4 + i:02d}T11:{k // 60:02d}:{k % 60:02d}Z", "M", 10.0, 1.0, "buy")
        for i in range(2)
        for k in range(300)
    ]
    load(db, trades + busy, books)
    days, last = market_days(db), date(2024, 3, 8)
    observe(days, last, 5)
    rows = stored(days, last, 5)
    # 120,000 and 130,000 contracts in three trades each, on the two days in the new unit before the last.
    assert rows["flow_cap"].iloc[-1] == pytest.approx(20 * 125_000 / 3, rel=1e-2)


def test_row_is_the_same_in_whatever_order_days_are_read_and_stored(db: QuestDB) -> None:
    load(db, *ticks())
    days = market_days(db, rules=StatisticsRules(flow_cap_trades=0))
    first_night = {day: days.read(day, DAYS) for day in reversed(DAYS)}  # nothing stored, newest first
    for day in DAYS:  # oldest first, each stored before the next is read
        again = days.read(day, [d for d in DAYS if d >= day])
        assert_same_rows(again, first_night[day])
        days.store(again)
    assert_same_rows(days.read(DAYS[-1]), first_night[DAYS[-1]])  # everything known
    db.execute("TRUNCATE TABLE trades")
    db.wait("trades")
    load(db, *(part[-2:] for part in ticks()))
    # Ticks of earlier days have retired: their stored rows still say how much was traded.
    assert days.read(DAYS[-1])["flow_cap"].tolist()[0] == first_night[DAYS[-1]]["flow_cap"].tolist()[0] == 10.0


def test_two_tokens_of_one_market_have_one_cap_of_both_their_volumes(db: QuestDB) -> None:
    trades = [
        trade(f"{day}T10:06:00Z", "P", price, size, "buy", token_id=token)
        for day in DAYS[:2]
        for token, price, size in (("no", 0.4, 1_000.0), ("yes", 0.6, 3_000.0))
    ]
    books = [book(f"{day}T10:{m:02d}:00Z", "P", 0.35, 0.45, token_id="no") for day in DAYS[:2] for m in (2, 7)]
    load(db, trades, books)
    pair = {"market_id": "P", "kind": "probability"}
    reference = [
        pair | {"token_id": "no", "complement_token_id": "yes"},
        pair | {"token_id": "yes", "complement_token_id": "no"},
    ]
    days = market_days(db, reference, rules=StatisticsRules(flow_cap_trades=0))
    unstored = days.read(DAYS[1], DAYS)
    assert unstored["flow_cap"].tolist() == [20.0, 20.0]  # 0.5 % of 4,000
    days.store(days.read(DAYS[0], DAYS))
    assert_same_rows(days.read(DAYS[1]), unstored)
