"""The structure of a canvas: its first and last calls, how its value nests, and its copy with all ids fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from ..core.values import replace
from ..exceptions import CallError
from ..wire.message import attempt_apart, new_id
from .composites import Chain, Chord, Group, chained
from .signature import LINKS, Canvas, Signature, as_callbacks
from .validation import callbacks_of, check_depth

#: Celery's name of the task that returns what it is called with.
ACCUMULATE: Final = "celery.accumulate"


def frozen(canvas: Canvas[Any], make_id: Callable[[], str] = new_id) -> Canvas[Any]:
    """Return `canvas` with the ids of all its calls and groups fixed; those of callbacks are given when they are sent.

    `make_id` is asked for them in the order of its parts, always the same for the same canvas.

    Raises:
        CallError: two calls in it have the same id, or it is nested too deep.
    """
    if _is_fixed_call(canvas):
        return canvas
    check_depth(canvas)
    return _frozen(canvas, set(), make_id)


def told_apart(canvas: Canvas[Any]) -> Canvas[Any]:
    """Return a workflow such that its messages are not taken for those of another one that is under way.

    Calls with the ids that a user gave them could be: their attempts begin at a number of their own. A call alone
    stays: sent once more, it is the same call; its callbacks are not.
    """
    check_depth(canvas)
    if not any(given_ids(canvas)):
        return canvas

    def apart(call: Signature[Any], *, begins: bool) -> Signature[Any]:
        options = dict(call.options)
        for option in LINKS & options.keys():
            options[option] = [begin_apart(callback) for callback in as_callbacks(option, options[option])]
        if begins and call.id is not None:
            options.setdefault("attempt", attempt_apart())
        return call if options == call.options else replace(call, options=options)

    def begin_apart(part: Canvas[Any]) -> Canvas[Any]:
        match part:
            case Signature():
                return apart(cast("Signature[Any]", part), begins=True)
            case Chord(header, body):
                return cast("Canvas[Any]", replace(cast(Any, part), header=begin_apart(header), body=begin_apart(body)))
            case Chain(tasks) | Group(tasks):
                return cast("Canvas[Any]", replace(cast(Any, part), tasks=tuple(map(begin_apart, tasks))))
            case _:
                return part

    if isinstance(canvas, Signature):
        return apart(cast("Signature[Any]", canvas), begins=False)
    return begin_apart(canvas)


def given_ids(canvas: Canvas[Any]) -> Iterator[str]:
    """Return the ids that calls in `canvas` have, and those of its callbacks."""
    for call in signatures_of(canvas):
        if call.id is not None:
            yield call.id
        for callback in callbacks_of(call):
            yield from given_ids(callback)


def _is_fixed_call(canvas: object) -> bool:
    return isinstance(canvas, Signature) and "task_id" in cast("Signature[Any]", canvas).options


def _frozen(canvas: Canvas[Any], seen: set[str], make_id: Callable[[], str]) -> Canvas[Any]:
    match canvas:
        case Signature():
            call = cast("Signature[Any]", canvas)
            task_id = call.options.get("task_id")
            if task_id is None:
                task_id = make_id()
                call = replace(call, options={**call.options, "task_id": task_id})
            if task_id in seen:
                raise CallError(f"two calls of one workflow have the id {task_id}: {call!r}")
            seen.add(task_id)
            return call
        case Chain():
            steps = tuple(_frozen(step, seen, make_id) for step in canvas.tasks)
            return replace(canvas, tasks=_with_end(steps, make_id))
        case Group():
            group = cast("Group[Any]", canvas)
            members = tuple(_frozen(task, seen, make_id) for task in group.tasks)
            return replace(group, tasks=members, id=group.id or make_id())
        case Chord():
            parts = _frozen(canvas.header, seen, make_id), _frozen(canvas.body, seen, make_id)
            header, body = _with_end(parts, make_id)
            return replace(canvas, header=cast("Group[Any]", header), body=body)
        case _:
            raise CallError(f"{canvas!r} can't be sent")


def _with_end(steps: tuple[Canvas[Any], ...], make_id: Callable[[], str]) -> tuple[Canvas[Any], ...]:
    """Return `steps` with a call at their end: without one, nobody would know when an empty group's turn has come."""
    if len(steps) < 2 or first_calls(steps[-1]):
        return steps
    value = shape_of(steps[-1])
    end: Signature[Any] = Signature(ACCUMULATE, (value,), {"index": 0}, {"task_id": make_id()}, immutable=True)
    return *steps[:-1], end


def first_calls(canvas: Canvas[Any]) -> Sequence[Signature[Any]]:
    """Return the calls that start `canvas`."""
    match canvas:
        case Signature():
            return [cast("Signature[Any]", canvas)]
        case Chain(tasks):
            return first_calls(tasks[0]) if tasks else []
        case Chord(header, body):
            return first_calls(header) if count_results(header) else first_calls(body)
        case _:
            return [first for member in canvas.parts for first in first_calls(member)]


