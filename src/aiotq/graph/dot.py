"""A workflow in Graphviz's language.

Source: Graphviz, "DOT Language".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from .graph import HANGING, EdgeKind
from .layout import Item, Line, items_in
from .text import colours_of, printable

_STYLES: Final[dict[EdgeKind, str]] = {
    "member": "arrowhead=none",
    "callback": 'style=dashed, label="link"',
    "errback": 'style=dashed, color="#c0392b", label="link_error"',
    "child": 'style=dotted, label="sent"',
}


def as_dot(lines: Sequence[Line]) -> str:
    """Return `lines` as a directed graph. What follows a group is led to by the last call of each member."""
    rows = [
        "digraph workflow {",
        "  rankdir=LR;",
        '  node [shape=box, style="rounded,filled", fontname="monospace", fontsize=11];',
        '  edge [fontname="monospace", fontsize=9];',
    ]
    for line in lines:
        rows += [f"  {_node(item)};" for item in items_in(line)]
    for line in lines:
        rows += [f"  {edge};" for edge in _edges(line)]
    return "\n".join([*rows, "}"])


def _node(item: Item) -> str:
    node = item.node
    fill, border, _ = colours_of(node.state)
    label = node.label if node.state is None or node.kind == "more" else f"{node.label}\n{node.state}"
    shape = ', shape=ellipse, style="filled"' if node.kind == "group" else ""
    if node.kind == "more":
        shape, border = ", shape=plaintext", "#ffffff"
        fill = border
    return f'{_quoted(node.id)} [label={_quoted(label)}, fillcolor="{fill}", color="{border}"{shape}]'


def _edges(line: Line) -> Iterator[str]:
    before: list[Item] = []
    for item in line:
        for source in before:
            yield f"{_quoted(source.node.id)} -> {_quoted(item.node.id)}"
        for member in item.members:
            yield _edge(item, member[0], "member")
            yield from _edges(member)
        for kind, hung in item.hanging:
            yield _edge(item, hung[0], kind if kind in HANGING else "callback")
            yield from _edges(hung)
        before = _ends([item])


def _ends(line: Line) -> list[Item]:
    """Return the items from which it goes on behind `line`."""
    last = line[-1]
    return [end for member in last.members for end in _ends(member)] or [last]


def _edge(source: Item, target: Item, kind: EdgeKind) -> str:
    return f"{_quoted(source.node.id)} -> {_quoted(target.node.id)} [{_STYLES[kind]}]"


def _quoted(text: str) -> str:
    lines = [printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in text.split("\n")]
    return '"' + "\\n".join(lines) + '"'
