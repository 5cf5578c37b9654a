"""P2: a live worker's task is not run twice, however long it runs; a dead one's starts again within seconds."""

from __future__ import annotations

import signal
from typing import Any, Final

from aiotq import AsyncResult
from aiotq.tasks.task import Task

from . import apps
from .backends import ALSO_ON_RABBITMQ
from .harness import PATIENCE, SLACK, Chaos, Process

#: Seconds; of workers that live beyond several leases: one that stands still for a while keeps it.
LEASE: Final = 4.0
LONG: Final = 2.5 * LEASE
#: Seconds; of one that is stopped until its lease has ended, and has nobody beside it until then.
BRIEF_LEASE: Final = 1.0


@ALSO_ON_RABBITMQ
async def test_tasks_longer_than_several_leases_run_once_beside_an_idle_worker(chaos: Chaos) -> None:
    """In workers that do nothing else, one whose loop is blocked, and one that drains."""
    kinds = (apps.step, apps.step_in_thread, apps.step_in_process)
    async with chaos.client:
        workers = [chaos.start_worker("-Q", queue, worker_lease=LEASE) for queue in ("free", "blocked", "draining")]
        _, blocked, draining = workers
        results = [
            *[await chaos.send(task, LONG, queue="free") for task in kinds],
            await chaos.send(apps.block_loop, LONG, queue="blocked"),
            *[await chaos.send(task, LONG, queue="draining") for task in kinds],
        ]
        await chaos.sees("start", count=len(results))
        await chaos.worker("-Q", "free,blocked,draining")
        draining.terminate()

        pids = [await result.get(timeout=PATIENCE) for result in results]

        assert pids == [worker.pid for worker, count in zip(workers, (3, 1, 3), strict=True) for _ in range(count)]
        assert await draining.ended() == 0
        await blocked.says(f"by {apps.block_loop.name}[{results[3].id}]")
        assert "time.sleep(seconds)" in blocked.said
    assert chaos.starts() == {result.id: 1 for result in results}


@ALSO_ON_RABBITMQ
async def test_a_dead_workers_tasks_start_again_soon_after_its_lease(chaos: Chaos) -> None:
    async with chaos.client:
        dying = await chaos.worker(worker_lease=LEASE)
        results = [await chaos.send(apps.wait_at, str(chaos.directory / "gate")) for _ in range(20)]
        await chaos.sees("start", count=20)
        heir = await chaos.worker()  # idle: nobody hands anything to it

        death = dying.kill()

        again = (await chaos.sees("start", count=40))[20:]
        (chaos.directory / "gate").touch()
        assert [await result.get(timeout=PATIENCE) for result in results] == [heir.pid] * 20
    assert {fact.worker for fact in again} == {heir.pid}
    assert max(fact.time for fact in again) < death.time + LEASE + 2 + SLACK
    chaos.only_the_killed_run_again()


class TestAWorkerThatWasStoppedBeyondItsLease:
    """SIGSTOP is what a suspended machine or a long swap looks like: the worker is alive and late."""

    @ALSO_ON_RABBITMQ
    async def test_is_not_charged_and_does_not_commit_what_another_has_now(self, chaos: Chaos) -> None:
        gate = chaos.directory / "gate"
        async with chaos.client:
            late, heir, result = await self.run_twice(chaos, apps.wait_at, str(gate))
            assert chaos.standing().deaths == {result.id: 1}

            late.send_signal(signal.SIGCONT)

            await chaos.when(lambda standing: not standing.deaths, "the death was taken back")
            await late.says(f"the lease of {apps.wait_at.name}[{result.id}] was lost: its run is cancelled")
            await chaos.sees("cleaned up", result.id)
            gate.touch()
            assert await result.get(timeout=PATIENCE) == heir.pid
            await self.goes_on(chaos, late, heir)
        assert chaos.starts()[result.id] == 2

    async def test_does_not_commit_what_ends_when_it_goes_on(self, chaos: Chaos) -> None:
        async with chaos.client:
            gate = chaos.directory / "gate"
            late, heir, result = await self.run_twice(chaos, apps.wait_at, str(gate))
            gate.touch()
            assert await result.get(timeout=PATIENCE) == heir.pid

            late.send_signal(signal.SIGCONT)

            await late.says("lease")  # its run is cancelled, or has ended by then and is not kept
            await self.goes_on(chaos, late, heir)
            assert await chaos.client.AsyncResult(result.id).get(timeout=PATIENCE) == heir.pid
        assert chaos.starts()[result.id] == 2

    async def test_keeps_what_nobody_took_over(self, chaos: Chaos) -> None:
        async with chaos.client:
            worker = await chaos.worker(worker_lease=BRIEF_LEASE)
            result = await chaos.send(apps.wait_at, str(chaos.directory / "gate"))
            await chaos.sees("start")
            await chaos.suspend(worker)
            await chaos.when(lambda _: chaos.backend.leases_end_in() < 0, "the lease has ended")

            worker.send_signal(signal.SIGCONT)

            await chaos.when(lambda _: chaos.backend.leases_end_in() > 0, "the lease was renewed")
            (chaos.directory / "gate").touch()
            assert await result.get(timeout=PATIENCE) == worker.pid
        assert chaos.starts() == {result.id: 1}

    async def run_twice(
        self, chaos: Chaos, task: Task[..., Any], argument: object
    ) -> tuple[Process, Process, AsyncResult[int]]:
        """Have a task start in a worker that is stopped then, and again in another."""
        late = await chaos.worker(worker_lease=BRIEF_LEASE)
        result: AsyncResult[int] = await chaos.send(task, argument)
        await chaos.sees("start", result.id)
        await chaos.suspend(late)
        heir = await chaos.worker()
        (_, second) = await chaos.sees("start", result.id, count=2)
        assert second.worker == heir.pid
        return late, heir, result

    async def goes_on(self, chaos: Chaos, late: Process, heir: Process) -> None:
        """Have the worker that was late run something new."""
        heir.terminate()
        assert await heir.ended() == 0
        assert await (await chaos.send(apps.step, 0.0)).get(timeout=PATIENCE) == late.pid
