"""What follows from an outcome: the one place that turns it into a finish (P3)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress

from .. import states
from ..clock import Clock
from ..commit import Finish
from ..exceptions import AioTQError, DeadLettered, EncodeError, MessageTooLarge, TaskRevokedError
from ..results import Record
from ..results.document import DocumentCodec, format_traceback
from ..transport import ACK, Delivery, GiveUp, HandBack
from .outcome import Failure, Ignored, Outcome, Policy, Rejected, Retried, Returned, Revoked, Success

logger = logging.getLogger("aiotq.task")


class Coordinator:
    """Says what a finished task does to the world. Decides only: has no connection and awaits nothing."""

    def __init__(
        self, codec: DocumentCodec, clock: Clock, *, worker: str, result_expires: float, keeps_results: bool
    ) -> None:
        self._codec = codec
        self._clock = clock
        self._worker = worker
        self._result_expires = result_expires
        self._keeps_results = keeps_results

    def follow(self, outcome: Outcome) -> Finish:
        """Return all that follows from `outcome`."""
        match outcome:
            case Success(delivery, value, policy, children):
                return self._succeeded(delivery, value, policy, children)
            case Retried(delivery, error, again, policy):
                record = self._record(delivery, states.RETRY, error, policy, format_traceback(error))
                return Finish(delivery, ACK, record, (again,))
            case Ignored(delivery):
                return Finish(delivery, ACK)
            case Failure(delivery, error, policy):
                return Finish(delivery, ACK, self._failed(delivery, error, policy))
            case Revoked(delivery, reason, policy):
                error = TaskRevokedError(reason)
                return Finish(delivery, ACK, self._record(delivery, states.REVOKED, error, policy))
            case Rejected(delivery, reason, detail):
                error = DeadLettered(f"{reason}: {detail}")
                record = self._record(delivery, states.FAILURE, error, Policy(delivery.message.ignore_result))
                return Finish(delivery, GiveUp(reason, detail), record)
            case Returned(delivery, delay):
                return Finish(delivery, HandBack(delay))

    def broke(self, delivery: Delivery, error: Exception) -> Finish:
        """Return what follows when this library itself failed with `error` on a delivery: an end, and no second try.

        What fails here once would fail again wherever it comes, for ever.
        """
        detail = f"a defect in aiotq: {type(error).__name__}"
        record = None
        with suppress(Exception):  # it may be how records are made that is broken
            policy = Policy(delivery.message.ignore_result)
            record = self._record(delivery, states.FAILURE, DeadLettered(f"defect: {detail}"), policy)
        return Finish(delivery, GiveUp("defect", detail), record)

    def _succeeded(self, delivery: Delivery, value: object, policy: Policy, children: Sequence[str]) -> Finish:
        try:
            return Finish(delivery, ACK, self._record(delivery, states.SUCCESS, value, policy, children=children))
        except (EncodeError, MessageTooLarge) as exc:
            message = delivery.message
            logger.error("Task %s[%s] returned what can't be kept: %s", message.task, message.id, exc)
            return Finish(delivery, ACK, self._failed(delivery, exc, policy))

    def _failed(self, delivery: Delivery, error: BaseException, policy: Policy) -> Record | None:
        trace = format_traceback(error)
        return self._record(delivery, states.FAILURE, error, policy, trace)

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
        if not self._keeps_results:
            return None
        if policy.ignore_result and not (policy.keeps_errors and state == states.FAILURE):
            return None
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
        )
        return Record(message.id, state, body, self._codec.content_type, now + self._result_expires, message.reply_to)


def describe(error: BaseException) -> str:
    """Return `error` as one line of a log: our own errors by their text, others with their type."""
    try:
        text = str(error)
    except Exception:  # the type's own __str__
        text = "<its text can't be had>"
    return text if isinstance(error, AioTQError) else f"{type(error).__name__}: {text}"
