"""The batched kernels: exact over the whole range, the same bits alone and in any batch, and honest about bad input."""

from __future__ import annotations

import math
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from ac_oracle import case, number, solve, worst
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tributary_opt.optimization import (
    SolveStatus,
    cost_and_variance,
    decay_rate,
    effective_eta,
    half_life,
    linear_grid,
    linear_shapes,
    risk_aversion_from_urgency,
    solve_linear_grid,
)
from tributary_opt.optimization.linear_grid import LinearGrid

EPS = np.finfo(float).eps
RANGE = dict(allow_nan=False, allow_infinity=False, allow_subnormal=False)
urgencies = st.one_of(
    st.just(0.0), st.floats(1e-160, 1e-3, **RANGE), st.floats(1e-3, 50, **RANGE), st.floats(50, 1e6, **RANGE)
)
steps = st.one_of(st.integers(1, 64), st.sampled_from([127, 128, 129, 255, 256, 500, 1_440]))


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(10.0 ** rng.uniform(low, high))


# --- exactness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("permanent", ["paper", "midprice"])
@pytest.mark.parametrize("seed", range(6))
def test_schedule_cost_and_variance_solve_the_optimality_conditions(seed: int, permanent: str) -> None:
    """Every holding, every slice, E and V within 1e-12 of a 60-digit solution, over the stated range of m."""
    rng = np.random.default_rng(seed)
    for _ in range(20):
        n = int(rng.choice([1, 2, 3, 5, 17, 48, 96, 200]))
        horizon, eta = log_uniform(rng, -3, 2), log_uniform(rng, -12, 2)
        tau = horizon / n
        gamma = float(rng.choice([0.0, 0.1, 0.9, 1 - 1e-6])) * 2 * eta / tau
        sigma, epsilon, size = log_uniform(rng, -4, 3), log_uniform(rng, -4, 0), log_uniform(rng, 0, 8)
        m = log_uniform(rng, *[(-300, 300), (-8, 8), (-3, 3)][rng.integers(3)])
        eta_tilde = float(effective_eta(eta, gamma, tau, permanent))  # type: ignore[arg-type]
        lam = m * eta_tilde / (sigma * tau) ** 2
        if not 1e-307 < lam < 1e308:
            continue
        grid = solve_linear_grid(
            eta, gamma, sigma, epsilon, [size],
            horizon=horizon, n_steps=n, risk_aversion=[lam], permanent=permanent, slices=True,  # type: ignore[arg-type]
        )  # fmt: skip
        exact = solve(
            eta=eta, gamma=gamma, sigma=sigma, epsilon=epsilon, risk_aversion=lam, tau=tau,
            n_steps=n, order_size=size, permanent=permanent,
        )  # fmt: skip
        assert grid.slices is not None
        assert grid.status.item() == SolveStatus.OK
        assert worst(grid.remaining[0, 0], exact.remaining) < 1e-12
        assert worst(grid.slices[0, 0], exact.slices) < 1e-12
        assert worst(grid.expected_cost[0, 0], exact.expected_cost) < 1e-12
        relative = exact.cost_variance / (Decimal(sigma) ** 2 * Decimal(tau) * Decimal(size) ** 2)
        if relative > Decimal("1e-290"):
            assert worst(grid.cost_variance[0, 0], exact.cost_variance) < 1e-12


@pytest.mark.parametrize("m", [1e-300, 1e-40, 1e-8, 1e-5, 0.03, 2.0, 1e300])
def test_ten_thousand_steps(m: float) -> None:
    n, tau = 10_000, 2.0**-13
    lam = m / tau**2
    if math.isfinite(lam):
        grid = solve_linear_grid(1, 0, 1, 0, [1], horizon=n * tau, n_steps=n, risk_aversion=[lam], slices=True)
        exact = solve(eta=1, gamma=0, sigma=1, epsilon=0, risk_aversion=lam, tau=tau, n_steps=n)
        assert grid.slices is not None
        assert worst(grid.remaining[0, 0], exact.remaining) < 1e-12
        assert worst(grid.slices[0, 0], exact.slices) < 1e-12
        assert worst(grid.expected_cost[0, 0], exact.expected_cost) < 1e-12
        if exact.cost_variance > Decimal("1e-290"):
            assert worst(grid.cost_variance[0, 0], exact.cost_variance) < 1e-12


