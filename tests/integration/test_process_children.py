"""How children start, when they are replaced, how large values cross, and how soon they are stopped."""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.forkserver
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from aiotq import AioTQ
from aiotq.core.inside import core_of
from aiotq.exceptions import EncodeError, InvalidOption, SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from aiotq.worker.processes.child_process import ProcessCall
from aiotq.worker.processes.policy import ChildPolicy, child_policy
from aiotq.worker.processes.pool import ProcessPool
from aiotq.worker.processes.starting import StartMethod

from ..waiting import wait_until
from . import process_app
from . import process_tasks as tasks
from .process_pools import announced, call, exists, pool, pool_of

__all__ = ["pool"]

MEGABYTE: Final = 1 << 20


# Large values


def forget_peak() -> None:
    """Have the most memory that this process had count from now."""
    Path("/proc/self/clear_refs").write_text("5")


async def test_large_values_and_arguments_are_held_once_on_either_side(pool: ProcessPool) -> None:
    size, little = 64 * MEGABYTE, 8 * MEGABYTE
    before = await pool.run(call(tasks.peak))
    forget_peak()
    before_here = tasks.peak()

    count, more = await pool.run(call(tasks.length, b"x" * size, before))
    assert count == size
    assert more < size + little, "the argument itself, and no copy of it"
    assert tasks.peak() - before_here < size + little

    before = await pool.run(call(tasks.peak))
    value, _ = await pool.run(call(tasks.large, size))
    assert len(value) == size
    assert await pool.run(call(tasks.peak)) - before < little, "where the argument was, and no more"
    assert tasks.peak() - before_here < size + little


async def test_a_value_found_out_when_half_of_it_was_sent_is_a_failure_of_its_task_alone(pool: ProcessPool) -> None:
    first = await pool.run(call(tasks.pid))
    with pytest.raises(EncodeError, match=r"the task returned a LateBomb which can't be pickled"):
        await pool.run(call(tasks.return_a_late_bomb, MEGABYTE))
    with pytest.raises(EncodeError, match="the arguments can't be pickled"):
        await pool.run(call(tasks.echo, tasks.LateBomb(MEGABYTE)))
    with pytest.raises(InvalidOption):
        await pool.run(ProcessCall("no_such_module", "echo", (bytes(MEGABYTE),), {}))

    assert await pool.run(call(tasks.pid)) == first


# Children that are replaced, and children that are there before they are needed


async def test_a_child_with_too_much_memory_is_replaced_after_the_task_that_took_it() -> None:
    limit = 200 * 1024  # kB
    async with pool_of(1, max_memory=limit) as pool:
        first = await pool.run(call(tasks.pid))
        assert await pool.run(call(tasks.grow, 1)) == first
        assert await pool.run(call(tasks.grow, limit * 1024)) == first, "the task is run to its end"
        await wait_until(lambda: not exists(first), "it has gone, and no other task was needed for that")

        assert await pool.run(call(tasks.pid)) != first


async def test_warm_children_start_with_the_pool_and_have_imported_what_their_tasks_need() -> None:
    method = StartMethod(modules=["colorsys"])
    async with pool_of(2, method=method, is_warm=True) as pool:
        await wait_until(lambda: len(multiprocessing.active_children()) == 2, "two children are there")
        there = {each.pid for each in multiprocessing.active_children()}

        assert await pool.run(call(tasks.imported, "colorsys")) == (True, os.getpid())
        assert await pool.run(call(tasks.pid)) in there


