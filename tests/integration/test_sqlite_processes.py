"""One SQLite file, several processes: wake-ups, deaths, locks and full disks (P1, P2, P7)."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from aiotq.backends.sqlite.broker import SQLiteBroker
from aiotq.backends.sqlite.connection import Database
from aiotq.backends.sqlite.records import SQLiteRecords
from aiotq.exceptions import StorageError
from aiotq.results import Record
from aiotq.transport import ACK, Delivery
from aiotq.wire.message import Envelope, Message

from ..waiting import wait_until

PATIENCE = 10.0

#: What every child process begins with; `path` is the file.
PREAMBLE = """
import asyncio, sys
from aiotq.backends.sqlite.connection import Database
from aiotq.exceptions import StorageError
from aiotq.wire.message import Envelope, Message
from aiotq.results import Record
from aiotq.backends.sqlite.records import SQLiteRecords
from aiotq.backends.sqlite.broker import SQLiteBroker

path = sys.argv[1]

def say(word):
    print(word, flush=True)

def envelope(name, queue="q", size=2):
    return Envelope(Message(name, "proj.add", b"x" * size), queue)

"""

SEND = """
async def main():
    async with Database(path) as database, SQLiteBroker(database) as transport:
        say("ready")
        sys.stdin.readline()
        await transport.send([envelope("a")])
        say("sent")
asyncio.run(main())
"""

PUT = """
async def main():
    async with Database(path) as database, SQLiteRecords(database) as store:
        say("ready")
        reply_to = sys.stdin.readline().strip()
        await store.put([Record("a", "SUCCESS", b"4", "application/json", 4e9, reply_to)])
        say("put")
asyncio.run(main())
"""

HOLD = """
async def main():
    async with Database(path) as database, SQLiteBroker(database) as transport:
        async with transport.consumer("doomed", ["q"], lease=60) as consumer:
            held = await consumer.receive(10, suspect=True, wait=10)
            say(",".join(delivery.message.id for delivery in held))
            await asyncio.sleep(60)
asyncio.run(main())
"""

SEND_FOR_EVER = """
async def main():
    async with Database(path) as database, SQLiteBroker(database) as transport:
        number = 0
        while True:
            names = [f"{sys.argv[2]}-{number + n}" for n in range(20)]
            number += 20
            await transport.send([envelope(name) for name in names])
            say(" ".join(names))
asyncio.run(main())
"""

FILL = """
import resource

async def main():
    async with Database(path) as database, SQLiteBroker(database) as transport:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        accepted = 0
        try:
            while True:
                await transport.send([envelope(f"{accepted}", size=20_000)])
                accepted += 1
        except StorageError as exc:
            say(f"{accepted} {exc}")
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            await transport.send([envelope("last")])
            say("sent")
asyncio.run(main())
"""


@asynccontextmanager
async def child(code: str, path: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PREAMBLE + code,
        str(path),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        async with asyncio.timeout(PATIENCE):
            await process.communicate()  # it reads what was not read: `wait` would wait for that for ever


async def heard(process: asyncio.subprocess.Process) -> str:
    """Return the next line that `process` says."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        return (await process.stdout.readline()).decode().strip()


async def told(process: asyncio.subprocess.Process, line: str = "") -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n".encode())
    await process.stdin.drain()


def envelope(name: str, size: int = 2) -> Envelope:
    return Envelope(Message(name, "proj.add", b"x" * size), "q")


@asynccontextmanager
async def broker(path: Path, *, timeout: float = 5.0, max_pages: int | None = None) -> AsyncIterator[SQLiteBroker]:
    async with (
        Database(path, timeout=timeout, max_pages=max_pages) as database,
        SQLiteBroker(database) as transport,
    ):
        yield transport


async def received(transport: SQLiteBroker, count: int = 10_000) -> list[Delivery]:
    """Receive and acknowledge what is there."""
    found: list[Delivery] = []
    async with transport.consumer("counting", ["q"], lease=60) as consumer:
        while len(found) < count and (batch := await consumer.receive(100, suspect=True, wait=0)):
            await transport.settle([(delivery, ACK) for delivery in batch])
            found += batch
    return found


