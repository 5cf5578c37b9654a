"""Results as messages: `rpc://`, beside a RabbitMQ that is the broker.

A process has one queue of replies, named in the `reply_to` of its calls, and whoever runs one sends the record there.
So only the process that made a call can have its result, once it came, and nothing is shared: there are no claims (P2
and P3 are not kept) and no joins; revocations reach the workers that run at that time.

Source: RabbitMQ, "Time-to-Live and Expiration" (Queue TTL); Celery, `celery.backends.rpc`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self, cast

import orjson

from ...core.aio import Service
from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.logs import WarnOnce
from ...exceptions import ConnectionLost, MalformedMessage, OperationalError, StoreRequired
from ...results import celery_records
from ...results.base import (
    NO_JOIN_CHANGES,
    Booking,
    Caution,
    Claim,
    Claimed,
    Closing,
    Join,
    Joined,
    Permit,
    Record,
    ResultStore,
    booked,
)
from ...results.permits import Permits
from ...states import is_ready
from ...wire.message import Envelope
from .channel import Channel
from .connection import AmqpClient, KeptChannel
from .frames import Delivered, Post, pack_properties, pamqp, properties_of

logger = logging.getLogger("aiotq.results")

#: Every process listens here for revocations.
REVOKED: Final = "aiotq.revoked"
#: Header of a record's state; Celery's documents have it inside.
_STATE: Final = "aiotq-state"
#: RabbitMQ keeps nothing for longer, in milliseconds.
_LONGEST: Final = 2**32 - 1
#: The least that a queue of replies outlives its connection, in seconds: a broker takes a while to restart.
_LEAST_KEPT: Final = 60.0
#: Bytes of records that nobody asked for yet; beyond it the oldest go.
_MOST_KEPT: Final = 64 * 1024 * 1024
#: What a record takes beside its body, about.
_OVERHEAD: Final = 600
_MOST_REVOKED: Final = 50_000
_LONGEST_NAME: Final = 255
#: Seconds that leaving waits for the broker.
_GOODBYE: Final = 2.0


class RpcStore(ResultStore):
    """A results store on one `AmqpClient`, which is entered by whoever made it; results are kept `expires` seconds."""

    def __init__(self, client: AmqpClient, *, expires: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self.client = client
        self._clock = clock
        self._expires = expires
        self._queue = f"aiotq.reply.{os.urandom(12).hex()}"
        self._lane = KeptChannel(client, confirms=True)
        self._kept = _Kept(clock)
        self._revoked: dict[str, float] = {}
        self._starts: dict[tuple[str, int], tuple[float, float]] = {}
        self._free_at: dict[str, float] = {}
        self._seats = Permits()
        self._seats_lock = threading.Lock()
        self._channel: Channel | None = None
        self._tags: list[int] = []  #: of what came and was not acknowledged yet
        self._gone = asyncio.Event()
        self._complaint = WarnOnce(logger, f"results can't be received on {self._queue}")
        self._service: Service[None] = Service(self._main, "aiotq.results.rpc")
        self.on_push = _ignore
        self.on_revoked = _ignore
        self.on_missed = _ignore

    @property
    def address(self) -> str:
        return self._queue

    async def __aenter__(self) -> Self:
        await self._service.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._service.stop()

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        return [self._kept.get(task_id) for task_id in ids]

    async def put(self, records: Sequence[Record]) -> None:
        posts = [(record.reply_to, *self._posted(record)) for record in records if record.reply_to]
        await self._publish([("", queue, properties, body) for queue, properties, body in posts])

    async def forget(self, ids: Sequence[str]) -> None:
        for task_id in ids:
            self._kept.drop(task_id)

    async def watch(self, task_id: str) -> None:
        """Nothing can be done: what is not sent here can't be had here."""

    async def unwatch(self, task_id: str) -> None:
        """Nothing was done."""

    async def revoke(self, ids: Sequence[str], *, terminate: bool, expires: float) -> None:
        if ids:
            self._remember(ids, expires)
            body = orjson.dumps({"ids": list(ids), "terminate": terminate, "expires": expires})
            await self._publish([(REVOKED, "", {"content_type": celery_records.JSON}, body)])

    async def unrevoke(self, ids: Sequence[str]) -> None:
        if ids:
            self._forget_revocations(ids)
            body = orjson.dumps({"ids": list(ids), "terminate": False, "expires": 0.0})
            await self._publish([(REVOKED, "", {"content_type": celery_records.JSON}, body)])

    async def has_revocations(self) -> bool:
        return bool(self._revoked)

    async def revoked(self, ids: Sequence[str]) -> Collection[str]:
        now = self._clock.time()
        return {task_id for task_id in ids if self._revoked.get(task_id, 0.0) > now}

    async def claim(
        self, keys: Sequence[tuple[str, int]], holder: str, lease: float, caution: Caution | None = None
    ) -> Sequence[Claim]:
        return [Claimed()] * len(keys)

    def renew_claims(self, keys: Sequence[tuple[str, int]], holder: str, lease: float) -> Collection[tuple[str, int]]:
        return ()

    async def close(self, closings: Sequence[Closing], holder: str) -> Sequence[tuple[Envelope, ...] | None]:
        for closing in closings:
            if closing.joining is not NO_JOIN_CHANGES:
                logger.error(
                    "task %s belongs to a workflow that is kept in a store, and this worker has none (rpc://): "
                    "the workflow will fail when it is overdue; give all workers the same result_backend",
                    closing.key[0],
                )
        await self.put(
            [record for closing in closings for record in (closing.record, *closing.further) if record is not None]
        )
        return [closing.envelopes for closing in closings]

    async def open_joins(self, joins: Sequence[Join]) -> None:
        if joins:
            raise StoreRequired(
                "a chord, or a group with tasks behind it, is counted in a store that all workers share, and rpc:// is "
                "none: set result_backend to a redis:// or sqlite:// URL"
            )

    async def joined(self, join_ids: Sequence[str]) -> Sequence[Joined | None]:
        return [None] * len(join_ids)

    async def overdue(self, limit: int = 100) -> Sequence[str]:
        return ()

    async def book(self, bookings: Sequence[Booking]) -> Sequence[float]:
        """Reserve starts under rate limits, which without a store each worker keeps for itself, as Celery's do."""
        now = self._clock.time()
        for key in [key for key, (start, interval) in self._starts.items() if start + interval + _LEAST_KEPT < now]:
            del self._starts[key]
        waits: list[float] = []
        for booking in bookings:
            before = self._starts.get(booking.key)
            start, free_at = booked(
                booking, None if before is None else before[0], self._free_at.get(booking.name), now
            )
            if free_at is not None:
                self._free_at[booking.name] = free_at
                self._starts[booking.key] = start, booking.interval
            waits.append(max(start - now, 0.0))
        return waits

    async def acquire_permits(self, seats: Sequence[Permit], holder: str, lease: float) -> Sequence[int]:
        """Take seats, which without a store are counted in each process alone."""
        with self._seats_lock:
            return [self._seats.acquire_permits(seat, holder, lease, self._clock.monotonic()) for seat in seats]

    def renew_permits(self, seats: Collection[Permit], holder: str, lease: float) -> None:
        with self._seats_lock:
            for seat in seats:
                self._seats.keep(seat, holder, lease, self._clock.monotonic())

    async def hand_over_permits(
        self, left: Sequence[Permit], seeking: Sequence[Permit], holder: str, limits: Mapping[str, int]
    ) -> Sequence[Permit]:
        with self._seats_lock:
            return self._seats.hand_over_permits(left, seeking, holder, limits, self._clock.monotonic())

    # Sending

    def _posted(self, record: Record) -> tuple[dict[str, Any], bytes]:
        """Return properties and body of a record, in the form in which Celery sends it as well."""
        is_celerys = record.content_type == celery_records.CELERYS
        left = record.expires - self._clock.time()
        properties: dict[str, Any] = {
            "content_type": celery_records.JSON if is_celerys else record.content_type,
            "content_encoding": "utf-8" if is_celerys or record.content_type == celery_records.JSON else "binary",
            "correlation_id": record.id if len(record.id.encode()) <= _LONGEST_NAME else None,
            "delivery_mode": 2 if is_ready(record.state) else 1,
            "expiration": str(min(max(round(left * 1000), 1), _LONGEST)),
            "headers": {_STATE: record.state, "id": record.id},
        }
        return properties, record.body

    async def _publish(self, posts: Sequence[tuple[str, str, dict[str, Any], bytes]]) -> None:
        """Publish and return when all is confirmed. Who is not there any more to get it, gets nothing."""
        sendable = [post for post in posts if len(post[1].encode()) <= _LONGEST_NAME]
        if len(sendable) < len(posts):
            logger.warning("%d results have a reply_to that names no queue", len(posts) - len(sendable))
        if not sendable:
            return
        channel = await self._lane.channel()
        number = channel.next_number
        published = await channel.publish(
            [
                Post(exchange, key, pack_properties(message_id=str(number + place), **properties), body)
                for place, (exchange, key, properties, body) in enumerate(sendable)
            ]
        )
        if published.nacked:
            raise ConnectionLost(f"RabbitMQ did not accept {len(published.nacked)} results: a limit of their queues")
        if published.returned:
            logger.debug("%d results have nobody who waits for them any more", len(published.returned))

    # Receiving

    async def _main(self, ready: Callable[[None], None], stopping: asyncio.Event) -> None:
        await self._consume()
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self._keep(), name="aiotq.results.rpc.keep")
                ready(None)
                await stopping.wait()
                keeping.cancel()
        finally:
            with suppress(OperationalError, TimeoutError):  # it expires
                async with asyncio.timeout(_GOODBYE):
                    await self._lane.ask(pamqp("commands").Queue.Delete(queue=self._queue))

    async def _keep(self) -> None:
        """Consume again whenever that has ended, until cancelled; what came meanwhile is in the queue."""
        while True:
            await self._gone.wait()
            try:
                await self._consume()
            except OperationalError as exc:
                self._complaint.make(exc)
                await asyncio.sleep(random.uniform(0.1, 0.3))
            else:
                self._complaint.withdraw()

    async def _consume(self) -> None:
        commands = pamqp("commands")
        if self._channel is not None:
            await self._channel.close()
        wire = await self.client.wire()
        gone = self._gone = asyncio.Event()
        kept = min(round(max(self._expires, _LEAST_KEPT) * 1000), _LONGEST)
        try:
            channel = self._channel = await wire.channel()
            self._tags = []
            await channel.request(
                commands.Queue.Declare(queue=self._queue, durable=True, arguments={"x-expires": kept})
            )
            await channel.request(commands.Exchange.Declare(exchange=REVOKED, exchange_type="fanout", durable=True))
            # Named by us: rights on our names are enough. Anew: a connection that is gone may still lock the last.
            told = f"{REVOKED}.{os.urandom(12).hex()}"
            await channel.request(commands.Queue.Declare(queue=told, exclusive=True, auto_delete=True))
            await channel.request(commands.Queue.Bind(queue=told, exchange=REVOKED, routing_key=""))
            channel.on_arrival = self._arrived
            for queue in (self._queue, told):
                await channel.request(commands.Basic.Consume(queue=queue, consumer_tag=queue))
        except BaseException:
            gone.set()
            raise
        self._end_with(channel, gone)

    def _end_with(self, channel: Channel, gone: asyncio.Event) -> None:
        """Have `gone` set when `channel` is of no more use."""

        def cancelled(_: str) -> None:
            gone.set()

        channel.on_closed = gone.set
        channel.on_cancel = cancelled
        if not channel.is_open:
            gone.set()

    def _arrived(self, arrival: Delivered) -> None:
        try:
            if arrival.exchange == REVOKED:
                self._heard_of(arrival.body)
            else:
                self._received(arrival)
        except (MalformedMessage, ValueError, TypeError, KeyError, AttributeError) as exc:
            logger.warning("something on %s is no result and no revocation: %s", self._queue, exc)
        self._tags.append(arrival.tag)
        if len(self._tags) == 1:  # all that came in this turn of the loop are acknowledged together
            asyncio.get_running_loop().call_soon(self._acknowledge, self._tags)

    def _acknowledge(self, tags: list[int]) -> None:
        if tags is self._tags and self._channel is not None and self._channel.is_open:
            self._channel.ack(tags)
            self._tags = []

    def _heard_of(self, body: bytes) -> None:
        told: Any = orjson.loads(body)
        ids = [str(task_id) for task_id in told["ids"]]
        self._remember(ids, float(told["expires"]))
        if told["terminate"]:
            self.on_revoked(ids)

    def _forget_revocations(self, ids: Sequence[str]) -> None:
        for task_id in ids:
            self._revoked.pop(task_id, None)

    def _remember(self, ids: Sequence[str], expires: float) -> None:
        if expires <= 0:
            self._forget_revocations(ids)
            return
        for task_id in ids:
            self._revoked[task_id] = max(expires, self._revoked.pop(task_id, 0.0))
        while len(self._revoked) > _MOST_REVOKED:
            del self._revoked[next(iter(self._revoked))]

    def _received(self, arrival: Delivered) -> None:
        properties = properties_of(arrival.properties)
        headers = cast("dict[str, Any]", properties.get("headers") or {})
        task_id, state = headers.get("id") or properties["correlation_id"], headers.get(_STATE)
        content_type = properties.get("content_type") or celery_records.JSON
        expires = self._clock.time() + self._expires
        if isinstance(state, str):
            record: Record | None = Record(task_id, state, arrival.body, content_type, expires)
        elif content_type == celery_records.JSON:
            record = celery_records.record_of(task_id, arrival.body, expires)
        else:
            raise ValueError(
                f"a result of Celery's is read in JSON only, not {content_type}: set result_serializer there"
            )
        if record is None:
            raise ValueError("it is no result document")
        if self._kept.add(record):
            self.on_push([record])


