"""How far aggressors are to be believed, and what wrong ones do to the response and to the direct cost.

Given sides are held against fresh mids (`n_sides_compared` of `ac_market_days`), market by market and all together.
Inferred sides were made from the quotes, which cannot test them: there the literature says how many are right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tributary_opt import schema

if TYPE_CHECKING:
    import pandas as pd

    from tributary_opt.calibration.impact_evidence import ImpactEvidence

FloatArray = NDArray[np.float64]

DOUBTFUL = "sides_doubtful"
"""Reason why there is no response: so many aggressors may be wrong that hardly any flow is left."""

RIGHT_BY_QUOTES = {"price": (0.85, 0.07), "probability": (0.60, 0.10)}
"""Share of sides that the quote rule gets right by a mid that may have moved, and its standard deviation. [-]

Equities: Lee & Ready (1991), Finucane (2000) 84 %, Odders-White (2000) 85 %, Ellis, Michaely & O'Hara (2000) 81 %.
Prediction markets: Dubach (2026) 59 to 62 %.
"""

RIGHT_BY_TICKS = {"price": (0.77, 0.07), "probability": (0.50, 0.05)}
"""The same of the tick rule: the same authors, 77 to 83 %; on prediction markets 50 % (Polymarket-v1, 2026). [-]"""

# Of sides that are right a fresh mid contradicts half a percent, of one market in twenty above 2 % (Beta); more trades
# than so many do not tell a share better than to half a percent.
_RIGHT = (0.5, 100.0)
_MOST_TRADES = 3_600.0
# Of sides that are wrong at all a share around 15 %, as much as two markets say. One venue in twenty is such: no more
# than two markets say either, since those of a night are mostly of one venue.
_WRONG_MEAN, _WRONG_SD, _WRONG_MARKETS = 0.15, 0.10, 2.0
_LEAST_WRONG = 0.05
_VENUES_WRONG, _VENUES = 0.1, 2.0
_ROUNDS, _TOLERANCE = 200, 1e-9
_COMPARED = 30.0  # trades alike, fewer of which do not tell how large trades are
_LEAST_FLOW = 0.1  # share of flow, or of its variance, below which nothing is corrected for


@dataclass(frozen=True)
class Sides:
    """What is held of every market's aggressors, arrays of shape (M,)."""

    accuracy: FloatArray  #: share that is right. [-]
    se: FloatArray  #: its standard deviation. [-]
    wrong: FloatArray  #: share that is wrong by chance, trade by trade, and is corrected for. [-]
    wrong_sd: FloatArray  #: its standard deviation. [-]
    log_sd: FloatArray  #: what inferred sides leave open in the logarithm of a coefficient of flow. [-]


def believed(
    statistics: pd.DataFrame,
    kind: NDArray[np.object_],
    fitted: NDArray[np.bool_],
    stated: float | None,
    *,
    min_markets: int = 10,
) -> Sides:
    """How many aggressors of each market are right.

    Parameters
    ----------
    statistics : DataFrame
        sides_compared_alike, sides_contradicted, fresh_rule_share, quote_rule_share, tick_rule_share of
        `window_statistics`.
    kind : ndarray of str, shape (M,)
        price | probability.
    fitted : ndarray of bool, shape (M,)
        Whether a market speaks for its peers: not the second token of a pair.
    stated : float, optional
        A share that the user knows; then it is that, without an error, everywhere.
    min_markets : int
        Fewer markets with compared sides are no pool, and say nothing about each other.
    """
    none = np.zeros(len(statistics))
    if stated is not None:
        return Sides(none + stated, none, none + 1.0 - stated, none, none)
    alike, contradicted, fresh, quotes, ticks = (
        np.nan_to_num(statistics[name].to_numpy(dtype=float))
        for name in (
            "sides_compared_alike",
            "sides_contradicted",
            "fresh_rule_share",
            "quote_rule_share",
            "tick_rule_share",
        )
    )
    given = np.clip(1.0 - quotes - ticks, 0.0, 1.0)
    wrong, wrong_sd = (given * share for share in _wrong_of_given(alike, contradicted, fitted, min_markets))
    stale = np.maximum(quotes - fresh, 0.0)
    accuracy, variance, log_sd = 1.0 - wrong, wrong_sd**2, none
    for share, right in ((stale, RIGHT_BY_QUOTES), (ticks, RIGHT_BY_TICKS)):
        mean, sd = np.array([right[k] for k in kind]).reshape(-1, 2).T
        accuracy = accuracy - share * (1.0 - mean)
        variance = variance + (share * sd) ** 2
        # Errors of chance divide a coefficient by c = 2a - 1 or multiply it by c, as signs persist or do not; errors of
        # the quote rule go with the move of the mid, and raise it. So it is anywhere between c and 1/c.
        log_sd = log_sd - share * np.log(np.maximum(2.0 * mean - 1.0, _LEAST_FLOW)) / math.sqrt(3.0)
    return Sides(accuracy, np.sqrt(variance), wrong, wrong_sd, log_sd)


