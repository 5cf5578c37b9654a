"""PostgreSQL, durable (fsync on): a client here, an `aiotq worker` in a process of its own, results stored."""

from __future__ import annotations

from .figures import Benchmark, Figure
from .measures import ALL_CPU, gathered, round_trip, send_and_drain, throughput

BENCHMARKS = (
    Benchmark(
        "postgres-roundtrip",
        "one call after the other, each result awaited",
        "postgres",
        round_trip,
        1000,
        100,
        (
            Figure("round trip, p50", "ms", at_most=3),
            Figure("round trip, p99", "ms", at_most=6),
            *ALL_CPU,
        ),
    ),
    Benchmark(
        "postgres-throughput",
        "no-op tasks, send_many, all results awaited",
        "postgres",
        throughput,
        20_000,
        1000,
        (Figure("end to end", "tasks/s"), Figure("sending took", "% of it"), *ALL_CPU),
    ),
    Benchmark(
        "postgres-gather",
        "no-op tasks, gather(delay()), gather(result)",
        "postgres",
        gathered,
        20_000,
        1000,
        (Figure("end to end", "tasks/s"), *ALL_CPU),
    ),
    Benchmark(
        "postgres-drain",
        "sent while no worker runs, then drained",
        "postgres",
        send_and_drain,
        20_000,
        1000,
        (
            Figure("send only", "tasks/s", at_least=30_000),
            Figure("drain", "tasks/s", at_least=12_000),
            *ALL_CPU,
        ),
    ),
)
