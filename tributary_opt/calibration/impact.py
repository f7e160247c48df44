"""Impact of one market from arrays: for those who have flow and moves (or orders and their costs), and no database.

The law is move = Y σ √D sign(q) (|q|/(V D))^α, with flow q over a time D. Markets of a night are estimated by
`calibration.impact_evidence`, all at once and from sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tributary_opt.calibration.least_squares import LEAST_EFFECTIVE, MIN_DAY_CLUSTERS, Floats, t_quantile

ALPHA_RANGE = (0.1, 1.5)
"""Exponents that are looked at. [-]"""
_GRID = np.linspace(*ALPHA_RANGE, 57)
_FEW = 30


@dataclass(frozen=True)
class CalibrationResult:
    """An impact law and how sure it is; goes into `AlmgrenChrissParams.source_calibration`."""

    alpha: float
    """Exponent of participation. [-]"""
    alpha_se: float
    """NaN where alpha lies on a bound of `ALPHA_RANGE`. [-]"""
    alpha_interval: tuple[float, float]
    """95 %, from the profile of the squared errors; cut off at `ALPHA_RANGE`. [-]"""
    prefactor: float
    """Y: moves in units of σ √D at a participation of 1. [-]"""
    prefactor_se: float
    alpha_prefactor_covariance: float
    n: int
    """Observations with flow. [-]"""
    r2: float
    """Share of the squared moves explained, about zero. [-]"""
    method: str
    """profile_least_squares; errors day_clustered | heteroskedasticity_robust"""
    dof: float
    """Degrees of freedom of Student's t for the intervals: days, or observations, alike that they are worth, less 1,
    and never below 1. [-]"""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImpactEstimate:
    """What an order is expected to do to the price, and to cost on average."""

    participation: float
    """Order over the volume traded meanwhile. [-]"""
    impact: float
    """Move of the price when the order is done. [price]"""
    impact_interval: tuple[float, float]
    """95 %, of the law's own uncertainty; NaN without a calibration. [price]"""
    cost: float
    """Average cost per contract at a constant rate: half-spread + impact/(1 + α). [price]"""
    impact_bps: float
    cost_bps: float
    warnings: tuple[str, ...] = ()


def calibrate_impact_parameters(
    signed_flow: ArrayLike,
    response: ArrayLike,
    daily_volume: ArrayLike,
    daily_volatility: ArrayLike,
    *,
    duration: ArrayLike = 1.0,
    days: ArrayLike | None = None,
) -> CalibrationResult:
    """Fit Y and α of response = Y σ √D sign(q) (|q|/(V D))^α.

    For each α the best Y is linear; α is where the squared errors of the *signed, raw* responses are least. Nothing is
    logged and no observation is dropped for having moved against its flow: both would bend α towards 0.

    Parameters
    ----------
    signed_flow : array_like, shape (n,)
        q: bought less sold, or the sizes of own orders, sales negative; without flow nothing is seen. [contracts]
    response : array_like, shape (n,)
        Move of the mid, or an order's move, in the direction of the price (not of the order). [price]
    daily_volume, daily_volatility : array_like, scalar or shape (n,)
        V [contracts/day] and σ [price/day^0.5]; relative moves want a relative σ.
    duration : array_like, scalar or shape (n,)
        D, the time over which the flow came. [day]
    days : array_like, shape (n,), optional
        Any label of the trading day; observations without one (None, NaN, NaT) are left out. With 8 days or more,
        errors are clustered by day; else they are robust to heteroskedasticity only. Where few days outweigh the
        others, so that all are worth fewer than 4 alike, errors are the larger of the two.

    Returns
    -------
    CalibrationResult
        NaN and a warning where nothing can be identified. It does not depend on the units of price, size and time.

    Raises
    ------
    ValueError
        For shapes that do not agree.

    References
    ----------
    Tóth et al. (2011), Phys. Rev. X 1, 021006 (the law); White (1980), Econometrica 48(4), 817-838; Carter, Schnepel &
    Steigerwald (2017), Review of Economics and Statistics 99(4), 698-709 (degrees of freedom).
    """
    q, r = np.asarray(signed_flow, dtype=float), np.asarray(response, dtype=float)
    if q.ndim != 1 or q.shape != r.shape:
        raise ValueError(f"signed_flow and response must be two arrays of one length, got {q.shape} and {r.shape}")
    named = {"daily_volume": daily_volume, "daily_volatility": daily_volatility, "duration": duration}
    scales = {}
    for name, value in named.items():
        array = np.asarray(value, dtype=float)
        if array.ndim and array.shape != q.shape:
            raise ValueError(f"{name} must be a number or one for each of {len(q)} observations, got {array.shape}")
        scales[name] = np.broadcast_to(array, q.shape)
    labels = None if days is None else _labels(days, len(q))

    warnings: list[str] = []
    usable = np.isfinite(q) & np.isfinite(r)
    if labels is not None and (labels < 0).any():
        warnings.append(f"days must have a label: {np.sum(labels < 0)} observations without one are left out")
        usable &= labels >= 0
    for name, array in scales.items():
        positive = np.isfinite(array) & (array > 0)
        if not positive.all():
            bad = array[~positive][0]
            warnings.append(
                f"{name} must be finite and > 0, got {bad:g}: {np.sum(~positive)} observations are left out"
            )
        usable &= positive
    lost = int(np.sum(~(np.isfinite(q) & np.isfinite(r))))
    if lost:
        warnings.append(f"signed_flow and response must be finite: {lost} observations are left out")
    usable &= q != 0
    q, r = q[usable], r[usable]
    volume, volatility, time = (array[usable] for array in scales.values())
    x = np.abs(q) / (volume * time)
    z = np.sign(q) * r / (volatility * np.sqrt(time))

    problem = _problem(q, x, z)
    if problem:
        return _nothing(len(q), (*warnings, problem))
    clusters = None if labels is None else np.unique(labels[usable], return_inverse=True)[1]
    if clusters is None or clusters.max() + 1 < MIN_DAY_CLUSTERS:
        clusters = None
        warnings.append(
            f"errors are not clustered: give days, at least {MIN_DAY_CLUSTERS} of them; else they are too small where "
            "moves within a day hang together"
        )
    if len(q) < _FEW:
        warnings.append(f"{len(q)} observations with flow, fewer than {_FEW}: errors are rough")
    return _fitted(_Profile(x, z), clusters, warnings)


