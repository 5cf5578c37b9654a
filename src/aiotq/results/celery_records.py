"""Celery's result document: what ours lacks, and what is named otherwise there.

Source: Celery, `celery.backends.base` (`_get_result_meta`, `prepare_exception`), `celery.result.result_from_tuple`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import orjson

from .. import exceptions, states
from .records import Record

#: The content type of a record whose body Celery reads as well; a Redis keeps it where Celery looks for it, too.
CELERYS: Final = "application/json; form=celery"
JSON: Final = "application/json"
#: Celery's key for the result of a task, and the channel on which it is told.
PREFIX: Final = "celery-task-meta-"

_OURS: Final = exceptions.__name__
_THEIRS: Final = "celery.exceptions"
_MODULES: Final = frozenset({_THEIRS, "billiard.exceptions", "billiard.einfo"})
#: Exceptions that both sides have under one name.
_COMMON: Final = frozenset(
    name
    for name in (
        "ChordError",
        "Ignore",
        "MaxRetriesExceededError",
        "NotRegistered",
        "Reject",
        "SoftTimeLimitExceeded",
        "TaskRevokedError",
        "TimeLimitExceeded",
        "WorkerLostError",
    )
    if hasattr(exceptions, name)
)


def key_of(task_id: str) -> str:
    """Return Celery's key for the result of a task."""
    return PREFIX + task_id


def completed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document of ours with all that a Celery client looks for in one."""
    whole: dict[str, Any] = {"traceback": None, "date_done": None, **document}
    if isinstance(stamps := document.get("stamps"), dict):
        whole |= {"stamped_headers": list(cast("dict[str, Any]", stamps)), **stamps, **whole}
    whole["children"] = [[[child, None], None] for child in cast("Sequence[str]", document.get("children", ()))]
    if whole["status"] in states.EXCEPTION_STATES and isinstance(whole["result"], dict):
        failure = cast("dict[str, Any]", whole["result"])
        if failure.get("exc_module") == _OURS and failure.get("exc_type") in _COMMON:
            whole["result"] = {**failure, "exc_module": _THEIRS}
    return whole


def module_of(module: str, name: str) -> str:
    """Return where we have the exception that a document names: Celery's own are ours."""
    return _OURS if module in _MODULES and name in _COMMON else module


def children_of(given: object) -> tuple[str, ...]:
    """Return the ids in a document's `children`; of a group, those of its members.

    Celery writes `[[id, parent], members]`, where members are the same for a group and None for a task.
    """
    found: list[str] = []
    for child in _list(given):
        match _list(child):
            case [task, None]:
                found += [each for each in (task, *_list(task)[:1]) if isinstance(each, str)]
            case [_, members]:
                found += children_of(members)
            case _:
                found += [child] if isinstance(child, str) else []
    return tuple(found)


def _list(given: object) -> list[object]:
    return cast("list[object]", given) if isinstance(given, list) else []


def record_of(task_id: str, value: bytes, expires: float) -> Record | None:
    """Return the record in a value under Celery's key; None if it is none."""
    try:
        found: object = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    state = cast("dict[str, Any]", found).get("status") if isinstance(found, dict) else None
    return Record(task_id, state, value, CELERYS, expires) if isinstance(state, str) else None
