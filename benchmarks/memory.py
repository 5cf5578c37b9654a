"""The memory broker with a worker embedded in the caller's loop; results kept and awaited."""

from __future__ import annotations

import asyncio
import time

from .figures import Benchmark, Figure, Samples
from .processes import LONGEST
from .tasks import app, nap, noop, noop_in_process, noop_in_thread
from .usage import own_cpu

_NAP = 0.01
_NAPPERS = 200


async def throughput(size: int) -> Samples:
    """Send `size` tasks with `send_many` and await all results."""
    async with app, app.worker():
        await (await noop.delay())
        cpu, began = own_cpu(), time.perf_counter()
        results = await app.send_many(noop.s() for _ in range(size))
        await results.get(timeout=LONGEST)
        seconds, cpu = time.perf_counter() - began, own_cpu() - cpu
    return {"end to end": [size / seconds], "CPU": [1e6 * cpu / size]}


async def gathered(size: int) -> Samples:
    """The same with a `delay()` for each task, all gathered, and then every single result gathered."""
    async with app, app.worker():
        await (await noop.delay())
        cpu, began = own_cpu(), time.perf_counter()
        results = await asyncio.gather(*(noop.delay() for _ in range(size)))
        async with asyncio.timeout(LONGEST):
            await asyncio.gather(*(result.get() for result in results))
        seconds, cpu = time.perf_counter() - began, own_cpu() - cpu
    return {"end to end": [size / seconds], "CPU": [1e6 * cpu / size]}


async def naps(size: int) -> Samples:
    """Run `size` tasks that sleep for 10 ms, 200 at a time: the ideal is their sleep divided by 200."""
    async with app, app.worker(concurrency=_NAPPERS):
        await (await noop.delay())
        began = time.perf_counter()
        results = await app.send_many(nap.s(_NAP) for _ in range(size))
        await results.get(timeout=LONGEST)
        seconds = time.perf_counter() - began
    return {"took": [seconds], "times the ideal": [seconds / (size * _NAP / _NAPPERS)]}


async def threads_and_processes(size: int) -> Samples:
    """Run `size` functions in threads and then as many in child processes, which have been started before."""
    rates: list[float] = []
    async with app, app.worker():
        for task in (noop_in_thread, noop_in_process):
            warm_up = await app.send_many(task.s() for _ in range(100))
            await warm_up.get(timeout=LONGEST)
            began = time.perf_counter()
            results = await app.send_many(task.s() for _ in range(size))
            await results.get(timeout=LONGEST)
            rates.append(size / (time.perf_counter() - began))
    return {"in threads": rates[:1], "in processes": rates[1:]}


BENCHMARKS = (
    Benchmark(
        "memory-throughput",
        "no-op tasks, send_many, all results awaited",
        "memory",
        throughput,
        20_000,
        1000,
        (Figure("end to end", "tasks/s", at_least=20_000), Figure("CPU", "us/task")),
    ),
    Benchmark(
        "memory-gather",
        "no-op tasks, gather(delay()), gather(result)",
        "memory",
        gathered,
        20_000,
        1000,
        (Figure("end to end", "tasks/s"), Figure("CPU", "us/task")),
    ),
    Benchmark(
        "memory-sleep",
        f"tasks that sleep {_NAP * 1000:g} ms, concurrency {_NAPPERS}",
        "memory",
        naps,
        5000,
        500,
        (Figure("times the ideal", "x", at_most=2), Figure("took", "s")),
    ),
    Benchmark(
        "memory-kinds",
        "no-op functions in threads (8) and in processes (one a core)",
        "memory",
        threads_and_processes,
        5000,
        200,
        (Figure("in threads", "tasks/s"), Figure("in processes", "tasks/s")),
    ),
)
