"""Celery's own tools on a shared RabbitMQ: they see our workers and calls and tell them what to do; we ask theirs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import pytest

from aiotq import AioTQ, TaskRevokedError
from aiotq.control.celery_mail import command_in, theirs

from ..servers import free_port, shared, shared_rabbit
from ..waiting import wait_until
from .celery_process import HERE, PYTHON, CeleryWorker
from .ours import make_app

#: Seconds that one of Celery's commands may take: to start it takes some.
PATIENCE: Final = 40.0


class Flower:
    """The HTTP API of Celery's monitor, which runs on this machine."""

    def __init__(self) -> None:
        self.port = free_port()

    async def ask(self, path: str, data: bytes | None = None) -> Any:
        """Return what it answers; None: it is not there yet, or knows nothing of that."""
        try:
            return await asyncio.to_thread(self._ask, path, data)
        except urllib.error.HTTPError as exc:
            if exc.code in {401, 403}:
                raise
            return None
        except OSError:
            return None

    async def shows(self, task_id: str, state: str) -> Any:
        """Return a call that it shows, once that has this state."""

        async def shown() -> Any:
            found = ((await self.ask("/api/tasks")) or {}).get(task_id)
            return found if found is not None and found["state"] == state else None

        return await wait_until(shown, f"it shows {task_id} as {state}", PATIENCE)

    def _ask(self, path: str, data: bytes | None) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, timeout=10) as answer:
            return json.loads(answer.read())


