"""The functions that compose groups, chains and chords."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast, overload

from ..exceptions import CallError
from ..results.handle import AsyncResult
from .signature import Canvas, Chord, Group, chained

R = TypeVar("R")
Handle = TypeVar("Handle")


def _members(option: str, given: Sequence[Any]) -> list[Canvas[Any]]:
    """Return the parts of a composite: `given`, or the items of a single iterable."""
    if len(given) == 1 and not isinstance(given[0], Canvas):
        given = list(cast("Iterable[Any]", given[0])) if isinstance(given[0], Iterable) else given
    for part in given:
        if not isinstance(part, Canvas):
            raise CallError(f"{option} consists of signatures (task.s(...), group, chain, chord), not of {part!r}")
    return list(given)


@overload
def chain(last: Canvas[Handle], /) -> Canvas[Handle]: ...
@overload
def chain(first: Canvas[Any], last: Canvas[Handle], /) -> Canvas[Handle]: ...
@overload
def chain(first: Canvas[Any], second: Canvas[Any], last: Canvas[Handle], /) -> Canvas[Handle]: ...
@overload
def chain(first: Canvas[Any], second: Canvas[Any], third: Canvas[Any], last: Canvas[Handle], /) -> Canvas[Handle]: ...
@overload
def chain(*steps: Canvas[Any] | Iterable[Canvas[Any]]) -> Canvas[Any]: ...
def chain(*steps: Any) -> Canvas[Any]:
    """Return the chain of steps, given one by one or as an iterable: each is called with the value of the step before.

    result = await chain(add.s(2, 2), add.s(4))()
    assert await result == 8 and await result.parent == 4
    """
    return chained(_members("a chain", steps))


@overload
def group(*tasks: Canvas[AsyncResult[R]]) -> Group[R]: ...
@overload
def group(tasks: Iterable[Canvas[AsyncResult[R]]], /) -> Group[R]: ...
@overload
def group(*tasks: Canvas[Any] | Iterable[Canvas[Any]]) -> Group[Any]: ...
def group(*tasks: Any) -> Group[Any]:
    """Return a group of tasks, given one by one or as an iterable: they run at the same time.

    result = await group(add.s(i, i) for i in range(3))()
    assert await result == [0, 2, 4]
    """
    return Group(tuple(_members("a group", tasks)))


class Header:
    """A chord without its body: `await chord(tasks)(body)` sends it."""

    def __init__(self, header: Group[Any]) -> None:
        self._header = header

    async def __call__(self, body: Canvas[Handle], **kwargs: Any) -> Handle:
        """Send the chord with this body; `kwargs` are further arguments of the body."""
        return await Chord(self._header, body.clone((), kwargs)).apply_async()


@overload
def chord(header: Canvas[Any] | Iterable[Canvas[Any]]) -> Header: ...
@overload
def chord(header: Canvas[Any] | Iterable[Canvas[Any]], body: Canvas[Handle]) -> Chord[Handle]: ...
def chord(header: Canvas[Any] | Iterable[Canvas[Any]], body: Canvas[Handle] | None = None) -> Header | Chord[Handle]:
    """Return a chord: `body` is called with the list of the values of the tasks in `header`.

    result = await chord((add.s(i, i) for i in range(10)), xsum.s())()
    assert await result == 90
    """
    members: Group[Any]
    if isinstance(header, Group):
        members = cast("Group[Any]", header)
    else:
        members = Group(tuple(_members("a chord's header", (header,))))
    if body is None:
        return Header(members)
    if not isinstance(cast(object, body), Canvas):
        raise CallError(f"a chord's body is a signature, not {body!r}")
    return Chord(members, body)
