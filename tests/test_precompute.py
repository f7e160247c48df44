"""The night's schedules against the single-order API, row by row, and what each status means."""

from __future__ import annotations

import math
from datetime import date, timedelta
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tick_tables import assert_same_rows

from tributary_opt import schema
from tributary_opt.optimization import night
from tributary_opt.optimization.almgren_chriss import generate_ac_trajectory
from tributary_opt.optimization.strategies import (
    generate_ac_volume_time_trajectory,
    generate_market_order_trajectory,
    generate_twap_trajectory,
    generate_vwap_trajectory,
)
from tributary_opt.optimization.trajectory import AlmgrenChrissParams, ExecutionTrajectory, implied_average_price
from tributary_opt.precompute import precompute
from tributary_opt.settings import Grid, RiskLevel

AS_OF = date(2024, 3, 5)
KEYS = ["market_id", "token_id", "strategy", "size_ix", "risk_ix", "horizon_ix"]
BY_LEVEL, BASELINES = ("almgren_chriss", "almgren_chriss_volume_time"), ("market_order", "twap", "vwap")
UNUSED = {"alpha", "max_participation", "max_slice"}  # of the linear law without caps
MISSING = {  # what has no number, by strategy
    **dict.fromkeys((*BY_LEVEL, "twap", "vwap"), {"decay_time"} | UNUSED),
    "market_order": {"risk_aversion", "urgency", "kappa", "decay_time"} | UNUSED,
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
        "volume_profile": None,
        "variance_profile": None,
    }
    return {**row, **changes}


def parameters(*rows: dict[str, Any]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows))
    frame["resolution_time"] = pd.to_datetime(frame["resolution_time"], utc=True).astype("datetime64[us, UTC]")
    return frame


