"""`aiotq worker` as a process: signals, the grace time, several workers."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import suppress

import pytest

from tests.waiting import wait_until

from .shells import Shell, shell

__all__ = ["shell"]


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


async def test_a_worker_runs_more_at_once_as_soon_as_all_its_slots_are_taken(shell: Shell) -> None:
    for number in range(4):
        shell.output("call", "jobs", "jobs.wait_for", "--args", json.dumps([f"gate{number}"]))
    async with shell.started("worker", "jobs", "--autoscale", "3,1") as worker:
        await worker.line("1 to 3 coroutines")
        await wait_until(lambda: len(list(shell.directory.glob("gate*.*"))) == 3, "three run at once")
        for number in range(4):
            (shell.directory / f"gate{number}").touch()
        for _ in range(4):
            await worker.line(r"\] succeeded")
        worker.send(signal.SIGTERM)
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
