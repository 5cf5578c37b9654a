"""The app that the chaos tests run: its tasks write down what becomes of them, one line a fact.

A fact is in the file when the task goes on, and stays there when its process is killed.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from aiotq import AioTQ, EventTimeout, FlowContext, SoftTimeLimitExceeded, Stream, current_task

#: Names the file of facts.
FACTS: Final = "CHAOS_FACTS"
#: Seconds between looks at a gate.
_PAUSE: Final = 0.02

app = AioTQ("chaos")


def worker_pid() -> int:
    """The process of the worker that runs this, here or in a child."""
    parent = multiprocessing.parent_process()
    return os.getpid() if parent is None or parent.pid is None else parent.pid


def note(event: str, task_id: str | None = None, *, detail: object = None, durable: bool = False) -> None:
    """Append a fact about the running task, or about `task_id`."""
    fact = {
        "event": event,
        "id": task_id or current_task.request.id,
        "time": time.time(),
        "pid": os.getpid(),
        "worker": worker_pid(),
        "detail": detail,
    }
    file = os.open(os.environ[FACTS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, json.dumps(fact).encode() + b"\n")
        if durable:
            os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def noted() -> Iterator[None]:
    """Note the start of the running task, and its end if it comes to it."""
    eta = current_task.request.eta
    note("start", detail=None if eta is None else eta.timestamp())
    yield
    note("end")


# Three kinds of a task that takes some time. Each returns which worker ran it.


@app.task
async def step(seconds: float) -> int:
    with noted():
        await asyncio.sleep(seconds)
    return worker_pid()


@app.task(stream=Stream(rerun="repeat"))
async def numbers(below: int, pause: float) -> AsyncIterator[int]:
    with noted():
        for number in range(below):
            yield number
            if number % 50 == 49:  # in bursts
                await asyncio.sleep(pause)


@app.flow
async def journey(ctx: FlowContext) -> object:
    await ctx.step(step, 0.02)
    await asyncio.gather(*(ctx.step(step, 0.01 * each) for each in range(3)))
    await ctx.sleep(0.2)
    value = await ctx.event("go", timeout=120)
    try:
        await ctx.event("never", timeout=0.1)
    except EventTimeout:
        await ctx.step(step, 0.02)
    return value


@app.task
def step_in_thread(seconds: float) -> int:
    with noted():
        time.sleep(seconds)
    return worker_pid()


@app.task(max_concurrency=3)
async def one_of_three(seconds: float) -> int:
    with noted():
        await asyncio.sleep(seconds)
    return worker_pid()


@app.task(run="process")
def step_in_process(seconds: float) -> int:
    with noted():
        time.sleep(seconds)
    return worker_pid()


# The same three, for as long as a test keeps a gate shut: until a file of that name is there.


@app.task
async def wait_at(gate: str) -> int:
    with noted():
        try:
            while not Path(gate).exists():  # noqa: ASYNC110  # the gate is for every process
                await asyncio.sleep(_PAUSE)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)  # clean-up may take its time
            note("cleaned up")
            raise
    return worker_pid()


@app.task
def wait_in_thread_at(gate: str) -> int:
    with noted():
        while not Path(gate).exists():
            time.sleep(_PAUSE)
    return worker_pid()


@app.task(run="process")
def wait_in_process_at(gate: str) -> int:
    with noted():
        while not Path(gate).exists():
            time.sleep(_PAUSE)
    return worker_pid()


# Tasks that do what a task should not.


@app.task
async def block_loop(seconds: float) -> int:
    with noted():
        time.sleep(seconds)  # noqa: ASYNC251  # that is what it is for
    return worker_pid()


@app.task
async def kill_worker() -> None:
    with noted():
        os.kill(os.getpid(), signal.SIGKILL)


@app.task
async def exit_worker() -> None:
    with noted():
        os._exit(1)


@app.task
async def raise_system_exit() -> None:
    with noted():
        raise SystemExit(3)


@app.task
def raise_keyboard_interrupt() -> None:
    with noted():
        raise KeyboardInterrupt


@app.task
async def return_unserializable() -> object:
    with noted():
        return object()


@app.task(run="process")
def kill_own_process() -> None:
    with noted():
        os.kill(os.getpid(), signal.SIGKILL)


# Tasks with limits.


@app.task
async def outlast_soft_limit(seconds: float) -> str:
    with noted():
        try:
            await asyncio.sleep(seconds)
        except SoftTimeLimitExceeded:
            note("soft limit")
            return "cleaned up in time"
    return "never interrupted"


@app.task(run="process")
def outlast_soft_limit_in_process(seconds: float) -> str:
    with noted():
        try:
            time.sleep(seconds)
        except SoftTimeLimitExceeded:
            note("soft limit")
            return "cleaned up in time"
    return "never interrupted"


@app.task
async def tick(seconds: float, interval: float) -> float:
    """Return the longest time that the loop let this task wait beyond `interval`, in `seconds` seconds.

    Told by a thread that sleeps as long each time: while the whole process stands still, nobody counts.
    """
    turns, is_over, worst = 0, False, 0

    def count() -> None:
        nonlocal turns
        while not is_over:
            time.sleep(interval)
            turns += 1

    with noted():
        loop = asyncio.get_running_loop()
        counting = loop.run_in_executor(None, count)
        end = loop.time() + seconds
        while loop.time() < end:
            before = turns
            await asyncio.sleep(interval)
            worst = max(worst, turns - before)
        is_over = True
        await counting
    return worst * interval
