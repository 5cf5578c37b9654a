"""The handles of a workflow's results, nested as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from ..results.handle import AsyncResult
from ..results.reader import Readers
from ..results.sets import GroupResult
from .composites import Chain, Chord, Group
from .signature import Canvas, Signature

AnyResult = AsyncResult[Any] | GroupResult[Any]


def nested(
    canvas: Canvas[Any],
    readers: Readers,
    of_call: Callable[[Signature[Any], AnyResult | None], AsyncResult[Any]],
    parent: AnyResult | None = None,
) -> AnyResult:
    """Return the handles of all calls in `canvas`, which `of_call` makes, nested as it is."""
    match canvas:
        case Signature():
            return of_call(cast("Signature[Any]", canvas), parent)
        case Chain(tasks):
            for step in tasks:
                parent = nested(step, readers, of_call, parent)
            if parent is None:
                raise TypeError("an empty chain has no result")
            return parent
        case Chord(header, body):
            return nested(body, readers, of_call, nested(header, readers, of_call, parent))
        case Group(tasks, group_id):
            members = [nested(member, readers, of_call, parent) for member in tasks]
            when_failed = [member.when_failed for member in tasks]
            return GroupResult(group_id or "", members, readers, parent=parent, when_failed=when_failed)
        case _:
            raise TypeError(f"{canvas!r} has no result")
