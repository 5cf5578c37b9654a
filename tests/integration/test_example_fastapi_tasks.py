"""Tasks over HTTP as they are run: uvicorn with two processes, and a worker that is killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.waiting import wait_until

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
#: A process starts in a second or two; a loaded machine may take much longer.
LONG: Final = 30.0
ADDRESS: Final = r"Uvicorn running on (http://\S+)"
ORDER: Final = {
    "customer": "ACME",
    "lines": [{"name": "pen", "price": "1.50", "count": 2}, {"name": "ink", "price": 4}],
}


@contextmanager
def running(directory: Path, log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "AIOTQ_BROKER_URL": f"sqlite:///{log.parent}/queue.db",
        "AIOTQ_WORKER_LEASE": "2",  # seconds until what a killed worker held is somebody else's
        "REPORTS_DATABASE": str(log.parent / "reports.db"),
        "DATABASE_URL": f"sqlite+aiosqlite:///{log.parent}/orders.sqlite",
    }
    with (
        log.open("ab") as out,
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(LONG)
                finally:
                    process.kill()
            print(log.read_text(errors="replace"))  # pytest shows it when the test fails


@asynccontextmanager
async def client_of(log: Path) -> AsyncIterator[httpx.AsyncClient]:
    (address,) = await wait_until(lambda: re.findall(ADDRESS, log.read_text()), "uvicorn serves", LONG)
    async with httpx.AsyncClient(base_url=address, timeout=LONG) as client:

        async def answers() -> bool:
            try:
                return (await client.get("/reports")).status_code == 200
            except httpx.ConnectError:  # its port is taken before one of its processes listens
                return False

        await wait_until(answers, "the service answers", LONG)
        yield client


async def events_of(client: httpx.AsyncClient, task_id: str) -> AsyncIterator[dict[str, Any]]:
    async with client.stream("GET", f"/tasks/{task_id}/events") as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


async def test_tasks_are_started_followed_and_cancelled_over_http(tmp_path: Path) -> None:
    """One service for all of it: it takes seconds to start, and a worker's lease some more to end."""
    directory, work = EXAMPLES / "fastapi_tasks", ("-m", "aiotq", "worker", "reports:tq")
    serve = ("-m", "uvicorn", "report_api:api", "--workers", "2", "--port", "0")
    with running(directory, tmp_path / "api.log", *serve) as api:
        async with client_of(tmp_path / "api.log") as client:
            assert (await client.post("/tasks/announce", json={})).status_code == 404
            refused = await client.post("/tasks/report", json={"order": ORDER, "database": "x"})
            assert (refused.status_code, "the worker gives 'database'" in refused.text) == (422, True)

            started = await client.post(
                "/tasks/report", json={"order": ORDER, "pause": 0.5}, headers={"x-user": "ann", "x-request-id": "r-7"}
            )
            wrong = await client.post("/tasks/report", json={"order": {**ORDER, "lines": [{"name": "pen"}]}})
            endless = await client.post("/tasks/report", json={"order": ORDER, "pause": 600})
            assert started.status_code == 202

            with running(directory, tmp_path / "worker.log", *work) as killed:
                events = events_of(client, started.json()["id"])
                first = await anext(events)
                assert (first["state"], first["info"]) == ("PROGRESS", {"done": 0, "of": 2})
                killed.kill()
                killed.wait()
            with running(directory, tmp_path / "again.log", *work):
                last = [each async for each in events][-1]
                assert last["state"] == "SUCCESS"
                assert last["info"] == {"customer": "ACME", "total": "7.00", "made_for": "ann"}

                told = [each async for each in events_of(client, wrong.json()["id"])][-1]
                assert told["state"] == "FAILURE"
                assert told["error"].startswith("InvalidArguments: reports.report: argument order.lines[0].price:")

                follow = asyncio.create_task(_last(client, endless.json()["id"]))
                deleted = await client.delete(f"/tasks/{endless.json()['id']}")
                assert (deleted.status_code, (await follow)["state"]) == (204, "REVOKED")

                assert (await client.get("/reports")).json() == [last["info"]]
                await wait_until(
                    lambda: "request r-7: a report of ACME for ann" in (tmp_path / "again.log").read_text(),
                    "the task that the task called knows the request",
                    LONG,
                )
        assert api.poll() is None


async def _last(client: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
    return [each async for each in events_of(client, task_id)][-1]


def test_tasks_have_a_session_each_that_is_committed(tmp_path: Path) -> None:
    log = tmp_path / "orders.log"
    with running(EXAMPLES / "sqlalchemy_orders", log, "order_tasks.py") as process:
        assert process.wait(LONG) == 0

    assert "ACME: 4.50" in log.read_text()
    with sqlite3.connect(tmp_path / "orders.sqlite") as database:
        assert database.execute("select customer, total from orders").fetchall() == [("ACME", 4.5)]
