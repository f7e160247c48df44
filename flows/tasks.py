"""The steps of the night as Prefect tasks.

Each opens its own connections and takes plain values. Tasks that talk to QuestDB are tried again where the server was
not there, and for no other reason; a step that is done twice leaves one set of rows. Nothing is cached: what was done
is known from the tables.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, TypedDict, TypeVar
from uuid import UUID

import pandas as pd
from prefect import task, unmapped
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

from tributary_opt import night as core
from tributary_opt import schema
from tributary_opt.night import Calibrated, Choices, NightReport, Plan, Seen, open_night
from tributary_opt.precompute import precompute as solve
from tributary_opt.report import markdown
from tributary_opt.report.desk_orders import desk_orders
from tributary_opt.report.desk_orders import write_desk_orders as save_desk_orders
from tributary_opt.settings import Desk, Grid, Retention, Runner, Settings
from tributary_opt.storage.parquet import release_file
from tributary_opt.storage.questdb import ServerUnavailable

WRITER = "tributary-writer"
"""Prefect's global concurrency limit that publishing holds."""
PUBLISHED = "tributary.trajectories.published"
"""The event that tells consumers of a new current release."""
REFUSALS = 250
"""Rows of the table of refusals, at most: Prefect's page draws every row, and stands still at a thousand. [-]"""
MAX_TASKS = 8
"""Tasks that a step is cut into, at most: a task run costs the server more than a chunk of markets does. [-]"""

_EVENTS = 50
"""Events that Prefect's server gives at once, at most; the client's default, 100, is refused. [-]"""

_LOG = logging.getLogger("tributary_opt.flows")
_T = TypeVar("_T")


def _server_was_away(task: Any, task_run: Any, state: Any) -> bool:
    try:
        state.result()
    except ServerUnavailable:
        return True
    except Exception:
        return False
    return False


class _TaskOptions(TypedDict, total=False):
    cache_policy: CachePolicy
    persist_result: bool
    retries: int
    retry_delay_seconds: Callable[[int], list[float]]
    retry_jitter_factor: float
    retry_condition_fn: Callable[[Any, Any, Any], bool]


_COMPUTES: _TaskOptions = {"cache_policy": NO_CACHE, "persist_result": False}
_TALKS_TO_QUESTDB: _TaskOptions = {
    **_COMPUTES,
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),  # 5, 10 and 20 s
    "retry_jitter_factor": 0.2,
    "retry_condition_fn": _server_was_away,
}


# --- the steps ------------------------------------------------------------------------------------------------


@task(**_TALKS_TO_QUESTDB)
def plan(choices: Choices, as_of: date | None) -> Plan:
    """Tables brought up to date; which day, and which days must be read for it."""
    with open_night(Settings()) as night:
        night.prepare()
        found = night.plan(choices, as_of)
    _LOG.info("as of %s: %d days to read", found.as_of, len(found.outdated))
    return found


@task(**_TALKS_TO_QUESTDB)
def plan_days(choices: Choices, start: date, end: date, reread: bool) -> list[Plan]:
    """Tables brought up to date; a plan for each day from start to end, the days to read in the first."""
    with open_night(Settings()) as night:
        night.prepare()
        plans = night.plans(choices, start, end, reread=reread)
    _LOG.info("%d days from %s to %s, %d of them and before to read", len(plans), start, end, len(_to_read(plans)))
    return plans


@task(task_run_name="observe {label}", **_TALKS_TO_QUESTDB)
def observe(
    days: tuple[date, ...], label: str, choices: Choices, store: bool, unread: tuple[date, ...]
) -> pd.DataFrame:
    """Read days from ticks, some of those that are unread. The rows that were not stored."""
    with open_night(Settings()) as night:
        rows = night.observe(choices, days, store=store, unread=unread)
    return rows.iloc[:0] if store else rows


