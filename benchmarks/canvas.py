"""Workflows of tasks that do nothing: chords, chains, large ones, and how large a message of a deep one is."""

from __future__ import annotations

import ast
import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio import Redis

from aiotq import AsyncResult, Canvas, chain, chord, group

from .figures import Benchmark, BenchmarkError, Figure, Samples
from .measures import costs
from .processes import LONGEST, WorkerProcess, client_and_worker
from .tasks import app, noop, same, total
from .usage import Used

#: Workflows that are under way at the same time.
_IN_FLIGHT: Final = 100
#: Members of a chord, its body not counted.
_MEMBERS: Final = 100
_STEPS: Final = 5
#: Times fewer steps a large chain has than a large chord has members.
_FEWER_STEPS: Final = 10
_DEEP: Final = ("one chord", "in headers", "in bodies", "one after the other")
#: Quoted words in a line of MONITOR.
_WORD: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_LONGEST_LINE: Final = 64 * 1024 * 1024
_ENOUGH: Final = b"enough"


async def chords(size: int) -> Samples:
    """Run `size` chords of 100 members and a sum, 100 at a time; then as many plain tasks in batches of 100."""
    members = size * _MEMBERS
    async with client_and_worker() as worker:
        await _many(_IN_FLIGHT // 10, _chord, worker)
        spent = await _many(size, _chord, worker)
        plain = await _many(size, _batch, worker)
    return {
        "chords": [size / spent.seconds],
        "a member to a plain task": [spent.seconds / plain.seconds],
        "the same in CPU": [spent.cpu / plain.cpu],
        **_by("a member's", spent, members),
        **_by("a plain task's", plain, members),
    }


async def chains(size: int) -> Samples:
    """Run `size` chains of five steps, 100 at a time."""
    async with client_and_worker() as worker:
        await _many(_IN_FLIGHT, _chain, worker)
        spent = await _many(size, _chain, worker)
    return {"chains": [size / spent.seconds], **_by("a step's", spent, size * _STEPS)}


async def large(size: int) -> Samples:
    """Run one chord of `size` members, and then one chain of a tenth as many steps."""
    steps = size // _FEWER_STEPS
    async with client_and_worker() as worker:
        await _many(_IN_FLIGHT // 10, _chord, worker)
        sent, chord_took = await _one(chord(map(same.s, range(size)), total.s()), worker, sum(range(size)))
        _, chain_took = await _one(chain(same.s(7), *(same.s() for _ in range(steps - 1))), worker, 7)
    return {"chord": [chord_took], "sending it took": [sent], "chain": [chain_took]}


async def messages(depth: int) -> Samples:
    """Run workflows nested `depth` deep, and look at every message that anybody puts into a queue meanwhile."""
    samples: dict[str, list[float]] = {}
    async with client_and_worker() as worker:
        canvases = (_nested(1), 2), (_nested(depth), depth + 1), (_wide(depth), 2**depth), (_in_a_row(depth), 2**depth)
        for name, (canvas, value) in zip(_DEEP, canvases, strict=True):
            async with _sizes_of_messages() as sizes:
                await _one(canvas, worker, value)
            samples[name] = [max(sizes) / 1000]
            samples[f"{name}, messages"] = [len(sizes)]
    return samples


def _nested(depth: int) -> Canvas[AsyncResult[int]]:
    """Return a chord that is a member, with a step before and behind it, of a chord that is one, and so on."""
    canvas: Canvas[Any] = same.si(1)
    for _ in range(depth):
        canvas = chain(same.si(1), group(chain(same.si(1), canvas), same.si(1)), total.s())
    return canvas


def _wide(depth: int) -> Canvas[AsyncResult[int]]:
    """Return a chord whose body is a chord whose body is one, and so on."""
    canvas: Canvas[Any] = same.s()
    for _ in range(depth - 1):
        canvas = total.s() | chord([same.s(), same.s()], canvas)
    return chord([same.s(1), same.s(1)], chain(canvas, total.s()))


def _in_a_row(depth: int) -> Canvas[AsyncResult[int]]:
    """Return a chain of so many chords."""
    return chain(same.s(1), *(chord([same.s(), same.s()], total.s()) for _ in range(depth)))


def _by(whose: str, used: Used, count: int) -> Samples:
    """Return the samples of one of `count` parts, all of which `used` so much, in microseconds."""
    parts = {"time": [1e6 * used.seconds / count], **costs(used, count)}
    return {f"{whose} {name}": values for name, values in parts.items()}


async def _many(count: int, call: Callable[[], Awaitable[None]], worker: WorkerProcess) -> Used:
    """Await `call` so many times, 100 at a time."""
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            await call()

    async def callers() -> None:
        await asyncio.gather(*(caller() for _ in range(min(_IN_FLIGHT, count))))

    before = worker.used()
    await worker.unless_it_ends(callers())
    return worker.used() - before


async def _chord() -> None:
    result = await chord(map(same.s, range(_MEMBERS)), total.s()).delay()
    _expect(await result.get(timeout=LONGEST), sum(range(_MEMBERS)))


async def _chain() -> None:
    result = await chain(same.s(7), *(same.s() for _ in range(_STEPS - 1))).delay()
    _expect(await result.get(timeout=LONGEST), 7)


async def _batch() -> None:
    results = await app.send_many(noop.s() for _ in range(_MEMBERS))
    await results.get(timeout=LONGEST)


async def _one(canvas: Canvas[AsyncResult[int]], worker: WorkerProcess, value: int) -> tuple[float, float]:
    """Run `canvas`; return how long sending it took, and all of it."""
    began = time.perf_counter()
    result = await canvas.delay()
    sent = time.perf_counter() - began
    _expect(await worker.unless_it_ends(result.get(timeout=LONGEST)), value)
    return sent, time.perf_counter() - began


def _expect(value: int, wanted: int) -> None:
    if value != wanted:
        raise BenchmarkError(f"a workflow came to {value} instead of {wanted}")


@asynccontextmanager
async def _sizes_of_messages() -> AsyncIterator[list[int]]:
    """Collect how many bytes each message has that anybody, a script too, puts into a stream meanwhile."""
    sizes: list[int] = []
    server = urlsplit(app.conf.broker_url)
    # Not redis-py's monitor: it joins the words of a command by blanks, and messages have blanks of their own.
    reader, writer = await asyncio.open_connection(server.hostname, server.port, limit=_LONGEST_LINE)
    try:
        writer.write(b"MONITOR\r\n")
        await reader.readline()
        async with asyncio.timeout(LONGEST), Redis.from_url(app.conf.broker_url) as redis:
            yield sizes
            await redis.echo(_ENOUGH)
            while (words := _words(await reader.readline()))[1:] != [_ENOUGH]:
                if words and words[0].upper() == b"XADD" and b"m" in words:
                    sizes.append(len(words[words.index(b"m") + 1]))
    finally:
        writer.close()


def _words(line: bytes) -> list[bytes]:
    """Return the words of a command as MONITOR shows it, quoted and escaped as Python's bytes are."""
    return [ast.literal_eval(f"b{word.decode()}") for word in _WORD.findall(line)]


def _parts(whose: str, *, server: bool) -> tuple[Figure, ...]:
    names = ("time", "client CPU", "worker CPU", *["server CPU"] * server)
    return tuple(Figure(f"{whose} {name}", "us") for name in names)


def _chord_figures(*, server: bool) -> tuple[Figure, ...]:
    return (*_parts("a member's", server=server), *_parts("a plain task's", server=server))


BENCHMARKS = (
    Benchmark(
        "canvas-chords",
        f"chords of {_MEMBERS} no-op members and a sum, {_IN_FLIGHT} at a time; then as many plain tasks in batches",
        "redis",
        chords,
        300,
        20,
        (
            Figure("chords", "chords/s", at_least=80),
            Figure("a member to a plain task", "x", at_most=2),
            Figure("the same in CPU", "x", at_most=2),
            *_chord_figures(server=True),
        ),
    ),
    Benchmark(
        "canvas-chains",
        f"chains of {_STEPS} no-op tasks, {_IN_FLIGHT} at a time",
        "redis",
        chains,
        6000,
        200,
        (Figure("chains", "chains/s", at_least=1200), *_parts("a step's", server=True)),
    ),
    Benchmark(
        "canvas-large",
        f"members of one chord, {_FEWER_STEPS} times as many as one chain has steps",
        "redis",
        large,
        10_000,
        500,
        (
            Figure("chord", "s", at_most=3),
            Figure("sending it took", "s"),
            Figure("chain", "s", at_most=3),
        ),
    ),
    Benchmark(
        "canvas-messages",
        "deep: the largest message of nested chords, with all that follows them",
        "redis",
        messages,
        20,
        20,
        tuple(figure for name in _DEEP for figure in (Figure(name, "kB", at_most=10), Figure(f"{name}, messages", ""))),
        once=True,
    ),
    Benchmark(
        "canvas-sqlite-chords",
        f"chords of {_MEMBERS} no-op members and a sum, {_IN_FLIGHT} at a time; then as many plain tasks in batches",
        "sqlite",
        chords,
        200,
        20,
        (
            Figure("chords", "chords/s"),
            Figure("a member to a plain task", "x"),
            Figure("the same in CPU", "x"),
            *_chord_figures(server=False),
        ),
    ),
    Benchmark(
        "canvas-sqlite-chains",
        f"chains of {_STEPS} no-op tasks, {_IN_FLIGHT} at a time",
        "sqlite",
        chains,
        3000,
        200,
        (Figure("chains", "chains/s"), *_parts("a step's", server=False)),
    ),
    Benchmark(
        "canvas-sqlite-large",
        f"members of one chord, {_FEWER_STEPS} times as many as one chain has steps",
        "sqlite",
        large,
        10_000,
        500,
        (Figure("chord", "s"), Figure("sending it took", "s"), Figure("chain", "s")),
    ),
)
