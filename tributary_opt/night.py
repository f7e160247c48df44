"""One night, step by step: observe → calibrate → precompute → publish.

The steps are plain functions of a day and of settings; the flows wrap them in tasks, `run_night` calls them in turn
without a server. A step takes and gives plain values (days, frames), never an open connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel

import tributary_opt
from tributary_opt import schema
from tributary_opt.calibration.drift import with_drift
from tributary_opt.calibration.impact_evidence import impact_evidence
from tributary_opt.calibration.own_executions import checked, decided_before, left_out, split
from tributary_opt.calibration.parameters import Measured, calibrate
from tributary_opt.calibration.parameters import together as all_markets
from tributary_opt.market_data.calendars import trading_calendar
from tributary_opt.market_data.hour_profiles import of_next_session
from tributary_opt.market_data.jumps import cut_at_jumps
from tributary_opt.market_data.market_days import MarketDays, Window, newest_complete_day, window_digest
from tributary_opt.market_data.markets import ReferenceData, read_markets_file
from tributary_opt.market_data.source import Source
from tributary_opt.market_data.statistics import day_weights, window_statistics
from tributary_opt.market_data.volatility import with_prior
from tributary_opt.precompute import precompute
from tributary_opt.settings import CalibrationRules, Grid, Settings, StatisticsRules
from tributary_opt.storage import embedded
from tributary_opt.storage.market_day_rows import MarketDayRows
from tributary_opt.storage.migration import migrate
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.releases import Outcome, Releases, Run

MARKETS_PER_CHUNK = 2_000
"""Markets calibrated and solved at a time; bounds memory. [-]"""

_LOG = logging.getLogger(__name__)


class NightError(Exception):
    """The night cannot be run as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Choices:
    """What a run computes: everything that decides its rows beside the data."""

    statistics: StatisticsRules = StatisticsRules()
    calibration: CalibrationRules = CalibrationRules()
    grid: Grid = Grid()
    markets: tuple[str, ...] = ()
    """Only these market ids; empty means all. A run of some markets is stored, never current."""
    parameters_of: str = ""
    """The run whose parameters are used as they are; empty means that they are made from market days."""

    def as_json(self) -> dict[str, Any]:
        """Canonical form, for the run id and the run's row."""
        models: dict[str, BaseModel] = {
            "statistics": self.statistics,
            "calibration": self.calibration,
            "grid": self.grid,
        }
        chosen: dict[str, Any] = {k: m.model_dump(mode="json") for k, m in models.items()}
        chosen["markets"] = sorted(self.markets)
        return chosen | ({"parameters_of": self.parameters_of} if self.parameters_of else {})

    @staticmethod
    def from_json(chosen: dict[str, Any]) -> Choices:
        """What `as_json` wrote, as it stands in a run's row."""
        return Choices(
            StatisticsRules.model_validate(chosen["statistics"]),
            CalibrationRules.model_validate(chosen["calibration"]),
            Grid.model_validate(chosen["grid"]),
            tuple(chosen["markets"]),
            chosen.get("parameters_of", ""),
        )


@dataclass(frozen=True)
class Plan:
    """What a night will do."""

    as_of: date
    started_at: datetime
    window_start: date
    outdated: tuple[date, ...]
    """Days to read from ticks; the others are known."""
    future_rows: int


@dataclass
class Seen:
    """What was measured of a chunk's markets, and digests of what it was made from."""

    measured: Measured
    input_digest: str
    reference_digest: str


@dataclass(frozen=True)
class OwnOrders:
    """How many own executions there were, and why some were left out."""

    n: int = 0
    refused: tuple[tuple[str, int], ...] = ()
    """Rules that rows broke, and how many did."""

    def without(self, rows: pd.DataFrame) -> OwnOrders:
        """With rows left out as well, each with its `reason`, which is logged."""
        counts = rows["reason"].value_counts().sort_index()
        for reason, n in counts.items():
            first = rows[rows["reason"] == reason].iloc[0]
            which = f"order {first['order_id']}" if "order_id" in rows else f"of market {first['market_id']}"
            _LOG.warning("own executions: %d rows left out, %s; the first is %s", n, reason, which)
        return replace(self, refused=(*self.refused, *((str(reason), int(n)) for reason, n in counts.items())))


@dataclass
class Calibrated:
    """Parameters of some markets and digests of what they were made from."""

    parameters: pd.DataFrame
    input_digest: str
    reference_digest: str
    context_digest: str = ""
    """Of what else decided the rows: own executions, and the release that drift is measured against."""
    own: OwnOrders = OwnOrders()


