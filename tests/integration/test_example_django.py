"""The Django example as it is run: served by gunicorn, uvicorn and runserver, with workers of `manage.py aiotq`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.servers import free_port
from tests.waiting import wait_until

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "django_shop"
#: A process starts in a second or two; a loaded machine may take much longer.
LONG: Final = 40.0
#: What each says when it serves; runserver does not say which port it chose.
SERVES: Final = r"(?:Listening at:|running on|server at) (http://[\d.]+:\d+)"
GUNICORN: Final = ("gunicorn", "shop.wsgi", "--bind", "127.0.0.1:0")
UVICORN: Final = ("uvicorn", "shop.asgi:application", "--port", "0")


class Project:
    """A copy of the example, with a database and a queue of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "project"
        shutil.copytree(EXAMPLE, self.directory, ignore=shutil.ignore_patterns("*.sqlite3*", "__pycache__"))
        self.environment = {**os.environ, "SHOP_DATA": str(directory), "PYTHONUNBUFFERED": "1"}
        self._runs = 0

    def manage(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of manage.py to its end."""
        return subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=2 * LONG,
            check=False,
        )

    @contextmanager
    def running(self, *command: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """A process, and its log; it is killed with all that it started, unless it has ended."""
        self._runs += 1
        log = self.directory / f"{self._runs}.log"
        words = [sys.executable, *(command if command[0] == "manage.py" else ("-m", *command))]
        with (
            log.open("wb") as out,
            subprocess.Popen(
                words,
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            ) as process,
        ):
            try:
                yield process, log
            finally:
                kill(process)
                print(" ".join(command), log.read_text(errors="replace"), sep="\n")  # shown when the test fails


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def stop(process: subprocess.Popen[bytes], with_signal: int = signal.SIGTERM) -> None:
    """Have a process end by itself."""
    process.send_signal(with_signal)
    await wait_until(lambda: process.poll() is not None, "it has ended", LONG)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("shop"))
    migrated = project.manage("migrate", "--verbosity", "0")
    assert migrated.returncode == 0, migrated.stderr
    return project


@pytest.fixture(scope="module")
def worker(project: Project) -> Iterator[Path]:
    """A worker process for all tests of the module; its log."""
    with project.running("manage.py", "aiotq", "worker", "--concurrency", "4") as (_, log):
        yield log


@asynccontextmanager
async def client_of(log: Path) -> AsyncIterator[httpx.AsyncClient]:
    (address, *_) = await wait_until(lambda: re.findall(SERVES, log.read_text()), "it serves", LONG)
    async with httpx.AsyncClient(base_url=address, timeout=LONG) as client:
        await wait_until(lambda: answers(client), "it answers", LONG)
        yield client


async def answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/orders/0")).status_code == 404
    except httpx.TransportError:
        return False


async def order(client: httpx.AsyncClient, amount: int = 3) -> int:
    taken = await client.post("/orders", json={"customer": "ann", "amount": amount})
    assert taken.status_code == 201, taken.text
    return int(taken.json()["number"])


async def ship(client: httpx.AsyncClient, number: int) -> str:
    sent = await client.post(f"/orders/{number}/ship")
    assert sent.status_code == 202, sent.text
    return str(sent.json()["task"])


async def look(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(path)).raise_for_status().json()
    return found


async def expect_done(client: httpx.AsyncClient, number: int, task: str) -> None:
    """Wait for the receipt, which was sent once, and for the shipping."""

    async def done() -> bool:
        return await look(client, f"/orders/{number}") == {"customer": "ann", "receipts": 1, "is_shipped": True}

    async def known() -> bool:
        return await look(client, f"/tasks/{task}") == {"state": "SUCCESS", "value": number}

    await wait_until(done, "the tasks have run", LONG)
    await wait_until(known, "the result is stored", LONG)


@pytest.mark.parametrize(
    "server",
    [
        pytest.param((*GUNICORN, "--preload", "--workers", "2"), id="gunicorn, sync, loaded before the fork"),
        pytest.param((*GUNICORN, "--worker-class", "gthread", "--threads", "4"), id="gunicorn, threads"),
        pytest.param((*UVICORN, "--workers", "2"), id="uvicorn, two processes"),
    ],
)
async def test_views_send_tasks_under(server: Sequence[str], project: Project, worker: Path) -> None:
    with project.running(*server) as (process, log):
        async with client_of(log) as client:
            for _ in range(3):  # so that both of two processes are asked
                number = await order(client)
                await expect_done(client, number, await ship(client, number))

            refused = await client.post("/orders", json={"customer": "bob", "amount": 2000})
            assert refused.status_code == 422
        await stop(process)


async def test_runserver_loads_changed_code_again(project: Project, worker: Path) -> None:
    port = free_port()
    with project.running("manage.py", "runserver", str(port)) as (_, log):
        async with client_of(log) as client:
            number = await order(client)
            await expect_done(client, number, await ship(client, number))

            view = project.directory / "orders" / "views.py"
            view.write_text(view.read_text().replace('"number": order.pk', '"number": order.pk, "is_new": True'))

            async def is_new() -> bool:
                try:
                    taken = await client.post("/orders", json={"customer": "ann", "amount": 3})
                except httpx.TransportError:
                    return False
                return "is_new" in taken.json()

            await wait_until(is_new, "the new code serves", LONG)
            await ship(client, await order(client))


async def test_what_was_accepted_is_done_although_all_are_killed(project: Project, worker: Path) -> None:
    with project.running(*GUNICORN) as (process, log):
        async with client_of(log) as client:
            with project.running("manage.py", "aiotq", "worker") as (doomed, _):
                sent = [(number, await ship(client, number)) for number in [await order(client) for _ in range(20)]]
                kill(doomed)
            kill(process)

    with project.running(*UVICORN) as (process, log):
        async with client_of(log) as client:
            for number, task in sent:

                async def shipped(number: int = number) -> bool:
                    found = await look(client, f"/orders/{number}")
                    return bool(found["is_shipped"]) and found["receipts"] >= 1

                await wait_until(shipped, "it is done", LONG)
                assert (await look(client, f"/tasks/{task}"))["state"] in {"SUCCESS", "STARTED"}
        await stop(process)


def test_the_projects_own_tests_pass(project: Project) -> None:
    ran = project.manage("test", "--verbosity", "0")

    assert ran.returncode == 0, ran.stderr
    assert re.search(r"Ran 5 tests", ran.stderr), ran.stderr


def test_the_whole_command_line_is_there(project: Project) -> None:
    listed = project.manage("aiotq", "tasks", "--settings=shop.settings")

    assert listed.returncode == 0, listed.stderr
    assert "orders.tasks.send_receipt" in listed.stdout
    wrong = project.manage("aiotq", "nonsense")
    assert wrong.returncode == 2
    assert "nonsense" in wrong.stderr


def test_the_tables_are_those_of_the_models(project: Project) -> None:
    checked = project.manage("makemigrations", "--check", "--dry-run")

    assert checked.returncode == 0, checked.stdout + checked.stderr
