"""The command line, in processes of its own, on a SQLite file."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

from .shells import DEADLINE, Shell, environment, shell

__all__ = ["shell"]


# Calls and results.


async def test_call_waits_for_a_result_and_prints_it_as_json(shell: Shell) -> None:
    async with shell.worker("-Q", "default,cpu"):
        assert shell.output("call", "jobs:app", "jobs.add", "--args", "[2]", "--kwargs", '{"y": 5}', "--wait") == "7"
        assert shell.output("call", "-A", "jobs", "jobs.double", "--args", "[2]", "--wait", "--timeout", "20") == "4"
        word, pid = json.loads(shell.output("call", "jobs", "jobs.pid_of", "--args", '["pid"]', "--wait")).split()
        assert (word, int(pid) > 1) == ("pid", True)


async def test_call_prints_the_traceback_of_a_task_that_fails(shell: Shell) -> None:
    async with shell.worker():
        done = shell.run("call", "jobs:app", "jobs.fail", "--wait")

    assert done.returncode == 1
    assert done.stdout == ""
    assert 'raise ValueError("no luck")' in done.stderr
    assert done.stderr.endswith("ValueError: no luck\n")


def test_call_sends_what_is_not_registered_with_a_warning(shell: Shell) -> None:
    done = shell.run("call", "jobs", "ad", "--task-id", "mine")

    assert (done.returncode, done.stdout) == (0, "mine\n")
    assert "warning: no task is registered as 'ad' here (near it: jobs.add); sending it all the same" in done.stderr


def test_call_takes_options(shell: Shell) -> None:
    words = ("--queue", "hi", "--priority", "9", "--countdown", "600", "--expires", "900", "--task-id", "mine")

    assert shell.output("call", "jobs", "jobs.add", "--args", "[1]", *words) == "mine"

    assert shell.output("queues", "jobs").splitlines()[1].split() == ["hi", "0", "0", "1", "0", "-"]


def test_waiting_for_a_result_ends_at_its_timeout(shell: Shell) -> None:
    complaint = shell.error("call", "jobs", "jobs.add", "--args", "[1]", "--wait", "--timeout", "0.01")

    assert re.search(r"no result of jobs\.add\[.*\] within 0\.01 s; the task goes on", complaint)


async def test_result_shows_state_value_and_traceback(shell: Shell) -> None:
    good = shell.output("call", "jobs", "jobs.add", "--args", "[2]")
    bad = shell.output("call", "jobs", "jobs.fail")
    assert shell.output("result", "jobs", good).splitlines()[:2] == [f"id     {good}", "state  PENDING"]

    async with shell.worker():
        shown = shell.output("result", "jobs:app", good, "--wait", "--timeout", "20")
        failed = shell.run("result", "jobs:app", bad, "--wait")

    assert re.fullmatch(rf"id      {good}\nstate   SUCCESS\nresult  5\ndone    \d{{4}}-.*\+00:00", shown)
    assert failed.returncode == 1
    assert "state  FAILURE\nerror  ValueError: no luck\n" in failed.stdout
    assert "Traceback" in failed.stdout
    shell.env["AIOTQ_APP"] = "jobs"
    assert "state   SUCCESS" in shell.output("result", good)


async def test_a_revoked_call_does_not_run(shell: Shell) -> None:
    task_id = shell.output("call", "jobs", "jobs.add", "--args", "[2]")

    assert shell.output("revoke", "jobs", task_id) == f"revoked {task_id}"

    async with shell.worker() as worker:
        await worker.line("was revoked before it started")
        done = shell.run("result", "jobs", task_id, "--wait")
    assert (done.returncode, "state  REVOKED" in done.stdout) == (1, True)


# Looking around, clearing up.


def test_tasks_lists_how_each_runs(shell: Shell) -> None:
    lines = shell.output("tasks", "-A", "jobs").splitlines()

    assert lines[0].split() == ["TASK", "RUNS", "AS", "QUEUE", "ARGUMENTS"]
    assert [re.split("  +", line) for line in lines if re.match(r"jobs\.(add|double|pid_of) ", line)] == [
        ["jobs.add", "coroutine", "default", "(x: int, y: int = 3) -> int"],
        ["jobs.double", "thread", "cpu", "(x: int) -> int"],
        ["jobs.pid_of", "process", "default", "(word: str) -> str"],
    ]


def test_config_marks_what_was_changed_and_hides_passwords(shell: Shell) -> None:
    shell.env["AIOTQ_WORKER_CONCURRENCY"] = "7"

    lines = shell.output("config", "jobs", "-b", "redis://me:secret@host/0").splitlines()

    assert [line.split() for line in lines if line.startswith("*")] == [
        ["*", "broker_url", "redis://me:**@host/0", "sqlite:///aiotq.db"],
        ["*", "worker_concurrency", "7", "100"],
    ]
    assert any(line.split() == ["worker_threads", "8"] for line in lines)


async def test_queues_and_purge(shell: Shell) -> None:
    assert shell.output("queues", "jobs") == "all queues are empty"
    shell.output("call", "jobs", "jobs.wait_for", "--args", '["gate"]')
    async with shell.worker() as worker:
        await shell.runs("gate", worker.pid)
        for _ in range(2):
            shell.output("call", "jobs", "jobs.double", "--args", "[1]")
        shell.output("call", "jobs", "jobs.double", "--args", "[1]", "--countdown", "600")

        shown = shell.output("queues", "jobs").splitlines()
        purged = shell.output("purge", "jobs", "cpu", "--yes")
        shell.open("gate")

    assert [line.split()[:5] for line in shown] == [
        ["QUEUE", "READY", "LEASED", "DELAYED", "DEAD"],
        ["cpu", "2", "0", "1", "0"],
        ["default", "0", "1", "0", "0"],
    ]
    assert re.search(r" \d+ s$", shown[1])
    assert purged == "deleted 3 messages from queue 'cpu'"
    assert shell.output("queues", "jobs") == "all queues are empty"


def test_purge_asks_and_without_anybody_to_ask_it_refuses(shell: Shell) -> None:
    shell.output("call", "jobs", "jobs.add", "--args", "[1]")

    refused = shell.error("purge", "jobs", "default")
    aborted = in_terminal(shell, "purge", "jobs", "default", answer="n\n")
    done = in_terminal(shell, "purge", "jobs", "default", answer="y\n")

    assert refused == "aiotq: Delete 1 message from queue 'default'? Nobody is there to answer: say --yes"
    assert "Delete 1 message from queue 'default'? [y/N]" in aborted
    assert "Aborted" in aborted
    assert "deleted 1 message from queue 'default'" in done


async def test_dead_letters_are_listed_shown_replayed_and_purged(shell: Shell) -> None:
    shell.run("call", "jobs", "jobs.later", "--args", "[20]", "--task-id", "first")
    shell.run("call", "jobs", "jobs.never", "--task-id", "second")
    shell.env["AIOTQ_WORKER_UNKNOWN_TASK_TIMEOUT"] = "0"
    async with shell.worker() as worker:
        await worker.line("Task jobs.later.* becomes a dead letter")
        await worker.line("Task jobs.never.* becomes a dead letter")

    assert "state  FAILURE" in shell.output("result", "jobs", "first")
    listed = [line.split() for line in shell.output("dead", "list", "jobs").splitlines()]
    assert [line[1:5] for line in listed] == [
        ["TASK", "ID", "QUEUE", "REASON"],
        ["jobs.never", "second", "default", "unknown_task"],
        ["jobs.later", "first", "default", "unknown_task"],
    ]
    shown = shell.output("-A", "jobs", "dead", "show", "first")
    assert re.search(r"^reason +unknown_task$", shown, re.MULTILINE)
    assert re.search(r"^body +\[\[20\],\{\},\{\}\]$", shown, re.MULTILINE)
    by_key = shell.output("dead", "show", "jobs", listed[2][0])
    assert by_key.splitlines()[0] == shown.splitlines()[0] == f"key        {listed[2][0]}"

    with (shell.directory / "jobs.py").open("a") as source:
        source.write("\n\n@app.task\nasync def later(x: int) -> int:\n    return 2 * x\n")
    assert shell.output("dead", "replay", "jobs:app", "first") == "replayed 1 dead letter"
    assert "state  PENDING" in shell.output("result", "jobs", "first"), "the old failure is forgotten"
    async with shell.worker():
        assert "result  40" in shell.output("result", "jobs", "first", "--wait")

    assert "no dead letter has the key or task id 'first'" in shell.error("dead", "replay", "jobs", "first")
    assert shell.output("dead", "purge", "jobs", "--older-than", "7d", "-y") == "deleted 0 dead letters"
    assert shell.output("dead", "replay", "jobs", "--all") == "replayed 1 dead letter"
    async with shell.worker() as worker:
        await worker.line("Task jobs.never.* becomes a dead letter")
    assert "--yes" in shell.error("dead", "purge", "jobs")
    assert shell.output("dead", "purge", "jobs", "--queue", "other", "-y") == "deleted 0 dead letters"
    assert shell.output("dead", "purge", "jobs", "-y") == "deleted 1 dead letter"
    assert shell.output("dead", "list", "jobs") == "no dead letters"


def test_on_a_terminal_a_worker_has_a_framed_banner(shell: Shell) -> None:
    written = in_terminal(shell, "worker", "jobs", stop_at="is ready")

    assert "SIGTERM: stopping; no task is running" in written
    plain = re.sub(r"\x1b\[[\d;]*m", "", written)
    assert re.search(r"╭─ aiotq \S+ ─.*sqlite:////.*jobs\.add +coroutine .*╯", plain, re.DOTALL)


def test_on_a_terminal_there_are_tables(shell: Shell) -> None:
    shown = in_terminal(shell, "tasks", "jobs")

    assert "jobs.add" in shown
    assert "coroutine" in shown
    assert "\x1b[1m" in shown


def in_terminal(shell: Shell, *words: str, answer: str = "", stop_at: str | None = None) -> str:
    """What a command writes to a terminal in which `answer` was typed; when it writes `stop_at` it is stopped."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "aiotq", *words],
        cwd=shell.directory,
        env=environment({"TERM": "xterm", "COLUMNS": "120"}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        close_fds=True,
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    written = b""
    try:
        while part := os.read(ours, 4096):
            written += part
            if stop_at is not None and stop_at in written.decode(errors="replace"):
                process.terminate()
                stop_at = None
    except OSError:  # how Linux says that nobody holds the other end any more
        pass
    finally:
        process.wait(DEADLINE)
        os.close(ours)
    return written.decode()
