"""What the tape says about impact: estimates and errors from the sums of market days, for all markets at once.

Three views of the same buckets (`schema` says which sums): the *response* of the mid to signed flow, the *direct cost*
of the trades that made the flow, and a *power law* through the origin, r = P sign(q) |q|^d, by profile least squares on
signed moves. Public flow is informed: none of the three is the level that an own order would pay
(docs/calibration.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tributary_opt import schema
from tributary_opt.calibration.least_squares import LEAST_EFFECTIVE, MIN_DAY_CLUSTERS, Floats, Lines, lines, sums

if TYPE_CHECKING:
    import pandas as pd

NO_FLOW, ONE_SIDED, TOO_FEW_CLUSTERS = "no_signed_flow", "one_sided_flow", "too_few_clusters"
AT_BOUND, NO_RESPONSE = "exponent_at_bound", "no_response"

_PLACE = {name: i for i, name in enumerate(schema.IMPACT_MOMENTS)}
_RESPONSE, _DIRECT = ([_PLACE[name] for name in names] for names in (schema.IMPACT_RESPONSE, schema.IMPACT_DIRECT))
_WITH_MOVE, _SQUARED = ([_PLACE[pair[i]] for pair in schema.IMPACT_POWER] for i in (0, 1))
_NODES = np.array(schema.IMPACT_EXPONENTS)


@dataclass(frozen=True)
class ImpactEvidence:
    """Estimates with their errors, shape (markets, bucket lengths); NaN where not identified, and the reason why.

    Standard errors without another name are clustered: by trading day where at least `MIN_DAY_CLUSTERS` have signed
    flow and none outweighs the others, else by 2-hour block; below as many blocks never under the
    heteroskedasticity-robust ones. Errors by day are exact. Those of the response by block are exact where flow and
    moves have no mean, and else within some percent: with an intercept they would need the products of five sums of a
    block, 15 a length, which is not kept. Those of the direct cost by block are the robust ones, raised as the
    response's are and to those by day where these are larger.
    """

    market_id: NDArray[np.object_]
    token_id: NDArray[np.object_]
    buckets: tuple[int, ...]
    """Bucket lengths. [minutes]"""
    cluster: NDArray[np.object_]
    """day | block"""
    n: Floats
    """Pairs of adjacent buckets both with a mid. [-]"""
    n_clusters: Floats
    """Days, or blocks, with signed flow. [-]"""
    n_effective: Floats
    """How many alike they are worth (`Lines.n_effective`): less one, the degrees of freedom of the response. [-]"""
    flow_rms: Floats
    """Root mean square of signed flow in a bucket. [contracts]"""
    move_rms: Floats
    """Root mean square of the mid's move. [price]"""

    slope: Floats
    """Response: move of the mid per contract of signed flow within the cap, with an intercept. [price/contract]"""
    slope_se: Floats
    slope_se_hc0: Floats
    slope_se_classical: Floats
    intercept: Floats
    """[price]"""
    rss: Floats
    """Residual sum of squares of the response. [price^2]"""
    r2: Floats
    reason: NDArray[np.object_]
    """Why there is no response; empty where there is one."""
    uncapped: Floats
    """Flow over flow within the cap, as the regression sees it, >= 1: the response per contract is `slope` over it.

    With q the flow within the cap and f the flow itself, Cov(q, f) / Var(q). slope / uncapped is Cov(q, r) / Cov(q, f),
    an instrumental variable's estimate: right where moves follow the whole flow, and no outlier counts for more than
    the cap. [-]"""
    flow_variance: Floats
    """Mean squared flow of a bucket without the cap, by the days' weights: measured at the shortest length, and from
    there on by how much less the cap takes of longer ones. [contracts^2]"""

    n_direct: Floats
    """Buckets with signed flow. [-]"""
    n_direct_effective: Floats
    """`n_effective` of the direct cost. [-]"""
    direct_epsilon: Floats
    """Direct cost at no rate. [price]"""
    direct_epsilon_se: Floats
    direct_eta: Floats
    """Direct cost per rate of flow; a day is as long as the market's sessions are on average.
    [price/(contract/day)]"""
    direct_eta_se: Floats
    direct_eta_se_hc0: Floats
    direct_reason: NDArray[np.object_]
    direct_uncapped: Floats
    """`uncapped` of the direct cost, with its intercept: Cov(|q|, |f|) / Var(|q|). [-]"""

    exponent: Floats
    """d of the power law, within the grid of `schema.IMPACT_EXPONENTS`. [-]"""
    exponent_se: Floats
    """NaN where d lies on the grid's bound (`power_reason` says so). [-]"""
    prefactor: Floats
    """P of the power law. [price/contract^d]"""
    prefactor_se: Floats
    power_reason: NDArray[np.object_]


