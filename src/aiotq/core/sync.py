"""The way into coroutines for code without a loop: scripts, Django views, tasks that run in threads."""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

from ..exceptions import CallError

if TYPE_CHECKING:
    from anyio import from_thread

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds the interpreter's exit waits for connections to close.
_EXIT_TIMEOUT: Final = 5.0
#: After the last item of an iteration.
_END: Final = object()
#: Background loops inherited through fork(), whose threads are in the parent. Kept: to close one is to wait for it.
_of_the_parent: Final[list[object]] = []


def expect_loop(instead: str) -> None:
    """Raise `CallError` where no event loop runs: a call that nobody can await there would be lost without a word.

    `instead` is what to write there.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise no_loop(instead) from None


def expect_no_loop(instead: str, why: str) -> None:
    """Raise `CallError` where an event loop runs: `why` not, and `instead` is what to write there."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise CallError(f"this thread runs an event loop: {why}; write {instead}")


def no_loop(instead: str) -> CallError:
    """Return the error for a call where no event loop runs; `instead` is what to write there."""
    return CallError(
        f"no event loop runs in this thread, so nothing was sent: write {instead} here, "
        "or await the call in an async def"
    )


class Bridge:
    """Runs an app's coroutines from plain code.

    In a thread that a loop started (a thread task, a FastAPI `def` endpoint, a sync view of Django's under ASGI) they
    run in that loop; elsewhere in one background loop of the process, which starts with the first call and ends with
    the interpreter. A loop that is brief uses that one too (`at_home`).
    """

    def __init__(self, close: Callable[[], Awaitable[None]]) -> None:
        self._close = close
        self._lock = threading.Lock()
        self._background: _Background | None = None

    def run(self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `await function(*args, **kwargs)` returns.

        Raises:
            CallError: called on a running loop, which it would block, or where gevent or eventlet replaced threads.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise CallError("this thread runs an event loop: leave out .sync and await the call instead")
        began = False

        async def call() -> T:
            nonlocal began
            began = True
            return await _letting_leave(function, *args, **kwargs)

        from anyio import from_thread  # noqa: PLC0415  # a tenth of `import aiotq`

        try:
            try:
                return from_thread.run(call)
            except RuntimeError:
                if began:
                    raise
            if (loop := _asgi_loop()) is not None:
                return asyncio.run_coroutine_threadsafe(call(), loop).result()
            return self._portal().call(call)
        except _Leaving as leaving:
            raise leaving.reason from None

    async def at_home(self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `await function(*args, **kwargs)` returns in the background loop; for a loop that is brief."""

        async def call() -> T:
            return await _letting_leave(function, *args, **kwargs)

        try:
            return await asyncio.wrap_future(self._portal().start_task_soon(call))
        except _Leaving as leaving:
            raise leaving.reason from None

    def _portal(self) -> from_thread.BlockingPortal:
        """Return the way into the background loop, which is started with the first call."""
        with self._lock:
            if self._background is None:
                _expect_threads()
                self._background = _Background()
                atexit.register(self.stop)
            return self._background.portal

    def each(self, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """Yield what `items` yields, as it comes; raises as `run`."""

        async def following() -> T | object:
            return await anext(items, _END)

        try:
            while (item := self.run(following)) is not _END:
                yield cast(T, item)
        finally:
            self.run(items.aclose)

    def forget(self) -> None:
        """Begin anew in a forked process, to which the background loop's thread did not come along."""
        if self._background is not None:
            _of_the_parent.append(self._background)
            atexit.unregister(self.stop)
        self._lock, self._background = threading.Lock(), None

    def stop(self) -> None:
        """Close the background loop and the app's connection in it."""
        with self._lock:
            background, self._background = self._background, None
        if background is not None:
            atexit.unregister(self.stop)
            background.stop(self._close)


def is_brief(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether `loop` lasts for one call of asgiref's `async_to_sync`, by which Django and Flask run an async view under
    WSGI."""
    asgiref: Any = sys.modules.get("asgiref.sync")
    return asgiref is not None and loop in asgiref.AsyncToSync.loop_thread_executors


def _asgi_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that waits for this thread, started by asgiref's `sync_to_async`; not one of `async_to_sync`,
    which lasts for one call."""
    asgiref: Any = sys.modules.get("asgiref.sync")
    if asgiref is None:
        return None
    noted = asgiref.SyncToAsync.threadlocal
    loop: asyncio.AbstractEventLoop | None = getattr(noted, "main_event_loop", None)
    if loop is None or getattr(noted, "main_event_loop_pid", None) != os.getpid():
        return None
    return loop if loop.is_running() and not is_brief(loop) else None


def _expect_threads() -> None:
    """Raise `CallError` where what is started as a thread is a greenlet: an event loop would stop all others."""
    gevent: Any = sys.modules.get("gevent.monkey")
    eventlet: Any = sys.modules.get("eventlet.patcher")
    for name, is_patched in (
        ("gevent", gevent is not None and gevent.is_module_patched("threading")),
        ("eventlet", eventlet is not None and eventlet.is_monkey_patched("thread")),
    ):
        if is_patched:
            raise CallError(
                f"{name} has replaced threads in this process by greenlets, and asyncio can't run in one: its loop "
                f"would stop all others. Serve with threads (gunicorn -k gthread) or an ASGI server instead of {name}"
            )


async def _letting_leave(function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Await `function`; what it raises to end the process is for the thread that asked, and not for this loop."""
    try:
        return await function(*args, **kwargs)
    except (SystemExit, KeyboardInterrupt) as exc:
        raise _Leaving(exc) from exc


class _Leaving(Exception):
    """What a coroutine raised to end the process: it is for the thread that called it, and not for the loop."""

    def __init__(self, reason: BaseException) -> None:
        self.reason = reason
        super().__init__(reason)


class _Background:
    """A loop in a thread of its own."""

    def __init__(self) -> None:
        from anyio import from_thread  # noqa: PLC0415

        ready: Future[from_thread.BlockingPortal] = Future()

        async def serve() -> None:
            async with from_thread.BlockingPortal() as portal:
                ready.set_result(portal)
                await portal.sleep_until_stopped()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), name="aiotq.sync", daemon=True)
        self._thread.start()
        self.portal = ready.result()

    def stop(self, close: Callable[[], Awaitable[None]]) -> None:
        try:
            self.portal.start_task_soon(close).result(_EXIT_TIMEOUT)
        finally:
            self.portal.call(self.portal.stop)
            self._thread.join(_EXIT_TIMEOUT)
