"""P5: what can't be read or run goes to the dead letters with its reason; what kills workers too, and nothing else."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from aiotq.exceptions import WorkerLostError
from aiotq.wire.message import Message, new_id

from . import apps, junk
from .harness import PATIENCE, Chaos
from .supervised import died_of, supervised_worker


async def test_a_task_that_kills_its_worker_is_found_among_innocent_ones(chaos: Chaos) -> None:
    async with chaos.client, supervised_worker(chaos):
        before = [await chaos.send(apps.step, 0.3) for _ in range(5)]
        poison = await chaos.send(apps.kill_worker)
        after = [await chaos.send(task, 0.3) for task in (apps.step, apps.step_in_thread, apps.step_in_process) * 2]

        assert "poison: 3 workers died" in await died_of(poison)

        assert all([await result.get(timeout=PATIENCE) for result in (*before, *after)])
    assert chaos.standing().dead == {poison.id: "poison"}
    # Twice it died among others, and then three times under suspicion.
    assert chaos.starts()[poison.id] == 5
    assert not chaos.standing().waiting


async def test_two_tasks_that_kill_their_workers_are_both_found(chaos: Chaos) -> None:
    async with chaos.client, supervised_worker(chaos, task_max_deliveries=2):
        poison = [await chaos.send(apps.kill_worker), await chaos.send(apps.exit_worker)]
        innocent = [await chaos.send(apps.step, 0.3) for _ in range(8)]

        assert ["poison: 2 workers died" in await died_of(result) for result in poison] == [True, True]

        assert all([await result.get(timeout=PATIENCE) for result in innocent])
    assert chaos.standing().dead == {result.id: "poison" for result in poison}
    assert not chaos.standing().waiting


async def test_who_awaits_a_poison_task_is_told_although_the_worker_is_killed_when_it_gives_it_up(chaos: Chaos) -> None:
    """The dead letter and the failure are one commit, however often the moment before it is the last."""
    async with chaos.client:
        suspect = Message(new_id(), apps.kill_worker.name, b"[[], {}, {}]")
        chaos.backend.add_suspect(suspect, deaths=5, charges=3)
        poison = chaos.client.AsyncResult(suspect.id)
        for _ in range(4):
            worker = await chaos.worker()
            await asyncio.sleep(chaos.random.uniform(0, 0.005))  # a random moment is the point
            standing = worker.kill().standing
            assert (poison.id in standing.ended) == (poison.id in standing.dead) != (poison.id in standing.waiting)

        await chaos.worker()

        assert "poison" in await died_of(poison)
    assert not chaos.starts()


async def test_junk_on_the_queue_becomes_dead_letters_and_the_worker_goes_on(chaos: Chaos) -> None:
    async with chaos.client:
        worker = await chaos.worker(worker_unknown_task_timeout=0)
        first = await chaos.send(apps.wait_at, str(chaos.directory / "gate"))
        await chaos.sees("start", first.id)
        reasons, runnable = junk.add_junk(chaos.backend)

        last = await chaos.send(apps.step, 0.0)
        assert await last.get(timeout=PATIENCE) == worker.pid
        await chaos.when(lambda standing: len(standing.waiting) == 1, "only the first task is not done")
        (chaos.directory / "gate").touch()
        assert await first.get(timeout=PATIENCE) == worker.pid
    dead = chaos.backend.dead_letters()
    assert sorted(reason for reason, _ in dead) == sorted(reasons)
    assert all(detail for _, detail in dead)
    assert len(chaos.seen("end")) == runnable + 2
    assert worker.exit_code is None
    assert "Traceback" not in worker.said


async def test_a_caller_of_what_cannot_be_run_is_told_why(chaos: Chaos) -> None:
    async with chaos.client:
        worker = await chaos.worker(worker_unknown_task_timeout=0)

        unknown = await chaos.client.send_task("nobody.knows")
        assert "no task is registered as 'nobody.knows'" in await died_of(unknown)

        wrong = await chaos.client.send_task(apps.step.name, (1, 2, 3))
        with pytest.raises(TypeError, match="positional argument"):
            await wrong.get(timeout=PATIENCE)

        for task, told in (
            (apps.raise_system_exit, "SystemExit"),
            (apps.raise_keyboard_interrupt, "KeyboardInterrupt"),
            (apps.return_unserializable, "serialized"),
        ):
            result = await chaos.send(task)
            error = await result.get(timeout=PATIENCE, propagate=False)
            assert told in f"{type(error).__name__}: {error}"
            assert await result.state() == "FAILURE"

        with pytest.raises(WorkerLostError, match="SIGKILL"):
            await (await chaos.send(apps.kill_own_process)).get(timeout=PATIENCE)

        began = time.time()
        assert await (await chaos.send(apps.step, 0.0)).get(timeout=PATIENCE) == worker.pid
        assert chaos.seen("end")[-1].time >= began


async def test_a_worker_holds_one_suspect_at_a_time_even_when_their_slots_are_taken(chaos: Chaos) -> None:
    """What waits in a worker for a slot is in flight as well: two of them, and a death could be charged to neither."""
    gate = chaos.directory / "gate"
    body = json.dumps([[str(gate)], {}, {}]).encode()
    suspects = [Message(new_id(), apps.wait_in_thread_at.name, body) for _ in range(4)]
    async with chaos.client:
        await chaos.worker(worker_threads=2)
        busy = [await chaos.send(apps.wait_in_thread_at, str(gate)) for _ in range(2)]
        await chaos.sees("start", count=2)
        for suspect in suspects:
            chaos.backend.add_suspect(suspect, deaths=2, charges=0)

        for _ in range(5):  # the worker goes on reading
            assert await (await chaos.send(apps.step, 0.0)).get(timeout=PATIENCE)
            assert len(chaos.standing().held) == 3
        gate.touch()

        await chaos.all_ended([*(result.id for result in busy), *(suspect.id for suspect in suspects)])
    assert len(chaos.seen("end")) == 11
