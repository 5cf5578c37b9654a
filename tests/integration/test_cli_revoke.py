"""The command that revokes calls, many at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from .shells import Shell

JOBS = """
from aiotq import AioTQ

app = AioTQ("jobs", broker="sqlite:///jobs.db")


@app.task
async def add(x: int) -> int:
    return x


@app.task
async def mul(x: int) -> int:
    return x
"""


FLOW = """

@app.flow
async def order(ctx, number):
    return await ctx.event("shipped", timeout=3600)
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path)
    (tmp_path / "jobs.py").write_text(JOBS)
    return shell


async def test_calls_of_a_task_and_of_a_root_are_revoked_and_undone(shell: Shell) -> None:
    adds = [shell.output("call", "jobs", "jobs.add", "--args", "[1]") for _ in range(2)]
    mul, other = (shell.output("call", "jobs", "jobs.mul", "--args", "[1]") for _ in range(2))

    said = shell.output(
        "revoke",
        "jobs:app",
        "--task",
        "jobs.add",
        "--root",
        mul,
        "--header",
        "a=b=c",
        "--stamp",
        "x=[1]",
        "--expires",
        "1h",
    )
    assert said.splitlines() == [
        "revoked all calls of jobs.add",
        "revoked all calls with a=b=c",
        "revoked all calls with x=[1]",
        f"revoked {mul} and all it led to",
    ]
    shell.env["AIOTQ_APP"] = "jobs:app"
    assert shell.output("revoke", "--undo", "--root", mul) == f"no longer revoked: {mul} and all it led to"

    async with shell.worker():
        states = [shell.output("result", "--wait", each).split()[3] for each in (mul, other)]
        revoked = [shell.run("result", "--wait", each) for each in adds]
    assert states == ["SUCCESS"] * 2
    assert all("REVOKED" in each.stdout for each in revoked)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "what is to be revoked? Give ids, --task NAME, --header NAME=VALUE, --stamp NAME=VALUE or --root ID"),
        (("--header", "a"), "--header must be NAME=VALUE, not a"),
        (("--header", "=1"), "--header must be NAME=VALUE, not =1"),
        (("--stamp", "a"), "--stamp must be NAME=VALUE, not a"),
        (("--task", "x", "--expires", "soon"), "'soon' is no duration"),
        (("--task", "x", "--expires", "0"), "expires must be seconds, more than 0"),
        (("--task", "x", "--undo", "--terminate"), "--undo goes with neither --terminate nor --expires"),
        (("--task", ""), "tasks must be strings of 1 to 255 printable characters"),
    ],
)
def test_words_that_revoke_nothing_are_refused(shell: Shell, words: tuple[str, ...], text: str) -> None:
    done = shell.run("revoke", "jobs:app", *words)

    assert done.returncode != 0
    assert text in done.stderr


def test_calls_are_blocked_by_their_arguments_listed_and_let_go(shell: Shell) -> None:
    shell.env["AIOTQ_APP"] = "jobs:app"
    said = shell.output("block", "add", "jobs.add", "--where", "x=7", "--for", "2h", "--reason", "a dispute")
    block_id = said.removeprefix("blocked: ")

    (header, row) = shell.output("block", "list").splitlines()
    assert header.lower().split() == ["id", "task", "where", "action", "ends", "reason"]
    assert row.split()[:4] == [block_id, "jobs.add", "x=7", "hold"]
    assert "a dispute" in row
    assert "none of its parameters" in shell.run("block", "add", "jobs.add", "--where", "y=7").stderr
    assert shell.output("block", "lift", block_id) == f"lifted: {block_id}, 0 calls are due now"
    assert shell.output("block", "list") == "nothing is blocked"


def test_flows_are_shown_signalled_and_revoked(shell: Shell) -> None:
    shell.env["AIOTQ_APP"] = "jobs:app"
    (shell.directory / "jobs.py").write_text(f"{JOBS}{FLOW}")
    flow_id = shell.output("call", "jobs.order", "--args", "[1]")

    assert shell.output("flow", "signal", flow_id, "shipped", "--value", '{"parcel": 9}') == "accepted: shipped"
    said = shell.output("flow", "show", flow_id)
    assert said.startswith(f"jobs.order[{flow_id}] PENDING, a journal of ")
    assert said.endswith("signals not yet taken: shipped")
    assert shell.output("flow", "revoke", flow_id) == f"revoked: {flow_id}"
    assert "has ended" in shell.run("flow", "signal", flow_id, "shipped").stderr
    assert "no flow 'nobody' is known" in shell.run("flow", "show", "nobody").stderr
