"""From evidence to parameters: three methods side by side, what they cost, how sure they are, and a grade.

    law   η v = b σ (v/V)^β at the reference rate v, γ = g σ/V: the literature's law, moved by the market's response
    tape  η from the direct cost of the aggressors in the bucket nearest to a slice, γ from the response of the mid
    rule  η = spread / (1 % of V), γ = spread / (10 % of V)

All three are computed for every market; the chosen one is published, the law where the tape was chosen and tells no
number. Neither η nor γ is ever clamped.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tributary_opt import schema
from tributary_opt.calibration.grades import grade
from tributary_opt.calibration.impact_evidence import ImpactEvidence
from tributary_opt.calibration.least_squares import t_quantile
from tributary_opt.calibration.own_executions import orders_of
from tributary_opt.calibration.pooling import Posterior, fit_pool, posterior
from tributary_opt.calibration.priors import law
from tributary_opt.calibration.refusals import refusals, text
from tributary_opt.calibration.sides import DOUBTFUL, Corrected, Sides, believed
from tributary_opt.optimization.rule import rule_parameters
from tributary_opt.settings import CalibrationRules

FloatArray = NDArray[np.float64]

OK, REFUSED = "ok", "refused"
METHODS = ("law", "tape", "rule")

ORDER_FRACTION = 0.01
"""The reference order: 1 % of ADV over one trading day. [day]"""

SIGMA_DOF = 30.0
"""Of Student's t, for the logarithm of σ: its error is that of a posterior, which is not estimated once more; a little
wider than normal, for moves with fat tails. [-]"""

DAY_LOG_SD = 0.4
"""How far a day lies from its neighbours where too few of them say: within 30 days log volume scatters by 0.30 to 0.39
(medians of eight US stocks, 1998 to 2021) or 0.2 to 0.4 (Bitcoin, Litecoin), the log spread by 0.17 and 0.21 (BAC,
AIG), 0.08 (Litecoin) and 0.50 (median of 171 prediction markets). [-]"""

SURE_DAYS = 8
"""From so many days on how they scatter is their own; of fewer, n, it is so to (n - 1)/(SURE_DAYS - 1). [day]"""

_SQUARE_ROOT = 2.0 / 3.0
"""Average over an order of a square-root move with prefactor 1. [-]"""


@dataclass(frozen=True)
class Measured:
    """What was seen of some markets in a window, before any of it is judged; one row a market throughout."""

    statistics: pd.DataFrame  #: as `market_data.statistics.window_statistics` gives it
    reference: pd.DataFrame  #: `ReferenceData.of` the same rows
    session_end: pd.Series  #: end of each market's last trading day
    impact: ImpactEvidence

    def __len__(self) -> int:
        return len(self.statistics)


def together(parts: list[Measured]) -> Measured:
    """The markets of several chunks as one."""
    if len(parts) == 1:
        return parts[0]
    return Measured(
        pd.concat([p.statistics for p in parts], ignore_index=True),
        pd.concat([p.reference for p in parts], ignore_index=True),
        pd.concat([p.session_end for p in parts], ignore_index=True),
        _joined([p.impact for p in parts]),
    )


def _joined(parts: list[ImpactEvidence]) -> ImpactEvidence:
    arrays: dict[str, Any] = {
        f.name: np.concatenate([getattr(p, f.name) for p in parts])
        for f in fields(ImpactEvidence)
        if f.name != "buckets"
    }
    return replace(parts[0], **arrays)


def calibrate(
    measured: Measured, rules: CalibrationRules, *, slice_days: float = 1 / 48, executions: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Parameters of every market, or why it has none.

    Parameters
    ----------
    measured : Measured
        Every market of the window: a row depends on its peers, through the pool, and on nothing else.
    rules : CalibrationRules
    slice_days : float
        τ of the schedules to come; the tape's direct cost is taken from the bucket length nearest to it. [trading day]
    executions : DataFrame, optional
        Own parent orders, as `own_executions.checked` wants them.

    Returns
    -------
    DataFrame
        The columns of `ac_parameters` less as_of and run_id, one row for each market. A refused row has a reason of
        `schema.PARAMETER_REASONS` and no eta, gamma, epsilon. Drift is not in it yet.
    """
    statistics, reference = measured.statistics, measured.reference
    out = statistics.drop(columns=[c for c in statistics.columns if c not in schema.PARAMETERS.names])
    for name in _FROM_REFERENCE:
        out[name] = reference[name].to_numpy() if name != "resolution_time" else reference[name].array
    reasons = refusals(statistics, reference, rules, measured.session_end)
    sound = reasons.reason == ""

    peers = _Peers(out, sound, rules.pool_min_markets)
    sigma = peers.sigma(out)
    no_sigma = ~(np.isfinite(sigma.value) & (sigma.value > 0))
    days_quoted, days_traded = statistics["n_days_quoted"], statistics["n_days_traded"]
    still = "no move of mids, nor of trades behind their bounce, in "
    seen = text(still, days_quoted, " days with a book, ", days_traded, " traded")
    reasons.note("no_volatility", no_sigma, seen)
    adv, price, spread = (out[name].to_numpy(dtype=float) for name in ("adv", "price", "spread"))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        rule = rule_parameters(adv, spread, sigma.value / price, price)
        # Of p (1 - p) on prediction venues, the same for both tokens; else of the notional.
        per_contract = np.where(out["fee_kind"] == "probability", _outcome_variance(price), price)
        fee = out["taker_fee"].to_numpy() * per_contract
        epsilon = rule.epsilon + fee
        unit = sigma.value / adv
    usable = rule.valid & np.isfinite(epsilon) & np.isfinite(unit) & (unit > 0)
    beyond = text("spread ", out["spread"], " and volume ", out["adv"], " give impact beyond any number")
    reasons.note("bad_source_rows", ~usable, beyond)
    ok = reasons.reason == ""

    # Refused markets are computed with ones, and forgotten.
    unit, v, sd = (np.where(ok, array, 1.0) for array in (unit, adv, sigma.value))
    eps = np.where(ok, epsilon, 1.0)
    stated = None if rules.sign_accuracy == "measured" else rules.sign_accuracy
    sides = believed(
        statistics, out["kind"].to_numpy(dtype=object), peers.first_of_pair, stated, min_markets=rules.pool_min_markets
    )
    responses = {length: _response(measured, length, unit, sides) for length in schema.IMPACT_BUCKETS}
    response = responses[rules.response_minutes]
    felt, center = peers.pooled(response.estimate, response.se, response.dof, ok)
    direct, minutes = _direct(measured, unit, slice_days * out["day_hours"].to_numpy(dtype=float) * 60.0, sides)
    paid, _ = peers.pooled(direct.estimate, direct.se, direct.dof, ok)

    known = np.isfinite(felt.log_mean) & np.isfinite(center)
    relative = np.where(known, felt.log_mean - center, 0.0)
    relative_sd = np.where(known, felt.log_sd, 0.0)
    # An order in a refused market says something where it brings its own units; ones are none.
    volume, volatility, half_spread = (np.where(ok, array, np.nan) for array in (adv, sigma.value, rule.epsilon))
    place = _series(out, ok)
    orders = orders_of(executions, out["market_id"], out["token_id"], volume, volatility, half_spread, place)
    cost = law(rules.law, relative, relative_sd, orders).at(place)
    rate = rules.reference_rate_pct / 100.0
    temporary, temporary_sd = cost.temporary(rate)
    permanent, permanent_sd = cost.permanent()

    eta = {"law": temporary * unit / rate, "tape": paid.value * unit, "rule": rule.eta}
    gamma = {"law": permanent * unit, "tape": felt.value * unit, "rule": rule.gamma}
    # What the tape leaves open, against which a night's change is measured; and all that is open, for the interval.
    s_sigma = sigma.log_sd
    days = out["n_days_spread"].to_numpy(dtype=float)
    days = np.where(np.isfinite(days), days, days_quoted)  # statistics not made from market days may not say
    s_adv = _log_error(_relative(out["adv_se"], adv, out["n_days"].to_numpy(dtype=float)))
    spread_error = _relative(out["spread_se"], spread, days)
    s_spread = _log_error(spread_error)
    units = np.hypot(s_sigma, s_adv)
    rule_sd = np.hypot(s_spread, s_adv)
    follows = rules.law.temporary_follows, rules.law.permanent_follows
    noise = {
        "law": (np.hypot(units, follows[0] * relative_sd), np.hypot(units, follows[1] * relative_sd)),
        "tape": (paid.log_sd, felt.log_sd),
        "rule": (rule_sd, rule_sd),
    }
    open_ = {
        "law": (np.hypot(units, temporary_sd), np.hypot(units, permanent_sd)),
        "tape": (paid.log_sd, felt.log_sd),
        "rule": (rule_sd, rule_sd),
    }
    ends = {m: [_around(of[m], sd) for of, sd in zip((eta, gamma), open_[m], strict=True)] for m in ("law", "rule")}
    ends["tape"] = [(of.low * unit, of.high * unit) for of in (paid, felt)]
    method = rules.method
    untold = ok & ~(np.isfinite(eta[method]) & np.isfinite(gamma[method]))  # only a tape can be silent

    def of_method(law: FloatArray, chosen: FloatArray) -> FloatArray:
        return np.where(untold, law, chosen)

    def shown(values: FloatArray) -> FloatArray:
        return np.where(ok, values, np.nan)

    half_order = 0.5 * ORDER_FRACTION * v
    costs = {m: eps + gamma[m] * half_order + eta[m] * ORDER_FRACTION * v for m in METHODS}
    costs["square_root"] = eps + _SQUARE_ROOT * sd * np.sqrt(ORDER_FRACTION)
    costs["law"] = eps + gamma["law"] * half_order + cost.temporary(ORDER_FRACTION)[0] * sd
    for name, per_contract in costs.items():
        out[f"cost_{name}_bps"] = shown(per_contract / np.where(ok, price, 1.0) * 1e4)
    at_once = out["walk_cost"].to_numpy(dtype=float) + np.where(ok, fee, np.nan)
    out["cost_walk_bps"] = at_once / np.where(ok, price, 1.0) * 1e4
    stacked = np.stack([shown(c) for c in costs.values()])
    with np.errstate(invalid="ignore"):
        out["model_risk"] = np.fmax.reduce(stacked) / np.fmin.reduce(stacked)

    for m in METHODS:
        out[f"eta_{m}"], out[f"gamma_{m}"] = shown(eta[m]), shown(gamma[m])
    for name, values, which in (("eta", eta, 0), ("gamma", gamma, 1)):
        value = of_method(values["law"], values[method])
        out[name] = shown(value)
        out[f"{name}_se"] = shown(value * of_method(noise["law"][which], noise[method][which]))
        for end, of_law, chosen in zip(("low", "high"), ends["law"][which], ends[method][which], strict=True):
            out[f"{name}_{end}"] = shown(of_method(of_law, chosen))
    out["epsilon"] = shown(epsilon)
    out["epsilon_se"] = shown(rule.epsilon * spread_error)
    with np.errstate(divide="ignore", invalid="ignore"):
        known = out["spread_se"].to_numpy(dtype=float) / spread
        off = np.fmax(t_quantile(days - 1) * known, t_quantile(np.maximum(days, SURE_DAYS) - 1) * spread_error)
        half = np.minimum(off * rule.epsilon / epsilon, 700.0)
        # What is a root knows its square, which near nothing may as well be nothing.
        squared = np.isin(out["spread_source"].to_numpy(dtype=object), ("edge", "roll"))
        low, high = (fee + rule.epsilon * np.sqrt(np.maximum(1.0 + sign * 2.0 * off, 0.0)) for sign in (-1.0, 1.0))
        out["epsilon_low"] = shown(np.where(squared, low, epsilon * np.exp(-half)))
        out["epsilon_high"] = shown(np.where(squared, high, epsilon * np.exp(half)))
    out["sigma_measured"], out["sigma"] = out["sigma"], np.where(ok, sigma.value, out["sigma"])
    out["sigma_se"] = np.where(ok, sigma.value * sigma.log_sd, out["sigma_se"].where(np.isfinite(out["sigma_se"])))
    out["sigma_low"], out["sigma_high"] = shown(sigma.low), shown(sigma.high)
    out["alpha"], out["reference_rate"] = shown(cost.mean[:, 1]), shown(rate * v)
    out["law_b"], out["law_permanent"] = shown(np.exp(cost.mean[:, 0])), shown(permanent)
    out["law_b_sd"], out["law_permanent_sd"] = (shown(np.sqrt(cost.covariance[:, i, i])) for i in (0, 2))
    out["alpha_se"] = shown(np.sqrt(cost.covariance[:, 1, 1]))
    out["own_orders"] = np.where(ok, cost.own_orders, 0)

    out = out.copy()  # a hundred columns, set one by one, in one piece again
    out["response_n"] = np.where(ok, response.n, np.nan)
    out["response_n_signed"] = np.where(ok, response.n_signed, np.nan)
    out["response_clusters"] = np.where(ok, response.clusters, np.nan)
    out["response_r2"] = shown(response.r2)
    out["response"] = shown(response.estimate * unit)
    out["response_se"] = shown(response.se * unit)
    out["response_minutes"] = rules.response_minutes
    out["sign_accuracy"], out["sign_accuracy_se"] = sides.accuracy, sides.se
    for length, by in responses.items():
        out[f"response_{length}m"], out[f"response_{length}m_se"] = shown(by.estimate * unit), shown(by.se * unit)
    length, doubtful = schema.IMPACT_BUCKETS.index(rules.response_minutes), response.reason == DOUBTFUL
    for name in ("exponent", "exponent_se", "prefactor", "prefactor_se"):
        out[f"response_{name}"] = shown(np.where(doubtful, np.nan, getattr(measured.impact, name)[:, length]))
    bend = either(doubtful, DOUBTFUL, measured.impact.power_reason[:, length])
    out["response_units"], out["response_log_sd"] = shown(felt.value), shown(felt.log_sd)
    out["response_relative"] = shown(np.exp(relative))
    out["response_own"] = shown(felt.own)
    out["direct_eta"], out["direct_eta_se"] = shown(direct.estimate * unit), shown(direct.se * unit)
    out["direct_minutes"] = minutes
    why_none = {"response": response.reason, "response_exponent": bend, "direct": direct.reason}
    for name, reason in why_none.items():
        out[f"{name}_reason"] = either(ok & (reason != ""), reason, None)

    # κ² = λσ²/η. Of η as much is in units of σ/V as is not the market's own, and there half of log σ goes out again.
    borrowed = np.where(np.isfinite(paid.own), 1.0 - paid.own, 0.0)
    kappa = {
        "law": 0.5 * np.hypot(units, temporary_sd),
        "tape": 0.5 * np.hypot(np.hypot((2.0 - borrowed) * s_sigma, borrowed * s_adv), paid.log_sd),
        "rule": np.hypot(s_sigma, 0.5 * rule_sd),
    }
    kappa_sd = of_method(kappa["law"], kappa[method])
    out["log_kappa_sd"] = shown(kappa_sd)
    out["implied_regret"] = shown(np.cosh(np.minimum(kappa_sd, 700.0)) - 1.0)
    out["data_age"] = statistics["days_since_newest"].to_numpy()
    out["status"] = either(ok, OK, REFUSED)
    out["reason"] = either(ok, None, reasons.reason)
    silent = either(untold, f"the {method} tells no eta and gamma above 0: they are the law's", None)
    out["detail"] = either(ok, silent, reasons.detail)
    out["method"] = either(ok, either(untold, "law", method), None)
    strength = _strength(method, felt if method == "law" else paid, cost.own_orders)
    out["strength"] = either(ok, either(untold, _strength("law", felt, cost.own_orders), strength), None)
    out["sigma_source"] = either(
        np.isfinite(out["sigma"].to_numpy()) & (sigma.own > 0), out["sigma_source"].to_numpy(dtype=object), "pool"
    )
    letters, why = grade(out, rules.grades)
    out["grade"], out["grade_reason"] = either(ok, letters, None), either(ok, why, None)
    for name in schema.PARAMETER_DRIFTS:
        out[f"{name}_drift_z"] = np.nan
    return out[[name for name in schema.PARAMETERS.names if name not in ("as_of", "run_id")]]


