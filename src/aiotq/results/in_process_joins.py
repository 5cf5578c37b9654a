"""Joins in this process: who has arrived, what is sent when all have, and which wait for too long (P3)."""

from __future__ import annotations

import heapq
import math

from ..wire.message import Envelope
from .decisions import is_over, join_deadline
from .ledger import Arrival, Join, JoinChanges, Joined, kept_record
from .records import Record


class _Join:
    """A join and the records of who arrived; `then` is dropped when it was sent."""

    __slots__ = ("about", "expires", "is_failed", "members", "patience", "readers", "size", "then", "touched", "until")

    def __init__(self, join: Join, now: float) -> None:
        self.size = join.size
        self.then: tuple[Envelope, ...] | None = join.then  #: None: it is over
        self.about = join.about
        self.patience = join.patience
        self.until = join.until
        self.touched = now
        self.members: dict[str, Record] = {}
        self.is_failed = False
        self.readers = len(join.then)
        self.expires = math.inf  #: once it is over

    @property
    def deadline(self) -> float:
        return join_deadline(self.touched, self.until, self.patience)

    def end(self, now: float) -> tuple[Envelope, ...]:
        then, self.then = self.then or (), None
        self.expires = now + self.patience
        return then


class InProcessJoins:
    """The joins of one app; its caller holds the lock of what it belongs to."""

    def __init__(self) -> None:
        self.kept: dict[str, _Join] = {}
        #: A heap of (when to look, id): arrivals leave it as it is, `overdue` puts it right.
        self._guesses: list[tuple[float, str]] = []

    def open(self, join: Join, now: float) -> None:
        """Create a join; one that exists stays as it is."""
        if join.id not in self.kept:
            opened = self.kept[join.id] = _Join(join, now)
            heapq.heappush(self._guesses, (opened.deadline, join.id))

    def write(
        self, joining: JoinChanges, record: Record | None, now: float
    ) -> tuple[tuple[Envelope, ...], list[tuple[str, float]]]:
        """Do what a finish with `record` does; return what is to be sent, and which joins are over until when."""
        for join in joining.opened:
            self.open(join, now)
        for growth in joining.grown:
            if (grown := self._waiting(growth.join_id)) is not None:
                grown.size += growth.count
        envelopes: tuple[Envelope, ...] = ()
        ended: list[tuple[str, float]] = []
        for arrival in joining.arrivals:
            if (reached := self._waiting(arrival.join_id)) is not None and self._arrive(reached, arrival, record, now):
                envelopes += reached.end(now)
                ended.append((arrival.join_id, reached.expires))
        for extension in joining.extended:
            if (extended := self._waiting(extension.join_id)) is not None:
                extended.until = max(extended.until, extension.until)
        for join_id in joining.released:
            self._release(join_id)
        return envelopes, ended

    def _arrive(self, join: _Join, arrival: Arrival, record: Record | None, now: float) -> bool:
        """Note an arrival; return whether the join is over by it."""
        if arrival.member in join.members:
            return False
        if arrival.failed:
            join.members.clear()
            join.is_failed = True
        join.members[arrival.member] = kept_record(arrival, record)
        join.touched = now
        return is_over(len(join.members), join.size, failed=arrival.failed)

    def _release(self, join_id: str) -> None:
        join = self.kept.get(join_id)
        if join is not None and join.then is None:
            join.readers -= 1
            if join.readers <= 0:
                del self.kept[join_id]

    def joined(self, join_id: str, now: float) -> Joined | None:
        join = self.kept.get(join_id)
        if join is None or join.then is not None or join.expires <= now:
            return None
        return Joined(join.about, dict(join.members), join.touched, join.is_failed)

    def overdue(self, limit: int, now: float) -> list[str]:
        """Return the ids of at most `limit` joins at which nobody arrived in time."""
        found: list[tuple[float, str]] = []
        while self._guesses and self._guesses[0][0] <= now and len(found) < limit:
            guess, join_id = heapq.heappop(self._guesses)
            join = self._waiting(join_id)
            if join is None:
                continue
            if join.deadline <= now:
                found.append((guess, join_id))
            else:
                heapq.heappush(self._guesses, (join.deadline, join_id))
        for each in found:
            heapq.heappush(self._guesses, each)
        return list(dict.fromkeys(join_id for _, join_id in found))

    def _waiting(self, join_id: str) -> _Join | None:
        """Return the join if it is not over."""
        join = self.kept.get(join_id)
        return join if join is not None and join.then is not None else None
