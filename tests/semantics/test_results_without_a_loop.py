"""Results for code without a loop: all that is awaited elsewhere has a twin under `.sync`."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from aiotq import AioTQ, AsyncResult, GroupResult, ResultSet, SyncResult, chain, group, states
from aiotq.results.sync_result import SyncGroupResult, SyncResultSet

from .canvas_tasks import Kit

BROKERS_HERE = ("memory",)


@pytest.mark.parametrize(
    ("kind", "twin"), [(AsyncResult, SyncResult), (ResultSet, SyncResultSet), (GroupResult, SyncGroupResult)]
)
def test_a_result_has_the_same_names_with_and_without_a_loop(kind: type[Any], twin: type[Any]) -> None:
    inside = {"awaited", "document", "elsewhere", "failure", "leaves", "may_be_unknown", "reply_to", "see", "seen"}
    inside |= {"first", "queue_sent_to", "sync", "tell", "values", "why_in"}
    inside |= {"restore"}  # by app.sync(GroupResult.restore, id, app)
    there = {name for name in dir(kind) if not name.startswith("_")} - inside
    slots = {"id", "parent", "results", "when_failed"}  # set by the constructors

    assert there - {name for name in dir(twin) if not name.startswith("_")} - slots == set()
    assert not [name for name in dir(twin) if inspect.iscoroutinefunction(getattr(twin, name))]


async def test_they_are_compared_indexed_and_asked(app: AioTQ, kit: Kit) -> None:
    async with app, app.worker():
        one: Any = (await kit.add.delay(1, 1)).sync
        many: Any = (await group(kit.add.s(0, i) for i in range(2)).delay()).sync

        def ask() -> None:
            assert [member.get(10) for member in many] == many.get(10) == [0, 1]
            assert many[1] == app.AsyncResult(many[1].id).sync
            assert one.get(10) == one.wait(10) == 2
            assert (one.look().state, one.look().info, one.children) == ("SUCCESS", 2, [])
            assert (one.state, one.info, one.traceback, one.is_known, one.is_eager) == ("SUCCESS", 2, None, True, False)
            assert one.date_done is not None
            assert one != many[0]
            assert one.as_tuple() == ((one.id, None), None)
            assert (many.children, many.members.results) == (many.results, many.results)

        await asyncio.to_thread(ask)


async def test_many_results_are_iterated_in_the_order_of_calls_and_of_ends(app: AioTQ, kit: Kit) -> None:
    async with app, app.worker():
        sent = await app.send_many(kit.add.s(i, i) for i in range(5))

        def ask() -> None:
            results = sent.sync
            results.wait(10)
            assert [each.get(10) for each in results] == results.get(10) == results.join(10) == [0, 2, 4, 6, 8]
            assert {each.get() for each in results.as_completed()} == {0, 2, 4, 6, 8}
            assert [each.get() for each in results[1:3]] == [2, 4]
            assert (len(results), results[-1].get()) == (5, 8)
            assert (results.ready(), results.successful(), results.failed(), results.waiting()) == (
                *(True, True, False),
                False,
            )
            assert (results.completed_count(), results.states()) == (5, [states.SUCCESS] * 5)
            results.forget()

        await asyncio.to_thread(ask)


async def test_an_iteration_that_is_left_early_waits_for_nothing_more(app: AioTQ, kit: Kit) -> None:
    async with app, app.worker():
        sent = await app.send_many([kit.add.s(1, 1), kit.echo.s().set(countdown=3600)])

        def first() -> object:
            for each in sent.sync.as_completed():
                return each.get()
            return None

        assert await asyncio.wait_for(asyncio.to_thread(first), 10) == 2
        await sent.revoke()


async def test_a_saved_group_is_restored(app: AioTQ, kit: Kit) -> None:
    async with app, app.worker():
        sent = await group(kit.add.s(0, i) for i in range(2)).delay()

        def ask() -> None:
            sent.sync.save()
            restored = app.sync(GroupResult[int].restore, sent.id, app)
            assert restored is not None
            assert restored.sync == sent.sync
            assert restored.sync.get(10) == [0, 1]
            assert [each.name for each in app.sync(app.admin.queues, ["default"])] == ["default"]
            assert app.sync(app.send_task, "add", (1, 1)).sync.get(10) == 2

        await asyncio.to_thread(ask)


async def test_a_workflow_is_followed(app: AioTQ, kit: Kit) -> None:
    async with app, app.worker():
        sent = await chain(kit.add.s(1, 1), kit.add.s(1)).delay()

        def ask() -> None:
            result: Any = sent.sync
            assert [now.state for now in result.updates()][-1] == states.SUCCESS
            assert [now.ended for now in result.progress()][-1] == 2
            assert result.parent.get(10) == 2
            assert len(result.graph.nodes) == 2

        await asyncio.to_thread(ask)


async def test_a_call_runs_in_this_process(app: AioTQ, kit: Kit) -> None:
    def ask() -> None:
        assert kit.mul.sync.apply((2, 3)).get() == 6
        assert group(kit.mul.s(2, 3)).sync.apply().get() == [6]
        with pytest.raises(ValueError, match="no luck"):
            kit.fail.sync.apply(throw=True)

    await asyncio.to_thread(ask)


def test_on_a_running_loop_it_is_refused_at_once(app: AioTQ) -> None:
    async def ask() -> None:
        result: SyncResult[Any] = app.AsyncResult("some").sync
        for use in (lambda: result.state, result.ready, lambda: list(result.updates())):
            with pytest.raises(Exception, match=r"leave out \.sync"):
                use()

    asyncio.run(ask())
