"""What must come of a workflow: a small interpreter of the laws of the canvas, one step after the other.

It follows the laws and Celery's documentation, and nothing of how aiotq keeps them. The laws, by number:

1. The value of a group is the list of its members' values, nested as it is. 2. What follows a step is called with its
value. Chains are associative. 3. What follows a group is called once, with its list. 4. Each member of a group that
follows is called with the value. 5. What follows a chord is part of its body. 6. The value of a chain or chord is that
of its last step. 7. An empty chain in a chain is nothing; what follows an empty group is called with []. 8. A failed
step ends its chain: later steps end as it did and don't run. 9. The first failed member of a header ends the chord: its
body ends with ChordError. 10. `allow_failure`. 11. Links. 12. A replacement stands where its task stood. 13. Members
that were added come after the others. 14. Retries and snoozes change nothing.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from aiotq.canvas.signature import WhenFailed

from .plain_specs import _COLLECT, _EMPTY, _called_with, _ending_as, _error_linked, _linked, _single, _with_ends, plain
from .specs import (
    NO_ID,
    Adds,
    Call,
    Chain,
    Fails,
    Group,
    Mapped,
    Replaces,
    Returns,
    Spec,
    Workflow,
    is_nothing,
    text_of,
    value_of,
)


@dataclass(frozen=True)
class Error:
    """An exception. Which member of a header fails first is a race: a ChordError names one of `because`."""

    kind: str
    text: str = ""
    because: tuple[Bad, ...] = ()

    def __str__(self) -> str:
        return f"!{self.kind}" + (f"({self.text})" if self.kind == "ValueError" else "")

    def is_shown_as(self, shown: str) -> bool:
        """Whether `shown` is the repr of such an exception."""
        name, _, argument = shown.removesuffix(")").partition("(")
        if name != self.kind or self.kind not in ("ValueError", "ChordError"):
            return name == self.kind
        told = str(ast.literal_eval(argument))
        if self.kind == "ValueError":
            return told == self.text
        found = re.fullmatch(r"Dependency (\S+) raised (.*)", told, re.DOTALL)
        return found is not None and any(bad.is_told_by(found[1], found[2]) for bad in self.because)


@dataclass(frozen=True)
class Ok:
    value: Any


@dataclass(frozen=True)
class Bad:
    """It failed: `source` is the id of the call that did, `NO_ID` if that was not fixed."""

    error: Error
    source: str

    def is_told_by(self, task_id: str, shown: str) -> bool:
        return self.source in (NO_ID, task_id.partition(".")[2]) and self.error.is_shown_as(shown)


@dataclass(frozen=True)
class LeftOut:
    """A member that its group goes on without."""


@dataclass(frozen=True)
class Skipped:
    """A step that was skipped, and was given nothing to go on with."""


@dataclass(frozen=True)
class Stopped:
    """It failed, and its exception stands for its value: in each place of a group that it would have ended with."""

    error: Error


@dataclass(frozen=True)
class Many:
    """The results of a group's members. `continues`: it is the end of a chain that goes on when it fails."""

    items: tuple[Result, ...]
    continues: bool = False


Result: TypeAlias = Ok | Bad | LeftOut | Skipped | Stopped | Many


@dataclass(frozen=True)
class Given:
    """A step is called with these, before its own arguments."""

    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Unmet:
    """A step can't be called: the header before it failed."""

    error: Error


@dataclass(frozen=True)
class Broken:
    """A step is an error callback, and called for a failure."""

    bad: Bad


Incoming: TypeAlias = Given | Unmet | Broken


@dataclass
class Expected:
    """What must come of a workflow: the calls by label and arguments, how each id ends, and the value of the whole."""

    calls: Counter[tuple[str, str]]
    ends: dict[str, Ok | Bad]
    value: Any
    ignored: set[str]


