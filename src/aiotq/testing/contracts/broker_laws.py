"""The contract of a broker: what holds after any sequence of events. It needs hypothesis."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ...transport import ACK, Broker, Delivery, GiveUp, HandBack, Settlement
from .broker_harness import BrokerHarness, MakeBroker, envelope, ids

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

    async def follow(self, broker: BrokerHarness, sequence: list[Step]) -> None:
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

    def __init__(self, broker: BrokerHarness, transport: Broker) -> None:
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
            case _:  # there is nothing to do it to
                pass
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
