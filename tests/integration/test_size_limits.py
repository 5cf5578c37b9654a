"""A store that takes no more than so many bytes: what is larger is refused alone, at the call or as the outcome."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aiotq import AioTQ, Signature
from aiotq.backends.sqlite.broker import SQLiteBroker
from aiotq.core.inside import core_of
from aiotq.exceptions import Refused
from aiotq.results.sets import ResultSet

from ..servers import RedisServer
from ..waiting import wait_until

LIMIT = 1024 * 1024


@pytest.fixture(scope="module")
def small_redis() -> Iterator[str]:
    with RedisServer({"proto-max-bulk-len": LIMIT}) as server:
        yield server.url


@pytest.fixture(params=["sqlite", "redis"])
async def app(request: pytest.FixtureRequest, tmp_path: Path) -> AioTQ:
    url = f"sqlite:///{tmp_path}/queue.db" if request.param == "sqlite" else request.getfixturevalue("small_redis")
    return AioTQ("limits", broker=url)


@asynccontextmanager
async def limited(app: AioTQ) -> AsyncIterator[None]:
    """Enter `app` on a server that takes `LIMIT` bytes at once."""
    async with app:
        broker = (await core_of(app).connections.connection()).broker
        if isinstance(broker, SQLiteBroker):

            def limit(transaction: Any) -> None:
                transaction.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LIMIT)

            await broker.database.write(limit)
        yield


async def test_a_result_that_is_too_large_for_the_store_fails_its_task_and_its_neighbours_are_committed_once(
    app: AioTQ,
) -> None:
    ran: list[int] = []

    @app.task
    async def sized(number: int, size: int) -> str:
        ran.append(number)
        return "x" * size

    async with limited(app), app.worker() as worker:
        sizes = [2 * LIMIT if number in {3, 8} else 20 for number in range(12)]
        results = await asyncio.gather(*[sized.delay(number, size) for number, size in enumerate(sizes)])
        outcomes = await asyncio.gather(*[each.get(timeout=20) for each in results], return_exceptions=True)
        await wait_until(lambda: worker.completed == 12, "all are committed")

    assert sorted(ran) == list(range(12))
    assert [number for number, each in enumerate(outcomes) if isinstance(each, Refused)] == [3, 8]
    assert [each for each in outcomes if not isinstance(each, Refused)] == ["x" * 20] * 10


async def test_a_call_that_is_too_large_for_the_broker_fails_alone_and_its_neighbours_run_once(app: AioTQ) -> None:
    ran: list[int] = []

    @app.task
    async def take(number: int, text: str) -> int:
        ran.append(number)
        return number

    async with limited(app), app.worker():
        calls = [take.delay(number, "x" * (2 * LIMIT if number == 5 else 20)) for number in range(12)]
        sent = await asyncio.gather(*calls, return_exceptions=True)
        assert [number for number, each in enumerate(sent) if isinstance(each, Refused)] == [5]
        assert sorted([await each.get(timeout=20) for each in sent if not isinstance(each, BaseException)]) == [
            number for number in range(12) if number != 5
        ]

    assert len(ran) == len(set(ran)) == 11


async def test_calls_that_are_too_large_together_are_sent_in_parts(app: AioTQ) -> None:
    @app.task
    async def take(number: int, text: str) -> int:
        return number

    async with limited(app), app.worker():
        signatures: list[Signature[int]] = [take.s(number, "x" * 300_000) for number in range(12)]
        results: ResultSet[int] = await app.send_many(signatures)
        assert await results.get(timeout=20) == list(range(12))


async def test_of_calls_that_are_sent_together_the_one_that_is_too_large_is_named(app: AioTQ) -> None:
    @app.task
    async def take(number: int, text: str) -> int:
        return number

    async with limited(app):
        signatures: list[Signature[int]] = [
            take.s(number, "x" * (2 * LIMIT if number == 7 else 20)).set(task_id=f"call-{number}")
            for number in range(12)
        ]
        with pytest.raises(Refused, match="1 of 12 messages were refused, the others were sent; task call-7") as caught:
            await app.send_many(signatures)
        assert caught.value.keys == {("call-7", 0)}


async def test_an_early_acknowledged_task_whose_result_is_too_large_fails_as_well(app: AioTQ) -> None:
    @app.task(acks_late=False)
    async def large() -> str:
        return "x" * 2 * LIMIT

    async with limited(app), app.worker():
        with pytest.raises(Refused):
            await (await large.delay()).get(timeout=20)
