"""Runs of tasks that stream: what they yield, or say with `send_chunk`, becomes the stream of the call."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from ..core.inside import core_of
from ..exceptions import CallError, InvalidOption, LeaseLost, StoreRequired
from .request import Request, running_request
from .running import is_generator
from .streams import DEFAULT_STREAM
from .task_core import TaskCore

if TYPE_CHECKING:
    from ..results.stream_writer import StreamWriter
    from .task import Task

#: The stream of the run of this context, if its task streams.
_writer: Final[ContextVar[StreamWriter | None]] = ContextVar("aiotq_stream", default=None)
#: Seconds in which a run that has lost its call is told so by its worker, and ended.
_TOLD_WITHIN: Final = 60.0


def streams(task: Task[..., Any]) -> bool:
    """Whether runs of `task` have a stream.

    Raises:
        InvalidOption: it can't have one.
    """
    declared = task.declared
    if not is_generator(task.fn) and declared.stream is None:
        return False
    if task.runs_in != "loop":
        raise InvalidOption(
            f"task {task.name} streams, so it is an async def that runs on the loop, not in {task.runs_in}"
        )
    if declared.ignore_result:
        raise InvalidOption(
            f"task {task.name} streams, and who reads a stream must know its end: it can't ignore results"
        )
    return True


def streamed(task: Task[..., Any], called: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return what a worker calls in place of `called`: it has a stream, and returns what the task returns."""
    return partial(_run, task, called)


class Streaming:
    """A part of every task."""

    name: str

    async def send_chunk(self, chunk: Any) -> None:
        """Add `chunk` to the stream of this call, as a task that yields does: for one that returns something as well.

        It waits only for the store, and for readers if the task declares that (`Stream(ahead=…)`).

        Raises:
            CallError: the task has no stream, or no worker runs it here.
            EncodeError, MessageTooLarge: it can't be sent.
            OperationalError: what was sent before could not be stored.
        """
        await self._stream.send(chunk)

    def streamed(self) -> int:
        """Return how many chunks earlier runs of this call have left: with `rerun="resume"` go on behind them."""
        return self._stream.streamed

    @property
    def _stream(self) -> StreamWriter:
        writer = _writer.get()
        if writer is None:
            raise CallError(
                f"{self.name} has no stream here: declare it with @app.task(stream=Stream()), and call this in its "
                "code while a worker runs it"
            )
        return writer


async def _run(task: Task[..., Any], called: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    request = running_request.get()
    if request.mode != "once":
        raise CallError(f"{task.name} streams, so one call runs it once: send a group in place of map or chunks")
    async with _writing(task, request) as writer:
        given: Any = called(*args, **kwargs)
        if inspect.isawaitable(given):
            return await given
        chunks = cast("AsyncGenerator[Any, None]", given)
        async with aclosing(chunks):
            async for chunk in chunks:
                await writer.send(chunk)
        return None


@asynccontextmanager
async def _writing(task: Task[..., Any], request: Request) -> AsyncGenerator[StreamWriter, None]:
    if request.is_eager:
        raise CallError(f"{task.name} streams, and that needs a worker: send the call; in tests use TestWorker")
    if request.ignore_result:
        raise CallError(f"{task.name} streams, and who reads a stream must know its end: don't ignore its result")
    core: TaskCore = core_of(task)
    source = await core.reader()
    if not source.records.is_shared:
        raise StoreRequired(
            "a stream is kept beside the results, and rpc:// keeps none: set result_backend to a redis://, sqlite:// "
            "or postgresql:// URL"
        )
    from ..results.stream_writer import StreamWriter  # noqa: PLC0415

    writer = StreamWriter(source, task.declared.stream or DEFAULT_STREAM, request, core.now)
    await writer.open()
    token = _writer.set(writer)
    try:
        try:
            yield writer
        except BaseException:
            with suppress(Exception):  # what ends the run is what counts
                await writer.close()
            raise
        else:
            await writer.close()
        finally:
            _writer.reset(token)
    except LeaseLost:  # the worker is told as well, and ends this run: its outcome is nobody's
        await asyncio.sleep(_TOLD_WITHIN)
        raise
