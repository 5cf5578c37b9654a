"""Readers of one Redis beside each other: who is chosen for news and can't come, who leaves, who was thought dead."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from typing import Any

import pytest

from aiotq.backends.redis.address import parse
from aiotq.backends.redis.connection import RedisClient
from aiotq.backends.redis.ledger import RedisLedger
from aiotq.core.clock import SystemClock
from aiotq.exceptions import OperationalError
from aiotq.results import HeldElsewhere
from aiotq.transport import Delivery, HandBack
from aiotq.transport.broker import Consumer
from aiotq.wire.message import Envelope, Message

from ..servers import RedisServer, shared
from ..waiting import wait_until
from .redis_work import Work, fresh_prefix, send_junk
from .test_redis_lost_replies import Rooms, rooms

#: Seconds in which a push brings a message; the slow look of a consumer comes never here.
PUSHED = 15.0


@pytest.fixture(autouse=True)
def _no_slow_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotq.backends.redis.consumer._SAFETY_INTERVAL", 3600.0)


@pytest.fixture
def prefix() -> str:
    return fresh_prefix()


def envelope(task_id: str, queue: str = "q") -> Envelope:
    return Envelope(Message(task_id, "x.add", b"[]"), queue)


def here(prefix: str) -> Any:
    return rooms(shared("redis").url, prefix)


def reading(consumer: Consumer) -> asyncio.Task[Sequence[Delivery]]:
    return asyncio.create_task(consumer.receive(1, suspect=True, wait=30))


async def begun(prefix: str, queue: str, waiters: int) -> None:
    """Return when so many consumers wait for news of `queue`."""
    with shared("redis").client() as client:
        key = f"{{{prefix}}}:q:{queue}:waiting"
        await wait_until(lambda: client.scard(key) >= waiters, f"{waiters} wait for news of {queue}")


async def server_is_up() -> None:
    """Return when the server is not in its first second, in which nobody counts as dead."""
    with shared("redis").client() as client:
        await wait_until(lambda: client.info("server")["uptime_in_seconds"] >= 1, "the server is a second old")


async def seconds_until_read(sender: Rooms, consumer: Consumer, prefix: str, queue: str = "q") -> float:
    """Return how long `consumer`, which waits, takes to have a message that is sent now."""
    read = reading(consumer)
    await begun(prefix, queue, 1)
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await sender.transport.send([envelope(f"m{began}", queue)])
    await read
    return time.monotonic() - began


# News


async def test_who_reads_no_more_is_not_chosen_for_news_of_its_other_queues(prefix: str) -> None:
    async with (
        here(prefix) as one,
        here(prefix) as other,
        one.transport.consumer("busy", ["q1", "q"], lease=15) as busy,
        other.transport.consumer("idle", ["q"], lease=15) as idle,
    ):
        read = reading(busy)
        await begun(prefix, "q1", 1)
        await other.transport.send([envelope("long", "q1")])
        assert await read  # and it has no free slot now

        for _ in range(3):
            assert await seconds_until_read(one, idle, prefix) < PUSHED


async def test_a_cancelled_read_is_not_chosen_for_news(prefix: str) -> None:
    async with (
        here(prefix) as one,
        here(prefix) as other,
        one.transport.consumer("stops", ["q"], lease=15) as stops,
        other.transport.consumer("idle", ["q"], lease=15) as idle,
    ):
        read = reading(stops)
        await begun(prefix, "q", 1)
        read.cancel()
        await asyncio.wait([read])

        for _ in range(3):
            assert await seconds_until_read(one, idle, prefix) < PUSHED


async def test_a_consumer_that_leaves_has_another_one_look_for_what_it_was_chosen_for(prefix: str) -> None:
    async with here(prefix) as one, here(prefix) as other, other.transport.consumer("i", ["q"], lease=15) as idle:
        async with one.transport.consumer("leaves", ["q"], lease=15) as leaves:
            read = reading(leaves)
            await begun(prefix, "q", 1)
            leaves._stop_hearing[0]()  # it is chosen, and ends before it looks
            await other.transport.send([envelope("a")])
            waiting = reading(idle)
            read.cancel()
            await asyncio.wait([read])
        async with asyncio.timeout(PUSHED):
            assert await waiting


async def test_a_consumer_that_leaves_keeps_no_news_from_another_one_of_its_process(prefix: str) -> None:
    async with here(prefix) as one, here(prefix) as other, one.transport.consumer("stays", ["q"], lease=15) as stays:
        async with one.transport.consumer("leaves", ["q"], lease=15):
            read = reading(stays)
            await begun(prefix, "q", 1)
        began = time.monotonic()
        await other.transport.send([envelope("a")])
        assert await read
        assert time.monotonic() - began < PUSHED


async def test_a_cancelled_read_gives_back_at_once_what_it_took(prefix: str) -> None:
    async with here(prefix) as one, one.transport.consumer("stops", ["q"], lease=15) as stops:
        await one.transport.send([envelope("a")])
        read = reading(stops)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read

        (stats,) = await one.transport.stats(["q"])
        assert (stats.ready, stats.leased) == (1, 0)


# Deaths


async def test_a_consumer_that_leaves_is_to_blame_for_no_death(prefix: str) -> None:
    """It was suspended for longer than its lease, and told to stop as soon as it went on."""
    await server_is_up()
    async with here(prefix) as one, one.transport.consumer("other", ["q"], lease=15) as other:
        async with one.transport.consumer("late", ["q"], lease=0.05) as late:
            await one.transport.send([envelope("a")])
            assert await late.receive(1, suspect=True, wait=1)
            await asyncio.sleep(0.1)
            assert await other.reclaim() == 1
        (delivery,) = await other.receive(1, suspect=True, wait=1)
        assert (delivery.deaths, delivery.charges) == (0, 0)


async def test_what_cannot_be_given_back_is_counted_no_death_each_time(prefix: str) -> None:
    """Something else stands where it would go to: it stays with its dead holder, and is found again and again."""
    again = f"{{{prefix}}}:q:q:a"
    await server_is_up()
    async with here(prefix) as one, one.transport.consumer("other", ["q"], lease=15) as other:
        with shared("redis").client() as client:
            async with one.transport.consumer("dead", ["q"], lease=0.05) as dead:
                await one.transport.send([envelope("a")])
                assert await dead.receive(1, suspect=True, wait=1)
                client.set(again, "something else")
                for _ in range(4):
                    await asyncio.sleep(0.06)
                    assert await other.reclaim() == 0
            client.delete(again)  # after it left, which could not give it back either
        await asyncio.sleep(0.06)

        assert await other.reclaim() == 1
        (delivery,) = await other.receive(1, suspect=True, wait=1)
        assert delivery.deaths == 1


async def test_what_is_due_and_cannot_be_moved_is_not_looked_at_in_a_loop(prefix: str) -> None:
    async with here(prefix) as one, one.transport.consumer("w", ["q"], lease=15) as consumer:
        await one.transport.send([envelope("a")])
        (delivery,) = await consumer.receive(1, suspect=True, wait=1)
        await one.transport.settle([(delivery, HandBack(0.05))])
        with shared("redis").client() as client:
            client.set(f"{{{prefix}}}:q:q:a", "something else")
            before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            assert await consumer.receive(1, suspect=True, wait=1) == ()
            after = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            client.delete(f"{{{prefix}}}:q:q:a")

        assert after - before < 20
        assert await consumer.receive(1, suspect=True, wait=5)


# Numbers


async def test_dead_letters_and_results_may_be_kept_for_longer_than_there_is_a_clock(prefix: str) -> None:
    century = 100 * 365 * 86_400.0
    for expires in (century, 1e300):
        work = Work(shared("redis").url, prefix, dead_letter_expires=expires, result_expires=expires)
        async with work.app, work.app.worker():
            await send_junk(work.app, "x.double", f"junk-{expires}")
            await work.works()
            assert await work.app.admin.dead_letters()
            await work.app.admin.queues()


async def test_a_rate_of_next_to_nothing_starts_one_task_and_stops_nobody_else(prefix: str) -> None:
    work = Work(shared("redis").url, prefix)

    @work.app.task(name="x.rare", rate_limit="0.0000000000000001/h")
    async def rare() -> int:
        return 1

    async with work.app, work.app.worker():
        first = await rare.delay()
        await rare.delay()
        assert await first.get(timeout=10) == 1
        await work.works()


async def test_how_long_a_claim_is_held_is_not_said_by_two_clocks(prefix: str) -> None:
    class Behind(SystemClock):
        """A clock that is an hour behind the server's."""

        def time(self) -> float:
            return time.time() - 3600

    clock = Behind()
    async with here(prefix) as one:
        ledger = RedisLedger(one.client, clock=clock)
        await ledger.claim([("a", 0)], "one", 15)
        (claim,) = await ledger.claim([("a", 0)], "other", 15)

    assert isinstance(claim, HeldElsewhere)
    assert claim.until - clock.time() == pytest.approx(15, abs=1)


async def test_a_thousand_leases_are_renewed_in_a_time_that_grows_with_their_number(prefix: str) -> None:
    async with here(prefix) as one, one.transport.consumer("w", ["q"], lease=60) as consumer:
        for batch in range(8):
            await one.transport.send([envelope(f"{batch}-{number}") for number in range(1000)])
        held: list[Delivery] = []
        while len(held) < 8000:
            held += await consumer.receive(8000, suspect=True, wait=1)

        began = time.thread_time()
        assert consumer.renew(held) == []
        assert time.thread_time() - began < 0.3  # it was a second and more


# The greeting


async def test_a_refused_greeting_is_heard_of_once() -> None:
    loop = asyncio.get_running_loop()
    heard: list[object] = []
    loop.set_exception_handler(lambda _, context: heard.append(context))
    with RedisServer({"requirepass": "right"}) as server:
        with pytest.raises(OperationalError, match="password"):
            async with RedisClient(parse(server.url.replace("//", "//:wrong@"))):
                pass
        gc.collect()
        await asyncio.sleep(0)
    assert heard == []
