"""Calls what task classes have around their runs: `before_start`, `on_success` and the others."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from anyio import to_thread

from .. import states
from ..canvas.outcome import Outcome
from ..commit import Finish
from ..results.document import format_traceback
from ..tasks.handlers import ExceptionInfo
from ..tasks.request import Request
from ..tasks.task import Task
from .observers import Observer, Told
from .run import Run

logger = logging.getLogger("aiotq.task")

_HANDLED: Final = frozenset({states.SUCCESS, states.RETRY, states.FAILURE})


class Handlers(Observer):
    """Calls the handlers that a task's class has for the ends of its runs."""

    calls = "handlers"

    def __repr__(self) -> str:
        return "<handlers of task classes>"

    def ended(self, run: Run, outcome: Outcome | None, finish: Finish | None) -> Told:
        if run.called is None or run.request is None or outcome is None or not outcome.is_reported:
            return None
        return _call_all(run.called, run.request, outcome) if outcome.state in _HANDLED else None


async def _call_all(task: Task[..., Any], request: Request, outcome: Outcome) -> None:
    state, came = outcome.state, outcome.retval
    call = (request.id or "", request.args, request.kwargs)
    info = None if state == states.SUCCESS else ExceptionInfo(came, format_traceback(came) or "")
    own: Sequence[tuple[str, Sequence[Any]]]
    if state == states.SUCCESS:
        own = ("on_success", (came, *call)), ("after_return", (state, came, *call, None))
    elif state == states.RETRY:
        own = (("on_retry", (came, *call, info)),)
    else:
        own = ("on_failure", (came, *call, info)), ("after_return", (state, came, *call, info))
    for name, arguments in own:
        if name in task.handlers:
            await _call(task, name, arguments)


async def _call(task: Task[..., Any], name: str, arguments: Sequence[Any]) -> None:
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