class Tool:
    """A command of Celery's that runs on."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []

    async def read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.lines.append(line.decode())

    def said(self, *words: str) -> str | None:
        return next((line for line in self.lines if all(word in line for word in words)), None)


async def start(broker: str, *words: str) -> asyncio.subprocess.Process:
    environment = {
        **os.environ,
        "BROKER": broker,
        "BACKEND": shared("redis").url,
        "PYTHONPATH": str(HERE),
        "FLOWER_UNAUTHENTICATED_API": "true",
    }
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


async def answers(broker: str, *words: str) -> Any:
    """What a command prints as JSON."""
    out = await run(broker, *words, "--json", "-d", "ours-1", "-t", "30")  # it ends with the one answer
    found, _ = json.JSONDecoder().raw_decode(out, out.index("{"))  # words for people stand behind it
    return found


@asynccontextmanager
async def running(broker: str, *words: str) -> AsyncIterator[Tool]:
    process = await start(broker, *words)
    tool = Tool(process)
    reading = asyncio.create_task(tool.read())
    try:
        yield tool
    finally:
        process.kill()
        await process.wait()
        await reading


@pytest.fixture
async def ours(broker: str) -> AsyncIterator[AioTQ]:
    app = make_app(broker, shared("redis").url)
    async with app, app.worker(name="ours-1"):
        yield app


async def test_inspect_status_and_control(ours: AioTQ, broker: str) -> None:
    running_call = await ours.send_task("ours.sleep", (60,))
    ping, stats, active, registered, queues = await asyncio.gather(
        answers(broker, "inspect", "ping"),
        answers(broker, "inspect", "stats"),
        answers(broker, "inspect", "active"),
        answers(broker, "inspect", "registered"),
        answers(broker, "inspect", "active_queues"),
    )

    assert ping == {"ours-1": {"ok": "pong"}}
    assert stats["ours-1"]["pid"] == os.getpid()
    assert stats["ours-1"]["pool"]["max-concurrency"] > 0
    assert [call["id"] for call in active["ours-1"]] == [running_call.id]
    assert active["ours-1"][0]["delivery_info"]["routing_key"] == "celery"
    assert "ours.add" in registered["ours-1"]
    assert [queue["name"] for queue in queues["ours-1"]] == ["celery"]

    status, limited, refused, revoked = await asyncio.gather(
        run(broker, "status", "-d", "ours-1", "-t", "30"),
        answers(broker, "control", "rate_limit", "ours.add", "10/m"),
        answers(broker, "control", "rate_limit", "ours.nothing", "10/m"),
        answers(broker, "control", "terminate", "TERM", running_call.id),
    )
    assert "ours-1" in status
    assert "1 node online" in status
    assert limited == {"ours-1": {"ok": "rate limit is 10/m"}}
    assert "ours.nothing" in refused["ours-1"]["error"]
    assert running_call.id in revoked["ours-1"]["ok"]
    with pytest.raises(TaskRevokedError):
        await running_call.get(timeout=20)


async def test_events_of_ours_are_dumped_by_celery_and_nothing_is_left(ours: AioTQ, broker: str) -> None:
    host = broker.rpartition("/")[2]

    def theirs_left() -> list[str]:
        return [name for name in shared_rabbit().queues(host) if name.startswith("celeryev")]

    async with running(broker, "events", "--dump") as dump:
        await wait_until(lambda: dump.said("evdump"), "it has started", PATIENCE)
        await wait_until(theirs_left, "it consumes", PATIENCE)
        assert "task events enabled" in str(await ours.control.enable_events(destination="ours-1", timeout=10))
        added, failed = await ours.send_task("ours.add", (1, 2)), await ours.send_task("ours.fail", ("no",))
        await added.get(timeout=20)
        await wait_until(lambda: dump.said("ours-1", "heartbeat"), "a worker's event")
        for words in (("task received", "ours.add", added.id, "args=(1, 2)"), ("task started", added.id)):
            assert await wait_until(partial(dump.said, "ours-1", *words), f"{words}")
        assert await wait_until(lambda: dump.said("task succeeded", added.id, "result=3"), "its end")
        assert await wait_until(lambda: dump.said("task failed", failed.id, "ValueError('no')"), "the other's end")

    await wait_until(lambda: not theirs_left(), "Celery's queue is gone")


async def test_flower_shows_our_workers_and_calls_live_and_revokes(ours: AioTQ, broker: str) -> None:
    flower = Flower()
    async with running(broker, "flower", "--address=127.0.0.1", f"--port={flower.port}"):

        async def workers() -> Any:
            return ((await flower.ask("/api/workers?refresh=1")) or {}).get("ours-1")

        worker = await wait_until(workers, "it shows our worker", PATIENCE)
        assert "ours.add" in worker["registered"]
        assert [queue["name"] for queue in worker["active_queues"]] == ["celery"]
        assert worker["stats"]["pid"] == os.getpid()

        async def listens() -> Any:
            return ((await flower.ask("/api/workers?status=1")) or {}).get("ours-1")

        assert await wait_until(listens, "it has our worker send events, and hears it", PATIENCE)
        call, runs = await ours.send_task("ours.add", (1, 2)), await ours.send_task("ours.sleep", (60,))
        done = await flower.shows(call.id, "SUCCESS")
        assert (done["name"], done["args"], done["result"], done["worker"]) == ("ours.add", "(1, 2)", "3", "ours-1")
        await flower.shows(runs.id, "STARTED")

        assert await flower.ask(f"/api/task/revoke/{runs.id}?terminate=true", b"")
        with pytest.raises(TaskRevokedError):
            await runs.get(timeout=20)
        assert (await flower.shows(runs.id, "REVOKED"))["name"] == "ours.sleep"
        assert "Growing" in (await flower.ask("/api/worker/pool/grow/ours-1?n=2", b""))["message"]
        later = await ours.send_task("ours.add", (3, 4), countdown=600)
        assert await flower.ask(f"/api/task/revoke/{later.id}", b"")
        await wait_until(partial(is_revoked, ours, later.id), "it is known to be revoked")


async def is_revoked(app: AioTQ, task_id: str) -> bool:
    (told,) = (await app.control.inspect(["ours-1"], timeout=30).revoked()).values()
    return task_id in {each["what"] for each in told}


async def test_ours_asks_celerys_workers_too(broker: str) -> None:
    app = make_app(broker, shared("redis").url)
    with CeleryWorker(broker, shared("redis").url, queue="theirs"):
        async with app, app.worker(name="ours-1"):
            ping = await app.control.ping(timeout=3)
            (name,) = ping.keys() - {"ours-1"}
            assert name.startswith("celery@")
            first, second = "revoked-1", "revoked-2"
            await app.admin.revoke(first)
            await app.AsyncResult(second).revoke()  # it is heard before what is asked next
            assert set(map(str, ping.values())) == {"{'ok': 'pong'}"}
            assert "theirs.add" in (await app.control.inspect([name], timeout=3).registered())[name]
            assert list(await app.control.inspect(["ours-1"], timeout=30).ping()) == ["ours-1"]
            for task_id in (first, second):
                result = await app.send_task("theirs.add", (1, 1), queue="theirs", task_id=task_id)
                with pytest.raises(TaskRevokedError):
                    await result.get(timeout=20)
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
