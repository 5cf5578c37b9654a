"""Channels on a tap, each rule of living beside aiormq: whatever ends, those who wait are told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from aiotq.backends.amqp.address import parse
from aiotq.backends.amqp.channel import Channel, Refused
from aiotq.backends.amqp.connection import AmqpClient
from aiotq.backends.amqp.frames import Delivered, Post
from aiotq.backends.amqp.lane import Lane
from aiotq.backends.amqp.properties import pack_properties
from aiotq.exceptions import ConnectionLost, InvalidOption, NotConnected, OperationalError

from ..certificates import make_certificates
from ..proxy import Proxy
from ..servers import RabbitServer, shared_rabbit
from ..waiting import wait_until
from .amqp_work import Work, vhost_of

#: A pattern of rights, as Erlang writes it.
EVERYTHING = '<<".*">>'


@pytest.fixture
def vhost() -> str:
    return shared_rabbit().vhost()


@pytest.fixture
async def client(vhost: str) -> AsyncIterator[AmqpClient]:
    async with AmqpClient(parse(vhost), "test") as client:
        yield client


async def opened(client: AmqpClient, *, confirms: bool = False) -> Channel:
    channel = await (await client.wire()).channel(confirms=confirms)
    assert isinstance(channel, Lane)
    return channel


def posts(channel: Channel, count: int, queue: str = "q", body: bytes = b"x", exchange: str = "") -> list[Post]:
    first = channel.next_number
    return [
        Post(exchange, queue, pack_properties(message_id=str(number), delivery_mode=2), body)
        for number in range(first, first + count)
    ]


@pytest.mark.parametrize("size", [0, 1_000_000, 16 * 1024 * 1024])
async def test_bodies_of_any_size_come_as_they_were_sent(client: AmqpClient, size: int) -> None:
    sending, reading = await opened(client, confirms=True), await opened(client)
    arrived: list[Delivered] = []
    reading.on_arrival = arrived.append
    body = bytes(range(256)) * (size // 256)
    await sending.declare_queue("q")

    await sending.publish(posts(sending, 2, body=body))
    got = await sending.get("q")
    await reading.consume("q", "reader")
    await wait_until(lambda: bool(arrived), "it is delivered")

    assert got is not None
    assert got.body == arrived[0].body == body
    assert (got.consumer, arrived[0].consumer) == ("", "reader")


async def test_what_asks_by_aiormq_beside_a_lane_gets_its_answer(client: AmqpClient) -> None:
    lane = await opened(client, confirms=True)
    await lane.declare_queue("q")
    await lane.publish(posts(lane, 2, body=b"y" * 300_000))

    theirs = await lane._requests.basic_get("q")
    ours = await lane.get("q")

    assert ours is not None
    assert theirs.body == ours.body == b"y" * 300_000
    assert await lane.get("q") is None


async def test_a_cancelled_request_closes_nothing(client: AmqpClient) -> None:
    lane = await opened(client)
    for _ in range(20):
        task = asyncio.create_task(lane.declare_queue("q"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert lane.is_open
    assert await lane.count("q") == 0


@pytest.mark.parametrize(("exchange", "is_missing"), [("nowhere", True), ("", False)])
async def test_a_channel_that_the_server_closes_fails_what_is_under_way_and_its_number_is_another_ones(
    client: AmqpClient, exchange: str, is_missing: bool
) -> None:
    """404: no such exchange; 406: an acknowledgement of what never came."""
    lane, told = await opened(client, confirms=True), list[str]()
    lane.on_closed = lambda: told.append("closed")
    await lane.declare_queue("q")
    publishing = asyncio.create_task(lane.publish(posts(lane, 100, exchange=exchange)))
    asking = lane.get("q")
    await asyncio.sleep(0)
    if not is_missing:
        lane.ack([12_345])
    with pytest.raises(OperationalError) as refused:
        await asyncio.gather(publishing, asking)
        await lane.count("q")

    await wait_until(lambda: told == ["closed"], "its owner was told")
    assert isinstance(refused.value, (Refused, NotConnected))
    assert isinstance(lane.closed, Refused)
    assert (lane.closed.is_missing, lane.closed.differs) == (is_missing, not is_missing)
    with pytest.raises(NotConnected):
        await lane.publish(posts(lane, 1))
    another = await opened(client, confirms=True)
    await another.declare_queue("q2")
    assert not (await another.publish(posts(another, 10, queue="q2"))).returned
    assert await another.count("q2") == 10


async def test_a_consumer_whose_queue_is_deleted_is_told(client: AmqpClient) -> None:
    lane, operator = await opened(client), await opened(client)
    ended: list[str] = []
    lane.on_cancel = ended.append
    await lane.declare_queue("q")
    await lane.consume("q", "reader")
    await operator.delete_queue("q")

    await wait_until(lambda: ended == ["reader"], "it is told")
    await lane.declare_queue("q")
    await lane.consume("q", "reader")


async def test_a_batch_that_is_cut_in_its_middle_is_lost_and_not_unsent(
    vhost: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, and without a traceback of aiormq's."""
    with Proxy(shared_rabbit().port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/{vhost_of(vhost)}"
        async with AmqpClient(parse(url), "test") as client:
            lane = await opened(client, confirms=True)
            await lane.declare_queue("q")
            proxy.swallow_replies()
            publishing = asyncio.create_task(lane.publish(posts(lane, 50)))
            await wait_until(lambda: proxy.swallowed > 0, "the server confirms")
            proxy.cut()
            with pytest.raises(ConnectionLost, match="the connection was lost") as lost:
                await publishing
            assert not isinstance(lost.value, NotConnected)
            proxy.restore()
            assert await (await opened(client)).count("q") == 50
    assert [each.name for each in caplog.records if each.levelno >= logging.WARNING] == ["aiotq.amqp", "aiotq.amqp"]


async def test_a_busy_connection_is_not_taken_for_a_dead_one(vhost: str) -> None:
    """aiormq sees nothing of what lanes take; with a heartbeat of 1 s it would give up after 6."""
    async with AmqpClient(parse(f"{vhost}?heartbeat=1"), "test") as client:
        wire = await client.wire()
        lane = await opened(client, confirms=True)
        await lane.declare_queue("q")
        until = time.monotonic() + 8
        while time.monotonic() < until:
            await lane.publish(posts(lane, 20))
        assert await client.wire() is wire
        assert wire.is_open


async def test_headers_that_no_frame_can_carry_are_refused_before_they_are_sent(client: AmqpClient) -> None:
    lane = await opened(client, confirms=True)
    await lane.declare_queue("q")
    large = Post("", "q", pack_properties(message_id="1", headers={"a": "x" * 200_000}), b"")

    with pytest.raises(OperationalError, match="frame_max"):
        await lane.publish([large])
    assert not (await lane.publish(posts(lane, 1))).nacked


@pytest.mark.parametrize("name", ["a b", "ü/ö", "50%", "a+b", "?#@:", "x" * 127])
async def test_virtual_hosts_have_any_name(name: str) -> None:
    server = shared_rabbit()
    written = "".join(f"%{byte:02X}" for byte in name.encode())
    numbers = ",".join(map(str, name.encode()))
    server.eval(f'rabbit_vhost:add(<<{numbers}>>, <<"test">>)')
    rights = ", ".join(3 * [EVERYTHING])
    server.eval(f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<{numbers}>>, {rights}, <<"test">>)')

    async with AmqpClient(parse(f"{server.url}{written}"), "test") as client:
        await (await opened(client)).declare_queue("q")


async def test_queues_whose_names_can_not_be_sent_are_refused_at_the_call(vhost: str) -> None:
    work = Work(vhost)
    async with work.app:
        with pytest.raises(InvalidOption, match="the name of a queue has letters"):
            await work.double.options(queue="naïve").delay(1)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def strict(certificates: Path) -> Iterator[RabbitServer]:
    settings = {"auth_mechanisms.1": "EXTERNAL", "auth_mechanisms.2": "PLAIN", "ssl_cert_login_from": "common_name"}
    plugins = ["rabbitmq_auth_mechanism_ssl"]
    with RabbitServer(settings, certificates=certificates, clients_need_one=True, plugins=plugins) as server:
        server.add_user("client", "a password that nobody uses")
        yield server


async def test_a_certificate_is_enough_to_log_in(strict: RabbitServer, certificates: Path) -> None:
    url = f"amqps://localhost:{strict.tls_port}/?auth=external&ssl_ca_certs={certificates}/ca.pem"
    ours = f"&ssl_certfile={certificates}/client.pem&ssl_keyfile={certificates}/client.key"
    work = Work(url + ours)
    async with work.app, work.app.worker():
        await work.works()

    other = f"&ssl_certfile={certificates}/server.pem&ssl_keyfile={certificates}/server.key"
    with pytest.raises(OperationalError, match="refused user") as refused:
        await Work(url + other).double.delay(1)
    assert not isinstance(refused.value, NotConnected)


async def test_a_way_to_log_in_that_the_server_does_not_have_is_named(vhost: str) -> None:
    with pytest.raises(OperationalError, match=r"log in by external: it has .*PLAIN") as refused:
        await Work(f"{vhost}?auth=external").double.delay(1)
    assert not isinstance(refused.value, NotConnected)
