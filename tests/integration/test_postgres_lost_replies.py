"""Replies of a PostgreSQL that never come: what was asked is done once, and whoever asked is told in time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiotq.backends.postgres.address import Address, parse
from aiotq.backends.postgres.broker import PostgresBroker
from aiotq.backends.postgres.commit import PostgresCommitter
from aiotq.backends.postgres.connection import PostgresClient
from aiotq.backends.postgres.ledger import PostgresLedger
from aiotq.backends.postgres.records import PostgresRecords
from aiotq.commit import COMMITTED, Finish
from aiotq.exceptions import ConnectionLost, NotConnected
from aiotq.results import Record
from aiotq.states import SUCCESS
from aiotq.transport import ACK, Delivery
from aiotq.wire.message import Envelope, Message

from ..proxy import Proxy
from ..servers import shared_postgres
from ..waiting import wait_until

#: A request without an answer costs half a second here, and not ten.
HASTY = "&reply_timeout=0.5&connect_timeout=1"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before the shared server."""
    with Proxy(shared_postgres().port) as proxy:
        yield proxy


class Rooms:
    """What one process has."""

    def __init__(self, client: PostgresClient) -> None:
        self.client = client
        self.transport = PostgresBroker(client)
        self.records = PostgresRecords(client)
        self.ledger = PostgresLedger(client, self.records)
        self.committer = PostgresCommitter(self.transport, self.ledger)


@asynccontextmanager
async def rooms(address: Address) -> AsyncIterator[Rooms]:
    async with PostgresClient(address) as client:
        made = Rooms(client)
        async with made.transport, made.records, made.ledger:
            yield made


@pytest.fixture
def direct() -> Address:
    return parse(shared_postgres().schema())


@pytest.fixture
def proxied(direct: Address, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> Address:
    caplog.set_level(logging.CRITICAL)
    return parse(f"postgresql://aiotq@127.0.0.1:{proxy.port}/postgres?schema={direct.schema}{HASTY}")


def envelope(task_id: str, queue: str = "q") -> Envelope:
    return Envelope(Message(task_id, "x.add", b"[]"), queue)


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.message.id for delivery in deliveries]


async def lose_reply(proxy: Proxy, asking: asyncio.Task[Any]) -> None:
    """Wait until the server has answered, and cut before the answer arrives."""
    swallowed = proxy.swallowed
    await wait_until(lambda: proxy.swallowed > swallowed, "the server has answered")
    proxy.refuse()  # what was swallowed may have been another answer: this one must not arrive either
    with pytest.raises(ConnectionLost):
        await asking
    proxy.restore()


async def test_a_send_whose_reply_was_lost_is_repeated_and_adds_nothing(proxy: Proxy, proxied: Address) -> None:
    async with rooms(proxied) as here, here.transport.consumer("w", ["q"], lease=15) as consumer:
        proxy.swallow_replies()
        await lose_reply(proxy, asyncio.create_task(here.transport.send([envelope("a"), envelope("b")])))

        await here.transport.send([envelope("a"), envelope("b"), envelope("c")])

        assert ids(await consumer.receive(10, suspect=True, wait=0)) == ["a", "b", "c"]


async def test_a_repeated_send_adds_nothing_even_when_the_task_has_run_meanwhile(
    proxy: Proxy, proxied: Address, direct: Address
) -> None:
    async with (
        rooms(proxied) as here,
        rooms(direct) as there,
        there.transport.consumer("w", ["q"], lease=15) as consumer,
    ):
        proxy.swallow_replies()
        await lose_reply(proxy, asyncio.create_task(here.transport.send([envelope("a")])))
        (delivery,) = await consumer.receive(10, suspect=True, wait=5)
        assert await there.committer.commit([Finish(delivery, ACK)]) == [COMMITTED]

        await here.transport.send([envelope("a")])

        assert not await consumer.receive(10, suspect=True, wait=0)


async def test_a_commit_whose_reply_was_lost_has_its_answer_when_it_is_repeated(
    proxy: Proxy, proxied: Address, direct: Address
) -> None:
    async with (
        rooms(proxied) as here,
        rooms(direct) as there,
        here.transport.consumer("w", ["q"], lease=15) as consumer,
    ):
        await here.transport.send([envelope("a")])
        (delivery,) = await consumer.receive(10, suspect=True, wait=0)
        finish = Finish(delivery, record=Record("a", SUCCESS, b"4", "text/x", 4e9), envelopes=(envelope("next"),))
        await here.committer.commit([Finish(None)])  # its connection is open
        proxy.swallow_replies()
        await lose_reply(proxy, asyncio.create_task(here.committer.commit([finish])))

        async def answers() -> object:
            try:
                return await here.committer.commit([finish])
            except ConnectionLost:  # the connection for requests was cut as well, and is noticed now
                return None

        assert await wait_until(answers, "it is committed") == [COMMITTED]
        assert [each is not None and each.state for each in await there.records.get(["a"])] == [SUCCESS]
        assert ids(await consumer.receive(10, suspect=True, wait=0)) == ["next"]


async def test_what_a_lost_read_took_is_given_back_and_comes_again(proxy: Proxy, proxied: Address) -> None:
    async with rooms(proxied) as here, here.transport.consumer("w", ["q"], lease=15) as consumer:
        await here.transport.send([envelope("a"), envelope("b")])
        proxy.swallow_replies()
        reading = asyncio.create_task(consumer.receive(10, suspect=True, wait=0))
        await lose_reply(proxy, reading)

        received = await consumer.receive(10, suspect=True, wait=5)

        assert ids(received) == ["a", "b"]
        assert [(each.deaths, each.returns) for each in received] == [(0, 0), (0, 0)]
        assert await here.transport.settle([(each, ACK) for each in received]) == [True, True]


async def test_a_write_that_was_given_up_is_refused_when_it_arrives_late(direct: Address) -> None:
    async with rooms(direct) as here:
        settle = b"select is_done from aiotq.settle_line('line', 1)"
        send = b'select * from aiotq.send(\'line\', 1, \'[{"q": "q", "p": 4, "k": "a 0", "b": ""}]\')'
        assert await here.client.row(settle) == (False,)

        with pytest.raises(Exception, match="duplicate key"):
            await here.client.row(send)

        assert await here.transport.stats() == []


async def test_a_silent_server_is_given_up_in_time_and_found_again(proxy: Proxy, proxied: Address) -> None:
    async with rooms(proxied) as here, here.transport.consumer("w", ["q"], lease=15) as consumer:
        loop = asyncio.get_running_loop()
        proxy.black_hole()
        began = loop.time()
        with pytest.raises(ConnectionLost):
            await here.transport.send([envelope("a")])
        with pytest.raises(NotConnected):
            await here.transport.send([envelope("a")])
        with pytest.raises(ConnectionLost):
            await asyncio.to_thread(consumer.renew, [])
        assert loop.time() - began < 6

        proxy.restore()

        async def is_sent() -> bool:
            try:
                await here.transport.send([envelope("a")])
            except ConnectionLost:
                return False
            return True

        await wait_until(is_sent, "it is sent")
        assert ids(await consumer.receive(10, suspect=True, wait=5)) == ["a"]
