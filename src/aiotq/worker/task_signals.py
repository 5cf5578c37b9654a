"""Tells Celery's signals of what a worker does; asked only where somebody is connected to any signal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from .. import signals, states
from ..canvas.outcome import REJECTED, REPLACED, Outcome, Rejected, Revoked
from ..commit import Finish
from ..exceptions import NotRegistered
from ..results.document import format_traceback
from ..signals import Signal
from ..tasks.handlers import ExceptionInfo
from ..tasks.request import Request, request_of
from ..tasks.task import Task
from ..transport import Delivery
from .delivery_info import DeliveryInfo
from .observers import Observer, Told
from .run import Run

if TYPE_CHECKING:
    from .worker import Worker

#: Seconds that receivers have when the worker stops (P6).
_LAST_WORDS: Final = 10.0

logger = logging.getLogger("aiotq.task")


class TaskSignals(Observer):
    """Tells receivers of one worker; `sender` is that worker, and `name` its name."""

    calls = "signal receivers"

    def __init__(
        self, sender: object, name: str, tasks: Mapping[str, Task[..., Any]], delivery_info: DeliveryInfo
    ) -> None:
        self._delivery_info = delivery_info
        self._worker = sender
        self._name = name
        self._tasks = tasks

    def __repr__(self) -> str:
        return "<signals>"

    def starting(self, worker: Worker) -> Told:
        return signals.worker_init.send(worker)

    def ready(self, worker: Worker) -> Told:
        return signals.worker_ready.send(worker)

    def stopping(self, worker: Worker, how: str) -> Told:
        return _at_the_end(signals.worker_shutting_down, worker, sig=worker.stop_signal, how=how, exitcode=0)

    def stopped(self, worker: Worker) -> Told:
        return _at_the_end(signals.worker_shutdown, worker)

    def received(self, deliveries: Sequence[Delivery]) -> Told:
        return self._tell_received(deliveries) if signals.task_received.receivers else None

    def started(self, run: Run) -> Told:
        request = _request(run)
        return signals.task_prerun.send(
            run.called, task_id=request.id, task=run.called, args=request.args, kwargs=request.kwargs
        )

    def ended(self, run: Run, outcome: Outcome | None, finish: Finish | None) -> Told:
        return self._tell_end(run, outcome)

    def broke(self, run: Run, error: Exception) -> Told:
        request = run.request or self._unread(run.delivery)
        named = _failure(request, error, run.delivery.message.id)
        return signals.task_internal_error.send(self._sender(run.delivery), request=request, **named)

    async def _tell_received(self, deliveries: Sequence[Delivery]) -> None:
        for each in deliveries:
            await signals.task_received.send(self._worker, request=self._unread(each), message=each.message)

    async def _tell_end(self, run: Run, outcome: Outcome | None) -> None:
        message = run.delivery.message
        task = self._sender(run.delivery)
        request = run.request or self._unread(run.delivery)
        if outcome is not None:
            await self._tell_outcome(run.delivery, task, request, outcome)
        if run.is_told and signals.task_postrun.receivers:
            state = states.PENDING if outcome is None else outcome.state
            await signals.task_postrun.send(
                task,
                task_id=message.id,
                task=task,
                args=request.args,
                kwargs=request.kwargs,
                retval=None if outcome is None else outcome.retval,
                state=states.IGNORED if state == REPLACED else state,  # as Celery says it
            )

    async def _tell_outcome(self, delivery: Delivery, task: object, request: Request, outcome: Outcome) -> None:
        message = delivery.message
        if message.task not in self._tasks and outcome.state in (REJECTED, states.PENDING):
            error = NotRegistered(message.task)
            await signals.task_unknown.send(self._worker, name=message.task, id=message.id, message=message, exc=error)
        elif not outcome.is_reported:
            return
        elif outcome.state == states.SUCCESS:
            await signals.task_success.send(task, result=outcome.retval)
        elif outcome.state == states.RETRY:
            why = outcome.retval
            await signals.task_retry.send(task, request=request, reason=why, einfo=_info(why))
        elif outcome.state == states.FAILURE:
            await signals.task_failure.send(task, **_failure(request, outcome.retval, message.id))
        elif isinstance(outcome, Revoked):
            how = {"terminated": outcome.reason == "terminated", "expired": outcome.reason == "expired"}
            await signals.task_revoked.send(task, request=request, signum=None, **how)
        elif isinstance(outcome, Rejected):
            await signals.task_rejected.send(self._worker, message=message, exc=outcome.error, reason=outcome.reason)

    def _sender(self, delivery: Delivery) -> object:
        name = delivery.message.task
        return self._tasks.get(name, name)

    def _unread(self, delivery: Delivery) -> Request:
        """Return what is known of a call before its arguments are decoded."""
        info = self._delivery_info.info(delivery)
        return request_of(delivery.message, (), {}, delivery_info=info, hostname=self._name)


async def _at_the_end(signal: Signal, sender: object, **named: Any) -> None:
    """Tell a signal of a worker that stops; receivers that take too long are cancelled."""
    try:
        async with asyncio.timeout(_LAST_WORDS):
            await signal.send(sender, **named)
    except TimeoutError:
        logger.error("receivers of signal %s took more than %g s and were cancelled", signal.name, _LAST_WORDS)


def _request(run: Run) -> Request:
    assert run.request is not None
    return run.request


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
