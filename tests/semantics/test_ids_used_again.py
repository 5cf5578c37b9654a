"""An id of the user's own: one call as long as it is under way, a new call after its end, with a result of its own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from aiotq import AioTQ, Canvas, GroupResult, Task, chain, group
from aiotq.exceptions import ConnectionLost, PublishTimeout
from aiotq.transport import Broker

from ..waiting import wait_until
from .conftest import MakeApp


class Runs:
    """Tasks that note their runs."""

    def __init__(self, app: AioTQ) -> None:
        self.of: list[Any] = []

        @app.task(name="again.number", throws=(ValueError,))
        async def number(x: int) -> int:
            self.of.append(x)
            if x < 0:
                raise ValueError(x)
            return x

        @app.task(name="again.once_more", bind=True)
        async def once_more(task: Task[..., Any], x: int) -> int:
            self.of.append(x)
            if not task.request.retries:
                raise task.retry(countdown=0)
            return x

        self.number = number
        self.once_more = once_more


@pytest.fixture
def runs(app: AioTQ) -> Runs:
    return Runs(app)


@pytest.fixture
def used() -> str:
    """An id that a test uses again and again."""
    return uuid.uuid4().hex


async def test_after_a_success_the_next_call_has_its_own_result(app: AioTQ, runs: Runs, used: str) -> None:
    async with app, app.worker():
        for x in (1, 2, 3):
            result = await runs.number.apply_async((x,), task_id=used)
            assert await result.get(timeout=10) == x

        assert await app.AsyncResult(used).get(timeout=10) == 3
    assert runs.of == [1, 2, 3]


async def test_after_a_failure_and_a_retry_too(app: AioTQ, runs: Runs, used: str) -> None:
    async with app, app.worker():
        failed = await runs.number.apply_async((-1,), task_id=used)
        with pytest.raises(ValueError, match="-1"):
            await failed.get(timeout=10)

        again = await runs.once_more.apply_async((2,), task_id=used)
        assert await again.get(timeout=10) == 2
        assert await (await runs.once_more.apply_async((3,), task_id=used)).get(timeout=10) == 3
    assert runs.of == [-1, 2, 2, 3, 3]


async def test_as_long_as_a_call_waits_another_one_with_its_id_is_the_same(app: AioTQ, runs: Runs, used: str) -> None:
    async with app:
        one = await runs.number.apply_async((1,), task_id=used)
        two = await runs.number.apply_async((2,), task_id=used)
        async with app.worker():
            assert await one.get(timeout=10) == await two.get(timeout=10) == 1
    assert runs.of == [1]


async def test_a_result_that_is_awaited_elsewhere_is_the_new_calls(
    app: AioTQ, make_app: MakeApp, runs: Runs, used: str
) -> None:
    other = make_app()
    async with app, other:
        async with app.worker():
            await (await runs.number.apply_async((1,), task_id=used)).get(timeout=10)
        await runs.number.apply_async((2,), task_id=used)
        waiting = asyncio.create_task(other.AsyncResult(used).get(timeout=10))
        async with app.worker():
            assert await waiting == 2


async def test_many_at_once_each_by_the_rule(app: AioTQ, runs: Runs, used: str) -> None:
    async with app, app.worker():
        await (await runs.number.apply_async((1,), task_id=used)).get(timeout=10)

        results = await app.send_many([runs.number.s(2), runs.number.s(3).set(task_id=used), runs.number.s(4)])
        assert await results.get(timeout=10) == [2, 3, 4]


async def test_callbacks_with_ids_and_steps_with_ids_begin_anew_as_well(app: AioTQ, runs: Runs, used: str) -> None:
    step, callback = f"{used}-step", f"{used}-callback"
    async with app, app.worker():
        for x in (1, 2):
            link = runs.number.si(x * 10).set(task_id=callback)
            linked = await runs.number.apply_async((x,), task_id=used, link=link)
            assert await linked.get(timeout=10) == x
            assert await app.AsyncResult(callback).get(timeout=10) == x * 10

        for x in (3, 4):
            flow = chain(group(runs.number.s(x), runs.number.s(x)), runs.number.si(x).set(task_id=step))
            assert await (await flow.delay()).get(timeout=10) == x


async def test_groups_of_one_id_end_side_by_side_and_after_each_other(app: AioTQ, runs: Runs, used: str) -> None:
    @app.task(name="again.total")
    async def total(values: list[int]) -> int:
        return sum(values)

    def flow(x: int) -> Canvas[Any]:
        return group(runs.number.s(x), runs.number.s(x)).set(task_id=used) | total.s()

    async with app, app.worker():
        results = [await flow(1).delay(), await flow(2).delay()]
        assert [await result.get(timeout=10) for result in results] == [2, 4]
        assert await (await flow(3).delay()).get(timeout=10) == 6


async def test_a_group_is_saved_in_the_place_of_another_one(app: AioTQ, runs: Runs, used: str) -> None:
    async with app, app.worker():
        for x in (1, 2):
            result: Any = await group(runs.number.s(x), runs.number.s(-x)).set(task_id=used).delay()
            await result.save()
            restored: Any = await GroupResult.restore(used, app)
            assert restored.as_tuple() == result.as_tuple()


async def test_a_stored_result_of_a_call_that_ran_here_is_replaced_too(make_app: MakeApp, used: str) -> None:
    app = make_app(task_always_eager=True, task_store_eager_result=True)
    runs = Runs(app)
    async with app:
        for x in (1, 2):
            await runs.number.apply_async((x,), task_id=used)
            assert await app.AsyncResult(used).get(timeout=10) == x


async def test_a_call_that_was_sent_after_all_is_not_run_again_when_it_is_repeated(
    app: AioTQ, runs: Runs, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app, app.worker():
        broker = (await app._core.connection()).broker
        await (await runs.number.apply_async((1,), task_id=used)).get(timeout=10)
        with monkeypatch.context() as patch:
            _lose_replies(broker, patch)
            with pytest.raises(PublishTimeout) as raised:
                await runs.number.apply_async((2,), task_id=used, publish_timeout=0.3)
            assert raised.value.maybe_sent
        await wait_until(lambda: runs.of == [1, 2], "the call has run")
        assert await app.AsyncResult(used).get(timeout=10) == 2

        repeated = await runs.number.apply_async((2,), task_id=raised.value.task_id)
        assert await repeated.get(timeout=10) == 2
        assert runs.of == [1, 2]

        assert await (await runs.number.apply_async((3,), task_id=used)).get(timeout=10) == 3  # that was no repeat
    assert runs.of == [1, 2, 3]


def _lose_replies(broker: Broker, patch: pytest.MonkeyPatch) -> None:
    """Have `broker` send what it is given first; that reply and all others are lost."""
    send = broker.send
    came: list[Any] = []

    async def sent(batch: Sequence[Any]) -> None:
        came.append(batch)
        if len(came) == 1:
            await send(batch)
        raise ConnectionLost("no reply came")

    patch.setattr(broker, "send", sent)
