"""A workflow as lines of text; and how states look in every drawing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from .. import states
from .graph import EdgeKind, Node
from .layout import Item, Line

_RESET: Final = "\x1b[0m"
#: ANSI colours of states; custom ones are those of running tasks.
_ON_TERMINALS: Final = {
    states.PENDING: "\x1b[2m",
    states.RECEIVED: "\x1b[2m",
    states.SUCCESS: "\x1b[32m",
    states.FAILURE: "\x1b[31m",
    states.REVOKED: "\x1b[35m",
    states.IGNORED: "\x1b[35m",
    states.RETRY: "\x1b[33m",
}
_RUNNING_ON_TERMINALS: Final = "\x1b[34m"
#: Fill, border and text; legible for those who see no difference between red and green too, who have the words.
_COLOURS: Final[dict[str | None, tuple[str, str, str]]] = {
    None: ("#eef3fb", "#7a93b8", "#1f2d3d"),
    states.PENDING: ("#f4f4f4", "#a8a8a8", "#555555"),
    states.RECEIVED: ("#f4f4f4", "#a8a8a8", "#555555"),
    states.SUCCESS: ("#ddf3e0", "#3d9a50", "#16431f"),
    states.FAILURE: ("#fbdedb", "#c0392b", "#5c1710"),
    states.REVOKED: ("#eadff2", "#8456a8", "#3b2151"),
    states.IGNORED: ("#eadff2", "#8456a8", "#3b2151"),
    states.RETRY: ("#fdeecb", "#c98a12", "#5a3d05"),
}
_RUNNING: Final = ("#d9ebfd", "#2b7bc0", "#10385c")
#: What hangs on a step, and how.
WORDS: Final[dict[EdgeKind, str]] = {
    "callback": "link",
    "errback": "link_error",
    "child": "sent",
    "next": "next",
}
_MAX_WIDTH: Final = 60


def as_text(lines: Sequence[Line], *, colour: bool = False) -> str:
    """Return `lines` as a tree; behind each call its state and id, if it has been sent."""
    rows = [row for line in lines for row in _of_line(line, "", "")]
    width = min(_MAX_WIDTH, max((len(text) for text, node in rows if node.state is not None), default=0))
    return "\n".join(_row(text, node, width, colour) for text, node in rows)


def _row(text: str, node: Node, width: int, colour: bool) -> str:
    if node.state is None:
        return text
    state = f"{printable(node.state):8}"
    if colour:
        state = f"{_ON_TERMINALS.get(node.state, _RUNNING_ON_TERMINALS)}{state}{_RESET}"
    shown_id = f"  {printable(node.id)}" if node.kind == "task" else ""
    return f"{text:{width}}  {state}{shown_id}".rstrip()


def _of_line(line: Line, head: str, indent: str) -> Iterator[tuple[str, Node]]:
    """Yield the rows of a line: its first begins with `head`, the others with `indent`."""
    for at, item in enumerate(line):
        arrow = "→ " if at else ""
        yield (indent if at else head) + arrow + printable(item.node.label), item.node
        yield from _of_item(item, indent + "  ")


def _of_item(item: Item, indent: str) -> Iterator[tuple[str, Node]]:
    branches: list[tuple[str, Line]] = [("", line) for line in item.members]
    branches += [(f"{WORDS.get(kind, kind)}: ", line) for kind, line in item.hanging]
    for at, (word, line) in enumerate(branches):
        is_last = at == len(branches) - 1
        yield from _of_line(
            line, f"{indent}{'└─' if is_last else '├─'} {word}", f"{indent}{'  ' if is_last else '│ '} "
        )


def printable(text: str) -> str:
    """Return `text` on one line, without what a terminal would obey or XML forbids: names come from anywhere."""
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def colours_of(state: str | None) -> tuple[str, str, str]:
    """Return fill, border and text of a node in `state`; custom states are those of running tasks."""
    return _COLOURS.get(state, _RUNNING)