@dataclass
class _Interpreter:
    """`has_ids` False: of callbacks, whose ids are not fixed."""

    calls: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    ends: dict[str, Ok | Bad] = field(default_factory=dict[str, Ok | Bad])
    has_ids: bool = True
    ignored: set[str] = field(default_factory=set[str])

    # -- one step

    def step(self, spec: Spec, incoming: Incoming, join: list[Result] | None, *, is_followed: bool) -> Result:
        """Evaluate a plain spec; `join` takes members that are added to the header it is in."""
        match spec:
            case Call():
                if spec.is_ignored:
                    self.ignored.add(spec.key)
                return self.call(spec, incoming, join)
            case Mapped():
                return self.mapped(spec, incoming)
            case Group(members):
                if not is_followed:
                    return Many(tuple(self.member(member, incoming, join) for member in members))
                own: list[Result] = []
                found = [self.member(member, incoming, own) for member in members]
                return Many((*found, *own))  # law 13
            case Chain(steps):
                return self.chain(steps, incoming, join, is_followed=is_followed)
            case _:
                raise TypeError(spec)

    def member(self, spec: Spec, incoming: Incoming, join: list[Result] | None) -> Result:
        found = self.step(replace(spec, allow_failure="fail"), incoming, join, is_followed=False)
        match found:
            case Skipped():
                return Ok(None)
            case Stopped(error):
                return _filled(spec, Ok(error))
            case Bad() if spec.allow_failure != "fail":
                return _filled(spec, _tolerant(found, spec.allow_failure))
            case _:
                return _tolerant(found, spec.allow_failure)

    def chain(
        self, steps: Sequence[Spec], incoming: Incoming, join: list[Result] | None, *, is_followed: bool
    ) -> Result:
        current, found = incoming, None
        for at, spec in enumerate(steps):
            more = is_followed or at + 1 < len(steps)
            if isinstance(spec, Group) and is_nothing(spec) and isinstance(current, Unmet):
                continue  # what follows it is the body
            found = self.step(spec, current, join, is_followed=more)
            found = self.after(found, spec.allow_failure, current)
            if isinstance(found, Bad):  # law 8
                for never in steps[at + 1 :]:
                    self.prevented(never, found)
                return found
            if isinstance(found, Many):
                current = _joined(found)
            else:
                current = Given((found.value,) if isinstance(found, Ok) else _stopped(found))
        assert found is not None
        return found

    def after(self, found: Result, allow_failure: WhenFailed, given: Incoming) -> Result:
        """Law 10 of a step in a chain."""
        if isinstance(found, Many):
            return replace(found, continues=True) if allow_failure == "continue" else found
        if not isinstance(found, Bad) or allow_failure == "fail":
            return found
        if allow_failure == "continue":
            return Stopped(found.error)
        if not isinstance(given, Given) or not given.values:
            return Skipped()
        (value,) = given.values
        return Bad(Error("EncodeError"), found.source) if isinstance(value, list) and _has_error(value) else Ok(value)

    # -- calls

    def call(self, spec: Call, incoming: Incoming, join: list[Result] | None) -> Result:
        source = self.id_of(spec)
        if isinstance(incoming, Unmet):  # law 9
            return self.ended(spec, Bad(incoming.error, source))
        args: tuple[Any, ...] = spec.args
        if isinstance(incoming, Broken):
            of = incoming.bad.source
            if not spec.is_immutable:
                args = (of, incoming.bad.error) if spec.kind == "told_all" else (of,)
        elif not spec.is_immutable:
            args = (*incoming.values, *args)
        if spec.label == _EMPTY:
            return self.ended(spec, Ok(ast.literal_eval(spec.args[0])))
        if spec.label == _COLLECT:
            found = Bad(Error("EncodeError"), source) if _has_error(args[0]) else Ok(args[0])
            return self.ended(spec, found)
        self.calls[spec.label, text_of(args)] += 1 + len(spec.before)  # law 14
        match spec.does:
            case Returns():
                return self.ended(spec, Ok(value_of(spec.label, args)))
            case Fails():
                return self.ended(spec, Bad(Error("ValueError", spec.label), source))
            case Replaces(by):
                if (
                    spec.allow_failure == "skip"
                    and isinstance(incoming, Given)
                    and any(map(_has_error, incoming.values))
                ):
                    return self.ended(spec, Bad(Error("EncodeError"), source))  # it can't be kept for what follows
                whole = _ending_as(_linked(_error_linked(_single(plain(by)), spec.errlinks), spec.links), spec.key)
                whole = _with_ends(whole)
                return self.chain((whole,), Given(), join, is_followed=False)  # law 12
            case Adds(member):
                if join is None:
                    return self.ended(spec, Bad(Error("CallError"), source))
                found = self.ended(spec, Ok(value_of(spec.label, args)))
                join.append(self.member(_with_ends(_single(plain(member))), Given(), join))
                return found

    def mapped(self, spec: Mapped, incoming: Incoming) -> Result:
        source = self.id_of(spec)
        if isinstance(incoming, Unmet):
            return self.ended(spec, Bad(incoming.error, source))
        values: list[str] = []
        for index in range(spec.size):
            name = f"{spec.label}:{spec.first + index}"
            self.calls[name, "[also]" if spec.is_star else "[]"] += 1
            if index == spec.fails_at:
                return self.ended(spec, Bad(Error("ValueError", name), source))
            values.append(name)
        return self.ended(spec, Ok(values))

    def id_of(self, spec: Call | Mapped) -> str:
        return spec.key if self.has_ids and not spec.key.startswith(NO_ID) else NO_ID

    def ended(self, spec: Call | Mapped, found: Ok | Bad) -> Ok | Bad:
        """Note the end of a call, and do what follows it (law 11)."""
        if self.has_ids:
            self.ends[spec.key] = found
        beside = _Interpreter(self.calls, has_ids=False)
        for callback in spec.links if isinstance(found, Ok) else spec.errlinks:
            follows = Given((found.value,)) if isinstance(found, Ok) else Broken(found)
            beside.step(_with_ends(plain(callback)), follows, None, is_followed=False)
        return found

    def prevented(self, spec: Spec, why: Bad) -> None:
        match spec:
            case Call() | Mapped():
                if self.has_ids:
                    self.ends[spec.key] = why
                if isinstance(spec, Call) and spec.is_ignored:
                    self.ignored.add(spec.key)
            case Group(members):
                for member in members:
                    self.prevented(member, why)
            case Chain(steps):
                for step in steps:
                    self.prevented(step, why)
            case _:
                raise TypeError(spec)

    # -- what a handle gives

    def value(self, spec: Spec) -> Any:
        """Return the value of the whole: of a group the list of its members', but for what is tolerated."""
        match spec:
            case Call() | Mapped():
                return self.ends[spec.key]
            case Chain(steps):
                return self.value(steps[-1])
            case Group(members):
                values = [_tolerated(self.value(member), member.allow_failure) for member in members]
                return [value for value in values if not isinstance(value, LeftOut)]
            case _:
                raise TypeError(spec)


