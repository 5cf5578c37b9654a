"""aiotq, with its default settings, as the others are measured."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiotq import AsyncResult, chain, chord
from benchmarks.processes import WORKER
from benchmarks.tasks import app, noop, same, stamp, total

from .measuring import CHAINS_IN_FLIGHT, CHORDS_IN_FLIGHT, LONGEST, MEMBERS, STEPS, Stamp, expect, measure


class Client:
    def __init__(self, runner: asyncio.Runner) -> None:
        self.worker: Final = WORKER[1:]
        self._run = runner.run

    def plain(self, count: int) -> None:
        self._run(_plain(count))

    def chains(self, count: int) -> None:
        self._run(_at_a_time(count, CHAINS_IN_FLIGHT, _chain))

    def chords(self, count: int) -> None:
        self._run(_at_a_time(count, CHORDS_IN_FLIGHT, _chord))

    def preload(self, count: int) -> None:
        self._ids = self._run(_preload(count))

    def stamps(self) -> tuple[Stamp, Stamp]:
        return self._run(_stamps(*self._ids))


async def _plain(count: int) -> None:
    results = await app.send_many(noop.s() for _ in range(count))
    await results.get(timeout=LONGEST)


async def _at_a_time(count: int, most: int, call: Callable[[], Awaitable[None]]) -> None:
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            await call()

    async with asyncio.TaskGroup() as callers:
        for _ in range(most):
            callers.create_task(caller())


async def _chain() -> None:
    result = await chain(same.s(7), *(same.s() for _ in range(STEPS - 1))).delay()
    expect(await result.get(timeout=LONGEST), 7)


async def _chord() -> None:
    result = await chord(map(same.s, range(MEMBERS)), total.s()).delay()
    expect(await result.get(timeout=LONGEST), sum(range(MEMBERS)))


async def _preload(count: int) -> tuple[str, str]:
    first = await stamp.delay()
    await app.send_many(noop.s() for _ in range(count))
    return first.id, (await stamp.delay()).id


async def _stamps(first: str, last: str) -> tuple[Stamp, Stamp]:
    results: tuple[AsyncResult[Stamp], ...] = (app.AsyncResult(first), app.AsyncResult(last))
    return await results[0].get(timeout=LONGEST), await results[1].get(timeout=LONGEST)


def main() -> None:
    with asyncio.Runner() as runner:
        runner.run(app.__aenter__())
        try:
            measure(Client(runner))
        finally:
            runner.run(app.__aexit__(None, None, None))


if __name__ == "__main__":
    main()
