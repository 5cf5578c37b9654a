"""The example of periodic tasks, as its readers run it: once, and twice at the same time."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

PROGRAM: Final = Path(__file__).parents[2] / "examples" / "periodic" / "watch.py"


def test_two_of_it_at_once_run_each_occurrence_once(tmp_path: Path) -> None:
    (tmp_path / "one file").touch()
    (tmp_path / "work").mkdir()
    command = [sys.executable, str(PROGRAM), str(tmp_path)]
    both = [
        subprocess.Popen(command, cwd=tmp_path / "work", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]

    said = [process.communicate(timeout=60) for process in both]

    assert [process.returncode for process in both] == [0, 0], said
    lines = [line for out, _ in said for line in out.splitlines()]
    runs = Counter(line.split()[0] for line in lines if f"1 files in {tmp_path}" in line)
    assert len(runs) >= 2
    assert set(runs.values()) == {1}
    assert sum("next report:" in line and "07:30 CE" in line for line in lines) == 2
