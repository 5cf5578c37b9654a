"""What happens to messages: functions on a `Transaction`, which `commit.sqlite` composes with the store's.

A message is a row, and its number (`seq`) is its lease: numbers are never used again, and what is given back gets a new
one. So a settlement asks one question: is there still a row with this number?
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from ...exceptions import MalformedMessage
from ...transport.broker import (
    HIGHEST_PRIORITY,
    LOWEST_PRIORITY,
    Acknowledge,
    DeadLetter,
    Delivery,
    GiveUp,
    HandBack,
    Settlement,
)
from ...wire.message import Envelope, pack, unpack
from ...wire.shares import share_of
from . import lanes
from .schema import DELAYED, FREE, LANED
from .sql import Transaction, in_chunks, marks

#: `messages.rank` of what was handed back: before every priority.
AGAIN: Final = HIGHEST_PRIORITY + 1
#: Rows that one transaction moves, purges or reads at most, so that nobody waits long for it.
BATCH: Final = 1000

#: holder, queue, rank, priority, since, id, attempt, data
Row = tuple[int, str, int, int, float, str, int, bytes]
_INSERT: Final = "INSERT OR IGNORE INTO messages (holder, queue, rank, priority, since, id, attempt, data)"


def encode(envelopes: Iterable[Envelope], now: float) -> list[Row | lanes.LanedRow]:
    """Return the rows of `envelopes` at wall time `now`."""
    rows: list[Row | lanes.LanedRow] = []
    for envelope in envelopes:
        message, due = envelope.message, envelope.due
        priority = min(max(envelope.priority, LOWEST_PRIORITY), HIGHEST_PRIORITY)
        is_delayed = due is not None and due > now
        row = (
            DELAYED if is_delayed else FREE,
            envelope.queue,
            priority,
            priority,
            due if due is not None and is_delayed else now,
            message.id,
            message.attempt,
            pack(message),
        )
        share = share_of(message) if message.headers is not None else None
        rows.append(row if share is None else (*row, *share))
    return rows


def insert(transaction: Transaction, rows: Sequence[Row | lanes.LanedRow]) -> None:
    """Put messages into their queues, but for those that are in the broker already; wake who waits for them."""
    earliest: dict[str, float] = {}
    plain: list[Row] = []
    laned: list[lanes.LanedRow] = []
    for row in rows:
        holder, queue, since = row[0], row[1], row[4]
        if len(row) == 8:
            plain.append(row)
        else:
            laned.append(row)
        if holder == FREE:
            transaction.queues.add(queue)
        elif since < earliest.get(queue, float("inf")):
            earliest[queue] = since
    _wake_for_due(transaction, earliest)
    transaction.insert(_INSERT, plain)
    if laned:
        lanes.insert(transaction, laned)


def settle(transaction: Transaction, settlements: Sequence[tuple[Delivery, Settlement]], now: float) -> list[bool]:
    """Settle deliveries at wall time `now`; False for those whose lease was lost."""
    held = held_leases(transaction, [delivery.lease for delivery, _ in settlements])
    answers: list[bool] = []
    acknowledged: list[int] = []
    handed_back: dict[float, list[int]] = {}
    parked: dict[str, float] = {}
    for delivery, settlement in settlements:
        lease = delivery.lease
        if not isinstance(lease, int) or lease not in held:
            answers.append(False)
            continue
        answers.append(True)
        held.remove(lease)  # settled twice in one batch, it is settled once
        match settlement:
            case Acknowledge():
                acknowledged.append(lease)
            case HandBack(delay):
                handed_back.setdefault(max(delay, 0.0), []).append(lease)
                if delay <= 0:
                    transaction.queues.add(delivery.queue)
                else:
                    parked[delivery.queue] = min(now + delay, parked.get(delivery.queue, float("inf")))
            case GiveUp(reason, detail):
                bury(transaction, [lease], reason, detail, now)
    delete(transaction, acknowledged)
    _wake_for_due(transaction, parked)
    for delay, leases in handed_back.items():
        give_back(transaction, leases, due=now + delay if delay > 0 else None)
    return answers


def held_leases(transaction: Transaction, leases: Sequence[int | str]) -> set[int]:
    """Return which of `leases` are still held by the consumers that got them."""
    wanted = list({lease for lease in leases if isinstance(lease, int)})
    held: set[int] = set()
    for chunk in in_chunks(wanted):
        distinct = set(chunk)
        where = f"FROM messages WHERE seq IN ({marks(len(chunk))}) AND holder > {DELAYED}"
        # Nearly always all are: then one row says so.
        (count,) = transaction.execute(f"SELECT count(*) {where}", chunk).fetchone()
        if count == len(distinct):
            held |= distinct
        elif count:
            held.update(seq for (seq,) in transaction.execute(f"SELECT seq {where}", chunk))
    return held


def delete(transaction: Transaction, seqs: Sequence[int]) -> None:
    for chunk in in_chunks(seqs):
        transaction.execute(f"DELETE FROM messages WHERE seq IN ({marks(len(chunk))})", chunk)


def give_back(
    transaction: Transaction, seqs: Sequence[int], *, due: float | None = None, is_return: bool = True
) -> None:
    """Put messages back into their queues under new numbers: before newer ones, or when they are `due`."""
    where = (FREE, AGAIN, None) if due is None else (DELAYED, None, due)
    for chunk in in_chunks(seqs):
        # REPLACE, since id and attempt are the same: the row under the old number is deleted.
        transaction.execute(
            "INSERT OR REPLACE INTO messages"
            " (holder, queue, rank, priority, is_suspect, deaths, charges, returns, since, id, attempt, data)"
            " SELECT ?, queue, ifnull(?, priority), priority, is_suspect, deaths, charges, returns + ?,"
            f" ifnull(?, since), id, attempt, data FROM messages WHERE seq IN ({marks(len(chunk))}) ORDER BY seq",
            (where[0], where[1], int(is_return), where[2], *chunk),
        )


def bury(transaction: Transaction, seqs: Sequence[int], reason: str, detail: str, now: float) -> None:
    """Move messages to the dead letters."""
    for chunk in in_chunks(seqs):
        transaction.execute(
            "INSERT INTO dead (id, queue, priority, reason, detail, died_at, deaths, data)"
            " SELECT id, queue, CAST(priority AS INTEGER), ?, ?, ?, CAST(deaths AS INTEGER), CAST(data AS BLOB)"
            f" FROM messages WHERE seq IN ({marks(len(chunk))}) ORDER BY seq",
            (reason, detail, now, *chunk),
        )
        transaction.execute(f"DELETE FROM messages WHERE seq IN ({marks(len(chunk))})", chunk)


def move_due(transaction: Transaction, queue: str, now: float) -> None:
    """Move what is due in `queue` to its end, in the order of the due times, under new numbers; or to its lanes."""
    lanes.move_due(transaction, queue, now, BATCH)
    transaction.execute(
        "INSERT OR REPLACE INTO messages"
        " (holder, queue, rank, priority, is_suspect, deaths, charges, returns, since, id, attempt, data)"
        f" SELECT {FREE}, queue, priority, priority, is_suspect, deaths, charges, returns, since, id, attempt, data"
        f" FROM messages INDEXED BY delayed WHERE holder = {DELAYED} AND queue = ? AND since <= ? AND share IS NULL"
        " ORDER BY since, seq LIMIT ?",
        (queue, now, BATCH),
    )


def make_due_now(transaction: Transaction, key: tuple[str, int], now: float) -> bool:
    """Make one message due at wall time `now`; False if it does not wait for that."""
    where = f"WHERE id = ? AND attempt = ? AND holder = {DELAYED}"
    found = transaction.execute(f"SELECT queue FROM messages {where}", key).fetchone()
    if found is None:
        return False
    transaction.execute(f"UPDATE messages SET since = min(since, ?) {where}", (now, *key))
    transaction.queues.add(found[0])
    return True


def delayed_envelopes(connection: sqlite3.Connection, queue: str, now: float, limit: int) -> list[Envelope]:
    """Return what waits in `queue` for its due time, the first to be due in front; not what can't be read."""
    rows = connection.execute(
        "SELECT CAST(priority AS INTEGER), since, data FROM messages INDEXED BY delayed"
        f" WHERE holder = {DELAYED} AND queue = ? AND since > ? AND typeof(data) = 'blob' ORDER BY since, seq LIMIT ?",
        (queue, now, limit),
    )
    found: list[Envelope] = []
    for priority, due, data in rows:
        with suppress(MalformedMessage):
            found.append(Envelope(unpack(data), queue, priority, due))
    return found


