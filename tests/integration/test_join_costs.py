"""What the end of one member costs its store: the same in a join of ten and of ten thousand."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from aiotq import AioTQ
from aiotq.commit import Committer, Finish
from aiotq.core.inside import core_of
from aiotq.results import Arrival, Join, JoinChanges, Record
from aiotq.wire.message import Envelope, Message

from ..servers import shared

#: Ends that are measured: enough that what happens now and then weighs little.
ENDS = 40


def finish(join_id: str, member: int) -> Finish:
    record = Record(f"{join_id}-{member}", "SUCCESS", b"{}", "application/json", 9e9)
    return Finish(None, joining=JoinChanges(arrivals=(Arrival(join_id, str(member), record),)))


async def opened(app: AioTQ, size: int) -> tuple[Committer, str]:
    """Return a committer, and a join at which half of its members have arrived."""
    connection = await core_of(app).connection()
    committer = connection.committer(cast(Any, None), "holder", 15.0)
    join_id = f"join-of-{size}"
    then = Envelope(Message(f"then-{size}", "body", b"[[], {}, {}]"), "default")
    await committer.commit([Finish(None, joining=JoinChanges(opened=(Join(join_id, size + ENDS, (then,), 3600.0),)))])
    for start in range(0, size // 2, 500):
        await committer.commit([finish(join_id, member) for member in range(start, min(start + 500, size // 2))])
    return committer, join_id


async def test_an_arrival_takes_sqlite_as_many_steps_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in instructions of SQLite's virtual machine."""
    steps = 0
    connect = sqlite3.connect

    def count() -> None:
        nonlocal steps
        steps += 1

    def counting(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **kwargs)
        connection.set_progress_handler(count, 1)
        return connection

    monkeypatch.setattr(sqlite3, "connect", counting)
    app = AioTQ("costs", broker=f"sqlite:///{tmp_path}/queue.db")
    taken = {}
    async with app:
        for size in (10, 10_000):
            committer, join_id = await opened(app, size)
            before = steps
            for member in range(size // 2, size // 2 + ENDS):
                await committer.commit([finish(join_id, member)])
            taken[size] = steps - before
    assert taken[10] > ENDS
    assert taken[10_000] < 1.3 * taken[10]


async def commands(url: str) -> dict[str, int]:
    """Return how often Redis was asked for what, by itself in scripts too."""
    server = urlsplit(url)
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(server.hostname, server.port)
        writer.write(b"INFO commandstats\r\n")
        size = int((await reader.readline())[1:])
        text = (await reader.readexactly(size)).decode()
        writer.close()
        await writer.wait_closed()
    lines = [line.removeprefix("cmdstat_").split(":calls=") for line in text.splitlines() if "calls=" in line]
    return {name: int(rest.partition(",")[0]) for name, rest in lines}


async def test_an_arrival_takes_redis_as_many_commands_however_many_there_are() -> None:
    url = shared("redis").url
    app = AioTQ("costs", broker=f"{url}?prefix=test-{os.urandom(6).hex()}")
    taken = {}
    async with app:
        for size in (10, 10_000):
            committer, join_id = await opened(app, size)
            before = await commands(url)
            for member in range(size // 2, size // 2 + ENDS):
                await committer.commit([finish(join_id, member)])
            after = await commands(url)
            asked = {name: count - before.get(name, 0) for name, count in after.items()}
            taken[size] = {name: count for name, count in asked.items() if count >= ENDS // 2}
    assert taken[10] == taken[10_000]
    assert sum(taken[10].values()) >= ENDS
    assert not taken[10].keys() & {"hgetall", "hvals", "hkeys", "smembers", "lrange", "zrange", "keys"}
