"""Private servers that keep results only, as those of `servers`."""

from __future__ import annotations

import shutil
import signal
import subprocess
from functools import cache
from typing import Final, Self

from .servers import END, await_port, free_port, until_the_end


class MemcachedServer:
    """A memcached of our own; a context manager. It keeps nothing when it ends."""

    PROGRAM: Final = "memcached"

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"cache+memcached://{self.host}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = shutil.which(self.PROGRAM)
        assert program is not None, "memcached is not installed: `make test` does that"
        command = [program, "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-u", "nobody", "-m", "64"]
        self._process = subprocess.Popen([*command, *self._arguments], stdin=subprocess.DEVNULL)
        await_port(self.port)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(END)


@cache
def shared_memcached() -> MemcachedServer:
    """Return this test process's memcached, started when first wanted. Tests keep apart by their prefixes."""
    return until_the_end(MemcachedServer())
