"""One problem, one cost: what an order trades against, as arrays, and what any schedule of it costs and risks.

    minimise  Σ_j [ ε_j n_j + a_j n_j^(1+k) ] + λ Σ_j s_j x_j²     subject to  Σ n_j = X, 0 <= n_j <= c_j

with n_j traded in slice j and x_j held after it. Every strategy is a point of it: constant coefficients give
Almgren-Chriss, a_j ∝ 1/V_j its version in volume time, λ = 0 TWAP and VWAP, caps a participation limit.

The permanent impact γ is a convention, not a coefficient. Under ``midprice`` a trade pays half of its own permanent
move, the permanent cost is γX²/2 for every schedule, and a_j is the temporary impact. Under ``paper`` it pays none of
it (A-C eq. 4): the permanent cost is γ Σ n_j x_j = γX²/2 - (γ/2) Σ n_j², so the schedule decides about a_j less γ/2.
For the linear law that is absorbed, a_j = η_j/τ_j - γ/2 = η̃_j/τ_j; for the power law it stands beside a_j n^(1+k) as
-γn²/2, and the cost is convex only up to the slice `convexity_limit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tributary_opt.optimization.arguments import (
    FloatArray,
    Permanent,
    _check_permanent,
    _check_steps,
    _floats,
    _in_range,
)
from tributary_opt.optimization.closed_form import _held_after, _sum_steps, effective_eta

__all__ = [
    "EXPONENT_RANGE",
    "ImpactLaw",
    "Problem",
    "ScheduleCost",
    "convexity_limit",
    "cost_of_steps",
    "default_permanent",
    "market_problem",
    "schedule_cost",
]

ImpactLaw = Literal["linear", "power"]

#: Exponents k of the temporary impact that are solved.
EXPONENT_RANGE = (0.3, 1.0)
# Slices of 2^±this need no unit of their own: their squares are far from both ends of the range.
_ORDINARY = 100


@dataclass(frozen=True, eq=False)
class Problem:
    """Orders to schedule, one for each entry of the leading axes (any number of them; they broadcast).

    `Problem.of` fills what is left out and checks; `market_problem` builds one from market parameters.
    """

    order_size: FloatArray  #: X > 0, shape (...). [contracts]
    risk_aversion: FloatArray  #: λ >= 0, shape (...). [1/currency]
    tau: FloatArray  #: slice lengths, shape (..., N). [day]
    impact: FloatArray  #: a_j of a_j n^(1+k), shape (..., N). [currency/contract^(1+k)]
    exponent: FloatArray  #: k, shape (...). [-]
    spread: FloatArray  #: ε_j, shape (..., N). [currency/contract]
    slice_sd: FloatArray  #: √s_j = σ_j √τ_j, shape (..., N); its square may leave the range. [currency/contract]
    cap: FloatArray  #: c_j, shape (..., N); inf where there is none, 0 where nothing trades. [contracts]
    gamma: FloatArray  #: γ, shape (...). [currency/contract²]
    permanent: Permanent

    @classmethod
    def of(
        cls,
        order_size: ArrayLike,
        impact: ArrayLike,
        slice_sd: ArrayLike,
        risk_aversion: ArrayLike,
        *,
        tau: ArrayLike = 1.0,
        exponent: ArrayLike = 1.0,
        spread: ArrayLike = 0.0,
        cap: ArrayLike = np.inf,
        gamma: ArrayLike = 0.0,
        permanent: Permanent | None = None,
    ) -> Problem:
        """A problem from its coefficients.

        Parameters
        ----------
        order_size, risk_aversion, exponent, gamma : array_like, broadcastable to (...)
            X > 0, λ >= 0, 0.3 <= k <= 1, γ >= 0.
        impact, slice_sd, tau, spread, cap : array_like, broadcastable to (..., N)
            One of them has the last axis of N slices. ``impact`` is the a_j that the schedule decides about: with
            k = 1 and ``paper`` it is η̃_j/τ_j, γ/2 already taken off. c_j >= 0, inf for none.
        permanent : "paper" | "midprice"
            Default: `default_permanent`, "paper" where every exponent is 1, else "midprice".

        Raises
        ------
        TypeError, ValueError
            For wrong types or shapes, or a number out of range: which, and what the rule is.
        """
        per_order = {"order_size": order_size, "risk_aversion": risk_aversion, "exponent": exponent, "gamma": gamma}
        per_slice = {"tau": tau, "impact": impact, "spread": spread, "slice_sd": slice_sd, "cap": cap}
        one = {name: _floats(name, value) for name, value in per_order.items()}
        many = {name: _floats(name, value) for name, value in per_slice.items()}
        many = {name: a[np.newaxis] if a.ndim == 0 else a for name, a in many.items()}
        permanent = default_permanent(one["exponent"]) if permanent is None else permanent
        _check_permanent(permanent)
        shape = np.broadcast_shapes(*(a.shape for a in many.values()), *((*a.shape, 1) for a in one.values()))
        if shape[-1] < 1:
            raise ValueError(f"a problem needs at least one slice, got arrays of shape {shape}")
        problem = cls(
            **{name: np.broadcast_to(a, shape[:-1]) for name, a in one.items()},
            **{name: np.broadcast_to(a, shape) for name, a in many.items()},
            permanent=permanent,
        )
        for name, good, rule in problem._rules():
            if not good.all():
                whole = getattr(problem, name)
                value = whole[np.broadcast_to(~good, whole.shape)].flat[0]
                raise ValueError(f"{name} must be {rule}, got {value:g}")
        return problem

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the leading axes."""
        return self.order_size.shape

    @property
    def n_steps(self) -> int:
        """N."""
        return int(self.tau.shape[-1])

    @property
    def risk(self) -> FloatArray:
        """s_j = σ_j²τ_j. [currency²/contract²]"""
        return np.square(self.slice_sd)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where every number is admissible, shape (...)."""
        return self._valid(self._rules())

    @property
    def valid_otherwise(self) -> NDArray[np.bool_]:
        """`valid`, but for the impact, the risk and the caps, which the caller looks at."""
        return self._valid(self._rules(of_slices=False))

    def _valid(self, rules: list[tuple[str, NDArray[np.bool_], str]]) -> NDArray[np.bool_]:
        good = np.ones(self.shape, dtype=bool)
        for _, each, _ in rules:
            good &= each if each.ndim in (0, good.ndim) else each.all(axis=-1)
        return good

    def _rules(self, *, of_slices: bool = True) -> list[tuple[str, NDArray[np.bool_], str]]:
        low, high = EXPONENT_RANGE
        k = self.exponent
        positive = "finite and > 0"
        tau, impact, spread, slice_sd, cap = (
            a[..., :1] if a.strides[-1] == 0 else a
            for a in (self.tau, self.impact, self.spread, self.slice_sd, self.cap)
        )
        rules = [
            ("order_size", _in_range(self.order_size) & (self.order_size > 0), positive),
            ("risk_aversion", _in_range(self.risk_aversion), "finite and >= 0"),
            ("exponent", (k >= low) & (k <= high), f"from {low:g} to {high:g} (more than 1 is not solved)"),
            ("gamma", _in_range(self.gamma), "finite and >= 0"),
            ("tau", _in_range(tau) & (tau > 0), positive),
            ("spread", _in_range(spread), "finite and >= 0"),
        ]
        if of_slices:
            rules += [
                ("impact", _from(-np.finfo(float).max, impact) & _to(np.finfo(float).max, impact), "finite"),
                ("slice_sd", _from(0.0, slice_sd) & _to(np.finfo(float).max, slice_sd), "finite and >= 0"),
                ("cap", _from(0.0, cap), ">= 0 (inf for none)"),
            ]
        return rules

    def take(self, index: Any) -> Problem:
        """The problems at an index of the leading axes."""
        fields = ("order_size", "risk_aversion", "tau", "impact", "exponent", "spread", "slice_sd", "cap", "gamma")
        return Problem(**{name: getattr(self, name)[index] for name in fields}, permanent=self.permanent)

    def tail(self, first_slice: int, held: ArrayLike) -> Problem:
        """What is left of the problem from a slice on: the same slices, less those already done, and another X."""
        cut = {name: getattr(self, name)[..., first_slice:] for name in ("tau", "impact", "spread", "slice_sd", "cap")}
        return Problem(
            order_size=np.broadcast_to(_floats("held", held), self.shape),
            risk_aversion=self.risk_aversion,
            exponent=self.exponent,
            gamma=self.gamma,
            permanent=self.permanent,
            **cut,
        )


def default_permanent(exponent: ArrayLike) -> Permanent:
    """Convention where none is chosen: the paper's for the linear law, the mid-price one for the power law."""
    return "paper" if bool((np.asarray(exponent) == 1.0).all()) else "midprice"


