"""What is measured alike with every broker that has workers in processes of their own; results stored and awaited."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass

from aiotq import AsyncResult, Signature

from .figures import Figure, Samples
from .processes import LONGEST, client_and_worker, worker_running
from .tasks import app, noop, stamp
from .usage import own_cpu

_WARM_UP = 50

CLIENT_CPU = Figure("client CPU", "us/task")
WORKER_CPU = Figure("worker CPU", "us/task")


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
        "round trip, p99": [1e3 * percentile_99(seconds)],
        "client CPU": [1e6 * cpu / size],
        "worker CPU": [1e6 * worker_cpu / size],
    }


async def throughput(size: int, *, has_reader: bool = False) -> Samples:
    """Send `size` tasks with `send_many` to a worker that waits for them, and await all results.

    With `has_reader` this process is sent the worker's events, and leaves them unread.
    """
    async with client_and_worker() as worker, reader(has_reader):
        await (await noop.delay())
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


@dataclass(frozen=True, slots=True)
class Drained:
    """What sending alone cost, and then draining alone: tasks a second, and microseconds of CPU a task."""

    sent: float
    client_cpu: float
    rate: float
    worker_cpu: float


async def drained(signature: Signature[None], size: int, *words: str, has_reader: bool = False) -> Drained:
    """Send `size` tasks while no worker runs; then let one drain the queue while nobody awaits but the last result.

    The drain lasts from the start of the first task to that of the last, by the worker's clock; `words` are options.
    """
    async with app:
        first = await stamp.delay()
        cpu, began = own_cpu(), time.perf_counter()
        await app.send_many(signature for _ in range(size))
        sent, cpu = time.perf_counter() - began, own_cpu() - cpu
        last = await stamp.delay()
    # Connected anew this process is another client, which is told of no result but the two that it asks for.
    async with app, reader(has_reader), worker_running(*words) as worker:
        (began_at, cpu_before), (ended_at, cpu_after) = await worker.unless_it_ends(_both(first.id, last.id))
    return Drained(size / sent, 1e6 * cpu / size, size / (ended_at - began_at), 1e6 * (cpu_after - cpu_before) / size)


def reader(is_there: bool) -> AbstractAsyncContextManager[object]:
    """Have this process sent all events while this is entered, unless it `is_there` not; they are left unread."""
    return app.events.capture() if is_there else nullcontext()


async def _both(first: str, last: str) -> tuple[tuple[float, float], tuple[float, float]]:
    results: tuple[AsyncResult[tuple[float, float]], ...] = (app.AsyncResult(first), app.AsyncResult(last))
    return await results[0].get(), await results[1].get()


async def send_and_drain(size: int) -> Samples:
    """Send `size` no-op tasks while no worker runs; then let one drain the queue."""
    found = await drained(noop.s(), size)
    return {
        "send only": [found.sent],
        "client CPU": [found.client_cpu],
        "drain": [found.rate],
        "worker CPU": [found.worker_cpu],
    }


def percentile_99(values: Sequence[float]) -> float:
    """Return what 99 % of `values` are below."""
    return statistics.quantiles(values, n=100)[98]
