"""The tasks that are measured. The broker is named by `AIOTQ_BROKER_URL`, other settings have their defaults."""

from __future__ import annotations

import asyncio
import os
import time

from aiotq import AioTQ, current_task

from .usage import own_cpu, server_cpu

#: A slow machine shall give a low figure and not a PublishTimeout.
PUBLISH_TIMEOUT = 120.0

#: Names the file in which runs are written down.
FACTS = "BENCHMARK_FACTS"
#: Starts a second of a limited task.
LIMIT = 100

#: A wall time, and the seconds of CPU that a worker and the servers had used by then.
Stamp = tuple[float, float, float]

app = AioTQ("benchmarks", task_publish_timeout=PUBLISH_TIMEOUT)


@app.task
async def noop() -> None:
    """Do nothing."""


@app.task
async def noted(seconds: float) -> None:
    """Write down that it runs, in the file that the environment names, and wait."""
    fact = f"{current_task.request.id} {os.getpid()} {time.time()}\n"
    file = os.open(os.environ[FACTS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, fact.encode())
    os.close(file)
    await asyncio.sleep(seconds)


@app.task
async def stamp() -> Stamp:
    """Return when it ran, and what was used by then."""
    return time.time(), own_cpu(), server_cpu()


@app.task
async def nap(seconds: float) -> None:
    """Wait as one does for somebody else's answer."""
    await asyncio.sleep(seconds)


@app.task
async def lateness(due: float) -> float:
    """Return how many seconds after `due` it ran."""
    return time.time() - due


@app.task
async def same(number: int) -> int:
    """Return `number`: a member of a chord, or a step of a chain, that does nothing."""
    return number


@app.task
async def total(numbers: list[int]) -> int:
    """Return the sum: what a chord is called for."""
    return sum(numbers)


@app.task(rate_limit=LIMIT)
async def limited() -> float:
    """Return when it ran."""
    return time.time()


@app.task(rate_limit="1/h")
async def rare() -> None:
    """Do nothing, once an hour."""


@app.task
def noop_in_thread() -> None:
    """Do nothing, in a thread."""


@app.task(run="process")
def noop_in_process() -> None:
    """Do nothing, in a child process."""


@app.task(run="process")
def compute(seconds: float) -> tuple[float, float, int, float]:
    """Use so many seconds of CPU in a child; return from when to when, which process, and what that used so far."""
    began, used = time.time(), time.process_time()
    while time.process_time() - used < seconds:
        pass
    return began, time.time(), os.getpid(), time.process_time()


@app.task(run="process")
def many_bytes(size: int) -> bytes:
    """Return so many bytes from a child process."""
    return b"x" * size
