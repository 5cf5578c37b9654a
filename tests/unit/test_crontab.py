"""When crontabs are due: the fields, the calendar, and clocks that are put forward and back in every zone there is."""

from __future__ import annotations

import itertools
import time
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aiotq.beat.schedules import crontab, from_dict, to_dict, zone_of
from aiotq.exceptions import ScheduleError

BERLIN = ZoneInfo("Europe/Berlin")
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
ZONES = sorted(zoneinfo.available_timezones())


def upcoming(schedule: crontab, after: datetime, count: int, zone: ZoneInfo = BERLIN) -> list[str]:
    """The next `count` times of `schedule`, as clocks in `zone` show them."""
    found: list[str] = []
    for _ in range(count):
        due = schedule.next(after, zone)
        assert due is not None
        assert due.tzinfo is UTC
        after = due
        found.append(due.astimezone(zone).strftime("%a %d %b %H:%M %z"))
    return found


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# The fields


@pytest.mark.parametrize(
    ("field", "written", "meant"),
    [
        ("minute", "*/15", "0,15,30,45"),
        ("minute", "*/2,10-12/3", ",".join(map(str, range(0, 60, 2)))),
        ("minute", "1,13,30-33,50-59/2", "1,13,30,31,32,33,50,52,54,56,58"),
        ("minute", [30, 0], "0,30"),
        ("minute", {45, 15}, "15,45"),
        ("minute", range(0, 60, 20), "0,20,40"),
        ("minute", 7, "7"),
        ("minute", " 0, 30 ", "0,30"),
        ("hour", "8-18/4", "8,12,16"),
        ("hour", "22-2", "0,1,2,22,23"),
        ("hour", "22-4/2", "0,2,4,22"),
        ("day_of_week", "mon,thu", "1,4"),
        ("day_of_week", "Monday-FRIDAY", "1-5"),
        ("day_of_week", ["tues", "thurs"], "2,4"),
        ("day_of_week", "fri-mon", "0,1,5,6"),
        ("day_of_week", 7, "0"),
        ("day_of_week", "5-7", "0,5,6"),
        ("day_of_week", "7-2", "0,1,2"),
        ("day_of_week", "7-7", "0"),
        ("day_of_week", "*/2", "0,2,4,6"),
        ("day_of_month", "2-30/2", ",".join(map(str, range(2, 31, 2)))),
        ("day_of_month", "*/10", "1,11,21,31"),
        ("day_of_month", "30-2", "1,2,30,31"),
        ("month_of_year", "*/3", "1,4,7,10"),
        ("month_of_year", "jan-mar,Sept", "1,2,3,9"),
    ],
)
def test_a_field_stands_for_numbers(field: str, written: Any, meant: str) -> None:
    assert crontab(**{field: written}) == crontab(**{field: meant})


@pytest.mark.parametrize(
    ("arguments", "field", "says"),
    [
        ({"minute": 60}, "minute", "60, which is not from 0 to 59"),
        ({"minute": -1}, "minute", "-1, which is not from 0 to 59"),
        ({"minute": ""}, "minute", "empty part"),
        ({"minute": "1,,2"}, "minute", "empty part"),
        ({"minute": "1-"}, "minute", "empty part"),
        ({"minute": "*/0"}, "minute", "the step '0'"),
        ({"minute": "*/"}, "minute", "the step ''"),
        ({"minute": "*/90"}, "minute", "every 90 minutes is interval(5400)"),
        ({"hour": "5/2"}, "hour", "write '5-23/2'"),
        ({"hour": 24}, "hour", "24, which is not from 0 to 23"),
        ({"hour": "mon"}, "hour", "'mon', which is not a number from 0 to 23"),
        ({"hour": []}, "hour", "empty"),
        ({"hour": True}, "hour", "not a number"),
        ({"hour": None}, "hour", "not a number"),
        ({"hour": [1, 2.5]}, "hour", "2.5"),
        ({"hour": itertools.count()}, "hour", "more than"),
        ({"minute": "\u0661"}, "minute", "not a number"),
        ({"day_of_week": "someday"}, "day_of_week", "one of sun, mon, tue"),
        ({"day_of_week": 8}, "day_of_week", "8, which is not from 0 to 6"),
        ({"day_of_month": 0}, "day_of_month", "0, which is not from 1 to 31"),
        ({"month_of_year": "13"}, "month_of_year", "13, which is not from 1 to 12"),
        ({"day_of_month": 30, "month_of_year": 2}, "day_of_month", "never comes"),
        ({"day_of_month": 31, "month_of_year": "apr,jun,sep,nov"}, "day_of_month", "never comes"),
        ({"minute": "* * * *"}, "crontab", "has 4 fields"),
        ({"minute": "@reboot"}, "crontab", "is not a time"),
        ({"minute": "@fortnightly"}, "crontab", "not one of @yearly"),
        ({"minute": "0 7 * * *", "hour": 8}, "minute", "other fields can't be given"),
    ],
)
def test_what_can_not_be_is_refused_where_it_is_said(arguments: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        crontab(**arguments)

    assert refused.value.field == field
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("*/5 8-18 * * mon-fri", crontab(minute="*/5", hour="8-18", day_of_week="1-5")),
        ("0 0 1 jan *", crontab(minute=0, hour=0, day_of_month=1, month_of_year=1)),
        ("0, 30 7 * * *", crontab(minute="0,30", hour=7)),
        ("@daily", crontab(minute=0, hour=0)),
        ("@midnight", crontab(minute=0, hour=0)),
        ("@Weekly", crontab(minute=0, hour=0, day_of_week=0)),
        ("@monthly", crontab(minute=0, hour=0, day_of_month=1)),
        ("@yearly", crontab(minute=0, hour=0, day_of_month=1, month_of_year=1)),
        ("@hourly", crontab(minute=0)),
    ],
)
def test_a_cron_string_says_all_fields(text: str, same: crontab) -> None:
    assert crontab(text) == crontab.from_string(text) == same


