"""What options mean, on every broker alike: each test runs on all of them, with a real worker in its loop."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from aiotq import AioTQ

from ..servers import shared
from .hearing import Heard


def _memory(_: Path) -> str:
    return "memory://"


def _sqlite(directory: Path) -> str:
    return f"sqlite:///{directory}/queue.db"


def _redis(_: Path) -> str:
    return f"{shared('redis').url}?prefix=test-{os.urandom(6).hex()}"


BROKERS: Final[dict[str, Callable[[Path], str]]] = {"memory": _memory, "sqlite": _sqlite, "redis": _redis}

MakeApp = Callable[..., AioTQ]


@pytest.fixture(params=BROKERS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where messages and results of this test are kept."""
    return BROKERS[request.param](tmp_path)


@pytest.fixture
async def make_app(url: str) -> AsyncIterator[MakeApp]:
    """Make apps on the test's broker; they are closed when it ends."""
    made: list[AioTQ] = []

    def make(**settings: Any) -> AioTQ:
        made.append(AioTQ("semantics", broker=url, **settings))
        return made[-1]

    yield make
    for app in made:
        await app.close()


@pytest.fixture
def app(make_app: MakeApp) -> AioTQ:
    """An app with default settings; its tests declare tasks and enter `app.worker()`."""
    return make_app()


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Hears the signals that a test names."""
    heard = Heard()
    yield heard
    heard.stop()
