"""Joins in the file: who has arrived, and what is sent when all have (P3)."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from .._sqlite import Transaction
from ..exceptions import MalformedMessage
from ..message import Envelope, pack_envelope, unpack_envelope
from .base import Arrival, Join

logger = logging.getLogger("aiotq.results.sqlite")

_LENGTH: Final = struct.Struct(">I")


def open_joins(transaction: Transaction, joins: Sequence[Join]) -> None:
    """Create joins; one that exists stays as it is."""
    transaction.insert(
        "INSERT OR IGNORE INTO joins (id, size, expires, completed, failed)",
        [(join.id, join.size, join.expires, pack_all(join.then), pack_all(join.otherwise)) for join in joins],
    )


def arrive(transaction: Transaction, arrivals: Sequence[Arrival], now: float) -> tuple[Envelope, ...]:
    """Let members arrive at their joins; return the envelopes of those joins that are over by it."""
    following: tuple[Envelope, ...] = ()
    by_join: dict[str, list[Arrival]] = {}
    for arrival in arrivals:
        by_join.setdefault(arrival.join_id, []).append(arrival)
    for join_id, members in by_join.items():
        following += _arrive(transaction, join_id, members, now)
    return following


def _arrive(transaction: Transaction, join_id: str, arrivals: Sequence[Arrival], now: float) -> tuple[Envelope, ...]:
    join = transaction.execute(
        "SELECT size, arrived FROM joins WHERE id = ? AND NOT is_over AND expires > ?", (join_id, now)
    ).fetchone()
    if join is None:
        return ()
    size, arrived = join
    come = next((n for n, arrival in enumerate(arrivals) if arrival.failed), len(arrivals))
    arrived += transaction.insert(
        "INSERT OR IGNORE INTO arrivals (join_id, member)",
        [(join_id, arrival.index) for arrival in arrivals[:come]],
    )
    if arrived >= size:
        column = "completed"
    elif come < len(arrivals):
        column = "failed"
    else:
        transaction.execute("UPDATE joins SET arrived = ? WHERE id = ?", (arrived, join_id))
        return ()
    (packed,) = transaction.execute(f"SELECT {column} FROM joins WHERE id = ?", (join_id,)).fetchone()
    transaction.execute("UPDATE joins SET is_over = 1, completed = NULL, failed = NULL WHERE id = ?", (join_id,))
    transaction.execute("DELETE FROM arrivals WHERE join_id = ?", (join_id,))
    try:
        return unpack_all(packed)
    except MalformedMessage as exc:
        # Failing here would fail the last member's commit for ever.
        logger.warning("join %s is over, but what it was to send can't be read: %s", join_id, exc)
        return ()


def pack_all(envelopes: Iterable[Envelope]) -> bytes:
    """Return `envelopes` as one blob, each behind its length."""
    packed = [pack_envelope(envelope) for envelope in envelopes]
    return b"".join(part for each in packed for part in (_LENGTH.pack(len(each)), each))


def unpack_all(data: object) -> tuple[Envelope, ...]:
    """Return the envelopes in a blob of `pack_all`.

    Raises:
        MalformedMessage: it is none.
    """
    if not isinstance(data, bytes):
        raise MalformedMessage(f"the row's envelopes are a {type(data).__name__}, not a blob")
    envelopes: list[Envelope] = []
    start = 0
    while start < len(data):
        if start + _LENGTH.size > len(data):
            raise MalformedMessage("an envelope's length is cut off")
        (length,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size
        envelopes.append(unpack_envelope(data[start : start + length]))
        start += length
    return tuple(envelopes)