def ids(deliveries: Sequence[Delivery]) -> set[str]:
    return {delivery.message.id for delivery in deliveries}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "aiotq.db"


async def test_a_message_of_another_process_wakes_a_waiting_read(path: Path) -> None:
    async with broker(path) as transport, child(SEND, path) as sender:
        transport.database.interval = 1000.0  # it is woken, or it sleeps
        async with transport.consumer("woken", ["q"], lease=60) as consumer:
            assert await heard(sender) == "ready"
            reading = asyncio.create_task(consumer.receive(10, suspect=True, wait=60))
            await asyncio.sleep(0.1)  # it waits by now, most likely; if not, the test is only weaker

            await told(sender)

            async with asyncio.timeout(PATIENCE):
                (delivery,) = await reading
            assert delivery.message.id == "a"


async def test_a_result_of_another_process_is_pushed(path: Path) -> None:
    pushed: list[Record] = []
    async with Database(path) as database:
        database.interval = 1000.0
        store = SQLiteRecords(database)
        store.on_push = pushed.extend
        store.listening = True
        async with store, child(PUT, path) as other:
            assert await heard(other) == "ready"

            await told(other, store.address)

            await wait_until(lambda: pushed, "the result was pushed")
            assert [(record.id, record.body) for record in pushed] == [("a", b"4")]


async def test_a_lost_wake_up_costs_a_moment_and_no_message(path: Path) -> None:
    async with broker(path) as transport, child(SEND, path) as sender:
        (socket,) = await transport.database.read(
            lambda connection: [
                row[0] for row in connection.execute("SELECT path FROM listeners ORDER BY address LIMIT 1")
            ]
        )
        async with transport.consumer("deaf", ["q"], lease=60) as consumer:
            assert await heard(sender) == "ready"
            for name in os.listdir(os.path.dirname(socket)):
                if name == transport.database.address:
                    os.unlink(os.path.join(os.path.dirname(socket), name))
            await told(sender)
            assert await heard(sender) == "sent"

            (delivery,) = await consumer.receive(10, suspect=True, wait=PATIENCE)

            assert delivery.message.id == "a"


async def test_what_a_killed_process_held_runs_elsewhere(path: Path) -> None:
    async with broker(path) as transport, child(HOLD, path) as doomed:
        await transport.send([envelope("a"), envelope("b")])
        assert await heard(doomed) == "a,b"
        async with transport.consumer("alive", ["q"], lease=60) as consumer:
            assert await consumer.reclaim() == 0
            assert not await consumer.receive(10, suspect=True, wait=0)

            doomed.send_signal(signal.SIGKILL)

            await doomed.wait()
            assert await consumer.reclaim(["doomed"]) == 2
            again = await consumer.receive(10, suspect=True, wait=PATIENCE)
            assert [(each.message.id, each.deaths, each.returns) for each in again] == [("a", 1, 0), ("b", 1, 0)]


async def test_what_a_killed_sender_was_told_is_accepted_is_there(path: Path) -> None:
    accepted: list[str] = []
    async with broker(path) as transport:
        for n in range(3):
            async with child(SEND_FOR_EVER, path, f"{n}") as sender:
                while len(accepted) < (n + 1) * 200:
                    accepted += (await heard(sender)).split()
                await asyncio.sleep(random.uniform(0, 0.02))
                sender.kill()

        found = ids(await received(transport))

    assert set(accepted) <= found


async def test_two_processes_that_write_at_once_wait_for_each_other(path: Path) -> None:
    async with broker(path) as transport, child(SEND_FOR_EVER, path, "0") as sender:
        await heard(sender)
        slowest = 0.0
        for n in range(200):
            started = time.monotonic()
            await transport.send([envelope(f"own-{n}")])
            slowest = max(slowest, time.monotonic() - started)
        sender.kill()

        found = ids(await received(transport))

    assert {f"own-{n}" for n in range(200)} <= found
    assert slowest < PATIENCE


