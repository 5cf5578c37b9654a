"""Consuming from queues of one's own: declared and consumed from again whenever that has ended."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from ...core.aio import Service
from ...core.logs import WarnOnce
from ...exceptions import OperationalError
from .channel import Channel
from .connection import AmqpClient
from .frames import Delivered, Post
from .properties import pack_properties

#: Seconds that leaving waits for the broker.
_GOODBYE: Final = 2.0
#: Declares what is consumed from, on a fresh channel, and returns the names of the queues.
Declare = Callable[[Channel], Awaitable[Sequence[str]]]


class Subscription:
    """What comes to queues that `declare` makes is told to `take`, and acknowledged.

    `again` is called when consuming began anew after it had ended.
    """

    def __init__(
        self,
        client: AmqpClient,
        name: str,
        declare: Declare,
        take: Callable[[Delivered], None],
        *,
        logger: logging.Logger,
        complaint: str,
        prefetch: int = 0,
        again: Callable[[], None] | None = None,
    ) -> None:
        self._client = client
        self._declare = declare
        self._take = take
        self._prefetch = prefetch
        self._again = again
        self._channel: Channel | None = None
        self._tags: list[int] = []  #: of what came and was not acknowledged yet
        self._gone = asyncio.Event()
        self._complaint = WarnOnce(logger, complaint)
        self._name = name
        self._service: Service[None] = Service(self._main, f"aiotq.{name}")

    async def start(self) -> None:
        """Consume; on return nothing that is sent is missed.

        Raises:
            OperationalError: the server does not let us.
        """
        await self._service.start()

    async def stop(self) -> None:
        await self._service.stop()

    async def _main(self, ready: Callable[[None], None], stopping: asyncio.Event) -> None:
        await self._consume()
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self._keep(), name=f"aiotq.{self._name}.keep")
                ready(None)
                await stopping.wait()
                keeping.cancel()
        finally:
            if self._channel is not None:
                with suppress(OperationalError, TimeoutError):
                    async with asyncio.timeout(_GOODBYE):
                        await self._channel.close()

    async def _keep(self) -> None:
        """Consume again whenever that has ended, until cancelled."""
        while True:
            await self._gone.wait()
            try:
                await self._consume()
            except OperationalError as exc:
                self._complaint.make(exc)
                await asyncio.sleep(random.uniform(0.1, 0.3))
            else:
                self._complaint.withdraw()
                if self._again is not None:
                    self._again()

    async def _consume(self) -> None:
        if self._channel is not None:
            await self._channel.close()
        wire = await self._client.wire()
        gone = self._gone = asyncio.Event()
        try:
            channel = self._channel = await wire.channel()
            self._tags = []
            queues = await self._declare(channel)
            if self._prefetch:
                await channel.prefetch(self._prefetch)
            channel.on_arrival = self._arrived
            for queue in queues:
                await channel.consume(queue, queue)
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
        self._take(arrival)
        self._tags.append(arrival.tag)
        if len(self._tags) == 1:  # all that came in this turn of the loop are acknowledged together
            asyncio.get_running_loop().call_soon(self._acknowledge, self._tags)

    def _acknowledge(self, tags: list[int]) -> None:
        if tags is self._tags and self._channel is not None and self._channel.is_open:
            self._channel.ack(tags)
            self._tags = []


def numbered_posts(channel: Channel, posts: Sequence[tuple[str, str, dict[str, Any], bytes]]) -> list[Post]:
    """Return posts (exchange, routing key, properties, body) with the numbers that `channel` knows them by."""
    number = channel.next_number
    return [
        Post(exchange, key, pack_properties(message_id=str(number + place), **properties), body)
        for place, (exchange, key, properties, body) in enumerate(posts)
    ]
