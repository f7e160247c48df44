"""The window's statistics against loops over its rows, and the moves between sessions."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from tick_tables import assert_same_rows

from tributary_opt import schema
from tributary_opt.market_data import volatility as v
from tributary_opt.market_data.buckets import zero_rows
from tributary_opt.market_data.calendars import trading_calendar
from tributary_opt.market_data.day_scatter import log_sigma_sd
from tributary_opt.market_data.market_days import Window, in_order
from tributary_opt.market_data.statistics import _listed, window_statistics
from tributary_opt.market_data.volatility import two_scale_variance

Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

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
    """A day on which the mid went from `first` to `last`, from one end of the session to the other."""
    values = {
        "n_mid_buckets": 2,
        "first_mid": first,
        "last_mid": last,
        "realised_variance": variance,
        "n_snapshots": 10,
    }
    row = day_row(day, **{**values, **more})
    return row.assign(first_mid_at=row["session_start"], last_mid_at=row["session_end"])


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


def test_window_of_a_market_that_was_listed_in_it_begins_with_its_first_row() -> None:
    """Three days before as_of; a market that trades on three days of thirty was there all the time."""

    def of(*back: int, looks: int | None = None) -> pd.Series:
        rows = [day_row(TUESDAY - timedelta(days=d), volume=10.0, n_trades=1) for d in sorted(back, reverse=True)]
        if looks is not None:
            rows = [day_row(TUESDAY - timedelta(days=looks), n_snapshots=5), *rows]
        return only(*rows, as_of=TUESDAY, lookback=30)

    listed = of(0, 1, 2)
    assert (listed["n_days"], listed["adv"], listed["adv_se"]) == (3, 10.0, 0.0)
    assert listed["window_start"] == pd.Timestamp(TUESDAY - timedelta(days=2), tz="UTC")
    for rare in (of(0, 11, 23), of(3, 9, 14), of(0, 1, 2, looks=29)):
        assert (rare["n_days"], rare["adv"]) == (30, 1.0)
    assert of(0)["n_days"] == 30  # its first night: a day of thirty may be chance
    assert of(0, 1)["n_days"] == 2
    withdrawn = [day_row(TUESDAY - timedelta(days=d)) for d in range(29, 3, -1)]  # an id that the source took back
    again = [day_row(TUESDAY - timedelta(days=d), volume=10.0 + d % 2, n_trades=1) for d in range(3, -1, -1)]
    after = only(*withdrawn, *again, as_of=TUESDAY, lookback=30)
    assert (after["n_days"], after["adv"]) == (4, 10.5)
    assert after["adv_se"] == pytest.approx(np.std([11, 10, 11, 10], ddof=1) / 2, rel=1e-12)
    assert of(*range(28))["n_days"] == 28
    assert of(*range(0, 28, 2))["n_days"] == 30  # every other day: two empty ones are chance


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.5])
def test_rarely_active_markets_are_taken_for_new_ones_in_less_than_one_case_of_a_hundred(share: float) -> None:
    active = np.random.default_rng(3).random((2_000, 30)) < share
    market, day = np.nonzero(active)
    window = Window.of(TUESDAY, 30, ["24/7"])
    calendar = np.full(2_000, "24/7", dtype=object)
    listed = ~np.isnat(_listed(day, np.ones(len(day), dtype=bool), market, calendar, window))
    assert listed.mean() < 0.012
    assert (listed & (active.sum(axis=1) == 1)).sum() == 0


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


def test_a_trading_day_is_as_long_as_those_of_the_window_are_on_average() -> None:
    """The Friday after Thanksgiving ends at 13:00: the night after it, hours of a day were those of a half one."""
    days = [date(2025, 11, 25), date(2025, 11, 26), date(2025, 11, 28)]
    rows = [day_row(d, calendar="XNYS", volume=6.0, n_trades=1) for d in days]
    assert only(*rows, as_of=days[-1], lookback=3)["day_hours"] == pytest.approx((6.5 + 6.5 + 3.5) / 3, rel=1e-15)
    together = pd.concat(rows, ignore_index=True)
    window = Window.of(days[-1], 3, ["XNYS"])
    fading = window_statistics(in_order(together, window), window, half_life_days=2.0).iloc[0]
    weights = 0.5 ** (np.array([3, 2, 0]) / 2.0)
    assert fading["day_hours"] == pytest.approx(weights @ [6.5, 6.5, 3.5] / weights.sum(), rel=1e-12)


# --- volatility ---------------------------------------------------------------------------------------------


def test_row_of_an_older_version_that_does_not_say_when_its_mids_began_counts_for_nothing() -> None:
    rows = [quoted(date(2024, 3, d), 10.0, 10.0, 4.0, n_mid_buckets=288, bipower_variance=4.0) for d in range(1, 7)]
    old = quoted(date(2024, 3, 7), 10.0, 10.0, 400.0, n_mid_buckets=288)
    old["first_mid_at"] = pd.Series([pd.NaT], dtype="datetime64[us, UTC]")
    s, without = (only(*of, as_of=date(2024, 3, 7), lookback=7) for of in ((*rows, old), rows))
    for name in ("sigma", "sigma_bipower"):
        assert s[name] == without[name]
        assert np.isfinite(s[name])
    assert s["sigma_se"] == pytest.approx(without["sigma_se"], rel=1e-12)


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


def simulated(
    n: int,
    n_days: int,
    moves: slice = slice(0, 77),
    *,
    seed: int = 5,
    noise: Noise = np.random.Generator.standard_normal,
) -> pd.DataFrame:
    """Days of New York of `n` markets whose σ is 1, with mids around some of the 77 moves of 5 minutes."""
    rng = np.random.default_rng(seed)
    rows, ids = [], [f"{i:03d}" for i in range(n)]
    for day in trading_calendar("XNYS").last_days(TUESDAY, n_days):
        seen = noise(rng, (n, 77))[:, moves] / np.sqrt(78)
        row = day_row(day, ids, calendar="XNYS").assign(n_mid_buckets=seen.shape[1] + 1, first_mid=10.0, last_mid=10.0)
        row["first_mid_at"] = row["session_start"] + pd.Timedelta(5 * moves.start + 4, "min")
        row["last_mid_at"] = row["session_start"] + pd.Timedelta(5 * moves.stop + 4, "min")
        rows.append(row.assign(realised_variance=(seen**2).sum(axis=1), realised_quarticity=(seen**4).sum(axis=1)))
    return pd.concat(rows)


@pytest.mark.parametrize(("moves", "least"), [(slice(0, 77), 0.0), (slice(0, 5), 0.3), (slice(20, 21), 0.33)])
def test_volatility_of_mids_is_that_of_the_time_they_cover_and_the_rest_is_in_its_error(
    moves: slice, least: float
) -> None:
    """The first half hour alone was 0.24 of the truth, two mids a day 0.1, with an error of 2 to 14 %."""
    s = statistics(simulated(200, 20, moves), as_of=TUESDAY, lookback=20)
    assert s["sigma"].mean() == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(s["sigma_covered"], (moves.stop - moves.start) / 78, rtol=1e-12)
    assert (s["sigma_se"] / s["sigma"]).min() > least
    if moves.stop == 77:
        assert (s["sigma_se"] / s["sigma"]).median() == pytest.approx(1 / np.sqrt(2 * 20 * 77), rel=0.2)
        assert (s["sigma_se"] / s["sigma"]).max() < 0.04


def with_trades(rows: pd.DataFrame, bars: int, variance: float = 1.0) -> pd.DataFrame:
    """The days with trades in their first so many bars."""
    return rows.assign(
        n_trades=10 * bars,
        n_trade_bars=bars,
        n_two_scale=bars - 1,
        two_scale_variance=variance * (bars - 1) / 78,
        first_trade_at=rows["session_start"] + pd.Timedelta(4, "min"),  # the one trade of the first bar
        last_trade_at=rows["session_start"] + pd.Timedelta(5 * bars - 1, "min"),
    )


@pytest.mark.parametrize(
    ("mids", "bars", "source"),
    [
        (77, 78, "realised_mid"),
        (40, 78, "realised_mid"),  # more than half: mids have no bounce
        (38, 78, "two_scale_trades"),
        (1, 10, "two_scale_trades"),
        (9, 10, "realised_mid"),
    ],
)
def test_mids_that_cover_little_give_way_to_trades_that_cover_more(mids: int, bars: int, source: str) -> None:
    rows = with_trades(simulated(1, 20, slice(0, mids)), bars)
    s = only(rows, as_of=TUESDAY, lookback=20)
    assert s["sigma_source"] == source
    assert s["sigma_two_scale"] == pytest.approx(1.0, rel=1e-12)
    assert s["sigma_covered"] == pytest.approx((mids if source == "realised_mid" else bars - 1) / 78, rel=1e-12)
    assert s["sigma"] == pytest.approx(1.0, abs=0.3)


def test_book_of_one_day_in_twenty_does_not_hide_the_trades_of_all() -> None:
    rows = with_trades(simulated(1, 20), 78)
    one_day = rows["day"] == rows["day"].max()
    rows = rows.assign(n_mid_buckets=np.where(one_day, 78, 0))
    assert only(rows, as_of=TUESDAY, lookback=20)["sigma_source"] == "two_scale_trades"
    # Where only the book is, it is measured by its own day.
    s = only(rows.assign(n_two_scale=0), as_of=TUESDAY, lookback=20)
    assert (s["sigma_source"], s["sigma_covered"]) == ("realised_mid", pytest.approx(77 / 78 / 20, rel=1e-12))


def test_frozen_book_does_not_hide_trades_that_move() -> None:
    rows = with_trades(simulated(1, 5), 78).assign(realised_variance=0.0, realised_quarticity=0.0)
    s = only(rows, as_of=TUESDAY, lookback=5)
    assert (s["sigma"], s["sigma_source"]) == (s["sigma_two_scale"], "two_scale_trades")
    still = only(rows.assign(two_scale_variance=0.0), as_of=TUESDAY, lookback=5)
    assert (still["sigma"], still["sigma_source"]) == (0.0, "realised_mid")


def test_moves_over_midnight_are_those_of_the_other_token_to_the_last_bit() -> None:
    rng = np.random.default_rng(6)
    rows = []
    for i in range(40):
        for day in (SUNDAY, MONDAY, TUESDAY):
            first, last, at_open, at_close = rng.uniform(0.01, 0.99, 4)
            row = quoted(day, first, last, 1e-6).assign(open_price=at_open, close_price=at_close, n_two_scale=20)
            row = row.assign(first_trade_at=row["session_start"], last_trade_at=row["session_end"])
            row = row.assign(market_id=f"P{i:02d}", token_id="a:no", folded_with="b:yes")
            prices = ["first_mid", "last_mid", "open_price", "close_price"]
            rows += [row, row.assign(token_id="b:yes", folded_with="a:no", **(1.0 - row[prices]).to_dict("series"))]
    s = statistics(*rows, as_of=TUESDAY, lookback=3)
    names = ["sigma", "sigma_se", "sigma_two_scale", "overnight_sd"]
    one, other = (s.loc[s["token_id"] == token, names].to_numpy() for token in ("a:no", "b:yes"))
    np.testing.assert_array_equal(one, other)


def t4(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_t(4, shape) / np.sqrt(2.0)


def varying(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal moves whose variance differs from day to day by a log-sd of 0.5, 1 in the mean."""
    return rng.standard_normal(shape) * np.exp(0.25 * rng.standard_normal((shape[0], 1)) - 0.0625)


