"""Statistics of a window: market days added up to one row a market.

Average daily volume counts every trading day of the window, those without a trade included. Volatility is within
sessions, per √trading day; the move between sessions stands beside it. It is the variance of the paths that were seen
over the time that they cover: a path of half an hour a day is no day's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from tributary_opt.market_data import noise
from tributary_opt.market_data.calendars import ALWAYS_OPEN
from tributary_opt.market_data.day_scatter import DAY_LOG_SD, log_sigma_sd
from tributary_opt.market_data.hour_profiles import Profiles, profiles
from tributary_opt.market_data.market_days import Window
from tributary_opt.market_data.noise import NOISY
from tributary_opt.market_data.source import BUCKET_MINUTES
from tributary_opt.market_data.spread import root
from tributary_opt.market_data.volatility import most_too_much

MIN_WALK_SHARE = 0.9
"""Share of the looks with depth that must hold the walked order for its mean cost to be one. [-]"""

LISTED_CHANCE = 0.01
"""Empty days before a market's first row are none of its window where chance explains them less often. [-]"""

MID_STALE_AFTER = np.timedelta64(1, "h")
"""A mid so much older than the newest trade is no arrival price any more: the trade is."""

MIN_COVERED = 0.5
"""Mids that span less of the window's session time give way to trades that span more: of less than half, more is
filled in than seen. [-]"""

UNSEEN_LOG_SD = 0.35
"""How far the volatility of a time of day lies from its day's: by half hours, log σ of the recorded stocks and coins
(AIG, BAC, Bitcoin, Litecoin) scatters by 0.26 to 0.36. It counts with the share of the days that was not seen. [-]"""

RANGE_BOUNCE = {
    "parkinson_variance": (1.15, 0.36),
    "garman_klass_variance": (1.63, 0.51),
    "rogers_satchell_variance": (1.6, 0.5),
}
"""What a spread s adds to the variance σ² of a bar at most: that much of sσ, and that much of s². A range grows by s at
both its ends together, so that its square grows by 2 s E[range] + s², with E[range] = √(8/π) σ. [-]"""

MAX_RANGE_BOUNCE = 0.1
"""A range that may owe more of its variance to bounce says nothing. [-]"""

PERSISTS = 0.5
"""How likely noise, where there is some, lasts longer than from price to price, before anything was seen. [-]"""

MAX_UNEVEN = 3.0
"""How far from constant within a day variance is taken to be at most: Σ of its square over that of its mean. [-]"""


def day_weights(rows: pd.DataFrame, window: Window, half_life_days: float | None) -> np.ndarray:
    """What each row's day counts for: half of it every `half_life_days` before `as_of`; None: 1 throughout."""
    return _weights(_plain(rows["day"]), window, half_life_days)


