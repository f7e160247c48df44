"""Every published strategy from the schedule book: the grid bit for bit, and between as the night solves it."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from book_release import AS_OF, GRID, NOW, market, publish, rows

from tributary_opt.schedule_book import ScheduleBook, ScheduleRefused
from tributary_opt.settings import Grid, RiskLevel

FIXED = ("twap", "vwap", "market_order")
OPTIMAL = ("almgren_chriss", "almgren_chriss_volume_time", "almgren_chriss_capped")
HOURS = np.random.default_rng(3).dirichlet(np.full(24, 2.0))
SWINGS = np.random.default_rng(4).dirichlet(np.full(24, 4.0))
_PROFILE: dict[str, Any] = {"volume_profile": HOURS, "variance_profile": SWINGS}
MARKETS = (
    market("FLAT"),
    market("HOURS", **_PROFILE),
    market("MULTI", contract_multiplier=7.0, **_PROFILE),
    market("SESSION", calendar="XNYS", day_hours=6.5, **_PROFILE),
)
CAPS: dict[str, Any] = {"order_sizes_pct_adv": (0.5, 3.0, 6.0), "max_participation": 0.2}
CAPPED = Grid(horizons=(1.0, 0.5), **CAPS)
LAW = GRID.model_copy(update={"impact_law": "power"})


@pytest.fixture(scope="module", params=["plain", "capped", "power law"])
def release(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Grid, Path, pd.DataFrame]:
    grid = {"plain": GRID, "capped": CAPPED, "power law": LAW}[request.param]
    root = tmp_path_factory.mktemp("parquet")
    return grid, root, publish(root, markets=MARKETS, grid=grid)


def opened(root: Path, now: datetime = NOW) -> ScheduleBook:
    return ScheduleBook.open(root, clock=lambda: now)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ScheduleBook:
    root = tmp_path_factory.mktemp("parquet")
    publish(root, markets=MARKETS, grid=GRID)
    return opened(root)


def held(row: dict[str, Any]) -> np.ndarray:
    return np.asarray(row["remaining"], dtype=float)


# --- the grid ---------------------------------------------------------------------------------------------------


def test_every_row_of_every_strategy_comes_back_bit_for_bit(release: tuple[Grid, Path, pd.DataFrame]) -> None:
    _, root, made = release
    book = opened(root)
    assert len(set(made["strategy"])) == (4 if release[0].capped else 5)
    for row in made[made["status"] != "infeasible"].to_dict("records"):
        risk = {} if row["strategy"] in FIXED else {"urgency": row["urgency"]}
        ask: dict[str, Any] = {"strategy": row["strategy"], "horizon": row["horizon"], **risk}
        t = book.schedule(row["market_id"], row["order_size"], **ask)
        assert (t.params["source"], t.strategy_name) == ("published", row["strategy"])
        assert t.params["cost_profile"] == row["cost_profile"]
        assert t.holdings.tobytes() == held(row).tobytes()
        assert t.total_cost_estimate == row["expected_cost_bps"]
        assert t.params["cost_variance"] == row["cost_variance"]
        assert abs(math.fsum(t.trade_sizes) - row["order_size"]) <= 4 * 2.0**-52 * row["order_size"]
        assert t.risk_aversion == (math.inf if row["strategy"] == "market_order" else row["risk_aversion"])


def test_many_at_once_are_the_single_ones_in_every_strategy(release: tuple[Grid, Path, pd.DataFrame]) -> None:
    _, root, made = release
    book, rng = opened(root), np.random.default_rng(1)
    for strategy in sorted(set(made["strategy"])):
        rows_ = made[made["strategy"] == strategy].sample(12, random_state=2)
        orders = pd.DataFrame({"market_id": rows_["market_id"], "order_size": rows_["order_size"]})
        orders["horizon"] = rows_["horizon"]
        orders.loc[orders.index[:5], "order_size"] *= rng.uniform(0.3, 0.9, 5)
        if strategy not in FIXED:
            orders["urgency"] = rows_["urgency"]
        found = book.schedules(orders, strategy=strategy)
        assert {"published", "solved"} <= set(found["source"]) <= {"published", "solved", "refused"}
        for order, row in zip(orders.to_dict("records"), found.to_dict("records"), strict=True):
            if row["source"] == "refused":
                with pytest.raises(ScheduleRefused) as error:
                    book.schedule(**order, strategy=strategy)
                assert str(error.value) == row["refused"]
                continue
            one = book.schedule(**order, strategy=strategy)
            assert one.holdings.tobytes() == row["remaining"].tobytes()
            assert (one.params["source"], one.total_cost_estimate) == (row["source"], row["expected_cost_bps"])
            assert (one.params["status"], one.params["warnings"]) == (row["status"], row["warnings"])


# --- and between --------------------------------------------------------------------------------------------------


def test_between_the_points_it_is_what_a_grid_with_that_point_has(release: tuple[Grid, Path, pd.DataFrame]) -> None:
    grid, root, _ = release
    book = opened(root)
    levels = (RiskLevel(kind="urgency", value=0.7), RiskLevel(kind="urgency", value=4.0))
    finer = grid.model_copy(update={"order_sizes_pct_adv": (0.3, 2.5), "risk_levels": levels})
    wanted = rows(MARKETS, finer)[1]
    for row in wanted[wanted["status"] != "infeasible"].to_dict("records"):
        risk = {} if row["strategy"] in FIXED else {"urgency": row["urgency"]}
        ask: dict[str, Any] = {"strategy": row["strategy"], "horizon": row["horizon"], **risk}
        t = book.schedule(row["market_id"], row["order_size"], **ask)
        assert (t.params["source"], t.strategy_name) == ("solved", row["strategy"])
        np.testing.assert_allclose(t.holdings, held(row), rtol=1e-9, atol=1e-9 * row["order_size"])
        assert t.total_cost_estimate == pytest.approx(row["expected_cost_bps"], rel=1e-9)
        assert t.params["cost_variance"] == pytest.approx(row["cost_variance"], rel=1e-9, abs=1e-12)
        assert t.params["half_life"] == pytest.approx(row["half_life"], rel=1e-9)


def chosen_by(cost_budget_bps: float) -> pytest.MarkDecorator:
    """Each way to choose a schedule that it can be held against, and what it has of it."""
    return pytest.mark.parametrize(
        ("risk", "measured"),
        [
            ({"half_life": 0.3}, lambda t: t.params["half_life"]),
            ({"cost_budget_bps": cost_budget_bps}, lambda t: t.total_cost_estimate),
            ({"done_by": (0.8, 0.5)}, lambda t: 1 - t.holdings[24] / t.holdings[0]),
        ],
        ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
    )


@chosen_by(cost_budget_bps=7.0)
def test_risk_may_be_chosen_in_volume_time_too(plain: ScheduleBook, risk: dict[str, Any], measured: Any) -> None:
    t = plain.schedule("HOURS", 900.0, strategy="almgren_chriss_volume_time", **risk)
    wanted = next(iter(risk.values()))
    assert measured(t) == pytest.approx(wanted[0] if isinstance(wanted, tuple) else wanted, rel=1e-8)


def test_slice_prices_add_up_to_the_cost_in_volume_time(tmp_path: Path) -> None:
    publish(tmp_path, markets=(market("FREE", tick_size=None, **_PROFILE),), grid=GRID)
    book = opened(tmp_path)
    for strategy, risk in (("almgren_chriss_volume_time", {"urgency": 3.0}), ("vwap", {}), ("twap", {})):
        for size in (5_000.0, 1_234.0):  # one published, one between
            t = book.schedule("FREE", size, strategy=strategy, **risk)  # type: ignore[arg-type]
            paid = math.fsum(t.trade_sizes * (50.0 - t.params["slice_prices"]))
            assert paid == pytest.approx(t.params["expected_cost"], rel=1e-9)


# --- hours of the day -----------------------------------------------------------------------------------------------


def test_vwap_from_noon_follows_the_hours_from_noon(plain: ScheduleBook) -> None:
    noon = datetime(2026, 3, 4, 12, tzinfo=UTC)
    t = plain.schedule("HOURS", 1_000.0, strategy="vwap", start=noon)
    assert t.params["source"] == "solved"
    np.testing.assert_allclose(t.trade_sizes, [500 * HOURS[(12 + j // 2) % 24] for j in range(48)], rtol=1e-12)
    assert t.timestamps[0] == np.datetime64("2026-03-04T12:00", "us")


def test_published_hours_are_served_to_who_starts_with_the_session(plain: ScheduleBook) -> None:
    for name, opens in (
        ("HOURS", datetime(2026, 3, 4, tzinfo=UTC)),
        ("SESSION", datetime(2026, 3, 4, 14, 30, tzinfo=UTC)),
    ):
        first = plain.schedule(name, 1_000.0, strategy="vwap", start=opens)
        assert first.params["source"] == "published"
        later = plain.schedule(name, 1_000.0, strategy="vwap", start=opens + timedelta(hours=1))
        assert later.params["source"] == "solved"
        assert not np.allclose(later.holdings, first.holdings, rtol=1e-3)
    # Next day's session has the same hours: another origin, the same schedule.
    again = plain.schedule("HOURS", 1_000.0, strategy="vwap", start=datetime(2026, 3, 5, tzinfo=UTC), max_age=99)
    np.testing.assert_allclose(again.holdings, plain.schedule("HOURS", 1_000.0, strategy="vwap").holdings, rtol=1e-12)


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_release_made_under_caps_keeps_them_whatever_strategy_is_asked_for(tmp_path: Path) -> None:
    publish(tmp_path, markets=MARKETS, grid=CAPPED)
    book = opened(tmp_path)
    for strategy in OPTIMAL:
        t = book.schedule("HOURS", 5_500.0, strategy=strategy, urgency=10.0)
        assert t.strategy_name == "almgren_chriss_capped"
        assert (t.trade_sizes <= 0.2 * 1e5 * np.repeat(HOURS, 2) / 2 * (1 + 1e-12)).all()
    with pytest.raises(ScheduleRefused, match=r"room for .* of 5500 contracts; the shortest feasible"):
        book.schedule("HOURS", 5_500.0, urgency=1.0, max_participation=0.01)


@pytest.mark.parametrize("limits", [{"max_participation": 0.05}, {"max_slice": 0.04}], ids=str)
def test_a_baseline_that_breaks_the_releases_caps_says_so_between_the_points_as_on_them(
    tmp_path: Path, limits: dict[str, float]
) -> None:
    """TWAP of 10 % of the volume was over_cap, and TWAP of 9.9 % ok."""
    markets = tuple(m | {"price": 1e5} for m in MARKETS)  # that none leaves its range
    shares, between = (1.0, 10.0), (0.05, 0.99, 3.0, 9.9)
    for name, sizes in (("some", shares), ("all", shares + between)):
        grid = Grid(horizons=(1.0, 0.5), order_sizes_pct_adv=sizes, **limits)
        publish(tmp_path / name, markets=markets, grid=grid)
    some, every = opened(tmp_path / "some"), opened(tmp_path / "all")
    orders = pd.DataFrame(
        [
            {"market_id": m["market_id"], "order_size": m["adv"] * (pct / 100.0), "horizon": horizon}
            for m in markets
            for pct in shares + between
            for horizon in (1.0, 0.5)
        ]
    )
    seen = set()
    for strategy in FIXED:
        found, want = (book.schedules(orders, strategy=strategy) for book in (some, every))
        assert (want["source"] == "published").all()
        assert found["status"].tolist() == want["status"].tolist()
        for row in found.to_dict("records"):
            t = some.schedule(row["market_id"], row["order_size"], strategy=strategy, horizon=row["horizon"])
            assert (row["status"], row["warnings"]) == (t.params["status"], t.params["warnings"])
            assert bool(t.params["warnings"]) == (t.params["status"] == "over_cap")
            seen.add((row["source"], row["status"]))
    assert seen == {(source, status) for source in ("published", "solved") for status in ("ok", "over_cap")}


@pytest.mark.parametrize(("strategy", "size"), [("twap", 10_000.0), ("twap", 9_900.0), ("market_order", 990.0)])
def test_what_is_left_of_a_baseline_is_measured_by_the_caps_too(tmp_path: Path, strategy: str, size: float) -> None:
    publish(tmp_path, markets=MARKETS, grid=Grid(horizons=(1.0,), max_participation=0.05))
    book = opened(tmp_path)
    t = book.schedule("FLAT", size, strategy=strategy)
    assert t.params["status"] == "over_cap"
    for left, status in ((0.8 * size, "over_cap"), (0.1 * size, "ok")):
        rest = book.replan(t, left, float(t.timestamps[6]))
        assert (rest.params["status"], len(rest.params["warnings"])) == (status, int(status != "ok"))


def test_the_hours_from_the_start_decide_whether_twap_breaks_a_cap(tmp_path: Path) -> None:
    quiet = np.where(np.arange(24) < 12, 3.0, 1.0) / 48.0
    publish(
        tmp_path,
        markets=(market("ALPHA", volume_profile=quiet),),
        grid=Grid(horizons=(0.25,), order_sizes_pct_adv=(1.0, 2.0), max_participation=0.1),
    )
    book = opened(tmp_path)
    day = datetime(2026, 3, 4, tzinfo=UTC)
    for size in (2_000.0, 1_999.0):
        for hour, status in ((3, "ok"), (14, "over_cap")):
            t = book.schedule("ALPHA", size, strategy="twap", start=day + timedelta(hours=hour))
            assert t.params["status"] == status
    assert book.schedule("ALPHA", 2_000.0, strategy="twap", start=day).params["source"] == "published"


def test_own_participation_is_a_share_of_the_hours_volume(plain: ScheduleBook) -> None:
    t = plain.schedule("HOURS", 3_000.0, urgency=10.0, max_participation=0.05)
    volume = 1e5 * np.repeat(HOURS, 2) / 2
    assert t.strategy_name == "almgren_chriss_capped"
    assert (t.trade_sizes <= 0.05 * volume * (1 + 1e-12)).all()
    assert (t.trade_sizes >= 0.05 * volume * (1 - 1e-9)).any()
    with pytest.raises(ScheduleRefused, match="give max_participation"):
        plain.schedule("HOURS", 3_000.0, strategy="almgren_chriss_capped", urgency=1.0)


@pytest.mark.parametrize("name", ["FLAT", "HOURS"])
def test_replan_keeps_lots_and_caps(plain: ScheduleBook, name: str) -> None:
    limits: dict[str, Any] = {"max_participation": 0.06, "lot_size": 10.0}
    t = plain.schedule(name, 3_000.0, urgency=5.0, **limits)
    rest = plain.replan(t, t.holdings[12], float(t.timestamps[12]))
    assert (np.mod(rest.trade_sizes, 10.0) == 0).all()
    assert rest.trade_sizes.sum() == t.holdings[12]
    volume = 1e5 * (np.repeat(HOURS, 2) / 2 if name == "HOURS" else np.full(48, 1 / 48))
    assert (rest.trade_sizes <= 0.06 * volume[12:]).all()
    with pytest.raises(ScheduleRefused, match=r"max_participation=0\.06"):
        plain.replan(t, 3_000.0, float(t.timestamps[46]))


def test_what_fits_no_lot_is_said_and_not_traded(plain: ScheduleBook) -> None:
    t = plain.schedule("FLAT", 1_234.5, urgency=1.0, lot_size=100.0)
    assert (t.holdings[-1], t.trade_sizes.sum(), t.params["remainder"]) == (34.5, 1_200.0, 34.5)
    assert "34.5 contracts fit no lot" in t.params["warnings"][0]
    with pytest.raises(ScheduleRefused, match="less than one lot of 5000"):
        plain.schedule("FLAT", 1_234.5, urgency=1.0, lot_size=5_000.0)


@pytest.mark.parametrize(
    ("strategy", "risk"),
    [
        ("almgren_chriss", {"urgency": 2.2}),
        ("almgren_chriss_volume_time", {"urgency": 2.2}),
        ("twap", {}),
        ("vwap", {}),
    ],
)
def test_replan_as_planned_is_the_rest_of_the_plan(plain: ScheduleBook, strategy: str, risk: dict[str, Any]) -> None:
    t = plain.schedule("HOURS", 1_000.0, strategy=strategy, **risk)
    rest = plain.replan(t, t.holdings[17], float(t.timestamps[17]))
    np.testing.assert_allclose(rest.holdings, t.holdings[17:], rtol=1e-9)
    again = plain.replan(rest, rest.holdings[5], float(rest.timestamps[5]))
    np.testing.assert_allclose(again.holdings, t.holdings[22:], rtol=1e-9)


@pytest.mark.parametrize("size", [1_000.0, 900.0])
def test_replan_as_planned_under_every_release_is_the_rest_of_the_plan(
    release: tuple[Grid, Path, pd.DataFrame], size: float
) -> None:
    book = opened(release[1])
    for name in ("FLAT", "HOURS"):
        for strategy in ("almgren_chriss", "almgren_chriss_volume_time"):
            t = book.schedule(name, size, strategy=strategy, urgency=2.2)
            for step in (1, 17, 46):
                rest = book.replan(t, float(t.holdings[step]), float(t.timestamps[step]))
                np.testing.assert_allclose(rest.holdings, t.holdings[step:], rtol=1e-7, atol=1e-9 * size)
                assert rest.strategy_name == t.strategy_name


def test_replan_of_a_market_order_trades_what_is_left_at_once(plain: ScheduleBook) -> None:
    t = plain.schedule("FLAT", 1_000.0, strategy="market_order")
    rest = plain.replan(t, 400.0, float(t.timestamps[1]))
    assert rest.trade_sizes.tolist() == [400.0, *[0.0] * 46]
    assert rest.timestamps.tolist() == t.timestamps[1:].tolist()
    assert rest.risk_aversion == math.inf
    want = plain.schedule("FLAT", 400.0, strategy="market_order")
    assert rest.params["expected_cost"] == pytest.approx(want.params["expected_cost"], rel=1e-12)


def test_a_baseline_beyond_the_laws_convexity_says_so_on_the_grid_and_off_it(tmp_path: Path) -> None:
    """Under paper's convention one huge slice looks cheap: the book solved it anew, and called it ok."""
    grid = Grid(horizons=(1.0,), impact_law="power", permanent="paper", alpha=0.5)
    gamma = 0.02 / (0.002 * 1e5)  # n* = 1,080 contracts for everything at once
    publish(tmp_path, markets=(market("DEAR", gamma=gamma), market("LOW", gamma=gamma, price=0.3)), grid=grid)
    book = opened(tmp_path)
    sizes = [500.0, 1_000.0, 2_000.0, 9_900.0, 10_000.0]
    orders = pd.DataFrame({"market_id": "DEAR", "order_size": sizes})
    many = book.schedules(orders, strategy="market_order").to_dict("records")
    for size, row in zip(sizes, many, strict=True):
        t = book.schedule("DEAR", size, strategy="market_order")
        assert t.params["source"] == ("solved" if size == 9_900.0 else "published")
        assert t.params["status"] == ("ok" if size < 1_080.0 else "beyond_convexity")
        assert bool(t.params["warnings"]) == (size > 1_080.0)
        assert [row[n] for n in ("source", "status", "warnings")] == [
            t.params[n] for n in ("source", "status", "warnings")
        ]
    for left, status in ((5_000.0, "beyond_convexity"), (500.0, "ok")):
        rest = book.replan(t, left, float(t.timestamps[5]))
        assert rest.params["status"] == status
        assert ("beyond n* = 1080" in "".join(rest.params["warnings"])) == (status != "ok")
    assert {book.schedule("DEAR", size, strategy="twap").params["status"] for size in sizes} == {"ok"}
    with pytest.raises(ScheduleRefused, match="convex up to a slice of n"):
        book.schedule("DEAR", 10_000.0, urgency=1.0)
    for size in (9_900.0, 10_000.0):  # and below nothing: the cost, being too small, goes before the price
        t = book.schedule("LOW", size, strategy="market_order")
        assert t.params["status"] == "beyond_convexity"
        assert "leaves" in t.params["warnings"][-1]
        [row] = book.schedules(
            pd.DataFrame({"market_id": ["LOW"], "order_size": [size]}), strategy="market_order"
        ).to_dict("records")
        assert (row["status"], row["warnings"]) == (t.params["status"], t.params["warnings"])


