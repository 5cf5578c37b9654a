"""The file that says which process runs. It is locked as long as that lives: what is left over is known as such.

Source: flock(2). The lock goes with the open file, so it stays when the process executes another program.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ..exceptions import AioTQError

#: How often, and after how many seconds, a file that somebody only looks at is tried again.
_TRIES: Final = 5
_PAUSE: Final = 0.05


class PidfileTaken(AioTQError):
    """The process that a file names runs."""


@dataclass(slots=True)
class Held:
    """A file that names this process; `fd` keeps its lock."""

    path: str
    fd: int


_held: list[Held] = []


def take(path: str) -> Held:
    """Write this process's pid to `path`; `release` takes the file away.

    Raises:
        PidfileTaken: another process has it.
        OSError: it can't be written.
    """
    for _ in range(_TRIES):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not _lock(fd):
            os.close(fd)
            time.sleep(_PAUSE)
            continue
        if not _is_there(path, fd):  # whoever had it took it away meanwhile
            os.close(fd)
            continue
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        held = Held(os.path.abspath(path), fd)
        _held.append(held)
        return held
    raise PidfileTaken(f"{path} says that process {_read(path)} runs: stop that first, or name another file")


def adopt(path: str, fd: int) -> None:
    """Have the file that this process took when it was another program."""
    os.set_inheritable(fd, False)
    _held.append(Held(path, fd))


def holder(path: str) -> int | None:
    """Return the pid of the process that has the file; None: nobody does.

    Raises:
        OSError: it is there, and can't be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return None if _lock(fd, shared=True) else _read(path)
    finally:
        os.close(fd)


def release() -> None:
    """Take the files of this process away."""
    for held in _held:
        with suppress(OSError):
            if _is_there(held.path, held.fd):
                os.unlink(held.path)
        os.close(held.fd)
    _held.clear()


def _lock(fd: int, *, shared: bool = False) -> bool:
    import fcntl  # noqa: PLC0415  # not everywhere, as what asks for it

    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_there(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _read(path: str) -> int | None:
    with suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        return int(file.read())
    return None
