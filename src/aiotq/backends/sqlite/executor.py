"""Running what waits in a lane: writes as one transaction and one fsync (group commit), reads one by one.

A write is answered when it is committed, and on the disk if it is durable (P1); one that fails fails alone.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from ...exceptions import StorageError
from .bus import Notices, SQLiteBus
from .file import File, roll_back
from .sql import Transaction
from .threads import MAX_GROUP, Answers, DatabaseThread, Operation

logger = logging.getLogger("aiotq.sqlite")


class Executor:
    """Serves the lanes of one opened file: runs in their threads, answers in the loop."""

    def __init__(
        self,
        file: File,
        bus: SQLiteBus,
        loop: asyncio.AbstractEventLoop,
        *,
        send: Callable[[Notices], None],
        undo: Callable[[Callable[[Transaction, Any], object], Any], None],
    ) -> None:
        """`send` tells others after a commit; `undo` is given what was written for a caller who is gone."""
        self._file = file
        self._bus = bus
        self._loop = loop
        self._send = send
        self._undo = undo

    def write_all(self, connection: sqlite3.Connection, group: list[Operation[Any]], lane: DatabaseThread) -> None:
        """Run what waits as one transaction; if something in it fails, each on its own, so that it fails alone."""
        group = self._begin_together(connection, group, lane)
        if not group:
            return
        transaction = Transaction(connection)
        answers: Answers = []
        try:
            for operation in group:
                if not operation.is_abandoned:
                    answers.append((operation, operation.run(transaction), None))
            notices = self._bus.notices(transaction)
            connection.execute("COMMIT")
        except Exception as exc:  # what an operation raises belongs to its caller; this thread goes on
            roll_back(connection)
            if len(group) == 1:
                self._answer([(group[0], None, self._file.translated(exc))])
            else:
                for operation in group:
                    self.write_all(connection, [operation], lane)
            return
        # Other processes first: their way is longer.
        self._send(notices)
        self._answer(answers)

    def read_all(self, connection: sqlite3.Connection, group: list[Operation[Any]], lane: DatabaseThread) -> None:
        """Run what waits, each on its own."""
        answers: Answers = []
        for operation in group:
            if operation.is_abandoned:
                continue
            try:
                self._file.check()
                answer = self._file.patiently(partial(operation.run, connection), operation.deadline)
            except Exception as exc:  # what a query raises belongs to its caller; this thread goes on
                roll_back(connection)
                answers.append((operation, None, self._file.translated(exc)))
            else:
                answers.append((operation, answer, None))
        self._answer(answers)

    def _begin_together(
        self, connection: sqlite3.Connection, group: list[Operation[Any]], lane: DatabaseThread
    ) -> list[Operation[Any]]:
        """Begin a transaction for `group` and who comes meanwhile; return who is in it."""

        def earliest() -> float:
            # Whose deadline passes is told; the others go on waiting.
            nonlocal group
            now = time.monotonic()
            locked = self._file.locked()
            self._answer([(operation, None, locked) for operation in group if operation.deadline <= now])
            group = [operation for operation in group if operation.deadline > now and not operation.is_abandoned]
            group += lane.take_waiting(MAX_GROUP - len(group))
            return min((operation.deadline for operation in group), default=0.0)

        group = [operation for operation in group if not operation.is_abandoned]
        if not group:
            return []
        try:
            self._file.begin(connection, earliest, durable=lambda: any(operation.is_durable for operation in group))
        except (sqlite3.Error, StorageError) as exc:
            error = self._file.translated(exc)
            self._answer([(operation, None, error) for operation in group])
            return []
        return group

    def _answer(self, answers: Answers) -> None:
        if answers:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._resolve, answers)

    def _resolve(self, answers: Answers) -> None:
        for operation, answer, error in answers:
            future = operation.answer
            if future is None:
                if error is not None:
                    logger.error("could not hand back the messages of a cancelled read: %s", error)
            elif future.cancelled():
                if error is None and operation.undo is not None:
                    self._undo(operation.undo, answer)
            elif future.done():
                logger.error("an operation was answered twice")
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(answer)
