"""What stands in the broker for us: queues by name and priority, the ladder of delays, the dead letters.

A name has four queues, one for each class of priorities, of which the default has the plain name. What is due later
climbs down the ladder (`ladder.py`), from queue to queue by the digits of its delay; the last hands it to
`aiotq.deliver`, which knows queues by a header. All of it is declared when it is first needed on a connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from math import inf
from typing import Any, Final, TypeVar

from ... import exceptions
from ...exceptions import OperationalError
from .channel import Channel, Refused
from .connection import AmqpClient, KeptChannel
from .delays import (
    LONGEST_DELAY,
    WIDTHS,
    ladder_exchange,
    ladder_mark,
    ladder_path,
    ladder_pattern,
    ladder_queues,
)

logger = logging.getLogger("aiotq.amqp")

Found = TypeVar("Found")
Missing = TypeVar("Missing")

#: The lowest priority of each class, and what it adds to a queue's name.
CLASSES: Final[Mapping[int, str]] = {0: ":0", 3: "", 6: ":6", 9: ":9"}
DEAD: Final = "aiotq.dead"
#: Where what no queue takes goes, on its way to the dead letters. It is not durable: a server that starts brings its
#: queues back before their bindings, and what its delay queues let go meanwhile would be thought to go nowhere. Without
#: this exchange it waits for the next try; the first client that comes back declares it.
UNROUTABLE: Final = "aiotq.unroutable"
DELIVER: Final = "aiotq.deliver"
#: The header by which `aiotq.deliver` knows where a message goes.
TO: Final = "aiotq-to"
#: Where Celery's own ladder ends. We declare this exchange and none of its queues.
CELERY_DELIVER: Final = "celery_delayed_delivery"
LONGEST_NAME: Final = 255 - len(":0")
#: Seconds for which a queue of the ladder is believed to be there.
_TRUSTED: Final = 5.0
#: The argument that says of which type a queue is: without it, what the virtual host has for a default.
TYPE: Final = "x-queue-type"
#: Arguments that are the operator's business once a queue exists.
_TOLERATED: Final = ("x-delivery-limit", "x-message-ttl")
#: Those that Celery's settings and queues give to a queue that is shared with it.
_OF_CELERYS: Final = (TYPE, "x-max-priority", "x-dead-letter-exchange", "x-expires", "x-max-length", "x-queue-mode")


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
        #: What is not there closes the channel on which it was looked for: one look at a time has one to itself.
        self._looks = KeptChannel(client)
        self._looking = asyncio.Lock()
        self._kind = kind
        self._dead_ttl = min(round(dead_for * 1000), LONGEST_DELAY)
        self._client = client
        self._declaring = asyncio.Lock()
        self._declared: set[str] = set()
        self._digits = 0  #: for how many digits of delays, the lowest first, the ladder is there
        self._seen_at: dict[str, float] = {}  #: loop time at which each of its queues was there
        client.on_connected.append(self.forget)

    def forget(self, queues: Iterable[str] | None = None) -> None:
        """Declare again what is needed next: of `queues`, or all of it."""
        if queues is None:
            self._declared.clear()
            self._digits = 0
            self._seen_at.clear()
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

    async def ladder(self, delays: Iterable[int]) -> None:
        """See that the ladder is there for `delays`, each as `ladder_delay` returns it; not 0.

        What it stands on is looked at again now and then: nobody tells us of a queue that is deleted, and what comes
        where one was is a dead letter.
        """
        now = asyncio.get_running_loop().time()
        path = {queue: digit for delay in delays for queue, digit in ladder_path(delay).items()}
        if all(self._seen_at.get(queue, -inf) + _TRUSTED > now for queue in path):
            return
        async with self._declaring:
            await self._base()
            await self._digits_through(max(path.values()))
            for queue, digit in path.items():
                if self._seen_at.get(queue, -inf) + _TRUSTED > now:
                    continue
                if await self.ready(queue) is None:
                    logger.warning("queue %r was deleted, what was delayed in it is gone: declaring it again", queue)
                    await self._digit(digit)
                self._seen_at[queue] = now

    async def _digits_through(self, digit: int) -> None:
        """See that the digits up to this one are there."""
        if digit < self._digits:
            return
        if not await self._exists(ladder_mark(digit)):
            for each in range(self._digits, digit + 1):
                await self._digit(each)
                self._seen_at |= dict.fromkeys(ladder_queues(each), asyncio.get_running_loop().time())
        self._digits = digit + 1

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
        await self._exchange(UNROUTABLE, "fanout", {}, durable=False)
        await self._bind(DEAD, UNROUTABLE, "")
        await self._exchange(DELIVER, "headers", {"alternate-exchange": UNROUTABLE})
        await self._exchange(CELERY_DELIVER, "topic", {})
        self._declared.add(DEAD)

    async def _queue(self, queue: str) -> None:
        if self._is_celerys:
            await self._declare(queue, {})
            await self._celerys_exchange(queue)
            await self._bind(queue, queue, queue)
        else:
            await self._declare(queue, {**self._type(), "x-dead-letter-exchange": DEAD})
        await self._bind(queue, DELIVER, "", {"x-match": "all", TO: queue})
        await self._bind(queue, CELERY_DELIVER, f"#.{queue}" if len(queue) < 254 else queue)

    async def _digit(self, digit: int) -> None:
        """Declare a digit's queues and the exchange above them; its mark is last, so that what has one is whole."""
        entry = ladder_exchange(digit)
        below = ladder_exchange(digit - 1) if digit else DELIVER
        arguments: dict[str, Any] = {**self._type(), "x-dead-letter-exchange": below}
        if self._kind == "quorum":
            arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        await self._exchange(entry, "topic", {"alternate-exchange": UNROUTABLE})
        for queue, (pattern, kept) in ladder_queues(digit).items():
            await self._declare(queue, arguments | {"x-message-ttl": kept})
            await self._bind(queue, entry, pattern)
        await (await self._lane.channel()).bind_exchange(below, entry, ladder_pattern(digit, 0))
        await self._exchange(ladder_mark(digit), "fanout", {})

    def _type(self) -> dict[str, Any]:
        return {TYPE: self._kind}

    async def _exists(self, exchange: str) -> bool:
        async def find(channel: Channel) -> bool:
            await channel.find_exchange(exchange)
            return True

        return await self._looked_for(find, instead=False)

    def _may_be_celerys(self, queue: str, text: str) -> bool:
        """Whether what differs are arguments that Celery declares a queue with where its settings say so."""
        return self._is_celerys and queue != DEAD and any(f"'{name}'" in text for name in _OF_CELERYS)

    async def _exchange(self, name: str, kind: str, arguments: dict[str, Any], *, durable: bool = True) -> None:
        try:
            await (await self._lane.channel()).declare_exchange(name, kind, arguments, durable=durable)
        except Refused as exc:
            raise _explained("exchange", name, exc) from exc

    async def _celerys_exchange(self, name: str) -> None:
        """See that there is a queue's own exchange; Celery's may be of another type."""
        try:
            await (await self._lane.channel()).declare_exchange(name, "direct", {})
        except Refused as exc:
            if not exc.differs:
                raise _explained("exchange", name, exc) from exc
            logger.warning("exchange %r is used as it is: %s", name, exc.text)

    async def _declare(self, queue: str, arguments: dict[str, Any]) -> None:
        wire = await self._client.wire()
        is_quorum = arguments.get(TYPE) == "quorum"
        if is_quorum and wire.version >= (4, 0) and "x-dead-letter-strategy" not in arguments:
            # From 4.0 on the broker drops what came back 20 times: it also counts what was only prefetched. Older ones
            # have no limit, and no word for that (decision 0072).
            arguments = {**arguments, "x-delivery-limit": -1}
        try:
            await (await self._lane.channel()).declare_queue(queue, arguments)
        except Refused as exc:
            if not (exc.differs and (_is_tolerable(exc.text, self._kind) or self._may_be_celerys(queue, exc.text))):
                raise _explained("queue", queue, exc) from exc
            hint = "; a policy sets its limit" if "x-delivery-limit" in exc.text else ""
            logger.warning("queue %r is used as it is: %s%s", queue, exc.text, hint)

    async def _bind(self, queue: str, exchange: str, key: str, arguments: dict[str, Any] | None = None) -> None:
        await (await self._lane.channel()).bind_queue(queue, exchange, key, arguments)

    async def delayed(self) -> int:
        """Return how many messages are on the ladder."""
        count = 0
        for digit in range(len(WIDTHS)):
            if not await self._exists(ladder_mark(digit)):
                break
            for queue in ladder_queues(digit):
                count += await self.ready(queue) or 0
        return count

    async def ready(self, queue: str) -> int | None:
        """Return how many messages are ready in `queue`; None if there is no such queue."""
        return await self._looked_for(lambda channel: channel.count(queue), instead=None)

    async def purge(self, queue: str) -> int:
        """Delete what is ready in `queue`, if there is one; return how many."""
        return await self._looked_for(lambda channel: channel.purge_queue(queue), instead=0)

    async def _looked_for(self, look: Callable[[Channel], Awaitable[Found]], instead: Missing) -> Found | Missing:
        """Return what `look` finds, `instead` if there is no such thing."""
        async with self._looking:
            try:
                return await look(await self._looks.channel())
            except Refused as exc:
                if exc.is_missing:
                    return instead
                raise


def _is_tolerable(text: str, kind: str) -> bool:
    """Whether what differs, in the server's words, does not matter: a queue declared without a type is classic."""
    return any(name in text for name in _TOLERATED) or (
        kind == "classic" and f"'{TYPE}'" in text and text.rstrip("'").endswith("current is none")
    )


def _explained(what: str, name: str, refused: Refused) -> OperationalError:
    """Return the error for something that could not be declared."""
    if not refused.differs:
        return refused
    return exceptions.Refused(
        f"{what} {name!r} exists and differs from what aiotq would declare: {refused.text}. Delete it when it is "
        "empty, use another name, or (for the type of a queue) set amqp_queue_type to what it is. If it is Celery's: "
        "celery_compat=True uses it as it is",
        "queue",
    )
