"""Events: what a worker pays for telling them to a reader, on Redis, beside itself without one in the same run."""

from __future__ import annotations

from typing import Final

from .figures import Benchmark, Figure, Samples
from .measures import Drained, drained, throughput
from .tasks import noop

#: Each is measured so often in turn, and all of it counts: a slow second hits both.
_TURNS: Final = 3


async def beside_none(size: int) -> Samples:
    """Drain and send `size` tasks without a reader and with one, in turn.

    The reader is in this process and leaves unread what it is sent: to read is work of whoever looks on.
    """
    quiet: list[Drained] = []
    told: list[Drained] = []
    quiet_ends: list[float] = []
    told_ends: list[float] = []
    for turn in range(_TURNS):
        for has_reader in (False, True) if turn % 2 == 0 else (True, False):
            (told if has_reader else quiet).append(await drained(noop.s(), size, has_reader=has_reader))
            ends = await throughput(size // 2, has_reader=has_reader)
            (told_ends if has_reader else quiet_ends).extend(ends["end to end"])
    drains, told_drains = [1 / each.rate for each in quiet], [1 / each.rate for each in told]
    cpu, told_cpu = sum(each.worker_cpu for each in quiet), sum(each.worker_cpu for each in told)
    return {
        "drain without": [_TURNS / sum(drains)],
        "drain with events": [_TURNS / sum(told_drains)],
        "of the drain without": [100 * sum(drains) / sum(told_drains)],
        "end to end, of that without": [
            100 * sum(1 / each for each in quiet_ends) / sum(1 / each for each in told_ends)
        ],
        "worker CPU they add": [100 * (told_cpu / cpu - 1)],
    }


BENCHMARKS: Final = (
    Benchmark(
        "redis-events",
        "what events cost while somebody reads",
        "redis",
        beside_none,
        20_000,
        1_000,
        (
            Figure("drain without", "tasks/s"),
            Figure("drain with events", "tasks/s"),
            Figure("of the drain without", "%", at_least=90),
            Figure("end to end, of that without", "%", at_least=90),
            Figure("worker CPU they add", "%", at_most=10),
        ),
    ),
)
