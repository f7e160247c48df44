"""Schedules for every market: parameters × order sizes × risk levels × horizons, with cost and risk.

Beside Almgren-Chriss stand two baselines under the same cost law: TWAP, and a market order (one slice of the same
length).
"""

from __future__ import annotations

import math
from datetime import date

import numpy as np
import pandas as pd

from tributary_opt import schema
from tributary_opt.market_data.calendars import trading_calendar
from tributary_opt.optimization.closed_form import SolveStatus, effective_eta, half_life, solve_linear_grid
from tributary_opt.settings import Grid

ALMGREN_CHRISS, TWAP, MARKET_ORDER = "almgren_chriss", "twap", "market_order"
NO_RISK_LEVEL = -1


def precompute(parameters: pd.DataFrame, grid: Grid, as_of: date) -> pd.DataFrame:
    """Schedules of every market that has parameters.

    Parameters
    ----------
    parameters : DataFrame
        Rows of `ac_parameters`; refused ones get no schedules.
    grid : Grid
    as_of : date
        A schedule is meant to begin with the market's first session after it: one that would run past the market's
        resolution is `infeasible`.

    Returns
    -------
    DataFrame
        The columns of `ac_trajectories` less as_of and run_id, sorted by market, token, strategy, risk_ix, size_ix and
        horizon_ix. A market's rows do not depend on the other markets, to the last bit.
    """
    usable = parameters[parameters["status"] == "ok"].sort_values(["market_id", "token_id"], kind="stable")
    usable = usable.reset_index(drop=True)
    blocks = [_horizon(usable, grid, i, as_of) for i in range(len(grid.horizons))]
    return _interleave(usable, blocks, grid)


class _Block:
    """One strategy over one horizon: arrays of shape (markets, risk levels, sizes)."""

    def __init__(self, strategy: str, horizon_ix: int, risk_ix: np.ndarray, columns: dict[str, np.ndarray]):
        self.strategy, self.horizon_ix, self.risk_ix, self.columns = strategy, horizon_ix, risk_ix, columns


def _horizon(p: pd.DataFrame, grid: Grid, horizon_ix: int, as_of: date) -> list[_Block]:
    horizon, n_steps = grid.horizons[horizon_ix], grid.n_steps
    tau = horizon / n_steps
    eta, gamma, sigma, epsilon = (p[name].to_numpy(dtype=float) for name in ("eta", "gamma", "sigma", "epsilon"))
    multiplier = p["contract_multiplier"].to_numpy(dtype=float)
    sizes = p["adv"].to_numpy(dtype=float)[:, None] * (np.array(grid.order_sizes_pct_adv) / 100.0)
    common = {"horizon": horizon, "n_steps": n_steps, "permanent": grid.permanent}
    late = _runs_past_resolution(p, as_of, horizon)

    def solve(at: np.ndarray, **risk: np.ndarray) -> dict[str, np.ndarray]:
        g = solve_linear_grid(eta, gamma, sigma, epsilon, sizes, **common, **risk)  # type: ignore[arg-type]
        shape = g.expected_cost.shape
        # A λ that was asked for stands as it was; multiplied and divided it could lose a bit.
        lam = values[at] if "risk_aversion" in risk else g.risk_aversion / multiplier[:, None]
        by_level = {"risk_aversion": np.broadcast_to(lam, g.kappa.shape), "urgency": g.urgency, "kappa": g.kappa}
        by_level |= {"decay_time": np.where(g.kappa > 0, g.decay_time, np.nan), "half_life": g.half_life}
        return {
            **{name: np.broadcast_to(values[:, :, None], shape) for name, values in by_level.items()},
            "expected_cost": g.expected_cost,
            "cost_variance": g.cost_variance,
            "eta_tilde": np.broadcast_to(g.eta_tilde[:, None, None], shape),
            "twap_eta_tilde": g.status == SolveStatus.TWAP_ETA_TILDE,
            "no_such_level": g.status == SolveStatus.RISK_AVERSION_OUT_OF_RANGE,
            "remaining": g.holdings if g.holdings is not None else np.empty((*shape, n_steps + 1)),
        }

    levels = [level.kind for level in grid.risk_levels]
    values = np.array([level.value for level in grid.risk_levels])
    solved: dict[str, np.ndarray] = {}
    for kind in ("urgency", "lambda"):
        at = np.flatnonzero([level == kind for level in levels])
        if len(at):
            # A price move of 1 is worth `multiplier` in currency, so λ in 1/currency is λ·multiplier in 1/price.
            with np.errstate(over="ignore"):  # beyond the range is as good as the largest number: all at once
                in_price = np.minimum(values[at] * multiplier[:, None], np.finfo(float).max)
            risk = {"urgency": values[at]} if kind == "urgency" else {"risk_aversion": in_price}
            for name, array in solve(at, **risk).items():
                whole = solved.setdefault(name, np.empty((array.shape[0], len(levels), *array.shape[2:]), array.dtype))
                whole[:, at] = array
    twap = solve(np.zeros(0, dtype=int), urgency=np.zeros(1))
    twap["twap_eta_tilde"] = np.zeros_like(twap["twap_eta_tilde"])  # TWAP was asked for
    twap["risk_aversion"] = np.zeros_like(twap["risk_aversion"])
    at_once = _market_order(p, sizes, tau, n_steps, grid)

    blocks = []
    for strategy, risk_ix, columns in (
        (ALMGREN_CHRISS, np.arange(len(levels)), solved),
        (MARKET_ORDER, np.array([NO_RISK_LEVEL]), at_once),
        (TWAP, np.array([NO_RISK_LEVEL]), twap),
    ):
        columns["order_size"] = np.broadcast_to(sizes[:, None, :], columns["expected_cost"].shape)
        _price(columns, p, late)
        blocks.append(_Block(strategy, horizon_ix, risk_ix, columns))
    return blocks


