"""Calls that are an app's first, while the broker is not there yet: the deadline counts from the call (P7)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from aiotq import AioTQ, chain, signals
from aiotq.exceptions import InvalidOption, OperationalError, PublishFailed, PublishTimeout

from ..proxy import Proxy
from ..servers import shared, shared_rabbit


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Iterator[tuple[Proxy, str]]:
    """A way to the broker that is closed until `restore()`, and the broker's URL by it."""
    if request.param == "redis":
        url = f"{shared('redis').url}?prefix=test-{os.urandom(6).hex()}"
    else:
        url = shared_rabbit().vhost()
    parts = urlsplit(url)
    assert parts.port is not None
    with Proxy(parts.port) as proxy:
        proxy.refuse()
        there = parts.netloc.replace(f":{parts.port}", f":{proxy.port}")
        yield proxy, urlunsplit(parts._replace(netloc=there))


def make_app(url: str) -> AioTQ:
    redis = f"{shared('redis').url}?prefix=test-{os.urandom(6).hex()}"
    app = AioTQ("first", broker=url, backend=redis if url.startswith("amqp") else None)

    @app.task(name="first.add")
    async def add(x: int, y: int) -> int:
        return x + y

    return app


def _hear(**_: Any) -> None:
    """Hears of a call, which is sent another way then."""


async def test_a_first_call_is_sent_when_the_broker_is_there(broker: tuple[Proxy, str]) -> None:
    proxy, url = broker
    app = make_app(url)
    add = app.tasks["first.add"]
    async with asyncio.TaskGroup() as group:
        one = group.create_task(add.delay(1, 1))
        several = group.create_task(app.send_many([add.s(1, 2), add.s(1, 3)]))
        workflow = group.create_task(chain(add.s(1, 4), add.s(1)).delay())
        _, waiting = await asyncio.wait({one, several, workflow}, timeout=0.3)
        assert len(waiting) == 3, "none gives up before its deadline"
        proxy.restore()

    async with app, app.worker():
        assert await one.result().get(timeout=10) == 2
        assert await several.result().get(timeout=10) == [3, 4]
        assert await workflow.result().get(timeout=10) == 6


@pytest.mark.parametrize("is_heard", [False, True])
async def test_a_first_call_whose_deadline_passes_says_that_it_was_not_sent_and_why(
    broker: tuple[Proxy, str], is_heard: bool
) -> None:
    _, url = broker
    app = make_app(url)
    if is_heard:
        signals.before_task_publish.connect(_hear, sender="first.add")
    began = time.monotonic()

    try:
        with pytest.raises(PublishTimeout) as caught:
            await app.tasks["first.add"].apply_async((1, 1), publish_timeout=0.5, task_id="mine")
    finally:
        signals.before_task_publish.disconnect(_hear, sender="first.add")

    assert 0.45 < time.monotonic() - began < 5
    assert (caught.value.task_id, caught.value.maybe_sent) == ("mine", False)
    assert str(caught.value).startswith("task mine could not be published within 0.5 s: it was not sent (last error: ")
    assert f":{urlsplit(url).port}" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "attempts"),
    [({"retry": False}, 1), ({"retry_policy": {"max_retries": 2, "interval_start": 0, "interval_step": 0.01}}, 3)],
)
async def test_a_first_call_is_tried_as_often_as_it_says(
    broker: tuple[Proxy, str], options: dict[str, Any], attempts: int
) -> None:
    app = make_app(broker[1])

    with pytest.raises(PublishFailed) as caught:
        await app.tasks["first.add"].apply_async((1, 1), **options)

    assert (caught.value.attempts, caught.value.maybe_sent) == (attempts, False)


async def test_what_a_first_call_says_of_its_sending_is_checked_first(broker: tuple[Proxy, str]) -> None:
    add = make_app(broker[1]).tasks["first.add"]

    with pytest.raises(InvalidOption, match="option retry_policy must be"):
        await add.apply_async((1, 1), retry_policy={"often": 5})


async def test_entering_the_app_does_not_wait_for_a_broker(broker: tuple[Proxy, str]) -> None:
    with pytest.raises(OperationalError, match=f":{urlsplit(broker[1]).port}"):
        async with asyncio.timeout(4):
            await make_app(broker[1]).__aenter__()
