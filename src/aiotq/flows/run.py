"""A run of a flow in a worker: reads the journal, runs the function as far as it comes, and writes what follows.

What it sends and what the journal says are written in one step, which is refused if somebody else wrote meanwhile; then
all begins anew. The run ends where the function waits: each step, sleep and event that it waits for has a message that
wakes it, at a join or in the delayed set, and no worker knows of it until then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Never, cast

from anyio import to_thread

from ..calling.callbacks import call_options
from ..calling.connection import Connection
from ..calling.core import AppCore
from ..calling.envelopes import Part, encode_body
from ..canvas.links import embedded
from ..canvas.outcome import Park
from ..canvas.signature import Signature
from ..core.values import replace
from ..exceptions import CallError, OperationalError, Reject, Retry, Snooze, StoreRequired
from ..results import Record, ScheduleRow
from ..results.record_names import flow_row
from ..tasks.rebuilding import shaped
from ..tasks.request import Request
from ..tasks.retries import asked_for, automatic_retry
from ..tasks.running import current_request
from ..wire.message import Envelope, Message, Step
from ..wire.signing import sealed
from ..worker.run import Cancelled, Run
from .journal import (
    BY_END,
    MAX_SIZE,
    TO_REVOKE,
    Came,
    Journal,
    generation_of,
    unpacked,
    wake_of,
    words,
)
from .replay import Replay
from .writing import change_of, full, joins_of, written

logger = logging.getLogger("aiotq.task")

#: The member that a step is of its join.
_MEMBER: Final = "0"


async def run_flow(
    core: AppCore, function: Callable[..., Coroutine[Any, Any, Any]], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Return what a flow's function comes to.

    Raises:
        Park: it waits; what wakes it is written.
        CallError: no worker runs it here.
        Reject: broker or ledger can't be reached: it goes back to the queue.
        Exception: what the function raised.
    """
    request = current_request()
    if request.id is None or request.called_directly or request.is_eager:
        raise CallError(
            "a flow runs in a worker alone, which it leaves while it waits: send it with delay; in tests run it by a "
            "TestWorker"
        )
    try:
        replay = await FlowRun(core, function, request, cast(Run, request.slot)).go(args, kwargs)
    except OperationalError as exc:
        logger.warning("Task %s[%s]: its journal can't be reached, it comes again: %s", request.task, request.id, exc)
        raise Reject(f"its journal can't be reached: {exc}", requeue=True) from exc
    if replay.error is not None:
        raise replay.error
    return replay.value


