"""The guide, page 1: declaring tasks, calling them, awaiting what comes of them."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest

from aiotq import AioTQ, current_task
from aiotq.exceptions import EncodeError, InvalidArguments, InvalidOption

from ..waiting import wait_until


async def test_a_call_is_sent_with_delay_and_its_result_is_awaited(app: AioTQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app, app.worker():
        result = await add.delay(2, 2)

        assert await result == 4


async def test_calling_the_task_itself_is_calling_the_function_here(app: AioTQ) -> None:
    """No queue, no worker: this is how a task's own logic is tested."""

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task
    def double(x: int) -> int:
        return 2 * x

    assert await add(2, 2) == 4
    assert double(4) == 8


async def test_a_plain_function_runs_in_a_thread(app: AioTQ) -> None:
    """It may block, and nothing else waits for it."""

    @app.task
    def where() -> str:
        return threading.current_thread().name

    async with app, app.worker():
        assert await (await where.delay()) != threading.main_thread().name


async def test_arguments_are_checked_at_the_call(app: AioTQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app:
        with pytest.raises(InvalidArguments, match="missing a required argument: 'y'"):
            await add.delay(2)  # type: ignore[call-arg]
        with pytest.raises(EncodeError, match="argument y can't be serialized as json"):
            await add.delay(2, object())  # type: ignore[arg-type]


async def test_options_of_one_call_are_given_with_options(app: AioTQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task
    async def where() -> object:
        return dict(current_task.request.delivery_info)

    async with app, app.worker(queues=["hi"]):
        assert await (await add.options(queue="hi", serializer="msgpack").delay(2, 2)) == 4
        assert await (await where.options(queue="hi", priority=9).delay()) == {
            "exchange": "",
            "routing_key": "hi",
            "queue": "hi",
            "priority": 9,
            "redelivered": False,
        }


async def test_or_with_apply_async_as_in_celery(app: AioTQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app, app.worker():
        result = await add.apply_async((2,), {"y": 2}, task_id="sum-of-two-and-two")

        assert result.id == "sum-of-two-and-two"
        assert await result == 4


async def test_options_of_every_call_are_given_with_the_declaration(app: AioTQ) -> None:
    @app.task(queue="hi", priority=9, name="sums.add")
    async def add(x: int, y: int) -> int:
        return x + y

    async with app, app.worker(queues=["hi"]):
        assert add.name == "sums.add"
        assert await (await add.delay(2, 2)) == 4


async def test_an_impossible_option_is_an_error_at_the_call(app: AioTQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app:
        with pytest.raises(InvalidOption, match="option priority must be a whole number from 0 to 9, not 10"):
            await add.options(priority=10).delay(2, 2)


async def test_a_task_of_another_program_is_called_by_its_name(app: AioTQ) -> None:
    @app.task(name="sums.add")
    async def add(x: int, y: int) -> int:
        return x + y

    async with app, app.worker():
        result = await app.send_task("sums.add", (2,), {"y": 2})

        assert await result == 4


async def test_many_calls_are_sent_in_one_round_trip(app: AioTQ) -> None:
    @app.task
    async def square(x: int) -> int:
        return x * x

    async with app, app.worker():
        results = await app.send_many(square.s(i) for i in range(100))

        assert len(results) == 100
        assert await results == [i * i for i in range(100)]
        assert await results[7] == 49


async def test_results_can_be_taken_as_they_complete(app: AioTQ) -> None:
    gates = {name: asyncio.Event() for name in "abc"}

    @app.task
    async def pass_gate(name: str) -> str:
        await gates[name].wait()
        return name

    async with app, app.worker():
        results = await app.send_many(pass_gate.s(name) for name in "abc")
        order = []
        gates["b"].set()
        async for result in results.as_completed():
            order.append(await result)
            for name in "ca":
                if not gates[name].is_set():
                    gates[name].set()
                    break

        assert order == ["b", "c", "a"]


async def test_a_signature_is_a_call_that_can_be_kept_and_completed_later(app: AioTQ) -> None:
    @app.task
    async def subtract(x: int, y: int) -> int:
        return x - y

    async with app, app.worker():
        minus_two = subtract.s(2).set(priority=9)

        assert repr(minus_two) == f"{subtract.name}(2)"
        assert await (await minus_two.delay(10)) == 8, "arguments given later come first"
        assert await (await subtract.si(5, 3).delay()) == 2
        assert await (await app.signature(subtract.name, (7, 3)).delay()) == 4


async def test_a_call_can_wait_for_its_time(app: AioTQ) -> None:
    @app.task
    async def when() -> float:
        return asyncio.get_running_loop().time()

    async with app, app.worker():
        now = asyncio.get_running_loop().time()
        counted = await when.options(countdown=0.2).delay()
        at = await when.options(eta=datetime.now(UTC) + timedelta(seconds=0.2)).delay()
        past = await when.options(eta=datetime(2001, 1, 1)).delay()

        assert await past - now < 0.2
        assert await counted - now >= 0.19
        assert await at - now >= 0.19


async def test_a_call_can_expire(app: AioTQ) -> None:
    """It is not started any more when its time has passed."""

    @app.task
    async def offer() -> str:
        return "too late"

    async with app:
        result = await offer.options(expires=0.01).delay()
        await asyncio.sleep(0.02)
        async with app.worker():
            await wait_until(result.ready, "the offer has expired")

        assert await result.state() == "REVOKED"


async def test_higher_priorities_run_first(app: AioTQ) -> None:
    order: list[int] = []

    @app.task
    async def note(number: int) -> None:
        order.append(number)

    async with app:
        results = [await note.options(priority=priority).delay(priority) for priority in (0, 9, 4, 9, 5)]
        async with app.worker(concurrency=1):
            for result in results:
                await result

    assert order == [9, 9, 5, 4, 0]


async def test_headers_travel_with_the_call(app: AioTQ) -> None:
    @app.task
    async def trace() -> object:
        return current_task.request.headers["trace"]

    async with app, app.worker():
        assert await (await trace.options(headers={"trace": "abc"}).delay()) == "abc"
