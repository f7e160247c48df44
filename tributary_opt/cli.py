"""The command line: `tributary-opt …`.

Errors are one line with the way out. Exit codes: 0 done, 1 refused or failed, 2 wrong words, 3 a check failed.

What a command needs is imported when it is run: a shell that completes a word, or a person who asks for help, should
not wait for pandas, calendars and the clients of a database.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

import tributary_opt
from tributary_opt import cli_book

if TYPE_CHECKING:
    import pandas as pd

    from tributary_opt.settings import Settings

_WrongWords: Any = typer.BadParameter.__base__
"""What typer, by whatever version of click it carries, raises for words that it does not understand."""


class _Commands(TyperGroup):
    """Wrong words, too, are said in one line."""

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **more: Any) -> Any:  # type: ignore[override]
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **more)
        try:
            sys.exit(super().main(args, standalone_mode=False, **more) or 0)
        except _WrongWords as error:
            asked = error.ctx.command_path if error.ctx is not None else "tributary-opt"
            said = " ".join(error.format_message().split()).rstrip(".")
            _refuse(f"{said}: see {asked} --help")
            sys.exit(2)
        except typer.Abort:
            sys.exit(1)


app = typer.Typer(
    cls=_Commands,
    help="Nightly Almgren-Chriss calibration and execution schedules for markets recorded in QuestDB.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)
_out = Console()
_err = Console(stderr=True)


class SourceName(StrEnum):
    """Tables that files can be loaded into."""

    trades = "trades"
    orderbook_snapshots = "orderbook_snapshots"
    markets = "markets"


@app.callback()
def main(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what happens, line by line.")] = False,
) -> None:
    """Nightly Almgren-Chriss calibration and execution schedules for markets recorded in QuestDB."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        return
    from rich.logging import RichHandler

    handler = RichHandler(console=_err, show_path=False, omit_repeated_times=False)
    handler.setLevel(logging.INFO if verbose else logging.WARNING)  # flows set their loggers' levels for Prefect's UI
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    for name in ("tributary_opt", "prefect"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.WARNING)


@app.command()
def night(
    as_of: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="Last trading day to use; by default the newest complete one with trades."
        ),
    ] = None,
    markets: Annotated[
        str, typer.Option(help="Only these market ids, separated by commas. Such a run is stored, never made current.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compute everything, write nothing.")] = False,
    reread: Annotated[bool, typer.Option("--reread", help="Read every day of the window from ticks again.")] = False,
) -> None:
    """Run one night in this process, without a Prefect server; its HTML report lies beside the Parquet."""
    said = ""
    with _refusals(), _progress() as progress:
        from tributary_opt.night import Choices, open_night, run_night
        from tributary_opt.report import page

        settings = _settings()
        chosen = Choices(markets=tuple(dict.fromkeys(m.strip() for m in markets.split(",") if m.strip())))
        day = as_of.date() if as_of else None
        with open_night(settings):  # an embedded server stays up for the report
            report = run_night(settings, chosen, as_of=day, dry_run=dry_run, reread=reread, progress=progress)
            if not dry_run:
                try:
                    said = f"HTML report: {page.write_page_of(settings, report)}"
                except Exception as error:  # the release is whole, with a page or without
                    said = f"[red]The HTML report was not written[/] ({type(error).__name__}: {error})"
    _show(
        settings,
        f"Night as of {report.run.as_of}, run {report.run.run_id}",
        report.parameters,
        report.trajectories,
        outcome=report.outcome.reason if report.outcome else None,
    )
    if said:
        _out.print(said, soft_wrap=True, highlight=False)


@app.command()
def demo(
    home: Annotated[Path, typer.Option(help="Folder for the demo's own database and Parquet.")] = Path("demo-data"),
    markets: Annotated[int, typer.Option(min=1, max=5_000, help="Sample instruments to generate.")] = 40,
    days: Annotated[int, typer.Option(min=1, max=366, help="Days to generate, up to yesterday.")] = 30,
) -> None:
    """Fill an embedded QuestDB with generated sample markets and run the nightly flow on them."""
    os.environ["TRIBUTARY_HOME"] = str(home.absolute())
    os.environ.setdefault("PREFECT_HOME", str(home.absolute() / "prefect"))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")  # its lines would tear the progress bars apart
    with _refusals():
        settings = _settings()
        if settings.questdb is not None:
            raise ValueError("the demo uses the embedded QuestDB: unset TRIBUTARY_QUESTDB__… for it")
        from tributary_opt.demo import run_demo

        with _progress() as progress:
            pointer, parameters, trajectories = run_demo(settings, progress, n_tokens=markets, n_days=days)
    title = f"Night as of {pointer.as_of}, run {pointer.run_id}"
    _show(settings, title, parameters, trajectories, outcome="current")
    _out.print(
        "\nThe [bold]truth[/] behind the sample lies in "
        f"{settings.home / 'sample' / 'truth.parquet'}.\nTo go on:\n"
        f"  TRIBUTARY_HOME={home} tributary-opt up        Prefect's UI, the nightly schedule, QuestDB's console\n"
        f"  TRIBUTARY_HOME={home} tributary-opt runs      what was published\n"
        "  tributary-opt load FILE --table trades        your own data; README.md tells the rest"
    )


