"""The reader's commands: `markets`, `schedule`, `frontier`, `compare`, `explain`, on the schedule book.

On a terminal the columns that fit it, in the order of their importance, with units; tab-separated when piped, `--json`
and `--csv` where asked for: then every column.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from tributary_opt.schedule_book import ScheduleBook

_out = Console()
_err = Console(stderr=True)

_Json = Annotated[bool, typer.Option("--json", help="JSON, one object a row.")]
_Csv = Annotated[bool, typer.Option("--csv", help="CSV with a header.")]
_Root = Annotated[Path | None, typer.Option("--parquet", help="Parquet root; by default that of the settings.")]
_Token = Annotated[str | None, typer.Option("--token", help="Token id, where the market has several.")]
_Start = Annotated[
    datetime | None,
    typer.Option(
        parser=lambda text: _instant(text),
        metavar="TIME",
        help="When it begins, as in 2026-11-27T14:30 or with an offset, +02:00; UTC without one. Else times are days.",
    ),
]
_Horizon = Annotated[float | None, typer.Option(help="Horizon [trading days]; by default the grid's first.")]
_MinGrade = Annotated[str, typer.Option(help="Worst grade that will do: A, B, C or D.")]
_MaxAge = Annotated[float, typer.Option(help="Oldest release that will do [h of trading].")]
_Urgency = Annotated[float | None, typer.Option(help="kappa times the horizon; 0 is TWAP.")]
_Lambda = Annotated[float | None, typer.Option("--risk-aversion", help="lambda [1/currency].")]
_HalfLife = Annotated[float | None, typer.Option(help="Time at which half of the order is done [day].")]
_DecayTime = Annotated[float | None, typer.Option(help="1/kappa [day].")]
_Budget = Annotated[float | None, typer.Option("--cost-budget-bps", help="Expected cost [bps of arrival notional].")]
_DoneBy = Annotated[tuple[float, float] | None, typer.Option(help="Share, and the time [day] at which it is done.")]
_USUAL = "almgren_chriss"
_Strategy = Annotated[
    str,
    typer.Option(
        help="almgren_chriss, almgren_chriss_volume_time, almgren_chriss_capped, twap, vwap or market_order.",
        autocompletion=lambda incomplete: complete_strategy(incomplete),
    ),
]

_LABELS = {
    "market_id": "market",
    "token_id": "token",
    "adv": "adv [contracts/d]",
    "sigma": "sigma [price/√d]",
    "risk_aversion": "lambda [1/cur.]",
    "urgency": "urgency",
    "half_life": "half-life [d]",
    "expected_cost_bps": "cost [bps]",
    "cost_sd_bps": "± [bps]",
    "lvar_bps": "L-VaR [bps]",
    "first_slice_pct": "first slice [%]",
    "cost_profile": "costed by",
}
"""What a terminal's heading says instead of a column's name."""
_MARKETS_SHOWN = ("market_id", "token_id", "grade", "reason", "price", "adv", "sigma", "spread", "calendar", "method")
_COSTS_SHOWN = ("strategy", "expected_cost_bps", "cost_sd_bps", "half_life", "first_slice_pct", "status")
_FRONTIER_SHOWN = ("urgency", "expected_cost_bps", "cost_sd_bps", "lvar_bps", "first_slice_pct", "risk_aversion")


def complete_market(incomplete: str) -> list[str]:
    """Market ids of the current release, for the shell."""
    with contextlib.suppress(Exception), _book(None) as book:  # a shell that is completing has no place for a message
        return [name for name in book.market_ids() if name.startswith(incomplete)]
    return []


def complete_strategy(incomplete: str) -> list[str]:
    """Names of strategies, for the shell."""
    from tributary_opt.schedule_book.hull import FIXED, OPTIMAL

    return [name for name in (*OPTIMAL, *FIXED) if name.startswith(incomplete)]


_Market = Annotated[str, typer.Argument(help="Market id.", autocompletion=complete_market)]
_Size = Annotated[float, typer.Argument(help="Size of the order [contracts].")]


def register(app: typer.Typer, refusals: Any) -> None:
    """Add the commands to the application; `refusals` says in one line what is refused."""

    @app.command()
    def markets(
        search: Annotated[str, typer.Argument(help="Part of a market id.")] = "",
        min_grade: Annotated[str | None, typer.Option(help="Only markets of this grade or better.")] = None,
        root: _Root = None,
        as_json: _Json = False,
        as_csv: _Csv = False,
    ) -> None:
        """List the markets of the current release."""
        with refusals(), _book(root) as book:
            _show(book.markets(search, min_grade), as_json, as_csv, first=_MARKETS_SHOWN)

    @app.command()
    def schedule(
        market: _Market,
        order_size: _Size,
        token: _Token = None,
        strategy: _Strategy = _USUAL,
        urgency: _Urgency = None,
        risk_aversion: _Lambda = None,
        half_life: _HalfLife = None,
        decay_time: _DecayTime = None,
        done_by: _DoneBy = None,
        cost_budget_bps: _Budget = None,
        horizon: _Horizon = None,
        side: Annotated[str, typer.Option(help="sell or buy.")] = "sell",
        start: _Start = None,
        max_participation: Annotated[float | None, typer.Option(help="Largest share of the expected volume.")] = None,
        lot_size: Annotated[float | None, typer.Option(help="Slices are multiples of it [contracts].")] = None,
        min_grade: _MinGrade = "C",
        max_age: _MaxAge = 36.0,
        root: _Root = None,
        as_json: _Json = False,
        as_csv: _Csv = False,
    ) -> None:
        """The schedule of one order, slice by slice."""
        with refusals(), _book(root) as book:
            t = book.schedule(
                market,
                order_size,
                token_id=token,
                strategy=strategy,
                urgency=urgency,
                risk_aversion=risk_aversion,
                half_life=half_life,
                decay_time=decay_time,
                done_by=done_by,
                cost_budget_bps=cost_budget_bps,
                horizon=horizon,
                side=side,  # type: ignore[arg-type]
                start=start,
                max_participation=max_participation,
                lot_size=lot_size,
                min_grade=min_grade,
                max_age=max_age,
            )
        import pandas as pd

        p = t.params
        slices = pd.DataFrame(
            {
                "time": t.timestamps[:-1],
                "trade": t.trade_sizes,
                "left": t.holdings[1:],
                "price": p["slice_prices"],
                **{name: p[name] for name in ("market_id", "token_id", "side")},
                "strategy": t.strategy_name,
                "risk_aversion": t.risk_aversion,
                "expected_cost": p["expected_cost"],
                "expected_cost_bps": t.total_cost_estimate,
                "remainder": p.get("remainder", 0.0),
                **{name: p[name] for name in ("status", "source", "run_id", "as_of", "grade", "age_hours")},
                "warnings": "; ".join(p["warnings"]),
            }
        )
        title = (
            f"{market}: {p['side']} {order_size:g} contracts by {t.strategy_name}\n"
            f"{p['source']}, run {p['run_id']} as of {p['as_of']}, grade {p['grade']}, "
            f"{p['age_hours']:.1f} h of trading old\n"
            f"{t.total_cost_estimate:.4g} bps expected, half done after {p['half_life']:.3g} d"
        )
        for said in p["warnings"]:
            _err.print(f"warning: {said}", markup=False, highlight=False, soft_wrap=True)
        unit = "day" if start is None else "UTC"
        labels = {"time": f"time [{unit}]", "trade": "trade [contracts]", "left": "left [contracts]"}
        _show(slices, as_json, as_csv, title, first=list(slices.columns[:4]), labels=labels)

    @app.command()
    def frontier(
        market: _Market,
        order_size: _Size,
        token: _Token = None,
        strategy: _Strategy = _USUAL,
        horizon: _Horizon = None,
        points: Annotated[int, typer.Option(min=2, max=1_000, help="Points beside TWAP.")] = 20,
        min_grade: _MinGrade = "C",
        max_age: _MaxAge = 36.0,
        root: _Root = None,
        as_json: _Json = False,
        as_csv: _Csv = False,
    ) -> None:
        """The efficient frontier of one order: the least expected cost for every risk."""
        with refusals(), _book(root) as book:
            limits: dict[str, Any] = {"min_grade": min_grade, "max_age": max_age}
            limits |= {"token_id": token, "strategy": strategy, "horizon": horizon, "n_points": points}
            found = book.frontier(market, order_size, **limits)
            title = f"{market}: {order_size:g} contracts, run {book.run_id}"
        _show(found, as_json, as_csv, title, first=_FRONTIER_SHOWN)

    @app.command()
    def compare(
        market: _Market,
        order_size: _Size,
        token: _Token = None,
        urgency: _Urgency = None,
        risk_aversion: _Lambda = None,
        half_life: _HalfLife = None,
        decay_time: _DecayTime = None,
        done_by: _DoneBy = None,
        cost_budget_bps: _Budget = None,
        horizon: _Horizon = None,
        min_grade: _MinGrade = "C",
        max_age: _MaxAge = 36.0,
        root: _Root = None,
        as_json: _Json = False,
        as_csv: _Csv = False,
    ) -> None:
        """The optimal schedule beside TWAP, a market order and, where the hours are known, VWAP and volume time."""
        with refusals(), _book(root) as book:
            limits: dict[str, Any] = {"min_grade": min_grade, "max_age": max_age}
            risk: dict[str, Any] = {"urgency": urgency, "risk_aversion": risk_aversion, "half_life": half_life}
            risk |= {"decay_time": decay_time, "done_by": done_by, "cost_budget_bps": cost_budget_bps}
            found = book.compare(market, order_size, token_id=token, horizon=horizon, **limits, **risk)
            costed = "with the hours' volume" if found["cost_profile"][0] == "volume" else "by the clock"
            title = f"{market}: {order_size:g} contracts, run {book.run_id}, costed {costed}"
        _show(found, as_json, as_csv, title, first=_COSTS_SHOWN)

    @app.command()
    def explain(
        market: _Market,
        token: _Token = None,
        root: _Root = None,
        as_json: _Json = False,
        as_csv: _Csv = False,
    ) -> None:
        """Why these numbers: source rows, statistics, parameters, kappa, cost, and the run before."""
        with refusals(), _book(root) as book:
            from tributary_opt.schedule_book.evidence import explain as evidence

            found = evidence(book, market, token)
        if as_json or as_csv or not sys.stdout.isatty():
            _show(found, as_json, as_csv)
        else:
            _explain(market, found)


@contextlib.contextmanager
def _book(root: Path | None) -> Iterator[ScheduleBook]:
    from tributary_opt.schedule_book import BookError, ScheduleBook
    from tributary_opt.settings import from_environment

    try:
        book = ScheduleBook.open(from_environment() if root is None else root)
    except BookError as error:
        raise ValueError(str(error)) from None
    with book:
        try:
            yield book
        except BookError as error:
            raise ValueError(str(error)) from None


def _instant(text: str | datetime) -> datetime:
    """An instant as ISO 8601 writes it, UTC where it names no offset; a bare number is none."""
    if isinstance(text, datetime):
        return text
    try:
        found = None if text.strip().isdigit() else datetime.fromisoformat(text.strip())
    except ValueError:
        found = None
    if found is None:
        raise typer.BadParameter(f"{text!r} is no time: 2026-11-27T14:30 (UTC) or 2026-11-27T09:30-05:00 would be one")
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _show(
    frame: pd.DataFrame,
    as_json: bool,
    as_csv: bool,
    title: str = "",
    *,
    first: Sequence[str] = (),
    labels: Mapping[str, str] = _LABELS,
) -> None:
    if as_json and as_csv:
        raise typer.BadParameter("give one of --json and --csv")
    if as_json:
        records = [{name: _as_json(value) for name, value in row.items()} for row in _plain(frame).to_dict("records")]
        _say(json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    elif as_csv:
        _say(_plain(frame).to_csv(index=False))
    elif sys.stdout.isatty():
        _table(frame, title, first or list(frame.columns), labels)
    else:
        _say(_plain(frame).to_csv(index=False, sep="\t"))


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame with its instants as they are read back anywhere: UTC, to the microsecond."""
    return frame.assign(**{str(name): c.map(_zulu) for name, c in frame.items() if c.dtype.kind in "MO"})


