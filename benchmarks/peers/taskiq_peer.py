# mypy: ignore-errors
# pyright: basic, reportMissingImports=false
"""taskiq: Redis streams or taskiq-aio-pika, results in Redis, one process; chords are pipelines with a map."""

from __future__ import annotations

import asyncio
import time

from taskiq_aio_pika import AioPikaBroker
from taskiq_pipelines import Pipeline, PipelineMiddleware
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from .measuring import (
    BROKER,
    CHAINS_IN_FLIGHT,
    CHORDS_IN_FLIGHT,
    CONCURRENCY,
    EXPIRES,
    LONGEST,
    MEMBERS,
    RESULTS,
    STEPS,
    expect,
    measure,
)

#: Connections of a pool, whose default is 50.
_CONNECTIONS = 100
#: Seconds between looks at a result, and at the members of a map; the defaults, 0.2 and 0.5, are slower.
_LOOKS = 0.05
_LOOKS_OF_A_MAP = 0.01

backend = RedisAsyncResultBackend(RESULTS, result_ex_time=EXPIRES, max_connection_pool_size=_CONNECTIONS)
if BROKER.startswith("amqp"):
    broker = AioPikaBroker(BROKER, qos=CONCURRENCY)
else:
    broker = RedisStreamBroker(BROKER, max_connection_pool_size=_CONNECTIONS)
broker = broker.with_result_backend(backend).with_middlewares(PipelineMiddleware())


@broker.task(task_name="noop")
async def noop() -> None:
    pass


@broker.task(task_name="same")
async def same(number: int) -> int:
    return number


@broker.task(task_name="numbers")
async def numbers(count: int) -> list[int]:
    return list(range(count))


@broker.task(task_name="total")
async def total(values: list[int]) -> int:
    return sum(values)


@broker.task(task_name="stamp")
async def stamp() -> list[float]:
    return [time.time(), time.process_time()]


async def _get(task):
    result = await task.wait_result(check_interval=_LOOKS, timeout=LONGEST)
    result.raise_for_error()
    return result.return_value


async def _at_a_time(count, most, call):
    left = iter(range(count))

    async def caller():
        for _ in left:
            await call()

    await asyncio.gather(*(caller() for _ in range(most)))


async def _plain(count):
    tasks = await asyncio.gather(*(noop.kiq() for _ in range(count)))
    for task in tasks:
        await _get(task)


async def _chain():
    pipeline = Pipeline(broker, same)
    for _ in range(STEPS - 1):
        pipeline = pipeline.call_next(same)
    expect(await _get(await pipeline.kiq(7)), 7)


async def _chord():
    pipeline = Pipeline(broker, numbers).map(same, check_interval=_LOOKS_OF_A_MAP).call_next(total)
    expect(await _get(await pipeline.kiq(MEMBERS)), sum(range(MEMBERS)))


class Client:
    worker = (
        *("-m", "taskiq", "worker", "benchmarks.peers.taskiq_peer:broker", "--workers", "1"),
        *("--max-async-tasks", str(2 * CONCURRENCY), "--max-prefetch", str(CONCURRENCY), "--log-level", "WARNING"),
    )

    def __init__(self, runner):
        self._run = runner.run
        self._run(broker.startup())
        self._first = self._last = None

    def plain(self, count):
        self._run(_plain(count))

    def chains(self, count):
        self._run(_at_a_time(count, CHAINS_IN_FLIGHT, _chain))

    def chords(self, count):
        self._run(_at_a_time(count, CHORDS_IN_FLIGHT, _chord))

    def preload(self, count):
        async def send():
            self._first = await stamp.kiq()
            await asyncio.gather(*(noop.kiq() for _ in range(count)))
            self._last = await stamp.kiq()

        self._run(send())

    def stamps(self):
        return self._run(_get(self._first)), self._run(_get(self._last))


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        measure(Client(runner))
        runner.run(broker.shutdown())
