"""A workflow as an SVG in the colours of its states, from left to right; and the same in words, as a list.

The lines that `graph/layout.py` makes of a graph are blocks in blocks: steps side by side, members below each other.
Geometry stands in attributes, colour in classes; there is no style in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from markupsafe import Markup, escape

from ... import states
from ...core.values import replace, value
from ...graph.graph import EdgeKind, Graph, Node
from ...graph.layout import Item, Line, items_in, outline
from . import words

#: Pixels: of a node, between steps, between members, inside a frame, of its title, of the ring of a join.
_WIDTH: Final = 168
_HEIGHT: Final = 42
_GAP: Final = 30
_BETWEEN: Final = 8
_PAD: Final = 14
_TITLE: Final = 30
_RING: Final = 20
#: How far what hangs on a step stands in from it.
_INDENT: Final = 22
#: Nodes that are drawn, letters of a name, and members from which on those that ended well are folded.
MOST_NODES: Final = 150
_LETTERS: Final = 17
_FOLDED: Final = 6


@value
class Step:
    """A line of the list beside the graph."""

    depth: int
    words: str
    id: str | None
    state: str | None
    more: str


@value
class Drawn:
    """A workflow as a drawing, as a list, and how many of its calls are in which state."""

    svg: Markup
    steps: Sequence[Step]
    counts: Mapping[str, int]
    total: int
    ended: int


def draw(
    graph: Graph, link: Callable[[str], str], selected: str | None, ran: Mapping[str, float], *, unfolds: bool
) -> Drawn:
    """Return `graph` as it is shown; `link` gives the address of a call's page. What ended well is folded.

    `ran` are the seconds that calls ran for, by their ids, as far as that is known.
    """
    lines = [_planned(line, may_start=True) for line in outline(graph.nodes, graph.edges, None)]
    calls = [item.node for line in lines for item in items_in(line) if item.node.kind == "task"]
    counts = Counter(state_key(node.state) for node in calls)
    ended = sum(node.state is not None and states.is_ready(node.state) for node in calls)
    if not unfolds:
        lines = [_folded(line) for line in lines]
    if sum(1 for line in lines for _ in items_in(line)) > MOST_NODES:
        lines = [_planned(line, may_start=True) for line in outline(graph.nodes, graph.edges, MOST_NODES)]
    return Drawn(_svg(lines, _Pen(link, selected, ran)), list(_steps(lines, 0, ran)), counts, len(calls), ended)


def state_key(state: str | None) -> str:
    """Return under which word a state is counted and coloured."""
    return words.state(state).css


def _planned(line: Line, *, may_start: bool) -> Line:
    """Return a line in which calls that nothing has sent yet have no state: what is before them has not ended."""
    found: Line = []
    for item in line:
        node = item.node
        if node.state == states.PENDING and not may_start:
            node = replace(node, state=None)
        members = [_planned(each, may_start=may_start) for each in item.members]
        has_ended = node.state is not None and states.is_ready(node.state)
        hanging: list[tuple[EdgeKind, Line]] = [
            (kind, _planned(each, may_start=has_ended)) for kind, each in item.hanging
        ]
        found.append(Item(node, members, hanging))
        may_start = all(_has_succeeded(each[-1].node) for each in members) if members else _has_succeeded(node)
    return found


def _has_succeeded(node: Node) -> bool:
    return node.state == states.SUCCESS


def _folded(line: Line) -> Line:
    """Return a line in whose groups the members that ended well are one, where there are many."""
    found: Line = []
    for item in line:
        members = [_folded(each) for each in item.members]
        well = [each for each in members if all(_is_well(inner.node) for inner in items_in(each))]
        if len(members) > _FOLDED and len(well) > 1:
            names = Counter(words.function_of(each[-1].node.task or each[-1].node.label) for each in well)
            label = f"{len(well):,} {names.most_common(1)[0][0]}"
            node = Node(f"{item.node.id}+well", "more", state=states.SUCCESS, label=label, count=len(well))
            members = [[Item(node)], *(each for each in members if each not in well)]
        found.append(Item(item.node, members, [(kind, _folded(each)) for kind, each in item.hanging]))
    return found


def _is_well(node: Node) -> bool:
    return node.kind != "task" or node.state == states.SUCCESS


class _Block:
    """A drawing with its size; `axis` is the height at which arrows come in and leave."""

    def __init__(self, width: float, height: float, axis: float) -> None:
        self.width, self.height, self.axis = width, height, axis
        self._own: list[tuple[float, float, Callable[[float, float], str]]] = []
        self._inner: list[tuple[float, float, _Block]] = []

    def shape(self, x: float, y: float, draw: Callable[[float, float], str]) -> None:
        self._own.append((x, y, draw))

    def put(self, x: float, y: float, block: _Block) -> None:
        self._inner.append((x, y, block))
        self.width, self.height = max(self.width, x + block.width), max(self.height, y + block.height)

    def drawn(self, x: float, y: float) -> Iterator[str]:
        """Yield this block's markup, its corner at `x`, `y`."""
        for dx, dy, draw in self._own:
            yield draw(x + dx, y + dy)
        for dx, dy, block in self._inner:
            yield from block.drawn(x + dx, y + dy)


