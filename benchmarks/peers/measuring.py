"""What is asked of each system, and how it is timed; imports nothing that only one of the environments has.

A system's script calls `measure`; it is started as `python -m benchmarks.peers.NAME_peer WORKLOAD SIZE FILE`, with the
URLs of its servers in the environment, and writes what it measured to FILE.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar

from benchmarks import usage

T = TypeVar("T")
#: Wall time and the worker's CPU time, as a task of it tells them.
Stamp = tuple[float, float]
Workload = Literal["plain", "chains", "chords", "drain"]

BROKER: Final = os.environ.get("PEERS_BROKER", "")
RESULTS: Final = os.environ.get("PEERS_RESULTS", "")
#: Workflows that are under way at the same time.
CHAINS_IN_FLIGHT: Final = 100
CHORDS_IN_FLIGHT: Final = 40
STEPS: Final = 5
MEMBERS: Final = 100
#: Tasks that run at the same time in a worker which runs coroutines.
CONCURRENCY: Final = 100
#: Seconds that results are kept, and that one of them may take.
EXPIRES: Final = 86_400
LONGEST: Final = 300


class System(Protocol):
    """A task queue: the words that start its worker, and what its client can do, all results awaited."""

    @property
    def worker(self) -> Sequence[str]: ...

    def plain(self, count: int) -> None:
        """Run so many no-op tasks, sent in the fastest way there is for many."""
        ...

    def chains(self, count: int) -> None:
        """Run so many chains of `STEPS` tasks, `CHAINS_IN_FLIGHT` at a time."""
        ...

    def chords(self, count: int) -> None:
        """Sum the values of `MEMBERS` tasks so many times, `CHORDS_IN_FLIGHT` at a time."""
        ...

    def preload(self, count: int) -> None:
        """Send a task that returns a stamp, so many no-op ones, and one more that returns a stamp."""
        ...

    def stamps(self) -> tuple[Stamp, Stamp]:
        """Return the two stamps when they are there."""
        ...


def measure(system: System) -> None:
    """Do what the command line says."""
    workload, size, file = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    if workload == "drain":
        found = _drained(system, size)
    else:
        found = _end_to_end(
            system, {"plain": system.plain, "chains": system.chains, "chords": system.chords}[workload], size
        )
    file.write_text(json.dumps(found))


def _end_to_end(system: System, run: Callable[[int], None], size: int) -> dict[str, float]:
    with _running(system.worker) as pid:
        system.plain(50)
        run(3)
        cpu, worker_cpu, began = usage.own_cpu(), usage.cpu(pid), time.perf_counter()
        run(size)
        took = time.perf_counter() - began
        return {
            "rate": size / took,
            "client CPU": 1e6 * (usage.own_cpu() - cpu) / size,
            "worker CPU": 1e6 * (usage.cpu(pid) - worker_cpu) / size,
        }


def _drained(system: System, size: int) -> dict[str, float]:
    cpu = usage.own_cpu()
    system.preload(size)
    cpu = usage.own_cpu() - cpu
    with _running(system.worker):
        (began, before), (ended, after) = system.stamps()
    return {
        "rate": size / (ended - began),
        "client CPU": 1e6 * cpu / size,
        "worker CPU": 1e6 * (after - before) / size,
    }


@contextmanager
def _running(words: Sequence[str]) -> Iterator[int]:
    """Run a worker in a process of its own, which writes what it says to FILE.log; yield its pid."""
    with Path(f"{sys.argv[3]}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    is_over = threading.Event()

    def watch() -> None:
        code = process.wait()
        if not is_over.is_set():
            print(f"the worker ended meanwhile (exit code {code})", file=sys.stderr, flush=True)
            os._exit(1)  # the client would wait for results for ever

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield process.pid
    finally:
        is_over.set()
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            usage.kill(process.pid)


def windowed(count: int, most: int, send: Callable[[], T], wait: Callable[[T], object]) -> None:
    """Send so many, at most `most` of them ahead of the oldest that is waited for: for clients without a loop."""
    sent: deque[T] = deque()
    for _ in range(count):
        if len(sent) == most:
            wait(sent.popleft())
        sent.append(send())
    while sent:
        wait(sent.popleft())


def expect(value: object, wanted: object) -> None:
    if value != wanted:
        raise SystemExit(f"a workflow came to {value!r} instead of {wanted!r}")
