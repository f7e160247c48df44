"""Impact on the recorded equity tape: the reference's figures, out of sample, and across bucket lengths.

One reading of us_equity_2013 through QuestDB serves all: 09:35 to 15:55 in New York, as tape_evidence.md has it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tick_tables import market_days, observe, stored

from tributary_opt import schema
from tributary_opt.calibration.impact_evidence import ImpactEvidence, impact_evidence
from tributary_opt.calibration.least_squares import lines
from tributary_opt.settings import StatisticsRules
from tributary_opt.storage.load import load_file
from tributary_opt.storage.questdb import QuestDB

pytestmark = [pytest.mark.questdb, pytest.mark.recorded]

LAST = date(2013, 10, 11)
MARKETS = ("AIG", "BAC")
V = {"AIG": 7.47973e6, "BAC": 7.47202e7}
RULE_GAMMA = {"AIG": 1.3509e-8, "BAC": 1.33833e-9}
# tape_evidence.md: response (slope, classical s.e., R²) and direct eta at 5, 15 and 30 minutes.
RESPONSE = {
    "AIG": ((3.19779e-7, 8.26e-8, 0.0387), (3.45813e-7, 1.19e-7, 0.0644), (5.53868e-7, 1.72e-7, 0.1518)),
    "BAC": ((2.68437e-8, 1.46e-9, 0.4769), (2.45777e-8, 2.39e-9, 0.4629), (2.69118e-8, 3.56e-9, 0.4968)),
}
DIRECT_ETA = {"AIG": (1.0567e-9, 4.49025e-9, 2.12825e-8), "BAC": (2.43789e-10, 6.22877e-10, 1.02726e-9)}


@pytest.fixture
def rows_of(db: QuestDB, recorded_data: Path) -> Callable[[StatisticsRules], pd.DataFrame]:
    """Reads the five sessions under some rules."""
    for table in ("trades", "orderbook_snapshots"):
        load_file(db, recorded_data / "us_equity_2013" / f"{table}.parquet", table)
    reference = [{"market_id": m, "token_id": None, "kind": "price", "calendar": "XNYS"} for m in MARKETS]

    def read(rules: StatisticsRules) -> pd.DataFrame:
        days = market_days(db, reference, rules)
        observe(days, LAST)
        return stored(days, LAST)

    return read


def rules(**chosen: float) -> StatisticsRules:
    return StatisticsRules(skip_open_minutes=5, skip_close_minutes=5, tick_rule=False, **chosen)


def test_tape_evidence_is_reproduced_from_the_server_and_predicts_other_days_and_lengths(
    rows_of: Callable[[StatisticsRules], pd.DataFrame],
) -> None:
    uncapped = rows_of(rules(flow_cap_pct_adv=0.0, flow_between_mids=False))  # as the reference defines flow
    assert uncapped["flow_cap"].isna().all()
    everything = impact_evidence(uncapped)
    assert everything.market_id.tolist() == list(MARKETS)
    for i, market in enumerate(MARKETS):
        for length, (slope, se, r2) in enumerate(RESPONSE[market]):
            found = (everything.slope[i, length], everything.slope_se_classical[i, length], everything.r2[i, length])
            np.testing.assert_allclose(found, (slope, se, r2), rtol=0.02, err_msg=f"{market} {length}")
        np.testing.assert_allclose(everything.direct_eta[i, :3], DIRECT_ETA[market], rtol=0.02)
        assert (everything.cluster[i] == "block").all()  # five days are too few to be clusters

    capped = rows_of(rules())
    assert (
        capped.groupby("market_id")["flow_cap"]
        .apply(lambda c: c.isna().tolist())
        .map(lambda missing: missing == [True, False, False, False, False])
        .all()
    )  # the first day has no earlier one
    assert_other_days_are_predicted(capped)
    assert_other_lengths_are_predicted(impact_evidence(capped), capped)


def squared_errors(rows: pd.DataFrame, intercept: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Σ (r - intercept - slope q)² of each row's 5-minute buckets."""
    s = {name: np.array([a[i] for a in rows["impact_5m"]]) for i, name in enumerate(schema.IMPACT_SUMS)}
    s["n"] = rows["impact_5m_pairs"].to_numpy(dtype=float)
    a, b = intercept, slope
    return np.asarray(
        s["rr"] - 2 * a * s["r"] - 2 * b * s["qr"] + a * a * s["n"] + 2 * a * b * s["q"] + b * b * s["qq"]
    )