@pytest.fixture
async def fork_server() -> AsyncIterator[None]:
    """What a test has started lives as long as its process otherwise."""
    yield
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("fork_server")
async def test_a_fork_server_has_imported_all_before_it_forks_children(tmp_path: Path) -> None:
    (tmp_path / "slow_library.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'log')!r}).open('a').write('x')\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        method = StartMethod("forkserver", [tasks.__name__], ["slow_library"])
        async with pool_of(2, method=method, is_warm=True) as pool, asyncio.TaskGroup() as group:
            where = [tmp_path / "a", tmp_path / "b"]
            pair = [str(each) for each in where]
            both = [group.create_task(pool.run(call(tasks.burn_together, 0, *each))) for each in (pair, pair[::-1])]
            one, two = [(await each)[0] for each in both]
            assert one != two
            was_there, parent = await pool.run(call(tasks.imported, "slow_library"))
            assert was_there
            assert parent not in (os.getpid(), one, two)
            with pytest.raises(TimeLimitExceeded):
                await pool.run(call(tasks.burn, 60), time_limit=0.1)
            assert await pool.run(call(tasks.echo, b"x" * MEGABYTE)) == b"x" * MEGABYTE
    finally:
        sys.path.remove(str(tmp_path))
    assert (tmp_path / "log").read_text() == "x", "once, in the server"


def test_what_can_not_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidOption, match=r"worker_process_preload: there is no module 'no\.such'"):
        StartMethod(preload=["no.such"]).check()
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(InvalidOption, match=f"worker_process_start: there is no forkserver on {sys.platform}"):
        StartMethod("forkserver").check()


def test_the_policy_is_what_the_settings_say() -> None:
    settings: dict[str, Any] = {"worker_warm_processes": True, "worker_process_start": "forkserver"}
    conf = AioTQ("proj", worker_max_memory_per_child=5, worker_process_preload=["colorsys"], **settings).conf

    method = StartMethod("forkserver", [process_app.__name__], ("colorsys",))
    tasks = core_of(process_app.app).tasks.values()  # shared tasks of other test modules may be among them
    with_tasks = child_policy(conf, [each for each in tasks if each.fn.__module__ == process_app.__name__])
    assert with_tasks == ChildPolicy(method, max_memory=5, is_warm=True)
    assert method.all_modules() == ["colorsys", process_app.__name__]
    assert not child_policy(conf, []).is_warm, "an app without tasks for children starts none"


# How soon


#: Seconds within which whatever stops a task has stopped it.
SOON: Final = 0.1


async def within(seconds: float, attempt: Callable[[], Awaitable[float]]) -> None:
    """See that one of some attempts takes no longer: a machine that does other things may make others late."""
    took = list[float]()
    for _ in range(8):
        took.append(await attempt())
        if took[-1] < seconds:
            return
    raise AssertionError(f"not once within {seconds} s: {took}")


async def test_whatever_stops_a_task_does_so_within_a_tenth_of_a_second(pool: ProcessPool, tmp_path: Path) -> None:
    limit = 0.05

    async def limited(error: type[Exception], **limits: float) -> float:
        await pool.run(call(tasks.pid))  # it is warm
        began = time.monotonic()
        with pytest.raises(error):
            await pool.run(call(tasks.burn, 60), **limits)
        return time.monotonic() - began - limit

    async def cancelled() -> float:
        where = tmp_path / "child"
        where.unlink(missing_ok=True)
        run = asyncio.ensure_future(pool.run(call(tasks.announce_and_burn, str(where))))
        pid = await announced(where)
        began = time.monotonic()
        run.cancel()
        with suppress(asyncio.CancelledError):
            await run
        await wait_until(lambda: not exists(pid), "the child is gone")
        return time.monotonic() - began

    await within(SOON, lambda: limited(SoftTimeLimitExceeded, soft_time_limit=limit))
    await within(SOON, lambda: limited(TimeLimitExceeded, time_limit=limit))
    await within(SOON, cancelled)


async def test_a_revocation_ends_a_running_child_within_a_tenth_of_a_second(tmp_path: Path) -> None:
    app = process_app.app

    async def revoked() -> float:
        where = tmp_path / "child"
        where.unlink(missing_ok=True)
        result = await process_app.burn_for_long.delay(str(where))
        pid = await announced(where)
        began = time.monotonic()
        await result.revoke(terminate=True)
        await wait_until(lambda: not exists(pid), "the child is gone")
        took = time.monotonic() - began
        with pytest.raises(TaskRevokedError):
            await result.get(timeout=30)
        return took

    async with app, app.worker():
        await within(SOON, revoked)