def window_statistics(rows: pd.DataFrame, window: Window, half_life_days: float | None = None) -> pd.DataFrame:
    """One row for every market with a row in the window.

    Parameters
    ----------
    rows : DataFrame
        Rows of `ac_market_days`, sorted by market, token and day, as `MarketDays.load` gives them; from `cut_at_jumps`,
        a market's window begins with its jump. It begins with its first row where that is rather a listing than a
        market that is only rarely active.
    window : Window
    half_life_days : float, optional
        Age at which a day counts for half in average daily volume, spreads and volatilities, and in their errors; their
        counts, the profiles and the move between sessions leave it aside. None: all days count the same. [day]

    Returns
    -------
    DataFrame
        market_id, token_id and the statistics that `ac_parameters` names (units there), and `days_since_newest`:
        trading days between the newest source row and `as_of`. What cannot be measured is NaN. It does not depend on
        which other markets there are.
    """
    first = _starts(rows)
    group = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(rows))))
    last = np.append(first[1:], len(rows)) - 1 if len(rows) else first

    def total(name: str) -> np.ndarray:
        return _sums(group, rows[name].to_numpy(dtype=float), len(first))

    weights = day_weights(rows, window, half_life_days)

    def decayed(name: str) -> np.ndarray:
        return _sums(group, weights * rows[name].to_numpy(dtype=float), len(first))

    def days_with(name: str) -> np.ndarray:
        return _sums(group, np.where(rows[name].to_numpy() > 0, weights, 0.0), len(first))

    def count(name: str) -> np.ndarray:
        return total(name).astype(np.int64)

    def newest(name: str) -> np.ndarray:
        return _newest(_plain(rows[name]), group, len(first))

    calendar, folded = (rows[name].to_numpy(dtype=object)[last] for name in ("calendar", "folded_with"))
    jump, since = _jumps(rows, last)
    place = _place_in_window(rows, window)
    seen = ((rows["n_trades"] > 0) | (rows["n_bad_trades"] > 0) | (rows["n_snapshots"] > 0)).to_numpy()
    since = np.where(np.isnat(since), _listed(place, seen, group, calendar, window), since)
    n_days = _days_from(since, calendar, window)
    begins = _of_calendar(calendar, lambda code: _first_day(window, code), "datetime64[us]")
    volume = rows["volume"].to_numpy(dtype=float)
    days, days_squared = (_weight_from(since, calendar, window, half_life_days, power) for power in (1, 2))
    adv = decayed("volume") / np.where(days > 0, days, 1.0)
    # Days without a row are days without a trade: they count in the variance as in the mean.
    counted = np.where(_plain(rows["day"]) < since[group], 0.0, weights)  # rows of nothing before a listing
    spread_of_days = _sums(group, (counted * (volume - adv[group])) ** 2, len(first))
    spread_of_days += np.maximum(days_squared - _sums(group, counted**2, len(first)), 0.0) * adv**2
    # Volume and variance are those of a mean day, not of the newest one, which may have ended at noon.
    hours = (rows["session_end"] - rows["session_start"]).dt.total_seconds().to_numpy(dtype=float) / 3600.0
    known = weights * (hours > 0)  # a day without a session has none
    with np.errstate(invalid="ignore"):
        day_hours = _sums(group, known * np.nan_to_num(hours), len(first)) / _sums(group, known, len(first))
    # Of days that an older version measured, whose ticks have retired, the squares are not known.
    squared = (rows["flow_size_squared"].gt(0) | rows["impact_5m_signed"].eq(0)).to_numpy()
    n_snapshots, n_two_sided = total("n_snapshots"), total("n_two_sided")
    of_mids, overnight = _mid_paths(rows, group, len(first), place)
    noisy = pd.Series(rows["kind"].to_numpy(dtype=object)[last]).map(NOISY).fillna(NOISY["price"]).to_numpy(dtype=float)
    of_mids, mid_noise = _less_noise(of_mids, rows, "mid", weights, noisy, group)
    of_trades = _trade_paths(rows, group, place)
    of_trades, bounce = _less_noise(of_trades, rows, "trade", weights, np.full(len(first), PERSISTS), group)
    n_quoted = _sums(group, rows["n_mid_buckets"].to_numpy() > 1, len(first))
    n_trades, n_bars, n_traded_days = (
        total("n_trades"),
        total("n_trade_bars"),
        _days_with(rows, "n_trades", group, len(first)),
    )
    traded_days = days_with("n_trades")
    mid, last_trade_price = newest("last_mid"), newest("close_price")

    last_trade, last_snapshot, last_mid = (newest(f"last_{what}_at") for what in ("trade", "snapshot", "mid"))
    # A book that is no longer recorded, or has one side left, says nothing of a price that trades have moved since.
    arrival_mid = np.where(last_trade - last_mid > MID_STALE_AFTER, np.nan, mid)
    quoted = (rows["n_mid_buckets"] > 0).to_numpy()
    newest_day, newest_mid_day = (_newest(_plain(rows["day"].where(has)), group, len(first)) for has in (seen, quoted))
    with np.errstate(divide="ignore", invalid="ignore"):
        spreads = {
            "time_weighted_quoted": _positive(decayed("spread_seconds") / decayed("quoted_seconds")),
            "effective": _positive(decayed("effective_spread_volume") / decayed("effective_volume")),
            "edge": root(decayed("edge_squared_bars") / decayed("n_edge_bars")),
            "roll": root(-4.0 * decayed("trade_products") / decayed("n_trade_products")),
        }
        spread, spread_source = _first_of(spreads)
        spread_se, n_days_spread = _spread_error(rows, group, len(first), spread, spread_source, weights)
        by_mids, by_trades, by_products, by_bars = (
            _volatility(paths, group, len(first), weights, days)
            for paths in (of_mids, of_trades, _bipower_paths(rows), _bar_paths(rows))
        )
        two_scale = _positive(by_trades.value)
        # Mids that stand still, or that span little, give way to trades that do not.
        spans = (by_mids.covered >= MIN_COVERED) | (by_mids.covered >= by_trades.covered)
        sound = (spans & (by_mids.value > 0)) | np.isnan(two_scale)
        sigma, sigma_source = _first_of(
            {"realised_mid": np.where(sound, by_mids.value, np.nan), "two_scale_trades": two_scale}
        )
        chosen = sigma_source == "realised_mid"
        sigma_source[chosen & (mid_noise.taken > 0.5)] = "two_scale_mid"
        undecided = np.where(chosen, mid_noise.log_sd, bounce.log_sd)
        log_sd = _log_sd(
            _Paths(*(np.where(chosen[group], *of) for of in zip(of_mids, of_trades, strict=True))),
            np.where(chosen, by_mids.unseen, by_trades.unseen),
            rows["kind"].to_numpy(dtype=object)[last],
            group,
            weights,
        )
        session_bars = _sums(group, np.where(rows["n_trades"].to_numpy() > 0, rows["n_buckets"], 0), len(first))
        thick = total("n_range_bars") >= 0.9 * session_bars

        def of_ranges(name: str) -> np.ndarray:
            times_move, squared = RANGE_BOUNCE[name]
            variance = total(name) / total("n_range_bars")
            bounce = times_move * spread * np.sqrt(np.maximum(variance, 0.0)) + squared * spread**2
            ranged = thick & (bounce <= MAX_RANGE_BOUNCE * variance)
            return np.where(ranged, np.sqrt(_positive(decayed(name)) / traded_days), np.nan)

        price, price_source = _first_of({"mid": arrival_mid, "last_trade": last_trade_price})
        return pd.DataFrame(
            {
                "market_id": rows["market_id"].to_numpy()[last],
                "token_id": rows["token_id"].to_numpy()[last],
                "folded_with": np.where(folded == "", None, folded),
                "calendar": calendar,
                "day_hours": day_hours,
                "window_start": _utc(np.fmax(begins, since)),
                "window_end": _utc([_last_day(window, code) for code in calendar]),
                "n_days": n_days.astype(np.int32),
                "n_days_traded": n_traded_days.astype(np.int32),
                "n_days_quoted": n_quoted.astype(np.int32),
                "days_since_newest": _days_since(newest_day, calendar, window),
                "mid_age": np.where(
                    np.isnat(newest_mid_day), np.nan, _days_since(newest_mid_day, calendar, window).astype(float)
                ),
                "n_trades": count("n_trades"),
                "n_bad_trades": count("n_bad_trades"),
                "n_snapshots": count("n_snapshots"),
                "two_sided_share": n_two_sided / n_snapshots,
                "one_sided_share": total("n_one_sided") / n_snapshots,
                "crossed_share": total("n_crossed") / n_snapshots,
                "empty_share": total("n_empty") / n_snapshots,
                "signed_share": (total("buy_volume") + total("sell_volume")) / total("volume"),
                "side_method": _side_method(total("n_signed"), total("n_quote_rule"), total("n_tick_rule")),
                "inferred_share": (total("n_quote_rule") + total("n_tick_rule")) / n_trades,
                "sides_compared": count("n_sides_compared"),
                "sides_contradicted": total("contradicted_volume") / total("compared_volume"),
                "sides_compared_alike": total("compared_volume") ** 2 / total("compared_size_squared"),
                "quote_rule_share": total("n_quote_rule") / total("n_signed"),
                "fresh_rule_share": total("n_quote_rule_fresh") / total("n_signed"),
                "tick_rule_share": total("n_tick_rule") / total("n_signed"),
                "coverage": total("n_mid_buckets") / _session_buckets(rows, group, len(first), n_days),
                "active_hours": count("active_hours").astype(np.int32),
                "last_trade_at": _utc(last_trade),
                "last_snapshot_at": _utc(last_snapshot),
                "adv": adv,
                "adv_se": np.where(
                    n_days > 1, np.sqrt(spread_of_days * n_days / np.maximum(n_days - 1, 1)) / days, np.nan
                ),
                "price": price,
                "price_source": price_source,
                "last_trade_price": last_trade_price,
                "spread": spread,
                "spread_se": spread_se,
                "spread_source": spread_source,
                "n_days_spread": n_days_spread.astype(np.int32),
                "quoted_spread": spreads["time_weighted_quoted"],
                "effective_spread": spreads["effective"],
                "edge_spread": spreads["edge"],
                "roll_spread": spreads["roll"],
                "mean_spread": total("spread_sum") / n_two_sided,
                "mean_mid": total("mid_sum") / n_two_sided,
                "sigma": sigma,
                "sigma_se": sigma * np.hypot(log_sd, undecided),
                "sigma_source": sigma_source,
                "sigma_covered": np.where(
                    np.isfinite(sigma), np.where(chosen, by_mids.covered, by_trades.covered), np.nan
                ),
                "sigma_two_scale": two_scale,
                "sigma_bipower": by_products.value,
                "sigma_parkinson": of_ranges("parkinson_variance"),
                "sigma_garman_klass": of_ranges("garman_klass_variance"),
                "sigma_rogers_satchell": of_ranges("rogers_satchell_variance"),
                "sigma_close_to_close": by_bars.value,
                **_walk_columns(total),
                "bucket_size_squared": decayed("flow_size_squared")
                / _sums(group, weights * squared * rows["impact_5m_pairs"].to_numpy(dtype=float), len(first)),
                "compared_size": total("compared_size_squared") / total("compared_volume"),
                "trades_per_bar": n_trades / n_bars,
                "overnight_sd": overnight,
                **_profile_columns("volume", _profile(rows, "volume_by_hour", group, len(first))),
                **_profile_columns("variance", _profile(rows, "variance_by_hour", group, len(first), mid_noise.share)),
                "source_jump": jump,
            }
        )


