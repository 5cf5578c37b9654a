"""A test that hangs is reported by its name, the others run, and nothing that it started stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from ..waiting import wait_until

ROOT: Final = Path(__file__).parents[2]
#: Plugins that take a while to be imported.
UNUSED: Final = ("-p", "no:hypothesispytest", "-p", "no:anyio", "-p", "no:aiotq")
FILES: Final = {
    "pytest.ini": """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
timeout = 3
faulthandler_timeout = 6
faulthandler_exit_on_timeout = true
""",
    "conftest.py": """
from tests.watchdog import no_process_left, pytest_configure, pytest_runtest_teardown, pytest_sessionfinish
""",
    "test_hanging.py": """
import asyncio, contextlib, pathlib, subprocess, time
import pytest

async def test_that_refuses_to_be_cancelled():
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(600)

def test_that_passes():
    pass

@pytest.fixture
def hanging():
    program = subprocess.Popen(["sleep", "600"], start_new_session=True)
    pathlib.Path("pid").write_text(str(program.pid))
    yield
    time.sleep(600)

def test_whose_teardown_hangs(hanging):
    assert not "it fails, and from here on neither pytest nor pytest-timeout watches it"

def test_that_passes_too():
    pass
""",
}


async def test_each_is_reported_the_others_run_and_no_process_stays(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n2", "--dist=worksteal", *UNUSED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert run.returncode == 1, run.stdout
    for name in "test_that_refuses_to_be_cancelled", "test_whose_teardown_hangs":
        assert f"crashed while running 'test_hanging.py::{name}'" in run.stdout
    assert "in hanging" in run.stderr, "where it hangs is shown"
    assert " 2 passed in " in run.stdout.splitlines()[-1]
    await wait_until(lambda: not is_running((tmp_path / "pid").read_text()), "what a test started is gone")


def is_running(pid: str) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # nothing: it is dead
    except (FileNotFoundError, ProcessLookupError):
        return False
