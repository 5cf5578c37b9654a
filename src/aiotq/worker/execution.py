"""Runs one delivery; whatever the task does comes back as a value (P5, P8)."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

import anyio

from .. import states
from ..calling.core import AppCore
from ..canvas.coordinator import describe
from ..canvas.links import NO_LINKS, Links, embedded, links_of
from ..canvas.outcome import (
    UNTRUSTED,
    Failure,
    Ignored,
    Outcome,
    Policy,
    Rejected,
    Replace,
    Replaced,
    Retried,
    Returned,
    Revoked,
    Success,
)
from ..canvas.serialized import as_canvas
from ..core.values import replace, shown
from ..exceptions import (
    AioTQError,
    BadSignature,
    ContentDisallowed,
    DecodeError,
    MalformedMessage,
    MessageError,
    OperationalError,
    Reject,
    Retry,
    Snooze,
    TaskPredicate,
    TimeLimitExceeded,
    Unsigned,
    WorkerLostError,
)
from ..signals import connected
from ..tasks.request import Request, request_of, running_request
from ..tasks.retries import after_loss, automatic_retry, retried, snoozed
from ..tasks.soft_time_limits import SoftLimited, run_in_thread
from ..tasks.task import Task, one_by_one
from ..wire.message import Message
from ..wire.signing import sealed
from .delivery_info import DeliveryInfo
from .processes.child import Ran, run_task
from .processes.pool import ProcessCall, ProcessPool
from .run import Cancelled, Run
from .run_handlers import call_handlers
from .step_inputs import Steps
from .surrounded import call_surrounded
from .task_policy import TaskPolicies, TaskPolicy
from .unknown import UnknownTasks

logger = logging.getLogger("aiotq.task")

#: Seconds before what a task rejected for others comes again: it would be back here at once.
_REQUEUE_DELAY: Final = 1.0


class Execution:
    """Runs deliveries: coroutines here, functions in threads, CPU-bound ones in the pool."""

    def __init__(
        self,
        core: AppCore,
        *,
        worker: str,
        pool: ProcessPool,
        acknowledge: Callable[[Run], Awaitable[bool]],
    ) -> None:
        self._core = core
        self._conf = core.conf
        self._clock = core.clock
        self._tasks = core.tasks
        self._onion = core.middleware
        self._accept = frozenset(core.conf.accept_content)
        self._signer = core.signer
        self._serializers = core.serializers
        self._worker = worker
        # Slots bound the threads: one whose task waits for another's result lends its slot and stays a thread.
        self._threads = anyio.CapacityLimiter(math.inf)
        self._pool = pool
        self._acknowledge = acknowledge
        self._terms = TaskPolicies(core.conf)
        self._steps = Steps(core)
        self._whence = DeliveryInfo(core.conf)
        self._unknown_tasks = UnknownTasks(core.clock, core.conf.worker_unknown_task_timeout)

    async def run(self, run: Run) -> Outcome | None:
        """Run one delivery and return its outcome; None when it is no longer ours to settle."""
        message = run.delivery.message
        run.started_at = time.perf_counter()
        delivery = run.delivery
        task = self._tasks.get(message.task)
        if task is None:
            return self._refused(run, None) or self._unknown(run)
        terms = self._terms.of(task)
        if (refused := self._refused(run, terms)) is not None:
            return refused
        policy = terms.if_ignored if message.ignore_result else terms.if_kept
        opened = self._opened(run, terms, policy)
        if not isinstance(opened, tuple):
            return opened
        args, kwargs, links = opened
        if links is not NO_LINKS or message.step is not None:
            args, links, ended = await self._completed(run, args, kwargs, links, policy)
            if ended is not None:
                return ended
        request = request_of(
            message,
            tuple(args),
            kwargs,
            delivery_info=self._whence.info(delivery),
            hostname=self._worker,
            mode=links.mode,
            runner=task,
            slot=run,
            following=links,
        )
        running_request.set(request)  # for good: the context is this run's own
        try:
            if terms.is_acked_early and not await self._acknowledge(run):
                return None
            if terms.tracks_start:
                await self._tell_started(request)
            run.check()
            is_plain = not (connected or task.handlers or self._onion.runners)
            value = await (
                self._call(run, task, request)
                if is_plain
                else call_surrounded(self._onion, run, task, request, self._call)
            )
        except BaseException as exc:  # SystemExit in a task must not end the loop
            outcome = self._ended_by(exc, run, policy, task, request, links)
        else:
            if isinstance(value, Ran):
                request.children.extend(value.children)
                request.added.extend(map(as_canvas, value.added))
                value = value.value
            self._log_success(run, value, task.declared.resultrepr_maxsize)
            outcome = Success(run.delivery, value, policy, tuple(request.children), links, tuple(request.added))
        if links is not NO_LINKS and isinstance(outcome, (Failure, Ignored, Replaced, Rejected, Revoked)):
            outcome = replace(outcome, links=links)
        if task.handlers and outcome is not None:
            await call_handlers(task, request, outcome)
        return outcome

    def _opened(
        self, run: Run, terms: TaskPolicy, policy: Policy
    ) -> Outcome | tuple[Sequence[Any], Mapping[str, Any], Links]:
        """Return what the body of a delivery says; or its outcome, if it is expired or can't be read."""
        message = run.delivery.message
        if self._is_expired(message, terms):
            logger.info("Task %s[%s] expired", message.task, message.id)
            return Revoked(run.delivery, "expired", policy, self._links(message))
        try:
            return self._decode(message)
        except MessageError as exc:
            return self._rejected(run, _reason(exc), str(exc), NO_LINKS)

    async def _completed(
        self, run: Run, args: Sequence[Any], kwargs: Mapping[str, Any], links: Links, policy: Policy
    ) -> tuple[Sequence[Any], Links, Outcome | None]:
        """Return the arguments of a step of a workflow, and what follows it; or its outcome, if it does not run now."""
        try:
            return await self._steps.called_with(run.delivery, args, kwargs, links, policy)
        except MessageError as exc:
            return args, links, self._rejected(run, _reason(exc), str(exc), links)

    def _refused(self, run: Run, terms: TaskPolicy | None) -> Outcome | None:
        """Return the outcome of a delivery that killed too many workers, or is not as it was signed."""
        charges = run.delivery.charges
        if charges and charges >= (self._conf.task_max_deliveries if terms is None else terms.max_deliveries):
            return self._rejected(run, "poison", f"{charges} workers died while it ran as their only suspect")
        if self._signer is not None:  # nothing in it is believed before
            try:
                self._signer.verify(run.delivery.message)
            except MessageError as exc:
                return self._rejected(run, _reason(exc), str(exc))
        return None

    def _unknown(self, run: Run) -> Outcome:
        """Return the outcome of a delivery whose task is not known here: for others, or expired, or given up."""
        message = run.delivery.message
        if message.expires is not None and message.expires <= self._clock.time():
            logger.info("Task %s[%s] expired", message.task, message.id)
            return Revoked(run.delivery, "expired", Policy(message.ignore_result), self._links(message))
        delay = self._unknown_tasks.delay(run.delivery)
        if delay is not None:
            return Returned(run.delivery, delay)
        waited = self._conf.worker_unknown_task_timeout
        detail = f"no task is registered as {message.task!r} here"
        return self._rejected(
            run, "unknown_task", f"{detail}, and in {waited:g} s no worker ran it" if waited else detail
        )

    def revoked(self, run: Run) -> Outcome:
        """Return the outcome of a delivery that was revoked before it could start."""
        message = run.delivery.message
        logger.info("Task %s[%s] was revoked before it started", message.task, message.id)
        return Revoked(run.delivery, "revoked", Policy(message.ignore_result), self._links(message))

    def _ended_by(
        self, exc: BaseException, run: Run, policy: Policy, task: Task[..., Any], request: Request, links: Links
    ) -> Outcome | None:
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
        if isinstance(exc, TaskPredicate):
            return self._steered(exc, run, policy, task, request, links)
        if isinstance(exc, WorkerLostError) and self._terms.of(task).rejects_lost:
            return self._lost_process(exc, run, policy, task)
        again = automatic_retry(task, exc, message.retries)
        if again is not None:
            return self._retried(again, run, policy, task, request, links)
        seconds = time.perf_counter() - run.started_at
        if task.declared.throws and isinstance(exc, task.declared.throws):
            logger.info("Task %s[%s] raised expected: %s", name, task_id, describe(exc))
        elif isinstance(exc, Exception):
            logger.error("Task %s[%s] failed in %.3f s: %s", name, task_id, seconds, describe(exc), exc_info=exc)
        else:
            logger.error("Task %s[%s] raised %s after %.3f s", name, task_id, describe(exc), seconds, exc_info=exc)
        return Failure(run.delivery, exc, policy)

    def _steered(
        self,
        how: TaskPredicate,
        run: Run,
        policy: Policy,
        task: Task[..., Any],
        request: Request,
        links: Links,
    ) -> Outcome:
        """Return the outcome that the task itself asked for."""
        delivery = run.delivery
        message = delivery.message
        name = message.shadow or message.task
        match how:
            case Retry():
                return self._retried(how, run, policy, task, request, links)
            case Snooze():
                logger.info("Task %s[%s] runs again in %g s", name, message.id, how.seconds)
                now = self._clock.time()
                again = snoozed(message, delivery.queue, delivery.priority, how.seconds, now)
                return Retried(delivery, how, sealed(self._signer, again), policy)
            case Reject(requeue=True) if not run.is_settled:
                logger.info("Task %s[%s] was rejected and is handed back: %s", name, message.id, how.reason)
                return Returned(delivery, _REQUEUE_DELAY)
            case Reject():
                return self._rejected(run, "rejected", str(how.reason))
            case Replace():
                logger.info("Task %s[%s] was replaced by %s", name, message.id, shown(how.canvas))
                return Replaced(delivery, how.canvas, policy)
            case _:
                logger.info("Task %s[%s] asked to be ignored", name, message.id)
                return Ignored(delivery)

    def _retried(
        self, again: Retry, run: Run, policy: Policy, task: Task[..., Any], request: Request, links: Links
    ) -> Outcome:
        delivery = run.delivery
        message = delivery.message
        try:
            envelope = retried(
                self._conf,
                self._serializers,
                task,
                message,
                delivery.queue,
                delivery.priority,
                again,
                args=request.args,
                kwargs=request.kwargs,
                embed=embedded(replace(links, broken=None, is_given=False)) if links is not NO_LINKS else {},
                now=self._clock.time(),
            )
            envelope = sealed(self._signer, envelope)
        except AioTQError as exc:
            logger.error("Task %s[%s] can't be retried as asked: %s", message.task, message.id, exc)
            return Failure(delivery, exc, policy)
        logger.info("Task %s[%s]: %s", message.shadow or message.task, message.id, again)
        return Retried(delivery, again.exc or again, envelope, policy)

    def _lost_process(self, exc: WorkerLostError, run: Run, policy: Policy, task: Task[..., Any]) -> Outcome:
        """A task's process died, and it may run again: as often as it may be delivered."""
        delivery = run.delivery
        message = delivery.message
        if message.losses + 1 >= self._terms.of(task).max_deliveries:
            return self._rejected(run, "poison", f"its process died {message.losses + 1} times")
        logger.warning("Task %s[%s]: its process died, it runs again", message.task, message.id)
        again = after_loss(message, delivery.queue, delivery.priority)
        return Retried(delivery, exc, sealed(self._signer, again), policy)

    async def _call(self, run: Run, task: Task[..., Any], request: Request) -> Any:
        soft, hard = self._limits(run.delivery.message, task)
        if task.runs_in == "process":
            return await self._call_process(task, request, soft, hard)
        call = task if request.mode == "once" else one_by_one(task, request.mode)
        if task.runs_in == "thread":
            call = functools.partial(call, *request.args, **request.kwargs)
            return await run_in_thread(call, soft, limiter=self._threads, abandons=True)
        coro = call(*request.args, **request.kwargs)
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
        plain = replace(
            request,
            kwargs=dict(request.kwargs),
            headers=dict(request.headers),
            stamps=dict(request.stamps),
            added=[],
            runner=None,
            slot=None,
            following=None,
        )
        call = ProcessCall(
            run_task.__module__,
            run_task.__qualname__,
            (task.fn.__module__, task.fn.__qualname__, plain),
            {},
            requires=task.fn.__module__,
        )
        return await self._pool.run(call, soft_time_limit=soft, time_limit=hard)

    def _links(self, message: Message) -> Links:
        """Return what follows a task that does not run; nothing if that can't be read."""
        try:
            return self._decode(message)[2]
        except MessageError:
            return NO_LINKS

    def _decode(self, message: Message) -> tuple[Sequence[Any], Mapping[str, Any], Links]:
        if len(message.body) > self._conf.task_message_max_size:
            raise MalformedMessage(
                f"body is {len(message.body)} bytes, over task_message_max_size ({self._conf.task_message_max_size})"
            )
        body: Any
        if message.compression is None:
            body = self._serializers.decode(message.content_type, message.body, self._accept)
        else:
            most = self._conf.task_message_max_size
            body = self._serializers.decode(
                message.content_type, message.body, self._accept, compression=message.compression, max_size=most
            )
        if not isinstance(body, (list, tuple)) or len(cast("list[Any]", body)) != 3:
            raise MalformedMessage("body is not [args, kwargs, embed]")
        args, kwargs, embed = cast("list[Any]", body)
        if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict):
            raise MalformedMessage("arguments are not a list and an object")
        if kwargs and not all(isinstance(name, str) for name in cast("dict[object, Any]", kwargs)):
            raise MalformedMessage("names of keyword arguments are not all strings")
        links = links_of(embed) if embed else NO_LINKS
        return cast("Sequence[Any]", args), cast("dict[str, Any]", kwargs), links

    def _limits(self, message: Message, task: Task[..., Any] | None = None) -> tuple[float | None, float | None]:
        """Return the soft and the hard limit of a call: its own, the task's, or the settings'."""
        task = task or self._tasks[message.task]
        soft = message.soft_time_limit or task.declared.soft_time_limit or self._conf.task_soft_time_limit
        hard = message.time_limit or task.declared.time_limit or self._conf.task_time_limit
        if task.runs_in == "thread":
            if message.time_limit:
                logger.warning("Task %s[%s] runs in a thread: its time_limit can't be kept", message.task, message.id)
            return soft, None
        return soft, hard

    def _is_expired(self, message: Message, terms: TaskPolicy) -> bool:
        expires = message.expires
        if expires is None and terms.expires is not None and message.sent_at is not None:
            expires = message.sent_at + terms.expires  # it was called by name, by who does not know the task
        return expires is not None and expires <= self._clock.time()

    async def _tell_started(self, request: Request) -> None:
        try:
            await self._core.update_state(request, states.STARTED, {"hostname": self._worker})
        except OperationalError as exc:  # the task matters more than who hears that it began
            logger.warning("Task %s[%s]: the state STARTED could not be stored: %s", request.task, request.id, exc)

    def _rejected(self, run: Run, reason: str, detail: str, links: Links | None = None) -> Rejected:
        """Return the outcome of what is given up; `links` None: what follows it is still to be read."""
        message = run.delivery.message
        logger.error("Task %s[%s] becomes a dead letter (%s): %s", message.task, message.id, reason, detail)
        if links is None:
            links = NO_LINKS if reason in UNTRUSTED else self._links(message)
        return Rejected(run.delivery, reason, detail, links)

    def _log_success(self, run: Run, value: object, most: int) -> None:
        if logger.isEnabledFor(logging.INFO):
            message = run.delivery.message
            logger.info(
                "Task %s[%s] succeeded in %.3f s: %s",
                message.shadow or message.task,
                message.id,
                time.perf_counter() - run.started_at,
                shown(value)[:most],
            )


def _reason(error: MessageError) -> str:
    match error:
        case ContentDisallowed():
            return "content_disallowed"
        case DecodeError():
            return "undecodable"
        case Unsigned():
            return "unsigned"
        case BadSignature():
            return "bad_signature"
        case _:
            return "malformed"
