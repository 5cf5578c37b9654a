"""Several worker processes under one parent: one of them killed, all of them replaced under load, two against one; and
what workers that do nothing cost their Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redis.asyncio import Redis

from aiotq import AsyncResult

from .figures import Benchmark, BenchmarkError, Figure, Samples
from .measures import percentile_99
from .processes import worker_running
from .tasks import FACTS, Stamp, app, noop, noted, stamp
from .usage import MEGABYTE

_WORKERS: Final = 4
#: Seconds that a task runs which is there when its worker is killed.
_NAP: Final = 5.0
#: Calls a second while the workers are replaced.
_RATE: Final = 1_000
_PATIENCE: Final = 60.0
#: Processes that idle workers share: a hundred interpreters would be measured instead.
_PROCESSES: Final = 4


class _Facts:
    """What tasks wrote down: id, pid, time of each run."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="aiotq-fleet-")
        self._path = Path(self._directory.name) / "facts"
        self._path.touch()
        os.environ[FACTS] = str(self._path)

    def read(self) -> list[tuple[str, int, float]]:
        lines = [line.split() for line in self._path.read_text().splitlines()]
        return [(task_id, int(pid), float(at)) for task_id, pid, at in lines]

    async def count(self, least: int) -> list[tuple[str, int, float]]:
        """Return them when there are so many."""
        async with asyncio.timeout(_PATIENCE):
            while len(found := self.read()) < least:  # noqa: ASYNC110  # another process writes it
                await asyncio.sleep(0.01)
        return found


async def killed(size: int) -> Samples:
    """Kill one of four workers that run `size` tasks together, and see when its tasks run again."""
    facts = _Facts()
    # Each has a slot for all: what a worker reads beyond its slots waits there for as long as the naps take (0003).
    async with app, worker_running("--workers", str(_WORKERS), "-c", str(size)) as parent:
        await _all_there()
        await app.send_many(noted.s(_NAP) for _ in range(size))
        began = await facts.count(size)
        victim, had = Counter(pid for _, pid, _ in began).most_common(1)[0]
        killed_at = time.time()
        os.kill(victim, signal.SIGKILL)
        again = (await facts.count(size + had))[size:]
        small = parent.memory_of_root()
    return {
        "its tasks run again after": [max(at for _, _, at in again) - killed_at],
        "tasks that it had": [had],
        "parent's RSS": [small / MEGABYTE],
    }


