"""Results in this process: for tests and for embedding, with the meaning of every other store.

All of it is `MemoryRecords`, plain functions over plain dicts; `MemoryStore` is the contract's face of it.
Several stores, loops and threads of the process may share the same records.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self

from ...core.clock import SYSTEM_CLOCK, Clock
from ...results.base import (
    NO_JOIN_CHANGES,
    AlreadyDone,
    Booking,
    Caution,
    Claim,
    Claimed,
    Closing,
    HeldElsewhere,
    Join,
    JoinChanges,
    Joined,
    Permit,
    Record,
    ResultStore,
    Suspected,
    booked,
)
from ...results.join_checks import check_joining, check_joins
from ...results.permits import Permits
from ...states import READY_STATES
from ...wire.message import Envelope
from .joins import MemoryJoins

#: How long a claim is remembered after it was done or ended: a broker that was down for a day may still
#: redeliver.
CLAIM_KEPT: Final = 86_400.0
#: Expired things removed by one write at most; writes add one each, so what expires can't pile up.
SWEEP_BATCH: Final = 64
#: Seconds for which a booked start is remembered after it: it may come late, and is booked again then.
BOOKING_KEPT: Final = 60.0

_addresses = itertools.count(1)


class _Claim:
    """Who may run a message, until when, and, once it ran, what follows from it."""

    __slots__ = ("died", "ends", "envelopes", "expires", "holder")

    def __init__(self, holder: str, ends: float) -> None:
        self.holder = holder  #: empty: it was given up
        self.died: tuple[str, ...] = ()
        self.ends = ends
        self.expires = ends + CLAIM_KEPT
        self.envelopes: tuple[Envelope, ...] | None = None  #: None: not done yet


class _Revocation:
    __slots__ = ("expires",)

    def __init__(self, expires: float) -> None:
        self.expires = expires


class _Start:
    """A start that was booked, or the next free one of a name."""

    __slots__ = ("at", "expires")

    def __init__(self, at: float, expires: float) -> None:
        self.at = at
        self.expires = expires


class _Listener:
    """A store that was entered, and the records on their way to it."""

    __slots__ = ("is_scheduled", "loop", "records", "store")

    def __init__(self, store: MemoryStore, loop: asyncio.AbstractEventLoop) -> None:
        self.store = store
        self.loop = loop
        self.records: list[Record] = []
        self.is_scheduled = False

    def push(self, lock: threading.Lock) -> None:
        """In the store's own loop: tell it of all that was written since it was scheduled."""
        with lock:
            records, self.records = self.records, []
            self.is_scheduled = False
        if records:
            self.store.on_push(records)


