"""Tasks that are acknowledged before they run, at most once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from aiotq import (
    AioTQ,
    Worker,
)
from aiotq.commit import COMMITTED, Answer, Committer, Finish
from aiotq.exceptions import (
    ConnectionLost,
    WorkerLostError,
)

from ..waiting import wait_until
from .memory_work import lose_all_leases, make_app, queue


@pytest.fixture
def app() -> AioTQ:
    return make_app()


class HeldUp:
    """Commits of one worker, from now on: `done` before they are held up until `gate`, or not begun at all."""

    def __init__(self, committer: Committer, monkeypatch: pytest.MonkeyPatch, *, is_done: bool) -> None:
        self._commit = committer.commit
        self._is_done = is_done
        self.calls = 0
        self.gate = asyncio.Event()
        monkeypatch.setattr(committer, "commit", self)

    async def __call__(self, group: Sequence[Finish]) -> Sequence[Answer]:
        self.calls += 1
        if self.calls > 1:
            return await self._commit(group)
        answer: Sequence[Answer] = [COMMITTED]
        if self._is_done:
            answer = await self._commit(group)
        await self.gate.wait()
        return answer


def committer_of(worker: Worker) -> Committer:
    assert worker._completer is not None
    return worker._completer._committer


async def stopping(worker: Worker) -> asyncio.Task[None]:
    """Stop `worker` and return when it has cancelled what runs."""
    stop = asyncio.create_task(worker.stop())

    def is_cancelled() -> bool:
        assert worker._intake is not None
        return all(run.cancelled_for is not None for run in worker._intake.runs.values())

    await wait_until(is_cancelled, "what runs was cancelled")
    return stop


async def test_acknowledged_early_it_runs_at_most_once() -> None:
    app = make_app(worker_lease=0.3)
    gate, runs = asyncio.Event(), []

    @app.task(acks_late=False)
    async def pay() -> str:
        runs.append(1)
        await gate.wait()
        return "paid"

    async with app, app.worker():
        result = await pay.delay()
        await wait_until(lambda: runs, "the task has begun")
        assert (await queue(app)).leased == 0
        await lose_all_leases(app)
        asyncio.get_running_loop().call_later(0.4, gate.set)

        assert await result.get(timeout=5) == "paid"
    assert runs == [1]


async def test_stopped_during_its_early_acknowledgement_a_task_fails_and_is_not_silent(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    @app.task(acks_late=False)
    async def pay() -> None:
        ran.append(1)

    async with app:
        worker = app.worker(grace=0)
        async with worker:
            commits = HeldUp(committer_of(worker), monkeypatch, is_done=True)
            result = await pay.delay()
            await wait_until(lambda: commits.calls, "it is being acknowledged")
            stop = await stopping(worker)
            commits.gate.set()
            await stop

        with pytest.raises(WorkerLostError, match="stopped"):
            await result.get(timeout=5)
        stats = await queue(app)
        assert (stats.ready, stats.leased) == (0, 0)
    assert ran == []


async def test_stopped_before_it_was_acknowledged_it_is_handed_back(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiotq.worker.worker._LAST_COMMITS", 0.2)

    @app.task(acks_late=False)
    async def pay() -> str:
        return "paid"

    async with app:
        worker = app.worker(grace=0)
        async with worker:
            commits = HeldUp(committer_of(worker), monkeypatch, is_done=False)
            result = await pay.delay()
            await wait_until(lambda: commits.calls, "it is being acknowledged")
            await (await stopping(worker))

        assert (await queue(app)).ready == 1
        async with app.worker():
            assert await result.get(timeout=5) == "paid"


async def test_an_early_acknowledgement_waits_for_a_store_that_is_away_for_long(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its limit is for a worker that stops; before, an outage is no end of a task that has not begun."""
    monkeypatch.setattr("aiotq.worker.worker._LAST_COMMITS", 0.02)
    attempts: list[float] = []

    @app.task(acks_late=False)
    async def pay() -> str:
        return "paid"

    async with app, app.worker() as worker:
        committer = committer_of(worker)
        commit, loop = committer.commit, asyncio.get_running_loop()

        async def be_away(group: Sequence[Finish]) -> Sequence[Answer]:
            attempts.append(loop.time())
            if attempts[-1] - attempts[0] < 0.1:
                raise ConnectionLost("away")
            return await commit(group)

        monkeypatch.setattr(committer, "commit", be_away)

        assert await (await pay.delay()).get(timeout=5) == "paid"
    assert len(attempts) > 2