def ready_envelopes(connection: sqlite3.Connection, queue: str, now: float, limit: int) -> list[Envelope]:
    """Return what is ready in `queue`, or due there; not what can't be read."""
    rows = connection.execute(
        "SELECT CAST(priority AS INTEGER), data FROM messages"
        f" WHERE (holder IN ({FREE}, {LANED}) OR holder = {DELAYED} AND since <= ?) AND queue = ?"
        " AND typeof(data) = 'blob' ORDER BY priority DESC, tag, since, seq LIMIT ?",
        (now, queue, limit),
    )
    found: list[Envelope] = []
    for priority, data in rows:
        with suppress(MalformedMessage):
            found.append(Envelope(unpack(data), queue, priority))
    return found


def remove_delayed(transaction: Transaction, key: tuple[str, int]) -> bool:
    """Delete one message that waits for its due time; False if there is none."""
    where = f"WHERE id = ? AND attempt = ? AND holder = {DELAYED}"
    return transaction.execute(f"DELETE FROM messages {where}", key).rowcount > 0


def add_dead(transaction: Transaction, letters: Sequence[DeadLetter]) -> None:
    """Add dead letters of another broker."""
    transaction.insert(
        "INSERT INTO dead (id, queue, priority, reason, detail, died_at, deaths, data)",
        [
            (
                each.message.id if each.message is not None else None,
                each.queue,
                each.priority,
                each.reason,
                each.detail,
                each.died_at,
                each.deaths,
                each.raw,
            )
            for each in letters
        ],
    )


def next_due(connection: sqlite3.Connection, queues: Sequence[str]) -> float | None:
    """Return the earliest due time in `queues`."""
    earliest = [
        connection.execute(
            f"SELECT min(since) FROM messages INDEXED BY delayed WHERE holder = {DELAYED} AND queue = ?",
            (queue,),
        ).fetchone()[0]
        for queue in queues
    ]
    return min((due for due in earliest if due is not None), default=None)


def _wake_for_due(transaction: Transaction, earliest: Mapping[str, float]) -> None:
    """Wake who waits for a due time in a queue and has to hear of an earlier one, which is not written yet."""
    for queue, since in earliest.items():
        due = next_due(transaction.connection, [queue])
        if due is None or since < due:
            transaction.queues.add(queue)
