"""Reference data: what kind of instrument each market is, and by whose calendar it trades.

From the `markets` table or a file, else from the settings' rules by market-id pattern, else the default: kind `price`,
calendar `24/7`, multiplier 1. The kind is never guessed from prices; the row says where it came from.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tributary_opt import schema
from tributary_opt.market_data.calendars import ALWAYS_OPEN, calendar_problem
from tributary_opt.settings import MarketRule

KINDS = ("price", "probability")
FEE_KINDS = ("notional", "probability")

_DEFAULTS: dict[str, Any] = {
    "kind": "price",
    "complement_token_id": None,
    "resolution_time": pd.NaT,
    "calendar": ALWAYS_OPEN,
    "tick_size": np.nan,
    "lot_size": np.nan,
    "taker_fee": 0.0,
    "fee_kind": "notional",
    "contract_multiplier": 1.0,
    "inverse": False,
}
_TEXTS = ("market_id", "token_id", "kind", "complement_token_id", "calendar", "fee_kind")
_NUMBERS = ("tick_size", "lot_size", "taker_fee", "contract_multiplier")
_LARGEST = 1e30  # of a tick, lot or multiplier; the smallest is 1 over it: costs in currency stay numbers
REFERENCE_COLUMNS = (*_DEFAULTS, "reference_source", "reference_problem", "folded_with")


def read_markets_file(path: Path) -> pd.DataFrame:
    """Reference data from a Parquet or CSV file. ValueError for a missing column."""
    if path.suffix.lower() == ".parquet":
        table = pq.read_table(path)
    else:
        # Ids stay as they are written: 007 is not 7, and a token of 77 digits is no double.
        texts = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(_TEXTS, pa.string()), strings_can_be_null=True)
        table = pyarrow.csv.read_csv(path, convert_options=texts)
    missing = [c.name for c in schema.MARKETS.columns if c.required and c.name not in table.column_names]
    if missing:
        raise ValueError(f"{path.name} has no column {', '.join(missing)}; reference data need {schema.MARKETS.names}")
    known = [name for name in schema.MARKETS.names if name in table.column_names]
    frame: pd.DataFrame = table.select(known).to_pandas()
    return frame


class ReferenceData:
    """What is known of every instrument, by table or file, by rule, by default, in this order."""

    def __init__(self, rows: pd.DataFrame | None = None, rules: tuple[MarketRule, ...] = ()):
        self._rules = rules
        self._rows = _both_ways(_newest(pd.DataFrame() if rows is None else rows))

    def calendars(self) -> list[str]:
        """Every calendar that may be in use, the default included; codes nobody knows left out."""
        named = {ALWAYS_OPEN, *(rule.calendar for rule in self._rules)}
        if len(self._rows):
            named |= set(self._rows["calendar"])
        return sorted(code for code in named if not calendar_problem(str(code)))

    def of(self, markets: pd.DataFrame) -> pd.DataFrame:
        """Reference data of instruments.

        Parameters
        ----------
        markets : DataFrame with market_id and token_id, one row an instrument

        Returns
        -------
        DataFrame with the same rows and order: market_id, token_id and `REFERENCE_COLUMNS`. `reference_problem` is
        empty, or says why the data cannot be used (the market will be refused); its calendar is then 24/7.
        `folded_with` is the token whose ticks are this one's in the mirror, empty where there is none: a probability's
        complement, if that is a probability of the same calendar and names this one.
        """
        out = self._plain(markets)
        token, other = (out[name].to_numpy(dtype=object) for name in ("token_id", "complement_token_id"))
        named = np.where(pd.isna(other), "", other)
        asked = np.flatnonzero((named != "") & (named != token) & _sound_probability(out))
        folded = np.full(len(out), "", dtype=object)
        if len(asked):
            theirs = self._plain(
                pd.DataFrame({"market_id": out["market_id"].to_numpy()[asked], "token_id": other[asked]})
            )
            agreed = _sound_probability(theirs) & (theirs["calendar"].to_numpy() == out["calendar"].to_numpy()[asked])
            agreed &= theirs["complement_token_id"].to_numpy(dtype=object) == token[asked]
            folded[asked[agreed]] = other[asked[agreed]]
        return out.assign(folded_with=folded)

    def _plain(self, markets: pd.DataFrame) -> pd.DataFrame:
        out = markets[["market_id", "token_id"]].reset_index(drop=True)
        out = out.assign(**_DEFAULTS, reference_source="default")
        out["resolution_time"] = pd.Series(pd.NaT, index=out.index, dtype="datetime64[us, UTC]")
        out["complement_token_id"] = out["complement_token_id"].astype(object)
        self._apply_rules(out)
        self._apply_rows(out)
        return _checked(out)

    def _apply_rules(self, out: pd.DataFrame) -> None:
        ids = pd.unique(out["market_id"])
        taken = np.zeros(len(out), dtype=bool)
        for rule in self._rules:
            matching = {m for m in ids if fnmatch.fnmatchcase(m, rule.pattern)}
            hit = out["market_id"].isin(matching).to_numpy() & ~taken
            taken |= hit
            for name, value in rule.model_dump(exclude={"pattern"}).items():
                out.loc[hit, name] = np.nan if value is None else value
            out.loc[hit, "reference_source"] = "pattern"

    def _apply_rows(self, out: pd.DataFrame) -> None:
        if not len(self._rows):
            return
        # A row without a token speaks for every token of its market that has none of its own.
        whole = self._rows["token_id"] == ""
        keys = pd.MultiIndex.from_frame(out[["market_id", "token_id"]])
        own = pd.MultiIndex.from_frame(self._rows.loc[~whole, ["market_id", "token_id"]]).get_indexer(keys)
        shared = pd.Index(self._rows.loc[whole, "market_id"]).get_indexer(pd.Index(out["market_id"]))
        place = np.where(
            own >= 0,
            np.flatnonzero(~whole)[own] if (~whole).any() else -1,
            np.where(shared >= 0, np.flatnonzero(whole)[shared] if whole.any() else -1, -1),
        )
        hit = place >= 0
        for name in _DEFAULTS:
            out.loc[hit, name] = self._rows[name].to_numpy()[place[hit]]
        out.loc[hit, "reference_source"] = "markets"


def _newest(rows: pd.DataFrame) -> pd.DataFrame:
    if not len(rows):
        return pd.DataFrame(columns=[*schema.MARKETS.names])
    rows = rows.copy()
    for name in _TEXTS:
        if name in rows:  # as plain texts, whatever the file had: dictionaries, numbers
            rows[name] = rows[name].astype(object).where(rows[name].notna(), None).map(str, na_action="ignore")
    for name, default in _DEFAULTS.items():
        if name not in rows:
            rows[name] = default
        elif name not in ("resolution_time", "complement_token_id", "tick_size", "lot_size"):
            rows[name] = rows[name].where(rows[name].notna(), default)
    for name in _NUMBERS:  # what is no number becomes NaN, which `_checked` names where the column needs one
        rows[name] = pd.to_numeric(rows[name], errors="coerce").astype(float)
    rows["inverse"] = rows["inverse"].astype("boolean").astype(bool)
    rows["token_id"] = rows["token_id"].fillna("").astype(str)
    rows["resolution_time"] = pd.to_datetime(rows["resolution_time"], utc=True).astype("datetime64[us, UTC]")
    if "updated_at" in rows:
        rows = rows.sort_values("updated_at", kind="stable")
    return rows.drop_duplicates(["market_id", "token_id"], keep="last").reset_index(drop=True)


def _sound_probability(reference: pd.DataFrame) -> np.ndarray:
    return np.asarray((reference["kind"] == "probability") & (reference["reference_problem"] == ""), dtype=bool)


def _both_ways(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with every complement named by both tokens: what is said of one of them holds for the other."""
    named = rows[(rows["token_id"] != "") & rows["complement_token_id"].notna()] if len(rows) else rows
    if not len(named):
        return rows
    back = named.assign(token_id=named["complement_token_id"], complement_token_id=named["token_id"])
    back = back.drop_duplicates(["market_id", "token_id"], keep=False)  # two that name the same one agree on nothing
    keys = pd.MultiIndex.from_frame(rows[["market_id", "token_id"]])
    place = keys.get_indexer(pd.MultiIndex.from_frame(back[["market_id", "token_id"]]))
    rows = rows.copy()
    said = rows["complement_token_id"].to_numpy(dtype=object, copy=True)
    silent = (place >= 0) & pd.isna(said)[place]
    said[place[silent]] = back["complement_token_id"].to_numpy(dtype=object)[silent]
    rows["complement_token_id"] = said
    return pd.concat([rows, back[place < 0]], ignore_index=True)


