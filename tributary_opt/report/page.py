"""The report of a night as one HTML file that opens offline: nothing in it is fetched.

The page holds the parameters, packed; schedules and frontiers are computed in it (`templates/model.js`, held to the
published rows by a test), under the law, the convention and the caps of the run's grid, by the clock and by the
markets' hours. The overview is drawn here, a market's charts are plotly's: its script is inlined and read when a market
is first chosen, since that takes longer than all the rest. Whatever comes from the data is escaped: it travels packed,
and reaches the page as text.
"""

from __future__ import annotations

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
from tributary_opt.market_data.calendars import trading_calendar
from tributary_opt.market_data.profile import session_hours
from tributary_opt.night import NightReport, open_night
from tributary_opt.precompute import ALMGREN_CHRISS, CAPPED, MARKET_ORDER
from tributary_opt.report.markdown import MOVED, changes, jumps, largest_moves, movers, outcome
from tributary_opt.report.overview import overview_svg
from tributary_opt.report.packed import Packer, compressed
from tributary_opt.settings import Settings
from tributary_opt.storage.parquet import release_file, write_page
from tributary_opt.storage.releases import Releases

HISTORY_RUNS = 10
"""Nights in the history of a market's parameters. [-]"""
HISTORY = ("sigma", "epsilon", "eta", "gamma")
"""Parameters whose history is shown."""

_KEY = ["market_id", "token_id"]
_LEFT_OUT = {"as_of", "run_id"}
_EXACT = {"price", "contract_multiplier", "adv", "alpha", "reference_rate", *HISTORY}
"""What the page computes with travels with all its digits; the rest is for the eye."""
_PROFILES = {"volume_profile", "variance_profile"}
_BITS, _BITS_DRAWN, _BITS_PROFILE = 17, 11, 23
"""Of the mantissa: five digits, what a chart shows, and what schedules by volume are computed from. [-]"""
_NORMAL_95 = 1.959963984540054
"""97.5 % quantile of the normal law. [-]"""
_COST_OF_PCT = 1.0
"""Order size whose published cost stands in the table of markets, or the grid's nearest. [% of ADV]"""

_JUMPS_NAMED = 100
"""Jumps of the source in the overview; a market's own stands with its columns."""

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


def write_page_of(settings: Settings, night: NightReport) -> Path:
    """The page of a night just stored, with the history of its parameters. Returns where it is."""
    with open_night(settings) as opened:
        history = parameter_history(opened.releases, night.run.as_of)
    return write(settings.parquet_root, night, history)


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
        overview=Markup(overview_svg(night)),
        data=Markup(_packed(night, history)),
        plotly=Markup(compressed(plotly.offline.get_plotlyjs().encode())),
        style=inlined("report.css"),
        scripts=Markup("\n").join(inlined(f"{name}.js") for name in ("data", "model", "charts", "report", "market")),
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


def _packed(night: NightReport, history: History) -> str:
    p = night.parameters.sort_values(_KEY, kind="stable").reset_index(drop=True)
    columns = [c for c in schema.PARAMETERS.columns if c.name not in _LEFT_OUT and c.name in p]
    moved = changes(night.before, night.parameters) if night.before is not None else None
    jumped = jumps(p)
    pack = Packer()
    content = {
        "n": len(p),
        "columns": [{"name": c.name, "unit": c.unit, "meaning": c.meaning} for c in columns],
        "schedule_columns": {c.name: {"unit": c.unit, "meaning": c.meaning} for c in schema.TRAJECTORIES.columns},
        "markets": {c.name: _column(pack, c, p[c.name]) for c in columns},
        "grid": night.run.settings.get("grid", {}),
        "sessions": _sessions(night, p),
        "published": _published(pack, night, p),
        "movers": largest_moves(night),
        "jumps": {"n": len(jumped), "newest": jumped.iloc[:_JUMPS_NAMED].to_dict("records")},
        "changes": None
        if moved is None
        else {
            "New": len(moved.new),
            "Gone": len(moved.gone),
            "Newly refused": len(moved.newly_refused),
            "Recovered": len(moved.recovered),
            f"Moved by {MOVED:g} standard errors or more": len(movers(p)),
        },
        "history": _history(pack, p, night, history),
        "impact_buckets": schema.IMPACT_BUCKETS,
    }
    return pack.packed(content)


