"""Every way of having a Redis: each runs a task end to end, and what can't work says why."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from aiotq import AioTQ
from aiotq.exceptions import DeadLettered, OperationalError

from ..certificates import make_certificates
from ..servers import RedisCluster, RedisSentinel, RedisServer, free_port, shared
from ..waiting import wait_until
from . import redis_process_app
from .redis_work import send_junk

#: All that a user needs of a server to run an app under `{prefix}`.
COMMANDS = (
    "ping info select evalsha eval subscribe publish time type exists del expire pexpire pexpireat pttl rename "
    "get set mget getrange setbit hget hset hmget hgetall hdel hlen hexists hincrby sadd srem spop scard smembers "
    "zadd zrem zrange zrangebyscore zremrangebyscore zcard zcount zscore zpopmin "
    "xadd xack xdel xlen xrange xrevrange xtrim xgroup xinfo xpending xreadgroup xclaim"
)


def make_app(url: str, **settings: Any) -> AioTQ:
    app = AioTQ("x", broker=url, **settings)

    @app.task(name="x.add")
    async def add(x: int, y: int) -> int:
        return x + y

    return app


async def call(app: AioTQ, x: int = 2, y: int = 2) -> Any:
    return await (await app.send_task("x.add", (x, y))).get(timeout=10)


async def works(url: str) -> None:
    """Assert that a task runs there, all its way."""
    app = make_app(url)
    async with app, app.worker():
        assert await call(app) == 4


async def refusal(url: str) -> str:
    """Return what a call is told that can't be sent there, having asserted that it is told so in time."""
    app = make_app(url, task_publish_timeout=2.0)
    async with asyncio.timeout(10):
        with pytest.raises(OperationalError) as caught:
            async with app:
                await app.send_task("x.add", (2, 2))
    return str(caught.value)


def fresh(prefix: str = "test") -> str:
    return f"{prefix}-{os.urandom(6).hex()}"


# Who one is


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisServer]:
    """A server with a password, and a user who may do just enough under his prefix."""
    rights = " ".join(f"+{command}" for command in COMMANDS.split())
    user = f"on >his-secret ~{{mine}}* resetchannels &{{mine}}* -@all {rights}"
    blind = f"on >his-secret ~{{mine}}* resetchannels &{{mine}}* -@all {rights.replace('+xadd ', '')}"
    deaf = f"on >his-secret ~{{mine}}* resetchannels -@all {rights}"
    settings = {"requirepass": "hush%/@:", "user me": user, "user blind": blind, "user deaf": deaf}
    with RedisServer(settings) as server:
        yield server


async def test_a_password(guarded: RedisServer) -> None:
    await works(f"redis://:hush%25%2F%40%3A@127.0.0.1:{guarded.port}/0")


async def test_a_user_with_the_least_rights(guarded: RedisServer) -> None:
    """All that an app does: calls, delays, revocations, dead letters, and looking at them."""
    app = make_app(f"redis://me:his-secret@127.0.0.1:{guarded.port}/0?prefix=mine", worker_lease=1.0)
    async with app, app.worker(), app.worker():
        result = await app.send_task("x.add", (1, 1), countdown=0.05)
        revoked = await app.send_task("x.add", (1, 1), countdown=60)
        await send_junk(app, "x.add", "junk")
        await revoked.revoke()
        assert await result.get(timeout=10) == 2
        assert await call(app) == 4
        assert await app.AsyncResult(result.id).state() == "SUCCESS"
        with pytest.raises(DeadLettered):
            await app.AsyncResult("junk").get(timeout=10)
        (letter,) = await app.admin.dead_letters()
        assert await app.admin.dead_letter(letter.key) is not None
        assert await app.admin.replay([letter.key]) == 1
        await wait_until(app.admin.dead_letters, "it is dead again")
        assert await app.admin.purge("default") == 1
        assert await app.admin.purge_dead() == 1
        await asyncio.sleep(1.2)  # a lease: leases were renewed, and strays were looked for
        assert await call(app) == 4
        await result.forget()


async def test_a_user_with_the_least_rights_in_a_cluster() -> None:
    cluster = shared("redis-cluster")
    rights = " ".join(f"+{command}" for command in COMMANDS.split())
    user = f"on >his-secret ~{{mine}}* resetchannels &{{mine}}* -@all {rights}"
    assert isinstance(cluster, RedisCluster)
    for node in cluster.nodes:
        with node.client() as client:
            client.execute_command("ACL", "SETUSER", "me", *user.split(), "+cluster|slots", "+command")

    await works(f"{cluster.url.replace('://', '://me:his-secret@')}?prefix=mine")


async def test_a_user_of_sentinels_with_the_least_rights() -> None:
    sentinel = shared("redis-sentinel")
    rights = "on >their-secret -@all +ping +sentinel|masters"
    assert isinstance(sentinel, RedisSentinel)
    for each in sentinel.sentinels:
        with each.client() as client:
            client.execute_command("ACL", "SETUSER", "asking", *rights.split())

    await works(f"{sentinel.url}&sentinel_username=asking&sentinel_password=their-secret&prefix={fresh()}")


