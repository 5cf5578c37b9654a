"""Resources that a worker opens before its first task and closes after its last commit; tasks read them here."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Final, Generic, TypeVar, cast, overload

from ..exceptions import CallError, InvalidOption, WorkerLifespanError

T = TypeVar("T")

#: What the lifespans that are open in this context yielded, by their identity.
_values: Final[ContextVar[Mapping[int, Any]]] = ContextVar("aiotq_lifespan_values")


class WorkerLifespan(Generic[T]):
    """One `@app.worker_lifespan`; `value` is what it yielded in the worker that runs here.

    ```python
    @app.worker_lifespan
    async def pool() -> AsyncIterator[Pool]:
        async with create_pool() as made:
            yield made

    @app.task
    async def count() -> int:
        return await pool.value.fetchval("select count(*) from users")
    ```
    """

    def __init__(self, fn: Callable[[], AsyncIterator[T]] | Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self.name = f"{getattr(fn, '__module__', '?')}.{getattr(fn, '__qualname__', repr(fn))}"
        self._open = _factory(fn, self.name)

    def __repr__(self) -> str:
        return f"<WorkerLifespan {self.name}>"

    async def __call__(self) -> T:
        """Return `value`: so it is a dependency, `Annotated[Pool, Depends(pool)]`, of tasks and of FastAPI's routes."""
        return self.value

    @property
    def value(self) -> T:
        """The object that it yielded: the same for all tasks of a worker, those in threads included.

        Raises:
            CallError: no worker runs here that has entered it.
        """
        try:
            found: T = _values.get()[id(self)]
        except LookupError:
            raise CallError(
                f"{self.name}.value: no worker has entered it here (it is there in tasks on the loop and in threads; "
                'elsewhere, tests say `with …override(value)`, and run="process" tasks use worker_process_init)'
            ) from None
        return found

    @contextmanager
    def override(self, value: T) -> Generator[None, None, None]:
        """Have `value` in place of what a worker would yield, in this context: for tests that call tasks directly."""
        token = _values.set({**_values.get({}), id(self): value})
        try:
            yield
        finally:
            _values.reset(token)

    @asynccontextmanager
    async def entered(self) -> AsyncGenerator[None, None]:
        """Be open; what a worker does.

        Raises:
            WorkerLifespanError: it failed, at the start or at the end.
        """
        opened = self._open()
        try:
            value = await opened.__aenter__()
        except Exception as exc:
            raise WorkerLifespanError(self.name, "start", exc) from exc
        _values.set({**_values.get({}), id(self): value})
        failed: BaseException | None = None
        try:
            yield
        except BaseException as exc:
            failed = exc
            raise
        finally:
            try:
                await opened.__aexit__(
                    type(failed) if failed else None, failed, failed.__traceback__ if failed else None
                )
            except Exception as exc:
                if exc is not failed:
                    raise WorkerLifespanError(self.name, "end", exc) from exc


class WorkerLifespans:
    """The lifespans that an app has declared."""

    def __init__(self) -> None:
        self._declared: list[WorkerLifespan[Any]] = []

    @overload
    def declare(self, fn: Callable[[], AsyncIterator[T]], /) -> WorkerLifespan[T]: ...
    @overload
    def declare(self, fn: Callable[[], AbstractAsyncContextManager[T]], /) -> WorkerLifespan[T]: ...
    def declare(self, fn: Callable[[], Any], /) -> WorkerLifespan[Any]:
        """Have each worker of the app open something before its first task, and close it after its last commit.

        Raises:
            InvalidOption: `fn` is no async function with one yield, and returns no async context manager.
        """
        self._declared.append(declared := WorkerLifespan[Any](fn))
        return declared

    @asynccontextmanager
    async def all_entered(self) -> AsyncGenerator[None, None]:
        """Be in all of them, the first one outermost."""
        async with AsyncExitStack() as stack:
            for each in self._declared:
                await stack.enter_async_context(each.entered())
            yield


def _factory(fn: Any, name: str) -> Callable[[], AbstractAsyncContextManager[Any]]:
    if not callable(fn):
        raise InvalidOption(f"worker_lifespan takes a function, not {fn!r}")
    try:
        inspect.signature(fn).bind()
    except TypeError:
        raise InvalidOption(f"worker_lifespan {name} must need no arguments") from None
    if inspect.isasyncgenfunction(fn):
        return asynccontextmanager(fn)
    if inspect.iscoroutinefunction(fn) or inspect.isgeneratorfunction(fn):
        raise InvalidOption(
            f"worker_lifespan {name} must be an async function with a yield, or return an async context manager"
        )

    def make() -> AbstractAsyncContextManager[Any]:
        made: Any = fn()
        if not isinstance(made, AbstractAsyncContextManager):
            raise TypeError(f"it returned {type(made).__name__}, which is no async context manager")
        return cast("AbstractAsyncContextManager[Any]", made)

    return make