def _column(pack: Packer, column: schema.Column, values: pd.Series) -> dict[str, Any]:
    if column.type == "DOUBLE[]":
        lists = pa.array(values, pa.list_(pa.float64()), from_pandas=True)
        lengths = np.asarray(lists.value_lengths().fill_null(0))
        width = int(lengths.max(initial=0))
        whole = np.full((len(values), width), np.nan)
        if width:  # in a night's column there may be no list at all
            has = lengths == width
            whole[has] = np.asarray(lists.filter(pa.array(has)).flatten()).reshape(-1, width)
        bits = _BITS_PROFILE if column.name in _PROFILES else _BITS_DRAWN
        return {"kind": "list", "width": width, "values": pack.add(whole, bits)}
    if column.type == "TIMESTAMP":
        stamps = pd.to_datetime(values, utc=True)
        values = stamps.dt.strftime("%Y-%m-%d %H:%M:%S").where(stamps.notna(), None)
    if column.type in ("DOUBLE", "INT", "LONG"):
        numbers = values.to_numpy(dtype=float, na_value=np.nan)
        exact = column.name in _EXACT or column.type != "DOUBLE"
        numbers = np.where(np.isfinite(numbers), numbers, np.nan)
        return {"kind": "number", "values": pack.add(numbers, None if exact else _BITS)}
    return {"kind": "text", "values": pack.words(values)}


def _sessions(night: NightReport, p: pd.DataFrame) -> dict[str, Any]:
    """Of each calendar the first sessions after the night: where each hour of its clock begins, 0 to 1 of a session."""
    horizons = night.run.settings.get("grid", {}).get("horizons", [1.0])
    found = {}
    for code in sorted(set(p.loc[p["status"] == "ok", "calendar"])):
        sessions = trading_calendar(code).sessions_after(night.run.as_of, int(np.ceil(max(horizons))))
        pieces = [session_hours(code, session) for session in sessions]
        found[code] = [{"at": (at / at[-1]).tolist(), "hour": hour.tolist()} for at, hour in pieces]
    return found


def _published(pack: Packer, night: NightReport, p: pd.DataFrame) -> dict[str, Any] | None:
    """What the page takes from the published schedules: each one's status, the horizons, one cost of each market.

    None where the run has no schedules. `status` is a block of (markets with schedules, their rows) in the order of
    `rows`; a market without parameters has none.
    """
    t = night.trajectories
    if not len(t) or "strategy" not in t:
        return None
    key = ["strategy", "size_ix", "risk_ix", "horizon_ix"]
    per_market = len(t.drop_duplicates(key))
    rows = t[key].iloc[:per_market]
    ok = np.flatnonzero((p["status"] == "ok").to_numpy())
    if len(t) != per_market * len(ok):
        raise ValueError(f"{len(t)} schedules of {len(ok)} markets do not come to {per_market} each")

    def block(name: str) -> np.ndarray:
        return t[name].to_numpy().reshape(-1, per_market)

    def of_all(values: np.ndarray) -> np.ndarray:
        whole = np.full((len(p), values.shape[1]), np.nan)
        whole[ok] = values
        return whole

    grid = night.run.settings["grid"]
    order = (rows["strategy"] == MARKET_ORDER) & (rows["size_ix"] == 0)
    sizes, levels = np.array(grid["order_sizes_pct_adv"]), len(grid["risk_levels"])
    strategy = CAPPED if CAPPED in set(rows["strategy"]) else ALMGREN_CHRISS
    shown = [strategy, int(np.abs(sizes - _COST_OF_PCT).argmin()), (levels - 1) // 2, 0]
    at = int(np.flatnonzero((rows == shown).all(axis=1))[0])
    codes = pd.Categorical(t["status"], categories=schema.TRAJECTORY_STATUSES).codes
    return {
        "rows": rows.to_numpy().tolist(),
        "statuses": schema.TRAJECTORY_STATUSES,
        "status": pack.add(np.asarray(codes, dtype=np.uint8)),
        "horizons": pack.add(of_all(block("horizon")[:, np.flatnonzero(order)])),
        "cost": pack.add(of_all(block("expected_cost_bps")[:, [at]]), _BITS),
        "cost_of": dict(zip(key, shown, strict=True)),
    }


def _history(pack: Packer, p: pd.DataFrame, night: NightReport, history: History) -> dict[str, Any]:
    """For each parameter and end the values as nights x markets, oldest night first, this run's own last."""
    run, own = f"{night.run.as_of}", _with_intervals(p).assign(as_of=f"{night.run.as_of}")
    past = history.rows[history.rows["as_of"] < run] if len(history.rows) else own.iloc[:0]
    rows = pd.concat([part for part in (past, own) if len(part)], ignore_index=True) if len(own) else own
    place = pd.MultiIndex.from_frame(p[_KEY].fillna(""))
    at = place.get_indexer(pd.MultiIndex.from_frame(rows[_KEY].fillna("")))
    nights, night_ix = np.unique(rows["as_of"].to_numpy(dtype=str), return_inverse=True)
    here = at >= 0
    values = {}
    for name in (f"{parameter}{end}" for parameter in HISTORY for end in ("", "_low", "_high")):
        whole = np.full((len(nights), len(p)), np.nan)
        whole[night_ix[here], at[here]] = rows[name].to_numpy(dtype=float)[here]
        values[name] = pack.add(whole, _BITS_DRAWN)
    return {"nights": nights.tolist(), "values": values, "left_out": history.left_out}


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
