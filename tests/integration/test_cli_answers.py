"""What the command line answers to those who try things: JSON, whole ids, Celery's words, queues without a worker."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aiotq.backends.base import mask_password, shown_place
from aiotq.cli import cli
from aiotq.commands.app_option import Target
from aiotq.commands.celery_words import COMMANDS, WORKER_OPTIONS

from .shells import DEADLINE, Shell, environment, shell

__all__ = ["shell"]

REFUSING = """
from aiotq import Reject


@app.task(name="shop.orders.send_confirmation")
async def refuse():
    raise Reject("not this one, since there is something in it that nobody can read")
"""


def on_a_terminal(shell: Shell, *words: str, columns: int = 80, **env: str) -> str:
    """What a command writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "aiotq", *words],
        cwd=shell.directory,
        env=environment({"TERM": "xterm-256color", "COLUMNS": str(columns), **env}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        close_fds=True,
    )
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 4096):
            written += part
    except OSError:  # how Linux says that nobody holds the other end any more
        pass
    process.wait(DEADLINE)
    os.close(ours)
    return written.decode()


async def with_a_dead_letter(shell: Shell) -> str:
    with (shell.directory / "jobs.py").open("a") as file:
        file.write(REFUSING)
    task_id = shell.output("call", "jobs", "shop.orders.send_confirmation")
    async with shell.worker() as worker:
        await worker.line("becomes a dead letter")
        shell.run("result", "jobs", task_id, "--wait", "--timeout", "20")
    return task_id


# For programs, and for those who copy.


@pytest.mark.parametrize("words", ["queues", "tasks", "config", "config --explain", "report"])
def test_listings_can_be_had_as_json(shell: Shell, words: str) -> None:
    command, *options = words.split()

    shell.output("call", "jobs", "jobs.add", "--args", "[1]")

    assert json.loads(shell.output(command, "jobs", *options, "--json"))


async def test_results_graphs_and_dead_letters_can_be_had_as_json(shell: Shell) -> None:
    sent = shell.output("call", "jobs", "jobs.add", "--args", "[2, 2]")
    dead = await with_a_dead_letter(shell)

    assert (
        json.loads(shell.output("result", "jobs", sent, "--json")).items() >= {"state": "SUCCESS", "result": 4}.items()
    )
    (node,) = json.loads(shell.output("graph", "jobs", sent, "--json"))["nodes"]
    assert (node["id"], node["task"], node["state"]) == (sent, "jobs.add", "SUCCESS")
    (letter,) = json.loads(shell.output("dead", "list", "jobs", "--json"))
    assert (letter["id"], letter["reason"]) == (dead, "rejected")
    assert json.loads(shell.output("dead", "show", "jobs", dead, "--json"))["body"]


async def test_ids_are_whole_in_a_narrow_terminal(shell: Shell) -> None:
    dead = await with_a_dead_letter(shell)

    assert any(dead in line for line in on_a_terminal(shell, "dead", "list", "jobs").splitlines())


def test_with_no_color_an_error_has_no_colour(shell: Shell) -> None:
    assert "\x1b[31m" in on_a_terminal(shell, "tasks", "jobs:ap")
    assert "\x1b[" not in on_a_terminal(shell, "tasks", "jobs:ap", NO_COLOR="1")


# What a worker says of itself.


async def test_the_banner_names_ten_tasks_and_the_whole_path_of_the_file(shell: Shell) -> None:
    with (shell.directory / "jobs.py").open("a") as file:
        file.writelines(f"\n\n@app.task\nasync def more_{number}(): ...\n" for number in range(10))

    async with shell.worker() as worker:
        pass

    assert f"  broker   sqlite:///{shell.directory}/jobs.db\n" in worker.text
    assert len(re.findall(r"^    jobs\.\S+ +\w+$", worker.text, re.MULTILINE)) == 10
    assert "    and 7 more (aiotq tasks)\n" in worker.text
    assert f"broker   sqlite:///{shell.directory}/jobs.db" in re.sub(" +", "   ", shell.output("report", "jobs"))


@pytest.mark.parametrize("where", ["/dev/full", None])
def test_a_full_or_closed_stderr_does_not_stop_a_worker(shell: Shell, where: str | None) -> None:
    shell.output("call", "jobs", "jobs.add", "--args", "[2, 2]", "--task-id", "one")
    redirected = f">{where} 2>{where}" if where else ">&- 2>&-"

    worker = subprocess.Popen(
        ["sh", "-c", f"exec {sys.executable} -m aiotq worker jobs {redirected}"], cwd=shell.directory, env=environment()
    )
    try:
        assert "SUCCESS" in shell.output("result", "jobs", "one", "--wait", "--timeout", "20")
    finally:
        worker.terminate()
        worker.wait(DEADLINE)