@dataclass
class NightReport:
    """What came out of a night."""

    plan: Plan
    outcome: Outcome | None
    """None for a dry run."""
    run: Run
    parameters: pd.DataFrame
    trajectories: pd.DataFrame
    before: pd.DataFrame | None = None
    """Parameters of the release that was current before, if any."""
    timings: dict[str, float] = field(default_factory=dict)


class Night:
    """The steps, over open connections. Make one with `open_night`."""

    def __init__(self, settings: Settings, sink: QuestDB, source_db: QuestDB):
        self.settings = settings
        self.sink = sink
        self.source_db = source_db
        self.source = Source(source_db, settings.source_tables)
        self.releases = Releases(sink, settings.parquet_root)
        self._reference: ReferenceData | None = None

    @property
    def reference(self) -> ReferenceData:
        """Reference data of the markets, read once."""
        if self._reference is None:
            if self.settings.markets_file is not None:
                rows: pd.DataFrame | None = read_markets_file(self.settings.markets_file)
            else:
                table = self.source.reference()
                rows = None if table is None else table.to_pandas()
            self._reference = ReferenceData(rows, self.settings.market_rules)
        return self._reference

    def prepare_tables(self) -> None:
        """Our tables brought up to date, a lagging manifest repaired."""
        migrate(self.sink)
        self.releases.repair()

    def prepare(self) -> None:
        """`prepare_tables`, and the source checked."""
        self.prepare_tables()
        self.source.check()

    # --- observe ---------------------------------------------------------------------------------------------

    def plan(
        self, choices: Choices, as_of: date | None = None, *, reread: bool = False, now: datetime | None = None
    ) -> Plan:
        """Which day, and which days must be read for it.

        `as_of` None means the newest complete trading day with trades. NightError for a day that is not over, and where
        there is nothing to use.
        """
        now = now or datetime.now(UTC)
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if as_of is None:
            as_of = newest_complete_day(self.source, self.reference, now)
            if as_of is None:
                raise NightError("no trade before today in the source: load some (`tributary-opt load`), or give as_of")
        elif as_of >= midnight.date():
            raise NightError(f"as_of must be a day that is over, before {midnight.date()} (UTC), got {as_of}")
        days = self._days(choices)
        window = days.window(as_of, choices.calibration.lookback_days)
        outdated = days.outdated(window, reread=reread)
        future = self.source.rows_from(midnight + timedelta(days=1))
        if future:
            _LOG.warning("%d source rows are stamped after today; they are ignored", future)
        return Plan(as_of, now, window.first, tuple(outdated), future)

    def plans(self, choices: Choices, start: date, end: date, *, reread: bool = False) -> list[Plan]:
        """One plan for each day from `start` to `end` of which anything is known, oldest first.

        All days to be read are in the first plan; the source is looked at once, not once a day.
        """
        now = datetime.now(UTC)
        if not start <= end < now.date():
            raise NightError(f"need start <= end < {now.date()} (UTC, today), got {start=!s}, {end=!s}")
        days = self._days(choices)
        dates = [start + timedelta(days=i) for i in range((end - start).days + 1)]
        windows = {day: self._window(choices, day) for day in dates}
        union = Window(
            end,
            choices.calibration.lookback_days,
            {code: sorted({day for w in windows.values() for day in w.days[code]}) for code in windows[end].days},
        )
        outdated = tuple(days.outdated(union, reread=reread))
        known = {stamp.date() for stamp in days.load(union)["day"]} | set(outdated)
        plans = [Plan(day, now, windows[day].first, (), 0) for day in dates if day in known]
        return [replace(plans[0], outdated=outdated), *plans[1:]] if plans else []

    def observe(
        self, choices: Choices, days: tuple[date, ...], *, store: bool = True, unread: tuple[date, ...] = ()
    ) -> pd.DataFrame:
        """Read days from ticks, oldest first; keep them unless told otherwise. Returns their rows.

        `unread` are all days that this night reads and has not stored yet, when these are only some of them.
        """
        market_days, still = self._days(choices), {*days, *unread}
        parts = []
        for day in days:
            rows = market_days.read(day, still)
            if store:
                market_days.store(rows)
                still.discard(day)
            _LOG.info("%s: %d market days read", day, len(rows))
            parts.append(rows)
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    # --- calibrate -------------------------------------------------------------------------------------------

    def chunks(self, choices: Choices, as_of: date, fresh: pd.DataFrame | None = None) -> list[tuple[str, str]]:
        """Ranges of market ids, about `MARKETS_PER_CHUNK` each, that cover every market of the window.

        `fresh` are rows of days that were read but not stored: their markets count too.
        """
        window = self._window(choices, as_of)
        return self._days(choices).chunks(window, MARKETS_PER_CHUNK, fresh)

    def measure(
        self,
        choices: Choices,
        as_of: date,
        chunk: tuple[str, str] | None = None,
        fresh: pd.DataFrame | None = None,
    ) -> Seen:
        """What the window's stored rows say of the markets of a chunk (None: all), before any of it is judged.

        `fresh` are rows of days that were read but not stored (a dry run); they replace the stored ones.
        """
        window = self._window(choices, as_of)
        rows = self._days(choices).load(window, chunk, fresh)
        rows = cut_at_jumps(rows, window)
        half_life = choices.calibration.half_life_days
        statistics = of_next_session(window_statistics(rows, window, half_life), as_of)
        reference = self.reference.of(statistics)
        end = statistics["calendar"].map({c: _session_end(c, window) for c in window.days})
        end = pd.to_datetime(end, utc=True)
        statistics = with_prior(statistics, reference, end, choices.calibration.sigma_prior_log_sd)
        measured = Measured(
            statistics,
            reference,
            end,
            impact_evidence(rows, None if half_life is None else day_weights(rows, window, half_life)),
        )
        return Seen(measured, window_digest(rows), _frame_digest(reference))

    def calibrate(self, choices: Choices, as_of: date, seen: list[Seen]) -> list[Calibrated]:
        """Parameters of every market that was measured, a frame for each chunk of `seen`.

        All markets are judged together, since a market leans on its peers: the rows are the same however the markets
        were cut into chunks. A run of some markets leans on all that are in the window, and has the whole night's rows.
        """
        executions, own = self._executions(as_of)
        before = self.releases.before(as_of)
        parts = [part.measured for part in seen]
        if not sum(map(len, parts)):
            return []
        slice_days = choices.grid.horizons[0] / choices.grid.n_steps
        parameters = calibrate(all_markets(parts), choices.calibration, slice_days=slice_days, executions=executions)
        if executions is not None:
            own = own.without(left_out(executions, parameters))
        if before is not None:
            then = self.releases.read(schema.PARAMETERS, before.as_of, before.run_id).to_pandas()
            parameters = with_drift(parameters, then, _last_days, choices.calibration.half_life_days)
        context = _joined([before.run_id if before else "", "" if executions is None else _frame_digest(executions)])
        if unknown := sorted(set(choices.markets) - set(parameters["market_id"])):
            _LOG.warning("no row in the window for %s: misspelt, or without a trade or a quote", ", ".join(unknown))
        ends = np.cumsum([len(part) for part in parts])
        calibrated = []
        for part, end in zip(seen, ends, strict=True):
            rows = parameters.iloc[end - len(part.measured) : end]
            if choices.markets:
                rows = rows[rows["market_id"].isin(choices.markets)]
            calibrated.append(
                Calibrated(rows.reset_index(drop=True), part.input_digest, part.reference_digest, context, own)
            )
        return calibrated

    def stored(self, run_id: str, grid: Grid, markets: tuple[str, ...] = ()) -> tuple[Choices, Plan, Calibrated]:
        """Parameters of a finished run (empty: the current one), as if they had just been calibrated; no tick is read.

        NightError for a run that is unknown or not complete, and before the first release.
        """
        pointer = self.releases.current()
        run_id = run_id or (pointer.run_id if pointer else "")
        row = self.releases.run(run_id) if run_id else None
        if row is None or row["state"] != "complete":
            state = row["state"] if row else "unknown"
            named = f"run_id {run_id!r} is {state}" if run_id else "there is no release yet"
            raise NightError(f"{named}: give the id of a complete run, as `tributary-opt runs` lists them")
        base = Choices.from_json(json.loads(row["settings"]))
        wanted = tuple(m for m in markets if m in base.markets) if base.markets and markets else markets or base.markets
        choices = replace(base, grid=grid, markets=wanted, parameters_of=run_id)
        parameters = self.releases.read(schema.PARAMETERS, row["as_of"].date(), run_id).to_pandas()
        parameters = parameters.drop(columns=["as_of", "run_id"])
        if wanted:
            parameters = parameters[parameters["market_id"].isin(wanted)].reset_index(drop=True)
        plan = Plan(row["as_of"].date(), datetime.now(UTC), row["window_start"].date(), (), 0)
        return choices, plan, Calibrated(parameters, row["input_digest"], row["reference_digest"])

    # --- publish ---------------------------------------------------------------------------------------------

    def make_run(self, choices: Choices, plan: Plan, calibrated: list[Calibrated], *, scope: str | None = None) -> Run:
        """The run's row, its id made from everything that decides its rows."""
        input_digest = _joined([c.input_digest for c in calibrated])
        reference_digest = _joined([c.reference_digest for c in calibrated])
        scope = scope or ("partial" if choices.markets else "whole")
        parameters = [c.parameters for c in calibrated]
        own = calibrated[0].own if calibrated else OwnOrders()
        decided_by = {
            "as_of": plan.as_of.isoformat(),
            "input": input_digest,
            "reference": reference_digest,
            "context": _joined(sorted({c.context_digest for c in calibrated})),
            "settings": choices.as_json(),
            "scope": scope,
            "package_version": tributary_opt.__version__,
            "source": source_digest(),
            "numpy": np.__version__,
        }
        canonical = json.dumps(decided_by, sort_keys=True, separators=(",", ":"))
        return Run(
            as_of=plan.as_of,
            run_id=hashlib.sha256(canonical.encode()).hexdigest()[:16],
            scope=scope,
            window_start=plan.window_start,
            started_at=plan.started_at,
            settings=choices.as_json(),
            input_digest=input_digest,
            reference_digest=reference_digest,
            package_version=tributary_opt.__version__,
            source_digest=source_digest(),
            numpy_version=np.__version__,
            server_version=".".join(map(str, self.sink.version())),
            source_trades=int(sum(p["n_trades"][_once(p)].sum() for p in parameters)),
            source_snapshots=int(sum(p["n_snapshots"][_once(p)].sum() for p in parameters)),
            future_rows=plan.future_rows,
            own_orders=own.n,
            own_orders_refused=sum(n for _, n in own.refused),
            own_orders_reasons=json.dumps(dict(own.refused)) if own.refused else None,
            days_read=len(plan.outdated),
            n_markets=sum(len(p) for p in parameters),
            n_ok=int(sum((p["status"] == "ok").sum() for p in parameters)),
        )

    def current_parameters(self) -> pd.DataFrame | None:
        """Parameters of the current release, or None before the first."""
        pointer = self.releases.current()
        if pointer is None:
            return None
        parameters: pd.DataFrame = self.releases.read(schema.PARAMETERS, pointer.as_of, pointer.run_id).to_pandas()
        return parameters

    def _executions(self, as_of: date) -> tuple[pd.DataFrame | None, OwnOrders]:
        """Own parent orders of the file, else of the table. A file is somebody's work and refused whole; of a table,
        which something else writes, rows that break a rule are left out, counted and logged."""
        path, end = self.settings.executions_file, datetime(as_of.year, as_of.month, as_of.day, tzinfo=UTC)
        end += timedelta(days=1)
        if path is not None:
            rows = checked(pd.read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path))
            rows = decided_before(rows, end)
            return rows if len(rows) else None, OwnOrders(len(rows))
        table = self.source.own_executions(end)
        if table is None:
            return None, OwnOrders()
        sound, refused = split(table.to_pandas())
        return sound if len(sound) else None, OwnOrders(table.num_rows).without(refused)

    # --- inside ----------------------------------------------------------------------------------------------

    def _days(self, choices: Choices) -> MarketDays:
        return MarketDays(
            MarketDayRows(self.sink),
            self.source,
            self.reference,
            choices.statistics,
            markets_per_slice=self.settings.markets_per_slice,
        )

    def _window(self, choices: Choices, as_of: date) -> Window:
        return self._days(choices).window(as_of, choices.calibration.lookback_days)


