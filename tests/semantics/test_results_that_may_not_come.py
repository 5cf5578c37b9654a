"""A handle made from an id may be of a task that nobody knows: who waits for it without a timeout is warned."""

from __future__ import annotations

import asyncio

import pytest

from aiotq import AioTQ, ResultSet
from aiotq.results import waiting

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
