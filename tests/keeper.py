"""A process that outlives a test process, to end what that one left: servers, workers, and their files.

A test process that hangs is ended hard (see `watchdog.py`), and anybody may kill one. It can't clean up then. All that
a test process starts has a mark in its environment, also what its children start, whatever session they are in; so the
keeper finds them (in /proc: Linux). It reads a pipe whose other end only the test process has, and acts when that ends.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

#: The name of the mark.
MARK: Final = "TEST_PROCESS"
#: Seconds that what was killed may take to be gone, and what was told to end may take to end.
LAST_MOMENT: Final = 5.0

_directories: list[str] = []


class Keeper:
    """Marks what this process starts, and has it ended with this process; a context manager."""

    def __enter__(self) -> Self:
        _directories[:] = [tempfile.mkdtemp(prefix="aiotq-tests-", dir=memory_for_files())]
        self._mark = f"{os.getpid()}-{secrets.token_hex(4)}"
        # Isolated, for beside this file is a package `typing`; in a session of its own, for Ctrl-C is for the tests.
        program = [sys.executable, "-I", "-S", __file__, self._mark, *_directories]
        self._process = subprocess.Popen(program, stdin=subprocess.PIPE, start_new_session=True)
        os.environ[MARK] = self._mark
        return self

    def left(self) -> list[str]:
        """Return the commands of what still runs after a moment."""
        deadline = time.monotonic() + LAST_MOMENT
        while (left := _commands(self._mark)) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left

    def __exit__(self, *exc_info: object) -> None:
        del os.environ[MARK]
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(4 * LAST_MOMENT) == 0, "the keeper failed"


def place_of_files() -> Path | None:
    """Return where files of servers are to be, which go with this process."""
    return Path(_directories[0]) if _directories else None


def memory_for_files() -> str | None:
    """Return a directory in memory, if there is room for all that tests write.

    There `fsync` costs nothing, of which tests do tens of thousands; what is killed finds its files again as well.
    """
    memory, much = Path("/dev/shm"), 4 * 1024**3
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > much else None


def _marked(mark: str) -> Iterator[int]:
    """The processes that run and have the mark; what is dead has no environment any more."""
    wanted = f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                yield int(name)
        except OSError:  # it has just ended, or belongs to somebody else
            continue


def _commands(mark: str) -> list[str]:
    found: list[str] = []
    for pid in _marked(mark):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        command = b" ".join(words).decode(errors="replace")
        if "multiprocessing.resource_tracker" not in command:  # it ends with its process
            found.append(f"{pid}: {command}")
    return found


def _kill_all(mark: str) -> None:
    """Kill those with the mark, and again: one of them may have started another meanwhile."""
    deadline = time.monotonic() + LAST_MOMENT
    while (left := list(_marked(mark))) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    _kill_all(sys.argv[1])
    for directory in sys.argv[2:]:
        shutil.rmtree(directory, ignore_errors=True)
