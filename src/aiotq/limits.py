"""Time limits of coroutines (P8): soft, raised in the task at its next await; hard, by cancelling its run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from .exceptions import SoftTimeLimitInterrupt

T = TypeVar("T")


class SoftLimited(Generic[T]):
    """Awaits a coroutine; after `seconds`, `SoftTimeLimitExceeded` is raised in it, once.

    It arrives as a cancellation does, so that task groups, timeouts and shields clean up their children, and being
    an `Exception` too it can be caught. (In the body of an `asyncio.TaskGroup` on Python 3.11 it is wrapped into a
    group, as an error would be; one that leaves the coroutine is unwrapped.)
    """

    def __init__(self, coro: Coroutine[Any, Any, T], seconds: float) -> None:
        self._coro = coro
        self._seconds = seconds
        self._is_due = False
        self._limit: SoftTimeLimitInterrupt | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def fire() -> None:
            self._is_due = True
            task.cancel()

        timer = loop.call_later(self._seconds, fire)
        step = _sending(self._coro)
        try:
            while True:
                try:
                    yielded = step()
                except StopIteration as stop:
                    value: T = stop.value
                    return value
                except ExceptionGroup as group:
                    if self._limit is None or group.split(SoftTimeLimitInterrupt)[1] is not None:
                        raise
                    raise self._limit from group
                try:
                    yield yielded
                except asyncio.CancelledError as exc:
                    error: BaseException = exc
                    if self._is_due:
                        self._is_due = False
                        task.uncancel()
                        self._limit = SoftTimeLimitInterrupt(f"soft time limit of {self._seconds:g} s exceeded")
                        error = self._limit
                    step = _throwing(self._coro, error)
                except BaseException as exc:
                    step = _throwing(self._coro, exc)
                else:
                    step = _sending(self._coro)
        finally:
            timer.cancel()
            self._coro.close()


def _sending(coro: Coroutine[Any, Any, Any]) -> Callable[[], Any]:
    return lambda: coro.send(None)


def _throwing(coro: Coroutine[Any, Any, Any], error: BaseException) -> Callable[[], Any]:
    return lambda: coro.throw(error)
