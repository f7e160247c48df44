"""The window's statistics against loops over its rows, and the moves between sessions."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from tick_tables import assert_same_rows

from tributary_opt import schema
from tributary_opt.market_data.buckets import zero_rows
from tributary_opt.market_data.calendars import trading_calendar
from tributary_opt.market_data.market_days import Window, in_order
from tributary_opt.market_data.statistics import window_statistics

THURSDAY, FRIDAY, SATURDAY, SUNDAY, MONDAY, TUESDAY = (date(2024, 2, 29) + timedelta(days=i) for i in range(6))


def day_row(day: date, market: str | list[str] = "M", calendar: str = "24/7", **values: object) -> pd.DataFrame:
    """A day of zeros, but for the values given, of one market or of several."""
    ids = [market] if isinstance(market, str) else market
    row = zero_rows(day, pd.DataFrame({"market_id": ids, "token_id": ids}))
    session = trading_calendar(calendar).session(day)
    assert session is not None
    row["session_start"] = pd.Series([session.start] * len(ids)).astype("datetime64[us, UTC]")
    row["session_end"] = pd.Series([session.end] * len(ids)).astype("datetime64[us, UTC]")
    row["calendar"], row["kind"], row["n_buckets"] = calendar, "price", np.int32(session.hours * 12)
    for name, value in values.items():
        if isinstance(value, pd.Timestamp):
            row[name] = pd.Series([value]).astype("datetime64[us, UTC]")
        else:
            row[name] = pd.Series([value], dtype=row[name].dtype)
    return row


def quoted(day: date, first: float, last: float, variance: float = 0.0, **more: object) -> pd.DataFrame:
    """A day on which the mid went from `first` to `last`."""
    values = {
        "n_mid_buckets": 2,
        "first_mid": first,
        "last_mid": last,
        "realised_variance": variance,
        "n_snapshots": 10,
    }
    return day_row(day, **{**values, **more})


def statistics(*rows: pd.DataFrame, as_of: date, lookback: int, earliest: date | None = None) -> pd.DataFrame:
    together = pd.concat(rows, ignore_index=True)
    window = Window.of(as_of, lookback, sorted({"24/7", *together["calendar"]}), earliest)
    return window_statistics(in_order(together, window), window)


def only(*rows: pd.DataFrame, **window: object) -> pd.Series:
    out = statistics(*rows, **window)
    assert len(out) == 1
    return out.iloc[0]


# --- volume -------------------------------------------------------------------------------------------------


def test_daily_volume_counts_days_without_a_row_and_their_variance() -> None:
    s = only(
        day_row(MONDAY, volume=30.0, n_trades=3), day_row(TUESDAY, volume=10.0, n_trades=1), as_of=TUESDAY, lookback=4
    )
    assert (s["n_days"], s["n_days_traded"], s["adv"]) == (4, 2, 10.0)
    assert s["adv_se"] == pytest.approx(np.std([0, 0, 30, 10], ddof=1) / 2, rel=1e-15)


def test_market_that_appears_in_mid_window_divides_by_all_trading_days() -> None:
    old = [day_row(SATURDAY + timedelta(days=i), "OLD", volume=1.0, n_trades=1) for i in range(4)]
    s = statistics(*old, day_row(TUESDAY, "NEW", volume=8.0, n_trades=1), as_of=TUESDAY, lookback=4).set_index(
        "market_id"
    )
    assert s["adv"].to_dict() == {"NEW": 2.0, "OLD": 1.0}
    assert s["n_days"].to_list() == [4, 4]


def test_window_shorter_than_the_data_uses_its_own_days_only() -> None:
    rows = [
        quoted(d, 10.0, 10.0, variance=v, volume=v, n_trades=1)
        for d, v in ((SUNDAY, 100.0), (MONDAY, 4.0), (TUESDAY, 2.0))
    ]
    s = only(*rows, as_of=TUESDAY, lookback=2)
    assert (s["adv"], s["sigma"]) == (3.0, np.sqrt(3.0))
    assert (s["window_start"], s["window_end"]) == (pd.Timestamp(MONDAY, tz="UTC"), pd.Timestamp(TUESDAY, tz="UTC"))


def test_one_day_alone_has_no_standard_error_of_volume() -> None:
    s = only(day_row(TUESDAY, volume=5.0, n_trades=1), as_of=TUESDAY, lookback=30, earliest=TUESDAY)
    assert (s["n_days"], s["adv"]) == (1, 5.0)
    assert np.isnan(s["adv_se"])


def test_stocks_days_are_sessions() -> None:
    s = only(
        day_row(FRIDAY, calendar="XNYS", volume=6.0, n_trades=1),
        day_row(TUESDAY, calendar="XNYS", volume=6.0, n_trades=1),
        as_of=TUESDAY,
        lookback=3,
    )
    assert (s["n_days"], s["adv"], s["day_hours"]) == (3, 4.0, 6.5)
    assert s["window_start"] == pd.Timestamp(FRIDAY, tz="UTC")


# --- volatility ---------------------------------------------------------------------------------------------


def test_overnight_move_of_a_stock_spans_the_weekend_and_stays_out_of_sigma() -> None:
    s = only(
        quoted(FRIDAY, 10.0, 11.0, 4.0, calendar="XNYS"),
        quoted(MONDAY, 14.0, 13.0, 2.0, calendar="XNYS"),
        quoted(TUESDAY, 12.0, 12.0, 3.0, calendar="XNYS"),
        as_of=TUESDAY,
        lookback=3,
    )
    assert s["overnight_sd"] == pytest.approx(np.sqrt((3.0**2 + 1.0**2) / 2), rel=1e-15)
    assert s["sigma"] == np.sqrt(3.0)
    assert s["n_days_quoted"] == 3


def test_overnight_move_needs_both_days() -> None:
    s = only(
        quoted(FRIDAY, 10.0, 11.0, calendar="XNYS"),
        quoted(TUESDAY, 50.0, 50.0, calendar="XNYS"),
        as_of=TUESDAY,
        lookback=3,
    )
    assert np.isnan(s["overnight_sd"])
    s = only(
        quoted(FRIDAY, 10.0, 11.0, calendar="XNYS"),
        day_row(MONDAY, calendar="XNYS"),
        quoted(TUESDAY, 50.0, 50.0, calendar="XNYS"),
        as_of=TUESDAY,
        lookback=3,
    )
    assert np.isnan(s["overnight_sd"])


def test_around_the_clock_the_move_over_midnight_belongs_to_the_day() -> None:
    s = only(quoted(MONDAY, 10.0, 11.0, 4.0), quoted(TUESDAY, 14.0, 13.0, 3.0), as_of=TUESDAY, lookback=5)
    assert s["sigma"] == np.sqrt((4.0 + 3.0 + 9.0) / 2)
    assert s["overnight_sd"] == 3.0
    apart = only(quoted(SUNDAY, 10.0, 11.0, 4.0), quoted(TUESDAY, 14.0, 13.0, 3.0), as_of=TUESDAY, lookback=5)
    assert apart["sigma"] == np.sqrt((4.0 + 3.0) / 2)
    assert np.isnan(apart["overnight_sd"])


def test_moves_over_midnight_of_one_market_are_not_anothers() -> None:
    s = statistics(
        quoted(MONDAY, 10.0, 11.0, market="A"), quoted(TUESDAY, 90.0, 90.0, market="B"), as_of=TUESDAY, lookback=2
    )
    assert s["sigma"].tolist() == [0.0, 0.0]


def test_standard_error_of_sigma_is_that_of_realised_variance() -> None:
    """Simulated: the stated standard error is the spread of the estimates, to four of its own standard errors."""
    rng = np.random.default_rng(5)
    sigma, n_days, n_moves, n = 2.0, 5, 78, 400
    moves = rng.normal(0, sigma / np.sqrt(n_moves), (n_days, n, n_moves))
    ids = [f"{i:03d}" for i in range(n)]
    rows = []
    for day, of_day in zip(trading_calendar("XNYS").last_days(TUESDAY, n_days), moves, strict=True):
        row = day_row(day, ids, calendar="XNYS").assign(n_mid_buckets=2, first_mid=10.0, last_mid=10.0)
        rows.append(row.assign(realised_variance=(of_day**2).sum(axis=1), realised_quarticity=(of_day**4).sum(axis=1)))
    s = statistics(*rows, as_of=TUESDAY, lookback=n_days)
    z = (s["sigma"] - sigma) / s["sigma_se"]
    assert abs(z.mean()) < 4 / np.sqrt(n) + 0.05  # the root is biased by a quarter of its relative variance
    assert z.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * n))


# --- everything ---------------------------------------------------------------------------------------------


def random_rows(seed: int, n_markets: int = 14) -> pd.DataFrame:
    """Market days with every number drawn, some days missing, some numbers too."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n_markets):
        calendar = ("24/7", "XNYS")[i % 2]
        for day in trading_calendar(calendar).last_days(TUESDAY, 8):
            if rng.random() < 0.3:
                continue
            row = day_row(day, f"m{i:02d}", calendar)
            for column in schema.MARKET_DAYS.columns:
                if column.name == "n_buckets":
                    continue
                if column.type == "DOUBLE":
                    row[column.name] = (
                        float(rng.uniform(0, 5)) if rng.random() < 0.9 or "mid" not in column.name else np.nan
                    )
                elif column.type in ("INT", "LONG"):
                    least = 1 if column.name == "n_snapshots" else 0  # no look, no share of looks
                    row[column.name] = row[column.name].dtype.type(rng.integers(least, 4))
                elif column.name.endswith("_by_hour"):
                    row[column.name] = [rng.uniform(0, 1, 24) * (rng.random() < 0.8)]
                elif column.name in ("last_trade_at", "last_snapshot_at") and rng.random() < 0.8:
                    stamp = pd.Timestamp(day, tz="UTC") + pd.Timedelta(int(rng.integers(0, 86_400)), "s")
                    row[column.name] = pd.Series([stamp]).astype("datetime64[us, UTC]")
            rows.append(row)
    return pd.concat(rows, ignore_index=True).sample(frac=1, random_state=seed)


