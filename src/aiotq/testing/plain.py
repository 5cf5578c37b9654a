"""An app under test, for tests that are plain functions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any, Self

from anyio.from_thread import start_blocking_portal

from ..app import AioTQ
from .records import Sent
from .worker import TestWorker


class SyncTestWorker:
    """A `TestWorker` for tests without a loop: the same methods, as plain functions.

        with SyncTestWorker(app) as t:
            remind.sync.apply_async(("ann",), countdown=3 * 86_400)
            t.advance(days=3)
            t.assert_ran(remind, args=("ann",))

    Its loop runs in a thread of its own while it is entered. Arguments and errors are those of `TestWorker`.
    """

    __test__ = False  # pytest takes a class called so for tests

    def __init__(
        self,
        app: AioTQ,
        *,
        queues: Sequence[str] | None = None,
        now: datetime | None = None,
        patience: float = 10.0,
        **settings: Any,
    ) -> None:
        self._worker = TestWorker(app, queues=queues, now=now, patience=patience, **settings)
        self.app = app
        #: Calls that were accepted, and runs that ended, in order.
        self.sent = self._worker.sent
        self.ran = self._worker.ran
        self.assert_sent = self._worker.assert_sent
        self.assert_not_sent = self._worker.assert_not_sent
        self.assert_ran = self._worker.assert_ran
        self.assert_not_ran = self._worker.assert_not_ran
        self.clear = self._worker.clear
        self.story = self._worker.story
        self._stack = ExitStack()

    @property
    def now(self) -> datetime:
        """The time for the app (UTC)."""
        return self._worker.now

    @property
    def delayed(self) -> list[Sent]:
        """What waits for its time, the first first."""
        return self._worker.delayed

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(self._portal.wrap_async_context_manager(self._worker))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def idle(self) -> None:
        """As `TestWorker.idle`."""
        self._portal.call(self._worker.idle)

    def drained(self) -> None:
        """As `TestWorker.drained`."""
        self._portal.call(self._worker.drained)

    def advance(self, by: timedelta | float = 0.0, **more: float) -> None:
        """As `TestWorker.advance`: `t.advance(days=3)`."""
        span = by.total_seconds() if isinstance(by, timedelta) else by
        self._portal.call(self._worker.advance, span + timedelta(**more).total_seconds())

    def advance_to(self, when: datetime) -> None:
        """As `TestWorker.advance_to`."""
        self._portal.call(self._worker.advance_to, when)
