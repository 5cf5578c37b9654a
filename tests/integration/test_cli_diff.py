"""`aiotq diff`: what a new version can't run of what waits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aiotq import AioTQ

from ..semantics.conftest import BROKERS
from .shells import Shell, shell

__all__ = ["shell"]

OLD = """
from aiotq import AioTQ

app = AioTQ("shop", broker={url!r})

@app.task
async def pay(amount): ...

@app.task
async def mail(to, subject="hello"): ...

@app.task
async def pack(box, size): ...

@app.task
async def steady(x): ...
"""
NEW = OLD.replace("def pay", "def charge").replace("to, subject", "to, sender, subject").replace("box, size", "box")


def both(shell: Shell, url: str) -> Path:
    """The new version where commands are given, and the old one beside it."""
    old = shell.directory / "old"
    old.mkdir()
    (old / "shop.py").write_text(OLD.format(url=url))
    (shell.directory / "shop.py").write_text(NEW.format(url=url))
    return old


@pytest.mark.parametrize("broker", ["sqlite", "redis", "postgres"])
async def test_calls_that_wait_and_can_not_be_run_are_told(shell: Shell, tmp_path: Path, broker: str) -> None:
    url = BROKERS[broker](tmp_path)
    both(shell, url)
    app = AioTQ("callers", broker=url)
    async with app:
        await app.send_task("shop.pay", (1,))
        await app.send_task("shop.mail", ("me",), countdown=1000)
        await app.send_task("shop.mail", ("me", "you"))
        await app.send_task("shop.pack", ("a", 3), queue="boxes")
        await (app.signature("shop.steady", (1,)) | app.signature("shop.pay")).delay()
        await app.send_task("elsewhere.task")

    done = shell.run("diff", "old", "shop", "--json")

    assert done.returncode == 3, done.stderr
    told = json.loads(done.stdout)
    assert {each["task"]: each["why"] for each in told["changes"]} == {
        "shop.mail": "parameter 'sender' is new and has no default",
        "shop.pack": "parameter 'size' is gone",
        "shop.pay": "is gone; shop.charge is new and takes the same arguments",
    }
    assert (told["waiting"]["calls"], told["waiting"]["of_others"]) == (6, 1)
    found = {(each["task"], each["queue"], each["count"]) for each in told["waiting"]["unrunnable"]}
    assert found == {("shop.mail", "default", 1), ("shop.pack", "boxes", 1), ("shop.pay", "default", 1)}


def test_what_the_new_version_can_run_is_said(shell: Shell) -> None:
    both(shell, "sqlite:///shop.db")
    (shell.directory / "tasks.json").write_text(shell.output("tasks", "shop", "--json"))
    shell.output("call", "shop", "shop.steady", "--args", "[1]")

    assert "all of them can be run" in shell.output("diff", "tasks.json", "shop")
    done = shell.run("diff", "old", "shop")
    assert done.returncode == 3
    assert "shop.pay: is gone; shop.charge is new" in done.stdout
    assert "there is no 'nothing'" in shell.error("diff", "nothing", "shop", code=2)
    (shell.directory / "tasks.json").write_text("{}x")
    assert "is no list of tasks" in shell.error("diff", "tasks.json", "shop")