def _wrong_of_given(
    alike: FloatArray, contradicted: FloatArray, fitted: NDArray[np.bool_], min_markets: int
) -> tuple[FloatArray, FloatArray]:
    """Share of given sides that is wrong, its posterior median and the root mean square about it; shape (M,).

    Each market's sides are right, and contradicted by the quote rule's own errors, or are wrong in a share drawn from
    a beta distribution, which the markets tell together (EM). The median is 0 where right is the likelier.
    """
    n = alike / (1.0 + alike / _MOST_TRADES)
    k = contradicted * n
    use = fitted & (n > 0)
    use &= use.sum() >= min_markets
    of_right = _log_beta_binomial(k, n, *_RIGHT)
    share, mean, sd = 0.5, _WRONG_MEAN, _WRONG_SD
    for _ in range(_ROUNDS):
        a, b = _beta_of(mean, sd)
        doubted = _posterior_odds(share, _log_beta_binomial(k, n, a, b) - of_right)
        m = (a + k) / (a + b + n)
        v = m * (1.0 - m) / (a + b + n + 1.0)
        weight = np.where(use, doubted, 0.0)
        total = _WRONG_MARKETS + weight.sum()
        new = max((_WRONG_MARKETS * _WRONG_MEAN + (weight * m).sum()) / total, _LEAST_WRONG)
        square = _WRONG_MARKETS * (_WRONG_SD**2 + (_WRONG_MEAN - new) ** 2) + (weight * (v + (m - new) ** 2)).sum()
        moved = max(abs(new - mean), abs(math.sqrt(square / total) - sd))
        share = (_VENUES_WRONG + weight.sum()) / (_VENUES + use.sum())
        mean, sd = new, math.sqrt(square / total)
        if moved < _TOLERANCE:
            break
    a, b = _beta_of(mean, sd)
    doubted = _posterior_odds(share, _log_beta_binomial(k, n, a, b) - of_right)
    m = (a + k) / (a + b + n)
    v = m * (1.0 - m) / (a + b + n + 1.0)
    below = np.maximum(doubted - 0.5, 0.0) / np.maximum(doubted, 0.5)
    z = np.array([NormalDist().inv_cdf(p) if p > 0 else -math.inf for p in below])
    median = np.maximum(m + np.sqrt(v) * z, 0.0)
    return median, np.sqrt((1.0 - doubted) * median**2 + doubted * ((m - median) ** 2 + v))


def _beta_of(mean: float, sd: float) -> tuple[float, float]:
    total = mean * (1.0 - mean) / sd**2 - 1.0
    return mean * total, (1.0 - mean) * total


def _posterior_odds(share: float, log_ratio: FloatArray) -> FloatArray:
    """Chance of the alternative that had `share` before, by its log likelihood ratio."""
    return np.asarray(1.0 / (1.0 + (1.0 - share) / share * np.exp(-np.clip(log_ratio, -700.0, 700.0))))


def _log_beta_binomial(k: FloatArray, n: FloatArray, a: float, b: float) -> FloatArray:
    """Logarithm of the chance of k of n when the share is Beta(a, b), less the binomial coefficient's."""
    return _log_beta(a + k, b + n - k) - _log_beta(np.array(a), np.array(b))


def _log_beta(a: FloatArray, b: FloatArray) -> FloatArray:
    return _log_gamma(a) + _log_gamma(b) - _log_gamma(a + b)


def _log_gamma(x: FloatArray) -> FloatArray:
    """Stirling's series eight steps up: good to 1e-11 for x > 0."""
    y = x + 8.0
    steps = np.log(x)
    for i in range(1, 8):
        steps = steps + np.log(x + i)
    series = 1.0 / (12.0 * y) - 1.0 / (360.0 * y**3) + 1.0 / (1260.0 * y**5) - 1.0 / (1680.0 * y**7)
    return np.asarray((y - 0.5) * np.log(y) - y + 0.5 * math.log(2.0 * math.pi) + series - steps)