@given(urgency=urgencies, n=steps)
@example(urgency=0.0004384394610472097, n=1440)
@example(urgency=1.9082149292705877e-10, n=1440)
@settings(max_examples=300, deadline=None)
def test_shape_invariants(urgency: float, n: int) -> None:
    remaining, slices = linear_shapes(urgency, n)
    assert remaining[0] == 1
    assert remaining[-1] == 0
    assert not np.signbit(remaining).any()
    assert (np.diff(remaining) <= 0).all()
    assert (slices >= 0).all()
    assert (np.diff(slices) <= 4 * EPS * slices[:-1]).all()
    assert abs(math.fsum(slices) - 1) <= 4 * EPS
    # Holdings are sums of slices, whose rounding adds up over many: of 9,000 urgencies up to 4 units for 64 slices,
    # 5 for 256, 11 for 1,440.
    assert 0 < half_life(remaining, 1.0) <= n / 2 * (1 + (4 + n / 64) * EPS)


def test_slices_add_up_over_a_dense_sweep_of_urgencies() -> None:
    urgency = np.concatenate([[0.0], np.geomspace(1e-9, 1e5, 4_001)])
    for n in (1, 2, 7, 48, 1_000, 1_440):
        _, slices = linear_shapes(urgency[:: 1 if n < 100 else 20], n)
        assert max(abs(math.fsum(row) - 1) for row in slices) <= 4 * EPS


@pytest.mark.parametrize("n", [1, 2, 3, 10, 48, 1_000, 10_000])
def test_schedule_is_the_straight_line_to_the_last_bit_when_risk_neutral(n: int) -> None:
    for urgency in (0.0, 5e-324, 1e-308, 1e-200, 1e-30):
        remaining, slices = linear_shapes(urgency, n)
        np.testing.assert_array_equal(remaining, np.arange(n, -1, -1) / n)
        np.testing.assert_array_equal(slices, np.full(n, 1 / n))


def test_no_threshold_near_zero_urgency() -> None:
    """x deviates from the line by (κT)² s(1-s)(2-s)/6, down to where a double can show it, and never jumps."""
    for urgency in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        remaining, _ = linear_shapes(urgency, 2)
        assert 0.5 - remaining[1] == pytest.approx(urgency**2 / 16, rel=1e-2, abs=2 * EPS)
    falling = np.array([linear_shapes(10.0**-e, 10)[0][1] for e in range(0, 160)])
    assert (np.diff(falling) >= -2 * EPS).all()


@pytest.mark.parametrize("urgency", [1e4, 1e10, 1e100, 1e308])
def test_schedule_is_immediate_beyond_the_range(urgency: float) -> None:
    remaining, slices = linear_shapes(urgency, 3)
    np.testing.assert_array_equal(remaining, [1, 0, 0, 0])
    np.testing.assert_array_equal(slices, [1, 0, 0])


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-150, 1.0, 1e150, 1e300, 1.7e308])
@pytest.mark.parametrize("what", ["risk_aversion", "sigma", "eta", "horizon", "order_sizes"])
def test_no_floating_point_fault_at_either_end_of_any_input(what: str, scale: float) -> None:
    inputs = {"risk_aversion": 1.0, "sigma": 1.0, "eta": 1.0, "horizon": 1.0, "order_sizes": 1.0}
    inputs[what] = scale
    lam, sizes = [inputs.pop("risk_aversion"), 0.0, 1e300, 1e-300], [inputs.pop("order_sizes"), 1.0]
    grid = solve_linear_grid(gamma=0.1, epsilon=0.01, order_sizes=sizes, risk_aversion=lam, n_steps=7, **inputs)
    solved = grid.status != SolveStatus.BAD_INPUT
    assert np.isfinite(grid.remaining[solved.any(axis=2)]).all()
    costed = solved & (grid.status != SolveStatus.COST_OUT_OF_RANGE)
    assert np.isfinite(grid.expected_cost[costed]).all()
    assert np.isfinite(grid.cost_variance[costed]).all()
    assert np.isnan(grid.expected_cost[~costed]).all()
    assert (grid.expected_cost[costed] >= 0).all()


