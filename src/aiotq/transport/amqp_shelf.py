"""Where deliveries of a RabbitMQ stand: on the shelf until a read takes them, then in the worker's hands."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

from .._amqp import Arrival, Channel
from .._values import value
from .amqp_messages import Taken
from .base import HIGHEST_PRIORITY, LOWEST_PRIORITY, SUSPECT_DEATHS

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


class Shelf:
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
class Junk:
    """What could not be read."""

    source: Source
    channel: Channel
    arrival: Arrival
    why: str
