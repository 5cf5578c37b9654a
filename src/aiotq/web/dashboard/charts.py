"""Charts as geometry: numbers between 0 and 1 become lines and bars of an SVG that stretches; words stand beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from ...core.values import value

#: The height of a plot, in its own units; its width is the number of columns.
HEIGHT: Final = 100.0


@value
class Axis:
    """The top of a scale that begins at 0, and its labels from the top down."""

    top: float
    labels: tuple[float, ...]


def axis(largest: float, steps: int = 3) -> Axis:
    """Return a scale with round labels that reaches `largest`."""
    if largest <= 0 or not math.isfinite(largest):
        return Axis(float(steps), tuple(float(step) for step in range(steps, -1, -1)))
    raw = largest / steps
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw - 1e-12)
    count = max(1, math.ceil(largest / step - 1e-9))
    return Axis(step * count, tuple(step * number for number in range(count, -1, -1)))


@value
class Column:
    """One minute of the throughput: a bar above the line, and two below it on a scale of their own."""

    x: int
    ok: float
    bad: float
    retried: float
    title: str


@value
class Throughput:
    """The throughput of some minutes, as columns: heights are 0 to 100, above and below the line."""

    columns: tuple[Column, ...]
    above: Axis
    below: Axis

    @property
    def width(self) -> int:
        return max(len(self.columns), 1)


def throughput(minutes: Sequence[tuple[str, int, int, int]]) -> Throughput:
    """Return the columns of minutes: a title, and how many succeeded, failed, and were tried again."""
    above = axis(max((ok for _, ok, _, _ in minutes), default=0))
    below = axis(max((bad + retried for _, _, bad, retried in minutes), default=0), 2)
    return Throughput(
        tuple(
            Column(x, _part(ok, above), _part(bad, below), _part(retried, below), title)
            for x, (title, ok, bad, retried) in enumerate(minutes)
        ),
        above,
        below,
    )


def _part(count: int, on: Axis) -> float:
    return round(count / on.top * HEIGHT, 1)


def lines(points: Sequence[float | None], top: float, *, width: float = 0, height: float = HEIGHT) -> list[str]:
    """Return the points of lines through `points`: one for each stretch without a gap. `width` 0: one unit each."""
    step = width / max(len(points) - 1, 1) if width else 1.0
    found: list[list[str]] = [[]]
    for number, each in enumerate(points):
        if each is None:
            if found[-1]:
                found.append([])
            continue
        y = height - min(max(each / top if top else 0.0, 0.0), 1.0) * height
        found[-1].append(f"{number * step:.1f},{y:.1f}")
    return [" ".join(each) for each in found if len(each) > 1]


def bands(low: Sequence[float | None], high: Sequence[float | None], top: float) -> list[str]:
    """Return the polygons between two lines."""
    found: list[str] = []
    start = 0
    pairs = list(zip(low, high, strict=True))
    for end in range(len(pairs) + 1):
        if end < len(pairs) and None not in pairs[end]:
            continue
        if end - start > 1:
            numbers = range(start, end)
            upper = [f"{at},{_y(pairs[at][1], top)}" for at in numbers]
            found.append(" ".join([*upper, *(f"{at},{_y(pairs[at][0], top)}" for at in reversed(numbers))]))
        start = end + 1
    return found


def _y(given: float | None, top: float) -> str:
    return f"{HEIGHT - min(max((given or 0.0) / top if top else 0.0, 0.0), 1.0) * HEIGHT:.1f}"


def log_bar(seconds: float, low: float = 0.001, high: float = 1000.0) -> float:
    """Return how far a run time reaches on a logarithmic scale, 0 to 100."""
    if seconds <= low:
        return 0.0
    return round(min(math.log(seconds / low) / math.log(high / low), 1.0) * 100, 1)


@value
class Cell:
    """A slot of a worker."""

    x: int
    y: int
    css: str


def slots(busy: int, slow: int, total: int, most: int = 64, a_row: int = 32) -> tuple[list[Cell], int, int]:
    """Return the cells of a worker's slots with the size of the drawing; of very many only some."""
    shown = min(total, most)
    scale = shown / total if total else 1.0
    is_busy, is_slow = math.ceil(busy * scale), math.ceil(slow * scale)
    cells = [
        Cell(at % a_row * 12, at // a_row * 14, "f-retry" if at < is_slow else "f-run" if at < is_busy else "f-wait")
        for at in range(shown)
    ]
    return cells, max(min(shown, a_row) * 12 - 2, 10), max((shown - 1) // a_row * 14 + 12, 12)
