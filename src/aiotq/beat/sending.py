"""Sends occurrences, each together with the change of its entry's row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from ..calling.core import AppCore
from ..calling.middleware import OutgoingCall
from ..calling.publish_signals import tell_after, tell_before
from ..canvas.plan_data import plan_record
from ..commit import LEASE_LOST, Committed, Committer, Finish, LostLease
from ..core.values import replace, value
from ..exceptions import AioTQError, CallError, OperationalError, ScheduleError
from ..results.handle import AsyncResult
from ..results.indexing import bounds_of
from ..results.ledger import ScheduleChange
from ..results.lineage import plan_id
from ..results.records import Record
from ..signals import after_task_publish, before_task_publish
from ..transport.refusals import apart
from ..wire.message import Envelope
from .calls import Sent, sent_for
from .entries import Entry
from .occurrences import Occurrence

#: One entry's part of a step: what is sent for it, and the change of its row.
Asked: TypeAlias = tuple[Entry, Sequence[Occurrence], ScheduleChange]
Answer: TypeAlias = Committed | LostLease | AioTQError


@value(eq=False)
class _Built:
    """An entry's part with its messages, or why there are none."""

    finish: Finish | None
    error: AioTQError | None
    calls: Sequence[tuple[OutgoingCall, Envelope]] = ()


class Sending:
    """Makes occurrences into messages and commits them, in groups.

    `keeps_plans`: the plans of workflows are stored, to be drawn.
    """

    def __init__(self, core: AppCore, committer: Committer, *, keeps_plans: bool) -> None:
        self._core = core
        self._committer = committer
        self._keeps_plans = keeps_plans and not core.conf.task_ignore_result

    async def send(self, group: Sequence[Asked], now: float) -> Sequence[Answer]:
        """Send what each of `group` asks for, and answer for each: an error says that its messages can't be made.

        With middleware that wraps sending, `group` has one.

        Raises:
            OperationalError: broker or ledger did not answer.
        """
        sent: list[Sequence[Sent] | AioTQError] = [self._sent(entry, each, now) for entry, each, _ in group]
        first = sent[0]
        if not self._core.middleware.senders or isinstance(first, AioTQError) or not first:
            return await self._accepted(group, sent)
        answers: list[Answer] = []

        async def innermost(given: Sequence[OutgoingCall]) -> Sequence[AsyncResult[Any]]:
            answers[:] = await self._accepted(group, [_forwarded(first, given)])
            if isinstance(answers[0], AioTQError):
                raise answers[0]
            return [AsyncResult(call.options.get("task_id") or "", self._core, task_name=call.task) for call in given]

        try:
            await self._core.middleware.send([each.call for each in first], innermost)
        except OperationalError:
            raise
        except Exception as exc:  # the user's code
            return [_as_error(exc)]
        return answers or [CallError("middleware kept the call back")]

    async def commit(self, finishes: Sequence[Finish]) -> Sequence[Answer]:
        """Write finishes in one step."""
        return await self._committer.commit(finishes)

    def _sent(self, entry: Entry, occurrences: Sequence[Occurrence], now: float) -> Sequence[Sent] | AioTQError:
        try:
            return [sent_for(self._core, entry, each, now) for each in occurrences]
        except AioTQError as exc:
            return exc

    async def _accepted(self, group: Sequence[Asked], sent: Sequence[Sequence[Sent] | AioTQError]) -> Sequence[Answer]:
        built = [
            _Built(None, of_it) if isinstance(of_it, AioTQError) else await self._built(change, of_it)
            for (_, _, change), of_it in zip(group, sent, strict=True)
        ]
        finishes = [each.finish for each in built if each.finish is not None]
        answers = iter(await apart(finishes, self._committer.commit))
        found: list[Answer] = [each.error or next(answers, LEASE_LOST) for each in built]
        if after_task_publish.receivers:
            for each, answer in zip(built, found, strict=True):
                for call, envelope in each.calls if isinstance(answer, Committed) else ():
                    await tell_after(call, envelope)
        return found

    async def _built(self, change: ScheduleChange, sent: Sequence[Sent]) -> _Built:
        envelopes: list[Envelope] = []
        calls: list[tuple[OutgoingCall, Envelope]] = []
        try:
            for each in sent:
                call, build = each.call, each.build(self._core)
                made = build(call.args, call.kwargs, call.options)
                if before_task_publish.receivers:
                    made = await tell_before(call, made, build)
                calls.append((call, made[0]))
                envelopes += made
        except AioTQError as exc:
            return _Built(None, exc)
        except Exception as exc:  # a router or a name of the user's own
            return _Built(None, _as_error(exc))
        plans = tuple(plan for each in sent if (plan := self._plan(each)) is not None) if self._keeps_plans else ()
        return _Built(Finish(None, envelopes=tuple(envelopes), further=plans, schedule=change), None, calls)

    def _plan(self, sent: Sent) -> Record | None:
        """Return the plan to store, from which a workflow is drawn by an id; None for a call."""
        if sent.workflow is None:
            return None
        core = self._core
        key = plan_id(sent.call.options.get("task_id") or "")
        return plan_record(sent.workflow, key, core.codec, core.now(), core.conf.result_expires, bounds_of(core.conf))


def _forwarded(sent: Sequence[Sent], given: Sequence[OutgoingCall]) -> Sequence[Sent]:
    """Return what is sent when middleware forwards `given`.

    Raises:
        CallError: a workflow is among them, and middleware kept a call back, or added one.
    """
    if all(each.workflow is None for each in sent):
        return [Sent(call) for call in given]
    if len(given) != len(sent):
        raise CallError(f"middleware must forward all {len(sent)} calls that workflows begin with")
    return [replace(each, call=call) for each, call in zip(sent, given, strict=True)]


def _as_error(exc: Exception) -> AioTQError:
    if isinstance(exc, AioTQError):
        return exc
    error = ScheduleError("call", f"{type(exc).__name__}: {exc}", "was raised while it was made")
    error.__cause__ = exc
    return error
