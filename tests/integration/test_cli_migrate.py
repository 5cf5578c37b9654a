"""`aiotq migrate` from one broker to another, killed midway: what was in one is in the other, each message once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aiotq import AioTQ
from aiotq.core.inside import core_of
from aiotq.transport import ACK, Broker, GiveUp
from aiotq.wire.message import Envelope, Message

from ..servers import shared
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


async def killed_midway(shell: Shell, source: str, destination: str, new: Broker, moved: int) -> None:
    """Begin to migrate, and be killed when so many messages have come."""

    async def have_come() -> bool:
        return sum(each.ready + each.delayed for each in await new.stats()) >= moved

    async with shell.started("migrate", source, destination) as migration:
        await wait_until(have_come, f"{moved} messages have come", timeout=60)
        migration.send(signal.SIGKILL)
        assert await migration.ended() == -signal.SIGKILL


async def test_a_migration_that_is_killed_and_begun_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    source = f"sqlite:///{tmp_path}/old.db"
    destination = f"{shared('redis').url}?prefix=test-{os.urandom(6).hex()}"
    async with AsyncExitStack() as stack:
        old, new = [await stack.enter_async_context(broker_at(url)) for url in (source, destination)]
        await fill(old)
        await killed_midway(shell, source, destination, new, 150)  # in the delayed ones
        await killed_midway(shell, source, destination, new, COUNT + 100)  # in those that are ready

        done = await asyncio.to_thread(shell.run, "migrate", source, destination, "--json")

        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["left"] == {"held": 0, "delayed": 0, "dead": 0}
        assert [each for each in await old.stats() if each.ready or each.leased or each.delayed or each.dead] == []
        found = await content(new)
        assert found["ready"] == Counter((f"ready-{n}", n % 10) for n in range(COUNT))
        assert found["delayed"] == Counter((f"delayed-{n}", round(FAR + n)) for n in range(COUNT))
        assert found["dead"] == Counter((f"dead-{n}", "rejected", "in the test") for n in range(20))


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
