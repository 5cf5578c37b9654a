"""How a workflow looks while it runs and afterwards, and how far it is: from handles, and from an id alone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

import pytest

from aiotq import AioTQ, AsyncResult, Canvas, GroupResult, Task, chain, chord, group, states
from aiotq.canvas import as_form
from aiotq.core.inside import core_of
from aiotq.graph.graph import Graph
from aiotq.results.lineage import plan_id
from aiotq.results.progress import Progress

from .canvas_tasks import Kit
from .conftest import NOT_ON_RABBITMQ

BROKERS_HERE = NOT_ON_RABBITMQ

WORKFLOWS: Final[dict[str, Callable[[Kit], Canvas[Any]]]] = {
    "a chain": lambda k: k.add.s(1, 1) | k.add.s(2) | k.mul.s(3),
    "a long chain": lambda k: chain(k.add.s(1, 1), *(k.add.s(i) for i in range(60))),
    "a chord": lambda k: chord([k.add.s(1, 1), k.add.s(2, 2)], k.xsum.s()),
    "a group in a chain": lambda k: (
        k.add.s(1, 1) | group(k.add.s(1), k.add.s(2) | k.mul.s(2)) | k.xsum.s() | k.add.s(1)
    ),
    "a group as the end": lambda k: k.add.s(1, 1) | group(k.add.s(1), k.add.s(2)),
    "a chord in a header": lambda k: chord(
        [chord([k.add.s(1, 1), k.add.s(3, 3)], k.xsum.s()), group(k.add.s(1, 2), k.add.s(1, 1))], k.echo.s()
    ),
    "a group as the body": lambda k: group(k.add.s(1, 1), k.add.s(2, 2)) | group(k.xsum.s(), k.echo.s()),
    "a chord after a chord": lambda k: group(k.add.s(1, 1)) | group(k.xsum.s(), k.xsum.s()) | k.xsum.s(),
    "a step that fails": lambda k: k.add.s(1, 1) | k.fail.s() | k.add.s(1) | k.add.s(3),
    "a member that fails": lambda k: chord([k.add.s(1, 1), k.fail.s()], k.xsum.s()) | k.add.s(1),
    "links": lambda k: k.add.s(1, 1).link(k.note_task.s()) | k.fail.s().link_error(k.old_broken.s()),
    "links of members": lambda k: group(k.add.s(1, 1).link(k.note_task.s()), k.add.s(2, 2)) | k.xsum.s(),
    "retries": lambda k: group(k.flaky.s(1), k.dozy.s(2) | k.add.s(1)) | k.xsum.s(),
}


def shape(graph: Graph) -> str:
    """The text of a graph without labels' arguments, states and ids."""
    return "\n".join(re.split(r"[(]|  [A-Z]", line)[0].rstrip() for line in graph.text().splitlines())


async def last_of(changes: AsyncGenerator[Progress, None]) -> list[Progress]:
    async with asyncio.timeout(20), aclosing(changes):
        return [now async for now in changes]


async def settled(result: AsyncResult[Any]) -> Graph:
    """The graph of a workflow when its callbacks have ended too."""
    async with asyncio.timeout(10):
        while True:
            graph = await result.graph()
            pending = [
                AsyncResult[Any](node.id, result._readers)
                for node in graph.nodes
                if node.kind == "task" and node.state == states.PENDING
            ]
            if not pending:
                return graph
            for each in pending:
                await each.get(propagate=False)


@pytest.mark.parametrize("name", WORKFLOWS)
async def test_the_graph_is_the_same_from_the_canvas_the_handle_and_each_id(app: AioTQ, kit: Kit, name: str) -> None:
    canvas = WORKFLOWS[name](kit)
    async with app, app.worker():
        result = await canvas.apply_async()
        await last_of(result.progress())

        graph = await settled(result)

        assert shape(graph) == shape(canvas.graph())
        calls = [node.id for node in graph.nodes if node.kind == "task"]
        for call in calls if len(calls) < 20 else [calls[0], calls[30], calls[-1]]:
            found = await app.AsyncResult(call).graph()
            assert found.text() == graph.text(), call


