"""The bus in a Redis: pub/sub, a channel for each process and one for all (`lua/bus.lua` writes to them too).

The server disconnects who does not read; he connects again, and is told that he may have missed something.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ...control.bus import Bus, frame

#: Sends a command and returns its reply.
Ask = Callable[..., Awaitable[Any]]


class RedisBus(Bus):
    """One process's channels under `base`; its client subscribes to them, and hands on what comes."""

    def __init__(self, base: str, address: str, ask: Ask) -> None:
        super().__init__()
        self._base = base
        self._address = address
        self._ask = ask
        self.channels = (f"{base}:to:{address}".encode(), f"{base}:all".encode())

    @property
    def address(self) -> str:
        return self._address

    async def _tell(self, address: str, topic: str, payload: bytes) -> None:
        if not await self._ask("PUBLISH", f"{self._base}:to:{address}", frame(topic, payload)):
            self.dropped += 1

    async def _tell_all(self, topic: str, payload: bytes) -> None:
        await self._ask("PUBLISH", f"{self._base}:all", frame(topic, payload))