def impact_evidence(rows: pd.DataFrame, weights: Floats | None = None) -> ImpactEvidence:
    """Evidence of every market from its market days.

    Parameters
    ----------
    rows : DataFrame
        Rows of `ac_market_days` sorted by market, token and day, as `MarketDays.load` gives them.
    weights : ndarray, one a row, optional
        What a day's buckets count for, such as a decay with age; only ratios matter. [-]

    Returns
    -------
    ImpactEvidence
        One row for each (market, token) of `rows`, in their order, which is that of `window_statistics`. Days add up:
        it does not matter how buckets are divided among rows, the clusters aside. A market's evidence does not depend
        on which others there are.
    """
    market, token = rows["market_id"].to_numpy(dtype=object), rows["token_id"].to_numpy(dtype=object)
    starts = np.append(True, (market[1:] != market[:-1]) | (token[1:] != token[:-1]))[: len(rows)]
    group, n = np.cumsum(starts) - 1, int(starts.sum())
    w = None if weights is None else np.asarray(weights, dtype=float)
    if w is not None and not (w.shape == (len(rows),) and (np.isfinite(w) & (w >= 0)).all()):
        raise ValueError(f"weights must be one finite number >= 0 for each of {len(rows)} rows")
    days = _session_days(rows, group, n, w)
    parts: list[dict[str, NDArray[Any]]] = []
    for minutes in schema.IMPACT_BUCKETS:
        of = moments(rows, minutes)
        if not parts:
            shortest = of[:, _PLACE["qq"]].copy()
        parts.append(
            _of_length(of, group, n, w, minutes / 1440.0 / days) | _uncapped(of, _cap(rows, minutes), group, n, w)
        )
    whole = _whole_flow(rows, shortest, group, n, w, parts[0]["beyond"])
    for part in parts:
        part["flow_variance"] = part.pop("squared_flow") * (1.0 + whole * part.pop("beyond"))
    columns = {name: np.stack([part[name] for part in parts], axis=1) for name in parts[0]}
    return ImpactEvidence(market[starts], token[starts], schema.IMPACT_BUCKETS, **columns)


def moments(rows: pd.DataFrame, minutes: int) -> Floats:
    """`IMPACT_MOMENTS` as one matrix; a row without an array, or with one of an older layout, counts for nothing."""
    width, n_counts = len(schema.IMPACT_SUMS), len(schema.IMPACT_COUNTS)
    values = rows[f"impact_{minutes}m"].to_numpy(dtype=object)
    have = np.array([isinstance(a, np.ndarray) and len(a) == width for a in values], dtype=bool)
    out = np.zeros((len(values), n_counts + width))
    if have.any():
        out[have, n_counts:] = np.concatenate(values[have]).reshape(-1, width)
        for i, called in enumerate(schema.IMPACT_COUNTS.values()):
            out[have, i] = rows[f"impact_{minutes}m_{called}"].to_numpy(dtype=float)[have]
    return out


def _cap(rows: pd.DataFrame, minutes: int) -> Floats:
    """Bound on the flow of a bucket of this length, by row; inf where there is none. [contracts]"""
    cap = rows["flow_cap"].to_numpy(dtype=float) if "flow_cap" in rows else np.full(len(rows), np.nan)
    return np.where(np.isnan(cap), np.inf, cap * np.sqrt(minutes / schema.IMPACT_BUCKETS[0]))


def _uncapped(
    rows: Floats, cap: Floats, group: NDArray[np.int64], n: int, weights: Floats | None
) -> dict[str, NDArray[Any]]:
    """What the flow is over what the cap left of it, for both lines; how much lies beyond it; the mean square within.

    q (f - q) is the cap times what lies beyond it: so Σ |f| = Σ |q| + Σ q (f - q) / cap, of which the buys' part is
    taken to be as large as it is of the flow within the cap.
    """
    w = np.ones(len(rows)) if weights is None else weights
    qq, product = rows[:, _PLACE["qq"]], rows[:, _PLACE[schema.IMPACT_UNCAPPED]]
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(cap > 0, np.maximum(product - qq, 0.0) / cap, 0.0)
        count, m, q, x, beyond, squares, products = (
            sums(group, w * of, n)
            for of in (*(rows[:, _PLACE[name]] for name in ("n", "m", "q", "x")), excess, qq, product)
        )
        flow = q * (1.0 + beyond / x)
        response = (products - q * flow / count) / (squares - q * q / count)
        direct = (products - x * (x + beyond) / m) / (squares - x * x / m)
        share, squared = products / squares - 1.0, squares / count
    return {
        **{name: _at_least(1.0, of) for name, of in (("uncapped", response), ("direct_uncapped", direct))},
        "beyond": _at_least(0.0, share),
        "squared_flow": _at_least(0.0, squared),
    }


