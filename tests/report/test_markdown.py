"""What the report of a run says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pandas as pd

from tributary_opt.night import NightReport, Plan
from tributary_opt.report.markdown import (
    changes,
    days_report,
    jumps,
    largest_moves,
    movers,
    plans_report,
    refusals,
    run_report,
)
from tributary_opt.storage.releases import Outcome, Run

DAY = date(2026, 3, 4)


def market(market_id: str, eta: float = 1e-6, sigma: float = 0.02, reason: str | None = None) -> dict[str, Any]:
    return {
        "market_id": market_id,
        "token_id": market_id,
        "status": "refused" if reason else "ok",
        "reason": reason,
        "detail": "4 trades, need 30" if reason else None,
        "eta": np.nan if reason else eta,
        "sigma": np.nan if reason else sigma,
    }


def parameters(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([*rows])


def night(now: pd.DataFrame, before: pd.DataFrame | None = None) -> NightReport:
    plan = Plan(DAY, datetime(2026, 3, 5, tzinfo=UTC), date(2026, 2, 3), (DAY,), 7)
    run = Run(DAY, "0123456789abcdef", "whole", plan.window_start, plan.started_at, {}, "", "", "", "", "", "")
    outcome = Outcome(run.run_id, DAY, True, "current", {})
    trajectories = pd.DataFrame({"status": ["ok", "ok", "infeasible"]})
    run = replace(run, future_rows=7, days_read=1, source_trades=1234)
    return NightReport(plan, outcome, run, now, trajectories, before, {"plan": 0.1234, "observe": 2.5})


def test_report_counts_markets_reasons_schedules_and_seconds() -> None:
    text = run_report(night(parameters(market("A"), market("B", reason="no_trades"), market("C", reason="no_trades"))))
    for line in (
        "3: 1 calibrated, 2 refused",
        "| no_trades | 2 |",
        "| ok | 2 |",
        "| infeasible | 1 |",
        "| plan | 0.12 |",
    ):
        assert line in text
    assert "`0123456789abcdef` (whole)" in text
    assert "There was no release before." in text


def test_report_of_a_dry_run_says_so() -> None:
    report = night(parameters(market("A")))
    report.outcome = None
    assert "dry run, nothing written" in run_report(report)


def test_changes_name_every_market_once() -> None:
    before = parameters(market("A"), market("B"), market("C", reason="stale"), market("D"))
    now = parameters(market("A"), market("B", reason="no_trades"), market("C"), market("E"))
    found = changes(before, now)
    assert found.new == [("E", "E")]
    assert found.gone == [("D", "D")]
    assert found.newly_refused == [("B", "B")]
    assert found.recovered == [("C", "C")]
    assert not len(found.moves["eta"])


def test_moves_are_the_ten_largest_in_per_cent_with_their_sign() -> None:
    names = [f"M{i:02d}" for i in range(12)]
    before = parameters(*(market(name, eta=2.0) for name in names))
    now = parameters(*(market(name, eta=2.0 * (1 + (-1) ** i * i / 100)) for i, name in enumerate(names)))
    eta = changes(before, now).moves["eta"]
    assert list(eta["market_id"]) == names[:1:-1]
    np.testing.assert_allclose(eta["per_cent"], [(-1) ** i * i for i in range(11, 1, -1)], rtol=1e-12)
    assert "| M11 | 2 | 1.78 | -11.0 |" in run_report(night(now, before))


def test_table_of_moves_is_rounded_and_largest_first() -> None:
    before = parameters(market("A", eta=1.23456789e-6), market("B", sigma=0.0123456), market("C"))
    now = parameters(market("A", eta=1.34567891e-6), market("B", sigma=0.0100001), market("C", sigma=0.03))
    assert largest_moves(night(now, before)) == [
        {"parameter": "eta", "market_id": "A", "token_id": "A", "before": 1.235e-6, "now": 1.346e-6, "per_cent": 9.0},
        {"parameter": "sigma", "market_id": "C", "token_id": "C", "before": 0.02, "now": 0.03, "per_cent": 50.0},
        {"parameter": "sigma", "market_id": "B", "token_id": "B", "before": 0.01235, "now": 0.01, "per_cent": -19.0},
    ]
    assert largest_moves(night(now)) == []


def test_same_parameters_have_no_changes() -> None:
    now = parameters(market("A"), market("B", reason="stale"))
    assert "None against the release before." in run_report(night(now, now))


def test_many_refusals_are_cut_to_some_of_each_reason() -> None:
    of = parameters(
        *(
            market(f"{reason}{i:02d}", reason=reason)
            for reason, n in (("stale", 2), ("no_trades", 30))
            for i in range(n)
        )
    )
    rows = refusals(of, at_most=20)
    assert [row["reason"] for row in rows] == ["no_trades"] * 10 + ["stale"] * 2
    assert refusals(of, at_most=32) == refusals(of)


def test_what_is_to_be_seen_first_stands_first() -> None:
    text = run_report(night(parameters(market("A"))), "the link", "the picture")
    assert text.index("# 2026-03-04") < text.index("the link") < text.index("the picture") < text.index("As of")


def test_a_market_id_cannot_break_out_of_its_cell() -> None:
    before, now = parameters(market("A|B\n<x>\\", eta=1.0)), parameters(market("A|B\n<x>\\", eta=2.0))
    assert "| A\\|B &lt;x>\\\\ | 1 | 2 | +100.0 |" in run_report(night(now, before))


def test_refusals_are_sorted_and_hold_texts_only() -> None:
    rows = refusals(parameters(market("B", reason="stale"), market("A", reason="no_trades"), market("C")))
    assert [row["market_id"] for row in rows] == ["A", "B"]
    assert rows[0] == {"market_id": "A", "token_id": "A", "reason": "no_trades", "detail": "4 trades, need 30"}


def test_reports_of_many_days() -> None:
    assert "No day" in days_report([])
    assert "2, 2026-03-03 to 2026-03-04" in plans_report([date(2026, 3, 3), DAY], [])


# --- grades and movers --------------------------------------------------------------------------------------


def test_report_counts_grades_with_what_decided_most_of_them() -> None:
    graded = [
        market("A") | {"grade": "D", "grade_reason": "laws apart by a factor 40; implied regret 0.3"},
        market("B") | {"grade": "D", "grade_reason": "laws apart by a factor 13.2"},
        market("C") | {"grade": "A", "grade_reason": "every limit of A is kept"},
    ]
    text = run_report(night(parameters(*graded)))
    assert "| A | 1 | every limit of A is kept |" in text
    assert "| D | 2 | laws apart by a factor |" in text


def test_report_lists_what_moved_by_more_than_chance_the_furthest_first() -> None:
    now = parameters(
        market("A") | {"eta_drift_z": -4.2, "sigma_drift_z": 1.0},
        market("B") | {"eta_drift_z": np.nan, "sigma_drift_z": 9.5},
        market("C") | {"eta_drift_z": 3.9, "sigma_drift_z": 0.0},
    )
    moved = movers(now)
    assert list(zip(moved["market_id"], moved["parameter"], moved["z"], strict=True)) == [
        ("B", "sigma", 9.5),
        ("A", "eta", -4.2),
    ]
    text = run_report(night(now, parameters(market("A"), market("B"), market("C"))))
    assert "(2)" in text
    assert "| B | sigma | 0.02 | +9.5 |" in text
    assert not len(movers(parameters(market("A"))))


def test_report_names_the_jumps_of_the_source_the_newest_first() -> None:
    now = parameters(
        market("A") | {"source_jump": "split on 2026-02-10: price x0.1, trade size x10"},
        market("B") | {"source_jump": None},
        market("C") | {"source_jump": "price_gap on 2026-02-01: price x2; tick_change on 2026-02-20: tick 1 to 5"},
        market("D", reason="stale") | {"source_jump": "split on 2026-02-10: price x0.5, trade size x2"},
    )
    assert jumps(now)["market_id"].tolist() == ["C", "A", "D"]
    text = run_report(night(now))
    assert "## Jumps in the source (3)" in text
    assert text.index("| C | price_gap on") < text.index("| A | split on 2026-02-10: price x0.1, trade size x10 |")
    assert "Jumps" not in run_report(night(parameters(market("A"), market("B") | {"source_jump": None})))
