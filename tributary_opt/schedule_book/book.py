"""The schedule book: what was published, looked up; what was not, solved exactly from the published parameters."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tributary_opt.market_data.calendars import trading_calendar
from tributary_opt.optimization.arguments import Side
from tributary_opt.optimization.frontier import efficient_frontier
from tributary_opt.optimization.problem import Problem, schedule_cost
from tributary_opt.optimization.trajectory import ExecutionTrajectory
from tributary_opt.schedule_book.clock import in_breaks, session_of, stamps, trading_hours
from tributary_opt.schedule_book.from_parquet import of_parquet
from tributary_opt.schedule_book.grid import BookError, Key
from tributary_opt.schedule_book.hull import (
    BY_CLOCK,
    FIXED,
    GRADES,
    MARKET_ORDER,
    RISK_KINDS,
    TWAP,
    VOLUME_TIME,
    VWAP,
    Place,
    grade_index,
    key_of,
    number,
    one_risk,
    place_of,
    unfit,
)
from tributary_opt.schedule_book.snapshot import ScheduleRefused, Snapshot
from tributary_opt.schedule_book.solving import (
    Order,
    kept,
    published,
    risk_aversion_of,
    solved,
    within_limits,
)

# Half of the life of a process that looks up one order would be the import of pandas and of a database's clients:
# they are imported where they are used.
if TYPE_CHECKING:
    import pandas as pd

    from tributary_opt.settings import QuestDBServer, Settings
    from tributary_opt.storage.questdb import QuestDB


_NEAR = 1e-9
"""A boundary of slices is reached this share of a slice before it. [-]"""


class ScheduleBook:
    """Published schedules and parameters of one release at a time; safe under threads.

    Every call works on one snapshot; `refresh`, or the timer, puts the next release in its place.
    """

    def __init__(
        self, load: Callable[[], Snapshot], *, clock: Callable[[], datetime], close: Callable[[], None] = lambda: None
    ):
        self._load, self._clock, self._close = load, clock, close
        self._snapshot = load()
        self._loading = threading.Lock()
        self._stop = threading.Event()
        self._timer: threading.Thread | None = None
        self.refresh_error: Exception | None = None
        """Why the timer could not follow; None where it did."""

    @classmethod
    def open(
        cls,
        source: Path | str | QuestDBServer | QuestDB | Settings,
        *,
        refresh_seconds: float | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> ScheduleBook:
        """Open the current release of a Parquet root or a QuestDB.

        Parameters
        ----------
        source : path, QuestDBServer, QuestDB or Settings
            Settings stand for the QuestDB they name, or else for their Parquet root.
        refresh_seconds : float, optional
            Follow new releases in a thread that looks this often, and that makes the exchanges' calendars before an
            order needs them; without it the first order of an exchange waits for its own, half a second. [s]
        clock : callable
            What time it is, with a time zone.

        Raises
        ------
        BookError
            Where there is no release, or none that is whole.
        """
        if refresh_seconds is not None and not 0 < number("refresh_seconds", refresh_seconds) < math.inf:
            raise ValueError(f"refresh_seconds must be finite and > 0, got {refresh_seconds:g}")
        if not isinstance(source, Path | str):
            from tributary_opt.settings import Settings

            if isinstance(source, Settings):
                source = source.parquet_root if source.questdb is None else source.questdb
        if isinstance(source, str) and "://" in source:
            raise BookError(f"{source.partition('://')[0]}:// is no folder: give the Parquet root, or a QuestDBServer")
        if isinstance(source, Path | str):
            root = Path(source)
            book = cls(lambda: of_parquet(root), clock=clock)
        else:
            from tributary_opt.schedule_book.from_questdb import of_questdb
            from tributary_opt.settings import QuestDBServer
            from tributary_opt.storage.questdb import QuestDB

            if not isinstance(source, QuestDB | QuestDBServer):
                raise TypeError(
                    f"source must be a Parquet root, a QuestDBServer, a QuestDB or Settings, got {source!r}"
                )
            db = source if isinstance(source, QuestDB) else QuestDB(source)
            book = cls(lambda: of_questdb(db), clock=clock, close=db.close if db is not source else lambda: None)
        if refresh_seconds is not None:
            book._follow(float(refresh_seconds))
        return book

    def __enter__(self) -> ScheduleBook:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the timer, and close the connection that the book opened."""
        self._stop.set()
        if self._timer is not None:
            self._timer.join()
        self._close()

    @property
    def run_id(self) -> str:
        """The run that is being read."""
        return self._snapshot.run_id

    def refresh(self) -> bool:
        """Go over to the current release, if it is another one. On an error the book stays with the one it has."""
        with self._loading:
            new = self._load()
            if new.run_id == self._snapshot.run_id and new.published_at == self._snapshot.published_at:
                return False
            self._snapshot = new
            return True

    def _follow(self, seconds: float) -> None:
        def run() -> None:
            _make_calendars(self._snapshot)
            while not self._stop.wait(seconds):
                try:
                    if self.refresh():
                        _make_calendars(self._snapshot)
                    self.refresh_error = None
                except Exception as error:  # an outage, a torn file: the next look may find it mended
                    self.refresh_error = error

        self._timer = threading.Thread(target=run, name="schedule-book", daemon=True)
        self._timer.start()

    # --- tables ----------------------------------------------------------------------------------------------

    def parameters(self) -> pd.DataFrame:
        """The rows of `ac_parameters`, every market with its parameters or its refusal."""
        frame: pd.DataFrame = self._snapshot.read(None).to_pandas()
        return frame

    def market_ids(self) -> list[str]:
        """Every market of the release, refused ones too."""
        return self._snapshot.market_ids

    def markets(self, search: str = "", min_grade: str | None = None) -> pd.DataFrame:
        """Markets whose id contains `search`, with status, grade and the figures people ask for first."""
        names = ["market_id", "token_id", "status", "reason", "grade", "method", "kind", "calendar", "price", "adv"]
        names += ["sigma", "spread", "eta", "gamma"]
        frame: pd.DataFrame = self._snapshot.read(names).to_pandas()
        frame = frame[frame["market_id"].str.contains(search, case=False, regex=False)]
        if min_grade is not None:
            allowed = GRADES[: grade_index(min_grade) + 1]
            taken = frame["grade"].isin(allowed)
            if allowed == GRADES:  # as `schedule` does: a grade that is not known is the worst
                taken |= ~frame["grade"].isin(GRADES) & (frame["status"] == "ok")
            frame = frame[taken]
        return frame.reset_index(drop=True)

    def frontier(
        self,
        market_id: str,
        order_size: float,
        *,
        token_id: str | None = None,
        strategy: str = BY_CLOCK,
        horizon: float | None = None,
        n_points: int = 60,
        min_grade: str = "C",
        max_age: float | timedelta = 36.0,
    ) -> pd.DataFrame:
        """Least expected cost for every risk, within the hull: `efficient_frontier` with urgency and bps beside it."""
        book = self._snapshot
        one_risk({"urgency": 0.0}, strategy)
        place = self._place(book, market_id, order_size, token_id, horizon, min_grade, max_age, None)
        order = _order(book, place, strategy, None, None)
        if float(place.row["sigma"]) == 0:
            raise ScheduleRefused(f"{market_id!r} has sigma 0: its frontier is one point, TWAP")
        if order.eta_tilde <= 0:
            raise ScheduleRefused(
                f"{market_id!r} has eta_tilde = eta - gamma*tau/2 = {order.eta_tilde:g}, not above 0: its frontier is "
                'one point, TWAP; publish a grid with more steps, or with permanent="midprice"'
            )
        if place.most_urgency == 0:
            raise ScheduleRefused("the grid's only level is urgency 0: its frontier is one point, TWAP")
        within_limits(order, order.problem(0.0))
        urgency = np.geomspace(min(0.05, place.most_urgency / 2), place.most_urgency, n_points).tolist()
        lam = [0.0, *(risk_aversion_of(order, "urgency", u) for u in urgency)]
        found = efficient_frontier(order.problem(0.0), risk_aversion=np.array(lam)).frame()
        found.insert(1, "urgency", [0.0, *urgency])
        notional = place.size * place.params.price
        for name in ("expected_cost", "cost_sd", "lvar"):
            found[f"{name}_bps"] = found[name] / notional * 1e4
        return found.assign(strategy=order.strategy, run_id=book.run_id)

    def compare(
        self,
        market_id: str,
        order_size: float,
        *,
        token_id: str | None = None,
        horizon: float | None = None,
        min_grade: str = "C",
        max_age: float | timedelta = 36.0,
        **risk: Any,
    ) -> pd.DataFrame:
        """The optimal schedules beside TWAP, VWAP and a market order, all costed alike.

        Where the market's hours are known they decide about the cost of all (`cost_profile` "volume"), and VWAP and
        Almgren-Chriss in volume time stand among them; otherwise the clock does. `status` is each schedule's own: one
        that breaks the release's caps is there to be compared with, not to be traded.
        """
        import pandas as pd

        book = self._snapshot
        kind, value = one_risk({**dict.fromkeys(RISK_KINDS), **risk}, BY_CLOCK)
        assert kind is not None
        place = self._place(book, market_id, order_size, token_id, horizon, min_grade, max_age, None)
        best = _order(book, place, BY_CLOCK, None, None)
        in_hours = _order(book, place, VOLUME_TIME, None, None)
        names = [BY_CLOCK, VOLUME_TIME, TWAP, VWAP, MARKET_ORDER]
        if in_hours.hours is None or in_hours.strategy == best.strategy:
            names.remove(VOLUME_TIME)
        if in_hours.hours is None:
            names.remove(VWAP)
        lam = risk_aversion_of(best, kind, value)
        rows = []
        for name in names:
            t = _found(book, _order(book, place, name, None, None), *_level(name, lam))
            rows.append(_compared(in_hours.problem(0.0), place, t, in_hours.cost_profile))
        return pd.DataFrame(rows).assign(run_id=book.run_id)

    # --- schedules -------------------------------------------------------------------------------------------

    def schedule(
        self,
        market_id: str,
        order_size: float,
        *,
        token_id: str | None = None,
        strategy: str = BY_CLOCK,
        risk_aversion: float | None = None,
        urgency: float | None = None,
        decay_time: float | None = None,
        half_life: float | None = None,
        done_by: tuple[float, float] | None = None,
        cost_budget_bps: float | None = None,
        horizon: float | None = None,
        side: Side = "sell",
        start: datetime | None = None,
        max_participation: float | None = None,
        lot_size: float | None = None,
        min_grade: str = "C",
        max_age: float | timedelta = 36.0,
    ) -> ExecutionTrajectory:
        """The schedule of one order: as published where it is a point of the grid, else solved from the parameters.

        Parameters
        ----------
        market_id, order_size, token_id
            `token_id` may be left out where the market has one token. [contracts]
        strategy
            `almgren_chriss` (by the clock), `almgren_chriss_volume_time`, `almgren_chriss_capped`, or `twap`, `vwap`,
            `market_order`, which have no risk level. A release made under caps has capped schedules in the place of
            the first two; so does the book then.
        risk_aversion, urgency, decay_time, half_life, done_by, cost_budget_bps
            Exactly one: λ [1/currency]; κT [-]; 1/κ [day]; time of half the order [day]; (share, time at which it is
            done) [-, day]; expected cost over the arrival notional [bps]. In lots a budget is kept, or refused; how far
            a time or a share is missed is a warning.
        horizon : float, optional
            A whole number of the published τ; None is the grid's first. [day]
        start : datetime with a time zone, optional
            `timestamps` are then datetime64[us] (UTC) along the market's calendar, otherwise days from the start. Where
            the hours of the day matter (VWAP, volume time, caps) they are those from `start` on; without it, those of
            the first session after as_of, as published.
        max_participation, lot_size : float, optional
            Largest share of the volume expected in a slice [-], which makes the schedule `almgren_chriss_capped`;
            slices are whole multiples of the lot, and what fits none is left in the last holding [contracts].
        min_grade, max_age
            Worst grade that will do; oldest release, in hours of the market's trading clock or as a timedelta. [h]

        Returns
        -------
        ExecutionTrajectory
            ``params`` has, beside what every trajectory has, ``run_id, as_of, grade, age_hours, source`` ("published"
            or "solved"), ``market_id, token_id``, ``cost_profile`` ("clock" or "volume") and ``slice_prices``: what
            each slice is expected to trade at, on the tick, rounded against the order. ``status`` and ``warnings`` say
            what to know before trading it: a price that would leave its range, caps of the release that TWAP, VWAP or
            a market order breaks, a horizon that a resolution cuts short.

        Raises
        ------
        ScheduleRefused
            Unknown or refused market, grade, age, several tokens, outside the hull, limits that cannot be kept.
        BookError
            Where the release is not whole.
        """
        book = self._snapshot
        given = (risk_aversion, urgency, decay_time, half_life, done_by, cost_budget_bps)
        kind, value = one_risk(dict(zip(RISK_KINDS, given, strict=True)), strategy)
        if start is not None and (not isinstance(start, datetime) or start.tzinfo is None):
            raise ValueError(f"start must be a datetime with a time zone, datetime(..., tzinfo=UTC), got {start!r}")
        if side not in ("sell", "buy"):
            raise ValueError(f'side must be "sell" or "buy", got {side!r}')
        place = self._place(book, market_id, order_size, token_id, horizon, min_grade, max_age, start)
        order = _order(book, place, strategy, start, max_participation, side=side, lot_size=lot_size)
        return self._finished(book, order, _found(book, order, kind, value), start)

    def schedules(
        self, orders: pd.DataFrame, *, strategy: str = BY_CLOCK, min_grade: str = "C", max_age: float | timedelta = 36.0
    ) -> pd.DataFrame:
        """Many orders at once: columns market_id, order_size and, where wanted, token_id, horizon and the risk kinds.

        Any other column is refused with ValueError: a limit or a start that had no effect would pass unseen. What is
        wrong in one row is that row's refusal.

        Points of the grid, and Almgren-Chriss by the clock under the linear law with λ or urgency given, are looked up
        and solved as arrays, 10,000 in a fraction of a second; whatever else is asked for is solved one by one, some
        milliseconds each. A row has the bits of `schedule`.

        Returns
        -------
        DataFrame
            A row an order, in its order: risk_aversion, horizon, n_steps, expected_cost_bps, remaining, source, status
            and warnings as in ``params`` of `schedule`, run_id, and `refused`, the reason, where there is no schedule.
            All are of one release.
        """
        from tributary_opt.schedule_book import batch

        book = self._snapshot

        def single(key: Key, size: float, horizon: float | None, kind: str | None, value: Any) -> ExecutionTrajectory:
            place = place_of(book, key, book.market(key), size, horizon)
            return _found(book, _order(book, place, strategy, None, None), kind, value)

        limits: dict[str, Any] = {"min_grade": min_grade, "max_age": max_age, "now": self._clock()}
        return batch.schedules(book, orders, strategy, single=single, **limits)

    def replan(self, trajectory: ExecutionTrajectory, held: float, now: datetime | float) -> ExecutionTrajectory:
        """The optimal rest of a schedule of this book, for what is still held, from the next step on.

        The same strategy, λ, limits, parameters and end as the schedule's own, whatever has been published since: with
        `held` as planned it is the rest of the plan. `now` is an instant where the schedule has instants, else days
        from its start.
        """
        was = trajectory.params
        if "order" not in was:
            raise ValueError("trajectory must come from ScheduleBook.schedule")
        if not (math.isfinite(held) and 0 < held <= trajectory.holdings[0]):
            raise ScheduleRefused(f"held must be > 0 and at most the order's {trajectory.holdings[0]:g}, got {held:g}")
        times = trajectory.timestamps
        if isinstance(now, datetime):
            if now.tzinfo is None or times.dtype.kind != "M":
                raise ValueError("now must have a time zone, and the schedule a start, for an instant")
            at: Any = np.datetime64(now.astimezone(UTC).replace(tzinfo=None), "us")
        else:
            if times.dtype.kind == "M":
                raise ValueError("the schedule has a start: give now as a datetime with a time zone")
            at = float(now)
            at -= _NEAR * was["tau"]  # k slices of 1/48 day are not k/48 to the last bit
        step = int(np.searchsorted(times, at, side="left"))
        if step >= len(times) - 1:
            raise ScheduleRefused(f"the schedule is over at {times[-1]}: no step is left after {now}")
        before: Order = was["order"]
        order = replace(before, place=replace(before.place, size=float(held), said=""), done=before.done + step)
        found = replace(solved(order, trajectory.risk_aversion), timestamps=times[step:])
        same = {n: was[n] for n in ("run_id", "as_of", "market_id", "token_id", "grade", "age_hours")}
        found = _with(found, order=order, **same)
        return _in_breaks(found, order.place) if times.dtype.kind == "M" else found

    # --- inside ----------------------------------------------------------------------------------------------

    def _place(
        self,
        book: Snapshot,
        market_id: str,
        order_size: float,
        token_id: str | None,
        horizon: float | None,
        min_grade: str,
        max_age: float | timedelta,
        start: datetime | None,
    ) -> Place:
        key = key_of(book, market_id, token_id)
        now = self._clock()
        when = now if start is None else max(now, start)
        said = unfit(book, key, book.parameters(key), min_grade, max_age, when)
        if said is not None:
            raise ScheduleRefused(said)
        return place_of(book, key, book.market(key), order_size, horizon)

    def _finished(
        self, book: Snapshot, order: Order, found: ExecutionTrajectory, start: datetime | None
    ) -> ExecutionTrajectory:
        row = order.place.row
        found = _with(
            found,
            run_id=book.run_id,
            as_of=book.as_of,
            market_id=row["market_id"],
            token_id=row["token_id"],
            grade=row.get("grade"),
            age_hours=trading_hours(row["calendar"], book.as_of, self._clock()),
            order=order,
        )
        if start is None:
            return found
        times = stamps(row["calendar"], start.astimezone(UTC), found.timestamps)
        end, resolves = times[-1], row["resolution_time"]
        if resolves is not None:
            latest = np.datetime64((resolves - book.buffer).astimezone(UTC).replace(tzinfo=None), "us")
            if end > latest:
                raise ScheduleRefused(
                    f"the schedule would end {end}, later than {latest}: the market resolves at {resolves}; start "
                    "earlier, or give a shorter horizon"
                )
        if order.after < book.as_of:
            said = f"it starts {start}, before the release as of {book.as_of} was known: for looking back only"
            found = _with(found, warnings=(*found.params["warnings"], said))
        return _in_breaks(replace(found, timestamps=times), order.place)