class MemoryRecords:
    """What the stores of one app remember, to be shared by them.

    Every method returns at once and expects `lock` to be held by its caller, so that several of them can be
    one step.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.lock = threading.Lock()
        self.clock = clock
        self._records: dict[str, Record] = {}
        self._claims: dict[tuple[str, int], _Claim] = {}
        self._joins = MemoryJoins()
        self._revocations: dict[str, _Revocation] = {}
        self._starts: dict[object, _Start] = {}  #: by message, and by name
        self.seats: Final = Permits()
        self._tables: tuple[dict[Any, Any], ...] = (
            self._records,
            self._claims,
            self._joins.kept,
            self._revocations,
            self._starts,
        )
        #: A heap of (when to look, table, key), one for each thing kept; what was prolonged meanwhile is put
        #: back.
        self._expiring: list[tuple[float, int, Any]] = []
        self._listeners: dict[str, _Listener] = {}
        self._watchers: dict[str, set[str]] = {}

    def __len__(self) -> int:
        """How many things are kept: records, claims, joins, revocations and seats."""
        return sum(map(len, self._tables)) + len(self.seats)

    def get(self, task_id: str) -> Record | None:
        record = self._records.get(task_id)
        return record if record is not None and record.expires > self.clock.time() else None

    def put(self, record: Record) -> None:
        """Store a state and push it, unless a terminal one stands already."""
        now = self.clock.time()
        before = self._records.get(record.id)
        if before is None:
            self._expire(record.expires, 0, record.id, now)
        elif before.state in READY_STATES and before.expires > now:
            return
        self._records[record.id] = record
        if record.reply_to is not None and record.reply_to in self._listeners:
            self._push(self._listeners[record.reply_to], record)
        if self._watchers:
            for address in self._watchers.get(record.id, ()):
                if address != record.reply_to and address in self._listeners:
                    self._push(self._listeners[address], record)

    def forget(self, task_id: str) -> None:
        self._records.pop(task_id, None)
        attempt = 0
        while (claim := self._claims.get((task_id, attempt))) is not None:
            if claim.envelopes is not None:
                del self._claims[task_id, attempt]
            attempt += 1

    def revoke(self, ids: Iterable[str], terminate: bool, expires: float) -> None:
        ids = tuple(ids)
        now = self.clock.time()
        for task_id in ids:
            before = self._revocations.get(task_id)
            if before is None:
                self._revocations[task_id] = _Revocation(expires)
                self._expire(expires, 3, task_id, now)
            else:
                before.expires = max(before.expires, expires)
        if terminate:
            for listener in list(self._listeners.values()):
                self._call(listener, listener.store.on_revoked, ids)

    def unrevoke(self, ids: Iterable[str]) -> None:
        for task_id in ids:
            self._revocations.pop(task_id, None)

    @property
    def has_revocations(self) -> bool:
        return bool(self._revocations)

    def revoked(self, ids: Iterable[str]) -> set[str]:
        now = self.clock.time()
        known = self._revocations
        return {task_id for task_id in ids if task_id in known and known[task_id].expires > now}

    def claim(self, keys: Sequence[tuple[str, int]], holder: str, lease: float, caution: Caution | None) -> list[Claim]:
        room = caution.room if caution is not None else 0
        claims: list[Claim] = []
        for key in keys:
            claim = self._claim(key, holder, lease, caution.deaths if caution is not None and room <= 0 else None)
            if caution is not None and isinstance(claim, Claimed) and claim.deaths >= caution.deaths:
                room -= 1
            claims.append(claim)
        return claims

    def _claim(self, key: tuple[str, int], holder: str, lease: float, deadly: int | None) -> Claim:
        """Claim one message, unless `deadly` holders died with it."""
        now = self.clock.time()
        claim = self._claims.get(key)
        if claim is None:
            claim = self._claims[key] = _Claim(holder, now + lease)
            self._expire(claim.expires, 1, key, now)
            return Claimed()
        if claim.envelopes is not None:
            return AlreadyDone(claim.envelopes)
        if claim.holder != holder and claim.ends > now:
            return HeldElsewhere(claim.ends)
        died = (*claim.died, claim.holder) if claim.holder not in {"", holder} else claim.died
        if deadly is not None and len(died) >= deadly:
            return Suspected(len(died))
        claim.holder, claim.died = holder, died
        self._prolong(claim, now + lease)
        return Claimed(len(died))

    def renew_claim(self, key: tuple[str, int], holder: str, lease: float) -> bool:
        claim = self._claims.get(key)
        if claim is None or claim.holder != holder or claim.envelopes is not None:
            if claim is not None:
                claim.died = tuple(each for each in claim.died if each != holder)
            return False
        self._prolong(claim, self.clock.time() + lease)
        return True

    def close(self, closing: Closing, holder: str) -> tuple[Envelope, ...] | None:
        """Write the end of one claimed run; None when the claim is not `holder`'s any more."""
        claim = self._claims.get(closing.key)
        if claim is None or claim.holder != holder:
            return None
        if claim.envelopes is not None:
            return claim.envelopes
        following = self.write(closing.record, closing.envelopes, closing.joining, closing.further)
        if closing.is_done:
            claim.envelopes = following
            claim.expires = self.clock.time() + CLAIM_KEPT
        elif claim.died:
            claim.holder, claim.ends = "", 0.0
        else:
            del self._claims[closing.key]
        return following

    def write(
        self,
        record: Record | None,
        envelopes: tuple[Envelope, ...],
        joining: JoinChanges,
        further: Iterable[Record],
    ) -> tuple[Envelope, ...]:
        """Write what came of one run; return `envelopes` and those of joins that are over by it."""
        if joining is not NO_JOIN_CHANGES:
            now = self.clock.time()
            then, ended = self._joins.write(joining, record, now)
            envelopes += then
            for join_id, expires in ended:
                self._expire(expires, 2, join_id, now)
        if record is not None:
            self.put(record)
        for each in further:
            self.put(each)
        return envelopes

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
            if start > now:
                self._keep_start(booking.key, start, start + BOOKING_KEPT, now)
        return max(start - now, 0.0)

    def _keep_start(self, key: object, at: float, expires: float, now: float) -> None:
        if key in self._starts:
            self._starts[key].at, self._starts[key].expires = at, expires
        else:
            self._starts[key] = _Start(at, expires)
            self._expire(expires, 4, key, now)

    def listen(self, store: MemoryStore, loop: asyncio.AbstractEventLoop) -> None:
        self._listeners[store.address] = _Listener(store, loop)

    def unlisten(self, address: str) -> None:
        listener = self._listeners.pop(address, None)
        if listener is not None:
            listener.records.clear()
        for task_id in [task_id for task_id, watchers in self._watchers.items() if address in watchers]:
            self.unwatch(task_id, address)

    def watch(self, task_id: str, address: str) -> None:
        self._watchers.setdefault(task_id, set()).add(address)

    def unwatch(self, task_id: str, address: str) -> None:
        watchers = self._watchers.get(task_id)
        if watchers is not None:
            watchers.discard(address)
            if not watchers:
                del self._watchers[task_id]

    def _push(self, listener: _Listener, record: Record) -> None:
        listener.records.append(record)
        if not listener.is_scheduled:
            listener.is_scheduled = True
            self._call(listener, listener.push, self.lock)

    def _call(self, listener: _Listener, function: Callable[..., None], argument: object) -> None:
        """Call `function` in the listener's loop, soon."""
        if listener.loop is asyncio._get_running_loop():
            listener.loop.call_soon(function, argument)
        else:
            with suppress(RuntimeError):  # that loop is closed: nobody listens there any more
                listener.loop.call_soon_threadsafe(function, argument)

    def _prolong(self, claim: _Claim, ends: float) -> None:
        claim.ends = ends
        claim.expires = ends + CLAIM_KEPT

    def _expire(self, when: float, table: int, key: object, now: float) -> None:
        heapq.heappush(self._expiring, (when, table, key))
        if self._expiring[0][0] <= now:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        for _ in range(SWEEP_BATCH):
            if not self._expiring or self._expiring[0][0] > now:
                return
            _, table, key = heapq.heappop(self._expiring)
            kept = self._tables[table].get(key)
            if kept is None:
                continue
            if kept.expires <= now:
                del self._tables[table][key]
            else:
                heapq.heappush(self._expiring, (kept.expires, table, key))


