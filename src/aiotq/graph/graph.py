"""Workflows to look at: as data, as a tree of text, as DOT, as SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .. import states
from ..core.values import value
from .nodes import Edge, EdgeKind, Node, NodeKind

__all__ = ["Edge", "EdgeKind", "Graph", "GraphBuilder", "Node", "NodeKind"]

#: Nodes of a drawing; of larger workflows parts are left out.
_LIMIT: Final = 200


@value
class Graph:
    """A workflow, planned or under way: its calls and groups, and what leads from one to the other.

    graph = await result.graph()
    print(graph.text())
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...] = ()

    def __len__(self) -> int:
        return len(self.nodes)

    def text(self, *, limit: int | None = _LIMIT, colour: bool = False) -> str:
        """Return it as a tree of lines; `colour` for terminals. Beyond `limit` nodes parts are counted only."""
        from .drawing import text  # noqa: PLC0415

        return text(self.nodes, self.edges, limit, colour=colour)

    def dot(self, *, limit: int | None = _LIMIT) -> str:
        """Return it in Graphviz's language. Beyond `limit` nodes parts are counted only."""
        from .drawing import dot  # noqa: PLC0415

        return dot(self.nodes, self.edges, limit)

    def svg(self, *, limit: int | None = _LIMIT) -> str:
        """Return it as a drawing. Beyond `limit` nodes parts are counted only."""
        from .drawing import svg  # noqa: PLC0415

        return svg(self.nodes, self.edges, limit)


@dataclass(slots=True)
class _Element:
    """A node to be. One edge leads to it: from what it comes `after`, or hangs `on`, or else is `inside`."""

    id: str
    kind: NodeKind
    task: str | None = None
    label: str = ""
    state: str | None = None
    inside: str | None = None
    after: str | None = None
    on: tuple[str, EdgeKind] | None = None


class GraphBuilder:
    """A graph that is being put together. What is said of an element first stays."""

    def __init__(self) -> None:
        self._elements: dict[str, _Element] = {}

    def __contains__(self, element_id: str) -> bool:
        return element_id in self._elements

    def __len__(self) -> int:
        return len(self._elements)

    @property
    def calls(self) -> list[str]:
        """The ids of all calls in it."""
        return [element.id for element in self._elements.values() if element.kind == "task"]

    def group_of(self, element_id: str) -> str | None:
        """Return the group that an element is in."""
        return self._elements[element_id].inside

    def unused_id(self) -> str:
        """Return an id for what has none of its own yet."""
        return f"#{len(self._elements) + 1}"

    def call(
        self,
        call_id: str,
        task: str | None = None,
        *,
        label: str = "",
        inside: str | None = None,
        after: str | None = None,
        on: tuple[str, EdgeKind] | None = None,
    ) -> str:
        """Have a call there, in a group, `after` another element or hanging `on` one; return its id."""
        self._elements.setdefault(call_id, _Element(call_id, "task", task, label, None, inside, after, on))
        return call_id

    def group(
        self,
        group_id: str,
        *,
        inside: str | None = None,
        after: str | None = None,
        on: tuple[str, EdgeKind] | None = None,
    ) -> str:
        """Have a group there; as `call`."""
        self._elements.setdefault(group_id, _Element(group_id, "group", inside=inside, after=after, on=on))
        return group_id

    def tell(self, call_id: str, state: str, task: str | None) -> None:
        """Say how a call is, and what it is called if that was not known."""
        element = self._elements[call_id]
        element.state = state
        element.task = element.task or task

    def graph(self) -> Graph:
        """Return what it has become."""
        elements = list(self._elements.values())
        edges = [edge for element in elements if (edge := self._edge_to(element)) is not None]
        counts = Counter(edge.source for edge in edges if edge.kind == "member")
        tallies = self._tallies()
        return Graph(tuple(_node(element, counts[element.id], tallies) for element in elements), tuple(edges))

    def _edge_to(self, element: _Element) -> Edge | None:
        before = self._elements.get(element.after or "")
        if before is not None:
            return Edge(before.id, element.id, "body" if before.kind == "group" else "next")
        if element.on is not None and element.on[0] in self._elements:
            return Edge(element.on[0], element.id, element.on[1])
        if element.inside is not None and element.inside in self._elements:
            return Edge(element.inside, element.id, "member")
        return None

    def _tallies(self) -> dict[str, set[str | None]]:
        """Return the states of the calls in each group, those in inner groups too."""
        found: dict[str, set[str | None]] = {}
        for element in self._elements.values():
            if element.kind != "task":
                continue
            group, seen = element.inside, set[str]()
            while group is not None and group in self._elements and group not in seen:
                seen.add(group)
                found.setdefault(group, set()).add(element.state)
                group = self._elements[group].inside
        return found


def _node(element: _Element, count: int, tallies: Mapping[str, set[str | None]]) -> Node:
    if element.kind == "task":
        return Node(element.id, "task", element.task, element.state, element.label or element.task or element.id)
    return Node(element.id, "group", None, _state_of(tallies.get(element.id, set())), f"group of {count:,}", count)


def _state_of(found: set[str | None]) -> str | None:
    """Return the state of a group whose calls are in these states."""
    known = found - {None}
    if not known:
        return None
    if known & {states.FAILURE, states.REVOKED}:
        return states.FAILURE
    if known == {states.SUCCESS}:
        return states.SUCCESS
    return states.PENDING if known == {states.PENDING} else states.STARTED
