"""Jumps in a source, named and cut off: a split, a change of units, a contract rolled.

Prices and sizes before such a day are in other units than those after it: no average over both means anything. They
show between two days of a market's rows, and the window then begins with the newest one.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from tributary_opt.market_data.market_days import Window

SPLIT_FROM = 1.4
"""Least factor of the price that a split has. [-]"""

GAP_SIGMAS, GAP_FROM = 10.0, 1.15
"""A price that opens so many daily moves and so large a factor from its last close begins a level of its own. [-]"""

MIN_DAYS = 5
"""Fewer days with a trade: what a daily move is like is not known, and no gap is named. [day]"""

SIZE_FROM = 10.0
"""Factor of the mean trade size, price unmoved, that is a change of its unit, on two days before and two after. [-]"""


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
        missing for markets without one. A probability jumps with its news: of those only a change of units counts.
    """
    rows = rows.assign(
        source_jump=pd.Series(None, index=rows.index, dtype=object),
        jump_day=pd.Series(pd.NaT, index=rows.index, dtype="datetime64[us, UTC]"),
    )
    traded = rows[(rows["n_trades"] > 0) & rows["open_price"].gt(0) & rows["close_price"].gt(0)]
    if len(traded) < 2:
        return rows
    ids = traded.groupby(["market_id", "token_id"], sort=False).ngroup().to_numpy()
    same = ids[1:] == ids[:-1]
    before, after = traded.iloc[:-1], traded.iloc[1:]
    size = np.log((traded["volume"] / traded["n_trades"]).to_numpy())
    factor = np.log(after["open_price"].to_numpy() / before["close_price"].to_numpy())
    grown = np.diff(size)
    large = np.abs(factor) > np.log(GAP_FROM)
    maybe = np.flatnonzero(same & (large | (np.abs(grown) > np.log(SIZE_FROM))))
    drop = np.zeros(len(rows), dtype=bool)
    if not len(maybe):
        return rows
    ids_of_rows = rows.groupby(["market_id", "token_id"], sort=False).ngroup().to_numpy()
    place = rows.index.get_indexer(traded.index)
    for i in maybe:  # rare by their nature
        first, last = np.searchsorted(ids, ids[i]), np.searchsorted(ids, ids[i], side="right")
        name = _name(traded.iloc[first:last], size[first:last], i + 1 - first, factor[i])
        if name is None:
            continue
        row, of_market = place[i + 1], ids_of_rows == ids_of_rows[place[i + 1]]
        day = rows["day"].iloc[row]
        words = f"{name} on {day:%Y-%m-%d}: price x{np.exp(factor[i]):.4g}, trade size x{np.exp(grown[i]):.4g}"
        drop |= of_market & (np.arange(len(rows)) < row)
        rows.loc[of_market, "source_jump"] = words
        rows.loc[of_market, "jump_day"] = day
    return rows[~drop].reset_index(drop=True)


def _name(days: pd.DataFrame, size: np.ndarray, at: int, factor: float) -> str | None:
    """What happened between days `at - 1` and `at` of one market; None for what a market does by itself."""
    decades = abs(factor) / np.log(10.0)
    grown = np.median(size[at : at + 3]) - np.median(size[max(at - 3, 0) : at])
    if round(decades) >= 1 and abs(decades - round(decades)) < 0.05:
        return "split" if abs(grown + factor) < 0.3 * abs(factor) else "unit_change"
    if days["kind"].iloc[at] != "probability":
        if abs(factor) > np.log(SPLIT_FROM) and abs(grown + factor) < 0.5 * abs(factor):
            return "split"
        if abs(factor) > np.log(GAP_FROM) and len(days) >= MIN_DAYS:
            moves = np.log(days["close_price"].to_numpy() / days["open_price"].to_numpy())
            apart = (days["day"].iloc[at] - days["day"].iloc[at - 1]) / pd.Timedelta(days=1)
            if abs(factor) > GAP_SIGMAS * np.sqrt(np.mean(moves**2) * apart):
                return "price_gap"
    low, high = size[max(at - 3, 0) : at], size[at : at + 3]
    steady = min(len(low), len(high)) >= 2
    if steady and max(high.min() - low.max(), low.min() - high.max()) > np.log(SIZE_FROM):
        return "size_unit_change"
    return None
