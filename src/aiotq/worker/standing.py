"""Where everything in a worker stands now: its runs, its other coroutines, its threads."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final

from ..core.stacks import stack_of_task, stack_of_thread, threads, users_part
from .run import Run

#: Frames that are told of each thread: the innermost.
_DEPTH: Final = 8


def standing(
    runs: Sequence[Run], loop: asyncio.AbstractEventLoop, interrupted: FrameType | None = None
) -> Iterator[str]:
    """Yield lines that say what runs, and where each task and thread stands; `interrupted` is the loop's frame."""
    yield "1 task runs" if len(runs) == 1 else f"{len(runs)} tasks run"
    now = time.perf_counter()
    for run in runs:
        message = run.delivery.message
        yield f"  {message.task}[{message.id}] for {now - run.started_at:.1f} s in a {run.kind}"
        if run.task is not None:
            yield from _lines(users_part(stack_of_task(run.task)))
    of_runs = {run.task for run in runs}
    yield "other coroutines:"
    for task in sorted(asyncio.all_tasks(loop) - of_runs, key=lambda task: task.get_name()):
        yield f"  {task.get_name()}"
        yield from _lines(stack_of_task(task)[-1:])
    yield "threads:"
    for name, innermost in threads():
        frame = interrupted if interrupted is not None and name == "MainThread" else innermost
        yield f"  {name}"
        yield from _lines(stack_of_thread(frame)[-_DEPTH:])


def _lines(stack: list[traceback.FrameSummary]) -> Iterator[str]:
    for frame in stack:
        yield f'    File "{frame.filename}", line {frame.lineno}, in {frame.name}'
        if frame.line:
            yield f"      {frame.line}"
