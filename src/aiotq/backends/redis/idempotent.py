"""Numbered writes to a Redis (see `numbered`): the script that says what became of one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from .. import numbered
from .connection import RedisClient
from .script import Script

Item = TypeVar("Item")

#: line, number -> whether that number was done last, and the answers that were stored with it. After it the server
#: refuses `number`, should it still be on its way.
SETTLE_LINE = Script("base", "settle_line")


class NumberedWrites(numbered.NumberedWrites[Item]):
    """A numbered line of writes to one Redis."""

    def __init__(self, client: RedisClient, key: Callable[[Item], Hashable]) -> None:
        async def settle(line: str, number: int, _: Sequence[Item]) -> Sequence[int] | None:
            was_done, answers = await client.run(SETTLE_LINE, [line, number])
            return answers if was_done else None

        super().__init__(settle, key)
