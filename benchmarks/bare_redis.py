"""What redis-py alone can do: the yardstick of the Redis figures, as fast as a short script can reasonably be.

A stream with a consumer group, messages and results like ours, results stored with an expiry, an asyncio task for each
message. Left out is what makes a task queue: leases, retries, limits, delays, priorities, errors, telling anybody.
`python -m benchmarks.bare_redis URL batched COUNT TOTAL` (or `one-by-one`) is its worker, which runs COUNT at a time.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from redis.asyncio import Redis

from .processes import run_program

_STREAM: Final = "bare"
_GROUP: Final = "bare"
#: XADDs in one pipeline.
_SENT_AT_ONCE: Final = 500
#: Seconds that a result is kept, as ours are by default.
EXPIRES: Final = 86_400
#: Milliseconds that one read waits.
_BLOCK: Final = 1000
_ORIGIN: Final = f"{os.getpid()}@host"

Entry = tuple[bytes, dict[bytes, bytes]]


async def noop() -> None:
    """Do nothing."""


async def stamp() -> tuple[float, float]:
    """Return the wall time at which it ran, and the seconds of CPU that its worker had used by then."""
    return time.time(), time.process_time()


async def nap(seconds: float) -> None:
    """Wait as one does for somebody else's answer."""
    await asyncio.sleep(seconds)


_TASKS: Final[dict[str, Callable[..., Awaitable[object]]]] = {"noop": noop, "stamp": stamp, "nap": nap}


def message(task: str, *args: object) -> tuple[str, bytes]:
    """Return a new id and a message like ours with it."""
    task_id = os.urandom(16).hex()
    headers = {"id": task_id, "task": task, "reply_to": "0123456789ab", "sent_at": time.time(), "origin": _ORIGIN}
    return task_id, orjson.dumps([headers, args, {}])


async def send_in_a_row(redis: Redis, count: int) -> None:
    """Send `count` no-op tasks, one after the other."""
    for _ in range(count):
        await redis.xadd(_STREAM, {"m": message("noop")[1]})


async def send_in_bulk(redis: Redis, count: int, task: str, *args: object) -> str:
    """Send `count` tasks in pipelines; return the id of the last."""
    task_id = ""
    for start in range(0, count, _SENT_AT_ONCE):
        pipeline = redis.pipeline(transaction=False)
        for _ in range(min(_SENT_AT_ONCE, count - start)):
            task_id, packed = message(task, *args)
            pipeline.xadd(_STREAM, {"m": packed})
        await pipeline.execute()
    return task_id


@dataclass(frozen=True, slots=True)
class Drained:
    """What sending alone came to, and then draining alone: tasks a second, and microseconds of CPU a task."""

    sent: float
    rate: float
    worker_cpu: float


async def drained(url: str, way: str, count: int, size: int, task: str, *args: object) -> Drained:
    """Send `size` tasks in bulk while no worker runs; then let one drain the stream, by the worker's own clock."""
    async with Redis.from_url(url) as redis:
        await redis.xgroup_create(_STREAM, _GROUP, "0", mkstream=True)
        first = await send_in_bulk(redis, 1, "stamp")
        began = time.perf_counter()
        await send_in_bulk(redis, size, task, *args)
        sent = time.perf_counter() - began
        last = await send_in_bulk(redis, 1, "stamp")
        await run_program("-m", "benchmarks.bare_redis", url, way, str(count), str(size + 2))
        began_at, cpu_before = await stamp_of(redis, first)
        ended_at, cpu_after = await stamp_of(redis, last)
        await redis.flushdb()
    return Drained(size / sent, size / (ended_at - began_at), 1e6 * (cpu_after - cpu_before) / size)


async def stamp_of(redis: Redis, task_id: str) -> tuple[float, float]:
    """Return what a task returned that has run."""
    found: Any = await redis.get(f"result:{task_id}")
    at, cpu = orjson.loads(found)["result"]
    return at, cpu


async def work(url: str, way: str, count: int, total: int) -> None:
    """Run `total` tasks, `count` at a time."""
    run = _run_batch if way == "batched" else _run_one_by_one
    async with Redis.from_url(url) as redis:
        while total > 0:
            found: Any = await redis.xreadgroup(_GROUP, "worker", {_STREAM: ">"}, count=count, block=_BLOCK)
            for _, entries in found:
                await run(redis, entries)
                total -= len(entries)


async def _run_batch(redis: Redis, entries: Sequence[Entry]) -> None:
    """Run `entries`, and write what came of all of them in one pipeline."""
    results = await asyncio.gather(*(asyncio.create_task(result_of(fields[b"m"])) for _, fields in entries))
    pipeline = redis.pipeline(transaction=False)
    for key, result in results:
        pipeline.set(key, result, ex=EXPIRES)
    numbers = [number for number, _ in entries]
    pipeline.xack(_STREAM, _GROUP, *numbers)
    pipeline.xdel(_STREAM, *numbers)
    await pipeline.execute()


async def _run_one_by_one(redis: Redis, entries: Sequence[Entry]) -> None:
    """Run `entries`, each of which writes for itself what came of it, as most task queues do."""

    async def run(number: bytes, packed: bytes) -> None:
        key, result = await result_of(packed)
        await redis.set(key, result, ex=EXPIRES)
        await redis.xack(_STREAM, _GROUP, number)
        await redis.xdel(_STREAM, number)

    await asyncio.gather(*(asyncio.create_task(run(number, fields[b"m"])) for number, fields in entries))


async def result_of(packed: bytes) -> tuple[str, bytes]:
    """Run a task; return the key of its result, and that."""
    headers, args, kwargs = orjson.loads(packed)
    result = await _TASKS[headers["task"]](*args, **kwargs)
    document = {
        "task_id": headers["id"],
        "status": "SUCCESS",
        "result": result,
        "date_done": datetime.now(UTC).isoformat(),
        "worker": _ORIGIN,
    }
    return f"result:{headers['id']}", orjson.dumps(document)


if __name__ == "__main__":
    url, way, count, total = sys.argv[1:]
    asyncio.run(work(url, way, int(count), int(total)))
