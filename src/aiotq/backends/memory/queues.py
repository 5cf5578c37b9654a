"""All of the broker in this process: plain functions over plain containers (see `memory`)."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Final

from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.values import replace
from ...transport.broker import (
    HIGHEST_PRIORITY,
    LOWEST_PRIORITY,
    SUSPECT_DEATHS,
    Acknowledge,
    DeadLetter,
    Delivery,
    GiveUp,
    HandBack,
    QueueStats,
    Settlement,
)
from ...transport.shares import Lane
from ...wire.message import Envelope, Message, pack
from ...wire.shares import share_of

#: Delayed messages moved to their queue by one read: about a millisecond of the loop's time.
DUE_BATCH: Final = 1000
#: Dead letters kept at most; the oldest go first, so that a flood of junk can't fill the process.
DEAD_LETTERS_KEPT: Final = 10_000
DEAD_LETTER_EXPIRES: Final = 30 * 86_400.0


#: Orders of priorities for a read.
DOWNWARDS: Final = range(HIGHEST_PRIORITY, LOWEST_PRIORITY - 1, -1)
UPWARDS: Final = range(LOWEST_PRIORITY, HIGHEST_PRIORITY + 1)


class _Entry:
    """One message in the broker. Held while `holder` is set; then `lease` and `ends` say for how long."""

    __slots__ = (
        "charges",
        "deaths",
        "ends",
        "holder",
        "lease",
        "message",
        "priority",
        "queue",
        "returns",
        "since",
        "waits",
    )

    def __init__(self, message: Message, queue: Queue, priority: int, since: float) -> None:
        self.message = message
        self.queue = queue
        self.priority = priority
        self.since = since  #: wall time at which it was ready first
        self.deaths = 0
        self.charges = 0
        self.returns = 0
        self.lease = 0
        self.ends = 0.0  #: monotonic
        self.holder: Holder | None = None
        self.waits: tuple[float, int, _Entry] | None = None  #: where it stands among what is delayed


class Queue:
    """What waits under one name, and who waits for it."""

    __slots__ = ("again", "delayed", "is_lanes_turn", "lanes", "levels", "name", "suspects", "waiters")

    def __init__(self, name: str) -> None:
        self.name = name
        self.again: deque[_Entry] = deque()
        self.suspects: deque[_Entry] = deque()
        self.levels: tuple[deque[_Entry], ...] = tuple(deque() for _ in UPWARDS)
        self.lanes: dict[int, Lane[_Entry]] = {}  #: by priority, what waits by key; none of them is empty
        self.is_lanes_turn = True  #: of a lane and the plain messages of its priority, which is next
        self.delayed: list[tuple[float, int, _Entry]] = []  #: a heap by due time, then order of arrival
        self.waiters: set[Waiter] = set()

    def ready(self) -> Iterable[_Entry]:
        return itertools.chain(self.suspects, self.again, *self.levels, *self.lanes.values())

    def append(self, entry: _Entry) -> None:
        """Add what is ready behind what is ready of its priority, or to the lane of its priority."""
        share = share_of(entry.message)
        if share is None:
            self.levels[entry.priority].append(entry)
            return
        if entry.priority not in self.lanes:
            self.lanes[entry.priority] = Lane()
        self.lanes[entry.priority].add(entry, share)

    def take_by_turns(self, priority: int, most: int) -> Iterable[_Entry]:
        """Yield up to `most` of one priority: of its lane and of its plain messages in turn, while both have some."""
        level, lane = self.levels[priority], self.lanes[priority]
        while most > 0 and (lane or level):
            is_fair = bool(lane) and (self.is_lanes_turn or not level)
            self.is_lanes_turn = not is_fair
            yield lane.pop() if is_fair else level.popleft()
            most -= 1
        if not lane:
            del self.lanes[priority]


class Holder:
    """A consumer as its leases know it. `blamed` is what it was charged with when it was thought dead."""

    __slots__ = ("blamed", "lease", "name")

    def __init__(self, name: str, lease: float) -> None:
        self.name = name
        self.lease = lease
        self.blamed: list[tuple[_Entry, bool]] = []


class Waiter:
    """A read that found nothing, to be rung in the loop it waits in."""

    __slots__ = ("loop", "rung")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.rung: asyncio.Future[None] = loop.create_future()

    def ring(self) -> None:
        if not self.rung.done():
            self.rung.set_result(None)


class MemoryQueues:
    """The state of a broker in this process, to be shared by the transports of one app.

    Every method returns at once and expects `lock` to be held by its caller, so that several of them can be
    one step.
    """

    def __init__(
        self,
        *,
        clock: Clock = SYSTEM_CLOCK,
        dead_letter_expires: float = DEAD_LETTER_EXPIRES,
        dead_letters_kept: int = DEAD_LETTERS_KEPT,
    ) -> None:
        self.lock = threading.Lock()
        self.clock = clock
        self._dead_letter_expires = dead_letter_expires
        self._dead_letters_kept = dead_letters_kept
        self._queues: dict[str, Queue] = {}
        self._known: dict[tuple[str, int], _Entry] = {}
        self._held: dict[int | str, _Entry] = {}
        self._dead: OrderedDict[str, DeadLetter] = OrderedDict()
        self._numbers = itertools.count(1)  #: leases, dead letters and the order of equal due times

    def queue(self, name: str) -> Queue:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = Queue(name)
        return queue

    def add(self, batch: Iterable[Envelope]) -> None:
        """Put envelopes into their queues, but for those whose message is here already."""
        known = self._known
        queues = self._queues
        now = self.clock.time()
        for envelope in batch:
            message = envelope.message
            key = message.key
            if key in known:
                continue
            queue = queues.get(envelope.queue) or self.queue(envelope.queue)
            priority = envelope.priority
            if not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
                priority = min(max(priority, LOWEST_PRIORITY), HIGHEST_PRIORITY)
            entry = known[key] = _Entry(message, queue, priority, now)
            due = envelope.due
            if due is not None and due > now:
                self._delay(entry, due)
            else:
                if message.headers is None:
                    queue.levels[priority].append(entry)
                else:
                    queue.append(entry)
                if queue.waiters:
                    self._wake(queue)

    def take(
        self,
        queues: Sequence[Queue],
        order: Sequence[int],
        limit: int,
        suspect: bool,
        holder: Holder,
        *,
        is_strict: bool = False,
    ) -> list[Delivery]:
        """Take up to `limit` messages out of `queues`, by the `order` of their priorities, for `holder`.

        If `is_strict`, nothing of a queue is taken before all there is in those before it.
        """
        read_at = self.clock.monotonic()
        now = self.clock.time()
        taken: list[_Entry] = []
        for queue in queues:
            if queue.delayed and queue.delayed[0][0] <= now:
                self._move_due(queue, now, DUE_BATCH)
        if suspect:
            for queue in queues:
                if queue.suspects:
                    taken.append(queue.suspects.popleft())
                    break
        for together in [[queue] for queue in queues] if is_strict else [queues]:
            for queue in together:
                again = queue.again
                while again and len(taken) < limit:
                    taken.append(again.popleft())
            for priority in order:
                for queue in together:
                    if priority in queue.lanes:
                        taken.extend(queue.take_by_turns(priority, limit - len(taken)))
                    level = queue.levels[priority]
                    while level and len(taken) < limit:
                        taken.append(level.popleft())
        return [self._lease(entry, holder, read_at) for entry in taken]

    def _lease(self, entry: _Entry, holder: Holder, read_at: float) -> Delivery:
        lease = entry.lease = next(self._numbers)
        entry.holder = holder
        entry.ends = read_at + holder.lease
        self._held[lease] = entry
        return Delivery(
            entry.message,
            entry.queue.name,
            entry.priority,
            lease,
            read_at,
            entry.deaths,
            entry.charges,
            entry.returns,
        )

    def next_due(self, queues: Sequence[Queue]) -> float | None:
        """Return the earliest wall time at which one of `queues` has something more."""
        return min((queue.delayed[0][0] for queue in queues if queue.delayed), default=None)

    def settle(self, delivery: Delivery, settlement: Settlement) -> bool:
        """Settle one delivery; False when its lease was lost."""
        entry = self._held.pop(delivery.lease, None)
        if entry is None:
            return False
        match settlement:
            case Acknowledge():
                del self._known[entry.message.key]
            case HandBack(delay):
                entry.returns += 1
                entry.holder = None
                if delay > 0:
                    self._delay(entry, self.clock.time() + delay)
                else:
                    self._give_back(entry)
            case GiveUp(reason, detail):
                self._bury(entry, reason, detail)
        return True

    def renew(self, held: Collection[Delivery], holder: Holder) -> list[Delivery]:
        """Move the end of `held` leases and return the lost ones; `holder` is alive, so nobody died."""
        ends = self.clock.monotonic() + holder.lease
        lost: list[Delivery] = []
        for delivery in held:
            entry = self._held.get(delivery.lease)
            if entry is None or entry.holder is not holder:
                lost.append(delivery)
            else:
                entry.ends = ends
        if holder.blamed:
            self._acquit(holder)
        return lost

    def reclaim(self, dead: Collection[str] = ()) -> int:
        """Give back what dead holders held, those called `dead` among them; return how many."""
        now = self.clock.monotonic()
        strays = [
            entry
            for entry in self._held.values()
            if entry.ends <= now or (entry.holder is not None and entry.holder.name in dead)
        ]
        if not strays:
            return 0
        suspects = Counter(entry.holder for entry in self._held.values() if entry.deaths >= SUSPECT_DEATHS)
        for entry in strays:
            holder = entry.holder
            is_guilty = entry.deaths >= SUSPECT_DEATHS and suspects[holder] == 1
            entry.deaths += 1
            entry.charges += is_guilty
            del self._held[entry.lease]
            entry.holder = None
            if holder is not None:
                holder.blamed.append((entry, is_guilty))
            self._give_back(entry)
        return len(strays)

    def leave(self, holder: Holder) -> None:
        """Give back all that `holder` holds, in the order it got them; nobody died."""
        for entry in [entry for entry in self._held.values() if entry.holder is holder]:
            del self._held[entry.lease]
            entry.holder = None
            entry.returns += 1
            self._give_back(entry)

    def stats(self, names: Collection[str] | None) -> list[QueueStats]:
        now = self.clock.time()
        for queue in self._queues.values():
            self._move_due(queue, now, len(queue.delayed))
        self._drop_old_dead(now)
        leased = Counter(entry.queue.name for entry in self._held.values())
        dead = Counter(letter.queue for letter in self._dead.values())
        found: list[QueueStats] = []
        for name in sorted(names if names is not None else {*self._queues, *dead}):
            queue = self._queues.get(name) or Queue(name)
            ready = (
                len(queue.suspects)
                + len(queue.again)
                + sum(map(len, queue.levels))
                + sum(map(len, queue.lanes.values()))
            )
            age = now - min(entry.since for entry in queue.ready()) if ready else None
            stats = QueueStats(name, ready, leased[name], len(queue.delayed), dead[name], age)
            if names is not None or ready or stats.leased or stats.delayed or stats.dead:
                found.append(stats)
        return found

    def make_due_now(self, key: tuple[str, int]) -> bool:
        """Make one message due; False when it does not wait for that."""
        entry = self._known.get(key)
        if entry is None or entry.waits is None:
            return False
        entry.queue.delayed.remove(entry.waits)
        heapq.heapify(entry.queue.delayed)
        self._delay(entry, self.clock.time())
        return True

    def waiting(self, name: str, limit: int) -> list[Envelope]:
        """Return what is delayed in one queue, the first to be due in front."""
        queue = self._queues.get(name)
        now = self.clock.time()
        delayed = heapq.nsmallest(limit, (each for each in queue.delayed if each[0] > now)) if queue is not None else []
        return [Envelope(entry.message, name, entry.priority, due) for due, _, entry in delayed]

    def ready_in(self, name: str, limit: int) -> list[Envelope]:
        """Return what is ready in one queue, or due there."""
        queue = self._queues.get(name)
        if queue is None:
            return []
        now = self.clock.time()
        due = (entry for due, _, entry in sorted(queue.delayed) if due <= now)
        by_priority = itertools.chain(*((*queue.levels[each], *queue.lanes.get(each, ())) for each in DOWNWARDS))
        ready = itertools.chain(queue.suspects, queue.again, by_priority)
        found = itertools.islice(itertools.chain(ready, due), limit)
        return [Envelope(entry.message, name, entry.priority) for entry in found]

    def remove_delayed(self, key: tuple[str, int]) -> bool:
        """Delete one delayed message; False when there is none."""
        entry = self._known.get(key)
        if entry is None or entry.waits is None:
            return False
        entry.queue.delayed.remove(entry.waits)
        heapq.heapify(entry.queue.delayed)
        del self._known[key]
        return True

    def add_dead(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            key = f"dead-{next(self._numbers)}"
            self._dead[key] = replace(letter, key=key)
        self._drop_old_dead(self.clock.time())

    def purge(self, name: str) -> int:
        queue = self._queues.get(name)
        if queue is None:
            return 0
        gone = [*queue.ready(), *(entry for _, _, entry in queue.delayed)]
        for entry in gone:
            del self._known[entry.message.key]
        for waiting in (queue.suspects, queue.again, *queue.levels):
            waiting.clear()
        queue.lanes.clear()
        queue.delayed.clear()
        return len(gone)

    def dead_letters(self, queue: str | None, limit: int) -> list[DeadLetter]:
        self._drop_old_dead(self.clock.time())
        newest_first = (letter for letter in reversed(self._dead.values()) if queue is None or letter.queue == queue)
        return list(itertools.islice(newest_first, limit))

    def dead_letter(self, key: str) -> DeadLetter | None:
        self._drop_old_dead(self.clock.time())
        if key in self._dead:
            return self._dead[key]
        of_task = (letter for letter in reversed(self._dead.values()) if letter.message and letter.message.id == key)
        return next(of_task, None)

    def replay(self, keys: Sequence[str]) -> int:
        replayed = 0
        for key in keys:
            letter = self.dead_letter(key)
            if letter is not None and letter.message is not None:
                del self._dead[letter.key]
                self.add([Envelope(letter.message, letter.queue, letter.priority)])
                replayed += 1
        return replayed

    def remove_dead(self, keys: Sequence[str]) -> int:
        return sum(self._dead.pop(key, None) is not None for key in keys)

    def purge_dead(self, queue: str | None, before: float | None) -> int:
        gone = [
            letter.key
            for letter in self._dead.values()
            if (queue is None or letter.queue == queue) and (before is None or letter.died_at < before)
        ]
        for key in gone:
            del self._dead[key]
        return len(gone)

    def _delay(self, entry: _Entry, due: float) -> None:
        queue = entry.queue
        number = next(self._numbers)
        entry.waits = (due, number, entry)
        heapq.heappush(queue.delayed, entry.waits)
        if queue.waiters and queue.delayed[0][1] == number:
            self._wake(queue)

    def _move_due(self, queue: Queue, now: float, limit: int) -> None:
        delayed = queue.delayed
        while limit > 0 and delayed and delayed[0][0] <= now:
            due, _, entry = heapq.heappop(delayed)
            entry.since = due
            entry.waits = None
            if entry.deaths >= SUSPECT_DEATHS:
                queue.suspects.append(entry)
            elif entry.returns:  # its turn was once, and it has booked this one
                queue.levels[entry.priority].append(entry)
            else:
                queue.append(entry)
            limit -= 1

    def _give_back(self, entry: _Entry) -> None:
        queue = entry.queue
        (queue.suspects if entry.deaths >= SUSPECT_DEATHS else queue.again).append(entry)
        if queue.waiters:
            self._wake(queue)

    def _acquit(self, holder: Holder) -> None:
        """Take back the deaths and charges that `holder`, who is alive, was blamed with."""
        for entry, was_charged in holder.blamed:
            if self._known.get(entry.message.key) is entry:
                entry.deaths -= 1
                entry.charges -= was_charged
                if entry.deaths < SUSPECT_DEATHS and entry in entry.queue.suspects:
                    entry.queue.suspects.remove(entry)
                    self._give_back(entry)
        holder.blamed.clear()

    def _bury(self, entry: _Entry, reason: str, detail: str) -> None:
        message = entry.message
        del self._known[message.key]
        now = self.clock.time()
        key = f"dead-{next(self._numbers)}"
        self._dead[key] = DeadLetter(
            key, entry.queue.name, entry.priority, message, pack(message), reason, detail, now, entry.deaths
        )
        self._drop_old_dead(now)

    def _drop_old_dead(self, now: float) -> None:
        while self._dead:
            oldest = next(iter(self._dead.values()))
            if len(self._dead) <= self._dead_letters_kept and oldest.died_at + self._dead_letter_expires > now:
                break
            del self._dead[oldest.key]

    def _wake(self, queue: Queue) -> None:
        """Wake all who wait for `queue`: one of them may be cancelled at this very moment."""
        here = asyncio._get_running_loop()
        for waiter in queue.waiters:
            if waiter.loop is here:
                waiter.ring()
            else:
                with suppress(RuntimeError):  # that loop is closed: nobody waits there any more
                    waiter.loop.call_soon_threadsafe(waiter.ring)
        queue.waiters.clear()
