"""P3: the outcome, the acknowledgement, arrivals at joins and the messages that follow are one step."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

from ..waiting import wait_until
from . import apps, programs
from .harness import PATIENCE, Chaos


async def test_a_task_has_a_message_or_a_result_and_never_both_or_neither_wherever_the_kill_comes(chaos: Chaos) -> None:
    """At some times many end together, at others one by one; what was running starts again under a later worker."""
    async with chaos.client:
        signatures = [chaos.client.signature(apps.step.name, (0.001 * (n % 40),)) for n in range(1500)]
        accepted = {result.id for result in await chaos.client.send_many(signatures)}

    for _ in range(12):
        left = len(chaos.standing().waiting)
        if not left:
            break
        before = len(chaos.seen("end"))
        # Killed so often in a row, a worker may have the same innocent suspect each time.
        worker = await chaos.worker(worker_concurrency=20, task_max_deliveries=100)
        await chaos.sees("end", count=before + chaos.random.randint(1, min(left, 60)))
        await asyncio.sleep(chaos.random.uniform(0, 0.01))  # a random moment is the point
        standing = worker.kill().standing
        assert set(standing.waiting).isdisjoint(standing.ended)
        assert accepted == {*standing.waiting, *standing.ended}

    assert len(chaos.deaths) > 5
    await chaos.worker(task_max_deliveries=100)
    states = await chaos.all_ended(accepted)
    assert states == dict.fromkeys(accepted, "SUCCESS")
    assert not chaos.standing().waiting
    chaos.only_the_killed_run_again()


async def test_each_link_follows_once_and_each_join_is_released_once_wherever_the_kill_comes(chaos: Chaos) -> None:
    """The committer itself, driven by a process that is killed: each finish leaves a message to be counted."""
    workflows = 300
    async with programs.opened(chaos.backend.url) as (_, committer):
        await committer.commit([programs.workflow(n) for n in range(workflows)])
    expected = {task_id for n in range(workflows) for task_id in programs.committed_of(n)}

    def committed() -> int:
        return chaos.backend.count(programs.COUNTED)

    def reached(wanted: int) -> bool:
        return committed() >= wanted

    kills = 0
    while (before := committed()) < 0.8 * len(expected) and kills < 15:
        committing = chaos.program("commit")
        wanted = before + chaos.random.randrange(1, len(expected) // 20)
        await wait_until(partial(reached, wanted), f"{wanted} finishes were committed", PATIENCE)
        await asyncio.sleep(chaos.random.uniform(0, 0.01))  # a random moment is the point
        committing.kill()
        kills += 1
    assert kills > 2
    chaos.program("commit")
    await chaos.when(lambda standing: all("/" in task_id for task_id in standing.waiting), "all workflows have ended")

    counts = Counter(str(task_id).partition("/")[0] for task_id in chaos.standing().waiting)
    assert counts == Counter(dict.fromkeys(expected, 1))
    assert set(chaos.standing().ended) == expected
    assert not chaos.backend.open_joins()
    chaos.backend.check()
