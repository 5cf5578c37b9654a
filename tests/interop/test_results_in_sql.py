"""Results in databases as Celery keeps them: each side reads what the other has stored, in a table that either made."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from aiotq import AioTQ
from aiotq.exceptions import ContentDisallowed, TaskRevokedError

from ..store_servers import results_in_maria, results_in_postgres
from .celery_process import CeleryClient, CeleryError

#: How to have a database, and what Celery calls the driver for it.
DATABASES: Final[dict[str, tuple[Callable[[Path], str], str]]] = {
    "sqlite": (lambda directory: f"db+sqlite:///{directory}/results.db", "sqlite"),
    "postgresql": (lambda _: results_in_postgres(), "postgresql+psycopg"),
    "mysql": (lambda _: results_in_maria(), "mysql+pymysql"),
}


def fresh() -> str:
    return f"task-{os.urandom(6).hex()}"


@pytest.mark.parametrize("kind", DATABASES)
async def test_each_side_reads_what_the_other_has_stored(kind: str, tmp_path: Path) -> None:
    make, driver = DATABASES[kind]
    url = make(tmp_path)
    app = AioTQ("ours", broker="memory://", backend=url, celery_compat=True, result_extended=True)

    @app.task(name="ours.add")
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="ours.fail")
    async def fail(*args: Any) -> None:
        await add.delay(1, 1)
        raise ValueError(*args)

    theirs = url.replace(f"db+{kind}", f"db+{driver}")
    # Of SQLite the table is Celery's, made as of old: without the columns that extend a result, and ours.
    with CeleryClient("memory://", theirs, {"result_extended": kind != "sqlite"}) as celery:
        stored, failed, waited = fresh(), fresh(), fresh()
        if kind == "sqlite":
            await celery.ask("store", stored, {"a": [1, 2]})
        async with app, app.worker(queues=["celery"]):
            result = await add.s(2, 2).stamp(team="blue").apply_async()
            assert await result.get(timeout=10) == 4
            assert await celery.ask("get", result.id) == 4
            assert await celery.ask("state", result.id) == "SUCCESS"
            broken = await app.send_task("ours.fail", ("bad", 7))
            with pytest.raises(ValueError, match="bad"):
                await broken.get(timeout=10)
            with pytest.raises(CeleryError) as caught:
                await celery.ask("get", broken.id)
            assert (caught.value.kind, caught.value.text) == ("builtins.ValueError", "('bad', 7)")
            assert "in fail" in await celery.ask("traceback", broken.id)
            assert await celery.ask("children", broken.id) == [child.id for child in await broken.children()]
            revoked_id = fresh()
            await app.AsyncResult(revoked_id).revoke()
            revoked = await app.send_task("ours.add", (1, 1), countdown=0.2, task_id=revoked_id)
            with pytest.raises(TaskRevokedError):
                await revoked.get(timeout=10)
            assert await celery.ask("state", revoked.id) == "REVOKED"

            await celery.ask("store", stored, {"a": [1, 2]})
            assert await app.AsyncResult(stored).get(timeout=10) == {"a": [1, 2]}
            await celery.ask("store", failed, "boom", state="FAILURE")
            with pytest.raises(ValueError, match="boom"):
                await app.AsyncResult(failed).get(timeout=10)
            await celery.ask("store", waited, {"done": 1}, state="PROGRESS")
            assert await app.AsyncResult(waited).info() == {"done": 1}
            await celery.ask("store", waited, 7)
            assert await app.AsyncResult(waited).get(timeout=10) == 7
            await result.forget()
            assert await celery.ask("state", result.id) == "PENDING"


async def test_what_a_celery_wrote_over_or_pickled_is_told_as_it_stands(tmp_path: Path) -> None:
    url = f"db+sqlite:///{tmp_path}/results.db"
    app = AioTQ("ours", broker="memory://", backend=url, celery_compat=True)

    @app.task(name="ours.steps", bind=True)
    async def steps(self: Any) -> None:
        await self.update_state(state="PROGRESS", meta={"done": 1})
        await app.AsyncResult("the end").get(timeout=20)

    async with app, app.worker(queues=["celery"]):
        result = await app.send_task("ours.steps")
        async for state in result.updates():
            if state.state == "PROGRESS":
                break
        with CeleryClient("memory://", url) as celery:
            await celery.ask("store", result.id, {"done": 2}, state="PROGRESS")
            assert await app.AsyncResult(result.id).info() == {"done": 2}
            await celery.ask("store", "the end", 0)
        await result.get(timeout=10)
        with CeleryClient("memory://", url, {"result_serializer": "pickle"}) as celery:
            await celery.ask("store", "pickled", 1)
            with pytest.raises(ContentDisallowed, match="x-celery"):
                await app.AsyncResult("pickled").get(timeout=10)
