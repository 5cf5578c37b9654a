"""The contract of a ledger: what must be decided once for all workers.

Claims, joins, starts under rate limits, permits, revocations and the fleet registry, all of which expire; and periodic
tasks and paused queues, which don't.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Self

from ..core.values import value
from ..wire.message import Envelope
from .fleet import FleetRow, Presence
from .records import Record, RecordStore, ignore

#: Seconds for which a start under one limit is kept for a message that waits for another.
START_KEPT: Final = 3600.0
#: The topic on which processes are told that revocations ask for running tasks to be cancelled.
REVOKED: Final = "revoked"
#: The topic on which workers are told that queues were paused or resumed.
PAUSED: Final = "paused"


@value
class Join:
    """A counted barrier: when `size` different members have arrived, `then` is sent, once.

    The first failed arrival ends it at once, and sends the same envelopes: whoever runs them reads what they were sent
    for (`Ledger.joined`). Nothing that arrives later changes anything. The envelopes are complete when the
    workflow is sent; the ledger only moves them, and keeps the records of the members for as many releases as there
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
    """The changes that a finish makes to joins, in this order. A join that is over or unknown is left as it is.

    `released`: joins whose records the finish has read, or was sent for, and that no run of it reads again. `keys`:
    changes of rows that are kept for a time; one that is refused changes nothing, and fails nothing.
    """

    opened: tuple[Join, ...] = ()
    grown: tuple[JoinGrowth, ...] = ()
    arrivals: tuple[Arrival, ...] = ()
    extended: tuple[JoinExtension, ...] = ()
    released: tuple[str, ...] = ()
    keys: tuple[ScheduleChange, ...] = ()


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
    """No more than `room` messages are to be claimed at which `deaths` holders or more have died."""

    deaths: int
    room: int


