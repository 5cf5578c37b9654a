"""The README's programs run as they are printed there."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()


def program(name: str) -> str:
    """The program which the README calls `name`."""
    (found,) = [code for code in blocks("python") if code.startswith(f"# {name}\n")]
    return found


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("proj.py", "service.py"):
        (tmp_path / name).write_text(program(name))
    return tmp_path


@pytest.fixture
def worker(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The worker of the first program, started with the README's words."""
    (line,) = re.findall(r"^\$ aiotq (worker proj:app) &$", README, re.MULTILINE)
    with subprocess.Popen([sys.executable, "-m", "aiotq", *line.split()], cwd=directory) as process:
        yield process
        process.terminate()
        assert process.wait(timeout=30) == 0


@pytest.mark.usefixtures("worker")
def test_the_first_program_prints_4(directory: Path) -> None:
    (command,) = re.findall(r"^\$ python -c '(.*)'$", README, re.MULTILINE)

    printed = subprocess.run(
        [sys.executable, "-c", command], cwd=directory, capture_output=True, text=True, timeout=60, check=True
    )

    assert printed.stdout == "4\n"


def test_the_first_program_is_as_short_as_it_says() -> None:
    lines = [line for line in program("proj.py").splitlines() if line.strip() and not line.startswith("#")]

    assert len(lines) <= 12


async def test_the_service_adds(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.chdir(directory)
    service = importlib.import_module("service")

    transport = httpx.ASGITransport(app=service.api)
    async with (
        service.api.router.lifespan_context(service.api),
        service.tq.worker(),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        accepted = await client.post("/add", json={"x": 2, "y": 3})
        await service.tq.AsyncResult(accepted.json()["id"]).get(timeout=30)
        answer = await client.get(f"/results/{accepted.json()['id']}")

    assert accepted.status_code == 202
    assert answer.json() == {"state": "SUCCESS", "value": 5}


@pytest.mark.parametrize("code", blocks("python"))
def test_every_python_block_can_be_read(code: str) -> None:
    assert compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
