"""Workflows that run where they are made (`apply`, `task_always_eager`): the worker's own rules, in memory.

What follows a task is decided by the coordinator, and counted by the joins, that workers have; only broker and time
are left out. What is to start later starts at once, and one call runs after the other.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .. import states
from ..backends.memory.state import MemoryState
from ..calling.callbacks import check_callbacks
from ..calling.core import AppCore
from ..calling.envelopes import Callee, EnvelopeBuilder, Part
from ..canvas.coordinator import Coordinator, describe
from ..canvas.handles import AnyResult, nested
from ..canvas.links import NO_LINKS, Links, links_of
from ..canvas.outcome import Failure, Ignored, Outcome, Policy, Rejected, Replace, Replaced, Success
from ..canvas.planner import NOTHING, Planner, Position
from ..canvas.signature import Canvas, Signature
from ..canvas.structure import first_calls, frozen, signatures_of
from ..commit import Finish
from ..core.clock import Clock
from ..core.values import replace, shown
from ..exceptions import Ignore, MessageError, NotRegistered, Reject
from ..results import JoinChanges, Joined, Record
from ..results.document import format_traceback
from ..results.handle import EagerResult
from ..tasks.request import running_request
from ..transport import Delivery
from ..wire.message import Envelope, Message
from .step_inputs import Steps

logger = logging.getLogger("aiotq.task")

_KEEPS_ALL: Final = Policy()


class _Single(EnvelopeBuilder):
    """Makes one message of each call, as `builder` does: here it goes nowhere, and runs once."""

    def __init__(self, builder: EnvelopeBuilder) -> None:
        vars(self).update(vars(builder))

    def envelopes(
        self,
        task: Callee | str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        *,
        reply_to: str | None,
        part: Part | None = None,
    ) -> Sequence[Envelope]:
        return super().envelopes(task, args, kwargs, options, reply_to=reply_to, part=part)[:1]


async def apply_workflow(core: AppCore, canvas: Canvas[Any], *, throw: bool | None, root_id: str | None) -> AnyResult:
    """Run `canvas` to its end, callbacks and all, and return its result, which has ended.

    Raises:
        CallError: it can't be run so, or a task in it is not registered here; nothing was run.
        Exception: what it ends with, if it is to be thrown.
    """
    whole = frozen(canvas)
    for call in signatures_of(whole):
        core.find_task(call.task)
    here = _Here(core, {call.id for call in signatures_of(whole)})
    await here.run(_planned(core, whole, root_id))
    if core.conf.task_store_eager_result:
        await here.store()
    result = nested(whole, core, here.result)
    if core.conf.task_eager_propagates if throw is None else throw:
        await result
    return result


def _planned(core: AppCore, whole: Canvas[Any], root_id: str | None) -> Finish:
    """Return what starts `whole`."""
    builder = _Single(core.builder)
    planner = Planner(builder)
    planner.check(whole)
    check_callbacks(whole, builder.task)
    parent = running_request.get()
    root_id = root_id or parent.root_id or parent.id or next((first.id for first in first_calls(whole)), None)
    plan = planner.plan(whole, NOTHING, Position(parent_id=parent.id, root_id=root_id))
    return Finish(None, envelopes=plan.envelopes, joining=JoinChanges(opened=plan.joins))


class _Here:
    """The broker, the store and the worker of one workflow."""

    def __init__(self, core: AppCore, ids: set[str | None]) -> None:
        self.codec = core.codec
        self.clock: Clock = core.clock
        self.signer = core.signer
        self._core = core
        self._ids = ids  #: of what is no callback
        self._records = MemoryState(clock=_StandingClock(core.clock.time()))
        self._coordinator = Coordinator(
            core.codec,
            core.clock,
            Planner(_Single(core.builder)),
            worker=core.origin,
            result_expires=math.inf,
            keeps_results=True,
        )
        self._steps = Steps(self)
        self._waiting: deque[Envelope] = deque()
        self._kept: list[Record] = []
        self._errors: dict[str, BaseException] = {}  #: as they were raised

    async def run(self, start: Finish) -> None:
        """Run what `start` sends, and all that follows."""
        self._write(start)
        while self._waiting:
            envelope = self._waiting.popleft()
            outcome = await self._outcome(_undated(envelope))
            finish = self._coordinator.follow(outcome)
            self._note(outcome, finish)
            self._write(finish)

    async def joined(self, join_id: str) -> Joined | None:
        """Return what became of a join."""
        with self._records.lock:
            return self._records.joined(join_id)

    async def store(self) -> None:
        """Store what the calls came to, for whoever looks for them by their ids."""
        connection = await self._core.connection()
        if connection.keeps_results:
            expires = self.clock.time() + self._core.conf.result_expires
            await connection.records.put([replace(record, expires=expires) for record in self._kept])

    def result(self, call: Signature[Any], parent: AnyResult | None) -> EagerResult[Any]:
        """Return the result of one call."""
        task_id = str(call.id)
        with self._records.lock:
            record = self._records.get(task_id)
        if record is None:  # it wants to be ignored
            error = self._errors[task_id]
            trace = format_traceback(error)
            return EagerResult(task_id, error, states.FAILURE, trace, readers=self._core, parent=parent)
        document = self.codec.decode(record)
        value = self._errors.get(task_id, document.result)
        return EagerResult(task_id, value, record.state, document.traceback, readers=self._core, parent=parent)

    def _write(self, finish: Finish) -> None:
        with self._records.lock:
            self._waiting += self._records.write(finish.record, finish.envelopes, finish.joining, finish.further)

    def _note(self, outcome: Outcome, finish: Finish) -> None:
        """Keep what a result tells beyond its record."""
        message = outcome.delivery.message
        records = [record for record in (finish.record, *finish.further) if record is not None]
        if not message.ignore_result:
            self._kept += records
        match outcome:
            case Ignored():
                self._errors.setdefault(message.id, Ignore())
            case Failure(error=error):
                alike = [record.id for record in records if _alike(self.codec.decode(record).result, error)]
                self._errors.update(dict.fromkeys([message.id, *alike], error))
                if message.id not in self._ids:
                    logger.error("Task %s[%s] failed: %s", message.task, message.id, describe(error), exc_info=error)
            case _:
                pass

    async def _outcome(self, envelope: Envelope) -> Outcome:
        message = envelope.message
        delivery = Delivery(message, envelope.queue, envelope.priority, 0, 0.0)
        links = NO_LINKS
        try:
            task = self._core.find_task(message.task)
            args, kwargs, links = self._decode(message)
            if links is not NO_LINKS or message.step is not None:
                args, links, ended = await self._steps.called_with(delivery, args, kwargs, links, _KEEPS_ALL)
                if ended is not None:
                    return ended
        except (MessageError, NotRegistered) as exc:
            return Failure(delivery, exc, _KEEPS_ALL, links)
        try:
            value, request = await task.run_here(message, args, kwargs, mode=links.mode)
        except Replace as exc:
            logger.info("Task %s[%s] was replaced by %s", message.task, message.id, shown(exc.canvas))
            return Replaced(delivery, exc.canvas, _KEEPS_ALL, links)
        except Ignore as exc:
            self._errors[message.id] = exc
            return Ignored(delivery, links)
        except Reject as exc:
            return Rejected(delivery, "rejected", str(exc.reason), links)
        except Exception as exc:
            return Failure(delivery, exc, _KEEPS_ALL, links)
        return Success(delivery, value, _KEEPS_ALL, tuple(request.children), links, tuple(request.added))

    def _decode(self, message: Message) -> tuple[Sequence[Any], Mapping[str, Any], Links]:
        args, kwargs, embed = self._core.serializers.decode(
            message.content_type,
            message.body,
            frozenset({message.content_type}),
            compression=message.compression,
            max_size=self._core.conf.task_message_max_size,
        )
        return args, kwargs, links_of(embed)


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
    return type(one) is type(other) and getattr(one, "args", None) == other.args
