"""Where deliveries of a RabbitMQ stand: on the shelf until a read takes them, then in the worker's hands."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final, Protocol

from ...core.clock import Clock
from ...core.values import value
from ...exceptions import MalformedMessage
from ...transport.broker import (
    FAIR_EVERY,
    HIGHEST_PRIORITY,
    LOWEST_PRIORITY,
    SUSPECT_DEATHS,
    DeadLetter,
    QueueOrder,
    Turns,
)
from ...wire.message import new_id
from .channel import Channel
from .frames import Delivered
from .messages import Taken, default_of
from .properties import properties_of

#: Seconds of work that may be pushed ahead, from how many messages on, and how many at most.
_MOMENT: Final = 0.05
_MANY: Final = 50
_MOST_AHEAD: Final = 1024
#: Seconds until a message is looked at again that is not due when the loop's clock says so.
_NOT_YET: Final = 0.001

_DOWNWARDS: Final = range(HIGHEST_PRIORITY, LOWEST_PRIORITY - 1, -1)
_UPWARDS: Final = range(LOWEST_PRIORITY, HIGHEST_PRIORITY + 1)


class Entry:
    """A message on the shelf."""

    __slots__ = ("came_at", "channel", "queue", "tag", "taken")

    def __init__(self, queue: str, channel: Channel, tag: int, taken: Taken, came_at: float) -> None:
        self.queue = queue
        self.channel = channel
        self.tag = tag
        self.taken = taken
        self.came_at = came_at  #: loop time


class Holder(Protocol):
    """Whose worker has a message."""

    held: dict[str, Held]


class Held:
    """A message in the worker's hands; `parked` when its original was acknowledged and a copy goes round."""

    __slots__ = (
        "channel",
        "consumer",
        "counts",
        "message",
        "parked",
        "priority",
        "queue",
        "renewed_at",
        "since",
        "tag",
    )

    def __init__(self, consumer: Holder, entry: Entry, now: float) -> None:
        self.consumer = consumer
        self.channel = entry.channel
        self.tag = entry.tag
        self.queue = entry.queue
        self.message = entry.taken.message
        self.priority = entry.taken.priority
        self.counts = entry.taken.counts
        self.since = entry.came_at
        self.renewed_at = now
        self.parked = False


class Prefetched:
    """What came from the queues of one name, and was not read yet."""

    __slots__ = ("again", "levels", "name", "suspects")

    def __init__(self, name: str) -> None:
        self.name = name
        self.again: deque[Entry] = deque()
        self.suspects: deque[Entry] = deque()
        self.levels: tuple[deque[Entry], ...] = tuple(deque() for _ in _UPWARDS)

    def add(self, entry: Entry) -> None:
        counts = entry.taken.counts
        if counts.deaths >= SUSPECT_DEATHS:
            self.suspects.append(entry)
        elif counts.returns:
            self.again.append(entry)
        else:
            self.levels[entry.taken.priority].append(entry)

    def all(self) -> Iterator[Entry]:
        for entries in (self.suspects, self.again, *self.levels):
            yield from entries

    def clear(self) -> None:
        for entries in (self.suspects, self.again, *self.levels):
            entries.clear()

    def __len__(self) -> int:
        return len(self.suspects) + len(self.again) + sum(map(len, self.levels))


