"""Everything aiotq raises, in one tree.

AioTQError
├── SettingsError
│   ├── UnknownSetting
│   ├── InvalidSetting
│   ├── MissingLibrary
│   ├── SecurityError
│   └── SettingsFrozen
├── AppNotFound
├── CallError                     the caller asked for something impossible; nothing was sent
│   ├── NotRegistered
│   ├── InvalidOption
│   │   └── QueueNotFound
│   ├── InvalidArguments          also a TypeError
│   ├── EncodeError
│   ├── MessageTooLarge
│   ├── ResultsDisabled
│   └── StoreRequired
├── MessageError                  a message that can't be used; it goes to the dead letters
│   ├── MalformedMessage
│   ├── ContentDisallowed
│   ├── DecodeError
│   ├── Unsigned
│   └── BadSignature
├── OperationalError              the infrastructure failed
│   ├── ConnectionLost
│   │   └── NotConnected
│   ├── PublishFailed
│   ├── PublishTimeout
│   └── StorageError
├── LeaseLost
├── WorkerLifespanError
├── TaskError                     how a run ended, when it did not succeed
│   ├── RemoteError
│   ├── WorkerLostError
│   ├── DeadLettered
│   ├── ChordError
│   ├── JoinLost
│   ├── TaskRevokedError
│   ├── TimeLimitExceeded
│   ├── SoftTimeLimitExceeded
│   │   └── SoftTimeLimitInterrupt    also an asyncio.CancelledError
│   └── MaxRetriesExceededError
├── TaskPredicate                 a task says what is to become of it, by raising one of these
│   ├── Retry
│   ├── Snooze
│   ├── Ignore
│   └── Reject
└── ResultTimeout                 also a TimeoutError
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any


class AioTQError(Exception):
    """Base of every error this package raises."""


class SettingsError(AioTQError):
    """Raised when the configuration can't be used."""


class UnknownSetting(SettingsError):
    """Raised when a setting's name is not in `settings.py`; `.name`, `.suggestion`."""

    def __init__(self, name: str, suggestion: str | None = None) -> None:
        self.name, self.suggestion = name, suggestion
        hint = f": did you mean {suggestion!r}?" if suggestion else ""
        super().__init__(f"unknown setting {name!r}{hint}")


class InvalidSetting(SettingsError):
    """Raised when a setting has a value it can't have; `.name`, `.value`."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        self.name, self.value = name, value
        super().__init__(f"setting {name!r} must be {expected}, not {value!r}")


class MissingLibrary(SettingsError):
    """Raised when a URL or option needs a package that is not installed; the text says which extra brings it."""


class SecurityError(SettingsError):
    """Raised when messages can't be signed as asked for: a key or certificate is missing, or can't be used."""


class SettingsFrozen(SettingsError):
    """Raised when a setting is changed after the app started."""


class AppNotFound(AioTQError):
    """Raised when `proj:app` names no app; the message lists what was looked for."""


class CallError(AioTQError):
    """Raised to a caller who asked for something impossible; nothing was sent."""


class NotRegistered(CallError):
    """Raised when no task has this name; `.name`, `.suggestion`."""

    def __init__(self, name: str, suggestion: str | None = None) -> None:
        self.name, self.suggestion = name, suggestion
        hint = f": did you mean {suggestion!r}?" if suggestion else ""
        super().__init__(f"no task is registered as {name!r}{hint}")


class InvalidOption(CallError):
    """Raised when an option of a call or a task is unknown or has an impossible value."""


class QueueNotFound(InvalidOption):
    """Raised when a queue is not in `task_queues`, and `task_create_missing_queues` is off; `.queue`, `.suggestion`."""

    def __init__(self, whose: str, queue: str, known: Collection[str]) -> None:
        near = difflib.get_close_matches(queue, list(known), n=1)
        self.queue, self.suggestion = queue, near[0] if near else None
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(repr, known))}"
        super().__init__(f"{whose}: queue {queue!r} is not in task_queues: {hint}")


class InvalidArguments(CallError, TypeError):
    """Raised when the arguments of a call don't fit the task's signature."""


class EncodeError(CallError):
    """Raised when a value can't be serialized; the message names where in the value it stands."""


class MessageTooLarge(CallError):
    """Raised when an encoded message or result is over the limit; `.size` and `.limit` in bytes."""

    def __init__(self, what: str, size: int, limit: int, setting: str) -> None:
        self.size, self.limit = size, limit
        super().__init__(
            f"{what} is {size} bytes, over the limit of {limit}: pass a reference to the data instead, "
            f"or raise the setting {setting!r}"
        )


class ResultsDisabled(CallError):
    """Raised when a result is asked for from an app that keeps none (`disabled://`)."""


class StoreRequired(CallError):
    """Raised when a call needs what workers remember together, and its app has no results store that they share."""


class MessageError(AioTQError):
    """A message that can't be used; a worker sends it to the dead letters with this as the reason."""


class MalformedMessage(MessageError):
    """The message does not have the form of a task message."""


class ContentDisallowed(MessageError):
    """The message's content type is not in `accept_content`."""


class DecodeError(MessageError):
    """The bytes are not what their content type says."""


class Unsigned(MessageError):
    """The message has no signature, and this app takes only signed ones."""


class BadSignature(MessageError):
    """The message is not the one that was signed, or was signed by one who may not."""


