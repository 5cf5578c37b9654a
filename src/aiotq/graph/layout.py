"""From nodes and edges to lines of steps in lines of steps, as people read workflows; and what is too much left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import field, replace
from typing import Final

from ..core.values import value
from .builder import left_out_node
from .graph import HANGING, Edge, EdgeKind, Node

#: Groups in groups that are drawn.
_MAX_DEPTH: Final = 60
#: Members of a group, or steps of a chain, that are drawn when there are too many nodes; fewer if there still are.
_SHOWN: Final = (20, 12, 8, 5, 3, 2, 1)


@value(eq=False)
class Item:
    """A node; if it is a group, the lines of its members; and the lines that hang on it, with how they do."""

    node: Node
    members: list[Line] = field(default_factory=list["Line"])
    hanging: list[tuple[EdgeKind, Line]] = field(default_factory=list["tuple[EdgeKind, Line]"])


#: Steps that follow each other.
Line = list[Item]


def outline(nodes: Sequence[Node], edges: Sequence[Edge], limit: int | None = None) -> list[Line]:
    """Return `nodes` as lines, one for each node that nothing leads to; each node is in one place.

    Of more than `limit` nodes some of each group and chain are left out, and counted.
    """
    lines = _Reading(nodes, edges).lines()
    if limit is None or len(nodes) <= limit:
        return lines
    shown = lines
    for most in _SHOWN:
        shown = [_shortened(line, most) for line in lines]
        if sum(1 for line in shown for _ in items_in(line)) <= limit:
            break
    return shown


def items_in(line: Line) -> Iterator[Item]:
    """Yield all items of `line`, those in others too."""
    for item in line:
        yield item
        for inner in [*item.members, *(hung for _, hung in item.hanging)]:
            yield from items_in(inner)


class _Reading:
    def __init__(self, nodes: Sequence[Node], edges: Sequence[Edge]) -> None:
        self._nodes = {node.id: node for node in nodes}
        self._edges: dict[str, list[Edge]] = {}
        led_to: set[str] = set()
        for edge in edges:
            if edge.source in self._nodes and edge.target in self._nodes:
                self._edges.setdefault(edge.source, []).append(edge)
                led_to.add(edge.target)
        self._roots = [node.id for node in nodes if node.id not in led_to]
        self._seen: set[str] = set()

    def lines(self) -> list[Line]:
        lines = [self._line(root, 0) for root in self._roots]
        lines += [self._line(left, 0) for left in self._nodes if left not in self._seen]  # a circle has no beginning
        return lines

    def _line(self, start: str, depth: int) -> Line:
        if depth > _MAX_DEPTH:
            self._seen.add(start)
            return [Item(more(start, [[Item(self._nodes[start])]]))]
        line: Line = []
        at: str | None = start
        while at is not None and at not in self._seen:
            self._seen.add(at)
            item, at = self._item(at, depth)
            line.append(item)
        return line

    def _item(self, node_id: str, depth: int) -> tuple[Item, str | None]:
        """Return the item of a node, and the node that follows it."""
        item = Item(self._nodes[node_id])
        following: str | None = None
        for edge in self._edges.get(node_id, ()):
            if edge.target in self._seen:
                continue
            if edge.kind == "member":
                item.members.append(self._line(edge.target, depth + 1))
            elif edge.kind in HANGING:
                item.hanging.append((edge.kind, self._line(edge.target, depth + 1)))
            elif following is None:
                following = edge.target
            else:  # two steps follow it, as contradicting records may say
                item.hanging.append((edge.kind, self._line(edge.target, depth + 1)))
        return item, following


def _shortened(line: Line, most: int) -> Line:
    kept = line
    if len(line) > 2 * most + 2:
        left_out = line[most:-most]
        kept = [*line[:most], Item(more(line[most].node.id, [[step] for step in left_out])), *line[-most:]]
    return [_shortened_item(item, most) for item in kept]


def _shortened_item(item: Item, most: int) -> Item:
    members, hanging = item.members, item.hanging
    if len(members) > most + 1:
        rest = more(f"{item.node.id}+members", members[most:])
        members = [*members[:most], [Item(rest)]]
    if len(hanging) > most + 1:
        rest = more(f"{item.node.id}+more", [line for _, line in hanging[most:]])
        hanging = [*hanging[:most], (hanging[most][0], [Item(rest)])]
    return replace(
        item,
        members=[_shortened(line, most) for line in members],
        hanging=[(kind, _shortened(line, most)) for kind, line in hanging],
    )


def _nodes_in(line: Line) -> list[Node]:
    return [item.node for item in items_in(line)]


def more(node_id: str, left_out: Sequence[Line]) -> Node:
    """Return the node that stands for so many lines; one that only counts itself stands for what it counts."""
    count = sum(line[0].node.count if line[0].node.kind == "more" else 1 for line in left_out)
    return left_out_node(node_id, count, tallied([node for line in left_out for node in _nodes_in(line)]))


def tallied(nodes: Sequence[Node]) -> str:
    """Return how many tasks among `nodes` are in which state: `9,000 SUCCESS, 980 PENDING`."""
    counts = Counter(node.state for node in nodes if node.kind == "task" and node.state is not None)
    return ", ".join(f"{count:,} {state}" for state, count in counts.most_common())