def one_by_one(rows: pd.DataFrame, days: list[date], calendar: str) -> dict[str, object]:
    """One market's statistics, as schema.py words them, in plain Python."""
    by_day = {r["day"].date(): r for r in rows.to_dict("records")}
    have = [by_day[d] for d in days if d in by_day]

    def total(name: str) -> float:
        return sum(r[name] for r in have)

    def ratio(a: float, b: float) -> float:
        return a / b if b else np.nan

    def newest(name: str) -> object:
        return next((r[name] for r in reversed(have) if not pd.isna(r[name])), np.nan)

    volumes = [by_day[d]["volume"] if d in by_day else 0.0 for d in days]
    gaps = [by_day[b]["first_mid"] - by_day[a]["last_mid"] for a, b in pairwise(days) if {a, b} <= set(by_day)]
    gaps = [g for g in gaps if not np.isnan(g)]
    within = [r for r in have if r["n_mid_buckets"] > 1]
    variance = sum(r["realised_variance"] for r in within)
    if calendar == "24/7":
        for a, b in pairwise(days):
            if {a, b} <= set(by_day) and by_day[b]["n_mid_buckets"] > 1:
                gap = by_day[b]["first_mid"] - by_day[a]["last_mid"]
                variance += 0.0 if np.isnan(gap) else gap**2
    traded = sum(r["n_trades"] > 0 for r in have)
    measures = {
        "time_weighted_quoted": ratio(total("spread_seconds"), total("quoted_seconds")),
        "effective": ratio(total("effective_spread_volume"), total("effective_volume")),
        "edge": positive_root(ratio(total("edge_squared_bars"), total("n_edge_bars"))),
        "roll": positive_root(ratio(-4 * total("trade_products"), total("n_trade_products"))),
    }
    spread_source = next((name for name, spread in measures.items() if spread > 0), None)
    spread = measures[spread_source] if spread_source else np.nan
    two_scale = two_scale_sigma(by_day, days, calendar)
    sigma = np.sqrt(ratio(variance, len(within)))
    bars = total("n_range_bars")
    bounce = 0.0 if np.isnan(spread) else spread**2 * bars / 4 / np.log(2)
    ranged = bars >= 0.9 * total("n_trade_bars") and bounce <= 0.1 * total("parkinson_variance")
    price = newest("last_mid")
    seen = [
        i
        for i, d in enumerate(days)
        if d in by_day and (by_day[d]["n_trades"] or by_day[d]["n_bad_trades"] or by_day[d]["n_snapshots"])
    ]
    hours = sum(r["volume_by_hour"] for r in have)
    return {
        "n_days": len(days),
        "n_days_traded": traded,
        "n_days_quoted": len(within),
        "days_since_newest": len(days) - 1 - seen[-1] if seen else len(days),
        "n_trades": total("n_trades"),
        "n_bad_trades": total("n_bad_trades"),
        "two_sided_share": ratio(total("n_two_sided"), total("n_snapshots")),
        "one_sided_share": ratio(total("n_one_sided"), total("n_snapshots")),
        "crossed_share": ratio(total("n_crossed"), total("n_snapshots")),
        "empty_share": ratio(total("n_empty"), total("n_snapshots")),
        "signed_share": ratio(total("buy_volume") + total("sell_volume"), total("volume")),
        "side_method": side_method(total("n_signed"), total("n_quote_rule"), total("n_tick_rule")),
        "inferred_share": ratio(total("n_quote_rule") + total("n_tick_rule"), total("n_trades")),
        "coverage": total("n_mid_buckets") / (len(days) * have[0]["n_buckets"]),
        "active_hours": total("active_hours"),
        "adv": np.mean(volumes),
        "adv_se": np.std(volumes, ddof=1) / np.sqrt(len(days)),
        "price": newest("close_price") if np.isnan(price) else price,
        "price_source": "last_trade" if np.isnan(price) else "mid",
        "last_trade_price": newest("close_price"),
        "last_trade_at": newest("last_trade_at"),
        "last_snapshot_at": newest("last_snapshot_at"),
        "spread": spread,
        "spread_source": spread_source,
        "effective_spread": measures["effective"] if measures["effective"] > 0 else np.nan,
        "edge_spread": measures["edge"],
        "roll_spread": measures["roll"],
        "mean_spread": ratio(total("spread_sum"), total("n_two_sided")),
        "mean_mid": ratio(total("mid_sum"), total("n_two_sided")),
        "sigma": two_scale if np.isnan(sigma) else sigma,
        "sigma_source": "realised_mid" if np.isfinite(sigma) else "two_scale_trades" if two_scale > 0 else None,
        "sigma_two_scale": two_scale,
        "sigma_bipower": np.sqrt(ratio(total("bipower_variance"), len(within))),
        "sigma_parkinson": np.sqrt(ratio(total("parkinson_variance"), traded)) if ranged else np.nan,
        "sigma_garman_klass": np.sqrt(ratio(total("garman_klass_variance"), traded)) if ranged else np.nan,
        "trades_per_bar": ratio(total("n_trades"), total("n_trade_bars")),
        "overnight_sd": np.sqrt(np.mean(np.square(gaps))) if gaps else np.nan,
        "volume_profile": volume_profile(have, hours),
    }