class FlowRun:
    """One run of one flow."""

    def __init__(
        self, core: AppCore, function: Callable[..., Coroutine[Any, Any, Any]], request: Request, run: Run
    ) -> None:
        self._core = core
        self._function = function
        self._request = request
        self._run = run
        self._message = run.delivery.message
        self._wake = wake_of(self._message)

    async def go(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Replay:
        """Return the run of the function that came to its end.

        Raises:
            Park: it waits, or this run is not the one that ends it.
            StoreRequired: nothing keeps its journal.
            OperationalError: what keeps it can't be reached.
        """
        connection = await self._core.connection()
        if not connection.ledger.has_joins:
            raise StoreRequired(
                f"{self._message.task}: a flow's journal is kept in a store that all workers share, and there is none: "
                "set result_backend or ledger to a redis://, postgresql:// or sqlite:// URL"
            )
        name = flow_row(self._message.id)
        while True:
            rows = await connection.ledger.keys([name])
            row = rows[0] if rows else None
            journal = self._found(row)
            if journal.is_revoked:
                await self._revoked(connection, journal)
            joined, arrived = await self._arrived(connection, journal)
            if row is not None and not (row.unsent or arrived or self._goes_on(journal)):
                raise Park
            replay = Replay(
                self._function,
                journal,
                arrived,
                decode=self._decoded,
                now=self._core.now(),
                make=self._step,
            )
            await to_thread.run_sync(partial(replay.run, args, kwargs), abandon_on_cancel=True)
            if await self._written(connection, row, journal, replay):
                break
        self._request.children.extend(_steps(replay.journal))
        if not replay.is_over:
            self._park(replay.journal, joined)
        return replay

    def _found(self, row: ScheduleRow | None) -> Journal:
        """Return the journal in `row`, or a new one; raises `Park` if this run is not for it."""
        delivery = self._run.delivery
        new = Journal(self._complete(), delivery.queue, delivery.priority, generation_of(self._message))
        if row is None:
            if self._wake is not None:
                logger.info("Task %s[%s] is woken, and is over", self._message.task, self._message.id)
                raise Park
            return new
        journal = unpacked(row.body)
        generation = new.generation if self._wake is None else self._wake[0]
        if generation != journal.generation:
            if self._wake is not None or journal.ended_by is None:  # of a call that is over; the same call again
                raise Park
            return new
        if journal.ended_by is not None and journal.ended_by != self._message.attempt:
            raise Park
        return journal

    def _complete(self) -> Message:
        """Return the message that wakes the flow: with all arguments, if the one that began it awaits some."""
        message, run = self._message, self._run
        step = message.step
        if step is None or step.awaits is None:
            return message
        conf, serializers = self._core.conf, self._core.serializers
        args, kwargs = run.sent_arguments or (self._request.args, self._request.kwargs)
        serializer = serializers.get(message.content_type)
        compression = serializers.compression(message.compression)
        embed = embedded(replace(run.links, broken=None, is_given=False))
        task: Any = self._request.runner
        body = encode_body(conf, serializers, serializer, task, args, kwargs, compression, embed)
        return replace(message, body=body, step=replace(step, awaits=None, wait=None, lifetime=None, immutable=True))

    def _goes_on(self, journal: Journal) -> bool:
        """Whether there is something to do for this run, if nothing new has come."""
        if not journal.is_begun or journal.ended_by is not None or self._message.retries:
            return True
        return bool(journal.signals) and any(journal.asked[each].kind == "event" for each in journal.pending)

    async def _arrived(self, connection: Connection, journal: Journal) -> tuple[list[str], dict[int, Came]]:
        """Return the joins that are over, and what has come since the journal was written, by numbers."""
        now, woken = self._core.now(), None
        if self._wake is not None and self._wake[2] == BY_END:
            woken = self._wake[1]
        arrived: dict[int, Came] = {}
        steps: list[int] = []
        for number in journal.pending:
            due = journal.asked[number].due
            if due is None:
                steps.append(number)
            elif due <= now or number == woken:  # another clock than ours may say that it is due
                arrived[number] = Came(number, "due")
        over: list[str] = []
        found = await connection.ledger.joined([journal.join_id(number) for number in steps]) if steps else ()
        for number, joined in zip(steps, found, strict=True):
            if joined is not None:
                (record,) = joined.members.values()
                arrived[number] = Came(number, "ended", 0, record.state, record.content_type, record.body)
                over.append(journal.join_id(number))
        return over, arrived

    async def _revoked(self, connection: Connection, journal: Journal) -> None:
        """End as revoked, and the steps under way too; raises `Park` if another message is to do so."""
        if self._wake is None or self._wake[2] != TO_REVOKE:
            raise Park
        steps = [journal.step_id(each) for each in journal.pending if journal.asked[each].kind == "step"]
        expires = self._core.now() + max(self._core.conf.result_expires, self._core.conf.join_timeout)
        if steps:
            await connection.ledger.revoke(steps, terminate=False, expires=expires)
        self._run.cancel(Cancelled.REVOKED)
        await asyncio.sleep(0)

    async def _written(self, connection: Connection, row: ScheduleRow | None, before: Journal, replay: Replay) -> bool:
        """Write what came of the run, in one step with what it sends; False: somebody else wrote meanwhile."""
        journal = replay.journal
        if replay.is_over and not self._comes_again(replay):
            journal = replay.journal = replace(journal, ended_by=self._message.attempt)
            if row is None and not journal.asked:  # it asked for nothing: a task like any other
                return True
        unsent = () if row is None else row.unsent
        if journal == before and not unsent:
            return True
        now, conf = self._core.now(), self._core.conf
        lasts = journal.lasts(now) if journal.ended_by is None else max(conf.result_expires, conf.join_timeout)
        seen = "" if row is None else row.mark
        change = change_of(journal, seen, lasts)
        if len(change.body) > MAX_SIZE:
            replay.is_over, replay.value = True, None
            replay.error = full(journal, len(change.body))
            replay.journal = journal = replace(before, is_begun=True, ended_by=self._message.attempt)
            change = change_of(journal, seen, lasts)
        first = len(before.asked)
        envelopes = [*unsent, *self._sent(journal, replay.steps, first)]
        until = max((each.due or 0.0 for each in envelopes), default=0.0)
        joins = joins_of(self._core, journal, 0 if unsent else first, until) if journal.ended_by is None else ()
        return await written(connection, change, envelopes, joins)

    def _comes_again(self, replay: Replay) -> bool:
        """Whether the function raised what its declaration retries, or what asks for another run."""
        error = replay.error
        if error is None:
            return False
        asked, task = asked_for(error), self._request.runner
        if asked is not None:
            return isinstance(asked, (Retry, Snooze)) or (isinstance(asked, Reject) and asked.requeue)
        return automatic_retry(task, error, self._message.retries) is not None

    def _sent(self, journal: Journal, steps: Mapping[int, Sequence[Envelope]], first: int) -> Iterator[Envelope]:
        """Yield what is sent for what was asked for from number `first` on: steps, and what wakes the flow when due."""
        for number in journal.pending if journal.ended_by is None else ():
            if number >= first and journal.asked[number].kind == "step":
                yield from steps[number]
            elif number >= first:
                yield sealed(self._core.signer, journal.wake(number, BY_END, journal.asked[number].due))

    def _step(self, journal: Journal, number: int, call: Signature[Any]) -> Sequence[Envelope]:
        """Return the messages of the call of a step."""
        core, message = self._core, self._message
        step = Step(join=journal.join_id(number), members=(_MEMBER,))
        part = Part(message.id, message.root_id or message.id, step, {})
        options = {**call_options(call.options), "task_id": journal.step_id(number)}
        task = core.tasks.get(call.task)
        if task is not None:  # steps of workflows are not checked, as others give them arguments
            task.check(call.args, call.kwargs)
        called = call.task if task is None else task
        return core.builder.envelopes(called, call.args, call.kwargs, options, reply_to=None, part=part)

    def _decoded(self, came: Came) -> Any:
        """Return the value or the error of a step, or the value of a signal."""
        codec = self._core.codec
        if came.how == "signal":
            return codec.decode_chunk(came.content_type, came.body)
        document = codec.decode(Record("", came.state, came.body, came.content_type, 0.0))
        return shaped(self._core.tasks, document.name, document.result)

    def _park(self, journal: Journal, released: Sequence[str] = ()) -> Never:
        """Raise `Park`: this run ends, and the flow waits."""
        said = {"waits_for": list(words(journal)), "asked": len(journal.asked)}
        raise Park(said, max(journal.until, self._core.now()), tuple(released), tuple(_steps(journal)))


def _steps(journal: Journal) -> Iterator[str]:
    """Yield the ids of the calls of a flow's steps."""
    for number, asked in enumerate(journal.asked):
        if asked.kind == "step":
            yield journal.step_id(number)