class OperationalError(AioTQError):
    """Raised when the broker or the results store can't do what was asked; worth trying again later."""


class ConnectionLost(OperationalError):
    """Raised when no answer came: what was asked may or may not have been done."""


class NotConnected(ConnectionLost):
    """Raised when there is no connection, or the server can't serve at the moment: certainly nothing was done."""


class PublishFailed(OperationalError):
    """Raised when a call was tried as often as `retry` and `retry_policy` say; `.task_id`, `.maybe_sent`, `.attempts`.

    `.maybe_sent` is as in `PublishTimeout`.
    """

    def __init__(self, task_id: str, attempts: int, maybe_sent: bool, cause: BaseException) -> None:
        self.task_id, self.attempts, self.maybe_sent = task_id, attempts, maybe_sent
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        fate = "it may have been sent" if maybe_sent else "it was not sent"
        super().__init__(f"task {task_id} could not be published in {times}: {fate} (last error: {cause})")


class PublishTimeout(OperationalError):
    """Raised when the deadline for sending passed; `.task_id`, `.maybe_sent`.

    `.maybe_sent` is False when the broker certainly has nothing: the call may be repeated. When it is True
    repeat the call with the same `task_id`: as long as the first message is in the broker they are one.
    """

    def __init__(self, task_id: str, seconds: float, maybe_sent: bool, cause: BaseException | None = None) -> None:
        self.task_id, self.maybe_sent = task_id, maybe_sent
        fate = "it may have been sent" if maybe_sent else "it was not sent"
        reason = f" (last error: {cause})" if cause else ""
        super().__init__(f"task {task_id} could not be published within {seconds:g} s: {fate}{reason}")


class StorageError(OperationalError):
    """Raised when the SQLite file can't be read or written (locked, full, not ours, on a network drive)."""


class LeaseLost(AioTQError):
    """The right to run this delivery is gone: somebody else has it, and this run can't commit."""


class WorkerLifespanError(AioTQError):
    """Raised when what a worker opens for its tasks failed; `.name`, `.when` ("start" or "end"), its cause."""

    def __init__(self, name: str, when: str, error: BaseException) -> None:
        self.name, self.when = name, when
        super().__init__(f"worker lifespan {name} failed at the worker's {when}: {type(error).__name__}: {error}")


class TaskError(AioTQError):
    """How a run ended when it did not succeed."""


class RemoteError(TaskError):
    """A task's exception whose type is not to be had here; `.type_name`, `.text`, `.traceback`.

    Types are never imported because a message names them: list them in `result_exception_types` or import
    their module before the result is read, and the original type is raised instead.
    """

    def __init__(self, type_name: str, text: str, traceback: str | None = None) -> None:
        self.type_name, self.text, self.traceback = type_name, text, traceback
        super().__init__(f"{type_name}: {text}" if text else type_name)


class MaxRetriesExceededError(TaskError):
    """The task was to be retried once more than it may be, and gave no exception to end with instead."""


class WorkerLostError(TaskError):
    """The process that ran the task ended before the task did."""


class DeadLettered(TaskError):
    """The message was given up and stands among the dead letters; the text says why."""


class ChordError(TaskError):
    """A task in the header of a chord failed, so that its body is not called; the text names the first that did."""


class JoinLost(TaskError):
    """What a step was to be called with is gone: nobody arrived for `join_timeout` seconds, or its store lost it."""


class TaskRevokedError(TaskError):
    """The task was revoked, or expired before it could start."""


class TimeLimitExceeded(TaskError):
    """The task ran longer than its hard time limit and was stopped."""


class SoftTimeLimitExceeded(TaskError):
    """Raised inside a task which ran longer than its soft time limit, so that it can clean up."""


class SoftTimeLimitInterrupt(SoftTimeLimitExceeded, asyncio.CancelledError):
    """The form in which a coroutine gets its soft time limit: a cancellation, so that what it waits for is cleaned up.

    Who awaits the result gets `SoftTimeLimitExceeded` proper, which cancels nobody.
    """


class ResultTimeout(AioTQError, TimeoutError):
    """Raised by `get(timeout=…)` when the result did not come in time; the task goes on."""


class TaskPredicate(AioTQError):
    """How a task says what is to become of it, in place of ending with a value or an error: raise one of these."""


class Retry(TaskPredicate):
    """The task is to run again; made by `self.retry(...)`.

    `exc` is the reason, `delay` in seconds from when it was raised, `eta` a time instead of it. `call_args`,
    `call_kwargs` and `options` stand in place of the call's own; None leaves those.
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
    """Run again `seconds` from now, with no retry spent: the time has not come yet, and that is no failure."""

    def __init__(self, seconds: float) -> None:
        if type(seconds) not in {int, float} or not 0 <= seconds <= 315_360_000:  # ten years
            raise ValueError(f"Snooze needs seconds from 0 to ten years, not {seconds!r}")
        self.seconds = seconds
        super().__init__(seconds)


class Ignore(TaskPredicate):
    """Done, and nothing is stored: neither result nor state. Whoever awaits the result waits on."""


class Reject(TaskPredicate):
    """Nobody should run this: to the dead letters, and it ends as FAILURE.

    With `requeue` somebody else may run it, a second from now; that spends no retry.
    """

    def __init__(self, reason: object = "", requeue: bool = False) -> None:
        self.reason, self.requeue = reason, requeue
        super().__init__(reason, requeue)
