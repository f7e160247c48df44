"""What makes a day be read, or read again, and which days there are in calendars of several kinds."""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest
from tick_tables import (
    Spy,
    assert_same_rows,
    book,
    create,
    load,
    market_days,
    observe,
    send,
    stored,
    trade,
)
from two_days import MONDAY, TUESDAY, at, clear_market_days, two_days

from tributary_opt import schema
from tributary_opt.market_data import market_days as module
from tributary_opt.market_data.market_days import newest_complete_day
from tributary_opt.market_data.markets import ReferenceData
from tributary_opt.market_data.source import Source
from tributary_opt.settings import SourceTables, StatisticsRules
from tributary_opt.storage.questdb import QuestDB

pytestmark = pytest.mark.questdb


# --- when a day is read -------------------------------------------------------------------------------------


def test_night_reads_a_day_once_and_the_next_night_reads_the_new_day_only(db: QuestDB) -> None:
    first, last = date(2024, 2, 20), date(2024, 3, 1)
    span = pd.date_range(first, last, freq="D")
    load(
        db,
        [trade(f"{d.date()}T12:{m:02d}:00Z", "M", 10.0 + m / 100, 1.0, "buy") for d in span for m in range(30)],
        [book(f"{d.date()}T12:{m:02d}:00Z", "M", 9.0, 11.0) for d in span for m in range(30)],
    )
    spy = Spy(db)
    days = market_days(db, source=spy)
    assert observe(days, last, len(span)) == [d.date() for d in span]
    spy.asked.clear()
    assert observe(days, last, len(span)) == []
    assert spy.asked == []  # a night that knows its window asks for no tick

    # What a night with ten days behind it reads is what one with a single day behind it does: the new day.
    new = date(2024, 3, 2)
    send(db, "trades", [trade(at(new, "12:00:00"), "M", 10.0, 1.0)])
    assert observe(days, new, len(span)) == [new]
    assert [(query, day) for query, day in spy.asked if day != new] == []
    behind_ten = len(spy.asked)
    clear_market_days(db)
    observe(days, date(2024, 3, 1), 1)
    spy.asked.clear()
    assert observe(days, new, 2) == [new]
    assert behind_ten == len(spy.asked)


@pytest.fixture
def known(db: QuestDB) -> QuestDB:
    """Two markets on two days, all known, and a big one that hides small changes in sums of doubles."""
    for market in ("M", "N"):
        load(db, *two_days(market))
    send(db, "trades", [trade(at(day, "01:00:00"), "BIG", 3e6, 4e8) for day in (MONDAY, TUESDAY)])
    assert observe(market_days(db), TUESDAY) == [MONDAY, TUESDAY]
    assert observe(market_days(db), TUESDAY) == []
    return db


def test_late_trade_has_its_day_read_again(known: QuestDB) -> None:
    send(known, "trades", [trade(at(MONDAY, "09:00:00"), "M", 100.0, 1.0)])
    assert observe(market_days(known), TUESDAY) == [MONDAY]
    assert observe(market_days(known), TUESDAY) == []
    assert stored(market_days(known), TUESDAY).query("market_id == 'M'")["n_trades"].tolist() == [11, 10]


def test_late_look_at_the_book_has_its_day_read_again(known: QuestDB) -> None:
    send(known, "orderbook_snapshots", [book(at(TUESDAY, "15:59:00"), "M", 100.0, 100.5)])
    assert observe(market_days(known), TUESDAY) == [TUESDAY]


@pytest.mark.parametrize("change", ["size", "price"])
def test_changed_trade_has_its_day_read_again_however_small_beside_the_days_sum(known: QuestDB, change: str) -> None:
    """1e-6 of a contract beside 4e8, 1e-6 of a currency beside 1.2e15: no digit of a sum of doubles would show it."""
    row = dict(two_days("M")[0][0])
    send(known, "trades", [{**row, change: row[change] + 1e-6}])
    assert observe(market_days(known), TUESDAY) == [MONDAY]


@pytest.mark.parametrize("change", ["best_bid", "best_ask"])
def test_changed_book_has_its_day_read_again(known: QuestDB, change: str) -> None:
    row = dict(two_days("M")[1][0])
    send(known, "orderbook_snapshots", [{**row, change: row[change] + 1e-9}])
    assert observe(market_days(known), TUESDAY) == [MONDAY]


def test_same_rows_sent_again_have_nothing_read_again(known: QuestDB) -> None:
    load(known, *two_days("M"))
    assert observe(market_days(known), TUESDAY) == []


def test_reread_reads_every_day_and_changes_nothing(known: QuestDB) -> None:
    before = stored(market_days(known), TUESDAY)
    assert observe(market_days(known), TUESDAY, reread=True) == [MONDAY, TUESDAY]
    assert_same_rows(stored(market_days(known), TUESDAY), before)


