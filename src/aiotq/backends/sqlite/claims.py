"""Claims in the file: who runs a task where the broker can't tell, and what followed once it was done (P3)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Final

from ...exceptions import MalformedMessage
from ...results.decisions import ClaimState, Room, decide_claim
from ...results.ledger import NO_JOIN_CHANGES, Caution, Claim, Claimed, Closing
from ...wire.message import Envelope
from .joins import write_joinings
from .packing import pack_all, unpack_all
from .record_rows import write_records
from .sql import Transaction

logger = logging.getLogger("aiotq.results.sqlite")

#: How long a claim is remembered after it was done or ended: a broker that was down for a day may still redeliver.
CLAIM_KEPT: Final = 86_400.0


def claim_all(
    transaction: Transaction,
    keys: Sequence[tuple[str, int]],
    holder: str,
    now: float,
    lease: float,
    caution: Caution | None,
    dead: Collection[str],
) -> list[Claim]:
    """Let `holder` run these messages, but for suspects beyond what `caution` has room for."""
    room = Room(caution)
    return [room.take(_claim(transaction, key, holder, now, lease, room.deadly, dead)) for key in keys]


def _claim(
    transaction: Transaction,
    key: tuple[str, int],
    holder: str,
    now: float,
    lease: float,
    deadly: int | None,
    dead: Collection[str],
) -> Claim:
    """Let `holder` run this message, unless somebody else does or did, or `deadly` holders died with it."""
    row = transaction.execute(
        "SELECT holder, ends, is_done, following, died FROM claims WHERE id = ? AND attempt = ? AND expires > ?",
        (*key, now),
    ).fetchone()
    answer, died = decide_claim(_state_of(row, key) if row is not None else None, holder, now, deadly, dead)
    if isinstance(answer, Claimed):
        lines = "".join(f"{each}\n" for each in died)
        transaction.execute(
            "INSERT OR REPLACE INTO claims (id, attempt, holder, ends, expires, died) VALUES (?, ?, ?, ?, ?, ?)",
            (*key, holder, now + lease, now + lease + CLAIM_KEPT, lines),
        )
    return answer


def _state_of(row: tuple[str, float, int, bytes | None, str], key: tuple[str, int]) -> ClaimState:
    holder, ends, is_done, packed, died = row
    following: tuple[Envelope, ...] | None = None
    if is_done:
        try:
            following = unpack_all(packed)
        except MalformedMessage as exc:
            logger.warning("claim %s: its next messages can't be read: %s", key, exc)
            following = ()
    return ClaimState(holder, ends, tuple(died.splitlines()), following)


def take_back_deaths(transaction: Transaction, keys: Sequence[tuple[str, int]], holder: str) -> None:
    """Note that `holder` is alive, though others have claimed these meanwhile."""
    for key in keys:
        transaction.execute(
            "UPDATE claims SET died = replace(died, ?, '') WHERE id = ? AND attempt = ? AND died <> ''",
            (f"{holder}\n", *key),
        )


def close(transaction: Transaction, closing: Closing, holder: str, now: float) -> tuple[Envelope, ...] | None:
    """Write what came of a claimed run; return what is to be sent, None if the claim is lost."""
    row = transaction.execute(
        "SELECT is_done, following FROM claims WHERE id = ? AND attempt = ? AND holder = ?",
        (*closing.key, holder),
    ).fetchone()
    if row is None:
        return None
    is_done, before = row
    if is_done:
        return unpack_all(before)
    following = closing.envelopes
    if closing.joining is not NO_JOIN_CHANGES:
        following += write_joinings(transaction, [(closing.joining, closing.record)], now)
    records = [closing.record] if closing.record is not None else []
    if records or closing.further:
        write_records(transaction, [*records, *closing.further], now)
    if closing.is_done:
        transaction.execute(
            "UPDATE claims SET is_done = 1, following = ?, expires = ? WHERE id = ? AND attempt = ?",
            (pack_all(following), now + CLAIM_KEPT, *closing.key),
        )
    else:
        transaction.execute("DELETE FROM claims WHERE id = ? AND attempt = ? AND died = ''", closing.key)
        transaction.execute("UPDATE claims SET holder = '', ends = 0 WHERE id = ? AND attempt = ?", closing.key)
    return following
