"""The schedule book: what was published, looked up; what was not, solved exactly from the published parameters."""

from __future__ import annotations

import difflib
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tributary_opt.optimization.almgren_chriss import generate_ac_trajectory
from tributary_opt.optimization.closed_form import (
    effective_eta,
    linear_shapes,
    risk_aversion_from_urgency,
    solve_linear_grid,
)
from tributary_opt.optimization.frontier import efficient_frontier
from tributary_opt.optimization.problem import Problem, market_problem
from tributary_opt.optimization.risk import (
    risk_aversion_from_cost,
    risk_aversion_from_decay_time,
    risk_aversion_from_half_life,
    risk_aversion_from_share_done,
)
from tributary_opt.optimization.scheduler import InfeasibleSchedule, schedule_order
from tributary_opt.optimization.strategies import generate_market_order_trajectory, generate_twap_trajectory
from tributary_opt.optimization.trajectory import AlmgrenChrissParams, ExecutionTrajectory, Side, implied_average_price
from tributary_opt.schedule_book.clock import stamps, trading_hours
from tributary_opt.schedule_book.snapshot import (
    BookError,
    Key,
    Market,
    ScheduleRefused,
    Snapshot,
    of_parquet,
    of_questdb,
)
from tributary_opt.settings import QuestDBServer, Settings
from tributary_opt.storage.questdb import QuestDB

GRADES = ("A", "B", "C", "D")
RISK_KINDS = ("risk_aversion", "urgency", "decay_time", "half_life", "done_by", "cost_budget_bps")
MOST_URGENCY, SHORTEST, LONGEST = 2.0, 0.25, 2.0
"""The hull: κT up to this many times the largest of the grid, horizons from and to these multiples of the nearest."""

_TOO_FAR = 1e-9


