"""Celery's exchanges for events, commands and answers in a RabbitMQ; each queue here goes with its connection."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import orjson

from ...control.celery_mail import CeleryCommand, CeleryMail, command_in
from ...core.clock import Clock
from ...exceptions import MalformedMessage
from .channel import Channel
from .connection import AmqpClient, KeptChannel
from .frames import Delivered
from .properties import properties_of
from .subscription import Subscription, numbered_posts

logger = logging.getLogger("aiotq.control")

EVENTS: Final = "celeryev"
COMMANDS: Final = "celery.pidbox"
ANSWERS: Final = "reply.celery.pidbox"
#: Events in one message.
_TOGETHER: Final = 200
#: What waits in a queue here, at most, and for how long (ms): commands that are late are not obeyed.
_MOST_WAITING: Final = 1_000
_TTL: Final = 300_000
#: Milliseconds after which a queue is gone that nobody reads from, as Celery's queues of answers.
_EXPIRES: Final = 10_000
_PREFETCH: Final = 100
_LARGEST: Final = 4 * 1024 * 1024


class AmqpCeleryMail(CeleryMail):
    """On one `AmqpClient`, which is entered by whoever made it."""

    def __init__(self, client: AmqpClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._events = KeptChannel(client, confirms=True)
        self._answers = KeptChannel(client, confirms=True)
        self._declared: dict[str, int] = {}  #: exchanges, with the generation of the channel that declared them
        self._logical = itertools.count(1)

    async def send(self, events: Sequence[dict[str, Any]]) -> None:
        channel = await self._events.channel()
        if self._declared.get(EVENTS) != self._events.generation:
            await channel.declare_exchange(EVENTS, "topic")
            self._declared[EVENTS] = self._events.generation
        of_calls = [event for event in events if event["type"].startswith("task-")]
        others = [event for event in events if not event["type"].startswith("task-")]
        together: list[tuple[str, Any]] = [
            ("task.multi", of_calls[start : start + _TOGETHER]) for start in range(0, len(of_calls), _TOGETHER)
        ]
        together += [(event["type"].replace("-", "."), event) for event in others]
        hostname = events[0]["hostname"] if events else ""
        properties = _properties({"hostname": hostname})
        posts = [(EVENTS, key, properties, orjson.dumps(body)) for key, body in together]
        await channel.publish(numbered_posts(channel, posts))

    @asynccontextmanager
    async def serving(self, take: Callable[[CeleryCommand], None]) -> AsyncGenerator[None, None]:
        async def declare(channel: Channel) -> Sequence[str]:
            queue = f"aiotq.{os.urandom(12).hex()}.{COMMANDS}"  # anew: the last one may be locked for a while
            await _declare_exchanges(channel)
            bounds = {"x-max-length": _MOST_WAITING, "x-message-ttl": _TTL, "x-expires": _EXPIRES}
            await channel.declare_queue(queue, bounds, durable=False, exclusive=True, auto_delete=True)
            await channel.bind_queue(queue, COMMANDS)
            return (queue,)

        def arrived(arrival: Delivered) -> None:
            command = command_in(_body_of(arrival))
            if command is not None and not _is_late(arrival, self._clock.time()):
                take(command)

        async with self._subscribed("control.celery", declare, arrived):
            yield

    async def reply(self, command: CeleryCommand, answers: Mapping[str, Any]) -> None:
        if command.reply_to is None or command.reply_to[0] != ANSWERS:
            return
        channel = await self._answers.channel()
        if self._declared.get(ANSWERS) != self._answers.generation:
            await _declare_exchanges(channel)
            self._declared[ANSWERS] = self._answers.generation
        properties = _properties({"ticket": command.ticket, "clock": next(self._logical)})
        post = (*command.reply_to, properties, orjson.dumps(answers, default=repr, option=orjson.OPT_NON_STR_KEYS))
        await channel.publish(numbered_posts(channel, [post]))

    async def tell(self, method: str, arguments: Mapping[str, Any]) -> None:
        channel = await self._answers.channel()
        if self._declared.get(ANSWERS) != self._answers.generation:
            await _declare_exchanges(channel)
            self._declared[ANSWERS] = self._answers.generation
        await channel.publish(numbered_posts(channel, [self._command(method, arguments)]))

    @asynccontextmanager
    async def asking(
        self,
        method: str,
        arguments: Mapping[str, Any],
        destination: Sequence[str] | None,
        heard: Callable[[Mapping[str, Any]], None],
    ) -> AsyncGenerator[None, None]:
        key = os.urandom(16).hex()
        queue = f"{key}.{ANSWERS}"

        async def declare(channel: Channel) -> Sequence[str]:
            await _declare_exchanges(channel)
            bounds = {"x-max-length": _MOST_WAITING, "x-expires": _EXPIRES}
            await channel.declare_queue(queue, bounds, durable=False, exclusive=True, auto_delete=True)
            await channel.bind_queue(queue, ANSWERS, key)
            return (queue,)

        def arrived(arrival: Delivered) -> None:
            body = _body_of(arrival)
            if isinstance(body, dict):
                heard(cast("dict[str, Any]", body))

        to = {"exchange": ANSWERS, "routing_key": key}
        command = self._command(method, arguments, destination, ticket=key, reply_to=to)
        async with self._subscribed("control.celery.asking", declare, arrived):
            channel = await self._answers.channel()
            await channel.publish(numbered_posts(channel, [command]))
            yield

    def _command(
        self, method: str, arguments: Mapping[str, Any], destination: Sequence[str] | None = None, **answer: Any
    ) -> tuple[str, str, dict[str, Any], bytes]:
        """Return the message to Celery's workers; `answer` says where it goes to."""
        message = {
            "method": method,
            "arguments": dict(arguments),
            "destination": None if destination is None else list(destination),
            "pattern": None,
            "matcher": None,
            **answer,
            "aiotq": True,
        }
        return COMMANDS, "", _properties({"clock": next(self._logical), "expires": 0}), orjson.dumps(message)

    @asynccontextmanager
    async def _subscribed(
        self, name: str, declare: Callable[[Channel], Any], take: Callable[[Delivered], None]
    ) -> AsyncGenerator[None, None]:
        subscription = Subscription(
            self._client,
            name,
            declare,
            take,
            logger=logger,
            complaint="nothing is heard from Celery's tools",
            prefetch=_PREFETCH,
        )
        await subscription.start()
        try:
            yield
        finally:
            await subscription.stop()


async def _declare_exchanges(channel: Channel) -> None:
    await channel.declare_exchange(COMMANDS, "fanout", durable=False)
    await channel.declare_exchange(ANSWERS, "direct", durable=False)


def _properties(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "delivery_mode": 1,
        "headers": dict(headers),
    }


def _body_of(arrival: Delivered) -> object:
    """Return what a message says; None: it is no JSON, or too much of it."""
    if len(arrival.body) > _LARGEST:
        return None
    try:
        return orjson.loads(arrival.body)
    except orjson.JSONDecodeError:
        return None


def _is_late(arrival: Delivered, now: float) -> bool:
    """Whether who sent a command does not wait for the answer any more."""
    try:
        headers: dict[str, Any] = properties_of(arrival.properties).get("headers") or {}
    except MalformedMessage:
        return True
    expires = headers.get("expires")
    return isinstance(expires, (int, float)) and 0 < expires < now
