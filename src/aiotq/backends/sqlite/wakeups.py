"""Who is woken by what: the listeners in the file, those that a transaction has news for, and what this process hears.

A process stands among the listeners under its address; `listens` says from which queues its consumers read.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from ...core.clock import Clock
from .mailbox import MESSAGES, POLL_INTERVAL, RECORDS, REVOCATIONS, SAFETY_INTERVAL, Mailbox
from .sql import Transaction

#: Seconds after which a listener that nobody renews is forgotten.
LISTENER_EXPIRES: Final = 3600.0

#: Whom to wake: address -> path and what it is about.
Notices = dict[str, tuple[str, int]]


class WakeUps:
    """The wake-ups that one process gets and sends."""

    def __init__(self, clock: Clock) -> None:
        self.address = _new_address()
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mailbox: Mailbox | None = None
        self._hearers: set[Callable[[int], None]] = set()
        #: The version of the table, address -> path, queue -> addresses.
        self._known_listeners: tuple[int, dict[str, str], dict[str, set[str]]] = (0, {}, {})

    def open(self, loop: asyncio.AbstractEventLoop) -> float:
        """Take a new address and make a mailbox for it; return the seconds between looks that nobody asked for."""
        self._loop = loop
        self.address = _new_address()
        self._mailbox = Mailbox.open(self.address)
        return POLL_INTERVAL if self._mailbox is None else SAFETY_INTERVAL

    def listen(self) -> None:
        if self._loop is not None and self._mailbox is not None:
            self._loop.add_reader(self._mailbox.fileno(), self._look_into_mailbox)

    def stop_listening(self) -> None:
        if self._loop is not None and self._mailbox is not None:
            self._loop.remove_reader(self._mailbox.fileno())

    def close(self) -> None:
        if self._mailbox is not None:
            self._mailbox.close()
        self._mailbox = self._loop = None

    @property
    def has_mailbox(self) -> bool:
        return self._mailbox is not None

    def add_hearer(self, hearer: Callable[[int], None]) -> None:
        self._hearers.add(hearer)

    def remove_hearer(self, hearer: Callable[[int], None]) -> None:
        self._hearers.discard(hearer)

    def register(self, transaction: Transaction) -> None:
        """Renew this process' entry among the listeners, or make it anew; remove what is expired."""
        now = self._clock.time()
        expires = now + LISTENER_EXPIRES
        renewed = transaction.execute("UPDATE listeners SET expires = ? WHERE address = ?", (expires, self.address))
        is_new = self._mailbox is not None and not renewed.rowcount
        if is_new:
            row = (self.address, str(self._mailbox), expires)
            transaction.execute("INSERT INTO listeners (address, path, expires) VALUES (?, ?, ?)", row)
        if transaction.execute("DELETE FROM listeners WHERE expires <= ?", (now,)).rowcount or is_new:
            transaction.listeners_changed()

    def unregister(self, transaction: Transaction) -> None:
        remove_listeners(transaction, [self.address])

    def notices(self, transaction: Transaction) -> Notices:
        """Return whom to wake when `transaction` is committed.

        Asked inside the transaction, so that who begins to listen after it sees what it wrote.
        """
        if transaction.is_quiet:
            return {}
        (version,) = transaction.execute("SELECT value FROM counters WHERE name = 'listeners'").fetchone()
        if version != self._known_listeners[0]:
            paths = dict(transaction.execute("SELECT address, path FROM listeners"))
            consuming: dict[str, set[str]] = {}
            for queue, address in transaction.execute("SELECT queue, address FROM listens"):
                consuming.setdefault(queue, set()).add(address)
            self._known_listeners = (version, paths, consuming)
        _, paths, consuming = self._known_listeners
        about: dict[str, int] = dict.fromkeys(paths, REVOCATIONS) if transaction.is_for_all else {}
        for address in transaction.addresses:
            about[address] = about.get(address, 0) | RECORDS
        for queue in transaction.queues:
            for address in consuming.get(queue, ()):
                about[address] = about.get(address, 0) | MESSAGES
        return {address: (paths.get(address, ""), bits) for address, bits in about.items()}

    def send(self, notices: Notices) -> list[str]:
        """Wake them, from any thread; return the addresses at which nobody listens any more."""
        loop, mailbox = self._loop, self._mailbox
        gone: list[str] = []
        for address, (path, bits) in notices.items():
            if address == self.address:
                if loop is not None:
                    with suppress(RuntimeError):  # the loop is closed: nobody is there to be woken
                        loop.call_soon_threadsafe(self._hear, bits)
            elif mailbox is not None and path and not mailbox.send(path, bits):
                gone.append(address)
        return gone

    def _look_into_mailbox(self) -> None:
        if self._mailbox is not None:
            self._hear(self._mailbox.empty())

    def _hear(self, about: int) -> None:
        for hearer in tuple(self._hearers):
            hearer(about)


def remove_listeners(transaction: Transaction, addresses: Sequence[str]) -> None:
    for address in addresses:
        transaction.execute("DELETE FROM listeners WHERE address = ?", (address,))
    transaction.listeners_changed()


def _new_address() -> str:
    return f"{os.getpid():x}-{os.urandom(6).hex()}"