@dataclass(frozen=True)
class _Place:
    """Where in the hull an order lies: its market's parameters and the published horizon nearest to its own."""

    row: dict[str, Any]
    near: dict[str, Any]
    size: float
    n_steps: int
    tau: float
    most_urgency: float

    @property
    def multiplier(self) -> float:
        return float(self.row["contract_multiplier"] or 1.0)

    def params(self) -> AlmgrenChrissParams:
        """The published parameters, in currency: a price of 1 is worth the contract's multiplier."""
        m, row, alpha = self.multiplier, self.row, self.near["alpha"]
        scaled: dict[str, Any] = {n: float(row[n]) * m for n in ("eta", "gamma", "sigma", "epsilon", "price")}
        rate = row["reference_rate"]
        return AlmgrenChrissParams(
            **scaled,
            alpha=1.0 if alpha is None else alpha,
            tau=self.tau,
            reference_rate=0.01 * row["adv"] if rate is None else rate,
        )

    def law(self) -> dict[str, Any]:
        return {"permanent": self.near["permanent"], "impact_law": self.near["impact_law"] or "linear"}

    def problem(self) -> Problem:
        p = self.params()
        market = {n: getattr(p, n) for n in ("eta", "gamma", "sigma", "epsilon", "tau", "alpha", "reference_rate")}
        return market_problem(self.size, 0.0, n_steps=self.n_steps, **market, **self.law())


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
        self.refresh_error: BookError | None = None
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
            Follow new releases in a thread that looks this often. [s]
        clock : callable
            What time it is, with a time zone.

        Raises
        ------
        BookError
            Where there is no release, or none that is whole.
        """
        if isinstance(source, Settings):
            source = source.parquet_root if source.questdb is None else source.questdb
        if isinstance(source, QuestDBServer):
            db = QuestDB(source)
            book = cls(lambda: of_questdb(db), clock=clock, close=db.close)
        elif isinstance(source, QuestDB):
            given = source
            book = cls(lambda: of_questdb(given), clock=clock)
        else:
            root = Path(source)
            book = cls(lambda: of_parquet(root), clock=clock)
        if refresh_seconds is not None:
            book._follow(refresh_seconds)
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
            while not self._stop.wait(seconds):
                try:
                    self.refresh()
                    self.refresh_error = None
                except BookError as error:
                    self.refresh_error = error

        self._timer = threading.Thread(target=run, name="schedule-book", daemon=True)
        self._timer.start()

    # --- tables ----------------------------------------------------------------------------------------------

    def parameters(self) -> pd.DataFrame:
        """The rows of `ac_parameters`, every market with its parameters or its refusal."""
        frame: pd.DataFrame = self._snapshot.table.to_pandas()
        return frame

    def markets(self, search: str = "", min_grade: str | None = None) -> pd.DataFrame:
        """Markets whose id contains `search`, with status, grade and the figures people ask for first."""
        frame = self.parameters()
        names = ["market_id", "token_id", "status", "reason", "grade", "method", "kind", "calendar", "price", "adv"]
        names += ["sigma", "spread", "eta", "gamma"]
        frame = frame[[n for n in names if n in frame.columns]]
        frame = frame[frame["market_id"].str.contains(search, case=False, regex=False)]
        if min_grade is not None:
            allowed = GRADES[: _grade_index(min_grade) + 1]
            frame = frame[frame["grade"].isin(allowed)] if "grade" in frame.columns else frame.iloc[:0]
        return frame.reset_index(drop=True)

    def frontier(
        self,
        market_id: str,
        order_size: float,
        *,
        token_id: str | None = None,
        horizon: float | None = None,
        n_points: int = 60,
        min_grade: str = "C",
        max_age: float = 36.0,
    ) -> pd.DataFrame:
        """Least expected cost for every risk, within the hull: `efficient_frontier` with urgency and bps beside it."""
        book = self._snapshot
        place = self._place(book, market_id, order_size, token_id, horizon, min_grade, max_age, None)
        if float(place.row["sigma"]) == 0:
            raise ScheduleRefused(f"{market_id!r} has sigma 0: its frontier is one point, TWAP")
        lam = [0.0]
        low = min(0.05, place.most_urgency / 2)
        for urgency in np.geomspace(low, place.most_urgency, n_points):
            lam.append(_risk_aversion(place, "urgency", float(urgency)))
        found = efficient_frontier(place.problem(), risk_aversion=np.array(lam)).frame()
        found.insert(1, "urgency", [0.0, *np.geomspace(low, place.most_urgency, n_points)])
        notional = place.size * place.params().price
        for name in ("expected_cost", "cost_sd", "lvar"):
            found[f"{name}_bps"] = found[name] / notional * 1e4
        return found.assign(run_id=book.run_id)

    def compare(
        self,
        market_id: str,
        order_size: float,
        *,
        token_id: str | None = None,
        horizon: float | None = None,
        min_grade: str = "C",
        max_age: float = 36.0,
        **risk: Any,
    ) -> pd.DataFrame:
        """The optimal schedule beside TWAP and a market order, all costed alike, against TWAP."""
        book = self._snapshot
        kind, value = _one_risk({**dict.fromkeys(RISK_KINDS), **risk})
        place = self._place(book, market_id, order_size, token_id, horizon, min_grade, max_age, None)
        best = self._schedule(book, place, kind, value, "sell", None, None)
        p, law = place.params(), place.law()
        others = [
            generate_twap_trajectory(place.size, place.n_steps, p, **law),
            generate_market_order_trajectory(place.size, p, **law),
        ]
        rows = []
        for t in [best, *others]:
            notional = place.size * p.price
            sd = math.sqrt(t.params["cost_variance"])
            rows.append(
                {
                    "strategy": t.strategy_name,
                    "risk_aversion": t.risk_aversion,
                    "expected_cost": t.params["expected_cost"],
                    "cost_sd": sd,
                    "expected_cost_bps": t.total_cost_estimate,
                    "cost_sd_bps": sd / notional * 1e4,
                    "half_life": t.params["half_life"],
                    "first_slice_pct": t.trade_sizes[0] / place.size * 100.0,
                }
            )
        return pd.DataFrame(rows).assign(run_id=book.run_id)

    # --- schedules -------------------------------------------------------------------------------------------

    def schedule(
        self,
        market_id: str,
        order_size: float,
        *,
        token_id: str | None = None,
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
        max_age: float = 36.0,
    ) -> ExecutionTrajectory:
        """The schedule of one order: as published where it is a point of the grid, else solved from the parameters.

        Parameters
        ----------
        market_id, order_size, token_id
            `token_id` may be left out where the market has one token. [contracts]
        risk_aversion, urgency, decay_time, half_life, done_by, cost_budget_bps
            Exactly one: λ [1/currency]; κT [-]; 1/κ [day]; time of half the order [day]; (share, time at which it is
            done) [-, day]; expected cost over the arrival notional [bps].
        horizon : float, optional
            A whole number of the published τ; None is the grid's first. [day]
        start : datetime with a time zone, optional
            `timestamps` are then datetime64[us] (UTC) along the market's calendar, otherwise days from the start.
        max_participation, lot_size : float, optional
            Largest share of the expected volume [-]; slices are whole multiples of the lot [contracts].
        min_grade, max_age
            Worst grade that will do; oldest release, in hours of the market's trading clock. [h]

        Returns
        -------
        ExecutionTrajectory
            ``params`` has, beside what every trajectory has, ``run_id, as_of, grade, age_hours, source`` ("published"
            or "solved"), ``market_id, token_id`` and ``slice_prices``: what each slice is expected to trade at, on
            the tick, rounded against the order.

        Raises
        ------
        ScheduleRefused
            Unknown or refused market, grade, age, several tokens, outside the hull, limits that cannot be kept.
        BookError
            Where the release is not whole.
        """
        book = self._snapshot
        given = (risk_aversion, urgency, decay_time, half_life, done_by, cost_budget_bps)
        kind, value = _one_risk(dict(zip(RISK_KINDS, given, strict=True)))
        if start is not None and start.tzinfo is None:
            raise ValueError("start needs a time zone: datetime(..., tzinfo=UTC)")
        if side not in ("sell", "buy"):
            raise ValueError(f'side must be "sell" or "buy", got {side!r}')
        place = self._place(book, market_id, order_size, token_id, horizon, min_grade, max_age, start)
        found = self._schedule(book, place, kind, value, side, max_participation, lot_size)
        return self._finished(book, place, found, side, start)

    def schedules(self, orders: pd.DataFrame, *, min_grade: str = "C", max_age: float = 36.0) -> pd.DataFrame:
        """Many orders at once: columns market_id, order_size and, where wanted, token_id, horizon and the risk kinds.

        Returns
        -------
        DataFrame
            A row an order, in its order: risk_aversion, horizon, n_steps, expected_cost_bps, remaining, source, run_id,
            and `refused`, the reason, where there is no schedule. All are of one release.
        """
        book, now = self._snapshot, self._clock()
        fit: dict[Key, str | None] = {}
        out: list[tuple[Any, ...] | None] = [None] * len(orders)
        open_: dict[tuple[int, str], list[tuple[int, _Place, str, float]]] = {}
        given = {name: orders[name].tolist() for name in ("market_id", "order_size")}
        for name in ("token_id", "horizon", *RISK_KINDS):
            given[name] = [_known(v) for v in orders[name].tolist()] if name in orders else [None] * len(orders)
        for i, (market_id, size, token, horizon, *values) in enumerate(zip(*given.values(), strict=True)):
            try:
                kind, value = _one_risk(dict(zip(RISK_KINDS, values, strict=True)))
                key = _key(book, market_id, token)
                if key not in fit:
                    fit[key] = _unfit(book, key, min_grade, max_age, now)
                if (said := fit[key]) is not None:
                    raise ScheduleRefused(said)
                market = book.market(key)
                asked = _horizons(market, key)[0]["horizon"] if horizon is None else horizon
                if (at := market.points.get((kind, size, value, asked))) is not None:
                    row = market.rows[at]
                    _check_holdings(book, row)
                    out[i] = (*map(row.get, _MANY[:5]), "published", None)
                    continue
                place = _in_hull(book, key, size, horizon)
                law = place.law()
                if law["impact_law"] == "linear" and kind in ("urgency", "risk_aversion"):
                    open_.setdefault((place.n_steps, law["permanent"]), []).append((i, place, kind, value))
                    continue
                t = _solved(place, _risk_aversion(place, kind, value), "sell", None, None)
                found = (t.risk_aversion, place.n_steps * place.tau, place.n_steps, t.total_cost_estimate, t.holdings)
                out[i] = (*found, "solved", None)
            except ValueError as error:
                out[i] = (math.nan, math.nan, 0, math.nan, None, "refused", str(error))
        for (n_steps, permanent), places in open_.items():
            _solve_many(places, n_steps, permanent, out)
        result = orders.reset_index(drop=True)[[n for n in ("market_id", "token_id", "order_size") if n in orders]]
        for place_, name in enumerate(_MANY):
            column = [row[place_] for row in out if row is not None]
            result[name] = pd.Series(column, dtype=object if name in ("remaining", "refused") else None)
        return result.assign(run_id=book.run_id)

    def replan(self, trajectory: ExecutionTrajectory, held: float, now: datetime | float) -> ExecutionTrajectory:
        """The optimal rest of a schedule of this book, for what is still held, from the next step on.

        The same λ, parameters and end as the schedule's own, whatever has been published since: with `held` as
        planned it is the rest of the plan. `now` is an instant where the schedule has instants, else days from its
        start.
        """
        was = trajectory.params
        if "run_id" not in was:
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
        step = int(np.searchsorted(times, at, side="left"))
        left = len(times) - 1 - step
        if left < 1:
            raise ScheduleRefused(f"the schedule is over at {times[-1]}: no step is left after {now}")
        place: _Place = replace(was["place"], size=held, n_steps=left)
        limits = was.get("limits", {})
        found = _solved(
            place, trajectory.risk_aversion, was["side"], limits.get("max_participation"), limits.get("lot_size")
        )
        found = replace(found, timestamps=times[step:])
        more = {n: was[n] for n in ("run_id", "as_of", "market_id", "token_id", "grade", "age_hours")}
        return _with(found, place=place, source="solved", slice_prices=_slice_prices(place, found), **more)

    # --- inside ----------------------------------------------------------------------------------------------

    def _place(
        self,
        book: Snapshot,
        market_id: str,
        order_size: float,
        token_id: str | None,
        horizon: float | None,
        min_grade: str,
        max_age: float,
        start: datetime | None,
    ) -> _Place:
        key = _key(book, market_id, token_id)
        now = self._clock()
        said = _unfit(book, key, min_grade, max_age, now if start is None else max(now, start))
        if said is not None:
            raise ScheduleRefused(said)
        return _in_hull(book, key, order_size, horizon)

    def _schedule(
        self,
        book: Snapshot,
        place: _Place,
        kind: str,
        value: Any,
        side: Side,
        max_participation: float | None,
        lot_size: float | None,
    ) -> ExecutionTrajectory:
        if max_participation is None and lot_size is None:
            market = book.market((place.row["market_id"], place.row["token_id"]))
            horizon = place.near["horizon"]
            if place.n_steps == place.near["n_steps"]:
                at = market.points.get((kind, place.size, value, horizon))
                if at is not None:
                    return _published(book, place, market.rows[at], side)
        return _with(
            _solved(place, _risk_aversion(place, kind, value), side, max_participation, lot_size), source="solved"
        )

    def _finished(
        self, book: Snapshot, place: _Place, found: ExecutionTrajectory, side: Side, start: datetime | None
    ) -> ExecutionTrajectory:
        row = place.row
        found = _with(
            found,
            run_id=book.run_id,
            as_of=book.as_of,
            market_id=row["market_id"],
            token_id=row["token_id"],
            grade=row.get("grade"),
            age_hours=trading_hours(row["calendar"], book.as_of, self._clock()),
            slice_prices=_slice_prices(place, found),
            place=place,
        )
        if start is None:
            return found
        times = stamps(row["calendar"], start.astimezone(UTC), found.timestamps)
        end, resolves = times[-1], row["resolution_time"]
        if resolves is not None and end > np.datetime64(resolves.astimezone(UTC).replace(tzinfo=None), "us"):
            raise ScheduleRefused(f"the schedule would end {end}, after the market resolves at {resolves}")
        return replace(found, timestamps=times)


_MANY = ("risk_aversion", "horizon", "n_steps", "expected_cost_bps", "remaining", "source", "refused")


def _solve_many(
    places: list[tuple[int, _Place, str, float]], n_steps: int, permanent: Any, out: list[tuple[Any, ...] | None]
) -> None:
    """Orders under the linear law in one batch: the bits of the single ones, which refuse what this does not solve."""
    p = [place.params() for _, place, _, _ in places]
    eta, gamma, sigma, epsilon, price, tau = (
        np.array([getattr(q, n) for q in p]) for n in ("eta", "gamma", "sigma", "epsilon", "price", "tau")
    )
    sizes = np.array([place.size for _, place, _, _ in places])
    value = np.array([value for _, _, _, value in places], dtype=float)
    urgent = np.array([kind == "urgency" for _, _, kind, _ in places])
    # What a batch cannot take is left to the single path: its refusal is in words.
    eta_tilde = effective_eta(eta, gamma, tau, permanent)
    fine = np.isfinite(value) & (value >= 0) & (eta_tilde > 0) & (sigma > 0)
    fine &= ~urgent | (value <= [place.most_urgency for _, place, _, _ in places])
    lam = np.where(fine, value, 0.0)
    at = fine & urgent & (value > 0)
    if at.any():
        lam[at] = risk_aversion_from_urgency(value[at], eta_tilde[at], sigma[at], tau[at], n_steps)
    market = {"eta": eta, "gamma": gamma, "sigma": sigma, "epsilon": epsilon}
    g = solve_linear_grid(
        **market,
        order_sizes=sizes[:, np.newaxis],
        horizon=tau * n_steps,
        n_steps=n_steps,
        risk_aversion=lam[:, np.newaxis],
        permanent=permanent,
    )
    assert g.holdings is not None
    bps = g.expected_cost[:, 0, 0] / sizes / price * 1e4
    solved = (g.status.reshape(len(places), -1) == 0).all(axis=1)
    for j, (i, place, kind, asked) in enumerate(places):
        inside = fine[j] and solved[j] and g.urgency[j, 0] <= place.most_urgency * (1 + _TOO_FAR)
        if inside:
            numbers = (float(lam[j]), n_steps * place.tau, n_steps, float(bps[j]), g.holdings[j, 0, 0])
            out[i] = (*numbers, "solved", None)
            continue
        try:
            t = _solved(place, _risk_aversion(place, kind, asked), "sell", None, None)
            numbers = (t.risk_aversion, n_steps * place.tau, n_steps, t.total_cost_estimate, t.holdings)
            out[i] = (*numbers, "solved", None)
        except ValueError as error:
            out[i] = (math.nan, math.nan, 0, math.nan, None, "refused", str(error))


def resolve(book: ScheduleBook, market_id: str, token_id: str | None) -> tuple[Snapshot, Key]:
    """The release that a book is reading, and the key of a market in it."""
    snapshot = book._snapshot
    return snapshot, _key(snapshot, market_id, token_id)


def _one_risk(given: Mapping[str, Any]) -> tuple[str, Any]:
    unknown = set(given) - set(RISK_KINDS)
    if unknown:
        raise TypeError(f"unknown {', '.join(sorted(unknown))}: give one of {', '.join(RISK_KINDS)}")
    named = [(name, value) for name, value in given.items() if value is not None]
    if len(named) != 1:
        got = ", ".join(name for name, _ in named) or "none"
        raise ValueError(f"give exactly one of {', '.join(RISK_KINDS)}, got {got}")
    return named[0]


def _known(value: Any) -> Any:
    return None if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)) else value


def _key(book: Snapshot, market_id: str, token_id: str | None) -> Key:
    tokens = book.tokens.get(market_id)
    if tokens is None:
        near = difflib.get_close_matches(str(market_id), book.tokens, n=3, cutoff=0.4)
        hint = f"; nearest: {', '.join(map(repr, near))}" if near else f"; the release has {len(book.tokens)} markets"
        raise ScheduleRefused(f"no market {market_id!r} in run {book.run_id}{hint}")
    if token_id is None:
        if len(tokens) > 1:
            raise ScheduleRefused(f"market {market_id!r} has several tokens, give token_id: {', '.join(tokens)}")
        return market_id, tokens[0]
    if token_id not in tokens:
        raise ScheduleRefused(f"market {market_id!r} has no token {token_id!r}; it has {', '.join(tokens)}")
    return market_id, token_id


def _grade_index(grade: str) -> int:
    if grade not in GRADES:
        raise ValueError(f"a grade is one of {', '.join(GRADES)}, got {grade!r}")
    return GRADES.index(grade)


def _unfit(book: Snapshot, key: Key, min_grade: str, max_age: float, now: datetime) -> str | None:
    """Why a market's parameters are not to be used, or None. A grade that is not known is the worst."""
    row, name = book.parameters(key), f"market {key[0]!r}, token {key[1]!r}"
    worst = _grade_index(min_grade)
    if row["status"] != "ok":
        return f"{name} was refused: {row['reason']}" + (f" ({row['detail']})" if row["detail"] else "")
    grade = row.get("grade")
    if grade not in GRADES and worst < len(GRADES) - 1:
        return f"{name} has no grade, as in releases of older versions; min_grade='D' would take it"
    if grade in GRADES and GRADES.index(grade) > worst:
        return f"{name} has grade {grade}, below min_grade {min_grade}; min_grade={grade!r} would take it"
    age = trading_hours(row["calendar"], book.as_of, now)
    if not age <= max_age:
        return (
            f"run {book.run_id} as of {book.as_of} is {age:.1f} h of trading old, more than max_age {max_age:g} h: "
            "run the night, or pass a larger max_age"
        )
    return None


