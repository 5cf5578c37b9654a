"""The unix datagram socket by which other processes tell this one things, in a directory that only this user can enter.

A datagram may be lost, or come for nothing: its receiver looks into the file.
"""

from __future__ import annotations

import enum
import errno
import logging
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from ...control.bus import MAX_PAYLOAD

logger = logging.getLogger("aiotq.sqlite")

#: Seconds between looks that nobody asked for; wake-ups make them unnecessary, a lost one makes them useful.
SAFETY_INTERVAL: Final = 1.5
#: The same where there are no unix sockets, so that looking is all there is.
POLL_INTERVAL: Final = 0.05

#: Datagrams that stand in a socket at most, where the kernel says no more; then it may have refused some.
_FEWEST_WAITING: Final = 10
_LARGEST: Final = MAX_PAYLOAD + 64
#: Datagrams taken before the loop has a turn.
_MOST_AT_ONCE: Final = 1000
#: A unix socket's path is limited to 104 bytes (macOS) or 108 (Linux).
_LONGEST_SOCKET_PATH: Final = 100


class Sent(enum.Enum):
    """Whether a datagram was delivered."""

    DONE = enum.auto()
    DROPPED = enum.auto()
    NOBODY_THERE = enum.auto()


class Mailbox:
    """One process' socket: other processes send to it, and it sends to theirs."""

    def __init__(self, path: str, bound: socket.socket) -> None:
        self._path = path
        self._socket = bound
        self._room = _room()

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
                "no wake-ups between processes, polling every %d ms instead: can't make a unix socket (%s)",
                POLL_INTERVAL * 1000,
                exc,
            )
            return None
        return cls(path, bound)

    def __str__(self) -> str:
        return self._path

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, path: str, data: bytes) -> Sent:
        """Tell who listens at `path`. Never waits: a listener that is slow to read misses what is too much."""
        try:
            self._socket.sendto(data, path)
        except (ConnectionRefusedError, FileNotFoundError):
            return Sent.NOBODY_THERE
        except OSError:
            return Sent.DROPPED  # full, or not to be reached from here: who listens looks now and then
        return Sent.DONE

    def take(self) -> tuple[list[bytes], bool]:
        """Take what is there; return it, and whether more may have been sent than there was room for."""
        taken: list[bytes] = []
        try:
            while len(taken) < _MOST_AT_ONCE:
                taken.append(self._socket.recv(_LARGEST))
        except BlockingIOError:
            pass
        except OSError:
            return taken, True
        return taken, len(taken) >= self._room

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


def _room() -> int:
    """Return how many datagrams a socket holds."""
    try:
        return int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    except (OSError, ValueError):
        return _FEWEST_WAITING
