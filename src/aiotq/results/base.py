"""The contract of a results store: outcomes, joins, claims and revocations, all of which expire.

Waiting is pushed: a store tells what it hears of through `on_push`, and whoever waits looks once after it began to
listen, so that no push can be missed. A stored terminal state is never replaced by another run.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Self

from ..core.values import value
from ..wire.message import Envelope


@value
class Record:
    """One state of one task. `body` is the encoded result document; `expires` is wall time."""

    id: str
    state: str
    body: bytes
    content_type: str
    expires: float
    reply_to: str | None = None  #: the address (`ResultStore.address`) of the process that wants a push


@value
class Join:
    """A counted barrier: when `size` different members have arrived, `then` is sent, once.

    The first failed arrival ends it at once, and sends the same envelopes: whoever runs them reads what they were sent
    for (`ResultStore.joined`). Nothing that arrives later changes anything. The envelopes are complete when the
    workflow is sent; the store only moves them, and keeps the records of the members for as many releases as there
    are envelopes. `about` is for whoever reads them. A join at which nobody arrives for `patience` seconds is overdue,
    not counting the time before wall time `until`.
    """

    id: str
    size: int
    then: tuple[Envelope, ...]
    patience: float
    about: str = ""
    until: float = 0.0


@value
class Arrival:
    """`member` of join `join_id` ended. Arriving twice is arriving once.

    `record` says how, and is kept in the join; None: the record of the same finish does. `failed` ends the join.
    """

    join_id: str
    member: str
    record: Record | None = None
    failed: bool = False


@value
class JoinGrowth:
    """Join `join_id` waits for `count` members more."""

    join_id: str
    count: int


@value
class JoinExtension:
    """A member of join `join_id` won't arrive before wall time `until`: its patience begins then."""

    join_id: str
    until: float


@value
class JoinChanges:
    """What a finish does at joins, in this order. One that is over or unknown is left as it is.

    `released`: joins whose records the finish has read, or was sent for, and that no run of it reads again.
    """

    opened: tuple[Join, ...] = ()
    grown: tuple[JoinGrowth, ...] = ()
    arrivals: tuple[Arrival, ...] = ()
    extended: tuple[JoinExtension, ...] = ()
    released: tuple[str, ...] = ()


NO_JOIN_CHANGES: Final = JoinChanges()


@value
class Joined:
    """A join that is over: what was said `about` it, and the records of its members by name.

    If `failed`, there is one: that of the member which failed it. It ended at wall time `ended_at`.
    """

    about: str
    members: Mapping[str, Record]
    ended_at: float
    failed: bool = False


@value
class Claimed:
    """The claim is ours: run it. `deaths` holders of it died."""

    deaths: int = 0


@value
class Suspected:
    """It may be what killed its `deaths` holders, and there is no room for such a one: nothing was claimed."""

    deaths: int


@value
class AlreadyDone:
    """It ran before: send `envelopes` again (their ids are fixed) and acknowledge."""

    envelopes: tuple[Envelope, ...]


@value
class HeldElsewhere:
    """A live worker runs it; its claim ends at wall time `until` unless renewed."""

    until: float


Claim = Claimed | AlreadyDone | HeldElsewhere | Suspected


@value
class Caution:
    """Of messages with whom `deaths` holders or more died, no more than `room` are to be claimed."""

    deaths: int
    room: int


@value
class Closing:
    """The store's half of a finish: what is written, in one step, when a claimed run ended.

    `key` is the message's id and attempt. `is_done` False gives the claim up instead of completing it (a delivery
    handed back may be claimed again at once); what is known of deaths stays.
    """

    key: tuple[str, int]
    record: Record | None = None
    envelopes: tuple[Envelope, ...] = ()
    joining: JoinChanges = NO_JOIN_CHANGES
    further: tuple[Record, ...] = ()  #: of tasks that will never run because of how this one ended
    is_done: bool = True


@value
class Booking:
    """Message `key` (id and attempt) asks for a start under a rate limit: `name`'s starts are `interval` s apart."""

    key: tuple[str, int]
    name: str
    interval: float


#: Seconds by which a booked start may be late; later it is booked again: what waited while no worker ran must not
#: start all at once.
BOOKING_GRACE: Final = 0.25


def booked(booking: Booking, before: float | None, free_at: float | None, now: float) -> tuple[float, float | None]:
    """Return when `booking` starts, and when the one after it may (None: it was booked `before`, and that holds).

    `free_at` is when the next start is free. Source: the generic cell rate algorithm (ITU-T I.371) with no burst.
    """
    if before is not None and now - before <= max(booking.interval, BOOKING_GRACE):
        return before, None
    start = now if free_at is None or free_at <= now else free_at
    return start, start + booking.interval


@value
class Permit:
    """A run of message `key` (id and attempt) of the task `name`, of which `limit` are to run at once in all workers.

    `since` (wall time) says who is first among those that wait.
    """

    key: tuple[str, int]
    name: str
    limit: int
    since: float


#: Seconds for which a seat is kept for the message that was told of it; it may have died on its way.
SEAT_KEPT: Final = 5.0
#: Seconds for which a message that waits for a seat is remembered without asking again: more than the longest time
#: after which it does.
SEEKING_KEPT: Final = 3 * 3600.0


