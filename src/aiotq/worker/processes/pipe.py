"""What a worker and its child say to each other: messages of pickles, streamed through a socket.

A message is chunks, each behind its length. Pickle writes large bytes straight into the socket, and reads them
straight into the object that they become: neither side holds them twice. A message that can't be pickled to its end is
broken off, and the next one follows.
"""

from __future__ import annotations

import os
import pickle
import select
import struct
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

Heard = TypeVar("Heard", bytes, int)

_LENGTH: Final = struct.Struct("<Q")
#: In the place of a chunk's length: the message ends, or breaks off.
_END: Final = 0
_BROKEN: Final = 2**64 - 1
#: Bytes from which a piece is a chunk of its own, and what one read asks for.
_LARGE: Final = 65_536
#: Seconds of one wait: what `poll` takes is bounded by what a C int has in milliseconds.
_LONGEST_WAIT: Final = 86_400.0


class PipeClosed(Exception):
    """The other side has gone."""


class PipeTimeout(Exception):
    """The deadline of the pipe has passed."""


class BrokenOff(Exception):
    """The sender could not pickle the rest of this message."""


class Pipe:
    """One end of a socket; `deadline` (of `time.monotonic`) holds for all that waits. One thread at a time uses it."""

    def __init__(self, fd: int, *, has_deadlines: bool = False) -> None:
        self.deadline: float | None = None
        self._fd = fd
        if has_deadlines:
            os.set_blocking(fd, False)
        self._gathered = bytearray()  # small pieces of the message that is sent
        self._has_begun = False  # whether any of it was sent
        self._buffer = memoryview(b"")
        self._left = 0  # bytes of the current chunk that were not read
        self._is_inside = False  # whether there is more of the message that is received

    def send(self, *parts: object) -> None:
        """Send a message of `parts`.

        Raises:
            PipeClosed, PipeTimeout: it was not sent.
            Exception: what pickling raised; whoever receives is told if the message has begun.
        """
        self._gathered = bytearray()  # and not cleared: an error may still hold a view of it
        self._has_begun = False
        try:
            for part in parts:
                pickle.dump(part, self, pickle.HIGHEST_PROTOCOL)
        except (PipeClosed, PipeTimeout):
            raise
        except BaseException:
            if self._has_begun:
                self._put([_LENGTH.pack(_BROKEN)])
            raise
        self._put([*self._chunk(), _LENGTH.pack(_END)])

    def receive(self) -> Any:
        """Return the first part of the next message; `part` returns the others, and `finish` has to follow.

        Raises:
            PipeClosed, PipeTimeout: there is none.
            BrokenOff: it ends here.
        """
        self._is_inside = True
        return self.part()

    def part(self) -> Any:
        """Return the next part of the message; raises as `receive` does, and what unpickling raises."""
        return pickle.load(self)  # type: ignore[arg-type]  # `read` may return what is no bytes, but has them

    def finish(self) -> bool:
        """Leave out what was not read of the message; return whether it was sent whole."""
        while self._is_inside:
            try:
                self._enter_chunk()
            except EOFError:
                return True
            except BrokenOff:
                return False
            if not self._buffer:
                self._fill()
            self._taken(min(self._left, len(self._buffer)))
        return True

    # What pickle calls

    def write(self, data: Any) -> int:
        """Send a piece: a frame of pickle's, or the bytes of one large object."""
        piece = data.raw() if isinstance(data, pickle.PickleBuffer) else memoryview(data)
        if piece.nbytes < _LARGE:
            self._gathered += piece
        else:
            self._put([*self._chunk(), _LENGTH.pack(piece.nbytes), piece])
            self._gathered = bytearray()
        return piece.nbytes

    def read(self, size: int) -> memoryview | bytearray:
        """Return exactly `size` bytes."""
        if size <= self._left and size <= len(self._buffer):
            return self._taken(size)
        found = bytearray(size)
        self.readinto(found)
        return found

    def readinto(self, target: Any) -> int:
        """Fill `target` whole."""
        rest = memoryview(target).cast("B")
        size = len(rest)
        while rest:
            self._enter_chunk()
            most = min(len(rest), self._left)
            if self._buffer:
                found = self._taken(min(most, len(self._buffer)))
                rest[: len(found)] = found
                rest = rest[len(found) :]
            elif most >= _LARGE:
                count = self._heard(partial(os.readv, self._fd, [rest[:most]]))
                self._left -= count
                rest = rest[count:]
            else:
                self._fill()
        return size

    def readline(self) -> NoReturn:
        raise pickle.UnpicklingError("a line in a pickle of the highest protocol")

    # The socket

    def _taken(self, size: int) -> memoryview:
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        self._left -= size
        return found

    def _enter_chunk(self) -> None:
        """See that there is something left of a chunk; EOFError: the message has ended."""
        if self._left:
            return
        if not self._is_inside:
            raise EOFError("a message has fewer parts than were read")
        while len(self._buffer) < _LENGTH.size:
            self._fill()
        (length,) = _LENGTH.unpack(self._buffer[: _LENGTH.size])
        self._buffer = self._buffer[_LENGTH.size :]
        self._is_inside = length not in (_END, _BROKEN)
        if length == _BROKEN:
            raise BrokenOff
        if not self._is_inside:
            raise EOFError("a message has fewer parts than were read")
        self._left = length

    def _fill(self) -> None:
        found = self._heard(lambda: os.read(self._fd, _LARGE))
        self._buffer = memoryview(bytes(self._buffer) + found if self._buffer else found)

    def _heard(self, read: Callable[[], Heard]) -> Heard:
        while True:
            try:
                heard = read()
            except BlockingIOError:
                self._wait(select.POLLIN)
                continue
            except OSError as exc:
                raise PipeClosed from exc
            if not heard:
                raise PipeClosed
            return heard

    def _chunk(self) -> list[bytes | bytearray]:
        return [_LENGTH.pack(len(self._gathered)), self._gathered] if self._gathered else []

    def _put(self, pieces: Sequence[bytes | bytearray | memoryview]) -> None:
        self._has_begun = True
        rest = [memoryview(piece) for piece in pieces]
        while rest:
            try:
                count = os.writev(self._fd, rest)
            except BlockingIOError:
                self._wait(select.POLLOUT)
                continue
            except OSError as exc:
                raise PipeClosed from exc
            while rest and count >= len(rest[0]):
                count -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][count:]

    def _wait(self, event: int) -> None:
        waiting = select.poll()
        waiting.register(self._fd, event)
        while True:
            left = _LONGEST_WAIT if self.deadline is None else self.deadline - time.monotonic()
            if waiting.poll(1000 * max(0.0, min(left, _LONGEST_WAIT))):
                return
            if self.deadline is not None and time.monotonic() >= self.deadline:
                raise PipeTimeout
