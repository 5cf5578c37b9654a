"""What is known of one row of `aiotq top`, as lines of text."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from ..calling.core import AppCore
from ..commands.output import value as as_text
from ..control.state import TaskState
from ..core.inside import core_of
from ..results.document import Update
from .cluster import Cluster
from .tables import Row, Table


async def details(cluster: Cluster, table: Table, row: Row) -> str:
    """Return all that is known of `row`: of a call what was told of it, and what is stored."""
    if table.is_of_calls:
        stored = await cluster.details(row.key)
        return "\n".join(_of_call(row.key, cluster.state.tasks.get(row.key), stored, core_of(cluster.app)))
    lines = [f"{column:<12}{cell}" for column, cell in zip(table.columns, row.cells, strict=True)]
    if table.name == "workers":
        lines += _stacks(cluster, row.key)
    if table.name == "schedules":
        lines += _of_schedule(cluster, row.key)
    return "\n".join(lines)


def _of_call(task_id: str, told: TaskState | None, stored: Update | None, core: AppCore) -> Iterable[str]:
    yield f"id          {task_id}"
    known = {} if told is None else told.as_dict()
    for name in ("name", "state", "worker", "args", "kwargs", "queue", "retries", "runtime", "result", "exception"):
        if known.get(name) is not None:
            yield f"{name:<12}{known[name]}"
    for name in ("sent", "received", "started", "succeeded", "failed", "retried", "revoked", "rejected"):
        if known.get(name) is not None:
            yield f"{name:<12}{datetime.fromtimestamp(known[name], UTC).isoformat(' ', 'milliseconds')}"
    for name in ("parent_id", "root_id", "eta", "expires"):
        if known.get(name) is not None:
            yield f"{name:<12}{known[name]}"
    if stored is not None:
        yield from ("", "stored")
        yield from _of_record(stored, core)
    traceback = None if stored is None else stored.traceback
    if traceback := traceback or known.get("traceback"):
        yield from ("", "traceback", str(traceback))


def _of_record(stored: Update, core: AppCore) -> Iterable[str]:
    yield f"{'state':<12}{stored.state}"
    about: dict[str, Any] = {"result": None if isinstance(stored.info, BaseException) else stored.info}
    if isinstance(stored.info, BaseException):
        about = {"exception": f"{type(stored.info).__name__}: {stored.info}"}
    if stored.args is not None:
        names = core.parameters_of(stored.name or "")
        about["arguments"] = core.arguments.call(stored.args, stored.kwargs or {}, names)
    about["children"] = stored.children or None
    for name, known in about.items():
        if known is not None:
            yield f"{name:<12}{known if isinstance(known, str) else as_text(known)}"
    if stored.date_done is not None:
        yield f"{'ended':<12}{stored.date_done.isoformat(' ', 'milliseconds')}"


def _stacks(cluster: Cluster, key: str) -> Iterable[str]:
    for each in cluster.workers:
        if each.key == key:
            yield f"{'tasks':<12}{', '.join(each.tasks)}"
            if each.blocked_stack:
                yield from ("", f"blocked by {each.blocked}", each.blocked_stack)


def _of_schedule(cluster: Cluster, name: str) -> Iterable[str]:
    for each in cluster.schedules:
        if each.name == name:
            for field, known in each.to_dict().items():
                if known not in (None, {}, []):
                    yield f"{field:<12} {known if isinstance(known, str) else as_text(known)}"
