"""Celery's own tools on a shared RabbitMQ: they see our workers and calls and tell them what to do; we ask theirs."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import Any, Final

from aiotq.control.celery_mail import command_in, theirs

from ..servers import shared
from .celery_process import HERE, PYTHON, CeleryWorker
from .ours import make_app

#: Seconds that one of Celery's commands may take: to start it takes some.
PATIENCE: Final = 40.0


async def start(broker: str, *words: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, "BROKER": broker, "BACKEND": shared("redis").url, "PYTHONPATH": str(HERE)}
    return await asyncio.create_subprocess_exec(
        *(str(PYTHON), "-m", "celery", "-A", "celery_program", *words),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


async def run(broker: str, *words: str) -> str:
    process = await start(broker, *words)
    async with asyncio.timeout(PATIENCE):
        out, _ = await process.communicate()
    return out.decode()


async def test_ours_asks_celerys_workers_too(broker: str) -> None:
    app = make_app(broker, shared("redis").url)
    with CeleryWorker(broker, shared("redis").url, queue="theirs"):
        async with app, app.worker(name="ours-1"):
            ping = await app.control.ping(timeout=3)
            (name,) = ping.keys() - {"ours-1"}
            assert name.startswith("celery@")
            assert set(map(str, ping.values())) == {"{'ok': 'pong'}"}
            assert "theirs.add" in (await app.control.inspect([name], timeout=3).registered())[name]
            assert list(await app.control.inspect(["ours-1"], timeout=30).ping()) == ["ours-1"]
            limited = await app.control.rate_limit("theirs.add", "10/m", destination=[name], timeout=3)
            assert "ok" in limited[name]


async def test_what_is_no_command_does_nothing_and_with_a_key_none_is_obeyed(broker: str) -> None:
    nothing: list[Any] = [None, [], 3, {}, {"method": 3}, {"method": "ping", "arguments": [1]}, {"method": "x" * 300}]
    nothing += [{"method": "ping", "destination": 3}, {"method": "ping", "destination": [3]}]
    for body in nothing:
        assert command_in(body) is None
    assert theirs("rate_limit", ["a"], {"rate": "1/s"}) == {"task_name": "a", "rate_limit": "1/s"}
    assert theirs("stacks", [], {}) is None

    app = make_app(broker, shared("redis").url, security_key="k" * 40)
    async with app, app.worker(name="signed"):
        out = await run(broker, "inspect", "ping", "-d", "signed")
    assert "signed: OK" not in out
