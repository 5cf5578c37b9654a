"""Runs one benchmark once, in this process: `python -m benchmarks.run NAME SIZE FILE` writes its samples to FILE."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from . import imports, memory, sqlite, worker
from .figures import Benchmark, BenchmarkError, Samples

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for group in (sqlite, worker, memory, imports) for benchmark in group.BENCHMARKS
}
#: Seconds after which a benchmark counts as stuck; filling in a million delayed tasks is what takes longest.
_DEADLINE = 1800.0


async def run(name: str, size: int) -> Samples:
    """Run one benchmark within the deadline."""
    async with asyncio.timeout(_DEADLINE):
        return await BENCHMARKS[name].measure(size)


if __name__ == "__main__":
    name, size, file = sys.argv[1:]
    try:
        samples = asyncio.run(run(name, int(size)))
    except* BenchmarkError as failed:
        sys.exit(f"{name}: {failed.exceptions[0]}")
    Path(file).write_text(json.dumps(samples))
