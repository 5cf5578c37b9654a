"""Limits, revocations and stops hold although a task, or a library in it, swallows its cancellation."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest

from aiotq import AioTQ, TaskRevokedError, TimeLimitExceeded
from aiotq.worker import run as runs
from aiotq.worker import worker as workers

from ..waiting import wait_until
from .conftest import NOT_ON_RABBITMQ

BROKERS_HERE = NOT_ON_RABBITMQ


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancel again soon."""
    monkeypatch.setattr(runs, "CLEANUP", 0.05)
    monkeypatch.setattr(workers, "_CLEANUP", 0.2)
    monkeypatch.setattr(workers, "_LAST_CLEANUP", 0.2)


async def swallow(times: int) -> None:
    """Go on through so many cancellations."""
    for _ in range(times):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


async def test_a_time_limit_holds_whatever_the_task_returns_afterwards(app: AioTQ) -> None:
    @app.task(time_limit=0.05)
    async def returns() -> str:
        await swallow(1)
        return "success"

    async with app, app.worker():
        with pytest.raises(TimeLimitExceeded, match=r"0\.05 s"):
            await (await returns.delay()).get(timeout=10)


async def test_a_revocation_holds_whatever_the_task_returns_afterwards(app: AioTQ) -> None:
    begun = asyncio.Event()

    @app.task
    async def returns() -> str:
        begun.set()
        await swallow(1)
        return "success"

    async with app, app.worker():
        result = await returns.delay()
        await begun.wait()
        await result.revoke(terminate=True)
        with pytest.raises(TaskRevokedError):
            await result.get(timeout=10)


async def test_what_swallows_its_cancellation_is_cancelled_again(app: AioTQ) -> None:
    @app.task(time_limit=0.05)
    async def insists() -> str:
        await swallow(3)
        return "success"

    async with app, app.worker():
        with pytest.raises(TimeLimitExceeded):
            await (await insists.delay()).get(timeout=10)


async def test_a_stop_ends_although_a_task_swallows_all_cancellations(
    app: AioTQ, caplog: pytest.LogCaptureFixture
) -> None:
    """It is handed back, so that another worker runs it."""
    goes_on = asyncio.Event()
    attempts: list[int] = []

    @app.task
    async def never_ends() -> str:
        attempts.append(1)
        while len(attempts) == 1 and not goes_on.is_set():
            await swallow(1)
        return "from another worker"

    async with app:
        worker = app.worker(grace=0)
        await worker.__aenter__()
        result = await never_ends.delay()
        await wait_until(lambda: attempts, "it has begun")

        began = time.monotonic()
        await worker.stop()
        assert time.monotonic() - began < 5
        assert worker.left_running == 1
        goes_on.set()
        async with app.worker():
            assert await result.get(timeout=10) == "from another worker"
    assert "swallows its cancellation" in caplog.text
    left = [task for task in asyncio.all_tasks() if "never_ends[" in task.get_name()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def test_a_cancelled_eager_call_leaves_its_caller_uncancelled(app: AioTQ) -> None:
    @app.task(time_limit=0.02)
    async def insists() -> None:
        await swallow(2)

    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(TimeLimitExceeded):
        await (await insists.apply())
    assert task.cancelling() == 0
