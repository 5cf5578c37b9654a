"""Every bus keeps its contract; and who does not read is nobody's burden, as each of them has it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest

from aiotq.backends.amqp import bus as amqp_bus
from aiotq.backends.memory.bus import MOST_BYTES, MOST_WAITING, MemoryBus, MemoryHub
from aiotq.control.bus import MAX_PAYLOAD, Bus

from ..waiting import wait_until
from .bus_contract import TOPIC, BusContract, Heard
from .harness import AmqpBusHarness, BusHarness, MemoryBusHarness, PostgresBusHarness, RedisBusHarness, SQLiteBusHarness

BUSES: Final[dict[str, Callable[[Path], BusHarness]]] = {
    "memory": MemoryBusHarness,
    "sqlite": SQLiteBusHarness,
    "redis": RedisBusHarness,
    "rabbitmq": AmqpBusHarness,
    "postgres": PostgresBusHarness,
}


@pytest.fixture(params=BUSES)
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BusHarness]:
    async with BUSES[request.param](tmp_path) as harness:
        yield harness


class TestBus(BusContract):
    pass


class Stuck:
    """A hearer in a thread of its own, whose loop does not turn until it is let go."""

    def __init__(self, harness: BusHarness) -> None:
        self._harness = harness
        self._go_on, self._is_there = threading.Event(), threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self.bus: Bus
        self.heard: Heard
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        async with self._harness.connected() as bus:
            self.bus, self.heard = bus, Heard(bus)
            self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
            self._is_there.set()
            self._go_on.wait(60)
            await self._end.wait()

    async def __aenter__(self) -> Stuck:
        self._thread.start()
        await asyncio.to_thread(self._is_there.wait, 30)
        return self

    def let_go(self) -> None:
        self._go_on.set()

    async def __aexit__(self, *exc_info: object) -> None:
        self._go_on.set()
        self._loop.call_soon_threadsafe(self._end.set)
        await asyncio.to_thread(self._thread.join, 30)


class TestSlowHearers:
    """One that does not read."""

    async def test_one_that_does_not_read_holds_up_neither_the_sender_nor_others(self, bus: BusHarness) -> None:
        sender, hearer = await bus.connect(), await bus.connect()
        heard = Heard(hearer)
        payload = b"x" * 1000
        async with Stuck(bus) as stuck:
            began = time.monotonic()
            for number in range(300):
                await sender.tell(stuck.bus.address, TOPIC, payload)
                if not number % 100:
                    await sender.tell(hearer.address, TOPIC, b"%d" % number)

            await heard.came(b"0", b"100", b"200")
            assert time.monotonic() - began < 20
            stuck.let_go()
            await wait_until(lambda: stuck.heard.payloads, "it reads again")
            missed = 300 - len(stuck.heard.payloads)
            if bus.sender_counts:
                await wait_until(lambda: sender.dropped >= 300 - len(stuck.heard.payloads), "what it missed is counted")
            assert missed >= 0

    async def test_a_loop_that_does_not_turn_has_so_much_waiting_and_is_told_of_the_rest(self) -> None:
        hub = MemoryHub()
        async with MemoryBus(hub) as sender, MemoryBus(hub) as hearer:
            heard = Heard(hearer)
            for number in range(MOST_WAITING + 5):
                await sender.tell(hearer.address, TOPIC, b"%d" % number)

            await wait_until(lambda: heard.gaps == 1, "it is told of the gap")

            assert len(heard.payloads) == MOST_WAITING
            assert hearer.dropped == 5

    async def test_it_is_the_bytes_that_count_as_well(self) -> None:
        hub = MemoryHub()
        async with MemoryBus(hub) as sender, MemoryBus(hub) as hearer:
            heard = Heard(hearer)
            room = MOST_BYTES // MAX_PAYLOAD
            for _ in range(room + 3):
                await sender.tell(hearer.address, TOPIC, b"x" * MAX_PAYLOAD)

            await wait_until(lambda: heard.gaps == 1, "it is told of the gap")

            assert (len(heard.payloads), hearer.dropped) == (room, 3)

    async def test_a_socket_that_is_not_read_drops_what_is_too_much(self, tmp_path: Path) -> None:
        async with SQLiteBusHarness(tmp_path) as harness, Stuck(harness) as stuck:
            sender = await harness.connect()
            for number in range(2000):
                await sender.tell(stuck.bus.address, TOPIC, b"%d" % number)
            assert sender.dropped > 0

            stuck.let_go()

            await wait_until(lambda: stuck.heard.gaps, "it is told that it may have missed something")
            assert len(stuck.heard.payloads) + sender.dropped == 2000

    async def test_a_queue_that_is_not_read_refuses_what_is_too_much(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(amqp_bus, "MOST_WAITING", 10)
        monkeypatch.setattr(amqp_bus, "_PREFETCH", 1)
        async with AmqpBusHarness(tmp_path) as harness, Stuck(harness) as stuck:
            sender = await harness.connect()
            for number in range(100):
                await sender.tell(stuck.bus.address, TOPIC, b"%d" % number)
            assert 80 <= sender.dropped < 100

            stuck.let_go()

            await wait_until(lambda: len(stuck.heard.payloads) + sender.dropped == 100, "the others come")
