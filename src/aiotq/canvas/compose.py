"""The functions that compose groups, chains and chords."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar, cast, overload

from ..core.inside import App
from ..core.sync import expect_loop
from ..exceptions import CallError
from ..results.handle import AsyncResult
from .composites import Chain, Chord, Group, chained
from .signature import Canvas, Sender, part_or_none

R = TypeVar("R")
Handle = TypeVar("Handle")


class BareTask(Protocol):
    """A task, which stands for its call without arguments of its own."""

    def s(self) -> Canvas[Any]: ...


#: What a canvas is made of: others, the dicts of such, tasks.
Part = Canvas[Any] | Mapping[str, Any] | BareTask


def _members(option: str, given: Sequence[Any]) -> list[Canvas[Any]]:
    """Return the parts of a composite: `given`, or the items of a single iterable."""
    if len(given) == 1 and part_or_none(given[0]) is None:
        given = list(cast("Iterable[Any]", given[0])) if isinstance(given[0], Iterable) else given
    members: list[Canvas[Any]] = []
    for part in given:
        member = part_or_none(part)
        if member is None:
            raise CallError(f"{option} consists of signatures (task.s(...), group, chain, chord), not of {part!r}")
        members.append(member)
    return members


class Composer:
    """A function that composes canvases of one kind, and their type for `isinstance(flow, chain)`."""

    kind: type[Canvas[Any]]

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self.kind)

    def from_dict(self, form: Mapping[str, Any], app: App[Sender] | None = None) -> Canvas[Any]:
        """Return the canvas that `dict(canvas)` was made from; like `signature`."""
        return Canvas.from_dict(form, app)


class ChainComposer(Composer):
    """The type of `chain`."""

    kind = Chain

    @overload
    def __call__(self, last: Canvas[Handle], /) -> Canvas[Handle]: ...
    @overload
    def __call__(self, first: Canvas[Any], last: Canvas[Handle], /) -> Canvas[Handle]: ...
    @overload
    def __call__(self, first: Canvas[Any], second: Canvas[Any], last: Canvas[Handle], /) -> Canvas[Handle]: ...
    @overload
    def __call__(
        self, first: Canvas[Any], second: Canvas[Any], third: Canvas[Any], last: Canvas[Handle], /
    ) -> Canvas[Handle]: ...
    @overload
    def __call__(self, *steps: Part | Iterable[Part]) -> Canvas[Any]: ...
    def __call__(self, *steps: Any) -> Canvas[Any]:
        """Return the chain of steps, given one by one or as an iterable: each gets the value of the step before.

        result = await chain(add.s(2, 2), add.s(4))()
        assert await result == 8 and await result.parent == 4
        """
        return chained(_members("a chain", steps), is_called=True)


class GroupComposer(Composer):
    """The type of `group`."""

    kind = Group

    @overload
    def __call__(self, *tasks: Canvas[AsyncResult[R]]) -> Group[R]: ...
    @overload
    def __call__(self, tasks: Iterable[Canvas[AsyncResult[R]]], /) -> Group[R]: ...
    @overload
    def __call__(self, *tasks: Part | Iterable[Part]) -> Group[Any]: ...
    def __call__(self, *tasks: Any) -> Group[Any]:
        """Return a group of tasks, given one by one or as an iterable: they run at the same time.

        result = await group(add.s(i, i) for i in range(3))()
        assert await result == [0, 2, 4]
        """
        return Group(tuple(_members("a group", tasks)))


class Header:
    """A chord without its body: `await chord(tasks)(body)` sends it."""

    def __init__(self, header: Group[Any]) -> None:
        self._header = header

    @overload
    def __call__(self, body: Canvas[Handle], **kwargs: Any) -> Coroutine[Any, Any, Handle]: ...
    @overload
    def __call__(self, body: Part, **kwargs: Any) -> Coroutine[Any, Any, Any]: ...
    def __call__(self, body: Part, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Send the chord with this body; `kwargs` are further arguments of the body."""
        expect_loop("chord(header, body).sync.delay()")
        return Chord(self._header, _body(body).clone((), kwargs)).apply_async()


class ChordComposer(Composer):
    """The type of `chord`."""

    kind = Chord

    @overload
    def __call__(self, header: Part | Iterable[Part]) -> Header: ...
    @overload
    def __call__(self, header: Part | Iterable[Part], body: Canvas[Handle]) -> Chord[Handle]: ...
    @overload
    def __call__(self, header: Part | Iterable[Part], body: Part) -> Chord[Any]: ...
    def __call__(self, header: Part | Iterable[Part], body: Part | None = None) -> Header | Chord[Any]:
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
        return Chord(members, _body(body))


def _body(given: Part) -> Canvas[Any]:
    body: Canvas[Any] | None = part_or_none(given)
    if body is None:
        raise CallError(f"a chord's body is a signature, not {given!r}")
    return body


chain: Final = ChainComposer()
group: Final = GroupComposer()
chord: Final = ChordComposer()
