"""From a canvas to the messages that start it, and the joins that send the rest.

A step knows what follows it in one of two ways: it carries the rest of its chain while that is small, or it arrives at
a join, which holds the finished messages of what follows. So no message grows with what follows it, and nobody needs
more than a message and a join to go on. All ids are fixed before anything is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final, cast

import orjson

from ..calling.envelopes import Callee, EnvelopeBuilder, Part, wall_time
from ..core.values import replace, shown, value
from ..exceptions import CallError, EncodeError, StoreRequired
from ..results.ledger import Join
from ..wire.message import Envelope, Step, new_id
from .composites import Chain, Chord, Group
from .links import NO_LINKS, Broken, Instead, Links, Rest, Resume, embedded, steps_of
from .serialized import as_form
from .signature import Canvas, Signature, WhenFailed, as_callbacks
from .structure import count_results, final_calls, first_calls, shape_of
from .validation import check_arguments, check_workflow, refuse_skip

#: Bytes of a chain's rest that travel in a message; a longer rest waits behind a join.
INLINE: Final = 4096
_SIZE_OF_MARK: Final = 50
#: The first member of every join.
_FIRST: Final = "0"
#: Ids of last tasks that a message names.
_MOST_ENDS: Final = 16


@value
class Given:
    """The value that the first tasks of a canvas are called with, if there is one."""

    values: tuple[Any, ...] = ()


@value
class Awaited:
    """They are called with the values that the members of a join arrived with, or then with `values`."""

    join: str
    values: tuple[Any, ...] | None = None


NOTHING: Final = Given()
Incoming = Given | Awaited | Broken


@value
class Position:
    """The position of a canvas: the steps that follow it, the join it is a member of, and its parent."""

    rest: Rest = ()
    is_short: bool = False  #: known to be short enough for a message
    join: str | None = None
    members: tuple[str, ...] = ()
    is_gated: bool = False  #: that join is a gate ...
    chord: tuple[str, ...] = ()  #: ... behind which is this join, for this member
    scope: int = 0  #: see `Links`
    group_id: str | None = None
    group_index: int | None = None
    parent_id: str | None = None
    root_id: str | None = None
    reply_to: str | None = None


@value(eq=False)
class Plan:
    """The joins and envelopes that start a workflow; the joins come first."""

    envelopes: tuple[Envelope, ...]
    joins: tuple[Join, ...] = ()


@value(eq=False)
class _Opening:
    """A join to come, whose messages are still to be made: those that start `canvas`."""

    id: str
    size: int
    canvas: Canvas[Any]
    place: Position
    about: str
    until: float = 0.0


def about(shape: object, *, is_gate: bool = False, marks: int = 0) -> str:
    """Return what a join says to those who read its members; see `joined`. So many `marks` stand behind its header."""
    told: dict[str, Any] = {"shape": shape}
    if is_gate:
        told["gate"] = True
    if marks:
        told["marks"] = marks
    return orjson.dumps(told).decode()


class Planner:
    """Plans canvases whose ids are fixed (`frozen`). `has_joins` False: there is no store that workers share."""

    def __init__(self, builder: EnvelopeBuilder, *, has_joins: bool = True) -> None:
        self._builder = builder
        self._has_joins = has_joins
        self._openings: deque[_Opening] = deque()

    def check(self, canvas: Canvas[Any]) -> None:
        """Raise `CallError` if a step of `canvas` can't be called so."""
        check_workflow(canvas, self._builder.task)

    def plan(self, canvas: Canvas[Any], incoming: Incoming, place: Position) -> Plan:
        """Return what starts `canvas`.

        Raises:
            CallError: a task in it can't be sent so, or it needs a store that there is not.
        """
        self._openings.clear()
        envelopes = tuple(self._start(canvas, incoming, place))
        return Plan(envelopes, self._opened())

    def gate(self, canvas: Canvas[Any], place: Position) -> Plan:
        """Return a join of one member, "0", which starts `canvas` with the value that arrives; nothing starts yet."""
        self._openings.clear()
        self._open_gate(canvas, place)
        return Plan((), self._opened())

    def _opened(self) -> tuple[Join, ...]:
        """Return the joins that were asked for, and those that their messages ask for."""
        joins: list[Join] = []
        patience = self._builder.conf.join_timeout
        while self._openings:
            opening = self._openings.popleft()
            then = self._start(opening.canvas, Awaited(opening.id), replace(opening.place, scope=0))
            joins.append(Join(opening.id, opening.size, tuple(then), patience, opening.about, opening.until))
        return tuple(joins)

    def _open_gate(self, canvas: Canvas[Any], place: Position) -> str:
        gate = new_id()
        self._openings.append(_Opening(gate, 1, canvas, place, about(None, is_gate=True)))
        return gate

    def _start(self, canvas: Canvas[Any], incoming: Incoming, place: Position) -> Sequence[Envelope]:
        match canvas:
            case Signature():
                if canvas.when_failed != "fail":
                    place = _marked(place, Resume(canvas.when_failed))
                return self._call(cast("Signature[Any]", canvas), incoming, place)
            case Chain(tasks, when_failed):
                if not tasks:
                    raise CallError("an empty chain has nothing to call and no value: leave it out")
                place = place if when_failed == "fail" else _marked(place, _resume(when_failed))
                rest = (*tasks[1:], *place.rest)
                return self._start(tasks[0], incoming, replace(place, rest=rest, is_short=False))
            case Group():
                return self._group(cast("Group[Any]", canvas), incoming, place)
            case Chord(header, body, when_failed):
                place = place if when_failed == "fail" else _marked(place, _resume(when_failed))
                return self._chord(header, body, incoming, place)
            case _:
                raise CallError(f"{canvas!r} can't be sent")

    def _group(self, group: Group[Any], incoming: Incoming, place: Position) -> Sequence[Envelope]:
        following = next((at for at, each in enumerate(place.rest) if not isinstance(each, Resume)), None)
        if following is not None:
            body = cast("Canvas[Any]", place.rest[following])
            marks, rest = place.rest[:following], place.rest[following + 1 :]
            return self._chord(group, body, incoming, replace(place, rest=rest), marks=len(marks))
        group_id = group.id or new_id()
        members = iter(place.members)
        envelopes: list[Envelope] = []
        for index, member in enumerate(group.tasks):
            there = replace(place, group_id=group_id, group_index=index)
            if place.join is not None:
                there = replace(there, members=tuple(next(members) for _ in range(count_results(member))))
            envelopes += self._start(*as_member(member, incoming, there))
        return envelopes

    def _chord(
        self, header: Group[Any], body: Canvas[Any], incoming: Incoming, place: Position, *, marks: int = 0
    ) -> Sequence[Envelope]:
        size = count_results(header)
        if size == 0:  # nobody would arrive
            value = (shape_of(header),)
            given = replace(incoming, values=value) if isinstance(incoming, Awaited) else Given(value)
            return self._start(body, given, place)
        if not self._has_joins:
            raise StoreRequired(
                f"the chord {shown(header)} | {shown(body)} needs a results store that all workers share, to count in: "
                "set result_backend to a redis:// or sqlite:// URL, or leave it and set ledger to one; chains "
                "and links work without"
            )
        join = new_id()  # not the group's id, which may be a user's, and another group's
        told = about(shape_of(header), marks=marks)
        behind = replace(place, parent_id=final_calls(header)[-1].id)
        self._openings.append(_Opening(join, size, body, behind, told, self._until(header)))
        group_id = header.id or join
        inside = replace(place, rest=(), join=join, group_id=group_id, is_gated=False, chord=(), scope=place.scope + 1)
        envelopes: list[Envelope] = []
        first = 0
        for index, member in enumerate(header.tasks):
            count = count_results(member)
            members = tuple(map(str, range(first, first + count)))
            there = replace(inside, group_index=index, members=members)
            first += count
            envelopes += self._start(*as_member(member, incoming, there))
        return envelopes

    def _call(self, call: Signature[Any], incoming: Incoming, place: Position) -> Sequence[Envelope]:
        rest = place.rest
        options = dict(call.options)
        callbacks = tuple(as_callbacks("link", options.pop("link", None)))
        errbacks = tuple(as_callbacks("link_error", options.pop("link_error", None)))
        options.setdefault("task_id", new_id())
        counts: tuple[int, int] = (options.pop("attempt", 0), options.pop("replacements", 0))
        task = self._builder.task(call.task) or call.task
        links = Links(callbacks, errbacks, rest, call.mode)
        step = Step(
            place.group_id,
            place.group_index,
            place.join,
            place.members,
            is_gated=place.is_gated,
            chord=place.chord,
        )
        args = call.args
        if isinstance(incoming, Awaited):
            declared = None if isinstance(task, str) else task.declared.expires
            links = replace(links, scope=place.scope)
            is_immutable = call.immutable or incoming.values is not None
            step, options = _of_awaiting(step, incoming.join, is_immutable, options, declared)
            args, links = _given_to(call, incoming.values or (), links)
        elif isinstance(incoming, Broken):
            if not call.immutable and takes_exceptions(task, call):
                links = replace(links, broken=incoming)
            elif not call.immutable:
                args = (incoming.request["id"], *args)
        else:
            args, links = _given_to(call, incoming.values, links)
        takes = links.broken is not None or (step.awaits is not None and not step.immutable)
        check_arguments(call, task, args, 3 if links.broken is not None else int(takes))
        carried = self._carried(rest, is_short=place.is_short)
        try:
            return self._message(call, task, args, options, place, step, links, counts, carried)
        except EncodeError:
            count = _marks(rest)
            if not (self._has_joins and rest[count:]):
                raise
            # What a later step is called with has no form in this one's content type: it goes in a message of its own.
            return self._message(call, task, args, options, place, step, links, counts, count)

    def _message(
        self,
        call: Signature[Any],
        task: Callee | str,
        args: Sequence[Any],
        options: dict[str, Any],
        place: Position,
        step: Step,
        links: Links,
        counts: tuple[int, int],
        carried: int,
    ) -> Sequence[Envelope]:
        """Return the message of one call, which carries so many of what its rest is made of."""
        rest = links.rest
        if carried < len(rest):
            before = steps_of(rest[:carried])
            parent_id = final_calls(before[-1])[0].id if before else options["task_id"]
            first, *others = rest[carried:]
            gate = self._open_gate(cast("Canvas[Any]", first), replace(place, rest=tuple(others), parent_id=parent_id))
            step = replace(step, join=gate, members=(_FIRST,), is_gated=True, chord=step.chord_member or ())
            links = replace(links, rest=rest[:carried])
        if links.rest:
            step = replace(step, ends=_ends(links.rest)[:_MOST_ENDS])
        part = Part(
            place.parent_id,
            place.root_id if place.root_id != options["task_id"] else None,
            step if step != _NO_STEP else None,
            embedded(links) if links != NO_LINKS else {},
            *counts,
        )
        return self._builder.envelopes(task, args, call.kwargs, options, reply_to=place.reply_to, part=part)

    def _carried(self, rest: Rest, *, is_short: bool) -> int:
        """Return how much of `rest` a message carries: all, or what is short enough and ends with one call's value."""
        if not self._has_joins or not rest or (is_short and len(_ends(rest)) <= _MOST_ENDS):
            return len(rest)
        size = 0
        for at, each in enumerate(rest):
            size += _size(each)
            if not fits_inline(size) or (at == len(rest) - 1 and len(_ends(rest)) > _MOST_ENDS):
                break
        else:
            return len(rest)
        least = _marks(rest)
        at += _marks(rest[at:])
        while least < at < len(rest) and not _is_cut(rest, at):
            at -= 1
        return max(at, least)

    def _until(self, header: Group[Any]) -> float:
        """Return the time at which the last task of `header` is due that is to start later; 0 if none is."""
        now = self._builder.now()
        conf = self._builder.conf
        latest = 0.0
        for member in header.tasks:
            for first in first_calls(member):
                if (countdown := first.options.get("countdown")) is not None:
                    latest = max(latest, now + countdown)
                elif (due := wall_time("eta", first.options.get("eta"), now, conf)) is not None:
                    latest = max(latest, due)
        return latest


