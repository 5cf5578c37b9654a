"""Schedules by the sun: against another library, by laws that hold everywhere, and where there are days without."""

from __future__ import annotations

import builtins
import importlib
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiotq.beat.schedules import from_dict, solar, to_dict
from aiotq.beat.solar import EVENTS
from aiotq.exceptions import MissingLibrary, ScheduleError


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("event", "lat", "lon", "after", "due"),
    [
        ("sunrise", 51.4769, 0.0, "2026-06-21", "2026-06-21T03:42:48"),  # Greenwich
        ("sunset", 51.4769, 0.0, "2026-06-21", "2026-06-21T20:20:50"),
        ("solar_noon", 51.4769, 0.0, "2026-06-21", "2026-06-21T12:01:49"),
        ("sunrise", 52.52, 13.405, "2026-12-21", "2026-12-21T07:14:52"),  # Berlin
        ("dawn_civil", 52.52, 13.405, "2026-06-21", "2026-06-21T01:52:52"),
        ("sunset", -33.8688, 151.2093, "2026-12-21", "2026-12-21T09:05:26"),  # Sydney
        ("dawn_astronomical", -33.8688, 151.2093, "2026-07-01", "2026-07-01T19:31:51"),
        ("sunrise", 37.7749, -122.4194, "2026-03-20", "2026-03-20T14:12:54"),  # San Francisco
        ("dusk_nautical", 37.7749, -122.4194, "2026-03-20", "2026-03-20T03:17:36"),
        ("sunrise", 78.22, 15.65, "2026-11-01", "2027-02-16T10:20:49"),  # Longyearbyen, after the polar night
        ("sunset", -77.85, 166.67, "2026-10-30", "2027-02-19T12:42:19"),  # McMurdo, after the polar day
    ],
)
def test_it_is_when_ephem_says_to_about_a_minute(event: str, lat: float, lon: float, after: str, due: str) -> None:
    """Figures of ephem 4, asked as Celery asks it."""
    found = solar(event, lat, lon).next(at(after))

    assert found is not None
    assert abs(found - at(due)) <= timedelta(seconds=30)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(EVENTS),
    st.floats(-45, 45),
    st.floats(-180, 180),
    st.datetimes(datetime(2000, 1, 1), datetime(2050, 1, 1), timezones=st.just(UTC)),
)
def test_between_the_polar_circles_it_comes_once_a_day(event: str, lat: float, lon: float, after: datetime) -> None:
    """Whatever the longitude: also where the day of the event in UTC is not its day at the place."""
    place = solar(event, lat, lon)

    days = [place.next(after)]
    for _ in range(5):
        days.append(place.next(days[-1] or after))

    assert days[0] is not None
    assert days[0] - after <= timedelta(hours=24, minutes=10)
    for one, following in pairwise(days):
        assert one is not None
        assert following is not None
        assert timedelta(hours=23, minutes=50) < following - one < timedelta(hours=24, minutes=10)
        assert place.next(following - timedelta(microseconds=1)) == following, "whenever one looks"


def test_events_of_a_day_come_in_their_order() -> None:
    order = (
        *("dawn_astronomical", "dawn_nautical", "dawn_civil", "sunrise", "solar_noon"),
        *("sunset", "dusk_civil", "dusk_nautical", "dusk_astronomical"),
    )

    times = [solar(event, 40.0, 0.0).next(at("2026-04-10")) for event in order]

    assert {*order} == {*EVENTS}
    assert all(each is not None for each in times)
    assert times == sorted(times, key=str)


def test_the_polar_day_and_night_have_no_sunrise() -> None:
    """On Svalbard the sun does not set from 19 April on, and does not rise from the end of October on."""
    longyearbyen = solar("sunrise", 78.22, 15.65)

    before_the_polar_day = longyearbyen.next(at("2026-04-12"))
    after_the_polar_day = longyearbyen.next(at("2026-05-01"))
    after_the_polar_night = longyearbyen.next(at("2026-11-01"))

    assert before_the_polar_day is not None
    assert before_the_polar_day.date().isoformat() == "2026-04-12"
    assert after_the_polar_day is not None
    assert after_the_polar_day.strftime("%m") == "08"
    assert after_the_polar_night is not None
    assert after_the_polar_night.strftime("%Y-%m") == "2027-02"


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("lat", [90.0, -90.0, 67.5, 89.7])
def test_everywhere_it_comes_again_and_is_found_quickly(event: str, lat: float) -> None:
    place = solar(event, lat, -179.9)

    started = time.process_time()
    due = place.next(at("2026-06-25"))

    assert due is not None
    assert time.process_time() - started < 0.5, "some milliseconds where nobody else works"


def test_at_the_end_of_the_calendar_it_comes_no_more() -> None:
    assert solar("sunset", 0, 0).next(at("9999-12-31T23:00")) is None
    assert solar("solar_noon", 0, 0).next(at("9999-12-31T23:00")) is None


def test_it_is_a_value() -> None:
    place = solar("dawn_civil", 52.5, 13)

    assert eval(repr(place)) == place
    assert from_dict(to_dict(place)) == place
    assert hash(solar("dawn_civil", 52.5, 13.0)) == hash(place)
    assert place != solar("dusk_civil", 52.5, 13)
    assert place != "solar"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("moonrise", 0, 0), "event"),
        (("sunrise", 90.1, 0), "lat"),
        (("sunrise", 0, -181), "lon"),
        (("sunrise", float("nan"), 0), "lat"),
        (("sunrise", "52", 0), "lat"),
        (("sunrise", 0, None), "lon"),
        ((["sunrise"], 0, 0), "event"),
    ],
)
def test_what_is_no_event_or_place_is_refused(arguments: tuple[Any, ...], field: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        solar(*arguments)

    assert refused.value.field == field


def test_without_astral_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_astral(name: str) -> Any:
        if name.startswith("astral"):
            raise ImportError(name)
        return builtins.__import__(name)

    monkeypatch.setattr(importlib, "import_module", without_astral)

    with pytest.raises(MissingLibrary, match=r"aiotq\[solar\]"):
        solar("sunrise", 0, 0)