@contextlib.contextmanager
def open_night(settings: Settings) -> Iterator[Night]:
    """A night over the configured servers, or over the embedded one, which is started if it is not up."""
    with embedded.connection(settings) as (sink, source), QuestDB(sink) as sink_db, QuestDB(source) as source_db:
        yield Night(settings, sink_db, source_db)


def run_night(
    settings: Settings,
    choices: Choices = Choices(),
    *,
    as_of: date | None = None,
    dry_run: bool = False,
    reread: bool = False,
    now: datetime | None = None,
    progress: Callable[[str, int, int], None] = lambda step, done, total: None,
    on_step: Callable[[str], None] = lambda step: None,
) -> NightReport:
    """One whole night in this process, without Prefect.

    Parameters
    ----------
    as_of : date, optional
        Last trading day to use; None means the newest complete one with trades.
    dry_run : bool
        Compute everything, write nothing.
    reread : bool
        Read every day of the window again.
    progress : callable
        Called with (step, done, total) as the night goes on.
    on_step : callable
        Called with the name of each step of the publishing protocol once it is done.
    """
    timings: dict[str, float] = {}
    with open_night(settings) as night:
        with _timed(timings, "plan"):
            night.prepare()
            plan = night.plan(choices, as_of, reread=reread, now=now)
            before = night.current_parameters()
        fresh = []
        with _timed(timings, "observe"):
            for i, day in enumerate(plan.outdated):
                progress("observe", i, len(plan.outdated))
                unread = plan.outdated if dry_run else plan.outdated[i:]
                rows = night.observe(choices, (day,), store=not dry_run, unread=unread)
                if dry_run:
                    fresh.append(rows)
            progress("observe", len(plan.outdated), len(plan.outdated))
        unstored = pd.concat(fresh) if fresh else None
        chunks = night.chunks(choices, plan.as_of, unstored)
        seen, solved = [], []
        for i, chunk in enumerate(chunks):
            progress("calibrate", i, len(chunks))
            with _timed(timings, "calibrate"):
                seen.append(night.measure(choices, plan.as_of, chunk, unstored))
        with _timed(timings, "calibrate"):
            calibrated = night.calibrate(choices, plan.as_of, seen)
        progress("calibrate", len(chunks), len(chunks))
        for i, part in enumerate(calibrated):
            progress("precompute", i, len(calibrated))
            with _timed(timings, "precompute"):
                solved.append(precompute(part.parameters, choices.grid, plan.as_of))
        progress("precompute", len(calibrated), len(calibrated))
        parameters, trajectories = together(calibrated, solved)
        run = night.make_run(choices, plan, calibrated)
        outcome = None
        if not dry_run:
            progress("publish", 0, 1)
            with _timed(timings, "publish"):
                outcome = publish(night, run, parameters, trajectories, timings, on_step=on_step)
            progress("publish", 1, 1)
    return NightReport(plan, outcome, run, parameters, trajectories, before, timings)