class ResultStore(abc.ABC):
    """Remembers outcomes. Used as an async context manager."""

    #: Called in the loop that entered the store with records as they are pushed: those with our `address`
    #: as their `reply_to`, and those of `watch`ed ids. A record may come twice, and must not be awaited on alone.
    on_push: Callable[[Sequence[Record]], None]
    #: Called in that loop with ids whose records may have been missed, or are too large for a push: to be read. None:
    #: that may be true of all.
    on_missed: Callable[[Collection[str] | None], None]
    #: Called in that loop with the ids of tasks whose revocation asks for running ones to be cancelled.
    on_revoked: Callable[[Collection[str]], None]
    #: Whether it can count members of joins, for all workers.
    has_joins: bool = True
    #: Whether anybody in this process waits for a record. While it is False pushes need not be read: whoever begins to
    #: wait sets it first and then looks with `get`.
    listening: bool = False
    #: Whether a record reaches this process only while its id is watched, whatever its `reply_to`.
    watches_all: bool = False

    @property
    @abc.abstractmethod
    def address(self) -> str:
        """The `reply_to` which makes records reach this process."""

    @abc.abstractmethod
    async def __aenter__(self) -> Self: ...

    @abc.abstractmethod
    async def __aexit__(self, *exc_info: object) -> None: ...

    @abc.abstractmethod
    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        """Return the newest record of each id; None for what is unknown or expired."""

    @abc.abstractmethod
    async def put(self, records: Sequence[Record]) -> None:
        """Store states of running tasks (STARTED, PROGRESS); one that is terminal already stays."""

    @abc.abstractmethod
    async def forget(self, ids: Sequence[str]) -> None:
        """Delete what is known of these ids: their records and finished claims."""

    @abc.abstractmethod
    async def watch(self, task_id: str) -> None:
        """Have the records of `task_id` pushed here although another process is their `reply_to`."""

    @abc.abstractmethod
    async def unwatch(self, task_id: str) -> None:
        """End what `watch` began."""

    @abc.abstractmethod
    async def revoke(self, ids: Sequence[str], *, terminate: bool, expires: float) -> None:
        """Remember until wall time `expires` that these are not to be run; tell all who listen (P8).

        Each is the id of a task, or what `revocations` calls many of them by.
        """

    @abc.abstractmethod
    async def unrevoke(self, ids: Sequence[str]) -> None:
        """Forget that these are revoked."""

    @abc.abstractmethod
    async def revoked(self, ids: Sequence[str]) -> Collection[str]:
        """Return those of `ids` that are revoked."""

    @abc.abstractmethod
    async def has_revocations(self) -> bool:
        """Return whether anything is revoked at all: nearly always nothing is, and this is asked for every read."""

    @abc.abstractmethod
    async def claim(
        self, keys: Sequence[tuple[str, int]], holder: str, lease: float, caution: Caution | None = None
    ) -> Sequence[Claim]:
        """Claim the right to run each message (id and attempt) for `lease` seconds.

        For brokers that can't fence. A holder's own live claim is `Claimed` again; an ended one passes on, and whoever
        let it end counts as dead until it renews. Without `caution` any number of suspects is claimed.
        """

    @abc.abstractmethod
    def renew_claims(self, keys: Sequence[tuple[str, int]], holder: str, lease: float) -> Collection[tuple[str, int]]:
        """Move the end of claims; return those that are lost. Blocking, on a connection of its own (see P2).

        A holder that has lost one to somebody else is alive after all: the death is taken back.
        """

    @abc.abstractmethod
    async def close(self, closings: Sequence[Closing], holder: str) -> Sequence[tuple[Envelope, ...] | None]:
        """Write the ends of claimed runs, each in one step, and push their records.

        Returns for each all that is to be sent now: its own envelopes and those of joins that it completed or
        failed. They are kept with the claim, so that a redelivery can send them again. None: the claim was lost,
        nothing was written. Repeating a close that was done answers as the first time.
        """

    @abc.abstractmethod
    async def open_joins(self, joins: Sequence[Join]) -> None:
        """Create joins; one that exists stays as it is."""

    @abc.abstractmethod
    async def joined(self, join_ids: Sequence[str]) -> Sequence[Joined | None]:
        """Return what became of joins; None for one that is not over, or not known (any more)."""

    @abc.abstractmethod
    async def overdue(self, limit: int = 100) -> Sequence[str]:
        """Return the ids of joins that are overdue, to be failed by an arrival. Called by every worker's timer."""

    @abc.abstractmethod
    async def book(self, bookings: Sequence[Booking]) -> Sequence[float]:
        """Reserve starts under rate limits that hold for all workers; return the seconds until each (0: now).

        A message that has a start which has not passed keeps it. See `booked`, which says what every store does.
        """

    @abc.abstractmethod
    async def acquire_permits(self, seats: Sequence[Permit], holder: str, lease: float) -> Sequence[int]:
        """Take seats for `holder`, who has them for `lease` seconds.

        Returns 0 for each that was had, and where none is free a number of those who wait, this one among them.
        """

    @abc.abstractmethod
    def renew_permits(self, seats: Collection[Permit], holder: str, lease: float) -> None:
        """Move the end of what `holder` has. Blocking, on a connection of its own, as `renew_claims`."""

    @abc.abstractmethod
    async def hand_over_permits(
        self, left: Sequence[Permit], seeking: Sequence[Permit], holder: str, limits: Mapping[str, int]
    ) -> Sequence[Permit]:
        """Free what `holder` has left, and remember who waits for a seat; return who is to be told of one.

        What is free now of each name in `limits` is kept for those who waited longest. A seat that is kept for one who
        can't be told is left by the holder "". Called with nothing but `limits` on a timer, since seats of the dead are
        free when their leases end.
        """
