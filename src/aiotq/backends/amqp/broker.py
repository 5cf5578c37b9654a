"""The broker in a RabbitMQ: quorum queues, publisher confirms, delays on a ladder (see `_amqp.ladder`).

RabbitMQ knows connections and no leases, and no message by its id. So this transport fences nothing: what comes twice,
or runs elsewhere, is told apart by claims in the ledger (`commit/ordered`), which count deaths as well.
"""

from __future__ import annotations

import logging
import re
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Self

from ...core.clock import SYSTEM_CLOCK, Clock
from ...exceptions import ConnectionLost, NotConnected, Refused
from ...transport.broker import (
    ALL_DELAYED,
    FAIR,
    Broker,
    Consumer,
    DeadLetter,
    Delivery,
    GiveUp,
    HandBack,
    QueueOrder,
    QueueStats,
    Settlement,
)
from ...wire.message import MAX_HEADERS, Envelope, Message, new_id
from ..shelves import NOTHING, Counts
from .channel import Refused as ChannelRefused
from .connection import AmqpClient, KeptChannel
from .consumer import AmqpConsumer
from .dead_letters import DeadLetters
from .frames import Post
from .messages import Outgoing, burial, outgoing
from .prefetched import Held
from .topology import LONGEST_NAME, Topology, queues_of

logger = logging.getLogger("aiotq.transport.amqp")

DEAD_LETTER_RETENTION: Final = 30 * 86_400.0
#: Seconds after which the message of a task that still runs is put aside; `consumer_timeout` is 1,800 by default.
PARK_AFTER: Final = 900.0
#: Delayed messages that are published together: the delay of each counts from when the server has read it.
_LATER_AT_ONCE: Final = 200
#: What aio-pika's own library lets a name consist of; AMQP allows more.
_NAME: Final = re.compile(r"[a-zA-Z0-9-_.:@#,/+ ]+")
#: Bytes of a message's headers, with what is said of a dead letter; they must fit into one frame.
_MOST_PROPERTIES: Final = MAX_HEADERS * 3 // 2


class NotTaken(Refused):
    """The limits of their queues keep some messages out, `.posts`; all others that were published with them are in."""

    def __init__(self, posts: Sequence[Outgoing]) -> None:
        queues = {each.queue for each in posts}
        super().__init__(f"RabbitMQ did not accept what goes to {_list(queues)}: a limit of that queue", "full")
        self.posts = frozenset(posts)