@pytest.mark.parametrize("noise", [np.random.Generator.standard_normal, t4, varying])
def test_intervals_of_volatility_hold_the_truth_with_fat_tails_and_days_that_differ(noise: Noise) -> None:
    """800 markets of 30 days, to 92 to 97 % and two binomial errors. By the moves alone t(4) has 88 %, days that differ
    less."""
    s = statistics(simulated(800, 30, noise=noise), as_of=TUESDAY, lookback=30)
    covered = (np.abs(np.log(s["sigma"])) < scipy.stats.t.ppf(0.975, 29) * s["sigma_se"] / s["sigma"]).mean()
    assert 0.92 - 0.018 <= covered <= 0.97 + 0.012


@pytest.mark.parametrize("noise", [np.random.Generator.standard_normal, t4])
@pytest.mark.parametrize("bars", [10, 78])
def test_intervals_of_volatility_from_bouncing_trades_hold_the_truth(bars: int, noise: Noise) -> None:
    """By its formula alone, of constant variance, the error had t(4) in 85 %. 10 bars of 78 were 0.33 of the truth."""
    rng, n = np.random.default_rng(3), 300
    rows, ids = [], [f"{i:03d}" for i in range(n)]
    for day in trading_calendar("XNYS").last_days(TUESDAY, 30):
        prices = np.cumsum(noise(rng, (n, bars)), axis=1) / np.sqrt(78) + 0.1 * rng.choice([-1, 1], (n, bars))
        found = two_scale_variance(prices)
        row = with_trades(day_row(day, ids, calendar="XNYS"), bars).assign(two_scale_variance=found.variance)
        rows.append(row.assign(two_scale_error=found.error, noise_variance=found.noise))
    s = statistics(*rows, as_of=TUESDAY, lookback=30)
    assert set(s["sigma_source"]) == {"two_scale_trades"}
    assert s["sigma"].mean() == pytest.approx(1.0, abs=0.03)
    covered = (np.abs(np.log(s["sigma"])) < scipy.stats.t.ppf(0.975, 29) * s["sigma_se"] / s["sigma"]).mean()
    # Of a day that is hardly seen the rest counts for more than these days, all alike, need.
    assert 0.92 - 0.03 <= covered <= (0.97 + 0.02 if bars == 78 else 1.0)


