"""Trading days against dates that exchanges published."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import exchange_calendars
import numpy as np
import pytest

from tributary_opt.market_data.calendars import calendar_problem, trading_calendar


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("code", "day", "start", "end"),
    [
        ("24/7", date(2024, 2, 29), "2024-02-29T00:00", "2024-03-01T00:00"),
        ("XNYS", date(2024, 3, 8), "2024-03-08T14:30", "2024-03-08T21:00"),
        ("XNYS", date(2024, 3, 11), "2024-03-11T13:30", "2024-03-11T20:00"),  # New York's clocks went forward
        ("XNYS", date(2024, 11, 29), "2024-11-29T14:30", "2024-11-29T18:00"),  # the day after Thanksgiving
        ("XNYS", date(2024, 7, 3), "2024-07-03T13:30", "2024-07-03T17:00"),
        ("XNYS", date(1998, 1, 2), "1998-01-02T14:30", "1998-01-02T21:00"),
        ("XLON", date(2024, 12, 24), "2024-12-24T08:00", "2024-12-24T12:30"),
        ("XTKS", date(2024, 3, 5), "2024-03-05T00:00", "2024-03-05T06:00"),
        ("CMES", date(2024, 3, 5), "2024-03-04T23:00", "2024-03-05T23:00"),  # begins on Monday evening in Chicago
    ],
)
def test_session_begins_and_ends_as_the_exchange_says(code: str, day: date, start: str, end: str) -> None:
    session = trading_calendar(code).session(day)
    assert session is not None
    assert (session.start, session.end) == (utc(start), utc(end))
    assert session.hours == (utc(end) - utc(start)) / timedelta(hours=1)
    assert session.utc_dates[0] == utc(start).date()
    assert session.utc_dates[-1] == (utc(end) - timedelta(microseconds=1)).date()


@pytest.mark.parametrize("day", [date(2024, 3, 9), date(2024, 11, 28), date(2012, 10, 29), date(2001, 9, 12)])
def test_exchange_is_closed_on_weekends_holidays_and_days_of_calamity(day: date) -> None:
    assert trading_calendar("XNYS").session(day) is None
    assert trading_calendar("24/7").session(day) is not None


def test_days_and_last_days_are_sessions_only() -> None:
    nyse, always = trading_calendar("XNYS"), trading_calendar("24/7")
    assert nyse.days(date(2024, 11, 27), date(2024, 12, 2)) == [
        date(2024, 11, 27),
        date(2024, 11, 29),
        date(2024, 12, 2),
    ]
    assert nyse.last_days(date(2024, 12, 1), 2) == [date(2024, 11, 27), date(2024, 11, 29)]
    assert always.last_days(date(2024, 3, 1), 2) == [date(2024, 2, 29), date(2024, 3, 1)]
    for calendar in (nyse, always):
        for n in (1, 30, 366):
            days = calendar.last_days(date(2021, 3, 31), n)
            assert len(days) == n
            assert days == sorted(set(days))
            assert days[-1] == date(2021, 3, 31)


def test_instant_after_counts_whole_and_parts_of_trading_days() -> None:
    nyse, always = trading_calendar("XNYS"), trading_calendar("24/7")
    friday = date(2024, 3, 1)
    assert always.instant_after(friday, 1.5) == utc("2024-03-03T12:00")
    assert nyse.instant_after(friday, 0.5) == utc("2024-03-04T17:45")
    assert nyse.instant_after(friday, 1.0) == utc("2024-03-04T21:00")
    assert nyse.instant_after(friday, 1.5) == utc("2024-03-05T17:45")
    assert nyse.instant_after(date(2024, 11, 27), 1.0) == utc("2024-11-29T18:00")  # the half day is a day
    assert nyse.instant_after(friday, 30.0) == nyse.session(nyse.days(date(2024, 3, 2), date(2024, 5, 1))[29]).end


def test_hours_are_those_of_the_calendars_own_clock() -> None:
    stamps = np.array(["2024-03-08T14:30", "2024-03-11T13:30"], dtype="datetime64[us]")
    assert trading_calendar("XNYS").hour_of_day(stamps).tolist() == [9, 9]
    assert trading_calendar("24/7").hour_of_day(stamps).tolist() == [14, 13]
    assert trading_calendar("XBOM").hour_of_day(stamps).tolist() == [20, 19]  # five hours and a half ahead


@pytest.mark.parametrize("code", ["", "NOWHERE", "xnys", "None"])
def test_unknown_code_is_refused_with_what_to_give(code: str) -> None:
    with pytest.raises(ValueError, match=r"calendar must be '24/7' or a code of exchange_calendars such as XNYS, got"):
        trading_calendar(code)


@pytest.mark.parametrize("code", ["24/7", "XNYS"])
@pytest.mark.parametrize("horizon", [0.25, 1.0, 1.5, 7.75])
def test_horizon_until_is_the_way_back_from_instant_after(code: str, horizon: float) -> None:
    calendar, day = trading_calendar(code), date(2024, 11, 27)
    instant = np.array([calendar.instant_after(day, horizon).replace(tzinfo=None)], dtype="datetime64[us]")
    assert calendar.horizon_until(day, instant, 30.0)[0] == pytest.approx(horizon, rel=1e-12)
    assert calendar.horizon_until(day, instant, 2.0)[0] == pytest.approx(min(horizon, 2.0), rel=1e-12)


def test_time_between_sessions_does_not_count() -> None:
    nyse = trading_calendar("XNYS")
    stamps = ["2024-03-01T20:00", "2024-03-04T14:30", "2024-03-04T23:00", "2024-03-05T13:00", "2024-03-05T17:45", "NaT"]
    got = nyse.horizon_until(date(2024, 3, 1), np.array(stamps, dtype="datetime64[us]"), 5.0)
    np.testing.assert_array_equal(got, [0.0, 0.0, 1.0, 1.0, 1.5, np.nan])


def test_every_exchange_of_the_library_has_a_calendar_or_a_reason_why_not() -> None:
    codes = exchange_calendars.get_calendar_names(include_aliases=False)
    problems = {code: problem for code in codes if (problem := calendar_problem(code))}
    assert len(problems) < len(codes) / 10
    for code, problem in problems.items():
        assert problem.startswith(
            f"calendar {code}: exchange_calendars {exchange_calendars.__version__} cannot make it"
        )
        with pytest.raises(ValueError, match=code):
            trading_calendar(code)
