"""Tasks that child processes can import."""

from __future__ import annotations

import os
from pathlib import Path

from aiotq import shared_task


@shared_task(run="process", reject_on_worker_lost=True)
def die_until(path: str, times: int) -> int:
    """Kill the process `times` times, and return how often it was run."""
    with Path(path).open("a") as file:
        file.write("x")
    runs = len(Path(path).read_text())
    if runs <= times:
        os._exit(1)
    return runs
