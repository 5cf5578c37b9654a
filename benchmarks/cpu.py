"""CPU-bound tasks in child processes: on one core and on all, and how large values cross between processes."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from aiotq.worker.processes.child_process import ProcessCall
from aiotq.worker.processes.pool import ProcessPool

from . import usage
from .figures import Benchmark, Figure, Samples
from .processes import LONGEST, worker_running
from .tasks import app, compute
from .usage import MEGABYTE

#: Seconds of CPU that a task takes.
_SHORT: Final = 0.001
#: Tasks that run before the clock does, for each child: it has started and has imported all.
_WARM_UP: Final = 50
#: Bytes of a large value.
_LARGE: Final = 64 * 1024 * 1024


async def cores(size: int) -> Samples:
    """Let a worker run tasks of 1 ms of CPU on one core, and then `size` on all of them, as many children as cores."""
    there = sorted(os.sched_getaffinity(0))
    one = await _computed(size // len(there), there[:1])
    every = await _computed(size, there)
    samples: dict[str, list[float]] = {"cores": [len(there)]}
    for name, found in (("one", one), ("all", every)):
        samples |= {f"{figure}, {name}": [value] for figure, value in found.items()}
    ratio = every["tasks"] / one["tasks"]
    return {**samples, "of N times one core": [ratio / len(there)]}


async def _computed(size: int, on: list[int]) -> Mapping[str, float]:
    """Return tasks a second of a worker that has these cores, and microseconds of CPU a task of all that had a part."""
    with _pinned(on):
        async with app, worker_running("--cpu-processes", str(len(on))) as worker:
            warm = await app.send_many(compute.s(_SHORT) for _ in range(_WARM_UP * len(on)))
            await worker.unless_it_ends(warm.get(timeout=LONGEST))
            before = worker.used()
            results = await app.send_many(compute.s(_SHORT) for _ in range(size))
            found = await worker.unless_it_ends(results.get(timeout=LONGEST))
            used_up = worker.used() - before
    took = max(ended for _, ended, _, _ in found) - min(began for began, _, _, _ in found)
    shares = Counter(pid for _, _, pid, _ in found)
    in_children = 0.0
    for pid in shares:
        used = sorted(used for _, _, by, used in found if by == pid)
        in_children += used[-1] - used[0]
    in_tasks = size * _SHORT
    return {
        "tasks": size / took,
        "children": 1e6 * (in_children - in_tasks) / size,
        "worker": 1e6 * (used_up.worker - in_children) / size,
        "server": 1e6 * used_up.servers / size,
        "client": 1e6 * used_up.client / size,
    }


@contextmanager
def _pinned(cores: list[int]) -> Iterator[None]:
    """Have what is started here run on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


async def large(times: int) -> Samples:
    """Pass 64 MB from a child to its parent, and back, `times` times; see how much memory both have meanwhile."""
    samples: dict[str, list[float]] = {}
    async with ProcessPool(1) as pool:
        pid = await pool.run(ProcessCall("os", "getpid", (), {}))
        for _ in range(times):
            made = ProcessCall("benchmarks.tasks", "many_bytes.fn", (_LARGE,), {})
            given = b"x" * _LARGE
            for name, call in (("result", made), ("argument", ProcessCall("builtins", "len", (given,), {}))):
                with _Peaks({"parent": os.getpid(), "child": pid}) as peaks:
                    began = time.perf_counter()
                    await pool.run(call)
                    took = time.perf_counter() - began
                samples.setdefault(f"{name} took", []).append(1e3 * took)
                for side, more in peaks.more().items():
                    samples.setdefault(f"{name}, {side}", []).append(more / MEGABYTE)
            del given
    return {name: [statistics.median(values)] for name, values in samples.items()}


class _Peaks:
    """How much memory some processes have at most while this is entered, beyond what they had before."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._before = {name: usage.memory_of_one(pid) for name, pid in pids.items()}
        self._most = dict(self._before)
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch)

    def more(self) -> Mapping[str, float]:
        return {name: most - self._before[name] for name, most in self._most.items()}

    def _watch(self) -> None:
        while not self._over.wait(0.0005):
            for name, pid in self._pids.items():
                self._most[name] = max(self._most[name], usage.memory_of_one(pid))

    def __enter__(self) -> _Peaks:
        self._watching.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._watching.join()


BENCHMARKS = (
    Benchmark(
        "cpu-cores",
        "tasks of 1 ms of CPU, by a worker on one core and by one on all",
        "redis",
        cores,
        6_000,
        1_000,
        (
            Figure("cores", ""),
            *(
                Figure(f"{figure}, {name}", unit)
                for name in ("one", "all")
                for figure, unit in (
                    ("tasks", "tasks/s"),
                    ("children", "us/task"),
                    ("worker", "us/task"),
                    ("server", "us/task"),
                    ("client", "us/task"),
                )
            ),
            Figure("of N times one core", "x", at_least=0.9),
        ),
    ),
    Benchmark(
        "cpu-large",
        "times that 64 MB cross to the parent, and to the child",
        "none",
        large,
        10,
        2,
        tuple(
            Figure(f"{name}{figure}", unit, at_most=most)
            for name in ("result", "argument")
            for figure, unit, most in ((" took", "ms", None), (", parent", "MB", 75), (", child", "MB", 75))
        ),
    ),
)
