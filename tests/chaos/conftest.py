"""What a chaos test gets: processes to kill, and a way to count what became of their work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import Chaos


@pytest.fixture
def chaos(tmp_path: Path) -> Iterator[Chaos]:
    """Processes on one SQLite file; what a test leaves running is ended, and the logs of a failed one are shown."""
    with Chaos(tmp_path) as chaos:
        yield chaos