def expected(workflow: Workflow) -> Expected:
    """Return what must come of `workflow`."""
    interpreter = _Interpreter()
    whole = _with_ends(_called_with(plain(workflow.spec), workflow.args))
    interpreter.chain((whole,), Given(), None, is_followed=False)
    return Expected(interpreter.calls, interpreter.ends, interpreter.value(whole), interpreter.ignored)


# -- members and headers


def _stopped(found: Result) -> tuple[Any, ...]:
    return (found.error,) if isinstance(found, Stopped) else ()


def _filled(spec: Spec, found: Result) -> Result:
    """Return the result of a member that comes to `found` in each of its places."""
    match spec:
        case Group(members):
            return Many(tuple(_filled(member, found) for member in members))
        case Chain(steps):
            return _filled(steps[-1], found)
        case _:
            return found


def _has_error(value: Any) -> bool:
    """Whether an exception is in it, which has no form in a message."""
    return isinstance(value, Error) or (isinstance(value, list) and any(map(_has_error, value)))


def _tolerant(found: Result, allow_failure: WhenFailed) -> Result:
    """Law 10 of a member: in its place, or in each of its places."""
    match found:
        case Bad(error):
            return Ok(error) if allow_failure == "continue" else LeftOut() if allow_failure == "skip" else found
        case Many(items, continues):
            own: WhenFailed = "continue" if continues else allow_failure
            return Many(tuple(_tolerant(item, own) for item in items))
        case _:
            return found


def _tolerated(value: Any, allow_failure: WhenFailed) -> Any:
    """The same of what the handles of a member give."""
    if isinstance(value, list):
        values = [_tolerated(each, allow_failure) for each in value]
        return [each for each in values if not isinstance(each, LeftOut)]
    return _tolerant(value, allow_failure) if isinstance(value, Bad) else value


def _joined(header: Many) -> Incoming:
    """Return what follows a group is called with (laws 3 and 9)."""
    bads = tuple(_bads(header))
    if not bads:
        return Given((_values(header),))
    error = Error("ChordError", because=bads)
    return Given((error,)) if header.continues else Unmet(error)


def _bads(found: Result) -> Sequence[Bad]:
    if isinstance(found, Many):
        return [bad for item in found.items for bad in _bads(item)]
    return [found] if isinstance(found, Bad) else []


def _values(found: Many) -> list[Any]:
    values: list[Any] = []
    for item in found.items:
        if isinstance(item, Many):
            values.append(_values(item))
        elif isinstance(item, Ok):
            values.append(item.value)
    return values
