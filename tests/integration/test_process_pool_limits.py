"""Time limits and cancellations of what runs in a child process: it is killed, with all its programs."""

from __future__ import annotations

import asyncio
import multiprocessing
from pathlib import Path

import anyio
import pytest

from aiotq.exceptions import (
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
)
from aiotq.worker.processes.child_process import ProcessCall
from aiotq.worker.processes.pool import ProcessPool

from . import process_tasks as tasks
from .process_pools import announced, call, exists, gone, pool, pool_of
from .test_process_pool_deaths import lost

__all__ = ["pool"]


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
    monkeypatch.setattr("aiotq.worker.processes.pipe._LONGEST_WAIT", 0.05)

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
    pid = await pool.run(call(tasks.pid), soft_time_limit=0.8)

    by, began, ended = await pool.run(call(tasks.burn, 1.0))
    assert by == pid, "the child that had the limit"
    assert ended - began >= 1.0, "it computed to its end"


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