class _Pen:
    """Draws blocks; knows where a call's page is, which call is looked at, and for how long each ran."""

    def __init__(self, link: Callable[[str], str], selected: str | None, ran: Mapping[str, float]) -> None:
        self._link = link
        self._ran = ran
        self._selected = selected

    def line(self, line: Line) -> _Block:
        """Return steps side by side, with what leads from one to the next."""
        blocks = [self._item(item) for item in line]
        axis = max(block.axis for block in blocks)
        whole, x = _Block(0, 0, axis), 0.0
        for number, (item, block) in enumerate(zip(line, blocks, strict=True)):
            if number:
                before = line[number - 1]
                x = self._lead(whole, before, item, x, axis)
            whole.put(x, axis - block.axis, block)
            x += block.width
        return whole

    def _lead(self, whole: _Block, before: Item, after: Item, x: float, axis: float) -> float:
        """Draw the way from one step to the next, with the ring of a join; return where the next begins."""
        css = _edge(before, after)
        if before.node.kind == "group" and before.members:
            done, total = _joined(before)
            whole.shape(x, axis, lambda x, y: _edge_path(x, y, 14, css, has_arrow=False))
            whole.shape(x + 14 + _RING, axis, lambda x, y: _ring(x, y, done, total))
            x += 14 + 2 * _RING
        whole.shape(x, axis, lambda x, y: _edge_path(x, y, _GAP, css))
        return x + _GAP

    def _item(self, item: Item) -> _Block:
        block = self._group(item) if item.node.kind == "group" else self._node(item.node)
        if not item.hanging:
            return block
        whole = _Block(block.width, block.height, block.axis)
        whole.put(0, 0, block)
        bottom = block.height
        for kind, line in item.hanging:
            hung = self.line(line)
            y, word = whole.height + _BETWEEN, _KINDS.get(kind, kind)
            css = "bad" if kind == "errback" else "plan"
            down = y + hung.axis - bottom
            whole.shape(_INDENT / 2, bottom, partial(_hung, down=down, css=css, word=word))
            whole.put(_INDENT + _GAP, y, hung)
        return whole

    def _node(self, node: Node) -> _Block:
        block = _Block(_WIDTH, _HEIGHT, _HEIGHT / 2)
        block.shape(0, 0, lambda x, y: self._node_at(node, x, y))
        return block

    def _node_at(self, node: Node, x: float, y: float) -> str:
        state = words.state(node.state)
        name = node.label if node.kind == "more" else words.function_of(node.task or node.label or node.id)
        second = f"{node.count:,} left out" if node.kind == "more" and node.state is None else state.word
        if node.kind == "more" and node.state is not None:
            second = "all succeeded, folded"
        if node.kind == "task" and node.id in self._ran:
            second = f"{state.word} · {words.duration(self._ran[node.id])}"
        css = f"g-node {state.css}" + (" sel" if node.id == self._selected else "")
        title = f"{node.task or name}: {second}"
        inner = (
            f"<title>{escape(title)}</title>"
            f'<rect class="b" x="{_n(x)}" y="{_n(y)}" width="{_WIDTH}" height="{_HEIGHT}" rx="7"/>'
            f'<use class="ic" href="#{state.icon}" x="{_n(x + 10)}" y="{_n(y + 13)}" width="16" height="16"/>'
            f'<text class="t1" x="{_n(x + 34)}" y="{_n(y + 18)}">{escape(words.clipped(name, _LETTERS))}</text>'
            f'<text class="t2" x="{_n(x + 34)}" y="{_n(y + 33)}">{escape(second)}</text>'
        )
        if node.kind == "more":
            return f'<g class="{css}">{inner}</g>'
        return f'<a href="{escape(self._link(node.id))}" class="{css}" aria-label="{escape(title)}">{inner}</a>'

    def _group(self, item: Item) -> _Block:
        """Return a frame round the members; single calls stand in two columns where there are many."""
        blocks = [self.line(line) for line in item.members]
        columns = 2 if len(blocks) > _FOLDED and all(block.width <= _WIDTH for block in blocks) else 1
        inner, x, y, row = _Block(0, 0, 0), 0.0, 0.0, 0.0
        for number, block in enumerate(blocks):
            inner.put(x, y, block)
            row = max(row, block.height)
            if (number + 1) % columns:
                x += _WIDTH + _BETWEEN * 2
            else:
                x, y, row = 0.0, y + row + _BETWEEN, 0.0
        done, total = _joined(item)
        width = max(inner.width, _WIDTH) + 2 * _PAD
        height = inner.height + _TITLE + _PAD
        block = _Block(width, height, height / 2)
        title = f"group of {item.node.count or len(item.members):,}"
        block.shape(0, 0, lambda x, y: _frame(x, y, width, height, title, f"{done:,} of {total:,}"))
        block.put(_PAD, _TITLE, inner)
        return block


