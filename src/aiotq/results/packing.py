"""A record as bytes, for stores that keep one value an id; and several of them as one push."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgpack
import orjson

from ..states import READY_STATES
from .records import Record

#: What a push says of a record beside its id and value, about.
_OVERHEAD: Final = 16
#: A push packs strings as MessagePack did before it knew text: Redis's scripts pack it so too.
_PACK: Final = msgpack.Packer(use_bin_type=False, autoreset=True).pack


def pack_record(record: Record) -> bytes:
    """Return `record` without its id: 1 for a terminal state or 0, a line of JSON, the body."""
    head = orjson.dumps((record.state, record.content_type, record.expires, record.reply_to))
    return b"%b%b\n%b" % (b"1" if record.state in READY_STATES else b"0", head, record.body)


def unpack_record(task_id: str, packed: bytes) -> Record | None:
    """Return the record in what `pack_record` returned; None if it is none."""
    head, _, body = packed[1:].partition(b"\n")
    try:
        state, content_type, expires, reply_to = orjson.loads(head)
    except (orjson.JSONDecodeError, ValueError, TypeError):
        return None
    return Record(task_id, state, body, content_type, expires, reply_to)


def pack_pushed(records: Sequence[Record], limit: int) -> Iterator[bytes]:
    """Yield payloads of at most `limit` bytes: ids and records in turn; one that is too large is only named."""
    fields: list[Any] = []
    size = _OVERHEAD
    for record in records:
        named = len(record.id.encode()) + _OVERHEAD
        value = pack_record(record)
        if named + len(value) + _OVERHEAD > limit:
            value = b""
        if fields and size + named + len(value) > limit:
            yield _PACK(fields)
            fields, size = [], _OVERHEAD
        fields += (record.id, value)
        size += named + len(value)
    if fields:
        yield _PACK(fields)


def unpack_pushed(payload: bytes) -> tuple[list[Record], list[str]]:
    """Return the records in a push, and the ids of those that are to be read.

    Raises:
        ValueError: it is no push.
    """
    fields: list[bytes] = msgpack.unpackb(payload, raw=True, strict_map_key=False)
    records: list[Record] = []
    unread: list[str] = []
    for task_id, value in zip(fields[::2], fields[1::2], strict=True):
        record = unpack_record(task_id.decode(), value) if value else None
        if record is not None:
            records.append(record)
        else:
            unread.append(task_id.decode())
    return records, unread
