"""What a sample market is: its parameters, what reference data says of it, and what a calibration should find."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Literal

import exchange_calendars as xcals
import numpy as np
import pandas as pd

from ._draws import Floats

ALWAYS_OPEN = "24/7"
ANCHOR_DAY = date(2026, 3, 2)

Condition = Literal[
    "normal", "thin", "one_sided", "dead", "resolved", "inverse", "quotes_only", "at_bound", "wide_spread"
]

# Half hours of a session that opens and closes busy; hours of a day that wakes at 07:00 and peaks at 15:00 UTC.
U_SHAPE: tuple[float, ...] = (2.4, 1.5, 1.2, 1.0, 0.85, 0.75, 0.7, 0.7, 0.75, 0.85, 1.0, 1.3, 2.2)
DAY_WAVE: tuple[float, ...] = tuple(round(1.0 - 0.7 * math.cos(2 * math.pi * (h - 3.0) / 24), 4) for h in range(24))


@dataclass(frozen=True)
class SampleMarket:
    """One order book with known parameters; with `complement_token_id`, a book that two tokens share.

    The efficient mid M is a martingale. Over a trading day, with t its share of trading time and F the flow signed by
    the taker so far,

        M(t) = M(0) + sigma_diffusion B(t) + gamma F(t),    sigma² = sigma_diffusion² + gamma² Var F(1),

    B a Brownian motion. M is folded back at `floor` and `cap`, which keeps its quadratic variation. The book quotes
    a whole number of ticks around M: k of them, or k + 2, drawn for each minute so that `spread` is the mean. Buys
    trade at the ask and sells at the bid as they stood before the trade. Trades arrive as a Poisson process that
    follows `profile`; sizes are one lot plus a rounded lognormal, with mean adv / trades_per_day.

    Parameters
    ----------
    market_id, token_id : str
    kind : {"price", "probability"}
        A probability stays within one tick of 0 and 1.
    calendar : str
        "24/7" or a code of exchange_calendars whose sessions lie within one UTC date.
    price : float
        Efficient mid at the start of `anchor_day`. [quote currency]
    sigma : float
        Of the efficient mid, flow included, within sessions. [price/√day]
    spread : float
        Mean quoted spread, at least a tick. [price]
    tick_size, lot_size : float
        [price], [contract]
    adv : float
        Mean volume of a trading day, both tokens. [contract/day]
    trades_per_day : float
        Mean number of trades of a trading day, both tokens. [1/day]
    snapshot_interval : float
        A snapshot of the book is stamped in the last second (or tenth, if shorter) of each interval. [s]
    profile : tuple of float
        Weights of equal parts of the trading day; the share of trades in each. [-]
    gamma : float
        Response to flow. [price/contract]
    overnight_sd : float
        Of the move between two sessions; 0 for a market that never closes. [price]
    condition : str
        What ails it. "thin", "wide_spread", "inverse" and "at_bound" only label what the numbers say; "one_sided" uses
        `one_sided_share`, "dead" `last_day`, "resolved" `resolution_time`, "quotes_only" has no trades.
    one_sided_share : float
        Share of minutes in which one side, bid or ask with equal chance, is missing. A probability then stores bid 0
        or ask 1, a price stores nulls. [-]
    last_day : date, optional
        After it there are neither trades nor quotes.
    resolution_time : datetime, optional
        UTC; from then on there are neither trades nor quotes.
    complement_token_id : str, optional
        Second token of the book: its price is 1 minus the first's, a buy of it a sell of the first.
    complement_share : float
        Share of the trades that are done in the second token. [-]
    size_log_sd : float
        Standard deviation of the logarithm of the sizes. [-]
    taker_fee, contract_multiplier, inverse
        As in the reference data.
    floor, cap : float, optional
        Where the mid is reflected; by default half and twice the price, and for a probability as near to the
        bounds as the spread allows. [price]
    anchor_day : date
        The walk starts there; no earlier day can be generated.

    Raises
    ------
    ValueError
        For parameters that contradict each other, naming the one to change.
    """

    market_id: str
    token_id: str
    kind: Literal["price", "probability"]
    calendar: str
    price: float
    sigma: float
    spread: float
    tick_size: float
    lot_size: float
    adv: float
    trades_per_day: float
    snapshot_interval: float
    profile: tuple[float, ...] = (1.0,)
    gamma: float = 0.0
    overnight_sd: float = 0.0
    condition: Condition = "normal"
    one_sided_share: float = 0.0
    last_day: date | None = None
    resolution_time: datetime | None = None
    complement_token_id: str | None = None
    complement_share: float = 0.5
    size_log_sd: float = 0.8
    taker_fee: float = 0.0
    contract_multiplier: float = 1.0
    inverse: bool = False
    floor: float | None = None
    cap: float | None = None
    anchor_day: date = ANCHOR_DAY

    def __post_init__(self) -> None:
        def must(holds: bool, rule: str) -> None:
            if not holds:
                raise ValueError(f"sample market {self.market_id!r}: {rule}")

        must(self.sigma >= 0 and self.overnight_sd >= 0, f"need sigma, overnight_sd >= 0, got {self.sigma=}")
        must(self.tick_size > 0 and self.lot_size > 0, f"need tick_size, lot_size > 0, got {self.tick_size=}")
        must(
            self.spread >= self.tick_size * (1 - 1e-9),
            f"spread must be at least a tick, got {self.spread} at tick {self.tick_size}",
        )
        seconds = self.snapshot_interval
        must(1 <= seconds <= 23_400, f"snapshot_interval must be 1 to 23,400 s, got {seconds}")
        must(len(self.profile) > 0 and min(self.profile) >= 0 < sum(self.profile), f"bad profile {self.profile}")
        must(self.trades_per_day >= 0 and self.adv >= 0, f"need trades_per_day, adv >= 0, got {self.trades_per_day=}")
        must(
            self.trades_per_day == 0 or self.mean_size >= self.lot_size * (1 - 1e-9),
            f"adv / trades_per_day must be at least a lot, got {self.adv} / {self.trades_per_day}, lot {self.lot_size}",
        )
        must(self.floor_price <= self.price <= self.cap_price, f"price {self.price} lies outside floor and cap")
        must(self.floor_price < self.cap_price, "floor must be below cap")
        must(
            self.gamma * self.flow_sd <= self.sigma,
            f"gamma * sd of daily flow = {self.gamma * self.flow_sd} exceeds sigma = {self.sigma}: lower gamma",
        )
        must(
            self.one_sided_share == 0 or self.gamma == 0,
            "a one-sided book forces the side of its trades: gamma must be 0",
        )
        must(self.calendar != ALWAYS_OPEN or self.overnight_sd == 0, "a 24/7 market has no overnight move")
        must(self.condition != "one_sided" or self.one_sided_share > 0, "one_sided needs one_sided_share > 0")
        must(self.condition != "dead" or self.last_day is not None, "dead needs last_day")
        must(self.condition != "resolved" or self.resolution_time is not None, "resolved needs resolution_time")
        must(self.condition != "quotes_only" or self.trades_per_day == 0, "quotes_only needs trades_per_day = 0")
        if self.kind == "probability":
            steps = 1 / self.tick_size
            must(abs(steps - round(steps)) < 1e-6, f"a tick must divide 1, got {self.tick_size}")
            low = self.tick_size * (0.5 * self.wide_spread_ticks + 1) - 1e-12
            must(low <= self.floor_price and self.cap_price <= 1 - low, "floor and cap must leave room for the spread")
        must(self.complement_token_id is None or self.kind == "probability", "only a probability has a complement")

    @property
    def mean_size(self) -> float:
        """Mean size of a trade. [contract]"""
        return self.adv / self.trades_per_day if self.trades_per_day > 0 else 0.0

    @property
    def flow_sd(self) -> float:
        """Standard deviation of a day's signed flow, both tokens, in the first one's sign. [contract]"""
        if self.trades_per_day == 0:
            return 0.0
        excess = max(self.mean_size / self.lot_size - 1.0, 0.0)
        # One lot plus a lognormal rounded up or down at random; the rounding adds the mean of f(1 - f), f in [0, 1).
        second_moment = 1.0 + 2.0 * excess + excess**2 * math.exp(self.size_log_sd**2) + min(excess, 1 / 6)
        return self.lot_size * math.sqrt(self.trades_per_day * second_moment)

    @property
    def sigma_diffusion(self) -> float:
        """The part of sigma that no flow explains. [price/√day]"""
        return math.sqrt(max(self.sigma**2 - (self.gamma * self.flow_sd) ** 2, 0.0))

    @property
    def narrow_spread_ticks(self) -> int:
        """Spread of the narrower of the two states of the book. [tick]"""
        return max(math.floor(self.spread / self.tick_size + 1e-9), 1)

    @property
    def wide_spread_probability(self) -> float:
        """Chance of the state that is two ticks wider. [-]"""
        return min(max((self.spread / self.tick_size - self.narrow_spread_ticks) / 2.0, 0.0), 0.5)

    @property
    def wide_spread_ticks(self) -> int:
        """Widest spread that occurs. [tick]"""
        return self.narrow_spread_ticks + (2 if self.wide_spread_probability > 1e-9 else 0)

    @property
    def floor_price(self) -> float:
        """Where the mid is reflected from below. [price]"""
        if self.floor is not None:
            return self.floor
        lowest = self.tick_size * (0.5 * self.wide_spread_ticks + 1)
        return lowest if self.kind == "probability" else max(0.5 * self.price, lowest)

    @property
    def cap_price(self) -> float:
        """Where the mid is reflected from above. [price]"""
        if self.cap is not None:
            return self.cap
        return 1.0 - self.floor_price if self.kind == "probability" else 2.0 * self.price

    def mid_sigma(self, bucket_seconds: float = 300.0) -> float:
        """σ that the *quoted* mids show when sampled every `bucket_seconds`, the tick grid included.

        Quoted mids lie on a grid of one tick g. For a move of standard deviation s over a bucket and a mid uniform
        within its grid cell, rounding adds g² E[f(1 - f)] to the mean square, f the fractional part of move/g:

            E[f(1 - f)] = 1/6 - π⁻² Σ_k k⁻² exp(-2π²k²s²/g²)

        Parameters
        ----------
        bucket_seconds : float
            [s]

        Returns
        -------
        float
            At least `sigma`. [price/√day]
        """
        n = self.session_seconds / bucket_seconds
        ratio = self.sigma / math.sqrt(n) / self.tick_size
        k = np.arange(1, 2001)
        terms = np.exp(-np.minimum(2.0 * (np.pi * k * ratio) ** 2, 700.0)) / k**2
        excess = self.tick_size**2 * max(1 / 6 - float(terms.sum()) / np.pi**2, 0.0)
        return math.sqrt(self.sigma**2 + n * excess)

    @property
    def session_seconds(self) -> float:
        """Length of a full trading day. [s]"""
        if self.calendar == ALWAYS_OPEN:
            return 86_400.0
        lengths = [close - start for start, close in _sessions(self.calendar, self.anchor_day.year).values()]
        return float(np.median(lengths) / 1e6)

    def volume_by_hour(self, day: date) -> Floats:
        """Expected share of a day's volume in each hour of the UTC day, shape (24,); zeros when it is closed. [-]"""
        hours = np.zeros(24)
        session = trading_session(self.calendar, day)
        if session is None:
            return hours
        start = session[0] - midnight_us(day)
        weights = np.concatenate([[0.0], np.cumsum(self.profile)]) / sum(self.profile)
        edges = start + np.linspace(0, session[1] - session[0], len(self.profile) + 1)
        return np.diff(np.interp(np.arange(25) * 3.6e9, edges, weights))

    def tokens(self) -> list[tuple[str, float]]:
        """Each token of the book with its share of the trades."""
        if self.complement_token_id is None:
            return [(self.token_id, 1.0)]
        return [(self.token_id, 1.0 - self.complement_share), (self.complement_token_id, self.complement_share)]