def _horizons(market: Market, key: Key) -> list[dict[str, Any]]:
    if not market.horizons:
        raise ScheduleRefused(f"market {key[0]!r} has no feasible schedule in the grid")
    return market.horizons


def _in_hull(book: Snapshot, key: Key, order_size: float, horizon: float | None) -> _Place:
    market = book.market(key)
    horizons, largest = _horizons(market, key), market.largest
    if not (math.isfinite(order_size) and order_size > 0):
        raise ScheduleRefused(f"order_size must be finite and > 0, got {order_size:g}")
    if order_size > largest:
        raise ScheduleRefused(
            f"order_size {order_size:g} is {order_size / largest:.3g} times the grid's largest, {largest:g} contracts"
        )
    near, n_steps = horizons[0], int(horizons[0]["n_steps"])
    if horizon is not None:
        if not (math.isfinite(horizon) and horizon > 0):
            raise ScheduleRefused(f"horizon must be finite and > 0, got {horizon:g}")
        asked = [row for row in horizons if horizon in (row["horizon"], row["horizon_asked"])]
        near = asked[0] if asked else min(horizons, key=lambda row: abs(math.log(horizon / row["horizon"])))
        n_steps = int(near["n_steps"])
        if not asked:
            ratio = horizon / near["horizon"]
            if not SHORTEST <= ratio <= LONGEST:
                raise ScheduleRefused(
                    f"horizon {horizon:g} days is {ratio:.3g} times the nearest of the grid, {near['horizon']:g}; "
                    f"{SHORTEST:g} to {LONGEST:g} times will do"
                )
            if near["horizon_asked"] is not None and near["horizon"] < min(horizon, near["horizon_asked"]):
                raise ScheduleRefused(
                    f"the market resolves: horizons end at {near['horizon']:g} days, {horizon:g} were asked for"
                )
            tau = near["horizon"] / near["n_steps"]
            n_steps = round(horizon / tau)
            if n_steps < 1 or abs(horizon - n_steps * tau) > _TOO_FAR * horizon:
                low = max(math.floor(horizon / tau), 1)
                raise ScheduleRefused(
                    f"horizon {horizon:g} days is no whole number of the published steps of {tau:g} days: "
                    f"{low * tau:.10g} and {(low + 1) * tau:.10g} are the nearest"
                )
    tau = near["horizon"] / near["n_steps"]
    return _Place(book.parameters(key), near, float(order_size), n_steps, tau, MOST_URGENCY * market.most_urgency)


