"""Connections to RabbitMQ that the user makes: fast with our class, the same with any other."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection

from aiotq import AioTQ
from aiotq.backends.amqp import TapConnection
from aiotq.exceptions import InvalidSetting, NotConnected, OperationalError, PublishTimeout

from ..proxy import Proxy
from ..servers import free_port, shared_rabbit
from ..waiting import wait_until
from .amqp_work import Work, vhost_of

#: Makes a connection to a URL.
Make = Callable[[str], Awaitable[AbstractConnection]]


@pytest.fixture
def vhost() -> str:
    return shared_rabbit().vhost()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(shared_rabbit().port) as proxy:
        yield proxy


async def with_a_tap(url: str) -> AbstractConnection:
    return await aio_pika.connect(url, connection_class=TapConnection)


async def plain(url: str) -> AbstractConnection:
    return await aio_pika.connect(url)


async def robust(url: str) -> AbstractConnection:
    return await aio_pika.connect_robust(url)


KINDS = pytest.mark.parametrize("make", [with_a_tap, plain, robust])


class Made(Work):
    """An app whose connections are made by a function, and counted."""

    def __init__(self, url: str, make: Make, **settings: Any) -> None:
        self.made = 0

        async def connect() -> AbstractConnection:
            self.made += 1
            return await make(url)

        super().__init__(url, amqp_connect=connect, **settings)


@KINDS
async def test_tasks_run_over_connections_that_a_function_makes(vhost: str, make: Make) -> None:
    work = Made(vhost, make)
    async with work.app, work.app.worker():
        results = [await work.double.delay(x) for x in range(200)]
        assert [await result.get(timeout=10) for result in results] == [2 * x for x in range(200)]
        await (await work.double.apply_async((1000,), countdown=0.5)).get(timeout=10)

    assert set(work.began.values()) == {1}
    assert work.made == 2  # one to send, one of the worker's


@KINDS
async def test_the_function_is_called_again_when_a_connection_is_cut(vhost: str, proxy: Proxy, make: Make) -> None:
    at = f"amqp://guest:guest@127.0.0.1:{proxy.port}/{vhost_of(vhost)}"
    work = Made(at, make, worker_lease=15.0)
    async with work.app, work.app.worker():
        held = [await work.hold.delay(x) for x in range(3)]
        await wait_until(lambda: len(work.began) == 3, "they run")
        proxy.cut()
        await work.works()
        work.gate.set()
        assert [await result.get(timeout=10) for result in held] == [0, 2, 4]

    assert {x: count for x, count in work.began.items() if x != 21} == dict.fromkeys(range(3), 1)
    assert work.made == 4


@KINDS
async def test_messages_that_are_returned_or_refused_are_told_apart(vhost: str, make: Make) -> None:
    """A queue that is deleted is declared again; one that is full says so."""
    work = Made(vhost, make)
    shared_rabbit().set_policy(
        vhost_of(vhost), "^full$", '{<<"max-length">>, 1}', '{<<"overflow">>, <<"reject-publish">>}'
    )
    async with work.app:
        await work.double.delay(1)
        every = f'rabbit_amqqueue:list(<<"{vhost_of(vhost)}">>)'
        shared_rabbit().eval(f'[rabbit_amqqueue:delete(Q, false, false, <<"test">>) || Q <- {every}]')
        await work.double.delay(2)
        with pytest.raises((OperationalError, PublishTimeout), match="a limit of that queue"):
            for x in range(3, 6):
                await work.double.options(queue="full", publish_timeout=1.0).delay(x)


async def test_a_server_that_is_not_there_is_named(vhost: str) -> None:
    port = free_port()
    work = Made(vhost, lambda _: plain(f"amqp://127.0.0.1:{port}"))

    with pytest.raises((NotConnected, PublishTimeout), match="by amqp_connect"):
        await work.double.options(publish_timeout=0.5).delay(1)


async def test_a_wrong_password_is_no_lost_connection(vhost: str) -> None:
    work = Made(vhost, lambda url: plain(url.replace("guest:guest", "guest:wrong")))

    with pytest.raises(OperationalError, match="refused the user") as refused:
        await work.double.delay(1)
    assert not isinstance(refused.value, NotConnected)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="coroutine function"):
        AioTQ("x", broker="amqp://", amqp_connect="amqp://")


async def test_the_example_of_the_documentation_runs(vhost: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "guides" / "rabbitmq.md").read_text()
    (example,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "amqp_connect=" in code]
    names: dict[str, Any] = {}
    exec(compile(example.replace("amqp://guest:guest@localhost/", vhost), "rabbitmq.md", "exec"), names)

    async with names["app"] as app, app.worker():
        assert await (await names["add"].delay(2, 2)).get(timeout=10) == 4
        said = "rabbit_networking:connection_info_all([client_properties])"
        assert "mine" in shared_rabbit().eval(f'lists:flatten(io_lib:format("~p", [{said}]))')
