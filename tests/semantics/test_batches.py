"""Batches: calls are run together, and each has an end of its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from aiotq import AioTQ, BatchErrors, Reject, Retry, Task, TaskRevokedError, chord
from aiotq.exceptions import CallError, DeadLettered, InvalidOption

from ..waiting import wait_until
from .conftest import NOT_ON_RABBITMQ, MakeApp

BROKERS_HERE = NOT_ON_RABBITMQ


@dataclass
class Document:
    text: str


async def test_calls_are_gathered_beyond_the_slots_and_each_has_its_own_end(app: AioTQ) -> None:
    batches: list[list[str]] = []

    @app.batch(size=30, within=5.0, name="batches.index", max_retries=1, default_retry_delay=0)
    async def index(documents: list[Document]) -> list[int | Exception]:
        batches.append([each.text for each in documents])
        ends: dict[str, Exception] = {
            "bad": ValueError("bad"),
            "dead": Reject("dead"),
            "again": Retry("again", delay=0),
        }
        return [ends.pop(each.text, len(each.text)) for each in documents]

    @app.task(name="batches.total")
    async def total(lengths: list[int]) -> int:
        return sum(lengths)

    async with app, app.worker(concurrency=2):
        texts = ["bad", "dead", *(f"{number:03}" for number in range(28))]
        results = [await index.delay(Document(text)) for text in texts]
        values = [await each.get(timeout=20, propagate=False) for each in results]
        summed = await chord([index.s(Document("ab")) for _ in range(30)], total.s()).apply_async()

        assert await summed.get(timeout=20) == 60

    assert [len(each) for each in batches] == [30, 30]
    assert sorted(batches[0]) == sorted(texts)
    assert [type(each) for each in values[:3]] == [ValueError, DeadLettered, int]
    assert values[2:] == [3] * 28


async def test_some_are_retried_and_come_in_a_later_batch(app: AioTQ) -> None:
    seen: list[list[int]] = []

    @app.batch(size=4, within=0.2, name="batches.some", autoretry_for=(OSError,), default_retry_delay=0)
    async def some(numbers: list[int]) -> None:
        seen.append(numbers)
        failed = {place: OSError(f"{number}") for place, number in enumerate(numbers) if len(seen) == 1 and number > 1}
        if failed:
            raise BatchErrors("some failed", failed)

    async with app, app.worker():
        results = [await some.delay(number) for number in range(4)]
        assert [await each.get(timeout=20, propagate=False) for each in results] == [None] * 4

    assert [sorted(each) for each in seen] == [[0, 1, 2, 3], [2, 3]]


async def test_who_leaves_a_batch_does_not_stop_it_unless_it_is_the_last(app: AioTQ) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()
    ends: list[str] = []

    @app.batch(size=2, within=0.05, name="batches.left")
    async def left(names: list[str]) -> list[str]:
        began.set()
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        ends.append("done")
        return names

    async with app, app.worker():
        one, other = await left.delay("one"), await left.delay("other")
        await asyncio.wait_for(began.wait(), 10)
        await one.revoke(terminate=True)
        with pytest.raises(TaskRevokedError):
            await one.get(timeout=10)
        assert ends == []
        go_on.set()
        assert await other.get(timeout=10) == "other"
        began.clear()
        go_on.clear()
        alone = await left.delay("alone")
        await asyncio.wait_for(began.wait(), 10)
        await alone.revoke(terminate=True)
        with pytest.raises(TaskRevokedError):
            await alone.get(timeout=10)
        await wait_until(lambda: ends == ["done", "cancelled"], "nobody waits for the batch any more")


async def test_a_stop_ends_what_was_gathered(app: AioTQ, make_app: MakeApp) -> None:
    """What waits for others to come is run within the grace time; what does not end in it is handed back."""
    began: list[int] = []
    stuck = asyncio.Event()

    def declare(on: AioTQ, *, waits: bool) -> Task[[int], Any]:
        @on.batch(size=3, within=0.5, name="batches.stopped", track_started=True)
        async def stopped(numbers: list[int]) -> list[int]:
            began.extend(numbers)
            if waits and 7 in numbers:
                await stuck.wait()
            return numbers

        return stopped

    here = declare(app, waits=True)
    other = make_app()
    declare(other, waits=False)
    async with app, other:
        async with app.worker(grace=2.0):
            quick = await here.delay(1)
            await wait_until(quick.worker, "a worker has it")
        assert await quick.get(timeout=10) == 1
        async with app.worker(grace=0.1):
            slow = await here.delay(7)
            await wait_until(lambda: 7 in began, "it runs")
        async with other.worker():
            assert await slow.get(timeout=20) == 7

    assert began.count(7) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"size": 0, "within": 1.0}, "size must be a whole number, 1 or more"),
        ({"size": 1, "within": -1}, "within must be seconds"),
        ({"size": 1, "within": 1, "bind": True}, "bind: it is about single calls"),
        ({"size": 1, "within": 1, "max_concurrency": 3}, "max_concurrency: it is about single calls"),
        ({"size": 1, "within": 1, "priorty": 3}, "unknown task option 'priorty'"),
    ],
)
async def test_what_a_batch_can_not_be_is_refused(given: dict[str, Any], words: str) -> None:
    async def many(items: list[int]) -> list[int]:
        return [0, *items]

    app = AioTQ("batches", broker="memory://")
    with pytest.raises(InvalidOption, match=words):
        app.batch(**given)(many)

    async def two(items: list[int], more: int) -> None: ...

    with pytest.raises(InvalidOption, match="must have one parameter"):
        app.batch(size=1, within=0)(two)  # type: ignore[arg-type]
    with pytest.raises(CallError, match="returned 2 values for 1 calls"):
        await app.batch(size=1, within=0)(many)(1)
    assert await app.batch(size=1, within=0, name="two")(many).batch_function([1]) == [0, 1]
