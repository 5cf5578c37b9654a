"""A record as a row of Celery's table, and back. What a Celery wrote has no columns of ours.

Source: Celery 5.7, `celery.backends.database` (`_update_result`, `_get_task_meta_for`): which columns are encoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

import orjson

from ...results.celery_records import CELERYS, JSON
from ...results.records import Record

#: Columns that have a value as the serializer encoded it: JSON, with `celery_compat`.
_ENCODED: Final = ("result", "children", "args", "kwargs")
#: Columns of text that is cut: people read them, nobody looks up by them.
_CUT: Final = {"name": 155, "worker": 155, "queue": 155}
#: Seconds that a row is told to last of which nobody said so: Celery's own clean-up deletes it.
_LASTS: Final = 86_400.0
#: The content type of what a Celery encoded otherwise: none that an app accepts.
_UNKNOWN: Final = "application/x-celery"


def row_of(record: Record, written: str) -> dict[str, Any]:
    """Return the columns of `record`, but the database's own. `written` names this write."""
    is_celerys = record.content_type == CELERYS
    document = _document(record.body) if is_celerys or record.content_type == JSON else {}
    stamps = document.get("stamps")
    row: dict[str, Any] = {
        "task_id": record.id,
        "status": record.state,
        "date_done": _date(document.get("date_done")),
        "traceback": _text(document.get("traceback")),
        "retries": document.get("retries") if isinstance(document.get("retries"), int) else None,
        **{name: (_text(document.get(name)) or "")[:most] or None for name, most in _CUT.items()},
        **dict.fromkeys((*_ENCODED, "stamps")),
        "aiotq_state": record.state,
        "aiotq_body": record.body,
        "aiotq_content_type": record.content_type,
        "aiotq_reply_to": record.reply_to,
        "aiotq_expires": record.expires,
        "aiotq_written": written,
    }
    if is_celerys:
        row |= {name: orjson.dumps(document[name]) for name in _ENCODED if document.get(name) is not None}
        row["result"] = orjson.dumps(document.get("result"))
        if isinstance(stamps, dict):
            headers = list(cast("dict[str, Any]", stamps))
            row["stamps"] = orjson.dumps({"stamped_headers": headers, "stamps": stamps})
    return row


def record_of(row: Mapping[str, Any], now: float) -> Record | None:
    """Return the record in a row; None if it has expired, or says nothing."""
    expires = row["aiotq_expires"]
    if _is_ours(row):
        if expires <= now:
            return None
        return Record(
            row["task_id"],
            row["status"],
            bytes(row["aiotq_body"]),
            row["aiotq_content_type"],
            expires,
            row["aiotq_reply_to"],
        )
    if row["status"] is None:
        return None
    expires = now + _LASTS
    try:
        body = orjson.dumps(_celerys_document(row))
    except (orjson.JSONDecodeError, TypeError, ValueError):  # pickle, or whatever else that Celery was told to use
        return Record(row["task_id"], row["status"], b"", _UNKNOWN, expires)
    return Record(row["task_id"], row["status"], body, CELERYS, expires)


def _is_ours(row: Mapping[str, Any]) -> bool:
    """Whether what we wrote stands: a Celery that writes over it leaves our columns alone."""
    if row["aiotq_body"] is None or row["aiotq_state"] != row["status"]:
        return False
    if row["aiotq_content_type"] != CELERYS:
        return True
    return bool(row["result"] == orjson.dumps(_document(bytes(row["aiotq_body"])).get("result")))


def _celerys_document(row: Mapping[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {"task_id": row["task_id"], "status": row["status"], "traceback": row["traceback"]}
    document |= {name: None if row[name] is None else orjson.loads(row[name]) for name in _ENCODED}
    document |= {name: row[name] for name in (*_CUT, "retries")}
    if row["date_done"] is not None:
        document["date_done"] = row["date_done"].replace(tzinfo=UTC).isoformat()
    if row["stamps"] is not None:
        document["stamps"] = orjson.loads(row["stamps"])["stamps"]
    return {name: given for name, given in document.items() if given is not None or name == "result"}


def _document(body: bytes) -> dict[str, Any]:
    try:
        found: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _date(given: object) -> datetime | None:
    """Return a time as Celery keeps it: without its zone, which is UTC."""
    try:
        return datetime.fromisoformat(str(given)).astimezone(UTC).replace(tzinfo=None)
    except ValueError:
        return None


def _text(given: object) -> str | None:
    return given.replace("\0", "") if isinstance(given, str) else None
