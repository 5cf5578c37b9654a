"""A stream as records: segments, each written once, and a head that says how far they go. Plain values and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import orjson

from ..core.values import value
from ..exceptions import CallError
from .record_names import key_of

#: The state of a head; segments have a terminal one, so that no store replaces them.
HEAD: Final = "STREAM"
#: The topic on which readers tell a run that they are there, and how far.
READERS: Final = "stream-readers"


class Places:
    """The ids of the records of a task's stream."""

    def __init__(self, task_id: str) -> None:
        self.head = f"{key_of(task_id)}.stream"

    def of(self, number: int) -> str:
        """Return the id of segment `number`."""
        return f"{self.head}.{number}"

    def some(self, first: int, count: int) -> list[str]:
        """Return the ids of `count` segments from `first` on."""
        return [self.of(number) for number in range(first, first + count)]


@value
class Segment:
    """What one write added: encoded chunks of the run named so, which is the `turn`th, after `before` others.

    One without chunks begins a run; `is_anew`: what stands before it is void.
    """

    run: str
    turn: int
    before: int
    chunks: tuple[bytes, ...] = ()
    is_anew: bool = False

    @property
    def after(self) -> int:
        """How many chunks the stream has with it."""
        return self.before + len(self.chunks)

    def packed(self) -> bytes:
        head = orjson.dumps((self.run, self.turn, self.before, self.is_anew, [len(each) for each in self.chunks]))
        return b"%b\n%b" % (head, b"".join(self.chunks))

    @classmethod
    def unpacked(cls, packed: bytes) -> Self:
        """Return the segment in what `packed` returned; raises ValueError, TypeError if it is none."""
        head, _, body = packed.partition(b"\n")
        run, turn, before, is_anew, sizes = orjson.loads(head)
        chunks: list[bytes] = []
        start = 0
        for size in sizes:
            chunks.append(body[start : start + size])
            start += size
        return cls(run, turn, before, tuple(chunks), is_anew)


@value
class Head:
    """How far the stream of a task goes: segments `first` to `last`; and the turn of the run that wrote it.

    `hears`: where that is told of readers; empty: it does not want to know. `segment` is the last one, if it is small.
    """

    task: str
    turn: int
    first: int
    last: int
    hears: str = ""
    segment: bytes = b""

    def packed(self) -> bytes:
        return b"%b\n%b" % (orjson.dumps((self.task, self.turn, self.first, self.last, self.hears)), self.segment)

    @classmethod
    def unpacked(cls, packed: bytes) -> Self:
        """As `Segment.unpacked`."""
        line, _, segment = packed.partition(b"\n")
        task, turn, first, last, hears = orjson.loads(line)
        return cls(task, turn, first, last, hears, segment)


@value
class Reading:
    """What a reader tells the run: who it is, up to which chunk it has read, and whether it leaves."""

    reader: str
    position: int
    has_left: bool = False

    def packed(self, task_id: str) -> bytes:
        return b"%b\n%b" % (task_id.encode(), orjson.dumps((self.reader, self.position, self.has_left)))

    @classmethod
    def unpacked(cls, packed: bytes, prefix: bytes) -> Self | None:
        """Return what was told; None if it is about another task than that of `prefix`."""
        if not packed.startswith(prefix):
            return None
        return cls(*orjson.loads(packed[len(prefix) :]))


@value
class Place:
    """Where a reader is: `chunk` chunks of segment `segment` are read. As text: `12.3`."""

    segment: int = 0
    chunk: int = 0

    def __str__(self) -> str:
        return f"{self.segment}.{self.chunk}"

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the place that `str` made `text` of.

        Raises:
            CallError: it is none.
        """
        parts: Sequence[Any] = text.split(".") if isinstance(text, str) else ()  # pyright: ignore[reportUnnecessaryIsInstance]
        if len(parts) != 2 or not all(part.isascii() and part.isdecimal() and len(part) < 16 for part in parts):
            raise CallError(f"a place in a stream is what `stream.place` was, such as '12.3', not {text!r}")
        return cls(int(parts[0]), int(parts[1]))
