"""What a broker gave a consumer ahead of its reads, in the order in which the reads take it.

For brokers that know no order beyond one queue: what they push, or give ten at a time, stands here until a read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import Final, Generic, Protocol, TypeVar

from ..core.values import value
from ..transport.broker import (
    FAIR_EVERY,
    HIGHEST_PRIORITY,
    LOWEST_PRIORITY,
    SUSPECT_DEATHS,
    QueueOrder,
    Turns,
)

_DOWNWARDS: Final = range(HIGHEST_PRIORITY, LOWEST_PRIORITY - 1, -1)
_UPWARDS: Final = range(LOWEST_PRIORITY, HIGHEST_PRIORITY + 1)


@value
class Counts:
    """What happened to a message so far."""

    returns: int = 0
    deaths: int = 0
    charges: int = 0


NOTHING: Final = Counts()


class Known(Protocol):
    """What is known of a message that came."""

    @property
    def priority(self) -> int: ...

    @property
    def counts(self) -> Counts: ...


class Shelved(Protocol):
    """A message on a shelf. `came_at` is loop time."""

    @property
    def queue(self) -> str: ...

    @property
    def taken(self) -> Known: ...

    @property
    def came_at(self) -> float: ...


Entry = TypeVar("Entry", bound=Shelved)


class Prefetched(Generic[Entry]):
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


class Shelves(Generic[Entry]):
    """What came from all queues of a consumer and was not read yet, and whose turn it is (P5: one suspect a read)."""

    def __init__(self, names: Collection[str], order: QueueOrder) -> None:
        self._order = order
        self._by_name: dict[str, Prefetched[Entry]] = {}
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
