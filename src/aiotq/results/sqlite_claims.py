"""Claims in the file: who runs a task where the broker can't tell, and what followed once it was done (P3)."""

from __future__ import annotations

import logging
from typing import Final

from .._sqlite import Transaction
from ..exceptions import MalformedMessage
from ..message import Envelope
from .base import AlreadyDone, Claim, Claimed, Closing, HeldElsewhere
from .sqlite_joins import arrive, open_joins, pack_all, unpack_all
from .sqlite_records import write_records

logger = logging.getLogger("aiotq.results.sqlite")

#: How long a claim is remembered after it was done or ended: a broker that was down for a day may still redeliver.
CLAIM_KEPT: Final = 86_400.0


def claim(transaction: Transaction, key: tuple[str, int], holder: str, now: float, lease: float) -> Claim:
    """Let `holder` run the task with this id and attempt, unless somebody else does or did."""
    row = transaction.execute(
        "SELECT holder, ends, is_done, following FROM claims WHERE id = ? AND attempt = ? AND expires > ?",
        (*key, now),
    ).fetchone()
    if row is not None:
        claimant, ends, is_done, following = row
        if is_done:
            try:
                return AlreadyDone(unpack_all(following))
            except MalformedMessage as exc:
                logger.warning("claim %s: what follows from it can't be read: %s", key, exc)
                return AlreadyDone(())
        if claimant != holder and ends > now:
            return HeldElsewhere(ends)
    transaction.execute(
        "INSERT OR REPLACE INTO claims (id, attempt, holder, ends, expires) VALUES (?, ?, ?, ?, ?)",
        (*key, holder, now + lease, now + lease + CLAIM_KEPT),
    )
    return Claimed()


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
    open_joins(transaction, closing.joins)
    if closing.record is not None:
        write_records(transaction, [closing.record], now)
    following = closing.envelopes + arrive(transaction, closing.arrivals, now)
    if closing.is_done:
        transaction.execute(
            "UPDATE claims SET is_done = 1, following = ?, expires = ? WHERE id = ? AND attempt = ?",
            (pack_all(following), now + CLAIM_KEPT, *closing.key),
        )
    else:
        transaction.execute("DELETE FROM claims WHERE id = ? AND attempt = ?", closing.key)
    return following