def convexity_limit(problem: Problem) -> FloatArray:
    """Largest slice n*_j = (k(k+1)a_j/γ)^(1/(1-k)) up to which the cost of a slice is convex.

    Only the power law under ``paper`` has one: beyond n* the permanent move that a trade does not pay grows faster than
    what it pays, and one huge slice would look cheap.

    Returns
    -------
    ndarray, shape (..., N)
        inf where there is no limit. [contracts]
    """
    k = problem.exponent[..., np.newaxis]
    bounded = (problem.permanent == "paper") & (k < 1) & (problem.gamma[..., np.newaxis] > 0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        ratio = k * (k + 1.0) * (np.maximum(problem.impact, 0.0) / problem.gamma[..., np.newaxis])
        return np.where(bounded, np.power(ratio, 1.0 / np.where(k < 1, 1.0 - k, 1.0)), np.inf)


def _from(least: float, values: FloatArray) -> NDArray[np.bool_]:
    """Where they are not below it, NaN being nowhere; one True for all, which is looked at first and costs less."""
    return np.asarray(True if values.min(initial=np.inf) >= least else values >= least)


def _to(most: float, values: FloatArray) -> NDArray[np.bool_]:
    """Where they are not above it, as `_from`."""
    return np.asarray(True if values.max(initial=-np.inf) <= most else values <= most)


# ---------------------------------------------------------------------------------------------------------------------
# Cost
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ScheduleCost:
    """What a schedule is expected to cost, what of, and how uncertain that is; every array has shape (...)."""

    expected_cost: FloatArray  #: E = spread + temporary + permanent; λV is never part of it. [currency]
    cost_variance: FloatArray  #: V = Σ s_j x_j². [currency²]
    spread: FloatArray  #: Σ ε_j n_j. [currency]
    temporary: FloatArray  #: what the slices pay for their own pressure. [currency]
    permanent: FloatArray  #: γ Σ n_j x_j (``paper``) or γX²/2 (``midprice``). [currency]
    risk: FloatArray  #: λV, the price put on the uncertainty. [currency]

    @property
    def objective(self) -> FloatArray:
        """E + λV: what the optimal schedule makes least. [currency]"""
        return self.expected_cost + self.risk


def schedule_cost(problem: Problem, slices: ArrayLike, holdings: ArrayLike | None = None) -> ScheduleCost:
    """Expected cost, variance and where the cost comes from, of any schedule of same-signed slices.

    E = Σ ε_j n_j + Σ a_j n_j^(1+k) + γX²/2 (A-C eq. 8; under ``paper`` with k < 1 less (γ/2) Σ n_j²) and
    V = Σ_j s_j x_j² over what is held after each slice (eq. 5). Added up as it is paid (eq. 4): nothing cancels.

    Parameters
    ----------
    problem : Problem
    slices : array_like, shape (..., N)
        n_j >= 0. They need not add up to X: what they sum to is what is traded. [contracts]
    holdings : array_like, shape (..., N + 1), optional
        What is held before the first and after each slice; by default added up from the end. [contracts]

    Returns
    -------
    ScheduleCost
        NaN where a slice is NaN; inf, or NaN where infinities meet, beyond the double range.
    """
    slices = _floats("slices", slices)
    n_steps = problem.n_steps
    shape = np.broadcast_shapes(slices.shape, (*problem.shape, n_steps))
    traded = _steps_first(slices, shape)
    if (traded < 0).any():
        raise ValueError(f"slices must be >= 0, got {traded[traded < 0].flat[0]:g}")
    held = None
    if holdings is not None:
        holdings = _floats("holdings", holdings)
        if holdings.shape[-1:] != (n_steps + 1,):
            raise ValueError(f"holdings must have a last axis of {n_steps + 1}, got shape {holdings.shape}")
        held = _steps_first(holdings, (*shape[:-1], n_steps + 1))
    impact, spread, sd = (_steps_first(a, shape) for a in (problem.impact, problem.spread, problem.slice_sd))
    if problem.spread.strides[-1] == 0:
        spread = spread[0]
    return cost_of_steps(problem, traded, held, impact, spread, sd)


def cost_of_steps(
    problem: Problem,
    traded: FloatArray,
    holdings: FloatArray | None,
    impact: FloatArray,
    spread: FloatArray,
    sd: FloatArray,
) -> ScheduleCost:
    """`schedule_cost` with the steps first, of arrays that it may overwrite; ``spread`` without steps where shared."""
    # Fractions of a power of two: squares and powers stay in range whatever the size. 1 where they do anyway.
    exponent = np.frexp(np.fmax.reduce(traded, axis=0))[1] - 1
    exponent = np.where(np.isnan(traded).any(axis=0) | (np.abs(exponent) <= _ORDINARY), 0, exponent)
    if exponent.any():
        traded = np.ldexp(traded, -exponent)
        holdings = None if holdings is None else np.ldexp(holdings, -exponent)
    if holdings is None:
        total, held = _held_after(traded)
    else:
        total, held = holdings[0], holdings[1:]
    one = np.ones(traded.shape[1:])
    k, gamma, lam = (np.array(a * one, order="C") for a in (problem.exponent, problem.gamma, problem.risk_aversion))
    size = np.ldexp(1.0, exponent)
    found = _cost_of_steps(traded, held, total, size, impact, spread, sd, k, gamma, lam, problem.permanent)
    return ScheduleCost(*found)


def _cost_of_steps(
    traded: FloatArray,
    held: FloatArray,
    total: FloatArray,
    size: FloatArray,
    impact: FloatArray,
    spread: FloatArray,
    sd: FloatArray,
    k: FloatArray | None,
    gamma: FloatArray,
    lam: FloatArray,
    permanent: Permanent,
    work: FloatArray | None = None,
) -> tuple[FloatArray, ...]:
    """The parts of `ScheduleCost`, steps first; `traded`, `held` and `total` are in units of `size`, a power of two.

    ``spread`` is per slice, or per order where all its slices share it; ``k`` None is the linear law. All arrays but
    ``held`` may be overwritten.
    """
    work = np.empty_like(traded) if work is None else work
    with np.errstate(over="ignore", invalid="ignore"):
        if spread.ndim < traded.ndim:
            np.copyto(work, traded)
            paid = size * (spread * _sum_steps(work)) if spread.any() else np.zeros(size.shape)
        else:
            paid = size * _sum_steps(np.multiply(spread, traded, out=work))
        if permanent == "paper":
            pushed = gamma * _sum_steps(np.multiply(traded, held, out=work)) if gamma.any() else np.zeros(size.shape)
            # For k = 1 the a_j came less γ/2: what is paid is a_j + γ/2, and γ Σ n_j x_j for those that follow.
            half = 0.5 * gamma if k is None else np.where(k == 1.0, 0.5 * gamma, 0.0)
            if half.any():
                impact = np.add(impact, half, out=impact)
        else:
            pushed = gamma * (0.5 * np.square(total))
        if k is None:
            powers, scale = np.multiply(traded, traded, out=traded), size
        else:
            powers, scale = _power(traded, k), np.power(size, k)
        temporary = size * (scale * _sum_steps(np.multiply(impact, powers, out=powers)))
        risky = np.multiply(sd, held, out=sd)
        variance = np.square(np.sqrt(_sum_steps(np.multiply(risky, risky, out=risky))) * size)
        lasting = size * (size * pushed)
        return paid + temporary + lasting, variance, paid, temporary, lasting, lam * variance


def _power(traded: FloatArray, k: FloatArray) -> FloatArray:
    """n^(1+k) in place, the square where k = 1: the branch depends on a problem's own k, never on its neighbours'."""
    linear = (k == 1.0).ravel()
    if linear.all():
        return np.multiply(traded, traded, out=traded)
    rows, exponent = traded.reshape(len(traded), -1), (1.0 + k).ravel()
    squares = np.square(rows[:, linear])
    for row in rows:
        np.power(row, exponent, out=row)
    rows[:, linear] = squares
    return traded


def _steps_first(array: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """The array broadcast to `shape`, its last axis first, contiguous, and the caller's own left alone."""
    whole = np.broadcast_to(array, shape)
    return np.array(np.moveaxis(whole, -1, 0), order="C", copy=True)


# ---------------------------------------------------------------------------------------------------------------------
# From market parameters
# ---------------------------------------------------------------------------------------------------------------------


def market_problem(
    order_size: ArrayLike,
    risk_aversion: ArrayLike,
    *,
    eta: ArrayLike,
    gamma: ArrayLike,
    sigma: ArrayLike,
    epsilon: ArrayLike,
    horizon: ArrayLike | None = None,
    tau: ArrayLike | None = None,
    n_steps: int,
    impact_law: ImpactLaw = "linear",
    alpha: ArrayLike = 1.0,
    reference_rate: ArrayLike = np.nan,
    permanent: Permanent | None = None,
    volume_profile: ArrayLike | None = None,
    variance_profile: ArrayLike | None = None,
    cap: ArrayLike = np.inf,
    check: bool = True,
) -> Problem:
    """Problem of orders in markets whose parameters are known.

    Linear law: a_j = (η̃/τ) · (1/N)/w_j, with η̃ = η - γτ/2 under ``paper`` and η under ``midprice``.
    Power law: h(v) = ε + η v_ref (v/v_ref)^α, so a_j = η v_ref^(1-α) τ^-α · ((1/N)/w_j)^α and k = α; at v_ref it meets
    the linear law.
    Both: s_j = σ²τ · u_j N. The profiles w and u are shares of the horizon's volume and variance, 1/N each by default.

    Parameters
    ----------
    order_size, risk_aversion, eta, gamma, sigma, epsilon, horizon, alpha, reference_rate : array_like
        Broadcastable to the leading axes (...); the step ``tau`` may stand in for the horizon. ``alpha`` and
        ``reference_rate`` serve the power law only.
    n_steps : int
        N >= 1. [-]
    permanent : "paper" | "midprice"
        Default "paper" for the linear law, "midprice" for the power law.
    volume_profile, variance_profile : array_like, broadcastable to (..., N)
        Weights >= 0 of the slices, scaled to sum 1. A slice without volume trades nothing; all 0 is flat.
    cap : array_like, broadcastable to (..., N)
        c_j. [contracts]
    check : bool
        Whether a number out of range raises. False leaves it in, for `solve` to give it a status.
    """
    n = _check_steps(n_steps)
    if impact_law not in ("linear", "power"):
        raise ValueError(f'impact_law must be "linear" or "power", got {impact_law!r}')
    permanent = ("paper" if impact_law == "linear" else "midprice") if permanent is None else permanent
    _check_permanent(permanent)
    step = horizon if tau is None else tau
    if step is None or (horizon is not None and tau is not None):
        raise ValueError("give exactly one of horizon and tau")
    values: dict[str, Any] = {
        "order_size": order_size,
        "risk_aversion": risk_aversion,
        "eta": eta,
        "gamma": gamma,
        "sigma": sigma,
    }
    if (horizon is None) == (tau is None):
        raise ValueError("give exactly one of horizon and tau")
    values |= {
        "epsilon": epsilon,
        "horizon": tau if horizon is None else horizon,
        "alpha": alpha,
        "reference_rate": reference_rate,
    }
    size, lam, eta, gamma, sigma, epsilon, horizon, alpha, rate = (
        _floats(name, value) for name, value in values.items()
    )
    cap, horizon_given = _floats("cap", cap), tau is None
    with np.errstate(all="ignore"):
        tau = horizon / n if horizon_given else horizon
        if impact_law == "linear":
            k = np.ones(np.broadcast_shapes(eta.shape, alpha.shape))
            level = _effective(eta, gamma, tau, permanent) / tau
        else:
            k, eta, rate, tau_ = (np.array(a, order="C") for a in np.broadcast_arrays(alpha, eta, rate, tau))
            # With α = 1 the reference rate does not matter, and need not be known.
            level = eta * np.where(k == 1.0, 1.0, np.power(rate, 1.0 - k)) / np.power(tau_, k)
            if permanent == "paper":
                level = np.where(k == 1.0, _effective(eta, gamma, tau_, permanent) / tau_, level)
        # A horizon that runs out of the range of its inverse, or NaN parameters, become NaN here and are refused below.
        impact, slice_sd = level[..., np.newaxis], (sigma * np.sqrt(tau))[..., np.newaxis]
        if volume_profile is not None:
            weights = _profile("volume_profile", volume_profile, n)
            power = np.ascontiguousarray(
                np.broadcast_to(k[..., np.newaxis], np.broadcast_shapes(k[..., np.newaxis].shape, weights.shape))
            )
            slower = np.where(weights > 0, 1.0 / np.where(weights > 0, n * weights, 1.0), 1.0)
            impact = impact * np.where(power == 1.0, slower, np.power(slower, power))
            cap = np.where(weights > 0, cap, 0.0)
        if variance_profile is not None:
            slice_sd = slice_sd * np.sqrt(n * _profile("variance_profile", variance_profile, n))
    fields: dict[str, Any] = {
        "tau": np.broadcast_to(tau[..., np.newaxis], (*tau.shape, n)),
        "exponent": k,
        "spread": epsilon[..., np.newaxis],
        "cap": cap,
        "gamma": gamma,
        "permanent": permanent,
    }
    if check:
        for name, value in (
            ("eta", eta),
            ("gamma", gamma),
            ("sigma", sigma),
            ("epsilon", epsilon),
            ("horizon", horizon),
        ):
            if not _in_range(value).all():
                raise ValueError(f"{name} must be finite and >= 0, got {value[~_in_range(value)].flat[0]:g}")
        if impact_law == "power" and not ((k == 1.0) | (_in_range(rate) & (rate > 0))).all():
            raise ValueError("reference_rate must be finite and > 0 for the power law: give 1 % of ADV per day")
        return Problem.of(size, impact, slice_sd, lam, **fields)
    arrays = {"order_size": size, "risk_aversion": lam, "exponent": k, "gamma": gamma}
    wide = {"tau": fields["tau"], "impact": impact, "spread": fields["spread"], "slice_sd": slice_sd, "cap": cap}
    wide = {name: a[np.newaxis] if a.ndim == 0 else a for name, a in wide.items()}
    shape = np.broadcast_shapes(*(a.shape for a in wide.values()), *((*a.shape, 1) for a in arrays.values()))
    bad = ~(_in_range(eta) & _in_range(gamma) & _in_range(sigma) & _in_range(epsilon) & _in_range(horizon))
    wide["impact"] = np.where(bad[..., np.newaxis], np.nan, wide["impact"])
    return Problem(
        **{name: np.broadcast_to(a, shape[:-1]) for name, a in arrays.items()},
        **{name: np.broadcast_to(a, shape) for name, a in wide.items()},
        permanent=permanent,
    )


def _effective(eta: FloatArray, gamma: FloatArray, tau: FloatArray, permanent: Permanent) -> FloatArray:
    """`effective_eta`, NaN where an argument is not finite."""
    good = np.isfinite(eta) & np.isfinite(gamma) & np.isfinite(tau)
    eta, gamma, tau = (np.where(good, a, 1.0) for a in np.broadcast_arrays(eta, gamma, tau))
    return np.where(good, effective_eta(eta, gamma, tau, permanent), np.nan)


def _profile(name: str, weights: ArrayLike, n_steps: int) -> FloatArray:
    """Weights as shares that sum to 1; flat where all are 0."""
    w = _floats(name, weights)
    if w.ndim < 1 or w.shape[-1] != n_steps:
        raise ValueError(f"{name} must have a last axis of n_steps = {n_steps}, got shape {w.shape}")
    if not _in_range(w).all():
        raise ValueError(f"{name} must be finite and >= 0, got {w[~_in_range(w)].flat[0]:g}")
    steps = np.array(np.moveaxis(w, -1, 0), order="C", copy=True)
    largest = np.where(steps.max(axis=0) > 0, steps.max(axis=0), 1.0)
    total = _sum_steps(steps / largest)  # of the largest, so that the sum of tiny weights is no zero
    flat = total == 0
    shares = (w / largest[..., np.newaxis]) / np.where(flat, 1.0, total)[..., np.newaxis]
    return np.where(flat[..., np.newaxis], 1.0 / n_steps, shares)
