"""Where deliveries of a RabbitMQ stand: on the shelf until a read takes them, then in the worker's hands."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from ...core.clock import Clock
from ...core.values import value
from ...transport.broker import HIGHEST_PRIORITY, LOWEST_PRIORITY, SUSPECT_DEATHS
from .channel import Channel
from .frames import Delivered
from .messages import Taken

#: Seconds until a message is looked at again that is not due when the loop's clock says so.
_NOT_YET: Final = 0.001

DOWNWARDS: Final = range(HIGHEST_PRIORITY, LOWEST_PRIORITY - 1, -1)
UPWARDS: Final = range(LOWEST_PRIORITY, HIGHEST_PRIORITY + 1)


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
        self.levels: tuple[deque[Entry], ...] = tuple(deque() for _ in UPWARDS)

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
