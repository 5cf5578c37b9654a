"""An app's connection lasts as long as the app or a worker of it needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path

import pytest

from aiotq import (
    AioTQ,
)
from aiotq.core.inside import core_of
from aiotq.exceptions import (
    CallError,
    InvalidSetting,
)
from aiotq.wire.message import Envelope

from .memory_work import holds, make_app, works


@pytest.fixture
def app() -> AioTQ:
    return make_app()


@pytest.mark.parametrize("broker", ["memory", "sqlite"])
async def test_a_worker_goes_on_when_the_app_is_left_and_takes_the_connection_with_it(
    broker: str, tmp_path: Path
) -> None:
    app = AioTQ("proj", broker="memory://" if broker == "memory" else f"sqlite:///{tmp_path}/proj.db")

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app.worker():
        async with app:
            connection = await core_of(app).connection()
            assert await (await add.delay(1, 1)).get(timeout=5) == 2

        assert await (await add.delay(2, 2)).get(timeout=5) == 4
        assert await core_of(app).connection() is connection
    assert not connection.is_open


async def test_a_worker_of_an_app_that_is_still_entered_leaves_the_connection_alone(app: AioTQ) -> None:
    async with app:
        connection = await core_of(app).connection()
        async with app.worker(), app:
            pass
        assert connection.is_open
    assert not connection.is_open


async def test_an_app_cannot_be_closed_under_its_worker(app: AioTQ) -> None:
    async with app:
        async with app.worker():
            with pytest.raises(CallError, match="can't disconnect while a worker of it runs"):
                await app.close()
            await works(app)
        await app.close()


async def test_settings_can_be_corrected_after_they_could_not_be_used() -> None:
    app = AioTQ("proj", broker="kafka://localhost")
    with pytest.raises(InvalidSetting):
        await core_of(app).connection()

    app.conf.broker_url = "memory://"

    async with app, app.worker():
        await works(app)


tenant: ContextVar[str | None] = ContextVar("tenant", default=None)


async def test_a_task_does_not_see_the_context_of_the_one_whose_slot_it_takes(app: AioTQ) -> None:
    @app.task
    async def act_for(name: str | None) -> str | None:
        seen = tenant.get()
        tenant.set(name)
        await gate.wait()
        return seen

    gate = asyncio.Event()
    async with app, app.worker(concurrency=1, prefetch=2):
        results = await app.send_many([act_for.s("acme"), act_for.s(None), act_for.s(None)])
        await holds(app, 3)
        gate.set()

        assert await results.get(timeout=5) == [None, None, None]


async def test_a_worker_and_a_connection_do_not_keep_the_context_of_who_made_them(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task
    async def see() -> str | None:
        return tenant.get()

    async def send(batch: Sequence[Envelope]) -> None:
        seen.append(tenant.get())
        await send_on(batch)

    seen: list[str | None] = []
    token = tenant.set("acme")
    async with app.worker():
        transport = (await core_of(app).connection()).broker
        send_on = transport.send
        monkeypatch.setattr(transport, "send", send)
        tenant.reset(token)

        assert await (await see.delay()).get(timeout=5) is None
    await app.close()

    assert seen == [None]