def test_path_tends_to_twap_as_risk_aversion_falls_and_to_one_slice_as_it_rises() -> None:
    lam = 10.0 ** np.arange(-300, 301, 1.0)
    grid = solve_linear_grid(1.0, 0.1, 1.0, 0.0, [1.0], horizon=1.0, n_steps=10, risk_aversion=lam, slices=True)
    assert grid.slices is not None
    first = grid.slices[0, :, 0]
    assert (np.diff(first) >= -2 * EPS).all()
    assert first[0] == pytest.approx(0.1, rel=4 * EPS)
    assert first[-1] == 1
    assert (np.diff(grid.kappa[0]) > 0).all()


def test_cost_rises_and_variance_falls_with_risk_aversion() -> None:
    rng = np.random.default_rng(5)
    m_count = 200
    eta, sigma = 10 ** rng.uniform(-8, 0, m_count), 10 ** rng.uniform(-4, 2, m_count)
    gamma = eta * 10 ** rng.uniform(-3, 0, m_count)
    urgency = np.concatenate([[0], np.geomspace(1e-8, 1e3, 120)])
    grid = solve_linear_grid(eta, gamma, sigma, 0.01, [1e3], horizon=1.0, n_steps=24, urgency=urgency, holdings=False)
    e, v = grid.expected_cost[..., 0], grid.cost_variance[..., 0]
    assert (np.diff(e, axis=1) >= -4 * EPS * e[:, 1:]).all()
    assert (np.diff(v, axis=1) <= 4 * EPS * v[:, :-1]).all()
    assert (np.diff(grid.risk_aversion, axis=1) > 0).all()


def test_slope_of_the_frontier_is_minus_the_risk_aversion() -> None:
    p1 = {k: number(case("P1")[k]) for k in ("eta", "gamma", "sigma", "eps", "X", "T", "lam")}
    lam = p1["lam"] * np.array([1 - 1e-4, 1 + 1e-4])
    grid = solve_linear_grid(
        p1["eta"], p1["gamma"], p1["sigma"], p1["eps"], [p1["X"]], horizon=p1["T"], n_steps=5, risk_aversion=lam
    )
    slope = np.diff(grid.expected_cost[0, :, 0]) / np.diff(grid.cost_variance[0, :, 0])
    assert slope.item() == pytest.approx(-p1["lam"], rel=1e-7)


def test_doubling_the_order_doubles_the_trades() -> None:
    grid = solve_linear_grid(1e-5, 1e-6, 0.1, 0.0, [123.0, 246.0], horizon=1.0, n_steps=48, urgency=[0, 1.0, 10])
    assert grid.holdings is not None
    np.testing.assert_array_equal(2 * grid.holdings[:, :, 0], grid.holdings[:, :, 1])
    np.testing.assert_array_equal(4 * grid.expected_cost[..., 0], grid.expected_cost[..., 1])
    np.testing.assert_array_equal(4 * grid.cost_variance[..., 0], grid.cost_variance[..., 1])


# --- coefficients ----------------------------------------------------------------------------------------------------


@given(
    st.floats(1e-250, 1e250, **RANGE), st.floats(1e-150, 1e150, **RANGE), st.floats(1e-9, 1e9, **RANGE), st.booleans()
)
@settings(max_examples=300, deadline=None)
def test_effective_eta_keeps_what_is_left_after_cancellation(eta: float, gamma: float, tau: float, near: bool) -> None:
    if near:  # as close to γτ/2 as a double gets, and a few units beside it
        eta = gamma * tau / 2 * (1 + 3 * EPS)
    exact = Fraction(eta) - Fraction(gamma) * Fraction(tau) / 2
    got = float(effective_eta(eta, gamma, tau))
    assert math.copysign(1, got) == (-1 if exact < 0 else 1)
    assert abs(Fraction(got) - exact) <= abs(exact) * Fraction(2 * EPS)


