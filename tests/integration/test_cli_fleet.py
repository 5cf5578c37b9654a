"""The commands that show the workers, ask them and tell them, with workers that are processes of their own."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from ..waiting import wait_until
from .shells import Command, Shell

PROJ = """
import time

from aiotq import AioTQ, Worker

app = AioTQ("proj", broker="sqlite:///proj.db", worker_lease=3.0, worker_loop_lag=0.2, security_key="s" * 40)


@app.task
async def blocks() -> None:
    time.sleep(600)


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.inspect_command
def sums(worker: Worker, *numbers: int) -> dict[str, int]:
    "The sum of numbers."
    return {"sum": sum(numbers)}
"""


#: Seconds for the answers of workers that are there: nobody waits for them when all have come.
WAITS = "-t", "20"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path)
    (tmp_path / "proj.py").write_text(PROJ)
    shell.env["AIOTQ_APP"] = "proj:app"
    return shell


def state_of(shell: Shell) -> dict[str, str]:
    return {each["name"]: each["state"] for each in json.loads(shell.run("status", "--json").stdout)}


async def test_a_day_with_two_workers(shell: Shell) -> None:
    nobody = shell.run("status")
    assert (nobody.returncode, nobody.stderr) == (69, "aiotq: no worker is there\n")
    nobody = shell.run("inspect", "ping")
    assert (nobody.returncode, nobody.stdout, nobody.stderr) == (69, "", "aiotq: no worker answered\n")
    async with (
        shell.started("worker", "-n", "mail-1", "-Q", "mail,default") as mail,
        shell.started("worker", "-n", "web", "-Q", "web,default") as web,
    ):
        await mail.line("is ready")
        await web.line("is ready")
        await _the_day(shell, mail, web)


async def _the_day(shell: Shell, mail: Command, web: Command) -> None:
    await wait_until(lambda: state_of(shell) == {"mail-1": "up", "web": "up"}, "both are there")

    status = shell.run("status")
    assert status.returncode == 0
    header, *lines = status.stdout.splitlines()
    assert header.split()[:4] == ["WORKER", "STATE", "HOST", "PID"]
    assert [line.split()[:2] for line in lines] == [["mail-1", "up"], ["web", "up"]]
    assert str(mail.pid) in lines[0]

    assert shell.run("inspect", "ping", *WAITS).stdout == "mail-1: pong\nweb: pong\n"
    assert json.loads(shell.run("inspect", "ping", "-d", "mail-*", "--json", *WAITS).stdout) == {
        "mail-1": {"ok": "pong"}
    }
    assert shell.run("inspect", "sums", "1", "2", "-d", "web", *WAITS).stdout == "web:\n  sum: 3\n"
    conf: dict[str, Any] = json.loads(
        shell.run("inspect", "conf", "changed=true", "-d", "web", "--json", *WAITS).stdout
    )["web"]
    assert conf["security_key"] == "**"
    assert shell.run("control", "pool_grow", "n=2", "kind=thread", "-d", "web", *WAITS).returncode == 0
    assert shell.run("control", "pause", "-d", "web", *WAITS).stdout == "web: paused\n"
    await wait_until(lambda: state_of(shell)["web"] == "paused", "the row says so with the next lease")

    shell.run("call", "proj.blocks")
    await wait_until(lambda: state_of(shell)["mail-1"] == "blocked", "its loop is blocked")
    stacks = shell.run("inspect", "stacks", "-d", "mail-1", *WAITS)
    assert stacks.returncode == 0
    assert "time.sleep(600)" in stacks.stdout
    active = shell.run("inspect", "active", "-t", "3")
    assert active.stdout == "web: nothing\n"
    assert "mail-1 did not answer: its event loop has been blocked for" in active.stderr

    mail.send(signal.SIGKILL)
    await wait_until(lambda: state_of(shell) == {"mail-1": "missing", "web": "paused"}, "one is missing")
    assert shell.run("control", "shutdown", "-d", "web", *WAITS).stdout == "web: stopping\n"
    assert await web.ended() == 0
    assert state_of(shell) == {"mail-1": "missing"}
    assert shell.run("status").returncode == 69


def test_what_there_is_is_listed_and_what_there_is_not_is_refused(shell: Shell) -> None:
    listed = shell.run("inspect")
    assert listed.returncode == 0
    assert "sums NUMBERS...  " in listed.stdout
    assert "query_task IDS...  " in listed.stdout
    assert {each["name"] for each in json.loads(shell.run("control", "--json").stdout)} >= {"rate_limit", "shutdown"}
    for words, complaint in (
        (("inspect", "activ"), "no inspect command 'activ' (did you mean 'active'?): aiotq inspect lists them"),
        (("control", "ping"), "no control command 'ping': aiotq control lists them"),
        (("control", "rate_limit"), "rate_limit: task_name is missing: rate_limit TASK_NAME RATE"),
        (("control", "pool_grow", "many"), "pool_grow: n must be a whole number, not 'many'"),
        (("inspect", "ping", "-t", "0"), "--timeout must be seconds, more than 0, not 0"),
    ):
        refused = shell.run(*words)
        assert refused.returncode in {1, 2}
        assert complaint in refused.stderr
