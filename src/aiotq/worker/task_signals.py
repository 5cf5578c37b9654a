"""Tells the signals of running what became of deliveries; called only where somebody is connected to any signal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from .. import states
from ..canvas.outcome import (
    Failure,
    Ignored,
    Outcome,
    Postponed,
    Rejected,
    Replaced,
    Retried,
    Returned,
    Revoked,
    Skipped,
    Success,
)
from ..exceptions import DeadLettered, NotRegistered
from ..results.document import format_traceback
from ..signals import (
    Signal,
    task_failure,
    task_internal_error,
    task_postrun,
    task_prerun,
    task_received,
    task_rejected,
    task_retry,
    task_revoked,
    task_success,
    task_unknown,
)
from ..tasks.handlers import ExceptionInfo
from ..tasks.request import Request, request_of, running_request
from ..tasks.task import Task
from ..transport import Delivery
from .delivery_info import DeliveryInfo

#: Seconds that receivers have when a run was cancelled or the worker stops (P6).
_LAST_WORDS: Final = 10.0
#: The request of the run whose `task_prerun` was told in this context.
_begun: Final[ContextVar[Request | None]] = ContextVar("aiotq_begun", default=None)

logger = logging.getLogger("aiotq.task")

#: States of which no caller ever hears: they stand in `task_postrun` only, under Celery's names.
IGNORED: Final = "IGNORED"
REJECTED: Final = "REJECTED"


class TaskSignals:
    """Tells receivers of one worker's runs; `worker` is that worker. Without `whence` all have begun here."""

    def __init__(
        self, worker: object, name: str, tasks: Mapping[str, Task[..., Any]], whence: DeliveryInfo | None
    ) -> None:
        self._whence = whence
        self._worker = worker
        self._name = name
        self._tasks = tasks

    async def received(self, deliveries: Sequence[Delivery]) -> None:
        """Tell `task_received`."""
        if task_received.receivers:
            for delivery in deliveries:
                await task_received.send(self._worker, request=self._request(delivery), message=delivery.message)

    async def outcome(self, delivery: Delivery, outcome: Outcome | None) -> None:
        """Tell what came of a run; `None` is a run whose lease was lost.

        A cancellation meanwhile cuts it short and goes no further: the outcome stands, and is committed.
        """
        task = asyncio.current_task()
        was_cancelled = task is not None and task.cancelling() > 0  # nobody will do it again
        try:
            async with asyncio.timeout(_LAST_WORDS if was_cancelled else None):
                await self._tell(delivery, outcome)
        except (asyncio.CancelledError, TimeoutError):
            message = delivery.message
            logger.warning("Task %s[%s]: receivers of its signals were cancelled", message.task, message.id)

    async def broke(self, delivery: Delivery, error: Exception) -> None:
        """Tell `task_internal_error`."""
        if task_internal_error.receivers:
            request = self._request(delivery)
            await task_internal_error.send(
                self._sender(delivery), request=request, **_failure(request, error, delivery.message.id)
            )

    async def _tell(self, delivery: Delivery, outcome: Outcome | None) -> None:
        task = self._sender(delivery)
        request = self._request(delivery)
        message = delivery.message
        match outcome:
            case Success(value=value) if task_success.receivers:
                await task_success.send(task, result=value)
            case Retried(error=error) if task_retry.receivers:
                await task_retry.send(task, request=request, reason=error, einfo=_info(error))
            case Failure(error=error) if task_failure.receivers:
                await task_failure.send(task, **_failure(request, error, message.id))
            case Revoked(reason=reason) if task_revoked.receivers:
                await task_revoked.send(
                    task, request=request, terminated=reason == "terminated", signum=None, expired=reason == "expired"
                )
            case Rejected(reason="unknown_task") | Returned() if message.task not in self._tasks:
                error = NotRegistered(message.task)
                await task_unknown.send(self._worker, name=message.task, id=message.id, message=message, exc=error)
            case Rejected(reason=reason, detail=detail):
                error = DeadLettered(f"{reason}: {detail}")
                await task_rejected.send(self._worker, message=message, exc=error, reason=reason)
            case _:
                pass
        if task_postrun.receivers and _begun.get() is not None:
            state, value = _state(outcome)
            await task_postrun.send(
                task,
                task_id=message.id,
                task=task,
                args=request.args,
                kwargs=request.kwargs,
                retval=value,
                state=state,
            )

    def _sender(self, delivery: Delivery) -> object:
        name = delivery.message.task
        return self._tasks.get(name, name)

    def _request(self, delivery: Delivery) -> Request:
        """Return the request of a run, or what is known of it before its arguments are decoded."""
        if (request := _begun.get()) is not None:
            return request
        request = running_request.get()
        if request.id == delivery.message.id:
            return request
        info: Mapping[str, Any] = {} if self._whence is None else self._whence.info(delivery)
        return request_of(delivery.message, (), {}, delivery_info=info, hostname=self._name)


async def tell_the_end(signal: Signal, sender: object, **named: Any) -> None:
    """Tell a signal of a worker that stops; receivers that take too long are cancelled."""
    try:
        async with asyncio.timeout(_LAST_WORDS):
            await signal.send(sender, **named)
    except TimeoutError:
        logger.error("receivers of signal %s took more than %g s and were cancelled", signal.name, _LAST_WORDS)


@contextmanager
def apart() -> Generator[None]:
    """What is told in here is of another run than the one around it, if there is one."""
    around = _begun.set(None)
    try:
        yield
    finally:
        _begun.reset(around)


async def tell_prerun(task: Task[..., Any], request: Request) -> None:
    """Tell `task_prerun`; what comes of this run is told with the same request."""
    _begun.set(request)
    if task_prerun.receivers:
        await task_prerun.send(task, task_id=request.id, task=task, args=request.args, kwargs=request.kwargs)


def _state(outcome: Outcome | None) -> tuple[str, Any]:
    """Return the state of a call after this run, and its value or exception."""
    match outcome:
        case Success(value=value):
            return states.SUCCESS, value
        case Retried(error=error):
            return states.RETRY, error
        case Failure(error=error):
            return states.FAILURE, error
        case Revoked():
            return states.REVOKED, None
        case Skipped(error=error, state=state):
            return state, error
        case Ignored() | Replaced():
            return IGNORED, None
        case Rejected():
            return REJECTED, None
        case Returned() | Postponed() | None:  # it waits again, here or elsewhere
            return states.PENDING, None


def _failure(request: Request, error: BaseException, task_id: str) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "exception": error,
        "args": request.args,
        "kwargs": request.kwargs,
        "traceback": error.__traceback__,
        "einfo": _info(error),
    }


def _info(error: BaseException) -> ExceptionInfo:
    return ExceptionInfo(error, format_traceback(error) or "")
