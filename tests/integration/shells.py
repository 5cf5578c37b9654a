"""A directory with an app in it, in which commands are given."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

import aiotq
from tests import forked
from tests.forked import Forked, run_aiotq
from tests.waiting import wait_until

SOURCE: Final = Path(aiotq.__file__).parents[1]
DEADLINE: Final = 30.0
JOBS: Final = '''
import asyncio
import os
import time
from pathlib import Path

from aiotq import AioTQ

app = AioTQ("jobs", broker="sqlite:///jobs.db")


@app.task
async def add(x: int, y: int = 3) -> int:
    return x + y


@app.task(queue="cpu")
def double(x: int) -> int:
    return 2 * x


@app.task(bind=True, run="process")
def pid_of(self, word: str) -> str:
    return f"{word} {os.getpid()}"


@app.task
async def fail() -> None:
    raise ValueError("no luck")


@app.task
async def wait_for(gate: str) -> int:
    """End when the file `gate` is there; `gate.PID` says that it runs."""
    Path(f"{gate}.{os.getpid()}").touch()
    while not Path(gate).exists():
        await asyncio.sleep(0.01)
    return os.getpid()


@app.task
def hold(gate: str) -> int:
    """As `wait_for`, in a thread."""
    Path(f"{gate}.{os.getpid()}").touch()
    while not Path(gate).exists():
        time.sleep(0.01)
    return os.getpid()


@app.task
async def block(gate: str) -> None:
    """Hold the loop for ever."""
    Path(f"{gate}.{os.getpid()}").touch()
    while True:
        time.sleep(0.01)
'''


class Command:
    """A started `aiotq …`, whose stderr is read line by line."""

    def __init__(self, program: Forked, stderr: asyncio.StreamReader) -> None:
        self._program = program
        self._stderr = stderr
        self.pid = program.pid
        self.seen: list[str] = []

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._program.poll()

    async def line(self, pattern: str) -> re.Match[str]:
        """Read up to the first line in which `pattern` is found."""
        try:
            async with asyncio.timeout(DEADLINE):
                while line := (await self._stderr.readline()).decode():
                    self.seen.append(line)
                    if match := re.search(pattern, line):
                        return match
        except TimeoutError:
            pass
        pytest.fail(f"waited for {pattern!r}; saw:\n{''.join(self.seen)}", pytrace=False)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    async def ended(self) -> int:
        """Read all that is left and return the exit code."""
        try:
            async with asyncio.timeout(DEADLINE):
                self.seen.append((await self._stderr.read()).decode())
            return self._program.wait(DEADLINE)
        except TimeoutError:
            pytest.fail(f"it did not end; saw:\n{self.text}", pytrace=False)

    @property
    def text(self) -> str:
        return "".join(self.seen)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("AIOTQ_")}
    return {**inherited, "PYTHONPATH": str(SOURCE), **(more or {})}


class Shell:
    """A directory with an app in it, in which commands are given."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env: dict[str, str] = {}
        (directory / "jobs.py").write_text(JOBS)

    def run(self, *words: str, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
        return run_aiotq(words, self.directory, environment(self.env), stdin=stdin, timeout=DEADLINE)

    def output(self, *words: str) -> str:
        """What a command prints that goes well."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout.strip()

    def error(self, *words: str, code: int = 1) -> str:
        """What a command complains of that goes wrong; never a traceback of ours."""
        done = self.run(*words)
        assert done.returncode == code, done.stdout + done.stderr
        assert "aiotq/" not in done.stderr.replace(str(self.directory), "")
        return done.stderr.strip()

    @asynccontextmanager
    async def started(self, *words: str) -> AsyncIterator[Command]:
        stderr = asyncio.StreamReader()
        read, write = os.pipe()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stderr), os.fdopen(read, "rb")
        )
        with open(os.devnull, "rb") as nothing, os.fdopen(write, "wb") as theirs:
            program = forked.start(
                ["aiotq", *words],
                self.directory,
                environment(self.env),
                stdin=nothing.fileno(),
                stdout=1,
                stderr=theirs.fileno(),
            )
        command = Command(program, stderr)
        try:
            yield command
        finally:
            program.kill()
            await command.ended()
            pipe.close()

    @asynccontextmanager
    async def worker(self, *words: str) -> AsyncIterator[Command]:
        """A worker that is ready; stopped, cleanly, at the end unless it has ended by then."""
        async with self.started("worker", "jobs:app", *words) as command:
            await command.line(r"is ready")
            yield command
            if command.exit_code is None:
                command.send(signal.SIGTERM)
                assert await command.ended() == 0, command.text

    async def runs(self, gate: str, pid: int) -> None:
        """Return when the task behind `gate` runs in process `pid`."""
        await wait_until((self.directory / f"{gate}.{pid}").exists, f"the task behind {gate} runs in {pid}")

    def open(self, gate: str) -> None:
        (self.directory / gate).touch()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)