async def replaced(size: int) -> Samples:
    """Replace four workers one after the other at 1,000 calls a second, of which there are `size` at least."""
    facts = _Facts()
    results: list[tuple[AsyncResult[None], float]] = []
    late: list[float] = []

    async def wait_for(result: AsyncResult[None], sent: float) -> None:
        await result.get(timeout=_PATIENCE)
        late.append(time.perf_counter() - sent)

    async with app, worker_running("--workers", str(_WORKERS)) as parent:
        await _all_there()
        names = await _names()
        parent.send_signal(signal.SIGHUP)
        async with asyncio.TaskGroup() as group:
            began = time.perf_counter()
            rolling = group.create_task(_are_others(names))
            while len(results) < size or not rolling.done():
                sent = time.perf_counter()
                for result in await asyncio.gather(*(noted.delay(0.0) for _ in range(_RATE // 100))):
                    results.append((result, sent))
                    group.create_task(wait_for(result, sent))
                await asyncio.sleep(max(0.0, began + len(results) / _RATE - time.perf_counter()))
                if time.perf_counter() - began > _PATIENCE:
                    raise BenchmarkError("the workers were not replaced in time")
            took = time.perf_counter() - began
        runs = Counter(task_id for task_id, _, _ in facts.read())
    return {
        "p99 of results": [1e3 * percentile_99(late)],
        "calls": [len(results) / took],
        "lost": [sum(result.id not in runs for result, _ in results)],
        "run twice": [sum(count > 1 for count in runs.values())],
    }


@dataclass(frozen=True, slots=True)
class _Drain:
    """Tasks a second, and microseconds of CPU a task of all workers and of Redis."""

    rate: float
    workers: float
    server: float

    def at_most(self, processes: int) -> float:
        """Return the tasks a second of so many processes, each with a core of its own, as Redis has one."""
        return 1e6 / max(self.workers / processes, self.server)


async def two_against_one(size: int) -> Samples:
    """Let one worker process drain `size` tasks from Redis, and then two.

    Where Redis has no core of its own two processes share theirs with it: the CPU that each used says what cores for
    all of them would give.
    """
    one, two = await _drain(size), await _drain(size, "--workers", "2")
    return {
        "one": [one.rate],
        "two": [two.rate],
        "two to one": [two.rate / one.rate],
        "workers' CPU, one": [one.workers],
        "workers' CPU, two": [two.workers],
        "server's CPU, one": [one.server],
        "server's CPU, two": [two.server],
        "two to one with a core for each": [two.at_most(2) / one.at_most(1)],
    }


async def _drain(size: int, *words: str) -> _Drain:
    async with app:
        first = await stamp.delay()
        await app.send_many(noop.s() for _ in range(size))
        last = await stamp.delay()
    # Connected anew this process is another client, which is told of no result but the two that it asks for.
    async with app, worker_running(*words) as workers:
        began_at = await workers.unless_it_ends(_stamped(first.id))
        before = workers.used()
        took = await workers.unless_it_ends(_stamped(last.id)) - began_at
        used = workers.used() - before
    done = size * used.seconds / took  # while the CPU was looked at
    return _Drain(size / took, 1e6 * used.worker / done, 1e6 * used.servers / done)


async def _stamped(task_id: str) -> float:
    stamped: AsyncResult[Stamp] = app.AsyncResult(task_id)
    return (await stamped.get())[0]


async def idle(size: int) -> Samples:
    """Have `size` workers do nothing for ten seconds, and ask Redis for the CPU that it used."""
    async with AsyncExitStack() as stack:
        for _ in range(_PROCESSES):
            words = (sys.executable, "-m", "benchmarks.idlers", str(size // _PROCESSES))
            process = await asyncio.create_subprocess_exec(
                *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            async with asyncio.timeout(_PATIENCE):
                if await process.stdout.readline() != b"ready\n":
                    raise BenchmarkError("the idle workers did not start")
        async with Redis.from_url(app.conf.broker_url) as server:
            await asyncio.sleep(2)  # they have said that they are there
            before, began = await _used(server), time.perf_counter()
            await asyncio.sleep(10)
            used, took = await _used(server) - before, time.perf_counter() - began
    return {"Redis' CPU": [100 * used / took]}


async def _used(server: Redis) -> float:
    found = await server.info("cpu")
    return float(found["used_cpu_sys"]) + float(found["used_cpu_user"])


async def _names() -> set[str]:
    return {each.name for each in await app.control.fleet()}


async def _are_others(names: set[str]) -> None:
    """Return when none of these workers is there, and as many others are."""
    while (now := await _names()) & names or len(now) != _WORKERS:  # noqa: ASYNC110  # other processes
        await asyncio.sleep(0.1)


async def _all_there() -> None:
    async with asyncio.timeout(_PATIENCE):
        while len(await _names()) < _WORKERS:  # noqa: ASYNC110  # other processes
            await asyncio.sleep(0.05)


BENCHMARKS = (
    Benchmark(
        "fleet-killed",
        "tasks of four workers, of which one is killed",
        "redis",
        killed,
        80,
        20,
        (
            Figure("its tasks run again after", "s", at_most=1.5),
            Figure("tasks that it had", ""),
            Figure("parent's RSS", "MB", at_most=30),
        ),
    ),
    Benchmark(
        "fleet-replaced",
        "calls at least, while four workers are replaced",
        "redis",
        replaced,
        5_000,
        1_000,
        (
            Figure("p99 of results", "ms", at_most=250),
            Figure("calls", "calls/s", at_least=900),
            Figure("lost", "", at_most=0),
            Figure("run twice", "", at_most=0),
        ),
    ),
    Benchmark(
        "fleet-drain",
        "tasks drained by one worker process, and by two",
        "redis",
        two_against_one,
        60_000,
        10_000,
        (
            Figure("one", "tasks/s"),
            Figure("two", "tasks/s"),
            Figure("two to one", ""),
            Figure("workers' CPU, one", "us/task"),
            Figure("workers' CPU, two", "us/task"),
            Figure("server's CPU, one", "us/task"),
            Figure("server's CPU, two", "us/task"),
            Figure("two to one with a core for each", "", at_least=1.6),
        ),
    ),
    Benchmark(
        "fleet-idle",
        "workers that do nothing",
        "redis",
        idle,
        100,
        20,
        (Figure("Redis' CPU", "% of a core", at_most=5),),
    ),
)
