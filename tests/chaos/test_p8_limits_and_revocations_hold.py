"""P8: time limits and revocations act on what runs, disturb nothing else, and outlive workers."""

from __future__ import annotations

import os

import pytest

from aiotq.exceptions import TaskRevokedError, TimeLimitExceeded

from ..waiting import wait_until
from . import apps
from .harness import PATIENCE, Chaos


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_revocation_holds_for_a_worker_that_starts_later(chaos: Chaos) -> None:
    async with chaos.client:
        ready = await chaos.send(apps.step, 0.0)
        delayed = await chaos.send(apps.step, 0.0, countdown=1.0)
        await ready.revoke()
        await delayed.revoke()
        innocent = await chaos.send(apps.step, 0.0)
    (await chaos.worker()).kill()

    await chaos.worker()

    async with chaos.client:
        for revoked in (ready, delayed):
            with pytest.raises(TaskRevokedError):
                await revoked.get(timeout=PATIENCE)
            assert await revoked.state() == "REVOKED"
        assert await innocent.get(timeout=PATIENCE)
    assert set(chaos.starts()) == {innocent.id}


async def test_a_revoked_task_is_ended_where_it_runs_and_nothing_else_is_disturbed(chaos: Chaos) -> None:
    gate = str(chaos.directory / "gate")
    async with chaos.client:
        worker = await chaos.worker()
        coroutine = await chaos.send(apps.wait_at, gate)
        process = await chaos.send(apps.wait_in_process_at, gate)
        neighbours = [await chaos.send(apps.wait_at, gate), await chaos.send(apps.wait_in_process_at, gate)]
        await chaos.sees("start", count=4)

        for revoked in (coroutine, process):
            await revoked.revoke(terminate=True)

        for revoked in (coroutine, process):
            with pytest.raises(TaskRevokedError):
                await revoked.get(timeout=PATIENCE)
        await chaos.sees("cleaned up", coroutine.id)
        child = chaos.seen("start", process.id)[0].pid
        await wait_until(lambda: not is_running(child), "the task's process is gone", PATIENCE)
        (chaos.directory / "gate").touch()
        assert [await result.get(timeout=PATIENCE) for result in neighbours] == [worker.pid] * 2
    assert set(chaos.starts().values()) == {1}
    assert {fact.id for fact in chaos.seen("end")} == {result.id for result in neighbours}


async def test_time_limits_end_coroutines_and_processes_and_nothing_else_is_disturbed(chaos: Chaos) -> None:
    gate = str(chaos.directory / "gate")
    async with chaos.client:
        worker = await chaos.worker(worker_processes=4)
        neighbours = [await chaos.send(apps.wait_at, gate), await chaos.send(apps.wait_in_process_at, gate)]
        ticking = await chaos.send(apps.tick, 3.0, 0.01)
        await chaos.sees("start", count=3)

        soft = [
            await chaos.send(task, 600, soft_time_limit=0.5)
            for task in (apps.outlast_soft_limit, apps.outlast_soft_limit_in_process)
        ]
        hard = [await chaos.send(task, gate, time_limit=0.5) for task in (apps.wait_at, apps.wait_in_process_at)]

        assert [await result.get(timeout=PATIENCE) for result in soft] == ["cleaned up in time"] * 2
        for result in hard:
            with pytest.raises(TimeLimitExceeded, match=r"hard time limit of 0\.5 s exceeded"):
                await result.get(timeout=PATIENCE)
        assert [fact.id for fact in chaos.seen("cleaned up")] == [hard[0].id]
        child = chaos.seen("start", hard[1].id)[0].pid
        await wait_until(lambda: not is_running(child), "the task's process is gone", PATIENCE)
        assert await ticking.get(timeout=PATIENCE) < 1.0  # it waits for a noisy machine, and not for 600 s
        (chaos.directory / "gate").touch()
        assert [await result.get(timeout=PATIENCE) for result in neighbours] == [worker.pid] * 2
    for fact in chaos.seen("soft limit"):
        assert fact.time - chaos.seen("start", fact.id)[0].time >= 0.49
    assert set(chaos.starts().values()) == {1}
