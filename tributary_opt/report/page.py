"""The report of a night as one HTML file that opens offline: nothing in it is fetched.

The page holds the parameters; schedules and frontiers are computed in it (`templates/model.js`, held to the Python
model by a test). Charts are plotly's, whose script is inlined. Whatever comes from the data is escaped: it travels as
JSON and reaches the page as text.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import plotly.offline
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup

from tributary_opt import schema
from tributary_opt.night import NightReport
from tributary_opt.report.markdown import changes, largest_moves, outcome
from tributary_opt.storage.parquet import release_file, write_page
from tributary_opt.storage.releases import Releases

HISTORY_RUNS = 10
"""Nights in the history of a market's parameters. [-]"""
HISTORY = ("sigma", "epsilon", "eta", "gamma")
"""Parameters whose history is shown."""

_KEY = ["market_id", "token_id"]
_LEFT_OUT = {"as_of", "run_id"}
_EXACT = {"price", "contract_multiplier", "adv", *HISTORY}
"""What the page computes with travels with all its digits; the rest is for the eye."""
_DIGITS, _DIGITS_DRAWN = 5, 3
_NORMAL_95 = 1.959963984540054
"""97.5 % quantile of the normal law. [-]"""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class History:
    """Parameters of the nights before, as the Parquet files have them."""

    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    """as_of, run_id, market_id, token_id and, for each of `HISTORY`, the value, its low and its high end."""
    left_out: tuple[str, ...] = ()
    """Nights whose file could not be read, and why: the page says so."""


def write(root: Path, night: NightReport, history: History = History()) -> Path:
    """Write the page of a run below the Parquet root, by a rename. Returns where it is."""
    return write_page(root, render(night, history), night.run.as_of, night.run.run_id)