def test_ranges_of_a_few_thick_bars_are_no_days_volatility() -> None:
    """10 of 288 bars with trades, all of them thick: 0.19 of the truth, with nothing to say so."""
    thick = {"n_trades": 500, "n_trade_bars": 288, "n_range_bars": 288, "parkinson_variance": 4.0}
    thick |= {"garman_klass_variance": 9.0, "rogers_satchell_variance": 16.0}
    spread = {"spread_seconds": 86_400 * 1e-3, "quoted_seconds": 86_400.0}
    s = only(day_row(TUESDAY, **thick, **spread), as_of=TUESDAY, lookback=1)
    assert (s["sigma_parkinson"], s["sigma_garman_klass"], s["sigma_rogers_satchell"]) == (2.0, 3.0, 4.0)
    thin = {**thick, "n_range_bars": 10, "n_trade_bars": 10}
    few = only(day_row(TUESDAY, **thin, **spread), as_of=TUESDAY, lookback=1)
    unknown = only(day_row(TUESDAY, **thick), as_of=TUESDAY, lookback=1)  # without a spread the bounce is not known
    for row in (few, unknown):
        assert row[["sigma_parkinson", "sigma_garman_klass", "sigma_rogers_satchell"]].isna().all()


@pytest.mark.parametrize(("of_spread", "published"), [(0.2, 0), (0.07, 1), (0.02, 3)])
def test_ranges_that_bounce_may_widen_by_a_tenth_are_refused(of_spread: float, published: int) -> None:
    """Bars of 200 trades; counted by its square alone, a spread of 0.6 σ was let through, and σ was 1.33 to 1.48."""
    rng = np.random.default_rng(9)
    mid = np.cumsum(rng.standard_normal((20_000, 200)), axis=1) / np.sqrt(200)
    prices = mid + of_spread / 2 * rng.choice([-1, 1], mid.shape)
    bars = (prices[:, 0], prices.max(axis=1), prices.min(axis=1), prices[:, -1])
    each = v.parkinson(*bars[1:3]), v.garman_klass(*bars), v.rogers_satchell(*bars)
    names = ("parkinson", "garman_klass", "rogers_satchell")
    sums = {
        f"{n}_variance": 288 * float(x.mean() / share)
        for n, x, share in zip(names, each, v.range_share(200), strict=True)
    }
    row = day_row(TUESDAY, n_trades=57_600, n_trade_bars=288, n_range_bars=288, **sums)
    row = row.assign(spread_seconds=86_400 * of_spread, quoted_seconds=86_400.0)
    found = only(row, as_of=TUESDAY, lookback=1)[[f"sigma_{n}" for n in names]].to_numpy(dtype=float)
    there = found[np.isfinite(found)]
    assert len(there) == published
    assert (np.abs(there**2 / 288 - 1) < 0.1).all()


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
                    least = column.name in ("n_snapshots", "n_two_sided", "n_trade_bars", "n_trades")  # or shares of 0
                    row[column.name] = row[column.name].dtype.type(rng.integers(least, 4))
                elif column.name.endswith("_by_hour"):
                    row[column.name] = [rng.uniform(0, 1, 24) * (rng.random() < 0.8)]
                elif column.name == "last_snapshot_at" and rng.random() < 0.8:
                    stamp = pd.Timestamp(day, tz="UTC") + pd.Timedelta(int(rng.integers(0, 86_400)), "s")
                    row[column.name] = pd.Series([stamp]).astype("datetime64[us, UTC]")
            for what, there in (("mid", True), ("trade", row["n_two_scale"].any() or row["n_trade_bars"].any())):
                # From some second to one in a bucket behind it.
                span = np.sort(rng.integers(0, int(row["n_buckets"].iloc[0]) * 300, 2)) + np.array([0, 300])
                for end, seconds in zip(("first", "last"), span if there else (), strict=False):
                    row[f"{end}_{what}_at"] = row["session_start"] + pd.Timedelta(int(seconds), "s")
            row["n_two_scale_mid"], row["slow_scale_error"] = np.int32(0), 0.0  # noise is taken off in test_noise.py
            if i % 3 == 0:  # thick bars with wide ranges
                row = row.assign(n_range_bars=row["n_buckets"], parkinson_variance=row["parkinson_variance"] * 1e6)
            rows.append(row)
    return pd.concat(rows, ignore_index=True).sample(frac=1, random_state=seed)


