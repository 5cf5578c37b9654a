"""The contract of a record store: outcomes by the ids of their tasks, all of which expire.

A terminal record is never replaced by another run's. Records are pushed on the backend's `Bus`, and whoever waits looks
once after it began to listen, so that no push can be missed.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Sequence
from dataclasses import field
from typing import Any, Final, Self

from ..core.values import value
from ..exceptions import StoreRequired
from ..states import is_ready
from .index import FinishedPage, FinishedQuery, IndexEntry

#: The topic on which records are pushed. What its payload is, is between those who write and read one store.
RESULTS: Final = "results"
_NO_INDEX: Final = (
    "this store keeps results by their ids alone, so finished tasks can't be searched: "
    "set result_backend to a redis://, sqlite:// or postgresql:// URL"
)


@value
class Record:
    """One state of one task. `body` is the encoded result document; `expires` is wall time.

    `order` is the store's: of a task's records that are read, one is no newer than another if its order is no higher.
    """

    id: str
    state: str
    body: bytes
    content_type: str
    expires: float
    reply_to: str | None = None  #: the address (`RecordStore.address`) of the process that wants a push
    order: int = field(default=0, compare=False)  #: 0: the store says nothing
    #: What the index is to have, if this is a terminal record that no other stands in the way of; never read.
    entry: IndexEntry | None = field(default=None, compare=False, repr=False)

    def is_behind(self, other: Record) -> bool:
        """Whether it says nothing beyond `other`, a record of the same task that came before it."""
        return self == other or 0 < self.order <= other.order


class RecordStore(abc.ABC):
    """Remembers outcomes. Used as an async context manager.

    A store that is no more than `get`, `put` and `forget` is enough: `pushed.PushedRecords` pushes for it.
    """

    #: Whether it pushes what is written to it, also by the ledger and the commit of its backend.
    is_pushing: bool = False
    #: Whether a record reaches this process only while its id is watched, whatever its `reply_to`.
    watches_all: bool = False
    #: Whether a record that any process writes can be read by all others.
    is_shared: bool = True
    #: Whether what it pushes reaches those who `watch` an id, and not only the process named in `reply_to`.
    tells_watchers: bool = True
    #: Whether it keeps an index of what finished: `find` searches it.
    has_index: bool = False
    #: Whether anybody in this process waits for a record. While it is False pushes need not be read: whoever begins to
    #: wait sets it first and then looks with `get`.
    listening: bool = False

    def __init__(self) -> None:
        #: Called in the loop that entered the store with records as they are pushed: those with our `address` as their
        #: `reply_to`, and those of `watch`ed ids. A record may come twice, and must not be awaited on alone.
        self.on_push: Callable[[Sequence[Record]], None] = ignore
        #: Called in that loop with ids whose records may have been missed, or are too large for a push: to be read.
        #: None: that may be true of all.
        self.on_missed: Callable[[Collection[str] | None], None] = ignore

    @property
    def address(self) -> str:
        """The `reply_to` which makes records reach this process; empty if nothing does."""
        return ""

    @property
    def is_polled(self) -> bool:
        """Whether records may come that nobody pushes: whoever waits looks again and again."""
        return False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    @abc.abstractmethod
    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        """Return the newest record of each id; None for what is unknown or expired."""

    async def states(self, ids: Sequence[str]) -> Sequence[str | None]:
        """Return the newest state of each id, without what else its record has; None for what is unknown or expired."""
        return [None if record is None else record.state for record in await self.get(ids)]

    @abc.abstractmethod
    async def put(self, records: Sequence[Record]) -> None:
        """Store states; a terminal one that stands already stays."""

    async def stored(self, records: Sequence[Record]) -> Sequence[Record]:
        """As `put`; return those that were stored, as far as the store knows: nobody is to hear of the others."""
        await self.put(records)
        return records

    @abc.abstractmethod
    async def forget(self, ids: Sequence[str]) -> None:
        """Delete the records of these ids."""

    async def find(self, query: FinishedQuery) -> FinishedPage:
        """Return the finished tasks that `query` asks for, the newest first.

        Raises:
            StoreRequired: no index is kept here.
            InvalidOption: the query can't be so.
        """
        raise StoreRequired(_NO_INDEX)

    async def unlist(self, keys: Sequence[str]) -> int:
        """Delete entries of the index by their `key`; return how many there were. Records stay. Raises as `find`."""
        raise StoreRequired(_NO_INDEX)

    async def watch(self, task_id: str) -> None:  # noqa: B027  # where nobody can be told, looks find it
        """Have the records of `task_id` pushed here although another process is their `reply_to`, where that can be."""

    async def unwatch(self, task_id: str) -> None:  # noqa: B027  # as above
        """End what `watch` began."""


def newest_of(records: Sequence[Record]) -> dict[str, Record]:
    """Return the one record of each task that stands when all were written in turn: a terminal one stays."""
    newest: dict[str, Record] = {}
    for record in records:
        before = newest.get(record.id)
        if before is None or not is_ready(before.state):
            newest[record.id] = record
    return newest


def ignore(_: Any) -> None:
    """Do nothing: the default of both callbacks."""
