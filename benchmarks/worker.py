"""What an `aiotq worker` on SQLite costs when it does nothing: CPU, memory, the time to its first task."""

from __future__ import annotations

import asyncio
import time

from .figures import Benchmark, Figure, Samples
from .processes import LONGEST, client_and_worker, worker_running
from .tasks import app, noop, stamp
from .usage import MEGABYTE, own_cpu

_DAY = 86_400.0
_BATCH = 10_000
#: Workers started on the empty file, and then as many on the full one.
_WORKERS = 5
#: Tasks a worker runs before its memory is looked at, so that it has done all that workers do.
_WARM_UP = 1000


async def idle(seconds: int) -> Samples:
    """Look at a worker, and a connected client, that have done one task and then nothing for `seconds`."""
    async with client_and_worker() as worker:
        cpu, worker_cpu, began = own_cpu(), worker.cpu(), time.perf_counter()
        await asyncio.sleep(seconds)
        cpu, worker_cpu, took = own_cpu() - cpu, worker.cpu() - worker_cpu, time.perf_counter() - began
        memory = worker.memory()
    return {
        "idle worker's CPU": [100 * worker_cpu / took],
        "idle worker's RSS": [memory / MEGABYTE],
        "idle client's CPU": [100 * cpu / took],
    }


async def first_task(starts: int) -> Samples:
    """Start a worker for which a task waits already: from just before the process is spawned to the task's own clock.

    Programs and modules are in the disk cache: an unmeasured start comes before.
    """
    seconds: list[float] = []
    async with app:
        for _ in range(starts + 1):
            result = await stamp.delay()
            async with worker_running() as worker:
                ran_at, *_ = await worker.unless_it_ends(result.get())
            seconds.append(ran_at - worker.spawned_at)
    return {"first task after": seconds[1:]}


async def delayed(size: int) -> Samples:
    """Compare the memory of workers on a file without delayed tasks, and with `size` of them."""
    async with app:
        without = [await _memory_of_a_worker() for _ in range(_WORKERS)]
        began = time.perf_counter()
        for start in range(0, size, _BATCH):
            later = noop.options(countdown=_DAY)
            await app.send_many(later.s() for _ in range(min(_BATCH, size - start)))
        filling = time.perf_counter() - began
        with_them = [await _memory_of_a_worker() for _ in range(_WORKERS)]
    without.sort()
    typical = without[len(without) // 2]
    return {
        "memory they add": [(memory - typical) / MEGABYTE for memory in with_them],
        "RSS without them": [memory / MEGABYTE for memory in without],
        "RSS with them": [memory / MEGABYTE for memory in with_them],
        "sending them": [size / filling],
        "sending them took": [filling],
    }


async def _memory_of_a_worker() -> float:
    async with worker_running() as worker:
        await worker.ready()
        results = await app.send_many(noop.s() for _ in range(_WARM_UP))
        await worker.unless_it_ends(results.get(timeout=LONGEST))
        return worker.memory()


BENCHMARKS = (
    Benchmark(
        "worker-idle",
        "seconds of doing nothing, after one task",
        "sqlite",
        idle,
        10,
        2,
        (
            Figure("idle worker's CPU", "%", at_most=1),
            Figure("idle worker's RSS", "MB", at_most=50),
            Figure("idle client's CPU", "%"),
        ),
    ),
    Benchmark(
        "worker-start",
        "starts of `aiotq worker`, to its first task's run",
        "sqlite",
        first_task,
        5,
        1,
        (Figure("first task after", "s", at_most=0.35),),
    ),
    Benchmark(
        "worker-delayed",
        f"tasks delayed by a day, {_WORKERS} workers before and after",
        "sqlite",
        delayed,
        1_000_000,
        20_000,
        (
            Figure("memory they add", "MB", at_most=5),
            Figure("RSS without them", "MB"),
            Figure("RSS with them", "MB"),
            Figure("sending them", "tasks/s"),
            Figure("sending them took", "s"),
        ),
        once=True,
    ),
)