_NO_STEP: Final = Step()


def takes_exceptions(task: Callee | str, call: Signature[Any]) -> bool:
    """Whether an error callback takes request, exception and traceback; the others, and unknown ones, take an id.

    Arguments that it has already don't count.
    """
    return not isinstance(task, str) and task.room_for(call.args, call.kwargs) > 1


def as_member(member: Canvas[Any], incoming: Incoming, place: Position) -> tuple[Canvas[Any], Incoming, Position]:
    """Return `member` to be started as one of a group: what is said of its failure is said of its place."""
    if member.when_failed == "fail":
        return member, incoming, place
    instead: Instead = "leave_out" if member.when_failed == "skip" else "continue"
    plain = replace(cast(Any, member), when_failed="fail")
    return plain, incoming, _marked(place, Resume(instead))


def _marked(place: Position, mark: Resume) -> Position:
    """Return `place` with `mark` behind what is to stand there."""
    return replace(place, rest=(mark, *place.rest), is_short=False, scope=place.scope + 1)


def _given_to(call: Signature[Any], values: tuple[Any, ...], links: Links) -> tuple[tuple[Any, ...], Links]:
    """Return the arguments of `call` when it is given `values`, which are gone on with if it is skipped."""
    if not values:
        return call.args, links
    args = call.args if call.immutable else (*values, *call.args)
    if not links.rest or links.rest[0] != Resume("skip"):
        return args, links
    return args, replace(links, given=values) if call.immutable else replace(links, is_given=True)