def _risk_aversion(place: _Place, kind: str, value: Any) -> float:
    """λ of what was asked, within the hull."""
    horizon = place.n_steps * place.tau
    if kind in ("risk_aversion", "urgency") and not (math.isfinite(value) and value >= 0):
        raise ScheduleRefused(f"{kind} must be finite and >= 0, got {value:g}")
    problem = place.problem()
    p, linear = place.params(), place.law()["impact_law"] == "linear"
    try:
        if kind == "risk_aversion":
            lam = float(value)
        elif kind == "urgency":
            if value == 0:
                return 0.0
            if linear:
                eta_tilde = p.eta - p.gamma * p.tau / 2 if place.law()["permanent"] == "paper" else p.eta
                lam = float(risk_aversion_from_urgency(value, eta_tilde, p.sigma, p.tau, place.n_steps))
            else:
                lam = risk_aversion_from_decay_time(problem, horizon / value).risk_aversion
        elif kind == "decay_time":
            lam = risk_aversion_from_decay_time(problem, value).risk_aversion
        elif kind == "half_life":
            lam = risk_aversion_from_half_life(problem, value).risk_aversion
        elif kind == "done_by":
            share, time = value
            after = math.floor(time / place.tau + _TOO_FAR)
            if not 1 <= after <= place.n_steps:
                raise ScheduleRefused(f"done_by's time must be from {place.tau:g} to {horizon:g} days, got {time:g}")
            lam = risk_aversion_from_share_done(problem, share, after).risk_aversion
        else:
            lam = risk_aversion_from_cost(problem, value * 1e-4 * place.size * p.price).risk_aversion
    except ScheduleRefused:
        raise
    except ValueError as error:
        raise ScheduleRefused(f"{kind}={value}: {error}") from None
    urgency = _urgency(place, lam)
    if urgency > place.most_urgency * (1 + _TOO_FAR):
        raise ScheduleRefused(
            f"{kind}={value} means an urgency of {urgency:.4g}, {urgency / place.most_urgency * MOST_URGENCY:.3g} "
            f"times the largest of the grid; {MOST_URGENCY:g} times, {place.most_urgency:g}, is the limit"
        )
    return lam


