"""The 1 % / 10 % rule over many markets, and each reason for a refusal by a market made for it."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from evidence_made import evidence
from tick_tables import assert_same_rows

from tributary_opt import schema
from tributary_opt.calibration.parameters import Measured, calibrate
from tributary_opt.market_data.markets import ReferenceData
from tributary_opt.optimization.almgren_chriss import calibrate_ac_params
from tributary_opt.settings import CalibrationRules

AS_OF = pd.Timestamp("2024-03-05", tz="UTC")
END = pd.Timestamp("2024-03-06", tz="UTC")
RULES = CalibrationRules(method="rule")

SOUND: dict[str, Any] = {
    "market_id": "M",
    "token_id": "t",
    "folded_with": None,
    "calendar": "24/7",
    "day_hours": 24.0,
    "window_start": AS_OF,
    "window_end": AS_OF,
    "n_days": 30,
    "n_days_traded": 30,
    "n_days_quoted": 30,
    "days_since_newest": 0,
    "mid_age": 0.0,
    "n_trades": 1000,
    "n_bad_trades": 0,
    "n_snapshots": 5000,
    "two_sided_share": 1.0,
    "one_sided_share": 0.0,
    "crossed_share": 0.0,
    "empty_share": 0.0,
    "signed_share": 1.0,
    "side_method": "given",
    "inferred_share": 0.0,
    "sides_compared": 900,
    "sides_contradicted": 0.0,
    "sides_compared_alike": 900.0,
    "quote_rule_share": 0.0,
    "fresh_rule_share": 0.0,
    "tick_rule_share": 0.0,
    "coverage": 1.0,
    "active_hours": 500,
    "last_trade_at": AS_OF,
    "last_snapshot_at": AS_OF,
    "adv": 1e5,
    "adv_se": 1e3,
    "price": 50.0,
    "price_source": "mid",
    "last_trade_price": 50.0,
    "spread": 0.02,
    "spread_se": 0.001,
    "spread_source": "time_weighted_quoted",
    "n_days_spread": 30,
    "quoted_spread": 0.02,
    "effective_spread": 0.018,
    "edge_spread": np.nan,
    "roll_spread": 0.017,
    "mean_spread": 0.02,
    "mean_mid": 50.0,
    "sigma": 1.0,
    "sigma_se": 0.01,
    "sigma_source": "realised_mid",
    "sigma_covered": 1.0,
    "sigma_two_scale": 1.0,
    "sigma_bipower": 1.0,
    "sigma_prior": np.nan,
    "sigma_prior_weight": 0.0,
    "sigma_ceiling": np.nan,
    "sigma_parkinson": 1.0,
    "sigma_garman_klass": 1.0,
    "sigma_rogers_satchell": 1.0,
    "sigma_close_to_close": 1.0,
    "walk_size": 20.0,
    "walk_share": 1.0,
    "walk_cost": 0.015,
    "walk_half_spreads": 1.5,
    "walk_reason": None,
    "bucket_size_squared": 1e4,
    "compared_size": 28.8,  # 347 contracts in five minutes
    "trades_per_bar": 30.0,
    "overnight_sd": 0.5,
    "volume_profile": None,
    "volume_profile_used": None,
    "volume_profile_error": np.nan,
    "volume_profile_week": None,
    "variance_profile_used": None,
    "variance_profile_error": np.nan,
    "variance_profile_week": None,
    "source_jump": None,
    "variance_profile": None,
}
YES = {"price": 0.4, "spread": 0.01, "sigma": 0.02, "kind": "probability"}


def calibrated(*changes: dict[str, Any], rules: CalibrationRules = RULES) -> pd.DataFrame:
    """One row a market: a sound one with these changes to its statistics or reference data."""
    of_reference = (
        "kind",
        "tick_size",
        "taker_fee",
        "fee_kind",
        "contract_multiplier",
        "inverse",
        "resolution_time",
        "calendar",
    )
    statistics, markets = [], []
    for i, change in enumerate(changes):
        name = f"M{i:03d}"
        statistics.append({**SOUND, "market_id": name, **{k: v for k, v in change.items() if k in SOUND}})
        markets.append(
            {"market_id": name, "token_id": "t", "kind": "price", **{k: change[k] for k in of_reference if k in change}}
        )
        assert set(change) <= {*SOUND, *of_reference}
    frame = pd.DataFrame(statistics)
    reference = ReferenceData(pd.DataFrame(markets)).of(frame)
    end = pd.Series([END] * len(frame))
    return calibrate(Measured(frame, reference, end, evidence(len(frame))), rules)


def verdicts(*changes: dict[str, Any], rules: CalibrationRules = RULES) -> list[str]:
    """The reason of each market, or ok."""
    out = calibrated(*changes, rules=rules)
    return [row["status"] if row["status"] == "ok" else row["reason"] for row in out.to_dict("records")]


# --- the numbers --------------------------------------------------------------------------------------------


def test_sound_market_gets_the_rules_parameters() -> None:
    (row,) = calibrated({}).to_dict("records")
    assert (row["status"], row["reason"], row["detail"]) == ("ok", None, None)
    assert row["eta"] == 0.02 / (0.01 * 1e5)
    assert row["gamma"] == 0.02 / (0.10 * 1e5)
    assert row["epsilon"] == 0.01
    assert row["reference_rate"] == 1e3
    assert (row["sigma"], row["price"], row["adv"]) == (1.0, 50.0, 1e5)
    assert (row["method"], row["spread_source"], row["sigma_source"]) == (
        "rule",
        "time_weighted_quoted",
        "realised_mid",
    )
    assert (row["kind"], row["reference_source"]) == ("price", "markets")


def test_columns_are_those_of_the_table() -> None:
    assert list(calibrated({}).columns) == [n for n in schema.PARAMETERS.names if n not in ("as_of", "run_id")]


def test_fee_of_a_prediction_venue_is_the_same_for_both_tokens() -> None:
    """Kalshi's 0.07 p (1 - p): 1.75 cents at even odds; and as much at 0.3 as at 0.7."""
    fee = {**YES, "taker_fee": 0.07, "fee_kind": "probability", "spread": 0.01}
    found = [calibrated({**fee, "price": price})["epsilon"].item() for price in (0.5, 0.3, 0.7)]
    assert found == pytest.approx([0.005 + 0.0175, 0.005 + 0.0147, 0.005 + 0.0147], rel=1e-14)