@task(**_TALKS_TO_QUESTDB)
def chunk(choices: Choices, as_of: date, fresh: pd.DataFrame | None) -> list[list[tuple[str, str]]]:
    """The markets of the window as ranges of ids, dealt out to `MAX_TASKS` tasks at most."""
    with open_night(Settings()) as night:
        return dealt(night.chunks(choices, as_of, fresh))


@task(task_run_name="measure {label}", **_TALKS_TO_QUESTDB)
def measure(
    chunks: list[tuple[str, str] | None], label: str, choices: Choices, as_of: date, fresh: pd.DataFrame | None
) -> list[Seen]:
    """What the window says of the markets of some chunks."""
    with open_night(Settings()) as night:
        return [night.measure(choices, as_of, chunk, fresh) for chunk in chunks]


@task(**_TALKS_TO_QUESTDB)
def calibrate(seen: list[list[Seen]], choices: Choices, as_of: date) -> list[list[Calibrated]]:
    """Parameters of every market, all judged together; dealt out as they were measured."""
    with open_night(Settings()) as night:
        calibrated = iter(night.calibrate(choices, as_of, flat(seen)))
    return [[part for _, part in zip(parts, calibrated, strict=False)] for parts in seen]


@task(**_COMPUTES)
def precompute(calibrated: list[Calibrated], grid: Grid, as_of: date) -> pd.DataFrame:
    """Schedules of the markets of some chunks."""
    return pd.concat([solve(part.parameters, grid, as_of) for part in calibrated], ignore_index=True)


@task(**_TALKS_TO_QUESTDB)
def stored_parameters(run_id: str, grid: Grid, markets: tuple[str, ...]) -> tuple[Choices, Plan, Calibrated]:
    """The parameters of a finished run; no tick is read."""
    with open_night(Settings()) as night:
        night.prepare()
        return night.stored(run_id, grid, markets)


@task(**_TALKS_TO_QUESTDB)
def publish(
    choices: Choices,
    plan: Plan,
    calibrated: list[Calibrated],
    solved: list[pd.DataFrame],
    timings: dict[str, float],
    scope: str | None,
    dry_run: bool,
) -> NightReport:
    """Write the run and, where the pointer rule allows it, make it current; a dry run only says what it would be."""
    with open_night(Settings()) as night:
        return _publish(night, choices, plan, calibrated, solved, timings, scope, dry_run)


@task(task_run_name="nights {label}", **_TALKS_TO_QUESTDB)
def run_days(plans: list[Plan], label: str, choices: Choices, trajectories: bool) -> list[markdown.Day]:
    """Whole nights of days whose market days are there, oldest first; without trajectories their parameters only."""
    done = []
    with open_night(Settings()) as night:
        for day in plans:
            chunks = night.chunks(choices, day.as_of)
            seen = [night.measure(choices, day.as_of, chunk) for chunk in chunks]
            calibrated = night.calibrate(choices, day.as_of, seen)
            if not any(len(part.parameters) for part in calibrated):
                _LOG.info("%s: no market has a row in the window; skipped", day.as_of)
                continue
            solved = [solve(_usable(part, trajectories), choices.grid, day.as_of) for part in calibrated]
            scope = None if trajectories else "parameters"
            report = _publish(night, choices, day, calibrated, solved, {}, scope, dry_run=False)
            announce(report)
            done.append(markdown.day_of(report))
    return done


@task(**_TALKS_TO_QUESTDB)
def sweep(retention: Retention, dry_run: bool) -> pd.DataFrame:
    """What nobody can need any more, removed. One row an action."""
    with open_night(Settings()) as night, contextlib.nullcontext() if dry_run else one_writer():
        night.prepare()
        return night.releases.maintain(retention, datetime.now(UTC), dry_run=dry_run)


# --- for people and consumers ---------------------------------------------------------------------------------


