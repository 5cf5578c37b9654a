"""Calls that run where they are made (`task_always_eager`): the way of a call with no broker and no worker in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

from ..calling.core import AppCore
from ..calling.middleware import MiddlewareStack, RunningCall
from ..canvas.outcome import Failure, Ignored, Outcome, Policy, Rejected, Replace, Replaced, Retried, Success
from ..exceptions import Ignore, Reject, Retry
from ..results import Record
from ..results.handle import EagerResult
from ..signals import connected
from ..tasks.options import ONLY_SENT, CallOptions, check_options
from ..tasks.request import Request
from ..tasks.retries import automatic_retry
from ..tasks.task import Task
from ..transport import Delivery
from ..wire.message import Envelope, Message
from .inline_workflows import apply_workflow
from .run_handlers import call_before_start, call_handlers
from .task_signals import TaskSignals, apart, tell_prerun

__all__ = ["apply_workflow", "call_eagerly", "run_surrounded"]

_KEPT: Final = Policy()


async def call_eagerly(
    core: AppCore, task: Task[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
) -> EagerResult[Any]:
    """Run a call now and return its result; when and where it was to run is checked and then of no meaning.

    Raises:
        NotRegistered: a task called by name is not registered here, so that it can't be run here.
        Exception: what the task raised, with `task_eager_propagates`.
    """
    called = core.find_task(task) if isinstance(task, str) else task
    check_options(called.name, options, runs_in=called.runs_in)
    kept = {option: given for option, given in options.items() if option not in ONLY_SENT}
    result = await called.apply(args, kwargs, **cast(CallOptions, kept))
    ignores = _first(options.get("ignore_result"), called.declared.ignore_result, core.conf.task_ignore_result)
    if core.conf.task_store_eager_result and not ignores:
        await _store(core, result)
    return result


async def run_surrounded(
    onion: MiddlewareStack,
    task: Task[..., Any],
    message: Message,
    request: Request,
    call: Callable[[Request], Awaitable[Any]],
) -> Any:
    """Run `call` with all that stands round a run in a worker, and return its value, as middleware made it.

    Raises:
        Exception: what it raised.
    """
    delivery = Delivery(message, "", 0, 0, 0.0)

    async def innermost(running: RunningCall) -> Any:
        with task.running(running.request):
            if "before_start" in task.handlers:
                await call_before_start(task, running.request)
            return await call(running.request)

    with apart():
        if connected:
            await tell_prerun(task, request)
        try:
            value = await onion.run(RunningCall(task, request), innermost)
        except Exception as exc:
            await _tell(task, request, _outcome_of(exc, task, delivery))
            raise
        await _tell(task, request, Success(delivery, value, _KEPT))
    return value


def _outcome_of(error: Exception, task: Task[..., Any], delivery: Delivery) -> Outcome:
    message = delivery.message
    match error:
        case Retry():
            return Retried(delivery, error.exc or error, Envelope(message, ""), _KEPT)
        case Replace():
            return Replaced(delivery, error.canvas, _KEPT)
        case Ignore():
            return Ignored(delivery)
        case Reject():
            return Rejected(delivery, "rejected", str(error.reason))
        case _ if automatic_retry(task, error, message.retries) is not None:
            return Retried(delivery, error, Envelope(message, ""), _KEPT)
        case _:
            return Failure(delivery, error, _KEPT)


async def _tell(task: Task[..., Any], request: Request, outcome: Outcome) -> None:
    if task.handlers:
        await call_handlers(task, request, outcome)
    if connected:
        await TaskSignals(task.app, "", {task.name: task}, None).outcome(outcome.delivery, outcome)


def _first(call: bool | None, declared: bool | None, default: bool) -> bool:
    if call is not None:
        return call
    return default if declared is None else declared


async def _store(core: AppCore, result: EagerResult[Any]) -> None:
    connection = await core.connection()
    if not connection.keeps_results:
        return
    now = core.clock.time()
    ended = await result.look()
    body = core.codec.encode(result.id, ended.state, ended.info, done_at=now, trace=await result.traceback())
    expires = now + core.conf.result_expires
    await connection.records.put([Record(result.id, ended.state, body, core.codec.content_type, expires)])
