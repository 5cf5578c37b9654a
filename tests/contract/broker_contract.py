"""The contract of a broker as tests: subclass these in a test module whose fixtures give a harness."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiotq.testing.contracts.harness import PATIENCE
from aiotq.transport import ACK, Broker, Consumer, DeadLetter, Delivery, GiveUp, HandBack, QueueOrder, Settlement
from aiotq.transport.broker import FAIR_EVERY
from aiotq.wire.message import pack

from ..waiting import wait_until
from .harness import MakeBroker, RawTransportHarness, TransportHarness, envelope, ids, outcome_cancelled_at


async def drained(consumer: Consumer, transport: Broker) -> list[str]:
    """Receive and acknowledge all there is; return the ids in the order they came."""
    found: list[str] = []
    while batch := await consumer.receive(100, suspect=True, wait=0):
        await transport.settle([(delivery, ACK) for delivery in batch])
        found += ids(batch)
    return found


async def only(consumer: Consumer) -> Delivery:
    """Receive the one message there is."""
    (delivery,) = await consumer.receive(10, suspect=True, wait=PATIENCE)
    return delivery


async def only_one(consumer: Consumer) -> Delivery:
    """Receive one of the messages there are."""
    (delivery,) = await consumer.receive(1, suspect=True, wait=PATIENCE)
    return delivery


class HurryContract:
    """What is delayed and is to come earlier."""

    async def test_a_delayed_message_can_be_made_due(self, broker: TransportHarness) -> None:
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

    async def test_what_is_ready_can_be_looked_at_and_stays(self, broker: TransportHarness) -> None:
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

    async def test_what_is_delayed_can_be_listed_and_taken_out(self, broker: TransportHarness) -> None:
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


class OrderContract:
    """What comes first."""

    async def test_messages_of_one_priority_come_in_the_order_they_were_sent(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope(f"{n}") for n in range(5)])
        await transport.send([envelope(f"{n}") for n in range(5, 10)])

        assert await drained(consumer, transport) == [f"{n}" for n in range(10)]

    async def test_priority_nine_comes_before_zero(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope(f"{n}", priority=n) for n in (4, 0, 9, 2, 7)])

        received = await consumer.receive(10, suspect=True, wait=0)

        assert ids(received) == ["9", "7", "4", "2", "0"]
        assert [delivery.priority for delivery in received] == [9, 7, 4, 2, 0]

    async def test_the_lowest_priority_is_not_starved_by_a_backlog_of_high_ones(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope("low", priority=0)])
        await transport.send([envelope(f"{n}", priority=9) for n in range(2 * FAIR_EVERY)])

        found: list[str] = []
        for _ in range(FAIR_EVERY):
            found += ids(await consumer.receive(1, suspect=True, wait=0))

        assert "low" in found
        assert found[0] == "0"

    async def test_what_was_handed_back_comes_before_newer_and_higher_ones(self, broker: TransportHarness) -> None:
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

    async def test_queues_take_turns_in_being_first(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "a", "b")
        await transport.send([envelope(f"{name}{n}", name) for name in "ab" for n in range(10)])

        found = [ids(await consumer.receive(1, suspect=True, wait=0))[0][0] for _ in range(6)]

        assert sorted(found) == ["a", "a", "a", "b", "b", "b"]

    async def test_a_queue_is_first_as_often_as_its_weight_says(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        order = QueueOrder({"a": 3, "b": 2})
        consumer = await broker.consumer(transport, "worker", "a", "b", "c", order=order)
        await transport.send([envelope(f"{name}{n}", name) for name in "abc" for n in range(12)])

        found = [ids(await consumer.receive(1, suspect=True, wait=0))[0][0] for _ in range(12)]

        assert sorted(found[:6]) == sorted(found[6:]) == ["a", "a", "a", "b", "b", "c"]

    async def test_what_large_reads_take_is_shared_by_weight_too(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "a", "b", "c", order=QueueOrder({"a": 2}))
        await transport.send([envelope(f"{name}{n}", name) for name in "abc" for n in range(60)])

        found: list[str] = []
        for limit in (7, 1, 20, 3, 9, 2, 2, 11, 15, 10):
            found += [each[0] for each in ids(await consumer.receive(limit, suspect=True, wait=0))]

        assert 30 <= found.count("a") <= 50
        assert min(found.count("b"), found.count("c")) >= 10

    async def test_queues_beside_an_empty_one_share_its_turns(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        order = QueueOrder({"a": 1000, "b": 2})
        consumer = await broker.consumer(transport, "worker", "a", "b", "c", order=order)
        await transport.send([envelope(f"{name}{n}", name) for name in "bc" for n in range(12)])

        found = [ids(await consumer.receive(1, suspect=True, wait=0))[0][0] for _ in range(12)]
        await transport.send([envelope(f"a{n}", "a") for n in range(12)])
        found += [ids(await consumer.receive(1, suspect=True, wait=0))[0][0] for _ in range(3)]

        assert (found[:12].count("b"), found[:12].count("c")) == (8, 4)
        assert "a" in found[12:]

    async def test_a_queue_without_messages_leaves_its_turns_to_others(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "a", "b", order=QueueOrder({"a": 1000}))
        await transport.send([envelope(f"{n}", "b") for n in range(3)])

        assert await drained(consumer, transport) == ["0", "1", "2"]

    async def test_priority_comes_before_the_turns_of_queues(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "a", "b", order=QueueOrder({"a": 3}))
        await transport.send([envelope("low", "a", priority=3), envelope("high", "b", priority=8)])

        assert ids(await consumer.receive(10, suspect=True, wait=0)) == ["high", "low"]

    async def test_in_strict_order_a_queue_comes_only_after_all_of_those_before_it(
        self, broker: TransportHarness
    ) -> None:
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

    async def test_in_strict_order_one_read_goes_on_with_the_next_queue(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "a", "b", order=QueueOrder(is_strict=True))
        await transport.send([envelope("b", "b", priority=9), envelope("a", "a", priority=0), envelope("b2", "b")])

        assert ids(await consumer.receive(10, suspect=True, wait=0)) == ["a", "b", "b2"]

    async def test_a_consumer_gets_nothing_of_other_queues(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "mine")
        await transport.send([envelope("other", "theirs"), envelope("own", "mine")])

        assert await drained(consumer, transport) == ["own"]

    async def test_a_consumer_reads_other_queues_once_it_is_told_to(self, broker: TransportHarness) -> None:
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

    async def test_a_waiting_read_is_woken_by_a_message_in_a_queue_that_was_added(
        self, broker: TransportHarness
    ) -> None:
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
        self, broker: TransportHarness
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

    async def test_no_more_than_the_limit_is_taken(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport, "worker", "a", "b")
        await transport.send([envelope(f"{name}{n}", name, priority=n) for name in "ab" for n in range(10)])

        received = await consumer.receive(3, suspect=True, wait=0)

        assert len(received) == 3
        if broker.is_fencing:
            assert sum(stats.leased for stats in await transport.stats()) == 3

    async def test_a_message_comes_as_it_was_sent(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        sent = envelope("whole", priority=6, attempt=2, body=bytes(range(256)))
        await transport.send([sent])

        delivery = await only(consumer)

        assert delivery.message == sent.message
        assert (delivery.queue, delivery.priority) == ("q", 6)
        assert (delivery.deaths, delivery.charges, delivery.returns) == (0, 0, 0)


class WaitingContract:
    """When a read returns."""

    async def test_an_empty_queue_answers_at_once_when_asked_not_to_wait(self, broker: TransportHarness) -> None:
        consumer = await broker.consumer(await broker.connect())

        assert list(await consumer.receive(10, suspect=True, wait=0)) == []

    async def test_a_read_ends_empty_when_nothing_came_in_time(self, broker: TransportHarness) -> None:
        consumer = await broker.consumer(await broker.connect())

        async with asyncio.timeout(PATIENCE):
            assert list(await consumer.receive(10, suspect=True, wait=0.05)) == []

    async def test_a_waiting_read_is_woken_by_a_message_from_another_connection(self, broker: TransportHarness) -> None:
        sender = await broker.connect()
        consumer = await broker.consumer(await broker.connect())

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(consumer.receive(10, suspect=True, wait=60))
            await broker.pass_time(0.02)  # it waits by now, most likely; if not, the test is only weaker
            await sender.send([envelope("new")])
            async with asyncio.timeout(PATIENCE):
                received = await reading

        assert ids(received) == ["new"]

    async def test_a_waiting_read_is_woken_by_what_another_hands_back(self, broker: TransportHarness) -> None:
        other = await broker.connect()
        consumer = await broker.consumer(await broker.connect(), "waiting")
        await other.send([envelope("returned")])
        delivery = await only(await broker.consumer(other, "handing back"))

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(consumer.receive(10, suspect=True, wait=60))
            await broker.pass_time(0.02)
            await other.settle([(delivery, HandBack())])
            async with asyncio.timeout(PATIENCE):
                received = await reading

        assert ids(received) == ["returned"]

    async def test_a_waiting_read_is_woken_though_others_have_room_and_do_not_read(
        self, broker: TransportHarness
    ) -> None:
        other = await broker.connect()
        for number in range(4):  # each took all that there was, and had room for more
            await other.send([envelope(f"held {number}")])
            await only(await broker.consumer(other, f"holding {number}"))
        consumer = await broker.consumer(await broker.connect(), "waiting")

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(consumer.receive(10, suspect=True, wait=60))
            await broker.pass_time(0.02)
            await other.send([envelope("next")])
            async with asyncio.timeout(PATIENCE):
                received = await reading

        assert ids(received) == ["next"]

    async def test_one_message_wakes_many_readers_and_is_one_delivery(self, broker: TransportHarness) -> None:
        sender = await broker.connect()
        consumers = [await broker.consumer(await broker.connect(), f"worker-{n}") for n in range(3)]

        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(each.receive(10, suspect=True, wait=1.0)) for each in consumers]
            await broker.pass_time(0.02)
            await sender.send([envelope("one")])

        assert [ids(read.result()) for read in reading if read.result()] == [["one"]]

    async def test_a_read_cancelled_at_any_point_loses_nothing(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        for turns in range(0, 40, 2):
            reading = asyncio.create_task(consumer.receive(1, suspect=True, wait=60))
            for _ in range(turns // 2):
                await asyncio.sleep(0)
            await transport.send([envelope(f"kept-{turns}")])
            for _ in range(turns):
                await asyncio.sleep(0)

            reading.cancel()
            (read,) = await asyncio.gather(reading, return_exceptions=True)

            if not isinstance(read, BaseException):
                assert ids(read) == [f"kept-{turns}"]
                await transport.settle([(read[0], HandBack())])
            delivery = await only(consumer)
            assert (delivery.message.id, delivery.deaths) == (f"kept-{turns}", 0)
            assert await transport.settle([(delivery, ACK)]) == [True]

    @pytest.mark.parametrize("sent_at", ["before", "while waiting"])
    async def test_a_read_cancelled_at_any_await_loses_nothing(self, broker: TransportHarness, sent_at: str) -> None:
        transport = await broker.connect()
        for number in range(1, 100):
            name = f"{number}"
            async with transport.consumer(name, ["q"], lease=broker.lease) as consumer:
                if sent_at == "before":
                    await transport.send([envelope(name)])

                async def read(consumer: Consumer = consumer) -> Sequence[Delivery]:
                    return await consumer.receive(1, suspect=True, wait=PATIENCE)

                async with asyncio.TaskGroup() as group:
                    reading = group.create_task(outcome_cancelled_at(number, read()))
                    if sent_at == "while waiting":
                        await asyncio.sleep(0)
                        await transport.send([envelope(name)])
                received = reading.result()

                delivery = await only(consumer) if received is None else received[0]
                assert (delivery.message.id, delivery.deaths) == (name, 0)
                assert await transport.settle([(delivery, ACK)]) == [True]
            if received is not None:
                return
        pytest.fail("a read has no end of suspensions")


class DelayContract:
    """What is due later."""

    async def test_a_delayed_message_is_never_early(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        due = broker.now() + 0.3
        await transport.send([envelope("later", due=due)])
        assert not await consumer.receive(10, suspect=True, wait=0)

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(consumer.receive(10, suspect=True, wait=60))
            await broker.pass_time(0.1)
            assert not reading.done() or broker.now() >= due  # sending may take its time
            await broker.pass_time(0.25)
            async with asyncio.timeout(PATIENCE):
                received = await reading

        assert ids(received) == ["later"]
        assert broker.now() >= due

    async def test_delayed_messages_come_in_the_order_of_their_due_times(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        now = broker.now()
        await transport.send([envelope(f"{n}", due=now + n / 10) for n in (3, 1, 2)])

        await broker.pass_time(0.35)

        assert await drained(consumer, transport) == ["1", "2", "3"]

    async def test_an_earlier_due_message_wakes_a_read_that_waits_for_a_later_one(
        self, broker: TransportHarness
    ) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(await broker.connect())
        await transport.send([envelope("far", due=broker.now() + 1000)])

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(consumer.receive(10, suspect=True, wait=60))
            await broker.pass_time(0.02)
            await transport.send([envelope("near", due=broker.now() + 0.1)])
            await broker.pass_time(0.15)
            async with asyncio.timeout(PATIENCE):
                received = await reading

        assert ids(received) == ["near"]

    async def test_a_due_time_that_is_past_means_now(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)

        await transport.send([envelope("late", due=broker.now() - 100)])

        assert ids(await consumer.receive(10, suspect=True, wait=0)) == ["late"]

    async def test_what_is_handed_back_with_a_delay_comes_when_it_is_over(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope("parked", priority=7)])
        delivery = await only(consumer)
        before = broker.now()

        assert await transport.settle([(delivery, HandBack(0.2))]) == [True]

        assert not await consumer.receive(10, suspect=True, wait=0)
        await broker.pass_time(0.25)
        again = await only(consumer)
        assert broker.now() >= before + 0.2
        assert (again.message.id, again.priority, again.returns, again.deaths) == ("parked", 7, 1, 0)


class RepetitionContract:
    """Sending what resembles another."""

    async def test_a_higher_attempt_of_the_same_id_is_another_message(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)

        await transport.send([envelope("a"), envelope("a", attempt=1)])

        received = await consumer.receive(10, suspect=True, wait=0)
        assert [delivery.message.key for delivery in received] == [("a", 0), ("a", 1)]

    async def test_a_message_that_was_acknowledged_may_be_sent_again(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope("a")])
        assert await drained(consumer, transport) == ["a"]

        await transport.send([envelope("a")])

        assert await drained(consumer, transport) == ["a"]


class IdempotenceContract:
    """Sending twice, where the broker knows its messages."""

    @pytest.mark.parametrize("due_in", [None, 1000.0])
    async def test_a_repeated_send_adds_nothing(self, broker: TransportHarness, due_in: float | None) -> None:
        transport = await broker.connect()
        due = None if due_in is None else broker.now() + due_in
        batch = [envelope("a", due=due), envelope("b", due=due)]
        await transport.send(batch)

        await transport.send([*batch, envelope("c", due=due)])
        await (await broker.connect()).send(batch)

        (stats,) = await transport.stats()
        assert stats.ready + stats.delayed == 3

    async def test_the_same_message_twice_in_one_batch_is_one(self, broker: TransportHarness) -> None:
        transport = await broker.connect()

        await transport.send([envelope("a"), envelope("a")])

        (stats,) = await transport.stats()
        assert stats.ready == 1

    async def test_a_message_that_is_held_is_not_added_again(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope("a")])
        delivery = await only(consumer)

        await transport.send([envelope("a")])

        assert not await consumer.receive(10, suspect=True, wait=0)
        assert await transport.settle([(delivery, ACK)]) == [True]


class LeaseContract:
    """Whose a delivery is."""

    async def test_a_delivery_is_settled_once(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope("a"), envelope("b")])
        first, second = await consumer.receive(10, suspect=True, wait=0)

        assert await transport.settle([(first, ACK)]) == [True]

        assert await transport.settle([(first, ACK), (second, ACK)]) == [False, True]
        assert await transport.settle([(second, HandBack())]) == [False]
        assert not await consumer.receive(10, suspect=True, wait=0)

    async def test_who_lost_a_lease_settles_nothing_and_who_has_it_does(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        await transport.send([envelope("stray")])
        stale = await only(await broker.consumer(transport, "dead"))
        other = await broker.connect()
        alive = await broker.consumer(other, "alive")
        await broker.reclaimed(alive, 1)

        for settlement in (ACK, HandBack(), HandBack(5.0), GiveUp("unwanted")):
            assert await transport.settle([(stale, settlement)]) == [False]

        fresh = await only(alive)
        assert fresh.message.id == "stray"
        assert await transport.settle([(stale, ACK)]) == [False]
        assert await other.settle([(fresh, ACK)]) == [True]
        assert not await transport.dead_letters()

    async def test_a_renewed_lease_outlives_several_leases(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        holding = await broker.consumer(transport, "holding")
        reclaiming = await broker.consumer(await broker.connect(), "reclaiming")
        await transport.send([envelope("long")])
        delivery = await only(holding)

        for _ in range(12):
            await broker.pass_time(broker.lease / 4)
            assert list(await asyncio.to_thread(holding.renew, [delivery])) == []
            assert await reclaiming.reclaim() == 0

        assert await transport.settle([(delivery, ACK)]) == [True]

    async def test_what_a_consumer_held_whose_process_is_gone_comes_back_before_its_lease_ends(
        self, broker: TransportHarness
    ) -> None:
        if not broker.is_fencing:
            return  # its broker sees itself that a connection is gone
        transport = await broker.connect()
        killed = await broker.consumer(transport, "killed#1")
        alive = await broker.consumer(await broker.connect(), "alive#1")
        namesake = await broker.consumer(await broker.connect(), "killed#12")
        await transport.send([envelope("lost"), envelope("held"), envelope("kept")])
        lost, held, kept = await only_one(killed), await only_one(alive), await only_one(namesake)

        assert await alive.reclaim(["killed#1", "nobody"]) == 1
        again = await only(alive)

        assert (again.message.id, again.deaths) == (lost.message.id, 1)
        assert await transport.settle([(each, ACK) for each in (lost, again, held, kept)]) == [False, True, True, True]

    async def test_leaving_hands_back_first_in_the_queue_and_kills_nobody(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        staying = await broker.consumer(await broker.connect(), "staying")
        await transport.send([envelope(f"{n}") for n in range(3)])
        async with transport.consumer("leaving", ["q"], lease=broker.lease) as leaving:
            held = await leaving.receive(10, suspect=True, wait=0)
            await transport.settle([(held[1], ACK)])
            await transport.send([envelope("newer", priority=9)])

        received = await staying.receive(10, suspect=True, wait=PATIENCE)

        assert ids(received) == ["0", "2", "newer"]
        assert [delivery.deaths for delivery in received] == [0, 0, 0]
        assert received[0].returns == 1
        assert await transport.settle([(held[0], ACK)]) == [False]

    async def test_a_consumer_left_by_an_exception_hands_back(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        await transport.send([envelope("a")])

        with pytest.raises(ZeroDivisionError):
            async with transport.consumer("failing", ["q"], lease=broker.lease) as failing:
                await failing.receive(10, suspect=True, wait=0)
                raise ZeroDivisionError

        assert (await only(await broker.consumer(transport))).message.id == "a"


class RenewalContract:
    """What a renewal says, where a lease is the broker's."""

    async def test_renewing_reports_what_was_lost(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        holding = await broker.consumer(transport, "holding")
        alive = await broker.consumer(await broker.connect(), "alive")
        await transport.send([envelope("stray")])
        stray = await only(holding)
        await broker.reclaimed(alive, 1)
        await transport.send([envelope("held", priority=9)])
        (settled, *_) = await holding.receive(1, suspect=True, wait=PATIENCE)
        await transport.settle([(settled, ACK)])
        await transport.send([envelope("kept", "other")])
        elsewhere = await only(await broker.consumer(transport, "elsewhere", "other"))

        lost = await asyncio.to_thread(holding.renew, [stray, settled])

        assert set(lost) == {stray, settled}
        assert await transport.settle([(elsewhere, ACK)]) == [True]


class DeathContract:
    """What deaths of holders do to what they held (P5)."""

    async def died(
        self,
        broker: TransportHarness,
        transport: Broker,
        reaper: Consumer,
        *wanted: str,
    ) -> tuple[Consumer, list[Delivery]]:
        """Let a worker take all it may, find it holding `wanted`, and have it die."""
        doomed = await broker.consumer(transport, f"doomed-{id(object())}-{broker.now()}")
        held = list(await doomed.receive(10, suspect=True, wait=PATIENCE))
        assert sorted(ids(held)) == sorted(wanted)
        await broker.reclaimed(reaper, len(held))
        return doomed, held

    async def test_the_first_death_marks_all_that_was_held_and_all_runs_again(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        alive = await broker.consumer(await broker.connect(), "alive")
        await transport.send([envelope("a"), envelope("b")])

        await self.died(broker, transport, alive, "a", "b")

        received = await alive.receive(10, suspect=False, wait=PATIENCE)
        assert ids(received) == ["a", "b"]
        assert [(each.deaths, each.charges, each.is_suspect) for each in received] == [(1, 0, False)] * 2

    async def test_a_read_brings_one_suspect_at_most_and_none_when_one_runs(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        alive = await broker.consumer(await broker.connect(), "alive")
        await transport.send([envelope("a"), envelope("b")])
        await self.died(broker, transport, alive, "a", "b")
        await self.died(broker, transport, alive, "a", "b")
        await transport.send([envelope("normal")])

        received = await alive.receive(10, suspect=False, wait=PATIENCE)
        assert ids(received) == ["normal"]

        (suspect,) = await alive.receive(10, suspect=True, wait=PATIENCE)
        assert suspect.is_suspect
        assert not await alive.receive(10, suspect=False, wait=0)
        (other,) = await alive.receive(10, suspect=True, wait=PATIENCE)
        assert {suspect.message.id, other.message.id} == {"a", "b"}

    async def test_suspects_in_two_queues_come_one_at_a_time(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        alive = await broker.consumer(await broker.connect(), "alive", "a", "b")
        await transport.send([envelope("1", "a"), envelope("2", "b")])
        for n in range(2):
            doomed = await broker.consumer(transport, f"doomed-{n}", "a", "b")
            assert len(await doomed.receive(10, suspect=True, wait=PATIENCE)) == 2
            await broker.reclaimed(alive, 2)

        found = ids([await only(alive), await only(alive)])

        assert sorted(found) == ["1", "2"]

    async def test_a_poison_message_is_found_and_its_neighbours_are_never_charged(
        self, broker: TransportHarness
    ) -> None:
        transport = await broker.connect()
        alive = await broker.consumer(await broker.connect(), "alive")
        await transport.send([envelope("poison"), envelope("innocent")])
        await self.died(broker, transport, alive, "poison", "innocent")
        await self.died(broker, transport, alive, "poison", "innocent")
        suspects = [await only(alive), await only(alive)]
        innocent = next(each for each in suspects if each.message.id == "innocent")
        assert (innocent.deaths, innocent.charges) == (2, 0)
        poison = next(each for each in suspects if each.message.id == "poison")
        assert await settle_renewed(transport, alive, innocent, ACK)
        assert await settle_renewed(transport, alive, poison, HandBack())

        await transport.send([envelope("neighbour")])
        await self.died(broker, transport, alive, "poison", "neighbour")
        (neighbour,) = await alive.receive(10, suspect=False, wait=PATIENCE)
        assert (neighbour.message.id, neighbour.deaths, neighbour.charges) == ("neighbour", 1, 0)
        await transport.settle([(neighbour, ACK)])
        await self.died(broker, transport, alive, "poison")

        poison = await only(alive)
        assert (poison.message.id, poison.deaths, poison.charges) == ("poison", 4, 2)
        await transport.settle([(poison, GiveUp("poison", "2 workers died"))])
        (letter,) = await transport.dead_letters()
        assert (letter.reason, letter.deaths, letter.queue) == ("poison", 4, "q")

    async def test_a_death_with_two_suspects_in_flight_is_charged_to_neither(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        alive = await broker.consumer(await broker.connect(), "alive")
        await transport.send([envelope("a"), envelope("b")])
        await self.died(broker, transport, alive, "a", "b")
        await self.died(broker, transport, alive, "a", "b")
        careless = await broker.consumer(transport, "careless")
        await only(careless)
        await only(careless)

        await broker.reclaimed(alive, 2)

        received = [await only(alive), await only(alive)]
        assert [(each.deaths, each.charges) for each in received] == [(3, 0), (3, 0)]

    async def test_a_holder_that_comes_back_takes_back_the_death(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        alive = await broker.consumer(await broker.connect(), "alive")
        await transport.send([envelope("a")])
        sleeper, held = await self.died(broker, transport, alive, "a")

        assert list(await asyncio.to_thread(sleeper.renew, held)) == held

        assert (await only(alive)).deaths == 0

    async def test_a_holder_that_comes_back_takes_back_the_charge(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        alive = await broker.consumer(await broker.connect(), "alive")
        await transport.send([envelope("a")])
        await self.died(broker, transport, alive, "a")
        await self.died(broker, transport, alive, "a")
        sleeper, held = await self.died(broker, transport, alive, "a")
        charged = await only(alive)
        assert (charged.deaths, charged.charges) == (3, 1)
        await settle_renewed(transport, alive, charged, HandBack())

        await asyncio.to_thread(sleeper.renew, held)

        again = await only(alive)
        assert (again.deaths, again.charges) == (2, 0)

    async def test_a_wrongly_suspected_message_is_no_suspect_when_its_holder_comes_back(
        self, broker: TransportHarness
    ) -> None:
        transport = await broker.connect()
        alive = await broker.consumer(await broker.connect(), "alive")
        await transport.send([envelope("a")])
        await self.died(broker, transport, alive, "a")
        sleeper, held = await self.died(broker, transport, alive, "a")
        assert not await alive.receive(10, suspect=False, wait=0)

        await asyncio.to_thread(sleeper.renew, held)

        (delivery,) = await alive.receive(10, suspect=False, wait=PATIENCE)
        assert delivery.deaths == 1

    async def test_finishing_clears_what_a_message_was_charged_with(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        alive = await broker.consumer(await broker.connect(), "alive")
        await transport.send([envelope("a")])
        await self.died(broker, transport, alive, "a")
        assert await drained(alive, transport) == ["a"]

        await transport.send([envelope("a")])

        assert (await only(alive)).deaths == 0


async def settle_renewed(transport: Broker, holder: Consumer, delivery: Delivery, how: Settlement) -> bool:
    """Settle what `holder` holds, renewed as a worker does: earlier steps may have used up its lease."""
    await asyncio.to_thread(holder.renew, [delivery])
    (is_settled,) = await transport.settle([(delivery, how)])
    return is_settled


class DeadLetterContract:
    """What was given up."""

    async def given_up(self, broker: TransportHarness, transport: Broker, *wanted: str, queue: str = "q") -> None:
        consumer = await broker.consumer(transport, f"giving-up-{broker.now()}-{wanted}", queue)
        for task_id in wanted:
            await transport.send([envelope(task_id, queue, priority=3, body=b"[[1],{},{}]")])
            delivery = await only(consumer)
            assert await transport.settle([(delivery, GiveUp("unwanted", f"nobody wants {task_id}"))]) == [True]
            await broker.pass_time(0.005)

    async def test_the_newest_dead_letters_are_listed_first(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        await self.given_up(broker, transport, "a", "b", "c")
        await self.given_up(broker, transport, "d", queue="other")

        listed = await transport.dead_letters("q")

        assert [letter.message.id for letter in listed if letter.message] == ["c", "b", "a"]
        assert [letter.key for letter in await transport.dead_letters("q", limit=2)] == [
            letter.key for letter in listed[:2]
        ]
        assert len(await transport.dead_letters()) == 4
        assert {stats.name: stats.dead for stats in await transport.stats()} == {"q": 3, "other": 1}

    async def test_a_dead_letter_says_what_it_was_and_why_it_died(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        await self.given_up(broker, transport, "a")

        (letter,) = await transport.dead_letters()

        sent = envelope("a", body=b"[[1],{},{}]").message
        assert (letter.queue, letter.priority, letter.message) == ("q", 3, sent)
        assert (letter.reason, letter.detail) == ("unwanted", "nobody wants a")
        assert abs(letter.died_at - broker.now()) < 60
        assert letter.raw == pack(sent)

    async def test_a_dead_letter_is_found_by_its_key_and_by_its_task(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        await self.given_up(broker, transport, "a", "b")
        (letter,) = [each for each in await transport.dead_letters() if each.message and each.message.id == "a"]

        assert await transport.dead_letter(letter.key) == letter
        assert await transport.dead_letter("a") == letter
        assert await transport.dead_letter("unheard-of") is None

    async def test_a_dead_letter_is_replayed_once_with_nothing_to_its_name(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope("a", priority=3)])
        await only(consumer)
        elsewhere = await broker.connect()
        other = await broker.consumer(elsewhere, "other")
        await broker.reclaimed(other, 1)
        delivery = await only(other)
        assert delivery.deaths == (1 if broker.is_fencing else 0)
        assert await elsewhere.settle([(delivery, GiveUp("unwanted"))]) == [True]
        (letter,) = await transport.dead_letters()

        assert await transport.replay([letter.key]) == 1
        assert await transport.replay([letter.key, "unheard-of"]) == 0

        again = await only(consumer)
        assert (again.message, again.queue, again.priority) == (delivery.message, "q", 3)
        assert (again.deaths, again.charges) == (0, 0)
        if broker.is_fencing:  # elsewhere what was pushed to one who does not read counts as returned
            assert again.returns == 0
        assert not await transport.dead_letters()

    async def test_dead_letters_of_another_broker_are_added_as_they_are(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        message = envelope("a").message
        old, young = broker.now() - 200, broker.now() - 100
        letters = [
            DeadLetter("x", "q", 7, message, pack(message), "rejected", "because", old, 2),
            DeadLetter("y", "q", 4, None, b"\xff junk", "malformed", "no message", young, 0),
        ]

        await transport.bury([])
        await transport.bury(letters)

        found = list(await transport.dead_letters("q"))
        assert [(each.reason, each.detail, each.deaths) for each in found] == [
            ("malformed", "no message", 0),
            ("rejected", "because", 2),
        ]
        assert [each.died_at for each in found] == pytest.approx([young, old], abs=0.01)
        assert (found[0].message, found[0].raw) == (None, b"\xff junk")
        assert (found[1].message, found[1].priority) == (message, 7)

    async def test_dead_letters_are_deleted_by_queue_by_age_and_by_key(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        await self.given_up(broker, transport, "old")
        await self.given_up(broker, transport, "other", queue="other")
        (old,) = await transport.dead_letters("q")
        await broker.pass_time(0.02)
        await self.given_up(broker, transport, "new")

        assert await transport.purge_dead("q", before=old.died_at + 0.01) == 1
        assert [letter.message.id for letter in await transport.dead_letters("q") if letter.message] == ["new"]
        assert await transport.remove_dead([old.key, "unheard-of"]) == 0
        assert await transport.purge_dead("q") == 1
        (other,) = await transport.dead_letters()
        assert await transport.remove_dead([other.key]) == 1
        assert not await transport.dead_letters()


class StatsContract:
    """What stands in the queues."""

    async def test_every_message_is_counted_where_it_stands(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope(f"{n}") for n in range(6)])
        await transport.send([envelope(f"d{n}", due=broker.now() + 1000 + n) for n in range(4)])
        await transport.send([envelope("elsewhere", "other")])
        first, second, _ = await consumer.receive(3, suspect=True, wait=0)
        await transport.settle([(first, ACK), (second, GiveUp("unwanted"))])

        stats = {each.name: each for each in await (await broker.connect()).stats()}

        assert set(stats) == {"q", "other"}
        q = stats["q"]
        assert (q.ready, q.leased, q.delayed, q.dead) == (3, 1, 4, 1)
        assert (stats["other"].ready, stats["other"].leased) == (1, 0)
        assert [each.name for each in await transport.stats(["other"])] == ["other"]

    async def test_a_queue_that_holds_nothing_is_shown_when_asked_for(self, broker: TransportHarness) -> None:
        transport = await broker.connect()

        assert list(await transport.stats()) == []
        (stats,) = await transport.stats(["empty"])
        assert (stats.name, stats.ready, stats.leased, stats.delayed, stats.dead) == ("empty", 0, 0, 0, 0)
        assert stats.oldest_age is None

    async def test_what_has_become_due_counts_as_ready(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        await transport.send([envelope("a", due=broker.now() + 0.05)])

        await broker.pass_time(0.1)

        (stats,) = await transport.stats()
        assert (stats.ready, stats.delayed) == (1, 0)

    async def test_the_age_of_the_oldest_ready_message_grows(self, broker: TransportHarness) -> None:
        transport = await broker.connect()
        await transport.send([envelope("a")])
        await broker.pass_time(0.2)
        await transport.send([envelope("b", priority=9)])

        (stats,) = await transport.stats()

        assert stats.oldest_age is not None
        assert stats.oldest_age >= 0.19

    async def test_purging_deletes_what_is_ready_or_delayed_and_not_what_is_held(
        self, broker: TransportHarness
    ) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope(f"{n}") for n in range(4)])
        await transport.send([envelope("later", due=broker.now() + 1000), envelope("kept", "other")])
        held, returned = await consumer.receive(2, suspect=True, wait=0)
        await transport.settle([(returned, HandBack())])

        assert await transport.purge("q") == 4
        assert await transport.purge("unheard-of") == 0

        assert {each.name: (each.ready, each.leased) for each in await transport.stats()} == {
            "q": (0, 1),
            "other": (1, 0),
        }
        assert await transport.settle([(held, ACK)]) == [True]
        await transport.send([envelope("1")])
        assert await drained(consumer, transport) == ["1"]


class RawContract:
    """What can't be read (P5)."""

    @pytest.mark.parametrize(
        "junk",
        [b"", b"\x00", b"junk", b"\xff" * 64, pack(envelope("cut").message)[:9], b"\x00\x00\x00\x02[]body"],
    )
    async def test_junk_becomes_a_dead_letter_and_its_neighbours_are_delivered(
        self, raw_broker: RawTransportHarness, junk: bytes
    ) -> None:
        transport = await raw_broker.connect()
        consumer = await raw_broker.consumer(transport)
        await transport.send([envelope("before")])
        await raw_broker.insert_raw("q", junk)
        await transport.send([envelope("after")])

        assert await drained(consumer, transport) == ["before", "after"]

        (letter,) = await transport.dead_letters()
        assert letter.message is None
        assert letter.raw == junk
        assert letter.queue == "q"
        assert letter.reason
        assert letter.detail
        assert await transport.replay([letter.key]) == 0
        assert await transport.dead_letter(letter.key) == letter

    async def test_a_read_that_finds_only_junk_goes_on_waiting(self, raw_broker: RawTransportHarness) -> None:
        transport = await raw_broker.connect()
        consumer = await raw_broker.consumer(transport)
        await raw_broker.insert_raw("q", b"junk")

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(consumer.receive(10, suspect=True, wait=60))
            await wait_until(transport.dead_letters, "the junk is a dead letter")
            await transport.send([envelope("good")])
            async with asyncio.timeout(PATIENCE):
                received = await reading

        assert ids(received) == ["good"]


Step = tuple[str, int]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 4)),
        st.tuples(st.just("receive"), st.integers(1, 5)),
        st.tuples(st.sampled_from(["acknowledge", "hand back", "give up", "settle stale"]), st.integers(0, 9)),
        st.tuples(st.sampled_from(["leave", "die"]), st.just(0)),
    ),
    max_size=30,
)


class LawContract:
    """What holds after any sequence of events."""

    def test_nothing_is_lost_and_nothing_is_held_twice(self, make_broker: MakeBroker) -> None:
        @settings(max_examples=make_broker.examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(steps)
        def check(sequence: list[Step]) -> None:
            with tempfile.TemporaryDirectory() as directory:
                asyncio.run(self.follow(make_broker.make(Path(directory)), sequence))

        check()

    async def follow(self, broker: TransportHarness, sequence: list[Step]) -> None:
        async with broker:
            model = _Model(broker, await broker.connect())
            await model.replace_consumer()
            for what, number in sequence:
                await model.step(what, number)
            await model.check_end()


def _share(n: int) -> tuple[str, float] | None:
    """Whose message `n` is: half of them have no key."""
    return (f"{n % 3}", 1.0 + n % 2) if n % 4 < 2 else None


class _Model:
    """Each message is waiting, held by one, done or dead; a worker at a time comes and goes."""

    def __init__(self, broker: TransportHarness, transport: Broker) -> None:
        self.broker = broker
        self.transport = transport
        self.sent = 0
        self.workers = 0
        self.waiting: set[str] = set()
        self.held: dict[str, Delivery] = {}
        self.stale: list[Delivery] = []
        self.done: set[str] = set()
        self.dead: set[str] = set()

    async def replace_consumer(self) -> None:
        self.workers += 1
        self.consumer = await self.broker.consumer(self.transport, f"worker-{self.workers}", "q")

    async def step(self, what: str, number: int) -> None:
        match what:
            case "send":
                numbers = range(self.sent, self.sent + number)
                batch = [envelope(f"{n}", priority=n % 10, share=_share(n)) for n in numbers]
                self.sent += number
                self.waiting |= {each.message.id for each in batch}
                await self.transport.send(batch)
            case "receive":
                await self.receive(number)
            case "die":
                await self.broker.reclaimed(self.consumer, len(self.held))
                self.let_go()
            case "leave":
                await self.leave()
            case "settle stale" if self.stale:
                stale = self.stale[number % len(self.stale)]
                assert await self.transport.settle([(stale, ACK)]) == [False]
            case "acknowledge" | "hand back" | "give up" if self.held:
                await self.settle(what, number)
        (stats,) = await self.transport.stats(["q"])
        assert (stats.leased, stats.dead) == (len(self.held), len(self.dead))
        if self.broker.is_fencing:
            assert stats.ready == len(self.waiting)

    async def receive(self, limit: int) -> None:
        for delivery in await self.consumer.receive(limit, suspect=True, wait=0):
            self.waiting.remove(delivery.message.id)  # a KeyError: it is held twice, or it was done
            self.held[delivery.message.id] = delivery

    async def settle(self, what: str, number: int) -> None:
        delivery = list(self.held.values())[number % len(self.held)]
        task_id = delivery.message.id
        fates: dict[str, tuple[Settlement, set[str]]] = {
            "acknowledge": (ACK, self.done),
            "hand back": (HandBack(), self.waiting),
            "give up": (GiveUp("unwanted"), self.dead),
        }
        how, fate = fates[what]
        await asyncio.to_thread(self.consumer.renew, list(self.held.values()))
        assert await self.transport.settle([(delivery, how)]) == [True]
        fate.add(task_id)
        self.stale.append(self.held.pop(task_id))

    async def leave(self) -> None:
        async with self.transport.consumer("visitor", ["q"], lease=self.broker.lease) as visitor:
            taken = await visitor.receive(2, suspect=True, wait=0)
            assert set(ids(taken)) <= self.waiting
        self.stale += taken

    def let_go(self) -> None:
        self.stale += self.held.values()
        self.waiting |= self.held.keys()
        self.held.clear()

    async def check_end(self) -> None:
        found = set(ids(list(self.held.values())))
        while batch := await self.consumer.receive(100, suspect=True, wait=0):
            assert not found & set(ids(batch))
            found |= set(ids(batch))
        assert found == self.waiting | self.held.keys()
        assert not self.done & found
        assert len(self.done) + len(self.dead) + len(found) == self.sent


class BrokerContract(
    OrderContract,
    WaitingContract,
    DelayContract,
    HurryContract,
    RepetitionContract,
    LeaseContract,
    DeadLetterContract,
    LawContract,
):
    """All that every broker keeps."""


class FencingContract(IdempotenceContract, RenewalContract, DeathContract, StatsContract):
    """What those keep beside, that know leases, and each message by its id."""
