"""Runs workflows on a real worker and says where what came of them is not what the reference expects."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, cast

from aiotq import AioTQ, ResultTimeout
from aiotq.core.inside import core_of
from aiotq.states import FAILURE, SUCCESS

from ..waiting import wait_until
from .reference import Bad, Error, Expected, Ok, expected
from .specs import NO_ID, Call, Chain, Group, Workflow, text_of
from .tasks import Story, Tasks

#: Seconds for all workflows of a test to end, and workflows under way at a time.
PATIENCE: Final = 100.0
AT_ONCE: Final = 100


@dataclass(frozen=True)
class Disagreement:
    workflow: Workflow
    why: tuple[str, ...]

    def __str__(self) -> str:
        return "\n  ".join([sketch(self.workflow.spec), f"sent with {self.workflow.args}", *self.why])


def sketch(spec: Any) -> str:
    """Return `spec` as it would be written down."""
    if not dataclasses.is_dataclass(spec):
        if isinstance(spec, tuple):
            parts = cast("tuple[Any, ...]", spec)
            return f"({', '.join(map(sketch, parts))}{',' * (len(parts) == 1)})"
        return repr(spec)
    fields = [
        (each.name, value)
        for each in dataclasses.fields(spec)
        if (value := getattr(spec, each.name)) != each.default and value != ()
    ]
    return f"{type(spec).__name__}({', '.join(f'{name}={sketch(value)}' for name, value in fields)})"


async def disagreements(
    app: AioTQ, tasks: Tasks, workflows: Sequence[Workflow], *, names: str = "w", at_once: int = AT_ONCE
) -> list[Disagreement]:
    """Run all of `workflows` on `app`, which has a worker; return those that came to something else.

    `at_once`: so many of them are under way at a time.
    """
    numbered = iter(enumerate(workflows))
    stories: dict[int, Story] = {}
    values: dict[int, Any] = {}
    limit = asyncio.get_running_loop().time() + PATIENCE

    async def caller() -> None:
        for number, workflow in numbered:
            story = stories[number] = tasks.story(f"{names}{number}")
            left = limit - asyncio.get_running_loop().time()
            values[number] = await _value(tasks.built(workflow.spec, story), workflow, max(left, 0.1))

    async with asyncio.TaskGroup() as callers:
        for _ in range(at_once):
            callers.create_task(caller())
    await quiet(app)
    found: list[Disagreement] = []
    for number, workflow in enumerate(workflows):
        why = await _differences(app, stories[number], values[number], expected(workflow))
        if why:
            found.append(Disagreement(workflow, tuple(why)))
        del tasks.stories[stories[number].name]
    return found


async def disagreement_here(tasks: Tasks, workflow: Workflow, name: str) -> list[Disagreement]:
    """Apply `workflow` here, with nobody else; return how it came to something else, if it did."""
    story, wanted = tasks.story(name), expected(workflow)
    try:
        value = await (await tasks.built(workflow.spec, story).apply(workflow.args)).get()
    except Exception as exc:
        value = exc
    why = differences_in_calls(story, wanted)
    if not _agrees_with_value(value, wanted.value):
        why.append(f"the value is {value!r} instead of {_told(wanted.value)}")
    return [Disagreement(workflow, tuple(why))] if why else []


async def quiet(app: AioTQ) -> None:
    """Wait until nothing is on any queue."""

    async def is_so() -> bool:
        return not any(queue.ready or queue.leased or queue.delayed for queue in await app.admin.queues())

    await wait_until(is_so, "nothing is left to be done", PATIENCE)


async def _value(canvas: Any, workflow: Workflow, timeout: float) -> Any:
    """Send a workflow and return its value, or the exception that awaiting it raises."""
    handle = await canvas.delay(*workflow.args)
    try:
        return await handle.get(timeout)
    except ResultTimeout:
        return TimeoutError("it did not end")
    except Exception as exc:
        return exc


async def _differences(app: AioTQ, story: Story, value: Any, wanted: Expected) -> list[str]:
    why = [*differences_in_calls(story, wanted), *await differences_in_ends(app, story, wanted)]
    if not _agrees_with_value(value, wanted.value):
        why.append(f"the value is {value!r} instead of {_told(wanted.value)}")
    return why


def differences_in_calls(
    story: Story, wanted: Expected, repeatable: Mapping[tuple[str, str], int] = MappingProxyType({})
) -> list[str]:
    """Say which calls were not made as often as they should; those in `repeatable` may have been made so often more."""
    return [
        f"call {call[0]}{call[1]}: {story.calls[call]} instead of {wanted.calls[call]}"
        for call in sorted({*story.calls, *wanted.calls})
        if not 0 <= story.calls[call] - wanted.calls[call] <= repeatable.get(call, 0)
    ]


async def differences_in_ends(app: AioTQ, story: Story, wanted: Expected) -> list[str]:
    """Say which calls did not end as they should."""
    why: list[str] = []
    connection = await core_of(app).connection()
    ends = {key: end for key, end in wanted.ends.items() if not key.startswith(NO_ID)}
    records = await connection.records.get([f"{story.name}.{key}" for key in ends])
    for record, (key, end) in zip(records, ends.items(), strict=True):
        if record is None and key in wanted.ignored:
            continue
        if record is None:
            why.append(f"{key} has no end, instead of {_told(end)}")
            continue
        found = core_of(app).codec.decode(record)
        if not _agrees(found.result, end) or found.state != (SUCCESS if isinstance(end, Ok) else FAILURE):
            why.append(f"{key} ended {found.state} {found.result!r} instead of {_told(end)}")
    return why


def _agrees(found: Any, end: Ok | Bad) -> bool:
    if isinstance(end, Bad):
        return isinstance(found, BaseException) and end.error.is_shown_as(repr(found))
    return text_of(found) == text_of(_plain(end.value))


def _agrees_with_value(found: Any, wanted: Any) -> bool:
    """Whether awaiting a handle gave what was wanted; of a group that fails, the first failure."""
    bads = list(_bads(wanted))
    if bads:
        return isinstance(found, BaseException) and any(bad.error.is_shown_as(repr(found)) for bad in bads)
    return text_of(found) == text_of(_plain(wanted))


def _bads(wanted: Any) -> Iterator[Bad]:
    if isinstance(wanted, Bad):
        yield wanted
    elif isinstance(wanted, list):
        for each in wanted:
            yield from _bads(each)


def _plain(value: Any) -> Any:
    if isinstance(value, Ok):
        return _plain(value.value)
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Error) else value


def _told(wanted: Any) -> str:
    if isinstance(wanted, Bad):
        return f"{wanted.error} of {wanted.source}"
    return f"[{', '.join(map(_told, wanted))}]" if isinstance(wanted, list) else text_of(_plain(wanted))


async def smallest(
    found: Disagreement, run: Callable[[Workflow], Awaitable[Disagreement | None]], patience: int = 400
) -> Disagreement:
    """Return a small workflow that disagrees as `found` does, by leaving out what is not needed for it."""
    while True:
        for candidate in _smaller(found.workflow):
            patience -= 1
            if patience < 0:
                return found
            try:
                again = await run(candidate)
            except (ExceptionGroup, AssertionError, KeyError):  # what is left makes no sense
                continue
            if again is not None:
                found = again
                break
        else:
            return found


def _smaller(workflow: Workflow) -> Iterator[Workflow]:
    if workflow.args:
        yield replace(workflow, args=())
    for spec in _smaller_specs(workflow.spec):
        if _is_sound(spec):
            yield replace(workflow, spec=spec)


def _is_sound(spec: Any) -> bool:
    """Whether it still is a workflow: no error callback is called as others are, and no other as they are."""
    if isinstance(spec, tuple):
        return all(map(_is_sound, spec))
    if not dataclasses.is_dataclass(spec):
        return True
    for each in dataclasses.fields(spec):
        value = getattr(spec, each.name)
        if each.name == "errlinks" and not all(
            isinstance(first, Call) and first.label[0] == "e" for first in _firsts(value)
        ):
            return False
        if not _is_sound(value):
            return False
    return True


def _firsts(specs: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for spec in specs:
        match spec:
            case Chain(steps):
                found += _firsts(steps[:1]) or [None]
            case Group(members):
                found += _firsts(members) or [None]
            case _:
                found.append(spec)
    return found


def _smaller_specs(spec: Any) -> Iterator[Any]:
    """Yield what `spec` becomes when one thing in it is left out, or takes the place of what it is in."""
    for each in dataclasses.fields(spec):
        value = getattr(spec, each.name)
        if isinstance(value, tuple):
            for at, part in enumerate(value):
                if dataclasses.is_dataclass(part) and each.name in ("steps", "members"):
                    yield part
                yield replace(spec, **{each.name: (*value[:at], *value[at + 1 :])})
                if dataclasses.is_dataclass(part):
                    for smaller in _smaller_specs(part):
                        yield replace(spec, **{each.name: (*value[:at], smaller, *value[at + 1 :])})
        elif dataclasses.is_dataclass(value):
            if each.name in ("header", "body"):
                yield value
            for smaller in _smaller_specs(value):
                if each.name != "header" or isinstance(smaller, Group):
                    yield replace(spec, **{each.name: smaller})
        elif each.name.startswith("is_") and value is True:
            yield replace(spec, **{each.name: False})
        elif each.name in ("kind", "allow_failure", "does") and value != each.default and value[:4] != "told":
            yield replace(spec, **{each.name: each.default})
