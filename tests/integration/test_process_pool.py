"""The pool of child processes, with real ones: values, failures, limits, deaths, and nothing left behind."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from aiotq.exceptions import (
    EncodeError,
    InvalidOption,
    RemoteError,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
    WorkerLostError,
)
from aiotq.worker.processes.pool import ChildTraceback, ProcessCall, ProcessPool, _Child

from ..waiting import wait_until
from . import process_tasks as tasks


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> ProcessCall:
    return ProcessCall(function.__module__, function.__qualname__, args, kwargs)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def a_zombie() -> object:
    """A child of ours which ended and was not waited for, if there is one."""
    with suppress(ChildProcessError):  # there are no children at all
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return None


async def announced(where: Path) -> int:
    """The id of the process which announces itself in the file `where`."""
    await wait_until(where.exists, f"{where.name} is announced", timeout=30)
    return int(where.read_text())


async def gone(pid: int) -> None:
    await wait_until(lambda: not exists(pid), f"process {pid} is gone")


@asynccontextmanager
async def pool_of(size: int, **options: Any) -> AsyncIterator[ProcessPool]:
    """A pool, and the proof that nothing of it is left."""
    async with ProcessPool(size, **options) as pool:
        yield pool
    assert a_zombie() is None
    assert multiprocessing.active_children() == []


@pytest.fixture
async def pool() -> AsyncIterator[ProcessPool]:
    async with pool_of(1) as pool:
        yield pool


# What comes back


async def test_a_call_returns_the_functions_value(pool: ProcessPool) -> None:
    assert await pool.run(call(tasks.add, 2, y=3)) == 5


async def test_a_call_runs_in_another_process(pool: ProcessPool) -> None:
    assert await pool.run(call(tasks.pid)) != os.getpid()


async def test_a_coroutine_function_runs_on_a_loop_of_the_child(pool: ProcessPool) -> None:
    assert await pool.run(call(tasks.aadd, 2, 3)) == 5


async def test_a_nested_function_is_found(pool: ProcessPool) -> None:
    assert await pool.run(call(tasks.Holder.add, 2, 3)) == 5


async def test_what_a_decorator_put_in_the_place_of_the_function_is_called(pool: ProcessPool) -> None:
    assert await pool.run(ProcessCall(tasks.__name__, "called", (2, 3), {})) == 5


async def test_large_arguments_and_values_pass(pool: ProcessPool) -> None:
    assert len(await pool.run(call(tasks.echo, bytes(20_000_000)))) == 20_000_000


async def test_what_a_task_prints_is_seen_when_it_ends(capfd: pytest.CaptureFixture[str]) -> None:
    async with pool_of(1) as pool:
        await pool.run(call(tasks.say, "hello"))

        assert capfd.readouterr().out == "hello"


# Failures of the task


async def test_a_tasks_exception_is_raised_with_the_childs_traceback(pool: ProcessPool) -> None:
    with pytest.raises(ValueError, match="the second") as raised:
        await pool.run(call(tasks.raise_chained))

    cause = raised.value.__cause__
    assert isinstance(cause, ChildTraceback)
    assert "KeyError: 'the first'" in str(cause)
    assert "in raise_chained" in str(cause)
    assert "processes.py" not in str(cause), "only the task's own frames"
    assert raised.value.__notes__ == ["a note"]


async def test_an_exception_with_mandatory_arguments_arrives_whole(pool: ProcessPool) -> None:
    with pytest.raises(tasks.MandatoryArguments, match=r"^error 7$") as raised:
        await pool.run(call(tasks.raise_mandatory_arguments))

    assert (raised.value.code, raised.value.reason) == (7, "why")


async def test_an_exception_whose_constructor_makes_its_text_keeps_it(pool: ProcessPool) -> None:
    with pytest.raises(tasks.TextFromArguments, match=r"^error 7$"):
        await pool.run(call(tasks.raise_text_from_arguments))


async def test_an_exception_loses_what_cant_be_pickled_and_keeps_its_type(pool: ProcessPool) -> None:
    with pytest.raises(tasks.HoldsALock, match="held") as raised:
        await pool.run(call(tasks.raise_holding_a_lock))

    assert not hasattr(raised.value, "lock")


@pytest.mark.parametrize(
    ("function", "type_name", "text"),
    [
        (tasks.raise_local, "raise_local.<locals>.LocalError", "from here"),
        (tasks.raise_needing_its_lock, "NeedsItsLock", "held: False"),
    ],
)
async def test_an_exception_which_cant_be_pickled_is_described(
    pool: ProcessPool, function: Callable[[], None], type_name: str, text: str
) -> None:
    with pytest.raises(RemoteError) as raised:
        await pool.run(call(function))

    assert raised.value.type_name == f"{tasks.__name__}.{type_name}"
    assert raised.value.text == text
    assert raised.value.traceback is not None
    assert function.__name__ in raised.value.traceback
    assert await pool.run(call(tasks.add, 2, 3)) == 5


@pytest.mark.parametrize("function", [tasks.return_a_lock, tasks.return_a_bomb])
async def test_a_value_which_cant_be_pickled_is_a_failure(pool: ProcessPool, function: Callable[[], object]) -> None:
    first = await pool.run(call(tasks.pid))

    with pytest.raises(EncodeError, match=r"the task returned \w+ .*can't be"):
        await pool.run(call(function))

    assert await pool.run(call(tasks.pid)) == first


@pytest.mark.parametrize("argument", [threading.Lock(), tasks.Bomb()], ids=["lock", "bomb"])
async def test_an_argument_which_cant_be_pickled_is_a_failure(pool: ProcessPool, argument: object) -> None:
    first = await pool.run(call(tasks.pid))

    with pytest.raises(EncodeError, match="the arguments can't be"):
        await pool.run(call(tasks.echo, argument))

    assert await pool.run(call(tasks.pid)) == first


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()])
@pytest.mark.parametrize("function", [tasks.raise_it, tasks.araise])
async def test_what_would_end_a_process_is_a_failure_of_the_task(
    pool: ProcessPool, function: Callable[..., Any], error: BaseException
) -> None:
    first = await pool.run(call(tasks.pid))

    with pytest.raises(type(error)):
        await pool.run(call(function, error))

    assert await pool.run(call(tasks.pid)) == first


@pytest.mark.parametrize(
    ("module", "qualname", "why"),
    [
        (tasks.__name__, "test.<locals>.inner", "AttributeError"),
        (tasks.__name__, "<lambda>", "AttributeError"),
        (tasks.__name__, "value", "it is a int"),
        ("no_such_module", "add", "ModuleNotFoundError"),
    ],
)
async def test_a_function_which_cant_be_imported_is_a_clear_failure(
    pool: ProcessPool, module: str, qualname: str, why: str
) -> None:
    with pytest.raises(InvalidOption, match=r"run='process' needs a function importable as") as raised:
        await pool.run(ProcessCall(module, qualname, (), {}))

    assert why in str(raised.value)
    assert f"{module}.{qualname}" in str(raised.value)


# Parallelism and reuse


async def test_two_computations_run_at_the_same_time(tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")

    async with pool_of(2) as pool, asyncio.TaskGroup() as group:
        runs = [
            group.create_task(pool.run(call(tasks.burn_together, 0.5, *pair), time_limit=30))
            for pair in ((a, b), (b, a))
        ]

    (one, start_one, end_one), (two, start_two, end_two) = (run.result() for run in runs)
    assert one != two
    assert max(start_one, start_two) < min(end_one, end_two)


async def test_the_loop_goes_on_while_children_start_and_compute() -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    async with pool_of(1) as pool, asyncio.TaskGroup() as group:
        turning = group.create_task(turn())
        await pool.run(call(tasks.burn, 0.2))
        turning.cancel()

    assert turns > 20


async def test_children_are_used_again() -> None:
    async with pool_of(2) as pool, asyncio.TaskGroup() as group:
        runs = [group.create_task(pool.run(call(tasks.burn, 0.01))) for _ in range(100)]

    assert len({run.result()[0] for run in runs}) == 2


async def test_a_child_which_cant_be_started_is_a_failure_of_the_call(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("multiprocessing.spawn._python_exe", b"/no/such/python")
        with pytest.raises(WorkerLostError, match=r"no process could be started|before it had started"):
            await pool.run(call(tasks.add, 2, 3))

    assert await pool.run(call(tasks.add, 2, 3)) == 5


async def test_no_more_children_start_than_are_needed() -> None:
    async with pool_of(2) as pool:
        pids = {await pool.run(call(tasks.pid)) for _ in range(10)}

        assert len(pids) == 1
        assert len(multiprocessing.active_children()) == 1


async def test_a_pool_may_be_left_without_a_call() -> None:
    async with asyncio.timeout(5), pool_of(2):
        assert multiprocessing.active_children() == []


async def test_restarting_replaces_idle_children_at_once_and_busy_ones_when_they_are_done(tmp_path: Path) -> None:
    async with pool_of(2) as pool, asyncio.TaskGroup() as group:
        busy = group.create_task(
            pool.run(call(tasks.announce_and_wait, str(tmp_path / "here"), str(tmp_path / "release")))
        )
        await announced(tmp_path / "here")
        idle = await pool.run(call(tasks.pid))

        assert await pool.restart() == 2
        await gone(idle)
        (tmp_path / "release").touch()
        first = await busy
        after = await pool.run(call(tasks.pid))

        assert after not in {first, idle}
        await gone(first)


async def test_a_child_is_replaced_after_its_number_of_tasks() -> None:
    async with pool_of(1, max_tasks_per_child=2) as pool:
        pids = [await pool.run(call(tasks.pid)) for _ in range(5)]

    assert pids[0] == pids[1]
    assert pids[2] == pids[3]
    assert len(set(pids)) == 3


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 1, "max_tasks_per_child": 0}])
def test_a_pool_which_could_run_nothing_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        ProcessPool(**options)


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
    receive, heard = _Child._receive, list[bytes]()

    def hear_only_that_it_started(self: _Child, timeout: float | None) -> bytes:
        if heard:
            raise OverflowError("a defect")
        heard.append(receive(self, timeout))
        return heard[0]

    before = await pool.run(call(tasks.pid))
    with monkeypatch.context() as patch:
        patch.setattr(_Child, "_receive", hear_only_that_it_started)
        with pytest.raises(OverflowError):
            await pool.run(call(tasks.burn, 0.3))

    after = await pool.run(call(tasks.pid))
    assert isinstance(after, int)
    assert after != before


# Limits


async def test_the_hard_limit_kills_the_child_and_its_programs(pool: ProcessPool, tmp_path: Path) -> None:
    where = tmp_path / "program"

    with pytest.raises(TimeLimitExceeded, match="hard time limit of 2 s exceeded"):
        await pool.run(call(tasks.start_a_program, str(where)), time_limit=2)

    await gone(await announced(where))
    assert await pool.run(call(tasks.add, 2, 3)) == 5


@pytest.mark.parametrize("days", [25, 30, 3650])
async def test_a_limit_may_be_longer_than_one_wait_of_the_system(pool: ProcessPool, days: int) -> None:
    assert await pool.run(call(tasks.add, 2, 3), time_limit=days * 86_400) == 5


async def test_a_limit_that_takes_several_waits_is_kept(pool: ProcessPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotq.worker.processes.pool._LONGEST_POLL", 0.05)

    assert await pool.run(call(tasks.burn, 0.12), time_limit=30)
    with pytest.raises(TimeLimitExceeded, match=r"hard time limit of 0\.12 s exceeded"):
        await pool.run(call(tasks.burn, 60), time_limit=0.12)


async def test_a_soft_limit_may_be_caught(pool: ProcessPool) -> None:
    first = await pool.run(call(tasks.pid))

    assert await pool.run(call(tasks.catch_the_soft_limit), soft_time_limit=0.1) == "cleaned up"

    assert await pool.run(call(tasks.pid)) == first


async def test_a_soft_limit_not_caught_is_the_tasks_failure(pool: ProcessPool) -> None:
    first = await pool.run(call(tasks.pid))

    with pytest.raises(SoftTimeLimitExceeded, match=r"soft time limit of 0.1 s exceeded"):
        await pool.run(call(tasks.burn, 60), soft_time_limit=0.1)

    assert await pool.run(call(tasks.pid)) == first


async def test_a_task_which_ignores_the_soft_limit_meets_the_hard_one(pool: ProcessPool, tmp_path: Path) -> None:
    where = tmp_path / "child"

    with pytest.raises(TimeLimitExceeded):
        await pool.run(call(tasks.ignore_the_soft_limit, str(where)), soft_time_limit=0.2, time_limit=0.6)

    assert not exists(await announced(where))


async def test_a_soft_limit_disturbs_no_later_task(pool: ProcessPool) -> None:
    pid = await pool.run(call(tasks.pid), soft_time_limit=0.1)

    by, began, ended = await pool.run(call(tasks.burn, 0.3))
    assert by == pid, "the child that had the limit"
    assert ended - began >= 0.3, "it computed to its end"


async def test_a_coroutine_which_awaits_can_catch_the_soft_limit(pool: ProcessPool) -> None:
    limited = pool.run(call(tasks.catch_the_soft_limit_awaiting), soft_time_limit=0.1)

    assert await limited == ("soft time limit of 0.1 s exceeded", True)


async def test_a_coroutine_which_computes_can_catch_the_soft_limit(pool: ProcessPool) -> None:
    assert await pool.run(call(tasks.catch_the_soft_limit_computing), soft_time_limit=0.1) == "cleaned up"


async def test_a_coroutines_soft_limit_not_caught_is_its_failure(pool: ProcessPool) -> None:
    with pytest.raises(SoftTimeLimitExceeded):
        await pool.run(call(tasks.await_for_ever), soft_time_limit=0.1)


async def test_time_limits_do_not_count_the_start_of_the_child_and_the_import(
    pool: ProcessPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(1)\nfrom operator import add")
    monkeypatch.syspath_prepend(tmp_path)

    slow = ProcessCall("slow_to_import", "add", (2, 3), {})
    assert await pool.run(slow, soft_time_limit=0.5, time_limit=0.5) == 5


# Cancellation


async def test_a_cancelled_call_kills_its_child(pool: ProcessPool, tmp_path: Path) -> None:
    where = tmp_path / "child"
    run = asyncio.ensure_future(pool.run(call(tasks.announce_and_burn, str(where))))
    pid = await announced(where)

    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    await gone(pid)
    assert await pool.run(call(tasks.add, 2, 3)) == 5


async def test_a_call_in_a_cancelled_scope_kills_its_child(pool: ProcessPool, tmp_path: Path) -> None:
    where = tmp_path / "child"

    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, call(tasks.announce_and_burn, str(where)))
        await announced(where)
        group.cancel_scope.cancel()

    await gone(await announced(where))
    assert await pool.run(call(tasks.add, 2, 3)) == 5


@pytest.mark.parametrize("turns", range(12))
async def test_a_call_cancelled_as_it_starts_leaves_a_pool_that_works(turns: int) -> None:
    async with pool_of(1) as pool:
        run = asyncio.ensure_future(pool.run(call(tasks.burn, 60)))
        for _ in range(turns):
            await asyncio.sleep(0.005 if turns > 6 else 0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

        assert await pool.run(call(tasks.add, 2, 3)) == 5


async def test_a_call_cancelled_as_it_ends_costs_the_next_one_nothing(pool: ProcessPool) -> None:
    await pool.run(call(tasks.pid))

    for turn in range(50):
        run = asyncio.ensure_future(pool.run(call(tasks.add, 1, 1)))
        await asyncio.wait({run}, timeout=turn * 10e-6)
        run.cancel()
        await asyncio.wait({run})

        assert await pool.run(call(tasks.add, 2, 3)) == 5


# The end


async def test_leaving_the_pool_ends_what_runs(tmp_path: Path) -> None:
    where = tmp_path / "child"
    async with pool_of(2) as pool:
        await pool.run(call(tasks.add, 2, 3))
        run = asyncio.ensure_future(lost(pool, call(tasks.announce_and_burn, str(where))))
        pid = await announced(where)

    assert not exists(pid)
    assert "SIGKILL" in await run
    with pytest.raises(RuntimeError, match="not open"):
        await pool.run(call(tasks.add, 2, 3))


async def test_leaving_the_pool_cancelled_leaves_nothing(tmp_path: Path) -> None:
    where = tmp_path / "child"

    async def use() -> None:
        async with pool_of(2) as pool:
            await pool.run(call(tasks.announce_and_burn, str(where)))

    using = asyncio.ensure_future(use())
    pid = await announced(where)
    using.cancel()
    for _ in range(5):  # and again, in the middle of its cleanup
        await asyncio.sleep(0)
        using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using

    assert not exists(pid)
    assert multiprocessing.active_children() == []


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
        from aiotq.worker.processes.pool import ProcessCall, ProcessPool

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
        from aiotq.worker.processes.pool import ProcessCall, ProcessPool

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


@pytest.mark.parametrize("state", ["computing", "idle"])
async def test_children_die_with_a_parent_which_is_killed(tmp_path: Path, state: str) -> None:
    program = script(
        tmp_path,
        f"""
        import asyncio, sys
        from aiotq.worker.processes.pool import ProcessCall, ProcessPool

        async def main():
            async with ProcessPool(1) as pool:
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
        from aiotq.worker.processes.pool import ProcessCall, ProcessPool

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
