"""Workflows to look at: as data, as a tree of text, as DOT, as SVG."""

from __future__ import annotations

from typing import Final, Literal

from ..core.values import value

#: What a node stands for: a call; a group; nodes that are left out.
NodeKind = Literal["task", "group", "more"]
#: How an edge leads on: from a step to the next of its chain; from a group to the first call of a member, and to the
#: first call of what gets its values; from a call to its callbacks, error callbacks, and what it sent while it ran.
EdgeKind = Literal["next", "member", "body", "callback", "errback", "child"]
#: Edges that lead away from a chain, to what hangs on one of its steps.
HANGING: Final[tuple[EdgeKind, ...]] = ("callback", "errback", "child")
#: Nodes of a drawing; of larger workflows parts are left out.
_LIMIT: Final = 200


@value
class Node:
    """A call or a group. `state` is None as long as it is only planned; `label` is what is written on it."""

    id: str
    kind: NodeKind = "task"
    task: str | None = None  #: the task's name, if it is known
    state: str | None = None
    label: str = ""
    count: int = 0  #: members of a group; nodes that "more" stands for


@value
class Edge:
    """An arrow from one node to another, by their ids."""

    source: str
    target: str
    kind: EdgeKind


@value
class Graph:
    """A workflow, planned or under way: its calls and groups, and what leads from one to the other.

    ```python
    graph = await result.graph()
    print(graph.text())
    ```
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
