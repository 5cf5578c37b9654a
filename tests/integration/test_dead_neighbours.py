"""A worker that dies is seen by the others on its machine: its tasks run again at once, and not after its lease."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from aiotq import AioTQ

from ..semantics.conftest import BROKERS
from .shells import Shell, shell

__all__ = ["shell"]

#: Seconds; the default lease has 15.
SOON = 8.0

APP = """
from aiotq import AioTQ
from jobs import wait_for

app = AioTQ("jobs", broker={url!r}, backend={store!r})
wait = app.task(name="wait", max_concurrency=2)(wait_for.fn)
"""


@pytest.mark.parametrize("broker", ["sqlite", "redis", "postgres", "rabbitmq"])
async def test_what_a_killed_worker_ran_runs_again_in_another_on_its_machine(
    shell: Shell, tmp_path: Path, broker: str
) -> None:
    """With its permit: both are taken, and nobody has to wait for those of the dead one to end."""
    url = BROKERS[broker](tmp_path)
    store = BROKERS["redis"](tmp_path) if broker == "rabbitmq" else url
    (shell.directory / "shop.py").write_text(APP.format(url=url, store=store))
    app = AioTQ("asks", broker=url, backend=store)
    words = ("worker", "shop:app", "--no-banner", "-c", "2", "-n")
    # The heir is older: it learns of the other one when that starts.
    async with app, shell.started(*words, "heir") as second, shell.started(*words, "dies") as first:
        await second.line("is ready")
        await app.control.pause(destination=["heir"])
        await first.line("is ready")
        results = [await app.send_task("wait", (f"gate{number}",)) for number in range(2)]
        for number in range(2):
            await shell.runs(f"gate{number}", first.pid)
        await app.control.resume(destination=["heir"])
        killed = time.monotonic()
        first.send(signal.SIGKILL)
        for number in range(2):
            await shell.runs(f"gate{number}", second.pid)
        assert time.monotonic() - killed < SOON
        for number in range(2):
            shell.open(f"gate{number}")
        assert await asyncio.gather(*(each.get(timeout=10) for each in results)) == [second.pid] * 2


async def test_a_worker_that_starts_takes_up_what_one_left_that_died_before(shell: Shell) -> None:
    shell.output("call", "jobs:app", "jobs.wait_for", "--args", '["gate"]')
    async with shell.worker("--no-banner") as first:
        await shell.runs("gate", first.pid)
        first.send(signal.SIGKILL)
        await first.ended()

    began = time.monotonic()
    async with shell.worker("--no-banner") as second:
        await shell.runs("gate", second.pid)
        assert time.monotonic() - began < SOON
        shell.open("gate")
        await second.line("succeeded")
