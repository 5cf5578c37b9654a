"""Keys of calls while workers are killed: a key never runs twice at once, and a burst runs once (P1, P2, P3)."""

from __future__ import annotations

import asyncio

from aiotq import Debounce, Unique

from . import apps
from .harness import Chaos
from .test_max_concurrency import most_at_once, runs

KEYS = 3


async def test_a_key_never_runs_twice_at_once_and_a_burst_runs_once_though_workers_are_killed(chaos: Chaos) -> None:
    of_key: list[set[str]] = [set() for _ in range(KEYS)]
    bursts: set[str] = set()
    workers = [await chaos.worker() for _ in range(2)]
    async with chaos.client:
        for n in range(30):
            key = n % KEYS

            def by(*_: object, key: int = key) -> int:
                return key

            # Half of the calls free their keys when they start, so that the next one waits for them to end.
            unique = Unique(by, until="done" if n % 2 else "started")
            call = chaos.client.signature(apps.step.name, (0.05,), unique=unique)
            of_key[key].add((await call.delay()).id)
            burst = chaos.client.signature(apps.step.name, (0.01,), debounce=Debounce(0.2, by, max_wait=0.4))
            bursts.add((await burst.delay()).id)
            if n == 15:
                await chaos.sees("start", count=5)
                workers.pop(0).kill()
                workers.append(await chaos.worker())
            await asyncio.sleep(0.01)
    accepted = bursts.union(*of_key)
    states = await chaos.all_ended(accepted)

    assert {states[task_id] for task_id in accepted} == {"SUCCESS"}
    assert len(states) == len(accepted)
    chaos.only_the_killed_run_again()
    assert [most_at_once(runs(chaos, each)) for each in of_key] == [1] * KEYS
