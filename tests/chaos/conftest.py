"""What a chaos test gets: processes to kill, and a way to count what became of their work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import Chaos
from .places import PLACES, USUAL, Position


@pytest.fixture(params=USUAL)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Position]:
    """Where messages and results are kept; `ON_SQLITE` and the like choose one."""
    with PLACES[request.param](tmp_path) as place:
        yield place


@pytest.fixture
def chaos(tmp_path: Path, place: Position) -> Iterator[Chaos]:
    """Processes on one place; what a test leaves running is ended, and the logs of a failed one are shown."""
    with Chaos(tmp_path, place) as chaos:
        yield chaos
