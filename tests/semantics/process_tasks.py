"""Tasks that child processes can import."""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from aiotq import Reject, Task, shared_task

tenant: ContextVar[str | None] = ContextVar("tenant", default=None)


@shared_task(run="process", reject_on_worker_lost=True)
def die_until(path: str, times: int) -> int:
    """Kill the process `times` times, and return how often it was run."""
    with Path(path).open("a") as file:
        file.write("x")
    runs = len(Path(path).read_text())
    if runs <= times:
        os._exit(1)
    return runs


class HTTPError(Exception):
    """Made of a text and, by name, a response."""

    def __init__(self, text: str, *, response: object) -> None:
        super().__init__(text)
        self.response = response


class Locked(Exception):
    """Holds a lock."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()

    def __str__(self) -> str:
        return "locked"


@shared_task(run="process", bind=True)
def retry_with(self: Task[..., Any], kind: str) -> int:
    """Ask for a retry, once, because of an error that can't be pickled."""
    if self.request.retries:
        return self.request.retries
    error: Exception = HTTPError("no", response={"status": 500}) if kind == "made by name" else Locked("no")
    if kind == "in a group":
        raise ExceptionGroup("parts", [error, self.retry(exc=error, countdown=0, throw=False)])
    raise self.retry(exc=error, countdown=0)


@shared_task(run="process")
def reject_for_a_lock() -> None:
    """Reject the call for a reason that can't be pickled."""
    raise Reject(Locked("no"))


@shared_task(run="process", bind=True)
def retry_with_a_lock_as_argument(self: Task[..., Any]) -> None:
    """Ask for a retry that can't be had."""
    raise self.retry(args=(threading.Lock(),), countdown=0)


@shared_task(run="process")
def tenant_of(name: str | None = None) -> str | None:
    """Set the tenant, if one is named; return whose it was."""
    if name is not None:
        tenant.set(name)
    return tenant.get()


@shared_task(run="process")
async def tenant_of_coroutine(name: str | None = None) -> str | None:
    """As `tenant_of`."""
    if name is not None:
        tenant.set(name)
    return tenant.get()


@shared_task(run="process", bind=True)
def tell_of_uploads(self: Task[..., Any], count: int) -> int:
    """Tell an event of each, and return the number of this process."""
    for number in range(count):
        self.send_event("upload-stored", number=number)
    return os.getpid()
