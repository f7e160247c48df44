"""The spread that trades paid, whoever named their aggressors, beside the quoted one."""

from __future__ import annotations

from datetime import date

import pandas as pd
import pytest
from tick_tables import Row, book, load, market_days, observe, stored, trade, window

from tributary_opt.market_data.statistics import window_statistics
from tributary_opt.storage.questdb import QuestDB

pytestmark = pytest.mark.questdb

DAY = date(2024, 3, 4)


def ticks(market: str, sides: list[str | None], *, with_book: bool = True) -> tuple[list[Row], list[Row]]:
    """Quotes of 9.9 and 10.1; trades of sizes 1, 2, 3, … at 10.04 and 9.96 in turn, the first before any quote."""
    trades = [
        trade(f"2024-03-04T{9 + i:02d}:30:00Z", market, 10.04 if i % 2 else 9.96, 1.0 + i, side)
        for i, side in enumerate(sides)
    ]
    return trades, [book("2024-03-04T10:00:00Z", market, 9.9, 10.1)] if with_book else []


def statistics(db: QuestDB, *of_markets: tuple[list[Row], list[Row]], per_slice: int = 5_000) -> pd.DataFrame:
    load(db, [t for trades, _ in of_markets for t in trades], [b for _, books in of_markets for b in books])
    days = market_days(db, markets_per_slice=per_slice)
    observe(days, DAY)
    return window_statistics(stored(days, DAY), window("24/7", [DAY])).set_index("market_id")


@pytest.mark.parametrize("per_slice", [5_000, 2])
@pytest.mark.parametrize("limit", [0, 10_000], ids=["range", "list"])
def test_effective_and_quoted_spread_of_given_inferred_and_mixed_sides(
    db: QuestDB, monkeypatch: pytest.MonkeyPatch, per_slice: int, limit: int
) -> None:
    """A range of markets holds others too: none is counted twice."""
    monkeypatch.setattr("tributary_opt.market_data.source._LONGEST_IN_LIST", limit)
    given, none = ["sell", "buy", "sell", "buy"], [None] * 4
    found = statistics(
        db,
        ticks("a given", given),
        ticks("b inferred", none),
        ticks("c mixed", ["sell", "buy", None, None]),
        ticks("d given wrongly", ["buy", "sell", "buy", "sell"]),
        ticks("e no book", given, with_book=False),
        per_slice=per_slice,
    )
    assert found["side_method"].tolist() == ["given", "quote_rule", "mixed", "given", "given"]
    assert found["effective_spread"].iloc[:3].tolist() == [pytest.approx(0.08)] * 3
    assert pd.isna(found["effective_spread"].iloc[3:]).all()  # below 0 is none, and so is none
    assert found["quoted_spread"].iloc[:4].tolist() == [pytest.approx(0.2)] * 4
    assert found["spread_source"].iloc[:4].tolist() == ["time_weighted_quoted"] * 4
    assert pd.isna(found.loc["e no book", "quoted_spread"])


def test_days_weigh_by_the_size_that_traded_after_a_quote(db: QuestDB) -> None:
    trades, books = ticks("M", ["sell", "buy", "sell", "buy"])
    load(db, [*trades, trade("2024-03-04T20:00:00Z", "M", 10.10, 100.0, "buy")], books)
    (row,) = market_days(db).read(DAY).to_dict("records")
    assert row["effective_volume"] == 2.0 + 3.0 + 4.0 + 100.0
    assert row["effective_spread_volume"] == pytest.approx(2 * (0.04 * 9.0 + 0.10 * 100.0))