@chosen_by(cost_budget_bps=9.0)
@pytest.mark.parametrize("own", [{}, {"max_participation": 0.25}], ids=["as released", "own cap"])
def test_every_release_meets_the_target_under_its_caps_and_law(
    release: tuple[Grid, Path, pd.DataFrame], risk: dict[str, Any], measured: Any, own: dict[str, float]
) -> None:
    book = opened(release[1])
    for name in ("FLAT", "HOURS"):
        t = book.schedule(name, 900.0, **risk, **own)  # type: ignore[arg-type]
        assert t.params["warnings"] == ()
        wanted = next(iter(risk.values()))
        assert measured(t) == pytest.approx(wanted[0] if isinstance(wanted, tuple) else wanted, rel=1e-8), name


def test_frontier_under_caps_that_cannot_be_kept_names_the_limit(tmp_path: Path) -> None:
    publish(tmp_path, markets=MARKETS, grid=CAPPED.model_copy(update={"max_participation": 0.05}))
    book = opened(tmp_path)
    for ask in (lambda: book.frontier("FLAT", 5_500.0), lambda: book.compare("FLAT", 5_500.0, half_life=0.3)):
        with pytest.raises(ScheduleRefused, match=r"max_participation=0\.05: .*shortest feasible"):
            ask()