def volume_profile(have: list[dict], hours: np.ndarray) -> np.ndarray | None:
    """Hours' shares where they predict each day better, from the others, than its session's flat profile."""
    if not hours.sum():
        return None
    traded = [r for r in have if r["volume_by_hour"].sum() > 0]
    of_hours = of_flat = 0.0
    for row in traded:
        share = row["volume_by_hour"] / row["volume_by_hour"].sum()
        others = hours - row["volume_by_hour"]
        of_hours += ((share - others / (others.sum() or 1.0)) ** 2).sum()
        of_flat += ((share - flat(row)) ** 2).sum()
    return hours / hours.sum() if len(traded) >= 3 and of_hours < of_flat else flat(have[-1])


def flat(row: dict) -> np.ndarray:
    zone = trading_calendar(row["calendar"]).timezone
    minutes = pd.date_range(row["session_start"], row["session_end"], freq="min", inclusive="left").tz_convert(zone)
    return np.bincount(minutes.hour, minlength=24) / len(minutes)


def positive_root(squared: float) -> float:
    return float(np.sqrt(squared)) if squared > 0 else np.nan


def two_scale_sigma(by_day: dict[date, dict], days: list[date], calendar: str) -> float:
    measured = [day for day in days if day in by_day and by_day[day]["n_two_scale"] > 0]
    variance = sum(by_day[day]["two_scale_variance"] for day in measured)
    for a, b in pairwise(days):
        if calendar == "24/7" and {a, b} <= set(measured):
            gap = by_day[b]["open_price"] - by_day[a]["close_price"]
            variance += gap**2 - by_day[a]["noise_variance"] - by_day[b]["noise_variance"]
    return positive_root(variance / len(measured)) if measured else np.nan


