"""The signals of a worker's process beside SIGTERM: nothing is lost by them, and one asks where it stands."""

from __future__ import annotations

import asyncio
import signal

from aiotq.core.stacks import stack_of_task

from .shells import Shell, shell

__all__ = ["shell"]


async def test_sighup_stops_cleanly(shell: Shell) -> None:
    task_id = shell.output("call", "jobs", "jobs.wait_for", "--args", '["gate"]')
    async with shell.worker() as worker:
        await shell.runs("gate", worker.pid)
        worker.send(signal.SIGHUP)
        await worker.line("SIGHUP: stopping; 1 task is running")
        shell.open("gate")
        assert await worker.ended() == 0

    assert "SUCCESS" in shell.output("result", "jobs", task_id)


async def test_sigusr1_has_it_tell_what_runs_and_where_that_stands(shell: Shell) -> None:
    task_id = shell.output("call", "jobs", "jobs.wait_for", "--args", '["gate"]')
    in_thread = shell.output("call", "jobs", "jobs.hold", "--args", '["door"]')
    async with shell.worker() as worker:
        await shell.runs("gate", worker.pid)
        await shell.runs("door", worker.pid)
        worker.send(signal.SIGUSR1)
        await worker.line("SIGUSR1: 2 tasks run")
        await worker.line("threads:")
        await worker.line("in hold")
        shell.open("gate")
        shell.open("door")
        await worker.line(r"succeeded")

    said = worker.text
    assert f"  jobs.wait_for[{task_id}] for " in said
    assert "in wait_for\n" in said
    assert f"  jobs.hold[{in_thread}] for " in said
    assert "  aiotq.intake\n" in said


async def test_sigusr1_names_the_task_that_blocks_the_loop(shell: Shell) -> None:
    shell.output("call", "jobs", "jobs.block", "--args", '["gate"]')
    async with shell.started("worker", "jobs") as worker:
        await shell.runs("gate", worker.pid)
        worker.send(signal.SIGUSR1)
        await worker.line("SIGUSR1: 1 task runs")
        await worker.line("MainThread")
        await worker.line("in block")


async def test_several_workers_tell_when_their_parent_is_asked(shell: Shell) -> None:
    async with shell.started("worker", "jobs", "--workers", "2") as parent:
        for _ in range(2):
            await parent.line("is ready")
        parent.send(signal.SIGUSR1)
        await parent.line("SIGUSR1: passed on to 2 workers")
        for _ in range(2):
            await parent.line("SIGUSR1: 0 tasks run")
        parent.send(signal.SIGTERM)
        assert await parent.ended() == 0


async def test_sigusr2_is_ignored_with_a_word(shell: Shell) -> None:
    async with shell.worker() as worker:
        worker.send(signal.SIGUSR2)
        await worker.line("SIGUSR2 means nothing here, and is ignored")


async def test_the_stack_of_a_coroutine_is_that_of_all_it_awaits() -> None:
    begun = asyncio.Event()

    async def inner() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def outer() -> None:
        await inner()

    task = asyncio.create_task(outer())
    await begun.wait()

    assert [frame.name for frame in stack_of_task(task)] == ["outer", "inner", "wait"]
    task.cancel()


async def test_a_worker_that_stops_with_uncommitted_tasks_exits_with_1_and_says_so(shell: Shell) -> None:
    (shell.directory / "cut_off.py").write_text(
        "from jobs import app\n"
        "from aiotq.backends.sqlite.commit import SQLiteCommitter\n"
        "from aiotq.exceptions import OperationalError\n"
        "from aiotq.worker import worker\n"
        "async def refuse(self, finishes):\n"
        "    raise OperationalError('the disk is gone')\n"
        "SQLiteCommitter.commit = refuse\n"
        "worker._LAST_COMMITS = 0.2\n"
    )
    shell.output("call", "jobs", "jobs.add", "--args", "[2, 2]")

    async with shell.started("worker", "cut_off") as worker:
        await worker.line("committing finished tasks failed")
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 1

    assert "1 finished task was not committed: it runs again when its lease ends" in worker.text
