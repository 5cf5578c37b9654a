"""SQLite, durable (fsync on): a client here, an `aiotq worker` in a process of its own, results stored and awaited."""

from __future__ import annotations

import asyncio
import statistics
import time

from .figures import Benchmark, Figure, Samples
from .processes import LONGEST, client_and_worker, own_cpu, worker_running
from .tasks import app, noop, stamp

_WARM_UP = 50


async def round_trip(size: int) -> Samples:
    """Call `size` times, one after the other, each result awaited before the next call."""
    async with client_and_worker() as worker:
        for _ in range(_WARM_UP):
            await (await noop.delay())
        seconds: list[float] = []
        cpu, worker_cpu = own_cpu(), worker.cpu()
        for _ in range(size):
            began = time.perf_counter()
            await (await noop.delay())
            seconds.append(time.perf_counter() - began)
        cpu, worker_cpu = own_cpu() - cpu, worker.cpu() - worker_cpu
    return {
        "round trip, p50": [1e3 * statistics.median(seconds)],
        "round trip, p99": [1e3 * statistics.quantiles(seconds, n=100)[98]],
        "client CPU": [1e6 * cpu / size],
        "worker CPU": [1e6 * worker_cpu / size],
    }


async def throughput(size: int) -> Samples:
    """Send `size` tasks with `send_many` to a worker that waits for them, and await all results."""
    async with client_and_worker() as worker:
        cpu, worker_cpu, began = own_cpu(), worker.cpu(), time.perf_counter()
        results = await app.send_many(noop.s() for _ in range(size))
        sent = time.perf_counter()
        await results.get(timeout=LONGEST)
        seconds = time.perf_counter() - began
        cpu, worker_cpu = own_cpu() - cpu, worker.cpu() - worker_cpu
    return {
        "end to end": [size / seconds],
        "sending took": [100 * (sent - began) / seconds],
        "client CPU": [1e6 * cpu / size],
        "worker CPU": [1e6 * worker_cpu / size],
    }


async def gathered(size: int) -> Samples:
    """The same with a `delay()` for each task, all gathered, and then every single result gathered."""
    async with client_and_worker() as worker:
        cpu, worker_cpu, began = own_cpu(), worker.cpu(), time.perf_counter()
        results = await asyncio.gather(*(noop.delay() for _ in range(size)))
        async with asyncio.timeout(LONGEST):
            await asyncio.gather(*(result.get() for result in results))
        seconds = time.perf_counter() - began
        cpu, worker_cpu = own_cpu() - cpu, worker.cpu() - worker_cpu
    return {
        "end to end": [size / seconds],
        "client CPU": [1e6 * cpu / size],
        "worker CPU": [1e6 * worker_cpu / size],
    }


async def send_and_drain(size: int) -> Samples:
    """Send `size` tasks while no worker runs; then let one drain the queue while nobody awaits but the last result.

    The drain lasts from the start of the first task to that of the last, by the worker's clock.
    """
    async with app:
        first = await stamp.delay()
        cpu, began = own_cpu(), time.perf_counter()
        await app.send_many(noop.s() for _ in range(size))
        sent, cpu = time.perf_counter() - began, own_cpu() - cpu
        last = await stamp.delay()
    # Connected anew this process is another client, which is told of no result but the two that it asks for.
    async with app, worker_running() as worker:
        (began_at, cpu_before), (ended_at, cpu_after) = await worker.unless_it_ends(_both(first.id, last.id))
    return {
        "send only": [size / sent],
        "client CPU": [1e6 * cpu / size],
        "drain": [size / (ended_at - began_at)],
        "worker CPU": [1e6 * (cpu_after - cpu_before) / size],
    }


async def _both(first: str, last: str) -> tuple[tuple[float, float], tuple[float, float]]:
    return await app.AsyncResult(first).get(), await app.AsyncResult(last).get()


_CLIENT = Figure("client CPU", "us/task")
_WORKER = Figure("worker CPU", "us/task")

BENCHMARKS = (
    Benchmark(
        "sqlite-roundtrip",
        "one call after the other, each result awaited",
        "sqlite",
        round_trip,
        1000,
        100,
        (Figure("round trip, p50", "ms", at_most=5), Figure("round trip, p99", "ms"), _CLIENT, _WORKER),
    ),
    Benchmark(
        "sqlite-throughput",
        "no-op tasks, send_many, all results awaited",
        "sqlite",
        throughput,
        20_000,
        1000,
        (Figure("end to end", "tasks/s", at_least=6000), Figure("sending took", "% of it"), _CLIENT, _WORKER),
    ),
    Benchmark(
        "sqlite-gather",
        "no-op tasks, gather(delay()), gather(result)",
        "sqlite",
        gathered,
        20_000,
        1000,
        (Figure("end to end", "tasks/s"), _CLIENT, _WORKER),
    ),
    Benchmark(
        "sqlite-drain",
        "sent while no worker runs, then drained",
        "sqlite",
        send_and_drain,
        20_000,
        1000,
        (
            Figure("send only", "tasks/s"),
            _CLIENT,
            Figure("drain", "tasks/s"),
            _WORKER,
        ),
    ),
)
