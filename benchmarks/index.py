"""Redis: what it costs a draining worker to keep an index of what finished, and to count what ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from redis.asyncio import Redis

from aiotq.canvas.outcome import Policy, Success
from aiotq.commit import Finish
from aiotq.transport import Delivery
from aiotq.wire.message import Message, new_id
from aiotq.worker.recent import RecentRuns

from .figures import Benchmark, Figure, Samples
from .measures import Drained, drained
from .tasks import app, noop

_SETTING = "AIOTQ_RESULT_INDEX"
_MODES = ("none", "failures", "all")
#: Each mode has so many turns; the cheapest one counts, for neighbours on the machine only ever add to it.
_TURNS = 5
_COUNTED = 100_000


async def index(size: int) -> Samples:
    """Drain `size` no-op tasks under each value of `result_index` in turn, and compare the CPU times of a task."""
    found: dict[str, list[Drained]] = {mode: [] for mode in _MODES}
    server: dict[str, list[float]] = {mode: [] for mode in _MODES}
    for turn in range(_TURNS):
        for mode in _MODES if turn % 2 == 0 else reversed(_MODES):
            os.environ[_SETTING] = mode  # the worker's: it is a process of its own
            before = await _server_cpu()
            found[mode].append(await drained(noop.s(), size))
            server[mode].append(1e6 * (await _server_cpu() - before) / size)
    del os.environ[_SETTING]
    cpu = {mode: min(each.worker_cpu for each in found[mode]) for mode in _MODES}
    counting = _counting()
    return {
        **{f"worker CPU, {mode}": [cpu[mode]] for mode in _MODES},
        **{f"server CPU, {mode}": [min(server[mode])] for mode in _MODES},
        "failures to none": [cpu["failures"] / cpu["none"]],
        "all to none": [cpu["all"] / cpu["none"]],
        "all to none, drain": [max(each.rate for each in found["none"]) / max(each.rate for each in found["all"])],
        "counting": [counting],
        "counting to a task": [counting / cpu["none"]],
    }


def _counting() -> float:
    """Return the microseconds that counting the end of one run takes, less those of a loop that does nothing."""
    delivery = Delivery(Message(new_id(), "benchmarks.noop", b"", sent_at=time.time()), "default", 4, 1, 0.0)
    run = cast("Any", SimpleNamespace(delivery=delivery, request=True, started_at=time.perf_counter()))
    outcome, finish = Success(delivery, None, Policy()), Finish(delivery)
    recent = RecentRuns(time.time)

    def spent(act: Callable[[], object]) -> float:
        before = time.process_time()
        for _ in range(_COUNTED):
            act()
        return 1e6 * (time.process_time() - before) / _COUNTED

    best = min(spent(lambda: recent.ended(run, outcome, finish)) for _ in range(5))
    return best - min(spent(lambda: None) for _ in range(5))


async def _server_cpu() -> float:
    async with Redis.from_url(app.conf.broker_url) as redis:
        cpu = await redis.info("cpu")
    return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])


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
            Figure("counting", "us/task"),
            Figure("counting to a task", "x", at_most=0.01),
        ),
        once=True,
    ),
)
