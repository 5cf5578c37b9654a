"""The tables in PostgreSQL: who makes them, and what is said when they are not there or are another version's."""

from __future__ import annotations

import asyncio
import os

import pytest

from aiotq import AioTQ
from aiotq.backends.postgres.address import parse
from aiotq.backends.postgres.backend import PostgresBackend
from aiotq.backends.postgres.connection import PostgresClient
from aiotq.backends.postgres.migrating import migrations
from aiotq.exceptions import OperationalError

from ..servers import PostgresServer, shared_postgres


@pytest.fixture
def server() -> PostgresServer:
    return shared_postgres()


@pytest.fixture
def url(server: PostgresServer) -> str:
    """A schema that is not there yet."""
    return f"{server.url}?schema=tables_{os.urandom(6).hex()}"


async def test_tables_that_are_missing_are_made_at_the_start_by_one_of_many_processes(url: str) -> None:
    address = parse(url)
    clients = [PostgresClient(address) for _ in range(4)]

    await asyncio.gather(*(client.__aenter__() for client in clients))

    (count,) = await clients[0].row(b"select count(*) from aiotq.migration")
    for client in clients:
        await client.__aexit__()
    assert count == len(migrations())


async def test_where_a_start_makes_none_it_says_how_they_are_made(url: str) -> None:
    app = AioTQ("tables", broker=url, postgres_migrate=False)

    with pytest.raises(OperationalError, match="has no tables of aiotq: run `aiotq migrate-db`"):
        async with app:
            await app.admin.queues()

    assert await PostgresBackend.migrate(url) == len(migrations())
    assert await PostgresBackend.migrate(url) == 0
    async with app:
        assert await app.admin.queues() == []


async def test_tables_of_a_newer_version_are_refused(url: str, server: PostgresServer) -> None:
    await PostgresBackend.migrate(url)
    server.ask(f"insert into {parse(url).schema}.migration (number, name) values (999, 'later')")

    with pytest.raises(OperationalError, match=r"of a newer aiotq \(migration 999"):
        async with PostgresClient(parse(url)):
            pass


async def test_apps_with_different_prefixes_share_a_schema_and_see_nothing_of_each_other(url: str) -> None:
    one, other = AioTQ("one", broker=f"{url}&prefix=one_"), AioTQ("other", broker=f"{url}&prefix=other_")

    async with one, other:
        await one.send_task("x", queue="q")

        assert [stats.ready for stats in await one.admin.queues(["q"])] == [1]
        assert [stats.ready for stats in await other.admin.queues(["q"])] == [0]


async def test_what_has_expired_is_deleted(url: str) -> None:
    async with PostgresClient(parse(url)) as client:
        await client.rows(
            b"insert into aiotq.result values ('a', 'SUCCESS', true, '', 1, null, ''),"
            b" ('b', 'SUCCESS', true, '', 4e9, null, '')"
        )
        await client.rows(b"insert into aiotq.claim (key, expires) values ('a 0', 1)")

        await client.upkeep.purge()

        assert await client.rows(b"select id from aiotq.result") == [("b",)]
        assert await client.rows(b"select key from aiotq.claim") == []
