"""The handles of a workflow's results, nested as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

from ..calling.envelopes import Callee
from ..core.settings import Settings
from ..results.handle import AsyncResult, Readers
from ..results.sets import GroupResult
from .signature import Canvas, Chain, Chord, Group, Signature

AnyResult = AsyncResult[Any] | GroupResult[Any]


class HandleHome(Readers, Protocol):
    """An app, as making handles needs it."""

    @property
    def conf(self) -> Settings: ...

    @property
    def tasks(self) -> Any: ...


def handle_of(
    canvas: Canvas[Any], home: HandleHome, parent: AnyResult | None = None, reply_to: str | None = None
) -> AnyResult:
    """Return the handle of what `canvas`, whose ids are fixed, comes to; `.parent` leads back."""
    return nested(canvas, home, partial(_of_call, home, reply_to), parent)


def _of_call(
    home: HandleHome, reply_to: str | None, call: Signature[Any], parent: AnyResult | None
) -> AsyncResult[Any]:
    called: Callee | None = home.tasks.get(call.task)
    ignored = call.options.get("ignore_result")
    if ignored is None:
        ignored = None if called is None else called.declared.ignore_result
    return AsyncResult(
        call.options["task_id"],
        home,
        task_name=call.task,
        parent=parent,
        reply_to=reply_to,
        ignored=home.conf.task_ignore_result if ignored is None else ignored,
    )


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
