"""What surrounds the function of a task where it is called: a thread, a child process, the loop.

A framework has something to open and close there, which code outside of that thread can't do for it: Django's database
connections, Flask's application context.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Surroundings(Protocol):
    """Calls the functions of tasks, each in its own surroundings; what they raise goes through."""

    def call(self, function: Callable[[], T]) -> T:
        """Return what `function` returns, called in this thread."""
        ...

    def awaited(self, coro: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """Return a coroutine that awaits `coro`, once."""
        ...


_installed: list[Surroundings] = []


def install(surroundings: Surroundings | None) -> None:
    """Have the tasks of this process called by `surroundings` from now on; None: by nothing."""
    _installed[:] = [] if surroundings is None else [surroundings]


def installed() -> Surroundings | None:
    """Return what was installed."""
    return _installed[0] if _installed else None