def midnight_us(day: date) -> int:
    """Microseconds from 1970 to the start of a UTC day."""
    return (day.toordinal() - date(1970, 1, 1).toordinal()) * 86_400_000_000


def trading_session(calendar: str, day: date) -> tuple[int, int] | None:
    """Start and end of a trading day in microseconds since 1970, or None when the market is closed."""
    if calendar == ALWAYS_OPEN:
        return midnight_us(day), midnight_us(day) + 86_400_000_000
    return _sessions(calendar, day.year).get(day)


@lru_cache(maxsize=64)
def _sessions(calendar: str, year: int) -> dict[date, tuple[int, int]]:
    # Both ends are given: the calendar's default range moves with the clock.
    schedule = xcals.get_calendar(calendar, start=f"{year - 1}-12-01", end=f"{year + 1}-01-31").schedule
    schedule = schedule[schedule.index.year == year]
    return {
        label.date(): (stamp_us(start), stamp_us(close))
        for label, start, close in zip(schedule.index, schedule["open"], schedule["close"], strict=True)
    }


def stamp_us(stamp: pd.Timestamp) -> int:
    """Microseconds since 1970 of a stamp (`Timestamp.value` counts nanoseconds, whatever the unit)."""
    return int(stamp.value) // 1000


def reference_data(markets: Sequence[SampleMarket]) -> pd.DataFrame:
    """The `markets` source table: one row a token, as a venue would describe it (nothing of the truth)."""
    rows = [
        {
            "market_id": m.market_id,
            "token_id": token,
            "kind": m.kind,
            "complement_token_id": other,
            "resolution_time": m.resolution_time,
            "calendar": m.calendar,
            "tick_size": m.tick_size,
            "lot_size": m.lot_size,
            "taker_fee": m.taker_fee,
            "contract_multiplier": m.contract_multiplier,
            "inverse": m.inverse,
        }
        for m in markets
        for token, other in _with_complement(m)
    ]
    frame = pd.DataFrame(rows)
    frame["resolution_time"] = pd.to_datetime(frame["resolution_time"], utc=True).dt.as_unit("us")
    for name in ("market_id", "token_id", "kind", "complement_token_id", "calendar"):
        frame[name] = frame[name].astype("str")
    return frame


