"""An app with a task for a process of its own: a child imports this module, and its receivers connect there."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from aiotq import AioTQ
from aiotq.signals import worker_process_init, worker_process_shutdown

app = AioTQ("hook_tasks", broker="memory://", worker_processes=1)
opened: list[str] = []


@worker_process_init.connect
def open_something(**named: Any) -> None:
    opened.append(f"plain {os.getpid()}")


@worker_process_init.connect
async def await_something(**named: Any) -> None:
    await asyncio.sleep(0)
    opened.append(f"coroutine {os.getpid()}")


@worker_process_init.connect
def fail(**named: Any) -> None:
    raise ValueError("a receiver's failure is its own")


@worker_process_shutdown.connect
def leave_a_mark(pid: int, exitcode: int, **named: Any) -> None:
    Path(os.environ["HOOK_TASKS_MARK"]).write_text(f"{pid} {exitcode}")


@app.task(run="process")
def what_was_opened() -> list[str]:
    return [*opened, str(os.getpid())]
