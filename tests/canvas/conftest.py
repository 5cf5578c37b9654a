"""Where the workflows of these tests run: each pair of a broker and a results store."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from aiotq import AioTQ

from ..servers import shared, shared_postgres, shared_rabbit

MakeApp = Callable[..., AioTQ]


def _redis(_: Path) -> str:
    return f"{shared('redis').url}?prefix=test-{os.urandom(6).hex()}"


#: The URLs of each pair; None: results are kept by the broker. `ordered`: two memories that share nothing.
PAIRS: Final[dict[str, Callable[[Path], tuple[str, str | None]]]] = {
    "memory": lambda _: ("memory://", None),
    "ordered": lambda _: (f"memory://{os.urandom(6).hex()}", f"memory://{os.urandom(6).hex()}"),
    "sqlite": lambda directory: (f"sqlite:///{directory}/queue.db", None),
    "redis": lambda directory: (_redis(directory), None),
    "postgres": lambda _: (shared_postgres().schema(), None),
    "rabbitmq": lambda directory: (shared_rabbit().vhost(), _redis(directory)),
}


@pytest.fixture
def pair() -> str:
    """The name of the test's pair; tests that want another are parametrized with it."""
    return "memory"


@pytest.fixture
async def make_app(pair: str, tmp_path: Path) -> AsyncIterator[MakeApp]:
    """Make apps on the test's pair; they are closed when it ends."""
    made: list[AioTQ] = []
    broker, backend = PAIRS[pair](tmp_path)

    def make(**settings: Any) -> AioTQ:
        made.append(AioTQ("canvas", broker=broker, backend=backend, **settings))
        return made[-1]

    yield make
    for app in made:
        await app.close()
