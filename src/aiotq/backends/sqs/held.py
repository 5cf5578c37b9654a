"""Messages of SQS that are ours for a time, and letting go of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ...exceptions import ConnectionLost
from .connection import AT_ONCE, Failure, MissingQueue, SqsClient, is_stale
from .messages import Taken
from .outgoing import together
from .topology import Topology

#: Seconds after its first read in which a message can be held at all: twelve hours, and some for the way there.
LONGEST_HOLD: Final = 12 * 3600 - 300.0


class Holding:
    """A message that is ours until the loop time `until`.

    `is_parked`: it was deleted, and a copy goes round. `is_copied`: what stands for it was sent; it is to be deleted.
    """

    __slots__ = ("came_at", "handle", "holder", "is_copied", "is_parked", "place", "queue", "renewed_at", "until")

    def __init__(self, holder: str, queue: str, place: str, handle: str, now: float, seconds: int) -> None:
        self.holder = holder  #: the consumer's name
        self.queue = queue
        self.place = place
        self.handle = handle
        self.came_at = self.renewed_at = now
        self.until = now + seconds
        self.is_parked = self.is_copied = False


class Source:
    """One queue of a name. `unread` counts its messages on the shelf, `polls` its polls under way."""

    __slots__ = ("is_idle", "name", "place", "polls", "unread")

    def __init__(self, name: str, place: str) -> None:
        self.name = name
        self.place = place
        self.unread = self.polls = 0
        self.is_idle = False  #: the last poll brought nothing


class Entry(Holding):
    """A message that was polled, on the shelf or in the worker's hands."""

    __slots__ = ("source", "taken")

    def __init__(self, holder: str, source: Source, handle: str, taken: Taken, now: float, seconds: int) -> None:
        super().__init__(holder, source.name, source.place, handle, now, seconds)
        self.source = source
        self.taken = taken


class Letting:
    """Lets go of what is held."""

    def __init__(self, client: SqsClient, topology: Topology) -> None:
        self._client = client
        self._topology = topology

    async def go(self, done: Sequence[Holding], back: Sequence[tuple[Holding, int]]) -> set[Holding]:
        """Delete those that are `done`, give others `back` in so many seconds; return those that were not ours.

        Raises:
            ConnectionLost: some may be let go of; repeating is safe.
        """
        by_place: dict[str, tuple[list[Holding], list[tuple[Holding, int]]]] = {}
        for holding in done:
            by_place.setdefault(holding.place, ([], []))[0].append(holding)
        for holding, seconds in back:
            by_place.setdefault(holding.place, ([], []))[1].append((holding, seconds))
        requests = [
            request
            for place, (deleted, returned) in by_place.items()
            for request in (
                *(self._delete(place, deleted[at : at + AT_ONCE]) for at in range(0, len(deleted), AT_ONCE)),
                *(self._return(place, returned[at : at + AT_ONCE]) for at in range(0, len(returned), AT_ONCE)),
            )
        ]
        return {holding for found in await together(requests) for holding in found}

    async def _delete(self, place: str, some: Sequence[Holding]) -> list[Holding]:
        try:
            failed = await self._client.delete(await self._topology.url(place), [each.handle for each in some])
        except MissingQueue:  # it was deleted with all in it
            self._topology.forget(place)
            return list(some)
        return self._stale(some, failed)

    async def _return(self, place: str, some: Sequence[tuple[Holding, int]]) -> list[Holding]:
        handles = [(holding.handle, seconds) for holding, seconds in some]
        try:
            failed = await self._client.hold(await self._topology.url(place), handles)
        except MissingQueue:
            self._topology.forget(place)
            return [holding for holding, _ in some]
        return self._stale([holding for holding, _ in some], failed)

    def _stale(self, some: Sequence[Holding], failed: Mapping[int, Failure]) -> list[Holding]:
        for failure in failed.values():
            if not is_stale(failure):
                raise ConnectionLost(f"{self._client.address.shown}: {failure.code}: {failure.text}")
        return [some[place] for place in failed]
