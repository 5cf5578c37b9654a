"""Workers in processes of their own, as a user starts them."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar

from . import usage
from .figures import BenchmarkError
from .tasks import app, noop

T = TypeVar("T")

WORKER: Final = (sys.executable, "-m", "aiotq", "worker", "benchmarks.tasks:app", "--no-banner", "-l", "WARNING")
#: Seconds until a worker that was started or asked to stop counts as broken.
PATIENCE: Final = 30.0
#: Seconds that any one measurement may take.
LONGEST: Final = 300.0


class WorkerProcess:
    """A running `aiotq worker`; its figures are those of the process and all its descendants."""

    def __init__(self, process: asyncio.subprocess.Process, spawned_at: float) -> None:
        self._process = process
        self.spawned_at = spawned_at  #: wall time just before it was started

    async def unless_it_ends(self, work: Coroutine[Any, Any, T], timeout: float = LONGEST) -> T:
        """Return what `work` returns.

        Raises:
            BenchmarkError: the worker ended before `work` did, or `work` took longer than `timeout` seconds.
        """
        async with asyncio.TaskGroup() as group:
            working = group.create_task(work)
            ending = group.create_task(self._process.wait())
            await asyncio.wait({working, ending}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            is_done = working.done()
            working.cancel()
            ending.cancel()
        if not is_done:
            code = self._process.returncode
            raise BenchmarkError(
                f"not done within {timeout:g} s" if code is None else f"the worker ended meanwhile (exit code {code})"
            )
        return working.result()

    async def ready(self) -> None:
        """Return when the worker has run a task."""

        async def run_one() -> None:
            await (await noop.delay())

        await self.unless_it_ends(run_one(), PATIENCE)

    def cpu(self) -> float:
        """Return the seconds of CPU used so far."""
        return usage.cpu(self._process.pid)

    def used(self) -> usage.Used:
        """Return what this process, the worker and the servers have used so far."""
        return usage.Used.by_now(self._process.pid)

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def memory_of_root(self) -> float:
        """Return the resident memory in bytes, of those below it nothing."""
        return usage.memory_of_one(self._process.pid)

    def memory(self) -> float:
        """Return the resident memory in bytes."""
        return usage.memory(self._process.pid)


@asynccontextmanager
async def worker_running(*more_words: str) -> AsyncIterator[WorkerProcess]:
    """Run a worker with the default settings; it is started when this is entered and has ended when this is left."""
    spawned_at = time.time()
    process = await asyncio.create_subprocess_exec(*WORKER, *more_words, stdin=asyncio.subprocess.DEVNULL)
    try:
        yield WorkerProcess(process, spawned_at)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(PATIENCE):
                await process.wait()
        finally:
            with suppress(ProcessLookupError):
                process.kill()


async def run_program(*command: str, environment: Mapping[str, str] | None = None) -> None:
    """Run another Python program of ours to its end.

    Raises:
        BenchmarkError: it failed.
        TimeoutError: it took too long, and was ended.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, env=environment, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(LONGEST):
            code = await process.wait()
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
    if code != 0:
        raise BenchmarkError(f"{' '.join(command)} failed (exit code {code})")


@asynccontextmanager
async def client_and_worker() -> AsyncIterator[WorkerProcess]:
    """Connect this process, and run a worker which has run its first task already."""
    async with app, worker_running() as worker:
        await worker.ready()
        yield worker