def truth(markets: Sequence[SampleMarket]) -> pd.DataFrame:
    """The parameters the ticks were drawn from, one row a token.

    `price` is the token's at the anchor day; `sigma` is total, `sigma_diffusion` and `gamma * flow_sd` its parts
    (`flow_sd` counts both tokens of a book); `sigma_mid_5m` is what quoted mids at 5 minutes show with the tick grid;
    `spread` is the time-weighted mean of two-sided books; `adv` and `trades_per_day` are the token's own, on a day
    it trades; `profile` holds the weights of equal parts of the trading day as JSON. Units as in `SampleMarket`.
    """
    rows = [
        {
            "market_id": m.market_id,
            "token_id": token,
            "kind": m.kind,
            "calendar": m.calendar,
            "condition": m.condition,
            "price": m.price if token == m.token_id else 1.0 - m.price,
            "sigma": m.sigma,
            "sigma_diffusion": m.sigma_diffusion,
            "sigma_mid_5m": m.mid_sigma(300.0),
            "overnight_sd": m.overnight_sd,
            "gamma": m.gamma,
            "flow_sd": m.flow_sd,
            "spread": m.spread,
            "half_spread": m.spread / 2,
            "one_sided_share": m.one_sided_share,
            "adv": m.adv * share,
            "trades_per_day": m.trades_per_day * share,
            "mean_size": m.mean_size,
            "snapshots_per_day": float(int(m.session_seconds / m.snapshot_interval)),
            "last_day": m.last_day,
            "resolution_time": m.resolution_time,
            "profile": json.dumps(m.profile),
        }
        for m in markets
        for token, share in m.tokens()
    ]
    frame = pd.DataFrame(rows)
    for name in ("last_day", "resolution_time"):
        frame[name] = pd.to_datetime(frame[name], utc=True).dt.as_unit("us")
    for name in ("market_id", "token_id", "kind", "calendar", "condition", "profile"):
        frame[name] = frame[name].astype("str")
    return frame


def _with_complement(market: SampleMarket) -> list[tuple[str, str | None]]:
    if market.complement_token_id is None:
        return [(market.token_id, None)]
    return [(market.token_id, market.complement_token_id), (market.complement_token_id, market.token_id)]
