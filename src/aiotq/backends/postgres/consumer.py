"""One worker's hold on some queues of a PostgreSQL: reading from them, waiting, keeping what it has (P2, P4, P5)."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final

from ...core.aio import finish
from ...core.clock import Clock
from ...exceptions import MalformedMessage, OperationalError, Refused
from ...results.fleet import FleetRow
from ...transport.broker import FAIR_EVERY, Consumer, Delivery, GiveUp, QueueOrder, Settlement, Turns
from ...wire.message import Message, unpack
from .bus import DUE, WOKEN
from .connection import PostgresClient, packed
from .fleet import writing_row
from .floors import Floors
from .items import lease_of, place_of
from .vacuum import Vacuum

logger = logging.getLogger("aiotq.transport.postgres")

#: Seconds over which consumers spread their looks at what is due: more than their distances to the server differ.
_SPREAD: Final = 0.005
#: Leases for which nobody counts as dead after a connection was lost.
_PATIENCE: Final = 0.6
#: Seconds that a cancelled read has to give back what it took.
_LAST_WORDS: Final = 1.0
#: Seconds for which a dead holder may come back and take back the deaths it was blamed for.
_BLAME_EXPIRES: Final = 86_400.0
#: Messages that one read takes at most.
_MOST: Final = 1000
#: `message.rank` of what was given back, and of the priorities, from the first to the last.
_RANKS: Final = tuple(range(11))
_RANKS_UPWARDS: Final = (0, *range(10, 0, -1))
#: Seconds by which what is due may be written after it was due, between looks at all of it.
_LATE: Final = 60.0

_READ: Final = (
    b"call aiotq.read($1::bigint, $2::int, $3::text, $4::float8, $5::text, $6::int, $7::text[],"
    b" $8::text[], $9::smallint[], $10::bigint[], $11::text[], $12::boolean, $13::float8,"
    b" null, null, null, null, null, null, null, null, null, null, null)"
)
_REGISTER: Final = b"select aiotq.register($1::bigint, $2::text, $3::float8)"
_RENEW: Final = b"select * from aiotq.renew($1::bigint, $2::text, $3::float8, $4::jsonb)"
_RENEW_WITH_ROW: Final = f"with fleet as ({writing_row(5, 6, 7)}) {_RENEW.decode()}".encode()
_CANCEL: Final = b"select aiotq.cancel_read($1::bigint, $2::int, $3::text, $4::float8)"
_LEAVE: Final = b"select aiotq.leave($1::bigint)"
_NOT_IDLE: Final = b"delete from aiotq.idle where holder = $1::bigint"
_END_LEASES: Final = b"update aiotq.holder set until = 0 where name = any ($1::text[])"
_RECLAIM: Final = b"select * from aiotq.reclaim($1::float8)"

#: What the ranks of lanes are more than those of plain messages.
_LANES: Final = 100

Settle = Callable[[Sequence[tuple[Delivery, Settlement]]], Awaitable[Sequence[bool]]]
#: queue, rank, id, body, priority, deaths, charges, returns
Row = tuple[str, int, int, bytes, int, int, int, int]


class PostgresConsumer(Consumer):
    """One worker's hold on some queues. Made and left by `PostgresBroker.consumer`."""

    def __init__(
        self,
        client: PostgresClient,
        name: str,
        queues: Sequence[str],
        *,
        lease: float,
        order: QueueOrder,
        clock: Clock,
        settle: Settle,
    ) -> None:
        self._client = client
        self._name = name
        self._lease = lease
        self._clock = clock
        self._settle = settle
        self._turns = Turns({queue: queue for queue in queues}, order)
        self._order = order
        #: Whose messages are: no sequence, which may give a number twice after a failover.
        self._holder = secrets.randbits(62)
        self._floors = Floors()
        self._vacuum = Vacuum(client)
        self._most = _MOST  #: messages that a read takes: few after they were too large together
        self._reads = 0
        self._number = 0  #: of the last read, whatever became of it
        self._lost: int | None = None  #: the read whose reply nobody got
        self._leased_until = 0.0  #: by the clock's monotonic time
        self._is_idle = False  #: whether we stand among those who wait to be told
        self._took_all = True  #: whether the last read took all that there was
        self._saw_suspects = False  #: and the suspects, if there were any
        self._has_news = False
        self._is_receiving = False
        self._changed = asyncio.Event()  #: set when news came, or `_due_at` is another one
        self._due_at = float("inf")  #: loop time of the next look at what is delayed
        self._looked_at = 0.0  #: wall time of the last look at what is due
        self._looked_at_all = float("-inf")  #: loop time of the last look at all of it
        self._stop_hearing: tuple[Callable[[], None], ...] = ()
        #: Whether any task was revoked, as the last read saw it.
        self.saw_revocations = True

    async def enter(self) -> None:
        bus = self._client.bus
        self._stop_hearing = (bus.hear(WOKEN, self._woken, self._missed), bus.hear(DUE, self._due_earlier))
        self._client.expect_commits()
        began = self._clock.monotonic()
        await self._client.rows(_REGISTER, self._holder, self._name, self._lease)
        self._leased_until = began + self._lease

    async def leave(self) -> None:
        for stop_hearing in self._stop_hearing:
            stop_hearing()
        self._client.blocking.release()
        try:
            (ready,) = await self._client.row(_LEAVE, self._holder)
        except OperationalError as exc:
            logger.warning("can't hand back messages of %s, their leases will end: %s", self._name, exc)
        else:
            self._client.wake(ready)

    async def receive(self, limit: int, *, suspect: bool, wait: float) -> Sequence[Delivery]:
        self._is_receiving = True
        try:
            return await self._receive(min(limit, self._most), suspect, wait)
        except asyncio.CancelledError:
            # At once: there may be no next read, and whoever stops goes on holding what it took (P6).
            with suppress(OperationalError, TimeoutError):
                await finish(self._give_up_read(), _LAST_WORDS)
            raise
        finally:
            self._is_receiving = False

    async def _receive(self, limit: int, suspect: bool, wait: float) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        if limit > 0 and wait > 0 and self._has_seen_all(suspect) and not await self._something(deadline):
            return ()
        while limit > 0:
            self._has_news = False  # before looking, so that nothing is missed that comes in between
            self._due_at = float("inf")
            read_at = self._clock.monotonic()
            rows = await self._read(limit, suspect, loop.time() < deadline)
            if rows:
                self._reads += 1
                self._turns.advance(row[0] for row in rows)
                deliveries = await self._sort_out(rows, read_at)
                if deliveries:
                    return deliveries
                continue
            self._floors.forget()  # from the start: what was committed late may stand before them
            is_over = loop.time() >= deadline
            if (self._is_idle or is_over) and not await self._something(
                deadline
            ):  # else it looks again, standing there
                break
        return ()

    def _has_seen_all(self, suspect: bool) -> bool:
        """Whether the last read took all that there was, and whoever has sent since then tells us.

        It stood among the idle before it looked. Whose lease ends does not stand there any more.
        """
        is_told = self._is_idle and self._took_all and self._clock.monotonic() < self._leased_until
        return is_told and (self._saw_suspects or not suspect)

    def renew(self, held: Collection[Delivery], row: FleetRow | None = None) -> Collection[Delivery]:
        """As the contract says; `row` is written in the same request."""
        deliveries = list(held)
        items: list[dict[str, Any]] = []
        for number, delivery in enumerate(deliveries):
            rank, id_, holder, lease = place_of(delivery)
            if holder == self._holder:
                items.append({"n": number, "q": delivery.queue, "r": rank, "i": id_, "l": lease})
        values = self._holder, self._name, self._lease, packed(items)
        began = self._clock.monotonic()
        if row is None:
            ((kept, ready),) = self._client.blocking.rows(_RENEW, *values)
        else:
            ((kept, ready),) = self._client.blocking.rows(_RENEW_WITH_ROW, *values, row.key, row.row, row.lease)
        if self._clock.monotonic() >= self._leased_until:
            self._is_idle = False  # it had ended: others may have taken us from there
        self._leased_until = began + self._lease
        if ready:
            self._client.wake_from_thread(ready)
        still_held = frozenset(kept)
        return [delivery for number, delivery in enumerate(deliveries) if number not in still_held]

    async def read_from(self, queues: Sequence[str]) -> None:
        await self._client.rows(_NOT_IDLE, self._holder)
        self._is_idle = False
        self._turns = Turns({queue: queue for queue in queues}, self._order)

    async def reclaim(self, dead: Collection[str] = ()) -> int:
        again = self._client.requests.reconnected_at
        if not dead and again is not None and asyncio.get_running_loop().time() < again + _PATIENCE * self._lease:
            return 0  # others may have been cut off as we were: they are given time to renew what they hold
        if dead:
            await self._client.rows(_END_LEASES, list(dead))
        count, ready = await self._client.row(_RECLAIM, _BLAME_EXPIRES)
        self._client.wake(ready)
        await self._vacuum.look()
        return int(count)

    async def _read(self, limit: int, suspect: bool, waits: bool) -> list[Row]:
        """Take messages, in the order in which they were asked for."""
        if self._lost is not None:
            await self._give_up_read()
        pairs = self._pairs()
        # Whoever gets all there is will wait: it stands among the idle before it looks, and looks at everything.
        stands = waits and self._took_all and not self._is_idle
        if stands:
            self._floors.forget()
        self._number += 1
        try:
            row: Sequence[Any] = await self._client.row(
                _READ,
                *(self._holder, self._number, self._name, self._lease, self._client.name, limit),
                list(self._turns.items) if suspect else None,
                *([queue for queue, _ in pairs], [rank for _, rank in pairs], self._floors.of(pairs)),
                *(list(self._turns.items) if stands else None, stands or self._is_idle, self._due_after()),
            )
        except BaseException as exc:
            self._lost = self._number
            if isinstance(exc, Refused):  # more than PostgreSQL gives in one answer
                self._most = max(limit // 4, 1)
            raise
        self._most = min(self._most * 2, _MOST)
        *columns, due, moved, is_revoked = row
        if is_revoked is None:  # only a read that was given up is refused
            self._lost = self._number
            self._is_idle = False
            return []
        rows: list[Row] = list(zip(*columns, strict=True)) if columns[0] is not None else []
        self.saw_revocations = bool(is_revoked)
        self._took_all = len(rows) < limit
        self._is_idle = self._took_all and (stands or self._is_idle) and not self._has_news
        self._saw_suspects = suspect and not any(row[1] < 0 for row in rows)
        self._looked_at = self._clock.time()
        if due is not None:
            self._look_in(due)
        self._client.wake(moved)
        places = {pair: place for place, pair in enumerate(pairs)}
        rows.sort(key=lambda row: (places.get((row[0], _rank_of(row[1])), -1), row[2]))
        self._floors.note(rows)
        return rows

    def _pairs(self) -> list[tuple[str, int]]:
        """Return queues and ranks in the order in which they are read now."""
        is_fair = self._reads % FAIR_EVERY == FAIR_EVERY - 1
        ranks = _RANKS_UPWARDS if is_fair else _RANKS
        if self._order.is_strict:
            return [(queue, rank) for queue in self._turns.items for rank in ranks]
        return [(queue, rank) for rank in ranks for queue in self._turns.items]

    def _due_after(self) -> float:
        """Return from which due time on what is due is looked for: those before were moved, and may still be there for
        whoever looks while somebody else's transaction is open."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at_all < 1.0:
            return self._looked_at - _LATE
        self._looked_at_all = now
        return float("-inf")

    async def _give_up_read(self) -> None:
        """Give back what the lost read took, if there is one, and have others told of what comes."""
        self._is_idle = False
        values = self._holder, self._lost or 0, self._name, self._lease
        (ready,) = await self._client.row(_CANCEL, *values)
        self._client.wake(ready)
        self._lost = None

    async def _sort_out(self, rows: list[Row], read_at: float) -> list[Delivery]:
        """Return what can be read; what can't goes to the dead letters (P5)."""
        deliveries: list[Delivery] = []
        junk: list[tuple[Delivery, Settlement]] = []
        for queue, rank, id_, body, priority, deaths, charges, returns in rows:
            lease = lease_of((rank, id_, self._holder, self._number))
            try:
                message = unpack(body)
            except MalformedMessage as exc:
                logger.error("queue %s: row %d is not a message, it becomes a dead letter: %s", queue, id_, exc)
                nothing = Message("", "", b"")
                junk.append((Delivery(nothing, queue, priority, lease, read_at), GiveUp("malformed", str(exc))))
            else:
                deliveries.append(Delivery(message, queue, priority, lease, read_at, deaths, charges, returns))
        if junk:
            try:
                await self._settle(junk)
            except BaseException:
                self._lost = self._number  # all of this read is given back, and comes again
                raise
        return deliveries

    async def _something(self, deadline: float) -> bool:
        """Wait until there may be something; False when the deadline passed first."""
        loop = asyncio.get_running_loop()
        look_at = loop.time() + self._client.pause() * random.uniform(0.8, 1.2)
        whole_at = loop.time() + self._floors.seconds_to_whole()
        while not self._has_news and (until := min(deadline, self._due_at, look_at, whole_at)) > loop.time():
            self._changed.clear()
            timer = loop.call_at(until, self._changed.set)
            try:
                await self._changed.wait()
            finally:
                timer.cancel()
        if loop.time() >= look_at:
            self._is_idle = False  # the server may have lost our row: that table is not kept through a crash
        return loop.time() < deadline

    def _woken(self, _: bytes = b"") -> None:
        self._is_idle = False  # most likely it was our row that is gone; if not, it is written again
        self._has_news = True
        self._floors.forget()
        self._changed.set()
        if not self._is_receiving:
            asyncio.get_running_loop().call_later(_SPREAD, self._pass_on)

    def _pass_on(self) -> None:
        """Have somebody else told instead: we were told when we did not read, and still don't."""
        if self._has_news and not self._is_receiving:
            self._client.wake(dict.fromkeys(self._turns.items, 1))

    def _missed(self) -> None:
        self._woken()

    def _due_earlier(self, milliseconds: bytes) -> None:
        """Something is due before what we wait for."""
        self._look_in(float(milliseconds) / 1000)
        self._changed.set()

    def _look_in(self, seconds: float) -> None:
        """Look when something is due; not to the moment, or whoever is nearest to the server has it each time."""
        at = asyncio.get_running_loop().time() + seconds + random.uniform(0, _SPREAD)
        self._due_at = min(self._due_at, at)


def _rank_of(rank: int) -> int:
    """Return the rank that a message has, or would have if it did not wait by its key."""
    return rank - _LANES if rank > _LANES else rank
