"""Workflows as the reference reads them: chords are chains, chains are flat, what a whole says its parts say."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final

from aiotq.canvas.signature import WhenFailed

from .specs import (
    NO_ID,
    Call,
    Chain,
    Chord,
    Chunked,
    Group,
    Mapped,
    Spec,
    chunks_of,
    is_nothing,
    is_plural,
)

#: Calls that nobody asked for: one returns the list it is called with, one the lists that an empty group is.
_COLLECT: Final = "collect"
_EMPTY: Final = "empty"


# -- plain specs: chords are chains, chains are flat, what is said of a composite is said of its parts


def plain(spec: Spec) -> Spec:
    match spec:
        case Call() | Mapped():
            return spec
        case Chunked():
            return plain(Group(tuple(chunks_of(spec)), spec.allow_failure, spec.errlinks))
        case Group():
            members = tuple(_error_linked(plain(member), spec.errlinks) for member in spec.members)
            return _tolerating(Group(members), spec.allow_failure)
        case Chord(header, body):  # law 5
            end = _linked(_error_linked(plain(body), spec.errlinks), spec.links)
            start = plain(header)
            if headers_have_errlinks.get():
                start = _error_linked(start, spec.errlinks)
            return Chain((start, *_flat(end)), allow_failure=spec.allow_failure)
        case Chain():
            steps = tuple(flat for step in spec.steps for flat in _flat(plain(step)))
            whole = _linked(_error_linked(Chain(steps), spec.errlinks), spec.links)
            assert isinstance(whole, Chain)
            if len(whole.steps) == 1:
                return _tolerating(whole.steps[0], spec.allow_failure)
            return _tolerating(whole, spec.allow_failure)


def _tolerating(spec: Spec, allow_failure: WhenFailed) -> Spec:
    if allow_failure == "fail":
        return spec
    if not isinstance(spec, Group):
        return replace(spec, allow_failure=allow_failure)
    return Group(
        tuple(
            member if member.allow_failure != "fail" else _tolerating(member, allow_failure) for member in spec.members
        )
    )


def _flat(spec: Spec) -> tuple[Spec, ...]:
    """Law 2: chains are associative, but for those that say something of their own failure."""
    return spec.steps if isinstance(spec, Chain) and spec.allow_failure == "fail" else (spec,)


def _linked(spec: Spec, links: Sequence[Spec]) -> Spec:
    if not links:
        return spec
    match spec:
        case Call() | Mapped():
            return replace(spec, links=(*spec.links, *links))
        case Chain(steps):
            return replace(spec, steps=(*steps[:-1], _linked(steps[-1], links)))
        case _:
            raise TypeError(f"nothing follows {spec}")


#: Whether error callbacks of a chord are those of its header's members too (`task_allow_error_cb_on_chord_header`).
headers_have_errlinks: ContextVar[bool] = ContextVar("headers_have_errlinks", default=False)


def _error_linked(spec: Spec, links: Sequence[Spec]) -> Spec:
    """Law 11. A group that something follows is a header."""
    if not links:
        return spec
    match spec:
        case Call() | Mapped():
            return replace(spec, errlinks=(*spec.errlinks, *links))
        case Group(members):
            return replace(spec, members=tuple(_error_linked(member, links) for member in members))
        case Chain(steps):
            last, both = len(steps) - 1, headers_have_errlinks.get()
            return replace(
                spec,
                steps=tuple(
                    step if isinstance(step, Group) and at < last and not both else _error_linked(step, links)
                    for at, step in enumerate(steps)
                ),
            )
        case _:
            raise TypeError(spec)


def _single(spec: Spec) -> Spec:
    """Law 12: a group is collected into a list."""
    if not is_plural(spec):
        return spec
    return Chain(
        (*_flat(replace(spec, allow_failure="fail")), Call(_COLLECT, id=NO_ID)), allow_failure=spec.allow_failure
    )


def _with_ends(spec: Spec) -> Spec:
    """Return `spec` with a call wherever a chain would end with an empty group, whose turn comes as any step's does."""
    match spec:
        case Group(members):
            return replace(spec, members=tuple(map(_with_ends, members)))
        case Chain(steps):
            *others, last = map(_with_ends, steps)
            if others and isinstance(last, Group) and is_nothing(last):
                last = Call(_EMPTY, (repr(_shape(last)),), id=f"{NO_ID}empty{id(spec)}")
            return replace(spec, steps=(*others, last))
        case _:
            return spec


def _shape(nothing: Spec) -> list[Any]:
    assert isinstance(nothing, Group)
    return [_shape(member) for member in nothing.members]


def _called_with(spec: Spec, args: tuple[str, ...]) -> Spec:
    """Return `spec` with further arguments for its first calls, before their own."""
    match spec:
        case Call():
            return spec if spec.is_immutable else replace(spec, args=(*args, *spec.args))
        case Group(members):
            return replace(spec, members=tuple(_called_with(member, args) for member in members))
        case Chain(steps) if steps:
            return replace(spec, steps=(_called_with(steps[0], args), *steps[1:]))
        case _:
            return spec


def _ending_as(spec: Spec, key: str) -> Spec:
    """Return `spec` with the id of another call for its last one."""
    match spec:
        case Call() | Mapped():
            return replace(spec, id=key)
        case Chain(steps):
            return replace(spec, steps=(*steps[:-1], _ending_as(steps[-1], key)))
        case _:
            raise TypeError(spec)