def test_taker_fee_is_paid_by_every_contract() -> None:
    assert calibrated({"taker_fee": 0.001})["epsilon"].item() == 0.01 + 0.001 * 50.0


def test_every_market_agrees_with_the_single_order_calibration() -> None:
    rng = np.random.default_rng(3)
    draws = [
        {
            "adv": 10 ** rng.uniform(0, 9),
            "spread": 10 ** rng.uniform(-4, 0),
            "sigma": 10 ** rng.uniform(-3, 1),
            "price": 10 ** rng.uniform(1, 4),
        }
        for _ in range(50)
    ]
    rows = calibrated(*draws)
    assert (rows["status"] == "ok").all()
    for row, draw in zip(rows.to_dict("records"), draws, strict=True):
        single = calibrate_ac_params(draw["adv"], draw["spread"], draw["sigma"] / draw["price"], draw["price"])
        assert (row["eta"], row["gamma"], row["epsilon"]) == (single.eta, single.gamma, single.epsilon)
        assert row["reference_rate"] == single.reference_rate
        assert row["sigma_measured"] == pytest.approx(single.sigma, rel=4e-16)


def test_market_alone_has_the_same_row_to_the_last_bit() -> None:
    changes = [{}, YES, {"n_trades": 3}, {"inverse": True}, {"taker_fee": 0.01}, {"price": math.nan}]
    together = calibrated(*changes)
    for i, change in enumerate(changes):
        alone = calibrated(change).assign(market_id=f"M{i:03d}")
        assert_same_rows(alone, together.iloc[[i]].reset_index(drop=True))
    backwards = calibrated(*changes[::-1])
    columns = [c for c in together.columns if c not in ("market_id", "volume_profile", "variance_profile")]
    assert_same_rows(backwards.iloc[::-1].reset_index(drop=True)[columns], together[columns])


def test_price_in_cents_and_size_in_lots_of_a_hundred_scale_the_parameters() -> None:
    cents = {k: SOUND[k] * 100 for k in ("price", "spread", "sigma")}
    base, in_cents, in_lots = calibrated({}, cents, {"adv": SOUND["adv"] / 100}).to_dict("records")
    for name, price_power, size_power in (
        ("eta", 1, -1),
        ("gamma", 1, -1),
        ("epsilon", 1, 0),
        ("sigma", 1, 0),
        ("reference_rate", 0, 1),
    ):
        assert in_cents[name] == pytest.approx(base[name] * 100**price_power, rel=1e-15)
        assert in_lots[name] == pytest.approx(base[name] / 100**size_power, rel=1e-15)


