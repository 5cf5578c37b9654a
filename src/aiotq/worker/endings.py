"""From what a task raised, or what stopped it, to an outcome (P5, P8): whatever it is, it is a value from here on."""

from __future__ import annotations

import logging
from typing import Any, Final, Protocol

from .. import states
from ..canvas.coordinator import describe
from ..canvas.links import NO_LINKS, embedded
from ..canvas.outcome import (
    UNTRUSTED,
    Failure,
    Ignored,
    Outcome,
    Park,
    Parked,
    Policy,
    Rejected,
    Replace,
    Replaced,
    Retried,
    Returned,
    Revoked,
)
from ..core.clock import Clock, SharedClock
from ..core.logs import giving
from ..core.settings import Settings
from ..core.tracebacks import formatted, logged, text_of
from ..core.values import replace, sendable, shown
from ..exceptions import (
    AioTQError,
    BadSignature,
    ContentDisallowed,
    DecodeError,
    MessageError,
    Reject,
    Retry,
    Snooze,
    TaskPredicate,
    TimeLimitExceeded,
    Unsigned,
    WorkerLostError,
)
from ..tasks.retries import after_loss, are_all, asked_for, automatic_retry, retried, snoozed
from ..tasks.task import Task
from ..transport import MAX_DETAIL
from ..wire.serializers import SerializerRegistry
from ..wire.signing import Signer, sealed
from .run import Cancelled, Run
from .task_policy import TaskPolicies

logger = logging.getLogger("aiotq.task")

#: Seconds before what a task rejected for others comes again: it would be back here at once.
_REQUEUE_DELAY: Final = 1.0


class EndingsCore(Protocol):
    """Where tasks run, as the outcomes of their runs need it."""

    @property
    def conf(self) -> Settings: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def shared_clock(self) -> SharedClock: ...

    @property
    def serializers(self) -> SerializerRegistry: ...

    @property
    def signer(self) -> Signer | None: ...


