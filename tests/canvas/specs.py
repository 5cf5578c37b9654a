"""Workflows as the property tests know them: plain values that say what is composed and what each call will do.

`tasks.built` makes a canvas of one, `reference.expected` says what must come of it; neither knows the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

from aiotq.canvas.signature import WhenFailed

#: Characters of a value; what is longer becomes a digest, so that values don't grow with the workflow.
_LONGEST: Final = 200

NO_ID: Final = "?"

#: How a call's task is declared. The last two are error callbacks: with three arguments, and with one.
Kind: TypeAlias = Literal["coroutine", "thread", "told_all", "told_id"]
#: How a run ends that is not the last.
Again: TypeAlias = Literal["retry", "autoretry", "snooze"]


@dataclass(frozen=True)
class Returns:
    """It returns a text of its label and arguments."""


@dataclass(frozen=True)
class Fails:
    """It raises ValueError of its label."""


@dataclass(frozen=True)
class Replaces:
    """It has `by` take its place."""

    by: Spec


@dataclass(frozen=True)
class Adds:
    """It adds `member` to its chord, and returns."""

    member: Spec


Does: TypeAlias = Returns | Fails | Replaces | Adds


@dataclass(frozen=True)
class Call:
    """One call, under the id that is its label, or `id`. `is_late`: with a countdown; `is_ignored`: its result is."""

    label: str
    args: tuple[str, ...] = ()
    is_immutable: bool = False
    does: Does = Returns()  # a frozen value
    before: tuple[Again, ...] = ()
    kind: Kind = "coroutine"
    allow_failure: WhenFailed = "fail"
    links: tuple[Spec, ...] = ()
    errlinks: tuple[Spec, ...] = ()
    id: str = ""
    is_late: bool = False
    is_ignored: bool = False

    @property
    def key(self) -> str:
        return self.id or self.label


@dataclass(frozen=True)
class Mapped:
    """A map or starmap over `size` items, of which one may fail; without `has_id` its call has any id."""

    label: str
    size: int
    fails_at: int | None = None
    is_star: bool = False
    has_id: bool = True
    allow_failure: WhenFailed = "fail"
    links: tuple[Spec, ...] = ()
    errlinks: tuple[Spec, ...] = ()
    first: int = 0
    id: str = ""

    @property
    def key(self) -> str:
        """What its call is known by; that is its id unless it begins with `NO_ID`."""
        return self.id or (self.label if self.has_id else f"{NO_ID}{self.label}:{self.first}")


@dataclass(frozen=True)
class Chunked:
    """Chunks of `each` over `size` items."""

    label: str
    size: int
    each: int
    fails_at: int | None = None
    allow_failure: WhenFailed = "fail"
    errlinks: tuple[Spec, ...] = ()


@dataclass(frozen=True)
class Chain:
    """`is_piped`: made by `|`."""

    steps: tuple[Spec, ...]
    is_piped: bool = False
    allow_failure: WhenFailed = "fail"
    links: tuple[Spec, ...] = ()
    errlinks: tuple[Spec, ...] = ()


@dataclass(frozen=True)
class Group:
    members: tuple[Spec, ...]
    allow_failure: WhenFailed = "fail"
    errlinks: tuple[Spec, ...] = ()


@dataclass(frozen=True)
class Chord:
    """`is_piped`: made by `group | body`."""

    header: Group
    body: Spec
    is_piped: bool = False
    allow_failure: WhenFailed = "fail"
    links: tuple[Spec, ...] = ()
    errlinks: tuple[Spec, ...] = ()


Spec: TypeAlias = Call | Mapped | Chunked | Chain | Group | Chord


@dataclass(frozen=True)
class Workflow:
    """A spec, and what it is sent with."""

    spec: Spec
    args: tuple[str, ...] = ()


def text_of(value: Any) -> str:
    """Return a value as tests compare it: an exception is its type, and its text unless that names ids."""
    if isinstance(value, BaseException):
        return f"!{type(value).__name__}" + (f"({value})" if isinstance(value, ValueError) else "")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(text_of, cast('Sequence[Any]', value)))}]"
    return str(value)


def value_of(label: str, args: Sequence[Any]) -> str:
    """Return what the call `label` returns for `args`."""
    value = f"{label}({', '.join(map(text_of, args))})"
    return value if len(value) <= _LONGEST else f"{label}#{hashlib.sha1(value.encode()).hexdigest()[:12]}"


def chunks_of(spec: Chunked) -> list[Mapped]:
    """Return the calls that `spec` is."""
    starts = range(0, spec.size, spec.each)
    return [
        Mapped(
            spec.label,
            min(spec.each, spec.size - start),
            None if spec.fails_at is None else spec.fails_at - start,
            is_star=True,
            has_id=False,
            first=start,
        )
        for start in starts
    ]


def is_nothing(spec: Spec) -> bool:
    """Whether it calls nothing: an empty chain, a group of empty groups."""
    match spec:
        case Call() | Mapped():
            return False
        case Chunked():
            return spec.size == 0
        case Chain():
            return all(map(is_nothing, spec.steps))
        case Group():
            return all(map(is_nothing, spec.members))
        case Chord():
            return is_nothing(spec.header) and is_nothing(spec.body)


def is_plural(spec: Spec) -> bool:
    """Whether it ends with a group, and so with no call that a link could follow."""
    match spec:
        case Call() | Mapped():
            return False
        case Chunked() | Group():
            return True
        case Chain():
            steps = [step for step in spec.steps if step != Chain(())]
            return bool(steps) and is_plural(steps[-1])
        case Chord():
            return is_plural(spec.body)
