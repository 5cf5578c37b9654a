"""The bus in a PostgreSQL: NOTIFY, on a channel for each process and one for all.

A notification is text of less than 8,000 bytes. A message is one or several of them, in one transaction: they come in
their order, with nothing of the sender's in between.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from ...control.bus import Bus, frame
from .address import Address

#: There may be messages for one's consumers.
WOKEN: Final = "woken"
#: Something is due in so many milliseconds.
DUE: Final = "due"
#: Characters of a message in one notification.
_PART: Final = 7_900
#: Messages of which parts have come and others not, at most.
_MOST_UNFINISHED: Final = 100
#: Sends notifications: channels, payloads.
Tell = Callable[[Sequence[str], Sequence[str]], Awaitable[None]]

#: Who sent it and its number there (equal notifications of one transaction are heard once), `+` if there is more of it.
_PAYLOAD: Final = re.compile(r"([0-9a-f]{12})?\.[0-9a-z]*([.+])([A-Za-z0-9+/=]*)")


class PostgresBus(Bus):
    """One process's channels; its client listens to them, and hands on what comes."""

    def __init__(self, address: Address, name: str, tell: Tell) -> None:
        super().__init__()
        self._place = address
        self._address = name
        self._tell_all_of = tell
        self._numbers = itertools.count()
        self._unfinished: dict[str, list[str]] = {}
        self.channels = (f"{address.channel_base}{name}", address.channel_base)
        #: What SQL sends to consumers that are to look.
        self.woken: Final = f"..{base64.b64encode(frame(WOKEN, b'')).decode()}"

    @property
    def address(self) -> str:
        return self._address

    async def _tell(self, address: str, topic: str, payload: bytes) -> None:
        channel = self._place.channel(address)
        if channel is None:
            self.dropped += 1
            return
        parts = self.parts(frame(topic, payload))
        await self._tell_all_of([channel] * len(parts), parts)

    async def _tell_all(self, topic: str, payload: bytes) -> None:
        parts = self.parts(frame(topic, payload))
        await self._tell_all_of([self._place.channel_base] * len(parts), parts)

    def parts(self, data: bytes) -> list[str]:
        """Return the notifications that a message is."""
        text = base64.b64encode(data).decode()
        parts = [text[start : start + _PART] for start in range(0, len(text), _PART)]
        marks = ["+"] * (len(parts) - 1) + ["."]
        return [f"{self._address}.{next(self._numbers)}{mark}{part}" for mark, part in zip(marks, parts, strict=True)]

    def take_payload(self, channel: str, payload: str) -> None:
        """Hand on what came as a notification."""
        found = _PAYLOAD.fullmatch(payload)
        if found is None:
            self.take_frame(payload.encode()[:100])  # it is none: counted there
            return
        sender, mark, text = found[1] or "", found[2], found[3]
        place = f"{channel} {sender}"
        if mark == "+":
            if place not in self._unfinished and len(self._unfinished) >= _MOST_UNFINISHED:
                self._unfinished.pop(next(iter(self._unfinished)))
                self.dropped += 1
            self._unfinished.setdefault(place, []).append(text)
            return
        try:
            data = base64.b64decode("".join([*self._unfinished.pop(place, ()), text]), validate=True)
        except binascii.Error:
            data = b""
        self.take_frame(data)

    def tell_of_gap(self) -> None:
        self._unfinished.clear()
        super().tell_of_gap()
