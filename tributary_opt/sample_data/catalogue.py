"""A diverse list of sample markets: three kinds of venue, most of them sound, some with one thing wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta

import numpy as np

from .market import ALWAYS_OPEN, ANCHOR_DAY, DAY_WAVE, U_SHAPE, SampleMarket, trading_session

# One round of forty tokens; a pair takes two. What is wrong stands after the colon.
_ROUND: tuple[str, ...] = (
    *("pair", "equity", "coin", "probability", "probability:thin", "equity", "pair", "coin", "probability:one_sided"),
    *("equity", "pair", "probability:dead", "coin", "equity", "probability", "probability:resolved", "coin:inverse"),
    *("probability:at_bound", "equity", "probability:quotes_only", "pair", "coin", "equity:thin", "probability"),
    *("equity", "probability:partly_one_sided", "coin:thin", "coin:one_sided", "probability", "equity:dead"),
    *("probability:thin", "equity", "coin", "probability:resolved_early", "probability:wide_spread", "equity"),
)


def sample_markets(
    n: int = 40,
    seed: int = 1,
    *,
    first_day: date = ANCHOR_DAY,
    n_days: int = 30,
    trades_per_day: float | None = None,
    snapshots_per_day: float | None = None,
    sound_only: bool = False,
) -> list[SampleMarket]:
    """Markets for a sample of `n_days` from `first_day`.

    Probabilities that trade round the clock (some as books that a yes and a no token share), stocks with the
    sessions of XNYS, coins. Of each forty tokens four are thin, three one-sided (one of them for half of the time
    only), two dead and two resolved before the end; one each is an inverse contract, at its bound, without trades,
    and with a spread of 30 %.

    Parameters
    ----------
    n : int
        Tokens, that is rows of the reference data. [-]
    seed : int
    first_day : date
        The markets' anchor day. Dead and resolved ones are placed within the span.
    n_days : int
        Calendar days of the sample. [day]
    trades_per_day, snapshots_per_day : float, optional
        Expected totals over all tokens on a day on which all of them trade; by default some 700 of each a token.
    sound_only : bool
        Leave the ailing ones out, as benchmarks want it.

    Returns
    -------
    list of SampleMarket
        In all `n` tokens; the same for the same arguments.

    Raises
    ------
    ValueError
        For n or n_days below 1.
    """
    if n < 1 or n_days < 1:
        raise ValueError(f"need n >= 1 and n_days >= 1, got {n=} and {n_days=}")
    rng = np.random.default_rng(np.random.PCG64(seed))
    make: dict[str, Callable[[str, np.random.Generator], SampleMarket]] = {
        "pair": _probability,
        "probability": _probability,
        "equity": _equity,
        "coin": _coin,
    }
    markets: list[SampleMarket] = []
    tokens = slot = 0
    width = max(3, len(str(n)))
    while tokens < n:
        venue, _, ailment = _ROUND[slot % len(_ROUND)].partition(":")
        slot += 1
        if sound_only and ailment:
            continue
        market = make[venue](f"{tokens:0{width}d}", rng)
        market = replace(market, anchor_day=first_day)
        if market.kind == "probability":
            far = first_day + timedelta(days=n_days + int(rng.integers(20, 200)))
            market = replace(market, resolution_time=datetime.combine(far, time(12), UTC))
        if venue == "pair" and tokens + 2 <= n:
            share = round(float(rng.uniform(0.2, 0.5)), 2)
            market = replace(market, complement_token_id=market.token_id.replace(":yes", ":no"), complement_share=share)
        markets.append(_with(market, ailment, first_day, n_days, rng))
        tokens += len(markets[-1].tokens())

    if trades_per_day is not None:
        now = sum(m.trades_per_day for m in markets)
        markets = [_busier(m, trades_per_day / now) if now > 0 else m for m in markets]
    if snapshots_per_day is not None:
        each = snapshots_per_day / tokens
        markets = [replace(m, snapshot_interval=max(int(m.session_seconds / each * 1e6) / 1e6, 1.0)) for m in markets]
    return markets


def _busier(market: SampleMarket, factor: float) -> SampleMarket:
    """The same market with more or fewer trades of the same sizes; gamma keeps flow's share of the variance."""
    return replace(
        market,
        adv=market.adv * factor,
        trades_per_day=market.trades_per_day * factor,
        gamma=market.gamma / math.sqrt(factor),
    )


def _answering(market: SampleMarket, rng: np.random.Generator) -> SampleMarket:
    """With a response to flow that makes up 5 to 40 % of the variance."""
    share = rng.uniform(0.05, 0.4)
    return replace(market, gamma=_digits(math.sqrt(share) * market.sigma / market.flow_sd))


