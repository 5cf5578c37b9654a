"""Amazon SQS: workers are killed, and the service is away. (That of the tests keeps nothing when it ends.)"""

from __future__ import annotations

from . import apps
from .backends import ON_SQS, Sqs
from .harness import Chaos

pytestmark = ON_SQS


async def test_no_accepted_task_is_lost_when_workers_are_killed_and_none_runs_twice_but_what_ran_then(
    chaos: Chaos,
) -> None:
    """Some are due later; worker after worker dies at a random moment."""
    count = 120
    worker = await chaos.worker(worker_concurrency=10, worker_lease=2)
    async with chaos.client:
        now = [chaos.client.signature(apps.step.name, (0.02,)) for _ in range(count)]
        later = [chaos.client.signature(apps.step.name, (0.02,), countdown=delay) for delay in (0.5, 1.5, 2.5)]
        accepted = {result.id for result in await chaos.client.send_many([*now, *later])}

    for kill in range(1, 3):
        await chaos.sees("end", count=kill * count // 4 + chaos.random.randrange(count // 10))
        worker.kill()
        worker = await chaos.worker(worker_concurrency=10, worker_lease=2)
    states = await chaos.all_ended(accepted)

    assert {states[task_id] for task_id in accepted} == {"SUCCESS"}
    assert len(accepted) == count + 3
    chaos.only_the_killed_run_again()
    assert set(chaos.starts()) == accepted


async def test_workers_and_callers_go_on_when_the_service_is_back(chaos: Chaos, backend: Sqs) -> None:
    """Its queues are gone with it: they are made again."""
    await chaos.worker()
    async with chaos.client:
        first = await chaos.send(apps.step, 0.0)
        await first.get(timeout=30)
        running = await chaos.send(apps.step, 2.0)
        await chaos.sees("start", count=2)

        backend.server.kill()
        await running.get(timeout=30)
        backend.server.start()

        later = await chaos.send(apps.step, 0.0)
        await later.get(timeout=30)
    assert set(chaos.starts().values()) == {1}
