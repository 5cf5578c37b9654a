"""The command line's comforts: reloading, logs for machines, reports, completion."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .shells import DEADLINE, Command, Shell, environment, shell

__all__ = ["shell"]

# Reloading.


async def answer_of(shell: Shell) -> str:
    return shell.output("call", "jobs", "jobs.add", "--args", "[2]", "--wait", "--timeout", "20")


def rewrite(shell: Shell, before: str, after: str, name: str = "jobs.py") -> None:
    file = shell.directory / name
    file.write_text(file.read_text().replace(before, after))


async def test_a_worker_starts_anew_when_its_code_changes(shell: Shell) -> None:
    async with shell.started("worker", "jobs", "--reload", "-n", "anna") as parent:
        await parent.line(r"worker anna-1 is ready")
        assert await answer_of(shell) == "5"

        (shell.directory / "notes.txt").write_text("no code")
        rewrite(shell, "return x + y", "return 100 * (x + y)")

        await parent.line(r"jobs\.py changed: restarting")
        await parent.line(r"SIGTERM: stopping; no task is running")
        await parent.line(r"worker anna-1 stopped")
        await parent.line(r"worker anna-r2-1 is ready")
        assert await answer_of(shell) == "500"
        parent.send(signal.SIGTERM)
        assert await parent.ended() == 0
    assert "worker anna-r2-1 stopped" in parent.text
    assert "notes.txt" not in parent.text


async def test_a_running_task_may_end_before_the_code_is_replaced(shell: Shell) -> None:
    task_id = shell.output("call", "jobs", "jobs.wait_for", "--args", '["gate"]')
    async with shell.started("worker", "jobs", "--reload", "--grace", "600") as parent:
        pid = int((await parent.line(r"is ready \(pid (\d+)\)"))[1])
        await shell.runs("gate", pid)

        rewrite(shell, "return x + y", "return 100 * (x + y)")
        await parent.line("1 task is running, with 600 s to finish")
        shell.open("gate")

        await parent.line(rf"Task jobs\.wait_for\[{task_id}\] succeeded")
        assert int((await parent.line(r"is ready \(pid (\d+)\)"))[1]) != pid
        parent.send(signal.SIGINT)
        assert await parent.ended() == 0


async def test_code_that_can_not_be_loaded_is_waited_out(shell: Shell) -> None:
    async with shell.started("worker", "jobs", "--reload", "--workers", "2") as parent:
        for _ in range(2):
            await parent.line("is ready")
        rewrite(shell, "async def add(", "async def add((")
        await parent.line("SyntaxError")
        await parent.line("the workers have ended; starting new ones when the code changes")

        rewrite(shell, "async def add((", "async def add(")

        for _ in range(2):
            await parent.line("is ready")
        assert await answer_of(shell) == "5"
        parent.send(signal.SIGTERM)
        assert await parent.ended() == 0


async def test_a_signal_ends_it_while_it_waits_for_better_code(shell: Shell) -> None:
    rewrite(shell, "async def add(", "async def add((")
    async with shell.started("worker", "jobs", "--reload") as parent:
        await parent.line("the workers have ended")
        parent.send(signal.SIGTERM)

        assert await parent.ended() == 1


async def test_reloading_without_the_library_says_what_to_install(shell: Shell) -> None:
    (shell.directory / "watchfiles.py").write_text("raise ImportError('not here')\n")

    error = shell.error("worker", "jobs", "--reload")

    assert error == "aiotq: --reload needs watchfiles, which is not installed: pip install 'aiotq[reload]'"


# Logs for machines.


def parsed(command: Command) -> list[dict[str, Any]]:
    return [json.loads(line) for line in command.text.splitlines()]


@pytest.mark.parametrize("way", ["option", "setting"])
async def test_logs_as_json_name_the_task(shell: Shell, way: str) -> None:
    good = shell.output("call", "jobs:app", "jobs.add", "--args", "[2, 2]")
    bad = shell.output("call", "jobs:app", "jobs.fail")
    words = ("--log-format", "json") if way == "option" else ()
    shell.env = {"AIOTQ_WORKER_LOG_FORMAT": "json"} if way == "setting" else {}

    async with shell.started("worker", "jobs:app", *words) as worker:
        for task_id in (good, bad):
            await worker.line(task_id)
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0

    lines = parsed(worker)
    (success,) = [line for line in lines if line.get("task_id") == good]
    (failure,) = [line for line in lines if line.get("task_id") == bad]
    assert success.keys() == {
        *("time", "level", "logger", "message", "worker", "queue"),
        *("task", "task_id", "root_id", "attempt", "state", "duration", "wait"),
    }
    assert (success["state"], success["queue"], success["root_id"]) == ("SUCCESS", "default", good)
    assert failure["state"] == "FAILURE"
    assert int(failure["attempt"]) == 0
    assert float(success["wait"]) > float(success["duration"]) > 0
    assert (success["level"], success["logger"], success["task"]) == ("INFO", "aiotq.task", "jobs.add")
    assert failure["level"] == "ERROR"
    assert failure["exception"].endswith("ValueError: no luck")
    assert any(line["message"].startswith("SIGTERM: stopping") and "task_id" not in line for line in lines)


async def test_headers_that_were_chosen_are_in_each_line_of_a_run(shell: Shell) -> None:
    shell.env = {"AIOTQ_WORKER_LOG_HEADERS": "customer,nothing", "AIOTQ_WORKER_LOG_FORMAT": "json"}
    (shell.directory / "send.py").write_text(
        "import jobs\nprint(jobs.add.sync.apply_async((2, 2), headers={'customer': 7, 'other': 8}).id)\n"
    )
    sent = subprocess.run(
        [sys.executable, "send.py"],
        cwd=shell.directory,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
    )

    async with shell.started("worker", "jobs:app") as worker:
        await worker.line(sent.stdout.strip())

    (line,) = [json.loads(text) for text in worker.seen if sent.stdout.strip() in text]
    assert line["headers"] == {"customer": 7}


async def test_many_workers_log_json_too_and_say_which_one(shell: Shell) -> None:
    async with shell.started("worker", "jobs", "--log-format", "json", "--workers", "2", "-n", "anna") as parent:
        for _ in range(2):
            await parent.line("is ready")
        parent.send(signal.SIGTERM)
        assert await parent.ended() == 0

    assert {line["worker"] for line in parsed(parent)} == {"anna-1", "anna-2", "workers"}


def test_there_is_no_other_format(shell: Shell) -> None:
    assert shell.error("worker", "jobs", "--log-format", "xml", code=2) == (
        "aiotq: --log-format must be text or json, not 'xml'"
    )
    shell.env = {"AIOTQ_WORKER_LOG_FORMAT": "xml"}
    assert "'worker_log_format' must be 'text' or 'json', not 'xml'" in shell.error("worker", "jobs")


# Reports.


def test_a_report_has_versions_and_changed_settings_without_passwords(shell: Shell) -> None:
    shell.env = {
        "AIOTQ_RESULT_BACKEND": "redis://me:hush@example.org/0?password=hush",
        "AIOTQ_SECURITY_KEY": "hush, a secret of some length",
        "AIOTQ_WORKER_CONCURRENCY": "7",
    }

    report = shell.output("report", "jobs")

    assert "hush" not in report
    for pattern in (
        r"^aiotq +\d",
        r"^python +\w+ 3\.",
        r"^platform +\w+",
        r"^anyio +\d",
        r"^app +jobs \(jobs\)",
        r"^tasks +\d \(\d coroutine, \d thread, 1 process\)",
        r"^ +result_backend +redis://me:\*\*@example\.org/0\?password=\*\*",
        r"^ +security_key +\*\*",
        r"^ +worker_concurrency +7",
    ):
        assert re.search(pattern, report, re.MULTILINE), (pattern, report)
    assert "worker_threads" not in report


def test_a_report_needs_no_app_and_survives_one_that_can_not_be_loaded(shell: Shell) -> None:
    assert "settings" not in shell.output("report")
    (shell.directory / "broken.py").write_text("import no_such_library\n")

    report = shell.output("report", "broken")

    assert re.search(r"^python ", report, re.MULTILINE)
    assert "ModuleNotFoundError: No module named 'no_such_library'" in report


# Completion.


def in_bash(home: Path, command: str) -> str:
    env = {**environment(), "HOME": str(home), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    # A second command keeps bash from becoming the first: the shell is found by looking at who started us.
    done = subprocess.run(
        ["bash", "-c", f"{command}; true"], env=env, capture_output=True, text=True, check=True, timeout=DEADLINE
    )
    assert done.stderr == ""
    return done.stdout


def test_completion_is_shown_and_installed_for_bash(tmp_path: Path) -> None:
    assert "complete -o default -F _aiotq_completion aiotq" in in_bash(tmp_path, "aiotq --show-completion")

    assert "bash completion installed in" in in_bash(tmp_path, "aiotq --install-completion")

    assert "aiotq.sh" in (tmp_path / ".bashrc").read_text()
    ask = 'source ~/.bashrc; COMP_WORDS=(aiotq {}); COMP_CWORD={}; _aiotq_completion aiotq; echo "${{COMPREPLY[*]}}"'
    assert in_bash(tmp_path, ask.format("wor", 1)) == "worker\n"
    assert in_bash(tmp_path, ask.format("worker --rel", 2)) == "--reload\n"
