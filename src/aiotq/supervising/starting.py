"""What a process that was started in the background tells the command that waits for it: that it runs."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

STARTED: Final = b"R"

_fd: int | None = None


def is_awaited() -> bool:
    """Return whether somebody waits to hear that this process runs."""
    return _fd is not None


def expected(fd: int | None) -> None:
    """Note at which pipe somebody waits."""
    global _fd  # noqa: PLW0603  # it is the process that is awaited
    if fd is not None:
        os.set_inheritable(fd, False)
    _fd = fd


def passed_on() -> int | None:
    """Return the pipe, so that the next program in this process has it."""
    if _fd is not None:
        os.set_inheritable(_fd, True)
    return _fd


def tell(line: str) -> None:
    """Say something before it runs, if somebody waits."""
    if _fd is not None:
        os.write(_fd, line.encode() + b"\n")


def tell_started() -> None:
    """Say that this process runs, if somebody waits for that."""
    global _fd  # noqa: PLW0603
    if _fd is not None:
        with suppress(OSError):  # it waits no longer
            os.write(_fd, STARTED)
        os.close(_fd)
        _fd = None
