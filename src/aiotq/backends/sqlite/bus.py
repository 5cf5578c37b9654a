"""The bus of the processes that use one file: datagrams, sent when a transaction is committed or by themselves.

A process stands among the listeners in the file under its address; `listens` says from which queues its consumers read.
Where there are no unix sockets none are sent: receivers look every few milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from ...control.bus import Bus, frame
from ...core.clock import Clock
from .mailbox import POLL_INTERVAL, SAFETY_INTERVAL, Mailbox, Sent
from .sql import Transaction

#: Seconds after which a listener that nobody renews is forgotten.
LISTENER_EXPIRES: Final = 3600.0
#: Tells a process that there may be messages for its consumers.
WOKEN: Final = "woken"

#: What is to be told: address, path, topic, payload.
Notice = tuple[str, str, str, bytes]
Notices = Sequence[Notice]
#: Reads from the file.
Read = Callable[[Callable[[sqlite3.Connection], Any]], Awaitable[Any]]


class SQLiteBus(Bus):
    """The bus of one process; its `Database` opens and closes it."""

    def __init__(self, clock: Clock, read: Read, send: Callable[[Notices], None]) -> None:
        """`send` calls our `send`, and has those forgotten that are gone."""
        super().__init__()
        self._address = _new_address()
        self._clock = clock
        self._read = read
        self._send_all = send
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mailbox: Mailbox | None = None
        #: The version of the table, address -> path, queue -> addresses.
        self._known_listeners: tuple[int, dict[str, str], dict[str, set[str]]] = (0, {}, {})

    @property
    def address(self) -> str:
        """This process; another one after the file was closed and opened again."""
        return self._address

    def open(self, loop: asyncio.AbstractEventLoop) -> float:
        """Take a new address and make a mailbox for it; return the seconds between looks that nobody asked for."""
        self._loop = loop
        self._address = _new_address()
        self._mailbox = Mailbox.open(self._address)
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

    async def _tell(self, address: str, topic: str, payload: bytes) -> None:
        if address == self._address:
            self._send_all([(address, "", topic, payload)])
            return
        paths = await self._read(
            lambda connection: connection.execute("SELECT path FROM listeners WHERE address = ?", (address,)).fetchall()
        )
        if not paths:
            self.dropped += 1
        self._send_all([(address, path, topic, payload) for (path,) in paths])

    async def _tell_all(self, topic: str, payload: bytes) -> None:
        listeners = await self._read(lambda connection: connection.execute(_LISTENERS).fetchall())
        paths = {**dict(listeners), self._address: ""}
        self._send_all([(address, path, topic, payload) for address, path in paths.items()])

    def register(self, transaction: Transaction) -> None:
        """Renew this process' entry among the listeners, or make it anew; remove what is expired."""
        now = self._clock.time()
        expires = now + LISTENER_EXPIRES
        renewed = transaction.execute("UPDATE listeners SET expires = ? WHERE address = ?", (expires, self._address))
        is_new = self._mailbox is not None and not renewed.rowcount
        if is_new:
            row = (self._address, str(self._mailbox), expires)
            transaction.execute("INSERT INTO listeners (address, path, expires) VALUES (?, ?, ?)", row)
        if transaction.execute("DELETE FROM listeners WHERE expires <= ?", (now,)).rowcount or is_new:
            transaction.listeners_changed()

    def unregister(self, transaction: Transaction) -> None:
        remove_listeners(transaction, [self._address])

    def notices(self, transaction: Transaction) -> Notices:
        """Return what is to be told when `transaction` is committed.

        Asked inside the transaction, so that who begins to listen after it sees what it wrote.
        """
        if transaction.is_quiet:
            return ()
        (version,) = transaction.execute("SELECT value FROM counters WHERE name = 'listeners'").fetchone()
        if version != self._known_listeners[0]:
            paths = dict(transaction.execute(_LISTENERS))
            consuming: dict[str, set[str]] = {}
            for queue, address in transaction.execute("SELECT queue, address FROM listens"):
                consuming.setdefault(queue, set()).add(address)
            self._known_listeners = (version, paths, consuming)
        _, paths, consuming = self._known_listeners
        told = dict.fromkeys((address, topic) for topic in transaction.told_all for address in paths)
        told.update(transaction.told)
        told.update(
            dict.fromkeys((address, WOKEN) for queue in transaction.queues for address in consuming.get(queue, ()))
        )
        return [(address, paths.get(address, ""), topic, b"") for address, topic in told]

    def send(self, notices: Notices) -> list[str]:
        """Tell them, from any thread; return the addresses at which nobody listens any more."""
        loop, mailbox = self._loop, self._mailbox
        gone: list[str] = []
        for address, path, topic, payload in notices:
            if address == self._address:
                if loop is not None:
                    with suppress(RuntimeError):  # the loop is closed: nobody is there to be told
                        loop.call_soon_threadsafe(self.take, topic, payload)
            elif mailbox is not None and path:
                sent = mailbox.send(path, frame(topic, payload))
                if sent is Sent.NOBODY_THERE:
                    gone.append(address)
                if sent is not Sent.DONE:
                    self.dropped += 1
        return gone

    def _look_into_mailbox(self) -> None:
        if self._mailbox is not None:
            taken, may_have_missed = self._mailbox.take()
            for data in taken:
                self.take_frame(data)
            if may_have_missed:
                self.tell_of_gap()


_LISTENERS: Final = "SELECT address, path FROM listeners"


def remove_listeners(transaction: Transaction, addresses: Sequence[str]) -> None:
    for address in addresses:
        transaction.execute("DELETE FROM listeners WHERE address = ?", (address,))
    transaction.listeners_changed()


def _new_address() -> str:
    return f"{os.getpid():x}-{os.urandom(6).hex()}"
