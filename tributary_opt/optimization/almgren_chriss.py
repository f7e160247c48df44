"""Almgren-Chriss for one order: parameters by rule, the optimal schedule, what it costs and what it risks.

For thousands of markets at once take `tributary_opt.optimization.closed_form`; both run the same kernel.
"""

from __future__ import annotations

import math
from typing import Any

from tributary_opt.optimization.arguments import Permanent, Side, _aversion, _number
from tributary_opt.optimization.closed_form import SolveStatus, effective_eta
from tributary_opt.optimization.problem import ImpactLaw
from tributary_opt.optimization.rule import rule_parameters
from tributary_opt.optimization.solver import solve
from tributary_opt.optimization.trajectory import (
    AlmgrenChrissParams,
    ExecutionTrajectory,
    _eta_tilde_warning,
    _Order,
    _Shape,
    implied_average_price,
)

__all__ = [
    "AlmgrenChrissParams",
    "ExecutionTrajectory",
    "calibrate_ac_params",
    "generate_ac_trajectory",
    "implied_average_price",
]


def calibrate_ac_params(
    daily_volume: float,
    daily_spread: float,
    daily_volatility: float,
    price: float,
    alpha: float = 0.5,
    tau: float = 1.0,
    source_calibration: Any = None,
) -> AlmgrenChrissParams:
    """Parameters of one market by the 1 % / 10 % rule: η = spread/(0.01 V), γ = spread/(0.10 V), ε = spread/2.

    One row of `rule_parameters`, with words for what is wrong.

    Parameters
    ----------
    daily_volume : float
        V > 0. [contracts/day]
    daily_spread : float
        Bid-ask spread >= 0, in units of the price. [currency/contract]
    daily_volatility : float
        Standard deviation of the relative price change over a day, >= 0; σ is this times `price`. [1/√day]
    price : float
        Arrival price > 0. [currency/contract]
    alpha : float
        Exponent of the power law, kept for it: 0 < α <= 1. [-]
    tau : float
        Length of one step > 0. [day]
    source_calibration : object
        Kept as given.

    Returns
    -------
    AlmgrenChrissParams
        A bad value gives NaN and a warning that names argument, rule, value and way out.

    Raises
    ------
    TypeError
        For an argument that is no number.

    References
    ----------
    Almgren & Chriss (2001), "Optimal execution of portfolio transactions", J. Risk 3(2), section 3.4.
    """
    volume, spread = _number("daily_volume", daily_volume), _number("daily_spread", daily_spread)
    volatility, price = _number("daily_volatility", daily_volatility), _number("price", price)
    alpha, tau = _number("alpha", alpha), _number("tau", tau)
    warnings = []
    if not (math.isfinite(volume) and volume > 0):
        warnings.append(f"daily_volume must be finite and > 0, got {volume:g}: use a window with trades in it")
    if not (math.isfinite(spread) and spread >= 0):
        warnings.append(f"daily_spread must be finite and >= 0, got {spread:g}: use a window with two-sided books")
    if not (math.isfinite(volatility) and volatility >= 0):
        warnings.append(f"daily_volatility must be finite and >= 0, got {volatility:g}: use a window with prices in it")
    if not (math.isfinite(price) and price > 0):
        warnings.append(f"price must be finite and > 0, got {price:g}: give the arrival price")
    rule = rule_parameters(volume, spread, volatility, price)
    if not (warnings or rule.valid):
        warnings.append(
            f"eta = spread/(0.01 V) and the like must lie in the double range, got {spread=:g}, {volume=:g}, "
            f"{price=:g}: use a larger contract or currency unit"
        )
    if not 0 < alpha <= 1:
        warnings.append(f"alpha must be > 0 and <= 1, got {alpha:g}: 0.5 is the square-root law")
        alpha = math.nan
    if not (math.isfinite(tau) and tau > 0):
        warnings.append(f"tau must be finite and > 0, got {tau:g}: give the length of one step in days")
        tau = math.nan
    elif rule.valid and spread == 0:
        warnings.append(
            "daily_spread is 0, so eta, gamma and epsilon are 0: the only schedule is TWAP, and its cost is unknown "
            "rather than nothing; use a time-weighted spread"
        )
    elif rule.valid:
        eta_tilde = float(effective_eta(rule.eta, rule.gamma, tau))
        if eta_tilde <= 0:
            warnings.append(_eta_tilde_warning(float(rule.eta), eta_tilde, tau))
    return AlmgrenChrissParams(
        eta=float(rule.eta),
        gamma=float(rule.gamma),
        sigma=float(rule.sigma),
        alpha=alpha,
        tau=tau,
        source_calibration=source_calibration,
        warnings=tuple(warnings),
        epsilon=float(rule.epsilon),
        price=price if math.isfinite(price) and price > 0 else math.nan,
        reference_rate=float(rule.reference_rate),
    )


