"""`aiotq events`: what a worker in another process tells, as lines, as JSON, and as a camera sees it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ..waiting import wait_until
from .shells import Shell, environment

PROJ = """
from aiotq import AioTQ
from aiotq.control.camera import Camera
from aiotq.control.state import State

app = AioTQ("proj", broker="sqlite:///proj.db", security_key="s" * 40)


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task
async def fail() -> None:
    raise ValueError("no")


class Snapshots(Camera):
    clear_after = True

    def on_shutter(self, state: State) -> None:
        with open("seen.txt", "a") as file:
            file.write(f"{len(state.tasks)} {sorted(state.names)}\\n")
        raise RuntimeError("a camera that fails once looks again")
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path)
    (tmp_path / "proj.py").write_text(PROJ)
    shell.env["AIOTQ_APP"] = "proj:app"
    return shell


class Reading:
    """A command that prints events."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self, word: str) -> str:
        """Read up to the first line that has `word` in it."""
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            while line := (await self.process.stdout.readline()).decode():
                if word in line:
                    return line
        raise AssertionError(f"it ended before it said {word}")


@asynccontextmanager
async def reading(shell: Shell, directory: Path, *words: str) -> AsyncIterator[Reading]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aiotq", "events", *words),
        cwd=directory,
        env=environment(shell.env),
        stdout=subprocess.PIPE,
    )
    try:
        yield Reading(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_events_as_they_happen(shell: Shell, tmp_path: Path) -> None:
    async with (
        shell.started("worker", "-n", "w1", "-E") as worker,
        reading(shell, tmp_path) as lines,
        reading(shell, tmp_path, "--dump") as dump,
        reading(shell, tmp_path, "--json", "-t", "600") as documents,
        reading(shell, tmp_path, "--camera", "proj.Snapshots", "--frequency", "0.2"),
    ):
        await worker.line("is ready")
        await lines.line("w1")
        await dump.line("w1")
        await documents.line("w1")
        seen = tmp_path / "seen.txt"
        await wait_until(seen.exists, "the camera looks")
        assert shell.run("call", "proj.add", "--args", "[2, 2]", "--wait").stdout.strip() == "4"

        succeeded = await lines.line("task-succeeded")
        assert "w1  proj.add[" in succeeded
        assert "result=4" in succeeded
        received = await dump.line("task-received")
        assert "args=(2, 2)" in received
        assert shell.run("call", "proj.fail", "--wait").returncode == 1
        event = json.loads(await documents.line("task-failed"))
        assert (event["exception"], event["hostname"]) == ("ValueError('no')", "w1")
        await wait_until(lambda: "['proj.add'" in seen.read_text(), "the camera has seen the call")


def test_what_makes_no_sense_is_refused(shell: Shell) -> None:
    for words, complaint in (
        (("--timeout", "0"), "--timeout must be seconds, more than 0"),
        (("--types", ","), "--types names none"),
        (("--frequency", "2"), "--frequency goes with --camera"),
        (("--camera", "proj.Snapshots", "--frequency", "0"), "--frequency must be seconds"),
        (("--camera", "proj.Snapshots", "--dump"), "--camera goes with --frequency alone"),
        (("--camera", "Snapshots"), "--camera names a class in a module"),
        (("--camera", "nowhere.Snapshots"), "No module named 'nowhere'"),
        (("--camera", "proj.add"), "it is no class made from aiotq.control.camera.Camera"),
    ):
        refused = shell.run("events", *words)
        assert refused.returncode != 0
        assert complaint in refused.stderr

    assert shell.run("events", "-t", "0.2").stdout == ""
