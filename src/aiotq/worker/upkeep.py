"""Work that a worker does for all, on a timer: strays of dead workers go back, joins nobody arrives at fail."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from ..calling.connection import Connection
from ..canvas.coordinator import Coordinator
from ..commit import Committer
from ..core.logs import WarnOnce
from ..exceptions import OperationalError
from ..transport import Consumer
from .completer import Completer
from .lifeline import Lifeline

logger = logging.getLogger("aiotq.worker")

#: Seconds between looks for what dead workers held, about: it starts again so soon after its lease has ended.
_RECLAIM_INTERVAL: Final = 1.5
#: Seconds between looks for joins that wait for too long.
_OVERDUE_INTERVAL: Final = 30.0


class Reclaiming:
    """Gives strays of dead workers back, at start and then on a timer; so it knows when the broker answered last.

    Not while the worker's own leases may have ended: it would take itself for dead.
    """

    def __init__(self, lease: float) -> None:
        self._interval = min(lease / 3, _RECLAIM_INTERVAL)
        self._answered_at = time.monotonic()
        self._dead: dict[str, None] = {}
        self._now = asyncio.Event()

    @property
    def silence(self) -> float:
        """Seconds since the broker answered."""
        return time.monotonic() - self._answered_at

    def know_dead(self, key: str) -> None:
        """Have what the worker with this `key` held given back now: its process is gone."""
        self._dead[key] = None
        self._now.set()

    async def run(self, connection: Connection, consumer: Consumer, committer: Committer, lifeline: Lifeline) -> None:
        """Do so until cancelled."""

        async def look() -> bool:
            self._now.clear()
            if dead := list(self._dead):
                for key in dead:
                    committer.know_dead(key)
                count = await consumer.reclaim(dead)
                for key in dead:
                    del self._dead[key]
                if count:
                    names = " and ".join(sorted({key.rpartition("#")[0] for key in dead}))
                    logger.warning("handed back %d tasks of %s, which died on this machine", count, names)
            if lifeline.is_late:
                return False
            if count := await consumer.reclaim():
                logger.warning("handed back %d tasks of dead workers", count)
            with suppress(OperationalError):  # a broker that finds strays by itself was asked nothing
                await connection.broker.connected()
                self._answered_at = time.monotonic()
            return True

        failed = "looking for tasks of dead workers failed"
        await _repeat(look, failed, self._interval, at_once=True, earlier=self._now)


async def fail_overdue(connection: Connection, coordinator: Coordinator, completer: Completer, patience: float) -> None:
    """Fail joins at which nobody arrived for `patience` seconds, until cancelled: no workflow waits for ever."""
    if not connection.ledger.has_joins:
        return

    async def look() -> bool:
        for join_id in await connection.ledger.overdue():
            logger.error("chord %s fails: none of its tasks ended for join_timeout seconds", join_id)
            completer.add(coordinator.overdue(join_id))
        return True

    await _repeat(look, "looking for chords that wait for too long failed", min(patience / 4, _OVERDUE_INTERVAL))


async def _repeat(
    look: Callable[[], Awaitable[bool]],
    failed: str,
    interval: float,
    *,
    at_once: bool = False,
    earlier: asyncio.Event | None = None,
) -> None:
    """Await `look` again and again until cancelled; a failure is said once, and a defect does not end the worker.

    It works again when a look has answered True: it asked. `earlier` being set makes it look before its time, unless
    the last look has failed.
    """
    complaint = WarnOnce(logger, failed)
    has_failed = False
    while True:
        if not at_once:
            pause = interval * random.uniform(0.7, 1.3)
            if earlier is None or has_failed:
                await asyncio.sleep(pause)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await earlier.wait()
        at_once, has_failed = False, True
        try:
            if await look():
                complaint.withdraw()
            has_failed = False
        except OperationalError as exc:
            complaint.make(exc)
        except Exception:
            logger.exception("%s, trying again", failed)