def one_by_one(rows: pd.DataFrame, days: list[date], calendar: str) -> dict[str, object]:
    """One market's statistics, as schema.py words them, in plain Python."""
    by_day = {r["day"].date(): r for r in rows.to_dict("records")}
    looked_at = ("n_trades", "n_bad_trades", "n_snapshots")
    active = [i for i, d in enumerate(days) if d in by_day and any(by_day[d][name] for name in looked_at)]
    if active and math.comb(len(days) - active[0], len(active)) < 0.01 * math.comb(len(days), len(active)):
        days = days[active[0] :]  # the day on which it was listed
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
    traded = sum(r["n_trades"] > 0 for r in have)
    measures = {
        "time_weighted_quoted": ratio(total("spread_seconds"), total("quoted_seconds")),
        "effective": ratio(total("effective_spread_volume"), total("effective_volume")),
        "edge": positive_root(ratio(total("edge_squared_bars"), total("n_edge_bars"))),
        "roll": positive_root(ratio(-4 * total("trade_products"), total("n_trade_products"))),
    }
    spread_source = next((name for name, spread in measures.items() if spread > 0), None)
    spread = measures[spread_source] if spread_source else np.nan
    of_mids, of_trades = mid_days(by_day, days, calendar), trade_days(by_day, days, calendar)
    mids, trades = volatility_of(of_mids, len(days)), volatility_of(of_trades, len(days))
    two_scale = trades if trades["sigma"] > 0 else {"sigma": np.nan, "se": np.nan, "covered": trades["covered"]}
    enough = mids["covered"] >= 0.5 or mids["covered"] >= trades["covered"]
    by_mids = np.isfinite(mids["sigma"]) and (np.isnan(two_scale["sigma"]) or (mids["sigma"] > 0 and enough))
    sigma = mids if by_mids else two_scale
    jumps_out = [(r["bipower_variance"], share(r, "mid")) for r in have if r["n_mid_buckets"] > 2]
    of_bars = [(r["trade_variance"], share_of_bars(r)) for r in have if r["n_trade_bars"] > 1]
    bars = total("n_range_bars")
    all_bars = sum(r["n_buckets"] for r in have if r["n_trades"] > 0)

    def of_ranges(name: str, times_move: float, squared: float) -> float:
        per_bar = ratio(total(name), bars)
        bounce = times_move * spread * np.sqrt(per_bar) + squared * spread**2
        return np.sqrt(ratio(total(name), traded)) if bars >= 0.9 * all_bars and bounce <= 0.1 * per_bar else np.nan

    late = newest("last_trade_at") - newest("last_mid_at") > pd.Timedelta(hours=1)
    price = np.nan if late else newest("last_mid")
    looked = [i for i, d in enumerate(days) if d in by_day and by_day[d]["n_mid_buckets"]]
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
        "mid_age": len(days) - 1 - looked[-1] if looked else np.nan,
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
        "n_days_spread": sum(r[SPREAD_DAYS[spread_source]] > 0 for r in have) if spread_source else 0,
        "effective_spread": measures["effective"] if measures["effective"] > 0 else np.nan,
        "edge_spread": measures["edge"],
        "roll_spread": measures["roll"],
        "mean_spread": ratio(total("spread_sum"), total("n_two_sided")),
        "mean_mid": ratio(total("mid_sum"), total("n_two_sided")),
        "sigma": sigma["sigma"],
        "sigma_se": sigma["se"],
        "sigma_source": "realised_mid" if by_mids else "two_scale_trades" if two_scale["sigma"] > 0 else None,
        "sigma_covered": sigma["covered"] if np.isfinite(sigma["sigma"]) else np.nan,
        "sigma_two_scale": two_scale["sigma"],
        "sigma_bipower": np.sqrt(ratio(*np.sum(jumps_out, axis=0))) if jumps_out else np.nan,
        "sigma_close_to_close": np.sqrt(ratio(*np.sum(of_bars, axis=0))) if of_bars else np.nan,
        "sigma_parkinson": of_ranges("parkinson_variance", 1.15, 0.36),
        "sigma_garman_klass": of_ranges("garman_klass_variance", 1.63, 0.51),
        "sigma_rogers_satchell": of_ranges("rogers_satchell_variance", 1.6, 0.5),
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


