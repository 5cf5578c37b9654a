"""P6: SIGTERM hands back what was not started, lets the rest finish for the grace time, then hands it back too."""

from __future__ import annotations

import os
from typing import Any

import pytest

from aiotq.tasks.task import Task

from . import apps
from .backends import ALSO_ON_RABBITMQ
from .harness import PATIENCE, Chaos

WAITING: list[Task[[str], Any]] = [apps.wait_at, apps.wait_in_thread_at, apps.wait_in_process_at]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_what_was_not_started_is_handed_back_at_once_and_what_runs_finishes(chaos: Chaos) -> None:
    gate = str(chaos.directory / "gate")
    async with chaos.client:
        stopping = await chaos.worker(worker_concurrency=2, worker_prefetch=10)
        running = [await chaos.send(apps.wait_at, gate) for _ in range(2)]
        await chaos.sees("start", count=2)
        unstarted = [await chaos.send(apps.step, 0.0) for _ in range(10)]
        await chaos.when(lambda standing: len(standing.held) == 12, "the worker holds all that it may")
        other = await chaos.worker()

        stopping.terminate()

        assert [await result.get(timeout=PATIENCE) for result in unstarted] == [other.pid] * 10
        assert stopping.exit_code is None
        (chaos.directory / "gate").touch()
        assert await stopping.ended() == 0
        assert [await result.get(timeout=PATIENCE) for result in running] == [stopping.pid] * 2
    assert set(chaos.starts().values()) == {1}
    assert "tasks finished: 2" in stopping.said


@pytest.mark.parametrize("task", WAITING, ids=["coroutine", "thread", "process"])
async def test_what_outlasts_the_grace_time_is_handed_back(chaos: Chaos, task: Task[[str], Any]) -> None:
    gate = str(chaos.directory / "gate")
    async with chaos.client:
        # A lease that nobody waits for: what another worker gets was handed back.
        stopping = await chaos.worker(worker_grace=0.5, worker_lease=600)
        result = await chaos.send(task, gate)
        (started,) = await chaos.sees("start")

        stopping.terminate()

        assert await stopping.ended() == 0
        assert set(chaos.standing().waiting) == {result.id}
        assert not chaos.standing().held
        assert not is_running(started.pid)
        other = await chaos.worker()
        await chaos.sees("start", count=2)
        (chaos.directory / "gate").touch()
        assert await result.get(timeout=PATIENCE) == other.pid
    assert len(chaos.seen("cleaned up")) == (task is apps.wait_at)
    assert not chaos.standing().dead


@pytest.mark.parametrize("task", WAITING, ids=["coroutine", "thread", "process"])
async def test_a_second_signal_hands_back_at_once(chaos: Chaos, task: Task[[str], Any]) -> None:
    async with chaos.client:
        stopping = await chaos.worker(worker_grace=600, worker_lease=600)
        result = await chaos.send(task, str(chaos.directory / "gate"))
        (started,) = await chaos.sees("start")

        stopping.terminate()
        await stopping.says("SIGTERM: stopping; 1 task is running")
        stopping.terminate()

        assert await stopping.ended() == 0
    assert set(chaos.standing().waiting) == {result.id}
    assert not chaos.standing().held
    assert not is_running(started.pid)
    assert len(chaos.seen("cleaned up")) == (task is apps.wait_at)


@ALSO_ON_RABBITMQ
async def test_a_stop_in_the_middle_of_much_work_loses_and_repeats_nothing(chaos: Chaos) -> None:
    async with chaos.client:
        signatures = [chaos.client.signature(apps.step.name, (0.01 * (n % 5),)) for n in range(600)]
        accepted = {result.id for result in await chaos.client.send_many(signatures)}
    for part in range(1, 5):
        worker = await chaos.worker(worker_concurrency=20, worker_prefetch=20, worker_lease=600)
        await chaos.sees("end", count=part * 100)
        worker.terminate()
        assert await worker.ended() == 0
        assert not chaos.standing().held

    await chaos.worker()
    await chaos.all_ended(accepted)

    assert chaos.starts() == dict.fromkeys(accepted, 1)
