"""Records as messages: `rpc://`, beside a RabbitMQ that is the broker.

A process has one queue of replies, named in the `reply_to` of its calls, and whoever runs one sends the record there.
So only the process that made a call can have its result, once it came.

Source: RabbitMQ, "Time-to-Live and Expiration" (Queue TTL); Celery, `celery.backends.rpc`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Self, cast

from ...core.clock import SYSTEM_CLOCK, Clock
from ...exceptions import MalformedMessage, OperationalError, Refused
from ...results import celery_records
from ...results.records import Record, RecordStore
from ...states import is_ready
from .channel import Channel
from .connection import AmqpClient, KeptChannel
from .frames import Delivered
from .properties import properties_of
from .subscription import Subscription, numbered_posts
from .topology import TYPE

logger = logging.getLogger("aiotq.results")

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
_LONGEST_NAME: Final = 255
#: Seconds that leaving waits for the broker.
_GOODBYE: Final = 2.0


class RpcRecords(RecordStore):
    """A record store on one `AmqpClient`, which is entered by whoever made it; records are kept `expires` seconds."""

    is_pushing = True
    is_shared = False

    def __init__(self, client: AmqpClient, *, expires: float, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self.client = client
        self._clock = clock
        self._expires = expires
        self._queue = f"aiotq.reply.{os.urandom(12).hex()}"
        self._lane = KeptChannel(client, confirms=True)
        self._kept = _Kept(clock)
        self._subscription = Subscription(
            client,
            "results.rpc",
            self._declare,
            self._arrived,
            logger=logger,
            complaint=f"results can't be received on {self._queue}",
        )

    @property
    def address(self) -> str:
        return self._queue

    async def __aenter__(self) -> Self:
        await self._subscription.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._subscription.stop()
        with suppress(OperationalError, TimeoutError):  # it expires
            async with asyncio.timeout(_GOODBYE):
                await (await self._lane.channel()).delete_queue(self._queue)

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        return [self._kept.get(task_id) for task_id in ids]

    async def put(self, records: Sequence[Record]) -> None:
        """Send records to the processes that wait for them. Who is not there any more to get it, gets nothing."""
        posts = [
            (record.reply_to, *self._posted(record))
            for record in records
            if record.reply_to and len(record.reply_to.encode()) <= _LONGEST_NAME
        ]
        if strange := sum(bool(record.reply_to) for record in records) - len(posts):
            logger.warning("%d results have a reply_to that names no queue", strange)
        if not posts:
            return
        channel = await self._lane.channel()
        published = await channel.publish(numbered_posts(channel, [("", *post) for post in posts]))
        if published.nacked:
            raise Refused(f"RabbitMQ did not accept {len(published.nacked)} results: a limit of their queues", "full")
        if published.returned:
            logger.debug("%d results were dropped: no process waits for them any more", len(published.returned))

    async def forget(self, ids: Sequence[str]) -> None:
        for task_id in ids:
            self._kept.drop(task_id)

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

    async def _declare(self, channel: Channel) -> Sequence[str]:
        """Declare the queue of replies, which outlives its connection: what came meanwhile is in it."""
        kept = min(round(max(self._expires, _LEAST_KEPT) * 1000), _LONGEST)
        await channel.declare_queue(self._queue, {TYPE: "classic", "x-expires": kept})
        return (self._queue,)

    def _arrived(self, arrival: Delivered) -> None:
        try:
            self._received(arrival)
        except (MalformedMessage, ValueError, TypeError, KeyError, AttributeError) as exc:
            logger.warning("a message on %s is not a result: %s", self._queue, exc)

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
                        "unread results fill the memory of this process, so the oldest are dropped: call with "
                        "ignore_result=True, or use a results store"
                    )
            self.drop(oldest.id)


def _size(record: Record) -> int:
    return len(record.body) + _OVERHEAD
