"""What every result of a call can do with the task's stream; the reading is loaded when a stream is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from ..tasks.streams import Streamed

if TYPE_CHECKING:
    from .handle import AsyncResult
    from .reader import Readers
    from .stream_reader import ChunkStream, Start

R_co = TypeVar("R_co", covariant=True)
C = TypeVar("C")


class StreamingResult(Generic[R_co]):
    """A part of every result of a call."""

    __slots__ = ()
    if TYPE_CHECKING:
        _readers: Readers

    @overload
    def stream(
        self: StreamingResult[Streamed[C]],
        start: Start = ...,
        *,
        after: str | None = ...,
        timeout: float | None = ...,
    ) -> ChunkStream[C]: ...
    @overload
    def stream(
        self, start: Start = ..., *, after: str | None = ..., timeout: float | None = ...
    ) -> ChunkStream[Any]: ...
    def stream(
        self, start: Start = "start", *, after: str | None = None, timeout: float | None = None
    ) -> ChunkStream[Any]:
        """Read the chunks of a task that streams, from the first that is kept on, and what comes.

            async for chunk in result.stream():
                print(chunk)

        `"now"` leaves out what was sent before; `after=` goes on behind a place (`stream.place`). The loop ends when
        the task has ended, and raises what that raised. The loop of a task that streams nothing ends with the task.

        Raises:
            StreamRestarted: the task began again: what came so far is void. Reading goes on.
            StreamGap: chunks are not kept any more. Reading goes on.
            ResultTimeout: no chunk came for `timeout` seconds; the task goes on.
            StoreRequired: results are kept by nobody (`rpc://`), and streams with them.
        """
        from .stream_reader import ChunkStream  # noqa: PLC0415

        return ChunkStream(cast("AsyncResult[Any]", self), self._readers, start, after, timeout)
