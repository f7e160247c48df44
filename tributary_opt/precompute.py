"""Schedules for every market: parameters × order sizes × risk levels × horizons, with cost and risk.

Two Almgren-Chriss strategies, by the clock and in volume time, and their λ = 0, TWAP and VWAP; a market order beside
them. With a cap, one strategy that keeps it stands in the place of the first two. All are costed by one law under
one convention of the permanent impact: TWAP, market order and Almgren-Chriss by the clock (the same impact and risk in
every slice), VWAP and volume time with the market's hours of the day, in which impact falls with a slice's share of the
volume and risk follows its share of the variance. What stands on the same cost profile compares.

A schedule begins with the first trading day after `as_of`, and ends before the market's resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tributary_opt import schema
from tributary_opt.market_data.calendars import trading_calendar
from tributary_opt.market_data.profile import slice_weights, with_weekdays
from tributary_opt.optimization.closed_form import SolveStatus, effective_eta
from tributary_opt.optimization.linear_grid import solve_linear_grid
from tributary_opt.optimization.night import breaks_cap, fixed_grid, slice_caps, solve_grid
from tributary_opt.optimization.problem import Problem, convexity_limit, market_problem
from tributary_opt.optimization.slice_prices import ceiling_of, leaves_range, slice_costs, slower_of
from tributary_opt.settings import Grid

ALMGREN_CHRISS, VOLUME_TIME, CAPPED = "almgren_chriss", "almgren_chriss_volume_time", "almgren_chriss_capped"
MARKET_ORDER, TWAP, VWAP = "market_order", "twap", "vwap"
NO_RISK_LEVEL = -1

_Arrays = dict[str, np.ndarray]

# Problems solved at once: what the solvers like (`optimization.solver`), and few enough to bound memory.
_PROBLEMS = 8_192
_REFUSED = (
    SolveStatus.BAD_INPUT,
    SolveStatus.INFEASIBLE,
    # An urgency that no λ in the double range gives has none to store.
    SolveStatus.RISK_AVERSION_OUT_OF_RANGE,
)


def precompute(parameters: pd.DataFrame, grid: Grid, as_of: date) -> pd.DataFrame:
    """Schedules of every market that has parameters.

    Parameters
    ----------
    parameters : DataFrame
        Rows of `ac_parameters`; refused ones get no schedules.
    grid : Grid
    as_of : date
        A schedule begins with the market's first session after it.

    Returns
    -------
    DataFrame
        The columns of `ac_trajectories` less as_of and run_id, sorted by its keys; `remaining` is one Arrow array. A
        market's rows do not depend on the other markets, to the last bit.
    """
    usable = parameters[parameters["status"] == "ok"].sort_values(["market_id", "token_id"], kind="stable")
    usable = usable.reset_index(drop=True)
    frame = _Frame(len(usable), grid)
    step = max(1, _PROBLEMS // (len(grid.risk_levels) * len(grid.order_sizes_pct_adv)))
    for start in range(0, len(usable), step):
        markets = usable.iloc[start : start + step].reset_index(drop=True)
        for horizon_ix in range(len(grid.horizons)):
            solved = _Horizon(markets, grid, grid.horizons[horizon_ix], as_of).strategies()
            frame.fill(slice(start, start + len(markets)), horizon_ix, solved)
    return frame.as_frame(usable)


class _Horizon:
    """Some markets over one horizon; arrays are (markets, risk levels, sizes, …)."""

    def __init__(self, p: pd.DataFrame, grid: Grid, asked: float, as_of: date):
        self.p, self.grid, self.asked = p, grid, asked
        horizon = _until_resolution(p, asked, as_of, grid.resolution_buffer_minutes)
        self.over = ~(horizon > 0)  # solved like the others, and then refused
        self.horizon = np.where(self.over, asked, horizon)
        self.tau = self.horizon / grid.n_steps
        self.sizes = _column(p, "adv")[:, np.newaxis] * (np.array(grid.order_sizes_pct_adv) / 100.0)
        self.market: dict[str, Any] = {name: _column(p, name) for name in ("eta", "gamma", "sigma", "epsilon")}
        self.law: dict[str, Any] = {"permanent": grid.convention, "n_steps": grid.n_steps}
        self.alpha = np.full(len(p), np.nan)
        if grid.impact_law == "power":
            rate, alpha = _column(p, "reference_rate"), _column(p, "alpha")
            self.alpha = np.where(np.isfinite(alpha), alpha, grid.alpha)
            self.market["alpha"] = self.alpha
            self.market["reference_rate"] = np.where(np.isfinite(rate), rate, 0.01 * _column(p, "adv"))
            self.law["impact_law"] = "power"
        flat = np.full((len(p), grid.n_steps), 1.0 / grid.n_steps)
        volume = _weights(p, "volume_profile", as_of, self.horizon, grid.n_steps)
        variance = _weights(p, "variance_profile", as_of, self.horizon, grid.n_steps)
        self.known = np.isfinite(volume[:, 0]) & (volume.sum(axis=1) > 0)
        known = self.known[:, np.newaxis]
        # Where no volume is known the clock is all there is, for the risk too.
        varies = known & (np.isfinite(variance[:, :1]) & (variance.sum(axis=1, keepdims=True) > 0))
        self.profile: dict[str, Any] = {
            "volume_profile": np.where(known, volume, flat),
            "variance_profile": np.where(varies, variance, flat),
        }
        self.volume = _column(p, "adv") * np.where(self.known, volume.sum(axis=1), self.horizon)

    def strategies(self) -> list[tuple[str, _Arrays]]:
        """Every strategy with its columns, by name."""
        grid, n, by_clock = self.grid, self.grid.n_steps, np.zeros(len(self.p), dtype=bool)
        straight = np.arange(n, -1, -1) / n
        at_once = np.zeros(n)
        at_once[0] = 1.0
        clock, with_hours = self._problem({}), self._problem(self.profile)
        w = self.profile["volume_profile"]
        shares = (w / w.sum(axis=1, keepdims=True))[:, np.newaxis, np.newaxis, :]
        solved = {
            MARKET_ORDER: (self._fixed(clock, at_once, np.nan), by_clock),
            TWAP: (self._fixed(clock, np.full(n, 1.0 / n), 0.0, straight), by_clock),
            VWAP: (self._fixed(with_hours, shares, 0.0), self.known),
        }
        if grid.capped:
            caps: dict[str, Any] = {"max_slice": grid.max_slice}
            if grid.max_participation is not None:
                caps |= {"max_participation": grid.max_participation, "volume": self.volume}
            solved[CAPPED] = (self._optimal(self._any(**self.profile, **caps)), self.known)
        else:
            linear = grid.impact_law == "linear"
            solved[ALMGREN_CHRISS] = (self._optimal(self._constant if linear else self._any()), by_clock)
            solved[VOLUME_TIME] = (self._optimal(self._any(**self.profile)), self.known)
        for strategy, (columns, known) in solved.items():
            capped = strategy == CAPPED
            self._finish(columns, slower_of(w) if known is self.known else np.ones(n))
            columns["cost_profile"] = np.where(known, "volume", "clock").astype(object)[:, np.newaxis, np.newaxis]
            for name in ("max_participation", "max_slice"):
                cap = getattr(grid, name)
                columns[name] = np.array(cap if capped and cap is not None else np.nan)
        return [(strategy, solved[strategy][0]) for strategy in sorted(solved)]

    # --- the strategies ----------------------------------------------------------------------------------------

    def _constant(self, risk: dict[str, Any]) -> _Arrays:
        """Constant coefficients and the linear law: one shape for all sizes."""
        g = solve_linear_grid(**self.market, order_sizes=self.sizes, horizon=self.horizon, **self.law, **risk)
        by_level = {"risk_aversion": g.risk_aversion, "urgency": g.urgency, "kappa": g.kappa}
        by_level |= {"decay_time": g.decay_time, "half_life": g.half_life}
        assert g.holdings is not None
        return {
            **{name: values[:, :, np.newaxis] for name, values in by_level.items()},
            **{"expected_cost": g.expected_cost, "cost_variance": g.cost_variance},
            **{"solve_status": g.status, "remaining": g.holdings},
        }

    def _any(self, **constraints: Any) -> Callable[[dict[str, Any]], _Arrays]:
        """Whatever the law, the profile and the caps are."""

        def solve(risk: dict[str, Any]) -> _Arrays:
            g = solve_grid(
                **self.market, order_sizes=self.sizes, horizon=self.horizon, **self.law, **constraints, **risk
            )
            names = ("risk_aversion", "urgency", "decay_time", "half_life", "expected_cost", "cost_variance")
            kappa = g.urgency / self.horizon[:, np.newaxis, np.newaxis]
            found = {name: getattr(g, name) for name in names}
            return {**found, "kappa": kappa, "solve_status": g.status, "remaining": g.holdings}

        return solve

    def _optimal(self, solve: Callable[[dict[str, Any]], _Arrays]) -> _Arrays:
        """Every risk level of the grid, whether it is given by urgency or by λ."""
        levels = self.grid.risk_levels
        values = np.array([level.value for level in levels])
        multiplier = _column(self.p, "contract_multiplier")[:, np.newaxis]
        solved: _Arrays = {}
        for kind in ("urgency", "lambda"):
            at = np.flatnonzero([level.kind == kind for level in levels])
            if not len(at):
                continue
            if kind == "urgency":
                found = solve({"urgency": values[at]})
                found["risk_aversion"] = found["risk_aversion"] / multiplier[:, :, np.newaxis]
            else:
                # A price move of 1 is worth `multiplier` in currency, so λ in 1/currency is λ·multiplier in 1/price.
                with np.errstate(over="ignore"):  # beyond the range is as good as the largest number: all at once
                    found = solve({"risk_aversion": np.minimum(values[at] * multiplier, np.finfo(float).max)})
                # A λ that was asked for stands as it was; multiplied and divided it could lose a bit.
                found["risk_aversion"] = values[at][np.newaxis, :, np.newaxis]
            if len(at) == len(levels):
                return found
            for name, array in found.items():
                shape = (len(self.p), len(levels), *np.broadcast_shapes(array.shape[2:3], self.sizes.shape[1:]))
                shape += array.shape[3:]
                whole = solved.setdefault(name, np.empty(shape, array.dtype))
                whole[:, at] = array
        return solved

    def _problem(self, profile: dict[str, Any]) -> Problem:
        """Every market and size under a cost profile."""
        market: dict[str, Any] = {name: values[:, np.newaxis, np.newaxis] for name, values in self.market.items()}
        weights: dict[str, Any] = {name: values[:, np.newaxis, np.newaxis, :] for name, values in profile.items()}
        horizon, sizes = self.horizon[:, np.newaxis, np.newaxis], self.sizes[:, np.newaxis, :]
        return market_problem(sizes, 0.0, **market, **weights, **self.law, horizon=horizon, check=False)

    def _fixed(self, problem: Problem, shares: Any, risk_aversion: float, held: Any = None) -> _Arrays:
        """A schedule that no λ decides about."""
        holdings, expected_cost, variance, half_life = fixed_grid(problem, shares, held)
        level = np.full((1, 1, 1), risk_aversion)
        traded = problem.order_size[..., np.newaxis] * shares
        beyond = over = np.zeros((1, 1, 1), dtype=bool)
        if self.grid.impact_law == "power" and self.grid.convention == "paper":
            beyond = (traded > convexity_limit(problem)).any(axis=-1)
        if self.grid.capped:
            over = breaks_cap(traded, self._caps())
        return {
            **{"risk_aversion": level, "urgency": level, "kappa": level, "decay_time": np.full((1, 1, 1), np.nan)},
            **{"half_life": half_life, "expected_cost": expected_cost, "cost_variance": variance},
            **{"solve_status": np.where(beyond, SolveStatus.BEYOND_CONVEXITY, SolveStatus.OK), "over_cap": over},
            "remaining": holdings,
        }

    def _caps(self) -> np.ndarray:
        """What the grid's limits leave each slice, broadcastable to (markets, 1, sizes, slices). [contracts]"""
        return slice_caps(
            self.sizes[:, np.newaxis, :],
            self.grid.n_steps,
            volume=self.volume[:, np.newaxis, np.newaxis],
            volume_profile=self.profile["volume_profile"][:, np.newaxis, np.newaxis, :],
            max_participation=self.grid.max_participation,
            max_slice=self.grid.max_slice,
        )

    # --- what all have -----------------------------------------------------------------------------------------

    def _finish(self, columns: _Arrays, slower: np.ndarray) -> None:
        """Costs in currency and bps, implied prices, status, and what the schedule was made with.

        `slower` is by what a rate counts for more in each slice that the schedule is costed on.
        """
        p, grid = self.p, self.grid

        def of_market(values: np.ndarray) -> np.ndarray:
            return values[:, np.newaxis, np.newaxis]

        price, multiplier = of_market(_column(p, "price")), of_market(_column(p, "contract_multiplier"))
        size = self.sizes[:, np.newaxis, :]
        per_contract = columns["expected_cost"] / size
        columns["buy_price"], columns["sell_price"] = price + per_contract, price - per_contract
        columns["expected_cost"] = columns["expected_cost"] * multiplier
        columns["cost_variance"] = columns["cost_variance"] * multiplier**2
        columns["expected_cost_bps"] = per_contract / price * 1e4
        columns["cost_sd_bps"] = np.sqrt(columns["cost_variance"]) / (size * price * multiplier) * 1e4
        columns["decay_time"] = np.where(np.isfinite(columns["decay_time"]), columns["decay_time"], np.nan)

        ceiling = of_market(np.array([ceiling_of(kind) for kind in p["kind"]]))
        out = leaves_range(price, per_contract, ceiling)
        out = out | leaves_range(
            price, self._dearest(columns["remaining"], slower), ceiling, of_market(_column(p, "tick_size"))
        )
        solved = columns.pop("solve_status")
        # From what harms least to what harms most: a price below nothing is worse than a cap that is broken.
        status = np.full(out.shape, "ok", dtype=object)
        status[np.broadcast_to(solved == SolveStatus.TWAP_ETA_TILDE, out.shape)] = "twap_eta_tilde"
        status[np.broadcast_to(columns.pop("over_cap", False), out.shape)] = "over_cap"
        status[out] = "price_out_of_range"
        # No cap or market is to blame where the search did not end: another status, so that nobody looks for one.
        status[np.broadcast_to(solved == SolveStatus.NOT_CONVERGED, out.shape)] = "not_converged"
        status[np.broadcast_to(solved == SolveStatus.BEYOND_CONVEXITY, out.shape)] = "beyond_convexity"
        refused = np.isin(solved, _REFUSED) | of_market(self.over)
        status[np.broadcast_to(refused, out.shape)] = "infeasible"
        columns["status"] = status
        if self.over.any():
            gone = of_market(self.over)
            for name in _NUMBERS:
                columns[name] = np.where(gone, np.nan, columns[name])
            columns["remaining"] = np.where(gone[..., np.newaxis], np.nan, columns["remaining"])

        columns["order_size"] = size
        columns["horizon"] = of_market(np.where(self.over, 0.0, self.horizon))
        columns["horizon_asked"] = np.array(self.asked)
        columns["alpha"] = of_market(self.alpha)
        eta_tilde = np.full(len(p), np.nan)
        if grid.impact_law == "linear":
            eta_tilde = effective_eta(self.market["eta"], self.market["gamma"], self.tau, grid.convention)
        columns["eta_tilde"] = of_market(np.where(self.over, np.nan, eta_tilde))

    def _dearest(self, remaining: np.ndarray, slower: np.ndarray) -> np.ndarray:
        """What a contract of the dearest slice costs, shape (markets, levels, sizes). [price]"""
        of_slices: dict[str, Any] = {name: self.market[name][:, np.newaxis, np.newaxis, np.newaxis] for name in _PARTS}
        law: dict[str, Any] = {}
        if self.grid.impact_law == "power":
            law = {"alpha": self.alpha, "reference_rate": self.market["reference_rate"]}
            law = {name: values[:, np.newaxis, np.newaxis, np.newaxis] for name, values in law.items()}
        traded = -np.diff(remaining, axis=-1)
        cost = slice_costs(
            traded,
            tau=self.tau[:, np.newaxis, np.newaxis, np.newaxis],
            midprice=self.grid.convention == "midprice",
            slower=slower.reshape(-1, 1, 1, self.grid.n_steps),
            **of_slices,
            **law,
        )
        return np.asarray(np.where(traded > 0, cost, -np.inf).max(axis=-1))


