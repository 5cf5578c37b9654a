"""Calls what task classes have around their runs: `before_start`, `on_success` and the others."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, Final

from anyio import to_thread

from .. import states
from ..canvas.outcome import Failure, Outcome, Retried, Success
from ..results.document import format_traceback
from ..tasks.handlers import ExceptionInfo
from ..tasks.request import Request
from ..tasks.task import Task

logger = logging.getLogger("aiotq.task")

#: Seconds that handlers have when their run was cancelled: nobody will do it again.
_LAST_WORDS: Final = 10.0


async def call_handlers(task: Task[..., Any], request: Request, outcome: Outcome) -> None:
    """Call the handlers that `task` has for `outcome`; what they raise is logged.

    A cancellation meanwhile cuts them short and goes no further: the outcome stands, and is committed.
    """
    running = asyncio.current_task()
    was_cancelled = running is not None and running.cancelling() > 0
    try:
        async with asyncio.timeout(_LAST_WORDS if was_cancelled else None):
            await _call_all(task, request, outcome)
    except (asyncio.CancelledError, TimeoutError):
        logger.warning("Task %s[%s]: its handlers were cancelled", task.name, request.id)


async def _call_all(task: Task[..., Any], request: Request, outcome: Outcome) -> None:
    task_id, args, kwargs = request.id or "", request.args, request.kwargs
    match outcome:
        case Success(value=value):
            await _call(task, "on_success", value, task_id, args, kwargs)
            await _call(task, "after_return", states.SUCCESS, value, task_id, args, kwargs, None)
        case Retried(error=error):
            info = ExceptionInfo(error, format_traceback(error) or "")
            await _call(task, "on_retry", error, task_id, args, kwargs, info)
        case Failure(error=error):
            info = ExceptionInfo(error, format_traceback(error) or "")
            await _call(task, "on_failure", error, task_id, args, kwargs, info)
            await _call(task, "after_return", states.FAILURE, error, task_id, args, kwargs, info)
        case _:
            pass


async def _call(task: Task[..., Any], name: str, *arguments: Any) -> None:
    if name not in task.handlers:
        return
    try:
        await call_handler(task, getattr(task, name), *arguments)
    except asyncio.CancelledError:
        running = asyncio.current_task()
        if running is not None and running.cancelling():
            raise
        _log_failure(task, name)
    except (Exception, SystemExit):  # the user's code; SystemExit would end the loop
        _log_failure(task, name)


def _log_failure(task: Task[..., Any], name: str) -> None:
    """Its task has ended, and that stands."""
    logger.exception("%s of task %s failed", name, task.name)


async def call_before_start(task: Task[..., Any], request: Request) -> None:
    """Call `before_start`; what it raises fails the task."""
    await call_handler(task, task.before_start, request.id or "", request.args, request.kwargs)


async def call_handler(task: Task[..., Any], handler: Callable[..., Any], *arguments: Any) -> None:
    """Call one handler: coroutines on the loop, plain functions there or in a thread, as their task itself."""
    if task.runs_in == "loop" or inspect.iscoroutinefunction(handler):
        answer = handler(*arguments)
    else:
        answer = await to_thread.run_sync(functools.partial(handler, *arguments))
    if inspect.isawaitable(answer):
        await answer
