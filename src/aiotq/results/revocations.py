"""What revokes many calls at once: keys that stand among the ids of revoked tasks, and whose calls each stops (P8)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

import orjson

from ..wire.message import Message

#: No id has it, since ids are printable.
_MARK: Final = "\t"


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
