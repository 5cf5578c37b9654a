"""The unix datagram socket by which other processes wake this one, in a directory that only this user can enter.

A wake-up may be lost, or come for nothing: whoever gets it looks.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from contextlib import suppress
from typing import Final

logger = logging.getLogger("aiotq.sqlite")

#: What a wake-up is about.
MESSAGES: Final = 1
RECORDS: Final = 2
REVOCATIONS: Final = 4
EVERYTHING: Final = MESSAGES | RECORDS | REVOCATIONS

#: Seconds between looks that nobody asked for; wake-ups make them unnecessary, a lost one makes them useful.
SAFETY_INTERVAL: Final = 1.5
#: The same where there are no unix sockets, so that looking is all there is.
POLL_INTERVAL: Final = 0.05

#: A unix socket's path is limited to 104 bytes (macOS) or 108 (Linux).
_LONGEST_SOCKET_PATH: Final = 100


class Mailbox:
    """One process' socket: other processes send to it, and it sends to theirs."""

    def __init__(self, path: str, bound: socket.socket) -> None:
        self._path = path
        self._socket = bound

    @classmethod
    def open(cls, name: str) -> Mailbox | None:
        """Return a mailbox called `name`; None where there can't be one, which is slower and otherwise the same."""
        if not hasattr(socket, "AF_UNIX") or not hasattr(os, "getuid"):
            return None
        try:
            directory = _socket_directory(name)
            _remove_stale(directory)
            bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                bound.setblocking(False)
                path = f"{directory}/{name}"
                bound.bind(path)
            except BaseException:
                bound.close()
                raise
        except OSError as exc:
            logger.warning(
                "no wake-ups, looking every %d ms instead: can't make a unix socket (%s)",
                POLL_INTERVAL * 1000,
                exc,
            )
            return None
        return cls(path, bound)

    def __str__(self) -> str:
        return self._path

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, path: str, about: int) -> bool:
        """Wake who listens at `path`; False if nobody does."""
        try:
            self._socket.sendto(bytes((about,)), path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            pass  # full: it will look anyway; not to be reached from here: it looks now and then
        return True

    def empty(self) -> int:
        """Take all that is there and return what it was about."""
        about = 0
        try:
            while True:
                for bits in self._socket.recv(16):
                    about |= bits
        except BlockingIOError:
            return about
        except OSError:
            return EVERYTHING

    def close(self) -> None:
        self._socket.close()
        with suppress(OSError):
            os.unlink(self._path)


def _socket_directory(name: str) -> str:
    """Return a directory that only this user can enter, with a path short enough for a socket in it."""
    import tempfile  # noqa: PLC0415  # 2 ms of everybody's start

    places = [os.path.join(tempfile.gettempdir(), f"aiotq-{os.getuid()}"), f"/tmp/aiotq-{os.getuid()}"]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):
        places.insert(0, os.path.join(runtime, "aiotq"))
    error = OSError(errno.ENAMETOOLONG, "every directory for it has too long a path")
    for place in places:
        if len(os.fsencode(f"{place}/{name}")) > _LONGEST_SOCKET_PATH:
            continue
        try:
            with suppress(FileExistsError):
                os.mkdir(place, 0o700)
            status = os.lstat(place)
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
                return place
            error = OSError(errno.EPERM, f"{place} is not a directory of this user's alone")
        except OSError as exc:
            error = exc
    raise error


def _remove_stale(directory: str) -> None:
    """Remove the sockets of processes that were killed: nobody answers there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        for entry in os.listdir(directory):
            path = f"{directory}/{entry}"
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                with suppress(OSError):
                    os.unlink(path)
            except OSError:
                continue