def test_both_days_have_to_match_as_in_celery_and_unlike_in_cron() -> None:
    first_monday = crontab("0 0 1-7 * mon")

    assert upcoming(first_monday, at("2026-01-01"), 3) == [
        "Mon 05 Jan 00:00 +0100",
        "Mon 02 Feb 00:00 +0100",
        "Mon 02 Mar 00:00 +0100",
    ]


@given(
    st.builds(
        crontab,
        minute=st.sets(st.integers(0, 59), min_size=1) | st.sampled_from(["*", "*/7", "5-50/5"]),
        hour=st.sets(st.integers(0, 23), min_size=1) | st.sampled_from(["*", "*/6"]),
        day_of_week=st.sampled_from(["*", "mon-fri", "0,3", 6]),
        month_of_year=st.sampled_from(["*", "feb", "*/3"]),
    )
)
def test_it_is_a_value(schedule: crontab) -> None:
    assert eval(repr(schedule)) == schedule
    assert from_dict(to_dict(schedule)) == schedule
    assert hash(from_dict(to_dict(schedule))) == hash(schedule)
    assert repr(from_dict(to_dict(schedule))) == repr(schedule)
    assert schedule != crontab(minute=0, day_of_month=31)
    assert schedule != "crontab"


# The calendar


def test_29_february_comes_in_leap_years() -> None:
    leap_day = crontab("0 12 29 2 *")

    assert leap_day.next(at("2026-01-01")) == at("2028-02-29T12:00")
    assert leap_day.next(at("2096-02-29T12:00")) == at("2104-02-29T12:00"), "2100 is none"


def test_the_rarest_day_is_found() -> None:
    """29 February on a Monday, over a century that is no leap year."""
    rare = crontab(minute=0, hour=0, day_of_month=29, month_of_year=2, day_of_week="mon")

    assert rare.next(at("2072-03-01")) == at("2112-02-29")


def test_at_the_end_of_the_calendar_it_comes_no_more() -> None:
    for zone in (UTC, BERLIN, ZoneInfo("Pacific/Kiritimati"), ZoneInfo("Pacific/Niue")):
        for schedule in (crontab("0 12 29 2 *"), crontab(), crontab("0 0 * * *")):
            assert schedule.next(at("9999-12-31T23:59"), zone) is None


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ScheduleError, match="must be a datetime with a time zone"):
        crontab().next(datetime(2026, 1, 1))