def _labels(days: ArrayLike, n: int) -> NDArray[np.int64]:
    """A number for each label, the same for the same; -1 where there is none: None, NaN, NaT."""
    labels = np.asarray(days)
    if labels.dtype.kind in "US":  # of a list, NaN beside texts has become the text "nan"
        labels = np.asarray(days, dtype=object)
    if labels.shape != (n,):
        raise ValueError(f"days must be a label for each of {n} observations, got {labels.shape}")
    missing = np.isnat(labels) if labels.dtype.kind in "mM" else [_is_missing(label) for label in labels.tolist()]
    place: dict[object, int] = {}
    numbers = [
        -1 if gone else place.setdefault(label, len(place))
        for label, gone in zip(labels.tolist(), missing, strict=True)
    ]
    return np.array(numbers, dtype=np.int64)


def _is_missing(label: object) -> bool:
    same = label == label  # NaN and pandas' NaT are not what they are, and its NA does not say
    return label is None or not (isinstance(same, bool | np.bool_) and bool(same))


def _problem(q: Floats, x: Floats, z: Floats) -> str:
    """Why the law cannot be fitted; empty where it can."""
    if len(q) < 3:
        return f"{len(q)} observations with flow, need at least 3"
    if (q > 0).all() or (q < 0).all():
        return "all flow has one sign: impact cannot be told from drift; give both buys and sells"
    if np.ptp(np.log(x)) < 1e-9:
        return "all flow has one size: it has no exponent; give flow of several sizes"
    if not z.any():
        return "the price never moved: there is no response"
    return ""


def _nothing(n: int, warnings: tuple[str, ...]) -> CalibrationResult:
    nan = math.nan
    return CalibrationResult(nan, nan, (nan, nan), nan, nan, nan, n, nan, "profile_least_squares", nan, warnings)


