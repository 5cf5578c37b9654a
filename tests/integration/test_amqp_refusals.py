"""What a RabbitMQ refuses for good when a task ends: that task alone fails, with the reason; all others end as ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Final

import orjson
import pytest

from aiotq import Task
from aiotq.backends.amqp.address import parse
from aiotq.backends.amqp.connection import AmqpClient, KeptChannel
from aiotq.exceptions import OperationalError, Refused

from ..servers import shared_rabbit
from ..waiting import wait_until
from .amqp_work import Work, publish, vhost_of

#: What a user needs who works with the queues of `default` alone (docs/guides/rabbitmq.md).
MINE: Final = r"^(default(:[069])?|aiotq\\..*|celery_delayed_delivery|amq\\.default)$"
LIMIT: Final = 1024 * 1024
PATIENCE: Final = 20.0

#: Where results are: in a Redis, or sent as messages.
STORES = pytest.mark.parametrize("store", [{}, {"backend": "rpc://"}], ids=["redis", "rpc"])


@pytest.fixture
def vhost() -> str:
    return shared_rabbit().vhost()


@asynccontextmanager
async def forbidden(vhost: str) -> AsyncIterator[str]:
    """Whoever works has no rights on the queue; return their URL."""
    server, name = shared_rabbit(), vhost_of(vhost)
    server.add_user(f"mine-{name}", "pw", name, MINE, MINE, MINE)
    yield f"amqp://mine-{name}:pw@127.0.0.1:{server.port}/{name}"


@asynccontextmanager
async def exclusive(vhost: str) -> AsyncIterator[str]:
    """The queue belongs to another connection."""
    async with AmqpClient(parse(vhost), "another") as client:
        await (await KeptChannel(client).channel()).declare_queue("odd", exclusive=True)
        yield vhost


@asynccontextmanager
async def different(vhost: str) -> AsyncIterator[str]:
    """The queue was declared with other arguments."""
    async with AmqpClient(parse(vhost), "another") as client:
        await (await KeptChannel(client).channel()).declare_queue("odd", {"x-max-length": 5})
    yield vhost


@asynccontextmanager
async def full(vhost: str) -> AsyncIterator[str]:
    """The queue takes no more."""
    shared_rabbit().set_policy(
        vhost_of(vhost), "^odd$", '{<<"max-length">>, 0}', '{<<"overflow">>, <<"reject-publish">>}'
    )
    yield vhost


def allow_no_more_queues(vhost: str) -> None:
    """Give the virtual host a limit: as many queues as there are."""
    name = f'<<"{vhost_of(vhost)}">>'
    limits = f'[{{<<"max-queues">>, length(rabbit_amqqueue:list({name}))}}]'
    shared_rabbit().eval(f'ok = rabbit_vhost_limit:set({name}, {limits}, <<"test">>)')


@contextmanager
def small_messages() -> Iterator[None]:
    """Have channels that are opened meanwhile take no message over `LIMIT`."""
    set_limit = "application:set_env(rabbit, max_message_size, {0}), persistent_term:put(max_message_size, {0})"
    before = shared_rabbit().eval("{ok, Size} = application:get_env(rabbit, max_message_size), Size")
    shared_rabbit().eval(set_limit.format(LIMIT))
    try:
        yield
    finally:
        shared_rabbit().eval(set_limit.format(before))


Obstacle = Callable[[str], AbstractAsyncContextManager[str]]


async def ended_alone(work: Work, culprit: Callable[[], Awaitable[Any]]) -> Exception:
    """Return what `culprit` ends with; before, beside and after it tasks end well, once each, and nothing is left."""
    async with work.app, work.app.worker() as worker:
        await work.works()
        call, *others = await asyncio.gather(culprit(), *(work.double.delay(x) for x in range(20)))
        with pytest.raises(OperationalError) as caught:
            await call.get(timeout=PATIENCE)
        assert await asyncio.gather(*(each.get(timeout=PATIENCE) for each in others)) == [2 * x for x in range(20)]
        await work.works()
        await wait_until(lambda: worker.completed >= 22, "all are committed")
    assert {x: count for x, count in work.began.items() if x < 20} == dict.fromkeys(range(20), 1)
    return caught.value


@STORES
@pytest.mark.parametrize(
    ("obstacle", "why"),
    [
        (forbidden, "not allowed"),
        (exclusive, "RESOURCE_LOCKED"),
        (different, "exists and differs"),
        (full, "a limit of that queue"),
    ],
)
async def test_a_step_to_a_queue_that_refuses_it_fails_its_workflow_alone(
    vhost: str, obstacle: Obstacle, why: str, store: dict[str, Any]
) -> None:
    async with obstacle(vhost) as url:
        work = Work(url, **store)
        steps = work.double.s(100) | work.double.s().set(queue="odd")
        error = await ended_alone(work, steps.apply_async)

    assert why in str(error)
    assert work.began[100] == 1
    assert not work.began[200]


@STORES
@pytest.mark.parametrize("way", ["step", "delay"])
async def test_a_queue_too_many_for_its_virtual_host_fails_its_task_alone(
    vhost: str, way: str, store: dict[str, Any]
) -> None:
    """A step wants a queue of its own; a retry with a countdown wants those of the ladder."""
    work = Work(vhost, **store)

    @work.app.task(name="x.again", bind=True)
    async def again(self: Task[..., Any]) -> None:
        self.retry(countdown=30)

    async def culprit() -> Any:
        await asyncio.to_thread(allow_no_more_queues, vhost)
        if way == "delay":
            return await again.delay()
        return await (work.double.s(100) | work.double.s().set(queue="odd")).apply_async()

    error = await ended_alone(work, culprit)

    assert "a limit of the server is reached" in str(error)


@pytest.mark.parametrize("queue", ["naïve", "q" * 254, "amq.mine"])
async def test_a_foreign_callback_to_a_queue_that_no_name_can_be_is_left_out_and_said(
    vhost: str, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls of ours with such a name are refused at the call; a message of somebody else's comes as it is."""
    work = Work(vhost)
    follows = {"task": "x.double", "args": [], "kwargs": {}, "options": {"queue": queue}, "immutable": False}
    body = orjson.dumps([[100], {}, {"callbacks": [follows], "errbacks": None, "chain": None, "chord": None}])
    headers = {"task": "x.double", "id": "foreign"}
    async with work.app, work.app.worker():
        await publish(
            vhost, "default", body, content_type="application/json", content_encoding="utf-8", headers=headers
        )
        assert await work.app.AsyncResult("foreign").get(timeout=PATIENCE) == 200
        await work.works()

    assert f"callback x.double() can't be sent: queue '{queue[:8]}" in caplog.text


async def test_a_result_larger_than_a_message_may_be_fails_its_task_alone(vhost: str) -> None:
    work = Work(vhost, backend="rpc://")

    @work.app.task(name="x.large")
    async def large() -> str:
        return "x" * 2 * LIMIT

    with small_messages():
        error = await ended_alone(work, large.delay)

    assert isinstance(error, Refused)


async def test_a_call_larger_than_a_message_may_be_is_refused_alone(vhost: str) -> None:
    work = Work(vhost)

    @work.app.task(name="x.take")
    async def take(text: str) -> int:
        return len(text)

    with small_messages():
        async with work.app, work.app.worker():
            texts = ["x" * (2 * LIMIT if number == 5 else 20) for number in range(12)]
            calls = await asyncio.gather(*map(take.delay, texts), return_exceptions=True)
            assert [number for number, each in enumerate(calls) if isinstance(each, Refused)] == [5]
            sent = [each for each in calls if not isinstance(each, BaseException)]
            assert [await each.get(timeout=PATIENCE) for each in sent] == [20] * 11