class AmqpBroker(Broker):
    """A broker on one `AmqpClient`, which is entered by whoever made it; each consumer has a connection of its own.

    `kind` is the type of queues; `names` are those that `stats` looks at beside the ones that are used here.
    `park_after` None: messages of long tasks stay where they are. `is_celerys`: a name has one queue, for all
    priorities, as Celery declares it.
    """

    counts_deaths = False
    can_list = False

    def __init__(
        self,
        client: AmqpClient,
        *,
        clock: Clock = SYSTEM_CLOCK,
        kind: str = "quorum",
        dead_letter_retention: float = DEAD_LETTER_RETENTION,
        park_after: float | None = PARK_AFTER,
        names: Collection[str] = (),
        is_celerys: bool = False,
    ) -> None:
        self.client = client
        self.park_after = park_after
        self._clock = clock
        self._retention = dead_letter_retention
        self._is_flat = is_celerys
        self._topology = Topology(client, kind, dead_letter_retention, is_celerys=is_celerys)
        self._lane = KeptChannel(client, confirms=True)
        self._names = set(names)
        self._held: dict[int | str, Held] = {}
        self._dead = DeadLetters(client, self._topology, clock, self.publish)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    async def connected(self) -> None:
        await self.client.wire()

    async def send(self, batch: Sequence[Envelope]) -> None:
        if not batch:
            return
        now = self._clock.time()
        for name in {envelope.queue for envelope in batch} - self._names:
            _check_name(name)
        in_order = sorted(
            batch, key=lambda each: each.due or 0.0
        )  # what is due before it is sent comes as if it had waited
        posts = [
            outgoing(each.message, each.queue, each.priority, each.due, now, is_flat=self._is_flat) for each in in_order
        ]
        try:
            await self.publish(posts)
        except NotTaken as exc:
            keys = [each.message.key for each, post in zip(in_order, posts, strict=True) if post in exc.posts]
            raise Refused(str(exc), exc.reason, keys) from exc
        self._names.update(envelope.queue for envelope in batch)

    def queues_of(self, name: str) -> Mapping[int | None, str]:
        """Return the queues of `name` by the lowest priority of each; None: of all."""
        return {None: name} if self._is_flat else dict[int | None, str](queues_of(name).items())

    async def declare(self, queues: Collection[str]) -> None:
        """See that these queues (of names' four) are there."""
        await self._topology.queues(queues)

    def forget(self, queues: Collection[str]) -> None:
        """Declare these queues again when they are needed: they were deleted."""
        self._topology.forget(queues)

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        """Publish and return when all is confirmed; raises as `send` does."""
        left = list(outgoing)
        why = ""
        not_taken: list[Outgoing] = []
        for attempt in range(2):
            with _others_sent(attempt):
                now = self._clock.time()
                try:
                    if delays := {each.delay(now) for each in left} - {0}:
                        await self._topology.ladder(delays)
                    await self._topology.queues({each.queue for each in left})
                    returned, nacked = await self._sent(left)
                except ChannelRefused as exc:
                    if not exc.is_missing or attempt:
                        raise
                    self._topology.forget()  # an exchange of the ladder was deleted
                    continue
            not_taken += nacked
            if not returned:
                if not_taken:
                    raise NotTaken(not_taken)
                return
            why = next(iter(returned.values()))
            left = [left[place] for place in returned]
            is_base = any(each.due is not None for each in left)
            self._topology.forget(None if is_base else {each.queue for each in left})
        raise ConnectionLost(
            f"RabbitMQ can't route what goes to {_list({each.queue for each in left})}, though the queue was just "
            f"declared: {why}"
        )

    async def _sent(self, outgoing: Sequence[Outgoing]) -> tuple[dict[int, str], list[Outgoing]]:
        """Publish, and return what could not be routed, by its place, with what RabbitMQ says; and what is nacked."""
        channel = await self._lane.channel()
        returned: dict[int, str] = {}
        nacked: list[Outgoing] = []
        at_once = _LATER_AT_ONCE if any(each.due is not None for each in outgoing) else len(outgoing)
        for start in range(0, len(outgoing), at_once):
            some = outgoing[start : start + at_once]
            now, number = self._clock.time(), channel.next_number
            with _others_sent(start):
                published = await channel.publish([_post(each, number + place, now) for place, each in enumerate(some)])
            nacked += [some[place] for place in published.nacked]
            returned |= {start + place: why for place, why in published.returned.items()}
        return returned, nacked

    def again(self, message: Message, queue: str, priority: int, counts: Counts, due: float | None) -> Outgoing:
        """Return a copy of what came on its way to its queue."""
        return outgoing(message, queue, priority, due, self._clock.time(), counts, is_flat=self._is_flat)

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        await self._topology.dead()
        if letters:
            await self.publish([self.burial(letter) for letter in letters])

    def burial(self, letter: DeadLetter, came_with: Mapping[str, Any] | None = None) -> Outgoing:
        """Return `letter` on its way to the dead letters."""
        return burial(letter, self._retention, came_with)

    def hold(self, lease: str, held: Held) -> None:
        """Remember what `lease` stands for."""
        self._held[lease] = held

    def drop(self, lease: int | str) -> Held | None:
        """Forget what `lease` stands for, and return it; None if it is nobody's by now."""
        held = self._held.pop(lease, None)
        if held is not None:
            held.consumer.held.pop(str(lease), None)
        return held

    @asynccontextmanager
    async def consumer(
        self, name: str, queues: Sequence[str], *, lease: float, order: QueueOrder = FAIR
    ) -> AsyncGenerator[Consumer]:
        for queue in queues:
            _check_name(queue)
        if self._is_flat:
            logger.warning(
                "celery_compat: queues without a dead-letter exchange: %s. Messages that a limit, a policy or the loss "
                "of a node removes are gone; remove the setting after the last Celery service",
                ", ".join(queues),
            )
        consumer = AmqpConsumer(
            self,
            self.client.another(name),
            name,
            queues,
            lease=lease,
            order=order,
            clock=self._clock,
            park_after=self.park_after,
        )
        self._names.update(queues)
        await consumer.enter()
        try:
            yield consumer
        finally:
            await consumer.leave()

    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> Sequence[bool]:
        mine = [(delivery, how, self.drop(delivery.lease)) for delivery, how in settlements]
        try:
            copies = [
                copy
                for delivery, how, held in mine
                if held is not None
                and (held.parked or held.channel.is_open)
                and (copy := self._copy(delivery, how, held)) is not None
            ]
            if copies:
                await self.publish(copies)
        except BaseException:
            for delivery, _, held in mine:
                if held is not None:  # the same call may be made again
                    self._held[delivery.lease] = held
                    held.consumer.held[str(delivery.lease)] = held
            raise
        return self._let_go(mine)

    def _copy(self, delivery: Delivery, how: Settlement, held: Held) -> Outgoing | None:
        """Return what is published before this one is let go; None if nothing is."""
        now = self._clock.time()
        match how:
            case GiveUp(reason, detail):
                message = delivery.message
                letter = DeadLetter(
                    new_id(),
                    *(delivery.queue, delivery.priority, message, b""),
                    *(reason, detail, now, delivery.deaths),
                )
                return self.burial(letter)
            case HandBack(delay) if not held.parked and (delay > 0 or _has_changed(delivery, held)):
                counts = Counts(delivery.returns + 1, delivery.deaths, delivery.charges)
                due = now + delay if delay > 0 else None
                return self.again(delivery.message, delivery.queue, delivery.priority, counts, due)
            case _:
                return None

    def _let_go(self, settled: Sequence[tuple[Delivery, Settlement, Held | None]]) -> list[bool]:
        """Acknowledge or hand back; answer for each whether it was ours."""
        acknowledged: dict[Any, list[int]] = {}
        handed_back: dict[Any, list[int]] = {}
        answers: list[bool] = []
        for delivery, how, held in settled:
            if held is None or not (held.parked or held.channel.is_open):
                answers.append(False)
                continue
            answers.append(True)
            if held.parked:
                continue
            is_plain = isinstance(how, HandBack) and how.delay <= 0 and not _has_changed(delivery, held)
            (handed_back if is_plain else acknowledged).setdefault(held.channel, []).append(held.tag)
        for channel, tags in acknowledged.items():
            channel.ack(tags)
        for channel, tags in handed_back.items():
            channel.give_back(tags)
        return answers

    async def stats(self, queues: Collection[str] | None = None) -> Sequence[QueueStats]:
        """Return what is ready and dead by queue, and under `aiotq.delay` what is delayed in all of them.

        RabbitMQ tells others neither what is held nor how old something is. Without `queues`: those that the settings
        name, that are used in this process, or that have dead letters.
        """
        dead = Counter(letter.queue for letter in await self._dead.all())
        found = [
            QueueStats(name, await self._ready(name), self._held_of(name), 0, dead[name])
            for name in sorted({*self._names, *dead} if queues is None else queues)
        ]
        if queues is None:
            found.append(QueueStats(ALL_DELAYED, 0, 0, await self._topology.delayed(), 0))
            found = [each for each in found if each.ready or each.leased or each.delayed or each.dead]
        return found

    async def _ready(self, name: str) -> int:
        return sum([await self._topology.ready(queue) or 0 for queue in self.queues_of(name).values()])

    def _held_of(self, name: str) -> int:
        return sum(held.queue == name and held.channel.is_open for held in self._held.values())

    async def purge(self, queue: str) -> int:
        """Delete what is ready in `queue`; what is delayed stands among that of all others, and stays."""
        return sum([await self._topology.purge(each) for each in self.queues_of(queue).values()])

    async def dead_letters(self, queue: str | None = None, *, limit: int = 100) -> Sequence[DeadLetter]:
        return await self._dead.newest(queue, limit)

    async def dead_letter(self, key: str) -> DeadLetter | None:
        return await self._dead.find(key)

    async def replay(self, keys: Sequence[str]) -> int:
        def sent_again(letter: DeadLetter, message: Message) -> Outgoing:
            return self.again(message, letter.queue, letter.priority, NOTHING, None)

        return await self._dead.replay(keys, sent_again)

    async def remove_dead(self, keys: Sequence[str]) -> int:
        return await self._dead.remove(frozenset(keys))

    async def purge_dead(self, queue: str | None = None, *, before: float | None = None) -> int:
        return await self._dead.purge(queue, before)