def _at_least(least: float, values: Floats) -> Floats:
    return np.where(np.isfinite(values), np.maximum(values, least), least)


def _whole_flow(
    rows: pd.DataFrame, within: Floats, group: NDArray[np.int64], n: int, weights: Floats | None, beyond: Floats
) -> Floats:
    """What mean squared flow is more than within the cap, over `beyond`, at the shortest length; 2 to first order."""
    w = np.ones(len(rows)) if weights is None else weights
    squared = rows["flow_squared"].to_numpy(dtype=float) if "flow_squared" in rows else np.zeros(len(rows))
    known = squared > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        more = (
            sums(group, w * np.where(known, squared, 0.0), n) / sums(group, w * np.where(known, within, 0.0), n) - 1.0
        )
        return np.where(beyond > 0, _at_least(2.0, more / beyond), 2.0)


def _session_days(rows: pd.DataFrame, group: NDArray[np.int64], n: int, weights: Floats | None) -> Floats:
    """Mean length of each market's sessions, as its daily volume and variance are those of a mean day. [24 h]

    A bucket is as long on every day, and so is the cost of its flow; only a rate per day asks how long a day is.
    """
    length = (rows["session_end"] - rows["session_start"]).dt.total_seconds().to_numpy(dtype=float) / 86_400.0
    known = np.where(np.isfinite(length) & (length > 0), 1.0 if weights is None else weights, 0.0)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums(group, known * np.where(known > 0, length, 0.0), n) / sums(group, known, n))


def _of_length(
    rows: Floats, group: NDArray[np.int64], n: int, weights: Floats | None, bucket_days: Floats
) -> dict[str, NDArray[Any]]:
    """All columns for one bucket length."""
    response, direct = (lines(rows[:, places], group, n, weights) for places in (_RESPONSE, _DIRECT))
    total = sums(group, rows, n)
    n_signed = total[:, _PLACE["m"]]
    reason = np.where(n_signed == 0, NO_FLOW, response.reason)
    # Only buys, or only sells: what price does without flow is then never seen.
    one_sided = np.abs(total[:, _PLACE["q"]]) >= (1 - 1e-12) * total[:, _PLACE["x"]]
    reason = np.where((reason == "") & one_sided, ONE_SIDED, reason)
    direct_reason = np.where(n_signed == 0, NO_FLOW, direct.reason)

    by_day, direct_by_day = (_enough(found) for found in (response, direct))
    blocks = total[:, _PLACE["blocks"]]
    robust, classical, effective_blocks = _block_inflation(rows, group, n, weights, response)
    slope_se = np.where(by_day, response.slope_se_clustered, response.slope_se_hc0 * np.sqrt(robust))
    # What buckets of a block share of their costs is not kept: what those of a day share stands in for it.
    direct_robust = np.sqrt(np.maximum(robust, 1.0))
    eta_se, epsilon_se = (
        np.where(direct_by_day, by_days, np.fmax(hc0 * direct_robust, by_days))
        for by_days, hc0 in (
            (direct.slope_se_clustered, direct.slope_se_hc0),
            (direct.intercept_se_clustered, direct.intercept_se_hc0),
        )
    )
    # Flow within one block says nothing of how much blocks differ.
    reason = np.where((reason == "") & ~np.isfinite(slope_se), TOO_FEW_CLUSTERS, reason)
    direct_reason = np.where((direct_reason == "") & ~np.isfinite(eta_se), TOO_FEW_CLUSTERS, direct_reason)
    ok, direct_ok = reason == "", direct_reason == ""
    power = _power_law(rows, group, n, weights, response, by_day, classical, reason)

    def known(values: Floats) -> Floats:
        return np.where(ok, values, np.nan)

    def known_direct(values: Floats) -> Floats:
        return np.where(direct_ok, values, np.nan)

    return {
        "cluster": np.where(by_day, "day", "block").astype(object),
        "n": response.n,
        "n_clusters": np.where(by_day, response.n_clusters, blocks),
        "n_effective": np.where(by_day, response.n_effective, effective_blocks),
        "flow_rms": np.where(n_signed > 0, response.x_scale, 0.0),
        "move_rms": np.where(total[:, _PLACE["rr"]] > 0, response.y_scale, 0.0),
        "slope": known(response.slope),
        "slope_se": known(slope_se),
        "slope_se_hc0": known(response.slope_se_hc0),
        "slope_se_classical": known(response.slope_se_classical),
        "intercept": known(response.intercept),
        "rss": known(response.rss),
        "r2": known(response.r2),
        "reason": reason.astype(object),
        "n_direct": n_signed,
        "n_direct_effective": np.where(direct_by_day, direct.n_effective, effective_blocks),
        "direct_epsilon": known_direct(direct.intercept),
        "direct_epsilon_se": known_direct(epsilon_se),
        "direct_eta": known_direct(direct.slope * bucket_days),
        "direct_eta_se": known_direct(eta_se * bucket_days),
        "direct_eta_se_hc0": known_direct(direct.slope_se_hc0 * bucket_days),
        "direct_reason": direct_reason.astype(object),
        **power,
    }


