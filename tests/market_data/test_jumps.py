"""Jumps in a source: what is named one, what is not, and what becomes of the window."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from tributary_opt.market_data.buckets import zero_rows
from tributary_opt.market_data.jumps import cut_at_jumps
from tributary_opt.market_data.market_days import Window, in_order
from tributary_opt.market_data.statistics import window_statistics

LAST = date(2024, 3, 29)
DAYS = [LAST - timedelta(days=i) for i in range(19, -1, -1)]
WINDOW = Window.of(LAST, 20, ["24/7"])


def rows(market: str = "M", kind: str = "price", **from_day_12: float) -> pd.DataFrame:
    """Twenty days about 50 that move by some 2 % a day; from the thirteenth on price and size are multiplied."""
    rng = np.random.default_rng(1)
    level = 0.5 if kind == "probability" else 50.0
    out = []
    for i, day in enumerate(DAYS):
        row = zero_rows(day, pd.DataFrame({"market_id": [market], "token_id": [market]}))
        price = level * np.exp(rng.normal(0, 0.02, 2)) * (from_day_12.get("price", 1.0) if i >= 12 else 1.0)
        size = 10 * np.exp(rng.normal(0, 0.2)) * (from_day_12.get("size", 1.0) if i >= 12 else 1.0)
        row["n_trades"], row["volume"], row["kind"], row["calendar"] = 100, 100 * size, kind, "24/7"
        row["open_price"], row["close_price"], row["n_buckets"] = price[0], price[1], 288
        for name, at in (("session_start", day), ("session_end", day + timedelta(days=1))):
            row[name] = pd.Series([pd.Timestamp(at, tz="UTC")]).astype("datetime64[us, UTC]")
        out.append(row)
    return in_order(pd.concat(out, ignore_index=True), WINDOW)


@pytest.mark.parametrize(
    ("name", "kind", "change"),
    [
        ("split", "price", {"price": 0.1, "size": 10.0}),
        ("split", "price", {"price": 2 / 3, "size": 1.5}),
        ("split", "price", {"price": 8.0, "size": 1 / 8}),
        ("unit_change", "price", {"price": 100.0}),
        ("unit_change", "price", {"price": 0.001, "size": 1.0}),
        ("unit_change", "probability", {"price": 100.0}),
        ("size_unit_change", "price", {"size": 1_000.0}),
        ("size_unit_change", "probability", {"size": 0.01}),
        ("price_gap", "price", {"price": 1.35}),
        (None, "price", {}),
        (None, "price", {"price": 1.1}),
        (None, "price", {"size": 4.0}),
        (None, "probability", {"price": 1.8}),
        (None, "probability", {"price": 0.2}),
    ],
)
def test_jump_is_named_and_the_window_begins_with_it(name: str | None, kind: str, change: dict[str, float]) -> None:
    days = rows(kind=kind, **change)
    found = window_statistics(cut_at_jumps(days, WINDOW), WINDOW).iloc[0]
    if name is None:
        assert pd.isna(found["source_jump"])
        assert (found["n_days"], found["n_trades"]) == (20, 2_000)
        assert found["adv"] == pytest.approx(days["volume"].sum() / 20, rel=1e-12)
    else:
        assert found["source_jump"].startswith(f"{name} on 2024-03-22: price x")
        assert (found["n_days"], found["n_trades"]) == (8, 800)
        assert found["window_start"] == pd.Timestamp("2024-03-22", tz="UTC")
        assert found["adv"] == pytest.approx(days["volume"].iloc[12:].mean(), rel=1e-12)


def test_jump_of_one_market_is_no_concern_of_another_and_the_newest_counts() -> None:
    twice = rows("B", price=0.1, size=10.0)
    later = twice.index >= 16
    twice.loc[later, ["open_price", "close_price"]] *= 1_000.0
    together = in_order(pd.concat([rows("A"), twice, rows("C")], ignore_index=True), WINDOW)
    cut = cut_at_jumps(together, WINDOW)
    assert cut.groupby("market_id").size().to_dict() == {"A": 20, "B": 4, "C": 20}
    found = window_statistics(cut, WINDOW).set_index("market_id")
    assert found.loc["B", "source_jump"].startswith("unit_change on 2024-03-26")
    assert found.loc[["A", "C"], "source_jump"].isna().all()
    alone = window_statistics(rows("A"), WINDOW).set_index("market_id")
    assert found.loc["A", "adv"] == alone.loc["A", "adv"]


def test_one_day_of_strange_sizes_is_no_change_of_units() -> None:
    days = rows()
    days.loc[19, "volume"] *= 50.0  # the newest day: nobody knows yet what the next will be like
    days.loc[5, "volume"] *= 50.0
    assert cut_at_jumps(days, WINDOW)["source_jump"].isna().all()


def test_days_without_a_trade_hide_no_jump() -> None:
    days = rows(price=0.1, size=10.0)
    quiet = days.index.isin([11, 12])
    days.loc[quiet, ["n_trades", "volume"]] = 0
    days.loc[quiet, ["open_price", "close_price"]] = np.nan
    found = window_statistics(cut_at_jumps(days, WINDOW), WINDOW).iloc[0]
    assert found["source_jump"].startswith("split on 2024-03-23")
    assert found["n_days"] == 7
    assert len(cut_at_jumps(days.iloc[:0], WINDOW)) == 0
