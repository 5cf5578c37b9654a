"""Events that a task tells of itself: what they may be, and where a child process keeps them until its call returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from ..core.values import shown
from ..exceptions import CallError, EncodeError
from ..wire.message import MAX_NAME, is_name
from .request import Request

if TYPE_CHECKING:
    from ..control.event_sender import EventSender

#: Bytes of the fields of an event, as JSON.
MOST_FIELDS: Final = 16_384
#: What every event has.
_OWN: Final = frozenset({"type", "timestamp", "hostname", "pid", "utcoffset", "clock", "uuid"})


def tell_own(
    sender: EventSender | None, request: Request, task: str, kind: object, fields: Mapping[str, Any], now: float
) -> None:
    """Have an event told of the call of `task` that runs, as it happens at wall time `now`.

    In a child process there is no `sender`: the worker has the event with the value.

    Raises:
        CallError: no call runs; it can have no such type or field, or is too large.
        EncodeError: a field has no form in JSON.
    """
    if request.id is None:
        raise CallError(f"{task}.send_event: no task runs here; call it in a task's code, while a worker runs that")
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
    event = {"type": kind, "timestamp": now, "uuid": request.id, **fields}
    if sender is not None:
        sender.add_from_anywhere(event)
    else:
        cast("Any", request).events = [*request.events, event]  # a request of this run's own
