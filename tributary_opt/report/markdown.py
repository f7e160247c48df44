"""The report of a run as markdown, and its table of refusals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from tributary_opt import schema
from tributary_opt.night import NightReport

_KEY = ["market_id", "token_id"]
_LARGEST = 10
MOVED = 4.0
"""Standard errors from which a change is a move: among 10,000 numbers chance makes less than one. [-]"""
_FIGURE = r" (?:-?[\d.]+(?:e[+-]?\d+)?|inf|unknown)$"
_NAMED = 20
"""Markets named in a list before it says how many more there are."""


@dataclass(frozen=True)
class Day:
    """One day of a backfill."""

    as_of: date
    run_id: str
    n_ok: int
    n_refused: int
    n_trajectories: int
    outcome: str


@dataclass(frozen=True)
class Changes:
    """What differs between two sets of parameters. Markets are (market_id, token_id)."""

    new: list[tuple[str, str]]
    gone: list[tuple[str, str]]
    newly_refused: list[tuple[str, str]]
    recovered: list[tuple[str, str]]
    moves: dict[str, pd.DataFrame]
    """The largest moves of eta and of sigma: market_id, token_id, before, now, per_cent; largest first."""


def headline(night: NightReport) -> str:
    """One line: which run, how many markets, what became of it."""
    n_ok, n = _n_ok(night.parameters), len(night.parameters)
    return f"run {night.run.run_id} as of {night.run.as_of}: {n_ok} of {n} markets, {outcome(night)}"


def outcome(night: NightReport) -> str:
    """What became of the run."""
    return "dry run, nothing written" if night.outcome is None else night.outcome.reason


def run_report(night: NightReport, *first: str) -> str:
    """The report of one run: counts, refusals by reason, jumps, trajectories by status, timings, changes.

    Paragraphs of `first` (a picture, a link) stand between the title and the counts.
    """
    p, run = night.parameters, night.run
    n_ok = _n_ok(p)
    facts = {
        "As of": f"{run.as_of}",
        "Run": f"`{run.run_id}` ({run.scope})",
        "Outcome": outcome(night),
        "Window": f"from {run.window_start}, {run.days_read} days read from ticks",
        "Markets": f"{len(p):,}: {n_ok:,} calibrated, {len(p) - n_ok:,} refused",
        "Schedules": f"{len(night.trajectories):,}",
        "Source": f"{run.source_trades:,} trades, {run.source_snapshots:,} looks at the book in the window",
        "Rows ignored": f"{run.future_rows:,}, stamped after the last complete day",
    }
    parts = [f"# {run.as_of}: {n_ok:,} of {len(p):,} markets", *first, _table(["", ""], facts.items())]
    refused = p.loc[p["status"] != "ok", "reason"].value_counts()
    if len(refused):
        parts += ["## Refused", _table(["reason", "markets"], refused.items())]
    grades = _grades(p)
    if len(grades):
        parts += ["## Grades", _table(["grade", "markets", "most often because of"], grades)]
    jumped = jumps(p)
    if len(jumped):
        named = [(_name((r.market_id, r.token_id)), r.jump) for r in jumped.iloc[:_NAMED].itertuples()]
        parts += [f"## Jumps in the source ({len(jumped):,})", _table(["market", "what happened"], named)]
    if len(night.trajectories):
        statuses = night.trajectories["status"].value_counts()
        parts += ["## Schedules", _table(["status", "schedules"], ((s, f"{n:,}") for s, n in statuses.items()))]
    if night.timings:
        parts += ["## Time", _table(["step", "seconds"], ((step, f"{s:.2f}") for step, s in night.timings.items()))]
    return "\n\n".join([*parts, "## Changes", _changes(night)]) + "\n"


def refusals(parameters: pd.DataFrame, at_most: int | None = None) -> list[dict[str, str]]:
    """The refused markets: market_id, token_id, reason and the figures behind it, sorted by market.

    Where they are more than `at_most`, the first few of each reason.
    """
    refused = parameters[parameters["status"] != "ok"].sort_values(_KEY, kind="stable")
    if at_most is not None and len(refused) > at_most:
        refused = refused.groupby("reason", sort=False).head(max(1, at_most // refused["reason"].nunique()))
    columns = [*_KEY, "reason", "detail"]
    return [{name: _text(row[name]) for name in columns} for row in refused[columns].to_dict("records")]


def largest_moves(night: NightReport) -> list[dict[str, Any]]:
    """The largest moves against the release before, rounded: parameter, market_id, token_id, before, now, per_cent."""
    if night.before is None:
        return []
    return [
        {
            "parameter": name,
            "market_id": _text(row["market_id"]),
            "token_id": _text(row["token_id"]),
            "before": float(f"{row['before']:.4g}"),
            "now": float(f"{row['now']:.4g}"),
            "per_cent": round(row["per_cent"], 1),
        }
        for name, moved in changes(night.before, night.parameters).moves.items()
        for row in moved.to_dict("records")
    ]


def changes(before: pd.DataFrame, now: pd.DataFrame) -> Changes:
    """What differs between the parameters of two runs.

    A market of both is newly refused where only the run before has parameters for it, recovered where only this one
    has. Moves are in per cent of the value before, of markets with parameters in both.
    """
    a, b = (p.assign(token_id=p["token_id"].fillna("")).set_index(_KEY) for p in (before, now))
    ok_a, ok_b = a.index[a["status"] == "ok"], b.index[b["status"] == "ok"]
    both, ok_both = b.index.intersection(a.index), ok_b.intersection(ok_a)
    moves = {}
    for name in ("eta", "sigma"):
        old, new = a.loc[ok_both, name].to_numpy(dtype=float), b.loc[ok_both, name].to_numpy(dtype=float)
        known = (old > 0) & np.isfinite(old) & np.isfinite(new)
        moved = pd.DataFrame({"before": old[known], "now": new[known]}, index=ok_both[known])
        moved["per_cent"] = (moved["now"] / moved["before"] - 1.0) * 100.0
        moved = moved[moved["per_cent"] != 0.0]
        order = moved["per_cent"].abs().sort_values(ascending=False, kind="stable").index[:_LARGEST]
        moves[name] = moved.loc[order].reset_index()
    return Changes(
        new=sorted(b.index.difference(a.index)),
        gone=sorted(a.index.difference(b.index)),
        newly_refused=sorted(both.intersection(ok_a).difference(ok_b)),
        recovered=sorted(both.intersection(ok_b).difference(ok_a)),
        moves=moves,
    )


def day_of(night: NightReport) -> Day:
    """One day of a backfill, from its night."""
    n_ok = _n_ok(night.parameters)
    refused = len(night.parameters) - n_ok
    return Day(night.run.as_of, night.run.run_id, n_ok, refused, len(night.trajectories), outcome(night))


def days_report(days: list[Day]) -> str:
    """The report of a backfill, a line each day."""
    if not days:
        return "# No day\n\nNothing is known of any market in these days.\n"
    header = ["as of", "run", "calibrated", "refused", "schedules", "outcome"]
    rows = (
        (d.as_of, f"`{d.run_id}`", f"{d.n_ok:,}", f"{d.n_refused:,}", f"{d.n_trajectories:,}", d.outcome) for d in days
    )
    return f"# {len(days)} days, {days[0].as_of} to {days[-1].as_of}\n\n{_table(header, rows)}\n"


def plans_report(days: list[date], to_read: list[date]) -> str:
    """What a backfill would do."""

    def said(dates: list[date]) -> str:
        return f"{len(dates)}" + (f", {dates[0]} to {dates[-1]}" if dates else "")

    facts = {"Days to run": said(days), "Days to read from ticks": said(to_read), "Outcome": "dry run, nothing written"}
    return f"# Backfill\n\n{_table(['', ''], facts.items())}\n"


# --- inside -------------------------------------------------------------------------------------------------


def _changes(night: NightReport) -> str:
    if night.before is None:
        return "There was no release before."
    found = changes(night.before, night.parameters)
    parts = []
    for title, markets in (
        ("New", found.new),
        ("Gone", found.gone),
        ("Newly refused", found.newly_refused),
        ("Recovered", found.recovered),
    ):
        if markets:
            more = f" and {len(markets) - _NAMED:,} more" if len(markets) > _NAMED else ""
            parts.append(f"**{title}** ({len(markets):,}): {', '.join(_name(m) for m in markets[:_NAMED])}{more}")
    for name, moved in found.moves.items():
        if len(moved):
            rows = (
                (_name((r.market_id, r.token_id)), f"{r.before:.4g}", f"{r.now:.4g}", f"{r.per_cent:+.1f}")
                for r in moved.itertuples()
            )
            parts += [f"**Largest moves of {name}**", _table(["market", "before", "now", "%"], rows)]
    moved = movers(night.parameters)
    if len(moved):
        listed = [
            (_name((r.market_id, r.token_id)), r.parameter, f"{r.now:.4g}", f"{r.z:+.1f}")
            for r in moved.iloc[:_NAMED].itertuples()
        ]
        title = f"**Moved by {MOVED:g} standard errors or more** ({len(moved):,})"
        parts += [title, _table(["market", "parameter", "now", "z"], listed)]
    return "\n\n".join(parts) or "None against the release before."


def _grades(parameters: pd.DataFrame) -> list[tuple[str, int, str]]:
    """Each grade with its number of markets and its most frequent criterion."""
    if "grade" not in parameters:
        return []
    rows = []
    for letter, of in parameters[parameters["grade"].notna()].groupby("grade", sort=True):
        said = of["grade_reason"].fillna("").str.split("; ").explode().str.replace(_FIGURE, "", regex=True)
        counts = said.value_counts(sort=False).sort_index().sort_values(ascending=False, kind="stable")
        rows.append((str(letter), len(of), str(counts.index[0]) if len(counts) else ""))
    return rows


def movers(parameters: pd.DataFrame) -> pd.DataFrame:
    """Parameters that moved by `MOVED` standard errors or more since the release before, the furthest first.

    Columns market_id, token_id, parameter, now, z.
    """
    parts = []
    for name in schema.PARAMETER_DRIFTS:
        column = f"{name}_drift_z"
        if column in parameters:
            z = parameters[column].to_numpy(dtype=float)
            far = np.abs(z) >= MOVED
            part = parameters.loc[far, _KEY].assign(parameter=name, now=parameters.loc[far, name], z=z[far])
            parts.append(part)
    if not any(map(len, parts)):
        return pd.DataFrame(columns=[*_KEY, "parameter", "now", "z"])
    moved = pd.concat([part for part in parts if len(part)], ignore_index=True)
    order = np.argsort(-np.abs(moved["z"].to_numpy(dtype=float)), kind="stable")
    ordered: pd.DataFrame = moved.iloc[order].reset_index(drop=True)
    return ordered


def jumps(parameters: pd.DataFrame) -> pd.DataFrame:
    """Markets whose window holds a jump of the source, the newest first: market_id, token_id, jump in words."""
    if "source_jump" not in parameters:
        return pd.DataFrame(columns=[*_KEY, "jump"])
    has = parameters[parameters["source_jump"].notna()]
    found = has[_KEY].assign(jump=has["source_jump"].astype(str))
    found["day"] = found["jump"].str.findall(r"\d{4}-\d\d-\d\d").map(lambda days: max(days, default=""))
    newest_first: pd.DataFrame = found.sort_values(["day", *_KEY], ascending=[False, True, True], ignore_index=True)
    return newest_first.drop(columns="day")


def _n_ok(parameters: pd.DataFrame) -> int:
    return int((parameters["status"] == "ok").sum())


def _name(market: tuple[Any, Any]) -> str:
    market_id, token_id = map(_text, market)
    return market_id if token_id in ("", market_id) else f"{market_id} / {token_id}"


def _text(value: Any) -> str:
    return "" if value is None or value is pd.NA or value != value else str(value)


def _table(header: list[str], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    # A market id may hold anything; it must not break out of its cell.
    return " ".join(str(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
