"""A workflow as an SVG, laid out without any library: chains from left to right, members of groups below each other.

A workflow is lines in lines, so blocks in blocks are enough: nothing crosses, and a step is where readers look for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from .graph import Node
from .layout import Item, Line, items_in
from .text import WORDS, colours_of, printable

#: Pixels: of a letter in a monospaced face of 12 (of 10), of a box with one line (two), between boxes.
_LETTER: Final = 7.25
_SMALL: Final = 6.05
_BOX: Final = 26
_TALL: Final = 38
_GAP: Final = 30
_BETWEEN: Final = 8
_PADDING: Final = 10
_TITLE: Final = 18
#: How far what hangs on a step stands in from it, and the words on the way there.
_INDENT: Final = 16
#: Chains are continued on a further row beyond this.
_WIDTH: Final = 1160
#: Letters of a label; all of them are in the box's tooltip.
_LETTERS: Final = 30
#: Members of a group, each of a single call, that stand below each other; more are set in columns.
_COLUMN: Final = 8


class _Block:
    """A drawing with its size; `axis` is the height at which arrows come in, and leave from `right`."""

    def __init__(self, width: float, height: float, axis: float, right: float) -> None:
        self.width, self.height, self.axis, self.right = width, height, axis, right
        self._own: list[tuple[float, float, str]] = []
        self._inner: list[tuple[float, float, _Block]] = []

    def shape(self, x: float, y: float, text: str) -> None:
        """Draw `text` moved by `x`, `y`."""
        self._own.append((x, y, text))

    def put(self, x: float, y: float, block: _Block) -> None:
        self._inner.append((x, y, block))
        self.width, self.height = max(self.width, x + block.width), max(self.height, y + block.height)

    def drawn(self, x: float, y: float, rows: list[str]) -> None:
        """Add this block, its corner at `x`, `y`, to `rows`."""
        rows += [f'<g transform="translate({_n(x + dx)},{_n(y + dy)})">{text}</g>' for dx, dy, text in self._own]
        for dx, dy, block in self._inner:
            block.drawn(x + dx, y + dy, rows)


def as_svg(lines: Sequence[Line]) -> str:
    """Return `lines` as an SVG document."""
    page = _Block(0, 0, 0, 0)
    for line in lines:
        page.put(0, page.height + (_GAP if page.height else 0), _line(line))
    nodes = [item.node for line in lines for item in items_in(line)]
    legend = _legend(nodes)
    if legend is not None:
        page.put(0, page.height + 14, legend)
    width, height = page.width + 2 * _PADDING, page.height + 2 * _PADDING
    rows: list[str] = []
    page.drawn(_PADDING, _PADDING, rows)
    size = f'width="{_n(width)}" height="{_n(height)}" viewBox="0 0 {_n(width)} {_n(height)}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
            'font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="12">',
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#7d8894"/></marker></defs>',
            f'<rect width="{_n(width)}" height="{_n(height)}" fill="#ffffff"/>',
            *rows,
            "</svg>",
            "",
        ]
    )


def _line(line: Line) -> _Block:
    """Return steps side by side, in rows if they are many."""
    rows: list[list[_Block]] = [[]]
    width = 0.0
    for item in line:
        block = _item(item)
        if rows[-1] and width + block.width > _WIDTH:
            rows.append([])
            width = 0.0
        rows[-1].append(block)
        width += block.width + _GAP
    whole = _Block(0, 0, max(block.axis for block in rows[0]), 0)
    top, left_from = 0.0, (0.0, 0.0)
    for number, row in enumerate(rows):
        axis = max(block.axis for block in row)
        x = _GAP if number else 0.0
        if number:
            _turn(whole, left_from, (x, top + axis))
        for at, block in enumerate(row):
            if at:
                _arrow(whole, left_from, (x, top + axis))
            whole.put(x, top + axis - block.axis, block)
            left_from = (x + block.right, top + axis)
            x += block.width + _GAP
        top = whole.height + _GAP
    whole.right = left_from[0]
    if len(rows) > 1:  # what follows a block of rows follows its last
        whole.right = whole.width
    return whole


def _arrow(block: _Block, source: tuple[float, float], target: tuple[float, float]) -> None:
    (x1, y1), (x2, _) = source, target
    block.shape(x1 + 2, y1, f'<path d="M0 0 H{_n(x2 - x1 - 4)}" {_STROKE} marker-end="url(#arrow)"/>')


def _turn(block: _Block, source: tuple[float, float], target: tuple[float, float]) -> None:
    """Draw the way from the end of a row to the beginning of the next."""
    (x1, y1), (x2, y2) = source, target
    between = block.height + _GAP / 2 - y1
    path = f"M0 0 h10 V{_n(between)} H{_n(x2 - x1 - 18)} V{_n(y2 - y1)} H{_n(x2 - x1 - 4)}"
    block.shape(x1 + 2, y1, f'<path d="{path}" {_STROKE} marker-end="url(#arrow)"/>')
    block.width = max(block.width, x1 + 14)


_STROKE: Final = 'fill="none" stroke="#7d8894" stroke-width="1.3"'


def _item(item: Item) -> _Block:
    block = _group(item) if item.node.kind == "group" else _box(item.node)
    if not item.hanging:
        return block
    main_height, main_width = block.height, block.width
    whole = _Block(main_width, main_height, block.axis, block.right)
    whole.put(0, 0, block)
    for kind, line in item.hanging:
        hung = _line(line)
        word = WORDS.get(kind, kind)
        y = whole.height + _BETWEEN
        x = _INDENT + len(word) * _SMALL + 14
        colour = "#c0392b" if kind == "errback" else "#7d8894"
        stroke = f'fill="none" stroke="{colour}" stroke-width="1.2" stroke-dasharray="4 3"'
        down = y + hung.axis - main_height
        path = f'<path d="M0 0 V{_n(down)} H{_n(x - _INDENT + 4)}" {stroke} marker-end="url(#arrow)"/>'
        whole.shape(_INDENT - 6, main_height, path)
        whole.shape(_INDENT + 2, y + hung.axis - 4, f'<text font-size="10" fill="{colour}">{word}</text>')
        whole.put(x, y, hung)
    return whole


def _box(node: Node) -> _Block:
    label = _short(node.label)
    fill, border, ink = colours_of(node.state)
    if node.kind == "more":
        text = printable(node.label)
        block = _Block(len(text) * _LETTER + 8, _BOX, _BOX / 2, len(text) * _LETTER + 8)
        block.shape(4, 17, f'<text fill="#555555" font-style="italic">{escape(text)}</text>')
        return block
    second = node.state or ""
    width = max(len(label) * _LETTER, len(second) * _SMALL, 30) + 2 * _PADDING
    height = _TALL if second else _BOX
    block = _Block(width, height, height / 2, width)
    title = f"{node.label}\n{node.id}" if second else node.label
    words = f'<text x="{_n(width / 2)}" y="17" text-anchor="middle" fill="{ink}">{escape(label)}</text>'
    if second:
        words += (
            f'<text x="{_n(width / 2)}" y="31" text-anchor="middle" font-size="10" fill="{ink}" '
            f'opacity="0.75">{escape(_short(second))}</text>'
        )
    block.shape(
        0,
        0,
        f"<title>{escape(_clean(title))}</title>"
        f'<rect width="{_n(width)}" height="{height}" rx="6" fill="{fill}" stroke="{border}"/>{words}',
    )
    return block


def _group(item: Item) -> _Block:
    """Return a frame round the members; those of a single call each are set in columns if they are many."""
    members = [_line(line) for line in item.members]
    inner = _Block(0, 0, 0, 0)
    columns = 1
    if len(members) > _COLUMN and all(len(line) == 1 and _is_plain(line[0]) for line in item.members):
        columns = max(2, round(math.sqrt(len(members) / 3)))
    widest = max((block.width for block in members), default=0)
    rows = math.ceil(len(members) / columns)
    x = y = 0.0
    for at, block in enumerate(members):
        inner.put(x, y, block)
        y += block.height + _BETWEEN
        if (at + 1) % max(rows, 1) == 0:
            x, y = x + widest + _BETWEEN, 0.0
    node = item.node
    _, border, ink = colours_of(node.state)
    title = node.label if node.state is None else f"{node.label} · {node.state}"
    width = max(inner.width, len(title) * _SMALL) + 2 * _PADDING
    height = inner.height + _TITLE + (_PADDING if members else 6)
    block = _Block(width, height, height / 2, width)
    block.shape(
        0,
        0,
        f'<rect width="{_n(width)}" height="{_n(height)}" rx="9" fill="#fafbfc" stroke="{border}" '
        f'stroke-dasharray="5 3"/><text x="{_PADDING}" y="13" font-size="10" fill="{ink}">{escape(title)}</text>',
    )
    block.put(_PADDING, _TITLE, inner)
    return block


def _is_plain(item: Item) -> bool:
    return not item.members and not item.hanging and item.node.kind != "group"


def _legend(nodes: Sequence[Node]) -> _Block | None:
    """Return how many calls are in which state; None for what is only planned."""
    counts: dict[str, int] = {}
    for node in nodes:
        if node.kind == "task" and node.state is not None:
            counts[node.state] = counts.get(node.state, 0) + 1
    if not counts:
        return None
    legend = _Block(0, 14, 7, 0)
    x = 0.0
    for state, count in counts.items():
        fill, border, _ = colours_of(state)
        text = f"{count:,} {_short(state)}"
        square = f'<rect y="2" width="10" height="10" rx="2" fill="{fill}" stroke="{border}"/>'
        legend.shape(x, 0, f'{square}<text x="15" y="11" font-size="10" fill="#444444">{escape(text)}</text>')
        x += 15 + len(text) * _SMALL + 16
    legend.width = x
    return legend


def _short(text: str) -> str:
    """Return `text` so that it fits into a box: without the modules of a task's name, then without its end."""
    whole = printable(text)
    while len(whole) > _LETTERS and "." in (name := whole.partition("(")[0]):
        whole = whole[name.index(".") + 1 :]
    return whole if len(whole) <= _LETTERS else f"{whole[: _LETTERS - 1]}…"


def _clean(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def _n(number: float) -> str:
    """Return a number of pixels, as short as it can be."""
    return f"{number:.1f}".removesuffix(".0")