SPREAD_DAYS = {
    "time_weighted_quoted": "quoted_seconds",
    "effective": "effective_volume",
    "edge": "n_edge_bars",
    "roll": "n_trade_products",
}


def buckets_between(a: pd.Timestamp, b: pd.Timestamp) -> float:
    return (b.floor("5min") - a.floor("5min")) / pd.Timedelta("5min")


def share(row: dict, what: str) -> float:
    """Of the row's session, from its first price to its last one."""
    return (row[f"last_{what}_at"] - row[f"first_{what}_at"]) / (row["session_end"] - row["session_start"])


def share_of_bars(row: dict) -> float:
    """Of the row's session, from the bar of its first trade to that of its last one."""
    session = (row["session_end"] - row["session_start"]) / pd.Timedelta("5min")
    return buckets_between(row["first_trade_at"], row["last_trade_at"]) / session


def mid_days(by_day: dict[date, dict], days: list[date], calendar: str) -> list[tuple[float, float, float]]:
    """Variance, its variance and the share of the session, of each day with a path of mids."""
    out = []
    for before, day in zip([None, *days], days, strict=False):
        row, last = by_day.get(day), by_day.get(before)
        if row is None or row["n_mid_buckets"] < 2:
            continue
        variance, error, covered = row["realised_variance"], 2 / 3 * row["realised_quarticity"], share(row, "mid")
        if calendar == "24/7" and last is not None:
            gap = row["first_mid"] - last["last_mid"]
            if not np.isnan(gap):
                variance, error = variance + gap**2, error + 2 / 3 * gap**4
                covered += (row["first_mid_at"] - last["last_mid_at"]) / pd.Timedelta(days=1)
        out.append((variance, error, covered))
    return out


