"""Calls that are left in a table of the user's database, in the user's transaction, and sent from there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, cast

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from aiotq import AioTQ, chord
from aiotq.backends.sql.address import parse
from aiotq.backends.sql.connection import make_engine
from aiotq.backends.sql.outbox import OUTBOX, Taken, migrate
from aiotq.calling.outbox import unpack_parcel
from aiotq.exceptions import CallError, ConnectionLost
from aiotq.results import ScheduleChange
from aiotq.worker import relay
from tests import django_here
from tests.store_servers import results_in_maria, results_in_postgres
from tests.waiting import wait_until

#: Databases, by their kinds.
DATABASES: Final[dict[str, Callable[[Path], str]]] = {
    "sqlite": lambda directory: f"db+sqlite:///{directory}/shop.db",
    "postgresql": lambda _: results_in_postgres(),
    "mariadb": lambda _: results_in_maria(),
}
RAN: Final = Counter[int]()


class Undone(Exception):
    """Ends a transaction that is not to be committed."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_LONGEST", 0.05)
    RAN.clear()


def make_app(outbox: str | None, **settings: Any) -> AioTQ:
    app = AioTQ("shop", **{"broker": "memory://", "outbox": outbox, **settings})

    @app.task(name="charge")
    async def charge(order: int) -> int:
        RAN[order] += 1
        return order * 10

    @app.task(name="total")
    async def total(amounts: list[int]) -> int:
        return sum(amounts)

    return app


@asynccontextmanager
async def shop(url: str) -> AsyncIterator[Any]:
    """A session factory of the user's, in a database whose outbox is empty."""
    await migrate(url)
    engine = make_engine(parse(url))
    try:
        async with engine.begin() as connection:
            await connection.execute(OUTBOX.delete())
        yield lambda: AsyncSession(engine)
    finally:
        await engine.dispose()


async def left(session: Any) -> list[str]:
    async with session() as reading:
        return list(await reading.scalars(sa.select(OUTBOX.c.id)))


@pytest.mark.parametrize("kind", DATABASES)
async def test_what_is_committed_is_sent_once_and_what_rolls_back_never(kind: str, tmp_path: Path) -> None:
    url = DATABASES[kind](tmp_path)
    app = make_app(url)
    charge = app.tasks["charge"]
    async with shop(url) as session, app:
        async with session() as ours, ours.begin():
            one = await app.outbox(ours).call(charge.s(1))
            many = await app.outbox(ours).send_many(charge.s(n) for n in range(2, 200))
            whole = await app.outbox(ours).call(chord([charge.s(500), charge.s(501)], app.tasks["total"].s()))
        with pytest.raises(Undone):
            async with session() as ours, ours.begin():
                await app.outbox(ours).call(charge.s(1000))
                raise Undone

        async with app.worker(), app.worker():
            assert await one.get(timeout=20) == 10
            assert await many.get(timeout=20) == [10 * n for n in range(2, 200)]
            assert await whole.get(timeout=20) == 10_010

            async def is_empty() -> bool:
                connection = await app._core.connection()
                return not await left(session) and not await connection.ledger.schedules("outbox:shop")

            await wait_until(is_empty, "nothing is left of what was sent")
    assert Counter([*range(1, 200), 500, 501]) == RAN


@pytest.mark.parametrize("results", [None, "ordered"])
async def test_what_was_sent_when_the_database_was_lost_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, results: str | None
) -> None:
    """The commit of the taking fails behind the sending, and a row of the ledger of long ago is left."""
    url = DATABASES["sqlite"](tmp_path)
    app = make_app(url, backend=results and f"sqlite:///{tmp_path}/results.db")
    failures = iter([ConnectionLost("the database is gone"), ConnectionLost("once more")])

    async def delete(self: Taken, names: Any) -> None:
        if (failure := next(failures, None)) is not None:
            raise failure
        await deleted(self, names)

    deleted = Taken.delete
    monkeypatch.setattr(Taken, "delete", delete)
    async with shop(url) as session, app:
        ledger = (await app._core.connection()).ledger
        await ledger.change_schedules([ScheduleChange("outbox:shop", "old", "", "old", b"1.5")])
        async with session() as ours, ours.begin():
            called = [await app.outbox(ours).call(app.tasks["charge"].s(n)) for n in range(3)]
        async with app.worker():
            assert [await each.get(timeout=20) for each in called] == [0, 10, 20]

            async def is_empty() -> bool:
                return not await left(session) and not await ledger.schedules("outbox:shop")

            await wait_until(is_empty, "all is deleted in the end")
    assert Counter(range(3)) == RAN