class _Profile:
    """Squared errors of z = Y x^α with the best Y of each α, in units of the typical x and z."""

    def __init__(self, x: Floats, z: Floats):
        self.x_unit = float(np.exp(np.mean(np.log(x))))
        self.z_unit = float(np.max(np.abs(z)) * np.sqrt(np.mean((z / np.max(np.abs(z))) ** 2)))
        self.log_x, self.z = np.log(x / self.x_unit), z / self.z_unit

    def prefactor(self, alpha: float) -> float:
        power = np.exp(alpha * self.log_x)
        return float(np.sum(self.z * power) / np.sum(power * power))

    def errors(self, alpha: float) -> Floats:
        return np.asarray(self.z - self.prefactor(alpha) * np.exp(alpha * self.log_x))

    def squared(self, alpha: float) -> float:
        return float(np.sum(self.errors(alpha) ** 2))

    def slope(self, alpha: float) -> float:
        """Derivative of the squared errors by α, over -2."""
        y = self.prefactor(alpha)
        return float(np.sum(self.errors(alpha) * y * np.exp(alpha * self.log_x) * self.log_x))

    def best(self) -> float:
        """The α of the least squared errors; a bound where they still fall there."""
        place = int(np.argmin([self.squared(a) for a in _GRID]))
        low, high = _GRID[max(place - 1, 0)], _GRID[min(place + 1, len(_GRID) - 1)]
        if self.slope(low) <= 0:
            return float(low)
        if self.slope(high) >= 0:
            return float(high)
        return _root(self.slope, float(low), float(high))

    def interval(self, alpha: float, allowed: float) -> tuple[float, float]:
        """The α around the best one whose squared errors are within `allowed` of the least."""
        limit = self.squared(alpha) + allowed
        ends, grid = [], _GRID
        for bound, steps in zip(ALPHA_RANGE, (grid[grid < alpha][::-1], grid[grid > alpha]), strict=True):
            inside, end = alpha, bound
            for step in steps:
                if self.squared(float(step)) > limit:
                    end = _root(lambda a: limit - self.squared(a), inside, float(step))
                    break
                inside = float(step)
            ends.append(float(end))
        return ends[0], ends[1]


def _root(f: Callable[[float], float], inside: float, outside: float) -> float:
    """Where f turns from ≥ 0 at `inside` to < 0 at `outside`."""
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if f(middle) >= 0 else (inside, middle)
    return (inside + outside) / 2


def _fitted(profile: _Profile, days: NDArray[np.int64] | None, warnings: list[str]) -> CalibrationResult:
    n, alpha = len(profile.z), profile.best()
    y, e = profile.prefactor(alpha), profile.errors(alpha)
    rss = float(np.sum(e * e))
    if not rss > 1e-24 * n:
        return _nothing(n, (*warnings, "the law fits without any error: there is nothing to tell how sure it is"))

    if y == 0:
        return _nothing(n, (*warnings, "moves do not go with the flow at all: there is no response"))

    # The sandwich of (Y, α), with Y at the participation where the two are orthogonal.
    power = np.exp(alpha * profile.log_x)
    middle = float(np.sum(power * power * profile.log_x) / np.sum(power * power))
    gradient = np.stack([power, y * power * (profile.log_x - middle)])
    leverage = gradient * gradient
    # Beside a flow that dwarfs all others, rounding is all that is left to tell α by.
    if not np.sum(leverage[1]) > 1e-12 * np.sum((y * power * profile.log_x) ** 2):
        return _nothing(n, (*warnings, "one flow outweighs all others together: there is no curve; is it an outlier?"))
    bread = 1.0 / np.sum(leverage, axis=1)

    def sandwich(clusters: NDArray[np.int64]) -> Floats:
        scores = np.stack([np.bincount(clusters, weights=of * e) for of in gradient])
        g = scores.shape[1]
        few = g / (g - 1) * (n - 1) / (n - 2)
        return np.asarray(few * np.outer(bread, bread) * np.sum(scores[:, np.newaxis] * scores, axis=2))

    each = np.arange(n)
    robust, effective = sandwich(each), _effective(leverage, each)
    by_day = days is not None
    if days is not None:
        of_days, effective = sandwich(days), _effective(leverage, days)
        by_day = effective >= LEAST_EFFECTIVE
        raised = np.sqrt(np.maximum(np.diag(of_days) / np.diag(robust), 1.0))
        robust = of_days if by_day else robust * np.outer(raised, raised)
    if effective < LEAST_EFFECTIVE:
        what = "observations" if days is None else "days"
        warnings.append(f"few {what} outweigh the others, all are worth {effective:.1f} alike: errors are rough")
    dof = min(max(effective - 1.0, 1.0), n - 2.0)
    classical = rss / (n - 2) * bread[1]
    t = float(t_quantile(np.array(dof)))
    interval = profile.interval(alpha, t * t * rss / (n - 2) * robust[1, 1] / classical)

    # From typical units to participation of 1: Y = y z_unit / x_unit^α, and α moves both.
    unit = profile.z_unit * math.exp(-alpha * math.log(profile.x_unit))
    turn = np.array([[unit, -y * unit * (math.log(profile.x_unit) + middle)], [0.0, 1.0]])
    covariance = turn @ robust @ turn.T
    at_bound = alpha in ALPHA_RANGE
    if at_bound:
        warnings.append(f"alpha is on the bound {alpha:g} of the range looked at: it has no standard error")
    if interval[0] == ALPHA_RANGE[0] or interval[1] == ALPHA_RANGE[1]:
        warnings.append(f"the 95 % interval of alpha reaches the range looked at, {ALPHA_RANGE}: alpha is hardly known")
    if y <= t * math.sqrt(robust[0, 0]):
        warnings.append("no significant response in the direction of the flow: alpha and prefactor say little")
    return CalibrationResult(
        alpha=alpha,
        alpha_se=math.nan if at_bound else math.sqrt(covariance[1, 1]),
        alpha_interval=interval,
        prefactor=y * unit,
        prefactor_se=math.sqrt(covariance[0, 0]),
        alpha_prefactor_covariance=float(covariance[0, 1]),
        n=n,
        r2=1.0 - rss / float(np.sum(profile.z**2)),
        method=f"profile_least_squares, {'day_clustered' if by_day else 'heteroskedasticity_robust'}",
        dof=dof,
        warnings=tuple(warnings),
    )


