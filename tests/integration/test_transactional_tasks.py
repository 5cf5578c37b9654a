"""Tasks with `transactional=True`: what they write in PostgreSQL and the end of their calls are one commit."""

from __future__ import annotations

import logging
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from aiotq import AioTQ, chain
from aiotq.exceptions import InvalidOption

from ..servers import PostgresServer, shared_postgres
from ..waiting import wait_until
from .shells import Shell, shell

__all__ = ["shell"]

APP = """
import asyncio, random

import asyncpg  # type: ignore[import-untyped]

from aiotq import AioTQ
from contextlib import asynccontextmanager

URL = {url!r}
app = AioTQ("bank", broker=URL + "?schema={schema}", worker_lease=1.0)


@asynccontextmanager
async def transaction():
    connection = await asyncpg.connect(URL)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


app.conf.task_transaction = transaction


@app.task(bind=True, name="charge", transactional=True)
async def charge(self, number):
    await self.request.session.execute("insert into {schema}_paid values ($1)", number)
    await asyncio.sleep(random.uniform(0, 0.02))
    return number
"""


@pytest.fixture
def server() -> PostgresServer:
    return shared_postgres()


@pytest.fixture
async def schema(server: PostgresServer) -> AsyncIterator[str]:
    """The name of a schema, and the beginning of a table of paid orders."""
    name = f"bank_{os.urandom(6).hex()}"
    server.ask(f"create table {name}_paid (number int)")
    yield name
    server.ask(f"drop table {name}_paid")


@pytest.fixture
async def engine(server: PostgresServer) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(server.url.replace("postgresql://", "postgresql+asyncpg://"))
    yield engine
    await engine.dispose()


@pytest.fixture
def app(server: PostgresServer, schema: str, engine: AsyncEngine) -> AioTQ:
    app = AioTQ("bank", broker=f"{server.url}?schema={schema}", task_transaction=async_sessionmaker(engine).begin)

    @app.task(bind=True, name="charge", transactional=True, default_retry_delay=0.01)
    async def charge(self: Any, number: int, failures: int = 0) -> int:
        await self.request.session.execute(text(f"insert into {schema}_paid values (:number)"), {"number": number})
        if self.request.retries < failures:
            raise self.retry()
        if failures < 0:
            raise ValueError("no money")
        return number

    @app.task(name="add")
    async def add(x: int, y: int) -> int:
        return x + y

    return app


async def paid(server: PostgresServer, schema: str) -> list[int]:
    connection = await asyncpg.connect(server.url)
    try:
        return [row[0] for row in await connection.fetch(f"select number from {schema}_paid order by number")]
    finally:
        await connection.close()


async def test_what_a_task_wrote_its_result_and_what_follows_come_with_one_commit(
    app: AioTQ, server: PostgresServer, schema: str
) -> None:
    charge, add = app.tasks["charge"], app.tasks["add"]
    async with app, app.worker() as worker:
        assert await (await charge.delay(1)).get(timeout=10) == 1
        assert await (await chain(charge.s(2), add.s(40)).delay()).get(timeout=10) == 42

        assert await paid(server, schema) == [1, 2]
        assert sum(stats.leased + stats.ready for stats in await app.admin.queues()) == 0
        await wait_until(lambda: worker.completed == 3, "the worker knows that all three were committed")


async def test_what_a_failed_attempt_wrote_is_undone(app: AioTQ, server: PostgresServer, schema: str) -> None:
    charge = app.tasks["charge"]
    async with app, app.worker():
        assert await (await charge.delay(1, failures=2)).get(timeout=10) == 1
        with pytest.raises(ValueError, match="no money"):
            await (await charge.delay(2, failures=-1)).get(timeout=10)

        assert await paid(server, schema) == [1]


