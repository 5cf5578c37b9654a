"""From local time to UTC, where daylight saving time skips and repeats local times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from ..exceptions import ScheduleError

_SECOND: Final = timedelta(seconds=1)


def as_utc(name: str, given: object) -> datetime:
    """Return `given` in UTC.

    Raises:
        ScheduleError: it is not a datetime, or has no time zone.
    """
    if isinstance(given, datetime) and given.tzinfo is UTC:
        return given
    if not isinstance(given, datetime) or given.utcoffset() is None:
        raise ScheduleError(
            name, given, "must be a datetime with a time zone, such as datetime(2030, 1, 1, tzinfo=UTC)"
        )
    try:
        return given.astimezone(UTC)
    except OverflowError:
        raise ScheduleError(name, given, "is beyond the end of the calendar") from None


def first_instant(wall: datetime, zone: tzinfo) -> datetime:
    """Return when clocks in `zone` show `wall`: the first time if they show it twice, the jump if they skip it.

    A later local time is never due before an earlier one.
    """
    before, after = _offsets(wall, zone)
    if before < after:
        return _jump(wall, zone, wall - after, wall - before)
    return (wall - before).replace(tzinfo=UTC)


def instant(wall: datetime, zone: tzinfo, fold: int) -> datetime | None:
    """Return when clocks in `zone` show `wall`: for the first time, or with `fold=1` the last; None if they skip it."""
    before, after = _offsets(wall, zone)
    if before < after:
        return None
    return (wall - (after if fold else before)).replace(tzinfo=UTC)


def _offsets(wall: datetime, zone: tzinfo) -> tuple[timedelta, timedelta]:
    """The offsets before and after the change that skips or repeats `wall`; without one, the same twice (PEP 495)."""
    if zone is UTC:
        return _NONE, _NONE
    aware = wall.replace(tzinfo=zone)
    return aware.utcoffset() or _NONE, aware.replace(fold=1).utcoffset() or _NONE


_NONE: Final = timedelta()


def _jump(skipped: datetime, zone: tzinfo, before: datetime, after: datetime) -> datetime:
    """The second at which clocks are put forward over `skipped`; `before` and `after` are in UTC, one on each side."""
    while after - before > _SECOND:
        middle = before + timedelta(seconds=(after - before) // _SECOND // 2)
        if middle.replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=None) < skipped:
            before = middle
        else:
            after = middle
    return after.replace(tzinfo=UTC)
