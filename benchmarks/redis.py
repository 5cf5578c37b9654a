"""Redis: a client here, an `aiotq worker` in a process of its own, results stored; and what redis-py alone does."""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Final

from redis.asyncio import Redis

from aiotq import AsyncResult

from . import bare_redis
from .figures import Benchmark, BenchmarkError, Figure, Samples
from .measures import (
    ALL_CPU,
    costs,
    drained,
    gathered,
    percentile_99,
    round_trip,
    send_and_drain,
    throughput,
)
from .processes import LONGEST, WorkerProcess, client_and_worker, run_program, worker_running
from .tasks import Stamp, app, lateness, nap, noop, stamp
from .usage import MEGABYTE, Used, own_cpu, server_cpu

_CALLERS: Final = 100
_WARM_UP: Final = 500
#: The scripts that stand beside: redis-py, and the protocol over hiredis alone.
_BARE: Final = ("batched", "resp")
_NAP: Final = 0.01
_NAPPERS: Final = 200
_DAY: Final = 86_400.0
_BATCH: Final = 10_000
#: Times fewer tasks are sent in a row than gathered or in bulk.
_IN_A_ROW: Final = 8
_DEPTHS: Final = ("1/1000 of it", "1/100 of it", "1/10 of it", "all of it")
_TURNS: Final = 4
_WARM_UP_WINDOWS: Final = 15
_WINDOWS: Final = 12


async def drain(size: int) -> Samples:
    """Let our worker drain `size` no-op tasks, and bare ones as many."""
    ours = await drained(noop.s(), size)
    bare, resp = [await bare_redis.drained(app.conf.broker_url, way, size) for way in _BARE]
    return {
        "send only": [ours.sent],
        "drain": [ours.rate],
        **ours.costs(),
        **_named("bare", {"drain": [bare.rate], **bare.costs()}),
        **_named("resp", {"drain": [resp.rate], **resp.costs()}),
        "drain, of bare": [ours.rate / bare.rate],
    }


def _named(way: str, samples: Samples) -> Samples:
    """Return the samples of a bare script, under names that say so."""
    return {f"{way}: {name}": values for name, values in samples.items()}


async def unbatched(size: int) -> Samples:
    """Let a bare worker drain `size` no-op tasks which batches nothing."""
    bare = await bare_redis.drained(app.conf.broker_url, "one-by-one", size)
    return {"drain": [bare.rate], **bare.costs()}


async def naps(size: int) -> Samples:
    """Let workers drain `size` tasks that sleep for 10 ms, 200 at a time."""
    ours = await drained(nap.s(_NAP), size, "-c", str(_NAPPERS))
    bare = await bare_redis.drained(app.conf.broker_url, "batched", size, "nap", _NAP, count=_NAPPERS)
    return {
        "drain": [ours.rate],
        **ours.costs(),
        **_named("bare", {"drain": [bare.rate], **bare.costs()}),
    }


async def enqueue(size: int) -> Samples:
    """Send while no worker runs: one after the other, gathered, in bulk; then the same with redis-py alone."""
    few = size // _IN_A_ROW
    async with app:
        await _rate(_WARM_UP, _in_a_row)
        in_a_row = await _rate(few, _in_a_row)
        all_gathered = await _rate(size, _all_gathered)
        cpu = own_cpu()
        in_bulk = await _rate(size, _in_bulk)
        cpu = own_cpu() - cpu
    samples: dict[str, Sequence[float]] = {
        "in a row": [in_a_row],
        "gathered": [all_gathered],
        "in bulk": [in_bulk],
        "in bulk, client CPU": [1e6 * cpu / size],
    }
    for label, way in zip(("bare", "resp"), _BARE, strict=True):
        async with bare_redis.wired(app.conf.broker_url, way) as wire:
            await bare_redis.send_in_a_row(wire, _WARM_UP)
            rate = await _rate(few, partial(bare_redis.send_in_a_row, wire))
            samples |= _named(label, {"in a row": [rate], "in bulk": [await _rate(size, partial(_bare_bulk, wire))]})
    return {**samples, "in a row, of bare": [in_a_row / samples["bare: in a row"][0]]}


async def _bare_bulk(wire: bare_redis.Wire, count: int) -> None:
    await bare_redis.send_in_bulk(wire, count, "noop")