def hours(rng: np.random.Generator) -> np.ndarray:
    """A profile by hour of the day, some hours without anything."""
    shares = rng.exponential(size=24) * (rng.random(24) > 0.2)
    return np.asarray(shares / shares.sum())


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
                volume_profile=None if i % 3 == 0 else hours(rng),
                variance_profile=None if i % 5 == 0 else hours(rng),
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
    per_market = (5 + 5 + 1 + 1 + 1) * 3 * 2
    assert len(out) == len(usable) * per_market
    assert not out.duplicated(KEYS).any()
    assert list(out.columns) == [n for n in schema.TRAJECTORIES.names if n not in ("as_of", "run_id")]
    assert set(out["market_id"]) == set(usable["market_id"])
    order = ["market_id", "token_id", "strategy", "size_ix", "risk_ix", "horizon_ix"]
    assert out[order].equals(out[order].sort_values(order, kind="stable", ignore_index=True))
    points = set(map(tuple, out[["strategy", "risk_ix", "size_ix", "horizon_ix"]].drop_duplicates().to_numpy()))
    assert points == {
        *((name, r, s, h) for name in BY_LEVEL for r in range(5) for s in range(3) for h in range(2)),
        *((name, -1, s, h) for name in BASELINES for s in range(3) for h in range(2)),
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
        if row["strategy"] in BY_LEVEL:
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
    patient = fine["decay_time"].isna() & fine["strategy"].isin(BY_LEVEL)
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


def weights(profile: Any, calendar: str, horizon: float, n: int) -> np.ndarray:
    """Shares of a horizon's slices of the day after `AS_OF`, a Wednesday in winter; flat without a profile."""
    return np.full(n, 1.0 / n) if profile is None else _added_up(tuple(profile), calendar, horizon, n)


@cache
def _added_up(profile: tuple[float, ...], calendar: str, horizon: float, n: int) -> np.ndarray:
    """By quarters of a second."""
    opens, closes = (0, 24 * 3600) if calendar == "24/7" else (34_200, 57_600)  # 09:30 to 16:00 in New York
    hour = (np.arange(opens, closes, 0.25) // 3600).astype(int)
    share = np.array(profile)[hour] / np.bincount(hour, minlength=24)[hour]
    length = round(horizon * len(share)) // n
    assert length * n == round(horizon * len(share))
    slices = share[: length * n].reshape(n, length).sum(axis=1)
    return np.asarray(slices / slices.sum())


def single(row: dict[str, Any], p: dict[str, Any], grid: Grid) -> ExecutionTrajectory:
    params, size, n = params_of(p, row["horizon"] / row["n_steps"]), row["order_size"], row["n_steps"]
    if row["strategy"] == "twap":
        return generate_twap_trajectory(size, n, params, permanent=grid.convention)
    if row["strategy"] == "market_order":
        return generate_market_order_trajectory(size, params, n, permanent=grid.convention)
    if row["strategy"] == "vwap":
        w = (
            np.ones(n)
            if p["volume_profile"] is None
            else weights(p["volume_profile"], p["calendar"], row["horizon"], n)
        )
        return generate_vwap_trajectory(size, w, params, permanent=grid.convention)
    lam = row["risk_aversion"] * p["contract_multiplier"]
    if row["strategy"] == "almgren_chriss_volume_time":
        w = (
            np.ones(n)
            if p["volume_profile"] is None
            else weights(p["volume_profile"], p["calendar"], row["horizon"], n)
        )
        return generate_ac_volume_time_trajectory(size, w, params, lam, permanent=grid.convention)
    return generate_ac_trajectory(size, n, params, lam, permanent=grid.convention)


@pytest.mark.parametrize("permanent", ["paper", "midprice"])
def test_rows_are_those_of_the_single_order_api(permanent: str) -> None:
    """By the clock bit for bit where λ was given (an urgency's λ is rounded); E, V and bps to units of rounding."""
    p = many(15, seed=4)
    p["variance_profile"] = None  # the single-order API reckons risk by the clock
    grid = MIXED.model_copy(update={"permanent": permanent})
    by_id = {r["market_id"]: r for r in p.to_dict("records")}
    exact = 0
    for row in precompute(p, grid, AS_OF).to_dict("records"):
        of = by_id[row["market_id"]]
        alone = single(row, of, grid)
        m = of["contract_multiplier"]
        of_level = row["strategy"] in BY_LEVEL
        with_hours = row["strategy"] in ("vwap", "almgren_chriss_volume_time")
        assert row["cost_profile"] == ("volume" if with_hours and of["volume_profile"] is not None else "clock")
        given = not of_level or grid.risk_levels[row["risk_ix"]].kind == "lambda"
        if given and not with_hours:
            np.testing.assert_array_equal(row["remaining"], alone.holdings)
            exact += 1
        else:
            scale = alone.holdings[0] * 1e-13  # the oracle adds up 90,000 bits of a second
            np.testing.assert_allclose(row["remaining"], alone.holdings, rtol=1e-10, atol=scale)
        rtol = 2e-15 if given and not with_hours else 1e-12
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
        if of_level:
            assert row["kappa"] == pytest.approx(alone.params["kappa"], rel=1e-13, abs=0)
            assert row["urgency"] == pytest.approx(alone.params["urgency"], rel=1e-13, abs=0)
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
        assert list(row["remaining"]) == [x, *[0.0] * 10]
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
    rounded = ["expected_cost", "cost_variance", "expected_cost_bps", "cost_sd_bps", "buy_price", "sell_price"]
    assert_same_rows(at_zero, twap, but=["strategy", "risk_ix", *rounded])
    for name in rounded:
        np.testing.assert_allclose(at_zero[name], twap[name], rtol=1e-15)


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


# --- the end of a market ------------------------------------------------------------------------------------


def by_horizon(resolution: str | None, calendar: str = "24/7", buffer: float = 60.0) -> list[tuple[float, str]]:
    """Horizon and status of each of two horizons, 1 and 0.5 trading days, that begin after Tuesday 5 March."""
    grid = Grid(horizons=(1.0, 0.5), n_steps=2, resolution_buffer_minutes=buffer)
    out = precompute(parameters(market(resolution_time=resolution, calendar=calendar)), grid, AS_OF)
    for name, values in (("horizon", 1), ("status", 1)):
        assert (out.groupby("horizon_ix")[name].nunique() == values).all()
    assert (out["horizon_asked"] == np.array([1.0, 0.5])[out["horizon_ix"]]).all()
    rows = out.drop_duplicates("horizon_ix").sort_values("horizon_ix")
    return [*rows[["horizon", "status"]].itertuples(index=False, name=None)]


def test_horizon_ends_the_buffer_before_a_resolution_and_the_row_says_so() -> None:
    """Around the clock the day begins with the 6th; in New York at 14:30 UTC and lasts six hours and a half."""
    whole = [(1.0, "ok"), (0.5, "ok")]
    assert by_horizon(None) == whole
    assert by_horizon("2024-03-07T01:00Z") == whole
    assert by_horizon("2024-03-06T19:00Z") == [(0.75, "ok"), (0.5, "ok")]
    assert by_horizon("2024-03-06T19:00Z", buffer=7 * 60) == [(0.5, "ok"), (0.5, "ok")]
    assert by_horizon("2024-03-06T07:00Z") == [(0.25, "ok"), (0.25, "ok")]
    assert by_horizon("2024-03-06T22:00Z", "XNYS") == whole
    assert by_horizon("2024-03-06T19:45Z", "XNYS", buffer=0.0) == [(5.25 / 6.5, "ok"), (0.5, "ok")]
    assert by_horizon("2024-03-06T01:00Z") == [(0.0, "infeasible"), (0.0, "infeasible")]
    assert by_horizon("2024-03-06T15:30Z", "XNYS") == [(0.0, "infeasible"), (0.0, "infeasible")]


def test_where_nothing_is_left_of_the_horizon_the_rows_stay_without_a_number() -> None:
    out = precompute(parameters(market(resolution_time="2024-03-06T00:30Z", epsilon=60.0)), Grid(), AS_OF)
    assert len(out) == 13 * 6
    assert set(out["status"]) == {"infeasible"}  # goes before price_out_of_range
    assert out[["remaining", "expected_cost", "risk_aversion", "buy_price", "half_life"]].isna().all(axis=None)
    assert (out["order_size"] > 0).all()


def test_shortened_schedule_is_that_of_the_shorter_horizon() -> None:
    """A market cut to a quarter of a day among others, and one asked for a quarter: the same, to the last bit."""
    row = market(volume_profile=np.arange(24.0) / 276, variance_profile=np.ones(24) / 24)
    cut = precompute(parameters({**row, "resolution_time": "2024-03-06T07:00Z"}, market("N")), Grid(), AS_OF)
    short = precompute(parameters(row), Grid(horizons=(0.25,)), AS_OF)
    assert_same_rows(cut[cut["market_id"] == "M"].reset_index(drop=True), short, but=["horizon_asked"])


def test_schedule_of_several_days_goes_by_each_days_own_hours() -> None:
    """VWAP's slices are the shares: of the weekdays' profiles where they are used, else the same every day."""
    rng = np.random.default_rng(11)
    week = rng.exponential(size=168)
    first = AS_OF + timedelta(days=1)
    days = [week[24 * d : 24 * d + 24] for d in (first.weekday(), (first + timedelta(days=1)).weekday())]
    every_day = market("DAY", volume_profile=days[0], variance_profile=days[1])
    weekly = every_day | {"market_id": "WEEK", "volume_profile_week": week, "variance_profile_week": None}
    p = parameters(every_day | {"volume_profile_week": None, "variance_profile_week": None}, weekly)
    out = precompute(p, Grid(horizons=(2.0,), n_steps=48), AS_OF).set_index(["market_id", "strategy"])
    for name, hours in (("DAY", [days[0], days[0]]), ("WEEK", days)):
        shares = np.concatenate([of / of.sum() for of in hours]) / 2
        held = np.stack(out.loc[(name, "vwap"), "remaining"].to_list())
        traded = -np.diff(held, axis=1) / held[:, :1]
        np.testing.assert_allclose(traded, np.broadcast_to(shares, traded.shape), rtol=1e-11)
    alone = precompute(parameters(every_day), Grid(horizons=(2.0,), n_steps=48), AS_OF)
    assert_same_rows(out.loc[["DAY"]].reset_index()[alone.columns], alone)


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


# --- the hours of the day -----------------------------------------------------------------------------------


def test_no_schedule_costs_less_than_the_optimum_of_its_own_problem() -> None:
    """By the clock TWAP and the market order against Almgren-Chriss, with the hours VWAP against volume time."""
    p = many()
    for law in ("linear", "power"):
        out = precompute(p, Grid(n_steps=12, impact_law=law), AS_OF)
        assert set(out["status"]) <= {"ok", "price_out_of_range"}
        key = ["market_id", "size_ix"]
        for best, others in (("almgren_chriss", ("twap", "market_order")), ("almgren_chriss_volume_time", ("vwap",))):
            optimum = out[out["strategy"] == best]
            for other in others:
                pairs = optimum.merge(out[out["strategy"] == other], on=key, suffixes=("", "_other"))
                assert (pairs["cost_profile"] == pairs["cost_profile_other"]).sum() >= len(pairs) * (other != "vwap")
                assert len(pairs) == len(optimum)
                lam = pairs["risk_aversion"]
                objective = pairs["expected_cost"] + lam * pairs["cost_variance"]
                than = pairs["expected_cost_other"] + lam * pairs["cost_variance_other"]
                assert (objective <= than * (1 + 1e-12)).all(), (law, best, other)
                assert (objective < than * (1 - 1e-3)).any()


def test_published_rows_cost_what_any_schedule_costs_on_their_problem() -> None:
    """E and V of each row from its `remaining`, by the sums of the model and not by the package's function."""
    p = many(12, seed=9)
    by_id = {r["market_id"]: r for r in p.to_dict("records")}
    for row in precompute(p, Grid(n_steps=24, order_sizes_pct_adv=(1.0,)), AS_OF).to_dict("records"):
        of, n = by_id[row["market_id"]], row["n_steps"]
        held = np.asarray(row["remaining"])
        traded, tau = -np.diff(held), row["horizon"] / n
        known = row["cost_profile"] == "volume"
        w, u = (
            weights(of[name] if known else None, of["calendar"], row["horizon"], n)
            for name in ("volume_profile", "variance_profile")
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            temporary = np.where(w > 0, row["eta_tilde"] / tau / (n * w) * traded**2, 0.0).sum()
        assert traded[w == 0].sum() <= 1e-15 * held[0]  # a difference of what is held
        cost = of["gamma"] * held[0] ** 2 / 2 + of["epsilon"] * held[0] + temporary
        variance = of["sigma"] ** 2 * tau * (n * u * held[1:] ** 2).sum()
        m = of["contract_multiplier"]
        assert row["expected_cost"] == pytest.approx(cost * m, rel=1e-10)
        assert row["cost_variance"] == pytest.approx(variance * m**2, rel=1e-10)


def test_without_known_hours_volume_time_is_almgren_chriss_and_vwap_is_twap() -> None:
    out = precompute(parameters(market()), Grid(), AS_OF)
    assert set(out["cost_profile"]) == {"clock"}
    for one, other in (("almgren_chriss_volume_time", "almgren_chriss"), ("vwap", "twap")):
        a, b = (out[out["strategy"] == name] for name in (one, other))
        np.testing.assert_allclose(np.stack(a["remaining"]), np.stack(b["remaining"]), rtol=1e-12)
        np.testing.assert_allclose(a["expected_cost"], b["expected_cost"], rtol=1e-13)
        np.testing.assert_allclose(a["cost_variance"], b["cost_variance"], rtol=1e-12)


# --- law and caps -------------------------------------------------------------------------------------------


def test_convention_is_the_laws_own_unless_it_is_chosen() -> None:
    for law, permanent, expected in (
        ("linear", "by_law", "paper"),
        ("power", "by_law", "midprice"),
        ("linear", "midprice", "midprice"),
        ("power", "paper", "paper"),
    ):
        out = precompute(parameters(market()), Grid(impact_law=law, permanent=permanent, n_steps=3), AS_OF)
        assert set(out["permanent"]) == {expected}
        assert set(out["impact_law"]) == {law}


def test_power_law_rows_are_those_of_the_single_order_api() -> None:
    """With the exponent of the settings, or of the parameters where they hold one; it meets the linear law at 1 %."""
    p = parameters(market("a"), market("b", sigma=3.0))
    p["alpha"] = [np.nan, 0.7]
    out = precompute(p, Grid(impact_law="power", alpha=0.6, n_steps=12, order_sizes_pct_adv=(2.0,)), AS_OF)
    for row in out[out["strategy"] == "almgren_chriss"].to_dict("records"):
        of = p.set_index("market_id").loc[row["market_id"]]
        alpha = {"a": 0.6, "b": 0.7}[row["market_id"]]
        assert row["alpha"] == alpha
        assert np.isnan(row["eta_tilde"])
        params = AlmgrenChrissParams(
            **{n: of[n] for n in ("eta", "gamma", "sigma", "epsilon", "price")}, alpha=alpha, tau=1 / 12,
            reference_rate=0.01 * of["adv"],
        )  # fmt: skip
        t = generate_ac_trajectory(2000.0, 12, params, row["risk_aversion"], impact_law="power")
        np.testing.assert_allclose(row["remaining"], t.holdings, rtol=1e-11)
        assert row["expected_cost"] == pytest.approx(t.params["expected_cost"], rel=1e-12)


def test_power_law_beyond_its_convexity_has_no_optimum_and_baselines_say_so_too() -> None:
    """Everything at once looked a thousand times cheaper than TWAP, and was `ok`."""
    steep, gentle = market("a", gamma=1.0), market("b", gamma=1e-12)
    out = precompute(parameters(steep, gentle), Grid(impact_law="power", permanent="paper", n_steps=4), AS_OF)
    optimal, a = out["strategy"].isin(BY_LEVEL), out["market_id"] == "a"
    assert set(out.loc[a, "status"]) == {"beyond_convexity"}
    assert out.loc[optimal & a, ["expected_cost", "remaining"]].isna().all(axis=None)
    assert out.loc[~optimal, "expected_cost"].notna().all()
    assert set(out.loc[~a, "status"]) == {"ok"}


def test_a_slice_that_would_be_sold_below_nothing_is_flagged_though_the_average_is_not() -> None:
    """Dearest slices by hand: ε + γ (what was traded before) + (η/τ) n_j, which is the paper's cost of a slice."""
    n, p = 8, market("P", kind="probability", price=0.5, tick_size=0.01)
    grid, flagged = Grid(n_steps=n, order_sizes_pct_adv=(0.01, 1.0, 5.0, 20.0, 100.0)), set()
    for scale in (0.01, 0.1, 1.0, 10.0):
        row = p | {"eta": scale * 1e-5, "gamma": scale * 1e-6, "epsilon": 0.001}
        out = precompute(parameters(row), grid, AS_OF)
        for of in out[out["strategy"].isin(["almgren_chriss", "twap", "market_order"])].to_dict("records"):
            held = np.array(of["remaining"])
            traded, before = -np.diff(held), of["order_size"] - held[:-1]
            cost = row["epsilon"] + row["gamma"] * before + row["eta"] / (of["horizon"] / n) * traded
            dearest = cost[traded > 0].max()
            beyond = dearest > 0.5 - 0.01 * (1 - 1e-9)
            assert (of["status"] == "ok") == (not beyond and of["sell_price"] > 0), (scale, of["strategy"])
            flagged.add((beyond, of["sell_price"] > 0))
    assert {(True, True), (False, True), (True, False)} <= flagged


def test_baselines_that_break_the_caps_say_so() -> None:
    """A trader who may do a tenth of the volume must not find TWAP `ok` at a fifth of it."""
    grid = Grid(n_steps=24, order_sizes_pct_adv=(1.0, 9.0, 11.0), max_participation=0.10)
    p = many().assign(price=1e6)  # that none leaves its range, which would be said first
    out = precompute(p, grid, AS_OF).set_index("market_id")
    volume = p.set_index("market_id")
    seen = set()
    for strategy in ("market_order", "twap", "vwap"):
        for market_id, row in out[out["strategy"] == strategy].iterrows():
            slices, of = -np.diff(row["remaining"]), volume.loc[market_id]
            by_volume = row["cost_profile"] == "volume" or of["volume_profile"] is not None
            w = weights(of["volume_profile"] if by_volume else None, of["calendar"], row["horizon"], grid.n_steps)
            caps = 0.1 * of["adv"] * w
            broken = bool((slices > caps * (1 + 1e-9)).any())
            kept = bool((slices <= caps * (1 - 1e-9)).all())
            seen.add((strategy, broken))
            assert not (broken and row["status"] != "over_cap"), (strategy, market_id)
            assert not (kept and row["status"] == "over_cap"), (strategy, market_id)
    assert ("market_order", True) in seen
    assert {("twap", True), ("vwap", True), ("vwap", False)} <= seen
    half = precompute(p, Grid(n_steps=4, max_slice=0.3), AS_OF)
    assert set(half.loc[half["strategy"] == "market_order", "status"]) == {"over_cap"}
    assert set(half.loc[half["strategy"] == "twap", "status"]) == {"ok"}


def test_a_price_below_nothing_is_said_before_a_cap_that_is_broken() -> None:
    """A market order sold at -480 was `over_cap`, as if no more than a limit were wrong with it."""
    grid = Grid(n_steps=4, order_sizes_pct_adv=(0.1, 10.0), max_participation=0.05)
    out = precompute(parameters(market("P", kind="probability", price=0.5, eta=0.001, gamma=1e-9)), grid, AS_OF)
    at_once = out[out["strategy"] == "market_order"].set_index("adv_fraction")
    assert at_once["sell_price"].loc[0.1] < 0
    assert at_once["status"].loc[0.1] == "price_out_of_range"
    cheap = precompute(parameters(market("P", kind="probability", price=0.5, eta=1e-9, gamma=1e-9)), grid, AS_OF)
    assert cheap.set_index(["strategy", "adv_fraction"])["status"].loc[("market_order", 0.1)] == "over_cap"


def test_search_that_does_not_end_is_no_infeasible_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row says what is to blame: a trader would look for a cap in vain. No problem is known that needs 200 sweeps."""
    grid = Grid(n_steps=12, order_sizes_pct_adv=(1.0, 10.0, 20.0), max_participation=0.15)
    whole = precompute(parameters(market()), grid, AS_OF).set_index(KEYS)
    monkeypatch.setattr(night, "solve", partial(night.solve, most_sweeps=2))
    out = precompute(parameters(market()), grid, AS_OF).set_index(KEYS)
    lost = out["status"] == "not_converged"
    assert set(whole["status"]) == {"ok", "infeasible", "over_cap"}
    assert lost.any()
    assert set(out.index[lost].get_level_values("strategy")) == {"almgren_chriss_capped"}
    assert (whole.loc[lost, "status"] == "ok").all()
    assert out.loc[lost, ["expected_cost", "cost_variance", "remaining"]].isna().all(axis=None)
    pd.testing.assert_frame_equal(out[~lost], whole[~lost])
    assert set(out["status"]) <= set(schema.TRAJECTORY_STATUSES)


def test_capped_schedule_keeps_its_share_of_the_volume_expected_in_each_slice() -> None:
    p = many()
    grid = Grid(n_steps=24, order_sizes_pct_adv=(1.0, 9.0, 11.0), max_participation=0.10)
    out, free = precompute(p, grid, AS_OF), precompute(p, grid.model_copy(update={"max_participation": None}), AS_OF)
    assert set(out["strategy"]) == {"almgren_chriss_capped", "market_order", "twap", "vwap"}
    by_id = {r["market_id"]: r for r in p.to_dict("records")}
    capped = out[out["strategy"] == "almgren_chriss_capped"]
    bound = 0
    for row in capped.to_dict("records"):
        of = by_id[row["market_id"]]
        assert row["max_participation"] == 0.10
        if row["size_ix"] == 2:  # 11 % of a day's volume at 10 % of it
            assert row["status"] == "infeasible"
            assert pd.isna(row["expected_cost"])
            assert row["remaining"] is None
            continue
        assert row["status"] in ("ok", "price_out_of_range")
        w = weights(of["volume_profile"], of["calendar"], 1.0, 24)
        most, traded = 0.10 * of["adv"] * w, -np.diff(row["remaining"])
        assert (traded <= most * (1 + 1e-9) + 1e-13 * row["order_size"]).all()
        bound += bool((traded > most * (1 - 1e-9))[w > 0].any())
    assert bound > 100
    best = free[free["strategy"] == "almgren_chriss_volume_time"]
    pairs = capped.merge(best, on=["market_id", "size_ix", "risk_ix"], suffixes=("", "_free")).dropna(
        subset=["expected_cost"]
    )
    lam = pairs["risk_aversion"]
    cost, least = (pairs[f"expected_cost{s}"] + lam * pairs[f"cost_variance{s}"] for s in ("", "_free"))
    assert (cost >= least * (1 - 1e-12)).all()
    assert out.loc[out["strategy"].isin(BASELINES), "max_participation"].isna().all()


def test_largest_slice_is_a_share_of_the_order() -> None:
    out = precompute(parameters(market()), Grid(n_steps=12, max_slice=0.2), AS_OF)
    capped = out[out["strategy"] == "almgren_chriss_capped"]
    largest = np.array([(-np.diff(r)).max() / r[0] for r in capped["remaining"]])
    assert largest.max() == pytest.approx(0.2, rel=1e-15)
    assert set(capped["max_slice"]) == {0.2}
    assert set(capped["status"]) == {"ok"}
    out = precompute(parameters(market()), Grid(n_steps=4, max_slice=0.2), AS_OF)
    assert set(out.loc[out["strategy"] == "almgren_chriss_capped", "status"]) == {"infeasible"}
