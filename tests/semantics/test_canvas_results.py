"""What callers and steps see of a workflow: results, parents, requests, groups as a whole."""

from __future__ import annotations

from typing import Any

import pytest

from aiotq import AioTQ, AsyncResult, Canvas, GroupResult, Request, TaskRevokedError, chain, chord, group
from aiotq.exceptions import CallError, ResultTimeout

from ..waiting import wait_until
from .canvas_tasks import Kit
from .conftest import MakeApp, Run


async def test_the_parents_of_a_result_lead_back_to_the_first_step(kit: Kit, run: Run) -> None:
    result: Any = await (kit.add.s(1, 1) | group(kit.add.s(1), kit.add.s(2)) | kit.xsum.s() | kit.add.s(1)).delay()

    values = []
    at: Any = result
    while at is not None:
        values.append(await at.get(timeout=10))
        at = at.parent
    assert values == [8, 7, [3, 4], 2]
    header = result.parent.parent
    assert isinstance(header, GroupResult)
    assert [member.parent for member in header] == [header.parent] * 2


async def test_a_result_is_reached_by_the_id_that_was_fixed(kit: Kit, run: Run, app: AioTQ) -> None:
    result: Any = await (kit.add.s(1, 1) | kit.add.s(1)).apply_async(task_id="mine")

    assert result.id == "mine"
    assert await app.AsyncResult("mine").get(timeout=10) == 3


class Places:
    """Where the steps of a workflow stood."""

    def __init__(self, seen: dict[str, Request]) -> None:
        self.seen = seen

    def parent(self, name: str) -> str | None:
        parent = self.seen[name].parent_id
        return next((other for other, request in self.seen.items() if request.id == parent), parent)

    def index(self, name: str) -> int | None:
        return self.seen[name].group_index


@pytest.mark.parametrize("eagerly", [False, True])
async def test_each_step_knows_its_parent_its_root_and_its_group(kit: Kit, run: Run, eagerly: bool) -> None:
    where = kit.where
    canvas = chain(
        where.s("first"),
        group(where.si("left"), where.si("right") | where.si("further"), group(where.si("inner"))),
        where.si("body") | where.si("last"),
    ).link(where.si("called"))
    result: Any = await (canvas.apply() if eagerly else canvas.delay())
    await result.get(timeout=10)
    await wait_until(lambda: "called" in kit.seen, "the callback ran")

    places, seen = Places(kit.seen), kit.seen
    root = seen["first"].id
    assert {request.root_id for request in seen.values()} == {root}
    assert [places.parent(name) for name in ("first", "left", "right", "further", "inner")] == [
        None,
        "first",
        "first",
        "right",
        "first",
    ]
    assert places.parent("body") == "inner"  # a task of the header, which one is not known when it is sent
    assert places.parent("last") == "body"
    assert places.parent("called") == "last"
    assert [places.index(name) for name in ("first", "left", "right", "further", "inner")] == [None, 0, 1, 1, 0]
    assert seen["left"].group == seen["right"].group == seen["further"].group is not None
    assert seen["inner"].group not in {None, seen["left"].group}
    assert seen["body"].group is seen["last"].group is seen["called"].group is None
    assert seen["last"].id == result.id
    assert seen["left"].is_eager is eagerly


async def test_a_task_that_sends_a_workflow_is_its_parent_and_has_it_among_its_children(kit: Kit, run: Run) -> None:
    @kit.app.task
    async def start() -> str:
        result = await (kit.where.s("a") | kit.where.si("b")).delay()
        return result.id

    outer: AsyncResult[str] = await start.delay()
    last = await outer.get(timeout=10)
    await kit.app.AsyncResult(last).get(timeout=10)

    assert kit.seen["a"].parent_id == outer.id
    assert kit.seen["a"].root_id == kit.seen["b"].root_id == outer.id
    assert [child.id for child in await outer.children()] == [kit.seen["a"].id]
    (first,) = await outer.children()
    assert [child.id for child in await first.children()] == [last]


async def test_a_group_tells_how_far_it_is(kit: Kit, app: AioTQ) -> None:
    async with app:
        result: Any = await group(kit.add.s(1, 1), kit.add.s(2, 2), kit.fail.s()).delay()
        assert (await result.ready(), await result.waiting(), await result.completed_count()) == (False, True, 0)
        with pytest.raises(ResultTimeout):
            await result.get(timeout=0.01)
        async with app.worker():
            seen = [member.id async for member in result.as_completed()]
        assert sorted(seen) == sorted(member.id for member in result)
        assert (await result.ready(), await result.waiting(), await result.completed_count()) == (True, False, 2)
        assert (await result.successful(), await result.failed()) == (False, True)
        values = await result.join(propagate=False)
        assert values[:2] == [2, 4]
        assert isinstance(values[2], ValueError)
        assert len(result) == 3
        assert result[0] == result.children[0] == result.results[0]


