"""What options mean, on every broker alike: each test runs on all of them, with a real worker in its loop."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from aiotq import AioTQ, Canvas

from ..servers import shared, shared_postgres, shared_rabbit
from ..sqs_server import shared_sqs
from .canvas_tasks import Kit
from .hearing import Heard


def _memory(_: Path) -> str:
    return f"memory://test-{os.urandom(6).hex()}"  # with a name: all apps of a test share it


def _sqlite(directory: Path) -> str:
    return f"sqlite:///{directory}/queue.db"


def _redis(_: Path) -> str:
    return f"{shared('redis').url}?prefix=test-{os.urandom(6).hex()}"


def _postgres(_: Path) -> str:
    return shared_postgres().schema()


def _rabbitmq(_: Path) -> str:
    return shared_rabbit().vhost()


def _sqs(_: Path) -> str:
    return shared_sqs().url("priorities=true")


BROKERS: Final[dict[str, Callable[[Path], str]]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "redis": _redis,
    "postgres": _postgres,
    "rabbitmq": _rabbitmq,
    "sqs": _sqs,
}

#: Where tests run whose modules say nothing. SQS is to workers what RabbitMQ is, and its server in tests is slow: a few
#: modules have it too.
USUAL: Final = tuple(name for name in BROKERS if name != "sqs")
ALSO_ON_SQS: Final = tuple(BROKERS)
#: For what a worker or a store does by itself, whatever the broker, of which RabbitMQ is the slowest.
NOT_ON_RABBITMQ: Final = tuple(name for name in USUAL if name != "rabbitmq")

MakeApp = Callable[..., AioTQ]
Run = Callable[..., Awaitable[Any]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on the brokers that its module names in `BROKERS_HERE`, or on all."""
    if "url" in metafunc.fixturenames:
        metafunc.parametrize("url", getattr(metafunc.module, "BROKERS_HERE", USUAL), indirect=True)


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where messages of this test are kept, and results unless `backend` says otherwise."""
    return BROKERS[request.param](tmp_path)


@pytest.fixture
def backend(url: str, tmp_path: Path) -> str | None:
    """Where results are kept; RabbitMQ and SQS have a Redis beside them."""
    return _redis(tmp_path) if url.startswith(("amqp", "sqs")) else None


@pytest.fixture
async def make_app(url: str, backend: str | None) -> AsyncIterator[MakeApp]:
    """Make apps on the test's broker; they are closed when it ends."""
    made: list[AioTQ] = []

    def make(**settings: Any) -> AioTQ:
        made.append(AioTQ("semantics", broker=url, backend=backend, **settings))
        return made[-1]

    yield make
    for app in made:
        await app.close()


@pytest.fixture
def app(make_app: MakeApp) -> AioTQ:
    """An app with default settings; its tests declare tasks and enter `app.worker()`."""
    return make_app()


@pytest.fixture
def kit(app: AioTQ) -> Kit:
    """Tasks to make workflows of."""
    return Kit(app)


@pytest.fixture
async def run(kit: Kit, app: AioTQ) -> AsyncIterator[Run]:
    """Runs a canvas on a worker, and gives what it comes to."""

    async def run(canvas: Canvas[Any], **how: Any) -> Any:
        return await (await canvas.apply_async()).get(timeout=10, **how)

    async with app, app.worker():
        yield run


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Hears the signals that a test names."""
    heard = Heard()
    yield heard
    heard.stop()
