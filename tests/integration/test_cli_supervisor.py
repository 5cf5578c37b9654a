"""Several workers under one parent, and workers that end by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from .shells import Shell, shell

__all__ = ["shell"]

#: What dies soon after it is ready.
DYING = """
import os, threading
from aiotq import signals

@signals.worker_ready.connect
def die(sender, **more):
    threading.Timer(0.2, os._exit, [3]).start()
"""

#: What writes down when a worker takes tasks and when it takes no more, in order: lines of the log come from several
#: processes, each when its turn has come.
NOTING = """
from aiotq import signals

def note(what):
    with open("lives", "a") as file:
        file.write(what + "\\n")

@signals.worker_ready.connect
def is_ready(sender, **more):
    note(f"{sender.name} is ready")

@signals.worker_shutting_down.connect
def stops(sender, **more):
    note(f"{sender.name} stops")
"""

#: An orphan of a process that nobody waits for, below a process that adopts orphans.
ORPHAN = """
import ctypes, os, time
from aiotq.supervising.reaping import _ended_children, _reap_again

assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
parent = os.fork()
if parent == 0:
    if os.fork() == 0:
        time.sleep(0.1)
    os._exit(0)
os.waitpid(parent, 0)
while not (ended := _ended_children()):
    time.sleep(0.01)
