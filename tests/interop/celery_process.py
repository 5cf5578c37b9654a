"""The real Celery, in processes of its own: a client that is told what to do, and a worker."""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

HERE: Final = Path(__file__).parent
PYTHON: Final = HERE.parent.parent / ".venv-celery" / "bin" / "python"
#: The queue of Celery's worker; ours has Celery's default one, `celery`.
THEIRS: Final = "theirs"
#: Seconds that it may take to start, or to answer.
PATIENCE: Final = 30.0


class CeleryError(Exception):
    """What a Celery client raised; `.kind` is its type's name."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class _Process:
    """A process of Celery's on this broker and backend; a context manager."""

    def __init__(self, broker: str, backend: str, conf: Mapping[str, Any] | None = None) -> None:
        assert PYTHON.exists(), f"there is no Celery in {PYTHON.parent.parent}: `make test` installs it"
        self._environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("CELERY")},
            "BROKER": broker,
            "BACKEND": backend,
            "CONF": json.dumps(conf or {}),
            "PYTHONPATH": str(HERE),
        }
        self._process: subprocess.Popen[str] | None = None

    def _start(self, *arguments: str, stderr: int | None = None) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [str(PYTHON), *arguments],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            bufsize=1,
        )
        return self._process

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate(timeout=PATIENCE)

    def _line(self) -> str:
        """Return the next line that it writes; empty: it ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        assert ready, f"Celery did not answer within {PATIENCE:g} s"
        return self._process.stdout.readline()


class CeleryClient(_Process):
    """A client; what it can do is in `celery_program.COMMANDS`."""

    def __enter__(self) -> Self:
        self._start(str(HERE / "celery_program.py"))
        return self

    async def ask(self, command: str, *args: Any, **kwargs: Any) -> Any:
        """Have it do something, and return what comes of it.

        Raises:
            CeleryError: what it raised.
        """
        return await asyncio.to_thread(self._ask, command, args, kwargs)

    def _ask(self, command: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, args, kwargs]) + "\n")
        line = self._line()
        assert line, "Celery's client ended"
        kind, *rest = json.loads(line)
        if kind == "error":
            raise CeleryError(*rest)
        return rest[0]


class CeleryWorker(_Process):
    """A worker with one slot, on one queue; what it runs is in `celery_program`."""

    def __init__(self, broker: str, backend: str, conf: Mapping[str, Any] | None = None, *, queue: str) -> None:
        super().__init__(broker, backend, conf)
        self._queue = queue

    def __enter__(self) -> Self:
        self._start(
            *("-m", "celery", "-A", "celery_program", "worker", "--pool=solo", "--loglevel=INFO", "-Q", self._queue),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + PATIENCE
        said: list[str] = []
        while "ready." not in (line := self._line()):
            said.append(line)
            assert line, f"Celery's worker ended:\n{''.join(said)}"
            assert time.monotonic() < deadline, f"Celery's worker is not ready:\n{''.join(said)}"
        return self