_PARTS = ("eta", "gamma", "epsilon")

_NUMBERS = (
    "risk_aversion",
    "urgency",
    "kappa",
    "decay_time",
    "half_life",
    "expected_cost",
    "cost_variance",
    "expected_cost_bps",
    "cost_sd_bps",
    "buy_price",
    "sell_price",
)
"""What there is no number for where nothing is left of the horizon."""


class _Frame:
    """The rows of all markets, filled in part by part: one array a column, the schedules one block of memory."""

    def __init__(self, n_markets: int, grid: Grid):
        self.grid, self.n_markets = grid, n_markets
        n_levels = len(grid.risk_levels)
        optimal = (CAPPED,) if grid.capped else (ALMGREN_CHRISS, VOLUME_TIME)
        self.levels = dict.fromkeys(optimal, n_levels) | dict.fromkeys((MARKET_ORDER, TWAP, VWAP), 1)
        points = len(grid.order_sizes_pct_adv) * len(grid.horizons)
        self.per_market = points * sum(self.levels.values())
        self.columns: _Arrays = {}
        self.remaining = np.empty((n_markets, self.per_market, grid.n_steps + 1))

    def fill(self, part: slice, horizon_ix: int, solved: list[tuple[str, _Arrays]]) -> None:
        """Put one horizon's strategies of some markets where they belong: by size, risk level and horizon."""
        n_sizes, n_horizons, first = len(self.grid.order_sizes_pct_adv), len(self.grid.horizons), 0
        m = part.stop - part.start
        for strategy, columns in solved:
            shape = (m, self.levels[strategy], n_sizes)
            last = first + shape[1] * shape[2] * n_horizons
            place = (part, slice(first + horizon_ix, last, n_horizons))
            for name, values in columns.items():
                if name == "remaining":
                    values = np.broadcast_to(values, (*shape, values.shape[-1]))
                    self.remaining[place] = values.swapaxes(1, 2).reshape(m, -1, values.shape[-1])
                    continue
                if name not in self.columns:
                    self.columns[name] = np.empty((self.n_markets, self.per_market), values.dtype)
                self.columns[name][place] = np.broadcast_to(values, shape).swapaxes(1, 2).reshape(m, -1)
            first = last

    def as_frame(self, p: pd.DataFrame) -> pd.DataFrame:
        """The columns of the table, in its order."""
        grid, m = self.grid, self.n_markets
        columns: dict[str, Any] = {name: values.ravel() for name, values in self.columns.items()}
        if not m:
            texts = ("status", "cost_profile")
            columns = dict.fromkeys(schema.TRAJECTORIES.names, np.zeros(0)) | dict.fromkeys(texts, np.zeros(0, object))
        for name in ("market_id", "token_id", "calendar", "day_hours"):
            columns[name] = np.repeat(p[name].to_numpy(), self.per_market)
        sizes = np.array(grid.order_sizes_pct_adv) / 100.0
        labels = [
            (strategy, size_ix, risk_ix, horizon_ix)
            for strategy, n_levels in sorted(self.levels.items())
            for size_ix in range(len(sizes))
            for risk_ix in ([NO_RISK_LEVEL] if strategy in (MARKET_ORDER, TWAP, VWAP) else range(n_levels))
            for horizon_ix in range(len(grid.horizons))
        ]
        strategy, size_ix, risk_ix, horizon_ix = zip(*labels, strict=True)
        columns["strategy"] = np.tile(np.array(strategy, dtype=object), m)
        for name, ix in (("size_ix", size_ix), ("risk_ix", risk_ix), ("horizon_ix", horizon_ix)):
            columns[name] = np.tile(np.array(ix, dtype=np.int32), m)
        columns["adv_fraction"] = np.tile(sizes[list(size_ix)], m)
        columns["n_steps"] = np.full(m * self.per_market, grid.n_steps, dtype=np.int32)
        columns["permanent"] = np.full(m * self.per_market, grid.convention, dtype=object)
        columns["impact_law"] = np.full(m * self.per_market, grid.impact_law, dtype=object)
        columns["remaining"] = _as_lists(self.remaining.reshape(m * self.per_market, grid.n_steps + 1))
        names = [name for name in schema.TRAJECTORIES.names if name not in ("as_of", "run_id")]
        return pd.DataFrame({name: columns[name] for name in names})


