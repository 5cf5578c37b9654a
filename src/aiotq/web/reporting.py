"""Tells the parent of this worker what `/live`, `/ready` and `/metrics` tell, when it asks; from a thread of its own,
which answers while a task blocks the worker's loop."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from anyio import to_thread

from ..supervising.reports import LAST, LIVE, METRICS, READY
from ..supervising.sums import told
from .health import Health, checks_told

#: Seconds that the last answer may take.
_LAST: Final = 2.0


@asynccontextmanager
async def telling(health: Health, parent: socket.socket) -> AsyncGenerator[None, None]:
    """Answer `parent` while entered; then tell it what was counted."""
    teller = _Teller(health, parent)
    thread = threading.Thread(target=teller.run, name="aiotq.health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        teller.end()
        await to_thread.run_sync(thread.join, _LAST)


class _Teller:
    def __init__(self, health: Health, parent: socket.socket) -> None:
        self._health = health
        self._parent = parent
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()

    def run(self) -> None:
        with (
            asyncio.Runner(loop_factory=lambda: self._loop) as runner,
            suppress(OSError),
        ):  # OSError: the parent is gone
            runner.run(self._tell())

    def end(self) -> None:
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._over.set)

    async def _tell(self) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=self._parent)
        async with asyncio.TaskGroup() as group:
            hearing = group.create_task(self._hear(reader, writer), name="aiotq.health")
            await self._over.wait()
            hearing.cancel()
        _write(writer, LAST, METRICS, [told(each) for each in self._health.families_here()])
        await writer.drain()
        writer.close()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.TaskGroup() as group:
            with suppress(OSError):
                while text := await reader.readline():
                    number, what = json.loads(text)
                    group.create_task(self._answer(writer, number, what), name=f"aiotq.health.{what}")

    async def _answer(self, writer: asyncio.StreamWriter, number: int, what: str) -> None:
        _write(writer, number, what, await self._found(what))

    async def _found(self, what: str) -> Sequence[Any]:
        if what == LIVE:
            return checks_told(self._health.live())
        if what == READY:
            return checks_told(await self._health.ready())
        return [told(each) for each in await self._health.families()]


def _write(writer: asyncio.StreamWriter, number: int, what: str, answer: Sequence[Any]) -> None:
    writer.write(json.dumps([number, what, answer]).encode() + b"\n")
