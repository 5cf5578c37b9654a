"""Several worker processes under a small parent, which starts them, passes signals on, and replaces those that die."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from .worker_process import READY

logger = logging.getLogger("aiotq.workers")

#: Seconds before a dead worker is replaced, doubled up to the longest for one that keeps dying.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0
#: Seconds of life after which a worker's earlier deaths are forgiven.
_FORGIVEN_AFTER: Final = 60.0


#: Signals that stop the workers, and those that are theirs to answer.
STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PASSED_ON: Final = (signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True, slots=True)
class ChildCommand:
    """What a worker is started with: `aiotq worker WORDS`, and what only its environment tells it."""

    app: str
    words: Sequence[str]
    environment: Mapping[str, str]


class Supervisor:
    """Runs `count` workers as `child` says, named after `name`, until it is stopped."""

    def __init__(self, child: ChildCommand, *, name: str, count: int) -> None:
        self._child = child
        self._name = name
        self._count = count
        self._running: dict[int, Process] = {}
        self._stopping = asyncio.Event()
        self._failed = False

    async def run(self) -> bool:
        """Return when all workers have ended, stopped by a signal or not; whether all is well."""
        listen(self.pass_on)
        return await self.keep()

    async def keep(self) -> bool:
        """As `run`, without a hand on this process's signals."""
        async with asyncio.TaskGroup() as group:
            for seat in range(1, self._count + 1):
                group.create_task(self._keep(seat), name=f"aiotq.workers.{seat}")
        return not self._failed

    def pass_on(self, number: int) -> None:
        """Give a signal to every worker; all but those that only ask something end this as well."""
        logger.warning("%s: passed on to %d workers", signal.Signals(number).name, len(self._running))
        if number in _PASSED_ON:
            self._send(number)
        else:
            self.stop()

    def stop(self) -> None:
        """Ask every worker for a clean stop; asked again, they hand back what still runs."""
        self._stopping.set()
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for process in self._running.values():
            _send(process, number)

    async def _keep(self, seat: int) -> None:
        """Have one worker run in this seat, and another one when it dies."""
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        life = 0
        was_ready = False
        while not self._stopping.is_set():
            life += 1
            began = loop.time()
            name = f"{self._name}-{seat}" if life == 1 else f"{self._name}-{seat}.{life}"
            process, is_ready = await self._live(seat, name, show_banner=seat == life == 1)
            was_ready = was_ready or is_ready
            code = process.returncode
            if code == 0 or (self._stopping.is_set() and not is_ready):
                return
            how = _how_it_ended(code)
            if self._stopping.is_set():
                logger.error("worker %s (pid %d) %s", name, process.pid, how)
                self._failed = True
                return
            if not was_ready:
                logger.error("worker %s %s before it was ready: stopping", name, how)
                self._failed = True
                self.stop()
                return
            if loop.time() - began > _FORGIVEN_AFTER:
                pause = _FIRST_PAUSE
            logger.error("worker %s (pid %d) %s; starting another in %g s", name, process.pid, how, pause)
            await self._pause(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _live(self, seat: int, name: str, *, show_banner: bool) -> tuple[Process, bool]:
        """Start a worker and wait for its end; also return whether it ever was ready."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "aiotq", "worker", *self._child.words, "--name", name),
                    *("--parent-fd", str(theirs.fileno()), "--banner" if show_banner else "--no-banner"),
                    env={**os.environ, **self._child.environment},
                    pass_fds=(theirs.fileno(),),
                    process_group=0,  # Ctrl-C in a terminal reaches the parent only, which passes it on once
                )
            self._running[seat] = process
            if self._stopping.is_set():
                _send(process, signal.SIGTERM)
            ours.setblocking(False)
            is_ready = await asyncio.get_running_loop().sock_recv(ours, 1) == READY
            await process.wait()
            del self._running[seat]
        return process, is_ready

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def run_fleet(child: ChildCommand, *, name: str | None, count: int) -> bool:
    """Run `count` worker processes until a signal stops them; whether all is well."""

    async def run() -> bool:
        return await Supervisor(child, name=name or default_name(), count=count).run()

    return asyncio.run(run())


def default_name() -> str:
    """Return what workers are named after that were given no name."""
    return f"{socket.gethostname()}-{os.getpid()}"


def listen(handle: Callable[[int], None]) -> None:
    """Have `handle` called with each signal that concerns the workers; the running loop does it.

    A signal that this process was started to ignore (SIGHUP by nohup) stays ignored.
    """
    loop = asyncio.get_running_loop()
    for number in (*STOPPING, *_PASSED_ON):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, handle, number)


def _send(process: Process, number: int) -> None:
    # Not `process.send_signal()`: that reaps a process which just ended, and asyncio never learns its exit code.
    with suppress(ProcessLookupError):
        if process.returncode is None:
            os.kill(process.pid, number)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        known = -code in {each.value for each in signal.Signals}
        return f"was killed by {signal.Signals(-code).name if known else f'signal {-code}'}"
    return f"ended with exit code {code}"