def resolve(book: ScheduleBook, market_id: str, token_id: str | None) -> tuple[Snapshot, Key]:
    """The release that a book is reading, and the key of a market in it."""
    snapshot = book._snapshot
    return snapshot, key_of(snapshot, market_id, token_id)


def _make_calendars(snapshot: Snapshot) -> None:
    """Those of all markets, so that no order waits for one. What is wrong with one is said to who asks for it."""
    with contextlib.suppress(BookError):
        for code in set(snapshot.column("calendar").tolist()):
            with contextlib.suppress(ValueError):
                trading_calendar(code)


def _order(
    book: Snapshot, place: Place, strategy: str, start: datetime | None, max_participation: float | None, **more: Any
) -> Order:
    after, begin = (book.as_of, 0.0) if start is None else session_of(place.row["calendar"], start.astimezone(UTC))
    return Order.of(place, strategy, after, begin, max_participation=max_participation, **more)


def _found(book: Snapshot, order: Order, kind: str | None, value: Any) -> ExecutionTrajectory:
    """As published, or else solved."""
    if kind is not None and order.eta_tilde <= 0:
        risk_aversion_of(order, kind, value)  # refuses what is no risk, for every risk has a row here
    at = order.published_at(book.as_of, kind, value)
    if at is not None:
        found = published(book.run_id, order, at)
    else:
        found = solved(order, 0.0 if kind is None else risk_aversion_of(order, kind, value))
    return kept(order, found, kind, value)