# --- refusals and tables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ({"strategy": "pov"}, "strategy must be one of almgren_chriss, "),
        ({"strategy": "twap", "urgency": 1.0}, "twap has no risk level: leave out urgency"),
        ({"strategy": "vwap", "lot_size": 1.0}, "vwap has no limits"),
        ({"strategy": "almgren_chriss_volume_time"}, "exactly one of"),
        ({"urgency": 1.0, "max_participation": 1.5}, "must be > 0 and <= 1"),
        ({"urgency": 1.0, "lot_size": 0.0}, "lot_size must be finite and > 0"),
        ({"urgency": 1.0, "lot_size": math.nan}, "lot_size must be finite and > 0"),
        (
            {"urgency": 1.0, "lot_size": 5e-324},
            r"lot_size must be > order_size / 2\^53, got 4.94066e-324 for an order of 1000",
        ),
        (
            {"urgency": 1.0, "lot_size": 5e-324, "max_participation": 0.1},
            r"lot_size must be > order_size / 2\^53, got 4.94066e-324",
        ),
        ({"urgency": 1.0, "lot_size": "10"}, "lot_size must be a number, got '10'"),
    ],
)
def test_what_does_not_go_together_is_refused(plain: ScheduleBook, ask: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plain.schedule("HOURS", 1_000.0, **ask)


def test_comparison_costs_all_alike(plain: ScheduleBook) -> None:
    with_hours = plain.compare("HOURS", 1_000.0, urgency=3.0).set_index("strategy")
    assert list(with_hours.index) == ["almgren_chriss", "almgren_chriss_volume_time", "twap", "vwap", "market_order"]
    assert set(with_hours["cost_profile"]) == {"volume"}
    cost, sd, lam = with_hours["expected_cost"], with_hours["cost_sd"], with_hours["risk_aversion"]["almgren_chriss"]
    assert cost.drop("vwap").min() > cost["vwap"]
    best = (cost + lam * sd**2)["almgren_chriss_volume_time"]
    assert ((cost + lam * sd**2).drop("almgren_chriss_volume_time") > best).all()
    by_clock = plain.compare("FLAT", 1_000.0, urgency=3.0)
    assert list(by_clock["strategy"]) == ["almgren_chriss", "twap", "market_order"]
    assert set(by_clock["cost_profile"]) == {"clock"}


def test_frontier_of_volume_time_starts_at_vwap(plain: ScheduleBook) -> None:
    found = plain.frontier("HOURS", 1_000.0, strategy="almgren_chriss_volume_time", n_points=10)
    vwap = plain.schedule("HOURS", 1_000.0, strategy="vwap")
    assert found["expected_cost"][0] == pytest.approx(vwap.params["expected_cost"], rel=1e-9)
    assert (np.diff(found["expected_cost"]) >= 0).all()


def test_the_night_after_a_friday_is_monday_s(plain: ScheduleBook, tmp_path: Path) -> None:
    publish(tmp_path, as_of=date(2026, 3, 6), markets=MARKETS, grid=GRID)
    book = opened(tmp_path, datetime(2026, 3, 9, 12, tzinfo=UTC))
    t = book.schedule("SESSION", 1_000.0, strategy="vwap", start=datetime(2026, 3, 8, 9, tzinfo=UTC))
    assert t.timestamps[0] == np.datetime64("2026-03-09T13:30", "us")  # New York's summer time has begun
    assert date(2026, 3, 6) > AS_OF
