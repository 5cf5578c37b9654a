"""Tells the signals of sending, `before_task_publish` and `after_task_publish`, what Celery tells them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol, cast

from ..core.values import shown
from ..signals import after_task_publish, before_task_publish
from ..tasks.options import CallOptions
from ..wire.message import Envelope, Message


class Call(Protocol):
    """A call by name; a signature is one."""

    @property
    def task(self) -> str: ...

    @property
    def args(self) -> Sequence[Any]: ...

    @property
    def kwargs(self) -> Mapping[str, Any]: ...

    @property
    def options(self) -> Any: ...


Build = Callable[[Sequence[Any], Mapping[str, Any], CallOptions], Sequence[Envelope]]


async def tell_before(call: Call, built: Sequence[Envelope], build: Build) -> Sequence[Envelope]:
    """Tell `before_task_publish` of `call`, and build it again with the headers and arguments that receivers left.

    Raises:
        CallError: what they left can't be sent.
    """
    first = built[0]
    own: Mapping[str, Any] = call.options.get("headers") or {}
    protocol = _headers(first.message, call)
    headers = {**own, **protocol}
    args, kwargs = list(call.args), dict(call.kwargs)
    await before_task_publish.send(
        call.task,
        body=(args, kwargs, _embed()),
        exchange=call.options.get("exchange") or "",
        routing_key=first.queue,
        headers=headers,
        properties=_properties(first),
        declare=[first.queue],
        retry_policy={},
    )
    # Their own names are the message's: a receiver sees them there and can't change them.
    kept = {name: given for name, given in own.items() if name in protocol}
    left = {name: given for name, given in headers.items() if name not in protocol}
    options: Any = {**call.options, "task_id": first.message.id, "headers": {**left, **kept}}
    return build(args, kwargs, cast(CallOptions, options))


async def tell_after(call: Call, first: Envelope) -> None:
    """Tell `after_task_publish` of a call that the broker has."""
    await after_task_publish.send(
        call.task,
        body=(list(call.args), dict(call.kwargs), _embed()),
        exchange=call.options.get("exchange") or "",
        routing_key=first.queue,
        headers={**(first.message.headers or {}), **_headers(first.message, call)},
    )


def _headers(message: Message, call: Call) -> dict[str, Any]:
    """Return the headers of `message` by the names of Celery's protocol."""
    return {
        "lang": "py",
        "task": message.task,
        "id": message.id,
        "root_id": message.root_id or message.id,
        "parent_id": message.parent_id,
        "group": None,
        "shadow": message.shadow,
        "eta": _iso(message.eta),
        "expires": _iso(message.expires),
        "retries": message.retries,
        "timelimit": [message.time_limit, message.soft_time_limit],
        "argsrepr": shown(tuple(call.args)),
        "kwargsrepr": shown(dict(call.kwargs)),
        "origin": message.origin,
        "ignore_result": message.ignore_result,
        "stamped_headers": list(message.stamps or ()),
        "stamps": dict(message.stamps or {}),
    }


def _properties(envelope: Envelope) -> dict[str, Any]:
    message = envelope.message
    return {
        "correlation_id": message.id,
        "reply_to": message.reply_to,
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "priority": envelope.priority,
    }


def _embed() -> dict[str, Any]:
    return {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def _iso(time: float | None) -> str | None:
    return None if time is None else datetime.fromtimestamp(time, UTC).isoformat()
