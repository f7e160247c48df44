"""The night over every recorded set that holds ticks: what becomes of each market, expected by hand, and why.

The verdicts below were reasoned from the sets' READMEs and from counts of their rows, not copied from a run.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tributary_opt import schema
from tributary_opt.night import Choices, NightReport, run_night
from tributary_opt.optimization.almgren_chriss import calibrate_ac_params
from tributary_opt.settings import Grid, RiskLevel, Settings, StatisticsRules
from tributary_opt.storage.load import load_file
from tributary_opt.storage.questdb import QuestDB

pytestmark = [pytest.mark.questdb, pytest.mark.recorded]

OK = ("ok", None)
SMALL = Grid(order_sizes_pct_adv=(1.0,), risk_levels=(RiskLevel(value=1.0),), n_steps=12)


def refused(reason: str) -> tuple[str, str]:
    return ("refused", reason)


def night(
    db: QuestDB,
    folder: Path,
    tmp_path: Path,
    reference: list[dict] | None,
    as_of: date,
    statistics: StatisticsRules = StatisticsRules(),
) -> NightReport:
    """Load a set, describe its markets, run the night."""
    for table in ("trades", "orderbook_snapshots"):
        if (folder / f"{table}.parquet").exists():
            load_file(db, folder / f"{table}.parquet", table)
        else:
            db.execute(schema.SOURCE_TABLES[table].ddl())
    markets_file = None
    if reference is not None:
        markets_file = tmp_path / "markets.csv"
        pd.DataFrame(reference).to_csv(markets_file, index=False)
    settings = Settings(home=tmp_path, questdb=db.server, markets_file=markets_file, _env_file=None)
    return run_night(settings, Choices(statistics=statistics, grid=SMALL), as_of=as_of)


def verdicts(report: NightReport) -> dict[str, tuple[str, str | None]]:
    rows = report.parameters.to_dict("records")
    assert len({row["token_id"] for row in rows}) == len(rows)
    return {row["token_id"]: (row["status"], row["reason"] if row["status"] != "ok" else None) for row in rows}


def described(*tokens: tuple[str, str | None], **data: object) -> list[dict]:
    return [{"market_id": m, "token_id": t, **data} for m, t in tokens]


# --- us_equity_2013 -----------------------------------------------------------------------------------------

# Five whole sessions of two of the most traded stocks, with books every second.
US_EQUITY = {"AIG": OK, "BAC": OK}

# /shared/reference/tape_evidence.md: S, V, spread, sigma, rule gamma, rule eta.
TAPE = {
    "AIG": (48.7672, 7.47973e6, 0.0101044, 0.526004, 1.3509e-8, 1.3509e-7),
    "BAC": (13.964, 7.47202e7, 0.01, 0.129151, 1.33833e-9, 1.33833e-8),
}


def test_us_equity_2013_is_calibrated_and_says_what_the_tape_says(
    db: QuestDB, recorded_data: Path, tmp_path: Path
) -> None:
    """S, V, spread and σ of 09:35 to 15:55 in New York to 1e-5 relative; γ and η to the digits printed.

    The evidence takes the 75 moves between the last mids of 76 buckets for a day's variance. The night's path begins
    with the session's first mid, in the first bucket: realised variance less the square of that move is the evidence's.
    Sigma itself has noise taken off as well.
    """
    stocks = described(("AIG", None), ("BAC", None), kind="price", calendar="XNYS", tick_size=0.01)
    trimmed = StatisticsRules(skip_open_minutes=5, skip_close_minutes=5)
    report = night(db, recorded_data / "us_equity_2013", tmp_path, stocks, date(2013, 10, 11), trimmed)
    assert verdicts(report) == US_EQUITY
    rows = report.parameters.set_index("market_id")
    looks = pd.read_parquet(recorded_data / "us_equity_2013" / "orderbook_snapshots.parquet")
    looks["mid"] = looks[["best_bid", "best_ask"]].mean(axis=1).where(looks["best_ask"] > looks["best_bid"])
    clock = looks["timestamp"].dt.tz_convert("America/New_York").dt.strftime("%H:%M")
    first_bucket = looks[clock.between("09:35", "09:39")].sort_values("timestamp", kind="stable")
    in_bucket = first_bucket.groupby(["market_id", first_bucket["timestamp"].dt.date])["mid"].agg(["first", "last"])
    first_moves = (in_bucket["last"] - in_bucket["first"]) ** 2
    stored = db.query("SELECT market_id, day, realised_variance FROM ac_market_days").to_pandas()
    stored = stored.assign(day=stored["day"].dt.date).set_index(["market_id", "day"])
    for market, (price, volume, spread, sigma, gamma, eta) in TAPE.items():
        row = rows.loc[market]
        found = row[["mean_mid", "adv", "mean_spread"]].to_numpy(dtype=float)
        np.testing.assert_allclose(found, [price, volume, spread], rtol=1e-5)
        realised = stored.loc[market, "realised_variance"]
        assert np.sqrt((realised - first_moves[market]).mean()) == pytest.approx(sigma, rel=1e-5)
        assert np.sqrt(realised.mean()) / sigma > 1.015  # the first bucket is the liveliest
        assert row["sigma_covered"] > 0.9995
        assert abs(row["sigma"] - np.sqrt(realised.mean())) < 2 * row["sigma_se"]
        rule = calibrate_ac_params(row["adv"], row["mean_spread"], row["sigma"] / row["price"], row["price"])
        np.testing.assert_allclose([rule.gamma, rule.eta], [gamma, eta], rtol=4e-5)
        # The night's own spread is weighted by time; on these tapes the two are close.
        assert row["spread"] == pytest.approx(row["mean_spread"], rel=0.02)
        assert (row["n_days"], row["n_days_traded"], row["n_days_quoted"], row["day_hours"]) == (5, 5, 5, 380 / 60)
        # The tape names no aggressor: all are inferred, for all but the first trades there is a book.
        assert row["side_method"] == "quote_rule"
        assert row["signed_share"] > 0.999
        assert row["inferred_share"] > 0.999
        assert row["last_trade_at"] < pd.Timestamp("2013-10-11T19:55Z")
    assert set(report.trajectories["status"]) == {"ok"}
    assert report.outcome is not None
    assert report.outcome.current


# --- polymarket_fed_2026 ------------------------------------------------------------------------------------

# No books, but trades with sides, at a spread of one tick of 0.001 throughout: buys and sells of every token average a
# tenth of a cent apart. All have more than 30 trades on the 26th of February.
# - The fall by 25 and no change trade 17 to 27 ticks from their bounds, where a tick is no wide spread.
# - The no of the fall by 50 and of the rise stand at 0.995: one tick is a fifth of what is left, and trades show more.
# - The yes of the fall by 50 has two prices only, 0.005 and 0.006: behind their bounce nothing moves.
# - The yes of the rise traded in 15 clock hours only, and that comes first.
_FED = "will-the-fed-{}-interest-rates-by-{}-bps-after-the-march-2026-meeting:{}"
POLYMARKET_FED = {
    _FED.format("decrease", 25, "no"): OK,
    _FED.format("decrease", 25, "yes"): OK,
    _FED.format("decrease", 50, "no"): refused("wide_spread"),
    _FED.format("decrease", 50, "yes"): refused("no_volatility"),
    _FED.format("increase", 25, "no"): refused("wide_spread"),
    _FED.format("increase", 25, "yes"): refused("too_few_hours"),
    "will-there-be-no-change-in-fed-interest-rates-after-the-march-2026-meeting:no": OK,
    "will-there-be-no-change-in-fed-interest-rates-after-the-march-2026-meeting:yes": OK,
}


def test_polymarket_fed_2026_is_calibrated_from_its_trades_alone(
    db: QuestDB, recorded_data: Path, tmp_path: Path
) -> None:
    markets = sorted({token.rsplit(":", 1)[0] for token in POLYMARKET_FED})
    reference = described(*((m, None) for m in markets), kind="probability", tick_size=0.001)
    report = night(db, recorded_data / "polymarket_fed_2026", tmp_path, reference, date(2026, 2, 26))
    assert verdicts(report) == POLYMARKET_FED
    rows = report.parameters.set_index("token_id")
    assert rows["n_trades"].sum() == 187 + 164 + 948 + 86 + 776 + 61 + 208 + 1464
    assert (rows["kind"] == "probability").all()
    assert (rows["price_source"] == "last_trade").all()
    assert (rows["price"] == rows["last_trade_price"]).all()
    assert set(rows["spread_source"]) == {"edge", "roll"}
    assert set(rows["side_method"]) == {"given"}
    # Buys against sells of the same hour, which the bars know nothing of: within half of it.
    ticks = pd.read_parquet(recorded_data / "polymarket_fed_2026" / "trades.parquet")
    ticks = ticks[ticks["timestamp"] < pd.Timestamp("2026-02-27", tz="UTC")]
    hourly = ticks.groupby(["token_id", ticks["timestamp"].dt.hour, "side"])["price"].mean().unstack()
    apart = (hourly["buy"] - hourly["sell"]).groupby("token_id").median()
    np.testing.assert_allclose(rows["spread"].sort_index(), apart, rtol=0.6)
    assert set(report.trajectories["token_id"]) == {token for token, verdict in POLYMARKET_FED.items() if verdict == OK}


# --- binance_l2_2024 ----------------------------------------------------------------------------------------

# Eleven minutes over a midnight: thousands of trades with both sides of the book, in two clock hours. The future is
# inverse, and refused for that whatever else it has.
BINANCE = {"BTCUSDT": refused("too_few_hours"), "BTCUSD_PERP": refused("unsupported_contract")}


def test_binance_l2_2024_is_too_short_and_half_of_it_inverse(db: QuestDB, recorded_data: Path, tmp_path: Path) -> None:
    reference = [
        *described(("BTCUSDT", None), kind="price", inverse=False),
        *described(("BTCUSD_PERP", None), kind="price", inverse=True),
    ]
    report = night(db, recorded_data / "binance_l2_2024", tmp_path, reference, date(2024, 8, 9))
    assert verdicts(report) == BINANCE
    spot = report.parameters.set_index("market_id").loc["BTCUSDT"]
    assert (spot["n_trades"], spot["active_hours"], spot["two_sided_share"]) == (19_904, 2, 1.0)
    assert len(report.trajectories) == 0


# --- coinbase_1m_2018 ---------------------------------------------------------------------------------------

# Books by the minute; the trades are bars, which are no ticks and are not loaded. Without a trade there is no volume to
# scale by, and that comes before BTCUSD's books ending a day early.
COINBASE = {"BTCUSD": refused("no_trades"), "LTCUSD": refused("no_trades")}


def test_coinbase_1m_2018_has_books_and_no_trades(db: QuestDB, recorded_data: Path, tmp_path: Path) -> None:
    report = night(db, recorded_data / "coinbase_1m_2018", tmp_path, None, date(2018, 4, 6))
    assert verdicts(report) == COINBASE
    rows = report.parameters.set_index("market_id")
    assert (rows["two_sided_share"] == 1.0).all()
    assert (rows["spread"] > 0).all()
    assert (rows["sigma"] > 0).all()
    assert rows["n_snapshots"].to_dict() == {"BTCUSD": 1437 + 1436, "LTCUSD": 1438 + 1439 + 1439}


# --- polymarket_us_quotes_2026 ------------------------------------------------------------------------------

# The set holds quotes and not one trade: all 191 markets are refused for the same reason, whatever their books are.
POLYMARKET_US = refused("no_trades")


def test_polymarket_us_quotes_2026_has_no_trades_in_any_market(
    db: QuestDB, recorded_data: Path, tmp_path: Path
) -> None:
    ticks = pd.read_parquet(recorded_data / "polymarket_us_quotes_2026" / "orderbook_snapshots.parquet")
    ticks = ticks[ticks["timestamp"] < pd.Timestamp("2026-07-17", tz="UTC")]
    reference = described(*((m, None) for m in ticks["market_id"].unique()), kind="probability", tick_size=0.001)
    report = night(db, recorded_data / "polymarket_us_quotes_2026", tmp_path, reference, date(2026, 7, 16))
    found = verdicts(report)
    assert len(found) == 191
    assert set(found.values()) == {POLYMARKET_US}
    # Missing sides are written as bid 0 and ask 1: the shares of looks are those of the file.
    rows = report.parameters.set_index("token_id").sort_index()
    bid, ask = ticks["best_bid"] > 0, ticks["best_ask"] < 1
    by_token = ticks["token_id"]
    for name, holds in {
        "two_sided_share": bid & ask & (ticks["best_ask"] > ticks["best_bid"]),
        "one_sided_share": bid ^ ask,
        "crossed_share": bid & ask & (ticks["best_ask"] <= ticks["best_bid"]),
        "empty_share": ~bid & ~ask,
    }.items():
        np.testing.assert_allclose(rows[name], holds.groupby(by_token).mean().sort_index(), rtol=1e-12)
    assert rows["n_snapshots"].sum() == len(ticks)
