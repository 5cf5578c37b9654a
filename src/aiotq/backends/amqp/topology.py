"""What stands in the broker for us: queues by name and priority, the ladder of delays, the dead letters.

A name has four queues, one for each class of priorities, of which the default has the plain name. What is due later
climbs down the ladder (`ladder.py`), from queue to queue by the digits of its delay; the last hands it to
`aiotq.deliver`, which knows queues by a header. All of it is declared when it is first needed on a connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ...exceptions import OperationalError
from .channel import Refused
from .connection import AmqpClient, KeptChannel
from .delays import LONGEST_DELAY, WIDTHS, highest_digit, ladder_exchange, ladder_mark, ladder_pattern, ladder_queues
from .frames import pamqp

logger = logging.getLogger("aiotq.amqp")

#: The lowest priority of each class, and what it adds to a queue's name.
CLASSES: Final[Mapping[int, str]] = {0: ":0", 3: "", 6: ":6", 9: ":9"}
DEAD: Final = "aiotq.dead"
DELIVER: Final = "aiotq.deliver"
#: The header by which `aiotq.deliver` knows where a message goes.
TO: Final = "aiotq-to"
#: Where Celery's own ladder ends. We declare this exchange and none of its queues.
CELERY_DELIVER: Final = "celery_delayed_delivery"
LONGEST_NAME: Final = 255 - len(":0")
#: Arguments that are the operator's business once a queue exists.
_TOLERATED: Final = ("x-delivery-limit", "x-message-ttl")


def class_of(priority: int) -> int:
    """Return the lowest priority of the class to which `priority` belongs."""
    return max(lowest for lowest in CLASSES if lowest <= max(priority, 0))


def queue_of(name: str, priority: int) -> str:
    """Return the queue in which `name` keeps messages of `priority`."""
    return name + CLASSES[class_of(priority)]


def queues_of(name: str) -> dict[int, str]:
    """Return all queues of `name` by the lowest priority of their classes."""
    return {lowest: name + ending for lowest, ending in CLASSES.items()}


def name_of(queue: str) -> str:
    """Return the name whose queue this is."""
    name, colon, lowest = queue.rpartition(":")
    return name if colon + lowest in CLASSES.values() and colon else queue


class Topology:
    """Declares on `client`, each thing once a connection. `kind` is the type of queues, `dead_for` in seconds.

    `is_celerys`: queues of tasks are those that Celery declares, classic and with an exchange of their own name.
    """

    def __init__(self, client: AmqpClient, kind: str, dead_for: float, *, is_celerys: bool = False) -> None:
        self._is_celerys = is_celerys
        self._lane = KeptChannel(client)
        self._kind = kind
        self._dead_ttl = min(round(dead_for * 1000), LONGEST_DELAY)
        self._client = client
        self._declaring = asyncio.Lock()
        self._declared: set[str] = set()
        self._digits = 0  #: for how many digits of delays, the lowest first, the ladder is there
        client.on_connected.append(self.forget)

    def forget(self, queues: Iterable[str] | None = None) -> None:
        """Declare again what is needed next: of `queues`, or all of it."""
        if queues is None:
            self._declared.clear()
            self._digits = 0
        else:
            self._declared.difference_update(queues)

    async def queues(self, queues: Iterable[str]) -> None:
        """See that these queues are there, and reachable from the ladder.

        Raises:
            NotConnected: nothing was done.
            OperationalError: the server refused; the error says which argument differs.
        """
        if all(queue in self._declared for queue in queues):
            return
        async with self._declaring:
            await self._base()
            for queue in queues:
                if queue not in self._declared:
                    await self._queue(queue)
                    self._declared.add(queue)

    async def ladder(self, delay: int) -> None:
        """See that the ladder is there for `delay`, as `ladder_delay` returns it; not 0."""
        digit = highest_digit(delay)
        if digit < self._digits:
            return
        async with self._declaring:
            await self._base()
            if not await self._exists(ladder_mark(digit)):
                for each in range(self._digits, digit + 1):
                    await self._digit(each)
            self._digits = max(self._digits, digit + 1)

    async def dead(self) -> None:
        """See that there is a place for dead letters."""
        if DEAD not in self._declared:
            async with self._declaring:
                await self._base()

    async def _base(self) -> None:
        """Declare what all others lead to."""
        if DEAD in self._declared:
            return
        await self._exchange(DEAD, "fanout", {})
        await self._declare(DEAD, {**self._type(), "x-message-ttl": self._dead_ttl})
        await self._bind(DEAD, DEAD, "")
        await self._exchange(DELIVER, "headers", {"alternate-exchange": DEAD})
        await self._exchange(CELERY_DELIVER, "topic", {})
        self._declared.add(DEAD)

    async def _queue(self, queue: str) -> None:
        if self._is_celerys:
            await self._declare(queue, {})
            await self._exchange(queue, "direct", {})
            await self._bind(queue, queue, queue)
        else:
            await self._declare(queue, {**self._type(), "x-dead-letter-exchange": DEAD})
        await self._bind(queue, DELIVER, "", {"x-match": "all", TO: queue})
        await self._bind(queue, CELERY_DELIVER, f"#.{queue}" if len(queue) < 254 else queue)

    async def _digit(self, digit: int) -> None:
        """Declare a digit's queues and the exchange above them; its mark is last, so that what has one is whole."""
        commands = pamqp("commands")
        entry = ladder_exchange(digit)
        below = ladder_exchange(digit - 1) if digit else DELIVER
        topic = {"exchange": entry, "exchange_type": "topic", "durable": True}
        mark = {"exchange": ladder_mark(digit), "exchange_type": "fanout", "durable": True}
        arguments: dict[str, Any] = {**self._type(), "x-dead-letter-exchange": below}
        if self._kind == "quorum":
            arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        frames = [commands.Exchange.Declare(**topic, arguments={"alternate-exchange": DEAD})]
        for queue, (pattern, kept) in ladder_queues(digit).items():
            keeping = arguments | {"x-message-ttl": kept}
            frames.append(commands.Queue.Declare(queue=queue, durable=True, arguments=keeping))
            frames.append(commands.Queue.Bind(queue=queue, exchange=entry, routing_key=pattern))
        frames.append(commands.Exchange.Bind(destination=below, source=entry, routing_key=ladder_pattern(digit, 0)))
        frames.append(commands.Exchange.Declare(**mark))
        try:
            await self._ask_together(frames)
        except Refused as exc:
            raise _explained("a part of the ladder", entry, exc) from exc

    def _type(self) -> dict[str, Any]:
        if self._kind == "classic":
            return {}
        return {"x-queue-type": self._kind}

    async def _exists(self, exchange: str) -> bool:
        try:
            await self._ask(pamqp("commands").Exchange.Declare(exchange=exchange, passive=True))
        except Refused as exc:
            if exc.is_missing:
                return False
            raise
        return True

    async def _exchange(self, name: str, kind: str, arguments: dict[str, Any]) -> None:
        declare = pamqp("commands").Exchange.Declare
        try:
            await self._ask(declare(exchange=name, exchange_type=kind, durable=True, arguments=arguments))
        except Refused as exc:
            raise _explained("exchange", name, exc) from exc

    async def _declare(self, queue: str, arguments: dict[str, Any]) -> None:
        declare = pamqp("commands").Queue.Declare
        wire = await self._client.wire()
        is_quorum = arguments.get("x-queue-type") == "quorum"
        if is_quorum and wire.version >= (4, 0) and "x-dead-letter-strategy" not in arguments:
            # From 4.0 on the broker drops what came back 20 times: it also counts what was only prefetched.
            arguments = {**arguments, "x-delivery-limit": -1}
        try:
            await self._ask(declare(queue=queue, durable=True, arguments=arguments))
        except Refused as exc:
            if not (exc.differs and any(name in exc.text for name in _TOLERATED)):
                raise _explained("queue", queue, exc) from exc
            logger.warning("queue %r is used as it is: %s", queue, exc.text)

    async def _bind(self, queue: str, exchange: str, key: str, arguments: dict[str, Any] | None = None) -> None:
        bind = pamqp("commands").Queue.Bind
        await self._ask(bind(queue=queue, exchange=exchange, routing_key=key, arguments=arguments or {}))

    async def _ask(self, frame: Any) -> Any:
        return await self._lane.ask(frame)

    async def _ask_together(self, frames: Sequence[Any]) -> list[Any]:
        """Send methods without waiting for one reply before the next is sent; return the replies."""
        channel = await self._lane.channel()
        replies = [channel.request(frame) for frame in frames]
        await asyncio.wait(replies)
        return [reply.result() for reply in replies]

    async def delayed(self) -> int:
        """Return how many messages are on the ladder."""
        declare = pamqp("commands").Queue.Declare
        count = 0
        for digit in range(len(WIDTHS)):
            if not await self._exists(ladder_mark(digit)):
                break
            asked = [declare(queue=queue, passive=True) for queue in ladder_queues(digit)]
            count += sum(reply.message_count for reply in await self._ask_together(asked))
        return count

    async def ready(self, queue: str) -> int | None:
        """Return how many messages are ready in `queue`; None if there is no such queue."""
        try:
            reply = await self._lane.ask(pamqp("commands").Queue.Declare(queue=queue, passive=True))
        except Refused as exc:
            if exc.is_missing:
                return None
            raise
        return int(reply.message_count)

    async def purge(self, queue: str) -> int:
        """Delete what is ready in `queue`, if there is one; return how many."""
        try:
            reply = await self._lane.ask(pamqp("commands").Queue.Purge(queue=queue))
        except Refused as exc:
            if exc.is_missing:
                return 0
            raise
        return int(reply.message_count)


def _explained(what: str, name: str, refused: Refused) -> OperationalError:
    """Return the error for something that could not be declared."""
    if not refused.differs:
        return refused
    return OperationalError(
        f"{what} {name!r} exists and differs from what aiotq would declare: {refused.text}. Delete it when it is "
        "empty, use another name, or (for the type of a queue) set amqp_queue_type to what it is"
    )
