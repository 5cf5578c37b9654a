"""Soft time limits (P8): raised in a coroutine at its next await, in a thread between two instructions."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, Generic, TypeVar

import anyio
from anyio import to_thread

from ..exceptions import SoftTimeLimitExceeded, SoftTimeLimitInterrupt

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


class SoftLimitedThread(Generic[T]):
    """Calls a function in the thread that calls `run`; `ring()` raises `SoftTimeLimitExceeded` in it, once.

    It is raised before the next bytecode instruction: code that waits in C (a socket, `time.sleep`) gets it when that
    returns. Under a lock, and only while the function still runs, so that it never hits what comes after it in that
    thread. Source: `PyThreadState_SetAsyncExc` in Python's C API documentation.
    """

    def __init__(self, function: Callable[[], T], seconds: float) -> None:
        self._function = function
        self._seconds = seconds
        self._lock = threading.Lock()
        self._thread: int | None = None  #: while the function runs
        self._is_over = False  #: the time
        self._has_rung = False

    def run(self) -> T:
        """Call the function.

        Raises:
            SoftTimeLimitExceeded: it did not handle the one that was raised in it.
        """
        try:
            try:
                with self._lock:
                    if self._is_over:  # before the thread began
                        self._has_rung = True
                        raise SoftTimeLimitExceeded
                    self._thread = threading.get_ident()
                return self._function()
            finally:
                with self._lock:
                    if self._has_rung and self._thread is not None:
                        _catch_pending()
                    self._thread = None
        except SoftTimeLimitExceeded as exc:
            if self._has_rung and not exc.args:
                raise SoftTimeLimitExceeded(f"soft time limit of {self._seconds:g} s exceeded") from exc
            raise

    def ring(self) -> None:
        """The time is over."""
        with self._lock:
            self._is_over = True
            if self._thread is not None and not self._has_rung:
                self._has_rung = True
                _raise_in(self._thread, SoftTimeLimitExceeded)


async def run_in_thread(
    function: Callable[[], T],
    seconds: float | None,
    *,
    limiter: anyio.CapacityLimiter | None = None,
    abandons: bool = False,
) -> T:
    """Call `function` in a thread, under a soft limit if `seconds` are given.

    Cancelled, it is waited for, or with `abandons` left running.
    """
    if seconds is None:
        return await to_thread.run_sync(function, limiter=limiter, abandon_on_cancel=abandons)
    limited = SoftLimitedThread(function, seconds)
    timer = asyncio.get_running_loop().call_later(seconds, limited.ring)
    try:
        return await to_thread.run_sync(limited.run, limiter=limiter, abandon_on_cancel=abandons)
    finally:
        timer.cancel()


def _raise_in(thread: int, kind: type[BaseException]) -> None:
    """Raise `kind` in a thread of ours."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(kind))


def _catch_pending() -> None:
    """Catch what was to be raised in this thread, and may not have struck yet.

    Python can take it back (with NULL), but up to 3.12 its mark in the interpreter would stay: every thread would look
    for it again and again. On 3.11 a thread that is traced (by a debugger, coverage, hypothesis) would never go on.
    """
    with suppress(SoftTimeLimitExceeded):
        _raise_in(threading.get_ident(), SoftTimeLimitExceeded)
        while True:
            pass  # it strikes with the next turn
