"""Child processes that die, and programs that end or are killed with children: nothing stays."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from aiotq.exceptions import (
    WorkerLostError,
)
from aiotq.worker.processes.child_process import ChildProcess, ProcessCall, Raised, Returned
from aiotq.worker.processes.pool import ProcessPool

from . import process_tasks as tasks
from .process_pools import announced, call, exists, gone, pool

__all__ = ["pool"]


# Deaths


@pytest.mark.parametrize(
    ("death", "fate"),
    [
        (call(tasks.die, 3), "ended with exit code 3"),
        (call(tasks.die, 0), "ended with exit code 0"),
        (call(tasks.die_by, signal.SIGKILL), "was killed by SIGKILL"),
        (call(tasks.die_by, signal.SIGSEGV), "was killed by SIGSEGV"),
        (call(tasks.die_by, signal.SIGTERM), "was killed by SIGTERM"),
        (call(tasks.close_everything), "was killed by SIGKILL"),
    ],
)
async def test_a_child_which_ends_before_its_task_is_told_with_its_fate(
    pool: ProcessPool, death: ProcessCall, fate: str
) -> None:
    with pytest.raises(WorkerLostError, match=f"^the process {fate} before the task ended$"):
        await pool.run(death)

    assert await pool.run(call(tasks.add, 2, 3)) == 5


async def test_a_child_killed_from_outside_in_mid_task_is_replaced(pool: ProcessPool, tmp_path: Path) -> None:
    where = tmp_path / "child"
    async with asyncio.TaskGroup() as group:
        run = group.create_task(lost(pool, call(tasks.announce_and_burn, str(where))))
        os.kill(await announced(where), signal.SIGKILL)

    assert "SIGKILL" in run.result()
    assert await pool.run(call(tasks.add, 2, 3)) == 5


async def lost(pool: ProcessPool, lost_call: ProcessCall) -> str:
    with pytest.raises(WorkerLostError) as raised:
        await pool.run(lost_call)
    return str(raised.value)


async def test_a_child_which_died_idle_is_replaced_unnoticed(pool: ProcessPool) -> None:
    first = await pool.run(call(tasks.pid))
    os.kill(first, signal.SIGKILL)
    await asyncio.to_thread(os.waitid, os.P_PID, first, os.WEXITED | os.WNOWAIT)

    assert await pool.run(call(tasks.pid)) not in (first, os.getpid())


async def test_a_childs_death_is_seen_though_a_process_it_forked_lives(pool: ProcessPool, tmp_path: Path) -> None:
    where = tmp_path / "forked"

    assert await lost(pool, call(tasks.fork_and_die, str(where))) == (
        "the process ended with exit code 7 before the task ended"
    )

    os.kill(await announced(where), signal.SIGKILL)


async def test_a_program_left_behind_goes_with_its_child(pool: ProcessPool, tmp_path: Path) -> None:
    where = tmp_path / "program"

    assert "exit code 7" in await lost(pool, call(tasks.leave_a_program_behind, str(where)))

    await gone(await announced(where))


async def test_a_task_may_use_multiprocessing_itself(pool: ProcessPool) -> None:
    assert await pool.run(call(tasks.use_multiprocessing)) not in (
        os.getpid(),
        await pool.run(call(tasks.pid)),
    )


async def test_children_ignore_ctrl_c_and_have_sessions_of_their_own(pool: ProcessPool) -> None:
    assert await pool.run(call(tasks.ignored_signals)) == ["SIGINT"]

    session, pid = await pool.run(call(tasks.session_and_pid))
    assert session == pid


async def test_a_child_that_was_asked_and_never_answered_is_not_used_again(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the next call would be given the answer to the last."""
    answer, heard = ChildProcess._answer, list[None]()

    def hear_only_that_it_started(self: ChildProcess) -> Returned | Raised | None:
        if heard:
            raise OverflowError("a defect")
        assert answer(self) is None
        heard.append(None)
        return None

    before = await pool.run(call(tasks.pid))
    with monkeypatch.context() as patch:
        patch.setattr(ChildProcess, "_answer", hear_only_that_it_started)
        with pytest.raises(OverflowError):
            await pool.run(call(tasks.burn, 0.3))

    after = await pool.run(call(tasks.pid))
    assert isinstance(after, int)
    assert after != before


