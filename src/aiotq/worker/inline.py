"""Calls and workflows that run where they are made (`apply`, `task_always_eager`): a worker's own execution and
coordinator, with joins and records in memory, and a list of what is to run next in place of a broker."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import ChainMap, deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from .. import states
from ..backends.memory.state import MemoryState
from ..calling.callbacks import check_callbacks
from ..calling.core import AppCore
from ..canvas.coordinator import Coordinator
from ..canvas.handles import AnyResult, nested
from ..canvas.outcome import Failure, Outcome, Policy, Postponed, Rejected, Retried, Returned
from ..canvas.planner import NOTHING, Planner, Position
from ..canvas.signature import LINKS, Canvas, Signature
from ..canvas.structure import first_calls, frozen, signatures_of
from ..commit import Finish
from ..core.clock import SharedClock
from ..core.logs import giving
from ..core.tracebacks import arguments_of
from ..core.values import replace
from ..exceptions import InvalidOption, NotRegistered, Snooze
from ..results import JoinChanges, Joined, Record
from ..results.eager_result import EagerResult
from ..tasks.calls import CallHere
from ..tasks.options import ONLY_SENT, CallOptions, check_options
from ..tasks.rebuilding import shaped
from ..tasks.request import Request, running_request
from ..tasks.task import Task
from ..transport import Delivery
from ..wire.message import Envelope
from .delivery_info import DeliveryInfo
from .execution import Execution
from .observers import Observers
from .run import Run, Slots
from .run_handlers import Handlers
from .task_signals import TaskSignals

logger = logging.getLogger("aiotq.task")

_KEEPS_ALL: Final = Policy()
_WITHOUT_POLICY: Final = (Postponed, Rejected, Returned)


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
    is_stored = core.conf.task_store_eager_result
    return await _run_one(core, called, args, kwargs, cast(CallOptions, kept), None, is_stored=is_stored)


async def apply_call(core: AppCore, call: CallHere) -> EagerResult[Any]:
    """Run a call with options that were checked; what `Task.apply` does.

    Raises:
        InvalidOption: it has callbacks, and was retried.
        Exception: what the task raised, if that is to be thrown.
    """
    if LINKS.isdisjoint(call.options):
        return await _run_one(core, *call[:5], retries=call.retries)
    if call.retries:
        raise InvalidOption(f"{call.task.name}.apply: give retries or callbacks (link, link_error), not both")
    whole: Signature[Any] = Signature(call.task.name, tuple(call.args), call.kwargs, call.options, sender=core)
    return cast("EagerResult[Any]", await apply_workflow(core, whole, throw=call.throw))


async def _run_one(
    core: AppCore,
    task: Task[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: CallOptions,
    throw: bool | None,
    *,
    retries: int = 0,
    is_stored: bool = False,
) -> EagerResult[Any]:
    envelope = core.builder.envelope(task, args, kwargs, options, reply_to=None)
    message = envelope.message
    if retries:
        message = replace(message, retries=retries, attempt=retries)
    inline = _Inline(core, {task.name: task})
    await inline.run(Finish(None, envelopes=(replace(envelope, message=message),)))
    if is_stored:
        await inline.store()
    result = inline.result(message.id, None)
    await _throw(core, result, throw)
    return result


async def apply_workflow(
    core: AppCore, canvas: Canvas[Any], *, throw: bool | None, root_id: str | None = None
) -> AnyResult:
    """Run `canvas` to its end, callbacks and all, and return its result, which has ended.

    Raises:
        CallError: it can't be run so, or a task in it is not registered here; nothing was run.
        Exception: what it ends with, if it is to be thrown.
    """
    whole = frozen(canvas)
    for call in signatures_of(whole):
        core.find_task(call.task)
    inline = _Inline(core, {})
    await inline.run(_planned(core, whole, root_id))
    if core.conf.task_store_eager_result:
        await inline.store()
    result = nested(whole, core, lambda call, parent: inline.result(str(call.id), parent))
    await _throw(core, result, throw)
    return result


async def _throw(core: AppCore, result: AnyResult, throw: bool | None) -> None:
    if core.conf.task_eager_propagates if throw is None else throw:
        await result


def _planned(core: AppCore, whole: Canvas[Any], root_id: str | None) -> Finish:
    """Return what starts `whole`."""
    builder = core.builder.without_copies()
    planner = Planner(builder)
    planner.check(whole)
    check_callbacks(whole, builder.task)
    parent = running_request.get()
    root_id = root_id or parent.root_id or parent.id or next((first.id for first in first_calls(whole)), None)
    plan = planner.plan(whole, NOTHING, Position(parent_id=parent.id, root_id=root_id))
    return Finish(None, envelopes=plan.envelopes, joining=JoinChanges(opened=plan.joins))


class _Inline:
    """The broker, the ledger and the worker of one call or workflow; its tasks run in the caller's own task."""

    signer = None  #: nobody else can have written what runs here

    def __init__(self, core: AppCore, own: Mapping[str, Task[..., Any]]) -> None:
        self.conf = core.conf
        self.codec = core.codec
        self.middleware = core.middleware
        self.dependency_overrides = core.dependency_overrides
        self.tracing = core.tracing
        self.serializers = core.serializers
        self.clock = _StandingClock(core.clock.time())
        self.shared_clock = SharedClock(self.clock)
        self.shared_clock.ahead = core.shared_clock.ahead
        self.tasks: Mapping[str, Task[..., Any]] = ChainMap(cast("Any", own), cast("Any", core.tasks))
        self._core = core
        self._records = MemoryState(clock=self.clock)
        self._observers = Observers(TaskSignals(core.app, core.origin, self.tasks, DeliveryInfo(core.conf)), Handlers())
        self._execution = Execution(
            self, worker=core.origin, pool=None, observers=self._observers, acknowledge=_acknowledge
        )
        self._coordinator = Coordinator(
            core.codec,
            core.clock,
            Planner(core.builder.without_copies()),
            worker=core.origin,
            result_expires=math.inf,
            keeps_results=True,
        )
        self._waiting: deque[Envelope] = deque()
        self._kept: list[Record] = []
        self._errors: dict[str, BaseException] = {}  #: as they were raised

    async def run(self, start: Finish) -> None:
        """Run what `start` sends, and all that follows."""
        self._write(start)
        while self._waiting:
            await self._run(_undated(self._waiting.popleft()))

    async def joined(self, join_id: str) -> Joined | None:
        """Return what became of a join."""
        with self._records.lock:
            return self._records.joined(join_id)

    async def update_state(self, request: Request, state: str, meta: Any) -> None:
        """Nobody can see that a call has started which ends before its caller goes on."""

    async def store(self) -> None:
        """Store the outcomes of the calls, so that they are found by their ids."""
        connection = await self._core.connection()
        if connection.keeps_results:
            expires = self._core.clock.time() + self._core.conf.result_expires
            # What ran here is new, also under an id that was used before.
            await connection.records.forget([record.id for record in self._kept])
            await connection.records.put([replace(record, expires=expires) for record in self._kept])

    def result(self, task_id: str, parent: AnyResult | None) -> EagerResult[Any]:
        """Return the result of one call."""
        with self._records.lock:
            record = self._records.get(task_id)
        assert record is not None, "all that runs here leaves a record"
        document = self.codec.decode(record)
        value = self._errors.get(task_id, shaped(self._core.tasks, document.name, document.result))
        return EagerResult(task_id, value, record.state, document.traceback, readers=self._core, parent=parent)

    async def _run(self, envelope: Envelope) -> None:
        """Run one call in the caller's task, of which nothing else is changed."""
        run = Run(Delivery(envelope.message, envelope.queue, envelope.priority, 0, 0.0), "loop", Slots(1), _freed)
        run.task = task = cast("asyncio.Task[None]", asyncio.current_task())
        run.is_started = run.is_settled = True  # nobody else can have it
        around = running_request.set(running_request.get())
        try:
            outcome = _ended_here(await self._outcome(run))
            if run.transaction is not None:
                ended = await self._execution.transactions.end(run, outcome)
                assert ended is not None, "there is no lease here that could be lost"
                outcome = _ended_here(ended)
            finish = self._coordinator.follow(outcome)
            if self._observers.of(run.called):
                told = self._coordinator.as_kept(outcome, finish)
                hooks = self._observers.tell_end(run, lambda each: each.ended(run, told, finish))
                if hooks is not None:
                    await hooks
        finally:
            running_request.reset(around)
            for _ in range(run.cancellations):  # its time limit's, and not its caller's
                task.uncancel()
            run.end()
        self._note(outcome, finish)
        self._write(finish)

    async def _outcome(self, run: Run) -> Outcome:
        """Return the outcome of a run.

        Raises:
            BaseException: Ctrl-C, `SystemExit`, a cancellation of the caller: no task keeps those to itself.
        """
        message = run.delivery.message
        try:
            self._core.find_task(message.task)
        except NotRegistered as exc:
            logger.error("Task %s[%s] can't run here: %s", message.task, message.id, exc, extra=giving(states.FAILURE))
            return Failure(run.delivery, exc, _KEEPS_ALL)
        outcome = await self._execution.run(run)
        assert outcome is not None, "there is no lease here that could be lost"
        if isinstance(outcome, Failure) and not isinstance(outcome.error, Exception):
            raise outcome.error
        return outcome

    def _write(self, finish: Finish) -> None:
        with self._records.lock:
            self._waiting += self._records.write(finish.record, finish.envelopes, finish.joining, finish.further)

    def _note(self, outcome: Outcome, finish: Finish) -> None:
        """Keep what a result tells beyond its record."""
        message = outcome.delivery.message
        records = [record for record in (finish.record, *finish.further) if record is not None]
        if not message.ignore_result:
            self._kept += records
        if isinstance(outcome, Failure):
            error = outcome.error
            alike = [record.id for record in records if _alike(self.codec.decode(record).result, error)]
            self._errors.update(dict.fromkeys([message.id, *alike], error))


async def _acknowledge(run: Run) -> bool:
    return True


def _freed(kind: object) -> None:
    """Nothing waits for the slot."""


def _ended_here(outcome: Outcome) -> Outcome:
    """Return `outcome` as it counts here: all is kept, and what is to run when its time has come can't."""
    if isinstance(outcome, Retried) and isinstance(outcome.error, Snooze):
        return Failure(outcome.delivery, outcome.error, _KEEPS_ALL)
    return outcome if isinstance(outcome, _WITHOUT_POLICY) else replace(outcome, policy=_KEEPS_ALL)


class _StandingClock:
    """A clock by which nothing ends."""

    def __init__(self, now: float) -> None:
        self._now = now

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Return at once."""


def _undated(envelope: Envelope) -> Envelope:
    """Return `envelope` as what starts now."""
    message = envelope.message
    if message.step is None or (message.step.wait is None and message.step.lifetime is None):
        return envelope
    return replace(envelope, message=replace(message, step=replace(message.step, wait=None, lifetime=None)))


def _alike(one: object, other: BaseException) -> bool:
    return type(one) is type(other) and arguments_of(one) == arguments_of(other)