class Shelves:
    """What came from all queues of a consumer and was not read yet, and whose turn it is (P5: one suspect a read)."""

    def __init__(self, names: Collection[str], order: QueueOrder) -> None:
        self._order = order
        self._by_name: dict[str, Prefetched] = {}
        self.read_from(names)
        self._reads = 0

    def read_from(self, names: Collection[str]) -> list[Entry]:
        """Keep what came from the queues of these names from now on; return what is there from others."""
        left = [entry for name, each in self._by_name.items() if name not in names for entry in each.all()]
        self._by_name = {name: self._by_name.get(name, Prefetched(name)) for name in names}
        self._turns = Turns(self._by_name, self._order)
        return left

    def add(self, entry: Entry) -> bool:
        """Put `entry` behind its like; False: its queue is not read."""
        shelf = self._by_name.get(entry.queue)
        if shelf is not None:
            shelf.add(entry)
        return shelf is not None

    def all(self) -> list[Entry]:
        return [entry for each in self._by_name.values() for entry in each.all()]

    def clear(self) -> None:
        for each in self._by_name.values():
            each.clear()

    def __len__(self) -> int:
        return sum(map(len, self._by_name.values()))

    @property
    def has_suspects(self) -> bool:
        return any(each.suspects for each in self._by_name.values())

    def take(self, limit: int, *, suspect: bool) -> list[Entry]:
        """Take up to `limit` off, in the order of `Consumer.receive`."""
        order = _UPWARDS if self._reads % FAIR_EVERY == FAIR_EVERY - 1 else _DOWNWARDS
        names = self._turns.items
        taken: list[Entry] = []
        if suspect:
            for each in names:
                if each.suspects:
                    taken.append(each.suspects.popleft())
                    break
        for together in [[each] for each in names] if self._order.is_strict else [names]:
            for each in together:
                while each.again and len(taken) < limit:
                    taken.append(each.again.popleft())
            for priority in order:
                for each in together:
                    level = each.levels[priority]
                    while level and len(taken) < limit:
                        taken.append(level.popleft())
        if taken:
            self._reads += 1
            self._turns.advance(entry.queue for entry in taken)
        return taken

    def take_suspects(self, before: float) -> list[Entry]:
        """Take the suspects off that came before this loop time."""
        found = [entry for each in self._by_name.values() for entry in each.suspects if entry.came_at <= before]
        for entry in found:
            self._by_name[entry.queue].suspects.remove(entry)
        return found


class Pace:
    """How many messages a worker starts in a moment: as many may be on their way to it beside those it has room for.

    Their way, through the claim and the commit to the next push, takes a moment too. Only what ends at once is pushed
    ahead: where few are started in a moment, none is.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._count = self._before = 0

    def took(self, count: int, now: float) -> None:
        """Note that a read took so many at a loop time."""
        if now - self._began > _MOMENT:
            self._before = self._count if now - self._began < 2 * _MOMENT else 0
            self._began, self._count = now, 0
        self._count += count

    def ahead(self, now: float) -> int:
        """Return how many may be pushed ahead: in steps, since the server must be told."""
        if now - self._began > 2 * _MOMENT:
            return 0
        count = max(self._count, self._before)
        return min(1 << (count - 1).bit_length(), _MOST_AHEAD) if count >= _MANY else 0


class NearlyDue:
    """What came a moment before it is due; `ripe` is told when it is, unless its channel has been closed."""

    def __init__(self, clock: Clock, ripe: Callable[[Entry], None]) -> None:
        self._clock = clock
        self._ripe = ripe
        self._entries: set[Entry] = set()
        self._loop = asyncio.get_running_loop()

    def add(self, entry: Entry, wait: float) -> None:
        """Keep `entry`, which is due in `wait` seconds."""
        self._entries.add(entry)
        self._loop.call_later(wait, self._look, entry)

    def clear(self) -> None:
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def _look(self, entry: Entry) -> None:
        if entry not in self._entries or not entry.channel.is_open:
            return
        wait = (entry.taken.due or 0.0) - self._clock.time()
        if wait > 0:  # nothing starts early, however the two clocks differ
            self._loop.call_later(max(wait, _NOT_YET), self._look, entry)
        else:
            self._entries.remove(entry)
            self._ripe(entry)


class Source:
    """One of a name's queues, and how much of it the broker pushes: `prefetch`; 0: nothing."""

    __slots__ = ("lowest", "name", "prefetch", "queue", "tag")

    def __init__(self, name: str, queue: str, lowest: int | None) -> None:
        self.name = name
        self.queue = queue
        self.lowest = lowest
        self.prefetch = 0
        self.tag = ""


@value(eq=False)
class Unreadable:
    """What could not be read."""

    source: Source
    channel: Channel
    arrival: Delivered
    why: str

    def letter(self, now: float) -> DeadLetter:
        """Return the dead letter that it becomes."""
        source = self.source
        return DeadLetter(
            *(new_id(), source.name, default_of(source.lowest), None, self.arrival.body),
            *("malformed", self.why, now),
        )

    def properties(self) -> dict[str, Any]:
        """Return the properties that it came with, as far as they can be read."""
        try:
            return properties_of(self.arrival.properties)
        except MalformedMessage:
            return {}
