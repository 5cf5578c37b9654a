"""One worker's hold on some queues of a RabbitMQ: what is pushed, kept until it can start, handed back (P2, P5, P7).

The broker pushes at most what the worker's slots can start, to each queue's consumer. It stands on `Shelves` until
a read takes it, or goes back when nobody reads for a moment. The right to run it is its claim in the ledger: a
delivery whose channel is gone is settled by whoever gets it next and finds that claim.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

from ...core.aio import Service, finish
from ...core.clock import Clock
from ...exceptions import MalformedMessage, OperationalError
from ...transport.broker import Consumer, DeadLetter, Delivery, QueueOrder
from ...wire.message import Message, new_id
from ..shelves import Counts, Shelves
from .channel import Channel, Refused
from .connection import AmqpClient
from .frames import Delivered, header_size
from .messages import Outgoing, taken_from
from .prefetched import Entry, Held, NearlyDue, Pace, Source, Unreadable

logger = logging.getLogger("aiotq.transport.amqp")

#: Seconds that what was pushed may stand here while nobody reads: then somebody else may have it.
_HOARD: Final = 0.5
#: Seconds between looks of a consumer that waits: that the broker answers, and has nothing for us (P7).
_SAFETY_INTERVAL: Final = 10.0
#: Seconds that a suspect waits here for another one to end, and that it is put aside for after that.
_SUSPECT_PATIENCE: Final = 1.0
#: Seconds that a message which is early waits here, by the ladder's margin or another clock; longer: on the ladder.
_EARLY: Final = 1.0
#: As many messages that wait here the broker may have pushed beside those that the slots can start.
_MOST_EARLY: Final = 256
#: Seconds that a long task's message is put aside for, about; it goes round until its claim ends.
_PARKED_FOR: Final = 10.0
#: A prefetch so many times too large is made smaller.
_TOO_LARGE: Final = 4
_MOST: Final = 65_535
#: Seconds that a change of consumers may take to its end when whoever reads has been cancelled.
_LAST_WORDS: Final = 1.0


class ConsumerBroker(Protocol):
    """What a consumer asks of its transport."""

    def queues_of(self, name: str) -> Mapping[int | None, str]: ...

    async def declare(self, queues: Collection[str]) -> None: ...

    def forget(self, queues: Collection[str]) -> None: ...

    async def publish(self, outgoing: Sequence[Outgoing]) -> None: ...

    def again(self, message: Message, queue: str, priority: int, counts: Counts, due: float | None) -> Outgoing: ...

    def burial(self, letter: DeadLetter, came_with: Mapping[str, Any]) -> Outgoing: ...

    def hold(self, lease: str, held: Held) -> None: ...

    def drop(self, lease: str) -> Held | None: ...


class AmqpConsumer(Consumer):
    """One worker's hold on some queues. Made and left by `AmqpBroker.consumer`."""

    def __init__(
        self,
        broker: ConsumerBroker,
        client: AmqpClient,
        name: str,
        queues: Sequence[str],
        *,
        lease: float,
        order: QueueOrder,
        clock: Clock,
        park_after: float | None,
    ) -> None:
        self._broker = broker
        self.client = client
        self._clock = clock
        self._lease = lease
        self._park_after = park_after
        self._name = f"{name}#{new_id()[-8:]}"
        self._numbers = 0
        self._sources = self._sources_of(queues)
        self._by_tag: dict[str, Source] = {}
        self._shelves: Shelves[Entry] = Shelves(queues, order)
        self._pace = Pace()
        #: What the worker has, by its lease; emptied by the transport that settles it.
        self.held: dict[str, Held] = {}
        self._early: list[Entry] = []  #: goes back to the ladder
        self._ripening = NearlyDue(clock, self._ripe)
        self._junk: list[Unreadable] = []
        self.channel: Channel | None = None
        self._opening = asyncio.Lock()
        self._changing = asyncio.Lock()  #: held while consumers change
        self._tidying = asyncio.Lock()
        self._news = asyncio.Event()
        self._chores = asyncio.Event()
        self._reminder: asyncio.TimerHandle | None = None
        self._readers = 0
        self._takes_suspects = True
        self._loop = asyncio.get_running_loop()
        self._service: Service[None] = Service(self._main, "aiotq.amqp.consumer")

    async def enter(self) -> None:
        """Connect, and see that the queues are there."""
        await self._broker.declare([source.queue for source in self._sources])
        await self._service.start()

    async def leave(self) -> None:
        """Hand back what was received and never settled: closing the channel does that."""
        for lease in list(self.held):
            self._broker.drop(lease)
        try:
            if self.channel is not None:
                self.channel.on_arrival = self.channel.on_closed = None
                async with asyncio.timeout(self.client.address.reply_timeout):
                    await self.channel.close()
        except (OperationalError, TimeoutError) as exc:
            logger.warning("can't hand back messages of %s, RabbitMQ will do it: %s", self._name, exc)
        finally:
            await self._service.stop()

    async def receive(self, limit: int, *, suspect: bool, wait: float) -> Sequence[Delivery]:
        deadline = self._loop.time() + wait
        self._readers += 1
        self._takes_suspects = suspect
        try:
            while limit > 0:
                self._news.clear()  # before looking, so that nothing is missed that comes in between
                await self._see(limit, is_last=self._loop.time() >= deadline)
                if taken := self._shelves.take(limit, suspect=suspect):
                    self._pace.took(len(taken), self._loop.time())
                    return [self._delivery(entry) for entry in taken]
                if not await self._something(deadline):
                    break
        finally:
            self._readers -= 1
            if self._shelves:
                self._remind(_HOARD)
        return ()

    def renew(self, held: Collection[Delivery]) -> Collection[Delivery]:
        """The claim is the lease: nothing is lost with a connection. What the worker forgot is handed back."""
        leases = frozenset(delivery.lease for delivery in held)
        with suppress(RuntimeError):  # the loop is closed: so is the connection
            self._loop.call_soon_threadsafe(self._renewed, leases)
        return ()

    async def read_from(self, queues: Sequence[str]) -> None:
        wanted = frozenset(queues)
        left = [source for source in self._sources if source.name not in wanted]
        known = {source.name for source in self._sources}
        new = self._sources_of([name for name in dict.fromkeys(queues) if name not in known])
        await self._broker.declare([source.queue for source in new])
        channel = self.channel
        if left and channel is not None and channel.is_open:
            async with self._changing:
                await finish(self._stop(channel, left), _LAST_WORDS, once_cancelled=True)
        self._sources = [source for source in self._sources if source.name in wanted] + new
        self._give_back(self._shelves.read_from(queues))

    def _sources_of(self, queues: Collection[str]) -> list[Source]:
        return [Source(name, queue, low) for name in queues for low, queue in self._broker.queues_of(name).items()]

    async def reclaim(self, dead: Collection[str] = ()) -> int:
        """RabbitMQ sees itself when a holder is gone, and delivers again."""
        return 0

    def _renewed(self, leases: Collection[int | str]) -> None:
        now = self._loop.time()
        for lease, held in list(self.held.items()):
            if lease in leases:
                held.renewed_at = now
            elif now - held.renewed_at > self._lease:
                self._broker.drop(lease)
                if held.channel.is_open and not held.parked:
                    held.channel.give_back([held.tag])

    async def _see(self, limit: int, *, is_last: bool) -> None:
        """See that all that may come is on its way; if that is new, or asked for at last, wait until it is here."""
        for attempt in range(2):
            try:
                channel = await self._open()
                if await self._consume(channel, limit) or is_last:
                    await self._look(channel, limit)
                break
            except Refused as exc:
                if not exc.is_missing or attempt:
                    raise
                self._broker.forget([source.queue for source in self._sources])
        if self._junk or self._early:
            await self._tidy()

    async def _open(self) -> Channel:
        if self.channel is not None and self.channel.is_open:
            return self.channel
        async with self._opening:
            if self.channel is None or not self.channel.is_open:
                channel = await (await self.client.wire()).channel()
                channel.on_arrival = self._arrived
                channel.on_cancel = self._cancelled
                channel.on_closed = self._lost
                self.channel = channel
        return self.channel

    async def _consume(self, channel: Channel, limit: int) -> bool:
        """Have the broker push what `limit` and the slots that are taken allow; whether that is something new."""
        ahead = self._room_for_early() + self._pace.ahead(self._loop.time())
        prefetch = min(len(self.held) + ahead + limit, _MOST)
        if not self._unfit(prefetch, limit):
            return False
        async with self._changing:
            unfit = self._unfit(prefetch, limit)
            await self._broker.declare([source.queue for source in unfit])
            await finish(self._changed(channel, unfit, prefetch), _LAST_WORDS, once_cancelled=True)
        return True

    def _unfit(self, prefetch: int, limit: int) -> list[Source]:
        """Return the sources of which something else is to be pushed than is."""
        is_short = len(self._shelves) < limit
        return [
            source
            for source in self._sources
            if not source.tag
            or (source.prefetch < prefetch and is_short)
            or source.prefetch >= max(_TOO_LARGE * prefetch, 2 * _TOO_LARGE)
        ]

    async def _changed(self, channel: Channel, sources: Sequence[Source], prefetch: int) -> None:
        """Have the broker push from `sources` with another prefetch, each to a new consumer."""
        await self._stop(channel, sources)
        await channel.prefetch(prefetch)
        for source in sources:
            self._numbers += 1
            source.tag = tag = f"{self._name}.{self._numbers}"
            source.prefetch = prefetch
            self._by_tag[tag] = source
            await channel.consume(source.queue, tag)

    async def _stop(self, channel: Channel, sources: Sequence[Source]) -> None:
        """Have the broker push nothing from `sources`. What it has pushed before is here then."""
        for source in sources:
            if tag := source.tag:
                source.tag = ""
                await channel.cancel(tag)
                self._by_tag.pop(tag, None)

    def _room_for_early(self) -> int:
        """Return for how many that can't start yet there must be room: in steps, since the server must be told."""
        early = len(self._early) + len(self._ripening)
        return min(1 << (early - 1).bit_length(), _MOST_EARLY) if early else 0

    async def _look(self, channel: Channel, limit: int) -> None:
        """Ask each queue for a message until they have none or there is enough: what was pushed before is here then."""
        sources = self._sources
        for _ in range(limit + _MOST_EARLY):
            answers = [channel.get(source.queue) for source in sources]
            for source, answer in zip(sources, answers, strict=True):
                answer.add_done_callback(partial(self._got, source, channel))
            await asyncio.wait(answers)
            sources = [source for source, answer in zip(sources, answers, strict=True) if answer.result() is not None]
            if not sources or len(self._shelves) >= limit:
                return

    def _got(self, source: Source, channel: Channel, answer: asyncio.Future[Delivered | None]) -> None:
        if not answer.cancelled() and answer.exception() is None and (arrival := answer.result()) is not None:
            self._put(source, channel, arrival)

    def _arrived(self, arrival: Delivered) -> None:
        source = self._by_tag.get(arrival.consumer)
        if source is not None and self.channel is not None:
            self._put(source, self.channel, arrival)

    def _put(self, source: Source, channel: Channel, arrival: Delivered) -> None:
        try:
            if (size := header_size(arrival.properties)) > channel.line.frame_max:
                raise MalformedMessage(
                    f"its headers have {size} bytes, more than a frame may have: RabbitMQ itself added x-death"
                )
            taken = taken_from(arrival, source.lowest)
        except MalformedMessage as exc:
            self._junk.append(Unreadable(source, channel, arrival, str(exc)))
            self._chores.set()
        else:
            entry = Entry(source.name, channel, arrival.tag, taken, self._loop.time())
            wait = (taken.due or 0.0) - self._clock.time()
            if wait <= 0:
                self._shelve(entry)
            elif wait <= _EARLY:
                self._ripening.add(entry, wait)
            else:
                self._early.append(entry)
                self._chores.set()
        if not self._readers:
            self._remind(_HOARD)
        self._news.set()

    def _shelve(self, entry: Entry) -> None:
        """Have the next read take `entry`, or give it back if its queue is not read any more."""
        if entry.channel.is_open and not self._shelves.add(entry):
            entry.channel.give_back([entry.tag])

    def _give_back(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.channel.is_open:
                entry.channel.give_back([entry.tag])

    def _cancelled(self, tag: str) -> None:
        """The queue of a consumer was deleted."""
        source = self._by_tag.pop(tag, None)
        if source is not None:
            logger.warning("queue %r was deleted and its messages are gone: declaring it again", source.queue)
            source.tag = "" if source.tag == tag else source.tag
            self._broker.forget([source.queue])
        self._news.set()

    def _lost(self) -> None:
        """The channel is gone, and all that came on it: it is delivered again, here or elsewhere."""
        self._shelves.clear()
        self._early.clear()
        self._ripening.clear()
        self._junk.clear()
        self._by_tag.clear()
        for source in self._sources:
            source.tag = ""
        self._news.set()

    def _delivery(self, entry: Entry) -> Delivery:
        self._numbers += 1
        lease = f"{self._name}:{self._numbers}"
        held = self.held[lease] = Held(self, entry, self._loop.time())
        self._broker.hold(lease, held)
        taken = entry.taken
        counts = taken.counts
        return Delivery(
            taken.message,
            entry.queue,
            taken.priority,
            lease,
            self._clock.monotonic(),
            counts.deaths,
            counts.charges,
            counts.returns,
        )

    async def _something(self, deadline: float) -> bool:
        """Wait until there may be something; False when the deadline passed first.

        Now and then the broker is asked: only its answer says that we consume.
        """
        look_at = self._loop.time() + _SAFETY_INTERVAL * random.uniform(0.8, 1.2)
        if not self._news.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(deadline, look_at)):
                    await self._news.wait()
        now = self._loop.time()
        if now >= deadline:
            return False
        if now >= look_at and self.channel is not None and self.channel.is_open:
            await self._look(self.channel, 1)
        return True

    def _remind(self, seconds: float) -> None:
        """Have `_keep` look in so many seconds, or earlier."""
        if self._reminder is None:
            self._reminder = self._loop.call_later(seconds, self._chores.set)

    async def _main(self, ready: Any, stopping: asyncio.Event) -> None:
        async with self.client, asyncio.TaskGroup() as group:
            keeping = group.create_task(self._keep(), name=f"aiotq.amqp.{self._name}")
            ready(None)
            await stopping.wait()
            keeping.cancel()

    async def _keep(self) -> None:
        """Do what has to be done while nobody reads, until cancelled."""
        while True:
            interval = min(self._park_after / 4, 60.0) if self._park_after is not None else 60.0
            with suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._chores.wait()
            self._chores.clear()
            if self._reminder is not None:
                self._reminder.cancel()
                self._reminder = None
            try:
                await self._let_go()
                await self._park_long()
                await self._tidy()
            except OperationalError as exc:
                logger.warning("%s: messages that can't start can't be handed back now: %s", self._name, exc)
                self._remind(_SUSPECT_PATIENCE)
            except Exception:  # a defect must not end it
                logger.exception("%s: checking pushed messages failed, trying again", self._name)
                self._remind(_SUSPECT_PATIENCE)

    async def _let_go(self) -> None:
        """Give back what was pushed and can't start: nobody reads, and nothing came for a moment."""
        entries = self._shelves.all()
        if self._readers or not entries:
            return
        now = self._loop.time()
        if now - max(entry.came_at for entry in entries) < _HOARD / 2 or not await self.pause():
            self._remind(_HOARD / 2)

    async def pause(self) -> bool:
        """Have nothing pushed until the next read, and give back what stands here; False: not possible now."""
        channel = self.channel
        if channel is None or not channel.is_open or self._changing.locked():
            return False
        async with self._changing:
            await finish(self._paused(channel), _LAST_WORDS, once_cancelled=True)
        return True

    async def _paused(self, channel: Channel) -> None:
        await self._stop(channel, self._sources)
        if self._readers:  # somebody came meanwhile, and has it pushed again
            return
        entries = self._shelves.all()
        self._shelves.clear()
        channel.give_back([entry.tag for entry in entries])

    async def _park_long(self) -> None:
        """Put aside the messages of long tasks, before the broker's `consumer_timeout` closes the channel."""
        if self._park_after is None:
            return
        before = self._loop.time() - self._park_after
        long = [
            held for held in self.held.values() if held.since <= before and not held.parked and held.channel.is_open
        ]
        if not long:
            return
        due = self._clock.time() + min(_PARKED_FOR, self._lease)
        await self._broker.publish(
            [self._broker.again(each.message, each.queue, each.priority, each.counts, due) for each in long]
        )
        for held in long:
            held.parked = True
            if held.channel.is_open:
                held.channel.ack([held.tag])

    async def _tidy(self) -> None:
        """Bury what can't be read; put aside what is early, and suspects that have waited here for another to end."""
        async with self._tidying:
            now = self._loop.time()
            junk, self._junk = self._junk, []
            early, self._early = self._early, []
            late = [] if self._takes_suspects else self._shelves.take_suspects(now - _SUSPECT_PATIENCE)
            aside = [(entry, entry.taken.due) for entry in early]
            aside += [(entry, self._clock.time() + _SUSPECT_PATIENCE) for entry in late]
            if self._shelves.has_suspects:
                self._remind(_SUSPECT_PATIENCE)
            try:
                await self._put_away(junk, aside)
            except BaseException:
                # What came on a channel that is gone is delivered again.
                self._junk += [each for each in junk if each.channel.is_open]
                self._early += [entry for entry in early if entry.channel.is_open]
                for entry in late:
                    self._shelve(entry)
                raise

    async def _put_away(self, junk: Sequence[Unreadable], aside: Sequence[tuple[Entry, float | None]]) -> None:
        """Publish what becomes of these, then acknowledge them."""
        out: list[Outgoing] = []
        for each in junk:
            logger.error("queue %r: an unreadable message becomes a dead letter: %s", each.source.queue, each.why)
            out.append(self._broker.burial(each.letter(self._clock.time()), each.properties()))
        for entry, due in aside:
            taken = entry.taken
            out.append(self._broker.again(taken.message, entry.queue, taken.priority, taken.counts, due))
        if not out:
            return
        await self._broker.publish(out)
        done = [(each.channel, each.arrival.tag) for each in junk] + [(entry.channel, entry.tag) for entry, _ in aside]
        for channel, tag in done:
            if channel.is_open:
                channel.ack([tag])

    def _ripe(self, entry: Entry) -> None:
        """What was early is due."""
        self._shelve(entry)
        self._news.set()
        if not self._readers:
            self._remind(_HOARD)