@app.command()
def up() -> None:
    """Start everything: QuestDB, Prefect server, deployments and a worker. Ctrl-C stops it in order."""
    with _refusals():
        from flows.stack import up as run_stack

        run_stack(_settings())


@app.command()
def alerts() -> None:
    """Make or replace the alerts on the Prefect server that PREFECT_API_URL names; `up` does it by itself."""
    with _refusals():
        from flows.stack import alerts as make_alerts

        for name in make_alerts(_settings()):
            _out.print(name, highlight=False)


@app.command()
def load(
    files: Annotated[list[Path], typer.Argument(help="Parquet or CSV files.", exists=True, dir_okay=False)],
    table: Annotated[SourceName, typer.Option(help="The table they belong to.")],
    make_ids: Annotated[
        bool, typer.Option("--make-ids", help="Give trades without an id one, made from the file's digest and the row.")
    ] = False,
) -> None:
    """Load files into QuestDB. Columns are checked first; the same file twice does not double."""
    shown = Table("file", "rows in file", "new", "already there", "stamped in the future", "remarks")
    with _refusals(), _progress() as progress:
        from tributary_opt.night import open_night
        from tributary_opt.storage.load import load_file

        settings = _settings()
        with open_night(settings) as opened:
            for path in files:
                report = load_file(
                    opened.source_db,
                    path,
                    table.value,
                    make_ids=make_ids,
                    source_tables=settings.source_tables,
                    progress=partial(progress, path.name),
                )
                counts = (report.rows_in_file, report.rows_new, report.rows_known, report.rows_future)
                remarks = {
                    "table created": report.created,
                    f"{report.ids_made:,} ids made": report.ids_made,
                    f"{report.infinities:,} infinities stored as null": report.infinities,
                    f"{report.flags_unknown:,} unknown flags stored as false": report.flags_unknown,
                    f"columns left out: {', '.join(report.ignored)}": report.ignored,
                }
                said = "; ".join(text for text, holds in remarks.items() if holds)
                shown.add_row(path.name, *(f"{n:,}" for n in counts), said)
    _out.print(shown)


@app.command()
def check() -> None:
    """Look at server, source tables, permissions and releases; every failure names its remedy."""
    from tributary_opt.storage.check import check as run_check

    with _refusals(), _err.status("checking"):
        findings = run_check(_settings())
    shown = Table("", "what", "seen", "remedy")
    marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "failed": "[red]failed[/]"}
    for finding in findings:
        shown.add_row(marks[finding.status], finding.name, finding.seen, finding.remedy)
    _out.print(shown)
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(3)


@app.command()
def runs(limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 20) -> None:
    """List the newest runs, and which one is current."""
    from tributary_opt.night import open_night

    with _refusals(), _err.status("reading the runs"), open_night(_settings()) as opened:
        opened.prepare_tables()
        listed = opened.releases.runs(limit)
    shown = Table(
        "as_of", "run_id", "", "state", "scope", "markets", "ok", "schedules", "finished", "published", "error"
    )
    for row in listed.to_dict("records"):
        shown.add_row(
            f"{row['as_of']:%Y-%m-%d}",
            row["run_id"],
            "[green]current[/]" if row["current"] else "",
            row["state"],
            row["scope"],
            *(f"{row[name]:,}" for name in ("n_markets", "n_ok", "n_trajectories")),
            _minute(row["finished_at"]),
            _minute(row["published_at"]),
            row["error"] or "",
        )
    _out.print(shown)


@app.command()
def rollback(run_id: Annotated[str, typer.Argument(help="A complete run, from `tributary-opt runs`.")]) -> None:
    """Make an earlier run current again."""
    from tributary_opt.night import open_night

    with _refusals(), _err.status("verifying the run's rows"), open_night(_settings()) as opened:
        opened.prepare_tables()
        pointer = opened.releases.rollback(run_id)
    since = f"{pointer.published_at:%Y-%m-%d %H:%M:%S} UTC"
    _out.print(f"Run [bold]{pointer.run_id}[/] as of {pointer.as_of} is current since {since}.")


@app.command()
def maintenance(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, do nothing.")] = False,
    trajectory_nights: Annotated[int, typer.Option(min=1, help="Nights whose trajectories and reports are kept.")] = 30,
) -> None:
    """Sweep old trajectories and what killed runs left behind."""
    from tributary_opt.night import open_night
    from tributary_opt.settings import Retention

    with _refusals(), _err.status("looking for what can go"), open_night(_settings()) as opened:
        opened.prepare_tables()
        retention = Retention(trajectory_nights=trajectory_nights)
        actions = opened.releases.maintain(retention, datetime.now(UTC), dry_run=dry_run)
    if not len(actions):
        _out.print("Nothing to do.")
        return
    shown = Table("would do" if dry_run else "done", "what", "why")
    for action in actions.to_dict("records"):
        shown.add_row(action["action"], action["name"], action["why"])
    _out.print(shown)


