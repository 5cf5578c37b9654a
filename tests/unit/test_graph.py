"""Workflows as graphs: what is in them, and how they are drawn."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotq import AioTQ, AsyncResult, Canvas, chain, chord, group, states
from aiotq.canvas.plan_data import MAX_CALLS, plan_to_store
from aiotq.canvas.structure import frozen
from aiotq.core.inside import core_of
from aiotq.graph.builder import GraphBuilder, Place, calls_in_plan
from aiotq.graph.graph import Edge, Graph, Node
from aiotq.results import Record
from aiotq.results.drawn import graph_of
from aiotq.results.lineage import MOST, NO_LINEAGE, PLAN, Lineage, lineage_of, plan_id

app: Final = AioTQ("drawn", broker="memory://")
SVG: Final = "{http://www.w3.org/2000/svg}"


@app.task(name="add")
async def add(x: int, y: int) -> int:
    return x + y


@app.task(name="total")
async def total(numbers: list[int]) -> int:
    return sum(numbers)


def drawn(canvas: Canvas[Any]) -> str:
    return canvas.graph().text()


# What a canvas is made of.


def test_a_chain_is_steps_that_follow_each_other() -> None:
    graph = (add.s(2, 2) | add.s(3) | add.s(4)).graph()

    assert [node.label for node in graph.nodes] == ["add(2, 2)", "add(3)", "add(4)"]
    assert [(edge.source, edge.target, edge.kind) for edge in graph.edges] == [
        ("#1", "#2", "next"),
        ("#2", "#3", "next"),
    ]
    assert {(node.kind, node.task, node.state) for node in graph.nodes} == {("task", "add", None)}


def test_a_chord_is_a_group_that_leads_to_its_body() -> None:
    graph = chord([add.s(1, 1), add.s(2, 2)], total.s()).graph()

    assert graph.nodes[0] == Node("#1", "group", None, None, "group of 2", 2)
    assert [(edge.source, edge.target, edge.kind) for edge in graph.edges] == [
        ("#1", "#2", "member"),
        ("#1", "#3", "member"),
        ("#1", "#4", "body"),
    ]


def test_ids_that_are_fixed_are_those_of_the_nodes() -> None:
    graph = (add.s(2, 2).set(task_id="first") | add.s(3)).graph()

    assert [node.id for node in graph.nodes] == ["first", "#2"]


def test_one_canvas_in_two_places_is_drawn_twice() -> None:
    again = add.s(1, 1).set(task_id="same")

    assert len(group(again, again).graph().nodes) == 3


def test_callbacks_hang_on_their_task() -> None:
    graph = add.s(2, 2).link(add.s(1) | add.s(2)).link_error(total.s()).graph()

    assert [(edge.source, edge.target, edge.kind) for edge in graph.edges] == [
        ("#1", "#2", "callback"),
        ("#2", "#3", "next"),
        ("#1", "#4", "errback"),
    ]


# As text.


def test_text_shows_nesting_by_indentation() -> None:
    members: list[Canvas[Any]] = [add.s(1), add.s(2) | add.s(3), group(add.s(4))]
    canvas = add.s(2, 2) | group(members) | total.s().link(add.s(5))

    assert drawn(canvas).splitlines() == [
        "add(2, 2)",
        "→ group of 3",
        "  ├─ add(1)",
        "  ├─ add(2)",
        "  │  → add(3)",
        "  └─ group of 1",
        "       └─ add(4)",
        "→ total()",
        "  └─ link: add(5)",
    ]


def test_a_map_is_one_call() -> None:
    assert drawn(add.starmap([(1, 1)])) == "[add(*x) for x in [(1, 1)]]"


def test_empty_groups_and_chains_can_be_drawn() -> None:
    assert drawn(group([])) == "group of 0"
    assert drawn(chain([])) == ""


def test_states_stand_in_a_column_with_the_ids_behind_them() -> None:
    graph = Graph((Node("a", "task", "add", states.SUCCESS, "add"), Node("b", "task", "add", "PROGRESS", "add(1)")))

    assert graph.text().splitlines() == ["add     SUCCESS   a", "add(1)  PROGRESS  b"]


def test_colours_are_only_there_when_asked_for() -> None:
    graph = Graph((Node("a", "task", "add", states.FAILURE, "add"),))

    assert "\x1b[31mFAILURE" in graph.text(colour=True)
    assert "\x1b" not in graph.text()


# What is too much.


def test_beyond_200_nodes_most_members_are_only_counted() -> None:
    text = drawn(group(add.s(i, i) for i in range(10_000)) | total.s())

    lines = text.splitlines()
    assert len(lines) == 23
    assert lines[0] == "group of 10,000"
    assert lines[21:] == ["  └─ … 9,980 more", "→ total()"]


def test_200_nodes_are_all_drawn() -> None:
    assert len(drawn(group(add.s(i, i) for i in range(199))).splitlines()) == 200


def test_of_a_long_chain_beginning_and_end_are_drawn() -> None:
    lines = drawn(chain(add.s(0, 0), *(add.s(i) for i in range(1, 1000)))).splitlines()

    assert lines[0] == "add(0, 0)"
    assert "→ … 960 more" in lines
    assert lines[-1] == "→ add(999)"
    assert len(lines) == 41


def test_what_is_nested_in_all_directions_is_cut_in_each() -> None:
    canvas: Canvas[Any] = group(group(add.s(i, j) for i in range(100)) | total.s() for j in range(100))

    assert len(drawn(canvas).splitlines()) <= 200


def test_what_is_left_out_is_told_by_state() -> None:
    sketch = GraphBuilder()
    sketch.group("g")
    for number in range(300):
        sketch.call(str(number), "add", Place("g"))
        sketch.tell(str(number), states.SUCCESS if number < 290 else states.PENDING, None)

    assert "… 280 more: 270 SUCCESS, 10 PENDING" in sketch.graph().text()


def test_all_is_drawn_when_there_is_no_limit() -> None:
    graph = group(add.s(i, i) for i in range(300)).graph()

    assert len(graph.text(limit=None).splitlines()) == 301


def test_depth_has_an_end_too() -> None:
    canvas: Canvas[Any] = add.s(1, 1)
    for _ in range(100):
        canvas = group(canvas)

    graph = canvas.graph()

    assert "more" in graph.text()
    assert ElementTree.fromstring(graph.svg()) is not None


def test_a_circle_in_stored_records_is_drawn_once() -> None:
    nodes = tuple(Node(name, label=name) for name in "abc")
    edges = (Edge("a", "b", "next"), Edge("b", "c", "child"), Edge("c", "a", "next"))

    assert sorted(re.findall(r"\b[abc]\b", Graph(nodes, edges).text())) == ["a", "b", "c"]


# The state of a group.


@pytest.mark.parametrize(
    ("members", "state"),
    [
        ([states.SUCCESS, states.SUCCESS], states.SUCCESS),
        ([states.SUCCESS, states.PENDING], states.STARTED),
        ([states.PENDING, states.PENDING], states.PENDING),
        ([states.STARTED, states.PENDING], states.STARTED),
        ([states.PENDING, states.FAILURE], states.FAILURE),
        ([states.SUCCESS, states.REVOKED], states.FAILURE),
    ],
)
def test_a_group_is_as_its_members_are(members: Sequence[str], state: str) -> None:
    sketch = GraphBuilder()
    sketch.group("outer")
    sketch.group("inner", Place("outer"))
    for number, each in enumerate(members):
        sketch.call(str(number), None, Place("inner"))
        sketch.tell(str(number), each, None)

    graph = sketch.graph()

    assert [node.state for node in graph.nodes if node.kind == "group"] == [state, state]
    assert sketch.graph() == graph


# As SVG and DOT.


def boxes(svg: str) -> list[tuple[float, float, float, float]]:
    """Left, top, right, bottom of the boxes of calls."""
    found: list[tuple[float, float, float, float]] = []
    for part in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        place = re.fullmatch(r"translate\(([\d.]+),([\d.]+)\)", part.get("transform", ""))
        box = part.find(f"{SVG}rect")
        if place is not None and box is not None and part.find(f"{SVG}title") is not None:
            x, y = float(place[1]), float(place[2])
            found.append((x, y, x + float(box.get("width", "0")), y + float(box.get("height", "0"))))
    return found


CANVASES: Final[dict[str, Canvas[Any]]] = {
    "a call": add.s(2, 2),
    "a chain": add.s(2, 2) | add.s(1) | add.s(2),
    "a long chain": chain(add.s(0, 0), *(add.s(i) for i in range(1, 60))),
    "a chord": group(add.s(i, i) for i in range(5)) | total.s(),
    "a wide chord": group(add.s(i, i) for i in range(150)) | total.s(),
    "nested": group(group(add.s(1, 1), add.s(1, 2) | add.s(3)) | total.s(), add.s(5, 5)) | total.s() | add.s(1),
    "linked": add.s(2, 2).link(group(add.s(1), add.s(2)) | total.s()).link_error(add.s(1)) | add.s(3).link(add.s(4)),
}


@pytest.mark.parametrize("name", CANVASES)
def test_an_svg_has_a_box_for_each_call_and_none_lies_on_another(name: str) -> None:
    graph = CANVASES[name].graph()

    svg = graph.svg()

    found = boxes(svg)
    assert len(found) == sum(node.kind == "task" for node in graph.nodes)
    for at, one in enumerate(found):
        for other in found[at + 1 :]:
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert apart, (one, other)
    root = ElementTree.fromstring(svg)
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height for box in found)


def test_a_wide_group_is_set_in_columns() -> None:
    svg = group(add.s(i, i) for i in range(150)).graph().svg()

    assert len({box[0] for box in boxes(svg)}) > 5


def test_drawings_of_the_same_canvas_are_the_same() -> None:
    canvas = CANVASES["nested"]

    assert canvas.graph().svg() == canvas.graph().svg()


def test_states_are_colours_words_and_a_legend() -> None:
    graph = Graph((Node("a", "task", "add", states.FAILURE, "add"), Node("b", "task", "add", "UPLOADING", "add")))

    svg = graph.svg()

    assert "#c0392b" in svg
    assert ">UPLOADING</text>" in svg
    assert ">1 FAILURE</text>" in svg


HOSTILE: Final = '</text><script>alert("\x1b[2J\x00&\n")</script>'


def test_names_from_messages_can_not_write_into_a_drawing() -> None:
    graph = Graph((Node(HOSTILE, "task", HOSTILE, HOSTILE, HOSTILE),))

    svg, text, dot = graph.svg(), graph.text(colour=True), graph.dot()

    assert not list(ElementTree.fromstring(svg).iter(f"{SVG}script"))
    assert "\x1b[2J" not in text + dot + svg
    assert len(text.splitlines()) == 1
    assert '\\"' in dot
    assert len(dot.splitlines()) == 6


def test_a_long_name_loses_its_modules_first() -> None:
    svg = Graph((Node("a", "task", label="company.billing.tasks.send_invoice(2026)"),)).svg()

    assert ">tasks.send_invoice(2026)</text>" in svg


def test_dot_leads_from_the_last_calls_of_members_to_the_body() -> None:
    dot = (group(add.s(1, 1) | add.s(2), add.s(3, 3)) | total.s()).graph().dot()

    arrows = re.findall(r'"#(\d)" -> "#(\d)"( \[arrowhead=none\])?', dot)
    assert arrows == [
        ("1", "2", " [arrowhead=none]"),
        ("2", "3", ""),
        ("1", "4", " [arrowhead=none]"),
        ("3", "5", ""),
        ("4", "5", ""),
    ]


# What is stored of a workflow.


def test_a_plan_of_a_large_workflow_is_bounded_and_shares_its_room_out() -> None:
    canvas = frozen(chain(group(chain(add.si(i, j) for i in range(50)) for j in range(1000)), total.s(), add.s(1)))

    plan = plan_to_store(canvas)

    assert len(list(calls_in_plan(plan))) <= MAX_CALLS
    assert len(json.dumps(plan)) < 40_000
    builder = GraphBuilder()
    builder.draw(plan, Place())
    graph = builder.graph()
    assert graph.nodes[0].label == "group of 1,000"
    assert {node.label for node in graph.nodes if node.kind == "more"} >= {"… 900 more", "… 48 more"}
    assert [node.task for node in graph.nodes if node.kind == "task"][-2:] == ["total", "add"]


def test_a_plan_of_a_long_chain_counts_the_steps_that_it_leaves_out() -> None:
    builder = GraphBuilder()
    builder.draw(plan_to_store(frozen(chain(add.si(i, i) for i in range(1000)))), Place())

    graph = builder.graph()

    assert graph.nodes[-1].label == "… 600 more"
    assert graph.text().splitlines()[-1] == "→ … 600 more"


def test_a_call_alone_has_no_plan() -> None:
    assert plan_to_store(frozen(add.s(1, 1).link(add.s(1)))) is None


@pytest.mark.parametrize(
    "plan",
    [
        None,
        7,
        [],
        {"plan": [[], 3]},
        {"tasks": 5, "plan": {"steps": [["a", 0], 7, {"members": [["b"], [None, -1], "x"], "size": "y", "id": 3}]}},
        {"tasks": [None], "plan": {"steps": {"a": 1}, "more": True}},
        {"tasks": ["add"], "plan": ["a", 0, "bc", [{"steps": [["a", 0]]}], 5]},
    ],
)
def test_garbage_in_a_plan_is_left_out(plan: object) -> None:
    builder = GraphBuilder()

    builder.draw(plan, Place())

    assert isinstance(builder.graph().text(), str)
    assert set(calls_in_plan(plan)) <= {"a", "b"}


# What records say.


def test_lineage_comes_back_from_its_plain_form() -> None:
    lineage = Lineage("r", 2, ("c",), ("e",), ("a", "b"))

    assert lineage_of(lineage.plain()) == lineage
    assert NO_LINEAGE.plain() == {}
    assert lineage_of(None) is NO_LINEAGE


@pytest.mark.parametrize(
    "given", [7, "text", [1], {"callbacks": 5, "root_id": ["a"], "replacements": "1", "added": [1, "a", None]}]
)
def test_garbage_in_a_lineage_is_left_out(given: object) -> None:
    found = lineage_of(given)

    assert (found.root_id, found.replacements, found.callbacks) == (None, 0, ())
    assert set(found.added) <= {"a"}


def test_records_name_no_more_calls_than_can_be_looked_at() -> None:
    lineage = Lineage(callbacks=tuple(map(str, range(5000))))

    assert len(lineage.plain()["callbacks"]) == MOST
    assert len(lineage_of({"added": list(map(str, range(5000)))}).added) == MOST


# From records, whatever they say.

IDS: Final = st.sampled_from(["root", "a", "b", "c", "d", "g", "h"])
AROUND: Final = st.builds(
    Lineage,
    root_id=st.none() | IDS,
    replacements=st.integers(0, 2),
    callbacks=st.lists(IDS).map(tuple),
    errbacks=st.lists(IDS).map(tuple),
    added=st.lists(IDS).map(tuple),
)
PARTS: Final = st.recursive(
    st.tuples(IDS, st.integers(0, 1)).map(list),
    lambda parts: st.one_of(
        st.builds(lambda steps, more: {"steps": steps, "more": more}, st.lists(parts), st.integers(0, 2)),
        st.builds(lambda at, some: {"id": at, "size": len(some), "members": some}, IDS, st.lists(parts)),
    ),
    max_leaves=8,
)
PLANS: Final = st.dictionaries(st.builds(plan_id, IDS, st.integers(0, 2)), PARTS)


async def drawn_from(records: Mapping[str, Record | None], start: AsyncResult[Any]) -> Graph:
    class Store:
        async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
            return [records.get(each) for each in ids]

    async def connect() -> Any:
        return SimpleNamespace(records=Store(), codec=core_of(app).codec)

    return await graph_of(start, connect)


def record_of(task_id: str, around: Lineage = NO_LINEAGE, **more: Any) -> Record:
    body = core_of(app).codec.encode(task_id, states.SUCCESS, None, done_at=0.0, name="add", lineage=around, **more)
    return Record(task_id, states.SUCCESS, body, core_of(app).codec.content_type, 1e12)


@given(st.dictionaries(IDS, st.tuples(AROUND, st.lists(IDS), st.none() | IDS)), PLANS)
def test_records_that_contradict_each_other_are_drawn_all_the_same(told: dict[str, Any], plans: dict[str, Any]) -> None:
    records: dict[str, Record | None] = {
        each: record_of(each, around, children=children, parent_id=parent)
        for each, (around, children, parent) in told.items()
    }
    for key, part in plans.items():
        body = core_of(app).codec.encode(key, PLAN, {"tasks": ["add", "total"], "plan": part}, done_at=0.0)
        records[key] = Record(key, PLAN, body, core_of(app).codec.content_type, 1e12)

    graph = asyncio.run(drawn_from(records, AsyncResult[Any]("root", app)))

    assert "root" in {node.id for node in graph.nodes}
    assert len({node.id for node in graph.nodes}) == len(graph.nodes)
    for node in graph.nodes:
        assert graph.text(limit=None).count(f"  {node.id}") <= 1 or node.kind == "group"
    assert ElementTree.fromstring(graph.svg()) is not None
    assert graph.dot()


async def test_a_record_that_can_not_be_read_here_still_tells_the_state() -> None:
    record = Record("root", states.FAILURE, b"\x80", "application/x-python-serialize", 1e12)

    graph = await drawn_from({"root": record}, AsyncResult[Any]("root", app, task_name="add"))

    assert [(node.task, node.state) for node in graph.nodes] == [("add", states.FAILURE)]


async def test_a_task_that_sent_very_many_is_not_followed_without_end() -> None:
    records: dict[str, Record | None] = {
        f"{n}": record_of(f"{n}", children=[str(n * 100 + each) for each in range(1, 101)]) for n in range(1, 2000)
    }

    graph = await drawn_from(records, AsyncResult[Any]("1", app, task_name="add"))

    assert len(graph) == 1001
    assert len(graph.text().splitlines()) <= 200
