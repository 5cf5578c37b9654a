"""What is measured alike with every broker that has workers in processes of their own; results stored and awaited."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Self

from aiotq import AsyncResult, Signature

from .figures import Figure, Samples
from .processes import LONGEST, client_and_worker, worker_running
from .tasks import Stamp, app, noop, stamp
from .usage import Used, own_cpu

_WARM_UP = 50

CLIENT_CPU = Figure("client CPU", "us/task")
WORKER_CPU = Figure("worker CPU", "us/task")
#: Of everybody, where there is a server.
ALL_CPU = (CLIENT_CPU, WORKER_CPU, Figure("server CPU", "us/task"))


def costs(used: Used, size: int) -> Samples:
    """Return microseconds of CPU a task, `size` of which `used` so much."""
    parts = {"client CPU": used.client, "worker CPU": used.worker, "server CPU": used.servers}
    return {name: [1e6 * seconds / size] for name, seconds in parts.items()}


async def round_trip(size: int) -> Samples:
    """Call `size` times, one after the other, each result awaited before the next call."""
    async with client_and_worker() as worker:
        for _ in range(_WARM_UP):
            await (await noop.delay())
        seconds: list[float] = []
        before = worker.used()
        for _ in range(size):
            began = time.perf_counter()
            await (await noop.delay())
            seconds.append(time.perf_counter() - began)
        used = worker.used() - before
    return {
        "round trip, p50": [1e3 * statistics.median(seconds)],
        "round trip, p99": [1e3 * percentile_99(seconds)],
        **costs(used, size),
    }


async def throughput(size: int, *, has_reader: bool = False) -> Samples:
    """Send `size` tasks with `send_many` to a worker that waits for them, and await all results.

    With `has_reader` this process is sent the worker's events, and leaves them unread.
    """
    async with client_and_worker() as worker, reader(has_reader):
        await (await noop.delay())
        before = worker.used()
        results = await app.send_many(noop.s() for _ in range(size))
        sent = worker.used() - before
        await results.get(timeout=LONGEST)
        used = worker.used() - before
    return {
        "end to end": [size / used.seconds],
        "sending took": [100 * sent.seconds / used.seconds],
        **costs(used, size),
    }


async def gathered(size: int) -> Samples:
    """The same with a `delay()` for each task, all gathered, and then every single result gathered."""
    async with client_and_worker() as worker:
        before = worker.used()
        results = await asyncio.gather(*(noop.delay() for _ in range(size)))
        async with asyncio.timeout(LONGEST):
            await asyncio.gather(*(result.get() for result in results))
        used = worker.used() - before
    return {"end to end": [size / used.seconds], **costs(used, size)}


@dataclass(frozen=True, slots=True)
class Drained:
    """What sending alone cost, and then draining alone: tasks a second, and microseconds of CPU a task."""

    sent: float
    client_cpu: float
    rate: float
    worker_cpu: float
    server_cpu: float

    @classmethod
    def between(cls, stamps: Sequence[Stamp], size: int, sent: float, client_cpu: float) -> Self:
        """Return what `size` tasks between two stamps came to; sending took `sent` seconds, and `client_cpu` of CPU."""
        first, last = stamps
        took, worker_cpu, servers_cpu = (after - before for before, after in zip(first, last, strict=True))
        cpu = (1e6 * each / size for each in (client_cpu, worker_cpu, servers_cpu))
        return cls(size / sent, next(cpu), size / took, *cpu)

    def costs(self) -> Samples:
        """Return microseconds of CPU a task: the client's, the worker's and the servers'."""
        parts = {"client CPU": self.client_cpu, "worker CPU": self.worker_cpu, "server CPU": self.server_cpu}
        return {name: [value] for name, value in parts.items()}


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
        stamps = await worker.unless_it_ends(_both(first.id, last.id))
    return Drained.between(stamps, size, sent, cpu)


def reader(is_there: bool) -> AbstractAsyncContextManager[object]:
    """Have this process sent all events while this is entered, unless it `is_there` not; they are left unread."""
    return app.events.capture() if is_there else nullcontext()


async def _both(first: str, last: str) -> tuple[Stamp, Stamp]:
    results: tuple[AsyncResult[Stamp], ...] = (app.AsyncResult(first), app.AsyncResult(last))
    return await results[0].get(), await results[1].get()


async def send_and_drain(size: int) -> Samples:
    """Send `size` no-op tasks while no worker runs; then let one drain the queue."""
    found = await drained(noop.s(), size)
    return {
        "send only": [found.sent],
        "drain": [found.rate],
        **found.costs(),
    }


def percentile_99(values: Sequence[float]) -> float:
    """Return what 99 % of `values` are below."""
    return statistics.quantiles(values, n=100)[98]
