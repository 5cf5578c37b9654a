"""Tracebacks of tasks show the user's code, and not how it was called; all of it is in a log at DEBUG."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import aiotq
from aiotq import AioTQ, group

BROKERS_HERE = ("memory",)


async def test_the_users_frames_are_in_the_log_and_the_result(app: AioTQ, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(soft_time_limit=60)
    async def on_the_loop() -> None:
        raise ValueError("no luck")

    @app.task
    def in_a_thread() -> None:
        raise ValueError("no luck")

    async with app, app.worker():
        for task in (on_the_loop, in_a_thread):
            caplog.clear()
            result = await task.delay()
            error = await result.get(timeout=10, propagate=False)

            assert isinstance(error, ValueError)
            for text in (caplog.text, str(await result.traceback()), str(error.__cause__)):
                assert 'raise ValueError("no luck")' in text
                assert "aiotq/worker" not in text
                assert "anyio" not in text


async def test_all_frames_are_in_a_log_at_debug(app: AioTQ, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "aiotq.task")

    @app.task
    async def fails() -> None:
        raise ValueError("no luck")

    async with app, app.worker():
        await (await fails.delay()).get(timeout=10, propagate=False)

    assert "aiotq/worker/execution.py" in caplog.text


@pytest.mark.parametrize("way", ["await", "get", "twice", "set", "group", "sync", "sync group", "eager"])
async def test_an_awaited_failure_shows_the_callers_frames_and_one_of_ours(app: AioTQ, way: str) -> None:
    """However deep the waiting is: below the caller's line is the one that raises, and then the task's own."""

    @app.task
    async def fails() -> None:
        raise ValueError("no luck")

    ways: dict[str, Callable[[], Awaitable[Any]]] = {
        "await": lambda: awaited(fails.delay()),
        "get": lambda: got(fails.delay()),
        "twice": lambda: twice(fails.delay()),
        "set": lambda: awaited(app.send_many([fails.s(), fails.s()])),
        "group": lambda: awaited(group(fails.s(), fails.s()).delay()),
        "sync": lambda: without_a_loop(fails.delay()),
        "sync group": lambda: without_a_loop(group(fails.s()).delay()),
        "eager": lambda: awaited(fails.apply()),
    }
    async with app, app.worker():
        with pytest.raises(ValueError, match="no luck") as caught:
            await ways[way]()

    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    ours = [file for file in files if Path(aiotq.__file__).parent in Path(file).parents]
    assert len(ours) == 1
    assert not [file for file in files if "anyio" in file]
    assert files[-1] == (__file__ if way == "eager" else ours[0])


async def awaited(sending: Awaitable[Any]) -> None:
    await (await sending)


async def got(sending: Awaitable[Any]) -> None:
    await (await sending).get(timeout=10)


async def twice(sending: Awaitable[Any]) -> None:
    result = await sending
    with pytest.raises(ValueError, match="no luck"):
        await result
    await result


async def without_a_loop(sending: Awaitable[Any]) -> None:
    result = await sending
    await asyncio.to_thread(lambda: result.sync.get(timeout=10))
