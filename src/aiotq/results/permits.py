"""Permits of tasks with a `max_concurrency`, in plain containers; for stores whose memory is this process's."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Final

from .base import SEAT_KEPT, SEEKING_KEPT, Permit

#: Whose a seat is that is kept for one who was told of it.
NOBODY: Final = ""

_Key = tuple[str, int]


class _Room:
    """The seats of one task: until when they are taken (by message and holder), and who waits for one."""

    __slots__ = ("line", "seeking", "taken")

    def __init__(self) -> None:
        self.taken: dict[tuple[_Key, str], float] = {}
        self.seeking: dict[_Key, tuple[float, float]] = {}  #: since when, and until when that is remembered
        self.line: list[tuple[float, _Key]] = []  #: a heap of those who were not told; some have gone since

    def clear_up(self, now: float) -> None:
        """Free what was not kept; who was told of a seat and did not come is in the line again."""
        for each in [each for each, ends in self.taken.items() if ends <= now]:
            del self.taken[each]
            key, holder = each
            if holder == NOBODY and key in self.seeking:
                heapq.heappush(self.line, (self.seeking[key][0], key))


class Permits:
    """Who sits and who waits, by the names of tasks. `now` is monotonic time: all of it is in this process."""

    def __init__(self) -> None:
        self._rooms: dict[str, _Room] = {}

    def __len__(self) -> int:
        """How many sit or wait."""
        return sum(len(room.taken) + len(room.seeking) for room in self._rooms.values())

    def acquire_permits(self, seat: Permit, holder: str, lease: float, now: float) -> int:
        """As `ResultStore.sit`, for one."""
        room = self._rooms.setdefault(seat.name, _Room())
        room.clear_up(now)
        kept = room.taken.pop((seat.key, NOBODY), None)
        if kept is None and (seat.key, holder) not in room.taken and len(room.taken) >= seat.limit:
            return len(room.seeking) + (seat.key not in room.seeking)
        room.taken[seat.key, holder] = now + lease
        room.seeking.pop(seat.key, None)
        return 0

    def keep(self, seat: Permit, holder: str, lease: float, now: float) -> None:
        """As `ResultStore.renew_permits`, for one."""
        room = self._rooms.get(seat.name)
        if room is not None and (seat.key, holder) in room.taken:
            room.taken[seat.key, holder] = now + lease

    def hand_over_permits(
        self, left: Sequence[Permit], seeking: Sequence[Permit], holder: str, limits: Mapping[str, int], now: float
    ) -> list[Permit]:
        """As `ResultStore.hand_over_permits`."""
        for seat in left:
            if (room := self._rooms.get(seat.name)) is not None:
                room.taken.pop((seat.key, holder), None)
                if holder == NOBODY:
                    room.seeking.pop(seat.key, None)
        for seat in seeking:
            room = self._rooms.setdefault(seat.name, _Room())
            if seat.key not in room.seeking:
                heapq.heappush(room.line, (seat.since, seat.key))
            room.seeking[seat.key] = seat.since, now + SEEKING_KEPT
        told = [seat for name, limit in limits.items() for seat in self._tell(name, limit, now)]
        for name in {seat.name for seat in left} | limits.keys():
            room = self._rooms.get(name)
            if room is not None and not room.taken and not room.seeking:
                del self._rooms[name]
        return told

    def _tell(self, name: str, limit: int, now: float) -> list[Permit]:
        """Keep the free seats of one task for those who waited longest."""
        room = self._rooms.get(name)
        if room is None:
            return []
        room.clear_up(now)
        told: list[Permit] = []
        while room.line and len(room.taken) < limit:
            since, key = heapq.heappop(room.line)
            _, expires = room.seeking.get(key, (0.0, 0.0))
            if expires <= now:
                room.seeking.pop(key, None)
            elif (key, NOBODY) not in room.taken:
                room.taken[key, NOBODY] = now + SEAT_KEPT
                told.append(Permit(key, name, limit, since))
        return told
