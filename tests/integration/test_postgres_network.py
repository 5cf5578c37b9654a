"""The way to a PostgreSQL: a pooler, TLS, several hosts, and a standby that takes over."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from aiotq import AioTQ, chord
from aiotq.exceptions import OperationalError

from ..certificates import make_certificates
from ..postgres_beside import PgBouncer, Standby, readable_by_postgres
from ..servers import PostgresServer, shared_postgres, temporary
from ..waiting import wait_until


class Work:
    """An app whose tasks are counted as they begin; `hold` waits for `gate`."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.app = AioTQ("x", broker=url, **settings)
        self.gate = asyncio.Event()
        self.began = Counter[int]()

        @self.app.task(name="x.double")
        async def double(x: int) -> int:
            self.began[x] += 1
            return 2 * x

        @self.app.task(name="x.hold")
        async def hold(x: int) -> int:
            self.began[x] += 1
            await self.gate.wait()
            return 2 * x

        @self.app.task(name="x.total")
        async def total(numbers: list[int]) -> int:
            return sum(numbers)

        self.double, self.hold, self.total = double, hold, total


@pytest.fixture(scope="module")
def bouncer() -> Iterator[PgBouncer]:
    with PgBouncer(shared_postgres()) as bouncer:
        yield bouncer


def fresh() -> str:
    return f"schema=net_{os.urandom(6).hex()}"


async def test_through_a_pooler_in_transaction_mode_all_works_and_is_looked_for(
    bouncer: PgBouncer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More connections than the pooler has to the server, each of which serves whoever asks next."""
    monkeypatch.setattr("aiotq.backends.postgres.listening._ECHO", 0.3)  # seconds that it waits for what never comes
    work = Work(f"{bouncer.url}?{fresh()}")
    async with work.app, work.app.worker(), work.app.worker():
        assert "no notifications come (a pooler in transaction mode passes none on)" in caplog.text
        results = await work.app.send_many(work.double.s(n) for n in range(200))
        late = await work.double.options(countdown=0.3, priority=9).delay(500)
        whole = await chord([work.double.s(n) for n in range(1000, 1010)], work.total.s()).apply_async()

        assert await results.get(timeout=20) == [2 * n for n in range(200)]
        assert await late.get(timeout=20) == 1000
        assert await whole.get(timeout=20) == sum(2 * n for n in range(1000, 1010))
        revoked = await work.double.options(countdown=60).delay(600)
        await revoked.revoke()
        assert not await work.app.admin.dead_letters()
    assert set(work.began.values()) == {1}


async def test_with_a_direct_url_for_notifications_nothing_is_looked_for(
    bouncer: PgBouncer, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(f"{bouncer.url}?{fresh()}&listen={quote(shared_postgres().url, safe='')}")
    async with work.app, work.app.worker():
        assert await (await work.double.delay(21)).get(timeout=20) == 42
        connection = await work.app._core.connection()
        assert connection.bus.heard > 0
    assert "no notifications" not in caplog.text


@pytest.fixture(scope="module")
def certificates() -> Iterator[Path]:
    with temporary("certificates-", None) as name:
        directory = make_certificates(Path(name))
        directory.chmod(0o755)  # the server is another user
        yield directory


@pytest.fixture
def encrypted(certificates: Path) -> Iterator[PostgresServer]:
    key = readable_by_postgres(certificates / "server.key")
    with PostgresServer({"ssl": "on", "ssl_cert_file": certificates / "server.pem", "ssl_key_file": key}) as server:
        yield server


async def test_over_tls_a_standby_that_is_promoted_takes_over_and_nothing_is_lost(
    encrypted: PostgresServer, certificates: Path
) -> None:
    with Standby(encrypted) as standby:
        hosts = f"127.0.0.1:{encrypted.port},127.0.0.1:{standby.port}"
        base = f"postgresql://aiotq@{hosts}/postgres?{fresh()}&connect_timeout=2"
        wrong = Work(f"{base}&sslmode=verify-full&sslrootcert={certificates}/another_ca.pem")
        with pytest.raises(OperationalError, match="certificate verify failed"):
            async with wrong.app:
                await wrong.app.admin.queues()

        work = Work(
            f"{base}&sslmode=verify-full&sslrootcert={certificates}/ca.pem",
            task_publish_timeout=30.0,
            worker_lease=30.0,
        )
        async with work.app, work.app.worker():
            held = await work.hold.delay(1)
            await wait_until(lambda: work.began[1], "it runs")
            (plain,) = encrypted.ask(
                "select count(*) from pg_stat_activity join pg_stat_ssl using (pid)"
                " where application_name = 'aiotq' and not ssl"
            )
            assert plain == (0,)
            later = [await work.double.options(countdown=0.5).delay(n) for n in range(100, 150)]

            await asyncio.to_thread(encrypted.kill)
            sending = asyncio.create_task(work.double.delay(7))
            await asyncio.to_thread(standby.promote)
            work.gate.set()

            assert await held.get(timeout=30) == 2
            assert await (await sending).get(timeout=30) == 14
            assert [await each.get(timeout=30) for each in later] == [2 * n for n in range(100, 150)]
        assert work.began == Counter([1, 7, *range(100, 150)])