def generate_ac_trajectory(
    order_size: float,
    duration_periods: int,
    params: AlmgrenChrissParams,
    risk_aversion: float = 1e-6,
    *,
    impact_law: ImpactLaw = "linear",
    permanent: Permanent | None = None,
    side: Side = "sell",
) -> ExecutionTrajectory:
    """Schedule that minimises expected cost plus λ times its variance.

    x_j = X sinh(κ(T - t_j)) / sinh(κT) with κ = (2/τ) asinh(√(λσ²/η̃) τ/2), η̃ = η - γτ/2 and T = `duration_periods`·τ
    (eqs. 16-18); E = γX²/2 + εX + (η̃/τ) Σ n_j² (eq. 8) and V = σ²τ Σ x_j² over what is held after each slice (eq. 5).

    Parameters
    ----------
    order_size : float
        X > 0, whichever the side. [contracts]
    duration_periods : int
        Number of steps N >= 1, each of `params.tau` days. [-]
    params : AlmgrenChrissParams
    risk_aversion : float
        λ >= 0; 0 gives TWAP. It has a unit: what is large for one market is nothing for another. [1/currency]
    impact_law : "linear" | "power"
        Power: h(v) = ε + η v_ref (v/v_ref)^α with α = ``params.alpha`` from 0.3 to 1 and v_ref =
        ``params.reference_rate``; the optimality conditions are solved exactly (`solver`). ``urgency`` is then T over
        Almgren's (2003) T* = (α η X^(α-1)/(λσ²))^(1/(α+1)), ``decay_time`` is T*.
    permanent : "paper" | "midprice"
        Whether a trade pays nothing or half of its own permanent move; default "paper" for the linear law, "midprice"
        for the power law, which under "paper" is convex only up to a slice n*: an order above it is refused.
    side : "sell" | "buy"
        Costs are the same; the implied price is not.

    Returns
    -------
    ExecutionTrajectory
        ``holdings`` starts at X and ends at 0 exactly and never rises; ``trade_sizes`` are >= 0 and add up to X within
        4 units of rounding. A bad value gives NaN and a warning; η̃ <= 0 gives TWAP and a warning, costed with the true
        η and γ.

    Raises
    ------
    TypeError
        For an argument of the wrong type.
    ValueError
        For an unknown `impact_law`, `permanent` or `side`.

    References
    ----------
    Almgren & Chriss (2001), "Optimal execution of portfolio transactions", J. Risk 3(2).
    """
    if params is None:
        raise TypeError("params must be AlmgrenChrissParams, got None")
    order = _Order.checked("almgren_chriss", order_size, duration_periods, params, permanent, side, impact_law)
    lam, faults = _aversion("risk_aversion", risk_aversion)
    if faults or order.faults:
        return order.refused(lam, faults)

    if impact_law == "power" and params.alpha != 1.0:
        problem = order.problem(lam)
        return order.solved(problem, solve(problem), risk_aversion=lam)
    if order.eta_tilde <= 0:
        return order.scheduled(
            _Shape.optimal(0.0, order.n_steps),
            risk_aversion=lam,
            step_decay=0.0,
            status=SolveStatus.TWAP_ETA_TILDE,
            warnings=[_eta_tilde_warning(params.eta, order.eta_tilde, params.tau)],
        )
    step_decay = order.step_decay(lam)
    return order.scheduled(_Shape.optimal(step_decay, order.n_steps), risk_aversion=lam, step_decay=step_decay)
