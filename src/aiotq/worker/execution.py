"""Runs one delivery; whatever the task does comes back as a value (P5, P8)."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeGuard, cast

import anyio

from .. import states
from ..calling.middleware import Middleware, MiddlewareStack, RunningCall, run_through
from ..canvas.links import NO_LINKS, Links, links_of
from ..canvas.outcome import (
    UNTRUSTED,
    Failure,
    Ignored,
    Outcome,
    Policy,
    Rejected,
    Replaced,
    Returned,
    Revoked,
    Success,
)
from ..canvas.serialized import as_canvas
from ..core import surroundings
from ..core.aio import start
from ..core.logs import giving
from ..core.values import replace, shown
from ..exceptions import (
    InvalidArguments,
    MalformedMessage,
    MessageError,
    OperationalError,
    TimeLimitExceeded,
)
from ..results.shown_arguments import MASK
from ..tasks.dependencies import Overrides
from ..tasks.injecting import injected, ready, run_injected, run_injected_now
from ..tasks.request import Request, request_of, running_request
from ..tasks.running import one_by_one
from ..tasks.soft_time_limits import SoftLimited, run_in_thread
from ..tasks.task import Task
from ..tasks.task_core import RunTracing
from ..wire.message import Message
from .delivery_info import DeliveryInfo
from .endings import Endings, EndingsCore, reason_of
from .observers import Observers
from .processes.child import Ran, run_task
from .processes.child_process import ProcessCall
from .processes.pool import ProcessPool
from .run import Cancelled, Run
from .run_handlers import call_before_start
from .step_inputs import Steps, StepsCore
from .task_policy import TaskPolicies, TaskPolicy
from .transactions import Transactions
from .unknown import UnknownTasks

logger = logging.getLogger("aiotq.task")

#: Why a run ends although its task went on and returned a value.
_STANDING: Final = frozenset({Cancelled.TIME_LIMIT, Cancelled.REVOKED})


class ExecutionCore(StepsCore, EndingsCore, Protocol):
    """Where tasks run: an app's core, or what stands for one while calls run where they are made."""

    @property
    def tasks(self) -> Mapping[str, Task[..., Any]]: ...

    @property
    def middleware(self) -> MiddlewareStack: ...

    @property
    def dependency_overrides(self) -> Overrides: ...

    @property
    def tracing(self) -> RunTracing | None: ...

    async def update_state(self, request: Request, state: str, meta: Any) -> None: ...