async def test_a_group_that_succeeded_says_so(kit: Kit, run: Run) -> None:
    result: Any = await group(kit.add.s(1, 1), group(kit.add.s(2, 2))).delay()

    assert await result == [2, [4]]
    assert (await result.successful(), await result.failed(), await result.completed_count()) == (True, False, 2)
    assert [await member for member in result] == [2, [4]]


async def test_a_group_is_revoked_as_a_whole(kit: Kit, app: AioTQ) -> None:
    async with app:
        result: Any = await group(kit.note_task.s(1), group(kit.note_task.s(2))).delay()
        await result.revoke()
        async with app.worker():
            with pytest.raises(TaskRevokedError):
                await result.get(timeout=10)
            await result.get(timeout=10, propagate=False)
    assert kit.noted == []


async def test_a_group_is_forgotten_as_a_whole(kit: Kit, run: Run, app: AioTQ) -> None:
    result: Any = await group(kit.add.s(1, 1), kit.add.s(2, 2)).delay()
    await result.get(timeout=10)
    await result.save()

    await result.forget()

    assert await GroupResult.restore(result.id, app) is None
    assert [await app.AsyncResult(member.id).state() for member in result.members] == ["PENDING"] * 2


async def test_a_saved_group_is_restored_with_its_nesting_and_its_parents(kit: Kit, run: Run, app: AioTQ) -> None:
    canvas: Canvas[Any] = kit.add.s(1, 1) | group(kit.add.s(1), group(kit.add.s(2), kit.fail.s()).allow_failure("skip"))
    result: Any = await canvas.delay()
    await result.save()

    restored: GroupResult[Any] | None = await GroupResult.restore(result.id, app)

    assert restored == result
    assert restored is not None
    assert await restored.get(timeout=10) == [3, [4]]
    assert restored.parent is not None
    assert await restored.parent.get(timeout=10) == 2
    assert await GroupResult.restore("nobody's", app) is None
    with pytest.raises(CallError, match="is the id of a task, not of a group"):
        await GroupResult.restore(restored.parent.id, app)


async def test_the_handle_of_a_member_that_keeps_no_result_gives_none(kit: Kit, run: Run, app: AioTQ) -> None:
    """Its value goes to the body all the same."""
    silent = kit.add.s(1, 1).set(ignore_result=True)
    result: Any = await (group(silent, kit.add.s(2, 2)) | kit.echo.s()).delay()

    assert await result.get(timeout=10) == [[2, 4]]

    assert await result.parent.get(timeout=10) == [None, 4]
    assert await app.AsyncResult(result.parent.members[0].id).state() == "PENDING"


async def test_a_body_that_keeps_no_result_runs_and_passes_its_value_on(kit: Kit, run: Run) -> None:
    header = [kit.add.s(1, 1).set(ignore_result=True), kit.fail.s().set(ignore_result=True).allow_failure("skip")]
    silent: Any = await chord(header, kit.xsum.s().set(ignore_result=True) | kit.note_task.s("got")).delay()

    await silent.get(timeout=10)

    assert kit.noted == [(2, "got")]


async def test_workflows_whose_results_are_all_ignored_end(make_app: MakeApp) -> None:
    app = make_app(task_ignore_result=True)
    kit = Kit(app)
    async with app, app.worker():
        result: Any = await (
            kit.add.s(1, 1) | group(kit.add.s(1), kit.add.s(2)) | kit.xsum.s() | kit.note_task.s()
        ).delay()
        await chord([kit.fail.s(), kit.add.s(1, 1)], kit.xsum.s()).on_error(kit.note_task.si("told")).delay()
        assert await result.get(timeout=1) is None
        assert sorted(await kit.has_noted(2), key=str) == [("told",), (7,)]


async def test_results_are_awaited_in_tasks_too(kit: Kit, run: Run) -> None:
    """Waiting lends the slot."""

    @kit.app.task
    async def outer() -> Any:
        return await (await (group(kit.add.s(1, 1), kit.add.s(2, 2)) | kit.xsum.s()).delay()).get(timeout=10)

    results: list[AsyncResult[Any]] = [await outer.delay() for _ in range(30)]
    assert [await result.get(timeout=20) for result in results] == [6] * 30
