"""Volatility estimators, vectorised over arrays of shape (…, bar): markets, days, or nothing before the bars.

Every function gives *variances*, in the square of what it was given: prices (Almgren-Chriss moves are arithmetic, and a
probability has no use for logarithms) or their logarithms. Efficiency is the variance of the close-to-close estimator
over the estimator's own, for a Brownian motion without drift, gaps and noise, seen at every instant.

What is measured on a market: realised variance of two-sided mids where books cover the time and move, the two-scale
realised variance of trades else, either less what slower scales call noise (`market_data.noise`). Range estimators of
5-minute bars stand beside them: they read low on thin bars (`range_share`) and high where trades bounce between bid and
ask. `yang_zhang`, `garman_klass_short` and `bad_bars` are there for bars of your own, no night uses them; what
`realised_variance`, `bipower_variance` and `close_to_close` do for an array of prices, it adds up bucket by bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

MIN_TRADES_PER_BAR = 5
"""Bars with fewer trades say too little of a range to be corrected. [-]"""


# --- one bar ------------------------------------------------------------------------------------------------


def parkinson(high: ArrayLike, low: ArrayLike) -> Floats:
    """Variance of a bar from its range: (h - l)² / (4 ln 2).

    Efficiency 4.9 (5.2 in the paper). Assumes no drift (reads high with one) and says nothing of gaps between bars.

    References
    ----------
    Parkinson (1980), "The extreme value method for estimating the variance of the rate of return", J. Business 53.
    """
    return np.asarray((np.asarray(high, dtype=float) - np.asarray(low, dtype=float)) ** 2 / (4.0 * np.log(2.0)))


def garman_klass(open_: ArrayLike, high: ArrayLike, low: ArrayLike, close: ArrayLike) -> Floats:
    """Variance of a bar: 0.511 (u - d)² - 0.019 [q (u + d) - 2 u d] - 0.383 q², with u, d, q = h, l, c less the open.

    Efficiency 7.3 (7.4 in the paper), the best of quadratic form. Assumes no drift; biased like Parkinson's. Of a bar
    whose high and low enclose its open and close it is never negative: a negative one is a bad bar (`bad_bars`).

    References
    ----------
    Garman & Klass (1980), "On the estimation of security price volatilities from historical data", J. Business 53.
    """
    u, d, q = _from_open(open_, high, low, close)
    return 0.511 * (u - d) ** 2 - 0.019 * (q * (u + d) - 2.0 * u * d) - 0.383 * q**2


def garman_klass_short(open_: ArrayLike, high: ArrayLike, low: ArrayLike, close: ArrayLike) -> Floats:
    """The practical form of `garman_klass`: (h - l)² / 2 - (2 ln 2 - 1) (c - o)². Efficiency 7.4 to the digit shown."""
    u, d, q = _from_open(open_, high, low, close)
    return np.asarray(0.5 * (u - d) ** 2 - (2.0 * np.log(2.0) - 1.0) * q**2)


def rogers_satchell(open_: ArrayLike, high: ArrayLike, low: ArrayLike, close: ArrayLike) -> Floats:
    """Variance of a bar: u (u - q) + d (d - q). Efficiency 5.8 (6.0 in the paper); unbiased whatever the drift; says
    nothing of gaps.

    References
    ----------
    Rogers & Satchell (1991), "Estimating variance from high, low and closing prices", Ann. Appl. Prob. 1.
    """
    u, d, q = _from_open(open_, high, low, close)
    return u * (u - q) + d * (d - q)


def bad_bars(open_: ArrayLike, high: ArrayLike, low: ArrayLike, close: ArrayLike) -> NDArray[np.bool_]:
    """Bars that no path of prices gives: a negative Garman-Klass term, an open or close outside of the range, or a
    number that is missing."""
    o, h, low_, c = (np.asarray(a, dtype=float) for a in (open_, high, low, close))
    # A term may fall below 0 by rounding alone: of numbers of the size of the range.
    negative = garman_klass(o, h, low_, c) < -1e-12 * (h - low_) ** 2
    missing = ~np.isfinite(o + h + low_ + c)
    return np.asarray(missing | negative | (h < np.maximum(o, c)) | (low_ > np.minimum(o, c)))


def range_share(n_trades: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """What share of a bar's variance Parkinson's, Garman-Klass' and Rogers-Satchell's estimators show of so many
    trades.

    The range is that of the trades, not of the price between and around them: of n trades at random times of a Brownian
    bar, the first one its open and the last one its close. From simulation (`_SHARES`), straight in between over 1/√n,
    by which the bias falls off; 1 for endless many. NaN below `MIN_TRADES_PER_BAR`: refused, not corrected.
    """
    n = np.asarray(n_trades, dtype=float)
    table = np.array(_SHARES)[::-1]
    x = np.append(0.0, 1.0 / np.sqrt(table[:, 0]))
    at, enough = 1.0 / np.sqrt(np.maximum(n, 1.0)), n >= MIN_TRADES_PER_BAR
    parkinsons, garman_klass_, rogers_satchells = (
        np.where(enough, np.interp(at, x, np.append(1.0, table[:, column])), np.nan) for column in (1, 2, 3)
    )
    return parkinsons, garman_klass_, rogers_satchells


# --- bars after one another ---------------------------------------------------------------------------------


def close_to_close(close: ArrayLike) -> Floats:
    """Variance a bar, mean squared move from close to close: Σ (c_i - c_(i-1))² / n over the last axis, n the bars
    from the first close to the last one.

    Efficiency 1 by definition. Unbiased without drift; bounce adds half the squared spread to every bar. A missing
    close (NaN) is left out, and the move over it counts for the bars that it spans. NaN below two closes.
    """
    c = np.asarray(close, dtype=float)
    there = np.isfinite(c)
    place = np.arange(c.shape[-1])
    first = np.min(np.where(there, place, c.shape[-1]), axis=-1, initial=c.shape[-1])
    n = np.max(np.where(there, place, -1), axis=-1, initial=-1) - first
    return np.asarray(np.where(n > 0, realised_variance(c) / np.maximum(n, 1), np.nan))


def yang_zhang(open_: ArrayLike, high: ArrayLike, low: ArrayLike, close: ArrayLike) -> Floats:
    """Variance a bar with the gap before it: Var(o_i - c_(i-1)) + k Var(c_i - o_i) + (1 - k) mean RS.

    k = 0.34 / (1.34 + (n + 1)/(n - 1)) over the n bars that have a close before them; variances with n - 1. Efficiency
    up to 14 (two bars, no gaps); unbiased with drift and with gaps. NaN below two such bars, and where a number of any
    bar is missing.

    References
    ----------
    Yang & Zhang (2000), "Drift-independent volatility estimation based on high, low, open, and close prices", J.
    Business 73.
    """
    o, h, low_, c = (np.asarray(a, dtype=float) for a in (open_, high, low, close))
    n = o.shape[-1] - 1
    if n < 2:
        return np.full(o.shape[:-1], np.nan)
    before, o, h, low_, c = c[..., :-1], o[..., 1:], h[..., 1:], low_[..., 1:], c[..., 1:]
    k = yang_zhang_weight(n)
    gaps, bodies = np.var(o - before, axis=-1, ddof=1), np.var(c - o, axis=-1, ddof=1)
    return np.asarray(gaps + k * bodies + (1.0 - k) * np.mean(rogers_satchell(o, h, low_, c), axis=-1))


def yang_zhang_weight(n: int) -> float:
    """k of `yang_zhang`, which makes its variance least."""
    return 0.34 / (1.34 + (n + 1) / (n - 1))


def realised_variance(prices: ArrayLike) -> Floats:
    """Variance of the whole path: Σ of squared moves over the last axis; missing prices are left out.

    Efficiency n, the number of moves, against the one squared move from end to end. Unbiased without noise, its own
    variance (2/3) Σ r⁴ where moves are normal given their variances; with fatter tails it is more. Bounce adds
    2 E[noise²] a move. NaN below two prices.

    References
    ----------
    Barndorff-Nielsen & Shephard (2002), "Econometric analysis of realized volatility and its use in estimating
    stochastic volatility models", J. R. Stat. Soc. B 64.
    """
    p = _dense(prices)
    n = np.sum(np.isfinite(p), axis=-1)
    return np.asarray(np.where(n > 1, np.sum(_moves(p) ** 2, axis=-1), np.nan))


def bipower_variance(prices: ArrayLike) -> Floats:
    """Variance of the path without its jumps: (π/2) Σ |r_i| |r_(i-1)| over the last axis; missing prices are left out.

    Efficiency 0.77 of realised variance's where there are no jumps; reads low by 1/n. NaN below three prices.

    References
    ----------
    Barndorff-Nielsen & Shephard (2004), "Power and bipower variation with stochastic volatility and jumps", J. Fin.
    Econometrics 2.
    """
    p = _dense(prices)
    n, sizes = np.sum(np.isfinite(p), axis=-1), np.abs(_moves(p))
    return np.asarray(np.where(n > 2, np.pi / 2.0 * np.sum(sizes[..., 1:] * sizes[..., :-1], axis=-1), np.nan))


@dataclass(frozen=True)
class TwoScale:
    """The two-scale realised variance of paths, over the last axis of the prices it was made of."""

    variance: Floats
    """Variance of the whole path; may be negative by chance: floor it only after adding up days. [price²]"""
    error: Floats
    """Variance of `variance`. [price⁴]"""
    noise: Floats
    """Variance of the noise of one price: RV / 2n. Half the spread squared where trades bounce. [price²]"""
    n: NDArray[np.int64]
    """Moves; 0 where there were too few to tell noise from variance, and nothing was measured. [-]"""


def two_scale_variance(prices: ArrayLike, slower: int = 1) -> TwoScale:
    """Variance of a path seen through noise: RV at a slow scale less what noise adds to it, told by RV at a fast one.

    (RV^(K) - c RV^(J)) / (1 - c), RV^(K) the sum of squared moves over all windows of K moves, divided by K, and c =
    J (n + K - 1) / (K (n + J - 1)). Windows that hang over an end count with the part that is there: without them the
    moves at both ends count for less than the others, and σ of a day that is liveliest there reads 5 % low. K is
    n^(2/3)/3, at least 2, times `slower`; J is 1, or where `slower` is above 1 the even number next to K/3: prices that
    alternate are alike J apart as they are K apart, so that nothing of them is taken off that is not there. Missing
    prices (NaN) are left out: the clock is that of the prices that are there. Unbiased, however variance is spread over
    the path, with noise that is independent J prices apart: noise that persists longer, as signs of trades do, makes it
    read high, noise that alternates from price to price low. Without noise its variance is K/1.5 times that of realised
    variance, and (1 + 2J/K) times as much again.

    `error` is that of constant variance: (4/3)(1 + 2J/K)(K/n) V² + (8 e V/K + 8 e² n/K²) / (1 - c)², e = (RV - V) / 2n.

    References
    ----------
    Zhang, Mykland & Aït-Sahalia (2005), "A tale of two time scales", JASA 100; Aït-Sahalia, Mykland & Zhang (2011),
    "Ultra high frequency volatility estimation with dependent microstructure noise", J. Econometrics 160 (J above 1).
    """
    p = _dense(prices)
    n = np.sum(np.isfinite(p), axis=-1) - 1
    enough = n >= MIN_TWO_SCALE_MOVES
    m = np.where(enough, n, MIN_TWO_SCALE_MOVES)
    k = slower * _slow_windows(m)
    j = 2 * np.maximum(np.rint(k / 6.0).astype(np.int64), 1) if slower > 1 else np.ones_like(k)
    c = j * (m + k - 1) / (k * (m + j - 1))
    fast = np.sum(_moves(p) ** 2, axis=-1)
    variance = (_of_windows(p, n, k) - c * (_of_windows(p, n, j) if slower > 1 else fast)) / (1.0 - c)
    noise, v = fast / (2.0 * m), np.maximum(variance, 0.0)
    alone = np.maximum(fast - v, 0.0) / (2.0 * m)
    of_noise = (8.0 * alone * v / k + 8.0 * alone**2 * m / k**2) / (1.0 - c) ** 2
    error = 4.0 / 3.0 * (1.0 + 2.0 * j / k) * k / m * v**2 + of_noise
    nothing = np.zeros_like(variance)
    return TwoScale(
        variance=np.where(enough, variance, nothing),
        error=np.where(enough, error, nothing),
        noise=np.where(enough, noise, nothing),
        n=np.where(enough, n, 0).astype(np.int64),
    )


def most_too_much(n: ArrayLike) -> Floats:
    """How much more than the noise two scales may take off n moves, over what they take off: 1 / (K - 1).

    With γ(i) the covariance of noise i prices apart, realised variance has 2n (γ(0) - γ(1)) of it, and the two scales
    take off 2n (γ(K) - γ(1)) / (K - 1) too much: most where prices alternate and K is even.
    """
    return np.asarray(1.0 / (_slow_windows(np.asarray(n, dtype=float)) - 1.0))


def _slow_windows(n: Floats | NDArray[np.int64]) -> NDArray[np.int64]:
    """K of `two_scale_variance`. [moves]"""
    return np.maximum(np.rint(n ** (2.0 / 3.0) / 3.0).astype(np.int64), 2)


def _of_windows(dense: Floats, n: NDArray[np.int64], k: NDArray[np.int64]) -> Floats:
    """Squared moves over windows of k of the n moves, summed and divided by k; those over an end too."""
    last = np.maximum(n, 0)[..., np.newaxis]
    # As many for every path, the widest windows of other paths or not: sums of as many terms round alike.
    starts = np.arange(1 - dense.shape[-1], dense.shape[-1])
    ends = starts + k[..., np.newaxis]
    ours = (ends > 0) & (starts < last)
    begins, ends = np.clip(starts, 0, last), np.clip(ends, 0, last)
    moves = np.take_along_axis(dense, ends, axis=-1) - np.take_along_axis(dense, begins, axis=-1)
    return np.asarray(np.sum(np.where(ours, moves, 0.0) ** 2, axis=-1) / k)


MIN_TWO_SCALE_MOVES = 8
"""Fewer moves: the slow scale would be the fast one. [-]"""


# --- what a probability can do ------------------------------------------------------------------------------


def probability_ceiling(price: ArrayLike, days_left: ArrayLike) -> Floats:
    """The largest σ that lasts: σ² T ≤ p (1 - p), the whole variance that a martingale has left to 0 or 1. [1/√day]"""
    smaller, left = _smaller(price), np.asarray(days_left, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((left > 0) & (smaller > 0), np.sqrt(smaller * (1.0 - smaller) / left), np.nan)


def probability_prior(price: ArrayLike, days_left: ArrayLike) -> Floats:
    """σ of a probability by its price and the time to its resolution: φ(Φ⁻¹(p)) / √T. [1/√day]

    The price is Φ of a Brownian view of what decides it, even in information over time. Below `probability_ceiling`
    everywhere, and the same for p and 1 - p. NaN for what is no probability, or so near to 0 or 1 that 1 - p is not
    told from 1 (5e-17).
    """
    smaller, left = _smaller(price), np.asarray(days_left, dtype=float)
    inside = (left > 0) & (smaller > 0)
    z = np.vectorize(NormalDist().inv_cdf, otypes=[float])(np.where(inside, smaller, 0.5))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(inside, np.exp(-(z**2) / 2.0) / np.sqrt(2.0 * np.pi) / np.sqrt(left), np.nan)


def with_prior(
    statistics: pd.DataFrame, reference: pd.DataFrame, session_end: pd.Series, prior_log_sd: float
) -> pd.DataFrame:
    """Statistics with the σ of every probability drawn towards its prior, and held below its ceiling.

    Parameters
    ----------
    statistics : DataFrame
        As `window_statistics` gives it.
    reference : DataFrame
        `ReferenceData.of` the same rows: kind and resolution time.
    session_end : Series of datetime64[us, UTC]
        From when the time to the resolution counts, in trading days of `day_hours`.
    prior_log_sd : float
        Standard deviation of log σ about log of `probability_prior`. [-]

    Returns
    -------
    DataFrame
        With sigma, sigma_se and sigma_source replaced for kind `probability` with a resolution still to come: log σ is
        the mean of measure and prior, weighted by precision, and `sigma_prior_weight` is the prior's share of it.
        What was never measured is the prior alone (`martingale_prior`). sigma_prior and sigma_ceiling are NaN for all
        others.
    """
    left = reference["resolution_time"].array - session_end.array
    days = np.asarray(left / np.timedelta64(1, "h"), dtype=float) / statistics["day_hours"].to_numpy(dtype=float)
    days = np.where((reference["kind"] == "probability").to_numpy(), days, np.nan)
    price = statistics["price"].to_numpy(dtype=float)
    prior, ceiling = probability_prior(price, days), probability_ceiling(price, days)

    sigma, error = statistics["sigma"].to_numpy(dtype=float), statistics["sigma_se"].to_numpy(dtype=float)
    known = np.isfinite(prior)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = error / sigma
        # A σ of 0 or without an error says nothing that the prior must mind.
        weight = np.where(np.isfinite(relative), relative**2 / (relative**2 + prior_log_sd**2), 1.0)
        weight = np.where(known, weight, 0.0)
        drawn = np.exp((1.0 - weight) * np.log(np.where(weight < 1, sigma, 1.0)) + weight * np.log(prior))
        drawn_error = drawn * np.sqrt(weight) * prior_log_sd
    return statistics.assign(
        sigma=np.where(known, np.minimum(drawn, ceiling), sigma),
        sigma_se=np.where(known, drawn_error, error),
        sigma_source=np.where(known & (weight == 1), "martingale_prior", statistics["sigma_source"]),
        sigma_prior=prior,
        sigma_prior_weight=weight,
        sigma_ceiling=ceiling,
    )


# --- inside -------------------------------------------------------------------------------------------------


def _smaller(price: ArrayLike) -> Floats:
    """min(p, 1 - p), the same for both tokens of a pair to the last bit: 1 less the larger one, which rounds nothing,
    as 1 - p rounds for a small p only."""
    p = np.asarray(price, dtype=float)
    return np.asarray(1.0 - np.maximum(p, 1.0 - p))


# Trades a bar; share of the variance that Parkinson, Garman-Klass and Rogers-Satchell show. 12,000 to 600,000 bars
# each.
_SHARES = (
    (5, 0.3418, 0.2138, 0.1795),
    (7, 0.4236, 0.2949, 0.2659),
    (10, 0.5044, 0.3817, 0.3591),
    (15, 0.5875, 0.4746, 0.4576),
    (20, 0.6392, 0.5355, 0.5223),
    (30, 0.7034, 0.6125, 0.6033),
    (50, 0.7695, 0.6938, 0.6878),
    (100, 0.8339, 0.7787, 0.7761),
    (200, 0.8819, 0.8391, 0.8376),
    (500, 0.9329, 0.9048, 0.9036),
    (1000, 0.9512, 0.9271, 0.9239),
)


def _from_open(open_: ArrayLike, high: ArrayLike, low: ArrayLike, close: ArrayLike) -> tuple[Floats, Floats, Floats]:
    o = np.asarray(open_, dtype=float)
    return np.asarray(high, dtype=float) - o, np.asarray(low, dtype=float) - o, np.asarray(close, dtype=float) - o


def _dense(prices: ArrayLike) -> Floats:
    """The prices that are there, moved to the front; NaN behind them."""
    p = np.asarray(prices, dtype=float)
    order = np.argsort(~np.isfinite(p), axis=-1, kind="stable")
    return np.take_along_axis(p, order, axis=-1)


def _moves(dense: Floats) -> Floats:
    moves = np.diff(dense, axis=-1)
    return np.where(np.isfinite(moves), moves, 0.0)
