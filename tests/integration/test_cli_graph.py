"""`aiotq graph`: workflows drawn on the command line, planned and under way."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from typing import Final
from xml.etree import ElementTree

import pytest

from .shells import DEADLINE, Shell, environment, shell

__all__ = ["shell"]

FLOWS: Final = '''

from aiotq import group


@app.task
async def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
async def start() -> list[str]:
    """Send a workflow, and return the ids of it: the last call's, the group's."""
    sent = await (group(add.s(1, 1), add.s(2, 2)) | total.s()).delay()
    await sent.parent.save()
    return [sent.id, sent.parent.id]


nightly = add.s(1, 1) | add.s(2)
'''


@pytest.fixture(autouse=True)
def _with_flows(shell: Shell) -> None:
    file = shell.directory / "jobs.py"
    file.write_text(file.read_text() + FLOWS)


def test_an_expression_is_drawn_as_text(shell: Shell) -> None:
    drawn = shell.output("graph", "-A", "jobs:app", "add.s(2, 2) | group(add.s(4), double.s()) | total.s()")

    assert drawn.splitlines() == [
        "jobs.add(2, 2)",
        "→ group of 2",
        "  ├─ jobs.add(4)",
        "  └─ jobs.double()",
        "→ jobs.total()",
    ]


@pytest.mark.parametrize("expression", ["nightly", "chain(add.s(1, 1), add.s(2))", "jobs.add.s(1, 1) | jobs.add.s(2)"])
def test_names_are_those_of_the_module_of_its_tasks_and_of_workflows(shell: Shell, expression: str) -> None:
    assert shell.output("graph", "jobs", expression) == "jobs.add(1, 1)\n→ jobs.add(2)"


def test_a_task_alone_is_a_workflow(shell: Shell) -> None:
    assert shell.output("graph", "jobs", "add") == "jobs.add()"


def test_an_svg_is_written_to_a_file(shell: Shell) -> None:
    assert shell.output("graph", "jobs", "nightly", "-o", "nightly.svg") == ""

    root = ElementTree.parse(shell.directory / "nightly.svg").getroot()
    assert root.tag.endswith("svg")
    assert shell.output("graph", "jobs", "nightly", "--svg") == (shell.directory / "nightly.svg").read_text().strip()


def test_graphviz_can_have_it_too(shell: Shell) -> None:
    assert shell.output("graph", "jobs", "nightly", "--dot").startswith("digraph workflow {")


async def test_a_workflow_under_way_is_drawn_from_the_id_of_any_of_its_calls(shell: Shell) -> None:
    async with shell.started("worker", "jobs") as worker:
        ids = re.findall(r'"([\w-]+)"', shell.output("call", "jobs", "jobs.start", "--wait"))
        await worker.line(r"Task jobs\.total\[.*succeeded")

        drawn = shell.output("graph", "jobs", ids[0])
        of_group = shell.output("graph", "jobs", ids[1])
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0

    assert [re.split(r" +SUCCESS", line)[0] for line in drawn.splitlines()] == [
        "jobs.start",
        "  └─ sent: group of 2",
        "       ├─ jobs.add",
        "       └─ jobs.add",
        "     → jobs.total",
    ]
    assert ids[0] in drawn
    assert len(of_group.splitlines()) == 4  # with what follows it


def test_states_are_in_colour_on_a_terminal(shell: Shell) -> None:
    task_id = shell.output("call", "jobs", "jobs.fail", "--task-id", "mine")
    with subprocess.Popen(
        [sys.executable, "-m", "aiotq", "worker", "jobs"], cwd=shell.directory, env=environment()
    ) as w:
        shell.run("result", "jobs", task_id, "--wait")
        w.terminate()
    ours, theirs = pty.openpty()

    done = subprocess.run(
        [sys.executable, "-m", "aiotq", "graph", "jobs", "mine"],
        cwd=shell.directory,
        env=environment(),
        stdout=theirs,
        check=False,
        timeout=DEADLINE,
    )

    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "\x1b[31mFAILURE" in shown


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["ad.s(1) | add.s(2)"], 2, "there is no 'ad': did you mean add?"),
        (["add.s(1"], 2, "add.s(1 can't be read as Python: '(' was never closed"),
        (["add.s(1, 2) | (3)"], 2, "can't be evaluated: TypeError: unsupported operand"),
        (["(1 + 2)"], 2, "(1 + 2) is no workflow but 3: write task.s(...), or a chain, group or chord"),
        (
            ["add.s(1).allow_failure('explode')"],
            2,
            "allow_failure must be one of 'fail', 'skip', 'continue', not 'explode'",
        ),
        (["chord([add.s(1, 1)])"], 2, "is no workflow but"),
        (["nightly", "--svg", "--dot"], 2, "one form at a time: --svg or --dot"),
        (["nightly", "-o", "nowhere/x.svg"], 1, "can't write nowhere/x.svg: No such file or directory"),
        (["no-such-id"], 1, "nothing is known of no-such-id"),
        ([], 2, "EXPRESSION|ID is missing"),
    ],
)
def test_what_can_not_be_drawn_is_told(shell: Shell, words: list[str], code: int, complaint: str) -> None:
    assert complaint in shell.error("graph", "-A", "jobs", *words, code=code)
