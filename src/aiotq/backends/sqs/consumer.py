"""One worker's hold on some queues of SQS: long polls, what they bring, and its visibility renewed (P2, P5, P7).

A poll that was cancelled may have brought messages that nobody sees until their visibility ends. So polls outlast the
read that began them: what they bring stands on `Shelves` until a read takes it, or goes back when nobody reads for a
moment.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final, Protocol

from anyio import to_thread

from ...core.aio import Service, finish
from ...core.clock import Clock
from ...exceptions import OperationalError
from ...transport.broker import Consumer, DeadLetter, Delivery, QueueOrder
from ...wire.message import Message, new_id
from ..shelves import Shelves
from .blocking import BlockingClient
from .connection import AT_ONCE, Arrival, MissingQueue, SqsClient
from .held import LONGEST_HOLD, Entry, Holding, Letting, Source
from .messages import Unreadable, taken_from
from .outgoing import Outgoing
from .topology import Topology

logger = logging.getLogger("aiotq.transport.sqs")

#: Seconds by which a read that waits ends early: long polls last whole seconds, and without one nothing is heard of.
_LAST_MOMENT: Final = 1.0
#: Seconds that what was polled may stand here while nobody reads: then somebody else may have it.
_HOARD: Final = 0.5
#: Seconds that a message which is early waits here: SQS delays by whole seconds. Longer: in the chain.
_EARLY: Final = 1.0
#: Seconds between looks for what has been held for nearly as long as SQS allows.
_PARKING: Final = 60.0
#: Seconds by which a message is put aside before it can't be held any longer.
_PARKED_EARLIER: Final = 600.0
#: Seconds that a long task's message is put aside for, about; it goes round until its claim ends.
_PARKED_FOR: Final = 900.0
#: Seconds before which a held message is not renewed again, as a share of the lease.
_FRESH: Final = 0.25
#: Seconds that a step may take to its end when whoever reads has been cancelled.
_LAST_WORDS: Final = 2.0


class ConsumerBroker(Protocol):
    """What a consumer asks of its broker."""

    client: SqsClient
    topology: Topology
    letting: Letting
    held: dict[int | str, Entry]
    has_claims: bool

    def outgoing(self, message: Message, queue: str, priority: int, due: float | None, returns: int) -> Outgoing: ...

    async def publish(self, outgoing: Sequence[Outgoing]) -> None: ...

    def burial(self, letter: DeadLetter) -> Outgoing: ...


class SqsConsumer(Consumer):
    """One worker's hold on some queues. Made and left by `SqsBroker.consumer`."""

    def __init__(
        self,
        broker: ConsumerBroker,
        name: str,
        queues: Sequence[str],
        *,
        lease: float,
        order: QueueOrder,
        clock: Clock,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._seconds = max(1, math.ceil(lease))  #: of visibility
        self._name = f"{name}#{new_id()[-8:]}"
        self._numbers = 0
        self._sources = self._sources_of(queues)
        self._shelves: Shelves[Entry] = Shelves(queues, order)
        self._ripening: dict[Entry, asyncio.TimerHandle] = {}
        self._early: deque[Entry] = deque()  #: goes on in the chain
        self._back: deque[Entry] = deque()  #: is given back
        self._junk: deque[tuple[Holding, Unreadable]] = deque()
        self._blocking = BlockingClient(broker.client.address)
        self._tidying = asyncio.Lock()
        self._news = asyncio.Event()
        self._chores = asyncio.Event()
        self._failure: Exception | None = None
        self._readers = 0
        self._loop = asyncio.get_running_loop()
        self._group: asyncio.TaskGroup | None = None
        self._polls: set[asyncio.Task[None] | None] = set()
        self._service: Service[None] = Service(self._main, "aiotq.sqs.consumer")

    async def enter(self) -> None:
        """See that the queues are there."""
        for source in self._sources:
            await self._broker.topology.url(source.place)
        await self._service.start()

    async def leave(self) -> None:
        """Hand back what was received and never settled."""
        try:
            await self._service.stop()
        finally:
            try:
                await finish(self._give_all_back(), self._broker.client.address.reply_timeout)
            except (OperationalError, TimeoutError) as exc:
                logger.warning("can't hand back messages of %s, their visibility will end: %s", self._name, exc)
            finally:
                await finish(to_thread.run_sync(self._blocking.close), _LAST_WORDS)

    async def _give_all_back(self) -> None:
        held = self._broker.held
        own = [lease for lease, each in held.items() if each.holder == self._name]
        back = [each for lease in own if not (each := held.pop(lease)).is_parked]
        for timer in self._ripening.values():
            timer.cancel()
        back += [*self._shelves.all(), *self._ripening, *self._early, *self._back]
        self._shelves.clear()
        await self._broker.letting.go([], [(each, 0) for each in back])

    def unread(self, name: str) -> tuple[int, int]:
        """Return how many messages of a name's stand here and are nobody's yet: ready ones, and early ones."""
        now = self._loop.time()
        ready, early = (
            sum(each.queue == name and each.until > now for each in some)
            for some in ([*self._shelves.all(), *self._back], [*self._ripening, *self._early])
        )
        return ready, early

    async def receive(self, limit: int, *, suspect: bool, wait: float) -> Sequence[Delivery]:
        """See `Consumer.receive`. Which messages are suspects the claims know, of which one starts at a time."""
        deadline = self._loop.time() + wait - (_LAST_MOMENT if wait > 2 * _LAST_MOMENT else 0.0)
        self._readers += 1
        try:
            while limit > 0:
                self._news.clear()  # before looking, so that nothing is missed that comes in between
                is_last = self._loop.time() >= deadline
                await self._look(limit, is_last=is_last)
                if taken := self._take(limit, suspect=suspect):
                    return taken
                if is_last:
                    break
                self._poll_long(limit, deadline)
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline):
                        await self._news.wait()
        finally:
            self._readers -= 1
            self._look_in()
        return ()

    def _take(self, limit: int, *, suspect: bool) -> list[Delivery]:
        """Take what stands on the shelves, but what stood there for too long: it is somebody else's by now."""
        now = self._loop.time()
        found: list[Delivery] = []
        while not found and (entries := self._shelves.take(limit, suspect=suspect)):
            for entry in entries:
                entry.source.unread -= 1
                if entry.until > now:
                    found.append(self._delivery(entry))
        return found

    def _delivery(self, entry: Entry) -> Delivery:
        self._numbers += 1
        lease = f"{self._name}:{self._numbers}"
        self._broker.held[lease] = entry
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

    async def _look(self, limit: int, *, is_last: bool) -> None:
        """Ask those queues for what they have that may have some; all of them if it is asked for at last."""
        self._raise_failure()
        sources = [
            source
            for source in self._sources
            if source.unread < limit and (is_last or not (source.polls or source.is_idle))
        ]
        if polls := [self._begin(source, limit, 0) for source in sources]:
            await asyncio.wait(polls)
            self._raise_failure()
        if self._junk or self._early or self._back:
            await finish(self._tidy(), _LAST_WORDS, once_cancelled=True)

    def _poll_long(self, limit: int, deadline: float) -> None:
        """Have each queue under a long poll that ends before the `deadline`."""
        wait = min(self._broker.client.address.wait, math.ceil(deadline - self._loop.time()))
        for source in self._sources:
            if not source.polls:
                self._begin(source, limit, wait)

    def _begin(self, source: Source, limit: int, wait: int) -> asyncio.Task[None]:
        if self._group is None:
            raise OperationalError("the consumer has been left")
        source.polls += 1
        poll = self._group.create_task(self._poll(source, limit, wait), name=f"aiotq.sqs.poll.{source.place}")
        self._polls.add(poll)
        return poll

    async def _poll(self, source: Source, limit: int, wait: int) -> None:
        """Ask once; and again while there are ten at once, and not as many as are wanted."""
        try:
            while (wanted := limit - source.unread) > 0:
                asked = min(wanted, AT_ONCE)
                arrivals = await self._arrivals(source, asked, wait)
                source.is_idle = not arrivals
                for arrival in arrivals:
                    self._put(source, arrival)
                if len(arrivals) < asked:
                    break
                wait = 0
                self._news.set()
        except Exception as exc:  # whoever reads has to hear of it
            self._failure = exc
        finally:
            source.polls -= 1
            self._polls.discard(asyncio.current_task())
            self._news.set()
            self._look_in()

    async def _arrivals(self, source: Source, most: int, wait: int) -> Sequence[Arrival]:
        topology, client = self._broker.topology, self._broker.client
        try:
            return await client.receive(await topology.url(source.place), most, wait=wait, hold=self._seconds)
        except MissingQueue:
            logger.warning("queue %r was deleted and its messages are gone: it is made again", source.place)
            topology.forget(source.place)
            return await client.receive(await topology.url(source.place), most, wait=0, hold=self._seconds)

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _put(self, source: Source, arrival: Arrival) -> None:
        now = self._loop.time()
        taken = taken_from(arrival.text, arrival.count)
        if isinstance(taken, Unreadable):
            held = Holding(self._name, source.name, source.place, arrival.handle, now, self._seconds)
            self._junk.append((held, taken))
            return
        entry = Entry(self._name, source, arrival.handle, taken, now, self._seconds)
        wait = (taken.due or 0.0) - self._clock.time()
        if wait <= 0:
            self._shelve(entry)
        elif wait <= _EARLY:
            self._ripening[entry] = self._loop.call_later(wait, self._ripe, entry)
        else:
            self._early.append(entry)

    def _ripe(self, entry: Entry) -> None:
        """What was early is due; unless the clock says otherwise: nothing starts early."""
        wait = (entry.taken.due or 0.0) - self._clock.time()
        if wait > 0:
            self._ripening[entry] = self._loop.call_later(wait, self._ripe, entry)
            return
        del self._ripening[entry]
        self._shelve(entry)
        self._news.set()
        self._look_in()

    def _shelve(self, entry: Entry) -> None:
        """Have the next read take `entry`, or give it back if its queue is not read any more."""
        if self._shelves.add(entry):
            entry.source.unread += 1
        else:
            self._back.append(entry)

    def renew(self, held: Collection[Delivery]) -> Collection[Delivery]:
        """Renew the visibility. The claim is the lease: nothing is lost when a message becomes visible too early."""
        now = self._loop.time()
        aging: dict[str, Entry] = {}
        by_url: dict[str, list[str]] = {}
        for delivery in held:
            holding = self._broker.held.get(delivery.lease)
            if holding is None or holding.is_parked or now - holding.renewed_at < self._seconds * _FRESH:
                continue
            aging[holding.handle] = holding
            if (url := self._broker.topology.urls.get(holding.place)) is not None:
                by_url.setdefault(url, []).append(holding.handle)
        if by_url:
            stale = self._blocking.hold(by_url, self._seconds)
            for handle, renewed in aging.items():
                if handle not in stale:
                    renewed.renewed_at, renewed.until = now, now + self._seconds
        leases = frozenset(delivery.lease for delivery in held)
        with suppress(RuntimeError):  # the loop is closed: nothing is held any more
            self._loop.call_soon_threadsafe(self._forget, leases)
        return ()

    def _forget(self, leases: Collection[int | str]) -> None:
        """Forget what the worker has forgotten: its visibility ends, and it comes again."""
        now = self._loop.time()
        held = self._broker.held
        for lease, each in list(held.items()):
            if each.holder == self._name and lease not in leases and each.until < now:
                del held[lease]

    async def read_from(self, queues: Sequence[str]) -> None:
        wanted = frozenset(queues)
        known = {source.name for source in self._sources}
        new = self._sources_of([name for name in dict.fromkeys(queues) if name not in known])
        for source in new:
            await self._broker.topology.url(source.place)
        self._sources = [source for source in self._sources if source.name in wanted] + new
        for entry in self._shelves.read_from(queues):
            entry.source.unread -= 1
            self._back.append(entry)
        if self._back:
            await finish(self._tidy(), _LAST_WORDS, once_cancelled=True)

    def _sources_of(self, queues: Collection[str]) -> list[Source]:
        return [Source(name, place) for name in queues for place in self._broker.topology.places(name)]

    async def reclaim(self, dead: Collection[str] = ()) -> int:
        """SQS itself gives back what is not renewed."""
        return 0

    async def _main(self, ready: Callable[[None], None], stopping: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            keeping = group.create_task(self._keep(), name=f"aiotq.sqs.{self._name}")
            ready(None)
            await stopping.wait()
            self._group = None
            for task in (keeping, *self._polls):
                if task is not None:
                    task.cancel()

    def _look_in(self) -> None:
        """Have `_keep` look soon, if something stands here and nobody reads."""
        if not self._readers:
            self._chores.set()

    async def _keep(self) -> None:
        """Do what has to be done while nobody reads, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PARKING):
                    await self._chores.wait()
            self._chores.clear()
            if self._shelves:
                await asyncio.sleep(_HOARD)
            try:
                if not self._readers:
                    self._clear_shelves()
                await self._park_long()
                await self._tidy()
            except OperationalError as exc:
                logger.warning("%s: messages that can't start can't be handed back now: %s", self._name, exc)
            except Exception:  # a defect must not end it
                logger.exception("%s: checking polled messages failed, trying again", self._name)

    def _clear_shelves(self) -> None:
        """Give back what stands there, since nobody reads."""
        for entry in self._shelves.all():
            entry.source.unread -= 1
            self._back.append(entry)
        self._shelves.clear()

    async def _park_long(self) -> None:
        """Put aside the messages of long tasks, before they can't be held any longer."""
        before = self._loop.time() - LONGEST_HOLD + _PARKED_EARLIER
        long = [
            each
            for each in self._broker.held.values()
            if each.holder == self._name and each.came_at <= before and not each.is_parked
        ]
        if not long or not self._broker.has_claims:  # without claims a copy of what runs would run as well
            return
        due = self._clock.time() + _PARKED_FOR
        await self._broker.publish([self._again(each, due) for each in long])
        for each in long:
            each.is_parked = True
        await self._broker.letting.go(long, [])

    def _again(self, entry: Entry, due: float | None) -> Outgoing:
        """Return a copy of what came, on its way to its queue."""
        taken = entry.taken
        return self._broker.outgoing(taken.message, entry.queue, taken.priority, due, taken.counts.returns)

    async def _tidy(self) -> None:
        """Bury what can't be read, send on what is early, give back what is not read any more."""
        async with self._tidying:
            junk, early, back = list(self._junk), list(self._early), list(self._back)
            letters: list[Outgoing] = []
            for holding, each in junk:
                logger.error("queue %r: an unreadable message becomes a dead letter: %s", holding.queue, each.why)
                died_at = self._clock.time()
                letters.append(
                    self._broker.burial(
                        DeadLetter(new_id(), holding.queue, 4, None, each.raw, "malformed", each.why, died_at)
                    )
                )
            if copies := [*letters, *(self._again(each, each.taken.due) for each in early)]:
                await self._broker.publish(copies)
            done: list[Holding] = [holding for holding, _ in junk]
            done += early
            await self._broker.letting.go(done, [(each, 0) for each in back])
            # What is not done by now stays here, and is tried again; what came meanwhile stands behind it.
            for queue, count in ((self._junk, len(junk)), (self._early, len(early)), (self._back, len(back))):
                for _ in range(count):
                    queue.popleft()
