"""`crontab`: schedules by local time, with cron's fields."""

from __future__ import annotations

import calendar
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, ClassVar, Final

from ..exceptions import ScheduleError
from .cron_fields import (
    DAY_OF_MONTH,
    DAY_OF_WEEK,
    HOUR,
    MINUTE,
    MONTH_OF_YEAR,
    Field,
    FieldValue,
    field_text,
    numbers,
)
from .wall_time import as_utc, first_instant, instant

#: The fields as arguments have them.
_FIELDS: Final = (MINUTE, HOUR, DAY_OF_WEEK, DAY_OF_MONTH, MONTH_OF_YEAR)
#: The fields as a cron string has them.
_IN_A_STRING: Final = (MINUTE, HOUR, DAY_OF_MONTH, MONTH_OF_YEAR, DAY_OF_WEEK)
#: What stands for a whole cron string. Source: crontab(5), "Extensions".
_NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_LONGEST_MONTHS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
#: 29 February on a given weekday comes within 40 years, also over a century that is no leap year. Nothing is rarer.
_YEARS_TO_LOOK: Final = 41
_DAY: Final = timedelta(days=1)


class crontab:
    """Due in each minute whose minute, hour, day of the week, day of the month and month all match.

    `crontab(minute="*/15")`, `crontab(hour=7, minute=30, day_of_week="mon-fri")`, or a cron string:
    `crontab("30 7 * * mon-fri")`, `crontab("@daily")`. A field is a number, a collection of numbers, or text as cron
    has it: `"*"`, `"*/15"`, `"1-5"`, `"mon,thu"`, `"*/2,10-12/3"`, `"fri-mon"`. 0 and 7 are Sunday.

    Days: as in Celery, a day must match both `day_of_week` and `day_of_month`, in a cron string too: `"0 0 1-7 * mon"`
    is the first Monday of a month. In cron itself one of the two is enough when both are restricted.

    Daylight saving time: as in Debian's cron(8). A local time that is skipped is due at the jump, and one that occurs
    twice is due once, the first time. A schedule with a `*` in its minute or hour follows the clock instead:
    `"*/15 * * * *"` goes on through the repeated hour, and does not catch up on a skipped one. Unlike in cron, the rule
    holds for changes of any size.

    Immutable. Two are equal if they are always due at the same times. The repr can be pasted.

    Raises:
        ScheduleError: a field is invalid or out of range, or the day never comes (30 February).

    Source: Celery, `celery.schedules.crontab`; Debian, crontab(5) and cron(8).
    """

    __slots__ = (
        "_days",
        "_follows_the_clock",
        "_hours",
        "_minutes",
        "_months",
        "_weekdays",
        "day_of_month",
        "day_of_week",
        "hour",
        "minute",
        "month_of_year",
    )

    KIND: ClassVar = "crontab"

    def __init__(
        self,
        minute: FieldValue = "*",
        hour: FieldValue = "*",
        day_of_week: FieldValue = "*",
        day_of_month: FieldValue = "*",
        month_of_year: FieldValue = "*",
    ) -> None:
        given = (minute, hour, day_of_week, day_of_month, month_of_year)
        text = field_text(MINUTE, minute)
        if text.startswith("@") or len(text.split()) > 1:
            if any(other != "*" for other in given[1:]):
                raise ScheduleError("minute", minute, "is a whole cron string, so other fields can't be given with it")
            given = _split(text)
        texts = [field_text(field, each) for field, each in zip(_FIELDS, given, strict=True)]
        self.minute: Final = texts[0]
        self.hour: Final = texts[1]
        self.day_of_week: Final = texts[2]
        self.day_of_month: Final = texts[3]
        self.month_of_year: Final = texts[4]
        self._minutes: Final = numbers(MINUTE, self.minute)
        self._hours: Final = numbers(HOUR, self.hour)
        self._weekdays: Final = numbers(DAY_OF_WEEK, self.day_of_week)
        self._days: Final = numbers(DAY_OF_MONTH, self.day_of_month)
        self._months: Final = numbers(MONTH_OF_YEAR, self.month_of_year)
        self._follows_the_clock: Final = "*" in self.minute or "*" in self.hour
        if all(self._days[0] > _LONGEST_MONTHS[month - 1] for month in self._months):
            raise ScheduleError(
                "day_of_month", self.day_of_month, f"never comes in month_of_year={self.month_of_year!r}"
            )

    @classmethod
    def from_string(cls, text: str) -> crontab:
        """Return the schedule that a cron string says: minute, hour, day of the month, month, day of the week."""
        return cls(*_split(text))

    def next(self, after: datetime, zone: tzinfo = UTC) -> datetime | None:
        """Return the first such minute after `after`, in UTC, by clocks in `zone`; None beyond the year 9999."""
        after = as_utc("after", after)
        try:
            local = after.astimezone(zone)
            wall = local.replace(tzinfo=None, fold=0)
            if not self._follows_the_clock:
                return self._first(after, wall, lambda minute: first_instant(minute, zone))
            found = self._first(after, wall, lambda minute: instant(minute, zone, fold=0))
            lowest = _lowest_to_come(local, wall, after, zone)
            if lowest is None:
                return found
            again = self._first(after, lowest, lambda minute: instant(minute, zone, fold=1))
            return min((each for each in (found, again) if each is not None), default=None)
        except OverflowError:
            return None

    def _first(
        self, after: datetime, wall: datetime, instant_of: Callable[[datetime], datetime | None]
    ) -> datetime | None:
        """The instant of the first matching minute past `wall` that is after `after`."""
        for minute in self._minutes_past(wall):
            found = instant_of(minute)
            if found is not None and found > after:
                return found
        return None

    def _minutes_past(self, wall: datetime) -> Iterator[datetime]:
        """All matching minutes on the wall that are past `wall`."""
        day = wall.replace(hour=0, minute=0, second=0, microsecond=0)
        if self._matches(day):
            hour, minute = wall.hour, wall.minute
            if hour in self._hours:
                for later in self._minutes[bisect_right(self._minutes, minute) :]:
                    yield day.replace(hour=hour, minute=later)
            yield from self._minutes_of(day, self._hours[bisect_right(self._hours, hour) :])
        for later_day in self._days_past(day):
            yield from self._minutes_of(later_day, self._hours)

    def _minutes_of(self, day: datetime, hours: tuple[int, ...]) -> Iterator[datetime]:
        for hour in hours:
            for minute in self._minutes:
                yield day.replace(hour=hour, minute=minute)

    def _matches(self, day: datetime) -> bool:
        return day.month in self._months and day.day in self._days and day.isoweekday() % 7 in self._weekdays

    def _days_past(self, day: datetime) -> Iterator[datetime]:
        last = min(day.year + _YEARS_TO_LOOK, 9999)
        if len(self._months) == 12 and len(self._days) == 31 and len(self._weekdays) == 7:
            while True:
                day += _DAY
                yield day
        year, months, past = day.year, self._months[bisect_right(self._months, day.month - 1) :], day.day
        if months[:1] != (day.month,):
            past = 0
        while year <= last:
            for month in months:
                first, length = calendar.monthrange(year, month)  # Monday is 0
                for number in self._days[bisect_right(self._days, past) :] if past else self._days:
                    if number <= length and (first + number) % 7 in self._weekdays:
                        yield datetime(year, month, number)
                past = 0
            year, months = year + 1, self._months

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for `from_dict`."""
        return {"kind": self.KIND, **{field.name: getattr(self, field.name) for field in _FIELDS}}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> crontab:
        """Return what `to_dict` made `given` of; `schedules.from_dict` has checked which names it has."""
        return cls(**{field.name: _text(field, given.get(field.name, "*")) for field in _FIELDS})

    def __repr__(self) -> str:
        said = [(field.name, getattr(self, field.name)) for field in _FIELDS]
        return f"crontab({', '.join(f'{name}={text!r}' for name, text in said if text != '*')})"

    def _meaning(self) -> tuple[object, ...]:
        return (self._minutes, self._hours, self._weekdays, self._days, self._months, self._follows_the_clock)

    def __eq__(self, other: object) -> bool:
        return self._meaning() == other._meaning() if isinstance(other, crontab) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._meaning())


def _split(text: str) -> tuple[str, str, str, str, str]:
    """The fields of a cron string, in the order of the arguments."""
    given = field_text(MINUTE, text)
    if given == "@reboot":
        raise ScheduleError(
            "crontab", text, "is not a time: use a worker lifespan for what a worker does when it starts"
        )
    if given.startswith("@") and given not in _NICKNAMES:
        raise ScheduleError("crontab", text, f"is not one of {', '.join(_NICKNAMES)}")
    parts = _NICKNAMES.get(given, given).split()
    if len(parts) != len(_IN_A_STRING):
        names = ", ".join(field.name for field in _IN_A_STRING)
        raise ScheduleError("crontab", text, f"has {len(parts)} fields in place of five: {names}")
    minute, hour, day_of_month, month_of_year, day_of_week = parts
    return minute, hour, day_of_week, day_of_month, month_of_year


def _text(field: Field, given: object) -> str:
    if not isinstance(given, str):
        raise ScheduleError(field.name, given, "is not text")
    return given


def _lowest_to_come(local: datetime, wall: datetime, after: datetime, zone: tzinfo) -> datetime | None:
    """The wall time past which minutes will be shown for the second time, if that may be soon; else None.

    Clocks are put back once within a day at most, and by less than a day.
    """
    if zone is UTC:
        return None
    if local.fold:
        return wall
    now, in_a_day = local.utcoffset(), (after + _DAY).astimezone(zone).utcoffset()
    if now is None or in_a_day is None or in_a_day >= now:
        return None
    return wall - (now - in_a_day)