def _urgency(place: _Place, risk_aversion: float) -> float:
    found = generate_ac_trajectory(place.size, place.n_steps, place.params(), risk_aversion, **place.law())
    return float(found.params["urgency"])


def _solved(
    place: _Place, risk_aversion: float, side: Side, max_participation: float | None, lot_size: float | None
) -> ExecutionTrajectory:
    if max_participation is None and lot_size is None:
        law = place.law()
        found = generate_ac_trajectory(place.size, place.n_steps, place.params(), risk_aversion, side=side, **law)
    else:
        volume = None
        if max_participation is not None:
            volume = np.full(place.n_steps, place.row["adv"] * place.tau)
        try:
            found = schedule_order(
                place.size,
                place.n_steps,
                place.params(),
                risk_aversion,
                volume_profile=volume,
                max_participation=max_participation,
                lot_size=lot_size,
                side=side,
                **place.law(),
            )
        except InfeasibleSchedule as error:
            raise ScheduleRefused(str(error)) from None
    if not np.isfinite(found.holdings).all():
        raise ScheduleRefused("; ".join(found.params["warnings"]))
    implied = found.params["implied_price"] / place.multiplier
    return _with(found, implied_price=implied)


def _published(book: Snapshot, place: _Place, row: dict[str, Any], side: Side) -> ExecutionTrajectory:
    """A row of the grid as a trajectory: its holdings and numbers to the bit."""
    _check_holdings(book, row)
    n, size, holdings = row["n_steps"], row["order_size"], row["remaining"].copy()
    trades = -np.diff(holdings)
    if row["impact_law"] in (None, "linear"):
        # The slices' own closed form, exact where differences of holdings are not: theirs, if the holdings are.
        held, slices = linear_shapes(row["urgency"], n)
        if np.array_equal(held * size, holdings):
            trades = slices * size
    m, p = place.multiplier, place.params()
    names = ("kappa", "eta_tilde", "expected_cost", "cost_variance", "urgency", "decay_time", "half_life", "alpha")
    numbers = {name: math.nan if row[name] is None else row[name] for name in names}
    if row["urgency"] == 0:
        numbers["decay_time"] = math.inf
    said = () if row["status"] == "ok" else (f"published with status {row['status']}",)
    return ExecutionTrajectory(
        timestamps=np.arange(n + 1) * (row["horizon"] / n),
        holdings=holdings,
        trade_sizes=trades,
        strategy_name=row["strategy"],
        total_cost_estimate=row["expected_cost_bps"],
        risk_aversion=row["risk_aversion"],
        params={
            **numbers,
            "implied_price": float(implied_average_price(p.price / m, row["expected_cost"] / m, size, side)),
            "permanent": row["permanent"],
            "impact_law": row["impact_law"],
            "side": side,
            "status": row["status"],
            "n_steps": n,
            "horizon": row["horizon"],
            **{name: getattr(p, name) for name in ("eta", "gamma", "sigma", "epsilon", "tau", "price")},
            "volume_profile": None,
            "warnings": said,
            "source": "published",
        },
    )


