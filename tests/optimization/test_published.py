"""Numbers first: every linear reference case, and what Almgren and Chriss printed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from ac_oracle import LINEAR, NEGLIGIBLE, PUBLISHED, case, number

from tributary_opt.optimization import (
    AlmgrenChrissParams,
    ExecutionTrajectory,
    SolveStatus,
    calibrate_ac_params,
    effective_eta,
    generate_ac_trajectory,
    generate_market_order_trajectory,
    generate_twap_trajectory,
    solve_linear_grid,
)


def params_of(inputs: dict[str, Any], price: float = math.nan) -> AlmgrenChrissParams:
    return AlmgrenChrissParams(
        eta=number(inputs["eta"]),
        gamma=number(inputs["gamma"]),
        sigma=number(inputs["sigma"]),
        alpha=0.5,
        tau=number(inputs["T"]) / inputs["N"],
        epsilon=number(inputs.get("eps", inputs.get("epsilon", 0))),
        price=price,
    )


def trajectory_of(inputs: dict[str, Any], price: float = math.nan) -> ExecutionTrajectory:
    size = number(inputs["X"])
    return generate_ac_trajectory(
        abs(size), inputs["N"], params_of(inputs, price), number(inputs["lam"]), side="buy" if size < 0 else "sell"
    )


def agrees(got: float, reference: str, rtol: float) -> bool:
    true = abs(number(reference))
    return 0 <= got <= NEGLIGIBLE if true < NEGLIGIBLE else abs(got - true) <= rtol * true


@pytest.mark.parametrize("reference", LINEAR, ids=[c["id"] for c in LINEAR])
def test_reference_case(reference: dict[str, Any]) -> None:
    t, expect, rtol, n = trajectory_of(reference), reference["expect"], number(reference["rtol"]), reference["N"]
    size = abs(number(reference["X"]))
    got = {
        "kappa": t.params["kappa"],
        "kappaT": t.params["urgency"],
        "x1": t.holdings[1],
        "xmid": t.holdings[n // 2],
        "xlast": t.holdings[n - 1],
        "n1": t.trade_sizes[0],
        "nN": t.trade_sizes[-1],
        "E": t.params["expected_cost"],
        "V": t.params["cost_variance"],
    }
    for name, value in got.items():
        assert agrees(value, expect[name], rtol), name
    for mine, true in zip(t.holdings, expect.get("x", t.holdings), strict=True):
        assert agrees(mine, true, rtol)

    assert t.holdings[0] == size
    assert t.holdings[-1] == 0
    assert (np.diff(t.holdings) <= 0).all()
    assert (t.trade_sizes >= 0).all()
    assert math.fsum(t.trade_sizes) == pytest.approx(size, rel=4 * np.finfo(float).eps)


@pytest.mark.parametrize("reference", LINEAR, ids=[c["id"] for c in LINEAR])
def test_reference_case_in_a_grid_has_the_same_bits(reference: dict[str, Any]) -> None:
    p, t, size = params_of(reference), trajectory_of(reference), abs(number(reference["X"]))
    grid = solve_linear_grid(
        [p.eta, 1.0], [p.gamma, 0.1], [p.sigma, 0.3], p.epsilon, [size, 2 * size, 7.0],
        horizon=number(reference["T"]), n_steps=reference["N"],
        risk_aversion=[0.0, number(reference["lam"]), 1e-3], slices=True,
    )  # fmt: skip
    assert grid.holdings is not None
    assert grid.slices is not None
    assert (grid.status == SolveStatus.OK).all()
    np.testing.assert_array_equal(grid.holdings[0, 1, 0], t.holdings)
    np.testing.assert_array_equal(size * grid.slices[0, 1], t.trade_sizes)
    np.testing.assert_array_max_ulp(grid.expected_cost[0, 1, 0], t.params["expected_cost"], 1)
    np.testing.assert_array_max_ulp(grid.cost_variance[0, 1, 0], t.params["cost_variance"], 1)
    assert grid.kappa[0, 1] == t.params["kappa"]
    assert grid.half_life[0, 1] == t.params["half_life"]


def test_cost_in_basis_points() -> None:
    assert trajectory_of(case("P1"), price=50.0).total_cost_estimate == pytest.approx(228.14303340995706, rel=1e-12)
    assert trajectory_of(case("S1"), price=0.50).total_cost_estimate == pytest.approx(780.00224872156853, rel=1e-12)
    assert trajectory_of(case("S2"), price=0.50).total_cost_estimate == pytest.approx(4380.0000021537704, rel=1e-12)


def within(got: float, name: str, key: str) -> bool:
    reference = PUBLISHED[name]
    tolerance = reference["tolerance"].get(key, reference["tolerance"])
    true = reference["expected"][key]
    return bool(abs(got - true) <= tolerance.get("abs", tolerance.get("rel", 0.0) * abs(true)))


def test_paper_heuristic_parameters() -> None:
    """Table 1: 30 % a year on 250 days, spread 1/8, 5 M shares a day, price 50."""
    name = "ac2000_heuristic_parameters"
    inputs = PUBLISHED[name]["inputs"]
    daily = inputs["annual_vol"] / math.sqrt(inputs["days"])
    p = calibrate_ac_params(inputs["adv"], inputs["spread"], daily, inputs["price"])
    assert within(daily, name, "daily_vol_frac")
    for key in ("sigma", "epsilon", "eta", "gamma"):
        assert within(getattr(p, key), name, key), key
    assert p.warnings == ()


def test_paper_sd_of_holding_the_position() -> None:
    """Section 3.4: 2.12 M$ of standard deviation for five days with the whole position: σ X √T."""
    i = PUBLISHED["ac2000_hold_sd"]["inputs"]
    assert within(i["sigma"] * i["X"] * math.sqrt(i["T"]), "ac2000_hold_sd", "sd_hold")


def test_paper_limits_twap_and_immediate() -> None:
    """Equations 10, 11 and 13, and the factor between holding and selling evenly (2.0412, not "precisely" 2)."""
    name = "ac2000_limits"
    inputs = PUBLISHED[name]["inputs"]
    p = params_of(inputs)
    naive = generate_twap_trajectory(inputs["X"], inputs["N"], p)
    immediate = generate_market_order_trajectory(inputs["X"], p, inputs["N"])
    assert within(naive.params["expected_cost"], name, "E_naive")
    assert within(naive.params["cost_variance"], name, "V_naive")
    assert within(immediate.params["expected_cost"], name, "E_immediate")
    assert immediate.params["cost_variance"] == 0
    hold = inputs["sigma"] * inputs["X"] * math.sqrt(inputs["T"])
    assert within(hold / math.sqrt(naive.params["cost_variance"]), name, "ratio_hold_to_naive_sd")


def test_paper_strategy_a_with_every_intermediate_quantity() -> None:
    name = "ac2000_strategy_A"
    inputs, expected = PUBLISHED[name]["inputs"], PUBLISHED[name]["expected"]
    p, t = params_of(inputs), trajectory_of(inputs)
    eta_tilde = float(effective_eta(p.eta, p.gamma, p.tau))
    assert eta_tilde == pytest.approx(2.375e-6, rel=1e-15)
    assert within(inputs["lam"] * p.sigma**2 / eta_tilde, name, "kappa_tilde_sq")
    assert within(t.params["kappa"], name, "kappa")
    np.testing.assert_allclose(t.holdings, expected["holdings"], rtol=1e-10)
    np.testing.assert_allclose(t.trade_sizes, expected["trades"], rtol=1e-10)
    e, v = t.params["expected_cost"], t.params["cost_variance"]
    assert within(e, name, "E")
    assert within(v, name, "V")
    assert within(math.sqrt(v), name, "sd")
    assert within(e + inputs["lam"] * v, name, "U")
    assert within(t.params["decay_time"], name, "half_life")  # the paper's "half-life" is 1/κ


def test_paper_value_at_risk_strategy_meets_its_tangency() -> None:
    """Section 3.2: the L-VaR optimum is the mean-variance optimum at λ_u with λ_v = 2 λ_u √V."""
    name = "ac2000_lvar_95"
    inputs, expected = PUBLISHED[name]["inputs"], PUBLISHED[name]["expected"]
    t = generate_ac_trajectory(inputs["X"], inputs["N"], params_of(inputs), expected["lambda_u"])
    sd = math.sqrt(t.params["cost_variance"])
    assert within(t.params["expected_cost"], name, "E")
    assert within(sd, name, "sd")
    assert within(t.params["expected_cost"] + inputs["lambda_v"] * sd, name, "lvar")
    assert 2 * expected["lambda_u"] * sd == pytest.approx(inputs["lambda_v"], rel=1e-6)
