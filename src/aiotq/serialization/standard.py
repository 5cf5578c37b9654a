"""The serializers every app has: JSON (orjson) and MessagePack.

Values that a format would change in silence (dates, dataclasses and other objects) are refused at the call, so that
what arrives is what was sent; tuples become lists, as in Celery, and enums and UUIDs become their values in JSON.
"""

from __future__ import annotations

import math
from typing import Any, Final, cast

import msgpack
import orjson

from .registry import Serializer, SerializerRegistry

#: What orjson would turn into strings or objects without telling.
_JSON_OPTIONS: Final = (
    orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
)
_PLAIN_TYPES: Final = frozenset({str, int, bool})


def _json_encode(value: Any) -> bytes:
    body = orjson.dumps(value, option=_JSON_OPTIONS)
    if b"null" in body and _has_odd_number(value):
        raise ValueError("NaN and infinities would become null")
    return body


def _has_odd_number(value: Any) -> bool:
    parts: list[Any] = [value]
    for part in parts:  # which grows meanwhile
        if part is None or type(part) in _PLAIN_TYPES:
            continue
        if isinstance(part, float):
            if not math.isfinite(part):
                return True
        elif isinstance(part, dict):
            parts.extend(cast("dict[str, Any]", part).values())
        elif isinstance(part, (list, tuple)):
            parts.extend(cast("list[Any]", part))
    return False


def _msgpack_encode(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def _msgpack_decode(body: bytes) -> Any:
    try:
        return msgpack.unpackb(body, raw=False, strict_map_key=False)
    except msgpack.exceptions.UnpackException as exc:  # its nesting error is not a ValueError
        raise ValueError(str(exc) or type(exc).__name__) from exc


JSON: Final = Serializer("json", "application/json", "utf-8", _json_encode, orjson.loads)
MSGPACK: Final = Serializer("msgpack", "application/x-msgpack", "binary", _msgpack_encode, _msgpack_decode)


def standard_registry() -> SerializerRegistry:
    """Return a registry with every serializer that needs no consent."""
    return SerializerRegistry([JSON, MSGPACK])