def test_effective_eta_of_case_g1_is_a_power_of_two() -> None:
    g1 = case("G1")
    assert effective_eta(number(g1["eta"]), number(g1["gamma"]), number(g1["T"]) / g1["N"]) == 2.0**-50
    assert effective_eta(2.0, 1.0, 1.0, "midprice") == 2.0


@given(st.floats(1e-6, 500, **RANGE), st.integers(1, 300))
@settings(max_examples=200, deadline=None)
def test_risk_aversion_and_urgency_are_inverse(urgency: float, n: int) -> None:
    eta_tilde, sigma, tau = 3e-6, 0.7, 1.0 / n
    lam = risk_aversion_from_urgency(urgency, eta_tilde, sigma, tau, n)
    assert decay_rate(lam, eta_tilde, sigma, tau) * tau * n == pytest.approx(urgency, rel=8 * EPS)


def test_risk_aversion_from_urgency_against_sixty_digits() -> None:
    for k in (1e-150, 1e-9, 0.3, 4.0, 300.0, 700.0, 705.0):
        exact = 4 * (Decimal(k) / 2).exp() ** 2 * ((1 - (-Decimal(k)).exp()) / 2) ** 2  # (2 sinh(k/2))²
        if k < 1e-8:
            exact = Decimal(k) ** 2
        assert worst(risk_aversion_from_urgency(k, 1.0, 1.0, 1.0, 1), exact) < 1e-14


def test_risk_aversion_is_formed_where_its_square_roots_overflow() -> None:
    """λ = (2 sinh(κτ/2)/(στ))² η̃ is finite although (2 sinh(κτ/2))² is not."""
    lam = risk_aversion_from_urgency(800.0, 1e-100, 1.0, 1.0, 1)
    tiny = Decimal(float("1e-100"))
    exact = Decimal(800).exp() * (1 - Decimal(-800).exp()) ** 2 * tiny
    assert worst(lam, exact) < 1e-14
    assert decay_rate(lam, 1e-100, 1.0, 1.0) == pytest.approx(800.0, rel=4 * EPS)


def test_risk_aversion_beyond_the_double_range_is_refused_never_infinite() -> None:
    with pytest.raises(ValueError, match="no finite risk_aversion gives urgency 800 at sigma=1"):
        risk_aversion_from_urgency([1.0, 800.0], 1.0, 1.0, 1.0, 1)
    with pytest.raises(ValueError, match="sigma = 0 admits urgency 0 only"):
        risk_aversion_from_urgency(1.0, 1.0, 0.0, 1.0, 1)
    assert risk_aversion_from_urgency(0.0, 1.0, 0.0, 1.0, 1) == 0
    grid = solve_linear_grid(1, 0, [1, 0], 0, [1], horizon=1, n_steps=1, urgency=[0, 1, 800])
    unreachable = grid.status[..., 0] == SolveStatus.RISK_AVERSION_OUT_OF_RANGE
    np.testing.assert_array_equal(unreachable, [[False, False, True], [False, True, True]])
    np.testing.assert_array_equal(np.isnan(grid.risk_aversion), unreachable)
    assert np.isfinite(grid.expected_cost).all()


def test_largest_double_as_risk_aversion_is_still_reached() -> None:
    lam = np.nextafter(np.inf, 0)
    k = float(decay_rate(lam, 1.0, 1.0, 1.0))
    assert risk_aversion_from_urgency(k * (1 - 2 * EPS), 1.0, 1.0, 1.0, 1) == pytest.approx(lam, rel=1e-12)
    with pytest.raises(ValueError, match="no finite risk_aversion"):
        risk_aversion_from_urgency(k * (1 + 4 * EPS), 1.0, 1.0, 1.0, 1)


# --- the same bits in any batch --------------------------------------------------------------------------------------


def rows_of(grid: LinearGrid, market: int, level: int) -> list[NDArray[np.float64]]:
    arrays_ = (
        grid.remaining, grid.slices, grid.holdings, grid.expected_cost, grid.cost_variance,
        grid.kappa, grid.urgency, grid.risk_aversion, grid.half_life,
    )  # fmt: skip
    return [a[market, level] for a in arrays_ if a is not None]