def _level(strategy: str, risk_aversion: float) -> tuple[str | None, float | None]:
    return (None, None) if strategy in FIXED else ("risk_aversion", risk_aversion)


def _compared(problem: Problem, place: Place, t: ExecutionTrajectory, cost_profile: str) -> dict[str, Any]:
    """One line of a comparison: a schedule costed on the problem that all share."""
    cost = schedule_cost(problem, t.trade_sizes, t.holdings)
    notional = place.size * place.params.price
    expected, sd = float(cost.expected_cost), math.sqrt(float(cost.cost_variance))
    return {
        "strategy": t.strategy_name,
        "risk_aversion": t.risk_aversion,
        "expected_cost": expected,
        "cost_sd": sd,
        "expected_cost_bps": expected / notional * 1e4,
        "cost_sd_bps": sd / notional * 1e4,
        "half_life": t.params["half_life"],
        "first_slice_pct": t.trade_sizes[0] / place.size * 100.0,
        "cost_profile": cost_profile,
        "status": t.params["status"],
    }


def _in_breaks(found: ExecutionTrajectory, place: Place) -> ExecutionTrajectory:
    """With a word where slices begin in a break of the exchange's."""
    calendar = place.row["calendar"]
    idle = in_breaks(calendar, found.timestamps[:-1]) & (found.trade_sizes > 0)
    if not idle.any():
        return found
    said = f"{idle.sum()} slices begin in a break of {calendar}: trade them before it or after"
    return _with(found, warnings=(*found.params["warnings"], said))


def _with(found: ExecutionTrajectory, **more: Any) -> ExecutionTrajectory:
    return replace(found, params={**found.params, **more})