def test_no_market_gives_no_row() -> None:
    empty = pd.DataFrame({k: pd.Series([v]) for k, v in SOUND.items()}).iloc[:0]
    end = pd.Series([], dtype="datetime64[us, UTC]")
    out = calibrate(Measured(empty, ReferenceData().of(empty), end, evidence(0)), RULES)
    assert len(out) == 0


# --- the refusals -------------------------------------------------------------------------------------------

SUSPICION = "size_unit_suspected on 2024-03-05: price x1, trade size x100"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unsupported_contract": ({"inverse": True}, "inverse contract"),
    "resolved": ({"resolution_time": END}, "resolution_time 2024-03-06 00:00:00+00:00 is not after the last day used"),
    "bad_source_rows": ({"n_trades": 94, "n_bad_trades": 6}, "6 of 100 trades have no usable price or size"),
    "no_trades": ({"n_trades": 0}, "no trade in 30 trading days"),
    "stale": ({"days_since_newest": 3}, "newest row 3 trading days before as_of, more than 2"),
    "units_in_doubt": (
        {"source_jump": SUSPICION},
        f"{SUSPICION}; the next day with trades tells which unit volume is in",
    ),
    "too_few_trades": ({"n_trades": 29}, "29 trades, fewer than 30"),
    "too_few_hours": ({"active_hours": 19}, "trades in 19 clock hours, fewer than 20"),
    "no_two_sided_book": ({"price": math.nan, "spread": math.nan}, "of 5000 looks at the book none had both sides"),
    "price_at_bound": ({**YES, "price": 0.98}, "price 0.98 is within 2 ticks of 0.01 of its bound"),
    "wide_spread": ({"spread": 10.01}, "spread 10.01 is more than 0.2 of 50"),
    "no_volatility": ({"sigma": 0.0}, "no move of mids, nor of trades behind their bounce, in 30 days with a book"),
}


def test_every_reason_of_the_list_has_a_market_made_for_it() -> None:
    assert tuple(REFUSED) == schema.PARAMETER_REASONS


@pytest.mark.parametrize("reason", REFUSED)
def test_refusal_names_its_reason_value_and_threshold_and_has_no_parameters(reason: str) -> None:
    change, words = REFUSED[reason]
    (row,) = calibrated(change).to_dict("records")
    assert (row["status"], row["reason"]) == ("refused", reason)
    assert words in row["detail"]
    for name in ("eta", "gamma", "epsilon", "reference_rate"):
        assert np.isnan(row[name])
    assert row["method"] is None
    assert row["adv"] == SOUND["adv"]  # the evidence stays


ALL_AT_ONCE: dict[str, Any] = {
    "inverse": True, "resolution_time": END, "n_trades": 0, "n_bad_trades": 6, "days_since_newest": 9,
    "active_hours": 0, "price": math.nan, "spread": math.nan, "sigma": math.nan, "kind": "probability",
    "source_jump": f"{SUSPICION}; tick_change on 2024-03-01: tick 0.1 to 0.01",
}  # fmt: skip
REMEDIES: list[tuple[str, dict[str, Any]]] = [
    ("unsupported_contract", {"inverse": False}),
    ("resolved", {"resolution_time": None}),
    ("bad_source_rows", {"n_bad_trades": 0}),
    ("no_trades", {"n_trades": 10}),
    ("stale", {"days_since_newest": 0}),
    ("units_in_doubt", {"source_jump": "size_unit_change on 2024-03-05: price x1, trade size x100"}),
    ("too_few_trades", {"n_trades": 100}),
    ("too_few_hours", {"active_hours": 100}),
    ("no_two_sided_book", {"price": 0.99, "spread": 0.9}),
    ("price_at_bound", {"price": 0.5}),
    ("wide_spread", {"spread": 0.01}),
    ("no_volatility", {"sigma": 0.02}),
]


def test_of_several_reasons_the_first_of_the_list_stands_in_the_row() -> None:
    assert tuple(reason for reason, _ in REMEDIES) == schema.PARAMETER_REASONS
    market = dict(ALL_AT_ONCE)
    for reason, remedy in REMEDIES:
        assert verdicts(market) == [reason]
        market |= remedy
    assert verdicts(market) == ["ok"]


