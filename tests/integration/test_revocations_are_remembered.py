"""Revoked tasks do not run, whenever their turn comes (P8)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from aiotq import (
    AioTQ,
)
from aiotq.core.inside import core_of
from aiotq.exceptions import (
    TaskRevokedError,
)
from aiotq.worker.run import Cancelled

from ..waiting import wait_until
from .memory_work import JumpingClock, holds, make_app, works


@pytest.fixture
def app() -> AioTQ:
    return make_app()


DAY = 86_400.0


@pytest.mark.parametrize(("days", "by_id"), [(30, False), (300, True)], ids=["of the call", "made from its id"])
async def test_a_revocation_is_remembered_until_the_task_is_due(days: int, by_id: bool) -> None:
    clock = JumpingClock()
    app = AioTQ("proj", broker="memory://", clock=clock)
    ran: list[int] = []

    @app.task
    async def late() -> None:
        ran.append(1)

    async with app:
        result = await late.options(countdown=days * DAY).delay()
        await (app.AsyncResult(result.id) if by_id else result).revoke()
        clock.ahead = days * DAY + 1
        async with app.worker():
            with pytest.raises(TaskRevokedError):
                await result.get(timeout=5)

    assert ran == []


async def test_a_revocation_is_kept_a_day_beyond_the_due_time_and_a_year_if_that_is_not_known(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[float] = []

    async def revoke(ids: Collection[str], *, terminate: bool, expires: float) -> None:
        kept.append(expires - time.time())

    @app.task
    async def late() -> None: ...

    async with app:
        monkeypatch.setattr((await core_of(app).connection()).ledger, "revoke", revoke)
        due_now, due_later = await late.delay(), await late.options(countdown=10 * DAY).delay()
        for result in (due_now, due_later, app.AsyncResult(due_now.id)):
            await result.revoke()

    assert [round(seconds / DAY) for seconds in kept] == [1, 11, 366]


@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_a_task_revoked_while_it_waits_in_the_worker_does_not_run(app: AioTQ, kind: str, terminate: bool) -> None:
    gate, ran = threading.Event(), list[int]()

    async def on_the_loop(number: int) -> None:
        ran.append(number)
        await wait_until(gate.is_set, "the test goes on")

    def in_a_thread(number: int) -> None:
        ran.append(number)
        gate.wait(10)

    work: Any = app.task(name="proj.work")(on_the_loop if kind == "loop" else in_a_thread)
    async with app, app.worker(concurrency=1, threads=1, prefetch=1):
        first = await work.delay(1)
        await wait_until(lambda: ran, "the first has begun")
        second = await work.delay(2)
        await holds(app, 2)
        await second.revoke(terminate=terminate)
        gate.set()

        with pytest.raises(TaskRevokedError):
            await second.get(timeout=5)
        assert await first.get(timeout=5) is None
        assert await second.state() == "REVOKED"
        await works(app)

    assert ran == [1]


async def test_a_task_cancelled_while_its_revocation_is_looked_up_is_not_left_behind(app: AioTQ) -> None:
    gate, asked, answer = threading.Event(), asyncio.Event(), asyncio.Event()

    def work(number: int) -> None:
        gate.wait(10)

    task: Any = app.task(name="proj.work")(work)
    async with app:
        ledger = (await core_of(app).connection()).ledger
        look_up = ledger.revoked

        async def slowly(ids: Sequence[str]) -> Collection[str]:
            asked.set()
            await answer.wait()
            return await look_up(ids)

        setattr(ledger, "revoked", slowly)  # noqa: B010  # a method
        async with app.worker(concurrency=1, threads=1, prefetch=1) as worker:
            await task.delay(1)
            await wait_until(lambda: worker.running == 1, "the first has begun")
            second = await task.delay(2)
            await holds(app, 2)
            gate.set()
            await asked.wait()
            intake = worker._intake
            assert intake is not None
            (run,) = [each for each in intake.runs.values() if each.delivery.message.id == second.id]
            run.cancel(Cancelled.REVOKED)
            answer.set()

            with pytest.raises(TaskRevokedError):
                await second.get(timeout=5)
