"""Reading what a process is told of, when it is told and now and then, and looking after what is expired."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from ...core.aio import Service
from ...exceptions import OperationalError
from .connection import Database
from .sql import Transaction

logger = logging.getLogger("aiotq.results.sqlite")

#: Seconds between purges of what is expired, by each process; about four before a listener or a watch expires.
UPKEEP_INTERVAL: Final = 60.0
#: Rows that one purge takes.
BATCH: Final = 1000


class Listening:
    """What one part of a connection does while it is entered: `read` what is new, `purge` what is expired.

    `purge` deletes a batch and returns whether there may be more.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        topic: str,
        read: Callable[[], Awaitable[None]],
        purge: Callable[[Transaction], bool],
        *,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._database = database
        self._topic = topic
        self._read = read
        self._purge = purge
        self._is_wanted = is_wanted
        self._news = asyncio.Event()
        self._stop_hearing: Callable[[], None] | None = None
        self._service: Service[None] = Service(self._main, f"aiotq.{name}.sqlite")

    async def start(self) -> None:
        self._stop_hearing = self._database.bus.hear(self._topic, self._heard, self._heard)
        await self._service.start()

    async def stop(self) -> None:
        if self._stop_hearing is not None:
            self._stop_hearing()
        await self._service.abort()

    def _heard(self, _: bytes = b"") -> None:
        if self._is_wanted():
            self._news.set()

    async def _main(self, ready: Callable[[None], None], stopping: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        ready(None)
        next_upkeep = loop.time() + UPKEEP_INTERVAL / 10
        while not stopping.is_set():
            try:
                async with asyncio.timeout(self._database.pause()):
                    await self._news.wait()
            except TimeoutError:
                pass  # told or not, it looks
            self._news.clear()
            try:
                await self._read()
                if loop.time() >= next_upkeep:
                    next_upkeep = loop.time() + UPKEEP_INTERVAL
                    while await self._database.write(self._purge, durable=False):
                        pass
            except OperationalError as exc:
                logger.warning("can't read new results, trying again: %s", exc)
                self._news.set()
                await asyncio.sleep(self._database.pause())
            except Exception:  # a listener's defect must not end listening
                logger.exception("a listener failed; listening goes on")


def delete_expired(transaction: Transaction, table: str, number: str, when: str, now: float) -> bool:
    """Delete rows whose column `when` has passed, a batch; `number` is their key. Return whether there may be more."""
    chosen = f"SELECT {number} FROM {table} WHERE {when} <= ? LIMIT {BATCH}"
    return transaction.execute(f"DELETE FROM {table} WHERE {number} IN ({chosen})", (now,)).rowcount == BATCH