_KINDS: Final = {"errback": "on failure", "callback": "then", "child": "sent", "body": "then", "next": "then"}


def _svg(lines: Sequence[Line], pen: _Pen) -> Markup:
    page = _Block(0, 0, 0)
    for line in lines:
        page.put(0, page.height + (_GAP if page.height else 0), pen.line(line))
    width, height = page.width + 2 * _GAP, page.height + 2 * _GAP
    drawn = "".join(page.drawn(_GAP, _GAP))
    size = f'width="{_n(width)}" height="{_n(height)}" viewBox="0 0 {_n(width)} {_n(height)}"'
    # All of it is numbers, our classes, and escaped texts.
    return Markup(f'<svg {size} role="group" aria-label="The workflow as a graph">{drawn}</svg>')


def _joined(item: Item) -> tuple[int, int]:
    """Return how many members of a group have ended, and of how many."""
    done = total = 0
    for line in item.members:
        last = line[-1].node
        size = last.count if last.kind == "more" else 1
        total += size
        done += size if last.state is not None and states.is_ready(last.state) else 0
    return done, max(total, item.node.count)


def _edge(before: Item, after: Item) -> str:
    if after.node.state is not None and after.node.state != states.PENDING:
        return "now" if after.node.state == states.STARTED else "done"
    if before.node.state == states.SUCCESS:
        return "now"
    return "plan"


def _edge_path(x: float, y: float, length: float, css: str, *, has_arrow: bool = True) -> str:
    flow = " flow" if css == "now" else ""
    end = x + length - (5 if has_arrow else 0)
    path = f'<path class="e {css}{flow}" d="M{_n(x)} {_n(y)}H{_n(end)}"/>'
    return f"{path}{_arrow(x + length, y, css)}" if has_arrow else path


def _hung(x: float, y: float, down: float, css: str, word: str) -> str:
    tip, end = x + _INDENT / 2 + _GAP, y + down
    return (
        f'<path class="e {css}" d="M{_n(x)} {_n(y)}V{_n(end)}H{_n(tip - 5)}"/>{_arrow(tip, end, css)}'
        f'<text class="t2" x="{_n(x + 5)}" y="{_n(end - 6)}">{escape(word)}</text>'
    )


def _arrow(x: float, y: float, css: str) -> str:
    return f'<path class="a {css}" d="M{_n(x - 7)} {_n(y - 4)}L{_n(x)} {_n(y)}L{_n(x - 7)} {_n(y + 4)}z"/>'


def _ring(x: float, y: float, done: int, total: int) -> str:
    around = 125.7
    part = done / total * around if total else 0.0
    middle = f'cx="{_n(x)}" cy="{_n(y)}" r="{_RING}"'
    return (
        f"<g><title>The join waits: {done:,} of {total:,} have ended</title>"
        f'<circle class="ring" {middle}/>'
        f'<circle class="ring-on" {middle} stroke-dasharray="{part:.1f} {around}" '
        f'transform="rotate(-90 {_n(x)} {_n(y)})"/>'
        f'<text class="t2" x="{_n(x)}" y="{_n(y + 4)}" text-anchor="middle">{done}/{total}</text></g>'
    )


def _frame(x: float, y: float, width: float, height: float, title: str, count: str) -> str:
    return (
        f'<rect class="g-box" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="9"/>'
        f'<text class="t1" x="{_n(x + _PAD)}" y="{_n(y + 19)}">{escape(title)}</text>'
        f'<text class="t2" x="{_n(x + width - _PAD)}" y="{_n(y + 19)}" text-anchor="end">{escape(count)}</text>'
    )


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _steps(lines: Sequence[Line], depth: int, ran: Mapping[str, float]) -> Iterator[Step]:
    """Yield the lines of a workflow in words."""
    for line in lines:
        for item in line:
            node = item.node
            if node.kind == "group":
                done, total = _joined(item)
                yield Step(min(depth, 2), f"group of {total:,}", None, None, f"{done:,} of {total:,} ended")
                yield from _steps(item.members, depth + 1, ran)
            elif node.kind == "more":
                yield Step(min(depth, 2), node.label, None, node.state, "")
            else:
                took = words.duration(ran[node.id]) if node.id in ran else ""
                yield Step(min(depth, 2), node.task or node.label or node.id, node.id, node.state, took)
            for _, hung in item.hanging:
                yield from _steps([hung], depth + 1, ran)
