"""Whether a task that failed is tried again, when, and as which message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from ..calling.envelopes import Callee, check_carried, encode_body, expiry, wall_time
from ..core.schedules import backoff
from ..core.settings import Settings
from ..core.tracebacks import described
from ..core.values import replace
from ..exceptions import Ignore, InvalidOption, Reject, Retry, Snooze, TaskPredicate
from ..results.keys import HEADER as KEY
from ..wire.message import Envelope, Message, Step
from ..wire.serializers import SerializerRegistry
from ..wire.shares import HEADER as SHARE
from .options import RETRY_OPTIONS, CallOptions, RunsIn, TaskOptions, check_options, said

#: What headers say of a call, and each try of it has.
_KEPT: Final = (KEY, SHARE)
#: Which counts of several that parts of one task asked for side by side, the lowest first; a replacement is 2.
_WEIGHTS: Final = ((Reject, 0), (Ignore, 1), (Retry, 3), (Snooze, 4))


def asked_for(error: BaseException) -> TaskPredicate | None:
    """Return what a task asks for by raising `error`: `error` itself, or one of those in a group of exceptions.

    Of several in a group one counts, whatever else is in it: `Reject` before `Ignore`, replacement, `Retry`, `Snooze`;
    of two alike the first.
    """
    if isinstance(error, TaskPredicate):
        return error
    found = [each for each in leaves_of(error) if isinstance(each, TaskPredicate)]
    return min(found, key=_weight, default=None)


def _weight(asked: TaskPredicate) -> int:
    return next((weight for kind, weight in _WEIGHTS if isinstance(asked, kind)), 2)


def leaves_of(error: BaseException) -> Sequence[BaseException]:
    """Return the exceptions in a group, and in groups in it; `error` itself if it is none."""
    found: list[BaseException] = []
    todo = [error]
    while todo:
        each = todo.pop()
        if isinstance(each, BaseExceptionGroup):
            todo += reversed(cast("BaseExceptionGroup[BaseException]", each).exceptions)
        else:
            found.append(each)
    return found


def are_all(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """Whether `error`, or each exception of the group it is, is one of `kinds`."""
    return bool(kinds) and (isinstance(error, kinds) or all(isinstance(each, kinds) for each in leaves_of(error)))


def automatic_retry(task: Callee, error: BaseException, retries: int) -> Retry | None:
    """Return the retry that the declaration of `task` asks for when it fails with `error`; None if it asks for none.

    A group of exceptions is one retry, if each of them asks for one.
    """
    declared = task.declared
    if not declared.autoretry_for or isinstance(error, TaskPredicate):
        return None
    leaves = leaves_of(error)
    if not are_all(error, declared.autoretry_for):
        return None
    if any(isinstance(each, declared.dont_autoretry_for) for each in (error, *leaves)):
        return None
    if len(leaves) == 1:
        (error,) = leaves
    most = declared.retry_kwargs.get("max_retries", declared.max_retries)
    if most is not None and retries >= most:
        return None
    delay = automatic_delay(declared, retries)
    return Retry(f"retry in {delay:g} s: {described(error)}", error, delay=delay)


def automatic_delay(declared: TaskOptions, retries: int) -> float:
    """Return the seconds before an automatic retry; with jitter another number each time."""
    if declared.retry_backoff:
        factor = max(float(declared.retry_backoff), 0.0)
        return backoff(factor, retries, maximum=declared.retry_backoff_max, jitter=declared.retry_jitter)
    return float(declared.retry_kwargs.get("countdown", declared.default_retry_delay))


def retried(
    conf: Settings,
    serializers: SerializerRegistry,
    task: Callee,
    message: Message,
    queue: str,
    priority: int,
    again: Retry,
    *,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    embed: Mapping[str, Any],
    now: float,
    ahead: float,
) -> Envelope:
    """Return the envelope in which `message` runs again as `again` says; it ran with `args`, `kwargs` and `embed`.

    `ahead`: of the shared clock.

    Raises:
        EncodeError, MessageTooLarge, InvalidArguments, InvalidOption: it can't be sent so.
    """
    options = cast(CallOptions, again.options or {})
    _check_asked(task.name, again, options)
    option, when = ("eta", again.eta) if again.delay is None else ("countdown", again.delay)
    due = wall_time(option, when, now, conf)
    body, step = message.body, message.step
    if again.call_args is not None or again.call_kwargs is not None:
        given_args, given_kwargs = _merged(task, args, kwargs, again.call_args, again.call_kwargs)
        task.check(given_args, given_kwargs)
        serializer = serializers.get(message.content_type)
        compression = serializers.compression(message.compression)
        body = encode_body(conf, serializers, serializer, task, given_args, given_kwargs, compression, embed)
        step = None if step is None else replace(step, immutable=True)  # these are all of its arguments
    expires = options.get("expires")
    fresh = replace(
        message,
        body=body,
        step=step,
        eta=due,
        expires=message.expires if expires is None else expiry(expires, now, ahead, conf),
        retries=message.retries + 1,
        attempt=message.attempt + 1,
        soft_time_limit=options.get("soft_time_limit", message.soft_time_limit),
        time_limit=options.get("time_limit", message.time_limit),
        shadow=options.get("shadow", message.shadow),
        headers=_with_key(options.get("headers"), message) if "headers" in options else message.headers,
    )
    asked = options.get("priority")
    return Envelope(fresh, options.get("queue") or queue, priority if asked is None else asked, due)


def _with_key(given: Mapping[str, Any] | None, message: Message) -> Mapping[str, Any] | None:
    """Return the headers that another try is given, with its call's key and share."""
    kept = {} if message.headers is None else {each: message.headers[each] for each in _KEPT if each in message.headers}
    if not kept:
        return given
    return {**(given or {}), **kept}


