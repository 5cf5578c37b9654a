"""The index of what finished: a stream for each state, whose entries are merged by when they were written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final, NamedTuple

from ...results.index import INDEXED, LATE, SKEW, Chunk, FinishedQuery, sifted

STATES: Final = tuple(sorted(INDEXED))


class Place(NamedTuple):
    """Where an entry stands: the two numbers of its id, and the state of its stream. Places are in order of age."""

    ms: int
    number: int
    state: str

    @property
    def entry(self) -> str:
        """Its id in its stream."""
        return f"{self.ms}-{self.number}"

    @property
    def key(self) -> str:
        """It as text."""
        return f"{self.entry}-{self.state}"


def place_of(key: str) -> Place | None:
    """Return the place that `key` names; None if it names none."""
    ms, _, rest = key.partition("-")
    number, _, state = rest.partition("-")
    return Place(int(ms), int(number), state) if ms.isdecimal() and number.isdecimal() and state in STATES else None


def span(query: FinishedQuery, before: str | None, state: str) -> tuple[str, str]:
    """Return between which ids the stream of `state` is read: the highest and the lowest."""
    lowest = "-" if query.since is None else str(max(0, int((query.since - SKEW) * 1000)))
    place = place_of(before) if before is not None else None
    if place is not None:
        # Entries of several streams may have one id: of those, the states before that of the cursor are still to come.
        return (place.entry if state < place.state else f"({place.entry}"), lowest
    return ("+" if query.until is None else str(max(0, int((query.until + LATE) * 1000)))), lowest


def sift(query: FinishedQuery, replies: Mapping[str, Sequence[Any]], count: int) -> Chunk:
    """Return what fits among the first `count` entries of all streams, the newest first."""
    streams = [_placed(state, entries) for state, entries in replies.items() if entries]
    merged = streams[0] if len(streams) == 1 else merge(*streams, key=_place, reverse=True)
    return sifted(query, [(place.key, packed) for place, packed in islice(merged, count)])


def _placed(state: str, entries: Sequence[Any]) -> Iterator[tuple[Place, bytes]]:
    for entry, fields in entries:
        ms, _, number = entry.partition(b"-")
        yield Place(int(ms), int(number), state), fields[1]


def _place(found: tuple[Place, bytes]) -> Place:
    return found[0]
