"""Replies of a Redis that never come: what was asked is done once, and whoever asked is told in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiotq import AsyncResult
from aiotq.backends.redis.address import parse
from aiotq.backends.redis.broker import RedisBroker
from aiotq.backends.redis.commit import COMMIT, RedisCommitter
from aiotq.backends.redis.connection import RedisClient
from aiotq.backends.redis.envelopes import packed_envelopes
from aiotq.backends.redis.idempotent import SETTLE_LINE
from aiotq.backends.redis.ledger import RedisLedger
from aiotq.backends.redis.messages import CANCEL_FETCH, FETCH, SEND
from aiotq.backends.redis.records import RedisRecords
from aiotq.commit import COMMITTED, Finish
from aiotq.exceptions import ConnectionLost, OperationalError, PublishTimeout
from aiotq.results import Arrival, Join, JoinChanges, Record
from aiotq.transport import ACK, Delivery
from aiotq.wire.message import Envelope, Message

from ..proxy import Proxy
from ..servers import shared
from ..waiting import wait_until
from .redis_work import Work, fresh_prefix, warnings

#: A request without an answer costs one second here, and not ten.
HASTY = "&reply_timeout=0.5&connect_timeout=0.5"
#: Seconds by which a busy machine may be late; the usual timeouts are longer.
SLACK = 3.0


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before the shared server."""
    port = int(shared("redis").url.rsplit(":", 1)[1].partition("/")[0])
    with Proxy(port) as proxy:
        yield proxy


class Rooms:
    """Broker, store and commit of one process, behind a proxy."""

    def __init__(self, client: RedisClient) -> None:
        self.client = client
        self.transport = RedisBroker(client)
        self.records = RedisRecords(client)
        self.ledger = RedisLedger(client, self.records)
        self.committer = RedisCommitter(self.transport, self.ledger)


@asynccontextmanager
async def rooms(url: str, prefix: str) -> AsyncIterator[Rooms]:
    async with RedisClient(parse(f"{url}?prefix={prefix}{HASTY}")) as client:
        made = Rooms(client)
        async with made.transport, made.records, made.ledger:
            yield made


@pytest.fixture
def prefix() -> str:
    return fresh_prefix()


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


async def test_a_send_whose_reply_was_lost_is_repeated_and_adds_nothing(proxy: Proxy, prefix: str) -> None:
    async with rooms(proxy.url, prefix) as here, here.transport.consumer("w", ["q"], lease=15) as consumer:
        proxy.swallow_replies()
        sending = asyncio.create_task(here.transport.send([envelope("a"), envelope("b")]))
        await lose_reply(proxy, sending)

        await here.transport.send([envelope("a"), envelope("b"), envelope("c")])

        assert ids(await consumer.receive(10, suspect=True, wait=0)) == ["a", "b", "c"]


async def test_a_repeated_send_adds_nothing_even_when_the_task_has_run_meanwhile(proxy: Proxy, prefix: str) -> None:
    direct = shared("redis").url
    async with (
        rooms(proxy.url, prefix) as here,
        rooms(direct, prefix) as there,
        there.transport.consumer("w", ["q"], lease=15) as consumer,
    ):
        proxy.swallow_replies()
        sending = asyncio.create_task(here.transport.send([envelope("a")]))
        await lose_reply(proxy, sending)
        (delivery,) = await consumer.receive(10, suspect=True, wait=5)
        assert await there.committer.commit([Finish(delivery, ACK)]) == [COMMITTED]

        await here.transport.send([envelope("a")])

        assert await consumer.receive(10, suspect=True, wait=0) == ()


async def test_calls_through_a_connection_that_swallows_replies_run_once(proxy: Proxy, prefix: str) -> None:
    """The same through the public API: the publisher repeats, the worker elsewhere has run it long ago."""
    caller = Work(proxy.url, prefix, HASTY)
    worker = Work(shared("redis").url, prefix)
    async with caller.app, worker.app, worker.app.worker():
        await caller.double.delay(0)
        proxy.swallow_replies()
        calls = [asyncio.create_task(caller.double.delay(x)) for x in range(1, 20)]
        await wait_until(lambda: len(worker.began) == 20, "all have run")
        proxy.restore()
        proxy.cut()
        results = [await call for call in calls]

        assert [await result.get(timeout=10) for result in results] == [2 * x for x in range(1, 20)]
    assert set(worker.began.values()) == {1}


