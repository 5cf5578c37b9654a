"""The signals of a worker's process: what stops it, and what asks it where it stands (P6)."""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import itertools
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final, NoReturn

from ..core.system import signals_here
from ..supervising import pidfile
from ..worker.standing import standing
from ..worker.worker import Worker

logger = logging.getLogger("aiotq.worker")

_STOPPING: Final = signals_here("SIGTERM", "SIGINT", "SIGHUP")
#: Seconds beyond the grace time for cleaning up, handing back and the last commits. A task that holds the loop or
#: refuses to be cancelled would keep the process for ever.
_LAST_RESORT: Final = 45.0


class Signals:
    """What a worker's process hears: to stop, the first time gracefully, then at once, then no matter what; where it
    stands (SIGUSR1); and SIGUSR2, which would end it and means nothing.

    The signal handlers are Python's own and not the loop's: a task that blocks the loop must not keep the third signal
    from ending the process, nor the process from telling which task that is.
    """

    def __init__(self, worker: Worker, grace: float) -> None:
        self._worker = worker
        self._grace = grace
        self._asked = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        #: A signal may come while the handler of another one runs: each takes its number in one step.
        self._numbers = itertools.count(1)
        self._has_begun = False
        self.can_wait = False  #: whether the worker runs, so that stopping it means something

    def listen(self) -> None:
        """Install the handlers; the running loop is told.

        A signal that this process was started to ignore (SIGHUP by nohup) stays ignored.
        """
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # a signal comes in the middle of a task, and is none of its doing
        handlers: dict[int, Callable[[int, FrameType | None], None]] = dict.fromkeys(_STOPPING, self._stop)
        handlers |= dict.fromkeys(signals_here("SIGUSR1"), self._tell)
        handlers |= dict.fromkeys(signals_here("SIGUSR2"), self._ignore)
        for number, handler in handlers.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handler)

    async def asked(self) -> None:
        """Return when this process was asked to stop."""
        await self._asked.wait()

    @property
    def is_asked(self) -> bool:
        return self._asked.is_set()

    def ask(self, why: str) -> None:
        """Ask for a clean stop, unless that was done."""
        if not self._has_begun and next(self._numbers) == 1:
            self._has_begun = True
            self._limit()
            self._begin(why)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        assert self._loop is not None
        count = next(self._numbers)
        name = signal.Signals(number).name
        if count > (2 if self.can_wait else 1):
            exit_hard(128 + number)  # what it held comes again when its leases end
        if count == 1:
            self._has_begun = True
            self._worker.stop_signal = name
            self._limit()
        with suppress(RuntimeError):  # the loop is closed: we are leaving already
            act = self._begin if count == 1 else self._hurry
            self._loop.call_soon_threadsafe(act, name, context=self._context)

    def _limit(self) -> None:
        """See that the process ends, whatever holds the loop by then; it prints where each thread stands."""
        faulthandler.dump_traceback_later(self._grace + _LAST_RESORT, exit=True)

    def _begin(self, why: str) -> None:
        running = self._worker.running
        if running:
            tasks = "1 task is" if running == 1 else f"{running} tasks are"
            text = f"{tasks} running, with {self._grace:g} s to finish (once more: stop now)"
        else:
            text = "no task is running"
        logger.info("%s: stopping; %s", why, text)
        self._asked.set()

    def _hurry(self, why: str) -> None:
        logger.warning("%s: handing back the running tasks (once more: exit at once)", why)
        self._asked.set()
        self._worker.stop_now()

    def _tell(self, _number: int, frame: FrameType | None) -> None:
        """Log where everything stands. Here and not in the loop: if that is blocked, this is why one asks."""
        assert self._loop is not None
        lines = standing(self._worker.runs, self._loop, frame)
        self._context.copy().run(logger.warning, "SIGUSR1: %s", "\n".join(lines))

    def _ignore(self, _number: int, _frame: FrameType | None) -> None:
        self._context.copy().run(logger.warning, "SIGUSR2 means nothing here, and is ignored (SIGUSR1: what runs)")


def exit_hard(code: int) -> NoReturn:
    """End this process now, whatever its threads do; what was logged and printed is written."""
    pidfile.release()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, RuntimeError):  # RuntimeError: a signal came in the middle of a write
            stream.flush()
    os._exit(code)
