"""Numbered writes to a PostgreSQL (see `backends.numbered`): a row for each says that it was done, and its answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from .. import numbered
from .connection import PostgresClient

Item = TypeVar("Item")

_SETTLE_LINE = b"select * from aiotq.settle_line($1::text, $2::bigint)"


class NumberedWrites(numbered.NumberedWrites[Item]):
    """A numbered line of writes to one PostgreSQL.

    `answers` makes of a stored answer (numbers of items) an answer for each item.
    """

    def __init__(
        self,
        client: PostgresClient,
        key: Callable[[Item], Hashable],
        answers: Callable[[Sequence[int], int], Sequence[int]],
    ) -> None:
        async def settle(line: str, number: int, items: Sequence[Item]) -> Sequence[int] | None:
            is_done, stored = await client.row(_SETTLE_LINE, line, number)
            return answers(stored, len(items)) if is_done else None

        super().__init__(settle, key)


def all_of_them(_: Sequence[int], count: int) -> Sequence[int]:
    """All were done."""
    return [1] * count


def those(numbers: Sequence[int], count: int) -> Sequence[int]:
    """Those were done."""
    done = frozenset(numbers)
    return [int(number in done) for number in range(count)]


def all_but(numbers: Sequence[int], count: int) -> Sequence[int]:
    """All but those were done."""
    if not numbers:
        return [1] * count
    lost = frozenset(numbers)
    return [int(number not in lost) for number in range(count)]