def _market_order(p: pd.DataFrame, sizes: np.ndarray, tau: float, n_steps: int, grid: Grid) -> dict[str, np.ndarray]:
    """Everything in the first slice: A-C (2001) eq. 13, E = εX + ηX²/τ and V = 0; midprice adds γX²/2."""
    eta, gamma, epsilon = (p[name].to_numpy(dtype=float)[:, None] for name in ("eta", "gamma", "epsilon"))
    permanent = gamma * sizes**2 / 2 if grid.permanent == "midprice" else 0.0
    shape = (len(p), 1, sizes.shape[1])
    remaining = np.zeros((*shape, n_steps + 1))
    remaining[..., 0] = sizes[:, None, :]
    unknown = np.full(shape, np.nan)
    path = np.zeros(n_steps + 1)
    path[0] = 1.0
    return {
        "risk_aversion": unknown,
        "urgency": unknown,
        "kappa": unknown,
        "decay_time": unknown,
        "half_life": np.full(shape, float(half_life(path, tau))),
        "expected_cost": (epsilon * sizes + eta * sizes**2 / tau + permanent)[:, None, :],
        "cost_variance": np.zeros(shape),
        "eta_tilde": np.broadcast_to(effective_eta(eta, gamma, tau, grid.permanent)[:, None, :], shape),
        "twap_eta_tilde": np.zeros(shape, dtype=bool),
        "no_such_level": np.zeros(shape, dtype=bool),
        "remaining": remaining,
    }


def _price(columns: dict[str, np.ndarray], p: pd.DataFrame, late: np.ndarray) -> None:
    """Costs in currency and bps, implied prices, status."""

    def of_market(name: str) -> np.ndarray:
        return p[name].to_numpy(dtype=float)[:, None, None]

    price, multiplier, size = of_market("price"), of_market("contract_multiplier"), columns["order_size"]
    per_contract = columns["expected_cost"] / size
    columns["buy_price"], columns["sell_price"] = price + per_contract, price - per_contract
    columns["expected_cost"] = columns["expected_cost"] * multiplier
    columns["cost_variance"] = columns["cost_variance"] * multiplier**2
    columns["expected_cost_bps"] = per_contract / price * 1e4
    columns["cost_sd_bps"] = np.sqrt(columns["cost_variance"]) / (size * price * multiplier) * 1e4
    ceiling = np.where((p["kind"] == "probability").to_numpy()[:, None, None], 1.0, np.inf)
    inside = (columns["sell_price"] > 0) & (columns["buy_price"] < ceiling)  # false for NaN too
    status = np.where(columns.pop("twap_eta_tilde"), "twap_eta_tilde", "ok").astype(object)
    status[~inside] = "price_out_of_range"
    # An urgency that no λ in the double range gives has none to store.
    status[late[:, None, None] | columns.pop("no_such_level")] = "infeasible"
    columns["status"] = status


