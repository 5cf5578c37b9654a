"""The broker in a PostgreSQL (P1, P2, P4, P5).

Messages are rows of one table, and what is done to them are functions in the database (`migrations/`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Self

from ...core.aio import finish
from ...core.clock import SYSTEM_CLOCK, Clock
from ...exceptions import MalformedMessage
from ...transport.broker import FAIR, Broker, Consumer, DeadLetter, Delivery, QueueOrder, QueueStats, Settlement
from ...wire.message import Envelope, Message, unpack
from .connection import PostgresClient, packed
from .consumer import PostgresConsumer
from .items import in_order, key_of, packed_envelopes, packed_letter, packed_settlement, text_of
from .numbered import NumberedWrites, all_of_them, those

DEAD_LETTER_RETENTION: Final = 30 * 86_400.0
#: Rows that one statement deletes.
_BATCH: Final = 1000

_SEND: Final = b"call aiotq.send_and_wake($1::text, $2::bigint, $3::jsonb, $4::text, $5::text, null, null)"
_SETTLE: Final = b"select * from aiotq.settle($1::text, $2::bigint, $3::jsonb)"
_MAKE_DUE_NOW: Final = b"select * from aiotq.make_due_now($1::text[])"
_DELAYED: Final = (
    b"select priority, due, body from aiotq.message"
    b" where queue = $1::text and due > extract(epoch from clock_timestamp()) order by due, id limit $2::int"
)
_READY: Final = (
    b"select priority, body from aiotq.message where queue = $1::text and holder is null"
    b" and (due is null or due <= extract(epoch from clock_timestamp())) order by rank % 100, tag, id limit $2::int"
)
_REMOVE_DELAYED: Final = b"delete from aiotq.message where key = any ($1::text[]) and due is not null returning key"
_BURY: Final = (
    b"insert into aiotq.letter (id, queue, priority, reason, detail, died_at, deaths, body)"
    b" select x.id, x.q, x.p, x.w, x.x, x.at, x.deaths, decode(x.b, 'base64') from jsonb_to_recordset($1::jsonb)"
    b" as x(id text, q text, p smallint, w text, x text, at float8, deaths int, b text)"
)
_LETTER: Final = "number, queue, priority, body, reason, detail, died_at, deaths"
_ALIVE: Final = "died_at > extract(epoch from clock_timestamp()) - $1::float8"
_LETTERS: Final = (
    f"select {_LETTER} from aiotq.letter where {_ALIVE} and ($2::text is null or queue = $2)"
    " order by number desc limit $3::int"
).encode()
#: The one with this number, or else the newest of the task with this id.
_FIND_LETTER: Final = (
    f"select {_LETTER} from aiotq.letter where {_ALIVE} and (number = $2::bigint or id = $3::text)"
    " order by number is not distinct from $2 desc, number desc limit 1"
).encode()
_REPLAY: Final = (
    b"with gone as (delete from aiotq.letter where number = $1::bigint returning number)"
    b" select p.* from gone, aiotq.put($2::jsonb, extract(epoch from clock_timestamp())::float8) p"
)
_PURGE: Final = (
    b"with gone as (delete from aiotq.message where ctid = any(array("
    b"select ctid from aiotq.message where queue = $1::text and holder is null limit $2::int for update skip locked"
    b")) returning 1) select count(*) from gone"
)
_REMOVE_DEAD: Final = (
    b"with gone as (delete from aiotq.letter where number = any ($1::bigint[]) returning 1) select count(*) from gone"
)
_PURGE_DEAD: Final = (
    b"with gone as (delete from aiotq.letter where ($1::text is null or queue = $1)"
    b" and ($2::float8 is null or died_at < $2) returning 1) select count(*) from gone"
)
_STATS: Final = b"""
with counted as (
    select queue,
        count(*) filter (where holder is null and (due is null or due <= now)) as ready,
        count(*) filter (where holder is not null) as leased,
        count(*) filter (where due > now) as delayed,
        0 as dead,
        now - min(since) filter (where holder is null and (due is null or due <= now)) as age
    from aiotq.message, (select extract(epoch from clock_timestamp())::float8 as now) as clock
    where $1::text[] is null or queue = any ($1)
    group by queue, now
    union all
    select queue, 0, 0, 0, count(*), null from aiotq.letter where $1::text[] is null or queue = any ($1) group by queue
)
select queue, sum(ready)::int, sum(leased)::int, sum(delayed)::int, sum(dead)::int, max(age)
from counted group by queue
"""


class PostgresBroker(Broker):
    """A broker on one `PostgresClient`, which is entered by whoever made it."""

    can_make_due_now = True

    def __init__(
        self,
        client: PostgresClient,
        *,
        clock: Clock = SYSTEM_CLOCK,
        dead_letter_retention: float = DEAD_LETTER_RETENTION,
    ) -> None:
        self.client = client
        self.retention = dead_letter_retention
        self._clock = clock
        self._sending: NumberedWrites[Envelope] = NumberedWrites(
            client, lambda envelope: envelope.message.key, all_of_them
        )
        self._settling: NumberedWrites[tuple[Delivery, Settlement]] = NumberedWrites(
            client, lambda settlement: settlement[0].lease, those
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    async def send(self, batch: Sequence[Envelope]) -> None:
        if batch:
            await self._sending.write(batch, self._send)

    async def connected(self) -> None:
        await self.client.requests.connected()

    async def _send(self, line: str, number: int, batch: Sequence[Envelope]) -> Sequence[int]:
        client = self.client
        items = packed(packed_envelopes(batch))
        ready, hurry = await client.row(_SEND, line, number, items, client.address.channel_base, client.bus.woken)
        client.wake(ready)
        client.hurry(hurry)
        return all_of_them((), len(batch))

    @asynccontextmanager
    async def consumer(
        self, name: str, queues: Sequence[str], *, lease: float, order: QueueOrder = FAIR
    ) -> AsyncGenerator[Consumer]:
        consumer = PostgresConsumer(
            self.client, name, queues, lease=lease, order=order, clock=self._clock, settle=self.settle
        )
        await consumer.enter()
        try:
            yield consumer
        finally:
            await finish(consumer.leave(), self.client.address.reply_timeout * 2)

    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> Sequence[bool]:
        if not settlements:
            return ()
        return [bool(answer) for answer in await self._settling.write(settlements, self._settle)]

    async def _settle(
        self, line: str, number: int, settlements: Sequence[tuple[Delivery, Settlement]]
    ) -> Sequence[int]:
        items, _ = in_order(packed_settlement(place, *each) for place, each in enumerate(settlements))
        held, ready, hurry = await self.client.row(_SETTLE, line, number, packed(items))
        self.client.wake(ready)
        self.client.hurry(hurry)
        return those(held, len(settlements))

    async def make_due_now(self, keys: Sequence[tuple[str, int]]) -> Sequence[bool]:
        if not keys:
            return ()
        made, ready = await self.client.row(_MAKE_DUE_NOW, [text_of(key) for key in keys])
        self.client.wake(ready)
        done = {key_of(text) for text in made}
        return [key in done for key in keys]

    async def delayed(self, queue: str, *, limit: int = 100) -> Sequence[Envelope]:
        envelopes: list[Envelope] = []
        for priority, due, body in await self.client.rows(_DELAYED, queue, limit):
            with suppress(MalformedMessage):
                envelopes.append(Envelope(unpack(body), queue, priority, due))
        return envelopes

    async def ready(self, queue: str, *, limit: int = 100) -> Sequence[Envelope]:
        envelopes: list[Envelope] = []
        for priority, body in await self.client.rows(_READY, queue, limit):
            with suppress(MalformedMessage):
                envelopes.append(Envelope(unpack(body), queue, priority))
        return envelopes

    async def remove_delayed(self, keys: Sequence[tuple[str, int]]) -> Sequence[bool]:
        if not keys:
            return ()
        rows = await self.client.rows(_REMOVE_DELAYED, [text_of(key) for key in keys])
        removed = {key_of(text) for (text,) in rows}
        return [key in removed for key in keys]

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        if letters:
            await self.client.rows(_BURY, packed([packed_letter(letter) for letter in letters]))

    async def stats(self, queues: Collection[str] | None = None) -> Sequence[QueueStats]:
        if queues is not None and not queues:
            return ()
        rows = await self.client.rows(_STATS, list(queues) if queues is not None else None)
        found = {
            name: QueueStats(name, ready, leased, delayed, dead, max(age, 0.0) if age is not None else None)
            for name, ready, leased, delayed, dead, age in rows
        }
        names = sorted(found if queues is None else set(queues))
        return [found.get(name) or QueueStats(name, 0, 0, 0, 0) for name in names]

    async def purge(self, queue: str) -> int:
        purged = 0
        while count := (await self.client.row(_PURGE, queue, _BATCH))[0]:
            purged += count
        return purged

    async def dead_letters(self, queue: str | None = None, *, limit: int = 100) -> Sequence[DeadLetter]:
        return [_letter(row) for row in await self.client.rows(_LETTERS, self.retention, queue, limit)]

    async def dead_letter(self, key: str) -> DeadLetter | None:
        number = int(key) if key.isascii() and key.isdecimal() and len(key) < 19 else None
        rows = await self.client.rows(_FIND_LETTER, self.retention, number, key)
        return _letter(rows[0]) if rows else None

    async def replay(self, keys: Sequence[str]) -> int:
        replayed = 0
        for key in keys:
            letter = await self.dead_letter(key)
            if letter is None or letter.message is None:
                continue
            item = packed(packed_envelopes([Envelope(letter.message, letter.queue, letter.priority)]))
            for ready, _ in await self.client.rows(_REPLAY, int(letter.key), item):
                replayed += 1
                self.client.wake(ready)
        return replayed

    async def remove_dead(self, keys: Sequence[str]) -> int:
        numbers = [int(key) for key in keys if key.isascii() and key.isdecimal() and len(key) < 19]
        (removed,) = await self.client.row(_REMOVE_DEAD, numbers)
        return int(removed)

    async def purge_dead(self, queue: str | None = None, *, before: float | None = None) -> int:
        (purged,) = await self.client.row(_PURGE_DEAD, queue, before)
        return int(purged)


def _letter(row: Sequence[Any]) -> DeadLetter:
    number, queue, priority, raw, reason, detail, died_at, deaths = row
    message: Message | None
    try:
        message = unpack(raw)
    except MalformedMessage:
        message = None
    return DeadLetter(str(number), queue, priority, message, raw, reason, detail, died_at, deaths)
