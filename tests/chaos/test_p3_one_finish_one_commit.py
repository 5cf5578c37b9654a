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
    accepted: set[str] = set()

    async def send(count: int) -> None:
        async with chaos.client:
            signatures = [chaos.client.signature(apps.step.name, (0.001 * (n % 40),)) for n in range(count)]
            accepted.update(result.id for result in await chaos.client.send_many(signatures))

    await send(1500)
    for kill in range(9):
        left = len(chaos.standing().waiting)
        if not left:
            if kill > 5:
                break
            await send(left := 500)  # they were quicker than the kills
        before = len(chaos.seen("end"))
        # Killed so often in a row, a worker may have the same innocent suspect each time.
        worker = await chaos.worker(worker_concurrency=20, task_max_deliveries=100)
        await chaos.sees("end", count=before + chaos.random.randint(1, min(left, 60)))
        await asyncio.sleep(chaos.random.uniform(0, 0.01))  # a random moment is the point
        standing = worker.kill().standing
        assert set(standing.waiting).isdisjoint(standing.ended)
        assert accepted == {*standing.waiting, *standing.ended}

    await chaos.worker(task_max_deliveries=100)
    states = await chaos.all_ended(accepted)
    assert states == dict.fromkeys(accepted, "SUCCESS")
    assert not chaos.standing().waiting
    chaos.only_the_killed_run_again()


async def test_each_link_follows_once_and_each_join_is_released_once_wherever_the_kill_comes(chaos: Chaos) -> None:
    """The committer itself, driven by a process that is killed: each finish leaves a message to be counted."""
    expected: set[str] = set()

    async def send(numbers: range) -> None:
        async with programs.opened(chaos.backend.url) as (_, committer):
            await committer.commit([programs.workflow(n) for n in numbers])
        expected.update(task_id for n in numbers for task_id in programs.committed_of(n))

    def committed() -> int:
        return chaos.backend.count(programs.COUNTED)

    def reached(wanted: int) -> bool:
        return committed() >= wanted

    await send(range(300))
    for kill in range(15):
        before = committed()
        if before > 0.8 * len(expected):
            if kill > 2:
                break
            await send(range(300 * (kill + 1), 300 * (kill + 2)))  # it was quicker than the kills
        committing = chaos.program("commit", worker_lease=1.5)
        wanted = before + chaos.random.randrange(1, len(expected) // 20)
        await wait_until(partial(reached, wanted), f"{wanted} finishes were committed", PATIENCE)
        await asyncio.sleep(chaos.random.uniform(0, 0.01))  # a random moment is the point
        committing.kill()
    chaos.program("commit", worker_lease=1.5)
    await chaos.when(lambda standing: all("/" in task_id for task_id in standing.waiting), "all workflows have ended")

    counts = Counter(str(task_id).partition("/")[0] for task_id in chaos.standing().waiting)
    assert counts == Counter(dict.fromkeys(expected, 1))
    assert set(chaos.standing().ended) == expected
    assert not chaos.backend.open_joins()
    chaos.backend.check()
