"""What the tests on a faulty RabbitMQ share: an app whose runs are counted, with its results in a Redis."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from aiotq import AioTQ
from aiotq.backends.amqp.address import parse
from aiotq.backends.amqp.connection import AmqpClient, KeptChannel
from aiotq.backends.amqp.frames import Post
from aiotq.backends.amqp.properties import pack_properties

from ..servers import shared


def vhost_of(url: str) -> str:
    return urlsplit(url).path[1:] or "/"


class Work:
    """An app whose tasks are counted as they begin; `hold` waits for `gate`."""

    def __init__(self, url: str, **settings: Any) -> None:
        backend = f"{shared('redis').url}?prefix=test-{os.urandom(6).hex()}"
        self.app = AioTQ("x", broker=url, **{"backend": backend, "amqp_queue_type": "classic", **settings})
        self.gate = asyncio.Event()
        self.began: Counter[int] = Counter()

        @self.app.task(name="x.double")
        async def double(x: int) -> int:
            self.began[x] += 1
            return 2 * x

        @self.app.task(name="x.hold")
        async def hold(x: int) -> int:
            self.began[x] += 1
            await self.gate.wait()
            return 2 * x

        self.double, self.hold = double, hold

    async def works(self, timeout: float = 10) -> None:
        """Assert that a new task runs."""
        assert await (await self.double.delay(21)).get(timeout=timeout) == 42


async def publish(url: str, queue: str, body: bytes, **properties: Any) -> None:
    """Put into `queue` what a foreign program might."""
    async with AmqpClient(parse(url), "foreign") as client:
        channel = await KeptChannel(client, confirms=True).channel()
        published = await channel.publish([Post("", queue, pack_properties(message_id="1", **properties), body)])
        assert not published.returned
