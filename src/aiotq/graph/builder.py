"""Putting a graph together, element by element or from a workflow's plan.

A plan is plain data: `{"tasks": [name, ...], "plan": part}`, where a part is one of
- a call: `[id, number of its task's name]`, with `[callbacks, error callbacks, label]` (each may be missing) behind;
- a chain: `{"steps": [part, ...], "more": steps that are left out}`;
- a group: `{"id": id, "size": members, "members": [part, ...]}`, of which the last ones may be left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from .. import states
from .graph import Edge, EdgeKind, Graph, Node

#: What hangs on a call in a plan, in this order.
_LINKS: Final[tuple[EdgeKind, ...]] = ("callback", "errback")


@dataclass(slots=True)
class Place:
    """Where an element stands: `after` another one, or hanging `on` one, or else first of a line `inside` a group."""

    inside: str | None = None
    after: str | None = None
    on: tuple[str, EdgeKind] | None = None


@dataclass(slots=True)
class _Element:
    id: str
    kind: Literal["task", "group"]
    place: Place
    task: str | None = None
    label: str = ""
    state: str | None = None
    size: int = 0  #: members of a group, those that are left out too
    more: int = 0  #: steps behind it that are left out


class GraphBuilder:
    """A graph that is being put together. What is said of an element first stays."""

    def __init__(self) -> None:
        self._elements: dict[str, _Element] = {}

    def __contains__(self, element_id: str) -> bool:
        return element_id in self._elements

    @property
    def calls(self) -> list[str]:
        """The ids of all calls in it."""
        return [element.id for element in self._elements.values() if element.kind == "task"]

    def group_of(self, element_id: str) -> str | None:
        """Return the group that an element is in."""
        return self._elements[element_id].place.inside

    def goes_on(self, call_id: str) -> bool:
        """Whether steps behind a call are left out."""
        return self._elements[call_id].more > 0

    def unused_id(self) -> str:
        """Return an id for what has none of its own yet."""
        number = len(self._elements) + 1
        while f"#{number}" in self._elements:
            number += 1
        return f"#{number}"

    def call(self, call_id: str, task: str | None = None, place: Place | None = None, *, label: str = "") -> str:
        """Have a call there; return its id."""
        self._elements.setdefault(call_id, _Element(call_id, "task", place or Place(), task, label))
        return call_id

    def group(self, group_id: str, place: Place | None = None, *, size: int = 0) -> str:
        """Have a group of `size` members there; return its id."""
        self._elements.setdefault(group_id, _Element(group_id, "group", place or Place(), size=size))
        return group_id

    def tell(self, call_id: str, state: str, task: str | None) -> None:
        """Say how a call is, and what it is called if that was not known."""
        element = self._elements[call_id]
        element.state = state
        element.task = element.task or task

    def draw(self, plan: Any, place: Place, *, links: Callable[[str], bool] = lambda _: True) -> None:
        """Have all of `plan` there; callbacks only of the calls for whose ids `links` is true."""
        _Plan(self, plan, links).draw(place)

    def put_before(self, call_id: str, plan: Any, *, links: Callable[[str], bool]) -> None:
        """Have `plan`, which ends with the call `call_id`, where that stands: the call was replaced by it."""
        at = list(self._elements).index(call_id)
        called = self._elements.pop(call_id)
        count = len(self._elements)
        self.draw(plan, called.place, links=links)
        elements = list(self._elements.items())
        self._elements = dict([*elements[:at], *elements[count:], *elements[at:count]])
        self._elements.setdefault(call_id, called).more = called.more

    def graph(self) -> Graph:
        """Return what it has become."""
        elements = list(self._elements.values())
        edges = [edge for element in elements if (edge := self._edge_to(element)) is not None]
        members = Counter(edge.source for edge in edges if edge.kind == "member")
        followed = {edge.source for edge in edges if edge.kind in {"next", "body"}}
        tallies = self._tallies()
        nodes = [_node(element, members[element.id], tallies) for element in elements]
        for element in elements:
            if (left_out := element.size - members[element.id]) > 0 and element.kind == "group":
                nodes.append(left_out_node(f"{element.id}+members", left_out))
                edges.append(Edge(element.id, nodes[-1].id, "member"))
            if element.more and element.id not in followed:
                nodes.append(left_out_node(f"{element.id}+steps", element.more))
                edges.append(Edge(element.id, nodes[-1].id, "next"))
        return Graph(tuple(nodes), tuple(edges))

    def leave_out_behind(self, element_id: str, steps: int) -> None:
        """Have so many further steps behind an element that they are only counted."""
        self._elements[element_id].more = steps

    def _edge_to(self, element: _Element) -> Edge | None:
        place = element.place
        before = self._elements.get(place.after or "")
        if before is not None:
            return Edge(before.id, element.id, "body" if before.kind == "group" else "next")
        if place.on is not None and place.on[0] in self._elements:
            return Edge(place.on[0], element.id, place.on[1])
        if place.inside is not None and place.inside in self._elements:
            return Edge(place.inside, element.id, "member")
        return None

    def _tallies(self) -> dict[str, set[str | None]]:
        """Return the states of the calls in each group, those in inner groups too."""
        found: dict[str, set[str | None]] = {}
        for element in self._elements.values():
            if element.kind != "task":
                continue
            group, seen = element.place.inside, set[str]()
            while group is not None and group in self._elements and group not in seen:
                seen.add(group)
                found.setdefault(group, set()).add(element.state)
                group = self._elements[group].place.inside
        return found


class _Plan:
    """Draws one plan into a builder. It may have been written by anybody: what can't be read in it is left out."""

    def __init__(self, builder: GraphBuilder, plan: Any, links: Callable[[str], bool]) -> None:
        self._builder = builder
        self._links = links
        told = _mapping(plan)
        self._tasks = _list(told.get("tasks"))
        self._part: object = told.get("plan")

    def draw(self, place: Place) -> None:
        self._draw(self._part, place)

    def _draw(self, part: object, place: Place) -> str | None:
        """Draw `part`; return what the next step comes after."""
        if isinstance(part, (list, tuple)):
            return self._call(cast("Sequence[Any]", part), place)
        told = _mapping(part)
        if "members" in told:
            group = self._builder.group(self._unused(told.get("id")), place, size=_number(told.get("size")))
            for member in _list(told["members"]):
                self._draw(member, Place(inside=group))
            return group
        after = place.after
        for step in _list(told.get("steps")):
            after = self._draw(step, place) or after
            place = Place(place.inside, after)
        if after is not None and (left_out := _number(told.get("more"))):
            self._builder.leave_out_behind(after, left_out)
        return after

    def _call(self, call: Sequence[Any], place: Place) -> str | None:
        call_id, task, *more = [*call, None, None][: max(len(call), 2)]
        name = self._tasks[task] if isinstance(task, int) and 0 <= task < len(self._tasks) else None
        label = more[2] if len(more) > 2 and isinstance(more[2], str) else ""
        drawn = self._builder.call(self._unused(call_id), name if isinstance(name, str) else None, place, label=label)
        if self._links(drawn):
            for kind, linked in zip(_LINKS, more, strict=False):
                for each in _list(linked):
                    self._draw(each, Place(on=(drawn, kind)))
        return drawn

    def _unused(self, given: object) -> str:
        return given if isinstance(given, str) and given not in self._builder else self._builder.unused_id()


