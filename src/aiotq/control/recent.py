"""What happened in the last hour: counted by each worker, told in its row of the fleet registry (and added up by
`added_up`).

So whoever looks has charts at once, and nobody samples anything. A minute is one of the clock's, the same for all
workers. How long runs took and waited is counted in intervals that grow by a factor of 1.4, which is as exact as a p95
is. The figures of a worker go with its row: when it stops.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from math import log2
from typing import Any, Final

from ..core.values import value

#: Minutes that are told, and those of them that are "lately".
MINUTES: Final = 60
LATELY: Final = 10
#: Pairs of a task and a queue that one worker tells apart in a minute, and tells of; errors of each.
MOST_SERIES: Final = 100
_MOST_ERRORS: Final = 10
OTHER: Final = "(other)"
#: Intervals for each doubling.
_STEPS: Final = 2

Key = tuple[str, str]
#: How often something took so long, by the number of the interval.
Spread = Mapping[int, int]


def interval_of(seconds: float) -> int:
    """Return the number of the interval that `seconds` is in; the first has all under a microsecond."""
    return int(log2(seconds * 1e6) * _STEPS) if seconds > 1e-6 else 0


def quantile(spread: Spread, part: float) -> float | None:
    """Return the seconds that `part` of all did not exceed, about; None if there are none."""
    total = sum(spread.values())
    if not total:
        return None
    wanted, seen = part * total, 0
    for number in sorted(spread):
        count = spread[number]
        if seen + count >= wanted:
            return float(2 ** ((number + (wanted - seen) / count) / _STEPS) / 1e6)
        seen += count
    return None


class Cell:
    """What ended in one minute, of one task from one queue; counted where it happens, so it may change."""

    __slots__ = ("errors", "failed", "other", "retried", "run", "succeeded", "wait")

    def __init__(self) -> None:
        self.succeeded = self.failed = self.retried = self.other = 0
        self.run: dict[int, int] = {}
        self.wait: dict[int, int] = {}
        self.errors: dict[str, int] = {}

    def add(self, other: Cell | Figures) -> None:
        """Add what another one counted."""
        self.succeeded += other.succeeded
        self.failed += other.failed
        self.retried += other.retried
        self.other += other.other
        for mine, theirs in ((self.run, other.run), (self.wait, other.wait)):
            for number, count in [*theirs.items()]:
                mine[number] = mine.get(number, 0) + count
        for name, count in [*other.errors.items()]:
            self.error(name, count)

    def error(self, name: str, count: int = 1) -> None:
        """Count an error by the name of its type."""
        if name not in self.errors and len(self.errors) >= _MOST_ERRORS:
            name = OTHER
        self.errors[name] = self.errors.get(name, 0) + count

    def packed(self) -> list[Any]:
        """Return it for a row."""
        spreads = [[each for pair in [*spread.items()] for each in pair] for spread in (self.run, self.wait)]
        return [self.succeeded, self.failed, self.retried, self.other, *spreads, dict(self.errors)]

    def figures(self) -> Figures:
        """Return it as it is now."""
        return Figures(
            *(self.succeeded, self.failed, self.retried, self.other),
            *(dict(self.run), dict(self.wait), dict(self.errors)),
        )


class RecentCounts:
    """What one worker counts. Counted on its loop; packed in any thread."""

    def __init__(self) -> None:
        self.minute = 0
        self.cells: dict[Key, Cell] = {}  #: of this minute
        self._closed: deque[tuple[int, dict[Key, Cell]]] = deque(maxlen=MINUTES - 1)
        #: What does not change any more, as it is packed: of which minute, minutes, and what ended by task.
        self._packed: tuple[int, list[Any], dict[Key, tuple[Cell, Cell]]] = (-1, [], {})

    def turn(self, minute: int) -> None:
        """Begin to count another minute."""
        if self.cells:
            self._closed.append((self.minute, self.cells))
        self.minute, self.cells = minute, {}

    def new(self, key: Key) -> Cell:
        """Return the cell of what has none yet in this minute."""
        if len(self.cells) >= MOST_SERIES:
            key = OTHER, OTHER
        return self.cells.setdefault(key, Cell())

    def packed(self, now: float) -> dict[str, Any]:
        """Return it for a row at the wall time `now`."""
        current, cells, minute = int(now // 60), self.cells.copy(), self.minute
        if self._packed[0] != current:
            self._packed = current, *self._pack_closed(current)
        _, minutes, tasks = self._packed
        tasks = tasks.copy()
        if cells and current - MINUTES < minute:
            minutes = [*minutes, [minute, *_total(cells.values()).packed()[:6]]]
            is_lately = minute > current - LATELY
            for key, cell in cells.items():
                lately, before = tasks.get(key) or (Cell(), Cell())
                summed = Cell()
                summed.add(lately if is_lately else before)
                summed.add(cell)
                tasks[key] = (summed, before) if is_lately else (lately, summed)
        told = sorted(tasks.items(), key=lambda each: -sum(map(_count, each[1])))[:MOST_SERIES]
        return {
            "minutes": minutes,
            "tasks": [[*key, lately.packed(), before.packed()] for key, (lately, before) in told],
        }

    def _pack_closed(self, current: int) -> tuple[list[Any], dict[Key, tuple[Cell, Cell]]]:
        minutes: list[Any] = []
        tasks: dict[Key, tuple[Cell, Cell]] = {}
        for minute, cells in [*self._closed]:
            if minute <= current - MINUTES:
                continue
            minutes.append([minute, *_total(cells.values()).packed()[:6]])
            for key, cell in cells.items():
                tasks.setdefault(key, (Cell(), Cell()))[0 if minute > current - LATELY else 1].add(cell)
        return minutes, tasks


@value
class Figures:
    """What ended in some time. `other`: revoked, ignored, dead. `errors`: failures by the type of the exception."""

    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    other: int = 0
    run: Spread = field(default_factory=dict[int, int], repr=False)
    wait: Spread = field(default_factory=dict[int, int], repr=False)
    errors: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def count(self) -> int:
        """How many ended."""
        return self.succeeded + self.failed + self.retried + self.other

    @property
    def failing(self) -> float:
        """The part of all runs that failed, those that are tried again too; 0 to 1."""
        return (self.failed + self.retried) / self.count if self.count else 0.0

    def ran(self, part: float) -> float | None:
        """Return the seconds that `part` of the runs took at most."""
        return quantile(self.run, part)

    def waited(self, part: float) -> float | None:
        """Return the seconds that `part` of the runs waited for their start at most."""
        return quantile(self.wait, part)

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "succeeded": self.succeeded,
            "failed": self.failed,
            "retried": self.retried,
            "other": self.other,
            "errors": dict(self.errors),
            "run_p50": self.ran(0.5),
            "run_p95": self.ran(0.95),
            "wait_p50": self.waited(0.5),
            "wait_p95": self.waited(0.95),
        }


@value
class Minute:
    """What ended in one minute, which began at the wall time `at`."""

    at: float
    figures: Figures


@value
class TaskFigures:
    """What ended of one task from one queue: in the last ten minutes, and in the rest of the hour."""

    task: str
    queue: str
    lately: Figures
    before: Figures

    @property
    def hour(self) -> Figures:
        """Both together."""
        return total_of((self.lately, self.before))


@value
class Recent:
    """The last hour of all workers: by minute, the last one (which is not over) last; and by task."""

    minutes: tuple[Minute, ...] = ()
    tasks: tuple[TaskFigures, ...] = ()

    def last(self, minutes: int) -> Figures:
        """Return what ended in so many of the last minutes."""
        return total_of(each.figures for each in self.minutes[-minutes:])

    def by_task(self) -> list[TaskFigures]:
        """Return the tasks, each from all of its queues together."""
        found: dict[str, list[TaskFigures]] = {}
        for each in self.tasks:
            found.setdefault(each.task, []).append(each)
        return [
            TaskFigures(
                task,
                each[0].queue if len(each) == 1 else "",
                total_of(one.lately for one in each),
                total_of(one.before for one in each),
            )
            for task, each in found.items()
        ]


def total_of(figures: Iterable[Figures]) -> Figures:
    """Return all of them together."""
    return _total(figures).figures()


def _total(given: Iterable[Cell | Figures]) -> Cell:
    total = Cell()
    for each in given:
        total.add(each)
    return total


def _count(cell: Cell) -> int:
    return cell.succeeded + cell.failed + cell.retried + cell.other


def unpacked(packed: Sequence[Any]) -> Figures:
    """Return what `Cell.packed` packed.

    Raises:
        TypeError, ValueError: it did not.
    """
    succeeded, failed, retried, other, run, wait, *errors = packed
    counts = int(succeeded), int(failed), int(retried), int(other)
    named = {str(name): int(count) for each in errors for name, count in dict(each).items()}
    return Figures(*counts, _spread(run), _spread(wait), named)


def _spread(flat: Sequence[Any]) -> Spread:
    return dict(zip(map(int, flat[::2]), map(int, flat[1::2]), strict=True))
