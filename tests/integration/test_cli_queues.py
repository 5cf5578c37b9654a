"""The words that choose a worker's queues, and what is shown of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aiotq.commands.words import read_queues

from .shells import Shell

JOBS = """
from aiotq import AioTQ

app = AioTQ(
    "jobs",
    broker="sqlite:///jobs.db",
    task_queues=["default", "hi", "lo"],
    task_routes={"jobs.h*": "hi", "jobs.l*": "lo"},
    task_create_missing_queues=False,
)


@app.task(bind=True)
async def high(self) -> str:
    return self.request.delivery_info["queue"]


@app.task(bind=True)
async def low(self) -> str:
    return self.request.delivery_info["queue"]
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path)
    (tmp_path / "jobs.py").write_text(JOBS)
    return shell


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ((), "default, hi, lo"),
        (("-Q", "lo,hi"), "lo, hi"),
        (("-X", "lo"), "default, hi"),
        (("-X", "lo, default"), "hi"),
        (("-Q", "hi:3,lo:1"), "hi (weight 3), lo (weight 1)"),
        (("-Q", "hi,lo", "--strict-queues"), "hi, lo (in this order, strictly)"),
    ],
)
async def test_a_worker_says_what_it_consumes(shell: Shell, words: tuple[str, ...], shown: str) -> None:
    async with shell.worker(*words) as worker:
        pass

    assert re.search(rf"^  queues +{re.escape(shown)}$", worker.text, re.MULTILINE)


async def test_a_call_waits_in_the_queue_that_its_route_names(shell: Shell) -> None:
    low = shell.output("call", "jobs", "jobs.low")
    async with shell.worker("-X", "lo"):
        assert shell.output("call", "jobs", "jobs.high", "--wait", "--timeout", "20") == '"hi"'
        shown = [line.split() for line in shell.output("queues", "jobs").splitlines()]
    async with shell.worker("-Q", "lo"):
        assert "lo" in shell.output("result", "jobs", low, "--wait", "--timeout", "20")

    assert [line[:2] for line in shown] == [["QUEUE", "READY"], ["default", "0"], ["hi", "0"], ["lo", "1"]]


def test_the_list_of_tasks_shows_where_each_goes(shell: Shell) -> None:
    rows = [line.split()[:3] for line in shell.output("tasks", "jobs").splitlines()]

    assert rows[1:] == [["jobs.high", "coroutine", "hi"], ["jobs.low", "coroutine", "lo"]]


async def test_all_workers_of_a_fleet_consume_the_same(shell: Shell) -> None:
    async with shell.started("worker", "jobs", "--workers", "2", "-Q", "hi:3,lo", "--fair-queues") as fleet:
        await fleet.line(r"^  queues +hi \(weight 3\), lo$")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("worker", "jobs", "-Q", "defalt"), "a worker: queue 'defalt' is not in task_queues: did you mean 'default'?"),
        (
            ("worker", "jobs", "-X", "defalt"),
            "queue 'defalt' can't be excluded: there is none: did you mean 'default'?",
        ),
        (("worker", "jobs", "-X", "hi,lo,default"), "all queues are excluded (default, hi, lo)"),
        (("worker", "jobs", "-Q", "hi:0"), "a queue's weight is a whole number from 1 to 1000: 'hi': 0"),
        (("worker", "jobs", "-Q", "hi:2,lo", "--strict-queues"), "weights mean nothing in strict order"),
        (("worker", "jobs", "-X", ","), "--exclude-queues names no queue"),
        (
            ("call", "jobs", "jobs.high", "-q", "defalt"),
            "queue 'defalt' is not in task_queues: did you mean 'default'?",
        ),
    ],
)
def test_queues_that_are_not_there_are_complained_of(shell: Shell, words: tuple[str, ...], complaint: str) -> None:
    done = shell.run(*words)

    assert done.returncode != 0
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "known", "names", "weights"),
    [
        (None, (), None, {}),
        ("a, b", (), ["a", "b"], {}),
        ("a:3,b:1,a", (), ["a", "b"], {"a": 3, "b": 1}),
        ("a:3", ("a:3",), ["a:3"], {}),
        ("a:3:5", ("a:3",), ["a:3"], {"a:3": 5}),
        ("a:x,:3", (), ["a:x", ":3"], {}),
    ],
)
def test_a_weight_follows_its_queue(
    text: str | None, known: tuple[str, ...], names: list[str] | None, weights: dict[str, int]
) -> None:
    assert read_queues(text, known=known) == (names, weights)