@given(
    n=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 19), st.integers(1, 5), st.integers(1, 3)),
    chunk=st.sampled_from([1, 37, 200, 65_536]),
    by=st.sampled_from(["risk_aversion", "urgency", "shared urgency"]),
)
@settings(max_examples=180, deadline=None)
def test_every_problem_has_the_same_bits_alone_and_in_any_batch(
    n: int, seed: int, shape: tuple[int, int, int], chunk: int, by: str
) -> None:
    """Odd sizes and odd chunks put a problem in other vector lanes and in numpy's remainder loops.

    Urgencies that all markets share are solved once for all of them: to the same bits.
    """
    m_count, l_count, s_count = shape
    rng = np.random.default_rng(seed)
    eta, sigma = 10 ** rng.uniform(-9, 3, m_count), 10 ** rng.uniform(-5, 3, m_count)
    gamma, horizon = eta * rng.uniform(0, 30, m_count), 10 ** rng.uniform(-2, 2, m_count)
    level = np.where(rng.random((m_count, l_count)) < 0.2, 0.0, 10 ** rng.uniform(-12, 3, (m_count, l_count)))
    sizes = 10 ** rng.uniform(0, 7, (m_count, s_count))
    shared, by = by.startswith("shared"), by.split()[-1]
    levels = {by: level[0] if shared else level}
    level = np.broadcast_to(level[0], level.shape) if shared else level
    before = linear_grid._CHUNK_ELEMENTS
    try:
        linear_grid._CHUNK_ELEMENTS = chunk
        whole = solve_linear_grid(eta, gamma, sigma, 0.01, sizes, horizon=horizon, n_steps=n, slices=True, **levels)
    finally:
        linear_grid._CHUNK_ELEMENTS = before
    order = rng.permutation(m_count)
    mixed = solve_linear_grid(
        eta[order], gamma[order], sigma[order], 0.01, sizes[order],
        horizon=horizon[order], n_steps=n, slices=True, **{by: level[order]},
    )  # fmt: skip
    for i in range(m_count):
        j = int(rng.integers(l_count))
        alone = solve_linear_grid(
            eta[i], gamma[i], sigma[i], 0.01, sizes[i],
            horizon=horizon[i], n_steps=n, slices=True, **{by: [level[i, j]]},
        )  # fmt: skip
        place = int(np.flatnonzero(order == i)[0])
        for mine, other, third in zip(
            rows_of(alone, 0, 0), rows_of(whole, i, j), rows_of(mixed, place, j), strict=True
        ):
            np.testing.assert_array_equal(mine, other)
            np.testing.assert_array_equal(mine, third)


