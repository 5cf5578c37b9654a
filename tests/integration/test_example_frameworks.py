"""The examples for Flask, Litestar, aiohttp, scripts and notebooks, as they are run: with a worker as a process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.servers import free_port
from tests.waiting import wait_until

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
#: A process starts in a second or two; a loaded machine may take much longer.
LONG: Final = 40.0
PYTHON: Final = (sys.executable, "-m")


@contextmanager
def running(directory: Path, *command: str, killed: bool = False) -> Iterator[None]:
    """A process in `directory`, which must end cleanly when it is told to, unless it is `killed`."""
    log = directory / f"{command[0]}.log"
    with (
        log.open("ab") as out,
        subprocess.Popen(
            [*PYTHON, *command],
            cwd=directory,
            env={**os.environ, "AIOTQ_BROKER_URL": f"sqlite:///{directory}/aiotq.db"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield
            if not killed:
                process.send_signal(signal.SIGINT)
                assert process.wait(LONG) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            print(log.read_text(errors="replace"))  # pytest shows it when the test fails


@pytest.fixture
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the example that the test is about."""
    name: str = request.param
    shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("*.db*", "__pycache__"))
    return tmp_path / name


async def call(port: int, path: str, body: dict[str, Any]) -> Any:
    """Have a service send a task; return the task's value."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=LONG) as client:

        async def accepted() -> str:
            try:
                sent = await client.post(path, json=body)
            except httpx.TransportError:
                return ""
            assert sent.status_code == 202, sent.text
            return str(sent.json()["id"])

        task = await wait_until(accepted, "the service serves", LONG)

        async def ended() -> dict[str, Any]:
            found: dict[str, Any] = (await client.get(f"/tasks/{task}")).raise_for_status().json()
            return found if found["state"] not in ("PENDING", "STARTED") else {}

        found = await wait_until(ended, "the task has ended", LONG)
        assert found["state"] == "SUCCESS"
        return found["value"]


SERVICES: Final = {
    "flask_service": ("flask_service:tq", "gunicorn", "flask_service:api", "--bind", "127.0.0.1:PORT"),
    "litestar_service": ("litestar_service:tq", "uvicorn", "litestar_service:api", "--port", "PORT"),
    "aiohttp_service": ("aiohttp_service:tq", "aiohttp.web", "-P", "PORT", "aiohttp_service:create_app"),
}


@pytest.mark.parametrize("copied", SERVICES, indirect=True)
async def test_a_service_and_its_worker_are_killed_and_start_again(copied: Path) -> None:
    app, *serve = SERVICES[copied.name]
    for time, killed in enumerate((True, False), 1):
        port = free_port()
        with (
            running(copied, *(word.replace("PORT", str(port)) for word in serve), killed=killed),
            running(copied, "aiotq", "worker", app, killed=killed),
        ):
            if copied.name == "flask_service":  # its task counts the notes, by a connection of Flask's context
                assert await call(port, "/notes", {"text": "another"}) == time
            else:
                assert await call(port, "/add", {"x": 2, "y": 40}) == 42


@pytest.mark.parametrize("copied", ["script"], indirect=True)
def test_a_script(copied: Path) -> None:
    with running(copied, "aiotq", "worker", "words:app"):
        ran = subprocess.run(
            [sys.executable, "words.py", "some", "words"],
            cwd=copied,
            env={**os.environ, "AIOTQ_BROKER_URL": f"sqlite:///{copied}/aiotq.db"},
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )

    assert (ran.stdout, ran.returncode) == ("9 9\n", 0), ran.stderr


@pytest.mark.parametrize("copied", ["notebook"], indirect=True)
def test_a_notebook(copied: Path) -> None:
    """Its cells are run by a real kernel."""
    ran = subprocess.run(
        [*PYTHON, "jupyter", "nbconvert", "--to", "markdown", "--execute", "--stdout", "tour.ipynb"],
        cwd=copied,
        env={**os.environ, "JUPYTER_RUNTIME_DIR": str(copied / "runtime"), "IPYTHONDIR": str(copied / "ipython")},
        capture_output=True,
        text=True,
        timeout=2 * LONG,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert re.findall(r"^    (\S.*)$", ran.stdout, re.MULTILINE)[-2:] == ["4", "[0, 2, 4, 6, 8]"], ran.stdout
