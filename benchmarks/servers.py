"""Brokers of the benchmarks' own: a new one for each run, in a directory that goes with it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .figures import BenchmarkError, Broker

#: Seconds in which a redis-server must answer, and end.
_PATIENCE: Final = 20.0
#: The settings that say what is kept on the disk.
PERSISTENCE: Final[dict[Broker, tuple[str, ...]]] = {
    "redis": ("--save", "", "--appendonly", "no"),
    "redis-aof": ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
}


@contextmanager
def broker_running(broker: Broker, directory: Path) -> Iterator[str]:
    """Start a new and empty `broker` which keeps its files in `directory`; yield its URL and end it afterwards."""
    match broker:
        case "redis" | "redis-aof":
            with _redis_server(directory, PERSISTENCE[broker]) as url:
                yield url
        case "sqlite":
            yield f"sqlite:////{str(directory.resolve()).lstrip('/')}/queue.db"
        case "memory" | "none":
            yield "memory://"


@contextmanager
def _redis_server(directory: Path, settings: tuple[str, ...]) -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        raise BenchmarkError("redis-server is not installed")
    port = _free_port()
    place = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory))
    # A session of its own: Ctrl-C ends the benchmark first, and then we end the server.
    process = subprocess.Popen(
        [program, *place, *settings], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_until_it_answers(process, port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        finally:
            process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return
        except OSError:
            pass
        time.sleep(0.01)
    raise BenchmarkError(f"redis-server does not answer (exit code {process.poll()})")
