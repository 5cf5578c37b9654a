"""Workers in processes of their own, as a user starts them, and what a process has used so far."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from .figures import BenchmarkError
from .tasks import app, noop

T = TypeVar("T")

WORKER: Final = (sys.executable, "-m", "aiotq", "worker", "benchmarks.tasks:app", "--no-banner", "-l", "WARNING")
#: Seconds until a worker that was started or asked to stop counts as broken.
_PATIENCE: Final = 30.0
#: Seconds that any one measurement may take.
LONGEST: Final = 300.0
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
#: One megabyte, as the targets mean it.
MEGABYTE: Final = 1_000_000


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

        await self.unless_it_ends(run_one(), _PATIENCE)

    def cpu(self) -> float:
        """Return the seconds of CPU used so far."""
        return sum(_cpu(pid) for pid in _tree(self._process.pid))

    def memory(self) -> float:
        """Return the resident memory in bytes."""
        return sum(_memory(pid) for pid in _tree(self._process.pid))


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
            async with asyncio.timeout(_PATIENCE):
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


def own_cpu() -> float:
    """Return the seconds of CPU that this process has used, its children left out."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _tree(root: int) -> list[int]:
    """Return `root` and the processes it started, and those they started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            parents.setdefault(int(_fields(entry)[1]), []).append(int(entry.parent.name))
    found = [root]
    for pid in found:
        found += parents.get(pid, ())
    return found


def _cpu(pid: int) -> float:
    fields = _fields(Path(f"/proc/{pid}/stat"))
    return (int(fields[11]) + int(fields[12])) * _TICK


def _memory(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def _fields(stat: Path) -> list[str]:
    """Return what stands behind the name in a `/proc/PID/stat` (the name may have blanks and brackets in it)."""
    return stat.read_text().rpartition(")")[2].split()
