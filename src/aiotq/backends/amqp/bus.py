"""The bus in a RabbitMQ: each process has a queue, which goes with its connection, on an exchange that all share.

A queue keeps so much for a process that does not read, and refuses what is more: who sent it counts that.

Source: RabbitMQ, "Queue Length Limit" (overflow behaviour), "Exclusive Queues".
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Final, Self

from ...control.bus import Bus, frame
from .channel import Channel
from .connection import AmqpClient, KeptChannel
from .frames import Delivered
from .subscription import Subscription, numbered_posts

logger = logging.getLogger("aiotq.bus")

#: Routes by the address of a process, or to all.
EXCHANGE: Final = "aiotq.bus"
_ALL: Final = "all"
#: What stands in a queue for one process, at most.
MOST_WAITING: Final = 10_000
MOST_BYTES: Final = 16 * 1024 * 1024
#: What is on its way to a process that has not acknowledged it.
_PREFETCH: Final = 500
_CONTENT_TYPE: Final = "application/octet-stream"
_LONGEST_KEY: Final = 255


class AmqpBus(Bus):
    """One process's place on one `AmqpClient`, which is entered by whoever made it."""

    def __init__(self, client: AmqpClient) -> None:
        super().__init__()
        self._address = f"{EXCHANGE}.{os.urandom(12).hex()}"
        self._lane = KeptChannel(client, confirms=True)
        self._subscription = Subscription(
            client,
            "bus.amqp",
            self._declare,
            self._arrived,
            logger=logger,
            complaint=f"nothing is heard from other processes on {self._address}",
            prefetch=_PREFETCH,
            again=self.tell_of_gap,
        )

    @property
    def address(self) -> str:
        return self._address

    async def __aenter__(self) -> Self:
        await self._subscription.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._subscription.stop()

    async def _tell(self, address: str, topic: str, payload: bytes) -> None:
        if len(address.encode()) > _LONGEST_KEY:
            self.dropped += 1
            return
        await self._publish(address, topic, payload)

    async def _tell_all(self, topic: str, payload: bytes) -> None:
        await self._publish(_ALL, topic, payload)

    async def _publish(self, key: str, topic: str, payload: bytes) -> None:
        channel = await self._lane.channel()
        properties = {"content_type": _CONTENT_TYPE, "delivery_mode": 1}
        published = await channel.publish(numbered_posts(channel, [(EXCHANGE, key, properties, frame(topic, payload))]))
        self.dropped += len(published.nacked) + len(published.returned)

    async def _declare(self, channel: Channel) -> Sequence[str]:
        await channel.declare_exchange(EXCHANGE, "direct")
        # Named by us: rights on our names are enough. Anew: a connection that is gone may still lock the last.
        queue = f"{EXCHANGE}.{os.urandom(12).hex()}"
        bounds = {"x-max-length": MOST_WAITING, "x-max-length-bytes": MOST_BYTES, "x-overflow": "reject-publish"}
        await channel.declare_queue(queue, bounds, durable=False, exclusive=True, auto_delete=True)
        for key in (self._address, _ALL):
            await channel.bind_queue(queue, EXCHANGE, key)
        return (queue,)

    def _arrived(self, arrival: Delivered) -> None:
        self.take_frame(arrival.body)
