"""`solar`: schedules by the position of the sun, computed with astral (`pip install 'aiotq[solar]'`)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any, ClassVar, Final, NamedTuple, Protocol, cast

from ..exceptions import MissingLibrary, ScheduleError
from .wall_time import as_utc

_DAY: Final = timedelta(days=1)
_SECOND: Final = timedelta(seconds=1)
#: How far ahead an event is looked for: at the poles the sun rises once a year.
_DAYS_TO_LOOK: Final = 400
#: Degrees that the sun's path moves up or down in a day, at most (it is 0.4 at the equinoxes).
_DEGREES_A_DAY: Final = 0.45
#: The sun's edge is seen on the horizon: its radius is 16', and the air lifts it by 34'.
#: Source: NOAA, "Solar Calculation Details".
_HORIZON: Final = -50 / 60


class _Event(NamedTuple):
    elevation: float  #: of the sun's centre, in degrees
    rising: bool


_CROSSINGS: Final = {
    "dawn_astronomical": _Event(-18, True),
    "dawn_nautical": _Event(-12, True),
    "dawn_civil": _Event(-6, True),
    "sunrise": _Event(_HORIZON, True),
    "sunset": _Event(_HORIZON, False),
    "dusk_civil": _Event(-6, False),
    "dusk_nautical": _Event(-12, False),
    "dusk_astronomical": _Event(-18, False),
}
_NOON: Final = "solar_noon"
EVENTS: Final = (*_CROSSINGS, _NOON)


class solar:
    """Due at an event of the sun at a place: `solar("sunrise", lat=52.5, lon=13.4)`, in degrees north and east.

    Events: `dawn_astronomical`, `dawn_nautical` and `dawn_civil` (the sun rises, and is 18, 12 and 6 degrees below the
    horizon), `sunrise`, `solar_noon`, `sunset`, `dusk_civil`, `dusk_nautical` and `dusk_astronomical`. Near the poles
    there are days without. Times are whole seconds, accurate to about a minute.

    Immutable and compared by value. The repr can be pasted.

    Raises:
        ScheduleError: there is no such event or place.
        MissingLibrary: astral is not installed.

    Source: Celery, `celery.schedules.solar`.
    """

    __slots__ = ("_place", "event", "lat", "lon")

    KIND: ClassVar = "solar"

    def __init__(self, event: str, lat: float, lon: float) -> None:
        if event not in EVENTS:
            raise ScheduleError("event", event, f"is not one of {', '.join(EVENTS)}")
        self.event: Final = event
        self.lat: Final = _degrees("lat", lat, 90)
        self.lon: Final = _degrees("lon", lon, 180)
        self._place: Final = _Place(self.lat, self.lon)

    def next(self, after: datetime, zone: tzinfo = UTC) -> datetime | None:
        """Return when it happens first after `after`, in UTC; None beyond the year 9999."""
        after = as_utc("after", after)
        try:
            if self.event == _NOON:
                return self._place.noon_past(after)
            return self._place.crossing_past(after, _CROSSINGS[self.event])
        except OverflowError:
            return None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for `from_dict`."""
        return {"kind": self.KIND, "event": self.event, "lat": self.lat, "lon": self.lon}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> solar:
        """Return what `to_dict` made `given` of."""
        return cls(given["event"], given["lat"], given["lon"])

    def __reduce__(self) -> tuple[type[solar], tuple[str, float, float]]:
        return type(self), (self.event, self.lat, self.lon)  # its place holds a module, which can't be pickled

    def __repr__(self) -> str:
        return f"solar({self.event!r}, lat={self.lat!r}, lon={self.lon!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, solar):
            return NotImplemented
        return (self.event, self.lat, self.lon) == (other.event, other.lat, other.lon)

    def __hash__(self) -> int:
        return hash((self.event, self.lat, self.lon))


class _Sun(Protocol):
    """What is used of `astral.sun`."""

    def noon(self, observer: object, date: date) -> datetime: ...
    def elevation(self, observer: object, dateandtime: datetime, with_refraction: bool) -> float: ...


class _Place:
    """The sun over one place, by halves of solar days: it rises until noon, and sets until the middle of the night.

    The halves don't depend on where the search begins, so each search finds a crossing at the same second. Astral's own
    `sunrise` and others are not used: they count days in UTC, and far from Greenwich return some crossings twice, or
    for the day before or after.
    """

    __slots__ = ("_observer", "_sun")

    def __init__(self, lat: float, lon: float) -> None:
        try:
            astral = importlib.import_module("astral")
            self._sun: Final = cast("_Sun", importlib.import_module("astral.sun"))
        except ImportError as exc:
            raise MissingLibrary("solar schedules need the package astral: pip install 'aiotq[solar]'") from exc
        self._observer: Final[object] = astral.Observer(lat, lon, 0.0)

    def noon_past(self, after: datetime) -> datetime:
        day = after.date() - 2 * _DAY
        while (noon := self._noon(day)) <= after:
            day += _DAY
        return noon

    def crossing_past(self, after: datetime, event: _Event) -> datetime | None:
        day = after.date() - 2 * _DAY
        last = after.date() + _DAYS_TO_LOOK * _DAY
        while day <= last:
            night, noon, next_night = self._night_before(day), self._noon(day), self._night_before(day + _DAY)
            heights = [self._height(moment) - event.elevation for moment in (night, noon, next_night)]
            for start, low, end, high in (
                (night, heights[0], noon, heights[1]),
                (noon, heights[1], next_night, heights[2]),
            ):
                if end > after and (low < 0 <= high if event.rising else high < 0 <= low):
                    found = self._crossing(start, end, event)
                    if found > after:
                        return found
            day += max(1, _days_without(heights)) * _DAY
        return None

    def _noon(self, day: date) -> datetime:
        return self._sun.noon(self._observer, day)

    def _night_before(self, day: date) -> datetime:
        noon = self._noon(day)
        return noon - (noon - self._noon(day - _DAY)) // _SECOND // 2 * _SECOND

    def _height(self, moment: datetime) -> float:
        return self._sun.elevation(self._observer, moment, with_refraction=False)

    def _crossing(self, start: datetime, end: datetime, event: _Event) -> datetime:
        """The first second from `start` to `end` at which the sun has crossed the event's elevation."""
        while end - start > _SECOND:
            middle = start + (end - start) // _SECOND // 2 * _SECOND
            if (self._height(middle) >= event.elevation) == event.rising:
                end = middle
            else:
                start = middle
        return end


def _days_without(heights: list[float]) -> int:
    """For how many days the sun can't cross, when through all of one it was well above or below."""
    nearest = min(map(abs, heights))
    on_one_side = min(heights) > 0 or max(heights) < 0
    return int(nearest / _DEGREES_A_DAY) if on_one_side else 0


def _degrees(name: str, given: object, most: int) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ScheduleError(name, given, "is not a number of degrees")
    if not -most <= given <= most:  # nor is NaN
        raise ScheduleError(name, given, f"is not from -{most} to {most}")
    return float(given)
