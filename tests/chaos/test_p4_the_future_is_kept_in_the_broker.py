"""P4: what is delayed waits in the broker, so that no restart repeats, loses or hastens it."""

from __future__ import annotations

import signal
import time

from . import apps
from .backends import ALSO_ON_RABBITMQ
from .harness import Chaos


@ALSO_ON_RABBITMQ
async def test_delayed_tasks_come_in_time_and_once_whatever_happens_to_workers(chaos: Chaos) -> None:
    """1,000 are due over some seconds, in which workers are killed, stopped and missing."""
    count = 1000
    async with chaos.client:
        worker = await chaos.worker(worker_concurrency=50)
        delays = [chaos.random.uniform(0.5, 4.5) for _ in range(count)]
        began = time.time()
        results = await chaos.client.send_many(
            [chaos.client.signature(apps.step.name, (0.005,), countdown=delay) for delay in delays]
        )
    accepted = {result.id for result in results}
    due_last = began + max(delays)

    for part in range(1, 5):
        await chaos.sees("end", count=part * count // 6)
        if part == 3:
            worker.send_signal(signal.SIGTERM)
            assert await worker.ended() == 0
        else:
            worker.kill()
        worker = await chaos.worker(worker_concurrency=50)
    states = await chaos.all_ended(accepted)

    assert {states[task_id] for task_id in accepted} == {"SUCCESS"}
    starts = chaos.seen("start")
    assert {fact.id for fact in starts} == accepted
    early = [fact for fact in starts if fact.time < fact.detail]
    assert not early
    assert max(fact.time for fact in starts) >= due_last - 1, "the delays were not what was asked for"
    chaos.nothing_is_lost(accepted)
    chaos.only_the_killed_run_again()


async def test_what_was_due_while_no_worker_was_there_runs_when_one_comes(chaos: Chaos) -> None:
    async with chaos.client:
        first = await chaos.worker()
        soon = [await chaos.send(apps.step, 0.0, countdown=1.0) for _ in range(50)]
        later = [await chaos.send(apps.step, 0.0, countdown=3600) for _ in range(50)]
    first.kill()
    due = time.time() + 1.0
    await chaos.when(lambda _: time.time() > due, "all of them are due")

    await chaos.worker()

    await chaos.all_ended([result.id for result in soon])
    assert chaos.starts() == {result.id: 1 for result in soon}
    assert set(chaos.standing().waiting) == {result.id for result in later}
    assert not chaos.standing().held
