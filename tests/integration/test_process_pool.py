"""The pool of child processes, with real ones: values, failures, limits, deaths, and nothing left behind."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiotq.exceptions import (
    EncodeError,
    InvalidOption,
    RemoteError,
    WorkerLostError,
)
from aiotq.worker.processes.child_process import ChildTraceback, ProcessCall
from aiotq.worker.processes.policy import ChildPolicy
from aiotq.worker.processes.pool import ProcessPool

from . import process_tasks as tasks
from .process_pools import announced, call, gone, pool, pool_of

__all__ = ["pool"]


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
    async with pool_of(1, max_tasks=2) as pool:
        pids = [await pool.run(call(tasks.pid)) for _ in range(5)]

    assert pids[0] == pids[1]
    assert pids[2] == pids[3]
    assert len(set(pids)) == 3


def test_a_pool_which_could_run_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least"):
        ProcessPool(0)
    with pytest.raises(ValueError, match="at least"):
        ChildPolicy(max_tasks=0)
    with pytest.raises(ValueError, match="at least"):
        ChildPolicy(max_memory=0)