@value
class Closing:
    """The ledger's half of a finish: what is written, in one step, when a claimed run ended.

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
    """Message `key` (id and attempt) asks for a start under a rate limit: `name`'s starts are `interval` s apart.

    After a pause `burst` starts come at once. `is_first`: other limits may have the message wait after this one, so its
    start here is remembered for longer (`START_KEPT`), and counts until then.
    """

    key: tuple[str, int]
    name: str
    interval: float
    burst: int = 1
    is_first: bool = False


@value
class Permit:
    """A run of message `key` (id and attempt) of the task `name`, of which `limit` are to run at once in all workers.

    `since` (wall time) says who is first among those that wait. `is_again`: its holder died, and what that had is its
    next holder's.
    """

    key: tuple[str, int]
    name: str
    limit: int
    since: float
    is_again: bool = False


@value
class ScheduleRow:
    """The stored row of a periodic task, or of a key. `mark` changes with each write; its owner reads `body`.

    `unsent`: messages of an occurrence that was accepted, while it is not known that the broker has them.
    """

    name: str
    mark: str
    body: bytes
    unsent: tuple[Envelope, ...] = ()


@value
class ScheduleChange:
    """A write to the row `name` of the app `scope`: done if the row's mark is `seen`, and refused otherwise.

    `seen` is empty for a row that must not exist, `mark` for one to be removed. A change whose `mark` the row has was
    done before. `tells`: whoever schedules is to read all rows again.

    `lasts`: it is a row of a key (`key_change`), which is there for so many seconds after the write.
    """

    scope: str
    name: str
    seen: str
    mark: str
    body: bytes = b""
    unsent: tuple[Envelope, ...] = ()
    tells: bool = False
    lasts: float | None = None


def key_change(name: str, seen: str, mark: str, lasts: float, body: bytes = b"") -> ScheduleChange:
    """Return a write to the row of the key `name`: all apps that share a ledger share its keys."""
    return ScheduleChange("", name, seen, mark, body, lasts=lasts)


class Ledger(abc.ABC):
    """Decides for all workers. Used as an async context manager."""

    #: Whether it can count members of joins, for all workers.
    has_joins: bool = True
    #: Whether it keeps the fleet registry and the paused queues, for all processes.
    has_fleet: bool = True

    def __init__(self, records: RecordStore | None = None) -> None:
        #: The store that `close` writes records to, in the same step. None: they are for whoever closes to put.
        self.records = records
        #: Called in the loop that entered the ledger with the ids of tasks whose revocation asks for running ones to be
        #: cancelled.
        self.on_revoked: Callable[[Collection[str]], None] = ignore

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    @abc.abstractmethod
    async def revoke(self, ids: Sequence[str], *, terminate: bool, expires: float) -> None:
        """Remember until wall time `expires` that these are not to be run (P8); with `terminate` tell all workers.

        Each is the id of a task, or what `revocations` calls many of them by.
        """

    @abc.abstractmethod
    async def unrevoke(self, ids: Sequence[str]) -> None:
        """Forget that these are revoked."""

    @abc.abstractmethod
    async def revoked(self, ids: Sequence[str]) -> Collection[str]:
        """Return those of `ids` that are revoked."""

    @abc.abstractmethod
    async def revocations(self, limit: int = 1000) -> Mapping[str, float]:
        """Return what is revoked, as `revoke` was told it, and until which wall time; the last to end first."""

    @abc.abstractmethod
    async def has_revocations(self) -> bool:
        """Return whether anything is revoked at all: nearly always nothing is, and this is asked for every read."""

    @abc.abstractmethod
    async def claim(
        self,
        keys: Sequence[tuple[str, int]],
        holder: str,
        lease: float,
        caution: Caution | None = None,
        dead: Collection[str] = (),
    ) -> Sequence[Claim]:
        """Claim the right to run each message (id and attempt) for `lease` seconds.

        For brokers that can't fence. A holder's own live claim is `Claimed` again; an ended one passes on, and whoever
        let it end counts as dead until it renews. Without `caution` any number of suspects is claimed. `dead` are
        holders whose process is gone: what they hold passes on at once.
        """

    @abc.abstractmethod
    def renew_claims(
        self, keys: Sequence[tuple[str, int]], holder: str, lease: float, row: FleetRow | None = None
    ) -> Collection[tuple[str, int]]:
        """Move the end of claims; return those that are lost. Blocking, on a connection of its own (see P2).

        A holder that has lost one to somebody else is alive after all: the death is taken back. `row` is written into
        the fleet registry in the same request; should that be refused, some claims may have been renewed.
        """

    async def close(self, closings: Sequence[Closing], holder: str) -> Sequence[tuple[Envelope, ...] | None]:
        """Write the ends of claimed runs, each in one step, and what they do to records (see `records`).

        Returns for each all that is to be sent now: its own envelopes and those of joins that it completed or
        failed. They are kept with the claim, so that a redelivery can send them again. None: the claim was lost,
        nothing was written. Repeating a close that was done answers as the first time.
        """
        for closing in closings:
            check_join_changes(closing.joining, closing.record)
        return await self._close(closings, holder) if closings else ()

    @abc.abstractmethod
    async def _close(self, closings: Sequence[Closing], holder: str) -> Sequence[tuple[Envelope, ...] | None]:
        """As `close`, of one or more that can be written."""

    @abc.abstractmethod
    async def forget(self, ids: Sequence[str]) -> None:
        """Delete the finished claims of these tasks: they may run again."""

    @abc.abstractmethod
    async def change_schedules(self, changes: Sequence[ScheduleChange]) -> Sequence[bool]:
        """Write rows of periodic tasks, each for itself; return for each whether it is as the change says (P9).

        Repeating a change that was done has no further effect. `decisions.schedule_fate` says what every ledger does.
        """

    @abc.abstractmethod
    async def schedules(self, scope: str, names: Sequence[str] | None = None) -> Sequence[ScheduleRow]:
        """Return the rows of an app, all or those of `names` that exist, in no order."""

    @abc.abstractmethod
    async def keys(self, names: Sequence[str]) -> Sequence[ScheduleRow]:
        """Return those rows of the keys `names` that are there, in no order."""

    @abc.abstractmethod
    async def schedules_revision(self, scope: str) -> int:
        """Return a number that grows with each change that `tells`. One small request."""

    @abc.abstractmethod
    async def time(self) -> float:
        """Return wall time by the clock that due times are compared with: the server's, where there is one."""

    async def open_joins(self, joins: Sequence[Join]) -> None:
        """Create joins; one that exists stays as it is."""
        check_joins(joins)
        if joins:
            await self._open_joins(joins)

    @abc.abstractmethod
    async def _open_joins(self, joins: Sequence[Join]) -> None:
        """As `open_joins`, of one or more that can be opened."""

    @abc.abstractmethod
    async def joined(self, join_ids: Sequence[str]) -> Sequence[Joined | None]:
        """Return what became of joins; None for one that is not over, or not known (any more)."""

    @abc.abstractmethod
    async def overdue(self, limit: int = 100) -> Sequence[str]:
        """Return the ids of joins that are overdue, to be failed by an arrival. Called by every worker's timer."""

    @abc.abstractmethod
    async def book(self, bookings: Sequence[Booking]) -> Sequence[float]:
        """Reserve starts under rate limits that hold for all workers; return the seconds until each (0: now).

        A message that has a start which has not passed keeps it. `decisions.booked` says what every ledger does.
        """

    @abc.abstractmethod
    async def acquire_permits(self, permits: Sequence[Permit], holder: str, lease: float) -> Sequence[int]:
        """Take permits for `holder`, who has them for `lease` seconds.

        Returns 0 for each that was had, and where none is free a number of those who wait, this one among them.
        """

    @abc.abstractmethod
    def renew_permits(self, permits: Collection[Permit], holder: str, lease: float) -> None:
        """Move the end of what `holder` has. Blocking, on a connection of its own, as `renew_claims`."""

    @abc.abstractmethod
    async def hand_over_permits(
        self, released: Sequence[Permit], waiting: Sequence[Permit], holder: str, limits: Mapping[str, int]
    ) -> Sequence[Permit]:
        """Release what `holder` needs no longer, note the messages `waiting` for one; return those to be woken now.

        What is free of each name in `limits` is reserved for those who waited longest. A permit that is reserved for a
        message which can't be woken is released by the holder "". Called with nothing but `limits` on a timer, since
        permits of the dead are free when their leases end.
        """

    @abc.abstractmethod
    def renew_presence(self, key: str, row: bytes, lease: float) -> None:
        """Write the row `key` of the fleet registry, for `lease` seconds; it is kept for a while after that.

        Blocking, on a connection of its own, as `renew_claims`.
        """

    @abc.abstractmethod
    async def end_presence(self, key: str) -> None:
        """Remove the row `key`: its worker has stopped."""

    @abc.abstractmethod
    async def fleet(self) -> Sequence[Presence]:
        """Return the rows of the fleet registry, by their keys; those that went missing too."""

    @abc.abstractmethod
    async def pause_queue(self, name: str, since: float) -> bool:
        """Note that nobody is to take from the queue `name`, until it is resumed; False: that was so before.

        `since` is wall time, and stays that of the first who said so. Workers are told by whoever pauses.

        Raises:
            StoreRequired: it keeps nothing for other processes.
        """

    @abc.abstractmethod
    async def resume_queue(self, name: str) -> bool:
        """Note that workers may take from the queue `name` again; False: it was not paused. Raises as `pause_queue`."""

    @abc.abstractmethod
    async def paused_queues(self) -> Mapping[str, float]:
        """Return the queues that are paused, each with the wall time since when. One small request."""


