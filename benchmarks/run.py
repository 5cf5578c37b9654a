"""Runs one benchmark once, in this process: `python -m benchmarks.run NAME SIZE FILE` writes its samples to FILE.

`--uvloop` runs it on uvloop's event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from . import (
    canvas,
    control,
    cpu,
    dashboard,
    events,
    fleet,
    imports,
    index,
    limits,
    memory,
    postgres,
    rabbitmq,
    redis,
    sqlite,
    watched,
    worker,
)
from .figures import Benchmark, BenchmarkError, Samples

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for group in (
        *(
            sqlite,
            redis,
            index,
            rabbitmq,
            postgres,
            canvas,
            limits,
            control,
            dashboard,
            events,
            watched,
            worker,
            memory,
            fleet,
            cpu,
        ),
        imports,
    )
    for benchmark in group.BENCHMARKS
}
#: Seconds after which a benchmark counts as stuck; filling in a million delayed tasks is what takes longest.
_DEADLINE = 1800.0


async def run(name: str, size: int) -> Samples:
    """Run one benchmark within the deadline."""
    async with asyncio.timeout(_DEADLINE):
        return await BENCHMARKS[name].measure(size)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run")
    parser.add_argument("name")
    parser.add_argument("size", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if options.uvloop:
        import uvloop  # noqa: PLC0415  # an extra, for one benchmark

        loop_factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            samples = runner.run(run(options.name, options.size))
    except* BenchmarkError as failed:
        raise SystemExit(f"{options.name}: {failed.exceptions[0]}") from None
    options.file.write_text(json.dumps(samples))


if __name__ == "__main__":
    main()