def side_method(n_signed: int, n_quote_rule: int, n_tick_rule: int) -> str | None:
    if not n_signed:
        return None
    if not n_quote_rule + n_tick_rule:
        return "given"
    if n_signed > n_quote_rule + n_tick_rule:
        return "mixed"
    return "quote_rule" if n_quote_rule else "tick_rule"


def test_every_statistic_is_what_a_loop_over_the_days_gives() -> None:
    rows = random_rows(1)
    window = Window.of(TUESDAY, 8, ["24/7", "XNYS"])
    found = window_statistics(in_order(rows, window), window)
    assert len(found) == 14
    for s in found.to_dict("records"):
        expected = one_by_one(rows[rows["market_id"] == s["market_id"]], window.days[s["calendar"]], s["calendar"])
        for name, value in expected.items():
            if isinstance(value, pd.Timestamp | str):
                assert s[name] == value
            elif value is None:
                assert s[name] is None or s[name] is np.nan
            elif isinstance(s[name], pd.Timestamp) or s[name] is pd.NaT:
                assert pd.isna(value)
                assert pd.isna(s[name])
            else:
                np.testing.assert_allclose(s[name], value, rtol=1e-12, atol=0, err_msg=f"{s['market_id']} {name}")


def test_statistics_of_a_market_do_not_depend_on_the_others_to_the_last_bit() -> None:
    rows = random_rows(2)
    window = Window.of(TUESDAY, 8, ["24/7", "XNYS"])
    whole = window_statistics(in_order(rows, window), window)
    for market in ("m00", "m07", "m13"):
        alone = window_statistics(in_order(rows[rows["market_id"] == market], window), window)
        assert_same_rows(alone, whole[whole["market_id"] == market].reset_index(drop=True))


