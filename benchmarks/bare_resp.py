"""Redis' protocol over hiredis and an asyncio transport, and nothing else: how little a client can cost."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, cast
from urllib.parse import urlsplit

import hiredis

Command = tuple[str | bytes | int, ...]
#: hiredis declares a tuple of one word.
_packed: Callable[[Command], bytes] = cast("Any", hiredis.pack_command)


class Resp(asyncio.Protocol):
    """A connection. What is asked in one turn of the loop is written at once; replies come in order."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._asked: list[bytes] = []
        #: For each ask that waits: its future, how many replies it waits for, and those that came.
        self._waiting: deque[tuple[asyncio.Future[list[Any]], int, list[Any]]] = deque()
        self._told: Callable[[bytes], None] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator[Self]:
        """Connect to the server at `url`."""
        loop, place = asyncio.get_running_loop(), urlsplit(url)
        assert place.hostname is not None
        assert place.port is not None
        transport, resp = await loop.create_connection(cls, place.hostname, place.port)
        try:
            yield resp
        finally:
            transport.close()

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to `commands`; the first that is an error is raised."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._write)
        self._asked += [_packed(each) for each in commands]
        replies: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append((replies, len(commands), []))
        return await replies

    async def subscribe(self, channel: str, told: Callable[[bytes], None]) -> None:
        """Call `told` with what is published there, until cancelled; nothing else can be asked on this connection."""
        await self.ask([("SUBSCRIBE", channel)])
        self._told = told
        await asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if self._told is not None:
                self._told(reply[2])
                continue
            waiting, count, replies = self._waiting[0]
            replies.append(reply)
            if len(replies) == count:
                self._waiting.popleft()
                self._answer(waiting, replies)

    @staticmethod
    def _answer(waiting: asyncio.Future[list[Any]], replies: list[Any]) -> None:
        error = next((each for each in replies if isinstance(each, Exception)), None)
        if waiting.done():  # whoever asked was cancelled
            return
        if error is not None:
            waiting.set_exception(error)
        else:
            waiting.set_result(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        for waiting, *_ in self._waiting:
            if not waiting.done():
                waiting.set_exception(exc or ConnectionError("the server closed the connection"))

    def _write(self) -> None:
        assert self._transport is not None
        self._transport.write(b"".join(self._asked))
        self._asked.clear()
