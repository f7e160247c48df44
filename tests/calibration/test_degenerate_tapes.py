"""Tapes that say nothing, from ticks to rows: a grade and a reason, or a refusal, never a number that looks good."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
from tick_tables import Row, book, load, market_days, observe, stored, trade, window

from tributary_opt.calibration.impact_evidence import impact_evidence
from tributary_opt.calibration.parameters import Measured, calibrate
from tributary_opt.market_data.markets import ReferenceData
from tributary_opt.market_data.statistics import window_statistics
from tributary_opt.settings import CalibrationRules, StatisticsRules
from tributary_opt.storage.questdb import QuestDB

pytestmark = pytest.mark.questdb

DAYS = [date(2024, 3, 4), date(2024, 3, 5)]
RULES = CalibrationRules(min_active_hours=10)
N = 144  # ten-minute steps of a day: every second bucket trades, all have mids


def tape(market: str, sides: np.ndarray, sizes: np.ndarray, mids: np.ndarray) -> tuple[list[Row], list[Row]]:
    """In each 5-minute bucket one trade at the quote on its side, and a look with the bucket's mid after it."""
    trades, books = [], []
    stamps = pd.Timestamp(DAYS[0], tz="UTC") + pd.to_timedelta(5 * np.arange(len(mids)), "min")
    before = np.append(mids[0], mids[:-1])
    for at, side, size, last, mid in zip(stamps, sides, sizes, before, mids, strict=True):
        if size > 0:
            price = last + 0.05 * side
            trades.append(
                trade((at + pd.Timedelta("1min")).isoformat(), market, price, size, "buy" if side > 0 else "sell")
            )
        books.append(book((at + pd.Timedelta("2min")).isoformat(), market, mid - 0.05, mid + 0.05))
    return trades, books


def tapes() -> dict[str, tuple[list[Row], list[Row]]]:
    rng = np.random.default_rng(4)
    n = 2 * 288
    sides, sizes = rng.choice([-1.0, 1.0], n), rng.lognormal(1.0, 0.7, n).round(2)
    noise = rng.normal(0.0, 0.02, n)
    drift = 100.0 + np.cumsum(0.004 * sides * sizes + noise)
    unsteady = 100.0 + np.cumsum(0.004 * sides * sizes + 10 * noise)
    ones, once = np.ones(n), np.where(np.arange(n) == 100, 5.0, 0.0)
    return {
        "sound": tape("sound", sides, sizes, drift),
        "one trade": tape("one trade", sides, once, drift),
        "one price": tape("one price", sides, sizes, np.full(n, 100.0)),
        "all buys": tape("all buys", ones, sizes, 100.0 + np.cumsum(0.004 * sizes + noise)),
        "constant volume": tape("constant volume", sides, 5 * ones, 100.0 + np.cumsum(0.02 * sides + noise)),
        "singular": tape("singular", ones, 5 * ones, 100.0 + np.cumsum(noise)),
        "thin": tape("thin", sides, np.where(np.arange(n) % 16 == 0, sizes, 0.0), unsteady),
    }


def rows(db: QuestDB, of: dict[str, tuple[list[Row], list[Row]]]) -> Measured:
    load(db, [t for trades, _ in of.values() for t in trades], [b for _, books in of.values() for b in books])
    days = market_days(db, rules=StatisticsRules(flow_cap_pct_adv=0.0))
    observe(days, DAYS[-1], 2)
    found, of_days = stored(days, DAYS[-1], 2), window("24/7", DAYS)
    statistics = window_statistics(found, of_days)
    statistics = statistics.assign(sigma_prior=np.nan, sigma_prior_weight=0.0, sigma_ceiling=np.nan)
    end = pd.Series([pd.Timestamp("2024-03-06", tz="UTC")] * len(statistics))
    return Measured(statistics, ReferenceData(None).of(statistics), end, impact_evidence(found))


TAPE_NUMBERS = ["gamma_tape", "eta_tape", "cost_tape_bps"]