def trade_days(by_day: dict[date, dict], days: list[date], calendar: str) -> list[tuple[float, float, float]]:
    out = []
    for before, day in zip([None, *days], days, strict=False):
        row, last = by_day.get(day), by_day.get(before)
        if row is None or row["n_two_scale"] == 0:
            continue
        variance, error, covered = row["two_scale_variance"], row["two_scale_error"], share(row, "trade")
        if calendar == "24/7" and last is not None and last["n_two_scale"] > 0:
            gap = row["open_price"] - last["close_price"]
            variance += gap**2 - row["noise_variance"] - last["noise_variance"]
            error += 2 / 3 * gap**4
            covered += (row["first_trade_at"] - last["last_trade_at"]) / pd.Timedelta(days=1)
        out.append((variance, error, covered))
    return out


def volatility_of(paths: list[tuple[float, float, float]], n_days: int) -> dict[str, float]:
    if not paths:
        return {"sigma": np.nan, "se": np.nan, "covered": 0.0}
    variance, error, covered = np.array(paths).T
    of_day = variance.sum() / covered.sum()
    sigma = np.sqrt(of_day) if of_day >= 0 else np.nan
    unseen = max(1 - covered.sum() / len(paths), 0.0)
    of_days = log_sigma_sd(variance, error, covered, np.ones(len(paths)), np.array([0.35]), np.zeros(len(paths), int))
    return {"sigma": sigma, "se": sigma * np.hypot(of_days[0], 0.35 * unseen), "covered": covered.sum() / n_days}


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


