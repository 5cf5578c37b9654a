"""A handle made from an id may be of a task that nobody knows: who waits for it without a timeout is warned."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from aiotq import AioTQ, AsyncResult, ResultSet, ResultTimeout
from aiotq.results import handle, waiting

from ..waiting import wait_until


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "aiotq.results"]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_WARNED_AFTER", 0.02)


async def test_waiting_for_an_id_that_nobody_knows_is_warned_of_once(
    app: AioTQ, caplog: pytest.LogCaptureFixture
) -> None:
    async with app, asyncio.TaskGroup() as waiters:
        one = waiters.create_task(app.AsyncResult("nobody's").get())
        many = waiters.create_task(ResultSet([app.AsyncResult("a"), app.AsyncResult("b")], app).get())
        await wait_until(lambda: len(warnings_in(caplog)) == 2, "both were warned")
        one.cancel()
        many.cancel()

    assert sorted(text[:50] for text in warnings_in(caplog)) == [
        "Still waiting for a result of a and 1 more after 0",
        "Still waiting for a result of nobody's after 0.02 ",
    ]
    assert all("the id may be wrong" in text for text in warnings_in(caplog))


async def test_no_one_is_warned_who_has_a_timeout_or_made_the_call(
    app: AioTQ, caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()

    @app.task
    async def wait() -> str:
        await release.wait()
        return "done"

    async with app, app.worker():
        result = await wait.delay()
        own = asyncio.create_task(result.get())
        with pytest.raises(TimeoutError):
            await app.AsyncResult("nobody's").get(timeout=0.1)
        release.set()
        assert await own == "done"

    assert warnings_in(caplog) == []


async def test_who_waits_for_what_nobody_takes_is_told_where_it_waits(
    app: AioTQ, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle, "_LEAST_TO_ASK", 0.05)
    monkeypatch.setattr(waiting, "_SAFETY_INTERVAL", 0.02)

    @app.task(name="echo")
    async def echo(x: int) -> int:
        return x

    why = r"nobody has taken it: \d messages? waits? in queue 'nosuch'; is there a worker for it"
    async with app, app.worker(queues=["default"]):
        await (await echo.delay(1))
        alone = await echo.options(queue="nosuch").delay(1)
        chain: AsyncResult[Any] = await (echo.s(1).set(queue="nosuch") | echo.s()).delay()
        many = await app.send_many([echo.s(1), echo.s(2).set(queue="nosuch")])
        for result in (alone, chain, many):
            with pytest.raises(ResultTimeout, match=why):
                await result.get(timeout=0.1)

        waits = asyncio.gather(alone.get(), chain.get())
        await wait_until(lambda: warnings_in(caplog), "it is logged")
        async with app.worker(queues=["nosuch"]):
            assert [*await waits] == [1, 1]

    assert len(warnings_in(caplog)) == 1, "once for a queue"
    assert re.search(why, warnings_in(caplog)[0])
