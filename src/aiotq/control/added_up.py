"""What workers tell of the last hour, added up: once, or again and again, when only what changed is added anew.

Of a row that is written every few seconds nearly all stays as it was: 59 minutes of 60, and most of its tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, TypeVar, cast

from .recent import MINUTES, Cell, Figures, Minute, Recent, TaskFigures, unpacked

Name = TypeVar("Name", int, str)
#: A minute; or a task, its queue, and whether it is of the last ten minutes.
_Part = int | tuple[str, str, bool]

_NOTHING: Final[Mapping[_Part, list[Any]]] = {}


class AddedUp:
    """The sums of what rows tell, each under its key."""

    def __init__(self) -> None:
        self._told: dict[str, Mapping[_Part, list[Any]]] = {}
        self._sums: dict[_Part, Cell] = {}

    def tell(self, key: str, row: object) -> None:
        """Take what a row tells now in place of what it told; nothing of one that can't be read."""
        before, parts = self._told.get(key, _NOTHING), _parts_of(row)
        changed = [part for part in before.keys() | parts.keys() if before.get(part) != parts.get(part)]
        try:
            figures = {part: unpacked(parts[part]) for part in changed if part in parts}
        except (TypeError, ValueError):  # of a version to come, perhaps
            return self.tell(key, None)
        for part in changed:
            total = self._sums.setdefault(part, Cell())
            if part in before:
                _shift(total, unpacked(before[part]), -1)
            if part in figures:
                _shift(total, figures[part], 1)
            if not _has_any(total):
                del self._sums[part]
        self._told[key] = parts
        return None

    def keep(self, keys: Collection[str]) -> None:
        """Forget the rows under all other keys."""
        for key in self._told.keys() - set(keys):
            self.tell(key, None)
            del self._told[key]

    def recent(self, now: float) -> Recent:
        """Return the hour that ends at the wall time `now`."""
        current = int(now // 60)
        minutes = range(current - MINUTES + 1, current + 1)
        tasks = sorted({part[:2] for part in self._sums if not isinstance(part, int)})
        return Recent(
            tuple(Minute(minute * 60.0, self._figures(minute)) for minute in minutes),
            tuple(TaskFigures(*key, self._figures((*key, True)), self._figures((*key, False))) for key in tasks),
        )

    def _figures(self, part: _Part) -> Figures:
        total = self._sums.get(part)
        if total is None:
            return Figures()
        found = Cell()
        found.add(total)
        return found.figures()


def recent_of(rows: Iterable[object], now: float) -> Recent:
    """Return what workers told in their rows, added up; what can't be read is left out."""
    sums = AddedUp()
    for number, row in enumerate(rows):
        sums.tell(str(number), row)
    return sums.recent(now)


def _parts_of(row: object) -> Mapping[_Part, list[Any]]:
    told = cast("dict[str, Any]", row) if isinstance(row, dict) else dict[str, Any]()
    parts: dict[_Part, list[Any]] = {}
    try:
        for minute, *packed in told.get("minutes", ()):
            parts[int(minute)] = packed
        for task, queue, lately, before in told.get("tasks", ()):
            parts[str(task), str(queue), True] = [*lately]
            parts[str(task), str(queue), False] = [*before]
    except (TypeError, ValueError, AttributeError):  # of a version to come, perhaps
        return _NOTHING
    return parts


def _has_any(cell: Cell) -> bool:
    return bool(cell.succeeded or cell.failed or cell.retried or cell.other or cell.run or cell.wait)


def _shift(total: Cell, figures: Figures, sign: int) -> None:
    """Add `figures`, or take them away."""
    total.succeeded += sign * figures.succeeded
    total.failed += sign * figures.failed
    total.retried += sign * figures.retried
    total.other += sign * figures.other
    _shift_counts(total.run, figures.run, sign)
    _shift_counts(total.wait, figures.wait, sign)
    _shift_counts(total.errors, figures.errors, sign)


def _shift_counts(total: dict[Name, int], counts: Mapping[Name, int], sign: int) -> None:
    for name, count in counts.items():
        left = total.get(name, 0) + sign * count
        if left:
            total[name] = left
        else:
            total.pop(name, None)
