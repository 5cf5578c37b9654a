"""A worker as a process of its own: its signals, its last words, and its exit (P6)."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

from ..app import AioTQ
from ..beat.scheduler import Scheduler
from ..calling.core import AppCore
from ..core.inside import core_of
from ..signals import celeryd_init
from ..supervising.line import ANOTHER, DONE, READY
from ..supervising.starting import tell_started
from ..supervising.systemd import say, watched_by_systemd
from ..worker.options import WorkerOptions
from ..worker.worker import Worker
from .app_option import CommandFailed, connected
from .http import serving_dashboard
from .reaching import reached
from .scaling import tell_load
from .share import WITHOUT_END, Counting, Share, done
from .worker_signals import Signals, exit_hard

logger = logging.getLogger("aiotq.worker")

#: Seconds that threads which nobody waits for have to end before the process ends without them.
_THREADS_END: Final = 0.5
#: Objects that are made, less those that went, before the collector looks for cycles among the new ones: a run leaves
#: none, so what Python looks for after 700 is only what tasks leave.
_OBJECTS: Final = 20_000
_ANYIO_THREAD: Final = "AnyIO worker thread"


@dataclass(frozen=True, slots=True)
class Parent:
    """Who started this worker: the socket that leads there, and whether it is told how loaded the worker is."""

    fd: int
    tells_load: bool = False


def run_worker(
    app: AioTQ,
    options: WorkerOptions,
    *,
    announce: Callable[[str], None] | None = None,
    parent: Parent | None = None,
    with_beat: bool = False,
    seen: AbstractAsyncContextManager[None],
    dashboard: tuple[str, int] | None = None,
    share: Share = WITHOUT_END,
) -> bool:
    """Run a worker until a signal stops it, and then end this process if threads keep it from ending.

    Return whether a worker that was to do all there was saw no task fail.

    `with_beat`: a scheduler runs beside it. `announce` is called with its name when it runs. `seen` is entered from
    before the broker is reached until the worker has ended. `dashboard`: host and port where the dashboard is served.

    Raises:
        CommandFailed: broker or store can't be reached.
        ExceptionGroup, AioTQError: what the worker failed with.
    """
    worker = Worker(core_of(app), options)
    stop = Signals(worker, options.grace)
    counting = Counting()
    if share.is_all:
        worker.observe(counting)
    with ExitStack() as stack:
        line = None if parent is None else stack.enter_context(socket.socket(fileno=parent.fd))
        told = line if parent is not None and parent.tells_load else None
        try:
            with asyncio.Runner(loop_factory=_loop_factory(app)) as runner:
                beside = partial(_beside, app, worker, with_beat, dashboard)
                runner.run(_serve(app, worker, stop, announce, line, told, beside, seen, share))
        except Exception as exc:
            if _threads_ended():
                raise
            logger.critical("the worker failed: %s", exc, exc_info=exc)
            exit_hard(1)
    if (left := worker.left_uncommitted) > 0:
        what = "1 finished task was" if left == 1 else f"{left} finished tasks were"
        again = "it runs again when its lease ends" if left == 1 else "they run again when their leases end"
        logger.critical("%s not committed: %s", what, again)
        exit_hard(1)
    if worker.left_running or not _threads_ended():
        logger.warning("exiting without waiting for threads that still run")
        exit_hard(1 if counting.failed else 0)
    return counting.failed == 0


async def _serve(
    app: AioTQ,
    worker: Worker,
    stop: Signals,
    announce: Callable[[str], None] | None,
    parent: socket.socket | None,
    told: socket.socket | None,
    beside: Callable[[], AbstractAsyncContextManager[None]],
    seen: AbstractAsyncContextManager[None],
    share: Share,
) -> None:
    stop.listen()
    await celeryd_init.send(worker, instance=worker, conf=app.conf, options=worker.options)
    async with seen:
        if not await reached(app, stop.asked):
            return
        await _work(app, worker, stop, announce, parent, told, beside, share)


@asynccontextmanager
async def _beside(
    app: AioTQ, worker: Worker, with_beat: bool, dashboard: tuple[str, int] | None
) -> AsyncGenerator[None, None]:
    """Have what runs beside the worker while entered."""
    scheduler = Scheduler(core_of(app), name=worker.name) if with_beat else nullcontext()
    async with scheduler, serving_dashboard(app, dashboard):
        yield


async def _work(
    app: AioTQ,
    worker: Worker,
    stop: Signals,
    announce: Callable[[str], None] | None,
    parent: socket.socket | None,
    told: socket.socket | None,
    beside: Callable[[], AbstractAsyncContextManager[None]],
    share: Share,
) -> None:
    async with connected(app), worker, beside():
        stop.can_wait = True
        gc.freeze()  # modules and tasks stay for ever: looking through them again and again finds nothing
        gc.set_threshold(_OBJECTS)
        gc.enable()
        if announce is not None:
            announce(worker.name)
        if parent is not None:
            _attach(parent, stop)
        logger.info("worker %s is ready (pid %d)", worker.name, os.getpid())
        core = core_of(app)
        tell_started()
        with watched_by_systemd(lambda: worker.silence <= core.allowed_silence):
            async with asyncio.TaskGroup() as group:
                watching = [group.create_task(_stop_when_asked(worker, stop), name="aiotq.stopping")]
                if share:
                    watching.append(group.create_task(_stop_when_done(share, worker, core, stop, parent)))
                if told is not None:
                    watching.append(group.create_task(tell_load(worker, core, told), name="aiotq.load"))
                await worker.wait()
                for each in watching:
                    each.cancel()
    logger.info("worker %s stopped (tasks finished: %d)", worker.name, worker.completed)


async def _stop_when_asked(worker: Worker, stop: Signals) -> None:
    await stop.asked()
    say("STOPPING=1")
    await worker.stop()


async def _stop_when_done(
    share: Share, worker: Worker, core: AppCore, stop: Signals, parent: socket.socket | None
) -> None:
    why = await done(share, worker, core)
    if parent is not None:
        with suppress(OSError):  # it is gone, and this worker ends in any case
            parent.send(ANOTHER if share.goes_on else DONE)
    stop.ask(why)


def _attach(parent: socket.socket, stop: Signals) -> None:
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