@given(
    minutes=st.sets(st.integers(0, 59), min_size=1, max_size=3),
    hours=st.sets(st.integers(0, 23), min_size=1, max_size=3),
    weekdays=st.sets(st.integers(0, 6), min_size=1),
    days=st.sets(st.integers(1, 31), min_size=1),
    months=st.sets(st.integers(1, 12), min_size=1),
    after=st.datetimes(datetime(2000, 1, 1), datetime(2050, 1, 1), timezones=st.just(UTC)),
)
def test_it_is_due_on_the_first_day_that_matches(
    minutes: set[int], hours: set[int], weekdays: set[int], days: set[int], months: set[int], after: datetime
) -> None:
    """Against a walk over all days, with nothing skipped."""
    assume(any(day <= 29 or month != 2 for day in days for month in months))
    assume(min(days) <= 30 or months & {1, 3, 5, 7, 8, 10, 12})
    schedule = crontab(minutes, hours, weekdays, days, months)

    due = schedule.next(after)

    assert due is not None
    day = after.replace(hour=0, minute=0, second=0, microsecond=0)
    times = sorted(timedelta(hours=hour, minutes=minute) for hour in hours for minute in minutes)
    for _ in range(366 * 41):
        if day.day in days and day.month in months and int(day.strftime("%w")) in weekdays:
            found = [day + each for each in times if day + each > after]
            if found:
                assert due == found[0]
                return
        day += DAY
    pytest.fail(f"nothing for 41 years, and {due}")


# Clocks that are put forward and back


def test_a_time_that_is_skipped_runs_at_the_jump() -> None:
    """In Berlin clocks go from 02:00 to 03:00 on 29 March 2026."""
    assert upcoming(crontab(minute=30, hour=2), at("2026-03-27T12:00"), 3) == [
        "Sat 28 Mar 02:30 +0100",
        "Sun 29 Mar 03:00 +0200",
        "Mon 30 Mar 02:30 +0200",
    ]


def test_times_that_are_skipped_together_run_once_and_with_what_is_due_at_the_jump() -> None:
    assert upcoming(crontab(minute="0,20,40", hour="2,3"), at("2026-03-29T00:30"), 3) == [
        "Sun 29 Mar 03:00 +0200",
        "Sun 29 Mar 03:20 +0200",
        "Sun 29 Mar 03:40 +0200",
    ]


def test_a_time_that_comes_twice_runs_once_the_first_time() -> None:
    """In Berlin clocks go from 03:00 to 02:00 on 25 October 2026."""
    assert upcoming(crontab(minute=30, hour=2), at("2026-10-24T12:00"), 2) == [
        "Sun 25 Oct 02:30 +0200",
        "Mon 26 Oct 02:30 +0100",
    ]


def test_what_has_a_star_in_its_hour_runs_through_the_repeated_hour() -> None:
    assert upcoming(crontab(minute="*/30"), at("2026-10-24T23:45"), 6) == [
        "Sun 25 Oct 02:00 +0200",
        "Sun 25 Oct 02:30 +0200",
        "Sun 25 Oct 02:00 +0100",
        "Sun 25 Oct 02:30 +0100",
        "Sun 25 Oct 03:00 +0100",
        "Sun 25 Oct 03:30 +0100",
    ]


def test_what_has_a_star_in_its_minute_goes_by_the_clock_alone() -> None:
    every_half_hour_of_two = crontab(minute="*/30", hour=2)

    assert upcoming(every_half_hour_of_two, at("2026-03-28T12:00"), 1) == ["Mon 30 Mar 02:00 +0200"]
    assert len([each for each in upcoming(every_half_hour_of_two, at("2026-10-24T12:00"), 4) if "25 Oct" in each]) == 4


def test_a_day_that_a_zone_skips_runs_at_the_jump() -> None:
    """Samoa went over the date line: it had no 30 December 2011."""
    apia = ZoneInfo("Pacific/Apia")

    assert upcoming(crontab(minute=0, hour=7), at("2011-12-29T12:00"), 3, apia) == [
        "Thu 29 Dec 07:00 -1000",
        "Sat 31 Dec 00:00 +1400",
        "Sat 31 Dec 07:00 +1400",
    ]


def test_half_an_hour_is_a_change_as_well() -> None:
    lord_howe = ZoneInfo("Australia/Lord_Howe")

    assert upcoming(crontab(minute=15, hour=2), at("2026-10-02T16:00"), 2, lord_howe) == [
        "Sun 04 Oct 02:30 +1100",
        "Mon 05 Oct 02:15 +1100",
    ]


@cache
def changes(name: str) -> list[datetime]:
    """The days from 2000 to 2050 in which clocks of this zone are put forward or back, as they begin in UTC."""
    zone = ZoneInfo(name)
    days = [datetime(2000, 1, 1, tzinfo=UTC) + DAY * number for number in range(51 * 365)]
    offsets = [day.astimezone(zone).utcoffset() for day in days]
    return [day for day, offset, later in zip(days, offsets, offsets[1:], strict=False) if offset != later]