def _as_lists(block: np.ndarray) -> pd.api.extensions.ExtensionArray:
    """Rows of a block as a column of lists over the same memory; null where a row is NaN."""
    offsets = pa.array(np.arange(len(block) + 1, dtype=np.int32) * block.shape[1], pa.int32())
    missing = np.isnan(block[:, 0])
    mask = pa.array(missing) if missing.any() else None
    lists = pa.ListArray.from_arrays(offsets, pa.array(block.ravel()), mask=mask)
    return pd.arrays.ArrowExtensionArray(lists)


def _column(p: pd.DataFrame, name: str) -> np.ndarray:
    """A column as floats; NaN throughout where the frame, made by an older version, has none."""
    if name not in p.columns:
        return np.full(len(p), np.nan)
    return p[name].to_numpy(dtype=float, na_value=np.nan)


def _until_resolution(p: pd.DataFrame, asked: float, as_of: date, buffer_minutes: float) -> np.ndarray:
    """The horizon, less what lies later than the buffer before a market's resolution; 0 where nothing is left. [day]"""
    resolution = pd.to_datetime(p["resolution_time"], utc=True).dt.tz_localize(None)
    end = (resolution - pd.Timedelta(minutes=buffer_minutes)).to_numpy(dtype="datetime64[us]")
    horizon = np.full(len(p), asked)
    for code in set(p["calendar"]):
        mine = (p["calendar"] == code).to_numpy() & ~np.isnat(end)
        if mine.any():
            horizon[mine] = np.minimum(asked, trading_calendar(code).horizon_until(as_of, end[mine], asked))
    return horizon