def _probability(name: str, rng: np.random.Generator) -> SampleMarket:
    trades = float(_digits(rng.lognormal(math.log(700), 0.5), 3))
    mean_size = _digits(rng.lognormal(math.log(60), 0.6), 2)
    tick = 0.01 if rng.random() < 0.15 else 0.001
    spread = 0.01 + 0.01 * rng.random() if tick == 0.01 else 0.002 + 0.01 * rng.random()
    market = SampleMarket(
        market_id=f"event-{name}",
        token_id=f"event-{name}:yes",
        kind="probability",
        calendar=ALWAYS_OPEN,
        price=round(float(rng.uniform(0.2, 0.8)), 3),
        sigma=_digits(rng.uniform(0.01, 0.03)),
        spread=round(spread, 4),
        tick_size=tick,
        lot_size=0.01,
        adv=trades * mean_size,
        trades_per_day=trades,
        snapshot_interval=120.0,
        profile=DAY_WAVE,
    )
    return _answering(market, rng)


def _equity(name: str, rng: np.random.Generator) -> SampleMarket:
    price = round(float(rng.lognormal(math.log(60), 0.6)), 2)
    trades = float(_digits(rng.lognormal(math.log(1200), 0.4), 3))
    mean_size = _digits(rng.lognormal(math.log(150), 0.4), 2)
    sigma = _digits(price * rng.uniform(0.008, 0.02))
    market = SampleMarket(
        market_id=f"STOCK{name}",
        token_id=f"STOCK{name}",
        kind="price",
        calendar="XNYS",
        price=price,
        sigma=sigma,
        spread=round(max(0.01, price * rng.uniform(1e-4, 8e-4)), 4),
        tick_size=0.01,
        lot_size=1.0,
        adv=trades * mean_size,
        trades_per_day=trades,
        snapshot_interval=30.0,
        profile=U_SHAPE,
        overnight_sd=_digits(sigma * rng.uniform(0.3, 0.7)),
    )
    return _answering(market, rng)


def _coin(name: str, rng: np.random.Generator) -> SampleMarket:
    price = _digits(10 ** rng.uniform(-0.5, 4.5), 4)
    tick = float(f"1e{math.floor(math.log10(price) - 4.5)}")
    trades = float(_digits(rng.lognormal(math.log(1000), 0.5), 3))
    mean_size = _digits(rng.lognormal(math.log(800), 0.5) / price, 2)
    market = SampleMarket(
        market_id=f"COIN{name}-USD",
        token_id=f"COIN{name}-USD",
        kind="price",
        calendar=ALWAYS_OPEN,
        price=price,
        sigma=_digits(price * rng.uniform(0.015, 0.04)),
        spread=_digits(tick * rng.uniform(1, 12), 4),
        tick_size=tick,
        lot_size=float(f"1e{math.floor(math.log10(mean_size) - 2)}"),
        adv=trades * mean_size,
        trades_per_day=trades,
        snapshot_interval=60.0,
        profile=DAY_WAVE,
        taker_fee=0.0004,
    )
    return _answering(market, rng)


def _with(market: SampleMarket, ailment: str, first_day: date, n_days: int, rng: np.random.Generator) -> SampleMarket:
    if ailment == "thin":
        wide = market.tick_size * round(0.06 * market.price / market.tick_size)
        few = round(float(rng.uniform(0.2, 0.6)), 2)  # a month of them is too few to calibrate on
        return replace(
            market,
            condition="thin",
            spread=max(wide, market.spread),
            trades_per_day=few,
            adv=market.mean_size * few,
            gamma=0.0,
            snapshot_interval=600.0,
        )
    if ailment == "wide_spread":
        wide = market.tick_size * round(0.3 * min(market.price, 1.0 - market.price) / market.tick_size)
        return replace(market, condition="wide_spread", spread=wide)
    if ailment in ("one_sided", "partly_one_sided"):
        return replace(market, condition="one_sided", gamma=0.0, one_sided_share=1.0 if ailment == "one_sided" else 0.5)
    if ailment == "dead":
        # Four trading days or more before the end, so that it is stale by any rule of two.
        days = [first_day + timedelta(days=i) for i in range(n_days)]
        days = [day for day in days if trading_session(market.calendar, day)] or days
        return replace(market, condition="dead", last_day=days[max(len(days) - 5, 0)])
    if ailment in ("resolved", "resolved_early"):
        back = 1 if ailment == "resolved" else max(n_days // 3, 1)
        day = first_day + timedelta(days=max(n_days - back, 0))
        return replace(market, condition="resolved", resolution_time=datetime.combine(day, time(17), UTC))
    if ailment == "inverse":
        return replace(market, condition="inverse", inverse=True, contract_multiplier=100.0)
    if ailment == "quotes_only":
        return replace(market, condition="quotes_only", trades_per_day=0.0, adv=0.0, gamma=0.0)
    if ailment == "at_bound":
        return replace(
            market,
            condition="at_bound",
            price=0.0015,
            sigma=0.0002,
            spread=0.001,
            tick_size=0.001,
            gamma=0.0,
            floor=0.0015,
            cap=0.0019,
        )
    return market


def _digits(x: float, digits: int = 4) -> float:
    """x to so many significant digits, as a person would have set it."""
    return float(f"{x:.{digits - 1}e}")
