"""Jumps in a source, named and cut off: a split, a change of units, a contract rolled.

Prices and sizes before such a day are in other units than those after it: no average over both means anything. They
show between two days of a market's rows, and the window then begins with the newest one; or, of 1.4 and more, from one
5-minute bar to the next within a day, which is then in both units and left out as well. A change of the tick leaves
both units as they are: it is named, and the window is kept.

A change of the sizes' unit moves no price, and an odd day may look like one: it is known on its second day. On its
first it is suspected, where size and volume of the trades leave all that was seen: the window begins with that day for
one night, so that neither unit is averaged into the other, and calibration refuses the market, whose volume may be in
either. The next day with trades makes it a `size_unit_change`, or puts an odd day back among the others.

What cannot be seen: a roll within a day by less than a factor of 1.4, or with fewer than six days to judge it by; one
between days by less than `ROLL_FROM` or `GAP_SIGMAS` moves of as long a time, which is what prices do by themselves;
one between sessions hours apart that is below `GAP_FROM`, which is an ordinary night; a new tick before
`TICK_CHANCE` is met, by a factor of 10 after 5 days that traded at two prices or more, of 5 after 7, of 2 after 15.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tributary_opt import schema

if TYPE_CHECKING:  # which needs this module to bound flow
    from tributary_opt.market_data.market_days import Window

SPLIT_FROM = 1.4
"""Least factor of the price that a split has. [-]"""

GAP_SIGMAS, GAP_FROM = 10.0, 1.15
"""A price that opens so many daily moves and so large a factor from its last close begins a level of its own. [-]"""

ROLL_FROM, ROLL_HOURS = 1.01, 2.0
"""Least factor of a gap within so short a time from last trade to first that is named a roll. [-], [h]"""

GAP_BOUNCES = 5.0
"""And of so many times the market's median gap between its days. [-]"""

TICK_CHANCE = 1e-9
"""How likely a coarser grid of prices may be by chance, on either side of a change of the tick. [-]"""

MIN_DAYS = 5
"""Fewer days with a trade: what a daily move, or a trade's size, is like is not known, and no gap is named. [day]"""

SIZE_FROM = 10.0
"""Factor of the mean trade size, price unmoved, that is a change of its unit, on two days before and two after. On the
newest day alone it may be one. [-]"""

MIN_ALIKE = 10.0
"""Trades alike, (Σ size)²/Σ size², that days of sizes in another unit must be worth: one block is none. [-]"""


def cut_at_jumps(rows: pd.DataFrame, window: Window) -> pd.DataFrame:
    """Rows of each market from its newest jump on, and what the jump was.

    Parameters
    ----------
    rows : DataFrame
        Rows of `ac_market_days`, sorted by market, token and day.
    window : Window

    Returns
    -------
    DataFrame
        Without the rows before a jump; `source_jump` names it in words, `jump_day` is the first day after it. Both are
        missing for markets without one. A probability jumps with its news, tenfold too: of those only a change of
        units counts, where one side of the gap is above 1, which no probability is; or one of the tick, which cuts
        nothing off. Two tokens that are one series are cut on the same day.
    """
    rows = rows.assign(
        source_jump=pd.Series(None, index=rows.index, dtype=object),
        jump_day=pd.Series(pd.NaT, index=rows.index, dtype="datetime64[us, UTC]"),
    )
    return _with_tick_changes(_cut(_cut_within_days(rows)))


