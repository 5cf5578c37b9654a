"""Sends occurrences, each together with the change of its entry's row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias, cast

from ..calling.core import AppCore
from ..calling.middleware import OutgoingCall
from ..calling.publish_signals import tell_after, tell_before
from ..commit import LEASE_LOST, Committed, Committer, Finish, LostLease
from ..core.values import value
from ..exceptions import AioTQError, CallError, OperationalError, ScheduleError
from ..results.handle import AsyncResult
from ..results.ledger import ScheduleChange
from ..signals import after_task_publish, before_task_publish
from ..tasks.options import CallOptions
from ..tasks.request import PERIODIC_DUE, PERIODIC_NAME
from ..transport.refusals import apart
from ..wire.message import Envelope
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
    """Makes occurrences into messages and commits them, in groups."""

    def __init__(self, core: AppCore, committer: Committer) -> None:
        self._core = core
        self._committer = committer

    async def send(self, group: Sequence[Asked], now: float) -> Sequence[Answer]:
        """Send what each of `group` asks for, and answer for each: an error says that its messages can't be made.

        With middleware that wraps sending, `group` has one.

        Raises:
            OperationalError: broker or ledger did not answer.
        """
        calls = [[_call(entry, each, now) for each in occurrences] for entry, occurrences, _ in group]
        if not self._core.middleware.senders or not any(calls):
            return await self._accepted(group, calls)
        answers: list[Answer] = []

        async def innermost(given: Sequence[OutgoingCall]) -> Sequence[AsyncResult[Any]]:
            answers[:] = await self._accepted(group, [given])
            if isinstance(answers[0], AioTQError):
                raise answers[0]
            return [AsyncResult(call.options.get("task_id") or "", self._core, task_name=call.task) for call in given]

        try:
            await self._core.middleware.send(calls[0], innermost)
        except OperationalError:
            raise
        except Exception as exc:  # the user's code
            return [_as_error(exc)]
        return answers or [CallError("middleware kept the call back")]

    async def commit(self, finishes: Sequence[Finish]) -> Sequence[Answer]:
        """Write finishes in one step."""
        return await self._committer.commit(finishes)

    async def _accepted(self, group: Sequence[Asked], calls: Sequence[Sequence[OutgoingCall]]) -> Sequence[Answer]:
        built = [await self._built(change, of_it) for (_, _, change), of_it in zip(group, calls, strict=True)]
        finishes = [each.finish for each in built if each.finish is not None]
        answers = iter(await apart(finishes, self._committer.commit))
        found: list[Answer] = [each.error or next(answers, LEASE_LOST) for each in built]
        if after_task_publish.receivers:
            for each, answer in zip(built, found, strict=True):
                for call, envelope in each.calls if isinstance(answer, Committed) else ():
                    await tell_after(call, envelope)
        return found

    async def _built(self, change: ScheduleChange, calls: Sequence[OutgoingCall]) -> _Built:
        envelopes: list[Envelope] = []
        sent: list[tuple[OutgoingCall, Envelope]] = []
        try:
            for call in calls:
                task = self._core.find_task(call.task)
                build = partial(self._core.builder.envelopes, task, reply_to=None)
                made = build(call.args, call.kwargs, call.options)
                if before_task_publish.receivers:
                    made = await tell_before(call, made, build)
                sent.append((call, made[0]))
                envelopes += made
        except AioTQError as exc:
            return _Built(None, exc)
        except Exception as exc:  # a router or a name of the user's own
            return _Built(None, _as_error(exc))
        return _Built(Finish(None, envelopes=tuple(envelopes), schedule=change), None, sent)


def _call(entry: Entry, occurrence: Occurrence, now: float) -> OutgoingCall:
    """Return the call that an occurrence is."""
    options: dict[str, Any] = dict(entry.options)
    start = occurrence.start
    if later := options.pop("countdown", None):
        start += timedelta(seconds=later)
    if start.timestamp() > now:
        options["eta"] = start
    if occurrence.expires is not None:
        options["expires"] = occurrence.expires
    options["task_id"] = occurrence.id
    options["headers"] = {**(options.get("headers") or {}), **headers_of(entry.name, occurrence)}
    return OutgoingCall(entry.task, entry.args, entry.kwargs, cast(CallOptions, options))


def headers_of(name: str, occurrence: Occurrence) -> Mapping[str, str]:
    """Return the headers by which a task knows its entry."""
    return {PERIODIC_NAME: name, PERIODIC_DUE: occurrence.due.isoformat()}


def _as_error(exc: Exception) -> AioTQError:
    if isinstance(exc, AioTQError):
        return exc
    error = ScheduleError("call", f"{type(exc).__name__}: {exc}", "was raised while it was made")
    error.__cause__ = exc
    return error