class MemoryStore(ResultStore):
    """One process's or loop's view of `MemoryRecords`; without any it has records of its own."""

    def __init__(self, records: MemoryRecords | None = None) -> None:
        self.records = records if records is not None else MemoryRecords()
        self._address = f"memory-{next(_addresses)}"
        self.on_push = _ignore
        self.on_revoked = _ignore
        self.on_missed = _ignore

    @property
    def address(self) -> str:
        return self._address

    async def __aenter__(self) -> Self:
        with self.records.lock:
            self.records.listen(self, asyncio.get_running_loop())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        with self.records.lock:
            self.records.unlisten(self._address)

    async def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        with self.records.lock:
            return [self.records.get(task_id) for task_id in ids]

    async def put(self, records: Sequence[Record]) -> None:
        with self.records.lock:
            for record in records:
                self.records.put(record)

    async def forget(self, ids: Sequence[str]) -> None:
        with self.records.lock:
            for task_id in ids:
                self.records.forget(task_id)

    async def watch(self, task_id: str) -> None:
        with self.records.lock:
            self.records.watch(task_id, self._address)

    async def unwatch(self, task_id: str) -> None:
        with self.records.lock:
            self.records.unwatch(task_id, self._address)

    async def revoke(self, ids: Sequence[str], *, terminate: bool, expires: float) -> None:
        with self.records.lock:
            self.records.revoke(ids, terminate, expires)

    async def unrevoke(self, ids: Sequence[str]) -> None:
        with self.records.lock:
            self.records.unrevoke(ids)

    async def revoked(self, ids: Sequence[str]) -> Collection[str]:
        with self.records.lock:
            return self.records.revoked(ids)

    async def has_revocations(self) -> bool:
        return self.records.has_revocations

    async def claim(
        self, keys: Sequence[tuple[str, int]], holder: str, lease: float, caution: Caution | None = None
    ) -> Sequence[Claim]:
        with self.records.lock:
            return self.records.claim(keys, holder, lease, caution)

    def renew_claims(self, keys: Sequence[tuple[str, int]], holder: str, lease: float) -> Collection[tuple[str, int]]:
        with self.records.lock:
            return [key for key in keys if not self.records.renew_claim(key, holder, lease)]

    async def close(self, closings: Sequence[Closing], holder: str) -> Sequence[tuple[Envelope, ...] | None]:
        for closing in closings:
            check_joining(closing.joining, closing.record)
        with self.records.lock:
            return [self.records.close(closing, holder) for closing in closings]

    async def open_joins(self, joins: Sequence[Join]) -> None:
        check_joins(joins)
        with self.records.lock:
            for join in joins:
                self.records.open_join(join)

    async def joined(self, join_ids: Sequence[str]) -> Sequence[Joined | None]:
        with self.records.lock:
            return [self.records.joined(join_id) for join_id in join_ids]

    async def overdue(self, limit: int = 100) -> Sequence[str]:
        with self.records.lock:
            return self.records.overdue(limit)

    async def book(self, bookings: Sequence[Booking]) -> Sequence[float]:
        with self.records.lock:
            return [self.records.book(booking) for booking in bookings]

    async def acquire_permits(self, seats: Sequence[Permit], holder: str, lease: float) -> Sequence[int]:
        with self.records.lock:
            now = self.records.clock.monotonic()
            return [self.records.seats.acquire_permits(seat, holder, lease, now) for seat in seats]

    def renew_permits(self, seats: Collection[Permit], holder: str, lease: float) -> None:
        with self.records.lock:
            for seat in seats:
                self.records.seats.keep(seat, holder, lease, self.records.clock.monotonic())

    async def hand_over_permits(
        self, left: Sequence[Permit], seeking: Sequence[Permit], holder: str, limits: Mapping[str, int]
    ) -> Sequence[Permit]:
        with self.records.lock:
            return self.records.seats.hand_over_permits(left, seeking, holder, limits, self.records.clock.monotonic())


def _ignore(_: object) -> None:
    """What a store does with its news while nobody asked for them."""
