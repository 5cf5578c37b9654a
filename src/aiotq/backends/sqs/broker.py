"""The broker in Amazon SQS: visibility as the lease, ten messages a request, delays of more than 15 minutes in a chain.

SQS delivers at least once, and takes a message's handle for true long after somebody else has the message. So this
broker fences nothing: what comes twice, or runs elsewhere, is told apart by claims in the ledger (`commit/ordered`),
which count deaths as well.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Final, Self

from ...core.clock import SYSTEM_CLOCK, Clock
from ...exceptions import Refused
from ...transport.broker import (
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
from ...wire.message import Envelope, Message, new_id
from .connection import AT_ONCE, SqsClient
from .consumer import SqsConsumer
from .dead_letters import DeadLetters
from .held import LONGEST_HOLD, Entry, Holding, Letting
from .messages import group_of, letter_text, written
from .outgoing import NotTaken, Outgoing, Sender
from .topology import Topology, name_problem

DEAD_LETTER_RETENTION: Final = 14 * 86_400.0
_DEFAULT_PRIORITY: Final = 4
#: Seconds for which a purge has what it deletes.
_PURGE: Final = 30


class SqsBroker(Broker):
    """A broker on one `SqsClient`, which is entered by whoever made it.

    `priority` is the one that messages have where there are no queues for several; `names` are those that `stats` looks
    at beside the ones that are used here. `has_claims` False: messages of tasks that run for half a day stay where they
    are, and come again.
    """

    counts_deaths = False
    can_list = False

    def __init__(
        self,
        client: SqsClient,
        *,
        clock: Clock = SYSTEM_CLOCK,
        priority: int = _DEFAULT_PRIORITY,
        dead_letter_retention: float = DEAD_LETTER_RETENTION,
        names: Collection[str] = (),
        has_claims: bool = True,
    ) -> None:
        self.client = client
        self.has_claims = has_claims
        self.topology = Topology(client, dead_letter_retention)
        self.letting = Letting(client, self.topology)
        #: What workers here have, by its lease.
        self.held: dict[int | str, Entry] = {}
        self._clock = clock
        self._priority = priority
        self._names = set(names)
        self._sender = Sender(client, self.topology)
        self._dead = DeadLetters(client, self.topology, self._sender, clock, lambda: self._names)
        self._consumers: set[SqsConsumer] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    async def send(self, batch: Sequence[Envelope]) -> None:
        if not batch:
            return
        for envelope in batch:
            self._check(envelope)
        # What is due before it is sent comes as if it had waited.
        in_order = sorted(batch, key=lambda each: each.due or 0.0)
        outgoing = [self.outgoing(each.message, each.queue, each.priority, each.due) for each in in_order]
        try:
            await self.publish(outgoing)
        except NotTaken as exc:
            keys = [each.message.key for each, out in zip(in_order, outgoing, strict=True) if out in exc.refused]
            raise Refused(str(exc), exc.reason, keys) from exc
        self._names.update(envelope.queue for envelope in batch)

    def _check(self, envelope: Envelope) -> None:
        address = self.client.address
        if envelope.queue not in self._names:
            self._check_name(envelope.queue)
        if not address.has_priorities and envelope.priority != self._priority:
            raise Refused(
                f"message {envelope.message.id} has priority {envelope.priority}, and SQS has none: all messages have "
                f"task_default_priority ({self._priority}). Send it to a queue of its own, or have four queues for "
                "each name (sqs://?priorities=true)",
                "priority",
            )

    def _check_name(self, name: str) -> None:
        if (problem := name_problem(name, self.client.address.prefix)) is not None:
            raise Refused(f"queue {name[:100]!r}: {problem}", "queue")

    def outgoing(self, message: Message, queue: str, priority: int, due: float | None, returns: int = 0) -> Outgoing:
        """Return `message` on its way to its queue."""
        if due is not None and due <= self._clock.time():
            due = None
        place = self.topology.place(queue, priority, is_delayed=due is not None)
        group = group_of(message) if self.client.address.is_fifo and due is None else None
        return Outgoing(place, written(message, priority, due, returns), due, group)

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        """Send; raises as `Sender.send` does."""
        await self._sender.send(outgoing, self._clock.time())

    def burial(self, letter: DeadLetter) -> Outgoing:
        """Return `letter` on its way to the dead letters."""
        self._names.add(letter.queue)
        return Outgoing(self.topology.dead(letter.queue), letter_text(letter))

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            self._check_name(letter.queue)
        await self.publish([self.burial(letter) for letter in letters])

    @asynccontextmanager
    async def consumer(
        self, name: str, queues: Sequence[str], *, lease: float, order: QueueOrder = FAIR
    ) -> AsyncGenerator[Consumer]:
        for queue in queues:
            self._check_name(queue)
        self._names.update(queues)
        consumer = SqsConsumer(self, name, queues, lease=lease, order=order, clock=self._clock)
        await consumer.enter()
        self._consumers.add(consumer)
        try:
            yield consumer
        finally:
            self._consumers.discard(consumer)
            await consumer.leave()

    async def settle(self, settlements: Sequence[tuple[Delivery, Settlement]]) -> Sequence[bool]:
        now = asyncio.get_running_loop().time()
        mine = [
            (delivery, how, holding)
            for delivery, how in settlements
            if (holding := self.held.pop(delivery.lease, None)) is not None
            and (holding.is_parked or holding.until > now)
        ]
        try:
            await self._send_copies(mine, now)
            stale = await self._let_go(mine)
        except BaseException:
            self.held.update({delivery.lease: holding for delivery, _, holding in mine})  # it may be called again
            raise
        settled = {delivery.lease for delivery, _, holding in mine if holding not in stale}
        return [delivery.lease in settled for delivery, _ in settlements]

    async def _send_copies(self, mine: Sequence[tuple[Delivery, Settlement, Entry]], now: float) -> None:
        """Send what stands for some of these from now on, unless a call before this one has sent it."""
        copies = [
            (holding, copy)
            for delivery, how, holding in mine
            if not holding.is_copied and (copy := self._copy(delivery, how, holding, now)) is not None
        ]
        if copies:
            await self.publish([copy for _, copy in copies])
            for holding, _ in copies:
                holding.is_copied = True

    def _copy(self, delivery: Delivery, how: Settlement, holding: Entry, now: float) -> Outgoing | None:
        """Return what is sent before this one is deleted; None if nothing is."""
        match how:
            case GiveUp(reason, detail):
                letter = DeadLetter(
                    new_id(),
                    *(delivery.queue, delivery.priority, delivery.message, b""),
                    *(reason, detail, self._clock.time(), delivery.deaths),
                )
                return self.burial(letter)
            case HandBack(delay) if not holding.is_parked and self._goes_back_as_copy(delay, holding, now):
                due = self._clock.time() + delay
                return self.outgoing(delivery.message, delivery.queue, delivery.priority, due, delivery.returns + 1)
            case _:
                return None

    def _goes_back_as_copy(self, delay: float, holding: Entry, now: float) -> bool:
        """Whether a copy is sent. Visibility is whole seconds, and many who wait for their turn would all be late.

        On a FIFO queue a copy would leave its group, so it is sent only if the message can't be held for so long.
        """
        if self.client.address.is_fifo:
            return now + delay - holding.came_at > LONGEST_HOLD
        return delay > 0

    async def _let_go(self, mine: Sequence[tuple[Delivery, Settlement, Entry]]) -> set[Holding]:
        """Delete what is done or was copied, give back the others; return those that were not ours by then."""
        done: list[Holding] = []
        back: list[tuple[Holding, int]] = []
        for _, how, holding in mine:
            if holding.is_parked:
                continue
            if isinstance(how, HandBack) and not holding.is_copied:
                back.append((holding, max(math.ceil(how.delay), 0)))
            else:
                done.append(holding)
        return await self.letting.go(done, back)

    async def stats(self, queues: Collection[str] | None = None) -> Sequence[QueueStats]:
        """Return about how many messages there are. SQS does not tell how old they are.

        Without `queues`: those that the settings name, or that are used in this process.
        """
        found = [await self._stats_of(name) for name in sorted(self._names if queues is None else queues)]
        return [each for each in found if queues is not None or each.ready or each.leased or each.delayed or each.dead]

    async def _stats_of(self, name: str) -> QueueStats:
        ready = leased = delayed = 0
        for place in self.topology.places(name):
            if (url := await self.topology.known(place)) is not None:
                counts = await self.client.counts(url)
                ready, leased, delayed = ready + counts[0], leased + counts[1], delayed + counts[2]
        for consumer in self._consumers:
            shelved, early = consumer.unread(name)
            ready, leased, delayed = ready + shelved, max(0, leased - shelved - early), delayed + early
        return QueueStats(name, ready, leased, delayed, await self._dead.count(name))

    async def purge(self, queue: str) -> int:
        """Delete what is ready in `queue`. What is delayed stays: SQS shows it to nobody."""
        count = 0
        for place in self.topology.places(queue):
            url = await self.topology.known(place)
            while url is not None and (found := await self.client.receive(url, AT_ONCE, wait=0, hold=_PURGE)):
                await self.client.delete(url, [each.handle for each in found])
                count += len(found)
        return count

    async def dead_letters(self, queue: str | None = None, *, limit: int = 100) -> Sequence[DeadLetter]:
        return await self._dead.newest(queue, limit)

    async def dead_letter(self, key: str) -> DeadLetter | None:
        return await self._dead.find(key)

    async def replay(self, keys: Sequence[str]) -> int:
        def sent_again(letter: DeadLetter, message: Message) -> Outgoing:
            return self.outgoing(message, letter.queue, letter.priority, None)

        return await self._dead.replay(keys, sent_again)

    async def remove_dead(self, keys: Sequence[str]) -> int:
        return await self._dead.remove(frozenset(keys))

    async def purge_dead(self, queue: str | None = None, *, before: float | None = None) -> int:
        return await self._dead.purge(queue, before)
