"""The five fields of a crontab: from what a user writes to a set of numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Set
from functools import lru_cache
from itertools import islice
from typing import Final, TypeAlias, cast

from ..core.values import shown, value
from ..exceptions import ScheduleError

#: A field as a user may write it: a number, text (`"*/15"`, `"mon-fri"`), or a collection of these.
FieldValue: TypeAlias = int | str | Iterable[int | str]

_MONTHS: Final = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_WEEKDAYS: Final = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")


@value
class Field:
    """One field: its name, its first and last number, and names for these numbers, if it has some."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return self.high - self.low + 1


MINUTE: Final = Field("minute", 0, 59)
HOUR: Final = Field("hour", 0, 23)
DAY_OF_WEEK: Final = Field("day_of_week", 0, 6, _WEEKDAYS)
DAY_OF_MONTH: Final = Field("day_of_month", 1, 31)
MONTH_OF_YEAR: Final = Field("month_of_year", 1, 12, _MONTHS)


def field_text(field: Field, given: object) -> str:
    """Return `given` as the text of a field: `[0, 30]` is `"0,30"`.

    Raises:
        ScheduleError: it is not a number, text or a collection of these.
    """
    if isinstance(given, str):
        return re.sub(r"\s*,\s*", ",", given.strip().lower())
    if isinstance(given, int) and not isinstance(given, bool):
        return str(int(given))
    if not isinstance(given, Iterable):
        raise ScheduleError(field.name, given, "is not a number, text or a collection of these")
    given = cast("Iterable[object]", given)
    parts: list[object] = [*islice(given, _MOST_PARTS + 1)]
    if not parts:
        raise ScheduleError(field.name, given, "is empty: it would never come")
    if len(parts) > _MOST_PARTS:
        raise ScheduleError(field.name, given, f"has more than {_MOST_PARTS} parts")
    for part in parts:
        if not isinstance(part, int | str) or isinstance(part, bool):
            raise ScheduleError(field.name, given, f"has {shown(part)}, which is not a number or text")
    if isinstance(given, Set):  # whose order is any
        parts.sort(key=lambda part: (isinstance(part, str), part))
    return ",".join(field_text(field, part) for part in parts)


#: More than a field has numbers, and an end for a collection that has none.
_MOST_PARTS: Final = 120


@lru_cache(maxsize=1024)  # thousands of entries have the same few fields, and share the numbers
def numbers(field: Field, text: str) -> tuple[int, ...]:
    """Return the numbers that `text` stands for, sorted.

    Parts are separated by commas: `*`, a number or name, a range, or every nth of all or of a range: `*/15`, `8-18/2`.
    A range may go over the end (`fri-mon`, `22-2`). Three letters of a name are enough, in any case. 7 is Sunday too.

    Raises:
        ScheduleError: it can't be read, or has a number that is out of range.

    Source: Celery, `celery.schedules.crontab_parser`; crontab(5).
    """
    found: set[int] = set()
    for part in text.split(","):
        found.update(_numbers_of_part(field, text, part.strip()))
    return tuple(sorted(found))


def _numbers_of_part(field: Field, text: str, part: str) -> list[int]:
    whole, slash, step_text = part.partition("/")
    first, hyphen, last = whole.partition("-")
    if hyphen and not first and _is_number(last):
        raise ScheduleError(field.name, text, f"has {whole}, which is not from {field.low} to {field.high}")
    if not first or (hyphen and not last):
        raise ScheduleError(field.name, text, "has an empty part")
    if whole == "*":
        all_of_it = [*range(field.low, field.high + 1)]
    elif hyphen:
        all_of_it = _range(field, _number(field, text, first), _number(field, text, last))
    else:
        all_of_it = _range(field, *[_number(field, text, first)] * 2)
    if not slash:
        return all_of_it
    if whole != "*" and not hyphen:
        raise ScheduleError(
            field.name,
            text,
            f"has a step without a range: write '{whole}-{field.high}/{step_text}', or '*/{step_text}'",
        )
    return all_of_it[:: _step(field, text, step_text)]


def _range(field: Field, first: int, last: int) -> list[int]:
    """The numbers from `first` to `last`, over the end of the field if that comes first."""
    if field is DAY_OF_WEEK and first == 7:
        first, last = 0, last % 7
    if last < first:
        last += field.size
    return [field.low + (number - field.low) % field.size for number in range(first, last + 1)]


def _step(field: Field, text: str, step: str) -> int:
    if not _is_number(step) or not 1 <= int(step) <= field.size:
        hint = ""
        if _is_number(step) and int(step) and field in {MINUTE, HOUR}:
            hint = f"; every {int(step)} {field.name}s is interval({int(step) * (60 if field is MINUTE else 3600)})"
        raise ScheduleError(field.name, text, f"has the step {step!r}, which is not from 1 to {field.size}{hint}")
    return int(step)


def _number(field: Field, text: str, word: str) -> int:
    if _is_number(word):
        number = int(word)
        if field.low <= number <= field.high or (field is DAY_OF_WEEK and number == 7):
            return number
        raise ScheduleError(field.name, text, f"has {number}, which is not from {field.low} to {field.high}")
    for place, name in enumerate(field.names):
        if len(word) >= 3 and name.startswith(word):
            return field.low + place
    what = f"a number from {field.low} to {field.high}"
    named = f", or one of {', '.join(name[:3] for name in field.names)}" if field.names else ""
    raise ScheduleError(field.name, text, f"has {word!r}, which is not {what}{named}")


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 10