def _runs_past_resolution(p: pd.DataFrame, as_of: date, horizon: float) -> np.ndarray:
    resolution = p["resolution_time"]
    end = p["calendar"].map({code: trading_calendar(code).instant_after(as_of, horizon) for code in set(p["calendar"])})
    return (resolution.notna() & (resolution < pd.to_datetime(end, utc=True))).to_numpy(dtype=bool)


def _interleave(p: pd.DataFrame, blocks: list[list[_Block]], grid: Grid) -> pd.DataFrame:
    """All blocks as one frame, each market's rows together."""
    n_sizes, n_points = len(grid.order_sizes_pct_adv), grid.n_steps + 1
    by_strategy = list(zip(*blocks, strict=True))  # strategy → its blocks, one a horizon
    per_market = sum(len(of[0].risk_ix) * n_sizes * len(of) for of in by_strategy)
    m = len(p)

    columns: dict[str, object] = {}
    for name in ("market_id", "token_id", "calendar", "day_hours"):
        columns[name] = np.repeat(p[name].to_numpy(), per_market)

    def gather(pick: object) -> np.ndarray:
        # (markets, risk, size, horizon, …) of each strategy, then the strategies after one another
        parts = [np.stack([pick(b) for b in of], axis=3) for of in by_strategy]  # type: ignore[operator]
        return np.concatenate([part.reshape(m, math.prod(part.shape[1:4]), *part.shape[4:]) for part in parts], axis=1)

    def labelled(values: list[np.ndarray]) -> np.ndarray:
        return np.tile(np.concatenate([v.ravel() for v in values]), m)

    def over(of: tuple[_Block, ...], values: np.ndarray, axis: int) -> np.ndarray:
        shape = (len(of[0].risk_ix), n_sizes, len(of))
        expanded = values.reshape([-1 if i == axis else 1 for i in range(3)])
        return np.broadcast_to(expanded, shape)

    columns["strategy"] = labelled([over(of, np.array([of[0].strategy], dtype=object), 0) for of in by_strategy])
    columns["risk_ix"] = labelled([over(of, of[0].risk_ix, 0) for of in by_strategy]).astype(np.int32)
    columns["size_ix"] = labelled([over(of, np.arange(n_sizes), 1) for of in by_strategy]).astype(np.int32)
    columns["adv_fraction"] = labelled([over(of, np.array(grid.order_sizes_pct_adv) / 100.0, 1) for of in by_strategy])
    columns["horizon_ix"] = labelled([over(of, np.arange(len(of)), 2) for of in by_strategy]).astype(np.int32)
    columns["horizon"] = labelled([over(of, np.array(grid.horizons), 2) for of in by_strategy])
    columns["n_steps"] = np.full(m * per_market, grid.n_steps, dtype=np.int32)
    columns["permanent"] = grid.permanent
    columns["impact_law"] = "linear"
    for name in _SOLVED:
        columns[name] = gather(lambda b, name=name: b.columns[name]).ravel()
    remaining = gather(lambda b: b.columns["remaining"]).reshape(m * per_market, n_points)
    columns["remaining"] = list(remaining)
    names = [name for name in schema.TRAJECTORIES.names if name not in ("as_of", "run_id")]
    return pd.DataFrame(columns)[names]


_SOLVED = (
    "status",
    "order_size",
    "risk_aversion",
    "urgency",
    "kappa",
    "decay_time",
    "half_life",
    "eta_tilde",
    "expected_cost",
    "cost_variance",
    "expected_cost_bps",
    "cost_sd_bps",
    "buy_price",
    "sell_price",
)
