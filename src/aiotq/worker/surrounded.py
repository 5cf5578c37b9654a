"""Runs one task with what stands round it: `task_prerun`, its app's middleware, its `before_start`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ..calling.middleware import MiddlewareStack, RunningCall
from ..canvas.serialized import as_canvas
from ..exceptions import TimeLimitExceeded
from ..signals import connected
from ..tasks.request import Request
from ..tasks.task import Task
from .processes.child import Ran
from .run import Cancelled, Run
from .run_handlers import call_before_start
from .task_signals import tell_prerun

Call = Callable[[Run, Task[..., Any], Request], Awaitable[Any]]


async def call_surrounded(onion: MiddlewareStack, run: Run, task: Task[..., Any], request: Request, call: Call) -> Any:
    """Return what the middleware makes of the task's value, or raise what it makes of its exception.

    Middleware sees a hard time limit as the TimeLimitExceeded that the caller will, and not as a cancellation.
    """
    if connected:
        await tell_prerun(task, request)
    if not onion.runners:
        if "before_start" in task.handlers:
            await call_before_start(task, request)
        return await call(run, task, request)

    async def innermost(running: RunningCall) -> Any:
        with task.running(running.request):
            if "before_start" in task.handlers:
                await call_before_start(task, running.request)
            try:
                value = await call(run, task, running.request)
            except asyncio.CancelledError:
                if run.cancelled_for is Cancelled.TIME_LIMIT:
                    raise TimeLimitExceeded("hard time limit exceeded") from None
                raise
        if isinstance(value, Ran):
            request.children.extend(value.children)
            request.added.extend(map(as_canvas, value.added))
            return value.value
        return value

    return await onion.run(RunningCall(task, request), innermost)
