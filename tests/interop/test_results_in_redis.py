"""Results in Redis as Celery keeps them: each side reads what the other has stored, and is woken by it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from aiotq import AioTQ
from aiotq.exceptions import InvalidSetting, TaskRevokedError
from aiotq.results.document import RemoteTraceback
from aiotq.results.sets import ResultSet

from ..proxy import Proxy
from ..servers import shared
from ..waiting import wait_until
from .celery_process import CeleryClient, CeleryError


def redis() -> str:
    return shared("redis").url


def fresh() -> str:
    return f"task-{os.urandom(6).hex()}"


@pytest.fixture(scope="module")
def celery() -> Iterator[CeleryClient]:
    with CeleryClient("memory://", redis()) as client:
        yield client


@pytest.fixture
async def app() -> AsyncIterator[AioTQ]:
    """An app whose results Celery reads, with a worker."""
    app = AioTQ("ours", broker="memory://", result_backend=f"{redis()}?prefix={fresh()}", celery_compat=True)

    @app.task(name="ours.add")
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="ours.fail")
    async def fail(*args: Any) -> None:
        raise ValueError(*args)

    @app.task(name="ours.calls")
    async def calls(count: int) -> list[str]:
        return [(await add.delay(number, 0)).id for number in range(count)]

    async with app, app.worker(queues=["celery"]):
        yield app


async def test_a_celery_client_gets_what_our_worker_returns(app: AioTQ, celery: CeleryClient) -> None:
    result = await app.send_task("ours.add", (2, 2))

    assert await celery.ask("get", result.id) == 4
    assert await celery.ask("state", result.id) == "SUCCESS"
    assert await result == 4


async def test_a_celery_client_that_waits_is_woken(app: AioTQ, celery: CeleryClient) -> None:
    task_id = fresh()
    waiting = asyncio.create_task(celery.ask("get", task_id))
    with shared("redis").client() as client:
        channel = f"celery-task-meta-{task_id}"
        await wait_until(lambda: client.pubsub_numsub(channel)[0][1] == 1, "the client listens")

    await app.send_task("ours.add", (2, 3), task_id=task_id)

    assert await waiting == 5


async def test_a_celery_client_gets_our_failure(app: AioTQ, celery: CeleryClient) -> None:
    result = await app.send_task("ours.fail", ("bad", 7))

    with pytest.raises(CeleryError) as caught:
        await celery.ask("get", result.id)

    assert caught.value.kind == "builtins.ValueError"
    assert caught.value.text == "('bad', 7)"
    assert "in fail" in await celery.ask("traceback", result.id)


async def test_a_celery_client_sees_the_children_of_our_task(app: AioTQ, celery: CeleryClient) -> None:
    result = await app.send_task("ours.calls", (3,))

    ids = await result

    assert await celery.ask("children", result.id) == ids
    assert [child.id for child in await result.children()] == ids


async def test_a_revoked_task_is_celerys_revoked_one(app: AioTQ, celery: CeleryClient) -> None:
    result = await app.send_task("ours.add", (1, 1), countdown=0.5)
    await result.revoke()

    with pytest.raises(CeleryError) as caught:
        await celery.ask("get", result.id)

    assert caught.value.kind == "celery.exceptions.TaskRevokedError"
    with pytest.raises(TaskRevokedError):
        await result


async def test_we_get_what_a_celery_worker_stores(app: AioTQ, celery: CeleryClient) -> None:
    stored, awaited = fresh(), fresh()
    await celery.ask("store", stored, {"a": [1, 2]})
    assert await app.AsyncResult(stored).get(timeout=10) == {"a": [1, 2]}

    waiting = asyncio.create_task(app.AsyncResult(awaited).get(timeout=10))
    with shared("redis").client() as client:
        channel = f"celery-task-meta-{awaited}"
        await wait_until(lambda: client.pubsub_numsub(channel)[0][1] == 1, "we listen")
    began = asyncio.get_running_loop().time()
    await celery.ask("store", awaited, "x" * 100_000)

    assert await waiting == "x" * 100_000
    assert asyncio.get_running_loop().time() - began < 4, "we were woken, and did not look by chance"
    with shared("redis").client() as client:
        await wait_until(lambda: client.pubsub_numsub(channel)[0][1] == 0, "we listen no more")


async def test_what_celery_stores_while_we_are_cut_off_is_read(celery: CeleryClient) -> None:
    task_id = fresh()
    port = int(redis().rsplit(":", 1)[1].partition("/")[0])
    with Proxy(port) as proxy:
        app = AioTQ("ours", broker="memory://", result_backend=proxy.url, celery_compat=True)
        async with app:
            waiting = asyncio.create_task(app.AsyncResult(task_id).get(timeout=20))
            with shared("redis").client() as client:
                channel = f"celery-task-meta-{task_id}"
                await wait_until(lambda: client.pubsub_numsub(channel)[0][1] == 1, "we listen")
                proxy.refuse()
                await celery.ask("store", task_id, 7)
                proxy.restore()

                assert await waiting == 7


async def test_we_get_a_celery_workers_failure(app: AioTQ, celery: CeleryClient) -> None:
    task_id = fresh()
    await celery.ask("store", task_id, "boom", state="FAILURE")

    with pytest.raises(ValueError, match="boom") as caught:
        await app.AsyncResult(task_id).get(timeout=10)

    assert isinstance(caught.value.__cause__, RemoteTraceback)


async def test_states_on_the_way_are_read_by_both(app: AioTQ, celery: CeleryClient) -> None:
    task_id = fresh()
    await celery.ask("store", task_id, {"done": 3}, state="PROGRESS")

    assert await app.AsyncResult(task_id).state() == "PROGRESS"
    assert await app.AsyncResult(task_id).info() == {"done": 3}


async def test_what_is_forgotten_here_is_gone_there(app: AioTQ, celery: CeleryClient) -> None:
    result = await app.send_task("ours.add", (1, 1))
    await result

    await result.forget()

    assert await celery.ask("state", result.id) == "PENDING"


async def test_what_stands_at_celerys_key_expires(app: AioTQ) -> None:
    result = await app.send_task("ours.add", (1, 1))
    await result

    with shared("redis").client() as client:
        assert 0 < client.ttl(f"celery-task-meta-{result.id}") <= 86_400


@pytest.mark.parametrize("value", [b"", b"{", b"7", b'{"status": 7}', b"\xff"])
async def test_garbage_at_celerys_key_is_no_result(app: AioTQ, value: bytes) -> None:
    task_id = fresh()
    with shared("redis").client() as client:
        client.set(f"celery-task-meta-{task_id}", value, ex=60)

    assert await app.AsyncResult(task_id).state() == "PENDING"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"result_serializer": "msgpack"}, "result_serializer"), ({"result_compression": "zlib"}, "result_compression")],
)
async def test_what_celery_could_not_read_is_refused(settings: dict[str, Any], complaint: str) -> None:
    app = AioTQ("x", broker="memory://", result_backend=redis(), celery_compat=True, **settings)

    with pytest.raises(InvalidSetting, match=f"{complaint}.*when celery_compat is set"):
        async with app, app.worker():
            pass


async def test_a_cluster_is_refused() -> None:
    url = redis().replace("redis://", "redis+cluster://").removesuffix("/0")
    app = AioTQ("x", broker="memory://", result_backend=url, celery_compat=True)

    with pytest.raises(InvalidSetting, match="not in a cluster"):
        async with app:
            await app.send_task("x.y")


async def test_who_waits_for_many_results_without_a_connection_is_not_held_up_by_each(celery: CeleryClient) -> None:
    port = int(redis().rsplit(":", 1)[1].partition("/")[0])
    ids = [fresh() for _ in range(50)]
    with Proxy(port) as proxy:
        app = AioTQ("ours", broker="memory://", result_backend=proxy.url, celery_compat=True)
        async with app:
            assert await app.AsyncResult(ids[0]).state() == "PENDING"
            proxy.refuse()
            results = ResultSet([app.AsyncResult(task_id) for task_id in ids], app)
            waiting = asyncio.create_task(results.get(timeout=30))
            for task_id in ids:
                await celery.ask("store", task_id, 1)
            proxy.restore()

            async with asyncio.timeout(8):
                assert await waiting == [1] * 50