def _checked(out: pd.DataFrame) -> pd.DataFrame:
    problem = np.full(len(out), "", dtype=object)

    def note(bad: np.ndarray, text: pd.Series | str) -> None:
        first = bad & (problem == "")
        problem[first] = np.broadcast_to(np.asarray(text, dtype=object), len(out))[first]

    kinds = out["kind"].astype(str)
    note(~kinds.isin(KINDS).to_numpy(), "kind must be price or probability, got " + kinds)
    fees = out["fee_kind"].astype(str)
    note(~fees.isin(FEE_KINDS).to_numpy(), "fee_kind must be notional or probability, got " + fees)
    note(
        ((fees == "probability") & (kinds != "probability")).to_numpy(),
        "fee_kind probability is for kind probability: p (1 - p) means nothing for other prices",
    )
    why_not = {code: calendar_problem(code) for code in pd.unique(out["calendar"].astype(str))}
    strange = (out["calendar"].astype(str).map(why_not) != "").to_numpy()
    note(strange, out["calendar"].astype(str).map(why_not))
    for name in _NUMBERS:
        out[name] = pd.to_numeric(out[name], errors="coerce").astype(float)
        value = out[name].to_numpy()
        low, high = (0.0, 1.0) if name == "taker_fee" else (1 / _LARGEST, _LARGEST)
        optional = np.isnan(value) if name in ("tick_size", "lot_size") else np.zeros(len(out), dtype=bool)
        within = (value >= low) & (value <= high)
        note(
            ~(optional | within), f"{name} must lie from {low:g} to {high:g}, got " + out[name].astype(object).map(str)
        )
    inverse = out["inverse"].astype("boolean").fillna(False).to_numpy(dtype=bool)
    note(inverse, "inverse contract: its size is no amount of the underlying, so price times size is no notional")
    out["inverse"] = inverse
    out["kind"] = np.where(kinds.isin(KINDS), kinds, "price")
    out["calendar"] = np.where(strange, ALWAYS_OPEN, out["calendar"].astype(str))
    out["reference_problem"] = problem
    return out
