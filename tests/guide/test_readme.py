"""The README's programs run as they are printed there."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

README: Final = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS: Final[list[str]] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PROGRAMS: Final = {code.partition("\n")[0].removeprefix("# "): code for code in BLOCKS}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with all programs of the README, in which this process can import them."""
    for name, code in PROGRAMS.items():
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in PROGRAMS:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.fixture
def worker(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The worker of the first program, started with the README's words."""
    (line,) = re.findall(r"^\$ aiotq (worker proj:app) &$", README, re.MULTILINE)
    with subprocess.Popen([sys.executable, "-m", "aiotq", *line.split()], cwd=directory) as process:
        yield process
        process.terminate()
        assert process.wait(timeout=30) == 0


def test_every_program_has_a_name_and_is_run_by_a_test_below() -> None:
    assert list(PROGRAMS) == ["proj.py", "service.py", "workflows.py", "more.py"]
    assert len(BLOCKS) == len(PROGRAMS)


@pytest.mark.usefixtures("worker")
def test_the_first_program_prints_4(directory: Path) -> None:
    (command,) = re.findall(r"^\$ python -c '(.*)'$", README, re.MULTILINE)

    printed = subprocess.run(
        [sys.executable, "-c", command], cwd=directory, capture_output=True, text=True, timeout=60, check=True
    )

    assert printed.stdout == "4\n"


def test_the_first_program_is_as_short_as_it_says() -> None:
    lines = [line for line in PROGRAMS["proj.py"].splitlines() if line.strip() and not line.startswith("#")]

    assert len(lines) <= 12


def test_the_readme_is_a_front_door() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.usefixtures("directory")
async def test_the_service_adds() -> None:
    service = importlib.import_module("service")

    transport = httpx.ASGITransport(app=service.api)
    async with (
        service.api.router.lifespan_context(service.api),
        service.tq.worker(),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        accepted = await client.post("/add", params={"x": 2, "y": 3})
        await service.tq.AsyncResult(accepted.json()["id"]).get(timeout=30)
        answer = await client.get(f"/results/{accepted.json()['id']}")

    assert accepted.status_code == 202
    assert answer.json() == {"state": "SUCCESS", "value": 5}


@pytest.mark.usefixtures("directory")
async def test_the_workflows_print_what_their_comments_say(capsys: pytest.CaptureFixture[str]) -> None:
    workflows = importlib.import_module("workflows")

    async with workflows.app, workflows.app.worker():
        await workflows.main()

    said = re.findall(r"(?:is|group:) (\[?\d[\d, ]*\]?)$", PROGRAMS["workflows.py"], re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == said == ["12", "[0, 2, 4]", "6"]


@pytest.mark.usefixtures("directory")
async def test_the_test_in_the_readme_passes() -> None:
    more = importlib.import_module("more")

    await more.test_a_call_runs_after_three_days()

    assert {more.fetch.name, more.send_mail.name, more.crunch.name} <= more.app.tasks.keys()
