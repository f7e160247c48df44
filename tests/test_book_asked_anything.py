"""Whatever the schedule book is asked: a refusal in one line, or a schedule that adds up and is of one release."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from book_release import NOW, market, publish
from hypothesis import given, settings

from tributary_opt import schema
from tributary_opt.schedule_book import BookError, ScheduleBook
from tributary_opt.schedule_book.hull import FIXED, OPTIMAL, RISK_KINDS
from tributary_opt.settings import Grid
from tributary_opt.storage import parquet

GRID = Grid(order_sizes_pct_adv=(0.5, 5.0), horizons=(1.0, 0.25), n_steps=12)
HOURS: dict[str, Any] = {
    "volume_profile": np.random.default_rng(8).dirichlet(np.full(24, 0.3)),
    "variance_profile": np.random.default_rng(9).dirichlet(np.full(24, 1.0)),
}
NIGHT: dict[str, Any] = {"volume_profile": np.repeat([0.0, 0.125], [16, 8])}  # two thirds of the day nothing trades
EPS = 2.0**-52


def markets(price: float) -> tuple[dict[str, Any], ...]:
    soon = datetime(2026, 3, 4, 18, tzinfo=UTC)
    return (
        market("ALPHA", price=price),
        market("BETA", calendar="XNYS", day_hours=6.5, price=price, **HOURS),
        market("DEEP", contract_multiplier=1e4, price=price, tick_size=None, **HOURS),
        market("NIGHT", price=price, grade=None, **NIGHT),
        market("PAIR", "no", price=price),
        market("PAIR", "yes", price=price),
        market("FLAT", price=price, sigma=0.0),
        market("BENT", price=price, gamma=1.0),  # eta - gamma tau/2 < 0
        market("SOON", kind="probability", price=price / 1e3, sigma=0.01, resolution_time=soon),
        market("GONE", status="refused", reason="stale"),
        market("'; DROP TABLE ac_runs; --", price=price),
        market("<img src=x onerror=alert(1)>", price=price),
    )


PRICES = {"a" * 16: 50.0, "b" * 16: 80.0}


@pytest.fixture(scope="module", params=["linear", "power", "capped"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ScheduleBook, Path]:
    changes = {"linear": {}, "power": {"impact_law": "power"}, "capped": {"max_participation": 0.3}}[request.param]
    root = tmp_path_factory.mktemp("parquet")
    for run_id, price in PRICES.items():
        publish(root, run_id, markets=markets(price), grid=GRID.model_copy(update=changes))
        (root / f"{run_id}.json").write_bytes((root / parquet.MANIFEST).read_bytes())
    return ScheduleBook.open(root, clock=lambda: NOW), root


def numbers(*usual: float) -> st.SearchStrategy[float]:
    odd = [0.0, -1.0, math.nan, math.inf, 5e-324, 1e308]
    return st.one_of(st.sampled_from(usual), st.floats(min(usual) / 3, max(usual) * 3), st.sampled_from(odd))


names = sorted({row["market_id"] for row in markets(1.0)})
risks = st.one_of(
    st.fixed_dictionaries({"urgency": numbers(0.0, 0.5, 1.0, 10.0)}),
    st.fixed_dictionaries({"risk_aversion": numbers(1e-9, 1e-6, 1e-3)}),
    st.fixed_dictionaries({"half_life": numbers(0.05, 0.2, 0.5)}),
    st.fixed_dictionaries({"decay_time": numbers(0.1, 1.0)}),
    st.fixed_dictionaries({"done_by": st.tuples(numbers(0.5, 0.9), numbers(0.1, 0.5))}),
    st.fixed_dictionaries({"cost_budget_bps": numbers(2.0, 5.0, 50.0)}),
    st.just({}),
)
asks = st.fixed_dictionaries(
    {
        "market_id": st.one_of(st.sampled_from(names), st.text(max_size=5)),
        "order_size": numbers(500.0, 5_000.0, 1_234.5),
        "strategy": st.sampled_from([*OPTIMAL, *FIXED, "almgren_chriss", "almgren_chriss", "magic"]),
    },
    optional={"horizon": numbers(1.0, 0.25, 0.5), "token_id": st.sampled_from(["t", "yes", "x"])},
)
ways = st.fixed_dictionaries(
    {},
    optional={
        "side": st.sampled_from(["sell", "buy", "hold"]),
        "start": st.datetimes(datetime(2026, 3, 4), datetime(2026, 3, 9)).map(lambda t: t.replace(tzinfo=UTC)),
        "max_participation": numbers(0.02, 0.3, 1.0),
        "lot_size": numbers(1.0, 100.0, 0.1),
    },
)


@settings(max_examples=120, deadline=None)
@given(ask=asks, risk=risks, way=ways, run_id=st.sampled_from(sorted(PRICES)), then=st.floats(0.0, 1.2))
def test_it_is_refused_or_adds_up(
    found: tuple[ScheduleBook, Path],
    ask: dict[str, Any],
    risk: dict[str, Any],
    way: dict[str, Any],
    run_id: str,
    then: float,
) -> None:
    book, root = found
    (root / parquet.MANIFEST).write_bytes((root / f"{run_id}.json").read_bytes())
    book.refresh()
    grades: dict[str, Any] = {"min_grade": "D", "max_age": 200.0}
    t, refusal = answer(lambda: book.schedule(**ask, **risk, **way, **grades))
    if t is not None:
        adds_up(t, ask["order_size"], way.get("lot_size"))
        of_one_release(t, run_id)
        if then < 1.0:
            now = then * float(t.params["horizon"])
            if "start" in way:
                now = way["start"] + timedelta(days=then)
            held = float(t.holdings[1]) or float(t.holdings[0])
            rest, _ = answer(lambda: book.replan(t, held, now))
            if rest is not None:
                adds_up(rest, held, way.get("lot_size"))
                of_one_release(rest, run_id)
                assert rest.timestamps[-1] == t.timestamps[-1]
    if not way and ask["strategy"] != "magic":
        order = pd.DataFrame({name: [value] for name, value in {**ask, **risk}.items() if name != "strategy"})
        row = book.schedules(order, strategy=ask["strategy"], **grades).iloc[0]
        if t is None:
            missing = [name for name in (*RISK_KINDS, "horizon") if isinstance({**ask, **risk}.get(name), float)]
            if not any(math.isnan({**ask, **risk}[name]) for name in missing):  # in a frame NaN is none
                assert (row["source"], row["refused"]) == ("refused", refusal)
        elif not math.isnan(ask.get("horizon", 1.0)):
            assert (row["source"], row["run_id"]) == (t.params["source"], run_id)
            assert row["remaining"].tobytes() == t.holdings.tobytes()
            assert row["expected_cost_bps"] == pytest.approx(t.total_cost_estimate, rel=1e-13)
            assert (row["status"], row["warnings"]) == (t.params["status"], t.params["warnings"])


def answer(ask: Callable[[], Any], refusals: tuple[type[Exception], ...] = (ValueError,)) -> tuple[Any, str]:
    """What came back, or None and the refusal, which is one line."""
    try:
        return ask(), ""
    except refusals as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    return None, said


def adds_up(t: Any, size: float, lot: float | None) -> None:
    left = t.params.get("remainder", 0.0)
    assert (t.holdings[0], t.holdings[-1]) == (size, left)
    assert (np.diff(t.holdings) <= 0).all()
    assert (t.trade_sizes >= 0).all()
    assert abs(math.fsum([*t.trade_sizes, left, -size])) <= (4 if lot is None else 64) * EPS * size
    # What is traded is what the holdings fall by.
    np.testing.assert_allclose(-np.diff(t.holdings), t.trade_sizes, rtol=1e-9, atol=8 * EPS * size)
    assert len(t.timestamps) == len(t.holdings) == len(t.trade_sizes) + 1 == len(t.params["slice_prices"]) + 1
    assert (np.diff(t.timestamps) > np.zeros(1, t.timestamps.dtype.str.replace("M", "m"))).all()
    assert np.isfinite(t.params["slice_prices"]).all()
    assert math.isfinite(t.total_cost_estimate)
    assert math.isfinite(t.params["cost_variance"])
    if lot is not None:
        lots = t.trade_sizes / lot
        np.testing.assert_allclose(lots, np.rint(lots), rtol=1e-12, atol=1e-9)


def of_one_release(t: Any, run_id: str) -> None:
    price = PRICES[run_id] / (1e3 if t.params["market_id"] == "SOON" else 1)
    multiplier = 1e4 if t.params["market_id"] == "DEEP" else 1.0
    assert (t.params["run_id"], t.params["price"]) == (run_id, price * multiplier)


# --- files in pieces --------------------------------------------------------------------------------------------------


def small(root: Path, **changes: Any) -> Path:
    publish(root, markets=(market("ALPHA"), market("BETA")), grid=Grid(order_sizes_pct_adv=(1.0,)), **changes)
    return root


@pytest.mark.parametrize("place", np.linspace(0.02, 0.98, 13).tolist())
def test_a_byte_that_turned_on_the_disk_never_becomes_a_schedule(tmp_path: Path, place: float) -> None:
    path = small(tmp_path) / parquet.release_file(schema.TRAJECTORIES, NOW.date() - timedelta(days=1), "a" * 16)
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at] ^= 0x10
    path.write_bytes(content)
    sound = ScheduleBook.open(small(tmp_path / "sound"), clock=lambda: NOW)
    damaged = lambda: ScheduleBook.open(tmp_path, clock=lambda: NOW).schedule("ALPHA", 1_000.0, urgency=3.0)  # noqa: E731
    t, said = answer(damaged, (BookError,))
    if t is None:
        assert "cannot be read" in said
    else:  # a byte that no lookup reads
        want = sound.schedule("ALPHA", 1_000.0, urgency=3.0)
        assert t.holdings.tobytes() == want.holdings.tobytes()
        assert t.total_cost_estimate == want.total_cost_estimate


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_said_to_be_one(tmp_path: Path, share: float) -> None:
    for table in schema.RELEASE_TABLES:
        path = small(tmp_path) / parquet.release_file(table, NOW.date() - timedelta(days=1), "a" * 16)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(BookError, match=r"cannot be read .*: `tributary-opt runs` writes it anew, unless"):
            ScheduleBook.open(tmp_path, clock=lambda: NOW)


def test_a_manifest_that_points_nowhere_says_where(tmp_path: Path) -> None:
    said = json.loads((small(tmp_path) / parquet.MANIFEST).read_text())
    said["run_id"] = "f" * 16
    (tmp_path / parquet.MANIFEST).write_text(json.dumps(said))
    with pytest.raises(
        BookError, match=r"names run ffff.*ac_parameters.*is not there: `tributary-opt runs` writes it anew"
    ):
        ScheduleBook.open(tmp_path, clock=lambda: NOW)


def test_a_night_without_one_market_that_is_fit_opens_and_refuses(tmp_path: Path) -> None:
    refused = (market("ALPHA", status="refused", reason="no_trades"), market("BETA", status="refused", reason="stale"))
    publish(tmp_path, markets=refused)
    book = ScheduleBook.open(tmp_path, clock=lambda: NOW)
    assert list(book.markets()["reason"]) == ["no_trades", "stale"]
    with pytest.raises(ValueError, match="'ALPHA', token 't' was refused: no_trades"):
        book.schedule("ALPHA", 1.0, urgency=1.0)
    orders = pd.DataFrame({"market_id": ["ALPHA", "BETA"], "order_size": 1.0, "urgency": 1.0})
    assert list(book.schedules(orders)["source"]) == ["refused", "refused"]
    none = book.schedules(orders.iloc[:0])
    assert (len(none), list(none)[-1]) == (0, "run_id")


def test_a_market_with_nothing_feasible_is_refused(tmp_path: Path) -> None:
    over = datetime(2026, 3, 4, 0, 30, tzinfo=UTC)  # resolves before the schedule could begin
    publish(tmp_path, markets=(market("OVER", resolution_time=over), market("ALPHA")), grid=GRID)
    book = ScheduleBook.open(tmp_path, clock=lambda: NOW)
    with pytest.raises(ValueError, match="'OVER' has no feasible schedule in the grid"):
        book.schedule("OVER", 10.0, urgency=1.0)
    orders = pd.DataFrame({"market_id": ["OVER", "ALPHA"], "order_size": 10.0, "urgency": 1.0})
    assert list(book.schedules(orders)["source"]) == ["refused", "solved"]


def test_an_empty_grid_file_opens_and_says_that_it_is_not_whole(tmp_path: Path) -> None:
    small(tmp_path)
    day = NOW.date() - timedelta(days=1)
    nothing = parquet.read_release_file(tmp_path, schema.TRAJECTORIES, day, "a" * 16).slice(0, 0)
    parquet.write_release_file(tmp_path, schema.TRAJECTORIES, nothing, day, "a" * 16)
    said = json.loads((tmp_path / parquet.MANIFEST).read_text())
    with pytest.raises(BookError, match=r"has 0 rows, current\.json says"):
        ScheduleBook.open(tmp_path, clock=lambda: NOW)
    said["tables"]["ac_trajectories"]["rows"] = 0
    (tmp_path / parquet.MANIFEST).write_text(json.dumps(said))
    book = ScheduleBook.open(tmp_path, clock=lambda: NOW)
    assert len(book.markets()) == 2
    for ask in (lambda: book.schedule("ALPHA", 1.0, urgency=1.0), lambda: book.frontier("ALPHA", 1.0)):
        with pytest.raises(BookError, match="parameters but no schedules for 'ALPHA'"):
            ask()
