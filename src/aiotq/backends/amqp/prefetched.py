"""Where deliveries of a RabbitMQ stand: on the shelf until a read takes them, then in the worker's hands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from ...core.clock import Clock
from ...core.values import value
from ...exceptions import MalformedMessage
from ...transport.broker import DeadLetter
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
