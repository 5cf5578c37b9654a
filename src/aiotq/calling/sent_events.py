"""The event `task-sent`, and those that a task tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import orjson

from ..control.event_format import iso
from ..control.event_sender import EventSender
from ..core.values import shown
from ..exceptions import CallError, EncodeError
from ..tasks.request import Request
from ..wire.message import MAX_NAME, Envelope, is_name

#: Bytes of the fields of an event, as JSON.
MOST_FIELDS: Final = 16_384
#: What every event has.
_OWN: Final = frozenset({"type", "timestamp", "hostname", "pid", "utcoffset", "clock", "uuid"})


def tell_sent(
    sender: EventSender,
    envelope: Envelope,
    arguments: tuple[str, str] | None = None,
) -> None:
    """Have `task-sent` told of a call that the broker has; `arguments` as they may be shown, None if not known."""
    message = envelope.message
    exchange, key = message.address or ("", envelope.queue)
    sender.add_event(
        "task-sent",
        uuid=message.id,
        name=message.shadow or message.task,
        args=None if arguments is None else arguments[0],
        kwargs=None if arguments is None else arguments[1],
        root_id=message.root_id or message.id,
        parent_id=message.parent_id,
        retries=message.retries,
        eta=iso(message.eta),
        expires=iso(message.expires),
        queue=envelope.queue,
        exchange=exchange,
        routing_key=key,
    )


def tell_of_call(
    sender: EventSender | None, request: Request, task: str, kind: object, fields: Mapping[str, Any], now: float
) -> None:
    """Have an event told of the call of `task` that runs.

    In a child process there is no `sender`: the worker has the event with the value.

    Raises:
        CallError: no call runs; it can have no such type or field, or is too large.
        EncodeError: a field has no form in JSON.
    """
    if request.id is None:
        raise CallError(f"{task}.send_event: no task runs here; call it in a task's code, while a worker runs that")
    event = {"type": _checked(task, kind, fields), "timestamp": now, "uuid": request.id, **fields}
    if sender is not None:
        sender.add_from_anywhere(event)
    else:
        cast("Any", request).events = [*request.events, event]  # a request of this run's own


def _checked(task: str, kind: object, fields: Mapping[str, Any]) -> str:
    if not isinstance(kind, str) or not is_name(kind) or "-" not in kind.strip("-"):
        raise CallError(
            f"{task}.send_event: a type is a group and what happened, as 'upload-stored', "
            f"at most {MAX_NAME} characters, not {shown(kind)}"
        )
    if own := sorted(_OWN.intersection(fields)):
        raise CallError(f"{task}.send_event: every event has {', '.join(own)} of its own")
    try:
        size = len(orjson.dumps(dict(fields)))
    except TypeError as exc:
        raise EncodeError(f"{task}.send_event: a field has no form in JSON: {exc}") from exc
    if size > MOST_FIELDS:
        raise CallError(f"{task}.send_event: the fields of an event have at most {MOST_FIELDS} bytes, these {size}")
    return kind
