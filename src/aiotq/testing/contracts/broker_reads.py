"""The contract of a broker: when a read returns, what is due later, what resembles another, what can't be read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ...transport import ACK, Consumer, Delivery, HandBack
from ...wire.message import pack
from .broker_harness import BrokerHarness, RawBrokerHarness, drained, envelope, ids, only, outcome_cancelled_at
from .harness import PATIENCE


class WaitingContract:
    """When a read returns."""

    async def test_an_empty_queue_answers_at_once_when_asked_not_to_wait(self, broker: BrokerHarness) -> None:
        consumer = await broker.consumer(await broker.connect())

        assert list(await consumer.receive(10, suspect=True, wait=0)) == []

    async def test_a_read_ends_empty_when_nothing_came_in_time(self, broker: BrokerHarness) -> None:
        consumer = await broker.consumer(await broker.connect())

        async with asyncio.timeout(PATIENCE):
            assert list(await consumer.receive(10, suspect=True, wait=0.05)) == []

    async def test_a_waiting_read_is_woken_by_a_message_from_another_connection(self, broker: BrokerHarness) -> None:
        sender = await broker.connect()
        consumer = await broker.consumer(await broker.connect())

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(consumer.receive(10, suspect=True, wait=60))
            await broker.pass_time(0.02)  # it waits by now, most likely; if not, the test is only weaker
            await sender.send([envelope("new")])
            async with asyncio.timeout(PATIENCE):
                received = await reading

        assert ids(received) == ["new"]

    async def test_a_waiting_read_is_woken_by_what_another_hands_back(self, broker: BrokerHarness) -> None:
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

    async def test_a_waiting_read_is_woken_though_others_have_room_and_do_not_read(self, broker: BrokerHarness) -> None:
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

    async def test_one_message_wakes_many_readers_and_is_one_delivery(self, broker: BrokerHarness) -> None:
        sender = await broker.connect()
        consumers = [await broker.consumer(await broker.connect(), f"worker-{n}") for n in range(3)]

        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(each.receive(10, suspect=True, wait=1.0)) for each in consumers]
            await broker.pass_time(0.02)
            await sender.send([envelope("one")])

        assert [ids(read.result()) for read in reading if read.result()] == [["one"]]

    async def test_a_read_cancelled_at_any_point_loses_nothing(self, broker: BrokerHarness) -> None:
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

    @pytest.mark.parametrize("sent_at", ["before", "before, by key", "while waiting"])
    async def test_a_read_cancelled_at_any_await_loses_nothing(self, broker: BrokerHarness, sent_at: str) -> None:
        transport = await broker.connect()
        share = ("key", 1.0) if sent_at == "before, by key" else None
        for number in range(1, 100):
            name = f"{number}"
            async with transport.consumer(name, ["q"], lease=broker.lease) as consumer:
                if sent_at != "while waiting":
                    await transport.send([envelope(name, share=share)])

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

    async def test_a_delayed_message_is_never_early(self, broker: BrokerHarness) -> None:
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

    async def test_delayed_messages_come_in_the_order_of_their_due_times(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        now = broker.now()
        await transport.send([envelope(f"{n}", due=now + n / 10) for n in (3, 1, 2)])

        await broker.pass_time(0.35)

        assert await drained(consumer, transport) == ["1", "2", "3"]

    async def test_an_earlier_due_message_wakes_a_read_that_waits_for_a_later_one(self, broker: BrokerHarness) -> None:
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

    async def test_a_due_time_that_is_past_means_now(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)

        await transport.send([envelope("late", due=broker.now() - 100)])

        assert ids(await consumer.receive(10, suspect=True, wait=0)) == ["late"]

    async def test_what_is_handed_back_with_a_delay_comes_when_it_is_over(self, broker: BrokerHarness) -> None:
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

    async def test_a_higher_attempt_of_the_same_id_is_another_message(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)

        await transport.send([envelope("a"), envelope("a", attempt=1)])

        received = await consumer.receive(10, suspect=True, wait=0)
        assert [delivery.message.key for delivery in received] == [("a", 0), ("a", 1)]

    async def test_a_message_that_was_acknowledged_may_be_sent_again(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope("a")])
        assert await drained(consumer, transport) == ["a"]

        await transport.send([envelope("a")])

        assert await drained(consumer, transport) == ["a"]


class IdempotenceContract:
    """Sending twice, where the broker knows its messages."""

    @pytest.mark.parametrize("due_in", [None, 1000.0])
    async def test_a_repeated_send_adds_nothing(self, broker: BrokerHarness, due_in: float | None) -> None:
        transport = await broker.connect()
        due = None if due_in is None else broker.now() + due_in
        batch = [envelope("a", due=due), envelope("b", due=due)]
        await transport.send(batch)

        await transport.send([*batch, envelope("c", due=due)])
        await (await broker.connect()).send(batch)

        (stats,) = await transport.stats()
        assert stats.ready + stats.delayed == 3

    async def test_the_same_message_twice_in_one_batch_is_one(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()

        await transport.send([envelope("a"), envelope("a")])

        (stats,) = await transport.stats()
        assert stats.ready == 1

    async def test_a_message_that_is_held_is_not_added_again(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope("a")])
        delivery = await only(consumer)

        await transport.send([envelope("a")])

        assert not await consumer.receive(10, suspect=True, wait=0)
        assert await transport.settle([(delivery, ACK)]) == [True]


class RawContract:
    """What can't be read (P5)."""

    @pytest.mark.parametrize(
        "junk",
        [b"", b"\x00", b"junk", b"\xff" * 64, pack(envelope("cut").message)[:9], b"\x00\x00\x00\x02[]body"],
    )
    async def test_junk_becomes_a_dead_letter_and_its_neighbours_are_delivered(
        self, raw_broker: RawBrokerHarness, junk: bytes
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

    async def test_a_read_that_finds_only_junk_goes_on_waiting(self, raw_broker: RawBrokerHarness) -> None:
        transport = await raw_broker.connect()
        consumer = await raw_broker.consumer(transport)
        await raw_broker.insert_raw("q", b"junk")

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(consumer.receive(10, suspect=True, wait=60))
            async with asyncio.timeout(PATIENCE):
                while not await transport.dead_letters():  # noqa: ASYNC110  # a broker tells nobody of them
                    await asyncio.sleep(0.01)
            await transport.send([envelope("good")])
            async with asyncio.timeout(PATIENCE):
                received = await reading

        assert ids(received) == ["good"]
