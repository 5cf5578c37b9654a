"""What commands print: tables, ages, values, JSON. Rich on a terminal, plain text elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from typing import Final

import typer

from ..core.logs import has_colours
from ..tasks.options import RunsIn

#: How a task runs, in words.
KINDS: Final[dict[RunsIn, str]] = {"loop": "coroutine", "thread": "thread", "process": "process"}
#: Letters that a column which may be folded keeps in a narrow terminal.
_LEAST: Final = 8


def complain(text: str) -> None:
    """Print a complaint or a warning to stderr."""
    if has_colours(sys.stderr):
        typer.secho(f"aiotq: {text}", err=True, fg="red")
    else:
        typer.echo(f"aiotq: {text}", err=True)


def as_json(found: object) -> None:
    """Print what was found for programs; what has no JSON form as its repr."""
    print(json.dumps(found, ensure_ascii=False, default=repr))


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[str] = (),
    whole: Collection[str] = (),
) -> None:
    """Print a table; the columns called in `numbers` are set to the right.

    On a narrow terminal cells are folded, but for those of the `whole` columns: an id is to be copied.
    """
    if sys.stdout.isatty():
        _rich_table(columns, rows, numbers, whole)
        return
    lines = [tuple(column.upper() for column in columns), *(tuple(map(printable, row)) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        cells = [
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _rich_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[str], whole: Collection[str]
) -> None:
    from rich.console import Console  # noqa: PLC0415  # takes longer than everything else a short command does
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = Table(header_style="bold", box=None, pad_edge=False)
    least = 0
    for index, column in enumerate(columns):
        longest = max(len(column), *(len(printable(row[index])) for row in rows)) if rows else len(column)
        width = longest if column in whole or column in numbers else min(longest, max(_LEAST, len(column)))
        least += width + 2
        drawn.add_column(column, justify="right" if column in numbers else "left", overflow="fold", min_width=width)
    for row in rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    console = Console()
    console.width = max(console.width, least)  # the terminal breaks lines then, and an id stays in one piece
    console.print(drawn)


def fields(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one a line."""
    width = max(len(name) for name, _ in pairs)
    for name, text in pairs:
        print(f"{name:{width}}  {printable(text)}")


def printable(text: str) -> str:
    """Return `text` without what a terminal would obey; messages come from anywhere."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text)


def age(seconds: float | None) -> str:
    """Return how long something takes or is ago, in its largest unit: `3 s`, `5 min`, `2 h`, `4 d`."""
    if seconds is None:
        return "-"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"


def value(result: object) -> str:
    """Return a task's value as JSON, or its repr if it has no JSON form."""
    try:
        return json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return repr(result)


def count(number: int, noun: str) -> str:
    """Return `1 message`, `2 messages`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
