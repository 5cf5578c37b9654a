"""Which SQLite files are opened, how, and what is said about those that are not."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from aiotq import AioTQ
from aiotq.backends.sqlite.connection import Database
from aiotq.backends.sqlite.opening import network_file_system, path_from_url
from aiotq.backends.sqlite.schema import APPLICATION_ID, SCHEMA_VERSION
from aiotq.backends.sqlite.sql import Transaction
from aiotq.exceptions import InvalidSetting, Refused, StorageError, StorageGone

from ..waiting import wait_until


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///aiotq.db", "aiotq.db"),
        ("sqlite:///data/aiotq.db", "data/aiotq.db"),
        ("sqlite:///../aiotq.db", "../aiotq.db"),
        ("sqlite:////var/lib/aiotq.db", "/var/lib/aiotq.db"),
        ("sqlite:////var/my%20data/100%25.db", "/var/my data/100%.db"),
    ],
)
def test_a_url_names_a_file(url: str, path: str) -> None:
    assert path_from_url(url) == Path(path)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("sqlite://", "the name of a file"),
        ("sqlite:///", "the name of a file"),
        ("sqlite:////var/lib/", "the name of a file"),
        ("sqlite://aiotq.db", "sqlite:///aiotq.db"),
        ("sqlite://data/aiotq.db", "sqlite:///data/aiotq.db"),
        ("sqlite:///aiotq.db?mode=ro", "nothing behind the path"),
        ("sqlite:///a%00b", "the name of a file"),
        ("redis://localhost", "sqlite:///relative.db"),
    ],
)
def test_a_url_that_names_no_file_says_what_would(url: str, hint: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        path_from_url(url)

    assert hint in str(raised.value)


MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:40 / /home rw,relatime shared:7 - nfs4 server:/home rw,vers=4.2
31 30 8:1 / /home/me/local\\040disk rw - xfs /dev/sdb1 rw
32 27 0:41 / /mnt/share rw,relatime shared:8 master:1 - cifs //server/share rw
33 27 0:42 / /mnt/ssh rw - fuse.sshfs me@host:/ rw
34 27 0:43 / /data rw - nfs server:/data rw
35 27 8:2 / /data rw - ext4 /dev/sdc1 rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/aiotq.db", None),
        ("/home/me/aiotq.db", "nfs4"),
        ("/home/me/local disk/aiotq.db", None),
        ("/homes/aiotq.db", None),
        ("/mnt/share/aiotq.db", "cifs"),
        ("/mnt/ssh/aiotq.db", "fuse.sshfs"),
        ("/data/aiotq.db", None),
    ],
)
def test_the_file_system_is_that_of_the_nearest_and_latest_mount(path: str, kind: str | None) -> None:
    assert network_file_system(path, MOUNTS) == kind


def test_without_a_list_of_mounts_every_path_is_local() -> None:
    assert network_file_system("/home/me/aiotq.db", "") is None


async def test_a_file_on_a_network_drive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotq.backends.sqlite.opening.network_file_system", lambda path, mountinfo: "nfs4")

    with pytest.raises(StorageError, match=r"network file system \(nfs4\)"):
        await Database(tmp_path / "aiotq.db").__aenter__()

    assert not (tmp_path / "aiotq.db").exists()


async def test_nobody_else_can_read_a_new_file_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with Database(tmp_path / "aiotq.db") as database:
            await database.write(lambda transaction: transaction.execute("DELETE FROM results").rowcount)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)

    assert modes == {"aiotq.db": 0o600, "aiotq.db-wal": 0o600, "aiotq.db-shm": 0o600}


async def refused(path: Path) -> str:
    with pytest.raises(StorageError) as raised:
        await Database(path).__aenter__()
    assert str(path) in str(raised.value)
    return str(raised.value)


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'missing'} does not exist" in await refused(tmp_path / "missing" / "aiotq.db")


async def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert "is a directory" in await refused(tmp_path)


async def test_what_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader, " * 100)

    assert "is not a SQLite database" in await refused(path)

    assert path.read_text() == "Dear reader, " * 100


async def test_a_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE messages (text)")
    before = path.read_bytes()

    assert "another program" in await refused(path)

    assert path.read_bytes() == before


@pytest.mark.parametrize(("version", "word"), [(SCHEMA_VERSION + 1, "newer"), (SCHEMA_VERSION - 1, "older")])
async def test_a_file_of_another_version_is_refused(tmp_path: Path, version: int, word: str) -> None:
    path = tmp_path / "aiotq.db"
    async with Database(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        connection.execute(f"PRAGMA user_version = {version}")

    assert f"was made by a {word} aiotq" in await refused(path)


async def test_an_empty_file_becomes_ours(tmp_path: Path) -> None:
    path = tmp_path / "aiotq.db"
    path.touch()

    async with Database(path) as database:
        assert await database.read(lambda connection: connection.execute("SELECT * FROM messages").fetchall()) == []


async def test_many_may_make_the_same_file_at_once(tmp_path: Path) -> None:
    databases = [Database(tmp_path / "aiotq.db") for _ in range(8)]

    await asyncio.gather(*(database.__aenter__() for database in databases))

    assert len({database.address for database in databases}) == 8
    await asyncio.gather(*(database.__aexit__() for database in databases))


@contextmanager
def locked(path: Path, statements: str) -> Iterator[None]:
    """Let another connection hold the empty file's lock meanwhile."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements.split("; "):
            other.execute(statement)
        yield


LOCKS = pytest.mark.parametrize("lock", ["begin exclusive", "pragma journal_mode = wal; begin immediate"])


