"""`aiotq shell` and `aiotq list`: what is at hand, and where calls may go."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from .shells import DEADLINE, Shell, environment

PROJ = """
from aiotq import AioTQ, Binding, Exchange, Queue

app = AioTQ(
    "proj",
    broker="sqlite:///proj.db",
    task_queues=["default", Queue("mail", Exchange("letters", "topic"), "mail.#")],
    task_routes={"proj.send": "mail", "proj.other": "elsewhere"},
)


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task
async def send() -> None: ...


@app.task(name="proj.other")
async def print_it() -> None: ...
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path)
    (tmp_path / "proj.py").write_text(PROJ)
    shell.env["AIOTQ_APP"] = "proj:app"
    return shell


def said(shell: Shell, *lines: str) -> tuple[str, str]:
    """What the shell prints and complains of when these lines are typed."""
    with tempfile.TemporaryFile() as typed:
        typed.write("".join(f"{line}\n" for line in lines).encode())
        typed.seek(0)
        done = shell.run("shell", stdin=typed.fileno())
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_statements_run_and_await_with_the_app_and_its_tasks_at_hand(shell: Shell) -> None:
    out, err = said(
        shell,
        "result = await add.delay(2, 2)",
        "print('id', len(result.id))",
        "(await app.admin.queues())[0].ready",
        "async def twice(x):",
        "    return 2 * x",
        "",
        "await twice(21)",
        "await (await group(add.s(1, 1)).apply_async()).ready()",
        "1 / 0",
        "await twice(",
        ")",
        "print('still here')",
    )

    assert "id " in out
    assert "1\n" in out
    assert "42" in out
    assert "False" in out
    assert out.rstrip().endswith("still here") or "still here" in out
    assert "ZeroDivisionError" in err
    assert "TypeError" in err
    assert "Tasks: add, other, send. Example: await app.control.ping()" in err


def test_on_a_terminal_it_is_ipython_where_that_is_installed(shell: Shell) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "aiotq", "shell"],
        cwd=shell.directory,
        env=environment({**shell.env, "TERM": "dumb", "COLUMNS": "100", "IPYTHONDIR": str(shell.directory)}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = ""

    def shows(word: str) -> bool:
        nonlocal written
        while word not in written:
            if not select.select([ours], [], [], DEADLINE)[0]:
                return False
            written += os.read(ours, 4096).decode(errors="replace")
        return True

    try:
        typed = ("r = await add.delay(2, 2)", "(await app.admin.queues())[0].ready", "1 / 0", "exit()")
        for number, line in enumerate(typed, 1):
            assert shows(f"In [{number}]"), written
            os.write(ours, f"{line}\r".encode())
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        os.close(ours)

    written = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", written)
    assert "Tasks: add, other, send." in written
    assert "Out[2]: 1" in written
    assert "ZeroDivisionError" in written
    assert "never retrieved" not in written


def test_leaving_it_ends_it(shell: Shell) -> None:
    _, err = said(shell, "await add.delay(1, 1)", "raise SystemExit")

    assert "Traceback" not in err


def test_what_an_app_declares_is_listed(shell: Shell) -> None:
    queues = json.loads(shell.output("list", "queues", "--json"))
    bindings = json.loads(shell.output("list", "bindings", "--json"))

    assert queues == [
        {"name": "default", "is_declared": True, "tasks": ["proj.add"]},
        {"name": "mail", "is_declared": True, "tasks": ["proj.send"]},
        {"name": "elsewhere", "is_declared": False, "tasks": ["proj.other"]},
    ]
    assert bindings == [
        {"queue": "default", "exchange": "default", "type": "direct", "routing_key": "default"},
        {"queue": "mail", "exchange": "letters", "type": "topic", "routing_key": "mail.#"},
    ]
    assert shell.output("list", "queues").splitlines()[0].split() == ["QUEUE", "DECLARED", "BY", "TASKS"]
    assert "letters" in shell.output("list", "bindings")