async def test_a_parcel_that_cant_be_sent_stays_with_the_reason_and_holds_up_no_other(tmp_path: Path) -> None:
    url = DATABASES["sqlite"](tmp_path)
    app = make_app(url)
    async with shop(url) as session, app:
        async with session() as ours, ours.begin():
            await ours.execute(OUTBOX.insert().values(id="0", parcel="no parcel"))
            called = await app.outbox(ours).call(app.tasks["charge"].s(7))
        async with app.worker():
            assert await called.get(timeout=20) == 70

            async def reasons() -> str:
                async with session() as reading:
                    return str(list(await reading.execute(sa.select(OUTBOX.c.id, OUTBOX.c.refused))))

            async def only_it_is_left() -> bool:
                return await reasons() == "[('0', 'it is no parcel: Error: Only base64 data is allowed')]"

            await wait_until(only_it_is_left, "only what can't be sent is left, with the reason")


@contextmanager
def _alchemy(url: str) -> Iterator[Any]:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with Session(engine) as session, session.begin():
        yield session
    engine.dispose()


@contextmanager
def _psycopg(url: str) -> Iterator[Any]:
    with psycopg.connect(url) as connection:
        yield connection


def test_plain_code_leaves_calls_with_its_commit() -> None:
    url = results_in_postgres()
    app = make_app(url)
    asyncio.run(migrate(url))
    for begin in (_alchemy, _psycopg):
        with begin(url.removeprefix("db+")) as ours:
            app.outbox(ours).sync.call(app.tasks["charge"].s(1))
    app.sync(app.close)
    app._core.bridge.stop()
    with psycopg.connect(url.removeprefix("db+"), autocommit=True) as connection:
        rows = connection.execute("delete from aiotq_outbox returning parcel").fetchall()
        assert [len(unpack_parcel(text).envelopes) for (text,) in rows] == [1, 1]
        with pytest.raises(CallError, match="no transaction is open"):
            app.outbox(connection).sync.call(app.tasks["charge"].s(1))


async def test_asyncpg_and_a_database_without_the_table() -> None:
    url = results_in_postgres()
    app = make_app(url)
    await migrate(url)
    connection = await asyncpg.connect(url.removeprefix("db+"))
    try:
        async with app:
            async with connection.transaction():
                await app.outbox(connection).call(app.tasks["charge"].s(1))
                assert await connection.fetchval("select count(*) from aiotq_outbox") >= 1
                await connection.execute("delete from aiotq_outbox")
            with pytest.raises(CallError, match="no table aiotq_outbox: is it the one that the setting outbox names"):
                async with connection.transaction():
                    await connection.execute("create schema if not exists elsewhere")
                    await connection.execute("set local search_path = elsewhere")
                    await app.outbox(connection).call(app.tasks["charge"].s(1))
    finally:
        await connection.close()


def test_djangos_transactions_leave_calls_too() -> None:
    django_here.set_up()
    from django.db import connection, transaction  # noqa: PLC0415  # needs a configured project

    app = make_app("db+sqlite:///shop.db")
    with connection.cursor() as cursor:
        cursor.execute("create table aiotq_outbox (id varchar(40) primary key, parcel text not null, refused text)")
        try:
            with cast("Any", transaction).atomic():
                app.outbox(connection).sync.call(app.tasks["charge"].s(1))
            cursor.execute("select parcel from aiotq_outbox")
            assert [len(unpack_parcel(text).envelopes) for (text,) in cursor.fetchall()] == [1]
            with pytest.raises(CallError, match="no transaction is open here"):
                app.outbox(connection).sync.call(app.tasks["charge"].s(1))
        finally:
            cursor.execute("drop table aiotq_outbox")
    app.sync(app.close)
    app._core.bridge.stop()
    connection.close()


async def test_a_call_with_a_key_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    url = DATABASES["sqlite"](tmp_path)
    app = make_app(url)
    async with shop(url) as session, app:
        async with session() as own, own.begin():
            with pytest.raises(CallError, match="a transaction can't send a call with a key"):
                await app.outbox(own).call(app.tasks["charge"].s(1).set(idempotency_key="order-1"))
        assert await left(session) == []


def test_without_the_setting_nothing_is_left() -> None:
    with pytest.raises(CallError, match="set outbox to the URL of its database"):
        make_app(None).outbox(object())
