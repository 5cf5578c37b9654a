"""What Redis can do without a task queue: the yardstick of its figures, as fast as short scripts can reasonably be.

A stream with a consumer group, messages and results like ours, results stored with an expiry and pushed to whoever sent
the message. Left out is what makes a task queue: leases, retries, limits, delays, priorities, errors. There are three:

- `batched`: redis-py, an asyncio task for each message, what came of a batch in one pipeline;
- `one-by-one`: redis-py, each message settled for itself, as most task queues do;
- `resp`: the protocol over hiredis alone (`bare_resp`), and a message's coroutine awaited without a task of its own.

`python -m benchmarks.bare_redis URL batched COUNT TOTAL` is a worker, which runs COUNT at a time until TOTAL are done.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import orjson
from redis.asyncio import Redis

from .bare_resp import Resp
from .measures import Drained
from .processes import PATIENCE, run_program
from .tasks import Stamp
from .usage import Used, own_cpu, server_cpu

STREAM: Final = "bare"
_GROUP: Final = "bare"
#: XADDs in one pipeline.
_SENT_AT_ONCE: Final = 500
#: Seconds that a result is kept, as ours are by default.
EXPIRES: Final = 86_400
#: Milliseconds that one read waits.
_BLOCK: Final = 1000
#: What a worker runs at a time unless told otherwise.
_AT_A_TIME: Final = 100
#: Connections of redis-py, one for each caller that waits.
_CONNECTIONS: Final = 200
_ORIGIN: Final = f"{os.getpid()}@host"
_REPLY_TO: Final = "0123456789ab"

#: The number of an entry of the stream, and the message in it.
Entry = tuple[bytes, bytes]
#: The number of an entry, the key of its result, and that.
Finish = tuple[bytes, str, bytes]


async def noop() -> None:
    """Do nothing."""


async def stamp() -> Stamp:
    """Return when it ran, and what was used by then."""
    return time.time(), own_cpu(), server_cpu()


async def nap(seconds: float) -> None:
    """Wait as one does for somebody else's answer."""
    await asyncio.sleep(seconds)


_TASKS: Final[dict[str, Callable[..., Awaitable[object]]]] = {"noop": noop, "stamp": stamp, "nap": nap}


def message(task: str, *args: object) -> tuple[str, bytes]:
    """Return a new id and a message like ours with it."""
    task_id = os.urandom(16).hex()
    headers = {"id": task_id, "task": task, "reply_to": _REPLY_TO, "sent_at": time.time(), "origin": _ORIGIN}
    return task_id, orjson.dumps([headers, args, {}])


class Wire(Protocol):
    """A connection to Redis, and what a script says to it."""

    async def send(self, messages: Sequence[bytes]) -> object:
        """Add messages to the stream."""
        ...

    async def read(self, count: int) -> Sequence[Entry]:
        """Return up to `count` new entries, once there is one."""
        ...

    async def finish(self, batch: Sequence[Finish]) -> object:
        """Store the results of `batch`, settle its entries, and push the results."""
        ...

    async def listen(self, told: Callable[[bytes], None]) -> None:
        """Call `told` with each push, until cancelled."""
        ...


