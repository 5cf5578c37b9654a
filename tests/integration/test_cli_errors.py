"""What the command line says of wrong words, and of the user's errors."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import aiotq
from aiotq.cli import cli
from aiotq.commands import output
from aiotq.commands.app_option import Target
from aiotq.core.durations import parse_duration

from .shells import DEADLINE, Shell, environment, shell

__all__ = ["shell"]


# Errors.


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("worker job:app", "no module 'job' for app 'job:app'.*did you mean 'jobs'"),
        ("worker jobs:ap", r"jobs\.ap does not exist; did you mean jobs:app\?"),
        ("worker jobs -b kafka://me:secret@host/0", r"'broker_url' must be .*not 'kafka://me:\*\*@host/0'"),
        (
            "worker jobs -b redis://me:secret@host?prefi=x",
            r"did you mean 'prefix'\?, not 'redis://me:\*\*@host\?prefi=x'",
        ),
        ("worker jobs -b sqlite:////no/such/place/x.db", "can't reach broker sqlite:////no/such/place/x.db: "),
        ("queues jobs -b sqlite:////no/such/place/x.db", "can't reach broker sqlite:////no/such/place/x.db: "),
        ("queues jobs -b redis://me:secret@127.0.0.1:1/0", r"can't reach broker redis://me:\*\*@127\.0\.0\.1:1/0: "),
        ("queues jobs -b sqlite:///jobs.py", r"can't reach broker sqlite:////.*/jobs\.py: .*not a SQLite database"),
        ("call jobs jobs.add --args [1,2,3]", r"jobs\.add\(x: int, y: int = 3\).*: too many positional arguments"),
        ("call jobs jobs.add --args [1] --priority 12", "option priority must be .*, not 12"),
        ("dead show jobs 777", "no dead letter has the key or task id '777'"),
    ],
)
def test_errors_say_what_is_wrong(shell: Shell, words: str, complaint: str) -> None:
    error = shell.error(*words.split())

    assert re.search(complaint, error), error
    assert error.startswith("aiotq: ")
    assert len(error.splitlines()) == 1
    assert "secret" not in error


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("tasks", r"which app\? Name it first \(proj:app\), with -A proj:app, or in AIOTQ_APP"),
        ("result", "^ID is missing$"),
        ("call jobs", r"NAME is missing \(jobs was taken for the app\)"),
        ("tasks -A jobs jobs", "one word too many: jobs"),
        ("call jobs jobs.add --args [1,", r"--args must be a JSON list, such as '\[2, 2\]': .*: \[1,"),
        ("call jobs jobs.add --args 5", "--args must be a JSON list, such as .*, not 5"),
        ("call jobs jobs.add --kwargs []", "--kwargs must be a JSON object, such as .*, not \\[\\]"),
        ("worker jobs -l LOUD", "--level must be one of DEBUG, INFO, .*, not 'LOUD'"),
        ("worker jobs -Q ,", "--queues names no queue"),
        ("worker jobs --autoscale 3,10", "--autoscale is MAX,MIN with 1 <= MIN <= MAX, as 10,3, not 3,10"),
        ("worker jobs --autoscale many", "--autoscale is MAX,MIN"),
        ("worker jobs --autoscale 10,3 -c 5", "how many run at once is scaled or fixed, not both"),
        ("worker jobs --autoscale 10,3 --workers 2", "it begins with --workers, 3 to 10, not 2"),
        ("worker jobs --autoscale 4,1 --workers 2 --reload", "not with --reload"),
        ("dead replay jobs", "name the dead letters by key or task id, or say --all"),
        ("dead purge jobs -y --older-than soon", "'soon' is no duration: write it as 7d"),
        ("worker jobs --concurency 5", "No such option: --concurency.*--concurrency"),
        ("worker jobs -c none", "Invalid value for '-c'"),
        ("wrker jobs", "No such command 'wrker'.*'worker'"),
    ],
)
def test_wrong_words_are_explained(shell: Shell, monkeypatch: pytest.MonkeyPatch, words: str, complaint: str) -> None:
    """In this process: nothing gets as far as needing the app."""
    monkeypatch.delenv("AIOTQ_APP", raising=False)

    ran = CliRunner().invoke(cli, words.split(), obj=Target())

    told = str(ran.exception) if ran.exception and not isinstance(ran.exception, SystemExit) else ran.output
    assert re.search(complaint, told), told
    assert ran.exit_code != 0


def test_wrong_words_end_with_code_2(shell: Shell) -> None:
    assert shell.error("call", "jobs", code=2) == "aiotq: NAME is missing (jobs was taken for the app)"


@pytest.mark.parametrize("command", ["worker", "tasks"])
def test_an_error_in_the_users_module_is_shown_with_their_frames_only(shell: Shell, command: str) -> None:
    (shell.directory / "broken.py").write_text("def load():\n    return {}['key']\n\n\nload()\n")

    lines = shell.error(command, "broken").splitlines()

    assert lines[:2] == ["aiotq: app 'broken' can't be imported:", "Traceback (most recent call last):"]
    assert [re.sub('".*/', "", line).strip() for line in lines if "File " in line] == [
        'File broken.py", line 5, in <module>',
        'File broken.py", line 2, in load',
    ]
    assert lines[-1] == "KeyError: 'key'"


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("def (:", "SyntaxError: invalid syntax"),
        (
            "from aiotq import AioTQ\napp = AioTQ(task_serialiser='json')",
            r"broken\.py:2: unknown setting 'task_serialiser': did",
        ),
        ("from aiotq import AioTQ\napp = AioTQ(include=['no_jobs'])", "ModuleNotFoundError: No module named 'no_jobs'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_explained(shell: Shell, source: str, complaint: str) -> None:
    (shell.directory / "broken.py").write_text(source)

    error = shell.error("tasks", "broken")

    assert re.search(complaint, error), error
    assert "can't be imported" in error


def test_an_unknown_variable_of_ours_is_an_error_and_the_apps_name_is_not(shell: Shell) -> None:
    shell.env = {"AIOTQ_APP": "jobs", "AIOTQ_WORKER_CONCURENCY": "5"}

    assert "did you mean 'AIOTQ_WORKER_CONCURRENCY'?" in shell.error("tasks")


def test_debug_shows_the_traceback(shell: Shell) -> None:
    done = shell.run("-v", "queues", "jobs", "-b", "sqlite:////no/such/place/x.db")

    assert done.returncode == 1
    assert "Traceback (most recent call last):" in done.stderr
    assert "aiotq.exceptions.StorageError" in done.stderr


def test_the_version(shell: Shell) -> None:
    assert shell.output("--version") == f"aiotq {aiotq.__version__}"


# What it is made of.


def test_importing_aiotq_does_not_import_the_command_line() -> None:
    code = "import sys, aiotq; print(sorted(m for m in sys.modules if m in ('typer', 'rich', 'aiotq.cli')))"
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, timeout=DEADLINE
    )

    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7d", 604_800), ("1h30m", 5_400), ("90s", 90), ("90", 90), ("0.5h", 1_800), ("2w", 1_209_600)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "7x", "-1d", "nan", "inf", "1h-5m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the type is the whole answer
        parse_duration(text)


def test_what_is_shown() -> None:
    assert [output.age(seconds) for seconds in (None, -1, 59, 61, 7_200, 260_000)] == [
        "-",
        "0 s",
        "59 s",
        "1 min",
        "2 h",
        "3 d",
    ]
    assert output.value({"a": [1, "é", None]}) == '{"a": [1, "é", null]}'
    assert output.value(b"bytes") == "b'bytes'"
    assert output.printable("red\x1b[31m\nline") == "red\\x1b[31m\nline"
