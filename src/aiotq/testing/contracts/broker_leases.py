"""The contract of a broker: whose a delivery is, and what deaths of holders do to what they held (P2, P5)."""

from __future__ import annotations

import asyncio

import pytest

from ...transport import ACK, Broker, Consumer, Delivery, GiveUp, HandBack, Settlement
from .broker_harness import BrokerHarness, drained, envelope, ids, only, only_one
from .harness import PATIENCE


class LeaseContract:
    """Whose a delivery is."""

    async def test_a_delivery_is_settled_once(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        consumer = await broker.consumer(transport)
        await transport.send([envelope("a"), envelope("b")])
        first, second = await consumer.receive(10, suspect=True, wait=0)

        assert await transport.settle([(first, ACK)]) == [True]

        assert await transport.settle([(first, ACK), (second, ACK)]) == [False, True]
        assert await transport.settle([(second, HandBack())]) == [False]
        assert not await consumer.receive(10, suspect=True, wait=0)

    async def test_who_lost_a_lease_settles_nothing_and_who_has_it_does(self, broker: BrokerHarness) -> None:
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

    async def test_a_renewed_lease_outlives_several_leases(self, broker: BrokerHarness) -> None:
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
        self, broker: BrokerHarness
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

    async def test_leaving_hands_back_first_in_the_queue_and_kills_nobody(self, broker: BrokerHarness) -> None:
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

    async def test_a_consumer_left_by_an_exception_hands_back(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        await transport.send([envelope("a")])

        with pytest.raises(ZeroDivisionError):  # noqa: PT012  # it leaves the consumer by an exception
            async with transport.consumer("failing", ["q"], lease=broker.lease) as failing:
                await failing.receive(10, suspect=True, wait=0)
                raise ZeroDivisionError

        assert (await only(await broker.consumer(transport))).message.id == "a"


class RenewalContract:
    """What a renewal says, where a lease is the broker's."""

    async def test_renewing_reports_what_was_lost(self, broker: BrokerHarness) -> None:
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
        broker: BrokerHarness,
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

    async def test_the_first_death_marks_all_that_was_held_and_all_runs_again(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        alive = await broker.consumer(await broker.connect(), "alive")
        await transport.send([envelope("a"), envelope("b")])

        await self.died(broker, transport, alive, "a", "b")

        received = await alive.receive(10, suspect=False, wait=PATIENCE)
        assert ids(received) == ["a", "b"]
        assert [(each.deaths, each.charges, each.is_suspect) for each in received] == [(1, 0, False)] * 2

    async def test_a_read_brings_one_suspect_at_most_and_none_when_one_runs(self, broker: BrokerHarness) -> None:
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

    async def test_suspects_in_two_queues_come_one_at_a_time(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        alive = await broker.consumer(await broker.connect(), "alive", "a", "b")
        await transport.send([envelope("1", "a"), envelope("2", "b")])
        for n in range(2):
            doomed = await broker.consumer(transport, f"doomed-{n}", "a", "b")
            assert len(await doomed.receive(10, suspect=True, wait=PATIENCE)) == 2
            await broker.reclaimed(alive, 2)

        found = ids([await only(alive), await only(alive)])

        assert sorted(found) == ["1", "2"]

    async def test_a_poison_message_is_found_and_its_neighbours_are_never_charged(self, broker: BrokerHarness) -> None:
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

    async def test_a_death_with_two_suspects_in_flight_is_charged_to_neither(self, broker: BrokerHarness) -> None:
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

    async def test_a_holder_that_comes_back_takes_back_the_death(self, broker: BrokerHarness) -> None:
        transport = await broker.connect()
        alive = await broker.consumer(await broker.connect(), "alive")
        await transport.send([envelope("a")])
        sleeper, held = await self.died(broker, transport, alive, "a")

        assert list(await asyncio.to_thread(sleeper.renew, held)) == held

        assert (await only(alive)).deaths == 0

    async def test_a_holder_that_comes_back_takes_back_the_charge(self, broker: BrokerHarness) -> None:
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
        self, broker: BrokerHarness
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

    async def test_finishing_clears_what_a_message_was_charged_with(self, broker: BrokerHarness) -> None:
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
