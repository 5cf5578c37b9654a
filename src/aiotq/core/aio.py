"""The structure of the core's concurrency, in one place.

`create_task` outside a task group, shielding and the supervisor live here and nowhere else: `finish` for what must
reach its end once begun, `Batcher` for sharing round trips, `Service` for what users enter and leave.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

logger = logging.getLogger("aiotq")

T = TypeVar("T")
Item = TypeVar("Item")


async def finish(coro: Coroutine[Any, Any, T], timeout: float, *, once_cancelled: bool = False) -> T:
    """Await `coro` to its end, at most `timeout` seconds, even when cancelled meanwhile.

    The cancellation is raised afterwards. With `once_cancelled` the seconds count from it: as long as nobody wants
    to leave, `coro` may take its time.

    Raises:
        TimeoutError: `coro` did not end in time and was cancelled.
    """
    work = asyncio.ensure_future(coro)
    cancelled: asyncio.CancelledError | None = None
    loop = asyncio.get_running_loop()
    deadline = math.inf if once_cancelled else loop.time() + timeout
    with _shield():
        while not work.done() and (left := deadline - loop.time()) > 0:
            try:
                await asyncio.wait({work}, timeout=left if left < math.inf else None)
            except asyncio.CancelledError as exc:
                cancelled = exc
                deadline = min(deadline, loop.time() + timeout)
    if not work.done():
        work.cancel()
        await asyncio.wait({work}, timeout=1.0)
        if cancelled is None:
            raise TimeoutError(f"not finished within {timeout:g} s")
    if cancelled is not None:
        if work.done() and not work.cancelled():
            work.exception()  # retrieved: the cancellation is what the caller hears of
        raise cancelled
    return work.result()


def _shield() -> AbstractContextManager[object]:
    """Keep an anyio caller (Starlette) from cancelling again on each turn of the loop, which would spin."""
    import anyio  # noqa: PLC0415  # a tenth of `import aiotq`, and most programs wait for nothing here

    return anyio.CancelScope(shield=True)


async def back_off(seconds: float, longest: float) -> float:
    """Sleep about `seconds`; return how long to do so next time."""
    await asyncio.sleep(seconds * random.uniform(0.5, 1.0))
    return min(seconds * 2, longest)


def start(coro: Coroutine[Any, Any, T], *, name: str, context: contextvars.Context) -> asyncio.Task[T]:
    """Start a task; the caller keeps it, waits for it, and learns of its end by itself."""
    return asyncio.get_running_loop().create_task(coro, name=name, context=context)


class Batcher(Generic[Item]):
    """What gathers while a round trip is under way, as databases commit groups.

    Nobody waits for a batch to fill: one item alone is taken at once, and what comes while its round trip lasts is the
    next group. `take()` gives up to `max_items` items, fewer when `weigh` of them adds up to `max_weight`.
    """

    def __init__(
        self, *, max_items: int, max_weight: int | None = None, weigh: Callable[[Item], int] | None = None
    ) -> None:
        self.waiting: deque[Item] = deque()
        self._max_items = max_items
        self._max_weight = max_weight
        self._weigh = weigh
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, item: Item) -> None:
        """Put `item` into the next group."""
        self.waiting.append(item)
        if not self._work.is_set():
            self._work.set()
            self._idle.clear()

    async def some(self) -> None:
        """Return when something waits; what was taken before counts as done now."""
        if not self.waiting:
            self._work.clear()
            self._idle.set()
            await self._work.wait()

    async def take(self) -> list[Item]:
        """Return the next group, waiting for its first item; what was taken before counts as done now."""
        await self.some()
        group: list[Item] = []
        weight = 0
        while self.waiting and len(group) < self._max_items:
            if self._weigh is not None and self._max_weight is not None:
                weight += self._weigh(self.waiting[0])
                if group and weight > self._max_weight:
                    break
            group.append(self.waiting.popleft())
        return group

    async def drained(self) -> None:
        """Return when nothing waits and what was taken is done."""
        await self._idle.wait()


class Service(Generic[T]):
    """Runs `main` in a task of its own, so that it can be started and stopped in different tasks.

    `main(ready, stopping)` calls `ready(value)` when it can be used and returns soon after `stopping` is set. If it
    fails, that ends the service and is raised by `stop()`; it never cancels the code that started it.
    """

    def __init__(
        self, main: Callable[[Callable[[T], None], asyncio.Event], Coroutine[Any, Any, None]], name: str
    ) -> None:
        self._main = main
        self._name = name
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_ready = False

    async def start(self) -> T:
        """Start, and return what `ready` was called with.

        Cancelled, or when `main` fails before it is ready, nothing runs on afterwards.
        """
        if self._task is not None:
            raise RuntimeError(f"{self._name} was started before: it runs once, make another one")
        ready: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def announce(value: T) -> None:
            self._is_ready = True
            if not ready.done():
                ready.set_result(value)

        # In a context of its own: the context variables of its first caller must not reach the work of others.
        task = self._task = asyncio.create_task(
            self._main(announce, self._stopping), name=self._name, context=contextvars.Context()
        )
        task.add_done_callback(self._log_failure)
        try:
            awaited: set[asyncio.Future[Any]] = {task, ready}
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.abort()
            raise
        if not ready.done():
            await task
            raise RuntimeError(f"{self._name} ended before it was ready")
        return ready.result()

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    def ask_to_stop(self) -> None:
        """Ask `main` to end; `wait` returns when it has."""
        self._stopping.set()

    async def stop(self) -> None:
        """Ask `main` to end and wait until it did; raises what it failed with. A cancellation cuts it short."""
        self._stopping.set()
        await self.wait()

    async def wait(self) -> None:
        """Return when `main` ended; raises what it failed with."""
        if self._task is None:
            return
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:
            await self.abort()
            raise
        if not self._task.cancelled():
            await self._task

    async def ended(self) -> None:
        """Return when `main` has ended, in whatever way; for those who only look on."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def _log_failure(self, task: asyncio.Task[None]) -> None:
        """Say at once what its owner will hear only when it is left."""
        error = None if task.cancelled() else task.exception()
        if error is not None and self._is_ready and not self._stopping.is_set():
            logger.critical("%s failed and has ended", self._name, exc_info=error)

    async def abort(self) -> None:
        """Cancel `main` and wait for its cleanup, even when cancelled meanwhile; that is raised afterwards."""
        if self._task is None:
            return
        cancelled: asyncio.CancelledError | None = None
        with _shield():
            while not self._task.done():
                self._task.cancel()
                try:
                    await asyncio.wait({self._task})
                except asyncio.CancelledError as exc:
                    cancelled = exc
        if cancelled is not None:
            raise cancelled
