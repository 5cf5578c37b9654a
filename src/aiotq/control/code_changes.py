"""What a new version of an app can't do that the old one could: tasks that are gone, arguments that no longer fit, and
which of the calls that wait are concerned."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from ..calling.core import AppCore
from ..core.values import value
from ..exceptions import InvalidArguments
from ..tasks.task import Task
from ..wire.message import Envelope, Message
from .one_call import body_of

#: A parameter: its name, its kind as `inspect` calls it, and whether a call must give it.
Parameter: TypeAlias = tuple[str, str, bool]
#: The tasks of an app, each with what calls of it may give.
Tasks: TypeAlias = Mapping[str, Sequence[Parameter]]

#: Messages of a queue that are looked at, of those that are ready and of those that are delayed.
MOST: Final = 10_000
_BY_POSITION: Final = frozenset({"POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD"})


@value
class Unrunnable:
    """Calls of one task that wait in a queue, and that the new version can't run; `id` is one of them."""

    task: str
    queue: str
    why: str
    count: int
    id: str


@value
class Looked:
    """What was looked at: so many calls, of which so many are of tasks that neither version knows."""

    calls: int
    others: int
    unrunnable: Sequence[Unrunnable]


def parameters(task: Task[..., Any]) -> list[Parameter]:
    """Return what calls of `task` may give."""
    return [(each.name, each.kind.name, _is_required(each)) for each in task.call_parameters]


def changes(old: Tasks, new: Tasks) -> list[tuple[str, str]]:
    """Return the tasks whose calls of the old form fail in the new version, and why, in words."""
    found: list[tuple[str, str]] = []
    for name, before in sorted(old.items()):
        after = new.get(name)
        if after is not None:
            found += [(name, why) for why in _differences(before, after)]
            continue
        alike = [other for other, its in sorted(new.items()) if other not in old and list(its) == list(before)]
        hint = f"; {' or '.join(alike)} is new and takes the same arguments" if alike else ""
        found.append((name, f"is gone{hint}"))
    return found


def _differences(before: Sequence[Parameter], after: Sequence[Parameter]) -> Iterator[str]:
    old, new = {each[0]: each for each in before}, {each[0]: each for each in after}
    kinds = {kind for _, kind, _ in after}
    for name, _, is_required in after:
        if is_required and name not in old:
            yield f"parameter {name!r} is new and has no default"
        elif is_required and not old[name][2]:
            yield f"parameter {name!r} has no default any more"
    for name, kind, _ in before:
        if name not in new and kind in {*_BY_POSITION, "KEYWORD_ONLY"} and "VAR_KEYWORD" not in kinds:
            yield f"parameter {name!r} is gone"
    if "VAR_POSITIONAL" not in kinds:
        places = [name for name, kind, _ in after if kind in _BY_POSITION]
        was = [name for name, kind, _ in before if kind in _BY_POSITION and name in new]
        if was != [name for name in places if name in old]:
            yield "its parameters have another order, or can't be given by position any more"


async def look(core: AppCore, old: Tasks, queues: Sequence[str] | None) -> Looked:
    """Look at what waits in `queues` (None: all of the broker), with `core` as the new version's; takes nothing."""
    broker = (await core.connection()).broker
    names = queues if queues is not None else [each.name for each in await broker.stats()]
    calls = others = 0
    found: dict[tuple[str, str, str], tuple[int, str]] = {}
    for queue in names:
        for envelope in (*await broker.ready(queue, limit=MOST), *await broker.delayed(queue, limit=MOST)):
            calls += 1
            message = envelope.message
            if message.task not in old and message.task not in core.tasks:
                others += 1
                continue
            for task, why in _reasons(core, old, envelope):
                count, first = found.get((task, queue, why), (0, message.id))
                found[task, queue, why] = count + 1, first
    unrunnable = [Unrunnable(*key, *each) for key, each in sorted(found.items())]
    return Looked(calls, others, unrunnable)


def _reasons(core: AppCore, old: Tasks, envelope: Envelope) -> Iterator[tuple[str, str]]:
    """Yield why a message can't be run: of its own task, or of those that follow it in its workflow."""
    message = envelope.message
    body = body_of(core, message)
    task = core.tasks.get(message.task)
    if task is None:
        yield message.task, "no task of that name"
    elif body is not None and not _is_completed_later(message, body[2]):
        try:
            task.check(body[0], body[1])
        except InvalidArguments as exc:
            yield message.task, str(exc)
    for name in () if body is None else dict.fromkeys(_named_in(body[2])):
        if name in old and name not in core.tasks:
            yield name, f"no task of that name, which follows {message.task}"


def _is_completed_later(message: Message, embed: Mapping[str, Any]) -> bool:
    """Whether its function is called with other arguments than those in the message."""
    return (message.step is not None and message.step.awaits is not None) or bool(embed.get("mode"))


def _named_in(form: object) -> Iterator[str]:
    """Yield the names of tasks in what a message carries of its workflow."""
    if isinstance(form, Mapping):
        given = cast("Mapping[str, Any]", form)
        if isinstance(name := given.get("task"), str):
            yield name
        for each in given.values():
            yield from _named_in(each)
    elif isinstance(form, (list, tuple)):
        for each in cast("Sequence[Any]", form):
            yield from _named_in(each)


def _is_required(parameter: inspect.Parameter) -> bool:
    is_many = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return not is_many and parameter.default is parameter.empty