@given(arrays(float, st.integers(1, 41), elements=st.floats(0, 40, **RANGE)), st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_bits_do_not_depend_on_the_memory_layout_of_the_input(urgency: NDArray[np.float64], n: int) -> None:
    """numpy's `exp` of a reversed array differs from that of a contiguous one in the last bit; ours must not."""
    expected = linear_shapes(urgency, n)
    spread = np.zeros((len(urgency), 5))
    spread[:, 3] = urgency
    for view in (urgency[::-1].copy()[::-1], spread[:, 3], np.asfortranarray(urgency[:, np.newaxis])[:, 0]):
        for mine, other in zip(linear_shapes(view, n), expected, strict=True):
            np.testing.assert_array_equal(mine, other)
    tau = 1.0 / n
    forward = decay_rate(urgency, 1e-5, 0.3, tau)
    np.testing.assert_array_equal(decay_rate(urgency[::-1], 1e-5, 0.3, tau)[::-1], forward)
    backward = risk_aversion_from_urgency(urgency[::-1], 1e-5, 0.3, tau, n)[::-1]
    np.testing.assert_array_equal(backward, risk_aversion_from_urgency(urgency, 1e-5, 0.3, tau, n))


def test_a_batch_of_thousands_equals_its_parts() -> None:
    rng = np.random.default_rng(11)
    k = np.concatenate([rng.uniform(0, 20, 4_000), 10 ** rng.uniform(-9, 5, 1_001)])
    remaining, slices = linear_shapes(k, 48)
    cuts = np.sort(rng.integers(0, len(k), 60))
    for part in np.split(np.arange(len(k)), cuts):
        for mine, other in zip(linear_shapes(k[part], 48), (remaining, slices), strict=True):
            np.testing.assert_array_equal(mine, other[part])


# --- cost of any schedule --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("permanent", ["paper", "midprice"])
def test_cost_of_any_schedule_is_the_sum_the_paper_writes(permanent: str) -> None:
    """Equation 4 in fractions: a trade pays its own temporary impact, the holdings pay the permanent one."""
    rng = np.random.default_rng(3)
    for n in (1, 2, 7, 60):
        trades = rng.exponential(100.0, (5, n))
        market = {"eta": 3e-4, "gamma": 2e-2, "sigma": 0.3, "tau": 0.05, "epsilon": 0.01}  # η̃ < 0 with this γ
        cost, variance = cost_and_variance(trades, permanent=permanent, **market)  # type: ignore[arg-type]
        f = {k: Fraction(v) for k, v in market.items()}
        for row in range(5):
            trade = [Fraction(float(x)) for x in trades[row]]
            held = [sum(trade[j + 1 :], Fraction(0)) for j in range(n)]
            own = sum(x * x for x in trade) / 2 if permanent == "midprice" else 0
            exact = sum(x * (f["epsilon"] + f["eta"] / f["tau"] * x) for x in trade)
            exact += f["gamma"] * (sum(x * h for x, h in zip(trade, held, strict=True)) + own)
            assert cost[row] == pytest.approx(float(exact), rel=1e-14)
            risk = f["sigma"] ** 2 * f["tau"] * sum(h * h for h in held)
            assert variance[row] == pytest.approx(float(risk), rel=1e-14)


def test_cost_agrees_with_the_optimal_grid_and_takes_holdings() -> None:
    grid = solve_linear_grid(
        2e-5, 3e-6, 0.2, 0.01, [5e3, 1e-150, 1e140], horizon=2.0, n_steps=96, urgency=[0, 1, 30.0], slices=True
    )
    assert grid.slices is not None
    assert grid.holdings is not None
    for s, size in enumerate([5e3, 1e-150, 1e140]):
        e, v = cost_and_variance(
            size * grid.slices[0], eta=2e-5, gamma=3e-6, sigma=0.2, tau=2.0 / 96, epsilon=0.01,
            holdings=grid.holdings[0, :, s],
        )  # fmt: skip
        np.testing.assert_allclose(e, grid.expected_cost[0, :, s], rtol=2e-15)
        np.testing.assert_allclose(v, grid.cost_variance[0, :, s], rtol=2e-15)


def test_cost_at_both_ends_of_the_double_range() -> None:
    market = {"eta": 0.0, "gamma": 0.0, "sigma": 0.0, "tau": 1.0}
    for size in (5e-324, 1e-310, 1.7e308):
        e, _ = cost_and_variance([size, 0.0], epsilon=0.5, **market)
        assert e == 0.5 * size
    e, v = cost_and_variance([1e200, 1e180], eta=1e-103, gamma=0, sigma=1e-60, tau=1e-3)  # X² is beyond it, E is not
    assert e == pytest.approx(1e300, rel=1e-14)
    assert v == pytest.approx(1e237, rel=1e-14)


def test_nothing_traded_costs_nothing() -> None:
    e, v = cost_and_variance(np.zeros(4), eta=1, gamma=1, sigma=1, tau=1, epsilon=1)
    assert e == 0
    assert v == 0


def test_cost_refuses_what_it_cannot_cost() -> None:
    market = {"eta": 1.0, "gamma": 0.0, "sigma": 1.0, "tau": 1.0}
    with pytest.raises(ValueError, match="trade_sizes must be finite and >= 0, got -1"):
        cost_and_variance([1.0, -1.0], **market)
    with pytest.raises(ValueError, match="tau must be finite and > 0"):
        cost_and_variance([1.0], **{**market, "tau": 0.0})
    with pytest.raises(ValueError, match="beyond the double range"):
        cost_and_variance([1e200], **market)
    with pytest.raises(ValueError, match="permanent must be"):
        cost_and_variance([1.0], permanent="neither", **market)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="holdings must be one longer"):
        cost_and_variance([1.0], holdings=[1.0], **market)
    with pytest.raises(TypeError, match="trade_sizes must be real numbers"):
        cost_and_variance(["1.0"], **market)