async def test_a_locked_file_is_an_error_in_time_and_loses_nothing(path: Path) -> None:
    async with broker(path, timeout=0.3) as transport:
        await transport.send([envelope("before")])
        with closing(sqlite3.connect(path, isolation_level=None)) as locking:
            locking.execute("BEGIN IMMEDIATE")
            started = time.monotonic()

            with pytest.raises(StorageError, match=r"aiotq\.db was locked by another process for 0\.3 s; nothing"):
                await transport.send([envelope("refused")])

            assert 0.25 < time.monotonic() - started < PATIENCE
            locking.execute("ROLLBACK")
        await transport.send([envelope("after")])

        assert ids(await received(transport)) == {"before", "after"}


async def test_who_comes_while_the_file_is_locked_has_a_deadline_of_its_own(path: Path) -> None:
    async with broker(path, timeout=2.4) as transport:
        with closing(sqlite3.connect(path, isolation_level=None)) as locking:
            locking.execute("BEGIN IMMEDIATE")
            first = asyncio.create_task(transport.send([envelope("early")]))
            await asyncio.sleep(2.1)
            second = asyncio.create_task(transport.send([envelope("late")]))
            with pytest.raises(StorageError):
                await first
            locking.execute("ROLLBACK")
        await second

        assert ids(await received(transport)) == {"late"}


async def test_a_lock_that_is_released_in_time_is_waited_for(path: Path) -> None:
    async with broker(path) as transport:
        with closing(sqlite3.connect(path, isolation_level=None)) as locking:
            locking.execute("BEGIN IMMEDIATE")
            sending = asyncio.create_task(transport.send([envelope("patient")]))
            await asyncio.sleep(0.1)
            assert not sending.done()
            locking.execute("ROLLBACK")
        await sending

        assert ids(await received(transport)) == {"patient"}


async def test_a_cancelled_send_that_had_not_begun_is_not_sent(path: Path) -> None:
    async with broker(path) as transport:
        with closing(sqlite3.connect(path, isolation_level=None)) as locking:
            locking.execute("BEGIN IMMEDIATE")
            sending = asyncio.create_task(transport.send([envelope("cancelled")]))
            await asyncio.sleep(0.05)
            sending.cancel()
            await asyncio.wait({sending})
            locking.execute("ROLLBACK")
        await transport.send([envelope("sent")])

        assert ids(await received(transport)) == {"sent"}


async def test_a_full_disk_is_an_error_and_loses_nothing(path: Path) -> None:
    async with broker(path, max_pages=300) as transport:
        accepted = 0
        with pytest.raises(StorageError, match=r"aiotq\.db can't grow, the disk is full: nothing was written"):
            while True:
                await transport.send([envelope(f"{accepted}", 10_000)])
                accepted += 1
        assert accepted > 10

        found = ids(await received(transport, 5))
        assert len(found) >= 5
        await transport.send([envelope("room again")])

        found |= ids(await received(transport))
    assert found == {*(f"{n}" for n in range(accepted)), "room again"}


async def test_a_log_that_can_not_grow_is_an_error_and_loses_nothing(path: Path) -> None:
    async with child(FILL, path) as filling:
        accepted, _, error = (await heard(filling)).partition(" ")
        assert str(path) in error
        assert await heard(filling) == "sent"
        assert await filling.wait() == 0

    assert int(accepted) > 5
    async with broker(path) as transport:
        assert ids(await received(transport)) == {*(f"{n}" for n in range(int(accepted))), "last"}


@pytest.mark.parametrize("value", ["text", 4, 4.5, "\x00"])
@pytest.mark.parametrize("column", ["data", "priority", "deaths", "returns"])
async def test_a_row_with_values_of_other_types_hurts_nobody(path: Path, column: str, value: object) -> None:
    async with broker(path) as transport:
        await transport.send([envelope("first"), envelope("odd"), envelope("last")])
        with closing(sqlite3.connect(path)) as junk, junk:
            junk.execute(f"UPDATE messages SET {column} = ? WHERE id = 'odd'", (value,))

        found = ids(await received(transport))

        assert {"first", "last"} <= found
        letters = await transport.dead_letters()
        assert found | {letter.message.id if letter.message else "odd" for letter in letters} == {
            "first",
            "odd",
            "last",
        }
        if column == "data":
            assert [letter.reason for letter in letters] == ["malformed"]
