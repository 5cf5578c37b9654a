"""Without what only POSIX has the library is imported, and its memory, SQLite and client parts work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import aiotq


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is to be hidden here")
def test_it_works_without_what_only_posix_has(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(Path(aiotq.__file__).parents[1]), str(Path(__file__).parents[2])])
    words = [sys.executable, "-m", "tests.unit.elsewhere", str(tmp_path)]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": paths}
    )

    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:2] == ["memory [4, 6, 1]", "sqlite [4, 6, 1]"]
    # A call, a worker that runs it, a look; and two things that are not there.
    assert [line for line in said if line.split()[0] in ("call", "worker", "queues")] == [
        *("call 0", "worker 0", "queues 0"),
        *("worker 2", "worker 2"),
    ]
    assert "succeeded in" in done.stderr
    assert done.stderr.count("not on this system") == 2
    assert "Traceback" not in done.stderr
