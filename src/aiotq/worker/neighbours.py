"""Workers on this machine: the death of one is seen at once, and what it held is given back before its lease ends.

A process that is gone commits nothing more, so nothing has to be waited for. What it had sent before is decided by the
fence of its leases, as ever.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any, Final, cast

import orjson

from ..control.bus import Bus
from ..control.presence import about_process, process_started
from ..exceptions import OperationalError
from ..results import Ledger

logger = logging.getLogger("aiotq.worker")

#: The topic on which a worker says that it is there.
_HERE: Final = "neighbour"
#: What names the machine, and there the space of pids, in a row of the registry.
_SAME: Final = ("boot_id", "pid_space")


class Neighbours:
    """Watches the processes of all workers on this machine, and tells `on_death` the key of one that has died.

    Only where processes can be watched (Linux); elsewhere leases end as they do on other machines.
    """

    def __init__(self, ledger: Ledger, bus: Bus, key: str, on_death: Callable[[str], None], look_every: float) -> None:
        self._ledger = ledger
        self._bus = bus
        self._key = key
        self._on_death = on_death
        self._look_every = look_every
        about = about_process()
        self._machine = {name: about[name] for name in _SAME}
        #: By key: what becomes readable when the process ends.
        self._watched: dict[str, int] = {}
        #: Those that are dead, as we know: their rows stay for a while.
        self._dead: set[str] = set()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Watch until cancelled."""
        if not (self._ledger.has_fleet and all(self._machine.values()) and hasattr(os, "pidfd_open")):
            return
        stop_hearing = self._bus.hear(_HERE, self._heard, self._news.set)
        try:
            await self._say_that_we_are_here()
            while True:
                self._news.clear()
                await self._look()
                try:
                    async with asyncio.timeout(self._look_every):
                        await self._news.wait()
                except TimeoutError:
                    pass
        finally:
            stop_hearing()
            for key in list(self._watched):
                self._unwatch(key)

    async def _say_that_we_are_here(self) -> None:
        try:
            await self._bus.tell_all(_HERE, self._key.encode())
        except OperationalError as exc:  # they look in a while
            logger.debug("the workers on this machine could not be told of this one: %s", exc)

    def _heard(self, payload: bytes) -> None:
        key = payload.decode(errors="replace")
        if key != self._key and key not in self._watched:
            self._news.set()

    async def _look(self) -> None:
        """Watch those that are new, and forget those that have said good-bye."""
        try:
            present = await self._ledger.fleet()
        except OperationalError as exc:
            logger.debug("the workers on this machine can't be read: %s", exc)
            return
        there = {each.key for each in present}
        self._dead &= there
        for key in self._watched.keys() - there:
            self._unwatch(key)
        for each in present:
            if each.key != self._key and each.key not in self._watched and each.key not in self._dead and each.left > 0:
                self._watch(each.key, _row_of(each.row))

    def _watch(self, key: str, row: dict[str, Any]) -> None:
        pid, started = row.get("pid"), row.get("process_started")
        if row.get("kind") != "worker" or any(row.get(name) != self._machine[name] for name in _SAME):
            return
        if not isinstance(pid, int) or not isinstance(started, int) or pid == os.getpid() or not started:
            return
        try:
            watch = os.pidfd_open(pid)
        except ProcessLookupError:
            self._died(key)
            return
        except (OSError, ValueError, OverflowError) as exc:
            logger.debug("process %s can't be watched: %s", pid, exc)
            return
        if process_started(pid) != started:  # another process has its number by now
            os.close(watch)
            self._died(key)
            return
        self._watched[key] = watch
        asyncio.get_running_loop().add_reader(watch, self._ended, key)

    def _ended(self, key: str) -> None:
        """A process has ended: in peace, if its row is gone, or goes soon."""
        self._unwatch(key)
        self._died(key)

    def _died(self, key: str) -> None:
        self._dead.add(key)
        self._on_death(key)

    def _unwatch(self, key: str) -> None:
        watch = self._watched.pop(key)
        asyncio.get_running_loop().remove_reader(watch)
        os.close(watch)


def _row_of(row: bytes) -> dict[str, Any]:
    try:
        found: object = orjson.loads(row)
    except orjson.JSONDecodeError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
