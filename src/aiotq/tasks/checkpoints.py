"""Long tasks that go on: what a run keeps, so that the next run of the same call need not begin again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from ..core.values import shown
from ..exceptions import CallError, InvalidOption, StoreRequired
from ..results.checkpoints import Checkpoints
from ..results.record_names import CURSOR, KEPT, STATE
from .request import Request
from .running import current_request
from .task_core import TaskCore

Row = TypeVar("Row")
#: Rows, or a function that returns those behind a key (None: all).
Rows = Iterable[Row] | AsyncIterable[Row] | Callable[[Any], Iterable[Row] | AsyncIterable[Row]]


class _Cursors:
    """The cursors of one run: how many it has made, and which of them has moved last."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.made = self.moved = 0

    def check(self, name: str, number: int) -> None:
        """See that a later cursor has not begun to move: by their order they are told apart."""
        if number < self.moved:
            raise CallError(f"{name}.cursor: a cursor can't be in the loop of another one: keep a checkpoint there")
        self.moved = number


#: Those of the run of this context.
_cursors: Final[ContextVar[_Cursors | None]] = ContextVar("aiotq_cursors", default=None)


class Checkpointing:
    """A part of every task."""

    name: str
    if TYPE_CHECKING:

        @property
        def _core(self) -> TaskCore: ...

    async def checkpoint(self, state: Any, *, expires: float = KEPT) -> None:
        """Keep `state` for a later run of this call, which gets it from `restored`; for `expires` seconds.

        Raises:
            CallError: no task runs here.
            EncodeError, MessageTooLarge: it can't be kept.
            StoreRequired, ResultsDisabled: nothing is kept in this app's results.
            OperationalError: the store can't be reached.
        """
        kept = await self._kept("checkpoint", expires)
        if kept is not None:
            await kept.put(STATE, state, expires)

    async def restored(self, default: Any = None) -> Any:
        """Return what `checkpoint` kept last in an earlier run of this call, or in this one; raises as that."""
        kept = await self._kept("restored", KEPT)
        return default if kept is None else await kept.get(STATE, default)

    async def cursor(
        self, rows: Rows[Row], *, key: str | Callable[[Row], Any], every: float = 0.0, expires: float = KEPT
    ) -> AsyncGenerator[Row, None]:
        """Yield `rows`, in a later run of this call those behind the last that was finished.

            async for row in self.cursor(rows_after, key="id"):
                await handle(row)

        A row is finished when the next is asked for; that is kept at once, or every so many seconds. `rows` come in the
        order of their keys: an iterable, or a function that returns those behind a key. `key` is an attribute or item
        of a row, or a function. Raises as `checkpoint`.

        Raises:
            CallError: a key is not above the one before.
        """
        if type(every) not in {int, float} or every < 0:
            raise InvalidOption(f"{self.name}.cursor: every must be seconds, 0 or more, not {every!r}")
        kept = await self._kept("cursor", expires)
        run = _cursors_of(current_request())
        number = run.made
        run.made += 1
        key_of = cast("Callable[[Row], Any]", key if callable(key) else _getter(key))
        at, finished = (number, ()) if kept is None else await kept.get(CURSOR, (number, ()))
        if number < at:  # it has ended in an earlier run
            return
        finished = finished if number == at else ()  # the key of the last row that was, if there is one
        given: Any = rows(finished[0] if finished else None) if callable(rows) else rows
        before: tuple[Any, ...] = ()
        written = -every
        async for row in _each(given):
            its = key_of(row)
            if before and not its > before[0]:
                raise CallError(
                    f"{self.name}.cursor: rows must come in the order of their keys, and {shown(its)} comes after "
                    f"{shown(before[0])}"
                )
            before = (its,)
            if finished and not its > finished[0]:
                continue
            yield row
            run.check(self.name, number)
            now = asyncio.get_running_loop().time()
            if kept is not None and now - written >= every:
                await kept.put(CURSOR, (number, before), expires)
                written = now
        if kept is not None:
            await kept.put(CURSOR, (number + 1, ()), expires)

    async def _kept(self, what: str, expires: float) -> Checkpoints | None:
        """Return where this call keeps things; None if it runs where it was called, and never elsewhere."""
        request = current_request()
        if request.id is None or request.called_directly:
            raise CallError(
                f"{self.name}.{what}: no task runs here; call it in a task's code, while a worker runs that"
            )
        if type(expires) not in {int, float} or not expires > 0:
            raise InvalidOption(f"{self.name}.{what}: expires must be seconds above 0, not {expires!r}")
        if request.is_eager:
            return None
        core = self._core
        reader = await core.reader()
        if not reader.records.is_shared:
            raise StoreRequired(
                f"{self.name}.{what}: rpc:// keeps nothing for a later run: set result_backend to a redis://, "
                "sqlite:// or postgresql:// URL"
            )
        return Checkpoints(reader, request.id, core.now)


def _cursors_of(request: Request) -> _Cursors:
    found = _cursors.get()
    if found is None or found.request is not request:
        found = _Cursors(request)
        _cursors.set(found)
    return found


def _getter(name: str) -> Callable[[Any], Any]:
    """Return what takes the item or attribute `name` of a row."""

    def get(row: Any) -> Any:
        return cast("Mapping[str, Any]", row)[name] if isinstance(row, Mapping) else getattr(row, name)

    return get


async def _each(rows: Any) -> AsyncGenerator[Any, None]:
    if isinstance(rows, AsyncIterable):
        async for row in cast("AsyncIterable[Any]", rows):
            yield row
    else:
        for row in rows:
            yield row