again = _reap_again(frozenset())
print(again == ended, _reap_again(again), _ended_children())
"""


async def test_sighup_replaces_the_workers_one_after_the_other(shell: Shell) -> None:
    with (shell.directory / "jobs.py").open("a") as code:
        code.write(NOTING)
    async with shell.started("worker", "jobs", "--workers", "2", "-n", "anna") as parent:
        for _ in range(2):
            await parent.line("is ready")
        parent.send(signal.SIGHUP)
        await parent.line("SIGHUP: replacing 2 workers, one after the other")
        await parent.line("all workers are replaced")
        lives = (shell.directory / "lives").read_text().splitlines()
        assert sorted(lives[:2]) == ["anna-1 is ready", "anna-2 is ready"]
        assert lives[2:] == ["anna-1.2 is ready", "anna-1 stops", "anna-2.2 is ready", "anna-2 stops"]
        parent.send(signal.SIGTERM)
        assert await parent.ended() == 0


async def test_a_worker_that_dies_while_it_is_replaced_has_one_in_its_place(shell: Shell) -> None:
    async with shell.started("worker", "jobs", "--max-tasks-per-worker", "100", "-n", "a") as parent:
        ready = await parent.line(r"worker a-1 is ready \(pid (\d+)\)")
        parent.send(signal.SIGHUP)
        await parent.line("SIGHUP: replacing 1 worker$")
        os.kill(int(ready[1]), signal.SIGKILL)
        await parent.line("all workers are replaced")
        parent.send(signal.SIGTERM)
        assert await parent.ended() == 0
    assert parent.text.count("is ready") == 2


async def test_workers_go_on_when_newer_code_does_not_start(shell: Shell) -> None:
    code = (shell.directory / "jobs.py").read_text()
    async with shell.started("worker", "jobs", "--workers", "1", "--max-tasks-per-worker", "100", "-n", "a") as parent:
        await parent.line("worker a-1 is ready")
        (shell.directory / "jobs.py").write_text("raise SystemExit('a mistake')")
        parent.send(signal.SIGHUP)
        await parent.line("replacing the workers ends here")
        (shell.directory / "jobs.py").write_text(code)
        shell.output("call", "jobs", "jobs.add", "--args", "[2, 2]")
        await parent.line("a-1: Task jobs.add.* succeeded")
        parent.send(signal.SIGTERM)
        assert await parent.ended() == 0
    assert "before it was ready: a-1 goes on" in parent.text


async def test_sigttin_starts_one_more_and_sigttou_stops_one(shell: Shell) -> None:
    async with shell.started("worker", "jobs", "--workers", "2", "-n", "a") as parent:
        for _ in range(2):
            await parent.line("is ready")
        parent.send(signal.SIGTTIN)
        await parent.line("SIGTTIN: one worker more, 3")
        await parent.line("worker a-3 is ready")
        parent.send(signal.SIGTTOU)
        await parent.line("SIGTTOU: one worker fewer, 2")
        await parent.line("worker a-3 stopped")
        parent.send(signal.SIGTERM)
        assert await parent.ended() == 0


async def test_there_are_more_workers_while_calls_wait_up_to_the_most(shell: Shell) -> None:
    for number in range(3):
        shell.output("call", "jobs", "jobs.wait_for", "--args", f'["gate{number}"]')
    async with shell.started("worker", "jobs", "--workers", "1", "--autoscale", "2,1", "-c", "1", "-n", "a") as parent:
        await parent.line("worker a-1 is ready")
        await parent.line("calls wait: one worker more, 2")
        await parent.line("worker a-2 is ready")
        for number in range(3):
            (shell.directory / f"gate{number}").touch()
        parent.send(signal.SIGTERM)
        assert await parent.ended() == 0


async def test_a_worker_is_replaced_after_its_share_of_tasks(shell: Shell) -> None:
    async with shell.started("worker", "jobs", "--max-tasks-per-worker", "2", "-n", "a") as parent:
        await parent.line("worker a-1 is ready")
        for _ in range(2):
            shell.output("call", "jobs", "jobs.add", "--args", "[2, 2]")
        await parent.line("2 tasks are done: stopping")
        await parent.line("worker a-1 has done its share; starting another")
        await parent.line(r"worker a-1\.2 is ready")
        parent.send(signal.SIGTERM)
        assert await parent.ended() == 0


async def test_a_worker_that_uses_too_much_memory_is_replaced(shell: Shell) -> None:
    async with shell.started("worker", "jobs", "--max-memory-per-worker", "5M", "-n", "a") as parent:
        await parent.line(r"it uses \d+ MB of memory: stopping")
        await parent.line(r"worker a-1\.2 is ready")
        parent.send(signal.SIGTERM)
        assert await parent.ended() == 0


async def test_workers_that_die_at_once_are_given_up(shell: Shell) -> None:
    with (shell.directory / "jobs.py").open("a") as code:
        code.write(DYING)
    async with shell.started("worker", "jobs", "--workers", "1", "--max-tasks-per-worker", "9", "-n", "a") as parent:
        await parent.line(r"worker a-1\.5 ended with exit code 3, as the last 5 did at once")
        assert await parent.ended() == 1


@pytest.mark.parametrize("words", [(), ("--workers", "2")])
async def test_a_burst_ends_when_all_is_done(shell: Shell, words: tuple[str, ...]) -> None:
    for _ in range(3):
        shell.output("call", "jobs", "jobs.add", "--args", "[2, 2]")
    async with shell.started("worker", "jobs", "--burst", *words) as worker:
        await worker.line("no message is left: stopping")
        assert await worker.ended() == 0
    assert worker.text.count("succeeded") == 3


@pytest.mark.parametrize("words", [(), ("--workers", "2")])
async def test_a_burst_tells_by_its_exit_code_that_a_task_failed(shell: Shell, words: tuple[str, ...]) -> None:
    shell.output("call", "jobs", "jobs.fail")
    async with shell.started("worker", "jobs", "--burst", *words) as worker:
        assert await worker.ended() == 1


@pytest.mark.parametrize(("words", "why"), [(("--max-tasks", "1"), "1 tasks are done"), (("--max-time", "0"), "0 s")])
async def test_a_worker_ends_when_its_time_has_come(shell: Shell, words: tuple[str, ...], why: str) -> None:
    shell.output("call", "jobs", "jobs.add", "--args", "[2, 2]")
    async with shell.started("worker", "jobs", *words) as worker:
        await worker.line(why)
        assert await worker.ended() == 0


@pytest.mark.parametrize("size", ["300", "0M", "-1G", "much"])
def test_a_size_that_can_not_be_is_refused(shell: Shell, size: str) -> None:
    told = shell.error("worker", "jobs", "--max-memory-per-worker", size, code=2)

    assert "write a size with its unit, as 300M or 2G" in told


def test_a_share_is_of_one_kind(shell: Shell) -> None:
    told = shell.error("worker", "jobs", "--burst", "--max-tasks-per-worker", "5", code=2)

    assert "not with --burst" in told


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans to a process that asks for them")
def test_orphans_are_reaped_when_nobody_waited_for_them_twice() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, timeout=20, check=True)

    assert done.stdout == "True frozenset() frozenset()\n"
    assert time.monotonic() - began < 20
