"""A canvas as a graph, to be looked at before it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, cast

from ..core.values import shown
from ..graph.graph import EdgeKind, Graph, GraphBuilder

#: How the parts of a canvas stand to each other.
Form = Literal["call", "chain", "group", "chord"]


class Drawn(Protocol):
    """A canvas, as drawing it needs it."""

    form: ClassVar[Form]

    @property
    def parts(self) -> Sequence[Drawn]: ...


class _Call(Protocol):
    @property
    def task(self) -> str: ...

    @property
    def options(self) -> Mapping[str, Any]: ...


def graph_of(canvas: Drawn) -> Graph:
    """Return what `canvas` is made of. Calls that have no id yet are numbered."""
    sketch = GraphBuilder()
    _draw(canvas, sketch, None, None, None)
    return sketch.graph()


def _draw(
    canvas: Drawn, sketch: GraphBuilder, inside: str | None, after: str | None, on: tuple[str, EdgeKind] | None
) -> str | None:
    """Draw `canvas` at a place; return what the next step comes after."""
    match canvas.form:
        case "call":
            return _draw_call(cast(_Call, canvas), sketch, inside, after, on)
        case "group":
            group_id: str | None = getattr(canvas, "id", None)
            group = sketch.group(_unused(sketch, group_id), inside=inside, after=after, on=on)
            for member in canvas.parts:
                _draw(member, sketch, group, None, None)
            return group
        case "chain" | "chord":
            for part in canvas.parts:
                after, on = _draw(part, sketch, inside, after, on) or after, None
            return after


def _draw_call(
    call: _Call, sketch: GraphBuilder, inside: str | None, after: str | None, on: tuple[str, EdgeKind] | None
) -> str:
    call_id = sketch.call(
        _unused(sketch, call.options.get("task_id")), call.task, label=shown(call), inside=inside, after=after, on=on
    )
    kinds: tuple[tuple[str, EdgeKind], ...] = (("link", "callback"), ("link_error", "errback"))
    for option, kind in kinds:
        given: Any = call.options.get(option) or ()
        for callback in cast("Sequence[Drawn]", given if isinstance(given, (list, tuple)) else (given,)):
            _draw(callback, sketch, None, None, (call_id, kind))
    return call_id


def _unused(sketch: GraphBuilder, given: str | None) -> str:
    return given if given is not None and given not in sketch else sketch.unused_id()
