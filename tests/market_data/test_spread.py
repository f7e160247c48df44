"""EDGE and Roll: published vectors, the authors' own package, and bars of trades whose spread is known."""

from __future__ import annotations

import bidask
import numpy as np
import pytest

from tributary_opt.market_data.spread import edge_squared, roll_squared, root

# The first ten rows of the authors' test file (eguidotti/bidask, MIT): signed spread -0.016889917516422.
OPEN = [1.00240075994025, 0.929743096395543, 0.943911414384193, 0.977605378856722, 0.961535370407048,
        0.982409003083975, 1.03435413274433, 1.0201424300403, 1.03650094499406, 1.05368509087896]  # fmt: skip
HIGH = [1.00935878365403, 0.929774737723069, 0.968140794511406, 0.977605378856722, 0.99982474278851,
        0.992213437101346, 1.03435413274433, 1.04025465277235, 1.03650094499406, 1.05368509087896]  # fmt: skip
LOW = [0.976061138469904, 0.928919694164385, 0.943911414384193, 0.977605378856722, 0.961535370407048,
       0.982409003083975, 1.03435413274433, 1.0201424300403, 1.03650094499406, 1.02605242183949]  # fmt: skip
CLOSE = [0.976061138469904, 0.929774737723069, 0.968140794511406, 0.977605378856722, 0.986215329667607,
         0.992213437101346, 1.03435413274433, 1.03219266262805, 1.03650094499406, 1.02798086837104]  # fmt: skip


def test_edge_of_the_authors_first_ten_rows_is_theirs() -> None:
    s2 = edge_squared(*(np.log(a) for a in (OPEN, HIGH, LOW, CLOSE)))
    assert np.sign(s2) * np.sqrt(np.abs(s2)) == pytest.approx(-0.016889917516422, rel=1e-12)
    assert np.isnan(root(s2))


def test_edge_of_degenerate_bars_is_missing() -> None:
    bars = ([18.21, 17.61, 17.61], [18.21, 17.61, 17.61], [17.61] * 3, [17.61] * 3)
    assert np.isnan(edge_squared(*(np.log(a) for a in bars)))
    assert np.isnan(edge_squared([1.0, 2.0], [2.0, 2.0], [1.0, 1.0], [1.5, 1.5]))
    assert np.isnan(edge_squared(*[np.full(50, np.nan)] * 4))
    assert np.isnan(edge_squared(*[np.full(50, 1.0)] * 4))


def bars_of_trades(spread: float, n_bars: int, per_bar: int, seed: int, missing: float = 0.0) -> list[np.ndarray]:
    """Open, high, low, close of trades at half a spread from a Brownian mid of 0.01 a bar, around 1."""
    rng = np.random.default_rng(seed)
    mid = 1.0 + np.cumsum(rng.standard_normal((n_bars, per_bar)).ravel()) * 0.01 / np.sqrt(per_bar)
    price = (mid + spread / 2 * rng.choice([-1, 1], mid.shape)).reshape(n_bars, per_bar)
    bars = [price[:, 0], price.max(axis=1), price.min(axis=1), price[:, -1]]
    gaps = rng.random(n_bars) < missing
    for a in bars:
        a[gaps] = np.nan
    return bars


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_edge_is_what_the_authors_package_says(missing: float) -> None:
    bars = [bars_of_trades(s, 500, per, i, missing) for i, (s, per) in enumerate(((0.004, 3), (0.02, 10), (0.0, 5)))]
    stacked = [np.log(np.stack([b[i] for b in bars])) for i in range(4)]
    found = edge_squared(*stacked)
    for s2, b in zip(found, bars, strict=True):
        assert np.sign(s2) * np.sqrt(np.abs(s2)) == pytest.approx(bidask.edge(*b, sign=True), rel=1e-12)


def test_edge_finds_the_spread_of_plain_prices_over_days_without_a_book() -> None:
    days = [bars_of_trades(0.008, 288, 6, day, missing=0.2) for day in range(60)]
    s2 = edge_squared(*(np.stack([d[i] for d in days]) for i in range(4)))
    assert root(s2.mean()) == pytest.approx(0.008, rel=0.05)


def test_roll_finds_the_spread_and_less_of_it_where_signs_follow_each_other() -> None:
    """mathematics.md §5: signs with AR(1) coefficient φ give s (1 - φ); 0.0140 of 0.02 at φ = 0.3."""
    rng = np.random.default_rng(3)
    for phi, expected in ((0.0, 0.02), (0.3, 0.014)):
        stay = rng.random((200, 2_000)) < (1 + phi) / 2
        signs = np.cumprod(np.where(stay, 1, -1), axis=1)
        prices = 1 + np.cumsum(rng.normal(0, 0.002, signs.shape), axis=1) + 0.01 * signs
        assert root(roll_squared(prices).mean()) == pytest.approx(expected, rel=0.02)
    assert roll_squared([1.0, 2.0, np.nan, 1.0]) == 4.0
    assert np.isnan(roll_squared([1.0, np.nan, 2.0]))
    assert np.isnan(root(roll_squared([1.0, 2.0, 3.0])))


def test_spread_is_the_same_seen_from_the_other_token() -> None:
    o, h, low, c = bars_of_trades(0.01, 400, 5, 9)
    np.testing.assert_allclose(edge_squared(1 - o, 1 - low, 1 - h, 1 - c), edge_squared(o, h, low, c), rtol=1e-9)
    np.testing.assert_allclose(roll_squared(1 - c), roll_squared(c), rtol=1e-9)