@pytest.mark.parametrize("rules", [{"quote_cap_seconds": 60.0}, {"skip_open_minutes": 5}])
def test_other_rules_read_every_day_again(known: QuestDB, rules: dict) -> None:
    days = market_days(known, rules=StatisticsRules(**rules))
    assert observe(days, TUESDAY) == [MONDAY, TUESDAY]
    assert observe(days, TUESDAY) == []


def test_newer_statistics_read_every_day_again(known: QuestDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STATISTICS_VERSION", module.STATISTICS_VERSION + 1)
    assert observe(market_days(known), TUESDAY) == [MONDAY, TUESDAY]
    assert observe(market_days(known), TUESDAY) == []


def test_other_kind_reads_the_days_of_that_market_again(known: QuestDB) -> None:
    markets = [{"market_id": "M", "token_id": None, "kind": "probability"}]
    assert observe(market_days(known, markets), TUESDAY) == [MONDAY, TUESDAY]
    assert observe(market_days(known, markets), TUESDAY) == []
    kinds = stored(market_days(known, markets), TUESDAY).set_index("market_id")["kind"]
    assert set(kinds["M"]) == {"probability"}
    assert set(kinds["N"]) == {"price"}


def test_other_calendar_reads_the_window_again_once(db: QuestDB) -> None:
    """Saturday's row of a market that turns out to be a stock becomes zeros, and is not read for ever after."""
    friday, saturday, monday = date(2024, 3, 1), date(2024, 3, 2), date(2024, 3, 4)
    for day in (friday, saturday, monday):
        load(
            db,
            [trade(at(day, "15:00:00"), "M", 100.0, 1.0), trade(at(day, "15:00:00"), "N", 5.0, 1.0)],
            [book(at(day, f"15:{m:02d}:00"), "M", 99.0, 101.0) for m in (0, 10)],
        )
    assert observe(market_days(db), monday) == [friday, saturday, monday]
    markets = [{"market_id": "M", "token_id": None, "kind": "price", "calendar": "XNYS"}]
    days = market_days(db, markets)
    assert observe(days, monday) == [friday, saturday, monday]
    assert observe(days, monday) == []
    rows = stored(days, monday)
    assert rows[rows["market_id"] == "M"]["day"].dt.date.tolist() == [friday, monday]  # Saturday is none of its days
    assert rows[rows["market_id"] == "N"]["day"].dt.date.tolist() == [friday, saturday, monday]
    on_saturday = days.read(saturday).set_index("market_id")
    assert on_saturday.loc["M", ["n_trades", "volume", "calendar"]].tolist() == [0, 0.0, "XNYS"]
    assert pd.isna(on_saturday.loc["M", "session_start"])
    # And back again.
    assert observe(market_days(db), monday) == [friday, saturday, monday]
    assert observe(market_days(db), monday) == []
    assert len(stored(market_days(db), monday)) == 6


def test_market_gone_from_a_day_that_is_read_again_gets_a_row_of_zeros(
    db: QuestDB, caplog: pytest.LogCaptureFixture
) -> None:
    load(db, *two_days("M"))
    load(db, *two_days("N"))
    observe(market_days(db), TUESDAY)
    for table in ("trades", "orderbook_snapshots"):
        db.execute(f"DROP TABLE {table}")
    load(db, *two_days("N"))  # M was a mistake
    days = market_days(db)
    with caplog.at_level(logging.INFO):
        assert observe(days, TUESDAY) == [MONDAY, TUESDAY]
    assert "1 markets have gone from the source" in caplog.text
    assert observe(days, TUESDAY) == []
    rows = stored(days, TUESDAY)
    assert rows["market_id"].tolist() == ["M", "M", "N", "N"]
    gone = rows[rows["market_id"] == "M"]
    kept = {"day", "market_id", "token_id", "kind", "calendar", "folded_with", "session_start", "session_end"}
    for column in schema.MARKET_DAYS.columns:
        if column.name in kept or column.name in ("statistics_version", "settings_digest", "source_digest"):
            continue
        for value in gone[column.name]:
            assert (
                value is None or pd.isna(value)
                if not isinstance(value, np.ndarray | float | int)
                else (not np.any(value) or np.isnan(value).all())
            ), column.name
    assert gone["session_end"].tolist() == [pd.Timestamp(TUESDAY, tz="UTC"), pd.Timestamp("2024-03-06", tz="UTC")]
    assert set(schema.MARKET_DAYS.names) == set(rows.columns)


def test_days_whose_ticks_the_source_has_retired_are_kept(known: QuestDB) -> None:
    before = stored(market_days(known), TUESDAY)
    for table in ("trades", "orderbook_snapshots"):
        known.execute(f"ALTER TABLE {table} DROP PARTITION LIST '{MONDAY}'")
        known.wait(table)
    assert observe(market_days(known), TUESDAY) == []
    assert_same_rows(stored(market_days(known), TUESDAY), before)
    assert observe(market_days(known), TUESDAY, reread=True) == [MONDAY, TUESDAY]
    assert stored(market_days(known), TUESDAY)["n_trades"].to_list()[::2] == [0, 0, 0]


@pytest.mark.parametrize("newer", ["statistics", "rules"])
def test_newer_statistics_or_rules_leave_days_alone_whose_ticks_have_retired(
    known: QuestDB, monkeypatch: pytest.MonkeyPatch, newer: str
) -> None:
    """Read again they would be rows of zeros, a third of the window's volume gone for good."""
    before = stored(market_days(known), TUESDAY)
    for table in ("trades", "orderbook_snapshots"):
        known.execute(f"ALTER TABLE {table} DROP PARTITION LIST '{MONDAY}'")
        known.wait(table)
    rules = StatisticsRules(quote_cap_seconds=60.0) if newer == "rules" else StatisticsRules()
    if newer == "statistics":
        monkeypatch.setattr(module, "STATISTICS_VERSION", module.STATISTICS_VERSION + 1)
    assert observe(market_days(known, rules=rules), TUESDAY) == [TUESDAY]
    after = stored(market_days(known, rules=rules), TUESDAY)
    monday = pd.Timestamp(MONDAY, tz="UTC")
    assert_same_rows(after[after["day"] == monday], before[before["day"] == monday])


def test_instrument_without_a_token_is_one_instrument(db: QuestDB) -> None:
    trades, books = two_days("M")
    nameless = [{**row, "token_id": None} for row in (*trades, *books)]
    load(db, nameless[: len(trades)], nameless[len(trades) :])
    days = market_days(db)
    observe(days, TUESDAY)
    observe(days, TUESDAY, reread=True)
    rows = stored(days, TUESDAY)
    assert rows["token_id"].tolist() == ["", ""]
    assert rows["n_trades"].tolist() == [10, 10]
    assert (rows["n_two_sided"] == 10).all()


# --- calendars together -------------------------------------------------------------------------------------


def sessions_of(days: list[date], clocks: tuple[str, ...], market: str) -> tuple[list, list]:
    return (
        [trade(at(d, c), market, 100.0, 1.0) for d in days for c in clocks],
        [book(at(d, c), market, 99.0, 101.0) for d in days for c in clocks],
    )


def test_coin_and_stock_each_have_the_days_of_their_own_calendar(db: QuestDB) -> None:
    """Thanksgiving 2024 closes XNYS on 28 November and ends the session of the 29th at 13:00 in New York."""
    span = [d.date() for d in pd.date_range("2024-11-25", "2024-12-02")]
    clocks = ("14:29:59.999999", "14:30:00", "17:59:59.999999", "18:00:00", "20:59:59.999999", "21:00:00")
    load(db, *sessions_of(span, clocks, "COIN"))
    load(db, *sessions_of(span, clocks, "STOCK"))
    markets = [{"market_id": "STOCK", "token_id": None, "kind": "price", "calendar": "XNYS"}]
    days = market_days(db, markets)
    as_of = span[-1]
    assert observe(days, as_of, 8) == span
    assert observe(days, as_of, 8) == []
    rows = stored(days, as_of, 8).set_index(["market_id", rows_day(stored(days, as_of, 8))])["n_trades"]
    assert rows["COIN"].to_dict() == dict.fromkeys(span, 6)
    half, closed = date(2024, 11, 29), {date(2024, 11, 28), date(2024, 11, 30), date(2024, 12, 1)}
    assert rows["STOCK"].to_dict() == {d: 2 if d == half else 4 for d in span if d not in closed}

    trimmed = market_days(db, markets, StatisticsRules(skip_open_minutes=1, skip_close_minutes=180))
    observe(trimmed, as_of, 8)
    rows = stored(trimmed, as_of, 8)
    # Of a full day 14:31 to 18:00 is left, of the half day 14:31 to 15:00.
    assert rows[rows["market_id"] == "STOCK"]["n_trades"].tolist() == [1, 1, 1, 0, 1]
    assert rows[rows["market_id"] == "COIN"]["n_trades"].tolist() == [6] * 8
    assert observe(trimmed, as_of, 8) == []


def rows_day(rows: pd.DataFrame) -> pd.Series:
    return rows["day"].dt.date.rename("date")


def test_trims_that_leave_nothing_of_a_half_day_are_read_once(db: QuestDB) -> None:
    span = [date(2024, 11, 27), date(2024, 11, 29)]
    load(db, *sessions_of(span, ("16:00:00",), "STOCK"))
    markets = [{"market_id": "STOCK", "token_id": None, "kind": "price", "calendar": "XNYS"}]
    observe(market_days(db, markets), span[-1])
    days = market_days(db, markets, StatisticsRules(skip_open_minutes=60, skip_close_minutes=150))
    assert observe(days, span[-1]) == span
    assert observe(days, span[-1]) == []
    rows = stored(days, span[-1])
    assert rows["n_trades"].tolist() == [1, 0]


def test_ticks_out_of_every_session_are_read_once(db: QuestDB) -> None:
    """Of stocks alone: a Saturday with prints, and a day with nothing but prints before the open."""
    friday, saturday, monday = date(2024, 3, 1), date(2024, 3, 2), date(2024, 3, 4)
    load(db, *sessions_of([friday], ("15:00:00",), "STOCK"))
    load(db, *sessions_of([saturday], ("15:00:00",), "STOCK"))
    load(db, *sessions_of([monday], ("09:00:00",), "STOCK"))
    markets = [{"market_id": "STOCK", "token_id": None, "kind": "price", "calendar": "XNYS"}]
    spy = Spy(db)
    days = market_days(db, markets, source=spy)
    assert observe(days, monday) == [friday, saturday, monday]
    spy.asked.clear()
    assert observe(days, monday) == []
    assert spy.asked == []
    rows = stored(days, monday)
    assert rows["day"].dt.date.tolist() == [friday, monday]
    assert rows["n_trades"].tolist() == [1, 0]
    # A coin that turns up on that Saturday is seen.
    load(db, *sessions_of([saturday], ("16:00:00",), "COIN"))
    assert observe(days, monday) == [saturday]
    assert observe(days, monday) == []
    assert stored(days, monday)["market_id"].tolist() == ["COIN", "STOCK", "STOCK"]


def test_session_that_begins_the_evening_before_is_read_whole(db: QuestDB) -> None:
    """CMES: Tuesday's session begins on Monday at 17:00 in Chicago."""
    load(db, *sessions_of([MONDAY], ("22:59:59", "23:00:00", "23:30:00"), "FUT"))
    load(db, *sessions_of([TUESDAY], ("10:00:00", "23:30:00"), "FUT"))
    markets = [{"market_id": "FUT", "token_id": None, "kind": "price", "calendar": "CMES"}]
    days = market_days(db, markets)
    row = days.read(TUESDAY).set_index("market_id").loc["FUT"]
    assert row["n_trades"] == 3
    assert row["session_start"] == pd.Timestamp("2024-03-04T23:00Z")
    observe(days, TUESDAY)
    send(db, "trades", [trade(at(MONDAY, "23:45:00"), "FUT", 100.0, 1.0)])  # a late row of Tuesday's session
    assert observe(days, TUESDAY) == [MONDAY, TUESDAY]


# --- which day ----------------------------------------------------------------------------------------------


def test_newest_complete_day_is_the_last_over_with_trades_in_its_calendar(db: QuestDB) -> None:
    def newest(markets: list | None = None, now: str = "2024-03-06T12:00") -> date | None:
        reference = ReferenceData(None if markets is None else pd.DataFrame(markets))
        return newest_complete_day(
            Source(db, SourceTables()), reference, datetime.fromisoformat(now).replace(tzinfo=UTC)
        )

    create(db)
    assert newest() is None
    load(db, *two_days())
    assert newest() == TUESDAY
    assert newest(now="2024-03-05T23:59:59") == MONDAY  # Tuesday is not over
    send(db, "trades", [trade("2024-03-06T01:00:00Z", "M", 1.0, 1.0), trade("2099-01-01T00:00:00Z", "M", 1.0, 1.0)])
    assert newest() == TUESDAY
    stock = [{"market_id": "M", "token_id": None, "kind": "price", "calendar": "XNYS"}]
    send(
        db, "trades", [trade("2024-03-09T01:00:00Z", "M", 1.0, 1.0)]
    )  # after Friday's close in New York, Saturday in UTC
    assert newest(stock, now="2024-03-10T00:00") == date(2024, 3, 8)
    assert newest(now="2024-03-10T00:00") == date(2024, 3, 9)


def test_window_begins_with_the_first_recorded_day(db: QuestDB) -> None:
    load(db, *two_days())
    days = market_days(db)
    assert days.window(TUESDAY, 30).days["24/7"] == [MONDAY, TUESDAY]
    observe(days, TUESDAY)
    for table in ("trades", "orderbook_snapshots"):
        db.execute(f"ALTER TABLE {table} DROP PARTITION LIST '{MONDAY}'")
        db.wait(table)
    assert days.window(TUESDAY, 30).days["24/7"] == [MONDAY, TUESDAY]  # what was recorded once counts
    assert days.window(TUESDAY, 1).days["24/7"] == [TUESDAY]
