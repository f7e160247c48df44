"""Own executions on their way into the parameters: whose fee, which market's units, which token's row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from evidence_made import evidence
from test_rule import END, SOUND

from tributary_opt.calibration.own_executions import FAR_OUT, REFUSED, UNKNOWN, decided_before, left_out
from tributary_opt.calibration.parameters import Measured, calibrate
from tributary_opt.market_data.markets import ReferenceData
from tributary_opt.settings import CalibrationRules

LAW = CalibrationRules()
TOKEN = {"kind": "probability", "price": 0.4, "last_trade_price": 0.4, "mean_mid": 0.4, "spread": 0.01, "sigma": 0.02}


def orders(n: int = 300, market: str = "M0", token: str = "t", price: float = 50.0, sigma: float = 1.0) -> pd.DataFrame:
    """Orders of 0.1 to 10 % of a volume of 1e5 with b = 0.142, β = 0.6 and g = 0.314, as their fills say."""
    rng = np.random.default_rng(3)
    x, duration, side = 10 ** rng.uniform(-3, -1, n), rng.uniform(0.1, 1.0, n), rng.choice([-1.0, 1.0], n)
    noise = 0.1 * rng.normal(size=n) * np.sqrt(duration / 3)
    half = 0.005 if sigma < 1 else 0.01
    cost = half + sigma * (0.157 * x + 0.142 * (x / duration) ** 0.6 + noise)
    return pd.DataFrame(
        {"market_id": market, "token_id": token, "side": np.where(side > 0, "buy", "sell"), "size": 1e5 * x}
        | {"arrival_price": price, "average_price": price + side * cost, "duration": duration}
    )


def calibrated(markets: list[dict[str, Any]], executions: pd.DataFrame | None) -> pd.DataFrame:
    reference_only = ("kind", "taker_fee", "fee_kind", "tick_size")
    rows = [{**SOUND, "market_id": f"M{i}", **change} for i, change in enumerate(markets)]
    frame = pd.DataFrame(rows).drop(columns=[c for c in reference_only if c in {k for m in markets for k in m}])
    given = [{"market_id": r["market_id"], "token_id": r["token_id"], "kind": "price"} for r in rows]
    given = [g | {k: m[k] for k in reference_only if k in m} for g, m in zip(given, markets, strict=True)]
    end = pd.Series([END] * len(frame))
    tape = evidence(len(frame), flow_rms=np.full(len(frame), 1e6))
    return calibrate(
        Measured(frame, ReferenceData(pd.DataFrame(given)).of(frame), end, tape), LAW, executions=executions
    )


def test_law_does_not_depend_on_a_fee_that_no_fill_contains() -> None:
    free, fee = (calibrated([{"taker_fee": rate}], orders()).iloc[0] for rate in (0.0, 0.001))
    assert fee["epsilon"] == pytest.approx(free["epsilon"] + 0.05)
    assert fee["law_b"] == free["law_b"]
    assert free["law_b"] == pytest.approx(0.142, rel=0.1)


def test_orders_of_a_refused_market_count_only_with_units_of_their_own() -> None:
    markets = [{}, {"n_trades": 3}]
    of_refused = orders(market="M1")
    of_refused["average_price"] += np.where(of_refused["side"] == "buy", 1.0, -1.0)
    without = calibrated(markets, None)
    assert without["status"].tolist() == ["ok", "refused"]
    for given in ({"adv": 1e5}, {"adv": 1e5, "sigma": 1.0}, {"adv": 1e5, "epsilon": 0.01}):
        table = of_refused.assign(**given)
        found = calibrated(markets, table)
        pd.testing.assert_frame_equal(found, without)
        assert set(left_out(table, found)["reason"]) == {REFUSED}
    whole = of_refused.assign(adv=1e5, sigma=1.0, epsilon=0.01)
    found = calibrated(markets, whole)
    assert found.loc[0, "law_b"] > 1.5 * without.loc[0, "law_b"]
    assert not len(left_out(whole, found))


def test_orders_that_moved_no_law_are_named_with_the_reason() -> None:
    table = pd.concat([orders(), orders(2, market="elsewhere"), orders(1, token="other")], ignore_index=True)
    table.loc[5, "arrival_price"] *= 100.0
    found = calibrated([{}], table)
    assert found.loc[0, "own_orders"] == 299
    counts = left_out(table, found)["reason"].value_counts().to_dict()
    assert counts == {UNKNOWN: 3, FAR_OUT: 1}


@pytest.mark.parametrize("traded", ["a:no", "b:yes", None])
def test_two_folded_tokens_keep_one_law_when_orders_name_one_of_them(traded: str | None) -> None:
    pair = [
        {**TOKEN, "market_id": "P", "token_id": "a:no", "folded_with": "b:yes"},
        {**TOKEN, "market_id": "P", "token_id": "b:yes", "folded_with": "a:no", "price": 0.6},
    ]
    price = 0.6 if traded == "b:yes" else 0.4
    without = calibrated([*pair, {}], None)
    found = calibrated([*pair, {}], orders(market="P", price=price, sigma=0.02).assign(token_id=traded))
    assert found["own_orders"].tolist() == [300, 300, 0]
    assert found["strength"].tolist()[:2] == ["own_executions"] * 2
    for name in ("eta", "gamma", "law_b", "law_b_sd", "alpha", "alpha_se", "law_permanent", "law_permanent_sd"):
        assert found.loc[0, name] == found.loc[1, name], name
    assert found.loc[0, "law_b_sd"] < 0.7 * without.loc[0, "law_b_sd"]
    # One market's orders, not two markets' that agree: the level is no surer for it.
    alone = calibrated([{**pair[0], "folded_with": None}, {}], orders(market="P", token="a:no", price=0.4, sigma=0.02))
    assert found.loc[2, "law_b_sd"] == pytest.approx(alone.loc[1, "law_b_sd"], rel=1e-9)


def test_file_with_the_time_of_decision_has_no_order_of_a_later_day() -> None:
    table = orders(3).assign(decided_at=["2024-03-05T23:59:59Z", "2024-03-06T00:00:00Z", "2024-03-05 10:00:00+05:00"])
    assert decided_before(table, END.to_pydatetime())["size"].tolist() == table["size"].tolist()[::2]
    naive = table.assign(decided_at=["2024-03-05 23:59:59", "2024-03-06 00:00:00", "2024-03-05 10:00:00"])
    assert len(decided_before(naive, END.to_pydatetime())) == 2
    assert len(decided_before(orders(3), END.to_pydatetime())) == 3
    with pytest.raises(ValueError, match="decided_at must be a time; row 2 of 3"):
        decided_before(table.assign(decided_at=[table.loc[0, "decided_at"], None, None]), END.to_pydatetime())