@app.command()
def version() -> None:
    """Show the version."""
    _out.print(tributary_opt.__version__)


# --- inside --------------------------------------------------------------------------------------------------


def _settings() -> Settings:
    from tributary_opt.settings import from_environment

    return from_environment()


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What we refuse is said in one line; anything else is a fault of ours and keeps its traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        _refuse(str(error))
        raise typer.Exit(1) from None
    except Exception as error:
        if not isinstance(error, _refused_by_rooms()):
            raise
        _refuse(f"{type(error).__name__}: {error}")
        raise typer.Exit(1) from None


def _refuse(said: str) -> None:
    _err.print("[red]refused:[/] ", end="")
    _err.print(said, markup=False, highlight=False, soft_wrap=True)


def _refused_by_rooms() -> tuple[type[Exception], ...]:
    """What the rooms refuse with, beside ValueError; whoever raised one of them has imported most of this."""
    from tributary_opt.market_data.source import SourceError
    from tributary_opt.night import NightError
    from tributary_opt.storage.embedded import EmbeddedServerError
    from tributary_opt.storage.questdb import QuestDBQueryError, ServerUnavailable, TableSuspended
    from tributary_opt.storage.releases import ReleaseError
    from tributary_opt.storage.shapes import SchemaMismatch

    found = (NightError, SourceError, ReleaseError, EmbeddedServerError, SchemaMismatch, TableSuspended)
    return (*found, ServerUnavailable, QuestDBQueryError)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int | None], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    words, bar, counts = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    columns = (SpinnerColumn(), words, bar, counts, TimeElapsedColumn())
    with Progress(*columns, console=_err) as bars:
        tasks: dict[str, Any] = {}

        def show(step: str, done: int, total: int | None) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=None)
            # Nothing to do is done; how much there is may not be known.
            bars.update(tasks[step], completed=done if total != 0 else 1, total=1 if total == 0 else total)

        yield show


def _show(
    settings: Settings, title: str, parameters: pd.DataFrame, trajectories: pd.DataFrame, *, outcome: str | None
) -> None:
    """A night's outcome: what was published, what was refused, where it lies. `outcome` None: nothing was written."""
    from tributary_opt import schema

    ok = parameters["status"] == "ok"
    shown = Table("what", "rows", "of which", title=title)
    shown.add_row("markets", f"{len(parameters):,}", f"{ok.sum():,} ok, {(~ok).sum():,} refused")
    for reason, n in parameters.loc[~ok, "reason"].value_counts().items():
        shown.add_row("", "", f"{n:,} {reason}")
    shown.add_row("schedules", f"{len(trajectories):,}", "")
    for status, n in trajectories["status"].value_counts().items():
        shown.add_row("", "", f"{n:,} {status}")
    _out.print(shown)
    _out.print(_sample_of_schedules(trajectories))
    if outcome is None:
        _out.print("Dry run: nothing was written.")
        return
    _out.print(f"[bold]{outcome}[/]. SQL: {', '.join(schema.VIEWS)}")
    _out.print(f"Parquet: {settings.parquet_root} ([bold]current.json[/] names the current files)", soft_wrap=True)


def _sample_of_schedules(trajectories: pd.DataFrame) -> Table:
    """The first markets' schedules for the middle of the grid."""
    from rich import box

    shown = Table(
        "market, order",
        "strategy",
        "urgency",
        "cost bps",
        "± bps",
        "half-life d",
        title="One order size, a few markets",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    shown.columns[0].overflow = "fold"
    shown.columns[1].no_wrap = True  # three strategies begin alike: cut or broken, they could not be told apart
    for column in shown.columns[2:]:
        column.justify = "right"
    if not len(trajectories):
        return shown
    middle = trajectories["size_ix"].max() // 2
    first = trajectories["market_id"].drop_duplicates().iloc[:3]
    chosen = trajectories[(trajectories["size_ix"] == middle) & trajectories["market_id"].isin(first)]
    for (market, _), schedules in chosen[chosen["horizon_ix"] == 0].groupby(["market_id", "token_id"], sort=False):
        order = f"{schedules['order_size'].iloc[0]:,.6g}"
        for named, row in zip([market, order, *[""] * len(schedules)], schedules.to_dict("records"), strict=False):
            urgency = "" if math.isnan(row["urgency"]) else f"{row['urgency']:g}"
            cost, risk = f"{row['expected_cost_bps']:,.1f}", f"{row['cost_sd_bps']:,.1f}"
            shown.add_row(named, row["strategy"], urgency, cost, risk, f"{row['half_life']:.3f}")
        shown.add_section()
    return shown


def _minute(stamp: datetime | None) -> str:
    """Of a stamp; nothing for None and NaT, which is no equal of its own."""
    return "" if stamp is None or stamp != stamp else f"{stamp:%Y-%m-%d %H:%M}"


cli_book.register(app, _refusals)
