"""Leases are renewed while tasks run, and what a lost lease means (P2)."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Collection

import pytest

from aiotq import (
    current_task,
)
from aiotq.backends.memory.commit import MemoryCommitter
from aiotq.results.fleet import FleetRow
from aiotq.transport import Delivery

from ..waiting import wait_until
from .memory_work import lose_all_leases, make_app, queue, settled, works


async def test_a_task_that_blocks_the_loop_is_named_and_keeps_its_lease(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(worker_loop_lag=0.2, worker_lease=0.4)
    runs = []

    @app.task
    async def block() -> str:
        runs.append(current_task.request.delivery_info["redelivered"])
        time.sleep(1.2)  # noqa: ASYNC251 (the thing under test)
        return "done"

    async with app, app.worker(name="one"), app.worker(name="two"):
        result = await block.delay()

        assert await result.get(timeout=5) == "done"
        await works(app)

    assert runs == [False], "its lease was renewed, and nobody else ran it"
    warning = next(record.getMessage() for record in caplog.records if "blocked" in record.message)
    assert f"{block.name}[{result.id}]" in warning
    assert "time.sleep(1.2)" in warning


async def test_a_thread_outlasts_the_grace_time_and_keeps_its_lease() -> None:
    """It can't be cancelled: an embedded worker waits for it."""
    app = make_app(worker_lease=0.3)
    gate, runs = threading.Event(), []

    @app.task
    def work() -> str:
        runs.append(1)
        gate.wait(10)
        return "done"

    async with app, app.worker(name="other", queues=["elsewhere"]):
        worker = app.worker(grace=0)
        async with worker:
            result = await work.delay()
            await wait_until(lambda: runs, "the task has begun")
            stop = asyncio.create_task(worker.stop())
            await asyncio.wait({stop}, timeout=0.7)
            assert not stop.done()
            assert (await queue(app)).leased == 1, "two leases later it still holds it"
            gate.set()
            await stop

        assert await result.get(timeout=5) == "done"
    assert runs == [1]


async def test_a_lost_lease_cancels_the_run_and_nothing_of_it_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(worker_lease=0.3)
    events: list[str] = []

    @app.task
    async def work() -> str:
        number = events.count("begun") + 1
        events.append("begun")
        try:
            if number == 1:
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            events.append("cancelled")
        return f"run {number}"

    async with app, app.worker():
        result = await work.delay()
        await wait_until(lambda: events, "the task has begun")
        await lose_all_leases(app)

        assert await result.get(timeout=5) == "run 2"
        await wait_until(lambda: "cancelled" in events, "the first run was cancelled")
        await works(app)
        assert await app.AsyncResult(result.id).get(timeout=1) == "run 2"

    assert f"the lease of {work.name}[{result.id}] was lost" in caplog.text


async def test_a_lease_lost_while_the_task_waits_for_a_slot_means_it_is_not_run_here() -> None:
    app = make_app(worker_lease=0.3)
    gate, runs = asyncio.Event(), []

    @app.task
    async def work(number: int) -> int:
        runs.append(number)
        await gate.wait()
        return number

    async with app:
        results = [await work.delay(number) for number in range(3)]
        async with app.worker(concurrency=1, prefetch=2):

            async def all_held() -> bool:
                return (await queue(app)).leased == 3

            await wait_until(all_held, "one runs and two wait")
            await lose_all_leases(app)
            await wait_until(lambda: len(runs) > 1, "the first was cancelled, and comes again")
            gate.set()
            assert [await result.get(timeout=5) for result in results] == [0, 1, 2]
            await settled(app)

    assert sorted(runs[1:]) == [0, 1, 2], "each once after the loss"


async def test_a_log_filter_that_fails_does_not_end_the_renewal_of_leases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would be met in the thread that renews, when that names a task which blocks the loop."""
    app = make_app(worker_loop_lag=0.02, worker_lease=0.3)
    renewals, failures = list[float](), list[str]()
    renew = MemoryCommitter.renew

    def count(self: MemoryCommitter, held: Collection[Delivery], row: FleetRow | None = None) -> Collection[Delivery]:
        renewals.append(time.monotonic())
        return renew(self, held, row)

    def fail(record: logging.LogRecord) -> bool:
        if threading.current_thread().name == "aiotq.lifeline":
            failures.append(record.getMessage())
            raise KeyError("a filter of the user's")
        return True

    @app.task
    async def block() -> None:
        deadline = time.monotonic() + 5
        while not failures and time.monotonic() < deadline:
            time.sleep(0.01)  # noqa: ASYNC251 (the thing under test)

    monkeypatch.setattr(MemoryCommitter, "renew", count)
    log = logging.getLogger("aiotq.worker")
    log.addFilter(fail)
    try:
        async with app, app.worker():
            await (await block.delay()).get(timeout=10)
            assert failures
            before = len(renewals)
            await wait_until(lambda: len(renewals) >= before + 3, "leases are still renewed")
    finally:
        log.removeFilter(fail)