async def test_states_of_what_never_ran_are_shown(app: AioTQ, kit: Kit) -> None:
    async with app, app.worker():
        result = await (kit.add.s(1, 1) | kit.fail.s() | kit.add.s(1)).apply_async()
        await result.get(propagate=False)

        graph = await result.graph()

    assert [node.state for node in graph.nodes] == [states.SUCCESS, states.FAILURE, states.FAILURE]


async def test_a_workflow_that_has_not_begun_is_pending(app: AioTQ, kit: Kit) -> None:
    async with app:
        result = await (group(kit.add.s(1, 1), kit.add.s(2, 2)) | kit.xsum.s()).apply_async()

        graph = await result.graph()

        assert {node.state for node in graph.nodes} == {states.PENDING}
        assert [node.task for node in graph.nodes] == [None, "add", "add", "xsum"]
        parent: Any = result.parent
        first = parent.results[0].id
        assert (await app.AsyncResult(first).graph()).text() == graph.text()


async def test_calls_that_a_task_makes_hang_on_it(app: AioTQ, kit: Kit) -> None:
    @app.task(name="sender", bind=True)
    async def sender(self: Task[..., Any]) -> None:
        await kit.add.delay(1, 1)
        await (group(kit.add.s(2, 2), kit.add.s(3, 3)) | kit.xsum.s()).apply_async()

    async with app, app.worker():
        result = await sender.delay()
        await result

        graph = await settled(result)

    assert shape(graph).splitlines()[:2] == ["sender", "  ├─ sent: add"]
    assert {edge.kind for edge in graph.edges} == {"child", "member", "body"}


async def test_a_step_that_runs_is_drawn_with_what_went_before_it_and_what_comes_after(app: AioTQ, kit: Kit) -> None:
    ends = asyncio.Event()

    @app.task(name="runner", track_started=True)
    async def runner(x: int) -> int:
        await ends.wait()
        return x

    async with app, app.worker(), asyncio.timeout(20):
        result = await (kit.add.s(1, 1) | runner.s() | kit.add.s(1)).apply_async()
        assert isinstance(result.parent, AsyncResult)
        async for update in result.parent.updates():
            if update.state == states.STARTED:
                break

        graph = await app.AsyncResult(result.parent.id).graph()
        ends.set()
        await result

    assert [line.split()[:-1] for line in graph.text().splitlines()] == [
        ["add", states.SUCCESS],
        ["→", "runner", states.STARTED],
        ["→", "add", states.PENDING],
    ]


async def test_members_that_are_added_are_members(app: AioTQ, kit: Kit) -> None:
    @app.task(name="adder", bind=True)
    async def adder(self: Task[..., Any]) -> int:
        await self.add_to_chord(kit.add.s(10, 10))
        return 1

    async with app, app.worker():
        result = await chord([adder.s(), kit.add.s(1, 1)], kit.xsum.s()).apply_async()
        assert await result.get(timeout=10) == 23

        graph = await result.graph()

    assert shape(graph).splitlines() == ["group of 3", "  ├─ adder", "  ├─ add", "  └─ add", "→ xsum"]


async def test_a_task_that_was_replaced_stands_where_it_stood(app: AioTQ, kit: Kit) -> None:
    by: Any = {"task": "add", "args": [3, 3]}
    async with app, app.worker():
        result = await (kit.replaced.s(by) | kit.add.s(1)).apply_async()
        assert await result.get(timeout=10) == 7

        graph = await result.graph()

    assert [node.state for node in graph.nodes] == [states.SUCCESS, states.SUCCESS]