class RedisPy:
    """The connection that redis-py makes."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def send(self, messages: Sequence[bytes]) -> None:
        if len(messages) == 1:
            await self._redis.xadd(STREAM, {"m": messages[0]})
            return
        pipeline = self._redis.pipeline(transaction=False)
        for each in messages:
            pipeline.xadd(STREAM, {"m": each})
        await pipeline.execute()

    async def read(self, count: int) -> Sequence[Entry]:
        found: Any = await self._redis.xreadgroup(_GROUP, "worker", {STREAM: ">"}, count=count, block=_BLOCK)
        return [(number, fields[b"m"]) for _, entries in found for number, fields in entries]

    async def finish(self, batch: Sequence[Finish]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for _, key, result in batch:
            pipeline.set(key, result, ex=EXPIRES)
        numbers = [number for number, *_ in batch]
        pipeline.xack(STREAM, _GROUP, *numbers)
        pipeline.xdel(STREAM, *numbers)
        pipeline.publish(_REPLY_TO, _push(batch))
        await pipeline.execute()

    async def listen(self, told: Callable[[bytes], None]) -> None:
        async with self._redis.pubsub(ignore_subscribe_messages=True) as pushes:
            await pushes.subscribe(_REPLY_TO)
            async for each in pushes.listen():
                told(each["data"])


class RespWire:
    """The protocol over hiredis alone."""

    def __init__(self, resp: Resp, url: str) -> None:
        self._resp = resp
        self._url = url

    async def send(self, messages: Sequence[bytes]) -> None:
        await self._resp.ask([("XADD", STREAM, "*", "m", each) for each in messages])

    async def read(self, count: int) -> Sequence[Entry]:
        (found,) = await self._resp.ask(
            [("XREADGROUP", "GROUP", _GROUP, "worker", "COUNT", count, "BLOCK", _BLOCK, "STREAMS", STREAM, ">")]
        )
        return [(number, fields[1]) for _, entries in found or () for number, fields in entries]

    async def finish(self, batch: Sequence[Finish]) -> None:
        numbers = [number for number, *_ in batch]
        await self._resp.ask(
            [
                *(("SET", key, result, "EX", EXPIRES) for _, key, result in batch),
                ("XACK", STREAM, _GROUP, *numbers),
                ("XDEL", STREAM, *numbers),
                ("PUBLISH", _REPLY_TO, _push(batch)),
            ]
        )

    async def listen(self, told: Callable[[bytes], None]) -> None:
        async with Resp.connected(self._url) as resp:
            await resp.subscribe(_REPLY_TO, told)


def _push(batch: Sequence[Finish]) -> bytes:
    return b"[%b]" % b",".join(result for *_, result in batch)


@asynccontextmanager
async def wired(url: str, way: str) -> AsyncIterator[Wire]:
    """Connect as `way` does, to a server which has the stream."""
    if way == "resp":
        async with Resp.connected(url) as resp:
            yield RespWire(resp, url)
    else:
        async with Redis.from_url(url, max_connections=_CONNECTIONS) as redis:
            yield RedisPy(redis)


async def send_in_a_row(wire: Wire, count: int) -> None:
    """Send `count` no-op tasks, one after the other."""
    for _ in range(count):
        await wire.send([message("noop")[1]])


async def send_in_bulk(wire: Wire, count: int, task: str, *args: object) -> Sequence[str]:
    """Send `count` tasks, hundreds at a time; return their ids."""
    ids: list[str] = []
    for start in range(0, count, _SENT_AT_ONCE):
        made = [message(task, *args) for _ in range(min(_SENT_AT_ONCE, count - start))]
        ids += [task_id for task_id, _ in made]
        await wire.send([packed for _, packed in made])
    return ids


async def drained(url: str, way: str, size: int, task: str = "noop", *args: object, count: int = _AT_A_TIME) -> Drained:
    """Send `size` tasks in bulk while no worker runs; then let one drain the stream, by the worker's own clock."""
    async with _stream(url) as redis, wired(url, way) as wire:
        (first,) = await send_in_bulk(wire, 1, "stamp")
        cpu, began = own_cpu(), time.perf_counter()
        await send_in_bulk(wire, size, task, *args)
        sent, cpu = time.perf_counter() - began, own_cpu() - cpu
        (last,) = await send_in_bulk(wire, 1, "stamp")
        await run_program("-m", "benchmarks.bare_redis", url, way, str(count), str(size + 2))
        stamps = [await stamp_of(redis, each) for each in (first, last)]
    return Drained.between(stamps, size, sent, cpu)


@asynccontextmanager
async def _stream(url: str) -> AsyncIterator[Redis]:
    """Make the stream; all that is in the server goes afterwards."""
    async with Redis.from_url(url) as redis:
        await redis.xgroup_create(STREAM, _GROUP, "0", mkstream=True)
        try:
            yield redis
        finally:
            await redis.flushdb()


