"""A canvas as plain data to be drawn: all of it, or bounded, to be stored while it runs (see `graph.builder`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

from ..core.values import shown
from ..exceptions import CallError
from ..results import Record
from ..results.document import DocumentCodec
from ..results.index import Finished, IndexBounds, IndexEntry
from ..results.lineage import PLAN, first_of_plan
from ..results.shown_arguments import MOST
from .composites import Chain, Chord, Group
from .signature import Canvas, Signature, as_callbacks

#: Calls in a stored plan, and members of one group in it (some 70 bytes each): the others are only counted.
MAX_CALLS: Final = 400
MAX_MEMBERS: Final = 100
#: More calls than any canvas has.
_ALL: Final = 2**62


def whole_plan(canvas: Canvas[Any]) -> dict[str, Any]:
    """Return all of `canvas`, with the texts of its calls."""
    return _Plan(labelled=True, most=_ALL).of(canvas, _ALL)


def plan_to_store(canvas: Canvas[Any]) -> dict[str, Any] | None:
    """Return what is stored of `canvas`, whose ids are fixed; None if it is one call, which its record tells of."""
    if isinstance(canvas, Signature):
        return None
    return _Plan(labelled=False, most=MAX_MEMBERS).of(canvas, MAX_CALLS)


def plan_record(
    canvas: Canvas[Any],
    key: str,
    codec: DocumentCodec,
    now: float,
    result_expires: float,
    bounds: IndexBounds | None = None,
) -> Record | None:
    """Return the record that keeps the plan of `canvas` under `key` (`plan_id`); None if it has none.

    With `bounds` it has an entry in the index, by which workflows are listed; not so what begins in another workflow.

    It expires as the results do that it is drawn with: they, too, are kept from when they came.
    """
    plan = plan_to_store(canvas)
    if plan is None:
        return None
    with suppress(CallError):  # one that is too large, or has names without a form: it is only there to be looked at
        body = codec.encode(key, PLAN, plan, done_at=now)
        entry = None if bounds is None else _entry(key, plan, now, bounds)
        return Record(key, PLAN, body, codec.content_type, now + result_expires, entry=entry)
    return None


def _entry(key: str, plan: Mapping[str, Any], now: float, bounds: IndexBounds) -> IndexEntry:
    tasks: list[str] = plan["tasks"]
    about = Finished(first_of_plan(key), PLAN, tasks[0] if tasks else "", now, args=", ".join(tasks)[:MOST])
    return IndexEntry(about, bounds)


class _Plan:
    def __init__(self, *, labelled: bool, most: int) -> None:
        self._tasks: dict[str, int] = {}
        self._labelled = labelled
        self._most = most

    def of(self, canvas: Canvas[Any], room: int) -> dict[str, Any]:
        part, _ = self._part(canvas, room)
        return {"tasks": list(self._tasks), "plan": part}

    def _part(self, canvas: Canvas[Any], room: int) -> tuple[Any, int]:
        """Return `canvas` in not much more than `room` calls, and the room that is left."""
        match canvas:
            case Signature():
                return self._call(cast("Signature[Any]", canvas), room)
            case Group(tasks, group_id):
                members, room = self._parts(tasks, room, self._most)
                return {"id": group_id, "size": len(tasks), "members": members}, room
            case Chain() | Chord():
                parts = _steps(canvas)
                steps, room = self._parts(parts, room, _ALL)
                left_out = len(parts) - len(steps)
                return {"steps": steps, "more": left_out} if left_out else {"steps": steps}, room
            case _:
                raise TypeError(f"{canvas!r} is no canvas")

    def _parts(self, parts: Sequence[Canvas[Any]], room: int, most: int) -> tuple[list[Any], int]:
        """Return the first of `parts`: room that is scarce is shared out, so that none takes it from those behind."""
        found: list[Any] = []
        for part in parts:
            if len(found) >= most or room < 1:
                break
            share = max(1, room // (min(len(parts), most) - len(found)))
            one, left = self._part(part, share)
            found.append(one)
            room -= share - left
        return found, room

    def _call(self, call: Signature[Any], room: int) -> tuple[list[Any], int]:
        room -= 1
        found: list[Any] = [call.options.get("task_id"), self._tasks.setdefault(call.task, len(self._tasks))]
        links: list[list[Any]] = []
        for option in ("link", "link_error"):
            linked, room = self._parts(as_callbacks(option, call.options.get(option)), room, _ALL)
            links.append(linked)
        if any(links) or self._labelled:
            found += links
        if self._labelled:
            found.append(shown(call))
        return found, room


def _steps(canvas: Canvas[Any]) -> list[Canvas[Any]]:
    """Return the steps of a chain or chord, those of chords in it too."""
    if isinstance(canvas, (Chain, Chord)):
        return [step for part in canvas.parts for step in _steps(part)]
    return [canvas]
