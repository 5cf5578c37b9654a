"""One worker of several: a process, and another one when it dies, has done its share, or is to run newer code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from .line import ANOTHER, DONE, READY, Load
from .reports import Place, Reports

logger = logging.getLogger("aiotq.workers")

#: Seconds before a dead worker is replaced, doubled up to the longest for one that keeps dying.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 30.0
#: Seconds of life after which a worker's earlier deaths are forgiven.
_FORGIVEN_AFTER: Final = 60.0
#: Seconds from being ready within which a worker dies at once, and how often in a row one may do so.
_AT_ONCE: Final = 5.0
_MOST_AT_ONCE: Final = 5


@dataclass(frozen=True, slots=True)
class ChildCommand:
    """What a worker is started with: `aiotq worker WORDS`, and what only its environment tells it."""

    app: str
    words: Sequence[str]
    environment: Mapping[str, str]
    banner: bool = True  #: whether the first one says what it does
    logfile: str | None = None  #: with %i for the number of the worker; None: the parent's

    def words_of(self, number: int) -> list[str]:
        """Return the words for the worker of that number."""
        if self.logfile is None:
            return list(self.words)
        path = self.logfile.replace("%i", str(number)).replace("%I", f"-{number}")
        return [*self.words, "--logfile", path.replace("%%", "%")]


@dataclass(slots=True)
class _Life:
    """One process of a worker. `ready` and `over` are set when it says so, and when it has ended."""

    name: str
    process: Process
    began: float  #: when it became ready, or was started
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    load: Load | None = None  #: as it told last
    wants_another: bool = False  #: it has done its share, and ends so that another one goes on
    is_done: bool = False  #: it has done all there was

    @property
    def was_ready(self) -> bool:
        return self.ready.is_set()

    @property
    def how_it_ended(self) -> str:
        code = self.process.returncode
        if code is not None and code < 0:
            known = -code in {each.value for each in signal.Signals}
            return f"was killed by {signal.Signals(-code).name if known else f'signal {-code}'}"
        return f"ended with exit code {code}"

    def send(self, number: int) -> None:
        # Not `process.send_signal()`: that reaps a process which just ended, and asyncio never learns its exit code.
        with suppress(ProcessLookupError):
            if self.process.returncode is None:
                os.kill(self.process.pid, number)


class KeptWorker:
    """Keeps one worker running; `fail` is called when there is no sense in trying again."""

    def __init__(
        self,
        child: ChildCommand,
        name: str,
        *,
        number: int,
        fail: Callable[[], None],
        reports: Reports | None = None,
    ) -> None:
        self._child = child
        self._words = child.words_of(number)
        self._name = name
        self._reports = reports
        self._shows_banner = child.banner and number == 1
        self._fail = fail
        self._lives = 0
        self._life: _Life | None = None
        self._has_begun = asyncio.Event()
        self._renewal_wanted = asyncio.Event()
        self._renewal: asyncio.Future[bool] | None = None
        self._is_over = False
        self._stopping = asyncio.Event()
        self._has_been_ready = False
        self.has_failed = False

    @property
    def is_ready(self) -> bool:
        """Whether a process of it runs tasks."""
        return self._life is not None and self._life.was_ready and not self._life.over.is_set()

    @property
    def place(self) -> Place:
        """Its name, and which process does its work."""
        life = self._life
        return Place(self._name, None if life is None or life.over.is_set() else life.name)

    @property
    def load(self) -> Load | None:
        """How loaded its process is, as far as that has told."""
        return None if self._life is None or self._life.over.is_set() else self._life.load

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopping.is_set()

    async def ready(self) -> None:
        """Return when a process of it runs tasks, or none ever will."""
        await self._has_begun.wait()
        assert self._life is not None
        await _first(self._life.ready.wait(), self._life.over.wait())

    def send(self, number: int) -> None:
        """Send a signal to its process."""
        if self._life is not None:
            self._life.send(number)

    def stop(self) -> None:
        """Ask for a clean stop; asked again, it hands back what still runs."""
        self._stopping.set()
        self.send(signal.SIGTERM)

    async def run(self) -> None:
        """Keep it running until it is stopped, or fails."""
        try:
            async with asyncio.TaskGroup() as self._group:
                await self._keep()
        finally:
            self._is_over = True
            self._answer_renewal(False)

    async def _keep(self) -> None:
        pause, at_once = _FIRST_PAUSE, 0
        self._life = await self._begin()
        self._has_begun.set()
        while True:
            life = self._life
            await _first(life.over.wait(), self._renewal_wanted.wait())
            if self._renewal_wanted.is_set() and not self._stopping.is_set():
                self._life = await self._renewed(life)
                self._answer_renewal(self._life is not life)
                continue
            await life.over.wait()
            self._has_been_ready = self._has_been_ready or life.was_ready
            if self._is_done(life):
                return
            if life.wants_another:
                logger.info("worker %s has done its share; starting another", life.name)
            else:
                lived = asyncio.get_running_loop().time() - life.began if life.was_ready else 0.0
                at_once = at_once + 1 if lived < _AT_ONCE else 0
                if at_once >= _MOST_AT_ONCE:
                    logger.error("worker %s %s, as the last %d did at once", life.name, life.how_it_ended, at_once)
                    self._give_up()
                    return
                pause = _FIRST_PAUSE if lived > _FORGIVEN_AFTER else pause
                logger.error(
                    *("worker %s (pid %d) %s; starting another in %g s", life.name, life.process.pid),
                    *(life.how_it_ended, pause),
                )
                await self._pause(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            if self._stopping.is_set():
                return
            self._life = await self._begin()

    def _is_done(self, life: _Life) -> bool:
        """Whether nothing follows a process that has ended."""
        code = life.process.returncode
        if life.is_done:
            self.has_failed = code != 0
            return True
        if self._stopping.is_set() and (code == 0 or not life.was_ready):
            return True
        if code == 0 and not life.wants_another:
            return True  # somebody stopped it by itself
        if self._stopping.is_set() and not life.wants_another:
            logger.error("worker %s (pid %d) %s", life.name, life.process.pid, life.how_it_ended)
            self.has_failed = True
            return True
        if not self._has_been_ready:
            logger.error("worker %s %s before it was ready: stopping", life.name, life.how_it_ended)
            self._give_up()
            return True
        return False

    async def renew(self) -> bool:
        """Start another process, and stop the present one when that runs; return whether it does.

        One that does not get ready leaves the present one as it is.
        """
        if self._is_over or self._stopping.is_set():
            return False
        self._renewal = asyncio.get_running_loop().create_future()
        self._renewal_wanted.set()
        return await self._renewal

    def _answer_renewal(self, is_renewed: bool) -> None:
        self._renewal_wanted.clear()
        if self._renewal is not None and not self._renewal.done():
            self._renewal.set_result(is_renewed)

    async def _renewed(self, old: _Life) -> _Life:
        """Return the process that goes on: another one when it is ready, else `old`."""
        new = await self._begin()
        await _first(new.ready.wait(), new.over.wait(), self._stopping.wait())
        if new.was_ready and not new.over.is_set() and not self._stopping.is_set():
            self._life = new  # a stop means this one from now on
            old.send(signal.SIGTERM)
            await old.over.wait()
            return new
        if not self._stopping.is_set():
            logger.error("worker %s %s before it was ready: %s goes on", new.name, new.how_it_ended, old.name)
        new.send(signal.SIGTERM)
        await new.over.wait()
        return old

    def _give_up(self) -> None:
        self.has_failed = True
        self._fail()

    async def _begin(self) -> _Life:
        """Start a process."""
        self._lives += 1
        name = self._name if self._lives == 1 else f"{self._name}.{self._lives}"
        banner = "--banner" if self._shows_banner and self._lives == 1 else "--no-banner"
        lines = {"--parent-fd": socket.socketpair()}
        if self._reports is not None:
            lines["--health-fd"] = socket.socketpair()
        theirs = {option: other.fileno() for option, (_, other) in lines.items()}
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "aiotq", "worker", *self._words, "--name", name, banner),
                *(word for option, fd in theirs.items() for word in (option, str(fd))),
                # It is this process that systemd knows.
                env={**os.environ, "NOTIFY_SOCKET": "", **self._child.environment},
                pass_fds=tuple(theirs.values()),
                process_group=0,  # Ctrl-C in a terminal reaches the parent only, which passes it on once
            )
        finally:
            for _, other in lines.values():
                other.close()
        life = _Life(name, process, asyncio.get_running_loop().time())
        if self._stopping.is_set():
            life.send(signal.SIGTERM)
        self._group.create_task(self._watch(life, lines["--parent-fd"][0]), name=f"aiotq.workers.{name}")
        if self._reports is not None:
            self._group.create_task(
                self._reports.follow(name, lines["--health-fd"][0]), name=f"aiotq.workers.health.{name}"
            )
        return life

    async def _watch(self, life: _Life, ours: socket.socket) -> None:
        """Hear what a process says, until it ends."""
        loop = asyncio.get_running_loop()
        with ours:
            ours.setblocking(False)
            while said := await loop.sock_recv(ours, 1):
                if said == READY:
                    life.began = loop.time()
                    life.ready.set()
                elif said == ANOTHER:
                    life.wants_another = True
                elif said == DONE:
                    life.is_done = True
                else:
                    life.load = Load(said)
            await life.process.wait()
        life.over.set()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Return when the first of `waits` does."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