def _merged(
    task: Callee,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    given_args: Sequence[Any] | None,
    given_kwargs: Mapping[str, Any] | None,
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return the arguments of another try: those given, and of the call's own what they leave as it was.

    What the call gave by name and the retry by its place, or the reverse, is one argument.
    """
    if given_kwargs is None and given_args is not None:
        placed = {task.parameter(index) for index in range(len(given_args))}
        return given_args, {name: value for name, value in kwargs.items() if name not in placed}
    if given_args is None and given_kwargs is not None:
        left = dict(given_kwargs)
        return [left.pop(task.parameter(index), value) for index, value in enumerate(args)], left
    return given_args or (), given_kwargs or {}


def check_retry(name: str, options: Mapping[str, Any], runs_in: RunsIn) -> None:
    """Check the options of `self.retry`, `eta` and `countdown` among them.

    Raises:
        InvalidOption: one is unknown or has an impossible value.
        EncodeError: a header has no form in JSON.
    """
    if unknown := options.keys() - RETRY_OPTIONS - {"eta", "countdown"}:
        raise InvalidOption(f"{name}: unknown option {min(unknown)!r} (there are {', '.join(sorted(RETRY_OPTIONS))})")
    options = said(options)
    check_options(name, cast(CallOptions, options), runs_in=runs_in)
    check_carried(name, options)


def _check_asked(name: str, again: Retry, options: CallOptions) -> None:
    """Check what `self.retry` has checked already, of a `Retry` that may have been made without it."""
    asked = {**options, **({} if again.delay is None else {"countdown": again.delay})}
    if asked:
        check_options(f"{name}.retry", cast(CallOptions, asked))
        check_carried(f"{name}.retry", options)


def snoozed(message: Message, queue: str, priority: int, seconds: float, now: float) -> Envelope:
    """Return the envelope in which `message` runs again in `seconds`, no retry spent."""
    due = now + seconds
    return Envelope(replace(message, eta=due, attempt=message.attempt + 1), queue, priority, due)


def postponed(
    message: Message, step: Step, queue: str, priority: int, ended_at: float, due: float, ahead: float
) -> Envelope:
    """Return the envelope in which a step of a workflow starts when it is `due`; what it awaits ended at `ended_at`.

    `ahead`: of the shared clock.
    """
    fresh = replace(
        message,
        sent_at=ended_at + ahead,
        eta=due,
        expires=message.expires if step.lifetime is None else ended_at + step.lifetime + ahead,
        attempt=message.attempt + 1,
        step=replace(step, wait=None, lifetime=None),
    )
    return Envelope(fresh, queue, priority, due)


def after_loss(message: Message, queue: str, priority: int) -> Envelope:
    """Return the envelope in which `message` runs again, now, because its process died; no retry spent."""
    return Envelope(replace(message, attempt=message.attempt + 1, losses=message.losses + 1), queue, priority)
