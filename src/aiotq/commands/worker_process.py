"""A worker as a process of its own: its signals, its last words, and its exit (P6)."""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import gc
import importlib
import logging
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Final, NoReturn, cast

from ..app import AioTQ
from ..exceptions import AioTQError, NotConnected
from ..signals import celeryd_init
from ..worker.worker import Worker, WorkerOptions
from .app_option import CommandFailed, connected

logger = logging.getLogger("aiotq.worker")

#: What a worker tells the parent that started it (`--parent-fd`); the end of that connection asks it to stop.
READY: Final = b"R"
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
#: Seconds beyond the grace time for cleaning up, handing back and the last commits. A task that holds the loop or
#: refuses to be cancelled would keep the process for ever.
_LAST_RESORT: Final = 45.0
#: Seconds between attempts to reach a server at the start.
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
#: Seconds that threads which nobody waits for have to end before the process ends without them.
_THREADS_END: Final = 0.5
_ANYIO_THREAD: Final = "AnyIO worker thread"


def run_worker(
    app: AioTQ,
    options: WorkerOptions,
    *,
    announce: Callable[[str], None] | None = None,
    parent_fd: int | None = None,
) -> None:
    """Run a worker until a signal stops it, and then end this process if threads keep it from ending.

    `announce` is called with its name when it runs.

    Raises:
        CommandFailed: broker or store can't be reached.
        ExceptionGroup, AioTQError: what the worker failed with.
    """
    worker = Worker(app, options)
    stop = Stop(worker, options.grace)
    with ExitStack() as stack:
        parent = None if parent_fd is None else stack.enter_context(socket.socket(fileno=parent_fd))
        try:
            with asyncio.Runner(loop_factory=_loop_factory(app)) as runner:
                runner.run(_serve(app, worker, stop, announce, parent))
        except Exception as exc:
            if _threads_ended():
                raise
            logger.critical("the worker failed: %s", exc, exc_info=exc)
            exit_hard(1)
    if worker.left_running or not _threads_ended():
        logger.warning("exiting without waiting for threads that still run")
        exit_hard(0)


class Stop:
    """What asks a worker's process to stop: the first time gracefully, then at once, then no matter what.

    The signal handlers are Python's own and not the loop's: a task that blocks the loop must not keep the third signal
    from ending the process.
    """

    def __init__(self, worker: Worker, grace: float) -> None:
        self._worker = worker
        self._grace = grace
        self._asked = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._count = 0
        self.can_wait = False  #: whether the worker runs, so that stopping it means something

    def listen(self) -> None:
        """Install the handlers; the running loop is told."""
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # a signal comes in the middle of a task, and is none of its doing
        for number in _SIGNALS:
            signal.signal(number, self._signalled)

    async def asked(self) -> None:
        """Return when this process was asked to stop."""
        await self._asked.wait()

    @property
    def is_asked(self) -> bool:
        return self._asked.is_set()

    def ask(self, why: str) -> None:
        """Ask for a clean stop, unless that was done."""
        if self._count == 0:
            self._count = 1
            self._limit()
            self._begin(why)

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        assert self._loop is not None
        self._count += 1
        name = signal.Signals(number).name
        if self._count > (2 if self.can_wait else 1):
            exit_hard(128 + number)  # what it held comes again when its leases end
        if self._count == 1:
            self._worker.stop_signal = name
            self._limit()
        with suppress(RuntimeError):  # the loop is closed: we are leaving already
            act = self._begin if self._count == 1 else self._hurry
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
        logger.warning("%s: handing back what still runs (once more: exit at once)", why)
        self._worker.stop_now()


async def _serve(
    app: AioTQ,
    worker: Worker,
    stop: Stop,
    announce: Callable[[str], None] | None,
    parent: socket.socket | None,
) -> None:
    stop.listen()
    await celeryd_init.send(worker, instance=worker, conf=app.conf, options=worker.options)
    if not await _reached(app, stop):
        return
    async with connected(app), worker:
        stop.can_wait = True
        gc.freeze()  # modules and tasks stay for ever: looking through them again and again finds nothing
        gc.enable()
        if announce is not None:
            announce(worker.name)
        if parent is not None:
            _attach(parent, stop)
        logger.info("worker %s is ready (pid %d)", worker.name, os.getpid())
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(_stop_when_asked(worker, stop), name="aiotq.stopping")
            await worker.wait()
            stopping.cancel()
    logger.info("worker %s stopped (tasks finished: %d)", worker.name, worker.completed)


async def _reached(app: AioTQ, stop: Stop) -> bool:
    """Wait for a server that can't be reached yet, as when all is started at once; False if asked to stop first."""
    pause = _FIRST_PAUSE
    said = ""
    while not stop.is_asked:
        try:
            await app.connection()
        except NotConnected as exc:
            if str(exc) != said:
                said = str(exc)
                logger.warning("waiting for the broker: %s", exc)
        except AioTQError:
            return True  # `connected` will say so
        else:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(pause * random.uniform(0.5, 1.0)):
                await stop.asked()
        pause = min(pause * 2, _LONGEST_PAUSE)
    return False


async def _stop_when_asked(worker: Worker, stop: Stop) -> None:
    await stop.asked()
    await worker.stop()


def _attach(parent: socket.socket, stop: Stop) -> None:
    """Tell the parent that this worker is ready, and stop when the parent is gone."""
    loop = asyncio.get_running_loop()
    parent.setblocking(False)

    def gone() -> None:
        loop.remove_reader(parent)
        stop.ask("the parent process is gone")

    loop.add_reader(parent, gone)  # it never says anything: what there is to read is the end
    with suppress(OSError):  # gone already: the reader will find that out
        parent.send(READY)


def _loop_factory(app: AioTQ) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the worker's loop; None: asyncio's own.

    Raises:
        CommandFailed: it is not installed.
    """
    if not app.conf.worker_uvloop:
        return None
    try:
        return cast("Callable[[], asyncio.AbstractEventLoop]", importlib.import_module("uvloop").new_event_loop)
    except ImportError as exc:
        raise CommandFailed("worker_uvloop is set, and uvloop is not installed: pip install 'aiotq[uvloop]'") from exc


def _threads_ended() -> bool:
    """Whether all threads that ran tasks have ended; idle ones do so when their loop does."""
    deadline = time.monotonic() + _THREADS_END
    for thread in threading.enumerate():
        if thread.name == _ANYIO_THREAD:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                return False
    return True


def exit_hard(code: int) -> NoReturn:
    """End this process now, whatever its threads do; what was logged and printed is written."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, RuntimeError):  # RuntimeError: a signal came in the middle of a write
            stream.flush()
    os._exit(code)
