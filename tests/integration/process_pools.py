"""Pools of child processes for tests, and proofs that nothing of one is left."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from aiotq.worker.processes.child_process import ProcessCall
from aiotq.worker.processes.policy import ChildPolicy
from aiotq.worker.processes.pool import ProcessPool

from ..waiting import wait_until


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
    async with ProcessPool(size, ChildPolicy(**options)) as pool:
        yield pool
    assert a_zombie() is None
    assert multiprocessing.active_children() == []


@pytest.fixture
async def pool() -> AsyncIterator[ProcessPool]:
    async with pool_of(1) as pool:
        yield pool
