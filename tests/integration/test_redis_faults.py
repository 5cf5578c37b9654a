"""A worker and its callers while the Redis under them errs on purpose: nothing is lost, and everybody goes on."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis

from aiotq.core.inside import core_of
from aiotq.exceptions import OperationalError, PublishTimeout, ResultTimeout

from ..proxy import Proxy
from ..servers import RedisServer
from ..waiting import wait_until
from .redis_work import Work, fresh_prefix, warnings


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server whose settings tests change: not the one that other files share."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return fresh_prefix()


# What somebody does to the server by hand


async def test_scripts_that_were_flushed_are_loaded_again(server: RedisServer, prefix: str) -> None:
    work = Work(server.url, prefix)
    async with work.app, work.app.worker():
        with server.client() as client:
            for x in range(5):
                result = await work.hold.delay(x)
                await wait_until(lambda: len(work.began) == x + 1, "it runs")  # noqa: B023  # awaited here
                client.script_flush()
                work.gate.set()
                assert await result.get(timeout=10) == 2 * x
                work.gate.clear()

    assert set(work.began.values()) == {1}


async def test_a_group_that_was_destroyed_is_made_again_and_what_was_held_runs_again(
    server: RedisServer, prefix: str
) -> None:
    work = Work(server.url, prefix, worker_lease=0.6)
    async with work.app, work.app.worker():
        results = [await work.hold.delay(x) for x in range(3)]
        await wait_until(lambda: len(work.began) == 3, "they run")
        with server.client() as client:
            client.xgroup_destroy(work.key(), "aiotq")
        await work.works()
        await wait_until(lambda: sorted(work.cancelled) == [0, 1, 2], "who lost his lease is cancelled")
        work.gate.set()

        assert [await result.get(timeout=10) for result in results] == [0, 2, 4]
    assert [work.began[x] for x in range(3)] == [2, 2, 2]


@pytest.mark.parametrize("harm", ["trimmed", "deleted", "flushed"])
async def test_a_stream_that_goes_under_a_worker_takes_its_messages_and_nothing_else(
    server: RedisServer, prefix: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    with server.client() as client:
        if harm == "trimmed" and client.info("server")["redis_version"].startswith("6."):
            pytest.skip("before Redis 7.0 a trimmed entry stays pending: its run keeps its lease and ends as usual")
    work = Work(server.url, prefix, worker_lease=0.6)
    async with work.app, work.app.worker(concurrency=3):
        for x in range(5):
            await work.hold.delay(x)
        await wait_until(lambda: len(work.began) == 3, "the slots are full")
        with server.client() as client:
            match harm:
                case "trimmed":
                    client.xtrim(work.key(), maxlen=0)
                case "deleted":
                    client.delete(work.key())
                case _:
                    client.flushall()
        await wait_until(lambda: sorted(work.cancelled) == [0, 1, 2], "who lost his lease is cancelled")
        await work.works()
        assert [(queue.ready, queue.leased) for queue in await work.app.admin.queues(["default"])] == [(0, 0)]

    assert len(warnings(caplog, "its run is cancelled")) == 3, "each is named"
    assert set(work.began) == {0, 1, 2, 21}


async def test_a_run_that_ends_after_its_message_was_deleted_is_said_to_be_lost(
    server: RedisServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(server.url, prefix)
    async with work.app, work.app.worker():
        result = await work.hold.delay(1)
        await wait_until(lambda: work.began[1], "it runs")
        with server.client() as client:
            client.delete(work.key())
        work.gate.set()
        await wait_until(lambda: warnings(caplog, "its lease was lost"), "it is said")
        with pytest.raises(ResultTimeout):
            await result.get(timeout=0.1)
        await work.works()

    assert result.id in warnings(caplog, "its lease was lost")[0]


# A server that can't


async def test_a_server_without_memory_refuses_calls_and_commits_once_when_it_has_some(prefix: str) -> None:
    with RedisServer() as server, server.client() as client:
        work = Work(server.url, prefix, worker_lease=0.6)
        async with work.app, work.app.worker():
            held = [await work.hold.delay(x) for x in range(3)]
            await wait_until(lambda: len(work.began) == 3, "they run")
            client.config_set("maxmemory", "1mb")
            keys = client.dbsize()

            with pytest.raises(OperationalError, match="reached its maxmemory, and nothing was written"):
                await work.double.delay(5)
            with pytest.raises(OperationalError, match="reached its maxmemory"):
                await work.double.options(countdown=60).delay(5)
            work.gate.set()
            await asyncio.sleep(0.8)  # more than a lease: it is renewed without memory, too
            assert client.dbsize() == keys
            client.config_set("maxmemory", 0)

            assert [await result.get(timeout=10) for result in held] == [0, 2, 4]
            await work.works()
        assert [work.began[x] for x in range(3)] == [1, 1, 1]
        assert work.began[5] == 0
        assert work.cancelled == []


async def test_a_server_that_cannot_save_refuses_calls_with_the_reason(prefix: str) -> None:
    with RedisServer({"save": "3600 1"}) as server, server.client() as client:
        work = Work(server.url, prefix)
        async with work.app, work.app.worker():
            await work.works()
            (server.directory / "dump.rdb").mkdir()  # a directory can't be replaced by a snapshot
            await wait_until(lambda: _fails_to_save(client), "it has failed to save")

            with pytest.raises(OperationalError, match="can't write its snapshot"):
                await work.double.delay(5)
            client.config_set("stop-writes-on-bgsave-error", "no")
            await work.works()


def _fails_to_save(client: Any) -> bool:
    with suppress(redis.ResponseError):  # one is under way
        client.bgsave()
    return bool(client.info("persistence")["rdb_last_bgsave_status"] == "err")


async def test_a_server_that_loads_is_waited_for(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer({"appendonly": "yes", "key-load-delay": 2000}) as server, server.client() as client:
        work = Work(server.url, prefix)
        async with work.app, work.app.worker():
            held = await work.hold.delay(1)
            await wait_until(lambda: work.began[1], "it runs")
            pipeline = client.pipeline()
            for number in range(1000):  # while it loads, it answers after every two megabytes
                pipeline.set(f"filling-{number}", os.urandom(10_000))
            pipeline.execute()
            client.bgrewriteaof()
            await wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "it is written anew")
            server.kill()
            loading = asyncio.get_running_loop().run_in_executor(None, server.start)
            second = await work.double.delay(2)

            assert await second.get(timeout=10) == 4
            work.gate.set()
            assert await held.get(timeout=10) == 2
            await loading
        assert work.began == {1: 1, 2: 1}
    assert warnings(caplog, "LOADING")


async def test_leases_on_a_server_that_writes_nothing_are_not_thought_lost(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer() as server, server.client() as client:
        work = Work(server.url, prefix, worker_lease=0.6)
        async with work.app, work.app.worker():
            held = await work.hold.delay(1)
            await wait_until(lambda: work.began[1], "it runs")
            client.replicaof("127.0.0.1", server.port)  # of itself: it will not write, and nothing else happens
            await wait_until(lambda: warnings(caplog, "leases could not be renewed"), "a renewal is refused")
            client.replicaof("no", "one")
            work.gate.set()

            assert await held.get(timeout=10) == 2
    assert work.began == {1: 1}
    assert work.cancelled == []


async def test_queues_that_nobody_knows_of_any_more_are_found_by_their_workers(
    server: RedisServer, prefix: str
) -> None:
    work = Work(server.url, prefix, worker_lease=0.6)
    async with work.app:
        transport = (await core_of(work.app).connection()).broker
        async with transport.consumer("w", ["default"], lease=0.3) as dead:
            result = await work.double.delay(1)
            assert len(await dead.receive(1, suspect=True, wait=5)) == 1
            with server.client() as client:
                client.delete(f"{work.base}:queues")
            async with work.app.worker():
                assert await result.get(timeout=10) == 2


async def test_a_replica_is_no_place_to_write_to_and_says_so(prefix: str) -> None:
    with RedisServer() as master, RedisServer({"replicaof": f"127.0.0.1 {master.port}"}) as replica:
        work = Work(replica.url, prefix, task_publish_timeout=0.5)
        async with work.app:
            with pytest.raises(PublishTimeout, match="READONLY") as caught:
                await work.double.delay(1)
            assert not caught.value.maybe_sent


async def test_a_master_that_becomes_a_replica_and_a_master_again_is_gone_on_with(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer() as master, RedisServer() as other, master.client() as client:
        work = Work(master.url, prefix)
        async with work.app, work.app.worker():
            await work.works()
            other_client = other.client()
            other_client.replicaof("127.0.0.1", master.port)
            await wait_until(lambda: other_client.info("replication")["master_link_status"] == "up", "it follows")
            client.replicaof("127.0.0.1", other.port)
            other_client.replicaof("no", "one")
            sending = asyncio.create_task(work.double.delay(3))
            await wait_until(lambda: warnings(caplog, "READONLY"), "it is noticed")
            client.replicaof("no", "one")
            assert await (await sending).get(timeout=10) == 6
            other_client.close()

    assert len(warnings(caplog, "was lost, connecting again")) <= 4


async def test_a_failure_that_lasts_is_not_said_again_and_again(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as server, Proxy(server.port) as proxy:
        work = Work(proxy.url, prefix, task_publish_timeout=1.5)
        async with work.app:
            await work.answers()
            proxy.refuse()
            await wait_until(lambda: warnings(caplog, "requests) was lost"), "it is noticed")
            with pytest.raises(PublishTimeout) as caught:
                await work.double.delay(1)
            assert not caught.value.maybe_sent
            proxy.restore()
            await wait_until(lambda: len(warnings(caplog, "is open again")) == 2, "they are made again")
            await work.answers()

    assert len(warnings(caplog)) == 7, "lost, not to be had, there again, for each of two; and the call that waits"


async def test_a_worker_without_its_server_says_so_and_not_over_and_over(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer() as server, Proxy(server.port) as proxy:
        work = Work(proxy.url, prefix, worker_lease=0.9)
        async with work.app, work.app.worker():
            result = await work.hold.delay(1)
            waiting = asyncio.create_task(result.get(timeout=20))
            await wait_until(lambda: work.began[1], "it runs")
            proxy.refuse()
            work.gate.set()
            await wait_until(lambda: warnings(caplog, "committing"), "it can't commit")
            await asyncio.sleep(4)  # what is said each time it is tried would be said often by now
            proxy.restore()
            assert await waiting == 2
    said = Counter(warnings(caplog))
    assert max(said.values()) == 1, said
    assert len(said) <= 18, said  # connections, and each kind of work in two or three ways
