"""Waiting for a fact, with a name and a deadline, instead of for time to pass."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, overload

import pytest

T = TypeVar("T")

#: Seconds between two looks, doubled up to the last: a fast fact is seen at once, a slow one costs little.
FIRST_PAUSE: Final = 0.001
LAST_PAUSE: Final = 0.05


@overload
async def wait_until(fact: Callable[[], Awaitable[T]], message: str, timeout: float = 10) -> T: ...
@overload
async def wait_until(fact: Callable[[], T], message: str, timeout: float = 10) -> T: ...
async def wait_until(fact: Callable[[], Any], message: str, timeout: float = 10) -> Any:
    """Ask `fact`, a function or a coroutine function, until its answer is true, and return that answer.

    After `timeout` seconds the test fails with `message`, which names the fact ("the queue is empty"), and
    with the last answer: let `fact` return what it saw rather than a bare bool where that helps. What it
    raises goes up.
    """
    seen: Any = "nothing: it never answered"
    pause = FIRST_PAUSE
    deadline = asyncio.timeout(timeout)
    try:
        async with deadline:
            while True:
                answer = fact()
                seen = await answer if inspect.isawaitable(answer) else answer
                if seen:
                    return seen
                await asyncio.sleep(pause)
                pause = min(2 * pause, LAST_PAUSE)
    except TimeoutError:
        if not deadline.expired():
            raise
    pytest.fail(f"waited {timeout:g} s for: {message}; last seen: {seen!r}")
