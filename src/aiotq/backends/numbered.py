"""Writes that may be repeated: each sender numbers what it sends, and the server remembers its last number (P1, P3)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from ..exceptions import ConnectionLost, NotConnected

Item = TypeVar("Item")

#: Asks the server what became of a write of these items: line, number, items -> an answer for each, None: it was not
#: done. After it the server refuses that number, should it still be on its way.
Settle = Callable[[str, int, Sequence[Item]], Awaitable[Sequence[int] | None]]


class NumberedWrites(Generic[Item]):
    """A numbered line of writes, one at a time.

    A write whose reply was lost was done or not: before the next write goes out the server is asked. If it was done,
    those of its items that come again are not written again and have the answers of then. If not, its number is used
    up, so that the server refuses it if it arrives late (what was sent on a connection that we gave up may still
    stand in the server's buffers).
    """

    def __init__(self, settle: Settle[Item], key: Callable[[Item], Hashable]) -> None:
        self._ask = settle
        self._key = key
        self._id = os.urandom(8).hex()
        self._number = 0
        self._lock = asyncio.Lock()
        #: The items whose fate is unknown, under the number that they were sent with.
        self._unsure: tuple[int, Sequence[Item]] | None = None

    async def write(
        self, items: Sequence[Item], send: Callable[[str, int, Sequence[Item]], Awaitable[Sequence[int]]]
    ) -> Sequence[int]:
        """Have `send(line, number, items)` write `items`; return its answers, one for each item.

        Raises what `send` does; after ConnectionLost it may be repeated, with the same items or others.
        """
        async with self._lock:
            known = await self._settle() if self._unsure is not None else {}
            left = [item for item in items if self._key(item) not in known] if known else items
            answers: Sequence[int] = b""
            if left:
                self._number += 1
                try:
                    answers = await send(self._id, self._number, left)
                except NotConnected:
                    raise
                except (ConnectionLost, asyncio.CancelledError):
                    self._unsure = (self._number, left)
                    raise
            if not known:
                return answers
            fresh = iter(answers)
            return [known[key] if (key := self._key(item)) in known else next(fresh) for item in items]

    async def _settle(self) -> dict[Hashable, int]:
        """Ask what became of the unsure write; return the answers of its items if it was done."""
        assert self._unsure is not None
        number, items = self._unsure
        answers = await self._ask(self._id, number, items)
        self._unsure = None
        return dict(zip(map(self._key, items), answers, strict=True)) if answers is not None else {}
