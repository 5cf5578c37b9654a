"""Everything aiotq raises, in one tree.

AioTQError
├── SettingsError
│   ├── UnknownSetting
│   ├── InvalidSetting
│   ├── MissingLibrary
│   ├── SecurityError
│   └── SettingsFrozen
├── AppNotFound
├── ScheduleError                 also a ValueError
├── CallError                     the call is impossible; no message was sent
│   ├── NoCurrentTask             also an AttributeError
│   ├── NotRegistered
│   ├── DuplicateCall
│   ├── InvalidOption
│   │   └── QueueNotFound
│   ├── InvalidArguments          also a TypeError
│   ├── EncodeError
│   ├── MessageTooLarge
│   ├── PayloadTooLarge
│   ├── ResultsDisabled
│   └── StoreRequired
├── MessageError                  a message can't be used; it becomes a dead letter
│   ├── MalformedMessage
│   ├── ContentDisallowed
│   ├── DecodeError
│   ├── Unsigned
│   └── BadSignature
├── OperationalError              the broker or the results store failed
│   ├── Refused                   for good: trying again changes nothing
│   ├── ConnectionLost
│   │   └── NotConnected
│   ├── PublishFailed
│   ├── PublishTimeout
│   └── StorageError
│       └── StorageGone           this process can't go on with it
├── LeaseLost
├── WorkerLifespanError
├── TaskError                     how an unsuccessful run ended
│   ├── RemoteError
│   ├── WorkerLostError
│   ├── DeadLettered
│   ├── ChordError
│   ├── JoinLost
│   ├── TaskRevokedError
│   ├── TaskIgnored
│   ├── TimeLimitExceeded
│   ├── SoftTimeLimitExceeded
│   │   └── SoftTimeLimitInterrupt    also an asyncio.CancelledError
│   └── MaxRetriesExceededError
├── TaskPredicate                 a task raises one of these to be retried, ignored or rejected
│   ├── Retry
│   ├── Snooze
│   ├── Ignore
│   └── Reject
├── BatchErrors                   also an ExceptionGroup; a batch raises it
├── StreamError                   who reads a stream can go on
│   ├── StreamRestarted
│   └── StreamGap
├── FlowError                     a flow can't go on, or can't be told something
│   ├── FlowChanged
│   ├── JournalFull
│   ├── FlowNotFound
│   ├── FlowEnded
│   └── EventTimeout              also a TimeoutError
└── ResultTimeout                 also a TimeoutError
"""

from __future__ import annotations

import asyncio
import difflib
import reprlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Self


class AioTQError(Exception):
    """Base of every error this package raises."""


class SettingsError(AioTQError):
    """Raised when the configuration can't be used."""


class UnknownSetting(SettingsError):
    """Raised when a setting's name is not in `settings.py`; `.name`, `.suggestion`, `.advice`."""

    def __init__(self, name: str, suggestion: str | None = None, advice: str | None = None) -> None:
        self.name, self.suggestion, self.advice = name, suggestion, advice
        if advice is not None:
            super().__init__(f"Celery's setting {name!r} can't be so here: {advice}")
        else:
            hint = f": did you mean {suggestion!r}?" if suggestion else ""
            super().__init__(f"unknown setting {name!r}{hint}")


