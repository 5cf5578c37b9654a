"""What a worker and a scheduler tell systemd, whose part a socket has here."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from .shells import Shell, shell

__all__ = ["shell"]


class Systemd:
    """Hears what is said to it."""

    def __init__(self, socket_: socket.socket) -> None:
        self._socket = socket_

    async def hears(self, *, besides: str = "") -> str:
        """The next that is said which is not `besides`."""
        while True:
            async with asyncio.timeout(20):
                said = (await asyncio.get_running_loop().sock_recv(self._socket, 1000)).decode()
            if said != besides:
                return said


@pytest.fixture
def systemd(shell: Shell, tmp_path: Path) -> Iterator[Systemd]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.setblocking(False)
        shell.env |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        yield Systemd(heard)


@pytest.mark.parametrize("command", ["worker", "beat"])
async def test_it_is_told_that_the_process_is_ready_lives_and_stops(
    shell: Shell, systemd: Systemd, command: str
) -> None:
    async with shell.started(command, "jobs") as process:
        assert await systemd.hears() == f"READY=1\nMAINPID={process.pid}"
        assert await systemd.hears() == "WATCHDOG=1"
        process.send(signal.SIGTERM)
        assert await systemd.hears(besides="WATCHDOG=1") == "STOPPING=1"
        assert await process.ended() == 0


async def test_a_worker_whose_loop_is_blocked_still_lives(shell: Shell, systemd: Systemd) -> None:
    shell.output("call", "jobs", "jobs.block", "--args", '["gate"]')
    async with shell.started("worker", "jobs") as worker:
        await shell.runs("gate", worker.pid)
        await systemd.hears()
        assert [await systemd.hears() for _ in range(3)] == ["WATCHDOG=1"] * 3


async def test_a_process_that_systemd_does_not_watch_runs_as_ever(shell: Shell, tmp_path: Path) -> None:
    shell.env |= {"NOTIFY_SOCKET": str(tmp_path / "nobody")}
    async with shell.worker() as worker:
        await worker.line("systemd could not be told 'READY=1'")