async def stamp_of(redis: Redis, task_id: str) -> Stamp:
    """Return what a task returned that has run."""
    found: Any = await redis.get(f"result:{task_id}")
    at, cpu, servers_cpu = orjson.loads(found)["result"]
    return at, cpu, servers_cpu


class Client:
    """Sends calls to a worker, whose process id is `pid`, and is told what came of them."""

    def __init__(self, wire: Wire, pid: int) -> None:
        self._wire = wire
        self._awaited: dict[str, asyncio.Future[object]] = {}
        self._pid = pid

    def used(self) -> Used:
        """Return what client, worker and server have used so far."""
        return Used.by_now(self._pid)

    async def call(self) -> None:
        """Send a no-op task, and wait for its result."""
        task_id, packed = message("noop")
        result = self._await(task_id)
        await self._wire.send([packed])
        await result

    async def calls(self, count: int) -> None:
        """Send so many no-op tasks in bulk, and wait for all results."""
        results: list[asyncio.Future[object]] = []
        for start in range(0, count, _SENT_AT_ONCE):
            made = [message("noop") for _ in range(min(_SENT_AT_ONCE, count - start))]
            results += [self._await(task_id) for task_id, _ in made]
            await self._wire.send([packed for _, packed in made])
        for each in results:
            await each

    def _await(self, task_id: str) -> asyncio.Future[object]:
        result = self._awaited[task_id] = asyncio.get_running_loop().create_future()
        return result

    def told(self, push: bytes) -> None:
        """Take the results of a push."""
        for document in orjson.loads(push):
            result = self._awaited.pop(document["task_id"], None)
            if result is not None and not result.done():
                result.set_result(document["result"])

    async def until_it_answers(self) -> None:
        """Call until a result comes: a push that nobody heard does not come again."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await self.call()
                        return


@asynccontextmanager
async def client_and_worker(url: str, way: str) -> AsyncIterator[Client]:
    """Connect this process, and run a worker which has run its first task already."""
    command = ("-m", "benchmarks.bare_redis", url, way, str(_AT_A_TIME), str(sys.maxsize))
    async with _stream(url), wired(url, way) as wire:
        worker = await asyncio.create_subprocess_exec(sys.executable, *command, stdin=asyncio.subprocess.DEVNULL)
        client = Client(wire, worker.pid)
        listening = asyncio.create_task(wire.listen(client.told))
        try:
            await client.until_it_answers()
            yield client
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
            worker.kill()
            await worker.wait()


async def work(url: str, way: str, count: int, total: int) -> None:
    """Run `total` tasks, `count` at a time."""
    run = {"batched": _run_batch, "one-by-one": _run_one_by_one, "resp": _run_without_tasks}[way]
    async with wired(url, way) as wire:
        while total > 0:
            entries = await wire.read(count)
            if entries:
                await run(wire, entries)
            total -= len(entries)


async def _run_batch(wire: Wire, entries: Sequence[Entry]) -> None:
    """Run `entries`, and write what came of all of them in one pipeline."""
    results = await asyncio.gather(*(asyncio.create_task(result_of(packed)) for _, packed in entries))
    await wire.finish([(number, *result) for (number, _), result in zip(entries, results, strict=True)])


async def _run_one_by_one(wire: Wire, entries: Sequence[Entry]) -> None:
    """Run `entries`, each of which writes for itself what came of it, as most task queues do."""

    async def run(number: bytes, packed: bytes) -> None:
        await wire.finish([(number, *await result_of(packed))])

    await asyncio.gather(*(asyncio.create_task(run(*entry)) for entry in entries))


async def _run_without_tasks(wire: Wire, entries: Sequence[Entry]) -> None:
    """Run `entries` one after the other, and write what came of all of them at once."""
    await wire.finish([(number, *await result_of(packed)) for number, packed in entries])


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
