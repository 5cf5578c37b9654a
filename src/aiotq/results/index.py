"""What finished lately: the index that a record store keeps beside its records, and how it is searched.

Records are found by id alone. An entry is written with the terminal record that it tells of, in the same step, as the
setting `result_index` says. Entries are kept by state, each state bounded by count and age, so that many successes push
no failure out.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from heapq import merge
from itertools import dropwhile, islice
from typing import Any, Final, cast

import orjson

from ..core.values import replace, value
from ..exceptions import InvalidOption
from ..states import READY_STATES, RETRY
from .lineage import PLAN

#: Entries that one search looks at, at most: what it costs is bounded, and its cursor leads on.
MOST_LOOKED_AT: Final = 10_000
_AT_ONCE: Final = 2_000
#: How many times as much is read next, and at least: what one entry of twenty fits is found without reading thousands.
_GROWS: Final = 4
_AT_LEAST: Final = 100
#: What JSON writes otherwise than it is.
_ESCAPED: Final = re.compile(r'["\\\x00-\x1f\x7f]')
#: Tasks on one page, at most.
MOST_ON_A_PAGE: Final = 1_000
#: Seconds by which the clocks of workers may differ: entries are in the order in which they were written.
SKEW: Final = 60.0
#: Seconds after its end within which an entry is written: a commit is tried again while the store can't be reached.
LATE: Final = 3_600.0
#: States that the index has: those in which tasks end, that of an attempt after which there is another one, and that of
#: the plans of workflows (an entry has the id of the first call, the name of its task, and when it was sent).
INDEXED: Final = frozenset({*READY_STATES, RETRY, PLAN})


@value
class Finished:
    """A task that ended, as the index has it. Times are seconds since the epoch, durations are seconds.

    `args` are its arguments as they may be shown: clipped, those masked that `masked_arguments` names. `error` is one
    line of what it failed by. `waited` is from when it was sent or due to its start. `key` names the entry.
    """

    id: str
    state: str
    name: str
    ended: float
    queue: str = ""
    worker: str = ""
    args: str = ""
    error: str = ""
    waited: float | None = None
    ran: float | None = None
    retries: int = 0
    root_id: str | None = None  #: None: itself
    parent_id: str | None = None
    periodic: str | None = None  #: the entry that it was an occurrence of
    key: str = ""


@value
class IndexBounds:
    """How much an index keeps: so many entries of each state, for so many seconds."""

    most: int = 50_000
    seconds: float = 604_800.0


@value
class IndexEntry:
    """What is written with a terminal record."""

    finished: Finished
    bounds: IndexBounds = IndexBounds()


@value
class FinishedQuery:
    """What is searched for; what is empty, or None, holds nothing back.

    `name` is a task's whole name. `id_prefix` is how ids begin. `since` and `until` are wall times of the end. `text`
    is in the arguments, the error, the name or the id, whatever the case of its letters. `cursor` is a page's.
    """

    states: tuple[str, ...] = ()
    name: str = ""
    queue: str = ""
    worker: str = ""
    id_prefix: str = ""
    root_id: str = ""
    parent_id: str = ""
    periodic: str = ""
    since: float | None = None
    until: float | None = None
    text: str = ""
    limit: int = 50
    cursor: str | None = None


@value
class FinishedPage:
    """Finished tasks, the newest first.

    `cursor` leads to older ones; None: there are none. A page may be short of `limit` and have a cursor: one search
    looks at a bounded number of entries (it looked back to `looked_back_to`). `counts` are of about all that the
    index has, by state, whatever was searched for.
    """

    tasks: tuple[Finished, ...]
    cursor: str | None
    counts: Mapping[str, int]
    looked_back_to: float | None = None


@value
class Chunk:
    """What was read of an index: those that fit, how many were looked at, and key and end of the last one of these."""

    found: Sequence[Finished]
    looked: int
    last: str | None
    back_to: float | None


#: Reads so many entries behind a cursor, the newest first: fewer only if there are no more.
Read = Callable[[FinishedQuery, str | None, int], Awaitable[Chunk]]


def pack_finished(finished: Finished) -> bytes:
    """Return `finished` without its key."""
    return orjson.dumps(
        (
            finished.id,
            finished.state,
            finished.name,
            finished.ended,
            finished.queue,
            finished.worker,
            finished.args,
            finished.error,
            finished.waited,
            finished.ran,
            finished.retries,
            finished.root_id,
            finished.parent_id,
            finished.periodic,
        )
    )


def unpack_finished(packed: bytes, key: str) -> Finished | None:
    """Return what was packed; None if it is nothing of ours."""
    try:
        fields: list[Any] = orjson.loads(packed)
        return replace(Finished(*fields), key=key)
    except (orjson.JSONDecodeError, TypeError, ValueError):
        return None


def as_plain(finished: Finished) -> dict[str, Any]:
    """Return `finished` as JSON has it."""
    return asdict(cast("Any", finished))


def checked(query: FinishedQuery) -> FinishedQuery:
    """Return `query`, of tasks that have ended unless it says otherwise.

    Raises:
        InvalidOption: it names a state that no task ends in, or its limit is impossible.
    """
    if strange := [each for each in query.states if each not in INDEXED]:
        raise InvalidOption(f"find: tasks end as {', '.join(sorted(READY_STATES))}, not as {strange[0]!r}")
    if not 0 < query.limit <= MOST_ON_A_PAGE:
        raise InvalidOption(f"find: limit must be 1 to {MOST_ON_A_PAGE}, not {query.limit!r}")
    return query if query.states else replace(query, states=tuple(sorted(READY_STATES)))


def fits(each: Finished, query: FinishedQuery) -> bool:
    """Whether `each` is what `query` searches for."""
    return (
        each.state in query.states
        and (not query.name or each.name == query.name)
        and (not query.queue or each.queue == query.queue)
        and (not query.worker or each.worker == query.worker)
        and (not query.id_prefix or each.id.startswith(query.id_prefix))
        and (not query.root_id or query.root_id in (each.root_id, each.id))
        and (not query.parent_id or each.parent_id == query.parent_id)
        and (not query.periodic or each.periodic == query.periodic)
        and (query.since is None or each.ended >= query.since)
        and (query.until is None or each.ended <= query.until)
        and (not query.text or _says(each, query.text.casefold()))
    )


def _says(each: Finished, text: str) -> bool:
    return any(text in said.casefold() for said in (each.args, each.error, each.name, each.id))


def sifted(query: FinishedQuery, packed: Sequence[tuple[str, bytes]]) -> Chunk:
    """Return those of entries, given by their keys, that fit. It may take some milliseconds: for a thread."""
    has_all = _parts_of(query)
    found: list[Finished] = []
    for key, entry in packed:
        if has_all and not _has_all(entry, has_all):
            continue
        finished = unpack_finished(entry, key)
        if finished is not None and fits(finished, query):
            found.append(finished)
    if not packed:
        return Chunk((), 0, None, None)
    last, entry = packed[-1]
    oldest = unpack_finished(entry, last)
    return Chunk(found, len(packed), last, None if oldest is None else oldest.ended)


def _parts_of(query: FinishedQuery) -> Sequence[bytes]:
    """Return what is in the packed form of each entry that fits, in small letters: a look that spares reading it."""
    whole = [f'"{each}"' for each in (query.name, query.queue, query.worker, query.root_id, query.periodic) if each]
    parts = [*whole, query.id_prefix, query.text]
    return [each.lower().encode() for each in parts if each and each.isascii() and not _ESCAPED.search(each)]


def _has_all(entry: bytes, parts: Sequence[bytes]) -> bool:
    text = entry.lower()
    return all(part in text for part in parts)


async def searched(query: FinishedQuery, read: Read, counts: Mapping[str, int]) -> FinishedPage:
    """Return the page that `query` asks for."""
    found: list[Finished] = []
    cursor, looked, back_to = query.cursor, 0, None
    count = query.limit + 1
    while True:
        count = min(count, _AT_ONCE, MOST_LOOKED_AT - looked)
        chunk = await read(query, cursor, count)
        for each in chunk.found:
            if len(found) == query.limit:
                return FinishedPage(tuple(found), found[-1].key, counts, found[-1].ended)
            found.append(each)
        looked += chunk.looked
        back_to = chunk.back_to if chunk.back_to is not None else back_to
        is_past = query.since is not None and back_to is not None and back_to < query.since - LATE
        if chunk.looked < count or chunk.last is None or is_past:
            return FinishedPage(tuple(found), None, counts, back_to)
        cursor, count = chunk.last, max(count * _GROWS, _AT_LEAST)
        if looked >= MOST_LOOKED_AT:
            return FinishedPage(tuple(found), cursor, counts, back_to)


class FinishedTable:
    """An index in the memory of one process; whoever has it holds its lock."""

    def __init__(self) -> None:
        self._by_state: dict[str, deque[tuple[int, float, Finished]]] = {}  #: with number, and end of keeping
        self._last = 0

    def __len__(self) -> int:
        return sum(map(len, self._by_state.values()))

    def add(self, entry: IndexEntry, now: float) -> None:
        """Keep `entry`; what is too old or too much of its state goes."""
        self._last += 1
        finished, bounds = entry.finished, entry.bounds
        kept = self._by_state.setdefault(finished.state, deque())
        kept.append((self._last, now + bounds.seconds, replace(finished, key=str(self._last))))
        while len(kept) > bounds.most or kept[0][1] <= now:
            kept.popleft()
            if not kept:
                return

    def counts(self) -> dict[str, int]:
        """Return how many there are of each state."""
        return {state: len(kept) for state, kept in self._by_state.items() if kept}

    def read(self, query: FinishedQuery, before: str | None, count: int, now: float) -> Chunk:
        """Return what is older than the cursor `before`, the newest first."""
        limit = int(before) if before is not None else self._last + 1
        kept = [reversed(self._by_state.get(state, ())) for state in query.states]
        newest: Iterator[tuple[int, float, Finished]] = merge(*kept, key=lambda each: each[0], reverse=True)
        older = dropwhile(lambda each: each[0] >= limit, newest)
        looked = list(islice(older, count))
        found = [finished for _, until, finished in looked if until > now and fits(finished, query)]
        if not looked:
            return Chunk((), 0, None, None)
        return Chunk(found, len(looked), str(looked[-1][0]), looked[-1][2].ended)

    def unlist(self, keys: Sequence[str]) -> int:
        """Delete the entries `keys`; return how many there were."""
        gone = {int(key) for key in keys if key.isdecimal()}
        before = len(self)
        for state, kept in self._by_state.items():
            self._by_state[state] = deque(each for each in kept if each[0] not in gone)
        return before - len(self)