def test_each_degenerate_tape_has_its_grade_and_reason(db: QuestDB) -> None:
    found = calibrate(rows(db, tapes()), RULES).set_index("market_id")

    one = found.loc["one trade"]
    assert (one["status"], one["reason"], one["detail"]) == ("refused", "too_few_trades", "1 trades, fewer than 30")
    still = found.loc["one price"]
    assert (still["status"], still["reason"]) == ("refused", "no_volatility")
    assert found.loc[["one trade", "one price"], ["eta", "gamma", "epsilon", "model_risk"]].isna().all(axis=None)
    assert found.loc[["one trade", "one price"], "grade"].isna().all()

    sound = found.loc["sound"]
    assert sound["response"] == pytest.approx(0.004, rel=0.1)
    assert (sound["strength"], pd.isna(sound["response_reason"]), pd.isna(sound["direct_reason"])) == (
        "own_tape",
        True,
        True,
    )

    reasons = found[["response_reason", "direct_reason"]].fillna("")
    assert reasons.loc["all buys"].tolist() == ["one_sided_flow", ""]
    assert reasons.loc["singular"].tolist() == ["constant_flow", "constant_flow"]
    assert reasons.loc["constant volume", "response_reason"] == ""
    for market in ("all buys", "singular"):
        row = found.loc[market]
        assert (row["status"], row["grade"], row["strength"]) == ("ok", "D", "prior"), market
        assert "response known to a factor exp unknown" in row["grade_reason"]
        assert pd.isna(row[["response", "response_se", "gamma_tape", "response_units"]]).all()
        # What stands there is the literature's, as wide as that.
        assert row["eta"] == pytest.approx(0.142 * row["sigma"] * 0.01**0.6 / row["reference_rate"], rel=1e-9)
        assert np.log(row["eta_high"] / row["eta_low"]) > 2 * 1.95 * 0.5
    assert pd.isna(found.loc["singular", TAPE_NUMBERS]).all()


def test_every_size_the_same_has_a_response_and_no_direct_rate(db: QuestDB) -> None:
    """In buckets of five minutes, where a slice is as short; over half an hour the sizes add up and cancel."""
    of = {"constant volume": tapes()["constant volume"]}
    (row,) = calibrate(rows(db, of), RULES, slice_days=5 / 1440).to_dict("records")
    assert (row["direct_minutes"], row["direct_reason"]) == (5, "constant_flow")
    assert row["response"] == pytest.approx(0.004, rel=0.1)
    assert pd.isna([row["direct_eta"], row["eta_tape"], row["cost_tape_bps"]]).all()
    assert np.isfinite(row["gamma_tape"])


def test_one_market_only_has_no_pool_and_says_so(db: QuestDB) -> None:
    (row,) = calibrate(rows(db, {"sound": tapes()["sound"]}), RULES).to_dict("records")
    assert (row["status"], row["strength"], row["response_own"], row["response_relative"]) == (
        "ok",
        "own_tape",
        1.0,
        1.0,
    )
    assert row["gamma_tape"] == pytest.approx(row["response"], rel=1e-9)
    assert np.log(row["eta_high"] / row["eta_low"]) > 2 * 1.95 * 0.5  # no tape narrows b


def test_all_markets_thin_are_published_flagged_and_wide(db: QuestDB) -> None:
    trades, books = tapes()["thin"]
    of = {
        f"thin {i}": tuple(
            [{**row, "market_id": f"thin {i}", "token_id": ""} for row in part] for part in (trades[i:], books)
        )
        for i in range(3)
    }
    found = calibrate(rows(db, of), RULES)  # type: ignore[arg-type]
    assert found["status"].tolist() == ["ok"] * 3
    assert set(found["grade"]) == {"D"}
    assert (found["response_log_sd"].isna() | (found["response_log_sd"] > 0.25)).all()
    assert (np.log(found["eta_high"] / found["eta_low"]) > 2 * 1.95 * 0.5).all()
