"""Results in memcached."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from aiotq import AioTQ
from aiotq.backends.memcached.address import parse
from aiotq.backends.memcached.connection import MemcachedClient
from aiotq.backends.memcached.records import MemcachedRecords
from aiotq.core.clock import SYSTEM_CLOCK
from aiotq.exceptions import ConnectionLost, NotConnected, OperationalError, Refused
from aiotq.results import Record
from aiotq.states import SUCCESS
from tests.store_servers import MemcachedServer, shared_memcached
from tests.waiting import wait_until


@pytest.fixture
def second() -> Iterator[MemcachedServer]:
    with MemcachedServer() as server:
        yield server


def done(task_id: str, body: bytes = b"4", *, lasts: float = 1000.0) -> Record:
    return Record(task_id, SUCCESS, body, "application/json", SYSTEM_CLOCK.time() + lasts)


async def test_results_are_spread_over_servers_and_found_by_whoever_asks_later(second: MemcachedServer) -> None:
    url = f"{shared_memcached().url};{second.host}?prefix={os.urandom(4).hex()}:"
    app = AioTQ("proj", broker="memory://", backend=url)

    @app.task
    async def double(x: int) -> int:
        return 2 * x

    @app.task
    async def too_much() -> str:
        return "x" * 2**20

    async with app, app.worker():
        results = [await double.delay(x) for x in range(50)]
        assert [await each.get(timeout=10) for each in results] == [2 * x for x in range(50)]
        assert [await app.AsyncResult(each.id).get(timeout=10) for each in results] == [2 * x for x in range(50)]
        with pytest.raises(Refused, match=r"memcached://.*: SERVER_ERROR object too large for cache \(start memcached"):
            await (await too_much.delay()).get(timeout=10)
        await results[0].forget()
        assert not await app.AsyncResult(results[0].id).ready()


async def test_a_server_that_was_away_is_found_again(second: MemcachedServer) -> None:
    address = parse(f"{second.url}?timeout=0.1")
    async with MemcachedRecords(MemcachedClient(address)) as store:
        await store.put([done("a")])

        second.kill()
        with pytest.raises(ConnectionLost, match=second.host):
            await store.get(["a"])
        second.start()

        async def kept_again() -> bool:
            try:
                await store.put([done("a")])
            except ConnectionLost:
                return False
            return True

        await wait_until(kept_again, "the store is connected again", 20)


async def test_any_id_and_any_lifetime_can_be_kept() -> None:
    address = parse(f"{shared_memcached().url}?prefix={os.urandom(4).hex()}:")
    ids = ["two words", "ä", "x" * 500, "#", "line\nend"]
    async with MemcachedRecords(MemcachedClient(address)) as store:
        await store.put([done(each, each.encode(), lasts=86_400.0 * 400) for each in ids])

        assert [each and each.body for each in await store.get(ids)] == [each.encode() for each in ids]


async def test_what_cant_be_reached_or_is_not_open_says_so() -> None:
    store = MemcachedRecords(MemcachedClient(parse("cache+memcached://127.0.0.1:1?timeout=0.05")))

    with pytest.raises(NotConnected, match=r"cache\+memcached://127.0.0.1:1: no answer within 0.05 s \(is it up\?\)"):
        await store.__aenter__()
    with pytest.raises(OperationalError, match="not open"):
        await store.get(["a"])


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("cache+memcached://me:pw@host", "there are no passwords for memcached"),
        ("cache+memcached://host/1", "'/1' can only be an option"),
        ("cache+memcached://host?prefix=a%20b", "prefix must be"),
        ("cache+memcached://host?connections=0", "connections must be a number above 0"),
        ("cache+memcached://host:x", "the port of 'host:x'"),
        ("cache+memcached://host?time=1", "did you mean 'timeout'"),
    ],
)
def test_a_url_that_cant_be_used_says_why(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(url)


def test_hosts_are_as_celery_writes_them() -> None:
    assert parse("cache+memcached://one;two:7000,one/").hosts == (("one", 11211), ("two", 7000))
