"""With encryption keys nothing of what a task is given, says or returns can be read where it is kept, or is shown."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aiotq import AioTQ, AsyncResult, Reject, Task, chain, chord
from aiotq.core.inside import core_of
from aiotq.exceptions import DecodeError
from aiotq.results.index import FinishedQuery

from ..waiting import wait_until
from .conftest import MakeApp

BROKERS_HERE = ("sqlite",)  # whose file can be read; what is in it is in other stores too
OLD, NEW = "an old secret of more than 32 letters", "a new secret of more than 32 letters"
#: What nobody may see.
SECRET = "xyzzy"


def declare(app: AioTQ) -> dict[str, Task[..., Any]]:
    @app.task(name="secret.join")
    async def join(*given: Any) -> str:
        return f"{SECRET}.{given}"

    @app.task(name="secret.again", bind=True, max_retries=1, default_retry_delay=0)
    async def again(self: Task[..., Any], text: str) -> str:
        await self.update_state("WORKING", text)
        if not self.request.retries:
            await self.checkpoint(text)
            raise self.retry(exc=ValueError(text))
        restored: str = await self.restored()
        return restored

    @app.task(name="secret.fails")
    async def fails(text: str) -> None:
        raise ValueError(text)

    @app.task(name="secret.rejects")
    async def rejects(text: str) -> None:
        raise Reject("as it was")

    @app.task(name="secret.says")
    async def says(text: str) -> AsyncIterator[str]:
        yield text

    return {each.name.partition(".")[2]: each for each in (join, again, fails, rejects, says)}


async def test_nothing_can_be_read_where_it_is_kept_or_shown(
    make_app: MakeApp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    app = make_app(encryption_keys=[NEW], result_index="all", result_extended=True, worker_send_task_events=True)
    t = declare(app)
    told: list[Any] = []
    async with app:
        waiting = await t["join"].options(countdown=3600).delay(SECRET)
        async with app.events.capture(timeout=20) as events:
            async with app.worker():
                flow = chain(
                    t["join"].s(SECRET),
                    chord([t["join"].s(SECRET), t["join"].s()], t["join"].s(SECRET)),
                    t["again"].s(),
                )
                assert SECRET in await (await flow.apply_async()).get(timeout=20)
                with pytest.raises(ValueError, match=SECRET):
                    await (await t["fails"].options(link_error=t["join"].si(SECRET)).delay(SECRET)).get(timeout=20)
                with pytest.raises(Exception, match="as it was"):
                    await (await t["rejects"].delay(SECRET)).get(timeout=20)
                said = await t["says"].delay(SECRET)
                assert [chunk async for chunk in said.stream()] == [SECRET]
            async for event in events:
                told.append(event)
                if event["type"] == "task-succeeded" and event["uuid"] == said.id:
                    break
        found = await (await core_of(app).connection()).records.find(FinishedQuery())
        letters = await app.admin.dead_letters()
        kept = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.name.startswith("queue.db"))

    assert waiting.id
    assert len(kept) > 5_000
    assert SECRET.encode() not in kept
    assert SECRET not in repr(told)
    assert len(found.tasks) > 5
    assert SECRET not in repr(found)
    assert letters
    shown = [record.getMessage() for record in caplog.records if "succeeded" in record.getMessage()]
    assert shown
    assert not [each for each in shown if SECRET in each]


async def test_a_key_is_changed_while_calls_wait(make_app: MakeApp) -> None:
    old, both, new = (make_app(encryption_keys=keys) for keys in ([OLD], [NEW, OLD], [NEW]))
    plain = make_app()
    tasks = {app: declare(app)["join"] for app in (old, both, new, plain)}
    async with old, both, new, plain:
        first = await tasks[old].delay(1)
        second = await tasks[plain].delay(2)
        async with both.worker():
            values = [await both.AsyncResult(each.id).get(timeout=20) for each in (first, second)]
            third = await tasks[new].delay(3)
            values.append(await third.get(timeout=20))
        with pytest.raises(DecodeError, match="a key that is not known here"):
            await old.AsyncResult(third.id).get(timeout=20)
        lost = await tasks[old].delay(4)
        async with new.worker():
            await wait_until(lambda: _ended(lost), "it is a dead letter")
            letters = await new.admin.dead_letters()

    assert values == [f"{SECRET}.({number},)" for number in (1, 2, 3)]
    assert [(letter.message and letter.message.id, letter.reason) for letter in letters] == [(lost.id, "undecodable")]


async def _ended(result: AsyncResult[Any]) -> bool:
    try:
        return await result.ready()
    except DecodeError:
        return True
