"""Profiles: what they predict of a day that they have not seen decides whether they are used."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest

from tributary_opt.market_data.calendars import trading_calendar
from tributary_opt.market_data.hour_profiles import Profiles, of_next_session, profiles


def days(n: int, calendar: str = "24/7") -> pd.DataFrame:
    """The last n trading days up to a Thursday."""
    of = trading_calendar(calendar)
    sessions = [of.session(day) for day in of.last_days(date(2024, 3, 28), n)]
    stamps = {
        "day": [pd.Timestamp(s.day, tz="UTC") for s in sessions if s],
        "session_start": [pd.Timestamp(s.start) for s in sessions if s],
        "session_end": [pd.Timestamp(s.end) for s in sessions if s],
    }
    return pd.DataFrame(stamps).assign(calendar=calendar)


def of_one(hours: np.ndarray, rows: pd.DataFrame) -> Profiles:
    return profiles(hours, rows, np.zeros(len(rows), dtype=np.int64), 1)


def test_shape_that_every_day_has_is_used_and_chance_is_not() -> None:
    rng, rows = np.random.default_rng(0), days(20)
    shape = 1 + np.sin(np.arange(24) / 24 * 2 * np.pi)
    volume = 1000 * shape * rng.gamma(5, 0.2, (20, 24)) * rng.gamma(2, 1, (20, 1))
    found = of_one(volume, rows)
    assert found.used.tolist() == ["hour_of_day"]
    np.testing.assert_allclose(found.by_hour[0], volume.sum(axis=0) / volume.sum(), rtol=1e-12)
    assert found.error_ratio[0] < 0.6
    assert found.by_week_hour.tolist() == [None]

    chance = of_one(rng.gamma(0.2, 1, (20, 24)), rows)
    assert chance.used.tolist() == ["flat"]
    np.testing.assert_allclose(chance.by_hour[0], np.full(24, 1 / 24), rtol=1e-12)
    assert chance.error_ratio[0] > 1


def test_error_is_that_of_leaving_each_day_out() -> None:
    rng, rows = np.random.default_rng(1), days(9)
    volume = rng.gamma(1, 1, (9, 24))
    volume[4] = 0.0  # nothing to predict, nothing to predict from
    of_hours = of_flat = 0.0
    for i in [i for i in range(9) if i != 4]:
        others, share = np.delete(volume, i, axis=0).sum(axis=0), volume[i] / volume[i].sum()
        of_hours += ((others / others.sum() - share) ** 2).sum()
        of_flat += ((1 / 24 - share) ** 2).sum()
    np.testing.assert_allclose(of_one(volume, rows).error_ratio, of_hours / of_flat, rtol=1e-12)


def test_week_is_used_where_weekdays_differ_and_there_are_enough_of_them() -> None:
    rng, rows = np.random.default_rng(2), days(28)
    weekend = rows["day"].dt.day_of_week.to_numpy() >= 5
    peak = np.where(weekend, 3, 15)[:, None]
    volume = np.exp(-((np.arange(24) - peak) ** 2) / 20) * rng.gamma(20, 0.05, (28, 24))
    found = of_one(volume, rows)
    assert found.used.tolist() == ["hour_of_week"]
    week = found.by_week_hour[0].reshape(7, 24)
    np.testing.assert_allclose(week.sum(axis=1), 1.0, rtol=1e-12)
    assert abs(week.argmax(axis=1)[:5] - 15).max() <= 2
    assert abs(week.argmax(axis=1)[5:] - 3).max() <= 2
    of_week = of_flat = 0.0
    for day in range(7):
        same = volume[rows["day"].dt.day_of_week == day]
        for i, today in enumerate(same):
            others, share = np.delete(same, i, axis=0).sum(axis=0), today / today.sum()
            of_week += ((others / others.sum() - share) ** 2).sum()
            of_flat += ((1 / 24 - share) ** 2).sum()
    np.testing.assert_allclose(found.error_ratio, of_week / of_flat, rtol=1e-12)
    assert of_one(volume[:14], rows.iloc[:14]).by_week_hour.tolist() == [None]


def test_week_that_wins_while_all_days_together_lose_leaves_the_flat_profile_for_other_days() -> None:
    """Every weekday trades in hours of its own: their mean is the flat day's, but for chance."""
    rng, rows = np.random.default_rng(4), days(28)
    day = rows["day"].dt.day_of_week.to_numpy()
    volume = np.where((np.arange(24) * 7 // 24) == day[:, None], 1.0, 0.0) * rng.gamma(4, 1, (28, 1))
    found = of_one(volume, rows)
    assert found.used.tolist() == ["hour_of_week"]
    np.testing.assert_allclose(found.by_hour[0], 1 / 24, rtol=1e-12)


@pytest.mark.parametrize(
    ("calendar", "as_of", "weekday"),
    [("24/7", date(2024, 3, 28), 4), ("24/7", date(2024, 3, 29), 5), ("XNYS", date(2024, 3, 28), 0)],  # Good Friday
)
def test_weekday_on_which_schedules_begin_has_its_own_hours(calendar: str, as_of: date, weekday: int) -> None:
    week = np.random.default_rng(5).dirichlet(np.ones(24), 7)
    by_day = np.full(24, 1 / 24)
    frame = pd.DataFrame({"market_id": ["A", "B", "C"], "calendar": calendar})
    for what in ("volume", "variance"):
        frame[f"{what}_profile"] = [by_day, by_day, None]
        frame[f"{what}_profile_week"] = [week.ravel(), None, None]
    found = of_next_session(frame, as_of)
    for what in ("volume", "variance"):
        np.testing.assert_array_equal(found.loc[0, f"{what}_profile"], week[weekday])
        np.testing.assert_array_equal(found.loc[1, f"{what}_profile"], by_day)
        assert found.loc[2, f"{what}_profile"] is None
    np.testing.assert_array_equal(frame.loc[0, "volume_profile"], by_day)  # what was given stays as it was
    week[weekday] = 0.0  # the window has no such day
    frame["volume_profile_week"] = [week.ravel(), None, None]
    np.testing.assert_array_equal(of_next_session(frame, as_of).loc[0, "volume_profile"], by_day)


def test_flat_profile_of_an_exchange_is_that_of_its_session() -> None:
    rows = days(2, "XNYS")
    found = of_one(np.ones((2, 24)), rows)
    assert found.used.tolist() == ["flat"]  # two days test nothing
    expected = np.zeros(24)
    expected[9], expected[10:16] = 0.5 / 6.5, 1 / 6.5
    np.testing.assert_allclose(found.by_hour[0], expected, rtol=1e-12)
    assert np.isnan(found.error_ratio[0])


def test_half_day_at_the_end_leaves_the_afternoon_of_the_days_to_come() -> None:
    """The day after Thanksgiving ends at 13:00: a flat profile of it would have no risk in Monday's afternoon."""
    of = trading_calendar("XNYS")
    sessions = [of.session(date(2024, 11, day)) for day in (27, 29)]
    stamps = {
        "day": [pd.Timestamp(s.day, tz="UTC") for s in sessions if s],
        "session_start": [pd.Timestamp(s.start) for s in sessions if s],
        "session_end": [pd.Timestamp(s.end) for s in sessions if s],
    }
    found = of_one(np.ones((2, 24)), pd.DataFrame(stamps).assign(calendar="XNYS"))
    assert found.used.tolist() == ["flat"]
    whole = np.zeros(24)
    whole[9], whole[10:16] = 0.5 / 6.5, 1 / 6.5
    np.testing.assert_allclose(found.by_hour[0], whole, rtol=1e-12)


def test_markets_do_not_mix_and_one_without_a_day_has_no_profile() -> None:
    rng, rows = np.random.default_rng(3), days(10)
    shape = np.arange(1.0, 25.0)
    a, b = shape * rng.gamma(9, 1, (10, 24)), shape[::-1] * rng.gamma(9, 1, (10, 24))
    hours, all_rows = np.concatenate([a, np.zeros((10, 24)), b]), pd.concat([rows] * 3, ignore_index=True)
    together = profiles(hours, all_rows, np.repeat([0, 1, 2], 10), 3)
    assert together.used.tolist() == ["hour_of_day", None, "hour_of_day"]
    assert together.by_hour[1] is None
    np.testing.assert_array_equal(together.by_hour[0], of_one(a, rows).by_hour[0])
    np.testing.assert_array_equal(together.by_hour[2], of_one(b, rows).by_hour[0])
    empty = profiles(np.zeros((0, 24)), rows.iloc[:0], np.zeros(0, dtype=np.int64), 0)
    assert empty.by_hour.tolist() == []
