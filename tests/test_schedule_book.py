"""The schedule book: published points to the bit, anything else solved, and every refusal in words."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from book_release import AS_OF, GRID, MARKETS, NOW, market, publish

from tributary_opt import schema
from tributary_opt.optimization.almgren_chriss import generate_ac_trajectory
from tributary_opt.optimization.trajectory import AlmgrenChrissParams
from tributary_opt.schedule_book import BookError, ScheduleBook, ScheduleRefused
from tributary_opt.schedule_book.from_parquet import of_parquet
from tributary_opt.schedule_book.snapshot import Snapshot
from tributary_opt.settings import Grid, RiskLevel
from tributary_opt.storage import parquet
from tributary_opt.storage.questdb import ServerUnavailable

RISKS = ("risk_aversion", "urgency")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    root = tmp_path_factory.mktemp("parquet")
    return root, publish(root)


@pytest.fixture(scope="module")
def book(release: tuple[Path, pd.DataFrame]) -> ScheduleBook:
    return opened(release[0])


def opened(root: Path, now: datetime = NOW) -> ScheduleBook:
    return ScheduleBook.open(root, clock=lambda: now)


# --- the grid and what lies between ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RISKS)
def test_grid_point_comes_back_bit_for_bit(book: ScheduleBook, release: tuple[Path, pd.DataFrame], kind: str) -> None:
    rows = release[1][release[1]["strategy"] == "almgren_chriss"]
    assert len(rows) > 100
    for row in rows.to_dict("records"):
        risk: dict[str, Any] = {kind: row[kind]}
        ask = {"token_id": row["token_id"], "horizon": row["horizon"], **risk}
        t = book.schedule(row["market_id"], row["order_size"], **ask)
        assert t.params["source"] == "published"
        assert t.holdings.tobytes() == np.asarray(row["remaining"]).tobytes()
        assert (t.total_cost_estimate, t.risk_aversion) == (row["expected_cost_bps"], row["risk_aversion"])
        assert (t.params["expected_cost"], t.params["cost_variance"]) == (row["expected_cost"], row["cost_variance"])
        assert abs(math.fsum(t.trade_sizes) - row["order_size"]) <= 4 * 2.0**-52 * row["order_size"]
        assert t.params["run_id"] == "a" * 16
        assert t.params["as_of"] == AS_OF


def test_off_grid_order_is_solved_from_the_published_parameters(book: ScheduleBook) -> None:
    t = book.schedule("ALPHA", 1_234.5, risk_aversion=3e-4, horizon=0.5)
    p = AlmgrenChrissParams(eta=2e-5, gamma=2e-6, sigma=1.0, alpha=1.0, tau=1 / 48, epsilon=0.01, price=50.0)
    want = generate_ac_trajectory(1_234.5, 24, p, 3e-4, permanent=t.params["permanent"])
    assert t.params["source"] == "solved"
    np.testing.assert_allclose(t.holdings, want.holdings, rtol=1e-13)
    assert t.total_cost_estimate == pytest.approx(want.total_cost_estimate, rel=1e-13)


@pytest.mark.parametrize(
    ("risk", "measured"),
    [
        ({"urgency": 2.0}, lambda t: t.params["urgency"]),
        ({"decay_time": 0.4}, lambda t: t.params["decay_time"]),
        ({"half_life": 0.3}, lambda t: t.params["half_life"]),
        ({"cost_budget_bps": 7.0}, lambda t: t.total_cost_estimate),
        ({"done_by": (0.8, 0.5)}, lambda t: 1 - t.holdings[24] / t.holdings[0]),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_every_way_to_choose_risk_is_met(book: ScheduleBook, risk: dict[str, Any], measured: Any) -> None:
    t = book.schedule("ALPHA", 900.0, **risk)
    wanted = next(iter(risk.values()))
    target = wanted[0] if isinstance(wanted, tuple) else wanted
    # Of a budget, what the schedule decides about: spread and permanent impact are paid by every one.
    fixed = (0.01 + 2e-6 * 900.0 / 2) / 50.0 * 1e4 if "cost_budget_bps" in risk else 0.0
    assert measured(t) - fixed == pytest.approx(target - fixed, rel=1e-9)


@pytest.mark.parametrize("time_left", [math.inf, -math.inf, math.nan, 1e308, 0.0, -1.0, 1.5])
def test_time_that_is_none_of_the_schedules_is_refused(book: ScheduleBook, time_left: float) -> None:
    with pytest.raises(ScheduleRefused, match=r"done_by's time must be from 0\.0208333 to 1 days, got"):
        book.schedule("ALPHA", 900.0, done_by=(0.8, time_left))
    asked = pd.DataFrame({"market_id": ["ALPHA"] * 2, "order_size": 900.0, "done_by": [(0.8, time_left), (0.8, 0.5)]})
    found = book.schedules(asked)
    assert found["refused"].notna().tolist() == [True, False]


def test_grid_of_twap_alone_refuses_any_urgency_in_words(tmp_path: Path) -> None:
    publish(tmp_path, grid=Grid(risk_levels=(RiskLevel(value=0.0),)))
    book = opened(tmp_path)
    assert book.schedule("ALPHA", 900.0, urgency=0.0).params["source"] == "solved"
    for risk in ({"urgency": 1.0}, {"risk_aversion": 1e-3}, {"half_life": 0.2}, {"cost_budget_bps": 7.0}):
        with pytest.raises(ScheduleRefused, match="the grid's only level is 0, TWAP"):
            book.schedule("ALPHA", 900.0, **risk)  # type: ignore[arg-type]
    with pytest.raises(ScheduleRefused, match="one point, TWAP"):
        book.frontier("ALPHA", 900.0)
    found = book.schedules(pd.DataFrame({"market_id": ["ALPHA"] * 2, "order_size": 900.0, "urgency": [1.0, 0.0]}))
    assert found["refused"].notna().tolist() == [True, False]


@pytest.mark.parametrize("lot", [5.0, 20.0, 30.0, 300.0])
@pytest.mark.parametrize("budget", [5.8, 6.0, 7.0, 9.0])
def test_a_budget_is_kept_in_lots_or_refused_with_the_least_cost(book: ScheduleBook, lot: float, budget: float) -> None:
    least = book.schedule("ALPHA", 900.0, risk_aversion=0.0, lot_size=lot).total_cost_estimate
    if least <= budget:
        t = book.schedule("ALPHA", 900.0, cost_budget_bps=budget, lot_size=lot)
        assert t.total_cost_estimate <= budget * (1 + 1e-9)
        assert t.total_cost_estimate >= budget - max(0.15, least - 5.776)  # and is made use of
    else:
        with pytest.raises(ScheduleRefused, match=rf"the least expected cost in lots of {lot:g} is {least:.10g} bps"):
            book.schedule("ALPHA", 900.0, cost_budget_bps=budget, lot_size=lot)


def test_a_time_that_lots_miss_is_said(book: ScheduleBook) -> None:
    half = book.schedule("ALPHA", 900.0, half_life=0.2, lot_size=300.0)
    assert half.params["warnings"] == (
        f"half of the order is done after {half.params['half_life']:.10g} days in lots of 300, not 0.2",
    )
    share = book.schedule("ALPHA", 900.0, done_by=(0.5, 0.25), lot_size=300.0)
    done = 1 - share.holdings[12] / 900.0
    assert share.params["warnings"] == (f"the share done by 0.25 days is {done:.10g} in lots of 300, not 0.5",)
    assert book.schedule("ALPHA", 900.0, half_life=0.2).params["warnings"] == ()


RISK_OF_ANY_KIND: list[dict[str, Any]] = [
    *({"urgency": 0.0}, {"urgency": 3.0}, {"risk_aversion": 1e-3}, {"decay_time": 0.3}),
    *({"half_life": 0.5}, {"done_by": (0.5, 0.5)}),
]


@pytest.mark.parametrize("risk", RISK_OF_ANY_KIND, ids=str)
@pytest.mark.parametrize("size", [1_000.0, 900.0])
def test_without_a_trade_off_every_risk_is_twap_with_a_warning(
    tmp_path: Path, risk: dict[str, Any], size: float
) -> None:
    publish(tmp_path, markets=(market("BENT", gamma=1e-2),), grid=GRID)
    book = opened(tmp_path)
    t = book.schedule("BENT", size, **risk)
    np.testing.assert_allclose(t.holdings, size * np.arange(48, -1, -1) / 48, rtol=1e-12)
    assert t.params["source"] == ("published" if size == 1_000.0 else "solved")
    assert t.risk_aversion == 0.0
    assert "eta - gamma*tau/2 must be > 0" in " ".join(t.params["warnings"])
    row = book.schedules(pd.DataFrame({"market_id": ["BENT"], "order_size": size, **{k: [v] for k, v in risk.items()}}))
    assert (row["source"][0], row["status"][0]) == (t.params["source"], t.params["status"])
    assert row["warnings"][0] == t.params["warnings"]
    with pytest.raises(ScheduleRefused, match=r"eta_tilde = eta - gamma\*tau/2 = -8.*one point, TWAP; publish a grid"):
        book.frontier("BENT", size)
    rest = book.replan(t, float(t.holdings[5]), float(t.timestamps[5]))
    np.testing.assert_allclose(rest.holdings, t.holdings[5:], rtol=1e-12)


@pytest.mark.parametrize("size", [1_000.0, 900.0])
def test_without_a_trade_off_what_is_no_risk_is_refused_still(tmp_path: Path, size: float) -> None:
    publish(tmp_path, markets=(market("BENT", gamma=1e-2),), grid=GRID)
    book = opened(tmp_path)
    for kind in ("urgency", "risk_aversion", "decay_time", "half_life", "cost_budget_bps"):
        for value in (-1.0, math.nan, math.inf):
            with pytest.raises(ScheduleRefused, match=rf"{kind} must be finite and >= 0"):
                book.schedule("BENT", size, **{kind: value})  # type: ignore[arg-type]
    for time_ in (math.inf, math.nan, 0.0, 1.5):
        with pytest.raises(ScheduleRefused, match="done_by's time must be from"):
            book.schedule("BENT", size, done_by=(0.5, time_))
    with pytest.raises(ScheduleRefused, match="cost_budget_bps=1: the least expected cost is "):
        book.schedule("BENT", size, cost_budget_bps=1.0)


def test_a_horizon_that_a_resolution_cuts_short_is_said(tmp_path: Path) -> None:
    soon = datetime(2026, 3, 4, 18, tzinfo=UTC)  # 17 h and the buffer after the schedule could begin
    made = (market("SOON", kind="probability", price=0.5, sigma=0.01, resolution_time=soon),)
    publish(tmp_path, markets=made, grid=Grid(horizons=(1.0, 0.8, 0.25), order_sizes_pct_adv=(0.1, 1.0)))
    book, left = opened(tmp_path), 17 / 24
    for size in (100.0, 90.0):
        for horizon in (None, 1.0):
            t = book.schedule("SOON", size, urgency=1.0, horizon=horizon)
            assert t.params["horizon"] == pytest.approx(left)
            assert t.params["warnings"] == (f"the market resolves: the horizon is {t.params['horizon']!r} days, not 1",)
        longest = t.params["horizon"]
        assert book.schedule("SOON", size, urgency=1.0, horizon=longest).params["warnings"] == ()
        for horizon in (0.9, 1.7):
            with pytest.raises(ScheduleRefused, match=rf"longest horizon that fits is {longest!r} days, not {horizon}"):
                book.schedule("SOON", size, urgency=1.0, horizon=horizon)
        rows = pd.DataFrame({"market_id": ["SOON"], "order_size": size, "urgency": 1.0})
        rows = rows.merge(pd.DataFrame({"horizon": [None, 1.0, 0.8, longest, 0.25]}), how="cross")
        assert [len(said) for said in book.schedules(rows)["warnings"]] == [1, 1, 1, 0, 0]
        assert book.schedules(rows)["warnings"][2] == book.schedule("SOON", **dict(rows.iloc[2][1:])).params["warnings"]


def test_a_schedule_ends_before_the_resolution_by_the_release_s_buffer(tmp_path: Path) -> None:
    soon, start = datetime(2026, 3, 4, 18, tzinfo=UTC), datetime(2026, 3, 4, 5, tzinfo=UTC)
    made = (market("SOON", kind="probability", price=0.5, sigma=0.01, resolution_time=soon),)
    publish(tmp_path, markets=made, grid=Grid(horizons=(0.25, 0.5), resolution_buffer_minutes=60.0))
    book = opened(tmp_path)
    t = book.schedule("SOON", 100.0, urgency=1.0, horizon=0.5, start=start)
    assert t.timestamps[-1] == np.datetime64("2026-03-04T17:00")
    with pytest.raises(ScheduleRefused, match=r"would end 2026-03-04T17:01:00.000000, later than 2026-03-04T17:00"):
        book.schedule("SOON", 100.0, urgency=1.0, horizon=0.5, start=start + timedelta(minutes=1))
    assert book.schedule("SOON", 100.0, urgency=1.0, start=start + timedelta(minutes=1)).params["warnings"] == ()
    told = json.loads((tmp_path / "current.json").read_text())
    del told["settings"]  # a release from before the manifest had them
    (tmp_path / "current.json").write_text(json.dumps(told))
    t = opened(tmp_path).schedule("SOON", 100.0, urgency=1.0, horizon=0.5, start=start + timedelta(minutes=1))
    assert t.timestamps[-1] == np.datetime64("2026-03-04T17:01")


def test_multiplier_scales_money_and_not_prices(book: ScheduleBook) -> None:
    one, fifty = book.schedule("ALPHA", 777.0, urgency=2.0), book.schedule("MULTI", 777.0, urgency=2.0)
    np.testing.assert_allclose(one.holdings, fifty.holdings, rtol=1e-12)
    assert fifty.params["expected_cost"] == pytest.approx(50 * one.params["expected_cost"], rel=1e-12)
    assert fifty.risk_aversion == pytest.approx(one.risk_aversion / 50, rel=1e-12)
    assert fifty.params["implied_price"] == pytest.approx(one.params["implied_price"], rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "size", "out"),
    [
        ({"price": 0.9, "kind": "price"}, 10_000.0, False),
        ({"price": 0.9, "kind": "probability"}, 10_000.0, True),  # a buyer would pay more than 1
        ({"price": 0.1, "kind": "price"}, 10_000.0, True),  # a seller would be paid less than nothing
        ({"price": 0.5, "kind": "probability"}, 10_000.0, True),  # in the first slices, if not on average
        ({"price": 0.5, "kind": "probability"}, 5_000.0, False),
    ],
)
@pytest.mark.parametrize("multiplier", [1.0, 50.0])
def test_price_that_leaves_its_range_is_flagged_between_grid_points_as_on_them(
    tmp_path: Path, changes: dict[str, Any], size: float, out: bool, multiplier: float
) -> None:
    publish(tmp_path, markets=(market("ALPHA", sigma=0.01, contract_multiplier=multiplier, **changes),))
    book = opened(tmp_path)
    for contracts in (size, size - 1.0):
        for ask in ({"urgency": 3.0}, {"urgency": 3.0, "max_participation": 1.0}):
            t = book.schedule("ALPHA", contracts, **ask)  # type: ignore[arg-type]
            assert (t.params["status"] == "price_out_of_range") == out, (contracts, ask)
            assert bool(t.params["warnings"]) == out
            beyond = (t.params["slice_prices"] <= 0).any() or (0.5 - np.abs(t.params["slice_prices"] - 0.5) <= 0).any()
            assert out or not beyond


@pytest.mark.parametrize("side", ["sell", "buy"])
@pytest.mark.parametrize("grid", [GRID, GRID.model_copy(update={"impact_law": "power"})], ids=["linear", "power"])
def test_a_slice_whose_price_leaves_the_range_is_flagged_alone_and_among_many(
    tmp_path: Path, side: Any, grid: Grid
) -> None:
    hours = np.random.default_rng(3).dirichlet(np.full(24, 1.0))
    changes = {"kind": "probability", "sigma": 0.02, "volume_profile": hours, "variance_profile": np.ones(24)}
    publish(tmp_path, markets=(market("LOW", price=0.07, **changes), market("HIGH", price=0.93, **changes)), grid=grid)
    book, seen = opened(tmp_path), set()
    for strategy in ("almgren_chriss", "almgren_chriss_volume_time", "twap", "vwap", "market_order"):
        sizes = [50.0, 100.0, 300.0, 500.0, 900.0, 2_000.0]
        asked: dict[str, Any] = {"market_id": ["LOW"] * 6 + ["HIGH"] * 6, "order_size": sizes * 2}
        if strategy.startswith("almgren"):
            asked["urgency"] = 10.0
        many = book.schedules(pd.DataFrame(asked), strategy=strategy)
        for row in many.to_dict("records"):
            risk = {"urgency": 10.0} if "urgency" in asked else {}
            t = book.schedule(row["market_id"], row["order_size"], strategy=strategy, side=side, **risk)
            prices = t.params["slice_prices"][t.trade_sizes > 0]
            said = (t.params["status"], t.params["warnings"])
            assert (row["status"], row["warnings"]) == said, (strategy, row["order_size"])
            if not ((prices > 0) & (prices < 1)).all():
                assert said[0] == "price_out_of_range"
                assert said[1]
            seen.add((row["source"], said[0], any("dearest slice" in s for s in said[1])))
    assert {(s, "price_out_of_range", True) for s in ("solved", "published")} <= seen
    assert {("solved", "ok", False), ("published", "ok", False)} <= seen


@pytest.mark.parametrize("tick", [0.01, 0.05, 0.25, 1e-05, 0.0001, 5.0])
def test_slice_prices_are_written_with_the_ticks_own_decimals(tmp_path: Path, tick: float) -> None:
    publish(tmp_path, markets=(market("ALPHA", tick_size=tick),), grid=Grid(order_sizes_pct_adv=(1.0,)))
    written = f"{tick:.10f}".rstrip("0").partition(".")[2]
    for price in opened(tmp_path).schedule("ALPHA", 900.0, urgency=3.0).params["slice_prices"]:
        assert float(f"{price:.{len(written)}f}") == price


def test_lots_and_participation_are_kept(book: ScheduleBook) -> None:
    t = book.schedule("ALPHA", 4_000.0, urgency=10.0, max_participation=0.1, lot_size=10.0)
    assert (np.mod(t.trade_sizes, 10.0) == 0).all()
    assert t.trade_sizes.max() <= 0.1 * 1e5 / 48
    assert t.trade_sizes.sum() == 4_000.0
    with pytest.raises(ScheduleRefused, match=r"."):
        book.schedule("ALPHA", 4_000.0, urgency=1.0, max_participation=0.001)


# --- time and price ---------------------------------------------------------------------------------------------


def test_times_follow_the_exchange_and_skip_its_closures(book: ScheduleBook) -> None:
    start = datetime(2026, 3, 6, 20, 0, tzinfo=UTC)  # Friday, an hour before New York closes
    t = book.schedule("BETA", 100.0, urgency=1.0, horizon=0.25, start=start, max_age=100)
    assert t.timestamps.dtype == np.dtype("datetime64[us]")
    assert t.timestamps[0] == np.datetime64("2026-03-06T20:00", "us")
    # 0.25 sessions are 97.5 minutes: 60 on Friday, 37.5 on Monday, after the clocks changed.
    assert t.timestamps[-1] == np.datetime64("2026-03-09T13:30", "us") + np.timedelta64(2250, "s")
    assert (np.diff(t.timestamps) > np.timedelta64(0)).all()


def test_a_start_in_a_closure_is_the_next_open_and_a_whole_session_ends_at_the_close(book: ScheduleBook) -> None:
    t = book.schedule("BETA", 100.0, urgency=1.0, start=datetime(2026, 3, 4, 5, 0, tzinfo=UTC))
    assert t.timestamps[0] == np.datetime64("2026-03-04T14:30", "us")
    assert t.timestamps[-1] == np.datetime64("2026-03-04T21:00", "us")


def test_slices_in_an_exchanges_break_are_named_and_volume_knows_of_it(tmp_path: Path) -> None:
    hours = {"volume_profile": np.zeros(24), "variance_profile": np.ones(24)}
    hours["volume_profile"][[9, 10, 11, 13, 14, 15]] = 1.0  # Hong Kong's own clock: lunch is from 12 to 13
    publish(tmp_path, markets=(market("HSI", calendar="XHKG", day_hours=6.5, **hours), market("COIN")))
    book = opened(tmp_path)
    start = datetime(2026, 3, 4, 1, 30, tzinfo=UTC)
    by_clock = book.schedule("HSI", 900.0, urgency=1.0, start=start)
    assert by_clock.params["warnings"] == ("7 slices begin in a break of XHKG: trade them before it or after",)
    lunch = (by_clock.timestamps[:-1] >= np.datetime64("2026-03-04T04:00")) & (
        by_clock.timestamps[:-1] < np.datetime64("2026-03-04T05:00")
    )
    assert lunch.sum() == 7
    by_volume = book.schedule("HSI", 900.0, strategy="vwap", start=start)
    inside = lunch & (by_volume.timestamps[1:] <= np.datetime64("2026-03-04T05:00"))
    assert (by_volume.trade_sizes[inside] == 0).all()
    assert not book.schedule("COIN", 900.0, urgency=1.0, start=start).params["warnings"]
    rest = book.replan(by_clock, float(by_clock.holdings[5]), start + timedelta(minutes=40))
    lunch = (rest.timestamps[:-1] >= np.datetime64("2026-03-04T04:00")) & (
        rest.timestamps[:-1] < np.datetime64("2026-03-04T05:00")
    )
    assert rest.params["warnings"] == (f"{lunch.sum()} slices begin in a break of XHKG: trade them before it or after",)


@pytest.mark.parametrize(("side", "sign"), [("sell", -1), ("buy", 1)])
def test_slice_prices_add_up_to_the_cost_and_stand_on_the_tick(
    book: ScheduleBook, tmp_path: Path, side: Any, sign: int
) -> None:
    publish(tmp_path, markets=(market("FREE", tick_size=None),))
    t = opened(tmp_path).schedule("FREE", 5_000.0, urgency=3.1, side=side)
    paid = sign * math.fsum(t.trade_sizes * (t.params["slice_prices"] - 50.0))
    assert paid == pytest.approx(t.params["expected_cost"], rel=1e-10)
    ticked = book.schedule("ALPHA", 5_000.0, urgency=3.1, side=side).params["slice_prices"]
    np.testing.assert_allclose(ticked / 0.01, np.rint(ticked / 0.01), atol=1e-9)
    assert (sign * (ticked - t.params["slice_prices"]) >= -1e-9).all()
    assert (np.abs(ticked - t.params["slice_prices"]) <= 0.01 + 1e-9).all()


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ({"market_id": "ALPA"}, "no market 'ALPA'.*'ALPHA'"),
        ({"market_id": "alpha"}, "no market 'alpha'.*nearest: 'ALPHA'"),
        ({"max_age": "1"}, "max_age must be a number, got '1'"),
        ({"max_age": timedelta(hours=2)}, "2.5 h of trading old, more than max_age 2 h"),
        ({"market_id": "PAIR"}, "several tokens.*no, yes"),
        ({"token_id": "x"}, "no token 'x'; it has t"),
        ({"market_id": "GONE"}, r"refused: too_few_trades \(3 trades\)"),
        ({"order_size": 25_000.0}, "2.5 times the grid's largest, 10000"),
        ({"order_size": math.nan}, "finite and > 0"),
        ({"order_size": -1.0}, "finite and > 0"),
        ({"urgency": 21.0}, "2.1 times the largest"),
        ({"urgency": math.nan}, "finite and >= 0"),
        ({"horizon": 2.5}, "2.5 times the nearest of the grid, 1"),
        ({"horizon": 0.01}, "0.04 times the nearest of the grid, 0.25"),
        ({"horizon": 0.71}, "no whole number of the published steps"),
        ({"max_age": 2.0}, "2.5 h of trading old, more than max_age 2 h"),
        ({"max_age": math.nan}, "more than max_age"),
    ],
    ids=lambda v: " ".join(map(str, v.items())) if isinstance(v, dict) else "",
)
def test_refusal_says_what_and_how_far(book: ScheduleBook, ask: dict[str, Any], said: str) -> None:
    with pytest.raises(ScheduleRefused, match=said):
        book.schedule(**{"market_id": "ALPHA", "order_size": 100.0, "urgency": 1.0, **ask})


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ({"start": "2026-03-04"}, "start must be a datetime with a time zone, .* got '2026-03-04'"),
        ({"start": AS_OF}, r"start must be a datetime with a time zone, .* got datetime\.date"),
        ({"start": datetime(9999, 12, 31, tzinfo=UTC)}, "calendar 24/7 does not reach 9999-12-31"),
        ({"market_id": "BETA", "start": datetime(2200, 12, 31, tzinfo=UTC)}, "calendar XNYS does not reach 2200-12-31"),
    ],
)
def test_a_start_that_is_none_is_refused_in_words(book: ScheduleBook, ask: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        book.schedule(**{"market_id": "ALPHA", "order_size": 100.0, "urgency": 1.0, **ask})


def test_max_age_may_be_a_timedelta(book: ScheduleBook) -> None:
    t = book.schedule("ALPHA", 100.0, urgency=1.0, max_age=timedelta(hours=3))
    assert t.params["age_hours"] == 2.5
    orders = pd.DataFrame({"market_id": ["ALPHA"], "order_size": 100.0, "urgency": 1.0})
    assert book.schedules(orders, max_age=timedelta(hours=2))["source"][0] == "refused"


def test_a_start_that_the_release_did_not_know_is_warned_of(book: ScheduleBook) -> None:
    t = book.schedule("ALPHA", 100.0, urgency=1.0, start=datetime(2026, 3, 3, 15, tzinfo=UTC))
    assert "before the release as of 2026-03-03 was known" in t.params["warnings"][0]
    assert book.schedule("ALPHA", 100.0, urgency=1.0, start=datetime(2026, 3, 4, tzinfo=UTC)).params["warnings"] == ()
    close = datetime(2026, 3, 3, 21, tzinfo=UTC)  # New York's last minute of the day of the release
    assert book.schedule("BETA", 100.0, urgency=1.0, start=close).params["warnings"] == ()
    assert book.schedule("BETA", 100.0, urgency=1.0, start=close - timedelta(minutes=1)).params["warnings"]


def test_what_is_no_source_is_said_to_be_none(tmp_path: Path) -> None:
    for source in (None, 3):
        with pytest.raises(TypeError, match=f"source must be a Parquet root, .* got {source}"):
            ScheduleBook.open(source)  # type: ignore[arg-type]
    with pytest.raises(BookError, match=r"postgresql:// is no folder: give the Parquet root, or a QuestDBServer"):
        ScheduleBook.open("postgresql://admin:secret@host/qdb")
    publish(tmp_path)
    for seconds in ("60", 0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="refresh_seconds must be"):
            ScheduleBook.open(tmp_path, refresh_seconds=seconds)  # type: ignore[arg-type]


@pytest.mark.parametrize(("grade", "taken"), [("A", "ABCD"), ("C", "CD"), ("D", "D"), (None, "D")])
def test_grade_decides_from_which_min_grade_on_a_market_is_taken(tmp_path: Path, grade: Any, taken: str) -> None:
    publish(tmp_path, markets=(market("ALPHA", grade=grade),), grid=Grid(order_sizes_pct_adv=(1.0,)))
    book = opened(tmp_path)
    for least in "ABCD":
        if least in taken:
            assert book.schedule("ALPHA", 100.0, urgency=1.0, min_grade=least).params["grade"] == grade
        else:
            with pytest.raises(ScheduleRefused, match=r"min_grade='D'|has grade"):
                book.schedule("ALPHA", 100.0, urgency=1.0, min_grade=least)
    with pytest.raises(ValueError, match="a grade is one of"):
        book.schedule("ALPHA", 100.0, urgency=1.0, min_grade="E")


def test_a_grade_filter_lists_what_schedule_takes(tmp_path: Path) -> None:
    grades = {"BEST": "A", "GOOD": "B", "FAIR": "C", "POOR": "D", "OLD": None}
    refused = market("GONE", status="refused", reason="stale", grade=None)
    made = (*(market(name, grade=grade) for name, grade in grades.items()), refused)
    publish(tmp_path, markets=made, grid=Grid(order_sizes_pct_adv=(1.0,)))
    book = opened(tmp_path)
    orders = pd.DataFrame({"market_id": [row["market_id"] for row in made], "order_size": 100.0, "urgency": 1.0})
    for least, listed in {"A": 1, "B": 2, "C": 3, "D": 5}.items():
        taken = orders["market_id"][book.schedules(orders, min_grade=least)["refused"].isna()]
        assert set(book.markets(min_grade=least)["market_id"]) == set(taken) == set([*grades][:listed])
    assert len(book.markets()) == len(made)


def test_age_is_counted_on_the_market_s_own_clock(release: tuple[Path, pd.DataFrame]) -> None:
    friday = datetime(2026, 3, 6, 23, 0, tzinfo=UTC)
    late = opened(release[0], now=friday)
    with pytest.raises(ScheduleRefused, match=r"71\.0 h of trading old"):
        late.schedule("ALPHA", 100.0, urgency=1.0)
    assert late.schedule("BETA", 100.0, urgency=1.0).params["age_hours"] == pytest.approx(3 * 6.5)


@pytest.mark.parametrize("risk", [{}, {"urgency": 1.0, "risk_aversion": 1.0}])
def test_exactly_one_risk_is_asked_for(book: ScheduleBook, risk: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="exactly one of"):
        book.schedule("ALPHA", 100.0, **risk)


@pytest.mark.parametrize("name", ["'; DROP TABLE ac_runs; --", "<script>alert(1)</script>"])
def test_a_market_id_is_text_whatever_it_looks_like(book: ScheduleBook, name: str) -> None:
    assert book.schedule(name, 100.0, urgency=1.0).params["market_id"] == name


# --- many, and the rest -----------------------------------------------------------------------------------------


def test_many_orders_at_once_are_the_single_ones(book: ScheduleBook) -> None:
    orders = pd.DataFrame(
        {
            "market_id": ["ALPHA", "ALPHA", "GONE", "NONE", "BETA"],
            "order_size": [1_000.0, 321.0, 1.0, 1.0, 1e9],
            "urgency": [3.0, 2.0, 1.0, 1.0, 1.0],
        }
    )
    found = book.schedules(orders)
    assert list(found["source"]) == ["published", "solved", "refused", "refused", "refused"]
    for i in range(2):
        one = book.schedule("ALPHA", orders["order_size"][i], urgency=orders["urgency"][i])
        assert found["remaining"][i].tobytes() == one.holdings.tobytes()
        assert found["expected_cost_bps"][i] == one.total_cost_estimate
        assert (found["status"][i], found["warnings"][i]) == ("ok", ())
    assert found["status"][2] is None
    assert "too_few_trades" in found["refused"][2]


def test_many_unpublished_orders_have_the_bits_of_the_single_ones(book: ScheduleBook) -> None:
    rng = np.random.default_rng(5)
    orders = pd.DataFrame(
        {
            "market_id": rng.choice(["ALPHA", "BETA", "MULTI"], 60),
            "order_size": rng.uniform(1.0, 12_000.0, 60),
            "urgency": np.where(np.arange(60) % 2, rng.uniform(0.0, 22.0, 60), np.nan),
            "risk_aversion": np.where(np.arange(60) % 2, np.nan, 10.0 ** rng.uniform(-9, -2, 60)),
            "horizon": rng.choice([np.nan, 0.25, 0.5], 60),
        }
    )
    found = book.schedules(orders)
    assert set(found["source"]) == {"solved", "refused"}
    for order, row in zip(orders.to_dict("records"), found.to_dict("records"), strict=True):
        ask = {name: value for name, value in order.items() if not pd.isna(value)}
        if row["source"] == "refused":
            with pytest.raises(ScheduleRefused) as error:
                book.schedule(**ask)
            assert str(error.value) == row["refused"]
        else:
            one = book.schedule(**ask)
            assert one.holdings.tobytes() == row["remaining"].tobytes()
            assert row["expected_cost_bps"] == pytest.approx(one.total_cost_estimate, rel=1e-14)
            assert row["risk_aversion"] == one.risk_aversion
            assert (row["status"], row["warnings"]) == (one.params["status"], one.params["warnings"])


@pytest.mark.parametrize("name", ["lot_size", "max_participation", "side", "start", "halflife", "min_grade"])
def test_a_column_that_would_have_no_effect_is_refused(book: ScheduleBook, name: str) -> None:
    orders = pd.DataFrame({"market_id": ["ALPHA"], "order_size": 900.0, "urgency": 1.0, name: [None]})
    with pytest.raises(
        ValueError, match=rf"no effect: {name}; those that have one are market_id, order_size, token_id"
    ):
        book.schedules(orders)
    with pytest.raises(ValueError, match="need the columns market_id, order_size: order_size is not there"):
        book.schedules(orders[["market_id", "urgency"]])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"done_by": 0.5}, "done_by must be two numbers"),
        ({"done_by": (0.5, "noon")}, "done_by's time must be a number, got 'noon'"),
        ({"done_by": (0.5, 0.2, 0.1)}, "done_by must be two numbers"),
        ({"urgency": "x"}, "urgency must be a number, got 'x'"),
        ({"urgency": "1"}, "urgency must be a number, got '1'"),
        ({"order_size": "abc", "urgency": 1.0}, "order_size must be a number, got 'abc'"),
        ({"order_size": None, "urgency": 1.0}, "order_size"),
        ({"horizon": "1", "urgency": 1.0}, "horizon must be a number, got '1'"),
        ({"market_id": 5, "urgency": 1.0}, "market_id must be text, got 5"),
        ({"market_id": ["ALPHA"], "urgency": 1.0}, "market_id must be text"),
        ({"token_id": 5, "urgency": 1.0}, "token_id must be text, got 5"),
        ({"half_life": [0.1], "half": 1}, "half_life must be a number"),
    ],
    ids=str,
)
def test_what_is_no_number_is_refused_and_costs_no_other_order(
    book: ScheduleBook, bad: dict[str, Any], said: str
) -> None:
    bad = {"market_id": "ALPHA", "order_size": 900.0, **{k: v for k, v in bad.items() if k != "half"}}
    with pytest.raises(ValueError, match=said):
        book.schedule(**bad)
    good = [{"market_id": "ALPHA", "order_size": 900.0, "done_by": (0.8, 0.5)}, {**bad}]
    good += [{"market_id": "BETA", "order_size": 900.0, "urgency": 2.0, "token_id": "t"}]
    found = book.schedules(pd.DataFrame(good))
    assert found["refused"].notna().tolist() == [False, True, False]
    assert said in found["refused"][1]


@pytest.mark.parametrize("urgency", [3.0, 2.2])
def test_replan_as_planned_is_the_rest_of_the_plan(book: ScheduleBook, urgency: float) -> None:
    start = datetime(2026, 3, 4, 3, 0, tzinfo=UTC)
    t = book.schedule("ALPHA", 1_000.0, urgency=urgency, start=start)
    rest = book.replan(t, t.holdings[10], start + timedelta(hours=5))
    np.testing.assert_allclose(rest.holdings, t.holdings[10:], rtol=1e-12)
    assert (rest.timestamps == t.timestamps[10:]).all()
    again = book.replan(rest, rest.holdings[0] * 0.9, start + timedelta(hours=5, minutes=1))
    assert (again.holdings[0], again.holdings[-1]) == (rest.holdings[0] * 0.9, 0.0)
    assert again.timestamps[0] == t.timestamps[11]
    with pytest.raises(ScheduleRefused, match="no step is left"):
        book.replan(t, 10.0, start + timedelta(hours=24))


def test_tables_for_people(book: ScheduleBook) -> None:
    assert len(book.parameters()) == len(MARKETS)
    assert list(book.markets("pai")["token_id"]) == ["no", "yes"]
    frontier = book.frontier("ALPHA", 1_000.0, n_points=20)
    assert (np.diff(frontier["expected_cost"]) >= 0).all()
    assert (np.diff(frontier["cost_sd"]) <= 0).all()
    compared = book.compare("ALPHA", 1_000.0, urgency=3.0).set_index("strategy")
    assert list(compared.index) == ["almgren_chriss", "twap", "market_order"]
    assert (
        compared["cost_sd"]["market_order"] == 0 < compared["cost_sd"]["almgren_chriss"] < compared["cost_sd"]["twap"]
    )
    assert compared["expected_cost"]["twap"] < compared["expected_cost"]["almgren_chriss"]
    assert set(compared["status"]) == {"ok"}


def test_a_comparison_says_which_schedules_break_the_caps(tmp_path: Path) -> None:
    publish(tmp_path, grid=Grid(horizons=(1.0,), max_participation=0.05))
    for size in (1_000.0, 1_234.0):  # of the grid, and not
        compared = opened(tmp_path).compare("ALPHA", size, urgency=3.0).set_index("strategy")["status"]
        assert compared["almgren_chriss_capped"] == "ok"
        assert compared["market_order"] == "over_cap"


# --- releases come and go, and come damaged -----------------------------------------------------------------------


def test_book_follows_releases_and_never_mixes_them(tmp_path: Path) -> None:
    prices = {"a" * 16: 50.0, "b" * 16: 80.0}
    publish(tmp_path, "a" * 16)
    book = ScheduleBook.open(tmp_path, clock=lambda: NOW, refresh_seconds=0.002)
    seen: set[str] = set()
    faults: list[object] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                for size in (1_000.0, 321.0):
                    t = book.schedule("ALPHA", size, urgency=3.0)
                    seen.add(t.params["run_id"])
                    if t.params["price"] != prices[t.params["run_id"]]:
                        faults.append(t.params)
            except Exception as error:
                faults.append(error)
            time.sleep(0.001)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(6):
        name = "ab"[(turn + 1) % 2] * 16
        publish(tmp_path, name, markets=(market("ALPHA", price=prices[name]),))
    done.set()
    for reader in readers:
        reader.join()
    book.close()
    assert not faults
    assert seen == set(prices)
    assert book.refresh_error is None


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("error", [ServerUnavailable("gone for a minute"), OSError(5, "torn"), BookError("lags")])
def test_timer_goes_on_after_an_outage(tmp_path: Path, error: Exception) -> None:
    publish(tmp_path, "a" * 16)
    down = threading.Event()

    def load() -> Snapshot:
        if down.is_set():
            raise error
        return of_parquet(tmp_path)

    with ScheduleBook(load, clock=lambda: NOW) as book:
        book._follow(0.01)
        down.set()
        wait_for(lambda: book.refresh_error is error)
        assert book.schedule("ALPHA", 900.0, urgency=1.0).params["run_id"] == "a" * 16
        publish(tmp_path, "b" * 16)
        down.clear()
        wait_for(lambda: book.run_id == "b" * 16 and book.refresh_error is None)


def test_a_start_on_another_day_goes_by_that_weekdays_hours(tmp_path: Path) -> None:
    week = np.random.default_rng(5).exponential(size=168)
    tomorrow = AS_OF + timedelta(days=1)
    today = week[24 * tomorrow.weekday() :][:24]
    hours = {"volume_profile": today, "variance_profile": today}
    publish(tmp_path, markets=(market("ALPHA", **hours, volume_profile_week=week, variance_profile_week=week),))
    book = opened(tmp_path)
    for later in range(3):
        day = tomorrow + timedelta(days=later)
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        t = book.schedule("ALPHA", 1_000.0, strategy="vwap", start=start, max_age=200.0)
        of_day = week[24 * day.weekday() :][:24]
        np.testing.assert_allclose(t.trade_sizes / 1_000.0, np.repeat(of_day / of_day.sum(), 2) / 2, rtol=1e-11)
        assert (t.params["source"] == "published") == (later == 0)


def test_threads_share_the_hours_of_many_starts(tmp_path: Path) -> None:
    """More starts than are kept: what one thread has just seen another clears."""
    hours = {"volume_profile": np.arange(1.0, 25.0), "variance_profile": np.ones(24)}
    publish(tmp_path, markets=(market("ALPHA", **hours),))
    book, faults = opened(tmp_path), []
    starts = [NOW + timedelta(minutes=7 * i) for i in range(40)]
    alone = [book.schedule("ALPHA", 900.0, strategy="vwap", start=s).holdings.tobytes() for s in starts]

    def ask(order: list[int]) -> None:
        for i in order:
            try:
                if book.schedule("ALPHA", 900.0, strategy="vwap", start=starts[i]).holdings.tobytes() != alone[i]:
                    faults.append(i)
            except Exception as error:
                faults.append(error)

    rng = np.random.default_rng(2)
    threads = [threading.Thread(target=ask, args=(rng.permutation(40).tolist() * 3,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_refresh_says_whether_it_went_over(tmp_path: Path) -> None:
    publish(tmp_path, "a" * 16)
    book = opened(tmp_path)
    assert not book.refresh()
    publish(tmp_path, "b" * 16)
    assert book.refresh()
    assert book.run_id == "b" * 16


def file_of(root: Path, table: schema.Table) -> Path:
    return root / parquet.release_file(table, AS_OF, "a" * 16)


@pytest.mark.parametrize("table", schema.RELEASE_TABLES, ids=lambda t: t.name)
@pytest.mark.parametrize("damage", ["truncated", "gone", "empty", "of another run"])
def test_damaged_release_is_said_to_be_one(tmp_path: Path, table: schema.Table, damage: str) -> None:
    publish(tmp_path)
    path = file_of(tmp_path, table)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "gone":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        publish(tmp_path / "other", "b" * 16)
        other = tmp_path / "other" / parquet.release_file(table, AS_OF, "b" * 16)
        path.write_bytes(other.read_bytes())
    with pytest.raises(BookError, match=r"."):
        opened(tmp_path).schedule("ALPHA", 100.0, urgency=1.0)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"run_id": "x", "as_of": "2026-13-01", "tables": {}}'])
def test_manifest_that_says_nothing_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "current.json").write_text(content)
    with pytest.raises(BookError, match=r"current\.json"):
        opened(tmp_path)


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BookError, match="no folder"):
        opened(tmp_path / "nowhere")


def test_rows_that_the_manifest_does_not_count_are_refused(tmp_path: Path) -> None:
    publish(tmp_path)
    told = json.loads((tmp_path / "current.json").read_text())
    told["tables"]["ac_trajectories"]["rows"] += 1
    (tmp_path / "current.json").write_text(json.dumps(told))
    with pytest.raises(BookError, match=r"has \d+ rows, current\.json says"):
        opened(tmp_path)


def test_refused_refresh_leaves_the_book_with_the_release_it_has(tmp_path: Path) -> None:
    publish(tmp_path)
    book = opened(tmp_path)
    (tmp_path / "current.json").write_text("{")
    with pytest.raises(BookError):
        book.refresh()
    assert book.schedule("ALPHA", 100.0, urgency=1.0).holdings[0] == 100.0


def test_release_without_schedules_is_refused_market_by_market(tmp_path: Path) -> None:
    publish(tmp_path, markets=(market("GONE", status="refused", reason="no_trades"),))
    with pytest.raises(ScheduleRefused, match="no_trades"):
        opened(tmp_path).schedule("GONE", 1.0, urgency=1.0)


def test_schedule_that_does_not_add_up_is_never_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import book_release

    real = book_release.precompute

    def bent(*args: Any) -> pd.DataFrame:
        made = real(*args)
        made["order_size"] = made["order_size"] * (1 + 1e-12)
        return made

    monkeypatch.setattr(book_release, "precompute", bent)
    made = publish(tmp_path, markets=(market("ALPHA"),), grid=Grid())
    with pytest.raises(BookError, match="does not add up"):
        opened(tmp_path).schedule("ALPHA", made["order_size"].iloc[0], urgency=0.0)


@pytest.mark.parametrize("n_steps", [24, 48])
def test_replan_at_a_boundary_begins_with_the_slice_that_begins_there(tmp_path: Path, n_steps: int) -> None:
    publish(tmp_path, markets=(market("ALPHA"),), grid=Grid(order_sizes_pct_adv=(1.0,), n_steps=n_steps))
    book = opened(tmp_path)
    t = book.schedule("ALPHA", 900.0, urgency=2.0)
    for k in range(n_steps):
        for now in (k / n_steps, float(t.timestamps[k]), k * (1 / n_steps)):
            rest = book.replan(t, float(t.holdings[k]), now)
            assert len(rest.trade_sizes) == n_steps - k, (k, now)
            np.testing.assert_allclose(rest.trade_sizes, t.trade_sizes[k:], rtol=1e-9)
        later = book.replan(t, float(t.holdings[k]), k / n_steps + 1e-6) if k + 1 < n_steps else None
        assert later is None or len(later.trade_sizes) == n_steps - k - 1