def _check_holdings(book: Snapshot, row: dict[str, Any]) -> None:
    held = row["remaining"]
    good = len(held) == row["n_steps"] + 1 and held[0] == row["order_size"] and held[-1] == 0
    if not (good and bool((held[1:] <= held[:-1]).all())):
        raise BookError(
            f"run {book.run_id}: a schedule of {row['market_id']!r} does not add up; run `tributary-opt check`"
        )


def _slice_prices(place: _Place, found: ExecutionTrajectory) -> np.ndarray:
    """What each slice is expected to trade at; on the tick, rounded against the order where the tick is known."""
    p, n, law = place.params(), found.trade_sizes, place.law()
    before = np.concatenate([[0.0], np.cumsum(n)[:-1]])
    moved = before + (n / 2 if law["permanent"] == "midprice" else 0.0)
    rate = n / p.tau
    if law["impact_law"] == "power":
        temporary = p.eta * p.reference_rate * (rate / p.reference_rate) ** p.alpha
    else:
        temporary = p.eta * rate
    cost = (p.gamma * moved + p.epsilon + temporary) / place.multiplier
    price, tick = p.price / place.multiplier, place.row["tick_size"]
    buy = found.params["side"] == "buy"
    prices = price + cost if buy else price - cost
    if tick:
        steps = prices / tick
        near = np.rint(steps)
        on = np.abs(steps - near) < 1e-6
        prices = np.where(on, near, np.ceil(steps) if buy else np.floor(steps)) * tick
    return np.asarray(prices)


def _with(found: ExecutionTrajectory, **more: Any) -> ExecutionTrajectory:
    return replace(found, params={**found.params, **more})
