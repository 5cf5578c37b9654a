"""Runs one delivery; whatever the task does comes back as a value (P5, P8)."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import anyio
from anyio import to_thread

from .. import states
from .._values import shown
from ..canvas.coordinator import describe
from ..canvas.outcome import Failure, Outcome, Policy, Rejected, Returned, Revoked, Success
from ..exceptions import (
    ContentDisallowed,
    DecodeError,
    MalformedMessage,
    MessageError,
    OperationalError,
    TimeLimitExceeded,
    WorkerLostError,
)
from ..limits import SoftLimited
from ..message import Message
from ..request import Request, request_of
from ..results.handle import running_slot
from ..task import Task
from .child import run_task
from .home import WorkerHome
from .processes import ProcessCall, ProcessPool
from .run import Cancelled, Run

logger = logging.getLogger("aiotq.task")


class Execution:
    """Runs deliveries: coroutines here, functions in threads, CPU-bound ones in the pool."""

    def __init__(
        self,
        home: WorkerHome,
        *,
        worker: str,
        pool: ProcessPool,
        acknowledge: Callable[[Run], Awaitable[bool]],
    ) -> None:
        self._home = home
        self._conf = home.conf
        self._clock = home.clock
        self._tasks = home.tasks
        self._accept = frozenset(home.conf.accept_content)
        self._worker = worker
        # Slots bound the threads: one whose task waits for another's result lends its slot and stays a thread.
        self._threads = anyio.CapacityLimiter(math.inf)
        self._pool = pool
        self._acknowledge = acknowledge

    async def run(self, run: Run) -> Outcome | None:
        """Run one delivery and return its outcome; None when it is no longer ours to settle."""
        message = run.delivery.message
        run.started_at = time.perf_counter()
        if (charges := run.delivery.charges) >= self._conf.task_max_deliveries:
            return self._rejected(run, "poison", f"{charges} workers died while it ran as their only suspect")
        task = self._tasks.get(message.task)
        if task is None:
            return self._rejected(run, "unknown_task", f"no task is registered as {message.task!r} here")
        policy = Policy(message.ignore_result)
        if self._is_expired(message, task):
            logger.info("Task %s[%s] expired", message.task, message.id)
            return Revoked(run.delivery, "expired", policy)
        try:
            args, kwargs = self._decode(message)
        except MessageError as exc:
            return self._rejected(run, _reason(exc), str(exc))
        delivery = run.delivery
        delivery_info = {
            "queue": delivery.queue,
            "priority": delivery.priority,
            "redelivered": delivery.deaths + delivery.returns > 0,
        }
        request = request_of(message, tuple(args), kwargs, delivery_info=delivery_info, hostname=self._worker)
        try:
            if self._is_acked_early(task) and not await self._acknowledge(run):
                return None
            if self._tracks_start(task):
                await self._tell_started(request)
            if run.cancelled_for is not None:
                raise asyncio.CancelledError
            value = await self._call(run, task, request)
        except BaseException as exc:  # SystemExit in a task must not end the loop
            return self._ended_by(exc, run, policy)
        self._log_success(run, value)
        return Success(run.delivery, value, policy)

    def revoked(self, run: Run) -> Outcome:
        """Return the outcome of a delivery that was revoked before it could start."""
        message = run.delivery.message
        logger.info("Task %s[%s] was revoked before it started", message.task, message.id)
        return Revoked(run.delivery, "revoked", Policy(message.ignore_result))

    def _ended_by(self, exc: BaseException, run: Run, policy: Policy) -> Outcome | None:
        message = run.delivery.message
        name, task_id = message.shadow or message.task, message.id
        match run.cancelled_for:
            case Cancelled.LEASE_LOST:
                return None
            case Cancelled.STOPPING:
                if run.is_settled:
                    return Failure(run.delivery, WorkerLostError("the worker stopped before the task ended"), policy)
                logger.warning("Task %s[%s] was interrupted by the stop and is handed back", name, task_id)
                return Returned(run.delivery)
            case Cancelled.REVOKED:
                logger.info("Task %s[%s] was revoked while it ran", name, task_id)
                return Revoked(run.delivery, "terminated", policy)
            case Cancelled.TIME_LIMIT:
                exc = TimeLimitExceeded(f"hard time limit of {self._limits(message)[1]:g} s exceeded")
            case None:  # whatever it is, a cancellation included, is the task's own doing
                pass
        seconds = time.perf_counter() - run.started_at
        if isinstance(exc, Exception):
            logger.error("Task %s[%s] failed in %.3f s: %s", name, task_id, seconds, describe(exc), exc_info=exc)
        else:
            logger.error("Task %s[%s] raised %s after %.3f s", name, task_id, describe(exc), seconds, exc_info=exc)
        return Failure(run.delivery, exc, policy)

    async def _call(self, run: Run, task: Task[..., Any], request: Request) -> Any:
        soft, hard = self._limits(run.delivery.message, task)
        if task.runs_in == "process":
            return await self._call_process(task, request, soft, hard)
        running_slot.set(run)
        task.running(request).__enter__()  # for good: the context is this run's own
        if task.runs_in == "thread":
            call = functools.partial(task, *request.args, **request.kwargs)
            return await to_thread.run_sync(call, limiter=self._threads, abandon_on_cancel=True)
        coro = task(*request.args, **request.kwargs)
        if soft is None and hard is None:
            return await coro
        timer = None
        if hard is not None:
            timer = asyncio.get_running_loop().call_later(hard, run.cancel, Cancelled.TIME_LIMIT)
        try:
            return await (coro if soft is None else SoftLimited(coro, soft))
        finally:
            if timer is not None:
                timer.cancel()

    async def _call_process(
        self, task: Task[..., Any], request: Request, soft: float | None, hard: float | None
    ) -> Any:
        plain = replace(request, kwargs=dict(request.kwargs), headers=dict(request.headers))
        call = ProcessCall(
            run_task.__module__,
            run_task.__qualname__,
            (task.fn.__module__, task.fn.__qualname__, plain),
            {},
            requires=task.fn.__module__,
        )
        return await self._pool.run(call, soft_time_limit=soft, time_limit=hard)

    def _decode(self, message: Message) -> tuple[Sequence[Any], Mapping[str, Any]]:
        if len(message.body) > self._conf.task_message_max_size:
            raise MalformedMessage(
                f"body is {len(message.body)} bytes, over task_message_max_size ({self._conf.task_message_max_size})"
            )
        body: Any = self._home.serializers.decode(message.content_type, message.body, self._accept)
        if not isinstance(body, (list, tuple)) or len(cast("list[Any]", body)) != 3:
            raise MalformedMessage("body is not [args, kwargs, embed]")
        args, kwargs, embed = cast("list[Any]", body)
        if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict):
            raise MalformedMessage("arguments are not a list and an object")
        if not all(isinstance(name, str) for name in cast("dict[object, Any]", kwargs)):
            raise MalformedMessage("names of keyword arguments are not all strings")
        if embed and (not isinstance(embed, dict) or any(cast("dict[str, Any]", embed).values())):
            raise MalformedMessage("the message carries a workflow (callbacks, chain or chord), which can't be run yet")
        return cast("Sequence[Any]", args), cast("dict[str, Any]", kwargs)

    def _limits(self, message: Message, task: Task[..., Any] | None = None) -> tuple[float | None, float | None]:
        """Return the soft and the hard limit of a call: its own, the task's, or the settings'."""
        task = task or self._tasks[message.task]
        soft = message.soft_time_limit or task.declared.soft_time_limit or self._conf.task_soft_time_limit
        hard = message.time_limit or task.declared.time_limit or self._conf.task_time_limit
        if task.runs_in == "thread":
            if message.soft_time_limit or message.time_limit:
                logger.warning("Task %s[%s] runs in a thread: its time limits can't be kept", message.task, message.id)
            return None, None
        return soft, hard

    def _is_expired(self, message: Message, task: Task[..., Any]) -> bool:
        expires = message.expires
        if expires is None and task.declared.expires is not None and message.sent_at is not None:
            expires = message.sent_at + task.declared.expires  # it was called by name, by who does not know the task
        return expires is not None and expires <= self._clock.time()

    def _tracks_start(self, task: Task[..., Any]) -> bool:
        declared = task.declared.track_started
        return self._conf.task_track_started if declared is None else declared

    def _is_acked_early(self, task: Task[..., Any]) -> bool:
        declared = task.declared.acks_late
        return not (self._conf.task_acks_late if declared is None else declared)

    async def _tell_started(self, request: Request) -> None:
        try:
            await self._home.update_state(request, states.STARTED, {"hostname": self._worker})
        except OperationalError as exc:  # the task matters more than who hears that it began
            logger.warning("Task %s[%s]: its start could not be stored: %s", request.task, request.id, exc)

    def _rejected(self, run: Run, reason: str, detail: str) -> Rejected:
        message = run.delivery.message
        logger.error("Task %s[%s] goes to the dead letters (%s): %s", message.task, message.id, reason, detail)
        return Rejected(run.delivery, reason, detail)

    def _log_success(self, run: Run, value: object) -> None:
        if logger.isEnabledFor(logging.INFO):
            message = run.delivery.message
            logger.info(
                "Task %s[%s] succeeded in %.3f s: %s",
                message.shadow or message.task,
                message.id,
                time.perf_counter() - run.started_at,
                shown(value),
            )


def _reason(error: MessageError) -> str:
    match error:
        case ContentDisallowed():
            return "content_disallowed"
        case DecodeError():
            return "undecodable"
        case _:
            return "malformed"