def _zulu(value: Any) -> Any:
    if not isinstance(value, datetime) or value != value:  # NaT
        return None if isinstance(value, datetime) else value
    utc = value if value.tzinfo is None else value.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S.%f}Z"


def _as_json(value: Any) -> Any:
    """A value as JSON has it: doubles to the last digit, null for what is no number."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return None if value != value else value.item() if hasattr(value, "item") else str(value)


def _say(text: str) -> None:
    """Write to standard output, or end in a line where it takes no more."""
    try:
        typer.echo(text, nl=False)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in its buffer has no other way
        if not isinstance(error, BrokenPipeError):  # whoever reads has enough, which is no fault
            _err.print(f"[red]refused:[/] the output cannot be written: {error.strerror}", highlight=False)
        raise typer.Exit(1) from None


def _table(frame: pd.DataFrame, title: str, first: Sequence[str], labels: Mapping[str, str]) -> None:
    """The first columns of those named that fit the terminal, none of them cut short but the very first."""
    _out.print(escape(title), highlight=False) if title else None
    shown = Table()
    room = _out.width - 1
    chosen = [name for name in first if name in frame.columns]
    columns = {name: [escape(text) for text in _texts(frame[name].tolist())] for name in chosen}
    for place, name in enumerate(chosen):
        cells = columns[name]
        heading = escape(labels.get(name, name))
        room -= max([len(heading.replace("\\", "")), *map(len, cells)]) + 3
        if room < 0 and place:
            chosen = chosen[:place]
            break
        number = frame[name].dtype.kind in "iuf"
        shown.add_column(heading, justify="right" if number else "left", overflow="fold")
    for row in zip(*(columns[name] for name in chosen), strict=True):
        shown.add_row(*row)
    _out.print(shown)
    if left := [name for name in frame.columns if name not in chosen]:
        _out.print(f"[dim]not shown: {', '.join(left)} (--csv, --json, or pipe it)[/]", highlight=False)


def _explain(market: str, found: pd.DataFrame) -> None:
    """The chain of evidence as text: a line a quantity, what it means below it."""
    _out.print(f"[bold]{escape(market)}[/]", highlight=False)
    for stage, rows in found[found["value"].notna()].groupby("stage", sort=False):
        _out.print(f"\n[bold]{escape(str(stage))}[/]", highlight=False)
        for row in rows.to_dict("records"):
            said = {name: _text(value).removesuffix(" 00:00:00") for name, value in row.items()}
            line = f"{said['name']:<16} {said['value']} {said['unit'].removeprefix('-')}".rstrip()
            if said["low"] and said["high"]:
                line += f"  (95 %: {said['low']} to {said['high']})"
            line += f"  by {said['how']}" if said["how"] else ""
            if said["before"] and row["before"] != row["value"]:
                line += f"  was {said['before']}"
                line += f", {row['change_pct']:+.3g} %" if said["change_pct"] else ""
            _out.print(Padding(escape(line), (0, 0, 0, 2)), highlight=False)
            _out.print(Padding(f"[dim]{escape(said['meaning'])}[/]", (0, 0, 0, 6)), highlight=False)


def _texts(values: Sequence[Any]) -> list[str]:
    """A column's cells: numbers of like size with the same decimals, six figures of the largest."""
    sizes = [abs(v) for v in values if isinstance(v, float) and math.isfinite(v) and v != 0]
    if not sizes or max(sizes) >= 1e3 * min(sizes) or not 1e-3 <= max(sizes) < 1e6:
        return [_text(value) for value in values]
    decimals = 0 if all(size.is_integer() for size in sizes) else 5 - math.floor(math.log10(max(sizes)))
    return [f"{v:.{decimals}f}" if isinstance(v, float) and math.isfinite(v) else _text(v) for v in values]


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float | datetime) and value != value):  # NaN and NaT
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S.%f}".rstrip("0").rstrip(".")
    return f"{value:.6g}" if isinstance(value, float) else str(value)
