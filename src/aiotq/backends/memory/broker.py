"""The broker in this process: for tests and for embedding, with the meaning of every other broker.

`MemoryBroker` is the contract's face of a `MemoryQueues`, which several transports, loops and threads of the process
may share.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Self

from ...transport.broker import (
    FAIR,
    FAIR_EVERY,
    Broker,
    Consumer,
    DeadLetter,
    Delivery,
    QueueOrder,
    QueueStats,
    Settlement,
    Turns,
)
from ...wire.message import Envelope
from .queues import DOWNWARDS, UPWARDS, Holder, MemoryQueues, Queue, Waiter


class MemoryConsumer(Consumer):
    """One worker's hold on some queues of a `MemoryQueues`."""

    def __init__(
        self, broker: MemoryQueues, name: str, queues: Sequence[str], lease: float, order: QueueOrder = FAIR
    ) -> None:
        self._broker = broker
        self._order = order
        self._holder = Holder(name, lease)
        self._reads = 0
        self._turns = self._turns_of(queues)

    async def receive(self, limit: int, *, suspect: bool, wait: float) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        broker = self._broker
        deadline = loop.time() + wait
        while limit > 0:
            with broker.lock:
                taken = self._take(limit, suspect)
                left = deadline - loop.time()
                if taken or left <= 0:
                    return taken
                waiter = Waiter(loop)
                for queue in self._turns.items:
                    queue.waiters.add(waiter)
                due = broker.next_due(self._turns.items)
            try:
                await self._ring(waiter, left, due)
            finally:
                with broker.lock:
                    for queue in self._turns.items:
                        queue.waiters.discard(waiter)
        return []

    def _take(self, limit: int, suspect: bool) -> list[Delivery]:
        order = UPWARDS if self._reads % FAIR_EVERY == FAIR_EVERY - 1 else DOWNWARDS
        taken = self._broker.take(
            self._turns.items, order, limit, suspect, self._holder, is_strict=self._order.is_strict
        )
        if taken:
            self._reads += 1
            self._turns.advance(delivery.queue for delivery in taken)
        return taken

    async def _ring(self, waiter: Waiter, seconds: float, due: float | None) -> None:
        """Return when something came, when `due` has come, or after `seconds`."""
        timer = waiter.loop.call_later(seconds, waiter.ring)
        try:
            if due is None:
                await waiter.rung
                return
            async with asyncio.TaskGroup() as waiting:
                alarm = waiting.create_task(self._sleep_until(due, waiter), name="aiotq.memory.due")
                await waiter.rung
                alarm.cancel()
        finally:
            timer.cancel()

    async def _sleep_until(self, due: float, waiter: Waiter) -> None:
        clock = self._broker.clock
        await clock.sleep(max(due - clock.time(), 0.0))
        waiter.ring()

    async def read_from(self, queues: Sequence[str]) -> None:
        self._turns = self._turns_of(queues)

    def _turns_of(self, queues: Sequence[str]) -> Turns[Queue]:
        with self._broker.lock:
            return Turns({queue: self._broker.queue(queue) for queue in queues}, self._order)

    def renew(self, held: Collection[Delivery]) -> Collection[Delivery]:
        with self._broker.lock:
            return self._broker.renew(held, self._holder)

    async def reclaim(self, dead: Collection[str] = ()) -> int:
        with self._broker.lock:
            return self._broker.reclaim(dead)

    def leave(self) -> None:
        """Hand back what was received and never settled."""
        with self._broker.lock:
            self._broker.leave(self._holder)


class MemoryBroker(Broker):
    """A connection to a `MemoryQueues`; without one it has a broker of its own."""

    can_make_due_now = True

    def __init__(self, broker: MemoryQueues | None = None) -> None:
        self.queues = broker if broker is not None else MemoryQueues()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    async def send(self, batch: Sequence[Envelope]) -> None:
        with self.queues.lock:
            self.queues.add(batch)

    @asynccontextmanager
    async def consumer(
        self, name: str, queues: Sequence[str], *, lease: float, order: QueueOrder = FAIR
    ) -> AsyncGenerator[Consumer]:
        consumer = MemoryConsumer(self.queues, name, queues, lease, order)
        try:
            yield consumer
        finally:
            consumer.leave()

    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> Sequence[bool]:
        with self.queues.lock:
            return [self.queues.settle(delivery, settlement) for delivery, settlement in settlements]

    async def make_due_now(self, keys: Sequence[tuple[str, int]]) -> Sequence[bool]:
        with self.queues.lock:
            return [self.queues.make_due_now(key) for key in keys]

    async def delayed(self, queue: str, *, limit: int = 100) -> Sequence[Envelope]:
        with self.queues.lock:
            return self.queues.waiting(queue, limit)

    async def ready(self, queue: str, *, limit: int = 100) -> Sequence[Envelope]:
        with self.queues.lock:
            return self.queues.ready_in(queue, limit)

    async def remove_delayed(self, keys: Sequence[tuple[str, int]]) -> Sequence[bool]:
        with self.queues.lock:
            return [self.queues.remove_delayed(key) for key in keys]

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        with self.queues.lock:
            self.queues.add_dead(letters)

    async def stats(self, queues: Collection[str] | None = None) -> Sequence[QueueStats]:
        with self.queues.lock:
            return self.queues.stats(queues)

    async def purge(self, queue: str) -> int:
        with self.queues.lock:
            return self.queues.purge(queue)

    async def dead_letters(self, queue: str | None = None, *, limit: int = 100) -> Sequence[DeadLetter]:
        with self.queues.lock:
            return self.queues.dead_letters(queue, limit)

    async def dead_letter(self, key: str) -> DeadLetter | None:
        with self.queues.lock:
            return self.queues.dead_letter(key)

    async def replay(self, keys: Sequence[str]) -> int:
        with self.queues.lock:
            return self.queues.replay(keys)

    async def remove_dead(self, keys: Sequence[str]) -> int:
        with self.queues.lock:
            return self.queues.remove_dead(keys)

    async def purge_dead(self, queue: str | None = None, *, before: float | None = None) -> int:
        with self.queues.lock:
            return self.queues.purge_dead(queue, before)
