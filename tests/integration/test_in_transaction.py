"""Sending inside a transaction of the user's: what rolls back was never sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, cast

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from aiotq import AioTQ, chord
from aiotq.exceptions import CallError

from .. import django_here
from ..servers import PostgresServer, shared_postgres


class Undone(Exception):
    """Ends a transaction that is not to be committed."""


@pytest.fixture
def server() -> PostgresServer:
    return shared_postgres()


@pytest.fixture
def app(server: PostgresServer) -> AioTQ:
    app = AioTQ("shop", broker=f"{server.url}?schema=shop_{os.urandom(6).hex()}")

    @app.task(name="charge")
    async def charge(order: int) -> int:
        return order * 10

    @app.task(name="total")
    async def total(amounts: list[int]) -> int:
        return sum(amounts)

    return app


def _driver(url: str, name: str) -> str:
    return url.replace("postgresql://", f"postgresql+{name}://")


@asynccontextmanager
async def _alchemy_session(url: str) -> AsyncIterator[Any]:
    engine = create_async_engine(_driver(url, "asyncpg"))
    try:
        async with AsyncSession(engine) as session, session.begin():
            yield session
    finally:
        await engine.dispose()


@asynccontextmanager
async def _alchemy_connection(url: str) -> AsyncIterator[Any]:
    engine = create_async_engine(_driver(url, "psycopg"))
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


@asynccontextmanager
async def _asyncpg(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _psycopg(url: str) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(url) as connection, connection.transaction():
        yield connection


@contextmanager
def _plain_alchemy(url: str) -> Iterator[Any]:
    engine = sqlalchemy.create_engine(_driver(url, "psycopg"))
    try:
        with Session(engine) as session, session.begin():
            yield session
    finally:
        engine.dispose()


@contextmanager
def _plain_psycopg(url: str) -> Iterator[Any]:
    with psycopg.connect(url) as connection, connection.transaction():
        yield connection


@contextmanager
def _django(url: str) -> Iterator[Any]:
    django_here.configure()
    from django.db import connections, transaction  # noqa: PLC0415  # not before it is configured
    from django.db.utils import ConnectionHandler  # noqa: PLC0415  # the same

    parts = conninfo_to_dict(url)
    handler = ConnectionHandler(
        {
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": parts["dbname"],
                "USER": parts.get("user", ""),
                "PASSWORD": parts.get("password", ""),
                "HOST": parts["host"],
                "PORT": parts["port"],
            }
        }
    )
    connection = handler["default"]
    connections["of_a_test"] = connection
    try:
        with cast(Any, transaction.atomic)(using="of_a_test"):
            yield connection
    finally:
        connection.close()
        del connections["of_a_test"]


Begin = Callable[[str], AbstractAsyncContextManager[Any]]
BeginPlain = Callable[[str], AbstractContextManager[Any]]


@pytest.mark.parametrize("begin", [_alchemy_session, _alchemy_connection, _asyncpg, _psycopg])
async def test_a_call_is_sent_with_the_commit_and_never_without_one(
    app: AioTQ, server: PostgresServer, begin: Begin
) -> None:
    charge = app.tasks["charge"]
    async with app:
        with pytest.raises(Undone):
            async with begin(server.url) as session:
                await app.in_transaction(session).call(charge.s(1))
                raise Undone
        async with begin(server.url) as session:
            result = await app.in_transaction(session).call(charge.s(2))
            assert await app.admin.queues() == []

        assert [stats.ready for stats in await app.admin.queues(["default"])] == [1]
        async with app.worker():
            assert await result.get(timeout=10) == 20


@pytest.mark.parametrize("begin", [_plain_alchemy, _plain_psycopg, _django])
def test_plain_code_sends_with_its_commit_and_never_without_one(
    app: AioTQ, server: PostgresServer, begin: BeginPlain
) -> None:
    charge = app.tasks["charge"]
    with pytest.raises(Undone), begin(server.url) as session:
        app.in_transaction(session).sync.call(charge.s(1))
        raise Undone
    with begin(server.url) as session:
        result = app.in_transaction(session).sync.call(charge.s(2))
        both = app.in_transaction(session).sync.send_many([charge.s(3), charge.s(4)])
        assert app.sync(app.admin.queues) == []

    async def work() -> list[int]:
        async with app.worker():
            return [await app.AsyncResult(each.id).get(timeout=10) for each in (result, *both)]

    try:
        assert asyncio.run(work()) == [20, 30, 40]
    finally:
        app.sync(app.close)


async def test_a_workflow_is_sent_whole_and_an_idle_worker_is_told(app: AioTQ, server: PostgresServer) -> None:
    charge, total = app.tasks["charge"], app.tasks["total"]
    async with app, app.worker():
        assert await (await charge.delay(1)).get(timeout=10) == 10  # the worker is idle now
        async with _asyncpg(server.url) as session:
            result = await app.in_transaction(session).call(chord([charge.s(1), charge.s(2)], total.s()))
        assert await result.get(timeout=2) == 30  # nobody looks so soon without being told
        drawn = await result.graph()
        assert len(drawn.nodes) >= 3


async def test_what_is_committed_late_is_not_overlooked_by_a_worker_that_has_gone_on(
    app: AioTQ, server: PostgresServer
) -> None:
    charge = app.tasks["charge"]
    async with app, app.worker(), _asyncpg(server.url) as other, _psycopg(server.url) as session:
        late = await app.in_transaction(session).call(charge.s(1))
        await app.in_transaction(other).call(charge.s(2))
        for number in range(20):
            await (await charge.delay(number)).get(timeout=10)
        await session.execute("commit")
        assert await late.get(timeout=10) == 10


async def test_a_delay_counts_from_the_call(app: AioTQ, server: PostgresServer) -> None:
    charge = app.tasks["charge"]
    async with app, app.worker():
        async with _asyncpg(server.url) as session:
            result = await app.in_transaction(session).call(charge.s(1).set(countdown=0.2))
        assert await result.get(timeout=10) == 10


async def test_where_it_can_not_be_it_is_refused_and_says_why(app: AioTQ, server: PostgresServer) -> None:
    charge = app.tasks["charge"]
    async with app:
        with pytest.raises(CallError, match="a session or connection of SQLAlchemy, asyncpg, psycopg 3 or Django"):
            app.in_transaction(object())
        connection = await asyncpg.connect(server.url)
        try:
            with pytest.raises(CallError, match="no transaction is open on this connection"):
                await app.in_transaction(connection).call(charge.s(1))
            with pytest.raises(CallError, match=r"is to be awaited: leave out \.sync"):
                app.in_transaction(connection).sync.call(charge.s(1))
        finally:
            await connection.close()
        with (
            psycopg.connect(server.url) as plain,
            pytest.raises(CallError, match="would block the loop: use an asynchronous session"),
        ):
            await app.in_transaction(plain).call(charge.s(1))
        with psycopg.connect(server.url, autocommit=True) as plain, pytest.raises(CallError, match="no transaction"):
            await asyncio.to_thread(app.in_transaction(plain).sync.call, charge.s(1))


async def test_another_database_is_refused(app: AioTQ, server: PostgresServer) -> None:
    name = f"other_{os.urandom(4).hex()}"
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(f"create database {name}")
        elsewhere = server.url.rpartition("/")[0] + f"/{name}"
        async with app:
            with pytest.raises(CallError, match="is not the one with the app's messages"):
                async with _asyncpg(elsewhere) as session:
                    await app.in_transaction(session).call(app.tasks["charge"].s(1))
            schema = str(app.conf.broker_url).partition("schema=")[2]
            async with AioTQ("like_it", broker=f"{elsewhere}?schema={schema}") as like_it:
                with pytest.raises(CallError, match="is not the one with the app's messages"):
                    async with _asyncpg(elsewhere) as session:
                        await app.in_transaction(session).call(app.tasks["charge"].s(1))
                assert await like_it.admin.queues() == []
    finally:
        await connection.execute(f"drop database if exists {name} with (force)")
        await connection.close()


async def test_with_another_broker_it_is_refused(server: PostgresServer) -> None:
    app = AioTQ("shop", broker="memory://")
    async with app, _asyncpg(server.url) as session:
        with pytest.raises(CallError, match="only where messages are in the same database"):
            await app.in_transaction(session).call(app.signature("x"))


async def test_with_results_elsewhere_single_calls_are_sent_and_workflows_refused(
    app: AioTQ, server: PostgresServer
) -> None:
    split = AioTQ("split", broker=str(app.conf.broker_url), backend="memory://")
    async with split, _asyncpg(server.url) as session:
        await split.in_transaction(session).call(split.signature("x"))
        with pytest.raises(CallError, match="a transaction can't send a workflow, or end a task, while results are"):
            await split.in_transaction(session).call(chord([split.signature("x")], split.signature("y")))
