"""Queues that workers begin or cease to take from while they run: paused for all, or told to one worker."""

from __future__ import annotations

import asyncio

import pytest

from aiotq import AioTQ
from aiotq.exceptions import InvalidOption, StoreRequired

from ..servers import shared_rabbit
from ..waiting import wait_until
from .conftest import MakeApp


async def test_a_paused_queue_is_left_by_all_workers_and_respected_by_new_ones(make_app: MakeApp) -> None:
    app, operator = make_app(), make_app()
    ran: list[str] = []

    @app.task
    async def note(what: str) -> None:
        ran.append(what)

    async with app, operator, app.worker(["mail", "other"], name="one"), app.worker(["mail"], name="two"):
        await (await note.options(queue="mail").delay("before")).get(timeout=20)
        assert await operator.admin.pause("mail")
        assert not await operator.control.pause_queue("mail")

        async def obeyed() -> bool:
            queues = await operator.control.inspect(timeout=20).active_queues()
            return all(each["is_paused"] for rows in queues.values() for each in rows if each["name"] == "mail")

        await wait_until(obeyed, "both workers know")
        waiting = await note.options(queue="mail").delay("paused")
        await (await note.options(queue="other").delay("other")).get(timeout=20)
        async with app.worker(["mail"], name="new"):
            assert (await operator.control.inspect("new", timeout=20).active_queues())["new"][0]["is_paused"]
            (stats,) = [each for each in await operator.admin.queues() if each.name == "mail"]
            assert (stats.ready, stats.paused_since is not None) == (1, True)
            assert ran == ["before", "other"]

            assert await operator.admin.resume("mail")
            assert not await operator.control.resume_queue("mail")
            await waiting.get(timeout=20)

    assert ran == ["before", "other", "paused"]


async def test_a_paused_queue_is_listed_even_when_it_is_empty(app: AioTQ) -> None:
    async with app:
        await app.admin.pause("quiet")

        assert [(each.name, each.ready, each.paused_since is not None) for each in await app.admin.queues()] == [
            ("quiet", 0, True)
        ]
        with pytest.raises(InvalidOption, match="queue's name"):
            await app.admin.pause("")


async def test_a_worker_is_told_to_take_from_another_queue_and_to_leave_one(app: AioTQ) -> None:
    @app.task
    async def add(x: int) -> int:
        return x + 1

    async with app, app.worker(["a"], name="one") as worker:
        control = app.control
        assert (await control.add_consumer("b", timeout=20))["one"] == {"ok": "add consumer 'b'"}
        assert (await control.add_consumer("b", timeout=20))["one"] == {"ok": "already consuming from 'b'"}
        assert await (await add.options(queue="b").delay(1)).get(timeout=20) == 2
        assert worker.queues == ("a", "b")
        assert (await control.cancel_consumer("a", timeout=20))["one"] == {"ok": "no longer consuming from 'a'"}
        assert (await control.cancel_consumer("a", timeout=20))["one"] == {"ok": "not consuming from 'a'"}
        left = await add.options(queue="a").delay(5)
        assert await (await add.options(queue="b").delay(2)).get(timeout=20) == 3
        assert not await left.ready()
        assert (await control.cancel_consumer("b", timeout=20))["one"] == {"ok": "no longer consuming from 'b'"}
        assert "printable" in (await control.add_consumer("\n", timeout=20)).failed["one"]
        await control.add_consumer("a", timeout=20)
        assert await left.get(timeout=20) == 6


async def test_a_queue_that_may_not_be_is_not_taken_from(make_app: MakeApp) -> None:
    app = make_app(task_queues=["a"], task_create_missing_queues=False)
    async with app, app.worker(["a"], name="one") as worker:
        assert "'b'" in (await app.control.add_consumer("b", timeout=20)).failed["one"]
        assert worker.queues == ("a",)


async def test_slots_grow_by_themselves_up_to_a_limit(app: AioTQ) -> None:
    release = asyncio.Event()

    @app.task
    async def waits() -> None:
        await release.wait()

    async with app, app.worker(name="one", autoscale=(3, 1)) as worker:
        results = [await waits.delay() for _ in range(5)]
        await wait_until(lambda: worker.running == 3, "as many run as may")
        assert (await app.control.autoscale(4, 2, timeout=20))["one"] == {"ok": "autoscale now max=4 min=2 (loop)"}
        await wait_until(lambda: worker.running == 4, "one more does")
        stats = await app.control.inspect(timeout=20).stats()
        assert stats["one"]["pool"]["loop"] == {"running": 4, "max": 4}
        assert "min 3 and max 2" in (await app.control.autoscale(2, 3, timeout=20)).failed["one"]
        release.set()
        for each in results:
            await each.get(timeout=20)


async def test_without_a_store_that_workers_share_a_queue_can_not_be_paused() -> None:
    app = AioTQ("rpc", broker=shared_rabbit().vhost(), backend="rpc://")
    async with app:
        with pytest.raises(StoreRequired, match="queue 'mail' can't be paused"):
            await app.admin.pause("mail")
        with pytest.raises(StoreRequired):
            await app.admin.resume("mail")
        assert await app.admin.queues(["mail"])
