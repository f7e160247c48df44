"""`schedule_order`: every limit kept, or a refusal that says what would do."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tributary_opt import AlmgrenChrissParams, generate_ac_trajectory
from tributary_opt.optimization.problem import schedule_cost
from tributary_opt.optimization.scheduler import AlmgrenChrissCappedStrategy, InfeasibleSchedule, schedule_order
from tributary_opt.optimization.trajectory import _Order

PAPER = AlmgrenChrissParams(2.5e-6, 2.5e-7, 0.95, 0.5, 1.0, epsilon=0.0625, price=50.0, reference_rate=50_000.0)


def test_without_limits_it_is_almgren_chriss() -> None:
    free = schedule_order(1e6, 5, PAPER, 2e-6)
    plain = generate_ac_trajectory(1e6, 5, PAPER, 2e-6)
    np.testing.assert_array_equal(free.trade_sizes, plain.trade_sizes)
    assert free.strategy_name == "almgren_chriss_capped"
    assert free.params["rounding_cost"] == 0
    assert free.params["expected_cost"] == pytest.approx(plain.params["expected_cost"], rel=1e-14)


def test_cap_is_kept_and_the_rest_is_almgren_chriss() -> None:
    t = schedule_order(1e6, 5, PAPER, 2e-6, max_slice=300_000)
    np.testing.assert_allclose(t.trade_sizes, [300000, 300000, 233172.147002, 106382.978723, 60444.874275], rtol=1e-9)
    assert t.params["limits"] == {"max_slice": 300_000}


@pytest.mark.parametrize("first", range(1, 501, 50))
def test_cap_of_exactly_an_equal_share_is_feasible(first: int) -> None:
    """For every N to 500: the quotient X/N may be rounded down, and N of it are then less than X."""
    for n in range(first, first + 50):
        size = (1e6, 0.1)[n % 2]
        cap = size / n
        t = schedule_order(size, n, PAPER, 1e-6, max_slice=cap)
        assert (t.trade_sizes <= cap * (1 + 2 * 2.0**-52)).all()
        assert abs(math.fsum(t.trade_sizes) - size) <= n * 2.0**-52 * size


@pytest.mark.parametrize(
    ("size", "lot", "lots"), [(0.3, 0.1, 3), (0.7, 0.1, 7), (4.35, 0.05, 87), (0.6, 0.2, 3), (29.0, 1.0, 29)]
)
def test_quotients_that_floats_get_wrong(size: float, lot: float, lots: int) -> None:
    t = schedule_order(size, 4, PAPER, 0.0, lot_size=lot)
    assert sum(t.params["lots"]) == lots
    assert t.params["remainder"] == 0
    assert t.holdings[-1] == 0
    per_slice = schedule_order(size, lots, PAPER, 0.0, lot_size=lot, max_slice=lot)
    assert per_slice.params["lots"] == (1,) * lots
    with pytest.raises(InfeasibleSchedule) as refused:
        schedule_order(size, lots - 1, PAPER, 0.0, max_slice=lot)
    assert refused.value.shortest_duration == lots


@pytest.mark.parametrize("ulps", [-40, -9, -3, -2, -1, 0, 1, 2, 3, 9, 40])
@pytest.mark.parametrize(("lot", "lots"), [(1.0, 3), (0.1, 3), (0.05, 87), (0.3, 3), (7.0, 11), (1e-9, 12345)])
def test_a_few_last_digits_beside_a_whole_lot(lot: float, lots: int, ulps: int) -> None:
    """Within two of them the lot is meant; beyond, one lot less fits, and a smallest slice needs one more."""
    limit = lots * lot + ulps * float(np.spacing(lots * lot))
    t = schedule_order(2 * lots * lot, 3, PAPER, 2e-2, lot_size=lot, max_slice=limit)
    assert max(t.params["lots"]) == (lots if ulps >= -2 else lots - 1)
    assert (t.trade_sizes <= limit + 2 * np.spacing(limit)).all()
    assert sum(t.params["lots"]) == 2 * lots
    t = schedule_order(3 * lots * lot, 3, PAPER, 0.0, lot_size=lot, min_slice=limit)
    least = lots if ulps <= 2 else lots + 1
    assert min(n for n in t.params["lots"] if n) >= least
    t = schedule_order(limit, 3, PAPER, 0.0, lot_size=lot)
    assert sum(t.params["lots"]) == (lots if ulps >= -2 else lots - 1)
    assert (t.params["remainder"] == 0) == (abs(ulps) <= 2)


@pytest.mark.parametrize("lot", [None, 1.0])
@pytest.mark.parametrize("law", ["linear", "power"])
@pytest.mark.parametrize("least", [None, 1000.0])
def test_feasible_is_what_the_solver_finds_feasible(lot: float | None, law: str, least: float | None) -> None:
    """Caps within N units of rounding of the order's share are enough, and fewer are refused; nothing in between."""
    n = 5
    outcomes: set[int | str | None] = set()
    for short in (0.0, 0.3, 0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0, 4.0):
        cap = 1e6 / n * (1 - short * n * 2.0**-52)
        try:
            t = schedule_order(1e6, n, PAPER, 0.0, max_slice=cap, lot_size=lot, min_slice=least, impact_law=law)  # type: ignore[arg-type]
        except InfeasibleSchedule as refused:
            outcomes.add(refused.shortest_duration)
        else:
            assert (t.trade_sizes <= cap + 2 * np.spacing(cap)).all()
            assert abs(math.fsum(t.trade_sizes) - 1e6) <= n * 2.0**-52 * 1e6
            assert np.isfinite(t.total_cost_estimate)
            outcomes.add("solved")
    assert outcomes == {"solved", n + 1}


