"""Redis: what it costs a draining worker to keep an index of what finished, and to count what ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import msgpack

from aiotq.backends.redis.record_fields import packed_record
from aiotq.canvas.outcome import Policy, Success
from aiotq.commit import Finish
from aiotq.core.settings import Settings
from aiotq.results.index import IndexEntry
from aiotq.results.indexing import Indexing
from aiotq.results.records import Record
from aiotq.tasks.request import Request, running_request
from aiotq.transport import Delivery
from aiotq.wire.message import Message, new_id
from aiotq.worker.recent import RecentRuns

from .figures import Benchmark, Figure, Samples
from .measures import Drained, drained
from .tasks import noop
from .usage import server_cpu

_SETTING = "AIOTQ_RESULT_INDEX"
_MODES = ("none", "failures", "all")
#: Each mode has so many turns; the cheapest one counts, for neighbours on the machine only ever add to it.
_TURNS = 5
_REPEATED = 20_000
_TRIES = 7


async def index(size: int) -> Samples:
    """Drain `size` no-op tasks under each value of `result_index` in turn, and compare the CPU times of a task."""
    found: dict[str, list[Drained]] = {mode: [] for mode in _MODES}
    server: dict[str, list[float]] = {mode: [] for mode in _MODES}
    for turn in range(_TURNS):
        for mode in _MODES if turn % 2 == 0 else reversed(_MODES):
            os.environ[_SETTING] = mode  # the worker's: it is a process of its own
            before = server_cpu()
            found[mode].append(await drained(noop.s(), size))
            server[mode].append(1e6 * (server_cpu() - before) / size)
    del os.environ[_SETTING]
    cpu = {mode: min(each.worker_cpu for each in found[mode]) for mode in _MODES}
    counting, listing = _counting(), _listing()
    return {
        **{f"worker CPU, {mode}": [cpu[mode]] for mode in _MODES},
        **{f"server CPU, {mode}": [min(server[mode])] for mode in _MODES},
        "failures to none": [cpu["failures"] / cpu["none"]],
        "all to none": [cpu["all"] / cpu["none"]],
        "all to none, drain": [max(each.rate for each in found["none"]) / max(each.rate for each in found["all"])],
        "listing": [listing],
        "listing to a task": [listing / cpu["none"]],
        "counting": [counting],
        "counting to a task": [counting / cpu["none"]],
    }


def _spent(act: Callable[[], object]) -> float:
    """Return the microseconds of CPU that `act` takes."""
    best = float("inf")
    for _ in range(_TRIES):
        before = time.process_time()
        for _ in range(_REPEATED):
            act()
        best = min(best, 1e6 * (time.process_time() - before) / _REPEATED)
    return best


def _counting() -> float:
    """Return what counting the end of one run takes."""
    delivery = Delivery(_message(), "default", 4, 1, 0.0)
    run = cast("Any", SimpleNamespace(delivery=delivery, request=True, started_at=time.perf_counter()))
    outcome, finish = Success(delivery, None, Policy()), Finish(delivery)
    recent = RecentRuns(time.time)
    return _spent(lambda: recent.ended(run, outcome, finish)) - _spent(lambda: None)


def _listing() -> float:
    """Return what an entry adds to making a record with it, and packing both for Redis."""
    message, indexing = _message(), Indexing(Settings({"result_index": "all"}), "worker")
    slot = cast("Any", SimpleNamespace(seconds=0.01))
    runner = SimpleNamespace(parameters=("order", "to"))
    called: dict[str, Any] = {"args": (104_217, "anna@example.org"), "slot": slot, "runner": runner}
    running_request.set(Request(id=message.id, task=message.task, attempt=message.runs_before, **called))

    def packed(entry: IndexEntry | None) -> bytes:
        record = Record(message.id, "SUCCESS", b"4" * 100, "application/json", 2e9, entry=entry)
        return cast("bytes", msgpack.packb(packed_record(record)))

    listed = _spent(lambda: packed(indexing.entry(message, "default", "SUCCESS", None, 1e9)))
    return listed - _spent(lambda: packed(None))


def _message() -> Message:
    return Message(new_id(), "benchmarks.noop", b"", sent_at=time.time())


BENCHMARKS = (
    Benchmark(
        "redis-index",
        f"no-op tasks, drained {_TURNS} times with each value of result_index; and what counting an end takes",
        "redis",
        index,
        20_000,
        1000,
        (
            *(Figure(f"worker CPU, {mode}", "us/task") for mode in _MODES),
            *(Figure(f"server CPU, {mode}", "us/task") for mode in _MODES),
            Figure("failures to none", "x", at_most=1.01),
            Figure("all to none", "x", at_most=1.08),
            Figure("all to none, drain", "x"),
            Figure("listing", "us/task"),
            Figure("listing to a task", "x", at_most=0.08),
            Figure("counting", "us/task"),
            Figure("counting to a task", "x", at_most=0.01),
        ),
        once=True,
    ),
)