def _walk_columns(total: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
    """The mean order walked through the books and what it paid; where too few looks hold it, only the deep ones would
    speak, and cheaply: then there is no number."""
    n_depth, n_walked = total("n_depth"), total("n_walked")
    share = n_walked / n_depth
    held = share >= MIN_WALK_SHARE
    cost = np.where(held, total("walk_cost") / n_walked, np.nan)
    reason = np.where(n_depth == 0, "no_depth", "too_thin").astype(object)
    reason[held] = None
    return {
        "walk_size": total("walk_size") / n_walked,
        "walk_share": share,
        "walk_cost": cost,
        "walk_half_spreads": np.where(held, total("walk_cost") / total("walk_half_spread"), np.nan),
        "walk_reason": reason,
    }


def _side_method(n_signed: np.ndarray, n_quote_rule: np.ndarray, n_tick_rule: np.ndarray) -> np.ndarray:
    """How each market's aggressors are known; None where none is."""
    n_given = n_signed - n_quote_rule - n_tick_rule
    inferred = np.where(n_quote_rule > 0, "quote_rule", "tick_rule").astype(object)
    method = np.where(n_given == n_signed, "given", np.where(n_given > 0, "mixed", inferred)).astype(object)
    method[n_signed == 0] = None
    return method


def _sums(group: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Sum by group, always as doubles: bincount of nothing gives integers, whatever its weights."""
    return np.bincount(group, weights=values, minlength=n).astype(float, copy=False)


def _starts(rows: pd.DataFrame) -> np.ndarray:
    """Place of each market's first row."""
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    market, token = rows["market_id"].to_numpy(), rows["token_id"].to_numpy()
    return np.flatnonzero(np.append(True, (market[1:] != market[:-1]) | (token[1:] != token[:-1])))


def _first_of(measures: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The first measure that is a number, and its name; NaN and None where none is."""
    value, name = (np.full(len(next(iter(measures.values()))), empty, dtype=kind)
                   for empty, kind in ((np.nan, float), (None, object)))  # fmt: skip
    for source, measured in reversed(measures.items()):
        there = np.isfinite(measured)
        value[there], name[there] = measured[there], source
    return value, name


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)


def _spread_error(
    rows: pd.DataFrame, group: np.ndarray, n: int, spread: np.ndarray, source: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Standard error of a ratio of sums over days, from how the days scatter about it, NaN below two days; and of how
    many days the ratio is."""
    out, n_days = np.full(n, np.nan), np.zeros(n)
    of_square = {"edge", "roll"}
    for name, (top, bottom, factor) in _SPREAD_SUMS.items():
        mine = source == name
        x, w = weights * rows[top].to_numpy(dtype=float) * factor, weights * rows[bottom].to_numpy(dtype=float)
        ratio = spread**2 if name in of_square else spread
        days = _sums(group, w > 0, n)
        n_days[mine] = days[mine]
        scatter = _sums(group, np.where(mine[group], x - np.nan_to_num(ratio)[group] * w, 0.0) ** 2, n)
        error = np.sqrt(scatter * days / (days - 1)) / _sums(group, w, n)
        mine &= days > 1
        out[mine] = (error / (2.0 * spread) if name in of_square else error)[mine]
    return out, n_days


_SPREAD_SUMS = {
    "time_weighted_quoted": ("spread_seconds", "quoted_seconds", 1.0),
    "effective": ("effective_spread_volume", "effective_volume", 1.0),
    "edge": ("edge_squared_bars", "n_edge_bars", 1.0),
    "roll": ("trade_products", "n_trade_products", -4.0),
}


class _Paths(NamedTuple):
    """What the paths of one kind of price say, by market day; 0 where there is none."""

    variance: np.ndarray
    """Of the path. [price²]"""
    error: np.ndarray
    """Variance of `variance`. [price⁴]"""
    covered: np.ndarray
    """Share of the day's session from the first price of the path to the last one. [-]"""


@dataclass(frozen=True)
class _Noise:
    """What noise adds to the variance of paths, by market."""

    taken: np.ndarray
    """How far the slower estimates stand for the faster one: 0 not at all, 1 alone. [-]"""
    share: np.ndarray
    """Of the variance, taken off; 0 where no variance was left. [-]"""
    log_sd: np.ndarray
    """What is open about it, in the logarithm of σ. [-]"""


@dataclass(frozen=True)
class _Volatility:
    """What paths say of σ, by market."""

    value: np.ndarray
    """NaN without a path, and where noise left a negative variance. [price/√day]"""
    covered: np.ndarray
    """Share of the window's session time that the paths cover. [-]"""
    unseen: np.ndarray
    """Share of the session time of days with a path that it does not cover. [-]"""


def _volatility(paths: _Paths, group: np.ndarray, n: int, weights: np.ndarray, days: np.ndarray) -> _Volatility:
    """σ of paths that cover parts of days, √(Σ variance / Σ covered)."""
    total = _sums(group, weights * paths.covered, n)
    variance = _sums(group, weights * paths.variance, n) / total
    unseen = np.maximum(1.0 - total / _sums(group, weights * (paths.covered > 0), n), 0.0)
    return _Volatility(np.sqrt(np.where(variance >= 0, variance, np.nan)), total / days, unseen)


def _log_sd(paths: _Paths, unseen: np.ndarray, kind: np.ndarray, group: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Error of log σ by market: from the moves, from how days differ, and from what the days did not cover."""
    prior = np.where(kind == "probability", DAY_LOG_SD["probability"], DAY_LOG_SD["price"])
    of_days = log_sigma_sd(paths.variance, paths.error, paths.covered, weights, prior, group)
    return np.hypot(of_days, UNSEEN_LOG_SD * unseen)


def _mid_paths(rows: pd.DataFrame, group: np.ndarray, n: int, place: np.ndarray) -> tuple[_Paths, np.ndarray]:
    """Paths of mids, the first one and the last ones of buckets, and by market the rms move between sessions.

    Rows of older versions, whose ticks have retired, do not say when their paths began: they count for nothing.
    """
    quoted = (rows["n_mid_buckets"].to_numpy() > 1) & rows["first_mid_at"].notna().to_numpy()
    begins, ends = _plain(rows["first_mid_at"]), _plain(rows["last_mid_at"])
    # Var(RV) ≈ (2/3) Σ r⁴ (Barndorff-Nielsen & Shephard 2002).
    variance, error, covered = (
        np.where(quoted, values, 0.0)
        for values in (
            rows["realised_variance"].to_numpy(dtype=float),
            2.0 / 3.0 * rows["realised_quarticity"].to_numpy(dtype=float),
            _between(begins, ends) / _session(rows),
        )
    )
    # From the last mid of a trading day to the first of the next, where neither day is missing in between.
    gap = _either_axis(rows, "first_mid")[1:] - _either_axis(rows, "last_mid")[:-1]
    neighbours = _neighbours(group, place, gap)
    squared = np.where(neighbours, gap, 0.0) ** 2
    between = _sums(group[1:], squared, n)
    n_gaps = _sums(group[1:], neighbours, n)

    # Around the clock there is no night: the move into a day's first bucket is one more move of the session.
    always = neighbours & (rows["calendar"].to_numpy() == ALWAYS_OPEN)[1:] & quoted[1:]
    variance[1:] += np.where(always, squared, 0.0)
    error[1:] += np.where(always, 2.0 / 3.0 * squared**2, 0.0)
    covered[1:] += np.where(always, _between(ends[:-1], begins[1:]) / _session(rows)[1:], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _Paths(variance, error, covered), np.sqrt(between / n_gaps)


def _less_noise(
    paths: _Paths, rows: pd.DataFrame, what: str, weights: np.ndarray, noisy: np.ndarray, group: np.ndarray
) -> tuple[_Paths, _Noise]:
    """The paths with what slower scales call noise taken off: first noise from price to price, then what persists."""
    of, steps, less = noise.Paths(paths.variance, paths.error), [], np.zeros(len(noisy))
    n_moves = rows[_MOVES[what]].to_numpy(dtype=float)
    # A slow error of 0 is that of a row of an older version, which knows of no slower scale.
    there = (paths.covered > 0) & (n_moves > 0) & (rows[_SCALES[what][-1][1][0]].to_numpy(dtype=float) > 0)
    # The slower errors are those of constant variance; how far from constant it is, the fourth powers show, and single
    # jumps, which hardly cost the slower estimates more: hence a bound.
    even = np.where(there, (weights * paths.variance) ** 2 * 2.0 / np.maximum(n_moves, 1.0), 0.0)
    fourth, even = (_sums(group, of_days, len(noisy)) for of_days in (there * weights**2 * paths.error, even))
    bound = MAX_UNEVEN if what == "mid" else 1.0
    uneven = np.clip(fourth / np.where(even > 0, even, np.inf), 1.0, bound)[group]
    for fast, slow in pairwise(_SCALES[what]):
        before, behind = ([rows[name].to_numpy(dtype=float) * k for name, k in scale] for scale in (fast, slow))
        behind[1] = behind[1] * uneven
        if fast is not _SCALES[what][0]:
            before[1] = before[1] * uneven
        # What the path has beside the day's own moves, the one over midnight, stays as it is.
        slower = noise.Paths(*(np.where(there, a - b + c, a) for a, b, c in zip(of, before, behind, strict=True)))
        last = slow is _SCALES[what][-1]
        found = noise.less_noise(of, slower, there, weights, noisy, group, less, last=last)
        # Only noise that is there can persist, or alternate so that too much of it was taken off.
        too_much = weights * (of.variance - found.paths.variance) * most_too_much(n_moves)
        less = _sums(group, too_much, len(noisy))
        of, noisy = found.paths, found.noisy * PERSISTS
        steps.append(found)
    raw, left = (_sums(group, weights * of_days, len(noisy)) for of_days in (paths.variance, of.variance))
    known, undecided = left > 0, np.sum([step.undecided for step in steps], axis=0)
    return _Paths(of.variance, of.error, paths.covered), _Noise(
        taken=np.max([step.taken for step in steps], axis=0),
        share=np.where(known, 1.0 - left / np.where(known, raw, 1.0), 0.0),
        log_sd=np.sqrt(undecided) / np.where(known, left, np.inf) / 2.0,
    )


_MOVES = {"mid": "n_two_scale_mid", "trade": "n_two_scale"}
_SCALES = {
    "mid": (
        (("realised_variance", 1.0), ("realised_quarticity", 2.0 / 3.0)),
        (("two_scale_mid_variance", 1.0), ("two_scale_mid_error", 1.0)),
        (("slow_scale_mid_variance", 1.0), ("slow_scale_mid_error", 1.0)),
    ),
    "trade": (
        (("two_scale_variance", 1.0), ("two_scale_error", 1.0)),
        (("slow_scale_variance", 1.0), ("slow_scale_error", 1.0)),
    ),
}
"""Variance and error of estimates from fast to slow."""


def _trade_paths(rows: pd.DataFrame, group: np.ndarray, place: np.ndarray) -> _Paths:
    """Paths of trades, the first one and the last ones of bars, their bounce taken out."""
    measured = rows["n_two_scale"].to_numpy() > 0
    begins, ends = _plain(rows["first_trade_at"]), _plain(rows["last_trade_at"])
    variance, error, covered = (
        np.where(measured, values, 0.0)
        for values in (
            rows["two_scale_variance"].to_numpy(dtype=float),
            rows["two_scale_error"].to_numpy(dtype=float),
            _between(begins, ends) / _session(rows),
        )
    )
    # Around the clock the move from the last trade of a day to the first of the next belongs to the session, less the
    # bounce at both ends of it.
    noise = rows["noise_variance"].to_numpy(dtype=float)
    gap = _either_axis(rows, "open_price")[1:] - _either_axis(rows, "close_price")[:-1]
    always = _neighbours(group, place, gap) & (rows["calendar"].to_numpy() == ALWAYS_OPEN)[1:]
    always &= measured[1:] & measured[:-1]
    squared = np.where(always, gap, 0.0) ** 2
    variance[1:] += np.where(always, squared - noise[1:] - noise[:-1], 0.0)
    error[1:] += 2.0 / 3.0 * squared**2
    covered[1:] += np.where(always, _between(ends[:-1], begins[1:]) / _session(rows)[1:], 0.0)
    return _Paths(variance, error, covered)


def _bipower_paths(rows: pd.DataFrame) -> _Paths:
    """Paths of mids within days, jumps left out; without an error."""
    measured = (rows["n_mid_buckets"].to_numpy() > 2) & rows["first_mid_at"].notna().to_numpy()
    covered = _between(_plain(rows["first_mid_at"]), _plain(rows["last_mid_at"])) / _session(rows)
    variance = np.where(measured, rows["bipower_variance"].to_numpy(dtype=float), 0.0)
    return _Paths(variance, np.zeros(len(rows)), np.where(measured, covered, 0.0))


def _bar_paths(rows: pd.DataFrame) -> _Paths:
    """Paths of the last trades of bars within days, bounce and all; without an error."""
    measured = rows["n_trade_bars"].to_numpy() > 1
    covered = (_bucket(rows["last_trade_at"]) - _bucket(rows["first_trade_at"])) / _session(rows)
    variance = np.where(measured, rows["trade_variance"].to_numpy(dtype=float), 0.0)
    return _Paths(variance, np.zeros(len(rows)), np.where(measured, covered, 0.0))


_BUCKET = np.timedelta64(BUCKET_MINUTES, "m")


def _bucket(times: pd.Series) -> np.ndarray:
    """The bucket of the clock that each time is in; NaN for none."""
    stamps = _plain(times)
    of_clock = stamps.astype("datetime64[m]").astype(np.int64) // BUCKET_MINUTES
    return np.where(np.isnat(stamps), np.nan, of_clock)


def _between(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """Time from one to another, in buckets; NaN where either is missing."""
    return np.asarray((later - earlier) / _BUCKET)


def _session(rows: pd.DataFrame) -> np.ndarray:
    """Length of each row's session, in buckets."""
    return np.asarray((_plain(rows["session_end"]) - _plain(rows["session_start"])) / _BUCKET)


def _either_axis(rows: pd.DataFrame, name: str) -> np.ndarray:
    """A price, of a pair's first token as its second one has it: so that both have the same moves to the last bit."""
    price, other = rows[name].to_numpy(dtype=float), rows["folded_with"].to_numpy(dtype=object)
    first = (other != "") & (rows["token_id"].to_numpy(dtype=object) < other)
    return np.where(first, 1.0 - price, price)


def _neighbours(group: np.ndarray, place: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Rows but the first whose row before is the same market's, of the trading day before, with a move in between."""
    return np.asarray((group[1:] == group[:-1]) & (np.diff(place) == 1) & np.isfinite(gap))


def _place_in_window(rows: pd.DataFrame, window: Window) -> np.ndarray:
    """Which trading day of its calendar each row is."""
    days = _plain(rows["day"]).astype("datetime64[D]")
    place = np.zeros(len(rows), dtype=np.int64)
    for code, of_calendar in window.days.items():
        mine = (rows["calendar"] == code).to_numpy()
        place[mine] = np.searchsorted(np.array(of_calendar, dtype="datetime64[D]"), days[mine])
    return place


def _days_since(newest: np.ndarray, calendar: np.ndarray, window: Window) -> np.ndarray:
    """Trading days from the newest row to the window's end; the window's length where there is no row."""
    days = newest.astype("datetime64[D]")
    since = np.zeros(len(days), dtype=np.int64)
    for code, of_calendar in window.days.items():
        mine = calendar == code
        place = np.searchsorted(np.array(of_calendar, dtype="datetime64[D]"), days[mine])
        since[mine] = len(of_calendar) - 1 - place
        since[mine & np.isnat(days)] = len(of_calendar)
    return since


def _session_buckets(rows: pd.DataFrame, group: np.ndarray, n: int, n_days: np.ndarray) -> np.ndarray:
    """5-minute buckets in the window: a day without a row is as long as the market's other days."""
    buckets = _sums(group, rows["n_buckets"].to_numpy(dtype=float), n)
    return np.asarray(buckets / np.maximum(np.bincount(group, minlength=n), 1) * n_days)


def _days_with(rows: pd.DataFrame, name: str, group: np.ndarray, n: int) -> np.ndarray:
    return _sums(group, rows[name].to_numpy() > 0, n)


def _plain(values: pd.Series) -> np.ndarray:
    """Numbers as floats, times as datetime64[us] in UTC."""
    return np.asarray(values.to_numpy(dtype="datetime64[us]" if values.dtype.kind == "M" else float))


def _newest(values: np.ndarray, group: np.ndarray, n: int) -> np.ndarray:
    """The last value of each market that is not missing."""
    missing = np.isnat(values) if values.dtype.kind == "M" else np.isnan(values)
    out = np.full(n, np.datetime64("NaT") if values.dtype.kind == "M" else np.nan, dtype=values.dtype)
    out[group[~missing]] = values[~missing]  # rows are in the order of days: the last assignment stays
    return out


def _profile(rows: pd.DataFrame, name: str, group: np.ndarray, n: int, of_noise: np.ndarray | float = 0.0) -> Profiles:
    hours, known = np.zeros((len(rows), 24)), rows[name].notna().to_numpy()
    if known.any():
        hours[known] = np.concatenate(rows[name].to_numpy(dtype=object)[known]).reshape(-1, 24)
    return profiles(hours, rows, group, n, np.broadcast_to(of_noise, n))


def _profile_columns(what: str, of: Profiles) -> dict[str, object]:
    return {
        f"{what}_profile": of.by_hour,
        f"{what}_profile_used": of.used,
        f"{what}_profile_error": of.error_ratio,
        f"{what}_profile_week": of.by_week_hour,
    }


def _jumps(rows: pd.DataFrame, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each market's newest jump in words, and the first day after it; None and NaT where there is none."""
    if "source_jump" not in rows:
        return np.full(len(last), None, dtype=object), np.full(len(last), np.datetime64("NaT"), "datetime64[us]")
    return rows["source_jump"].to_numpy(dtype=object)[last], _plain(rows["jump_day"])[last]


def _listed(place: np.ndarray, seen: np.ndarray, group: np.ndarray, calendar: np.ndarray, window: Window) -> np.ndarray:
    """The first day with a row, where the days before it were too many for a market that is only rarely active; NaT
    for all others.

    Of S days with a row among N, all lie in the last M by a chance of C(M, S) / C(N, S). One day alone is no listing.
    """
    n = len(calendar)
    length = _of_calendar(calendar, lambda code: len(window.days.get(code, ())), "int64")
    first = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(first, group[seen], place[seen])
    first = np.minimum(first, length)  # never seen: the whole window is empty
    active = np.bincount(group, weights=seen, minlength=n).astype(np.int64)
    ways = np.append(0.0, np.cumsum(np.log(np.arange(1, max(length.max(initial=0), 1) + 1))))  # of factorials
    chance = ways[length - first] - ways[length - first - active] - ways[length] + ways[length - active]
    listed = (first < length) & (chance < np.log(LISTED_CHANCE))
    out = np.full(n, np.datetime64("NaT"), dtype="datetime64[us]")
    for code, of_calendar in window.days.items():
        mine = listed & (calendar == code)
        out[mine] = np.array(of_calendar, dtype="datetime64[us]")[first[mine]]
    return out


def _days_from(since: np.ndarray, calendar: np.ndarray, window: Window) -> np.ndarray:
    """Trading days of the window, from `since` on where that is a time."""
    n = _of_calendar(calendar, lambda code: len(window.days.get(code, ())), "int64")
    for code, of_calendar in window.days.items():
        mine = (calendar == code) & ~np.isnat(since)
        n[mine] -= np.searchsorted(np.array(of_calendar, dtype="datetime64[us]"), since[mine])
    return n


def _weights(days: np.ndarray, window: Window, half_life_days: float | None) -> np.ndarray:
    if half_life_days is None:
        return np.ones(len(days))
    age = (np.datetime64(window.as_of, "us") - days).astype(np.int64) / 86_400e6
    return np.asarray(0.5 ** (age / half_life_days))


def _weight_from(
    since: np.ndarray, calendar: np.ndarray, window: Window, half_life_days: float | None, power: int
) -> np.ndarray:
    """Weights of the window's trading days to a power, from `since` on where that is a time, added up."""
    out = np.zeros(len(calendar))
    for code, of_calendar in window.days.items():
        days = np.array(of_calendar, dtype="datetime64[us]")
        left = np.append(np.cumsum((_weights(days, window, half_life_days) ** power)[::-1])[::-1], 0.0)
        mine = calendar == code
        begins = np.where(np.isnat(since[mine]), 0, np.searchsorted(days, since[mine]))
        out[mine] = left[begins]
    return out


def _of_calendar(calendar: np.ndarray, value: Callable[[str], object], dtype: str) -> np.ndarray:
    """A value of each market's calendar, made once a calendar."""
    place, codes = pd.factorize(calendar)
    return np.array([value(code) for code in codes], dtype=dtype)[place]


def _first_day(window: Window, code: str) -> np.datetime64:
    return np.datetime64(window.days[code][0], "us")


def _last_day(window: Window, code: str) -> np.datetime64:
    return np.datetime64(window.days[code][-1], "us")


def _utc(values: object) -> pd.DatetimeIndex:
    stamps = pd.DatetimeIndex(np.asarray(values, dtype="datetime64[us]"))
    return stamps.tz_localize("UTC")