async def _rate(size: int, send: Callable[[int], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await send(size)
    return size / (time.perf_counter() - began)


async def _in_a_row(size: int) -> None:
    for _ in range(size):
        await noop.delay()


async def _all_gathered(size: int) -> None:
    await asyncio.gather(*(noop.delay() for _ in range(size)))


async def _in_bulk(size: int) -> None:
    await app.send_many(noop.s() for _ in range(size))


async def callers(size: int) -> Samples:
    """Call `size` times from 100 callers at the same time, each of which awaits a result before its next call."""
    ours = await many_callers(size)
    bare, resp = [await _bare_callers(way, size) for way in _BARE]
    return {
        **ours,
        **_named("bare", bare),
        **_named("resp", resp),
        "calls, of bare": [ours["calls"][0] / bare["calls"][0]],
    }


async def many_callers(size: int) -> Samples:
    """Call `size` times from 100 callers of ours."""
    async with client_and_worker() as worker:
        return await _called(_call, size, worker.used)


async def _bare_callers(way: str, size: int) -> Samples:
    async with bare_redis.client_and_worker(app.conf.broker_url, way) as client:
        return await _called(client.call, size, client.used)


async def _called(call: Callable[[], Awaitable[None]], size: int, used: Callable[[], Used]) -> Samples:
    """Call from 100 callers."""
    await asyncio.gather(*(_timed(call, _WARM_UP // _CALLERS) for _ in range(_CALLERS)))
    before = used()
    seconds = await asyncio.gather(*(_timed(call, size // _CALLERS) for _ in range(_CALLERS)))
    spent = used() - before
    together = [each for one in seconds for each in one]
    return {
        "calls": [len(together) / spent.seconds],
        "round trip, p50": [1e3 * statistics.median(together)],
        "round trip, p99": [1e3 * percentile_99(together)],
        **costs(spent, len(together)),
    }


async def _call() -> None:
    await (await noop.delay())


async def _timed(call: Callable[[], Awaitable[None]], times: int) -> list[float]:
    """Call one after the other; return the seconds that each took."""
    seconds: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        await call()
        seconds.append(time.perf_counter() - began)
    return seconds


async def one_by_one(size: int) -> Samples:
    """Call one after the other; then bare clients do."""
    samples = dict(await round_trip(size))
    for label, way in zip(("bare", "resp"), _BARE, strict=True):
        async with bare_redis.client_and_worker(app.conf.broker_url, way) as client:
            await _timed(client.call, _WARM_UP)
            before = client.used()
            seconds = await _timed(client.call, size)
            spent = client.used() - before
        samples |= _named(label, {"round trip, p50": [1e3 * statistics.median(seconds)], **costs(spent, size)})
    return {**samples, "p50, of bare": [samples["round trip, p50"][0] / samples["bare: round trip, p50"][0]]}


async def end_to_end(size: int) -> Samples:
    """Send `size` tasks with `send_many`, and await all results; then bare clients do."""
    samples = dict(await throughput(size))
    for label, way in zip(("bare", "resp"), _BARE, strict=True):
        async with bare_redis.client_and_worker(app.conf.broker_url, way) as client:
            before = client.used()
            await client.calls(size)
            spent = client.used() - before
        samples |= _named(label, {"end to end": [size / spent.seconds], **costs(spent, size)})
    return {**samples, "of bare": [samples["end to end"][0] / samples["bare: end to end"][0]]}


async def delayed(size: int) -> Samples:
    """Measure how late tasks run that fall due over some seconds, while 100,000 wait that are due tomorrow.

    Half of them are sent in bulk before, half one after the other meanwhile, each before others that wait already.
    """
    waiting = 200 * size
    half = size // 2
    async with app:
        later = noop.options(countdown=_DAY)
        for start in range(0, waiting, _BATCH):
            await app.send_many(later.s() for _ in range(min(_BATCH, waiting - start)))
        async with worker_running() as worker:
            await worker.ready()
            now = time.time()
            dues = [now + 1.0 + random.uniform(0, half / 50) for _ in range(half)]
            known = await app.send_many(lateness.options(eta=datetime.fromtimestamp(due, UTC)).s(due) for due in dues)
            sent: list[AsyncResult[float]] = []
            for _ in range(half):
                due = time.time() + random.uniform(0.2, 0.6)
                sent.append(await lateness.options(eta=datetime.fromtimestamp(due, UTC)).delay(due))
                await asyncio.sleep(0.02)
            late = [*await worker.unless_it_ends(known.get(timeout=LONGEST))]
            late += [await result.get(timeout=LONGEST) for result in sent]
    return {
        "lateness, p50": [1e3 * statistics.median(late)],
        "lateness, p99": [1e3 * percentile_99(late)],
        "the earliest": [1e3 * min(late)],
    }


async def memory(size: int) -> Samples:
    """Measure what a tenth of `size` tasks takes in Redis while no worker runs, and then a worker after all of them."""
    part = size // 10
    async with _used_memory() as used, app:
        before = await used()
        await _in_bulk(part)
        queued = await used() - before
        async with worker_running() as worker:
            await worker.ready()
            at_first = worker.memory()
            for _ in range(9):
                await _in_bulk(part)
                last = await stamp.delay()
                await worker.unless_it_ends(last.get())
            at_last = worker.memory()
    return {
        "queued": [queued / MEGABYTE],
        "bytes a task": [queued / part],
        "worker's RSS at first": [at_first / MEGABYTE],
        "worker's RSS at last": [at_last / MEGABYTE],
    }


async def leftover(seconds: int) -> Samples:
    """Measure what Redis keeps of 100,000 tasks once they are done, their results expired and the streams deleted.

    Waits for that for at most `seconds`: streams go a minute after they are empty.
    """
    async with Redis.from_url(app.conf.broker_url) as redis, _used_memory() as used:
        before = await used()
        async with app:
            await _in_bulk(10 * _BATCH)
            last = await stamp.delay()
            most = await used()
            async with worker_running() as worker:
                await worker.unless_it_ends(last.get())
                deadline = time.monotonic() + seconds
                while time.monotonic() < deadline and await _has_streams(redis):  # noqa: ASYNC110  # nobody is told
                    await asyncio.sleep(1)
        await redis.config_resetstat()  # the server's own statistics of each command it ever ran: 0.7 MB
        after = await used()
        keys = await redis.dbsize()
    return {
        "at most": [(most - before) / MEGABYTE],
        "left behind": [(after - before) / MEGABYTE],
        "keys left behind": [float(keys)],
    }


async def _has_streams(redis: Redis) -> bool:
    return bool([key async for key in redis.scan_iter(_type="stream")])


@asynccontextmanager
async def _used_memory() -> AsyncIterator[Callable[[], Awaitable[int]]]:
    async with Redis.from_url(app.conf.broker_url) as redis:

        async def used() -> int:
            return int((await redis.info("memory"))["used_memory"])

        yield used


async def flat(size: int) -> Samples:
    """Compare the CPU time a worker needs for a task when a thousandth of `size` tasks are queued, and so on up to all.

    Each depth is a queue of its own, and they take turns, so that no depth has a slower machine than another. In each
    turn a worker runs some windows of tasks and then those that count; whenever a window has run, as many tasks are
    sent. It tells its CPU time in a task at the end of each window, and the lower quartile of the windows counts:
    neighbours on the machine only ever add to it. The server's CPU time, that of topping up included, is taken over all
    of them.
    """
    window = size // 1000
    lines = [
        _Line(name, window, depth)
        for name, depth in zip(_DEPTHS, (size // 1000, size // 100, size // 10, size), strict=True)
    ]
    async with app:
        for turn in range(_TURNS):
            for line in lines if turn % 2 == 0 else reversed(lines):
                await line.take_turn()
    samples: dict[str, list[float]] = {}
    for line in lines:
        samples[f"worker CPU, {line.name}"] = [1e6 * statistics.quantiles(line.spent, n=4)[0] / (window + 1)]
        samples[f"server CPU, {line.name}"] = [1e6 * line.server_cpu / (len(line.spent) * (window + 1))]
    ours = [samples[f"worker CPU, {name}"][0] for name in _DEPTHS]
    return {**samples, "largest to smallest": [max(ours) / min(ours)]}


class _Line:
    """A queue that stays as deep as it is: windows of tasks, each with a `stamp` at its end."""

    def __init__(self, name: str, window: int, depth: int) -> None:
        self.name = name
        self.spent: list[float] = []  #: seconds of the worker's CPU, window by window
        self.server_cpu = 0.0
        self._queue = f"depth-{depth}"
        self._window = window
        self._depth = depth
        self._stamps: deque[AsyncResult[Stamp]] = deque()

    async def take_turn(self) -> None:
        while self._stamps and await self._stamps[0].ready():  # what the last worker still ran
            self._stamps.popleft()
        while (len(self._stamps) - 1) * self._window < self._depth:
            await self._add()
        async with worker_running("-Q", self._queue) as worker:
            for _ in range(_WARM_UP_WINDOWS):
                await self._next(worker)
            before = server_cpu()
            stamps = [await self._next(worker) for _ in range(_WINDOWS + 1)]
            self.server_cpu += server_cpu() - before
        self.spent += [later - earlier for earlier, later in pairwise(stamps)]

    async def _add(self) -> None:
        await app.send_many(noop.s().set(queue=self._queue) for _ in range(self._window))
        self._stamps.append(await stamp.apply_async(queue=self._queue))

    async def _next(self, worker: WorkerProcess) -> float:
        """Return the worker's CPU time at the end of the next window, and send another one."""
        _, cpu, _ = await worker.unless_it_ends(self._stamps.popleft().get())
        await self._add()
        return cpu


async def with_and_without_uvloop(size: int) -> Samples:
    """Run `redis-throughput` with client and worker on asyncio's own loop, and then on uvloop's."""
    if find_spec("uvloop") is None:
        raise BenchmarkError("uvloop is not installed")
    without, with_it = await _throughput_on(size, False), await _throughput_on(size, True)
    return {
        "asyncio's loop": [without],
        "uvloop": [with_it],
        "uvloop to asyncio's": [with_it / without],
    }


async def _throughput_on(size: int, is_uvloop: bool) -> float:
    with tempfile.NamedTemporaryFile() as file:
        words = ("redis-throughput", str(size), file.name, *["--uvloop"] * is_uvloop)
        environment = {**os.environ, "AIOTQ_WORKER_UVLOOP": str(int(is_uvloop))}
        await run_program("-m", "benchmarks.run", *words, environment=environment)
        samples: dict[str, list[float]] = json.load(file)
    return samples["end to end"][0]


def _beside(*figures: Figure) -> tuple[Figure, ...]:
    """Return the figures of both scripts that stand beside."""
    return tuple(Figure(f"{way}: {each.name}", each.unit) for way in ("bare", "resp") for each in figures)


BENCHMARKS = (
    Benchmark(
        "redis-roundtrip",
        "one call after the other, each result awaited",
        "redis",
        one_by_one,
        2000,
        200,
        (
            Figure("round trip, p50", "ms", at_most=0.9),
            Figure("round trip, p99", "ms", at_most=3),
            *ALL_CPU,
            *_beside(Figure("round trip, p50", "ms"), *ALL_CPU),
            Figure("p50, of bare", "x", at_most=1.3),
        ),
    ),
    Benchmark(
        "redis-callers",
        f"calls from {_CALLERS} callers, each of which awaits a result before its next call",
        "redis",
        callers,
        30_000,
        2000,
        (
            Figure("calls", "calls/s", at_least=8000),
            Figure("round trip, p50", "ms"),
            Figure("round trip, p99", "ms", at_most=40),
            *ALL_CPU,
            *_beside(Figure("calls", "calls/s"), *ALL_CPU),
            Figure("calls, of bare", "x", at_least=1.6),
        ),
    ),
    Benchmark(
        "redis-throughput",
        "no-op tasks, send_many, all results awaited",
        "redis",
        end_to_end,
        50_000,
        2000,
        (
            Figure("end to end", "tasks/s", at_least=12_000),
            Figure("sending took", "% of it"),
            *ALL_CPU,
            *_beside(Figure("end to end", "tasks/s"), *ALL_CPU),
            Figure("of bare", "x", at_least=0.6),
        ),
    ),
    Benchmark(
        "redis-gather",
        "no-op tasks, gather(delay()), gather(result)",
        "redis",
        gathered,
        50_000,
        2000,
        (Figure("end to end", "tasks/s"), *ALL_CPU),
    ),
    Benchmark(
        "redis-enqueue",
        f"no-op tasks sent while no worker runs (in a row: {_IN_A_ROW} times fewer)",
        "redis",
        enqueue,
        40_000,
        2000,
        (
            Figure("in a row", "tasks/s", at_least=4000),
            Figure("gathered", "tasks/s"),
            Figure("in bulk", "tasks/s", at_least=40_000),
            Figure("in bulk, client CPU", "us/task"),
            *_beside(Figure("in a row", "tasks/s"), Figure("in bulk", "tasks/s")),
            Figure("in a row, of bare", "x", at_least=0.9),
        ),
    ),
    Benchmark(
        "redis-drain",
        "sent while no worker runs, then drained; the same without a task queue",
        "redis",
        drain,
        50_000,
        2000,
        (
            Figure("send only", "tasks/s"),
            Figure("drain", "tasks/s", at_least=16_000),
            *ALL_CPU,
            *_beside(Figure("drain", "tasks/s"), *ALL_CPU),
            Figure("drain, of bare", "x", at_least=1.1),
        ),
    ),
    Benchmark(
        "redis-sleep",
        f"tasks that sleep {_NAP * 1000:g} ms, drained at concurrency {_NAPPERS}; the same without a task queue",
        "redis",
        naps,
        20_000,
        2000,
        (
            Figure("drain", "tasks/s", at_least=7000),
            *ALL_CPU,
            Figure("bare: drain", "tasks/s"),
            *(Figure(f"bare: {each.name}", each.unit) for each in ALL_CPU),
        ),
    ),
    Benchmark(
        "redis-unbatched",
        "no-op tasks drained by redis-py alone, each settled for itself",
        "redis",
        unbatched,
        10_000,
        500,
        (Figure("drain", "tasks/s"), *ALL_CPU),
    ),
    Benchmark(
        "redis-appended",
        "sent while no worker runs, then drained; Redis appends to its log (everysec)",
        "redis-aof",
        send_and_drain,
        30_000,
        2000,
        (Figure("send only", "tasks/s"), Figure("drain", "tasks/s"), *ALL_CPU),
    ),
    Benchmark(
        "redis-delayed",
        "tasks due over some seconds while 200 times as many are due tomorrow",
        "redis",
        delayed,
        500,
        50,
        (
            Figure("lateness, p50", "ms"),
            Figure("lateness, p99", "ms", at_most=100),
            Figure("the earliest", "ms", at_least=0),
        ),
    ),
    Benchmark(
        "redis-uvloop",
        "no-op tasks, send_many, all results awaited; without uvloop and with it",
        "redis",
        with_and_without_uvloop,
        30_000,
        2000,
        (
            Figure("asyncio's loop", "tasks/s"),
            Figure("uvloop", "tasks/s"),
            Figure("uvloop to asyncio's", "x", at_most=1.4),
        ),
    ),
    Benchmark(
        "redis-flat",
        "tasks queued at most; the CPU time of one task at each depth",
        "redis",
        flat,
        1_000_000,
        50_000,
        (
            *(Figure(f"worker CPU, {name}", "us/task") for name in _DEPTHS),
            *(Figure(f"server CPU, {name}", "us/task") for name in _DEPTHS),
            Figure("largest to smallest", "x", at_most=1.15),
        ),
        once=True,
    ),
    Benchmark(
        "redis-memory",
        "tasks, a tenth of them queued before the worker starts",
        "redis",
        memory,
        1_000_000,
        20_000,
        (
            Figure("queued", "MB", at_most=40),
            Figure("bytes a task", "B"),
            Figure("worker's RSS at first", "MB"),
            Figure("worker's RSS at last", "MB", at_most=70),
        ),
        once=True,
        settings={"result_expires": 10},
    ),
    Benchmark(
        "redis-leftover",
        "seconds at most until 100,000 tasks are done, expired and gone",
        "redis",
        leftover,
        120,
        2,
        (
            Figure("at most", "MB"),
            Figure("left behind", "MB", at_most=0.5),
            Figure("keys left behind", ""),
        ),
        once=True,
        settings={"result_expires": 1},
    ),
)
