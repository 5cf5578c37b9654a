"""The dead letters in a RabbitMQ: one queue for all names, looked into without taking anything out.

Whoever looks has all of it delivered and gives it back, but for what was acknowledged. Meanwhile others would see
nothing: a queue that only one connection may have is the lock.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from ...core.aio import finish
from ...core.clock import Clock
from ...exceptions import OperationalError
from ...transport.broker import DeadLetter
from ...wire.message import Message
from .channel import Channel, Refused
from .connection import AmqpClient
from .frames import Delivered
from .messages import Outgoing, dead_letter_from
from .topology import DEAD, Topology

_LOCK: Final = "aiotq.dead.lock"
#: Seconds that one waits for another to have looked.
_PATIENCE: Final = 10.0
_PAUSE: Final = 0.02
#: Letters on their way to us at once.
_AT_ONCE: Final = 200
#: Seconds that letting go of what was looked at may take when cancelled.
_LAST_WORDS: Final = 1.0


class DeadLetters:
    """What stands in the queue of the dead letters."""

    def __init__(
        self,
        client: AmqpClient,
        topology: Topology,
        clock: Clock,
        publish: Callable[[Sequence[Outgoing]], Awaitable[None]],
    ) -> None:
        self._client = client
        self._topology = topology
        self._clock = clock
        self._publish = publish
        self._looking = asyncio.Lock()

    async def all(self) -> Sequence[DeadLetter]:
        """Return all of them, the newest first."""
        async with self._opened() as (_, found):
            return sorted((letter for letter, _ in found), key=lambda letter: letter.died_at, reverse=True)

    async def newest(self, queue: str | None, limit: int) -> Sequence[DeadLetter]:
        """Return the newest of `queue`, or of all."""
        return [letter for letter in await self.all() if queue is None or letter.queue == queue][:limit]

    async def find(self, key: str) -> DeadLetter | None:
        """Return the one with this key, or the newest of this task."""
        letters = await self.all()
        found = [letter for letter in letters if letter.key == key]
        found += [letter for letter in letters if letter.message is not None and letter.message.id == key]
        return found[0] if found else None

    async def replay(self, keys: Sequence[str], sent_again: Callable[[DeadLetter, Message], Outgoing]) -> int:
        """Publish those with these keys, or of these tasks, then remove them; return how many."""
        async with self._opened() as (channel, found):
            chosen: dict[int, tuple[DeadLetter, Message]] = {}
            newest_first = sorted(found, key=lambda each: each[0].died_at, reverse=True)
            for key in keys:
                for letter, tag in newest_first:
                    message = letter.message
                    if message is not None and key in {letter.key, message.id} and tag not in chosen:
                        chosen[tag] = letter, message
                        break
            if chosen:
                await self._publish([sent_again(letter, message) for letter, message in chosen.values()])
                channel.ack(list(chosen))
            return len(chosen)

    async def purge(self, queue: str | None, before: float | None) -> int:
        """Remove those of `queue` that died before the wall time `before`; return how many."""
        return await self._remove(
            lambda letter: (queue is None or letter.queue == queue) and (before is None or letter.died_at < before)
        )

    async def remove(self, keys: Collection[str]) -> int:
        """Remove those with these keys; return how many."""
        return await self._remove(lambda letter: letter.key in keys)

    async def _remove(self, is_meant: Callable[[DeadLetter], bool]) -> int:
        async with self._opened() as (channel, found):
            tags = [tag for letter, tag in found if is_meant(letter)]
            if tags:
                channel.ack(tags)
            return len(tags)

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[tuple[Channel, list[tuple[DeadLetter, int]]]]:
        """Have all that are there, each with its tag, until this is left."""
        await self._topology.dead()
        async with self._looking:
            channel = await self._locked()
            try:
                yield channel, [(dead_letter_from(each, self._clock.time()), each.tag) for each in await _read(channel)]
            finally:
                with suppress(OperationalError, TimeoutError):
                    await finish(self._let_go(channel), _LAST_WORDS)

    async def _locked(self) -> Channel:
        """Return a channel of the connection that alone may look now.

        Raises:
            OperationalError: somebody else looked for too long.
        """
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            channel = await (await self._client.wire()).channel()
            try:
                await channel.declare_queue(_LOCK, durable=False, exclusive=True, auto_delete=True)
            except Refused as exc:
                if not exc.is_locked:
                    raise
                if asyncio.get_running_loop().time() > deadline:
                    raise OperationalError("somebody else looks at the dead letters, and does not end") from exc
                await asyncio.sleep(_PAUSE * random.uniform(0.5, 1.5))
            else:
                return channel

    async def _let_go(self, channel: Channel) -> None:
        if channel.is_open:
            with suppress(OperationalError):
                # A quorum queue hears late of a channel's end: who looks next would find less.
                channel.give_back_all()
                wire = await self._client.wire()
                await channel.close()
                other = await wire.channel()
                await other.delete_queue(_LOCK)
                await other.close()


async def _read(channel: Channel) -> list[Delivered]:
    """Have every message of the queue delivered, and keep it unsettled.

    How many there are is not asked: of a quorum queue that may be told before what was given back is counted.
    """
    found: list[Delivered] = []
    at_once = 1
    while True:
        replies = [channel.get(DEAD) for _ in range(at_once)]
        await asyncio.wait(replies)
        arrivals = [answer for reply in replies if (answer := reply.result()) is not None]
        found += arrivals
        if len(arrivals) < at_once:
            return found
        at_once = _AT_ONCE
