"""`interval` and `once`: schedules that don't depend on local time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, ClassVar, Final

from ..exceptions import ScheduleError
from .wall_time import as_utc

#: Something more frequent needs a loop, not a schedule; a longer one would lose microseconds as a float of seconds.
_SHORTEST, _LONGEST = timedelta(milliseconds=1), timedelta(days=36525)
#: Where aligned intervals are counted from: a Monday, so that weeks begin with one.
_ORIGIN: Final = datetime(1970, 1, 5, tzinfo=UTC)


class interval:
    """Due every so many seconds (a number or a timedelta), whatever daylight saving time does.

    Counted from the due time before, so an occurrence that is sent late does not move the next ones. With `aligned` it
    is due at multiples of the interval, counted from Monday, 5 January 1970 in UTC: hourly at full hours, weekly on
    Mondays. Use `crontab` for local times, such as midnight in a time zone.

    Immutable and compared by value. The repr can be pasted.

    Raises:
        ScheduleError: `every` is not a duration between a millisecond and a hundred years.
    """

    __slots__ = ("aligned", "every")

    KIND: ClassVar = "interval"

    def __init__(self, every: float | timedelta, *, aligned: bool = False) -> None:
        self.every: Final = _duration(every)
        self.aligned: Final = _flag(aligned)

    def next(self, after: datetime, zone: tzinfo = UTC) -> datetime | None:
        """Return when it is due first after `after`, in UTC; None beyond the year 9999."""
        after = as_utc("after", after)
        try:
            if self.aligned:
                return _ORIGIN + ((after - _ORIGIN) // self.every + 1) * self.every
            return after + self.every
        except OverflowError:
            return None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for `from_dict`."""
        return {"kind": self.KIND, "every": self.every.total_seconds(), "aligned": self.aligned}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> interval:
        """Return what `to_dict` made `given` of."""
        return cls(given["every"], aligned=given.get("aligned", False))

    def __repr__(self) -> str:
        seconds = self.every.total_seconds()
        shown = str(int(seconds)) if seconds.is_integer() else repr(seconds)
        return f"interval({shown}, aligned=True)" if self.aligned else f"interval({shown})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, interval):
            return NotImplemented
        return (self.every, self.aligned) == (other.every, other.aligned)

    def __hash__(self) -> int:
        return hash((self.every, self.aligned))


class once:
    """Due once, at a datetime with a time zone, or the same as ISO 8601 text: `once("2030-12-24T18:00:00+01:00")`.

    Immutable and compared by value. The repr can be pasted.

    Raises:
        ScheduleError: `at` is not a date and time, or has no time zone.
    """

    __slots__ = ("at",)

    KIND: ClassVar = "once"

    def __init__(self, at: datetime | str) -> None:
        self.at: Final = as_utc("at", _parsed(at) if isinstance(at, str) else at)

    def next(self, after: datetime, zone: tzinfo = UTC) -> datetime | None:
        """Return the moment, or None when it is over."""
        return self.at if self.at > as_utc("after", after) else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for `from_dict`."""
        return {"kind": self.KIND, "at": self.at.isoformat()}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> once:
        """Return what `to_dict` made `given` of."""
        return cls(given["at"])

    def __repr__(self) -> str:
        return f"once({self.at.isoformat()!r})"

    def __eq__(self, other: object) -> bool:
        return self.at == other.at if isinstance(other, once) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.at)


def _duration(every: object) -> timedelta:
    found = every
    if isinstance(every, int | float) and not isinstance(every, bool):
        if not abs(every) <= _LONGEST.total_seconds():  # neither is NaN
            raise ScheduleError("every", every, "is not a duration between a millisecond and a hundred years")
        found = timedelta(seconds=every)
    if not isinstance(found, timedelta):
        raise ScheduleError("every", every, "is not a number of seconds or a timedelta")
    if not _SHORTEST <= found <= _LONGEST:
        raise ScheduleError("every", every, "is not a duration between a millisecond and a hundred years")
    return found


def _flag(given: object) -> bool:
    if not isinstance(given, bool):
        raise ScheduleError("aligned", given, "is not True or False")
    return given


def _parsed(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ScheduleError("at", text, "is not a date and time, such as '2030-12-24T18:00:00+01:00'") from None
