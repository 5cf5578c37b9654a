"""All kinds of schedules, the protocol for schedules of your own, and schedules as plain dicts.

`next(after, zone)` is a pure function: the same arguments give the same time, in any process.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any, Final, Protocol, TypeAlias, cast

from ..core.values import shown
from ..exceptions import ScheduleError
from .crontab import crontab
from .intervals import interval, once
from .solar import solar
from .wall_time import as_utc

__all__ = [
    "AnySchedule",
    "Schedule",
    "crontab",
    "from_dict",
    "interval",
    "next_due",
    "once",
    "schedule",
    "schedule_of",
    "solar",
    "to_dict",
    "zone_of",
]


class Schedule(Protocol):
    """Anything that knows when it is due next.

    A schedule of your own is a class with this method. Several processes call it often. The result must depend on the
    arguments only, not on the current time.
    """

    def next(self, after: datetime, zone: tzinfo, /) -> datetime | None:
        """Return the first due time after `after` (in UTC), as a datetime with a time zone; None: never again.

        `zone` is the time zone of the entry, for schedules that depend on local time.
        """
        ...


#: A schedule as a user may write it: an object, or an interval in seconds or as a timedelta.
AnySchedule: TypeAlias = Schedule | float | timedelta


def schedule(run_every: float | timedelta, relative: bool = False) -> interval:
    """Return `interval(run_every, aligned=relative)`, under Celery's name.

    With `relative`, Celery rounds down to whole minutes, hours or local days. Here it means multiples of the interval,
    in UTC.
    """
    return interval(run_every, aligned=relative)


def schedule_of(given: AnySchedule) -> Schedule:
    """Return `given` as a schedule.

    Raises:
        ScheduleError: it is neither a schedule nor an interval.
    """
    if isinstance(given, int | float | timedelta):
        return interval(given)
    if isinstance(given, type) or not callable(getattr(given, "next", None)):
        raise ScheduleError(
            "schedule",
            given,
            "is not a number of seconds, a timedelta, crontab(...) or another object with next(after, zone)",
        )
    return given


def next_due(schedule: Schedule, after: datetime, zone: tzinfo = UTC) -> datetime | None:
    """Return when `schedule` is due first after `after`, in UTC, and check what a schedule of the user's own returns.

    Raises:
        ScheduleError: it raised, or returned something else than an aware datetime after `after`.
    """
    after = as_utc("after", after)
    try:
        found = schedule.next(after, zone)
    except ScheduleError:
        raise
    except Exception as exc:
        raise ScheduleError("schedule", schedule, f"raised {type(exc).__name__}: {shown(exc)}") from exc
    return found if type(schedule) in _KINDS.values() or found is None else _checked(schedule, found, after)


def _checked(schedule: Schedule, found: object, after: datetime) -> datetime:
    """Return `found` in UTC if it is an aware datetime after `after`."""
    if not isinstance(found, datetime):
        raise ScheduleError("schedule", schedule, f"returned {shown(found)}, which is not a datetime")
    try:
        due = as_utc("due", found)
    except ScheduleError as exc:
        raise ScheduleError("schedule", schedule, f"returned {found}, which {exc.problem}") from None
    if due <= after:
        raise ScheduleError("schedule", schedule, f"returned {found}, which is not after {after}")
    return due


_KINDS: Final[Mapping[str, type[crontab] | type[interval] | type[solar] | type[once]]] = {
    kind.KIND: kind for kind in (crontab, interval, solar, once)
}
#: The names in the dict of each kind, without `kind`: the required ones and the optional ones.
_NAMES: Final[Mapping[str, tuple[frozenset[str], frozenset[str]]]] = {
    "crontab": (frozenset(), frozenset({"minute", "hour", "day_of_week", "day_of_month", "month_of_year"})),
    "interval": (frozenset({"every"}), frozenset({"aligned"})),
    "solar": (frozenset({"event", "lat", "lon"}), frozenset()),
    "once": (frozenset({"at"}), frozenset()),
}


def to_dict(schedule: Schedule) -> dict[str, Any]:
    """Return `schedule` as a dict of strings, numbers and booleans.

    Raises:
        ScheduleError: its class is not one of aiotq's.
    """
    if isinstance(schedule, crontab | interval | solar | once) and type(schedule) in _KINDS.values():
        return schedule.to_dict()
    raise ScheduleError(
        "schedule", schedule, "can't be stored: a schedule class of your own can only be used from code"
    )


def from_dict(given: object) -> Schedule:
    """Return the schedule that `to_dict` made `given` of.

    Raises:
        ScheduleError: it is damaged, or of an unknown kind.
        MissingLibrary: its kind needs a package that is not installed.
    """
    if not isinstance(given, Mapping):
        raise ScheduleError("schedule", given, "is not a dict")
    given = cast("Mapping[str, Any]", given)
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ScheduleError("kind", kind, f"is not one of {', '.join(_KINDS)}")
    needed, more = _NAMES[kind]
    names = {*given} - {"kind"}
    if missing := needed - names:
        raise ScheduleError("schedule", given, f"lacks {', '.join(sorted(missing))}")
    if foreign := names - needed - more:
        raise ScheduleError("schedule", given, f"has {', '.join(sorted(map(shown, foreign)))}, unknown to {kind}")
    return _KINDS[kind].from_dict(given)


@lru_cache(maxsize=1024)
def zone_of(name: str) -> tzinfo:
    """Return the time zone with this name in the IANA database, such as `"Europe/Berlin"`.

    Raises:
        ScheduleError: there is none.
    """
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo  # noqa: PLC0415  # 3 ms of everybody's start, for few

    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ScheduleError("timezone", name, "is not a zone of the IANA database") from exc
