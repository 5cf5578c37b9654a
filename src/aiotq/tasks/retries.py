"""Whether a task that failed is tried again, when, and as which message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ..calling.envelopes import Callee, encode_body, wall_time
from ..core.schedules import backoff
from ..core.settings import Settings
from ..core.values import replace
from ..exceptions import Retry, TaskPredicate
from ..wire.message import Envelope, Message, Step
from ..wire.serializers import SerializerRegistry
from .options import CallOptions, TaskOptions


def automatic_retry(task: Callee, error: BaseException, retries: int) -> Retry | None:
    """Return the retry that the declaration of `task` asks for when it fails with `error`; None if it asks for none."""
    declared = task.declared
    if not declared.autoretry_for or isinstance(error, TaskPredicate):
        return None
    if not isinstance(error, declared.autoretry_for) or isinstance(error, declared.dont_autoretry_for):
        return None
    most = declared.retry_kwargs.get("max_retries", declared.max_retries)
    if most is not None and retries >= most:
        return None
    delay = automatic_delay(declared, retries)
    return Retry(f"retry in {delay:g} s: {type(error).__name__}: {error}", error, delay=delay)


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
) -> Envelope:
    """Return the envelope in which `message` runs again as `again` says; it ran with `args`, `kwargs` and `embed`.

    Raises:
        EncodeError, MessageTooLarge, InvalidArguments, InvalidOption: it can't be sent so.
    """
    options = cast(CallOptions, again.options or {})
    due = now + again.delay if again.delay is not None else wall_time("eta", again.eta, now, conf)
    body, step = message.body, message.step
    if again.call_args is not None or again.call_kwargs is not None:
        given_args = args if again.call_args is None else again.call_args
        given_kwargs = kwargs if again.call_kwargs is None else again.call_kwargs
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
        expires=message.expires if expires is None else wall_time("expires", expires, now, conf),
        retries=message.retries + 1,
        attempt=message.attempt + 1,
        soft_time_limit=options.get("soft_time_limit", message.soft_time_limit),
        time_limit=options.get("time_limit", message.time_limit),
        shadow=options.get("shadow", message.shadow),
        headers=options.get("headers", message.headers),
    )
    asked = options.get("priority")
    return Envelope(fresh, options.get("queue") or queue, priority if asked is None else asked, due)


def snoozed(message: Message, queue: str, priority: int, seconds: float, now: float) -> Envelope:
    """Return the envelope in which `message` runs again in `seconds`, no retry spent."""
    due = now + seconds
    return Envelope(replace(message, eta=due, attempt=message.attempt + 1), queue, priority, due)


def postponed(message: Message, step: Step, queue: str, priority: int, ended_at: float, due: float) -> Envelope:
    """Return the envelope in which a step of a workflow starts when it is `due`; what it awaits ended at `ended_at`."""
    fresh = replace(
        message,
        sent_at=ended_at,
        eta=due,
        expires=message.expires if step.lifetime is None else ended_at + step.lifetime,
        attempt=message.attempt + 1,
        step=replace(step, wait=None, lifetime=None),
    )
    return Envelope(fresh, queue, priority, due)


def after_loss(message: Message, queue: str, priority: int) -> Envelope:
    """Return the envelope in which `message` runs again, now, because its process died; no retry spent."""
    return Envelope(replace(message, attempt=message.attempt + 1, losses=message.losses + 1), queue, priority)