def test_newest_row_is_told_in_trading_days() -> None:
    def since(*days: date, **window: object) -> int:
        rows = [day_row(d, calendar="XNYS", n_trades=1) for d in days]
        return only(*rows, day_row(THURSDAY, calendar="XNYS"), as_of=TUESDAY, lookback=4, **window)["days_since_newest"]

    assert since(TUESDAY) == 0
    assert since(FRIDAY, MONDAY) == 1
    assert since(FRIDAY) == 2  # over the weekend
    assert since() == 4  # rows of zeros only: no row at all


def test_days_that_are_none_of_the_calendar_are_left_out() -> None:
    """A market moved from around the clock to New York has rows of zeros on its former Saturdays."""
    saturday = day_row(SATURDAY)
    saturday["calendar"] = "XNYS"
    s = only(
        quoted(FRIDAY, 10.0, 11.0, calendar="XNYS"),
        saturday,
        quoted(MONDAY, 14.0, 14.0, calendar="XNYS"),
        as_of=MONDAY,
        lookback=3,
    )
    assert s["overnight_sd"] == 3.0
    assert s["day_hours"] == 6.5


def test_empty_window_gives_no_rows_and_every_column() -> None:
    rows = day_row(MONDAY).iloc[:0]
    window = Window.of(TUESDAY, 8, ["24/7", "XNYS"])
    empty = window_statistics(in_order(rows, window), window)
    assert len(empty) == 0
    assert list(empty.columns) == list(statistics(day_row(MONDAY), as_of=TUESDAY, lookback=8).columns)


