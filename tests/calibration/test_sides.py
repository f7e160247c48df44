"""How far aggressors are believed: the mixture over markets, inferred sides, and what it does to coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest
from impact_tape import Buckets, frame, market_day
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import betaln
from test_parameters import measured

from tributary_opt.calibration.impact_evidence import impact_evidence
from tributary_opt.calibration.parameters import calibrate
from tributary_opt.calibration.sides import Corrected, Sides, believed
from tributary_opt.market_data.buckets import zero_rows
from tributary_opt.market_data.calendars import trading_calendar
from tributary_opt.market_data.impact_sums import impact_columns
from tributary_opt.market_data.market_days import Window, in_order
from tributary_opt.market_data.statistics import day_weights, window_statistics
from tributary_opt.settings import CalibrationRules


def sides(compared: ArrayLike, contradicted: ArrayLike = 0.0, kind: str = "price", **shares: float) -> Sides:
    """What is believed of markets by trades compared and the share of them that was contradicted."""
    n = np.atleast_1d(np.asarray(compared, dtype=float))
    frame = pd.DataFrame({"sides_compared_alike": n, "sides_contradicted": contradicted})
    for name in ("quote_rule_share", "fresh_rule_share", "tick_rule_share"):
        frame[name] = shares.get(name, 0.0)
    return believed(frame, np.full(len(n), kind, dtype=object), np.full(len(n), True), None)


def drawn(wrong: ArrayLike, seed: int = 1, n: int = 2_000, markets: int = 40) -> Sides:
    share = np.broadcast_to(wrong, markets)
    return sides(np.full(markets, n), np.random.default_rng(seed).binomial(n, share) / n)


@pytest.mark.parametrize("wrong", [0.0, 0.005])
def test_sides_are_right_where_the_quotes_contradict_no_more_than_quotes_err(wrong: float) -> None:
    found = drawn(wrong)
    assert (found.accuracy == 1.0).all()
    assert found.se.max() < 0.002


@pytest.mark.parametrize("wrong", [0.1, 0.2, 0.45])
def test_wrong_sides_are_counted_within_their_error(wrong: float) -> None:
    found = drawn(wrong)
    z = (found.accuracy - (1 - wrong)) / found.se
    assert abs(found.accuracy.mean() - (1 - wrong)) < 2 * math.sqrt(wrong * (1 - wrong) / 80_000) + 0.001
    assert 0.3 < z.std() < 1.2


def test_half_of_the_venues_wrong_leaves_the_other_half_right() -> None:
    found = drawn(np.arange(40) % 2 * 0.1)
    assert (found.accuracy[::2] == 1.0).all()
    np.testing.assert_allclose(found.accuracy[1::2], 0.9, atol=0.03)


def test_market_that_shows_nothing_is_believed_as_its_peers_with_their_width() -> None:
    n, share = np.append(np.full(39, 2_000.0), 0.0), np.append(np.full(39, 0.1), np.nan)
    of_wrong, of_right = sides(n, share), sides(n, np.nan_to_num(0 * share))
    assert of_wrong.accuracy[-1] == pytest.approx(0.9, abs=0.01)
    assert of_wrong.se[-1] > 3 * of_wrong.se[0]
    assert of_right.accuracy[-1] == 1.0
    assert 0.005 < of_right.se[-1] < 0.03


@pytest.mark.parametrize(("n", "share"), [(0.0, np.nan), (8.0, 0.125), (1_000.0, 0.02)])
def test_one_market_alone_is_not_doubted_on_little(n: float, share: float) -> None:
    found = sides(n, share)
    assert found.accuracy[0] == 1.0
    assert 0.002 < found.se[0] < 0.1


def test_one_market_alone_is_doubted_by_the_odds_that_two_beta_distributions_give() -> None:
    """Against scipy: right, Beta(0.5, 100), against wrong, with mean 0.15 and sd 0.1, at 19 to 1."""
    n, share = 400.0 / (1 + 400.0 / 3_600), 0.06
    k, total = share * n, 0.15 * 0.85 / 0.1**2 - 1
    a, b = 0.15 * total, 0.85 * total
    right, wrong = (betaln(x + k, y + n - k) - betaln(x, y) for x, y in ((0.5, 100.0), (a, b)))
    doubt = 0.05 / (0.05 + 0.95 * math.exp(right - wrong))
    posterior = stats.beta(a + k, b + n - k)
    assert doubt > 0.5
    expected = posterior.mean() + posterior.std() * stats.norm.ppf((doubt - 0.5) / doubt)
    found = sides(400.0, share)
    assert 1 - found.accuracy[0] == pytest.approx(expected, rel=1e-9)
    off = (posterior.mean() - expected) ** 2 + posterior.var()
    assert found.se[0] == pytest.approx(math.sqrt((1 - doubt) * expected**2 + doubt * off), rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "shares", "accuracy", "log_sd"),
    [
        ("price", {"quote_rule_share": 1.0}, 0.85, -math.log(0.7) / math.sqrt(3)),
        ("price", {"quote_rule_share": 1.0, "fresh_rule_share": 1.0}, 1.0, 0.0),
        ("price", {"tick_rule_share": 1.0}, 0.77, -math.log(0.54) / math.sqrt(3)),
        ("price", {"quote_rule_share": 0.5, "fresh_rule_share": 0.1}, 0.94, -0.4 * math.log(0.7) / math.sqrt(3)),
        ("probability", {"quote_rule_share": 1.0}, 0.60, -math.log(0.2) / math.sqrt(3)),
        ("probability", {"tick_rule_share": 1.0}, 0.50, -math.log(0.1) / math.sqrt(3)),
    ],
)
def test_inferred_sides_are_as_right_as_the_literature_says_but_by_fresh_mids(
    kind: str, shares: dict[str, float], accuracy: float, log_sd: float
) -> None:
    found = sides(1_000.0, 0.0, kind, **shares)
    assert found.accuracy[0] == pytest.approx(accuracy, abs=1e-6)
    assert found.log_sd[0] == pytest.approx(log_sd, rel=1e-9, abs=1e-12)
    assert found.wrong[0] == 0.0  # their errors are none of chance: nothing is corrected for


def row(rules: CalibrationRules = CalibrationRules(), **statistics: Any) -> pd.Series:
    """One market, its flow persistent: a share wrong takes c = 2a - 1 out of the flow."""
    tape = {"slope": [2e-5], "slope_se": [2e-6], "direct_eta": [3e-5], "direct_eta_se": [3e-6]}
    return calibrate(measured([statistics], **tape, n=[1_000], n_clusters=[30.0]), rules).iloc[0]


def test_errors_of_response_and_direct_cost_hold_what_is_open_of_the_sides() -> None:
    sure = row(sides_compared_alike=1e6)
    assert (sure["sign_accuracy"], sure["response"], sure["response_se"]) == (1.0, 2e-5, pytest.approx(2e-6, rel=1e-3))
    open_ = row(sides_compared_alike=0.0)
    assert (open_["sign_accuracy"], open_["response"]) == (1.0, 2e-5)
    fewer = 1 - 2 * open_["sign_accuracy_se"]
    assert open_["response_se"] == pytest.approx(math.hypot(2e-6, 2e-5 * (1 - fewer)), rel=1e-3)
    inferred = row(quote_rule_share=1.0)
    error = math.log(1 / 0.7) / math.sqrt(3)
    for name, value in (("response", 2e-5), ("direct_eta", 3e-5)):
        assert inferred[name] == pytest.approx(value, rel=1e-12)
        assert inferred[f"{name}_se"] == pytest.approx(value * math.hypot(0.1, error), rel=1e-3)
    assert row(CalibrationRules(sign_accuracy=0.9), quote_rule_share=1.0)["response_se"] == pytest.approx(
        2e-6 * 0.8, rel=1e-3
    )


def test_sides_that_the_quotes_turn_around_give_no_response_and_the_row_says_why() -> None:
    """A feed that names the maker instead of the taker."""
    turned = row(sides_contradicted=0.98)
    assert turned["sign_accuracy"] < 0.1
    assert np.isnan(turned["response"])
    reasons = [turned[f"{name}_reason"] for name in ("response", "response_exponent", "direct")]
    assert reasons == ["sides_doubtful"] * 3
    assert turned[["response_exponent", "response_prefactor"]].isna().all()
    assert turned["strength"] == "prior"


@pytest.mark.parametrize(("log_sd", "wrong"), [(0.8, 0.1), (1.5, 0.1), (1.5, 0.2)])
def test_wrong_aggressors_are_corrected_for_under_a_cap_that_cuts_the_largest_trades(
    log_sd: float, wrong: float
) -> None:
    """Trades' own squares are of the whole flow: so must be the variance that they are a share of."""
    found = []
    for seed in range(12):
        rng, rows, squares = np.random.default_rng(seed), [], 0.0
        for i in range(20):
            n = rng.poisson(3.0, 288)
            cell = np.repeat(np.arange(288), n)
            size, sign = rng.lognormal(-(log_sd**2) / 2, log_sd, len(cell)), rng.choice([-1.0, 1.0], len(cell))
            seen = np.where(rng.random(len(cell)) < wrong, -sign, sign)
            true, flow = (np.bincount(cell, weights=size * s, minlength=288) for s in (sign, seen))
            q = np.clip(flow, -20.0, 20.0)  # twenty mean trades
            move = true + 4.0 * rng.standard_normal(288)
            squares += (size**2).sum()
            rows.append(
                market_day(i, Buckets(q, move, np.abs(q), np.arange(288) // 24, flow), lengths=(5,))
                | {"flow_cap": 20.0, "flow_squared": (flow**2).sum()}
            )
        evidence = impact_evidence(frame(rows))
        statistics = pd.DataFrame(
            {"bucket_size_squared": [squares / (20 * 288)], "day_hours": 24.0, "adv": 3.0 * 288, "spread": 0.0}
            | {"signed_share": 1.0, "compared_size": np.nan, "sides_compared_alike": 0.0}
        )
        believed_ = Sides(*(np.array([v]) for v in (1 - wrong, 0.0, wrong, 0.0, 0.0)))
        slope = evidence.slope[:, 0] / evidence.uncapped[:, 0]
        value, _ = Corrected(statistics, evidence, believed_, np.array([0])).response(slope, 0.1 * slope)
        found.append(value[0])
    assert np.mean(found) == pytest.approx(1.0, abs=0.05)


@dataclass(frozen=True)
class Tape:
    """Ten trades in five minutes of sessions of 6.5 hours, their signs 0.7 those of their bucket; truth 2e-5, 2e-6."""

    markets: int = 12
    days: int = 20
    right: float = 1.0
    signed: float = 1.0
    unquoted: float = 1.0  # trades in the half of the session without mids, over those in the other; 1: mids throughout
    growth: float = 1.0  # of sizes, from day to day

    def coefficients(self, seed: int, half_life: float | None = None) -> tuple[np.ndarray, ...]:
        """Response and direct cost with their errors, as shares of the truth, over markets."""
        rng, shape = np.random.default_rng(seed), (self.markets, 78)
        names = pd.DataFrame({"market_id": [f"M{i:02d}" for i in range(self.markets)], "token_id": ""})
        window = Window.of(date(2025, 11, 26), self.days, ["XNYS"])
        days = []
        for age, day in enumerate(window.days["XNYS"][::-1]):
            many = np.where(np.arange(78) < 39, 1.0, self.unquoted)
            cell = np.repeat(np.arange(self.markets * 78), rng.poisson(10 * many, shape).ravel())
            sign = rng.choice([-1, 1], self.markets * 78)[cell] * np.where(rng.random(len(cell)) < 0.7, 1, -1)
            size = 100.0 * self.growth**-age * rng.lognormal(-0.32, 0.8, len(cell))
            seen = sign * np.where(rng.random(len(cell)) < self.right, 1, -1) * (rng.random(len(cell)) < self.signed)
            days.append(self._day(rng, day, names, cell, sign, seen, size))
        rows = in_order(pd.concat(days, ignore_index=True), window)
        statistics = window_statistics(rows, window, half_life)
        evidence = impact_evidence(rows, day_weights(rows, window, half_life))
        wrong = np.full(self.markets, 1.0 - self.right)
        held = Corrected(
            statistics, evidence, Sides(1 - wrong, 0 * wrong, wrong, 0 * wrong, 0 * wrong), np.zeros(self.markets, int)
        )
        found = (
            *held.response(evidence.slope[:, 0], evidence.slope_se[:, 0]),
            *held.direct_cost(evidence.direct_eta[:, 0], evidence.direct_eta_se[:, 0]),
        )
        return tuple(of / truth for of, truth in zip(found, (2e-5, 2e-5, 2e-6, 2e-6), strict=True))

    def _day(self, rng, day, names, cell, sign, seen, size) -> pd.DataFrame:  # type: ignore[no-untyped-def]
        shape = (self.markets, 78)

        def total(values: np.ndarray) -> np.ndarray:
            return np.bincount(cell, weights=values, minlength=self.markets * 78).reshape(shape)

        flow = total(sign * size)
        move = 2e-5 * flow + 0.05 * rng.standard_normal(shape)
        mid = 100.0 + np.cumsum(move, axis=1)
        paid = mid - move + 2e-6 * 78 * flow + 0.005 * rng.standard_normal(shape)
        if self.unquoted != 1.0:
            mid[:, 39:] = np.nan
        of_side = []
        for side in (1, -1):
            volume = total(size * (seen == side))
            of_side.append((volume, paid * volume + 0.2 * total(sign * size * (seen == side))))
        squares = total(size**2 * (seen != 0))
        columns = impact_columns(
            lambda minutes: np.arange(0, 78, minutes // 5), mid, *of_side, np.full(self.markets, np.nan),
            np.full(self.markets, True), squares=(squares, np.zeros(shape)),
        )  # fmt: skip
        session = trading_calendar("XNYS").session(day)
        row = zero_rows(day, names)
        row["session_start"], row["session_end"] = (
            pd.Series([at] * self.markets).astype("datetime64[us, UTC]") for at in (session.start, session.end)
        )
        compared = {"compared_volume": total(size).sum(axis=1), "compared_size_squared": total(size**2).sum(axis=1)}
        quoted = {"n_two_sided": 1, "quoted_seconds": 23_400.0, "spread_seconds": 0.4 * 23_400.0}
        buys, sells = (volume.sum(axis=1) for volume, _ in of_side)
        return row.assign(
            kind="price", calendar="XNYS", n_buckets=78, n_trades=1, volume=total(size).sum(axis=1), buy_volume=buys,
            sell_volume=sells, **compared, **quoted, **columns,
        )  # fmt: skip


@pytest.mark.parametrize("unquoted", [0.25, 4.0])
def test_trades_where_there_is_no_mid_are_none_of_the_flow_that_is_corrected(unquoted: float) -> None:
    """Mids in half of the session, four times as many trades in the other: the response was 1.84 times the truth.

    The direct cost is as with mids throughout, where too much of a spread of 0.4 is taken off.
    """
    response, _, direct, _ = Tape(right=0.9, unquoted=unquoted, markets=60).coefficients(3)
    throughout = Tape(right=0.9, markets=60).coefficients(3)[2]
    assert np.mean(response) == pytest.approx(1.0, abs=0.03 + 2 * np.std(response) / np.sqrt(60))
    assert np.mean(direct) == pytest.approx(np.mean(throughout), abs=0.04)


def test_squares_of_sizes_fade_with_their_days_as_the_flow_does() -> None:
    """Sizes that double every five days, under a half-life of two: old days' small trades are hardly in the flow."""
    response = Tape(right=0.9, growth=2 ** (1 / 5), markets=60).coefficients(4, half_life=2.0)[0]
    assert np.mean(response) == pytest.approx(1.0, abs=0.03 + 2 * np.std(response) / np.sqrt(60))


@pytest.mark.parametrize(("signed", "right"), [(0.6, 1.0), (0.8, 1.0), (0.6, 0.9)])
def test_trades_without_a_side_are_in_the_errors_of_response_and_direct_cost(signed: float, right: float) -> None:
    """They go with those that have one, and move the mid: of 60 % signed the response is 1.2 times the truth."""
    found = Tape(signed=signed, right=right, markets=60).coefficients(5)
    for of, error in (found[:2], found[2:]):
        assert np.mean(np.abs(of - 1.0) <= 1.96 * error) >= 0.9
    assert np.mean(found[0]) > 1.05
    assert np.mean(found[1]) < 0.3


def test_where_every_trade_has_a_side_nothing_is_added_to_the_errors() -> None:
    sure, some = (row(sides_compared_alike=1e6, signed_share=share) for share in (1.0, 0.8))
    assert sure["response_se"] == pytest.approx(2e-6, rel=1e-3)
    assert some["response"] == sure["response"]
    assert some["response_se"] == pytest.approx(2e-5 * math.hypot(0.1, math.log(1 / 0.8) / math.sqrt(2)), rel=1e-3)
