"""What many commands and captures of events leave, half of them of processes that were killed midway: nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from aiotq import AioTQ
from aiotq.core.inside import core_of

from ..servers import shared, shared_postgres, shared_rabbit
from ..waiting import wait_until
from .shells import environment

ASKS: str = """
import asyncio, sys
from aiotq import AioTQ
from aiotq.control import events

events.WISH = 2.0  # where nobody sees that it is gone, what it asked for ends so soon
app = AioTQ("asks", broker=sys.argv[1])

async def captured():
    async with app.events.capture() as capture:
        await anext(capture)

async def main():
    async with app:
        print("asking", flush=True)
        while True:
            asked = [app.control.ping(timeout=5) for _ in range(5)]
            await asyncio.gather(*asked, captured(), captured())

asyncio.run(main())
"""


async def ask_and_be_killed(directory: Path, url: str) -> None:
    (directory / "asks.py").write_text(ASKS)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "asks.py", url), cwd=directory, env=environment(), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    await asyncio.sleep(0.2)  # in the middle of its questions
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()


async def captured(app: AioTQ) -> None:
    """Read one event."""
    async with asyncio.timeout(20), app.events.capture() as capture:
        await anext(capture)


async def many_commands(directory: Path, url: str, *, timeout: float = 20, at_once: int = 10) -> None:
    """Give a thousand commands and more, and read events a hundred times; of four that do two are killed midway."""
    for _ in range(2):
        async with AioTQ("asks", broker=url) as app:
            for _ in range(500 // at_once):
                await asyncio.gather(*(app.control.ping(timeout=timeout) for _ in range(at_once)))
            for _ in range(5):
                await asyncio.gather(*(captured(app) for _ in range(10)))
    await asyncio.gather(*(ask_and_be_killed(directory, url) for _ in range(2)))


async def nobody_reads(app: AioTQ) -> None:
    """Wait until the worker sends no events any more: it notices that those who were killed are gone."""
    sender = core_of(app).event_senders["one"]
    await wait_until(lambda: not sender.is_on, "nobody is sent events", timeout=20)


async def test_no_key_stays_in_redis(tmp_path: Path) -> None:
    prefix = f"test-{os.urandom(6).hex()}"
    url = f"{shared('redis').url}?prefix={prefix}"
    app = AioTQ("asks", broker=url)
    with closing(shared("redis").client()) as client:

        def keys() -> set[bytes]:
            return set(client.keys(f"*{prefix}*"))

        def channels() -> set[bytes]:
            return set(client.pubsub_channels(f"*{prefix}*"))

        async with app, app.worker(name="one"):
            await wait_until(lambda: any(key.endswith(b":waiting") for key in keys()), "the worker waits for messages")
            before, heard = keys(), channels()
            await many_commands(tmp_path, url)
            await nobody_reads(app)
            assert keys() == before
            await wait_until(lambda: channels() == heard, "the subscriptions of who was killed are gone")
        assert not [key for key in keys() if b"fleet" in key]


async def test_no_row_stays_in_a_file_but_a_listeners_which_expires(tmp_path: Path) -> None:
    file = tmp_path / "queue.db"
    app = AioTQ("asks", broker=f"sqlite:///{file}")

    def rows() -> dict[str, int]:
        with closing(sqlite3.connect(file)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
        del counts["listeners"]  # of a process that was killed: it expires
        return counts

    async with app, app.worker(name="one"):
        before = rows()
        await many_commands(tmp_path, f"sqlite:///{file}")
        await nobody_reads(app)
        assert rows() == before
    assert rows()["fleet"] == 0


async def test_no_row_stays_in_postgresql(tmp_path: Path) -> None:
    postgres = shared_postgres()
    url = postgres.schema()
    schema = url.rpartition("=")[2]
    app = AioTQ("asks", broker=url)

    def rows() -> dict[str, int]:
        tables = [name for (name,) in postgres.ask("select tablename from pg_tables where schemaname = %s", schema)]
        return {name: postgres.ask(f'select count(*) from "{schema}".{name}')[0][0] for name in tables}

    async with app, app.worker(name="one"):
        await wait_until(lambda: rows()["idle"], "the worker waits for messages")
        before = rows()
        await many_commands(tmp_path, url)
        await nobody_reads(app)
        assert rows() == before
    assert rows()["fleet"] == 0


async def test_no_queue_stays_in_rabbitmq_but_those_for_results_which_expire(tmp_path: Path) -> None:
    rabbit = shared_rabbit()
    url = rabbit.vhost()
    app = AioTQ("asks", broker=url)

    def queues() -> set[str]:
        return {name for name in rabbit.queues(url.rpartition("/")[2]) if not name.startswith("aiotq.reply.")}

    async with app, app.worker(name="one"):
        before = queues()
        # Without a registry nobody knows who should answer: each question waits for its whole time.
        await many_commands(tmp_path, url, timeout=0.2, at_once=50)
        await nobody_reads(app)
        await wait_until(lambda: queues() == before, "the queues of who was killed are gone")


@pytest.mark.parametrize("count", [20])
async def test_twenty_workers_answer_soon(count: int) -> None:
    url = f"{shared('redis').url}?prefix=test-{os.urandom(6).hex()}"
    app = AioTQ("asks", broker=url)
    loop = asyncio.get_running_loop()
    async with app:
        workers = [app.worker(name=f"w{number}") for number in range(count)]
        for worker in workers:
            await worker.__aenter__()
        times: list[float] = []
        for _ in range(20):
            began = loop.time()
            assert len(await app.control.ping(timeout=20)) == count
            times.append(loop.time() - began)
        assert sorted(times)[10] < 1.0, times
        print(f"median of {count} workers: {sorted(times)[10] * 1000:.1f} ms")
        one: list[float] = []
        for _ in range(50):
            began = loop.time()
            await app.control.ping(destination=["w3"], timeout=20)
            one.append(loop.time() - began)
        print(f"median of one: {sorted(one)[25] * 1000:.1f} ms")
        for worker in workers:
            await worker.stop()