# --- days that fade -----------------------------------------------------------------------------------------


def weighted(half_life: float | None, *rows: pd.DataFrame, as_of: date, lookback: int) -> pd.Series:
    together = pd.concat(rows, ignore_index=True)
    window = Window.of(as_of, lookback, ["24/7"])
    return window_statistics(in_order(together, window), window, half_life).iloc[0]


def test_older_days_count_for_less_in_volume_spread_and_volatility() -> None:
    """Half-life of a day: weights 1/8, 1/4, 1/2 and 1; the second day has no row, and is a day without a trade."""
    v, s, variance = np.array([80.0, 0.0, 20.0, 10.0]), np.array([8.0, 0.0, 2.0, 1.0]), np.array([64.0, 0.0, 4.0, 1.0])
    rows = [
        quoted(
            SATURDAY + timedelta(days=i),
            10.0,
            10.0,
            variance[i],
            volume=v[i],
            n_trades=5,
            realised_quarticity=3.0 * variance[i],
        ).assign(spread_seconds=100.0 * s[i], quoted_seconds=100.0)
        for i in (0, 2, 3)
    ]
    found = weighted(1.0, *rows, as_of=TUESDAY, lookback=4)
    w = np.array([1 / 8, 1 / 4, 1 / 2, 1.0])
    there = np.array([True, False, True, True])
    adv = (w * v).sum() / w.sum()
    assert found["adv"] == pytest.approx(adv, rel=1e-14)
    assert found["adv_se"] == pytest.approx(np.sqrt((w**2 * (v - adv) ** 2).sum() * 4 / 3) / w.sum(), rel=1e-14)
    spread = (w * s)[there].sum() / w[there].sum()
    assert found["spread"] == pytest.approx(spread, rel=1e-14)
    scatter = ((w * (s - spread))[there] ** 2).sum() * 3 / 2
    assert found["spread_se"] == pytest.approx(np.sqrt(scatter) / w[there].sum(), rel=1e-14)
    sigma = np.sqrt((w * variance)[there].sum() / w[there].sum())
    assert found["sigma"] == pytest.approx(sigma, rel=1e-14)
    error = np.sqrt(2 / 3 * (w**2 * 3 * variance)[there].sum()) / w[there].sum()  # of the variance
    assert found["sigma_se"] == pytest.approx(error / (2 * sigma), rel=1e-14)
    # What is counted stays a count.
    assert (found["n_days"], found["n_days_traded"], found["n_days_quoted"], found["n_trades"]) == (4, 3, 3, 15)


def test_half_life_without_end_is_no_half_life() -> None:
    rows = [
        quoted(
            SATURDAY + timedelta(days=i), 10.0, 11.0, 1.0 + i, volume=7.0 + i, n_trades=5 + i, realised_quarticity=1.0
        )
        for i in range(4)
    ]
    plain, endless = (weighted(h, *rows, as_of=TUESDAY, lookback=6) for h in (None, 1e12))
    for name in ("adv", "adv_se", "sigma", "sigma_se", "sigma_bipower"):
        assert endless[name] == pytest.approx(plain[name], rel=1e-9), name