def _cut_within_days(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of each market after the newest day within which its units changed. That day itself is in both: where there
    is no later one it stays alone, under the name `schema.MIXED`, for calibration to refuse."""
    step, size = (np.log(rows[name].to_numpy(dtype=float)) for name in ("price_step", "size_step"))
    series, token = _series(rows), rows["token_id"].to_numpy(dtype=object)
    other = rows["folded_with"].fillna("").to_numpy(dtype=object)
    first_token = ~((other != "") & (other < token)).astype(bool)
    large = np.abs(step) > np.log(SPLIT_FROM)
    maybe = np.flatnonzero(first_token & large)  # the step of a pair is the first token's
    if not len(maybe):
        return rows
    moved = np.log(rows["close_price"].to_numpy(dtype=float) / rows["open_price"].to_numpy(dtype=float))
    drop = np.zeros(len(rows), dtype=bool)
    for i in maybe:  # rare by their nature
        ours = series == series[i]
        # A day with such a step of its own is no measure of what the others do.
        quiet = moved[ours & first_token & ~large & np.isfinite(moved)]
        name = _name_within(rows.iloc[i], step[i], size[i], moved[i], quiet)
        if name is None:
            continue
        day = rows["day"].iloc[i]
        later = rows[ours & (rows["day"] > day).to_numpy()]
        mixed = not (later["n_trades"] > 0).any()
        words = f"{schema.MIXED}: {name}" if mixed else name
        words += (
            f" within {day:%Y-%m-%d}, at {rows['step_at'].iloc[i]:%H:%M} UTC: price x{np.exp(step[i]):.4g}, trade size "
            f"x{np.exp(size[i]):.4g}"
        )
        drop |= ours & ((rows["day"] < day) if mixed else (rows["day"] <= day)).to_numpy()
        rows.loc[ours, "source_jump"] = words
        rows.loc[ours, "jump_day"] = day if mixed else later["day"].min()
    return rows[~drop].reset_index(drop=True)


def _name_within(row: pd.Series, step: float, size: float, moved: float, quiet: np.ndarray) -> str | None:
    """What a step of the price from bar to bar is; None for what a market does by itself. All are logarithms.

    A new unit stays until the close, which a typing error does not, and is a step no quiet day of the market is like.
    """
    if abs(moved - step) > 0.3 * abs(step):
        return None
    decades = abs(step) / np.log(10.0)
    whole = round(decades) >= 1 and abs(decades - round(decades)) < 0.05
    if row["kind"] == "probability":  # it jumps with its news, but not from a fraction to percent
        return "unit_change" if whole and (row["open_price"] > 1) != (row["close_price"] > 1) else None
    if len(quiet) < MIN_DAYS:
        return None
    daily = np.sqrt(np.mean(quiet**2))
    if abs(step) > GAP_SIGMAS / 2 * daily:
        if whole:
            return "split" if abs(size + step) < 0.3 * abs(step) else "unit_change"
        if abs(size + step) < 0.5 * abs(step):
            return "split"
    return "price_gap" if abs(step) > GAP_SIGMAS * daily else None


def _cut(rows: pd.DataFrame) -> pd.DataFrame:
    traded = rows[(rows["n_trades"] > 0) & rows["open_price"].gt(0) & rows["close_price"].gt(0)]
    if len(traded) < 2:
        return rows
    ids = traded.groupby(["market_id", "token_id"], sort=False).ngroup().to_numpy()
    same = ids[1:] == ids[:-1]
    before, after = traded.iloc[:-1], traded.iloc[1:]
    size = np.log((traded["volume"] / traded["n_trades"]).to_numpy())
    factor = np.log(after["open_price"].to_numpy() / before["close_price"].to_numpy())
    grown = np.diff(size)
    hours = (after["first_trade_at"].array - before["last_trade_at"].array).total_seconds() / 3600.0
    soon = np.asarray(hours, dtype=float) <= ROLL_HOURS  # False where a time is missing
    large = np.abs(factor) > np.where(soon, np.log(ROLL_FROM), np.log(GAP_FROM))
    maybe = np.flatnonzero(same & (large | (np.abs(grown) > np.log(SIZE_FROM))))
    drop = np.zeros(len(rows), dtype=bool)
    if not len(maybe):
        return rows
    series = _series(rows)
    place = rows.index.get_indexer(traded.index)
    begins: dict[int, int] = {}  # by market, the first day after its newest jump
    for i in maybe:  # rare by their nature
        first, last = np.searchsorted(ids, ids[i]), np.searchsorted(ids, ids[i], side="right")
        elapsed = float(hours[i]) if soon[i] else None
        name = _name(traded.iloc[first:last], size[first:last], i + 1 - first, factor[i], elapsed)
        if name is None and i + 2 == last and _suspected(traded.iloc[begins.get(int(ids[i]), first) : last]):
            name = schema.SUSPECTED
        if name is None:
            continue
        begins[int(ids[i])] = int(i) + 1
        row = place[i + 1]
        of_market, day = series == series[row], rows["day"].iloc[row]
        if day < rows["jump_day"].iloc[row]:
            continue  # the pair's other token has jumped since; False where there is none
        words = f"{name} on {day:%Y-%m-%d}: price x{np.exp(factor[i]):.4g}, trade size x{np.exp(grown[i]):.4g}"
        drop |= of_market & (rows["day"] < day).to_numpy()
        rows.loc[of_market, "source_jump"] = words
        rows.loc[of_market, "jump_day"] = day
    return rows[~drop].reset_index(drop=True)


def _series(rows: pd.DataFrame) -> np.ndarray:
    """Which series each row is of: one of a market's token, or of two that were folded into one."""
    token, other = rows["token_id"].to_numpy(dtype=object), rows["folded_with"].fillna("").to_numpy(dtype=object)
    first = np.where((other != "") & (other < token), other, token)
    return rows.assign(token_id=first).groupby(["market_id", "token_id"], sort=False).ngroup().to_numpy()


def _name(days: pd.DataFrame, size: np.ndarray, at: int, factor: float, hours: float | None) -> str | None:
    """What happened between days `at - 1` and `at` of one market, `hours` apart where that is short; None for what a
    market does by itself."""
    probability = days["kind"].iloc[at] == "probability"
    above_1 = days["close_price"].iloc[at - 1] > 1, days["open_price"].iloc[at] > 1
    units = _new_units(size, at, factor, probability=probability)
    if units is not None and not (probability and above_1[0] == above_1[1]):
        return units
    if not probability and len(days) >= MIN_DAYS:
        moves = np.log(days["close_price"].to_numpy() / days["open_price"].to_numpy())
        variance = np.mean(moves**2)
        apart = (days["day"].iloc[at] - days["day"].iloc[at - 1]) / pd.Timedelta(days=1)
        if abs(factor) > np.log(GAP_FROM) and abs(factor) > GAP_SIGMAS * np.sqrt(variance * apart):
            return "price_gap"
        if hours is not None:
            length = (days["session_end"].iloc[at] - days["session_start"].iloc[at]) / pd.Timedelta(hours=1)
            gaps = np.abs(np.log(days["open_price"].to_numpy()[1:] / days["close_price"].to_numpy()[:-1]))
            # Not shorter than a bucket, and beyond what trades bounce between two quotes from day to day.
            sd = np.sqrt(variance * max(hours, 1 / 12) / length)
            if abs(factor) > max(GAP_SIGMAS * sd, GAP_BOUNCES * np.median(np.delete(gaps, at - 1))):
                return "contract_roll"
    before, after = days.iloc[max(at - 3, 0) : at], days.iloc[at : at + 3]
    return "size_unit_change" if _other_sizes(size, at) and _worth(before) and _worth(after) else None


def _new_units(size: np.ndarray, at: int, factor: float, *, probability: bool) -> str | None:
    """`split` or `unit_change` where price and sizes say so; `size` and `factor` are logarithms."""
    decades = abs(factor) / np.log(10.0)
    grown = np.median(size[at : at + 3]) - np.median(size[max(at - 3, 0) : at])
    if round(decades) >= 1 and abs(decades - round(decades)) < 0.05:
        return "split" if abs(grown + factor) < 0.3 * abs(factor) else "unit_change"
    if not probability and abs(factor) > np.log(SPLIT_FROM) and abs(grown + factor) < 0.5 * abs(factor):
        return "split"
    return None


def _other_sizes(size: np.ndarray, at: int) -> bool:
    """Whether all of the last two or three days traded in other sizes than those before them."""
    low, high = size[max(at - 3, 0) : at], size[at : at + 3]
    steady = min(len(low), len(high)) >= 2
    return bool(steady and max(high.min() - low.max(), low.min() - high.max()) > np.log(SIZE_FROM))


def _worth(days: pd.DataFrame) -> bool:
    """Whether their trades are worth `MIN_ALIKE` alike: a few blocks have a mean size that says nothing of its unit."""
    return bool(days["volume"].sum() ** 2 >= MIN_ALIKE * days["size_squared"].sum() > 0)


def _suspected(days: pd.DataFrame) -> bool:
    """Whether the newest of these days, and no other, may have sizes in another unit: its mean trade is beyond all of
    theirs by more than `SIZE_FROM` and by more than they differ, its volume is beyond theirs, and no block made it."""
    volume = np.log(days["volume"].to_numpy(dtype=float))
    size = volume - np.log(days["n_trades"].to_numpy(dtype=float))
    if len(days) <= MIN_DAYS:
        return False
    for sign in (1.0, -1.0):
        apart = sign * size[-1] - (sign * size[:-1]).max()
        # Trades that are reported together, or in pieces, change their size and leave the volume where it was.
        if apart > max(np.log(SIZE_FROM), np.ptp(size[:-1])) and sign * volume[-1] > (sign * volume[:-1]).max():
            return _worth(days.iloc[-1:])
    return False


def volume_in_newest_units(days: pd.DataFrame) -> np.ndarray:
    """Volume of each market's days in the contracts of its newest one; NaN where those before were others.

    After a split of 10 to 1 there are ten times as many contracts, each a tenth of the old; days before it count
    tenfold. A change of the sizes' unit has no factor that prices tell, and shows on its second day.

    Parameters
    ----------
    days : DataFrame
        market_id, token_id, volume > 0, n_trades, open_price and close_price, sorted by market, token and day; none of
        them a probability, whose contracts never split.
    """
    volume = days["volume"].to_numpy(dtype=float, copy=True)
    if len(days) < 2:
        return volume
    ids = days.groupby(["market_id", "token_id"], sort=False).ngroup().to_numpy()
    size = np.log(volume / days["n_trades"].to_numpy(dtype=float))
    factor = np.log(days["open_price"].to_numpy(dtype=float)[1:] / days["close_price"].to_numpy(dtype=float)[:-1])
    large = (np.abs(factor) > np.log(SPLIT_FROM)) | (np.abs(np.diff(size)) > np.log(SIZE_FROM))
    for i in np.flatnonzero((ids[1:] == ids[:-1]) & large):  # rare by their nature
        first, last = np.searchsorted(ids, ids[i]), np.searchsorted(ids, ids[i], side="right")
        at = i + 1 - first
        if _new_units(size[first:last], at, factor[i], probability=False) == "split":
            volume[first : i + 1] *= np.exp(-factor[i])
        elif _other_sizes(size[first:last], at):
            volume[first : i + 1] = np.nan
    return volume


_STEPS = np.array([m * 10.0**k for k in range(2, -9, -1) for m in (5.0, 1.0)])
"""Ticks that are looked for, each a whole part of those before it. [price]"""


def _with_tick_changes(rows: pd.DataFrame) -> pd.DataFrame:
    """`source_jump` with the newest change of each market's tick added in words."""
    traded = rows[(rows["n_trades"] > 0) & rows["high_price"].gt(rows["low_price"])]
    if len(traded) < 2:
        return rows
    ids = traded.groupby(["market_id", "token_id"], sort=False).ngroup().to_numpy()
    place = np.arange(len(ids)) - np.searchsorted(ids, ids)
    step = np.full((ids[-1] + 1, place.max() + 1), np.inf)  # (markets, days); inf beyond the last
    step[ids, place] = _coarsest_step(traded[["open_price", "high_price", "low_price", "close_price"]].to_numpy())
    n = np.bincount(ids)[:, np.newaxis]
    before = np.minimum.accumulate(step, axis=1)[:, :-1]
    after = np.minimum.accumulate(step[:, ::-1], axis=1)[:, ::-1][:, 1:]
    days_before = np.arange(1, step.shape[1])[np.newaxis, :]
    days_after = n - days_before
    with np.errstate(invalid="ignore", divide="ignore"):
        # Two prices a day, high and low, that lie on the coarser grid though they need not.
        known = np.isfinite(before) & np.isfinite(after) & (days_after > 0)
        factor = np.where(known, before / after, 1.0)
        coarse_days = np.where(factor > 1, days_before, days_after)
        fine_days = np.where(factor > 1, days_after, days_before)
        sure = np.abs(np.log(factor)) * 2 * coarse_days > -np.log(TICK_CHANCE)
    maybe = np.flatnonzero((sure & (fine_days >= 3)).any(axis=1))
    first = np.searchsorted(ids, np.arange(ids[-1] + 1))
    for market in maybe:
        for i in np.flatnonzero(sure[market] & (fine_days[market] >= 3))[::-1]:
            coarser = max(before[market, i], after[market, i]) * (1 - 1e-9)
            fine = step[market, i + 1 : n[market, 0]] if factor[market, i] > 1 else step[market, i::-1]
            # Prices use the finer grid on the very days beside the change, and on most of the others.
            if (fine[:3] < coarser).all() and (fine < coarser).mean() >= 0.8:
                row = first[market] + i + 1
                day, old, new = traded["day"].iloc[row], before[market, i], after[market, i]
                words = f"tick_change on {day:%Y-%m-%d}: tick {old:g} to {new:g}"
                mine = (rows["market_id"] == traded["market_id"].iloc[row]) & (
                    rows["token_id"] == traded["token_id"].iloc[row]
                )
                earlier = rows.loc[mine, "source_jump"].iloc[0]
                rows.loc[mine, "source_jump"] = words if pd.isna(earlier) else f"{earlier}; {words}"
                break
    return rows


def _coarsest_step(prices: np.ndarray) -> np.ndarray:
    """The coarsest of `_STEPS` that every price of a row is a multiple of; the finest where none is. [price]"""
    out = np.full(len(prices), _STEPS[-1])
    for step in _STEPS[::-1]:
        in_steps = prices / step
        on = (np.abs(in_steps - np.rint(in_steps)) < 1e-6).all(axis=1)
        out = np.where(on, step, out)
    return out