async def test_a_task_that_is_replaced_by_a_workflow_stands_behind_its_first_steps(app: AioTQ, kit: Kit) -> None:
    flow = kit.add.s(1, 1) | group(kit.add.s(1), kit.add.s(2)) | kit.xsum.s()
    async with app, app.worker():
        result = await chord([kit.replaced.s(as_form(flow)), kit.add.s(1, 1)], kit.xsum.s()).apply_async()
        assert await result.get(timeout=10) == 9

        graph = await result.graph()

        assert shape(graph).splitlines() == [
            "group of 2",
            "  ├─ add",
            "  │  → group of 2",
            "  │    ├─ add",
            "  │    └─ add",
            "  │  → xsum",
            "  └─ add",
            "→ xsum",
        ]
        assert {node.state for node in graph.nodes} == {states.SUCCESS}
        assert (await app.AsyncResult(graph.nodes[1].id).graph()).text() == graph.text()


async def test_of_a_large_group_a_part_is_stored_and_the_rest_counted(app: AioTQ, kit: Kit) -> None:
    async with app:
        result: Any = await group(kit.add.s(i, i) for i in range(1000)).apply_async()

        graph = await app.AsyncResult(result.results[0].id).graph()
        of_handle = await result.graph()

    assert [node.count for node in graph.nodes if node.kind != "task"] == [1000, 900]
    assert graph.text().splitlines()[-1].split() == ["└─", "…", "900", "more"]
    assert len(of_handle) == 1001


async def test_callbacks_that_are_to_come_are_shown_until_their_task_has_ended(app: AioTQ, kit: Kit) -> None:
    canvas = kit.add.s(1, 1).link(kit.note_task.s()).link_error(kit.old_broken.s()) | kit.add.s(1)
    async with app:
        result = await canvas.apply_async()
        planned = await result.graph()
        async with app.worker():
            await result.get(timeout=10)
            graph = await settled(result)

    assert shape(planned).splitlines() == ["add", "  ├─ link: note", "  └─ link_error: old_broken", "→ add"]
    assert shape(graph).splitlines() == ["add", "  └─ link: note", "→ add"]


async def test_a_single_call_stores_no_plan(app: AioTQ, kit: Kit) -> None:
    async with app:
        result = await kit.add.s(1, 1).link(kit.note_task.s()).apply_async()

        reader = await core_of(app).reader()
        assert await reader.records.get([plan_id(result.id)]) == [None]


async def test_a_group_that_is_restored_can_be_drawn(app: AioTQ, kit: Kit) -> None:
    async with app, app.worker():
        result = await group(kit.add.s(1, 1), kit.add.s(1, 2) | kit.add.s(3)).apply_async()
        await result.get(timeout=10)
        await result.save()

        restored = await GroupResult[Any].restore(result.id, app)
        assert restored is not None

        graph = await restored.graph()
        assert shape(graph).splitlines() == ["group of 2", "  ├─ add", "  └─ add", "     → add"]
        (last,) = await last_of(restored.progress())
        assert (last.done, last.total) == (3, 3)


# Progress.


@pytest.fixture
def gates(app: AioTQ) -> dict[str, asyncio.Event]:
    """Opens for the task `gated`, by name."""
    opened: dict[str, asyncio.Event] = {}

    @app.task(name="gated")
    async def gated(name: str, *more: Any) -> str:
        await opened.setdefault(name, asyncio.Event()).wait()
        if name.startswith("bad"):
            raise ValueError(name)
        return name

    return opened


def open_gate(gates: dict[str, asyncio.Event], name: str) -> None:
    gates.setdefault(name, asyncio.Event()).set()


def counted(now: Progress) -> list[tuple[int, int, int]]:
    return [(step.done, step.failed, step.total) for step in now.steps]