def script(tmp_path: Path, source: str) -> subprocess.Popen[str]:
    """Start a program of its own, in which every warning is an error."""
    path = tmp_path / "program.py"
    path.write_text("from __future__ import annotations\n" + textwrap.dedent(source))
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(path), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_functions_and_exceptions_of_the_main_module_work_and_the_program_ends_silently(
    tmp_path: Path,
) -> None:
    program = script(
        tmp_path,
        """
        import asyncio
        from aiotq.worker.processes.child_process import ProcessCall
        from aiotq.worker.processes.pool import ProcessPool

        class Oops(Exception):
            pass

        class Point:
            def __init__(self, x):
                self.x = x

        def double(point):
            if point.x < 0:
                raise Oops("negative")
            return Point(2 * point.x)

        async def main():
            async with ProcessPool(2) as pool:
                print((await pool.run(ProcessCall("__main__", "double", (Point(21),), {}))).x)
                try:
                    await pool.run(ProcessCall("__main__", "double", (Point(-1),), {}))
                except Oops as exc:
                    print(exc)
                run = asyncio.ensure_future(pool.run(ProcessCall("time", "sleep", (60,), {})))
                await asyncio.wait({run}, timeout=0.2)
                run.cancel()
                await asyncio.wait({run})

        if __name__ == "__main__":
            asyncio.run(main())
        """,
    )
    out, err = program.communicate(timeout=60)

    assert (out, err, program.returncode) == ("42\nnegative\n", "", 0)


def test_a_program_without_a_main_guard_is_told_so_and_ends(tmp_path: Path) -> None:
    program = script(
        tmp_path,
        """
        import asyncio
        from aiotq.worker.processes.child_process import ProcessCall
        from aiotq.worker.processes.pool import ProcessPool

        async def main():
            async with ProcessPool(1) as pool:
                await pool.run(ProcessCall("operator", "add", (1, 2), {}))

        asyncio.run(main())
        """,
    )
    _, err = program.communicate(timeout=60)

    assert program.returncode == 1
    assert 'if __name__ == "__main__":' in err.replace("'", '"')
    assert "WorkerLostError: the process ended with exit code 1 before it had started" in err


@pytest.mark.parametrize(("state", "method"), [("computing", "spawn"), ("idle", "spawn"), ("computing", "forkserver")])
async def test_children_die_with_a_parent_which_is_killed(tmp_path: Path, state: str, method: str) -> None:
    program = script(
        tmp_path,
        f"""
        import asyncio, sys
        from aiotq.worker.processes.child_process import ProcessCall
        from aiotq.worker.processes.policy import ChildPolicy
        from aiotq.worker.processes.pool import ProcessPool
        from aiotq.worker.processes.starting import StartMethod

        async def main():
            async with ProcessPool(1, ChildPolicy(StartMethod({method!r}))) as pool:
                function = "announce_and_burn" if {state!r} == "computing" else "announce"
                where = sys.argv[1] + "/child"
                await pool.run(ProcessCall({tasks.__name__!r}, function, (where,), {{}}))
                await asyncio.sleep(60)

        if __name__ == "__main__":
            asyncio.run(main())
        """,
    )
    pid = await announced(tmp_path / "child")
    assert exists(pid)

    program.kill()
    await asyncio.to_thread(program.communicate, timeout=30)

    await gone(pid)


async def test_a_program_which_exits_without_leaving_the_pool_leaves_no_child(tmp_path: Path) -> None:
    program = script(
        tmp_path,
        f"""
        import asyncio, sys
        from pathlib import Path
        from aiotq.worker.processes.child_process import ProcessCall
        from aiotq.worker.processes.pool import ProcessPool

        def call(function, where):
            return ProcessCall({tasks.__name__!r}, function, (sys.argv[1] + where,), {{}})

        async def main():
            global pool, run
            pool = await ProcessPool(2).__aenter__()
            run = asyncio.create_task(pool.run(call("announce_and_burn", "/busy")))
            await pool.run(call("announce", "/idle"))
            while not Path(sys.argv[1] + "/busy").exists():
                await asyncio.sleep(0.01)

        if __name__ == "__main__":
            asyncio.run(main())
        """,
    )

    _, err = await asyncio.to_thread(program.communicate, timeout=30)

    assert err == ""
    for name in "busy", "idle":
        await gone(await announced(tmp_path / name))