async def test_a_task_whose_lease_was_lost_writes_nothing(
    app: AioTQ, server: PostgresServer, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(bind=True, name="robbed", transactional=True)
    async def robbed(self: Any) -> None:
        await self.request.session.execute(text(f"insert into {schema}_paid values (7)"))
        other = await asyncpg.connect(server.url)
        await other.execute(f"delete from {schema}.message")
        await other.close()

    async with app, app.worker():
        with caplog.at_level(logging.WARNING, "aiotq.worker"):
            await robbed.delay()
            await wait_until(lambda: "its transaction is rolled back" in caplog.text, "it is said")

        assert await paid(server, schema) == []


async def test_a_commit_that_fails_is_a_failure_of_the_task(app: AioTQ, server: PostgresServer, schema: str) -> None:
    server.ask(f"alter table {schema}_paid add constraint once unique (number) deferrable initially deferred")
    charge = app.tasks["charge"]
    async with app, app.worker():
        assert await (await charge.delay(1)).get(timeout=10) == 1
        with pytest.raises(Exception, match="duplicate key"):
            await (await charge.delay(1)).get(timeout=10)

        assert await paid(server, schema) == [1]
        assert sum(stats.leased + stats.ready for stats in await app.admin.queues()) == 0


async def test_calls_may_be_sent_in_the_same_transaction(app: AioTQ, server: PostgresServer, schema: str) -> None:
    @app.task(bind=True, name="order", transactional=True)
    async def order(self: Any, number: int) -> str:
        called = await app.in_transaction(self.request.session).call(app.tasks["charge"].s(number))
        if number < 0:
            raise ValueError(called.id)
        return str(called.id)

    async with app, app.worker():
        called = await (await order.delay(3)).get(timeout=10)
        assert await app.AsyncResult(called).get(timeout=10) == 3
        with pytest.raises(ValueError, match="-"):
            await (await order.delay(-3)).get(timeout=10)

        assert await paid(server, schema) == [3]


async def test_where_calls_run_at_once_the_transaction_is_committed_or_undone(
    app: AioTQ, server: PostgresServer, schema: str
) -> None:
    charge = app.tasks["charge"]
    assert await (await charge.apply(args=(1,))).get() == 1
    with pytest.raises(ValueError, match="no money"):
        await (await charge.apply(args=(2, -1))).get()
    assert await paid(server, schema) == [1]


async def test_what_can_not_be_transactional_is_refused(server: PostgresServer, schema: str) -> None:
    app = AioTQ("bank", broker="memory://")
    with pytest.raises(InvalidOption, match="a transactional task is an async def"):

        @app.task(transactional=True)
        def plain() -> None: ...

    async def kept() -> None: ...

    app.task(name="kept", transactional=True)(kept)
    with pytest.raises(InvalidOption, match="task kept: it is transactional, so the setting task_transaction must be"):
        async with app, app.worker():
            pass
    elsewhere = AioTQ("bank", broker="memory://", task_transaction=_never)
    elsewhere.task(name="kept", transactional=True)(kept)
    with pytest.raises(InvalidOption, match="task kept: it is transactional, which needs messages and results in Post"):
        async with elsewhere, elsewhere.worker():
            pass


@asynccontextmanager
async def _never() -> AsyncIterator[None]:
    yield None


async def test_whatever_is_killed_each_effect_is_there_once(shell: Shell, server: PostgresServer, schema: str) -> None:
    """Not even what ran at a kill is doubled, although it runs again."""
    (shell.directory / "bank.py").write_text(APP.format(url=server.url, schema=schema))
    app = AioTQ("bank", broker=f"{server.url}?schema={schema}")
    count = 400
    async with app:
        results = await app.send_many([app.signature("charge", (number,)) for number in range(count)])
        for share in (0.25, 0.5, 0.75):
            async with shell.started("worker", "bank:app", "-c", "20", "--no-banner") as worker:
                some = int(count * share) + random.randrange(20)
                await wait_until(lambda: _count(server, schema) >= some, "some are paid", 30)  # noqa: B023
                worker.send(signal.SIGKILL)
                await worker.ended()
        async with shell.started("worker", "bank:app", "-c", "20", "--no-banner"):
            assert await results.get(timeout=30) == list(range(count))

    assert Counter(await paid(server, schema)) == Counter(range(count))


def _count(server: PostgresServer, schema: str) -> int:
    return int(server.ask(f"select count(*) from {schema}_paid")[0][0])