class Endings:
    """Makes the outcomes of runs that did not end with a value, and logs them."""

    def __init__(self, core: EndingsCore, policies: TaskPolicies) -> None:
        self._conf = core.conf
        self._clock = core.clock
        self._shared_clock = core.shared_clock
        self._serializers = core.serializers
        self._signer = core.signer
        self._policies = policies

    def raised(self, error: BaseException, run: Run, task: Task[..., Any], policy: Policy) -> Outcome | None:
        """Return the outcome of a run that ended by `error`; None when it is no longer ours to settle."""
        if run.cancelled_for is not None:
            return self.stopped(run, task, policy)
        asked = asked_for(error)
        if asked is not None:
            return self._asked(asked, run, task, policy)
        if isinstance(error, WorkerLostError) and self._policies.of(task).rejects_lost:
            return self._lost_process(error, run, task, policy)
        again = automatic_retry(task, error, run.delivery.message.retries)
        if again is not None:
            return self._retried(again, run, task, policy)
        return self.failed(error, run, task, policy)

    def stopped(self, run: Run, task: Task[..., Any], policy: Policy) -> Outcome | None:
        """Return the outcome of a run that we cancelled, whatever its task made of that."""
        message = run.delivery.message
        name = message.shadow or message.task
        match run.cancelled_for:
            case Cancelled.TIME_LIMIT:
                limit = TimeLimitExceeded(f"hard time limit of {run.time_limit or 0:g} s exceeded")
                again = automatic_retry(task, limit, message.retries)
                return (
                    self.failed(limit, run, task, policy) if again is None else self._retried(again, run, task, policy)
                )
            case Cancelled.REVOKED:
                logger.info("Task %s[%s] was revoked while it ran", name, message.id, extra=giving(states.REVOKED))
                return Revoked(run.delivery, "terminated", policy)
            case Cancelled.STOPPING:
                if run.is_settled:
                    return Failure(run.delivery, WorkerLostError("the worker stopped before the task ended"), policy)
                logger.warning(
                    "Task %s[%s] was interrupted by the stop and is handed back",
                    name,
                    message.id,
                    extra=giving(states.PENDING),
                )
                return Returned(run.delivery)
            case Cancelled.LEASE_LOST | None:
                return None

    def rejected(self, run: Run, reason: str, detail: str) -> Rejected:
        """Return the outcome of what is given up; what follows it is told, if its message can be believed."""
        message, detail = run.delivery.message, sendable(detail, MAX_DETAIL)
        rejected = Rejected(run.delivery, reason, detail, NO_LINKS if reason in UNTRUSTED else run.links)
        text = "Task %s[%s] becomes a dead letter (%s): %s"
        logger.error(text, message.task, message.id, reason, detail, extra=giving(rejected.state))
        return rejected

    def failed(self, error: BaseException, run: Run, task: Task[..., Any], policy: Policy) -> Failure:
        """Return the outcome of a run that fails by `error`, and is not retried."""
        message = run.delivery.message
        name, why, failed = message.shadow or message.task, describe(error), giving(states.FAILURE)
        children = () if run.request is None else tuple(run.request.children)
        if are_all(error, task.declared.throws):
            logger.info("Task %s[%s] raised expected: %s", name, message.id, why, extra=failed)
            return Failure(run.delivery, error, policy, children=children)
        shown_error = logged(error, whole=logger.isEnabledFor(logging.DEBUG))
        if shown_error is None:
            why = formatted(error)
        if isinstance(error, Exception):
            text = "Task %s[%s] failed in %.3f s: %s"
            logger.error(text, name, message.id, run.seconds, why, exc_info=shown_error, extra=failed)
        else:
            text = "Task %s[%s] raised %s after %.3f s"
            logger.error(text, name, message.id, why, run.seconds, exc_info=shown_error, extra=failed)
        return Failure(run.delivery, error, policy, children=children)

    def _asked(self, asked: TaskPredicate, run: Run, task: Task[..., Any], policy: Policy) -> Outcome:
        """Return the outcome that the task itself asked for."""
        delivery = run.delivery
        message = delivery.message
        name = message.shadow or message.task
        match asked:
            case Retry():
                return self._retried(asked, run, task, policy)
            case Snooze():
                logger.info(
                    "Task %s[%s] runs again in %g s", name, message.id, asked.seconds, extra=giving(states.RETRY)
                )
                now = self._clock.time()
                again = snoozed(message, delivery.queue, delivery.priority, asked.seconds, now)
                return Retried(delivery, asked, sealed(self._signer, again), policy)
            case Reject(requeue=True) if not run.is_settled:
                text, why = "Task %s[%s] was rejected and is handed back: %s", text_of(asked.reason)
                logger.info(text, name, message.id, why, extra=giving(states.PENDING))
                return Returned(delivery, _REQUEUE_DELAY)
            case Reject():
                return self.rejected(run, "rejected", text_of(asked.reason))
            case Park():
                logger.debug("Task %s[%s] waits: %s", name, message.id, asked.said, extra=giving(states.PENDING))
                return Parked(delivery, asked, policy)
            case Replace():
                logger.info("Task %s[%s] was replaced by %s", name, message.id, shown(asked.canvas))
                return Replaced(delivery, asked.canvas, policy)
            case _:
                logger.info("Task %s[%s] asked to be ignored", name, message.id, extra=giving(states.IGNORED))
                return Ignored(delivery, policy)

    def _retried(self, again: Retry, run: Run, task: Task[..., Any], policy: Policy) -> Outcome:
        delivery, links, request = run.delivery, run.links, run.request
        message = delivery.message
        assert request is not None, "a task that asks for a retry has run"
        args, kwargs = run.sent_arguments or (request.args, request.kwargs)
        try:
            envelope = retried(
                self._conf,
                self._serializers,
                task,
                message,
                delivery.queue,
                delivery.priority,
                again,
                args=args,
                kwargs=kwargs,
                embed=embedded(replace(links, broken=None, is_given=False)) if links is not NO_LINKS else {},
                now=self._clock.time(),
                ahead=self._shared_clock.ahead,
            )
            envelope = sealed(self._signer, envelope)
        except AioTQError as exc:
            text = "Task %s[%s] can't be retried as asked: %s"
            logger.error(text, message.task, message.id, exc, extra=giving(states.FAILURE))
            return Failure(delivery, exc, policy)
        name = message.shadow or message.task
        logger.info("Task %s[%s]: %s", name, message.id, again, extra=giving(states.RETRY))
        return Retried(delivery, again if again.exc is None else again.exc, envelope, policy)

    def _lost_process(self, exc: WorkerLostError, run: Run, task: Task[..., Any], policy: Policy) -> Outcome:
        """A task's process died, and it may run again: as often as it may be delivered."""
        delivery = run.delivery
        message = delivery.message
        if message.losses + 1 >= self._policies.of(task).max_deliveries:
            return self.rejected(run, "poison", f"its process died {message.losses + 1} times")
        text = "Task %s[%s]: its process died, it runs again"
        logger.warning(text, message.task, message.id, extra=giving(states.RETRY))
        again = after_loss(message, delivery.queue, delivery.priority)
        return Retried(delivery, exc, sealed(self._signer, again), policy)


def reason_of(error: MessageError) -> str:
    """Return the word by which dead letters are told that can't be read because of `error`."""
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
