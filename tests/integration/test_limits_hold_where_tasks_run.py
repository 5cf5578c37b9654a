"""Limits and expiry of a task hold for calls by name, and what can't be kept is said."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from aiotq import (
    AioTQ,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
)
from aiotq.wire.message import new_id

from ..waiting import wait_until
from . import process_app
from .memory_work import JumpingClock, make_app, send_raw


@pytest.fixture
def app() -> AioTQ:
    return make_app()


async def test_a_process_task_may_have_a_limit_of_a_month() -> None:
    app = process_app.app
    async with app, app.worker():
        assert await (await process_app.echo_within_a_month.delay(5)).get(timeout=30) == 5


async def test_limits_of_the_declaration_hold_for_calls_by_name() -> None:
    """The caller does not know them: it is another program."""
    url = f"memory://{new_id()}"
    app, caller = AioTQ("proj", broker=url), AioTQ("caller", broker=url)

    @app.task(name="proj.hard", time_limit=0.05)
    async def hard() -> None:
        await asyncio.sleep(60)

    @app.task(name="proj.soft", soft_time_limit=0.05)
    async def soft() -> None:
        await asyncio.sleep(60)

    async with app, caller, app.worker():
        with pytest.raises(TimeLimitExceeded, match=r"0\.05 s"):
            await (await caller.send_task("proj.hard")).get(timeout=5)
        with pytest.raises(SoftTimeLimitExceeded, match=r"0\.05 s"):
            await (await caller.send_task("proj.soft")).get(timeout=5)


@pytest.mark.parametrize("given", [{}, {"expires": 100}])
async def test_a_declared_expiry_holds_for_calls_by_name_that_give_none(given: Any) -> None:
    url, clock = f"memory://{new_id()}", JumpingClock()
    app, caller = AioTQ("proj", broker=url, clock=clock), AioTQ("caller", broker=url, clock=clock)

    @app.task(name="proj.offer", expires=10)
    async def offer() -> str:
        return "taken"

    async with app, caller:
        result = await caller.send_task("proj.offer", **given)
        clock.ahead = 20
        async with app.worker():
            await wait_until(result.ready, "the offer was looked at")

        assert await result.state() == ("SUCCESS" if given else "REVOKED")


@pytest.mark.parametrize("level", [logging.INFO, logging.CRITICAL])
async def test_time_limits_that_threads_cannot_keep_are_said_once_when_the_worker_starts(
    caplog: pytest.LogCaptureFixture, level: int
) -> None:
    caplog.set_level(level, "aiotq")
    app = make_app(task_time_limit=5)

    @app.task(name="proj.in_a_thread")
    def in_a_thread() -> str:
        return threading.current_thread().name

    @app.task(name="proj.on_the_loop")
    async def on_the_loop() -> None: ...

    async with app, app.worker():
        for _ in range(3):
            await (await in_a_thread.delay()).get(timeout=5)

    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "task_time_limit does not hold for tasks that run in threads, which can't be stopped: proj.in_a_thread; "
        'give them run="process", or a soft_time_limit'
    ]


async def test_a_limit_that_comes_with_a_message_for_a_thread_is_said(
    app: AioTQ, caplog: pytest.LogCaptureFixture
) -> None:
    """Who calls by name does not know where the task runs."""

    @app.task(name="proj.work")
    def work(x: int) -> int:
        return x

    async with app, app.worker():
        task_id = await send_raw(app, task="proj.work", time_limit=5.0)

        assert await app.AsyncResult(task_id).get(timeout=5) == 1
    assert f"Task proj.work[{task_id}] runs in a thread: its time_limit can't be kept" in caplog.text