def test_refusals_say_why_and_how_long_it_would_take() -> None:
    with pytest.raises(InfeasibleSchedule, match=r"room for 500 of 1000 .* max_slice=100; .* is 10 periods"):
        schedule_order(1000, 5, PAPER, 1e-6, max_slice=100)
    with pytest.raises(InfeasibleSchedule, match="less than min_slice; no duration is long enough"):
        schedule_order(10, 5, PAPER, 1e-6, min_slice=20)
    with pytest.raises(InfeasibleSchedule, match="less than one lot"):
        schedule_order(10, 5, PAPER, 1e-6, lot_size=20)
    with pytest.raises(InfeasibleSchedule, match=r"room for 4 of 6 contracts .* is 3 periods"):
        schedule_order(6, 2, PAPER, 0.0, lot_size=1, max_slice=2.999999999999996)
    with pytest.raises(InfeasibleSchedule, match="add up to 25 contracts") as refused:  # 25 is no sum of slices of 10
        schedule_order(25, 5, PAPER, 1e-6, min_slice=10, max_slice=10)
    assert refused.value.shortest_duration is None
    for bad in ({"max_slice": 0.0}, {"max_participation": 1.5}, {"lot_size": math.nan}, {"min_slice": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            schedule_order(10, 5, PAPER, 1e-6, **bad)
    with pytest.raises(ValueError, match="order_size"):
        schedule_order(-10, 5, PAPER, 1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.floats(10, 1e3),
    st.integers(1, 6),
    st.sampled_from([None, 1.0, 7.0]),
    st.sampled_from([None, 0.3, 0.9]),
    st.floats(0.2, 0.9),
    st.sampled_from([None, [1.0], [1.0, 3.0], [0.5, 1.0, 2.0, 0.0]]),
)
def test_shortest_duration_is_feasible_and_the_one_before_is_not(
    size: float, n: int, lot: float | None, least: float | None, room: float, weights: list[float] | None
) -> None:
    """The profile goes on as it began."""
    cap = max(size * room / n, lot or 0.0)

    def attempt(duration: int) -> InfeasibleSchedule | None:
        limits: dict[str, Any] = {"lot_size": lot, "min_slice": least and least * cap, "max_slice": cap}
        if weights is not None:
            volume = np.resize(np.resize(np.array(weights) + (n == 1), n), duration)
            limits |= {"volume_profile": volume, "max_participation": min(1.0, cap / 3.0)}
        try:
            schedule_order(size, duration, PAPER, 1e-6, **limits)
        except InfeasibleSchedule as refused:
            return refused
        return None

    refused = attempt(n)
    if refused is not None and refused.shortest_duration is not None and refused.shortest_duration < 60:
        assert refused.shortest_duration > n
        assert attempt(refused.shortest_duration) is None
        assert attempt(refused.shortest_duration - 1) is not None


def test_participation_is_a_share_of_the_volume() -> None:
    volume = np.array([4e5, 0.0, 3e5, 2e6, 5e5])
    t = schedule_order(3e5, 5, PAPER, 1e-6, volume_profile=volume, max_participation=0.1)
    assert (t.trade_sizes <= 0.1 * volume).all()
    assert t.trade_sizes[1] == 0
    by_rule = schedule_order(1e6, 5, PAPER, 1e-5, max_participation=0.05)  # ADV of 5 million
    assert by_rule.trade_sizes.max() == 250_000
    with pytest.raises(InfeasibleSchedule, match="shortest"):
        schedule_order(3.3e5, 5, PAPER, 1e-6, volume_profile=volume, max_participation=0.1)


def test_lots_are_the_best_of_all_whole_schedules() -> None:
    for lam, least in itertools.product((0.0, 1e-6, 1e-5), (None, 2.0)):
        params = AlmgrenChrissParams(1.0, 0.1, 300.0, 0.5, 1.0, epsilon=0.1)
        t = schedule_order(11.5, 4, params, lam, lot_size=1.0, max_slice=6.2, min_slice=least)
        problem = _Order.checked("x", 11.0, 4, params, None, "sell").problem(lam)
        whole = [
            n
            for n in itertools.product(range(7), repeat=4)
            if sum(n) == 11 and all(v == 0 or v >= (least or 0) for v in n)
        ]
        best = schedule_cost(problem, np.array(whole, dtype=float)).objective.min()
        mine = float(schedule_cost(problem, t.trade_sizes).objective)
        assert mine == pytest.approx(best, rel=1e-12)
        assert t.params["remainder"] == 0.5
        assert t.holdings[-1] == 0.5
        assert t.params["rounding_cost"] >= 0
        if t.params["greedy_rounding_cost"] is None:
            assert "slice" in t.params["greedy_refused"]
        else:
            assert t.params["rounding_cost"] <= t.params["greedy_rounding_cost"] * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(
    st.floats(1, 1e6),
    st.integers(1, 12),
    st.floats(0, 1e-3),
    st.sampled_from([None, 1.0, 0.1, 7.0]),
    st.floats(0.0, 0.5),
    st.floats(1.0, 4.0),
    st.sampled_from(["linear", "power"]),
)
def test_every_limit_is_kept(
    size: float, n: int, lam: float, lot: float | None, least: float, room: float, law: str
) -> None:
    cap, min_slice = size / n * room, (size / n * least) or None
    try:
        t = schedule_order(
            size,
            n,
            PAPER,
            lam,
            max_slice=cap,
            min_slice=min_slice,
            lot_size=lot,
            impact_law=law,  # type: ignore[arg-type]
        )
    except InfeasibleSchedule as refused:
        longer = refused.shortest_duration
    else:
        longer = 0
    if longer != 0:
        assert lot is not None or min_slice is not None
        assert longer is None or longer > n
        return
    assert (t.trade_sizes >= 0).all()
    assert (t.trade_sizes <= cap + 2 * np.spacing(cap)).all()
    if min_slice is not None:
        least_of_all = min_slice - (0 if lot is None else 2 * np.spacing(min_slice))
        assert ((t.trade_sizes == 0) | (t.trade_sizes >= least_of_all)).all()
    traded = size - t.params["remainder"]
    assert math.fsum(t.trade_sizes) == pytest.approx(traded, rel=1e-13)
    if lot is not None:
        assert 0 <= t.params["remainder"] < lot
        np.testing.assert_array_equal(np.array(t.params["lots"]) * lot, t.trade_sizes)
    assert t.params["rounding_cost"] >= -1e-12 * t.params["optimum_cost"]
    assert (t.params["greedy_rounding_cost"] is None) == (t.params["greedy_refused"] is not None)


def greedy_by_hand(wanted: np.ndarray, lot: float, lots: int) -> list[int]:
    """Nearest whole lot of what the optimum has done so far, one slice after the other."""
    done, sent = 0.0, []
    for n in wanted[:-1]:
        done += n / lot
        sent.append(round(done) - sum(sent))
    return [*sent, lots - sum(sent)]


_PROFILES = st.sampled_from([None, [1.0], [1.0, 3.0, 2.0], [5.0, 1.0, 1.0, 4.0]])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(3, 4000),
    st.integers(2, 12),
    st.floats(-9, -3),
    st.sampled_from([1.0, 0.1, 7.0]),
    st.sampled_from([None, 0.2]),
    st.sampled_from([None, 1.5, 4.0]),
    _PROFILES,
    st.sampled_from(["linear", "power"]),
)
def test_rounding_costs_at_most_that_of_rounding_slice_by_slice(
    lots: int,
    n: int,
    log_lam: float,
    lot: float,
    least: float | None,
    room: float | None,
    weights: list[float],
    law: str,
) -> None:
    size, lam = lots * lot, 10.0**log_lam
    market = {"impact_law": law, "volume_profile": None if weights is None else np.resize(weights, n)}
    limits = {"max_slice": room and math.ceil(lots / n * room) * lot, "min_slice": least and size / n * least}
    try:
        t = schedule_order(size, n, PAPER, lam, lot_size=lot, **limits, **market)  # type: ignore[arg-type]
    except InfeasibleSchedule:
        return
    optimum = schedule_order(size, n, PAPER, lam, max_slice=limits["max_slice"], **market)  # type: ignore[arg-type]
    greedy = greedy_by_hand(optimum.trade_sizes, lot, lots)
    cap = lots if limits["max_slice"] is None else round(limits["max_slice"] / lot)
    fewest = 0 if limits["min_slice"] is None else limits["min_slice"] / lot * (1 - 1e-12)
    feasible = all(0 <= v <= cap and (v == 0 or v >= fewest) for v in greedy)
    assert (t.params["greedy_refused"] is None) == feasible
    if not feasible:
        assert t.params["greedy_rounding_cost"] is None
        assert "slice" in t.params["greedy_refused"]
        return
    order = _Order.checked("x", size, n, PAPER, None, "sell", law)  # type: ignore[arg-type]
    problem = order.problem(lam, None if weights is None else np.resize(weights, n) / np.resize(weights, n).sum())
    by_hand = float(schedule_cost(problem, np.array(greedy) * lot).objective) - t.params["optimum_cost"]
    unit = 1e-12 * t.params["optimum_cost"]
    assert t.params["greedy_rounding_cost"] == pytest.approx(by_hand, rel=1e-9, abs=unit)
    assert -unit <= t.params["rounding_cost"] <= by_hand + unit


def test_greedy_rounding_that_breaks_a_limit_is_refused_in_words() -> None:
    assert "no lot_size" in schedule_order(1000, 5, PAPER, 1e-6, min_slice=150).params["greedy_refused"]
    short = schedule_order(10, 8, PAPER, 0.0, lot_size=1.0, min_slice=2.0).params
    assert short["greedy_rounding_cost"] is None
    assert "less than the 2 of min_slice" in short["greedy_refused"]


@pytest.mark.parametrize("limits", [{}, {"lot_size": 10.0}, {"min_slice": 10.0}, {"lot_size": 10.0, "min_slice": 20.0}])
@pytest.mark.parametrize("lam", [0.0, 1e-6])
def test_market_without_a_minimum_has_twap_in_lots_and_a_warning(limits: dict[str, float], lam: float) -> None:
    """Its own costs would have everything in one slice: there is no optimum to round."""
    dear = AlmgrenChrissParams(2.5e-6, 2.5e-5, 0.95, 0.5, 1.0, epsilon=0.0625, price=50.0)
    t = schedule_order(1000, 5, dear, lam, **limits)
    np.testing.assert_array_equal(t.trade_sizes, 200.0)
    assert t.params["status"] == "twap_eta_tilde"
    assert t.params["rounding_cost"] == 0
    assert t.params["greedy_rounding_cost"] is None
    assert "eta - gamma*tau/2 must be > 0" in t.params["warnings"][0]
    assert schedule_order(1003, 5, dear, lam, lot_size=10.0).params["lots"] == (20, 20, 20, 20, 20)


@pytest.mark.parametrize(("law", "alpha", "lam"), [("power", 0.3, 1e90), ("power", 0.7, 1e300), ("linear", 1.0, 1e308)])
@pytest.mark.parametrize("limit", ["lot_size", "min_slice"])
def test_any_risk_aversion_has_a_schedule_in_lots(law: Any, alpha: float, lam: float, limit: str) -> None:
    market = AlmgrenChrissParams(2.5e-6, 2.5e-7, 0.95, alpha, 1.0, price=50.0, reference_rate=5e4)
    t = schedule_order(1000, 5, market, lam, impact_law=law, **{limit: 1.0})
    np.testing.assert_array_equal(t.trade_sizes, [1000, 0, 0, 0, 0])
    capped = schedule_order(1000, 5, market, lam, impact_law=law, max_slice=300.0, **{limit: 1.0})
    np.testing.assert_allclose(capped.trade_sizes, [300, 300, 300, 100, 0], rtol=1e-15)


@pytest.mark.parametrize(("size", "lot"), [(2.0**53, 1.0), (1e16 + 1000, 1.0), (1e200, 1e-200)])
def test_more_lots_than_doubles_can_count_are_refused(size: float, lot: float) -> None:
    with pytest.raises(ValueError, match=r"lot_size must be > order_size / 2\^53"):
        schedule_order(size, 3, PAPER, 1e-20, lot_size=lot)
    whole = schedule_order(2.0**52 + 1, 3, PAPER, 1e-20, lot_size=1.0)
    assert sum(whole.params["lots"]) == 2**52 + 1


def test_slices_too_small_for_the_smallest_one_are_no_room() -> None:
    """One slice in 300 can hold the smallest slice: three of them are 601 periods."""
    volume = np.full(300, 99.9)
    volume[0] = 100.0
    limits = {"max_participation": 0.1, "min_slice": 10.0}
    with pytest.raises(InfeasibleSchedule) as refused:
        schedule_order(30, 300, PAPER, 1e-6, volume_profile=volume, **limits)
    assert refused.value.shortest_duration == 601
    t = schedule_order(30, 601, PAPER, 1e-6, volume_profile=np.resize(volume, 601), **limits)
    assert (t.trade_sizes[[0, 300, 600]] == 10.0).all()


def test_beyond_the_convexity_limit_is_refused_with_it() -> None:
    with pytest.raises(ValueError, match=r"n\* = 2\.8125e\+06 contracts"):
        schedule_order(1e8, 5, PAPER, 1e-6, impact_law="power", permanent="paper")


def test_strategy_class() -> None:
    t = AlmgrenChrissCappedStrategy(PAPER, 2e-6, max_slice=300_000).generate_trajectory(1e6, 5, "buy")
    assert t.trade_sizes[0] == 300_000
    assert t.params["implied_price"] > 50