@task(**_COMPUTES)
def report(night: NightReport) -> None:
    """The HTML report beside the Parquet, and the run's artifacts: a report, tables of refusals and movers."""
    from tributary_opt.report.overview import overview_chart  # matplotlib: half a second that other tasks need not wait

    text = markdown.run_report(night, _page(night), overview_chart(night))
    create_markdown_artifact(text, key="run-report", description=markdown.headline(night))
    refused, n = markdown.refusals(night.parameters, REFUSALS), int((night.parameters["status"] != "ok").sum())
    said = f"{n:,} markets without parameters"
    if len(refused) < n:
        said += f"; {len(refused):,} of them, some of each reason: the HTML report has all"
    create_table_artifact(refused, key="refusals", description=said)
    moved = markdown.largest_moves(night)
    create_table_artifact(moved, key="movers", description=f"{len(moved)} largest moves of eta and sigma")
    _LOG.info("%s", markdown.headline(night))


@task(**_COMPUTES)
def report_days(days: list[markdown.Day]) -> None:
    """The artifact of a backfill."""
    create_markdown_artifact(markdown.days_report(days), key="run-report", description=f"{len(days)} days")


@task(**_COMPUTES)
def report_plans(plans: list[Plan]) -> None:
    """The artifact of a backfill that was only planned."""
    text = markdown.plans_report([plan.as_of for plan in plans], _to_read(plans))
    create_markdown_artifact(text, key="run-report", description=f"{len(plans)} days (dry run)")


@task(**_COMPUTES)
def report_sweep(actions: pd.DataFrame, dry_run: bool) -> None:
    """The artifact of a maintenance."""
    said = f"{len(actions)} actions{' would be taken (dry run)' if dry_run else ' taken'}"
    table: list[dict[str, Any]] = [
        dict(zip(actions.columns, row, strict=True)) for row in actions.itertuples(index=False)
    ]
    create_table_artifact(table, key="maintenance", description=said)
    _LOG.info("maintenance: %s", said)


def _page(night: NightReport) -> str:
    """Where the HTML report is, as a line of markdown. The night is published by now: no fault of the page costs it."""
    from tributary_opt.report import page as html

    if night.outcome is None:
        return "A dry run writes no HTML report."
    try:
        path = html.write_page_of(Settings(), night)
    except Exception as error:
        _LOG.exception("the HTML report was not written; the release is not touched by that")
        return f"**The HTML report was not written**: {type(error).__name__}. The log says more; the release is whole."
    return f"[HTML report of the night]({path.as_uri()}): `{path}`"


@task(**_COMPUTES)
def write_desk_orders(run_id: str, as_of: date, desk: Desk) -> str:
    """One desk's orders of the day as CSV; its path, and an artifact that says so."""
    settings = Settings()
    orders = desk_orders(settings.parquet_root, as_of, run_id, desk)
    path = save_desk_orders(settings.home / "desks" / desk.name, orders, as_of, run_id)
    said = f"{orders['market_id'].nunique():,} orders of {desk.name} in {len(orders):,} slices"
    create_markdown_artifact(f"{said}, of run `{run_id}`: `{path}`\n", key="desk-orders", description=said)
    _LOG.info("%s: %s", said, path)
    return str(path)


def announce(night: NightReport) -> None:
    """Tell consumers that the current release has moved, once each time it has.

    What a run could not say because it was cut off after the pointer, the next one says, which finds itself current.
    """
    if night.outcome is None or night.outcome.published_at is None:
        return
    since = night.outcome.published_at.astimezone(UTC)
    event_id = uuid.uuid5(uuid.NAMESPACE_URL, f"{PUBLISHED}/{night.outcome.run_id}/{since.isoformat()}")
    # The server stores an id once, but its triggers forget it in minutes: repeated, it would start a desk again.
    if night.outcome.reason == "already current":
        try:
            if _is_known(event_id, night.outcome.run_id, since):
                return
        except Exception as error:  # the night is published and current: no fault of the events costs it
            _LOG.warning(
                "whether run %s has been announced is not known (%s: %s); nothing is sent, the next run looks again",
                *(night.outcome.run_id, type(error).__name__, error),
            )
            return
    path = release_file(schema.TRAJECTORIES, night.outcome.as_of, night.outcome.run_id)
    emit_event(
        PUBLISHED,
        resource={"prefect.resource.id": "tributary.release.current", "prefect.resource.name": "current release"},
        payload={
            "run_id": night.outcome.run_id,
            "as_of": night.outcome.as_of.isoformat(),
            "rows": len(night.trajectories),
            "path": str(Settings().parquet_root / path.parent),
        },
        id=event_id,
    )


