"""Every so many seconds, one moment, and schedules of the user's own."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotq.beat.schedules import (
    Schedule,
    crontab,
    from_dict,
    interval,
    next_due,
    once,
    schedule,
    schedule_of,
    solar,
    to_dict,
)
from aiotq.exceptions import AioTQError, ScheduleError

BERLIN = ZoneInfo("Europe/Berlin")
moments = st.datetimes(datetime(2000, 1, 1), datetime(2050, 1, 1), timezones=st.just(UTC))
durations = st.timedeltas(timedelta(milliseconds=1), timedelta(days=36525))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@given(durations, moments)
def test_an_interval_comes_that_long_after_the_last_time(every: timedelta, after: datetime) -> None:
    assert interval(every).next(after, BERLIN) == after + every


@given(durations, moments)
def test_an_aligned_interval_comes_at_its_multiples_wherever_one_begins_to_count(
    every: timedelta, after: datetime
) -> None:
    due = interval(every, aligned=True).next(after)

    assert due is not None
    assert after < due <= after + every
    assert (due - datetime(1970, 1, 5, tzinfo=UTC)) % every == timedelta()


@pytest.mark.parametrize(
    ("seconds", "due"),
    [(3600, "2026-03-18T11:00"), (7200, "2026-03-18T12:00"), (86400, "2026-03-19"), (7 * 86400, "2026-03-23")],
)
def test_aligned_means_full_hours_days_and_weeks_that_begin_on_monday(seconds: int, due: str) -> None:
    assert interval(seconds, aligned=True).next(at("2026-03-18T10:07:03")) == at(due)
    assert schedule(seconds, relative=True) == interval(seconds, aligned=True)


def test_a_change_of_clocks_means_nothing_to_an_interval() -> None:
    """In Berlin clocks go from 02:00 to 03:00 on 29 March 2026, which is 01:00 in UTC."""
    assert interval(3600).next(at("2026-03-29T00:30"), BERLIN) == at("2026-03-29T01:30")


@given(durations, st.booleans())
def test_an_interval_is_a_value(every: timedelta, aligned: bool) -> None:
    one = interval(every, aligned=aligned)

    assert eval(repr(one)) == one
    assert from_dict(to_dict(one)) == one
    assert hash(interval(every, aligned=aligned)) == hash(one)
    assert one != interval(every, aligned=not aligned)
    assert one != every


@pytest.mark.parametrize("every", [0, -1, 0.0001, float("nan"), float("inf"), 1e300, 10**400, "60", None, True])
def test_what_is_no_duration_is_no_interval(every: Any) -> None:
    with pytest.raises(ScheduleError) as refused:
        interval(every)

    assert refused.value.field == "every"


def test_once_is_due_once() -> None:
    moment = once("2026-12-24T18:00:00+01:00")

    assert moment.next(at("2026-12-24T16:59:59")) == at("2026-12-24T17:00")
    assert moment.next(at("2026-12-24T17:00")) is None
    assert moment == once(datetime(2026, 12, 24, 18, tzinfo=BERLIN))
    assert hash(moment) == hash(once(at("2026-12-24T17:00")))
    assert eval(repr(moment)) == from_dict(to_dict(moment)) == moment


@pytest.mark.parametrize("moment", ["tomorrow", "2026-12-24T18:00", datetime(2026, 12, 24), 3, None])
def test_a_moment_needs_a_zone(moment: Any) -> None:
    with pytest.raises(ScheduleError):
        once(moment)


def test_at_the_end_of_the_calendar_an_interval_comes_no_more() -> None:
    assert interval(3600).next(at("9999-12-31T23:30")) is None
    assert interval(3600, aligned=True).next(at("9999-12-31T23:30")) is None


# Schedules of the user's own


@dataclass
class Answering:
    """A schedule that returns what it was told to, or raises it."""

    answer: Any

    def next(self, after: datetime, zone: tzinfo) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


NOW = at("2026-03-18T10:00")


def test_a_schedule_of_ones_own_is_asked_as_the_others_are() -> None:
    mine = schedule_of(Answering(datetime(2026, 3, 18, 12, tzinfo=BERLIN)))

    due = next_due(mine, NOW)

    assert due == at("2026-03-18T11:00")
    assert due is not None
    assert due.tzinfo is UTC, "in whatever zone it was said"
    assert next_due(Answering(None), NOW) is None


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (RuntimeError("no table"), "raised RuntimeError: RuntimeError('no table')"),
        (NOW, "which is not after"),
        (NOW - timedelta(days=1), "which is not after"),
        (datetime(2026, 3, 19), "which must be a datetime with a time zone"),
        (1773914400.0, "which is not a datetime"),
        ("tomorrow", "which is not a datetime"),
    ],
)
def test_what_such_a_schedule_may_not_return_is_an_error_that_names_it(answer: Any, says: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        next_due(Answering(answer), NOW)

    assert "schedule=Answering(" in str(refused.value)
    assert says in str(refused.value)


def test_numbers_and_timedeltas_are_intervals() -> None:
    assert schedule_of(30) == schedule_of(30.0) == schedule_of(timedelta(seconds=30)) == interval(30)
    assert schedule_of(crontab(minute=7)) == crontab(minute=7)


@pytest.mark.parametrize("given_as", ["* * * * *", None, crontab, [1], iter([]), True])
def test_what_is_no_schedule_is_refused(given_as: Any) -> None:
    with pytest.raises(ScheduleError):
        schedule_of(given_as)


@pytest.mark.parametrize(
    "given_as",
    [crontab("*/5 8-18 * * mon-fri"), interval(90, aligned=True), once(NOW), solar("sunrise", 52.5, 13.4)],
    ids=repr,
)
def test_all_kinds_can_be_copied_and_pickled(given_as: Schedule) -> None:
    for copied in (copy.deepcopy(given_as), pickle.loads(pickle.dumps(given_as))):
        assert copied == given_as
        assert copied.next(NOW, BERLIN) == given_as.next(NOW, BERLIN)


def test_only_code_can_declare_a_schedule_of_ones_own() -> None:
    with pytest.raises(ScheduleError, match="can't be stored"):
        to_dict(Answering(None))


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        (None, "is not a dict"),
        ([], "is not a dict"),
        ({}, "is not one of crontab, interval, solar, once"),
        ({"kind": "lunar"}, "is not one of crontab"),
        ({"kind": ["crontab"]}, "is not one of crontab"),
        ({"kind": "interval"}, "lacks every"),
        ({"kind": "interval", "every": 3, "color": "red"}, "unknown to interval"),
        ({"kind": "interval", "every": "3"}, "is not a number"),
        ({"kind": "interval", "every": 3, "aligned": []}, "is not True or False"),
        ({"kind": "once", "at": 3}, "must be a datetime"),
        ({"kind": "solar", "event": {}, "lat": 1, "lon": 1}, "is not one of"),
        ({"kind": "crontab", "minute": 3}, "is not text"),
        ({"kind": "crontab", "minute": "77"}, "77"),
        ({"kind": "crontab", 3: "77"}, "unknown to crontab"),
    ],
)
def test_what_is_damaged_is_an_error_that_says_how(stored: Any, says: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        from_dict(stored)

    assert says in str(refused.value)
    assert isinstance(refused.value, AioTQError)
    assert isinstance(refused.value, ValueError), "as Celery's errors about schedules are"
