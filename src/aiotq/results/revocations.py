"""What revokes many calls at once: keys that stand among the ids of revoked tasks, and whose calls each stops (P8).

And the notice of a revocation, as processes tell it each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final

import orjson

from ..core.values import value
from ..exceptions import MalformedMessage
from ..wire.message import Message

#: No id has it, since ids are printable.
_MARK: Final = "\t"
#: Ids in one notice: the longest fit into a message on the bus.
_IDS_AT_ONCE: Final = 200


@value
class Notice:
    """These were revoked until wall time `expires` (0: they are not any more); with `terminate` those that run end."""

    ids: Sequence[str]
    terminate: bool
    expires: float


def pack_notices(ids: Sequence[str], *, terminate: bool, expires: float) -> Iterator[bytes]:
    """Yield the payloads that tell of a revocation."""
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = list(ids[start : start + _IDS_AT_ONCE])
        yield orjson.dumps({"ids": some, "terminate": terminate, "expires": expires})


def unpack_notice(payload: bytes) -> Notice:
    """Return the notice in a payload.

    Raises:
        MalformedMessage: it is none.
    """
    try:
        told: Any = orjson.loads(payload)
        return Notice([str(task_id) for task_id in told["ids"]], bool(told["terminate"]), float(told["expires"]))
    except (ValueError, TypeError, KeyError) as exc:
        raise MalformedMessage(f"it is no notice of a revocation: {payload[:80]!r}") from exc


def of_task(name: str) -> str:
    """Return the key of all calls of a task."""
    return f"{_MARK}task {name}"


def of_root(root_id: str) -> str:
    """Return the key of a call and all that it and its workflow lead to."""
    return f"{_MARK}root {root_id}"


def of_header(name: str, given: Any) -> str:
    """Return the key of all calls whose header `name` is `given`.

    Raises:
        TypeError: it has no form in JSON, so that no header can be so.
    """
    return f"{_MARK}header {name}={orjson.dumps(given, option=orjson.OPT_SORT_KEYS).decode()}"


def of_stamp(name: str, given: Any) -> str:
    """Return the key of all calls with `given` among the values of their stamp `name`; raises as `of_header`."""
    return f"{_MARK}stamp {name}={orjson.dumps(given, option=orjson.OPT_SORT_KEYS).decode()}"


def keys_of(message: Message) -> tuple[str, ...]:
    """Return all that may revoke `message`."""
    keys = (message.id, of_task(message.task), of_root(message.root_id or message.id))
    if not (message.headers or message.stamps):
        return keys
    said = [(of_header, name, given) for name, given in (message.headers or {}).items()]
    said += [(of_stamp, name, given) for name, values in (message.stamps or {}).items() for given in values]
    return (*keys, *(key for key_of, name, given in said if (key := _possible(key_of, name, given)) is not None))


def is_among(message: Message, revoked: Collection[str]) -> bool:
    """Return whether one of `revoked` revokes `message`."""
    return not set(keys_of(message)).isdisjoint(revoked)


def _possible(key_of: Callable[[str, Any], str], name: str, given: Any) -> str | None:
    try:
        return key_of(name, given)
    except TypeError:  # another sender's, through a broker whose headers are more than JSON
        return None