def _enough(found: Lines) -> NDArray[np.bool_]:
    """Whether a market's days say enough about themselves."""
    return (found.n_clusters >= MIN_DAY_CLUSTERS) & (found.n_effective >= LEAST_EFFECTIVE)


def _block_inflation(
    rows: Floats, group: NDArray[np.int64], n: int, weights: Floats | None, response: Lines
) -> tuple[Floats, Floats, Floats]:
    """By how much clustering by blocks changes a variance: over the robust one, and over the classical one; and how
    many blocks alike there are.

    From the scores q(r - slope·q), of buckets and of whole blocks, with the usual factor for few clusters,
    G/(G-1)·(n-1)/(n-2). They leave out the intercept, which is worth no more than one block among all. Never below 1
    with fewer than `MIN_DAY_CLUSTERS` blocks, which say too little about themselves; NaN with fewer than two.
    """
    q, r = response.x_scale, response.y_scale
    places = [_PLACE[name] for name in ("qqrr", "qqqr", "qqqq", *schema.IMPACT_BLOCK, "qq", "rr", "qr")]
    q_powers, r_powers = np.array((2, 3, 4, 2, 3, 4, 2, 0, 1)), np.array((2, 1, 0, 2, 1, 0, 0, 2, 1))
    w = np.ones(len(rows)) if weights is None else weights
    unit = rows[:, places] / (q[group, np.newaxis] ** q_powers * r[group, np.newaxis] ** r_powers)
    single, mixed, quartic, block_single, block_mixed, block_quartic, qq, rr, qr = sums(
        group, unit * (w * w)[:, np.newaxis], n
    ).T
    blocks = sums(group, rows[:, _PLACE["blocks"]] * (w > 0), n)
    leverage = sums(group, unit[:, places.index(_PLACE["qq"])] * w * w, n)
    leverages = sums(group, unit[:, places.index(_PLACE["block_qq_qq"])] * w**4, n)
    with np.errstate(divide="ignore", invalid="ignore"):
        b = response.slope * q / r
        by_bucket = single - 2 * b * mixed + b * b * quartic
        by_block = block_single - 2 * b * block_mixed + b * b * block_quartic
        alike = (rr - 2 * b * qr + b * b * qq) * qq / response.n
        few = np.where(blocks > 1, blocks / (blocks - 1) * (response.n - 1) / (response.n - 2), np.nan)
        effective = np.where(blocks > 0, leverage**2 / leverages, 0.0)
        least = np.where(effective < MIN_DAY_CLUSTERS, 1.0, 0.0)
        robust, classical = (np.maximum(few * by_block / of, least) for of in (by_bucket, alike))
    return robust, classical, effective


# --- the power law --------------------------------------------------------------------------------------------

_FINE = np.linspace(_NODES[0], _NODES[-1], 141)


def _basis(d: Floats) -> tuple[Floats, Floats, Floats]:
    """Lagrange's polynomials over the grid of exponents at d, with their first and second derivatives."""
    value, first, second = (np.empty((*np.shape(d), len(_NODES))) for _ in range(3))
    for k, node in enumerate(_NODES):
        others = np.delete(_NODES, k)
        polynomial = np.poly1d(others, r=True) / np.prod(node - others)
        value[..., k], first[..., k], second[..., k] = (polynomial.deriv(i)(d) for i in range(3))
    return value, first, second


