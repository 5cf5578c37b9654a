"""Turns an outcome into a finish (P3): this is the only place that does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from .. import states
from ..commit import Finish
from ..core.clock import Clock
from ..core.logs import giving
from ..core.tracebacks import described, text_of
from ..core.values import replace
from ..exceptions import AioTQError, CallError, DeadLettered, EncodeError, JoinLost, Refused
from ..results import NO_JOIN_CHANGES, Arrival, JoinChanges, JoinExtension, Record
from ..results.document import Called, DocumentCodec, format_traceback
from ..results.indexing import Indexing
from ..results.lineage import Lineage
from ..tasks.request import running_request
from ..transport import ACK, Delivery, GiveUp, HandBack, Settlement
from ..wire.message import Envelope, Message
from .continuation import Continuation, NeverRan, lineage_of_message
from .keys import ended as key_ended
from .keys import with_key
from .links import NO_LINKS, Links
from .outcome import (
    UNTRUSTED,
    WAITING,
    Failure,
    Ignored,
    Outcome,
    Parked,
    Policy,
    Postponed,
    Rejected,
    Replaced,
    Retried,
    Returned,
    Revoked,
    Skipped,
    Success,
)
from .plan_data import plan_record
from .planner import Planner

logger = logging.getLogger("aiotq.task")


class Coordinator:
    """Says what a finished task does to the world. Decides only: has no connection and awaits nothing."""

    def __init__(
        self,
        codec: DocumentCodec,
        clock: Clock,
        planner: Planner,
        *,
        worker: str,
        result_expires: float,
        keeps_results: bool,
        indexing: Indexing | None = None,
    ) -> None:
        self._codec = codec
        self._clock = clock
        self._planner = planner
        self._worker = worker
        self._result_expires = result_expires
        self._keeps_results = keeps_results
        self._indexing = indexing
        self._listed = indexing.states if indexing is not None else frozenset[str]()

    def follow(self, outcome: Outcome) -> Finish:
        """Return all that follows from `outcome`."""
        if outcome.delivery.message.headers is not None:
            return with_key(self._follow(outcome), outcome, self._clock.time())
        return self._succeeded(outcome) if type(outcome) is Success else self._follow(outcome)

    def _follow(self, outcome: Outcome) -> Finish:
        match outcome:
            case Success():
                return self._succeeded(outcome)
            case Retried(delivery, error, again, policy):
                record = self._record(delivery, states.RETRY, error, policy, format_traceback(error))
                return Finish(delivery, ACK, record, (again,), _later(again))
            case Ignored(delivery, policy, links):
                return self._ended(delivery, states.IGNORED, outcome.error, policy, links, calls_errbacks=False)
            case Failure(delivery, error, policy, links, children):
                return self._failed(delivery, error, policy, links, children)
            case Skipped():
                return self._prevented(outcome)
            case Postponed(delivery, again):
                return Finish(delivery, ACK, None, (again,), _later(again))
            case Replaced():
                return self._replaced(outcome)
            case Revoked(delivery, _, policy, links):
                return self._ended(delivery, states.REVOKED, outcome.error, policy, links)
            case Rejected():
                return self._rejected(outcome)
            case Parked():
                return self._parked(outcome)
            case Returned(delivery, delay):
                return Finish(delivery, HandBack(delay))

    def as_kept(self, outcome: Outcome, finish: Finish) -> Outcome:
        """Return `outcome` as its `finish` has it: a success whose value can't be kept is a failure."""
        if isinstance(outcome, Success) and finish.record is not None and finish.record.state == states.FAILURE:
            error = self._codec.decode(finish.record).result
            return Failure(outcome.delivery, error, outcome.policy, outcome.links)
        return outcome

    def broke(self, delivery: Delivery, error: Exception) -> Finish:
        """Return what follows when this library itself failed with `error` on a delivery: an end, and no second try.

        What fails here once would fail again wherever it comes, for ever.
        """
        detail = f"a defect in aiotq: {type(error).__name__}"
        with suppress(Exception):  # it may be how records are made that is broken
            ended = DeadLettered(f"defect: {detail}")
            policy = Policy(delivery.message.ignore_result)
            settlement = GiveUp("defect", detail)
            finish = self._ended(delivery, states.FAILURE, ended, policy, NO_LINKS, settlement=settlement)
            return key_ended(finish, delivery.message)
        return key_ended(Finish(delivery, GiveUp("defect", detail), None), delivery.message)

    def instead(self, finish: Finish, delivery: Delivery, why: str, links: Links) -> Iterator[Finish]:
        """Return what is written in place of a `finish` of `delivery` that is refused for good, one after the other."""
        for each in self._instead(finish, delivery, why, links):
            yield key_ended(each, delivery.message)

    def _instead(self, finish: Finish, delivery: Delivery, why: str, links: Links) -> Iterator[Finish]:
        """Return what is written in place of a `finish` of `delivery` that is refused for good.

        Each is for the case that the one before is refused as well: the task's failure with all that follows from it,
        a dead letter with the failure alone, a dead letter with nothing. What is handed back has no outcome.
        """
        if isinstance(finish.settlement, HandBack):
            return
        error = Refused(f"what came of the task was refused: {why}")
        policy = Policy(delivery.message.ignore_result)
        given_up = GiveUp("refused", why)
        with suppress(Exception):  # what its message says may be the reason
            own = finish.settlement if isinstance(finish.settlement, GiveUp) else ACK
            yield self._ended(delivery, states.FAILURE, error, policy, links, settlement=own)
        with suppress(Exception):
            yield self._ended(delivery, states.FAILURE, error, policy, NO_LINKS, settlement=given_up)
        yield Finish(delivery, given_up)

    def overdue(self, join_id: str) -> Finish:
        """Return the finish that fails a join which waited for too long."""
        now = self._clock.time()
        error = JoinLost(f"no task of {join_id} ended for join_timeout seconds")
        body = self._codec.encode(join_id, states.FAILURE, error, done_at=now, worker=self._worker)
        record = Record(join_id, states.FAILURE, body, self._codec.content_type, now + self._result_expires)
        return Finish(None, joining=JoinChanges(arrivals=(Arrival(join_id, "overdue", record, failed=True),)))

    def _prevented(self, outcome: Skipped) -> Finish:
        delivery, links = outcome.delivery, outcome.links
        return self._ended(
            delivery,
            outcome.state,
            outcome.error,
            outcome.policy,
            links,
            calls_errbacks=False,
            scope=links.scope,
            cause=outcome.cause,
        )

    def _replaced(self, outcome: Replaced) -> Finish:
        delivery = outcome.delivery
        following = Continuation(self._planner, delivery.message, self._codec)
        try:
            following.replace(outcome.canvas, outcome.links)
        except AioTQError as exc:
            return self._failed(delivery, exc, outcome.policy, outcome.links)
        plans = self._plans(following)
        return Finish(delivery, ACK, None, tuple(following.envelopes), following.joining(None, 0.0), plans)

    def _parked(self, outcome: Parked) -> Finish:
        """Return the finish of a run of a flow that waits: what wakes it is sent already."""
        delivery, asked = outcome.delivery, outcome.asked
        step = delivery.message.step
        record = None
        if asked.said is not None:
            record = self._record(delivery, WAITING, asked.said, outcome.policy, children=asked.children)
            if record is not None:
                record = replace(record, expires=max(record.expires, asked.until + self._result_expires))
        released = (*asked.released, *(() if step is None or step.awaits is None else (step.awaits,)))
        extended = () if step is None or step.join is None else (JoinExtension(step.join, asked.until),)
        return Finish(delivery, ACK, record, joining=JoinChanges(extended=extended, released=released))

    def _rejected(self, outcome: Rejected) -> Finish:
        delivery, settlement = outcome.delivery, GiveUp(outcome.reason, outcome.detail)
        error = outcome.error
        policy = Policy(delivery.message.ignore_result)
        if outcome.reason in UNTRUSTED:
            return Finish(delivery, settlement, self._record(delivery, states.FAILURE, error, policy))
        return self._ended(delivery, states.FAILURE, error, policy, outcome.links, settlement=settlement)

    def _succeeded(self, outcome: Success) -> Finish:
        delivery, message, links = outcome.delivery, outcome.delivery.message, outcome.links
        try:
            if isinstance(outcome.value, BaseException):
                raise EncodeError("the result is an exception, which is no value: raise it, or return plain data")
            if links is NO_LINKS and message.step is None:
                record = self._record(
                    delivery, states.SUCCESS, outcome.value, outcome.policy, children=outcome.children
                )
                return Finish(delivery, ACK, record)
            return self._ended(
                delivery,
                states.SUCCESS,
                outcome.value,
                outcome.policy,
                links,
                children=outcome.children,
                added=outcome.added,
            )
        except CallError as exc:  # what it returned, or what it added to its chord
            text = "Task %s[%s] returned a value that can't be stored: %s"
            logger.error(text, message.task, message.id, exc, extra=giving(states.FAILURE))
            return self._failed(delivery, exc, outcome.policy, links)

    def _failed(
        self, delivery: Delivery, error: BaseException, policy: Policy, links: Links, children: Sequence[str] = ()
    ) -> Finish:
        trace = format_traceback(error)
        return self._ended(delivery, states.FAILURE, error, policy, links, trace=trace, children=children)

    def _ended(
        self,
        delivery: Delivery,
        state: str,
        result: Any,
        policy: Policy,
        links: Links,
        *,
        trace: str | None = None,
        children: Sequence[str] = (),
        added: Sequence[Any] = (),
        settlement: Settlement = ACK,
        calls_errbacks: bool = True,
        scope: int = 0,
        cause: Record | None = None,
    ) -> Finish:
        """Return the finish of a task that has ended."""
        message = delivery.message
        step = message.step
        is_kept = self._is_kept(policy, state)
        if links is NO_LINKS and step is None:
            record = self._made(delivery, state, result, trace, children) if is_kept else None
            return Finish(delivery, settlement, record)
        following = Continuation(self._planner, message, self._codec)
        if state == states.SUCCESS:
            following.succeed(result, links)
            following.add(added)
        else:
            if calls_errbacks:
                following.call_errbacks(result, links, trace)
            # What comes after an ignored task did not ask to be ignored.
            prevented = states.FAILURE if state == states.IGNORED else state
            following.fail(result, prevented, links, scope, cause)
        record = None
        if is_kept or following.needs_record:
            sent = [*children, *following.children]
            record = self._made(delivery, state, result, trace, sent, following.lineage())
        further = [self._further(message, ended) for ended in following.prevented] if self._keeps_results else []
        return Finish(
            delivery,
            settlement,
            record if is_kept else None,
            tuple(following.envelopes),
            following.joining(None if is_kept else record, self._clock.time() + self._result_expires),
            (*further, *self._plans(following)),
        )

    def _plans(self, following: Continuation) -> tuple[Record, ...]:
        """Return the records that keep the plans of workflows which begin with this finish."""
        if not (self._keeps_results and following.begun):
            return ()
        now = self._clock.time()
        plans = (plan_record(whole, key, self._codec, now, self._result_expires) for key, whole in following.begun)
        return tuple(plan for plan in plans if plan is not None)

    def _record(
        self,
        delivery: Delivery,
        state: str,
        result: object,
        policy: Policy,
        trace: str | None = None,
        *,
        children: Sequence[str] = (),
    ) -> Record | None:
        return self._made(delivery, state, result, trace, children) if self._is_kept(policy, state) else None

    def _is_kept(self, policy: Policy, state: str) -> bool:
        return self._keeps_results and (not policy.ignore_result or (policy.keeps_errors and state == states.FAILURE))

    def _made(
        self,
        delivery: Delivery,
        state: str,
        result: object,
        trace: str | None,
        children: Sequence[str],
        lineage: Lineage | None = None,
    ) -> Record:
        message = delivery.message
        now = self._clock.time()
        body = self._codec.encode(
            message.id,
            state,
            result,
            done_at=now,
            trace=trace,
            parent_id=message.parent_id,
            worker=self._worker,
            children=children,
            name=message.task,
            lineage=lineage_of_message(message) if lineage is None else lineage,
            called=_called(delivery) if self._codec.is_extended else None,
        )
        entry = None
        if state in self._listed and self._indexing is not None:
            entry = self._indexing.entry(message, delivery.queue, state, result, now)
        expires = now + self._result_expires
        return Record(message.id, state, body, self._codec.content_type, expires, message.reply_to, entry=entry)

    def _further(self, message: Message, ended: NeverRan) -> Record:
        """Return the record of a task that never runs, because of one before it."""
        now = self._clock.time()
        body = self._codec.encode(
            ended.id,
            ended.state,
            ended.error,
            done_at=now,
            parent_id=message.id,
            worker=self._worker,
            name=ended.task or None,
            lineage=Lineage(message.root_id or message.id),
        )
        return Record(
            ended.id, ended.state, body, self._codec.content_type, now + self._result_expires, message.reply_to
        )


def _called(delivery: Delivery) -> Called:
    """Return how the task of `delivery` was called; without its arguments, if it did not run here."""
    request = running_request.get()
    message = delivery.message
    if (request.id, request.attempt) == (message.id, message.runs_before):
        return Called(request.args, request.kwargs, message.retries, delivery.queue, message.stamps)
    return Called(retries=message.retries, queue=delivery.queue, stamps=message.stamps)


def _later(again: Envelope) -> JoinChanges:
    """Return what is said to the join of a task that comes again when it is due."""
    step = again.message.step
    if step is None or step.join is None or again.due is None:
        return NO_JOIN_CHANGES
    return JoinChanges(extended=(JoinExtension(step.join, again.due),))


def describe(error: BaseException) -> str:
    """Return `error` as one line of a log: our own errors by their text, others with their type."""
    return text_of(error) if isinstance(error, AioTQError) else described(error)
