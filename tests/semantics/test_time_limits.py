"""Soft and hard limits on the three ways of running."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time

import pytest

from aiotq import AioTQ, SoftTimeLimitExceeded, TimeLimitExceeded

from .conftest import NOT_ON_RABBITMQ

BROKERS_HERE = NOT_ON_RABBITMQ


async def test_a_function_in_a_thread_gets_its_soft_limit_once_and_may_catch_it(app: AioTQ) -> None:
    @app.task(soft_time_limit=0.1)
    def patient() -> list[float]:
        began = time.monotonic()
        try:
            while True:
                time.sleep(0.005)
        except SoftTimeLimitExceeded:
            caught = time.monotonic() - began
        ends = time.monotonic() + 0.3
        while time.monotonic() < ends:  # not raised again
            time.sleep(0.005)
        return [caught]

    async with app, app.worker():
        (seconds,) = await (await patient.delay()).get(timeout=10)
    assert seconds < 1  # it may begin long before the function's own clock, when all threads are busy


async def test_a_function_in_a_thread_that_does_not_catch_its_soft_limit_fails(app: AioTQ) -> None:
    @app.task
    def endless() -> None:
        while True:
            time.sleep(0.005)

    async with app, app.worker():
        with pytest.raises(SoftTimeLimitExceeded, match=r"soft time limit of 0\.1 s exceeded"):
            await (await endless.options(soft_time_limit=0.1).delay()).get(timeout=10)


async def test_a_soft_limit_never_strikes_what_runs_next_in_the_thread(app: AioTQ) -> None:
    @app.task(soft_time_limit=0.02)
    def just_in_time(n: int) -> int:
        time.sleep(0.02)  # ends when the limit is rung
        return n

    @app.task
    def after(n: int) -> tuple[int, int]:
        total = sum(range(20_000))
        return n, threading.get_ident() and total

    async with app, app.worker(threads=2):
        limited = await app.send_many(just_in_time.s(n) for n in range(40))
        free = await app.send_many(after.s(n) for n in range(200))
        assert [value[0] for value in await free.get(timeout=20)] == list(range(200))
        await limited.get(timeout=20, propagate=False)
        assert {await result.state() for result in limited} <= {"SUCCESS", "FAILURE"}


async def test_a_coroutine_gets_its_soft_limit_within_fifty_milliseconds(app: AioTQ) -> None:
    @app.task(soft_time_limit=0.1)
    async def waits() -> float:
        began = time.monotonic()
        try:
            await asyncio.sleep(10)
        except SoftTimeLimitExceeded:
            return time.monotonic() - began
        return 0

    async with app, app.worker():
        seconds = await (await app.send_many(waits.s() for _ in range(9))).get(timeout=10)
    assert min(seconds) >= 0.09
    # A machine that does other things beside may hold up some of them, but not most.
    assert statistics.median(seconds) < 0.1 + 0.05


async def test_a_coroutine_is_cancelled_at_its_hard_limit(app: AioTQ) -> None:
    @app.task(time_limit=0.1)
    async def waits() -> None:
        await asyncio.sleep(10)

    async with app, app.worker():
        with pytest.raises(TimeLimitExceeded):
            await (await waits.delay()).get(timeout=10)
