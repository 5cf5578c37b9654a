"""A private Amazon SQS: moto's server, which keeps all in its memory."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from functools import cache
from typing import Final, Self

from .servers import END, await_port, free_port, until_the_end

_numbers: Final = itertools.count(1)


class SqsServer:
    """A server of our own; a context manager. It keeps nothing when it ends."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, without what was in it, and wait until it answers."""
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
        await_port(self.port)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(END)

    def url(self, *options: str, port: int | None = None) -> str:
        """Return a URL whose queues nobody else has; `port` is that of a proxy."""
        endpoint = self.endpoint if port is None else f"http://127.0.0.1:{port}"
        prefix = f"t{os.getpid()}-{next(_numbers)}-"
        given = ("region=us-east-1", f"endpoint={endpoint}", f"prefix={prefix}", "wait=1", *options)
        return f"sqs://key:secret@?{'&'.join(given)}"


@cache
def shared_sqs() -> SqsServer:
    """Return this test process's SQS, started when first wanted. Tests keep apart by their prefixes."""
    return until_the_end(SqsServer())