@LOCKS
async def test_an_empty_file_that_stays_locked_is_an_error_in_time(tmp_path: Path, lock: str) -> None:
    path = tmp_path / "a.db"

    with locked(path, lock):
        async with asyncio.timeout(5):
            with pytest.raises(StorageError, match=r"locked by another process for 0\.1 s"):
                async with Database(path, timeout=0.1):
                    pass
    async with Database(path):
        pass


@LOCKS
async def test_who_does_not_wait_any_longer_for_a_locked_file_is_not_kept_waiting(
    tmp_path: Path, lock: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(tmp_path / "a.db", timeout=60)

    with locked(database.path, lock):
        opening = asyncio.create_task(database.__aenter__())
        await wait_until(lambda: database._writer, "it is being opened")
        opening.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await opening
    async with database:  # it can be opened when the lock is gone
        pass

    assert not caplog.records


async def test_the_last_to_leave_closes_it(tmp_path: Path) -> None:
    database = Database(tmp_path / "aiotq.db")
    before = threading.active_count()
    async with database:
        async with database:
            pass
        assert await database.read(lambda connection: connection.execute("SELECT 1").fetchone()) == (1,)

    assert threading.active_count() == before
    assert [path.name for path in tmp_path.iterdir()] == ["aiotq.db"]
    with pytest.raises(StorageError, match="is not open"):
        await database.read(lambda connection: None)


async def test_leaving_is_finished_though_it_is_cancelled(tmp_path: Path) -> None:
    database = Database(tmp_path / "aiotq.db")
    before = threading.active_count()
    await database.__aenter__()
    leaving = asyncio.create_task(database.__aexit__())
    await asyncio.sleep(0)

    leaving.cancel()
    await asyncio.wait({leaving})

    assert leaving.cancelled()
    assert threading.active_count() == before
    assert [path.name for path in tmp_path.iterdir()] == ["aiotq.db"]


async def test_it_can_be_opened_again(tmp_path: Path) -> None:
    database = Database(tmp_path / "aiotq.db")
    for _ in range(3):
        async with database:
            assert await database.write(lambda transaction: 4) == 4


def answer(number: int, _: Transaction) -> int:
    return number


def insert(name: str | None, transaction: Transaction) -> int:
    sql = "INSERT INTO revocations (id, is_terminating, expires) VALUES (?, 0, 0)"
    return transaction.execute(sql, (name,)).rowcount


async def test_what_was_asked_for_is_finished_before_it_closes(tmp_path: Path) -> None:
    async with Database(tmp_path / "aiotq.db") as database:
        writing = [asyncio.create_task(database.write(partial(answer, n))) for n in range(50)]
        await asyncio.sleep(0)

    assert await asyncio.gather(*writing) == list(range(50))


async def test_a_file_that_is_removed_while_in_use_is_an_error(tmp_path: Path) -> None:
    """Otherwise what is accepted would be written to a file that nobody can open."""
    async with Database(tmp_path / "aiotq.db") as database:
        for path in tmp_path.iterdir():
            path.unlink()

        with pytest.raises(StorageError, match="was removed while it was in use"):
            await database.write(lambda transaction: None)

        (tmp_path / "aiotq.db").touch()
        with pytest.raises(StorageError, match="was replaced while it was in use"):
            await database.write(lambda transaction: None)


async def test_a_forked_child_is_told_to_open_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Database(tmp_path / "aiotq.db") as database:
        parent = os.getpid()
        with monkeypatch.context() as child:
            child.setattr("aiotq.backends.sqlite.connection.os.getpid", lambda: parent + 1)
            with pytest.raises(StorageError, match="before this process was forked"):
                await database.write(lambda transaction: None)

        assert await database.write(lambda transaction: 4) == 4


async def test_durable_and_other_writes_may_alternate(tmp_path: Path) -> None:
    """SQLite runs this pragma when it compiles it: a cached statement must not keep it from being set."""
    async with Database(tmp_path / "aiotq.db") as database:
        for durable in (True, False, True, False, True):
            (level,) = await database.write(
                lambda transaction: transaction.execute("PRAGMA synchronous").fetchone(), durable=durable
            )
            assert level == (2 if durable else 1)


async def test_a_write_that_fails_fails_alone(tmp_path: Path) -> None:
    async with Database(tmp_path / "aiotq.db") as database:
        names = ("a", "b", "a", "c", None)
        answers = await asyncio.gather(
            *(database.write(partial(insert, name)) for name in names), return_exceptions=True
        )
        rows = await database.read(lambda connection: connection.execute("SELECT id FROM revocations").fetchall())

    assert [type(each) for each in answers] == [int, int, Refused, int, Refused]
    assert sorted(rows) == [("a",), ("b",), ("c",)]


async def test_a_worker_whose_file_is_gone_fails_so_that_it_can_be_started_again(tmp_path: Path) -> None:
    app = AioTQ("gone", broker=f"sqlite:///{tmp_path}/aiotq.db")
    async with app:
        worker = app.worker()
        await worker.__aenter__()
        for path in tmp_path.iterdir():
            path.unlink()

        async with asyncio.timeout(10):
            with pytest.raises((StorageGone, ExceptionGroup)) as caught:
                await worker.wait()
    assert _has(caught.value, StorageGone)


def _has(error: BaseException, kind: type[BaseException]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_has(each, kind) for each in error.exceptions)
    return isinstance(error, kind)


def test_a_percent_sign_that_begins_no_character_is_refused() -> None:
    """It would name another file than the one that was meant."""
    with pytest.raises(InvalidSetting, match="%25 for a percent sign"):
        path_from_url("sqlite:///per%cent.db")
    assert path_from_url("sqlite:///per%25cent.db") == Path("per%cent.db")
