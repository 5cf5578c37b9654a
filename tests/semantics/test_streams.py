"""Streams: who reads one has every chunk once, in order, wherever and whenever it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from aiotq import (
    AioTQ,
    OperationalError,
    ResultTimeout,
    Stream,
    StreamGap,
    StreamRestarted,
    Task,
    TaskRevokedError,
)
from aiotq.core.inside import core_of

from ..waiting import wait_until
from .conftest import MakeApp


async def test_chunks_are_read_in_any_process_from_any_place(app: AioTQ, make_app: MakeApp) -> None:
    """Early and late, whole and in parts, up to an exception: the same chunks, each once."""
    go_on = asyncio.Event()

    @app.task(name="streams.many")
    async def many(count: int) -> AsyncIterator[int]:
        for number in range(count):
            if number == 10:
                await go_on.wait()
            yield number
        raise KeyError("the end")

    async def read(reader: AioTQ, seen: list[int], **how: Any) -> None:
        with pytest.raises(KeyError, match="the end"):
            async for chunk in reader.AsyncResult(handle.id).stream(**how):
                seen.append(chunk)  # noqa: PERF401  # each is looked at as it comes

    other = make_app()
    async with app, other, app.worker():
        handle = await many.delay(3000)
        early, there, part, latest = list[int](), list[int](), list[int](), list[int]()
        async with asyncio.TaskGroup() as group:
            group.create_task(read(app, early))
            group.create_task(read(other, there))
            async with other.AsyncResult(handle.id).stream() as stream:
                async for chunk in stream:
                    part.append(chunk)
                    if len(part) == 7:
                        break
            group.create_task(read(other, part, after=stream.place))
            await wait_until(lambda: early[-1:] == there[-1:] == part[-1:] == [9], "all have what is there")
            group.create_task(read(other, latest, start="now"))
            with pytest.raises(ResultTimeout, match="the task goes on"):
                async for _ in app.AsyncResult(handle.id).stream("now", timeout=0.1):
                    pytest.fail("nothing comes")
            go_on.set()
        late: list[int] = []
        await read(other, late)

    assert early == there == part == late == list(range(3000))
    assert latest == list(range(10, 3000))


async def test_a_run_that_begins_again_does_as_it_declared(app: AioTQ) -> None:
    @app.task(name="streams.anew", bind=True, max_retries=1)
    async def anew(self: Task[..., Any]) -> AsyncIterator[str]:
        for number in range(3):
            yield f"{self.request.retries}.{number}"
        raise self.retry(countdown=0)

    @app.task(name="streams.same", bind=True, max_retries=1, stream=Stream(rerun="repeat"))
    async def same(self: Task[..., Any]) -> AsyncIterator[int]:
        for number in range(3 + 2 * self.request.retries):
            yield number
        if not self.request.retries:
            raise self.retry(countdown=0)

    @app.task(name="streams.rest", bind=True, max_retries=1, stream=Stream(rerun="resume"))
    async def rest(self: Task[..., Any]) -> int:
        for number in range(self.streamed(), 5):
            await self.send_chunk(number)
            if number == 2:
                raise self.retry(countdown=0)
        return self.streamed()

    async with app, app.worker():
        seen: list[str] = []
        stream = (await anew.delay()).stream()
        with pytest.raises(StreamRestarted):
            async for chunk in stream:
                seen.append(chunk)  # noqa: PERF401  # the error comes after some
        with pytest.raises(Exception, match="more than 1 times"):
            async for chunk in stream:
                seen.append(chunk)  # noqa: PERF401  # as above
        repeated = [chunk async for chunk in (await same.delay()).stream()]
        resumed = await rest.delay()
        rested = [chunk async for chunk in resumed.stream()]

        assert await resumed == 3

    assert seen == ["0.0", "0.1", "0.2", "1.0", "1.1", "1.2"]
    assert repeated == rested == [0, 1, 2, 3, 4]


async def test_a_task_waits_for_its_readers_and_is_revoked_without_one(app: AioTQ) -> None:
    sent: list[int] = []
    closed = asyncio.Event()

    @app.task(name="streams.ahead", stream=Stream(ahead=10, reader_timeout=0.3))
    async def endless() -> AsyncIterator[int]:
        try:
            number = 0
            while True:
                sent.append(number)
                yield number
                number += 1
        finally:
            closed.set()

    async with app, app.worker():
        handle = await endless.delay()
        read = 0
        async with handle.stream() as stream:
            async for chunk in stream:
                assert chunk == read
                read += 1
                assert len(sent) <= read + 12  # those ahead, the one it waits with, and the one just taken
                if read == 50:
                    break
        with pytest.raises(TaskRevokedError):
            await handle.get(timeout=20)

    assert closed.is_set()
    assert len(sent) <= 64


async def test_what_is_not_kept_any_more_is_told(app: AioTQ) -> None:
    go_on = asyncio.Event()

    @app.task(name="streams.short", stream=Stream(kept=10))
    async def short() -> AsyncIterator[int]:
        yield 0
        await go_on.wait()
        for number in range(1, 4000):
            yield number

    async with app, app.worker():
        handle = await short.delay()
        stream = handle.stream()
        assert await anext(stream) == 0
        go_on.set()
        await handle.get(timeout=20)
        seen: list[int] = []
        with pytest.raises(StreamGap) as gap:
            async for chunk in stream:
                seen.append(chunk)  # noqa: PERF401  # the error comes after some
        rest = [chunk async for chunk in stream]
        late = [chunk async for chunk in handle.stream()]

    first = 1 if not seen else seen[-1] + 1
    assert gap.value.missed is not None
    assert rest == list(range(first + gap.value.missed, 4000)) == late
    assert 10 <= len(rest) < 3999


async def test_a_store_that_is_away_for_a_moment_is_waited_for(app: AioTQ, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task(name="streams.away")
    async def away() -> AsyncIterator[int]:
        for number in range(5):
            yield number
            await asyncio.sleep(0)

    async with app, app.worker():
        records = (await core_of(app).connection()).records
        put, failures = records.put, iter([True, False, True])

        async def failing(given: Any) -> None:
            await put(given)
            if next(failures, False):
                raise OperationalError("away, after it was written")

        monkeypatch.setattr(records, "put", failing)
        async with aclosing((await away.delay()).stream()) as stream:
            assert [chunk async for chunk in stream] == [0, 1, 2, 3, 4]