class InvalidSetting(SettingsError):
    """Raised when a setting has an impossible value; `.name`, `.value`."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        self.name, self.value = name, value
        super().__init__(f"setting {name!r} must be {expected}, not {value!r}")


class MissingLibrary(SettingsError):
    """Raised when a URL or option needs a package that is not installed; the text names the extra to install."""


class SecurityError(SettingsError):
    """Raised when messages can't be signed: a key or certificate is missing or can't be used."""


class SettingsFrozen(SettingsError):
    """Raised when a setting is changed after the app started."""


class AppNotFound(AioTQError):
    """Raised when `proj:app` names no app; the message lists the names that were tried."""


class ScheduleError(AioTQError, ValueError):
    """Raised when a schedule, or a policy of a periodic task, has an invalid field; `.field`, `.value`, `.problem`."""

    def __init__(self, field: str, value: object, problem: str) -> None:
        self.field, self.value, self.problem = field, value, problem
        super().__init__(f"{field}={_SHORT.repr(value)} {problem}")


_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


class CallError(AioTQError):
    """Raised when a call is impossible; no message was sent."""


class NotRegistered(CallError):
    """Raised when no task has this name; `.name`, `.suggestion`."""

    def __init__(self, name: str, suggestion: str | None = None) -> None:
        self.name, self.suggestion = name, suggestion
        hint = f": did you mean {suggestion!r}?" if suggestion else ""
        super().__init__(f"no task is registered as {name!r}{hint}")


class NoCurrentTask(CallError, AttributeError):
    """Raised by `current_task.x` where no task runs; an AttributeError too, for code that only looks (`hasattr`)."""


class InvalidOption(CallError):
    """Raised when an option of a call or a task is unknown or has an impossible value."""


class DuplicateCall(CallError):
    """Raised when another call has the key of a call, which says `on_conflict="reject"`; `.task`, `.task_id`: its."""

    def __init__(self, task: str, task_id: str) -> None:
        self.task, self.task_id = task, task_id
        super().__init__(f"{task}: another call with its key is under way ({task_id}), and this one was not sent")

    def __reduce__(self) -> tuple[Any, ...]:
        return DuplicateCall, (self.task, self.task_id)


class QueueNotFound(InvalidOption):
    """Raised when a queue is not in `task_queues` and `task_create_missing_queues` is off; `.queue`, `.suggestion`."""

    def __init__(self, whose: str, queue: str, known: Collection[str]) -> None:
        near = difflib.get_close_matches(queue, list(known), n=1)
        self.queue, self.suggestion = queue, near[0] if near else None
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(repr, known))}"
        super().__init__(f"{whose}: queue {queue!r} is not in task_queues: {hint}")


class InvalidArguments(CallError, TypeError):
    """Raised when the arguments of a call don't fit the task's signature."""


class EncodeError(CallError):
    """Raised when a value can't be serialized; the text names the place inside the value."""


class MessageTooLarge(CallError):
    """Raised when an encoded message or result is larger than its limit; `.size` and `.limit` in bytes."""

    def __init__(self, what: str, size: int, limit: int, setting: str) -> None:
        self.size, self.limit = size, limit
        super().__init__(
            f"{what} {'are' if what.startswith('the arguments') else 'is'} {size} bytes, over the limit of {limit}: "
            f"pass a reference to the data instead, or raise the setting {setting!r}"
        )


class PayloadTooLarge(CallError):
    """Raised when a message between processes is larger than they may be; `.size` and `.limit` in bytes."""

    def __init__(self, topic: str, size: int, limit: int) -> None:
        super().__init__(
            f"a message on the bus has {size} bytes, at most {limit} can be told (topic {topic}): "
            "store what is large, and tell others where"
        )
        self.topic, self.size, self.limit = topic, size, limit


class ResultsDisabled(CallError):
    """Raised when a result is read from an app that stores no results (`disabled://`)."""


class StoreRequired(CallError):
    """Raised when a call needs a results store that all workers share, and its app has none."""


class MessageError(AioTQError):
    """A message can't be used; a worker makes it a dead letter with this error as the reason."""


class MalformedMessage(MessageError):
    """The message does not have the form of a task message."""


class ContentDisallowed(MessageError):
    """The message's content type is not in `accept_content`."""


class DecodeError(MessageError):
    """The body can't be decoded as its content type."""


class Unsigned(MessageError):
    """The message has no signature, and this app accepts only signed messages."""


class BadSignature(MessageError):
    """The message was changed after it was signed, or the key or certificate that signed it is not trusted."""


class OperationalError(AioTQError):
    """Raised when the broker or the results store can't serve a request.

    Trying again later may succeed, unless it is `Refused`.
    """


class Refused(OperationalError):
    """Raised when the broker or the store will never take what it was given; `.reason`, `.keys`.

    `.reason` is one word: "too_large", "unencodable", "queue" (its name or type), "full", "forbidden", "limit" (of
    the server) or "refused". `.keys` has id and attempt of each refused message, if they are known: then all
    others that were sent together are in the broker. If it is empty, nothing was sent.
    """

    def __init__(self, text: str, reason: str = "refused", keys: Collection[tuple[str, int]] = ()) -> None:
        self.reason, self.keys = reason, frozenset(keys)
        super().__init__(text)


