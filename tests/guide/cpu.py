"""An app with tasks for processes of their own: a child imports this module, so they stand at its top."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from aiotq import AioTQ, current_task

app = AioTQ("cpu", broker="memory://", worker_processes=2)


@app.task(run="process")
def burn(seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return os.getpid()


@app.task(run="process", bind=True)
def who_am_i(self: Any, greeting: str) -> list[object]:
    return [greeting, self.request.id, current_task.request.task]


@app.task(run="process")
def fail() -> None:
    raise ValueError("from the child")


@app.task(run="process")
def die() -> None:
    os._exit(3)


@app.task(run="process")
async def a_coroutine_may_run_there_too() -> int:
    await asyncio.sleep(0)
    return os.getpid()


@app.task
async def on_the_loop() -> int:
    return os.getpid()
