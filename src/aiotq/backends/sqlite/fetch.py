"""Which messages a consumer gets next: suspects first, then by priority, and every queue in its turn."""

from __future__ import annotations

from collections.abc import Sequence

from ...transport.broker import LOWEST_PRIORITY
from .lanes import FETCHED, Fetched
from .messages import AGAIN
from .schema import FREE
from .sql import Transaction


class Fetcher:
    """The SQL of one consumer's reads: it depends on how many queues there are.

    If `is_strict`, nothing of a queue is read before all there is in those before it.
    """

    def __init__(self, count: int, *, is_strict: bool = False) -> None:
        self._of_one = Fetcher(1) if is_strict and count > 1 else None
        ready = f"FROM messages INDEXED BY ready WHERE holder = {FREE} AND is_suspect = 0 AND queue = ?"
        suspects = f"FROM messages INDEXED BY suspects WHERE holder = {FREE} AND is_suspect <> 0 AND queue = ?"
        parts = [
            f"SELECT * FROM (SELECT seq, {AGAIN + 1} AS rank, {turn} AS turn {suspects} ORDER BY seq LIMIT 1)"
            for turn in range(count)
        ]
        self._suspect = self._rows(parts, count, "min(1, :limit)")
        parts = [
            f"SELECT * FROM (SELECT seq, rank, {turn} AS turn {ready} ORDER BY rank DESC, seq LIMIT :limit)"
            for turn in range(count)
        ]
        self._downwards = self._rows(parts, count, ":limit")
        parts = [
            f"SELECT * FROM (SELECT seq, rank, {turn} AS turn {ready} AND rank = :rank ORDER BY seq LIMIT :limit)"
            for turn in range(count)
        ]
        self._of_rank = self._rows(parts, count, ":limit")
        self._lowest = (
            "SELECT min(rank) FROM ("
            + " UNION ALL ".join(
                _numbered(f"SELECT min(rank) AS rank {ready} AND rank >= :rank", turn) for turn in range(count)
            )
            + ")"
        )

    @staticmethod
    def _rows(parts: list[str], count: int, limit: str) -> str:
        chosen = " UNION ALL ".join(_numbered(part, turn) for turn, part in enumerate(parts))
        order = "rank DESC, turn, seq"
        return (
            f"SELECT {FETCHED} FROM (SELECT * FROM ({chosen}) ORDER BY {order} LIMIT {limit}) AS c"
            " CROSS JOIN messages AS m ON m.seq = c.seq ORDER BY c.rank DESC, c.turn, c.seq"
        )

    def fetch(
        self, transaction: Transaction, queues: Sequence[str], limit: int, is_fair: bool, suspect: bool
    ) -> list[Fetched]:
        """Return what is to be leased, the first in front."""
        found: list[Fetched] = []
        names = {f"queue{turn}": queue for turn, queue in enumerate(queues)}
        if suspect:
            found += transaction.execute(self._suspect, {**names, "limit": limit}).fetchall()
        if self._of_one is not None:
            for queue in queues:
                if (left := limit - len(found)) > 0:
                    found += self._of_one.fetch(transaction, [queue], left, is_fair, suspect=False)
            return found
        if not is_fair:
            return found + transaction.execute(self._downwards, {**names, "limit": limit - len(found)}).fetchall()
        rank: int | None = AGAIN
        while rank is not None and len(found) < limit:
            found += transaction.execute(self._of_rank, {**names, "rank": rank, "limit": limit - len(found)}).fetchall()
            from_rank = LOWEST_PRIORITY if rank == AGAIN else rank + 1
            (rank,) = transaction.execute(self._lowest, {**names, "rank": from_rank}).fetchone()
            if rank == AGAIN:
                break
        return found


def _numbered(part: str, turn: int) -> str:
    return part.replace("queue = ?", f"queue = :queue{turn}")
