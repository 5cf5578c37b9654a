"""What callers send, wait for and are told."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import pytest

from aiotq import (
    AioTQ,
)
from aiotq.core.inside import core_of
from aiotq.exceptions import (
    PublishTimeout,
)
from aiotq.results import Record
from aiotq.wire.message import Envelope

from ..waiting import wait_until
from .memory_work import make_app


@pytest.fixture
def app() -> AioTQ:
    return make_app()


async def test_many_calls_to_a_locked_file_are_told_in_time_and_not_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "proj.db"
    app = AioTQ("proj", broker=f"sqlite:///{path}")

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async def error_of(call: Awaitable[object]) -> BaseException | None:
        try:
            await call
        except Exception as exc:
            return exc
        return None

    loop = asyncio.get_running_loop()
    lock = sqlite3.connect(path, isolation_level=None)
    try:
        lock.execute("begin exclusive")
        began = loop.time()
        calls = [error_of(add.options(publish_timeout=0.5).delay(1, 1)) for _ in range(10)]
        errors = await asyncio.gather(*calls)
        took = loop.time() - began
    finally:
        lock.close()

    assert [isinstance(error, PublishTimeout) and not error.maybe_sent for error in errors] == [True] * 10
    assert 0.4 < took < 3
    await app.close()


async def test_each_state_is_told_once_however_often_it_is_looked_at(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiotq.results.waiting._SAFETY_INTERVAL", 0.01)
    gate, looks, told = asyncio.Event(), list[Record](), list[str]()

    @app.task(track_started=True)
    async def work() -> None:
        await gate.wait()

    async with app, app.worker():
        store = (await core_of(app).connection()).records
        get = store.get

        async def look(ids: Sequence[str]) -> Sequence[Record | None]:
            found = await get(ids)
            looks.extend(record for record in found if record is not None)
            return found

        result = await work.delay()
        monkeypatch.setattr(store, "get", look)
        getting = asyncio.create_task(result.get(on_message=lambda meta: told.append(meta["status"])))
        await wait_until(lambda: len(looks) > 3, "it was seen often")
        gate.set()
        await getting

    assert told == ["STARTED", "SUCCESS"]


async def test_a_set_with_ignored_results_is_ready_when_the_others_are(app: AioTQ) -> None:
    gate = asyncio.Event()

    @app.task
    async def wait() -> int:
        await gate.wait()
        return 1

    @app.task(ignore_result=True)
    async def ping() -> None: ...

    async with app, app.worker():
        results: Any = await app.send_many([wait.s(), ping.s()])
        assert not await results.ready()
        gate.set()
        assert await results.get(timeout=5) == [1, None]

        assert await results.ready()


async def test_a_parameter_may_be_called_self(app: AioTQ) -> None:
    @app.task
    async def echo(x: int, self: int) -> list[int]:
        return [x, self]

    @app.task(bind=True)
    async def bound(task: Any, self: int) -> list[Any]:
        return [task.name, self]

    async with app, app.worker():
        assert await (await echo.delay(1, self=2)).get(timeout=5) == [1, 2]
        assert await (await echo.s(1, self=2).delay()).get(timeout=5) == [1, 2]
        assert await (await bound.delay(self=3)).get(timeout=5) == [bound.name, 3]
        assert await (await echo.apply((1,), {"self": 2})).get() == [1, 2]


async def test_the_default_counts_for_those_of_many_calls_that_give_no_deadline(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts: list[float | None] = []

    async def publish(envelopes: Sequence[Envelope], timeout: float | None = None, *more: object) -> None:
        timeouts.append(timeout)

    @app.task
    async def work() -> None: ...

    hasty, patient = work.options(publish_timeout=0.1), work.options(publish_timeout=60)
    async with app:
        monkeypatch.setattr((await core_of(app).connection()).publisher, "publish", publish)
        for calls in ([hasty.s(), work.s()], [hasty.s(), hasty.s()], [work.s(), patient.s()]):
            await app.send_many(calls)

    assert timeouts == [app.conf.task_publish_timeout, 0.1, 60]
