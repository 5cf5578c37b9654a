"""The command line, in processes of its own, on a SQLite file."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner

import aiotq
from aiotq.cli import cli
from aiotq.commands import output
from aiotq.commands.app_option import Target
from aiotq.commands.words import parse_duration
from tests import forked
from tests.forked import Forked, run_aiotq
from tests.waiting import wait_until

SOURCE: Final = Path(aiotq.__file__).parents[1]
DEADLINE: Final = 30.0

JOBS: Final = '''
import asyncio
import os
import time
from pathlib import Path

from aiotq import AioTQ

app = AioTQ("jobs", broker="sqlite:///jobs.db")


@app.task
async def add(x: int, y: int = 3) -> int:
    return x + y


@app.task(queue="cpu")
def double(x: int) -> int:
    return 2 * x


@app.task(bind=True, run="process")
def pid_of(self, word: str) -> str:
    return f"{word} {os.getpid()}"


@app.task
async def fail() -> None:
    raise ValueError("no luck")


@app.task
async def wait_for(gate: str) -> int:
    """End when the file `gate` is there; `gate.PID` says that it runs."""
    Path(f"{gate}.{os.getpid()}").touch()
    while not Path(gate).exists():
        await asyncio.sleep(0.01)
    return os.getpid()


@app.task
def hold(gate: str) -> int:
    """As `wait_for`, in a thread."""
    Path(f"{gate}.{os.getpid()}").touch()
    while not Path(gate).exists():
        time.sleep(0.01)
    return os.getpid()


@app.task
async def block(gate: str) -> None:
    """Hold the loop for ever."""
    Path(f"{gate}.{os.getpid()}").touch()
    while True:
        time.sleep(0.01)
'''


class Command:
    """A started `aiotq …`, whose stderr is read line by line."""

    def __init__(self, program: Forked, stderr: asyncio.StreamReader) -> None:
        self._program = program
        self._stderr = stderr
        self.pid = program.pid
        self.seen: list[str] = []

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._program.poll()

    async def line(self, pattern: str) -> re.Match[str]:
        """Read up to the first line in which `pattern` is found."""
        try:
            async with asyncio.timeout(DEADLINE):
                while line := (await self._stderr.readline()).decode():
                    self.seen.append(line)
                    if match := re.search(pattern, line):
                        return match
        except TimeoutError:
            pass
        pytest.fail(f"waited for {pattern!r}; saw:\n{''.join(self.seen)}", pytrace=False)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    async def ended(self) -> int:
        """Read all that is left and return the exit code."""
        try:
            async with asyncio.timeout(DEADLINE):
                self.seen.append((await self._stderr.read()).decode())
            return self._program.wait(DEADLINE)
        except TimeoutError:
            pytest.fail(f"it did not end; saw:\n{self.text}", pytrace=False)

    @property
    def text(self) -> str:
        return "".join(self.seen)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("AIOTQ_")}
    return {**inherited, "PYTHONPATH": str(SOURCE), **(more or {})}


class Shell:
    """A directory with an app in it, in which commands are given."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env: dict[str, str] = {}
        (directory / "jobs.py").write_text(JOBS)

    def run(self, *words: str, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
        return run_aiotq(words, self.directory, environment(self.env), stdin=stdin, timeout=DEADLINE)

    def output(self, *words: str) -> str:
        """What a command prints that goes well."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout.strip()

    def error(self, *words: str, code: int = 1) -> str:
        """What a command complains of that goes wrong; never a traceback of ours."""
        done = self.run(*words)
        assert done.returncode == code, done.stdout + done.stderr
        assert "aiotq/" not in done.stderr.replace(str(self.directory), "")
        return done.stderr.strip()

    @asynccontextmanager
    async def started(self, *words: str) -> AsyncIterator[Command]:
        stderr = asyncio.StreamReader()
        read, write = os.pipe()
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stderr), os.fdopen(read, "rb")
        )
        with open(os.devnull, "rb") as nothing, os.fdopen(write, "wb") as theirs:
            program = forked.start(
                ["aiotq", *words],
                self.directory,
                environment(self.env),
                stdin=nothing.fileno(),
                stdout=1,
                stderr=theirs.fileno(),
            )
        command = Command(program, stderr)
        try:
            yield command
        finally:
            program.kill()
            await command.ended()
            pipe.close()

    @asynccontextmanager
    async def worker(self, *words: str) -> AsyncIterator[Command]:
        """A worker that is ready; stopped, cleanly, at the end unless it has ended by then."""
        async with self.started("worker", "jobs:app", *words) as command:
            await command.line(r"is ready")
            yield command
            if command.exit_code is None:
                command.send(signal.SIGTERM)
                assert await command.ended() == 0, command.text

    async def runs(self, gate: str, pid: int) -> None:
        """Return when the task behind `gate` runs in process `pid`."""
        await wait_until((self.directory / f"{gate}.{pid}").exists, f"the task behind {gate} runs in {pid}")

    def open(self, gate: str) -> None:
        (self.directory / gate).touch()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


# Running a worker.


async def test_a_worker_runs_a_task_and_stops_cleanly_on_sigterm(shell: Shell) -> None:
    task_id = shell.output("call", "jobs:app", "jobs.add", "--args", "[2, 2]")

    async with shell.started("worker", "jobs:app", "-Q", "default,hi", "-c", "7", "-n", "anna") as worker:
        await worker.line(rf"INFO    Task jobs\.add\[{task_id}\] succeeded in \d\.\d{{3}} s: 4")
        worker.send(signal.SIGTERM)

        assert await worker.ended() == 0
    assert "SIGTERM: stopping; no task is running" in worker.text
    assert "worker anna stopped (tasks finished: 1)" in worker.text
    banner = worker.text[: worker.text.index("is ready")]
    for part in (
        "anna",
        f"sqlite:///{shell.directory}/jobs.db",
        "default, hi",
        "7 coroutines",
        f"pid      {worker.pid}",
    ):
        assert part in banner
    for task, kind in (("jobs.add", "coroutine"), ("jobs.double", "thread"), ("jobs.pid_of", "process")):
        assert re.search(rf"{re.escape(task)} +{kind}\n", banner)


@pytest.mark.parametrize(
    "words", [("-A", "jobs", "worker"), ("worker", "-A", "jobs:app"), ("worker", "jobs"), ("worker",)]
)
async def test_the_app_may_be_named_in_every_place(shell: Shell, words: tuple[str, ...]) -> None:
    if words == ("worker",):
        shell.env["AIOTQ_APP"] = "jobs:app"

    async with shell.started(*words, "--no-banner") as worker:
        await worker.line("is ready")
        worker.send(signal.SIGINT)

        assert await worker.ended() == 0


async def test_running_tasks_may_finish_within_the_grace_time(shell: Shell) -> None:
    task_id = shell.output("call", "jobs", "jobs.wait_for", "--args", '["gate"]')

    async with shell.worker("--grace", "600") as worker:
        await shell.runs("gate", worker.pid)
        worker.send(signal.SIGTERM)
        await worker.line(r"SIGTERM: stopping; 1 task is running, with 600 s to finish \(once more: stop now\)")
        shell.open("gate")

        assert await worker.ended() == 0
    assert json.loads(shell.output("-A", "jobs", "result", task_id).splitlines()[2].split()[1]) == worker.pid


async def test_the_second_signal_hands_back_at_once_and_another_worker_runs_the_task(shell: Shell) -> None:
    task_id = shell.output("call", "jobs", "jobs.wait_for", "--args", '["gate"]')
    async with shell.worker("--grace", "600") as first:
        await shell.runs("gate", first.pid)
        first.send(signal.SIGINT)
        await first.line("SIGINT: stopping; 1 task is running")

        first.send(signal.SIGINT)

        await first.line("SIGINT: handing back the running tasks")
        assert await first.ended() == 0
    async with shell.worker() as second:
        await shell.runs("gate", second.pid)
        shell.open("gate")
        await second.line(rf"Task jobs\.wait_for\[{task_id}\] succeeded in .*: {second.pid}")


async def test_a_thread_that_outlasts_the_grace_time_is_left_and_its_task_handed_back(shell: Shell) -> None:
    task_id = shell.output("call", "jobs", "jobs.hold", "--args", '["gate"]')
    async with shell.worker("--grace", "0.1") as first:
        await shell.runs("gate", first.pid)
        first.send(signal.SIGTERM)

        assert await first.ended() == 0
    assert f"jobs.hold[{task_id}] was interrupted by the stop and is handed back" in first.text
    assert "exiting without waiting for threads" in first.text
    async with shell.worker() as second:
        await shell.runs("gate", second.pid)
        shell.open("gate")
        await second.line(rf"Task jobs\.hold\[{task_id}\] succeeded in .*: {second.pid}")


async def test_the_third_signal_ends_a_worker_whose_loop_is_blocked(shell: Shell) -> None:
    shell.output("call", "jobs", "jobs.block", "--args", '["gate"]')
    async with shell.worker("--grace", "600") as worker:
        await shell.runs("gate", worker.pid)

        async def insist() -> bool:
            with suppress(ProcessLookupError):
                worker.send(signal.SIGTERM)
            return worker.exit_code is not None

        await wait_until(insist, "the worker ended")  # two signals sent together may arrive as one

        assert await worker.ended() == 128 + signal.SIGTERM


async def test_a_failed_task_is_logged_with_the_users_frames_only(shell: Shell) -> None:
    async with shell.worker("-b", "sqlite:///other.db") as worker:
        task_id = shell.output("call", "jobs", "jobs.fail", "-b", "sqlite:///other.db")
        await worker.line(rf"ERROR   Task jobs\.fail\[{task_id}\] failed in .* s: ValueError: no luck")
        await worker.line("^ValueError: no luck")

    trace = worker.text[worker.text.index("Traceback") : worker.text.index("\nValueError")]
    assert trace.count("File ") == 1
    assert "jobs.py" in trace


# Several worker processes.


async def test_workers_are_replaced_when_they_die_and_stop_together(shell: Shell) -> None:
    task_id = shell.output("call", "jobs", "jobs.add", "--args", "[1, 1]")
    async with shell.started("worker", "jobs", "--workers", "2", "-n", "anna", "--grace", "600") as parent:
        pids: dict[str, int] = {}
        while len(pids) < 2:
            ready = await parent.line(r"worker (anna-\d) is ready \(pid (\d+)\)")
            pids[ready[1]] = int(ready[2])
        assert pids.keys() == {"anna-1", "anna-2"}

        os.kill(pids["anna-2"], signal.SIGKILL)

        await parent.line(rf"ERROR .*worker anna-2 \(pid {pids['anna-2']}\) was killed by SIGKILL; starting another")
        replaced = await parent.line(r"worker (anna-2\.2) is ready \(pid (\d+)\)")
        assert int(replaced[2]) not in pids.values()
        assert shell.output("result", "jobs", task_id, "--wait").splitlines()[2] == "result  2"
        parent.send(signal.SIGINT)
        assert await parent.ended() == 0
    for name in ("anna-1", "anna-2.2"):
        assert f"worker {name} stopped" in parent.text
    assert parent.text.count("pid      ") == 1, "one banner"


async def test_workers_that_cannot_start_are_not_started_again(shell: Shell) -> None:
    async with shell.started("worker", "jobs:nope", "--workers", "2") as parent:
        assert await parent.ended() == 1

    assert "did you mean jobs:app?" in parent.text
    assert "before it was ready" in parent.text


async def test_workers_stop_when_their_parent_is_killed(shell: Shell) -> None:
    async with shell.started("worker", "jobs", "--workers", "2") as parent:
        await parent.line("is ready")
        await parent.line("is ready")

        parent.send(signal.SIGKILL)

        await parent.ended()  # its stderr is theirs too: it ends with the last of them
    assert parent.text.count("the parent process is gone: stopping") == 2
    assert len(re.findall(r"worker \S+ stopped \(tasks", parent.text)) == 2


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