def _weights(p: pd.DataFrame, name: str, as_of: date, horizon: np.ndarray, n_steps: int) -> np.ndarray:
    """`slice_weights` of the markets' profiles, by weekday where those are used; NaN where there is none."""
    weights = np.full((len(p), n_steps), np.nan)
    (hours, has), (week, weekly) = _shares(p, name, 24), _shares(p, f"{name}_week", 168)
    for code in set(p["calendar"]):
        mine = has & (p["calendar"] == code).to_numpy()
        for by_weekday in (False, True):
            chosen = mine & (weekly == by_weekday)
            if chosen.any():
                of = with_weekdays(hours[chosen], week[chosen]) if by_weekday else hours[chosen]
                weights[chosen] = slice_weights(code, as_of, of, horizon[chosen], n_steps)
    return weights


def _shares(p: pd.DataFrame, name: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A column of profiles, shape (markets, width), and which markets have one of that width."""
    shares = np.zeros((len(p), width))
    if name not in p.columns:
        return shares, np.zeros(len(p), dtype=bool)
    profiles = pa.array(p[name], pa.list_(pa.float64()), from_pandas=True)
    has = pc.equal(pc.list_value_length(profiles), width).fill_null(False).to_numpy(zero_copy_only=False)
    shares[has] = profiles.filter(pa.array(has)).flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return shares, has & (np.isfinite(shares) & (shares >= 0)).all(axis=1)
