"""`aiotq migrate` from one broker to another, killed midway: what was in one is in the other, each message once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from aiotq import AioTQ, Task
from aiotq.core.inside import core_of
from aiotq.transport import ACK, Broker, GiveUp
from aiotq.wire.message import Envelope, Message

from ..servers import shared, shared_rabbit
from ..waiting import wait_until
from .shells import Shell

FAR = 4e9
COUNT = 600


@asynccontextmanager
async def broker_at(url: str) -> AsyncIterator[Broker]:
    async with AioTQ("migrates", broker=url) as app:
        yield (await core_of(app).connection()).broker


def message(name: str) -> Message:
    return Message(id=name, task="proj.add", body=b"[[1, 2], {}, {}]")


async def fill(broker: Broker) -> None:
    """Have ready, delayed and dead messages in two queues."""
    await broker.send([Envelope(message(f"dead-{n}"), "a") for n in range(20)])
    async with broker.consumer("gives-up", ["a"], lease=60) as consumer:
        held = await consumer.receive(100, suspect=True, wait=5)
        await broker.settle([(each, GiveUp("rejected", "in the test")) for each in held])
    for start in range(0, COUNT, 200):
        numbers = range(start, start + 200)
        await broker.send([Envelope(message(f"ready-{n}"), "a" if n % 2 else "b", n % 10) for n in numbers])
        await broker.send([Envelope(message(f"delayed-{n}"), "a", 4, FAR + n) for n in numbers])


async def content(broker: Broker) -> dict[str, Any]:
    """Take out all there is."""
    delayed = await broker.delayed("a", limit=10 * COUNT)
    dead = await broker.dead_letters("a", limit=1000)
    ready: list[tuple[str, int]] = []
    async with broker.consumer("counts", ["a", "b"], lease=60) as consumer:
        while held := await consumer.receive(500, suspect=True, wait=0):
            ready += [(each.message.id, each.priority) for each in held]
            await broker.settle([(each, ACK) for each in held])
    return {
        "ready": Counter(ready),
        "delayed": Counter((each.message.id, round(each.due or 0)) for each in delayed),
        "dead": Counter((each.message.id, each.reason, each.detail) for each in dead if each.message is not None),
    }


async def killed_midway(
    shell: Shell, source: str, destination: str, count: Callable[[], Awaitable[int]], moved: int, *words: str
) -> None:
    """Begin to migrate, and be killed when so many messages have come, of which `count` are there."""

    async def came() -> bool:
        return await count() >= moved

    async with shell.started("migrate", source, destination, *words) as migration:
        await wait_until(came, f"{moved} messages have come", timeout=60)
        migration.send(signal.SIGKILL)
        assert await migration.ended() == -signal.SIGKILL


async def have_come(broker: Broker) -> int:
    return sum(each.ready + each.delayed for each in await broker.stats())


async def test_a_migration_that_is_killed_and_begun_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    source = f"sqlite:///{tmp_path}/old.db"
    destination = f"{shared('redis').url}?prefix=test-{os.urandom(6).hex()}"
    async with AsyncExitStack() as stack:
        old, new = [await stack.enter_async_context(broker_at(url)) for url in (source, destination)]
        await fill(old)
        await killed_midway(shell, source, destination, partial(have_come, new), 150)  # in the delayed ones
        await killed_midway(shell, source, destination, partial(have_come, new), COUNT + 100)  # in those that are ready

        done = await asyncio.to_thread(shell.run, "migrate", source, destination, "--json")

        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["left"] == {"held": 0, "delayed": 0, "dead": 0}
        assert [each for each in await old.stats() if each.ready or each.leased or each.delayed or each.dead] == []
        found = await content(new)
        assert found["ready"] == Counter((f"ready-{n}", n % 10) for n in range(COUNT))
        assert found["delayed"] == Counter((f"delayed-{n}", round(FAR + n)) for n in range(COUNT))
        assert found["dead"] == Counter((f"dead-{n}", "rejected", "in the test") for n in range(20))


async def test_from_rabbitmq_it_moves_what_it_can_and_says_what_is_delayed_there(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    source, destination = shared_rabbit().vhost(), f"sqlite:///{tmp_path}/new.db"
    queues = "-Q", "a,b"
    async with broker_at(source) as old, broker_at(destination) as new:
        await old.send([Envelope(message(f"dead-{n}"), "a") for n in range(5)])
        async with old.consumer("gives-up", ["a"], lease=60) as consumer:
            held = await consumer.receive(100, suspect=True, wait=5)
            while len(held) < 5:
                held = [*held, *await consumer.receive(100, suspect=True, wait=5)]
            await old.settle([(each, GiveUp("rejected", "in the test")) for each in held])
        await old.send([Envelope(message(f"ready-{n}"), "a" if n % 2 else "b", n % 10) for n in range(COUNT)])
        refused = await asyncio.to_thread(shell.run, "migrate", source, destination)
        assert "RabbitMQ can't list its queues: name those that are to be moved (--queues)" in refused.stderr

        await killed_midway(shell, source, destination, partial(have_come, new), 150, *queues)
        await old.send([Envelope(message(f"delayed-{n}"), "a", 4, time.time() + 3600) for n in range(20)])
        first = await asyncio.to_thread(shell.run, "migrate", source, destination, *queues)
        assert "20 delayed (this broker can't say which: they move when they are due)" in first.stderr

        await old.send([Envelope(message(f"late-{n}"), "a", 4, time.time() + 0.5) for n in range(20)])

        async def are_due() -> bool:
            return sum(each.ready for each in await old.stats(["a", "b"])) == 20

        await wait_until(are_due, "the rest is due")
        last = await asyncio.to_thread(shell.run, "migrate", source, destination, *queues, "--json")
        assert (last.returncode, json.loads(last.stdout)["moved"]["ready"]) == (1, 20), last.stderr
        found = await content(new)
        moved = {f"ready-{n}": n % 10 for n in range(COUNT)} | {f"late-{n}": 4 for n in range(20)}
        assert found["ready"] == Counter(moved.items())
        assert found["dead"] == Counter((f"dead-{n}", "rejected", "in the test") for n in range(5))


async def test_to_rabbitmq_what_came_twice_runs_once(tmp_path: Path) -> None:
    shell, rabbit = Shell(tmp_path), shared_rabbit()
    source, destination = f"sqlite:///{tmp_path}/old.db", rabbit.vhost()
    app = AioTQ("proj", broker=destination, result_backend=f"{shared('redis').url}?prefix=test-{os.urandom(6).hex()}")
    ran: Counter[str] = Counter()

    @app.task(name="proj.add", bind=True)
    async def add(self: Task[..., Any], x: int, y: int) -> None:
        ran[str(self.request.id)] += 1

    async def there() -> int:
        return sum((await asyncio.to_thread(rabbit.queues, destination.rpartition("/")[2])).values())

    async with broker_at(source) as old:
        due = time.time() + 5
        await old.send([Envelope(message(f"delayed-{n}"), "a", 4, due) for n in range(COUNT // 2)])
        await old.send([Envelope(message(f"ready-{n}"), "a" if n % 2 else "b") for n in range(COUNT)])
        await killed_midway(shell, source, destination, there, 100)
        await killed_midway(shell, source, destination, there, COUNT // 2 + 250)
        done = await asyncio.to_thread(shell.run, "migrate", source, destination)
        assert done.returncode == 0, done.stderr
    async with app, app.worker(["a", "b"]):
        names = {f"delayed-{n}" for n in range(COUNT // 2)} | {f"ready-{n}" for n in range(COUNT)}
        await wait_until(lambda: ran.keys() >= names, "all have run", timeout=30)

        async def are_gone() -> bool:
            return await there() == 0

        await wait_until(are_gone, "what came twice is gone", timeout=45)
    assert ran == Counter(names)


def test_what_can_not_be_migrated_is_refused(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    for words, complaint in (
        (("sqlite:///a.db", "sqlite:///a.db"), "another broker than the source"),
        (("memory://", "sqlite:///a.db"), "a broker that outlives this process"),
        (("http://a", "sqlite:///a.db"), "a broker that outlives this process"),
    ):
        refused = shell.run("migrate", *words)
        assert refused.returncode == 1
        assert complaint in refused.stderr
