"""The FastAPI example as it is run: uvicorn and a worker as processes, asked over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from aiotq import AioTQ
from tests.waiting import wait_until

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "fastapi_service"
#: A process starts in a second or two; a loaded machine may take much longer.
LONG: Final = 30.0
ADDRESS: Final = r"Uvicorn running on (http://\S+)"

Run = Callable[..., AbstractAsyncContextManager[Path]]


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/service.db"


@pytest.fixture
def run(tmp_path: Path, database: str) -> Run:
    """Run a module as a program in the example's directory; yields its log. It must end cleanly when told to."""

    @asynccontextmanager
    async def run(*arguments: str) -> AsyncIterator[Path]:
        log = tmp_path / f"{arguments[0]}.log"
        with (
            log.open("wb") as out,
            subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=EXAMPLE,
                env={**os.environ, "AIOTQ_BROKER_URL": database},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            ) as process,
        ):
            try:
                yield log
                process.send_signal(signal.SIGINT)  # as Ctrl-C does; uvicorn dies by any other
                await wait_until(lambda: process.poll() is not None, f"{arguments[0]} has ended", LONG)
                assert process.returncode == 0
            finally:
                if process.poll() is None:
                    process.kill()
                print(log.read_text(errors="replace"))  # pytest shows it when the test fails

    return run


@asynccontextmanager
async def client_of(log: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the uvicorn that writes `log`, once it serves; it has chosen a free port itself."""
    (address,) = await wait_until(lambda: re.findall(ADDRESS, log.read_text()), "uvicorn serves", LONG)
    async with httpx.AsyncClient(base_url=address, timeout=LONG) as client:
        yield client


async def result_of(client: httpx.AsyncClient, location: str) -> dict[str, Any]:
    """Ask for a result until the task has ended."""

    async def ended() -> dict[str, Any]:
        found: dict[str, Any] = (await client.get(location, params={"wait": 5})).raise_for_status().json()
        return found if found["state"] not in ("PENDING", "STARTED") else {}

    return await wait_until(ended, "the task has ended", LONG)


async def test_the_service_and_a_worker_are_two_processes(run: Run) -> None:
    async with (
        run("uvicorn", "service:api", "--port", "0") as log,
        run("aiotq", "worker", "service:tq"),
        client_of(log) as client,
    ):
        accepted = await client.post("/add", json={"x": 2, "y": 40})

        assert accepted.status_code == 202
        task_id = accepted.json()["id"]
        assert accepted.headers["location"] == f"/results/{task_id}"
        answer = await result_of(client, accepted.headers["location"])
        assert answer == {"id": task_id, "state": "SUCCESS", "value": 42, "error": None}


async def test_a_task_waits_for_a_worker_that_starts_later(run: Run) -> None:
    async with run("uvicorn", "service:api", "--port", "0") as log, client_of(log) as client:
        accepted = await client.post("/add", json={"x": 1, "y": 2})
        location = accepted.headers["location"]
        waited = (await client.get(location, params={"wait": 0.01})).json()
        assert waited == {"id": accepted.json()["id"], "state": "PENDING", "value": None, "error": None}

        async with run("aiotq", "worker", "service:tq"):
            answer = await result_of(client, location)

        assert answer["value"] == 3


async def test_a_failed_task_is_told_with_its_error(run: Run, database: str) -> None:
    async with (
        run("uvicorn", "service:api", "--port", "0") as log,
        run("aiotq", "worker", "service:tq"),
        client_of(log) as client,
        AioTQ("elsewhere", broker=database) as elsewhere,
    ):
        result = await elsewhere.send_task("service.add", (1, "two"))

        answer = await result_of(client, f"/results/{result.id}")

        assert answer["state"] == "FAILURE"
        assert answer["value"] is None
        assert answer["error"].startswith("TypeError: unsupported operand")


async def test_every_state_is_told_as_it_comes(run: Run) -> None:
    async with run("uvicorn", "service:api", "--port", "0") as log, client_of(log) as client:
        accepted = await client.post("/add", json={"x": 2, "y": 40})
        location = accepted.headers["location"]

        async with client.stream("GET", f"{location}/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            async with run("aiotq", "worker", "service:tq"):
                lines = [line async for line in answer.aiter_lines() if line]

        assert lines[::2] == ["event: STARTED", "event: SUCCESS"]
        told = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
        task_id = accepted.json()["id"]
        assert told[-1] == {"id": task_id, "state": "SUCCESS", "value": 42, "error": None}

        again = await client.get(f"{location}/events")
        assert again.text == f"event: SUCCESS\ndata: {json.dumps(told[-1], separators=(',', ':'))}\n\n"


async def test_who_follows_a_task_and_leaves_does_not_keep_the_service_from_stopping(run: Run) -> None:
    async with run("uvicorn", "service:api", "--port", "0") as log, client_of(log) as client:
        accepted = await client.post("/add", json={"x": 2, "y": 40})

        async with client.stream("GET", f"{accepted.headers['location']}/events") as answer:
            assert answer.status_code == 200


async def test_what_cannot_be_a_request_is_refused_before_it_is_sent(run: Run) -> None:
    async with run("uvicorn", "service:api", "--port", "0") as log, client_of(log) as client:
        assert (await client.post("/add", json={"x": 1})).status_code == 422
        assert (await client.post("/add", json={"x": 1, "y": "two"})).status_code == 422
        assert (await client.post("/add", json={"x": 1, "y": 10**40})).status_code == 422
        assert (await client.get("/results/any", params={"wait": -1})).status_code == 422


async def test_an_id_that_nobody_sent_is_pending(run: Run) -> None:
    async with run("uvicorn", "service:api", "--port", "0") as log, client_of(log) as client:
        answer = await client.get("/results/nobody-sent-this")

        assert answer.status_code == 200
        assert answer.json()["state"] == "PENDING"


async def test_the_worker_can_run_inside_the_service(run: Run) -> None:
    async with run("uvicorn", "embedded:api", "--port", "0") as log, client_of(log) as client:
        accepted = [await client.post("/add", json={"x": number, "y": 1}) for number in range(20)]
        answers = [await result_of(client, each.headers["location"]) for each in accepted]

        assert [answer["value"] for answer in answers] == list(range(1, 21))