_FROM_REFERENCE = (
    "kind",
    "reference_source",
    "calendar",
    "tick_size",
    "lot_size",
    "taker_fee",
    "fee_kind",
    "contract_multiplier",
    "resolution_time",
    "complement_token_id",
)


@dataclass(frozen=True)
class _Estimate:
    """A coefficient of one bucket length, in units of σ/V; arrays of shape (M,)."""

    estimate: FloatArray
    se: FloatArray
    dof: FloatArray
    n: FloatArray
    n_signed: FloatArray
    clusters: FloatArray
    r2: FloatArray
    reason: NDArray[np.object_]


class _Peers:
    """What markets have in common: covariates without a unit, and a pool for each quantity."""

    def __init__(self, markets: pd.DataFrame, sound: NDArray[np.bool_], min_markets: int):
        self._sound, self._min = sound, min_markets
        adv, price, spread = (markets[name].to_numpy(dtype=float) for name in ("adv", "price", "spread"))
        probability = (markets["kind"] == "probability").to_numpy()
        multiplier = markets["contract_multiplier"].to_numpy(dtype=float)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            # A probability's scale is the sd of its outcome: the same for both tokens of a pair.
            of_outcome = np.where(probability, _outcome_variance(price), np.nan)
            self._scale = np.where(probability, np.sqrt(of_outcome), price)
            columns = [np.log(adv * self._scale * multiplier), np.log(spread / self._scale), probability.astype(float)]
            columns.append(np.log(of_outcome))
        self._covariates = np.stack([np.where(np.isfinite(c), c, np.nan) for c in columns], axis=1)
        self.first_of_pair = ~_is_second_of_a_pair(markets)

    def sigma(self, markets: pd.DataFrame) -> Posterior:
        """Volatility of every market; a market whose mid never moved has its peers'. [price/√day]"""
        measured, se = markets["sigma"].to_numpy(dtype=float), markets["sigma_se"].to_numpy(dtype=float)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative, error = measured / self._scale, se / self._scale
        here = np.where(self._sound & self.first_of_pair, relative, np.nan)
        # How little a few days tell of each other is in the error itself.
        dof = np.full(len(markets), SIGMA_DOF)
        pool = fit_pool(here, error, dof, self._covariates, min_markets=self._min, log_error=True)
        found = posterior(relative, error, dof, self._covariates, pool, log_error=True)
        # Without a pool, or where the error is not known, the number is the market's own.
        own = np.isfinite(measured) & (measured > 0) & (~np.isfinite(error) | (error <= 0) | (pool is None))
        with np.errstate(divide="ignore", invalid="ignore"):
            known = (se > 0) & np.isfinite(se / measured)
            log_sd = np.where(own, np.where(known, _log_error(se / measured), np.nan), found.log_sd)
            half = np.exp(np.minimum(t_quantile(dof) * log_sd, 700.0))
            value = np.where(own, measured, found.value * self._scale)
            low = np.where(own, measured / half, found.low * self._scale)
            high = np.where(own, measured * half, found.high * self._scale)
            ceiling = markets["sigma_ceiling"].to_numpy(dtype=float)
            value, low, high = (np.fmin(bound, ceiling) for bound in (value, low, high))
            self._covariates = np.column_stack([self._covariates, np.log(value / self._scale)])
        return Posterior(
            np.log(np.where(value > 0, value, np.nan)), log_sd, value, low, high, np.where(own, 1.0, found.own)
        )

    def pooled(
        self, estimate: FloatArray, se: FloatArray, dof: FloatArray, ok: NDArray[np.bool_]
    ) -> tuple[Posterior, float]:
        """A coefficient of every market in units of σ/V, and the mean of its logarithm; NaN without a pool."""
        here = np.where(ok & self.first_of_pair, estimate, np.nan)
        pool = fit_pool(here, se, dof, self._covariates, min_markets=self._min)
        found = posterior(np.where(ok, estimate, np.nan), se, dof, self._covariates, pool)
        return found, np.nan if pool is None else pool.center


