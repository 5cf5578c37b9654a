"""What a worker says of itself when it starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from .. import __version__
from ..app import AioTQ
from ..backends.base import shown_place
from ..calling.connection import DISABLED
from ..core.inside import core_of
from ..core.logs import has_colours
from ..worker.options import WorkerOptions
from .output import KINDS, count

#: Tasks that are named; `aiotq tasks` lists all.
_MOST_TASKS: Final = 10


def banner(app: AioTQ, spec: str, options: WorkerOptions, name: str) -> None:
    """Print what a worker is about to do, to stderr; one that is full or closed takes nothing from the worker."""
    pairs = _pairs(app, spec, options, name)
    tasks = sorted(core_of(app).registry.own_tasks.values(), key=lambda task: task.name)
    listed = [(task.name, KINDS[task.runs_in]) for task in tasks[:_MOST_TASKS]] or [("none", "")]
    if (more := len(tasks) - _MOST_TASKS) > 0:
        listed.append((f"and {more} more (aiotq tasks)", ""))
    with suppress(OSError, ValueError):
        if sys.stderr.isatty():
            _rich_banner(f"aiotq {__version__}", pairs, listed)
        else:
            _plain_banner(f"aiotq {__version__}", pairs, listed)
        sys.stderr.flush()


def _pairs(app: AioTQ, spec: str, options: WorkerOptions, name: str) -> list[tuple[str, str]]:
    backend = app.conf.result_backend
    processes = f"{options.processes} {'process' if options.processes == 1 else 'processes'}"
    return [
        ("worker", name),
        ("app", f"{app.main} ({spec})" if app.main else spec),
        ("broker", shown_place(app.conf.broker_url)),
        (
            "results",
            "not kept" if backend == DISABLED else "with the broker" if backend is None else shown_place(backend),
        ),
        ("queues", _queues(options)),
        (
            "runs",
            f"{_coroutines(options)}, {count(options.threads, 'thread')}, {processes} at a time",
        ),
        ("pid", str(os.getpid())),
    ]


def _coroutines(options: WorkerOptions) -> str:
    if options.bounds is None:
        return count(options.concurrency, "coroutine")
    return f"{options.bounds.least} to {count(options.bounds.most, 'coroutine')}"


def _queues(options: WorkerOptions) -> str:
    weights = options.order.weights
    if options.order.is_strict and len(options.queues) > 1:
        return f"{', '.join(options.queues)} (in this order, strictly)"
    return ", ".join(f"{queue} (weight {weights[queue]})" if queue in weights else queue for queue in options.queues)


def _plain_banner(title: str, pairs: Sequence[tuple[str, str]], listed: Sequence[tuple[str, str]]) -> None:
    lines = [title, *(f"  {key:8} {text}" for key, text in pairs)]
    if listed[0][1]:
        width = max(len(task) for task, kind in listed if kind)
        lines += ["  tasks", *(f"    {task:{width}}  {kind}".rstrip() for task, kind in listed)]
    else:
        lines.append(f"  {'tasks':8} {listed[0][0]}")
    print("\n".join(lines), file=sys.stderr)


def _rich_banner(title: str, pairs: Sequence[tuple[str, str]], listed: Sequence[tuple[str, str]]) -> None:
    from rich.console import Console  # noqa: PLC0415  # only for a person, who does not miss its 50 ms
    from rich.panel import Panel  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    grid = Table.grid(padding=(0, 2))
    for key, text in pairs:
        grid.add_row(Text(key, style="dim"), Text(text))
    width = max(len(name) for name, _ in listed)
    for index, (name, kind) in enumerate(listed):
        task = Text.assemble((name.ljust(width), "bold" if kind else "dim"), "  ", (kind, "cyan"))
        grid.add_row(Text("tasks" if index == 0 else "", style="dim"), task)
    console = Console(stderr=True, no_color=not has_colours(sys.stderr))
    console.print(Panel(grid, title=title, title_align="left", expand=False, border_style="green"))
