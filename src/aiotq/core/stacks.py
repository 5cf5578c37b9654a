"""The stacks of coroutines and threads, for the command `stacks` and the watchdog."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from .logs import is_machinery


def stack_of_task(task: asyncio.Task[Any]) -> list[traceback.FrameSummary]:
    """Return the frames of a task, the outermost first: those of all that it awaits, down to where it stands.

    `Task.get_stack` gives the outermost one alone.
    """
    return list(traceback.StackSummary.extract((frame, frame.f_lineno) for frame in _frames(task.get_coro())))


def stack_of_thread(frame: FrameType) -> list[traceback.FrameSummary]:
    """Return the frames of a thread, the outermost first, of which `frame` is the innermost."""
    return traceback.extract_stack(frame)


def users_part(stack: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Return the frames from the first that is neither ours nor of what we call the user's code through."""
    first = next((index for index, frame in enumerate(stack) if not is_machinery(frame)), len(stack))
    return stack[first:]


def threads() -> Iterator[tuple[str, FrameType]]:
    """Yield the name and the innermost frame of each thread of this process."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # pyright: ignore[reportPrivateUsage]  # the documented way
        yield names.get(ident, f"thread {ident}"), frame


def _frames(awaited: object) -> Iterator[FrameType]:
    """Yield the frame of a coroutine and of each that it awaits; generators and async generators are such too."""
    seen: set[int] = set()
    while awaited is not None and id(awaited) not in seen:
        seen.add(id(awaited))
        for kind, next_one in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            frame = getattr(awaited, f"{kind}_frame", None)
            if frame is not None:
                yield frame
                awaited = getattr(awaited, next_one)
                break
        else:
            return