async def test_a_commit_whose_reply_was_lost_answers_as_the_first_time(proxy: Proxy, prefix: str) -> None:
    async with rooms(proxy.url, prefix) as here, here.transport.consumer("w", ["q"], lease=15) as consumer:
        join = Join("j", 2, (envelope("then"),), patience=3600.0)
        await here.ledger.open_joins([join])
        await here.transport.send([envelope("a"), envelope("b")])
        a, b = await consumer.receive(10, suspect=True, wait=0)
        await here.committer.commit([Finish(b, ACK)])
        group = [
            Finish(
                a,
                ACK,
                Record("a", "SUCCESS", b"4", "application/json", 4_000_000_000),
                joining=JoinChanges(arrivals=(Arrival("j", "0"),)),
                envelopes=(envelope("next"),),
            ),
            Finish(b, ACK, envelopes=(envelope("not this"),)),  # its lease is gone
        ]
        proxy.swallow_replies()
        committing = asyncio.create_task(here.committer.commit(group))
        await lose_reply(proxy, committing)
        (next_one,) = await _taken_elsewhere(prefix)

        answers = await here.committer.commit(group)

        assert [answer == COMMITTED for answer in answers] == [True, False]
        assert next_one == "next"
        assert await consumer.receive(10, suspect=True, wait=0) == (), "what followed was sent once"
        with shared("redis").client() as client:
            assert client.hkeys(f"{{{prefix}}}:join:j:in") == [b"0"]


async def _taken_elsewhere(prefix: str) -> list[str]:
    """Run what is in the queue, as another process would."""
    async with rooms(shared("redis").url, prefix) as there, there.transport.consumer("o", ["q"], lease=15) as consumer:
        taken = await consumer.receive(10, suspect=True, wait=5)
        await there.committer.commit([Finish(delivery, ACK) for delivery in taken])
        return ids(taken)


@pytest.mark.parametrize("kind", ["send", "commit"])
async def test_a_write_that_was_given_up_is_refused_when_it_arrives_late(prefix: str, kind: str) -> None:
    """It stood in the buffers of a connection that was given up: the server was asked, and had not seen it."""
    arguments = {"send": [0, 1000, packed_envelopes([envelope("a")])], "commit": [0, 1000, []]}
    async with rooms(shared("redis").url, prefix) as here:
        assert await here.client.run(SETTLE_LINE, ["line", 1]) == [0, b""]

        with pytest.raises(OperationalError, match="given up by its sender"):
            await here.client.run(SEND if kind == "send" else COMMIT, ["line", 1, *arguments[kind]])

        assert (await here.transport.stats(["q"]))[0].ready == 0


async def test_asking_what_became_of_a_write_may_go_wrong_as_well(proxy: Proxy, prefix: str) -> None:
    async with rooms(proxy.url, prefix) as here:
        await here.transport.send([envelope("before")])
        proxy.black_hole()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await here.transport.send([envelope("a")])
        proxy.cut()
        proxy.restore()
        await wait_until(lambda: _answers(here), "there is a connection again")
        proxy.swallow_replies()
        sending = asyncio.create_task(here.transport.send([envelope("a")]))
        await lose_reply(proxy, sending)
        await wait_until(lambda: _answers(here), "there is a connection again")

        await here.transport.send([envelope("a")])

        assert (await here.transport.stats(["q"]))[0].ready == 2


async def _answers(here: Rooms) -> bool:
    try:
        await here.transport.stats(["q"])
    except ConnectionLost:
        return False
    return True


async def test_a_read_whose_reply_was_lost_gives_back_what_it_took_and_charges_nobody(
    proxy: Proxy, prefix: str
) -> None:
    async with (
        rooms(proxy.url, prefix) as here,
        rooms(shared("redis").url, prefix) as there,
        here.transport.consumer("w", ["q"], lease=15) as consumer,
    ):
        await consumer.receive(10, suspect=True, wait=0)  # the server has the script
        await there.transport.send([envelope("a"), envelope("b")])
        proxy.swallow_replies()
        reading = asyncio.create_task(consumer.receive(10, suspect=True, wait=0))
        await lose_reply(proxy, reading)
        assert (await there.transport.stats(["q"]))[0].leased == 2

        deliveries = await consumer.receive(10, suspect=True, wait=0)

        assert ids(deliveries) == ["a", "b"]
        assert [(each.deaths, each.returns) for each in deliveries] == [(0, 1), (0, 1)]


