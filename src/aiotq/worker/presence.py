"""A worker's row in the fleet registry: written by the thread that renews its leases, gone when it stops (P10)."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, Self

import orjson
from anyio import to_thread

from ..core.aio import finish
from ..core.logs import WarnOnce
from ..exceptions import AioTQError, OperationalError
from ..results import Ledger
from ..transport import Delivery
from .lifeline import Blocked

logger = logging.getLogger("aiotq.worker")

RenewLeases = Callable[[Collection[Delivery]], Collection[Delivery]]

#: Names of tasks in a row, at most: it is written every few seconds.
MOST_TASKS: Final = 500
#: Letters of a stack in a row, the innermost frames.
_MOST_STACK: Final = 8_000
#: Seconds that saying good-bye may take: the row goes by itself.
_GOOD_BYE: Final = 5.0


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
        self._complaint = WarnOnce(logger, "the worker's row in the fleet registry could not be written")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._is_announced and self._ledger.has_fleet:
            self._is_announced = False
            await finish(self._say_good_bye(), 2 * _GOOD_BYE)

    async def announce(self) -> None:
        """Write the row for the first time: the worker can be asked now."""
        self._is_announced = True
        await to_thread.run_sync(self.renew)

    def row(self) -> Mapping[str, Any]:
        """Return what the worker says of itself."""
        blocked = self._blocked
        said = None
        if blocked is not None:
            said = {"by": blocked.by, "since": blocked.since, "stack": blocked.stack[-_MOST_STACK:]}
        return {**self._describe(), "blocked": said}

    def after(self, renew_leases: RenewLeases) -> RenewLeases:
        """Return what renews leases, and then the row."""

        def renew(held: Collection[Delivery]) -> Collection[Delivery]:
            lost = renew_leases(held)
            self.renew()
            return lost

        return renew

    def renew(self) -> None:
        """Write the row. Blocking; what fails is said once, and tried again with the next lease."""
        if not (self._is_announced and self._ledger.has_fleet):
            return
        try:
            self._ledger.renew_presence(self._key, orjson.dumps(self.row(), default=str), self._lease)
        except AioTQError as exc:
            self._complaint.make(exc)
        except Exception:  # nobody's lease depends on it
            logger.exception("the worker's row in the fleet registry could not be written, trying again")
        else:
            self._complaint.withdraw()

    def tell_blocked(self, blocked: Blocked | None) -> None:
        """Say at once that the loop is blocked, or that it turns again: nobody else can. Called in the thread."""
        self._blocked = blocked
        self.renew()

    async def _say_good_bye(self) -> None:
        try:
            async with asyncio.timeout(_GOOD_BYE):
                await self._ledger.end_presence(self._key)
        except (OperationalError, TimeoutError) as exc:
            logger.debug("the worker's row in the fleet registry stays until its lease ends: %s", exc)


def about_process() -> Mapping[str, Any]:
    """Return what a row says of the process and its machine, which does not change."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "boot_id": _boot_id()}


def machine_load() -> float:
    """Return the load of the machine over the last minute; 0 where it has none."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return 0.0


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
