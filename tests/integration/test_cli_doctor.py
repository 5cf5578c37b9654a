"""`aiotq doctor` with workers that are processes, and what its exit code says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .shells import Shell

PROJ = """
from aiotq import AioTQ

app = AioTQ("proj", broker="sqlite:///proj.db", worker_lease=6.0)


@app.task
async def add(x: int, y: int) -> int:
    return x + y
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path)
    (tmp_path / "proj.py").write_text(PROJ)
    shell.env["AIOTQ_APP"] = "proj:app"
    return shell


async def test_a_deployment_is_examined_before_and_after_its_worker_is_there(shell: Shell) -> None:
    before = shell.run("doctor")
    assert before.returncode == 1
    assert before.stdout == "error: no worker is there\n    start one: aiotq worker.\n"
    assert before.stderr == "aiotq: 1 finding\n"
    async with shell.started("worker", "-n", "one") as worker:
        await worker.line("is ready")
        well = shell.run("doctor")
        assert (well.returncode, well.stdout, well.stderr) == (0, "nothing needs a look\n", "")

        assert shell.run("pause", "default").stdout == "queue 'default' is paused: aiotq resume takes that back\n"
        assert shell.run("pause", "default").stdout == "queue 'default' was paused already\n"
        shell.run("call", "proj.add", "--args", "[1, 2]")
        found = shell.run("doctor", "--json")
        assert found.returncode == 1
        (finding,) = json.loads(found.stdout)
        assert (finding["rule"], finding["level"], finding["about"]) == ("paused-queue", "warning", "default")
        assert "PAUSED" in shell.run("queues").stdout
        assert json.loads(shell.run("queues", "--json").stdout)[0]["paused_since"] > 0

        assert shell.run("resume", "default").stdout == "queue 'default' is resumed\n"
        assert shell.run("resume", "default").stdout == "queue 'default' was not paused\n"


def test_a_broker_that_is_not_there_is_a_finding_too(shell: Shell) -> None:
    found = shell.run("-b", "redis://127.0.0.1:1/0", "doctor", "--json")

    assert found.returncode == 69
    (finding,) = json.loads(found.stdout)
    assert finding["rule"] == "unreachable"
    assert "redis://127.0.0.1:1/0" in finding["text"]
