"""Events that a task tells of itself: what they may be, and where a child process keeps them until its call returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import orjson

from ..core.values import shown
from ..exceptions import CallError, EncodeError
from ..wire.message import MAX_NAME, is_name
from .request import Request

#: Bytes of the fields of an event, as JSON.
MOST_FIELDS: Final = 16_384
#: What every event has.
_OWN: Final = frozenset({"type", "timestamp", "hostname", "pid", "utcoffset", "clock", "uuid"})


def own_event(request: Request, task: str, kind: object, fields: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return an event of the call of `task` that runs, as it happens at wall time `now`.

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
    return {"type": kind, "timestamp": now, "uuid": request.id, **fields}


def keep_event(request: Request, event: Mapping[str, Any]) -> None:
    """Keep an event where nobody sends any: from a child process the worker has it with the value."""
    cast("Any", request).events = [*request.events, event]  # a request of this run's own