def together(calibrated: list[Calibrated], solved: list[pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The chunks as one frame of parameters and one of trajectories. NightError where there is no market at all."""
    parts = [c.parameters for c in calibrated if len(c.parameters)]
    if not parts:
        raise NightError(
            "no market has a row in the window: nothing to publish; check as_of, --markets and the source tables"
        )
    return pd.concat(parts, ignore_index=True), pd.concat(solved, ignore_index=True)


def publish(
    night: Night,
    run: Run,
    parameters: pd.DataFrame,
    trajectories: pd.DataFrame,
    timings: dict[str, float],
    *,
    on_step: Callable[[str], None] = lambda step: None,
) -> Outcome:
    """Publish a run; a failure is written into its row before it is raised."""
    run = replace(run, timings={k: round(v, 3) for k, v in timings.items()})
    try:
        return night.releases.publish(run, parameters, trajectories, on_step=on_step)
    except Exception as error:
        failed = replace(run, state="failed", finished_at=datetime.now(UTC), error=f"{type(error).__name__}: {error}")
        with contextlib.suppress(Exception):  # the server may be what failed; the first error is the one to hear of
            night.releases.record(failed)
        raise


@lru_cache(maxsize=1)
def source_digest() -> str:
    """SHA-256 of this package's own source files."""
    digest = hashlib.sha256()
    root = Path(tributary_opt.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _session_end(code: str, window: Window) -> datetime | None:
    days = window.days[code]
    session = trading_calendar(code).session(days[-1]) if days else None
    return session.end if session else None


def _last_days(code: str, day: date, n: int) -> list[date]:
    return trading_calendar(code).last_days(day, n)


def _once(parameters: pd.DataFrame) -> pd.Series:
    """Every row but the second of two tokens that were folded: both count the same ticks."""
    other = parameters["folded_with"].astype(object)
    return other.isna() | (parameters["token_id"].astype(object) < other.where(other.notna(), ""))


def _frame_digest(frame: pd.DataFrame) -> str:
    text = frame.astype(str).to_csv(index=False, lineterminator="\n")
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _joined(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


@contextlib.contextmanager
def _timed(timings: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[step] = timings.get(step, 0.0) + time.perf_counter() - start
