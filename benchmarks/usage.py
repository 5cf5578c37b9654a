"""What processes have used so far: CPU and memory, from `/proc`."""

from __future__ import annotations

import os
import resource
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
#: One megabyte, as the targets mean it.
MEGABYTE: Final = 1_000_000
#: Names the process ids of the servers of a run, with blanks between them.
SERVERS: Final = "BENCHMARK_SERVERS"


def own_cpu() -> float:
    """Return the seconds of CPU that this process has used, its children left out."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cpu(root: int) -> float:
    """Return the seconds of CPU that a process and all its descendants have used so far."""
    return sum(_cpu(pid) for pid in _tree(root))


def server_cpu() -> float:
    """Return the seconds of CPU that the servers of this run have used so far; 0 where there are none."""
    return sum(cpu(int(pid)) for pid in os.environ.get(SERVERS, "").split())


@dataclass(frozen=True, slots=True)
class Used:
    """Seconds that passed, and seconds of CPU that were used in this process, in the worker's, in the servers'."""

    seconds: float
    client: float
    worker: float
    servers: float

    @classmethod
    def by_now(cls, worker: int) -> Self:
        """Return what was used so far; `worker` is a process id."""
        return cls(time.perf_counter(), own_cpu(), cpu(worker), server_cpu())

    @property
    def cpu(self) -> float:
        """Of all together."""
        return self.client + self.worker + self.servers

    def __sub__(self, before: Used) -> Used:
        return Used(
            self.seconds - before.seconds,
            self.client - before.client,
            self.worker - before.worker,
            self.servers - before.servers,
        )


def memory(root: int) -> float:
    """Return the resident memory of a process and all its descendants, in bytes."""
    return sum(_memory(pid) for pid in _tree(root))


def memory_of_one(pid: int) -> float:
    """Return the resident memory of a process, in bytes."""
    return _memory(pid)


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


def kill(root: int) -> None:
    """Kill a process and all its descendants."""
    for pid in reversed(_tree(root)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