def _effective(leverage: Floats, clusters: NDArray[np.int64]) -> float:
    """How many clusters alike these are worth to the coefficient that has the fewest, (Σ h)²/Σ h²."""
    shares = np.stack([np.bincount(clusters, weights=of / of.sum()) for of in leverage])
    return float(np.min(1.0 / np.sum(shares**2, axis=1)))


def estimate_market_impact(
    order_size: float,
    daily_volume: float,
    daily_volatility: float,
    calibration: CalibrationResult | None = None,
    *,
    duration: float = 1.0,
    spread: float = 0.0,
    price: float = math.nan,
    alpha: float = 0.5,
    prefactor: float = 1.0,
) -> ImpactEstimate:
    """Move of the price by an order worked at a constant rate, Y σ √T (X/(V T))^α, and the order's average cost.

    The path of the move is concave in what is done: an order pays 1/(1 + α) of it on average, and half the spread.

    Parameters
    ----------
    order_size : float
        X ≥ 0, buy or sell. [contracts]
    daily_volume, daily_volatility : float
        V [contracts/day] and σ [price/day^0.5].
    calibration : CalibrationResult, optional
        Where Y and α come from; without one they are `prefactor` and `alpha`, by default those of the square-root law.
        A law fitted on public flow is not that of an own order: public flow is informed.
    duration : float
        T. [day]
    spread, price : float
        Quoted spread [price]; arrival price, for basis points [price].

    Returns
    -------
    ImpactEstimate
        NaN and a warning for a bad value; the calibration's own warnings are among its.
    """
    a, y = (alpha, prefactor) if calibration is None else (calibration.alpha, calibration.prefactor)
    rules = {
        "order_size": (order_size, order_size >= 0),
        "daily_volume": (daily_volume, daily_volume > 0),
        "daily_volatility": (daily_volatility, daily_volatility > 0),
        "duration": (duration, duration > 0),
        "spread": (spread, spread >= 0),
        "alpha": (a, a > 0),
        "prefactor": (y, y > 0),
    }
    warnings = [
        f"{name} must be finite and {'>= 0' if name in ('order_size', 'spread') else '> 0'}, got {value:g}"
        for name, (value, holds) in rules.items()
        if not (math.isfinite(value) and holds)
    ]
    nan, of_law = math.nan, () if calibration is None else calibration.warnings
    if warnings:
        return ImpactEstimate(nan, nan, (nan, nan), nan, nan, nan, (*warnings, *of_law))
    participation = order_size / daily_volume / duration
    impact = y * daily_volatility * math.sqrt(duration) * participation**a
    cost = spread / 2 + impact / (1 + a)
    if participation > 0.1:
        warnings.append(f"participation {participation:.3g} is above 0.1, beyond what the law was seen to hold for")
    bps = 1e4 / price if price > 0 else nan
    interval = _impact_interval(impact, participation, calibration)
    return ImpactEstimate(participation, impact, interval, cost, impact * bps, cost * bps, (*warnings, *of_law))


def _impact_interval(impact: float, participation: float, calibration: CalibrationResult | None) -> tuple[float, float]:
    """95 % by the delta method on log impact, log Y + α log participation."""
    if calibration is None or not math.isfinite(calibration.alpha_se) or not participation > 0:
        return math.nan, math.nan
    c, log = calibration, math.log(participation)
    variance = (c.prefactor_se / c.prefactor) ** 2 + (log * c.alpha_se) ** 2
    variance += 2 * log * c.alpha_prefactor_covariance / c.prefactor
    reach = math.exp(float(t_quantile(np.array(c.dof))) * math.sqrt(max(variance, 0.0)))
    return impact / reach, impact * reach