def check_joins(joins: Iterable[Join]) -> None:
    """See that `joins` can be opened.

    Raises:
        ValueError: one waits for nobody, and so would never send anything.
    """
    for join in joins:
        if join.size < 1:
            raise ValueError(
                f"join {join.id} has the size {join.size}, and nobody can complete it: send what comes then at once"
            )


def check_join_changes(joining: JoinChanges, record: Record | None) -> None:
    """See that `joining`, which comes with `record`, can be written.

    Raises:
        ValueError: a join waits for nobody or is to shrink, or an arrival has no record to be kept.
    """
    if joining is NO_JOIN_CHANGES:
        return
    check_joins(joining.opened)
    for growth in joining.grown:
        if growth.count < 0:
            raise ValueError(f"join {growth.join_id} can't grow by {growth.count}: members leave it by arriving")
    for arrival in joining.arrivals:
        kept_record(arrival, record)


def kept_record(arrival: Arrival, record: Record | None) -> Record:
    """Return what is kept in the join of `arrival`, which comes with `record`.

    Raises:
        ValueError: there is nothing.
    """
    kept = arrival.record if arrival.record is not None else record
    if kept is None:
        raise ValueError(
            f"member {arrival.member!r} arrives at join {arrival.join_id} without a record: "
            "give the arrival or its finish one, which says how it ended"
        )
    return kept
