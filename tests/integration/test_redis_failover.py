"""Sentinel and Cluster: the server of an app becomes another one while it works."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis

from aiotq.exceptions import OperationalError, PublishTimeout

from ..servers import RedisCluster, RedisSentinel, free_port, shared
from ..waiting import wait_until
from .redis_work import Work, fresh_prefix, warnings


@pytest.fixture
def prefix() -> str:
    return fresh_prefix()


async def send_on(work: Work, results: dict[int, Any], stop: asyncio.Event) -> None:
    """Send, one call after the other, through whatever comes; what was accepted is in `results`."""
    x = 100
    while not stop.is_set():
        x += 1
        with suppress(PublishTimeout):
            results[x] = await work.double.delay(x)
        await asyncio.sleep(0.01)


async def test_a_master_that_is_killed_is_followed_by_its_replica(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisSentinel() as sentinel:
        work = Work(sentinel.url, prefix, worker_lease=2.0)
        results: dict[int, Any] = {}
        stop = asyncio.Event()
        async with work.app, work.app.worker():
            held = await work.hold.delay(1)
            waiting = asyncio.create_task(held.get(timeout=40))
            await wait_until(lambda: work.began[1], "it runs")
            sending = asyncio.create_task(send_on(work, results, stop))
            await wait_until(lambda: len(results) > 5, "calls are accepted")
            await asyncio.sleep(0.2)  # for the replica to have what was accepted
            sentinel.master.kill()
            before = set(results)
            await wait_until(lambda: len(set(results) - before) > 10, "calls are accepted again", 25)
            stop.set()
            await sending
            work.gate.set()

            assert await waiting == 2
            after = [x for x in results if x not in before]
            assert [await results[x].get(timeout=20) for x in after] == [2 * x for x in after]
            await work.works()
    assert not [record for record in caplog.records if record.exc_info], "no exception came through"
    assert len(warnings(caplog)) < 40


async def test_a_fail_over_by_hand_drops_the_connections_to_the_old_master(prefix: str) -> None:
    with RedisSentinel() as sentinel:
        work = Work(sentinel.url, prefix, worker_lease=20.0)  # longer than a fail-over takes on a busy machine
        async with work.app, work.app.worker():
            held = await work.hold.delay(1)
            waiting = asyncio.create_task(held.get(timeout=40))
            await wait_until(lambda: work.began[1], "it runs")
            await asyncio.sleep(0.2)  # for the replica to have it
            with sentinel.sentinels[0].client() as client:
                client.execute_command("SENTINEL", "FAILOVER", sentinel.SERVICE)
                await wait_until(lambda: _address(client, sentinel)[1] == sentinel.replica.port, "it is promoted", 20)
            await wait_until(lambda: _role(sentinel.master) == "slave", "the old one follows", 20)
            work.gate.set()

            assert await waiting == 2
            await work.works(timeout=20)
            with sentinel.master.client() as client:
                ours = [each for each in client.client_list(_type="normal") if each["cmd"].startswith("eval")]
            assert ours == []
        assert work.began[1] == 1


def _address(client: Any, sentinel: RedisSentinel) -> tuple[str, int]:
    address: tuple[str, int] = client.sentinel_get_master_addr_by_name(sentinel.SERVICE)
    return address


def _role(server: Any) -> str:
    with server.client() as client:
        return str(client.info("replication")["role"])


async def test_sentinels_that_know_no_such_service_are_a_clear_error() -> None:
    work = Work(shared("redis-sentinel").url.replace(RedisSentinel.SERVICE, "another"), fresh_prefix())
    with pytest.raises(OperationalError, match="no Sentinel knows a master called 'another'"):
        async with work.app:
            await work.double.delay(1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


async def test_a_slot_that_moves_to_another_node_is_followed(
    cluster: RedisCluster, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(cluster.url, prefix, worker_lease=3.0)
    results: dict[int, Any] = {}
    stop = asyncio.Event()
    async with work.app, work.app.worker():
        held = await work.hold.delay(1)
        waiting = asyncio.create_task(held.get(timeout=40))
        await wait_until(lambda: work.began[1], "it runs")
        sending = asyncio.create_task(send_on(work, results, stop))
        await wait_until(lambda: len(results) > 5, "calls are accepted")
        await Migration(cluster, work.base).run()
        before = set(results)
        await wait_until(lambda: len(set(results) - before) > 10, "calls are accepted again", 20)
        stop.set()
        await sending
        work.gate.set()

        assert await waiting == 2
        assert {x: await result.get(timeout=20) for x, result in results.items()} == {x: 2 * x for x in results}
        await work.works()
    assert work.began[1] == 1
    assert {work.began[x] for x in results} == {1}
    assert not [record for record in caplog.records if record.exc_info]
    assert len(warnings(caplog)) < 30, "a migration does not fill the log"


class Migration:
    """Moves the slot of `key` from its node to the next one, key after key, slowly enough to be noticed."""

    def __init__(self, cluster: RedisCluster, key: str) -> None:
        clients: list[Any] = [redis.Redis(port=node.port, socket_timeout=10) for node in cluster.nodes]
        self.slot = int(str(clients[0].execute_command("CLUSTER", "KEYSLOT", key)))
        self.ids = [client.execute_command("CLUSTER", "MYID").decode() for client in clients]
        owner = next(i for i, client in enumerate(clients) if self._owns(client, self.ids[i]))
        other = (owner + 1) % len(clients)
        self.clients = clients
        self.source, self.target = clients[owner], clients[other]
        self.source_id, self.target_id = self.ids[owner], self.ids[other]
        self.target_port = cluster.nodes[other].port

    def _owns(self, client: Any, node_id: str) -> bool:
        for low, high, (_, _, owner, *_), *_ in _slots(client):
            if low <= self.slot <= high:
                return bool(owner.decode() == node_id)
        return False

    async def run(self) -> None:
        cluster = "CLUSTER"
        self.target.execute_command(cluster, "SETSLOT", self.slot, "IMPORTING", self.source_id)
        self.source.execute_command(cluster, "SETSLOT", self.slot, "MIGRATING", self.target_id)
        await asyncio.sleep(0.5)  # a resharding of many slots takes its time: work waits
        while keys := self.source.execute_command(cluster, "GETKEYSINSLOT", self.slot, 10):
            self.source.execute_command("MIGRATE", "127.0.0.1", self.target_port, "", 0, 5000, "REPLACE", "KEYS", *keys)
            await asyncio.sleep(0.005)
        for client in (self.target, self.source, *self.clients):
            client.execute_command(cluster, "SETSLOT", self.slot, "NODE", self.target_id)
        for client in self.clients:
            client.close()


def _slots(client: Any) -> Any:
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command("CLUSTER", "SLOTS")
        return connection.read_response()
    finally:
        client.connection_pool.release(connection)


async def test_a_node_that_is_no_cluster_is_a_clear_error() -> None:
    url = shared("redis").url.replace("redis://", "redis+cluster://")
    work = Work(url, fresh_prefix())
    with pytest.raises(OperationalError, match="no node of the cluster answers"):
        async with work.app:
            await work.double.delay(1)


async def test_sentinels_that_can_not_be_reached_are_said_so() -> None:
    work = Work(f"redis+sentinel://127.0.0.1:{free_port()}/0?service=tasks", fresh_prefix())
    with pytest.raises(OperationalError, match="no Sentinel can be reached"):
        async with work.app:
            await work.double.delay(1)


async def test_a_sentinel_under_the_url_of_a_server_is_said_so() -> None:
    sentinel = shared("redis-sentinel")
    assert isinstance(sentinel, RedisSentinel)
    work = Work(f"redis://127.0.0.1:{sentinel.sentinels[0].port}/0", fresh_prefix())
    with pytest.raises(OperationalError, match="is a Sentinel, which keeps no messages"):
        async with work.app:
            await work.double.delay(1)
