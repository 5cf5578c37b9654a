"""A stream has no gap, and no chunk twice, whatever becomes of the workers."""

from __future__ import annotations

import asyncio
import signal

from ..waiting import wait_until
from . import apps
from .backends import ON_REDIS
from .harness import Chaos


@ON_REDIS
async def test_readers_have_each_chunk_once_though_workers_die_and_stand_still(chaos: Chaos) -> None:
    """One worker is killed in the middle. The next one stands still until others have its calls, and goes on then."""
    calls, chunks = 4, 1500
    async with chaos.client as client:
        first = await chaos.worker()
        handles = [await chaos.send(apps.numbers, chunks, 0.02) for _ in range(calls)]
        seen: list[list[int]] = [[] for _ in handles]

        async def read(number: int) -> None:
            async for chunk in client.AsyncResult(handles[number].id).stream():
                seen[number].append(chunk)  # each is looked at as it comes

        async with asyncio.TaskGroup() as group:
            for number in range(calls):
                group.create_task(read(number))
            await wait_until(lambda: all(len(each) > 100 for each in seen), "all are read", 30)
            first.kill()
            frozen = await chaos.worker(worker_lease=1.0)  # alone until it stands still
            await wait_until(lambda: all(len(each) > 400 for each in seen), "all go on", 30)
            await chaos.suspend(frozen)
            await chaos.worker()
            await wait_until(lambda: all(len(each) > 800 for each in seen), "all go on elsewhere", 30)
            frozen.send_signal(signal.SIGCONT)
        late = [[chunk async for chunk in client.AsyncResult(each.id).stream()] for each in handles]

    assert seen == late == [list(range(chunks))] * calls
