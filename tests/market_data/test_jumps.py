"""Jumps in a source: what is named one, what is not, and what becomes of the window."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from tributary_opt.calibration.refusals import refusals
from tributary_opt.market_data.buckets import zero_rows
from tributary_opt.market_data.jumps import cut_at_jumps
from tributary_opt.market_data.market_days import Window, in_order
from tributary_opt.market_data.markets import ReferenceData
from tributary_opt.market_data.statistics import window_statistics
from tributary_opt.settings import CalibrationRules

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
        row["size_squared"] = 100 * 1.5 * size**2
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
        (None, "probability", {"price": 0.1}),
        (None, "probability", {"price": 0.01}),
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


def test_one_day_of_strange_sizes_within_the_window_is_no_change_of_units() -> None:
    days = rows()
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


# --- the first night in another unit of size -----------------------------------------------------------------


def resized(days: pd.DataFrame, row: int, factor: float) -> pd.DataFrame:
    """From a row on, the same trades in contracts of another size."""
    later = np.where(days.index >= row, factor, 1.0)
    return days.assign(volume=days["volume"] * later, size_squared=days["size_squared"] * later**2)


def jump_of(days: pd.DataFrame) -> str | None:
    found = window_statistics(cut_at_jumps(days, WINDOW), WINDOW)["source_jump"].iloc[0]
    return None if pd.isna(found) else str(found)


@pytest.mark.parametrize("kind", ["price", "probability"])
@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_sizes_in_another_unit_are_suspected_on_their_first_day_and_named_on_their_second(
    factor: float, kind: str
) -> None:
    first = resized(rows(kind=kind), 19, factor)
    found = window_statistics(cut_at_jumps(first, WINDOW), WINDOW).iloc[0]
    assert found["source_jump"].startswith("size_unit_suspected on 2024-03-29: price x")
    # Neither unit is averaged into the other.
    assert (found["n_days"], found["adv"]) == (1, first["volume"].iloc[19])
    second = resized(rows(kind=kind), 18, factor)
    found = window_statistics(cut_at_jumps(second, WINDOW), WINDOW).iloc[0]
    assert found["source_jump"].startswith("size_unit_change on 2024-03-28")
    assert (found["n_days"], found["adv"]) == (2, pytest.approx(second["volume"].iloc[18:].mean(), rel=1e-12))


def test_odd_day_is_back_among_the_others_on_the_next_night() -> None:
    days = rows()
    odd = resized(days, 18, 100.0)
    odd.loc[19, ["volume", "size_squared"]] = days.loc[19, ["volume", "size_squared"]]
    found = window_statistics(cut_at_jumps(odd, WINDOW), WINDOW).iloc[0]
    assert pd.isna(found["source_jump"])
    assert (found["n_days"], found["adv"]) == (20, pytest.approx(odd["volume"].mean(), rel=1e-12))


def test_day_without_a_trade_after_it_decides_nothing() -> None:
    days = resized(rows(), 18, 100.0)
    days.loc[19, ["n_trades", "volume", "size_squared"]] = 0
    jump = jump_of(days)
    assert jump is not None
    assert jump.startswith("size_unit_suspected on 2024-03-28")


def block(days: pd.DataFrame) -> pd.DataFrame:
    """One trade of a hundred days' volume beside the newest day's own."""
    size = 100.0 * days.loc[19, "volume"]
    days.loc[19, ["volume", "size_squared"]] += [size, size**2]
    days.loc[19, "n_trades"] += 1
    return days


def in_parcels(days: pd.DataFrame, trades: float) -> pd.DataFrame:
    """A thousand trades a day, and on the newest one the same volume in so many times as many."""
    n = np.where(days.index == 19, trades, 1.0) * 10.0
    days["n_trades"], days["size_squared"] = days["n_trades"] * n, days["size_squared"] / n
    return days


def busy(days: pd.DataFrame) -> pd.DataFrame:
    """The day of the earnings: eight times the trades, each of three times the size."""
    days.loc[19, "n_trades"] *= 8
    days.loc[19, "volume"] *= 24.0
    days.loc[19, "size_squared"] *= 72.0
    return days


def erratic(days: pd.DataFrame) -> pd.DataFrame:
    """A market whose trades are ten or two hundred times as large from day to day as on others."""
    days = resized(days, 19, 20_000.0)
    usual = np.where(
        days.index == 19, 1.0, np.where(days.index % 3 == 0, 200.0, np.where(days.index % 3 == 1, 10.0, 1))
    )
    return days.assign(volume=days["volume"] * usual, size_squared=days["size_squared"] * usual**2)


@pytest.mark.parametrize(
    "changed",
    [block, lambda d: in_parcels(d, 0.02), lambda d: in_parcels(d, 50.0), busy, erratic],
    ids=["block", "reported together", "in pieces", "busy", "erratic"],
)
def test_day_that_markets_have_by_themselves_is_not_suspected(changed: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    assert jump_of(changed(rows())) is None


@pytest.mark.parametrize(("earlier", "suspected"), [(5, True), (4, False)])
def test_fewer_than_five_days_do_not_say_what_is_usual(earlier: int, suspected: bool) -> None:
    days = resized(rows(), 19, 100.0).iloc[19 - earlier :].reset_index(drop=True)
    assert (jump_of(days) is not None) == suspected


def test_only_days_since_the_newest_jump_are_what_is_usual() -> None:
    days = resized(resized(rows(), 12, 1_000.0), 19, 0.01)
    jump = jump_of(days)
    assert jump is not None
    assert jump.startswith("size_unit_suspected on 2024-03-29")  # days of a tenth of that were in older contracts


def test_split_on_the_newest_day_is_a_split() -> None:
    days = resized(rows(), 19, 100.0)
    days.loc[19, ["open_price", "close_price"]] /= 100.0
    jump = jump_of(days)
    assert jump is not None
    assert jump.startswith("split on 2024-03-29")


# --- contract rolls ------------------------------------------------------------------------------------------


def around_the_clock(roll: float, *, minutes: float = 4.0, move: float = 0.02, seed: int = 2) -> pd.DataFrame:
    """Twenty days that open where the last one closed, `minutes` later, but for the thirteenth."""
    rng, days, last = np.random.default_rng(seed), rows(), 50.0
    half = pd.Timedelta(minutes=minutes / 2)
    for i in range(len(days)):
        opened = last * (roll if i == 12 else 1.0) * np.exp(rng.normal(0, move * np.sqrt(minutes / 1440)))
        last = opened * np.exp(rng.normal(0, move))
        days.loc[i, ["open_price", "close_price", "high_price", "low_price"]] = [opened, last, 1.1 * last, 0.9 * opened]
    return days.assign(first_trade_at=days["session_start"] + half, last_trade_at=days["session_end"] - half)


def pair(factor: float, level: float = 1.0) -> pd.DataFrame:
    """Two tokens of one series, `level` times that of `rows`; from the thirteenth day on prices are multiplied."""
    yes = rows(kind="probability", price=factor)
    yes[["open_price", "close_price"]] *= level
    yes = yes.assign(token_id="yes", folded_with="no")
    no = yes.assign(token_id="no", folded_with="yes")
    no[["open_price", "close_price"]] = 1.0 - yes[["open_price", "close_price"]]
    return in_order(pd.concat([yes, no], ignore_index=True), WINDOW)


@pytest.mark.parametrize(
    ("name", "factor", "level"),
    [(None, 10.0, 0.1), (None, 0.1, 1.0), ("unit_change", 100.0, 1.0), ("unit_change", 0.01, 100.0)],
)
def test_both_tokens_of_a_pair_keep_the_same_days(name: str | None, factor: float, level: float) -> None:
    """0.05 to 0.5 overnight is 0.95 to 0.5 for the other one: news for both. 50 is in percent, and 1 - 50 no price."""
    found = window_statistics(cut_at_jumps(pair(factor, level), WINDOW), WINDOW)
    assert found["n_days"].tolist() == ([20, 20] if name is None else [8, 8])
    words = found["source_jump"].fillna("").tolist()
    assert words[0] == words[1]
    assert words[0].startswith("" if name is None else f"{name} on {DAYS[12]}")
    assert (words[0] == "") == (name is None)


@pytest.mark.parametrize(
    ("roll", "minutes", "name"),
    [
        (1.03, 4.0, "contract_roll"),  # 2 % a day are 0.1 % in four minutes: ten of those
        (0.97, 4.0, "contract_roll"),
        (1.02, 60.0, None),  # 0.4 % in an hour
        (1.06, 60.0, "contract_roll"),
        (1.005, 4.0, None),  # less than 1 %: what prices do
        (1.06, 240.0, None),  # hours apart: what nights do
        (1.35, 240.0, "price_gap"),
        (1.0, 4.0, None),
    ],
)
def test_roll_is_seen_where_the_price_has_no_time_to_move_so_far(roll: float, minutes: float, name: str | None) -> None:
    for seed in range(2):
        found = cut_at_jumps(around_the_clock(roll, minutes=minutes, seed=seed), WINDOW)
        jump = found["source_jump"].iloc[0]
        if name is None:
            assert pd.isna(jump), seed
            assert len(found) == 20
        else:
            assert jump.startswith(f"{name} on 2024-03-22: price x"), seed
            assert len(found) == 8


def test_trades_that_bounce_between_wide_quotes_are_no_roll() -> None:
    days = around_the_clock(1.0)
    days["open_price"] *= np.where(np.arange(len(days)) % 2, 1.03, 0.97)
    assert cut_at_jumps(days, WINDOW)["source_jump"].isna().all()


# --- ticks ---------------------------------------------------------------------------------------------------


def on_ticks(before: float, after: float, change: int = 12, seed: int = 3, market: str = "M") -> pd.DataFrame:
    """Twenty days whose prices are multiples of one tick, and from a day on of another."""
    rng, days = np.random.default_rng(seed), rows(market)
    for i in range(len(days)):
        tick = before if i < change else after
        prices = np.sort(np.rint(rng.normal(50.0, 0.8, 4) / tick) * tick)
        days.loc[i, ["low_price", "open_price", "close_price", "high_price"]] = prices
    return days


@pytest.mark.parametrize(
    ("before", "after", "change", "named"),
    [
        (0.01, 0.001, 12, True),
        (0.001, 0.01, 12, True),
        (0.1, 0.01, 5, True),
        (0.1, 0.01, 17, True),
        (0.05, 0.01, 10, True),
        (0.1, 0.01, 4, False),  # four days on tenths may be chance
        (0.1, 0.01, 18, False),  # two days on hundredths may be mistakes
        (0.02, 0.01, 10, False),  # half of all prices are even: ten days are too few
        (0.01, 0.01, 10, False),
    ],
)
def test_change_of_the_tick_is_named_and_cuts_nothing_off(
    before: float, after: float, change: int, named: bool
) -> None:
    for seed in range(2):
        days = on_ticks(before, after, change, seed)
        found = cut_at_jumps(days, WINDOW)
        assert len(found) == 20
        jump = found["source_jump"].iloc[0]
        if named:
            assert jump == f"tick_change on {DAYS[change]}: tick {before:g} to {after:g}", seed
            assert found["jump_day"].isna().all()
            assert window_statistics(found, WINDOW)["source_jump"].iloc[0] == jump
        else:
            assert pd.isna(jump), seed


def test_ticks_of_one_market_say_nothing_of_another() -> None:
    days = pd.concat([on_ticks(0.01, 0.01, market="A"), on_ticks(0.01, 0.001, market="B"), rows("C")])
    found = cut_at_jumps(in_order(days, WINDOW), WINDOW)
    named = found.dropna(subset=["source_jump"])
    assert set(named["market_id"]) == {"B"}
    assert len(named) == 20


def test_prices_off_every_tick_name_no_change() -> None:
    """Prints between the ticks, such as midpoints and averages, hide the tick."""
    days = on_ticks(0.01, 0.001)
    days.loc[days.index % 3 == 0, "close_price"] += 0.0000123
    assert cut_at_jumps(days, WINDOW)["source_jump"].isna().all()


def within_day(at: int, step: float, size: float, *, stays: bool = True) -> pd.DataFrame:
    """The market of `rows`, whose price and sizes step within a day, and stay there or come back before its close."""
    days = rows()
    later = np.arange(len(days)) > at
    factor = np.where(later & stays, step, 1.0)
    days["open_price"] *= factor
    days["close_price"] *= np.where((np.arange(len(days)) == at) & stays, step, factor)
    days["volume"] *= np.where(later & stays, size, 1.0)
    days["price_step"], days["size_step"] = 1.01, 1.1
    days.loc[at, ["price_step", "size_step"]] = step, size
    days["step_at"] = days["day"] + pd.Timedelta(hours=12, minutes=5)
    return days


@pytest.mark.parametrize(
    ("name", "step", "size"),
    [
        ("split", 0.1, 10.0),
        ("split", 0.5, 2.1),
        ("split", 8.0, 0.11),
        ("unit_change", 0.001, 0.9),
        ("price_gap", 1.5, 1.0),
        (None, 1.3, 1.0),
        (None, 0.75, 1.0),
    ],
)
def test_jump_within_a_day_is_named_and_that_day_is_in_no_window(name: str | None, step: float, size: float) -> None:
    found = window_statistics(cut_at_jumps(within_day(12, step, size), WINDOW), WINDOW).iloc[0]
    if name is None:
        assert pd.isna(found["source_jump"])
        assert found["n_days"] == 20
    else:
        words = f"{name} within {DAYS[12]}, at 12:05 UTC: price x{step:.4g}, trade size x{size:.4g}"
        assert found["source_jump"] == words
        assert (found["n_days"], found["window_start"]) == (7, pd.Timestamp(DAYS[13], tz="UTC"))


def test_jump_within_the_newest_day_leaves_nothing_to_go_by_and_the_market_is_refused() -> None:
    found = window_statistics(cut_at_jumps(within_day(19, 0.1, 10.0), WINDOW), WINDOW)
    assert found["source_jump"].iloc[0].startswith(f"mixed_units: split within {LAST}, at 12:05 UTC")
    assert found["n_days"].iloc[0] == 1
    reference = ReferenceData(pd.DataFrame({"market_id": ["M"], "token_id": ["M"], "kind": "price"})).of(found)
    end = pd.Series([pd.Timestamp(LAST, tz="UTC") + pd.Timedelta(days=1)])
    reasons = refusals(found, reference, CalibrationRules(), end)
    assert reasons.reason[0] == "units_in_doubt"
    assert "price x0.1" in reasons.detail[0]


def test_step_that_comes_back_or_that_no_day_can_be_compared_with_is_no_jump() -> None:
    for days in (within_day(12, 0.1, 10.0, stays=False), within_day(12, 0.1, 10.0).iloc[8:].reset_index(drop=True)):
        names = cut_at_jumps(days, WINDOW)["source_jump"]
        assert names.isna().all() == (len(days) == 20)
    few = within_day(17, 0.1, 10.0).iloc[15:].reset_index(drop=True)
    assert cut_at_jumps(few, WINDOW)["source_jump"].dropna().str.contains("within").sum() == 0


@pytest.mark.parametrize(("there", "back"), [(0.001, 1_000.0), (0.1, 0.1), (0.5, 0.5)])
def test_two_jumps_within_days_do_not_hide_each_other(there: float, back: float) -> None:
    days = within_day(10, there, 1 / there)
    later, at = np.arange(20) > 14, np.arange(20) == 14
    days["open_price"] *= np.where(later, back, 1.0)
    days["close_price"] *= np.where(later | at, back, 1.0)
    days.loc[14, ["price_step", "size_step"]] = back, 1 / back
    names = cut_at_jumps(days, WINDOW)
    assert names["source_jump"].iloc[0].startswith(f"split within {DAYS[14]}")
    assert names["day"].iloc[0] == pd.Timestamp(DAYS[15], tz="UTC")


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_probability_that_goes_from_fractions_to_percent_within_a_day_is_cut_for_both_tokens(factor: float) -> None:
    days = within_day(12, factor, 1.0).assign(kind="probability", token_id="a", folded_with="b")
    days[["open_price", "close_price"]] /= 100.0 if factor > 1 else 1.0
    both = pd.concat([days, days.assign(token_id="b", folded_with="a", open_price=0.5, close_price=0.5)])
    found = cut_at_jumps(in_order(both, WINDOW), WINDOW)
    assert found.groupby("token_id")["day"].min().tolist() == [pd.Timestamp(DAYS[13], tz="UTC")] * 2
    assert found["source_jump"].str.startswith(f"unit_change within {DAYS[12]}").all()
    news = days.assign(open_price=0.1, close_price=0.5, price_step=5.0)
    assert cut_at_jumps(in_order(news, WINDOW), WINDOW)["source_jump"].isna().all()


@pytest.mark.parametrize("sd", [0.02, 0.2])
def test_wild_moves_of_a_market_that_has_them_are_no_jump(sd: float) -> None:
    """Two hundred markets with t(3) moves from bar to bar."""
    rng = np.random.default_rng(4)
    moves = rng.standard_t(3, (200, 20, 288)) * sd / np.sqrt(3 * 288)
    largest = np.abs(moves).argmax(axis=2)[:, :, np.newaxis]
    made, like = [], rows()
    for market in range(200):
        days = like.assign(market_id=f"M{market:03d}", token_id=f"M{market:03d}")
        days["open_price"] = 50.0 * np.exp(np.append(0.0, np.cumsum(moves[market].sum(axis=1)))[:-1])
        days["close_price"] = days["open_price"] * np.exp(moves[market].sum(axis=1))
        days["price_step"] = np.exp(np.take_along_axis(moves[market], largest[market], axis=1)[:, 0])
        days["size_step"] = rng.lognormal(0, 0.5, 20)
        days["step_at"] = days["day"]
        made.append(days)
    found = cut_at_jumps(in_order(pd.concat(made, ignore_index=True), WINDOW), WINDOW)
    assert (np.exp(np.abs(moves)) > 1.4).any() == (sd == 0.2)
    assert not found["source_jump"].dropna().str.contains("within").any()


@pytest.mark.parametrize("n_trades", [3, 10, 40])
def test_thin_markets_whose_sizes_scatter_have_no_new_unit(n_trades: int) -> None:
    """Trade sizes of a log-sd of 2, as on recorded prediction markets: days' mean sizes differ tenfold by chance."""
    rng, like, made = np.random.default_rng(9), rows(), []
    for market in range(400):
        sizes = rng.lognormal(0.0, 2.0, (20, n_trades))
        mine = {"market_id": f"M{market:03d}", "token_id": f"M{market:03d}", "n_trades": n_trades}
        made.append(like.assign(**mine, volume=sizes.sum(axis=1), size_squared=(sizes**2).sum(axis=1)))
    names = cut_at_jumps(in_order(pd.concat(made, ignore_index=True), WINDOW), WINDOW)
    named = names.groupby("market_id")["source_jump"].first().dropna().str.contains("size_unit")
    assert named.sum() == 0
