"""One RabbitMQ virtual host for a module, with Celery's client and worker, and an app and worker of ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from aiotq import AioTQ

from ..servers import shared, shared_rabbit
from .celery_process import THEIRS, CeleryClient, CeleryWorker
from .ours import make_app


@pytest.fixture(scope="module")
def broker() -> str:
    return shared_rabbit().vhost()


@pytest.fixture(scope="module")
def celery(broker: str) -> Iterator[CeleryClient]:
    with CeleryClient(broker, shared("redis").url) as client:
        yield client


@pytest.fixture(scope="module")
def celery_worker(broker: str) -> Iterator[CeleryWorker]:
    with CeleryWorker(broker, shared("redis").url, queue=THEIRS) as worker:
        yield worker


@pytest.fixture
def app(broker: str) -> AioTQ:
    return make_app(broker, shared("redis").url)


@pytest.fixture
async def worker(app: AioTQ) -> AsyncIterator[AioTQ]:
    """The app with a worker of ours."""
    async with app, app.worker():
        yield app
