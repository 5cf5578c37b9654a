"""What commands print: tables, ages, values. Rich on a terminal, plain text elsewhere."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from .. import __version__
from ..app import AioTQ
from ..backends.base import mask_password
from ..calling.connection import DISABLED
from ..calling.envelopes import declared_places
from ..core.settings import SECRETS, Settings
from ..exceptions import AioTQError
from ..tasks.task import Task
from ..transport import DeadLetter
from ..worker.worker import WorkerOptions

#: How a task runs, in words.
KINDS: Final = {"loop": "coroutine", "thread": "thread", "process": "process"}
#: Characters of a message body that are shown.
_MAX_BODY: Final = 4000


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = ()) -> None:
    """Print a table; the columns called in `numbers` are set to the right."""
    if sys.stdout.isatty():
        _rich_table(columns, rows, numbers)
        return
    lines = [tuple(column.upper() for column in columns), *(tuple(map(printable, row)) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        cells = [
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str]) -> None:
    from rich.console import Console  # noqa: PLC0415  # takes longer than everything else a short command does
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = Table(header_style="bold", box=None, pad_edge=False)
    for column in columns:
        drawn.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(drawn)


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


def signature_of(task: Task[..., Any]) -> str:
    """Return the arguments a call of `task` takes."""
    signature = inspect.signature(task.fn)
    parameters = list(signature.parameters.values())[1 if task.declared.bind else 0 :]
    return str(signature.replace(parameters=parameters))


def tasks(app: AioTQ) -> None:
    """Print the tasks of an app."""
    rows = [
        (
            name,
            KINDS[task.runs_in],
            _queues_of(app, task),
            signature_of(task),
        )
        for name, task in sorted(app.own_tasks.items())
    ]
    table(("task", "runs as", "queue", "arguments"), rows)


def _queues_of(app: AioTQ, task: Task[..., Any]) -> str:
    """Return where calls of `task` go that say nothing of it and have no arguments."""
    try:
        route = app.router.route(task.name, (), {}, {}, declared_places(task.declared), task)
    except AioTQError as exc:
        return f"? ({exc})"
    return ", ".join(route.queues)


def settings(conf: Settings) -> None:
    """Print every setting; those that differ from their default are marked."""
    table(("", "setting", "value", "default"), setting_rows(conf))


def setting_rows(conf: Settings) -> list[tuple[str, str, str, str]]:
    """Return a star if it was changed, the name, the value as it may be shown and the default of every setting."""
    defaults = Settings().as_dict()
    rows: list[tuple[str, str, str, str]] = []
    for name, setting in conf.as_dict().items():
        shown = mask_password(setting) if isinstance(setting, str) and "://" in setting else setting
        if name in SECRETS and setting:
            shown = "**"
        changed = setting != defaults[name]
        rows.append(("*" if changed else "", name, str(shown), str(defaults[name]) if changed else ""))
    return rows


def dead_letter(letter: DeadLetter, now: float, died_at: str) -> None:
    """Print all that is known of a dead letter."""
    message = letter.message
    pairs = [
        ("key", letter.key),
        ("queue", letter.queue),
        ("reason", letter.reason),
        ("detail", letter.detail),
        ("died", f"{died_at} ({age(now - letter.died_at)} ago)"),
        ("deaths", str(letter.deaths)),
        ("priority", str(letter.priority)),
    ]
    body = letter.raw
    if message is None:
        pairs.append(("message", "could not be read"))
    else:
        body = message.body
        pairs += [
            ("task", message.task),
            ("id", message.id),
            ("retries", str(message.retries)),
            ("sent from", message.origin or "-"),
            ("content", message.content_type),
        ]
    text = body.decode() if _is_text(body) else repr(body)
    shown = text if len(text) <= _MAX_BODY else f"{text[:_MAX_BODY]}… ({len(body)} bytes)"
    fields([*pairs, ("body", shown)])


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def banner(app: AioTQ, spec: str, options: WorkerOptions, name: str) -> None:
    """Print what a worker is about to do, to stderr."""
    backend = app.conf.result_backend
    results = "not kept" if backend == DISABLED else "with the broker" if backend is None else mask_password(backend)
    pairs = [
        ("worker", name),
        ("app", f"{app.main} ({spec})" if app.main else spec),
        ("broker", mask_password(app.conf.broker_url)),
        ("results", results),
        ("queues", _queues(options)),
        (
            "runs",
            f"{count(options.concurrency, 'coroutine')}, {count(options.threads, 'thread')}, "
            f"{options.processes} {'process' if options.processes == 1 else 'processes'} at a time",
        ),
        ("pid", str(os.getpid())),
    ]
    listed = [(task.name, KINDS[task.runs_in]) for _, task in sorted(app.own_tasks.items())]
    title = f"aiotq {__version__}"
    if sys.stderr.isatty():
        _rich_banner(title, pairs, listed)
        return
    print(title, file=sys.stderr)
    for key, text in pairs:
        print(f"  {key:8} {text}", file=sys.stderr)
    print(f"  {'tasks':8} {'none' if not listed else ''}".rstrip(), file=sys.stderr)
    width = max((len(task) for task, _ in listed), default=0)
    for task, kind in listed:
        print(f"    {task:{width}}  {kind}", file=sys.stderr)
    sys.stderr.flush()


def _queues(options: WorkerOptions) -> str:
    weights = options.order.weights
    if options.order.is_strict and len(options.queues) > 1:
        return f"{', '.join(options.queues)} (in this order, strictly)"
    return ", ".join(f"{queue} (weight {weights[queue]})" if queue in weights else queue for queue in options.queues)


def _rich_banner(title: str, pairs: Sequence[tuple[str, str]], listed: Sequence[tuple[str, str]]) -> None:
    from rich.console import Console  # noqa: PLC0415  # only for a person, who does not miss its 50 ms
    from rich.panel import Panel  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    grid = Table.grid(padding=(0, 2))
    for key, text in pairs:
        grid.add_row(Text(key, style="dim"), Text(text))
    width = max((len(name) for name, _ in listed), default=0)
    for index, (name, kind) in enumerate(listed or [("none", "")]):
        task = Text.assemble((name.ljust(width), "bold"), "  ", (kind, "cyan"))
        grid.add_row(Text("tasks" if index == 0 else "", style="dim"), task)
    Console(stderr=True).print(Panel(grid, title=title, title_align="left", expand=False, border_style="green"))