def as_cron_would(schedule: crontab, after: datetime, zone: ZoneInfo, days: int) -> Iterator[datetime]:
    """The oracle: cron, which wakes up every minute and looks at the clock on the wall.

    Jobs without a `*` in minute and hour go by a second clock, which is never put back, and of which cron
    catches up with all minutes when it is put forward.
    """
    minutes, hours, weekdays, months_days, months = (
        schedule._minutes,
        schedule._hours,
        schedule._weekdays,
        schedule._days,
        schedule._months,
    )

    def matches(wall: datetime) -> bool:
        return (
            wall.minute in minutes
            and wall.hour in hours
            and wall.isoweekday() % 7 in weekdays
            and wall.day in months_days
            and wall.month in months
        )

    wild = "*" in schedule.minute + schedule.hour
    moment = after.replace(second=0, microsecond=0) - 2 * DAY
    latest = moment.astimezone(zone).replace(tzinfo=None)
    while moment < after + days * DAY:
        moment += MINUTE
        wall = moment.astimezone(zone).replace(tzinfo=None)
        if wild:
            runs = matches(wall)
        else:
            caught_up = [latest + MINUTE * (number + 1) for number in range(max(0, (wall - latest) // MINUTE))]
            runs = any(map(matches, caught_up))
            latest = max(latest, wall)
        if runs and moment > after:
            yield moment


any_crontab = st.builds(
    crontab,
    minute=st.sets(st.integers(0, 59), min_size=1, max_size=4) | st.sampled_from(["*", "*/15", "0-59", "30", "0"]),
    hour=st.sets(st.integers(0, 4) | st.integers(0, 23), min_size=1, max_size=4)
    | st.sampled_from(["*", "*/2", "0-23", "22-3"]),
    day_of_week=st.sampled_from(["*", "*", "sun,mon", "sat-sun"]),
    day_of_month=st.sampled_from(["*", "*", "*", "1-15", "25-31"]),
)


@st.composite
def near_a_change(draw: st.DrawFn) -> tuple[ZoneInfo, datetime]:
    name = draw(st.sampled_from(ZONES))
    days = changes(name) or [datetime(2026, 1, 1, tzinfo=UTC)]
    offset = draw(st.integers(-36 * 3600, 36 * 3600))
    return ZoneInfo(name), draw(st.sampled_from(days)) + timedelta(seconds=offset)


@settings(deadline=None, max_examples=150)
@given(any_crontab, near_a_change())
def test_in_all_zones_it_is_due_when_cron_would_run_it(schedule: crontab, place: tuple[ZoneInfo, datetime]) -> None:
    zone, after = place
    days = 3
    expected = [*as_cron_would(schedule, after, zone, days)]

    found: list[datetime] = []
    due = schedule.next(after, zone)
    while due is not None and due <= after + days * DAY:
        found.append(due)
        due = schedule.next(due, zone)

    assert found == [each for each in expected if each <= after + days * DAY]


@settings(deadline=None)
@given(
    any_crontab,
    st.sampled_from(ZONES),
    st.datetimes(datetime(2000, 1, 1), datetime(2050, 1, 1), timezones=st.just(UTC)),
    st.integers(1, 10**6),
)
def test_times_only_grow_and_none_is_left_out(schedule: crontab, name: str, after: datetime, seconds: int) -> None:
    """`next` of any moment up to the next time is that time."""
    zone = zone_of(name)

    due = schedule.next(after, zone)

    assert due is not None
    assert due > after
    between = min(after + timedelta(seconds=seconds), due - timedelta(microseconds=1))
    assert schedule.next(between, zone) == due


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(ScheduleError, match="Europe/Atlantis"):
        zone_of("Europe/Atlantis")


def test_ten_thousand_entries_are_asked_quickly() -> None:
    """Measured: 5 to 15 us each; the bound is for machines that are busy with other things."""
    entries = [
        crontab(minute=minute % 60, hour=minute % 24, day_of_week="mon-fri", day_of_month="1-7")
        for minute in range(10_000)
    ]
    after = at("2026-10-24T23:45")

    started = time.process_time()
    for entry in entries:
        entry.next(after, BERLIN)

    assert time.process_time() - started < 2
