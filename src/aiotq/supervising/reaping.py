"""As PID 1 of a container: orphans that have ended are waited for, so that they don't fill the table of processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

#: Seconds between looks. Whoever started a process waits for it much sooner.
_INTERVAL: Final = 5.0


@asynccontextmanager
async def reaping(interval: float = _INTERVAL) -> AsyncGenerator[None, None]:
    """Reap orphans while entered, if this is the first process of all.

    A process that has ended, and that nobody waited for from one look to the next, is an orphan.
    """
    if os.getpid() != 1:
        yield
        return
    task = asyncio.create_task(_reap(interval), name="aiotq.reaping")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _reap(interval: float) -> None:
    seen = frozenset[int]()
    while True:
        seen = await asyncio.to_thread(_reap_again, seen)
        await asyncio.sleep(interval)


def _reap_again(seen: frozenset[int]) -> frozenset[int]:
    """Reap those of `seen` that are still there, and return those that are new."""
    ended = _ended_children()
    for pid in ended & seen:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return ended - seen


def _ended_children() -> frozenset[int]:
    """Return the children of this process that have ended, and that nobody has waited for."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it is gone
            text = stat.read_text(errors="replace")
            state, parent = text[text.rindex(")") + 2 :].split()[:2]  # a program's name may have any letters
            if state == "Z" and int(parent) == os.getpid():
                found.add(int(stat.parent.name))
    return frozenset(found)
