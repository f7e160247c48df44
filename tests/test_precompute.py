"""The night's schedules against the single-order API, row by row, and what each status means."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tick_tables import assert_same_rows

from tributary_opt import schema
from tributary_opt.optimization.almgren_chriss import generate_ac_trajectory
from tributary_opt.optimization.strategies import generate_market_order_trajectory, generate_twap_trajectory
from tributary_opt.optimization.trajectory import AlmgrenChrissParams, ExecutionTrajectory, implied_average_price
from tributary_opt.precompute import precompute
from tributary_opt.settings import Grid, RiskLevel

AS_OF = date(2024, 3, 5)
KEYS = ["market_id", "token_id", "strategy", "size_ix", "risk_ix", "horizon_ix"]
MISSING = {  # what has no number, by strategy
    "almgren_chriss": {"decay_time"},
    "twap": {"decay_time"},
    "market_order": {"risk_aversion", "urgency", "kappa", "decay_time"},
}
MIXED = Grid(
    order_sizes_pct_adv=(0.5, 2.0, 10.0),
    risk_levels=(
        RiskLevel(kind="lambda", value=1e-6),
        RiskLevel(kind="urgency", value=0.0),
        RiskLevel(kind="lambda", value=0.0),
        RiskLevel(kind="urgency", value=3.0),
        RiskLevel(kind="lambda", value=2e-4),
    ),
    horizons=(1.0, 0.25),
    n_steps=24,
)


def market(name: str = "M", **changes: Any) -> dict[str, Any]:
    adv, spread = changes.get("adv", 1e5), changes.pop("spread", 0.02)
    row = {
        "market_id": name,
        "token_id": "t",
        "status": "ok",
        "calendar": "24/7",
        "day_hours": 24.0,
        "kind": "price",
        "adv": adv,
        "price": 50.0,
        "sigma": 1.0,
        "eta": spread / (0.01 * adv),
        "gamma": spread / (0.10 * adv),
        "epsilon": spread / 2,
        "contract_multiplier": 1.0,
        "resolution_time": None,
    }
    return {**row, **changes}


def parameters(*rows: dict[str, Any]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows))
    frame["resolution_time"] = pd.to_datetime(frame["resolution_time"], utc=True).astype("datetime64[us, UTC]")
    return frame


def many(n: int = 40, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return parameters(
        *(
            market(
                f"m{i:02d}",
                adv=10 ** rng.uniform(2, 8),
                spread=10 ** rng.uniform(-3, -1),
                sigma=10 ** rng.uniform(-2, 1),
                price=10 ** rng.uniform(1, 3),
                contract_multiplier=float(rng.choice([1.0, 0.1, 50.0])),
                calendar=str(rng.choice(["24/7", "XNYS"])),
                status="refused" if i % 7 == 0 else "ok",
            )
            for i in rng.permutation(n)
        )
    )


def params_of(row: dict[str, Any], tau: float) -> AlmgrenChrissParams:
    names = ("eta", "gamma", "sigma", "epsilon", "price")
    return AlmgrenChrissParams(**{n: row[n] for n in names}, alpha=0.5, tau=tau)


# --- the grid -----------------------------------------------------------------------------------------------


def test_every_usable_market_has_every_point_of_the_grid_once() -> None:
    p = many()
    out = precompute(p, MIXED, AS_OF)
    usable = p[p["status"] == "ok"]
    per_market = (5 + 1 + 1) * 3 * 2
    assert len(out) == len(usable) * per_market
    assert not out.duplicated(KEYS).any()
    assert list(out.columns) == [n for n in schema.TRAJECTORIES.names if n not in ("as_of", "run_id")]
    assert set(out["market_id"]) == set(usable["market_id"])
    order = ["market_id", "token_id", "strategy", "risk_ix", "size_ix", "horizon_ix"]
    assert out[order].equals(out[order].sort_values(order, kind="stable", ignore_index=True))
    points = set(map(tuple, out[["strategy", "risk_ix", "size_ix", "horizon_ix"]].drop_duplicates().to_numpy()))
    assert points == {
        *(("almgren_chriss", r, s, h) for r in range(5) for s in range(3) for h in range(2)),
        *((name, -1, s, h) for name in ("twap", "market_order") for s in range(3) for h in range(2)),
    }


def test_row_says_what_its_indices_stand_for() -> None:
    p = many().set_index("market_id")
    for row in precompute(p.reset_index(), MIXED, AS_OF).to_dict("records"):
        assert row["adv_fraction"] == MIXED.order_sizes_pct_adv[row["size_ix"]] / 100
        assert row["order_size"] == p.loc[row["market_id"], "adv"] * row["adv_fraction"]
        assert row["horizon"] == MIXED.horizons[row["horizon_ix"]]
        assert (row["n_steps"], len(row["remaining"])) == (24, 25)
        assert (row["remaining"][0], row["remaining"][-1]) == (row["order_size"], 0.0)
        assert (np.diff(row["remaining"]) <= 0).all()
        assert row["calendar"] == p.loc[row["market_id"], "calendar"]
        assert (row["permanent"], row["impact_law"]) == ("paper", "linear")
        if row["strategy"] == "almgren_chriss":
            level = MIXED.risk_levels[row["risk_ix"]]
            assert row["risk_aversion" if level.kind == "lambda" else "urgency"] == level.value


def test_no_number_is_missing_where_the_status_is_ok() -> None:
    out = precompute(many(), MIXED, AS_OF)
    numbers = [c.name for c in schema.TRAJECTORIES.columns if c.type == "DOUBLE"]
    fine = out[out["status"] == "ok"]
    assert len(fine) > 1000
    for strategy, of in fine.groupby("strategy"):
        missing = {n for n in numbers if of[n].isna().any()}
        assert missing <= MISSING[strategy]
        assert not np.isinf(of[numbers].to_numpy(dtype=float)).any()
    patient = fine["decay_time"].isna() & (fine["strategy"] == "almgren_chriss")
    assert (fine.loc[patient, "kappa"] == 0).all()


def test_no_market_with_parameters_gives_every_column_and_no_row() -> None:
    for p in (parameters(market(status="refused")), parameters(market()).iloc[:0]):
        out = precompute(p, MIXED, AS_OF)
        assert len(out) == 0
        assert list(out.columns) == list(precompute(parameters(market()), MIXED, AS_OF).columns)


def test_market_alone_in_any_order_and_in_any_chunk_has_the_same_rows_to_the_last_bit() -> None:
    p = many()
    whole = precompute(p, MIXED, AS_OF)
    by_id = p.sort_values("market_id", ignore_index=True)
    for n in (1, 7, 40):
        parts = [precompute(by_id[i : i + n], MIXED, AS_OF) for i in range(0, len(by_id), n)]
        assert_same_rows(pd.concat(parts, ignore_index=True), whole)
    assert_same_rows(precompute(p[::-1], MIXED, AS_OF), whole)


# --- the numbers --------------------------------------------------------------------------------------------


def single(row: dict[str, Any], p: dict[str, Any], grid: Grid) -> ExecutionTrajectory:
    params, size, n = params_of(p, row["horizon"] / row["n_steps"]), row["order_size"], row["n_steps"]
    if row["strategy"] == "twap":
        return generate_twap_trajectory(size, n, params, permanent=grid.permanent)
    if row["strategy"] == "market_order":
        return generate_market_order_trajectory(size, params, n, permanent=grid.permanent)
    lam = row["risk_aversion"] * p["contract_multiplier"]
    return generate_ac_trajectory(size, n, params, lam, permanent=grid.permanent)


@pytest.mark.parametrize("permanent", ["paper", "midprice"])
def test_rows_are_those_of_the_single_order_api(permanent: str) -> None:
    """Holdings bit for bit where λ was given (an urgency's λ is rounded); E, V and bps to 4 units of rounding."""
    p = many(15, seed=4)
    grid = MIXED.model_copy(update={"permanent": permanent})
    by_id = {r["market_id"]: r for r in p.to_dict("records")}
    exact = 0
    for row in precompute(p, grid, AS_OF).to_dict("records"):
        of = by_id[row["market_id"]]
        alone = single(row, of, grid)
        m = of["contract_multiplier"]
        given = row["strategy"] != "almgren_chriss" or grid.risk_levels[row["risk_ix"]].kind == "lambda"
        if given:
            np.testing.assert_array_equal(row["remaining"], alone.holdings)
            exact += 1
        else:
            np.testing.assert_allclose(row["remaining"], alone.holdings, rtol=1e-11)
        rtol = 1e-15 if given else 1e-12
        for name, expected in {
            "expected_cost": alone.params["expected_cost"] * m,
            "cost_variance": alone.params["cost_variance"] * m**2,
            "expected_cost_bps": alone.total_cost_estimate,
            "cost_sd_bps": math.sqrt(alone.params["cost_variance"]) / (row["order_size"] * of["price"]) * 1e4,
            "eta_tilde": alone.params["eta_tilde"],
            "half_life": alone.params["half_life"],
        }.items():
            assert row[name] == pytest.approx(expected, rel=rtol, abs=0), (row["strategy"], row["risk_ix"], name)
        for side, name in (("buy", "buy_price"), ("sell", "sell_price")):
            implied = implied_average_price(of["price"], alone.params["expected_cost"], row["order_size"], side)
            assert row[name] == pytest.approx(float(implied), abs=4 * rtol * (of["price"] + abs(implied)))
        if row["strategy"] == "almgren_chriss":
            assert row["kappa"] == pytest.approx(alone.params["kappa"], rel=1e-14, abs=0)
            assert row["urgency"] == pytest.approx(alone.params["urgency"], rel=1e-14, abs=0)
            assert np.isnan(row["decay_time"]) == (row["kappa"] == 0)
    assert exact > 200


def test_market_order_costs_one_slice_and_has_no_risk() -> None:
    p = market(contract_multiplier=10.0)
    for permanent in ("paper", "midprice"):
        grid = Grid(order_sizes_pct_adv=(1.0,), horizons=(0.5,), n_steps=10, permanent=permanent)
        out = precompute(parameters(p), grid, AS_OF)
        row = out[out["strategy"] == "market_order"].iloc[0]
        x, tau = 1000.0, 0.05
        cost = p["epsilon"] * x + p["eta"] * x**2 / tau + (p["gamma"] * x**2 / 2 if permanent == "midprice" else 0.0)
        assert row["expected_cost"] == pytest.approx(10 * cost, rel=1e-15)
        assert row["cost_variance"] == 0
        assert row["remaining"].tolist() == [x, *[0.0] * 10]
        assert row["half_life"] == pytest.approx(tau / 2, rel=1e-15)
        assert row["risk_ix"] == -1


def test_contract_multiplier_scales_currency_and_leaves_prices_bps_and_shapes() -> None:
    """50 dollars a point: λ in 1/dollar means fifty times as much in 1/point."""
    base, fifty = parameters(market()), parameters(market(contract_multiplier=50.0))
    one = precompute(base, Grid(risk_levels=(RiskLevel(kind="lambda", value=50e-6),)), AS_OF)
    other = precompute(fifty, Grid(risk_levels=(RiskLevel(kind="lambda", value=1e-6),)), AS_OF)
    for a, b in zip(one.to_dict("records"), other.to_dict("records"), strict=True):
        np.testing.assert_allclose(b["remaining"], a["remaining"], rtol=1e-14)
        for name in ("expected_cost_bps", "cost_sd_bps", "buy_price", "sell_price", "kappa", "eta_tilde"):
            assert b[name] == pytest.approx(a[name], rel=1e-13, nan_ok=True)
        assert b["expected_cost"] == pytest.approx(50 * a["expected_cost"], rel=1e-13)
        assert b["cost_variance"] == pytest.approx(2500 * a["cost_variance"], rel=1e-13)
    urgent = Grid(risk_levels=(RiskLevel(kind="urgency", value=3.0),))
    one, other = precompute(base, urgent, AS_OF), precompute(fifty, urgent, AS_OF)
    ac = one["strategy"] == "almgren_chriss"
    assert_same_rows(other[["remaining", "urgency"]], one[["remaining", "urgency"]])
    np.testing.assert_allclose(other.loc[ac, "risk_aversion"] * 50, one.loc[ac, "risk_aversion"], rtol=1e-15)


def test_twap_costs_least_and_risks_most_and_urgency_trades_one_for_the_other() -> None:
    out = precompute(many(), Grid(), AS_OF)
    ac = out[out["strategy"] == "almgren_chriss"]
    for _, rows in ac.groupby(["market_id", "size_ix"]):
        rows = rows.sort_values("risk_ix")
        assert (np.diff(rows["expected_cost"]) >= 0).all()
        assert (np.diff(rows["cost_variance"]) <= 0).all()
    at_zero = ac[ac["risk_ix"] == 0].reset_index(drop=True)
    twap = out[out["strategy"] == "twap"].reset_index(drop=True)
    assert_same_rows(at_zero.drop(columns=["strategy", "risk_ix"]), twap.drop(columns=["strategy", "risk_ix"]))


# --- the statuses -------------------------------------------------------------------------------------------


def statuses(row: dict[str, Any], grid: Grid, **select: Any) -> set[str]:
    out = precompute(parameters(row), grid, AS_OF)
    for name, value in select.items():
        out = out[out[name] == value]
    assert len(out)
    return set(out["status"])


def test_eta_tilde_not_above_zero_is_twap_costed_with_the_true_numbers() -> None:
    """Under the rule γτ/2 passes η at τ = 20 days: one step over 30 days."""
    grid = Grid(horizons=(30.0,), n_steps=1, order_sizes_pct_adv=(1.0,))
    assert statuses(market(), grid, strategy="almgren_chriss") == {"twap_eta_tilde"}
    assert statuses(market(), grid, strategy="twap") == {"ok"}
    assert statuses(market(), grid.model_copy(update={"permanent": "midprice"})) == {"ok"}
    steep = market(gamma=1.0, epsilon=0.0)
    out = precompute(parameters(steep), Grid(order_sizes_pct_adv=(0.001,), n_steps=4), AS_OF)
    ac, twap = out[out["strategy"] == "almgren_chriss"], out[out["strategy"] == "twap"].iloc[0]
    assert set(ac["status"]) == {"twap_eta_tilde"}
    for row in ac.to_dict("records"):
        assert row["eta_tilde"] < 0
        np.testing.assert_array_equal(row["remaining"], twap["remaining"])
        assert row["expected_cost"] == twap["expected_cost"] > 0
        assert row["kappa"] == 0


@pytest.mark.parametrize("strategy", ["almgren_chriss", "twap", "market_order"])
def test_price_out_of_range_is_seen_on_the_side_where_it_happens(strategy: str) -> None:
    grid = Grid(order_sizes_pct_adv=(1.0,), n_steps=1, risk_levels=(RiskLevel(value=0.0),))
    flat = {"eta": 1e-12, "gamma": 0.0, "sigma": 0.01}
    for kind, price, epsilon, expected in (
        ("price", 50.0, 49.0, "ok"),
        ("price", 50.0, 51.0, "price_out_of_range"),  # a seller would pay to sell
        ("price", 0.7, 0.4, "ok"),  # a buyer of a price may pay more than 1
        ("probability", 0.5, 0.4, "ok"),
        ("probability", 0.7, 0.4, "price_out_of_range"),  # a buyer would pay more than 1
        ("probability", 0.3, 0.4, "price_out_of_range"),  # a seller would get less than 0
    ):
        row = market(kind=kind, price=price, epsilon=epsilon, **flat)
        assert statuses(row, grid, strategy=strategy) == {expected}, (kind, price)


def test_range_is_flagged_and_the_row_stays_whole() -> None:
    out = precompute(parameters(market(epsilon=60.0)), Grid(), AS_OF)
    assert set(out["status"]) == {"price_out_of_range"}
    assert out["expected_cost"].notna().all()
    assert (out["sell_price"] < 0).all()


def test_schedule_that_would_run_past_resolution_is_infeasible() -> None:
    """After Tuesday 5 March a day around the clock ends with the 6th; of New York, at 21:00 UTC."""
    grid = Grid(horizons=(1.0, 0.5), n_steps=2)

    def by_horizon(resolution: str | None, calendar: str = "24/7") -> list[set[str]]:
        row = market(resolution_time=resolution, calendar=calendar)
        return [statuses(row, grid, horizon_ix=h) for h in (0, 1)]

    assert by_horizon(None) == [{"ok"}, {"ok"}]
    assert by_horizon("2024-03-07T00:00Z") == [{"ok"}, {"ok"}]
    assert by_horizon("2024-03-06T23:59:59.999999Z") == [{"infeasible"}, {"ok"}]
    assert by_horizon("2024-03-06T11:00Z") == [{"infeasible"}, {"infeasible"}]
    assert by_horizon("2024-03-06T21:00Z", "XNYS") == [{"ok"}, {"ok"}]
    assert by_horizon("2024-03-06T20:00Z", "XNYS") == [{"infeasible"}, {"ok"}]
    late = market(resolution_time="2024-03-06T00:00Z", epsilon=60.0)
    assert statuses(late, grid) == {"infeasible"}  # goes before price_out_of_range


def test_urgency_that_no_risk_aversion_gives_is_infeasible_with_a_whole_schedule() -> None:
    grid = Grid(risk_levels=(RiskLevel(value=1e5), RiskLevel(value=3.0)), n_steps=1)
    out = precompute(parameters(market()), grid, AS_OF)
    ac = out[out["strategy"] == "almgren_chriss"]
    assert set(ac.loc[ac["risk_ix"] == 0, "status"]) == {"infeasible"}
    assert set(ac.loc[ac["risk_ix"] == 1, "status"]) == {"ok"}
    assert ac["expected_cost"].notna().all()


def test_extreme_settings_and_markets_raise_no_warning_and_say_what_they_are() -> None:
    levels = [RiskLevel(kind=k, value=v) for k in ("urgency", "lambda") for v in (0.0, 1e-300, 1e300)]
    rows = [
        market(
            f"{i}{j}", adv=10.0**a, spread=10.0**b, price=10.0 ** (b + 1), sigma=10.0**b, contract_multiplier=10.0**c
        )
        for i, (a, b) in enumerate([(60, 59), (-61, -60), (60, -60), (-61, 59)])
        for j, c in enumerate((-30, 0, 30))
    ]
    grid = Grid(risk_levels=levels, n_steps=5, order_sizes_pct_adv=(1e-6, 100.0))
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        out = precompute(parameters(*rows), grid, AS_OF)
    numbers = [c.name for c in schema.TRAJECTORIES.columns if c.type == "DOUBLE"]
    assert not np.isinf(out[numbers].to_numpy(dtype=float)).any()
    assert not np.isinf(np.stack(out["remaining"])).any()
    fine = out[out["status"] == "ok"]
    for strategy, of in fine.groupby("strategy"):
        assert {n for n in numbers if of[n].isna().any()} <= MISSING[strategy]
