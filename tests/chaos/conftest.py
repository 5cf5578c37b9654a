"""What a chaos test gets: processes to kill, and a way to count what became of their work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .backends import BACKENDS, USUAL, Backend
from .harness import Chaos


@pytest.fixture(params=USUAL)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """Where messages and results are kept; `ON_SQLITE` and the like choose one."""
    with BACKENDS[request.param](tmp_path) as backend:
        yield backend


@pytest.fixture
def chaos(tmp_path: Path, backend: Backend) -> Iterator[Chaos]:
    """Processes on one backend; what a test leaves running is ended, and the logs of a failed one are shown."""
    with Chaos(tmp_path, backend) as chaos:
        yield chaos
