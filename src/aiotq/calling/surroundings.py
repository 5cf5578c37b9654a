"""What an app declares beside its tasks: the middleware round its calls, and what its workers open for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, overload

from ..worker.lifespans import WorkerLifespan
from .middleware import Middleware, MiddlewareStack

T = TypeVar("T")


class Surroundings:
    """The middleware and the worker lifespans of one app."""

    def __init__(self) -> None:
        self.onion = MiddlewareStack()
        self.worker_lifespans: list[WorkerLifespan[Any]] = []

    def add_middleware(self, middleware: Middleware) -> None:
        """Put `middleware` round the calls that this app sends and the tasks that its workers run from now on.

        What was added first is outermost: it sees a call before the others do, and its outcome after them.

        Raises:
            InvalidOption: it has not `send` and `run` as coroutine functions.
        """
        self.onion.add(middleware)

    @overload
    def worker_lifespan(self, fn: Callable[[], AsyncIterator[T]], /) -> WorkerLifespan[T]: ...
    @overload
    def worker_lifespan(self, fn: Callable[[], AbstractAsyncContextManager[T]], /) -> WorkerLifespan[T]: ...
    def worker_lifespan(self, fn: Callable[[], Any], /) -> WorkerLifespan[Any]:
        """Have each worker of this app open something before its first task, and close it after its last commit.

            @app.worker_lifespan
            async def pool() -> AsyncIterator[Pool]:
                async with create_pool() as made:
                    yield made

        `fn` is an async function with one yield, or returns an async context manager. Tasks have what it yields as
        `pool.value`. Several are entered in the order of their declaration, in the worker's loop and context, and left
        in the reverse order. One that fails ends the worker, with `WorkerLifespanError`.

        Not to be confused with `lifespan`, which connects the app for as long as an ASGI application runs.

        Raises:
            InvalidOption: `fn` is neither, or needs arguments.
        """
        declared = WorkerLifespan[Any](fn)
        self.worker_lifespans.append(declared)
        return declared
