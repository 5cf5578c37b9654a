"""Calls of one queue that have keys take turns by key, on every broker that can do that."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiotq.testing.contracts.broker_harness import envelope, ids
from aiotq.testing.contracts.harness import PATIENCE
from aiotq.transport import ACK, Broker, Consumer, HandBack

from ..waiting import wait_until
from .conftest import FENCING, TRANSPORTS
from .harness import TransportHarness


@pytest.fixture(params=FENCING)
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TransportHarness]:
    async with TRANSPORTS[request.param](tmp_path) as harness:
        yield harness


async def taken(consumer: Consumer, transport: Broker, at_once: int = 3) -> list[str]:
    """Take and acknowledge all there is, some at a time; return the ids in the order they came."""
    found: list[str] = []
    while batch := await consumer.receive(at_once, suspect=True, wait=0):
        await transport.settle([(delivery, ACK) for delivery in batch])
        found += ids(batch)
    return found


async def test_keys_take_turns_by_their_weights_whatever_came_first(broker: TransportHarness) -> None:
    transport = await broker.connect()
    consumer = await broker.consumer(transport)
    await transport.send([envelope(f"flood {n}", share=("flood", 1.0)) for n in range(30)])
    await transport.send([envelope(f"heavy {n}", share=("heavy", 0.5)) for n in range(8)])
    await transport.send([envelope(f"b {n}", share=("b", 1.0)) for n in range(4)])
    await transport.send([envelope("urgent", priority=9, share=("flood", 1.0))])
    (stats,) = await transport.stats(["q"])

    assert (stats.ready, stats.leased) == (43, 0)
    assert len(await transport.ready("q")) == 43
    order = await taken(consumer, transport)

    assert order[0] == "urgent"
    assert len(set(order)) == len(order) == 43
    assert [each for each in order if each.startswith("flood")] == [f"flood {n}" for n in range(30)]
    assert Counter(each.split()[0] for each in order[1:19])["heavy"] == 8  # twice as often, and each other key once
    assert Counter(each.split()[0] for each in order[1:19])["b"] >= 3
    assert (await transport.stats(["q"]))[0].ready == 0


async def test_a_key_that_comes_late_does_not_wait_for_the_flood_before_it(broker: TransportHarness) -> None:
    transport = await broker.connect()
    consumer = await broker.consumer(transport)
    await transport.send([envelope(f"flood {n}", share=("flood", 1.0)) for n in range(40)])
    batch = await consumer.receive(10, suspect=True, wait=PATIENCE)
    await transport.settle([(delivery, ACK) for delivery in batch])
    late = envelope("late", share=("late", 1.0))
    await transport.send([late])
    await transport.send([late])  # sent again, it is added once

    order = await taken(consumer, transport, 1)

    assert order.index("late") <= 2
    assert order.count("late") == 1
    assert len(order) == 31


async def test_plain_messages_and_those_with_keys_take_turns(broker: TransportHarness) -> None:
    transport = await broker.connect()
    consumer = await broker.consumer(transport)
    await transport.send([envelope(f"plain {n}") for n in range(12)])
    await transport.send([envelope(f"key {n}", share=(f"{n}", 1.0)) for n in range(12)])

    for limit in (1, 1, 4, 3, 3):
        batch = await consumer.receive(limit, suspect=True, wait=0)
        assert len(batch) == limit
        await transport.settle([(delivery, ACK) for delivery in batch])

    left = Counter(each.message.id.split()[0] for each in await transport.ready("q"))
    assert left == {"plain": 6, "key": 6}
    assert len(await taken(consumer, transport, 5)) == 12


async def test_what_is_handed_back_comes_first_and_what_was_delayed_takes_its_turn(broker: TransportHarness) -> None:
    transport = await broker.connect()
    consumer = await broker.consumer(transport)
    await transport.send([envelope(f"flood {n}", due=broker.now() + 0.2, share=("flood", 1.0)) for n in range(5)])
    await transport.send([envelope("late", due=broker.now() + 0.3, share=("late", 1.0))])
    await broker.pass_time(0.4)

    async def all_due() -> bool:
        return (await transport.stats(["q"]))[0].ready == 6

    await wait_until(all_due, "all are due")

    (first,) = await consumer.receive(1, suspect=True, wait=PATIENCE)
    await transport.settle([(first, HandBack())])
    (again,) = await consumer.receive(1, suspect=True, wait=PATIENCE)
    assert (again.message.id, again.returns) == (first.message.id, 1)
    await transport.settle([(again, HandBack(0.1))])
    await broker.pass_time(0.2)
    order = await taken(consumer, transport, 1)
    assert order.index("late") <= 2
    assert sorted(order) == ["flood 0", "flood 1", "flood 2", "flood 3", "flood 4", "late"]


async def test_purging_takes_what_waits_by_key(broker: TransportHarness) -> None:
    transport = await broker.connect()
    consumer = await broker.consumer(transport)
    await transport.send([envelope(f"flood {n}", share=("flood", 1.0)) for n in range(20)])
    assert await transport.purge("q") == 20
    await transport.send([envelope("flood 0", share=("flood", 1.0)), envelope("b", share=("b", 1.0))])

    assert sorted(await taken(consumer, transport, 1)) == ["b", "flood 0"]
