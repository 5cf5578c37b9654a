"""The values, or the error, of a join that is over, for the steps that it started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import orjson

from .. import states
from ..core.values import value
from ..exceptions import ChordError, MalformedMessage
from ..results import Joined, Record
from ..results.document import DocumentCodec
from .continuation import LEFT_OUT


@value
class JoinResult:
    """The values of a join's members, nested as its group; or, if `error` is not None, why there are none.

    If `is_passed_on`, that is how an earlier step ended, in `state`, and this one only never ran, nor what is in
    `scope` behind it (see `Links`); `cause` is its record. If `is_nothing`, the next is given no value.
    """

    value: Any = None
    error: BaseException | None = None
    state: str = states.FAILURE
    is_passed_on: bool = False
    scope: int = 0
    cause: Record | None = None
    is_nothing: bool = False


def gather(joined: Joined, codec: DocumentCodec) -> JoinResult:
    """Return what `joined` gives.

    Raises:
        MessageError: what it holds can't be read.
    """
    try:
        about: Mapping[str, Any] = orjson.loads(joined.about)
        shape = about["shape"]
    except (ValueError, KeyError, TypeError):
        raise MalformedMessage("what its join says of itself can't be read") from None

    if joined.failed:
        ((member, record),) = joined.members.items()
        error = cast("BaseException", codec.decode(record).result)
        scope = int(member[1:]) if member.startswith("-") else 0
        marks = int(about.get("marks", 0))
        if about.get("gate") or member.startswith("-"):
            if scope < marks:  # one of them is not part of what is prevented
                return JoinResult(error)
            return JoinResult(error=error, state=record.state, is_passed_on=True, scope=scope - marks, cause=record)
        failed, error = error, ChordError(f"Dependency {record.id} raised {error!r}")
        error.__cause__ = failed
        return JoinResult(error) if marks else JoinResult(error=error)

    def read(record: Record) -> Any:
        return codec.decode(record).result

    members = joined.members
    if about.get("gate"):
        only = members["0"]
        return JoinResult(is_nothing=True) if only.state == LEFT_OUT else JoinResult(read(only))
    values, _ = _nested(shape, members, read, 0)
    for name in sorted(name for name in members if name.startswith("+")):
        if members[name].state != LEFT_OUT:
            values.append(read(members[name]))
    return JoinResult(values)


def _nested(
    shape: Any, members: Mapping[str, Record], read: Callable[[Record], Any], first: int
) -> tuple[list[Any], int]:
    """Return the values of a group of `shape`, whose first member is `first`; and the first after it."""
    values: list[Any] = []
    for inner in [None] * shape if isinstance(shape, int) else cast("list[Any]", shape):
        if inner is not None:
            found, first = _nested(inner, members, read, first)
            values.append(found)
            continue
        record = members[str(first)]
        first += 1
        if record.state != LEFT_OUT:
            values.append(read(record))
    return values, first
