"""Programs of tests, each in a process of its own which is forked from one that has imported what they need.

Half a second of a processor is what the interpreter and its imports cost each time, and tests start hundreds. What must
be a program from its first instruction on (a command on a terminal) is started as one elsewhere.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
#: What programs import, some of it only when they need it.
_IMPORTED: Final = (
    "aiotq.cli",
    "aiotq.backends.amqp.backend",
    "aiotq.backends.redis.backend",
    "aiotq.backends.sqlite.backend",
    "aiotq.graph.drawing",
    "pydantic",
    "zoneinfo",
)
#: Bytes of a request (words, a directory and an environment), and of an answer: what happened, two numbers.
_MOST: Final = 1 << 20
_SHORT: Final = 64
#: Seconds until it has started a program, or has noticed that there are no more requests.
_PATIENCE: Final = 30.0


class Forked:
    """A program that was started: what `subprocess.Popen` has of it, as far as tests need it."""

    def __init__(self, server: _Server, number: int, pid: int) -> None:
        self._server = server
        self._number = number
        self.pid = pid

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        return self._server.code_of(self._number, 0.0)

    def wait(self, timeout: float) -> int:
        """Wait for its end, and return its exit code.

        Raises:
            TimeoutError: it runs on.
        """
        if (code := self._server.code_of(self._number, timeout)) is None:
            raise TimeoutError(f"process {self.pid} did not end within {timeout:g} s")
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Server:
    """The process that forks."""

    def __init__(self) -> None:
        self._codes: dict[int, int] = {}
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST)
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-m", "tests.forked", str(theirs.fileno())],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
                pass_fds=[theirs.fileno()],
            )

    def start(
        self, words: Sequence[str], directory: Path, environment: Mapping[str, str], fds: Sequence[int]
    ) -> Forked:
        request = json.dumps([list(words), str(directory), dict(environment)]).encode()
        self._ours.settimeout(_PATIENCE)
        socket.send_fds(self._ours, [request], list(fds))
        deadline = time.monotonic() + _PATIENCE
        while (heard := self._heard(deadline)) is not None:
            what, number, pid = heard
            if what == "started":
                return Forked(self, number, pid)
        raise TimeoutError(f"{words[0]} was not started within {_PATIENCE:g} s")

    def code_of(self, number: int, timeout: float) -> int | None:
        """Return the exit code of a program that ended, at once or within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while number not in self._codes and self._heard(deadline) is not None:
            pass
        return self._codes.get(number)

    def _heard(self, deadline: float) -> tuple[str, int, int] | None:
        """Return what it says next: a program started (its number, its process) or ended (its number, its code)."""
        ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        said = self._ours.recv(_SHORT)
        assert said, "the process that forks has ended"
        what, number, value = said.decode().split()
        if what == "ended":
            self._codes[int(number)] = int(value)
        return what, int(number), int(value)

    def close(self) -> None:
        self._ours.close()
        self._process.wait(_PATIENCE)


_shared: list[_Server] = []


def start(
    words: Sequence[str], directory: Path, environment: Mapping[str, str], *, stdin: int, stdout: int, stderr: int
) -> Forked:
    """Start `python -m` with `words` in `directory`; it has only these files, which are for the caller to close."""
    if not _shared:
        _shared.append(_Server())
    return _shared[0].start(words, directory, environment, [stdin, stdout, stderr])


def run_aiotq(
    words: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    *,
    stdin: int = subprocess.DEVNULL,
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    """Run `aiotq` with `words` in `directory`, and return what it printed and its exit code.

    Raises:
        TimeoutError: it took longer than `timeout` seconds, and was killed.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as nothing:
        given = nothing.fileno() if stdin == subprocess.DEVNULL else stdin
        program = start(
            ["aiotq", *words], directory, environment, stdin=given, stdout=out.fileno(), stderr=err.fileno()
        )
        try:
            code = program.wait(timeout)
        finally:
            program.kill()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(words), code, out.read().decode(), err.read().decode())


def close_forked() -> None:
    """End the process that forks."""
    while _shared:
        _shared.pop().close()


def _serve(requests: socket.socket) -> str:
    """Fork for each request, until there are no more; return in the child, with the module that it is to run."""
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    children: dict[int, int] = {}
    for number in itertools.count():
        while requests.fileno() not in select.select([requests.fileno(), woken], [], [])[0]:
            os.read(woken, _SHORT)
            _tell_who_ended(requests, children)
        request, fds, _, _ = socket.recv_fds(requests, _MOST, 3)
        if not request:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(woken)
            os.close(waker)
            requests.close()
            return _become(*json.loads(request), fds=fds)
        for fd in fds:
            os.close(fd)
        children[pid] = number
        requests.send(f"started {number} {pid}".encode())
    raise AssertionError("numbers have no end")


def _tell_who_ended(requests: socket.socket, children: dict[int, int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            break
        requests.send(f"ended {children.pop(pid)} {os.waitstatus_to_exitcode(status)}".encode())


def _become(words: list[str], directory: str, environment: dict[str, str], *, fds: list[int]) -> str:
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    places = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each and each not in sys.path]
    sys.path[:1] = [directory, *places]
    sys.argv[1:] = words[1:]
    return words[0]


if __name__ == "__main__":
    for _name in _IMPORTED:
        importlib.import_module(_name)
    runpy.run_module(_serve(socket.socket(fileno=int(sys.argv[1]))), run_name="__main__", alter_sys=True)