class ConnectionLost(OperationalError):
    """Raised when no reply arrived: the request may or may not have been carried out."""


class NotConnected(ConnectionLost):
    """Raised when there is no connection, or the server can't serve now: the request was certainly not carried out."""


class PublishFailed(OperationalError):
    """Raised when sending failed as often as `retry` and `retry_policy` allow; `.task_id`, `.maybe_sent`, `.attempts`.

    `.maybe_sent` means the same as in `PublishTimeout`.
    """

    def __init__(self, task_id: str, attempts: int, maybe_sent: bool, cause: BaseException) -> None:
        self.task_id, self.attempts, self.maybe_sent = task_id, attempts, maybe_sent
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        fate = "it may have been sent" if maybe_sent else "it was not sent"
        super().__init__(f"task {task_id} could not be published in {times}: {fate} (last error: {cause})")


class PublishTimeout(OperationalError):
    """Raised when the broker did not accept a call before its deadline; `.task_id`, `.maybe_sent`.

    `.maybe_sent` False: the broker certainly does not have the message, so the call may be repeated. True: repeat
    the call with the same `task_id`, from the same process. Both are one call, which runs once if its result is kept.
    """

    def __init__(self, task_id: str, seconds: float, maybe_sent: bool, cause: BaseException | None = None) -> None:
        self.task_id, self.maybe_sent = task_id, maybe_sent
        fate = "it may have been sent" if maybe_sent else "it was not sent"
        reason = f" (last error: {cause})" if cause else ""
        super().__init__(f"task {task_id} could not be published within {seconds:g} s: {fate}{reason}")


class StorageError(OperationalError):
    """Raised when the SQLite file can't be read or written (locked, disk full, not aiotq's, on a network drive)."""


class StorageGone(StorageError):
    """Raised when the SQLite file was removed or replaced while it was in use: another process can open it anew."""


class LeaseLost(AioTQError):
    """The lease of this delivery is lost: another worker may have it, and this run can't commit."""


class WorkerLifespanError(AioTQError):
    """Raised when a worker lifespan failed; `.name`, `.when` ("start" or "end"), and the error as its cause."""

    def __init__(self, name: str, when: str, error: BaseException) -> None:
        self.name, self.when = name, when
        super().__init__(f"worker lifespan {name} failed at the worker's {when}: {type(error).__name__}: {error}")


class TaskError(AioTQError):
    """A run did not succeed."""


class RemoteError(TaskError):
    """Stands in for a task's exception whose class is not loaded in this process; `.type_name`, `.text`, `.traceback`.

    A class is never imported because a message names it. To get the original class, list it in
    `result_exception_types`, or import its module before the result is read.
    """

    def __init__(self, type_name: str, text: str, traceback: str | None = None) -> None:
        self.type_name, self.text, self.traceback = type_name, text, traceback
        super().__init__(f"{type_name}: {text}" if text else type_name)


class MaxRetriesExceededError(TaskError):
    """The task asked for another retry after its last one, and named no exception to end with."""


class WorkerLostError(TaskError):
    """The process that ran the task ended before the task did."""


class DeadLettered(TaskError):
    """The message became a dead letter; the text says why."""


class ChordError(TaskError):
    """A task in the header of a chord failed, so its body is not called; the text names the first task that failed."""


class JoinLost(TaskError):
    """The values for a step are lost: no member ended for `join_timeout` seconds, or the store lost them."""


class TaskRevokedError(TaskError):
    """The task was revoked, or expired before it could start."""


class TaskIgnored(TaskError):
    """Raised for who awaits a task that ended by `Ignore`: there is no result, and none will come."""


class TimeLimitExceeded(TaskError):
    """The task ran longer than its hard time limit and was stopped."""


class SoftTimeLimitExceeded(TaskError):
    """Raised inside a task that ran longer than its soft time limit, so that it can clean up."""


class SoftTimeLimitInterrupt(SoftTimeLimitExceeded, asyncio.CancelledError):
    """The soft time limit as raised inside a coroutine: also a cancellation, so that child tasks are cleaned up.

    A caller that awaits the result gets a plain `SoftTimeLimitExceeded`, which cancels nothing.
    """


