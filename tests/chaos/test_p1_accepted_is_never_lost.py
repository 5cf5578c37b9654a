"""P1: when `await task.delay()` has returned, the task reaches a terminal state, whoever is killed."""

from __future__ import annotations

import asyncio

from . import apps
from .backends import ALSO_ON_RABBITMQ
from .harness import Chaos


@ALSO_ON_RABBITMQ
async def test_no_accepted_task_is_lost_when_workers_are_killed(chaos: Chaos) -> None:
    """A client sends coroutines, functions and process tasks; worker after worker dies at a random moment."""
    count = 600
    worker = await chaos.worker(worker_concurrency=20)
    client = chaos.program("send", count, 20)

    for kill in range(1, 5):
        await chaos.sees("end", count=kill * count // 6 + chaos.random.randrange(count // 10))
        worker.kill()
        worker = await chaos.worker(worker_concurrency=20)
    assert await client.ended() == 0
    accepted = {fact.id for fact in chaos.seen("accepted")}
    states = await chaos.all_ended(accepted)

    assert len(accepted) == count
    assert {states[task_id] for task_id in accepted} == {"SUCCESS"}
    chaos.nothing_is_lost(accepted)
    chaos.only_the_killed_run_again()
    assert set(chaos.starts()) == accepted


async def test_what_delay_has_returned_is_there_when_the_client_is_killed(chaos: Chaos) -> None:
    for _ in range(4):
        before = len(chaos.seen("accepted"))
        client = chaos.program("send", 100_000, 50)
        await chaos.sees("accepted", count=before + chaos.random.randrange(1, 200))

        client.kill()

        accepted = {fact.id for fact in chaos.seen("accepted")}
        assert accepted <= set(chaos.standing().waiting)

    # Some more were sent, whose callers had no answer yet. All are whole, and run.
    sent = chaos.standing().waiting
    await chaos.worker()
    states = await chaos.all_ended(sent)
    assert {states[task_id] for task_id in sent} == {"SUCCESS"}
    assert set(chaos.starts().values()) == {1}


async def test_a_worker_killed_inside_a_commit_has_committed_all_of_it_or_nothing(chaos: Chaos) -> None:
    """Many tasks end at once, and the kill comes within the few milliseconds in which they are committed."""
    accepted: set[str] = set()

    for n in range(30):
        if n >= 6 and any(death.standing.held for death in chaos.deaths):
            break
        async with chaos.client:
            signatures = [chaos.client.signature(apps.step.name, (0.0,)) for _ in range(250 if n < 6 else 2000)]
            accepted |= {result.id for result in await chaos.client.send_many(signatures)}
        before = len(chaos.seen("start"))
        worker = await chaos.worker(worker_concurrency=25)
        await chaos.sees("start", count=before + 1)
        await asyncio.sleep(chaos.random.uniform(0, 0.03))  # a random moment is the point
        worker.kill()

    assert any(death.standing.held for death in chaos.deaths), "no kill came while anything ran"

    await chaos.worker()
    states = await chaos.all_ended(accepted)
    assert {states[task_id] for task_id in accepted} == {"SUCCESS"}
    chaos.nothing_is_lost(accepted)
    chaos.only_the_killed_run_again()