def test_half_life_is_read_off_the_path() -> None:
    assert half_life([1, 0.9, 0.4, 0.0], 2.0) == pytest.approx(2 * (1 + 0.4 / 0.5))
    assert half_life([1.0, 0.5, 0.0], 1.0) == 1
    assert half_life([5000.0, 0.0], 1.0) == 0.5
    np.testing.assert_allclose(half_life(linear_shapes([0.0, 3.0], 300)[0], 0.01), [1.5, np.interp(
        -0.5, -linear_shapes(3.0, 300)[0], np.arange(301) * 0.01)], rtol=1e-12)  # fmt: skip
    with pytest.raises(ValueError, match="never rise"):
        half_life([1.0, 1.5, 0.0], 1.0)


# --- statuses --------------------------------------------------------------------------------------------------------


def test_bad_markets_cost_the_others_nothing() -> None:
    good = solve_linear_grid(1e-5, 1e-6, 0.1, 0.01, [1e3], horizon=1.0, n_steps=6, urgency=[1.0], slices=True)
    eta = [1e-5, math.nan, -1.0, 1e-5, 1e-5, 1e-5, 1e-5]
    gamma = [1e-6, 1e-6, 1e-6, math.inf, 1e-6, 1e-6, 1e-6]
    sigma = [0.1, 0.1, 0.1, 0.1, -1.0, 0.1, 0.1]
    sizes = [[1e3], [1e3], [1e3], [1e3], [1e3], [0.0], [1e3]]
    horizon = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, math.nan]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid = solve_linear_grid(
            eta, gamma, sigma, 0.01, sizes, horizon=horizon, n_steps=6, urgency=[[1.0]] * 7, slices=True
        )
    np.testing.assert_array_equal(grid.status.ravel(), [0] + [SolveStatus.BAD_INPUT] * 6)
    for mine, other in zip(rows_of(grid, 0, 0), rows_of(good, 0, 0), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert grid.holdings is not None
    assert np.isnan(grid.holdings[1:]).all()
    assert np.isnan(grid.expected_cost[1:]).all()
    assert np.isfinite(grid.remaining[5]).all()  # only the size was bad: the shape stands
    assert np.isnan(grid.remaining[[1, 2, 3, 4, 6]]).all()


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_bad_risk_levels_are_flagged(bad: float) -> None:
    for by in ("risk_aversion", "urgency"):
        grid = solve_linear_grid(1, 0.1, 1, 0, [1], horizon=1, n_steps=4, **{by: [1.0, bad]})  # type: ignore[arg-type]
        np.testing.assert_array_equal(grid.status[0, :, 0], [SolveStatus.OK, SolveStatus.BAD_INPUT])
        assert np.isnan(grid.remaining[0, 1]).all()


def test_twap_where_eta_tilde_is_not_positive_costed_with_the_true_coefficients() -> None:
    grid = solve_linear_grid(
        [1e-3, 0.0, 1.0], [0.1, 0.0, 0.1], 0.025, 0.01, [1e3], horizon=10.0, n_steps=10, risk_aversion=[1e-5],
        slices=True,
    )  # fmt: skip
    np.testing.assert_array_equal(
        grid.status[:, 0, 0], [SolveStatus.TWAP_ETA_TILDE, SolveStatus.TWAP_ETA_TILDE, SolveStatus.OK]
    )
    assert grid.slices is not None
    np.testing.assert_array_equal(grid.slices[0, 0], np.full(10, 0.1))
    assert grid.kappa[0, 0] == 0
    e, _ = cost_and_variance(np.full(10, 100.0), eta=1e-3, gamma=0.1, sigma=0.025, tau=1.0, epsilon=0.01)
    assert grid.expected_cost[0, 0, 0] == pytest.approx(float(e), rel=1e-14)
    by_urgency = solve_linear_grid(1e-3, 0.1, 0.025, 0.01, [1e3], horizon=10.0, n_steps=10, urgency=[3.0])
    assert by_urgency.urgency.item() == 0
    assert np.isnan(by_urgency.risk_aversion.item())
    midprice = solve_linear_grid(
        1e-3, 0.1, 0.025, 0.01, [1e3], horizon=10.0, n_steps=10, urgency=[3.0], permanent="midprice"
    )
    assert midprice.status.item() == SolveStatus.OK


def test_cost_beyond_the_double_range_is_flagged_not_infinite() -> None:
    grid = solve_linear_grid(1, 0, 1, 0, [1.0, 1e200], horizon=1, n_steps=4, urgency=[1.0])
    np.testing.assert_array_equal(grid.status[0, 0], [SolveStatus.OK, SolveStatus.COST_OUT_OF_RANGE])
    assert np.isnan(grid.expected_cost[0, 0, 1])
    assert grid.holdings is not None
    assert grid.holdings[0, 0, 1, 0] == 1e200


def test_wrong_types_and_shapes_raise() -> None:
    good = {"horizon": 1.0, "n_steps": 4, "urgency": [1.0]}
    with pytest.raises(TypeError, match="n_steps must be an integer, got float"):
        solve_linear_grid(1, 0, 1, 0, [1], **{**good, "n_steps": 4.0})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="n_steps"):
        linear_shapes(1.0, True)
    with pytest.raises(ValueError, match="n_steps must be >= 1, got 0"):
        linear_shapes(1.0, 0)
    with pytest.raises(TypeError, match="eta must be real numbers"):
        solve_linear_grid(["1"], 0, 1, 0, [1], **good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="exactly one of"):
        solve_linear_grid(1, 0, 1, 0, [1], horizon=1.0, n_steps=4)
    with pytest.raises(ValueError, match="exactly one of"):
        solve_linear_grid(1, 0, 1, 0, [1], risk_aversion=[1], **good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="broadcast"):
        solve_linear_grid([1, 2, 3], 0, [1, 2], 0, [1], **good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="market arrays of shape"):
        solve_linear_grid([[1]], 0, 1, 0, [1], **good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="urgency must be finite and >= 0"):
        linear_shapes([1.0, -1.0], 3)
    with pytest.raises(ValueError, match="remaining must be C-contiguous"):
        linear_shapes(1.0, 3, out=(np.empty(3), None))
    for wrong in ({"eta_tilde": 0.0}, {"tau": -1.0}, {"risk_aversion": math.nan}, {"sigma": math.inf}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be finite"):
            decay_rate(**{"risk_aversion": 1.0, "eta_tilde": 1.0, "sigma": 1.0, "tau": 1.0, **wrong})


def test_output_arrays_are_filled_in_place() -> None:
    remaining, slices = np.empty((2, 3, 5)), np.empty((2, 3, 4))
    held = np.empty((2, 3, 1, 5))
    grid = solve_linear_grid(
        [1.0, 2.0], 0, 1, 0, [2.0], horizon=1, n_steps=4, urgency=[0, 1, 2], remaining=remaining, slices=slices,
        holdings=held,
    )  # fmt: skip
    assert grid.remaining is remaining
    assert grid.slices is slices
    assert grid.holdings is held
    np.testing.assert_array_equal(held[..., 0, :], 2 * remaining)
    shapes = linear_shapes([0.0, 1.0, 2.0], 4, out=(remaining[0], None))
    assert shapes[0] is not remaining  # a view of it, filled
    np.testing.assert_array_equal(remaining[0], remaining[1])
    nobody = solve_linear_grid([], [], [], 0, np.empty((0, 2)), horizon=1.0, n_steps=4, urgency=[1.0])
    assert nobody.status.shape == (0, 1, 2)