async def test_a_forbidden_command_is_a_clear_error(guarded: RedisServer) -> None:
    said = await refusal(f"redis://blind:his-secret@127.0.0.1:{guarded.port}/0?prefix=mine")

    assert "not allowed" in said
    assert "his-secret" not in said


async def test_a_forbidden_prefix_is_a_clear_error(guarded: RedisServer) -> None:
    said = await refusal(f"redis://me:his-secret@127.0.0.1:{guarded.port}/0?prefix=another")

    assert "not allowed" in said


async def test_forbidden_channels_are_a_clear_error_at_once(guarded: RedisServer) -> None:
    async with asyncio.timeout(2):
        said = await refusal(f"redis://deaf:his-secret@127.0.0.1:{guarded.port}/0?prefix=mine")

    assert "not allowed" in said
    assert "channel" in said


@pytest.mark.parametrize("user", ["", "me", "nobody"])
async def test_a_wrong_password_is_a_clear_error_that_does_not_show_it(guarded: RedisServer, user: str) -> None:
    said = await refusal(f"redis://{user}:not-his@127.0.0.1:{guarded.port}/0")

    assert "refused the user name or password" in said
    assert "not-his" not in said


async def test_a_missing_password_is_a_clear_error(guarded: RedisServer) -> None:
    assert "wants a password" in await refusal(f"redis://127.0.0.1:{guarded.port}/0")


async def test_a_wrong_port_is_a_clear_error() -> None:
    port = free_port()

    said = await refusal(f"redis://:hush@127.0.0.1:{port}/0")

    assert "can't be reached" in said
    assert str(port) in said
    assert "hush" not in said


