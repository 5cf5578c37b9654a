"""Every transport keeps its contract; and what is the memory broker's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiotq.backends.memory.broker import MemoryBroker
from aiotq.backends.memory.queues import MemoryQueues
from aiotq.testing.contracts.broker_harness import envelope, ids
from aiotq.testing.contracts.broker_laws import LawContract
from aiotq.testing.contracts.brokers import BrokerContract, FencingContract, RawContract
from aiotq.testing.contracts.harness import JumpingClock
from aiotq.transport import ACK, GiveUp

from .conftest import FENCING, TRANSPORTS
from .harness import TransportHarness


class TestTransport(BrokerContract, LawContract):
    pass


class TestFencingTransport(FencingContract):
    @pytest.fixture(params=FENCING)
    async def broker(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TransportHarness]:
        async with TRANSPORTS[request.param](tmp_path) as harness:
            yield harness


class TestRawTransport(RawContract):
    pass


class TestMemoryBroker:
    async def test_a_read_that_waits_in_the_loop_of_another_thread_is_woken(self) -> None:
        broker = MemoryQueues()
        is_waiting = asyncio.Event()
        here = asyncio.get_running_loop()

        async def read() -> list[str]:
            transport = MemoryBroker(broker)
            async with transport.consumer("elsewhere", ["q"], lease=15) as consumer:
                asyncio.get_running_loop().call_later(0.02, here.call_soon_threadsafe, is_waiting.set)
                received = await consumer.receive(10, suspect=True, wait=60)
                await transport.settle([(delivery, ACK) for delivery in received])
                return ids(received)

        async with asyncio.TaskGroup() as group, asyncio.timeout(10):
            reading = group.create_task(asyncio.to_thread(asyncio.run, read()))
            await is_waiting.wait()
            await MemoryBroker(broker).send([envelope("a")])

        assert reading.result() == ["a"]

    async def test_threads_share_one_broker_and_nothing_is_lost_or_held_twice(self) -> None:
        broker = MemoryQueues()
        total = 4000

        async def send(part: int) -> None:
            for n in range(part, total, 2):
                await MemoryBroker(broker).send([envelope(f"{n}")])
                await asyncio.sleep(0)

        async def read(name: str) -> list[str]:
            transport = MemoryBroker(broker)
            found: list[str] = []
            async with transport.consumer(name, ["q"], lease=15) as consumer:
                while batch := await consumer.receive(7, suspect=True, wait=0.5):
                    assert all(await transport.settle([(delivery, ACK) for delivery in batch]))
                    found += ids(batch)
            return found

        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(asyncio.to_thread(asyncio.run, read(f"{n}"))) for n in range(3)]
            for part in range(2):
                group.create_task(asyncio.to_thread(asyncio.run, send(part)))

        found = [task_id for read_there in reading for task_id in read_there.result()]
        assert sorted(map(int, found)) == list(range(total))

    async def test_dead_letters_are_kept_for_their_time_and_up_to_their_number(self) -> None:
        clock = JumpingClock()
        transport = MemoryBroker(MemoryQueues(clock=clock, dead_letter_expires=100, dead_letters_kept=3))
        async with transport.consumer("worker", ["q"], lease=15) as consumer:
            await transport.send([envelope(f"{n}") for n in range(5)])
            for delivery in await consumer.receive(10, suspect=True, wait=0):
                clock.jump(10)
                await transport.settle([(delivery, GiveUp("unwanted"))])

        async def kept() -> list[str]:
            return [letter.message.id for letter in await transport.dead_letters() if letter.message]

        assert await kept() == ["4", "3", "2"]
        clock.jump(85)
        assert await kept() == ["4", "3"]
        assert await transport.dead_letter("2") is None
        clock.jump(100)
        assert await kept() == []

    async def test_a_read_costs_the_same_however_many_messages_are_delayed(self) -> None:
        """Ten thousand reads beside 100,000 delayed messages; looking at each of them would take minutes."""
        transport = MemoryBroker()
        far = time.time() + 1e6
        await transport.send([envelope(f"{n}", due=far + n % 1000) for n in range(100_000)])

        async with transport.consumer("worker", ["q"], lease=15) as consumer:
            async with asyncio.timeout(10):
                for _ in range(10_000):
                    assert not await consumer.receive(10, suspect=True, wait=0)
                    await asyncio.sleep(0)
