"""Delays on RabbitMQ at both ends: batches that are sent in parts; what comes early, and waits in the worker (P4)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from aiotq.backends.amqp.address import parse
from aiotq.backends.amqp.broker import AmqpBroker
from aiotq.backends.amqp.channel import Published
from aiotq.backends.amqp.connection import AmqpClient, KeptChannel
from aiotq.backends.amqp.frames import Post
from aiotq.backends.amqp.lane import Lane
from aiotq.backends.amqp.messages import outgoing
from aiotq.exceptions import ConnectionLost, NotConnected
from aiotq.wire.message import Envelope, Message, new_id

from ..proxy import Proxy
from ..servers import shared_rabbit
from ..waiting import wait_until
from .amqp_work import Work, vhost_of

#: Seconds by which messages come early here: more than the ladder's margin, less than what goes back there.
EARLY = 0.9


@pytest.fixture
def vhost() -> str:
    return shared_rabbit().vhost()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(shared_rabbit().port) as proxy:
        yield proxy


class Timed(Work):
    """An app of which it is known when each number ran first."""

    def __init__(self, url: str, **settings: Any) -> None:
        super().__init__(url, **settings)
        self.ran_at: dict[int, float] = {}

        @self.app.task(name="x.note")
        async def note(x: int) -> None:
            self.began[x] += 1
            self.ran_at.setdefault(x, time.time())

        self.note = note


async def put_early(url: str, numbers: range, due: float) -> None:
    """Put calls that are due later into their queue now."""
    calls = [outgoing(Message(new_id(), "x.note", b"[[%d],{},{}]" % x), "default", 4, due, due - 1) for x in numbers]
    async with AmqpClient(parse(url), "ladder") as client:
        channel = await KeptChannel(client, confirms=True).channel()
        assert not (await channel.publish([call.post(at, due) for at, call in enumerate(calls, 1)])).returned


async def test_what_is_early_takes_no_slot_and_nothing_waits_behind_it(vhost: str) -> None:
    work = Timed(vhost, worker_concurrency=1)
    async with work.app, work.app.worker():
        await work.works()
        due = time.time() + EARLY
        await put_early(vhost, range(20), due)
        await work.note.delay(100)
        await wait_until(lambda: len(work.ran_at) == 21, "all ran")

    assert min(work.ran_at, key=work.ran_at.__getitem__) == 100
    assert all(ran_at >= due for x, ran_at in work.ran_at.items() if x != 100)


async def test_what_is_early_on_a_connection_that_is_cut_comes_again_and_runs_once(vhost: str, proxy: Proxy) -> None:
    url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/{vhost_of(vhost)}"
    work = Timed(url, worker_lease=15.0)
    async with work.app, work.app.worker():
        await work.works()
        due = time.time() + EARLY
        await put_early(vhost, range(20), due)
        await work.note.delay(100)
        await wait_until(lambda: 100 in work.ran_at, "what came behind them ran")
        proxy.cut()
        await wait_until(lambda: len(work.ran_at) == 21, "all ran")
        await work.works()

    assert {x: count for x, count in work.began.items() if x != 21} == dict.fromkeys([*range(20), 100], 1)
    assert all(ran_at >= due for x, ran_at in work.ran_at.items() if x != 100)


async def test_a_connection_lost_between_parts_of_a_delayed_batch_is_no_nothing_was_sent(
    vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its caller would hear that none of it is in the broker."""
    batch = [Envelope(Message(new_id(), "x.note", b"[[1],{},{}]"), "default", due=time.time() + 60) for _ in range(500)]
    publish = Lane.publish
    sent: list[int] = []

    async def at_most_once(channel: Lane, posts: Sequence[Post]) -> Published:
        if sent:
            raise NotConnected("it was cut")
        sent.append(len(posts))
        return await publish(channel, posts)

    async with AmqpClient(parse(vhost), "test") as client:
        transport = AmqpBroker(client)
        monkeypatch.setattr(Lane, "publish", at_most_once)
        with pytest.raises(ConnectionLost, match="it was cut") as raised:
            await transport.send(batch)
        stats = await transport.stats()

    assert not isinstance(raised.value, NotConnected)
    assert [(each.name, each.delayed) for each in stats] == [("aiotq.delay", sent[0])]
    assert 0 < sent[0] < len(batch)
