"""P7: every call has a deadline and a clear error, and a fault that ends is a fault that is over."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from aiotq.exceptions import OperationalError, PublishTimeout, ResultTimeout

from . import apps
from .backends import ON_SQLITE, SQLiteFile
from .harness import PATIENCE, Chaos

#: Seconds; longer than a lease and than any attempt to write waits for a lock.
LOCKED = 10.0
BRIEF_LEASE = 1.5


@ON_SQLITE
async def test_a_locked_file_is_an_error_in_time_for_callers_and_a_pause_for_workers(
    chaos: Chaos, backend: SQLiteFile
) -> None:
    async with chaos.client:
        worker = await chaos.worker(worker_lease=BRIEF_LEASE)
        running = await chaos.send(apps.wait_at, str(chaos.directory / "gate"))
        await chaos.sees("start", running.id)
        lock = chaos.program("lock", backend.file)
        await lock.says("the file is locked")
        began = time.monotonic()

        with pytest.raises(PublishTimeout, match=r"could not be published within 0\.5 s") as refused:
            await chaos.send(apps.step, 0.0, publish_timeout=0.5)
        with pytest.raises(OperationalError):  # the usual deadline, 5 s
            await chaos.send(apps.step, 0.0)
        with pytest.raises(ResultTimeout):
            await running.get(timeout=0.5)
        assert time.monotonic() - began < PATIENCE  # none waits for the lock's end, which is ours to decide
        (chaos.directory / "gate").touch()
        await chaos.sees("end", running.id)  # and can't be committed
        await asyncio.sleep(began + LOCKED - time.monotonic())  # the length of the lock is the thing under test
        lock.tell_to_go_on()
        assert await lock.ended() == 0

        assert await running.get(timeout=PATIENCE) == worker.pid
        again = await chaos.send(apps.step, 0.0, task_id=refused.value.task_id)
        assert await again.get(timeout=PATIENCE) == worker.pid
        assert worker.exit_code is None
    assert "was locked by another process" in worker.said
    assert chaos.starts()[running.id] == 1
    assert chaos.starts()[again.id] == 1


async def test_a_result_that_does_not_come_is_a_timeout_in_time(chaos: Chaos) -> None:
    async with chaos.client:
        result = await chaos.send(apps.step, 0.0)

        began = time.monotonic()
        with pytest.raises(ResultTimeout, match=r"no result of .*step.* within 0\.3 s; the task goes on"):
            await result.get(timeout=0.3)
        assert time.monotonic() - began < PATIENCE

        await chaos.worker()
        assert await result.get(timeout=PATIENCE)


@ON_SQLITE
async def test_tasks_and_results_arrive_although_every_wake_up_is_lost(chaos: Chaos, backend: SQLiteFile) -> None:
    async with chaos.client:
        worker = await chaos.worker()
        await (await chaos.send(apps.step, 0.0)).get(timeout=PATIENCE)  # both listen
        sockets = [path for (path,) in backend.query("SELECT path FROM listeners")]
        assert len(sockets) == 2
        for path in sockets:
            os.unlink(path)

        for _ in range(2):
            result = await chaos.send(apps.step, 0.0)
            assert await result.get(timeout=PATIENCE) == worker.pid