class Corrected:
    """Coefficients of one bucket length a market, wrong aggressors corrected for and their number's error included.

    Signs right with chance a, each by itself; c = 2a - 1. Of the squared flow, c² of the cross terms and all of the
    trades' own squares are left: Var Q = (Var q - (1 - c²) Σ size²) / c².
    """

    def __init__(self, statistics: pd.DataFrame, impact: ImpactEvidence, sides: Sides, bucket: NDArray[np.int64]):
        lengths = np.array(schema.IMPACT_BUCKETS, dtype=float)
        self._sides = sides
        self._seen = impact.flow_variance[np.arange(len(statistics)), bucket]
        self._minutes = lengths[bucket]
        self._squares = statistics["bucket_size_squared"].to_numpy(dtype=float) * self._minutes / 5
        self._day = statistics["day_hours"].to_numpy(dtype=float) * 60.0
        self._volume = self._signed_volume(statistics)
        signed = statistics["signed_share"].to_numpy(dtype=float)
        self._signed = np.where(signed > 0, np.minimum(signed, 1.0), 1.0)
        self._half = 0.5 * statistics["spread"].to_numpy(dtype=float)

    def _signed_volume(self, statistics: pd.DataFrame) -> FloatArray:
        """Volume of the signed trades of a bucket with mids, where the flow is seen. [contracts]

        Their squares over the mean size, by volume, of the trades that could be compared; a market may trade otherwise
        where it has no mids. With too few of these it is that of all buckets.
        """
        adv, signed, size, alike = (
            statistics[name].to_numpy(dtype=float)
            for name in ("adv", "signed_share", "compared_size", "sides_compared_alike")
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            everywhere = adv * signed * self._minutes / self._day
            return np.asarray(np.where(alike >= _COMPARED, self._squares / size, everywhere))

    def response(self, slope: FloatArray, se: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The response of the mid to flow, and its error; NaN where little is left of the flow."""
        return self._with_error(slope, se, np.zeros(len(slope)))

    def direct_cost(self, eta: FloatArray, se: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The direct cost of the rate less what the half-spread added, a fifth of which stays in the error."""
        return self._with_error(eta, se, np.ones(len(eta)))

    def _with_error(self, slope: FloatArray, se: FloatArray, costs: FloatArray) -> tuple[FloatArray, FloatArray]:
        sides = self._sides
        c = 1.0 - 2.0 * sides.wrong
        factor, added = self._factor(c), costs * self._spread_in_eta(c)
        value = (slope - added) * factor
        fewer = c - 2.0 * sides.wrong_sd
        of_count = (slope - costs * self._spread_in_eta(fewer)) * self._factor(fewer) - value
        of_sides = np.hypot(sides.log_sd, self._unsigned(c))
        error = np.sqrt((se**2 + (0.2 * added) ** 2) * factor**2 + of_count**2 + (of_sides * value) ** 2)
        return value, error

    def _unsigned(self, c: FloatArray) -> FloatArray:
        """What trades without a side leave open in the logarithm of a coefficient. [-]

        Their flow moves the mid as well. Where they are like the others and go with them, the signed share being p, it
        adds as much again as they would to the cross terms X: the coefficient is (X/p + Σ size²) / (X + Σ size²) of the
        true one. Where they go their own way it adds nothing. So it is anywhere between; over √2, for 94 to 98 % of the
        95 % intervals to hold the truth where it is all of that, by simulation over p of 0.5 to 0.8.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            cross = np.maximum(self._seen - self._squares, 0.0) / np.maximum(c, _LEAST_FLOW) ** 2
            most = np.log1p(cross * (1.0 / self._signed - 1.0) / (cross + self._squares))
        return np.asarray(np.where(np.isfinite(most), most, -np.log(self._signed)) / math.sqrt(2.0))

    def _factor(self, c: FloatArray) -> FloatArray:
        """True coefficient of flow over the one of what is seen of it; NaN where little is left of the flow. [-]"""
        with np.errstate(divide="ignore", invalid="ignore"):
            left = 1.0 - (1.0 - c**2) * self._squares / self._seen
            found = np.where((left > _LEAST_FLOW) & (c > _LEAST_FLOW), c / left, np.nan)
        return np.where(c < 1.0, found, 1.0)

    def _spread_in_eta(self, c: FloatArray) -> FloatArray:
        """What the half-spread adds to the direct cost per rate. [price/(contract/day)]

        Where signs persist, a bucket with much flow has more of its aggressors right: given the flow κ of the others, a
        side holds c + (1 - c²) κ. κ = c X / (N Var q) per contract, X the cross terms and N the volume of a bucket. The
        flow of few trades (n of them, N² = n Σ size²) is mostly one trade's own, which tells nothing of itself: n / (n
        + 0.65) is left, by simulation over 0.1 to 6 trades.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            cross = np.maximum(self._seen - self._squares, 0.0) / c**2
            n = self._volume**2 / self._squares
            per_contract = (1.0 - c**2) * c * cross / (self._volume * self._seen) * n / (n + 0.65)
            found = self._half * per_contract * self._minutes / self._day
        return np.where(c < 1.0, found, 0.0)
