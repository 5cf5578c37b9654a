"""The leases of consumers (P2), and what follows when one dies: its messages come again, and the blame is noted (P5).

A consumer is a row of `holders`, and a message it has carries the row's number; one lease covers all of them.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import Final

from ...core.clock import Clock
from ...transport.broker import SUSPECT_DEATHS
from .connection import Database
from .messages import give_back
from .schema import DELAYED
from .sql import Transaction

#: Seconds for which a dead holder may come back and take back the deaths it was blamed for.
BLAME_EXPIRES: Final = 86_400.0


class ConsumerLease:
    """One consumer among the holders. Numbers are never used again: another one means it was thought dead."""

    def __init__(self, database: Database, clock: Clock, name: str, queues: Collection[str], lease: float) -> None:
        self.lease = lease
        #: Unique even if a name is not: who has the same one shares no leases.
        self.name = f"{name}#{os.urandom(6).hex()}"
        self._database = database
        self._clock = clock
        self._queues = tuple(queues)
        self._era = _era()

    def register(self, transaction: Transaction) -> int:
        """Move the end of the lease, or take up a new one; return the holder's number."""
        until = self._lease_time() + self.lease
        renewed = transaction.execute(
            "UPDATE holders SET until = ? WHERE name = ? AND era = ?", (until, self.name, self._era)
        )
        if not renewed.rowcount:
            transaction.execute(
                "INSERT INTO holders (name, era, until) VALUES (?, ?, ?)", (self.name, self._era, until)
            )
        (number,) = transaction.execute("SELECT number FROM holders WHERE name = ?", (self.name,)).fetchone()
        if not renewed.rowcount:
            self._listen(transaction, number)
        return int(number)

    def listen_to(self, transaction: Transaction, queues: Collection[str]) -> None:
        """Be told of what comes to `queues`, and to no others."""
        self._queues = tuple(queues)
        row = transaction.execute("SELECT number FROM holders WHERE name = ?", (self.name,)).fetchone()
        if row is not None:
            transaction.execute("DELETE FROM listens WHERE holder = ?", row)
            self._listen(transaction, row[0])

    def _listen(self, transaction: Transaction, number: int) -> None:
        address = self._database.address
        transaction.insert(
            "INSERT INTO listens (holder, queue, address)",
            [(number, queue, address) for queue in self._queues],
        )
        transaction.listeners_changed()

    def unregister(self, transaction: Transaction) -> None:
        row = transaction.execute("SELECT number FROM holders WHERE name = ?", (self.name,)).fetchone()
        if row is not None:
            seqs = _seqs_of(transaction, row[0])
            _wake_for(transaction, row[0])
            give_back(transaction, seqs)
            _remove_holder(transaction, row[0])

    def ensure(self, transaction: Transaction) -> int:
        """Return our number; who is thought dead already, or soon will be, takes up a new lease first."""
        row = transaction.execute(
            "SELECT number FROM holders WHERE name = ? AND era = ? AND until > ?",
            (self.name, self._era, self._lease_time()),
        ).fetchone()
        return int(row[0]) if row is not None else self.register(transaction)

    def is_known(self, connection: sqlite3.Connection) -> bool:
        return connection.execute("SELECT 1 FROM holders WHERE name = ?", (self.name,)).fetchone() is not None

    def is_any_dead(self, connection: sqlite3.Connection) -> bool:
        question = "SELECT EXISTS (SELECT 1 FROM holders WHERE era <> ? OR until <= ?)"
        (answer,) = connection.execute(question, (self._era, self._lease_time())).fetchone()
        return bool(answer)

    def mourn_all(self, transaction: Transaction, now: float) -> int:
        """Give back what dead holders held; return how many messages that were."""
        transaction.execute("DELETE FROM blames WHERE expires <= ?", (now,))
        dead = transaction.execute(
            "SELECT number FROM holders WHERE era <> ? OR until <= ?", (self._era, self._lease_time())
        ).fetchall()
        return sum(_mourn(transaction, number, now) for (number,) in dead)

    def _lease_time(self) -> float:
        """The time by which leases end: if possible one that no set clock and no suspended machine makes jump."""
        return self._clock.monotonic() if self._era else self._clock.time()


def end_leases(transaction: Transaction, names: Collection[str]) -> None:
    """End the leases of all consumers that were given one of these names."""
    for name in names:
        transaction.execute(
            "UPDATE holders SET until = 0 WHERE substr(name, 1, length(name) - 13) = ?", (name,)
        )  # without `#` and twelve digits


def undo_deaths(transaction: Transaction, holder: int) -> None:
    """Take back the deaths and charges that `holder`, who is alive, was blamed for."""
    blames = transaction.execute("SELECT charges, id, attempt FROM blames WHERE holder = ?", (holder,)).fetchall()
    for blame in blames:
        transaction.execute(
            "UPDATE messages SET deaths = max(deaths - 1, 0), charges = max(charges - ?, 0),"
            f" is_suspect = deaths - 1 >= {SUSPECT_DEATHS} WHERE id = ? AND attempt = ?",
            blame,
        )
    if blames:
        transaction.execute("DELETE FROM blames WHERE holder = ?", (holder,))
        transaction.queues.update(queue for (queue,) in transaction.execute("SELECT DISTINCT queue FROM listens"))


def _mourn(transaction: Transaction, holder: int, now: float) -> int:
    """Give back what the dead `holder` held, and remember what it was blamed for."""
    seqs = _seqs_of(transaction, holder)
    suspects = transaction.execute(
        f"SELECT seq FROM messages WHERE holder = ? AND holder > {DELAYED} AND is_suspect <> 0 LIMIT 2",
        (holder,),
    ).fetchall()
    charged = suspects[0][0] if len(suspects) == 1 else None
    _wake_for(transaction, holder)
    transaction.execute(
        "INSERT OR IGNORE INTO blames (holder, id, attempt, charges, expires)"
        f" SELECT holder, id, attempt, seq IS ?, ? FROM messages WHERE holder = ? AND holder > {DELAYED}",
        (charged, now + BLAME_EXPIRES, holder),
    )
    transaction.execute(
        "UPDATE messages SET deaths = deaths + 1, charges = charges + (seq IS ?),"
        f" is_suspect = deaths + 1 >= {SUSPECT_DEATHS} WHERE holder = ? AND holder > {DELAYED}",
        (charged, holder),
    )
    give_back(transaction, seqs, is_return=False)
    _remove_holder(transaction, holder)
    return len(seqs)


def _seqs_of(transaction: Transaction, holder: int) -> list[int]:
    rows = transaction.execute(
        f"SELECT seq FROM messages WHERE holder = ? AND holder > {DELAYED} ORDER BY seq", (holder,)
    )
    return [seq for (seq,) in rows]


def _wake_for(transaction: Transaction, holder: int) -> None:
    """Wake who may take over what `holder` has."""
    rows = transaction.execute(
        f"SELECT DISTINCT queue FROM messages WHERE holder = ? AND holder > {DELAYED}", (holder,)
    )
    transaction.queues.update(queue for (queue,) in rows)


def _remove_holder(transaction: Transaction, holder: int) -> None:
    transaction.execute("DELETE FROM holders WHERE number = ?", (holder,))
    transaction.execute("DELETE FROM listens WHERE holder = ?", (holder,))
    transaction.listeners_changed()


def _era() -> str:
    """Return what names the time since this machine was started; empty where that can't be known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