class FlowError(AioTQError):
    """Raised in a flow that awaits what is none of its steps, sleeps and events, so that it can't be put aside."""


class FlowChanged(FlowError):
    """Raised when the code of a flow under way was changed, and asks for other things than its journal says."""


class JournalFull(FlowError):
    """Raised when the journal of a flow is larger than a mebibyte."""


class FlowNotFound(FlowError):
    """Raised when no flow of an id is known: none was called, or it has ended and its result has expired."""


class FlowEnded(FlowError):
    """Raised when a flow that has ended is told something."""


class EventTimeout(FlowError, TimeoutError):
    """Raised by `ctx.event` when no signal came in time."""


class ResultTimeout(AioTQError, TimeoutError):
    """Raised by `get(timeout=…)` when the task did not end in time; the task goes on."""


class BatchErrors(AioTQError, ExceptionGroup[Exception]):
    """Raised by a batch in which some calls failed: `BatchErrors("2 failed", {0: error, 7: error})`; `.errors`.

    The errors are by the places of the calls in the list that the batch was given. The others have succeeded (None).
    """

    errors: Mapping[int, Exception]

    def __new__(cls, message: str, errors: Mapping[int, Exception]) -> Self:
        self = super().__new__(cls, message, list(errors.values()))
        self.errors = dict(errors)
        return self

    def __init__(self, message: str, errors: Mapping[int, Exception]) -> None:
        super().__init__(message, list(errors.values()))

    def derive(self, excs: Sequence[Any]) -> ExceptionGroup[Any]:
        """Return a plain group, as `split` and `except*` need it."""
        return ExceptionGroup(self.message, excs)


class StreamError(AioTQError):
    """Raised for who reads a stream that is not what it was; reading on is possible."""


class StreamRestarted(StreamError):
    """The task began again, and its stream with it: what came so far is void. What comes next is the first chunk."""


class StreamGap(StreamError):
    """Chunks are not kept any more that come next here. What comes next is the oldest that is kept.

    `.missed` says how many; None: that is not known.
    """

    def __init__(self, missed: int | None = None) -> None:
        self.missed = missed
        super().__init__(
            f"{'some' if missed is None else missed} chunks are not kept any more: read faster, keep more "
            "(Stream(kept=…, expires=…)), or let the task wait for its readers (Stream(ahead=…))"
        )


class TaskPredicate(AioTQError):
    """Raised by a task to be retried, ignored or rejected, instead of ending with a value or an error."""


class Retry(TaskPredicate):
    """Run the task again; made by `self.retry(...)`.

    `exc` is the reason. `delay` is in seconds from the moment it is raised; `eta` is a time instead. `call_args`,
    `call_kwargs` and `options` replace those of the call; None keeps them.
    """

    def __init__(
        self,
        reason: str = "",
        exc: BaseException | None = None,
        *,
        delay: float | None = None,
        eta: datetime | None = None,
        call_args: Sequence[Any] | None = None,
        call_kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.exc, self.delay, self.eta = exc, delay, eta
        self.call_args, self.call_kwargs, self.options = call_args, call_kwargs, options
        super().__init__(reason)


class Snooze(TaskPredicate):
    """Run the task again `seconds` from now, without using a retry."""

    def __init__(self, seconds: float) -> None:
        if type(seconds) not in {int, float} or not 0 <= seconds <= 315_360_000:  # ten years
            raise ValueError(f"Snooze needs seconds from 0 to ten years, not {seconds!r}")
        self.seconds = seconds
        super().__init__(seconds)


class Ignore(TaskPredicate):
    """End the task as IGNORED: without a value, and without an error of its own.

    A caller that awaits the result gets a `TaskIgnored`.
    """


class Reject(TaskPredicate):
    """Make the message a dead letter, and end the task as FAILURE.

    With `requeue` the message goes back to its queue instead: any worker may run it a second from now, without using
    a retry.
    """

    def __init__(self, reason: object = "", requeue: bool = False) -> None:
        self.reason, self.requeue = reason, requeue
        super().__init__(reason, requeue)
