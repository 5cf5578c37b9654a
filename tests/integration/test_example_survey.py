"""`make demo` as a person runs it: the client in a process, the worker in another, one SQLite file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.waiting import wait_until

DEMO: Final = Path(__file__).parents[2] / "examples" / "stdlib_survey" / "demo.py"
#: A survey of a few modules takes a second or two; a loaded machine may take much longer.
LONG: Final = 60.0


class Demo:
    """A demo that runs, and what it has printed."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def printed(self) -> str:
        return self._output.read_text(encoding="utf-8")

    async def exit_code(self) -> int:
        """Wait for the demo's end."""
        await wait_until(lambda: self.process.poll() is not None, "the demo has ended", LONG)
        return self.process.returncode

    async def prints(self, text: str) -> None:
        """Wait until `text` stands in the output."""
        await wait_until(
            lambda: text in self.printed or self.process.poll() is not None, f"the demo prints {text!r}", LONG
        )
        assert text in self.printed

    def workers(self) -> list[int]:
        """Return the processes of the workers it has started."""
        return [int(pid) for pid in re.findall(r"process (\d+)", self.printed)]


Run = Callable[..., AbstractAsyncContextManager[Demo]]


@pytest.fixture
def demo(tmp_path: Path) -> Run:
    """Start the demo with some arguments; what it leaves running is ended."""

    @asynccontextmanager
    async def run(*arguments: str | Path, **settings: str) -> AsyncIterator[Demo]:
        output = tmp_path / "output.txt"
        environment = {**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        with (
            output.open("wb") as out,
            subprocess.Popen(
                [sys.executable, DEMO, *arguments],
                env={**environment, **settings},
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            ) as process,
        ):
            running = Demo(process, output)
            try:
                yield running
            finally:
                if process.poll() is None:
                    process.terminate()  # it ends its worker
                    await wait_until(lambda: process.poll() is not None, "the demo has ended", LONG)
                print(running.printed)  # pytest shows it when the test fails

    return run


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_the_demo_surveys_real_modules_and_stops_its_worker(demo: Run) -> None:
    async with demo("--limit", "15") as survey:
        assert await survey.exit_code() == 0

        assert "15 of 15 modules" in survey.printed
        assert "all 15" in survey.printed
        assert re.search(r"15 modules, 0 failed; 45 tasks in [\d.]+ s: [\d,]+ tasks a second", survey.printed)
        assert "Worker stopped cleanly" in survey.printed
        (worker,) = survey.workers()
        assert not is_running(worker)


async def test_files_that_cannot_be_read_are_findings_like_others(demo: Run, tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "package").mkdir(parents=True)
    (code / "package" / "__init__.py").write_text("class A:\n    def f(self):\n        pass\n")
    (code / "empty.py").write_text("")
    (code / "gone.py").symlink_to(code / "nowhere.py")
    (code / "latin.py").write_bytes(b"name = '\xe9'\n")
    (code / "null.py").write_bytes(b"a\0b\n")
    (code / "text.py").write_text("this is no Python\n")

    async with demo(code) as survey:
        assert await survey.exit_code() == 0

        assert "4 of 6 could not be surveyed" in survey.printed
        assert "gone: FileNotFoundError" in survey.printed
        assert "latin: " in survey.printed
        assert "text: SyntaxError: invalid syntax" in survey.printed
        assert re.search(r"│ package +│ +3 │ +1 │ +1 │", survey.printed)
        assert "6 modules, 4 failed" in survey.printed


async def test_a_killed_worker_is_replaced_and_nothing_is_lost(demo: Run) -> None:
    async with demo("--limit", "60", AIOTQ_WORKER_LEASE="2") as survey:
        await survey.prints("6 of 60 modules")
        os.kill(survey.workers()[0], signal.SIGKILL)

        assert await survey.exit_code() == 0

        assert "The worker was killed (SIGKILL); another one runs" in survey.printed
        assert "60 modules, 0 failed; 180 tasks" in survey.printed
        assert len(survey.workers()) == 2
        assert not any(is_running(pid) for pid in survey.workers())


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_demo_stops_its_worker(demo: Run, stop: signal.Signals) -> None:
    async with demo() as survey:
        await survey.prints("modules, the last was")
        survey.process.send_signal(stop)

        assert await survey.exit_code() == 130

        assert "Interrupted." in survey.printed
        assert not is_running(survey.workers()[0])


async def test_a_worker_that_cannot_start_ends_the_demo_with_its_log(demo: Run) -> None:
    async with demo("--limit", "5", AIOTQ_WORKER_GRACE="-1") as survey:
        assert await survey.exit_code() == 1

        assert "worker_grace" in survey.printed
        assert not any(is_running(pid) for pid in survey.workers())


async def test_the_demo_says_when_there_is_nothing_to_survey(demo: Run, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()

    async with demo(nothing) as survey:
        assert await survey.exit_code() == 1

        assert "There are no Python files in" in survey.printed


async def test_a_database_that_cannot_be_used_is_named(demo: Run, tmp_path: Path) -> None:
    database = tmp_path / "text.db"
    database.write_text("this is no database, and the demo must not overwrite it")

    async with demo("--limit", "5", "--database", database) as survey:
        assert await survey.exit_code() == 1

        assert "text.db" in survey.printed.splitlines()[-1]
        assert "Traceback" not in survey.printed
        assert not any(is_running(pid) for pid in survey.workers())
    assert database.read_text().startswith("this is no database")