async def test_a_read_that_was_cancelled_gives_back_what_it_took(prefix: str) -> None:
    async with rooms(shared("redis").url, prefix) as here, here.transport.consumer("w", ["q"], lease=15) as consumer:
        await here.transport.send([envelope("a")])
        reading = asyncio.create_task(consumer.receive(10, suspect=True, wait=0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

        assert ids(await consumer.receive(10, suspect=True, wait=5)) == ["a"]


async def test_a_read_that_was_given_up_takes_nothing_when_it_arrives_late(prefix: str) -> None:
    async with rooms(shared("redis").url, prefix) as here:
        await here.transport.send([envelope("a")])
        await here.client.run(CANCEL_FETCH, ["consumer", 5, 15_000, "process/1", ["q"]])

        with pytest.raises(OperationalError, match="given up by its consumer"):
            await here.client.run(FETCH, ["consumer", 5, "process/1", 10, True, False, False, 15_000, ["q"]])

        (stats,) = await here.transport.stats(["q"])
        assert (stats.ready, stats.leased) == (1, 0)


# Silence


async def test_in_a_black_hole_calls_are_told_in_time_and_work_resumes_after_it(
    proxy: Proxy, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(proxy.url, prefix, HASTY, task_publish_timeout=0.4, worker_lease=3.0)
    loop = asyncio.get_running_loop()
    async with work.app, work.app.worker():
        held = [await work.hold.delay(x) for x in range(3)]
        waiting = [asyncio.create_task(result.get(timeout=30)) for result in held]
        await wait_until(lambda: len(work.began) == 3, "they run")
        proxy.black_hole()
        began = loop.time()
        with pytest.raises(PublishTimeout) as first:
            await work.double.delay(5)
        assert loop.time() - began < 0.4 + SLACK
        assert first.value.maybe_sent, "it was written to a connection that stood"
        await wait_until(lambda: warnings(caplog, "requests) was lost"), "the connection is torn down")
        began = loop.time()
        with pytest.raises(PublishTimeout) as second:
            await work.double.delay(6)
        assert loop.time() - began < 0.4 + SLACK
        assert not second.value.maybe_sent, "there was no connection"
        work.gate.set()  # they finish in the dark
        await wait_until(lambda: warnings(caplog, "committing finished tasks failed"), "their commit fails")
        proxy.restore()

        assert await asyncio.gather(*waiting) == [0, 2, 4]
        await work.works()
    assert [work.began[x] for x in range(3)] == [1, 1, 1]
    assert work.began[6] == 0


async def test_a_black_hole_of_ten_seconds_is_survived_with_the_default_timeouts(
    proxy: Proxy, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(proxy.url, prefix)
    async with work.app, work.app.worker():
        held = await work.hold.delay(1)
        waiting = asyncio.create_task(held.get(timeout=60))
        await wait_until(lambda: work.began[1], "it runs")
        proxy.black_hole()
        with pytest.raises(PublishTimeout):
            await work.double.delay(5)
        work.gate.set()
        await asyncio.sleep(5)
        proxy.restore()

        assert await waiting == 2
        await work.works()
    assert work.began[1] == 1


async def test_an_idle_connection_that_hears_nothing_is_torn_down(
    proxy: Proxy, prefix: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks for anything: a push that can't come must not be waited for."""
    monkeypatch.setattr("aiotq.backends.redis.connection._QUIET", 0.3)
    monkeypatch.setattr("aiotq.core.net.kept._CHECK", 0.1)
    caller = Work(proxy.url, prefix, HASTY)
    worker = Work(shared("redis").url, prefix)
    async with caller.app, worker.app, worker.app.worker():
        result = await caller.hold.delay(1)
        waiting = asyncio.create_task(result.get(timeout=30))
        await wait_until(lambda: worker.began[1], "it runs")
        proxy.black_hole()
        worker.gate.set()
        await wait_until(lambda: warnings(caplog, "pushes) was lost"), "the silence is noticed")
        proxy.restore()

        assert await waiting == 2


async def test_connections_that_are_cut_again_and_again_lose_and_repeat_nothing(proxy: Proxy, prefix: str) -> None:
    work = Work(proxy.url, prefix)
    async with work.app, work.app.worker():

        async def cut_often() -> None:
            for _ in range(5):
                await asyncio.sleep(0.15)
                proxy.cut()

        cutting = asyncio.create_task(cut_often())
        results: list[AsyncResult[int]] = []
        while not cutting.done():
            results.append(await work.double.delay(len(results)))
        values = await asyncio.gather(*(result.get(timeout=20) for result in results))

    assert values == [2 * x for x in range(len(results))]
    assert len(work.began) == len(results)
