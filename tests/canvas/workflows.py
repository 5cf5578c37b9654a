"""Random workflows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final, Literal, TypeAlias, TypeVar

from hypothesis import strategies as st

from aiotq.canvas.signature import WhenFailed

from .specs import (
    Adds,
    Again,
    Call,
    Chain,
    Chord,
    Chunked,
    Does,
    Fails,
    Group,
    Kind,
    Mapped,
    Replaces,
    Returns,
    Spec,
    Workflow,
    is_nothing,
    is_plural,
)

T = TypeVar("T")

#: Where a spec stands; what it may say of its failure depends on that.
Role: TypeAlias = Literal["whole", "step", "member", "callback"]

#: Calls in one workflow, about: enough for what nests four deep, few enough for many workflows a second.
_MOST_CALLS: Final = 14
_WHEN_FAILED: Final[tuple[WhenFailed, ...]] = ("fail", "skip", "continue")


class _Growing:
    """Makes the parts of one workflow."""

    def __init__(self, number: Callable[[int, int], int]) -> None:
        self.count = number
        self._numbers = itertools.count(1)
        self._left = _MOST_CALLS

    def chance(self, one_in: int) -> bool:
        return self.count(0, one_in - 1) == one_in - 1

    def of(self, *choices: T) -> T:
        return choices[self.count(0, len(choices) - 1)]

    def label(self, kind: str) -> str:
        return f"{kind}{next(self._numbers)}"

    def spec(self, depth: int, role: Role, adders: list[None]) -> Spec:
        """Return a spec that calls something. One of `adders` may be taken, by who adds a member to the header.

        There is one for each member: who of several adds first would be a race.
        """
        kind = self.count(0, 11) if depth > 0 and self._left > 0 else 0
        if kind <= 3:
            return self.call(depth, role, adders)
        if kind <= 6:
            return self.chain(depth, role, adders)
        if kind <= 8:
            return self.group(depth, role, adders)
        if kind <= 10:
            return self.chord(depth, role, adders)
        return self.mapped(role)

    def call(self, depth: int, role: Role, adders: list[None]) -> Spec:
        self._left -= 1
        kind: Kind = "thread" if self.chance(8) else "coroutine"
        return Call(
            self.label("c"),
            tuple(f"x{index}" for index in range(self.count(0, 1))),
            self.chance(6),
            self.does(depth, adders if kind == "coroutine" else []),
            self.again(),
            kind,
            self.allow_failure(role),
            self.links(depth, 8),
            self.errlinks(depth, 4),
            is_late=self.chance(12),
        )

    def does(self, depth: int, adders: list[None]) -> Does:
        kind = self.count(0, 9)
        if kind >= 8:
            return Fails()
        if kind == 7 and depth > 0 and self._left > 0:
            return Replaces(self.spec(depth - 1, "step", []))
        if kind == 6 and adders and self._left > 0:
            adders.pop()
            return Adds(self.spec(min(depth - 1, 1), "member", []))
        return Returns()

    def again(self) -> tuple[Again, ...]:
        if not self.chance(6):
            return ()
        again: tuple[Again, ...] = ("retry", "autoretry", "snooze")
        return tuple(self.of(*again) for _ in range(self.count(1, 2)))

    def allow_failure(self, role: Role, *, can_skip: bool = True) -> WhenFailed:
        if role not in ("step", "member") or not self.chance(4):
            return "fail"
        return self.of("continue", "skip") if can_skip else "continue"

    def links(self, depth: int, one_in: int) -> tuple[Spec, ...]:
        return (self.spec(min(depth - 1, 1), "callback", []),) if self.chance(one_in) else ()

    def errlinks(self, depth: int, one_in: int) -> tuple[Spec, ...]:
        if not self.chance(one_in):
            return ()
        self._left -= 1
        told = Call(self.label("e"), kind=self.of("told_all", "told_id"))
        match self.count(0, 5):
            case 4:
                return (Chain((told, self.call(0, "callback", []))),)
            case 5:
                return (Group((told, Call(self.label("e"), ("y",), is_immutable=True))),)
            case _:
                return (told,)

    def mapped(self, role: Role) -> Spec:
        self._left -= 1
        size = self.count(0, 4)
        fails_at = self.count(0, 3) if self.chance(4) else None
        if self.chance(3):
            allow_failure: WhenFailed = self.of(*_WHEN_FAILED) if self.chance(4) else "fail"
            if size == 0 and role != "member":
                size = 1
            return Chunked(self.label("k"), size, self.count(1, 3), fails_at, allow_failure, self.errlinks(0, 6))
        return Mapped(
            self.label("m"),
            size,
            fails_at,
            self.chance(2),
            allow_failure=self.allow_failure(role),
            links=self.links(0, 8),
            errlinks=self.errlinks(0, 6),
        )

    def chain(self, depth: int, role: Role, adders: list[None]) -> Spec:
        steps: list[Spec] = [
            Chain(()) if self.chance(12) else self.step(depth - 1, adders) for _ in range(self.count(1, 4))
        ]
        if all(map(is_nothing, steps)):
            steps.append(self.call(0, "step", adders))
        # Of the last one the handle is asked, which waits for nothing that is ignored.
        last = max(at for at, step in enumerate(steps) if step != Chain(()))
        steps[:last] = [
            replace(step, is_ignored=True) if isinstance(step, Call) and self.chance(12) else step
            for step in steps[:last]
        ]
        is_one = sum(step != Chain(()) for step in steps) == 1
        can_skip = role == "member" and not is_one
        links = self.links(depth, 8) if not is_plural(Chain(tuple(steps))) else ()
        allow_failure = self.allow_failure(role, can_skip=can_skip)
        return Chain(tuple(steps), self.chance(2), allow_failure, links, self.errlinks(depth, 6))

    def step(self, depth: int, adders: list[None]) -> Spec:
        """Return a step; a group has its own adders, since it is a header if anything follows it."""
        if self.chance(10):
            return Group(())
        return self.spec(depth, "step", adders)

    def group(self, depth: int, role: Role, adders: list[None], *, is_header: bool = False) -> Group:
        members = tuple(
            Group(()) if self.chance(12) else self.spec(depth - 1, "member", list(adders))
            for _ in range(self.count(0 if is_header or role == "member" else 1, 3))
        )
        allow_failure: WhenFailed = self.of(*_WHEN_FAILED) if self.chance(5) else "fail"
        return Group(members, allow_failure, self.errlinks(depth, 6))

    def chord(self, depth: int, role: Role, adders: list[None]) -> Spec:
        header = self.group(depth, "whole", [None], is_header=True)
        body = self.spec(depth - 1, "step", adders)
        if is_nothing(header) and is_nothing(body):
            body = self.call(0, "step", adders)
        links = self.links(depth, 8) if not is_plural(body) else ()
        can_skip = role == "member"
        allow_failure = self.allow_failure(role, can_skip=can_skip)
        return Chord(header, body, self.chance(2), allow_failure, links, self.errlinks(depth, 6))


def _workflow(growing: _Growing, depth: int) -> Workflow:
    spec = growing.spec(depth, "whole", [])
    return Workflow(spec, ("in",) if growing.chance(3) else ())


@st.composite
def workflows(draw: st.DrawFn, depth: int = 4) -> Workflow:
    """Any workflow that the laws give a meaning, as hypothesis draws and shrinks it."""
    return _workflow(_Growing(lambda least, most: draw(st.integers(least, most))), depth)


def examples(count: int, seed: int, depth: int = 4) -> list[Workflow]:
    """Return `count` of the same workflows, always the same for the same `seed`: a hundred times as fast."""
    random = Random(seed)
    return [_workflow(_Growing(random.randint), depth) for _ in range(count)]
