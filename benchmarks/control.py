"""Remote control: how long it takes to ask one worker, and fifty."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import Final

from .figures import Benchmark, Figure, Samples
from .processes import LONGEST, worker_running
from .tasks import app

_WORKERS: Final = 50
_ROUNDS: Final = 20


async def one(size: int) -> Samples:
    """Ask a worker that is a process of its own `size` times in a row who is there."""
    async with app, worker_running() as worker:
        await worker.ready()
        return {"round trip": [1000 * await _asked(1) for _ in range(size)]}


async def fifty(size: int) -> Samples:
    """Ask fifty workers of this process, `size` times, what they do."""
    async with app, AsyncExitStack() as stack:
        for number in range(_WORKERS):
            await stack.enter_async_context(app.worker(name=f"worker-{number}", concurrency=1))
        return {"until all have answered": [1000 * await _asked(_WORKERS) for _ in range(size)]}


async def _asked(count: int) -> float:
    """Return the seconds until `count` workers have answered."""
    began = time.perf_counter()
    answers = await app.control.inspect(timeout=LONGEST).active()
    took = time.perf_counter() - began
    if len(answers) != count:
        raise ValueError(f"{len(answers)} of {count} workers answered")
    return took


BENCHMARKS: Final = (
    Benchmark(
        "redis-control", "a command to one worker", "redis", one, 200, 20, (Figure("round trip", "ms", at_most=20),)
    ),
    Benchmark(
        "redis-control-fifty",
        f"inspect over {_WORKERS} workers",
        "redis",
        fifty,
        _ROUNDS,
        3,
        (Figure("until all have answered", "ms", at_most=1000),),
    ),
)
