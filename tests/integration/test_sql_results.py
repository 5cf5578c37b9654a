"""Results in SQL databases: the table, what a database refuses, and one that was away."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from aiotq import AioTQ
from aiotq.backends.base import backend_class
from aiotq.backends.sql.address import parse, shown
from aiotq.backends.sql.connection import SqlClient
from aiotq.backends.sql.records import SqlRecords
from aiotq.exceptions import ConnectionLost, InvalidSetting, NotConnected, OperationalError, Refused
from aiotq.results import Record
from aiotq.states import SUCCESS
from tests.store_servers import MariaServer, results_in_maria
from tests.waiting import wait_until


def done(task_id: str, *, lasts: float = 1000.0) -> Record:
    return Record(task_id, SUCCESS, b"4", "application/json", time.time() + lasts)


async def test_an_app_keeps_results_in_a_table_that_people_can_read(tmp_path: Path) -> None:
    app = AioTQ("proj", broker="memory://", backend=f"db+sqlite:///{tmp_path}/results.db", result_extended=True)

    @app.task(name="proj.double")
    async def double(x: int) -> int:
        return 2 * x

    async with app, app.worker(name="w1"):
        results = [await double.delay(x) for x in range(50)]
        assert [await each.get(timeout=10) for each in results] == [2 * x for x in range(50)]
        assert await app.AsyncResult(results[7].id).get(timeout=10) == 14

    with closing(sqlite3.connect(tmp_path / "results.db")) as file:
        rows = file.execute("SELECT status, name, worker, retries, queue, count(*) FROM celery_taskmeta").fetchall()
        (ended,) = file.execute("SELECT date_done FROM celery_taskmeta LIMIT 1").fetchone()
    assert rows == [("SUCCESS", "proj.double", "w1", 0, "default", 50)]
    assert ended[:4] == str(time.gmtime().tm_year)


async def test_the_table_is_made_once_by_whoever_may(tmp_path: Path) -> None:
    url = f"db+sqlite:///{tmp_path}/results.db"
    told = SqlClient(parse(url), migrates=False)
    with pytest.raises(OperationalError, match="celery_taskmeta is not there: `aiotq migrate-db` makes it"):
        await told.__aenter__()

    clients = [SqlClient(parse(results_in_maria())) for _ in range(4)]
    await asyncio.gather(*(client.__aenter__() for client in clients))
    await asyncio.gather(*(client.__aexit__() for client in clients))

    kind = backend_class(url)
    assert kind is not None
    assert [bool(await kind.migrate(url)), await kind.migrate(url)] == [True, 0]
    async with told:
        pass


async def test_what_has_expired_is_deleted_although_nobody_asks_for_it(tmp_path: Path) -> None:
    client = SqlClient(parse(f"db+sqlite:///{tmp_path}/results.db"))
    async with SqlRecords(client) as store:
        await store.put([done("a", lasts=-1.0), done("b")])
        store._cleaned -= 3600
        await store.put([done("c")])

    with closing(sqlite3.connect(tmp_path / "results.db")) as file:
        assert file.execute("SELECT task_id FROM celery_taskmeta ORDER BY task_id").fetchall() == [("b",), ("c",)]


async def test_what_a_database_refuses_and_one_that_was_away_are_told_apart() -> None:
    with MariaServer() as server:
        url = server.database()
        async with SqlRecords(SqlClient(parse(url))) as store:
            await store.put([done("a"), done("A"), done("ü" * 155)])
            assert None not in await store.get(["a", "A", "ü" * 155])
            with pytest.raises(Refused, match="Data too long for column 'task_id'"):
                await store.put([done("x" * 156)])

            server.kill()
            with pytest.raises(ConnectionLost, match=rf"db\+mysql://127.0.0.1:{server.port}/test_1: "):
                await store.get(["a"])
            with pytest.raises(NotConnected):
                await SqlClient(parse(url)).__aenter__()
            server.start()

            async def kept_again() -> bool:
                try:
                    await store.put([done("b")])
                except ConnectionLost:
                    return False
                return True

            await wait_until(kept_again, "the store is connected again")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("db+sqlite://", "it names no database"),
        ("db+mysql://host:x/y", "it can't be read"),
        ("db+sqlite+pysqlite:///x", "'pysqlite' has no coroutines: leave it away, which takes aiosqlite"),
        ("db+sqlite+nosuch:///x", "no driver 'nosuch' for sqlite"),
    ],
)
async def test_a_url_that_cant_be_used_says_why(url: str, problem: str) -> None:
    with pytest.raises(InvalidSetting, match=problem):
        await AioTQ("proj", broker="memory://", backend=url).send_task("proj.add")


def test_a_url_is_shown_without_its_password() -> None:
    assert shown(parse("db+mysql://me:secret@host/db")) == "db+mysql://host/db"
    assert parse("db+mysql://me@host/db").query["charset"] == "utf8mb4"
