"""A workflow as nodes and edges, as all that draws one has it."""

from __future__ import annotations

from typing import Final, Literal

from ..core.values import value

#: What a node stands for: a call; a group; nodes that are left out of a drawing.
NodeKind = Literal["task", "group", "more"]
#: How an edge leads on: from a step to the next of its chain; from a group to the first call of a member, and to the
#: first call of what gets its values; from a call to its callbacks, error callbacks, and what it sent while it ran.
EdgeKind = Literal["next", "member", "body", "callback", "errback", "child"]
#: Edges that lead away from a chain, to what hangs on one of its steps.
HANGING: Final[tuple[EdgeKind, ...]] = ("callback", "errback", "child")


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
