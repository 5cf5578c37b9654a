"""Several worker processes under a small parent, which starts them, passes signals on, and replaces those that die."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from ..core.bounds import Bounds
from ..core.system import handle_signals, signals_here
from .kept_worker import ChildCommand, KeptWorker
from .reaping import reaping
from .reports import Place, Reports
from .scale import LOOK, Scale
from .starting import is_awaited, tell_started
from .systemd import say, watched_by_systemd

logger = logging.getLogger("aiotq.workers")

#: Signals that stop the workers.
STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
#: Those that are theirs to answer.
_PASSED_ON: Final = signals_here("SIGUSR1", "SIGUSR2")
_HEARD: Final = (*STOPPING, *_PASSED_ON, *signals_here("SIGHUP", "SIGTTIN", "SIGTTOU"))


class Supervisor:
    """Runs `count` workers as `child` says, named after `name`, until it is stopped.

    SIGHUP replaces them one after the other. SIGTTIN starts one more, SIGTTOU stops the last one. With `bounds` their
    number changes with their load. With `reports` they tell how they are.
    """

    def __init__(
        self, child: ChildCommand, *, name: str, count: int, bounds: Bounds | None = None, reports: bool = False
    ) -> None:
        self._child = child
        self._name = name
        self._count = count
        self._bounds = bounds
        self.reports = Reports(self._places) if reports else None
        self._started = 0
        self._kept: list[KeptWorker] = []
        self._have_ended = asyncio.Event()
        self._is_stopping = False
        self._rolling: asyncio.Task[None] | None = None
        self._failed = False

    async def run(self) -> bool:
        """Return when all workers have ended, stopped by a signal or not; whether all is well."""
        listen(self.pass_on)
        async with reaping():
            return await self.keep()

    async def keep(self) -> bool:
        """As `run`, without a hand on this process's signals."""
        async with asyncio.TaskGroup() as self._group:
            for _ in range(self._count):
                self._add()
            self._group.create_task(self._tell_systemd(tuple(self._kept)), name="aiotq.workers.systemd")
            if self._bounds is not None:
                scaling = self._group.create_task(self._scale(Scale(self._bounds)), name="aiotq.workers.scaling")
                await self._have_ended.wait()
                scaling.cancel()
        return not self._failed

    def pass_on(self, number: int) -> None:
        """Do what a signal asks for."""
        name = signal.Signals(number).name
        if name == "SIGHUP":
            self._roll(name)
        elif name == "SIGTTIN":
            if not self._is_stopping:
                logger.warning("%s: one worker more, %d", name, len(self._kept) + 1)
                self._add()
        elif name == "SIGTTOU":
            self._take_one_away(name)
        else:
            logger.warning("%s: passed on to %s", name, _workers(len(self._kept)))
            if number in _PASSED_ON:
                for each in self._kept:
                    each.send(number)
            else:
                self.stop()

    def stop(self) -> None:
        """Ask every worker for a clean stop; asked again, they hand back what still runs."""
        is_again, self._is_stopping = self._is_stopping, True
        if not is_again:
            say("STOPPING=1")
        for each in self._kept:
            if is_again or not each.is_stopping:
                each.stop()

    def _add(self) -> None:
        self._started += 1
        name = f"{self._name}-{self._started}"
        kept = KeptWorker(self._child, name, number=self._started, fail=self.stop, reports=self.reports)
        self._kept.append(kept)
        self._group.create_task(self._keep(kept), name=f"aiotq.workers.{name}")

    def _places(self) -> Sequence[Place]:
        return [each.place for each in self._kept]

    async def _keep(self, kept: KeptWorker) -> None:
        await kept.run()
        self._kept.remove(kept)
        if not self._kept:
            self._have_ended.set()
        self._failed = self._failed or kept.has_failed

    def _take_one_away(self, name: str) -> None:
        if len(self._kept) <= 1:
            logger.warning("%s: the last worker stays; SIGTERM stops it", name)
        else:
            logger.warning("%s: one worker fewer, %d", name, len(self._kept) - 1)
            self._kept[-1].stop()

    async def _scale(self, scale: Scale) -> None:
        """Start and stop workers as their load asks for, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK)
            if self._is_stopping or any(each.is_stopping for each in self._kept):
                continue
            count, wanted = len(self._kept), scale.look(loop.time(), [each.load for each in self._kept])
            if wanted > count:
                logger.warning("calls wait: one worker more, %d", count + 1)
                self._add()
            elif wanted < count:
                self._take_one_away("few calls run")

    def _roll(self, name: str) -> None:
        """Replace all workers that run now, unless that is being done."""
        if self._is_stopping or (self._rolling is not None and not self._rolling.done()):
            logger.warning("%s: the workers are being replaced already, or stop", name)
            return
        how = ", one after the other" if len(self._kept) > 1 else ""
        logger.warning("%s: replacing %s%s", name, _workers(len(self._kept)), how)
        self._rolling = self._group.create_task(self._replace(tuple(self._kept)), name="aiotq.workers.rolling")

    async def _replace(self, workers: tuple[KeptWorker, ...]) -> None:
        for each in workers:
            if each not in self._kept or self._is_stopping:
                continue
            if not await each.renew():
                logger.error("replacing the workers ends here: those that are left go on as they are")
                return
        logger.info("all workers are replaced")

    async def _tell_systemd(self, workers: tuple[KeptWorker, ...]) -> None:
        """Say that the workers run when all do, and that this process lives until they end: to systemd, and to whom
        started it in the background."""
        if "NOTIFY_SOCKET" not in os.environ and not is_awaited():
            return
        for each in workers:
            await each.ready()
        if all(each.is_ready for each in workers):
            tell_started()
            with watched_by_systemd(lambda: True):
                await self._have_ended.wait()


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def default_name() -> str:
    """Return what workers are named after that were given no name."""
    return f"{socket.gethostname()}-{os.getpid()}"


def listen(handle: Callable[[int], None]) -> None:
    """Have `handle` called with each signal that concerns the workers; the running loop does it.

    A signal that this process was started to ignore (SIGHUP by nohup) stays ignored.
    """
    for number in _HEARD:
        handle_signals([number], partial(handle, number))