def render(night: NightReport, history: History = History()) -> str:
    """The page as text.

    Parameters
    ----------
    night : NightReport
    history : History
        From `parameter_history`; without it the history shows this night alone.
    """
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("tributary_opt.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )

    def inlined(name: str) -> Markup:
        assert templates.loader is not None
        return Markup(templates.loader.get_source(templates, name)[0])

    run = night.run
    return templates.get_template("report.html").render(
        title=f"{run.as_of} · run {run.run_id}",
        run=run,
        outcome=outcome(night),
        n_refused=run.n_markets - run.n_ok,
        n_schedules=len(night.trajectories),
        data=Markup(_json(_content(night, history))),
        plotly=Markup(plotly.offline.get_plotlyjs()),
        style=inlined("report.css"),
        model=inlined("model.js"),
        script=inlined("report.js"),
    )


def parameter_history(releases: Releases, until: date) -> History:
    """Parameters of the newest complete run of each of the last `HISTORY_RUNS` nights up to a day.

    From Parquet. A night whose file is gone or cannot be read is left out, which is logged and said in the page.
    """
    runs = releases.runs(limit=400)
    fit = runs[(runs["state"] == "complete") & (runs["scope"] == "whole") & (runs["as_of"].dt.date <= until)]
    fit = fit.drop_duplicates("as_of").head(HISTORY_RUNS)
    parts, left_out = [], []
    for day, run_id in zip(fit["as_of"].dt.date, fit["run_id"], strict=True):
        path = releases.root / release_file(schema.PARAMETERS, day, run_id)
        try:
            with pq.ParquetFile(path) as file:
                have = set(file.schema_arrow.names)
                wanted = [*_KEY, *(n for p in HISTORY for n in (p, f"{p}_low", f"{p}_high", f"{p}_se") if n in have)]
                rows = file.read(columns=wanted).to_pandas()
        except (OSError, pa.ArrowException) as error:
            why = "its file is gone" if isinstance(error, FileNotFoundError) else "its file cannot be read"
            left_out.append(f"{day} (run {run_id}): {why}")
            _LOG.warning("the report's history leaves out %s: %s", left_out[-1], error)
            continue
        parts.append(_with_intervals(rows).assign(as_of=f"{day}", run_id=run_id))
    return History(pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(), tuple(left_out))


# --- inside -------------------------------------------------------------------------------------------------


def _content(night: NightReport, history: History) -> dict[str, Any]:
    p = night.parameters.sort_values(_KEY, kind="stable").reset_index(drop=True)
    columns = [c for c in schema.PARAMETERS.columns if c.name not in _LEFT_OUT and c.name in p]
    moved = changes(night.before, night.parameters) if night.before is not None else None
    grid = night.run.settings.get("grid", {})
    return {
        "run_id": night.run.run_id,
        "as_of": f"{night.run.as_of}",
        "columns": [{"name": c.name, "unit": c.unit, "meaning": c.meaning} for c in columns],
        "schedule_columns": {c.name: {"unit": c.unit, "meaning": c.meaning} for c in schema.TRAJECTORIES.columns},
        "markets": {c.name: _values(p[c.name], None if c.name in _EXACT else _DIGITS) for c in columns},
        "grid": grid,
        "timings": night.timings,
        "statuses": _counts(night.trajectories, "status"),
        "reasons": _counts(p[p["status"] != "ok"], "reason"),
        "grades": _counts(p, "grade"),
        "movers": largest_moves(night),
        "changes": None
        if moved is None
        else {
            "New": len(moved.new),
            "Gone": len(moved.gone),
            "Newly refused": len(moved.newly_refused),
            "Recovered": len(moved.recovered),
        },
        "history": _history(p, night, history),
    }


def _history(p: pd.DataFrame, night: NightReport, history: History) -> dict[str, Any]:
    """For each parameter and end the values as nights x markets, oldest night first, this run's own last."""
    run, own = f"{night.run.as_of}", _with_intervals(p).assign(as_of=f"{night.run.as_of}")
    past = history.rows[history.rows["as_of"] < run] if len(history.rows) else own.iloc[:0]
    rows = pd.concat([part for part in (past, own) if len(part)], ignore_index=True) if len(own) else own
    place = pd.MultiIndex.from_frame(p[_KEY].fillna("")) if len(p) else pd.MultiIndex.from_arrays([[], []])
    nights = sorted(set(rows["as_of"]))
    values: dict[str, list[list[float | None]]] = {}
    for name in (f"{parameter}{end}" for parameter in HISTORY for end in ("", "_low", "_high")):
        values[name] = []
        for day in nights:
            that = rows[rows["as_of"] == day]
            at = pd.Series(
                that[name].to_numpy(dtype=float), index=pd.MultiIndex.from_frame(that[_KEY].fillna(""))
            ).reindex(place)
            values[name].append(_values(at, _DIGITS_DRAWN))
    return {"nights": nights, "values": values, "left_out": history.left_out}


def _with_intervals(rows: pd.DataFrame) -> pd.DataFrame:
    """95 % intervals beside the parameters: the row's own, else from its standard error, else none."""
    made: dict[str, Any] = {name: rows[name] for name in _KEY}
    for name in HISTORY:
        value = rows[name].astype(float) if name in rows else pd.Series(np.nan, index=rows.index)
        se = rows[f"{name}_se"].astype(float) if f"{name}_se" in rows else pd.Series(np.nan, index=rows.index)
        made[name] = value
        for end, sign in (("low", -1.0), ("high", 1.0)):
            stored = f"{name}_{end}"
            around = (value + sign * _NORMAL_95 * se).clip(lower=0.0)
            made[stored] = rows[stored].astype(float) if stored in rows else around
    return pd.DataFrame(made)


def _counts(frame: pd.DataFrame, name: str) -> dict[str, int]:
    return {str(k): int(n) for k, n in frame[name].value_counts().items()} if name in frame else {}


def _values(values: pd.Series, digits: int | None) -> list[Any]:
    if values.dtype.kind == "f":
        return _rounded(values.to_numpy(), digits)
    if values.dtype.kind in "iu":
        known: list[Any] = values.tolist()
        return known
    return [_plain(v) for v in values]


def _rounded(values: np.ndarray, digits: int | None) -> list[Any]:
    known = np.isfinite(values)
    if digits is not None:
        size = np.abs(np.where(known & (values != 0), values, 1.0))
        # Beyond 10^±290 the scale itself leaves the range of a double; nothing is rounded there.
        scale = 10.0 ** np.clip(digits - 1 - np.floor(np.log10(size)), -290, 290)
        values = np.where(size < 1e280, np.round(np.where(size < 1e280, values, 0.0) * scale) / scale, values)
    return [v if k else None for v, k in zip(values.tolist(), known.tolist(), strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | list | tuple):
        return _rounded(np.asarray(value, dtype=float), _DIGITS_DRAWN)
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return None
    if isinstance(value, pd.Timestamp):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return bool(value) if isinstance(value, bool | np.bool_) else str(value)


def _json(content: Any) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.translate({ord(character): f"\\u{ord(character):04x}" for character in "<>&"})