async def test_progress_comes_as_each_task_ends(app: AioTQ, kit: Kit, gates: dict[str, asyncio.Event]) -> None:
    gated = app.tasks["gated"]
    canvas = kit.add.si(1, 1) | group(gated.si("a"), gated.si("b")) | kit.echo.s()
    async with app, app.worker(), asyncio.timeout(20):
        result = await canvas.apply_async()
        async with aclosing(result.progress()) as changes:
            now = await anext(changes)
            while now.ended < 1:
                now = await anext(changes)
            assert counted(now) == [(1, 0, 1), (0, 0, 2), (0, 0, 1)]
            assert [step.name for step in now.steps] == ["add", "group", "echo"]
            assert (now.fraction, now.is_over) == (0.25, False)

            open_gate(gates, "b")
            now = await anext(changes)
            assert counted(now) == [(1, 0, 1), (1, 0, 2), (0, 0, 1)]

            open_gate(gates, "a")
            left = [each async for each in changes]

        assert left[-1].is_over
        assert (left[-1].done, left[-1].failed, left[-1].total) == (4, 0, 4)


async def test_the_first_item_comes_at_once(app: AioTQ, kit: Kit) -> None:
    async with app, asyncio.timeout(10):
        result = await group(kit.add.s(1, 1), kit.add.s(2, 2)).apply_async()

        async with aclosing(result.progress()) as changes:
            now = await anext(changes)

        assert (now.done, now.failed, now.total) == (0, 0, 2)


async def test_a_chain_that_fails_is_over(app: AioTQ, kit: Kit) -> None:
    async with app, app.worker():
        result = await (kit.add.s(1, 1) | kit.fail.s() | kit.add.s(1) | group(kit.add.s(1), kit.add.s(2))).apply_async()

        last = (await last_of(result.progress()))[-1]

    assert counted(last) == [(1, 0, 1), (0, 1, 1), (0, 1, 1), (0, 2, 2)]


async def test_a_chord_that_failed_is_over_when_its_other_members_are(
    app: AioTQ, kit: Kit, gates: dict[str, asyncio.Event]
) -> None:
    gated = app.tasks["gated"]
    async with app, app.worker(), asyncio.timeout(20):
        open_gate(gates, "bad")
        result: Any = await (group(gated.s("bad"), gated.s("slow")) | kit.echo.s()).apply_async()
        async with aclosing(result.progress()) as changes:
            now = await anext(changes)
            while now.failed < 2:
                now = await anext(changes)
            assert counted(now) == [(0, 1, 2), (0, 1, 1)]

            open_gate(gates, "slow")
            assert counted([each async for each in changes][-1]) == [(1, 1, 2), (0, 1, 1)]


async def test_progress_of_what_is_over_is_one_item(app: AioTQ, kit: Kit) -> None:
    async with app, app.worker():
        result: Any = await group(kit.add.s(i, i) for i in range(5)).apply_async()
        await result

        assert len(await last_of(result.progress())) == 1
        (empty,) = await last_of((await group([]).apply_async()).progress())
        assert (empty.total, empty.is_over, empty.fraction) == (0, True, 1.0)


async def test_tasks_whose_results_are_ignored_do_not_count(app: AioTQ, kit: Kit) -> None:
    async with app, app.worker():
        result = await (kit.add.s(1, 1).set(ignore_result=True) | kit.add.s(1)).apply_async()

        last = (await last_of(result.progress()))[-1]

    assert last.total == 1


async def test_a_task_that_follows_progress_lends_its_slot(app: AioTQ, kit: Kit) -> None:
    @app.task(name="follower")
    async def follower() -> int:
        result: Any = await group(kit.add.s(i, i) for i in range(3)).apply_async()
        seen: list[Progress] = [now async for now in result.progress()]
        return seen[-1].done

    async with app, app.worker(concurrency=1):
        assert await (await follower.delay()).get(timeout=10) == 3


async def test_an_eager_workflow_has_ended_and_can_be_drawn(app: AioTQ, kit: Kit) -> None:
    result: Any = await (kit.add.s(1, 1) | kit.add.s(2)).apply()

    (last,) = await last_of(result.progress())

    assert last.is_over
    assert {node.state for node in (await result.graph()).nodes} == {states.SUCCESS}
