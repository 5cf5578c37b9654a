"""SQLite, durable (fsync on): a client here, an `aiotq worker` in a process of its own, results stored and awaited."""

from __future__ import annotations

from .figures import Benchmark, Figure
from .measures import CLIENT_CPU, WORKER_CPU, gathered, round_trip, send_and_drain, throughput

BENCHMARKS = (
    Benchmark(
        "sqlite-roundtrip",
        "one call after the other, each result awaited",
        "sqlite",
        round_trip,
        1000,
        100,
        (Figure("round trip, p50", "ms", at_most=5), Figure("round trip, p99", "ms"), CLIENT_CPU, WORKER_CPU),
    ),
    Benchmark(
        "sqlite-throughput",
        "no-op tasks, send_many, all results awaited",
        "sqlite",
        throughput,
        20_000,
        1000,
        (Figure("end to end", "tasks/s", at_least=6000), Figure("sending took", "% of it"), CLIENT_CPU, WORKER_CPU),
    ),
    Benchmark(
        "sqlite-gather",
        "no-op tasks, gather(delay()), gather(result)",
        "sqlite",
        gathered,
        20_000,
        1000,
        (Figure("end to end", "tasks/s"), CLIENT_CPU, WORKER_CPU),
    ),
    Benchmark(
        "sqlite-drain",
        "sent while no worker runs, then drained",
        "sqlite",
        send_and_drain,
        20_000,
        1000,
        (Figure("send only", "tasks/s"), CLIENT_CPU, Figure("drain", "tasks/s"), WORKER_CPU),
    ),
)
