"""What aiormq and redis-py alone can do: the yardstick of the RabbitMQ figures, as fast as a short script can be.

A durable queue (classic, but for sending to a quorum one), persistent messages with publisher confirms, messages and
results like ours, results stored in Redis with an expiry, an asyncio task for each message. Left out is what makes a
task queue: claims, retries, limits, delays, priorities, errors, telling anybody. `python -m benchmarks.bare_rabbitmq
BROKER RESULTS batched TOTAL` (or `one-by-one`) is its worker.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic
from redis.asyncio import Redis

from . import bare_redis
from .bare_redis import EXPIRES
from .measures import Drained
from .processes import run_program
from .usage import own_cpu

_QUEUE: Final = "bare"
#: Messages that are sent before their confirms are awaited.
_SENT_AT_ONCE: Final = 500
#: Deliveries that the broker sends ahead: so many it takes for none to be waited for.
_PREFETCH: Final = 500
#: Of those, what is run and settled at a time.
_BATCH: Final = 100


async def send_in_a_row(channel: AbstractChannel, count: int) -> None:
    """Send `count` no-op tasks, each when the one before is confirmed."""
    for _ in range(count):
        await _publish(channel, bare_redis.message("noop")[1])


async def send_in_bulk(channel: AbstractChannel, count: int, task: str) -> str:
    """Send `count` tasks, hundreds at a time; return the id of the last."""
    task_id = ""
    for start in range(0, count, _SENT_AT_ONCE):
        packed: list[bytes] = []
        for _ in range(min(_SENT_AT_ONCE, count - start)):
            task_id, each = bare_redis.message(task)
            packed.append(each)
        await asyncio.gather(*(_publish(channel, each) for each in packed))
    return task_id


async def _publish(channel: AbstractChannel, packed: bytes) -> None:
    confirmed = await channel.basic_publish(
        packed, routing_key=_QUEUE, properties=Basic.Properties(delivery_mode=2), mandatory=True
    )
    assert isinstance(confirmed, Basic.Ack)


@asynccontextmanager
async def channel_open(broker: str, kind: str = "classic") -> AsyncIterator[AbstractChannel]:
    """Connect, and declare the queue, which is of this kind."""
    connection = await aiormq.connect(broker)
    try:
        channel = await connection.channel()
        await channel.queue_declare(_QUEUE, durable=True, arguments={"x-queue-type": kind})
        yield channel
    finally:
        await connection.close()


async def drained(broker: str, results: str, way: str, size: int) -> Drained:
    """Send `size` no-op tasks while no worker runs; then let one drain the queue, by the worker's own clock."""
    async with channel_open(broker) as channel, Redis.from_url(results) as redis:
        first = await send_in_bulk(channel, 1, "stamp")
        cpu, began = own_cpu(), time.perf_counter()
        await send_in_bulk(channel, size, "noop")
        sent, cpu = time.perf_counter() - began, own_cpu() - cpu
        last = await send_in_bulk(channel, 1, "stamp")
        await run_program("-m", "benchmarks.bare_rabbitmq", broker, results, way, str(size + 2))
        stamps = [await bare_redis.stamp_of(redis, each) for each in (first, last)]
        await redis.flushdb()
    return Drained.between(stamps, size, sent, cpu)


async def work(broker: str, results: str, way: str, total: int) -> None:
    """Run `total` tasks."""
    arrived: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
    async with channel_open(broker) as channel, Redis.from_url(results) as redis:
        await channel.basic_qos(prefetch_count=_PREFETCH)
        await channel.basic_consume(_QUEUE, arrived.put)
        while total > 0:
            batch = [await arrived.get()]
            while len(batch) < _BATCH and not arrived.empty():
                batch.append(arrived.get_nowait())
            await (_run_batch if way == "batched" else _run_one_by_one)(channel, redis, batch)
            total -= len(batch)


async def _run_batch(channel: AbstractChannel, redis: Redis, batch: Sequence[DeliveredMessage]) -> None:
    """Run `batch`; write all results in one pipeline, and then acknowledge all of it by one frame."""
    tasks = [asyncio.create_task(bare_redis.result_of(message.body)) for message in batch]
    pipeline = redis.pipeline(transaction=False)
    for key, result in await asyncio.gather(*tasks):
        pipeline.set(key, result, ex=EXPIRES)
    await pipeline.execute()
    await channel.basic_ack(_tag(batch[-1]), multiple=True)


async def _run_one_by_one(channel: AbstractChannel, redis: Redis, batch: Sequence[DeliveredMessage]) -> None:
    """Run `batch`, each of which writes for itself what came of it, as most task queues do."""

    async def run(message: DeliveredMessage) -> None:
        key, result = await bare_redis.result_of(message.body)
        await redis.set(key, result, ex=EXPIRES)
        await channel.basic_ack(_tag(message))

    await asyncio.gather(*(asyncio.create_task(run(message)) for message in batch))


def _tag(message: DeliveredMessage) -> int:
    tag = message.delivery_tag
    assert tag is not None
    return tag


if __name__ == "__main__":
    broker, results, way, total = sys.argv[1:]
    asyncio.run(work(broker, results, way, int(total)))