class Execution:
    """Runs deliveries: coroutines here, functions in threads, CPU-bound ones in the pool.

    Without a pool it runs calls where they are made: those for processes in threads, which are waited for when their
    caller is cancelled, and with content of any type, since nobody else can have written it.
    """

    def __init__(
        self,
        core: ExecutionCore,
        *,
        worker: str,
        pool: ProcessPool | None,
        observers: Observers,
        acknowledge: Callable[[Run], Awaitable[bool]],
    ) -> None:
        self._core = core
        self._conf = core.conf
        self._shared_clock = core.shared_clock
        self._tasks = core.tasks
        self._onion = core.middleware
        self._accept = frozenset(core.conf.accept_content)
        self._signer = core.signer
        self._serializers = core.serializers
        self._worker = worker
        # Slots bound the threads: one whose task waits for another's result lends its slot and stays a thread.
        self._threads = anyio.CapacityLimiter(math.inf)
        self._pool = pool
        self._observers = observers
        self._acknowledge = acknowledge
        self._policies = TaskPolicies(core.conf)
        self._endings = Endings(core, self._policies)
        self._steps = Steps(core)
        self._delivery_info = DeliveryInfo(core.conf)
        self.transactions = Transactions(core.conf, self._failed)
        #: By task: the soft and the hard limit that a command gave it, in place of all others.
        self.time_limits: dict[str, tuple[float | None, float | None]] = {}
        self._unknown_tasks = UnknownTasks(core.shared_clock, core.conf.worker_unknown_task_timeout)

    async def run(self, run: Run) -> Outcome | None:
        """Run one delivery and return its outcome; None when it is no longer ours to settle."""
        message = run.delivery.message
        run.started_at = time.perf_counter()
        delivery = run.delivery
        task = self._tasks.get(message.task)
        run.called = task
        if task is None:
            return self._refused(run, None) or self._unknown(run)
        rules = self._policies.of(task)
        if (refused := self._refused(run, rules)) is not None:
            return refused
        policy = rules.if_ignored if message.ignore_result else rules.if_kept
        opened = self._opened(run, rules, policy)
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
            delivery_info=self._delivery_info.info(delivery),
            hostname=self._worker,
            mode=links.mode,
            is_eager=self._pool is None,
            runner=task,
            slot=run,
            following=links,
        )
        run.request, run.links = request, links
        running_request.set(request)  # for good: the context is this run's own
        if rules.rebuilding is not None:
            try:
                rebuilt = rules.rebuilding.rebuilt(request.args, kwargs, links.mode)
            except InvalidArguments as exc:  # no retry can change that, and no frame says more than its text
                return self._linked(self._endings.failed(exc.with_traceback(None), run, task, policy), run)
            run.sent_arguments = request.args, kwargs
            cast("Any", request).args, cast("Any", request).kwargs = rebuilt
        try:
            if rules.is_acked_early and not await self._acknowledge(run):
                return None
            if rules.tracks_start:
                await self._tell_started(request)
            run.check()
            if self._observers.of(task) and (hooks := self._observers.tell_start(run)) is not None:
                await hooks
            onion = self._onion
            around = onion.runners if onion.outermost is None else onion.around(request)
            is_plain = not (task.handlers or around)
            value = await (self._call(run, task, request) if is_plain else self._surrounded(run, task, request, around))
        except BaseException as exc:  # SystemExit in a task must not end the loop
            # No local has the outcome: this frame is in the traceback of its error, and both would be the collector's.
            return self._linked(self._endings.raised(exc, run, task, policy), run)
        return self._linked(self._returned(value, run, task, request, policy), run)

    def _returned(self, value: Any, run: Run, task: Task[..., Any], request: Request, policy: Policy) -> Outcome | None:
        """Return the outcome of a run that ended with `value`; what stopped it before stands."""
        if run.cancelled_for in _STANDING:
            return self._endings.stopped(run, task, policy)
        value = self._unpacked(value, request)
        self._log_success(run, value, task.declared.resultrepr_maxsize)
        return Success(run.delivery, value, policy, tuple(request.children), run.links, tuple(request.added))

    @staticmethod
    def _linked(outcome: Outcome | None, run: Run) -> Outcome | None:
        """Return `outcome` with what follows its task."""
        if run.links is not NO_LINKS and isinstance(outcome, (Failure, Ignored, Replaced, Rejected, Revoked)):
            return replace(outcome, links=run.links)
        return outcome

    def _failed(self, run: Run, error: BaseException) -> Outcome | None:
        """Return the outcome of a run that failed by `error` after its task had returned a value."""
        task = run.called
        assert task is not None
        rules = self._policies.of(task)
        policy = rules.if_ignored if run.delivery.message.ignore_result else rules.if_kept
        return self._linked(self._endings.raised(error, run, task, policy), run)

    def stopped(self, run: Run) -> Outcome | None:
        """Return the outcome of a run that we cancelled, although it goes on."""
        task = run.called
        if task is None:
            return Returned(run.delivery)
        rules = self._policies.of(task)
        policy = rules.if_ignored if run.delivery.message.ignore_result else rules.if_kept
        return self._linked(self._endings.stopped(run, task, policy), run)

    def _opened(
        self, run: Run, rules: TaskPolicy, policy: Policy
    ) -> Outcome | tuple[Sequence[Any], Mapping[str, Any], Links]:
        """Return what the body of a delivery says; or its outcome, if it is expired or can't be read."""
        message = run.delivery.message
        if self._is_expired(message, rules):
            logger.info("Task %s[%s] expired", message.task, message.id, extra=giving(states.REVOKED))
            return Revoked(run.delivery, "expired", policy, self.links(message))
        try:
            return self.decode(message)
        except MessageError as exc:
            return self._endings.rejected(run, reason_of(exc), str(exc))

    async def _completed(
        self, run: Run, args: Sequence[Any], kwargs: Mapping[str, Any], links: Links, policy: Policy
    ) -> tuple[Sequence[Any], Links, Outcome | None]:
        """Return the arguments of a step of a workflow, and what follows it; or its outcome, if it does not run now."""
        try:
            return await self._steps.called_with(run.delivery, args, kwargs, links, policy)
        except MessageError as exc:
            run.links = links
            return args, links, self._endings.rejected(run, reason_of(exc), str(exc))

    def _refused(self, run: Run, rules: TaskPolicy | None) -> Outcome | None:
        """Return the outcome of a delivery that killed too many workers, or is not as it was signed."""
        charges = run.delivery.charges
        if charges and charges >= (self._conf.task_max_deliveries if rules is None else rules.max_deliveries):
            return self._given_up(run, "poison", f"{charges} workers died while it ran as their only suspect")
        if self._signer is not None:  # nothing in it is believed before
            try:
                self._signer.verify(run.delivery.message)
            except MessageError as exc:
                return self._given_up(run, reason_of(exc), str(exc))
        return None

    def _unknown(self, run: Run) -> Outcome:
        """Return the outcome of a delivery whose task is not known here: for others, or expired, or given up."""
        message = run.delivery.message
        if message.expires is not None and message.expires <= self._shared_clock.time():
            logger.info("Task %s[%s] expired", message.task, message.id, extra=giving(states.REVOKED))
            return Revoked(run.delivery, "expired", Policy(message.ignore_result), self.links(message))
        delay = self._unknown_tasks.delay(run.delivery)
        if delay is not None:
            return Returned(run.delivery, delay)
        waited = self._conf.worker_unknown_task_timeout
        detail = f"no task is registered as {message.task!r} here"
        return self._given_up(
            run, "unknown_task", f"{detail}, and in {waited:g} s no worker ran it" if waited else detail
        )

    def revoked(self, run: Run) -> Outcome:
        """Return the outcome of a delivery that was revoked before it could start."""
        message = run.delivery.message
        text = "Task %s[%s] was revoked before it started"
        logger.info(text, message.task, message.id, extra=giving(states.REVOKED))
        return Revoked(run.delivery, "revoked", Policy(message.ignore_result), self.links(message))

    async def _surrounded(self, run: Run, task: Task[..., Any], request: Request, around: Sequence[Middleware]) -> Any:
        """Return what the middleware makes of the task's value, or raise what it makes of its exception.

        Middleware sees a hard time limit as the TimeLimitExceeded that the caller will, and not as a cancellation.
        """
        if not around:
            if "before_start" in task.handlers:
                await call_before_start(task, request)
            return await self._call(run, task, request)

        async def innermost(running: RunningCall) -> Any:
            with task.running(running.request):
                if "before_start" in task.handlers:
                    await call_before_start(task, running.request)
                try:
                    value = await self._call(run, task, running.request)
                except asyncio.CancelledError:
                    if run.cancelled_for is Cancelled.TIME_LIMIT:
                        raise TimeLimitExceeded("hard time limit exceeded") from None
                    raise
            return self._unpacked(value, request)

        return await run_through(around, RunningCall(task, request), innermost)

    async def _call(self, run: Run, task: Task[..., Any], request: Request) -> Any:
        soft, hard = self._limits(run.delivery.message, task)
        if task.declared.transactional and run.transaction is None:
            cast("Any", request).session = await self.transactions.begin(run, task)
        if task.runs_in == "process" and self._pool is not None:
            return await self._call_process(self._pool, task, request, soft, hard)
        if not task.is_coroutine:
            return await self._call_in_thread(run, task, request, soft)
        around = surroundings.installed()
        if task.dependencies is None:
            called = task.called
            call = called if request.mode == "once" else one_by_one(called, request.mode, is_coroutine=True)
            coro = call(*request.args, **request.kwargs)
        else:
            in_thread = functools.partial(self._kept, run)
            coro = run_injected(task, task.dependencies, request, self._core.dependency_overrides, in_thread)
        coro = coro if around is None else around.awaited(coro)
        if soft is None and hard is None:
            return await coro
        timer = None
        if hard is not None:
            run.time_limit = hard
            timer = asyncio.get_running_loop().call_later(hard, run.cancel, Cancelled.TIME_LIMIT)
        try:
            return await (coro if soft is None else SoftLimited(coro, soft))
        finally:
            if timer is not None:
                timer.cancel()

    async def _call_in_thread(self, run: Run, task: Task[..., Any], request: Request, soft: float | None) -> Any:
        needs = task.dependencies
        if needs is None:
            called = task.called
            call = called if request.mode == "once" else one_by_one(called, request.mode, is_coroutine=False)
            value = await self._in_thread(functools.partial(call, *request.args, **request.kwargs), soft)
            return await value if inspect.iscoroutine(value) else value  # a plain function may return an `async def`'s
        overrides = self._core.dependency_overrides
        plan = needs.plan(overrides)
        if not plan.needs_loop:  # an abandoned thread closes them itself, when it ends
            return await self._in_thread(functools.partial(run_injected_now, task, needs, request, overrides), soft)
        async with injected(plan, functools.partial(self._kept, run)) as given:
            call = functools.partial(ready(task, needs, request, given), *request.args, **request.kwargs)
            return await self._kept(run, call, soft)

    def _in_thread(self, call: Callable[[], Any], soft: float | None) -> Coroutine[Any, Any, Any]:
        around = surroundings.installed()
        call = call if around is None else functools.partial(around.call, call)
        return run_in_thread(call, soft, limiter=self._threads, abandons=self._pool is not None)

    async def _kept(self, run: Run, call: Callable[[], Any], soft: float | None = None) -> Any:
        """Call it in a thread and wait for its end, though `run` is cancelled: what it uses is not closed before.

        A worker that stops waits no longer than for others: what is closed then is given to nobody.
        """
        working = start(self._in_thread(call, soft), name="aiotq.thread", context=contextvars.copy_context())
        cancelled: asyncio.CancelledError | None = None
        while not working.done():
            try:
                await asyncio.wait({working})
            except asyncio.CancelledError as exc:
                cancelled = exc
                if run.cancelled_for is Cancelled.STOPPING:
                    working.cancel()
        if cancelled is not None:
            if not working.cancelled():
                working.exception()  # retrieved: the cancellation is what counts
            raise cancelled
        return working.result()

    @staticmethod
    def _unpacked(value: Any, request: Request) -> Any:
        """Return what a task returned, and note what else came with that from a child process."""
        if isinstance(value, Ran):
            request.children.extend(value.children)
            request.added.extend(map(as_canvas, value.added))
            cast("Any", request).events = value.events
            return value.value
        return value

    async def _call_process(
        self, pool: ProcessPool, task: Task[..., Any], request: Request, soft: float | None, hard: float | None
    ) -> Any:
        if task.dependencies is not None:
            task.dependencies.check_overrides(self._core.dependency_overrides)
        tracing = self._core.tracing
        plain = replace(
            request,
            kwargs=dict(request.kwargs),
            headers=dict(request.headers) if tracing is None else tracing.for_child(request.headers),
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
        return await pool.run(call, soft_time_limit=soft, time_limit=hard)

    def links(self, message: Message) -> Links:
        """Return what follows a task that does not run; nothing if that can't be read."""
        try:
            return self.decode(message)[2]
        except MessageError:
            return NO_LINKS

    def arguments(self, message: Message) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Return the arguments of a call as they were sent; raises `MessageError` as a run of it fails."""
        if self._signer is not None:  # nothing in it is believed before
            self._signer.verify(message)
        args, kwargs, _ = self.decode(message)
        return args, kwargs

    def decode(self, message: Message) -> tuple[Sequence[Any], Mapping[str, Any], Links]:
        if len(message.body) > self._conf.task_message_max_size:
            raise MalformedMessage(
                f"body is {len(message.body)} bytes, over task_message_max_size ({self._conf.task_message_max_size})"
            )
        accept = self._accept if self._pool is not None else frozenset({message.content_type})
        if message.compression is None:
            body: Any = self._serializers.decode(message.content_type, message.body, accept)
        else:
            most = self._conf.task_message_max_size
            body = self._serializers.decode(
                message.content_type, message.body, accept, compression=message.compression, max_size=most
            )
        if not _is_list(body) or len(body) != 3:
            raise MalformedMessage("body is not [args, kwargs, embed]")
        args, kwargs, embed = body
        if not _is_list(args) or not isinstance(kwargs, dict):
            raise MalformedMessage("arguments are not a list and an object")
        given = cast("dict[Any, Any]", kwargs)
        if given and not all(isinstance(name, str) for name in given):
            raise MalformedMessage("names of keyword arguments are not all strings")
        return args, given, links_of(embed) if embed else NO_LINKS

    def _limits(self, message: Message, task: Task[..., Any] | None = None) -> tuple[float | None, float | None]:
        """Return the soft and the hard limit of a call: its own, the task's, or the settings'."""
        task = task or self._tasks[message.task]
        soft = message.soft_time_limit or task.declared.soft_time_limit or self._conf.task_soft_time_limit
        hard = message.time_limit or task.declared.time_limit or self._conf.task_time_limit
        if self.time_limits and task.name in self.time_limits:
            soft, hard = self.time_limits[task.name]
        if task.runs_in == "thread" or (self._pool is None and not task.is_coroutine):
            if message.time_limit:
                logger.warning("Task %s[%s] runs in a thread: its time_limit can't be kept", message.task, message.id)
            return soft, None
        return soft, hard

    def _is_expired(self, message: Message, rules: TaskPolicy) -> bool:
        expires = message.expires
        if expires is None and rules.expires is not None and message.sent_at is not None:
            expires = message.sent_at + rules.expires  # it was called by name, by who does not know the task
        return expires is not None and expires <= self._shared_clock.time()

    async def _tell_started(self, request: Request) -> None:
        try:
            await self._core.update_state(request, states.STARTED, {"hostname": self._worker})
        except OperationalError as exc:  # the task matters more than who hears that it began
            logger.warning("Task %s[%s]: the state STARTED could not be stored: %s", request.task, request.id, exc)

    def _given_up(self, run: Run, reason: str, detail: str) -> Outcome:
        """Return the outcome of a delivery that can't be run, whose body was not read yet."""
        if reason not in UNTRUSTED:
            run.links = self.links(run.delivery.message)
        return self._endings.rejected(run, reason, detail)

    def _log_success(self, run: Run, value: object, most: int) -> None:
        if logger.isEnabledFor(logging.INFO):
            message = run.delivery.message
            logger.info(
                "Task %s[%s] succeeded in %.3f s: %s",
                message.shadow or message.task,
                message.id,
                run.seconds,
                MASK if self._conf.encryption_keys else shown(value)[:most],
                extra=giving(states.SUCCESS),
            )


def _is_list(found: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(found, (list, tuple))