async def test_a_server_that_is_no_redis_is_a_clear_error() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        said = await refusal(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")

    assert "does not speak the protocol of Redis" in said


async def test_a_server_that_says_nothing_is_given_up_after_the_connect_timeout() -> None:
    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(be_silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        said = await refusal(f"redis://127.0.0.1:{port}/0?connect_timeout=0.2")

    assert "not answer" in said


# Sockets, databases, prefixes


@pytest.mark.parametrize("scheme", ["unix", "redis+socket"])
async def test_a_unix_socket(scheme: str, tmp_path: Path) -> None:
    with RedisServer({"unixsocket": tmp_path / "redis.sock"}) as server:
        await works(f"{scheme}://{tmp_path}/redis.sock?db=1")

        with server.client() as client:
            assert client.info("keyspace").get("db0") is None, "a database was named"
    assert "can't be reached" in await refusal(f"{scheme}://{tmp_path}/redis.sock")


async def test_an_ipv6_address() -> None:
    with RedisServer({"bind": "127.0.0.1 ::1"}) as server:
        await works(f"redis://[::1]:{server.port}/0")


async def test_databases_and_prefixes_keep_apart() -> None:
    url, prefix = shared("redis").url.removesuffix("/0"), fresh()
    urls = [f"{url}/0?prefix={prefix}", f"{url}/1?prefix={prefix}", f"{url}/0?prefix={prefix}-2"]
    ran: list[str] = []

    def app_at(url: str) -> AioTQ:
        app = AioTQ("x", broker=url)

        @app.task(name="x.where")
        async def where() -> str:
            ran.append(url)
            return url

        return app

    async with AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(app_at(url)) for url in urls]
        results = [await app.send_task("x.where") for app in apps]
        for app in apps:
            await stack.enter_async_context(app.worker())
        answers = [await result.get(timeout=10) for result in results]
        assert await apps[1].AsyncResult(results[0].id).state() == "PENDING"

    assert answers == urls
    assert sorted(ran) == sorted(urls)


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def encrypted(certificates: Path, clients: str, *arguments: str, **settings: object) -> RedisServer:
    return RedisServer(
        {
            "tls-port": free_port(),
            "tls-cert-file": certificates / "server.pem",
            "tls-key-file": certificates / "server.key",
            "tls-ca-cert-file": certificates / "ca.pem",
            "tls-auth-clients": clients,
            **{name.replace("_", "-"): value for name, value in settings.items()},
        },
        *arguments,
    )


async def test_tls_with_a_ca(certificates: Path) -> None:
    with encrypted(certificates, "no") as server:
        url = f"rediss://localhost:{server.tls_port}/0"
        await works(f"{url}?ssl_ca_certs={certificates}/ca.pem")
        await works(f"{url}?ssl_cert_reqs=none")

        said = await refusal(f"{url}?ssl_ca_certs={certificates}/another_ca.pem")
        assert "certificate verify failed" in said
        assert "certificate verify failed" in await refusal(url)


async def test_tls_with_a_certificate_of_another_host(certificates: Path) -> None:
    with encrypted(certificates, "no") as server:
        url = f"rediss://ip6-localhost:{server.tls_port}/0?ssl_ca_certs={certificates}/ca.pem"
        url = url.replace("ip6-localhost", "127.0.0.2")
        with server.client() as client:
            client.config_set("bind", "127.0.0.1 127.0.0.2")

        assert "is not valid for '127.0.0.2'" in await refusal(url)
        await works(f"{url}&ssl_check_hostname=false")


async def test_tls_with_certificates_of_clients(certificates: Path) -> None:
    with encrypted(certificates, "yes") as server:
        url = f"rediss://127.0.0.1:{server.tls_port}/0?ssl_ca_certs={certificates}/ca.pem"
        await works(f"{url}&ssl_certfile={certificates}/client.pem&ssl_keyfile={certificates}/client.key")

        assert "it may want a certificate of its clients" in await refusal(url)


async def test_tls_to_a_cluster(certificates: Path) -> None:
    with (
        encrypted(certificates, "no", cluster_enabled="yes", tls_cluster="yes", cluster_port=free_port()) as server,
        server.client() as client,
    ):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await wait_until(lambda: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")), "it is whole")

        await works(f"rediss+cluster://127.0.0.1:{server.tls_port}?ssl_ca_certs={certificates}/ca.pem")


async def test_tls_to_a_sentinel_and_its_master(certificates: Path) -> None:
    with encrypted(certificates, "no") as master:
        watch = f"monitor tasks 127.0.0.1 {master.tls_port} 1"
        with encrypted(certificates, "no", "--sentinel", sentinel=watch, tls_replication="yes") as sentinel:
            url = f"rediss+sentinel://127.0.0.1:{sentinel.tls_port}/0?service=tasks&ssl_ca_certs={certificates}/ca.pem"
            await works(url)


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
async def test_a_certificate_that_is_not_there_is_a_clear_error(option: str, tmp_path: Path) -> None:
    said = await refusal(f"rediss://127.0.0.1:{free_port()}/0?{option}={tmp_path}/missing.pem")

    assert "missing.pem" in said


# What stands on the server


async def test_a_process_has_two_connections_and_a_worker_one_more_however_many_wait() -> None:
    with RedisServer() as server, server.client() as client:
        app = make_app(f"{server.url}?prefix={fresh()}", worker_lease=0.6)
        gate = asyncio.Event()

        @app.task(name="x.wait")
        async def wait() -> None:
            await gate.wait()

        def connections() -> int:
            return len(client.client_list()) - 1

        async with app:
            results = [await app.send_task("x.wait") for _ in range(200)]
            waiting = [asyncio.create_task(app.AsyncResult(result.id).get(timeout=20)) for result in results]
            await asyncio.sleep(0)
            await call_soon(app)
            assert connections() == 2
            async with app.worker(concurrency=200):
                await wait_until(lambda: connections() == 3, "the heartbeat has a connection")
                gate.set()
                await asyncio.gather(*waiting)
                assert connections() == 3
            await wait_until(lambda: connections() == 2, "the worker's connection is closed")
        await wait_until(lambda: connections() == 0, "all are closed")


async def call_soon(app: AioTQ) -> None:
    """Make one round trip."""
    await app.admin.queues()


async def test_the_system_probes_connections_that_are_quiet() -> None:
    """Also while a task blocks the loop, which asks for life signs itself otherwise."""
    with RedisServer() as server:
        app = make_app(server.url, worker_lease=0.6)
        async with app, app.worker():
            await wait_until(lambda: len(probed_after(server.port)) == 3, "the heartbeat has a connection")

            assert probed_after(server.port) == [30, 30, 30]


def probed_after(port: int) -> list[int]:
    """Return after how many seconds of quiet each of our connections to `port` is probed; 0 is never."""
    found: list[int] = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # it was closed meanwhile, or is connected to nobody
            if not os.readlink(fd).startswith("socket:"):
                continue
            with socket.fromfd(int(fd.name), socket.AF_INET, socket.SOCK_STREAM) as sock:
                if sock.getpeername()[1:2] != (port,):  # a unix socket's is a string
                    continue
                is_probed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                found.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) if is_probed else 0)
    return found


async def test_a_server_that_may_lose_tasks_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}) as server:
        app = make_app(server.url)
        async with app, app.worker(), app.worker():
            assert await call(app) == 4
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    assert sum("maxmemory-policy is allkeys-lru: it may delete queues" in each for each in warnings) == 1
    assert sum("append-only file is off" in each for each in warnings) == 1
    assert len(warnings) == 2


async def test_a_server_that_keeps_everything_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    settings = {"maxmemory": "100mb", "maxmemory-policy": "noeviction", "appendonly": "yes"}
    with RedisServer(settings) as server:
        await works(server.url)

    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_process_of_the_worker_calls_other_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{shared('redis').url}?prefix={fresh()}"
    monkeypatch.setenv("AIOTQ_BROKER_URL", url)
    app = redis_process_app.app
    app.conf.update({"broker_url": url})

    async with app, app.worker():
        result = await redis_process_app.call_from_the_child.delay(3)
        assert await result.get(timeout=30) == 6
