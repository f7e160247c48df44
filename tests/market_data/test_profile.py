"""Hour-of-day profiles as weights of slices: the integral over each slice, whatever the session cuts."""

from __future__ import annotations

import itertools
from datetime import date
from fractions import Fraction

import numpy as np
import pytest

from tributary_opt.market_data.profile import slice_weights, with_weekdays

TUESDAY = date(2024, 3, 5)
RNG = np.random.default_rng(3)
HOURS = RNG.exponential(size=(5, 24)) * (RNG.random((5, 24)) > 0.3)


def by_the_second(hours: np.ndarray, opens: int, closes: int, horizon: Fraction, n: int) -> list[float]:
    """Exact integrals over one day's session, given in seconds of the calendar's clock, in rational numbers."""
    inside = {h: max(0, min(closes, 3600 * h + 3600) - max(opens, 3600 * h)) for h in range(24)}
    share = {h: Fraction(float(hours[h])) for h in range(24) if inside[h]}
    total = sum(share.values())
    edges = [opens + horizon * (closes - opens) * j / n for j in range(n + 1)]
    out = []
    for a, b in itertools.pairwise(edges):
        parts = (
            s / inside[h] * max(Fraction(0), min(b, 3600 * h + 3600, closes) - max(a, 3600 * h, opens))
            for h, s in share.items()
        )
        out.append(float(sum(parts, Fraction(0)) / total))
    return out


@pytest.mark.parametrize(
    ("calendar", "opens", "closes"), [("24/7", 0, 86_400), ("XNYS", 34_200, 57_600), ("XBOM", 33_300, 55_800)]
)
@pytest.mark.parametrize("n", [1, 5, 48, 130])
@pytest.mark.parametrize("horizon", [1.0, 0.5, 0.3])
def test_weight_is_the_integral_over_the_slice(calendar: str, opens: int, closes: int, n: int, horizon: float) -> None:
    got = slice_weights(calendar, TUESDAY, HOURS, np.full(5, horizon), n)
    for hours, row in zip(HOURS, got, strict=True):
        expected = by_the_second(hours, opens, closes, Fraction(horizon).limit_denominator(10), n)
        np.testing.assert_allclose(row, expected, rtol=1e-12, atol=1e-16)
        if horizon != 0.3:  # which no double is
            assert (row[np.array(expected) == 0] == 0).all()


def test_half_hours_of_a_day_around_the_clock_halve_the_hours() -> None:
    got = slice_weights("24/7", TUESDAY, HOURS, np.ones(5), 48)
    shares = HOURS / HOURS.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got, np.repeat(shares, 2, axis=1) / 2, rtol=1e-14)


def test_hours_outside_the_session_count_for_nothing() -> None:
    late = HOURS.copy()
    late[:, :9] = late[:, 16:] = 7.0
    early = late.copy()
    early[:, :9] = early[:, 16:] = 0.0
    one, other = (slice_weights("XNYS", TUESDAY, hours, np.ones(5), 13) for hours in (late, early))
    np.testing.assert_array_equal(one, other)


def test_days_follow_each_other_and_an_early_close_is_a_day() -> None:
    """After Wednesday 27 November 2024: Friday until 13:00, then Monday."""
    got = slice_weights("XNYS", date(2024, 11, 27), HOURS, np.full(5, 2.0), 14)
    friday = [by_the_second(h, 34_200, 46_800, Fraction(1), 7) for h in HOURS]
    monday = [by_the_second(h, 34_200, 57_600, Fraction(1), 7) for h in HOURS]
    np.testing.assert_allclose(got, np.concatenate([friday, monday], axis=1), rtol=1e-12)


def test_horizons_may_differ_and_a_row_has_the_bits_it_has_alone() -> None:
    horizons = np.array([1.0, 0.25, 2.0, 0.7310, 1e-6])
    whole = slice_weights("24/7", TUESDAY, HOURS, horizons, 48)
    for i in range(5):
        np.testing.assert_array_equal(
            slice_weights("24/7", TUESDAY, HOURS[i : i + 1], horizons[i : i + 1], 48)[0], whole[i]
        )
    np.testing.assert_allclose(whole[2].sum(), 2.0, rtol=1e-14)


def test_profile_without_anything_in_the_session_is_no_number() -> None:
    night = np.zeros((1, 24))
    night[0, 3] = 1.0
    assert np.isnan(slice_weights("XNYS", TUESDAY, night, np.ones(1), 4)).all()
    got = slice_weights("24/7", TUESDAY, night, np.ones(1), 4)
    np.testing.assert_allclose(got, [[1.0, 0.0, 0.0, 0.0]], rtol=1e-15)


def test_weekdays_have_hours_of_their_own_and_borrow_where_they_have_none() -> None:
    """From Friday over a weekend that trades; of Sundays nothing is known."""
    week = np.arange(1.0, 169.0)[np.newaxis, :] * np.ones((5, 1))
    week[:, 6 * 24 :] = 0.0
    got = slice_weights("24/7", date(2024, 3, 7), with_weekdays(HOURS, week), np.full(5, 4.0), 96)
    by_day = [week[:, 96:120], week[:, 120:144], HOURS, week[:, :24]]
    expected = np.concatenate([day / day.sum(axis=1, keepdims=True) for day in by_day], axis=1)
    np.testing.assert_allclose(got, expected, rtol=1e-13)
    sessions = slice_weights("XNYS", date(2024, 3, 7), with_weekdays(HOURS, week), np.full(5, 2.0), 2 * 13)
    for day, hours in ((0, week[:, 96:120]), (1, week[:, :24])):
        alone = slice_weights("XNYS", TUESDAY, hours, np.ones(5), 13)
        np.testing.assert_allclose(sessions[:, 13 * day : 13 * day + 13], alone, rtol=1e-12)