def with_first_calls(canvas: Canvas[Any], changed: Sequence[Signature[Any]]) -> Canvas[Any]:
    """Return `canvas` with `changed` in the place of its `firsts`, in that order."""
    left = iter(changed)

    def put(each: Canvas[Any]) -> Canvas[Any]:
        match each:
            case Signature():
                return next(left)
            case Chain(tasks):
                return replace(each, tasks=(put(tasks[0]), *tasks[1:])) if tasks else each
            case Group(tasks):
                return replace(cast("Group[Any]", each), tasks=tuple(map(put, tasks)))
            case Chord(header, body):
                if count_results(header):
                    return replace(each, header=cast("Group[Any]", put(header)))
                return replace(each, body=put(body))
            case _:
                return each

    return put(canvas)


def begun_by_one_call(canvas: Canvas[Any], **options: Any) -> Canvas[Any]:
    """Return `canvas` such that one call starts it, whose message carries the rest; if need be, one with `options`.

    Whoever sends it opens no joins: the worker of that call does, in the commit of its end.
    """
    head = canvas
    while isinstance(head, Chain) and head.tasks and head.when_failed == "fail":
        head = head.tasks[0]
    if isinstance(head, Signature):
        return canvas
    starting: Signature[Any] = Signature(ACCUMULATE, options=options, immutable=True)
    return chained((starting, _given_nothing(canvas)))


def _given_nothing(canvas: Canvas[Any]) -> Canvas[Any]:
    """Return `canvas` such that the calls which start it take no value from a step before."""
    match canvas:
        case Signature():
            return cast("Signature[Any]", canvas).set_immutable(True)
        case Chain(tasks) if tasks:
            return replace(canvas, tasks=(_given_nothing(tasks[0]), *tasks[1:]))
        case Chord(header) if count_results(header):
            return replace(canvas, header=cast("Group[Any]", _given_nothing(header)))
        case Group(tasks):
            return replace(cast("Group[Any]", canvas), tasks=tuple(map(_given_nothing, tasks)))
        case _:
            return canvas


def final_calls(canvas: Canvas[Any]) -> Sequence[Signature[Any]]:
    """Return the calls whose values are that of `canvas`."""
    match canvas:
        case Signature():
            return [cast("Signature[Any]", canvas)]
        case Chain(tasks):
            return final_calls(tasks[-1]) if tasks else []
        case Chord(_, body):
            return final_calls(body)
        case _:
            return [last for member in canvas.parts for last in final_calls(member)]


def count_results(canvas: Canvas[Any]) -> int:
    """Return how many calls the value of `canvas` is made of."""
    match canvas:
        case Signature():
            return 1
        case Chain(tasks):
            return count_results(tasks[-1]) if tasks else 0
        case Chord(_, body):
            return count_results(body)
        case _:
            return sum(map(count_results, canvas.parts))


def shape_of(canvas: Canvas[Any]) -> Any:
    """Return how the value of `canvas` nests: None for a call's; a number of calls or a list of such for a group's."""
    match canvas:
        case Signature():
            return None
        case Chain(tasks):
            return shape_of(tasks[-1]) if tasks else None
        case Chord(_, body):
            return shape_of(body)
        case _:
            shapes = [shape_of(member) for member in canvas.parts]
            return len(shapes) if shapes and all(shape is None for shape in shapes) else shapes


def with_final_options(canvas: Canvas[Any], **options: Any) -> Canvas[Any]:
    """Return `canvas` with options for the one call that it ends with."""
    match canvas:
        case Chain(tasks):
            return replace(canvas, tasks=(*tasks[:-1], with_final_options(tasks[-1], **options)))
        case Chord(_, body):
            return replace(canvas, body=with_final_options(body, **options))
        case _:
            return canvas.clone(**options)


def ending_in_one_call(canvas: Canvas[Any]) -> Canvas[Any]:
    """Return `canvas` such that it ends with one call: a group's values are collected by one more."""
    if shape_of(canvas) is None:
        return canvas
    when_failed = canvas.when_failed
    plain = canvas if when_failed == "fail" else canvas.allow_failure("fail")
    collecting: Signature[Any] = Signature(ACCUMULATE, kwargs={"index": 0})
    whole = chained((plain, collecting))
    return whole if when_failed == "fail" else whole.allow_failure(when_failed)


def with_all_headers(canvas: Canvas[Any], headers: Mapping[str, Any]) -> Canvas[Any]:
    """Return `canvas` with further headers for each of its calls, those of callbacks not counted."""
    match canvas:
        case Signature():
            call = cast("Signature[Any]", canvas)
            return call.clone(headers={**(call.options.get("headers") or {}), **headers})
        case Chord(header, body):
            of_header = cast("Group[Any]", with_all_headers(header, headers))
            return replace(canvas, header=of_header, body=with_all_headers(body, headers))
        case Chain(tasks) | Group(tasks):
            steps = tuple(with_all_headers(each, headers) for each in tasks)
            return cast("Canvas[Any]", replace(cast(Any, canvas), tasks=steps))
        case _:
            return canvas


def signatures_of(canvas: Canvas[Any]) -> Sequence[Signature[Any]]:
    """Return all signatures in `canvas`, those of callbacks not counted."""
    if isinstance(canvas, Signature):
        return [cast("Signature[Any]", canvas)]
    return [signature for part in canvas.parts for signature in signatures_of(part)]