def _is_known(event_id: UUID, run_id: str, since: datetime) -> bool:
    """Whether the server has the event, or may have had it and thrown it away with others of its age.

    Older versions gave their events any id: one about the run since it became current is as good. The newest of them
    will do, for a run that is current is the last that was announced.
    """
    oldest = datetime.now(UTC) - get_current_settings().server.events.retention_period
    if since < oldest:
        return True
    occurred = EventOccurredFilter.model_validate({"since": oldest})
    wanted = EventFilter(occurred=occurred, event=EventNameFilter(name=[PUBLISHED]))
    with get_client(sync_client=True) as client:
        found = client.read_events(wanted, limit=_EVENTS).events
    return any(e.id == event_id or (e.occurred >= since and e.payload.get("run_id") == run_id) for e in found)


def run_name() -> str:
    """The name of a flow run: the one a person typed, else the flow and its day.

    Two lower-case words with a dash may be Prefect's invention or a person's: they stay, after ours.
    """
    given = str(flow_run.name or "")
    if not re.fullmatch("[a-z]+-[a-z]+", given):
        return given
    chosen = flow_run.parameters
    day = chosen.get("as_of") or chosen.get("start") or f"started {flow_run.scheduled_start_time:%Y-%m-%d %H:%M}"
    until = f" to {chosen['end']}" if chosen.get("end") else ""
    return f"{flow_run.flow_name} {day}{until} · {given}"


# --- how they run ---------------------------------------------------------------------------------------------


class Chunks:
    """The task runner of the settings, for the length of a `with`: maps a task over chunks, and waits."""

    def __init__(self) -> None:
        self._runner = _runner(Settings())

    def __enter__(self) -> Chunks:
        self._runner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._runner.__exit__(*error)

    def map(self, task: Any, over: Mapping[str, Sequence[Any]], **same: Any) -> list[Any]:
        """The task's results over the lists of `over`, in their order; waits for all, then raises the first failure."""
        if not all(len(values) for values in over.values()):
            return []
        parameters = {**over, **{name: unmapped(value) for name, value in same.items()}}
        return self._runner.map(task, parameters).result()  # type: ignore[no-any-return]


def _runner(settings: Settings) -> TaskRunner[Any]:
    if settings.runner is Runner.PROCESS:
        return ProcessPoolTaskRunner(max_workers=settings.workers)
    if settings.runner is Runner.DASK:
        from prefect_dask.task_runners import DaskTaskRunner  # the [dask] extra

        local = {"n_workers": settings.workers, "threads_per_worker": 1, "dashboard_address": None}
        address = settings.dask_address
        runner: TaskRunner[Any] = DaskTaskRunner(address=address) if address else DaskTaskRunner(cluster_kwargs=local)
        return runner
    return ThreadPoolTaskRunner(max_workers=settings.workers)


def observed(chunks: Chunks, choices: Choices, plans: Sequence[Plan], *, store: bool) -> pd.DataFrame | None:
    """Every day that the plans want read, in batches. The rows that were not stored, None where all are."""
    unread = tuple(_to_read(plans))
    batches = [tuple(batch) for batch in dealt(unread)]
    over: Mapping[str, Sequence[Any]] = {"days": batches, "label": [_span(batch[0], batch[-1]) for batch in batches]}
    parts = chunks.map(observe, over, choices=choices, store=store, unread=unread)
    return None if store or not parts else pd.concat(parts, ignore_index=True)