async def test_passwords_of_several_workers_are_in_no_childs_process_list(shell: Shell) -> None:
    url = f"sqlite:///{shell.directory}/secret%61place.db"

    async with shell.started("worker", "jobs", "--workers", "2", "-b", url, "-c", "7") as parent:
        pids = [int((await parent.line(r"is ready \(pid (\d+)\)"))[1]) for _ in range(2)]
        shown = [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in pids]
        parent.send(signal.SIGTERM)
        assert await parent.ended() == 0

    assert all("secret" not in each for each in shown)
    assert all("--concurrency 7" in each or "-c 7" in each for each in shown)
    assert f"broker   sqlite:///{shell.directory}/secretaplace.db" in parent.text
    assert "7 coroutines" in parent.text


# Calls that nobody takes.


@pytest.mark.parametrize("options", [("--timeout", "2"), ("--timeout", "2", "-q", "nosuch")])
def test_a_call_that_nobody_takes_is_told_with_its_queue(shell: Shell, options: tuple[str, ...]) -> None:
    queue = options[-1] if "-q" in options else "default"

    said = shell.error("call", "jobs", "jobs.add", "--args", "[1]", "--wait", *options)

    first, last = said.splitlines()
    assert f"nobody has taken it: 1 message waits in queue '{queue}'" in first
    assert re.search(rf"no result of jobs\.add\[.*\] within 2 s.*1 message waits in queue '{queue}'", last)


async def test_whoever_stops_waiting_for_a_call_is_told_its_id(shell: Shell) -> None:
    async with shell.started("call", "jobs", "jobs.add", "--args", "[1]", "--wait") as call:
        await call.line("nobody has taken it")
        call.send(signal.SIGINT)
        assert await call.ended() == 130

    task_id = re.search(r"the task goes on: (\S+)", call.text)
    assert task_id is not None
    async with shell.worker():
        assert "SUCCESS" in shell.output("result", "jobs", task_id[1], "--wait", "--timeout", "20")


def test_a_result_that_is_pending_says_what_that_may_mean(shell: Shell) -> None:
    assert "note   unknown: nothing waits or runs anywhere" in shell.output("result", "jobs", "777")
    sent = shell.output("call", "jobs", "jobs.add", "--args", "[1]")
    assert "note   it waits or runs, or the id is wrong: 1 wait and 0 run in all queues" in shell.output(
        "result", "jobs", sent
    )


# Names and words that are not there.


@pytest.mark.parametrize(("name", "near"), [("jobs.ad", " (near it: jobs.add"), ("shop.pay", "")])
def test_revoking_a_task_that_is_not_known_warns(shell: Shell, name: str, near: str) -> None:
    done = shell.run("revoke", "jobs", "--task", name)

    assert done.returncode == 0
    assert done.stdout == f"revoked all calls of {name}\n"
    assert done.stderr.startswith(f"aiotq: warning: no task is registered as {name!r} here{near}")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_celerys_is_answered_with_what_to_do(command: str) -> None:
    ran = CliRunner().invoke(cli, [command, "more"], obj=Target())

    assert str(ran.exception) == f"there is no command {command!r} as Celery has it: {COMMANDS[command]}"


@pytest.mark.parametrize("option", WORKER_OPTIONS)
def test_an_option_of_celerys_worker_is_answered_with_what_to_do(option: str) -> None:
    ran = CliRunner().invoke(cli, ["worker", "jobs", option], obj=Target())

    assert str(ran.exception) == f"there is no option {option} as Celery has it: {WORKER_OPTIONS[option]}"


def test_purging_without_a_queue_says_where_to_find_one(shell: Shell) -> None:
    assert shell.error("purge", "jobs", code=2) == (
        "aiotq: QUEUE is missing (jobs was taken for the app): aiotq queues lists them; name one"
    )


# Settings.


def test_settings_are_explained_with_and_without_an_app(shell: Shell) -> None:
    shell.env = {"AIOTQ_WORKER_LEASE": "5"}

    said = shell.output("config", "jobs", "--explain", "-s", "worker_lease")

    assert said.splitlines()[0] == "worker_lease: number"
    assert re.search(r"value +5\.0 \(default: 15\.0\)", said)
    shell.env = {}
    assert re.search(r"value +15\.0 \(the default\)", shell.output("config", "--explain", "-s", "worker_lease"))
    assert "did you mean 'worker_lease'?" in shell.error("config", "--explain", "-s", "worker_leese", code=2)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:secret\n@host/0", "redis://me:**@host/0"),
        ("amqp://me:se\r\ncret@host/0?password=se\ncret", "amqp://me:**@host/0?password=**"),
        ("sqlite:////place/x.db", "sqlite:////place/x.db"),
        ("sqlite://wrong/x.db", "sqlite://wrong/x.db"),
    ],
)
def test_a_password_with_a_line_end_is_masked_too(url: str, shown: str) -> None:
    assert mask_password(url) == shown_place(url) == shown
