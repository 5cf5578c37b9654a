"""What a run leaves in memory when it is over: nothing that only the collector of cycles could find."""

from __future__ import annotations

import gc
import logging

import pytest

from aiotq import AioTQ, chain, chord
from aiotq.tasks.request import Request
from aiotq.worker.run import Run


def runs_and_requests() -> list[Run | Request]:
    return [each for each in gc.get_objects() if isinstance(each, (Run, Request))]


async def test_runs_and_what_they_held_are_gone_when_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root.manager, "disable", logging.ERROR)  # pytest keeps what is logged, with its frames
    app = AioTQ("app", broker="memory://")

    @app.task
    async def double(number: int) -> int:
        return 2 * number

    @app.task
    def in_thread(number: int) -> int:
        return 2 * number

    @app.task
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(autoretry_for=(ValueError,), max_retries=1, default_retry_delay=0)
    async def fails(number: int) -> int:
        raise ValueError(number)

    async with app, app.worker():
        gc.collect()
        before = {id(each) for each in runs_and_requests()}  # those of tests before
        gc.disable()  # what is still there afterwards is kept by somebody, or by itself
        try:
            for _ in range(5):
                await (await double.delay(1)).get(timeout=20)
                await (await in_thread.delay(1)).get(timeout=20)
                await (await fails.delay(1)).get(timeout=20, propagate=False)
                await (await chain(double.s(1), double.s()).delay()).get(timeout=20)
                await (await chord([double.s(1), double.s(2)], total.s()).delay()).get(timeout=20)
            left = [type(each) for each in runs_and_requests() if id(each) not in before]
        finally:
            gc.enable()

    assert left.count(Run) <= 1, "the last one may still be ending"
    assert left.count(Request) <= 1
