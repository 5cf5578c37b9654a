"""One worker's hold on some queues of the file: reading from them, waiting, keeping what it has (P2, P4, P5)."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Collection, Sequence

from ...core.clock import Clock
from ...core.values import value
from ...exceptions import MalformedMessage, OperationalError
from ...transport.broker import FAIR_EVERY, Consumer, Delivery, QueueOrder, Turns
from ...wire.message import unpack
from . import lanes
from .bus import WOKEN
from .connection import Database
from .fetch import Fetcher
from .lanes import Fetched
from .leases import ConsumerLease, end_leases, undo_deaths
from .messages import AGAIN, BATCH, bury, give_back, held_leases, move_due, next_due
from .schema import FREE
from .sql import Transaction, in_chunks, marks

logger = logging.getLogger("aiotq.transport.sqlite")


@value
class _Look:
    """The answer of a fetch: rows to deliver, or when there may be some."""

    rows: list[Fetched]
    due: float | None


class SQLiteConsumer(Consumer):
    """One worker's hold on some queues of the file. Made and left by `SQLiteBroker.consumer`."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        name: str,
        queues: Sequence[str],
        *,
        lease: float,
        order: QueueOrder,
        dead_letter_retention: float,
    ) -> None:
        self._database = database
        self._clock = clock
        self._retention = dead_letter_retention
        self._order = order
        self._turns = Turns({queue: queue for queue in queues}, order)
        self._fetcher = Fetcher(len(self._turns.items), is_strict=order.is_strict)
        self._holder = ConsumerLease(database, clock, name, self._turns.items, lease)
        self._reads = 0
        self._renewed = 0  #: the holder's number as `renew` knows it; another one: it was thought dead meanwhile
        self._news = asyncio.Event()
        self._stop_hearing: Callable[[], None] | None = None

    async def enter(self) -> None:
        self._renewed = await self._database.write(
            self._holder.register, undo=lambda transaction, _: self._holder.unregister(transaction)
        )
        self._stop_hearing = self._database.bus.hear(WOKEN, self._hear, self._hear)

    async def leave(self) -> None:
        if self._stop_hearing is not None:
            self._stop_hearing()
        try:
            await self._database.write(self._holder.unregister)
        except OperationalError as exc:
            logger.warning("can't hand back messages of %s, their leases will end: %s", self._holder.name, exc)

    async def receive(self, limit: int, *, suspect: bool, wait: float) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        limit = min(limit, BATCH)
        while limit > 0:
            news = self._news  # before looking, so that nothing is missed that comes in between
            read_at = self._clock.monotonic()
            look = await self._database.write(
                lambda transaction: self._fetch(transaction, limit, suspect), durable=False, undo=self._return
            )
            if look.rows:
                self._reads += 1
                self._turns.advance(row[1] for row in look.rows)
                deliveries = await self._read(look.rows, read_at)
                if deliveries:
                    return deliveries
                continue
            if not await self._something(news, look.due, deadline, suspect):
                break
        return ()

    def renew(
        self, held: Collection[Delivery], *, beside: Callable[[Transaction], None] | None = None
    ) -> Collection[Delivery]:
        """As the contract says; `beside` is written in the same transaction, and what fails of it alone is logged."""
        leases = [delivery.lease for delivery in held]

        def renew(transaction: Transaction) -> tuple[int, set[int]]:
            number = self._holder.register(transaction)
            if number != self._renewed:
                undo_deaths(transaction, self._renewed)
            if beside is not None:
                _try(beside, transaction)
            return number, held_leases(transaction, leases)

        # Later than that, and the next attempt comes too late as well.
        patience = min(self._database.timeout, max(self._holder.lease / 3, 1.0))
        self._renewed, alive = self._database.write_here(renew, patience)
        return [delivery for delivery in held if delivery.lease not in alive]

    async def read_from(self, queues: Sequence[str]) -> None:
        turns = Turns({queue: queue for queue in queues}, self._order)
        await self._database.write(lambda transaction: self._holder.listen_to(transaction, turns.items), durable=False)
        self._turns = turns
        self._fetcher = Fetcher(len(turns.items), is_strict=self._order.is_strict)

    async def reclaim(self, dead: Collection[str] = ()) -> int:
        oldest = self._clock.time() - self._retention

        def is_needed(connection: sqlite3.Connection) -> bool:
            (is_any_old,) = connection.execute(
                "SELECT EXISTS (SELECT 1 FROM dead WHERE died_at <= ?)", (oldest,)
            ).fetchone()
            return self._holder.is_any_dead(connection) or bool(is_any_old)

        if not dead and not await self._database.read(is_needed):
            return 0
        return await self._database.write(lambda transaction: self._reclaim(transaction, dead))

    def _reclaim(self, transaction: Transaction, dead: Collection[str]) -> int:
        now = self._clock.time()
        end_leases(transaction, dead)
        transaction.execute(
            "DELETE FROM dead WHERE number IN (SELECT number FROM dead WHERE died_at <= ? LIMIT ?)",
            (now - self._retention, BATCH),
        )
        return self._holder.mourn_all(transaction, now)

    def _fetch(self, transaction: Transaction, limit: int, suspect: bool) -> _Look:
        number = self._holder.ensure(transaction)  # what is fetched needs a lease that stands
        now = self._clock.time()
        due = next_due(transaction.connection, self._turns.items)
        if due is not None and due <= now:
            for queue in self._turns.items:
                move_due(transaction, queue, now)
            due = next_due(transaction.connection, self._turns.items)
        is_fair = self._reads % FAIR_EVERY == FAIR_EVERY - 1
        queues = self._turns.items
        rows = self._fetcher.fetch(transaction, queues, limit, is_fair, suspect)
        if is_laned := lanes.is_any(transaction.connection, queues):
            rows = self._with_lanes(transaction.connection, rows, limit, upwards=is_fair)
        for chunk in in_chunks([row[0] for row in rows]):
            transaction.execute(f"UPDATE messages SET holder = ? WHERE seq IN ({marks(len(chunk))})", (number, *chunk))
        if is_laned:
            lanes.tidy(transaction, queues)
        return _Look(rows, due)

    def _with_lanes(
        self, connection: sqlite3.Connection, plain: list[Fetched], limit: int, *, upwards: bool
    ) -> list[Fetched]:
        """Return what is to be leased where something waits by key."""
        queues = self._turns.items
        laned = [row for queue in queues for row in lanes.first_of(connection, queue, limit, upwards=upwards)]
        is_strict, lanes_first = self._order.is_strict, self._reads % 2 == 0
        both = lanes.in_turn(
            plain, laned, queues, lanes_first=lanes_first, upwards=upwards, again=AGAIN, is_strict=is_strict
        )
        return both[:limit]

    def _return(self, transaction: Transaction, look: _Look) -> None:
        """Give back what a cancelled read took: nobody saw it."""
        seqs = list(held_leases(transaction, [row[0] for row in look.rows]))
        transaction.queues.update(row[1] for row in look.rows)
        give_back(transaction, sorted(seqs), is_return=False)

    async def _read(self, rows: list[Fetched], read_at: float) -> list[Delivery]:
        """Return the deliveries in `rows`; what is none goes to the dead letters."""
        deliveries: list[Delivery] = []
        malformed: list[tuple[int, str]] = []
        for seq, queue, priority, deaths, charges, returns, data, _ in rows:
            try:
                if data is None:
                    raise MalformedMessage("the row's data is not a blob")
                message = unpack(data)
            except MalformedMessage as exc:
                malformed.append((seq, str(exc)))
                logger.warning("dead letter: unreadable message in queue %r: %s", queue, exc)
            else:
                deliveries.append(Delivery(message, queue, priority, seq, read_at, deaths, charges, returns))
        if malformed:
            now = self._clock.time()

            def bury_all(transaction: Transaction) -> None:
                for seq, detail in malformed:
                    bury(transaction, [seq], "malformed", detail, now)

            try:
                await self._database.write(bury_all)
            except BaseException:
                self._database.undo(self._return, _Look(rows, None))
                raise
        return deliveries

    def _hear(self, _: bytes = b"") -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _something(self, news: asyncio.Event, due: float | None, deadline: float, suspect: bool) -> bool:
        """Return True when it is time to fetch, False when `deadline` (loop time) has passed."""
        loop = asyncio.get_running_loop()
        while (left := deadline - loop.time()) > 0:
            pause = self._database.pause()
            if due is not None:
                pause = min(pause, max(0.0, due - self._clock.time()))
            try:
                async with asyncio.timeout(min(left, pause)):
                    await news.wait()
                return True
            except TimeoutError:
                if due is not None and due <= self._clock.time():
                    return True
                if loop.time() >= deadline:
                    return False
            is_there, due = await self._database.read(lambda connection: self._peek(connection, suspect))
            if is_there:
                return True
        return False

    def _peek(self, connection: sqlite3.Connection, suspect: bool) -> tuple[bool, float | None]:
        """Return whether something is ready for us or our lease is gone, and the next due time."""
        ready = f"SELECT 1 FROM messages INDEXED BY ready WHERE holder = {FREE} AND is_suspect = 0 AND queue = ?"
        suspects = f"SELECT 1 FROM messages INDEXED BY suspects WHERE holder = {FREE} AND is_suspect <> 0 AND queue = ?"
        for question in (ready, suspects) if suspect else (ready,):
            for queue in self._turns.items:
                if connection.execute(f"{question} LIMIT 1", (queue,)).fetchone() is not None:
                    return True, None
        if lanes.is_any(connection, self._turns.items):
            return True, None
        if not self._holder.is_known(connection):
            return True, None
        return False, next_due(connection, self._turns.items)


def _try(write: Callable[[Transaction], None], transaction: Transaction) -> None:
    try:
        write(transaction)
    except sqlite3.Error as exc:  # leases are renewed all the same
        logger.warning("the row in the fleet registry could not be written, trying again: %s", exc)