class _Kept:
    """The records that came, while they are valid; the oldest go when there are too many bytes of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._records: dict[str, Record] = {}
        self._bytes = 0
        self._has_warned = False

    def get(self, task_id: str) -> Record | None:
        record = self._records.get(task_id)
        return record if record is not None and record.expires > self._clock.time() else None

    def add(self, record: Record) -> bool:
        """Keep `record`, and return whether it is news: a terminal one is never replaced."""
        before = self._records.get(record.id)
        if before is not None and is_ready(before.state):
            return False
        self.drop(record.id)
        self._records[record.id] = record
        self._bytes += _size(record)
        self._make_room()
        return True

    def drop(self, task_id: str) -> None:
        record = self._records.pop(task_id, None)
        if record is not None:
            self._bytes -= _size(record)

    def _make_room(self) -> None:
        now = self._clock.time()
        while len(self._records) > 1:
            oldest = next(iter(self._records.values()))
            if oldest.expires > now:
                if self._bytes <= _MOST_KEPT:
                    return
                if not self._has_warned:
                    self._has_warned = True
                    logger.warning(
                        "results that nobody asks for fill the memory of this process: the oldest are forgotten; "
                        "call with ignore_result=True, or use a results store"
                    )
            self.drop(oldest.id)


def _size(record: Record) -> int:
    return len(record.body) + _OVERHEAD


def _ignore(_: object) -> None:
    """What a store does with its news while nobody asked for them."""