def _outcome_variance(price: FloatArray) -> FloatArray:
    """p (1 - p) by the larger of the two, which both tokens of a pair share to the last bit: 1 - p rounds small p."""
    larger = np.maximum(price, 1.0 - price)
    return np.asarray(larger * (1.0 - larger))


def _relative(se: pd.Series, value: FloatArray, n_days: FloatArray) -> FloatArray:
    """Relative standard error of a mean over days; of fewer than `SURE_DAYS` never below one in which `DAY_LOG_SD` has
    its share: one day says nothing of how days scatter, and two that agree are no proof. [-]"""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = se.to_numpy(dtype=float) / value
    n = np.where(np.isfinite(found), np.maximum(n_days, 1.0), 1.0)
    lent = np.clip((SURE_DAYS - n) / (SURE_DAYS - 1), 0.0, 1.0)
    found = np.where(np.isfinite(found), found, 0.0)
    return np.maximum(found, np.sqrt(lent * DAY_LOG_SD**2 / n + (1.0 - lent) * found**2))


def _log_error(relative: FloatArray) -> FloatArray:
    """Standard deviation of the logarithm of a lognormal with this relative error. [-]"""
    return np.sqrt(2.0 * np.log(np.hypot(1.0, relative)))


def _around(value: FloatArray, log_sd: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The 95 % interval of a lognormal with this median."""
    half = np.minimum(1.959964 * log_sd, 300.0)
    return value * np.exp(-half), value * np.exp(half)


def _response(measured: Measured, minutes: int, unit: FloatArray, sides: Sides) -> _Estimate:
    """The response of the mid to flow in buckets of a length, in units of σ/V, wrong aggressors corrected for."""
    i = schema.IMPACT_BUCKETS.index(minutes)
    impact, bucket = measured.impact, np.full(len(unit), i)
    corrected = Corrected(measured.statistics, impact, sides, bucket)
    uncapped = impact.uncapped[:, i]
    slope, se = corrected.response(impact.slope[:, i] / uncapped, impact.slope_se[:, i] / uncapped)
    return _estimate(impact, slope, se, impact.n_effective, bucket, unit, impact.reason)


def _direct(
    measured: Measured, unit: FloatArray, slice_minutes: FloatArray, sides: Sides
) -> tuple[_Estimate, NDArray[np.int64]]:
    """The direct cost of the aggressors' rate in the bucket nearest to a slice; and that bucket's length. [min]"""
    impact, lengths = measured.impact, np.array(schema.IMPACT_BUCKETS)
    wanted = np.log(np.maximum(np.where(np.isfinite(slice_minutes), slice_minutes, 30.0), 1e-3))
    nearest = np.abs(wanted[:, None] - np.log(lengths)).argmin(axis=1)
    row = np.arange(len(unit))
    corrected = Corrected(measured.statistics, impact, sides, nearest)
    uncapped = impact.direct_uncapped[row, nearest]
    value, se = corrected.direct_cost(
        impact.direct_eta[row, nearest] / uncapped, impact.direct_eta_se[row, nearest] / uncapped
    )
    effective, reason = impact.n_direct_effective, impact.direct_reason
    return _estimate(impact, value, se, effective, nearest, unit, reason), lengths[nearest]


def _estimate(
    impact: ImpactEvidence,
    value: FloatArray,
    se: FloatArray,
    effective: FloatArray,
    bucket: NDArray[np.int64],
    unit: FloatArray,
    reason: NDArray[np.object_],
) -> _Estimate:
    row = np.arange(len(unit))
    n, n_signed, clusters = (of[row, bucket] for of in (impact.n, impact.n_direct, impact.n_clusters))
    reason = reason[row, bucket]
    reason = either((reason == "") & ~np.isfinite(value + se), DOUBTFUL, reason)
    with np.errstate(over="ignore", invalid="ignore"):
        value, se = value / unit, se / unit
    has = np.isfinite(value) & np.isfinite(se) & (se > 0)
    value, se = np.where(has, value, np.nan), np.where(has, se, np.nan)
    dof = np.maximum(effective[row, bucket] - 1.0, 1.0)
    return _Estimate(value, se, dof, n, n_signed, clusters, impact.r2[row, bucket], reason)


def _strength(method: str, found: Posterior, own_orders: NDArray[np.int64]) -> NDArray[np.object_]:
    """Where the published impact gets its strength."""
    if method == "rule":
        return np.full(len(own_orders), "rule", dtype=object)
    known = np.isfinite(found.own)
    out = np.where(known, np.where(found.own >= 0.5, "own_tape", "pool"), "prior").astype(object)
    if method == "law":
        out[own_orders > 0] = "own_executions"
    return out


def _is_second_of_a_pair(markets: pd.DataFrame) -> NDArray[np.bool_]:
    """The second of two tokens that were folded into one series: the pool hears a book once."""
    other = markets["folded_with"].astype(object)
    first = other.isna() | (markets["token_id"].astype(object) < other.where(other.notna(), ""))
    return ~first.to_numpy(dtype=bool)


def _series(markets: pd.DataFrame, ok: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The row of each row's series: its own, or of two tokens that were folded into one that of the first."""
    second = np.flatnonzero(_is_second_of_a_pair(markets))
    out = np.arange(len(markets))
    if len(second):
        keys = pd.MultiIndex.from_frame(markets[["market_id", "token_id"]])
        pairs = markets.iloc[second]
        first = keys.get_indexer(pd.MultiIndex.from_arrays([pairs["market_id"], pairs["folded_with"]]))
        both = (first >= 0) & ok[first] & ok[second]
        out[second[both]] = first[both]
    return out


def either(holds: np.ndarray, this: object, that: object) -> np.ndarray:
    """`np.where` of texts and None."""
    out = np.empty(len(holds), dtype=object)
    out[:] = that
    out[holds] = this[holds] if isinstance(this, np.ndarray) else this
    return out
