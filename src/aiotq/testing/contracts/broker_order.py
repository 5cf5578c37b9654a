"""The contract of a broker: what comes first, and what is delayed and is to come earlier."""

from __future__ import annotations

import asyncio

from ...transport import ACK, HandBack, QueueOrder
from ...transport.broker import FAIR_EVERY
from .broker_harness import BrokerHarness, drained, envelope, ids, only, only_one
from .harness import PATIENCE


class OrderContract:
    """What comes first."""

    async def test_messages_of_one_priority_come_in_the_order_they_were_sent(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope(f"{n}") for n in range(5)])
        await transport.send([envelope(f"{n}") for n in range(5, 10)])

        assert await drained(consumer, transport) == [f"{n}" for n in range(10)]

    async def test_priority_nine_comes_before_zero(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope(f"{n}", priority=n) for n in (4, 0, 9, 2, 7)])

        received = await consumer.receive(10, suspect=True, wait=0)

        assert ids(received) == ["9", "7", "4", "2", "0"]
        assert [delivery.priority for delivery in received] == [9, 7, 4, 2, 0]

    async def test_the_lowest_priority_is_not_starved_by_a_backlog_of_high_ones(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope("low", priority=0)])
        await transport.send([envelope(f"{n}", priority=9) for n in range(2 * FAIR_EVERY)])

        found: list[str] = []
        for _ in range(FAIR_EVERY):
            found += ids(await consumer.receive(1, suspect=True, wait=0))

        assert "low" in found
        assert found[0] == "0"

    async def test_what_was_handed_back_comes_before_newer_and_higher_ones(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope("returned")])
        delivery = await only(consumer)
        await transport.send([envelope("new", priority=9)])

        assert await transport.settle([(delivery, HandBack())]) == [True]

        found = list(await consumer.receive(10, suspect=True, wait=0))
        if len(found) == 1 and broker.hands_back_later:
            found.insert(0, await only(consumer))
        assert ids(found) == ["returned", "new"]
        assert (found[0].returns, found[0].deaths) == (1, 0)

    async def test_queues_take_turns_in_being_first(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "a", "b")
        await transport.send([envelope(f"{name}{n}", name) for name in "ab" for n in range(10)])

        found = [ids(await consumer.receive(1, suspect=True, wait=0))[0][0] for _ in range(6)]

        assert sorted(found) == ["a", "a", "a", "b", "b", "b"]

    async def test_a_queue_is_first_as_often_as_its_weight_says(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        order = QueueOrder({"a": 3, "b": 2})
        consumer = await broker.consumer(transport, "worker", "a", "b", "c", order=order)
        await transport.send([envelope(f"{name}{n}", name) for name in "abc" for n in range(12)])

        found = [ids(await consumer.receive(1, suspect=True, wait=0))[0][0] for _ in range(12)]

        assert sorted(found[:6]) == sorted(found[6:]) == ["a", "a", "a", "b", "b", "c"]

    async def test_what_large_reads_take_is_shared_by_weight_too(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "a", "b", "c", order=QueueOrder({"a": 2}))
        await transport.send([envelope(f"{name}{n}", name) for name in "abc" for n in range(60)])

        found: list[str] = []
        for limit in (7, 1, 20, 3, 9, 2, 2, 11, 15, 10):
            found += [each[0] for each in ids(await consumer.receive(limit, suspect=True, wait=0))]

        assert 30 <= found.count("a") <= 50
        assert min(found.count("b"), found.count("c")) >= 10

    async def test_queues_beside_an_empty_one_share_its_turns(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        order = QueueOrder({"a": 1000, "b": 2})
        consumer = await broker.consumer(transport, "worker", "a", "b", "c", order=order)
        await transport.send([envelope(f"{name}{n}", name) for name in "bc" for n in range(12)])

        found = [ids(await consumer.receive(1, suspect=True, wait=0))[0][0] for _ in range(12)]
        await transport.send([envelope(f"a{n}", "a") for n in range(12)])
        found += [ids(await consumer.receive(1, suspect=True, wait=0))[0][0] for _ in range(3)]

        assert (found[:12].count("b"), found[:12].count("c")) == (8, 4)
        assert "a" in found[12:]

    async def test_a_queue_without_messages_leaves_its_turns_to_others(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "a", "b", order=QueueOrder({"a": 1000}))
        await transport.send([envelope(f"{n}", "b") for n in range(3)])

        assert await drained(consumer, transport) == ["0", "1", "2"]

    async def test_priority_comes_before_the_turns_of_queues(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "a", "b", order=QueueOrder({"a": 3}))
        await transport.send([envelope("low", "a", priority=3), envelope("high", "b", priority=8)])

        assert ids(await consumer.receive(10, suspect=True, wait=0)) == ["high", "low"]

    async def test_in_strict_order_a_queue_comes_only_after_all_of_those_before_it(self, broker: BrokerHarness) -> None:
        """Whatever their priorities, however often it is read, and what was handed back too."""
        transport = await broker.connect()
        order = QueueOrder({"c": 1000}, is_strict=True)
        consumer = await broker.consumer(transport, "worker", "b", "a", "c", order=order)
        await transport.send([envelope("returned", "c", priority=9)])
        delivery = await only(consumer)
        await transport.settle([(delivery, HandBack())])
        await transport.send([envelope(f"a{n}", "a", priority=n) for n in range(10)])
        await transport.send([envelope(f"b{n}", "b", priority=n) for n in range(10)])
        await transport.send([envelope(f"b.{n}", "b") for n in range(FAIR_EVERY)])

        found: list[str] = []
        while batch := await consumer.receive(2, suspect=True, wait=0):
            await transport.settle([(delivery, ACK) for delivery in batch])
            found += ids(batch)

        assert len(found) == 1 + 20 + FAIR_EVERY
        assert [name[0] for name in found] == [*"b" * (10 + FAIR_EVERY), *"a" * 10, "r"]
        assert found[0] == "b9"
        assert found[1] == "b8" or broker.has_classes

    async def test_in_strict_order_one_read_goes_on_with_the_next_queue(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "a", "b", order=QueueOrder(is_strict=True))
        await transport.send([envelope("b", "b", priority=9), envelope("a", "a", priority=0), envelope("b2", "b")])

        assert ids(await consumer.receive(10, suspect=True, wait=0)) == ["a", "b", "b2"]

    async def test_a_consumer_gets_nothing_of_other_queues(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "mine")
        await transport.send([envelope("other", "theirs"), envelope("own", "mine")])

        assert await drained(consumer, transport) == ["own"]

    async def test_a_consumer_reads_other_queues_once_it_is_told_to(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "a", "b")
        assert not await consumer.receive(10, suspect=True, wait=0)
        await consumer.read_from(["b", "c"])
        await transport.send([envelope(f"{name}1", name) for name in "abc"])

        assert sorted(await drained(consumer, transport)) == ["b1", "c1"]

        await consumer.read_from([])
        await consumer.read_from(["a"])
        await transport.send([envelope(f"{name}2", name) for name in "bc"])
        assert await drained(consumer, transport) == ["a1"]

    async def test_a_waiting_read_is_woken_by_a_message_in_a_queue_that_was_added(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "a")
        assert not await consumer.receive(10, suspect=True, wait=0.05)
        await consumer.read_from(["a", "new"])
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(consumer.receive(10, suspect=True, wait=PATIENCE))
            await asyncio.sleep(0.05)  # it waits

            await transport.send([envelope("1", "new")])

        assert ids(reading.result()) == ["1"]

    async def test_what_is_held_of_a_queue_that_is_left_is_settled_and_handed_back_as_ever(
        self, broker: BrokerHarness
    ) -> None:
        transport = await broker.connect()
        other = await broker.consumer(transport, "other", "a")
        async with transport.consumer("worker", ["a"], lease=PATIENCE) as consumer:
            await transport.send([envelope(f"{n}", "a") for n in range(3)])
            held = [await only_one(consumer) for _ in range(3)]
            await consumer.read_from(["b"])

            assert not consumer.renew(held)
            assert await transport.settle([(held[0], ACK), (held[1], HandBack())]) == [True, True]

            (back,) = await other.receive(10, suspect=True, wait=PATIENCE)
            assert back.message.id == "1"
        (left,) = await other.receive(10, suspect=True, wait=PATIENCE)
        assert (left.message.id, left.deaths) == ("2", 0)

    async def test_no_more_than_the_limit_is_taken(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "a", "b")
        await transport.send([envelope(f"{name}{n}", name, priority=n) for name in "ab" for n in range(10)])

        received = await consumer.receive(3, suspect=True, wait=0)

        assert len(received) == 3
        if broker.is_fencing:
            assert sum(stats.leased for stats in await transport.stats()) == 3

    async def test_a_message_comes_as_it_was_sent(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        sent = envelope("whole", priority=6, attempt=2, body=bytes(range(256)))
        await transport.send([sent])

        delivery = await only(consumer)

        assert delivery.message == sent.message
        assert (delivery.queue, delivery.priority) == ("q", 6)
        assert (delivery.deaths, delivery.charges, delivery.returns) == (0, 0, 0)


class HurryContract:
    """What is delayed and is to come earlier."""

    async def test_a_delayed_message_can_be_made_due(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        if not transport.can_make_due_now:
            assert list(await transport.make_due_now([("a", 0)])) == [False]
            return
        await transport.send([envelope("a"), envelope("later", due=broker.now() + 1000)])
        await transport.settle([(await only(consumer), HandBack(1000.0))])
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(consumer.receive(10, suspect=True, wait=PATIENCE))
            await asyncio.sleep(0.05)  # it waits

            assert list(await transport.make_due_now([("a", 0), ("a", 1), ("gone", 0)])) == [True, False, False]

        (back,) = reading.result()
        assert (back.message.id, back.returns) == ("a", 1)
        assert list(await transport.make_due_now([("a", 0)])) == [False]
        await transport.settle([(back, ACK)])
        assert list(await transport.make_due_now([("a", 0), ("later", 0)])) == [False, True]
        assert await drained(consumer, transport) == ["later"]

    async def test_what_is_ready_can_be_looked_at_and_stays(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        now = broker.now()
        await transport.send([envelope("held", priority=9)])
        held = await only(consumer)
        batch = [envelope("low", priority=1), envelope("high", priority=8), envelope("later", due=now + 200)]
        await transport.send([*batch, envelope("other", "other")])

        found = [(each.message.id, each.priority) for each in await transport.ready("q")]

        assert found == ([("high", 8), ("low", 1)] if transport.can_list else [])
        assert len(await transport.ready("q", limit=1)) == (1 if transport.can_list else 0)
        assert list(await transport.ready("nothing")) == []
        await transport.settle([(held, HandBack())])
        assert len(await transport.ready("q")) == (3 if transport.can_list else 0)
        assert await drained(consumer, transport) == ["held", "high", "low"]

    async def test_what_is_delayed_can_be_listed_and_taken_out(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        now = broker.now()
        batch = [
            envelope("later", due=now + 200, priority=9),
            envelope("soon", due=now + 100),
            envelope("other", "other", due=now + 1),
            envelope("ready"),
        ]
        await transport.send(batch)
        if not transport.can_make_due_now:
            assert list(await transport.delayed("q")) == []
            assert list(await transport.remove_delayed([("soon", 0)])) == [False]
            return

        listed = list(await transport.delayed("q"))

        assert [(each.message, each.priority) for each in listed] == [
            (each.message, each.priority) for each in batch[1::-1]
        ]
        assert [round((each.due or 0) - now) for each in listed] == [100, 200]
        assert [each.message.id for each in await transport.delayed("q", limit=1)] == ["soon"]
        keys = [("soon", 0), ("ready", 0), ("gone", 0), ("soon", 1)]
        assert list(await transport.remove_delayed(keys)) == [True, False, False, False]
        assert [each.message.id for each in await transport.delayed("q")] == ["later"]
        assert list(await transport.delayed("none")) == []
        await transport.send([envelope("soon")])
        assert await drained(await broker.consumer(transport), transport) == ["ready", "soon"]
