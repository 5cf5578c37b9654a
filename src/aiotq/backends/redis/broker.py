"""The broker in a Redis: streams, one for each queue and priority (see `lua/messages.lua` for the keys)."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final, Self

from ...core.clock import SYSTEM_CLOCK, Clock
from ...exceptions import MalformedMessage
from ...transport.broker import FAIR, Broker, Consumer, DeadLetter, Delivery, QueueOrder, QueueStats, Settlement
from ...wire.message import Envelope, unpack
from ...wire.shares import share_of
from .connection import RedisClient
from .consumer import RedisConsumer
from .envelopes import in_columns, packed_envelopes, packed_key
from .idempotent import NumberedWrites
from .messages import (
    BURY,
    DELAYED,
    MAKE_DUE_NOW,
    PURGE,
    READY,
    REMOVE_DELAYED,
    REPLAY,
    SEND,
    SETTLE,
    STATS,
    dead_letter_of,
    packed_settlement,
    place_of,
)

DEAD_LETTER_RETENTION: Final = 30 * 86_400.0
#: Seconds: what is more is beyond the clock of Redis.
_FOREVER: Final = 2**53 / 1000
#: Messages that one script call deletes at most: nobody else is served meanwhile.
_PURGE_BATCH: Final = 1000
#: Dead letters read at once.
_PAGE: Final = 100


class RedisBroker(Broker):
    """A broker on one `RedisClient`, which its owner enters."""

    can_make_due_now = True

    def __init__(
        self,
        client: RedisClient,
        *,
        clock: Clock = SYSTEM_CLOCK,
        dead_letter_retention: float = DEAD_LETTER_RETENTION,
    ) -> None:
        self.client = client
        #: Of dead letters, in milliseconds.
        self.retention = round(min(dead_letter_retention, _FOREVER) * 1000)
        self._clock = clock
        self._sending: NumberedWrites[Envelope] = NumberedWrites(client, lambda envelope: envelope.message.key)
        self._settling: NumberedWrites[tuple[Delivery, Settlement]] = NumberedWrites(
            client, lambda settlement: settlement[0].lease
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    async def send(self, batch: Sequence[Envelope]) -> None:
        if batch:
            await self._sending.write(batch, self._send)

    async def connected(self) -> None:
        await self.client.connected()

    async def _send(self, line: str, number: int, batch: Sequence[Envelope]) -> bytes:
        columns, messages, others = in_columns(batch)
        arguments = [line, number, self._clock.time(), self.retention, packed_envelopes(others), columns]
        answers: bytes = await self.client.run(SEND, arguments, *messages)
        return answers

    @asynccontextmanager
    async def consumer(
        self, name: str, queues: Sequence[str], *, lease: float, order: QueueOrder = FAIR
    ) -> AsyncGenerator[Consumer]:
        consumer = RedisConsumer(
            self.client,
            name,
            queues,
            lease=lease,
            order=order,
            clock=self._clock,
            dead_letter_retention=self.retention,
        )
        await consumer.enter()
        try:
            yield consumer
        finally:
            await consumer.leave()

    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> Sequence[bool]:
        if not settlements:
            return ()
        return [bool(answer) for answer in await self._settling.write(settlements, self._settle)]

    async def _settle(self, line: str, number: int, settlements: Sequence[tuple[Delivery, Settlement]]) -> bytes:
        packed = [(place_of(delivery), *packed_settlement(settlement)) for delivery, settlement in settlements]
        answers: bytes = await self.client.run(SETTLE, [line, number, self.retention, packed])
        return answers

    async def make_due_now(self, keys: Sequence[tuple[str, int]]) -> Sequence[bool]:
        if not keys:
            return ()
        answers: bytes = await self.client.run(MAKE_DUE_NOW, [[packed_key(key) for key in keys]])
        return [bool(answer) for answer in answers]

    async def delayed(self, queue: str, *, limit: int = 100) -> Sequence[Envelope]:
        envelopes: list[Envelope] = []
        for priority, blob, due in await self.client.run(DELAYED, [queue, limit]):
            with suppress(MalformedMessage):
                envelopes.append(Envelope(unpack(blob), queue, priority, float(due) / 1000))
        return envelopes

    async def ready(self, queue: str, *, limit: int = 100) -> Sequence[Envelope]:
        envelopes: list[Envelope] = []
        for priority, blob in await self.client.run(READY, [queue, limit]):
            with suppress(MalformedMessage):
                envelopes.append(Envelope(unpack(blob), queue, priority))
        return envelopes

    async def remove_delayed(self, keys: Sequence[tuple[str, int]]) -> Sequence[bool]:
        if not keys:
            return ()
        answers: bytes = await self.client.run(REMOVE_DELAYED, [[packed_key(key) for key in keys]])
        return [bool(answer) for answer in answers]

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        packed = [
            (each.queue, each.priority, each.raw, each.reason, each.detail, each.deaths, each.died_at * 1000)
            for each in letters
        ]
        if packed:
            await self.client.run(BURY, [self.retention, packed])

    async def stats(self, queues: Collection[str] | None = None) -> Sequence[QueueStats]:
        if queues is not None and not queues:
            return ()
        found = await self.client.run(STATS, [sorted(queues or ()), self.retention])
        stats = [
            QueueStats(
                name.decode(), ready, leased, delayed, dead, int(age) / 1000 if age is not None and ready else None
            )
            for name, ready, leased, delayed, dead, age in found
        ]
        if queues is None:
            stats = [each for each in stats if each.ready or each.leased or each.delayed or each.dead]
        return sorted(stats, key=lambda each: each.name)

    async def purge(self, queue: str) -> int:
        purged = 0
        while count := await self.client.run(PURGE, [queue, _PURGE_BATCH]):
            purged += count
        return purged

    async def dead_letters(self, queue: str | None = None, *, limit: int = 100) -> Sequence[DeadLetter]:
        found = [
            letter
            for name in ([queue] if queue is not None else await self._queues())
            async for letter in _limited(self._letters(name), limit)
        ]
        return heapq.nlargest(limit, found, key=lambda letter: letter.died_at)

    async def dead_letter(self, key: str) -> DeadLetter | None:
        entry, _, queue = key.partition("@")
        if queue and all(part.isdecimal() for part in entry.split("-")):
            found = await self.client.ask("XRANGE", self._dead(queue), entry, entry)
            if found:
                return dead_letter_of(queue, *found[0])
        for name in await self._queues():
            async with aclosing(self._letters(name)) as letters:
                async for letter in letters:
                    if letter.message is not None and letter.message.id == key:
                        return letter
        return None

    async def replay(self, keys: Sequence[str]) -> int:
        letters = [letter for key in keys if (letter := await self.dead_letter(key)) is not None]
        wanted = [
            (
                letter.queue,
                letter.key.partition("@")[0],
                packed_key(letter.message.key),
                *((share,) if (share := share_of(letter.message)) is not None else ()),
            )
            for letter in letters
            if letter.message is not None
        ]
        return int(await self.client.run(REPLAY, [self.retention, wanted])) if wanted else 0

    async def remove_dead(self, keys: Sequence[str]) -> int:
        removed = 0
        for key in keys:
            entry, _, queue = key.partition("@")
            if queue and all(part.isdecimal() for part in entry.split("-")):
                removed += int(await self.client.ask("XDEL", self._dead(queue), entry))
        return removed

    async def purge_dead(self, queue: str | None = None, *, before: float | None = None) -> int:
        purged = 0
        for name in [queue] if queue is not None else await self._queues():
            if before is None:
                purged += int(await self.client.ask("XTRIM", self._dead(name), "MAXLEN", 0))
            else:
                purged += int(await self.client.ask("XTRIM", self._dead(name), "MINID", round(before * 1000)))
        return purged

    async def _queues(self) -> list[str]:
        names: list[bytes] = await self.client.ask("SMEMBERS", f"{self.client.base}:queues")
        return sorted(name.decode() for name in names)

    async def _letters(self, queue: str) -> AsyncGenerator[DeadLetter]:
        """The dead letters of one queue, the newest first."""
        last = "+"
        oldest = max(round(self._clock.time() * 1000) - self.retention, 0)
        while True:
            page: list[Any] = await self.client.ask("XREVRANGE", self._dead(queue), last, oldest, "COUNT", _PAGE)
            for entry, fields in page:
                yield dead_letter_of(queue, entry, fields)
            if len(page) < _PAGE:
                return
            last = f"({page[-1][0].decode()}"

    def _dead(self, queue: str) -> str:
        return f"{self.client.base}:q:{queue}:dead"


async def _limited(letters: AsyncGenerator[DeadLetter], limit: int) -> AsyncIterator[DeadLetter]:
    async with aclosing(letters):
        numbers = itertools.count(1)
        async for letter in letters:
            yield letter
            if next(numbers) >= limit:
                return