def test_thresholds_are_inclusive_where_they_say_so() -> None:
    def just(*pairs: tuple[dict[str, Any], str]) -> None:
        assert verdicts(*(change for change, _ in pairs)) == [expected for _, expected in pairs]

    just(({"n_trades": 30}, "ok"), ({"n_trades": 29}, "too_few_trades"))
    just(({"active_hours": 20}, "ok"), ({"active_hours": 19}, "too_few_hours"))
    just(({"days_since_newest": 2}, "ok"), ({"days_since_newest": 3}, "stale"))
    just(({"n_trades": 95, "n_bad_trades": 5}, "ok"), ({"n_trades": 94, "n_bad_trades": 6}, "bad_source_rows"))
    just(({"spread": 10.0}, "ok"), ({"spread": np.nextafter(10.0, 11)}, "wide_spread"))
    just(({**YES, "spread": 0.08}, "ok"), ({**YES, "spread": 0.081}, "wide_spread"))
    just(({**YES, "price": 0.9, "spread": 0.019}, "ok"), ({**YES, "price": 0.9, "spread": 0.021}, "wide_spread"))
    just(({"resolution_time": END + pd.Timedelta(1, "us")}, "ok"), ({"resolution_time": END}, "resolved"))
    just(({"sigma": 5e-60}, "ok"), ({"sigma": 0.0}, "no_volatility"), ({"sigma": math.nan}, "no_volatility"))


@pytest.mark.parametrize("price", [0.02, 0.98, 0.01, 0.999, 1.0 - 0.02, 1e-15, 1.0 - 1e-15, 1e-17])
def test_probability_within_two_ticks_of_a_bound_is_refused_rounding_or_not(price: float) -> None:
    assert verdicts({**YES, "price": price, "spread": 0.001}) == ["price_at_bound"]


@pytest.mark.parametrize("price", [0.0201, 0.9799, 0.5])
def test_probability_beyond_two_ticks_of_its_bounds_is_used(price: float) -> None:
    assert verdicts({**YES, "price": price, "spread": 0.001}) == ["ok"]


def test_tick_size_of_the_market_goes_before_the_default_tick() -> None:
    fine = {**YES, "price": 0.99, "spread": 0.001, "tick_size": 0.001}
    assert verdicts(fine, {**fine, "price": 0.998}) == ["ok", "price_at_bound"]
    assert verdicts({"tick_size": 25.0}, {"tick_size": 24.9}) == ["price_at_bound", "ok"]
    assert verdicts({"price": 1e-9, "spread": 1e-12, "sigma": 1e-10}) == [
        "ok"
    ]  # a price has no tick unless it is given


def test_thresholds_are_settings() -> None:
    strict = CalibrationRules(
        method="rule",
        min_trades=2000,
        min_active_hours=600,
        stale_after_days=0,
        bound_ticks=0,
        max_spread_share=0.0001,
        max_bad_share=0,
    )
    assert verdicts({}, rules=strict) == ["too_few_trades"]
    assert verdicts({"n_trades": 2000}, rules=strict) == ["too_few_hours"]
    assert verdicts({"n_trades": 2000, "active_hours": 600}, rules=strict) == ["wide_spread"]
    assert verdicts({"n_trades": 2000, "n_bad_trades": 1}, rules=strict) == ["bad_source_rows"]
    assert verdicts({"n_trades": 2000, "days_since_newest": 1}, rules=strict) == ["stale"]


def test_market_whose_impact_no_double_holds_is_refused_and_costs_no_other() -> None:
    rows = calibrated({"adv": 1e-320, "spread": 1.0}, {}).to_dict("records")
    assert (rows[0]["status"], rows[0]["reason"]) == ("refused", "bad_source_rows")
    assert rows[1]["status"] == "ok"
    assert "give impact beyond any number" in rows[0]["detail"]


def test_a_broken_feed_is_told_from_a_quiet_market() -> None:
    assert verdicts({"n_trades": 0, "n_bad_trades": 50}, {"n_trades": 0}) == ["bad_source_rows", "no_trades"]


def test_day_after_as_of_is_no_concern_of_resolution() -> None:
    later = datetime(2030, 1, 1, tzinfo=UTC)
    assert verdicts({**YES, "resolution_time": later}, {**YES, "resolution_time": None}) == ["ok", "ok"]
