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
def running(directory: Path, *command: str) -> Iterator[None]:
    """A process in `directory`, which must end cleanly when it is told to."""
    log = directory / f"{command[0]}.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [*PYTHON, *command],
            cwd=directory,
            env={**os.environ, "AIOTQ_BROKER_URL": f"sqlite:///{directory}/aiotq.db"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        ) as process,
    ):
        try:
            yield
            process.send_signal(signal.SIGINT)
            assert process.wait(LONG) == 0
        finally:
            if process.poll() is None:
                process.kill()
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


@pytest.mark.parametrize("copied", ["flask_service"], indirect=True)
async def test_flask(copied: Path) -> None:
    """The task uses what Flask keeps for its application context, in a thread."""
    port = free_port()
    with (
        running(copied, "gunicorn", "flask_service:api", "--bind", f"127.0.0.1:{port}"),
        running(copied, "aiotq", "worker", "flask_service:tq"),
    ):
        assert await call(port, "/notes", {"text": "one"}) == 1
        assert await call(port, "/notes", {"text": "two"}) == 2


@pytest.mark.parametrize("copied", ["litestar_service"], indirect=True)
async def test_litestar(copied: Path) -> None:
    port = free_port()
    with (
        running(copied, "uvicorn", "litestar_service:api", "--port", str(port)),
        running(copied, "aiotq", "worker", "litestar_service:tq"),
    ):
        assert await call(port, "/add", {"x": 2, "y": 40}) == 42


@pytest.mark.parametrize("copied", ["aiohttp_service"], indirect=True)
async def test_aiohttp(copied: Path) -> None:
    port = free_port()
    with (
        running(copied, "aiohttp.web", "-H", "127.0.0.1", "-P", str(port), "aiohttp_service:create_app"),
        running(copied, "aiotq", "worker", "aiohttp_service:tq"),
    ):
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
