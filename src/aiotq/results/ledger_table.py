"""The tables of a ledger in memory: claims, joins, starts, permits, revocations, schedules. Their user has the lock."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence, Sized
from typing import Any, Final, Literal

from ..core.clock import SYSTEM_CLOCK, Clock
from ..wire.message import Envelope
from .decisions import ClaimState, Room, booked, decide_claim, schedule_fate, start_kept
from .fleet import FleetTable
from .in_process_joins import InProcessJoins
from .ledger import (
    NO_JOIN_CHANGES,
    Booking,
    Caution,
    Claim,
    Claimed,
    Closing,
    Join,
    JoinChanges,
    Joined,
    ScheduleChange,
    ScheduleRow,
)
from .permits import Permits
from .records import Record

#: How long a claim is remembered after it was done or ended: a broker that was down for a day may still redeliver.
CLAIM_KEPT: Final = 86_400.0
#: Expired things removed by one write at most; writes add one each, so what expires can't pile up.
SWEEP_BATCH: Final = 64
#: Seconds for which a booked start is remembered after it: it may come late, and is booked again then.
BOOKING_KEPT: Final = 60.0
_MessageKey = tuple[str, int]
#: Writes what came of a run to records and joins; returns all that is to be sent.
Write = Callable[[Closing], tuple[Envelope, ...]]


class Expiring:
    """Removes what has expired from tables whose values say when they do (`expires`), a little with each write."""

    def __init__(self) -> None:
        #: A heap of (when to look, number, table, key), one for each thing kept; what was prolonged is put back.
        self._waiting: list[tuple[float, int, dict[Any, Any], Any]] = []
        self._numbers = itertools.count()

    def note(self, table: dict[Any, Any], key: object, when: float, now: float) -> None:
        """Note that `table` has `key` until `when` at least."""
        heapq.heappush(self._waiting, (when, next(self._numbers), table, key))
        if self._waiting[0][0] <= now:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        for _ in range(SWEEP_BATCH):
            if not self._waiting or self._waiting[0][0] > now:
                return
            _, number, table, key = heapq.heappop(self._waiting)
            kept = table.get(key)
            if kept is None:
                continue
            if kept.expires <= now:
                del table[key]
            else:
                heapq.heappush(self._waiting, (kept.expires, number, table, key))


class _Claim:
    """The holder of a message and when its claim ends; once the message ran, the envelopes that follow."""

    __slots__ = ("expires", "state")

    def __init__(self, state: ClaimState) -> None:
        self.state = state
        self.expires = state.ends + CLAIM_KEPT


class _Key:
    """The row of a key, until it expires."""

    __slots__ = ("expires", "row")

    def __init__(self, row: ScheduleRow, expires: float) -> None:
        self.row = row
        self.expires = expires


class _Until:
    """Something that is kept until it expires; `at` is a start, where it is one."""

    __slots__ = ("at", "expires")

    def __init__(self, expires: float, at: float = 0.0) -> None:
        self.expires = expires
        self.at = at


class LedgerTable:
    """The tables of one ledger.

    Every method returns at once and expects the lock of its owner to be held, so that several can be one step.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK, expiring: Expiring | None = None) -> None:
        self.clock = clock
        self.permits: Final = Permits()
        self.fleet: Final = FleetTable()
        self.paused: Final[dict[str, float]] = {}  #: queues, and since when
        self._expiring = expiring if expiring is not None else Expiring()
        self._claims: dict[_MessageKey, _Claim] = {}
        self._joins = InProcessJoins()
        self._revocations: dict[str, _Until] = {}
        self._starts: dict[object, _Until] = {}  #: by message, and by name
        self._schedules: dict[str, dict[str, ScheduleRow]] = {}  #: by app and name
        self._revisions: dict[str, int] = {}
        self._keys: dict[str, _Key] = {}

    def __len__(self) -> int:
        """How many things are kept that expire: claims, joins, revocations, starts, permits, rows of the fleet."""
        tables: tuple[Sized, ...] = (
            self._claims,
            self._joins.kept,
            self._revocations,
            self._starts,
            self._keys,
            self.permits,
            self.fleet,
        )
        return sum(len(table) for table in tables)

    def revoke(self, ids: Iterable[str], expires: float) -> None:
        now = self.clock.time()
        for task_id in ids:
            before = self._revocations.get(task_id)
            if before is None:
                self._revocations[task_id] = _Until(expires)
                self._expiring.note(self._revocations, task_id, expires, now)
            else:
                before.expires = max(before.expires, expires)

    def unrevoke(self, ids: Iterable[str]) -> None:
        for task_id in ids:
            self._revocations.pop(task_id, None)

    def forget_oldest_revocations(self, most: int) -> None:
        """Keep no more than `most` revocations."""
        while len(self._revocations) > most:
            del self._revocations[next(iter(self._revocations))]

    @property
    def has_revocations(self) -> bool:
        return bool(self._revocations)

    def revoked(self, ids: Iterable[str]) -> set[str]:
        now = self.clock.time()
        known = self._revocations
        return {task_id for task_id in ids if task_id in known and known[task_id].expires > now}

    def revocations(self, limit: int) -> dict[str, float]:
        now = self.clock.time()
        ends = {key: until.expires for key, until in self._revocations.items() if until.expires > now}
        return {key: ends[key] for key in heapq.nlargest(limit, ends, key=ends.__getitem__)}

    def claim(
        self, keys: Sequence[_MessageKey], holder: str, lease: float, caution: Caution | None, dead: Collection[str]
    ) -> list[Claim]:
        room = Room(caution)
        return [room.take(self._claim(key, holder, lease, room.deadly, dead)) for key in keys]

    def _claim(self, key: _MessageKey, holder: str, lease: float, deadly: int | None, dead: Collection[str]) -> Claim:
        now = self.clock.time()
        before = self._claims.get(key)
        answer, died = decide_claim(before.state if before is not None else None, holder, now, deadly, dead)
        if isinstance(answer, Claimed):
            self._keep_claim(key, ClaimState(holder, now + lease, died), now)
        return answer

    def _keep_claim(self, key: _MessageKey, state: ClaimState, now: float) -> None:
        claim = self._claims.get(key)
        if claim is None:
            claim = self._claims[key] = _Claim(state)
            self._expiring.note(self._claims, key, claim.expires, now)
        else:
            claim.state, claim.expires = state, state.ends + CLAIM_KEPT

    def renew_claim(self, key: _MessageKey, holder: str, lease: float) -> bool:
        claim = self._claims.get(key)
        if claim is None:
            return False
        state = claim.state
        if state.holder != holder or state.following is not None:
            died = tuple(each for each in state.died if each != holder)  # who renews is alive after all
            claim.state = ClaimState(state.holder, state.ends, died, state.following)
            return False
        now = self.clock.time()
        self._keep_claim(key, ClaimState(holder, now + lease, state.died), now)
        return True

    def close(self, closing: Closing, holder: str, write: Write) -> tuple[Envelope, ...] | None:
        """Write the end of one claimed run; None when the claim is not `holder`'s any more."""
        claim = self._claims.get(closing.key)
        if claim is None or claim.state.holder != holder:
            return None
        if claim.state.following is not None:
            return claim.state.following
        following = write(closing)
        now = self.clock.time()
        if closing.is_done:
            self._keep_claim(closing.key, ClaimState(holder, now, claim.state.died, following), now)
        elif claim.state.died:
            self._keep_claim(closing.key, ClaimState("", 0.0, claim.state.died), now)
            claim.expires = now + CLAIM_KEPT
        else:
            del self._claims[closing.key]
        return following

    def close_for_itself(self, closing: Closing, holder: str, write: Write) -> tuple[Envelope, ...] | None:
        """As `close`, where no other process ever sees a claim: what is done need not be remembered."""
        claim = self._claims.get(closing.key)
        if claim is not None and claim.state.holder != holder:
            return None
        self._claims.pop(closing.key, None)
        return write(closing)

    def forget(self, task_id: str) -> None:
        """Delete the finished claims of a task."""
        attempt = 0
        while (claim := self._claims.get((task_id, attempt))) is not None:
            if claim.state.following is not None:
                del self._claims[task_id, attempt]
            attempt += 1

    def write_joins(self, joining: JoinChanges, record: Record | None) -> tuple[Envelope, ...]:
        """Do what a finish with `record` does at joins; return the envelopes of those that are over by it."""
        if joining is NO_JOIN_CHANGES:
            return ()
        now = self.clock.time()
        for change in joining.keys:
            self.change_schedule(change)
        following, ended = self._joins.write(joining, record, now)
        for join_id, expires in ended:
            self._expiring.note(self._joins.kept, join_id, expires, now)
        return following

    def open_join(self, join: Join) -> None:
        self._joins.open(join, self.clock.time())

    def joined(self, join_id: str) -> Joined | None:
        return self._joins.joined(join_id, self.clock.time())

    def overdue(self, limit: int) -> list[str]:
        return self._joins.overdue(limit, self.clock.time())

    def book(self, booking: Booking) -> float:
        now = self.clock.time()
        before, free = self._starts.get(booking.key), self._starts.get(booking.name)
        start, free_at = booked(booking, before.at if before else None, free.at if free else None, now)
        if free_at is not None:
            self._keep_start(booking.name, free_at, free_at, now)
            if start > now or booking.is_first:
                self._keep_start(booking.key, start, start + start_kept(booking) + BOOKING_KEPT, now)
        return max(start - now, 0.0)

    def change_schedule(self, change: ScheduleChange) -> Literal["write", "done", "refused"]:
        """Write a row of a periodic task, or of a key, and return what was done."""
        if change.lasts is not None:
            return self._change_key(change, change.lasts)
        rows = self._schedules.setdefault(change.scope, {})
        before = rows.get(change.name)
        fate = schedule_fate("" if before is None else before.mark, change)
        if fate == "write":
            if change.mark:
                rows[change.name] = ScheduleRow(change.name, change.mark, change.body, change.unsent)
            else:
                rows.pop(change.name, None)
            if change.tells:
                self._revisions[change.scope] = self.schedules_revision(change.scope) + 1
        return fate

    def _change_key(self, change: ScheduleChange, lasts: float) -> Literal["write", "done", "refused"]:
        now = self.clock.time()
        kept = self._keys.get(change.name)
        there = kept.row.mark if kept is not None and kept.expires > now else ""
        fate = schedule_fate(there, change)
        if fate != "write":
            return fate
        if not change.mark:
            self._keys.pop(change.name, None)
            return fate
        row = ScheduleRow(change.name, change.mark, change.body, change.unsent)
        if kept is not None:
            kept.row, kept.expires = row, now + lasts
        else:
            self._keys[change.name] = _Key(row, now + lasts)
            self._expiring.note(self._keys, change.name, now + lasts, now)
        return fate

    def keys(self, names: Iterable[str]) -> list[ScheduleRow]:
        now = self.clock.time()
        found = (self._keys.get(name) for name in names)
        return [kept.row for kept in found if kept is not None and kept.expires > now]

    def schedules(self, scope: str, names: Iterable[str] | None) -> list[ScheduleRow]:
        rows = self._schedules.get(scope, {})
        return [*rows.values()] if names is None else [rows[name] for name in names if name in rows]

    def schedules_revision(self, scope: str) -> int:
        return self._revisions.get(scope, 0)

    def _keep_start(self, key: object, at: float, expires: float, now: float) -> None:
        if key in self._starts:
            self._starts[key].at, self._starts[key].expires = at, expires
        else:
            self._starts[key] = _Until(expires, at)
            self._expiring.note(self._starts, key, expires, now)