def _has_changed(delivery: Delivery, held: Held) -> bool:
    """Whether more is known of it than the message itself says."""
    return (delivery.deaths, delivery.charges) != (held.counts.deaths, held.counts.charges)


@contextmanager
def _others_sent(count: int) -> Generator[None]:
    """Have no error say that nothing was sent when `count` others were."""
    try:
        yield
    except NotConnected as exc:
        if count:
            raise ConnectionLost(f"{exc}; some of what was sent together is in the broker") from exc
        raise


def name_problem(name: str) -> str | None:
    """Return why no queue of tasks can be called `name`; None: one can."""
    if not _NAME.fullmatch(name):
        return "on RabbitMQ the name of a queue has letters (a to z), digits, spaces and -_.:@#,/+ alone"
    if len(name) > LONGEST_NAME:
        return f"on RabbitMQ a name has at most {LONGEST_NAME} bytes"
    if name.startswith(("aiotq.", "amq.")):
        return "names that begin with 'aiotq.' or 'amq.' are not to be used"
    return None


def _check_name(name: str) -> None:
    if (problem := name_problem(name)) is not None:
        raise Refused(f"queue {name[:LONGEST_NAME]!r}: {problem}", "queue")


def _post(message: Outgoing, number: int, now: float) -> Post:
    """Return `message` as it is published; raises Refused if it can't be."""
    try:
        post = message.post(number, now)
    except (TypeError, ValueError, OverflowError, struct.error) as exc:
        raise Refused(f"RabbitMQ has no form for a header of a message: {exc}", "unencodable") from exc
    if len(post.properties) > _MOST_PROPERTIES:
        text = f"the headers of a message are {len(post.properties)} bytes, over the limit of {_MOST_PROPERTIES}"
        raise Refused(text, "too_large")
    return post


def _list(queues: Collection[str]) -> str:
    return ", ".join(repr(queue) for queue in sorted(queues))
