"""The hot half of a channel of any connection of aio-pika's, through aiormq: slower than a lane, and means the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, Final

import aiormq
from aiormq import spec
from aiormq.abc import DeliveredMessage

from ...core.aio import start
from ...exceptions import ConnectionLost, OperationalError
from .channel import LIBRARY_ERRORS, Channel, Line, Published, Tags
from .frames import Delivered, Post
from .properties import pack_properties, properties_of

#: Seconds that closing waits for what was acknowledged to be said.
_LAST_WORDS: Final = 1.0


class _Packed(spec.Basic.Properties):
    """Properties that travel as they were packed; aiormq looks at the message id alone."""

    def __init__(self, packed: bytes) -> None:
        super().__init__(message_id=properties_of(packed).get("message_id"))
        self._packed = packed

    def marshal(self) -> bytes:
        return self._packed


class OrdinaryChannel(Channel):
    """A channel of a connection without a tap.

    What is said without an answer (acknowledgements) is said in its order by a task of the channel's own.
    """

    def __init__(self, line: Line, requests: Any) -> None:
        super().__init__(line, requests)
        self._published = 0
        self._waits: dict[object, float] = {}
        self._orders: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._asked_for: set[asyncio.Future[Delivered | None]] = set()
        requests.on_consumer_cancel_callbacks.add(self._cancelled)
        requests.closing.add_done_callback(self._ended)
        self._speaking = start(self._speak(), name=f"aiotq.amqp.channel.{self.number}", context=Context())

    @property
    def waits_since(self) -> float | None:
        return min(self._waits.values(), default=None)

    @property
    def next_number(self) -> int:
        return self._published + 1

    async def publish(self, posts: Sequence[Post]) -> Published:
        if not self.is_open:
            raise self._gone()
        self._published += len(posts)
        group = object()
        self._waits[group] = self._loop.time()
        try:
            answers = await asyncio.gather(*map(self._published_one, posts), return_exceptions=True)
        finally:
            del self._waits[group]
        nacked: list[int] = []
        returned: dict[int, str] = {}
        for place, answer in enumerate(answers):
            if isinstance(answer, aiormq.exceptions.PublishError):
                frame: Any = answer.frame
                where = f"{frame.exchange or 'the default exchange'}, {frame.routing_key}"
                returned[place] = f"{frame.reply_text} ({where})"
            elif isinstance(answer, aiormq.exceptions.DeliveryError):
                nacked.append(place)
            elif isinstance(answer, (*LIBRARY_ERRORS, asyncio.CancelledError)):
                raise self._meant(answer) from answer
            elif isinstance(answer, BaseException):
                raise answer
        return Published(nacked, returned)

    async def _published_one(self, post: Post) -> None:
        await self._requests.basic_publish(
            post.body,
            exchange=post.exchange,
            routing_key=post.routing_key,
            properties=_Packed(post.properties),
            mandatory=True,
        )

    def get(self, queue: str) -> asyncio.Future[Delivered | None]:
        answer: asyncio.Future[Delivered | None] = self._loop.create_future()
        answer.add_done_callback(_retrieve)

        async def ask() -> None:
            self._waits[answer] = self._loop.time()
            try:
                message = await self._requests.basic_get(queue)
            except (*LIBRARY_ERRORS, asyncio.CancelledError) as exc:
                if not answer.done():
                    answer.set_exception(self._meant(exc))
                raise
            finally:
                del self._waits[answer]
            arrival = self._arrived("", message) if isinstance(message.delivery, spec.Basic.GetOk) else None
            if not answer.done():
                answer.set_result(arrival)
            if arrival is not None and self.on_arrival is not None:
                self.on_arrival(arrival)

        if self.is_open:
            self._orders.put_nowait(ask)
            self._asked_for.add(answer)
            answer.add_done_callback(self._asked_for.discard)
        else:
            answer.set_exception(self._gone())
        return answer

    def _settle(self, acknowledged: Sequence[Tags], returned: Sequence[Tags]) -> None:
        async def say() -> None:
            for tag, multiple in acknowledged:
                await self._requests.basic_ack(tag, multiple=multiple, wait=False)
            for tag, multiple in returned:
                await self._requests.basic_nack(tag, multiple=multiple, requeue=True, wait=False)

        if self.is_open:
            self._orders.put_nowait(say)

    async def _speak(self) -> None:
        while True:
            order = await self._orders.get()
            try:
                await order()
            except LIBRARY_ERRORS as exc:
                self.end(self._meant(exc))
            finally:
                self._orders.task_done()

    async def _consumed(self, message: DeliveredMessage) -> None:
        delivery = message.delivery
        if isinstance(delivery, spec.Basic.Deliver):
            arrival = self._arrived(delivery.consumer_tag or "", message)
            if self.on_arrival is not None:
                self.on_arrival(arrival)

    def _arrived(self, consumer: str, message: DeliveredMessage) -> Delivered:
        delivery: Any = message.delivery
        given = {name: each for name, each in message.header.properties if each is not None and name != "cluster_id"}
        try:
            properties = pack_properties(**given)
        except (ValueError, TypeError):
            properties = b""  # no properties: whoever looks finds it malformed
        self._unsettled[delivery.delivery_tag] = None
        where = (delivery.exchange or "", delivery.routing_key or "")
        return Delivered(
            consumer, delivery.delivery_tag, bool(delivery.redelivered), *where, properties, bytes(message.body)
        )

    def _cancelled(self, frame: Any) -> None:
        if self.on_cancel is not None:
            self.on_cancel(frame.consumer_tag)

    async def close(self) -> None:
        if self.is_open:
            async with asyncio.timeout(_LAST_WORDS):
                await self._orders.join()
        await super().close()

    def _ended(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self.end(
            self._meant(error) if error is not None else ConnectionLost(f"{self.line.name}: the channel was closed")
        )

    def _end(self, error: OperationalError) -> None:
        self._speaking.cancel()
        for answer in list(self._asked_for):
            if not answer.done():
                answer.set_exception(error)


def _retrieve(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()  # who asked may be gone
