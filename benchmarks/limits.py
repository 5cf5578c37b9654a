"""Rate limits: how exactly several workers keep one together, and what a worker costs while very many wait at one."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

from .figures import Benchmark, Broker, Figure, Samples
from .processes import LONGEST, worker_running
from .tasks import LIMIT, app, limited, rare
from .usage import MEGABYTE

_WORKERS: Final = 3
_BATCH: Final = 10_000
#: Seconds between looks at the queue, and for which a worker is watched when nothing moves any more.
_LOOK: Final = 0.2
_WATCH: Final = 10.0


async def kept(seconds: int) -> Samples:
    """Have workers run what a limit allows in `seconds`, all sent at once."""
    size = LIMIT * seconds + 1
    async with app, AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(worker_running()) for _ in range(_WORKERS)]
        for worker in workers:
            await worker.ready()
        results = await app.send_many(limited.s() for _ in range(size))
        starts = sorted(await workers[0].unless_it_ends(results.get(timeout=LONGEST)))
    rate = (size - 1) / (starts[-1] - starts[0])
    most = max(sum(begin <= each < begin + 1 for each in starts) for begin in starts)
    return {
        "starts": [rate],
        "off the limit": [100 * abs(rate - LIMIT) / LIMIT],
        "most in any second": [most],
    }


async def waiting(size: int) -> Samples:
    """Let `size` tasks come to a worker that may start one an hour, and watch it when all of them wait.

    The first fifth fills what caches and buffers there are; what the others add is theirs.
    """
    first = size // 5
    async with app, worker_running() as worker:
        await worker.ready()
        await worker.unless_it_ends(_send(first))
        before, cpu, began = worker.memory(), worker.cpu(), time.perf_counter()
        await worker.unless_it_ends(_send(size - first, beside=first))
        took, cpu = time.perf_counter() - began, worker.cpu() - cpu
        idle, began = worker.cpu(), time.perf_counter()
        await asyncio.sleep(_WATCH)
        idle, watched = worker.cpu() - idle, time.perf_counter() - began
        return {
            "CPU while they wait": [100 * idle / watched],
            "memory they add": [(worker.memory() - before) / MEGABYTE],
            "sending and putting aside": [(size - first) / took],
            "worker CPU": [1e6 * cpu / (size - first)],
        }


async def _send(size: int, *, beside: int = 0) -> None:
    """Send `size` tasks beside those that are there, and return when all wait but the one that may start."""
    for start in range(0, size, _BATCH):
        await app.send_many(rare.s() for _ in range(min(_BATCH, size - start)))
    while True:
        queues = await app.admin.queues([app.conf.task_default_queue])
        if sum(queue.delayed for queue in queues) >= beside + size - 1:
            return
        await asyncio.sleep(_LOOK)


def _both(broker: Broker, size: int, megabytes: int) -> tuple[Benchmark, Benchmark]:
    return (
        Benchmark(
            f"{broker}-rate-limit",
            f"seconds of a limit of {LIMIT}/s, {_WORKERS} workers",
            broker,
            kept,
            10,
            2,
            (
                Figure("starts", "a second"),
                Figure("off the limit", "%", at_most=5),
                Figure("most in any second", "starts"),
            ),
        ),
        Benchmark(
            f"{broker}-rate-waiting",
            "tasks that wait at a limit of one an hour",
            broker,
            waiting,
            size,
            2_000,
            (
                Figure("CPU while they wait", "%", at_most=1),
                Figure("memory they add", "MB", at_most=megabytes),
                Figure("sending and putting aside", "tasks/s"),
                Figure("worker CPU", "us/task"),
            ),
            once=True,
        ),
    )


#: What buffers come to, and on SQLite a page cache of 16 MiB. Four times as many tasks add no more (Redis: 6.7 MB).
BENCHMARKS = (*_both("sqlite", 100_000, 20), *_both("redis", 100_000, 10))