def _resume(when_failed: WhenFailed) -> Resume:
    if when_failed == "skip":
        refuse_skip()
    return Resume("continue")


def _marks(rest: Rest) -> int:
    """Return how many marks `rest` begins with."""
    return next((at for at, each in enumerate(rest) if not isinstance(each, Resume)), len(rest))


def _is_cut(rest: Rest, at: int) -> bool:
    """Whether a message may carry what is before `at` alone: it ends with one call's value, and with its marks."""
    if isinstance(rest[at], Resume):
        return False
    steps = steps_of(rest[:at])
    return not steps or shape_of(steps[-1]) is None


def fits_inline(size: int) -> bool:
    """Whether the rest of a chain that takes `size` bytes travels in a message."""
    return size <= INLINE


def _size(each: Canvas[Any] | Resume) -> int:
    """Return about how many bytes `each` takes in a message."""
    if isinstance(each, Resume):
        return _SIZE_OF_MARK if each.given is None else _length(each.given)
    return _length(as_form(each))


def _length(given: Any) -> int:
    try:
        return len(orjson.dumps(given, default=repr, option=orjson.OPT_NON_STR_KEYS))
    except TypeError:  # nested too deep for JSON, or numbers too large for it
        return INLINE + 1


def _ends(rest: Rest) -> tuple[str, ...]:
    for each in reversed(rest):
        if not isinstance(each, Resume):
            return tuple(last.options["task_id"] for last in final_calls(each) if "task_id" in last.options)
    return ()


def _of_awaiting(
    step: Step, join: str, is_immutable: bool, options: dict[str, Any], lifetime: float | None
) -> tuple[Step, dict[str, Any]]:
    """Return step and options of a call that waits for `join`: what counts from its start counts from that's end."""
    rest = dict(options)
    wait = max(rest.pop("countdown", 0.0), 0.0) or None
    lifetime = rest.pop("expires", lifetime) if isinstance(rest.get("expires", 0.0), (int, float)) else None
    if lifetime is not None:
        lifetime = max(lifetime, 0.0)
    return replace(step, awaits=join, immutable=is_immutable, wait=wait, lifetime=lifetime), rest