def calls_in_plan(plan: object) -> Iterator[str]:
    """Yield the ids of all calls in a plan; those of callbacks are not known before they are sent."""
    parts: list[object] = [_mapping(plan).get("plan")]
    while parts:
        part = parts.pop()
        if isinstance(part, (list, tuple)):
            if part and isinstance(part[0], str):
                yield part[0]
        else:
            told = _mapping(part)
            parts += reversed([*_list(told.get("members")), *_list(told.get("steps"))])


def left_out_node(node_id: str, count: int, tally: str = "") -> Node:
    """Return the node that stands for so many steps or members."""
    return Node(f"{node_id}…", "more", label=f"… {count:,} more{tally and f': {tally}'}", count=count)


def _node(element: _Element, members: int, tallies: Mapping[str, set[str | None]]) -> Node:
    if element.kind == "task":
        return Node(element.id, "task", element.task, element.state, element.label or element.task or element.id)
    count = max(members, element.size)
    return Node(element.id, "group", None, _state_of(tallies.get(element.id, set())), f"group of {count:,}", count)


def _state_of(found: set[str | None]) -> str | None:
    """Return the state of a group whose calls are in these states."""
    known = found - {None}
    if not known:
        return None
    if known & {states.FAILURE, states.REVOKED, states.IGNORED}:
        return states.FAILURE
    if known == {states.SUCCESS}:
        return states.SUCCESS
    return states.PENDING if known == {states.PENDING} else states.STARTED


def _mapping(given: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", given) if isinstance(given, (dict, Mapping)) else {}


def _list(given: object) -> Sequence[Any]:
    return cast("Sequence[Any]", given) if isinstance(given, (list, tuple)) else ()


def _number(given: object) -> int:
    return given if isinstance(given, int) and not isinstance(given, bool) else 0