def assert_other_days_are_predicted(rows: pd.DataFrame) -> None:
    """Leave one day out: mean squared error over that of no impact, pooled, at most 0.85 and below the rule's."""
    zero = np.zeros(len(rows))
    gamma = rows["market_id"].map(RULE_GAMMA).to_numpy()
    fitted = {name: np.zeros(len(rows)) for name in ("intercept", "slope")}
    for day in sorted(set(rows["day"])):
        out = (rows["day"] == day).to_numpy()
        without = impact_evidence(rows, np.where(out, 0.0, 1.0))
        for i, market in enumerate(MARKETS):
            mine = out & (rows["market_id"] == market).to_numpy()
            fitted["intercept"][mine], fitted["slope"][mine] = without.intercept[i, 0], without.slope[i, 0]
    nothing, rule = squared_errors(rows, zero, zero), squared_errors(rows, zero, gamma)
    response = squared_errors(rows, fitted["intercept"], fitted["slope"])
    print("\nleave one day out, 5 minutes: squared error over that of no impact\nmarket day         response   rule")
    for i, row in enumerate(rows.itertuples()):
        print(f"{row.market_id:6} {row.day.date()}   {response[i] / nothing[i]:8.3f} {rule[i] / nothing[i]:6.3f}")
    # Each market in units of its own moves: AIG's would else be all there is.
    scale = rows["market_id"].map(pd.Series(nothing).groupby(rows["market_id"].to_numpy()).sum()).to_numpy()
    ours, theirs = (float((e / scale).sum() / (nothing / scale).sum()) for e in (response, rule))
    in_price = float(response.sum() / nothing.sum())
    print(f"pooled, by market {ours:.3f} {theirs:.3f}; in price {in_price:.3f} {rule.sum() / nothing.sum():.3f}")
    assert max(ours, in_price) <= 0.85
    assert ours < theirs
    assert in_price < rule.sum() / nothing.sum()


def assert_other_lengths_are_predicted(found: ImpactEvidence, rows: pd.DataFrame) -> None:
    """The coefficient of 5 minutes is that of 30 and 60: the median |log| error is at most half of a rate law's."""
    group = np.unique(rows["market_id"], return_inverse=True)[1]
    places = [schema.IMPACT_SUMS.index(name) for name in schema.IMPACT_RESPONSE[1:]]
    flow, rate = [], []
    print("\nacross lengths: market, minutes, t by day, |log(predicted/measured)| of flow and of rate")
    for length, minutes in ((2, 30), (3, 60)):
        of_days = np.stack(rows[f"impact_{minutes}m"].to_list())[:, places]
        of_days = np.column_stack([rows[f"impact_{minutes}m_pairs"], of_days])
        by_day = lines(of_days, group, len(MARKETS))
        t = by_day.slope / by_day.slope_se_clustered
        for i, market in enumerate(MARKETS):
            errors = [abs(np.log(found.slope[i, 0] * f / found.slope[i, length])) for f in (1.0, 5 / minutes)]
            print(f"{market:6} {minutes} {t[i]:5.1f} {errors[0]:.3f} {errors[1]:.3f}")
            if t[i] >= 3:
                flow.append(errors[0])
                rate.append(errors[1])
    assert len(flow) >= 2
    assert np.median(flow) <= 0.5 * np.median(rate)
