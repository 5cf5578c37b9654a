"""A process's row in the fleet registry: a worker's goes with the renewal of its leases; gone when it stops (P10)."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, Self

import orjson
from anyio import to_thread

from ..core.aio import finish
from ..core.logs import WarnOnce
from ..core.system import machine_load, resident_bytes
from ..core.values import value
from ..core.version import VERSION
from ..exceptions import AioTQError, OperationalError
from ..results import Ledger
from ..results.fleet import FleetRow
from ..transport import Delivery

logger = logging.getLogger("aiotq.worker")

RenewLeases = Callable[[Collection[Delivery]], Collection[Delivery]]
RenewWithRow = Callable[[Collection[Delivery], FleetRow | None], Collection[Delivery]]

#: Names of tasks in a row, at most: it is written every few seconds.
MOST_TASKS: Final = 500
#: Letters of a stack in a row, the innermost frames.
_MOST_STACK: Final = 8_000
#: How often the row is written in one lease.
_RENEWALS: Final = 3
#: Seconds that saying good-bye may take: the row goes by itself.
_GOOD_BYE: Final = 5.0


@value
class Blocked:
    """What keeps the loop from turning, since when (wall time), and where it stands."""

    by: str
    since: float
    stack: str


class Presence:
    """Keeps one row from `announce` until it is left, which whoever renews it in a thread does not do any more by then.

    `describe` is called in that thread, and only looks.
    """

    def __init__(self, ledger: Ledger, key: str, describe: Callable[[], Mapping[str, Any]], lease: float) -> None:
        self._ledger = ledger
        self._key = key
        self._describe = describe
        self._lease = lease
        self._blocked: Blocked | None = None
        self._is_announced = False
        self._complaint = WarnOnce(logger, "the row in the fleet registry could not be written")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._is_announced and self._ledger.has_fleet:
            self._is_announced = False
            await finish(self._say_good_bye(), 2 * _GOOD_BYE)

    async def announce(self) -> None:
        """Write the row now, for the first time or before its turn: whoever looks finds it."""
        self._is_announced = True
        await to_thread.run_sync(self.renew)

    def row(self) -> Mapping[str, Any]:
        """Return what the worker says of itself."""
        blocked = self._blocked
        said = None
        if blocked is not None:
            said = {"by": blocked.by, "since": blocked.since, "stack": blocked.stack[-_MOST_STACK:]}
        return {**self._describe(), "blocked": said}

    def beside(self, renew_leases: RenewWithRow) -> RenewLeases:
        """Return what renews leases and the row in one request."""

        def renew(held: Collection[Delivery]) -> Collection[Delivery]:
            return renew_leases(held, self._packed())

        return renew

    def renew(self) -> None:
        """Write the row. Blocking; what fails is said once, and tried again with the next lease."""
        row = self._packed()
        if row is None:
            return
        try:
            self._ledger.renew_presence(row.key, row.row, row.lease)
        except AioTQError as exc:
            self._complaint.make(exc)
        except Exception:  # nobody's lease depends on it
            logger.exception("the row in the fleet registry could not be written, trying again")
        else:
            self._complaint.withdraw()

    async def keep(self) -> None:
        """Write the row on a timer until cancelled, for who has no leases to renew."""
        while True:
            await asyncio.sleep(self._lease / _RENEWALS * random.uniform(0.8, 1.0))
            await to_thread.run_sync(self.renew)

    def _packed(self) -> FleetRow | None:
        """Return the row as it is written; None: there is nothing to be written, or the row can't be."""
        if not (self._is_announced and self._ledger.has_fleet):
            return None
        try:
            return FleetRow(self._key, orjson.dumps(self.row(), default=str), self._lease)
        except Exception:  # leases are renewed all the same
            logger.exception("the row in the fleet registry could not be made, trying again")
            return None

    def tell_blocked(self, blocked: Blocked | None) -> None:
        """Say at once that the loop is blocked, or that it turns again: nobody else can. Called in the thread."""
        self._blocked = blocked
        self.renew()

    async def _say_good_bye(self) -> None:
        try:
            async with asyncio.timeout(_GOOD_BYE):
                await self._ledger.end_presence(self._key)
        except (OperationalError, TimeoutError) as exc:
            logger.debug("the row in the fleet registry stays until its lease ends: %s", exc)


def about_process() -> Mapping[str, Any]:
    """Return what a row says of the process and its machine now."""
    about = {"host": socket.gethostname(), "pid": os.getpid(), "boot_id": _boot_id()}
    about |= {"pid_space": pid_space(), "process_started": process_started(os.getpid())}
    return {**about, "version": VERSION, "load": machine_load(), "memory": resident_bytes() or 0}


def pid_space() -> int:
    """Return what names the space of this process's pid (a container has its own); 0 where that can't be known."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def process_started(pid: int) -> int:
    """Return when the process `pid` of this machine was started, in ticks since the machine was; 0: there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
