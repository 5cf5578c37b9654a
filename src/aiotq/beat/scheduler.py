"""The scheduler: sends the occurrences of periodic tasks (P9). Any number may run; one is live, and the others wait.

Who is live is a matter of work and not of correctness: what two of them send at once is sent once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Self

from .. import signals
from ..calling.connection import Connection
from ..calling.core import AppCore
from ..control.presence import Presence, about_process
from ..core.aio import Service
from ..core.logs import WarnOnce
from ..exceptions import NotConnected, OperationalError
from ..results.ledger import Permit
from ..wire.message import new_id
from .agenda import Agenda
from .declared import declared, scope_of
from .schedule_counts import ScheduleCounts

logger = logging.getLogger("aiotq.beat")

#: Seconds for which the permit is held, at most. One who waits asks once a lease, which is then the longest part of a
#: take-over.
_LONGEST_PERMIT: Final = 1.8
#: Of a lease: the permit's part of one that is short.
_PERMIT_PART: Final = 0.25
#: Seconds after which the clock is said to be wrong, and after which it is compared at once.
_WRONG: Final = 2.0
_JUMP: Final = 0.5
#: Seconds between attempts after a failure.
_PAUSE: Final = 1.0
#: Seconds that giving up the permit may take when it stops.
_LAST: Final = 5.0


class Scheduler:
    """Sends periodic tasks in this loop while entered.

        async with app.beat():
            ...

    It runs under a supervisor of its own: a failure ends it, is raised when it is left, and cancels nobody.

    Raises:
        ScheduleError: when it is entered: a periodic task of code can't be.
    """

    def __init__(self, core: AppCore, *, name: str | None = None, is_embedded: bool = True) -> None:
        self._core = core
        self._is_embedded = is_embedded
        mark = new_id()[-8:]
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{mark}"
        self._holder = f"{self.name}#{mark}"
        self._lease = core.conf.worker_lease
        self._permit_lease = min(_LONGEST_PERMIT, self._lease * _PERMIT_PART)
        self._permit = Permit(("beat", 0), f"beat {scope_of(core)}", 1, 0.0)
        self._service: Service[Scheduler] = Service(self._main, f"aiotq.beat.{self.name}")
        self._started = core.clock.time()
        self._offset = 0.0  #: the ledger's clock minus ours
        self._drift = 0.0  #: our wall time minus monotonic time when they were compared, and when that was
        self._compared = 0.0
        #: Whether it is the one that sends.
        self.is_live = False
        #: Whether it sends, or waits for its turn.
        self.is_ready = False
        self._answered_at = time.monotonic()
        self.counts = ScheduleCounts()  #: what it sent

    async def __aenter__(self) -> Self:
        await self._service.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    @property
    def silence(self) -> float:
        """Seconds since the ledger answered last. It is asked at least once a lease."""
        return time.monotonic() - self._answered_at

    async def stop(self) -> None:
        """Send no more; return when it has ended. Another scheduler may take over at once."""
        await self._service.stop()

    async def wait(self) -> None:
        """Return when it has ended; raises what it failed with."""
        await self._service.wait()

    async def _main(self, ready: Callable[[Scheduler], None], stopping: asyncio.Event) -> None:
        core = self._core
        await signals.import_modules.send(core.app)
        core.registry.load_tasks()
        entries = await declared(core)
        async with core.connections.holding() as connection:
            if not connection.ledger.has_joins:
                logger.warning(
                    "no store is shared by all processes (result_backend): a second scheduler would send everything "
                    "again, and what is due while none runs is not known"
                )
            presence = Presence(connection.ledger, self._holder, self._describe, self._lease)
            agenda = Agenda(core, connection, connection.sender(self._holder, self._lease), entries, self.counts)
            await (signals.beat_embedded_init if self._is_embedded else signals.beat_init).send(self)
            core.schedulers.append(self)
            try:
                async with presence, asyncio.TaskGroup() as group:
                    await presence.announce()
                    keeping = group.create_task(presence.keep(), name="aiotq.beat.presence")
                    running = group.create_task(self._run(connection, agenda), name="aiotq.beat.run")
                    watching = group.create_task(_fail_with(connection), name="aiotq.beat.connection")
                    ready(self)
                    self.is_ready = True
                    await stopping.wait()
                    self.is_ready = False
                    for each in (running, watching, keeping):
                        each.cancel()
            finally:
                core.schedulers.remove(self)
                await self._leave(connection)

    def _describe(self) -> Mapping[str, Any]:
        """Return what stands in the scheduler's row of the fleet registry."""
        return {
            **about_process(),
            "kind": "scheduler",
            "name": self.name,
            "is_live": self.is_live,
            "started": self._started,
            "seen": self._core.clock.time(),
        }

    async def _run(self, connection: Connection, agenda: Agenda) -> None:
        """Be the live one, or wait to be."""
        complaint = WarnOnce(logger, "periodic tasks can't be sent now")
        while True:
            try:
                if await self._has_permit(connection):
                    await self._lead(connection, agenda, complaint)
                complaint.withdraw()
            except OperationalError as exc:
                complaint.make(exc)
                await asyncio.sleep(_PAUSE * random.uniform(0.5, 1.0))
            except Exception:  # a defect must not end it
                logger.exception("scheduling failed, trying again")
                await asyncio.sleep(_PAUSE)
            else:
                await asyncio.sleep(self._lease)
            finally:
                self.is_live = False

    async def _lead(self, connection: Connection, agenda: Agenda, complaint: WarnOnce) -> None:
        """Send what is due, until another one has the permit."""
        monotonic = self._core.clock.monotonic
        revision = await self._read(connection, agenda)
        await self._compare_clocks(connection)
        self.is_live = True
        logger.info("scheduler %s is live: %d periodic tasks", self.name, len(agenda))
        complaint.withdraw()
        while True:
            renew_at = monotonic() + self._permit_lease / 3
            while monotonic() < renew_at:
                if self._has_jumped():
                    await self._compare_clocks(connection)
                await agenda.step(self._now())
                await self._until(agenda.next_look, renew_at)
            if not await self._has_permit(connection):
                logger.info("scheduler %s is not live any more: another one has taken over", self.name)
                return
            if monotonic() - self._compared > self._lease:
                await self._compare_clocks(connection)
            if await connection.ledger.schedules_revision(scope_of(self._core)) != revision:
                revision = await self._read(connection, agenda, is_first=False)

    async def _read(self, connection: Connection, agenda: Agenda, *, is_first: bool = True) -> int:
        """Read the agenda, and return the revision that it has at least."""
        now = self._now()
        if is_first:
            now = await connection.ledger.time()
            await agenda.reconcile(now)
        revision = await connection.ledger.schedules_revision(scope_of(self._core))
        await agenda.load(now)
        return revision

    async def _until(self, look: float | None, renew_at: float) -> None:
        clock = self._core.clock
        left = renew_at - clock.monotonic()
        if left <= 0:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(left):
                await clock.sleep(left if look is None else max(look - self._now(), 0.0))

    def _now(self) -> float:
        """Wall time by the ledger's clock."""
        return self._core.clock.time() + self._offset

    def _has_jumped(self) -> bool:
        """Whether our wall time went another way than monotonic time since it was compared."""
        clock = self._core.clock
        return abs(clock.time() - clock.monotonic() - self._drift) > _JUMP

    async def _compare_clocks(self, connection: Connection) -> None:
        """Take the ledger's clock for the right one."""
        clock = self._core.clock
        before = clock.time()
        theirs = await connection.ledger.time()
        after = clock.time()
        offset = theirs - (before + after) / 2
        if abs(offset) > _WRONG and abs(offset - self._offset) > _WRONG:
            logger.warning("the clock here is %.1f s off that of the ledger, which counts for periodic tasks", -offset)
        self._offset = offset
        self._compared = clock.monotonic()
        self._drift = after - self._compared

    async def _has_permit(self, connection: Connection) -> bool:
        """Take the permit to be the live one, or renew it: one small request."""
        (waiting,) = await connection.ledger.acquire_permits([self._permit], self._holder, self._permit_lease)
        self._answered_at = time.monotonic()
        return not waiting

    async def _leave(self, connection: Connection) -> None:
        self.is_live = False
        with suppress(OperationalError, TimeoutError):
            async with asyncio.timeout(_LAST):
                await connection.ledger.hand_over_permits([self._permit], [], self._holder, {})


async def _fail_with(connection: Connection) -> None:
    await connection.ended()
    raise NotConnected("the connection of the scheduler has ended")
