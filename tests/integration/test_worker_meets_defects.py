"""An error that nobody expects is logged; it ends one task or the worker, and leaves nothing running."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from aiotq import (
    AioTQ,
)
from aiotq.backends.memory.broker import MemoryConsumer
from aiotq.backends.memory.commit import MemoryCommitter
from aiotq.canvas.coordinator import Coordinator
from aiotq.canvas.outcome import Outcome, Success
from aiotq.commit import Finish
from aiotq.core.inside import core_of
from aiotq.exceptions import (
    DeadLettered,
    OperationalError,
)

from ..waiting import wait_until
from .memory_work import make_app, queue, works


@pytest.fixture
def app() -> AioTQ:
    return make_app()


async def _defect(*_: object) -> None:
    raise ZeroDivisionError("a defect")


async def test_a_worker_that_fails_says_so_and_hands_everything_back(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of ours is no outcome of the tasks that it interrupts."""
    begun = asyncio.Event()

    @app.task
    async def work() -> None:
        begun.set()
        await asyncio.sleep(60)

    async with app:
        worker = app.worker()
        result = await work.delay()
        with pytest.raises(ExceptionGroup) as caught:
            async with worker:
                await begun.wait()
                assert worker._intake is not None
                monkeypatch.setattr(worker._intake, "_take_in", _defect)
                await work.delay()
                await worker.wait()

        assert caught.group_contains(ZeroDivisionError)
        stats = await queue(app)
        assert (stats.ready, stats.leased) == (2, 0)
        assert await result.state() == "PENDING"


@pytest.mark.parametrize("acks_late", [True, False])
async def test_a_defect_of_ours_ends_the_task_it_met_and_not_the_worker(
    app: AioTQ, acks_late: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not tried again: what fails here once would fail again wherever it comes."""
    follow, runs = Coordinator.follow, list[int]()

    def be_defective(self: Coordinator, outcome: Outcome) -> Finish:
        if isinstance(outcome, Success):
            monkeypatch.setattr(Coordinator, "follow", follow)
            raise ZeroDivisionError("a defect")
        return follow(self, outcome)

    @app.task(acks_late=acks_late)
    async def work() -> None:
        runs.append(1)

    async with app, app.worker():
        monkeypatch.setattr(Coordinator, "follow", be_defective)
        result = await work.delay()

        with pytest.raises(DeadLettered, match="defect: a defect in aiotq: ZeroDivisionError"):
            await result.get(timeout=5)
        assert await result.state() == "FAILURE"
        letters = [letter.reason for letter in await app.admin.dead_letters()]
        assert letters == (["defect"] if acks_late else []), "what was acknowledged is no letter any more"
        await works(app)

    assert runs == [1]
    assert f"running {work.name}[{result.id}] failed" in caplog.text


@pytest.mark.parametrize(
    ("place", "method", "said"),
    [
        (MemoryCommitter, "admit", "checking received messages failed, trying again"),
        (MemoryConsumer, "receive", "receiving failed, trying again"),
        (MemoryConsumer, "reclaim", "looking for tasks of dead workers failed, trying again"),
        (MemoryCommitter, "commit", "committing 1 finished tasks failed, trying again"),
    ],
)
async def test_an_error_nobody_expects_is_logged_and_the_worker_goes_on(
    app: AioTQ,
    place: type[Any],
    method: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    original, failures = getattr(place, method), list[Exception]()

    async def fail_once(*args: Any, **kwargs: Any) -> Any:
        if not failures:
            failures.append(ZeroDivisionError("a defect"))
            raise failures[0]
        return await original(*args, **kwargs)

    monkeypatch.setattr(place, method, fail_once)
    async with app, app.worker():
        await works(app)
        await wait_until(lambda: said in caplog.text, "it is logged")

    (record,) = [each for each in caplog.records if each.getMessage() == said]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_what_runs_when_a_worker_fails_is_cancelled_once_and_cleans_up(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = asyncio.Event()
    heard: list[str] = []

    @app.task
    async def careful() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            heard.append("cancelled")
            await asyncio.sleep(0.3)
            heard.append("cleaned up")
            raise

    async def be_defective(ids: Sequence[str]) -> None:
        raise ZeroDivisionError("a defect")

    worker = app.worker()
    with pytest.raises(ExceptionGroup):
        async with worker:
            await careful.delay()
            await asyncio.wait_for(began.wait(), 5)
            connection = await core_of(app).connection()
            monkeypatch.setattr(connection.waiting, "_look", be_defective)
            with pytest.raises(OperationalError):
                await app.AsyncResult("whatever").get(timeout=5)
            async with asyncio.timeout(5):
                await worker.wait()

    assert heard == ["cancelled", "cleaned up"]


async def test_a_connection_that_fails_ends_the_worker_and_is_said_at_once(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def be_defective(ids: Sequence[str]) -> None:
        raise ZeroDivisionError("a defect")

    worker = app.worker(name="one")
    with pytest.raises(ExceptionGroup) as caught:
        async with worker:
            connection = await core_of(app).connection()
            monkeypatch.setattr(connection.waiting, "_look", be_defective)
            with pytest.raises(OperationalError, match="closed while a result was awaited"):
                await app.AsyncResult("whatever").get(timeout=5)
            async with asyncio.timeout(5):
                await worker.wait()

    assert caught.group_contains(OperationalError, match="connection ended under the worker")
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert said == ["aiotq.connection failed and has ended", "aiotq.worker.one failed and has ended"]
