"""The contract of a broker: what was given up, and what stands in the queues."""

from __future__ import annotations

import pytest

from ...transport import ACK, Broker, DeadLetter, GiveUp, HandBack
from ...wire.message import pack
from .broker_harness import BrokerHarness, drained, envelope, only


class DeadLetterContract:
    """What was given up."""

    async def given_up(self, broker: BrokerHarness, transport: Broker, *wanted: str, queue: str = "q") -> None:
        consumer = await broker.consumer(transport, f"giving-up-{broker.now()}-{wanted}", queue)
        for task_id in wanted:
            await transport.send([envelope(task_id, queue, priority=3, body=b"[[1],{},{}]")])
            delivery = await only(consumer)
            assert await transport.settle([(delivery, GiveUp("unwanted", f"nobody wants {task_id}"))]) == [True]
            await broker.pass_time(0.005)

    async def test_the_newest_dead_letters_are_listed_first(self, broker: BrokerHarness) -> None:
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

    async def test_a_dead_letter_says_what_it_was_and_why_it_died(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        await self.given_up(broker, transport, "a")

        (letter,) = await transport.dead_letters()

        sent = envelope("a", body=b"[[1],{},{}]").message
        assert (letter.queue, letter.priority, letter.message) == ("q", 3, sent)
        assert (letter.reason, letter.detail) == ("unwanted", "nobody wants a")
        assert abs(letter.died_at - broker.now()) < 60
        assert letter.raw == pack(sent)

    async def test_a_dead_letter_is_found_by_its_key_and_by_its_task(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        await self.given_up(broker, transport, "a", "b")
        (letter,) = [each for each in await transport.dead_letters() if each.message and each.message.id == "a"]

        assert await transport.dead_letter(letter.key) == letter
        assert await transport.dead_letter("a") == letter
        assert await transport.dead_letter("unheard-of") is None

    async def test_a_dead_letter_is_replayed_once_with_nothing_to_its_name(self, broker: BrokerHarness) -> None:
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

    async def test_dead_letters_of_another_broker_are_added_as_they_are(self, broker: BrokerHarness) -> None:
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

    async def test_dead_letters_are_deleted_by_queue_by_age_and_by_key(self, broker: BrokerHarness) -> None:
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

    async def test_every_message_is_counted_where_it_stands(self, broker: BrokerHarness) -> None:
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

    async def test_a_queue_that_holds_nothing_is_shown_when_asked_for(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()

        assert list(await transport.stats()) == []
        (stats,) = await transport.stats(["empty"])
        assert (stats.name, stats.ready, stats.leased, stats.delayed, stats.dead) == ("empty", 0, 0, 0, 0)
        assert stats.oldest_age is None

    async def test_what_has_become_due_counts_as_ready(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        await transport.send([envelope("a", due=broker.now() + 0.05)])

        await broker.pass_time(0.1)

        (stats,) = await transport.stats()
        assert (stats.ready, stats.delayed) == (1, 0)

    async def test_the_age_of_the_oldest_ready_message_grows(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        await transport.send([envelope("a")])
        await broker.pass_time(0.2)
        await transport.send([envelope("b", priority=9)])

        (stats,) = await transport.stats()

        assert stats.oldest_age is not None
        assert stats.oldest_age >= 0.19

    async def test_purging_deletes_what_is_ready_or_delayed_and_not_what_is_held(self, broker: BrokerHarness) -> None:
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
