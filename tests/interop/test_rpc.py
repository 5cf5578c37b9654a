"""Results as messages, between Celery and aiotq."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .celery_process import THEIRS, CeleryClient, CeleryError, CeleryWorker
from .ours import make_app


@pytest.fixture(scope="module")
def celery(broker: str) -> Iterator[CeleryClient]:
    with CeleryClient(broker, "rpc://") as client:
        yield client


async def test_a_celery_client_is_sent_our_results(broker: str, celery: CeleryClient) -> None:
    app = make_app(broker, "rpc://")
    async with app, app.worker():
        assert await celery.ask("get", await celery.ask("send", "ours.add", [2, 2])) == 4
        with pytest.raises(CeleryError, match=r"builtins.ValueError: bad"):
            await celery.ask("get", await celery.ask("send", "ours.fail", ["bad"]))


async def test_we_are_sent_a_celery_workers_results(broker: str) -> None:
    app = make_app(broker, "rpc://")
    with CeleryWorker(broker, "rpc://", queue=THEIRS):
        async with app:
            result = await app.send_task("theirs.add", (2, 2), queue=THEIRS)
            failing = await app.send_task("theirs.fail", ("bad",), queue=THEIRS)

            assert await result.get(timeout=20) == 4
            with pytest.raises(ValueError, match="bad"):
                await failing.get(timeout=20)


async def test_without_a_backend_a_rabbitmq_sends_results(broker: str) -> None:
    app = make_app(broker, None)
    async with app, app.worker():
        assert await (await app.send_task("ours.add", (2, 2))).get(timeout=20) == 4