def _power_law(
    rows: Floats,
    group: NDArray[np.int64],
    n: int,
    weights: Floats | None,
    response: Lines,
    by_day: NDArray[np.bool_],
    inflation: Floats,
    line_reason: NDArray[np.object_],
) -> dict[str, NDArray[Any]]:
    """Exponent and prefactor, profiled over the grid; the sums are smooth in the exponent, so they are interpolated."""
    q, r = response.x_scale, response.y_scale
    w, ok = np.ones(len(rows)) if weights is None else weights, line_reason == ""
    q_power = q[:, np.newaxis] ** _NODES
    cross = rows[:, _WITH_MOVE] / (q_power * r[:, np.newaxis])[group]
    square = rows[:, _SQUARED] / (q_power * q_power)[group]
    c, a = (sums(group, part * w[:, np.newaxis], n) for part in (cross, square))
    with np.errstate(divide="ignore", invalid="ignore"):
        # The part of Σr² that the law explains is (Σ s r |q|^d)² / Σ|q|^2d.
        explained = np.where(ok[:, np.newaxis], _at(c, _BASIS) ** 2 / _at(a, _BASIS), 0.0)
        best = np.argmax(explained, axis=1)
        d = _parabola(explained, best)
        at_bound = (best == 0) | (best == len(_FINE) - 1)

        value, first, second = _basis(d)
        big_c, big_a = (np.sum(part * value, axis=1) for part in (c, a))
        a1, a2 = np.sum(a * first, axis=1), np.sum(a * second, axis=1)
        p = big_c / big_a
        # Gauss-Newton's matrix of (P, d), and its part for d once P is taken out.
        h11, h12, h22 = big_a, p * a1 / 2, p * p * a2 / 4
        for_d = h22 - h12**2 / h11
        rss = np.maximum(sums(group, w * rows[:, _PLACE["rr"]], n) / r**2 - p * big_c, 0.0)

        value, first = value[group], first[group]
        c_row, a_row = np.sum(cross * value, axis=1), np.sum(square * value, axis=1)
        c1_row, a1_row = np.sum(cross * first, axis=1), np.sum(square * first, axis=1)
        s1 = w * (c_row - p[group] * a_row)
        s2 = w * p[group] * (c1_row - p[group] * a1_row / 2)
        of_d = (s2 - (h12 / h11)[group] * s1) / for_d[group]
        of_p = np.where(at_bound[group], s1 / h11[group], (s1 - h12[group] * of_d) / h11[group])
        g = response.n_clusters
        few = g / (g - 1) * (response.n - 1) / (response.n - 2)
        variance = rss / (response.n - 2) * inflation
        d_se = np.sqrt(np.where(by_day, few * sums(group, of_d**2, n), variance / for_d))
        p_var = np.where(at_bound, 1 / h11, h22 / (h11 * for_d))
        p_se = np.sqrt(np.where(by_day, few * sums(group, of_p**2, n), variance * p_var))
        unit = r / q**d
        # Without a response there is no curve whose bend could be measured: |P| is then within one error of nothing.
        flat = ~(np.abs(p) > np.sqrt(np.where(by_day, few * sums(group, (s1 / h11[group]) ** 2, n), variance / h11)))

    reason = np.where(ok, np.where(flat, NO_RESPONSE, np.where(at_bound, AT_BOUND, "")), line_reason)
    curved = reason == ""
    given = ok & ~flat
    return {
        "exponent": np.where(given, d, np.nan),
        "exponent_se": np.where(curved, d_se, np.nan),
        "prefactor": np.where(given, p * unit, np.nan),
        "prefactor_se": np.where(given, p_se * unit, np.nan),
        "power_reason": reason.astype(object),
    }


def _at(values: Floats, basis: Floats) -> Floats:
    """Interpolated sums at every fine exponent: added node by node, so that no market's digits depend on the others."""
    out = np.zeros((len(values), len(basis)))
    for k in range(values.shape[1]):
        out += values[:, k : k + 1] * basis[:, k]
    return out


_BASIS = _basis(_FINE)[0]


def _parabola(values: Floats, best: NDArray[np.int64]) -> Floats:
    """Where the parabola through the highest fine exponent and its neighbours is highest; the bound itself there."""
    i = np.clip(best, 1, len(_FINE) - 2)
    low, top, high = (np.take_along_axis(values, (i + k)[:, np.newaxis], axis=1)[:, 0] for k in (-1, 0, 1))
    bend = low - 2 * top + high
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(bend < 0, 0.5 * (low - high) / bend, 0.0)
    step = _FINE[1] - _FINE[0]
    return np.where(best == i, _FINE[i] + np.clip(shift, -1, 1) * step, _FINE[best])