def calibrated_chunks(
    chunks: Chunks, choices: Choices, plan: Plan, fresh: pd.DataFrame | None
) -> list[list[Calibrated]]:
    """Parameters of every market of the window, by task: each measured on its own, then judged with all others."""
    parts = chunk(choices, plan.as_of, fresh)
    over: Mapping[str, Sequence[Any]] = {"chunks": parts, "label": [_span(part[0][0], part[-1][1]) for part in parts]}
    seen = chunks.map(measure, over, choices=choices, as_of=plan.as_of, fresh=fresh)
    return calibrate(seen, choices, plan.as_of)


def dealt(items: Sequence[_T]) -> list[list[_T]]:
    """Items in order, in `MAX_TASKS` parts at most, of sizes that differ by one at most."""
    n = min(MAX_TASKS, len(items))
    ends = [len(items) * (i + 1) // n for i in range(n)]
    return [list(items[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def cut(calibrated: Calibrated) -> list[list[Calibrated]]:
    """The markets of one frame, dealt out to tasks."""
    p, step = calibrated.parameters, core.MARKETS_PER_CHUNK
    frames = [p.iloc[i : i + step].reset_index(drop=True) for i in range(0, len(p), step)]
    return dealt([Calibrated(frame, "", "") for frame in frames])


def days_run(plans: list[Plan], choices: Choices, trajectories: bool) -> list[markdown.Day]:
    """The nights of many days, in batches one after the other."""
    batches = dealt(plans)
    return flat([run_days(b, _span(b[0].as_of, b[-1].as_of), choices, trajectories) for b in batches])


def flat(parts: list[list[_T]]) -> list[_T]:
    """The parts of all tasks, in order."""
    return [one for part in parts for one in part]


def no_schedules(calibrated: list[Calibrated], as_of: date) -> list[pd.DataFrame]:
    """The empty frames that stand for the schedules of a run without any."""
    return [solve(_usable(part, False), Grid(), as_of) for part in calibrated]


@contextlib.contextmanager
def timed(timings: dict[str, float], step: str) -> Iterator[None]:
    """Note how long a step took. [s]"""
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[step] = timings.get(step, 0.0) + time.perf_counter() - start


def ensure_writer_limit(client: SyncPrefectClient) -> None:
    """Make the limit on writers where the server does not have it; one that a person has changed stays as it is."""
    try:
        client.read_global_concurrency_limit_by_name(WRITER)
    except ObjectNotFound:
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=WRITER, limit=1))


@contextlib.contextmanager
def one_writer() -> Iterator[None]:
    """Hold Prefect's limit on writers; it is created where the server does not have it."""
    with get_client(sync_client=True) as client:
        ensure_writer_limit(client)
    # The file lock is what keeps two writers apart; a lease lost with a restart of Prefect's server must not end a
    # run in the middle of publishing.
    with concurrency(WRITER, strict=True, raise_on_lease_renewal_failure=False):
        yield


def _publish(
    night: core.Night,
    choices: Choices,
    plan: Plan,
    calibrated: list[Calibrated],
    solved: list[pd.DataFrame],
    timings: dict[str, float],
    scope: str | None,
    dry_run: bool,
) -> NightReport:
    parameters, trajectories = core.together(calibrated, solved)
    run = night.make_run(choices, plan, calibrated, scope=scope)
    if dry_run:
        return NightReport(plan, None, run, parameters, trajectories, night.current_parameters(), timings)
    with one_writer():
        before = night.current_parameters()
        outcome = core.publish(night, run, parameters, trajectories, timings)
    return NightReport(plan, outcome, run, parameters, trajectories, before, timings)


def _usable(part: Calibrated, trajectories: bool) -> pd.DataFrame:
    return part.parameters if trajectories else part.parameters.iloc[:0]


def _span(first: object, last: object) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


def _to_read(plans: Sequence[Plan]) -> list[date]:
    return sorted({day for plan in plans for day in plan.outdated})
