"""Two tokens whose prices add up to 1 are one market seen from two sides: a sell of no at 0.03 is a buy of yes at 0.97.

Where reference data say so, and nowhere else, their ticks become one series on the axis of the first token (by name)
before any sum over buckets is formed: two flows in the same bucket add up before they are squared. The second token's
row is the first one's seen in the mirror, so that both carry the same impact, volatility and volume, to the last bit.

What ticks say of each other, who the aggressor was and how far from the mid he paid, is asked of the one series too, in
the server (`Source.quoted_trades`): a trade of no is held against the last mid before it, be that of yes or of no.
Where a market has ticks of a third token as well, or without a token, each trade is held against its own token's ticks.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tributary_opt import schema

_KEYS = ["market_id", "token_id", "bucket"]
_FIRST = {"open": "first_at", "first_mid": "first_mid_at"}
_LAST = {"close": "last_at", "last_mid": "last_mid_at"}
_LOWEST, _HIGHEST = ("low", "first_at", "first_mid_at"), ("high", "last_at", "last_mid_at")

_IMPACT_SIGNS = np.array([-1.0 if name in ("q", "r", "qqq", "qqr", "qrr") else 1.0 for name in schema.IMPACT_SUMS])
"""What an odd number of signed factors, flow or move, does in the mirror; costs and sizes have no sign."""


def one_series(instruments: pd.DataFrame) -> pd.DataFrame:
    """Instruments with every pair as one, under its first token; counts (columns that begin with n) are added up.

    `folded_with` names each instrument's other token, empty where there is none. One token of a pair is enough.
    """
    folded = (instruments["folded_with"] != "").to_numpy()
    if not folded.any():
        return instruments
    pairs = instruments[folded]
    second = (pairs["folded_with"] < pairs["token_id"]).to_numpy()
    pairs = pairs.assign(
        token_id=np.where(second, pairs["folded_with"], pairs["token_id"]),
        folded_with=np.where(second, pairs["token_id"], pairs["folded_with"]),
    )
    how = {c: "sum" if c.startswith("n") else "first" for c in pairs.columns if c not in ("market_id", "token_id")}
    merged = pairs.groupby(["market_id", "token_id"], as_index=False, sort=False).agg(how)[list(instruments.columns)]
    together = pd.concat([instruments[~folded], merged], ignore_index=True)
    return together.sort_values(["market_id", "token_id"], ignore_index=True)


def onto_first(table: pa.Table, instruments: pd.DataFrame) -> pa.Table:
    """Buckets of trades or looks with those of second tokens in the mirror and added to the first ones'.

    Parameters
    ----------
    table : Table
        As `Source.trade_buckets`, `quoted_trades` or `book_buckets` give it. What that has folded stays as it is.
    instruments : DataFrame
        As `one_series` gives it: folded_with is the second token.
    """
    pairs = instruments[instruments["folded_with"] != ""]
    if not len(pairs) or not table.num_rows:
        return table
    tokens = pa.array({*pairs["token_id"], *pairs["folded_with"]}, pa.string())
    maybe = pc.is_in(table["token_id"].cast(pa.string()), tokens)
    rows = table.filter(maybe).to_pandas()
    keys = pd.MultiIndex.from_frame(rows[["market_id", "token_id"]])
    place = pd.MultiIndex.from_frame(pairs[["market_id", "folded_with"]]).get_indexer(keys)
    second = place >= 0
    mirrored = _mirrored(rows[second]).assign(token_id=pairs["token_id"].to_numpy()[place[second]])
    rows = pd.concat([rows[~second], mirrored], ignore_index=True)
    merged = _merged(rows)[table.column_names]
    return pa.concat_tables(
        [table.filter(pc.invert(maybe)), pa.Table.from_pandas(merged, table.schema, preserve_index=False)]
    )


def both_tokens(rows: pd.DataFrame, instruments: pd.DataFrame) -> pd.DataFrame:
    """Market-day rows with those of second tokens beside the first ones': the same numbers in the mirror."""
    rows = rows.assign(folded_with=instruments["folded_with"].to_numpy())
    first = rows[rows["folded_with"] != ""]
    if not len(first):
        return rows
    second = first.assign(
        token_id=first["folded_with"],
        folded_with=first["token_id"],
        buy_volume=first["sell_volume"],
        sell_volume=first["buy_volume"],
        notional=first["volume"] - first["notional"],
        buy_notional=first["sell_volume"] - first["sell_notional"],
        sell_notional=first["buy_volume"] - first["buy_notional"],
        high_price=1.0 - first["low_price"],
        low_price=1.0 - first["high_price"],
        mid_sum=first["n_two_sided"] - first["mid_sum"],
        **{name: 1.0 - first[name] for name in ("open_price", "close_price", "first_mid", "last_mid")},
    )
    for minutes in schema.IMPACT_BUCKETS:
        name = f"impact_{minutes}m"
        second[name] = [None if sums is None else sums * _IMPACT_SIGNS for sums in first[name]]
    return pd.concat([rows, second], ignore_index=True)


def _mirrored(rows: pd.DataFrame) -> pd.DataFrame:
    """Buckets of a second token as its first would have had them."""
    out = rows.copy()
    for name, other in (("buy_volume", "sell_volume"), ("late_buy_volume", "late_sell_volume"), ("n_bid", "n_ask")):
        if name in rows:
            out[name], out[other] = rows[other], rows[name]
    for when in ("", "late_"):
        if f"{when}buy_notional" in rows:
            out[f"{when}buy_notional"] = rows[f"{when}sell_volume"] - rows[f"{when}sell_notional"]
            out[f"{when}sell_notional"] = rows[f"{when}buy_volume"] - rows[f"{when}buy_notional"]
    if "notional" in rows:
        out["notional"] = rows["volume"] - rows["notional"]
        out["high"], out["low"] = 1.0 - rows["low"], 1.0 - rows["high"]
    if "mid_sum" in rows:
        out["mid_sum"] = rows["n_two_sided"] - rows["mid_sum"]
    for name in ("open", "close", "first_mid", "last_mid"):
        if name in rows:
            out[name] = 1.0 - rows[name]
    return out


def _merged(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the same instrument and bucket as one."""
    twice = rows.duplicated(_KEYS, keep=False)
    several = rows[twice]
    how = {}
    for name in rows.columns:
        if name not in _KEYS:
            how[name] = "min" if name in _LOWEST else "max" if name in _HIGHEST else "sum"
    of_time = {**_FIRST, **_LAST}
    grouped = several.groupby(_KEYS, sort=False)
    out = grouped.agg({name: by for name, by in how.items() if name not in of_time})
    for name, stamp in of_time.items():
        if name in rows:
            inner = several.sort_values(stamp, kind="stable", na_position="first").groupby(_KEYS, sort=False)[name]
            out[name] = inner.first() if name in _FIRST else inner.last()
    return pd.concat([rows[~twice], out.reset_index()], ignore_index=True)