def test_squares_of_the_flow_are_of_days_that_measured_them() -> None:
    """Retired days of an older version bring pairs only; a day without a signed trade counts."""
    knows = {"impact_5m_pairs": 100, "impact_5m_signed": 50, "flow_size_squared": 400.0}
    old, silent = {"impact_5m_pairs": 100, "impact_5m_signed": 50}, {"impact_5m_pairs": 100}
    for days, expected in (((knows, knows), 4.0), ((old, knows), 4.0), ((silent, knows), 2.0)):
        rows = [day_row(MONDAY + timedelta(days=i), n_trades=1, **of) for i, of in enumerate(days)]
        assert only(*rows, as_of=TUESDAY, lookback=2)["bucket_size_squared"] == expected
    assert np.isnan(only(day_row(TUESDAY, n_trades=1, **old), as_of=TUESDAY, lookback=2)["bucket_size_squared"])


def test_newest_row_is_told_in_trading_days() -> None:
    def since(*days: date, **window: object) -> int:
        rows = [day_row(d, calendar="XNYS", n_trades=1) for d in days]
        return only(*rows, day_row(THURSDAY, calendar="XNYS"), as_of=TUESDAY, lookback=4, **window)["days_since_newest"]

    assert since(TUESDAY) == 0
    assert since(FRIDAY, MONDAY) == 1
    assert since(FRIDAY) == 2  # over the weekend
    assert since() == 4  # rows of zeros only: no row at all


def test_price_is_that_of_trades_where_the_book_is_no_longer_recorded() -> None:
    """The book's feed died on Monday at 10:00; trades went on."""

    def after(hours: float) -> pd.Series:
        looked = pd.Timestamp(MONDAY, tz="UTC") + pd.Timedelta(hours=10)
        of_trades = {"n_trades": 9, "close_price": 60.0, "last_trade_at": looked + pd.Timedelta(hours=hours)}
        monday = day_row(MONDAY, n_mid_buckets=9, n_snapshots=9, last_mid=50.0, last_mid_at=looked)
        return only(monday, day_row(TUESDAY, **of_trades), as_of=TUESDAY, lookback=4)

    for hours, price, source in ((1.0, 50.0, "mid"), (1.01, 60.0, "last_trade"), (30.0, 60.0, "last_trade")):
        s = after(hours)
        assert (s["price"], s["price_source"]) == (price, source)
        assert (s["days_since_newest"], s["mid_age"]) == (0, 1)
    assert np.isnan(only(day_row(TUESDAY, n_trades=1), as_of=TUESDAY, lookback=4)["mid_age"])


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
    of_days = log_sigma_sd(
        variance[there], 2 * variance[there], np.ones(3), w[there], np.array([0.35]), np.zeros(3, dtype=int)
    )
    assert found["sigma_se"] == pytest.approx(sigma * of_days[0], rel=1e-14)
    # What is counted stays a count.
    assert (found["n_days"], found["n_days_traded"], found["n_days_quoted"], found["n_trades"]) == (4, 3, 3, 15)


def test_half_life_without_end_is_no_half_life() -> None:
    rows = [
        quoted(
            SATURDAY + timedelta(days=i), 10.0, 11.0, 1.0 + i, volume=7.0 + i, n_trades=5 + i, realised_quarticity=1.0
        ).assign(n_mid_buckets=3, bipower_variance=1.0 + i)
        for i in range(4)
    ]
    plain, endless = (weighted(h, *rows, as_of=TUESDAY, lookback=6) for h in (None, 1e12))
    for name in ("adv", "adv_se", "sigma", "sigma_se", "sigma_bipower"):
        assert endless[name] == pytest.approx(plain[name], rel=1e-9), name
