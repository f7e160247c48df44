"""A market's Monday and Tuesday, for tests of market days."""

from __future__ import annotations

from datetime import date

from tick_tables import (
    book,
    trade,
)

from tributary_opt.storage.questdb import QuestDB

MONDAY = date(2024, 3, 4)
TUESDAY = date(2024, 3, 5)


def at(day: date, clock: str) -> str:
    return f"{day}T{clock}Z"


def two_days(market: str = "M", price: float = 100.0) -> tuple[list, list]:
    """A few trades and looks on Monday and Tuesday."""
    trades, books = [], []
    for i, day in enumerate((MONDAY, TUESDAY)):
        for minute in range(10):
            p = price + i + minute / 100
            trades.append(
                trade(at(day, f"15:{minute * 3:02d}:00"), market, p, 1.0 + minute, "buy" if minute % 3 else "sell")
            )
            books.append(book(at(day, f"15:{minute * 3:02d}:30"), market, p - 0.01, p + 0.01))
    return trades, books


def clear_market_days(db: QuestDB) -> None:
    db.execute("TRUNCATE TABLE ac_market_days")
    db.wait("ac_market_days")
