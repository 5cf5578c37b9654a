"""Tasks with dependencies that child processes import."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from aiotq import INJECTED, AioTQ, Depends

app = AioTQ("injected", broker="memory://")
_MAIN = os.getppid()


def plain() -> Iterator[str]:
    yield "plain"


async def awaited(plain: Annotated[str, Depends(plain)]) -> AsyncIterator[str]:
    yield f"async {plain}"


@app.task(run="process")
def function(x: int, given: Annotated[str, Depends(plain)] = INJECTED) -> list[object]:
    return [x, given, os.getppid() == _MAIN]


@app.task(run="process")
async def coroutine(x: int, given: Annotated[str, Depends(awaited)] = INJECTED) -> list[object]:
    return [x, given, os.getppid() == _MAIN]


def late(x: int, session: Annotated[str, Depends(plain)] = INJECTED) -> None:
    """A function whose decorator passes on what it gets."""


def awaited_later(x: int, later: Nowhere | None = None) -> None:  # type: ignore[name-defined]  # noqa: F821
    """A function with an annotation that can't be evaluated."""
