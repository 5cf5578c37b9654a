"""Commands of `aiotq`, each in a process of its own which is forked from one that has imported it.

Half a second of a processor is what the interpreter and its imports cost each time, and tests give many commands. What
must be a program from its first instruction on (a worker, a command on a terminal) is started as one elsewhere.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
#: Bytes of a request (words, a directory and an environment), and of an answer: an id, an exit code.
_MOST: Final = 1 << 20
_SHORT: Final = 64
#: What commands import, the command line first; some only when they need it.
_IMPORTED: Final = ("aiotq.cli", "aiotq.backends.sqlite.backend", "aiotq.graph.drawing", "pydantic", "zoneinfo")
#: Seconds until it has noticed that there are no more requests.
_END: Final = 10.0


class Commands:
    """Runs commands, one at a time, with the imports of this process."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.commands", str(theirs.fileno())],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
                pass_fds=[theirs.fileno()],
            )

    def run(
        self, words: Sequence[str], directory: Path, environment: Mapping[str, str], stdin: int, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run `aiotq` with `words` in `directory`, and return what it printed and its exit code.

        Raises:
            TimeoutError: it took longer than `timeout` seconds, and was killed.
        """
        request = json.dumps([list(words), str(directory), dict(environment)]).encode()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as nothing:
            given = nothing.fileno() if stdin == subprocess.DEVNULL else stdin
            self._ours.settimeout(timeout)
            socket.send_fds(self._ours, [request], [given, out.fileno(), err.fileno()])
            pid = int(self._ours.recv(_SHORT))
            try:
                code = int(self._ours.recv(_SHORT))
            except BaseException:  # the test's own timeout too
                os.kill(pid, signal.SIGKILL)
                self._ours.recv(_SHORT)  # its exit code, which is not the next one's
                raise
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(list(words), code, out.read().decode(), err.read().decode())

    def close(self) -> None:
        self._ours.close()
        self._process.wait(_END)


_shared: list[Commands] = []


def shared_commands() -> Commands:
    """Return this test process's, started when first wanted."""
    if not _shared:
        _shared.append(Commands())
    return _shared[0]


def close_commands() -> None:
    """End it."""
    while _shared:
        _shared.pop().close()


def _serve(requests: socket.socket) -> None:
    """Fork for each request, until there are no more; return in the child, which is to become the command."""
    while True:
        request, fds, _, _ = socket.recv_fds(requests, _MOST, 3)
        if not request:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            break
        requests.send(str(pid).encode())
        for fd in fds:
            os.close(fd)
        requests.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    requests.close()
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    words, directory, environment = json.loads(request)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = directory
    sys.argv[1:] = words


if __name__ == "__main__":
    for _name in _IMPORTED:
        importlib.import_module(_name)
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("aiotq", run_name="__main__", alter_sys=True)
